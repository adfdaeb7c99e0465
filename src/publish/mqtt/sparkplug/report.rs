//! What is owed and what the station reports, as values of metrics.
//!
//! ```text
//! result --> Result/… of its camera        part, review --> Part/…, Review/… of the node
//! camera --> State/… of its device         alarm, recipe, stats --> Alarms/…, Recipe/…, Stats/… of the node
//! ```

use super::metrics::Value;
use super::session::Who;
use crate::domain::camera::CameraStatus;
use crate::domain::inspection::Inspection;
use crate::domain::part::PartVerdict;
use crate::domain::recipe::RecipeStatus;
use crate::domain::review::Review;
use crate::domain::trigger::{Outcome, Refusal};
use crate::publish::Stats;
use crate::publish::mqtt::dialect::json::message;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Kind, OutboxEntry};
use crate::store::record::Stored;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Newest inspections that are looked at for the newest of each camera.
const NEWEST_MAX: usize = 256;

/// Names of a table, with their values.
pub(super) type Values = Vec<(&'static str, Value)>;

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub who: Who,
    pub values: Values,
    /// When the values were taken: of a result, the exposure.
    pub at: SystemTime,
    /// When it could have been sent first.
    pub since: SystemTime,
}

/// Reports about owed entries.
#[derive(Debug)]
pub(super) struct Page {
    /// By their places; or why there is none.
    pub made: Vec<(u64, Result<Report, String>)>,
    /// Where to read on, and whether the log ended there.
    pub next: u64,
    pub end: bool,
}

/// Up to `count` entries of a kind that a sink is owed, from a place on.
///
/// # Errors
/// [`StoreError`]: the store failed.
pub(super) fn page(
    store: &Store,
    sink: &str,
    kind: Kind,
    from: u64,
    count: usize,
) -> Result<Page, StoreError> {
    let found = store.outbox(sink).owed(kind, from, count)?;
    let mut page = Page { made: Vec::new(), next: found.next, end: found.end };
    for entry in found.entries {
        page.made.push((entry.place, owed(store, &entry)?));
    }
    Ok(page)
}

/// The report about an entry; the inner error says why none can be made of it.
///
/// # Errors
/// [`StoreError`]: the store failed.
fn owed(store: &Store, entry: &OutboxEntry) -> Result<Result<Report, String>, StoreError> {
    let OutboxEntry { owed, schema, .. } = *entry;
    // A report has the same metrics whatever JSON's fields were when it came to be owed.
    if schema > owed.kind.schema() {
        return Ok(Err(format!("message schema {schema} is not known to this version")));
    }
    let made = match owed.kind {
        Kind::Result => store.get(owed.seq).map(|found| found.map(|stored| result(&stored))),
        Kind::Part => store.part(owed.seq).map(|found| found.map(|verdict| part(&verdict))),
        Kind::Review => store.review_entry(owed.seq).map(|found| found.map(|entry| review(&entry))),
    };
    match made {
        Ok(report) => Ok(report.ok_or_else(|| "its record is missing".to_owned())),
        Err(error @ (StoreError::BadRecord { .. } | StoreError::BadMeta { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The newest values of what is owed, for a birth: of each camera, of parts, of reviews.
///
/// # Errors
/// [`StoreError`].
pub(super) fn newest(store: &Store) -> Result<Vec<Report>, StoreError> {
    let mut results: BTreeMap<String, Report> = BTreeMap::new();
    for stored in store.newest_first().take(NEWEST_MAX) {
        match stored {
            Ok(stored) => {
                let camera = stored.inspection.camera.clone();
                results.entry(camera).or_insert_with(|| result(&stored));
            }
            Err(error @ StoreError::BadRecord { .. }) => tracing::error!(%error, "skipped for a birth"),
            Err(error) => return Err(error),
        }
    }
    let (verdict, entry) = (*store.subscribe_parts().borrow(), *store.subscribe_reviews().borrow());
    let passable = |error: StoreError| match error {
        StoreError::BadRecord { .. } | StoreError::BadMeta { .. } => Ok(None),
        error => Err(error),
    };
    let part = store.part(verdict).map(|found| found.map(|v| part(&v))).or_else(passable)?;
    let review = store.review_entry(entry).map(|found| found.map(|r| review(&r))).or_else(passable)?;
    Ok(results.into_values().chain(part).chain(review).collect())
}

fn result(stored: &Stored) -> Report {
    let i = &stored.inspection;
    let mut values = who_and_what(stored);
    values.extend(measured(i));
    let picture = stored.image.as_ref();
    values.extend([
        ("Result/replayed", Value::Flag(i.replayed)),
        ("Result/part", Value::maybe(i.trigger.part.as_ref().map(|p| p.name.as_str()))),
        ("Result/part_view_of", Value::maybe(i.trigger.part.as_ref().map(|p| p.id.as_str()))),
        ("Result/image_sha256", Value::maybe(picture.map(|p| p.image.sha256.as_str()))),
        ("Result/image_url", Value::maybe(picture.map(|p| p.url.as_str()))),
    ]);
    Report { who: Who::Device(i.camera.clone()), values, at: i.captured_at, since: i.finished_at }
}

fn who_and_what(stored: &Stored) -> Values {
    let i = &stored.inspection;
    let reason = i.verdict.reason();
    vec![
        ("Result/inspection_id", Value::text(&i.id)),
        ("Result/seq", Value::Count(stored.seq)),
        ("Result/part_id", Value::maybe(i.trigger.part_id.as_deref())),
        ("Result/lot", Value::maybe(i.trigger.lot.as_deref())),
        ("Result/correlation_id", Value::maybe(i.trigger.correlation_id.as_deref())),
        ("Result/camera", Value::text(&i.camera)),
        ("Result/pipeline", Value::text(&i.pipeline)),
        ("Result/pipeline_version", Value::text(&i.pipeline_version)),
        ("Result/model", Value::text(&i.model.name)),
        ("Result/ts_capture", Value::Time(i.captured_at)),
        ("Result/ts_result", Value::Time(i.finished_at)),
        ("Result/verdict", Value::text(i.verdict.as_str())),
        ("Result/grade", Value::text(i.grade.as_str())),
        ("Result/reason_code", Value::maybe(reason.map(|r| r.code()))),
        ("Result/reason", Value::maybe(reason.map(ToString::to_string).as_deref())),
    ]
}

fn measured(i: &Inspection) -> Values {
    let worst = message::worst(i);
    let number = |x: Option<f64>| x.map_or(Value::Null, Value::Number);
    vec![
        ("Result/score", Value::Number(i.score.into())),
        ("Result/findings", Value::count(i.findings.len())),
        ("Result/worst_label", Value::maybe(worst.map(|f| f.label.as_str()))),
        ("Result/worst_severity", Value::maybe(worst.map(|f| f.severity.as_str()))),
        ("Result/worst_confidence", number(worst.map(|f| f.confidence.into()))),
        ("Result/worst_longest_mm", number(worst.map(|f| f.longest_mm))),
        ("Result/worst_area_mm2", number(worst.map(|f| f.area_mm2))),
        ("Result/text_read", Value::text(message::text_read(i))),
        ("Result/text_check", Value::text(message::text_check(i))),
        ("Result/tiles_planned", Value::count(i.tiles.planned)),
        ("Result/tiles_inspected", Value::count(i.tiles.inspected)),
        ("Result/tiles_skipped", Value::count(i.tiles_skipped())),
        ("Result/latency_ms", Value::Number(i.latency.total_ms)),
    ]
}

fn part(verdict: &PartVerdict) -> Report {
    let ids: Vec<&str> = verdict.views.iter().filter_map(|view| view.inspection_id.as_deref()).collect();
    let values = vec![
        ("Part/id", Value::text(&verdict.part.id)),
        ("Part/part", Value::text(&verdict.part.name)),
        ("Part/part_id", Value::maybe(verdict.part_id.as_deref())),
        ("Part/lot", Value::maybe(verdict.lot.as_deref())),
        ("Part/verdict", Value::text(verdict.outcome.as_str())),
        ("Part/grade", Value::text(verdict.grade.as_str())),
        ("Part/reason", Value::maybe(verdict.reason.as_deref())),
        ("Part/views", Value::count(verdict.views.len())),
        ("Part/inspection_ids", Value::text(ids.join(" "))),
        ("Part/ts", Value::Time(verdict.decided_at)),
        ("Part/correlation_id", Value::maybe(verdict.correlation_id.as_deref())),
    ];
    Report { who: Who::Node, values, at: verdict.decided_at, since: verdict.decided_at }
}

fn review(review: &Review) -> Report {
    let number = |seq: Option<u64>| seq.map_or(Value::Null, Value::Count);
    let values = vec![
        ("Review/seq", Value::Count(review.seq)),
        ("Review/inspection_id", Value::text(&review.inspection_id)),
        ("Review/inspection_seq", Value::Count(review.inspection_seq)),
        ("Review/actor", Value::text(&review.actor)),
        ("Review/ts", Value::Time(review.at)),
        ("Review/kind", Value::text(review.kind.as_str())),
        ("Review/model_verdict", Value::text(&review.model_verdict)),
        ("Review/verdict", Value::maybe(review.verdict.map(|v| v.as_str()))),
        ("Review/reason", Value::text(&review.reason)),
        ("Review/note", Value::text(&review.note)),
        ("Review/supersedes", number(review.supersedes)),
        ("Review/restores", number(review.restores)),
        ("Review/picture", Value::maybe(review.picture.map(|p| p.as_str()))),
        ("Review/hash", Value::text(&review.hash)),
    ];
    Report { who: Who::Node, values, at: review.at, since: review.at }
}

/// What a camera does, and on whose word.
pub(super) fn camera(status: &CameraStatus) -> Values {
    let line = &status.line;
    vec![
        ("State/state", Value::text(status.state.as_str())),
        ("State/reason", Value::text(&status.reason)),
        ("State/pipeline", Value::text(&line.pipeline)),
        ("State/pipeline_version", Value::text(&line.pipeline_version)),
        ("State/pipeline_by", Value::text(&line.pipeline_by)),
        ("State/paused", Value::Flag(line.paused)),
        ("State/paused_by", Value::text(&line.paused_by)),
        ("State/since", Value::text(&line.since)),
    ]
}

/// The alarms that stand, and the one that was raised or cleared last.
pub(super) fn alarms<'a>(
    standing: impl Iterator<Item = &'a str>,
    code: &str,
    raised: bool,
    message: &str,
) -> Values {
    let standing: Vec<&str> = standing.collect();
    vec![
        ("Alarms/count", Value::count(standing.len())),
        ("Alarms/standing", Value::text(standing.join(" "))),
        ("Alarms/last_code", Value::text(code)),
        ("Alarms/last_raised", Value::Flag(raised)),
        ("Alarms/last_message", Value::text(message)),
    ]
}

/// The newest step of a recipe.
pub(super) fn recipe(status: &RecipeStatus) -> Values {
    vec![
        ("Recipe/pipeline", Value::text(&status.pipeline)),
        ("Recipe/active", Value::text(&status.active)),
        ("Recipe/version", Value::text(&status.version)),
        ("Recipe/step", Value::text(status.step)),
        ("Recipe/by", Value::text(&status.by)),
        ("Recipe/reason", Value::text(&status.reason)),
    ]
}

/// Counts of a window.
pub(super) fn stats(stats: &Stats) -> Values {
    let parts = stats.pass.saturating_add(stats.fail).saturating_add(stats.review) as f64;
    vec![
        ("Stats/window_s", Value::Number(stats.window_s)),
        ("Stats/pass", Value::Count(stats.pass)),
        ("Stats/fail", Value::Count(stats.fail)),
        ("Stats/review", Value::Count(stats.review)),
        ("Stats/yield", Value::Number(stats.pass as f64 / parts)),
        ("Stats/per_minute", Value::Number(parts * 60.0 / stats.window_s)),
        ("Stats/latency_p50_ms", Value::Number(stats.latency_p50_ms)),
        ("Stats/latency_p95_ms", Value::Number(stats.latency_p95_ms)),
        ("Stats/latency_max_ms", Value::Number(stats.latency_max_ms)),
        ("Stats/dropped", Value::Count(stats.dropped)),
    ]
}

/// What a sink is owed, in the order of [`Kind::ALL`].
pub(super) fn outbox(owed: [u64; Kind::ALL.len()]) -> Values {
    let [results, parts, reviews] = owed;
    vec![
        ("Outbox/results", Value::Count(results)),
        ("Outbox/parts", Value::Count(parts)),
        ("Outbox/reviews", Value::Count(reviews)),
    ]
}

/// What became of a command.
pub(super) fn answer(verb: &str, id: Option<&str>, outcome: &Outcome) -> Values {
    let refused = outcome.as_ref().err();
    vec![
        ("Answer/command", Value::text(verb)),
        ("Answer/id", Value::maybe(id)),
        ("Answer/accepted", Value::Flag(refused.is_none())),
        ("Answer/code", Value::text(refused.map_or("", Refusal::code))),
        ("Answer/reason", Value::text(refused.map(ToString::to_string).unwrap_or_default())),
    ]
}

/// What does not change while the program runs.
pub(super) fn properties(station: &str) -> Values {
    vec![
        ("Properties/software", Value::text(env!("CARGO_PKG_NAME"))),
        ("Properties/version", Value::text(env!("CARGO_PKG_VERSION"))),
        ("Properties/station", Value::text(station)),
    ]
}
