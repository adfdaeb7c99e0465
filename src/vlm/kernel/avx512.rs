//! The product on AVX-512 with VNNI: `vpdpbusd` multiplies four unsigned weights of sixteen rows with
//! four signed activations and adds them up.
//!
//! ```text
//! K-quants with activations of 8 bits    superblocks
//! all else                               block by block, here; two products for 16 bits
//! ```

mod quantise;
pub(super) mod read;
mod superblocks;

use super::activations::{Bits, Head, PANEL};
use super::layout::{BLOCK, Kind};
use super::stored::{Form, Q4, Q4K, Q5K, Q6K, Q8, S8, in_steps};
use super::x86::{prefetch, prefetch_for_write};
use super::{Activations, Out, Packed};
pub(super) use quantise::panel as quantise_panel;
use read::{Block, Read};
use std::arch::x86_64::*;
use std::ops::Range;

/// True when this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Multiplies rows of activations with tiles.
///
/// # Safety
/// The processor is [`available`]; `out` holds all rows and columns named, and nobody else writes them.
pub(super) unsafe fn multiply(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's.
    unsafe {
        match (w.kind, x.bits) {
            (Kind::Q4K, Bits::Eight) => superblocks::run::<Q4K>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Eight) => superblocks::run::<Q5K>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Eight) => superblocks::run::<Q6K>(w, x, rows, tiles, out),
            (Kind::S8, Bits::Eight) => superblocks::run::<S8>(w, x, rows, tiles, out),
            (Kind::Q8, Bits::Eight) => run::<Q8, false>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Eight) => run::<Q4, false>(w, x, rows, tiles, out),
            (Kind::Q8, Bits::Sixteen) => run::<Q8, true>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Sixteen) => run::<Q4, true>(w, x, rows, tiles, out),
            (Kind::Q4K, Bits::Sixteen) => run::<Q4K, true>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Sixteen) => run::<Q5K, true>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Sixteen) => run::<Q6K, true>(w, x, rows, tiles, out),
            (Kind::S8, Bits::Sixteen) => run::<S8, true>(w, x, rows, tiles, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run<R: Read, const WIDE: bool>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    for tile in tiles {
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            if WIDE {
                // Two products a row leave no registers for more of them.
                in_steps!(rows, row,
                    4 => tile_rows::<R, 1, 4, WIDE>(w, x, row, tile, out),
                    2 => tile_rows::<R, 1, 2, WIDE>(w, x, row, tile, out),
                    1 => tile_rows::<R, 1, 1, WIDE>(w, x, row, tile, out),
                );
            } else {
                in_steps!(rows, row,
                    16 => tile_rows::<R, 4, 4, WIDE>(w, x, row, tile, out),
                    8 => tile_rows::<R, 2, 4, WIDE>(w, x, row, tile, out),
                    4 => tile_rows::<R, 1, 4, WIDE>(w, x, row, tile, out),
                    2 => tile_rows::<R, 1, 2, WIDE>(w, x, row, tile, out),
                    1 => tile_rows::<R, 1, 1, WIDE>(w, x, row, tile, out),
                );
            }
        }
    }
}

/// `PARTS * STEP` rows of activations with one tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_rows<R: Read, const PARTS: usize, const STEP: usize, const WIDE: bool>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let blocks_per_unit = R::KIND.unit() / BLOCK;
    let mut cursor = Cursor::new(x, row, PARTS * STEP, 0);
    let mut sums = [[_mm512_setzero_ps(); STEP]; PARTS];
    // The lines of the results are asked for one with each block: all of them at the end would keep the next
    // tile waiting.
    let mut asked = 0usize;
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..blocks_per_unit {
            if asked < PARTS * STEP {
                // SAFETY: the caller's.
                prefetch_for_write(unsafe { out.at(row.wrapping_add(asked), tile) });
                asked = asked.wrapping_add(1);
            }
            prefetch(unit, b * unit.len() / blocks_per_unit..(b + 1) * unit.len() / blocks_per_unit);
            // SAFETY: the chunk is a whole unit.
            let weights = unsafe { R::block(unit.as_ptr(), b) };
            for (part, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the cursor stands at a block of all rows.
                unsafe { add_block::<R, STEP, WIDE>(&weights, cursor.rows_from(part * STEP), sums) };
            }
            cursor.advance();
        }
    }
    for (r, sum) in sums.iter().flatten().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.at(row + r, tile), *sum) };
    }
}

/// Where a kernel stands in the activations: at the same block of adjacent rows.
#[derive(Clone, Copy)]
struct Cursor {
    heads: *const Head,
    /// Integers, or their high bytes; four at a time.
    high: *const i32,
    /// The low bytes; the same as `high` where integers have no more than eight bits.
    low: *const i32,
    /// Blocks to the next block of the same rows.
    step: usize,
}

impl Cursor {
    /// A block of `rows` rows from `row` on, all of which and whose later blocks are there.
    #[inline(always)]
    fn new(x: &Activations, row: usize, rows: usize, block: usize) -> Self {
        let (start, step) = x.place(row);
        let end = start + (x.k / BLOCK - 1) * step + rows;
        let low = if x.bits == Bits::Sixteen { &x.low } else { &x.high };
        assert!(row % PANEL + rows <= step && end <= x.heads.len());
        assert!(end * BLOCK <= x.high.len() && low.len() == x.high.len());
        let at = start + block * step;
        let [high, low] = [&x.high, low].map(|bytes| bytes[at * BLOCK..].as_ptr().cast());
        Self { heads: x.heads[at..].as_ptr(), high, low, step }
    }

    /// The same block of the rows from the `r`-th on.
    #[inline(always)]
    fn rows_from(self, r: usize) -> Self {
        self.moved(r)
    }

    #[inline(always)]
    fn advance(&mut self) {
        *self = self.moved(self.step);
    }

    #[inline(always)]
    fn moved(self, blocks: usize) -> Self {
        let groups = blocks.wrapping_mul(BLOCK / 4);
        Self {
            heads: self.heads.wrapping_add(blocks),
            high: self.high.wrapping_add(groups),
            low: self.low.wrapping_add(groups),
            step: self.step,
        }
    }
}

/// What a half of a block of a row begins with, for weights whose q is too large.
#[inline(always)]
fn minus<R: Read>(head: &Head, half: usize) -> i32 {
    head.minus_32[half].wrapping_mul(R::OVER / 32)
}

/// Adds the products of a block of weights with a block of `STEP` rows of activations.
///
/// # Safety
/// The cursor stands at a block of so many rows; with `WIDE` they have 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_block<R: Read, const STEP: usize, const WIDE: bool>(
    w: &Block,
    at: Cursor,
    sums: &mut [__m512; STEP],
) {
    // SAFETY: the caller's.
    unsafe {
        let head = |r: usize| &*at.heads.wrapping_add(r);
        let scaled = |r: usize, scale: __m512| _mm512_mul_ps(scale, _mm512_set1_ps(head(r).scale));
        match R::FORM {
            Form::Minimum => {
                let dots = dots::<STEP, 8, WIDE>(&w.q, at, 0, [_mm512_setzero_si512(); STEP]);
                for r in 0..STEP {
                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scaled(r, w.scale[0]), sums[r]);
                    sums[r] = _mm512_fnmadd_ps(w.min, _mm512_set1_ps(head(r).sum), sums[r]);
                }
            }
            Form::Minus128 => {
                let starts = std::array::from_fn(|r| _mm512_set1_epi32(head(r).minus_128));
                let dots = dots::<STEP, 8, WIDE>(&w.q, at, 0, starts);
                for r in 0..STEP {
                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scaled(r, w.scale[0]), sums[r]);
                }
            }
            Form::Halves => {
                for half in 0..2 {
                    let starts = std::array::from_fn(|r| _mm512_set1_epi32(minus::<R>(head(r), half)));
                    let dots = dots::<STEP, 4, WIDE>(&w.q, at, 4 * half, starts);
                    for r in 0..STEP {
                        let scale = scaled(r, w.scale[half]);
                        sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
                    }
                }
            }
        }
    }
}

/// For each of `STEP` rows its start and the products of `GROUPS` groups of weights from `first` on with as many
/// groups of activations. Group by group over all rows: each product waits for the one before it in its row.
///
/// # Safety
/// The cursor stands at a block of `STEP` rows; with `WIDE` they have 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dots<const STEP: usize, const GROUPS: usize, const WIDE: bool>(
    q: &[__m512i; 8],
    at: Cursor,
    first: usize,
    starts: [__m512i; STEP],
) -> [__m512i; STEP] {
    let (mut high, mut low) = (if WIDE { [_mm512_setzero_si512(); STEP] } else { starts }, starts);
    for g in 0..GROUPS {
        let g = first.wrapping_add(g);
        for r in 0..STEP {
            let place = r.wrapping_mul(BLOCK / 4).wrapping_add(g);
            // SAFETY: the caller's.
            unsafe {
                let x = _mm512_set1_epi32(at.high.wrapping_add(place).read_unaligned());
                high[r] = _mm512_dpbusd_epi32(high[r], q[g], x);
                if WIDE {
                    let x = _mm512_set1_epi32(at.low.wrapping_add(place).read_unaligned());
                    low[r] = _mm512_dpbusd_epi32(low[r], q[g], x);
                }
            }
        }
    }
    if WIDE {
        for r in 0..STEP {
            high[r] = _mm512_add_epi32(_mm512_slli_epi32::<7>(high[r]), low[r]);
        }
    }
    high
}
