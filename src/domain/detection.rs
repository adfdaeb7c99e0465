//! What the model says about one tile, in the tile's own coordinates.

use super::grade::Severity;

/// One defect that the model reported in one tile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Detection {
    /// Index of the tile in its grid.
    pub tile: usize,
    pub label: String,
    pub severity: Severity,
    /// x1, y1, x2, y2 in thousandths of the tile's width and height, 0..=1000, x1 < x2, y1 < y2.
    pub bbox_2d: [u16; 4],
    /// Product of the label tokens' probabilities under the answer's grammar, 0..=1.
    pub confidence: f32,
}
