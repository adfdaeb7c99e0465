//! A store that an earlier version wrote, and the speed of a commit:
//! `cargo test --release --test store -- --ignored --nocapture speed`.
//!
//! Crashes, power losses and full disks are in tests/rigs/.

#[path = "common/inspections.rs"]
mod inspections;
#[path = "common/packed.rs"]
mod packed;

use flate2::write::GzEncoder;
use inspectd::store::outbox::{Cause, Kind, MQTT, Owed};
use inspectd::store::{Store, StoreOptions};
use inspections::{id, inspection};
use packed::unpack;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// A store of format 1: records in values and in files, pictures, owed and dead messages.
const FIXTURE: &str = "fixtures/store/format-1.gz";

const RECORDS: u64 = 12;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).expect("the store opens")
}

/// Part `n` of the fixture; every fourth is too long for a value.
fn part(n: u64) -> inspectd::domain::inspection::Inspection {
    let mut part = inspection(n);
    if n.is_multiple_of(4) {
        part.findings = vec![part.findings[0].clone(); 60];
    }
    part
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
