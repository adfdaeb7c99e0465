//! K-quants with 8-bit activations that share a scale over 256 values, so that it is multiplied in once a superblock.
//!
//! ```text
//! few rows     unit -> block in registers -> its rows of activations pass by
//! many rows    unit -> all its blocks unpacked in the L1 cache -> eight rows at a time pass by
//! ```
//!
//! Both add up the same integers and end in [`Unit::add`], as the kernel for AMX does: a row gives the same bits among
//! few, among many, and by either instruction. Here sums are whole numbers in floats, which are exact up to 2^24; what
//! exceeds that takes weights and activations that all have their largest values, and may differ from AMX by a rounding.

use super::read::{ReadK, Unit};
use super::{Cursor, dots};
use crate::vlm::kernel::activations::{Shared, Span};
use crate::vlm::kernel::layout::{BLOCK, SUPERBLOCK};
use crate::vlm::kernel::stored::{Form, in_steps};
use crate::vlm::kernel::x86::prefetch;
use crate::vlm::kernel::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::ops::Range;

const BLOCKS: usize = SUPERBLOCK / BLOCK;
/// Rows whose sums, with a block of weights and its scales, fit the 32 registers.
const STEP: usize = 8;
/// From so many rows on it pays to unpack a unit once for all of them.
const MANY: usize = 32;
/// Rows whose totals lie in the L1 cache beside an unpacked unit and what passes by.
const MANY_MAX: usize = 64;

/// A block of a unit, its scales as floats.
struct Unpacked {
    q: [__m512i; 8],
    /// The second one only where halves of a block have scales of their own.
    scale: [__m512; 2],
}

impl Unpacked {
    // SAFETY: registers of zeros, as integers and as floats.
    const ZERO: Self = unsafe { std::mem::zeroed() };
}

/// Multiplies rows of activations that share scales by superblocks with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn run<R: ReadK>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    assert!(x.shared == Shared::Superblock, "activations whose superblocks share a scale");
    let many = if rows.len() < MANY { 0 } else { rows.len() / STEP * STEP };
    let (many, few) = (rows.start..rows.start + many, rows.start + many..rows.end);
    let mut blocks = [const { Unpacked::ZERO }; BLOCKS];
    for tile in tiles {
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            for row in many.clone().step_by(MANY_MAX) {
                with_unpacked::<R>(w, x, row..many.end.min(row + MANY_MAX), tile, &mut blocks, out);
            }
            in_steps!(few, row,
                8 => with_tile::<R, STEP>(w, x, row, tile, out),
                4 => with_tile::<R, 4>(w, x, row, tile, out),
                2 => with_tile::<R, 2>(w, x, row, tile, out),
                1 => with_tile::<R, 1>(w, x, row, tile, out),
            );
        }
    }
}

/// `ROWS` rows of activations with one tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn with_tile<R: ReadK, const ROWS: usize>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let mut cursor = Cursor::new(x, row, ROWS, 0);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for (u, unit) in w.tile(tile).chunks_exact(R::KIND.unit_bytes()).enumerate() {
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for b in 0..BLOCKS {
            // SAFETY: the chunk is a whole unit; the cursor stands at a block of `ROWS` rows.
            unsafe { add_block::<R, ROWS>(&unpack::<R>(unit, b), cursor, &mut sums) };
            cursor.advance();
        }
        // SAFETY: as above.
        unsafe {
            R::unit(unit.as_ptr()).add_rows::<R, ROWS>(&sums, &x.spans_at(row, u)[..ROWS], &mut totals);
        }
    }
    for (r, total) in totals.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.at(row + r, tile), *total) };
    }
}

/// At most [`MANY_MAX`] rows, a multiple of [`STEP`], with one tile; `blocks` is room for a unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn with_unpacked<R: ReadK>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tile: usize,
    blocks: &mut [Unpacked; BLOCKS],
    out: Out,
) {
    let mut totals = [[_mm512_setzero_ps(); STEP]; MANY_MAX / STEP];
    for (u, unit) in w.tile(tile).chunks_exact(R::KIND.unit_bytes()).enumerate() {
        for (b, block) in blocks.iter_mut().enumerate() {
            // SAFETY: the chunk is a whole unit.
            *block = unsafe { unpack::<R>(unit, b) };
        }
        // SAFETY: as above.
        let shared = unsafe { R::unit(unit.as_ptr()) };
        for (row, totals) in rows.clone().step_by(STEP).zip(&mut totals) {
            let mut cursor = Cursor::new(x, row, STEP, u * BLOCKS);
            let mut sums = [_mm512_setzero_ps(); STEP];
            for block in &*blocks {
                // SAFETY: the cursor stands at a block of `STEP` rows.
                unsafe { add_block::<R, STEP>(block, cursor, &mut sums) };
                cursor.advance();
            }
            shared.add_rows::<R, STEP>(&sums, &x.spans_at(row, u)[..STEP], totals);
        }
    }
    for (row, total) in rows.zip(totals.iter().flatten()) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.at(row, tile), *total) };
    }
}

/// A block of a unit, whose share of what follows is asked for.
///
/// # Safety
/// `unit` is a whole one, aligned to 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<R: ReadK>(unit: &[u8], b: usize) -> Unpacked {
    let share = unit.len() / BLOCKS;
    let first = b.wrapping_mul(share);
    prefetch(unit, first..first.wrapping_add(share));
    // SAFETY: the caller's.
    let integers = unsafe { R::integers(unit.as_ptr(), b) };
    Unpacked { q: integers.q, scale: integers.scale.map(|scale| _mm512_cvtepi32_ps(scale)) }
}

/// Adds the products of a block, times its scales, to the sums of its rows.
///
/// # Safety
/// The cursor stands at a block of `ROWS` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_block<R: ReadK, const ROWS: usize>(w: &Unpacked, at: Cursor, sums: &mut [__m512; ROWS]) {
    // Row by row: the products of several rows side by side are a tenth slower here, where totals take
    // registers, too.
    for r in 0..ROWS {
        let at = at.rows_from(r);
        // SAFETY: the caller's.
        unsafe {
            if R::FORM == Form::HalvesMinus32 {
                for half in 0..2 {
                    let start = _mm512_set1_epi32((*at.heads).minus_32[half]);
                    let [dot] = dots::<1, 4, false>(&w.q, at, 4 * half, [start]);
                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), w.scale[half], sums[r]);
                }
            } else {
                let [dot] = dots::<1, 8, false>(&w.q, at, 0, [_mm512_setzero_si512()]);
                sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), w.scale[0], sums[r]);
            }
        }
    }
}

impl Unit {
    /// Adds the sums of a superblock of adjacent rows to their totals.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn add_rows<R: ReadK, const ROWS: usize>(
        &self,
        sums: &[__m512; ROWS],
        spans: &[Span],
        totals: &mut [__m512; ROWS],
    ) {
        for r in 0..ROWS {
            totals[r] = self.add::<R>(sums[r], &spans[r], totals[r]);
        }
    }

    /// A row's total with what a superblock adds: the sum of its products, times their scales, and its minima.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(crate) fn add<R: ReadK>(&self, sum: __m512, x: &Span, total: __m512) -> __m512 {
        let mut value = _mm512_mul_ps(sum, self.d);
        if R::FORM == Form::Minimum {
            let pairs: &[i32; BLOCKS / 2] = bytemuck::cast_ref(&x.sums);
            let mut minima = _mm512_setzero_si512();
            for (w, x) in self.minima.iter().zip(pairs) {
                minima = _mm512_dpwssd_epi32(minima, *w, _mm512_set1_epi32(*x));
            }
            value = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), self.d_min, value);
        }
        _mm512_fmadd_ps(value, _mm512_set1_ps(x.scale), total)
    }
}
