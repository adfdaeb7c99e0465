//! The recipe book in memory: of each pipeline the one version that is active.
//!
//! ```text
//! start, a version that became active --put--> registry --get--> dispatcher, page, model's proof
//! ```
//!
//! Whoever takes a recipe out keeps it as long as it needs: a part is judged by the version that was active when its
//! trigger was accepted or, without a trigger, when its picture was taken, whatever becomes active meanwhile.

use super::beside::Files;
use super::file::Beside;
use crate::document::Problem;
use crate::domain::pipeline::Pipeline;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Memory for the adapter of a version that becomes active while the station runs, in MiB: that of the largest file, of
/// values of 16 bits.
const NEXT_MIB: u64 = 64;

/// A checked pipeline with the text that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    pub pipeline: Arc<Pipeline>,
    /// The whole file, as it was read.
    pub text: Arc<str>,
    /// The files beside it that it judges by.
    pub files: Files,
    /// What is valid and risky in it.
    pub warnings: Vec<Problem>,
}

impl Recipe {
    /// Reads a recipe from a file's text and the files beside it; `file` only names it in messages.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub(crate) fn read(file: &str, text: &str, files: Files) -> Result<Self, Vec<Problem>> {
        let (pipeline, warnings) = super::file::from_str(file, text, Beside::Whole(&files))?;
        Ok(Self { pipeline: Arc::new(pipeline), text: text.into(), files, warnings })
    }

    /// A recipe that no file holds.
    #[cfg(test)]
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        Self { pipeline: Arc::new(pipeline.clone()), text: "".into(), files: Files::new(), warnings: vec![] }
    }
}

/// The active recipes by their names. Share it in an `Arc`.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    active: RwLock<BTreeMap<String, Arc<Recipe>>>,
}

impl Registry {
    /// A registry with these recipes.
    pub(crate) fn new(recipes: impl IntoIterator<Item = Recipe>) -> Self {
        let registry = Self::default();
        recipes.into_iter().for_each(|recipe| registry.put(Arc::new(recipe)));
        registry
    }

    /// From now on this version of the recipe's pipeline is active.
    pub(crate) fn put(&self, recipe: Arc<Recipe>) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        active.insert(recipe.pipeline.name.clone(), recipe);
    }

    /// The active recipe of a pipeline.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Recipe>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The active pipeline of this name.
    pub(crate) fn pipeline(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.get(name).map(|recipe| Arc::clone(&recipe.pipeline))
    }

    /// All active recipes, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Recipe>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// MiB that the adapters of the active recipes take beside the model, and one that may come; 0: there is none.
    pub(crate) fn adapters_mib(&self) -> u64 {
        let all = self.all();
        let adapters = all.iter().filter_map(|recipe| recipe.pipeline.adapter.as_ref());
        let by_file: BTreeMap<&str, u64> =
            adapters.map(|adapter| (adapter.sha256.as_str(), adapter.memory_bytes)).collect();
        if by_file.is_empty() { 0 } else { by_file.values().sum::<u64>().div_ceil(1 << 20) + NEXT_MIB }
    }

    /// The names of all pipelines, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}
