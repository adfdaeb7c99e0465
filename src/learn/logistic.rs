//! Logistic regression: which side of a plane an example lies on, and how surely.
//!
//! ```text
//! least of  sum of share_i * ln(1 + exp(-y_i (w . x_i + b))) + strength / 2 * |w|^2      y_i: +1 bad, -1 good
//! ```
//!
//! With more numbers than examples there are many planes; the strength takes the shortest. The sum is convex, so that
//! Newton's method finds its one least value from anywhere: each step solves a linear system by conjugate gradients,
//! which never needs the matrix itself. All in f64 and in one order: the same examples give the same plane, bit by bit.

/// Newton's steps; some ten are taken.
const STEPS_MAX: usize = 50;
/// Conjugate gradients of a step.
const INNER_MAX: usize = 250;
/// The gradient at the end, as a share of that at the start.
const GRADIENT: f64 = 1e-7;
/// A step is halved this often before it counts as none.
const HALVINGS: usize = 30;

/// Examples as rows of numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub dim: usize,
    /// `[rows, dim]`.
    pub values: Vec<f64>,
}

impl Rows {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.dim.max(1))
    }

    /// Mean and deviation of each number; the deviation of what never differs is 1.
    pub(crate) fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let n = (self.values.len() / self.dim.max(1)).max(1) as f64;
        let (mut mean, mut deviation) = (vec![0.0; self.dim], vec![0.0; self.dim]);
        for row in self.iter() {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / n);
        }
        for row in self.iter() {
            let gaps = row.iter().zip(&mean).map(|(v, m)| v - m);
            deviation.iter_mut().zip(gaps).for_each(|(d, gap)| *d += gap * gap / n);
        }
        for (d, m) in deviation.iter_mut().zip(&mean) {
            *d = d.sqrt();
            if *d <= 1e-9 * m.abs().max(1e-3) {
                *d = 1.0;
            }
        }
        (mean, deviation)
    }
}

/// A plane: over 0 is bad.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plane {
    pub weights: Vec<f64>,
    pub bias: f64,
}

impl Plane {
    /// The logarithm of how much likelier bad is than good.
    pub(crate) fn score(&self, row: &[f64]) -> f64 {
        dot(&self.weights, row) + self.bias
    }

    /// The same plane for rows before they were brought to mean 0 and deviation 1.
    pub(crate) fn unscaled(mut self, mean: &[f64], deviation: &[f64]) -> Self {
        self.weights.iter_mut().zip(deviation).for_each(|(w, d)| *w /= d);
        self.bias -= dot(&self.weights, mean);
        self
    }
}

/// Fits a plane to rows in their own scale: they are brought to mean 0 and deviation 1, and the plane back.
///
/// `shares` says how much each row counts; each kind as a whole counts one half, whatever its shares add up to.
/// `start` is where the search begins, the plane of another strength; it changes the time and not the plane.
///
/// # Panics
/// When rows, kinds and shares differ in number, or only one kind is there.
pub(crate) fn fit(
    rows: &Rows,
    is_bad: &[bool],
    shares: &[f64],
    strength: f64,
    start: Option<&Plane>,
) -> Plane {
    let (mean, deviation) = rows.moments();
    let mut scaled = rows.clone();
    for row in scaled.values.chunks_exact_mut(rows.dim.max(1)) {
        row.iter_mut().zip(mean.iter().zip(&deviation)).for_each(|(v, (m, d))| *v = (*v - m) / d);
    }
    let start = start.map(|plane| {
        let weights = plane.weights.iter().zip(&deviation).map(|(w, d)| w * d).collect();
        Plane { weights, bias: plane.score(&mean) }
    });
    Problem::new(&scaled, is_bad, shares, strength).solve(start).unscaled(&mean, &deviation)
}

/// What is least at the plane that is sought. Its unknowns are `[w, b]`.
struct Problem<'a> {
    rows: &'a Rows,
    is_bad: &'a [bool],
    shares: Vec<f64>,
    strength: f64,
}

impl<'a> Problem<'a> {
    fn new(rows: &'a Rows, is_bad: &'a [bool], shares: &[f64], strength: f64) -> Self {
        assert!(rows.values.len() == rows.dim * is_bad.len() && shares.len() == is_bad.len(), "whole rows");
        let of =
            |kind: bool| shares.iter().zip(is_bad).filter(|(_, b)| **b == kind).map(|(s, _)| s).sum::<f64>();
        let (bad, good) = (of(true), of(false));
        assert!(bad > 0.0 && good > 0.0, "both kinds are there");
        let half = |(share, bad_one): (&f64, &bool)| 0.5 * share / if *bad_one { bad } else { good };
        let shares = shares.iter().zip(is_bad).map(half).collect();
        Self { rows, is_bad, shares, strength }
    }

    fn solve(&self, start: Option<Plane>) -> Plane {
        let dim = self.rows.dim;
        let mut at = vec![0.0; dim + 1];
        let first = length(&self.gradient(&self.scores(&at), &at));
        if let Some(start) = start {
            at[..dim].copy_from_slice(&start.weights);
            at[dim] = start.bias;
        }
        let mut scores = self.scores(&at);
        let mut value = self.value(&scores, &at);
        for _ in 0..STEPS_MAX {
            let gradient = self.gradient(&scores, &at);
            let steep = length(&gradient);
            if steep <= GRADIENT * first {
                break;
            }
            let step = self.step(&scores, &gradient, (steep / first).sqrt().min(0.1) * steep);
            let slope = dot(&step, &gradient);
            let mut size = 1.0;
            let taken = (0..HALVINGS).find_map(|_| {
                let next: Vec<f64> = at.iter().zip(&step).map(|(a, s)| s.mul_add(size, *a)).collect();
                let scores = self.scores(&next);
                let there = self.value(&scores, &next);
                let is_lower = there <= (1e-4 * size).mul_add(slope, value);
                size /= 2.0;
                is_lower.then_some((next, scores, there))
            });
            // Where no step leads further down, rounding is all that is left.
            let Some(taken) = taken else { break };
            (at, scores, value) = taken;
        }
        let bias = at.pop().unwrap_or(0.0);
        Plane { weights: at, bias }
    }

    fn scores(&self, at: &[f64]) -> Vec<f64> {
        let (weights, bias) = at.split_at(self.rows.dim);
        self.rows.iter().map(|row| dot(row, weights) + bias[0]).collect()
    }

    fn value(&self, scores: &[f64], at: &[f64]) -> f64 {
        let loss = |((score, bad), share): ((&f64, &bool), &f64)| {
            let over = if *bad { -score } else { *score };
            share * (over.max(0.0) + (-over.abs()).exp().ln_1p())
        };
        let weights = &at[..self.rows.dim];
        let losses = scores.iter().zip(self.is_bad).zip(&self.shares).map(loss).sum::<f64>();
        losses + 0.5 * self.strength * dot(weights, weights)
    }

    fn gradient(&self, scores: &[f64], at: &[f64]) -> Vec<f64> {
        let pull = |((score, bad), share): ((&f64, &bool), &f64)| share * (sigmoid(*score) - f64::from(*bad));
        let pulls: Vec<f64> = scores.iter().zip(self.is_bad).zip(&self.shares).map(pull).collect();
        self.gathered(&pulls, at)
    }

    /// The sum of all rows, each as often as `pulls` says, with what the strength adds.
    fn gathered(&self, pulls: &[f64], at: &[f64]) -> Vec<f64> {
        let dim = self.rows.dim;
        let mut out: Vec<f64> = at.iter().map(|a| a * self.strength).collect();
        out[dim] = pulls.iter().sum();
        for (row, pull) in self.rows.iter().zip(pulls) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += v * pull);
        }
        out
    }

    /// Newton's step, by conjugate gradients up to a rest of `tolerance`.
    fn step(&self, scores: &[f64], gradient: &[f64], tolerance: f64) -> Vec<f64> {
        let bend = |(score, share): (&f64, &f64)| share * sigmoid(*score) * sigmoid(-score);
        let bends: Vec<f64> = scores.iter().zip(&self.shares).map(bend).collect();
        let times = |v: &[f64]| {
            let pulls: Vec<f64> = self.scores(v).iter().zip(&bends).map(|(s, b)| s * b).collect();
            self.gathered(&pulls, v)
        };
        let mut step = vec![0.0; gradient.len()];
        let mut rest: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut along = rest.clone();
        let mut square = dot(&rest, &rest);
        for _ in 0..INNER_MAX {
            let turned = times(&along);
            let bent = dot(&along, &turned);
            if bent <= f64::MIN_POSITIVE {
                break;
            }
            let size = square / bent;
            step.iter_mut().zip(&along).for_each(|(s, a)| *s += size * a);
            rest.iter_mut().zip(&turned).for_each(|(r, t)| *r -= size * t);
            let next = dot(&rest, &rest);
            if next.sqrt() <= tolerance {
                break;
            }
            along.iter_mut().zip(&rest).for_each(|(a, r)| *a = r + next / square * *a);
            square = next;
        }
        step
    }
}

/// The probability whose odds have this logarithm.
pub(crate) fn sigmoid(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

fn length(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

/// In eight lanes, so that the compiler may use vector registers; the order is always the same.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a, rest_a) = a.as_chunks::<8>();
    let (b, rest_b) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(dim: usize, values: &[f64]) -> Rows {
        Rows { dim, values: values.to_vec() }
    }

    /// Numbers between -1 and 1, always the same ones.
    fn noise(n: usize) -> Vec<f64> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Bad at 1, good at -1: by symmetry b = 0, and w is where `w * strength = 1 / (1 + exp(w))`.
    #[test]
    fn the_optimum_of_two_points_is_the_one_by_hand() {
        for strength in [0.01, 0.1, 1.0] {
            let plane = fit(&rows(1, &[1.0, -1.0]), &[true, false], &[1.0, 1.0], strength, None);
            let w = plane.weights[0];
            assert!((w * strength - sigmoid(-w)).abs() < 1e-6, "strength {strength}: {w}");
            assert!(plane.bias.abs() < 1e-6, "{plane:?}");
        }
    }

    #[test]
    fn at_the_optimum_the_gradient_is_nothing_and_the_start_does_not_matter() {
        let (n, dim) = (40, 90);
        let data = rows(dim, &noise(n * dim));
        let is_bad: Vec<bool> = (0..n).map(|i| i % 4 == 0).collect();
        let shares = vec![1.0; n];
        let problem = Problem::new(&data, &is_bad, &shares, 0.05);
        let plane = problem.solve(None);
        let at: Vec<f64> = plane.weights.iter().copied().chain([plane.bias]).collect();
        assert!(length(&problem.gradient(&problem.scores(&at), &at)) < 1e-6);
        let elsewhere = Plane { weights: noise(dim), bias: 3.0 };
        let other = problem.solve(Some(elsewhere));
        let gap = plane.weights.iter().zip(&other.weights).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 1e-4, "{gap}");
        assert_eq!(plane, problem.solve(None), "bit by bit");
    }

    #[test]
    fn separable_examples_are_told_apart_by_a_plane_of_finite_length() {
        let mut data = rows(2, &noise(200));
        let is_bad: Vec<bool> = data.iter().map(|row| row[0] > 0.0).collect();
        data.values.chunks_exact_mut(2).zip(&is_bad).for_each(|(r, b)| r[0] += if *b { 1.0 } else { -1.0 });
        let plane = fit(&data, &is_bad, &[1.0; 100], 1e-3, None);
        assert!(plane.weights.iter().all(|w| w.is_finite()) && plane.weights[0] > 0.0);
        assert!(data.iter().zip(&is_bad).all(|(row, bad)| (plane.score(row) > 0.0) == *bad));
    }

    #[test]
    fn each_kind_counts_one_half_however_many_there_are() {
        let values: Vec<f64> = [1.0].into_iter().chain([-1.0; 99]).collect();
        let is_bad: Vec<bool> = (0..100).map(|i| i == 0).collect();
        let plane = fit(&rows(1, &values), &is_bad, &[1.0; 100], 0.1, None);
        assert!(plane.score(&[0.0]).abs() < 1e-5, "{plane:?}");
    }

    #[test]
    fn a_number_that_never_differs_counts_nothing() {
        let plane = fit(&rows(2, &[1.0, 5.0, -1.0, 5.0]), &[true, false], &[1.0, 1.0], 0.1, None);
        assert!(plane.weights[1].abs() < 1e-12 && plane.weights[0] > 0.1, "{plane:?}");
    }

    #[test]
    #[should_panic(expected = "both kinds are there")]
    fn one_kind_alone_has_no_plane() {
        fit(&rows(1, &[1.0, 2.0]), &[true, true], &[1.0, 1.0], 0.1, None);
    }
}
