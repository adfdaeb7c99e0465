//! Tests of parts with several views.

use super::*;
use crate::domain::grade::{Reason, Verdict};
use crate::store::accepted::Accepted;
use crate::store::answered::Names;
use crate::store::outbox::{Kind, MQTT, Owed};
use crate::store::tests::{open, sample};

/// View `n` of a part, from the camera at this place of the part's list.
fn view(n: u64, part: u64, camera: usize, verdict: Verdict) -> Inspection {
    let cameras = vec!["top".to_owned(), "side".to_owned()];
    let id = ulid::Ulid::from_parts(1_800_000_000_000 + part, u128::from(part)).to_string();
    let mut view = sample(n);
    view.camera.clone_from(&cameras[camera]);
    (view.verdict, view.grade) = (verdict, Grade::Ok);
    view.trigger.part = Some(Box::new(PartRef { id, name: "housing".into(), cameras }));
    view
}

fn owed(store: &Store) -> Vec<u64> {
    store.owed_now(Kind::Part)
}

fn ack(store: &Store, seq: u64) {
    store.outbox(MQTT).ack_owed(&[Owed { kind: Kind::Part, seq }]).unwrap();
}

fn outcomes(part: &PartVerdict) -> Vec<Outcome> {
    part.views.iter().map(|v| v.outcome).collect()
}

#[test]
fn the_last_view_decides_and_the_verdict_is_owed_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut told = store.subscribe_parts();
    store.commit(&view(1, 1, 1, Verdict::Pass), None).unwrap();
    assert_eq!((owed(&store), store.outbox_len()), (vec![], 1));
    assert!(!told.has_changed().unwrap(), "one of two views decides nothing");
    store.commit(&sample(2), None).unwrap();
    let last = view(3, 1, 0, Verdict::Fail(Reason::Finding { label: "dent".into() }));
    let seq = store.commit(&last, None).unwrap().seq;
    assert_eq!((owed(&store), store.outbox_len()), (vec![seq], 4));
    assert_eq!(*told.borrow_and_update(), seq);
    let part = store.part(seq).unwrap().unwrap();
    assert_eq!((part.outcome, part.reason.as_deref()), (Outcome::Fail, Some("finding: dent")));
    assert_eq!(outcomes(&part), [Outcome::Fail, Outcome::Pass], "in the order of the config");
    assert_eq!(part.views[0].inspection_id.as_deref(), Some(last.id.as_str()));
    assert_eq!((part.part_id.as_deref(), part.correlation_id.as_deref()), (Some("P1"), Some("c1")));
    assert_eq!(store.get(seq).unwrap().unwrap().inspection, last, "the record says which part it is of");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.outbox_len(), 4);
    assert_eq!(store.decide_interrupted_parts().unwrap(), 0);
    assert_eq!(owed(&store), [seq]);
    for _ in 0..2 {
        ack(&store, seq);
        assert_eq!((owed(&store), store.outbox_len()), (vec![], 3));
    }
    assert_eq!(store.part(seq).unwrap(), Some(part), "the verdict itself stays");
}

#[test]
fn parts_side_by_side_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&view(1, 1, 0, Verdict::Pass), None).unwrap();
    store.commit(&view(2, 2, 0, Verdict::Review(Reason::QueueFull)), None).unwrap();
    store.commit(&view(3, 2, 1, Verdict::Pass), None).unwrap();
    store.commit(&view(4, 1, 1, Verdict::Pass), None).unwrap();
    let seqs = owed(&store);
    let found: Vec<_> = seqs.iter().map(|seq| store.part(*seq).unwrap().unwrap()).collect();
    assert_eq!(seqs, [3, 4]);
    assert_eq!((found[0].outcome, found[0].reason.as_deref()), (Outcome::Review, Some("queue_full")));
    assert_eq!((found[1].outcome, found[1].reason.as_deref()), (Outcome::Pass, None));
}

#[test]
fn a_view_finds_its_part_and_verify_compares_both() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let views = [view(1, 1, 0, Verdict::Pass), view(3, 1, 1, Verdict::Review(Reason::QueueFull))];
    let part = views[0].trigger.part.as_deref().unwrap();
    let first = store.commit(&views[0], None).unwrap().seq;
    let Some(PartState::Open(found)) = store.part_of_view(part, first).unwrap() else {
        panic!("one is awaited")
    };
    assert_eq!((found.len(), found[0].inspection_id.as_deref()), (1, Some(views[0].id.as_str())));
    assert_eq!(store.verify().unwrap().broken_at, None, "an open part is whole");
    // Another part is decided between the views of this one.
    store.commit(&view(4, 2, 0, Verdict::Pass), None).unwrap();
    store.commit(&view(5, 2, 1, Verdict::Pass), None).unwrap();
    let last = store.commit(&views[1], None).unwrap().seq;
    let verdict = store.part(last).unwrap().unwrap();
    for seq in [first, last] {
        assert_eq!(
            store.part_of_view(part, seq).unwrap(),
            Some(PartState::Decided(Box::new(verdict.clone())))
        );
    }
    assert_eq!(store.part_of_view(part, last + 1).unwrap(), None);
    assert_eq!(store.verify().unwrap().broken_at, None);

    // Somebody makes the part good.
    let decided = &store.trees.parts.decided;
    let mut state = PartV1::unseal(&decided.get(key_of(last)).unwrap().unwrap()).unwrap();
    (state.views[1].outcome, state.views[1].reason) = ("pass".into(), None);
    decided.insert(key_of(last), state.seal()).unwrap();
    let found = store.verify().unwrap();
    assert_eq!(found.broken_at, Some(last), "{found:?}");
    decided.remove(key_of(last)).unwrap();
    assert_eq!(store.verify().unwrap().broken_at, Some(first), "a verdict that is gone");
}

/// A crash between the views, as the next start sees it: no pass, whatever the view that is there says.
#[test]
fn an_unfinished_part_is_a_review_after_the_next_start() {
    for verdict in [Verdict::Pass, Verdict::Fail(Reason::Finding { label: "dent".into() })] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.commit(&sample(1), None).unwrap();
        let there = view(2, 1, 1, verdict.clone());
        let seq = store.commit(&there, None).unwrap().seq;
        drop(store);
        let store = open(dir.path());
        assert!(owed(&store).is_empty(), "only the daemon's start decides");
        assert_eq!(store.decide_interrupted_parts().unwrap(), 1);
        assert_eq!((owed(&store), store.outbox_len()), (vec![seq], 3));
        let part = store.part(seq).unwrap().unwrap();
        assert_eq!(outcomes(&part), [Outcome::Review, Outcome::from(&verdict)]);
        assert_eq!(
            (part.views[0].inspection_id.as_deref(), part.views[0].reason.as_deref()),
            (None, Some("interrupted"))
        );
        assert_eq!((part.views[0].grade, part.grade), (Grade::Reject, Grade::Reject), "nobody looked");
        assert_eq!(part.outcome, if verdict == Verdict::Pass { Outcome::Review } else { Outcome::Fail });
        assert_eq!(store.decide_interrupted_parts().unwrap(), 0, "once");
    }
}

#[test]
fn verdicts_go_with_their_inspections_but_never_before_they_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for part in 0..2 {
        store.commit(&view(2 * part + 1, part, 0, Verdict::Pass), None).unwrap();
        store.commit(&view(2 * part + 2, part, 1, Verdict::Pass), None).unwrap();
    }
    store.ack(&[1, 2, 3, 4]).unwrap();
    ack(&store, 2);
    let later = SystemTime::now() + std::time::Duration::from_hours(100 * 365 * 24);
    assert_eq!(store.enforce_retention(later).unwrap().inspections, 4);
    assert_eq!(store.part(2).unwrap(), None);
    assert_eq!(store.part(4).unwrap().map(|p| p.outcome), Some(Outcome::Pass), "it is still owed");
    ack(&store, 4);
    store.enforce_retention(later).unwrap();
    assert_eq!(store.part(4).unwrap(), None);
}

/// The longest that a config and a trigger allow still is an ordinary value.
#[test]
fn the_longest_part_fits_into_a_value() {
    let cameras: Vec<String> = (0..8).map(|i| format!("{i}{}", "c".repeat(63))).collect();
    let part = PartRef { id: sample(1).id, name: "n".repeat(64), cameras };
    let mut inspection = sample(2);
    let text = |c: char| Some(c.to_string().repeat(256));
    (inspection.trigger.part_id, inspection.trigger.lot) = (text('p'), text('l'));
    inspection.trigger.correlation_id = text('c');
    inspection.trigger.id = Some(sample(1).id);
    inspection.verdict = Verdict::Review(Reason::Engine { message: "ä".repeat(300) });
    let mut state = PartV1::new(&part, &inspection);
    for camera in &part.cameras {
        inspection.camera.clone_from(camera);
        state.views.push(ViewV1::from_domain(&inspection));
    }
    state.at = rfc3339(inspection.finished_at);
    assert!(state.seal().len() <= value::VALUE_BYTES_MAX, "{} bytes", state.seal().len());
    assert!(state.into_domain().unwrap().views.iter().all(|v| v.inspection_id.is_some()));
}

#[test]
fn old_verdicts_stay_readable() {
    const BODY: &str = include_str!("part_v1.json");
    let stored = PartV1::unseal(&value::seal(1, BODY.trim_end().as_bytes())).unwrap();
    let written = String::from_utf8(stored.seal()[value::HEADER_BYTES..].to_vec()).unwrap();
    assert_eq!(written, BODY.trim_end(), "another form needs another version");
    let part = stored.into_domain().unwrap();
    assert_eq!((part.outcome, part.reason.as_deref()), (Outcome::Review, Some("interrupted")));
    assert_eq!(part.views[0].grade, Grade::Cosmetic);
    // What is owed of it keeps its bytes, also where a view was missing.
    assert_eq!((part.views[1].grade, part.grade), (Grade::Ok, Grade::Cosmetic));
}

/// A full store at the start: the view that was interrupted is recorded later, and its part decided then, once.
#[test]
fn a_part_whose_view_is_still_owed_is_not_decided_before_it_and_not_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [mut first, mut second] =
        [view(1, 1, 0, Verdict::Pass), view(2, 1, 1, Verdict::Review(Reason::Interrupted))];
    let accepted = |view: &Inspection| Accepted {
        camera: view.camera.clone(),
        pipeline: "plate".into(),
        trigger: view.trigger.clone(),
        received: SystemTime::UNIX_EPOCH,
        origin: None,
    };
    let mut left = [accepted(&first), accepted(&second)];
    let flush = store.accept(&mut left, &Names::default()).unwrap();
    store.confirm(flush).unwrap();
    first.trigger.ticket = left[0].trigger.ticket;
    second.trigger.ticket = left[1].trigger.ticket;
    store.commit(&first, None).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.decide_interrupted_parts().unwrap(), 0, "its other view is owed");
    let seq = store.commit(&second, None).unwrap().seq;
    assert_eq!(owed(&store), [seq]);
    let part = store.part(seq).unwrap().unwrap();
    assert!(part.views.iter().all(|v| v.inspection_id.is_some()) && part.outcome == Outcome::Review);
    assert_eq!(store.decide_interrupted_parts().unwrap(), 0);
}
