//! Thresholds: which limits on the score keep a promise about defective parts, by what people have decided.
//!
//! ```text
//! GET /api/v1/thresholds/{pipeline}?escape&confidence&false_fail --engineer--> the daemon: decided parts --> what is proven
//! ```
//!
//! Nothing is changed here: the lines go into the pipeline file, and the new version through the replay gate.

use super::auth::Engineer;
use super::error::{ApiError, Problem};
use crate::domain::learn::LearnRefusal;
use crate::domain::promise::{
    Calibration, Decisions, Ground, Needed, Outcomes, PromiseRule, Proven, Thresholds, Wanted,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use utoipa::{IntoParams, ToSchema};

/// What is asked for where nothing is said.
const ESCAPE: f64 = 0.01;
const CONFIDENCE: f64 = 0.95;
const FALSE_FAIL: f64 = 0.01;

/// What the page asks of the daemon.
pub trait Promising: Send + Sync {
    /// What the station's own decisions prove of the active recipe.
    ///
    /// # Errors
    /// `NoPipeline`; `NotStored`: the decisions cannot be read.
    fn prove(&self, pipeline: &str, wanted: Wanted) -> Result<Proven, LearnRefusal>;
}

/// Who proves, once the cameras are open.
#[derive(Default)]
pub struct Prover(OnceLock<Arc<dyn Promising>>);

impl Prover {
    /// From now on something can be proven. The first call counts: a page lives as long as its line.
    pub fn prove_with(&self, promising: Arc<dyn Promising>) {
        let _ = self.0.set(promising);
    }
}

#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Of the defective parts, at most this share passes; not given: 0.01.
    pub escape: Option<f64>,
    /// How sure that is; not given: 0.95.
    pub confidence: Option<f64>,
    /// Of the good parts, at most this share fails, as surely; not given: 0.01.
    pub false_fail: Option<f64>,
}

/// What the station's own decisions prove of an active recipe.
#[derive(Serialize, ToSchema)]
pub(super) struct ThresholdsView {
    pub pipeline: String,
    /// The active version; decisions about parts of versions that judge alike count, too.
    pub version: String,
    /// What was asked for is proven; without it both limits are null.
    pub proven: bool,
    /// Of the defective parts, at most this share passes: P(pass | defective).
    pub escape: f64,
    pub confidence: f64,
    pub false_fail: f64,
    /// A part with a higher score does not pass; 1: the other rules alone keep the promise.
    pub review_above_score: Option<f64>,
    /// A part with a finding that fails and a higher score fails; null: no such limit is proven.
    pub fail_above_score: Option<f64>,
    /// The least share that these decisions prove with this confidence.
    pub best_bound: f64,
    /// Decided parts that count.
    pub good: usize,
    pub defective: usize,
    pub unjudged: usize,
    /// Defective parts among them that pass by the limits, or by the strictest ones where nothing is proven.
    pub escapes: usize,
    /// Share of the parts that go to a person, and of the good ones.
    pub review_share: Option<f64>,
    pub review_share_of_good: Option<f64>,
    /// Share of all parts that are defective and pass, at most, with as many defective ones as here.
    pub escape_of_all: Option<f64>,
    /// Of the parts that had passed and of the others: how many came, and how many people have decided about.
    pub passed: DecidedView,
    pub others: DecidedView,
    /// Decided parts that are left out so that both kinds count as they come.
    pub thinned: usize,
    /// What the promise takes when no defective part passes, and what tighter ones take.
    pub needed: Vec<NeededView>,
    /// The lines for the pipeline file; empty when nothing is proven.
    pub toml: String,
    /// What the active recipe promises.
    pub stated: Option<StatedView>,
}

/// How many came, and how many people have decided about.
#[derive(Serialize, ToSchema)]
pub(super) struct DecidedView {
    pub inspected: u64,
    pub decided: u64,
}

/// Defective parts, none of which passes, that prove a share.
#[derive(Serialize, ToSchema)]
pub(super) struct NeededView {
    pub escape: f64,
    pub defective: u64,
}

/// What a recipe promises.
#[derive(Serialize, ToSchema)]
pub(super) struct StatedView {
    pub escape: f64,
    pub confidence: f64,
}

/// Which limits on the score keep a promise about defective parts, by what people have decided about parts that the
/// active recipe judged. It holds for parts that are exchangeable with these: where people look at parts that passed, too,
/// and choose them blindly.
#[utoipa::path(get, path = "/api/v1/thresholds/{pipeline}", tag = "learn",
    params(("pipeline" = String, Path), Asked), responses(
    (status = 200, body = ThresholdsView), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn thresholds(
    State(prover): State<Arc<Prover>>,
    _: Engineer,
    Path(pipeline): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<ThresholdsView>, ApiError> {
    let wanted = wanted(asked)?;
    let promising = prover.0.get().cloned().ok_or(LearnRefusal::Starting)?;
    let name = pipeline.clone();
    let prove = move || promising.prove(&name, wanted);
    let proven = tokio::task::spawn_blocking(prove).await.map_err(ApiError::internal)??;
    Ok(Json(ThresholdsView::of(pipeline, proven)))
}

fn wanted(asked: Asked) -> Result<Wanted, ApiError> {
    let within = |key: &str, value: Option<f64>, default: f64, range: RangeInclusive<f64>| {
        let value = value.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(ApiError::bad(format!("{key} = {value}: must be from {} to {}", range.start(), range.end())))
    };
    let promise = PromiseRule {
        escape: within("escape", asked.escape, ESCAPE, PromiseRule::ESCAPE)?,
        confidence: within("confidence", asked.confidence, CONFIDENCE, PromiseRule::CONFIDENCE)?,
    };
    Ok(Wanted {
        promise,
        false_fail: within("false_fail", asked.false_fail, FALSE_FAIL, PromiseRule::ESCAPE)?,
    })
}

impl ThresholdsView {
    fn of(pipeline: String, proven: Proven) -> Self {
        let Proven { calibration, ground, toml, stated } = proven;
        let (review_share, escape_of_all) = (calibration.review_share(), calibration.escape_of_all());
        let Calibration { wanted, good, defective, unjudged, thresholds, .. } = calibration;
        let Calibration { of_defective, of_good, best_escape, needed, .. } = calibration;
        let Ground { version, passed, others, thinned, .. } = ground;
        let Outcomes { review, .. } = of_good;
        Self {
            pipeline,
            version,
            proven: thresholds.is_some(),
            escape: wanted.promise.escape,
            confidence: wanted.promise.confidence,
            false_fail: wanted.false_fail,
            review_above_score: thresholds.map(|limits| Thresholds::as_written(limits.review_above)),
            fail_above_score: thresholds.and_then(|limits| limits.fail_above).map(Thresholds::as_written),
            best_bound: best_escape,
            good,
            defective,
            unjudged,
            escapes: of_defective.pass,
            review_share,
            review_share_of_good: (good > 0).then(|| review as f64 / good as f64),
            escape_of_all,
            passed: passed.into(),
            others: others.into(),
            thinned,
            needed: needed.into_iter().map(NeededView::from).collect(),
            toml,
            stated: stated.map(|PromiseRule { escape, confidence }| StatedView { escape, confidence }),
        }
    }
}

impl From<Decisions> for DecidedView {
    fn from(Decisions { inspected, decided }: Decisions) -> Self {
        Self { inspected, decided }
    }
}

impl From<Needed> for NeededView {
    fn from(Needed { escape, defective }: Needed) -> Self {
        Self { escape, defective }
    }
}
