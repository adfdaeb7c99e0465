//! The arena of keys and values: allocated once, lent out in spans of rows.
//!
//! One row holds one token's keys (or values) of one block. A sequence's own span is contiguous, and
//! the spans of what it shares (the prefix of the model, the picture) are only named by it, so that
//! sharing costs no copy.

use super::attention::{Kept, Matrix, Parts, Span};
use super::error::VlmError;
use candle_core::{DType, Device, Result, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;

/// What keys and values are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// As computed: 32 bits.
    #[default]
    Single,
    /// Half of the memory, and half of what decoding long answers reads; rounds to 11 bits.
    Half,
}

impl KvPrecision {
    /// The words in the config.
    pub const NAMES: [&str; 2] = ["f32", "f16"];

    /// By its name in the config.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::Single),
            "f16" => Some(Self::Half),
            _ => None,
        }
    }

    /// The name that `named` takes.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Single => size_of::<f32>(),
            Self::Half => size_of::<f16>(),
        }
    }
}

/// Keys and values of all blocks.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    width: usize,
    capacity: usize,
    /// Free spans, sorted by start, never adjacent.
    free: Vec<Span>,
}

/// The rows of all blocks: keys and values of each, `[capacity, width]`.
#[derive(Debug)]
enum Memory {
    Single(Vec<[Vec<f32>; 2]>),
    Half(Vec<[Vec<f16>; 2]>),
    /// On other devices than the CPU.
    Tensors(Vec<[Tensor; 2]>, DType),
}

impl Arena {
    /// An arena of `capacity` rows for each of `blocks` blocks.
    ///
    /// # Errors
    /// When the device cannot give the memory.
    pub fn new(
        blocks: usize,
        capacity: usize,
        width: usize,
        precision: KvPrecision,
        device: &Device,
    ) -> Result<Self> {
        if !device.is_cpu() {
            return Self::of_tensors(blocks, capacity, width, precision, device);
        }
        // Zeros of integers and of f32 are given by the system when they are first touched.
        let values = capacity * width;
        let single = |_| [vec![0f32; values], vec![0f32; values]];
        let half = |_| [vec![0u16; values], vec![0u16; values]].map(HalfBitsVecExt::reinterpret_into);
        let memory = match precision {
            KvPrecision::Single => Memory::Single((0..blocks).map(single).collect()),
            KvPrecision::Half => Memory::Half((0..blocks).map(half).collect()),
        };
        Ok(Self::with(memory, capacity, width))
    }

    /// As `new`, in tensors on whatever device, for a pass that is composed of them.
    ///
    /// # Errors
    /// As `new`.
    pub fn of_tensors(
        blocks: usize,
        capacity: usize,
        width: usize,
        precision: KvPrecision,
        device: &Device,
    ) -> Result<Self> {
        let dtype = match precision {
            KvPrecision::Single => DType::F32,
            KvPrecision::Half => DType::F16,
        };
        let zeros = || Tensor::zeros((capacity, width), dtype, device);
        let tensors = (0..blocks).map(|_| Ok([zeros()?, zeros()?])).collect::<Result<_>>()?;
        Ok(Self::with(Memory::Tensors(tensors, dtype), capacity, width))
    }

    fn with(memory: Memory, capacity: usize, width: usize) -> Self {
        Self { memory, width, capacity, free: vec![Span { start: 0, rows: capacity }] }
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

    /// Writes the keys and values of one block for all rows of `parts`; `k` and `v` are `[rows, width]`.
    ///
    /// # Errors
    /// When the rows are kept in tensors.
    ///
    /// # Panics
    /// When the rows leave the arena.
    pub fn write(&mut self, block: usize, parts: &Parts, k: &[f32], v: &[f32]) -> Result<()> {
        let places =
            parts.iter().map(|p| (p.row * self.width, p.own.start * self.width, p.rows * self.width));
        match &mut self.memory {
            Memory::Single(blocks) => {
                for (from, to, len) in places {
                    let [keys, values] = &mut blocks[block];
                    keys[to..][..len].copy_from_slice(&k[from..][..len]);
                    values[to..][..len].copy_from_slice(&v[from..][..len]);
                }
            }
            Memory::Half(blocks) => {
                for (from, to, len) in places {
                    let [keys, values] = &mut blocks[block];
                    keys[to..][..len].convert_from_f32_slice(&k[from..][..len]);
                    values[to..][..len].convert_from_f32_slice(&v[from..][..len]);
                }
            }
            Memory::Tensors(..) => candle_core::bail!("keys and values are kept in tensors"),
        }
        Ok(())
    }

    /// Keys and values of one block.
    ///
    /// # Errors
    /// When they are kept in tensors.
    pub fn kept(&self, block: usize) -> Result<[Kept<'_>; 2]> {
        fn matrix<T>(values: &[T], stride: usize) -> Matrix<'_, T> {
            Matrix { values, stride, start: 0 }
        }
        match &self.memory {
            Memory::Single(blocks) => Ok([0, 1].map(|i| Kept::Single(matrix(&blocks[block][i], self.width)))),
            Memory::Half(blocks) => Ok([0, 1].map(|i| Kept::Half(matrix(&blocks[block][i], self.width)))),
            Memory::Tensors(..) => candle_core::bail!("keys and values are kept in tensors"),
        }
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

    /// Keys and values of one block, each `[capacity, width]`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_whole() {
        let mut arena = Arena::new(1, 100, 2, KvPrecision::Single, &Device::Cpu).unwrap();
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
