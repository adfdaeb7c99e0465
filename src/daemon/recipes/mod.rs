//! The life of a recipe's version, from a file to the line.
//!
//! ```text
//! pipelines_dir, SIGHUP, cmd/reload, POST --> found --> checked --[gate]: replayed--> active, for the next pictures
//!                                               '----------'---------------'--> refused, with the reason and the parts
//! an engineer, with a reason: an earlier version, or one that was refused --------> active
//! ```
//!
//! One thread does all of it, one version at a time; each step is an entry of the ledger (`store::recipes`), and the
//! one that makes a version active is in one batch with the mark of the active version.
//!
//! Invariants:
//! - At every moment, also after a crash, each pipeline has one active version, and its text is kept.
//! - A version that was decided about is not looked at again, until the file has another text.
//! - What a gate asks is asked by the active version's gate and by the new one's: a gate cannot be edited away.

mod opened;
mod replay;

pub use opened::open;

use super::desk::Desk;
use super::station::Station;
use crate::camera::Stop;
use crate::document::read_text;
use crate::domain::pipeline::{GateRule, Pipeline};
use crate::domain::recipe::{Progress, RecipeError};
use crate::domain::trigger::Refusal;
use crate::engine::Engine;
use crate::evaluate::gate;
use crate::mqtt::StationEvent;
use crate::queue::{Policy, Popped, Pushed, Queue};
use crate::recipe::file::version_of;
use crate::recipe::registry::{Recipe, Registry};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::recipes::{Book, Entry, REASON_CHARS_MAX, ReplayEntry, Step};
use crate::store::record::rfc3339;
use crate::threads;
use replay::Replayed;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Time between two looks at the folder; a file must stand still from one to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Requests that wait.
const REQUESTS_MAX: usize = 16;
/// Files that a look considers.
const FILES_MAX: usize = 256;

/// A request for a look that was not taken, as the sender of a command hears it.
pub fn refused(error: RecipeError) -> Refusal {
    match error {
        RecipeError::Stopping => Refusal::Stopping,
        other => Refusal::NotStored { reason: other.to_string() },
    }
}

enum Request {
    /// Look at the folder now; files need not stand still.
    Look { by: String },
    /// Make a version active, without a replay.
    Activate { pipeline: String, version: String, by: String, reason: String, answer: SyncSender<Answer> },
}

type Answer = Result<Entry, RecipeError>;

/// The way to the thread of recipes; share it in an `Arc`.
pub struct Recipes {
    pub registry: Arc<Registry>,
    pub store: Arc<Store>,
    requests: Queue<Request>,
    progress: Mutex<Option<Progress>>,
}

impl Recipes {
    pub fn new(registry: Arc<Registry>, store: Arc<Store>) -> Self {
        let requests = Queue::new(Policy::DropNewest, REQUESTS_MAX);
        Self { registry, store, requests, progress: Mutex::default() }
    }

    /// Looks at the folder as soon as may be.
    ///
    /// # Errors
    /// `Full`, `Stopping`.
    pub fn reload(&self, by: String) -> Result<(), RecipeError> {
        self.ask(Request::Look { by })
    }

    /// Makes a version that is kept active, without a replay, and waits until it is.
    ///
    /// # Errors
    /// `RecipeError`.
    pub fn activate(&self, pipeline: String, version: String, by: String, reason: String) -> Answer {
        let (answer, answered) = sync_channel(1);
        self.ask(Request::Activate { pipeline, version, by, reason, answer })?;
        answered.recv().unwrap_or(Err(RecipeError::Stopping))
    }

    /// The replay that goes on now.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more requests.
    pub fn close(&self) {
        self.requests.close();
    }

    fn ask(&self, request: Request) -> Result<(), RecipeError> {
        match self.requests.push(request) {
            Pushed::Queued => Ok(()),
            Pushed::Dropped(_) => Err(RecipeError::Full { waiting: REQUESTS_MAX }),
            Pushed::Closed(_) => Err(RecipeError::Stopping),
        }
    }

    fn set_progress(&self, progress: Option<Progress>) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// Starts the thread of recipes; it ends with `stop`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    recipes: &Arc<Recipes>,
    dir: &Path,
    desk: Arc<Desk>,
    engine: Arc<Engine>,
    station: Arc<Station>,
    stop: Stop,
) -> std::io::Result<JoinHandle<()>> {
    let recipes = Arc::clone(recipes);
    let mut keeper =
        Keeper { recipes, dir: dir.to_owned(), desk, engine, station, stop, seen: BTreeMap::new() };
    threads::spawn("recipes", move || keeper.run())
}

/// What a file looks like from outside: another one has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: SystemTime,
    bytes: u64,
    /// Its text was read when it looked so.
    is_read: bool,
}

/// The thread of recipes.
struct Keeper {
    recipes: Arc<Recipes>,
    dir: PathBuf,
    desk: Arc<Desk>,
    engine: Arc<Engine>,
    station: Arc<Station>,
    stop: Stop,
    /// By pipeline.
    seen: BTreeMap<String, Look>,
}

/// A version that is considered.
struct Candidate<'a> {
    pipeline: &'a str,
    version: String,
    text: &'a str,
    by: &'a str,
}

impl Keeper {
    fn run(&mut self) {
        let mut by = Some("start".to_owned());
        while !self.stop.is_set() {
            if let Err(error) = self.look(by.take().as_deref()) {
                // The store stops the line itself where it must; a full disk is another matter.
                tracing::error!(%error, "recipes are not looked at");
            }
            match self.recipes.requests.pop(Some(LOOK)) {
                Popped::Item(request) => by = self.serve(request),
                Popped::TimedOut => {}
                Popped::Closed => return,
            }
        }
    }

    /// Carries a request out; the sender of one that asks for a look.
    fn serve(&self, request: Request) -> Option<String> {
        match request {
            Request::Look { by } => Some(by),
            Request::Activate { pipeline, version, by, reason, answer } => {
                // Whoever asked may have gone.
                let _ = answer.try_send(self.activate_kept(&pipeline, &version, &by, &reason));
                None
            }
        }
    }

    /// Considers what has changed in the folder. With a sender, files need not stand still.
    fn look(&mut self, by: Option<&str>) -> Result<(), StoreError> {
        for (pipeline, path) in files(&self.dir) {
            let Ok(data) = fs::metadata(&path) else { continue };
            let modified = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let now = Look { modified, bytes: data.len(), is_read: false };
            let before = self.seen.insert(pipeline.clone(), now);
            let stands = before.is_some_and(|b| (b.modified, b.bytes) == (now.modified, now.bytes));
            let is_known = stands && before.is_some_and(|b| b.is_read);
            if by.is_some() || (stands && !is_known) {
                let Ok(text) = read_text(&path) else { continue };
                self.consider(&pipeline, &text, by.unwrap_or("pipelines_dir"))?;
            } else if !stands {
                continue;
            }
            self.seen.insert(pipeline, Look { is_read: true, ..now });
        }
        Ok(())
    }

    /// Takes a version from its file as far as it goes, unless it was decided about.
    fn consider(&mut self, pipeline: &str, text: &str, by: &str) -> Result<(), StoreError> {
        let version = version_of(text);
        let book = self.recipes.store.recipe_book(pipeline)?.unwrap_or_default();
        if book.decided == version {
            return Ok(());
        }
        if book.active == version {
            // The file is what is active again: there is nothing to prove.
            return self.recipes.store.keep_recipe_book(pipeline, &Book { decided: version, ..book });
        }
        let candidate = Candidate { pipeline, version, text, by };
        self.note(&candidate, Step::Found, String::new(), None, Some(text), None)?;
        let recipe = match self.checked(&candidate) {
            Ok(recipe) => recipe,
            Err(reason) => return self.refuse(&candidate, reason, None),
        };
        self.note(&candidate, Step::Checked, String::new(), None, None, None)?;
        let rules = self.rules(&recipe.pipeline);
        if rules.is_empty() {
            return self.make_active(&candidate, recipe, None);
        }
        match self.replay(&candidate, &recipe.pipeline, &rules) {
            Ok(Replayed::Outdated) => Ok(()),
            Ok(Replayed::Judged(entry)) if entry.failed.is_empty() => {
                self.note(&candidate, Step::Replayed, String::new(), Some(*entry.clone()), None, None)?;
                self.make_active(&candidate, recipe, Some(*entry))
            }
            Ok(Replayed::Judged(entry)) => self.refuse(&candidate, entry.failed.join("; "), Some(*entry)),
            Err(reason) => self.refuse(&candidate, format!("it could not be replayed: {reason}"), None),
        }
    }

    /// Everything about the text itself, and about the cameras that run the pipeline.
    fn checked(&self, candidate: &Candidate<'_>) -> Result<Recipe, String> {
        let file = self.dir.join(format!("{}.toml", candidate.pipeline)).display().to_string();
        let recipe = Recipe::read(&file, candidate.text).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        if recipe.pipeline.name != candidate.pipeline {
            return Err(format!("{file} calls itself {:?}: name it as its file", recipe.pipeline.name));
        }
        gate::check(&recipe.pipeline).map_err(|reason| format!("{file}: {reason}"))?;
        self.desk.fits(&recipe.pipeline).map_err(|refusal| refusal.to_string())?;
        Ok(recipe)
    }

    /// What a new version of this pipeline must show. A pipeline that nobody has used yet has nothing to show.
    fn rules(&self, new: &Pipeline) -> Vec<GateRule> {
        let Some(active) = self.recipes.registry.pipeline(&new.name) else { return vec![] };
        let mut rules: Vec<GateRule> = [&active.gate, &new.gate].into_iter().flatten().cloned().collect();
        rules.dedup();
        rules
    }

    fn make_active(
        &self,
        candidate: &Candidate<'_>,
        recipe: Recipe,
        replay: Option<ReplayEntry>,
    ) -> Result<(), StoreError> {
        let book = Book { active: candidate.version.clone(), decided: candidate.version.clone() };
        let entry = self.entry(candidate, Step::Active, String::new(), replay);
        let keep = || self.recipes.store.append_recipe_step(entry, None, Some(&book)).map(drop);
        match self.desk.renew(Arc::new(recipe), keep) {
            Ok(()) => {
                self.alarm(candidate.pipeline, None);
                tracing::info!(
                    pipeline = candidate.pipeline,
                    version = candidate.version,
                    by = candidate.by,
                    "this version of the recipe is active"
                );
                Ok(())
            }
            Err(Renewed::Store(error)) => Err(error),
            Err(Renewed::Unfit(reason)) => self.refuse(candidate, reason, None),
        }
    }

    /// A version that is kept becomes active, by an engineer's word.
    fn activate_kept(&self, pipeline: &str, version: &str, by: &str, reason: &str) -> Answer {
        let not_stored = |e: StoreError| RecipeError::NotStored { reason: e.to_string() };
        if reason.trim().is_empty() {
            return Err(RecipeError::NoReason);
        }
        let store = &self.recipes.store;
        let no_version =
            || RecipeError::NoVersion { pipeline: pipeline.to_owned(), version: version.to_owned() };
        let text = store.recipe_text(pipeline, version).map_err(not_stored)?.ok_or_else(no_version)?;
        let known = store.recipe_versions(pipeline).map_err(not_stored)?;
        let was_active = known.iter().any(|state| state.version == version && state.was_active);
        let candidate = Candidate { pipeline, version: version.to_owned(), text: &text, by };
        let recipe = self.checked(&candidate).map_err(|reason| RecipeError::Unfit { reason })?;
        let book = store.recipe_book(pipeline).map_err(not_stored)?.unwrap_or_default();
        let book = Book { active: version.to_owned(), ..book };
        let mut entry = self.entry(&candidate, Step::Active, reason.trim().to_owned(), None);
        entry.is_override = !was_active;
        let mut kept = None;
        let keep = || {
            kept = Some(store.append_recipe_step(entry, None, Some(&book))?);
            Ok(())
        };
        match self.desk.renew(Arc::new(recipe), keep) {
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
                kept.ok_or(RecipeError::Stopping)
            }
            Err(Renewed::Store(error)) => Err(not_stored(error)),
            Err(Renewed::Unfit(reason)) => Err(RecipeError::Unfit { reason }),
        }
    }

    fn refuse(
        &self,
        candidate: &Candidate<'_>,
        reason: String,
        replay: Option<ReplayEntry>,
    ) -> Result<(), StoreError> {
        let book = self.recipes.store.recipe_book(candidate.pipeline)?.unwrap_or_default();
        let book = Book { decided: candidate.version.clone(), ..book };
        let shown: String = reason.chars().take(REASON_CHARS_MAX).collect();
        tracing::error!(
            pipeline = candidate.pipeline,
            version = candidate.version,
            by = candidate.by,
            reason = shown,
            "this version of the recipe is refused"
        );
        self.note(candidate, Step::Refused, shown.clone(), replay, None, Some(&book))?;
        self.alarm(candidate.pipeline, Some(format!("version {} is refused: {shown}", candidate.version)));
        Ok(())
    }

    fn note(
        &self,
        candidate: &Candidate<'_>,
        step: Step,
        reason: String,
        replay: Option<ReplayEntry>,
        text: Option<&str>,
        book: Option<&Book>,
    ) -> Result<(), StoreError> {
        let entry = self.entry(candidate, step, reason, replay);
        self.recipes.store.append_recipe_step(entry, text, book).map(drop)
    }

    fn entry(
        &self,
        candidate: &Candidate<'_>,
        step: Step,
        reason: String,
        replay: Option<ReplayEntry>,
    ) -> Entry {
        entry(candidate.pipeline, &candidate.version, step, candidate.by, reason, replay)
    }

    /// Raised while the newest text of a recipe is refused.
    fn alarm(&self, pipeline: &str, message: Option<String>) {
        let (raised, message) = (message.is_some(), message.unwrap_or_default());
        self.station.tell(StationEvent::Alarm { code: format!("recipe_{pipeline}"), raised, message });
    }
}

/// An entry of now.
fn entry(
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
    }
}

/// Why a version did not become active at the last moment.
#[derive(Debug)]
pub enum Renewed {
    Unfit(String),
    Store(StoreError),
}

/// The recipe files of the folder with the names of their pipelines, in the order of the names.
fn files(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let is_recipe = path.extension().is_some_and(|extension| extension == "toml");
        let name = path.file_stem()?.to_str()?.to_owned();
        (is_recipe && !name.starts_with('.')).then_some((name, path))
    };
    let mut found: Vec<_> = entries.filter_map(of).collect();
    found.sort();
    found.truncate(FILES_MAX);
    found
}
