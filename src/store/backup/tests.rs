//! Tests of backups, restores and salvages.

use super::keep::{Keeper, Report, UNFINISHED};
use super::restore::restore;
use super::salvage::salvage;
use super::take::{BackupReceiver, TakeError};
use super::*;
use crate::domain::inspection::Inspection;
use crate::domain::part::PartRef;
use crate::domain::review::{Decided, Decision};
use crate::store::accounts::Account;
use crate::store::outbox::{Cause, Kind, MQTT, Owed};
use crate::store::record::Draft;
use crate::store::tests::{open, sample};
use crate::store::{Store, StoreOptions, ledger};
use std::time::{Duration, SystemTime};

fn picture(n: u64) -> Vec<u8> {
    format!("picture {n}").into_bytes()
}

/// Part `n`; every third is too long for a value.
fn part(n: u64) -> Inspection {
    let mut part = sample(n);
    if n.is_multiple_of(3) {
        part.findings = vec![part.findings[0].clone(); 60];
    }
    part
}

fn commit(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        let image = store.put_image(&picture(n), "jpg").unwrap();
        store.commit(&part(n), Some(image)).unwrap();
    }
}

fn decision(verdict: Decided) -> Decision {
    Decision { verdict, reason: "seen".into(), note: "ß".repeat(900), findings: None, texts: None }
}

/// Gives rows to a keeper, and does something at every batch.
struct Through<'a> {
    keeper: &'a mut Keeper,
    at_batch: &'a mut dyn FnMut(u64),
}

impl BackupReceiver for Through<'_> {
    fn rows(&mut self, rows: &[u8], done: u64, _total: u64) -> Result<(), StoreError> {
        (self.at_batch)(done);
        self.keeper.rows(rows).map_err(|_| StoreError::Cancelled)
    }
}

fn backup_while(
    store: &Store,
    store_dir: &Path,
    to: &Path,
    at_batch: &mut dyn FnMut(u64),
) -> Result<Report, TakeError> {
    let mut keeper = Keeper::open(to, store_dir).unwrap();
    let since = keeper.since().clone();
    let moment = store.take_backup(&since, &mut Through { keeper: &mut keeper, at_batch })?;
    Ok(keeper.finish(moment).unwrap())
}

fn backup(store: &Store, store_dir: &Path, to: &Path) -> Report {
    backup_while(store, store_dir, to, &mut |_| {}).unwrap()
}

/// Everything of a store that must survive.
fn told(store: &Store) -> String {
    let mut told = String::new();
    let mut say = |line: String| told.push_str(&(line + "\n"));
    let mut stored: Vec<_> = store.newest_first().map(Result::unwrap).collect();
    stored.reverse();
    for one in stored {
        let image = one.image.as_ref().and_then(|i| store.image_path(&i.image.sha256));
        say(format!("{one:?} {:?}", image.map(|p| std::fs::read(p).unwrap())));
        say(format!("{:?} {:?}", store.review_state(one.seq).unwrap(), store.reviews_of(one.seq).unwrap()));
        say(format!(
            "{:?} {:?}",
            store.part(one.seq).unwrap(),
            store.get_by_id(&one.inspection.id).unwrap().map(|s| s.seq)
        ));
    }
    for kind in Kind::ALL {
        say(format!("{:?}", store.outbox(MQTT).owed(kind, 0, 1000).unwrap()));
    }
    say(format!("{:?} {:?}", store.dead_letters().unwrap(), store.accepted().unwrap()));
    say(format!("{:?} {:?}", store.accounts().unwrap(), store.remembered::<u32>("commanded/cam1").unwrap()));
    told
}

/// A store with something of everything in it.
fn busy(dir: &Path) -> Store {
    let store = open(dir);
    commit(&store, 1..=7);
    store.review(&part(2).id, "anna", decision(Decided::Pass), None).unwrap();
    store.review(&part(2).id, "bert", decision(Decided::Fail), Some(1)).unwrap();
    store.undo_review(&part(2).id, "anna", "", Some(2)).unwrap();
    store.review(&part(3).id, "anna", decision(Decided::Fail), None).unwrap();
    store.ack(&[1, 2]).unwrap();
    store.bury(Owed { kind: Kind::Result, seq: 4 }, Cause::Invalid, "no").unwrap();
    store.remember("commanded/cam1", &7u32).unwrap();
    let account = Account {
        name: "anna".into(),
        role: "engineer".into(),
        password_hash: "x".into(),
        created_at: "2026-01-01T00:00:00.000Z".into(),
    };
    store.put_account(&account).unwrap();
    store
}

/// One view of a part with two cameras.
fn view(n: u64, of: &str, camera: &str) -> Inspection {
    let mut view = part(n);
    view.camera = camera.into();
    let cameras = vec!["top".into(), "side".into()];
    view.trigger.part = Some(Box::new(PartRef { id: of.into(), name: "housing".into(), cameras }));
    view
}

#[test]
fn what_was_restored_is_what_was_backed_up_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, new] = ["store", "backup", "new"].map(|name| dir.path().join(name));
    let store = busy(&from);
    let housing = sample(900).id;
    store.commit(&view(8, &housing, "top"), None).unwrap();
    let first = backup(&store, &from, &to);
    assert_eq!((first.inspections, first.reviews, first.through, first.reviews_through), (8, 4, 8, 4));
    // Seven pictures, two long records and no long decision.
    assert_eq!((first.files, first.flaws), (9, 0));
    // The second run holds what is new: the verdict about the part that was open, too.
    drop(store);
    let store = open(&from);
    assert_eq!(store.decide_interrupted_parts().unwrap(), 1);
    commit(&store, 9..=10);
    store.ack(&[3]).unwrap();
    store.review(&part(9).id, "anna", decision(Decided::Fail), None).unwrap();
    let second = backup(&store, &from, &to);
    assert_eq!((second.inspections, second.reviews, second.files, second.through), (2, 1, 3, 10));
    let third = backup(&store, &from, &to);
    assert_eq!((third.inspections, third.files, third.missed), (0, 0, None));
    let expected = told(&store);
    assert!(!to.join(UNFINISHED).exists());

    let restored = restore(&to, &new, &mut |_, _| {}).unwrap();
    assert_eq!((restored.inspections, restored.reviews, restored.first_seq), (10, 5, Some(1)));
    assert_eq!((restored.flaws, restored.broken.len(), restored.unfinished_run), (0, 0, false));
    let again = open(&new);
    assert_eq!(told(&again), expected);
    for found in [again.verify().unwrap(), again.verify_reviews().unwrap()] {
        assert_eq!((found.gaps, found.broken_at), (0, None), "{found:?}");
    }
    // It goes on, and what follows from the ledgers does, too: no id twice, no file lost.
    assert!(matches!(again.commit(&part(4), None), Err(StoreError::DuplicateId { seq: 4, .. })));
    commit(&again, [11]);
    again.review(&part(11).id, "anna", decision(Decided::Fail), None).unwrap();
    again.enforce_retention(SystemTime::now()).unwrap();
    assert_eq!(again.verify().unwrap().broken_at, None);
    drop(again);
    // A target that holds anything is refused.
    let refused = restore(&to, &new, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("not empty"), "{refused}");
}

#[test]
fn a_backup_keeps_what_retention_has_removed_and_says_what_it_never_held() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, new, late] = ["store", "backup", "new", "late"].map(|name| dir.path().join(name));
    let options = StoreOptions { max_bytes: 0, ..StoreOptions::default() };
    let store = Store::open(&from, options).unwrap();
    commit(&store, 1..=3);
    backup(&store, &from, &to);
    store.ack(&[1, 2, 3]).unwrap();
    assert_eq!(store.enforce_retention(SystemTime::now()).unwrap().inspections, 3);
    commit(&store, 4..=5);
    let second = backup(&store, &from, &to);
    assert_eq!((second.inspections, second.missed), (2, None));
    let restored = restore(&to, &new, &mut |_, _| {}).unwrap();
    assert_eq!((restored.inspections, restored.first_seq, restored.last_seq), (5, Some(1), 5));
    // Now two go before a run has held them.
    commit(&store, 6..=7);
    store.ack(&[4, 5, 6, 7]).unwrap();
    store.enforce_retention(SystemTime::now()).unwrap();
    commit(&store, 8..=9);
    let third = backup(&store, &from, &to);
    assert_eq!(third.missed, Some((6, 7)));
    let restored = restore(&to, &late, &mut |_, _| {}).unwrap();
    assert_eq!((restored.inspections, restored.first_seq, restored.left_out_through), (2, Some(8), Some(7)));
    assert_eq!(open(&late).verify().unwrap().broken_at, None);
}

#[test]
fn retention_waits_for_a_running_backup_and_only_for_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, new] = ["store", "backup", "new"].map(|name| dir.path().join(name));
    let store = Store::open(&from, StoreOptions { max_bytes: 0, ..StoreOptions::default() }).unwrap();
    commit(&store, 1..=4);
    store.review(&part(1).id, "anna", decision(Decided::Fail), None).unwrap();
    store.ack(&[1, 2, 3, 4]).unwrap();
    store.outbox(MQTT).ack_owed(&[Owed { kind: Kind::Review, seq: 1 }]).unwrap();
    let mut removed = Vec::new();
    let report = backup_while(&store, &from, &to, &mut |_| {
        removed.push(store.enforce_retention(SystemTime::now()).unwrap().inspections);
        assert!(matches!(store.take_backup(&Since::default(), &mut Nothing), Err(TakeError::Busy)));
    });
    // Decisions, then records, then verdicts, then what changes: only after the records they may go.
    assert_eq!((report.unwrap().inspections, removed), (4, vec![0, 0, 4, 0]));
    restore(&to, &new, &mut |_, _| {}).unwrap();
    let found = open(&new).verify_reviews().unwrap();
    assert_eq!((found.inspections, found.broken_at), (1, None));
}

struct Nothing;

impl BackupReceiver for Nothing {
    fn rows(&mut self, _: &[u8], _: u64, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Cancelled)
    }
}

#[test]
fn a_run_that_was_cut_off_is_no_backup_and_takes_nothing_from_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, new, half] = ["store", "backup", "new", "half"].map(|name| dir.path().join(name));
    let store = busy(&from);
    let cut = |at: u64| {
        let mut keeper = Keeper::open(&to, &from).unwrap();
        let since = keeper.since().clone();
        let mut left = at;
        let mut receiver = Cut { keeper: &mut keeper, left: &mut left };
        assert!(store.take_backup(&since, &mut receiver).is_err());
    };
    cut(1);
    assert!(to.join(UNFINISHED).exists());
    let refused = restore(&to, &new, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("never finished"), "{refused}");
    assert!(!new.exists(), "nothing is begun with it");
    backup(&store, &from, &to);
    commit(&store, 8..=9);
    cut(2);
    let restored = restore(&to, &new, &mut |_, _| {}).unwrap();
    assert_eq!((restored.last_seq, restored.unfinished_run), (7, true));
    assert_eq!(open(&new).verify().unwrap().broken_at, None);
    assert_eq!(backup(&store, &from, &to).through, 9);
    // Half a store is never taken for one.
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join(UNFINISHED), b"").unwrap();
    assert!(matches!(Store::open(&half, StoreOptions::default()), Err(StoreError::Unfinished { .. })));
    assert!(restore(&to, &half, &mut |_, _| {}).is_err());
}

struct Cut<'a> {
    keeper: &'a mut Keeper,
    left: &'a mut u64,
}

impl BackupReceiver for Cut<'_> {
    fn rows(&mut self, rows: &[u8], _: u64, _: u64) -> Result<(), StoreError> {
        self.keeper.rows(rows).unwrap();
        *self.left -= 1;
        if *self.left == 0 {
            return Err(StoreError::Cancelled);
        }
        Ok(())
    }
}

#[test]
fn two_stores_never_mix_and_a_damaged_backup_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, new, other] = ["store", "backup", "new", "other"].map(|name| dir.path().join(name));
    let store = busy(&from);
    backup(&store, &from, &to);
    let second = open(&other);
    commit(&second, 101..=108);
    let mixed = backup_while(&second, &other, &to, &mut |_| {}).unwrap_err();
    assert!(matches!(mixed, TakeError::Other { end: 7, .. }), "{mixed}");
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter"), b"mine").unwrap();
    assert!(Keeper::open(&foreign, &from).is_err());
    assert!(Keeper::open(&from.join("backup"), &from).is_err(), "it would be lost with the store");
    let rows = to.join("rows/000001.rows");
    let mut bytes = std::fs::read(&rows).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&rows, bytes).unwrap();
    let refused = restore(&to, &new, &mut |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("not those that were written") || refused.contains("rows"), "{refused}");
}

/// All files below a folder and their bytes.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_salvage_takes_what_can_be_read_and_says_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["store", "new"].map(|name| dir.path().join(name));
    let store = busy(&from);
    commit(&store, 8..=12);
    let record = store.trees.results.get(8u64.to_be_bytes()).unwrap().unwrap();
    let mut edited = record.to_vec();
    let last = edited.len() - 1;
    edited[last] ^= 1;
    // Three records are gone, one is no longer what it was, one picture is missing and one is another.
    for seq in [5u64, 6, 12] {
        store.trees.results.remove(seq.to_be_bytes()).unwrap();
    }
    store.trees.results.insert(8u64.to_be_bytes(), edited).unwrap();
    let image =
        |seq| store.image_path(&store.get(seq).unwrap().unwrap().image.unwrap().image.sha256).unwrap();
    std::fs::remove_file(image(9)).unwrap();
    std::fs::write(image(10), b"another one").unwrap();
    let refused = salvage(&from, &to, &mut |_, _, _| {}).unwrap_err();
    assert!(refused.to_string().contains("in use") && !to.exists(), "{refused}");
    drop(store);
    let before = snapshot(&from);
    let report = salvage(&from, &to, &mut |_, _, _| {}).unwrap();
    assert_eq!(snapshot(&from), before, "the damaged store is not touched");
    assert_eq!((report.inspections, report.reviews, report.last_seq), (8, 4, 12));
    assert_eq!(report.lost, [(5, 6), (8, 8), (12, 12)]);
    assert_eq!((report.lost_reviews.len(), report.flaws, report.orphans), (0, 2, 6), "{report:?}");
    assert!(!report.is_whole() && to.join(super::salvage::REPORT).exists());

    let new = open(&to);
    let found = new.verify().unwrap();
    assert_eq!((found.inspections, found.gaps, found.broken_at), (8, 4, None), "{:?}", found.reason);
    assert_eq!(new.salvaged().unwrap().unwrap().inspections, report.lost);
    assert_eq!(new.get(7).unwrap().unwrap().inspection, part(7));
    assert_eq!(new.owed_now(Kind::Result), [3, 7, 9, 10, 11], "of what is owed what is left");
    // No number is given twice, and new damage is still found.
    commit(&new, [13]);
    let found = new.verify().unwrap();
    assert_eq!((found.last_seq, found.gaps, found.broken_at), (Some(13), 4, None), "{:?}", found.reason);
    new.trees.results.remove(7u64.to_be_bytes()).unwrap();
    assert_eq!(new.verify().unwrap().broken_at, Some(5), "5 to 7 are more than what was noted");
}

#[test]
fn of_a_ledger_that_cannot_be_opened_the_files_are_kept_and_no_number_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["store", "new"].map(|name| dir.path().join(name));
    drop(busy(&from));
    for name in ["db", "conf"] {
        std::fs::write(from.join("ledger").join(name), vec![0xa5; 100_000]).unwrap();
    }
    assert!(Store::open(&from, StoreOptions::default()).is_err_and(|e| e.is_damage()));
    let before = snapshot(&from);
    let report = salvage(&from, &to, &mut |_, _, _| {}).unwrap();
    assert_eq!(snapshot(&from), before);
    assert_eq!((report.inspections, report.lost.clone(), report.last_seq), (0, vec![(1, 7)], 7));
    assert_eq!((report.lost_reviews, report.orphans), (vec![(1, 4)], 9));
    assert_eq!(snapshot(&to.join("quarantine")).len(), 9);
    let new = open(&to);
    commit(&new, [21]);
    let found = new.verify().unwrap();
    assert_eq!((found.first_seq, found.gaps, found.broken_at), (Some(8), 7, None), "{:?}", found.reason);
    new.enforce_retention(SystemTime::now() + Duration::from_secs(1)).unwrap();
}

#[test]
fn no_export_is_cut() {
    const RECORDS: u64 = 200_001;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut builder = super::build::Builder::create(&path).unwrap();
    let mut chain = super::build::Ledger::default();
    let mut short = sample(1);
    (short.texts, short.findings, short.answers) = (vec![], vec![], vec![]);
    for seq in 1..=RECORDS {
        short.id = sample(seq).id;
        let value = Draft::new(&short, None).unwrap().seal(seq, &chain.last_hash).unwrap();
        builder.record(seq, &value, &mut chain).unwrap();
    }
    builder.row("meta", crate::store::FORMAT_KEY, &crate::store::value::seal(1, b"")).unwrap();
    let none = ledger::Chain { first_seq: 1, ..super::build::Ledger::default().chain(0) };
    builder.finish(&chain.chain(0), &none).unwrap().accept().unwrap();
    let store = open(&path);
    let mut lines = Lines(0);
    let filter = crate::store::query::Filter::default();
    let summary =
        store.write_export(&filter, crate::store::export::write::Form::Csv, &[], &mut lines).unwrap();
    assert_eq!((summary.total, summary.written, lines.0), (RECORDS, RECORDS, RECORDS + 1), "and the head");
}

/// Counts lines.
struct Lines(u64);

impl crate::store::export::write::Sink for Lines {
    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        Ok(())
    }

    fn picture(&mut self, _: &str, _: &str, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
