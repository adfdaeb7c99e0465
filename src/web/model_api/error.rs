//! Answers that say no, in OpenAI's form, whoever says it: the routes here, the guard, or the router.
//!
//! ```text
//! Refused --> {"error": {"message", "type", "param", "code"}}
//! any other answer of 400 or more below /v1 --`speak`--> the same, with its own words
//! ```
//!
//! `Retry-After` says when to ask again; `x-should-retry: false` tells OpenAI's clients, which ask again by themselves,
//! that it would be in vain.

use super::asked::Refusal;
use crate::web::error::{ApiError, Stated};
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Below it answers have OpenAI's form.
pub(super) const ROOT: &str = "/v1/";
/// When somebody is to ask again for whom there was no room.
const ROOM_AFTER: Duration = Duration::from_secs(2);
/// The longest wait that is named: OpenAI's clients keep to no longer one.
const AFTER_MAX: Duration = Duration::from_mins(1);

/// The body of every answer below `/v1` that says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub error: ErrorWords,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorWords {
    /// In English, for people.
    pub message: String,
    /// `invalid_request_error`, `permission_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The key of the request that is wrong, as `messages[0].content[1].image_url.url`.
    pub param: Option<String>,
    /// Stable word, for example `model_not_found`.
    pub code: String,
}

/// Why a request below `/v1` is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub status: StatusCode,
    pub words: ErrorWords,
    /// When to ask again.
    pub after: Option<Duration>,
    /// To ask again is in vain.
    pub is_final: bool,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let words =
            ErrorWords { message: message.into(), kind: kind_of(status), param: None, code: code.to_owned() };
        Self { status, words, after: None, is_final: false }
    }

    /// A key of the request says something that cannot be done.
    pub(super) fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut refused = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        refused.words.param = Some(param.into());
        refused
    }

    /// The same, by another stable word.
    pub(super) fn coded(mut self, code: &str) -> Self {
        code.clone_into(&mut self.words.code);
        self
    }

    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.words.clone() }
    }
}

const fn kind_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Picture { place, why } => Self::param(place, why).coded("invalid_image"),
            Refusal::Invalid { param, .. } => {
                let mut refused = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
                refused.words.param = param.map(str::to_owned);
                refused
            }
            Refusal::TooLong { .. } => Self::param("messages", message).coded("context_length_exceeded"),
            Refusal::NotReady { after, .. } => Self {
                after: Some(after),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message)
            },
            Refusal::Full => Self {
                after: Some(ROOM_AFTER),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
            },
            Refusal::Late => {
                Self { is_final: true, ..Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message) }
            }
            Refusal::Failed { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_failed", message),
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        let (status, Stated { code, error }) = error.into_parts();
        Self::new(status, code, error)
    }
}

/// The answer has OpenAI's form already.
#[derive(Clone, Copy)]
struct Spoken;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut answer = (self.status, Json(self.body())).into_response();
        answer.extensions_mut().insert(Spoken);
        if let Some(after) = self.after {
            let seconds = after.min(AFTER_MAX).as_secs_f64().ceil().max(1.0) as u64;
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.is_final {
            let name = HeaderName::from_static("x-should-retry");
            answer.headers_mut().insert(name, HeaderValue::from_static("false"));
        }
        answer
    }
}

/// Gives answers below `/v1` that say no OpenAI's form, where they have another one.
pub(crate) async fn speak(request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with(ROOT);
    let answer = next.run(request).await;
    let is_spoken = answer.extensions().get::<Spoken>().is_some();
    if !is_ours || answer.status().as_u16() < 400 || is_spoken {
        return answer;
    }
    let status = answer.status();
    let Stated { code, error } = answer.extensions().get::<Stated>().cloned().unwrap_or_else(|| {
        let (code, error) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is no such address here".to_owned()),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this address has another method".to_owned())
            }
            StatusCode::PAYLOAD_TOO_LARGE => (
                "request_too_large",
                format!("the body of the request has more than {} bytes", super::BODY_BYTES_MAX),
            ),
            StatusCode::SERVICE_UNAVAILABLE => ("timeout", "the answer did not begin in time".to_owned()),
            status => ("refused", format!("the request was refused with status {status}")),
        };
        Stated { code, error }
    });
    let mut spoken = Refused::new(status, code, error).into_response();
    if let Some(allow) = answer.headers().get(header::ALLOW) {
        spoken.headers_mut().insert(header::ALLOW, allow.clone());
    }
    spoken
}
