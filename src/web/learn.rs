//! Learning: what there is to learn from, what pictures are judged by, the job under way, and what came of the last one.
//!
//! ```text
//! the daemon's `Learning` --> GET /api/v1/learn
//! POST, DELETE /api/v1/learn/{pipeline} --engineer--> the daemon's `Learning` --version--> recipes, with their ledger
//! ```

use super::auth::{Engineer, Viewer};
use super::error::{ApiError, Problem};
use crate::domain::learn::{
    ActiveLesson, LearnEnd, LearnFigures, LearnJob, LearnKind, LearnLabel, LearnMeasured, LearnOutcome,
    LearnRefusal, LearnWanted, Learnable, LeftOut,
};
use crate::domain::reference::FeatureSource;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;

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
    /// Good parts without which no bank is learned, and below which a bank is weak.
    pub good_min: usize,
    pub good_few: usize,
    /// There is enough for a bank.
    pub is_enough: bool,
    /// Parts of each kind, good and defective, without which no head is learned, and below which a head is weak.
    pub kind_min: usize,
    pub kind_few: usize,
    /// There is enough for a head.
    pub is_enough_for_head: bool,
    /// The banks and the heads that the active version judges by.
    pub banks: Vec<LessonView>,
    pub heads: Vec<LessonView>,
    /// The job that is under way.
    pub job: Option<JobView>,
    /// What came of the last job since the start of the station.
    pub last: Option<OutcomeView>,
}

/// A bank or a head that pictures are judged by.
#[derive(Serialize, ToSchema)]
pub(crate) struct LessonView {
    pub prompt: String,
    pub file: String,
    pub sha256: String,
    /// backbone, tower.
    pub features: &'static str,
    /// The labels that its findings may have.
    pub labels: Vec<String>,
    /// When it was learned, RFC 3339, and from how many good and defective parts.
    pub at: String,
    pub good: usize,
    pub bad: usize,
}

/// A job that is under way.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobView {
    /// references, head.
    pub what: &'static str,
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
    /// references, head.
    pub what: &'static str,
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

/// How well a bank does on the parts that it was learned from, each good one beside the others; or a head on parts that
/// were kept back while it was learned, those of one lot together.
#[derive(Serialize, ToSchema)]
pub(crate) struct FiguresView {
    /// What the area, `alarmed` and `found` are measured on, in English words.
    pub measured_on: String,
    /// backbone, tower.
    pub features: &'static str,
    pub good: usize,
    pub bad: usize,
    /// Cells of the good parts, and of the bank; null of a head.
    pub cells: Option<usize>,
    pub bank_cells: Option<usize>,
    /// How often parts were kept back, and the lots that were, whole; null of a bank. The lots are null, too, where parts
    /// were kept back one by one, all of a kind being of one lot.
    pub folds: Option<usize>,
    pub lots: Option<usize>,
    /// Defective parts where people drew boxes; null of a bank.
    pub with_boxes: Option<usize>,
    /// Of a head, the labels with boxes enough.
    pub labels: Vec<LabelView>,
    /// Area under the ROC curve over parts; null without defective ones.
    pub auroc: Option<f64>,
    /// Good parts that would be findings, and defective ones that would.
    pub alarmed: usize,
    pub found: usize,
    pub notes: Vec<String>,
}

/// How well the cells of a label are told from those of good parts.
#[derive(Serialize, ToSchema)]
pub(crate) struct LabelView {
    pub label: String,
    /// Parts with boxes of it.
    pub parts: usize,
    /// Area under the ROC curve over parts that were kept back.
    pub auroc: f64,
    /// It is found by its own name.
    pub is_known: bool,
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
    /// references, head.
    pub what: String,
    /// backbone, tower; not given: those that the recipe asks for, or the backbone's.
    pub features: Option<String>,
    /// Id of the prompt of kind reference or head, where the recipe has several.
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

/// Learns a reference bank from the confirmed good parts of a pipeline, or a head from good and defective ones. The
/// recipe with it is a version like any other: it is checked, replayed and becomes active or is refused. Where the recipe
/// has no prompt of the kind, one is appended. The replay shows parts that it was learned from, too: the figures say what
/// they are measured on.
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
    let kinds = LearnKind::ALL.map(LearnKind::as_str).join(" or ");
    let what =
        LearnKind::parse(&what).ok_or_else(|| ApiError::bad(format!("what = {what:?}: must be {kinds}")))?;
    let word = |word: String| {
        let words = FeatureSource::ALL.map(FeatureSource::as_str).join(" or ");
        FeatureSource::parse(&word)
            .ok_or_else(|| ApiError::bad(format!("features = {word:?}: must be {words}")))
    };
    Ok(LearnWanted { what, features: features.map(word).transpose()?, prompt })
}

impl From<Learnable> for LearnView {
    fn from(learnable: Learnable) -> Self {
        let Learnable { pipeline, active, is_gated, good, bad, good_min, good_few, .. } = learnable;
        let Learnable { kind_min, kind_few, banks, heads, job, last, .. } = learnable;
        let lessons = |all: Vec<ActiveLesson>| all.into_iter().map(LessonView::from).collect();
        Self {
            pipeline,
            active,
            is_gated,
            good,
            bad,
            good_min,
            good_few,
            is_enough: good >= good_min,
            kind_min,
            kind_few,
            is_enough_for_head: good >= kind_min && bad >= kind_min,
            banks: lessons(banks),
            heads: lessons(heads),
            job: job.map(JobView::from),
            last: last.map(OutcomeView::from),
        }
    }
}

impl From<ActiveLesson> for LessonView {
    fn from(lesson: ActiveLesson) -> Self {
        let ActiveLesson { prompt, file, sha256, features, labels, origin } = lesson;
        let (at, good, bad) = (origin.at, origin.good, origin.bad);
        Self { prompt, file, sha256, features: features.as_str(), labels, at, good, bad }
    }
}

impl From<LearnJob> for JobView {
    fn from(job: LearnJob) -> Self {
        let LearnJob { what, by, at, step, done, total, .. } = job;
        Self { what: what.as_str(), by, at, step: step.as_str(), done, total }
    }
}

impl From<LearnOutcome> for OutcomeView {
    fn from(outcome: LearnOutcome) -> Self {
        let LearnOutcome { what, by, at, end, version, figures, left_out, left_out_count } = outcome;
        let of = |LeftOut { id, reason }| LeftOutView { id, reason };
        let (word, reason) = (LearnEnd::as_str(&end), end.reason().to_owned());
        let left_out = left_out.into_iter().map(of).collect();
        Self {
            what: what.as_str(),
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
        let measured_on = figures.measured_on();
        let LearnFigures { features, good, bad, measured, auroc, alarmed, found, notes } = figures;
        let mut view = Self {
            measured_on,
            features: features.as_str(),
            good,
            bad,
            cells: None,
            bank_cells: None,
            folds: None,
            lots: None,
            with_boxes: None,
            labels: vec![],
            auroc,
            alarmed,
            found,
            notes,
        };
        match measured {
            LearnMeasured::Compared { cells, bank_cells } => {
                (view.cells, view.bank_cells) = (Some(cells), Some(bank_cells));
            }
            LearnMeasured::KeptBack { folds, lots, with_boxes, labels } => {
                (view.folds, view.lots, view.with_boxes) = (Some(folds), lots, Some(with_boxes));
                view.labels = labels.into_iter().map(LabelView::from).collect();
            }
        }
        view
    }
}

impl From<LearnLabel> for LabelView {
    fn from(known: LearnLabel) -> Self {
        let LearnLabel { label, parts, auroc, is_known } = known;
        Self { label, parts, auroc, is_known }
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
