//! A matrix of weights and its product with rows of activations.
//!
//!     tiles (kernel)     quantised weights on a CPU with fast kernels: the only copy in memory
//!     candle, as stored  quantised weights elsewhere, half precision, other devices
//!     candle, f32        f32 weights, and everything when `Precision::Expanded` is asked for

use super::error::VlmError;
use super::gguf::Gguf;
use super::kernel::{Activations, Bits, Packed, Shared};
use super::ops::with_slice;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

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

/// `x W^T (+ b)`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    pub bias: Option<Tensor>,
}

#[derive(Clone, Debug)]
enum Weight {
    Tiles(Arc<Packed>, Bits),
    Candle(QMatMul),
}

impl Linear {
    /// Reads `{name}.weight` of shape `[out, in]`.
    ///
    /// # Errors
    /// As `Gguf::tensor`.
    pub fn load(gguf: &Gguf, name: &str, out: usize, inp: usize, device: &Device) -> Result<Self, VlmError> {
        let name = format!("{name}.weight");
        let bits = match gguf.precision {
            Precision::Eight => Some(Bits::Eight),
            Precision::Sixteen => Some(Bits::Sixteen),
            Precision::Expanded => None,
        };
        if let Some(bits) = bits.filter(|_| device.is_cpu() && Packed::is_fast_here()) {
            if let Some(tiles) = gguf.packed(&name, out, inp)? {
                return Ok(Self { weight: Weight::Tiles(Arc::new(tiles), bits), bias: None });
            }
        }
        let weight = Arc::new(gguf.tensor(&name, &[out, inp], device)?);
        Ok(Self { weight: Weight::Candle(matmul(weight, gguf.precision)?), bias: None })
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

    /// `x W^T` of `[rows, in]`, without the bias, which callers fuse into what follows.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [y] = Self::forward_all([self], x)?;
        Ok(y)
    }

    /// The products of the same activations with several matrices: they are quantised once.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_all<const N: usize>(layers: [&Self; N], x: &Tensor) -> candle_core::Result<[Tensor; N]> {
        let (rows, k) = x.dims2()?;
        let tiles = layers.iter().filter_map(|l| match &l.weight {
            Weight::Tiles(tiles, bits) => Some((*bits, tiles.shared(*bits))),
            Weight::Candle(_) => None,
        });
        // What one of them needs shared by superblocks serves all.
        let how = tiles.max_by_key(|(_, shared)| *shared == Shared::Superblock);
        let quantise = |(bits, shared)| with_slice(x, |x| Ok(Activations::quantise(x, k, bits, shared)));
        let quantised = how.map(quantise).transpose()?;
        let mut out = Vec::with_capacity(N);
        for layer in layers {
            out.push(match (&layer.weight, &quantised) {
                (Weight::Tiles(tiles, _), Some(_)) if tiles.k != k => {
                    candle_core::bail!("activations of {k} values for {tiles:?}")
                }
                (Weight::Tiles(tiles, _), Some(a)) => {
                    Tensor::from_vec(tiles.multiply_all(a), (rows, tiles.n), x.device())?
                }
                (Weight::Candle(weight), _) => weight.forward(x)?,
                (Weight::Tiles(..), None) => candle_core::bail!("tiles without activations"),
            });
        }
        out.try_into().map_err(|_| candle_core::Error::Msg("one product a layer".into()))
    }

    /// Tiles of the matrix that `values` can choose from; 0 where it is not kept in tiles.
    pub fn tiles(&self) -> usize {
        match &self.weight {
            Weight::Tiles(tiles, _) => tiles.tiles(),
            Weight::Candle(_) => 0,
        }
    }

    /// As `forward`, as plain values, row after row: all columns, or those of some tiles.
    ///
    /// # Errors
    /// When the shapes do not fit, or there are no tiles to choose from.
    pub fn values(&self, x: &Tensor, tiles: Option<&[usize]>) -> candle_core::Result<Vec<f32>> {
        match (&self.weight, tiles) {
            (Weight::Candle(weight), None) => weight.forward(x)?.flatten_all()?.to_vec1(),
            (Weight::Candle(_), Some(_)) => candle_core::bail!("no tiles to choose from"),
            (Weight::Tiles(weight, bits), tiles) => {
                let (_, k) = x.dims2()?;
                if k != weight.k {
                    candle_core::bail!("activations of {k} values for {weight:?}")
                }
                let x = with_slice(x, |x| Ok(Activations::quantise(x, k, *bits, weight.shared(*bits))))?;
                Ok(tiles.map_or_else(|| weight.multiply_all(&x), |tiles| weight.multiply_tiles(&x, tiles)))
            }
        }
    }

    /// Rows of the matrix as f32, `[ids, in]`: the embeddings of tokens.
    ///
    /// # Errors
    /// When an id lies outside.
    pub fn rows(&self, ids: &[u32], device: &Device) -> candle_core::Result<Tensor> {
        match &self.weight {
            Weight::Candle(weight) => weight.embedding(&Tensor::new(ids, device)?),
            Weight::Tiles(tiles, _) => {
                if let Some(id) = ids.iter().find(|id| **id as usize >= tiles.n) {
                    candle_core::bail!("row {id} of {tiles:?}");
                }
                let mut out = vec![0f32; ids.len() * tiles.k];
                out.par_chunks_mut(tiles.k).zip(ids).for_each(|(row, id)| tiles.row(*id as usize, row));
                Tensor::from_vec(out, (ids.len(), tiles.k), device)
            }
        }
    }
}

/// Weights of half precision stay as stored, so that such a model takes the memory of its file.
fn matmul(weight: Arc<QTensor>, precision: Precision) -> candle_core::Result<QMatMul> {
    if precision == Precision::Expanded || weight.dtype() == GgmlDType::F32 {
        return Ok(QMatMul::Tensor(weight.dequantize(&weight.device())?));
    }
    Ok(QMatMul::QTensor(weight))
}

/// Reads a vector of `len` values as f32.
///
/// # Errors
/// As `Gguf::tensor`.
pub fn vector(gguf: &Gguf, name: &str, len: usize, device: &Device) -> Result<Tensor, VlmError> {
    Ok(gguf.tensor(name, &[len], device)?.dequantize(device)?.to_dtype(DType::F32)?)
}
