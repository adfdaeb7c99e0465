//! Tests of a line whose clock jumps: its capture loop, inspector, recorder and housekeeping, with a store and retention.
//!
//! ```text
//! trigger --> capture loop --> inspector --> an engine that answers when it may --> recorder --> store <--retention-- housekeeping
//!                        the test turns the clock while a part is under way
//! ```

use super::super::cameras::{Feed, Feeds};
use super::super::capture_loop::CaptureLoop;
use super::super::commanded::Orders;
use super::super::frame_history::FrameHistory;
use super::super::inspector;
use super::super::intake::{Awaited, Intake, tests::camera};
use super::super::recorder::Recorder;
use super::super::told::Told;
use super::*;
use crate::camera::window::{Rule, Stamps, Window};
use crate::camera::{CameraError, Source, Stop, Want};
use crate::clock::{Hands, Reading};
use crate::config::TriggerOn;
use crate::domain::frame::{Frame, Trigger};
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::engine::{Abilities, Backend, Engine, Health, Readiness, child};
use crate::queue::{Policy, Queue};
use crate::recipe::pipeline_from_str;
use crate::store::StoreOptions;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Instant, SystemTime};
use vlm::{AnswerToken, Answered, Completion, Finish, Ground, Job, ModelInfo, Rank, Timing, VlmError};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// How long a part is kept.
const RETAIN: Duration = Duration::from_hours(90 * 24);
/// 2026-01-01, in seconds since 1970.
#[expect(clippy::duration_suboptimal_units, reason = "seconds of Unix time")]
const BEGIN: Duration = Duration::from_secs(1_767_225_600);
/// A deadline that no part misses by itself, and one that each misses whose answer is held back.
const LONG: Duration = Duration::from_mins(10);
const SHORT: Duration = Duration::from_millis(30);
/// Ends a test that waits in vain.
const PATIENCE: Duration = Duration::from_mins(1);

/// Finds nothing, and says so when it may.
struct Held {
    info: ModelInfo,
    health: Health,
    jobs: Vec<u64>,
    hand: Arc<Hand>,
}

#[derive(Default)]
struct Hand {
    may_answer: AtomicBool,
    jobs: AtomicUsize,
    /// The camera gives no picture for the next trigger.
    is_blind: AtomicBool,
}

impl Backend for Held {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &child::ABILITIES
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        0
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn submit(&mut self, id: u64, _: Rank, _: Job) {
        self.jobs.push(id);
        self.hand.jobs.store(self.jobs.len(), Ordering::SeqCst);
    }

    fn cancel(&mut self, _: u64) {}

    fn next(&mut self, wait: Duration, _: bool, out: &mut Vec<Answered>) {
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        if !self.hand.may_answer.load(Ordering::SeqCst) {
            return;
        }
        let tokens = vec![AnswerToken { id: 0, start: 0, end: 2, prob: 0.99 }];
        let (finish, ground) = (Finish::Stop, Ground::Constrained);
        let nothing =
            Completion { text: "[]".into(), tokens, prompt_ids: vec![1], finish, ground, cells: None };
        let answered = |id| Answered {
            id,
            answers: vec![Ok::<_, VlmError>(nothing.clone())],
            timing: Timing::default(),
        };
        out.extend(std::mem::take(&mut self.jobs).into_iter().map(answered));
        self.hand.jobs.store(0, Ordering::SeqCst);
    }
}

/// A camera that is exposed when it is asked.
struct Camera {
    clock: Clock,
    hand: Arc<Hand>,
}

impl Source for Camera {
    fn take(&mut self, _: Want) -> Result<Option<Frame>, CameraError> {
        if self.hand.is_blind.swap(false, Ordering::SeqCst) {
            return Err(CameraError::Late);
        }
        let pixels = Arc::new(image::RgbImage::new(100, 100));
        let frame = Frame::without_picture("cam1", Trigger::default(), self.clock.read().wall);
        Ok(Some(Frame { pixels, captured: Instant::now(), ..frame }))
    }
}

/// A line under a clock that is turned.
struct Rig {
    store: Arc<Store>,
    housekeeping: Housekeeping,
    clock: Clock,
    hands: Hands,
    hand: Arc<Hand>,
    intake: Arc<Intake>,
    frames: Arc<Queue<super::super::cameras::Shot>>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
    /// All parts so far: when they were finished.
    parts: BTreeMap<String, SystemTime>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = StoreOptions { retain_days: 90, ..StoreOptions::default() };
        let store = Arc::new(Store::open(dir.path(), options).expect("it opens"));
        let (clock, hands) = Clock::turned(Reading {
            wall: SystemTime::UNIX_EPOCH + BEGIN,
            since_boot: HOUR,
            boot: "first".into(),
            synchronised: true,
        });
        let (station, stop) = (Arc::new(Station::new(tokio::sync::mpsc::channel(4096).0)), Stop::default());
        let recorder = Recorder::new(Arc::clone(&store), Arc::clone(&station), stop.clone(), false);
        let recorder = Arc::new(recorder.expect("it starts").with_clock(clock.clone()));
        let text = include_str!("../../tests/common/scripted.toml");
        let recipe = Arc::new(pipeline_from_str("scripted.toml", text).expect("the recipe is sound"));
        let intake = Intake::new(&camera("cam1", TriggerOn::Command), Orders::configured(recipe));
        let (intake, frames) = (Arc::new(intake), Arc::new(Queue::new(Policy::Wait, 8)));
        let (ring, bell) = sync_channel(1);
        let hand = Arc::new(Hand::default());
        let mut taker = CaptureLoop {
            id: "cam1".into(),
            source: Box::new(Camera { clock: clock.clone(), hand: Arc::clone(&hand) }),
            feed: Feed { frames: Arc::clone(&frames) },
            intake: Arc::clone(&intake),
            on_command: true,
            recorder: Arc::clone(&recorder),
            model: ModelInfo::default(),
            interval: None,
            deadline: None,
            stop: stop.clone(),
            bell: ring.clone(),
            window: Window::new(Rule { within: None, on_its_way: Duration::ZERO, stamps: Stamps::Order }),
            station: Arc::clone(&station),
            without_own: false,
            under_way: None,
            lost: 0,
        };
        let (info, health) = (ModelInfo::default(), Health::default());
        let backend = Held { info, health, jobs: vec![], hand: Arc::clone(&hand) };
        let changed = ring.clone();
        let engine = Engine::start(Box::new(backend), Box::new(move || _ = changed.try_send(())));
        let feeds = Feeds { feeds: vec![Feed { frames: Arc::clone(&frames) }], bell, ring };
        let history = FrameHistory::new(Arc::clone(&store));
        let inspector = inspector::start(
            Arc::new(engine.expect("it starts")),
            feeds,
            recorder,
            Arc::clone(&station),
            history,
        );
        let taker = threads::spawn("take:cam1", move || taker.run());
        Self {
            housekeeping: Housekeeping::new(
                Arc::clone(&store),
                station,
                Arc::new(Systemd::new(Told::by_hand().1)),
                clock.clone(),
            ),
            store,
            clock,
            hands,
            hand,
            intake,
            frames,
            stop,
            threads: vec![taker.expect("it starts"), inspector.expect("it starts")],
            parts: BTreeMap::new(),
            _dir: dir,
        }
    }

    /// A part that is triggered now; while it is under way the clock jumps.
    fn part(&mut self, name: &str, deadline: Duration, jump: impl FnOnce(&mut Reading)) -> Verdict {
        self.hand.may_answer.store(false, Ordering::SeqCst);
        let trigger = Trigger { part_id: Some(name.into()), deadline: Some(deadline), ..Trigger::default() };
        let received = Instant::now();
        let awaited = Awaited { trigger, received, pipeline: self.intake.pipeline() };
        self.intake.place(awaited).expect("there is room");
        if deadline == LONG {
            self.until("it is asked about, or recorded", |rig| {
                rig.hand.jobs.load(Ordering::SeqCst) > 0 || rig.stored(name).is_some()
            });
        }
        self.hands.turn(jump);
        if deadline == LONG {
            self.hand.may_answer.store(true, Ordering::SeqCst);
        }
        self.until("it is recorded", |rig| rig.stored(name).is_some());
        // What is left of a late part is of no part any more.
        self.hand.may_answer.store(true, Ordering::SeqCst);
        self.until("its jobs are answered", |rig| rig.hand.jobs.load(Ordering::SeqCst) == 0);
        let (seq, inspection) = self.stored(name).expect("it was there");
        self.store.ack(&[seq]).expect("it is delivered");
        self.parts.insert(name.into(), inspection.finished_at);
        if deadline == LONG && matches!(inspection.verdict, Verdict::Pass) {
            assert_eq!(inspection.finished_at, self.clock.read().wall, "{name}: by the turned clock");
        }
        inspection.verdict
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stored(&self, name: &str) -> Option<(u64, Inspection)> {
        let all = self.store.newest_first().map(|stored| stored.expect("the record reads"));
        let mut its = all.filter(|stored| stored.inspection.trigger.part_id.as_deref() == Some(name));
        its.next().map(|stored| (stored.seq, stored.inspection))
    }

    /// The parts that are stored.
    fn kept(&self) -> Vec<String> {
        let all = self.store.newest_first().map(|stored| stored.expect("the record reads"));
        all.filter_map(|stored| stored.inspection.trigger.part_id).collect()
    }

    /// A minute passes, and retention has its round.
    fn housekeeping(&mut self) {
        self.hands.pass(RETENTION_EVERY);
        loop {
            assert_eq!(self.housekeeping.tick().expect("the store works"), Due::Nothing);
            if self.housekeeping.cleaning.is_none() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        self.stop.set();
        self.intake.close();
        self.frames.close();
        self.threads.into_iter().for_each(|thread| thread.join().expect("no thread has panicked"));
        self.housekeeping.finish();
    }
}

#[test]
fn a_clock_that_jumps_passes_no_late_part_loses_none_and_removes_none() {
    let mut rig = Rig::start();
    assert_eq!(rig.part("first", LONG, |_| {}), Verdict::Pass);
    rig.housekeeping();
    let jumps: [(&str, i64); 6] =
        [("a", 200), ("b", -200), ("c", -400), ("d", 400), ("e", 3650), ("f", -3650)];
    for (name, days) in jumps {
        let jump = |shown: &mut Reading| {
            let by = DAY * u32::try_from(days.unsigned_abs()).expect("a few days");
            shown.wall = if days < 0 { shown.wall - by } else { shown.wall + by };
        };
        let back = |shown: &mut Reading| {
            let by = DAY * u32::try_from(days.unsigned_abs()).expect("a few days");
            shown.wall = if days < 0 { shown.wall + by } else { shown.wall - by };
        };
        let of = |kind: &str| format!("{name} {kind}");
        assert_eq!(rig.part(&of("in time"), LONG, jump), Verdict::Pass, "{days} days");
        rig.housekeeping();
        for (kind, turn) in [("late", &back as &dyn Fn(&mut Reading)), ("late again", &jump)] {
            let late = rig.part(&of(kind), SHORT, turn);
            assert!(matches!(late, Verdict::Review(Reason::Deadline { .. })), "{days} days: {late:?}");
            rig.housekeeping();
        }
        rig.hand.is_blind.store(true, Ordering::SeqCst);
        let unseen = rig.part(&of("unseen"), LONG, |_| {});
        assert!(matches!(unseen, Verdict::Review(Reason::Frame { .. })), "{days} days: {unseen:?}");
        let (_, unseen) = rig.stored(&of("unseen")).expect("it is recorded");
        let age = rig.clock.read().wall.duration_since(unseen.captured_at).expect("it is over");
        assert!(age < HOUR, "it was triggered a moment ago by this clock, and {age:?} by its record");
        rig.housekeeping();
        assert_eq!(rig.kept().len(), rig.parts.len(), "{days} days: nothing is lost");
    }
    // Time that has passed removes what is old, a little at a time, and nothing that is not old by the clock.
    rig.hands.pass(RETAIN + DAY);
    let mut before = rig.kept().len();
    for _ in 0..4 {
        rig.hands.pass(HOUR);
        rig.housekeeping();
        let kept = rig.kept();
        assert!(
            before - kept.len() <= before.div_ceil(20),
            "one of twenty in an hour: {before} before, {} after",
            kept.len()
        );
        before = kept.len();
        let now = rig.clock.read().wall;
        for (name, finished) in &rig.parts {
            let is_old = now.duration_since(*finished).is_ok_and(|age| age >= RETAIN);
            assert!(is_old || kept.contains(name), "{name} is not old, and was removed");
        }
    }
    assert!(before < rig.parts.len(), "what is old does go");
    rig.end();
}
