//! The tiles that cover a frame.
//!
//! ```text
//! frame --clip--> roi --cut with overlap--> tiles --drop the wholly masked--> Grid
//!
//! +--------+--+-----+--+      One row of a roi: tiles of `tile_px`, each starting
//! |   0    |  |  1  |  |      `tile_px - overlap_px` after the one before. The last one
//! |        |01|     |12|      shifts inward until it ends where the roi ends, so that it
//! +--------+--+-----+--+      overlaps more, and never leaves the roi.
//! ```

use super::pipeline::{FrameRule, Tiling};
use super::rect::Rect;

/// A tile is at most this many times longer than wide. Qwen's resize refuses pictures over 200
/// (`MAX_RATIO` of its image processor); half of that leaves room for rounding.
pub const ASPECT_RATIO_MAX: u32 = 100;

/// One square (or, at the edge of a small region, smaller) cut of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Place in the grid, row by row.
    pub index: usize,
    /// What it covers, in frame pixels.
    pub rect: Rect,
}

/// The tiles of one frame.
///
/// Invariant: every pixel of the region of interest that no mask covers lies in at least one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The inspected region, clipped to the frame.
    pub roi: Rect,
    /// Row by row, without those that masks cover wholly.
    pub tiles: Vec<Tile>,
}

/// Why a frame cannot be cut as its pipeline says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum GridError {
    #[error("tiles of {tile_px} px with {overlap_px} px overlap never cover anything")]
    Overlap { tile_px: u32, overlap_px: u32 },
    #[error("region of interest {roi} lies outside the frame of {width}x{height} px")]
    Outside { roi: Rect, width: u32, height: u32 },
    #[error(
        "region {roi} is more than {ASPECT_RATIO_MAX} times longer than wide in a frame of {width}x{height} px"
    )]
    TooThin { roi: Rect, width: u32, height: u32 },
    #[error("masks cover the whole region of interest {roi}")]
    AllMasked { roi: Rect },
    #[error("the region needs {needed} tiles, max_tiles is {max_tiles}")]
    TooManyTiles { needed: usize, max_tiles: usize },
}

impl Grid {
    /// Cuts a frame of `width` x `height` pixels.
    ///
    /// A side of the region shorter than a tile gives a shorter tile. A region so thin that its tiles
    /// would exceed [`ASPECT_RATIO_MAX`] grows, inside the frame, until they do not. Tiles that masks
    /// cover wholly are left out; the others keep their row-by-row order.
    ///
    /// # Errors
    /// [`GridError`]. Nothing to inspect is an error too, because a part of which nothing was looked at
    /// must not pass.
    pub fn new(width: u32, height: u32, frame: &FrameRule, tiling: &Tiling) -> Result<Self, GridError> {
        let Tiling { tile_px, overlap_px, max_tiles, .. } = *tiling;
        if overlap_px >= tile_px {
            return Err(GridError::Overlap { tile_px, overlap_px });
        }
        let roi = inspected_region(width, height, frame.roi, tile_px)?;
        let columns = spans(roi.x0, roi.x1, tiling);
        let rows = spans(roi.y0, roi.y1, tiling);

        let mut tiles = Vec::new();
        let mut needed = 0;
        for &(y0, y1) in &rows {
            for &(x0, x1) in &columns {
                let rect = Rect::new(x0, y0, x1, y1);
                if uncovered_px(&rect, &frame.mask) == 0 {
                    continue;
                }
                // Counted to the end, so that the error can say how many, but never stored beyond the limit.
                if needed < max_tiles {
                    tiles.push(Tile { index: needed, rect });
                }
                needed += 1;
            }
        }
        if needed > max_tiles {
            return Err(GridError::TooManyTiles { needed, max_tiles });
        }
        if tiles.is_empty() {
            return Err(GridError::AllMasked { roi });
        }
        Ok(Self { roi, tiles })
    }
}

/// The region clipped to the frame and, where too thin for its tiles, grown inside the frame.
fn inspected_region(width: u32, height: u32, roi: Option<Rect>, tile_px: u32) -> Result<Rect, GridError> {
    let whole = Rect::new(0, 0, width, height);
    let asked = roi.unwrap_or(whole);
    // A region that leaves the frame is a wrong camera or a wrong recipe: to inspect what is left of it
    // would pass a part of which nobody saw the rest.
    if asked.is_empty() || !whole.contains(&asked) {
        return Err(GridError::Outside { roi: asked, width, height });
    }
    let roi = asked;
    let (x0, x1) = grow(roi.x0, roi.x1, width, roi.height().min(tile_px).div_ceil(ASPECT_RATIO_MAX));
    let (y0, y1) = grow(roi.y0, roi.y1, height, roi.width().min(tile_px).div_ceil(ASPECT_RATIO_MAX));
    let grown = Rect::new(x0, y0, x1, y1);
    let (w, h) = (grown.width().min(tile_px), grown.height().min(tile_px));
    if w.max(h) > w.min(h).saturating_mul(ASPECT_RATIO_MAX) {
        return Err(GridError::TooThin { roi: asked, width, height });
    }
    Ok(grown)
}

/// Grows `x0..x1` to at least `side` pixels around its middle, as far as `0..limit` allows.
fn grow(x0: u32, x1: u32, limit: u32, side: u32) -> (u32, u32) {
    let missing = side.saturating_sub(x1 - x0);
    if missing == 0 {
        return (x0, x1);
    }
    let side = side.min(limit);
    let start = x0.saturating_sub(missing / 2).min(limit - side);
    (start, start + side)
}

/// Starts and ends of the tiles along one axis of the region.
fn spans(start: u32, end: u32, tiling: &Tiling) -> Vec<(u32, u32)> {
    let side = tiling.tile_px.min(end - start);
    let stride = tiling.tile_px - tiling.overlap_px;
    let last = end - side;
    let mut out = Vec::new();
    let mut at = start;
    while at < last {
        out.push((at, at + side));
        at = at.saturating_add(stride);
    }
    out.push((last, end));
    out
}

/// How many pixels of `rect` no mask covers.
pub fn uncovered_px(rect: &Rect, masks: &[Rect]) -> u64 {
    let mut pieces = vec![*rect];
    for mask in masks {
        pieces = pieces.iter().flat_map(|piece| subtract(piece, mask)).collect();
    }
    pieces.iter().map(|p| u64::from(p.width()) * u64::from(p.height())).sum()
}

/// What is left of `rect` without `hole`: up to four pieces that do not overlap.
fn subtract(rect: &Rect, hole: &Rect) -> impl Iterator<Item = Rect> {
    let cut = rect.intersect(hole);
    let pieces = if cut.is_empty() {
        [*rect, Rect::new(0, 0, 0, 0), Rect::new(0, 0, 0, 0), Rect::new(0, 0, 0, 0)]
    } else {
        [
            Rect::new(rect.x0, rect.y0, rect.x1, cut.y0),
            Rect::new(rect.x0, cut.y1, rect.x1, rect.y1),
            Rect::new(rect.x0, cut.y0, cut.x0, cut.y1),
            Rect::new(cut.x1, cut.y0, rect.x1, cut.y1),
        ]
    };
    pieces.into_iter().filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::pipeline::PixelBudget;
    use super::*;
    use proptest::prelude::*;

    fn tiling(tile_px: u32, overlap_px: u32, max_tiles: usize) -> Tiling {
        let budget = PixelBudget { min_pixels: 4096, max_pixels: 65536 };
        Tiling { tile_px, overlap_px, max_tiles, budget }
    }

    fn rects(grid: &Grid) -> Vec<[u32; 4]> {
        grid.tiles.iter().map(|t| [t.rect.x0, t.rect.y0, t.rect.x1, t.rect.y1]).collect()
    }

    #[test]
    fn the_last_column_shifts_inward() {
        let grid = Grid::new(1000, 512, &FrameRule::default(), &tiling(512, 64, 64)).expect("fits");
        assert_eq!(rects(&grid), [[0, 0, 512, 512], [448, 0, 960, 512], [488, 0, 1000, 512]]);
        assert_eq!(grid.tiles.iter().map(|t| t.index).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn the_camera_of_the_demo_needs_thirty_tiles() {
        let grid = Grid::new(2448, 2048, &FrameRule::default(), &tiling(512, 64, 64)).expect("fits");
        assert_eq!(grid.tiles.len(), 6 * 5);
        assert_eq!(grid.tiles[29].rect, Rect::new(1936, 1536, 2448, 2048));
    }

    #[test]
    fn a_tile_that_ends_with_the_region_has_no_twin() {
        let grid = Grid::new(960, 512, &FrameRule::default(), &tiling(512, 64, 64)).expect("fits");
        assert_eq!(rects(&grid), [[0, 0, 512, 512], [448, 0, 960, 512]]);
    }

    #[test]
    fn a_small_region_gives_one_smaller_tile() {
        let frame = FrameRule { roi: Some(Rect::new(300, 1500, 500, 1628)), ..FrameRule::default() };
        let grid = Grid::new(2448, 2048, &frame, &tiling(512, 64, 64)).expect("fits");
        assert_eq!(rects(&grid), [[300, 1500, 500, 1628]]);
    }

    #[test]
    fn a_thin_region_grows_inside_the_frame() {
        let frame = FrameRule { roi: Some(Rect::new(0, 1023, 1000, 1024)), ..FrameRule::default() };
        let grid = Grid::new(1000, 1024, &frame, &tiling(512, 64, 64)).expect("fits");
        assert_eq!(grid.roi, Rect::new(0, 1018, 1000, 1024));
        let thin = Grid::new(1000, 2, &FrameRule::default(), &tiling(512, 64, 64));
        assert!(matches!(thin, Err(GridError::TooThin { .. })), "{thin:?}");
    }

    #[test]
    fn masked_tiles_are_left_out_and_the_indices_stay_dense() {
        let mask = vec![Rect::new(0, 0, 300, 512), Rect::new(300, 0, 600, 512)];
        let frame = FrameRule { mask, ..FrameRule::default() };
        let grid = Grid::new(1000, 512, &frame, &tiling(512, 64, 64)).expect("fits");
        assert_eq!(rects(&grid), [[448, 0, 960, 512], [488, 0, 1000, 512]]);
        assert_eq!(grid.tiles[0].index, 0);
    }

    #[test]
    fn what_cannot_be_inspected_is_an_error() {
        let frame = FrameRule { roi: Some(Rect::new(700, 0, 900, 100)), ..FrameRule::default() };
        let outside = Grid::new(640, 480, &frame, &tiling(512, 64, 64));
        assert!(matches!(outside, Err(GridError::Outside { width: 640, .. })), "{outside:?}");
        let words = "region of interest [700, 0, 900, 100] lies outside the frame of 640x480 px";
        assert_eq!(outside.map_err(|error| error.to_string()), Err(words.to_owned()));
        let empty = Grid::new(0, 0, &FrameRule::default(), &tiling(512, 64, 64));
        assert!(matches!(empty, Err(GridError::Outside { .. })), "{empty:?}");
        let masked = FrameRule { mask: vec![Rect::new(0, 0, 640, 480)], ..FrameRule::default() };
        let masked = Grid::new(640, 480, &masked, &tiling(512, 64, 64));
        assert!(matches!(masked, Err(GridError::AllMasked { .. })), "{masked:?}");
        let endless = Grid::new(640, 480, &FrameRule::default(), &tiling(64, 64, 64));
        assert!(matches!(endless, Err(GridError::Overlap { .. })), "{endless:?}");
    }

    #[test]
    fn too_many_tiles_names_both_numbers() {
        let error = Grid::new(2448, 2048, &FrameRule::default(), &tiling(512, 64, 8)).expect_err("thirty");
        assert_eq!(error, GridError::TooManyTiles { needed: 30, max_tiles: 8 });
        assert_eq!(error.to_string(), "the region needs 30 tiles, max_tiles is 8");
    }

    #[test]
    fn uncovered_counts_overlapping_masks_once() {
        let rect = Rect::new(0, 0, 10, 10);
        assert_eq!(uncovered_px(&rect, &[Rect::new(0, 0, 6, 10), Rect::new(4, 0, 8, 10)]), 20);
        assert_eq!(uncovered_px(&rect, &[Rect::new(3, 3, 5, 5)]), 96);
        assert_eq!(uncovered_px(&rect, &[Rect::new(20, 20, 30, 30)]), 100);
    }

    fn rect_in(width: u32, height: u32) -> impl Strategy<Value = Rect> {
        (0..width, 0..height, 1..=width, 1..=height)
            .prop_map(move |(x, y, w, h)| Rect::new(x, y, (x + w).min(width), (y + h).min(height)))
    }

    fn inside(r: &Rect, x: u32, y: u32) -> bool {
        (r.x0..r.x1).contains(&x) && (r.y0..r.y1).contains(&y)
    }

    proptest! {
        #[test]
        fn every_inspected_pixel_lies_in_a_tile(
            (width, height, roi, mask) in (1u32..160, 1u32..160).prop_flat_map(|(w, h)| (
                Just(w), Just(h), proptest::option::of(rect_in(w, h)), proptest::collection::vec(rect_in(w, h), 0..4),
            )),
            (tile_px, overlap_px) in (1u32..64).prop_flat_map(|t| (Just(t), 0..t)),
        ) {
            let frame = FrameRule { roi, mask, ..FrameRule::default() };
            let grid = Grid::new(width, height, &frame, &tiling(tile_px, overlap_px, usize::MAX));
            let whole = Rect::new(0, 0, width, height);
            let asked = roi.unwrap_or(whole).intersect(&whole);
            let masked = |x, y| frame.mask.iter().any(|m| inside(m, x, y));
            let grid = match grid {
                Err(GridError::AllMasked { .. }) => {
                    for y in asked.y0..asked.y1 {
                        for x in asked.x0..asked.x1 {
                            prop_assert!(masked(x, y));
                        }
                    }
                    return Ok(());
                }
                other => other.expect("nothing else can be wrong"),
            };
            prop_assert!(grid.roi.contains(&asked) && whole.contains(&grid.roi));
            for (i, tile) in grid.tiles.iter().enumerate() {
                prop_assert_eq!(tile.index, i);
                prop_assert!(grid.roi.contains(&tile.rect));
                let (w, h) = (tile.rect.width(), tile.rect.height());
                prop_assert!(w >= 1 && h >= 1 && w <= tile_px && h <= tile_px);
                prop_assert!(w.max(h) <= w.min(h) * ASPECT_RATIO_MAX);
                let seen = (tile.rect.y0..tile.rect.y1).any(|y| (tile.rect.x0..tile.rect.x1).any(|x| !masked(x, y)));
                prop_assert!(seen, "tile {:?} is wholly masked", tile.rect);
            }
            for y in asked.y0..asked.y1 {
                for x in asked.x0..asked.x1 {
                    prop_assert!(masked(x, y) || grid.tiles.iter().any(|t| inside(&t.rect, x, y)), "{x},{y}");
                }
            }
        }
    }
}
