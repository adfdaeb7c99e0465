//! Checks by what confirmed parts have taught: a bank of good ones, or a head that tells defective ones from them.
//!
//! ```text
//! features of a tile --Judge: bank--> a confidence a cell ----neighbours over 0.5 together--> boxes --> Detections
//!                   '--Judge: head--> a confidence a tile --over 0.5: where its cells say----> boxes --> Detections
//!                                                      each cell's confidence --> heat map of the frame
//! ```
//!
//! What was learned was learned from pictures of one kind, by one network: a tile of another form, or features of
//! another network, are an error, which is a review.

pub(crate) mod bank;
pub(crate) mod file;
pub(crate) mod head;
pub(crate) mod head_file;
mod heat;
pub(crate) mod nearest;

pub(crate) use heat::Heat;

use crate::domain::detection::Detection;
use crate::domain::grade::Severity;
use crate::domain::reference::{CellMap, FeatureSource, ReferenceRule, TileFeatures, Unusual};
use vlm::{Cells, Features, ModelInfo, backbone};

/// From this confidence on a cell, or a tile, is part of a finding.
const FOUND: f32 = 0.5;
/// How near cells of a label lie that are one finding: a defect seen by its edges is one defect. Measured on real parts,
/// with the share below: F1 of boxes 0.34 with both, 0.30 at a reach of 1, and 0.21 when every group is a finding.
const REACH: usize = 2;
/// Share of the surest finding's score from which on another one of the tile is one too.
const SURE: f32 = 0.7;
/// Severity of what is found: how grave it is, nobody has taught.
const SEVERITY: Severity = Severity::Major;

/// What was found in a tile.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub detections: Vec<Detection>,
    /// How unusual the tile is, 0..=1.
    pub score: f32,
    /// How sure it is that nothing is there beside what was found, 0..=1.
    pub clean: f32,
    /// Of each cell, 0..=1: `[rows, cols]`.
    pub cells: Vec<f32>,
}

impl Looked {
    /// How sure it is that something is there, in the tile as a whole or in a cell of it, 0..=1.
    pub(crate) fn doubt(&self) -> f32 {
        self.cells.iter().copied().fold(self.score, f32::max)
    }
}

/// The features that a rule asks for, in the engine's words.
pub(crate) const fn features(source: FeatureSource) -> Features {
    match source {
        FeatureSource::Backbone => Features::Backbone,
        FeatureSource::Tower => Features::Tower,
    }
}

/// sha256 (hex) of the weights that features come from; a tower is its vision file.
pub(crate) fn features_sha256(source: FeatureSource, model: &ModelInfo) -> String {
    match source {
        FeatureSource::Backbone => backbone::sha256().to_owned(),
        FeatureSource::Tower => model.mmproj_sha256.clone(),
    }
}

/// Why a rule cannot judge by what this model sees; `None`: it can.
pub(crate) fn unfit(rule: &ReferenceRule, model: &ModelInfo) -> Option<String> {
    let Some(learned) = &rule.learned else {
        return Some(format!("the {} {} was not learned yet", rule.lesson.as_str(), rule.file));
    };
    let (has, wants) = (features_sha256(rule.features, model), learned.judge.features_sha256());
    (has != wants).then(|| {
        format!(
            "the {} {} was learned from other weights of the {}: learn it anew",
            rule.lesson.as_str(),
            rule.file,
            rule.features.as_str()
        )
    })
}

/// Judges the cells of one tile; `index` is the tile's in its grid, `place` its place among those of the question.
///
/// # Errors
/// What was learned does not know such tiles; features or confidences that are no numbers, or that are not there for
/// every cell: nothing is concluded from those.
pub(crate) fn look(
    rule: &ReferenceRule,
    index: usize,
    place: usize,
    cells: &Cells,
    noise_below: f32,
) -> Result<Looked, String> {
    let learned = rule.learned.as_ref().ok_or("what it judges by was not learned yet")?;
    let Cells { rows, cols, dim, values } = cells;
    if values.is_empty() || !values.iter().all(|v| v.is_finite()) {
        return Err("its features are no numbers".into());
    }
    let features = TileFeatures { tile: place, rows: *rows, cols: *cols, dim: *dim, values };
    let seen = learned.judge.judge(features)?;
    check(&seen, rows * cols)?;
    let tile = Judged { rule, index, rows: *rows, cols: *cols, noise_below };
    Ok(match &seen.reasons {
        None => tile.by_cells(seen),
        Some(reasons) => tile.as_a_whole(&seen, reasons),
    })
}

/// Whether a judge says how sure it is of the tile and of each of its cells.
fn check(seen: &Unusual, cells: usize) -> Result<(), String> {
    let parts = || seen.maps.iter().map(|map| &map.cells).chain(&seen.reasons);
    let is_whole =
        parts().all(|part| part.len() == cells) && !(seen.maps.is_empty() && seen.reasons.is_none());
    let is_sound = parts().flatten().chain([&seen.tile]).all(|v| (0.0..=1.0).contains(v));
    if is_whole && is_sound { Ok(()) } else { Err("what it judges by gives no confidences".into()) }
}

/// The tile that is judged.
struct Judged<'a> {
    rule: &'a ReferenceRule,
    index: usize,
    rows: usize,
    cols: usize,
    noise_below: f32,
}

impl Judged<'_> {
    /// Each cell over the limit is part of a finding.
    fn by_cells(&self, seen: Unusual) -> Looked {
        let Unusual { maps, tile, .. } = seen;
        let cells = maps.into_iter().next().map(|map| map.cells).unwrap_or_default();
        let mut detections = vec![];
        // What is dropped as noise leaves its doubt.
        let mut rest: f32 = 0.0;
        for blob in blobs(&cells, self.rows, self.cols, 1) {
            if blob.confidence < self.noise_below {
                rest = rest.max(blob.confidence);
            } else {
                detections.push(self.detection(&blob, None, blob.confidence));
            }
        }
        rest = cells.iter().copied().filter(|c| *c < FOUND).fold(rest, f32::max);
        // The tile as a whole says nothing further where something in it was found.
        let doubt = if detections.is_empty() { rest.max(tile) } else { rest };
        Looked { detections, score: tile, clean: 1.0 - doubt, cells }
    }

    /// The tile decides whether something is there, and how sure that is. Its cells say where and what: those of a
    /// label's map that are over the limit, and where there are none, those that add most to what the tile says. What is
    /// left out leaves its doubt: the findings may be masked, or be none by their grade.
    fn as_a_whole(&self, seen: &Unusual, reasons: &[f32]) -> Looked {
        let Unusual { maps, tile, .. } = seen;
        let heat = |at: usize| {
            let most = maps.iter().map(|map| map.cells[at]).fold(0.0, f32::max);
            most.min(*tile).max(tile * reasons[at])
        };
        let cells = (0..reasons.len()).map(heat).collect();
        let mut looked = Looked { detections: vec![], score: *tile, clean: 1.0 - tile, cells };
        if *tile < FOUND || *tile < self.noise_below {
            return looked;
        }
        let mut found: Vec<(Blob, Option<&str>)> = vec![];
        for CellMap { label, cells } in maps {
            found.extend(
                blobs(cells, self.rows, self.cols, REACH).into_iter().map(|blob| (blob, label.as_deref())),
            );
        }
        found.sort_by(|a, b| b.0.confidence.total_cmp(&a.0.confidence));
        let mut kept: Vec<(Blob, Option<&str>)> = vec![];
        let mut rest: f32 = 0.0;
        for (blob, label) in found {
            // One place has one label: the surest.
            if kept.iter().any(|(other, _)| other.is_mostly_the_same(&blob)) {
                continue;
            }
            if kept.first().is_none_or(|(surest, _)| blob.score() >= SURE * surest.score()) {
                kept.push((blob, label));
            } else {
                rest = rest.max(blob.confidence.min(*tile));
            }
        }
        if kept.is_empty() {
            let mut places = blobs(reasons, self.rows, self.cols, 1);
            places.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
            let whole = Blob { rows: (0, self.rows - 1), cols: (0, self.cols - 1), confidence: *tile };
            let mut places = places.into_iter();
            kept.push((places.next().unwrap_or(whole), None));
            rest = places.next().map_or(rest, |next| next.confidence * tile);
        }
        looked.detections = kept.iter().map(|(blob, label)| self.detection(blob, *label, *tile)).collect();
        looked.clean = 1.0 - rest;
        looked
    }

    fn detection(&self, blob: &Blob, label: Option<&str>, confidence: f32) -> Detection {
        let thousandths = |cell: usize, of: usize| (cell * 1000 / of) as u16;
        Detection {
            tile: self.index,
            label: label.or(self.rule.labels.first().map(String::as_str)).unwrap_or_default().to_owned(),
            severity: SEVERITY,
            bbox_2d: [
                thousandths(blob.cols.0, self.cols),
                thousandths(blob.rows.0, self.rows),
                thousandths(blob.cols.1 + 1, self.cols),
                thousandths(blob.rows.1 + 1, self.rows),
            ],
            confidence,
        }
    }
}

/// Neighbouring cells that are unusual.
struct Blob {
    /// Rows and columns, first and last.
    rows: (usize, usize),
    cols: (usize, usize),
    confidence: f32,
}

impl Blob {
    /// The logarithm of the odds of its surest cell.
    fn score(&self) -> f32 {
        (self.confidence / (1.0 - self.confidence).max(f32::EPSILON)).ln()
    }

    /// The overlap is more than half of the smaller one.
    fn is_mostly_the_same(&self, other: &Self) -> bool {
        let shared = |a: (usize, usize), b: (usize, usize)| (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
        let area = |blob: &Self| (blob.rows.1 + 1 - blob.rows.0) * (blob.cols.1 + 1 - blob.cols.0);
        2 * shared(self.rows, other.rows) * shared(self.cols, other.cols) > area(self).min(area(other))
    }
}

/// The groups of cells over the limit that are so near to each other, in reading order; at a reach of 1 they touch by
/// sides or corners.
fn blobs(cells: &[f32], rows: usize, cols: usize, reach: usize) -> Vec<Blob> {
    let mut open: Vec<bool> = cells.iter().map(|c| *c >= FOUND).collect();
    let mut found = vec![];
    for start in 0..cells.len() {
        if !open[start] {
            continue;
        }
        open[start] = false;
        let mut blob = Blob { rows: (usize::MAX, 0), cols: (usize::MAX, 0), confidence: 0.0 };
        let mut stack = vec![start];
        while let Some(at) = stack.pop() {
            let (y, x) = (at / cols, at % cols);
            blob.rows = (blob.rows.0.min(y), blob.rows.1.max(y));
            blob.cols = (blob.cols.0.min(x), blob.cols.1.max(x));
            blob.confidence = blob.confidence.max(cells[at]);
            let near = |at: usize, n: usize| at.saturating_sub(reach)..(at + reach + 1).min(n);
            for next in near(y, rows).flat_map(|y| near(x, cols).map(move |x| y * cols + x)) {
                if std::mem::take(&mut open[next]) {
                    stack.push(next);
                }
            }
        }
        found.push(blob);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reference::{BankOrigin, Judge, Learned, Lesson, Place};
    use std::sync::Arc;

    /// Says what it was told to say, of every tile.
    #[derive(Debug)]
    struct Says(Unusual);

    impl Judge for Says {
        fn origin(&self) -> BankOrigin {
            BankOrigin::default()
        }

        fn features(&self) -> FeatureSource {
            FeatureSource::Backbone
        }

        fn features_sha256(&self) -> &'static str {
            "weights"
        }

        fn judge(&self, _: TileFeatures<'_>) -> Result<Unusual, String> {
            Ok(self.0.clone())
        }
    }

    fn scripted(lesson: Lesson, says: Unusual) -> ReferenceRule {
        ReferenceRule {
            features: FeatureSource::Backbone,
            lesson,
            labels: vec!["anomaly".into()],
            file: format!("a.{}", lesson.as_str()),
            learned: Some(Learned { sha256: "file".into(), judge: Arc::new(Says(says)) }),
        }
    }

    fn rule(cells: &[f32], tile: f32) -> ReferenceRule {
        let maps = vec![CellMap { label: None, cells: cells.to_vec() }];
        scripted(Lesson::Bank { place: Place::Free }, Unusual { maps, tile, reasons: None })
    }

    fn cells() -> Cells {
        Cells { rows: 4, cols: 4, dim: 1, values: vec![0.0; 16] }
    }

    #[test]
    fn neighbours_over_the_limit_are_one_finding() {
        let mut map = vec![0.1; 16];
        // A corner that touches counts as a neighbour; what stands apart is a finding of its own.
        (map[0], map[5], map[15]) = (0.9, 0.6, 0.7);
        let looked = look(&rule(&map, 0.8), 3, 0, &cells(), 0.0).unwrap();
        let boxes: Vec<_> = looked.detections.iter().map(|d| (d.tile, d.bbox_2d, d.confidence)).collect();
        assert_eq!(boxes, [(3, [0, 0, 500, 500], 0.9), (3, [750, 750, 1000, 1000], 0.7)]);
        assert!((looked.clean - 0.9).abs() < 1e-6 && looked.score == 0.8);
    }

    #[test]
    fn what_is_dropped_as_noise_leaves_its_doubt() {
        let mut map = vec![0.1; 16];
        map[3] = 0.6;
        let looked = look(&rule(&map, 0.3), 0, 0, &cells(), 0.7).unwrap();
        assert!(looked.detections.is_empty() && (looked.clean - 0.4).abs() < 1e-6, "{looked:?}");
        // A tile that is unusual as a whole is not surely clean, though no cell is over the limit.
        let looked = look(&rule(&[0.4; 16], 0.55), 0, 0, &cells(), 0.0).unwrap();
        assert!(looked.detections.is_empty() && (looked.clean - 0.45).abs() < 1e-6, "{looked:?}");
    }

    #[test]
    fn without_a_bank_or_with_other_weights_nothing_is_judged() {
        let model = ModelInfo::default();
        let unlearned = ReferenceRule { learned: None, ..rule(&[], 0.0) };
        assert!(look(&unlearned, 0, 0, &cells(), 0.0).is_err());
        assert!(unfit(&unlearned, &model).unwrap().contains("was not learned yet"));
        assert!(unfit(&rule(&[], 0.0), &model).unwrap().contains("from other weights of the backbone"));
    }

    #[test]
    fn what_is_no_number_or_not_there_is_an_error_and_no_clean_tile() {
        let sound = [0.1; 16];
        assert!(look(&rule(&sound, 0.1), 0, 0, &cells(), 0.0).is_ok());
        for bad in [f32::NAN, -0.1, 1.1, f32::INFINITY] {
            let mut map = sound;
            map[7] = bad;
            assert!(look(&rule(&map, 0.1), 0, 0, &cells(), 0.0).is_err(), "a cell of {bad}");
            assert!(look(&rule(&sound, bad), 0, 0, &cells(), 0.0).is_err(), "a tile of {bad}");
        }
        assert!(look(&rule(&sound[..15], 0.1), 0, 0, &cells(), 0.0).is_err(), "a cell is missing");
        let nothing = Unusual { maps: vec![], tile: 0.1, reasons: None };
        let rule_of = scripted(Lesson::Bank { place: Place::Free }, nothing);
        assert!(look(&rule_of, 0, 0, &cells(), 0.0).is_err(), "no cells at all");
        let mut broken = cells();
        broken.values[3] = f32::NAN;
        assert!(look(&rule(&sound, 0.1), 0, 0, &broken, 0.0).is_err(), "features that are no numbers");
        let empty = Cells { rows: 0, cols: 4, dim: 1, values: vec![] };
        assert!(look(&rule(&[], 0.1), 0, 0, &empty, 0.0).is_err(), "a tile without cells");
    }

    /// What is made of four by five cells that a head says this of.
    fn looked(tile: f32, maps: &[(&str, [f32; 20])], reasons: [f32; 20], noise_below: f32) -> Looked {
        let map = |(label, cells): &(&str, [f32; 20])| CellMap {
            label: Some((*label).to_owned()),
            cells: cells.to_vec(),
        };
        let says = Unusual { maps: maps.iter().map(map).collect(), tile, reasons: Some(reasons.to_vec()) };
        let rule = scripted(Lesson::Head, says);
        look(&rule, 3, 0, &Cells { rows: 4, cols: 5, dim: 1, values: vec![0.0; 20] }, noise_below).unwrap()
    }

    fn with(cells: &[(usize, f32)]) -> [f32; 20] {
        let mut map = [0.0; 20];
        cells.iter().for_each(|(at, v)| map[*at] = *v);
        map
    }

    #[test]
    fn a_tile_that_is_not_over_the_limit_has_no_finding_whatever_its_cells_say() {
        let pit = ("pit", with(&[(6, 0.9)]));
        let looked = looked(0.375, &[pit], with(&[(6, 1.0)]), 0.0);
        assert!(looked.detections.is_empty());
        assert_eq!((looked.score, looked.clean, looked.cells[6]), (0.375, 0.625, 0.375));
    }

    #[test]
    fn the_cells_say_where_and_what_and_the_tile_how_surely() {
        // One pit lies where the crack is, and one is far less sure than the crack.
        let pit = ("pit", with(&[(6, 0.7), (19, 0.88), (4, 0.55)]));
        let crack = ("crack", with(&[(6, 0.9), (7, 0.8), (0, 0.2)]));
        let looked = looked(0.8, &[pit, crack], with(&[(0, 1.0)]), 0.0);
        let found: Vec<_> = looked.detections.iter().map(|d| (d.label.as_str(), d.bbox_2d)).collect();
        assert_eq!(found, [("crack", [200, 250, 600, 500]), ("pit", [800, 750, 1000, 1000])]);
        assert!(looked.detections.iter().all(|d| d.confidence == 0.8 && d.tile == 3));
        assert_eq!((looked.cells[6], looked.cells[0]), (0.8, 0.8));
        assert!(
            (looked.clean - 0.45).abs() < 1e-6,
            "the pit that is no finding leaves its doubt: {looked:?}"
        );
    }

    #[test]
    fn without_a_label_it_is_where_the_reasons_are_or_the_whole_tile() {
        let somewhere = looked(0.9, &[], with(&[(0, 0.6), (12, 1.0), (13, 0.5), (14, 0.4)]), 0.0);
        let [one] = somewhere.detections.as_slice() else { panic!("{somewhere:?}") };
        assert_eq!((one.label.as_str(), one.bbox_2d), ("anomaly", [400, 500, 800, 750]));
        assert!((somewhere.clean - 0.46).abs() < 1e-6, "so does the other place: {somewhere:?}");
        let nowhere = looked(0.9, &[], [0.0; 20], 0.0);
        assert_eq!(nowhere.detections[0].bbox_2d, [0, 0, 1000, 1000]);
        let noise = looked(0.625, &[], [0.0; 20], 0.7);
        assert!(noise.detections.is_empty() && noise.clean == 0.375, "what is dropped leaves its doubt");
    }
}
