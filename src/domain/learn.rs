//! Words about learning that cross rooms.

use super::reference::{BankOrigin, FeatureSource, Lesson};

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LearnKind {
    /// A bank: how good parts look.
    #[default]
    Bank,
    /// A head: what tells defective parts from good ones.
    Head,
}

impl LearnKind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Bank, Self::Head];

    /// The word of requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bank => "references",
            Self::Head => "head",
        }
    }

    /// The kind of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The kind of what a prompt asks for.
    pub const fn of(lesson: Lesson) -> Self {
        match lesson {
            Lesson::Bank { .. } => Self::Bank,
            Lesson::Head => Self::Head,
        }
    }

    /// The kind of the prompts that are answered by it.
    pub const fn prompts(self) -> &'static str {
        match self {
            Self::Bank => "reference",
            Self::Head => "head",
        }
    }
}

/// What an engineer wants learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LearnWanted {
    /// A bank or a head.
    pub what: LearnKind,
    /// `None`: those that the recipe asks for, or the backbone's where it asks for none.
    pub features: Option<FeatureSource>,
    /// Which prompt of its kind; `None`: the only one, or one that is appended.
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
    /// Good parts without which no bank is learned.
    pub good_min: usize,
    /// Good parts below which a bank is weak.
    pub good_few: usize,
    /// Parts of each kind without which no head is learned.
    pub kind_min: usize,
    /// Parts of a kind below which a head is weak.
    pub kind_few: usize,
    /// The banks that the active version judges by.
    pub banks: Vec<ActiveLesson>,
    /// The heads that it judges by.
    pub heads: Vec<ActiveLesson>,
    /// The job under way.
    pub job: Option<LearnJob>,
    /// What came of the last one since the start.
    pub last: Option<LearnOutcome>,
}

/// A bank or a head that pictures are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveLesson {
    /// Id of the prompt.
    pub prompt: String,
    /// Its name beside the recipe.
    pub file: String,
    /// sha256 (hex) of the file.
    pub sha256: String,
    /// Whose features it knows.
    pub features: FeatureSource,
    /// The labels that its findings may have.
    pub labels: Vec<String>,
    /// What it was learned from.
    pub origin: BankOrigin,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnStep {
    /// The features of confirmed parts are asked for.
    Looking,
    /// The bank or the head is made.
    Learning,
    /// The version with it is checked and replayed.
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
    /// What it learns.
    pub what: LearnKind,
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
    /// What it has learned, or would have.
    pub what: LearnKind,
    /// Who asked for it.
    pub by: String,
    /// RFC 3339, UTC: when it ended.
    pub at: String,
    /// How it ended.
    pub end: LearnEnd,
    /// The version of the recipe with what was learned, from when it was handed over to its checks.
    pub version: Option<String>,
    /// How well it does; none where nothing was learned.
    pub figures: Option<LearnFigures>,
    /// The first parts that were not learned from.
    pub left_out: Vec<LeftOut>,
    /// How many were not.
    pub left_out_count: usize,
}

impl LearnOutcome {
    /// Of a job of which nothing is known but this.
    pub fn failed(what: LearnKind, by: String, reason: String) -> Self {
        Self {
            what,
            by,
            at: String::new(),
            end: LearnEnd::Failed { reason },
            version: None,
            figures: None,
            left_out: vec![],
            left_out_count: 0,
        }
    }
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

/// How well what was learned does.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnFigures {
    /// Whose features were learned.
    pub features: FeatureSource,
    /// Good parts.
    pub good: usize,
    /// Defective parts.
    pub bad: usize,
    /// What the three below are measured on, and what else is known of it.
    pub measured: LearnMeasured,
    /// Area under the ROC curve over parts; none without defective ones.
    pub auroc: Option<f64>,
    /// Good parts that would be findings.
    pub alarmed: usize,
    /// Defective parts that would be.
    pub found: usize,
    /// What to know about them.
    pub notes: Vec<String>,
}

/// What figures are measured on.
#[derive(Clone, Debug, PartialEq)]
pub enum LearnMeasured {
    /// A bank: on the parts that it was learned from, each good one beside the others.
    Compared {
        /// Cells of the good parts.
        cells: usize,
        /// Cells of the bank.
        bank_cells: usize,
    },
    /// A head: on parts that were kept back while it was learned.
    KeptBack {
        /// Times that other parts were kept back.
        folds: usize,
        /// Lots that were kept back whole; `None`: parts were kept back one by one, all of a kind being of one lot.
        lots: Option<usize>,
        /// Defective parts where people drew boxes.
        with_boxes: usize,
        /// The labels of boxes enough.
        labels: Vec<LearnLabel>,
    },
}

/// How well the cells of a label are told from those of good parts.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnLabel {
    /// Its name.
    pub label: String,
    /// Parts with boxes of it.
    pub parts: usize,
    /// Area under the ROC curve over parts that were kept back.
    pub auroc: f64,
    /// It is found by its own name.
    pub is_known: bool,
}

impl LearnFigures {
    /// What was learned.
    pub const fn what(&self) -> LearnKind {
        match self.measured {
            LearnMeasured::Compared { .. } => LearnKind::Bank,
            LearnMeasured::KeptBack { .. } => LearnKind::Head,
        }
    }

    /// What the figures are measured on, in words.
    pub fn measured_on(&self) -> String {
        match self.measured {
            LearnMeasured::Compared { .. } => {
                "the parts that it was learned from, each good one compared with the others".to_owned()
            }
            LearnMeasured::KeptBack { folds, lots: Some(_), .. } => {
                format!("parts that were kept back in {folds} folds, those of one lot together")
            }
            LearnMeasured::KeptBack { folds, lots: None, .. } => {
                format!(
                    "parts that were kept back in {folds} folds, one by one, all of a kind being of one lot"
                )
            }
        }
    }

    /// One sentence for the ledger: what was learned, how well it does, and what that is measured on.
    pub fn in_words(&self) -> String {
        let Self { features, good, bad, auroc, alarmed, found, .. } = self;
        let word = match self.what() {
            LearnKind::Bank => "bank",
            LearnKind::Head => "head",
        };
        let (features, on) = (features.as_str(), self.measured_on());
        let auroc = auroc.map(|auroc| format!("AUROC {auroc:.3}, ")).unwrap_or_default();
        format!(
            "a {word} of the {features} from {good} good and {bad} defective parts: {auroc}{alarmed} good and {found} \
             defective ones would be findings, measured on {on}; its replay shows confirmed parts, and those that it was \
             learned from are among them"
        )
    }
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
    /// There are too few confirmed parts whose pictures are kept.
    #[error("{reason} (confirmed, with their pictures)")]
    TooLittle { reason: String },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(measured: LearnMeasured, auroc: Option<f64>) -> LearnFigures {
        let features = FeatureSource::Backbone;
        LearnFigures { features, good: 24, bad: 12, measured, auroc, alarmed: 1, found: 11, notes: vec![] }
    }

    #[test]
    fn the_ledger_says_in_one_sentence_what_a_heads_figures_are_measured_on() {
        let kept_back = |lots| LearnMeasured::KeptBack { folds: 5, lots, with_boxes: 0, labels: vec![] };
        let words = figures(kept_back(Some(7)), Some(0.9371)).in_words();
        assert!(
            words.starts_with(
                "a head of the backbone from 24 good and 12 defective parts: AUROC 0.937, 1 good"
            )
        );
        assert!(words.contains("kept back in 5 folds, those of one lot together") && !words.contains(". "));
        let singly = figures(kept_back(None), Some(0.9)).in_words();
        assert!(singly.contains("one by one") && !singly.contains("together"), "{singly}");
        let bank = figures(LearnMeasured::Compared { cells: 9, bank_cells: 4 }, None).in_words();
        assert!(
            bank.starts_with("a bank")
                && bank.contains("compared with the others")
                && !bank.contains("AUROC")
        );
        for words in [words, singly, bank] {
            assert!(words.ends_with("those that it was learned from are among them"), "{words}");
        }
    }

    #[test]
    fn the_word_of_a_request_is_read_back() {
        for kind in LearnKind::ALL {
            assert_eq!(LearnKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(LearnKind::parse("heads"), None);
    }
}
