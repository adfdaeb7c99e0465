//! The disk form of a review, version 1.
//!
//! ```text
//! everything fits in a value     value { head, body }
//! otherwise (many boxes)         value { head, part } + file { body }
//! ```
//!
//! A field is never renamed or retyped; a change makes a version 2 beside it.

use super::images::{Digest, hex, sha256};
use super::record::{OverflowV1, parse_rfc3339, rfc3339};
use super::review::{ReviewState, digest};
use super::value::{self, HEADER_BYTES, VALUE_BYTES_MAX};
use crate::domain::grade::Severity;
use crate::domain::rect::BoxPx;
use crate::domain::review::{Decided, OperatorBox, OperatorText, PictureFault, Review, ReviewKind};
use serde::{Deserialize, Serialize};

/// Version byte of the values that this file writes.
pub(super) const REVIEW_VERSION: u8 = 1;

/// What is in the value itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub seq: u64,
    /// sha256 (hex) of the previous entry's value; of the first entry: zeros.
    pub prev: String,
    at: String,
    actor: String,
    inspection: String,
    pub inspection_seq: u64,
    /// sha256 (hex) of the inspection's record.
    record: String,
    kind: String,
    model_verdict: String,
    verdict: Option<String>,
    reason: String,
    supersedes: Option<u64>,
    restores: Option<u64>,
    /// Only of a decision without the picture; absent in entries that were written before it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
    #[serde(rename = "part", default, skip_serializing_if = "Option::is_none")]
    overflow: Option<OverflowV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<BodyV1>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct BodyV1 {
    note: String,
    findings: Option<Vec<FindingV1>>,
    texts: Option<Vec<TextV1>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FindingV1 {
    label: String,
    severity: String,
    /// x0, y0, x1, y1 in frame pixels.
    bbox_px: [f32; 4],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TextV1 {
    prompt: String,
    line: usize,
    text: String,
}

/// A sealed value and the file that must be stored before it.
pub(super) struct Draft {
    pub value: Vec<u8>,
    pub overflow: Option<Vec<u8>>,
}

impl Draft {
    /// Decides what stays in the value and what moves into a file.
    pub(super) fn new(review: &Review, prev: &Digest) -> Result<Self, String> {
        let body = BodyV1::from_review(review);
        let mut head = Head {
            seq: review.seq,
            prev: hex(prev),
            at: rfc3339(review.at),
            actor: review.actor.clone(),
            inspection: review.inspection_id.clone(),
            inspection_seq: review.inspection_seq,
            record: review.record_sha256.clone(),
            kind: review.kind.as_str().to_owned(),
            model_verdict: review.model_verdict.clone(),
            verdict: review.verdict.map(|v| v.as_str().to_owned()),
            reason: review.reason.clone(),
            supersedes: review.supersedes,
            restores: review.restores,
            picture: review.picture.map(|p| p.as_str().to_owned()),
            overflow: None,
            body: Some(body.clone()),
        };
        let inline = to_json(&head)?;
        if HEADER_BYTES + inline.len() <= VALUE_BYTES_MAX {
            return Ok(Self { value: value::seal(REVIEW_VERSION, &inline), overflow: None });
        }
        let overflow = to_json(&body)?;
        head.body = None;
        head.overflow = Some(OverflowV1::of(&overflow));
        let outside = to_json(&head)?;
        if HEADER_BYTES + outside.len() > VALUE_BYTES_MAX {
            return Err("its reason does not fit in an entry".into());
        }
        Ok(Self { value: value::seal(REVIEW_VERSION, &outside), overflow: Some(overflow) })
    }
}

/// Opens a value and checks that it belongs under this sequence number.
pub(super) fn decode(seq: u64, bytes: &[u8]) -> Result<Head, String> {
    let (version, body) = value::open(bytes)?;
    if version != REVIEW_VERSION {
        return Err(format!("review version {version} is not known"));
    }
    let head: Head = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if head.seq != seq {
        return Err(format!("it says that it is review {}", head.seq));
    }
    Ok(head)
}

impl Head {
    /// The digest of the file that holds the body, if there is one.
    pub(super) fn overflow_digest(&self) -> Result<Option<Digest>, String> {
        self.overflow.as_ref().map(|p| digest(&p.sha256)).transpose()
    }

    /// Where the reviews of its inspection stand with it as the newest.
    pub(super) fn review_state(&self) -> ReviewState {
        let undo = self.kind == ReviewKind::Undo.as_str();
        ReviewState {
            last: self.seq,
            effective: if undo { self.restores } else { Some(self.seq) },
            verdict: self.verdict.as_deref().and_then(Decided::parse),
        }
    }

    /// The review; `part` holds the bytes of the file that `overflow_digest` names, `value` is what was
    /// decoded.
    pub(super) fn into_review(self, overflow: Option<&[u8]>, value: &[u8]) -> Result<Review, String> {
        let body = match overflow {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
            None => self.body.ok_or("it has no body")?,
        };
        let findings = body.findings.map(|f| f.into_iter().map(FindingV1::into_domain).collect());
        let text = |t: TextV1| OperatorText { prompt: t.prompt, line: t.line, text: t.text };
        let fault =
            |w: String| PictureFault::parse(&w).ok_or_else(|| format!("{w:?} is no fault of a picture"));
        let word = |w: String| Decided::parse(&w).ok_or_else(|| format!("{w:?} is no decision"));
        Ok(Review {
            seq: self.seq,
            at: parse_rfc3339(&self.at)?,
            actor: self.actor,
            inspection_id: self.inspection,
            inspection_seq: self.inspection_seq,
            record_sha256: self.record,
            kind: ReviewKind::parse(&self.kind).ok_or_else(|| format!("{:?} is no kind", self.kind))?,
            model_verdict: self.model_verdict,
            verdict: self.verdict.map(word).transpose()?,
            reason: self.reason,
            note: body.note,
            findings: findings.transpose()?,
            texts: body.texts.map(|t| t.into_iter().map(text).collect()),
            supersedes: self.supersedes,
            restores: self.restores,
            picture: self.picture.map(fault).transpose()?,
            hash: hex(&sha256(value)),
        })
    }
}

impl BodyV1 {
    fn from_review(r: &Review) -> Self {
        let finding = |f: &OperatorBox| FindingV1 {
            label: f.label.clone(),
            severity: f.severity.as_str().to_owned(),
            bbox_px: [f.bbox_px.x0, f.bbox_px.y0, f.bbox_px.x1, f.bbox_px.y1],
        };
        let text = |t: &OperatorText| TextV1 { prompt: t.prompt.clone(), line: t.line, text: t.text.clone() };
        Self {
            note: r.note.clone(),
            findings: r.findings.as_ref().map(|f| f.iter().map(finding).collect()),
            texts: r.texts.as_ref().map(|t| t.iter().map(text).collect()),
        }
    }
}

impl FindingV1 {
    fn into_domain(self) -> Result<OperatorBox, String> {
        let [x0, y0, x1, y1] = self.bbox_px;
        let severity = Severity::parse(&self.severity);
        Ok(OperatorBox {
            severity: severity.ok_or_else(|| format!("{:?} is not a severity", self.severity))?,
            label: self.label,
            bbox_px: BoxPx::new(x0, y0, x1, y1),
        })
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|e| e.to_string())
}
