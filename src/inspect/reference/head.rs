//! A head: what tells defective parts from good ones, learned from both.
//!
//! ```text
//! features of a tile --mean, mean of the three largest, deviation over its cells--> plane ---------.
//!                    '-mean of 3 x 3 cells--> a plane a label --> a confidence a cell --largest----+--> tile
//! ```
//!
//! The tile decides whether something is there; the planes of labels say where and what. What a tile's own plane says
//! is a sum over numbers each of which is a sum over cells, so that each cell's part in it is known: where there is no
//! label's plane, those cells show where the reason lies.

use super::bank::smoothed;
use crate::domain::reference::{BankOrigin, CellMap, FeatureSource, Judge, TileFeatures, Unusual};

/// Largest cells of a tile whose mean is looked at: one alone is noise.
const TOP: usize = 3;
/// Numbers that each feature has over a tile.
pub(crate) const POOLED: usize = 3;

/// What was learned from good and defective parts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub features: FeatureSource,
    /// sha256 (hex) of the weights that the features are of.
    pub features_sha256: String,
    /// `[POOLED, dim]`: of good tiles.
    pub usual: Vec<f32>,
    /// `[POOLED, dim]`: on what differs from it.
    pub tile: Vec<f32>,
    /// What a tile has that differs in nothing; scores are logarithms of odds.
    pub bias: f32,
    /// How much the largest score of a label's cells counts for the tile.
    pub of_cells: f32,
    /// `[dim]`: of good cells, smoothed.
    pub mean: Vec<f32>,
    pub labels: Vec<LabelHead>,
    pub from: TaughtBy,
}

/// The plane of one label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LabelHead {
    pub label: String,
    /// `[dim]`: on what a smoothed cell differs from good ones.
    pub weights: Vec<f32>,
    pub bias: f32,
}

/// What a head was learned from, for people.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TaughtBy {
    pub pipeline: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub good: usize,
    pub bad: usize,
    /// Defective parts where people drew boxes.
    pub with_boxes: usize,
    /// Area under the ROC curve on parts that were kept back.
    pub auroc: Option<f64>,
}

/// The features of a tile over its cells.
#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    /// `[POOLED, dim]`.
    pub values: Vec<f32>,
    /// `[dim, top]`: the cells with the largest values of each feature.
    top: Vec<usize>,
}

impl Pooled {
    /// Of a tile of at least one cell.
    pub(crate) fn of(features: TileFeatures<'_>) -> Self {
        let TileFeatures { dim, values, .. } = features;
        let count = values.len() / dim.max(1);
        let tops = TOP.min(count);
        let n = count.max(1) as f32;
        let mut pooled = vec![0.0; POOLED * dim];
        let mut top = Vec::with_capacity(tops * dim);
        for cell in values.chunks_exact(dim.max(1)) {
            pooled.iter_mut().zip(cell).for_each(|(sum, v)| *sum += v / n);
        }
        for j in 0..dim {
            let column = || values.iter().skip(j).step_by(dim).copied();
            let first = top.len();
            for (i, v) in column().enumerate() {
                // Kept in order, the largest first; of equal ones the first cell.
                let at = top[first..].iter().position(|other| values[other * dim + j] < v);
                match at {
                    Some(at) => top.insert(first + at, i),
                    None => top.push(i),
                }
                top.truncate(first + tops);
            }
            let largest = top[first..].iter().map(|i| values[i * dim + j]).sum::<f32>();
            pooled[dim + j] = largest / tops.max(1) as f32;
            let mean = pooled[j];
            pooled[2 * dim + j] = (column().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        }
        Self { values: pooled, top }
    }
}

impl Head {
    /// Numbers a cell.
    pub(crate) const fn dim(&self) -> usize {
        self.mean.len()
    }

    /// What the tile's own plane says.
    fn score(&self, pooled: &Pooled) -> f32 {
        let gaps = pooled.values.iter().zip(&self.usual).map(|(v, u)| v - u);
        gaps.zip(&self.tile).map(|(gap, w)| gap * w).sum::<f32>() + self.bias
    }

    /// What each cell adds to the score of the tile's own plane: they sum up to it, without the bias.
    fn parts(&self, pooled: &Pooled, features: TileFeatures<'_>) -> Vec<f32> {
        let TileFeatures { dim, values, .. } = features;
        let count = values.len() / dim.max(1);
        let (n, tops) = (count as f32, TOP.min(count));
        let of = |row: usize, j: usize| (pooled.values[row * dim + j], self.usual[row * dim + j]);
        let mut out = vec![0.0; count];
        for j in 0..dim {
            let ((mean, usual_mean), (_, usual_top), (deviation, usual_deviation)) =
                (of(0, j), of(1, j), of(2, j));
            let weight = |row: usize| self.tile[row * dim + j];
            for (i, out) in out.iter_mut().enumerate() {
                let v = values[i * dim + j];
                // A deviation is the sum of squares over itself.
                let spread = if deviation > 0.0 { (v - mean).powi(2) / deviation } else { 0.0 };
                *out += (weight(0) * (v - usual_mean) + weight(2) * (spread - usual_deviation)) / n;
            }
            for i in &pooled.top[j * tops..(j + 1) * tops] {
                out[*i] += weight(1) * (values[i * dim + j] - usual_top) / tops as f32;
            }
        }
        out
    }

    /// How much each cell and its neighbours add, the most 1; all 0 where none speaks for a defect.
    fn reasons(&self, pooled: &Pooled, features: TileFeatures<'_>) -> Vec<f32> {
        let parts = self.parts(pooled, features);
        let mut parts = smoothed(TileFeatures { dim: 1, values: &parts, ..features });
        let most = parts.iter().copied().fold(0.0, f32::max);
        parts.iter_mut().for_each(|part| *part = if most > 0.0 { (*part / most).max(0.0) } else { 0.0 });
        parts
    }

    /// The scores of the cells, label by label: `[labels][rows * cols]`.
    fn label_scores(&self, features: TileFeatures<'_>) -> Vec<Vec<f32>> {
        if self.labels.is_empty() {
            return vec![];
        }
        let mut cells = smoothed(features);
        for cell in cells.chunks_exact_mut(self.dim()) {
            cell.iter_mut().zip(&self.mean).for_each(|(v, m)| *v -= m);
        }
        let score = |head: &LabelHead, cell: &[f32]| {
            cell.iter().zip(&head.weights).map(|(v, w)| v * w).sum::<f32>() + head.bias
        };
        let of = |head: &LabelHead| cells.chunks_exact(self.dim()).map(|cell| score(head, cell)).collect();
        self.labels.iter().map(of).collect()
    }
}

impl Judge for Head {
    fn origin(&self) -> BankOrigin {
        let TaughtBy { at, good, bad, .. } = &self.from;
        BankOrigin { at: at.clone(), good: *good, bad: *bad }
    }

    fn features(&self) -> FeatureSource {
        self.features
    }

    fn features_sha256(&self) -> &str {
        &self.features_sha256
    }

    fn labels(&self) -> Vec<&str> {
        self.labels.iter().map(|head| head.label.as_str()).collect()
    }

    fn judge(&self, features: TileFeatures<'_>) -> Result<Unusual, String> {
        let TileFeatures { rows, cols, dim, values, .. } = features;
        if dim != self.dim() || values.len() != rows * cols * dim || values.is_empty() {
            return Err(format!(
                "{rows} x {cols} cells of {dim} features, and its head has {} features a cell",
                self.dim()
            ));
        }
        let pooled = Pooled::of(features);
        let scores = self.label_scores(features);
        let largest = scores.iter().flatten().copied().reduce(f32::max).unwrap_or(0.0);
        let tile = self.of_cells.mul_add(largest, self.score(&pooled));
        if !tile.is_finite() || scores.iter().flatten().any(|s| !s.is_finite()) {
            return Err("its features are no numbers that a head can judge".into());
        }
        let map = |(head, scores): (&LabelHead, Vec<f32>)| CellMap {
            label: Some(head.label.clone()),
            cells: scores.into_iter().map(confidence).collect(),
        };
        Ok(Unusual {
            maps: self.labels.iter().zip(scores).map(map).collect(),
            tile: confidence(tile),
            reasons: Some(self.reasons(&pooled, features)),
        })
    }
}

/// The probability whose odds have this logarithm.
fn confidence(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A head of two features that finds the label pit by the first one.
    pub(crate) fn head() -> Head {
        Head {
            features: FeatureSource::Backbone,
            features_sha256: "ab".repeat(32),
            usual: vec![0.5, 0.0, 1.0, 0.0, 0.25, 0.0],
            tile: vec![0.5, 0.25, 2.0, -0.5, 1.5, 0.125],
            bias: -3.0,
            of_cells: 0.5,
            mean: vec![0.25, 0.0],
            labels: vec![LabelHead { label: "pit".into(), weights: vec![4.0, 0.0], bias: -2.0 }],
            from: TaughtBy { pipeline: "p".into(), good: 12, bad: 11, ..TaughtBy::default() },
        }
    }

    fn tile(values: &[f32], cols: usize) -> TileFeatures<'_> {
        TileFeatures { tile: 0, rows: values.len() / 2 / cols, cols, dim: 2, values }
    }

    #[test]
    fn pooled_features_are_mean_largest_and_deviation() {
        let pooled = Pooled::of(tile(&[1.0, -1.0, 2.0, -1.0, 3.0, -1.0, 6.0, -1.0], 2));
        let deviation = ((4.0f32 + 1.0 + 0.0 + 9.0) / 4.0).sqrt();
        assert_eq!(pooled.values[..4], [3.0, -1.0, 11.0 / 3.0, -1.0]);
        assert!((pooled.values[4] - deviation).abs() < 1e-6 && pooled.values[5] == 0.0);
        assert_eq!(pooled.top, [3, 2, 1, 0, 1, 2]);
        let one = Pooled::of(tile(&[7.0, 8.0], 1));
        assert_eq!(one.values, [7.0, 8.0, 7.0, 8.0, 0.0, 0.0]);
    }

    #[test]
    fn what_the_cells_add_is_the_score() {
        let head = head();
        let values: Vec<f32> = (0..24).map(|i| ((i * 37 % 11) as f32) / 3.0 - 1.0).collect();
        let features = tile(&values, 4);
        let pooled = Pooled::of(features);
        let sum = head.parts(&pooled, features).iter().sum::<f32>() + head.bias;
        assert!((sum - head.score(&pooled)).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn a_cell_that_stands_out_is_found_and_a_plain_tile_is_not() {
        let head = head();
        let plain = head.judge(tile(&[0.5, 0.0].repeat(25), 5)).unwrap();
        assert!(plain.tile < 0.5 && plain.maps[0].cells.iter().all(|c| *c < 0.5), "{plain:?}");
        let mut values = [0.5, 0.0].repeat(25);
        values[2 * 12] = 9.0;
        let found = head.judge(tile(&values, 5)).unwrap();
        assert!(found.tile > 0.9, "{}", found.tile);
        assert_eq!(found.maps[0].label.as_deref(), Some("pit"));
        assert!(found.maps[0].cells[12] > 0.9 && found.maps[0].cells[0] < 0.5);
        let reasons = found.reasons.unwrap();
        assert!(reasons[12] > 0.99 && reasons[0] < 0.1, "{reasons:?}");
    }

    #[test]
    fn tiles_of_another_form_and_numbers_that_are_none_are_errors() {
        let head = head();
        let judge = |values: &[f32], rows, dim| {
            head.judge(TileFeatures { tile: 0, rows, cols: 1, dim, values }).is_err()
        };
        assert!(judge(&[1.0; 3], 1, 3) && judge(&[], 0, 2) && judge(&[1.0; 3], 2, 2));
        assert!(judge(&[f32::NAN, 1.0], 1, 2) && judge(&[f32::INFINITY, 1.0], 1, 2));
    }
}
