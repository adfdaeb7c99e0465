//! Decisions: one, one taken back, and many at once.

use super::auth::Operator;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::queue::{Search, stored};
use super::wire::{BoxBody, ReviewView, TextBody};
use crate::domain::review::{Decided, Decision};
use crate::store::Store;
use crate::store::record::Stored;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Inspections that one request may decide about.
pub(super) const BULK_MAX: u64 = 1000;

/// What an operator decides.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionBody {
    /// pass or fail. The same as the model's: a confirmation; the opposite: an override.
    pub verdict: String,
    /// At most 500 characters; an override needs one.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub reason: String,
    /// At most 1000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
    /// All boxes as they should be; left out or null: the model's are right.
    pub findings: Option<Vec<BoxBody>>,
    /// Lines that read otherwise.
    pub texts: Option<Vec<TextBody>>,
    /// Decide although the picture is missing or wrong, which is refused otherwise; the entry keeps that.
    #[serde(default)]
    pub without_picture: bool,
    /// The newest entry about this inspection that was seen (`last_review`); null: none.
    pub based_on: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UndoBody {
    #[serde(default)]
    #[schema(max_length = 500)]
    pub reason: String,
    pub based_on: Option<u64>,
}

/// Many at once: all undecided inspections that fit the search.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkBody {
    pub search: Search,
    /// confirm: what the model says, where it says pass or fail.
    pub action: String,
    /// How many the operator was told. When it is another number now, nothing is done.
    pub count: u64,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct BulkDone {
    /// Entries that were appended.
    pub decided: usize,
    /// Inspections that are left to a person, because their pictures are missing or wrong or somebody decided
    /// meanwhile.
    pub left: usize,
}

/// Decides about an inspection: an entry in the ledger, published over MQTT.
#[utoipa::path(post, path = "/api/v1/inspections/{id}/reviews", tag = "decisions", params(("id" = String, Path)),
    request_body = DecisionBody, responses(
    (status = 201, body = ReviewView), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn decide(
    State(store): State<Arc<Store>>,
    Operator(principal): Operator,
    Path(id): Path<String>,
    Json(body): Json<DecisionBody>,
) -> Result<(StatusCode, Json<ReviewView>), ApiError> {
    let (based_on, without_picture) = (body.based_on, body.without_picture);
    let decision = decision(body)?;
    let review = blocking(&store, move |store| {
        inside(&decision, &stored(store, &id)?, store)?;
        Ok(if without_picture {
            store.review_without_picture(&id, &principal.name, decision, based_on)?
        } else {
            store.review(&id, &principal.name, decision, based_on)?
        })
    })
    .await?;
    tracing::info!(review = review.seq, by = %review.actor, inspection = review.inspection_seq, kind = review.kind.as_str(), "decided");
    Ok((StatusCode::CREATED, Json(ReviewView::new(&review))))
}

fn decision(body: DecisionBody) -> Result<Decision, ApiError> {
    let verdict = Decided::parse(&body.verdict)
        .ok_or_else(|| ApiError::bad(format!("verdict: {:?} is not pass or fail", body.verdict)))?;
    let findings = body.findings.map(|f| f.into_iter().map(BoxBody::into_domain).collect::<Result<_, _>>());
    let findings = findings.transpose().map_err(|e| ApiError::bad(format!("findings: {e}")))?;
    let texts = body.texts.map(|t| t.into_iter().map(TextBody::into_domain).collect());
    Ok(Decision { verdict, reason: body.reason, note: body.note, findings, texts })
}

/// Boxes lie inside the picture, so that an export is never refused by who reads it.
fn inside(decision: &Decision, stored: &Stored, store: &Store) -> Result<(), ApiError> {
    let size = stored.image.as_ref().and_then(|s| store.picture_size(&s.image.sha256));
    let (Some((width, height)), Some(findings)) = (size, &decision.findings) else { return Ok(()) };
    match findings.iter().position(|f| f.bbox_px.x1 > width as f32 || f.bbox_px.y1 > height as f32) {
        Some(i) => {
            Err(ApiError::bad(format!("findings[{i}].bbox_px leaves the picture of {width}x{height}")))
        }
        None => Ok(()),
    }
}

/// Takes the decision in force back, as a new entry.
#[utoipa::path(post, path = "/api/v1/inspections/{id}/undo", tag = "decisions", params(("id" = String, Path)),
    request_body = UndoBody, responses(
    (status = 201, body = ReviewView), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn undo(
    State(store): State<Arc<Store>>,
    Operator(principal): Operator,
    Path(id): Path<String>,
    Json(body): Json<UndoBody>,
) -> Result<(StatusCode, Json<ReviewView>), ApiError> {
    let review = blocking(&store, move |store| {
        Ok(store.undo_review(&id, &principal.name, &body.reason, body.based_on)?)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(ReviewView::new(&review))))
}

/// Confirms the model's pass or fail of all undecided inspections that fit, at most 1000.
#[utoipa::path(post, path = "/api/v1/reviews/bulk", tag = "decisions", request_body = BulkBody, responses(
    (status = 200, body = BulkDone), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn bulk(
    State(store): State<Arc<Store>>,
    Operator(principal): Operator,
    Json(body): Json<BulkBody>,
) -> Result<Json<BulkDone>, ApiError> {
    if body.action != "confirm" {
        return Err(ApiError::bad("action: only confirm is done in bulk"));
    }
    let mut filter = body.search.filter()?;
    filter.reviewed = Some(false);
    let done = blocking(&store, move |store| {
        // What the model sent to review needs a person's eyes, one by one.
        let mut groups = [(Decided::Pass, Vec::new()), (Decided::Fail, Vec::new())];
        let mut total = 0u64;
        store.scan(&filter, |seq, row, _| {
            if let Some((_, seqs)) = groups.get_mut(usize::from(row.verdict)) {
                total += 1;
                if total <= BULK_MAX {
                    seqs.push(seq);
                }
            }
        })?;
        if total != body.count || total > BULK_MAX {
            let error =
                format!("{total} inspections fit now, not {}; at most {BULK_MAX} at once", body.count);
            return Err(ApiError::new(StatusCode::CONFLICT, "count", error));
        }
        let (mut decided, mut asked) = (0, 0);
        for (verdict, seqs) in groups {
            let mut ids = Vec::new();
            for seq in seqs {
                ids.extend(store.get(seq)?.map(|s| s.inspection.id));
            }
            let decision = Decision {
                verdict,
                reason: String::new(),
                note: body.note.clone(),
                findings: None,
                texts: None,
            };
            asked += ids.len();
            decided += store.review_many(&ids, &principal.name, &decision)?.len();
        }
        Ok(BulkDone { decided, left: asked - decided })
    })
    .await?;
    Ok(Json(done))
}
