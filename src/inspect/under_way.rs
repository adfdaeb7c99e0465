//! A frame under inspection by the engine room.
//!
//! ```text
//! waiting for the engine --ready: plan, an order a region--> asked --last answer, or the deadline--> concluded
//!        |                        a bank's answer: one more ---^ |
//!        |                        order, or a skipped tile ------'
//!        '--the deadline, or an engine that does not come-----------------------------------------------^
//! ```
//!
//! Invariants:
//! - It is concluded by its deadline, whatever the engine does; what is missing then is a fault.
//! - It passes by the answers of one model, the one that its record names.

use super::skip::{Asking, Part};
use super::{Planned, Work, conclude, uninspected};
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::Pipeline;
use crate::engine::{Answer, Class, Engine, Event, Order, OrderId, Readiness, Reply};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vlm::{Job, ModelInfo, Timing, VlmError};

/// A deadline further away than this is none.
const FAR: Duration = Duration::from_hours(365 * 24);
/// How often somebody who waits for one frame looks at the engine.
const LOOK: Duration = Duration::from_millis(20);

/// What was asked about a frame, and what came.
struct Asked {
    planned: Planned,
    model: ModelInfo,
    asking: Asking,
    /// What each order asks.
    orders: BTreeMap<OrderId, Part>,
    /// What can be asked and its class had no room for yet.
    unasked: VecDeque<(Part, Job)>,
    timing: Timing,
    /// The engine was lost over it: nothing more is asked, and no other process gets what may have killed this one.
    is_lost: bool,
}

impl Asked {
    /// Gives the orders for which there is room: the line always has it, other classes perhaps later.
    fn submit(&mut self, engine: &Engine, class: Class, deadline: Instant, reply: &Reply) {
        self.unasked.extend(self.asking.ready(&self.planned.plan));
        while let Some((part, job)) = self.unasked.pop_front() {
            let order = Order { class, deadline, job: job.clone(), reply: Arc::clone(reply) };
            let Ok(id) = engine.submit(order) else {
                self.unasked.push_front((part, job));
                return;
            };
            self.orders.insert(id, part);
        }
    }
}

/// A frame, its recipe, and how far its inspection is.
pub struct UnderWay {
    /// What is inspected.
    pub frame: Frame,
    /// The recipe that was in force when it began.
    pub pipeline: Arc<Pipeline>,
    class: Class,
    asked: Option<Asked>,
    /// How often the engine had failed when this frame began to wait for it.
    failures: Option<u64>,
}

impl UnderWay {
    /// A part of the line, which waits for its verdict.
    pub const fn new(frame: Frame, pipeline: Arc<Pipeline>) -> Self {
        Self::of(Class::Line, frame, pipeline)
    }

    /// A frame that is inspected for another reason.
    pub const fn of(class: Class, frame: Frame, pipeline: Arc<Pipeline>) -> Self {
        Self { frame, pipeline, class, asked: None, failures: None }
    }

    fn work(&self) -> Work<'_> {
        Work { frame: &self.frame, pipeline: &self.pipeline }
    }

    /// When it is concluded at the latest.
    pub fn due(&self) -> Instant {
        let deadline = self.work().deadline().min(FAR);
        self.frame.captured.checked_add(deadline).unwrap_or(self.frame.captured)
    }

    /// True when the answer is about this frame; it is noted.
    pub fn take(&mut self, answer: &mut Answer) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        let Some(part) = asked.orders.remove(&answer.id) else { return false };
        asked.timing = asked.timing + answer.timing;
        asked.is_lost |= answer.answers.iter().any(|a| matches!(a, Err(VlmError::Lost { .. })));
        asked.asking.take(&asked.planned.plan, &self.pipeline, &part, std::mem::take(&mut answer.answers));
        true
    }

    /// Goes on as far as can be; the inspection when it is concluded. Orders are given with `reply`.
    pub fn advance(&mut self, engine: &Engine, reply: &Reply) -> Option<Inspection> {
        if self.asked.is_none()
            && let Some(inspection) = self.begin(engine, reply)
        {
            return Some(inspection);
        }
        let due = self.due();
        let late = Instant::now() > due;
        let Some(asked) = &mut self.asked else {
            return late.then(|| self.uninspected(engine, not_there(engine.readiness())));
        };
        if !late && !asked.is_lost {
            asked.submit(engine, self.class, due, reply);
            if !asked.orders.is_empty() || !asked.unasked.is_empty() {
                return None;
            }
        }
        // What is concluded needs no more answers.
        std::mem::take(&mut asked.orders).into_keys().for_each(|id| engine.cancel(id));
        let fault = match engine.readiness() {
            // An engine that was lost may have come back with other files that were accepted meanwhile.
            _ if engine.info() != asked.model => Some(Reason::Engine {
                message: "the model was exchanged while the part was inspected".into(),
            }),
            readiness if late && asked.asking.is_open() => not_there(readiness),
            _ => None,
        };
        let Asked { planned, model, asking, timing, .. } = self.asked.take()?;
        Some(conclude(self.work(), &model, &planned, asking.into_outcomes(), timing, fault))
    }

    /// Stops what was asked.
    pub fn give_up(&mut self, engine: &Engine) {
        let asked = self.asked.take().map(|asked| asked.orders);
        asked.into_iter().flatten().for_each(|(id, _)| engine.cancel(id));
    }

    /// Asks, where there is an engine and time; the inspection when there will be none.
    fn begin(&mut self, engine: &Engine, reply: &Reply) -> Option<Inspection> {
        let due = self.due();
        match engine.readiness() {
            _ if Instant::now() > due => return None,
            Readiness::Ready => {}
            // Waiting is only of use when the wait ends before the deadline.
            Readiness::Resting { left, why } if Instant::now() + left >= due => {
                return Some(self.uninspected(engine, Some(Reason::Engine { message: why })));
            }
            Readiness::Coming { .. } | Readiness::Resting { .. } => {
                engine.want();
                // It waits for one start, and not for the next when that fails.
                let failures = engine.failures();
                let has_failed = *self.failures.get_or_insert(failures) < failures;
                let message = engine.health().fault.filter(|_| has_failed)?;
                return Some(self.uninspected(engine, Some(Reason::Engine { message })));
            }
        }
        let model = engine.info();
        let planned = match Planned::new(self.work(), &model) {
            Ok(planned) => planned,
            Err(reason) => return Some(self.uninspected(engine, Some(reason))),
        };
        let asking = Asking::new(&planned.plan, &self.pipeline);
        let (orders, unasked, timing) = (BTreeMap::new(), VecDeque::new(), Timing::default());
        let mut asked = Asked { planned, model, asking, orders, unasked, timing, is_lost: false };
        asked.submit(engine, self.class, due, reply);
        self.asked = Some(asked);
        None
    }

    fn uninspected(&self, engine: &Engine, reason: Option<Reason>) -> Inspection {
        // Late, and nothing else is wrong: the verdict sees the deadline itself.
        let reason = reason.unwrap_or(Reason::MissingTile { inspected: 0, planned: 0 });
        uninspected(&self.frame, &self.pipeline, &engine.info(), reason)
    }
}

/// What an engine that is not there has to do with it.
fn not_there(readiness: Readiness) -> Option<Reason> {
    match readiness {
        Readiness::Ready => None,
        Readiness::Coming { why } | Readiness::Resting { why, .. } => Some(Reason::Engine { message: why }),
    }
}

/// Answers that were not looked at, and a bell that rings when one comes.
pub struct Inbox {
    came: Mutex<Vec<Answer>>,
    ring: SyncSender<()>,
}

impl Inbox {
    /// An empty one, which sends on `ring` with each answer.
    pub fn new(ring: SyncSender<()>) -> Arc<Self> {
        Arc::new(Self { came: Mutex::default(), ring })
    }

    /// Puts answers in.
    pub fn reply(self: &Arc<Self>) -> Reply {
        let this = Arc::clone(self);
        Arc::new(move |event| {
            // A part is judged by whole answers.
            let Event::Answer(answer) = event else { return };
            this.came.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            // A bell that rings already needs no second ring.
            let _ = this.ring.try_send(());
        })
    }

    /// Takes out what came.
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.came.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Inspects one frame by the engine, and waits for it; `None` when `go_on` says no before that.
pub fn inspect(
    engine: &Engine,
    class: Class,
    frame: Frame,
    pipeline: Arc<Pipeline>,
    go_on: &dyn Fn() -> bool,
) -> Option<Inspection> {
    let (ring, bell) = sync_channel(1);
    let inbox = Inbox::new(ring);
    let reply = inbox.reply();
    let mut under_way = UnderWay::of(class, frame, pipeline);
    loop {
        if let Some(inspection) = under_way.advance(engine, &reply) {
            return Some(inspection);
        }
        if !go_on() {
            under_way.give_up(engine);
            return None;
        }
        // Whether it rang or not, everything is looked at again.
        let _ = bell.recv_timeout(LOOK);
        inbox.take().iter_mut().for_each(|answer| _ = under_way.take(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::frame::Trigger;
    use crate::domain::grade::Verdict;
    use crate::engine::{Abilities, Backend, Health, child};
    use crate::recipe::pipeline_from_str;
    use std::time::SystemTime;
    use vlm::{AnswerToken, Answered, Completion, Finish, Ground, Job, Rank};

    /// Finds nothing; after its first job it is another model, if it is told to be.
    struct Exchanged {
        info: ModelInfo,
        health: Health,
        after: Option<&'static str>,
        jobs: Vec<u64>,
    }

    impl Backend for Exchanged {
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
            self.info.text_sha256 = self.after.unwrap_or_default().to_owned();
        }

        fn cancel(&mut self, _: u64) {}

        fn next(&mut self, wait: Duration, _: bool, out: &mut Vec<Answered>) {
            std::thread::sleep(wait);
            let tokens = vec![AnswerToken { id: 0, start: 0, end: 2, prob: 0.99 }];
            let (finish, ground) = (Finish::Stop, Ground::Constrained);
            let nothing =
                Completion { text: "[]".into(), tokens, prompt_ids: vec![1], finish, ground, cells: None };
            let answered =
                |id| Answered { id, answers: vec![Ok(nothing.clone())], timing: Timing::default() };
            out.extend(std::mem::take(&mut self.jobs).into_iter().map(answered));
        }
    }

    fn verdict(after: Option<&'static str>) -> Verdict {
        let (info, health) = (ModelInfo::default(), Health::default());
        let backend = Exchanged { info, health, after, jobs: vec![] };
        let engine = Engine::start(Box::new(backend), Box::new(|| {})).unwrap();
        let text = include_str!("../../tests/common/scripted.toml");
        let frame = Frame {
            pixels: Arc::new(image::RgbImage::new(180, 100)),
            captured: Instant::now(),
            ..Frame::without_picture("cam1", Trigger::default(), SystemTime::now())
        };
        let frame = Frame {
            trigger: Trigger { deadline: Some(Duration::from_mins(1)), ..Trigger::default() },
            ..frame
        };
        let recipe = Arc::new(pipeline_from_str("scripted.toml", text).unwrap());
        inspect(&engine, Class::Line, frame, recipe, &|| true).unwrap().verdict
    }

    #[test]
    fn a_part_that_two_models_have_seen_is_a_review() {
        assert_eq!(verdict(None), Verdict::Pass);
        let exchanged = verdict(Some("another"));
        assert!(
            matches!(&exchanged, Verdict::Review(Reason::Engine { message }) if message.contains("exchanged")),
            "{exchanged:?}"
        );
    }
}
