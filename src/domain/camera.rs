//! How a camera is, as the station says it to machines and people.

use std::time::Duration;

/// Whether pictures come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CameraState {
    /// The source gives pictures, and nothing speaks against judging them.
    #[default]
    Ready,
    /// The source has not said anything yet.
    Busy,
    /// No pictures come, or none may be judged; `CameraStatus::reason` says why.
    Fault,
}

impl CameraState {
    /// Stable word for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Fault => "fault",
        }
    }
}

/// What a camera does with its pictures, and on whose word. Texts that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineState {
    /// The recipe of the next picture; empty while there is none.
    pub pipeline: String,
    /// Version of that recipe, as `Pipeline::version`; empty while there is none.
    pub pipeline_version: String,
    /// Who commanded the recipe; empty: it is the config's.
    pub pipeline_by: String,
    /// Triggers are refused until a `Command::Resume`.
    pub paused: bool,
    /// Who paused the camera; empty unless it is paused.
    pub paused_by: String,
    /// When recipe or pause were last commanded (RFC 3339); empty: never.
    pub since: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CameraStatus {
    /// Whether pictures come.
    pub state: CameraState,
    /// Empty unless the state is a fault.
    pub reason: String,
    /// What is done with the pictures.
    pub line: LineState,
}

/// A picture was taken: its exposure is over, and it is about to be inspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// `id` of the camera.
    pub camera: String,
    /// As `Trigger::correlation_id`.
    pub correlation_id: Option<String>,
}

/// What waits at a camera, and how long a verdict may take there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CameraLoad {
    /// A command makes it take a picture.
    pub is_triggered: bool,
    /// The picture of a trigger is being taken.
    pub is_taking: bool,
    /// Triggers that wait for their pictures.
    pub triggers: usize,
    /// Pictures that wait for the inspector.
    pub frames: usize,
    /// Most pictures that may wait.
    pub frames_max: usize,
    /// From the exposure to the verdict, by the active recipe, where the trigger says nothing else.
    pub deadline: Duration,
}
