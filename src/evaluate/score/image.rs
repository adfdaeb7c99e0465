//! Whole images: is a defective part noticed, is a good one left alone?
//!
//! An image is noticed when it has at least one finding, whatever its label, place or grade: that is
//! a question to the model, and thresholds of the recipe (`fail_at`) do not move it. What the recipe
//! makes of it stands beside it: an escape is a defective image whose verdict is pass.

use super::share;
use crate::domain::grade::Verdict;
use crate::domain::inspection::Inspection;
use crate::evaluate::truth::Truth;
use serde::Serialize;

/// Figures by image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ImageMetrics {
    /// Images of defective parts, labels that were not asked included.
    pub defective: usize,
    /// Images of good parts.
    pub clean: usize,
    /// Share of the defective images with at least one finding.
    pub recall: Option<f64>,
    /// Share of the clean images with at least one finding.
    pub false_alarm_rate: Option<f64>,
    /// Probability that a defective image has a higher score than a clean one, ties counted half.
    pub auroc: Option<f64>,
    /// Share of the defective images whose verdict is pass.
    pub escape_rate: Option<f64>,
    pub verdicts: VerdictCounts,
    pub by_truth: ByTruth,
}

/// Verdicts against the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ByTruth {
    /// Of defective parts: each pass is an escape.
    pub defective: VerdictCounts,
    /// Of good parts: each fail is a false reject.
    pub clean: VerdictCounts,
}

/// How many images got which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct VerdictCounts {
    pub pass: usize,
    pub fail: usize,
    pub review: usize,
}

/// Scores images against the truth.
pub(super) fn score(pairs: &[(&Truth, &Inspection)]) -> ImageMetrics {
    let of = |defective: bool| -> Vec<&Inspection> {
        pairs.iter().filter(|(t, _)| t.is_defective() == defective).map(|(_, i)| *i).collect()
    };
    let (bad, good) = (of(true), of(false));
    let noticed = |set: &[&Inspection]| set.iter().filter(|i| !i.findings.is_empty()).count();
    let passed = bad.iter().filter(|i| i.verdict == Verdict::Pass).count();
    let scores = |set: &[&Inspection]| set.iter().map(|i| i.score).collect::<Vec<f32>>();
    ImageMetrics {
        defective: bad.len(),
        clean: good.len(),
        recall: share(noticed(&bad), bad.len()),
        false_alarm_rate: share(noticed(&good), good.len()),
        auroc: auroc(&scores(&bad), &scores(&good)),
        escape_rate: share(passed, bad.len()),
        verdicts: VerdictCounts::of(pairs.iter().map(|(_, i)| *i)),
        by_truth: ByTruth {
            defective: VerdictCounts::of(bad.iter().copied()),
            clean: VerdictCounts::of(good.iter().copied()),
        },
    }
}

impl VerdictCounts {
    fn of<'i>(inspections: impl Iterator<Item = &'i Inspection>) -> Self {
        let mut counts = Self::default();
        for inspection in inspections {
            match inspection.verdict {
                Verdict::Pass => counts.pass += 1,
                Verdict::Fail(_) => counts.fail += 1,
                Verdict::Review(_) => counts.review += 1,
            }
        }
        counts
    }
}

/// Area under the ROC curve from ranks (Mann-Whitney), in O(n log n); `None` when a class is empty.
///
/// A score that is not a number belongs to a failed inspection, which is never a pass: it ranks as 1.
pub(super) fn auroc(defective: &[f32], clean: &[f32]) -> Option<f64> {
    let number = |s: f32| if s.is_nan() { 1.0 } else { s };
    let mut all: Vec<(f32, bool)> = defective.iter().map(|s| (number(*s), true)).collect();
    all.extend(clean.iter().map(|s| (number(*s), false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the number of won pairs, so that a tie is a whole 1.
    let (mut won_twice, mut clean_below) = (0_usize, 0_usize);
    // -0.0 and 0.0 are neighbours in the total order and equal here.
    #[expect(clippy::float_cmp, reason = "a tie is the very same score")]
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        let bad = tied.iter().filter(|(_, defective)| *defective).count();
        let good = tied.len() - bad;
        won_twice += bad * (2 * clean_below + good);
        clean_below += good;
    }
    share(won_twice, 2 * defective.len() * clean.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute_force(defective: &[f32], clean: &[f32]) -> Option<f64> {
        let mut sum = 0.0;
        for d in defective {
            for c in clean {
                sum += if d > c {
                    1.0
                } else if d < c {
                    0.0
                } else {
                    0.5
                };
            }
        }
        let pairs = defective.len() * clean.len();
        (pairs > 0).then(|| sum / f64::from(u32::try_from(pairs).expect("few pairs")))
    }

    proptest! {
        #[test]
        fn auroc_equals_counting_every_pair(
            // Eleven possible scores: many ties.
            defective in prop::collection::vec((0_u8..=10).prop_map(|s| f32::from(s) / 10.0), 0..40),
            clean in prop::collection::vec((0_u8..=10).prop_map(|s| f32::from(s) / 10.0), 0..40),
        ) {
            match (auroc(&defective, &clean), brute_force(&defective, &clean)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9, "{a} {b}"),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }

    #[test]
    fn auroc_by_hand() {
        // Pairs: .9 beats all three; .4 beats .1, ties .4, loses to .6 => (3 + 1.5) / 6.
        assert_eq!(auroc(&[0.9, 0.4], &[0.1, 0.4, 0.6]), Some(0.75));
        assert_eq!(auroc(&[0.5], &[0.5]), Some(0.5));
        assert_eq!(auroc(&[0.5], &[]), None);
        assert_eq!(auroc(&[], &[0.5]), None);
        assert_eq!(auroc(&[f32::NAN], &[0.9]), Some(1.0));
        assert_eq!(auroc(&[0.0], &[-0.0]), Some(0.5));
    }
}
