//! Thresholds with a promise: the limits on the score that keep the share of defective parts that pass under a bound.
//!
//! ```text
//! confirmed parts --Case--> passes but for its score? its score   defective or good
//!    |  thresholds 0 -> 1, fixed before the parts are seen, the strictest first
//!    '--> of the defective, so many pass: does it prove `escape`? --yes--> the next --no--> the last one that did
//!         of the good, so many fail:      does it prove `false_fail`?   from 1 downwards, in the same way
//! ```
//!
//! The promise is about defective parts: P(pass | defective) <= `escape`, with `confidence`.
//!
//! - One threshold is proven by the exact binomial test (C. J. Clopper, E. S. Pearson, Biometrika 26, 1934).
//! - Choosing among many is paid for by fixed-sequence testing (A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan,
//!   L. Lei, "Learn then Test", 2021): the order is fixed beforehand, each threshold is tested at the whole
//!   1 - `confidence`, and the first that is not proven ends it. A wrong threshold is chosen only if the first wrong one
//!   in the order is "proven", which happens with a probability of 1 - `confidence` at most.
//! - It holds for parts that are exchangeable with the confirmed ones: of the same product, camera, light and model, and
//!   decided about whether or not they passed ([`even_out`]).
//! - A part that was not judged says nothing of the score, and goes to review.

use super::binomial::{is_at_most, needed, upper};
use super::gate::is_unjudged;
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::VerdictRule;
use crate::domain::promise::{Calibration, Decisions, Needed, Outcomes, Thresholds, Wanted};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Thresholds are whole hundred-thousandths: a file holds them as they are.
const STEPS_OF_ONE: u32 = 100_000;
/// Promises that are so many times tighter are shown beside the wanted one.
const TIGHTER: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

/// Whether a part fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// Whatever its score.
    Always,
    /// Where its score is over the limit: it has a finding that fails, and an unsure one.
    ByScore,
    /// Whatever its score.
    Never,
}

/// A confirmed part, as it was inspected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// People called it so.
    pub defective: bool,
    /// Of the inspection, 0..=1.
    pub score: f32,
    /// But for its score.
    pub passes: bool,
    /// By its findings and its score.
    pub fails: Fails,
}

impl Case {
    /// A part that people called good or defective; `None`: it was not judged.
    pub fn of(inspection: &Inspection, rule: &VerdictRule, defective: bool) -> Option<Self> {
        if is_unjudged(inspection) || !(0.0..=1.0).contains(&inspection.score) {
            return None;
        }
        let failing = || inspection.findings.iter().filter(|finding| finding.grade >= rule.fail_at);
        let is_sure = || failing().any(|finding| finding.confidence >= rule.review_below_confidence);
        let passes = match &inspection.verdict {
            Verdict::Pass => true,
            Verdict::Review(reason) => reason.is_score(),
            Verdict::Fail(_) => false,
        };
        let fails = match &inspection.verdict {
            Verdict::Fail(Reason::Finding { .. }) if !is_sure() => Fails::ByScore,
            Verdict::Fail(_) => Fails::Always,
            Verdict::Review(Reason::LowConfidence { .. }) if failing().next().is_some() => Fails::ByScore,
            Verdict::Review(_) | Verdict::Pass => Fails::Never,
        };
        Some(Self { defective, score: inspection.score, passes, fails })
    }

    fn passes_at(&self, review_above: f32) -> bool {
        self.passes && self.score <= review_above
    }

    fn fails_at(&self, fail_above: Option<f32>) -> bool {
        match self.fails {
            Fails::Always => true,
            Fails::ByScore => fail_above.is_some_and(|limit| self.score > limit),
            Fails::Never => false,
        }
    }
}

/// What becomes of some cases by these thresholds.
pub(crate) fn outcomes<'a>(cases: impl Iterator<Item = &'a Case>, thresholds: &Thresholds) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for case in cases {
        if case.passes_at(thresholds.review_above) {
            outcomes.pass += 1;
        } else if case.fails_at(thresholds.fail_above) {
            outcomes.fail += 1;
        } else {
            outcomes.review += 1;
        }
    }
    outcomes
}

/// All thresholds that are tried, from 0 to 1: numbers of two digits, fine near both ends, where scores lie.
pub fn grid() -> Vec<f32> {
    let decades = [1, 10, 100, 1_000].into_iter();
    let low: BTreeSet<u32> = decades
        .flat_map(|scale| (0..100).map(move |digits| digits * scale))
        .filter(|steps| *steps <= STEPS_OF_ONE / 2)
        .collect();
    let high: BTreeSet<u32> = low.iter().map(|steps| STEPS_OF_ONE - steps).collect();
    low.union(&high).map(|steps| (f64::from(*steps) / f64::from(STEPS_OF_ONE)) as f32).collect()
}

/// The thresholds that keep what is wanted, and what these parts say besides. `unjudged` are those without a case.
pub fn calibrate(cases: &[Case], unjudged: usize, wanted: Wanted) -> Calibration {
    let (bad, good): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.defective);
    let grid = grid();
    let strictest = Thresholds { review_above: grid[0], fail_above: None };
    let review_above = review_limit(&bad, &grid, wanted);
    let thresholds = review_above.map(|review_above| {
        // Where the score sends none to review, it has no limit below which it must not fail.
        let least = if review_above < 1.0 { review_above } else { 0.0 };
        let fail_above = fail_limit(&good, &grid, wanted).map(|limit| limit.max(least));
        Thresholds { review_above, fail_above }
    });
    let shown = thresholds.unwrap_or(strictest);
    let confidence = wanted.promise.confidence;
    let escaped = outcomes(bad.iter().copied(), &strictest).pass;
    let needs = |times: f64| {
        let escape = wanted.promise.escape / times;
        Needed { escape, defective: needed(escape, confidence) }
    };
    Calibration {
        wanted,
        good: good.len(),
        defective: bad.len(),
        unjudged,
        thresholds,
        of_defective: outcomes(bad.iter().copied(), &shown),
        of_good: outcomes(good.iter().copied(), &shown),
        best_escape: upper(escaped, bad.len(), confidence),
        needed: TIGHTER.map(needs).to_vec(),
    }
}

/// The largest limit of review that is proven, from the strictest on.
fn review_limit(bad: &[&Case], grid: &[f32], wanted: Wanted) -> Option<f32> {
    let mut scores: Vec<f32> = bad.iter().filter(|case| case.passes).map(|case| case.score).collect();
    scores.sort_by(f32::total_cmp);
    let escapes = |limit: f32| scores.partition_point(|score| *score <= limit);
    let counted = grid.iter().map(|limit| (*limit, escapes(*limit)));
    last_proven(counted, bad.len(), wanted.promise.escape, wanted.promise.confidence)
}

/// The smallest limit of failing that is proven, from 1 on; `None` also where it is 1, over which no score is.
fn fail_limit(good: &[&Case], grid: &[f32], wanted: Wanted) -> Option<f32> {
    let always = good.iter().filter(|case| case.fails == Fails::Always).count();
    let by_score = good.iter().filter(|case| case.fails == Fails::ByScore);
    let mut scores: Vec<f32> = by_score.map(|case| case.score).collect();
    scores.sort_by(f32::total_cmp);
    let fails = |limit: f32| always + scores.len() - scores.partition_point(|score| *score <= limit);
    let counted = grid.iter().rev().map(|limit| (*limit, fails(*limit)));
    last_proven(counted, good.len(), wanted.false_fail, wanted.promise.confidence)
        .filter(|limit| *limit < 1.0)
}

/// The last limit before the first that is not proven; `counted` has the cases against each.
fn last_proven(
    counted: impl Iterator<Item = (f32, usize)>,
    parts: usize,
    bound: f64,
    confidence: f64,
) -> Option<f32> {
    let (mut last, mut known) = (None, None);
    for (limit, against) in counted {
        if known != Some(against) && !is_at_most(against, parts, bound, confidence) {
            break;
        }
        (last, known) = (Some(limit), Some(against));
    }
    last
}

/// Parts as they come, out of those that were decided about: people look at all that fails or goes to review, and at few
/// that pass, so that few of the defective parts that passed are known. Of the kind that was looked at more often, as
/// many are left out, by chance, as makes both shares the same; whom it meets, the ids say, so that it is always the same.
///
/// What is left is as the line brings it when those that were looked at among the parts that passed were not chosen for
/// how they look. Without any of them, nothing is left.
pub(crate) fn even_out<T>(
    decided: Vec<T>,
    passed: Decisions,
    others: Decisions,
    of: impl Fn(&T) -> (&str, bool),
) -> Vec<T> {
    let (of_passed, of_others) = (passed.share(), others.share());
    // A kind that never came is not missing.
    let least = match (passed.inspected, others.inspected) {
        (0, _) => of_others,
        (_, 0) => of_passed,
        _ => of_passed.min(of_others),
    };
    let stays = |item: &T| {
        let (id, has_passed) = of(item);
        let share = if has_passed { of_passed } else { of_others };
        place(id) * share < least
    };
    decided.into_iter().filter(|item| stays(item)).collect()
}

/// A number from 0 up to 1 that looks like chance, and is always the same for an id.
fn place(id: &str) -> f64 {
    let digest = Sha256::digest(id.as_bytes());
    let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    // 53 bits: exact, and never 1.
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
#[path = "calibrate_tests.rs"]
mod tests;
