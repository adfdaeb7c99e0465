//! What is done to the values of rows, forward and back: plain loops that the compiler turns into vectors.
//!
//! `g` is the gradient of what came out; each `_back` gives the gradient of what went in. Formulas are those of the
//! engine's `rows`, with their derivatives.

use multiversion::multiversion;
use vlm::ops::rows::{erf, exp};

/// sqrt(2 / pi), and the cube's share in the tanh form of GELU.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;
/// 1 / sqrt(2 pi).
const NORMAL: f32 = 0.398_942_3;

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_tanh(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        let u = GELU_SCALE * (x + GELU_CUBE * x * x * x);
        *out = x / (1.0 + exp(-2.0 * u));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_tanh_back(x: &[f32], g: &[f32], out: &mut [f32]) {
    for ((x, g), out) in x.iter().zip(g).zip(out) {
        let u = GELU_SCALE * (x + GELU_CUBE * x * x * x);
        let s = 1.0 / (1.0 + exp(-2.0 * u));
        let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
        *out = g * (s + 2.0 * x * s * (1.0 - s) * slope);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_erf(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        *out = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_erf_back(x: &[f32], g: &[f32], out: &mut [f32]) {
    for ((x, g), out) in x.iter().zip(g).zip(out) {
        let share = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        *out = g * (share + x * NORMAL * exp(-0.5 * x * x));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Of the gate, then of what it is multiplied with.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn swiglu_back(gate: &[f32], up: &[f32], g: &[f32], of_gate: &mut [f32], of_up: &mut [f32]) {
    for ((((gate, up), g), of_gate), of_up) in gate.iter().zip(up).zip(g).zip(of_gate).zip(of_up) {
        let s = 1.0 / (1.0 + exp(-gate));
        *of_gate = g * up * (s + gate * s * (1.0 - s));
        *of_up = g * gate * s;
    }
}

/// `(x - mean) / deviation * weight + bias` of one row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let (mean, scale) = moments(x, eps);
    for (((x, w), b), out) in x.iter().zip(weight).zip(bias).zip(out) {
        *out = (x - mean) * scale * w + b;
    }
}

/// Of one row; adds to the gradients of weight and bias.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn layer_norm_back(
    x: &[f32],
    weight: &[f32],
    g: &[f32],
    eps: f32,
    out: &mut [f32],
    of_weight: &mut [f32],
    of_bias: &mut [f32],
) {
    let (mean, scale) = moments(x, eps);
    let n = x.len() as f32;
    let (mut sum, mut along) = (0.0f32, 0.0f32);
    for ((((x, w), g), of_weight), of_bias) in x.iter().zip(weight).zip(g).zip(of_weight).zip(of_bias) {
        let normed = (x - mean) * scale;
        sum += g * w;
        along += g * w * normed;
        *of_weight += g * normed;
        *of_bias += g;
    }
    for (((x, w), g), out) in x.iter().zip(weight).zip(g).zip(out) {
        let normed = (x - mean) * scale;
        *out = scale * (g * w - sum / n - normed * along / n);
    }
}

/// The mean of a row, and one over its deviation.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let spread = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    (mean, 1.0 / (spread + eps).sqrt())
}

/// `x / root mean square * weight` of one row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32 + eps).sqrt();
    for ((x, w), out) in x.iter().zip(weight).zip(out) {
        *out = x * scale * w;
    }
}

/// Of one row; adds to the gradient of the weight.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn rms_norm_back(
    x: &[f32],
    weight: &[f32],
    g: &[f32],
    eps: f32,
    out: &mut [f32],
    of_weight: &mut [f32],
) {
    let n = x.len() as f32;
    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / n + eps).sqrt();
    let mut along = 0.0f32;
    for (((x, w), g), of_weight) in x.iter().zip(weight).zip(g).zip(of_weight) {
        along += g * w * x * scale;
        *of_weight += g * x * scale;
    }
    for (((x, w), g), out) in x.iter().zip(weight).zip(g).zip(out) {
        *out = scale * (g * w - x * scale * along / n);
    }
}

/// Turns the first `heads` heads of a row by its angles; `back` turns them the other way.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn turn(x: &mut [f32], heads: usize, cos: &[f32], sin: &[f32], back: bool) {
    let sign = if back { -1.0 } else { 1.0 };
    for head in x.chunks_exact_mut(2 * cos.len()).take(heads) {
        let (a, b) = head.split_at_mut(cos.len());
        for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let s = s * sign;
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

/// Sums the columns of rows as wide as `out`, added to what is there.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn add_columns(rows: &[f32], out: &mut [f32]) {
    for row in rows.chunks_exact(out.len()) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += x;
        }
    }
}
