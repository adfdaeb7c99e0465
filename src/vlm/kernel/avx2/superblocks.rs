//! K-quants with 8-bit activations: both have one scale of floating point for 256 values, so that a
//! superblock's sums stay integers.
//!
//! ```text
//! each block    maddubs: unsigned weights with signed activations, pairs added to 16 bits
//!               sums stay there as long as they fit, then madd with the weights' own integer scales
//! superblock    minima (or the 32 that Q6_K's weights are too large by): madd with sums of activations
//!               both become f32, times the two scales
//! ```
//!
//! Eight registers hold a block of half a tile; its rows of activations pass by, their sums in memory.

use super::read::ReadSuperblock;
use super::store;
use crate::kernel::activations::{Head, PANEL, Sums};
use crate::kernel::layout::{BLOCK, SUPERBLOCK};
use crate::kernel::stored::in_steps;
use crate::kernel::x86::prefetch;
use crate::kernel::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::ops::Range;

const BLOCKS: usize = SUPERBLOCK / BLOCK;

/// Multiplies rows of activations that share scales by superblocks with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<R: ReadSuperblock>(
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
                16 => with_tile::<R, 16>(w, x, row, tile, out),
                8 => with_tile::<R, 8>(w, x, row, tile, out),
                4 => with_tile::<R, 4>(w, x, row, tile, out),
                2 => with_tile::<R, 2>(w, x, row, tile, out),
                1 => with_tile::<R, 1>(w, x, row, tile, out),
            );
        }
    }
}

/// Where a kernel stands in the activations: at the same superblock of adjacent rows.
#[derive(Clone, Copy)]
struct Cursor {
    heads: *const Head,
    integers: *const i32,
    sums: *const Sums,
    /// Blocks to the next block of the same rows.
    step: usize,
}

impl Cursor {
    /// The first superblock of `rows` rows from `row` on, all of which and whose later ones are there.
    #[inline(always)]
    fn new(x: &Activations, row: usize, rows: usize) -> Self {
        let (start, step) = x.place(row);
        let first = row % PANEL;
        let end = start + (x.k / BLOCK - 1) * step + rows;
        // A panel's sums stand as its heads do, a superblock for eight blocks.
        let sums = (start - first) / BLOCKS + first;
        let sums_end = sums + (x.k / SUPERBLOCK - 1) * step + rows;
        assert!(first + rows <= step && end <= x.heads.len() && end * BLOCK <= x.high.len());
        assert!(sums_end <= x.sums.len(), "activations whose superblocks share a scale");
        let integers = x.high.as_ptr().wrapping_add(start * BLOCK).cast();
        Self { heads: x.heads[start..].as_ptr(), integers, sums: x.sums[sums..].as_ptr(), step }
    }

    /// The integers of the first row's block `b`, four bytes at a time; those of the next rows follow.
    #[inline(always)]
    fn block(&self, b: usize) -> *const i32 {
        self.integers.wrapping_add(b.wrapping_mul(self.step).wrapping_mul(BLOCK / 4))
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.heads = self.heads.wrapping_add(self.step.wrapping_mul(BLOCKS));
        self.integers = self.block(BLOCKS);
        self.sums = self.sums.wrapping_add(self.step);
    }
}

/// `ROWS` rows of activations with one tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_tile<R: ReadSuperblock, const ROWS: usize>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let mut cursor = Cursor::new(x, row, ROWS);
    let mut sums = [[_mm256_setzero_ps(); ROWS]; 2];
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for (half, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the chunk is a whole unit, aligned as the tile is; the cursor stands at a superblock of
            // `ROWS` rows.
            unsafe { add_superblock::<R, ROWS>(unit, half, &cursor, sums) };
        }
        cursor.advance();
    }
    for (half, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { store(*sum, out, row + r, tile, half) };
        }
    }
}

/// Adds the products of half a unit of weights with the same superblock of rows.
///
/// # Safety
/// `unit` is a whole one, aligned to 64; the cursor stands at a superblock of `ROWS` rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_superblock<R: ReadSuperblock, const ROWS: usize>(
    unit: &[u8],
    half: usize,
    at: &Cursor,
    sums: &mut [__m256; ROWS],
) {
    let mut products = [_mm256_setzero_si256(); ROWS];
    for b in 0..BLOCKS {
        // Each half asks for its half of what follows.
        let share = unit.len() / (2 * BLOCKS);
        let first = b.wrapping_mul(2).wrapping_add(half).wrapping_mul(share);
        prefetch(unit, first..first.wrapping_add(share));
        // SAFETY: the caller's.
        unsafe {
            let q = R::groups(unit.as_ptr(), b, half);
            let scales = R::integer_scales(unit.as_ptr(), b, half);
            let x = at.block(b);
            for (r, sum) in products.iter_mut().enumerate() {
                *sum = R::add_block(*sum, &q, &scales, x.wrapping_add(r.wrapping_mul(BLOCK / 4)));
            }
        }
    }
    // SAFETY: the caller's.
    unsafe {
        let minima = R::minima(unit.as_ptr(), half);
        let scales = R::float_scales(unit.as_ptr(), half);
        for (r, sum) in sums.iter_mut().enumerate() {
            let scale = _mm256_set1_ps((*at.heads.wrapping_add(r)).scale);
            let less = R::add_minima(&minima, &*at.sums.wrapping_add(r));
            let (products, less) = (_mm256_cvtepi32_ps(products[r]), _mm256_cvtepi32_ps(less));
            *sum = _mm256_fmadd_ps(products, _mm256_mul_ps(scales[0], scale), *sum);
            *sum = _mm256_fnmadd_ps(less, _mm256_mul_ps(scales[1], scale), *sum);
        }
    }
}
