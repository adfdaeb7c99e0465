//! Weights in registers of 512 bits: a block of 32 values of a tile's sixteen rows.

use crate::kernel::layout::{GROUP, TILE_ROWS};
use crate::kernel::stored::{Form, Q4, Q4K, Q5K, Q6K, Q8, S8, Stored};
use std::arch::x86_64::*;

/// A block and the numbers that its integers are multiplied with.
pub(crate) struct Block {
    pub(crate) q: [__m512i; 8],
    /// The second one only where halves of a block have scales of their own.
    pub(crate) scale: [__m512; 2],
    /// Zero where a fixed number is taken from q instead.
    pub(crate) min: __m512,
}

impl Block {
    // SAFETY: registers of zeros, as integers and as floats.
    pub(crate) const ZERO: Self = unsafe { std::mem::zeroed() };
}

/// Reads the blocks of one kind.
pub(crate) trait Read: Stored {
    /// # Safety
    /// `unit` points to a unit of this kind, aligned to 64.
    unsafe fn block(unit: *const u8, block: usize) -> Block;
}

/// A block of a K-quant as the integers that are stored.
pub(crate) struct Integers {
    pub(crate) q: [__m512i; 8],
    /// A lane a row; the second one only where halves of a block have scales of their own.
    pub(crate) scale: [__m512i; 2],
}

/// What the blocks of a K-quant's unit share.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    /// The value of one step of the integers times their scales.
    pub(crate) d: __m512,
    /// That of the minima; zero where there are none.
    pub(crate) d_min: __m512,
    /// The minima of blocks 2 i and 2 i + 1 in the low and the high half of each lane.
    pub(crate) minima: [__m512i; 4],
}

/// Reads the blocks of a K-quant.
pub(crate) trait ReadK: Stored {
    /// # Safety
    /// As [`Read::block`].
    unsafe fn integers(unit: *const u8, block: usize) -> Integers;

    /// The value of one step of the integers times their scales.
    ///
    /// # Safety
    /// As [`Read::block`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn d(unit: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { halves(unit) }
    }

    /// # Safety
    /// As [`Read::block`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn unit(unit: *const u8) -> Unit {
        let mut minima = [_mm512_setzero_si512(); 4];
        // SAFETY: the caller's.
        unsafe {
            if Self::FORM == Form::Minimum {
                for (i, minima) in minima.iter_mut().enumerate() {
                    let (low, high) = (minimum(unit, 2 * i), minimum(unit, 2 * i + 1));
                    *minima = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                }
            }
            Unit { d: Self::d(unit), d_min: d_min::<Self>(unit), minima }
        }
    }
}

/// In the numbers that the kernels of all kinds understand.
impl<K: ReadK> Read for K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn block(unit: *const u8, block: usize) -> Block {
        // SAFETY: the caller's.
        unsafe {
            let Integers { q, scale } = Self::integers(unit, block);
            let d = Self::d(unit);
            let scale = scale.map(|s| _mm512_mul_ps(d, _mm512_cvtepi32_ps(s)));
            let min = match Self::FORM {
                Form::Minimum => _mm512_mul_ps(d_min::<Self>(unit), _mm512_cvtepi32_ps(minimum(unit, block))),
                _ => _mm512_setzero_ps(),
            };
            Block { q, scale, min }
        }
    }
}

/// The value of one step of the minima.
///
/// # Safety
/// `unit` points to a unit of this K-quant.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn d_min<K: Stored + ?Sized>(unit: *const u8) -> __m512 {
    match K::FORM {
        // SAFETY: the caller's; the offsets are those of `layout`.
        Form::Minimum => unsafe { halves(unit.add(32)) },
        _ => _mm512_setzero_ps(),
    }
}

/// The scale of a block of Q4K and Q5K, a lane a row.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn k_scale(unit: *const u8, block: usize) -> __m512i {
    // SAFETY: the caller's; the offsets are those of `layout`.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(unit.add(64 + block * TILE_ROWS).cast()) })
}

/// The minimum of a block of Q4K and Q5K, a lane a row.
///
/// # Safety
/// As `k_scale`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn minimum(unit: *const u8, block: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe { k_scale(unit, 8 + block) }
}

/// Sixteen f16 as f32.
///
/// # Safety
/// 32 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn halves(at: *const u8) -> __m512 {
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

/// The scales of both halves of a block of Q6K and S8, a lane a row.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn half_scales(unit: *const u8, block: usize) -> [__m512i; 2] {
    let mut scale = [_mm512_setzero_si512(); 2];
    for (i, scale) in scale.iter_mut().enumerate() {
        // SAFETY: the caller's; the offset is that of `layout`.
        let bytes = unsafe { _mm_loadu_si128(unit.add(64 + (2 * block + i) * TILE_ROWS).cast()) };
        *scale = _mm512_cvtepi8_epi32(bytes);
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

impl ReadK for S8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn integers(unit: *const u8, block: usize) -> Integers {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe { Integers { q: bytes(unit.add(Self::KIND.main_at(block))), scale: half_scales(unit, block) } }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn d(unit: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(unit.cast()) }
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

impl ReadK for Q4K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn integers(unit: *const u8, block: usize) -> Integers {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            Integers { q: nibbles(unit.add(Self::KIND.main_at(block))), scale: [k_scale(unit, block); 2] }
        }
    }
}

impl ReadK for Q5K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn integers(unit: *const u8, block: usize) -> Integers {
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
            Integers { q, scale: [k_scale(unit, block); 2] }
        }
    }
}

impl ReadK for Q6K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn integers(unit: *const u8, block: usize) -> Integers {
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
            Integers { q, scale: half_scales(unit, block) }
        }
    }
}
