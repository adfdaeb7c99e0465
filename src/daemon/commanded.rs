//! What a camera was commanded to do, kept over restarts.
//!
//! ```text
//! pause, resume, pipeline --written, durable--> state: commanded/{camera} --> only now it counts, and the
//!                                                                             sender is told
//! the next start: read, compared with the config --> the camera goes on as it was commanded
//! ```
//!
//! What a start finds, and what it makes of it:
//!
//! | found | then |
//! | --- | --- |
//! | paused | paused, until somebody resumes |
//! | the config names another pipeline than when the command came | the config's: it is the newer word, of an engineer |
//! | the commanded pipeline, as it was | it is in force |
//! | the commanded pipeline with another version | it is in force, and the log says so |
//! | no such pipeline any more, or one that does not fit the camera | none: nothing is judged, the camera is in fault |
//!
//! So no picture is ever judged by a recipe that neither the config's newest word nor a command has chosen.

use crate::config::{Camera, unfit};
use crate::domain::camera::LineState;
use crate::domain::pipeline::Pipeline;
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What stands in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Commanded {
    /// Who paused the camera.
    pub paused_by: Option<String>,
    pub recipe: Option<Recipe>,
    /// When the last of it was commanded, RFC 3339.
    pub since: Option<String>,
}

/// A commanded pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Recipe {
    pub pipeline: String,
    pub version: String,
    /// What the config named when the command came.
    pub configured: String,
    pub by: String,
}

/// What a camera works by.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// The recipe of what is accepted or taken next or, without one that may be used, the config's, by which
    /// nothing is judged.
    pub pipeline: Arc<Pipeline>,
    /// Why nothing may be judged.
    pub no_recipe: Option<String>,
    pub commanded: Commanded,
}

impl Orders {
    /// What the config says.
    pub(super) fn configured(pipeline: Arc<Pipeline>) -> Self {
        Self { pipeline, no_recipe: None, commanded: Commanded::default() }
    }

    /// What was commanded before this start or, where nothing was, what the config says.
    ///
    /// # Errors
    /// [`StoreError`]; a camera without its pipeline among `recipes`.
    pub(super) fn restore(camera: &Camera, recipes: &Registry, store: &Store) -> anyhow::Result<Self> {
        let configured = recipes.pipeline(&camera.pipeline);
        let configured =
            configured.ok_or_else(|| anyhow::anyhow!("there is no pipeline {:?}", camera.pipeline))?;
        // The config was checked with the file's version, and another one may be active.
        let no_recipe = unfit(camera, &configured)
            .map(|reason| format!("version {} of its pipeline does not fit: {reason}", configured.version));
        let mut orders = Self { no_recipe, ..Self::configured(configured) };
        let Some(commanded) = store.remembered::<Commanded>(&name(&camera.id))? else { return Ok(orders) };
        orders.commanded = commanded;
        if let Some(by) = &orders.commanded.paused_by {
            tracing::warn!(camera = %camera.id, by, "the camera is paused since before this start");
        }
        let Some(recipe) = orders.commanded.recipe.clone() else { return Ok(orders) };
        if recipe.configured != camera.pipeline {
            let Recipe { pipeline, configured: was, .. } = &recipe;
            tracing::warn!(camera = %camera.id, commanded = %pipeline, config = %camera.pipeline, was = %was,
                "the config names another pipeline since the command, and it is the newer word");
            orders.commanded.recipe = None;
            match orders.commanded.remember(&camera.id, store) {
                // A full disk is no reason not to start: the next start finds and decides the same.
                Err(error) if error.passes() => tracing::warn!(%error, "the command is not forgotten yet"),
                kept => kept?,
            }
            return Ok(orders);
        }
        orders.use_recipe(camera, &recipe, recipes);
        Ok(orders)
    }

    fn use_recipe(&mut self, camera: &Camera, recipe: &Recipe, recipes: &Registry) {
        let name = &recipe.pipeline;
        let found = recipes.pipeline(name).ok_or_else(|| "is not in pipelines_dir or has errors".to_owned());
        let fitting = found.and_then(|found| {
            unfit(camera, &found).map_or(Ok(found), |reason| Err(format!("does not fit: {reason}")))
        });
        match fitting {
            Ok(found) => {
                if found.version != recipe.version {
                    tracing::warn!(camera = %camera.id, pipeline = %name, commanded = %recipe.version,
                        now = %found.version, "the commanded pipeline has changed since the command");
                }
                tracing::info!(camera = %camera.id, pipeline = %name, by = %recipe.by, "the commanded pipeline is in force");
                (self.pipeline, self.no_recipe) = (found, None);
            }
            Err(reason) => {
                let reason = format!("its commanded pipeline {name:?} {reason}: command another one");
                tracing::error!(camera = %camera.id, reason, "nothing is judged");
                self.no_recipe = Some(reason);
            }
        }
    }

    /// As the station says it.
    pub(super) fn line(&self) -> LineState {
        let Commanded { paused_by, recipe, since } = self.commanded.clone();
        let mut line = LineState {
            pipeline_by: recipe.map(|r| r.by).unwrap_or_default(),
            paused: paused_by.is_some(),
            paused_by: paused_by.unwrap_or_default(),
            since: since.unwrap_or_default(),
            ..LineState::default()
        };
        if self.no_recipe.is_none() {
            line.pipeline.clone_from(&self.pipeline.name);
            line.pipeline_version.clone_from(&self.pipeline.version);
        }
        line
    }
}

impl Commanded {
    /// Durable when it returns.
    ///
    /// # Errors
    /// `DiskFull` leaves what was there.
    pub(super) fn remember(&self, camera: &str, store: &Store) -> Result<(), StoreError> {
        store.remember(&name(camera), self)
    }
}

fn name(camera: &str) -> String {
    format!("commanded/{camera}")
}
