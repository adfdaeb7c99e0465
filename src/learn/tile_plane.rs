//! The plane that tells tiles of defective parts from those of good ones, by their features over all cells.
//!
//! Of a part of several tiles only some show the defect. Where people drew boxes, those tiles are known, and the others
//! of the part are left out: nobody looked for boxes there. Where nobody drew any, all of the part's tiles count for
//! the first plane, and then, for some rounds, the one tile that the present plane finds worst.

use super::example::{Example, TileCells};
use super::logistic::{Plane, Rows, fit};
use crate::domain::rect::BoxPx;
use crate::domain::reference::TileFeatures;
use crate::inspect::reference::head::Pooled;

/// Times that the worst tile of a part without boxes is chosen anew.
const ROUNDS: usize = 2;
/// Share of a box, or of a tile, from which on the box is in the tile.
const IN_THE_TILE: f32 = 0.25;

/// A part, as the plane sees it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub is_bad: bool,
    /// The features of each tile over its cells.
    pub tiles: Vec<Vec<f64>>,
    /// The tiles that show a defect; empty: nobody knows which.
    marked: Vec<usize>,
}

impl Part {
    pub(super) fn of(example: &Example) -> Self {
        let pooled = |tile: &TileCells| {
            let values = tile.values();
            let features =
                TileFeatures { tile: 0, rows: tile.rows, cols: tile.cols, dim: tile.dim, values: &values };
            Pooled::of(features).values.into_iter().map(f64::from).collect()
        };
        let boxes: Vec<BoxPx> = example.confirmed.defects.iter().filter_map(|(_, bbox)| *bbox).collect();
        let shows = |tile: &TileCells| boxes.iter().any(|bbox| is_in(bbox, tile));
        let marked = match example.tiles.len() {
            1 => vec![0],
            _ => (0..example.tiles.len()).filter(|i| shows(&example.tiles[*i])).collect(),
        };
        Self { is_bad: !example.is_good(), tiles: example.tiles.iter().map(pooled).collect(), marked }
    }

    /// Which of its tiles shows the defect is not known.
    pub(super) const fn is_guessed(&self) -> bool {
        self.is_bad && self.marked.is_empty()
    }

    /// The tiles that it is learned by.
    fn shown(&self, guide: Option<&Plane>) -> Vec<usize> {
        let all = || (0..self.tiles.len()).collect();
        if !self.is_bad {
            return all();
        }
        if !self.marked.is_empty() {
            return self.marked.clone();
        }
        let Some(guide) = guide else { return all() };
        let score = |i: &usize| guide.score(&self.tiles[*i]);
        (0..self.tiles.len()).max_by(|a, b| score(a).total_cmp(&score(b))).into_iter().collect()
    }
}

fn is_in(bbox: &BoxPx, tile: &TileCells) -> bool {
    let rect = tile.rect;
    let tile = BoxPx::new(rect.x0 as f32, rect.y0 as f32, rect.x1 as f32, rect.y1 as f32);
    bbox.overlap(&tile) > IN_THE_TILE * bbox.area().min(tile.area())
}

/// Learns the plane from some parts, of both kinds. Each part counts as much as another, however many tiles it has.
pub(super) fn learn(parts: &[&Part], strength: f64, start: Option<&Plane>) -> Plane {
    let rounds = if parts.iter().any(|part| part.is_guessed()) { ROUNDS } else { 0 };
    let mut plane: Option<Plane> = None;
    for _ in 0..=rounds {
        let (mut rows, mut is_bad, mut shares) = (Rows::default(), vec![], vec![]);
        for part in parts {
            let shown = part.shown(plane.as_ref());
            for i in &shown {
                rows.dim = part.tiles[*i].len();
                rows.values.extend_from_slice(&part.tiles[*i]);
                is_bad.push(part.is_bad);
                shares.push(1.0 / shown.len() as f64);
            }
        }
        plane = Some(fit(&rows, &is_bad, &shares, strength, plane.as_ref().or(start)));
    }
    plane.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rect::Rect;
    use crate::learn::example::Confirmed;

    /// A part of three tiles side by side, of two by one cells with one feature.
    fn part(values: [f32; 3], is_good: bool, bbox: Option<BoxPx>) -> Part {
        let tile = |(i, v): (usize, f32)| {
            let x0 = 64 * i as u32;
            TileCells::new(Rect::new(x0, 0, x0 + 64, 32), (1, 2), 1, &[v, v])
        };
        let defects = if is_good { vec![] } else { vec![("pit".to_owned(), bbox)] };
        let confirmed = Confirmed { is_good, defects, ..Confirmed::default() };
        Part::of(&Example {
            name: String::new(),
            confirmed,
            tiles: values.into_iter().enumerate().map(tile).collect(),
        })
    }

    #[test]
    fn a_box_says_which_tile_is_defective() {
        let boxed = part([0.0, 5.0, 0.0], false, Some(BoxPx::new(60.0, 0.0, 90.0, 20.0)));
        assert_eq!((boxed.shown(None), boxed.is_guessed()), (vec![1], false));
        let outside = part([0.0; 3], false, Some(BoxPx::new(0.0, 100.0, 9.0, 120.0)));
        assert!(outside.is_guessed());
        assert_eq!(part([0.0; 3], true, None).shown(None), [0, 1, 2]);
    }

    /// One tile of three is defective, and nobody says which: the plane finds them.
    #[test]
    fn the_worst_tile_is_the_defective_one_where_nobody_drew_a_box() {
        let noise = |i: usize| (i * 7 % 5) as f32 / 5.0;
        let mut parts = vec![];
        for i in 0..12 {
            let mut values = [noise(i), noise(i + 1), noise(i + 3)];
            parts.push(part(values, true, None));
            values[i % 3] = 4.0 + noise(i);
            parts.push(part(values, false, None));
        }
        let plane = learn(&parts.iter().collect::<Vec<_>>(), 0.1, None);
        for part in &parts {
            let scores: Vec<f64> = part.tiles.iter().map(|tile| plane.score(tile)).collect();
            let over = scores.iter().filter(|s| **s > 0.0).count();
            assert_eq!(over, usize::from(part.is_bad), "{scores:?}");
        }
    }
}
