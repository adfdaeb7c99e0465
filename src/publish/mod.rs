//! Publish: the sinks, each with its own cursor on the one outbox, and what the station reports of itself.
//!
//! ```text
//!     store's outbox --owed to each sink--> mqtt/ (link, state machine, driver; a dialect makes the messages)
//!     daemon --StationEvent (bounded), one queue a sink--> the same
//! ```
//!
//! A sink that is away holds back its own cursor and nobody else: it has its own task, queue, dead letters and
//! alarms. Who only shows the newest state (a server that is asked) needs no cursor, and is no sink.

pub mod mqtt;

use crate::domain::camera::CameraStatus;
use crate::domain::recipe::RecipeStatus;
use crate::store::outbox::MQTT;

/// What the rest of the station reports.
#[derive(Clone, Debug, PartialEq)]
pub enum StationEvent {
    Camera { id: String, status: CameraStatus },
    Alarm { code: String, raised: bool, message: String },
    Recipe(RecipeStatus),
    Stats(Stats),
}

/// Reports an event to who passes it on.
pub type Report = Box<dyn Fn(StationEvent) + Send + Sync>;

/// The state of the station on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StationState {
    Online,
    /// Stopped on purpose.
    Stopped,
    /// Published by the broker (Last Will) when the connection broke.
    Offline,
}

impl StationState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Stopped => "stopped",
            Self::Offline => "offline",
        }
    }
}

/// Counts over a window of time; numbers that are not known are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    pub window_s: f64,
    pub pass: u64,
    pub fail: u64,
    pub review: u64,
    pub latency_p50_ms: f64,
    pub latency_p95_ms: f64,
    pub latency_max_ms: f64,
    /// Frames that were dropped before they were inspected.
    pub dropped: u64,
    /// Results that are not acknowledged yet.
    pub outbox: u64,
}

/// The code of an alarm about a sink: that of the sink `mqtt` as it is, others with their name behind it.
pub fn alarm_of(sink: &str, code: &str) -> String {
    if sink == MQTT { code.to_owned() } else { format!("{code}_{sink}") }
}
