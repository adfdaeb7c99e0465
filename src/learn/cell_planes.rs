//! The planes that tell a label's cells from those of good parts, where people drew boxes.
//!
//! ```text
//! cells in the boxes of a label --'
//!                                 +--> a plane of each fold --> the largest cell of each part that was kept back
//! some cells of good parts -------'                                    '--> how sure a score is
//! ```

use super::example::{Example, TileCells};
use super::folds::Folds;
use super::logistic::{Plane, Rows, fit};
use super::references::auroc;
use crate::domain::rect::BoxPx;
use crate::domain::reference::TileFeatures;
use crate::inspect::reference::bank::smoothed;
use crate::inspect::reference::head_file::LABELS_MAX;
use crate::recipe::check_label;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Parts with boxes of a label from which on it may have a plane of its own; what it is worth, the kept-back parts say.
/// Measured on half of the real parts, 5 to 10 of a label: 0.87 and 0.91 over parts, and 0.82 twice when 10 are needed.
pub(crate) const BOXED_MIN: usize = 5;
/// Area under the ROC curve below which a label's plane is left out: it would point anywhere.
pub(super) const AUROC_MIN: f64 = 0.7;
/// Cells of good parts that a plane is learned from: more change little and take longer.
const GOOD_CELLS_MAX: u64 = 8_000;
/// Cells of one box: a large one does not count for more than that.
const BOX_CELLS_MAX: usize = 20;
/// Measured on real parts: from 0.01 to 1 the figures differ by 0.02, and this one is the best of most labels.
const STRENGTH: f64 = 0.1;
/// Of the one number that is brought to a probability.
pub(super) const SCALE_STRENGTH: f64 = 0.01;

/// Cells, smoothed, with the part that each is of.
#[derive(Clone, Debug, Default)]
struct Gathered {
    rows: Rows,
    owners: Vec<usize>,
}

impl Gathered {
    fn push(&mut self, owner: usize, cell: &[f32]) {
        self.rows.dim = cell.len();
        self.rows.values.extend(cell.iter().copied().map(f64::from));
        self.owners.push(owner);
    }

    fn cells(&self) -> impl Iterator<Item = (usize, &[f64])> {
        self.owners.iter().copied().zip(self.rows.iter())
    }
}

/// What was learned of the cells of all labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    pub labels: Vec<Label>,
    /// `[dim]`: of good cells.
    pub mean: Vec<f64>,
    /// Of each part and each of its tiles the largest score of the labels that are told apart, by planes that were
    /// learned without that part. Empty where there is no such label.
    pub largest: Vec<Vec<f64>>,
}

/// A label and its plane.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub label: String,
    /// Parts with boxes.
    pub parts: usize,
    /// Of parts that were kept back.
    pub auroc: f64,
    /// On cells, smoothed: the logarithm of the odds. `None`: the label cannot be told apart.
    pub plane: Option<Plane>,
}

/// The labels with the number of parts that have boxes of them.
pub(super) fn boxed(examples: &[Example]) -> Vec<(String, usize)> {
    let labels_of = |e: &Example| {
        let boxed = e.confirmed.defects.iter().filter(|(_, bbox)| bbox.is_some());
        boxed.map(|(label, _)| label.clone()).collect::<BTreeSet<_>>()
    };
    let mut count = std::collections::BTreeMap::new();
    let all = examples.iter().filter(|e| !e.is_good()).flat_map(labels_of);
    all.for_each(|label| *count.entry(label).or_insert(0) += 1);
    count.into_iter().collect()
}

/// Learns the planes of all labels with boxes enough, those with the most parts first; `None` as soon as `go_on` says no.
pub(super) fn learn(
    examples: &[Example],
    folds: &Folds,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Option<Learned> {
    let is_fit = |(label, parts): &(String, usize)| *parts >= BOXED_MIN && check_label(label).is_ok();
    let mut labels: Vec<_> = boxed(examples).into_iter().filter(is_fit).collect();
    labels.sort_by_key(|(_, parts)| std::cmp::Reverse(*parts));
    labels.truncate(LABELS_MAX);
    if labels.is_empty() {
        return Some(Learned::default());
    }
    let (good, bad) = gather(examples, &labels);
    // A plane a fold, without its parts, and one of all parts at the end.
    let tasks: Vec<_> =
        (0..labels.len()).flat_map(|l| (0..=folds.count).map(move |fold| (l, fold))).collect();
    let plane = |(l, fold): &(usize, usize)| {
        go_on().then(|| plane(&good, &bad[*l], |owner| folds.of[owner] != *fold))
    };
    let planes = tasks.par_iter().map(plane).collect::<Option<Vec<Option<Plane>>>>()?;
    let planes: Vec<&[Option<Plane>]> = planes.chunks_exact(folds.count + 1).collect();
    let scores: Vec<Vec<Vec<f64>>> =
        examples.par_iter().zip(&folds.of).map(|(e, fold)| largest(e, &planes, *fold)).collect();
    let known: Vec<_> =
        labels.iter().enumerate().map(|(l, label)| judge(examples, &scores, l, label)).collect();
    let over_all = |tiles: &Vec<Vec<f64>>| {
        let of_tile = |tile: &Vec<f64>| {
            let sure = known.iter().zip(tile).filter(|(k, _)| k.auroc >= AUROC_MIN);
            sure.map(|(k, score)| k.scale.mul_add(*score, k.offset)).fold(f64::NEG_INFINITY, f64::max)
        };
        tiles.iter().map(of_tile).collect::<Vec<f64>>()
    };
    let is_any = known.iter().any(|k| k.auroc >= AUROC_MIN);
    let finish = |(l, (label, parts)): (usize, (String, usize))| {
        let (known, all) = (&known[l], planes[l].last().and_then(Option::as_ref));
        let plane = all.filter(|_| known.auroc >= AUROC_MIN).map(|plane| known.scaled(plane));
        Label { label, parts, auroc: known.auroc, plane }
    };
    Some(Learned {
        largest: if is_any { scores.iter().map(over_all).collect() } else { vec![] },
        mean: good.rows.moments().0,
        labels: labels.into_iter().enumerate().map(finish).collect(),
    })
}

/// How the scores of a label's plane are to be read.
struct Known {
    auroc: f64,
    scale: f64,
    offset: f64,
}

impl Known {
    fn scaled(&self, plane: &Plane) -> Plane {
        Plane {
            weights: plane.weights.iter().map(|w| w * self.scale).collect(),
            bias: self.scale.mul_add(plane.bias, self.offset),
        }
    }
}

/// Some cells of good parts, and those in the boxes of each label.
fn gather(examples: &[Example], labels: &[(String, usize)]) -> (Gathered, Vec<Gathered>) {
    let all: usize =
        examples.iter().filter(|e| e.is_good()).flat_map(|e| &e.tiles).map(TileCells::count).sum();
    let (mut good, mut bad) = (Gathered::default(), vec![Gathered::default(); labels.len()]);
    let mut at = 0u64;
    for (owner, example) in examples.iter().enumerate() {
        for tile in &example.tiles {
            let boxes: Vec<_> = example
                .confirmed
                .defects
                .iter()
                .filter_map(|(label, bbox)| Some((label, cells_in(&(*bbox)?, tile))))
                .filter(|(_, cells)| !cells.is_empty())
                .collect();
            if !example.is_good() && boxes.is_empty() {
                continue;
            }
            let values = smooth(tile);
            let cell = |i: usize| &values[i * tile.dim..(i + 1) * tile.dim];
            if example.is_good() {
                for i in 0..tile.count() {
                    at += 1;
                    // Spread over all places: a fixed step would fall into step with the rows.
                    let dice = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                    if (dice * all as u64) >> 32 < GOOD_CELLS_MAX {
                        good.push(owner, cell(i));
                    }
                }
                continue;
            }
            for (label, cells) in boxes {
                if let Some(l) = labels.iter().position(|(known, _)| known == label) {
                    cells.iter().for_each(|i| bad[l].push(owner, cell(*i)));
                }
            }
        }
    }
    (good, bad)
}

fn smooth(tile: &TileCells) -> Vec<f32> {
    let values = tile.values();
    smoothed(TileFeatures { tile: 0, rows: tile.rows, cols: tile.cols, dim: tile.dim, values: &values })
}

/// The cells whose middle is in a box, or the one that holds its middle; of many every so manieth.
fn cells_in(bbox: &BoxPx, tile: &TileCells) -> Vec<usize> {
    let (rect, rows, cols) = (tile.rect, tile.rows, tile.cols);
    let (width, height) = (rect.width() as f32 / cols as f32, rect.height() as f32 / rows as f32);
    let (left, top) = (rect.x0 as f32, rect.y0 as f32);
    let is_in = |i: &usize| {
        let x = ((i % cols) as f32 + 0.5).mul_add(width, left);
        let y = ((i / cols) as f32 + 0.5).mul_add(height, top);
        (bbox.x0..bbox.x1).contains(&x) && (bbox.y0..bbox.y1).contains(&y)
    };
    let cells: Vec<usize> = (0..tile.count()).filter(is_in).collect();
    if cells.is_empty() {
        let col = (f32::midpoint(bbox.x0, bbox.x1) - left) / width;
        let row = (f32::midpoint(bbox.y0, bbox.y1) - top) / height;
        let is_here = (0.0..cols as f32).contains(&col) && (0.0..rows as f32).contains(&row);
        return if is_here { vec![row as usize * cols + col as usize] } else { vec![] };
    }
    let count = cells.len().min(BOX_CELLS_MAX);
    (0..count).map(|k| cells[k * cells.len() / count]).collect()
}

/// The plane of a label by the parts that `is_learned` lets in; `None` where they are all of one kind.
fn plane(good: &Gathered, bad: &Gathered, is_learned: impl Fn(usize) -> bool) -> Option<Plane> {
    let mut rows = Rows { dim: good.rows.dim, values: vec![] };
    let mut is_bad = vec![];
    for (kind, gathered) in [(false, good), (true, bad)] {
        for (_, cell) in gathered.cells().filter(|(owner, _)| is_learned(*owner)) {
            rows.values.extend_from_slice(cell);
            is_bad.push(kind);
        }
    }
    let both = is_bad.contains(&true) && is_bad.contains(&false);
    both.then(|| fit(&rows, &is_bad, &vec![1.0; is_bad.len()], STRENGTH, None))
}

/// The largest score of each tile's cells by each label's plane of a fold: `[tiles][labels]`. A label that had no plane
/// without these parts says nothing of them.
fn largest(example: &Example, planes: &[&[Option<Plane>]], fold: usize) -> Vec<Vec<f64>> {
    let of_tile = |tile: &TileCells| {
        let values: Vec<f64> = smooth(tile).into_iter().map(f64::from).collect();
        let of_label = |planes: &&[Option<Plane>]| match &planes[fold] {
            Some(plane) => {
                values.chunks_exact(tile.dim).map(|cell| plane.score(cell)).fold(f64::NEG_INFINITY, f64::max)
            }
            None => 0.0,
        };
        planes.iter().map(of_label).collect()
    };
    example.tiles.iter().map(of_tile).collect()
}

/// How well label `l` is told from good parts, and how sure its scores are: by the worst tile of each part.
fn judge(examples: &[Example], scores: &[Vec<Vec<f64>>], l: usize, (label, _): &(String, usize)) -> Known {
    let (mut rows, mut is_bad) = (Rows { dim: 1, values: vec![] }, vec![]);
    for (example, tiles) in examples.iter().zip(scores) {
        let has = example.confirmed.defects.iter().any(|(own, _)| own == label);
        if example.is_good() || has {
            rows.values.push(tiles.iter().map(|tile| tile[l]).fold(f64::NEG_INFINITY, f64::max));
            is_bad.push(!example.is_good());
        }
    }
    let of = |kind: bool| {
        let own = rows.values.iter().zip(&is_bad).filter(|(_, bad)| **bad == kind);
        own.map(|(score, _)| *score as f32).collect::<Vec<f32>>()
    };
    let auroc = auroc(&of(true), &of(false)).unwrap_or(0.5);
    let plane = fit(&rows, &is_bad, &vec![1.0; is_bad.len()], SCALE_STRENGTH, None);
    Known { auroc, scale: plane.weights[0], offset: plane.bias }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rect::Rect;

    #[test]
    fn cells_of_a_box_are_those_whose_middle_is_in_it() {
        let tile = TileCells::new(Rect::new(100, 0, 164, 64), (4, 4), 1, &[0.0; 16]);
        let cells = |x0, y0, x1, y1| cells_in(&BoxPx::new(x0, y0, x1, y1), &tile);
        assert_eq!(cells(100.0, 0.0, 132.0, 16.0), [0, 1]);
        assert_eq!(cells(117.0, 17.0, 119.0, 19.0), [5], "a small one has the cell that it is in");
        assert!(cells(0.0, 0.0, 90.0, 60.0).is_empty(), "it is in another tile");
        let large = TileCells::new(Rect::new(0, 0, 160, 160), (10, 10), 1, &[0.0; 100]);
        let all = cells_in(&BoxPx::new(0.0, 0.0, 160.0, 160.0), &large);
        assert!(all.len() == BOX_CELLS_MAX && all[0] == 0 && all[19] == 95);
    }
}
