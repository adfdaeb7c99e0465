//! How the cameras are: what they are inspected by, whether they are paused, and on whose word.
//!
//!     desk, takers, store --> the daemon's board --asked--> GET /api/v1/cameras --> the page's line of cameras

use super::auth::Viewer;
use super::App;
use crate::domain::camera::CameraStatus;
use axum::extract::State;
use axum::Json;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Asks the daemon how its cameras are, by id.
pub type Cameras = Box<dyn Fn() -> Vec<(String, CameraStatus)> + Send + Sync>;

/// One camera, as `camera/{id}/status` over MQTT says it; texts that do not apply are empty.
#[derive(Serialize, ToSchema)]
pub struct Camera {
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
}

/// The cameras; empty until they are open.
#[utoipa::path(get, path = "/api/v1/cameras", tag = "commands", responses((status = 200, body = Vec<Camera>)))]
pub async fn cameras(State(app): State<Arc<App>>, _: Viewer) -> Json<Vec<Camera>> {
    let all = app.cameras.get().map_or_else(Vec::new, |cameras| cameras());
    Json(all.into_iter().map(|(id, status)| wire(id, status)).collect())
}

fn wire(id: String, status: CameraStatus) -> Camera {
    let CameraStatus { state, reason, line } = status;
    Camera {
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

impl App {
    /// From now on the page shows these cameras. The first call counts: a page lives as long as its line.
    pub fn show_cameras(&self, cameras: Cameras) {
        let _ = self.cameras.set(cameras);
    }
}
