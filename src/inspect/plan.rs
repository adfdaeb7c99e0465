//! What is asked about one frame: every prompt of every tile, and each region of text once.
//!
//! A prompt about clips is shown the same cut of every picture. That is another job than the still's of
//! this tile, but the tile is the same one: what both find is merged as what two prompts of a tile find.

use super::answer::{defects_grammar, lines_grammar};
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::grid::{Grid, Tile};
use crate::domain::pipeline::{FrameRule, Pipeline, PixelBudget, Prompt, PromptKind, Tiling};
use crate::domain::rect::Rect;
use crate::vlm::{Ask, ClipFrame, Job, Sampling, Shown};
use image::imageops::crop_imm;
use image::RgbImage;
use std::sync::Arc;
use std::time::Duration;

/// Longest answer about defects, in tokens: some twelve defects. A longer one is cut off, and a
/// cut-off answer is a review.
const DEFECTS_TOKENS_MAX: usize = 512;
/// Longest answer about text, in tokens: some ten lines.
const LINES_TOKENS_MAX: usize = 256;

/// A cut of the frame, or of all pictures of its clip, and the prompts that are asked of it.
#[derive(Clone, Debug)]
pub struct Region {
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
pub struct Plan {
    pub regions: Vec<Region>,
}

impl Plan {
    /// Cuts a frame as its pipeline says.
    ///
    /// # Errors
    /// `Reason::Frame` when the pipeline does not fit the frame: its regions do not, or the frame has fewer
    /// pictures than the pipeline's clip, or pictures of several sizes.
    pub fn new(frame: &Frame, pipeline: &Pipeline) -> Result<Self, Reason> {
        let (width, height) = frame.pixels.dimensions();
        let pictures = pictures(frame, pipeline)?;
        let asks: Vec<Ask> = pipeline.prompts.iter().map(ask).collect();
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
            let grid =
                Grid::new(width, height, &pipeline.frame, &pipeline.tiling).map_err(|e| refused(&e))?;
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
        for r in &mut regions {
            r.shown = if r.clip {
                Shown::Clip(
                    pictures.iter().map(|p| ClipFrame { image: cut(&p.image, r.tile), at: p.at }).collect(),
                )
            } else {
                Shown::Images(vec![cut(&frame.pixels, r.tile)])
            };
        }
        Ok(Self { regions })
    }

    /// The engine's jobs, one a region, in order.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        self.regions.iter().map(|r| Job {
            shown: r.shown.clone(),
            min_pixels: r.budget.min_pixels,
            max_pixels: r.budget.max_pixels,
            asks: r.asks.clone(),
        })
    }

    /// The tiles of all regions.
    pub fn tiles(&self) -> Vec<Tile> {
        self.regions.iter().map(|r| r.tile).collect()
    }
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
        let message = format!("the pictures of a clip differ in size: {other:?} and {size:?} px");
        return Err(Reason::Frame { message });
    }
    let length = earlier.first().map_or(Duration::ZERO, |first| first.before);
    let of = |image, before| ClipFrame { image, at: length.saturating_sub(before) };
    let earlier = earlier.iter().map(|p| of(Arc::clone(&p.pixels), p.before));
    Ok(earlier.chain([of(Arc::clone(&frame.pixels), Duration::ZERO)]).collect())
}

fn cut(picture: &RgbImage, tile: Tile) -> Arc<RgbImage> {
    let Rect { x0, y0, .. } = tile.rect;
    Arc::new(crop_imm(picture, x0, y0, tile.rect.width(), tile.rect.height()).to_image())
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
    let rule = FrameRule { roi: Some(roi), mask: vec![] };
    let grid = Grid::new(width, height, &rule, &tiling).map_err(|e| refused(&e))?;
    Ok(grid.tiles[0].rect)
}

fn refused(error: &impl ToString) -> Reason {
    Reason::Frame { message: error.to_string() }
}

fn ask(prompt: &Prompt) -> Ask {
    let (grammar, max_tokens) = match &prompt.kind {
        PromptKind::Defects { labels } => (defects_grammar(labels), DEFECTS_TOKENS_MAX),
        PromptKind::Text { .. } => (lines_grammar(), LINES_TOKENS_MAX),
    };
    Ask {
        text: prompt.text.as_str().into(),
        grammar: Some(grammar.into()),
        max_tokens,
        sampling: Sampling::default(),
    }
}
