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
        Ok(Self { weight: matmul(Arc::new(weight))?, bias: None })
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
    pub fn shared(weight: Arc<QTensor>) -> Result<Self, VlmError> {
        Ok(Self { weight: matmul(weight)?, bias: None })
    }

    /// `x W^T` of `[rows, in]`, without the bias, which callers fuse into what follows.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.weight.forward(x)
    }
}

/// f32 weights are multiplied in f32; every other kind stays as stored, so that a half-precision
/// model takes the memory of its file.
fn matmul(weight: Arc<QTensor>) -> candle_core::Result<QMatMul> {
    match weight.dtype() {
        GgmlDType::F32 => QMatMul::from_arc(weight),
        _ => Ok(QMatMul::QTensor(weight)),
    }
}

/// Reads a vector of `len` values as f32.
///
/// # Errors
/// As `Gguf::tensor`.
pub fn vector(gguf: &Gguf, name: &str, len: usize, device: &Device) -> Result<Tensor, VlmError> {
    Ok(gguf.tensor(name, &[len], device)?.dequantize(device)?.to_dtype(DType::F32)?)
}
