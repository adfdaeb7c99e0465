//! Pictures of the jobs of one `answer`: grouped for the vision tower, then waiting for the text model.

use super::batch::Picture;
use super::image::{PatchGrid, Patches};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most patches in one pass of the vision tower, unless one picture has more. It bounds the memory; with eight
/// times as many, tiles of 256x256 take a third longer in the tower of a 4B, as the rows of text do.
pub(super) const VISION_PATCHES_MAX: usize = 1024;

/// A job whose pictures are encoded; a pair of a clip's pictures counts as one.
pub(super) struct Encoded {
    pub(super) job: usize,
    pub(super) pictures: Vec<Arc<Picture>>,
}

/// A part of what the questions of a job share, with its first position.
pub(super) enum Piece {
    Ids(Vec<u32>, u32),
    Picture(Arc<Picture>, u32),
}

impl Piece {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Ids(ids, _) => ids.len(),
            Self::Picture(p, _) => p.rows * p.cols,
        }
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
