//! The arena of keys and values: allocated once, lent out in spans of rows.
//!
//! One row holds one token's keys (or values) of one block. A sequence's own span is contiguous, and
//! the spans of what it shares (the prefix of the model, the picture) are only named by it, so that
//! sharing costs no copy.

use super::attention::{Kept, Matrix, Span};
use super::error::VlmError;
use candle_core::{DType, Device, Result, Storage, Tensor};
use half::f16;

/// What keys and values are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    #[default]
    Single,
    /// Half of the memory, and half of what decoding long answers reads; rounds to 11 bits.
    Half,
}

impl KvPrecision {
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
    /// Each `[capacity, kv_heads * head_dim]`.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    dtype: DType,
    capacity: usize,
    /// Free spans, sorted by start, never adjacent.
    free: Vec<Span>,
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
        let dtype = match precision {
            KvPrecision::Single => DType::F32,
            KvPrecision::Half => DType::F16,
        };
        let make =
            || (0..blocks).map(|_| Tensor::zeros((capacity, width), dtype, device)).collect::<Result<_>>();
        let free = vec![Span { start: 0, rows: capacity }];
        Ok(Self { keys: make()?, values: make()?, dtype, capacity, free })
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

    /// Writes rows of keys and values of one block; `k` and `v` are `[rows, width]`.
    ///
    /// # Errors
    /// When the rows leave the arena.
    pub fn write(&self, block: usize, start: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        self.keys[block].slice_set(&k.to_dtype(self.dtype)?, 0, start)?;
        self.values[block].slice_set(&v.to_dtype(self.dtype)?, 0, start)
    }

    /// Keys and values of one block, each `[capacity, width]`.
    pub fn block(&self, block: usize) -> (&Tensor, &Tensor) {
        (&self.keys[block], &self.values[block])
    }

    /// The error for a sequence that can never fit.
    pub const fn too_long(&self, needed: usize) -> VlmError {
        VlmError::TooLong { needed, available: self.capacity }
    }
}

/// Gives `[rows, width]` keys or values on the CPU to `f`.
///
/// # Errors
/// When they lie elsewhere, or are of another type.
pub fn with_kept<T>(rows: &Tensor, f: impl FnOnce(Kept<'_>) -> Result<T>) -> Result<T> {
    let width = rows.dim(1)?;
    let (storage, _) = rows.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else { candle_core::bail!("keys are not on the CPU") };
    match rows.dtype() {
        DType::F16 => f(Kept::Half(Matrix { values: cpu.as_slice()?, stride: width, start: 0 })),
        _ => f(Kept::Single(Matrix { values: cpu.as_slice()?, stride: width, start: 0 })),
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
