//! Tests of finding.

use super::*;
use crate::domain::part::PartRef;
use crate::domain::review::Decision;
use crate::store::tests::{open, sample};

fn seqs(store: &Store, filter: &Filter) -> Vec<u64> {
    store.find(filter, None, 0, 100).unwrap().seqs
}

fn all() -> Filter {
    Filter::default()
}

#[test]
fn rows_are_found_by_everything_they_have_across_blocks_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let last = BLOCK + 40;
    for n in 1..=last {
        let mut part = sample(n);
        part.camera = format!("cam{}", n % 2);
        part.trigger.part_id = Some(format!("SN{n:05}"));
        part.verdict = if n % 3 == 0 { Verdict::Pass } else { part.verdict };
        part.findings.iter_mut().for_each(|f| f.label = if n % 5 == 0 { "pit" } else { "scratch" }.into());
        store.commit(&part, None).unwrap();
    }
    let (id, decided) = (sample(7).id, 7);
    let decision = Decision {
        verdict: Decided::Pass,
        reason: "r".into(),
        note: String::new(),
        findings: None,
        texts: None,
    };
    store.review(&id, "anna", decision, None).unwrap();
    let has_findings = !sample(1).findings.is_empty();
    drop(store);
    let store = open(dir.path());
    let newest = store.find(&all(), None, 0, 3).unwrap();
    assert_eq!(newest.seqs, [last, last - 1, last - 2], "the newest are found before the oldest are loaded");
    assert!(!newest.complete);
    while store.index_older().unwrap() {}
    let page = store.find(&all(), Some(last - 1), 2, 2).unwrap();
    assert_eq!((page.seqs, page.total, page.newer), (vec![last - 4, last - 5], last, 2));
    assert_eq!((page.next, page.complete), (Some(last - 5), true));
    let count = |filter: Filter| store.find(&filter, None, 0, 0).unwrap().total;
    assert_eq!(count(Filter { verdicts: vec![0], ..all() }), last / 3);
    assert_eq!(count(Filter { camera: Some("cam1".into()), ..all() }), last.div_ceil(2));
    assert_eq!(count(Filter { camera: Some("none".into()), ..all() }), 0);
    if has_findings {
        assert_eq!(count(Filter { label: Some("pit".into()), ..all() }), last / 5);
    }
    assert_eq!(seqs(&store, &Filter { part: Some("sn00009".into()), ..all() }), [9]);
    assert_eq!(seqs(&store, &Filter { reviewed: Some(true), ..all() }), [decided]);
    assert_eq!(seqs(&store, &Filter { decided: Some(Decided::Fail), ..all() }), [0; 0]);
    let at = unix_ms(sample(9).finished_at);
    let span = Filter { from_ms: Some(at), to_ms: Some(at), ..all() };
    let same = (1..=last).filter(|n| unix_ms(sample(*n).finished_at) == at).count();
    assert_eq!(seqs(&store, &span).len(), same);
    store.undo_review(&id, "anna", "", Some(1)).unwrap();
    assert_eq!(seqs(&store, &Filter { reviewed: Some(true), ..all() }), [0; 0], "an undo is seen at once");
    store.commit(&sample(last + 1), None).unwrap();
    assert_eq!(seqs(&store, &all())[0], last + 1, "a commit is seen at once");
    let facets = store.facets().unwrap();
    assert_eq!(facets.verdicts.iter().sum::<u64>(), last + 1);
}

/// After quiet days much is to be read: whoever commits, decides or asks goes on meanwhile.
#[test]
fn reading_what_is_new_holds_up_neither_commits_nor_decisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let last = 2 * BLOCK + 40;
    for n in 1..=last {
        let mut part = sample(n);
        part.trigger.part_id = Some(format!("SN{n:05}"));
        store.commit(&part, None).unwrap();
        if n == 3 {
            assert_eq!(seqs(&store, &all()), [3, 2, 1]);
        }
    }
    let mut reads = 0;
    while let Some(aside) = store.read_newer().unwrap() {
        reads += 1;
        assert!(aside.next - aside.from <= BLOCK, "a block at a time");
        // Between the look at the disk and the moment of taking in: with the lock held, none of these would end.
        assert!(store.index.try_write().is_ok());
        let decision = Decision {
            verdict: Decided::Fail,
            reason: "r".into(),
            note: String::new(),
            findings: None,
            texts: None,
        };
        store.review(&sample(aside.from + 1).id, "anna", decision, None).unwrap();
        if reads == 1 {
            let mut part = sample(last + 1);
            part.camera = "another".into();
            store.commit(&part, None).unwrap();
        }
        store.take_newer(aside).unwrap();
    }
    assert!(reads >= 3, "{reads}");
    while store.index_older().unwrap() {}
    let page = store.find(&all(), None, 0, 1).unwrap();
    assert_eq!((page.total, page.seqs, page.complete), (last + 1, vec![last + 1], true));
    assert_eq!(seqs(&store, &Filter { camera: Some("another".into()), ..all() }), [last + 1]);
    assert_eq!(
        seqs(&store, &Filter { part: Some("SN01025".into()), ..all() }),
        [1025],
        "texts are cut right"
    );
    let decided = store.find(&Filter { decided: Some(Decided::Fail), ..all() }, None, 0, 0).unwrap().total;
    assert_eq!(decided, reads, "what was decided meanwhile is seen");
}

#[test]
fn views_of_one_part_are_one_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let view = |n: u64, part: u64, camera: &str| {
        let mut view = sample(n);
        view.camera = camera.into();
        let cameras = vec!["top".to_owned(), "side".to_owned()];
        view.trigger.part = Some(Box::new(PartRef { id: sample(part).id, name: "housing".into(), cameras }));
        view
    };
    store.commit(&sample(1), None).unwrap();
    // Two parts whose views come in between each other.
    store.commit(&view(2, 102, "top"), None).unwrap();
    store.commit(&view(3, 103, "top"), None).unwrap();
    store.commit(&view(4, 102, "side"), None).unwrap();
    store.commit(&view(5, 103, "side"), None).unwrap();
    store.commit(&sample(6), None).unwrap();
    let one = || Filter { one_a_part: true, ..all() };
    assert_eq!(seqs(&store, &all()), [6, 5, 4, 3, 2, 1]);
    assert_eq!(seqs(&store, &one()), [6, 5, 4, 1]);
    assert_eq!(seqs(&store, &Filter { camera: Some("top".into()), ..one() }), [3, 2], "the newest that fits");
    // Pages go on behind the views that stood for their parts.
    let page = store.find(&one(), Some(6), 1, 1).unwrap();
    assert_eq!((page.seqs, page.total, page.newer), (vec![4], 4, 1));
    drop(store);
    let store = open(dir.path());
    assert_eq!(seqs(&store, &one()), [6, 5, 4, 1], "and so after a start");
}
