//! The inspector: at most one frame of each camera under way, each recorded as soon as it is concluded. The
//! history of frames keeps away from the engine what is no new picture.
//!
//! ```text
//! feeds --one a camera--> frame history --> under way --orders--> engine
//!                           |                   ^------answers------'
//!                           '-------------------'--concluded--> recorder
//! ```
//!
//! A bell wakes it: a new frame, an answer, an engine that has changed. Taking one frame a camera shares the model
//! fairly: the engine takes the deadline that comes first, and a fast camera has no second frame in its queue.

use super::cameras::{Feeds, Shot};
use super::frame_history::FrameHistory;
use super::recorder::Recorder;
use super::station::Station;
use crate::engine::{Engine, Health, Reply};
use crate::inspect::under_way::{Inbox, UnderWay};
use crate::inspect::uninspected;
use crate::publish::StationEvent;
use crate::queue::Popped;
use crate::threads;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The inspector shows life at least this often.
const WAIT: Duration = Duration::from_secs(1);

/// Raised while the engine's process is lost, or cannot be started.
const ALARM_ENGINE: &str = "engine";

/// Raised while the model's files are not those that were accepted.
const ALARM_MODEL: &str = "model_changed";

/// Starts the inspector; it ends when every feed is closed and empty.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start(
    engine: Arc<Engine>,
    feeds: Feeds,
    recorder: Arc<Recorder>,
    station: Arc<Station>,
    history: FrameHistory,
) -> std::io::Result<JoinHandle<()>> {
    let inbox = Inbox::new(feeds.ring.clone());
    let reply = inbox.reply();
    let under_way = feeds.feeds.iter().map(|_| None).collect();
    let mut inspector = Inspector { engine, feeds, recorder, station, history, under_way, inbox, reply };
    threads::spawn("inspector", move || inspector.run())
}

/// How a round of all cameras ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// No frame will ever come.
    Over,
    /// There is nothing to do until the bell rings or a deadline passes.
    Waits,
    /// A frame was taken, and may be gone on with at once.
    GoesOn,
}

struct Inspector {
    engine: Arc<Engine>,
    feeds: Feeds,
    recorder: Arc<Recorder>,
    station: Arc<Station>,
    history: FrameHistory,
    /// By camera, as the feeds.
    under_way: Vec<Option<UnderWay>>,
    inbox: Arc<Inbox>,
    reply: Reply,
}

impl Inspector {
    fn run(&mut self) {
        // Alarms that stand from a former run are cleared or raised anew.
        let mut told = Health { losses: u64::MAX, ..Health::default() };
        loop {
            self.station.beat();
            assert!(!self.engine.is_over(), "the engine's thread has ended: nothing is answered any more");
            self.take_answers();
            let round = self.round();
            tell(&self.engine.health(), &mut told, &self.station);
            if round == Round::Over || self.recorder.failed() {
                return;
            }
            if round == Round::GoesOn {
                continue;
            }
            let due = self.under_way.iter().flatten().map(UnderWay::due).min();
            let wait = due.map_or(WAIT, |due| due.saturating_duration_since(Instant::now()));
            // After its deadline, not at it. Whether it rang or not, everything is looked at again.
            let _ = self.feeds.bell.recv_timeout((wait + Duration::from_millis(1)).min(WAIT));
        }
    }

    fn take_answers(&mut self) {
        for mut answer in self.inbox.take() {
            // One that belongs to nobody came after its frame was concluded.
            let _ = self.under_way.iter_mut().flatten().any(|frame| frame.take(&mut answer));
        }
    }

    /// Goes on with every camera, by one frame at most.
    fn round(&mut self) -> Round {
        let mut round = Round::Over;
        for camera in 0..self.under_way.len() {
            if let Some(mut frame) = self.under_way[camera].take() {
                match frame.advance(&self.engine, &self.reply) {
                    Some(inspection) => self.recorder.record(&inspection, &frame.frame.pixels, false),
                    None => self.under_way[camera] = Some(frame),
                }
                self.station.beat();
            }
            round = round.max(match self.under_way[camera] {
                Some(_) => Round::Waits,
                None => match self.feeds.feeds[camera].frames.pop(Some(Duration::ZERO)) {
                    Popped::Item(shot) => {
                        self.under_way[camera] = self.admit(shot);
                        Round::GoesOn
                    }
                    Popped::TimedOut => Round::Waits,
                    Popped::Closed => Round::Over,
                },
            });
        }
        round
    }

    /// A frame that is to be inspected; one that is not is recorded with its reason.
    fn admit(&mut self, shot: Shot) -> Option<UnderWay> {
        let (admitted, refused) = self.history.sort(vec![shot]);
        for (Shot { frame, pipeline }, reason) in refused {
            let inspection = uninspected(&frame, &pipeline, &self.engine.info(), reason);
            self.recorder.record(&inspection, &frame.pixels, false);
        }
        admitted.into_iter().next().map(|Shot { frame, pipeline }| UnderWay::new(frame, pipeline))
    }
}

/// Tells the alarms of the engine when something about it has changed. Files that are not accepted are no failure
/// of the engine: they have an alarm of their own.
fn tell(health: &Health, told: &mut Health, station: &Station) {
    if health == told {
        return;
    }
    told.clone_from(health);
    let Health { losses, fault, refused, .. } = health;
    let message = match fault {
        Some(fault) if refused.is_none() => format!("{fault} ({losses} lost since the start)"),
        _ => String::new(),
    };
    for (code, message) in [(ALARM_ENGINE, message), (ALARM_MODEL, refused.clone().unwrap_or_default())] {
        let raised = !message.is_empty();
        station.publish(StationEvent::Alarm { code: code.to_owned(), raised, message });
    }
}

#[cfg(test)]
#[path = "inspector_tests.rs"]
mod tests;
