//! Blind studies: how far people agree who see the picture alone, neither the model's word nor each other's.
//!
//! ```text
//! engineer: start --newest inspections, pass, fail and review in turn, any of each--> a study in the store
//! operator: part --the next picture, in an order of his own--> say --one letter of his sheet--> again, until it is full
//! anybody: studies --sheets and the model's word--> figures of each pair
//! ```
//!
//! Rules:
//! - A picture is all that an operator gets of a part: no id leads from it to its inspection.
//! - What is said stays as it was first said, and what is decided about the part stays as it is.
//! - A part whose picture is not there any more is passed over.
//! - A round is begun when the one before is done.

mod figures;

use super::auth::{Engineer, Operator, Viewer};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::queue::Search;
use crate::domain::grade::Verdict;
use crate::domain::review::Decided;
use crate::store::Store;
use crate::store::blind::{PARTS_MAX, ROUNDS_MAX, Sheet, Study, StudyPart};
use crate::store::error::StoreError;
use crate::store::images::sha256;
use crate::store::record::rfc3339;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use figures::{BlindPair, pairs};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

/// Fewest parts of a study.
const PARTS_MIN: usize = 10;
/// Parts from which on the figures mean something: the fewest of the book's studies.
const PARTS_ENOUGH: usize = 50;
/// Studies that are kept; another one starts when an old one is removed.
const STUDIES_MAX: usize = 20;
/// People in one study.
const RATERS_MAX: usize = 12;
/// Inspections that a study is drawn from, the newest.
const INSPECTIONS_MAX: usize = 20_000;
/// Records that are read for one study, those without a picture among them.
const READ_MAX: usize = 2_000;

/// The studies of the store.
pub(crate) struct Blind {
    store: Arc<Store>,
    /// A sheet is read, and then kept with one letter more: one at a time, and so is the number of studies.
    turn: Mutex<()>,
}

impl Blind {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, turn: Mutex::default() }
    }

    fn study(&self, id: &str) -> Result<Study, ApiError> {
        self.store.study(id)?.ok_or_else(|| ApiError::not_found("there is no such study"))
    }

    /// What somebody has said in a round.
    fn sheet(&self, study: &Study, rater: &str, round: u8) -> Result<Sheet, ApiError> {
        let mut sheets = self.store.sheets(&study.id)?.into_iter();
        let found = sheets.find(|sheet| sheet.rater == rater && sheet.round == round);
        let empty = || Sheet { rater: rater.to_owned(), round, said: vec![None; study.parts.len()] };
        Ok(found.unwrap_or_else(empty))
    }

    /// The picture of a part that can be shown.
    fn picture(&self, part: &StudyPart) -> Result<Option<String>, ApiError> {
        picture(&self.store, &part.inspection_id)
    }

    /// The place of the next part and its picture; `None`: the round is done.
    fn next(&self, study: &Study, sheet: &Sheet) -> Result<Option<(usize, String)>, ApiError> {
        for at in order(study, sheet) {
            if sheet.said[at].is_none()
                && let Some(image) = self.picture(&study.parts[at])?
            {
                return Ok(Some((at, image)));
            }
        }
        Ok(None)
    }

    /// A round is begun when the one before is done.
    fn check_round(&self, study: &Study, rater: &str, round: u8) -> Result<(), ApiError> {
        if !(1..=ROUNDS_MAX).contains(&round) {
            return Err(ApiError::bad(format!("round: {round} is not from 1 to {ROUNDS_MAX}")));
        }
        if round > 1 && self.next(study, &self.sheet(study, rater, round - 1)?)?.is_some() {
            let error = format!("round {} comes first, and is not done", round - 1);
            return Err(ApiError::new(StatusCode::CONFLICT, "round", error));
        }
        Ok(())
    }
}

/// The picture of an inspection that can be shown.
fn picture(store: &Store, inspection_id: &str) -> Result<Option<String>, ApiError> {
    let stored = match store.get_by_id(inspection_id) {
        Err(StoreError::BadRecord { .. }) => None,
        other => other?,
    };
    let kept = stored.and_then(|stored| stored.image);
    Ok(kept.filter(|kept| store.picture(&kept.image).fault().is_none()).map(|kept| kept.image.sha256))
}

/// Places in an order that nobody can foresee and that is always the same.
fn shuffled(mut places: Vec<u64>, by: &str) -> Vec<u64> {
    places.sort_by_cached_key(|place| sha256(format!("{by}/{place}").as_bytes()));
    places
}

/// The order in which somebody is shown the parts in a round.
fn order(study: &Study, Sheet { rater, round, said }: &Sheet) -> impl Iterator<Item = usize> {
    let places = (0..said.len().min(study.parts.len()) as u64).collect();
    shuffled(places, &format!("{}/{round}/{rater}", study.id)).into_iter().map(|place| place as usize)
}

/// A study to start.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StudyBody {
    /// 10 to 100, in equal numbers what the model passed, failed and sent to review, as far as there are so many.
    #[schema(minimum = 10, maximum = 100)]
    pub parts: usize,
    /// Of one recipe alone; left out: of all.
    pub pipeline: Option<String>,
}

/// A study and its figures.
#[derive(Serialize, ToSchema)]
pub(super) struct BlindStudy {
    /// ULID.
    pub id: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub by: String,
    pub parts: usize,
    /// Of these the model passed or failed so many; the others it sent to review.
    pub model_parts: usize,
    pub raters: Vec<BlindRater>,
    pub pairs: Vec<BlindPair>,
    /// Parts in common from which on the figures mean something.
    pub parts_enough: usize,
}

/// How far somebody is in a round.
#[derive(Serialize, ToSchema)]
pub(super) struct BlindRater {
    pub name: String,
    /// From 1; from the second one on the person's own word is compared with his own.
    pub round: u8,
    /// Parts that he has decided about.
    pub parts: usize,
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Round {
    /// 1 to 3; left out: 1.
    #[param(minimum = 1, maximum = 3)]
    pub round: Option<u8>,
}

/// The next part of somebody's round.
#[derive(Serialize, ToSchema)]
pub(super) struct BlindPart {
    pub round: u8,
    /// Parts that he has decided about in this round.
    pub decided: usize,
    pub parts: usize,
    /// Its place in the study, for the answer; null: the round is done.
    pub part: Option<usize>,
    /// sha256 of its picture.
    pub image: Option<String>,
}

/// What somebody says of a part.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BlindAnswer {
    #[schema(minimum = 1, maximum = 3)]
    pub round: u8,
    /// Its place in the study.
    pub part: usize,
    /// pass or fail.
    pub verdict: String,
}

/// All blind studies, the newest first, each with how far people are and the figures of each pair.
#[utoipa::path(get, path = "/api/v1/blind", tag = "charts", responses(
    (status = 200, body = [BlindStudy]), (status = 401, body = Problem)))]
pub(super) async fn studies(
    State(blind): State<Arc<Blind>>,
    _: Viewer,
) -> Result<Json<Vec<BlindStudy>>, ApiError> {
    blocking(&blind, |blind| {
        let mut all = Vec::new();
        for id in blind.store.study_ids()? {
            match view(&blind.store, &id) {
                Ok(study) => all.extend(study),
                // The others are shown all the same.
                Err(error @ StoreError::BadMeta { .. }) => {
                    tracing::error!(%error, id, "a study cannot be read, and is not listed");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Json(all))
    })
    .await
}

fn view(store: &Store, id: &str) -> Result<Option<BlindStudy>, StoreError> {
    let Some(study) = store.study(id)? else { return Ok(None) };
    let sheets = store.sheets(id)?;
    let rater = |sheet: &Sheet| BlindRater {
        name: sheet.rater.clone(),
        round: sheet.round,
        parts: sheet.said.iter().flatten().count(),
    };
    Ok(Some(BlindStudy {
        raters: sheets.iter().map(rater).collect(),
        pairs: pairs(&study.parts, &sheets),
        parts: study.parts.len(),
        model_parts: study.parts.iter().filter(|part| part.model.is_some()).count(),
        parts_enough: PARTS_ENOUGH,
        id: study.id,
        at: study.at,
        by: study.by,
    }))
}

/// Starts a blind study over parts of the archive whose pictures are kept.
#[utoipa::path(post, path = "/api/v1/blind", tag = "charts", request_body = StudyBody, responses(
    (status = 201, body = BlindStudy), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn start(
    State(blind): State<Arc<Blind>>,
    Engineer(principal): Engineer,
    Json(body): Json<StudyBody>,
) -> Result<(StatusCode, Json<BlindStudy>), ApiError> {
    if !(PARTS_MIN..=PARTS_MAX).contains(&body.parts) {
        return Err(ApiError::bad(format!("parts: {} is not from {PARTS_MIN} to {PARTS_MAX}", body.parts)));
    }
    let conflict = |code, error: String| ApiError::new(StatusCode::CONFLICT, code, error);
    let study = blocking(&blind, move |blind| {
        let _turn = blind.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if blind.store.study_ids()?.len() >= STUDIES_MAX {
            return Err(conflict("full", format!("{STUDIES_MAX} studies are kept: remove an old one first")));
        }
        let (id, at) = (ulid::Ulid::generate().to_string(), rfc3339(SystemTime::now()));
        let parts = drawn(&blind.store, &id, &body)?;
        if parts.len() < body.parts {
            let error = format!("the archive has only {} such parts with their pictures", parts.len());
            return Err(conflict("few", error));
        }
        let study = Study { id, at, by: principal.name, parts };
        blind.store.keep_study(&study)?;
        tracing::info!(id = %study.id, by = %study.by, parts = study.parts.len(), "a blind study was started");
        view(&blind.store, &study.id)?.ok_or_else(|| ApiError::not_found("it was removed again"))
    })
    .await?;
    Ok((StatusCode::CREATED, Json(study)))
}

/// Parts of the archive: what the model passed, failed and sent to review in turn, any of each.
fn drawn(store: &Store, study: &str, wanted: &StudyBody) -> Result<Vec<StudyPart>, ApiError> {
    let filter = Search { pipeline: wanted.pipeline.clone(), ..Search::default() }.filter()?;
    let (mut strata, mut seen) = ([vec![], vec![], vec![]], 0);
    store.scan(&filter, |seq, row, _| {
        seen += 1;
        if let Some(stratum) = strata.get_mut(usize::from(row.verdict)).filter(|_| seen <= INSPECTIONS_MAX) {
            stratum.push(seq);
        }
    })?;
    let mut strata = strata.map(|stratum| shuffled(stratum, study).into_iter());
    let (mut parts, mut read) = (Vec::new(), 0);
    while parts.len() < wanted.parts && read < READ_MAX {
        let before = read;
        for stratum in &mut strata {
            if let Some(seq) = stratum.next().filter(|_| parts.len() < wanted.parts) {
                read += 1;
                parts.extend(candidate(store, seq)?);
            }
        }
        if read == before {
            break;
        }
    }
    Ok(parts)
}

/// A part whose picture can be shown.
fn candidate(store: &Store, seq: u64) -> Result<Option<StudyPart>, ApiError> {
    let stored = match store.get(seq) {
        Err(StoreError::BadRecord { .. }) => None,
        other => other?,
    };
    let Some(inspection) = stored.map(|stored| stored.inspection) else { return Ok(None) };
    let model = match inspection.verdict {
        Verdict::Pass => Some(Decided::Pass),
        Verdict::Fail(_) => Some(Decided::Fail),
        Verdict::Review(_) => None,
    };
    let is_shown = picture(store, &inspection.id)?.is_some();
    Ok(is_shown.then_some(StudyPart { inspection_id: inspection.id, model }))
}

/// Removes a study with all that was said in it.
#[utoipa::path(delete, path = "/api/v1/blind/{id}", tag = "charts", params(("id" = String, Path)), responses(
    (status = 204, description = "removed"), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem)))]
pub(super) async fn remove(
    State(blind): State<Arc<Blind>>,
    Engineer(principal): Engineer,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    blocking(&blind, move |blind| {
        let _turn = blind.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !blind.store.remove_study(&id)? {
            return Err(ApiError::not_found("there is no such study"));
        }
        tracing::info!(id, by = %principal.name, "a blind study was removed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// The next part of one's own round: its picture, and nothing else of it.
#[utoipa::path(get, path = "/api/v1/blind/{id}/part", tag = "charts", params(("id" = String, Path), Round), responses(
    (status = 200, body = BlindPart), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn part(
    State(blind): State<Arc<Blind>>,
    Operator(principal): Operator,
    Path(id): Path<String>,
    Query(Round { round }): Query<Round>,
) -> Result<Json<BlindPart>, ApiError> {
    blocking(&blind, move |blind| {
        let (study, round) = (blind.study(&id)?, round.unwrap_or(1));
        blind.check_round(&study, &principal.name, round)?;
        let sheet = blind.sheet(&study, &principal.name, round)?;
        let (part, image) = blind.next(&study, &sheet)?.unzip();
        let (decided, parts) = (sheet.said.iter().flatten().count(), study.parts.len());
        Ok(Json(BlindPart { round, decided, parts, part, image }))
    })
    .await
}

/// Says of a part whether it is good; it is no review, and stays as it was first said.
#[utoipa::path(post, path = "/api/v1/blind/{id}/answers", tag = "charts", params(("id" = String, Path)),
    request_body = BlindAnswer, responses(
    (status = 204, description = "noted"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn say(
    State(blind): State<Arc<Blind>>,
    Operator(principal): Operator,
    Path(id): Path<String>,
    Json(body): Json<BlindAnswer>,
) -> Result<StatusCode, ApiError> {
    let BlindAnswer { round, part, verdict } = body;
    let verdict = Decided::parse(&verdict)
        .ok_or_else(|| ApiError::bad(format!("verdict: {verdict:?} is not pass or fail")))?;
    let conflict = |code, error: String| ApiError::new(StatusCode::CONFLICT, code, error);
    blocking(&blind, move |blind| {
        let _turn = blind.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (study, rater) = (blind.study(&id)?, principal.name);
        blind.check_round(&study, &rater, round)?;
        let first = blind.store.sheets(&id)?.into_iter().filter(|sheet| sheet.round == 1);
        let others = first.filter(|sheet| sheet.rater != rater).count();
        if others >= RATERS_MAX {
            return Err(conflict("raters", format!("{RATERS_MAX} people take part already")));
        }
        let mut sheet = blind.sheet(&study, &rater, round)?;
        match sheet.said.get_mut(part) {
            None => return Err(ApiError::bad(format!("part: the study has no part {part}"))),
            Some(Some(_)) => return Err(conflict("answered", "this part was decided already".into())),
            Some(said) => *said = Some(verdict),
        }
        blind.store.keep_sheet(&id, &sheet)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
