//! The store under kill -9: what was acknowledged is there, and the chain is whole.
//!
//!     parent: starts this same test binary as a child --> child: commits, prints `acked SEQ ID`
//!     parent: kills it at a random moment, opens the store, compares
//!
//! And the speed of a commit: `cargo test --release --test store -- --ignored --nocapture speed`.

#[path = "common/inspections.rs"]
mod inspections;

use inspectd::store::{Store, StoreOptions};
use inspections::{id, inspection};
use rand::Rng as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the child: the directory of the store.
const CHILD: &str = "INSPECTD_TEST_STORE_CHILD";

/// Kills in this short form; the full counts run in the soak.
const KILLS: usize = 20;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).expect("the store opens after every kill")
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&dir));
    let mut n = store.newest_first().next().map_or(0, |s| s.expect("the newest record reads").seq);
    println!("open");
    loop {
        n += 1;
        let image = store
            .put_image(format!("picture {n}").repeat(500).as_bytes(), "jpg")
            .expect("an image is stored");
        let mut part = inspection(n);
        // Every third record is too long for a value and has a file beside it.
        if n.is_multiple_of(3) {
            part.findings = vec![part.findings[0].clone(); 60];
        }
        let committed = store.commit(&part, Some(image)).expect("a commit succeeds");
        println!("acked {} {}", committed.seq, part.id);
        if n.is_multiple_of(7) {
            store.ack(&[n - 6]).expect("an acknowledgement is taken");
        }
    }
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test binary has a path"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test binary runs again")
}

/// The number in a line `… acked SEQ ID`, when the whole line arrived.
fn acked(line: &str) -> Option<(u64, &str)> {
    let (seq, id) = line.split_once("acked ")?.1.split_once(' ')?;
    (id.len() == 26).then_some((seq.parse().ok()?, id))
}

#[test]
fn kill_minus_nine_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = rand::thread_rng();
    let mut highest = 0;
    let mut total_acked = 0;
    for kill in 0..KILLS {
        let mut child = start_child(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // Every fourth kill falls into the opening, the others into the commits.
        let mut heard = String::new();
        if kill % 4 == 0 {
            std::thread::sleep(Duration::from_millis(rng.gen_range(0..40)));
        } else {
            for _ in 0..rng.gen_range(2..40) {
                lines.read_line(&mut heard).unwrap();
            }
            std::thread::sleep(Duration::from_micros(rng.gen_range(0..5000)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts.
        lines.read_to_string(&mut heard).unwrap();

        let store = open(dir.path());
        for (seq, id) in heard.lines().filter_map(acked) {
            let stored =
                store.get(seq).unwrap().unwrap_or_else(|| panic!("kill {kill}: {seq} was acknowledged"));
            assert_eq!(stored.inspection.id, id);
            assert!(store.image_path(&stored.image.unwrap().image.sha256).is_some());
            assert!(seq > highest, "kill {kill}: {seq} was given twice");
            highest = seq;
            total_acked += 1;
        }
        let found = store.verify().unwrap();
        assert_eq!((found.gaps, found.broken_at), (0, None), "kill {kill}: {:?}", found.reason);
        assert!(found.inspections >= highest);
        highest = found.inspections;
        // A commit and its message are one: what is not acknowledged by the broker is owed.
        for n in 1..=found.inspections {
            assert_eq!(store.get(n).unwrap().unwrap().inspection.id, id(n));
        }
        let owed = store.outbox(0, usize::MAX).unwrap();
        assert_eq!(owed.last().map_or(0, |e| e.seq), owed.last().map_or(0, |_| found.inspections));
        assert!(owed.len() as u64 >= found.inspections - found.inspections / 7);
    }
    assert!(total_acked > 10 * KILLS, "only {total_acked} commits between the kills");
    println!("{KILLS} kills, {total_acked} acknowledged, {highest} stored, 0 lost, 0 refused opens");
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
