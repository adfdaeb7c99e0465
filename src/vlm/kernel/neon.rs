//! Arm: tiles with activations, in registers of four rows of weights, which is a quarter of a tile.
//!
//! ```text
//! i8mm           two rows of activations at once: eight values of two rows with those of two rows
//! dot product    one row: four values of four rows with four values
//! ```
//!
//! Both multiply signed bytes, so that weights of eight and of six bits are brought around zero first, and
//! both give the same integers: a row has the very bits alone that it has among others. Activations of 16
//! bits are two products, of their high and of their low bytes.
//!
//! The standard library has no stable functions for these instructions: they are written in assembly
//! (`dots`). Every function that has one names the feature, whether or not it is inlined.

mod dots;
mod read;

use super::activations::{Bits, PANEL};
use super::layout::{BLOCK, Kind, TILE_ROWS};
use super::stored::{Form, Q4, Q4K, Q5K, Q6K, Q8, S8, in_steps};
use super::{Activations, Out, Packed};
use dots::{DotProduct, Dots, I8mm, Integers};
use read::Read;
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

/// Rows of weights in a register: its lanes of 32 bits.
const LANES: usize = 4;
/// Registers of four rows in a tile.
const PARTS: usize = TILE_ROWS / LANES;

/// True when this processor multiplies matrices of bytes (Armv8.6).
pub(super) fn has_i8mm() -> bool {
    is_aarch64_feature_detected!("i8mm") && has_dot_product()
}

/// True when this processor has the dot product of bytes (Armv8.4, and many of Armv8.2).
pub(super) fn has_dot_product() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

/// Multiplies rows of activations with tiles by i8mm.
///
/// # Safety
/// The processor [`has_i8mm`]; `out` holds all rows and columns named, and nobody else writes them.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn multiply_i8mm(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's.
    unsafe { multiply::<I8mm>(w, x, rows, tiles, out) };
}

/// The same by the dot product.
///
/// # Safety
/// As above, of a processor that [`has_dot_product`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply_dot_product(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's.
    unsafe { multiply::<DotProduct>(w, x, rows, tiles, out) };
}

/// # Safety
/// The processor has the instructions of `D`; the rest as `multiply_i8mm`.
#[inline(always)]
unsafe fn multiply<D: Dots>(w: &Packed, x: &Activations, rows: Range<usize>, tiles: Range<usize>, out: Out) {
    // SAFETY: the caller's.
    unsafe {
        match w.kind {
            Kind::Q8 => run::<D, Q8>(w, x, rows, tiles, out),
            Kind::Q4 => run::<D, Q4>(w, x, rows, tiles, out),
            Kind::Q4K => run::<D, Q4K>(w, x, rows, tiles, out),
            Kind::Q5K => run::<D, Q5K>(w, x, rows, tiles, out),
            Kind::Q6K => run::<D, Q6K>(w, x, rows, tiles, out),
            Kind::S8 => run::<D, S8>(w, x, rows, tiles, out),
        }
    }
}

/// # Safety
/// As `multiply`.
#[inline(always)]
unsafe fn run<D: Dots, R: Read>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    for tile in tiles {
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            match x.bits {
                Bits::Eight => in_steps!(rows, row,
                    4 => rows_with_tile::<D, R, false, 4>(w, x, row, tile, out),
                    2 => rows_with_tile::<D, R, false, 2>(w, x, row, tile, out),
                    1 => rows_with_tile::<D, R, false, 1>(w, x, row, tile, out),
                ),
                Bits::Sixteen => in_steps!(rows, row,
                    4 => rows_with_tile::<D, R, true, 4>(w, x, row, tile, out),
                    2 => rows_with_tile::<D, R, true, 2>(w, x, row, tile, out),
                    1 => rows_with_tile::<D, R, true, 1>(w, x, row, tile, out),
                ),
            }
        }
    }
}

/// `STEP` rows of activations with one tile; `WIDE` ones have 16 bits.
///
/// # Safety
/// As `multiply`.
#[inline(always)]
unsafe fn rows_with_tile<D: Dots, R: Read, const WIDE: bool, const STEP: usize>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let (start, step) = x.place(row);
    let end = start + (x.k / BLOCK - 1) * step + STEP;
    assert!(row % PANEL + STEP <= step && end <= x.heads.len() && end * BLOCK <= x.high.len());
    assert!(!WIDE || x.low.len() == x.high.len(), "both bytes of every integer");
    // SAFETY: of every Arm of 64 bits.
    let mut sums = unsafe { [[vdupq_n_f32(0.0); STEP]; PARTS] };
    let mut at = start;
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..R::KIND.unit() / BLOCK {
            for (part, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk is a whole unit; `STEP` blocks are there at each place from `start` to
                // `end`.
                unsafe { add_block::<D, R, WIDE, STEP>(unit.as_ptr(), b, part, x, at, sums) };
            }
            at = at.wrapping_add(step);
        }
    }
    for (part, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { vst1q_f32(out.at(row + r, tile).add(part * LANES), *sum) };
        }
    }
}

/// Adds the products of a block of four rows of weights with the blocks `at..at + STEP` of activations.
///
/// # Safety
/// `unit` points to a unit of `R`, and the blocks are there; the processor has the instructions of `D`.
#[inline(always)]
unsafe fn add_block<D: Dots, R: Read, const WIDE: bool, const STEP: usize>(
    unit: *const u8,
    block: usize,
    part: usize,
    x: &Activations,
    at: usize,
    sums: &mut [float32x4_t; STEP],
) {
    // SAFETY: the caller's.
    unsafe {
        let q = R::groups(unit, block, part);
        let scales = R::scales(unit, block, part);
        let mut dots = dots_of::<D, STEP>(&q, &x.high, at);
        if WIDE {
            for (high, low) in dots.iter_mut().zip(dots_of::<D, STEP>(&q, &x.low, at)) {
                for (high, low) in high.iter_mut().zip(low) {
                    *high = vaddq_s32(vshlq_n_s32::<7>(*high), low);
                }
            }
        }
        for (r, sum) in sums.iter_mut().enumerate() {
            let head = x.heads.get_unchecked(at.wrapping_add(r));
            let [first, second] = dots[r];
            if R::FORM == Form::Halves {
                for (dot, scale) in [(first, scales.scale[0]), (second, scales.scale[1])] {
                    *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dot), vmulq_n_f32(scale, head.scale));
                }
            } else {
                let dot = vcvtq_f32_s32(vaddq_s32(first, second));
                *sum = vfmaq_f32(*sum, dot, vmulq_n_f32(scales.scale[0], head.scale));
            }
            if R::FORM == Form::Minimum {
                *sum = vfmsq_f32(*sum, scales.min, vdupq_n_f32(head.sum));
            }
        }
    }
}

/// The products of four rows of weights with the integers of the blocks `at..at + STEP`, of each half of them.
///
/// # Safety
/// The blocks are there; the processor has the instructions of `D`.
#[inline(always)]
unsafe fn dots_of<D: Dots, const STEP: usize>(
    q: &[int8x16_t; 8],
    integers: &[i8],
    at: usize,
) -> [Integers; STEP] {
    let block = |r: usize| integers.as_ptr().wrapping_add(at.wrapping_add(r).wrapping_mul(BLOCK));
    // SAFETY: the caller's.
    unsafe {
        let mut dots = [[vdupq_n_s32(0); 2]; STEP];
        for (pair, dots) in dots.chunks_mut(2).enumerate() {
            match dots {
                [a, b] => [*a, *b] = D::of_two(q, block(2 * pair), block(2 * pair + 1)),
                [a] => *a = D::of_one(q, block(2 * pair)),
                _ => (),
            }
        }
        dots
    }
}
