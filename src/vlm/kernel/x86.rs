//! What the AVX2 and the AVX-512 kernels share: the kinds of weights, and the walk over rows.

use super::layout::Kind;
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

/// Two pages: what a core computes with in the time that memory takes to answer.
const PREFETCH_BYTES: usize = 8 << 10;

/// How values come of the unsigned q.
#[derive(PartialEq)]
pub(super) enum Form {
    /// value = scale * q - min.
    Minimum,
    /// value = scale * (q - 128).
    Minus128,
    /// value = scale * (q - 32), with a scale for each half of a block.
    HalvesMinus32,
}

/// A kind of weights as a type, so that each has a kernel of its own.
pub(super) trait Stored {
    const KIND: Kind;
    const FORM: Form;
}

pub(super) struct Q8;
pub(super) struct Q4;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

impl Stored for Q8 {
    const KIND: Kind = Kind::Q8;
    const FORM: Form = Form::Minus128;
}

impl Stored for Q4 {
    const KIND: Kind = Kind::Q4;
    const FORM: Form = Form::Minimum;
}

impl Stored for Q4K {
    const KIND: Kind = Kind::Q4K;
    const FORM: Form = Form::Minimum;
}

impl Stored for Q5K {
    const KIND: Kind = Kind::Q5K;
    const FORM: Form = Form::Minimum;
}

impl Stored for Q6K {
    const KIND: Kind = Kind::Q6K;
    const FORM: Form = Form::HalvesMinus32;
}

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

/// Walks `$rows` in steps, the largest first, each as often as it fits: `$row` is the first row of the
/// step that `$call` takes.
macro_rules! in_steps {
    ($rows:ident, $row:ident, $($step:literal => $call:expr,)+) => {{
        let mut $row = $rows.start;
        $(
            while $rows.end - $row >= $step {
                $call;
                $row += $step;
            }
        )+
    }};
}

pub(super) use in_steps;
