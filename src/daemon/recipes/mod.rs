//! The life of a recipe's version, from a file to the line.
//!
//! ```text
//! pipelines_dir, SIGHUP, cmd/reload, POST --> found --> checked --[gate]: replayed--> active, for the next pictures
//! learned from confirmed parts -----------------^                   |         |
//!                                               '----------'---------------'--> refused, with the reason and the parts
//! an engineer, with a reason: an earlier version, or one that was refused --------> active
//! ```
//!
//! One thread takes versions from the folder, one at a time; an engineer's word is carried out where it comes, beside a
//! replay, too. Each step is an entry of the ledger (`store::recipes`), and the one that makes a version active is in one
//! batch with the mark of the active version.
//!
//! Invariants:
//! - At every moment, also after a crash, each pipeline has one active version, and its text is kept.
//! - A version that was decided about is not looked at again, until the file has another text. Where a learned version
//!   became active, that is the version that the file had then.
//! - What a gate asks is asked by the active version's gate and by the new one's: a gate cannot be edited away.

mod learned;
mod model;
mod opened;
mod replay;
mod steps;

pub(super) use learned::{Cancel, Fate, Learned};
pub(super) use model::Room;
pub(super) use opened::open;
pub(super) use replay::{Confirmed, PART_MAX, confirmed, frame, picture};
pub(super) use steps::Renewed;

use steps::{Candidate, Origin};

use super::dispatcher::Dispatcher;
use super::station::Station;
use crate::camera::Stop;
use crate::document::read_text;
use crate::domain::recipe::{Progress, RecipeError};
use crate::domain::trigger::Refusal;
use crate::engine::Engine;
use crate::queue::{Policy, Popped, Pushed, Queue};
use crate::recipe::beside::{self, Files, version_of};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::pins::ModelPin;
use crate::store::recipes::{Entry, Step};
use crate::threads;
use crate::web::recipes as web;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Time between two looks at the folder; a file must stand still from one to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Requests that wait.
const REQUESTS_MAX: usize = 16;
/// Files that a look considers.
const FILES_MAX: usize = 256;
/// Who has changed a file that nobody spoke about.
const FOLDER: &str = "pipelines_dir";

/// A request for a look that was not taken, as the sender of a command hears it.
pub(super) fn refused(error: RecipeError) -> Refusal {
    match error {
        RecipeError::Stopping => Refusal::Stopping,
        other => Refusal::NotStored { reason: other.to_string() },
    }
}

enum Request {
    /// Look at the folder now; files need not stand still.
    Look { by: String },
    /// Judge a model by the gates of the active recipes.
    Model { model: ModelPin, say: SyncSender<model::Said> },
    /// Take a version with what was learned as far as it goes.
    Learned(Box<learned::Waiting>),
}

/// The way to the thread of recipes; share it in an `Arc`.
pub(super) struct Recipes {
    registry: Arc<Registry>,
    store: Arc<Store>,
    dir: PathBuf,
    dispatcher: Arc<Dispatcher>,
    station: Arc<Station>,
    /// Held while something is decided: what is active, or which text of a file needs no more looks.
    deciding: Mutex<()>,
    requests: Queue<Request>,
    progress: Mutex<Option<Progress>>,
}

impl Recipes {
    /// The recipes of `dir`, of which those of the registry are active.
    pub(super) fn new(
        registry: Arc<Registry>,
        store: Arc<Store>,
        dir: PathBuf,
        dispatcher: Arc<Dispatcher>,
        station: Arc<Station>,
    ) -> Self {
        let requests = Queue::new(Policy::DropNewest, REQUESTS_MAX);
        let (deciding, progress) = (Mutex::default(), Mutex::default());
        Self { registry, store, dir, dispatcher, station, deciding, requests, progress }
    }

    /// Looks at the folder as soon as may be.
    ///
    /// # Errors
    /// `Full`, `Stopping`.
    pub(super) fn reload(&self, by: String) -> Result<(), RecipeError> {
        self.ask(Request::Look { by })
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
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

impl web::Recipes for Recipes {
    fn progress(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn activate(&self, pipeline: &str, version: &str, by: &str, reason: &str) -> Result<Entry, RecipeError> {
        self.activate_kept(pipeline, version, by, reason)
    }
}

/// Starts the thread of recipes; it ends with `stop`.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start(
    recipes: &Arc<Recipes>,
    engine: Arc<Engine>,
    room: Room,
    stop: Stop,
) -> std::io::Result<JoinHandle<()>> {
    let recipes = Arc::clone(recipes);
    let (seen, learned) = (BTreeMap::new(), RefCell::default());
    let mut keeper = Keeper { recipes, engine, room, stop, seen, learned };
    threads::spawn("recipes", move || keeper.run())
}

/// What a recipe's files look like from outside: others have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    /// When they were modified, and their lengths; `None` for one that is not there.
    stamps: Vec<Option<(SystemTime, u64)>>,
    /// The files beside it that its text named when it was read.
    beside: BTreeSet<String>,
    /// They were read when they looked so.
    is_read: bool,
}

impl Look {
    /// How the recipe and the files beside it, which its text named before, look now.
    fn at(path: &Path, beside: BTreeSet<String>) -> Self {
        let stamp = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().unwrap_or(SystemTime::UNIX_EPOCH), data.len()))
        };
        let own = std::iter::once(stamp(path));
        let stamps = own.chain(beside.iter().map(|name| stamp(&path.with_file_name(name)))).collect();
        Self { stamps, beside, is_read: false }
    }
}

/// The thread of recipes.
struct Keeper {
    recipes: Arc<Recipes>,
    engine: Arc<Engine>,
    /// Another room, with the model's files as they are when it is asked for.
    room: Room,
    stop: Stop,
    /// By pipeline.
    seen: BTreeMap<String, Look>,
    /// Learned versions that wait: a replay may go on when one comes.
    learned: RefCell<VecDeque<learned::Waiting>>,
}

impl Keeper {
    fn run(&mut self) {
        self.keep();
        // Nobody waits for an answer that does not come.
        self.recipes.requests.close();
        while let Popped::Item(_) = self.recipes.requests.pop(Some(Duration::ZERO)) {}
    }

    fn keep(&mut self) {
        if let Err(error) = self.recipes.publish_all() {
            tracing::error!(%error, "how the recipes stand is not published");
        }
        let mut by = Some("start".to_owned());
        while !self.stop.is_set() {
            let next = self.learned.borrow_mut().pop_front();
            if next.is_some() {
                // What the file holds by now is older than what was learned since.
                by.get_or_insert_with(|| FOLDER.to_owned());
            }
            if let Err(error) = self.look(by.take().as_deref()) {
                // The store stops the line itself where it must; a full disk is another matter.
                tracing::error!(%error, "recipes are not looked at");
            }
            if let Some(waiting) = next {
                self.take_learned(&waiting);
                continue;
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
            Request::Learned(learned) => {
                self.learned.borrow_mut().push_back(*learned);
                None
            }
            Request::Model { model, say } => {
                self.judge_model(&model, &say);
                None
            }
        }
    }

    /// Considers what has changed in the folder. With a sender, files need not stand still.
    fn look(&mut self, by: Option<&str>) -> Result<(), StoreError> {
        for (pipeline, path) in files(&self.recipes.dir) {
            let before = self.seen.remove(&pipeline).unwrap_or_default();
            let now = Look::at(&path, before.beside.clone());
            if now.stamps.first().is_none_or(Option::is_none) {
                continue;
            }
            let stands = before.stamps == now.stamps;
            if by.is_none() && (!stands || before.is_read) {
                self.seen.insert(pipeline, Look { is_read: stands && before.is_read, ..now });
                continue;
            }
            let Ok(text) = read_text(&path) else { continue };
            let files = beside::read(&path, &text);
            // A file that it names from now on counts as seen, as it was before it was read.
            let named = beside::named(&text);
            let now = if named == now.beside { now } else { Look::at(&path, named) };
            self.consider(&pipeline, &text, &files, by.unwrap_or(FOLDER))?;
            self.seen.insert(pipeline, Look { is_read: true, ..now });
        }
        Ok(())
    }

    /// Takes a version from its file as far as it goes, unless it was decided about.
    fn consider(&self, pipeline: &str, text: &str, files: &Files, by: &str) -> Result<(), StoreError> {
        let version = version_of(text, files);
        let book = self.recipes.store.recipe_book(pipeline)?.unwrap_or_default();
        if book.decided == version {
            return Ok(());
        }
        if book.active == version {
            // The file is what is active again: there is nothing to prove.
            return self.recipes.decided(pipeline, &version);
        }
        let candidate =
            Candidate { pipeline, version, text, files, by, made_of: &[], origin: Origin::Folder };
        // Where it is dropped, the next look finds what is wanted now.
        self.prove(&candidate).map(|_| ())
    }

    /// Takes a version as far as it goes.
    fn prove(&self, candidate: &Candidate<'_>) -> Result<Fate, StoreError> {
        self.recipes.note(candidate, Step::Found, candidate.origin.words(), None, true, None)?;
        let recipe = match self.recipes.checked(candidate) {
            Ok(recipe) => recipe,
            Err(reason) => return self.recipes.refuse(candidate, reason, None),
        };
        self.recipes.note(candidate, Step::Checked, String::new(), None, false, None)?;
        let rules = self.recipes.rules(&recipe.pipeline);
        if candidate.is_first() && self.is_outdated(candidate) {
            return self.outdated(candidate);
        }
        // What was learned shows before and after, whether a gate asks for it or not; a first version has no before.
        if rules.is_empty() && (matches!(candidate.origin, Origin::Folder) || candidate.is_first()) {
            return self.recipes.make_active(candidate, recipe);
        }
        match self.replay_candidate(candidate, &recipe.pipeline, &rules) {
            Ok(None) => self.outdated(candidate),
            Ok(Some(replay)) if replay.failed.is_empty() => {
                let words = replay::other_size_words(&replay);
                self.recipes.note(candidate, Step::Replayed, words, Some(replay), false, None)?;
                self.recipes.make_active(candidate, recipe)
            }
            Ok(Some(replay)) => self.recipes.refuse(candidate, replay.failed.join("; "), Some(replay)),
            Err(reason) => {
                self.recipes.refuse(candidate, format!("it could not be replayed: {reason}"), None)
            }
        }
    }
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
