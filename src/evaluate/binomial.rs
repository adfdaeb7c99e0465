//! Exact bounds on a share from counted cases.
//!
//! ```text
//! k of n cases --upper--> the share that is exceeded with at most 1 - confidence    C. J. Clopper, E. S. Pearson, 1934
//!              --at_least--> how often chance brings as many
//!              --is_at_most--> is a share of `bound` or more refuted?               the same test, the other way round
//!              --evidence--> how much speaks for a share above `bound`, at any time J. Ville, 1939
//! ```
//!
//! All of them go by the regularised incomplete beta function: P(X <= k) for X of n cases and a share p is
//! 1 - `I_p(k + 1, n - k)`.

/// Steps of the continued fraction, and halvings of an interval: both are at the end of f64 long before.
const STEPS_MAX: usize = 10_000;
const HALVINGS: usize = 60;
/// A denominator that is none would end the fraction (W. J. Lentz).
const TINY: f64 = 1e-300;

/// The upper bound of Clopper and Pearson, one-sided: a share above it would give `k` cases of `n` or fewer with a
/// probability of less than 1 - `confidence`. 1 where nothing is known.
pub(crate) fn upper(k: usize, n: usize, confidence: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    if k == 0 {
        return 1.0 - (1.0 - confidence).powf(1.0 / n as f64);
    }
    let (a, b) = ((k + 1) as f64, (n - k) as f64);
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if beta(a, b, middle) < confidence { low = middle } else { high = middle }
    }
    high
}

/// Whether `k` cases of `n` prove with this confidence that the share is at most `bound`: `upper` is.
pub(crate) fn is_at_most(k: usize, n: usize, bound: f64, confidence: f64) -> bool {
    k < n && beta((k + 1) as f64, (n - k) as f64, bound) >= confidence
}

/// How often `k` or more of `n` cases come by chance, where each comes with this share.
pub(crate) fn at_least(k: usize, n: usize, share: f64) -> f64 {
    if k == 0 { 1.0 } else { beta(k as f64, (n + 1 - k) as f64, share) }
}

/// Cases without which no share below `bound` is proven, when none of them counts: the least n with
/// 1 - (1 - `confidence`)^(1/n) <= `bound`.
pub(crate) fn needed(bound: f64, confidence: f64) -> u64 {
    let exact = (1.0 - confidence).ln() / (1.0 - bound).ln();
    // What is a whole number may have come out a hair above it.
    (exact - 1e-9).ceil().max(1.0) as u64
}

/// The natural logarithm of the evidence for a share above `bound` in `k` cases of `n`.
///
/// It is the likelihood of shares above `bound`, all of them alike, over that of `bound`: while the share is at most
/// `bound`, its expectation never exceeds 1, whatever is looked at and when. So it reaches 1 / d, ever, with a probability
/// of at most d.
pub(crate) fn evidence(k: usize, n: usize, bound: f64) -> f64 {
    let (found, other) = (k as f64, (n - k) as f64);
    let above = beta(other + 1.0, found + 1.0, 1.0 - bound);
    let mixed = ln_beta(found + 1.0, other + 1.0) + above.ln() - (1.0 - bound).ln();
    mixed - found * bound.ln() - other * (1.0 - bound).ln()
}

/// The regularised incomplete beta function `I_x(a, b)`, 0..=1.
fn beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() - ln_beta(a, b)).exp();
    // The fraction converges quickly on this side only.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction of the incomplete beta function, by Lentz's method (Abramowitz and Stegun, 26.5.8).
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let kept = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / kept(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for step in 1..STEPS_MAX {
        let m = step as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / kept(1.0 + even * d);
        c = kept(1.0 + even / c);
        value *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / kept(1.0 + odd * d);
        c = kept(1.0 + odd / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// ln Γ(x) for x >= 1, by Stirling's series from 16 on (Abramowitz and Stegun, 6.1.41), which is exact to 1e-14 there.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 16.0 {
        product *= x;
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// P(X <= k) term by term, without any beta function.
    fn summed(k: usize, n: usize, p: f64) -> f64 {
        let mut term = (1.0 - p).powi(n as i32);
        let mut sum = term;
        for i in 1..=k {
            term *= (n + 1 - i) as f64 / i as f64 * p / (1.0 - p);
            sum += term;
        }
        sum
    }

    #[test]
    fn the_published_bounds_come_out() {
        // One-sided at 95 %, as in tables of Clopper and Pearson's two-sided 90 % interval.
        for (k, n, bound) in [
            (0, 10, 0.2589),
            (0, 20, 0.1391),
            (1, 20, 0.2161),
            (2, 20, 0.2826),
            (1, 10, 0.3942),
            (5, 10, 0.7776),
            (0, 59, 0.0495),
            (0, 299, 0.0100),
        ] {
            let upper = upper(k, n, 0.95);
            assert!((upper - bound).abs() < 6e-5, "{k} of {n}: {upper}, {bound}");
        }
        assert_eq!((upper(3, 3, 0.95), upper(0, 0, 0.95)), (1.0, 1.0));
    }

    #[test]
    fn at_the_bound_the_sum_of_the_binomial_is_what_is_left() {
        for (k, n) in [(0, 7), (1, 20), (3, 59), (12, 300), (40, 700), (250, 300)] {
            for confidence in [0.8, 0.95, 0.99] {
                let left = summed(k, n, upper(k, n, confidence));
                assert!((left - (1.0 - confidence)).abs() < 1e-8, "{k} of {n} at {confidence}: {left}");
            }
        }
    }

    #[test]
    fn a_bound_is_proven_exactly_where_the_upper_bound_is_no_higher() {
        for n in [1, 10, 59, 299, 473] {
            for k in 0..=n.min(12) {
                for bound in [0.001, 0.01, 0.05, 0.3] {
                    let by_upper = upper(k, n, 0.95) <= bound;
                    assert_eq!(is_at_most(k, n, bound, 0.95), by_upper, "{k} of {n}, {bound}");
                }
            }
        }
    }

    #[test]
    fn as_many_cases_are_needed_as_the_formula_says() {
        assert_eq!([0.05, 0.01, 0.001].map(|bound| needed(bound, 0.95)), [59, 299, 2995]);
        assert_eq!(needed(0.5, 0.5), 1);
        for bound in [0.3, 0.02, 0.005] {
            let n = needed(bound, 0.9) as usize;
            assert!(upper(0, n, 0.9) <= bound && upper(0, n - 1, 0.9) > bound, "{bound}: {n}");
        }
    }

    #[test]
    fn chance_brings_as_many_as_the_sum_says() {
        for (k, n, share) in [(1, 5, 0.2), (3, 13, 0.04), (8, 13, 0.04), (5, 5, 0.5)] {
            let summed = 1.0 - summed(k - 1, n, share);
            assert!((at_least(k, n, share) - summed).abs() < 1e-9, "{k} of {n}");
        }
        assert_eq!(at_least(0, 0, 0.1), 1.0);
    }

    #[test]
    fn logarithms_of_factorials_are_exact() {
        let mut factorial = 0.0;
        for n in 1..200 {
            assert!((ln_gamma(f64::from(n)) - factorial).abs() < 1e-10 * (1.0 + factorial), "{n}");
            factorial += f64::from(n).ln();
        }
    }

    #[test]
    fn evidence_is_the_mean_likelihood_above_the_bound() {
        for (k, n, bound) in [(0, 5, 0.1), (2, 10, 0.05), (9, 100, 0.05)] {
            // The mean over shares above the bound, by the rule of the middles.
            let steps = 200_000;
            let likelihood = |p: f64| p.powi(k) * (1.0 - p).powi(n - k);
            let at = |i: i32| bound + (1.0 - bound) * (f64::from(i) + 0.5) / f64::from(steps);
            let mean = (0..steps).map(|i| likelihood(at(i))).sum::<f64>() / f64::from(steps);
            let ratio = (mean / likelihood(bound)).ln();
            let found = evidence(k as usize, n as usize, bound);
            assert!((found - ratio).abs() < 1e-6, "{k} of {n}: {found}, {ratio}");
        }
    }

    /// Looked at after every part, it is wrong no more often than it says; and a share well above the bound is seen.
    #[test]
    fn evidence_may_be_looked_at_after_every_part() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut alarmed = |share: f64, runs: usize| {
            let mut alarms = 0;
            for _ in 0..runs {
                let mut k = 0;
                alarms += usize::from((1..=400).any(|n| {
                    k += usize::from(rng.gen_range(0.0..1.0) < share);
                    evidence(k, n, 0.02) >= 20_f64.ln()
                }));
            }
            alarms
        };
        // At most 5 %; five deviations of 1,000 runs are 0.034.
        let wrong = alarmed(0.02, 1000);
        assert!(wrong <= 84, "{wrong} of 1000");
        let seen = alarmed(0.08, 100);
        assert!(seen >= 95, "{seen} of 100");
    }
}
