//! What is published as JSON: the payloads of SCADA topics, each a versioned struct of its own.
//!
//! ```text
//! Stored inspection -> `result`   everything, null where unknown; result.schema.json describes it
//!                   -> `last`     flat, for tag trees: every field always there, of one type; of each camera, too
//! stored part       -> `part`     one verdict over several views; part.schema.json describes it
//! stored review     -> `review`   who decided what and why; review.schema.json describes it
//! station           -> `status`, `camera/{id}/status`, `alarm/{code}`, `stats`
//! ```
//!
//! A `result` is a pure function of the stored record and the schema number of its outbox entry, so
//! every send has the same bytes; so is a `part`. Field names and types of a schema number never change. A field that is
//! new in an owed message is a new number; in others it comes under the number that there is.

pub(crate) mod part;
mod station;

pub(crate) use station::presence;
pub use station::{alarm, camera_status, recipe, stats, status};

use crate::domain::finding::Finding;
use crate::domain::inspection::Inspection;
use crate::domain::review::{OperatorBox, Review};
use crate::store::outbox::RESULT_SCHEMA;
use crate::store::record::{Stored, rfc3339};
use serde::Serialize;

/// JSON Schema (draft 2020-12) of `result`.
pub const RESULT_JSON_SCHEMA: &str = include_str!("result.schema.json");
/// JSON Schema of `review`.
pub const REVIEW_JSON_SCHEMA: &str = include_str!("review.schema.json");

/// JSON Schema of `part`.
pub const PART_JSON_SCHEMA: &str = include_str!("part.schema.json");

/// The first schemas of `result` and `part` do not say which trigger is answered.
const WITHOUT_TRIGGER: u16 = 1;

/// Schema number of all messages but `result` and `part`.
pub(super) const SCHEMA: u16 = 1;

/// Digits after the point: positions in pixels, lengths in mm and times in ms, probabilities.
const PX_DIGITS: i32 = 1;
const SIZE_DIGITS: i32 = 3;
const PROBABILITY_DIGITS: i32 = 4;

/// Beyond this a number would be written with an exponent and without a point.
const NUMBER_MAX: f64 = 1e12;

/// `result`, schemas 1 and 2.
#[derive(Clone, Debug, Serialize)]
pub struct ResultV1 {
    schema: u16,
    inspection_id: String,
    seq: u64,
    part_id: Option<String>,
    lot: Option<String>,
    /// From schema 2 on.
    #[serde(flatten)]
    trigger: Option<TriggerV2>,
    camera: String,
    /// `name@version`.
    pipeline: String,
    model: ModelV1,
    prompt_hash: String,
    ts_capture: String,
    ts_result: String,
    verdict: &'static str,
    grade: &'static str,
    reason: Option<String>,
    score: Option<f64>,
    findings: Vec<FindingV1>,
    texts: Vec<TextV1>,
    tiles: TilesV1,
    latency_ms: LatencyV1,
    replayed: bool,
    image: Option<ImageV1>,
    /// Only in the view of a part with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<ViewOfV1>,
}

#[derive(Clone, Debug, Serialize)]
struct TriggerV2 {
    correlation_id: Option<String>,
    /// Null: nobody has triggered it, or an earlier version was told to.
    trigger_id: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ViewOfV1 {
    id: String,
    name: String,
}

#[derive(Clone, Debug, Serialize)]
struct ModelV1 {
    name: String,
    sha256: String,
    mmproj_sha256: String,
}

#[derive(Clone, Debug, Serialize)]
struct FindingV1 {
    label: String,
    severity: &'static str,
    grade: &'static str,
    bbox_px: [Option<f64>; 4],
    longest_mm: Option<f64>,
    area_mm2: Option<f64>,
    confidence: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct TextV1 {
    prompt: String,
    line: usize,
    read: Option<String>,
    expected: Option<String>,
    #[serde(rename = "match")]
    matches: Option<bool>,
    mismatches: Vec<MismatchV1>,
    confidence: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct MismatchV1 {
    at: usize,
    read: String,
    expected: String,
}

#[derive(Clone, Debug, Serialize)]
struct TilesV1 {
    planned: usize,
    inspected: usize,
    /// Only where the recipe skips tiles and some were.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<usize>,
}

#[derive(Clone, Debug, Serialize)]
struct LatencyV1 {
    queue: Option<f64>,
    preprocess: Option<f64>,
    vision: Option<f64>,
    prefill: Option<f64>,
    decode: Option<f64>,
    total: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct ImageV1 {
    url: String,
    sha256: String,
    bytes: u64,
}

impl ResultV1 {
    /// The message about a stored inspection, in the newest schema.
    pub fn new(stored: &Stored) -> Self {
        Self::of(stored, RESULT_SCHEMA)
    }

    fn of(stored: &Stored, schema: u16) -> Self {
        let i = &stored.inspection;
        let trigger = || TriggerV2 {
            correlation_id: i.trigger.correlation_id.clone(),
            trigger_id: i.trigger.id.clone(),
        };
        let ms = |x| rounded(x, SIZE_DIGITS);
        Self {
            schema,
            inspection_id: i.id.clone(),
            seq: stored.seq,
            part_id: i.trigger.part_id.clone(),
            lot: i.trigger.lot.clone(),
            trigger: (schema > WITHOUT_TRIGGER).then(trigger),
            camera: i.camera.clone(),
            pipeline: format!("{}@{}", i.pipeline, i.pipeline_version),
            model: ModelV1 {
                name: i.model.name.clone(),
                sha256: i.model.text_sha256.clone(),
                mmproj_sha256: i.model.mmproj_sha256.clone(),
            },
            prompt_hash: i.prompt_hash.clone(),
            ts_capture: rfc3339(i.captured_at),
            ts_result: rfc3339(i.finished_at),
            verdict: i.verdict.as_str(),
            grade: i.grade.as_str(),
            reason: i.verdict.reason().map(ToString::to_string),
            score: rounded(f64::from(i.score), PROBABILITY_DIGITS),
            findings: findings(i),
            texts: texts(i),
            tiles: TilesV1 {
                planned: i.tiles.planned,
                inspected: i.tiles.inspected,
                skipped: Some(i.tiles_skipped()).filter(|skipped| *skipped > 0),
            },
            latency_ms: LatencyV1 {
                queue: ms(i.latency.queue_ms),
                preprocess: ms(i.latency.preprocess_ms),
                vision: ms(i.latency.vision_ms),
                prefill: ms(i.latency.prefill_ms),
                decode: ms(i.latency.decode_ms),
                total: ms(i.latency.total_ms),
            },
            replayed: i.replayed,
            image: stored.image.as_ref().map(|s| ImageV1 {
                url: s.url.clone(),
                sha256: s.image.sha256.clone(),
                bytes: s.image.bytes,
            }),
            part: i.trigger.part.as_ref().map(|p| ViewOfV1 { id: p.id.clone(), name: p.name.clone() }),
        }
    }
}

fn findings(inspection: &Inspection) -> Vec<FindingV1> {
    let one = |f: &Finding| FindingV1 {
        label: f.label.clone(),
        severity: f.severity.as_str(),
        grade: f.grade.as_str(),
        bbox_px: [f.bbox_px.x0, f.bbox_px.y0, f.bbox_px.x1, f.bbox_px.y1]
            .map(|x| rounded(f64::from(x), PX_DIGITS)),
        longest_mm: rounded(f.longest_mm, SIZE_DIGITS),
        area_mm2: rounded(f.area_mm2, SIZE_DIGITS),
        confidence: rounded(f64::from(f.confidence), PROBABILITY_DIGITS),
    };
    inspection.findings.iter().map(one).collect()
}

fn texts(inspection: &Inspection) -> Vec<TextV1> {
    let one = |t: &crate::domain::text::TextLine| TextV1 {
        prompt: t.prompt.clone(),
        line: t.line,
        read: t.read.clone(),
        expected: t.expected.clone(),
        matches: t.matches,
        mismatches: t
            .mismatches
            .iter()
            .map(|m| MismatchV1 { at: m.at, read: m.read.clone(), expected: m.expected.clone() })
            .collect(),
        confidence: rounded(f64::from(t.confidence), PROBABILITY_DIGITS),
    };
    inspection.texts.iter().map(one).collect()
}

/// The bytes of the `result` that an outbox entry owes; `None` for a schema of a newer version.
pub fn result(stored: &Stored, schema: u16) -> Option<Vec<u8>> {
    (WITHOUT_TRIGGER..=RESULT_SCHEMA).contains(&schema).then(|| to_json(&ResultV1::of(stored, schema)))
}

/// `last`, schema 1. Flat; no arrays, no nulls, floats always with a point, no `. & % =` in keys.
#[derive(Serialize)]
struct LastV1 {
    schema: u16,
    inspection_id: String,
    seq: u64,
    part_id: String,
    lot: String,
    correlation_id: String,
    trigger_id: String,
    camera: String,
    pipeline: String,
    pipeline_version: String,
    model: String,
    ts_capture: String,
    ts_result: String,
    verdict: &'static str,
    grade: &'static str,
    reason_code: &'static str,
    reason: String,
    score: f64,
    findings: usize,
    /// The finding with the worst grade, among these the surest.
    worst_label: String,
    worst_severity: &'static str,
    worst_confidence: f64,
    worst_longest_mm: f64,
    worst_area_mm2: f64,
    /// All lines read, joined with ` | `.
    text_read: String,
    /// `match`, `mismatch`, or empty when no text was compared.
    text_check: &'static str,
    tiles_planned: usize,
    tiles_inspected: usize,
    tiles_skipped: usize,
    latency_total_ms: f64,
    replayed: bool,
    image_sha256: String,
    image_url: String,
}

/// The finding with the worst grade, among these the surest.
pub(in crate::publish::mqtt) fn worst(inspection: &Inspection) -> Option<&Finding> {
    inspection.findings.iter().max_by(|a, b| {
        a.grade
            .cmp(&b.grade)
            .then(a.confidence.partial_cmp(&b.confidence).unwrap_or(std::cmp::Ordering::Equal))
    })
}

/// All lines read, joined with ` | `.
pub(in crate::publish::mqtt) fn text_read(inspection: &Inspection) -> String {
    let read: Vec<&str> = inspection.texts.iter().filter_map(|t| t.read.as_deref()).collect();
    read.join(" | ")
}

/// `match`, `mismatch`, or empty when no text was compared.
pub(in crate::publish::mqtt) fn text_check(inspection: &Inspection) -> &'static str {
    let compared: Vec<bool> = inspection.texts.iter().filter_map(|t| t.matches).collect();
    match compared.as_slice() {
        [] => "",
        all if all.iter().all(|m| *m) => "match",
        _ => "mismatch",
    }
}

/// The bytes of `last`.
pub fn last(stored: &Stored) -> Vec<u8> {
    let i = &stored.inspection;
    let worst = worst(i);
    let picture = stored.image.as_ref();
    to_json(&LastV1 {
        schema: SCHEMA,
        inspection_id: i.id.clone(),
        seq: stored.seq,
        part_id: i.trigger.part_id.clone().unwrap_or_default(),
        lot: i.trigger.lot.clone().unwrap_or_default(),
        correlation_id: i.trigger.correlation_id.clone().unwrap_or_default(),
        trigger_id: i.trigger.id.clone().unwrap_or_default(),
        camera: i.camera.clone(),
        pipeline: i.pipeline.clone(),
        pipeline_version: i.pipeline_version.clone(),
        model: i.model.name.clone(),
        ts_capture: rfc3339(i.captured_at),
        ts_result: rfc3339(i.finished_at),
        verdict: i.verdict.as_str(),
        grade: i.grade.as_str(),
        reason_code: i.verdict.reason().map_or("", |r| r.code()),
        reason: i.verdict.reason().map(ToString::to_string).unwrap_or_default(),
        score: known(f64::from(i.score), PROBABILITY_DIGITS),
        findings: i.findings.len(),
        worst_label: worst.map(|f| f.label.clone()).unwrap_or_default(),
        worst_severity: worst.map_or("", |f| f.severity.as_str()),
        worst_confidence: worst.map_or(-1.0, |f| known(f64::from(f.confidence), PROBABILITY_DIGITS)),
        worst_longest_mm: worst.map_or(-1.0, |f| known(f.longest_mm, SIZE_DIGITS)),
        worst_area_mm2: worst.map_or(-1.0, |f| known(f.area_mm2, SIZE_DIGITS)),
        text_read: text_read(i),
        text_check: text_check(i),
        tiles_planned: i.tiles.planned,
        tiles_inspected: i.tiles.inspected,
        tiles_skipped: i.tiles_skipped(),
        latency_total_ms: known(i.latency.total_ms, SIZE_DIGITS),
        replayed: i.replayed,
        image_sha256: picture.map(|p| p.image.sha256.clone()).unwrap_or_default(),
        image_url: picture.map(|p| p.url.clone()).unwrap_or_default(),
    })
}

/// The bytes of `review`: a pure function of the stored entry. Without `details` boxes and lines are
/// left out, for a broker that takes only short messages; `complete` tells.
pub fn review(review: &Review, details: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct ReviewV1<'a> {
        schema: u16,
        review_seq: u64,
        inspection_id: &'a str,
        inspection_seq: u64,
        actor: &'a str,
        ts: String,
        kind: &'static str,
        model_verdict: &'a str,
        verdict: Option<&'static str>,
        reason: &'a str,
        note: &'a str,
        findings: Option<Vec<BoxV1<'a>>>,
        texts: Option<Vec<LineV1<'a>>>,
        complete: bool,
        supersedes: Option<u64>,
        restores: Option<u64>,
        /// Only of a decision that was made without the picture.
        #[serde(skip_serializing_if = "Option::is_none")]
        picture: Option<&'static str>,
        hash: &'a str,
    }
    #[derive(Serialize)]
    struct BoxV1<'a> {
        label: &'a str,
        severity: &'static str,
        bbox_px: [Option<f64>; 4],
    }
    #[derive(Serialize)]
    struct LineV1<'a> {
        prompt: &'a str,
        line: usize,
        text: &'a str,
    }
    let findings = review.findings.as_deref().filter(|_| details).map(|all| {
        let px = |x: f32| rounded(f64::from(x), PX_DIGITS);
        let mut boxes = Vec::with_capacity(all.len());
        for OperatorBox { label, severity, bbox_px: b } in all {
            let bbox_px = [px(b.x0), px(b.y0), px(b.x1), px(b.y1)];
            boxes.push(BoxV1 { label, severity: severity.as_str(), bbox_px });
        }
        boxes
    });
    let texts =
        review.texts.as_deref().filter(|_| details).map(|all| {
            all.iter().map(|t| LineV1 { prompt: &t.prompt, line: t.line, text: &t.text }).collect()
        });
    to_json(&ReviewV1 {
        schema: SCHEMA,
        review_seq: review.seq,
        inspection_id: &review.inspection_id,
        inspection_seq: review.inspection_seq,
        actor: &review.actor,
        ts: rfc3339(review.at),
        kind: review.kind.as_str(),
        model_verdict: &review.model_verdict,
        verdict: review.verdict.map(|v| v.as_str()),
        reason: &review.reason,
        note: &review.note,
        findings,
        texts,
        complete: details,
        supersedes: review.supersedes,
        restores: review.restores,
        picture: review.picture.map(|p| p.as_str()),
        hash: &review.hash,
    })
}

/// Rounded, `None` when not finite.
fn rounded(x: f64, digits: i32) -> Option<f64> {
    let scale = 10f64.powi(digits);
    // `+ 0.0` turns the negative zero of a tiny negative number into zero.
    x.is_finite().then(|| (x.clamp(-NUMBER_MAX, NUMBER_MAX) * scale).round() / scale + 0.0)
}

/// Rounded, -1.0 when not finite.
fn known(x: f64, digits: i32) -> f64 {
    rounded(x, digits).unwrap_or(-1.0)
}

fn to_json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("strings, numbers and lists always serialise")
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
