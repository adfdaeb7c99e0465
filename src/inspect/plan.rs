//! What is asked about one frame: every prompt of every tile, and each region of text once.
//!
//! A prompt about clips is shown the same cut of every picture. That is another job than the still's of
//! this tile, but the tile is the same one: what both find is merged as what two prompts of a tile find.
//!
//! A model that states its labels is asked all of them in its own order, whichever of them the recipe lists: a
//! shorter list is another question, one that it may never have learned to answer. What it names beyond the
//! recipe is dropped from its answer. A model that states none is asked the recipe's list.

use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::grid::{Grid, Tile};
use crate::domain::pipeline::{FrameRule, Pipeline, PixelBudget, Prompt, PromptKind, Tiling};
use crate::domain::rect::Rect;
use crate::inspect::adapter::{self, model_of};
use crate::inspect::reference;
use crate::pixels;
use image::RgbImage;
use std::sync::Arc;
use std::time::Duration;
use vlm::{AdapterFile, Ask, ClipFrame, Form, Job, ModelInfo, Shown};

/// Longest answer about defects, in tokens: some twelve defects. A longer one is cut off, and a
/// cut-off answer is a review.
pub(super) const DEFECTS_TOKENS_MAX: usize = 512;
/// Longest answer about text, in tokens: some ten lines.
pub(super) const LINES_TOKENS_MAX: usize = 256;

/// Where the labels go in a prompt's text.
pub(crate) const LABELS_PLACE: &str = "{labels}";

/// A cut of the frame, or of all pictures of its clip, and the prompts that are asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Tiles of the grid come first; the regions of prompts with a region of their own follow.
    pub tile: Tile,
    /// Indexes into the pipeline's prompts.
    pub prompts: Vec<usize>,
    budget: PixelBudget,
    /// Shows the cut of every picture of the clip, not of the last one alone.
    clip: bool,
    shown: Shown,
    asks: Vec<Ask>,
}

/// Everything that is asked about one frame.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub regions: Vec<Region>,
    adapter: Option<AdapterFile>,
}

impl Plan {
    /// Cuts a frame as its pipeline says.
    ///
    /// # Errors
    /// [`Reason::Frame`] when the pipeline does not fit the frame: its regions do not, or the frame has fewer
    /// pictures than the pipeline's clip, or pictures of several sizes. [`Reason::Engine`] when the pipeline lists a
    /// label that is not among those of the model.
    pub(crate) fn new(frame: &Frame, pipeline: &Pipeline, model: &ModelInfo) -> Result<Self, Reason> {
        answerable(pipeline, &model_of(pipeline, model))?;
        Self::to_learn(frame, pipeline, model)
    }

    /// As `new`, also where what the pipeline judges by was not learned yet.
    ///
    /// # Errors
    /// As `new`.
    pub(crate) fn to_learn(frame: &Frame, pipeline: &Pipeline, model: &ModelInfo) -> Result<Self, Reason> {
        let (width, height) = frame.pixels.dimensions();
        let pictures = pictures(frame, pipeline)?;
        let mut regions = regions(width, height, pipeline, &model_of(pipeline, model))?;
        for r in &mut regions {
            r.shown = if r.clip {
                Shown::Clip(
                    pictures.iter().map(|p| ClipFrame { image: cut(&p.image, r.tile), at: p.at }).collect(),
                )
            } else {
                Shown::Images(vec![cut(&frame.pixels, r.tile)])
            };
        }
        Ok(Self { regions, adapter: pipeline.adapter.as_ref().map(adapter::file) })
    }

    /// The engine's jobs with all questions, one a region, in order: also those that `skip` would leave out.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        let all = self.regions.iter().enumerate();
        all.map(|(i, region)| self.job(i, &(0..region.asks.len()).collect::<Vec<_>>()))
    }

    /// The job about a region with the questions at these places among its prompts.
    pub(crate) fn job(&self, region: usize, asks: &[usize]) -> Job {
        let of = &self.regions[region];
        Job {
            shown: of.shown.clone(),
            min_pixels: of.budget.min_pixels,
            max_pixels: of.budget.max_pixels,
            asks: asks.iter().map(|k| of.asks[*k].clone()).collect(),
            adapter: self.adapter.clone(),
        }
    }

    /// The tiles of all regions.
    pub(crate) fn tiles(&self) -> Vec<Tile> {
        self.regions.iter().map(|r| r.tile).collect()
    }
}

/// Whether this model can answer what a pipeline asks.
fn answerable(pipeline: &Pipeline, model: &ModelInfo) -> Result<(), Reason> {
    for prompt in &pipeline.prompts {
        if let Some(message) = unknown_label(prompt, &model.labels) {
            return Err(Reason::Engine { message });
        }
        if let PromptKind::Reference(rule) = &prompt.kind
            && let Some(message) = reference::unfit(rule, model)
        {
            return Err(Reason::Engine { message });
        }
    }
    Ok(())
}

/// The cuts of a picture of this size with what is asked of them; nothing is shown yet.
fn regions(width: u32, height: u32, pipeline: &Pipeline, model: &ModelInfo) -> Result<Vec<Region>, Reason> {
    let asks: Vec<Ask> = pipeline.prompts.iter().map(|prompt| ask(prompt, model)).collect();
    let mut regions: Vec<Region> = vec![];
    let mut add = |tile: Tile, prompt: usize| {
        let Prompt { budget, clip, .. } = pipeline.prompts[prompt];
        match regions.iter_mut().find(|r| r.tile == tile && r.budget == budget && r.clip == clip) {
            Some(region) => {
                region.prompts.push(prompt);
                region.asks.push(asks[prompt].clone());
            }
            None => regions.push(Region {
                tile,
                prompts: vec![prompt],
                budget,
                clip,
                shown: Shown::Images(vec![]),
                asks: vec![asks[prompt].clone()],
            }),
        }
    };
    let everywhere: Vec<usize> =
        (0..pipeline.prompts.len()).filter(|p| pipeline.prompts[*p].roi.is_none()).collect();
    let mut next = 0;
    if !everywhere.is_empty() {
        let grid = Grid::new(width, height, &pipeline.frame, &pipeline.tiling).map_err(|e| refused(&e))?;
        next = grid.tiles.len();
        for tile in grid.tiles {
            everywhere.iter().for_each(|p| add(tile, *p));
        }
    }
    for (i, prompt) in pipeline.prompts.iter().enumerate() {
        if let Some(roi) = prompt.roi {
            add(Tile { index: next, rect: whole(width, height, roi)? }, i);
            next += 1;
        }
    }
    if regions.is_empty() {
        return Err(Reason::Frame { message: "the pipeline asks nothing".into() });
    }
    Ok(regions)
}

/// A question about defects, as the line asks it of one cut of a still.
#[derive(Clone, Debug)]
pub(crate) struct AskedDefects {
    pub tile: Tile,
    /// Index into the pipeline's prompts.
    pub prompt: usize,
    pub question: Arc<str>,
    /// The labels that the answer may name.
    pub labels: Vec<String>,
    pub budget: PixelBudget,
}

/// All questions about defects that the line asks of a still of this size, in the order of the plan.
///
/// # Errors
/// As [`Plan::new`].
pub(crate) fn asked_of_a_still(
    width: u32,
    height: u32,
    pipeline: &Pipeline,
    model: &ModelInfo,
) -> Result<Vec<AskedDefects>, Reason> {
    let model = &*model_of(pipeline, model);
    answerable(pipeline, model)?;
    let regions = regions(width, height, pipeline, model)?;
    let stills = regions.iter().filter(|region| !region.clip);
    let all = stills.flat_map(|region| region.prompts.iter().zip(&region.asks).map(move |ask| (region, ask)));
    let of_defects = all.filter_map(|(region, (&prompt, ask))| match &pipeline.prompts[prompt].kind {
        PromptKind::Defects { labels } => Some(AskedDefects {
            tile: region.tile,
            prompt,
            question: Arc::clone(&ask.text),
            labels: asked_labels(labels, model).to_vec(),
            budget: region.budget,
        }),
        PromptKind::Text { .. } | PromptKind::Reference(_) => None,
    });
    Ok(of_defects.collect())
}

/// All pictures of the frame's clip with their times, the frame's own last; none when the pipeline takes
/// stills. Of a clip that is longer than the pipeline's, the last pictures are taken.
fn pictures(frame: &Frame, pipeline: &Pipeline) -> Result<Vec<ClipFrame>, Reason> {
    let Some(rule) = pipeline.clip else { return Ok(vec![]) };
    let (want, have) = (rule.frames, frame.clip.len() + 1);
    if have < want {
        let message = format!("the pipeline asks about a clip of {want} pictures, and this frame has {have}");
        return Err(Reason::Frame { message });
    }
    let earlier = &frame.clip[have - want..];
    let size = frame.pixels.dimensions();
    if let Some(other) = earlier.iter().map(|p| p.pixels.dimensions()).find(|other| *other != size) {
        let ((w0, h0), (w, h)) = (other, size);
        let message = format!("the pictures of a clip differ in size: {w0}x{h0} and {w}x{h} px");
        return Err(Reason::Frame { message });
    }
    let length = earlier.first().map_or(Duration::ZERO, |first| first.before);
    let of = |image, before| ClipFrame { image, at: length.saturating_sub(before) };
    let earlier = earlier.iter().map(|p| of(Arc::clone(&p.pixels), p.before));
    Ok(earlier.chain([of(Arc::clone(&frame.pixels), Duration::ZERO)]).collect())
}

/// What a tile shows of a picture.
///
/// # Panics
/// When the tile leaves the picture.
pub(crate) fn cut(picture: &RgbImage, tile: Tile) -> Arc<RgbImage> {
    let Rect { x0, y0, .. } = tile.rect;
    Arc::new(pixels::cut(picture, (x0, y0), (tile.rect.width(), tile.rect.height())))
}

/// A region of its own, clipped to the frame and grown where it is too thin for the model.
fn whole(width: u32, height: u32, roi: Rect) -> Result<Rect, Reason> {
    let side = width.max(height);
    let tiling = Tiling {
        tile_px: side,
        overlap_px: 0,
        max_tiles: 1,
        budget: PixelBudget { min_pixels: 1, max_pixels: u32::MAX },
    };
    let rule = FrameRule { roi: Some(roi), ..FrameRule::default() };
    let grid = Grid::new(width, height, &rule, &tiling).map_err(|e| refused(&e))?;
    Ok(grid.tiles[0].rect)
}

fn refused(error: &impl ToString) -> Reason {
    Reason::Frame { message: error.to_string() }
}

/// The labels that a model is asked: all of its own where it states them, otherwise the recipe's.
pub(crate) fn asked_labels<'a>(labels: &'a [String], model: &'a ModelInfo) -> &'a [String] {
    if model.labels.is_empty() { labels } else { &model.labels }
}

/// What a model is asked, with the labels in their place.
pub(crate) fn question(prompt: &Prompt, model: &ModelInfo) -> String {
    match &prompt.kind {
        PromptKind::Defects { labels } => {
            prompt.text.replace(LABELS_PLACE, &asked_labels(labels, model).join(", "))
        }
        PromptKind::Text { .. } => prompt.text.clone(),
        // What judges is what was learned; of that the hash is the question.
        PromptKind::Reference(rule) => {
            let file = rule.learned.as_ref().map_or("", |learned| &learned.sha256);
            format!("{} {file}", rule.features.as_str())
        }
    }
}

/// Why a model that states `stated` can never find what a prompt asks about; `None`: it can, or states nothing.
pub(crate) fn unknown_label(prompt: &Prompt, stated: &[String]) -> Option<String> {
    let PromptKind::Defects { labels } = &prompt.kind else { return None };
    let unknown = labels.iter().find(|label| !stated.is_empty() && !stated.contains(label))?;
    Some(format!(
        "the model was not trained with the label {unknown:?} of prompt {}; it knows {}",
        prompt.id,
        stated.join(", ")
    ))
}

fn ask(prompt: &Prompt, model: &ModelInfo) -> Ask {
    let (form, max_tokens) = match &prompt.kind {
        PromptKind::Reference(rule) => return Ask::cells(reference::features(rule.features)),
        PromptKind::Defects { labels } => {
            (Form::Defects { labels: asked_labels(labels, model).into() }, DEFECTS_TOKENS_MAX)
        }
        PromptKind::Text { .. } => (Form::Lines, LINES_TOKENS_MAX),
    };
    Ask::new(&question(prompt, model), form, max_tokens)
}
