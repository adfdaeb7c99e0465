//! How the cameras are: what they are inspected by, whether they are paused, on whose word, and what is risky about
//! their recipes.
//!
//! ```text
//! dispatcher, capture loops, store --> the daemon's board --asked--.
//! registry --the warnings about every active recipe---+--> GET /api/v1/cameras --> the page's line of cameras,
//!                                                                                  and its warnings
//! config --its own warnings, as the start read it--------> GET /api/v1/config/warnings --> the same, for engineers
//! ```

use super::auth::{Engineer, Viewer};
use super::error::Problem;
use crate::domain::camera::CameraStatus;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;

/// Asks the daemon how its cameras are, by id.
pub type Cameras = Box<dyn Fn() -> Vec<(String, CameraStatus)> + Send + Sync>;

/// Asks the daemon what is risky about an active recipe, by its name.
pub type Warnings = Box<dyn Fn(&str) -> Vec<Warning> + Send + Sync>;

/// How the station's cameras are, once they are open.
#[derive(Default)]
pub(crate) struct StationView {
    cameras: OnceLock<(Cameras, Warnings)>,
    config: OnceLock<Vec<Warning>>,
}

impl StationView {
    /// From now on the page shows these cameras, and the warnings about the recipes that they run. The first call
    /// counts: a page lives as long as its line.
    pub(crate) fn show_cameras(&self, cameras: Cameras, warnings: Warnings) {
        let _ = self.cameras.set((cameras, warnings));
    }

    /// From now on the page shows these warnings about the config. The first call counts: a page lives as long as its
    /// config is in force.
    pub(crate) fn show_config_warnings(&self, warnings: Vec<Warning>) {
        let _ = self.config.set(warnings);
    }

    /// All of them; empty until they are open.
    pub(crate) fn all(&self) -> Vec<Camera> {
        let Some((cameras, warnings)) = self.cameras.get() else { return vec![] };
        cameras().into_iter().map(|(id, status)| wire(id, status, warnings)).collect()
    }
}

/// What is valid and risky in a recipe or in the config, as `inspectd check` says it: above all how a defective part
/// could pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warning {
    /// The file of the recipe, or of the config.
    pub file: String,
    /// Where the key or, without it, the section around it stands: from 1.
    pub line: usize,
    /// Path of the key, as in `tiling.tile_px`.
    pub key: String,
    /// The value as written; empty where the key is not there or is a section.
    pub value: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// One camera, as `camera/{id}/status` over MQTT says it, and what is risky about its recipe; texts that do not apply
/// are empty.
#[derive(Serialize, ToSchema)]
pub(crate) struct Camera {
    pub id: String,
    /// ready, busy, fault.
    pub state: &'static str,
    pub reason: String,
    pub pipeline: String,
    pub pipeline_version: String,
    /// Who commanded the pipeline; empty: it is the config's.
    pub pipeline_by: String,
    pub paused: bool,
    pub paused_by: String,
    /// When pause or pipeline were last commanded.
    pub since: String,
    /// The warnings about the recipe in force; empty: there are none, or no recipe is in force.
    pub warnings: Vec<Warning>,
}

/// The cameras; empty until they are open.
#[utoipa::path(get, path = "/api/v1/cameras", tag = "commands", responses((status = 200, body = Vec<Camera>)))]
pub(crate) async fn cameras(State(view): State<Arc<StationView>>, _: Viewer) -> Json<Vec<Camera>> {
    Json(view.all())
}

/// What is valid and risky in the config itself, as `inspectd check` says it; the warnings about recipes stand at the
/// cameras that run them.
#[utoipa::path(get, path = "/api/v1/config/warnings", tag = "commands", responses(
    (status = 200, body = Vec<Warning>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(crate) async fn config_warnings(State(view): State<Arc<StationView>>, _: Engineer) -> Json<Vec<Warning>> {
    Json(view.config.get().cloned().unwrap_or_default())
}

fn wire(id: String, status: CameraStatus, warnings: &Warnings) -> Camera {
    let CameraStatus { state, reason, line } = status;
    Camera {
        warnings: warnings(&line.pipeline),
        id,
        state: state.as_str(),
        reason,
        pipeline: line.pipeline,
        pipeline_version: line.pipeline_version,
        pipeline_by: line.pipeline_by,
        paused: line.paused,
        paused_by: line.paused_by,
        since: line.since,
    }
}
