//! The product on AVX-512 with VNNI: `vpdpbusd` multiplies four unsigned weights of sixteen rows with
//! four signed activations and adds them up.

use super::layout::{Kind, BLOCK, GROUP, TILE_ROWS};
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
        match (w.kind, x.low.is_empty()) {
            (Kind::Q8, true) => run::<Q8, false>(w, x, rows, tiles, out),
            (Kind::Q8, false) => run::<Q8, true>(w, x, rows, tiles, out),
            (Kind::Q4, true) => run::<Q4, false>(w, x, rows, tiles, out),
            (Kind::Q4, false) => run::<Q4, true>(w, x, rows, tiles, out),
            (Kind::Q4K, true) => run::<Q4K, false>(w, x, rows, tiles, out),
            (Kind::Q4K, false) => run::<Q4K, true>(w, x, rows, tiles, out),
            (Kind::Q5K, true) => run::<Q5K, false>(w, x, rows, tiles, out),
            (Kind::Q5K, false) => run::<Q5K, true>(w, x, rows, tiles, out),
            (Kind::Q6K, true) => run::<Q6K, false>(w, x, rows, tiles, out),
            (Kind::Q6K, false) => run::<Q6K, true>(w, x, rows, tiles, out),
        }
    }
}

/// A block of 32 values of sixteen rows: value = scale * q - min, by halves of 16 values where the
/// kind has such scales.
struct Block {
    q: [__m512i; 8],
    scale: [__m512; 2],
    min: [__m512; 2],
}

/// Reads the blocks of one kind.
trait Read {
    const KIND: Kind;
    /// The halves of a block have scales of their own.
    const HALVES: bool;

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
        let mut row = rows.start;
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            // Sixteen sums, the weights and their scales fit the 32 registers, 16-bit products not.
            while !WIDE && row + 16 <= rows.end {
                tile_rows::<R, 16, WIDE>(w, x, row, tile, out);
                row += 16;
            }
            while row + 8 <= rows.end {
                tile_rows::<R, 8, WIDE>(w, x, row, tile, out);
                row += 8;
            }
            if row + 4 <= rows.end {
                tile_rows::<R, 4, WIDE>(w, x, row, tile, out);
                row += 4;
            }
            if row + 2 <= rows.end {
                tile_rows::<R, 2, WIDE>(w, x, row, tile, out);
                row += 2;
            }
            if row < rows.end {
                tile_rows::<R, 1, WIDE>(w, x, row, tile, out);
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
    let (k, blocks) = (x.k, x.k / BLOCK);
    let blocks_per_unit = R::KIND.unit() / BLOCK;
    let bytes = w.tile(tile);
    assert!((row + ROWS) * k <= x.high.len() && (!WIDE || x.low.len() == x.high.len()), "rows of a product");
    let low = if WIDE { &x.low } else { &x.high };
    let (mut high, mut low) = (x.high[row * k..].as_ptr(), low[row * k..].as_ptr());
    let (mut scales, mut sums16) = (x.scales[row * blocks..].as_ptr(), x.sums[row * 2 * blocks..].as_ptr());
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for unit in bytes.chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..blocks_per_unit {
            // SAFETY: the chunk is a whole unit.
            let weights = unsafe { R::block(unit.as_ptr(), b) };
            for (r, sum) in sums.iter_mut().enumerate() {
                // The assertion bounds these products; checking each for overflow would cost a tenth
                // of the loop.
                let (values, block) = (r.wrapping_mul(k), r.wrapping_mul(blocks));
                // SAFETY: the pointers stand at the same block of the first row, the others' blocks
                // follow whole rows later, and the assertion says that all rows are there.
                unsafe {
                    let scale = _mm512_set1_ps(*scales.add(block));
                    let (high, low) = (high.add(values).cast::<i32>(), low.add(values).cast::<i32>());
                    let sum16 = sums16.add(block).add(block);
                    if R::HALVES {
                        for half in 0..2 {
                            let q = &weights.q[4 * half..4 * half + 4];
                            let dot = dot::<WIDE>(q, high.add(4 * half), low.add(4 * half));
                            let scale = _mm512_mul_ps(weights.scale[half], scale);
                            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *sum);
                            *sum =
                                _mm512_fnmadd_ps(weights.min[half], _mm512_set1_ps(*sum16.add(half)), *sum);
                        }
                    } else {
                        let dot = dot::<WIDE>(&weights.q, high, low);
                        let scale = _mm512_mul_ps(weights.scale[0], scale);
                        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *sum);
                        let both = _mm512_set1_ps(*sum16 + *sum16.add(1));
                        *sum = _mm512_fnmadd_ps(weights.min[0], both, *sum);
                    }
                }
            }
            high = high.wrapping_add(BLOCK);
            low = low.wrapping_add(BLOCK);
            scales = scales.wrapping_add(1);
            sums16 = sums16.wrapping_add(2);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(out.values.add((row + r) * out.stride + tile * TILE_ROWS), *sum) };
    }
}

/// Sum of products of groups of weights with as many groups of activations.
///
/// # Safety
/// `high` and `low` point to `q.len()` groups; without `WIDE`, `low` is not read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot<const WIDE: bool>(q: &[__m512i], high: *const i32, low: *const i32) -> __m512i {
    let mut sum = _mm512_setzero_si512();
    let mut sum_low = _mm512_setzero_si512();
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

struct Q8;
struct Q4;
struct Q4K;
struct Q5K;
struct Q6K;

impl Read for Q8 {
    const KIND: Kind = Kind::Q8;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let mut q = [_mm512_setzero_si512(); 8];
        // SAFETY: the caller's; the offsets are those of `layout`.
        let scale = unsafe {
            let at = unit.add(Self::KIND.head_bytes() + block * Self::KIND.block_bytes());
            for (g, q) in q.iter_mut().enumerate() {
                *q = _mm512_load_si512(at.add(g * GROUP).cast());
            }
            halves(unit.add(block * 2 * TILE_ROWS))
        };
        let min = _mm512_mul_ps(scale, _mm512_set1_ps(128.0));
        Block { q, scale: [scale; 2], min: [min; 2] }
    }
}

impl Read for Q4 {
    const KIND: Kind = Kind::Q4;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (q, scale) = unsafe {
            let at = unit.add(Self::KIND.head_bytes() + block * Self::KIND.block_bytes());
            (nibbles(at), halves(unit.add(block * 2 * TILE_ROWS)))
        };
        let min = _mm512_mul_ps(scale, _mm512_set1_ps(8.0));
        Block { q, scale: [scale; 2], min: [min; 2] }
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
    const KIND: Kind = Kind::Q4K;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let q = nibbles(unit.add(Self::KIND.head_bytes() + block * Self::KIND.block_bytes()));
            let (scale, min) = k_scales(unit, block);
            Block { q, scale: [scale; 2], min: [min; 2] }
        }
    }
}

impl Read for Q5K {
    const KIND: Kind = Kind::Q5K;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let (head, main) = (Self::KIND.head_bytes(), Self::KIND.block_bytes());
        let sixteen = _mm512_set1_epi8(16);
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let mut q = nibbles(unit.add(head + block * main));
            let fifth = _mm512_load_si512(unit.add(head + 8 * main + block * GROUP).cast());
            for (g, q) in q.iter_mut().enumerate() {
                let bit = _mm512_set1_epi8((1u8 << g) as i8);
                let set = _mm512_test_epi8_mask(fifth, bit);
                *q = _mm512_mask_add_epi8(*q, set, *q, sixteen);
            }
            let (scale, min) = k_scales(unit, block);
            Block { q, scale: [scale; 2], min: [min; 2] }
        }
    }
}

impl Read for Q6K {
    const KIND: Kind = Kind::Q6K;
    const HALVES: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        let (head, main) = (Self::KIND.head_bytes(), Self::KIND.block_bytes());
        let mask = _mm512_set1_epi8(0x30);
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let mut q = nibbles(unit.add(head + block * main));
            let high = unit.add(head + 8 * main + block * Self::KIND.high_bytes());
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
            let scale = [half(0), half(1)];
            let min = scale.map(|s| _mm512_mul_ps(s, _mm512_set1_ps(32.0)));
            Block { q, scale, min }
        }
    }
}
