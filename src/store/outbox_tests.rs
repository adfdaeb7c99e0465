//! Tests of the outbox.

use super::age::Oldest;
use super::*;
use crate::domain::grade::Verdict;
use crate::domain::part::PartRef;
use crate::domain::review::{Decided, Decision};
use crate::store::StoreOptions;
use crate::store::tests::{open, sample};

const fn owed(kind: Kind, seq: u64) -> Owed {
    Owed { kind, seq }
}

fn seqs(store: &Store, kind: Kind) -> Vec<u64> {
    store.owed_now(kind)
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
    let before = store.outbox(MQTT).owed(Kind::Result, 0, 9).unwrap();
    let all = [owed(Kind::Result, 1), owed(Kind::Part, 2), owed(Kind::Review, 2)];
    for letter in all {
        store.bury(letter, Cause::Dropped, "every connection is dropped on it").unwrap();
    }
    assert_eq!(Kind::ALL.map(|kind| seqs(&store, kind)), [vec![2], vec![], vec![1]]);
    assert_eq!(store.outbox_len(), 1);
    drop(store);
    let store = open(dir.path());
    let dead = store.dead_letters().unwrap();
    assert_eq!(dead.iter().map(|letter| letter.owed).collect::<Vec<_>>(), all);
    assert!(
        dead.iter()
            .all(|letter| letter.cause == Cause::Dropped && letter.schema == letter.owed.kind.schema())
    );

    let mut told = store.outbox(MQTT).subscribe_retries().unwrap();
    let two = [all[0], owed(Kind::Review, 99)];
    assert_eq!(store.outbox(MQTT).retry(Some(&two)).unwrap(), 1, "one that is none is no error");
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    assert_eq!(store.retry_all().unwrap(), 2);
    assert!(told.has_changed().unwrap());
    drop(store);
    let store = open(dir.path());
    assert!(store.dead_letters().unwrap().is_empty());
    assert_eq!(
        store.outbox(MQTT).owed(Kind::Result, 0, 9).unwrap(),
        before,
        "in its place and with its schema"
    );
    assert_eq!(Kind::ALL.map(|kind| seqs(&store, kind)), [vec![1, 2], vec![2], vec![1, 2]]);
    assert_eq!(store.outbox_len(), 3);
}

#[test]
fn letters_go_with_what_they_are_about() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store);
    store.ack(&[1]).unwrap();
    for letter in [owed(Kind::Result, 2), owed(Kind::Part, 2), owed(Kind::Review, 1), owed(Kind::Review, 2)] {
        store.bury(letter, Cause::Invalid, "the broker calls it invalid").unwrap();
    }
    let later = SystemTime::now() + std::time::Duration::from_hours(100 * 365 * 24);
    assert_eq!(store.enforce_retention(later).unwrap().inspections, 2);
    assert_eq!(store.dead_letters().unwrap(), []);
}

fn with(dir: &std::path::Path, sinks: &[&str], entries_max: u64) -> Store {
    let sinks = sinks.iter().map(|name| (*name).to_owned()).collect();
    let options = StoreOptions { sinks, outbox_entries_max: entries_max, ..StoreOptions::default() };
    Store::open(dir, options).unwrap()
}

fn waits(store: &Store, sink: &str) -> Vec<u64> {
    let page = store.outbox(sink).owed(Kind::Result, 0, 99).unwrap();
    page.entries.iter().map(|entry| entry.owed.seq).collect()
}

fn state(store: &Store, name: &str) -> SinkState {
    store.sinks().unwrap().into_iter().find(|sink| sink.name == name).unwrap()
}

fn results(seqs: impl IntoIterator<Item = u64>) -> Vec<Owed> {
    seqs.into_iter().map(|seq| owed(Kind::Result, seq)).collect()
}

#[test]
fn each_sink_has_its_own_cursor_and_an_entry_goes_when_all_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = with(dir.path(), &["mqtt"], 100);
    (1..=2).for_each(|n| _ = store.commit(&sample(n), None).unwrap());
    drop(store);
    let store = with(dir.path(), &["mqtt", "erp"], 100);
    assert_eq!(
        (waits(&store, "mqtt"), waits(&store, "erp")),
        (vec![1, 2], vec![]),
        "a new one begins at the end"
    );
    (3..=5).for_each(|n| _ = store.commit(&sample(n), None).unwrap());
    store.ack(&[1, 2, 3, 5]).unwrap();
    assert_eq!((waits(&store, "mqtt"), waits(&store, "erp")), (vec![4], vec![3, 4, 5]));
    assert_eq!(store.outbox_len(), 3, "the one that is furthest behind counts");
    assert_eq!(store.trees.outbox.log.iter().count(), 3, "1 and 2 are nobody's");
    assert_eq!((state(&store, "mqtt").cursor, state(&store, "erp").cursor), (4, 3));
    drop(store);
    let store = with(dir.path(), &["mqtt", "erp"], 100);
    assert_eq!(
        (waits(&store, "mqtt"), waits(&store, "erp")),
        (vec![4], vec![3, 4, 5]),
        "over a restart, too"
    );
    store.outbox("erp").ack_owed(&results([3, 4])).unwrap();
    store.ack(&[4]).unwrap();
    assert_eq!((store.trees.outbox.log.iter().count(), store.outbox_len()), (1, 1));
    // Of one sink alone: given up, listed and tried again.
    store.outbox("erp").give_up(5, Cause::Invalid, "no").unwrap();
    assert_eq!(store.trees.outbox.log.iter().count(), 0);
    let letters = store.dead_letters().unwrap();
    assert_eq!((letters.len(), letters[0].sink.as_str(), letters[0].owed), (1, "erp", owed(Kind::Result, 5)));
    assert_eq!(store.outbox("mqtt").retry(None).unwrap(), 0);
    assert_eq!(store.retry_all().unwrap(), 1);
    assert_eq!((waits(&store, "mqtt"), waits(&store, "erp")), (vec![], vec![5]));
    assert!(matches!(store.outbox("plc").owed(Kind::Result, 0, 9), Err(StoreError::NoSink { .. })));
    // No place is given twice, also when nobody waits for anything.
    store.outbox("erp").ack(&[5]).unwrap();
    drop(store);
    let store = with(dir.path(), &["mqtt", "erp"], 100);
    store.commit(&sample(6), None).unwrap();
    assert_eq!(store.outbox("erp").place_of(owed(Kind::Result, 6)).unwrap(), Some(6));
}

#[test]
fn retention_waits_for_the_last_enabled_sink_and_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let later = || SystemTime::now() + std::time::Duration::from_hours(100 * 365 * 24);
    let store = with(dir.path(), &["mqtt", "erp"], 100);
    (1..=6).for_each(|n| _ = store.commit(&sample(n), None).unwrap());
    store.ack(&[1, 2, 3, 4, 5, 6]).unwrap();
    store.outbox("erp").ack_owed(&results([1, 3])).unwrap();
    let pruned = store.enforce_retention(later()).unwrap();
    assert_eq!((pruned.inspections, pruned.held_back), (1, true), "erp waits for the second");
    drop(store);
    // It is no longer enabled, or in no config: it keeps its place and holds nothing.
    let store = with(dir.path(), &["mqtt"], 100);
    assert_eq!((state(&store, "erp").enabled, store.outbox_len()), (false, 0));
    assert_eq!(store.enforce_retention(later()).unwrap().inspections, 5);
    assert_eq!((state(&store, "erp").missed, waits(&store, "erp")), (4, vec![]));
    (7..=8).for_each(|n| _ = store.commit(&sample(n), None).unwrap());
    drop(store);
    let store = with(dir.path(), &["mqtt", "erp"], 100);
    assert_eq!(
        (state(&store, "erp").missed, waits(&store, "erp")),
        (4, vec![7, 8]),
        "from then on it has all"
    );
    store.forget_missed("erp").unwrap();
    drop(store);
    assert_eq!(state(&with(dir.path(), &["mqtt", "erp"], 100), "erp").missed, 0);
}

#[test]
fn a_sink_that_is_not_enabled_stops_no_line_neither_then_nor_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    drop(with(dir.path(), &["mqtt", "erp"], 10));
    let store = with(dir.path(), &["mqtt"], 10);
    for n in 1..=30 {
        store.commit(&sample(n), None).unwrap();
        store.ack(&[n]).unwrap();
    }
    store.enforce_retention(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((state(&store, "erp").missed, waits(&store, "erp")), (25, (26..=30).collect()));
    drop(store);
    let store = with(dir.path(), &["mqtt", "erp"], 10);
    assert_eq!(store.outbox_len(), 5);
    store.commit(&sample(31), None).unwrap();
    // An enabled one does stop it.
    (32..=35).for_each(|n| _ = store.commit(&sample(n), None).unwrap());
    store.ack(&(31..=35).collect::<Vec<_>>()).unwrap();
    assert!(matches!(store.commit(&sample(36), None), Err(StoreError::OutboxFull { entries: 10 })));
}

#[test]
fn a_page_ends_where_the_log_does_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store);
    let outbox = store.outbox(MQTT);
    let all: Vec<Owed> = outbox.page(None, 0, 99, 99, 99).unwrap().entries.iter().map(|e| e.owed).collect();
    let order = [(Kind::Result, 1), (Kind::Review, 1), (Kind::Result, 2), (Kind::Part, 2), (Kind::Review, 2)];
    assert_eq!(all, order.map(|(kind, seq)| owed(kind, seq)), "one order");
    for scan in 1..7 {
        let (mut page, mut found, mut pages) = (Page::default(), vec![], 0);
        while !page.end {
            page = outbox.page(Some(Kind::Review), page.next, 5, 1, scan).unwrap();
            found.extend(page.entries.iter().map(|entry| entry.place));
            pages += 1;
            assert!(pages < 9, "it gets on");
        }
        assert_eq!(found, [2, 5], "{scan} at a time");
    }
}

#[test]
fn the_oldest_message_that_is_owed_tells_how_long_a_sink_has_waited() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let oldest = || store.outbox(MQTT).oldest().unwrap();
    assert_eq!(oldest(), Oldest::Nothing);
    filled(&store);
    assert_eq!(oldest(), Oldest::Since(sample(1).finished_at));
    store.ack(&[1]).unwrap();
    let decided = store.review_entry(1).unwrap().unwrap();
    assert_eq!(oldest(), Oldest::Since(decided.at));
    store.outbox(MQTT).ack_owed(&[owed(Kind::Review, 1)]).unwrap();
    assert_eq!(oldest(), Oldest::Since(sample(2).finished_at));
    // What cannot be read has waited for a time that nobody knows.
    let mut value = store.trees.results.get(key_of(2)).unwrap().unwrap().to_vec();
    value[20] ^= 1;
    store.trees.results.insert(key_of(2), value).unwrap();
    assert_eq!(oldest(), Oldest::Unknown);
}
