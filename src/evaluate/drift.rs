//! Have values changed? The two-sample test of Kolmogorov and Smirnov on an older and a newer window.
//!
//! ```text
//! reference --.
//!              +--> D, the largest distance of their distributions --> chance of it if nothing had changed --> changed?
//! now ---------'
//! ```
//!
//! It asks for no form of the distribution, and sees a shift, a spread and a share alike; with ties, as of verdicts, it
//! is wrong more seldom than it says. A chance below [`CHANCE_MAX`] is a change. With hourly looks at a camera's
//! five values, a false alarm comes at most once in 22 years by the sum of all chances, where parts and alarms are
//! independent of each other; values that wander by lots come nearer to it. Events an hour are compared by their counts.

use super::binomial::at_least;

/// A change is what chance alone would bring less often than this.
pub(crate) const CHANCE_MAX: f64 = 1e-6;
/// It is over when chance alone may well bring what is seen.
pub(crate) const CHANCE_OVER: f64 = 1e-3;
/// Terms of the series, which ends long before.
const TERMS: i32 = 100;

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compared {
    /// The largest distance of the two distributions, 0..=1.
    pub distance: f64,
    /// How often chance alone brings as large a one, 0..=1.
    pub chance: f64,
}

/// Compares two windows; `None` when one is empty or has a value that is not a number.
pub(crate) fn compare(reference: &[f64], now: &[f64]) -> Option<Compared> {
    if reference.is_empty() || now.is_empty() || reference.iter().chain(now).any(|value| value.is_nan()) {
        return None;
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (old, new) = (sorted(reference), sorted(now));
    let share = |values: &[f64], at: f64| values.partition_point(|v| *v <= at) as f64 / values.len() as f64;
    let apart = |at: &f64| (share(&old, *at) - share(&new, *at)).abs();
    let distance = old.iter().chain(&new).map(apart).fold(0.0, f64::max);
    let (m, n) = (old.len() as f64, new.len() as f64);
    let root = (m * n / (m + n)).sqrt();
    Some(Compared { distance, chance: kolmogorov((root + 0.12 + 0.11 / root) * distance) })
}

/// P(K > x) of Kolmogorov's distribution, with the correction of M. A. Stephens (1970) in `x` for small windows.
fn kolmogorov(x: f64) -> f64 {
    // Below it the series alternates without end, and the chance is 1 to four digits.
    if x < 0.35 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * x * x).exp()
    };
    (1..=TERMS).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// Compares a count of events in one hour with `earlier` of them in `hours` hours before it: of all of them, each falls
/// into this hour with a chance of 1 / (1 + `hours`) while their rate is the same (J. Przyborowski, H. Wilenski, 1940).
/// Only more of them are a change.
pub(crate) fn compare_rates(now: usize, earlier: usize, hours: usize) -> Compared {
    let share = 1.0 / (1.0 + hours as f64);
    let all = now + earlier;
    let distance = if all == 0 { 0.0 } else { (now as f64 / all as f64 - share).max(0.0) };
    Compared { distance, chance: at_least(now, all, share) }
}

/// Whether it has changed, from whether it had: between both limits it stays as it was.
pub(crate) fn has_changed(before: bool, compared: Compared) -> bool {
    compared.chance < if before { CHANCE_OVER } else { CHANCE_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn values(rng: &mut ChaCha8Rng, n: usize, shift: f64) -> Vec<f64> {
        (0..n).map(|_| rng.gen_range(0.0_f64..1.0).powi(3) + shift).collect()
    }

    #[test]
    fn distances_by_hand() {
        let compared = |a: &[f64], b: &[f64]| compare(a, b).map(|c| c.distance);
        assert_eq!(compared(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), Some(0.0));
        assert_eq!(compared(&[1.0, 2.0], &[3.0, 4.0]), Some(1.0));
        assert_eq!(compared(&[0.0, 0.0, 0.0, 1.0], &[0.0, 1.0, 1.0, 1.0]), Some(0.5));
        assert_eq!((compare(&[], &[1.0]), compare(&[1.0], &[f64::NAN])), (None, None));
    }

    #[test]
    fn published_points_of_the_distribution_come_out() {
        for (x, chance) in [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)] {
            assert!((kolmogorov(x) - chance).abs() < 1e-4, "{x}: {}", kolmogorov(x));
        }
        assert!(kolmogorov(0.3) > 0.9999 && kolmogorov(9.0) < 1e-60);
    }

    /// Of 2,000 comparisons of windows of the watch's sizes at most one in a hundred falls below a chance of 0.01; five
    /// deviations of 20 are 22.
    #[test]
    fn it_is_wrong_no_more_often_than_it_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for ties in [false, true] {
            let mut draw = |n| -> Vec<f64> {
                let drawn = values(&mut rng, n, 0.0);
                drawn.into_iter().map(|v| if ties { (v * 3.0).floor() } else { v }).collect()
            };
            let low = (0..2000).filter(|_| compare(&draw(400), &draw(200)).is_some_and(|c| c.chance < 0.01));
            let low = low.count();
            assert!(low <= 42, "{low} of 2000, ties: {ties}");
        }
    }

    /// Of 2,000 hours with two events each, by chance, at most one in a hundred falls below a chance of 0.01; five
    /// deviations of 20 are 22.
    #[test]
    fn more_events_an_hour_are_seen_and_as_many_are_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        // Of 3,600 seconds each has one with a chance of 2 in 3,600.
        let mut hour = || (0..3600).filter(|_| rng.gen_range(0..1800) == 0).count();
        let hours: Vec<usize> = (0..2024).map(|_| hour()).collect();
        let low = hours.windows(25).filter(|hours| {
            let (earlier, now) = (hours[..24].iter().sum(), hours[24]);
            compare_rates(now, earlier, 24).chance < 0.01
        });
        let low = low.count();
        assert!(low <= 42, "{low} of 2000");
        assert!(has_changed(false, compare_rates(20, 48, 24)));
        assert!(!has_changed(false, compare_rates(4, 48, 24)) && !has_changed(true, compare_rates(0, 0, 24)));
    }

    #[test]
    fn a_shift_is_seen_and_over_when_it_is_gone() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let reference = values(&mut rng, 400, 0.0);
        let (same, moved) = (values(&mut rng, 200, 0.0), values(&mut rng, 200, 0.3));
        let compared = |now: &[f64]| compare(&reference, now).expect("both have values");
        assert!(has_changed(false, compared(&moved)) && !has_changed(false, compared(&same)));
        assert!(!has_changed(true, compared(&same)));
        let between = Compared { distance: 0.2, chance: 1e-4 };
        assert!(has_changed(true, between) && !has_changed(false, between));
        // A share of parts that do not pass, 5 % before and 40 % now.
        let share = |bad: usize, of: usize| (0..of).map(|n| f64::from(u8::from(n < bad))).collect::<Vec<_>>();
        let compared = compare(&share(20, 400), &share(80, 200)).expect("both have values");
        assert!(has_changed(false, compared), "{compared:?}");
    }
}
