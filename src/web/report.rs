//! What a shift or a lot was: counts, defects, and all that a person should read about, for a page that is printed.
//!
//! ```text
//! rows in the time --at most 20,000 records are read--> of the lot? --> counts by recipe, labels
//!                                                                 '--> rejected, open, changed by people: listed
//! ```

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::queue::Search;
use crate::domain::review::{Decided, Review, ReviewKind};
use crate::store::Store;
use crate::store::record::{Stored, rfc3339};
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Records that one report reads.
const RECORDS_MAX: usize = 20_000;
/// Inspections that it lists.
const LISTED_MAX: usize = 500;
/// Lots that it names.
const LOTS_MAX: usize = 200;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// RFC 3339.
    pub from: Option<String>,
    /// RFC 3339.
    pub to: Option<String>,
    pub camera: Option<String>,
    pub pipeline: Option<String>,
    /// Only parts of this lot.
    pub lot: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Report {
    /// RFC 3339, UTC, of its making.
    pub made_at: String,
    /// Of the first and of the last inspection in it; null without any.
    pub first_at: Option<String>,
    pub last_at: Option<String>,
    /// One for each recipe, camera and version.
    pub lines: Vec<Line>,
    pub all: Counts,
    /// Parts with each label of the findings that hold, most frequent first.
    pub labels: Vec<LabelParts>,
    /// Lots in this time, with their inspections; also of the others when one was asked for.
    pub lots: Vec<LotParts>,
    /// What a person should read about, newest first: rejected, open, or decided otherwise than the model said.
    pub listed: Vec<Listed>,
    /// Further ones that are not listed.
    pub unlisted: u64,
    /// Records that cannot be read: they are in no count.
    pub unreadable: u64,
    /// False while old inspections are still being looked through.
    pub complete: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Counts {
    pub inspected: u64,
    /// What holds: a person's decision before the model's.
    pub passed: u64,
    pub rejected: u64,
    /// Sent to a person who has not decided.
    pub open: u64,
    /// Decided by people.
    pub decided: u64,
    /// Of these otherwise than the model said.
    pub overridden: u64,
    /// Decided although the picture was missing or wrong.
    pub unseen: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Line {
    pub camera: String,
    pub pipeline: String,
    pub version: String,
    #[serde(flatten)]
    pub counts: Counts,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LabelParts {
    pub label: String,
    pub parts: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LotParts {
    pub lot: String,
    pub inspected: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Listed {
    pub id: String,
    pub seq: u64,
    pub at: String,
    pub camera: String,
    pub part_id: Option<String>,
    pub lot: Option<String>,
    pub verdict: &'static str,
    pub reason: Option<String>,
    /// Labels of the findings that hold.
    pub labels: Vec<String>,
    /// pass or fail of the decision in force, by whom, and why.
    pub decided: Option<&'static str>,
    pub by: Option<String>,
    pub why: Option<String>,
}

/// A shift or a lot, for people: the page prints it.
#[utoipa::path(get, path = "/api/v1/report", tag = "charts", params(Ask), responses(
    (status = 200, body = Report), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn report(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Query(ask): Query<Ask>,
) -> Result<Json<Report>, ApiError> {
    let Ask { from, to, camera, pipeline, lot } = ask;
    let lot = lot.filter(|lot| !lot.is_empty());
    let filter = Search { camera, pipeline, from, to, ..Search::default() }.filter()?;
    blocking(&store, move |store| {
        let mut seqs = Vec::new();
        store.scan(&filter, |seq, _, _| seqs.push(seq))?;
        if seqs.len() > RECORDS_MAX {
            let many = format!(
                "from, to: {} inspections are in this time; a report is made of at most {RECORDS_MAX}",
                seqs.len()
            );
            return Err(ApiError::bad(many));
        }
        let mut made = Making::default();
        for seq in seqs {
            match store.get(seq) {
                Ok(Some(stored)) => made.add(&stored, store.effective_review(seq)?.as_ref(), lot.as_deref()),
                // Retention has just removed it.
                Ok(None) => {}
                Err(crate::store::error::StoreError::BadRecord { .. }) => made.report.unreadable += 1,
                Err(error) => return Err(error.into()),
            }
        }
        let complete = store.index_complete()?;
        Ok(Json(Report { made_at: rfc3339(std::time::SystemTime::now()), complete, ..made.finish() }))
    })
    .await
}

#[derive(Default)]
struct Making {
    report: Report,
    /// By camera, recipe and version.
    lines: BTreeMap<(String, String, String), Counts>,
    labels: BTreeMap<String, u64>,
    lots: BTreeMap<String, u64>,
}

impl Making {
    /// The next older inspection, with the decision in force.
    fn add(&mut self, stored: &Stored, review: Option<&Review>, lot: Option<&str>) {
        let i = &stored.inspection;
        if let Some(of) = &i.trigger.lot {
            *self.lots.entry(of.clone()).or_default() += 1;
        }
        if lot.is_some_and(|lot| i.trigger.lot.as_deref() != Some(lot)) {
            return;
        }
        let at = rfc3339(i.finished_at);
        self.report.last_at.get_or_insert_with(|| at.clone());
        self.report.first_at = Some(at.clone());
        let decided = review.and_then(|r| r.verdict);
        let holds = decided.map_or_else(|| i.verdict.as_str(), Decided::as_str);
        let is_overridden = review.is_some_and(|r| r.kind == ReviewKind::Override);
        let line = (i.camera.clone(), i.pipeline.clone(), i.pipeline_version.clone());
        for counts in [self.lines.entry(line).or_default(), &mut self.report.all] {
            counts.inspected += 1;
            counts.passed += u64::from(holds == "pass");
            counts.rejected += u64::from(holds == "fail");
            counts.open += u64::from(holds == "review");
            counts.decided += u64::from(decided.is_some());
            counts.overridden += u64::from(is_overridden);
            counts.unseen += u64::from(decided.is_some() && review.is_some_and(|r| r.picture.is_some()));
        }
        let mut labels: Vec<String> = match review.and_then(|r| r.findings.as_ref()) {
            Some(findings) => findings.iter().map(|f| f.label.clone()).collect(),
            None => i.findings.iter().map(|f| f.label.clone()).collect(),
        };
        labels.sort();
        labels.dedup();
        for label in &labels {
            *self.labels.entry(label.clone()).or_default() += 1;
        }
        if holds == "pass" && !is_overridden {
            return;
        }
        if self.report.listed.len() >= LISTED_MAX {
            self.report.unlisted += 1;
            return;
        }
        let by = review.filter(|_| decided.is_some());
        self.report.listed.push(Listed {
            id: i.id.clone(),
            seq: stored.seq,
            at,
            camera: i.camera.clone(),
            part_id: i.trigger.part_id.clone(),
            lot: i.trigger.lot.clone(),
            verdict: i.verdict.as_str(),
            reason: i.verdict.reason().map(ToString::to_string),
            labels,
            decided: decided.map(Decided::as_str),
            by: by.map(|r| r.actor.clone()),
            why: by.map(|r| r.reason.clone()).filter(|why| !why.is_empty()),
        });
    }

    fn finish(self) -> Report {
        let Self { report, lines, labels, lots } = self;
        let line = |((camera, pipeline, version), counts)| Line { camera, pipeline, version, counts };
        let mut labels: Vec<LabelParts> =
            labels.into_iter().map(|(label, parts)| LabelParts { label, parts }).collect();
        labels.sort_by(|a, b| b.parts.cmp(&a.parts).then(a.label.cmp(&b.label)));
        let lots = lots.into_iter().map(|(lot, inspected)| LotParts { lot, inspected });
        Report {
            lines: lines.into_iter().map(line).collect(),
            labels,
            lots: lots.take(LOTS_MAX).collect(),
            ..report
        }
    }
}
