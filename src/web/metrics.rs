//! Health and figures for machines.

use super::auth::{Role, Sessions};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::store::Store;
use crate::store::outbox::{MQTT, SinkState};
use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use utoipa::ToSchema;

/// Upper bounds of the buckets of request times, in seconds.
const BUCKETS_S: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

#[derive(Clone, Debug, Default)]
struct Times {
    buckets: [u64; BUCKETS_S.len()],
    count: u64,
    sum_s: f64,
}

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
    times: Mutex<BTreeMap<String, Times>>,
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new(store: Arc<Store>, probe: Probe, open: bool) -> Self {
        Self { store, probe, open, requests: Mutex::default(), times: Mutex::default() }
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
    let mut times = metrics.times.lock().unwrap_or_else(PoisonError::into_inner);
    let times = times.entry(route).or_default();
    times.count += 1;
    times.sum_s += seconds;
    for (bucket, bound) in times.buckets.iter_mut().zip(BUCKETS_S) {
        *bucket += u64::from(seconds <= bound);
    }
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
    let (store, health) = (&metrics.store, (metrics.probe)());
    let facets = store.facets()?;
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    one("inspectd_inspections_total", "counter", "Inspections ever stored.", *store.subscribe().borrow());
    one("inspectd_reviews_total", "counter", "Decisions ever stored.", *store.subscribe_reviews().borrow());
    one("inspectd_outbox_entries", "gauge", "Results the broker has not acknowledged.", store.outbox_len());
    one("inspectd_undecided_inspections", "gauge", "Sent to review and not decided.", facets.undecided);
    let broker = health.sinks.iter().any(|(name, up)| name == MQTT && *up);
    one("inspectd_broker_connected", "gauge", "1 when the broker is connected.", u64::from(broker));
    one("inspectd_inspector_alive", "gauge", "1 when the inspector shows life.", u64::from(health.alive));
    one(
        "inspectd_store_ok",
        "gauge",
        "0 when the store accepts nothing: it has stopped, or is full.",
        u64::from(store.accepts().is_ok()),
    );
    let _ = writeln!(
        out,
        "# HELP inspectd_stored_inspections Inspections that are kept, by the model's verdict."
    );
    let _ = writeln!(out, "# TYPE inspectd_stored_inspections gauge");
    for (word, n) in ["pass", "fail", "review"].into_iter().zip(facets.verdicts) {
        let _ = writeln!(out, "inspectd_stored_inspections{{verdict=\"{word}\"}} {n}");
    }
    sinks(store, &health.sinks, &mut out)?;
    requests(metrics, &mut out);
    Ok(out)
}

/// Figures of each sink that is known.
fn sinks(store: &Store, connected: &[(String, bool)], out: &mut String) -> Result<(), ApiError> {
    let sinks = store.sinks()?;
    let gauge = |out: &mut String, name: &str, help: &str, value: &dyn Fn(&SinkState) -> u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for sink in &sinks {
            let _ = writeln!(out, "{name}{{sink=\"{}\"}} {}", sink.name, value(sink));
        }
    };
    let up = |sink: &SinkState| connected.iter().any(|(name, up)| *name == sink.name && *up);
    gauge(out, "inspectd_sink_entries", "Messages the sink has not acknowledged.", &|s| s.owed.iter().sum());
    gauge(out, "inspectd_sink_connected", "1 when the sink is connected.", &|s| u64::from(up(s)));
    gauge(out, "inspectd_sink_enabled", "1 when the sink is enabled.", &|s| u64::from(s.enabled));
    Ok(())
}

fn requests(metrics: &Metrics, out: &mut String) {
    let _ = writeln!(out, "# HELP inspectd_http_requests_total Requests by route and status.");
    let _ = writeln!(out, "# TYPE inspectd_http_requests_total counter");
    for ((route, status), n) in metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(out, "inspectd_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
    }
    let name = "inspectd_http_request_duration_seconds";
    let _ = writeln!(out, "# HELP {name} Time until an answer begins.\n# TYPE {name} histogram");
    for (route, times) in metrics.times.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        for (bound, n) in BUCKETS_S.iter().zip(times.buckets) {
            let _ = writeln!(out, "{name}_bucket{{route=\"{route}\",le=\"{bound}\"}} {n}");
        }
        let _ = writeln!(out, "{name}_bucket{{route=\"{route}\",le=\"+Inf\"}} {}", times.count);
        let _ = writeln!(out, "{name}_sum{{route=\"{route}\"}} {}", times.sum_s);
        let _ = writeln!(out, "{name}_count{{route=\"{route}\"}} {}", times.count);
    }
}
