//! Row-wise operations of the model.
//!
//! On the CPU each is one pass over the rows, in parallel, compiled for AVX-512, AVX2 and the
//! baseline and chosen at run time. On other devices each is a composition of candle's operations;
//! the tests hold both to each other.

use candle_core::{DType, Device, IndexOp, Result, Storage, Tensor, D};
use multiversion::multiversion;
use rayon::prelude::*;

/// Fewest values that are worth a task of their own.
const TASK_VALUES_MIN: usize = 16 * 1024;

/// Applies `f(row index, input row, output row)` to every row of a `[rows, width]` tensor on the CPU.
pub fn map_rows(
    x: &Tensor,
    width_out: usize,
    f: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let mut out = vec![0f32; rows * width_out];
    with_slice(x, |input| {
        let task_rows = (TASK_VALUES_MIN / width.max(width_out).max(1)).max(1);
        out.par_chunks_mut(task_rows * width_out).enumerate().for_each(|(task, chunk)| {
            for (i, row_out) in chunk.chunks_exact_mut(width_out).enumerate() {
                let row = task * task_rows + i;
                f(row, &input[row * width..][..width], row_out);
            }
        });
        Ok(())
    })?;
    Tensor::from_vec(out, (rows, width_out), &Device::Cpu)
}

/// Gives the values of a contiguous f32 tensor on the CPU to `f`.
pub fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else { candle_core::bail!("tensor is not on the CPU") };
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("tensor is not contiguous")
    };
    f(&cpu.as_slice::<f32>()?[start..end])
}

/// Root-mean-square norm over the last dimension of `[rows, width]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        return x.broadcast_mul(&scale)?.broadcast_mul(weight);
    }
    with_slice(weight, |w| map_rows(x, w.len(), |_, x, out| rms_row(x, w, eps as f32, out)))
}

/// Layer norm over the last dimension of `[rows, width]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        return centred.broadcast_mul(&scale)?.broadcast_mul(weight)?.broadcast_add(bias);
    }
    with_slice(weight, |w| {
        with_slice(bias, |b| map_rows(x, w.len(), |_, x, out| layer_norm_row(x, w, b, eps as f32, out)))
    })
}

/// Which GELU a model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// By tanh: the blocks of the vision tower.
    Tanh,
    /// By the error function: the mergers.
    Erf,
}

/// GELU of `x + bias`, `[rows, width]`.
pub fn bias_gelu(x: &Tensor, bias: &Tensor, kind: Gelu) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let x = x.broadcast_add(bias)?;
        return if kind == Gelu::Tanh { x.gelu() } else { x.gelu_erf() };
    }
    with_slice(bias, |b| {
        map_rows(x, b.len(), |_, x, out| match kind {
            Gelu::Tanh => gelu_tanh_row(x, b, out),
            Gelu::Erf => gelu_erf_row(x, b, out),
        })
    })
}

/// `silu(gate) * up`, each `[rows, width]`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return gate.silu()? * up;
    }
    let width = gate.dim(D::Minus1)?;
    with_slice(up, |up| map_rows(gate, width, |row, x, out| swiglu_row(x, &up[row * width..][..width], out)))
}

/// Cosines and sines of the rotary angles, each `[rows, head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Rotary {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotary {
    /// From angles `[rows, half]`, row after row.
    pub fn new(angles: &[f32], half: usize, device: &Device) -> Result<Self> {
        let shape = (angles.len() / half, half);
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

/// Optional RMS norm per head, then the rotation in its rotate-half form, of the columns
/// `start..start + heads * head_dim` of `x`. Returns `[rows, heads * head_dim]`.
pub fn norm_rotate(
    x: &Tensor,
    start: usize,
    heads: usize,
    norm: Option<(&Tensor, f64)>,
    rotary: &Rotary,
) -> Result<Tensor> {
    let half = rotary.cos.dim(1)?;
    let dim = 2 * half;
    if !x.device().is_cpu() {
        return norm_rotate_composed(&x.narrow(1, start, heads * dim)?, heads, norm, rotary);
    }
    let rotate = |weight: Option<&[f32]>, eps: f32| {
        with_slice(&rotary.cos, |cos| {
            with_slice(&rotary.sin, |sin| {
                map_rows(x, heads * dim, |row, x, out| {
                    let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
                    for head in 0..heads {
                        let x = &x[start + head * dim..][..dim];
                        let out = &mut out[head * dim..][..dim];
                        match weight {
                            Some(w) => rms_row(x, w, eps, out),
                            None => out.copy_from_slice(x),
                        }
                        rotate_half(out, cos, sin);
                    }
                })
            })
        })
    };
    match norm {
        Some((w, eps)) => with_slice(w, |w| rotate(Some(w), eps as f32)),
        None => rotate(None, 0.0),
    }
}

fn norm_rotate_composed(
    x: &Tensor,
    heads: usize,
    norm: Option<(&Tensor, f64)>,
    rotary: &Rotary,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = width / heads / 2;
    let mut x = x.reshape((rows, heads, 2 * half))?;
    if let Some((weight, eps)) = norm {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        x = x.broadcast_mul(&scale)?.broadcast_mul(weight)?;
    }
    let (cos, sin) = (rotary.cos.unsqueeze(1)?, rotary.sin.unsqueeze(1)?);
    let (a, b) = (x.i((.., .., ..half))?, x.i((.., .., half..))?);
    let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[left, right], 2)?.reshape((rows, width))
}

/// `x + y + bias` for `[rows, width]`: the end of a residual branch.
pub fn add_residual(x: &Tensor, y: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let sum = (x + y)?;
        return bias.map_or(Ok(sum.clone()), |b| sum.broadcast_add(b));
    }
    let width = x.dim(1)?;
    let add = |bias: Option<&[f32]>| {
        with_slice(y, |y| {
            map_rows(x, width, |row, x, out| {
                let y = &y[row * width..][..width];
                match bias {
                    Some(b) => {
                        out.iter_mut().zip(x).zip(y).zip(b).for_each(|(((o, x), y), b)| *o = x + y + b)
                    }
                    None => out.iter_mut().zip(x).zip(y).for_each(|((o, x), y)| *o = x + y),
                }
            })
        })
    };
    match bias {
        Some(b) => with_slice(b, |b| add(Some(b))),
        None => add(None),
    }
}

/// True when every value is finite.
pub fn all_finite(x: &Tensor) -> Result<bool> {
    let sum = x.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
    Ok(sum.is_finite())
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn rms_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of(x, |v| v * v) / x.len() as f32 + eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn layer_norm_row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of(x, |v| v) / n;
    let scale = 1.0 / (sum_of(x, |v| (v - mean) * (v - mean)) / n + eps).sqrt();
    for (((o, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *o = (x - mean) * scale * w + b;
    }
}

/// Sum in sixteen lanes, so that the compiler may use vector registers.
#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn rotate_half(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn gelu_tanh_row(x: &[f32], bias: &[f32], out: &mut [f32]) {
    // x * (1 + tanh(u)) / 2 = x / (1 + exp(-2u)), u = sqrt(2 / pi) * (x + 0.044715 x^3).
    for ((o, x), b) in out.iter_mut().zip(x).zip(bias) {
        let v = x + b;
        let u = 0.797_884_6 * (v + 0.044_715 * v * v * v);
        *o = v / (1.0 + exp(-2.0 * u));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn gelu_erf_row(x: &[f32], bias: &[f32], out: &mut [f32]) {
    for ((o, x), b) in out.iter_mut().zip(x).zip(bias) {
        let v = x + b;
        *o = 0.5 * v * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn swiglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = g / (1.0 + exp(-g)) * u;
    }
}

/// Replaces scores by their softmax; returns nothing, the row sums to one.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn softmax_row(x: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    for v in x.iter_mut() {
        *v = exp(*v - max);
    }
    let scale = 1.0 / sum_of(x, |v| v);
    for v in x.iter_mut() {
        *v *= scale;
    }
}

/// e^x to about two units in the last place; NaN stays NaN, below -87.3 it is 0, above 88.3 infinite.
/// Constants: Cephes, expf.c.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = (p * r * r + r + 1.0) * power;
    // A NaN fails both comparisons and goes through `value`.
    let low = if x < -87.3 { 0.0 } else { value };
    if x > 88.3 {
        f32::INFINITY
    } else {
        low
    }
}

/// Error function to 1.5e-7 absolute: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - p * exp(-x * x)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, width: usize, scale: f64) -> Tensor {
        (Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap() * scale).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn norms_agree_with_their_composition() {
        let (x, w, b) = (
            noise(37, 200, 3.0),
            noise(1, 200, 1.0).squeeze(0).unwrap(),
            noise(1, 200, 1.0).squeeze(0).unwrap(),
        );
        let mean = x.mean_keepdim(1).unwrap();
        let centred = x.broadcast_sub(&mean).unwrap();
        let rms = |x: &Tensor| (x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-6).unwrap().sqrt().unwrap();
        let expected = x.broadcast_div(&rms(&x)).unwrap().broadcast_mul(&w).unwrap();
        assert!(gap(&rms_norm(&x, &w, 1e-6).unwrap(), &expected) < 1e-5);
        let expected = centred
            .broadcast_div(&rms(&centred))
            .unwrap()
            .broadcast_mul(&w)
            .unwrap()
            .broadcast_add(&b)
            .unwrap();
        assert!(gap(&layer_norm(&x, &w, &b, 1e-6).unwrap(), &expected) < 1e-5);
    }

    #[test]
    fn activations_agree_with_candle() {
        let (x, b) = (noise(5, 4096, 4.0), noise(1, 4096, 0.1).squeeze(0).unwrap());
        let sum = x.broadcast_add(&b).unwrap();
        assert!(gap(&bias_gelu(&x, &b, Gelu::Tanh).unwrap(), &sum.gelu().unwrap()) < 3e-6);
        assert!(gap(&bias_gelu(&x, &b, Gelu::Erf).unwrap(), &sum.gelu_erf().unwrap()) < 3e-6);
        let (gate, up) = (x.narrow(1, 0, 2048).unwrap(), x.narrow(1, 2048, 2048).unwrap());
        let (gate, up) = (gate.contiguous().unwrap(), up.contiguous().unwrap());
        assert!(gap(&swiglu(&gate, &up).unwrap(), &(gate.silu().unwrap() * up).unwrap()) < 1e-4);
    }

    #[test]
    fn rotation_agrees_with_its_composition() {
        let x = noise(9, 40 + 3 * 32, 1.0);
        let angles: Vec<f32> = (0..9 * 16).map(|i| i as f32 * 0.37).collect();
        let rotary = Rotary::new(&angles, 16, &Device::Cpu).unwrap();
        let w = noise(1, 32, 1.0).squeeze(0).unwrap();
        for norm in [None, Some((&w, 1e-6))] {
            let fast = norm_rotate(&x, 40, 3, norm, &rotary).unwrap();
            let slow = norm_rotate_composed(&x.narrow(1, 40, 96).unwrap(), 3, norm, &rotary).unwrap();
            assert!(gap(&fast, &slow) < 1e-5);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_nan() {
        let mut row: Vec<f32> = (0..77).map(|i| (i * 7 % 13) as f32 - 100.0).collect();
        softmax_row(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        row[40] = f32::NAN;
        softmax_row(&mut row);
        assert!(row.iter().any(|v| v.is_nan()), "a NaN must not vanish");
    }

    #[test]
    fn exp_is_close() {
        for i in -8700..8830 {
            let x = i as f32 / 100.0;
            let error = (exp(x) - x.exp()).abs() / x.exp();
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }
}
