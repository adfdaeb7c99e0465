//! A bank: what cells of confirmed good parts look like, and from where on another one is unusual.
//!
//! ```text
//! features of a tile --mean of 3 x 3 cells, standardised--> distance to the nearest cell of the bank --> confidence
//! ```
//!
//! Free: cells of good parts, a coreset of them, wherever they were. Fixed: for each place its mean and deviation over
//! the good parts; what is nearest within the tolerance counts.
//!
//! A distance `d` becomes a confidence `1 / (1 + (limit / d)^steepness)`: 0.5 at the limit, which was set by good parts
//! that were compared with others than themselves. Source of the method: `PatchCore` (Roth et al. 2022) and `PaDiM` (Defard
//! et al. 2021).

use super::nearest::Nearest;
use crate::domain::reference::{BankOrigin, CellMap, FeatureSource, Judge, TileFeatures, Unusual};

/// Share of a tile's cells whose mean distance says how unusual the tile is: 10 of 256.
const TOP_SHARE: f64 = 10.0 / 256.0;

/// Where distances become findings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    /// The distance of confidence 0.5.
    pub at: f32,
    pub steepness: f32,
}

impl Limit {
    /// How sure it is that something so far away is unusual, 0..=1.
    pub(crate) fn confidence(self, distance: f32) -> f32 {
        1.0 / (1.0 + (self.at / distance).powf(self.steepness))
    }
}

/// What was learned of places.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// Cells of good parts, wherever they were.
    Free(Nearest),
    /// Of each place its mean and deviation.
    Fixed(Places),
}

/// The places of a part that a fixture holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Places {
    /// Rows and columns of each tile, in the order of the plan.
    pub grids: Vec<(usize, usize)>,
    /// `[places, dim]`, in standardised features.
    pub mean: Vec<f32>,
    /// `[places, dim]`: one over the deviation.
    pub sharpness: Vec<f32>,
    /// How far a place may be off, in cells.
    pub tolerance: usize,
}

/// What was learned from good parts.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    pub features: FeatureSource,
    /// sha256 (hex) of the weights that the features are of.
    pub features_sha256: String,
    /// `[dim]`: of all cells of the good parts.
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
    pub known: Known,
    /// For a cell, and for the most unusual cells of a tile together.
    pub cell: Limit,
    pub tile: Limit,
    pub from: LearnedFrom,
}

/// What a bank was learned from, for people.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LearnedFrom {
    pub pipeline: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Good parts, and defective ones that helped to set the limits.
    pub good: usize,
    pub bad: usize,
    /// Cells of the good parts.
    pub cells: usize,
}

impl Bank {
    /// The features of a tile as they are compared: `[rows * cols, dim]`.
    pub(crate) fn standardised(&self, features: TileFeatures<'_>) -> Vec<f32> {
        let mut cells = smoothed(features);
        standardise(&mut cells, &self.mean, &self.deviation);
        cells
    }

    /// The distance of each cell from what is known.
    ///
    /// # Errors
    /// The tile is not of the form that was learned.
    pub(crate) fn distances(&self, features: TileFeatures<'_>) -> Result<Vec<f32>, String> {
        let TileFeatures { rows, cols, dim, values, tile } = features;
        if dim != self.mean.len() || values.len() != rows * cols * dim {
            return Err(format!("{dim} features a cell, and its bank has {}", self.mean.len()));
        }
        let cells = self.standardised(features);
        match &self.known {
            Known::Free(nearest) => Ok(nearest.distances(&cells)),
            Known::Fixed(places) => places.distances(tile, (rows, cols), &cells, dim),
        }
    }
}

impl Judge for Bank {
    fn origin(&self) -> BankOrigin {
        let LearnedFrom { at, good, bad, .. } = &self.from;
        BankOrigin { at: at.clone(), good: *good, bad: *bad }
    }

    fn features(&self) -> FeatureSource {
        self.features
    }

    fn features_sha256(&self) -> &str {
        &self.features_sha256
    }

    fn judge(&self, features: TileFeatures<'_>) -> Result<Unusual, String> {
        let distances = self.distances(features)?;
        let tile = self.tile.confidence(top_mean(&distances));
        let cells = distances.into_iter().map(|d| self.cell.confidence(d)).collect();
        Ok(Unusual { maps: vec![CellMap { label: None, cells }], tile, reasons: None })
    }
}

impl Places {
    /// The distance of each cell of a tile from what is known of its place, or of one within the tolerance.
    ///
    /// # Errors
    /// The tile is not of the form that was learned.
    pub(crate) fn distances(
        &self,
        tile: usize,
        grid: (usize, usize),
        cells: &[f32],
        dim: usize,
    ) -> Result<Vec<f32>, String> {
        if self.grids.get(tile) != Some(&grid) {
            let known = self.grids.get(tile).map_or("no such tile".to_owned(), |(r, c)| format!("{r} x {c}"));
            return Err(format!("tile {tile} has {} x {} cells, and its bank {known}", grid.0, grid.1));
        }
        let first: usize = self.grids[..tile].iter().map(|(rows, cols)| rows * cols).sum();
        let (rows, cols) = grid;
        let far = |at: usize, n: usize| at.saturating_sub(self.tolerance)..(at + self.tolerance + 1).min(n);
        let of = |(i, cell): (usize, &[f32])| {
            let places = far(i / cols, rows).flat_map(|y| far(i % cols, cols).map(move |x| y * cols + x));
            let distance = |place: usize| {
                let at = (first + place) * dim..(first + place + 1) * dim;
                let known = self.mean[at.clone()].iter().zip(&self.sharpness[at]);
                cell.iter().zip(known).map(|(x, (m, s))| ((x - m) * s).powi(2)).sum::<f32>().sqrt()
            };
            places.map(distance).fold(f32::INFINITY, f32::min)
        };
        Ok(cells.chunks_exact(dim).enumerate().map(of).collect())
    }
}

/// The mean of each cell and its neighbours: `[rows * cols, dim]`.
pub(crate) fn smoothed(features: TileFeatures<'_>) -> Vec<f32> {
    let TileFeatures { rows, cols, dim, values, .. } = features;
    let near = |at: usize, n: usize| at.saturating_sub(1)..(at + 2).min(n);
    let mut out = vec![0.0; values.len()];
    for (i, out) in out.chunks_exact_mut(dim.max(1)).enumerate() {
        let (ys, xs) = (near(i / cols, rows), near(i % cols, cols));
        let count = (ys.len() * xs.len()) as f32;
        for (y, x) in ys.flat_map(|y| xs.clone().map(move |x| (y, x))) {
            let neighbour = &values[(y * cols + x) * dim..][..dim];
            out.iter_mut().zip(neighbour).for_each(|(o, v)| *o += v);
        }
        out.iter_mut().for_each(|o| *o /= count);
    }
    out
}

/// Brings features to mean 0 and deviation 1 by those of the good parts.
pub(crate) fn standardise(cells: &mut [f32], mean: &[f32], deviation: &[f32]) {
    for cell in cells.chunks_exact_mut(mean.len().max(1)) {
        for (v, (m, d)) in cell.iter_mut().zip(mean.iter().zip(deviation)) {
            *v = (*v - m) / d;
        }
    }
}

/// The mean of a tile's largest distances.
pub(crate) fn top_mean(distances: &[f32]) -> f32 {
    let count = ((distances.len() as f64 * TOP_SHARE).round() as usize).clamp(1, distances.len().max(1));
    let mut sorted = distances.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted.iter().take(count).sum::<f32>() / count as f32
}
