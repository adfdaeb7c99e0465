//! What the station says about itself: states of cameras, alarms, counts, and whether it is alive.

use super::board::Board;
use crate::domain::camera::{CameraStatus, LineState};
use crate::domain::grade::Verdict;
use crate::domain::inspection::Inspection;
use crate::mqtt::StationEvent;
use crate::mqtt::command::{ALARM_REFUSED, Tell};
use crate::mqtt::message::Stats;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Latencies that are kept for the percentiles of one window.
const LATENCIES_MAX: usize = 4096;

/// Shared by all threads of the line.
pub struct Station {
    events: mpsc::Sender<StationEvent>,
    board: Board,
    /// The broker lets nobody hear commands.
    commands_refused: AtomicBool,
    counts: Mutex<Counts>,
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

/// Tells the alarms of the connection for commands; a station that hears none is not ready.
pub fn hearing(station: &Arc<Station>) -> Tell {
    let station = Arc::clone(station);
    Box::new(move |event| {
        if let StationEvent::Alarm { code, raised, .. } = &event {
            if code == ALARM_REFUSED {
                station.commands_refused.store(*raised, Ordering::Relaxed);
            }
        }
        station.tell(event);
    })
}

impl Station {
    /// A station that tells its events to `events`.
    pub fn new(events: mpsc::Sender<StationEvent>) -> Self {
        Self {
            events,
            board: Board::default(),
            commands_refused: AtomicBool::new(false),
            counts: Mutex::default(),
            started: Instant::now(),
            alive_ms: AtomicU64::new(0),
        }
    }

    /// Tells an event to MQTT. False when its queue is full, and the event lost: the states that matter are
    /// told again, and no result goes this way.
    pub fn tell(&self, event: StationEvent) -> bool {
        let sent = self.events.try_send(event);
        if let Err(error) = &sent {
            tracing::warn!(%error, "an event was not told");
        }
        sent.is_ok()
    }

    /// The source of a camera gives pictures, or a reason why not.
    pub fn source(&self, camera: &str, fault: Option<String>) {
        self.board.source(camera, fault);
        self.say_cameras();
    }

    /// The thread of a camera runs, or why it has failed.
    pub fn thread(&self, camera: &str, fault: Option<String>) {
        self.board.thread(camera, fault);
        self.say_cameras();
    }

    /// What the desk has a camera do; `no_recipe` says why it may judge nothing.
    pub fn line(&self, camera: &str, line: LineState, no_recipe: Option<String>) {
        self.board.line(camera, line, no_recipe);
        self.say_cameras();
    }

    /// Why the store accepts nothing. Called every second, so that what was not told is told again.
    pub fn store_full(&self, reason: Option<&str>) {
        self.board.store_full(reason);
        self.say_cameras();
    }

    /// How the cameras are, by id.
    pub fn cameras(&self) -> Vec<(String, CameraStatus)> {
        self.board.all()
    }

    fn say_cameras(&self) {
        self.board.publish(|id, status| self.tell(StationEvent::Camera { id: id.to_owned(), status }));
    }

    /// False while the broker refuses the subscription to commands.
    pub fn hears_commands(&self) -> bool {
        !self.commands_refused.load(Ordering::Relaxed)
    }

    /// The inspector lives.
    pub fn beat(&self) {
        self.alive_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// True when the last sign of life is younger than `limit`.
    pub fn alive_within(&self, limit: Duration) -> bool {
        let last = Duration::from_millis(self.alive_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last) < limit
    }

    /// Counts an inspection.
    pub fn count(&self, inspection: &Inspection, dropped: bool) {
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
    pub fn take_stats(&self, window: Duration, outbox: u64) -> Stats {
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
