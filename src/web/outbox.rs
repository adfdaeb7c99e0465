//! What the broker has not taken: how much is owed, and what was given up. Another try is the command `retry`.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::store::Store;
use crate::store::outbox::DeadLetter;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Dead letters that are listed; the newest are left out.
const LISTED_MAX: usize = 500;

/// The outbox.
#[derive(Serialize, ToSchema)]
pub struct OutboxView {
    /// Results and verdicts of parts that the broker has not acknowledged.
    pub owed: u64,
    /// Messages that were given up, in all.
    pub dead: usize,
    /// The first 500 of them: by kind, lowest first.
    pub letters: Vec<LetterView>,
}

/// A message that was given up.
#[derive(Serialize, ToSchema)]
pub struct LetterView {
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
pub async fn outbox(State(store): State<Arc<Store>>, _viewer: Viewer) -> Result<Json<OutboxView>, ApiError> {
    let letters = blocking(&store, |store| Ok(store.dead_letters()?)).await?;
    let view = |DeadLetter { owed, cause, reason, at, .. }| LetterView {
        kind: owed.kind.as_str(),
        seq: owed.seq,
        cause: cause.as_str(),
        reason,
        at,
    };
    let (owed, dead) = (store.outbox_len(), letters.len());
    Ok(Json(OutboxView { owed, dead, letters: letters.into_iter().take(LISTED_MAX).map(view).collect() }))
}
