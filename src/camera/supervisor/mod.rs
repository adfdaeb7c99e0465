//! The supervisor of one camera: a thread that owns the capture child, and the [`Source`] the line sees.
//!
//! ```text
//! Source::take --Take--> child --Frame--> supervisor --slot--> Source::take
//!                          |                  |
//!                          '--Alive, Fault----+--> machine --> kill, wait, spawn
//!                                             '--> report: ready, fault with its reason
//! ```
//!
//! Nothing a child sends is believed: sizes must fit the bytes and stay what they were, stamps must rise and not lie
//! in the future, no more parts are lost than a line can trigger, and reasons are cut to a length. What does not fit
//! is a bad message, and so a fault of the child. A panic of the supervisor itself is a fault like any other: the
//! child is ended, and a new one started when the machine allows it. The line sees `domain::Frame`s and never
//! learns what kind of device they came from.
//!
//! An order that nobody waits for any more is forgotten here and in the child, and a child that is started
//! anew gets the order only while it is still waited for.

pub mod machine;

use super::device::{Stamp, monotonic_ns};
use super::kind::Settings;
use super::picture::Condition;
use super::wire::{FromCapture, ToCapture};
use super::{CameraError, Source, Stop, Want};
use crate::domain::frame::{Frame, Trigger};
use crate::ipc::{Channel, Child, IpcError, Program};
use crate::threads;
use image::RgbImage;
use machine::{Limits, Machine, State, Step};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a supervisor looks after its child, at least.
const LOOK: Duration = Duration::from_millis(100);
/// A message that began is through in this time.
const MESSAGE_WITHIN: Duration = Duration::from_secs(2);
/// How often a missing device is looked for.
const PRESENCE_EVERY: Duration = Duration::from_millis(500);
/// Frames that hardware triggered and nobody has taken yet.
const PUSHED_MAX: usize = 8;
/// Parts that a child may call lost: so many at once, as a driver's buffers hold and more, and so many for each
/// second since the last time, ten times what any line inspects; at most [`LOST_MAX`] in one message.
const LOST_AT_ONCE: u64 = 256;
const LOST_PER_SECOND: u64 = 100;
const LOST_MAX: u64 = 10_000;
/// A child's reason in characters; it ends up in records, messages and pages.
const REASON_CHARS_MAX: usize = 300;

/// What the camera's supervisor has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The device is open and gives pictures.
    Ready,
    /// No pictures come, for this reason.
    Fault {
        /// In words, for records, messages and pages.
        reason: String,
    },
    /// What the newest picture is worth.
    Condition(Condition),
}

/// Takes reports; called from the supervisor's thread, and must not wait.
pub type Reporter = Box<dyn Fn(Report) + Send>;

/// A camera whose device lives in a process of its own.
pub struct Supervised {
    camera: String,
    shared: Arc<Shared>,
    stop: Stop,
    /// Ends this supervisor alone.
    over: Stop,
    thread: Option<JoinHandle<()>>,
    orders: u64,
    /// Orders are made by hardware: `next` waits for what comes.
    pushed: bool,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    /// The sending half to the running child.
    sender: Option<Channel>,
    /// The order without its frame.
    wanted: Option<Wanted>,
    /// The exposure of the wanted order came broken.
    missed: Option<String>,
    frames: std::collections::VecDeque<Frame>,
    /// Frames that hardware triggered and that had no room, or came broken; not reported yet.
    lost: u64,
    ended: bool,
    /// Why there is no child.
    fault: Option<String>,
}

/// An order that is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    order: u64,
    after_ns: Option<u64>,
    by_ns: Option<u64>,
}

impl Wanted {
    fn new(order: u64, want: Want) -> Self {
        let ns = |at: Instant| {
            let (now, now_ns) = (Instant::now(), monotonic_ns());
            let ahead = at.saturating_duration_since(now).as_nanos() as u64;
            let ago = now.saturating_duration_since(at).as_nanos() as u64;
            now_ns.saturating_add(ahead).saturating_sub(ago)
        };
        Self { order, after_ns: want.after.map(ns), by_ns: want.by.map(ns) }
    }

    const fn message(self) -> ToCapture {
        ToCapture::Take { order: self.order, after_ns: self.after_ns, by_ns: self.by_ns }
    }
}

impl Shared {
    /// Every change under the lock is complete before anything could panic.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervised {
    /// Starts the supervisor and its first child. `program` is `inspectd capture`, or what a test puts
    /// in its place; `pushed` says that hardware triggers the camera.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(
        settings: Settings,
        program: Program,
        limits: Limits,
        pushed: bool,
        stop: Stop,
        report: Reporter,
    ) -> std::io::Result<Self> {
        let (shared, over) = (Arc::new(Shared::default()), Stop::default());
        let keeper = Keeper {
            settings,
            program,
            machine: Machine::new(Instant::now(), limits, rand::random),
            child: None,
            shared: Arc::clone(&shared),
            stop: stop.clone(),
            over: over.clone(),
            report,
            looked: Instant::now(),
            last_ns: 0,
            size: None,
            lost_since: Instant::now(),
            pushed,
        };
        let camera = keeper.settings.camera.clone();
        let thread = threads::spawn(&format!("watch:{camera}"), move || keeper.run())?;
        Ok(Self { camera, shared, stop, over, thread: Some(thread), orders: 0, pushed })
    }

    fn order(&mut self, slot: &mut Slot, want: Want) {
        self.orders += 1;
        let wanted = Wanted::new(self.orders, want);
        slot.wanted = Some(wanted);
        slot.missed = None;
        slot.frames.clear();
        if let Some(sender) = &mut slot.sender {
            // A child that does not take it is seen by its supervisor, which orders again from the next.
            let _ = sender.send(&wanted.message(), &[], MESSAGE_WITHIN);
        }
    }
}

impl Source for Supervised {
    /// With `want.by` it waits through faults until then; without, a fault is reported at once.
    fn take(&mut self, want: Want) -> Result<Option<Frame>, CameraError> {
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.lock();
        if !self.pushed {
            self.order(&mut slot, want);
        }
        loop {
            let count = std::mem::take(&mut slot.lost);
            if count > 0 {
                return Err(CameraError::Lost { count });
            }
            if let Some(frame) = slot.frames.pop_front() {
                return Ok(Some(frame));
            }
            if let Some(reason) = slot.missed.take() {
                return Err(CameraError::Broken { origin: self.camera.clone(), reason });
            }
            if slot.ended || self.stop.is_set() {
                slot.wanted = None;
                return Ok(None);
            }
            let fault = slot.fault.clone();
            if (fault.is_some() && want.by.is_none()) || want.is_over() {
                slot.wanted = None;
                return Err(fault.map_or(CameraError::Late, |reason| CameraError::Device { reason }));
            }
            let wait = want.by.map_or(LOOK, |by| by.saturating_duration_since(Instant::now()).min(LOOK));
            slot = shared.changed.wait_timeout(slot, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn forget(&mut self) {
        let mut slot = self.shared.lock();
        slot.frames.clear();
        slot.lost = 0;
    }

    fn reports_itself(&self) -> bool {
        true
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.over.set();
        if let Some(thread) = self.thread.take() {
            // It only fails when the thread panicked, which was logged.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Keeper {
    settings: Settings,
    program: Program,
    machine: Machine,
    child: Option<Child>,
    shared: Arc<Shared>,
    stop: Stop,
    over: Stop,
    report: Reporter,
    /// When a missing device was last looked for.
    looked: Instant,
    /// The newest stamp of this child.
    last_ns: u64,
    /// Of this child's pictures.
    size: Option<(u32, u32)>,
    /// When this child was started, or called parts lost for the last time.
    lost_since: Instant,
    pushed: bool,
}

impl Keeper {
    fn run(mut self) {
        while let Err(words) = threads::caught(|| self.watch()) {
            let reason = format!("the camera's supervisor failed: {words}");
            let step = self.machine.fault(Instant::now(), reason);
            self.carry_out(step);
        }
        self.child = None;
        let mut slot = self.shared.lock();
        slot.sender = None;
        slot.ended = true;
        self.shared.changed.notify_all();
    }

    /// Until the station stops, or the recording is over.
    fn watch(&mut self) {
        while !self.stop.is_set() && !self.over.is_set() {
            let step = match &mut self.child {
                Some(child) => match child.channel.recv::<FromCapture>(LOOK, MESSAGE_WITHIN) {
                    Ok(Some((FromCapture::Ended, _))) => break,
                    Ok(Some((message, payload))) => self.receive(message, payload),
                    Ok(None) => Step::Nothing,
                    Err(error) => self.broken(&error),
                },
                None => {
                    self.look();
                    Step::Nothing
                }
            };
            self.carry_out(step);
            let step = self.machine.tick(Instant::now());
            self.carry_out(step);
        }
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Spawn => self.spawn(),
            Step::Report(reason) => self.report_fault(reason),
            Step::Kill(reason) => self.kill(reason),
        }
    }

    fn report_fault(&self, reason: String) {
        self.shared.lock().fault = Some(reason.clone());
        self.shared.changed.notify_all();
        (self.report)(Report::Fault { reason });
    }

    fn spawn(&mut self) {
        (self.last_ns, self.size) = (0, None);
        self.lost_since = Instant::now();
        let open = ToCapture::Open(Box::new(self.settings.clone()));
        let child = Child::spawn(&self.program).and_then(|mut child| {
            child.channel.send(&open, &[], MESSAGE_WITHIN)?;
            Ok(child)
        });
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                let step = self.machine.fault(Instant::now(), error.to_string());
                self.carry_out(step);
            }
        }
    }

    fn kill(&mut self, reason: String) {
        tracing::warn!(camera = %self.settings.camera, %reason, "the capture process is ended");
        let mut slot = self.shared.lock();
        slot.sender = None;
        slot.fault = Some(reason.clone());
        drop(slot);
        self.shared.changed.notify_all();
        (self.report)(Report::Fault { reason });
        // Ends and reaps it.
        self.child = None;
    }

    /// Waits a little for the device to come back, while there is no child.
    fn look(&mut self) {
        let State::Waiting { until, .. } = &self.machine.state else { return };
        self.stop.wait_until((*until).min(Instant::now() + LOOK));
        if self.looked.elapsed() >= PRESENCE_EVERY {
            self.looked = Instant::now();
            if let Some(there) = self.settings.kind.is_there() {
                self.machine.seen(Instant::now(), there);
            }
        }
    }

    fn broken(&mut self, error: &IpcError) -> Step {
        let reason = match (error, self.child.as_mut().and_then(Child::exited)) {
            (IpcError::Closed, Some(status)) => format!("the capture process ended: {status}"),
            (error, _) => error.to_string(),
        };
        self.machine.fault(Instant::now(), reason)
    }

    fn receive(&mut self, message: FromCapture, payload: Vec<u8>) -> Step {
        let now = Instant::now();
        match message {
            FromCapture::Opened if matches!(self.machine.state, State::Starting { .. }) => self.opened(now),
            FromCapture::Opened => {
                self.machine.fault(now, "a bad message: the device was opened twice".into())
            }
            FromCapture::Alive(alive) => {
                self.machine.alive(now, alive);
                if let Some(condition) = alive.condition {
                    (self.report)(Report::Condition(condition));
                }
                Step::Nothing
            }
            FromCapture::Frame { order: None, .. } if !self.pushed => {
                self.machine.fault(now, "a bad message: a picture that nobody has ordered".into())
            }
            FromCapture::Frame { order, older, width_px, height_px, stamp, number } => {
                if older > 0 {
                    tracing::debug!(camera = %self.settings.camera, older, "pictures from before the order");
                }
                match self.frame(width_px, height_px, stamp, number, payload) {
                    Ok(frame) => {
                        self.hand_over(order, frame);
                        Step::Nothing
                    }
                    Err(reason) => self.machine.fault(now, reason),
                }
            }
            FromCapture::Lost { count } => match self.lost(now, count) {
                Ok(()) => Step::Nothing,
                Err(reason) => self.machine.fault(now, reason),
            },
            FromCapture::Missed { order, reason } => {
                let mut slot = self.shared.lock();
                if slot.wanted.is_some_and(|wanted| wanted.order == order) {
                    slot.wanted = None;
                    slot.missed = Some(readable(&reason));
                }
                drop(slot);
                self.shared.changed.notify_all();
                Step::Nothing
            }
            FromCapture::Fault { reason } => self.machine.fault(now, readable(&reason)),
            FromCapture::Ended => Step::Nothing,
        }
    }

    /// Parts that nobody has seen, when so many can have been.
    fn lost(&mut self, now: Instant, count: u64) -> Result<(), String> {
        if !self.pushed {
            return Err(format!("a bad message: {count} parts lost that no hardware has triggered"));
        }
        let since = now.saturating_duration_since(self.lost_since);
        if count > lost_max(since) {
            return Err(format!("a bad message: {count} parts lost within {} ms", since.as_millis()));
        }
        self.lost_since = now;
        let mut slot = self.shared.lock();
        slot.lost = slot.lost.saturating_add(count);
        self.shared.changed.notify_all();
        Ok(())
    }

    fn opened(&mut self, now: Instant) -> Step {
        let sender = self.child.as_ref().map(|child| child.channel.try_clone());
        let Some(Ok(mut sender)) = sender else {
            return self.machine.fault(now, "no descriptor is left".into());
        };
        let mut slot = self.shared.lock();
        if let Some(wanted) = slot.wanted
            && let Err(error) = sender.send(&wanted.message(), &[], MESSAGE_WITHIN)
        {
            drop(slot);
            return self.broken(&error);
        }
        slot.sender = Some(sender);
        slot.fault = None;
        drop(slot);
        self.machine.opened(now);
        (self.report)(Report::Ready);
        Step::Nothing
    }

    /// A frame out of a child's words, or what is wrong with them.
    fn frame(
        &mut self,
        width_px: u32,
        height_px: u32,
        stamp: Stamp,
        number: u64,
        payload: Vec<u8>,
    ) -> Result<Frame, String> {
        let (bytes, now_ns) = (payload.len(), monotonic_ns());
        let expected = u128::from(width_px) * u128::from(height_px) * 3;
        if expected == 0 || bytes as u128 != expected {
            return Err(format!("a picture of {width_px}x{height_px} pixels with {bytes} bytes"));
        }
        let (w, h) = *self.size.get_or_insert((width_px, height_px));
        if (w, h) != (width_px, height_px) {
            return Err(format!("the pictures changed from {w}x{h} to {width_px}x{height_px} pixels"));
        }
        let recorded = self.settings.kind.is_recording();
        if !recorded && (stamp.monotonic_ns > now_ns || stamp.monotonic_ns < self.last_ns) {
            return Err(format!("a picture's time stamp {} does not rise", stamp.monotonic_ns));
        }
        self.last_ns = stamp.monotonic_ns;
        let pixels = RgbImage::from_raw(width_px, height_px, payload)
            .ok_or_else(|| "a picture without its bytes".to_owned())?;
        // A recording's picture is as old as its reading: its deadline counts from now.
        let age = Duration::from_nanos(if recorded { 0 } else { now_ns - stamp.monotonic_ns });
        let now = Instant::now();
        Ok(Frame {
            camera: self.settings.camera.clone(),
            pixels: Arc::new(pixels),
            captured_at: UNIX_EPOCH
                .checked_add(Duration::from_nanos(stamp.unix_ns))
                .unwrap_or_else(SystemTime::now),
            captured: now.checked_sub(age).unwrap_or(now),
            exposed: Some(Duration::from_nanos(stamp.monotonic_ns)),
            clip: vec![],
            trigger: Trigger::default(),
            origin: format!("{}:{number}", self.settings.camera),
            replayed: recorded,
        })
    }

    fn hand_over(&self, order: Option<u64>, frame: Frame) {
        let mut slot = self.shared.lock();
        // What answers an order that nobody waits for any more is forgotten, as every picture in between is.
        if order.is_some() && order != slot.wanted.map(|wanted| wanted.order) {
            return;
        }
        slot.wanted = None;
        if slot.frames.len() < PUSHED_MAX {
            slot.frames.push_back(frame);
        } else {
            slot.lost = slot.lost.saturating_add(1);
        }
        drop(slot);
        self.shared.changed.notify_all();
    }
}

/// How many parts a line can have triggered in such a time.
fn lost_max(since: Duration) -> u64 {
    since.as_secs().saturating_mul(LOST_PER_SECOND).saturating_add(LOST_AT_ONCE).min(LOST_MAX)
}

/// A child's words on one line, cut to a length.
fn readable(reason: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    reason.chars().take(REASON_CHARS_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_parts_are_lost_than_a_line_can_trigger() {
        let second = Duration::from_secs(1);
        assert_eq!(lost_max(Duration::ZERO), LOST_AT_ONCE);
        assert_eq!(lost_max(3 * second), LOST_AT_ONCE + 300);
        assert_eq!((lost_max(3600 * second), lost_max(Duration::MAX)), (LOST_MAX, LOST_MAX));
    }

    #[test]
    fn a_reason_is_one_line_of_a_bounded_length() {
        assert_eq!(readable("EIO\nlost \u{1b}[31m"), "EIO lost  [31m");
        assert_eq!(readable(&"ä".repeat(70_000)), "ä".repeat(REASON_CHARS_MAX));
    }
}
