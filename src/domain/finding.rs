//! A defect on the part: detections of all tiles merged, in frame coordinates, measured and graded.

use super::grade::{Grade, Severity};
use super::rect::BoxPx;

/// One defect of the part.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// One of the labels of the prompt that asked for it.
    pub label: String,
    /// The worst severity among the merged detections.
    pub severity: Severity,
    /// The union of the merged detections' boxes.
    pub bbox_px: BoxPx,
    /// Longer side of the box in millimetres.
    pub longest_mm: f64,
    /// Area of the box in square millimetres.
    pub area_mm2: f64,
    /// The highest confidence among the merged detections, 0..=1.
    pub confidence: f32,
    /// What the first matching `GradeRule` of the pipeline makes of it.
    pub grade: Grade,
}
