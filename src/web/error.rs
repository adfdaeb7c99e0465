//! Answers that say no: a status, a stable word for machines, words for people; and why there is no page at all.

use crate::store::error::StoreError;
use crate::store::review::ReviewError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::net::SocketAddr;
use utoipa::ToSchema;

/// The body of every answer that says no.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Stable word, for example `changed`.
    pub code: &'static str,
    /// What is wrong, in English.
    pub error: String,
}

/// What an answer that says no says, for who says it in another form; an extension of the answer.
#[derive(Clone, Debug)]
pub(super) struct Stated {
    pub code: &'static str,
    pub error: String,
}

/// Why a request is not done.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    error: String,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        Self { status, code, error: error.into() }
    }

    pub fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", error)
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// Its status, and what it states.
    pub(super) fn into_parts(self) -> (StatusCode, Stated) {
        (self.status, Stated { code: self.code, error: self.error })
    }

    /// The work ended in a panic or was cut off.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server could not do it; its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let stated = Stated { code: self.code, error: self.error.clone() };
        let mut answer = (self.status, Json(Problem { code: self.code, error: self.error })).into_response();
        answer.extensions_mut().insert(stated);
        answer
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopped { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_stopped", error.to_string())
            }
            error if error.passes() => Self::new(StatusCode::SERVICE_UNAVAILABLE, "full", error.to_string()),
            error => Self::internal(error),
        }
    }
}

impl From<ReviewError> for ApiError {
    fn from(error: ReviewError) -> Self {
        let words = error.to_string();
        match error {
            ReviewError::NoInspection { .. } => Self::not_found(words),
            ReviewError::Changed { .. } => Self::new(StatusCode::CONFLICT, "changed", words),
            ReviewError::Picture { .. } => Self::new(StatusCode::CONFLICT, "picture", words),
            ReviewError::NothingToUndo { .. } => Self::new(StatusCode::CONFLICT, "nothing_to_undo", words),
            ReviewError::Invalid { .. } => Self::bad(words),
            ReviewError::Store { source } => source.into(),
        }
    }
}

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("[web] listen {listen}: {source}")]
    Listen { listen: SocketAddr, source: std::io::Error },
    #[error("[web] certificate: {reason}")]
    Certificate { reason: String },
    #[error("the web server: {source}")]
    Start { source: std::io::Error },
    #[error("the web server: {source}")]
    Store {
        #[from]
        source: StoreError,
    },
}
