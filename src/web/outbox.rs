//! What the sinks have not taken: how much is owed, and what was given up. Another try is the command `retry`.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::metrics::Metrics;
use crate::store::Store;
use crate::store::outbox::{DeadLetter, SinkState};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Dead letters that are listed; the newest are left out.
const LISTED_MAX: usize = 500;

/// The outbox.
#[derive(Serialize, ToSchema)]
pub(super) struct OutboxView {
    /// Results and verdicts of parts that the enabled sink that is furthest behind has not acknowledged.
    pub owed: u64,
    /// Messages that were given up, in all.
    pub dead: usize,
    /// The first 500 of them: by sink, in the order of the log.
    pub letters: Vec<LetterView>,
    /// All sinks that are known, by name.
    pub sinks: Vec<SinkView>,
}

/// How a sink stands.
#[derive(Serialize, ToSchema)]
pub(super) struct SinkView {
    pub name: String,
    pub enabled: bool,
    pub connected: bool,
    /// The lowest place of the log that it has not acknowledged.
    pub cursor: u64,
    /// Messages that it has not acknowledged, by kind.
    pub result: u64,
    pub part: u64,
    pub review: u64,
}

/// A message that was given up.
#[derive(Serialize, ToSchema)]
pub(super) struct LetterView {
    /// The sink that has given it up.
    pub sink: String,
    /// result, part or review.
    pub kind: &'static str,
    /// Of the inspection, of a part's newest view, or of the review.
    pub seq: u64,
    /// size, unreadable, invalid or dropped.
    pub cause: &'static str,
    pub reason: String,
    pub at: String,
}

/// What the broker has not taken.
#[utoipa::path(get, path = "/api/v1/outbox", tag = "commands", responses(
    (status = 200, body = OutboxView), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn outbox(
    State(store): State<Arc<Store>>,
    State(metrics): State<Arc<Metrics>>,
    _viewer: Viewer,
) -> Result<Json<OutboxView>, ApiError> {
    let (letters, known) = blocking(&store, |store| Ok((store.dead_letters()?, store.sinks()?))).await?;
    let view = |DeadLetter { sink, owed, cause, reason, at, .. }| LetterView {
        sink,
        kind: owed.kind.as_str(),
        seq: owed.seq,
        cause: cause.as_str(),
        reason,
        at,
    };
    let connected = metrics.sinks();
    let sink = |SinkState { name, enabled, cursor, owed: [result, part, review], .. }| SinkView {
        connected: connected.iter().any(|(sink, up)| *sink == name && *up),
        name,
        enabled,
        cursor,
        result,
        part,
        review,
    };
    let sinks = known.into_iter().map(sink).collect();
    let (owed, dead) = (store.outbox_len(), letters.len());
    let letters = letters.into_iter().take(LISTED_MAX).map(view).collect();
    Ok(Json(OutboxView { owed, dead, letters, sinks }))
}
