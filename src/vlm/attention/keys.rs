//! Keys and values as they are kept, and as kernels read them: one head's, a block of rows at a time, in f32.

use super::{Matrix, Span};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Keys or values in the precision that they are kept in; products are in f32.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    /// As they were computed.
    Single(Matrix<'a>),
    /// Widened to f32 where they are read.
    Half(Matrix<'a, f16>),
}

impl Kept<'_> {
    /// Writes `dim` values from a column on of each row of a span into rows of `wide`, of which it leaves the rest.
    fn read(&self, span: Span, (column, dim): (usize, usize), wide: usize, out: &mut [f32]) {
        let rows = out.chunks_exact_mut(wide).take(span.rows).enumerate();
        match self {
            Self::Single(m) => {
                rows.for_each(|(r, out)| out[..dim].copy_from_slice(m.row(span.start + r, column, dim)));
            }
            Self::Half(m) => rows.for_each(|(r, out)| {
                m.row(span.start + r, column, dim).convert_to_f32_slice(&mut out[..dim])
            }),
        }
    }
}

impl<T> Matrix<'_, T> {
    fn row(&self, row: usize, column: usize, dim: usize) -> &[T] {
        &self.values[row * self.stride + self.start + column..][..dim]
    }
}

/// What a task's rows see of one head.
pub(super) struct Keys<'a> {
    pub(super) k: Kept<'a>,
    pub(super) v: Kept<'a>,
    pub(super) context: &'a [Span],
    pub(super) own: Span,
    pub(super) column: usize,
    pub(super) dim: usize,
}

impl Keys<'_> {
    /// Reads the keys from the `first` on, and their values, into rows of `wide`.
    ///
    /// # Safety
    /// Both point to room for so many rows.
    pub(super) unsafe fn read(&self, first: usize, count: usize, wide: usize, k: *mut f32, v: *mut f32) {
        // SAFETY: the caller's.
        let [k, v] = unsafe { [k, v].map(|to| std::slice::from_raw_parts_mut(to, count * wide)) };
        let (mut skip, mut done) = (first, 0);
        for span in self.context.iter().copied().chain([self.own]) {
            let passed = skip.min(span.rows);
            let here = Span { start: span.start + passed, rows: (span.rows - passed).min(count - done) };
            self.k.read(here, (self.column, self.dim), wide, &mut k[done * wide..]);
            self.v.read(here, (self.column, self.dim), wide, &mut v[done * wide..]);
            skip -= passed;
            done += here.rows;
        }
        assert!(done == count, "the spans have fewer keys");
    }

    /// Keys of all spans.
    pub(super) fn count(&self) -> usize {
        self.context.iter().map(|s| s.rows).sum::<usize>() + self.own.rows
    }
}
