//! What the line is told from outside: take a picture of this part, pause, go on, change the recipe.
//!
//!     MQTT cmd/…, HTTP POST, a file --Command--> desk (in `daemon`) --Request--> camera --> Frame
//!
//! Whoever takes commands from outside turns their words into these (`crate::command`) and hands them to
//! the desk; its answer, accepted or a `Refusal`, goes back to the sender.

use super::frame::Trigger;
use std::time::Instant;

/// A picture that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `id` of the camera.
    pub camera: Option<String>,
    /// `name` of a part with several views. Without it and without a camera: the only such part of the
    /// config or, where there is not exactly one, every camera that takes triggers.
    pub part: Option<String>,
    pub trigger: Trigger,
    /// When the request came; its deadline counts from here.
    pub received: Instant,
}

/// Something that the station is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Trigger(Request),
    /// Pictures from now on are inspected by this pipeline, which must be known to the config.
    Pipeline {
        camera: Option<String>,
        pipeline: String,
    },
    /// No pictures until `Resume`; triggers are refused.
    Pause {
        camera: Option<String>,
    },
    Resume {
        camera: Option<String>,
    },
    /// Messages that were given up are owed to the broker again.
    Retry,
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no camera {camera:?}; there are {known}")]
    NoCamera { camera: String, known: String },
    #[error("there is no part {part:?} in the config; there are {known}")]
    NoPart { part: String, known: String },
    #[error("camera {camera} takes no triggers: its config says how it is triggered")]
    NotTriggered { camera: String },
    #[error("camera {camera} is paused")]
    Paused { camera: String },
    #[error("{waiting} triggers wait for camera {camera} already")]
    Full { camera: String, waiting: usize },
    #[error("there is no pipeline {pipeline:?} in the config; there are {known}")]
    NoPipeline { pipeline: String, known: String },
    /// What cannot be noted is not accepted.
    #[error("it cannot be noted now: {reason}")]
    NotStored { reason: String },
    #[error("the station is starting: its cameras are not open yet")]
    Starting,
    #[error("the station is stopping")]
    Stopping,
    /// The command itself is not well formed.
    #[error("{reason}")]
    Malformed { reason: String },
}

impl Refusal {
    /// Stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCamera { .. } => "no_camera",
            Self::NoPart { .. } => "no_part",
            Self::NotTriggered { .. } => "not_triggered",
            Self::Paused { .. } => "paused",
            Self::Full { .. } => "full",
            Self::NoPipeline { .. } => "no_pipeline",
            Self::NotStored { .. } => "not_stored",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Malformed { .. } => "malformed",
        }
    }
}
