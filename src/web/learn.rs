//! Learning: what there is to learn from, what pictures are judged by, the job under way, and what came of the last one.
//!
//! ```text
//! the daemon's `Learning` --> GET /api/v1/learn
//! POST, DELETE /api/v1/learn/{pipeline} --engineer--> the daemon's `Learning` --version--> recipes, with their ledger
//! ```

use super::auth::{Engineer, Viewer};
use super::error::{ApiError, Problem};
use crate::domain::learn::{
    ActiveBank, LearnEnd, LearnFigures, LearnJob, LearnOutcome, LearnRefusal, LearnWanted, Learnable, LeftOut,
};
use crate::domain::reference::FeatureSource;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;

/// The only thing that is learned so.
const REFERENCES: &str = "references";

/// What the page asks of the daemon.
pub trait Learning: Send + Sync {
    /// What can be learned for each pipeline, and what was.
    ///
    /// # Errors
    /// `NotStored`: the confirmed parts cannot be counted.
    fn learnable(&self) -> Result<Vec<Learnable>, LearnRefusal>;

    /// Starts a job.
    ///
    /// # Errors
    /// `LearnRefusal`.
    fn start(&self, pipeline: &str, wanted: LearnWanted, by: &str) -> Result<(), LearnRefusal>;

    /// Cancels the job of this pipeline.
    ///
    /// # Errors
    /// `NotUnderWay`.
    fn cancel(&self, pipeline: &str, by: &str) -> Result<(), LearnRefusal>;
}

/// Who learns, once the cameras are open.
#[derive(Default)]
pub struct Learner(OnceLock<Arc<dyn Learning>>);

impl Learner {
    /// From now on something can be learned. The first call counts: a page lives as long as its line.
    pub fn learn_with(&self, learning: Arc<dyn Learning>) {
        let _ = self.0.set(learning);
    }

    fn get(&self) -> Result<Arc<dyn Learning>, LearnRefusal> {
        self.0.get().cloned().ok_or(LearnRefusal::Starting)
    }
}

/// What can be learned for a pipeline, and what was.
#[derive(Serialize, ToSchema)]
pub(crate) struct LearnView {
    pub pipeline: String,
    /// Pictures are judged by this version; empty: a new product, which has none yet.
    pub active: String,
    /// A new version is held to a gate; without one it becomes active when all parts of its replay were judged.
    pub is_gated: bool,
    /// Confirmed parts whose pictures are kept.
    pub good: usize,
    pub bad: usize,
    /// Good parts without which nothing is learned, and below which a bank is weak.
    pub good_min: usize,
    pub good_few: usize,
    /// There is enough to learn from.
    pub is_enough: bool,
    /// What the active version judges by.
    pub banks: Vec<BankView>,
    /// The job that is under way.
    pub job: Option<JobView>,
    /// What came of the last job since the start of the station.
    pub last: Option<OutcomeView>,
}

/// A bank that pictures are judged by.
#[derive(Serialize, ToSchema)]
pub(crate) struct BankView {
    pub prompt: String,
    pub file: String,
    pub sha256: String,
    /// backbone, tower.
    pub features: &'static str,
    /// When it was learned, RFC 3339, and from how many good and defective parts.
    pub at: String,
    pub good: usize,
    pub bad: usize,
}

/// A job that is under way.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobView {
    pub by: String,
    pub at: String,
    /// looking, learning, proving.
    pub step: &'static str,
    /// Parts that were looked at or replayed, of those that will be.
    pub done: usize,
    pub total: usize,
}

/// What came of a job.
#[derive(Serialize, ToSchema)]
pub(crate) struct OutcomeView {
    pub by: String,
    /// When it ended, RFC 3339.
    pub at: String,
    /// active, refused, cancelled, failed.
    pub end: &'static str,
    /// Why it was refused or failed, or who has cancelled.
    pub reason: String,
    /// The version of the recipe with what was learned; its steps are in the recipe's ledger.
    pub version: Option<String>,
    pub figures: Option<FiguresView>,
    /// Confirmed parts that were not learned from: how many, and the first of them.
    pub left_out_count: usize,
    pub left_out: Vec<LeftOutView>,
}

/// How well a bank does on the parts that it was learned from, each good one beside the others.
#[derive(Serialize, ToSchema)]
pub(crate) struct FiguresView {
    /// backbone, tower.
    pub features: &'static str,
    pub good: usize,
    pub bad: usize,
    /// Cells of the good parts, and of the bank.
    pub cells: usize,
    pub bank_cells: usize,
    /// Area under the ROC curve over parts; null without defective ones.
    pub auroc: Option<f64>,
    /// Good parts that would be findings, and defective ones that would.
    pub alarmed: usize,
    pub found: usize,
    pub notes: Vec<String>,
}

/// A part that was not learned from.
#[derive(Serialize, ToSchema)]
pub(crate) struct LeftOutView {
    /// Id of its inspection.
    pub id: String,
    pub reason: String,
}

/// What to learn.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LearnBody {
    /// references.
    pub what: String,
    /// backbone, tower; not given: those that the recipe asks for, or the backbone's.
    pub features: Option<String>,
    /// Id of the prompt of kind reference, where the recipe has several.
    pub prompt: Option<String>,
}

/// What can be learned for each pipeline from the parts that people have confirmed, and what was.
#[utoipa::path(get, path = "/api/v1/learn", tag = "learn", responses(
    (status = 200, body = Vec<LearnView>), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn learn(
    State(learner): State<Arc<Learner>>,
    _: Viewer,
) -> Result<Json<Vec<LearnView>>, ApiError> {
    let learning = learner.get()?;
    let all =
        tokio::task::spawn_blocking(move || learning.learnable()).await.map_err(ApiError::internal)??;
    Ok(Json(all.into_iter().map(LearnView::from).collect()))
}

/// Learns a reference bank from the confirmed parts of a pipeline. The recipe with it is a version like any other: it is
/// checked, replayed and becomes active or is refused. Where the recipe has no prompt of kind reference, one is
/// appended.
#[utoipa::path(post, path = "/api/v1/learn/{pipeline}", tag = "learn",
    params(("pipeline" = String, Path)), request_body = LearnBody, responses(
    (status = 202), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 503, body = Problem)))]
pub(crate) async fn start(
    State(learner): State<Arc<Learner>>,
    Engineer(principal): Engineer,
    Path(pipeline): Path<String>,
    Json(body): Json<LearnBody>,
) -> Result<StatusCode, ApiError> {
    let wanted = wanted(body)?;
    let learning = learner.get()?;
    let by = format!("http:{}", principal.name);
    let start = move || learning.start(&pipeline, wanted, &by);
    tokio::task::spawn_blocking(start).await.map_err(ApiError::internal)??;
    Ok(StatusCode::ACCEPTED)
}

/// Cancels the job of a pipeline. What was learned by then is not kept; a version that is being replayed is refused.
#[utoipa::path(delete, path = "/api/v1/learn/{pipeline}", tag = "learn",
    params(("pipeline" = String, Path)), responses(
    (status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
    (status = 503, body = Problem)))]
pub(crate) async fn cancel(
    State(learner): State<Arc<Learner>>,
    Engineer(principal): Engineer,
    Path(pipeline): Path<String>,
) -> Result<StatusCode, ApiError> {
    learner.get()?.cancel(&pipeline, &format!("http:{}", principal.name))?;
    Ok(StatusCode::NO_CONTENT)
}

fn wanted(body: LearnBody) -> Result<LearnWanted, ApiError> {
    let LearnBody { what, features, prompt } = body;
    if what != REFERENCES {
        return Err(ApiError::bad(format!("what = {what:?}: must be {REFERENCES}")));
    }
    let word = |word: String| {
        let words = FeatureSource::ALL.map(FeatureSource::as_str).join(" or ");
        FeatureSource::parse(&word)
            .ok_or_else(|| ApiError::bad(format!("features = {word:?}: must be {words}")))
    };
    Ok(LearnWanted { features: features.map(word).transpose()?, prompt })
}

impl From<Learnable> for LearnView {
    fn from(learnable: Learnable) -> Self {
        let Learnable { pipeline, active, is_gated, good, bad, good_min, good_few, banks, job, last } =
            learnable;
        Self {
            pipeline,
            active,
            is_gated,
            good,
            bad,
            good_min,
            good_few,
            is_enough: good >= good_min,
            banks: banks.into_iter().map(BankView::from).collect(),
            job: job.map(JobView::from),
            last: last.map(OutcomeView::from),
        }
    }
}

impl From<ActiveBank> for BankView {
    fn from(bank: ActiveBank) -> Self {
        let ActiveBank { prompt, file, sha256, features, origin } = bank;
        let (at, good, bad) = (origin.at, origin.good, origin.bad);
        Self { prompt, file, sha256, features: features.as_str(), at, good, bad }
    }
}

impl From<LearnJob> for JobView {
    fn from(job: LearnJob) -> Self {
        let LearnJob { by, at, step, done, total, .. } = job;
        Self { by, at, step: step.as_str(), done, total }
    }
}

impl From<LearnOutcome> for OutcomeView {
    fn from(outcome: LearnOutcome) -> Self {
        let LearnOutcome { by, at, end, version, figures, left_out, left_out_count } = outcome;
        let of = |LeftOut { id, reason }| LeftOutView { id, reason };
        let (word, reason) = (LearnEnd::as_str(&end), end.reason().to_owned());
        let left_out = left_out.into_iter().map(of).collect();
        Self {
            by,
            at,
            end: word,
            reason,
            version,
            figures: figures.map(Into::into),
            left_out_count,
            left_out,
        }
    }
}

impl From<LearnFigures> for FiguresView {
    fn from(figures: LearnFigures) -> Self {
        let LearnFigures { features, good, bad, cells, bank_cells, auroc, alarmed, found, notes } = figures;
        Self { features: features.as_str(), good, bad, cells, bank_cells, auroc, alarmed, found, notes }
    }
}

impl From<LearnRefusal> for ApiError {
    fn from(refusal: LearnRefusal) -> Self {
        let status = match &refusal {
            LearnRefusal::NoPipeline { .. } | LearnRefusal::NotUnderWay { .. } => StatusCode::NOT_FOUND,
            LearnRefusal::Busy { .. } | LearnRefusal::TooLittle { .. } | LearnRefusal::Unfit { .. } => {
                StatusCode::CONFLICT
            }
            LearnRefusal::NotStored { .. } | LearnRefusal::Starting | LearnRefusal::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, refusal.code(), refusal.to_string())
    }
}
