//! What the kernels of every processor share: the kinds of weights, and the walk over rows.

use super::layout::Kind;

/// How values come of the unsigned q.
#[derive(PartialEq)]
pub(super) enum Form {
    /// value = scale * q - min.
    Minimum,
    /// value = scale * (q - 128).
    Minus128,
    /// value = scale * (q - what it is too large by), with a scale for each half of a block.
    Halves,
}

/// A kind of weights as a type, so that each has a kernel of its own.
pub(super) trait Stored {
    const KIND: Kind;
    const FORM: Form;
    /// What q is too large by, of [`Form::Halves`]. Where weights are signed nothing is.
    #[cfg(target_arch = "x86_64")]
    const OVER: i32 = 32;
}

pub(super) struct Q8;
pub(super) struct Q4;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct S8;

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
    const FORM: Form = Form::Halves;
}

impl Stored for S8 {
    const KIND: Kind = Kind::S8;
    const FORM: Form = Form::Halves;
    #[cfg(target_arch = "x86_64")]
    const OVER: i32 = 128;
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
