//! Activations as integers: one scale per 32 values, and the sums that the minima of weights need.

use super::layout::BLOCK;
use super::Path;
use rayon::prelude::*;

/// Bits of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// As llama.cpp and candle do: about 0.4 % of rounding a value.
    Eight,
    /// The rounding vanishes beside that of the weights, at half the speed; with AVX2 and weights of eight
    /// bits the products are the very same.
    Sixteen,
}

/// The largest integer of 16-bit activations: its high byte still fits eight bits after rounding.
const WIDE_MAX: f32 = 127.0 * 128.0;
const NARROW_MAX: f32 = 127.0;

/// Rows that lie side by side: their blocks of the same depth are adjacent, so that a kernel that walks
/// the depth reads one stream, and finds every row at a fixed distance.
pub(super) const PANEL: usize = 16;

/// What a kernel must know of a block of 32 values besides its integers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Head {
    /// The value of one step of the integers.
    pub(super) scale: f32,
    /// Sum of the values: `scale` times that of the integers.
    pub(super) sum: f32,
    /// The sum of the integers times -128: what unsigned 8-bit weights are too large by.
    pub(super) minus_128: i32,
    /// For each half of the block the sum of the integers times -32, for unsigned 6-bit weights.
    pub(super) minus_32: [i32; 2],
}

/// Rows of quantised activations, as the kernel of a `Path` reads them.
///
/// Integers stand as `[panel][block][row][32]`, heads as `[panel][block][row]`; the last panel has the
/// rows that are left.
pub struct Activations {
    pub(super) k: usize,
    pub(super) rows: usize,
    pub(super) bits: Bits,
    pub(super) path: Path,
    /// The integers of eight bits; of sixteen, integer = high * 128 + low. Empty where `pairs` serves.
    pub(super) high: Vec<i8>,
    /// Empty for eight bits.
    pub(super) low: Vec<i8>,
    /// For AVX2: the integers, of each group of four values in the order 0, 2, 1, 3.
    pub(super) pairs: Vec<i16>,
    pub(super) heads: Vec<Head>,
}

impl Activations {
    /// Quantises `[rows, k]` values for the best path of this processor; `k` is a multiple of 32. A
    /// value that is not finite makes its block's scale not finite, so that it is seen in the product.
    pub fn quantise(x: &[f32], k: usize, bits: Bits) -> Self {
        Self::quantise_for(Path::best(), x, k, bits)
    }

    /// As `quantise`, for a path of choice.
    pub(super) fn quantise_for(path: Path, x: &[f32], k: usize, bits: Bits) -> Self {
        let rows = x.len() / k;
        let wide = bits == Bits::Sixteen;
        let pairs = path == Path::Avx2;
        let when = |wanted: bool| if wanted { rows * k } else { 0 };
        let mut a = Self {
            k,
            rows,
            bits,
            path,
            high: vec![0; when(!(wide && pairs))],
            low: vec![0; when(wide && !pairs)],
            pairs: vec![0; when(pairs)],
            heads: vec![Head::default(); rows * k / BLOCK],
        };
        let panel = PANEL * k;
        let panels = x.par_chunks(panel).zip(a.heads.par_chunks_mut(panel / BLOCK));
        match (wide, pairs) {
            (false, false) => panels
                .zip(a.high.par_chunks_mut(panel))
                .for_each(|((x, heads), high)| narrow_panel(x, k, heads, high)),
            (false, true) => panels
                .zip(a.high.par_chunks_mut(panel))
                .zip(a.pairs.par_chunks_mut(panel))
                .for_each(|(((x, heads), high), pairs)| narrow_pairs_panel(x, k, heads, high, pairs)),
            (true, false) => panels
                .zip(a.high.par_chunks_mut(panel))
                .zip(a.low.par_chunks_mut(panel))
                .for_each(|(((x, heads), high), low)| wide_panel(x, k, heads, high, low)),
            (true, true) => panels
                .zip(a.pairs.par_chunks_mut(panel))
                .for_each(|((x, heads), pairs)| wide_pairs_panel(x, k, heads, pairs)),
        }
        a
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that a kernel reads of one row, at most.
    pub(super) fn row_bytes(&self) -> usize {
        let integer = if self.pairs.is_empty() && self.low.is_empty() { 1 } else { 2 };
        integer * self.k + self.k / BLOCK * size_of::<Head>()
    }

    /// Where the first block of a row is, counted in blocks, and how many blocks later the next one is.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let (panel, first) = (row / PANEL, row % PANEL);
        let in_panel = PANEL.min(self.rows - panel * PANEL);
        (panel * PANEL * (self.k / BLOCK) + first, in_panel)
    }

    /// One value, for the scalar reference.
    pub(super) fn value(&self, row: usize, i: usize) -> f32 {
        let (start, step) = self.place(row);
        let block = start + i / BLOCK * step;
        let at = block * BLOCK + i % BLOCK;
        let integer = match (self.high.get(at), self.low.get(at)) {
            (Some(high), Some(low)) => i32::from(*high) * 128 + i32::from(*low),
            (Some(high), None) => i32::from(*high),
            _ => i32::from(self.pairs[block * BLOCK + pair_place(i % BLOCK)]),
        };
        integer as f32 * self.heads[block].scale
    }
}

/// Where a value of a block stands among the pairs: 0, 2, 1, 3 of each group.
const fn pair_place(i: usize) -> usize {
    i / 4 * 4 + [0, 2, 1, 3][i % 4]
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

/// Quantises the rows of a panel to integers up to `max`; `put` takes those of a block.
#[inline(always)]
fn quantise_panel(
    x: &[f32],
    k: usize,
    max: f32,
    heads: &mut [Head],
    mut put: impl FnMut(usize, &[i32; BLOCK]),
) {
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let at = b * rows + row;
            let scale = largest(x) / max;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let mut q = [0i32; BLOCK];
            let mut sums = [0i32; 2];
            for (half, sum) in sums.iter_mut().enumerate() {
                for i in half * 16..half * 16 + 16 {
                    q[i] = round(x[i] * inverse);
                    *sum = sum.wrapping_add(q[i]);
                }
            }
            put(at, &q);
            heads[at] = Head::new(scale, sums);
        }
    }
}

#[inline(always)]
fn put_bytes(q: &[i32; BLOCK], out: &mut [i8], at: usize) {
    let out = &mut out.as_chunks_mut::<BLOCK>().0[at];
    for i in 0..BLOCK {
        out[i] = q[i] as i8;
    }
}

#[inline(always)]
fn put_pairs(q: &[i32; BLOCK], out: &mut [i16], at: usize) {
    let out = &mut out.as_chunks_mut::<BLOCK>().0[at];
    for i in 0..BLOCK {
        out[pair_place(i)] = q[i] as i16;
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn narrow_panel(x: &[f32], k: usize, heads: &mut [Head], high: &mut [i8]) {
    quantise_panel(x, k, NARROW_MAX, heads, |at, q| put_bytes(q, high, at));
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn narrow_pairs_panel(x: &[f32], k: usize, heads: &mut [Head], high: &mut [i8], pairs: &mut [i16]) {
    quantise_panel(x, k, NARROW_MAX, heads, |at, q| {
        put_bytes(q, high, at);
        put_pairs(q, pairs, at);
    });
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn wide_panel(x: &[f32], k: usize, heads: &mut [Head], high: &mut [i8], low: &mut [i8]) {
    quantise_panel(x, k, WIDE_MAX, heads, |at, q| {
        let h = q.map(|q| q.wrapping_add(64) >> 7);
        put_bytes(&h, high, at);
        let mut l = *q;
        for (l, h) in l.iter_mut().zip(h) {
            *l = l.wrapping_sub(h << 7);
        }
        put_bytes(&l, low, at);
    });
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn wide_pairs_panel(x: &[f32], k: usize, heads: &mut [Head], pairs: &mut [i16]) {
    quantise_panel(x, k, WIDE_MAX, heads, |at, q| put_pairs(q, pairs, at));
}

impl Head {
    /// `sums`: of the integers of each half. They are meaningless where a value was not finite; so is
    /// `scale` then, and nothing may stop before it is seen.
    #[inline(always)]
    fn new(scale: f32, sums: [i32; 2]) -> Self {
        let both = sums[0].wrapping_add(sums[1]);
        Self {
            scale,
            sum: both as f32 * scale,
            minus_128: both.wrapping_mul(-128),
            minus_32: sums.map(|s| s.wrapping_mul(-32)),
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
