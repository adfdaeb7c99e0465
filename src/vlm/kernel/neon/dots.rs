//! Sums of products of bytes: four rows of weights with one or two rows of activations.

use std::arch::aarch64::*;
use std::arch::asm;

/// Of each half of a block, 16 values deep, the sums of four rows of weights.
pub(super) type Integers = [int32x4_t; 2];

/// The instructions that multiply.
pub(super) trait Dots {
    /// # Safety
    /// The processor has the instructions; `x` points to 32 bytes.
    unsafe fn of_one(q: &[int8x16_t; 8], x: *const i8) -> Integers;

    /// # Safety
    /// As `of_one`, of both.
    unsafe fn of_two(q: &[int8x16_t; 8], a: *const i8, b: *const i8) -> [Integers; 2];
}

/// `sdot`.
pub(super) struct DotProduct;
/// `smmla` for two rows, `sdot` for one.
pub(super) struct I8mm;

impl Dots for DotProduct {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn of_one(q: &[int8x16_t; 8], x: *const i8) -> Integers {
        let mut dots = [vdupq_n_s32(0); 2];
        for half in 0..2 {
            // SAFETY: the caller's.
            let x = unsafe { vld1q_s8(x.wrapping_add(16 * half)) };
            let q = &q[4 * half..][..4];
            let sum = sdot::<0>(dots[half], q[0], x);
            let sum = sdot::<1>(sum, q[1], x);
            let sum = sdot::<2>(sum, q[2], x);
            dots[half] = sdot::<3>(sum, q[3], x);
        }
        dots
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn of_two(q: &[int8x16_t; 8], a: *const i8, b: *const i8) -> [Integers; 2] {
        // SAFETY: the caller's.
        unsafe { [Self::of_one(q, a), Self::of_one(q, b)] }
    }
}

impl Dots for I8mm {
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    unsafe fn of_one(q: &[int8x16_t; 8], x: *const i8) -> Integers {
        // SAFETY: the caller's.
        unsafe { DotProduct::of_one(q, x) }
    }

    /// Two groups of four values side by side are eight values of a row; of two such rows the instruction
    /// makes four sums, `[row of weights][row of activations]`, and of two such results each row of
    /// activations takes every second sum.
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    unsafe fn of_two(q: &[int8x16_t; 8], a: *const i8, b: *const i8) -> [Integers; 2] {
        let mut dots = [[vdupq_n_s32(0); 2]; 2];
        for half in 0..2 {
            // SAFETY: the caller's.
            let (a, b) =
                unsafe { (vld1q_s8(a.wrapping_add(16 * half)), vld1q_s8(b.wrapping_add(16 * half))) };
            let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
            let (mut upper, mut lower) = (vdupq_n_s32(0), vdupq_n_s32(0));
            for (pair, x) in [vzip1q_s64(a, b), vzip2q_s64(a, b)].into_iter().enumerate() {
                let x = vreinterpretq_s8_s64(x);
                let (even, odd) = (q[4 * half + 2 * pair], q[4 * half + 2 * pair + 1]);
                let (even, odd) = (vreinterpretq_s32_s8(even), vreinterpretq_s32_s8(odd));
                upper = smmla(upper, vreinterpretq_s8_s32(vzip1q_s32(even, odd)), x);
                lower = smmla(lower, vreinterpretq_s8_s32(vzip2q_s32(even, odd)), x);
            }
            dots[0][half] = vuzp1q_s32(upper, lower);
            dots[1][half] = vuzp2q_s32(upper, lower);
        }
        dots
    }
}

/// Adds to each lane the products of its four weights with the `GROUP`-th four of the activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const GROUP: usize>(mut sum: int32x4_t, q: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: it computes with registers alone, and the function has the feature.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {q:v}.16b, {x:v}.4b[{group}]",
            sum = inout(vreg) sum,
            q = in(vreg) q,
            x = in(vreg) x,
            group = const GROUP,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds the products of two rows of eight weights with two rows of eight activations.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sum: int32x4_t, q: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {q:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            q = in(vreg) q,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
