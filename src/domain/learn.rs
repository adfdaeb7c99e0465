//! Words about learning that cross rooms.

use super::reference::{BankOrigin, FeatureSource};

/// What an engineer wants learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LearnWanted {
    /// `None`: those that the recipe asks for, or the backbone's where it asks for none.
    pub features: Option<FeatureSource>,
    /// Which prompt of kind reference; `None`: the only one, or one that is appended.
    pub prompt: Option<String>,
}

/// What can be learned for a pipeline, and what was.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnable {
    /// Its name.
    pub pipeline: String,
    /// Pictures are judged by this version; empty: a new product, which has none yet.
    pub active: String,
    /// A new version is held to a gate.
    pub is_gated: bool,
    /// Confirmed good parts whose pictures are kept.
    pub good: usize,
    /// Confirmed defective ones.
    pub bad: usize,
    /// Good parts without which nothing is learned.
    pub good_min: usize,
    /// Good parts below which a bank is weak.
    pub good_few: usize,
    /// What the active version judges by.
    pub banks: Vec<ActiveBank>,
    /// The job under way.
    pub job: Option<LearnJob>,
    /// What came of the last one since the start.
    pub last: Option<LearnOutcome>,
}

/// A bank that pictures are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveBank {
    /// Id of the prompt.
    pub prompt: String,
    /// Its name beside the recipe.
    pub file: String,
    /// sha256 (hex) of the file.
    pub sha256: String,
    /// Whose features it knows.
    pub features: FeatureSource,
    /// What it was learned from.
    pub origin: BankOrigin,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnStep {
    /// The features of confirmed parts are asked for.
    Looking,
    /// The bank is made.
    Learning,
    /// The version with the bank is checked and replayed.
    Proving,
}

impl LearnStep {
    /// Stable word for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Learning => "learning",
            Self::Proving => "proving",
        }
    }
}

/// A job that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnJob {
    /// For which pipeline.
    pub pipeline: String,
    /// Who asked for it.
    pub by: String,
    /// RFC 3339, UTC: when it was asked for.
    pub at: String,
    /// What it does now.
    pub step: LearnStep,
    /// Parts that were looked at or replayed.
    pub done: usize,
    /// Parts that will be.
    pub total: usize,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnOutcome {
    /// Who asked for it.
    pub by: String,
    /// RFC 3339, UTC: when it ended.
    pub at: String,
    /// How it ended.
    pub end: LearnEnd,
    /// The version of the recipe with what was learned, from when it was handed over to its checks.
    pub version: Option<String>,
    /// How well the bank does; none where there is no bank.
    pub figures: Option<LearnFigures>,
    /// The first parts that were not learned from.
    pub left_out: Vec<LeftOut>,
    /// How many were not.
    pub left_out_count: usize,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LearnEnd {
    /// Pictures are judged by what was learned.
    Active,
    /// It was learned, and its version does not become active.
    Refused {
        /// Why.
        reason: String,
    },
    /// Somebody did not want it any more.
    Cancelled {
        /// Who.
        by: String,
    },
    /// Nothing was learned.
    Failed {
        /// Why.
        reason: String,
    },
}

impl LearnEnd {
    /// Stable word for machines.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Refused { .. } => "refused",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }

    /// Why, or by whom; empty where it needs no words.
    pub fn reason(&self) -> &str {
        match self {
            Self::Active => "",
            Self::Refused { reason } | Self::Failed { reason } => reason,
            Self::Cancelled { by } => by,
        }
    }
}

/// How well a bank does on the parts that it was learned from, each good one beside the others.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnFigures {
    /// Whose features were learned.
    pub features: FeatureSource,
    /// Good parts.
    pub good: usize,
    /// Defective parts.
    pub bad: usize,
    /// Cells of the good parts.
    pub cells: usize,
    /// Cells of the bank.
    pub bank_cells: usize,
    /// Area under the ROC curve over parts; none without defective ones.
    pub auroc: Option<f64>,
    /// Good parts that would be findings.
    pub alarmed: usize,
    /// Defective parts that would be.
    pub found: usize,
    /// What to know about them.
    pub notes: Vec<String>,
}

/// A part that was not learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Id of its inspection.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Why a request about learning is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum LearnRefusal {
    #[error("there is no pipeline {pipeline:?}")]
    NoPipeline { pipeline: String },
    /// One job at a time.
    #[error("the pipeline {pipeline:?} is learned at the moment: wait for it, or cancel it")]
    Busy { pipeline: String },
    #[error("nothing is learned for the pipeline {pipeline:?} at the moment")]
    NotUnderWay { pipeline: String },
    #[error("{good} confirmed good parts with their pictures, at least {least} are needed")]
    TooLittle { good: usize, least: usize },
    /// The active recipe cannot ask what is to be learned.
    #[error("{reason}")]
    Unfit { reason: String },
    #[error("{reason}")]
    NotStored { reason: String },
    #[error("the station is starting: nothing can be learned yet")]
    Starting,
    #[error("the station is stopping")]
    Stopping,
}

impl LearnRefusal {
    /// Stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPipeline { .. } => "no_pipeline",
            Self::Busy { .. } => "busy",
            Self::NotUnderWay { .. } => "not_under_way",
            Self::TooLittle { .. } => "too_little",
            Self::Unfit { .. } => "unfit",
            Self::NotStored { .. } => "not_stored",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
        }
    }
}
