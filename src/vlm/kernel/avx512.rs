//! The product on AVX-512 with VNNI: `vpdpbusd` multiplies four unsigned weights of sixteen rows with
//! four signed activations and adds them up.
//!
//! ```text
//! K-quants with activations of 8 bits    superblocks
//! all else                               block by block, here; two products for 16 bits
//! ```

mod quantise;
mod superblocks;

use super::activations::{Bits, Head, PANEL};
use super::layout::{BLOCK, GROUP, Kind, TILE_ROWS};
use super::stored::{Form, Q4, Q4K, Q5K, Q6K, Q8, S8, Stored, in_steps};
use super::x86::{prefetch, prefetch_for_write};
use super::{Activations, Out, Packed};
pub(super) use quantise::panel as quantise_panel;
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

/// A block of 32 values of sixteen rows.
struct Block {
    q: [__m512i; 8],
    /// The second one only where halves of a block have scales of their own.
    scale: [__m512; 2],
    /// Zero where a fixed number is taken from q instead.
    min: __m512,
}

impl Block {
    // SAFETY: registers of zeros, as integers and as floats.
    const ZERO: Self = unsafe { std::mem::zeroed() };
}

/// Reads the blocks of one kind.
trait Read: Stored {
    /// # Safety
    /// `unit` points to a unit of this kind, aligned to 64.
    unsafe fn block(unit: *const u8, block: usize) -> Block;
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

/// Sixteen f16 as f32.
///
/// # Safety
/// 32 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// The eight groups of 32 nibbles: low nibbles are groups 0..4, high ones 4..8.
///
/// # Safety
/// 256 bytes, aligned to 64, can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles(at: *const u8) -> [__m512i; 8] {
    let mask = _mm512_set1_epi8(15);
    let mut q = [_mm512_setzero_si512(); 8];
    for g in 0..4 {
        // SAFETY: the caller's.
        let bytes = unsafe { _mm512_load_si512(at.add(g * GROUP).cast()) };
        q[g] = _mm512_and_si512(bytes, mask);
        q[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
    }
    q
}

/// Sixteen unsigned bytes as f32.
///
/// # Safety
/// 16 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn bytes_as_f32(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(at.cast()) }))
}

/// The eight groups of 32 bytes.
///
/// # Safety
/// 512 bytes, aligned to 64, can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn bytes(at: *const u8) -> [__m512i; 8] {
    let mut q = [_mm512_setzero_si512(); 8];
    for (g, q) in q.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *q = unsafe { _mm512_load_si512(at.add(g * GROUP).cast()) };
    }
    q
}

/// The scales of both halves of a block of Q6K and S8, times `d`.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn half_scales(unit: *const u8, block: usize, d: __m512) -> [__m512; 2] {
    let mut scale = [d; 2];
    for (i, scale) in scale.iter_mut().enumerate() {
        // SAFETY: the caller's; the offset is that of `layout`.
        let bytes = unsafe { _mm_loadu_si128(unit.add(64 + (2 * block + i) * TILE_ROWS).cast()) };
        *scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
    }
    scale
}

impl Read for Q8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (q, scale) =
            unsafe { (bytes(unit.add(Self::KIND.main_at(block))), halves(unit.add(block * 2 * TILE_ROWS))) };
        Block { q, scale: [scale; 2], min: _mm512_setzero_ps() }
    }
}

impl Read for S8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (q, scale) = unsafe {
            let q = bytes(unit.add(Self::KIND.main_at(block)));
            (q, half_scales(unit, block, _mm512_loadu_ps(unit.cast())))
        };
        Block { q, scale, min: _mm512_setzero_ps() }
    }
}

impl Read for Q4 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (q, scale) = unsafe {
            let at = unit.add(Self::KIND.main_at(block));
            (nibbles(at), halves(unit.add(block * 2 * TILE_ROWS)))
        };
        let min = _mm512_mul_ps(scale, _mm512_set1_ps(8.0));
        Block { q, scale: [scale; 2], min }
    }
}

/// Scales and minima of a block of Q4K and Q5K.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn k_scales(unit: *const u8, block: usize) -> (__m512, __m512) {
    // SAFETY: the caller's; the offsets are those of `layout`.
    unsafe {
        let scale = _mm512_mul_ps(halves(unit), bytes_as_f32(unit.add(64 + block * TILE_ROWS)));
        let min = _mm512_mul_ps(halves(unit.add(32)), bytes_as_f32(unit.add(64 + (8 + block) * TILE_ROWS)));
        (scale, min)
    }
}

impl Read for Q4K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let q = nibbles(unit.add(Self::KIND.main_at(block)));
            let (scale, min) = k_scales(unit, block);
            Block { q, scale: [scale; 2], min }
        }
    }
}

impl Read for Q5K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let sixteen = _mm512_set1_epi8(16);
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let mut q = nibbles(unit.add(Self::KIND.main_at(block)));
            let fifth = _mm512_load_si512(unit.add(Self::KIND.high_at(block)).cast());
            for (g, q) in q.iter_mut().enumerate() {
                let bit = _mm512_set1_epi8((1u8 << g) as i8);
                let set = _mm512_test_epi8_mask(fifth, bit);
                *q = _mm512_mask_add_epi8(*q, set, *q, sixteen);
            }
            let (scale, min) = k_scales(unit, block);
            Block { q, scale: [scale; 2], min }
        }
    }
}

impl Read for Q6K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let mask = _mm512_set1_epi8(0x30);
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let mut q = nibbles(unit.add(Self::KIND.main_at(block)));
            let high = unit.add(Self::KIND.high_at(block));
            let high = [_mm512_load_si512(high.cast()), _mm512_load_si512(high.add(GROUP).cast())];
            for side in 0..2 {
                // Groups side, side + 2, side + 4, side + 6 hold bits 0, 2, 4, 6 of their byte.
                let h = high[side];
                q[side] = _mm512_or_si512(q[side], _mm512_and_si512(_mm512_slli_epi16::<4>(h), mask));
                q[side + 2] = _mm512_or_si512(q[side + 2], _mm512_and_si512(_mm512_slli_epi16::<2>(h), mask));
                q[side + 4] = _mm512_or_si512(q[side + 4], _mm512_and_si512(h, mask));
                q[side + 6] = _mm512_or_si512(q[side + 6], _mm512_and_si512(_mm512_srli_epi16::<2>(h), mask));
            }
            let scale = half_scales(unit, block, halves(unit));
            Block { q, scale, min: _mm512_setzero_ps() }
        }
    }
}
