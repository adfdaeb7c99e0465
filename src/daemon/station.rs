//! What the station publishes about itself: states of cameras, alarms, counts, and whether it is alive.

use super::alarms::Alarms;
use super::board::Board;
use super::figures::Figures;
use super::plc::{self, Followers};
use crate::domain::alarm::{About, Alarm, kind_of};
use crate::domain::camera::{CameraStatus, Exposed, LineState};
use crate::domain::grade::Verdict;
use crate::domain::inspection::Inspection;
use crate::domain::plc::PartResult;
use crate::publish::StationEvent;
use crate::publish::mqtt::command::ALARM_REFUSED;
use crate::publish::{Report, Stats, alarm_of};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{broadcast, mpsc, watch};

/// Latencies that are kept for the percentiles of one window.
const LATENCIES_MAX: usize = 4096;
/// Exposures that wait for a server which says of each that it is over.
const EXPOSURES_MAX: usize = 256;

/// Shared by all threads of the line.
pub(super) struct Station {
    /// The queue of each sink, by its name.
    sinks: Vec<(String, mpsc::Sender<StationEvent>)>,
    board: Board,
    alarms: Alarms,
    followers: Followers,
    /// The alarms of brokers that let nobody hear commands.
    commands_refused: Mutex<BTreeSet<String>>,
    counts: Mutex<Counts>,
    /// Since the start, for `/metrics`.
    pub(super) figures: Figures,
    /// Rings with every event: who only shows the newest state asks for it then.
    changed: watch::Sender<()>,
    /// Each exposure that is over; who is too slow misses the oldest.
    exposures: broadcast::Sender<Exposed>,
    started: Instant,
    /// Milliseconds after `started` of the last sign of life.
    alive_ms: AtomicU64,
}

#[derive(Default)]
struct Counts {
    pass: u64,
    fail: u64,
    review: u64,
    dropped: u64,
    latencies_ms: Vec<f64>,
}

/// Publishes the alarms of a connection for commands; a station that hears none is not ready.
pub(super) fn hearing(station: &Arc<Station>) -> Report {
    let station = Arc::clone(station);
    Box::new(move |event| {
        if let StationEvent::Alarm { code, raised, .. } = &event
            && code.starts_with(ALARM_REFUSED)
        {
            let mut refused = station.commands_refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.retain(|known| known != code);
            refused.extend(raised.then(|| code.clone()));
        }
        station.publish(event);
    })
}

impl Station {
    /// A station with the one sink `mqtt`, whose queue is `events`.
    #[cfg(test)]
    pub(super) fn new(events: mpsc::Sender<StationEvent>) -> Self {
        Self::with_sinks(vec![(crate::store::outbox::MQTT.to_owned(), events)])
    }

    /// A station with these sinks.
    pub(super) fn with_sinks(sinks: Vec<(String, mpsc::Sender<StationEvent>)>) -> Self {
        Self {
            sinks,
            board: Board::default(),
            alarms: Alarms::default(),
            followers: Followers::default(),
            commands_refused: Mutex::default(),
            counts: Mutex::default(),
            figures: Figures::default(),
            changed: watch::Sender::new(()),
            exposures: broadcast::Sender::new(EXPOSURES_MAX),
            started: Instant::now(),
            alive_ms: AtomicU64::new(0),
        }
    }

    /// Publishes an event to every sink. False when the queue of one is full, and the event lost to it: the states
    /// that matter are published again, and no result goes this way.
    pub(super) fn publish(&self, event: StationEvent) -> bool {
        self.publish_but(None, &event)
    }

    /// What publishes to every sink but this one.
    pub(super) fn others(self: &Arc<Self>, sink: &str) -> Report {
        let (station, sink) = (Arc::clone(self), sink.to_owned());
        Box::new(move |event| _ = station.publish_but(Some(&sink), &event))
    }

    fn publish_but(&self, left_out: Option<&str>, event: &StationEvent) -> bool {
        if let StationEvent::Alarm { code, raised, message } = event {
            self.figures.alarm(code, *raised);
            self.alarms.note(code, *raised, message, SystemTime::now());
        }
        self.changed.send_replace(());
        let mut taken = true;
        for (name, queue) in self.sinks.iter().filter(|(name, _)| Some(name.as_str()) != left_out) {
            if let Err(error) = queue.try_send(event.clone()) {
                tracing::warn!(sink = name, %error, "an event was not published");
                taken = false;
            }
        }
        taken
    }

    /// The source of a camera gives pictures, or a reason why not.
    pub(super) fn source(&self, camera: &str, fault: Option<String>) {
        self.board.source(camera, fault);
        self.publish_cameras();
    }

    /// The thread of a camera runs, or why it has failed.
    pub(super) fn thread(&self, camera: &str, fault: Option<String>) {
        self.board.thread(camera, fault);
        self.publish_cameras();
    }

    /// What the dispatcher has a camera do; `no_recipe` says why it may judge nothing.
    pub(super) fn line(&self, camera: &str, line: LineState, no_recipe: Option<String>) {
        self.board.line(camera, line, no_recipe);
        self.publish_cameras();
    }

    /// Why the store accepts nothing. Called every second, so that what was not published is published again.
    pub(super) fn store_full(&self, reason: Option<&str>) {
        self.board.store_full(reason);
        self.publish_cameras();
    }

    /// How the cameras are, by id.
    pub(super) fn cameras(&self) -> Vec<(String, CameraStatus)> {
        self.board.all()
    }

    /// A bell that rings when a camera or an alarm has changed.
    #[cfg(feature = "opcua")]
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A picture of a camera was taken, for the trigger with this correlation id.
    pub(super) fn exposed(&self, camera: &str, correlation_id: Option<String>) {
        // Nobody may be listening.
        let _ = self.exposures.send(Exposed { camera: camera.to_owned(), correlation_id });
    }

    /// The exposures from now on.
    #[cfg(feature = "opcua")]
    pub(super) fn exposures(&self) -> broadcast::Receiver<Exposed> {
        self.exposures.subscribe()
    }

    /// The alarms that stand, by code.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.alarms.all()
    }

    /// How often alarms about this camera were raised since the start, those of the watch left out.
    pub(super) fn alarms_raised(&self, camera: &str) -> u64 {
        let is_meant = |code: &str| {
            kind_of(code).is_some_and(|(kind, name)| {
                kind.about == About::Camera && name == camera && kind.word != "drift"
            })
        };
        self.figures.alarms_raised(is_meant)
    }

    fn publish_cameras(&self) {
        self.board.publish(|id, status| self.publish(StationEvent::Camera { id: id.to_owned(), status }));
    }

    /// False while a broker refuses the subscription to commands.
    pub(super) fn hears_commands(&self) -> bool {
        self.commands_refused.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The inspector lives.
    pub(super) fn beat(&self) {
        self.alive_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// True when the last sign of life is younger than `limit`.
    pub(super) fn alive_within(&self, limit: Duration) -> bool {
        let last = Duration::from_millis(self.alive_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last) < limit
    }

    /// From now on a server of a PLC protocol is told of every result.
    pub(super) fn follow(&self, server: &str) -> mpsc::Receiver<PartResult> {
        let code = alarm_of(server, plc::ALARM_MISSED);
        self.publish(StationEvent::Alarm { code, raised: false, message: String::new() });
        self.followers.add(server)
    }

    /// Tells those servers of an inspection that is on the disk.
    pub(super) fn recorded(&self, inspection: &Inspection, seq: u64) {
        for (server, lost) in self.followers.tell(&PartResult::of(inspection, seq)) {
            tracing::error!(server, lost, seq, "a result has found no room on its way to a PLC");
            let message = format!("{lost} results have found no room on their way to the PLCs of {server}");
            let code = alarm_of(&server, plc::ALARM_MISSED);
            self.publish(StationEvent::Alarm { code, raised: true, message });
        }
    }

    /// Counts an inspection.
    pub(super) fn count(&self, inspection: &Inspection, dropped: bool) {
        self.figures.count(inspection, dropped);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match inspection.verdict {
            Verdict::Pass => counts.pass += 1,
            Verdict::Fail(_) => counts.fail += 1,
            Verdict::Review(_) => counts.review += 1,
        }
        counts.dropped += u64::from(dropped);
        if !dropped && counts.latencies_ms.len() < LATENCIES_MAX {
            counts.latencies_ms.push(inspection.latency.total_ms);
        }
    }

    /// The counts since the last call.
    pub(super) fn take_stats(&self, window: Duration, outbox: u64) -> Stats {
        let mut counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        counts.latencies_ms.sort_by(f64::total_cmp);
        let percentile = |p: f64| {
            let n = counts.latencies_ms.len();
            let rank = (p * n as f64).ceil() as usize;
            counts.latencies_ms.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
        };
        Stats {
            window_s: window.as_secs_f64(),
            pass: counts.pass,
            fail: counts.fail,
            review: counts.review,
            latency_p50_ms: percentile(0.5),
            latency_p95_ms: percentile(0.95),
            latency_max_ms: percentile(1.0),
            dropped: counts.dropped,
            outbox,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stands_for_the_page_whoever_raises_it() {
        let (events, _queue) = mpsc::channel(4);
        let station = Arc::new(Station::new(events));
        let alarm =
            |code: &str, raised| StationEvent::Alarm { code: code.into(), raised, message: "why".into() };
        station.publish(alarm("engine", true));
        hearing(&station)(alarm("commands_refused", true));
        // A sink has told its own broker already.
        station.others("mqtt")(alarm("result_held", true));
        let codes = || station.alarms().into_iter().map(|alarm| alarm.code).collect::<Vec<_>>();
        assert_eq!(codes(), ["commands_refused", "engine", "result_held"]);
        station.publish(alarm("engine", false));
        assert_eq!(codes(), ["commands_refused", "result_held"]);

        // Those about a camera are counted, each time anew, but for what the watch says of it.
        for (code, raised) in [
            ("image_cam1", true),
            ("image_cam1", false),
            ("image_cam1", true),
            ("trigger_cam2", true),
            ("drift_cam1", true),
        ] {
            station.publish(alarm(code, raised));
        }
        assert_eq!(["cam1", "cam2", "cam3"].map(|camera| station.alarms_raised(camera)), [2, 1, 0]);
    }
}
