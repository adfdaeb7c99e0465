//! Tests of the outbox.

use super::*;
use crate::domain::grade::Verdict;
use crate::domain::part::PartRef;
use crate::domain::review::{Decided, Decision};
use crate::store::tests::{open, sample};

const fn owed(kind: Kind, seq: u64) -> Owed {
    Owed { kind, seq }
}

fn seqs(store: &Store, kind: Kind) -> Vec<u64> {
    store.owed(kind, 0, 99).unwrap().iter().map(|entry| entry.seq).collect()
}

/// Inspections 1 and 2 are the views of a part, and a person has decided about both.
fn filled(store: &Store) {
    let cameras = vec!["top".to_owned(), "side".to_owned()];
    for n in 1..=2 {
        let mut view = sample(n);
        view.camera.clone_from(&cameras[n as usize - 1]);
        view.verdict = Verdict::Pass;
        let (id, name) = (ulid::Ulid::from_parts(7, 7).to_string(), "housing".into());
        view.trigger.part = Some(Box::new(PartRef { id, name, cameras: cameras.clone() }));
        store.commit(&view, None).unwrap();
        let decision = Decision {
            verdict: Decided::Fail,
            reason: "scratch".into(),
            note: String::new(),
            findings: None,
            texts: None,
        };
        store.review(&view.id, "anna", decision, None).unwrap();
    }
}

#[test]
fn what_was_given_up_of_any_kind_is_kept_and_is_owed_again_when_somebody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store);
    assert_eq!(Kind::ALL.map(|kind| seqs(&store, kind)), [vec![1, 2], vec![2], vec![1, 2]]);
    assert_eq!(store.outbox_len(), 3);
    let before = store.owed(Kind::Result, 0, 9).unwrap();
    let all = [owed(Kind::Result, 1), owed(Kind::Part, 2), owed(Kind::Review, 2)];
    for letter in all {
        store.dead_letter(letter, Cause::Dropped, "every connection is dropped on it").unwrap();
    }
    assert_eq!(Kind::ALL.map(|kind| seqs(&store, kind)), [vec![2], vec![], vec![1]]);
    assert_eq!(store.outbox_len(), 1);
    drop(store);
    let store = open(dir.path());
    let dead = store.dead_letters().unwrap();
    assert_eq!(dead.iter().map(|letter| letter.owed).collect::<Vec<_>>(), all);
    assert!(dead.iter().all(|letter| letter.cause == Cause::Dropped && letter.schema == 1));

    let mut told = store.subscribe_retries();
    assert_eq!(store.retry(&[all[0], owed(Kind::Review, 99)]).unwrap(), 1, "one that is none is no error");
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    assert_eq!(store.retry_all().unwrap(), 2);
    assert!(told.has_changed().unwrap());
    drop(store);
    let store = open(dir.path());
    assert!(store.dead_letters().unwrap().is_empty());
    assert_eq!(store.owed(Kind::Result, 0, 9).unwrap(), before, "in its place and with its schema");
    assert_eq!(Kind::ALL.map(|kind| seqs(&store, kind)), [vec![1, 2], vec![2], vec![1, 2]]);
    assert_eq!(store.outbox_len(), 3);
}

#[test]
fn letters_of_former_versions_are_read_and_their_cause_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let reasons = [
        ("2113 bytes, the limit is 334", Cause::Size),
        ("the broker calls it invalid", Cause::Invalid),
        ("every connection is dropped on it, and other results pass", Cause::Dropped),
        ("its record is missing", Cause::Unreadable),
    ];
    for (n, (reason, _)) in (1..).zip(reasons) {
        store.commit(&sample(n), None).unwrap();
        let body =
            format!(r#"{{"owes":"result","schema":1,"reason":"{reason}","at":"2026-01-01T00:00:00Z"}}"#);
        store.trees.dead.insert(key_of(n), value::seal(1, body.as_bytes())).unwrap();
        store.trees.outbox.remove(key_of(n)).unwrap();
    }
    let causes: Vec<Cause> = store.dead_letters().unwrap().iter().map(|letter| letter.cause).collect();
    assert_eq!(causes, reasons.map(|(_, cause)| cause));
    assert_eq!(store.retry_all().unwrap(), 4);
    assert_eq!(seqs(&store, Kind::Result), [1, 2, 3, 4]);
}

#[test]
fn letters_go_with_what_they_are_about() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store);
    store.ack(&[1]).unwrap();
    for letter in [owed(Kind::Result, 2), owed(Kind::Part, 2), owed(Kind::Review, 1), owed(Kind::Review, 2)] {
        store.dead_letter(letter, Cause::Invalid, "the broker calls it invalid").unwrap();
    }
    let later = SystemTime::now() + std::time::Duration::from_secs(100 * 365 * 24 * 3600);
    assert_eq!(store.enforce_retention(later).unwrap().inspections, 2);
    assert_eq!(store.dead_letters().unwrap(), []);
}
