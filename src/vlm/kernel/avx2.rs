//! AVX2 and AVX-VNNI: tiles with activations, in registers of eight rows of weights, which is half a tile.
//!
//! ```text
//! AVX2        K-quants with activations of 8 bits    superblocks: bytes with bytes
//!             all else                               pairs, two products added to 32 bits by madd
//! AVX-VNNI    activations of 8 bits                  bytes with bytes, four products by vpdpbusd
//!             of 16 bits                             pairs, by vpdpwssd
//! ```
//!
//! Pairs are 16-bit weights with 16-bit activations: without VNNI, bytes with bytes saturate where both have 8 bits. The
//! weights' bytes become 16-bit values by a mask (values 0 and 2 of a group) and a shift (1 and 3), which is the order of
//! the activations' pairs. They are made anew for every four rows, and both halves of a tile are multiplied at once: eight
//! sums stay in registers, and a value read from memory serves two products.

#![expect(
    clippy::needless_range_loop,
    reason = "sums that an iterator walks leave the registers: a third slower"
)]

mod quantise;
mod read;
mod superblocks;
pub(super) mod vnni;

use super::activations::{Bits, Head, PANEL};
use super::layout::{BLOCK, Kind, TILE_ROWS};
use super::stored::{Form, Q4, Q4K, Q5K, Q6K, Q8, S8, in_steps};
use super::x86::prefetch;
use super::{Activations, Out, Packed};
pub(super) use quantise::panel as quantise_panel;
use read::{Groups, Read, Scales};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of weights in a register of 32-bit lanes.
const HALF_ROWS: usize = TILE_ROWS / 2;

/// True when this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
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
            _ => by_blocks::<Madd>(w, x, rows, tiles, out),
        }
    }
}

/// How integers are multiplied.
trait Product {
    /// Bytes of an integer: of two, weights and activations are pairs.
    const BYTES: usize;

    /// `sum` and, in each lane, the products of the four bytes there, or of two pairs.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// Pairs, with AVX2 alone.
struct Madd;

impl Product for Madd {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(w, x))
    }
}

/// Multiplies block by block, whatever the kind of the weights.
///
/// # Safety
/// As [`multiply`]; the processor has what `P` needs, and the integers of `x` have its bytes.
unsafe fn by_blocks<P: Product>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's.
    unsafe {
        match w.kind {
            Kind::Q8 => run::<P, Q8>(w, x, rows, tiles, out),
            Kind::Q4 => run::<P, Q4>(w, x, rows, tiles, out),
            Kind::S8 => run::<P, S8>(w, x, rows, tiles, out),
            Kind::Q4K => run::<P, Q4K>(w, x, rows, tiles, out),
            Kind::Q5K => run::<P, Q5K>(w, x, rows, tiles, out),
            Kind::Q6K => run::<P, Q6K>(w, x, rows, tiles, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<P: Product, R: Read>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    for tile in tiles {
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            in_steps!(rows, row,
                16 => with_tile::<P, R, 4, 4>(w, x, row, tile, out),
                8 => with_tile::<P, R, 2, 4>(w, x, row, tile, out),
                4 => with_tile::<P, R, 1, 4>(w, x, row, tile, out),
                2 => with_tile::<P, R, 1, 2>(w, x, row, tile, out),
                1 => with_tile::<P, R, 1, 1>(w, x, row, tile, out),
            );
        }
    }
}

/// Where a kernel stands in the activations: at the same block of adjacent rows.
struct Cursor {
    heads: *const Head,
    /// Bytes or pairs.
    integers: *const i32,
    /// Blocks to the next block of the same rows.
    step: usize,
}

impl Cursor {
    /// The first block of `rows` rows from `row` on, all of which and whose later blocks are there.
    #[inline(always)]
    fn new<P: Product>(x: &Activations, row: usize, rows: usize) -> Self {
        let (start, step) = x.place(row);
        let end = start + (x.k / BLOCK - 1) * step + rows;
        let (integers, len): (*const i32, _) = match P::BYTES {
            1 => (x.high.as_ptr().wrapping_add(start * BLOCK).cast(), x.high.len()),
            _ => (x.pairs.as_ptr().wrapping_add(start * BLOCK).cast(), x.pairs.len()),
        };
        assert!(row % PANEL + rows <= step && end <= x.heads.len() && end * BLOCK <= len);
        Self { heads: x.heads[start..].as_ptr(), integers, step }
    }

    /// The same block of the rows from the `r`-th on: their heads, and their integers.
    #[inline(always)]
    fn rows_from<P: Product>(&self, r: usize) -> (*const Head, *const i32) {
        (self.heads.wrapping_add(r), self.integers.wrapping_add(r.wrapping_mul(words::<P>())))
    }

    #[inline(always)]
    fn advance<P: Product>(&mut self) {
        self.heads = self.heads.wrapping_add(self.step);
        self.integers = self.integers.wrapping_add(self.step.wrapping_mul(words::<P>()));
    }
}

/// The words of 32 bits that hold the integers of a block.
const fn words<P: Product>() -> usize {
    BLOCK * P::BYTES / 4
}

/// `PARTS * STEP` rows of activations with one tile, `STEP` of them at once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_tile<P: Product, R: Read, const PARTS: usize, const STEP: usize>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let blocks_per_unit = R::KIND.unit() / BLOCK;
    let mut cursor = Cursor::new::<P>(x, row, PARTS * STEP);
    let mut sums = [[[_mm256_setzero_ps(); 2]; STEP]; PARTS];
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..blocks_per_unit {
            prefetch(unit, b * unit.len() / blocks_per_unit..(b + 1) * unit.len() / blocks_per_unit);
            // SAFETY: the chunk is a whole unit, aligned as the tile is; the cursor stands at a block of
            // `PARTS * STEP` rows.
            unsafe {
                let q = [R::groups(unit.as_ptr(), b, 0), R::groups(unit.as_ptr(), b, 1)];
                let scales = [R::scales(unit.as_ptr(), b, 0), R::scales(unit.as_ptr(), b, 1)];
                for (part, sums) in sums.iter_mut().enumerate() {
                    let (heads, integers) = cursor.rows_from::<P>(part.wrapping_mul(STEP));
                    add_block::<P, R, STEP>(&q, &scales, heads, integers, sums);
                }
            }
            cursor.advance::<P>();
        }
    }
    for (r, sums) in sums.iter().flatten().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { store(*sum, out, row + r, tile, half) };
        }
    }
}

/// Writes the sums of half a tile.
///
/// # Safety
/// `out` holds the row and the tile's columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(sums: __m256, out: Out, row: usize, tile: usize, half: usize) {
    // SAFETY: the caller's.
    unsafe { _mm256_storeu_ps(out.at(row, tile).add(half * HALF_ROWS), sums) };
}

/// `sum + scale * dot`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fused(dot: __m256i, scale: __m256, sum: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum)
}

/// Adds the products of a block of weights with the same block of `STEP` rows of activations.
///
/// # Safety
/// `heads` points to `STEP` heads, `x` to the integers of as many blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<P: Product, R: Read, const STEP: usize>(
    q: &[Groups; 2],
    w: &[Scales; 2],
    heads: *const Head,
    x: *const i32,
    sums: &mut [[__m256; 2]; STEP],
) {
    let mut dots = [[_mm256_setzero_si256(); 2]; STEP];
    for quarter in 0..2 {
        // SAFETY: the caller's.
        unsafe {
            for r in 0..STEP {
                match R::FORM {
                    Form::Halves => {
                        let minus_32 = (*heads.wrapping_add(r)).minus_32[quarter];
                        dots[r] = [_mm256_set1_epi32(minus_32.wrapping_mul(R::OVER / 32)); 2];
                    }
                    Form::Minus128 if quarter == 0 => {
                        dots[r] = [_mm256_set1_epi32((*heads.wrapping_add(r)).minus_128); 2];
                    }
                    _ => (),
                }
            }
            dot::<P, STEP>(q, 4 * quarter, x, &mut dots);
            if R::FORM == Form::Halves {
                add_scaled(&dots, [w[0].scale[quarter], w[1].scale[quarter]], heads, sums);
            }
        }
    }
    if R::FORM != Form::Halves {
        // SAFETY: the caller's.
        unsafe { add_scaled(&dots, [w[0].scale[0], w[1].scale[0]], heads, sums) };
    }
    if R::FORM == Form::Minimum {
        for r in 0..STEP {
            // SAFETY: the caller's.
            let sum = _mm256_set1_ps(unsafe { (*heads.wrapping_add(r)).sum });
            for half in 0..2 {
                sums[r][half] = _mm256_fnmadd_ps(w[half].min, sum, sums[r][half]);
            }
        }
    }
}

/// Adds to `dots` the products of the groups `first..first + 4` of both halves of a tile.
///
/// # Safety
/// `x` points to the integers of `STEP` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot<P: Product, const STEP: usize>(
    q: &[Groups; 2],
    first: usize,
    x: *const i32,
    dots: &mut [[__m256i; 2]; STEP],
) {
    for g in first..first + 4 {
        for odd in 0..P::BYTES {
            let mut weights = [q[0][g], q[1][g]];
            if P::BYTES == 2 {
                for q in &mut weights {
                    *q = if odd == 0 {
                        _mm256_and_si256(*q, _mm256_set1_epi16(0xff))
                    } else {
                        _mm256_srli_epi16::<8>(*q)
                    };
                }
            }
            for r in 0..STEP {
                let at = x.wrapping_add(r.wrapping_mul(words::<P>()).wrapping_add(P::BYTES * g + odd));
                // SAFETY: the caller's.
                let x = _mm256_set1_epi32(unsafe { at.read_unaligned() });
                for half in 0..2 {
                    // SAFETY: the caller's.
                    let sum = unsafe { P::add(dots[r][half], weights[half], x) };
                    // The sums of fewer rows fit the registers anyhow, and are sooner done in another order.
                    dots[r][half] = if STEP == 4 { settled(sum) } else { sum };
                }
            }
        }
    }
}

/// The same sum, which has to be complete here: left alone, the compiler adds the products of several groups
/// among themselves first, and runs out of registers.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// Adds `scale * scale of the row * dot` to the sums.
///
/// # Safety
/// `heads` points to `STEP` heads.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_scaled<const STEP: usize>(
    dots: &[[__m256i; 2]; STEP],
    scale: [__m256; 2],
    heads: *const Head,
    sums: &mut [[__m256; 2]; STEP],
) {
    for r in 0..STEP {
        // SAFETY: the caller's.
        let row_scale = _mm256_set1_ps(unsafe { (*heads.wrapping_add(r)).scale });
        for half in 0..2 {
            sums[r][half] = fused(dots[r][half], _mm256_mul_ps(scale[half], row_scale), sums[r][half]);
        }
    }
}
