//! One job: from confirmed parts to a version of their recipe that judges by what was learned.
//!
//! ```text
//! confirmed parts --a picture at a time: the recipe's tiles, engine: features--> examples --learn--> bank or head
//!     active recipe with its file --recipes: checked, replayed--> active | refused
//! ```
//!
//! Invariants:
//! - Nothing is kept before the version is handed over; then it is one of the recipes' steps.
//! - All features of one job are those of one model.

mod first;

use super::ask;
use super::draft::Draft;
use super::sample;
use super::taught::{self, Ground, Taught};
use super::{Request, Shared};
use crate::daemon::recipes::{Cancel, Confirmed, Fate, Learned, confirmed, frame, picture};
use crate::domain::frame::Frame;
use crate::domain::learn::{LearnEnd, LearnOutcome, LearnStep, LeftOut};
use crate::domain::pipeline::{FrameSize, Pipeline};
use crate::engine::Engine;
use crate::inspect::adapter::model_of;
use crate::inspect::reference::features_sha256;
use crate::inspect::reference::file::BANK_BYTES_MAX;
use crate::learn::LearnError;
use crate::learn::example::{Example, Question, of_truth};
use crate::store::record::rfc3339;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, SystemTime};
use vlm::ModelInfo;

/// Most numbers of all examples together, of 16 bits each: 256 MiB beside everything else that the daemon holds.
const VALUES_MAX: usize = 128 << 20;
/// Parts that are named with the reason why they were not learned from.
const LEFT_OUT_MAX: usize = 20;
/// How often the fate of a version is asked for.
const LOOK: Duration = Duration::from_millis(100);

/// Why a job ends before its version was handed over.
enum Ended {
    /// Cancelled, or the station is stopping.
    Unwanted,
    Failed(String),
}

impl From<String> for Ended {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<LearnError> for Ended {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Stopped => Self::Unwanted,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// A job that is carried out.
pub(super) struct Job<'a> {
    shared: &'a Shared,
    engine: &'a Engine,
    request: &'a Request,
    outcome: LearnOutcome,
}

impl<'a> Job<'a> {
    pub(super) fn new(shared: &'a Shared, engine: &'a Engine, request: &'a Request) -> Self {
        let outcome = LearnOutcome::failed(request.wanted.what, request.by.clone(), String::new());
        Self { shared, engine, request, outcome }
    }

    /// What came of it.
    pub(super) fn run(mut self) -> LearnOutcome {
        let learned = match &self.request.product {
            Some(ground) => self.first(ground),
            None => self.learned(),
        };
        self.outcome.end = match learned {
            Ok(learned) => self.proven(learned),
            Err(ended) => self.ended(ended),
        };
        self.outcome
    }

    fn cancel(&self) -> &Cancel {
        &self.request.cancel
    }

    fn is_wanted(&self) -> bool {
        self.cancel().by().is_none() && !self.shared.stop.is_set()
    }

    fn ended(&self, ended: Ended) -> LearnEnd {
        match (ended, self.cancel().by()) {
            (Ended::Failed(reason), _) => LearnEnd::Failed { reason },
            (Ended::Unwanted, Some(by)) => LearnEnd::Cancelled { by: by.to_owned() },
            (Ended::Unwanted, None) => LearnEnd::Failed { reason: "the station is stopping".into() },
        }
    }

    /// The recipe with what was learned.
    fn learned(&mut self) -> Result<Learned, Ended> {
        let Request { pipeline: name, wanted, by, .. } = self.request;
        let recipe =
            self.shared.registry.get(name).ok_or_else(|| format!("there is no pipeline {name:?}"))?;
        let draft = Draft::of(&recipe, wanted)?;
        let (parts, gone) = confirmed(&self.shared.store, name).map_err(|error| error.to_string())?;
        self.outcome.left_out_count = gone;
        let parts = sample::choose(parts, wanted.what);
        let go_on = || self.is_wanted();
        let model = ask::ready(self.engine, &go_on)?.ok_or(Ended::Unwanted)?;
        let examples = self.examples(&draft, parts, &model)?;
        self.shared.set_progress(LearnStep::Learning, 0, 0);
        let Taught { bytes, figures } = self.taught(&draft, &examples, &model)?;
        let words = figures.in_words();
        self.outcome.figures = Some(figures);
        let base = draft.base.clone();
        let (text, files) = draft.with_file(bytes);
        let by = format!("{by}, learned");
        let cancel = Arc::clone(&self.request.cancel);
        Ok(Learned { pipeline: name.clone(), base, text, files, by, words, cancel, made_of: vec![] })
    }

    /// The features of all parts; one that is no proper picture of the recipe is left out and named.
    fn examples(
        &mut self,
        draft: &Draft,
        parts: Vec<Confirmed>,
        model: &ModelInfo,
    ) -> Result<Vec<Example>, Ended> {
        let (total, mut examples, mut values) = (parts.len(), vec![], 0);
        for (done, Confirmed { part, inspection, image }) in parts.into_iter().enumerate() {
            self.shared.set_progress(LearnStep::Looking, done, total);
            let Some(pixels) = picture(&self.shared.store, &image) else {
                self.leave_out(part.id, "its picture is missing or damaged".into());
                continue;
            };
            let frame = Frame { origin: part.id.clone(), ..frame(&inspection, Arc::new(pixels)) };
            let pipeline = self.sized(&draft.pipeline, &frame.camera)?;
            let learning = self.request.wanted.what;
            let question = Question { pipeline: &pipeline, prompt: draft.prompt, learning };
            let asked = match question.ask(&frame, model) {
                Ok(asked) => asked,
                Err(LearnError::Picture { why, .. }) => {
                    self.leave_out(part.id, why);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let go_on = || self.is_wanted();
            let answers = ask::ask(self.engine, asked.jobs.clone(), &go_on)?.ok_or(Ended::Unwanted)?;
            if self.engine.info() != *model {
                return Err(Ended::Failed("the model was exchanged meanwhile".into()));
            }
            let confirmed = of_truth(&part.truth);
            match question.example(&part.id, confirmed, &asked, answers) {
                Ok(example) if values + example.values() > VALUES_MAX => {
                    self.leave_out(part.id, "there is no memory for more parts than those before it".into());
                }
                Ok(example) => {
                    values += example.values();
                    examples.push(example);
                }
                Err(LearnError::Picture { why, .. }) => self.leave_out(part.id, why),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(examples)
    }

    /// With the size of frames that was learned, as the line judges them, where the recipe states none.
    fn sized(&self, pipeline: &Pipeline, camera: &str) -> Result<Pipeline, Ended> {
        let mut sized = pipeline.clone();
        if sized.frame.size == FrameSize::Unknown {
            let learned = self.shared.store.frame_size(camera, &pipeline.name);
            if let Some((width, height)) = learned.map_err(|error| error.to_string())? {
                sized.frame.size = FrameSize::Learned { width, height };
            }
        }
        Ok(sized)
    }

    fn leave_out(&mut self, id: String, reason: String) {
        self.outcome.left_out_count += 1;
        if self.outcome.left_out.len() < LEFT_OUT_MAX {
            self.outcome.left_out.push(LeftOut { id, reason });
        }
    }

    /// What the examples teach. One thread computes it: the others are the line's.
    fn taught(&self, draft: &Draft, examples: &[Example], model: &ModelInfo) -> Result<Taught, Ended> {
        let (pipeline, rule) = (&draft.pipeline, &draft.rule);
        let model = model_of(pipeline, model);
        let (features_sha256, at) = (features_sha256(rule.features, &model), rfc3339(SystemTime::now()));
        let ground = Ground { pipeline, rule, features_sha256: &features_sha256, at: &at };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "learn".to_owned()).build();
        let pool = pool.map_err(|error| format!("a thread to learn on: {error}"))?;
        let (cancel, stop) = (self.cancel(), &self.shared.stop);
        let go_on = || cancel.by().is_none() && !stop.is_set();
        let taught = pool.install(|| taught::learn(examples, ground, &go_on))?;
        let bytes = taught.bytes.len();
        if bytes > BANK_BYTES_MAX {
            let what = rule.lesson.as_str();
            let long = format!("the {what} would have {bytes} bytes, at most {BANK_BYTES_MAX} are read");
            return Err(Ended::Failed(long));
        }
        Ok(taught)
    }

    /// Hands the version over, and waits for what becomes of it.
    fn proven(&mut self, learned: Learned) -> LearnEnd {
        self.shared.set_progress(LearnStep::Proving, 0, 0);
        let version = learned.version();
        let said = match self.shared.recipes.prove(learned) {
            Ok(said) => said,
            Err(error) => return LearnEnd::Failed { reason: error.to_string() },
        };
        self.outcome.version = Some(version);
        loop {
            match said.recv_timeout(LOOK) {
                Ok(Ok(Fate::Active)) => return LearnEnd::Active,
                Ok(Ok(Fate::Refused { reason })) => {
                    let cancelled = self.cancel().by().map(|by| LearnEnd::Cancelled { by: by.to_owned() });
                    return cancelled.unwrap_or(LearnEnd::Refused { reason });
                }
                Ok(Err(reason)) => return LearnEnd::Failed { reason },
                Ok(Ok(Fate::Dropped)) | Err(RecvTimeoutError::Disconnected) => {
                    return LearnEnd::Failed { reason: "the station is stopping".into() };
                }
                Err(RecvTimeoutError::Timeout) => self.shared.show_replay(&self.request.pipeline),
            }
        }
    }
}
