//! The steps of a version: checked, refused, active; each in the ledger, each decision alone.

use super::learned::Cancel;
use super::{Fate, Recipes};
use crate::document::read_text;
use crate::domain::pipeline::{GateRule, Pipeline};
use crate::domain::recipe::{RecipeError, RecipeStatus};
use crate::evaluate::gate;
use crate::publish::StationEvent;
use crate::recipe::beside::{self, Files, version_of};
use crate::recipe::registry::Recipe;
use crate::store::error::StoreError;
use crate::store::recipes::{Book, Entry, GoodPart, REASON_CHARS_MAX, ReplayEntry, Step};
use crate::store::record::rfc3339;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

/// A version that is considered.
pub(super) struct Candidate<'a> {
    pub pipeline: &'a str,
    pub version: String,
    pub text: &'a str,
    /// The files beside it that it judges by.
    pub files: &'a Files,
    /// Who brought it.
    pub by: &'a str,
    /// The good parts that it was made of, of the first version of a product.
    pub made_of: &'a [GoodPart],
    pub origin: Origin<'a>,
}

/// Where a version comes from.
pub(super) enum Origin<'a> {
    /// The folder's file holds it.
    Folder,
    /// It is the version `base` with what was learned from confirmed parts, or the first of a product, whose base is
    /// empty. `file` is the version that the folder's file held when it came; `None`: there was none. `words` say what
    /// was learned, and what its figures are measured on.
    Learned { base: &'a str, file: Option<String>, words: &'a str, cancel: &'a Cancel },
}

impl Origin<'_> {
    /// What the ledger says of it from its first step on.
    pub(super) fn words(&self) -> String {
        match self {
            Origin::Folder => String::new(),
            Origin::Learned { words, .. } => words.chars().take(REASON_CHARS_MAX).collect(),
        }
    }
}

impl Candidate<'_> {
    fn entry(&self, step: Step, reason: String, replay: Option<ReplayEntry>) -> Entry {
        // Said once: what the first step says of a version holds for all of them.
        let made_of = if step == Step::Found { self.made_of.to_vec() } else { vec![] };
        Entry { made_of, ..entry(self.pipeline, &self.version, step, self.by, reason, replay) }
    }

    /// True for the first version of a product, which no file holds.
    pub(super) fn is_first(&self) -> bool {
        matches!(self.origin, Origin::Learned { base: "", .. })
    }
}

/// Why a version did not become active at the last moment.
#[derive(Debug)]
pub(crate) enum Renewed {
    Unfit(String),
    Store(StoreError),
}

impl Recipes {
    /// The text of the file needs no more looks: it is what is active already.
    pub(super) fn decided(&self, pipeline: &str, version: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let book = self.store.recipe_book(pipeline)?.unwrap_or_default();
        self.store.keep_recipe_book(pipeline, &Book { decided: version.to_owned(), ..book })
    }

    /// An engineer has decided meanwhile.
    pub(super) fn is_decided(&self, candidate: &Candidate<'_>) -> Result<bool, StoreError> {
        let book = self.store.recipe_book(candidate.pipeline)?.unwrap_or_default();
        Ok(match &candidate.origin {
            Origin::Folder => book.decided == candidate.version,
            Origin::Learned { base, .. } => book.active != *base,
        })
    }

    /// The version that the folder's file holds now; `None`: there is none that can be read.
    pub(super) fn version_of_file(&self, pipeline: &str) -> Option<String> {
        let file = self.file(pipeline);
        let text = read_text(&file).ok()?;
        Some(version_of(&text, &beside::read(&file, &text)))
    }

    /// The file of a pipeline.
    pub(super) fn file(&self, pipeline: &str) -> PathBuf {
        self.dir.join(format!("{pipeline}.toml"))
    }

    /// Everything about the text itself, and about the cameras that run the pipeline.
    pub(super) fn checked(&self, candidate: &Candidate<'_>) -> Result<Recipe, String> {
        let file = self.file(candidate.pipeline).display().to_string();
        let recipe = Recipe::read(&file, candidate.text, candidate.files.clone()).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        if recipe.pipeline.name != candidate.pipeline {
            return Err(format!("{file} calls itself {:?}: name it as its file", recipe.pipeline.name));
        }
        gate::check(&recipe.pipeline).map_err(|reason| format!("{file}: {reason}"))?;
        self.dispatcher.fits(&recipe.pipeline).map_err(|refusal| refusal.to_string())?;
        Ok(recipe)
    }

    /// What a new version of this pipeline must show. A pipeline that nobody has used yet has nothing to show, and what
    /// is active already but was not noted for want of room has not, either.
    pub(super) fn rules(&self, new: &Pipeline) -> Vec<GateRule> {
        let active = self.registry.pipeline(&new.name);
        let Some(active) = active.filter(|active| active.version != new.version) else { return vec![] };
        let mut rules: Vec<GateRule> = [&active.gate, &new.gate].into_iter().flatten().cloned().collect();
        rules.dedup();
        rules
    }

    pub(super) fn make_active(&self, candidate: &Candidate<'_>, recipe: Recipe) -> Result<Fate, StoreError> {
        let deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_decided(candidate)? {
            return Ok(Fate::Dropped);
        }
        let former = self.store.recipe_book(candidate.pipeline)?.unwrap_or_default();
        let is_made_here = former.is_made_here || candidate.is_first();
        let decided = match &candidate.origin {
            Origin::Folder => candidate.version.clone(),
            // The file holds an older word, which needs no more looks, now or after the next start.
            Origin::Learned { file, .. } => file.clone().unwrap_or(former.decided),
        };
        let book = Book { active: candidate.version.clone(), decided, is_made_here };
        let entry = candidate.entry(Step::Active, String::new(), None);
        let mut kept = None;
        let keep = || {
            kept = Some(self.store.append_recipe_step(entry, None, Some(&book))?);
            Ok(())
        };
        match self.dispatcher.renew(Arc::new(recipe), keep) {
            Ok(()) => {
                self.alarm(candidate.pipeline, None);
                kept.iter().for_each(|entry| self.publish(entry));
                tracing::info!(
                    pipeline = candidate.pipeline,
                    version = candidate.version,
                    by = candidate.by,
                    "this version of the recipe is active"
                );
                Ok(Fate::Active)
            }
            Err(Renewed::Store(error)) => Err(error),
            Err(Renewed::Unfit(reason)) => {
                drop(deciding);
                self.refuse(candidate, reason, None)
            }
        }
    }

    /// A version that is kept becomes active, by an engineer's word.
    pub(super) fn activate_kept(
        &self,
        pipeline: &str,
        version: &str,
        by: &str,
        reason: &str,
    ) -> Result<Entry, RecipeError> {
        let not_stored = |e: StoreError| RecipeError::NotStored { reason: e.to_string() };
        if reason.trim().is_empty() {
            return Err(RecipeError::NoReason);
        }
        let store = &self.store;
        let no_version =
            || RecipeError::NoVersion { pipeline: pipeline.to_owned(), version: version.to_owned() };
        let text = store.recipe_text(pipeline, version).map_err(not_stored)?.ok_or_else(no_version)?;
        let known = store.recipe_versions(pipeline).map_err(not_stored)?;
        let was_active = known.iter().any(|state| state.version == version && state.was_active);
        let files = store.recipe_files(pipeline, version).map_err(not_stored)?;
        let (version_kept, origin) = (version.to_owned(), Origin::Folder);
        let candidate = Candidate {
            pipeline,
            version: version_kept,
            text: &text,
            files: &files,
            by,
            made_of: &[],
            origin,
        };
        let recipe = self.checked(&candidate).map_err(|reason| RecipeError::Unfit { reason })?;
        let _one_at_a_time = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let book = store.recipe_book(pipeline).map_err(not_stored)?.unwrap_or_default();
        // It is the newer word: the file as it is now, perhaps under replay at this moment, needs no more looks.
        let Book { decided, is_made_here, .. } = book;
        let decided = self.version_of_file(pipeline).unwrap_or(decided);
        let book = Book { active: version.to_owned(), decided, is_made_here };
        let mut entry = candidate.entry(Step::Active, reason.trim().to_owned(), None);
        entry.is_override = !was_active;
        let mut kept = None;
        let keep = || {
            kept = Some(store.append_recipe_step(entry, None, Some(&book))?);
            Ok(())
        };
        match self.dispatcher.renew(Arc::new(recipe), keep) {
            Ok(()) => {
                self.alarm(pipeline, None);
                tracing::warn!(
                    pipeline,
                    version,
                    by,
                    reason,
                    overrides = !was_active,
                    "an engineer has made this version of the recipe active"
                );
                kept.iter().for_each(|entry| self.publish(entry));
                kept.ok_or(RecipeError::Stopping)
            }
            Err(Renewed::Store(error)) => Err(not_stored(error)),
            Err(Renewed::Unfit(reason)) => Err(RecipeError::Unfit { reason }),
        }
    }

    pub(super) fn refuse(
        &self,
        candidate: &Candidate<'_>,
        reason: String,
        replay: Option<ReplayEntry>,
    ) -> Result<Fate, StoreError> {
        let is_of_folder = matches!(candidate.origin, Origin::Folder);
        let _one_at_a_time = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if is_of_folder && self.is_decided(candidate)? {
            return Ok(Fate::Dropped);
        }
        let book = self.store.recipe_book(candidate.pipeline)?.unwrap_or_default();
        let book = is_of_folder.then(|| Book { decided: candidate.version.clone(), ..book });
        let shown: String = reason.chars().take(REASON_CHARS_MAX).collect();
        tracing::error!(
            pipeline = candidate.pipeline,
            version = candidate.version,
            by = candidate.by,
            reason = shown,
            "this version of the recipe is refused"
        );
        self.note(candidate, Step::Refused, shown.clone(), replay, false, book.as_ref())?;
        // Whoever had it learned sees it refused; that the file has another text than the line is for all to see.
        if is_of_folder {
            self.alarm(
                candidate.pipeline,
                Some(format!("version {} is refused: {shown}", candidate.version)),
            );
        }
        Ok(Fate::Refused { reason: shown })
    }

    pub(super) fn note(
        &self,
        candidate: &Candidate<'_>,
        step: Step,
        reason: String,
        replay: Option<ReplayEntry>,
        is_new: bool,
        book: Option<&Book>,
    ) -> Result<(), StoreError> {
        let entry = candidate.entry(step, reason, replay);
        let kept = is_new.then_some((candidate.text, candidate.files));
        let entry = self.store.append_recipe_step(entry, kept, book)?;
        self.publish(&entry);
        Ok(())
    }

    /// Publishes how the recipe stands after a step.
    pub(super) fn publish(&self, entry: &Entry) {
        let active = self.registry.pipeline(&entry.pipeline).map(|pipeline| pipeline.version.clone());
        let replay = entry.replay.as_ref();
        let parts = replay.map_or(0, |replay| replay.parts);
        self.station.publish(StationEvent::Recipe(RecipeStatus {
            pipeline: entry.pipeline.clone(),
            active: active.unwrap_or_default(),
            version: entry.version.clone(),
            step: entry.step.as_str(),
            by: entry.by.clone(),
            reason: entry.reason.clone(),
            done: parts,
            total: parts,
            lost: replay.map_or(0, |replay| replay.lost_count),
            alarms: replay.map_or(0, |replay| replay.alarms_count),
        }));
    }

    /// Publishes how far the replay of a candidate is.
    pub(super) fn publish_progress(&self, candidate: &Candidate<'_>, done: usize, total: usize) {
        let active = self.registry.pipeline(candidate.pipeline).map(|pipeline| pipeline.version.clone());
        self.station.publish(StationEvent::Recipe(RecipeStatus {
            pipeline: candidate.pipeline.to_owned(),
            active: active.unwrap_or_default(),
            version: candidate.version.clone(),
            step: Step::Checked.as_str(),
            by: candidate.by.to_owned(),
            done,
            total,
            ..RecipeStatus::default()
        }));
    }

    /// Publishes how each recipe stands, as the ledger knows it.
    pub(super) fn publish_all(&self) -> Result<(), StoreError> {
        for recipe in self.registry.all() {
            for entry in self.store.recipe_entries(Some(&recipe.pipeline.name), 1)? {
                self.publish(&entry);
            }
        }
        Ok(())
    }

    /// Raised while the newest text of a recipe is refused.
    fn alarm(&self, pipeline: &str, message: Option<String>) {
        let (raised, message) = (message.is_some(), message.unwrap_or_default());
        self.station.publish(StationEvent::Alarm { code: format!("recipe_{pipeline}"), raised, message });
    }
}

/// An entry of now.
pub(super) fn entry(
    pipeline: &str,
    version: &str,
    step: Step,
    by: &str,
    reason: String,
    replay: Option<ReplayEntry>,
) -> Entry {
    Entry {
        seq: 0,
        at: rfc3339(SystemTime::now()),
        pipeline: pipeline.to_owned(),
        version: version.to_owned(),
        step,
        by: by.to_owned(),
        reason,
        is_override: false,
        replay,
        made_of: vec![],
    }
}
