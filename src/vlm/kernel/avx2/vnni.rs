//! AVX-VNNI: the products of AVX-512's VNNI in registers of 256 bits, as processors without AVX-512 have them (Core from
//! the twelfth generation on, Core Ultra, the N series).
//!
//! Rust's intrinsics would need the feature in every function around them; an instruction as text needs none, so that one
//! kernel serves AVX2 and this.

use super::{Product, by_blocks};
use crate::kernel::activations::Bits;
use crate::kernel::{Activations, Out, Packed};
use std::arch::asm;
use std::arch::x86_64::__m256i;
use std::ops::Range;

/// True when this processor has the instructions; in tests AVX-512's form of them will do.
pub(in crate::kernel) fn available() -> bool {
    let has_form = is_x86_feature_detected!("avxvnni");
    #[cfg(test)]
    let has_form = has_form || is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni");
    has_form && super::available()
}

/// Multiplies rows of activations with tiles.
///
/// # Safety
/// The processor is [`available`]; `out` holds all rows and columns named, and nobody else writes them.
pub(in crate::kernel) unsafe fn multiply(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's; the processor has one of the forms.
    unsafe {
        #[cfg(test)]
        if !is_x86_feature_detected!("avxvnni") {
            return match x.bits {
                Bits::Eight => by_blocks::<Bytes<LONG>>(w, x, rows, tiles, out),
                Bits::Sixteen => by_blocks::<Pairs<LONG>>(w, x, rows, tiles, out),
            };
        }
        match x.bits {
            Bits::Eight => by_blocks::<Bytes<SHORT>>(w, x, rows, tiles, out),
            Bits::Sixteen => by_blocks::<Pairs<SHORT>>(w, x, rows, tiles, out),
        }
    }
}

/// How the instruction is encoded: VEX, or EVEX.
const SHORT: bool = false;
#[cfg(test)]
const LONG: bool = true;

/// Four unsigned bytes of weights with as many signed ones of activations.
struct Bytes<const LONG: bool>;
/// Two signed values of 16 bits with two others.
struct Pairs<const LONG: bool>;

/// An instruction that adds products to a register, in the form wanted.
macro_rules! add {
    ($name:literal, $long:expr, $sum:ident, $w:ident, $x:ident) => {
        // SAFETY: the processor has the instruction, which reads and writes these registers alone.
        unsafe {
            if $long {
                asm!(concat!("{{evex}} ", $name, " {0}, {1}, {2}"), inout(ymm_reg) $sum, in(ymm_reg) $w, in(ymm_reg) $x,
                    options(pure, nomem, nostack, preserves_flags));
            } else {
                asm!(concat!("{{vex}} ", $name, " {0}, {1}, {2}"), inout(ymm_reg) $sum, in(ymm_reg) $w, in(ymm_reg) $x,
                    options(pure, nomem, nostack, preserves_flags));
            }
        }
    };
}

impl<const LONG: bool> Product for Bytes<LONG> {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(mut sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        add!("vpdpbusd", LONG, sum, w, x);
        sum
    }
}

impl<const LONG: bool> Product for Pairs<LONG> {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(mut sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        add!("vpdpwssd", LONG, sum, w, x);
        sum
    }
}
