//! A matrix of weights and its product with rows of activations.
//!
//! ```text
//! tiles (kernel)     quantised weights on a CPU with fast kernels: the only copy in memory
//! widened (kernel)   weights of half precision, Q4_1 and Q5_1 on a CPU: as stored, activations are not rounded
//! bf16 (kernel)      weights of the vision tower, which never meets few rows, on a CPU with AMX
//! candle, as stored  quantised weights elsewhere, other devices
//! candle, f32        f32 weights, and everything when `Precision::Expanded` is asked for
//! ```

use super::error::VlmError;
use super::gguf::Gguf;
use super::kernel::{Activations, Bf16, Bits, Packed, Panels, Shared, Widened};
use super::lora::{self, Adapted};
use super::ops::{with_slice, with_values};
use super::precision::Precision;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// `x W^T (+ b)`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Of the tensor, by which adapters know it.
    name: Arc<str>,
    weight: Weight,
    /// Columns of the matrix: values of a row of activations.
    inp: usize,
    pub bias: Option<Tensor>,
}

#[derive(Clone, Debug)]
enum Weight {
    Tiles(Arc<Packed>, Bits),
    Widened(Arc<Widened>),
    Bf16(Arc<Bf16>),
    Candle(QMatMul),
}

impl Linear {
    /// Reads `{name}.weight` of shape `[out, in]`.
    ///
    /// # Errors
    /// As [`Gguf::tensor`].
    pub fn load(gguf: &Gguf, name: &str, out: usize, inp: usize, device: &Device) -> Result<Self, VlmError> {
        let name = format!("{name}.weight");
        let bits = match gguf.precision {
            Precision::Eight => Some(Bits::Eight),
            Precision::Sixteen => Some(Bits::Sixteen),
            Precision::Expanded => None,
        };
        let weight = match bits.filter(|_| device.is_cpu()) {
            Some(bits) => Self::of_kernel(gguf, &name, (out, inp), bits)?,
            None => None,
        };
        let weight = match weight {
            Some(weight) => weight,
            None => {
                let weight = Arc::new(gguf.tensor(&name, &[out, inp], device)?);
                Weight::Candle(matmul(weight, gguf.precision)?)
            }
        };
        Ok(Self { name: name.into(), weight, inp, bias: None })
    }

    /// The matrix for one of the CPU's kernels, if one takes it.
    fn of_kernel(
        gguf: &Gguf,
        name: &str,
        (out, inp): (usize, usize),
        bits: Bits,
    ) -> Result<Option<Weight>, VlmError> {
        if let Some(weights) = gguf.widened(name, out, inp)? {
            return Ok(Some(Weight::Widened(Arc::new(weights))));
        }
        let tiles = if Packed::is_fast_here() { gguf.packed(name, out, inp)? } else { None };
        Ok(tiles.map(|tiles| Weight::Tiles(Arc::new(tiles), bits)))
    }

    /// Reads `{name}.weight` and `{name}.bias` of the vision tower, where every product has the rows of a picture: its
    /// kernel may be one that takes a row alone no faster than sixteen. It rounds activations, so that it serves only
    /// weights for which they are rounded elsewhere, too.
    ///
    /// # Errors
    /// As [`Gguf::tensor`].
    pub fn load_of_tower(
        gguf: &Gguf,
        name: &str,
        out: usize,
        inp: usize,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let bias = Some(vector(gguf, &format!("{name}.bias"), out, device)?);
        let tensor = format!("{name}.weight");
        let rounds = gguf.precision == Precision::Eight && gguf.has_tiles(&tensor, out, inp);
        if !rounds || !device.is_cpu() || !Bf16::is_fast_here() {
            return Ok(Self { bias, ..Self::load(gguf, name, out, inp, device)? });
        }
        let name = tensor;
        let weights = gguf.tensor(&name, &[out, inp], device)?.dequantize(device)?.to_dtype(DType::F32)?;
        let weight = with_slice(&weights, |weights| Ok(Bf16::pack(weights, out, inp)))?;
        Ok(Self { name: name.into(), weight: Weight::Bf16(Arc::new(weight)), inp, bias })
    }

    /// `x W^T` of `[rows, in]`, without the bias, which callers fuse into what follows.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut values = vec![];
        let columns = match &self.weight {
            Weight::Tiles(tiles, _) => {
                with_slice(x, |x| Self::multiply([self], x, &mut Activations::default(), [&mut values]))?;
                tiles.n
            }
            Weight::Widened(weight) => {
                with_slice(x, |x| {
                    weight.multiply(x, &mut values);
                    Ok(())
                })?;
                weight.n
            }
            Weight::Bf16(weight) => {
                with_slice(x, |x| {
                    weight.multiply(x, &mut Panels::default(), &mut values);
                    Ok(())
                })?;
                weight.columns()
            }
            Weight::Candle(_) => return self.candle(x),
        };
        Tensor::from_vec(values, (x.dim(0)?, columns), x.device())
    }

    /// As `forward`, with what adapters add.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_with(&self, x: &Tensor, adapted: &[Adapted]) -> candle_core::Result<Tensor> {
        lora::add_tensors(&self.name, adapted, x, self.forward(x)?)
    }

    fn candle(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.weight {
            Weight::Candle(weight) if rounds_a_lone_row_otherwise(x)? => {
                weight.forward(&Tensor::cat(&[x, x], 0)?)?.narrow(0, 0, 1)
            }
            Weight::Candle(weight) => weight.forward(x),
            Weight::Tiles(..) | Weight::Widened(_) | Weight::Bf16(_) => {
                candle_core::bail!("a kernel's weights are no tensor")
            }
        }
    }

    /// The products of the same rows of activations with several matrices, as values on the CPU in the place of
    /// what `out` holds. The activations are quantised once. Products with matrices in tiles allocate nothing once
    /// the buffers have grown.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn multiply<const N: usize>(
        layers: [&Self; N],
        x: &[f32],
        quantised: &mut Activations,
        out: [&mut Vec<f32>; N],
    ) -> candle_core::Result<()> {
        let k = layers[0].inp;
        if layers.iter().any(|l| l.inp != k) || !x.len().is_multiple_of(k) {
            candle_core::bail!("{} activations for matrices of {k} columns", x.len())
        }
        let tiles = layers.iter().filter_map(|l| match &l.weight {
            Weight::Tiles(tiles, bits) => Some((*bits, tiles.shared(*bits))),
            Weight::Widened(_) | Weight::Bf16(_) | Weight::Candle(_) => None,
        });
        // What one of them needs shared by superblocks serves all, in the order that all can read.
        if let Some((bits, shared)) = tiles.clone().max_by_key(|(_, shared)| *shared == Shared::Superblock) {
            if tiles.clone().all(|(_, of_one)| of_one == shared) {
                quantised.quantise(x, k, bits, shared);
            } else {
                quantised.quantise_for_all(x, k, bits, shared);
            }
        }
        for (layer, out) in layers.into_iter().zip(out) {
            match &layer.weight {
                Weight::Tiles(tiles, _) => tiles.multiply_all(quantised, out),
                Weight::Widened(weight) => weight.multiply(x, out),
                Weight::Bf16(weight) => weight.multiply(x, &mut Panels::default(), out),
                Weight::Candle(_) => {
                    let y = layer.candle(&Tensor::from_slice(x, (x.len() / k, k), &Device::Cpu)?)?;
                    out.clear();
                    with_values(&y.contiguous()?, |y| out.extend_from_slice(y))?;
                }
            }
        }
        Ok(())
    }

    /// As `multiply`, with what adapters add.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn multiply_with<const N: usize>(
        layers: [&Self; N],
        adapted: &[Adapted],
        x: &[f32],
        quantised: &mut Activations,
        mut out: [&mut Vec<f32>; N],
    ) -> candle_core::Result<()> {
        Self::multiply(layers, x, quantised, out.each_mut().map(|out| &mut **out))?;
        if !adapted.is_empty() {
            layers.iter().zip(out).for_each(|(layer, out)| lora::add(&layer.name, adapted, x, out));
        }
        Ok(())
    }

    /// Tiles of the matrix that `multiply_tiles` can choose from; 0 where it is not kept in tiles.
    pub fn tiles(&self) -> usize {
        match &self.weight {
            Weight::Tiles(tiles, _) => tiles.tiles(),
            Weight::Widened(weight) => weight.tiles(),
            Weight::Bf16(_) | Weight::Candle(_) => 0,
        }
    }

    /// As `multiply`, the columns of some tiles alone.
    ///
    /// # Errors
    /// When the shapes do not fit, or there are no tiles to choose from.
    pub fn multiply_tiles(
        &self,
        x: &[f32],
        tiles: &[usize],
        quantised: &mut Activations,
        out: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        match &self.weight {
            Weight::Tiles(weight, bits) if x.len().is_multiple_of(self.inp) => {
                quantised.quantise(x, self.inp, *bits, weight.shared(*bits));
                weight.multiply_tiles(quantised, tiles, out);
                Ok(())
            }
            Weight::Widened(weight) if x.len().is_multiple_of(self.inp) => {
                weight.multiply_tiles(x, tiles, out);
                Ok(())
            }
            _ => candle_core::bail!("{} activations for tiles of {} columns", x.len(), self.inp),
        }
    }

    /// Rows of the matrix as f32, `[ids, in]`: the embeddings of tokens.
    ///
    /// # Errors
    /// When an id lies outside.
    pub fn rows(&self, ids: &[u32], device: &Device) -> candle_core::Result<Tensor> {
        match &self.weight {
            Weight::Candle(weight) => weight.embedding(&Tensor::new(ids, device)?),
            Weight::Bf16(_) => candle_core::bail!("weights of the tower are no embeddings"),
            Weight::Tiles(..) | Weight::Widened(_) => {
                let mut out = vec![0f32; ids.len() * self.inp];
                self.put_rows(ids, &mut out)?;
                Tensor::from_vec(out, (ids.len(), self.inp), device)
            }
        }
    }

    /// As `rows`, as values on the CPU: all of `out`.
    ///
    /// # Errors
    /// When an id lies outside.
    pub fn put_rows(&self, ids: &[u32], out: &mut [f32]) -> candle_core::Result<()> {
        match &self.weight {
            Weight::Bf16(_) | Weight::Candle(_) => {
                with_values(&self.rows(ids, &Device::Cpu)?, |rows| out.copy_from_slice(rows))
            }
            Weight::Tiles(tiles, _) => self.each_row(ids, tiles.n, out, |id, row| tiles.row(id, row)),
            Weight::Widened(weight) => self.each_row(ids, weight.n, out, |id, row| weight.row(id, row)),
        }
    }

    /// Gives `put` the place of each row of a matrix of `n` rows.
    fn each_row(
        &self,
        ids: &[u32],
        n: usize,
        out: &mut [f32],
        put: impl Fn(usize, &mut [f32]) + Sync,
    ) -> candle_core::Result<()> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= n) {
            candle_core::bail!("row {id} of {n} of {}", self.name);
        }
        out.par_chunks_exact_mut(self.inp).zip(ids).for_each(|(row, id)| put(*id as usize, row));
        Ok(())
    }
}

/// True for a single row where candle's kernels round it otherwise than one among others, as those for Arm do: it is
/// multiplied as one of two, so that batching changes no answer.
fn rounds_a_lone_row_otherwise(x: &Tensor) -> candle_core::Result<bool> {
    Ok(cfg!(target_arch = "aarch64") && x.device().is_cpu() && x.dim(0)? == 1)
}

/// What no kernel takes stays as stored, so that such a model takes the memory of its file.
fn matmul(weight: Arc<QTensor>, precision: Precision) -> candle_core::Result<QMatMul> {
    if precision == Precision::Expanded || weight.dtype() == GgmlDType::F32 {
        return Ok(QMatMul::Tensor(weight.dequantize(&weight.device())?));
    }
    Ok(QMatMul::QTensor(weight))
}

/// Reads a vector of `len` values as f32.
///
/// # Errors
/// As [`Gguf::tensor`].
pub(super) fn vector(gguf: &Gguf, name: &str, len: usize, device: &Device) -> Result<Tensor, VlmError> {
    Ok(gguf.tensor(name, &[len], device)?.dequantize(device)?.to_dtype(DType::F32)?)
}
