//! Recipes: which versions there are, which one is active, what became of the others and why; and an engineer's word
//! that makes another one active.
//!
//! ```text
//! store --books, versions, ledger--> GET /api/v1/recipes…
//! POST /api/v1/recipes/{pipeline}/active --engineer, with a reason--> the daemon's `Recipes` --> the ledger
//! ```

use super::auth::{Engineer, Viewer};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use crate::domain::recipe::{Progress, RecipeError};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::recipes::{ChangedPart, Entry, GoodPart, ReplayEntry, VersionState};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use utoipa::{IntoParams, ToSchema};

/// Entries of the ledger in one answer.
const ENTRIES_MAX: usize = 200;
/// Characters of an engineer's reason.
const REASON_CHARS_MAX: usize = 500;

/// What the page asks of the daemon.
pub trait Recipes: Send + Sync {
    /// The replay that goes on now.
    fn progress(&self) -> Option<Progress>;

    /// Makes a version active, and waits until it is.
    ///
    /// # Errors
    /// `RecipeError`.
    fn activate(&self, pipeline: &str, version: &str, by: &str, reason: &str) -> Result<Entry, RecipeError>;
}

/// Who makes versions of recipes active, once the cameras are open.
#[derive(Default)]
pub(crate) struct Keeper(OnceLock<Arc<dyn Recipes>>);

impl Keeper {
    /// From now on versions of recipes can be made active. The first call counts: a page lives as long as its line.
    pub(crate) fn keep_recipes(&self, recipes: Arc<dyn Recipes>) {
        let _ = self.0.set(recipes);
    }
}

/// A recipe with its versions.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecipeView {
    pub pipeline: String,
    /// Pictures are judged by this version.
    pub active: String,
    /// The versions that are kept, the newest first.
    pub versions: Vec<VersionView>,
    /// The replay of a version that goes on now.
    pub replay: Option<ProgressView>,
}

/// A version of a recipe.
#[derive(Serialize, ToSchema)]
pub(crate) struct VersionView {
    pub version: String,
    /// Its newest step: found, checked, replayed, active, refused.
    pub step: &'static str,
    /// Number of the newest entry about it in the ledger.
    pub entry: u64,
    /// When, RFC 3339, and on whose word.
    pub at: String,
    pub by: String,
    /// It was active at some time.
    pub was_active: bool,
}

/// How far a replay is.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProgressView {
    pub version: String,
    /// Parts that were replayed, of those that will be.
    pub done: usize,
    pub total: usize,
}

/// An entry of the ledger of recipes.
#[derive(Serialize, ToSchema)]
pub(crate) struct EntryView {
    pub seq: u64,
    pub at: String,
    pub pipeline: String,
    pub version: String,
    /// found, checked, replayed, active, refused.
    pub step: &'static str,
    pub by: String,
    pub reason: String,
    /// An engineer made it active although its gate did not hold or was not asked.
    pub is_override: bool,
    pub replay: Option<ReplayView>,
    /// The good parts that a first version was made of, on the word of `by`.
    pub made_of: Vec<GoodPartView>,
}

/// A part that a person calls good: the id of its inspection, and the sha256 of its picture.
#[derive(Serialize, ToSchema)]
pub(crate) struct GoodPartView {
    pub id: String,
    pub sha256: String,
}

/// What a replay of confirmed parts gave.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayView {
    /// Names the sample: parts of the same name are the same parts.
    pub sample: String,
    /// Parts that were replayed, and confirmed parts that could not be.
    pub parts: usize,
    pub left_out: usize,
    /// Those of them whose pictures have another size than the recipe's frames.
    pub other_size: usize,
    pub text_sha256: String,
    pub mmproj_sha256: String,
    /// As `inspectd replay --json` has them.
    #[schema(value_type = Object)]
    pub figures: serde_json::Value,
    /// Confirmed defective parts that were found and pass now: how many, and the first of them.
    pub lost_count: usize,
    pub lost: Vec<PartView>,
    /// Confirmed good parts that passed and do not pass now.
    pub alarms_count: usize,
    pub alarms: Vec<PartView>,
    /// What of the gate does not hold.
    pub failed: Vec<String>,
    pub ms: u64,
}

/// A part about which the record and the new version differ.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartView {
    /// Id of its inspection.
    pub id: String,
    /// pass, fail.
    pub decided: String,
    /// The verdict of the record, and the one by the new version.
    pub was: String,
    pub now: String,
    /// What the new version found.
    pub findings: Vec<BoxView>,
}

/// A finding: its label and its box (x0, y0, x1, y1) in pixels of the picture.
#[derive(Serialize, ToSchema)]
pub(crate) struct BoxView {
    pub label: String,
    pub bbox_px: [f32; 4],
}

/// Which version, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Activation {
    pub version: String,
    /// Stays in the ledger.
    #[schema(max_length = 500)]
    pub reason: String,
}

/// How many entries.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Newest {
    /// At most 200.
    pub limit: Option<usize>,
}

/// All recipes that were ever active here.
#[utoipa::path(get, path = "/api/v1/recipes", tag = "recipes", responses(
    (status = 200, body = Vec<RecipeView>), (status = 401, body = Problem)))]
pub(crate) async fn recipes(
    State(store): State<Arc<Store>>,
    State(keeper): State<Arc<Keeper>>,
    _: Viewer,
) -> Result<Json<Vec<RecipeView>>, ApiError> {
    let progress = keeper.0.get().and_then(|recipes| recipes.progress());
    blocking(&store, move |store| Ok(all(store, progress.as_ref())?)).await.map(Json)
}

/// The newest entries of the ledger about a recipe, the newest first.
#[utoipa::path(get, path = "/api/v1/recipes/{pipeline}/ledger", tag = "recipes",
    params(("pipeline" = String, Path), Newest), responses(
    (status = 200, body = Vec<EntryView>), (status = 401, body = Problem)))]
pub(crate) async fn ledger(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Path(pipeline): Path<String>,
    Query(newest): Query<Newest>,
) -> Result<Json<Vec<EntryView>>, ApiError> {
    let limit = newest.limit.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
    let entries = blocking(&store, move |store| Ok(store.recipe_entries(Some(&pipeline), limit)?)).await?;
    Ok(Json(entries.into_iter().map(EntryView::from).collect()))
}

/// The text of a version, as its file had it.
#[utoipa::path(get, path = "/api/v1/recipes/{pipeline}/versions/{version}", tag = "recipes",
    params(("pipeline" = String, Path), ("version" = String, Path)), responses(
    (status = 200, body = String, content_type = "text/plain"), (status = 401, body = Problem),
    (status = 404, body = Problem)))]
pub(crate) async fn version(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Path((pipeline, version)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let (name, wanted) = (pipeline.clone(), version.clone());
    let text = blocking(&store, move |store| Ok(store.recipe_text(&name, &wanted)?)).await?;
    let text = text.ok_or(RecipeError::NoVersion { pipeline, version })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}

/// A file beside a version that it judges by: a bank or a head. With the text it makes a recipe for another folder.
#[utoipa::path(get, path = "/api/v1/recipes/{pipeline}/versions/{version}/files/{file}", tag = "recipes",
    params(("pipeline" = String, Path), ("version" = String, Path), ("file" = String, Path)), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 401, body = Problem),
    (status = 404, body = Problem)))]
pub(crate) async fn file(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Path((pipeline, version, file)): Path<(String, String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let words = format!("the version {version:?} of the pipeline {pipeline:?} has no file {file:?}");
    let files = blocking(&store, move |store| Ok(store.recipe_files(&pipeline, &version)?)).await?;
    let bytes = files.get(&file).ok_or_else(|| ApiError::not_found(words))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes.to_vec()))
}

/// Makes a version that is kept active without a replay: an earlier one again, or one that was refused. The reason
/// stays in the ledger.
#[utoipa::path(post, path = "/api/v1/recipes/{pipeline}/active", tag = "recipes",
    params(("pipeline" = String, Path)), request_body = Activation, responses(
    (status = 200, body = EntryView), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn activate(
    State(keeper): State<Arc<Keeper>>,
    Engineer(principal): Engineer,
    Path(pipeline): Path<String>,
    Json(wanted): Json<Activation>,
) -> Result<Json<EntryView>, ApiError> {
    if wanted.reason.chars().count() > REASON_CHARS_MAX {
        let error = format!("the reason: at most {REASON_CHARS_MAX} characters");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "reason", error));
    }
    let recipes = Arc::clone(keeper.0.get().ok_or(RecipeError::Starting)?);
    let by = format!("http:{}", principal.name);
    let asked = move || recipes.activate(&pipeline, &wanted.version, &by, &wanted.reason);
    let entry = tokio::task::spawn_blocking(asked).await.map_err(ApiError::internal)??;
    Ok(Json(entry.into()))
}

fn all(store: &Store, progress: Option<&Progress>) -> Result<Vec<RecipeView>, StoreError> {
    let one = |(pipeline, active): (String, String)| {
        let replay = progress.filter(|p| p.pipeline == pipeline);
        let replay =
            replay.map(|p| ProgressView { version: p.version.clone(), done: p.done, total: p.total });
        let versions = store.recipe_versions(&pipeline)?.into_iter().map(VersionView::from).collect();
        Ok(RecipeView { pipeline, active, versions, replay })
    };
    store.recipe_books()?.into_iter().map(|(name, book)| one((name, book.active))).collect()
}

impl From<VersionState> for VersionView {
    fn from(state: VersionState) -> Self {
        let VersionState { version, last, step, at, by, was_active, .. } = state;
        Self { version, step: step.as_str(), entry: last, at, by, was_active }
    }
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let Entry { seq, at, pipeline, version, step, by, reason, is_override, replay, made_of } = entry;
        let replay = replay.map(ReplayView::from);
        let of = |GoodPart { id, sha256 }| GoodPartView { id, sha256 };
        let made_of = made_of.into_iter().map(of).collect();
        Self { seq, at, pipeline, version, step: step.as_str(), by, reason, is_override, replay, made_of }
    }
}

impl From<ReplayEntry> for ReplayView {
    fn from(replay: ReplayEntry) -> Self {
        let parts = |all: Vec<ChangedPart>| all.into_iter().map(PartView::from).collect();
        Self {
            sample: replay.sample,
            parts: replay.parts,
            left_out: replay.left_out,
            other_size: replay.other_size,
            text_sha256: replay.text_sha256,
            mmproj_sha256: replay.mmproj_sha256,
            figures: replay.figures,
            lost_count: replay.lost_count,
            lost: parts(replay.lost),
            alarms_count: replay.alarms_count,
            alarms: parts(replay.alarms),
            failed: replay.failed,
            ms: replay.ms,
        }
    }
}

impl From<ChangedPart> for PartView {
    fn from(part: ChangedPart) -> Self {
        let ChangedPart { id, decided, was, now, findings } = part;
        let findings = findings.into_iter().map(|(label, bbox_px)| BoxView { label, bbox_px }).collect();
        Self { id, decided, was, now, findings }
    }
}

impl From<RecipeError> for ApiError {
    fn from(error: RecipeError) -> Self {
        let status = match &error {
            RecipeError::NoVersion { .. } => StatusCode::NOT_FOUND,
            RecipeError::NoReason => StatusCode::BAD_REQUEST,
            RecipeError::Unfit { .. } => StatusCode::CONFLICT,
            RecipeError::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
            RecipeError::NotStored { .. } | RecipeError::Starting | RecipeError::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.code(), error.to_string())
    }
}
