//! Examples: the features of confirmed parts' tiles.

use super::LearnError;
use crate::domain::frame::Frame;
use crate::domain::learn::LearnKind;
use crate::domain::pipeline::{Pipeline, PromptKind};
use crate::domain::rect::{BoxPx, Rect};
use crate::domain::reference::{ReferenceRule, TileFeatures};
use crate::evaluate::truth::Truth;
use crate::inspect::plan::Plan;
use crate::inspect::reference::bank::smoothed;
use crate::inspect::{fit, reference};
use half::f16;
use vlm::{Ask, Cells, Completion, Job, ModelInfo, Vlm, VlmError, backbone};

/// Most numbers of all examples together, of 16 bits each: 1 GiB.
pub(crate) const VALUES_MAX: usize = 512 << 20;

/// The cells of one tile.
#[derive(Clone, Debug)]
pub(crate) struct TileCells {
    /// Of the frame.
    pub rect: Rect,
    pub rows: usize,
    pub cols: usize,
    pub dim: usize,
    /// `[rows, cols, dim]`.
    values: Vec<f16>,
}

impl TileCells {
    /// Of `[rows, cols, dim]` values.
    pub(crate) fn new(rect: Rect, (rows, cols): (usize, usize), dim: usize, values: &[f32]) -> Self {
        let largest = f16::MAX.to_f32();
        let half = |v: &f32| f16::from_f32(v.clamp(-largest, largest));
        Self { rect, rows, cols, dim, values: values.iter().map(half).collect() }
    }

    /// `[rows * cols, dim]`.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &[f16]> {
        self.values.chunks_exact(self.dim.max(1))
    }

    /// `[rows * cols * dim]`.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.values.iter().map(|v| v.to_f32()).collect()
    }

    /// How many cells it has.
    pub(crate) const fn count(&self) -> usize {
        self.rows * self.cols
    }
}

/// What people have confirmed of a part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confirmed {
    pub is_good: bool,
    pub lot: Option<String>,
    /// The id that the line gave to the part: its views from several cameras have the same.
    pub part_id: Option<String>,
    /// The label of each defect, and its box in pixels of the frame, where one was drawn.
    pub defects: Vec<(String, Option<BoxPx>)>,
}

impl Confirmed {
    /// What is kept back with others of the same name: a lot, or else the views of one part.
    pub(crate) fn kept_with(&self) -> Option<String> {
        let of_part = || self.part_id.as_ref().map(|id| format!("part {id}"));
        self.lot.as_ref().map(|lot| format!("lot {lot}")).or_else(of_part)
    }
}

/// What is known of an image's part.
pub(crate) fn of_truth(truth: &Truth) -> Confirmed {
    Confirmed {
        is_good: !truth.is_defective(),
        lot: truth.lot.clone(),
        part_id: truth.part_id.clone(),
        defects: truth.defects.iter().map(|defect| (defect.label.clone(), defect.bbox_px)).collect(),
    }
}

/// A confirmed part.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    /// Names the picture.
    pub name: String,
    pub confirmed: Confirmed,
    /// In the order of the plan.
    pub tiles: Vec<TileCells>,
}

impl Example {
    pub(crate) const fn is_good(&self) -> bool {
        self.confirmed.is_good
    }

    /// Numbers that it holds.
    pub(crate) fn values(&self) -> usize {
        self.tiles.iter().map(|tile| tile.count() * tile.dim).sum()
    }
}

/// Of a recipe what is to be learned: the prompt's place and its rule.
///
/// # Errors
/// `Recipe`: it has no such prompt, or has several and none is named.
pub(crate) fn asked<'a>(
    pipeline: &'a Pipeline,
    learning: LearnKind,
    id: Option<&str>,
) -> Result<(usize, &'a ReferenceRule), LearnError> {
    let of_kind = pipeline.prompts.iter().enumerate().filter_map(|(i, prompt)| match &prompt.kind {
        PromptKind::Reference(rule)
            if LearnKind::of(rule.lesson) == learning && id.is_none_or(|id| id == prompt.id) =>
        {
            Some((i, rule))
        }
        _ => None,
    });
    let found: Vec<_> = of_kind.collect();
    let (name, kind) = (&pipeline.name, learning.prompts());
    match (found.as_slice(), id) {
        ([one], _) => Ok(*one),
        ([], Some(id)) => Err(recipe(format!("the pipeline {name} has no prompt {id} of kind {kind}"))),
        ([], None) => Err(recipe(format!("the pipeline {name} has no prompt of kind {kind}"))),
        _ => Err(recipe(format!("the pipeline {name} has several prompts of kind {kind}: name one"))),
    }
}

const fn recipe(why: String) -> LearnError {
    LearnError::Recipe { why }
}

/// What is asked of each picture, and what is kept of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub pipeline: &'a Pipeline,
    /// The prompt's place in the pipeline.
    pub prompt: usize,
    /// And so what is kept of a tile.
    pub learning: LearnKind,
}

/// What is asked about one picture.
pub(crate) struct Asked {
    /// One a tile, in the order of the plan.
    pub jobs: Vec<Job>,
    /// Where the tiles are in the frame.
    rects: Vec<Rect>,
}

/// Asks a model in this process for the features of a picture, as the line will see it.
///
/// # Errors
/// `Picture`: it is not a proper one of the recipe, or the model fails.
pub(crate) fn look(
    vlm: &mut dyn Vlm,
    frame: &Frame,
    question: Question<'_>,
    confirmed: Confirmed,
) -> Result<Example, LearnError> {
    let asked = question.ask(frame, vlm.info())?;
    let answers = vlm.answer(&asked.jobs, &|| true);
    question.example(&frame.origin, confirmed, &asked, answers.jobs)
}

impl Question<'_> {
    /// The questions for a picture's features.
    ///
    /// # Errors
    /// `Picture`: it is not a proper one of the recipe.
    pub(crate) fn ask(self, frame: &Frame, model: &ModelInfo) -> Result<Asked, LearnError> {
        let bad = |why: String| LearnError::Picture { picture: frame.origin.clone(), why };
        let Self { pipeline, prompt, .. } = self;
        fit::judge(frame, pipeline).map_err(|reason| bad(reason.to_string()))?;
        let asked = &pipeline.prompts[prompt];
        let PromptKind::Reference(rule) = &asked.kind else {
            return Err(bad("the prompt asks for no features".into()));
        };
        let alone = Pipeline { prompts: vec![asked.clone()], clip: None, ..pipeline.clone() };
        let plan = Plan::to_learn(frame, &alone, model).map_err(|reason| bad(reason.to_string()))?;
        let ask = Ask::cells(reference::features(rule.features));
        let jobs = plan.jobs().map(|job| Job { asks: vec![ask.clone()], ..job }).collect();
        Ok(Asked { jobs, rects: plan.regions.iter().map(|region| region.tile.rect).collect() })
    }

    /// The example that the answers, in the order of the jobs, make of a picture.
    ///
    /// # Errors
    /// `Picture`: a tile was not answered.
    pub(crate) fn example(
        self,
        name: &str,
        confirmed: Confirmed,
        asked: &Asked,
        answers: Vec<Vec<Result<Completion, VlmError>>>,
    ) -> Result<Example, LearnError> {
        let bad = |why: String| LearnError::Picture { picture: name.to_owned(), why };
        let mut tiles = vec![];
        for (tile, (answer, rect)) in answers.into_iter().zip(&asked.rects).enumerate() {
            let answer = answer.into_iter().next().ok_or_else(|| bad("a tile was not answered".into()))?;
            let cells = answer.map_err(|e| bad(e.to_string()))?.cells;
            let Cells { rows, cols, dim, values } =
                cells.ok_or_else(|| bad("a tile has no features".into()))?;
            let values = match self.learning {
                // As a bank compares it: each cell with its neighbours.
                LearnKind::Bank => smoothed(TileFeatures { tile, rows, cols, dim, values: &values }),
                LearnKind::Head => values,
            };
            tiles.push(TileCells::new(*rect, (rows, cols), dim, &values));
        }
        if tiles.len() < asked.rects.len() {
            return Err(bad(format!("{} of {} tiles were answered", tiles.len(), asked.rects.len())));
        }
        Ok(Example { name: name.to_owned(), confirmed, tiles })
    }
}

/// Side of a cell in pixels of the frame, in the first tile.
pub(crate) fn cell_px(pipeline: &Pipeline, examples: &[Example]) -> f64 {
    let first = examples.iter().flat_map(|e| &e.tiles).next();
    let seen = first.map_or(1.0, |t| (t.cols.max(t.rows) * backbone::CELL_PX) as f64);
    let side = pipeline.frame.roi.map_or(pipeline.tiling.tile_px, |roi| roi.width().max(roi.height()));
    f64::from(side.min(pipeline.tiling.tile_px)) / seen * backbone::CELL_PX as f64
}
