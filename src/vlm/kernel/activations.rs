//! Activations as integers: one scale per 32 values, and the sums that the minima of weights need.

use super::layout::BLOCK;
use rayon::prelude::*;

/// Bits of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// As llama.cpp and candle do: about 0.4 % of rounding a value.
    Eight,
    /// A high and a low byte: the rounding vanishes beside that of the weights, at half the speed.
    Sixteen,
}

/// The largest integer of 16-bit activations: its high byte still fits eight bits after rounding.
const WIDE_MAX: f32 = 127.0 * 128.0;
const NARROW_MAX: f32 = 127.0;

/// Rows of quantised activations. value = (high * 128 + low) * scale, without `low`: high * scale.
pub struct Activations {
    pub(super) k: usize,
    /// `[rows, k]`.
    pub(super) high: Vec<i8>,
    /// `[rows, k]`; empty for eight bits.
    pub(super) low: Vec<i8>,
    /// `[rows, k / 32]`: the value of one step of `low` (of `high` for eight bits).
    pub(super) scales: Vec<f32>,
    /// `[rows, k / 16]`: sums of sixteen values.
    pub(super) sums: Vec<f32>,
}

impl Activations {
    /// Quantises `[rows, k]` values; `k` is a multiple of 32. A value that is not finite makes its
    /// block's scale not finite, so that it is seen in the product.
    pub fn quantise(x: &[f32], k: usize, bits: Bits) -> Self {
        let rows = x.len() / k;
        let wide = bits == Bits::Sixteen;
        let mut a = Self {
            k,
            high: vec![0; rows * k],
            low: vec![0; if wide { rows * k } else { 0 }],
            scales: vec![0.0; rows * k / BLOCK],
            sums: vec![0.0; rows * k / 16],
        };
        let rows = x.par_chunks(k).zip(a.high.par_chunks_mut(k)).zip(a.scales.par_chunks_mut(k / BLOCK));
        let rows = rows.zip(a.sums.par_chunks_mut(k / 16));
        if wide {
            rows.zip(a.low.par_chunks_mut(k)).for_each(|((((x, high), scales), sums), low)| {
                wide_row(x, high, low, scales, sums);
            });
        } else {
            rows.for_each(|(((x, high), scales), sums)| narrow_row(x, high, scales, sums));
        }
        a
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.high.len() / self.k
    }

    /// One value, for the scalar reference.
    pub(super) fn value(&self, row: usize, i: usize) -> f32 {
        let at = row * self.k + i;
        let high = i32::from(self.high[at]);
        let integer = self.low.get(at).map_or(high, |low| high * 128 + i32::from(*low));
        integer as f32 * self.scales[at / BLOCK]
    }
}

/// The largest magnitude; NaN when a value is NaN.
#[inline(always)]
fn largest(x: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0f32; 16];
    for half in x.as_chunks::<16>().0 {
        for (lane, v) in lanes.iter_mut().zip(half) {
            let v = v.abs();
            *lane = if v > *lane || v.is_nan() { v } else { *lane };
        }
    }
    lanes.iter().fold(0.0, |a, b| if *b > a || b.is_nan() { *b } else { a })
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn narrow_row(x: &[f32], high: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(high.as_chunks_mut::<BLOCK>().0);
    for (b, (x, high)) in blocks.enumerate() {
        let scale = largest(x) / NARROW_MAX;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        scales[b] = scale;
        for half in 0..2 {
            let mut sum = 0i32;
            for i in half * 16..half * 16 + 16 {
                let q = round(x[i] * inverse);
                high[i] = q as i8;
                sum = sum.wrapping_add(q);
            }
            sums[2 * b + half] = sum as f32 * scale;
        }
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn wide_row(x: &[f32], high: &mut [i8], low: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let bytes = high.as_chunks_mut::<BLOCK>().0.iter_mut().zip(low.as_chunks_mut::<BLOCK>().0);
    for (b, (x, (high, low))) in x.as_chunks::<BLOCK>().0.iter().zip(bytes).enumerate() {
        let scale = largest(x) / WIDE_MAX;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        scales[b] = scale;
        for half in 0..2 {
            let mut sum = 0i32;
            for i in half * 16..half * 16 + 16 {
                let q = round(x[i] * inverse);
                let h = q.wrapping_add(64) >> 7;
                high[i] = h as i8;
                low[i] = q.wrapping_sub(h << 7) as i8;
                sum = sum.wrapping_add(q);
            }
            sums[2 * b + half] = sum as f32 * scale;
        }
    }
}

/// The nearest integer, halves to the even one, for magnitudes below 2^22: adding 1.5 * 2^23 leaves
/// the integer in the low bits, without the checks of a cast. What is not finite gives a meaningless
/// integer; its block's scale tells.
#[inline(always)]
fn round(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}
