//! A reference bank from confirmed good parts.
//!
//! ```text
//! examples --mean, deviation--> standardised cells --coreset | places--> bank
//!          --each good part beside the others' cells, defective ones beside all--> distances --> limits, figures
//! ```
//!
//! A good part is never compared with its own cells: those are at no distance, and a limit that was set by them would
//! alarm every new part.

use super::LearnError;
use super::coreset;
use super::example::{Example, TileCells};
use super::limit;
use crate::domain::reference::{FeatureSource, Lesson, Place, ReferenceRule};
use crate::inspect::reference::bank::{Bank, Known, LearnedFrom, Limit, Places, standardise, top_mean};
use crate::inspect::reference::file::TOLERANCE_MAX;
use crate::inspect::reference::nearest::Nearest;
use half::f16;

/// Good parts without which there is nothing to compare with.
pub(crate) const GOOD_MIN: usize = 5;
/// Below so many of them, a bank is told to be weak.
pub(crate) const GOOD_FEW: usize = 10;
/// Cells that a free bank keeps.
pub(crate) const BANK_CELLS: usize = 2_000;
/// Cells from which these are chosen.
const CHOSEN_FROM_MAX: usize = 100_000;
/// Least deviation of a feature, as the reference has it.
const DEVIATION_MIN: f32 = 1e-6;
/// Good parts that the deviation of all places counts for, beside those of the place itself.
const PRIOR: f32 = 5.0;

/// What is to be learned.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub pipeline: &'a str,
    pub rule: &'a ReferenceRule,
    /// sha256 (hex) of the weights that the features are of.
    pub features_sha256: String,
    /// Size of a frame pixel on the part, in millimetres, and of a cell in frame pixels.
    pub mm_per_px: f64,
    pub cell_px: f64,
    pub cells_max: usize,
    /// RFC 3339, UTC.
    pub at: String,
}

/// How well a bank does on the examples that it was learned from, each good one without its own cells.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Figures {
    pub features: &'static str,
    pub good: usize,
    pub bad: usize,
    /// Cells of the good parts, and of the bank.
    pub cells: usize,
    pub bank_cells: usize,
    /// Area under the ROC curve over parts; none without defective ones.
    pub auroc: Option<f64>,
    /// Good parts over the limit, and defective ones.
    pub alarmed: usize,
    pub found: usize,
    /// What to know about them.
    pub notes: Vec<String>,
}

/// Whether there is enough to learn from.
///
/// # Errors
/// `TooLittle`, with the words why.
pub(crate) fn enough(good: usize) -> Result<(), LearnError> {
    if good >= GOOD_MIN {
        return Ok(());
    }
    Err(LearnError::TooLittle { why: format!("{good} good parts, at least {GOOD_MIN} are needed") })
}

/// Learns a bank, for as long as `go_on` says so.
///
/// # Errors
/// `TooLittle`, `Stopped`, `Recipe`: the tiles of a fixed part differ.
pub(crate) fn learn(
    examples: &[Example],
    wanted: &Wanted<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<(Bank, Figures), LearnError> {
    let good: Vec<&Example> = examples.iter().filter(|e| e.is_good()).collect();
    let bad: Vec<&Example> = examples.iter().filter(|e| !e.is_good()).collect();
    enough(good.len())?;
    let (mean, deviation) = moments(&good);
    let standard = |tile: &TileCells| {
        let mut values: Vec<f32> = tile.cells().flatten().map(|v| v.to_f32()).collect();
        standardise(&mut values, &mean, &deviation);
        values
    };
    let compared = match wanted.rule.lesson {
        Lesson::Head => return Err(LearnError::Recipe { why: "the prompt asks for no bank".into() }),
        Lesson::Bank { place: Place::Free } => {
            free(&good, &bad, mean.len(), wanted.cells_max, &standard, go_on)?
        }
        Lesson::Bank { place: Place::Fixed { tolerance_mm } } => {
            let tolerance = (tolerance_mm / wanted.mm_per_px / wanted.cell_px).ceil() as usize;
            if tolerance > TOLERANCE_MAX {
                let why = format!(
                    "tolerance_mm = {tolerance_mm} is {tolerance} cells, at most {TOLERANCE_MAX} are compared"
                );
                return Err(LearnError::Recipe { why });
            }
            fixed(&good, &bad, mean.len(), tolerance, &standard, go_on)?
        }
    };
    let cells = good.iter().flat_map(|e| &e.tiles).map(TileCells::count).sum();
    let tile = limit::of(&each(&compared.good, |s| s.tile), &each(&compared.bad, |s| s.tile));
    let cell = limit::of(&each(&compared.good, |s| s.cell), &each(&compared.bad, |s| s.cell));
    let figures = figures(&compared, wanted.rule.features, cells, cell);
    let from = LearnedFrom {
        pipeline: wanted.pipeline.to_owned(),
        at: wanted.at.clone(),
        good: good.len(),
        bad: bad.len(),
        cells,
    };
    let features_sha256 = wanted.features_sha256.clone();
    let Compared { known, .. } = compared;
    let features = wanted.rule.features;
    Ok((Bank { features, features_sha256, mean, deviation, known, cell, tile, from }, figures))
}

fn stopped_unless(go_on: &dyn Fn() -> bool) -> Result<(), LearnError> {
    if go_on() { Ok(()) } else { Err(LearnError::Stopped) }
}

/// What is known, and how far the examples are from it.
struct Compared {
    known: Known,
    good: Vec<Score>,
    bad: Vec<Score>,
}

/// How unusual a part is: by its most unusual cell, and by its most unusual tile.
#[derive(Clone, Copy)]
struct Score {
    cell: f32,
    tile: f32,
}

impl Score {
    /// By the distances of the cells of each tile.
    fn of(tiles: impl Iterator<Item = Vec<f32>>) -> Self {
        tiles.fold(Self { cell: 0.0, tile: 0.0 }, |score, distances| Self {
            cell: distances.iter().copied().fold(score.cell, f32::max),
            tile: score.tile.max(top_mean(&distances)),
        })
    }
}

fn each(scores: &[Score], of: impl Fn(&Score) -> f32) -> Vec<f32> {
    scores.iter().map(of).collect()
}

/// Mean and deviation of each feature over all cells of the good parts.
fn moments(good: &[&Example]) -> (Vec<f32>, Vec<f32>) {
    let dim = good.iter().flat_map(|e| &e.tiles).map(|t| t.dim).next().unwrap_or(0);
    let (mut sums, mut squares, mut n) = (vec![0f64; dim], vec![0f64; dim], 0f64);
    for cell in good.iter().flat_map(|e| &e.tiles).flat_map(TileCells::cells) {
        n += 1.0;
        for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(cell) {
            let v = f64::from(v.to_f32());
            *sum += v;
            *square += v * v;
        }
    }
    let mean: Vec<f64> = sums.iter().map(|s| s / n.max(1.0)).collect();
    let deviation = mean.iter().zip(&squares).map(|(m, s)| (s / n.max(1.0) - m * m).max(0.0).sqrt());
    let deviation = deviation.map(|d| d as f32 + DEVIATION_MIN).collect();
    (mean.into_iter().map(|m| m as f32).collect(), deviation)
}

type Standard<'a> = &'a dyn Fn(&TileCells) -> Vec<f32>;

fn free(
    good: &[&Example],
    bad: &[&Example],
    dim: usize,
    cells_max: usize,
    standard: Standard<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<Compared, LearnError> {
    let all: usize = good.iter().flat_map(|e| &e.tiles).map(TileCells::count).sum();
    // Every so manieth cell, where there are more than can be chosen from.
    let step = all.div_ceil(CHOSEN_FROM_MAX).max(1);
    let (mut values, mut owners) = (vec![], vec![]);
    let mut at = 0;
    for (owner, example) in good.iter().enumerate() {
        for cell in example
            .tiles
            .iter()
            .flat_map(|tile| standard(tile).chunks_exact(dim).map(<[f32]>::to_vec).collect::<Vec<_>>())
        {
            if at % step == 0 {
                values.extend_from_slice(&cell);
                owners.push(owner);
            }
            at += 1;
        }
    }
    let chosen = coreset::choose(&values, dim, cells_max, go_on).ok_or(LearnError::Stopped)?;
    let nearest = |without: Option<usize>| {
        let own = chosen.iter().filter(|at| without != Some(owners[**at]));
        let cells = own.flat_map(|at| &values[at * dim..(at + 1) * dim]).map(|v| f16::from_f32(*v)).collect();
        Nearest::new(cells, dim).map_err(|why| LearnError::TooLittle { why })
    };
    let score = |example: &Example, known: &Nearest| {
        Score::of(example.tiles.iter().map(|tile| known.distances(&standard(tile))))
    };
    let known = nearest(None)?;
    let mut compared = Compared { known: Known::Free(known.clone()), good: vec![], bad: vec![] };
    for (owner, example) in good.iter().enumerate() {
        stopped_unless(go_on)?;
        compared.good.push(score(example, &nearest(Some(owner))?));
    }
    compared.bad = bad.iter().map(|example| score(example, &known)).collect();
    Ok(compared)
}

fn fixed(
    good: &[&Example],
    bad: &[&Example],
    dim: usize,
    tolerance: usize,
    standard: Standard<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<Compared, LearnError> {
    let grids = |example: &Example| example.tiles.iter().map(|t| (t.rows, t.cols)).collect::<Vec<_>>();
    let wanted = grids(good[0]);
    if let Some(other) = good.iter().chain(bad).find(|example| grids(example) != wanted) {
        let why =
            format!("{} is not of the size of {}: a fixed place has one size", other.name, good[0].name);
        return Err(LearnError::Recipe { why });
    }
    let parts: Vec<Vec<f32>> = good.iter().map(|e| e.tiles.iter().flat_map(standard).collect()).collect();
    let places_of = |without: Option<usize>| {
        let of = parts
            .iter()
            .enumerate()
            .filter(|(i, _)| without != Some(*i))
            .map(|(_, values)| values.as_slice());
        let (mean, sharpness) = place_moments(&of.collect::<Vec<_>>());
        Places { grids: wanted.clone(), mean, sharpness, tolerance }
    };
    let score = |example: &Example, places: &Places| {
        let of = |(i, tile): (usize, &TileCells)| {
            places.distances(i, (tile.rows, tile.cols), &standard(tile), dim).unwrap_or_default()
        };
        Score::of(example.tiles.iter().enumerate().map(of))
    };
    let known = places_of(None);
    let beside_others = |(i, example): (usize, &&Example)| {
        stopped_unless(go_on)?;
        Ok(score(example, &places_of(Some(i))))
    };
    let good = good.iter().enumerate().map(beside_others).collect::<Result<_, LearnError>>()?;
    let bad = bad.iter().map(|example| score(example, &known)).collect();
    Ok(Compared { known: Known::Fixed(known), good, bad })
}

/// Of each number of each place its mean, and one over its deviation, over some parts.
fn place_moments(parts: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
    let n = parts.len() as f32;
    let len = parts.first().map_or(0, |p| p.len());
    let mut mean = vec![0f32; len];
    parts.iter().for_each(|part| mean.iter_mut().zip(*part).for_each(|(m, v)| *m += v / n));
    let mut squares = vec![0f32; len];
    for part in parts {
        squares.iter_mut().zip(*part).zip(&mean).for_each(|((s, v), m)| *s += (v - m).powi(2));
    }
    // What places have in common, standardised features having deviation 1 over all of them.
    let common = squares.iter().sum::<f32>() / (n * len.max(1) as f32);
    let sharp = |s: f32| 1.0 / ((s + PRIOR * common) / (n + PRIOR) + DEVIATION_MIN).sqrt();
    let largest = f16::MAX.to_f32();
    (mean, squares.into_iter().map(|s| sharp(s).min(largest)).collect())
}

fn figures(compared: &Compared, features: FeatureSource, cells: usize, limit: Limit) -> Figures {
    let (good, bad) = (&compared.good, &compared.bad);
    let is_over = |score: &&Score| limit.confidence(score.cell) >= 0.5;
    let bank_cells = match &compared.known {
        Known::Free(nearest) => nearest.count(),
        Known::Fixed(places) => places.grids.iter().map(|(rows, cols)| rows * cols).sum(),
    };
    let mut notes = vec![];
    if good.len() < GOOD_FEW {
        notes.push(format!("{} good parts are few: confirm at least {GOOD_FEW}, better 20", good.len()));
    }
    Figures {
        features: features.as_str(),
        good: good.len(),
        bad: bad.len(),
        cells,
        bank_cells,
        auroc: auroc(&each(bad, |s| s.tile), &each(good, |s| s.tile)),
        alarmed: good.iter().filter(is_over).count(),
        found: bad.iter().filter(is_over).count(),
        notes,
    }
}

/// How often a defective part is more unusual than a good one; `None` without either.
pub(crate) fn auroc(bad: &[f32], good: &[f32]) -> Option<f64> {
    let pairs = bad.len() * good.len();
    let won = |b: &f32| {
        good.iter()
            .map(|g| {
                if b > g {
                    1.0
                } else if b == g {
                    0.5
                } else {
                    0.0
                }
            })
            .sum::<f64>()
    };
    (pairs > 0).then(|| bad.iter().map(won).sum::<f64>() / pairs as f64)
}
