//! Severity (what the model says), grade (what the pipeline makes of it), verdict (what happens to the part).

use std::fmt;

/// How bad the model says that a defect is. Ordered: minor < major < critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The mildest; what it means for the part is for the grade rules to say.
    Minor,
    /// Between the two.
    Major,
    /// The worst.
    Critical,
}

impl Severity {
    /// From the mildest to the worst.
    pub const ALL: [Self; 3] = [Self::Minor, Self::Major, Self::Critical];

    /// The word used in prompts, answers, pipelines and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }

    /// The severity of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// Quality of a finding and of the whole part. Ordered: ok < cosmetic < rework < reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Not a flaw.
    Ok,
    /// Only seen: accepted, unless `fail_at` says otherwise.
    Cosmetic,
    /// Can be mended.
    Rework,
    /// Scrap.
    Reject,
}

impl Grade {
    /// From the best to the worst.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Cosmetic, Self::Rework, Self::Reject];

    /// The word used in pipelines and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cosmetic => "cosmetic",
            Self::Rework => "rework",
            Self::Reject => "reject",
        }
    }

    /// The grade of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.as_str() == word)
    }
}

/// What happens to the part. There is no way to build a pass out of an error: errors are reasons,
/// and every reason but `Finding` and `TextMismatch` belongs to a review.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Every planned tile was inspected, and nothing reached a limit.
    Pass,
    /// A finding or a text proves that the part is bad.
    Fail(Reason),
    /// A person decides.
    Review(Reason),
}

impl Verdict {
    /// `pass`, `fail` or `review`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Review(_) => "review",
        }
    }

    /// Why it is not a pass.
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Pass => None,
            Self::Fail(r) | Self::Review(r) => Some(r),
        }
    }
}

/// Why a part did not simply pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// A finding's grade reached the pipeline's `fail_at`; names the worst label.
    Finding {
        /// Label of the worst finding.
        label: String,
    },
    /// Text was read surely and differs from what was expected.
    TextMismatch {
        /// `id` of the prompt that read the line.
        prompt: String,
        /// 1 for the first line.
        line: usize,
    },
    /// Text was expected and not read, or read too unsurely to compare.
    TextUncertain {
        /// `id` of the prompt that was to read the line.
        prompt: String,
        /// 1 for the first line.
        line: usize,
    },
    /// A finding or a reading is less sure than `review_below_confidence`, or the part's score is over
    /// `review_above_score`.
    LowConfidence {
        /// Label of the finding, or what else is unsure, in words.
        what: String,
        /// The confidence that was too low, 0..=1.
        confidence: f32,
    },
    /// The answer came after the deadline.
    Deadline {
        /// How long after the deadline.
        late_ms: u64,
    },
    /// The model's answer was cut off or does not parse.
    Unparsable {
        /// `id` of the prompt that was asked.
        prompt: String,
        /// Index of the tile, as `RawAnswer::tile`.
        tile: usize,
    },
    /// Not every tile was inspected.
    MissingTile {
        /// Tiles with an answer.
        inspected: usize,
        /// Tiles that the pipeline asks for.
        planned: usize,
    },
    /// The engine failed: an error, a panic, a number that is not finite.
    Engine {
        /// The engine's error in words.
        message: String,
    },
    /// The frame does not fit the pipeline (its region of interest lies outside, too many tiles).
    Frame {
        /// What does not fit, in words.
        message: String,
    },
    /// The frame was dropped because its queue was full.
    QueueFull,
    /// The station stopped between the trigger and the inspection.
    Interrupted,
}

impl Reason {
    /// What is unsure of a part whose score is over the recipe's limit, as `LowConfidence` says it.
    pub const SCORE: &str = "nothing in the part, by its score";

    /// Of a part that would have passed, and did not for its score.
    pub fn is_score(&self) -> bool {
        matches!(self, Self::LowConfidence { what, .. } if what == Self::SCORE)
    }

    /// Stable word for machines: the part before `:` of the message.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Finding { .. } => "finding",
            Self::TextMismatch { .. } => "text_mismatch",
            Self::TextUncertain { .. } => "text_uncertain",
            Self::LowConfidence { .. } => "low_confidence",
            Self::Deadline { .. } => "deadline",
            Self::Unparsable { .. } => "unparsable",
            Self::MissingTile { .. } => "missing_tile",
            Self::Engine { .. } => "engine",
            Self::Frame { .. } => "frame",
            Self::QueueFull => "queue_full",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code();
        match self {
            Self::Finding { label } => write!(f, "{code}: {label}"),
            Self::TextMismatch { prompt, line } | Self::TextUncertain { prompt, line } => {
                write!(f, "{code}: {prompt} line {line}")
            }
            Self::LowConfidence { what, confidence } => write!(f, "{code}: {what} {confidence:.2}"),
            Self::Deadline { late_ms } => write!(f, "{code}: {late_ms} ms late"),
            Self::Unparsable { prompt, tile } => write!(f, "{code}: {prompt} tile {tile}"),
            Self::MissingTile { inspected, planned } => write!(f, "{code}: {inspected} of {planned}"),
            Self::Engine { message } | Self::Frame { message } => write!(f, "{code}: {message}"),
            Self::QueueFull | Self::Interrupted => f.write_str(code),
        }
    }
}
