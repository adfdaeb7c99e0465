//! Bytes changed on the disk: `inspectd verify` finds every one that says anything.
//!
//! ```text
//! a store with inspections and decisions, closed
//!    '-> a copy, one byte of one of the database's files changed
//!          '-> inspectd verify --store COPY
//!                exit 1: found
//!                exit 0: every record and entry must still be there, word for word
//! ```
//!
//! The database's file also holds free space and outdated copies of its pages, so that not every byte
//! says something; those that hold a record or an entry are tried first.

use crate::inspections::{id, inspection};
use crate::soak;
use inspectd::domain::review::{Decided, Decision};
use inspectd::store::{Store, StoreOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHANGES: usize = 40;
const INSPECTIONS: u64 = 60;

/// The reason of a decision, by which its bytes are found in the file.
const REASON: &str = "seen-under-the-microscope";

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).expect("the store opens")
}

fn fill(dir: &Path) {
    let store = open(dir);
    for n in 1..=INSPECTIONS {
        store.commit(&inspection(n), None).expect("it commits");
        let decision = Decision {
            verdict: if n % 3 == 0 { Decided::Pass } else { Decided::Fail },
            reason: format!("{REASON} {n}"),
            note: String::new(),
            findings: None,
            texts: None,
        };
        if n % 2 == 0 {
            store.review(&id(n), "anna", decision, None).expect("it is taken");
        }
        if n % 10 == 0 {
            store.undo_review(&id(n), "ben", "a slip", Some(n / 2 + n / 10 - 1)).expect("it is taken back");
        }
    }
}

/// Everything that the two ledgers say.
fn told(dir: &Path) -> String {
    let store = open(dir);
    let mut text = String::new();
    for n in 1..=INSPECTIONS + 1 {
        text += &format!("{:?}\n", store.get(n).expect("it reads"));
        text += &format!("{:?}\n", store.reviews_of(n).expect("it reads"));
    }
    text
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it is made");
    for entry in std::fs::read_dir(from).expect("it lists") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("it is copied");
        }
    }
}

/// Where each byte to change lies: half of them in what a decision says, the others anywhere in the
/// database's files.
fn places(ledger: &Path, count: usize, rng: &mut ChaCha8Rng) -> Vec<(PathBuf, usize)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(ledger).expect("it lists").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.is_file());
    files.sort();
    let db = ledger.join("db");
    let bytes = std::fs::read(&db).expect("it reads");
    let reasons: Vec<usize> =
        (0..bytes.len() - REASON.len()).filter(|at| bytes[*at..].starts_with(REASON.as_bytes())).collect();
    assert!(reasons.len() as u64 >= INSPECTIONS / 2, "the file holds what was decided");
    let used = bytes.iter().rposition(|b| *b != 0).expect("it is not empty");
    (0..count)
        .map(|n| match n % 4 {
            0 | 1 => (db.clone(), reasons[rng.gen_range(0..reasons.len())] + rng.gen_range(0..REASON.len())),
            2 => (db.clone(), rng.gen_range(0..=used)),
            _ => {
                let file = files[rng.gen_range(0..files.len())].clone();
                let length = std::fs::metadata(&file).expect("it is there").len() as usize;
                (file, rng.gen_range(0..length.min(used)))
            }
        })
        .collect()
}

#[test]
fn ledger_bytes_changed_on_the_disk_are_found_by_verify() {
    let dir = tempfile::tempdir().expect("a folder");
    let sound = dir.path().join("sound");
    fill(&sound);
    let expected = told(&sound);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut found, mut dead) = (0, 0);
    for (file, at) in places(&sound.join("ledger"), soak::count(CHANGES, 2000), &mut rng) {
        let victim = dir.path().join("victim");
        copy(&sound, &victim);
        let changed = victim.join("ledger").join(file.file_name().expect("a name"));
        let mut bytes = std::fs::read(&changed).expect("it reads");
        bytes[at] ^= 1 << rng.gen_range(0..8);
        std::fs::write(&changed, bytes).expect("it is written");
        let verify = Command::new(env!("CARGO_BIN_EXE_inspectd"))
            .args(["verify", "--store"])
            .arg(&victim)
            .output()
            .expect("it starts");
        let said =
            String::from_utf8_lossy(&verify.stdout).into_owned() + &String::from_utf8_lossy(&verify.stderr);
        let place = format!("byte {at} of {}", changed.display());
        assert!(!said.contains("panicked"), "{place}: {said}");
        match verify.status.code() {
            Some(1) => found += 1,
            Some(0) => {
                dead += 1;
                assert!(told(&victim) == expected, "{place} is called whole and says something else: {said}");
            }
            code => panic!("{place}: {code:?} {said}"),
        }
        std::fs::remove_dir_all(&victim).expect("it is removed");
    }
    soak::report(&format!(
        "ledger: {} bytes changed, {found} found, {dead} say nothing, 0 missed",
        found + dead
    ));
    assert!(found > 0);
}
