//! The store as its callers see it; crash tests are in tests/store.rs.

use super::images::EXTENSIONS;
use super::outbox::{Cause, Kind, MQTT, Owed};
use super::record::Stored;
use super::*;
use crate::domain::finding::Finding;
use crate::domain::frame::Trigger;
use crate::domain::grade::{Grade, Reason, Severity, Verdict};
use crate::domain::inspection::{Latency, ModelRef, RawAnswer, TileCount};
use crate::domain::rect::BoxPx;
use crate::domain::text::{Mismatch, TextLine};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_hours(24);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + seconds * 1000)
}

/// An inspection with something in every field; `n` makes its id and times.
pub(crate) fn sample(n: u64) -> Inspection {
    Inspection {
        id: ulid::Ulid::from_parts(1_700_000_000_000 + n, u128::from(n)).to_string(),
        camera: "cam1".into(),
        trigger: Trigger {
            id: None,
            part_id: Some(format!("P{n}")),
            lot: Some("L7".into()),
            expected: [("serial".to_owned(), "SN0001-A1".to_owned())].into(),
            correlation_id: Some("c1".into()),
            meas_id: None,
            deadline: Some(Duration::from_secs(8)),
            part: None,
            ticket: None,
        },
        pipeline: "machined-plate".into(),
        pipeline_version: "0123456789ab".into(),
        model: ModelRef { name: "tiny".into(), text_sha256: "ab".repeat(32), mmproj_sha256: "cd".repeat(32) },
        prompt_hash: "ef".repeat(32),
        captured_at: at(n),
        finished_at: at(n) + Duration::from_millis(987),
        verdict: Verdict::Fail(Reason::Finding { label: "scratch".into() }),
        grade: Grade::Reject,
        findings: vec![Finding {
            label: "scratch".into(),
            severity: Severity::Major,
            bbox_px: BoxPx::new(10.0, 20.5, 300.25, 24.0),
            longest_mm: 14.5125,
            area_mm2: 2.5,
            confidence: 0.875,
            grade: Grade::Reject,
        }],
        texts: vec![TextLine {
            prompt: "nameplate".into(),
            line: 1,
            read: Some("SN0001-B1".into()),
            expected: Some("SN0001-A1".into()),
            matches: Some(false),
            mismatches: vec![Mismatch { at: 7, read: "B".into(), expected: "A".into() }],
            confidence: 0.5,
        }],
        tiles: TileCount { planned: 31, inspected: 31 },
        score: 0.9375,
        latency: Latency {
            queue_ms: 1.5,
            preprocess_ms: 20.0,
            vision_ms: 1000.25,
            prefill_ms: 200.0,
            decode_ms: 300.0,
            total_ms: 1521.75,
        },
        answers: vec![RawAnswer {
            prompt: "surface".into(),
            tile: 3,
            text: "[{\"label\":\"scratch\"}]".into(),
        }],
        learned: vec![],
        skipped: vec![],
        heat: None,
        replayed: false,
        origin: "seed 1".into(),
        clip: vec![],
    }
}

impl Store {
    /// Numbers of what the sink `mqtt` waits for.
    pub(super) fn owed_now(&self, kind: Kind) -> Vec<u64> {
        let page = self.outbox(MQTT).owed(kind, 0, usize::MAX).unwrap();
        page.entries.iter().map(|entry| entry.owed.seq).collect()
    }

    /// The sink `mqtt` gives up a message that it waits for.
    pub(super) fn bury(&self, owed: Owed, cause: Cause, reason: &str) -> Result<(), StoreError> {
        let outbox = self.outbox(MQTT);
        let place = outbox.place_of(owed)?;
        place.map_or(Ok(()), |place| outbox.give_up(place, cause, reason))
    }

    /// A round of retention at a time that nobody doubts, without a share.
    pub(super) fn enforce_retention(&self, now: SystemTime) -> Result<retention::Pruned, StoreError> {
        self.prune(Some(ageing::Age::all(now))).map(|(pruned, _)| pruned)
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = store.put_image(b"not really a jpeg", EXTENSIONS[0]).unwrap();
    let first = store.commit(&sample(1), Some(image.clone())).unwrap();
    let second = store.commit(&sample(2), None).unwrap();
    assert_eq!((first.seq, second.seq), (1, 2));
    drop(store);

    let store = open(dir.path());
    let stored = store.get(1).unwrap().unwrap();
    assert_eq!(stored.inspection, sample(1));
    let picture = stored.image.unwrap();
    assert_eq!(picture.image, image);
    assert_eq!(picture.url, format!("/images/{}", image.sha256));
    assert_eq!(store.get_by_id(&sample(2).id).unwrap().unwrap().seq, 2);
    assert_eq!(store.get_by_id(&sample(3).id).unwrap(), None);
    assert_eq!(store.get(3).unwrap(), None);
    let newest: Vec<u64> = store.newest_first().map(|s| s.unwrap().seq).collect();
    assert_eq!(newest, [2, 1]);
    assert_eq!(store.newest_before(2).map(|s| s.unwrap().seq).collect::<Vec<_>>(), [1]);
    assert_eq!(store.commit(&sample(3), None).unwrap().seq, 3);
    let verified = store.verify().unwrap();
    assert_eq!((verified.inspections, verified.first_seq, verified.last_seq), (3, Some(1), Some(3)));
    assert_eq!((verified.gaps, verified.broken_at), (0, None));
}

#[test]
fn long_records_move_into_files_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut talkative = sample(1);
    talkative.answers = (0..40)
        .map(|tile| RawAnswer {
            prompt: "surface".into(),
            tile,
            text: "[{\"bbox_2d\":[1,2,3,4]}]".repeat(10),
        })
        .collect();
    let mut crowded = sample(2);
    crowded.findings = vec![crowded.findings[0].clone(); 500];
    let mut wordy = sample(3);
    wordy.verdict = Verdict::Review(Reason::Engine { message: "x".repeat(10_000) });
    for inspection in [&talkative, &crowded, &wordy] {
        store.commit(inspection, None).unwrap();
    }
    for (seq, inspection) in [(1, &talkative), (2, &crowded), (3, &wordy)] {
        assert!(store.trees.results.get(key_of(seq)).unwrap().unwrap().len() <= value::VALUE_BYTES_MAX);
        assert_eq!(&store.get(seq).unwrap().unwrap().inspection, inspection);
    }
    assert_eq!(store.verify().unwrap().broken_at, None);

    // An edited part is an edited record.
    let overflow =
        record::decode(2, &store.trees.results.get(key_of(2)).unwrap().unwrap()).unwrap().overflow.unwrap();
    let path = dir.path().join(format!("parts/{}/{}.json", &overflow.sha256[..2], &overflow.sha256[2..]));
    let edited = fs::read_to_string(&path).unwrap().replacen("scratch", "stain", 1);
    fs::write(&path, edited).unwrap();
    assert_eq!(store.verify().unwrap().broken_at, Some(2));
    assert!(matches!(store.get(2), Err(StoreError::BadRecord { seq: 2, .. })));
}

#[test]
fn numbers_that_are_not_finite_are_kept_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut odd = sample(1);
    odd.score = f32::NAN;
    odd.findings[0].longest_mm = f64::INFINITY;
    odd.verdict = Verdict::Review(Reason::LowConfidence { what: "scratch".into(), confidence: f32::NAN });
    store.commit(&odd, None).unwrap();
    let back = store.get(1).unwrap().unwrap().inspection;
    assert!(back.score.is_nan() && back.findings[0].longest_mm.is_nan());
    assert!(
        matches!(back.verdict, Verdict::Review(Reason::LowConfidence { confidence, .. }) if confidence.is_nan())
    );
}

#[test]
fn every_reason_and_verdict_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let prompt = || "p".to_owned();
    let reasons = [
        Reason::Finding { label: "pit".into() },
        Reason::TextMismatch { prompt: prompt(), line: 1 },
        Reason::TextUncertain { prompt: prompt(), line: 2 },
        Reason::LowConfidence { what: "pit".into(), confidence: 0.25 },
        Reason::Deadline { late_ms: 12 },
        Reason::Unparsable { prompt: prompt(), tile: 3 },
        Reason::MissingTile { inspected: 1, planned: 2 },
        Reason::Engine { message: "NaN".into() },
        Reason::Frame { message: "roi".into() },
        Reason::QueueFull,
        Reason::Interrupted,
    ];
    let verdicts = reasons.into_iter().map(Verdict::Review).chain([Verdict::Pass]);
    for (seq, verdict) in (1..).zip(verdicts) {
        let inspection = Inspection { verdict, ..sample(seq) };
        assert_eq!(store.commit(&inspection, None).unwrap().seq, seq);
        assert_eq!(store.get(seq).unwrap().unwrap().inspection, inspection);
    }
}

#[test]
fn refusals_leave_the_store_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&sample(1), None).unwrap();
    assert!(matches!(store.commit(&sample(1), None), Err(StoreError::DuplicateId { seq: 1, .. })));
    let nameless = Inspection { id: "part 7".into(), ..sample(2) };
    assert!(matches!(store.commit(&nameless, None), Err(StoreError::InvalidId { .. })));
    let absent = ImageRef { sha256: "00".repeat(32), bytes: 1 };
    assert!(matches!(store.commit(&sample(2), Some(absent)), Err(StoreError::NoImage { .. })));
    assert!(matches!(Store::open(dir.path(), StoreOptions::default()), Err(StoreError::Locked { .. })));
    assert_eq!(store.commit(&sample(2), None).unwrap().seq, 2);
    assert_eq!(store.verify().unwrap().inspections, 2);
}

#[test]
fn verify_names_an_edited_a_missing_and_a_cut_off_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.verify().unwrap().head_hash, None);
    let hashes: Vec<String> = (1..=5).map(|n| store.commit(&sample(n), None).unwrap().hash).collect();
    let whole = store.verify().unwrap();
    assert_eq!((whole.head_hash.as_deref(), whole.broken_after), (Some(hashes[4].as_str()), None));
    let results = &store.trees.results;
    let three = results.get(key_of(3)).unwrap().unwrap();

    let mut flipped = three.to_vec();
    flipped[40] ^= 1;
    results.insert(key_of(3), flipped).unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.broken_at, found.broken_after, found.gaps), (Some(3), Some(2), 0));

    // An edit that mends the checksum is found by the next record's hash.
    let text = String::from_utf8(value::open(&three).unwrap().1.to_vec()).unwrap();
    let forged = text.replacen("scratch", "stain", 1);
    let forged = value::seal(1, forged.as_bytes());
    results.insert(key_of(3), forged.as_slice()).unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.broken_at, found.broken_after), (Some(4), Some(3)));
    let reason = found.reason.unwrap();
    assert!(reason.contains(&hashes[2]) && reason.contains(&hex(&sha256(&forged))), "{reason}");

    results.remove(key_of(3)).unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.broken_at, found.gaps, found.inspections), (Some(3), 1, 4));

    results.insert(key_of(3), three).unwrap();
    assert_eq!(store.verify().unwrap().broken_at, None);
    let five = results.remove(key_of(5)).unwrap().unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.broken_at, found.gaps), (Some(5), 1));

    let text = String::from_utf8(value::open(&five).unwrap().1.to_vec()).unwrap();
    results.insert(key_of(5), value::seal(1, text.replacen("scratch", "stain", 1).as_bytes())).unwrap();
    let found = store.verify().unwrap();
    assert_eq!(found.broken_at, Some(5), "the last record's hash is kept apart");
    assert!(found.broken_after == Some(4) && found.head_hash.as_ref() != Some(&hashes[4]), "{found:?}");
}

#[test]
fn a_half_written_snapshot_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&sample(1), None).unwrap();
    drop(store);
    let leftover = dir.path().join("ledger/snap.FFFFFFFFFFFFFFF0.generating");
    for _ in 0..2 {
        fs::write(&leftover, b"half a snapshot").unwrap();
        let store = open(dir.path());
        assert_eq!(store.verify().unwrap().inspections, 1);
        assert!(!leftover.exists());
    }
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 2, "moved, never deleted");
}

#[test]
fn the_outbox_gives_up_an_entry_only_on_ack_or_as_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 1..=4 {
        store.commit(&sample(n), None).unwrap();
    }
    let seqs = |store: &Store, from, limit| -> Vec<u64> {
        store
            .outbox(MQTT)
            .owed(Kind::Result, from, limit)
            .unwrap()
            .entries
            .iter()
            .map(|e| e.owed.seq)
            .collect()
    };
    assert_eq!(seqs(&store, 0, 10), [1, 2, 3, 4]);
    assert_eq!(seqs(&store, 2, 2), [2, 3]);
    store.ack(&[1, 3, 3, 99]).unwrap();
    store.bury(Owed { kind: Kind::Result, seq: 2 }, Cause::Size, "too large").unwrap();
    store.bury(Owed { kind: Kind::Result, seq: 2 }, Cause::Size, "too large").unwrap();
    assert_eq!((seqs(&store, 0, 10), store.outbox_len()), (vec![4], 1));
    drop(store);
    let store = open(dir.path());
    assert_eq!((seqs(&store, 0, 10), store.outbox_len()), (vec![4], 1));
    let dead = store.dead_letters().unwrap();
    assert_eq!((dead.len(), dead[0].owed.seq, dead[0].reason.as_str()), (1, 2, "too large"));
    assert_eq!(store.verify().unwrap().inspections, 4, "records stay");
}

#[test]
fn retention_removes_the_old_and_never_the_owed() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { retain_days: 1, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let shared = b"a picture of two parts";
    for n in 1..=6 {
        let image = store.put_image(if n < 3 { shared } else { b"another" }, "png").unwrap();
        store.commit(&sample(n), Some(image)).unwrap();
    }
    let picture = |seq| -> Stored { store.get(seq).unwrap().unwrap() };
    let first = picture(1).image.unwrap().image.sha256;
    let later = picture(3).image.unwrap().image.sha256;
    let now = at(6) + DAY * 2;
    assert!(store.enforce_retention(now).unwrap().held_back);
    assert_eq!(store.verify().unwrap().inspections, 6);

    store.ack(&[1, 4]).unwrap();
    let pruned = store.enforce_retention(now).unwrap();
    assert_eq!((pruned.inspections, pruned.held_back), (1, true));
    assert!(store.image_path(&first).is_some(), "record 2 still shows it");
    assert_eq!(store.get_by_id(&sample(1).id).unwrap(), None);

    store.ack(&[2, 3]).unwrap();
    assert_eq!(store.enforce_retention(now).unwrap().inspections, 3);
    assert!(store.image_path(&first).is_none());
    assert!(store.image_path(&later).is_some());
    let found = store.verify().unwrap();
    assert_eq!((found.inspections, found.first_seq, found.gaps, found.broken_at), (2, Some(5), 0, None));
    drop(store);

    let store = Store::open(dir.path(), options).unwrap();
    store.ack(&[5, 6]).unwrap();
    let pruned = store.enforce_retention(now).unwrap();
    assert_eq!((pruned.inspections, pruned.usage_bytes, pruned.held_back), (2, 0, false));
    assert_eq!(store.verify().unwrap().first_seq, None);
    assert_eq!(store.commit(&sample(7), None).unwrap().seq, 7, "numbers are never given twice");
    let found = store.verify().unwrap();
    assert_eq!((found.inspections, found.broken_at), (1, None));
}

#[test]
fn retention_by_size_keeps_the_newest_and_sweeps_orphans() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_bytes: 35_000, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let orphan = store.put_image(&[9; 5000], "jpg").unwrap();
    for n in 1..=10u8 {
        let image = store.put_image(&[n; 5000], "jpg").unwrap();
        store.commit(&sample(u64::from(n)), Some(image)).unwrap();
    }
    store.ack(&(1..=10).collect::<Vec<_>>()).unwrap();
    // Image 9 was put twice under one name and is pinned by the put that was never committed.
    assert!(store.image_path(&orphan.sha256).is_some());
    let pruned = store.enforce_retention(at(10)).unwrap();
    assert!(pruned.usage_bytes <= 35_000 && pruned.inspections >= 4, "{pruned:?}");
    assert_eq!(store.newest_first().next().unwrap().unwrap().seq, 10);
    assert_eq!(store.verify().unwrap().broken_at, None);
    let lonely = store.put_image(&[200; 5000], "jpg").unwrap();
    drop(store);
    let store = Store::open(dir.path(), options).unwrap();
    let before = store.enforce_retention(at(10)).unwrap();
    assert_eq!(before.inspections, 0);
    assert!(store.image_path(&lonely.sha256).is_none(), "no record refers to it");
    assert!(store.image_path(&orphan.sha256).is_some());
}

#[test]
fn many_committers_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let newest = store.subscribe();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..10 {
                    let committed = store.commit(&sample(1000 * thread + n), None).unwrap();
                    let owed = Owed { kind: Kind::Result, seq: committed.seq };
                    assert!(store.outbox(MQTT).place_of(owed).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(*newest.borrow(), 80);
    let found = store.verify().unwrap();
    assert_eq!((found.inspections, found.gaps, found.broken_at), (80, 0, None));
}

#[test]
fn after_a_failure_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&sample(1), None).unwrap();
    store.sync.fail("the disk said no");
    assert!(
        matches!(store.commit(&sample(2), None), Err(StoreError::Stopped { reason }) if reason.contains("said no"))
    );
    assert!(store.accepts().is_err());
    drop(store);
    assert_eq!(open(dir.path()).verify().unwrap().inspections, 1);
}

#[test]
fn the_times_of_a_clip_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clip = [500, 250].map(Duration::from_millis).to_vec();
    let part = Inspection { clip, ..sample(1) };
    let store = open(dir.path());
    store.commit(&part, None).unwrap();
    assert_eq!(store.get(1).unwrap().unwrap().inspection, part);
}

#[test]
fn the_trigger_that_a_part_answers_is_kept_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = sample(1);
    part.trigger.id = Some("01HF7YAT010000000000000T01".into());
    let store = open(dir.path());
    store.commit(&part, None).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.get(1).unwrap().unwrap().inspection, part);
    assert_eq!(store.verify().unwrap().broken_at, None);
}

#[test]
fn a_record_of_version_1_stays_readable() {
    // Written by the first version; never change this text.
    const BODY: &str = include_str!("record_v1.json");
    let value = value::seal(1, BODY.trim_end().as_bytes());
    let stored = record::decode(7, &value).unwrap().into_stored(None).unwrap();
    assert_eq!(stored.seq, 7);
    assert_eq!(stored.inspection, sample(7));
    let image = stored.image.unwrap();
    assert_eq!((image.image.bytes, image.url.as_str()), (9, "/images/9"));

    let image = ImageV1 { sha256: "9".into(), bytes: 9, url: "/images/9".into() };
    let written = Draft::new(&sample(7), Some(image)).unwrap().seal(7, &[0; 32]).unwrap();
    let text = std::str::from_utf8(&written[value::HEADER_BYTES..]).unwrap();
    assert_eq!(text, BODY.trim_end(), "another form needs another version");
}

#[test]
fn compaction_keeps_every_tree_and_gives_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { compact_above_bytes: 1 << 20, retain_days: 1, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    for n in 1..=3000 {
        store.commit(&sample(n), None).unwrap();
    }
    store.bury(Owed { kind: Kind::Result, seq: 2995 }, Cause::Size, "reason").unwrap();
    // A tree that this file knows nothing of, as a later version may have.
    let other = store.sync.db().tree("of_a_later_version").unwrap();
    other.insert(b"key", b"value").unwrap();
    drop(other);
    store.ack(&(1..=2990).collect::<Vec<_>>()).unwrap();
    store.enforce_retention(at(2900) + DAY).unwrap();
    let (before, owed) = (store.verify().unwrap(), store.owed_now(Kind::Result));
    assert!(before.inspections < 200 && store.compaction_due().unwrap());
    let file = dir.path().join("ledger/db");
    let bytes = file.metadata().unwrap().len();
    drop(store);

    let store = Store::open(dir.path(), options.clone()).unwrap();
    assert!(file.metadata().unwrap().len() * 2 < bytes, "{} of {bytes}", file.metadata().unwrap().len());
    assert_eq!((store.verify().unwrap(), store.owed_now(Kind::Result)), (before, owed));
    assert_eq!(store.dead_letters().unwrap()[0].owed.seq, 2995);
    let other = store.sync.db().tree("of_a_later_version").unwrap();
    assert_eq!(*other.get(b"key").unwrap().unwrap(), *b"value");
    assert!(!dir.path().join("ledger.new").exists() && !store.compaction_due().unwrap());
    assert_eq!(store.commit(&sample(3001), None).unwrap().seq, 3001);
}

#[test]
fn what_an_interrupted_compaction_left_behind_goes() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).commit(&sample(1), None).unwrap();
    fs::create_dir(dir.path().join("ledger.new")).unwrap();
    fs::write(dir.path().join("ledger.new/db"), b"half").unwrap();
    assert_eq!(open(dir.path()).verify().unwrap().inspections, 1);
    assert!(!dir.path().join("ledger.new").exists());
}

#[test]
fn below_the_floor_nothing_is_accepted_and_nothing_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let ballast = dir.path().join("ballast");
    let options = StoreOptions { free_bytes_min: 1 << 20, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    store.commit(&sample(1), None).unwrap();
    assert_eq!(ballast.metadata().unwrap().len(), 1 << 18);
    drop(store);
    // More than any disk has.
    let options = StoreOptions { free_bytes_min: 1 << 60, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    assert!(!ballast.exists(), "released for what must still be written");
    let refused = store.commit(&sample(2), None).unwrap_err();
    assert!(matches!(refused, StoreError::DiskFull { .. }) && refused.passes(), "{refused}");
    assert!(matches!(store.put_image(b"x", "jpg"), Err(StoreError::DiskFull { .. })));
    assert_eq!(store.verify().unwrap().inspections, 1);
    drop(store);
    assert_eq!(open(dir.path()).commit(&sample(2), None).unwrap().seq, 2);
}

#[test]
fn a_full_outbox_refuses_until_something_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { outbox_entries_max: 2, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    store.commit(&sample(1), None).unwrap();
    store.commit(&sample(2), None).unwrap();
    let refused = store.commit(&sample(3), None).unwrap_err();
    assert!(matches!(refused, StoreError::OutboxFull { entries: 2 }) && refused.passes());
    assert!(store.accepts().is_err());
    store.ack(&[1]).unwrap();
    assert_eq!(store.commit(&sample(3), None).unwrap().seq, 3);
}

/// sled forgets what it cannot read at the end of its file, and what is left looks whole.
#[test]
fn a_database_that_has_lost_its_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = tempfile::tempdir().unwrap();
    let ledger = |dir: &Path| dir.join("ledger");
    let store = open(dir.path());
    (1..=2).for_each(|n| drop(store.commit(&sample(n), None).unwrap()));
    drop(store);
    for entry in fs::read_dir(ledger(dir.path())).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            continue;
        }
        fs::copy(entry.path(), earlier.path().join(entry.file_name())).unwrap();
    }
    let store = open(dir.path());
    store.commit(&sample(3), None).unwrap();
    drop(store);
    fs::remove_dir_all(ledger(dir.path())).unwrap();
    fs::rename(earlier.path(), ledger(dir.path())).unwrap();
    for _ in 0..2 {
        match Store::open(dir.path(), StoreOptions::default()) {
            Err(StoreError::CutOff { ledger: "inspections", expected: 3, found: 2 }) => {}
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}
