//! The product on AVX-512 with VNNI: `vpdpbusd` multiplies four unsigned weights of sixteen rows with
//! four signed activations and adds them up.
//!
//!     K-quants with activations of 8 bits    superblocks
//!     all else                               block by block, here; two products for 16 bits

mod superblocks;

use super::activations::{Bits, Head, PANEL};
use super::layout::{Kind, BLOCK, GROUP, TILE_ROWS};
use super::x86::{in_steps, prefetch, prefetch_for_write, Form, Stored, Q4, Q4K, Q5K, Q6K, Q8};
use super::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::ops::Range;

/// True when this processor has the instructions.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Multiplies rows of activations with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
pub unsafe fn multiply(w: &Packed, x: &Activations, rows: Range<usize>, tiles: Range<usize>, out: Out) {
    // SAFETY: the caller's.
    unsafe {
        match (w.kind, x.bits) {
            (Kind::Q4K, Bits::Eight) => superblocks::run::<Q4K>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Eight) => superblocks::run::<Q5K>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Eight) => superblocks::run::<Q6K>(w, x, rows, tiles, out),
            (Kind::Q8, Bits::Eight) => run::<Q8, false>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Eight) => run::<Q4, false>(w, x, rows, tiles, out),
            (Kind::Q8, Bits::Sixteen) => run::<Q8, true>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Sixteen) => run::<Q4, true>(w, x, rows, tiles, out),
            (Kind::Q4K, Bits::Sixteen) => run::<Q4K, true>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Sixteen) => run::<Q5K, true>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Sixteen) => run::<Q6K, true>(w, x, rows, tiles, out),
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
                // With two products a row, eight rows at once are a quarter slower than four.
                in_steps!(rows, row,
                    4 => tile_rows::<R, 4, WIDE>(w, x, row, tile, out),
                    2 => tile_rows::<R, 2, WIDE>(w, x, row, tile, out),
                    1 => tile_rows::<R, 1, WIDE>(w, x, row, tile, out),
                );
            } else {
                in_steps!(rows, row,
                    16 => tile_rows::<R, 16, WIDE>(w, x, row, tile, out),
                    8 => tile_rows::<R, 8, WIDE>(w, x, row, tile, out),
                    4 => tile_rows::<R, 4, WIDE>(w, x, row, tile, out),
                    2 => tile_rows::<R, 2, WIDE>(w, x, row, tile, out),
                    1 => tile_rows::<R, 1, WIDE>(w, x, row, tile, out),
                );
            }
        }
    }
}

/// `ROWS` rows of activations with one tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_rows<R: Read, const ROWS: usize, const WIDE: bool>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let blocks_per_unit = R::KIND.unit() / BLOCK;
    let (start, step) = x.place(row);
    let end = start + (x.k / BLOCK - 1) * step + ROWS;
    assert!(row % PANEL + ROWS <= step && end <= x.heads.len() && end * BLOCK <= x.high.len());
    assert!(!WIDE || x.low.len() == x.high.len());
    let low = if WIDE { &x.low } else { &x.high };
    let (mut high, mut low) = (x.high[start * BLOCK..].as_ptr(), low[start * BLOCK..].as_ptr());
    let mut heads = x.heads[start..].as_ptr();
    let mut sums = [_mm512_setzero_ps(); ROWS];
    // The lines of the results are asked for one with each block: all of them at the end would keep the next
    // tile waiting. With two products a row the loop is a quarter slower for it.
    let mut asked = 0usize;
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..blocks_per_unit {
            if !WIDE && asked < ROWS {
                // SAFETY: the caller's.
                prefetch_for_write(unsafe { out.at(row.wrapping_add(asked), tile) });
                asked = asked.wrapping_add(1);
            }
            prefetch(unit, b * unit.len() / blocks_per_unit..(b + 1) * unit.len() / blocks_per_unit);
            // SAFETY: the chunk is a whole unit.
            let weights = unsafe { R::block(unit.as_ptr(), b) };
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the pointers stand at a block of the first row, the same blocks of the other
                // rows follow, and the assertions say that all rows of all blocks are there.
                unsafe {
                    let head = &*heads.wrapping_add(r);
                    let high = high.wrapping_add(r.wrapping_mul(BLOCK)).cast::<i32>();
                    let low = low.wrapping_add(r.wrapping_mul(BLOCK)).cast::<i32>();
                    *sum = add_block::<R, WIDE>(&weights, head, high, low, *sum);
                }
            }
            high = high.wrapping_add(step.wrapping_mul(BLOCK));
            low = low.wrapping_add(step.wrapping_mul(BLOCK));
            heads = heads.wrapping_add(step);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.at(row + r, tile), *sum) };
    }
}

/// `sum` and the products of a block of weights with a block of one row of activations.
///
/// # Safety
/// `high`, and with `WIDE` `low`, point to 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_block<R: Read, const WIDE: bool>(
    w: &Block,
    head: &Head,
    high: *const i32,
    low: *const i32,
    mut sum: __m512,
) -> __m512 {
    let scale = _mm512_set1_ps(head.scale);
    // SAFETY: the caller's.
    unsafe {
        match R::FORM {
            Form::Minimum => {
                let dot = dot::<WIDE>(&w.q, high, low, _mm512_setzero_si512());
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w.scale[0], scale), sum);
                _mm512_fnmadd_ps(w.min, _mm512_set1_ps(head.sum), sum)
            }
            Form::Minus128 => {
                let dot = dot::<WIDE>(&w.q, high, low, _mm512_set1_epi32(head.minus_128));
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w.scale[0], scale), sum)
            }
            Form::HalvesMinus32 => {
                for half in 0..2 {
                    let (high, low) = (high.add(4 * half), low.add(4 * half));
                    let start = _mm512_set1_epi32(head.minus_32[half]);
                    let dot = dot::<WIDE>(&w.q[4 * half..4 * half + 4], high, low, start);
                    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w.scale[half], scale), sum);
                }
                sum
            }
        }
    }
}

/// `start` and the products of groups of weights with as many groups of activations.
///
/// # Safety
/// `high` and `low` point to `q.len()` groups; without `WIDE`, `low` is not read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot<const WIDE: bool>(q: &[__m512i], high: *const i32, low: *const i32, start: __m512i) -> __m512i {
    let mut sum = if WIDE { _mm512_setzero_si512() } else { start };
    let mut sum_low = start;
    for (g, q) in q.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            sum = _mm512_dpbusd_epi32(sum, *q, _mm512_set1_epi32(high.add(g).read_unaligned()));
            if WIDE {
                sum_low = _mm512_dpbusd_epi32(sum_low, *q, _mm512_set1_epi32(low.add(g).read_unaligned()));
            }
        }
    }
    if WIDE {
        _mm512_add_epi32(_mm512_slli_epi32::<7>(sum), sum_low)
    } else {
        sum
    }
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

impl Read for Q8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let mut q = [_mm512_setzero_si512(); 8];
        // SAFETY: the caller's; the offsets are those of `layout`.
        let scale = unsafe {
            let at = unit.add(Self::KIND.main_at(block));
            for (g, q) in q.iter_mut().enumerate() {
                *q = _mm512_load_si512(at.add(g * GROUP).cast());
            }
            halves(unit.add(block * 2 * TILE_ROWS))
        };
        Block { q, scale: [scale; 2], min: _mm512_setzero_ps() }
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
            let d = halves(unit);
            let half = |i: usize| {
                let bytes = _mm_loadu_si128(unit.add(64 + (2 * block + i) * TILE_ROWS).cast());
                _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
            };
            Block { q, scale: [half(0), half(1)], min: _mm512_setzero_ps() }
        }
    }
}
