//! Tests of what retention does about damaged values.

use super::*;
use crate::domain::review::{Decided, Decision};
use crate::store::StoreOptions;
use crate::store::export::write::{Form, Sink};
use crate::store::outbox::{Cause, Kind, MQTT, Owed};
use crate::store::query::Filter;
use crate::store::tests::{open, sample};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Later than any record is kept.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_hours(400 * 24)
}

/// A store with four delivered inspections, each with a picture of its own.
fn filled(dir: &Path) -> Store {
    let store = open(dir);
    for n in 1..=4 {
        let image = store.put_image(format!("picture {n}").as_bytes(), "png").unwrap();
        store.commit(&sample(n), Some(image)).unwrap();
    }
    store.ack(&[1, 2, 3, 4]).unwrap();
    store
}

/// Flips a bit of a value; what is there then.
fn damage(tree: &Tree, key: impl AsRef<[u8]> + Copy) -> Vec<u8> {
    let mut value = tree.get(key).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    tree.insert(key, value.clone()).unwrap();
    value
}

fn aside(dir: &Path, what: &str) -> Vec<u8> {
    fs::read(dir.join("quarantine").join(what)).unwrap()
}

#[test]
fn a_damaged_oldest_record_goes_when_it_is_due_with_all_that_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let picture = store.get(1).unwrap().unwrap().image.unwrap().image.sha256;
    let finished = store.get(4).unwrap().unwrap().inspection.finished_at;
    let bytes = damage(&store.trees.results, key_of(1));
    assert_eq!(
        store.enforce_retention(finished).unwrap().inspections,
        0,
        "nothing goes because it is damaged"
    );
    assert!(!store.is_oldest_before(finished).unwrap() && store.is_oldest_before(later()).unwrap());

    let pruned = store.enforce_retention(later()).unwrap();
    assert_eq!((pruned.inspections, pruned.unreadable, pruned.first_unreadable), (4, 1, Some(1)));
    assert_eq!((pruned.usage_bytes, pruned.held_back), (0, false));
    assert!(store.image_path(&picture).is_none());
    assert_eq!((store.trees.ids.iter().count(), store.trees.files.iter().count()), (0, 0));
    assert_eq!(aside(dir.path(), "record-1"), bytes);
    assert_eq!(store.commit(&sample(5), None).unwrap().seq, 5);
    assert_eq!(store.verify().unwrap().broken_at, None);
}

#[test]
fn the_chain_holds_behind_a_damaged_record_that_went_for_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let usage = filled(dir.path()).enforce_retention(SystemTime::UNIX_EPOCH).unwrap().usage_bytes;
    // Two of four must go.
    let options = StoreOptions { max_bytes: usage * 5 / 8, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    damage(&store.trees.results, key_of(2));
    let pruned = store.enforce_retention(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((pruned.inspections, pruned.first_unreadable), (2, Some(2)));
    let found = store.verify().unwrap();
    assert_eq!(
        (found.first_seq, found.inspections, found.broken_at),
        (Some(3), 2, None),
        "{:?}",
        found.reason
    );
}

#[test]
fn a_damaged_review_goes_with_its_inspection() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let decision = Decision {
        verdict: Decided::Pass,
        reason: "false alarm".into(),
        note: String::new(),
        findings: None,
        texts: None,
    };
    for n in 1..=3 {
        store.review(&sample(n).id, "anna", decision.clone(), None).unwrap();
        store.outbox(MQTT).ack_owed(&[Owed { kind: Kind::Review, seq: n }]).unwrap();
    }
    let bytes = damage(&store.trees.review.reviews, key_of(1));
    let of_the_third = damage(&store.trees.review.reviewed, key_of(3));
    let known: Vec<u64> = store.newest_review_states(10).unwrap().iter().map(|(seq, _)| *seq).collect();
    assert_eq!(known, [2, 1], "one that cannot be read hides no other: {of_the_third:?}");
    while store.index_older().unwrap() {}

    store.enforce_retention(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(store.trees.review.reviews.iter().count(), 3, "its inspection is kept");
    store.enforce_retention(later()).unwrap();
    let review = &store.trees.review;
    let left =
        [review.reviews.iter(), review.reviewed.iter(), review.by_inspection.iter()].map(Iterator::count);
    assert_eq!(left, [0, 0, 0]);
    assert_eq!(aside(dir.path(), "review-1"), bytes);
}

#[test]
fn a_damaged_dead_letter_stops_no_retention() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 1..=2 {
        store.commit(&sample(n), None).unwrap();
        store.bury(Owed { kind: Kind::Result, seq: n }, Cause::Size, "too large").unwrap();
    }
    let letters = &store.trees.outbox.letters;
    let (key, _) = letters.last().unwrap().unwrap();
    let bytes = damage(letters, &*key);
    store.enforce_retention(SystemTime::UNIX_EPOCH).unwrap();
    let dead: Vec<u64> = store.dead_letters().unwrap().iter().map(|letter| letter.owed.seq).collect();
    assert_eq!(dead, [1]);
    let kept: Vec<_> = fs::read_dir(dir.path().join("quarantine")).unwrap().collect();
    assert_eq!(fs::read(kept[0].as_ref().unwrap().path()).unwrap(), bytes);
}

/// The document of an export.
#[derive(Default)]
struct Document(String);

impl Sink for Document {
    fn text(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.push_str(std::str::from_utf8(bytes).unwrap());
        Ok(())
    }

    fn picture(&mut self, _: &str, _: &str, _: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_goes_on_past_a_damaged_record_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    // It was whole when it was listed.
    while store.index_older().unwrap() {}
    damage(&store.trees.results, key_of(2));
    let mut document = Document::default();
    let summary = store.write_export(&Filter::default(), Form::Csv, &[], &mut document).unwrap();
    assert_eq!((summary.total, summary.written, summary.damaged), (4, 3, 1));
    assert!(summary.named[0].0 == 2 && summary.named[0].2.contains("checksum"), "{:?}", summary.named);
    let lines: Vec<_> = document.0.lines().collect();
    let commas = |line: &str| line.matches(',').count();
    assert_eq!(lines.len(), 5, "the head, and one for each: {lines:?}");
    assert!(lines[3].starts_with("2,,") && lines[3].contains("cannot be read"), "newest first: {lines:?}");
    assert_eq!(commas(lines[3]), commas(lines[0]), "{lines:?}");
    let summary = store.write_export(&Filter::default(), Form::Coco, &[], &mut document).unwrap();
    assert_eq!(summary.damaged, 1);
}
