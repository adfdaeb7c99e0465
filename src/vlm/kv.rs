//! The arena of keys and values: allocated once, lent out in spans of rows.
//!
//! One row holds one token's keys (or values) of one block. A sequence's own span is contiguous, and
//! the spans of what it shares (the prefix of the model, the picture) are only named by it, so that
//! sharing costs no copy. The rows of one head stand together, because attention reads head by head.

use super::attention::{GROUP, Kept, Matrix, Parts, Span};
use super::error::VlmError;
use candle_core::{DType, Device, Result, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use multiversion::multiversion;
use rayon::prelude::*;

/// Rows from which on threads write heads side by side.
const TOGETHER_MIN: usize = 64;
/// The greatest integer of 8 bits that has its negative.
const EIGHT_MAX: f32 = 127.0;

/// What keys and values are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// As computed: 32 bits.
    Single,
    /// Half of the memory, and half of what decoding long answers reads; rounds to 11 bits, which moves logits a
    /// fiftieth as far as the rounding of a `Q8_0` file (tests/golden.rs).
    #[default]
    Half,
    /// A little more than a quarter: integers of 8 bits, each [`GROUP`] of a head with a scale.
    Eight,
}

impl KvPrecision {
    /// The words in the config.
    pub const NAMES: [&str; 3] = ["f32", "f16", "q8"];

    /// By its name in the config.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::Single),
            "f16" => Some(Self::Half),
            "q8" => Some(Self::Eight),
            _ => None,
        }
    }

    /// The name that `named` takes.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Bytes of the keys, or the values, of one row of one block.
    pub const fn row_bytes(self, heads: usize, dim: usize) -> usize {
        match self {
            Self::Single => heads * dim * size_of::<f32>(),
            Self::Half => heads * dim * size_of::<f16>(),
            Self::Eight => heads * (dim + dim.div_ceil(GROUP) * size_of::<f32>()),
        }
    }
}

/// Heads of a row of keys, and values a head.
pub type HeadsOf = (usize, usize);

/// Keys and values of all blocks.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    heads: HeadsOf,
    capacity: usize,
    /// Free spans, sorted by start, never adjacent.
    free: Vec<Span>,
}

/// The rows of all blocks: keys and values of each, `[heads, capacity, dim]`.
#[derive(Debug)]
enum Memory {
    Single(Vec<[Vec<f32>; 2]>),
    Half(Vec<[Vec<f16>; 2]>),
    Eight(Vec<[Eight; 2]>),
    /// On other devices than the CPU; `[capacity, heads * dim]`.
    Tensors(Vec<[Tensor; 2]>, DType),
}

/// Integers, and a scale for each [`GROUP`] of a head.
#[derive(Debug)]
struct Eight {
    values: Vec<i8>,
    /// `[heads, capacity, groups]`.
    scales: Vec<f32>,
}

impl Arena {
    /// An arena of `capacity` rows for each of `blocks` blocks.
    ///
    /// # Errors
    /// When the device cannot give the memory.
    pub fn new(
        blocks: usize,
        capacity: usize,
        heads: HeadsOf,
        precision: KvPrecision,
        device: &Device,
    ) -> Result<Self> {
        if !device.is_cpu() {
            return Self::of_tensors(blocks, capacity, heads, precision, device);
        }
        // Zeros of integers and of f32 are given by the system when they are first touched.
        let rows = capacity * heads.0;
        let (values, groups) = (rows * heads.1, rows * heads.1.div_ceil(GROUP));
        let single = |_| [vec![0f32; values], vec![0f32; values]];
        let half = |_| [vec![0u16; values], vec![0u16; values]].map(HalfBitsVecExt::reinterpret_into);
        let eight = |_| [(), ()].map(|()| Eight { values: vec![0; values], scales: vec![0.0; groups] });
        let memory = match precision {
            KvPrecision::Single => Memory::Single((0..blocks).map(single).collect()),
            KvPrecision::Half => Memory::Half((0..blocks).map(half).collect()),
            KvPrecision::Eight => Memory::Eight((0..blocks).map(eight).collect()),
        };
        Ok(Self::with(memory, capacity, heads))
    }

    /// As `new`, in tensors on whatever device, for a pass that is composed of them; there, 8 bits are 16.
    ///
    /// # Errors
    /// As `new`.
    pub fn of_tensors(
        blocks: usize,
        capacity: usize,
        heads: HeadsOf,
        precision: KvPrecision,
        device: &Device,
    ) -> Result<Self> {
        let dtype = match precision {
            KvPrecision::Single => DType::F32,
            KvPrecision::Half | KvPrecision::Eight => DType::F16,
        };
        let zeros = || Tensor::zeros((capacity, heads.0 * heads.1), dtype, device);
        let tensors = (0..blocks).map(|_| Ok([zeros()?, zeros()?])).collect::<Result<_>>()?;
        Ok(Self::with(Memory::Tensors(tensors, dtype), capacity, heads))
    }

    fn with(memory: Memory, capacity: usize, heads: HeadsOf) -> Self {
        Self { memory, heads, capacity, free: vec![Span { start: 0, rows: capacity }] }
    }

    /// All rows, free or not.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Rows that are free now, in whatever pieces.
    pub fn free_rows(&self) -> usize {
        self.free.iter().map(|s| s.rows).sum()
    }

    /// Lends `rows` adjacent rows; `None` when no piece is large enough now.
    pub fn lend(&mut self, rows: usize) -> Option<Span> {
        let i = self.free.iter().position(|s| s.rows >= rows)?;
        let span = Span { start: self.free[i].start, rows };
        self.free[i].start += rows;
        self.free[i].rows -= rows;
        if self.free[i].rows == 0 {
            self.free.remove(i);
        }
        Some(span)
    }

    /// Takes a span back and joins it with its free neighbours.
    pub fn give_back(&mut self, span: Span) {
        if span.rows == 0 {
            return;
        }
        let i = self.free.partition_point(|s| s.start < span.start);
        self.free.insert(i, span);
        if i + 1 < self.free.len() && self.free[i].start + self.free[i].rows == self.free[i + 1].start {
            self.free[i].rows += self.free.remove(i + 1).rows;
        }
        if i > 0 && self.free[i - 1].start + self.free[i - 1].rows == self.free[i].start {
            self.free[i - 1].rows += self.free.remove(i).rows;
        }
    }

    /// Writes the keys and values of one block for all rows of `parts`; `k` and `v` are `[rows, heads * dim]`.
    ///
    /// # Errors
    /// When the rows are kept in tensors.
    ///
    /// # Panics
    /// When the rows leave the arena.
    pub fn write(&mut self, block: usize, parts: &Parts, k: &[f32], v: &[f32]) -> Result<()> {
        let (dim, rows) = (self.heads.1, self.capacity);
        for (i, from) in [k, v].into_iter().enumerate() {
            let from = Rows { values: from, parts, heads: self.heads };
            match &mut self.memory {
                Memory::Single(blocks) => from.each_head(&mut blocks[block][i], rows * dim, |to, at, row| {
                    to[at * dim..][..dim].copy_from_slice(row);
                }),
                Memory::Half(blocks) => from.each_head(&mut blocks[block][i], rows * dim, |to, at, row| {
                    to[at * dim..][..dim].convert_from_f32_slice(row);
                }),
                Memory::Eight(blocks) => {
                    let (Eight { values, scales }, groups) = (&mut blocks[block][i], dim.div_ceil(GROUP));
                    from.each_head(values, rows * dim, |to, at, row| {
                        round(row, &mut to[at * dim..][..dim]);
                    });
                    from.each_head(scales, rows * groups, |to, at, row| {
                        let groups = to[at * groups..][..groups].iter_mut().zip(row.chunks(GROUP));
                        groups.for_each(|(scale, group)| *scale = scale_of(group));
                    });
                }
                Memory::Tensors(..) => candle_core::bail!("keys and values are kept in tensors"),
            }
        }
        Ok(())
    }

    /// Keys and values of one block.
    ///
    /// # Errors
    /// When they are kept in tensors.
    pub fn kept(&self, block: usize) -> Result<[Kept<'_>; 2]> {
        let (dim, rows) = (self.heads.1, self.capacity);
        let each = match &self.memory {
            Memory::Single(blocks) => [0, 1].map(|i| Kept::Single(matrix(&blocks[block][i], rows, dim))),
            Memory::Half(blocks) => [0, 1].map(|i| Kept::Half(matrix(&blocks[block][i], rows, dim))),
            Memory::Eight(blocks) => [0, 1].map(|i| {
                let Eight { values, scales } = &blocks[block][i];
                let scales = matrix(scales, rows, dim.div_ceil(GROUP));
                Kept::Eight { values: matrix(values, rows, dim), scales }
            }),
            Memory::Tensors(..) => candle_core::bail!("keys and values are kept in tensors"),
        };
        Ok(each)
    }

    /// As [`write`], of tensors.
    ///
    /// # Errors
    /// When the rows leave the arena, or are not kept in tensors.
    pub fn write_tensors(&self, block: usize, parts: &Parts, k: &Tensor, v: &Tensor) -> Result<()> {
        let Memory::Tensors(blocks, dtype) = &self.memory else {
            candle_core::bail!("keys and values are not kept in tensors")
        };
        for (kept, rows) in blocks[block].iter().zip([k, v]) {
            for p in parts {
                // A copy, because `slice_set` refuses a view of a larger storage's middle.
                let rows = rows.narrow(0, p.row, p.rows)?.contiguous()?.to_dtype(*dtype)?;
                kept.slice_set(&rows, 0, p.own.start)?;
            }
        }
        Ok(())
    }

    /// Keys and values of one block, each `[capacity, heads * dim]`.
    ///
    /// # Errors
    /// When they are not kept in tensors.
    pub fn tensors(&self, block: usize) -> Result<&[Tensor; 2]> {
        match &self.memory {
            Memory::Tensors(blocks, _) => Ok(&blocks[block]),
            _ => candle_core::bail!("keys and values are not kept in tensors"),
        }
    }

    /// The error for a sequence that can never fit.
    pub const fn too_long(&self, needed: usize) -> VlmError {
        VlmError::TooLong { needed, available: self.capacity }
    }
}

/// `[heads, capacity, dim]` values.
const fn matrix<T>(values: &[T], capacity: usize, dim: usize) -> Matrix<'_, T> {
    Matrix { values, stride: dim, start: 0, heads: capacity * dim }
}

/// Rows that are to be written.
struct Rows<'a> {
    /// `[rows, heads * dim]`.
    values: &'a [f32],
    parts: &'a Parts,
    heads: HeadsOf,
}

impl Rows<'_> {
    /// Gives `f` each head's part of `to`, the row there, and what belongs there.
    fn each_head<T: Send>(&self, to: &mut [T], size: usize, f: impl Fn(&mut [T], usize, &[f32]) + Sync) {
        let (heads, dim) = self.heads;
        let write = |(head, to): (usize, &mut [T])| {
            for part in self.parts {
                for r in 0..part.rows {
                    let row = &self.values[((part.row + r) * heads + head) * dim..][..dim];
                    f(to, part.own.start + r, row);
                }
            }
        };
        if self.parts.rows() < TOGETHER_MIN {
            to.chunks_exact_mut(size).enumerate().for_each(write);
        } else {
            to.par_chunks_exact_mut(size).enumerate().for_each(write);
        }
    }
}

/// What the integers of a group are multiplied with.
fn scale_of(group: &[f32]) -> f32 {
    group.iter().fold(0f32, |max, v| if v.abs() > max || v.is_nan() { v.abs() } else { max }) / EIGHT_MAX
}

/// The nearest integers, group by group.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw", "x86_64+avx2+fma", "aarch64+neon"))]
fn round(row: &[f32], to: &mut [i8]) {
    for (group, to) in row.chunks(GROUP).zip(to.chunks_mut(GROUP)) {
        let scale = scale_of(group);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (v, to) in group.iter().zip(to) {
            *to = (v * inverse).round_ties_even() as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of several parts come back from where they were put, rounded as they are kept.
    #[test]
    fn what_is_written_is_kept() {
        let (heads, dim, rows) = (3, 40, TOGETHER_MIN + 6);
        let wave =
            |phase: f32| (0..rows * heads * dim).map(|i| (i as f32 * 0.37 + phase).sin() * 3.0).collect();
        let [k, v]: [Vec<f32>; 2] = [wave(0.0), wave(1.0)];
        let mut parts = Parts::default();
        parts.push(rows - 1, [], 7, true);
        parts.push(1, [], 2, true);
        let places: Vec<usize> = (7..7 + rows - 1).chain([2]).collect();
        for (precision, most) in [
            (KvPrecision::Single, 0.0),
            (KvPrecision::Half, 3.0 / 2048.0),
            (KvPrecision::Eight, 3.0 / 254.0 + 1e-6),
        ] {
            let mut arena = Arena::new(2, 200, (heads, dim), precision, &Device::Cpu).unwrap();
            arena.write(1, &parts, &k, &v).unwrap();
            let [kept_k, kept_v] = arena.kept(1).unwrap();
            for (kept, written) in [(kept_k, &k), (kept_v, &v)] {
                for (row, place) in places.iter().enumerate() {
                    for head in 0..heads {
                        let mut read = vec![0.0; dim];
                        kept.read(Span { start: *place, rows: 1 }, head, dim, dim, &mut read);
                        let written = &written[(row * heads + head) * dim..][..dim];
                        let off = read.iter().zip(written).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(off <= most, "{precision:?}, row {row}, head {head}: off by {off}");
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_and_what_is_not_finite_have_integers_too() {
        let mut to = [1; 3];
        round(&[0.0; 3], &mut to);
        assert_eq!((to, scale_of(&[0.0; 3])), ([0; 3], 0.0));
        assert!(scale_of(&[1.0, f32::NAN, 2.0]).is_nan(), "a NaN must not vanish");
    }

    #[test]
    fn spans_come_back_whole() {
        let mut arena = Arena::new(1, 100, (1, 2), KvPrecision::Single, &Device::Cpu).unwrap();
        let (a, b, c) = (arena.lend(40).unwrap(), arena.lend(40).unwrap(), arena.lend(20).unwrap());
        assert!(arena.lend(1).is_none());
        arena.give_back(a);
        arena.give_back(c);
        assert_eq!(arena.free_rows(), 60);
        assert!(arena.lend(50).is_none(), "the free rows are not adjacent");
        arena.give_back(b);
        assert_eq!(arena.lend(100), Some(Span { start: 0, rows: 100 }));
    }
}
