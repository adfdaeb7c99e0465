//! Adapters: small matrices that are added to those of a pair when it is loaded, or beside them for some jobs (`lora`).
//!
//! ```text
//! NAME.lora_a [r, in], NAME.lora_b [out, r]   W + B A * alpha / r      of the text model and, beyond llama.cpp, of v.*, mm.*
//! token_embd.weight: a [tokens, r], b [hidden, r]   W + A B^T * alpha / r
//!
//! file --headed--> keys and halves are sound --fit--> each matrix of it is one of the pair
//! ```
//!
//! The form is llama.cpp's (`llama-adapter.cpp`, `convert_lora_to_gguf.py`): `general.type = adapter`,
//! `adapter.type = lora`, `adapter.lora.alpha`; the rank is `b.ne[0]`, and with an alpha of 0 the scale is 1. A sum is
//! stored in the type of its matrix; where that has fewer than 8 bits in `Q8_0`, which keeps what was added.
//!
//! Invariant: an adapter is applied whole. What has a tensor that is not applied is refused by its name: a model that
//! answers as half of what it was trained to would be no model that anybody measured.

use super::error::VlmError;
use super::gguf::{Gguf, Value, hex};
use super::load::stated_labels;
use super::lora::{Term, Terms};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of an adapter's file.
pub const KIND_KEY: &str = "adapter.type";
/// The scale is this over the rank.
pub const ALPHA_KEY: &str = "adapter.lora.alpha";
/// sha256 of the text and the vision file that it was trained for; adapters made elsewhere state none.
pub const BASE_KEYS: [&str; 2] = ["inspectd.base.text_sha256", "inspectd.base.mmproj_sha256"];
/// Activated by words of the prompt: the text model would have to run in two ways.
const ACTIVATED_KEY: &str = "adapter.alora.invocation_tokens";
/// What the names of a matrix's two halves end with.
pub(crate) const HALVES: [&str; 2] = [".lora_a", ".lora_b"];
/// Its matrices are flipped: rows are looked up before they are multiplied.
const EMBEDDING: &str = "token_embd.weight";
/// Rows are looked up in them, or they are the output head: nothing is added beside these.
const MERGED_ONLY: [&str; 3] = [EMBEDDING, "output.weight", "v.position_embd.weight"];
/// Largest rank that is accepted.
const RANK_MAX: usize = 4096;

/// What an adapter must fit: a pair.
#[derive(Clone, Debug)]
pub struct Base {
    /// Of both files.
    shapes: HashMap<String, Vec<usize>>,
    /// The files, text first.
    files: [PathBuf; 2],
    /// Of the files, in hex.
    sha256: [String; 2],
    /// An adapter is merged into it.
    is_merged: bool,
}

impl Base {
    /// The pair of these files, whose hashes these are.
    pub fn of(text: &Gguf, mmproj: &Gguf, hashes: [&str; 2]) -> Self {
        let shapes = text.tensors.iter().chain(&mmproj.tensors);
        Self {
            shapes: shapes.map(|(name, info)| (name.clone(), info.shape.clone())).collect(),
            files: [text.path().to_owned(), mmproj.path().to_owned()],
            sha256: hashes.map(str::to_owned),
            is_merged: text.adapter.is_some() || mmproj.adapter.is_some(),
        }
    }
}

/// The bytes of an adapter that a job is answered with.
#[derive(Clone)]
pub struct AdapterFile {
    /// Names it in messages.
    pub name: Arc<str>,
    /// Of the bytes, in hex.
    pub sha256: Arc<str>,
    /// The whole file.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for AdapterFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterFile")
            .field("name", &self.name)
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

/// An opened adapter.
#[derive(Debug)]
pub struct Adapter {
    gguf: Gguf,
    alpha: f64,
    /// Of the file, in hex.
    pub sha256: String,
    /// The labels that it was trained with; empty: those of the pair.
    pub labels: Vec<String>,
    /// The matrices that it changes, with the ranks; empty before it was held to a pair.
    ranks: BTreeMap<String, usize>,
}

impl Adapter {
    /// Opens an adapter for a pair, whose files have these hashes.
    ///
    /// # Errors
    /// `Model` naming the key or the tensor that does not fit; `Io`.
    pub fn open(path: &Path, text: &Gguf, mmproj: &Gguf, hashes: [&str; 2]) -> Result<Self, VlmError> {
        let gguf = Gguf::open(path)?;
        let sha256 = gguf.sha256()?;
        Self::headed(gguf, sha256)?.fit(&Base::of(text, mmproj, hashes))
    }

    /// An adapter whose bytes are here, for whichever pair; `name` and the hash are its file's.
    ///
    /// # Errors
    /// `Model` naming the key or the tensor that is not sound.
    pub fn read(file: &AdapterFile) -> Result<Self, VlmError> {
        let gguf = Gguf::of_bytes(Path::new(&*file.name), Arc::clone(&file.bytes))?;
        Self::headed(gguf, file.sha256.to_string())
    }

    /// What its keys say, and that all of its tensors are halves of matrices.
    fn headed(gguf: Gguf, sha256: String) -> Result<Self, VlmError> {
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
        let alpha = gguf.float(ALPHA_KEY)?;
        let labels = stated_labels(&gguf)?;
        if gguf.tensors.is_empty() {
            return Err(gguf.error("tensors", "there is none"));
        }
        let mut names: Vec<&String> = gguf.tensors.keys().collect();
        names.sort();
        if let Some(name) = names.into_iter().find(|name| halves(name).is_none()) {
            let why = "is no half of a LoRA matrix (NAME.lora_a, NAME.lora_b), and would not be applied";
            return Err(gguf.error(format!("tensor {name}"), why));
        }
        Ok(Self { alpha, sha256, labels, ranks: BTreeMap::new(), gguf })
    }

    /// Holds it to a pair.
    ///
    /// # Errors
    /// `Model` naming the key or the tensor that does not fit.
    pub fn fit(mut self, base: &Base) -> Result<Self, VlmError> {
        for ((key, expected), file) in BASE_KEYS.iter().zip(&base.sha256).zip(&base.files) {
            if self.gguf.metadata.contains_key(*key) && self.gguf.text(key)? != expected {
                let why = format!(
                    "the adapter was trained for another {}: its sha256 is {expected}",
                    file.display()
                );
                return Err(self.gguf.error(format!("key {key}"), why));
            }
        }
        self.ranks = self.fitting(base)?;
        Ok(self)
    }

    /// As `fit`, for one that is applied beside the matrices, which are the pair's alone.
    ///
    /// # Errors
    /// As `fit`; also when another adapter is merged into the pair, or it changes what rows are looked up in.
    pub fn fit_beside(self, base: &Base) -> Result<Self, VlmError> {
        if base.is_merged {
            let why = "[model] adapter is merged into the pair already, and both together are no model that was trained";
            return Err(self.gguf.error("pair", why));
        }
        let whole = self.gguf.tensors.keys().filter_map(|name| Some(halves(name)?.0));
        if let Some(name) = whole.into_iter().find(|name| MERGED_ONLY.contains(name)) {
            let why = "is changed only where the adapter is merged at load: name it as [model] adapter";
            return Err(self.gguf.error(format!("tensor {name}"), why));
        }
        self.fit(base)
    }

    /// Whether it changes the text model, and the tower.
    pub fn changes(&self) -> [bool; 2] {
        let is_tower = |name: &String| ["v.", "mm."].iter().any(|start| name.starts_with(start));
        let names = || self.gguf.tensors.keys();
        [names().any(|name| !is_tower(name)), names().any(is_tower)]
    }

    /// Bytes that its matrices take beside those of the pair.
    pub fn beside_bytes(&self) -> u64 {
        let values = |shape: &Vec<usize>| shape.iter().product::<usize>() as u64;
        self.gguf.tensors.values().map(|info| values(&info.shape) * size_of::<f32>() as u64).sum()
    }

    /// The ranks of all matrices, each of which has both halves and a base that they fit.
    fn fitting(&self, pair: &Base) -> Result<BTreeMap<String, usize>, VlmError> {
        let mut ranks = BTreeMap::new();
        let mut names: Vec<&String> = self.gguf.tensors.keys().collect();
        names.sort();
        for name in names {
            let bad = |why: &str| self.gguf.error(format!("tensor {name}"), why);
            let Some((base, other)) = halves(name) else { continue };
            let Some(found) = pair.shapes.get(base) else {
                return Err(bad("the pair has no such tensor, so that it would not be applied"));
            };
            let [out, inp] = found[..] else {
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
        Ok(ranks)
    }

    /// The terms that it adds beside the matrices of its pair, in f32.
    ///
    /// # Errors
    /// `Io`, and as candle.
    pub fn terms(&self, device: &Device) -> Result<Terms, VlmError> {
        let term = |(name, rank): (&String, &usize)| -> Result<(String, Term), VlmError> {
            let [a, b] = [self.half(name, HALVES[0])?, self.half(name, HALVES[1])?];
            Ok((name.clone(), Term::new(&a, &(b * self.scale(*rank))?, device)?))
        };
        Ok(Terms::new(self.ranks.iter().map(term).collect::<Result<_, _>>()?))
    }

    const fn scale(&self, rank: usize) -> f64 {
        if self.alpha == 0.0 { 1.0 } else { self.alpha / rank as f64 }
    }

    fn half(&self, name: &str, half: &str) -> Result<Tensor, VlmError> {
        let (name, device) = (format!("{name}{half}"), Device::Cpu);
        let shape = &self.gguf.tensors[&name].shape;
        Ok(self.gguf.tensor(&name, shape, &device)?.dequantize(&device)?.to_dtype(DType::F32)?)
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
        let changes = file.tensors.keys().any(|name| self.ranks.contains_key(name));
        identity(sha256, changes.then_some(&self.sha256))
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
        let (a, b) = (self.half(name, HALVES[0])?, self.half(name, HALVES[1])?);
        let product = if name == EMBEDDING { a.matmul(&b.t()?)? } else { b.matmul(&a)? };
        let sum = (base.dequantize(&device)?.to_dtype(DType::F32)? + (product * self.scale(rank))?)?;
        let dtype = kept_as(base.dtype(), sum.dim(1)?);
        Ok(Some((dtype, QTensor::quantize(&sum, dtype)?.data()?.into_owned())))
    }
}

/// The identity of a file, of which this is the sha256, with what an adapter of the other sha256 adds to it.
pub fn identity(file: &str, adapter: Option<&str>) -> String {
    let Some(adapter) = adapter else { return file.to_owned() };
    hex(Sha256::digest(format!("{file}\n{adapter}")))
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
