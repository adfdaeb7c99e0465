//! `AdamW` with a limit on the gradient: how a step changes the variables.
//!
//! ```text
//! gradients -> rows that stay are cleared -> scaled to a norm of 1 at most -> m, v -> weights
//! rate      -> up over the first steps, then down along a cosine, by the share of the time that is spent
//! ```
//!
//! Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019).

use super::ops::with;
use super::weights::{Trained, Weights};
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The recipe that trained the shipped model.
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.98;
const EPS: f32 = 1e-8;
const DECAY: f32 = 0.01;
const NORM_MAX: f32 = 1.0;
/// Steps until the rate is reached.
const WARM_UP_STEPS: u64 = 20;
/// Share of the rate that is left at the end.
const LAST_SHARE: f64 = 0.03;
/// Values that one task changes.
const TASK_VALUES: usize = 64 * 1024;

/// The rate of a step, counted from 0, with `spent` of all time behind it, 0..=1.
pub(super) fn rate(highest: f64, step: u64, spent: f64) -> f64 {
    let rising = ((step + 1) as f64 / WARM_UP_STEPS as f64).min(1.0);
    let falling = 0.5 * (1.0 + (std::f64::consts::PI * spent.clamp(0.0, 1.0)).cos());
    highest * rising * (falling * (1.0 - LAST_SHARE) + LAST_SHARE)
}

/// The running means of gradients and of their squares, by the variables' names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub of: BTreeMap<String, [Vec<f32>; 2]>,
    /// Steps made.
    pub steps: u64,
}

impl Moments {
    /// Changes all variables; false, and nothing is changed, when a gradient is not finite.
    ///
    /// # Errors
    /// As candle.
    pub(super) fn step(&mut self, weights: &Weights, grads: &GradStore, rate: f64) -> Result<bool> {
        let mut found = vec![];
        for (name, trained) in &weights.trained {
            if let Some(grad) = grads.get(&trained.var) {
                found.push((name, trained, gradient(trained, grad)?));
            }
        }
        let squares =
            |g: &Vec<f32>| g.par_chunks(TASK_VALUES).map(square).collect::<Vec<f64>>().iter().sum::<f64>();
        let norm = found.iter().map(|(_, _, g)| squares(g)).sum::<f64>().sqrt() as f32;
        if !norm.is_finite() {
            return Ok(false);
        }
        self.steps += 1;
        let scale = if norm > NORM_MAX { NORM_MAX / norm } else { 1.0 };
        let by = By::new(self.steps, rate as f32, scale);
        for (name, trained, grad) in found {
            let [m, v] =
                self.of.entry(name.clone()).or_insert_with(|| [vec![0.0; grad.len()], vec![0.0; grad.len()]]);
            let decay = if trained.var.dims().len() >= 2 { DECAY } else { 0.0 };
            let tensor = trained.var.as_tensor();
            let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let pieces = values.par_chunks_mut(TASK_VALUES).zip(grad.par_chunks(TASK_VALUES));
            let pieces = pieces.zip(m.par_chunks_mut(TASK_VALUES)).zip(v.par_chunks_mut(TASK_VALUES));
            pieces.for_each(|(((w, g), m), v)| by.change(w, g, m, v, decay));
            keep(trained, tensor, &mut values)?;
            trained.var.set(&Tensor::from_vec(values, tensor.shape(), tensor.device())?)?;
        }
        Ok(true)
    }
}

fn square(g: &[f32]) -> f64 {
    f64::from(g.iter().map(|g| g * g).sum::<f32>())
}

/// The values of a gradient, zero in the rows that stay.
fn gradient(trained: &Trained, grad: &Tensor) -> Result<Vec<f32>> {
    let mut values = with_values(grad)?;
    let width = values.len() / trained.var.dim(0)?.max(1);
    trained.fixed_rows.iter().for_each(|row| values[row * width..(row + 1) * width].fill(0.0));
    Ok(values)
}

fn with_values(x: &Tensor) -> Result<Vec<f32>> {
    if x.device().is_cpu() { with(x, |x| Ok(x.to_vec())) } else { x.flatten_all()?.to_vec1() }
}

/// Rows that stay are not decayed either.
fn keep(trained: &Trained, tensor: &Tensor, values: &mut [f32]) -> Result<()> {
    if trained.fixed_rows.is_empty() {
        return Ok(());
    }
    let before = tensor.flatten_all()?.to_vec1::<f32>()?;
    let width = values.len() / trained.var.dim(0)?.max(1);
    for row in trained.fixed_rows.iter() {
        let at = row * width..(row + 1) * width;
        values[at.clone()].copy_from_slice(&before[at]);
    }
    Ok(())
}

/// One step's numbers.
struct By {
    rate: f32,
    scale: f32,
    /// One over what the means lack because they began at zero.
    first: f32,
    second: f32,
}

impl By {
    fn new(steps: u64, rate: f32, scale: f32) -> Self {
        let lacks = |beta: f32| 1.0 / (1.0 - f64::from(beta).powf(steps as f64)) as f32;
        Self { rate, scale, first: lacks(BETA1), second: lacks(BETA2) }
    }

    fn change(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], decay: f32) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * self.scale;
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            *w -= self.rate * (*m * self.first / ((*v * self.second).sqrt() + EPS) + decay * *w);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        assert!((rate(1.0, 0, 0.0) - 0.05).abs() < 1e-9);
        assert!((rate(1.0, 19, 0.0) - 1.0).abs() < 1e-9);
        assert!((rate(1.0, 500, 0.5) - 0.515).abs() < 1e-9);
        assert!((rate(1.0, 500, 7.0) - 0.03).abs() < 1e-9);
    }

    #[test]
    fn the_first_step_is_the_rate_against_the_gradients_sign() {
        let (mut w, mut m, mut v) = ([1.0f32, -2.0, 3.0], [0.0; 3], [0.0; 3]);
        By::new(1, 0.1, 1.0).change(&mut w, &[0.5, -4.0, 0.0], &mut m, &mut v, 0.0);
        assert!((w[0] - 0.9).abs() < 1e-5 && (w[1] + 1.9).abs() < 1e-5 && w[2] == 3.0, "{w:?}");
        By::new(2, 0.1, 1.0).change(&mut w, &[0.0; 3], &mut m, &mut v, DECAY);
        assert!(w[2] < 3.0, "weights decay");
    }
}
