//! An operator's decision about one inspection: appended, never overwriting.

use super::finding::Finding;
use super::grade::Severity;
use super::rect::BoxPx;
use std::time::SystemTime;

/// How far a box may be moved, in pixels, and still be the model's: pages and numbers round.
const MOVED_MIN_PX: f32 = 0.6;

/// What the operator says about the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    /// The part is good.
    Pass,
    /// The part is bad.
    Fail,
}

impl Decided {
    /// Every decision, in the order of the page.
    pub const ALL: [Self; 2] = [Self::Pass, Self::Fail];

    /// The word used on the page, in messages and in exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
        }
    }

    /// The decision of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == word)
    }
}

/// What kind of entry it is; follows from the model's verdict and the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReviewKind {
    /// The operator agrees with the model's pass or fail.
    Confirm,
    /// The operator says the opposite; a reason is given.
    Override,
    /// The model sent the part to review, and the operator decided.
    Decide,
    /// The entry before is taken back.
    Undo,
}

impl ReviewKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Confirm, Self::Override, Self::Decide, Self::Undo];

    /// The word used in the ledger and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Override => "override",
            Self::Decide => "decide",
            Self::Undo => "undo",
        }
    }

    /// The kind of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == word)
    }
}

/// Why a decision was made without the picture: it was kept, and is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PictureFault {
    /// There is no file.
    Missing,
    /// Another one, cut off, or unreadable.
    Wrong,
}

impl PictureFault {
    /// Every fault.
    pub const ALL: [Self; 2] = [Self::Missing, Self::Wrong];

    /// The word used in the ledger, in messages and on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }

    /// The fault of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == word)
    }
}

/// A defect as the operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorBox {
    /// What the operator calls it; need not be a label of the pipeline.
    pub label: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is, in pixels of the stored picture.
    pub bbox_px: BoxPx,
}

impl OperatorBox {
    /// True where the model had `found` this box under this label, and the operator left it as it was: where it lies is
    /// the model's word.
    pub fn is_left(&self, found: &[Finding]) -> bool {
        let stands = |f: &Finding| {
            let (own, model) = (self.bbox_px, f.bbox_px);
            let sides = [(own.x0, model.x0), (own.y0, model.y0), (own.x1, model.x1), (own.y1, model.y1)];
            sides.iter().all(|(a, b)| (a - b).abs() < MOVED_MIN_PX)
        };
        found.iter().any(|f| f.label == self.label && stands(f))
    }
}

/// A line of text as the operator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorText {
    /// `id` of the prompt that read it.
    pub prompt: String,
    /// 1 for the first line.
    pub line: usize,
    /// What the part bears.
    pub text: String,
}

/// What an operator decides. `None` of findings or texts: as the model has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What the operator says about the part.
    pub verdict: Decided,
    /// Why; empty where none is needed. An override needs one.
    pub reason: String,
    /// Free text; may be empty.
    pub note: String,
    /// All boxes as they should be.
    pub findings: Option<Vec<OperatorBox>>,
    /// The lines that read otherwise.
    pub texts: Option<Vec<OperatorText>>,
}

/// One entry of the ledger of reviews.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Place in the ledger of reviews, from 1 without gaps.
    pub seq: u64,
    /// Wall-clock time of the decision.
    pub at: SystemTime,
    /// Name of the account that decided.
    pub actor: String,
    /// ULID and sequence number of the inspection.
    pub inspection_id: String,
    /// Place of the inspection in the store.
    pub inspection_seq: u64,
    /// sha256 (hex) of the inspection's record: what exactly was decided about.
    pub record_sha256: String,
    /// An agreement, an override, a decision or an undo.
    pub kind: ReviewKind,
    /// The model's verdict: pass, fail or review.
    pub model_verdict: String,
    /// What is decided now; `None` after an undo that leaves no decision.
    pub verdict: Option<Decided>,
    /// As `Decision::reason`.
    pub reason: String,
    /// As `Decision::note`.
    pub note: String,
    /// As `Decision::findings`.
    pub findings: Option<Vec<OperatorBox>>,
    /// As `Decision::texts`.
    pub texts: Option<Vec<OperatorText>>,
    /// The entry that was in force before this one.
    pub supersedes: Option<u64>,
    /// After an undo: the entry that is in force again.
    pub restores: Option<u64>,
    /// The picture was not there to be looked at, and the operator decided all the same.
    pub picture: Option<PictureFault>,
    /// sha256 (hex) of this entry's value: what the next entry names as its predecessor.
    pub hash: String,
}
