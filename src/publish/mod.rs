//! Publish: the sinks, each with its own cursor on the one outbox, and what the station reports of itself.
//!
//! ```text
//!     store's outbox --owed to each sink--> mqtt/ (link, state machine, driver; a dialect makes the messages)
//!     daemon --StationEvent (bounded), one queue a sink--> the same
//!     recorder --PartResult (bounded)--> modbus/ (registers, handshake): PLCs fetch what is on the disk already
//!     daemon --doors--> opcua/ (a server that is asked; a feature)
//! ```
//!
//! A sink that is away holds back its own cursor and nobody else: it has its own task, queue, dead letters and
//! alarms. Who only shows the newest state (a server that is asked) needs no cursor, and is no sink.

pub(crate) mod modbus;
pub mod mqtt;
#[cfg(feature = "opcua")]
pub mod opcua;

use crate::domain::camera::CameraStatus;
use crate::domain::recipe::RecipeStatus;
use crate::store::outbox::MQTT;
use std::sync::LazyLock;

/// What the rest of the station reports.
#[derive(Clone, Debug, PartialEq)]
pub enum StationEvent {
    /// The state of a camera has changed.
    Camera {
        /// `id` of the camera in the config.
        id: String,
        /// All that is known of it now.
        status: CameraStatus,
    },
    /// Something is wrong with the station, or no longer.
    Alarm {
        /// Stable word; it names the topic of the alarm.
        code: String,
        /// False: it is over.
        raised: bool,
        /// For people; may be empty when it is over.
        message: String,
    },
    /// The state of a recipe has changed.
    Recipe(RecipeStatus),
    /// Counts over the last window.
    Stats(Stats),
}

/// Reports an event to who passes it on.
pub type Report = Box<dyn Fn(StationEvent) + Send + Sync>;

/// The state of the station on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StationState {
    /// Connected.
    Online,
    /// Stopped on purpose.
    Stopped,
    /// Published by the broker (Last Will) when the connection broke.
    Offline,
}

impl StationState {
    /// Stable word for machines.
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
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Parts that passed.
    pub pass: u64,
    /// Parts that failed.
    pub fail: u64,
    /// Parts that a person decides about.
    pub review: u64,
    /// Median, from the exposure to the verdict.
    pub latency_p50_ms: f64,
    /// 95th percentile.
    pub latency_p95_ms: f64,
    /// The longest.
    pub latency_max_ms: f64,
    /// Frames that were dropped before they were inspected.
    pub dropped: u64,
    /// Results that are not acknowledged yet.
    pub outbox: u64,
}

/// Names this process among all that publish under one path, until it ends.
pub fn instance() -> &'static str {
    static INSTANCE: LazyLock<String> = LazyLock::new(|| ulid::Ulid::generate().to_string());
    &INSTANCE
}

/// The code of an alarm about a sink: that of the sink `mqtt` as it is, others with their name behind it.
pub fn alarm_of(sink: &str, code: &str) -> String {
    if sink == MQTT { code.to_owned() } else { format!("{code}_{sink}") }
}
