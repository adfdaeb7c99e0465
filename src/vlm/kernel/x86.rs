//! What the AVX2 and the AVX-512 kernels share: they ask for the weights before they need them.

use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

/// Two pages: what a core computes with in the time that memory takes to answer.
const PREFETCH_BYTES: usize = 8 << 10;

/// Asks for the weights that follow some bytes of a unit [`PREFETCH_BYTES`] later: the processor's own
/// prefetcher stops at every page.
#[inline(always)]
pub(super) fn prefetch(unit: &[u8], bytes: Range<usize>) {
    for at in bytes.step_by(64) {
        // SAFETY: every x86-64 has the instruction. Past the end of the weights it asks for nothing of
        // use, and does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(unit.as_ptr().wrapping_add(at + PREFETCH_BYTES).cast()) };
    }
}

/// Asks for the line of a value that will be written, so that the write does not wait for it.
#[inline(always)]
pub(super) fn prefetch_for_write(at: *const f32) {
    // SAFETY: every x86-64 takes it, as nothing where it is not known; it does no harm to any address.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
}
