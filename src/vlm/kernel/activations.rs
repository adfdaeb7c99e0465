//! Activations as integers: one scale per 32 or 256 values, and the sums that the minima of weights need.

use super::Path;
use super::layout::{BLOCK, SUPERBLOCK};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use rayon::prelude::*;
use std::mem::MaybeUninit;

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

/// Bytes of a row that stand side by side for AMX: a cache line, and a row of a tile register.
pub(super) const LINE: usize = 2 * BLOCK;

/// What a kernel must know of a block of 32 values besides its integers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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

/// Which values share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// 32 of them.
    Block,
    /// 256 of them, as llama.cpp does for K-quants. Products with weights whose own scales are integers
    /// then stay integers for so long.
    Superblock,
}

/// What the kernels of K-quants must know of 256 values that share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct Sums {
    /// Of the integers of each block of 32.
    pub(super) blocks: [i16; 8],
    /// Of those of each half of a block.
    pub(super) halves: [i16; 16],
}

/// What the kernel of K-quants for AMX must know of 256 values that share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(32))]
pub(super) struct Span {
    /// The sums of the integers of each block of 32.
    pub(super) sums: [i16; 8],
    pub(super) scale: f32,
}

/// Rows of quantised activations, as the kernel of a [`Path`] reads them.
///
/// Integers stand as `[panel][block][row][32]`, for AMX as `[panel][line][row][64]`; heads as
/// `[panel][block][row]`, sums and spans as `[panel][superblock][row]`. The last panel has the rows that are left. The buffers are
/// used again by each `quantise`, so that one that is no larger than those before it allocates nothing.
#[derive(Debug)]
pub struct Activations {
    pub(super) k: usize,
    pub(super) rows: usize,
    pub(super) bits: Bits,
    pub(super) path: Path,
    pub(super) shared: Shared,
    /// The integers of eight bits; of sixteen, integer = high * 128 + low. Empty where `pairs` serves alone.
    pub(super) high: Vec<i8>,
    /// Empty for eight bits.
    pub(super) low: Vec<i8>,
    /// For AVX2, and of sixteen bits for AVX-VNNI: the integers, of each group of four values in the order 0, 2, 1, 3.
    pub(super) pairs: Vec<i16>,
    pub(super) heads: Vec<Head>,
    /// For AVX2; empty where blocks have scales of their own.
    pub(super) sums: Vec<Sums>,
    /// For AMX; empty as `sums`.
    pub(super) spans: Vec<Span>,
}

impl Default for Activations {
    /// No rows.
    fn default() -> Self {
        Self {
            k: 0,
            rows: 0,
            bits: Bits::Eight,
            path: Path::best(),
            shared: Shared::Block,
            high: vec![],
            low: vec![],
            pairs: vec![],
            heads: vec![],
            sums: vec![],
            spans: vec![],
        }
    }
}

impl Activations {
    /// Quantises `[rows, k]` values for the best path of this processor; `k` is a multiple of what shares a
    /// scale. A value that is not finite makes its scale not finite, so that it is seen in the product.
    ///
    /// Activations that share scales by superblocks are for K-quants alone, in the order that suits their kernel.
    pub fn quantise(&mut self, x: &[f32], k: usize, bits: Bits, shared: Shared) {
        self.quantise_for(Path::for_rows(x.len() / k, bits, shared), x, k, bits, shared);
    }

    /// As `quantise`, for matrices of several kinds.
    pub(crate) fn quantise_for_all(&mut self, x: &[f32], k: usize, bits: Bits, shared: Shared) {
        self.quantise_for(Path::best(), x, k, bits, shared);
    }

    /// As `quantise`, for a path of choice.
    pub(super) fn quantise_for(&mut self, path: Path, x: &[f32], k: usize, bits: Bits, shared: Shared) {
        let span = match shared {
            Shared::Block => BLOCK,
            Shared::Superblock => SUPERBLOCK,
        };
        assert!(x.len().is_multiple_of(k) && k.is_multiple_of(span), "whole rows of whole blocks");
        assert!(path.takes(bits, shared), "AMX takes K-quants with activations of 8 bits");
        (self.k, self.rows, self.bits, self.path, self.shared) = (k, x.len() / k, bits, path, shared);
        let when = |wanted: bool| if wanted { x.len() } else { 0 };
        let wide = bits == Bits::Sixteen;
        #[cfg(target_arch = "x86_64")]
        let in_pairs = path == Path::Avx2 || path == Path::AvxVnni && wide;
        #[cfg(not(target_arch = "x86_64"))]
        let in_pairs = false;
        let max = if wide { WIDE_MAX } else { NARROW_MAX };
        let in_bytes = !in_pairs || !wide && shared == Shared::Superblock;
        let (highs, lows, both) = (when(in_bytes), when(wide && !in_pairs), when(in_pairs));
        let Self { high, low, pairs, heads, .. } = self;
        let panel = PANEL * k;
        let panels = x.par_chunks(panel).zip(room(heads, x.len() / BLOCK).par_chunks_mut(panel / BLOCK));
        let high_panels = room(high, highs).par_chunks_mut(panel);
        let low_panels = room(low, lows).par_chunks_mut(panel);
        let pair_panels = room(pairs, both).par_chunks_mut(panel);
        // Only AVX2 and AVX-VNNI write pairs.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = pair_panels;
        match (path, bits) {
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2, Bits::Eight) if in_bytes => {
                panels.zip(high_panels).zip(pair_panels).for_each(|(((x, heads), high), pairs)| {
                    // SAFETY: the path is taken only where the processor has its instructions.
                    unsafe { avx2::quantise_panel(x, k, span, max, heads, Some(pairs), Some(high)) }
                });
            }
            #[cfg(target_arch = "x86_64")]
            (Path::AvxVnni, Bits::Eight) => panels.zip(high_panels).for_each(|((x, heads), high)| {
                // SAFETY: as above.
                unsafe { avx2::quantise_panel(x, k, span, max, heads, None, Some(high)) }
            }),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2 | Path::AvxVnni, _) => panels.zip(pair_panels).for_each(|((x, heads), pairs)| {
                // SAFETY: as above.
                unsafe { avx2::quantise_panel(x, k, span, max, heads, Some(pairs), None) }
            }),
            #[cfg(target_arch = "x86_64")]
            (Path::Amx, _) => panels.zip(high_panels).for_each(|((x, heads), high)| {
                // SAFETY: as above.
                unsafe { avx512::quantise_panel::<true>(x, k, span, max, heads, high, None) }
            }),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512, Bits::Eight) => {
                panels.zip(high_panels).for_each(|((x, heads), high)| {
                    // SAFETY: as above.
                    unsafe { avx512::quantise_panel::<false>(x, k, span, max, heads, high, None) }
                });
            }
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512, Bits::Sixteen) => {
                panels.zip(high_panels).zip(low_panels).for_each(|(((x, heads), high), low)| {
                    // SAFETY: as above.
                    unsafe { avx512::quantise_panel::<false>(x, k, span, max, heads, high, Some(low)) }
                });
            }
            (_, Bits::Eight) => {
                panels
                    .zip(high_panels)
                    .for_each(|((x, heads), high)| narrow_panel(x, k, span, max, heads, high));
            }
            (_, Bits::Sixteen) => panels
                .zip(high_panels)
                .zip(low_panels)
                .for_each(|(((x, heads), high), low)| wide_panel(x, k, span, max, heads, high, low)),
        }
        // SAFETY: each kernel writes all heads and all integers of the buffers that its match arm names,
        // which are those of a length other than 0.
        unsafe {
            heads.set_len(x.len() / BLOCK);
            high.set_len(highs);
            low.set_len(lows);
            pairs.set_len(both);
        }
        self.sums.clear();
        self.spans.clear();
        if shared == Shared::Superblock {
            if in_pairs {
                by_superblocks(&mut self.sums, &self.heads, k, sums_of);
            } else if path.has_lines() {
                by_superblocks(&mut self.spans, &self.heads, k, span_of);
            }
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that a kernel reads of one row, at most.
    pub(super) fn row_bytes(&self) -> usize {
        let integer = if self.pairs.is_empty() && self.low.is_empty() { 1 } else { 2 };
        integer * self.k
            + self.k / BLOCK * size_of::<Head>()
            + self.sums.len() / self.rows.max(1) * size_of::<Sums>()
    }

    /// Where the first block of a row is, counted in blocks, and how many blocks later the next one is.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let (panel, first) = (row / PANEL, row % PANEL);
        let in_panel = PANEL.min(self.rows - panel * PANEL);
        (panel * PANEL * (self.k / BLOCK) + first, in_panel)
    }

    /// For AMX: the span of a superblock of a row, and after it those of the rows of its panel that follow.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn spans_at(&self, row: usize, superblock: usize) -> &[Span] {
        let (panel, first) = (row / PANEL * PANEL, row % PANEL);
        let in_panel = PANEL.min(self.rows - panel);
        let at = panel * (self.k / SUPERBLOCK) + superblock * in_panel;
        &self.spans[at + first..at + in_panel]
    }

    /// Where the integers of a block of a row are, in bytes.
    pub(super) fn integers_at(&self, row: usize, block: usize) -> usize {
        let (start, step) = self.place(row);
        let (panel, first) = (row / PANEL * PANEL * self.k, row % PANEL);
        if self.path.has_lines() {
            panel + (block / 2 * step + first) * LINE + block % 2 * BLOCK
        } else {
            (start + block * step) * BLOCK
        }
    }

    /// One value, for the scalar reference.
    pub(super) fn value(&self, row: usize, i: usize) -> f32 {
        let (start, step) = self.place(row);
        let block = start + i / BLOCK * step;
        let at = self.integers_at(row, i / BLOCK) + i % BLOCK;
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

/// Room for `len` values in the place of what the buffer holds.
fn room<T>(buffer: &mut Vec<T>, len: usize) -> &mut [MaybeUninit<T>] {
    buffer.clear();
    buffer.reserve(len);
    &mut buffer.spare_capacity_mut()[..len]
}

/// What `of` makes of every superblock, out of the heads of its blocks.
fn by_superblocks<T: Clone + Default + Send>(
    all: &mut Vec<T>,
    heads: &[Head],
    k: usize,
    of: impl Fn([&Head; SUPERBLOCK / BLOCK]) -> T + Sync,
) {
    const BLOCKS: usize = SUPERBLOCK / BLOCK;
    let panel = PANEL * k / BLOCK;
    all.resize(heads.len() / BLOCKS, T::default());
    let panels = heads.par_chunks(panel).zip(all.par_chunks_mut(panel / BLOCKS));
    panels.for_each(|(heads, all)| {
        let rows = heads.len() / (k / BLOCK);
        for (heads, all) in heads.chunks_exact(rows * BLOCKS).zip(all.chunks_exact_mut(rows)) {
            for (row, one) in all.iter_mut().enumerate() {
                *one = of(std::array::from_fn(|b| &heads[b * rows + row]));
            }
        }
    });
}

/// The sums of the halves of a block: bytes that add up to at most 127 * 32; meaningless ones of what is not finite
/// may wrap.
fn sums_of_halves(head: &Head) -> [i16; 2] {
    head.minus_32.map(|m| (m / -32) as i16)
}

fn sums_of(heads: [&Head; SUPERBLOCK / BLOCK]) -> Sums {
    let mut sums = Sums::default();
    for (b, head) in heads.into_iter().enumerate() {
        let halves = sums_of_halves(head);
        sums.halves[2 * b..][..2].copy_from_slice(&halves);
        sums.blocks[b] = halves[0].wrapping_add(halves[1]);
    }
    sums
}

fn span_of(heads: [&Head; SUPERBLOCK / BLOCK]) -> Span {
    let sums = heads.map(|head| sums_of_halves(head).into_iter().fold(0, i16::wrapping_add));
    Span { sums, scale: heads[0].scale }
}

/// The bits of the largest magnitude, of a NaN when a value is NaN: without their signs, the bits of floats
/// are ordered as the floats are, and those of NaN stand above infinity. Integers have an instruction for it.
#[inline(always)]
fn largest(x: &[f32; BLOCK]) -> u32 {
    let mut lanes = [0u32; 16];
    for half in x.as_chunks::<16>().0 {
        for (lane, v) in lanes.iter_mut().zip(half) {
            *lane = (*lane).max(v.to_bits() & (u32::MAX >> 1));
        }
    }
    lanes.iter().fold(0, |a, b| a.max(*b))
}

/// Quantises the rows of a panel to integers up to `max`, `span` values by one scale: all heads are written,
/// and `put` takes the integers of each block.
#[inline(always)]
fn quantise_panel(
    x: &[f32],
    k: usize,
    span: usize,
    max: f32,
    heads: &mut [MaybeUninit<Head>],
    mut put: impl FnMut(usize, &[i32; BLOCK]),
) {
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        let (mut scale, mut inverse) = (0.0, 0.0);
        let blocks = x.as_chunks::<BLOCK>().0;
        for (b, x) in blocks.iter().enumerate() {
            if b.is_multiple_of(span / BLOCK) {
                let largest = blocks[b..][..span / BLOCK].iter().map(largest).fold(0, u32::max);
                scale = f32::from_bits(largest) / max;
                inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            }
            let at = b * rows + row;
            let mut q = [0i32; BLOCK];
            let mut sums = [0i32; 2];
            for (half, sum) in sums.iter_mut().enumerate() {
                for i in half * 16..half * 16 + 16 {
                    q[i] = round(x[i] * inverse);
                    *sum = sum.wrapping_add(q[i]);
                }
            }
            put(at, &q);
            heads[at].write(Head::new(scale, sums));
        }
    }
}

#[inline(always)]
fn put_bytes(q: &[i32; BLOCK], out: &mut [MaybeUninit<i8>], at: usize) {
    let out = &mut out.as_chunks_mut::<BLOCK>().0[at];
    for i in 0..BLOCK {
        out[i].write(q[i] as i8);
    }
}

fn narrow_panel(
    x: &[f32],
    k: usize,
    span: usize,
    max: f32,
    heads: &mut [MaybeUninit<Head>],
    high: &mut [MaybeUninit<i8>],
) {
    quantise_panel(x, k, span, max, heads, |at, q| put_bytes(q, high, at));
}

fn wide_panel(
    x: &[f32],
    k: usize,
    span: usize,
    max: f32,
    heads: &mut [MaybeUninit<Head>],
    high: &mut [MaybeUninit<i8>],
    low: &mut [MaybeUninit<i8>],
) {
    quantise_panel(x, k, span, max, heads, |at, q| {
        let h = q.map(|q| q.wrapping_add(64) >> 7);
        put_bytes(&h, high, at);
        let mut l = *q;
        for (l, h) in l.iter_mut().zip(h) {
            *l = l.wrapping_sub(h << 7);
        }
        put_bytes(&l, low, at);
    });
}

impl Head {
    /// `sums`: of the integers of each half. They are meaningless where a value was not finite; so is
    /// `scale` then, and nothing may stop before it is seen.
    #[inline(always)]
    pub(super) fn new(scale: f32, sums: [i32; 2]) -> Self {
        let both = sums[0].wrapping_add(sums[1]);
        Self {
            scale,
            sum: both as f32 * scale,
            minus_128: both.wrapping_mul(-128),
            minus_32: sums.map(|s| s.wrapping_mul(-32)),
        }
    }
}

/// 1.5 * 2^23: adding it to a magnitude below 2^22 leaves the nearest integer, halves to the even one, in
/// the low bits, without the checks of a cast.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The nearest integer. What is not finite gives a meaningless one; its block's scale tells.
#[inline(always)]
fn round(x: f32) -> i32 {
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}
