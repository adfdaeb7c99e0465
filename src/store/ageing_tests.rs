//! Tests of ageing: a store under a clock that is turned.

use super::super::StoreOptions;
use super::super::retention::Pruned;
use super::super::tests::sample;
use super::*;
use crate::clock::Hands;
use crate::store::error::StoreError;
use std::path::Path;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// 2026-01-01, in seconds since 1970.
#[expect(clippy::duration_suboptimal_units, reason = "seconds of Unix time")]
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// A store with its clock; records are finished when the clock says so, and delivered at once.
struct Box {
    store: Option<Store>,
    dir: tempfile::TempDir,
    clock: Clock,
    hands: Hands,
    options: StoreOptions,
    next: u64,
}

fn open(dir: &Path, options: &StoreOptions) -> Option<Store> {
    Some(Store::open(dir, options.clone()).unwrap())
}

impl Box {
    fn new(options: StoreOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::turned(Reading {
            wall: SystemTime::UNIX_EPOCH + BEGIN,
            since_boot: HOUR,
            boot: "first".into(),
            synchronised: true,
        });
        Self { store: open(dir.path(), &options), dir, clock, hands, options, next: 1 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn commit(&mut self, count: u64) {
        for n in self.next..self.next + count {
            let mut part = sample(n);
            part.finished_at = self.clock.read().wall;
            self.store().commit(&part, None).unwrap();
            self.store().ack(&[n]).unwrap();
        }
        self.next += count;
    }

    fn round(&self) -> Round {
        self.store().keep_within_limits(&self.clock).unwrap()
    }

    /// Rounds for so long; how many inspections went, and the last round.
    fn run(&self, time: Duration) -> (u64, Round) {
        let step = (time / 200).max(MINUTE * 10);
        let (mut gone, mut last) = (0, self.round());
        gone += last.pruned.inspections;
        for _ in 0..time.as_secs() / step.as_secs() {
            self.hands.pass(step);
            last = self.round();
            gone += last.pruned.inspections;
        }
        (gone, last)
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = open(self.dir.path(), &self.options);
    }

    /// Off for so long; afterwards the clock shows what it is set to.
    fn reboot(&mut self, off: Duration, name: &str) {
        self.restart();
        self.hands.turn(|shown| {
            shown.wall += off;
            shown.since_boot = MINUTE;
            shown.boot = name.into();
        });
    }

    fn kept(&self) -> u64 {
        self.store().inspections().unwrap()
    }
}

fn days(n: u32) -> StoreOptions {
    StoreOptions { retain_days: n, ..StoreOptions::default() }
}

#[test]
fn a_start_with_the_clock_200_days_ahead_deletes_nothing() {
    for same_boot in [true, false] {
        let mut b = Box::new(days(90));
        b.commit(89);
        b.round();
        if same_boot {
            b.restart();
        } else {
            b.reboot(Duration::ZERO, "second");
        }
        b.hands.turn(|shown| shown.wall += DAY * 200);
        let first = b.round();
        let step = first.step.expect("the step is alarmed");
        let apart = step.to.duration_since(step.from).unwrap();
        assert!(apart > DAY * 199 && apart < DAY * 201, "{step}");
        assert_eq!(first.held, Some(Held::Doubted));
        assert_eq!((b.run(DAY).0, b.kept()), (0, 89));
        // Set right again, all is as before.
        b.hands.turn(|shown| shown.wall -= DAY * 200);
        let right = b.round();
        assert_eq!((right.step, right.held, b.kept()), (None, None, 89));
    }
}

#[test]
fn a_store_of_a_former_version_takes_its_newest_record_for_the_time() {
    let mut b = Box::new(days(90));
    b.commit(5);
    // No round has ever been made.
    b.reboot(DAY * 200, "second");
    let round = b.round();
    assert!(round.step.is_some() && round.pruned.inspections == 0, "{round:?}");
}

#[test]
fn what_was_off_for_longer_than_it_keeps_goes_on_after_a_while_and_slowly() {
    let mut b = Box::new(days(90));
    b.commit(100);
    b.round();
    b.reboot(DAY * 200, "second");
    let (gone, last) = b.run(DAY * 6 + HOUR * 23);
    assert_eq!((gone, last.step.is_some()), (0, true));
    let (gone, last) = b.run(HOUR * 2);
    assert!((1..=15).contains(&gone), "{gone} went in two hours");
    assert_eq!((last.step, last.held), (None, None), "it is believed");
    // A restart gives no second share of the hour.
    b.restart();
    let before = b.kept();
    (0..20).for_each(|_| {
        b.restart();
        b.round();
    });
    assert!(before - b.kept() <= before.div_ceil(SHARE), "{before} -> {}", b.kept());
    b.run(DAY * 6);
    assert_eq!(b.kept(), 0, "in the end all of it goes");
}

#[test]
fn nothing_goes_by_age_until_a_time_server_vouches_or_the_config_does() {
    for (clock, goes) in [(Trust::Synchronised, false), (Trust::Trusted, true)] {
        let mut b = Box::new(StoreOptions { clock, ..days(1) });
        b.hands.turn(|shown| shown.synchronised = false);
        b.commit(40);
        let (gone, last) = b.run(DAY + HOUR);
        assert_eq!(gone > 0, goes);
        assert_eq!(last.held, (!goes).then_some(Held::Unsynchronised));
        b.hands.turn(|shown| shown.synchronised = true);
        assert!(b.run(HOUR * 2).0 > 0, "synchronised, it goes");
    }
}

#[test]
fn a_clock_that_begins_in_1970_and_is_set_by_ntp_ages_nothing() {
    let mut b = Box::new(days(30));
    b.commit(10);
    b.run(HOUR);
    // A boot without a battery: two hours later in truth.
    b.reboot(HOUR * 2, "second");
    let truth = b.clock.read().wall;
    b.hands.turn(|shown| {
        shown.wall = SystemTime::UNIX_EPOCH + MINUTE;
        shown.synchronised = false;
    });
    assert_eq!(b.round().held, None);
    b.commit(10);
    b.hands.pass(MINUTE);
    b.round();
    b.hands.turn(|shown| {
        shown.wall = truth + MINUTE;
        shown.synchronised = true;
    });
    let set = b.round();
    assert_eq!((set.pruned.inspections, &set.step), (0, &None), "the ledger agrees with it: {set:?}");
    b.commit(10);
    let (gone, last) = b.run(DAY);
    assert_eq!((gone, last.step), (0, None));
    assert_eq!(b.kept(), 30, "records that were written in 1970 are as old as those beside them");
    // They go with them, too.
    let (gone, _) = b.run(DAY * 36);
    assert_eq!(gone, 30);
}

#[test]
fn the_first_records_of_a_box_whose_clock_was_never_set_are_not_old() {
    let mut b = Box::new(days(30));
    let truth = b.clock.read().wall;
    b.hands.turn(|shown| shown.wall = SystemTime::UNIX_EPOCH + MINUTE);
    b.commit(5);
    b.hands.turn(|shown| shown.wall = truth);
    b.commit(5);
    b.run(DAY * 8);
    assert_eq!(b.kept(), 10);
    b.run(DAY * 40);
    assert_eq!(b.kept(), 0);
}

#[test]
fn a_clock_that_goes_back_is_alarmed_and_followed_in_the_end() {
    let mut b = Box::new(days(1));
    b.commit(20);
    b.run(HOUR);
    b.hands.turn(|shown| shown.wall -= DAY * 10);
    let back = b.round();
    assert!(back.step.as_ref().is_some_and(|s| s.to < s.from), "{back:?}");
    let (gone, last) = b.run(DAY + HOUR * 2);
    assert_eq!((gone, last.step), (0, None), "after a tenth of the step it is believed");
}

#[test]
fn age_removes_as_before_when_nothing_is_wrong() {
    let mut b = Box::new(days(1));
    for _ in 0..48 {
        b.commit(10);
        b.run(HOUR);
    }
    let kept = b.kept();
    assert!((240..=260).contains(&kept), "{kept} of 480 are kept");
    // A small correction of the clock holds nothing up.
    b.hands.turn(|shown| shown.wall += Duration::from_secs(90));
    b.commit(10);
    let (gone, last) = b.run(HOUR);
    assert!(gone >= 9 && last.step.is_none() && last.held.is_none(), "{gone}, {last:?}");
}

#[test]
fn the_limit_by_bytes_asks_no_clock() {
    let mut b = Box::new(StoreOptions { max_bytes: 8_000, ..StoreOptions::default() });
    b.hands.turn(|shown| shown.synchronised = false);
    b.commit(40);
    let Pruned { inspections, usage_bytes, .. } = b.round().pruned;
    assert!(inspections > 10 && usage_bytes <= 8_000, "{inspections}, {usage_bytes}");
}

#[test]
fn a_damaged_agreed_time_is_told() {
    let mut b = Box::new(days(1));
    b.commit(1);
    b.store().remember(NAME, &"no time").unwrap();
    assert!(matches!(b.store().keep_within_limits(&b.clock), Err(StoreError::BadMeta { .. })));
}
