//! The same gate before another model: it answers the line when every recipe that asks for a proof has had one.
//!
//! ```text
//! inspectd model accept --> the new pair in a process of its own --replay by each active recipe with [gate]-->
//!     all hold: accepted | one does not: refused, with the parts | an engineer's reason: accepted without a replay
//! ```
//!
//! The line goes on with the model that it has. Meanwhile the box holds two of them.

use super::replay::Wanted;
use super::steps::entry;
use super::{Keeper, Recipes, Request};
use crate::causes;
use crate::control::ModelGate;
use crate::domain::pipeline::{Pipeline, labels_of};
use crate::engine::{Engine, marks_of_both};
use crate::store::pins::ModelPin;
use crate::store::recipes::{ReplayEntry, Step};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Starts a room with the model whose files are there now.
pub(crate) type Room = Box<dyn Fn() -> anyhow::Result<Engine> + Send>;

/// Signs of progress on their way; more are dropped.
const SIGNS_MAX: usize = 16;

/// A client that waits hears something at least this often, while a large model loads, too.
const SIGN: Duration = Duration::from_secs(5);

/// What the thread of recipes says about a model.
pub(super) enum Said {
    Progress { pipeline: String, done: u64, total: u64 },
    Judged(Result<(), String>),
}

/// The marks of an engine with this model.
fn marks_of(pin: &ModelPin) -> [String; 2] {
    let files = [&*pin.text_sha256, &*pin.mmproj_sha256];
    match &pin.servers {
        Some(servers) => marks_of_both(files, [&servers.text_sha256, &servers.mmproj_sha256]),
        None => files.map(str::to_owned),
    }
}

impl ModelGate for Recipes {
    fn labels(&self, pipeline: Option<&str>) -> Vec<String> {
        let mut active = self.registry.all();
        active.retain(|recipe| pipeline.is_none_or(|name| recipe.pipeline.name == name));
        labels_of(active.iter().map(|recipe| &*recipe.pipeline))
    }

    fn replay(
        &self,
        model: &ModelPin,
        progress: &mut dyn FnMut(&str, u64, u64) -> bool,
    ) -> Result<(), String> {
        let (say, said) = sync_channel(SIGNS_MAX);
        self.ask(Request::Model { model: model.clone(), say }).map_err(|error| error.to_string())?;
        let mut last = (String::new(), 0, 0);
        loop {
            match said.recv_timeout(SIGN) {
                Ok(Said::Progress { pipeline, done, total }) => last = (pipeline, done, total),
                Ok(Said::Judged(judged)) => return judged,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("the station is stopping".into()),
            }
            // Whoever does not wait any more ends the work with it: its answer has no taker.
            if !progress(&last.0, last.1, last.2) {
                return Err("nobody waits for it any more".into());
            }
        }
    }

    fn accepted_without(&self, model: &ModelPin, reason: &str) -> Result<(), String> {
        let gated = self.registry.all().into_iter().filter(|recipe| recipe.pipeline.gate.is_some());
        for recipe in gated {
            let mut step = of_model(&recipe.pipeline, model, Step::ModelHeld, reason.to_owned(), None);
            step.is_override = true;
            self.store.append_recipe_step(step, None, None).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl Keeper {
    /// Replays by every recipe that asks for it; what holds and what does not is in the ledger.
    pub(super) fn judge_model(&self, model: &ModelPin, say: &SyncSender<Said>) {
        let judged = self.judged_model(model, say);
        // Whoever asked may have gone.
        let _ = say.send(Said::Judged(judged));
    }

    fn judged_model(&self, model: &ModelPin, say: &SyncSender<Said>) -> Result<(), String> {
        let gated: Vec<_> = self.recipes.registry.all();
        let gated: Vec<_> = gated.iter().filter(|recipe| recipe.pipeline.gate.is_some()).collect();
        if gated.is_empty() {
            return Ok(());
        }
        let engine = (self.room)()
            .map_err(|error| format!("the new model cannot be asked: {}", causes::told(&error)))?;
        let info = engine.info();
        if [info.text_sha256.clone(), info.mmproj_sha256.clone()] != marks_of(model) {
            return Err("the model's files have changed meanwhile".into());
        }
        let mut lost = vec![];
        for recipe in gated {
            let pipeline = &recipe.pipeline;
            let rules: Vec<_> = pipeline.gate.iter().cloned().collect();
            let wanted = |done: usize, total: usize| {
                let (done, total) = (done as u64, total as u64);
                // A full channel has signs enough.
                let sign = Said::Progress { pipeline: pipeline.name.clone(), done, total };
                let gone = matches!(say.try_send(sign), Err(std::sync::mpsc::TrySendError::Disconnected(_)));
                if gone || self.stop.is_set() { Wanted::No } else { Wanted::Yes }
            };
            let replay = self.replay(&engine, pipeline, &rules, &wanted)?;
            let replay = replay.ok_or("nobody waits for it any more")?;
            let (failed, step) = (
                replay.failed.join("; "),
                if replay.failed.is_empty() { Step::ModelHeld } else { Step::ModelRefused },
            );
            if step == Step::ModelRefused {
                let ids: Vec<&str> = replay.lost.iter().map(|part| part.id.as_str()).collect();
                let ids = if ids.is_empty() { String::new() } else { format!(" (lost: {})", ids.join(", ")) };
                lost.push(format!("{}: {failed}{ids}", pipeline.name));
            }
            let step = of_model(pipeline, model, step, failed, Some(replay));
            self.recipes.store.append_recipe_step(step, None, None).map_err(|error| error.to_string())?;
        }
        if lost.is_empty() { Ok(()) } else { Err(lost.join("\n")) }
    }
}

fn of_model(
    pipeline: &Arc<Pipeline>,
    model: &ModelPin,
    step: Step,
    reason: String,
    replay: Option<ReplayEntry>,
) -> crate::store::recipes::Entry {
    let by = format!("{}, model {}", model.by, model.name);
    entry(&pipeline.name, &pipeline.version, step, &by, reason, replay)
}
