//! A matrix of weights, as the file stores it, and its product with rows of activations.

use super::error::VlmError;
use super::gguf::Gguf;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use std::sync::Arc;

/// `x W^T (+ b)`, with quantised weights kept quantised.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: QMatMul,
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Reads `{name}.weight` of shape `[out, in]`.
    ///
    /// # Errors
    /// As `Gguf::tensor`.
    pub fn load(gguf: &Gguf, name: &str, out: usize, inp: usize, device: &Device) -> Result<Self, VlmError> {
        let weight = gguf.tensor(&format!("{name}.weight"), &[out, inp], device)?;
        Ok(Self { weight: matmul(Arc::new(weight), gguf.precision)?, bias: None })
    }

    /// Reads `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// As `Gguf::tensor`.
    pub fn load_with_bias(
        gguf: &Gguf,
        name: &str,
        out: usize,
        inp: usize,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let bias = vector(gguf, &format!("{name}.bias"), out, device)?;
        Ok(Self { bias: Some(bias), ..Self::load(gguf, name, out, inp, device)? })
    }

    /// A matrix that is shared with another use, such as the tied embedding.
    ///
    /// # Errors
    /// When candle cannot expand an f32 tensor.
    pub fn shared(weight: Arc<QTensor>, precision: Precision) -> Result<Self, VlmError> {
        Ok(Self { weight: matmul(weight, precision)?, bias: None })
    }

    /// `x W^T` of `[rows, in]`, without the bias, which callers fuse into what follows.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.weight.forward(x)
    }
}

/// How matrices are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Weights as stored; candle rounds the activations to the weights' own kind of blocks.
    #[default]
    Stored,
    /// Weights expanded to f32 and multiplied in f32: four times the memory of Q8_0, no rounding.
    Expanded,
}

/// A model whose files are smaller than this is expanded. Large models hardly feel the rounding of
/// activations. The shipped small one does: with it 114 of its 128 example answers are the
/// reference's word for word, without it all 128; and candle has no fast kernel for its depths,
/// which are not multiples of 256.
const EXPAND_BELOW_BYTES: u64 = 64 << 20;

impl Precision {
    /// What serves a pair of files best.
    pub const fn of_files(bytes: u64) -> Self {
        if bytes < EXPAND_BELOW_BYTES {
            Self::Expanded
        } else {
            Self::Stored
        }
    }
}

/// Weights of half precision stay as stored too, so that such a model takes the memory of its file.
fn matmul(weight: Arc<QTensor>, precision: Precision) -> candle_core::Result<QMatMul> {
    let f32_weight = || weight.dequantize(&weight.device());
    match (precision, weight.dtype()) {
        (Precision::Expanded, _) | (_, GgmlDType::F32) => Ok(QMatMul::Tensor(f32_weight()?)),
        (Precision::Stored, _) => Ok(QMatMul::QTensor(weight)),
    }
}

/// Reads a vector of `len` values as f32.
///
/// # Errors
/// As `Gguf::tensor`.
pub fn vector(gguf: &Gguf, name: &str, len: usize, device: &Device) -> Result<Tensor, VlmError> {
    Ok(gguf.tensor(name, &[len], device)?.dequantize(device)?.to_dtype(DType::F32)?)
}
