//! Keys and values as they are kept, and as kernels read them: one head's, a block of rows at a time, in f32.

use super::{Matrix, Span};
use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};

/// Values that share a scale where they are kept in 8 bits; the last ones of a head may be fewer.
pub const GROUP: usize = 32;

/// Keys or values in the precision that they are kept in; products are in f32.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    /// As they were computed.
    Single(Matrix<'a>),
    /// Widened to f32 where they are read.
    Half(Matrix<'a, f16>),
    /// Integers and the scales of each [`GROUP`] of them.
    Eight {
        /// As many as there are keys or values.
        values: Matrix<'a, i8>,
        /// One for each group of a head.
        scales: Matrix<'a>,
    },
}

impl Kept<'_> {
    /// Asks for what `read` reads.
    fn prefetch(self, span: Span, head: usize, dim: usize) {
        match self {
            Self::Single(m) => prefetch(m, span, head, dim),
            Self::Half(m) => prefetch(m, span, head, dim),
            Self::Eight { values, scales } => {
                prefetch(values, span, head, dim);
                prefetch(scales, span, head, dim.div_ceil(GROUP));
            }
        }
    }

    /// Writes one head's values of each row of a span into rows of `wide`, of which it leaves what is beyond `dim`.
    pub(crate) fn read(&self, span: Span, head: usize, dim: usize, wide: usize, out: &mut [f32]) {
        if span.rows == 0 {
            return;
        }
        match self {
            Self::Single(m) => {
                for (row, out) in m.rows(span, head, dim).chunks(m.stride).zip(out.chunks_exact_mut(wide)) {
                    out[..dim].copy_from_slice(&row[..dim]);
                }
            }
            Self::Half(m) => {
                let rows = m.rows(span, head, dim);
                widen_half((rows, m.stride), dim, wide, out);
            }
            Self::Eight { values, scales } => {
                let groups = scales.rows(span, head, dim.div_ceil(GROUP));
                widen((values.rows(span, head, dim), values.stride), (groups, scales.stride), dim, wide, out);
            }
        }
    }
}

/// Asks for the lines of `dim` values of one head in each row of a span.
fn prefetch<T>(m: Matrix<'_, T>, span: Span, head: usize, dim: usize) {
    for row in 0..span.rows {
        let at = (span.start + row) * m.stride + m.start + head * m.heads;
        for line in (0..dim).step_by(64 / size_of::<T>()) {
            ask_for(m.values.as_ptr().wrapping_add(at + line));
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn ask_for<T>(at: *const T) {
    // SAFETY: every x86-64 has the instruction, and it does no harm to any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Elsewhere the processor is left to itself.
#[cfg(not(target_arch = "x86_64"))]
const fn ask_for<T>(_: *const T) {}

impl<T> Matrix<'_, T> {
    /// From the first to the last of `dim` values of one head, of all rows of a span.
    fn rows(&self, span: Span, head: usize, dim: usize) -> &[T] {
        let at = span.start * self.stride + self.start + head * self.heads;
        &self.values[at..][..(span.rows - 1) * self.stride + dim]
    }
}

/// The same values; rows so far apart.
fn widen_half((values, stride): (&[f16], usize), dim: usize, wide: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has what it needs.
        return unsafe { widen_half_avx512((values, stride), dim, wide, out) };
    }
    for (row, out) in values.chunks(stride).zip(out.chunks_exact_mut(wide)) {
        row[..dim].convert_to_f32_slice(&mut out[..dim]);
    }
}

/// As [`widen_half`], sixteen at once: a row of queries took 0.27 ms over 512 keys of 8 heads so, 0.56 ms without.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_half_avx512((values, stride): (&[f16], usize), dim: usize, wide: usize, out: &mut [f32]) {
    for (row, out) in values.chunks(stride).zip(out.chunks_exact_mut(wide)) {
        let ((row, row_rest), (out, out_rest)) =
            (row[..dim].as_chunks::<16>(), out[..dim].as_chunks_mut::<16>());
        for (from, to) in row.iter().zip(out) {
            // SAFETY: both are sixteen values.
            unsafe {
                let half = _mm256_loadu_si256(from.as_ptr().cast());
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(half));
            }
        }
        row_rest.iter().zip(out_rest).for_each(|(from, to)| *to = from.to_f32());
    }
}

/// Integers times their scales; both in rows so far apart.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw", "x86_64+avx2+fma", "aarch64+neon"))]
fn widen(
    (values, stride): (&[i8], usize),
    (scales, scales_stride): (&[f32], usize),
    dim: usize,
    wide: usize,
    out: &mut [f32],
) {
    let rows = values.chunks(stride).zip(scales.chunks(scales_stride));
    for ((values, scales), out) in rows.zip(out.chunks_exact_mut(wide)) {
        let groups = values[..dim].chunks(GROUP).zip(out[..dim].chunks_mut(GROUP));
        for ((values, out), scale) in groups.zip(scales) {
            for (value, out) in values.iter().zip(out) {
                *out = f32::from(*value) * scale;
            }
        }
    }
}

/// What a task's rows see of one head.
pub(super) struct Keys<'a> {
    pub(super) k: Kept<'a>,
    pub(super) v: Kept<'a>,
    pub(super) context: &'a [Span],
    pub(super) own: Span,
    pub(super) head: usize,
    pub(super) dim: usize,
}

impl Keys<'_> {
    /// Reads the keys from the `first` on, and their values, into rows of `wide`.
    pub(super) fn read(&self, first: usize, count: usize, wide: usize, k: &mut [f32], v: &mut [f32]) {
        let (mut skip, mut done) = (first, 0);
        for span in self.context.iter().copied().chain([self.own]) {
            let passed = skip.min(span.rows);
            let here = Span { start: span.start + passed, rows: (span.rows - passed).min(count - done) };
            self.k.read(here, self.head, self.dim, wide, &mut k[done * wide..]);
            self.v.read(here, self.head, self.dim, wide, &mut v[done * wide..]);
            skip -= passed;
            done += here.rows;
        }
        assert!(done == count, "the spans have fewer keys");
    }

    /// Asks for keys and values that are read soon: rows of different pages, of which the processor foresees nothing.
    pub(super) fn prefetch(&self, first: usize, count: usize) {
        let (mut skip, mut done) = (first, 0);
        for span in self.context.iter().copied().chain([self.own]) {
            let passed = skip.min(span.rows);
            let here = Span { start: span.start + passed, rows: (span.rows - passed).min(count - done) };
            self.k.prefetch(here, self.head, self.dim);
            self.v.prefetch(here, self.head, self.dim);
            skip -= passed;
            done += here.rows;
        }
    }

    /// Keys of all spans.
    pub(super) fn count(&self) -> usize {
        self.context.iter().map(|s| s.rows).sum::<usize>() + self.own.rows
    }
}
