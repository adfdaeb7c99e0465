//! Merging: what the tiles saw becomes the defects of the part.
//!
//! ```text
//! Detections --scale--> boxes in frame pixels --join same label--> groups --union box-->
//!     --one place, one label--> --drop the masked--> measured in mm -----> Merged
//! ```
//!
//! Neighbouring tiles overlap, so one defect is often reported more than once, in three ways:
//!
//! ```text
//! seen twice             seen whole and in part       cut by the border
//! +------+---+------+    +------+---+------+          +------+---+------+
//! |      |[=]|      |    |      |[==]      |          |    [==========] |
//! |    A |   | B    |    |    A | | | B    |          |    A |   | B    |
//! +------+---+------+    +------+---+------+          +------+---+------+
//! IoU over               most of the smaller          A's box ends at A's border, B's goes
//! `IOU_SAME`             box is in the larger         on from there, at the same height
//! ```
//!
//! Joining is transitive (a scratch through five tiles is one finding) and does not depend on the
//! order of the detections. Two boxes of one tile are two defects, because the model saw both at
//! once and named both, unless they lie nearly upon each other ([`IOU_SAME_TILE`]).

use crate::domain::detection::Detection;
use crate::domain::finding::Finding;
use crate::domain::grade::{Grade, Severity};
use crate::domain::grid::{Tile, uncovered_px};
use crate::domain::rect::{BoxPx, Rect};

/// Boxes of different tiles and one label that overlap more are the same defect.
const IOU_SAME: f32 = 0.2;
/// So are boxes of which the larger holds more than this share of the smaller.
const CONTAINED_SAME: f32 = 0.6;
/// Boxes of one tile and one label are the same defect only above this.
const IOU_SAME_TILE: f32 = 0.5;
/// Boxes of different labels and different tiles are the same defect only above this.
const IOU_OTHER_LABEL: f32 = 0.6;
/// A box this near to its tile's border is cut by it, as a share of the tile's side: 10 px of 512.
/// The model counts in steps of 0.005 and is seldom more than a few steps off.
const EDGE_SHARE: f32 = 0.02;
/// Along the cut, two pieces of one defect may leave this gap, as a share of the tile's side.
const GAP_SHARE: f32 = 0.03;
/// But never more than this share of the longer piece: two pits side by side are two.
const GAP_OF_PIECE: f32 = 0.5;
/// Across the cut they may miss each other by this: less, because parallel scratches are common.
const CROSS_SHARE: f32 = 0.01;
/// A finding is masked when its centre and at least this share of its box lie under masks. The centre
/// alone is not enough: a long scratch that crosses a small mask must not vanish.
const MASKED_SHARE: f64 = 0.5;

/// What merging needs to know besides the detections.
#[derive(Clone, Copy, Debug)]
pub(super) struct MergeRule<'a> {
    /// The tiles that were inspected; [`Detection::tile`] is a [`Tile::index`] of them.
    pub tiles: &'a [Tile],
    pub masks: &'a [Rect],
    /// Size of a frame pixel on the part, in millimetres.
    pub mm_per_px: f64,
    /// Detections less sure than this are noise. One that is not a number is kept, so that the
    /// verdict can see it.
    pub ignore_below_confidence: f32,
}

/// One defect of the part, measured but not yet graded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Merged {
    pub label: String,
    /// The worst severity among its detections.
    pub severity: Severity,
    pub bbox_px: BoxPx,
    /// Longer side of the box in millimetres.
    pub longest_mm: f64,
    /// Area of the box in square millimetres.
    pub area_mm2: f64,
    /// The highest confidence among its detections, 0..=1; not a number if one of them is not.
    pub confidence: f32,
}

impl Merged {
    /// The finding of the record, with its grade.
    pub(super) fn graded(self, grade: Grade) -> Finding {
        let Self { label, severity, bbox_px, longest_mm, area_mm2, confidence } = self;
        Finding { label, severity, bbox_px, longest_mm, area_mm2, confidence, grade }
    }
}

/// Why detections cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    #[error("a detection names tile {tile}, which was not inspected")]
    UnknownTile { tile: usize },
}

/// Merges the detections of all tiles. The result is ordered from top to bottom, then left to right,
/// and is the same for every order of `detections`.
///
/// # Errors
/// [`MergeError`] when a detection names a tile that is not in `rule.tiles`: dropping it could lose a defect.
pub(super) fn merge(detections: &[Detection], rule: &MergeRule<'_>) -> Result<Vec<Merged>, MergeError> {
    let mut seen = Vec::new();
    for detection in detections {
        let unsure = detection.confidence < rule.ignore_below_confidence;
        if !unsure {
            seen.push(Seen::new(detection, rule.tiles)?);
        }
    }
    let mut groups = one_label_each(groups_of(&seen));
    groups.retain(|group| !masked(&group.bbox, rule.masks));
    groups.sort_by(|a, b| place(a).total_cmp(&place(b)).then_with(|| a.label.cmp(b.label)));
    Ok(groups.iter().map(|group| group.measured(rule.mm_per_px)).collect())
}

/// One detection in frame coordinates.
struct Seen<'a> {
    detection: &'a Detection,
    tile: Rect,
    bbox: BoxPx,
}

impl<'a> Seen<'a> {
    fn new(detection: &'a Detection, tiles: &[Tile]) -> Result<Self, MergeError> {
        let tile = tiles
            .iter()
            .find(|tile| tile.index == detection.tile)
            .ok_or(MergeError::UnknownTile { tile: detection.tile })?
            .rect;
        Ok(Self { detection, tile, bbox: to_frame(&detection.bbox_2d, &tile) })
    }

    /// True when both are the same defect.
    fn same_as(&self, other: &Self) -> bool {
        if self.detection.label != other.detection.label {
            return false;
        }
        let iou = self.bbox.iou(&other.bbox);
        if self.detection.tile == other.detection.tile {
            return iou > IOU_SAME_TILE;
        }
        let smaller = self.bbox.area().min(other.bbox.area());
        iou > IOU_SAME
            || self.bbox.overlap(&other.bbox) > CONTAINED_SAME * smaller
            || self.goes_on_in(other)
            || other.goes_on_in(self)
    }

    /// True when a border between the tiles cuts one defect into these two boxes, `other` being the
    /// piece to the right or below.
    fn goes_on_in(&self, other: &Self) -> bool {
        let across = |b: &BoxPx| BoxPx::new(b.y0, b.x0, b.y1, b.x1);
        let (a, b) = (to_box(&self.tile), to_box(&other.tile));
        goes_on(&self.bbox, &a, &other.bbox, &b)
            || goes_on(&across(&self.bbox), &across(&a), &across(&other.bbox), &across(&b))
    }
}

/// The cut along x: box `p` of tile `a` goes on in box `q` of tile `b`, to its right.
fn goes_on(p: &BoxPx, a: &BoxPx, q: &BoxPx, b: &BoxPx) -> bool {
    let side = a.width().min(b.width());
    let edge = side * EDGE_SHARE;
    let gap = (side * GAP_SHARE).min(p.width().max(q.width()) * GAP_OF_PIECE);
    let cross = a.height().min(b.height()) * CROSS_SHARE;
    let neighbours = a.x0 < b.x0 && a.x1 < b.x1 && b.x0 <= a.x1 && a.y0 <= b.y1 && b.y0 <= a.y1;
    // A piece that ends at its tile's border must go on beyond it, where only the other tile sees it.
    let cut = (p.x1 >= a.x1 - edge && q.x1 > a.x1) || (q.x0 <= b.x0 + edge && p.x0 < b.x0);
    let meet = q.x0 <= p.x1 + gap;
    let level = q.y0 <= p.y1 + cross && p.y0 <= q.y1 + cross;
    neighbours && cut && meet && level
}

/// A box of thousandths of a tile, in pixels of the frame.
fn to_frame(bbox_2d: &[u16; 4], tile: &Rect) -> BoxPx {
    let [x1, y1, x2, y2] = bbox_2d.map(|v| f32::from(v) / 1000.0);
    let t = to_box(tile);
    BoxPx::new(t.x0 + x1 * t.width(), t.y0 + y1 * t.height(), t.x0 + x2 * t.width(), t.y0 + y2 * t.height())
}

/// Whole pixels as fractional ones; exact, because frames are far smaller than 2^24 pixels a side.
fn to_box(rect: &Rect) -> BoxPx {
    BoxPx::new(rect.x0 as f32, rect.y0 as f32, rect.x1 as f32, rect.y1 as f32)
}

/// Detections joined into one defect.
#[derive(Clone)]
struct Group<'a> {
    label: &'a str,
    severity: Severity,
    bbox: BoxPx,
    confidence: f32,
    /// Indices of the tiles that saw it, ascending.
    tiles: Vec<usize>,
}

impl Group<'_> {
    fn measured(&self, mm_per_px: f64) -> Merged {
        let (w, h) = (f64::from(self.bbox.width()) * mm_per_px, f64::from(self.bbox.height()) * mm_per_px);
        Merged {
            label: self.label.to_owned(),
            severity: self.severity,
            bbox_px: self.bbox,
            longest_mm: w.max(h),
            area_mm2: w * h,
            confidence: self.confidence,
        }
    }
}

/// The connected groups of `same_as`.
fn groups_of<'a>(seen: &[Seen<'a>]) -> Vec<Group<'a>> {
    let mut parent: Vec<usize> = (0..seen.len()).collect();
    for i in 0..seen.len() {
        for j in 0..i {
            if seen[i].same_as(&seen[j]) {
                let (a, b) = (root(&parent, i), root(&parent, j));
                parent[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: Vec<Option<Group<'a>>> = vec![None; seen.len()];
    for (i, one) in seen.iter().enumerate() {
        let slot = &mut groups[root(&parent, i)];
        *slot = Some(match slot.take() {
            None => Group {
                label: &one.detection.label,
                severity: one.detection.severity,
                bbox: one.bbox,
                confidence: one.detection.confidence,
                tiles: vec![one.detection.tile],
            },
            Some(group) => joined(group, one),
        });
    }
    groups.into_iter().flatten().collect()
}

/// The group that `i` belongs to: the end of its chain of parents, which always point downward.
fn root(parent: &[usize], mut i: usize) -> usize {
    while parent[i] != i {
        i = parent[i];
    }
    i
}

fn joined<'a>(mut group: Group<'a>, one: &Seen<'a>) -> Group<'a> {
    group.severity = group.severity.max(one.detection.severity);
    group.bbox = group.bbox.union(&one.bbox);
    group.confidence = surer(group.confidence, one.detection.confidence);
    if let Err(at) = group.tiles.binary_search(&one.detection.tile) {
        group.tiles.insert(at, one.detection.tile);
    }
    group
}

/// The higher confidence. `f32::max` would hide a NaN, which must reach the verdict.
fn surer(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

/// Keeps one label where different tiles named one place differently.
///
/// One defect in the overlap of two tiles that is a `pit` in one and a `stain` in the other would
/// otherwise count twice. The surer label stays and takes the worse severity of both. Only boxes that
/// nearly cover each other count as one place, and only when no tile saw both: a model that names
/// two labels at one place of one picture means two things, for example a crack in a dent.
fn one_label_each(mut groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    groups.sort_by(|a, b| {
        b.confidence
            .total_cmp(&a.confidence)
            .then_with(|| place(a).total_cmp(&place(b)))
            .then_with(|| a.label.cmp(b.label))
    });
    let mut kept: Vec<Group<'_>> = Vec::new();
    for group in groups {
        let twin = kept.iter_mut().find(|other| {
            other.label != group.label
                && other.bbox.iou(&group.bbox) > IOU_OTHER_LABEL
                && !other.tiles.iter().any(|tile| group.tiles.contains(tile))
                && !other.confidence.is_nan()
                && !group.confidence.is_nan()
        });
        match twin {
            Some(twin) => twin.severity = twin.severity.max(group.severity),
            None => kept.push(group),
        }
    }
    kept
}

/// True when masks hide the finding.
fn masked(bbox: &BoxPx, masks: &[Rect]) -> bool {
    let (x, y) = (f32::midpoint(bbox.x0, bbox.x1), f32::midpoint(bbox.y0, bbox.y1));
    let centre = masks.iter().map(to_box).any(|m| m.x0 <= x && x < m.x1 && m.y0 <= y && y < m.y1);
    if !centre {
        return false;
    }
    // Boxes lie inside their tiles, so the corners are whole numbers of a frame.
    let pixels = Rect::new(
        bbox.x0.floor() as u32,
        bbox.y0.floor() as u32,
        bbox.x1.ceil() as u32,
        bbox.y1.ceil() as u32,
    );
    let all = f64::from(pixels.width()) * f64::from(pixels.height());
    all - uncovered_px(&pixels, masks) as f64 >= MASKED_SHARE * all
}

/// Where a group lies, in reading order.
fn place(group: &Group<'_>) -> Place {
    let BoxPx { x0, y0, x1, y1 } = group.bbox;
    Place([y0, x0, y1, x1])
}

struct Place([f32; 4]);

impl Place {
    fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        let pairs = self.0.iter().zip(&other.0);
        pairs.map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    }
}

#[cfg(test)]
mod tests;
