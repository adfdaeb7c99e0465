//! The adapter of a recipe: read when the recipe is, part of the model's identity, named by every job.
//!
//! ```text
//! bytes beside the recipe --read--> AdapterRule --file--> Job      the engine adds it beside the pair
//!                                       '--model_of--> ModelInfo   what the record says: name, hashes, labels
//! ```

use crate::domain::pipeline::{AdapterRule, Pipeline};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::sync::Arc;
use vlm::adapter::{Adapter, identity};
use vlm::{AdapterFile, ModelInfo};

/// An adapter as a recipe holds it, whichever pair it is for.
///
/// # Errors
/// What is wrong with the file, in words that name it.
pub(crate) fn read(name: &str, bytes: &Arc<[u8]>) -> Result<AdapterRule, String> {
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let file = AdapterFile { name: name.into(), sha256: sha256.as_str().into(), bytes: Arc::clone(bytes) };
    let adapter = Adapter::read(&file).map_err(|error| error.to_string())?;
    let [changes_text, changes_tower] = adapter.changes();
    Ok(AdapterRule {
        file: name.to_owned(),
        sha256,
        changes_text,
        changes_tower,
        memory_bytes: adapter.beside_bytes(),
        labels: adapter.labels,
        bytes: Arc::clone(bytes),
    })
}

/// The adapter as jobs name it.
pub(crate) fn file(rule: &AdapterRule) -> AdapterFile {
    AdapterFile {
        name: rule.file.as_str().into(),
        sha256: rule.sha256.as_str().into(),
        bytes: Arc::clone(&rule.bytes),
    }
}

/// The model that answers for a pipeline: the engine's own, or that with the pipeline's adapter, which is another one.
/// Of what is that already, it stays what it is.
pub fn model_of<'a>(pipeline: &Pipeline, model: &'a ModelInfo) -> Cow<'a, ModelInfo> {
    let Some(rule) = pipeline.adapter.as_ref().filter(|rule| rule.sha256 != model.beside) else {
        return Cow::Borrowed(model);
    };
    let of = |file: &str, changes: bool| identity(file, changes.then_some(&rule.sha256));
    let name = rule.file.split('.').next().unwrap_or_default();
    Cow::Owned(ModelInfo {
        name: format!("{}+{name}", model.name),
        text_sha256: of(&model.text_sha256, rule.changes_text),
        mmproj_sha256: of(&model.mmproj_sha256, rule.changes_tower),
        labels: if rule.labels.is_empty() { model.labels.clone() } else { rule.labels.clone() },
        proof: None,
        beside: rule.sha256.clone(),
    })
}
