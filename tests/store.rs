//! A store that an earlier version wrote, and the speed of a commit:
//! `cargo test --release --test store -- --ignored --nocapture speed`.
//!
//! Crashes, power losses and full disks are in tests/rigs/.

#[path = "common/inspections.rs"]
mod inspections;
#[path = "common/packed.rs"]
mod packed;

use flate2::write::GzEncoder;
use inspectd::domain::inspection::{HeatMap, Inspection, LearnedRef};
use inspectd::store::outbox::{Cause, Kind, MQTT, Owed};
use inspectd::store::{Store, StoreOptions};
use inspections::{id, inspection};
use packed::unpack;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A store of format 1: records in values and in files, pictures, owed and dead messages.
const FIXTURE: &str = "fixtures/store/format-1.gz";

/// Another one, with parts of several views and reviews.
const FIXTURE_WITH_REVIEWS: &str = "fixtures/store/format-1-owed.gz";

/// Inspections in each of them.
const RECORDS: u64 = 12;

/// Inspections that were judged by what was learned, after those.
const LEARNED: std::ops::RangeInclusive<u64> = RECORDS + 1..=RECORDS + 4;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).expect("the store opens")
}

/// Part `n` of the fixture; every fourth is too long for a value.
fn part(n: u64) -> Inspection {
    let mut part = inspection(n);
    if n.is_multiple_of(4) {
        part.findings = vec![part.findings[0].clone(); 60];
    }
    part
}

/// Part `n` as a bank has judged it, with its heat map.
fn learned(n: u64) -> Inspection {
    let bank = LearnedRef { prompt: "like-good-parts".into(), kind: "bank".into(), sha256: "12".repeat(32) };
    let heat = HeatMap { place_px: 16, cols: 3, rows: 2, values: vec![0, 17, 51, 136, 238, 255] };
    Inspection { learned: vec![bank], heat: Some(heat), ..part(n) }
}

fn picture(n: u64) -> Vec<u8> {
    format!("picture {n}").into_bytes()
}

/// All files under a folder: path, length, bytes, one after the other.
fn pack(dir: &Path, top: &Path, out: &mut impl std::io::Write) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).expect("it lists").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            pack(&path, top, out);
            continue;
        }
        let name = path.strip_prefix(top).expect("below the top").to_str().expect("text").to_owned();
        let bytes = std::fs::read(&path).expect("it reads");
        for field in [name.as_bytes(), &bytes] {
            out.write_all(&(field.len() as u64).to_le_bytes()).expect("it writes");
            out.write_all(field).expect("it writes");
        }
    }
}

/// Not run with the others: a fixture is written once, by the version whose store it is.
#[test]
#[ignore = "writes the fixture"]
fn write_the_fixture() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    for n in 1..=RECORDS {
        let image = store.put_image(&picture(n), "jpg").expect("it is stored");
        store.commit(&part(n), Some(image)).expect("it is stored");
    }
    store.ack(&[1, 2, 3, 5]).expect("it is taken");
    let outbox = store.outbox(MQTT);
    let place = outbox.place_of(Owed { kind: Kind::Result, seq: 4 }).expect("it reads").expect("it is owed");
    outbox.give_up(place, Cause::Size, "too long for the broker").expect("it is moved");
    drop(store);
    let mut packed = GzEncoder::new(vec![], flate2::Compression::best());
    pack(dir.path(), dir.path(), &mut packed);
    let bytes = packed.finish().expect("it packs");
    std::fs::create_dir_all("fixtures/store").expect("it is made");
    std::fs::File::create(FIXTURE).and_then(|mut f| f.write_all(&bytes)).expect("it is written");
    println!("{} bytes", bytes.len());
}

#[test]
fn a_store_of_format_1_opens_and_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    unpack(FIXTURE, dir.path());
    let store = open(dir.path());
    let found = store.verify().expect("it reads");
    assert_eq!((found.inspections, found.gaps, found.broken_at), (RECORDS, 0, None), "{:?}", found.reason);
    for n in 1..=RECORDS {
        let stored = store.get(n).expect("it reads").expect("it is there");
        assert_eq!(stored.inspection, part(n));
        let image = store.image_path(&stored.image.expect("it has one").image.sha256).expect("it is here");
        assert_eq!(std::fs::read(image).expect("it reads"), picture(n));
    }
    let page = store.outbox(MQTT).owed(Kind::Result, 0, 100).expect("it reads");
    let owed: Vec<u64> = page.entries.iter().map(|e| e.owed.seq).collect();
    assert_eq!(owed, [6, 7, 8, 9, 10, 11, 12]);
    let dead = store.dead_letters().expect("they read");
    assert_eq!((dead.len(), dead[0].owed.seq, dead[0].reason.as_str()), (1, 4, "too long for the broker"));
    assert_eq!(store.get_by_id(&id(7)).expect("it reads").expect("it is there").seq, 7);
    assert_eq!(store.commit(&inspection(RECORDS + 1), None).expect("it goes on").seq, RECORDS + 1);
    assert_eq!(store.verify().expect("it reads").broken_at, None);
}

/// The rows of a tree as they lie in a store that nobody has open, past the store's own code.
fn rows(dir: &Path, tree: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let began = Instant::now();
    let db = loop {
        match sled::Config::new().path(dir.join("ledger")).cache_capacity(4 << 20).open() {
            Ok(db) => break db,
            // A former handle of this process may still be closing.
            Err(error) if began.elapsed() > Duration::from_mins(1) => panic!("{tree}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let tree = db.open_tree(tree).expect("the tree opens");
    tree.iter().map(|row| row.expect("the row reads")).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

#[test]
fn records_with_what_was_learned_follow_those_of_an_old_store_whose_bytes_stay() {
    let (untouched, dir) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    unpack(FIXTURE_WITH_REVIEWS, untouched.path());
    unpack(FIXTURE_WITH_REVIEWS, dir.path());
    let [results, reviews] = ["results", "reviews"].map(|tree| rows(untouched.path(), tree));
    assert_eq!((results.len() as u64, reviews.is_empty()), (RECORDS, false));

    let store = open(dir.path());
    let read = |store: &Store, seq| store.get(seq).expect("it reads").expect("it is there").inspection;
    let old: Vec<Inspection> = (1..=RECORDS).map(|seq| read(&store, seq)).collect();
    assert!(old.iter().all(|part| part.learned.is_empty() && part.heat.is_none()));
    let owed = store.sinks().expect("they read").remove(0).owed;
    let letters = store.dead_letters().expect("they read");
    for n in LEARNED {
        assert_eq!(store.commit(&learned(n), None).expect("it is stored").seq, n);
    }
    drop(store);

    let store = open(dir.path());
    for (seq, part) in (1..).zip(&old) {
        assert_eq!(&read(&store, seq), part);
    }
    for n in LEARNED {
        assert_eq!(read(&store, n), learned(n));
    }
    let newest_first: Vec<u64> = store.newest_first().map(|stored| stored.expect("it reads").seq).collect();
    assert_eq!(newest_first, (1..=*LEARNED.end()).rev().collect::<Vec<_>>());
    let found = store.verify().expect("it reads");
    assert_eq!((found.inspections, found.gaps, found.broken_at), (*LEARNED.end(), 0, None));
    assert_eq!(store.verify_reviews().expect("it reads").broken_at, None);
    let more = LEARNED.count() as u64;
    assert_eq!(store.sinks().expect("they read").remove(0).owed, [owed[0] + more, owed[1], owed[2]]);
    assert_eq!(store.dead_letters().expect("they read"), letters);
    drop(store);
    let now = rows(dir.path(), "results");
    assert_eq!(now.len() as u64, *LEARNED.end());
    assert!(now.starts_with(&results), "the records of the old store are byte for byte as they were");
    assert_eq!(rows(dir.path(), "reviews"), reviews);
}

#[test]
fn verify_and_export_take_an_old_stores_records_and_newer_ones_together() {
    let (dir, top) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    unpack(FIXTURE_WITH_REVIEWS, dir.path());
    let store = open(dir.path());
    for n in LEARNED {
        store.commit(&learned(n), None).expect("it is stored");
    }
    drop(store);
    let inspectd = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        let out = command.args(args).arg("--store").arg(dir.path()).output().expect("the binary runs");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let found: serde_json::Value =
        serde_json::from_slice(&inspectd(&["verify", "--json"])).expect("one JSON object");
    assert_eq!((&found["inspections"], &found["gaps"]), (&(*LEARNED.end()).into(), &0.into()), "{found}");
    assert!(found["broken_at"].is_null() && found["reviews"]["broken_at"].is_null(), "{found}");
    let out = top.path().join("out");
    inspectd(&["export", "--all", "--format", "csv", "--out", &out.display().to_string()]);
    let csv = std::fs::read_to_string(out.join("inspections.csv")).expect("it is written");
    let numbers: BTreeSet<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let expected: Vec<String> = (1..=*LEARNED.end()).map(|seq| seq.to_string()).collect();
    assert_eq!(numbers, expected.iter().map(String::as_str).collect(), "{csv}");
}

#[test]
#[ignore = "a measurement, not a check"]
fn speed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for committers in [1u64, 4, 16] {
        let store = open(&dir.path().join(committers.to_string()));
        let each = 1600 / committers;
        let start = Instant::now();
        std::thread::scope(|scope| {
            for committer in 0..committers {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..each {
                        store.commit(&inspection(1_000_000 * committer + n), None).unwrap();
                    }
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let commits = committers * each;
        drop(store);
        let db = dir.path().join(format!("{committers}/ledger/db")).metadata().unwrap().len();
        println!(
            "{committers} committers: {:.0} commits/s, {:.2} ms each, {} bytes of database per commit",
            commits as f64 / seconds,
            seconds * 1000.0 * committers as f64 / commits as f64,
            db / commits
        );
    }
}
