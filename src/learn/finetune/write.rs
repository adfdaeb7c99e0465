//! What comes of fine-tuning: a new pair, or an adapter.
//!
//! ```text
//! Whole  every tensor in the type that it has in the source, with the source's metadata -> P.gguf, mmproj-P.gguf
//! Low    A and B of each matrix in f32, as llama.cpp's convert_lora_to_gguf.py lays them -> P.adapter.gguf
//! ```
//!
//! A new pair states no proof: it answers the source's pictures otherwise. Tensors of the tower stand in the adapter
//! under their own names; llama.cpp knows no such adapters, and refuses them.

use super::checkpoint::replace;
use super::weights::{HELPERS, Pair, Weights};
use crate::learn::LearnError;
use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};
use std::io;
use std::path::{Path, PathBuf};
use vlm::VlmError;
use vlm::adapter::{ALPHA_KEY, BASE_KEYS, KIND_KEY};
use vlm::ggml::GgmlType;
use vlm::gguf::{Gguf, TensorInfo, Value};
use vlm::load::{LABELS_KEY, PROOF_KEY};
use vlm::synth::write::{NewFile, NewTensor};

/// What the new model is called, and which labels it states.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    /// Of the pipeline.
    pub pipeline: &'a str,
    /// Empty: the source states none, nor does what is made of it.
    pub labels: &'a [String],
    /// sha256 of the source's files.
    pub base: [&'a str; 2],
}

/// Writes a pair; its paths come back, that of the text file first.
///
/// # Errors
/// The folder or the disk does not take it.
pub(super) fn pair(
    dir: &Path,
    pair: &Pair,
    weights: &Weights,
    named: Named<'_>,
) -> Result<[PathBuf; 2], LearnError> {
    let paths =
        [dir.join(format!("{}.gguf", named.pipeline)), dir.join(format!("mmproj-{}.gguf", named.pipeline))];
    // A new text file beside a former vision file would be a pair that nobody trained.
    match std::fs::remove_file(&paths[1]) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(LearnError::Io { path: paths[1].clone(), source });
        }
        _ => {}
    }
    file(&paths[0], &pair.text, weights, Some(named))?;
    file(&paths[1], &pair.mmproj, weights, None)?;
    Ok(paths)
}

fn file(path: &Path, source: &Gguf, weights: &Weights, named: Option<Named<'_>>) -> Result<(), LearnError> {
    let left_out = |key: &str| [PROOF_KEY, "general.alignment"].contains(&key);
    let mut metadata = source.metadata.clone();
    metadata.retain(|key, _| !left_out(key));
    if let Some(named) = named {
        let name = source.text("general.name").unwrap_or("model").to_owned();
        metadata.insert("general.name".into(), Value::Text(format!("{name}-{}", named.pipeline)));
        if !named.labels.is_empty() {
            metadata.insert(LABELS_KEY.into(), texts(named.labels));
        }
    }
    let tensors = source.in_order();
    let tensor = |(name, info): &(&String, &TensorInfo)| NewTensor {
        name: (*name).clone(),
        shape: info.shape.clone(),
        dtype: if weights.trained.contains_key(*name) { written_as(info).into() } else { info.dtype },
    };
    let new =
        NewFile { metadata: metadata.into_iter().collect(), tensors: tensors.iter().map(tensor).collect() };
    let bytes = |i: usize| -> Result<Vec<u8>, VlmError> {
        let (name, info) = tensors[i];
        match weights.trained.get(name) {
            Some(trained) => {
                let tensor = trained.var.as_tensor().reshape(info.shape.as_slice())?;
                Ok(QTensor::quantize(&tensor, written_as(info))?.data()?.into_owned())
            }
            None => source.bytes(name),
        }
    };
    save(path, &new, bytes)
}

/// The type in which a trained tensor is written: that which it has; of those that cannot be made here the smallest that
/// keeps what was learnt.
fn written_as(info: &TensorInfo) -> GgmlDType {
    let rows_of = info.shape.last().copied().unwrap_or(0);
    let other =
        if rows_of.is_multiple_of(GgmlDType::Q8_0.block_size()) { GgmlDType::Q8_0 } else { GgmlDType::F16 };
    info.dtype.candle().unwrap_or(other)
}

/// Writes a file whose tensors are made one at a time.
fn save(
    path: &Path,
    new: &NewFile,
    bytes: impl Fn(usize) -> Result<Vec<u8>, VlmError>,
) -> Result<(), LearnError> {
    replace(path, |file| {
        new.write_to(file, |i, out| {
            let bytes = bytes(i).map_err(|e| io::Error::other(e.to_string()))?;
            out.write_all(&bytes)
        })
    })
    .map_err(|source| LearnError::Io { path: path.into(), source })
}

/// Writes an adapter; its path comes back.
///
/// # Errors
/// The folder or the disk does not take it.
pub(super) fn adapter(
    dir: &Path,
    rank: usize,
    weights: &Weights,
    named: Named<'_>,
) -> Result<PathBuf, LearnError> {
    let path = dir.join(format!("{}.adapter.gguf", named.pipeline));
    let text = |s: &str| Value::Text(s.to_owned());
    let mut metadata = vec![
        ("general.type".to_owned(), text("adapter")),
        ("general.architecture".to_owned(), text("qwen3vl")),
        ("general.name".to_owned(), text(named.pipeline)),
        (KIND_KEY.to_owned(), text("lora")),
        (ALPHA_KEY.to_owned(), Value::Float(rank as f64)),
    ];
    metadata.extend(BASE_KEYS.iter().zip(named.base).map(|(key, hash)| ((*key).to_owned(), text(hash))));
    if !named.labels.is_empty() {
        metadata.push((LABELS_KEY.to_owned(), texts(named.labels)));
    }
    let trained: Vec<(&String, &Tensor)> = weights
        .trained
        .iter()
        .filter(|(name, _)| !name.starts_with(HELPERS))
        .map(|(name, trained)| (name, trained.var.as_tensor()))
        .collect();
    let tensor = |(name, tensor): &(&String, &Tensor)| NewTensor {
        name: (*name).clone(),
        shape: tensor.dims().to_vec(),
        dtype: GgmlType::F32,
    };
    let new = NewFile { metadata, tensors: trained.iter().map(tensor).collect() };
    let bytes = |i: usize| -> Result<Vec<u8>, VlmError> {
        let values: Vec<f32> = trained[i].1.flatten_all()?.to_vec1()?;
        Ok(bytemuck::cast_slice(&values).to_vec())
    };
    save(&path, &new, bytes)?;
    Ok(path)
}

fn texts(words: &[String]) -> Value {
    Value::List(words.iter().map(|word| Value::Text(word.clone())).collect())
}
