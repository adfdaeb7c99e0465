//! Health and figures for machines.
//!
//! ```text
//! contract    every series, in one table      exposition  Prometheus' text, by the table
//! line        what the daemon counts          histogram   counts by upper bounds
//! model       what the model API counts
//! ```

pub mod contract;
mod exposition;
mod histogram;
pub(crate) mod line;
pub(super) mod model;

use super::auth::{Role, Sessions};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::store::Store;
use crate::store::outbox::age::Oldest;
use crate::store::outbox::{MQTT, SinkState};
use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use exposition::{Exposition, flag};
use histogram::Histogram;
use line::{Figures, VERDICT_WORDS};
use model::Counts;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};
use utoipa::ToSchema;

/// Upper bounds of the buckets of request times, in seconds.
const BUCKETS_S: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// How the rest of the station is.
#[derive(Clone, Debug)]
pub struct Health {
    /// The inspector shows life.
    pub alive: bool,
    /// The enabled sinks, and whether each is connected.
    pub sinks: Vec<(String, bool)>,
    /// No broker refuses to let the station hear commands.
    pub commands: bool,
}

/// Asks the daemon how it is.
pub type Probe = Box<dyn Fn() -> Health + Send + Sync>;

/// What is counted and measured, and whom it may be shown.
pub(crate) struct Metrics {
    store: Arc<Store>,
    probe: Probe,
    /// `/metrics` asks for no login.
    open: bool,
    /// Requests by route and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    seconds: Mutex<BTreeMap<String, Histogram>>,
    /// Once there is a line.
    line: OnceLock<Figures>,
    /// Of the model API.
    model: Arc<Counts>,
}

impl Metrics {
    /// Nothing counted yet.
    pub(super) fn new(store: Arc<Store>, probe: Probe, model: Arc<Counts>, open: bool) -> Self {
        let (requests, seconds) = (Mutex::default(), Mutex::default());
        Self { store, probe, open, requests, seconds, line: OnceLock::new(), model }
    }

    /// From now on the line's figures are among the others. The first call counts.
    pub(super) fn measure_line(&self, figures: Figures) {
        let _ = self.line.set(figures);
    }

    /// The enabled sinks, and whether each is connected.
    pub(crate) fn sinks(&self) -> Vec<(String, bool)> {
        (self.probe)().sinks
    }
}

/// Counts a request; the time is until the answer begins. Routes are counted by their pattern, so
/// that no visitor can make the list grow.
pub(crate) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let answer = next.run(request).await;
    let seconds = started.elapsed().as_secs_f64();
    let mut requests = metrics.requests.lock().unwrap_or_else(PoisonError::into_inner);
    *requests.entry((route.clone(), answer.status().as_u16())).or_default() += 1;
    drop(requests);
    let mut routes = metrics.seconds.lock().unwrap_or_else(PoisonError::into_inner);
    routes.entry(route).or_insert_with(|| Histogram::new(&BUCKETS_S)).observe(seconds);
    drop(routes);
    answer
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Healthy {
    /// ok, or what is not.
    pub status: String,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = Healthy)))]
pub(crate) async fn healthz() -> Json<Healthy> {
    Json(Healthy { status: "ok".into() })
}

/// Parts are inspected and kept.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, body = Healthy), (status = 503, body = Healthy)))]
pub(crate) async fn readyz(State(metrics): State<Arc<Metrics>>) -> (StatusCode, Json<Healthy>) {
    let no = |what: &str| (StatusCode::SERVICE_UNAVAILABLE, Json(Healthy { status: what.to_owned() }));
    if metrics.store.accepts().is_err() {
        return no("the store accepts nothing");
    }
    let health = (metrics.probe)();
    if !health.alive {
        return no("the inspector shows no life");
    }
    if !health.commands {
        return no("the broker refuses the subscription to commands");
    }
    (StatusCode::OK, Json(Healthy { status: "ok".into() }))
}

/// Figures in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "Prometheus text", content_type = "text/plain", body = String),
    (status = 401, body = Problem)))]
pub(crate) async fn metrics(
    State(metrics): State<Arc<Metrics>>,
    State(sessions): State<Arc<Sessions>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !metrics.open {
        let principal = sessions.principal(&headers)?;
        if principal.is_none_or(|p| p.role < Role::Viewer) {
            let error = "send Authorization: Bearer TOKEN, or set [web] open_metrics";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "login", error));
        }
    }
    let text = blocking(&metrics, text).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn text(metrics: &Metrics) -> Result<String, ApiError> {
    let health = (metrics.probe)();
    let mut out = Exposition::default();
    out.family(&contract::BUILD, [([env!("CARGO_PKG_VERSION")], 1.0)]);
    stored(&metrics.store, &mut out)?;
    out.one(&contract::ALIVE, flag(health.alive));
    if let Some(figures) = metrics.line.get() {
        figures().write(&mut out);
    }
    sinks(&metrics.store, &health.sinks, &mut out)?;
    metrics.model.write(&mut out);
    requests(metrics, &mut out);
    Ok(out.finish())
}

fn stored(store: &Store, out: &mut Exposition) -> Result<(), ApiError> {
    let facets = store.facets()?;
    out.one(&contract::INSPECTIONS, *store.subscribe().borrow() as f64);
    out.one(&contract::REVIEWS, *store.subscribe_reviews().borrow() as f64);
    let kept = VERDICT_WORDS.into_iter().zip(facets.verdicts);
    out.family(&contract::STORED, kept.map(|(word, n)| ([word], n as f64)));
    out.one(&contract::UNDECIDED, facets.undecided as f64);
    out.one(&contract::STORE_OK, flag(store.accepts().is_ok()));
    Ok(())
}

/// Figures of each sink that is known, and of the outbox as a whole.
fn sinks(store: &Store, connected: &[(String, bool)], out: &mut Exposition) -> Result<(), ApiError> {
    let now = SystemTime::now();
    let aged = |sink: SinkState| -> Result<(SinkState, f64), ApiError> {
        let age_s = match store.outbox(&sink.name).oldest()? {
            Oldest::Nothing => 0.0,
            Oldest::Since(at) => now.duration_since(at).unwrap_or_default().as_secs_f64(),
            Oldest::Unknown => f64::NAN,
        };
        Ok((sink, age_s))
    };
    let sinks = store.sinks()?.into_iter().map(aged).collect::<Result<Vec<_>, _>>()?;
    let enabled = sinks.iter().filter(|(sink, _)| sink.enabled).map(|(_, age_s)| *age_s);
    // What is not known must not look young.
    let oldest = enabled.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
    out.one(&contract::OUTBOX, store.outbox_len() as f64);
    out.one(&contract::OUTBOX_AGE, oldest);
    let up = |name: &str| connected.iter().any(|(sink, up)| sink == name && *up);
    let all = || sinks.iter().map(|(sink, age_s)| ([sink.name.as_str()], sink, *age_s));
    let entries = all().map(|(label, sink, _)| (label, sink.owed.iter().sum::<u64>() as f64));
    out.family(&contract::SINK_ENTRIES, entries);
    out.family(&contract::SINK_AGE, all().map(|(label, _, age_s)| (label, age_s)));
    out.family(&contract::SINK_CONNECTED, all().map(|(label, sink, _)| (label, flag(up(&sink.name)))));
    out.family(&contract::SINK_ENABLED, all().map(|(label, sink, _)| (label, flag(sink.enabled))));
    out.one(&contract::BROKER, flag(up(MQTT)));
    Ok(())
}

fn requests(metrics: &Metrics, out: &mut Exposition) {
    let counted = metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let named = counted.iter().map(|((route, status), n)| (route.as_str(), status.to_string(), *n as f64));
    let named: Vec<(&str, String, f64)> = named.collect();
    let samples = named.iter().map(|(route, status, n)| ([*route, status.as_str()], *n));
    out.family(&contract::REQUESTS, samples);
    let seconds = metrics.seconds.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let samples = seconds.iter().map(|(route, seconds)| ([route.as_str()], seconds));
    out.histograms(&contract::REQUEST_DURATION, samples);
}
