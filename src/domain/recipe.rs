//! Words about the versions of recipes that cross rooms.

/// How far the replay of a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The version under replay.
    pub version: String,
    /// Parts that were replayed, of those that will be.
    pub done: usize,
    /// Parts that will be replayed.
    pub total: usize,
}

/// How a recipe stands: its active version, and how far the newest one is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipeStatus {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The version that judges parts; empty while there is none.
    pub active: String,
    /// The version that the newest step is about, that step's stable word, on whose word it was done, and why.
    pub version: String,
    /// Stable word of the newest step.
    pub step: &'static str,
    /// On whose word that step was done.
    pub by: String,
    /// Why it was done; empty where no reason was given.
    pub reason: String,
    /// Of the replay that goes on or is over: parts done and in all; confirmed parts lost, and new alarms.
    pub done: usize,
    /// Parts of the replay in all.
    pub total: usize,
    /// Confirmed defective parts that were found and pass now.
    pub lost: usize,
    /// Confirmed good parts that passed and do not pass now.
    pub alarms: usize,
}

/// Why a request about a recipe is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum RecipeError {
    #[error("there is no version {version:?} of the pipeline {pipeline:?}")]
    NoVersion { pipeline: String, version: String },
    #[error("a reason must be given")]
    NoReason,
    /// It does not read any more, or does not go with the cameras that run the pipeline.
    #[error("{reason}")]
    Unfit { reason: String },
    #[error("{waiting} requests about recipes wait already")]
    Full { waiting: usize },
    #[error("it cannot be noted now: {reason}")]
    NotStored { reason: String },
    #[error("the station is starting: its recipes cannot be changed yet")]
    Starting,
    #[error("the station is stopping")]
    Stopping,
}

impl RecipeError {
    /// Stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoVersion { .. } => "no_version",
            Self::NoReason => "reason",
            Self::Unfit { .. } => "unfit",
            Self::Full { .. } => "full",
            Self::NotStored { .. } => "not_stored",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
        }
    }
}
