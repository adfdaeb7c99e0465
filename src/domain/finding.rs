//! A defect on the part: detections of all tiles merged, in frame coordinates, measured and graded.

use super::grade::{Grade, Severity};
use super::rect::BoxPx;

/// One defect of the part.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub label: String,
    /// The worst severity among the merged detections.
    pub severity: Severity,
    pub bbox_px: BoxPx,
    /// Longer side of the box in millimetres.
    pub longest_mm: f64,
    /// Area of the box in square millimetres.
    pub area_mm2: f64,
    /// The highest confidence among the merged detections, 0..=1.
    pub confidence: f32,
    pub grade: Grade,
}
