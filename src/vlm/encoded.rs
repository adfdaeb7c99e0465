//! Pictures of jobs: grouped for the vision tower, then waiting for the text model.

use super::Rank;
use super::batch::{Batch, Picture};
use super::beside::Beside;
use super::image::{PatchGrid, Patches};
use super::lora::Terms;
use super::prefix::Key;
use std::sync::Arc;

/// Most patches in one pass of the vision tower, unless one picture has more. It bounds the memory; with eight
/// times as many, tiles of 256x256 take a third longer in the tower of a 4B, as the rows of text do.
pub(super) const VISION_PATCHES_MAX: usize = 1024;

/// A job whose pictures are encoded; a pair of a clip's pictures counts as one.
pub(super) struct Encoded {
    pub(super) job: u64,
    pub(super) pictures: Vec<Arc<Picture>>,
    /// Of the pictures of a conversation.
    pub(super) hashes: Vec<Key>,
    /// Rows that a conversation needs; 0: not known yet.
    pub(super) needed: usize,
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

    /// Adds its rows to a pass.
    pub(super) fn put(&self, batch: &mut Batch) {
        match self {
            Self::Ids(ids, start) => batch.tokens(ids, *start),
            Self::Picture(picture, start) => batch.picture(picture, *start),
        }
    }
}

/// A job whose pictures the tower has not seen.
pub(super) struct Unseen {
    pub(super) id: u64,
    pub(super) rank: Rank,
    pub(super) patches: Vec<Patches>,
    /// Of the pictures of a conversation, which are encoded one by one.
    pub(super) hashes: Vec<Key>,
    /// The adapter that it is answered with.
    pub(super) beside: Option<Arc<Beside>>,
    /// Those that were encoded already.
    pub(super) seen: Vec<Arc<Picture>>,
}

impl Unseen {
    /// True for a conversation that shows something.
    pub(super) fn is_conversation(&self) -> bool {
        !self.hashes.is_empty()
    }

    pub(super) fn terms(&self) -> Option<&Arc<Terms>> {
        self.beside.as_ref().map(|beside| &beside.terms)
    }

    pub(super) fn count(&self) -> usize {
        self.patches.iter().map(|p| p.grid.patches()).sum()
    }

    /// Grid and frames of its pictures, where they have them in common.
    fn form(&self) -> Option<(PatchGrid, usize)> {
        if self.is_conversation() {
            return None;
        }
        let first = self.patches.first().filter(|first| self.patches.iter().all(|p| p.is_like(first)))?;
        Some((first.grid, first.frames))
    }
}

/// Takes the first job out, and others of its class whose pictures have the same size, as many as the tower takes at once;
/// stills and pairs are not mixed, nor jobs of different adapters.
pub(super) fn next_group(unseen: &mut Vec<Unseen>) -> Vec<Unseen> {
    let Some(first) = unseen.first() else { return vec![] };
    let (class, form, beside, mut patches) = (first.rank.class, first.form(), first.beside.clone(), 0);
    let is_its = |job: &Unseen| match (&job.beside, &beside) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let mut is_first = true;
    let taken = |job: &mut Unseen| {
        let fits = form.is_some()
            && job.rank.class == class
            && job.form() == form
            && is_its(job)
            && patches + job.count() <= VISION_PATCHES_MAX;
        let takes = std::mem::take(&mut is_first) || fits;
        patches += if takes { job.count() } else { 0 };
        takes
    };
    unseen.extract_if(.., taken).collect()
}
