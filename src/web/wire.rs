//! What the API says, as types: summaries for lists, everything about one inspection, reviews.

use crate::domain::finding::Finding;
use crate::domain::grade::Severity;
use crate::domain::inspection::Inspection;
use crate::domain::part::{PartRef, View};
use crate::domain::rect::BoxPx;
use crate::domain::review::{OperatorBox, OperatorText, Review};
use crate::domain::text::TextLine;
use crate::store::multiview::PartState;
use crate::store::record::{Stored, rfc3339};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One inspection in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Summary {
    pub seq: u64,
    /// ULID.
    pub id: String,
    /// RFC 3339, UTC, of the verdict.
    pub at: String,
    pub camera: String,
    pub pipeline: String,
    pub part_id: Option<String>,
    pub lot: Option<String>,
    /// pass, fail or review, as the model and the recipe have it.
    pub verdict: &'static str,
    pub reason: Option<String>,
    pub grade: &'static str,
    /// Distinct labels of the findings, the worst first.
    pub labels: Vec<String>,
    pub findings: usize,
    pub latency_ms: Option<f64>,
    /// sha256 of the picture.
    pub image: Option<String>,
    /// x0, y0, x1, y1 of the worst finding in pixels of the picture; null without one.
    pub worst_box: Option<[f32; 4]>,
    /// True when every planned tile was inspected: otherwise nothing is known of what is left.
    pub inspected: bool,
    /// The part with several views that this is one of.
    pub part: Option<PartView>,
    /// The decision in force.
    pub decision: Option<DecisionView>,
    /// The newest entry about it, for `based_on`.
    pub last_review: Option<u64>,
}

/// The decision in force, in short.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DecisionView {
    pub verdict: Option<&'static str>,
    pub kind: &'static str,
    pub actor: String,
    pub at: String,
}

impl Summary {
    /// A stored inspection with the decision in force and the newest entry, and the part that it is a view of.
    pub(super) fn new(
        stored: &Stored,
        decision: Option<&Review>,
        last_review: Option<u64>,
        part: Option<PartView>,
    ) -> Self {
        let i = &stored.inspection;
        let findings = worst_first(i);
        let worst_box = findings
            .iter()
            .map(|f| f.bbox_px)
            .find(|b| [b.x0, b.y0, b.x1, b.y1].iter().all(|x| x.is_finite()));
        let mut labels: Vec<String> = Vec::new();
        for finding in &findings {
            if !labels.contains(&finding.label) {
                labels.push(finding.label.clone());
            }
        }
        Self {
            seq: stored.seq,
            id: i.id.clone(),
            at: rfc3339(i.finished_at),
            camera: i.camera.clone(),
            pipeline: i.pipeline.clone(),
            part_id: i.trigger.part_id.clone(),
            lot: i.trigger.lot.clone(),
            verdict: i.verdict.as_str(),
            reason: i.verdict.reason().map(ToString::to_string),
            grade: i.grade.as_str(),
            labels,
            findings: i.findings.len(),
            latency_ms: finite(i.latency.total_ms),
            image: stored.image.as_ref().map(|s| s.image.sha256.clone()),
            worst_box: worst_box.map(|b| [b.x0, b.y0, b.x1, b.y1]),
            inspected: i.tiles.planned > 0 && i.tiles.inspected >= i.tiles.planned,
            part,
            decision: decision.map(DecisionView::new),
            last_review,
        }
    }
}

fn worst_first(i: &Inspection) -> Vec<&Finding> {
    let mut findings: Vec<_> = i.findings.iter().collect();
    findings.sort_by(|a, b| b.grade.cmp(&a.grade).then(b.confidence.total_cmp(&a.confidence)));
    findings
}

impl DecisionView {
    fn new(review: &Review) -> Self {
        Self {
            verdict: review.verdict.map(|v| v.as_str()),
            kind: review.kind.as_str(),
            actor: review.actor.clone(),
            at: rfc3339(review.at),
        }
    }
}

/// Everything about one inspection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Detail {
    #[serde(flatten)]
    pub summary: Summary,
    pub captured_at: String,
    pub pipeline_version: String,
    pub model: ModelView,
    /// sha256 over all prompts.
    pub prompt_hash: String,
    /// How likely the part is defective, 0..1.
    pub score: Option<f64>,
    /// The model's findings.
    pub boxes: Vec<FindingView>,
    pub texts: Vec<TextView>,
    pub tiles_planned: usize,
    pub tiles_inspected: usize,
    /// The questions that were not asked of a tile, because a bank was sure that nothing is there.
    pub skipped: Vec<SkippedView>,
    /// How the picture stands: whole, missing or wrong; null when none was kept.
    pub picture: Option<&'static str>,
    /// Size of the picture in pixels; null when it cannot be shown.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// x0, y0, x1, y1 of every tile; null when the recipe has changed since.
    pub grid: Option<Vec<[u32; 4]>>,
    /// Millimetres a pixel; null when the recipe has changed since.
    pub mm_per_px: Option<f64>,
    /// Labels that the recipe knows.
    pub known_labels: Vec<String>,
    pub latency: LatencyView,
    /// What the model said, word for word.
    pub answers: Vec<AnswerView>,
    pub replayed: bool,
    pub origin: String,
    /// What was learned from confirmed parts and judged this one.
    pub learned: Vec<LearnedView>,
    /// How unusual each place is; null where no prompt compares with good parts.
    pub heat: Option<HeatView>,
    /// All entries about it, oldest first.
    pub reviews: Vec<ReviewView>,
}

/// A question that was not asked of a tile.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SkippedView {
    /// Id of the prompt that was not asked.
    pub prompt: String,
    pub tile: usize,
    /// x0, y0, x1, y1 of the tile in pixels.
    pub rect: [u32; 4],
    /// Id of the prompt whose bank has looked at the tile.
    pub by: String,
    /// How sure the bank was that something is there, 0..1; less than `below`.
    pub doubt: Option<f64>,
    /// The limit of the recipe, 0..1.
    pub below: Option<f64>,
}

/// A file that was learned from confirmed parts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LearnedView {
    /// Id of the prompt.
    pub prompt: String,
    /// bank, head, adapter.
    pub kind: String,
    pub sha256: String,
}

/// A heat map.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct HeatView {
    /// Pixels of the picture that a place's side has.
    pub place_px: u32,
    pub cols: u32,
    /// Row by row, 0 to 255 for a confidence of 0 to 1.
    pub places: Vec<u8>,
}

/// A part that several cameras look at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PartView {
    /// ULID.
    pub id: String,
    /// As the config names it.
    pub name: String,
    /// pass, fail or review, that of the worst view; null while views are awaited.
    pub verdict: Option<&'static str>,
    pub reason: Option<String>,
    /// RFC 3339, UTC; null while views are awaited.
    pub decided_at: Option<String>,
    /// One for each camera, in the order of the config.
    pub views: Vec<SideView>,
}

/// One camera's look at a part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SideView {
    pub camera: String,
    /// Null while it is awaited, or when it was never inspected.
    pub inspection_id: Option<String>,
    /// pass, fail or review; null while it is awaited.
    pub verdict: Option<&'static str>,
    pub reason: Option<String>,
    /// pass or fail: the decision in force about this view; null: nobody has decided.
    pub decided: Option<&'static str>,
    /// sha256 of its picture; null where none is kept.
    pub image: Option<String>,
}

impl PartView {
    /// A part, and what is known of it.
    pub(super) fn new(part: &PartRef, state: PartState) -> Self {
        let (id, name) = (part.id.clone(), part.name.clone());
        match state {
            PartState::Decided(verdict) => Self {
                id,
                name,
                verdict: Some(verdict.outcome.as_str()),
                reason: verdict.reason,
                decided_at: Some(rfc3339(verdict.decided_at)),
                views: verdict.views.into_iter().map(SideView::new).collect(),
            },
            PartState::Open(mut found) => {
                let views = part.cameras.iter().map(|camera| {
                    match found.iter().position(|view| view.camera == *camera) {
                        Some(at) => SideView::new(found.swap_remove(at)),
                        None => SideView::awaited(camera),
                    }
                });
                let views = views.collect();
                Self { id, name, verdict: None, reason: None, decided_at: None, views }
            }
        }
    }
}

impl SideView {
    fn new(view: View) -> Self {
        let View { camera, inspection_id, outcome, reason, .. } = view;
        Self { camera, inspection_id, verdict: Some(outcome.as_str()), reason, decided: None, image: None }
    }

    fn awaited(camera: &str) -> Self {
        let camera = camera.to_owned();
        Self { camera, inspection_id: None, verdict: None, reason: None, decided: None, image: None }
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    pub name: String,
    pub sha256: String,
    pub mmproj_sha256: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct FindingView {
    pub label: String,
    pub severity: &'static str,
    pub grade: &'static str,
    /// x0, y0, x1, y1 in pixels of the picture.
    pub bbox_px: [Option<f32>; 4],
    pub longest_mm: Option<f64>,
    pub area_mm2: Option<f64>,
    pub confidence: Option<f32>,
}

impl FindingView {
    pub(super) fn new(f: &Finding) -> Self {
        let b = &f.bbox_px;
        Self {
            label: f.label.clone(),
            severity: f.severity.as_str(),
            grade: f.grade.as_str(),
            bbox_px: [b.x0, b.y0, b.x1, b.y1].map(|x| x.is_finite().then_some(x)),
            longest_mm: finite(f.longest_mm),
            area_mm2: finite(f.area_mm2),
            confidence: f.confidence.is_finite().then_some(f.confidence),
        }
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TextView {
    pub prompt: String,
    pub line: usize,
    pub read: Option<String>,
    pub expected: Option<String>,
    pub matches: Option<bool>,
    pub mismatches: Vec<MismatchView>,
    pub confidence: Option<f32>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct MismatchView {
    /// Position in what was read, in characters.
    pub at: usize,
    pub read: String,
    pub expected: String,
}

impl TextView {
    pub(super) fn new(t: &TextLine) -> Self {
        Self {
            prompt: t.prompt.clone(),
            line: t.line,
            read: t.read.clone(),
            expected: t.expected.clone(),
            matches: t.matches,
            mismatches: t
                .mismatches
                .iter()
                .map(|m| MismatchView { at: m.at, read: m.read.clone(), expected: m.expected.clone() })
                .collect(),
            confidence: t.confidence.is_finite().then_some(t.confidence),
        }
    }
}

/// Milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LatencyView {
    pub queue: Option<f64>,
    pub preprocess: Option<f64>,
    pub vision: Option<f64>,
    pub prefill: Option<f64>,
    pub decode: Option<f64>,
    pub total: Option<f64>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct AnswerView {
    pub prompt: String,
    pub tile: usize,
    pub text: String,
}

/// One entry of the ledger of reviews.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ReviewView {
    pub seq: u64,
    pub at: String,
    pub actor: String,
    pub inspection_id: String,
    pub inspection_seq: u64,
    /// confirm, override, decide or undo.
    pub kind: &'static str,
    pub model_verdict: String,
    /// pass or fail; null after an undo that leaves no decision.
    pub verdict: Option<&'static str>,
    pub reason: String,
    pub note: String,
    pub findings: Option<Vec<BoxBody>>,
    pub texts: Option<Vec<TextBody>>,
    pub supersedes: Option<u64>,
    pub restores: Option<u64>,
    /// missing or wrong, when it was made without the picture.
    pub picture: Option<&'static str>,
    /// sha256 of the entry: what the next one names as its predecessor.
    pub hash: String,
}

impl ReviewView {
    pub(super) fn new(r: &Review) -> Self {
        Self {
            seq: r.seq,
            at: rfc3339(r.at),
            actor: r.actor.clone(),
            inspection_id: r.inspection_id.clone(),
            inspection_seq: r.inspection_seq,
            kind: r.kind.as_str(),
            model_verdict: r.model_verdict.clone(),
            verdict: r.verdict.map(|v| v.as_str()),
            reason: r.reason.clone(),
            note: r.note.clone(),
            findings: r.findings.as_ref().map(|f| f.iter().map(BoxBody::new).collect()),
            texts: r.texts.as_ref().map(|t| t.iter().map(TextBody::new).collect()),
            supersedes: r.supersedes,
            restores: r.restores,
            picture: r.picture.map(|p| p.as_str()),
            hash: r.hash.clone(),
        }
    }
}

/// A defect as an operator has it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BoxBody {
    pub label: String,
    /// minor, major or critical.
    pub severity: String,
    /// x0, y0, x1, y1 in pixels of the picture.
    pub bbox_px: [f32; 4],
}

impl BoxBody {
    fn new(b: &OperatorBox) -> Self {
        let p = b.bbox_px;
        let severity = b.severity.as_str().to_owned();
        Self { label: b.label.clone(), severity, bbox_px: [p.x0, p.y0, p.x1, p.y1] }
    }

    /// The domain's form, or what is wrong.
    pub(super) fn into_domain(self) -> Result<OperatorBox, String> {
        let [x0, y0, x1, y1] = self.bbox_px;
        let severity = Severity::parse(&self.severity)
            .ok_or_else(|| format!("severity {:?} is not minor, major or critical", self.severity))?;
        Ok(OperatorBox { label: self.label, severity, bbox_px: BoxPx::new(x0, y0, x1, y1) })
    }
}

/// A line as an operator reads it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TextBody {
    pub prompt: String,
    /// 1 for the first line.
    #[schema(minimum = 1, maximum = 1000)]
    pub line: usize,
    pub text: String,
}

impl TextBody {
    fn new(t: &OperatorText) -> Self {
        Self { prompt: t.prompt.clone(), line: t.line, text: t.text.clone() }
    }

    pub(super) fn into_domain(self) -> OperatorText {
        OperatorText { prompt: self.prompt, line: self.line, text: self.text }
    }
}

pub(super) fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
