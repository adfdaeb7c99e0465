//! Boxes: which finding is which labelled defect.
//!
//! Findings of an image are taken in order of confidence, the surest first; each takes the unused
//! true box of its label that it overlaps most, and is right when that overlap reaches the IoU.
//!
//! What is left out, because the truth cannot tell:
//! - A defect whose place is not known (`bbox: null`) is no box to miss; a finding of its label in
//!   that image may be it, so it is wrong only where it is certainly not: nowhere.
//! - An image that is defective without saying how (`good: false`, no defects) has any label anywhere.
//! - A defect whose label was not asked is no box to miss. A finding that covers it says the wrong word.

use super::{Asked, BoxMetrics};
use crate::domain::finding::Finding;
use crate::domain::inspection::Inspection;
use crate::domain::rect::BoxPx;
use crate::evaluate::truth::Truth;
use std::collections::BTreeMap;

/// Overlap at which a finding counts as right in `labels` and `micro`.
pub(crate) const IOU_CONTRACT: f32 = 0.5;
/// The looser overlap of `micro_iou30` and of the confusion table.
pub(crate) const IOU_LOOSE: f32 = 0.3;
/// Row of the confusion table for findings where nothing is.
pub(crate) const NOTHING: &str = "nothing";
/// Column of the confusion table for defects that were not found.
pub(crate) const MISSED: &str = "missed";

/// Counts by label: every asked label, and any other that was found all the same.
pub(crate) fn count(
    pairs: &[(&Truth, &Inspection)],
    asked: &Asked,
    iou_min: f32,
) -> BTreeMap<String, BoxMetrics> {
    let mut counts: BTreeMap<String, [usize; 3]> = asked.labels.iter().map(|l| (l.clone(), [0; 3])).collect();
    for (truth, inspection) in pairs {
        let boxes = known_boxes(truth, asked);
        let mut used = vec![false; boxes.len()];
        for finding in surest_first(&inspection.findings) {
            let same_label = |k: usize| !used[k] && boxes[k].0 == finding.label;
            let [tp, fp, _] = counts.entry(finding.label.clone()).or_default();
            match best(&boxes, finding, iou_min, same_label) {
                Some(k) => {
                    used[k] = true;
                    *tp += 1;
                }
                None if may_be_anywhere(truth, &finding.label) => {}
                None => *fp += 1,
            }
        }
        for ((label, _), used) in boxes.iter().zip(&used) {
            counts.entry((*label).to_owned()).or_default()[2] += usize::from(!used);
        }
    }
    counts.into_iter().map(|(label, [tp, fp, missed])| (label, BoxMetrics::of(tp, fp, missed))).collect()
}

/// All labels together.
pub(crate) fn micro(labels: &BTreeMap<String, BoxMetrics>) -> BoxMetrics {
    let sum = |take: fn(&BoxMetrics) -> usize| labels.values().map(take).sum();
    BoxMetrics::of(sum(|m| m.tp), sum(|m| m.fp), sum(|m| m.missed))
}

/// What was found where a defect is, whatever its label: true label to found label to count.
pub(crate) fn confusion(
    pairs: &[(&Truth, &Inspection)],
    asked: &Asked,
    iou_min: f32,
) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut table: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut add = |row: &str, column: &str| {
        *table.entry(row.to_owned()).or_default().entry(column.to_owned()).or_default() += 1;
    };
    for (truth, inspection) in pairs {
        let boxes = known_boxes(truth, asked);
        let mut used = vec![false; boxes.len()];
        for finding in surest_first(&inspection.findings) {
            match best(&boxes, finding, iou_min, |k| !used[k]) {
                Some(k) => {
                    used[k] = true;
                    add(boxes[k].0, &finding.label);
                }
                None if may_be_anywhere(truth, &finding.label) => {}
                None => add(NOTHING, &finding.label),
            }
        }
        for ((label, _), _) in boxes.iter().zip(&used).filter(|(_, used)| !**used) {
            add(label, MISSED);
        }
    }
    table
}

/// Boxes whose place is known and whose label was asked.
fn known_boxes<'t>(truth: &'t Truth, asked: &Asked) -> Vec<(&'t str, BoxPx)> {
    let known = truth.defects.iter().filter(|d| asked.labels.contains(&d.label));
    known.filter_map(|d| Some((d.label.as_str(), d.bbox_px?))).collect()
}

/// Whether the truth leaves open that a defect of this label is somewhere in the image.
fn may_be_anywhere(truth: &Truth, label: &str) -> bool {
    let unplaced = truth.defects.iter().any(|d| d.bbox_px.is_none() && d.label == label);
    unplaced || (truth.is_defective() && truth.defects.is_empty())
}

/// Findings by falling confidence; equals keep their order.
fn surest_first(findings: &[Finding]) -> Vec<&Finding> {
    let mut order: Vec<&Finding> = findings.iter().collect();
    order.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    order
}

/// The box that overlaps the finding most, of those allowed and at least at `iou_min`; the first of equals.
fn best(
    boxes: &[(&str, BoxPx)],
    finding: &Finding,
    iou_min: f32,
    allowed: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (k, (_, bbox)) in boxes.iter().enumerate().filter(|(k, _)| allowed(*k)) {
        let iou = bbox.iou(&finding.bbox_px);
        if iou >= iou_min && best.is_none_or(|(_, top)| iou > top) {
            best = Some((k, iou));
        }
    }
    best.map(|(k, _)| k)
}
