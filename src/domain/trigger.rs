//! What the line is told from outside: take a picture of this part, pause, go on, change the recipe.
//!
//! ```text
//! MQTT cmd/…, HTTP POST, a PLC, a file --Command--> dispatcher (in `daemon`) --Request--> camera --> Frame
//! ```
//!
//! Whoever takes commands from outside turns their words into these ([`crate::command`]) and hands them to
//! the dispatcher; its answer, accepted or a [`Refusal`], goes back to the sender.

use super::frame::Trigger;
use std::fmt;
use std::time::Instant;

/// A picture that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `id` of the camera.
    pub camera: Option<String>,
    /// `name` of a part with several views. Without it and without a camera: the only such part of the
    /// config or, where there is not exactly one, every camera that takes triggers.
    pub part: Option<String>,
    /// The correlation id that the sender itself gave: two triggers of one name are the same one, come twice.
    pub name: Option<String>,
    /// What is known about the part.
    pub trigger: Trigger,
    /// When the request came; its deadline counts from here.
    pub received: Instant,
}

/// Something that the station is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Take a picture of a part; boxed, because the other commands are short.
    Trigger(Box<Request>),
    /// Triggers that are accepted from now on, and pictures that nobody triggers, are inspected by this pipeline, which
    /// must be one of `pipelines_dir`.
    Pipeline {
        /// `id` of the camera; `None`: every camera.
        camera: Option<String>,
        /// Name of the pipeline.
        pipeline: String,
    },
    /// No pictures until `Resume`; triggers are refused.
    Pause {
        /// `id` of the camera; `None`: every camera.
        camera: Option<String>,
    },
    /// Pictures are taken again.
    Resume {
        /// `id` of the camera; `None`: every camera.
        camera: Option<String>,
    },
    /// Messages that were given up are owed to the broker again.
    Retry,
    /// The folder of recipes is looked at now.
    Reload,
}

/// What became of a command. What is carried out brings the id of the trigger that it was, where it was one; a trigger
/// that comes again brings that of the first.
pub type Outcome = Result<Option<String>, Refusal>;

/// Who sent a command, and by which door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client of a broker, which does not say who publishes.
    Mqtt {
        /// The sink of that broker; `mqtt` is the one of the section `[mqtt]`.
        sink: String,
    },
    /// An account or a token of the web server, by its name.
    Http {
        /// Name of the account or the token.
        name: String,
    },
    /// A client of a server of a PLC protocol.
    Plc {
        /// The word of the protocol: `modbus`.
        server: String,
        /// Its address, without the port.
        peer: String,
    },
    /// A client of the OPC UA server.
    Opcua {
        /// Its name in the users file, or `ANONYMOUS`.
        user: String,
    },
    /// A file in the trigger folder. `stamp` is the same as long as the file is the same one, wherever it is moved.
    File {
        /// Name of the file.
        name: String,
        /// Identity of the file.
        stamp: String,
    },
}

impl fmt::Display for Sender {
    /// `mqtt`, of a further sink `mqtt:SINK`; `http:NAME`, `opcua:USER`, `file:NAME`, `modbus:ADDRESS`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mqtt { sink } if sink == "mqtt" => f.write_str("mqtt"),
            Self::Mqtt { sink } => write!(f, "mqtt:{sink}"),
            Self::Http { name } => write!(f, "http:{name}"),
            Self::Opcua { user } => write!(f, "opcua:{user}"),
            Self::File { name, .. } => write!(f, "file:{name}"),
            Self::Plc { server, peer } => write!(f, "{server}:{peer}"),
        }
    }
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
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
    #[error("there is no pipeline {pipeline:?} in pipelines_dir; there are {known}")]
    NoPipeline { pipeline: String, known: String },
    /// Camera and pipeline do not go together, for a reason that the config would be refused for, too.
    #[error("pipeline {pipeline} does not fit camera {camera}: {reason}")]
    Unfit { camera: String, pipeline: String, reason: String },
    /// The camera has no recipe that it may judge by.
    #[error("camera {camera} is in fault: {reason}")]
    Fault { camera: String, reason: String },
    /// A correlation id names one trigger.
    #[error(
        "correlation_id {correlation_id:?} was that of another trigger of the same camera or part {ago_s} s ago"
    )]
    Repeated { correlation_id: String, ago_s: u64 },
    /// Who may send commands may not thereby publish anywhere.
    #[error("the response topic {topic:?} is not below {below}, or is a command's own")]
    ResponseTopic { topic: String, below: String },
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
    /// True for what may be over in a moment, without a change of the command or of the cameras' orders.
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NotStored { .. } | Self::Starting | Self::Stopping)
    }

    /// Stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCamera { .. } => "no_camera",
            Self::NoPart { .. } => "no_part",
            Self::NotTriggered { .. } => "not_triggered",
            Self::Paused { .. } => "paused",
            Self::Full { .. } => "full",
            Self::NoPipeline { .. } => "no_pipeline",
            Self::Unfit { .. } => "unfit",
            Self::Fault { .. } => "fault",
            Self::Repeated { .. } => "repeated",
            Self::ResponseTopic { .. } => "response_topic",
            Self::NotStored { .. } => "not_stored",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Malformed { .. } => "malformed",
        }
    }
}
