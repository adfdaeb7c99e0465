//! The arena of keys and values: allocated once, lent out in spans of rows.
//!
//! One row holds one token's keys (or values) of one block. A sequence's own span is contiguous, and
//! the spans of what it shares (the prefix of the model, the picture) are only named by it, so that
//! sharing costs no copy.

use super::attention::Span;
use super::error::VlmError;
use candle_core::{DType, Device, Result, Tensor};

/// Keys and values of all blocks.
#[derive(Debug)]
pub struct Arena {
    /// Each `[capacity, kv_heads * head_dim]`.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    capacity: usize,
    /// Free spans, sorted by start, never adjacent.
    free: Vec<Span>,
}

impl Arena {
    /// An arena of `capacity` rows for each of `blocks` blocks.
    ///
    /// # Errors
    /// When the device cannot give the memory.
    pub fn new(blocks: usize, capacity: usize, width: usize, device: &Device) -> Result<Self> {
        let make = || {
            (0..blocks).map(|_| Tensor::zeros((capacity, width), DType::F32, device)).collect::<Result<_>>()
        };
        Ok(Self { keys: make()?, values: make()?, capacity, free: vec![Span { start: 0, rows: capacity }] })
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
        self.keys[block].slice_set(k, 0, start)?;
        self.values[block].slice_set(v, 0, start)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_whole() {
        let mut arena = Arena::new(1, 100, 2, &Device::Cpu).unwrap();
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
