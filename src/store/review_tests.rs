//! Tests of reviews.

use super::*;
use crate::domain::grade::Severity;
use crate::domain::rect::BoxPx;
use crate::domain::review::{OperatorBox, OperatorText};
use crate::store::outbox::{Kind, MQTT, Owed};
use crate::store::tests::{open, sample};

fn pass() -> Decision {
    Decision {
        verdict: Decided::Pass,
        reason: "false alarm".into(),
        note: String::new(),
        findings: None,
        texts: None,
    }
}

fn boxes(n: usize) -> Vec<OperatorBox> {
    let one = |i: usize| OperatorBox {
        label: "scratch".into(),
        severity: Severity::Minor,
        bbox_px: BoxPx::new(i as f32, 1.0, i as f32 + 10.5, 20.0),
    };
    (0..n).map(one).collect()
}

/// A store with `n` inspections; their ids.
fn filled(dir: &std::path::Path, n: u64) -> (Store, Vec<String>) {
    let store = open(dir);
    let ids = (1..=n).map(|i| {
        let part = sample(i);
        store.commit(&part, None).unwrap();
        part.id
    });
    let ids = ids.collect();
    (store, ids)
}

#[test]
fn decisions_supersede_and_undo_restores() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = filled(dir.path(), 2);
    let id = &ids[0];
    let model = store.get(1).unwrap().unwrap().inspection.verdict.as_str();
    let first = store.review(id, "anna", pass(), None).unwrap();
    let text = OperatorText { prompt: "nameplate".into(), line: 1, text: "SN1".into() };
    let second = Decision {
        verdict: Decided::Fail,
        reason: "seen again".into(),
        note: "crack, not scratch".into(),
        findings: Some(boxes(2)),
        texts: Some(vec![text]),
    };
    let second = store.review(id, "ben", second, Some(1)).unwrap();
    assert_eq!((second.seq, second.supersedes, second.model_verdict.as_str()), (2, Some(1), model));
    assert_eq!(store.effective_review(1).unwrap(), Some(second));
    let undo = store.undo_review(id, "ben", "", Some(2)).unwrap();
    assert_eq!((undo.kind, undo.supersedes, undo.restores), (ReviewKind::Undo, Some(2), Some(1)));
    assert_eq!((undo.verdict, store.effective_review(1).unwrap()), (Some(Decided::Pass), Some(first)));
    let undo = store.undo_review(id, "ben", "", Some(3)).unwrap();
    assert_eq!((undo.verdict, store.effective_review(1).unwrap()), (None, None));
    assert!(matches!(store.undo_review(id, "ben", "", Some(4)), Err(ReviewError::NothingToUndo { .. })));
    assert_eq!(store.reviews_of(1).unwrap().len(), 4, "nothing was deleted");
    assert_eq!(store.reviews_of(2).unwrap().len(), 0);
    drop(store);
    let store = open(dir.path());
    let found = store.verify_reviews().unwrap();
    assert_eq!((found.inspections, found.gaps, found.broken_at), (4, 0, None), "{:?}", found.reason);
    assert_eq!(*store.subscribe_reviews().borrow(), 4);
}

#[test]
fn an_outdated_view_is_refused_and_so_is_an_override_without_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = filled(dir.path(), 1);
    store.review(&ids[0], "anna", pass(), None).unwrap();
    let late = store.review(&ids[0], "ben", pass(), None);
    assert!(matches!(late, Err(ReviewError::Changed { last: 1, .. })), "{late:?}");
    let none = store.review("01ARZ3NDEKTSV4RRFFQ69G5FAV", "ben", pass(), None);
    assert!(matches!(none, Err(ReviewError::NoInspection { .. })), "{none:?}");
    let silent = Decision { reason: "  ".into(), ..pass() };
    assert!(matches!(store.review(&ids[0], "ben", silent, Some(1)), Err(ReviewError::Invalid { .. })));
    let mut inverted = boxes(1);
    inverted[0].bbox_px = BoxPx::new(9.0, 1.0, 2.0, 3.0);
    for findings in [boxes(FINDINGS_MAX + 1), inverted] {
        let bad = Decision { findings: Some(findings), ..pass() };
        assert!(matches!(store.review(&ids[0], "ben", bad, Some(1)), Err(ReviewError::Invalid { .. })));
    }
    assert_eq!(store.verify_reviews().unwrap().inspections, 1);
}

#[test]
fn many_boxes_move_into_a_file_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = filled(dir.path(), 1);
    let long = Decision { findings: Some(boxes(400)), note: "ß".repeat(NOTE_CHARS_MAX), ..pass() };
    let made = store.review(&ids[0], "anna", long, None).unwrap();
    drop(store);
    let store = open(dir.path());
    // The count of bytes removes files that nothing refers to; this one is referred to.
    store.enforce_retention(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(store.review_entry(1).unwrap(), Some(made));
    assert_eq!(store.verify_reviews().unwrap().broken_at, None);
}

#[test]
fn a_byte_changed_anywhere_is_found_and_the_first_broken_entry_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = filled(dir.path(), 3);
    for id in &ids {
        store.review(id, "anna", pass(), None).unwrap();
    }
    let tree = &store.trees.review.reviews;
    for seq in 1..=3 {
        let good = tree.get(key_of(seq)).unwrap().unwrap();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            tree.insert(key_of(seq), bad).unwrap();
            assert_eq!(store.verify_reviews().unwrap().broken_at, Some(seq), "byte {at} of entry {seq}");
        }
        // Even with its checksum made new.
        let edited = String::from_utf8_lossy(&good[value::HEADER_BYTES..]).replace("anna", "boss");
        tree.insert(key_of(seq), value::seal(1, edited.as_bytes())).unwrap();
        assert_eq!(store.verify_reviews().unwrap().broken_at, Some(if seq < 3 { seq + 1 } else { 3 }));
        tree.insert(key_of(seq), good).unwrap();
    }
    let second = tree.remove(key_of(2)).unwrap().unwrap();
    let found = store.verify_reviews().unwrap();
    assert_eq!((found.gaps, found.broken_at), (1, Some(2)));
    tree.insert(key_of(2), second).unwrap();
    // The record that a decision is about, exchanged.
    let record = store.trees.results.get(key_of(2)).unwrap().unwrap();
    store.trees.results.insert(key_of(3), record).unwrap();
    assert_eq!(store.verify_reviews().unwrap().broken_at, Some(3));
}

#[test]
fn messages_are_owed_until_acknowledged_and_retention_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = filled(dir.path(), 4);
    let many = store.review_many(&ids, "anna", &pass()).unwrap();
    assert_eq!(many.len(), 4);
    assert_eq!(store.review_many(&ids, "anna", &pass()).unwrap().len(), 0, "decided already");
    store.ack(&[1, 2, 3, 4]).unwrap();
    store.outbox(MQTT).ack_owed(&[Owed { kind: Kind::Review, seq: 1 }]).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.owed_now(Kind::Review), [2, 3, 4]);
    let later = SystemTime::now() + std::time::Duration::from_hours(400 * 24);
    assert_eq!(store.enforce_retention(later).unwrap().inspections, 4);
    let found = store.verify_reviews().unwrap();
    assert_eq!(
        (found.inspections, found.first_seq, found.broken_at),
        (3, Some(2), None),
        "{:?}",
        found.reason
    );
    for seq in 2..=4 {
        store.outbox(MQTT).ack_owed(&[Owed { kind: Kind::Review, seq }]).unwrap();
    }
    store.enforce_retention(later).unwrap();
    let found = store.verify_reviews().unwrap();
    assert_eq!((found.inspections, found.broken_at), (0, None));
    assert_eq!(store.review_state(2).unwrap(), None);
}
