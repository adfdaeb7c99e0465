//! What a recipe promises about defective parts, and what confirmed parts prove of it.
//!
//! The promise is about defective parts: of those that come, at most so many pass. What that is of all parts depends on
//! how many are defective.

use std::ops::RangeInclusive;
use std::time::SystemTime;

/// A promise: P(pass | defective) is at most `escape`, and what says so is wrong at most once in 1 / (1 - `confidence`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromiseRule {
    /// Share of the defective parts that pass, 0..1.
    pub escape: f64,
    /// 0..1.
    pub confidence: f64,
}

impl PromiseRule {
    /// Shares that a promise may allow. A smaller one takes more parts than anybody decides about, and one above a half is
    /// no promise.
    pub const ESCAPE: RangeInclusive<f64> = 1e-5..=0.5;
    /// How sure a promise may be.
    pub const CONFIDENCE: RangeInclusive<f64> = 0.5..=0.999_999;
}

/// What is to be proven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// About defective parts.
    pub promise: PromiseRule,
    /// Share of the good parts that fail, 0..1, at most; proven with the same confidence, for itself.
    pub false_fail: f64,
}

/// Limits on an inspection's score, as `VerdictRule` holds them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A part with a higher score does not pass; 1: the score sends none to review.
    pub review_above: f32,
    /// A part with a finding that fails and a higher score fails, however unsure the finding; `None`: none is proven.
    pub fail_above: Option<f32>,
}

impl Thresholds {
    /// The number that a file has for a limit, not the one that its f32 stands for.
    pub fn as_written(limit: f32) -> f64 {
        limit.to_string().parse().unwrap_or_else(|_| f64::from(limit))
    }
}

/// What becomes of parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Parts that pass.
    pub pass: usize,
    /// Parts that a person sees.
    pub review: usize,
    /// Parts that fail.
    pub fail: usize,
}

impl Outcomes {
    /// All of them.
    pub const fn parts(&self) -> usize {
        self.pass + self.review + self.fail
    }
}

/// How many defective parts a promise takes when none of them passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needed {
    /// The promise's share.
    pub escape: f64,
    /// Confirmed defective parts without an escape.
    pub defective: u64,
}

/// What confirmed parts prove.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// What was to be proven.
    pub wanted: Wanted,
    /// Good parts.
    pub good: usize,
    /// Defective parts.
    pub defective: usize,
    /// Parts that were not judged: they say nothing, and go to review.
    pub unjudged: usize,
    /// The thresholds that keep the promise; `None`: it is not proven.
    pub thresholds: Option<Thresholds>,
    /// What becomes of the defective parts by these thresholds, or by the strictest ones where nothing is proven.
    pub of_defective: Outcomes,
    /// Of the good ones.
    pub of_good: Outcomes,
    /// The least share that these parts prove with this confidence, by the strictest threshold.
    pub best_escape: f64,
    /// What some promises take: the wanted one first, then tighter ones.
    pub needed: Vec<Needed>,
}

impl Calibration {
    /// Share of the parts that are defective; `None` without parts.
    pub fn defect_rate(&self) -> Option<f64> {
        let parts = self.good + self.defective;
        (parts > 0).then(|| self.defective as f64 / parts as f64)
    }

    /// Share of the parts that a person sees; `None` without parts.
    pub fn review_share(&self) -> Option<f64> {
        let parts = self.good + self.defective + self.unjudged;
        let seen = self.of_good.review + self.of_defective.review + self.unjudged;
        (parts > 0).then(|| seen as f64 / parts as f64)
    }

    /// Share of all parts that are defective and pass, at most, where the promise holds and as many are defective as here.
    pub fn escape_of_all(&self) -> Option<f64> {
        self.thresholds?;
        Some(self.wanted.promise.escape * self.defect_rate()?)
    }
}

/// Which of the station's own decisions a calibration is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Ground {
    /// The version whose decisions count, with those that judge alike.
    pub version: String,
    /// Of the parts that passed and of the others: those that were inspected, and those that were decided about.
    pub passed: Decisions,
    /// Of the parts that failed or went to review.
    pub others: Decisions,
    /// Decided parts that are left out so that both kinds count as they come.
    pub thinned: usize,
    /// The oldest of them; `None` without any.
    pub since: Option<SystemTime>,
}

/// What the station's own decisions prove of an active recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Proven {
    /// The thresholds, if any, and what they do.
    pub calibration: Calibration,
    /// Which decisions they are.
    pub ground: Ground,
    /// The lines for the pipeline file; empty when nothing is proven.
    pub toml: String,
    /// What the active recipe promises.
    pub stated: Option<PromiseRule>,
}

/// How many of a kind there were, and how many of them people decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Inspected.
    pub inspected: u64,
    /// Decided about.
    pub decided: u64,
}

impl Decisions {
    /// Share that was decided about, 0..=1.
    pub fn share(self) -> f64 {
        if self.inspected == 0 { 0.0 } else { (self.decided as f64 / self.inspected as f64).min(1.0) }
    }
}
