//! A camera's thread that panics starts anew.
//!
//! ```text
//! run --panic--> fault on camera/{id}/status; the part under way is recorded: review("frame: …failed")
//!  ^               '--> rest: whoever triggers meanwhile gets such a review at once
//!  '--the pause is over-'
//! ```
//!
//! Pauses double from [`PAUSE_MIN`] to [`PAUSE_MAX`]; a thread that ran for [`CALM`] begins with the first again. The
//! source stays open: what it knows of files and parts that it has given must not be forgotten. A panic while
//! resting leaves its triggers to the next start, which finds them in the store.

use super::capture_loop::CaptureLoop;
use crate::threads;
use std::time::{Duration, Instant};

/// The first and the longest pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A thread that ran for so long has forgotten the panics before.
const CALM: Duration = Duration::from_mins(1);

/// The body of a camera's thread: takes until the source ends or the station stops.
pub(super) fn run(mut taker: CaptureLoop) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let Err(words) = threads::caught(|| taker.run()) else { break };
        if began.elapsed() >= CALM {
            pause = PAUSE_MIN;
        }
        let reason = format!("the camera's thread failed: {words}");
        tracing::error!(camera = %taker.id, reason, pause_s = pause.as_secs(), "it starts anew after a pause");
        let until = Instant::now() + pause;
        if let Err(words) = threads::caught(|| taker.rest(&reason, until)) {
            tracing::error!(camera = %taker.id, words, "what was triggered is recorded at the next start");
        }
        if taker.stop.wait_until(until) {
            break;
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
    taker.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::window::{Rule, Stamps, Window};
    use crate::camera::{CameraError, Source, Stop, Want};
    use crate::config::TriggerOn;
    use crate::daemon::cameras::Feed;
    use crate::daemon::commanded::Orders;
    use crate::daemon::dispatcher::Dispatcher;
    use crate::daemon::intake::{Intake, tests::camera};
    use crate::daemon::recorder::Recorder;
    use crate::daemon::station::Station;
    use crate::domain::camera::CameraState;
    use crate::domain::frame::{Frame, Trigger};
    use crate::domain::trigger::{Command, Request, Sender};
    use crate::publish::StationEvent;
    use crate::queue::{Policy, Popped, Queue};
    use crate::recipe;
    use crate::store::{Store, StoreOptions};
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;
    use std::time::SystemTime;
    use tokio::sync::mpsc;
    use vlm::ModelInfo;

    /// Panics at its first picture, as a decoder might.
    struct Scripted {
        calls: usize,
    }

    impl Source for Scripted {
        fn take(&mut self, _: Want) -> Result<Option<Frame>, CameraError> {
            self.calls += 1;
            assert!(self.calls > 1, "scripted");
            Ok(Some(Frame::without_picture("cam1", Trigger::default(), SystemTime::now())))
        }
    }

    struct Rig {
        store: Arc<Store>,
        dispatcher: Dispatcher,
        frames: Arc<Queue<crate::daemon::cameras::Shot>>,
        events: mpsc::Receiver<StationEvent>,
        stop: Stop,
        thread: std::thread::JoinHandle<()>,
        _dir: tempfile::TempDir,
    }

    impl Rig {
        fn start(on_command: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
            let text = std::fs::read_to_string("pipelines/any-part.toml").unwrap();
            let pipeline = Arc::new(recipe::pipeline_from_str("any-part", &text).unwrap());
            let (events_tx, events) = mpsc::channel(64);
            let (station, stop) = (Arc::new(Station::new(events_tx)), Stop::default());
            let recorder =
                Recorder::new(Arc::clone(&store), Arc::clone(&station), stop.clone(), false).unwrap();
            let on = if on_command { TriggerOn::Command } else { TriggerOn::Interval };
            let rule = Rule { within: None, on_its_way: Duration::ZERO, stamps: Stamps::Order };
            let intake = Arc::new(Intake::new(&camera("cam1", on), Orders::configured(pipeline)));
            let intakes = vec![Arc::clone(&intake)];
            let dispatcher =
                Dispatcher::new(intakes, vec![], Arc::default(), Arc::clone(&store), Arc::clone(&station));
            let dispatcher = dispatcher.unwrap();
            let frames = Arc::new(Queue::new(Policy::Wait, 64));
            let taker = CaptureLoop {
                id: "cam1".into(),
                source: Box::new(Scripted { calls: 0 }),
                feed: Feed { frames: Arc::clone(&frames) },
                intake,
                on_command,
                recorder: Arc::new(recorder),
                model: ModelInfo::default(),
                interval: Some(Duration::from_millis(20)),
                deadline: Some(Duration::from_mins(1)),
                stop: stop.clone(),
                bell: sync_channel(1).0,
                window: Window::new(rule),
                station,
                without_own: false,
                under_way: None,
                lost: 0,
            };
            let thread = threads::spawn("take:cam1", move || run(taker)).unwrap();
            Self { store, dispatcher, frames, events, stop, thread, _dir: dir }
        }

        fn trigger(&self) -> bool {
            let (trigger, received) = (Trigger::default(), Instant::now());
            let sender = Sender::Mqtt { sink: "mqtt".into() };
            let request = Request { camera: None, part: None, name: None, trigger, received };
            self.dispatcher.carry_out(Command::Trigger(Box::new(request)), &sender).is_ok()
        }

        /// Stops; the reasons of all inspections, oldest first, and the states that were reported.
        fn end(mut self) -> (Vec<String>, Vec<(CameraState, String)>) {
            self.stop.set();
            self.dispatcher.close();
            self.frames.close();
            self.thread.join().unwrap();
            let reason = |s: Result<crate::store::record::Stored, _>| {
                s.unwrap().inspection.verdict.reason().map_or_else(String::new, ToString::to_string)
            };
            let mut reasons: Vec<_> = self.store.newest_first().map(reason).collect();
            reasons.reverse();
            let mut states = vec![];
            while let Ok(event) = self.events.try_recv() {
                if let StationEvent::Camera { status, .. } = event {
                    states.push((status.state, status.reason));
                }
            }
            (reasons, states)
        }
    }

    fn expect_states(states: &[(CameraState, String)]) {
        let words: Vec<_> = states.iter().map(|(state, _)| *state).collect();
        assert_eq!(words[..3], [CameraState::Ready, CameraState::Fault, CameraState::Ready]);
        assert_eq!(states[1].1, "the camera's thread failed: panic: scripted");
    }

    #[test]
    fn a_panic_loses_no_trigger_and_the_camera_goes_on() {
        let rig = Rig::start(true);
        let (mut accepted, mut taken) = (0, vec![]);
        while taken.is_empty() {
            accepted += usize::from(rig.trigger());
            if let Popped::Item(shot) = rig.frames.pop(Some(Duration::from_millis(100))) {
                taken.push(shot);
            }
        }
        let store = Arc::clone(&rig.store);
        let (reasons, states) = rig.end();
        let owed = store.accepted().unwrap().len();
        assert!(reasons.len() > 1, "those who trigger during the pause are answered: {reasons:?}");
        let explained = |r: &&String| r.contains("the camera's thread failed: panic: scripted");
        assert!(reasons.iter().take(2).all(|r| explained(&r)), "{reasons:?}");
        assert_eq!(reasons.len() + owed, accepted, "each accepted trigger has its inspection, or its frame");
        assert!(owed >= taken.len() && store.owes(taken[0].frame.trigger.ticket.unwrap()).unwrap());
        expect_states(&states);
    }

    #[test]
    fn a_part_that_nobody_triggered_is_a_review_too() {
        let rig = Rig::start(false);
        assert!(matches!(rig.frames.pop(Some(Duration::from_mins(1))), Popped::Item(_)));
        let (reasons, states) = rig.end();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].starts_with("frame: the camera's thread failed: panic: scripted"), "{reasons:?}");
        expect_states(&states);
    }
}
