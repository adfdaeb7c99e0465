//! Takes frames from one source as its trigger says, and puts them into the camera's queue.
//!
//! ```text
//! trigger --want--> source --picture--> window: its own? --yes--> queue
//!    ^                 ^                  |  '--older--> asked again
//!    '-- the next ---- | ----- kept ------|
//!                      '---- no picture, or not its own --> review, with the reason
//! ```
//!
//! Invariant: a triggered part goes on with a picture of its own, by the rule of `camera::window`, or is
//! recorded without one, and both by the recipe that was active when its trigger was accepted. One part that
//! has no picture of its own raises the alarm `trigger_{id}`, and the next that has one clears it.

use super::cameras::{Feed, Shot};
use super::intake::{Awaited, Intake};
use super::recorder::Recorder;
use super::station::Station;
use crate::camera::window::{Taken, Window};
use crate::camera::{CameraError, Source, Stop};
use crate::domain::frame::{Frame, Trigger};
use crate::domain::grade::Reason;
use crate::domain::pipeline::Pipeline;
use crate::inspect::uninspected;
use crate::publish::StationEvent;
use crate::queue::{Popped, Pushed};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use vlm::ModelInfo;

/// A source that fails is asked again after this long, so that it does not fill the log.
const RETRY: Duration = Duration::from_secs(1);
/// How often a capture loop without work sees whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// The thread of one camera.
pub(super) struct CaptureLoop {
    pub id: String,
    pub source: Box<dyn Source>,
    pub feed: Feed,
    pub intake: Arc<Intake>,
    /// The dispatcher decides when a picture is taken.
    pub on_command: bool,
    pub recorder: Arc<Recorder>,
    pub model: ModelInfo,
    pub interval: Option<Duration>,
    /// Overrides the pipeline's.
    pub deadline: Option<Duration>,
    pub stop: Stop,
    pub bell: SyncSender<()>,
    /// Which picture is of which triggered part.
    pub window: Window,
    pub station: Arc<Station>,
    /// The alarm stands: the last triggered part had no picture of its own.
    pub without_own: bool,
    /// The part that is being served, until its picture is handed over or its review is stored.
    pub under_way: Option<Awaited>,
    /// Parts that hardware triggered and nobody has seen, which are not recorded yet.
    pub lost: u64,
}

impl CaptureLoop {
    /// An alarm of a former run does not stand any more.
    pub(super) fn clear_alarm(&self) {
        if self.on_command {
            let code = format!("trigger_{}", self.id);
            self.station.publish(StationEvent::Alarm { code, raised: false, message: String::new() });
        }
    }

    /// Takes frames until the source ends or the station stops. After a panic it may be called again.
    pub(super) fn run(&mut self) {
        self.tell(None);
        if self.on_command {
            self.on_commands();
        } else {
            self.on_clock();
        }
    }

    /// No more frames come.
    pub(super) fn end(&self) {
        self.feed.frames.close();
        self.ring();
    }

    /// After a panic, until the pause is over or the station stops: records what was under way, and everybody who
    /// triggers meanwhile.
    pub(super) fn rest(&mut self, reason: &str, until: Instant) {
        self.station.thread(&self.id, Some(reason.to_owned()));
        let failed = || Reason::Frame { message: reason.to_owned() };
        if let Some(awaited) = self.under_way.take() {
            self.window.gave_up(awaited.received);
            if self.recorder.owes(&awaited.trigger) {
                self.record_unseen(awaited, failed());
            }
        }
        while self.on_command && Instant::now() < until && !self.stop.is_set() {
            match self.intake.next(LOOK) {
                Popped::Item(awaited) => {
                    self.window.gave_up(awaited.received);
                    self.record_unseen(awaited, failed());
                }
                Popped::TimedOut => {}
                Popped::Closed => return,
            }
        }
        self.stop.wait_until(until);
        self.station.thread(&self.id, None);
    }

    fn on_clock(&mut self) {
        self.record_those_lost();
        let mut due = Instant::now();
        let mut fault = None;
        while !self.stop.wait_until(due) {
            if self.intake.is_paused() {
                self.source.forget();
                due = Instant::now() + LOOK;
                continue;
            }
            due = match self.interval {
                Some(interval) => (due + interval).max(Instant::now()),
                None => Instant::now(),
            };
            // Where the source panics there was a picture, and so a part.
            self.under_way = Some(self.untriggered());
            let next = self.source.next();
            self.under_way = None;
            match next {
                Ok(Some(mut frame)) => {
                    if fault.take().is_some() {
                        self.tell(None);
                    }
                    frame.trigger.deadline = frame.trigger.deadline.or(self.deadline);
                    if !self.push(frame, self.intake.pipeline()) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(CameraError::Lost { count }) => {
                    tracing::error!(camera = %self.id, count, "hardware triggered while there was no room");
                    self.lost = self.lost.saturating_add(count);
                    self.record_those_lost();
                }
                Err(error) if error.is_one_picture() => self.record_broken(&error),
                Err(error) => {
                    // A fault that lasts is said once.
                    if fault.replace(error.to_string()) != Some(error.to_string()) {
                        tracing::error!(camera = %self.id, %error, "no picture");
                        self.tell(Some(&error));
                    }
                    due = due.max(Instant::now() + RETRY);
                }
            }
        }
    }

    /// Serves until the dispatcher closes: whatever it has accepted is recorded, with a picture or without.
    fn on_commands(&mut self) {
        let mut over = false;
        loop {
            match self.intake.next(LOOK) {
                Popped::Item(awaited) if over || self.stop.is_set() => {
                    self.record_unseen(awaited, Reason::Interrupted);
                }
                Popped::Item(awaited) => {
                    self.under_way = Some(awaited.clone());
                    over = !self.serve(awaited);
                    self.under_way = None;
                    if over {
                        self.intake.close();
                    }
                }
                Popped::TimedOut => {}
                Popped::Closed => return,
            }
        }
    }

    /// One trigger, one inspection: with a picture, or a review without one. False when it is over.
    fn serve(&mut self, mut awaited: Awaited) -> bool {
        let received = awaited.received;
        let limit = self.deadline.unwrap_or(awaited.pipeline.verdict.deadline);
        let limit = awaited.trigger.deadline.unwrap_or(limit);
        let (intake, late) = (Arc::clone(&self.intake), received.checked_add(limit));
        let taken = self.window.take(&mut *self.source, received, late, &|| intake.next_received());
        let reason = match &taken {
            Taken::Frame(_) | Taken::Over => None,
            Taken::Nothing(message) => Some(Reason::Frame { message: message.clone() }),
            Taken::Late => {
                let late = received.elapsed().saturating_sub(limit);
                Some(Reason::Deadline { late_ms: late.as_millis() as u64 })
            }
        };
        if !matches!(taken, Taken::Over) {
            self.tell_own(reason.as_ref());
        }
        match (taken, reason) {
            (Taken::Frame(mut frame), _) => {
                // The deadline of a triggered part counts from its trigger, not from the exposure.
                let waited = frame.captured.saturating_duration_since(received);
                awaited.trigger.deadline = Some(limit.saturating_sub(waited));
                frame.trigger = joined(awaited.trigger, frame.trigger);
                self.push(*frame, awaited.pipeline)
            }
            (_, Some(reason)) => {
                awaited.trigger.deadline = Some(limit);
                self.record_unseen(awaited, reason);
                true
            }
            (_, None) => {
                self.record_unseen(awaited, Reason::Interrupted);
                false
            }
        }
    }

    /// Raises the alarm with the first part without a picture of its own, and clears it with the next that has one.
    fn tell_own(&mut self, missing: Option<&Reason>) {
        if let Some(reason) = missing {
            tracing::error!(camera = %self.id, %reason, "a triggered part has no picture of its own");
        }
        let raised = missing.is_some();
        if std::mem::replace(&mut self.without_own, raised) != raised {
            let message = missing.map_or_else(String::new, ToString::to_string);
            let code = format!("trigger_{}", self.id);
            self.station.publish(StationEvent::Alarm { code, raised, message });
        }
    }

    /// A picture that is of no use is that of a part which nobody has seen.
    fn record_broken(&self, error: &CameraError) {
        tracing::error!(camera = %self.id, %error, "a picture is of no use");
        let ticket = match error {
            CameraError::BrokenFile { ticket, .. } => *ticket,
            _ => None,
        };
        let mut frame = self.without_picture(Trigger { ticket, ..Trigger::default() }, Instant::now());
        if let Some(file) = error.file() {
            frame.origin = file.display().to_string();
        }
        let reason = Reason::Frame { message: error.to_string() };
        self.record_lost(&frame, &self.intake.pipeline(), reason, false);
    }

    /// What is awaited for a picture that nobody has triggered.
    fn untriggered(&self) -> Awaited {
        let (trigger, received) = (Trigger::default(), Instant::now());
        Awaited { trigger, received, pipeline: self.intake.pipeline() }
    }

    /// A frame that stands for a picture that never came.
    fn without_picture(&self, trigger: Trigger, received: Instant) -> Frame {
        let now = self.recorder.now();
        let captured_at = now.checked_sub(received.elapsed()).unwrap_or(now);
        Frame { captured: received, ..Frame::without_picture(&self.id, trigger, captured_at) }
    }

    /// A trigger that got no picture.
    fn record_unseen(&self, awaited: Awaited, reason: Reason) {
        let frame = self.without_picture(awaited.trigger, awaited.received);
        self.record_lost(&frame, &awaited.pipeline, reason, false);
    }

    fn record_those_lost(&mut self) {
        while self.lost > 0 {
            let unseen = self.without_picture(Trigger::default(), Instant::now());
            self.record_lost(&unseen, &self.intake.pipeline(), Reason::QueueFull, true);
            self.lost -= 1;
        }
    }

    fn record_lost(&self, frame: &Frame, pipeline: &Pipeline, reason: Reason, dropped: bool) {
        let inspection = uninspected(frame, pipeline, &self.model, reason);
        self.recorder.record(&inspection, &frame.pixels, dropped);
    }

    /// False when the queue is closed.
    fn push(&mut self, mut frame: Frame, pipeline: Arc<Pipeline>) -> bool {
        // From here on it is in the queue, or recorded below.
        self.under_way = None;
        frame.camera.clone_from(&self.id);
        let part = frame.trigger.part_id.as_deref();
        tracing::debug!(camera = %self.id, part, origin = %frame.origin, "a picture is taken");
        self.station.exposed(&self.id, frame.trigger.correlation_id.clone());
        let open = match self.feed.frames.push(Shot { frame, pipeline }) {
            Pushed::Queued => true,
            Pushed::Dropped(Shot { frame, pipeline }) => {
                let (trigger, received) = (frame.trigger.clone(), frame.captured);
                self.under_way = Some(Awaited { trigger, received, pipeline: Arc::clone(&pipeline) });
                self.record_lost(&frame, &pipeline, Reason::QueueFull, true);
                self.under_way = None;
                true
            }
            Pushed::Closed(Shot { frame, pipeline }) => {
                let origin = &frame.origin;
                tracing::warn!(camera = %self.id, %origin, "taken while stopping, not inspected");
                if self.on_command {
                    self.record_lost(&frame, &pipeline, Reason::Interrupted, false);
                }
                false
            }
        };
        self.ring();
        open
    }

    /// A bell that rings already needs no second ring.
    fn ring(&self) {
        let _ = self.bell.try_send(());
    }

    fn tell(&self, fault: Option<&CameraError>) {
        if self.source.reports_itself() {
            return;
        }
        self.recorder.source(&self.id, fault.map(ToString::to_string));
    }
}

/// What the sender knows about the part, and where it says nothing, what the source knows.
fn joined(sent: Trigger, known: Trigger) -> Trigger {
    Trigger {
        id: sent.id.or(known.id),
        part_id: sent.part_id.or(known.part_id),
        lot: sent.lot.or(known.lot),
        expected: if sent.expected.is_empty() { known.expected } else { sent.expected },
        correlation_id: sent.correlation_id.or(known.correlation_id),
        meas_id: sent.meas_id.or(known.meas_id),
        deadline: sent.deadline.or(known.deadline),
        part: sent.part.or(known.part),
        ticket: sent.ticket.or(known.ticket),
    }
}
