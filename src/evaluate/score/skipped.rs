//! Tiles that were not asked, and the defects that this may have lost.
//!
//! ```text
//! true defect of a known place --overlaps a tile with a skipped question, and no finding shows it--> lost
//! true defect of no known place --something was skipped, and the part has no finding at all--------> lost
//! ```
//!
//! Lost is an upper bound: whether the model would have found the defect, had it been asked, nobody knows. A defect
//! that lies on an asked tile, too, counts, and so does one whose label was never asked.

use crate::domain::finding::Finding;
use crate::domain::inspection::Inspection;
use crate::domain::rect::{BoxPx, Rect};
use crate::evaluate::truth::Truth;
use serde::Serialize;

/// A finding shows a defect when it shares at least this much of the smaller of both boxes.
const SHOWN_MIN: f32 = 0.5;
/// Defects that are listed; all are counted.
const LISTED_MAX: usize = 200;

/// Figures of what was skipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SkippedMetrics {
    /// Tiles of which a question was not asked.
    pub tiles: usize,
    /// Tiles of all images, regions of their own included.
    pub planned: usize,
    /// Images with such tiles.
    pub images: usize,
    /// Defects that may be lost by it.
    pub lost: usize,
    /// The first of them.
    pub lost_defects: Vec<LostDefect>,
}

/// A defect on a tile that was not asked, which nothing has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LostDefect {
    /// The image's file, or the id of the part's inspection.
    pub file: String,
    /// `None`: the part is known to be defective, and not how.
    pub label: Option<String>,
    /// x1, y1, x2, y2 in pixels; `None`: nobody knows where it is.
    pub bbox: Option<[f32; 4]>,
    /// Indexes of the skipped tiles that it lies on; of one without a place, all that were skipped.
    pub tiles: Vec<usize>,
}

/// Counts what was skipped, and what that may have lost.
pub(crate) fn score<'a>(pairs: impl IntoIterator<Item = (&'a Truth, &'a Inspection)>) -> SkippedMetrics {
    let mut all = SkippedMetrics::default();
    for (truth, inspection) in pairs {
        let tiles = inspection.tiles_skipped();
        all.tiles += tiles;
        all.planned += inspection.tiles.planned;
        all.images += usize::from(tiles > 0);
        let lost = lost(truth, inspection);
        all.lost += lost.len();
        all.lost_defects.extend(lost.into_iter().take(LISTED_MAX.saturating_sub(all.lost_defects.len())));
    }
    all
}

/// The defects of one image that may be lost.
fn lost(truth: &Truth, inspection: &Inspection) -> Vec<LostDefect> {
    let of = |label: Option<&str>, bbox: Option<BoxPx>| {
        let tiles = skipped(inspection, bbox.as_ref());
        let is_shown = match &bbox {
            Some(bbox) => inspection.findings.iter().any(|finding| shows(finding, bbox)),
            None => !inspection.findings.is_empty(),
        };
        (!is_shown && !tiles.is_empty()).then(|| LostDefect {
            file: truth.file.clone(),
            label: label.map(str::to_owned),
            bbox: bbox.map(|b| [b.x0, b.y0, b.x1, b.y1]),
            tiles,
        })
    };
    if truth.is_defective() && truth.defects.is_empty() {
        return of(None, None).into_iter().collect();
    }
    truth.defects.iter().filter_map(|defect| of(Some(defect.label.as_str()), defect.bbox_px)).collect()
}

/// The skipped tiles that a box lies on; all of them where the place is not known.
fn skipped(inspection: &Inspection, bbox: Option<&BoxPx>) -> Vec<usize> {
    let on = |rect: Rect| {
        bbox.is_none_or(|bbox| {
            bbox.overlap(&BoxPx::new(rect.x0 as f32, rect.y0 as f32, rect.x1 as f32, rect.y1 as f32)) > 0.0
        })
    };
    let mut tiles: Vec<usize> =
        inspection.skipped.iter().filter(|skipped| on(skipped.rect)).map(|skipped| skipped.tile).collect();
    tiles.sort_unstable();
    tiles.dedup();
    tiles
}

fn shows(finding: &Finding, bbox: &BoxPx) -> bool {
    let smaller = finding.bbox_px.area().min(bbox.area());
    smaller > 0.0 && finding.bbox_px.overlap(bbox) >= SHOWN_MIN * smaller
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::inspection::SkippedTile;
    use crate::evaluate::score::tests::{finding, inspection};
    use crate::evaluate::truth::read;
    use std::path::Path;

    /// Two tiles of 32 pixels side by side, of which the left one was skipped.
    fn left_skipped() -> Inspection {
        let skipped = SkippedTile {
            prompt: "surface".into(),
            tile: 0,
            rect: Rect::new(0, 0, 32, 48),
            by: "like-good-parts".into(),
            doubt: 0.05,
            below: 0.2,
        };
        // Two questions of one tile are one tile.
        let other = SkippedTile { prompt: "other".into(), ..skipped.clone() };
        Inspection { skipped: vec![skipped, other], ..inspection() }
    }

    fn truth(rest: &str) -> Truth {
        let line = format!("{{\"file\":\"a.png\",\"width\":64,\"height\":48,{rest}}}\n");
        read(Path::new("set/truth.jsonl"), line.as_bytes()).expect("reads").swap_remove(0)
    }

    /// How many are lost of what is true, with these findings.
    fn lost_of(rest: &str, findings: Vec<Finding>) -> usize {
        score([(&truth(rest), &Inspection { findings, ..left_skipped() })]).lost
    }

    #[test]
    fn a_defect_on_a_skipped_tile_that_nothing_shows_is_lost() {
        let left = r#""defects":[{"label":"pit","bbox":[10,10,20,20]}]"#;
        let right = r#""defects":[{"label":"pit","bbox":[40,10,50,20]}]"#;
        let both = r#""defects":[{"label":"pit","bbox":[30,10,40,20]}]"#;
        assert_eq!((lost_of(left, vec![]), lost_of(right, vec![]), lost_of(both, vec![])), (1, 0, 1));
        let near = |label: &str| vec![finding(label, [8.0, 8.0, 22.0, 22.0], 0.9)];
        assert_eq!((lost_of(left, near("pit")), lost_of(left, near("anomaly"))), (0, 0), "whoever found it");
        assert_eq!(lost_of(left, vec![finding("pit", [40.0, 10.0, 50.0, 20.0], 0.9)]), 1, "elsewhere");
        let all = score([(&truth(left), &left_skipped()), (&truth(right), &inspection())]);
        assert_eq!((all.tiles, all.planned, all.images, all.lost), (1, 8, 1, 1));
        let one = LostDefect {
            file: "a.png".into(),
            label: Some("pit".into()),
            bbox: Some([10.0, 10.0, 20.0, 20.0]),
            tiles: vec![0],
        };
        assert_eq!(all.lost_defects, [one]);
    }

    #[test]
    fn a_defect_of_no_known_place_is_lost_where_nothing_was_found() {
        let unplaced = r#""defects":[{"label":"pit","bbox":null}]"#;
        let unknown = r#""good":false,"defects":[]"#;
        let elsewhere = || vec![finding("stain", [40.0, 10.0, 50.0, 20.0], 0.9)];
        assert_eq!((lost_of(unplaced, vec![]), lost_of(unplaced, elsewhere())), (1, 0));
        assert_eq!((lost_of(unknown, vec![]), lost_of(unknown, elsewhere())), (1, 0));
        assert_eq!(lost_of(r#""good":true,"defects":[]"#, vec![]), 0);
        assert_eq!(score([(&truth(unplaced), &inspection())]).lost, 0, "all tiles were asked");
    }

    #[test]
    fn what_is_listed_is_bounded_and_what_is_counted_is_not() {
        let one = r#"{"label":"pit","bbox":[10,10,20,20]}"#;
        let many = format!(r#""defects":[{}]"#, vec![one; LISTED_MAX + 7].join(","));
        let all = score([(&truth(&many), &left_skipped())]);
        assert_eq!((all.lost, all.lost_defects.len()), (LISTED_MAX + 7, LISTED_MAX));
    }
}
