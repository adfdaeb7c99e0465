//! Opens a GGUF pair, with an adapter where there is one, and checks that they belong together.

use super::ModelInfo;
use super::adapter::{Adapter, Base};
use super::error::VlmError;
use super::free::{self, Free};
use super::gguf::{Gguf, Grown};
use super::kinds;
use super::precision::Precision;
use super::template::Template;
use super::text::Text;
use super::tokenizer::Tokenizer;
use super::vision::Vision;
use candle_core::Device;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Key of the text file: the labels that the model was trained with, in the order of its training prompts.
pub const LABELS_KEY: &str = "inspectd.labels";
/// Key of the text file: the name of the proof that the model must give before it answers.
pub const PROOF_KEY: &str = "inspectd.proof";
/// Most labels that a model may state.
const LABELS_MAX: usize = 256;

/// A loaded pair.
pub struct Loaded {
    /// The text model.
    pub text: Text,
    /// The vision tower.
    pub vision: Vision,
    /// Of the text model's vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// The control tokens of a conversation.
    pub template: Template,
    /// Name and hashes of the pair.
    pub info: ModelInfo,
    /// Bytes that the weights take in memory: those of all files, and what some of them take beyond.
    pub bytes: u64,
    /// What adapters of jobs must fit.
    pub base: Base,
    /// Defaults of free answers.
    pub free: Free,
    /// What whoever loads the pair should know, in words: what it asks for and does not get, and which weights take more
    /// memory than their file.
    pub notes: Vec<String>,
}

/// Loads a pair; `precision` is chosen by the size of the files when it is `None`.
///
/// # Errors
/// `Io` and `Model` name the file and the key or tensor; `Pair` says what does not fit.
pub fn load(
    text_path: &Path,
    mmproj_path: &Path,
    precision: Option<Precision>,
    device: &Device,
) -> Result<Loaded, VlmError> {
    load_with(text_path, mmproj_path, None, precision, device)
}

/// As `load`, with what an adapter adds to the weights. That is another model: its hashes are of files and adapter, and the
/// pair's proof is none of it.
///
/// # Errors
/// As `load`; the adapter does not fit the pair.
pub fn load_with(
    text_path: &Path,
    mmproj_path: &Path,
    adapter: Option<&Path>,
    precision: Option<Precision>,
    device: &Device,
) -> Result<Loaded, VlmError> {
    let mut text_file = Gguf::open(text_path)?;
    let mut mmproj_file = Gguf::open(mmproj_path)?;
    kinds::check(&text_file, &mmproj_file)?;
    let bytes = text_file.file_bytes + mmproj_file.file_bytes;
    let precision = precision.unwrap_or_else(|| Precision::of_files(bytes, device));
    text_file.precision = precision;
    mmproj_file.precision = precision;
    let (mut text_sha256, mut mmproj_sha256) = (text_file.sha256()?, mmproj_file.sha256()?);
    let adapter =
        adapter.map(|path| Adapter::open(path, &text_file, &mmproj_file, [&text_sha256, &mmproj_sha256]));
    let adapter = adapter.transpose()?.map(Arc::new);
    text_file.adapter.clone_from(&adapter);
    mmproj_file.adapter.clone_from(&adapter);
    let base = Base::of(&text_file, &mmproj_file, [&text_sha256, &mmproj_sha256]);
    let tokenizer = Arc::new(Tokenizer::from_gguf(&text_file)?);
    let template = Template::from_gguf(&text_file, &tokenizer)?;
    let vision = Vision::load(&mmproj_file, device)?;
    let text = Text::load(&text_file, device)?;
    let pair = |why: String| VlmError::Pair { text: text_path.into(), mmproj: mmproj_path.into(), why };
    let (out, hidden) = (vision.config.out, text.config.hidden);
    if out != hidden {
        return Err(pair(format!("the vision file gives rows of {out}, the text file takes {hidden}")));
    }
    let (gives, takes) = (vision.config.deepstack.len(), text.config.deepstack);
    if gives != takes {
        return Err(pair(format!(
            "the vision file has {gives} DeepStack layers, the text file takes {takes}"
        )));
    }
    let file_name = || text_path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let mut name = text_file.text("general.name").map_or_else(|_| file_name(), str::to_owned);
    let mut labels = stated_labels(&text_file)?;
    let stated_proof = || text_file.text(PROOF_KEY).map(str::to_owned);
    let mut proof = text_file.metadata.get(PROOF_KEY).map(|_| stated_proof()).transpose()?;
    if let Some(adapter) = &adapter {
        text_sha256 = adapter.identity(&text_file, &text_sha256);
        mmproj_sha256 = adapter.identity(&mmproj_file, &mmproj_sha256);
        name = format!("{name}+{}", adapter.name());
        proof = None;
        if !adapter.labels.is_empty() {
            labels.clone_from(&adapter.labels);
        }
    }
    let info = ModelInfo { name, text_sha256, mmproj_sha256, labels, proof, beside: String::new() };
    let free = Free::stated(&text_file, &mmproj_file)?;
    let mut notes = free::not_built(&text_file);
    let mut bytes = bytes;
    for file in [&text_file, &mmproj_file] {
        for (kind, grown) in file.grown() {
            let Grown { tensors, stored_bytes, taken_bytes } = grown;
            bytes += taken_bytes - stored_bytes;
            notes.push(format!(
                "{}: {tensors} tensors of {} take {} MiB of memory, and {} MiB of the file",
                file.path().display(),
                kind.name(),
                taken_bytes >> 20,
                stored_bytes >> 20
            ));
        }
    }
    Ok(Loaded { text, vision, tokenizer, template, info, bytes, base, free, notes })
}

/// The labels that a text file states; empty when it states none.
///
/// # Errors
/// `Model` when the key is not a list of different texts.
pub fn stated_labels(text_file: &Gguf) -> Result<Vec<String>, VlmError> {
    if !text_file.metadata.contains_key(LABELS_KEY) {
        return Ok(vec![]);
    }
    let labels: Vec<String> = text_file.texts(LABELS_KEY)?.into_iter().map(str::to_owned).collect();
    let different = labels.iter().collect::<BTreeSet<_>>().len() == labels.len();
    if labels.is_empty() || labels.len() > LABELS_MAX || !different || labels.iter().any(String::is_empty) {
        let why = format!("1 to {LABELS_MAX} different labels expected, found {labels:?}");
        return Err(text_file.error(format!("key {LABELS_KEY}"), why));
    }
    Ok(labels)
}
