//! Products in bfloat16, which this processor has no kernel for.

/// A matrix of weights: there is none.
#[derive(Debug)]
pub(crate) enum Bf16 {}

/// Rows of activations.
#[derive(Debug, Default)]
pub(crate) struct Panels;

impl Bf16 {
    /// False: the weights stay as they are.
    pub(crate) const fn is_fast_here() -> bool {
        false
    }

    /// Nobody calls it.
    pub(crate) fn pack(_weights: &[f32], _n: usize, _k: usize) -> Self {
        unreachable!("a processor without products in bfloat16")
    }

    /// Nobody has a matrix to call it with.
    pub(crate) fn multiply(&self, _x: &[f32], _room: &mut Panels, _values: &mut Vec<f32>) {
        match *self {}
    }

    /// As `multiply`.
    pub(crate) fn columns(&self) -> usize {
        match *self {}
    }
}
