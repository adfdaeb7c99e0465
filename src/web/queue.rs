//! The queue and one inspection.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::wire::{
    AnswerView, Detail, FindingView, HeatView, LatencyView, LearnedView, ModelView, PartView, ReviewView,
    SkippedView, Summary, TextView, finite,
};
use crate::domain::grade::Grade;
use crate::domain::grid::Grid;
use crate::domain::inspection::{HeatMap, LearnedRef, SkippedTile};
use crate::domain::pipeline::{Pipeline, labels_of};
use crate::domain::review::Decided;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::query::{Filter, unix_ms};
use crate::store::record::{Stored, parse_rfc3339, rfc3339};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Inspections of one page when nothing is asked.
const PAGE: usize = 50;

/// Asks the daemon for the active recipes.
pub(super) type Pipelines = Box<dyn Fn() -> Vec<Arc<Pipeline>> + Send + Sync>;

/// The active recipes: for tile grids and labels.
pub struct ActiveRecipes(Pipelines);

impl ActiveRecipes {
    /// Those that the daemon has whenever it is asked.
    pub fn new(pipelines: Pipelines) -> Self {
        Self(pipelines)
    }

    /// Their names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = (self.0)().iter().map(|p| p.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn of(&self, name: &str, version: &str) -> Option<Arc<Pipeline>> {
        (self.0)().into_iter().find(|p| p.name == name && p.version == version)
    }

    /// Labels of one recipe or of all, recipe by recipe, in the order in which they are written.
    pub(super) fn labels_as_written(&self, pipeline: Option<&str>) -> Vec<String> {
        let mut all = (self.0)();
        all.retain(|p| pipeline.is_none_or(|name| p.name == name));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        labels_of(all.iter().map(|p| &**p))
    }

    /// Labels of all recipes and those that were found.
    fn labels<'a>(&self, found: impl Iterator<Item = &'a String>) -> Vec<String> {
        let mut all: BTreeSet<String> = found.cloned().collect();
        for prompt in (self.0)().iter().flat_map(|p| &p.prompts) {
            all.extend(prompt.kind.labels().iter().cloned());
        }
        all.into_iter().collect()
    }
}

/// What is looked for. Words may be several, joined by commas.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    /// pass, fail, review: the model's verdict.
    pub verdict: Option<String>,
    /// ok, cosmetic, rework, reject.
    pub grade: Option<String>,
    pub label: Option<String>,
    pub camera: Option<String>,
    pub pipeline: Option<String>,
    /// A piece of the part id.
    pub part: Option<String>,
    /// RFC 3339.
    pub from: Option<String>,
    /// RFC 3339.
    pub to: Option<String>,
    /// Whether a person's decision is in force.
    pub reviewed: Option<bool>,
    /// pass or fail: what the person decided.
    pub decided: Option<String>,
}

impl Search {
    /// The store's filter.
    ///
    /// # Errors
    /// A word that is none; it is named.
    pub(super) fn filter(&self) -> Result<Filter, ApiError> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let time = |name: &str, text: &Option<String>| {
            let parse = |t: String| parse_rfc3339(&t).map(unix_ms);
            given(text).map(parse).transpose().map_err(|e| ApiError::bad(format!("{name}: {e}")))
        };
        let decided = given(&self.decided).map(|w| {
            Decided::parse(&w).ok_or_else(|| ApiError::bad(format!("decided: {w:?} is not pass or fail")))
        });
        Ok(Filter {
            verdicts: places("verdict", self.verdict.as_deref(), &["pass", "fail", "review"])?,
            grades: places("grade", self.grade.as_deref(), &Grade::ALL.map(Grade::as_str))?,
            label: given(&self.label),
            camera: given(&self.camera),
            pipeline: given(&self.pipeline),
            part: given(&self.part),
            from_ms: time("from", &self.from)?,
            to_ms: time("to", &self.to)?,
            reviewed: self.reviewed,
            decided: decided.transpose()?,
            one_a_part: false,
        })
    }
}

fn places(name: &str, given: Option<&str>, words: &[&str]) -> Result<Vec<u8>, ApiError> {
    let given = given.unwrap_or_default();
    let place = |word: &str| {
        let at = words.iter().position(|w| *w == word);
        let bad = || ApiError::bad(format!("{name}: {word:?} is not one of {}", words.join(", ")));
        at.map(|at| at as u8).ok_or_else(bad)
    };
    given.split(',').map(str::trim).filter(|w| !w.is_empty()).map(place).collect()
}

/// Where in the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Cursor {
    /// Only inspections before this sequence number: `next` of the page before.
    pub before: Option<u64>,
    /// Leave out so many first, for a list that jumps.
    pub skip: Option<u64>,
    /// 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
    /// Of a part with several views only the newest view that fits; it has the others in `part`.
    pub grouped: Option<bool>,
}

/// One page of the queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Listing {
    pub items: Vec<Summary>,
    /// How many match in all.
    pub total: u64,
    /// How many of them are not before `before`.
    pub newer: u64,
    pub next: Option<u64>,
    /// False while old inspections are still being looked through after a start.
    pub complete: bool,
}

/// Inspections, newest first.
#[utoipa::path(get, path = "/api/v1/inspections", tag = "inspections", params(Search, Cursor), responses(
    (status = 200, body = Listing), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Query(search): Query<SearchAndCursor>,
) -> Result<Json<Listing>, ApiError> {
    let (search, cursor) = search.split();
    let filter = Filter { one_a_part: cursor.grouped.unwrap_or(false), ..search.filter()? };
    let limit = cursor.limit.unwrap_or(PAGE);
    if !(1..=crate::store::query::PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad("limit must be from 1 to 500"));
    }
    blocking(&store, move |store| {
        let page = store.find(&filter, cursor.before, cursor.skip.unwrap_or(0), limit)?;
        let mut items = Vec::with_capacity(page.seqs.len());
        for seq in page.seqs {
            items.extend(summary(store, seq)?);
        }
        Ok(Json(Listing {
            items,
            total: page.total,
            newer: page.newer,
            next: page.next,
            complete: page.complete,
        }))
    })
    .await
}

/// `Search` and `Cursor` in one query text; `serde_urlencoded` cannot flatten numbers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchAndCursor {
    verdict: Option<String>,
    grade: Option<String>,
    label: Option<String>,
    camera: Option<String>,
    pipeline: Option<String>,
    part: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reviewed: Option<bool>,
    decided: Option<String>,
    before: Option<u64>,
    skip: Option<u64>,
    limit: Option<usize>,
    grouped: Option<bool>,
}

impl SearchAndCursor {
    fn split(self) -> (Search, Cursor) {
        let Self {
            verdict,
            grade,
            label,
            camera,
            pipeline,
            part,
            from,
            to,
            reviewed,
            decided,
            before,
            skip,
            limit,
            grouped,
        } = self;
        let search = Search { verdict, grade, label, camera, pipeline, part, from, to, reviewed, decided };
        (search, Cursor { before, skip, limit, grouped })
    }
}

/// The summary of one record; `None` when retention has just removed it.
pub(super) fn summary(store: &Store, seq: u64) -> Result<Option<Summary>, ApiError> {
    let Some(stored) = store.get(seq)? else { return Ok(None) };
    let standing = store.review_state(seq)?;
    let decision = match standing.and_then(|s| s.effective) {
        Some(review) => store.review_entry(review)?,
        None => None,
    };
    let part = part_of(store, &stored)?;
    Ok(Some(Summary::new(&stored, decision.as_ref(), standing.map(|s| s.last), part)))
}

/// Counts by what there is to filter by.
#[derive(Serialize, ToSchema)]
pub(super) struct FacetView {
    pub cameras: Vec<Count>,
    pub pipelines: Vec<Count>,
    pub labels: Vec<Count>,
    pub verdicts: Vec<Count>,
    pub grades: Vec<Count>,
    /// Sent to review by the model and not decided yet.
    pub undecided: u64,
    pub complete: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    pub name: String,
    pub count: u64,
}

/// What there is to filter by.
#[utoipa::path(get, path = "/api/v1/facets", tag = "inspections", responses(
    (status = 200, body = FacetView), (status = 401, body = Problem)))]
pub(super) async fn facets(State(store): State<Arc<Store>>, _: Viewer) -> Result<Json<FacetView>, ApiError> {
    blocking(&store, |store| {
        let facets = store.facets()?;
        let counts =
            |all: Vec<(String, u64)>| all.into_iter().map(|(name, count)| Count { name, count }).collect();
        let words = |words: &[&str], n: &[u64]| {
            words
                .iter()
                .zip(n)
                .map(|(name, count)| Count { name: (*name).to_owned(), count: *count })
                .collect()
        };
        Ok(Json(FacetView {
            cameras: counts(facets.cameras),
            pipelines: counts(facets.pipelines),
            labels: counts(facets.labels),
            verdicts: words(&["pass", "fail", "review"], &facets.verdicts),
            grades: words(&Grade::ALL.map(Grade::as_str), &facets.grades),
            undecided: facets.undecided,
            complete: store.index_complete()?,
        }))
    })
    .await
}

/// Everything about one inspection.
#[utoipa::path(get, path = "/api/v1/inspections/{id}", tag = "inspections", params(("id" = String, Path)), responses(
    (status = 200, body = Detail), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn one(
    State(store): State<Arc<Store>>,
    State(recipes): State<Arc<ActiveRecipes>>,
    _: Viewer,
    Path(id): Path<String>,
) -> Result<Json<Detail>, ApiError> {
    blocking(&store, move |store| Ok(Json(detail(store, &recipes, &stored(store, &id)?)?))).await
}

/// The inspection with this id.
pub(super) fn stored(store: &Store, id: &str) -> Result<Stored, ApiError> {
    let found = match store.get_by_id(id) {
        Err(crate::store::error::StoreError::InvalidId { .. }) => None,
        other => other?,
    };
    found.ok_or_else(|| ApiError::not_found("there is no such inspection"))
}

/// The part with several views that an inspection is one of, how it stands, and what is known of each view.
fn part_of(store: &Store, stored: &Stored) -> Result<Option<PartView>, ApiError> {
    let Some(part) = stored.inspection.trigger.part.as_deref() else { return Ok(None) };
    let Some(state) = store.part_of_view(part, stored.seq)? else { return Ok(None) };
    let mut shown = PartView::new(part, state);
    for view in &mut shown.views {
        let Some(id) = &view.inspection_id else { continue };
        // What cannot be read, or was removed, has neither: the list goes on.
        let other = match store.get_by_id(id) {
            Err(StoreError::BadRecord { .. }) => None,
            other => other?,
        };
        let Some(other) = other else { continue };
        view.decided = store.review_state(other.seq)?.and_then(|s| s.verdict).map(Decided::as_str);
        view.image = other.image.map(|s| s.image.sha256);
    }
    Ok(Some(shown))
}

fn detail(store: &Store, recipes: &ActiveRecipes, stored: &Stored) -> Result<Detail, ApiError> {
    let i = &stored.inspection;
    let reviews = store.reviews_of(stored.seq)?;
    let standing = store.review_state(stored.seq)?;
    let decision = standing.and_then(|s| s.effective).and_then(|e| reviews.iter().find(|r| r.seq == e));
    let picture = stored.image.as_ref().map(|s| store.picture(&s.image));
    let whole = stored.image.as_ref().filter(|_| picture.as_ref().is_some_and(|p| p.fault().is_none()));
    let size = whole.and_then(|s| store.picture_size(&s.image.sha256));
    let pipeline = recipes.of(&i.pipeline, &i.pipeline_version);
    let l = &i.latency;
    Ok(Detail {
        summary: Summary::new(stored, decision, standing.map(|s| s.last), part_of(store, stored)?),
        captured_at: rfc3339(i.captured_at),
        pipeline_version: i.pipeline_version.clone(),
        model: ModelView {
            name: i.model.name.clone(),
            sha256: i.model.text_sha256.clone(),
            mmproj_sha256: i.model.mmproj_sha256.clone(),
        },
        prompt_hash: i.prompt_hash.clone(),
        score: finite(f64::from(i.score)),
        boxes: i.findings.iter().map(FindingView::new).collect(),
        texts: i.texts.iter().map(TextView::new).collect(),
        tiles_planned: i.tiles.planned,
        tiles_inspected: i.tiles.inspected,
        skipped: i.skipped.iter().map(skipped).collect(),
        picture: picture.as_ref().map(|p| p.as_str()),
        width: size.map(|s| s.0),
        height: size.map(|s| s.1),
        grid: pipeline.as_ref().zip(size).and_then(|(p, (w, h))| grid(p, w, h)),
        mm_per_px: pipeline.as_ref().map(|p| p.mm_per_px),
        known_labels: recipes.labels(i.findings.iter().map(|f| &f.label)),
        latency: LatencyView {
            queue: finite(l.queue_ms),
            preprocess: finite(l.preprocess_ms),
            vision: finite(l.vision_ms),
            prefill: finite(l.prefill_ms),
            decode: finite(l.decode_ms),
            total: finite(l.total_ms),
        },
        answers: i
            .answers
            .iter()
            .map(|a| AnswerView { prompt: a.prompt.clone(), tile: a.tile, text: a.text.clone() })
            .collect(),
        replayed: i.replayed,
        origin: i.origin.clone(),
        learned: i.learned.iter().map(learned).collect(),
        heat: i.heat.as_ref().map(heat),
        reviews: reviews.iter().map(ReviewView::new).collect(),
    })
}

fn learned(l: &LearnedRef) -> LearnedView {
    let LearnedRef { prompt, kind, sha256 } = l.clone();
    LearnedView { prompt, kind, sha256 }
}

fn skipped(s: &SkippedTile) -> SkippedView {
    SkippedView {
        prompt: s.prompt.clone(),
        tile: s.tile,
        rect: [s.rect.x0, s.rect.y0, s.rect.x1, s.rect.y1],
        by: s.by.clone(),
        doubt: finite(f64::from(s.doubt)),
        below: finite(f64::from(s.below)),
    }
}

fn heat(map: &HeatMap) -> HeatView {
    HeatView { place_px: map.place_px, cols: map.cols, places: map.values.clone() }
}

fn grid(pipeline: &Pipeline, width: u32, height: u32) -> Option<Vec<[u32; 4]>> {
    let grid = Grid::new(width, height, &pipeline.frame, &pipeline.tiling).ok()?;
    Some(grid.tiles.iter().map(|t| [t.rect.x0, t.rect.y0, t.rect.x1, t.rect.y1]).collect())
}
