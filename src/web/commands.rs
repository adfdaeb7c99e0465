//! Commands to the line over HTTP: the same words, the same refusals as `cmd/…` over MQTT.
//!
//! ```text
//! POST --words--> command::parse --> the dispatcher's handler (set when the cameras are open)
//!      <-- 202 accepted | 4xx with the refusal's code and reason | 503 starting, stopping
//! ```
//!
//! Accepted means that the dispatcher has it: the picture is taken and the result published as for any other
//! trigger, and what comes of it is in the result.

use super::auth::{Operator, Role};
use super::error::{ApiError, Problem};
use crate::command::{self, CommandBody, Handler, Order, Verb};
use crate::domain::trigger::{Refusal, Sender};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use utoipa::ToSchema;

/// The way to the line: where commands go, once the cameras are open. The page is there before them.
#[derive(Default)]
pub struct Line(OnceLock<Handler>);

impl Line {
    /// From now on commands are taken; until then they are refused as `starting`. The first call counts.
    pub fn take_commands(&self, handler: Handler) {
        // A second handler would be that of another line, and a page lives as long as its line.
        let _ = self.0.set(handler);
    }
}

/// What the dispatcher has taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// trigger, pipeline, pause, resume, retry, reload.
    pub command: &'static str,
    /// Echoed.
    pub correlation_id: Option<String>,
    /// Of a trigger: the id that its results name. Of one that comes again it is the first one's.
    pub trigger_id: Option<String>,
}

/// Commands the line: trigger, pipeline, pause, resume or, for an engineer, retry (messages that were given up are
/// owed to the broker again) and reload (the folder of recipes is looked at now), in the words of `cmd/…` over MQTT.
#[utoipa::path(post, path = "/api/v1/commands/{command}", tag = "commands",
    params(("command" = String, Path, description = "trigger, pipeline, pause, resume, retry or reload")),
    request_body = CommandBody, responses(
    (status = 202, body = Accepted), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 415, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn command(
    State(line): State<Arc<Line>>,
    Operator(principal): Operator,
    Path(word): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    // The deadline counts from here: what comes before is the network's.
    let received = Instant::now();
    if !body.is_empty() && !is_json(&headers) {
        let error = "send Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", error));
    }
    let verb = Verb::parse(&word);
    if matches!(verb, Ok(Verb::Retry | Verb::Reload)) && principal.role < Role::Engineer {
        let error = format!(
            "the command {word} needs the role engineer, {} is {}",
            principal.name,
            principal.role.as_str()
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, "role", error));
    }
    let sender = Sender::Http { name: principal.name };
    let parsed = verb.and_then(|verb| Ok((verb, command::parse(verb, &body, received)?)));
    let (verb, Order { command, correlation_id }) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => {
            command::log::outcome(&word, &sender, command::id_in(&body).as_deref(), &Err(refusal.clone()));
            return Err(refusal.into());
        }
    };
    let outcome = match line.0.get() {
        Some(handler) => command::carry_out(handler, command, sender.clone()).await,
        None => Err(Refusal::Starting),
    };
    command::log::outcome(verb.as_str(), &sender, correlation_id.as_deref(), &outcome);
    let trigger_id = outcome?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { command: verb.as_str(), correlation_id, trigger_id })))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Malformed { .. } | Refusal::ResponseTopic { .. } => StatusCode::BAD_REQUEST,
            Refusal::NoCamera { .. } | Refusal::NoPart { .. } | Refusal::NoPipeline { .. } => {
                StatusCode::NOT_FOUND
            }
            Refusal::NotTriggered { .. }
            | Refusal::Paused { .. }
            | Refusal::Unfit { .. }
            | Refusal::Fault { .. }
            | Refusal::Repeated { .. } => StatusCode::CONFLICT,
            Refusal::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::NotStored { .. } | Refusal::Starting | Refusal::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, refusal.code(), refusal.to_string())
    }
}
