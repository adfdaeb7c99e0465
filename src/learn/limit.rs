//! Limits: from which distance on a part is unusual.
//!
//! Good parts that were compared with others than themselves show what distances good parts have. Logarithms of
//! distances are nearly normal, so that a limit of three deviations over their mean alarms one good part in some
//! hundreds. Where defective parts were confirmed, the limit moves between the two kinds, but never so low that more
//! than some six of a hundred good parts would alarm.

use crate::inspect::reference::bank::Limit;

/// Deviations of good parts from their mean to the limit, when nothing is known of defective ones.
const DEVIATIONS: f64 = 3.0;
/// And at least, whatever is known of them.
const DEVIATIONS_MIN: f64 = 1.5;
/// Least deviation of the logarithms: equal parts must not make everything else unusual.
const DEVIATION_MIN: f64 = 0.03;
/// How sure it is that the mean good part is unusual.
const AT_THE_MEAN: f64 = 0.05;
/// Steeper than this, confidences of f32 cannot tell parts apart that are far over the limit.
const STEEPNESS: std::ops::RangeInclusive<f64> = 2.0..=12.0;
/// Defective parts from which on they move the limit.
const BAD_MIN: usize = 3;

/// The limit by the distances of good parts, and of defective ones.
pub(crate) fn of(good: &[f32], bad: &[f32]) -> Limit {
    let (mean, deviation) = moments(good);
    let deviation = deviation.max(DEVIATION_MIN);
    // A few parts know little of their deviation.
    let few = 1.0 + 1.0 / (2.0 * good.len().max(1) as f64).sqrt();
    let mut over = DEVIATIONS * deviation * few;
    if bad.len() >= BAD_MIN {
        let least = DEVIATIONS_MIN * deviation * few;
        over = over.min(between(good, bad, mean)).max(least);
    }
    let steepness = (1.0 / AT_THE_MEAN - 1.0).ln() / over;
    Limit {
        at: (mean + over).exp() as f32,
        steepness: steepness.clamp(*STEEPNESS.start(), *STEEPNESS.end()) as f32,
    }
}

/// How far over the mean of the good parts a limit errs least on both kinds, each kind counting as much as the other.
fn between(good: &[f32], bad: &[f32], mean: f64) -> f64 {
    let logs = |all: &[f32]| {
        let mut logs: Vec<f64> = all.iter().map(|d| log(*d)).collect();
        logs.sort_by(f64::total_cmp);
        logs
    };
    let (good, bad) = (logs(good), logs(bad));
    let mut places: Vec<f64> = good.iter().chain(&bad).copied().collect();
    places.sort_by(f64::total_cmp);
    let errors = |at: f64| {
        let alarmed = good.iter().filter(|g| **g > at).count() as f64 / good.len() as f64;
        let missed = bad.iter().filter(|b| **b <= at).count() as f64 / bad.len() as f64;
        alarmed + missed
    };
    let middles = places.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
    let best = middles.min_by(|a, b| errors(*a).total_cmp(&errors(*b)));
    best.map_or(f64::INFINITY, |at| at - mean)
}

/// Mean and deviation of the logarithms.
fn moments(distances: &[f32]) -> (f64, f64) {
    let n = distances.len().max(1) as f64;
    let mean = distances.iter().map(|d| log(*d)).sum::<f64>() / n;
    let square = distances.iter().map(|d| (log(*d) - mean).powi(2)).sum::<f64>();
    (mean, (square / (n - 1.0).max(1.0)).sqrt())
}

fn log(distance: f32) -> f64 {
    f64::from(distance.max(f32::MIN_POSITIVE)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_parts_lie_below_and_what_is_far_away_above() {
        let good: Vec<f32> = (0..20).map(|i| 10.0 + 0.1 * i as f32).collect();
        let limit = of(&good, &[]);
        assert!(good.iter().all(|d| limit.confidence(*d) < 0.3), "{limit:?}");
        assert!(limit.confidence(20.0) > 0.9 && limit.confidence(limit.at) == 0.5);
        let far = [2.0, 3.0].map(|times| limit.confidence(times * limit.at));
        assert!(far[0] < far[1] && far[1] < 1.0, "what is far away is still told apart: {far:?}");
    }

    #[test]
    fn defective_parts_bring_the_limit_down_but_not_into_the_good_ones() {
        let good: Vec<f32> = (0..20).map(|i| 10.0 + 0.2 * i as f32).collect();
        let near = of(&good, &[15.0, 16.0, 17.0, 18.0]);
        assert!(near.at < of(&good, &[]).at && near.at < 15.5, "{near:?}");
        let lies = of(&good, &[10.0; 8]);
        let alarmed = good.iter().filter(|d| **d > lies.at).count();
        assert!(alarmed <= 2, "{alarmed} of 20, {lies:?}");
    }

    #[test]
    fn equal_parts_and_single_ones_have_a_limit() {
        for good in [&[5.0f32; 3][..], &[5.0], &[0.0, 0.0]] {
            let limit = of(good, &[]);
            assert!(limit.at.is_finite() && limit.at > 0.0 && limit.steepness > 0.0, "{limit:?}");
        }
    }
}
