//! What a pass is put together from: encoded pictures, and rows of pictures and tokens.

use super::attention::{Part, Span};
use super::error::VlmError;
use super::image::{PatchGrid, Patches};
use super::rope::{image_positions, text_positions, Position};
use super::text::{Batch, Text};
use super::vision::VisionConfig;
use candle_core::Tensor;
use std::collections::VecDeque;

/// Most patches in one pass of the vision tower, unless one picture has more. It bounds the memory; with eight
/// times as many, tiles of 256x256 take a third longer in the tower of a 4B, as the rows of text do.
pub(super) const VISION_PATCHES_MAX: usize = 1024;

/// Rows of pictures behind the prefix, shared by the questions of one job.
pub(super) struct Shared {
    pub(super) job: usize,
    /// The prefix that the rows stand behind: all of it, or for a clip its opening.
    pub(super) before: Span,
    pub(super) span: Span,
    pub(super) embeddings: Tensor,
    pub(super) deepstack: Vec<Tensor>,
    pub(super) positions: Vec<Position>,
    /// Questions that still use the span.
    pub(super) users: usize,
}

/// The vision tower's rows of one picture, or of one pair of a clip's pictures.
pub(super) struct Picture {
    pub(super) grid: PatchGrid,
    pub(super) embeds: Tensor,
    pub(super) deepstack: Vec<Tensor>,
}

/// A job whose pictures are encoded.
pub(super) struct Encoded {
    pub(super) job: usize,
    pub(super) pictures: Vec<Picture>,
}

/// A part of what the questions of a job share, with its first position.
pub(super) enum Piece<'a> {
    Ids(Vec<u32>, u32),
    Picture(&'a Picture, u32),
}

impl Piece<'_> {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Ids(ids, _) => ids.len(),
            Self::Picture(p, _) => p.embeds.dims()[0],
        }
    }
}

/// What a job brought into the next pass.
pub(super) struct Entered {
    /// Index into `Run::shared`.
    pub(super) shared: Option<usize>,
    pub(super) rows: usize,
}

pub(super) fn share(
    text: &Text,
    vision: &VisionConfig,
    e: &Encoded,
    pieces: &[Piece<'_>],
    [before, span]: [Span; 2],
    users: usize,
) -> Result<Shared, VlmError> {
    let mut embeddings = vec![];
    let mut deepstack = vec![vec![]; vision.deepstack.len()];
    let mut positions = vec![];
    for piece in pieces {
        match piece {
            Piece::Ids(ids, at) => {
                let rows = text.embed(ids)?;
                deepstack.iter_mut().try_for_each(|d| rows.zeros_like().map(|z| d.push(z)))?;
                embeddings.push(rows);
                positions.extend(text_positions(*at, ids.len()));
            }
            Piece::Picture(p, at) => {
                embeddings.push(p.embeds.clone());
                deepstack.iter_mut().zip(&p.deepstack).for_each(|(d, f)| d.push(f.clone()));
                positions.extend(image_positions(
                    *at,
                    p.grid.rows / vision.merge,
                    p.grid.cols / vision.merge,
                ));
            }
        }
    }
    let deepstack = deepstack.iter().map(|d| Tensor::cat(d, 0)).collect::<candle_core::Result<_>>()?;
    Ok(Shared {
        job: e.job,
        before,
        span,
        embeddings: Tensor::cat(&embeddings, 0)?,
        deepstack,
        positions,
        users,
    })
}

/// The rows of a pass while it is put together: pictures first, then tokens.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) positions: Vec<Position>,
    pub(super) parts: Vec<Part>,
    pub(super) pictures: Vec<(Tensor, Vec<Tensor>)>,
}

impl Rows {
    pub(super) fn add(&mut self, positions: impl Iterator<Item = Position>, context: Vec<Span>, own: Span) {
        let row = self.positions.len();
        self.positions.extend(positions);
        self.parts.push(Part { row, rows: self.positions.len() - row, context, own, causal: true });
    }

    pub(super) fn batch(self, text: &Text, ids: &[u32]) -> Result<Batch, VlmError> {
        let words = text.embed(ids)?;
        let mut embeddings: Vec<Tensor> = self.pictures.iter().map(|(e, _)| e.clone()).collect();
        let features = self.pictures.first().map_or(0, |(_, d)| d.len());
        let mut deepstack = vec![];
        for k in 0..features {
            let mut rows: Vec<Tensor> = self.pictures.iter().map(|(_, d)| d[k].clone()).collect();
            rows.push(words.zeros_like()?);
            deepstack.push(Tensor::cat(&rows, 0)?);
        }
        embeddings.push(words);
        Ok(Batch {
            embeddings: Tensor::cat(&embeddings, 0)?,
            positions: self.positions,
            parts: self.parts,
            deepstack,
        })
    }
}

/// Grid and frames that all pictures of some jobs have in common, their patches, and the jobs.
type Group = (Option<(PatchGrid, usize)>, usize, Vec<usize>);

/// Jobs whose pictures have one size, in batches that the vision tower takes at once; stills and pairs
/// are not mixed.
pub(super) fn group(pictures: &[Option<Vec<Patches>>]) -> VecDeque<Vec<usize>> {
    let mut groups: Vec<Group> = vec![];
    for (job, pictures) in pictures.iter().enumerate() {
        let Some(pictures) = pictures else { continue };
        let first = pictures.first().filter(|first| pictures.iter().all(|p| p.is_like(first)));
        let grid = first.map(|p| (p.grid, p.frames));
        let patches: usize = pictures.iter().map(|p| p.grid.patches()).sum();
        let fits = |g: &&mut Group| g.0 == grid && grid.is_some() && g.1 + patches <= VISION_PATCHES_MAX;
        match groups.iter_mut().find(fits) {
            Some(g) => {
                g.1 += patches;
                g.2.push(job);
            }
            None => groups.push((grid, patches, vec![job])),
        }
    }
    groups.into_iter().map(|(_, _, jobs)| jobs).collect()
}
