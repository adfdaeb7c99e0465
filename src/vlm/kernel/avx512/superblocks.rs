//! K-quants with 8-bit activations that share a scale over 256 values, so that it is multiplied in once a
//! superblock.
//!
//! ```text
//! few rows     unit -> block in registers -> its rows of activations pass by
//! many rows    unit -> all its blocks unpacked in the L1 cache -> eight rows at a time pass by
//! ```
//!
//! Both add up in the same order, so that a row gives the same bits among few and among many.

use super::read::{Block, Read};
use super::{Cursor, dots, minus};
use crate::kernel::activations::Shared;
use crate::kernel::layout::{BLOCK, SUPERBLOCK};
use crate::kernel::stored::{Form, in_steps};
use crate::kernel::x86::prefetch;
use crate::kernel::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::ops::Range;

const BLOCKS: usize = SUPERBLOCK / BLOCK;
/// Rows whose sums, with a block of weights and its scales, fit the 32 registers.
const STEP: usize = 8;
/// From so many rows on it pays to unpack a unit once for all of them.
const MANY: usize = 32;
/// Rows whose totals lie in the L1 cache beside an unpacked unit and what passes by.
const MANY_MAX: usize = 64;

/// Multiplies rows of activations that share scales by superblocks with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn run<R: Read>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    assert!(x.shared == Shared::Superblock, "activations whose superblocks share a scale");
    let many = if rows.len() < MANY { 0 } else { rows.len() / STEP * STEP };
    let (many, few) = (rows.start..rows.start + many, rows.start + many..rows.end);
    let mut blocks = [const { Block::ZERO }; BLOCKS];
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
unsafe fn with_tile<R: Read, const ROWS: usize>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let mut cursor = Cursor::new(x, row, ROWS, 0);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        let first = cursor;
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for b in 0..BLOCKS {
            // SAFETY: the chunk is a whole unit; the cursor stands at a block of `ROWS` rows.
            unsafe { add_block::<R, ROWS>(&unpack::<R>(unit, b), cursor, &mut sums, &mut totals) };
            cursor.advance();
        }
        // SAFETY: as above.
        unsafe { add_sums(&sums, first, &mut totals) };
    }
    for (r, total) in totals.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.at(row + r, tile), *total) };
    }
}

/// At most [`MANY_MAX`] rows, a multiple of [`STEP`], with one tile; `blocks` is room for a unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn with_unpacked<R: Read>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tile: usize,
    blocks: &mut [Block; BLOCKS],
    out: Out,
) {
    let mut totals = [[_mm512_setzero_ps(); STEP]; MANY_MAX / STEP];
    for (u, unit) in w.tile(tile).chunks_exact(R::KIND.unit_bytes()).enumerate() {
        for (b, block) in blocks.iter_mut().enumerate() {
            // SAFETY: the chunk is a whole unit.
            *block = unsafe { unpack::<R>(unit, b) };
        }
        for (row, totals) in rows.clone().step_by(STEP).zip(&mut totals) {
            let mut cursor = Cursor::new(x, row, STEP, u * BLOCKS);
            let first = cursor;
            let mut sums = [_mm512_setzero_ps(); STEP];
            let mut in_registers = *totals;
            for block in &*blocks {
                // SAFETY: the cursor stands at a block of `STEP` rows.
                unsafe { add_block::<R, STEP>(block, cursor, &mut sums, &mut in_registers) };
                cursor.advance();
            }
            // SAFETY: as above.
            unsafe { add_sums(&sums, first, &mut in_registers) };
            *totals = in_registers;
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
unsafe fn unpack<R: Read>(unit: &[u8], b: usize) -> Block {
    let share = unit.len() / BLOCKS;
    let first = b.wrapping_mul(share);
    prefetch(unit, first..first.wrapping_add(share));
    // SAFETY: the caller's.
    unsafe { R::block(unit.as_ptr(), b) }
}

/// Adds the products of a block, without the activations' scale, to the sums of its rows, and takes what its
/// minima make from their totals.
///
/// # Safety
/// The cursor stands at a block of `ROWS` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_block<R: Read, const ROWS: usize>(
    w: &Block,
    at: Cursor,
    sums: &mut [__m512; ROWS],
    totals: &mut [__m512; ROWS],
) {
    // Row by row: the products of several rows side by side are a tenth slower here, where totals take
    // registers, too.
    for r in 0..ROWS {
        let at = at.rows_from(r);
        // SAFETY: the caller's.
        unsafe {
            let head = &*at.heads;
            if R::FORM == Form::Halves {
                for half in 0..2 {
                    let start = _mm512_set1_epi32(minus::<R>(head, half));
                    let [dot] = dots::<1, 4, false>(&w.q, at, 4 * half, [start]);
                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), w.scale[half], sums[r]);
                }
            } else {
                let [dot] = dots::<1, 8, false>(&w.q, at, 0, [_mm512_setzero_si512()]);
                sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), w.scale[0], sums[r]);
                totals[r] = _mm512_fnmadd_ps(w.min, _mm512_set1_ps(head.sum), totals[r]);
            }
        }
    }
}

/// Adds a superblock's sums, times the activations' scale, to the totals.
///
/// # Safety
/// `first` stands at a block of the superblock, of `ROWS` rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_sums<const ROWS: usize>(sums: &[__m512; ROWS], first: Cursor, totals: &mut [__m512; ROWS]) {
    for r in 0..ROWS {
        // SAFETY: the caller's.
        let scale = unsafe { (*first.heads.wrapping_add(r)).scale };
        totals[r] = _mm512_fmadd_ps(sums[r], _mm512_set1_ps(scale), totals[r]);
    }
}
