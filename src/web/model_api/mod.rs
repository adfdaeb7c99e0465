//! The model, for programs of others: OpenAI's chat API, as far as the engine has it. It is off unless the config says
//! `[web] model_api = true`.
//!
//! ```text
//! POST /v1/chat/completions --token of the role model?--> a place? (`share`) --> body --> `request` --> its turn
//!     --> pictures decoded, asked after everything of the line (the daemon's `Answering`) --> `answer` | `stream`
//! GET /v1/models, /v1/models/{model} --> the model that is loaded
//!
//! who has left --connection closed, future dropped--> `Asked` dropped: the engine stops the answer
//! ```
//!
//! Only tokens of the role `model` may ask, and they may do nothing else: they lie in programs of others, where no token
//! that could change a recipe belongs, and no page can ask with somebody's cookie.
//!
//! Invariants:
//! - Every answer below `/v1` that says no has OpenAI's form (`error`).
//! - No body is read, and no picture decoded, without a place.
//! - A question whose asker has left is stopped.

mod answer;
pub mod asked;
mod at;
mod content;
mod error;
mod form;
mod linger;
pub mod picture;
mod request;
pub mod share;
mod stream;

pub(super) use error::speak;
pub(super) use linger::linger;

use super::auth::{self, Credential, Principal, Role, Sessions};
use super::metrics::model::{Counts, Outcome, Ticket};
use answer::{ChatCompletion, Chunk, Head, Model, ModelList, now_s};
use asked::{ANSWER_TOKENS_MAX, Answer, Answering, Asked, Heard, Refusal, Served};
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use error::{ErrorBody, Refused};
use request::Parsed;
use share::{Place, Share};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{timeout, timeout_at};

/// Where questions are asked.
pub(super) const CHAT: &str = "/v1/chat/completions";
/// The longest body of a question: twelve megabytes of pictures.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Nobody waits longer for a whole answer; it is what Dify waits for one.
const ANSWER_MAX: Duration = Duration::from_mins(5);
/// The longest time until an answer begins: the body is read before the rest, and a refused one to its end.
pub(super) const HEAD_MAX: Duration = Duration::from_mins(7);
/// The engine stops a late answer by itself; after this it says nothing any more.
const GRACE: Duration = Duration::from_secs(10);
/// A stream begins after so long, whatever was heard: an error that comes later stands in the stream.
const FIRST: Duration = Duration::from_secs(5);
/// When to ask again a station that starts or stops.
const STARTS_AFTER: Duration = Duration::from_secs(10);

/// The state of the model API.
pub(crate) struct ModelApi {
    /// The config says so.
    is_on: bool,
    /// Once there is a line.
    answering: OnceLock<Arc<dyn Answering>>,
    share: Share,
    counts: Arc<Counts>,
    since_s: u64,
}

impl ModelApi {
    /// Without anybody who answers yet.
    pub(super) fn new(is_on: bool) -> Self {
        let (answering, share, counts) = (OnceLock::new(), Share::default(), Arc::default());
        Self { is_on, answering, share, counts, since_s: now_s() }
    }

    /// From now on the model can be asked. The first call counts: a page lives as long as its line.
    pub(super) fn answer_with(&self, answering: Arc<dyn Answering>) {
        let _ = self.answering.set(answering);
    }

    /// What is counted here.
    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    fn answering(&self) -> Result<Arc<dyn Answering>, Refusal> {
        let starts = || Refusal::NotReady { why: "the station is starting".into(), after: STARTS_AFTER };
        self.answering.get().cloned().ok_or_else(starts)
    }

    fn served(&self) -> Option<Served> {
        self.answering.get().and_then(|answering| answering.served())
    }

    /// Who answers, if the model has this name.
    fn by_name(&self, name: &str) -> Result<(Arc<dyn Answering>, Served), Refused> {
        let answering = self.answering()?;
        let loading = || Refusal::NotReady { why: "no model was loaded yet".into(), after: STARTS_AFTER };
        let served = answering.served().ok_or_else(loading)?;
        if served.name == name {
            return Ok((answering, served));
        }
        Err(no_model(name, Some(&served)))
    }

    fn view(&self, served: Served) -> Model {
        Model { id: served.name, object: "model", created: self.since_s, owned_by: "inspectd" }
    }
}

fn no_model(name: &str, served: Option<&Served>) -> Refused {
    let there = served.map_or_else(
        || "no model was loaded yet".to_owned(),
        |served| format!("this box has {:?}, as GET /v1/models says", served.name),
    );
    let words = format!("the model {name:?} does not exist: {there}");
    let mut refused = Refused::new(StatusCode::NOT_FOUND, "model_not_found", words);
    refused.words.param = Some("model".to_owned());
    refused
}

/// May ask the model: a token of the role `model`.
pub(super) struct Guest(pub Principal);

impl<S> FromRequestParts<S> for Guest
where
    S: Send + Sync,
    Arc<Sessions>: FromRef<S>,
    Arc<ModelApi>: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        if !Arc::<ModelApi>::from_ref(state).is_on {
            let words = "the model API is off: [web] model_api = true in the config turns it on";
            return Err(Refused::new(StatusCode::NOT_FOUND, "model_api_off", words).into_response());
        }
        let token = auth::credential(&parts.headers).filter(|c| matches!(c, Credential::Token(_)));
        let owner = token.map_or(Ok(None), |token| Arc::<Sessions>::from_ref(state).owner(&token));
        match owner.map_err(|error| Refused::from(error).into_response())? {
            Some(principal) if principal.role == Role::Model => Ok(Self(principal)),
            Some(principal) => {
                let (name, role) = (principal.name, principal.role.as_str());
                let words = format!("this needs a token of the role model, {name} is {role}");
                Err(Refused::new(StatusCode::FORBIDDEN, "role", words).into_response())
            }
            None => {
                let words = "send Authorization: Bearer TOKEN, with a token of the role model";
                let refused = Refused::new(StatusCode::UNAUTHORIZED, "invalid_api_key", words);
                let mut answer = refused.into_response();
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                Err(answer)
            }
        }
    }
}

/// A question that was asked, and what is heard of it. Dropping it stops the answer.
struct Waiting {
    heard: Receiver<Heard>,
    until: Instant,
    ticket: Counted,
    _asked: Asked,
    _place: Place,
}

impl Waiting {
    /// What is heard next.
    async fn hear(&mut self) -> Heard {
        match timeout_at((self.until + GRACE).into(), self.heard.recv()).await {
            Ok(Some(heard)) => heard,
            Ok(None) => Heard::End(Err(Refusal::Failed { why: "the engine has ended".into() })),
            Err(_) => Heard::End(Err(Refusal::Late)),
        }
    }

    /// The whole answer.
    async fn answer(&mut self) -> Result<Answer, Refusal> {
        loop {
            if let Heard::End(end) = self.hear().await {
                return end;
            }
        }
    }
}

/// Counts what comes of a question.
struct Counted(Ticket);

impl Counted {
    fn answered(&mut self, answer: &Answer) {
        self.0.answered(answer.prompt_tokens, answer.tokens.len());
    }

    /// Notes why there is no answer.
    fn refused(&mut self, why: impl Into<Refused>) -> Refused {
        let refused = why.into();
        self.0.ended(match refused.status.as_u16() {
            429 => Outcome::Full,
            500.. => Outcome::Failed,
            _ => Outcome::Refused,
        });
        refused
    }
}

/// Answers a conversation with pictures, whole or as a stream.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "model", security(("token" = [])), request_body(
    content = serde_json::Value, description = "OpenAI's request for a chat completion"), responses(
    (status = 200, description = "the answer, or with stream = true its pieces",
        content((ChatCompletion = "application/json"), (Chunk = "text/event-stream"))),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 500, body = ErrorBody), (status = 503, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(super) async fn chat(
    State(api): State<Arc<ModelApi>>,
    Guest(principal): Guest,
    body: Body,
) -> Result<Response, Refused> {
    let place = api.share.enter(&principal.name);
    let mut ticket = Counted(api.counts.open());
    let Some(mut place) = place else { return Err(ticket.refused(Refusal::Full)) };
    let body = read(body).await.map_err(|refused| ticket.refused(refused))?;
    let until = Instant::now() + ANSWER_MAX;
    let parsed = tokio::task::spawn_blocking(move || request::parse(&body, until)).await;
    let parsed = parsed.unwrap_or_else(|error| Err(broken(&error).into()));
    let Parsed { model, question, with_usage, with_logprobs } =
        parsed.map_err(|refused| ticket.refused(refused))?;
    let (answering, served) = api.by_name(&model).map_err(|refused| ticket.refused(refused))?;
    if timeout_at(until.into(), place.turn()).await.is_err() {
        return Err(ticket.refused(Refusal::Late));
    }
    let streams = question.streams;
    // Every token may be heard for itself, and the end.
    let (hear, heard) = channel(ANSWER_TOKENS_MAX + 2);
    // Whatever becomes of this request: its place is taken until its pictures are decoded.
    let asking =
        tokio::task::spawn_blocking(move || answering.ask(question, hear).map(|asked| (asked, place)));
    let asked = asking.await.unwrap_or_else(|error| Err(broken(&error)));
    let (asked, place) = asked.map_err(|refusal| ticket.refused(refusal))?;
    let head = Head::new(served.name, served.fingerprint);
    let mut waiting = Waiting { heard, until, ticket, _asked: asked, _place: place };
    if streams {
        return match timeout(FIRST, waiting.hear()).await {
            Ok(Heard::End(Err(refusal))) => Err(waiting.ticket.refused(refusal)),
            first => Ok(stream::answer(waiting, head, with_usage, first.ok())),
        };
    }
    match waiting.answer().await {
        Ok(answer) => {
            waiting.ticket.answered(&answer);
            Ok(Json(head.whole(answer, with_logprobs)).into_response())
        }
        Err(refusal) => Err(waiting.ticket.refused(refusal)),
    }
}

/// A thread that was to work has panicked.
fn broken(error: &tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a question to the model failed");
    Refusal::Failed { why: "the server could not do it; its log says why".into() }
}

async fn read(body: Body) -> Result<Bytes, Refused> {
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        let words =
            format!("the body of the request has more than {BODY_BYTES_MAX} bytes, or ended early: {error}");
        let is_long = error.to_string().contains("length limit");
        if is_long {
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", words)
        } else {
            Refused::new(StatusCode::BAD_REQUEST, "invalid_body", words)
        }
    })
}

/// The models: the one that is loaded. Its name is what requests have to say.
#[utoipa::path(get, path = "/v1/models", tag = "model", security(("token" = [])), responses(
    (status = 200, body = ModelList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub(super) async fn models(State(api): State<Arc<ModelApi>>, _: Guest) -> Json<ModelList> {
    let data = api.served().map(|served| api.view(served)).into_iter().collect();
    Json(ModelList { object: "list", data })
}

/// The model of this name.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "model", security(("token" = [])), params(("model" = String, Path)), responses(
    (status = 200, body = Model), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub(super) async fn model(
    State(api): State<Arc<ModelApi>>,
    _: Guest,
    Path(name): Path<String>,
) -> Result<Json<Model>, Refused> {
    let served = api.served();
    match served.clone().filter(|served| served.name == name) {
        Some(served) => Ok(Json(api.view(served))),
        None => Err(no_model(&name, served.as_ref())),
    }
}
