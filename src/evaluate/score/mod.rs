//! From what is true and what was inspected to the figures of `replay`.
//!
//! ```text
//! (Truth, Inspection)... --boxes--> tp, fp, fn a label, micro at IoU 0.5 and 0.3, confusion
//!                        --image--> recall, false alarms, escapes, AUROC, verdicts
//!                        --text---> lines exact, character error rate
//!                        --skipped> tiles that were not asked, and what that may have lost
//!                        --latency> p50, p95, max
//! ```
//!
//! Rules that hold everywhere:
//! - A rate without cases is null, never 0 or 1.
//! - The field names are a contract with the scripts of users; keys may be added, none changed.

pub(crate) mod boxes;
mod image;
pub(crate) mod skipped;
mod text;

use crate::domain::inspection::Inspection;
use crate::domain::pipeline::{Pipeline, PromptKind};
use crate::domain::rect::Rect;
use crate::evaluate::truth::Truth;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What the model was asked: the frame of reference of every figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    /// Labels of all prompts of kind defects.
    pub labels: BTreeSet<String>,
    /// Prompts of kind text, in the pipeline's order.
    pub texts: Vec<AskedText>,
    /// Some question is not asked of every tile.
    pub skips: bool,
}

/// One prompt of kind text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AskedText {
    pub id: String,
    /// Where it reads; `None`: everywhere. [`Truth::rois`] of an image overrides it.
    pub roi: Option<Rect>,
}

impl Asked {
    /// What a pipeline asks.
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        let mut asked = Self::default();
        for prompt in &pipeline.prompts {
            asked.labels.extend(prompt.kind.labels().iter().cloned());
            asked.skips |= prompt.skip.is_some();
            if matches!(prompt.kind, PromptKind::Text { .. }) {
                asked.texts.push(AskedText { id: prompt.id.clone(), roi: prompt.roi });
            }
        }
        asked
    }

    /// The regions of the text prompts in one image.
    pub(crate) fn text_rois(&self, truth: &Truth) -> Vec<(String, Rect)> {
        let of = |t: &AskedText| Some((t.id.clone(), truth.rois.get(&t.id).copied().or(t.roi)?));
        self.texts.iter().filter_map(of).collect()
    }
}

/// The figures of one replay: the object that `replay --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Metrics {
    pub images: usize,
    /// By label: every label that was asked.
    pub labels: BTreeMap<String, BoxMetrics>,
    /// All labels together at IoU 0.5.
    pub micro: BoxMetrics,
    /// All labels together at IoU 0.3: small defects are found well before they are framed well.
    pub micro_iou30: BoxMetrics,
    /// True label (or `nothing`) to found label (or `missed`) to count, by place at IoU 0.3.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
    pub image: image::ImageMetrics,
    pub text: text::TextMetrics,
    pub latency_ms: LatencyMetrics,
    /// Absent where the pipeline asks all of every tile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<skipped::SkippedMetrics>,
}

/// Boxes right, wrong and missed, with their rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct BoxMetrics {
    pub tp: usize,
    pub fp: usize,
    #[serde(rename = "fn")]
    pub missed: usize,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub f1: Option<f64>,
}

impl BoxMetrics {
    /// The rates of these counts.
    pub(crate) fn of(tp: usize, fp: usize, missed: usize) -> Self {
        Self {
            tp,
            fp,
            missed,
            precision: share(tp, tp + fp),
            recall: share(tp, tp + missed),
            f1: share(2 * tp, 2 * tp + fp + missed),
        }
    }
}

/// Times from exposure to verdict, in milliseconds; percentiles by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LatencyMetrics {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub max: Option<f64>,
}

/// Scores inspections against the truth about the same images.
pub(crate) fn score(pairs: &[(&Truth, &Inspection)], asked: &Asked) -> Metrics {
    let at_half = boxes::count(pairs, asked, boxes::IOU_CONTRACT);
    let at_third = boxes::count(pairs, asked, boxes::IOU_LOOSE);
    Metrics {
        images: pairs.len(),
        micro: boxes::micro(&at_half),
        micro_iou30: boxes::micro(&at_third),
        labels: at_half,
        confusion: boxes::confusion(pairs, asked, boxes::IOU_LOOSE),
        image: image::score(pairs),
        text: text::score(pairs, asked),
        latency_ms: latency(pairs.iter().map(|(_, i)| i.latency.total_ms)),
        skipped: asked.skips.then(|| skipped::score(pairs.iter().copied())),
    }
}

/// Part of a whole; `None` when the whole is empty.
#[expect(clippy::cast_precision_loss, reason = "counts of images and boxes stay far below 2^53")]
pub(crate) fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Times that are not finite are left out: they measure nothing.
fn latency(times_ms: impl Iterator<Item = f64>) -> LatencyMetrics {
    let mut sorted: Vec<f64> = times_ms.filter(|t| t.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    LatencyMetrics {
        p50: nearest_rank(&sorted, 50),
        p95: nearest_rank(&sorted, 95),
        max: sorted.last().copied(),
    }
}

/// The smallest value that at least `percent` of 100 of the values do not exceed.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
pub(crate) mod tests;
