//! Adapters: small matrices that are added to those of a pair when it is loaded.
//!
//! ```text
//! NAME.lora_a [r, in], NAME.lora_b [out, r]   W + B A * alpha / r      of the text model and, beyond llama.cpp, of v.*, mm.*
//! token_embd.weight: a [tokens, r], b [hidden, r]   W + A B^T * alpha / r
//! ```
//!
//! The form is llama.cpp's (`llama-adapter.cpp`, `convert_lora_to_gguf.py`): `general.type = adapter`,
//! `adapter.type = lora`, `adapter.lora.alpha`; the rank is `b.ne[0]`, and with an alpha of 0 the scale is 1. A sum is
//! stored in the type of its matrix; where that has fewer than 8 bits in `Q8_0`, which keeps what was added.
//!
//! Invariant: an adapter is applied whole. What has a tensor that is not applied is refused by its name: a model that
//! answers as half of what it was trained to would be no model that anybody measured.

use super::error::VlmError;
use super::gguf::{Gguf, Value};
use super::load::{sha256, stated_labels};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Keys of an adapter's file.
pub const KIND_KEY: &str = "adapter.type";
/// The scale is this over the rank.
pub const ALPHA_KEY: &str = "adapter.lora.alpha";
/// sha256 of the text and the vision file that it was trained for; adapters made elsewhere state none.
pub const BASE_KEYS: [&str; 2] = ["inspectd.base.text_sha256", "inspectd.base.mmproj_sha256"];
/// Activated by words of the prompt: the text model would have to run in two ways.
const ACTIVATED_KEY: &str = "adapter.alora.invocation_tokens";
const HALVES: [&str; 2] = [".lora_a", ".lora_b"];
/// Its matrices are flipped: rows are looked up before they are multiplied.
const EMBEDDING: &str = "token_embd.weight";
/// Largest rank that is accepted.
const RANK_MAX: usize = 4096;

/// An opened adapter, which fits the pair that it was opened for.
#[derive(Debug)]
pub struct Adapter {
    gguf: Gguf,
    alpha: f64,
    /// Of the file, in hex.
    pub sha256: String,
    /// The labels that it was trained with; empty: those of the pair.
    pub labels: Vec<String>,
    /// The matrices that it changes, with the ranks.
    ranks: BTreeMap<String, usize>,
}

impl Adapter {
    /// Opens an adapter for a pair, whose files have these hashes.
    ///
    /// # Errors
    /// `Model` naming the key or the tensor that does not fit; `Io`.
    pub fn open(path: &Path, text: &Gguf, mmproj: &Gguf, hashes: [&str; 2]) -> Result<Self, VlmError> {
        let gguf = Gguf::open(path)?;
        for (key, expected) in
            [("general.type", "adapter"), (KIND_KEY, "lora"), ("general.architecture", "qwen3vl")]
        {
            let found = gguf.text(key)?;
            if found != expected {
                return Err(
                    gguf.error(format!("key {key}"), format!("{expected:?} expected, found {found:?}"))
                );
            }
        }
        if matches!(gguf.metadata.get(ACTIVATED_KEY), Some(Value::List(words)) if !words.is_empty()) {
            let why = "an adapter that words of the prompt activate (aLoRA) is not supported";
            return Err(gguf.error(format!("key {ACTIVATED_KEY}"), why));
        }
        for ((key, expected), file) in BASE_KEYS.iter().zip(hashes).zip([text, mmproj]) {
            if gguf.metadata.contains_key(*key) && gguf.text(key)? != expected {
                let why = format!(
                    "the adapter was trained for another {}: its sha256 is {expected}",
                    file.path().display()
                );
                return Err(gguf.error(format!("key {key}"), why));
            }
        }
        let alpha = gguf.float(ALPHA_KEY)?;
        let labels = stated_labels(&gguf)?;
        let mut adapter = Self { alpha, sha256: sha256(path)?, labels, ranks: BTreeMap::new(), gguf };
        adapter.ranks = adapter.fitting(text, mmproj)?;
        Ok(adapter)
    }

    /// The ranks of all matrices, each of which has both halves and a base that they fit.
    fn fitting(&self, text: &Gguf, mmproj: &Gguf) -> Result<BTreeMap<String, usize>, VlmError> {
        let mut ranks = BTreeMap::new();
        let mut names: Vec<&String> = self.gguf.tensors.keys().collect();
        names.sort();
        for name in names {
            let bad = |why: &str| self.gguf.error(format!("tensor {name}"), why);
            let Some((base, other)) = halves(name) else {
                return Err(bad(
                    "is no half of a LoRA matrix (NAME.lora_a, NAME.lora_b), and would not be applied",
                ));
            };
            let Some(found) = text.tensors.get(base).or_else(|| mmproj.tensors.get(base)) else {
                return Err(bad("the pair has no such tensor, so that it would not be applied"));
            };
            let [out, inp] = found.shape[..] else {
                return Err(bad("only matrices are applied, and that of the pair is none"));
            };
            let shape = |name: &str| self.gguf.tensors.get(name).map(|t| t.shape.clone());
            let (Some(a), Some(b)) =
                (shape(&format!("{base}{}", HALVES[0])), shape(&format!("{base}{}", HALVES[1])))
            else {
                return Err(bad(&format!("{other} is missing")));
            };
            let rank = b.get(1).copied().unwrap_or(0);
            let expected = if base == EMBEDDING {
                [vec![out, rank], vec![inp, rank]]
            } else {
                [vec![rank, inp], vec![out, rank]]
            };
            if rank == 0 || rank > RANK_MAX || [&a, &b] != [&expected[0], &expected[1]] {
                let why =
                    format!("halves of {a:?} and {b:?} do not fit {out} x {inp}: it is of another model");
                return Err(bad(&why));
            }
            ranks.insert(base.to_owned(), rank);
        }
        if ranks.is_empty() {
            return Err(self.gguf.error("tensors", "there is none"));
        }
        Ok(ranks)
    }

    /// Its file's name, without the extensions.
    pub fn name(&self) -> String {
        let name =
            self.gguf.path().file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        name.split('.').next().unwrap_or_default().to_owned()
    }

    /// The identity of a file with what is added to it: of both hashes in hex, with a line break between them. That of a
    /// file to which nothing is added stays its own.
    pub fn identity(&self, file: &Gguf, sha256: &str) -> String {
        if !file.tensors.keys().any(|name| self.ranks.contains_key(name)) {
            return sha256.to_owned();
        }
        let both = Sha256::digest(format!("{sha256}\n{}", self.sha256));
        both.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A matrix with what is added, in the type in which it is kept; `None`: nothing is added.
    ///
    /// # Errors
    /// `Io`, and as candle.
    pub(super) fn applied(
        &self,
        name: &str,
        base: &QTensor,
    ) -> Result<Option<(GgmlDType, Vec<u8>)>, VlmError> {
        let Some(&rank) = self.ranks.get(name) else { return Ok(None) };
        let device = Device::Cpu;
        let half = |half: &str| -> Result<Tensor, VlmError> {
            let name = format!("{name}{half}");
            let shape = &self.gguf.tensors[&name].shape;
            Ok(self.gguf.tensor(&name, shape, &device)?.dequantize(&device)?.to_dtype(DType::F32)?)
        };
        let (a, b) = (half(HALVES[0])?, half(HALVES[1])?);
        let product = if name == EMBEDDING { a.matmul(&b.t()?)? } else { b.matmul(&a)? };
        let scale = if self.alpha == 0.0 { 1.0 } else { self.alpha / rank as f64 };
        let sum = (base.dequantize(&device)?.to_dtype(DType::F32)? + (product * scale)?)?;
        let dtype = kept_as(base.dtype(), sum.dim(1)?);
        Ok(Some((dtype, QTensor::quantize(&sum, dtype)?.data()?.into_owned())))
    }
}

/// The base's name, and the other half's.
fn halves(name: &str) -> Option<(&str, String)> {
    HALVES.iter().enumerate().find_map(|(i, half)| {
        let base = name.strip_suffix(half)?;
        Some((base, format!("{base}{}", HALVES[1 - i])))
    })
}

/// The type of a sum.
const fn kept_as(base: GgmlDType, inp: usize) -> GgmlDType {
    match base {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_0 => base,
        _ if inp.is_multiple_of(32) => GgmlDType::Q8_0,
        _ => GgmlDType::F16,
    }
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
