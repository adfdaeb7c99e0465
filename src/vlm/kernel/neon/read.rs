//! Reads four rows of a block of weights: signed bytes, scales and minima.

use super::LANES;
use crate::kernel::layout::{GROUP, TILE_ROWS};
use crate::kernel::stored::{Q4, Q4K, Q5K, Q6K, Q8, S8, Stored};
use std::arch::aarch64::*;
use std::arch::asm;

/// The scales of each half of a block, and what every value is too large by, of four rows.
pub(super) struct Scales {
    pub(super) scale: [float32x4_t; 2],
    pub(super) min: float32x4_t,
}

/// How the weights of a kind become signed bytes: those of `Form::Minimum` stay unsigned, all others are
/// brought around zero.
pub(super) trait Read: Stored {
    /// The eight groups of four values of a block, of the rows `4 * part..`.
    ///
    /// # Safety
    /// `unit` points to a unit of this kind.
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8];

    /// # Safety
    /// As `groups`.
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales;
}

/// A part of a group: 16 bytes.
///
/// # Safety
/// `at` points to a group.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn part_of(at: *const u8, part: usize) -> uint8x16_t {
    // SAFETY: the caller's.
    unsafe { vld1q_u8(at.wrapping_add(part * GROUP / 4)) }
}

/// Four half-precision values.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8) -> float32x4_t {
    // SAFETY: the caller's; the conversion computes with registers alone, and every Arm of 64 bits has it.
    unsafe {
        let halves = vld1_u16(at.cast());
        let floats: float32x4_t;
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
        floats
    }
}

/// Four bytes as they are.
///
/// # Safety
/// 4 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn unsigned(at: *const u8) -> float32x4_t {
    // SAFETY: the caller's.
    let bytes = vcreate_u8(u64::from(unsafe { at.cast::<u32>().read_unaligned() }));
    vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
}

/// Four bytes as signed ones.
///
/// # Safety
/// As `unsigned`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn signed(at: *const u8) -> float32x4_t {
    // SAFETY: the caller's.
    let bytes = vcreate_s8(u64::from(unsafe { at.cast::<u32>().read_unaligned() }));
    vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
}

/// The eight groups of nibbles: low ones are groups 0..4, high ones 4..8.
///
/// # Safety
/// `at` points to the nibbles of a block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn nibbles(at: *const u8, part: usize) -> [uint8x16_t; 8] {
    let mut q = [vdupq_n_u8(0); 8];
    for g in 0..4 {
        // SAFETY: the caller's.
        let bytes = unsafe { part_of(at.wrapping_add(g * GROUP), part) };
        q[g] = vandq_u8(bytes, vdupq_n_u8(15));
        q[g + 4] = vshrq_n_u8::<4>(bytes);
    }
    q
}

/// Scales that are for a whole block, of which there are two in a unit: of Q8 and Q4.
///
/// # Safety
/// `unit` points to a unit of them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn of_block(unit: *const u8, block: usize, part: usize) -> float32x4_t {
    // SAFETY: the caller's; the offset is that of `layout`.
    unsafe { halves(unit.wrapping_add(2 * (block * TILE_ROWS + part * LANES))) }
}

/// Scales and minima of a block of Q4K and Q5K.
///
/// # Safety
/// `unit` points to a unit of them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn of_superblock(unit: *const u8, block: usize, part: usize) -> Scales {
    let row = part * LANES;
    // SAFETY: the caller's; the offsets are those of `layout`.
    unsafe {
        let (d, dmin) = (halves(unit.wrapping_add(2 * row)), halves(unit.wrapping_add(32 + 2 * row)));
        let scale = vmulq_f32(d, unsigned(unit.wrapping_add(64 + block * TILE_ROWS + row)));
        let min = vmulq_f32(dmin, unsigned(unit.wrapping_add(64 + (8 + block) * TILE_ROWS + row)));
        Scales { scale: [scale; 2], min }
    }
}

/// The eight groups of bytes that are 128 too large.
///
/// # Safety
/// `at` points to the bytes of a block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bytes(at: *const u8, part: usize) -> [int8x16_t; 8] {
    let mut q = [vdupq_n_s8(0); 8];
    for (g, q) in q.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let bytes = unsafe { part_of(at.wrapping_add(g * GROUP), part) };
        // The top bit turned is 128 less.
        *q = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
    }
    q
}

impl Read for S8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { bytes(unit.wrapping_add(Self::KIND.main_at(block)), part) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        let row = part * LANES;
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let d = vld1q_f32(unit.wrapping_add(4 * row).cast());
            let of = |half: usize| {
                vmulq_f32(d, signed(unit.wrapping_add(64 + (2 * block + half) * TILE_ROWS + row)))
            };
            Scales { scale: [of(0), of(1)], min: vdupq_n_f32(0.0) }
        }
    }
}

impl Read for Q8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { bytes(unit.wrapping_add(Self::KIND.main_at(block)), part) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        // SAFETY: the caller's.
        let scale = unsafe { of_block(unit, block, part) };
        Scales { scale: [scale; 2], min: vdupq_n_f32(0.0) }
    }
}

impl Read for Q4 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { nibbles(unit.wrapping_add(Self::KIND.main_at(block)), part) }.map(|q| vreinterpretq_s8_u8(q))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        // SAFETY: the caller's.
        let scale = unsafe { of_block(unit, block, part) };
        Scales { scale: [scale; 2], min: vmulq_n_f32(scale, 8.0) }
    }
}

impl Read for Q4K {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        // SAFETY: the caller's; the offset is that of `layout`.
        unsafe { nibbles(unit.wrapping_add(Self::KIND.main_at(block)), part) }.map(|q| vreinterpretq_s8_u8(q))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { of_superblock(unit, block, part) }
    }
}

impl Read for Q5K {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, high) = unsafe {
            let high = part_of(unit.wrapping_add(Self::KIND.high_at(block)), part);
            (nibbles(unit.wrapping_add(Self::KIND.main_at(block)), part), high)
        };
        for (g, q) in q.iter_mut().enumerate() {
            // Bit g becomes bit 4.
            let bit = vshlq_u8(high, vdupq_n_s8(4 - g as i8));
            *q = vorrq_u8(*q, vandq_u8(bit, vdupq_n_u8(0x10)));
        }
        q.map(|q| vreinterpretq_s8_u8(q))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { of_superblock(unit, block, part) }
    }
}

impl Read for Q6K {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn groups(unit: *const u8, block: usize, part: usize) -> [int8x16_t; 8] {
        let high_at = unit.wrapping_add(Self::KIND.high_at(block));
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, high) = unsafe {
            let high = [part_of(high_at, part), part_of(high_at.wrapping_add(GROUP), part)];
            (nibbles(unit.wrapping_add(Self::KIND.main_at(block)), part), high)
        };
        for (g, q) in q.iter_mut().enumerate() {
            // Two bits from 2 (g / 2) on become bits 4 and 5.
            let bits = vshlq_u8(high[g % 2], vdupq_n_s8(4 - 2 * (g / 2) as i8));
            *q = vorrq_u8(*q, vandq_u8(bits, vdupq_n_u8(0x30)));
        }
        q.map(|q| vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(32)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn scales(unit: *const u8, block: usize, part: usize) -> Scales {
        let row = part * LANES;
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe {
            let d = halves(unit.wrapping_add(2 * row));
            let of = |half: usize| {
                vmulq_f32(d, signed(unit.wrapping_add(64 + (2 * block + half) * TILE_ROWS + row)))
            };
            Scales { scale: [of(0), of(1)], min: vdupq_n_f32(0.0) }
        }
    }
}
