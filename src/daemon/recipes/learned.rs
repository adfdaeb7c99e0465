//! A version that was learned from confirmed parts: the active recipe with another bank or head, or with a prompt more.
//!
//! ```text
//! learning --version, files--> found --> checked --> replayed, with a gate or without --> active | refused
//!                                                        '--cancelled; another version is active; the file was edited
//! ```
//!
//! The first version of a new product comes the same way; it has no base, and there is nothing to replay.
//!
//! Nothing of it lies in the folder, which the daemon need not be able to write to: its text and its files are kept in
//! the store from its first step on.

use super::steps::{Candidate, Origin};
use super::{Keeper, Recipes, Request};
use crate::domain::recipe::RecipeError;
use crate::recipe::beside::{Files, version_of};
use crate::store::error::StoreError;
use crate::store::recipes::GoodPart;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

/// Whether somebody has cancelled, and who.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Cancel(OnceLock<String>);

impl Cancel {
    /// The first call counts.
    pub(in crate::daemon) fn cancel(&self, by: &str) {
        let _ = self.0.set(by.to_owned());
    }

    /// Who has cancelled.
    pub(in crate::daemon) fn by(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// A version to be taken as far as it goes.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Learned {
    pub pipeline: String,
    /// The version that was active when it was learned; empty: it is the first of a new product.
    pub base: String,
    pub text: String,
    pub files: Files,
    pub by: String,
    /// What was learned, and what its figures are measured on, for the ledger.
    pub words: String,
    pub cancel: Arc<Cancel>,
    /// The good parts of a new product.
    pub made_of: Vec<GoodPart>,
}

impl Learned {
    pub(in crate::daemon) fn version(&self) -> String {
        version_of(&self.text, &self.files)
    }
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Fate {
    Active,
    Refused {
        reason: String,
    },
    /// Somebody has decided otherwise meanwhile, or the station is stopping.
    Dropped,
}

/// A learned version on its way, and who hears what becomes of it.
pub(super) struct Waiting {
    learned: Learned,
    say: SyncSender<Result<Fate, String>>,
}

impl Recipes {
    /// Whether there is a recipe of this name, or a file that would be one.
    ///
    /// # Errors
    /// `StoreError` when the database cannot be read.
    pub(in crate::daemon) fn is_known(&self, pipeline: &str) -> Result<bool, StoreError> {
        let is_active = self.registry.get(pipeline).is_some();
        let book = self.store.recipe_book(pipeline)?;
        let was_active = book.is_some_and(|book| !book.active.is_empty());
        Ok(is_active || was_active || self.file(pipeline).exists())
    }

    /// Hands a learned version over; its fate comes once it is decided about, and nothing when the station stops before.
    ///
    /// # Errors
    /// `Full`, `Stopping`.
    pub(in crate::daemon) fn prove(
        &self,
        learned: Learned,
    ) -> Result<Receiver<Result<Fate, String>>, RecipeError> {
        let (say, said) = sync_channel(1);
        self.ask(Request::Learned(Box::new(Waiting { learned, say })))?;
        Ok(said)
    }
}

impl Keeper {
    /// Takes a learned version as far as it goes, and says how far that was.
    pub(super) fn take_learned(&self, waiting: &Waiting) {
        let fate = self.fate(&waiting.learned).map_err(|error| error.to_string());
        if let Err(error) = &fate {
            tracing::error!(error, pipeline = waiting.learned.pipeline, "what was learned is not kept");
        }
        // Whoever asked may have gone.
        let _ = waiting.say.send(fate);
    }

    fn fate(&self, learned: &Learned) -> Result<Fate, StoreError> {
        let Learned { pipeline, base, text, files, by, words, cancel, made_of } = learned;
        if base.is_empty() && self.recipes.is_known(pipeline)? {
            let reason = format!("a recipe {pipeline} came meanwhile: take another name");
            return Ok(Fate::Refused { reason });
        }
        let book = self.recipes.store.recipe_book(pipeline)?.unwrap_or_default();
        // What nobody has looked at yet is newer than what was learned: it counts as edited meanwhile.
        let is_old = |file: &String| *file == book.decided || *file == book.active;
        let file = self.recipes.version_of_file(pipeline).filter(is_old);
        let origin = Origin::Learned { base, file, words, cancel };
        let candidate = Candidate { pipeline, version: learned.version(), text, files, by, made_of, origin };
        match self.prove(&candidate)? {
            Fate::Dropped => self.outdated(&candidate),
            fate => Ok(fate),
        }
    }

    /// A version that nobody wants any more. One of the folder is found again as it is then; one that was learned is
    /// refused, so that the ledger says what became of it.
    pub(super) fn outdated(&self, candidate: &Candidate<'_>) -> Result<Fate, StoreError> {
        let Origin::Learned { file, cancel, .. } = &candidate.origin else { return Ok(Fate::Dropped) };
        let reason = if let Some(by) = cancel.by() {
            format!("cancelled by {by}")
        } else if self.recipes.is_decided(candidate)? {
            "another version became active meanwhile: learn again".to_owned()
        } else if self.recipes.version_of_file(candidate.pipeline) != *file {
            "the file was edited meanwhile: learn again".to_owned()
        } else {
            // The station is stopping: the line is left as it was.
            return Ok(Fate::Dropped);
        };
        self.recipes.refuse(candidate, reason, None)
    }
}
