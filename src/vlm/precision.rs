//! How exactly a model is multiplied, and what serves which.

use super::kernel::Packed;
use candle_core::Device;

/// How exactly activations are multiplied with quantised weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Activations in 8 bits, as llama.cpp and candle do.
    #[default]
    Eight,
    /// Activations in 16 bits: the rounding vanishes, at up to half the speed.
    Sixteen,
    /// Weights expanded to f32: the reference, and the fallback where a model needs 16 bits and the
    /// processor has no kernel for them.
    Expanded,
}

/// A model whose files are smaller than this is multiplied in 16 bits. Large models hardly feel the
/// rounding of activations. The shipped small one does: with 8 bits 114 of its 128 example answers
/// are the reference's word for word, without rounding all 128.
const SIXTEEN_BELOW_BYTES: u64 = 64 << 20;

impl Precision {
    /// What serves a pair of files of so many bytes best on a device.
    pub fn of_files(bytes: u64, device: &Device) -> Self {
        match bytes < SIXTEEN_BELOW_BYTES {
            true if device.is_cpu() && Packed::is_fast_here() => Self::Sixteen,
            true => Self::Expanded,
            false => Self::Eight,
        }
    }
}
