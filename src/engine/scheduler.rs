//! The scheduler: who is asked next, and who has waited long enough.
//!
//! ```text
//! submit --queue of the class, by deadline--> under way (few, so that what is urgent passes) --> reply
//!                     '--deadline, cancel--------'--stopped-------------------------------------^
//! ```
//!
//! Invariants:
//! - Every order has exactly one answer, also when its backend is lost or cannot answer it.
//! - At most [`UNDER_WAY_MAX`] jobs, and about [`UNDER_WAY_BYTES`] of pictures, are with the backend; half of it only
//!   the line may take.
//! - The queues of guests and of replay are bounded; the line bounds itself, by its frames.

use super::{Abilities, Backend, Class, Health, Readiness};
use crate::queue::{Policy, Popped, Queue};
use crate::threads;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vlm::{Answered, Completion, Delta, Job, ModelInfo, Rank, Timing, VlmError};

/// Jobs with the backend: as many as it decodes side by side.
const UNDER_WAY_MAX: usize = 64;
/// Their pictures, unless one job has more.
const UNDER_WAY_BYTES: usize = 64 << 20;
/// Orders of a class other than the line's that wait.
const WAITING_MAX: usize = 64;
/// Commands on their way to the scheduler, who takes them in all the time; who has more waits a moment.
const COMMANDS_MAX: usize = 256;
/// How often new orders are looked at while the backend works.
const BUSY_POLL: Duration = Duration::from_millis(2);
/// How often a backend without work is looked after.
const IDLE_POLL: Duration = Duration::from_millis(50);

/// Names an order.
pub type OrderId = u64;

/// Hears what comes of an order. It is called on the scheduler's thread and must not wait.
pub type Reply = Arc<dyn Fn(Event) + Send + Sync>;

/// What is heard of an order: any number of deltas, then its answer.
#[derive(Debug)]
pub enum Event {
    /// A streamed answer says this further.
    Delta {
        /// The order.
        id: OrderId,
        /// Which of the order's questions it answers.
        ask: usize,
        /// What comes after the deltas before it.
        text: String,
    },
    /// The last that is heard of the order.
    Answer(Answer),
}

/// What is asked, how urgently, and who hears the answer.
pub struct Order {
    /// How urgent it is.
    pub class: Class,
    /// It is stopped then.
    pub deadline: Instant,
    /// Pictures and questions.
    pub job: Job,
    /// Hears its events.
    pub reply: Reply,
}

/// What came of an order.
#[derive(Debug)]
pub struct Answer {
    /// The order.
    pub id: OrderId,
    /// One entry a question, in order.
    pub answers: Vec<Result<Completion, VlmError>>,
    /// The job's share of the time.
    pub timing: Timing,
}

/// A class has no room for another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} questions of this kind wait already")]
pub struct Full;

enum Command {
    Submit(OrderId, Order),
    Cancel(OrderId),
    /// Somebody would ask, were the backend ready.
    Want,
}

/// What others see of the backend.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    readiness: Readiness,
    health: Health,
    info: ModelInfo,
    pid: Option<u32>,
    failures: u64,
}

struct Shared {
    abilities: Abilities,
    seen: Mutex<Seen>,
    /// Orders of each class that wait or are under way.
    open: [AtomicU64; Class::ALL.len()],
}

impl Shared {
    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The scheduler's thread and the way to it. Dropping it ends the thread, and with it the backend.
pub struct Engine {
    commands: Arc<Queue<Command>>,
    shared: Arc<Shared>,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread; `changed` is called whenever readiness or health are others.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(backend: Box<dyn Backend>, changed: Box<dyn Fn() + Send>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            abilities: backend.abilities().clone(),
            seen: Mutex::new(seen(&*backend)),
            open: Default::default(),
        });
        let commands = Arc::new(Queue::new(Policy::Wait, COMMANDS_MAX));
        let inbox = Arc::clone(&commands);
        let mut scheduler = Scheduler {
            backend,
            shared: Arc::clone(&shared),
            changed,
            orders: BTreeMap::new(),
            waiting: BTreeSet::new(),
            under_way_bytes: 0,
            under_way: BTreeSet::new(),
            wanted: false,
            losses: 0,
            began: Instant::now(),
        };
        let thread = threads::spawn("engine", move || {
            // Whatever ends the thread: nobody waits for room in its queue then.
            let inbox = ClosedAtTheEnd(inbox);
            scheduler.run(&inbox.0);
        })?;
        Ok(Self { commands, shared, next: AtomicU64::new(1), thread: Some(thread) })
    }

    /// Gives an order; its reply comes whatever happens, on another thread.
    ///
    /// # Errors
    /// [`Full`]: the class has no room. The line always has.
    pub fn submit(&self, order: Order) -> Result<OrderId, Full> {
        let open = &self.shared.open[order.class as usize];
        if order.class != Class::Line && open.load(Ordering::Relaxed) >= WAITING_MAX as u64 {
            return Err(Full);
        }
        open.fetch_add(1, Ordering::Relaxed);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Submit(id, order));
        Ok(id)
    }

    /// Stops an order; its reply comes all the same.
    pub fn cancel(&self, id: OrderId) {
        self.send(Command::Cancel(id));
    }

    /// Says that somebody would ask, so that a backend which is not there comes.
    pub fn want(&self) {
        self.send(Command::Want);
    }

    /// What it can answer.
    pub fn abilities(&self) -> &Abilities {
        &self.shared.abilities
    }

    /// Whether it can be asked now.
    pub fn readiness(&self) -> Readiness {
        self.shared.seen().readiness
    }

    /// Losses, faults and proofs of the backend, as of its last step.
    pub fn health(&self) -> Health {
        self.shared.seen().health
    }

    /// Starts that failed and losses so far.
    pub fn failures(&self) -> u64 {
        self.shared.seen().failures
    }

    /// Name and hashes of the model; empty until it was first there.
    pub fn info(&self) -> ModelInfo {
        self.shared.seen().info
    }

    /// The process that holds the model, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.shared.seen().pid
    }

    /// True when its thread has ended by itself, which only a panic does: nothing is answered any more.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn send(&self, command: Command) {
        // A queue that is closed has no thread any more, which shows by `is_over`.
        let _ = self.commands.push(command);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.commands.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the engine's thread had panicked");
        }
    }
}

/// Closes the queue when it is dropped.
struct ClosedAtTheEnd(Arc<Queue<Command>>);

impl Drop for ClosedAtTheEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn seen(backend: &dyn Backend) -> Seen {
    Seen {
        readiness: backend.readiness(),
        health: backend.health().clone(),
        info: backend.identity().clone(),
        pid: backend.pid(),
        failures: backend.failures(),
    }
}

/// An order that has no reply yet.
struct Open {
    class: Class,
    rank: Rank,
    deadline: Instant,
    /// Until the backend has it.
    job: Option<Job>,
    questions: usize,
    bytes: usize,
    /// The backend was told to stop it.
    stopped: bool,
    reply: Reply,
}

struct Scheduler {
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    changed: Box<dyn Fn() + Send>,
    orders: BTreeMap<OrderId, Open>,
    /// Best first.
    waiting: BTreeSet<(Rank, OrderId)>,
    under_way: BTreeSet<OrderId>,
    under_way_bytes: usize,
    wanted: bool,
    /// Of the backend, so far.
    losses: u64,
    began: Instant,
}

impl Scheduler {
    fn run(&mut self, inbox: &Queue<Command>) {
        let (mut answered, mut deltas) = (vec![], vec![]);
        while self.listen(inbox) {
            self.stop_late();
            self.feed();
            let wait = if self.under_way.is_empty() { Duration::ZERO } else { BUSY_POLL };
            let wanted = self.wanted || !self.orders.is_empty();
            self.backend.next(wait, wanted, &mut answered);
            self.backend.deltas(&mut deltas);
            deltas.drain(..).for_each(|delta| self.say(delta));
            for Answered { id, answers, timing } in answered.drain(..) {
                self.reply(id, answers, timing);
            }
            self.after_a_loss();
            self.show();
        }
        // Who still waits, waits for nobody.
        self.lose(|_| true, "the station ends");
    }

    /// Takes commands in, waiting for one only when there is nothing else to do; false at the end.
    fn listen(&mut self, inbox: &Queue<Command>) -> bool {
        // Whoever waits for the backend looks soon; who waits for nothing, now and then.
        let mut wait = match (self.under_way.is_empty(), self.orders.is_empty() && !self.wanted) {
            (false, _) => Duration::ZERO,
            (true, false) => BUSY_POLL,
            (true, true) => IDLE_POLL,
        };
        loop {
            match inbox.pop(Some(wait)) {
                Popped::Item(Command::Submit(id, order)) => self.take(id, order),
                Popped::Item(Command::Cancel(id)) => self.stop(id),
                Popped::Item(Command::Want) => self.wanted = true,
                Popped::Closed => return false,
                Popped::TimedOut => return true,
            }
            wait = Duration::ZERO;
        }
    }

    fn take(&mut self, id: OrderId, order: Order) {
        let Order { class, deadline, job, reply } = order;
        let due = deadline.saturating_duration_since(self.began).as_micros();
        let rank = Rank { class: class as u8, due: u64::try_from(due).unwrap_or(u64::MAX) };
        let bytes = job.shown.images().iter().map(|i| i.as_raw().len()).sum();
        let questions = job.asks.len();
        self.waiting.insert((rank, id));
        let unable = self.backend.abilities().check(&job).err();
        let job = Some(job);
        self.orders.insert(id, Open { class, rank, deadline, job, questions, bytes, stopped: false, reply });
        if let Some(why) = unable {
            let unable = || Err(VlmError::Unable { why: why.clone() });
            self.reply(id, (0..questions).map(|_| unable()).collect(), Timing::default());
        }
    }

    /// Stops what is late.
    fn stop_late(&mut self) {
        let now = Instant::now();
        let late = |open: &Open| open.deadline <= now && !open.stopped;
        let late: Vec<OrderId> =
            self.orders.iter().filter(|(_, open)| late(open)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.stop(id));
    }

    fn stop(&mut self, id: OrderId) {
        let Some(open) = self.orders.get_mut(&id) else { return };
        if self.under_way.contains(&id) {
            if !std::mem::replace(&mut open.stopped, true) {
                self.backend.cancel(id);
            }
            return;
        }
        let error = || match self.backend.readiness() {
            Readiness::Ready => VlmError::Stopped,
            Readiness::Coming { why } | Readiness::Resting { why, .. } => VlmError::Lost { why },
        };
        let answers = (0..open.questions).map(|_| Err(error())).collect();
        self.reply(id, answers, Timing::default());
    }

    /// Gives the backend the best of what waits, as much as it should have at once.
    fn feed(&mut self) {
        while self.backend.readiness() == Readiness::Ready && self.under_way.len() < UNDER_WAY_MAX {
            let Some((_, id)) = self.waiting.first().copied() else { return };
            let Some(open) = self.orders.get_mut(&id) else { return };
            // Whatever others have under way, the line finds room.
            let share = if open.class == Class::Line { 1 } else { 2 };
            let is_full = self.under_way.len() >= UNDER_WAY_MAX / share
                || self.under_way_bytes + open.bytes > UNDER_WAY_BYTES / share;
            if is_full && !self.under_way.is_empty() {
                return;
            }
            self.waiting.pop_first();
            let Some(job) = open.job.take() else { continue };
            self.under_way.insert(id);
            self.under_way_bytes += open.bytes;
            self.wanted = false;
            self.backend.submit(id, open.rank, job);
        }
    }

    /// A lost engine takes the line's waiting orders with it: their frames have lost others, and what has killed one
    /// process is not given to the next.
    fn after_a_loss(&mut self) {
        let Health { losses, fault, .. } = self.backend.health();
        if std::mem::replace(&mut self.losses, *losses) == *losses {
            return;
        }
        let why = fault.clone().unwrap_or_default();
        self.lose(|open| open.class == Class::Line && open.job.is_some(), &why);
    }

    /// Answers orders that nobody will answer.
    fn lose(&mut self, which: impl Fn(&Open) -> bool, why: &str) {
        let lost = self.orders.iter().filter(|(_, open)| which(open));
        let lost: Vec<(OrderId, usize)> = lost.map(|(id, open)| (*id, open.questions)).collect();
        for (id, questions) in lost {
            let answers = (0..questions).map(|_| Err(VlmError::Lost { why: why.to_owned() })).collect();
            self.reply(id, answers, Timing::default());
        }
    }

    fn reply(&mut self, id: OrderId, answers: Vec<Result<Completion, VlmError>>, timing: Timing) {
        let Some(open) = self.orders.remove(&id) else { return };
        self.waiting.remove(&(open.rank, id));
        if self.under_way.remove(&id) {
            self.under_way_bytes -= open.bytes;
        }
        self.shared.open[open.class as usize].fetch_sub(1, Ordering::Relaxed);
        (open.reply)(Event::Answer(Answer { id, answers, timing }));
    }

    fn say(&self, Delta { id, ask, text }: Delta) {
        if let Some(open) = self.orders.get(&id) {
            (open.reply)(Event::Delta { id, ask, text });
        }
    }

    /// Shows what the backend is now, and says so when it is another.
    fn show(&mut self) {
        let now = seen(&*self.backend);
        let same_kind = |a: &Readiness, b: &Readiness| match (a, b) {
            // Its time runs all the while.
            (Readiness::Resting { why, .. }, Readiness::Resting { why: other, .. }) => why == other,
            (a, b) => a == b,
        };
        let before = std::mem::replace(
            &mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner),
            now.clone(),
        );
        if now.readiness == Readiness::Ready {
            self.wanted = false;
        }
        let same = same_kind(&now.readiness, &before.readiness)
            && now.health == before.health
            && now.failures == before.failures
            && now.info == before.info;
        if !same {
            (self.changed)();
        }
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
