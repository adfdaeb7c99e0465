//! What is asked about one frame: every prompt of every tile, and each region of text once.

use super::answer::{defects_grammar, lines_grammar};
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::grid::{Grid, Tile};
use crate::domain::pipeline::{FrameRule, Pipeline, PixelBudget, Prompt, PromptKind, Tiling};
use crate::domain::rect::Rect;
use crate::vlm::{Ask, Job, Sampling};
use image::imageops::crop_imm;
use image::RgbImage;
use std::sync::Arc;

/// Longest answer about defects, in tokens: some twelve defects. A longer one is cut off, and a
/// cut-off answer is a review.
const DEFECTS_TOKENS_MAX: usize = 512;
/// Longest answer about text, in tokens: some ten lines.
const LINES_TOKENS_MAX: usize = 256;

/// A cut of the frame and the prompts that are asked of it.
#[derive(Clone, Debug)]
pub struct Region {
    /// Tiles of the grid come first; the regions of prompts with a region of their own follow.
    pub tile: Tile,
    /// Indexes into the pipeline's prompts.
    pub prompts: Vec<usize>,
    budget: PixelBudget,
    image: Arc<RgbImage>,
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
    /// `Reason::Frame` when the pipeline does not fit the frame.
    pub fn new(frame: &Frame, pipeline: &Pipeline) -> Result<Self, Reason> {
        let (width, height) = frame.pixels.dimensions();
        let asks: Vec<Ask> = pipeline.prompts.iter().map(ask).collect();
        let mut regions: Vec<Region> = vec![];
        let mut add = |tile: Tile, prompt: usize| {
            let budget = pipeline.prompts[prompt].budget;
            match regions.iter_mut().find(|r| r.tile == tile && r.budget == budget) {
                Some(region) => {
                    region.prompts.push(prompt);
                    region.asks.push(asks[prompt].clone());
                }
                None => regions.push(Region {
                    tile,
                    prompts: vec![prompt],
                    budget,
                    image: Arc::new(RgbImage::new(0, 0)),
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
            let Rect { x0, y0, .. } = r.tile.rect;
            r.image = Arc::new(
                crop_imm(&*frame.pixels, x0, y0, r.tile.rect.width(), r.tile.rect.height()).to_image(),
            );
        }
        Ok(Self { regions })
    }

    /// The engine's jobs, one a region, in order.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        self.regions.iter().map(|r| Job {
            images: vec![Arc::clone(&r.image)],
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
