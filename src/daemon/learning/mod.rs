//! Learning on the box while the line runs.
//!
//! ```text
//! an engineer --start--> one job --> thread `learning`: job (ask, draft, sample, taught) --version--> recipes
//!             --cancel-----^  '--progress, outcome--> page               active | refused <--checks, replay--'
//! ```
//!
//! Invariants:
//! - One job at a time. The line goes first: the engine is asked at class `Replay`, and one thread computes.
//! - Whatever ends the process, the line stays as it was: a job keeps nothing, and its version becomes active by the
//!   recipes' one batch or not at all.

mod ask;
mod draft;
mod job;
#[cfg(test)]
mod kept_tests;
mod product;
mod sample;
mod taught;

use super::promise::Confirmed;
use super::recipes::{Cancel, Recipes};
use crate::camera::Stop;
use crate::domain::learn::{
    ActiveLesson, LearnJob, LearnKind, LearnOutcome, LearnRefusal, LearnStep, LearnWanted, Learnable,
};
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind};
use crate::domain::promise::{Proven, Wanted};
use crate::engine::Engine;
use crate::learn::head::{KIND_FEW, KIND_MIN};
use crate::learn::references::{GOOD_FEW, GOOD_MIN};
use crate::queue::{Policy, Popped, Pushed, Queue};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::record::rfc3339;
use crate::threads;
use crate::web::learn as web;
use crate::web::recipes::Recipes as _;
use crate::web::thresholds;
use draft::Draft;
use job::Job;
use product::Ground;
use sample::Counts;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// For so long what was counted is shown again: pages ask every few seconds.
const COUNTED_FOR: Duration = Duration::from_secs(5);
/// How often the thread looks whether the station stops.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be learned, on whose word.
struct Request {
    pipeline: String,
    wanted: LearnWanted,
    /// `None`: confirmed parts of a pipeline that there is.
    product: Option<Ground>,
    by: String,
    cancel: Arc<Cancel>,
}

/// The job under way, and the last one of each pipeline.
#[derive(Default)]
struct Jobs {
    now: Option<(LearnJob, Arc<Cancel>)>,
    last: BTreeMap<String, LearnOutcome>,
}

/// What the page and the thread share.
struct Shared {
    registry: Arc<Registry>,
    store: Arc<Store>,
    recipes: Arc<Recipes>,
    stop: Stop,
    jobs: Mutex<Jobs>,
}

impl Shared {
    fn jobs(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_progress(&self, step: LearnStep, done: usize, total: usize) {
        if let Some((job, _)) = &mut self.jobs().now {
            (job.step, job.done, job.total) = (step, done, total);
        }
    }

    /// How far the replay of the version is, as the recipes say.
    fn show_replay(&self, pipeline: &str) {
        if let Some(replay) = self.recipes.progress().filter(|replay| replay.pipeline == pipeline) {
            self.set_progress(LearnStep::Proving, replay.done, replay.total);
        }
    }
}

/// The way to the thread of learning; share it in an `Arc`.
pub(super) struct Learning {
    shared: Arc<Shared>,
    requests: Arc<Queue<Request>>,
    counted: Mutex<Option<(Instant, BTreeMap<String, Counts>)>>,
}

impl Learning {
    pub(super) fn new(registry: Arc<Registry>, store: Arc<Store>, recipes: Arc<Recipes>, stop: Stop) -> Self {
        let shared = Arc::new(Shared { registry, store, recipes, stop, jobs: Mutex::default() });
        let requests = Arc::new(Queue::new(Policy::DropNewest, 1));
        Self { shared, requests, counted: Mutex::default() }
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        self.requests.close();
    }

    /// Hands a job to the thread, which has no other.
    ///
    /// # Errors
    /// `Busy`, `Stopping`.
    fn begin(&self, jobs: &mut Jobs, request: Request) -> Result<(), LearnRefusal> {
        if let Some((job, _)) = &jobs.now {
            return Err(LearnRefusal::Busy { pipeline: job.pipeline.clone() });
        }
        let (pipeline, by, what) = (request.pipeline.clone(), request.by.clone(), request.wanted.what);
        let cancel = Arc::clone(&request.cancel);
        match self.requests.push(request) {
            Pushed::Queued => {}
            Pushed::Dropped(_) => return Err(LearnRefusal::Busy { pipeline }),
            Pushed::Closed(_) => return Err(LearnRefusal::Stopping),
        }
        tracing::info!(pipeline, what = what.as_str(), by, "learning begins");
        let (at, step) = (rfc3339(SystemTime::now()), LearnStep::Looking);
        jobs.now = Some((LearnJob { pipeline, what, by, at, step, done: 0, total: 0 }, cancel));
        Ok(())
    }

    /// The confirmed parts by pipeline, as they were a moment ago.
    fn counts(&self) -> Result<BTreeMap<String, Counts>, StoreError> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counts)) = counted.as_ref().filter(|(at, _)| at.elapsed() < COUNTED_FOR) {
            return Ok(counts.clone());
        }
        let counts = sample::counts(&self.shared.store)?;
        *counted = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
}

impl web::Learning for Learning {
    fn learnable(&self) -> Result<Vec<Learnable>, LearnRefusal> {
        let counts = self.counts().map_err(not_stored)?;
        let jobs = self.shared.jobs();
        let of = |pipeline: &Pipeline| {
            let Counts { good, bad } = counts.get(&pipeline.name).copied().unwrap_or_default();
            Learnable {
                pipeline: pipeline.name.clone(),
                active: pipeline.version.clone(),
                is_gated: pipeline.gate.is_some(),
                good,
                bad,
                good_min: GOOD_MIN,
                good_few: GOOD_FEW,
                kind_min: KIND_MIN,
                kind_few: KIND_FEW,
                banks: active(pipeline, LearnKind::Bank),
                heads: active(pipeline, LearnKind::Head),
                job: jobs
                    .now
                    .as_ref()
                    .map(|(job, _)| job.clone())
                    .filter(|job| job.pipeline == pipeline.name),
                last: jobs.last.get(&pipeline.name).cloned(),
            }
        };
        let registry = &self.shared.registry;
        let mut all: Vec<_> = registry.all().iter().map(|recipe| of(&recipe.pipeline)).collect();
        all.extend(product::without_recipe(registry, &jobs));
        Ok(all)
    }

    fn start(&self, pipeline: &str, wanted: LearnWanted, by: &str) -> Result<(), LearnRefusal> {
        let name = || pipeline.to_owned();
        let recipe = self
            .shared
            .registry
            .get(pipeline)
            .ok_or_else(|| LearnRefusal::NoPipeline { pipeline: name() })?;
        Draft::of(&recipe, &wanted).map_err(|reason| LearnRefusal::Unfit { reason })?;
        let counts = sample::counts(&self.shared.store).map_err(not_stored)?;
        let counts = counts.get(pipeline).copied().unwrap_or_default();
        let mut jobs = self.shared.jobs();
        if jobs.now.is_none() {
            taught::enough(wanted.what, counts)
                .map_err(|why| LearnRefusal::TooLittle { reason: why.to_string() })?;
        }
        let (by, cancel) = (by.to_owned(), Arc::default());
        self.begin(&mut jobs, Request { pipeline: name(), wanted, product: None, by, cancel })
    }

    fn cancel(&self, pipeline: &str, by: &str) -> Result<(), LearnRefusal> {
        match &self.shared.jobs().now {
            Some((job, cancel)) if job.pipeline == pipeline => {
                cancel.cancel(by);
                Ok(())
            }
            _ => Err(LearnRefusal::NotUnderWay { pipeline: pipeline.to_owned() }),
        }
    }
}

impl thresholds::Promising for Learning {
    fn prove(&self, pipeline: &str, wanted: Wanted) -> Result<Proven, LearnRefusal> {
        let found = self.shared.registry.pipeline(pipeline);
        let found = found.ok_or_else(|| LearnRefusal::NoPipeline { pipeline: pipeline.to_owned() })?;
        let confirmed = Confirmed::of(&self.shared.store, &found).map_err(not_stored)?;
        Ok(confirmed.prove(&found, wanted))
    }
}

fn not_stored(error: StoreError) -> LearnRefusal {
    LearnRefusal::NotStored { reason: error.to_string() }
}

/// What a pipeline judges by, of one kind.
fn active(pipeline: &Pipeline, what: LearnKind) -> Vec<ActiveLesson> {
    let of = |prompt: &Prompt| {
        let PromptKind::Reference(rule) = &prompt.kind else { return None };
        let learned = rule.learned.as_ref().filter(|_| LearnKind::of(rule.lesson) == what)?;
        Some(ActiveLesson {
            prompt: prompt.id.clone(),
            file: rule.file.clone(),
            sha256: learned.sha256.clone(),
            features: rule.features,
            labels: rule.labels.clone(),
            origin: learned.judge.origin(),
        })
    };
    pipeline.prompts.iter().filter_map(of).collect()
}

/// Starts the thread of learning; it ends with `close` or with the station's stop.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start(learning: &Learning, engine: Arc<Engine>) -> std::io::Result<JoinHandle<()>> {
    let (shared, requests) = (Arc::clone(&learning.shared), Arc::clone(&learning.requests));
    threads::spawn("learning", move || {
        while !shared.stop.is_set() {
            match requests.pop(Some(LOOK)) {
                Popped::Item(request) => carry_out(&shared, &engine, &request),
                Popped::TimedOut => {}
                Popped::Closed => return,
            }
        }
    })
}

/// Carries a job out; whatever goes wrong in it is its outcome, and not the line's.
fn carry_out(shared: &Shared, engine: &Engine, request: &Request) {
    let outcome = threads::caught(|| Job::new(shared, engine, request).run());
    let what = request.wanted.what;
    let mut outcome = outcome.unwrap_or_else(|reason| LearnOutcome::failed(what, request.by.clone(), reason));
    outcome.at = rfc3339(SystemTime::now());
    let (pipeline, end, reason) = (&request.pipeline, outcome.end.as_str(), outcome.end.reason());
    tracing::info!(pipeline, what = what.as_str(), by = request.by, end, reason, "learning has ended");
    let mut jobs = shared.jobs();
    jobs.last.insert(request.pipeline.clone(), outcome);
    jobs.now = None;
}
