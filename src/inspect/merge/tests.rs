use super::*;
use crate::domain::grid::Grid;
use crate::domain::pipeline::{FrameRule, PixelBudget, Tiling};
use proptest::prelude::*;

/// The demo's cut of a 2448x2048 frame: six columns at 0, 448, 896, 1344, 1792 and 1936.
fn grid() -> Grid {
    let budget = PixelBudget { min_pixels: 4096, max_pixels: 65536 };
    let tiling = Tiling { tile_px: 512, overlap_px: 64, max_tiles: 64, budget };
    Grid::new(2448, 2048, &FrameRule::default(), &tiling).expect("fits")
}

fn rule(grid: &Grid) -> MergeRule<'_> {
    MergeRule { tiles: &grid.tiles, masks: &[], mm_per_px: 0.05, ignore_below_confidence: 0.0 }
}

fn detection(tile: usize, label: &str, bbox_2d: [u16; 4], confidence: f32) -> Detection {
    Detection { tile, label: label.to_owned(), severity: Severity::Minor, bbox_2d, confidence }
}

/// What a perfect model says about one defect: its visible part in every tile that sees at least
/// `least_px` of it, in steps of 5 thousandths as the model counts.
fn seen_by_all(grid: &Grid, label: &str, defect: Rect, least_px: u32) -> Vec<Detection> {
    let step = |px: u32, side: u32| u16::try_from((px * 200 + side / 2) / side * 5).expect("0..=1000");
    let mut out = Vec::new();
    for tile in &grid.tiles {
        let part = tile.rect.intersect(&defect);
        if part.width() < least_px || part.height() < least_px.min(defect.height()) {
            continue;
        }
        let (w, h) = (tile.rect.width(), tile.rect.height());
        let (x, y) = (tile.rect.x0, tile.rect.y0);
        // The reader of answers widens empty sides.
        let side = |at: u16, end: u16| if at < end { (at, end) } else { (at.min(995), at.min(995) + 5) };
        let (x0, x1) = side(step(part.x0 - x, w), step(part.x1 - x, w));
        let (y0, y1) = side(step(part.y0 - y, h), step(part.y1 - y, h));
        let bbox = [x0, y0, x1, y1];
        out.push(detection(tile.index, label, bbox, 0.9));
    }
    out
}

fn merged(grid: &Grid, detections: &[Detection]) -> Vec<Merged> {
    merge(detections, &rule(grid)).expect("known tiles")
}

fn assert_near(bbox: &BoxPx, rect: &Rect, px: f32) {
    let want = to_box(rect);
    for (a, b) in [(bbox.x0, want.x0), (bbox.y0, want.y0), (bbox.x1, want.x1), (bbox.y1, want.y1)] {
        assert!((a - b).abs() <= px, "{bbox:?} is not {rect:?}");
    }
}

#[test]
fn a_scratch_cut_into_three_tiles_is_one_finding() {
    let grid = grid();
    let scratch = Rect::new(300, 200, 1200, 212);
    let seen = seen_by_all(&grid, "scratch", scratch, 4);
    assert_eq!(seen.len(), 3, "tiles 0, 1 and 2");
    let found = merged(&grid, &seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_near(&found[0].bbox_px, &scratch, 3.0);
    assert!((found[0].longest_mm - 45.0).abs() < 0.3, "{}", found[0].longest_mm);
    assert!((found[0].area_mm2 - 45.0 * 0.6).abs() < 8.0, "{}", found[0].area_mm2);
}

#[test]
fn an_upright_scratch_through_all_rows_is_one_finding() {
    let grid = grid();
    let scratch = Rect::new(470, 10, 484, 2040);
    let seen = seen_by_all(&grid, "scratch", scratch, 4);
    assert_eq!(seen.len(), 10, "five rows of two columns, because it lies in their overlap");
    let found = merged(&grid, &seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_near(&found[0].bbox_px, &scratch, 3.0);
}

#[test]
fn two_pits_beside_a_border_stay_two() {
    let grid = grid();
    let mut seen = seen_by_all(&grid, "pit", Rect::new(498, 100, 510, 112), 4);
    seen.extend(seen_by_all(&grid, "pit", Rect::new(522, 100, 534, 112), 4));
    assert_eq!(merged(&grid, &seen).len(), 2);
}

/// A diagonal gives one box a tile, each only the part that its tile saw.
#[test]
fn a_diagonal_scratch_is_one_finding() {
    let grid = grid();
    // From (300, 100) to (700, 300): y = 100 + (x - 300) / 2. Tile 0 sees x < 512, tile 1 x >= 448.
    let left = [300 * 1000 / 512, 100 * 1000 / 512, 1000, 206 * 1000 / 512];
    let right = [0, 174 * 1000 / 512, 252 * 1000 / 512, 300 * 1000 / 512];
    let found = merged(
        &grid,
        &[
            detection(0, "scratch", left.map(|v: u32| v as u16), 0.8),
            detection(1, "scratch", right.map(|v: u32| v as u16), 0.7),
        ],
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert_near(&found[0].bbox_px, &Rect::new(300, 100, 700, 300), 2.0);
}

#[test]
fn two_parallel_scratches_stay_two() {
    let grid = grid();
    let mut seen = seen_by_all(&grid, "scratch", Rect::new(300, 200, 1200, 210), 4);
    seen.extend(seen_by_all(&grid, "scratch", Rect::new(300, 230, 1200, 240), 4));
    assert_eq!(merged(&grid, &seen).len(), 2);
}

#[test]
fn two_scratches_in_line_with_a_gap_stay_two() {
    let grid = grid();
    let mut seen = seen_by_all(&grid, "scratch", Rect::new(300, 200, 450, 210), 4);
    seen.extend(seen_by_all(&grid, "scratch", Rect::new(500, 200, 800, 210), 4));
    assert_eq!(merged(&grid, &seen).len(), 2);
}

#[test]
fn a_pit_seen_by_four_tiles_is_one_finding_with_the_best_of_all() {
    let grid = grid();
    let mut seen = seen_by_all(&grid, "pit", Rect::new(470, 470, 490, 490), 4);
    assert_eq!(seen.len(), 4);
    seen[1].severity = Severity::Critical;
    seen[1].confidence = 0.2;
    seen[2].confidence = 0.95;
    let found = merged(&grid, &seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].severity, found[0].confidence), (Severity::Critical, 0.95));
}

#[test]
fn defects_of_one_tile_stay_apart_unless_one_upon_the_other() {
    let grid = grid();
    let apart = [
        detection(0, "pit", [100, 100, 200, 200], 0.9),
        detection(0, "pit", [150, 100, 250, 200], 0.9),
        detection(0, "pit", [110, 110, 130, 130], 0.9),
    ];
    assert_eq!(merged(&grid, &apart).len(), 3);
    let upon =
        [detection(0, "pit", [100, 100, 200, 200], 0.9), detection(0, "pit", [110, 100, 210, 200], 0.9)];
    assert_eq!(merged(&grid, &upon).len(), 1);
}

#[test]
fn one_place_keeps_its_surer_label_and_the_worse_severity() {
    let grid = grid();
    let mut seen = seen_by_all(&grid, "pit", Rect::new(460, 100, 490, 130), 4);
    assert_eq!(seen.len(), 2);
    seen[1].label = "stain".to_owned();
    seen[1].confidence = 0.5;
    seen[1].severity = Severity::Major;
    let found = merged(&grid, &seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].label.as_str(), found[0].severity), ("pit", Severity::Major));

    // One tile that names both means both.
    seen[1].tile = seen[0].tile;
    seen[1].bbox_2d = seen[0].bbox_2d;
    assert_eq!(merged(&grid, &seen).len(), 2);
}

#[test]
fn masked_findings_go_but_not_a_scratch_across_a_mask() {
    let grid = grid();
    let masks = [Rect::new(1200, 0, 1400, 160)];
    let rule = MergeRule { masks: &masks, ..rule(&grid) };
    let inside = seen_by_all(&grid, "stain", Rect::new(1250, 50, 1300, 100), 4);
    assert!(merge(&inside, &rule).expect("known tiles").is_empty());
    let across = seen_by_all(&grid, "scratch", Rect::new(1000, 80, 1600, 92), 4);
    assert_eq!(merge(&across, &rule).expect("known tiles").len(), 1);
    let beside = seen_by_all(&grid, "stain", Rect::new(1380, 50, 1440, 100), 4);
    assert_eq!(merge(&beside, &rule).expect("known tiles").len(), 1);
}

#[test]
fn noise_is_ignored_but_not_what_is_not_a_number() {
    let grid = grid();
    let rule = MergeRule { ignore_below_confidence: 0.3, ..rule(&grid) };
    let seen = [
        detection(0, "pit", [100, 100, 200, 200], 0.29),
        detection(0, "pit", [400, 400, 500, 500], 0.3),
        detection(0, "pit", [600, 600, 700, 700], f32::NAN),
        detection(0, "pit", [605, 605, 700, 700], 0.9),
    ];
    let found = merge(&seen, &rule).expect("known tiles");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].confidence, 0.3);
    assert!(found[1].confidence.is_nan());
}

#[test]
fn an_unknown_tile_is_an_error() {
    let grid = grid();
    let result = merge(&[detection(30, "pit", [0, 0, 10, 10], 0.9)], &rule(&grid));
    assert_eq!(result, Err(MergeError::UnknownTile { tile: 30 }));
}

fn any_detection() -> impl Strategy<Value = Detection> {
    let side = || (0u16..195, 1u16..60).prop_map(|(at, len)| (at * 5, ((at + len) * 5).min(1000)));
    let severity = prop_oneof![Just(Severity::Minor), Just(Severity::Major), Just(Severity::Critical)];
    (0usize..30, 0usize..2, side(), side(), severity, 0.0f32..1.0).prop_map(
        |(tile, label, (x1, x2), (y1, y2), severity, confidence)| {
            let label = ["pit", "scratch"][label].to_owned();
            Detection { tile, label, severity, bbox_2d: [x1, y1, x2, y2], confidence }
        },
    )
}

proptest! {
    #[test]
    fn the_order_of_the_detections_does_not_matter(
        (seen, shuffled) in proptest::collection::vec(any_detection(), 0..40)
            .prop_flat_map(|seen| (Just(seen.clone()), Just(seen).prop_shuffle())),
    ) {
        let grid = grid();
        prop_assert_eq!(merged(&grid, &seen), merged(&grid, &shuffled));
    }

    #[test]
    fn every_detection_lies_in_a_finding(seen in proptest::collection::vec(any_detection(), 1..40)) {
        let grid = grid();
        let one_label: Vec<Detection> =
            seen.into_iter().map(|d| Detection { label: "pit".to_owned(), ..d }).collect();
        let found = merged(&grid, &one_label);
        prop_assert!(!found.is_empty() && found.len() <= one_label.len());
        for d in &one_label {
            let part = to_frame(&d.bbox_2d, &grid.tiles[d.tile].rect);
            prop_assert!(found.iter().any(|f| f.bbox_px.union(&part) == f.bbox_px
                && f.severity >= d.severity && f.confidence >= d.confidence));
        }
        for pair in found.windows(2) {
            let (a, b) = (pair[0].bbox_px, pair[1].bbox_px);
            prop_assert!((a.y0, a.x0) <= (b.y0, b.x0));
        }
    }

    /// Wherever a straight scratch lies, the tiles that see it agree that it is one.
    #[test]
    fn any_straight_scratch_is_one_finding(
        at in 0u32..1900, start in 0u32..1500, length in 40u32..500, width in 6u32..24, upright: bool,
    ) {
        let grid = grid();
        let scratch = if upright {
            Rect::new(at, start, at + width, start + length)
        } else {
            Rect::new(start, at, start + length, at + width)
        };
        let found = merged(&grid, &seen_by_all(&grid, "scratch", scratch, 1));
        prop_assert_eq!(found.len(), 1, "{:?}", found);
        assert_near(&found[0].bbox_px, &scratch, 4.0);
    }
}
