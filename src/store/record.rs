//! The disk form of an inspection, version 2, and its way from and to the domain type.
//!
//! ```text
//! Inspection -> Body (bounded: inline) + Answers (word for word: long)
//!     everything fits in a value            value { head, body, answers }
//!     without the answers it fits           value { head, body, file } + file { answers }
//!     otherwise (very many findings)        value { head, file }       + file { body, answers }
//! ```
//!
//! Version 2 is version 1 with what was learned from confirmed parts, and with the heat map, which moves with the
//! answers. A field is never renamed or retyped here, and version 1 stays readable (tests keep stored values of every
//! version).

mod heat;
mod skipped;

use super::images::{Digest, hex, sha256, unhex};
use super::value::{self, HEADER_BYTES, VALUE_BYTES_MAX};
use crate::domain::finding::Finding;
use crate::domain::frame::Trigger;
use crate::domain::grade::{Grade, Reason, Severity, Verdict};
use crate::domain::inspection::{ImageRef, Inspection, Latency, LearnedRef, ModelRef, RawAnswer, TileCount};
use crate::domain::part::PartRef;
use crate::domain::rect::BoxPx;
use crate::domain::text::{Mismatch, TextLine};
use heat::HeatV2;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skipped::SkippedV2;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Version byte of the values that this file writes.
pub(crate) const RECORD_VERSION: u8 = 2;
/// The oldest that it reads.
const RECORD_VERSION_MIN: u8 = 1;

/// An inspection as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Place in the ledger, from 1 without gaps.
    pub seq: u64,
    pub inspection: Inspection,
    pub image: Option<StoredImage>,
}

/// The picture of a stored inspection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    pub image: ImageRef,
    /// Where to fetch it, frozen at the commit so that every message about it has the same bytes.
    pub url: String,
}

/// What is in the value itself, whatever had to move into a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub seq: u64,
    /// sha256 (hex) of the previous record's value; of the first record: zeros.
    pub prev: String,
    pub id: String,
    /// RFC 3339, UTC, milliseconds.
    pub finished_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageV1>,
    /// The file that holds what did not fit.
    #[serde(rename = "part", default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<OverflowV1>,
    #[serde(flatten)]
    long: LongV1,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageV1 {
    pub sha256: String,
    pub bytes: u64,
    pub url: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OverflowV1 {
    pub sha256: String,
    pub bytes: u64,
}

impl OverflowV1 {
    /// Names the file of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { sha256: hex(&sha256(bytes)), bytes: bytes.len() as u64 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct LongV1 {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Box<BodyV1>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers: Option<Vec<AnswerV1>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heat: Option<HeatV2>,
}

/// A file that was learned from confirmed parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LearnedV2 {
    prompt: String,
    kind: String,
    sha256: String,
}

/// Numbers are `None` where they are not finite: JSON has no NaN, and a record is never refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BodyV1 {
    camera: String,
    part_id: Option<String>,
    lot: Option<String>,
    expected: BTreeMap<String, String>,
    correlation_id: Option<String>,
    /// Absent where nobody triggered, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trigger_id: Option<String>,
    /// Absent where the sender gave none, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meas_id: Option<String>,
    deadline_ms: Option<u64>,
    /// Only in the view of a part with several; absent in records that were written before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<ViewOfV1>,
    pipeline: String,
    pipeline_version: String,
    model: String,
    model_sha256: String,
    mmproj_sha256: String,
    prompt_hash: String,
    captured_at: String,
    verdict: VerdictV1,
    grade: String,
    findings: Vec<FindingV1>,
    texts: Vec<TextV1>,
    tiles_planned: usize,
    tiles_inspected: usize,
    score: Option<f32>,
    /// queue, preprocess, vision, prefill, decode, total.
    latency_ms: [Option<f64>; 6],
    replayed: bool,
    origin: String,
    /// Only of a clip; absent in records that were written before there were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clip_ms: Vec<u64>,
    /// From version 2 on; absent where nothing was learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learned: Vec<LearnedV2>,
    /// Only where a recipe skips tiles; absent in records that were written before any did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<SkippedV2>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ViewOfV1 {
    id: String,
    name: String,
    cameras: Vec<String>,
}

impl ViewOfV1 {
    pub(super) fn from_domain(part: &PartRef) -> Self {
        let PartRef { id, name, cameras } = part.clone();
        Self { id, name, cameras }
    }

    pub(super) fn into_domain(self) -> PartRef {
        let Self { id, name, cameras } = self;
        PartRef { id, name, cameras }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum VerdictV1 {
    Pass,
    Fail { reason: ReasonV1 },
    Review { reason: ReasonV1 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
enum ReasonV1 {
    Finding { label: String },
    TextMismatch { prompt: String, line: usize },
    TextUncertain { prompt: String, line: usize },
    LowConfidence { what: String, confidence: Option<f32> },
    Deadline { late_ms: u64 },
    Unparsable { prompt: String, tile: usize },
    MissingTile { inspected: usize, planned: usize },
    Engine { message: String },
    Frame { message: String },
    QueueFull,
    Interrupted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FindingV1 {
    label: String,
    severity: String,
    /// x0, y0, x1, y1 in frame pixels.
    bbox_px: [Option<f32>; 4],
    longest_mm: Option<f64>,
    area_mm2: Option<f64>,
    confidence: Option<f32>,
    grade: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TextV1 {
    prompt: String,
    line: usize,
    read: Option<String>,
    expected: Option<String>,
    matches: Option<bool>,
    mismatches: Vec<(usize, String, String)>,
    confidence: Option<f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AnswerV1 {
    prompt: String,
    tile: usize,
    text: String,
}

/// A record that only lacks its place in the chain.
pub(crate) struct Draft {
    head: Head,
    /// Bytes of the file that must be stored before the record.
    pub overflow: Option<Vec<u8>>,
}

impl Draft {
    /// Decides what stays in the value and what moves into a file.
    pub(crate) fn new(inspection: &Inspection, image: Option<ImageV1>) -> Result<Self, String> {
        let all = LongV1 {
            body: Some(Box::new(BodyV1::from_domain(inspection))),
            answers: Some(inspection.answers.iter().map(AnswerV1::from_domain).collect()),
            heat: inspection.heat.as_ref().map(HeatV2::from_domain),
        };
        let head = Head {
            // The widest sequence number and hash: the measured size is the largest possible.
            seq: u64::MAX,
            prev: hex(&[0; 32]),
            id: inspection.id.clone(),
            finished_at: rfc3339(inspection.finished_at),
            image,
            overflow: None,
            long: LongV1::default(),
        };
        let LongV1 { body, answers, heat } = all.clone();
        let splits = [
            (all.clone(), None),
            (LongV1 { body, answers: None, heat: None }, Some(LongV1 { body: None, answers, heat })),
            (LongV1::default(), Some(all)),
        ];
        for (long, outside) in splits {
            let overflow = outside.as_ref().map(to_json).transpose()?;
            let file = overflow.as_deref().map(OverflowV1::of);
            let head = Head { overflow: file, long, ..head.clone() };
            if HEADER_BYTES + to_json(&head)?.len() <= VALUE_BYTES_MAX {
                return Ok(Self { head, overflow });
            }
        }
        Err("its id or image URL does not fit in a record".into())
    }

    /// The value with its place in the chain.
    pub(crate) fn seal(mut self, seq: u64, prev: &Digest) -> Result<Vec<u8>, String> {
        self.head.seq = seq;
        self.head.prev = hex(prev);
        Ok(value::seal(RECORD_VERSION, &to_json(&self.head)?))
    }
}

/// Opens a value and checks that it belongs under this sequence number.
pub(crate) fn decode(seq: u64, bytes: &[u8]) -> Result<Head, String> {
    let (version, body) = value::open(bytes)?;
    if !(RECORD_VERSION_MIN..=RECORD_VERSION).contains(&version) {
        return Err(format!("record version {version} is not known"));
    }
    let head: Head = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if head.seq != seq {
        return Err(format!("it says that it is record {}", head.seq));
    }
    Ok(head)
}

impl Head {
    /// The digest of the file that holds the rest, if there is one.
    pub(crate) fn overflow_digest(&self) -> Result<Option<Digest>, String> {
        self.overflow
            .as_ref()
            .map(|p| unhex(&p.sha256).ok_or_else(|| "its overflow file has no sha256".into()))
            .transpose()
    }

    /// The digest of the picture, if there is one.
    pub(crate) fn image_digest(&self) -> Result<Option<Digest>, String> {
        self.image
            .as_ref()
            .map(|p| unhex(&p.sha256).ok_or_else(|| "its image has no sha256".into()))
            .transpose()
    }

    /// The inspection; `overflow` holds the bytes of the file that `overflow_digest` names.
    pub(crate) fn into_stored(self, overflow: Option<&[u8]>) -> Result<Stored, String> {
        let outside: LongV1 = match overflow {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
            None => LongV1::default(),
        };
        let body = self.long.body.or(outside.body).ok_or("it has no body")?;
        let answers = self.long.answers.or(outside.answers).unwrap_or_default();
        let heat = self.long.heat.or(outside.heat).map(HeatV2::into_domain).transpose()?;
        let inspection =
            Inspection { heat, ..body.into_domain(self.id, parse_rfc3339(&self.finished_at)?, answers)? };
        let image = self
            .image
            .map(|i| StoredImage { image: ImageRef { sha256: i.sha256, bytes: i.bytes }, url: i.url });
        Ok(Stored { seq: self.seq, inspection, image })
    }
}

/// RFC 3339 in UTC with milliseconds, `2026-05-01T12:00:00.000Z`; times that no calendar holds
/// become the last that one holds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// The time of an RFC 3339 text.
pub(crate) fn parse_rfc3339(text: &str) -> Result<SystemTime, String> {
    text.parse::<Timestamp>().map(SystemTime::from).map_err(|e| format!("{text:?}: {e}"))
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|e| e.to_string())
}

fn finite32(x: f32) -> Option<f32> {
    x.is_finite().then_some(x)
}

fn finite64(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

pub(super) fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl BodyV1 {
    fn from_domain(i: &Inspection) -> Self {
        let l = &i.latency;
        Self {
            camera: i.camera.clone(),
            part_id: i.trigger.part_id.clone(),
            lot: i.trigger.lot.clone(),
            expected: i.trigger.expected.clone(),
            correlation_id: i.trigger.correlation_id.clone(),
            trigger_id: i.trigger.id.clone(),
            meas_id: i.trigger.meas_id.clone(),
            deadline_ms: i.trigger.deadline.map(whole_ms),
            part: i.trigger.part.as_deref().map(ViewOfV1::from_domain),
            pipeline: i.pipeline.clone(),
            pipeline_version: i.pipeline_version.clone(),
            model: i.model.name.clone(),
            model_sha256: i.model.text_sha256.clone(),
            mmproj_sha256: i.model.mmproj_sha256.clone(),
            prompt_hash: i.prompt_hash.clone(),
            captured_at: rfc3339(i.captured_at),
            verdict: VerdictV1::from_domain(&i.verdict),
            grade: i.grade.as_str().to_owned(),
            findings: i.findings.iter().map(FindingV1::from_domain).collect(),
            texts: i.texts.iter().map(TextV1::from_domain).collect(),
            tiles_planned: i.tiles.planned,
            tiles_inspected: i.tiles.inspected,
            score: finite32(i.score),
            latency_ms: [l.queue_ms, l.preprocess_ms, l.vision_ms, l.prefill_ms, l.decode_ms, l.total_ms]
                .map(finite64),
            replayed: i.replayed,
            origin: i.origin.clone(),
            clip_ms: i.clip.iter().map(|before| whole_ms(*before)).collect(),
            learned: i.learned.iter().map(LearnedV2::from_domain).collect(),
            skipped: skipped::from_domain(&i.skipped),
        }
    }

    fn into_domain(
        self,
        id: String,
        finished_at: SystemTime,
        answers: Vec<AnswerV1>,
    ) -> Result<Inspection, String> {
        let [queue_ms, preprocess_ms, vision_ms, prefill_ms, decode_ms, total_ms] =
            self.latency_ms.map(|x| x.unwrap_or(f64::NAN));
        Ok(Inspection {
            id,
            camera: self.camera,
            trigger: Trigger {
                id: self.trigger_id,
                part_id: self.part_id,
                lot: self.lot,
                expected: self.expected,
                correlation_id: self.correlation_id,
                meas_id: self.meas_id,
                deadline: self.deadline_ms.map(Duration::from_millis),
                part: self.part.map(|part| Box::new(part.into_domain())),
                ticket: None,
            },
            pipeline: self.pipeline,
            pipeline_version: self.pipeline_version,
            model: ModelRef {
                name: self.model,
                text_sha256: self.model_sha256,
                mmproj_sha256: self.mmproj_sha256,
            },
            prompt_hash: self.prompt_hash,
            captured_at: parse_rfc3339(&self.captured_at)?,
            finished_at,
            verdict: self.verdict.into_domain(),
            grade: grade(&self.grade)?,
            findings: self.findings.into_iter().map(FindingV1::into_domain).collect::<Result<_, _>>()?,
            texts: self.texts.into_iter().map(TextV1::into_domain).collect(),
            tiles: TileCount { planned: self.tiles_planned, inspected: self.tiles_inspected },
            score: self.score.unwrap_or(f32::NAN),
            latency: Latency { queue_ms, preprocess_ms, vision_ms, prefill_ms, decode_ms, total_ms },
            answers: answers.into_iter().map(AnswerV1::into_domain).collect(),
            learned: self.learned.into_iter().map(LearnedV2::into_domain).collect(),
            skipped: skipped::into_domain(self.skipped),
            heat: None,
            replayed: self.replayed,
            origin: self.origin,
            clip: self.clip_ms.into_iter().map(Duration::from_millis).collect(),
        })
    }
}

fn grade(word: &str) -> Result<Grade, String> {
    Grade::parse(word).ok_or_else(|| format!("{word:?} is not a grade"))
}

impl VerdictV1 {
    fn from_domain(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail(r) => Self::Fail { reason: ReasonV1::from_domain(r) },
            Verdict::Review(r) => Self::Review { reason: ReasonV1::from_domain(r) },
        }
    }

    fn into_domain(self) -> Verdict {
        match self {
            Self::Pass => Verdict::Pass,
            Self::Fail { reason } => Verdict::Fail(reason.into_domain()),
            Self::Review { reason } => Verdict::Review(reason.into_domain()),
        }
    }
}

impl ReasonV1 {
    fn from_domain(reason: &Reason) -> Self {
        match reason.clone() {
            Reason::Finding { label } => Self::Finding { label },
            Reason::TextMismatch { prompt, line } => Self::TextMismatch { prompt, line },
            Reason::TextUncertain { prompt, line } => Self::TextUncertain { prompt, line },
            Reason::LowConfidence { what, confidence } => {
                Self::LowConfidence { what, confidence: finite32(confidence) }
            }
            Reason::Deadline { late_ms } => Self::Deadline { late_ms },
            Reason::Unparsable { prompt, tile } => Self::Unparsable { prompt, tile },
            Reason::MissingTile { inspected, planned } => Self::MissingTile { inspected, planned },
            Reason::Engine { message } => Self::Engine { message },
            Reason::Frame { message } => Self::Frame { message },
            Reason::QueueFull => Self::QueueFull,
            Reason::Interrupted => Self::Interrupted,
        }
    }

    fn into_domain(self) -> Reason {
        match self {
            Self::Finding { label } => Reason::Finding { label },
            Self::TextMismatch { prompt, line } => Reason::TextMismatch { prompt, line },
            Self::TextUncertain { prompt, line } => Reason::TextUncertain { prompt, line },
            Self::LowConfidence { what, confidence } => {
                Reason::LowConfidence { what, confidence: confidence.unwrap_or(f32::NAN) }
            }
            Self::Deadline { late_ms } => Reason::Deadline { late_ms },
            Self::Unparsable { prompt, tile } => Reason::Unparsable { prompt, tile },
            Self::MissingTile { inspected, planned } => Reason::MissingTile { inspected, planned },
            Self::Engine { message } => Reason::Engine { message },
            Self::Frame { message } => Reason::Frame { message },
            Self::QueueFull => Reason::QueueFull,
            Self::Interrupted => Reason::Interrupted,
        }
    }
}

impl FindingV1 {
    fn from_domain(f: &Finding) -> Self {
        let b = &f.bbox_px;
        Self {
            label: f.label.clone(),
            severity: f.severity.as_str().to_owned(),
            bbox_px: [b.x0, b.y0, b.x1, b.y1].map(finite32),
            longest_mm: finite64(f.longest_mm),
            area_mm2: finite64(f.area_mm2),
            confidence: finite32(f.confidence),
            grade: f.grade.as_str().to_owned(),
        }
    }

    fn into_domain(self) -> Result<Finding, String> {
        let [x0, y0, x1, y1] = self.bbox_px.map(|x| x.unwrap_or(f32::NAN));
        let word = &self.severity;
        Ok(Finding {
            severity: Severity::parse(word).ok_or_else(|| format!("{word:?} is not a severity"))?,
            label: self.label,
            bbox_px: BoxPx::new(x0, y0, x1, y1),
            longest_mm: self.longest_mm.unwrap_or(f64::NAN),
            area_mm2: self.area_mm2.unwrap_or(f64::NAN),
            confidence: self.confidence.unwrap_or(f32::NAN),
            grade: grade(&self.grade)?,
        })
    }
}

impl TextV1 {
    fn from_domain(t: &TextLine) -> Self {
        Self {
            prompt: t.prompt.clone(),
            line: t.line,
            read: t.read.clone(),
            expected: t.expected.clone(),
            matches: t.matches,
            mismatches: t.mismatches.iter().map(|m| (m.at, m.read.clone(), m.expected.clone())).collect(),
            confidence: finite32(t.confidence),
        }
    }

    fn into_domain(self) -> TextLine {
        let mismatch = |(at, read, expected)| Mismatch { at, read, expected };
        TextLine {
            prompt: self.prompt,
            line: self.line,
            read: self.read,
            expected: self.expected,
            matches: self.matches,
            mismatches: self.mismatches.into_iter().map(mismatch).collect(),
            confidence: self.confidence.unwrap_or(f32::NAN),
        }
    }
}

impl LearnedV2 {
    fn from_domain(l: &LearnedRef) -> Self {
        let LearnedRef { prompt, kind, sha256 } = l.clone();
        Self { prompt, kind, sha256 }
    }

    fn into_domain(self) -> LearnedRef {
        let Self { prompt, kind, sha256 } = self;
        LearnedRef { prompt, kind, sha256 }
    }
}

impl AnswerV1 {
    fn from_domain(a: &RawAnswer) -> Self {
        Self { prompt: a.prompt.clone(), tile: a.tile, text: a.text.clone() }
    }

    fn into_domain(self) -> RawAnswer {
        RawAnswer { prompt: self.prompt, tile: self.tile, text: self.text }
    }
}
