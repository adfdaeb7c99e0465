//! A head from reviewed parts: what tells defective ones from good ones.
//!
//! ```text
//! examples --by lots--> folds --each kept back once--> strength --> plane of tiles ----.
//!                                      '-- boxes --> planes of labels' cells ----------+--> score of a tile --> odds
//! ```
//!
//! There are more numbers than parts, so that any split of the parts can be learned by heart. All that is said of a head
//! is therefore measured on parts that it was not learned from: its strength, what a score is worth, its figures. The
//! strength is chosen, and the scores are brought to odds, by the same kept-back parts that the figures are of; of
//! numbers so few the figures learn little.

use super::LearnError;
use super::cell_planes::{self, BOXED_MIN, SCALE_STRENGTH};
use super::example::Example;
use super::folds::{self, Folds};
use super::logistic::{Plane, Rows, fit};
use super::references::auroc;
use super::tile_plane::{self, Part};
use crate::domain::reference::ReferenceRule;
use crate::inspect::reference::head::{Head, LabelHead, POOLED, TaughtBy};
use crate::recipe::check_label;
use rayon::prelude::*;

/// Parts of each kind without which nothing is learned.
pub(crate) const KIND_MIN: usize = 10;
/// Below so many of a kind, a head is told to be weak.
pub(crate) const KIND_FEW: usize = 20;
/// Strengths that are tried, the strongest first.
const STRENGTHS: [f64; 6] = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01];

/// What is to be learned.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub pipeline: &'a str,
    pub rule: &'a ReferenceRule,
    /// sha256 (hex) of the weights that the features are of.
    pub features_sha256: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// How well a head does on parts that were kept back while it was learned.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Figures {
    pub features: &'static str,
    pub good: usize,
    pub bad: usize,
    /// Defective parts where people drew boxes.
    pub with_boxes: usize,
    pub labels: Vec<LabelFigures>,
    pub strength: f64,
    /// Times that other parts were kept back.
    pub folds: usize,
    /// Lots that were kept back whole; `None`: parts were kept back one by one, all of a kind being of one lot.
    pub lots: Option<usize>,
    /// Area under the ROC curve over parts.
    pub auroc: f64,
    /// Good parts over the limit, and defective ones.
    pub alarmed: usize,
    pub found: usize,
    /// What to know about them.
    pub notes: Vec<String>,
}

/// How well the cells of a label are told from those of good parts.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct LabelFigures {
    pub label: String,
    /// Parts with boxes of it.
    pub parts: usize,
    pub auroc: f64,
    /// It is found as such; otherwise it could not be told apart.
    pub is_known: bool,
}

/// Whether there is enough to learn from.
///
/// # Errors
/// `TooLittle`, with the words why.
pub(crate) fn enough(good: usize, bad: usize) -> Result<(), LearnError> {
    if good >= KIND_MIN && bad >= KIND_MIN {
        return Ok(());
    }
    let why = format!(
        "{good} good and {bad} defective parts: at least {KIND_MIN} of each are needed, and with so few a head tells \
         them apart in 0.6 of all pairs, where 0.5 is chance"
    );
    Err(LearnError::TooLittle { why })
}

/// Learns a head, for as long as `go_on` says so; once it has said no, it always does.
///
/// # Errors
/// `TooLittle`: there are too few parts, or those that were kept back could not be told apart. `Stopped`.
pub(crate) fn learn(
    examples: &[Example],
    wanted: &Wanted<'_>,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<(Head, Figures), LearnError> {
    let bad = examples.iter().filter(|e| !e.is_good()).count();
    let good = examples.len() - bad;
    enough(good, bad)?;
    let parts: Vec<Part> = examples.iter().map(Part::of).collect();
    same_size(examples, &parts)?;
    let folds = dealt(examples);
    let (strength, scores) = strength(&parts, &folds, go_on).ok_or(LearnError::Stopped)?;
    let cells = cell_planes::learn(examples, &folds, go_on).ok_or(LearnError::Stopped)?;
    let together = Together::of(&parts, &scores, &cells.largest);
    let (of_bad, of_good) = together.parts(&parts, &scores, &cells.largest);
    let auroc = auroc(&of_bad, &of_good).unwrap_or(0.5);
    if auroc <= 0.5 || together.scale <= 0.0 {
        let why = format!(
            "of {} parts those that were kept back were told apart in {auroc:.2} of all pairs, which is chance: \
             confirm more",
            examples.len()
        );
        return Err(LearnError::TooLittle { why });
    }
    let plane = tile_plane::learn(&parts.iter().collect::<Vec<_>>(), strength, None);
    let with_boxes = examples.iter().filter(|e| !e.is_good() && has_boxes(e)).count();
    let from = TaughtBy {
        pipeline: wanted.pipeline.to_owned(),
        at: wanted.at.clone(),
        good,
        bad,
        with_boxes,
        auroc: Some(auroc),
    };
    let figures = Figures {
        features: wanted.rule.features.as_str(),
        good,
        bad,
        with_boxes,
        labels: cells.labels.iter().map(LabelFigures::of).collect(),
        strength,
        folds: folds.count,
        lots: folds.lots,
        auroc,
        alarmed: of_good.iter().filter(|s| **s > 0.0).count(),
        found: of_bad.iter().filter(|s| **s > 0.0).count(),
        notes: notes(examples, &parts, &folds, &cells.labels),
    };
    Ok((head(wanted, &parts, &plane, &together, &cells, from), figures))
}

/// The fold of each part: a lot is in one, and so are the views of a part without a lot.
fn dealt(examples: &[Example]) -> Folds {
    let names: Vec<_> = examples.iter().map(|e| e.confirmed.kept_with()).collect();
    let dealt: Vec<_> =
        examples.iter().zip(&names).map(|(e, name)| (name.as_deref(), !e.is_good())).collect();
    folds::deal(&dealt)
}

fn has_boxes(example: &Example) -> bool {
    example.confirmed.defects.iter().any(|(_, bbox)| bbox.is_some())
}

/// All tiles have as many features, and every part has a tile.
fn same_size(examples: &[Example], parts: &[Part]) -> Result<(), LearnError> {
    let size = |part: &Part| part.tiles.iter().map(Vec::len).collect::<Vec<_>>();
    let first = parts.iter().flat_map(size).next().unwrap_or(0);
    let is_odd =
        |part: &Part| part.tiles.is_empty() || part.tiles.iter().any(|t| t.len() != first || first == 0);
    match examples.iter().zip(parts).find(|(_, part)| is_odd(part)) {
        Some((odd, _)) => Err(LearnError::Picture {
            picture: odd.name.clone(),
            why: "has not the features of the others".into(),
        }),
        None => Ok(()),
    }
}

/// The strength that errs least on parts that were kept back, and what its planes say of each tile of these parts; `None`
/// as soon as `go_on` says no.
fn strength(
    parts: &[Part],
    folds: &Folds,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Option<(f64, Vec<Vec<f64>>)> {
    // One strength begins where the one before it ended.
    let of_fold = |fold: usize| {
        let learned: Vec<&Part> =
            parts.iter().zip(&folds.of).filter(|(_, own)| **own != fold).map(|(p, _)| p).collect();
        let mut planes: Vec<Plane> = vec![];
        for strength in STRENGTHS {
            if !go_on() {
                return None;
            }
            planes.push(tile_plane::learn(&learned, strength, planes.last()));
        }
        Some(planes)
    };
    let planes = (0..folds.count).into_par_iter().map(of_fold).collect::<Option<Vec<Vec<Plane>>>>()?;
    let scores = |s: usize| {
        let of = |(part, fold): (&Part, &usize)| {
            part.tiles.iter().map(|tile| planes[*fold][s].score(tile)).collect::<Vec<f64>>()
        };
        parts.iter().zip(&folds.of).map(of).collect::<Vec<_>>()
    };
    let all: Vec<_> = (0..STRENGTHS.len()).map(scores).collect();
    let best = (0..all.len()).min_by(|a, b| loss(parts, &all[*a]).total_cmp(&loss(parts, &all[*b])));
    let best = best.unwrap_or(0);
    Some((STRENGTHS[best], all[best].clone()))
}

/// How surprising the kind of each part is to whoever knows its score, each kind counting one half.
fn loss(parts: &[Part], scores: &[Vec<f64>]) -> f64 {
    let bad = parts.iter().filter(|p| p.is_bad).count().max(1) as f64;
    let good = (parts.len() as f64 - bad).max(1.0);
    let of = |(part, tiles): (&Part, &Vec<f64>)| {
        let score = worst(tiles);
        let over = if part.is_bad { -score } else { score };
        (over.max(0.0) + (-over.abs()).exp().ln_1p()) / if part.is_bad { bad } else { good }
    };
    parts.iter().zip(scores).map(of).sum()
}

fn worst(tiles: &[f64]) -> f64 {
    tiles.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// How what the plane of tiles says and what the cells say become one score: each is brought to the same deviation, and
/// their sum to odds.
struct Together {
    /// One over the deviation of each.
    of_tile: f64,
    of_cells: f64,
    scale: f64,
    offset: f64,
}

impl Together {
    fn of(parts: &[Part], tiles: &[Vec<f64>], cells: &[Vec<f64>]) -> Self {
        let one_over = |scores: &[Vec<f64>]| {
            let rows = Rows { dim: 1, values: scores.iter().map(|tiles| worst(tiles)).collect() };
            1.0 / rows.moments().1[0]
        };
        let of_cells = if cells.is_empty() { 0.0 } else { one_over(cells) };
        let mut together = Self { of_tile: one_over(tiles), of_cells, scale: 1.0, offset: 0.0 };
        let is_bad: Vec<bool> = parts.iter().map(|p| p.is_bad).collect();
        let values = (0..parts.len()).map(|i| together.part(i, tiles, cells)).collect();
        let plane = fit(&Rows { dim: 1, values }, &is_bad, &vec![1.0; parts.len()], SCALE_STRENGTH, None);
        (together.scale, together.offset) = (plane.weights[0], plane.bias);
        together
    }

    /// The score of a part's worst tile.
    fn part(&self, i: usize, tiles: &[Vec<f64>], cells: &[Vec<f64>]) -> f64 {
        let of = |(t, tile): (usize, &f64)| {
            let cell = cells.get(i).map_or(0.0, |cells| cells[t]);
            self.scale.mul_add(self.of_tile * tile + self.of_cells * cell, self.offset)
        };
        tiles[i].iter().enumerate().map(of).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The scores of all defective parts, and of all good ones.
    fn parts(&self, parts: &[Part], tiles: &[Vec<f64>], cells: &[Vec<f64>]) -> (Vec<f32>, Vec<f32>) {
        let of = |kind: bool| {
            let own = (0..parts.len()).filter(|i| parts[*i].is_bad == kind);
            own.map(|i| self.part(i, tiles, cells) as f32).collect()
        };
        (of(true), of(false))
    }
}

/// The head as it judges: all planes in the scale of features, about what is usual.
fn head(
    wanted: &Wanted<'_>,
    parts: &[Part],
    plane: &Plane,
    together: &Together,
    cells: &cell_planes::Learned,
    from: TaughtBy,
) -> Head {
    let good = parts.iter().filter(|p| !p.is_bad).flat_map(|p| &p.tiles);
    let rows = Rows { dim: plane.weights.len(), values: good.flatten().copied().collect() };
    let usual = rows.moments().0;
    let dim = usual.len() / POOLED;
    let scale = together.scale * together.of_tile;
    let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let mean = if cells.mean.is_empty() { vec![0.0; dim] } else { cells.mean.clone() };
    let label = |label: &cell_planes::Label| {
        let plane = label.plane.as_ref()?;
        Some(LabelHead {
            label: label.label.clone(),
            weights: single(&plane.weights),
            bias: plane.score(&mean) as f32,
        })
    };
    Head {
        features: wanted.rule.features,
        features_sha256: wanted.features_sha256.clone(),
        bias: scale.mul_add(plane.score(&usual), together.offset) as f32,
        of_cells: (together.scale * together.of_cells) as f32,
        tile: plane.weights.iter().map(|w| (w * scale) as f32).collect(),
        usual: single(&usual),
        labels: cells.labels.iter().filter_map(label).collect(),
        mean: single(&mean),
        from,
    }
}

impl LabelFigures {
    fn of(label: &cell_planes::Label) -> Self {
        let cell_planes::Label { label, parts, auroc, plane } = label;
        Self { label: label.clone(), parts: *parts, auroc: *auroc, is_known: plane.is_some() }
    }
}

fn notes(examples: &[Example], parts: &[Part], folds: &Folds, known: &[cell_planes::Label]) -> Vec<String> {
    let mut notes = vec![];
    let bad = parts.iter().filter(|p| p.is_bad).count();
    for (kind, count) in [("good", parts.len() - bad), ("defective", bad)] {
        if count < KIND_FEW {
            notes.push(format!("{count} {kind} parts are few: confirm at least {KIND_FEW}, better 50"));
        }
    }
    if folds.lots.is_none() {
        notes
            .push("all parts of a kind are of one lot: how the head does on another lot nobody knows".into());
    }
    if examples.iter().all(|e| e.confirmed.lot.is_none()) {
        notes.push(
            "no part names its lot: parts of one lot may have been both learned from and measured on".into(),
        );
    }
    let guessed = parts.iter().filter(|p| p.is_guessed()).count();
    if guessed > 0 {
        notes.push(format!(
            "{guessed} defective parts of several tiles have no box: which tile shows the defect was guessed"
        ));
    }
    for (label, count) in cell_planes::boxed(examples) {
        if let Err(message) = check_label(&label) {
            notes.push(format!("it is not found by its own name: the label {message}"));
        } else if count < BOXED_MIN {
            notes.push(format!(
                "{label}: boxes on {count} parts, {BOXED_MIN} are needed to find it by its own name"
            ));
        }
    }
    for label in known.iter().filter(|label| label.plane.is_none()) {
        notes.push(format!(
            "{}: its cells are told from good ones in {:.2} of all pairs: it is not found by its own name",
            label.label, label.auroc
        ));
    }
    notes
}

#[cfg(test)]
pub(crate) mod tests;
