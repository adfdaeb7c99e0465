//! Figures for people: the page draws them, and the same numbers are here for machines.
//!
//! ```text
//! rows of the index --one walk--> buckets of time: yield, p-chart with its limits and alarm
//!                                 labels: Pareto           latencies: percentiles
//!                                 decisions: agreement of operators with the model
//! ```
//!
//! p-chart: the share rejected p of each bucket against the mean share p̄ of all, with limits of its own size n
//! (Shewhart; Montgomery, Introduction to SQC, ch. 7). Where enough rejects are expected they are p̄ ± 3 √(p̄(1-p̄)/n);
//! elsewhere the counts that the binomial distribution exceeds as rarely, since one reject among ten parts says nothing
//! about a rate of a half per cent. Alarms are a point outside its limits, eight points in a row on one side (Western
//! Electric rule 4), and a run of rejects so long that it comes less than once in a thousand parts' time at the mean
//! rate. "In control" takes 20 points that can say something; fewer say nothing, however good they look.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::queue::Search;
use crate::store::Store;
use crate::store::query::Row;
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

const BUCKETS: usize = 48;
const BUCKETS_MAX: usize = 500;
/// Points in a row on one side of the mean that are a shift.
const SHIFT: usize = 8;
/// How improbable a run of rejects must be to be an alarm.
const RUN_CHANCE: f64 = 0.001;
/// Parts of a bucket that are too few to say anything.
const PARTS_MIN: u64 = 5;
/// Points that say something, without an alarm, that make a chart "in control".
const POINTS_MIN: usize = 20;
/// How rarely a point lies beyond one of its limits by chance: that of three standard deviations.
const BEYOND: f64 = 0.001_35;
/// Rejects, and parts that are none, from which on the binomial distribution is as good as normal.
const NORMAL_FROM: f64 = 25.0;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// RFC 3339.
    pub from: Option<String>,
    /// RFC 3339.
    pub to: Option<String>,
    pub camera: Option<String>,
    pub pipeline: Option<String>,
    /// Pieces of time, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    pub buckets: Option<usize>,
}

/// All charts over the same inspections.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Charts {
    pub inspections: u64,
    /// Milliseconds since 1970 of the first and of the last inspection.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub bucket_ms: i64,
    pub buckets: Vec<Bucket>,
    /// One for each pipeline.
    pub p_charts: Vec<PChart>,
    /// Parts with each label, most frequent first.
    pub pareto: Vec<LabelCount>,
    pub latency_ms: Percentiles,
    pub agreement: Agreement,
    /// False while old inspections are still being looked through.
    pub complete: bool,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Bucket {
    /// Milliseconds since 1970 of its beginning.
    pub at_ms: i64,
    pub pass: u64,
    pub fail: u64,
    pub review: u64,
    /// Passed among all that are decided, a person's decision before the model's; null without any.
    #[serde(rename = "yield")]
    pub share_passed: Option<f64>,
    pub latency_p50_ms: Option<f64>,
    pub latency_p95_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct PChart {
    pub pipeline: String,
    /// Mean share rejected.
    pub mean: f64,
    pub points: Vec<Point>,
    /// What is wrong now, newest first.
    pub alarms: Vec<Alarm>,
    /// alarm, `in_control`, or unknown: too few points say something.
    pub state: &'static str,
    /// Points that say something: enough parts, of which a reject is expected at the mean share.
    pub points_enough: usize,
    /// So many of them are needed.
    pub points_needed: usize,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Point {
    pub at_ms: i64,
    pub parts: u64,
    pub rejected: u64,
    pub share: f64,
    pub lower: f64,
    pub upper: f64,
    pub outside: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Alarm {
    /// outside, shift or run.
    pub kind: &'static str,
    pub at_ms: i64,
    /// Parts in the run, points in the shift, rejects in the bucket.
    pub count: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LabelCount {
    pub label: String,
    pub parts: u64,
    /// Share of this and all more frequent ones among all.
    pub cumulative: f64,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Percentiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// What people made of the model's verdicts.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Agreement {
    /// Model pass, person pass; and so on.
    pub pass_pass: u64,
    pub pass_fail: u64,
    pub fail_pass: u64,
    pub fail_fail: u64,
    /// The model sent it to review.
    pub review_pass: u64,
    pub review_fail: u64,
    /// Agreed among all where the model said pass or fail; null without any.
    pub share: Option<f64>,
}

/// Yield, control chart, Pareto, latency and agreement.
#[utoipa::path(get, path = "/api/v1/charts", tag = "charts", params(Range), responses(
    (status = 200, body = Charts), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn charts(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Query(range): Query<Range>,
) -> Result<Json<Charts>, ApiError> {
    let Range { from, to, camera, pipeline, buckets } = range;
    let filter = Search { camera, pipeline, from, to, ..Search::default() }.filter()?;
    let buckets = buckets.unwrap_or(BUCKETS);
    if !(1..=BUCKETS_MAX).contains(&buckets) {
        return Err(ApiError::bad("buckets must be from 1 to 500"));
    }
    blocking(&store, move |store| {
        let mut rows = Vec::new();
        let mut known = None;
        store.scan(&filter, |_, row, names| {
            known.get_or_insert_with(|| names.clone());
            rows.push(*row);
        })?;
        rows.reverse();
        let names = known.unwrap_or_default();
        let mut charts = compute(&rows, &names.labels, &names.pipelines, buckets);
        charts.complete = store.index_complete()?;
        Ok(Json(charts))
    })
    .await
}

/// `rows`: oldest first.
fn compute(rows: &[Row], labels: &[String], pipelines: &[String], buckets: usize) -> Charts {
    let (Some(first), Some(last)) =
        (rows.iter().map(|r| r.finished_ms).min(), rows.iter().map(|r| r.finished_ms).max())
    else {
        return Charts::default();
    };
    let bucket_ms = round_up((last - first) / buckets as i64 + 1);
    let start = first - first.rem_euclid(bucket_ms);
    let place = |row: &Row| ((row.finished_ms - start) / bucket_ms) as usize;
    let mut pieces: Vec<Vec<&Row>> = vec![Vec::new(); ((last - start) / bucket_ms) as usize + 1];
    for row in rows {
        pieces[place(row)].push(row);
    }
    let at_ms = |i: usize| start + i as i64 * bucket_ms;
    let mut by_pipeline: BTreeMap<u16, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_pipeline.entry(row.pipeline).or_default().push(row);
    }
    let name = |p: u16| pipelines.get(usize::from(p)).cloned().unwrap_or_default();
    Charts {
        inspections: rows.len() as u64,
        from_ms: Some(first),
        to_ms: Some(last),
        bucket_ms,
        buckets: pieces.iter().enumerate().map(|(i, rows)| bucket(at_ms(i), rows)).collect(),
        p_charts: by_pipeline
            .into_iter()
            .map(|(p, rows)| p_chart(name(p), &rows, start, bucket_ms))
            .collect(),
        pareto: pareto(rows, labels),
        latency_ms: percentiles(rows.iter().map(|r| r.latency_ms)),
        agreement: agreement(rows),
        complete: true,
    }
}

/// A length of time that people know.
fn round_up(ms: i64) -> i64 {
    const STEPS_S: [i64; 16] =
        [1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800];
    let longest = STEPS_S[STEPS_S.len() - 1] * 1000;
    let known = STEPS_S.iter().map(|s| s * 1000).find(|step| *step >= ms);
    known.unwrap_or_else(|| (ms + longest - 1) / longest * longest)
}

/// What holds now: a person's decision before the model's. `Some(true)`: passed; `None`: open.
const fn outcome(row: &Row) -> Option<bool> {
    match (row.decided, row.verdict) {
        (1, _) => Some(true),
        (2, _) => Some(false),
        (_, 0) => Some(true),
        (_, 1) => Some(false),
        _ => None,
    }
}

fn bucket(at_ms: i64, rows: &[&Row]) -> Bucket {
    let count = |verdict: u8| rows.iter().filter(|r| r.verdict == verdict).count() as u64;
    let outcomes: Vec<bool> = rows.iter().filter_map(|r| outcome(r)).collect();
    let passed = outcomes.iter().filter(|p| **p).count();
    let latency = percentiles(rows.iter().map(|r| r.latency_ms));
    Bucket {
        at_ms,
        pass: count(0),
        fail: count(1),
        review: count(2),
        share_passed: (!outcomes.is_empty()).then(|| passed as f64 / outcomes.len() as f64),
        latency_p50_ms: latency.p50,
        latency_p95_ms: latency.p95,
    }
}

fn p_chart(pipeline: String, rows: &[&Row], start: i64, bucket_ms: i64) -> PChart {
    let judged: Vec<(i64, bool)> = rows.iter().filter_map(|r| Some((r.finished_ms, !outcome(r)?))).collect();
    let rejected = judged.iter().filter(|(_, bad)| *bad).count();
    let mean = if judged.is_empty() { 0.0 } else { rejected as f64 / judged.len() as f64 };
    let mut counts: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for (ms, bad) in &judged {
        let (parts, rejects) = counts.entry(start + (ms - start) / bucket_ms * bucket_ms).or_default();
        *parts += 1;
        *rejects += u64::from(*bad);
    }
    let point = |(at_ms, (parts, rejected)): (i64, (u64, u64))| {
        let (lower, upper) = limits(parts, mean);
        let share = rejected as f64 / parts as f64;
        let outside = parts >= PARTS_MIN && (share > upper || share < lower);
        Point { at_ms, parts, rejected, share, lower, upper, outside }
    };
    let points: Vec<Point> = counts.into_iter().map(point).collect();
    let mut alarms: Vec<Alarm> = points
        .iter()
        .filter(|p| p.outside)
        .map(|p| Alarm { kind: "outside", at_ms: p.at_ms, count: p.rejected })
        .collect();
    alarms.extend(shifts(&points, mean));
    alarms.extend(run(&judged, mean));
    alarms.sort_by_key(|a| std::cmp::Reverse(a.at_ms));
    let points_enough = points.iter().filter(|p| says_something(p, mean)).count();
    let state = match (alarms.is_empty(), points_enough >= POINTS_MIN) {
        (false, _) => "alarm",
        (true, true) => "in_control",
        (true, false) => "unknown",
    };
    PChart { pipeline, mean, points, alarms, state, points_enough, points_needed: POINTS_MIN }
}

/// The share that so many parts fall below, and the one that they exceed, as rarely as [`BEYOND`] at the mean share.
fn limits(parts: u64, mean: f64) -> (f64, f64) {
    let n = parts as f64;
    if mean <= 0.0 || mean >= 1.0 {
        return (mean, mean);
    }
    if n * mean >= NORMAL_FROM && n * (1.0 - mean) >= NORMAL_FROM {
        let spread = 3.0 * (mean * (1.0 - mean) / n).sqrt();
        return ((mean - spread).max(0.0), (mean + spread).min(1.0));
    }
    // The logarithm of the chance of so many rejects, from none upwards: each from the one before.
    let (mut chance, odds) = (n * (1.0 - mean).ln(), (mean / (1.0 - mean)).ln());
    let (mut up_to, mut lower, mut upper) = (0.0, 0, parts);
    for rejected in 0..=parts {
        if up_to < BEYOND {
            lower = rejected;
        }
        up_to += chance.exp();
        if 1.0 - up_to < BEYOND {
            upper = rejected;
            break;
        }
        chance += odds + ((parts - rejected) as f64 / (rejected + 1) as f64).ln();
    }
    (lower as f64 / n, upper as f64 / n)
}

/// Whether a point can say that the rate is as it was: enough parts, among them an expected reject, and one that is none.
fn says_something(point: &Point, mean: f64) -> bool {
    let expected = point.parts as f64 * mean;
    point.parts >= PARTS_MIN && expected >= 1.0 && point.parts as f64 - expected >= 1.0
}

/// Eight points in a row on one side of the mean; told once for each row.
fn shifts(points: &[Point], mean: f64) -> Vec<Alarm> {
    let mut found = Vec::new();
    let (mut side, mut length) = (0, 0);
    for point in points.iter().filter(|p| says_something(p, mean)) {
        let now = if point.share > mean { 1 } else { -i32::from(point.share < mean) };
        length = if now != 0 && now == side { length + 1 } else { usize::from(now != 0) };
        side = now;
        if length == SHIFT {
            found.push(Alarm { kind: "shift", at_ms: point.at_ms, count: SHIFT as u64 });
        }
    }
    found
}

/// Rejects in a row that the mean rate hardly explains; the newest such run.
fn run(judged: &[(i64, bool)], mean: f64) -> Option<Alarm> {
    if !(0.0..0.9).contains(&mean) || mean == 0.0 {
        return None;
    }
    let long = ((RUN_CHANCE.ln() / mean.ln()).ceil() as u64).max(3);
    let (mut length, mut found) = (0, None);
    for (at_ms, bad) in judged {
        length = if *bad { length + 1 } else { 0 };
        if length >= long {
            found = Some(Alarm { kind: "run", at_ms: *at_ms, count: length });
        }
    }
    found
}

fn pareto(rows: &[Row], labels: &[String]) -> Vec<LabelCount> {
    let mut counts: Vec<(u64, &String)> = labels
        .iter()
        .enumerate()
        .map(|(bit, label)| (rows.iter().filter(|r| r.labels >> bit & 1 == 1).count() as u64, label))
        .collect();
    counts.retain(|(n, _)| *n > 0);
    counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let all: u64 = counts.iter().map(|c| c.0).sum();
    let mut sum = 0;
    let one = |(parts, label): (u64, &String)| {
        sum += parts;
        LabelCount { label: label.clone(), parts, cumulative: sum as f64 / all as f64 }
    };
    counts.into_iter().map(one).collect()
}

fn percentiles(latencies: impl Iterator<Item = f32>) -> Percentiles {
    let mut all: Vec<f32> = latencies.filter(|x| x.is_finite()).collect();
    all.sort_by(f32::total_cmp);
    let at = |p: f64| {
        let rank = (p * all.len() as f64).ceil() as usize;
        all.get(rank.max(1) - 1).map(|x| f64::from(*x))
    };
    Percentiles { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

fn agreement(rows: &[Row]) -> Agreement {
    let mut a = Agreement::default();
    for row in rows {
        let slot = match (row.verdict, row.decided) {
            (0, 1) => &mut a.pass_pass,
            (0, 2) => &mut a.pass_fail,
            (1, 1) => &mut a.fail_pass,
            (1, 2) => &mut a.fail_fail,
            (2, 1) => &mut a.review_pass,
            (2, 2) => &mut a.review_fail,
            _ => continue,
        };
        *slot += 1;
    }
    let (agreed, other) = (a.pass_pass + a.fail_fail, a.pass_fail + a.fail_pass);
    a.share = (agreed + other > 0).then(|| agreed as f64 / (agreed + other) as f64);
    a
}

#[cfg(test)]
#[path = "charts_tests.rs"]
mod tests;
