//! The tiles that cover a frame.

use super::rect::Rect;

/// One square (or, at the edge of a small region, smaller) cut of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Place in the grid, row by row.
    pub index: usize,
    pub rect: Rect,
}

/// The tiles of one frame.
///
/// Invariant: every pixel of the region of interest that no mask covers lies in at least one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The inspected region, clipped to the frame.
    pub roi: Rect,
    pub tiles: Vec<Tile>,
}
