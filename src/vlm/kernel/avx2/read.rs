//! Weights as the AVX2 kernels multiply them: unsigned bytes of half a tile, with their scales.

use super::HALF_ROWS;
use crate::kernel::activations::Sums;
use crate::kernel::layout::{GROUP, TILE_ROWS};
use crate::kernel::stored::{Q4, Q4K, Q5K, Q6K, Q8, S8, Stored};
use std::arch::x86_64::*;

/// A block of 32 values of eight rows: unsigned bytes, group by group.
pub(super) type Groups = [__m256i; 8];

/// What makes values of the unsigned q of a block.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    /// The second one only where halves of a block have scales of their own.
    pub scale: [__m256; 2],
    /// Zero where a fixed number is taken from q instead.
    pub min: __m256,
}

/// Reads the blocks of one kind.
pub(super) trait Read: Stored {
    /// # Safety
    /// `unit` points to a unit of this kind, aligned to 64; `half` is 0 or 1.
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups;

    /// # Safety
    /// As `groups`.
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales;
}

/// Eight f16 as f32.
///
/// # Safety
/// 16 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

/// Eight unsigned bytes as f32.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unsigned(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

/// Eight signed bytes as f32.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn signed(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

/// The half of a group: 32 bytes.
///
/// # Safety
/// `at` points to a group, aligned to 64.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_group(at: *const u8, half: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_load_si256(at.wrapping_add(half * GROUP / 2).cast()) }
}

/// The eight groups of 32 nibbles: low nibbles are groups 0..4, high ones 4..8.
///
/// # Safety
/// 256 bytes, aligned to 64, can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(at: *const u8, half: usize) -> Groups {
    let mask = _mm256_set1_epi8(15);
    let mut q = [_mm256_setzero_si256(); 8];
    for g in 0..4 {
        // SAFETY: the caller's.
        let bytes = unsafe { half_group(at.wrapping_add(g * GROUP), half) };
        q[g] = _mm256_and_si256(bytes, mask);
        q[g + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
    }
    q
}

/// The eight groups of 32 bytes.
///
/// # Safety
/// 512 bytes, aligned to 64, can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes(at: *const u8, half: usize) -> Groups {
    let mut q = [_mm256_setzero_si256(); 8];
    for (g, q) in q.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *q = unsafe { half_group(at.wrapping_add(g * GROUP), half) };
    }
    q
}

impl Read for S8 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { bytes(unit.wrapping_add(Self::KIND.main_at(block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe {
            let d = _mm256_loadu_ps(unit.wrapping_add(4 * half * HALF_ROWS).cast());
            let at = unit.wrapping_add(64 + 2 * block * TILE_ROWS + half * HALF_ROWS);
            [_mm256_mul_ps(d, signed(at)), _mm256_mul_ps(d, signed(at.wrapping_add(TILE_ROWS)))]
        };
        Scales { scale, min: _mm256_setzero_ps() }
    }
}

impl Read for Q8 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { bytes(unit.wrapping_add(Self::KIND.main_at(block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe { halves(unit.wrapping_add(2 * (block * TILE_ROWS + half * HALF_ROWS))) };
        Scales { scale: [scale; 2], min: _mm256_setzero_ps() }
    }
}

impl Read for Q4 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe { nibbles(unit.wrapping_add(Self::KIND.main_at(block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe { halves(unit.wrapping_add(2 * (block * TILE_ROWS + half * HALF_ROWS))) };
        Scales { scale: [scale; 2], min: _mm256_mul_ps(scale, _mm256_set1_ps(8.0)) }
    }
}

/// Scales and minima of a block of Q4K and Q5K.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn k_scales(unit: *const u8, block: usize, half: usize) -> Scales {
    let row = half * HALF_ROWS;
    // SAFETY: the caller's; the offsets are those of `layout`.
    unsafe {
        let scale = unsigned(unit.wrapping_add(64 + block * TILE_ROWS + row));
        let min = unsigned(unit.wrapping_add(64 + (8 + block) * TILE_ROWS + row));
        let scale = _mm256_mul_ps(halves(unit.wrapping_add(2 * row)), scale);
        let min = _mm256_mul_ps(halves(unit.wrapping_add(32 + 2 * row)), min);
        Scales { scale: [scale; 2], min }
    }
}

impl Read for Q4K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe { nibbles(unit.wrapping_add(Self::KIND.main_at(block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { k_scales(unit, block, half) }
    }
}

impl Read for Q5K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, fifth) = unsafe {
            let q = nibbles(unit.wrapping_add(Self::KIND.main_at(block)), half);
            (q, half_group(unit.wrapping_add(Self::KIND.high_at(block)), half))
        };
        for (g, q) in q.iter_mut().enumerate() {
            let bit = _mm256_set1_epi8((1u8 << g) as i8);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);
            *q = _mm256_or_si256(*q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { k_scales(unit, block, half) }
    }
}

impl Read for Q6K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        let mask = _mm256_set1_epi8(0x30);
        let high = unit.wrapping_add(Self::KIND.high_at(block));
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, high) = unsafe {
            let q = nibbles(unit.wrapping_add(Self::KIND.main_at(block)), half);
            (q, [half_group(high, half), half_group(high.wrapping_add(GROUP), half)])
        };
        for (side, h) in high.into_iter().enumerate() {
            // Groups side, side + 2, side + 4, side + 6 hold bits 0, 2, 4, 6 of their byte.
            let bits = [_mm256_slli_epi16::<4>(h), _mm256_slli_epi16::<2>(h), h, _mm256_srli_epi16::<2>(h)];
            for (i, bits) in bits.into_iter().enumerate() {
                let q = &mut q[side + 2 * i];
                *q = _mm256_or_si256(*q, _mm256_and_si256(bits, mask));
            }
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe {
            let d = halves(unit.wrapping_add(2 * half * HALF_ROWS));
            let at = unit.wrapping_add(64 + 2 * block * TILE_ROWS + half * HALF_ROWS);
            [_mm256_mul_ps(d, signed(at)), _mm256_mul_ps(d, signed(at.wrapping_add(TILE_ROWS)))]
        };
        Scales { scale, min: _mm256_setzero_ps() }
    }
}

/// Eight registers of scales for madd: each lane is one row's, for both of its 16-bit values.
type Minima = [__m256i; 8];

/// Reads the superblocks of one kind, and multiplies them with activations of eight bits. What is given here is
/// that of Q4K and Q5K.
pub(super) trait ReadSuperblock: Read {
    /// The integer scales of a block: of its first and of its second half, each twice in every lane.
    ///
    /// # Safety
    /// As `groups`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn integer_scales(unit: *const u8, block: usize, half: usize) -> [__m256i; 2] {
        let at = k_scales_at(unit, block, half);
        // SAFETY: the caller's; the offsets are those of `layout`.
        [_mm256_cvtepu8_epi16(unsafe { in_turn(at, at) }); 2]
    }

    /// What `add_minima` multiplies with sums of activations: those of two adjacent blocks side by side.
    ///
    /// # Safety
    /// As `groups`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn minima(unit: *const u8, half: usize) -> Minima {
        let mut minima = [_mm256_setzero_si256(); 8];
        for pair in 0..4 {
            let first = k_scales_at(unit, 8 + 2 * pair, half);
            // SAFETY: as above.
            minima[pair] = _mm256_cvtepu8_epi16(unsafe { in_turn(first, first.wrapping_add(TILE_ROWS)) });
        }
        minima
    }

    /// The scales of the products and of the minima.
    ///
    /// # Safety
    /// As `groups`.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn float_scales(unit: *const u8, half: usize) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [halves(unit.wrapping_add(16 * half)), halves(unit.wrapping_add(32 + 16 * half))] }
    }

    /// `sum` and the products of a block with as many activations, times the integer scales. Every sum fits:
    /// 256 * 127 * the largest q * the largest scale < 2^31.
    ///
    /// # Safety
    /// `x` points to 32 bytes.
    unsafe fn add_block(sum: __m256i, q: &Groups, scales: &[__m256i; 2], x: *const i32) -> __m256i;

    /// The products of the minima with a row's sums.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_minima(minima: &Minima, sums: &Sums) -> __m256i {
        dot_sums::<4>(minima, &sums.blocks)
    }
}

/// The products of the groups `FIRST..FIRST + N` in 16 bits, which hold them: N * 2 * 127 * the largest q
/// < 2^15.
///
/// # Safety
/// `x` points to 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot<const FIRST: usize, const N: usize>(q: &Groups, x: *const i32) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for g in FIRST..FIRST + N {
        // SAFETY: the caller's.
        let x = unsafe { _mm256_set1_epi32(x.wrapping_add(g).read_unaligned()) };
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(q[g], x));
    }
    sum
}

/// Eight bytes and eight others, one of each in turn.
///
/// # Safety
/// 8 bytes can be read at both places.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_turn(first: *const u8, second: *const u8) -> __m128i {
    // SAFETY: the caller's.
    unsafe { _mm_unpacklo_epi8(_mm_loadl_epi64(first.cast()), _mm_loadl_epi64(second.cast())) }
}

/// Where a block's scales of half a tile are in Q4K and Q5K; its minima follow eight blocks later.
#[inline(always)]
fn k_scales_at(unit: *const u8, block: usize, half: usize) -> *const u8 {
    unit.wrapping_add(64 + block * TILE_ROWS + half * HALF_ROWS)
}

/// Adds products of `N` registers of 16-bit pairs with as many pairs of sums.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_sums<const N: usize>(minima: &Minima, sums: &[i16]) -> __m256i {
    let mut total = _mm256_setzero_si256();
    for (minima, pair) in minima[..N].iter().zip(sums.as_chunks::<2>().0) {
        let pair = i32::from(pair[1]) << 16 | i32::from(pair[0] as u16);
        total = _mm256_add_epi32(total, _mm256_madd_epi16(*minima, _mm256_set1_epi32(pair)));
    }
    total
}

impl ReadSuperblock for Q4K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_block(sum: __m256i, q: &Groups, scales: &[__m256i; 2], x: *const i32) -> __m256i {
        // SAFETY: the caller's.
        _mm256_add_epi32(sum, _mm256_madd_epi16(unsafe { dot::<0, 8>(q, x) }, scales[0]))
    }
}

impl ReadSuperblock for Q5K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_block(mut sum: __m256i, q: &Groups, scales: &[__m256i; 2], x: *const i32) -> __m256i {
        // SAFETY: the caller's.
        for short in unsafe { [dot::<0, 4>(q, x), dot::<4, 4>(q, x)] } {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, scales[0]));
        }
        sum
    }
}

/// Where the scales of a block's first half are in half a tile of Q6K; those of its second half follow.
#[inline(always)]
fn q6k_scales_at(unit: *const u8, block: usize, half: usize) -> *const u8 {
    unit.wrapping_add(64 + 2 * block * TILE_ROWS + half * HALF_ROWS)
}

impl ReadSuperblock for Q6K {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn integer_scales(unit: *const u8, block: usize, half: usize) -> [__m256i; 2] {
        let first = q6k_scales_at(unit, block, half);
        let second = first.wrapping_add(TILE_ROWS);
        // SAFETY: the caller's.
        let (first, second) = unsafe { (in_turn(first, first), in_turn(second, second)) };
        [_mm256_cvtepi8_epi16(first), _mm256_cvtepi8_epi16(second)]
    }

    /// The scales themselves, those of both halves of a block side by side: every q is 32 too large.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn minima(unit: *const u8, half: usize) -> Minima {
        let mut minima = [_mm256_setzero_si256(); 8];
        for (block, minima) in minima.iter_mut().enumerate() {
            let first = q6k_scales_at(unit, block, half);
            // SAFETY: the caller's.
            *minima = _mm256_cvtepi8_epi16(unsafe { in_turn(first, first.wrapping_add(TILE_ROWS)) });
        }
        minima
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn float_scales(unit: *const u8, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's.
        let d = unsafe { halves(unit.wrapping_add(16 * half)) };
        [d, _mm256_mul_ps(d, _mm256_set1_ps(32.0))]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_block(mut sum: __m256i, q: &Groups, scales: &[__m256i; 2], x: *const i32) -> __m256i {
        // SAFETY: the caller's.
        let shorts =
            unsafe { [[dot::<0, 2>(q, x), dot::<2, 2>(q, x)], [dot::<4, 2>(q, x), dot::<6, 2>(q, x)]] };
        for (shorts, scale) in shorts.into_iter().zip(scales) {
            for short in shorts {
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, *scale));
            }
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_minima(minima: &Minima, sums: &Sums) -> __m256i {
        dot_sums::<8>(minima, &sums.halves)
    }
}
