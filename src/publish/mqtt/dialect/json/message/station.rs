//! What a station publishes about itself: its state, its cameras', alarms, counts.

use super::{PROBABILITY_DIGITS, SCHEMA, SIZE_DIGITS, known, to_json};
use crate::domain::camera::CameraStatus;
use crate::domain::recipe::RecipeStatus;
use crate::publish::mqtt::command::Presence;
use crate::publish::{StationState, Stats, instance};
use crate::store::record::rfc3339;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// The bytes of `status`; `since` is when the connection was made (or, stopping, the stop).
pub fn status(state: StationState, since: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct StatusV1 {
        schema: u16,
        state: &'static str,
        since: String,
        version: &'static str,
        /// Names the process: two stations of one path have two.
        instance: &'static str,
    }
    to_json(&StatusV1 {
        schema: SCHEMA,
        state: state.as_str(),
        since: rfc3339(since),
        version: env!("CARGO_PKG_VERSION"),
        instance: instance(),
    })
}

/// Who says `status`, and whether it is there; `None` where the bytes are no status. Versions before the field have no
/// instance.
pub(crate) fn presence(status: &[u8]) -> Option<Presence> {
    #[derive(Deserialize)]
    struct Said {
        state: String,
        #[serde(default)]
        instance: String,
    }
    let Said { state, instance } = serde_json::from_slice(status).ok()?;
    Some(Presence { instance, online: state == StationState::Online.as_str() })
}

/// The bytes of `camera/{id}/status`; texts that do not apply are empty.
pub fn camera_status(status: &CameraStatus, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct CameraV1<'a> {
        schema: u16,
        state: &'static str,
        /// Empty unless the state is a fault.
        reason: &'a str,
        ts: String,
        /// The recipe of the next picture; empty while there is none.
        pipeline: &'a str,
        pipeline_version: &'a str,
        /// Who commanded this recipe; empty: it is the config's.
        pipeline_by: &'a str,
        paused: bool,
        paused_by: &'a str,
        /// When recipe or pause were last commanded; empty: never.
        since: &'a str,
    }
    to_json(&CameraV1 {
        schema: SCHEMA,
        state: status.state.as_str(),
        reason: &status.reason,
        ts: rfc3339(at),
        pipeline: &status.line.pipeline,
        pipeline_version: &status.line.pipeline_version,
        pipeline_by: &status.line.pipeline_by,
        paused: status.line.paused,
        paused_by: &status.line.paused_by,
        since: &status.line.since,
    })
}

/// The bytes of `recipe/{name}`; flat, texts that do not apply are empty.
pub fn recipe(status: &RecipeStatus, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct RecipeV1<'a> {
        schema: u16,
        ts: String,
        pipeline: &'a str,
        /// Pictures are judged by this version.
        active: &'a str,
        /// What the newest step is about: found, checked, replayed, active, refused, `model_held`, `model_refused`.
        version: &'a str,
        step: &'static str,
        by: &'a str,
        reason: &'a str,
        /// Parts of the replay that goes on or is over; 0 of 0: there was none.
        replay_done: usize,
        replay_total: usize,
        replay_lost: usize,
        replay_alarms: usize,
    }
    to_json(&RecipeV1 {
        schema: SCHEMA,
        ts: rfc3339(at),
        pipeline: &status.pipeline,
        active: &status.active,
        version: &status.version,
        step: status.step,
        by: &status.by,
        reason: &status.reason,
        replay_done: status.done,
        replay_total: status.total,
        replay_lost: status.lost,
        replay_alarms: status.alarms,
    })
}

/// The bytes of `alarm/{code}`.
pub fn alarm(code: &str, raised: bool, message: &str, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct AlarmV1<'a> {
        schema: u16,
        code: &'a str,
        state: &'static str,
        message: &'a str,
        ts: String,
    }
    let state = if raised { "raised" } else { "cleared" };
    to_json(&AlarmV1 { schema: SCHEMA, code, state, message, ts: rfc3339(at) })
}

/// The bytes of `stats`.
pub fn stats(stats: &Stats, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct StatsV1 {
        schema: u16,
        ts: String,
        window_s: f64,
        inspected: u64,
        pass: u64,
        fail: u64,
        review: u64,
        /// Share of passes among all parts; -1.0 without parts.
        #[serde(rename = "yield")]
        share_passed: f64,
        per_minute: f64,
        latency_p50_ms: f64,
        latency_p95_ms: f64,
        latency_max_ms: f64,
        dropped: u64,
        outbox: u64,
    }
    let inspected = stats.pass.saturating_add(stats.fail).saturating_add(stats.review);
    // Counts of one window are far below 2^52, where a float begins to skip whole numbers.
    let parts = inspected as f64;
    to_json(&StatsV1 {
        schema: SCHEMA,
        ts: rfc3339(at),
        window_s: known(stats.window_s, SIZE_DIGITS),
        inspected,
        pass: stats.pass,
        fail: stats.fail,
        review: stats.review,
        share_passed: known(stats.pass as f64 / parts, PROBABILITY_DIGITS),
        per_minute: known(parts * 60.0 / stats.window_s, SIZE_DIGITS),
        latency_p50_ms: known(stats.latency_p50_ms, SIZE_DIGITS),
        latency_p95_ms: known(stats.latency_p95_ms, SIZE_DIGITS),
        latency_max_ms: known(stats.latency_max_ms, SIZE_DIGITS),
        dropped: stats.dropped,
        outbox: stats.outbox,
    })
}
