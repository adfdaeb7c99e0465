//! The rows of one pass of the text model, put together sequence by sequence.
//!
//! ```text
//! tokens | picture --> rows, with their positions     part --> the rows since the last one are a sequence
//! ```

use super::attention::{Parts, Span};
use super::lora::{Adapted, Terms};
use super::rope::{Position, image_positions, text_positions};
use candle_core::Tensor;
use std::sync::Arc;

/// What the vision tower says about one picture, or one pair of a clip's pictures.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Merged blocks: one row of the text model each.
    pub rows: usize,
    /// Merged blocks in a row of the picture.
    pub cols: usize,
    /// `[rows * cols, hidden]`.
    pub embeds: Tensor,
    /// The same shape, one for each DeepStack feature.
    pub deepstack: Vec<Tensor>,
}

/// The rows of one pass. Its memory is used again after `clear`.
#[derive(Debug, Default)]
pub struct Batch {
    sources: Vec<Source>,
    ids: Vec<u32>,
    positions: Vec<Position>,
    parts: Parts,
    /// The rows of jobs that are answered with an adapter, in their order.
    adapted: Vec<Adapted>,
}

/// Where rows come from.
#[derive(Clone, Debug)]
enum Source {
    /// So many of the ids.
    Tokens(usize),
    Picture(Arc<Picture>),
}

/// Rows of one source.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    Tokens(&'a [u32]),
    Picture(&'a Picture),
}

impl Batch {
    /// Forgets all rows and keeps their memory.
    pub fn clear(&mut self) {
        self.sources.clear();
        self.ids.clear();
        self.positions.clear();
        self.parts.clear();
        self.adapted.clear();
    }

    /// Adds a row for each token; the first has position `start`.
    pub fn tokens(&mut self, ids: &[u32], start: u32) {
        self.ids.extend_from_slice(ids);
        self.positions.extend(text_positions(start, ids.len()));
        match self.sources.last_mut() {
            Some(Source::Tokens(n)) => *n += ids.len(),
            _ => self.sources.push(Source::Tokens(ids.len())),
        }
    }

    /// Adds the rows of a picture that starts at position `start`.
    pub fn picture(&mut self, picture: &Arc<Picture>, start: u32) {
        self.positions.extend(image_positions(start, picture.rows, picture.cols));
        self.sources.push(Source::Picture(Arc::clone(picture)));
    }

    /// Makes a sequence of the rows that were added since the last one. They see the keys of `context` and, causally,
    /// their own, which are written from row `own` of the arena on.
    pub fn part(&mut self, context: impl IntoIterator<Item = Span>, own: usize) {
        self.parts.push(self.positions.len() - self.parts.rows(), context, own, true);
    }

    /// As `part`, of a job that is answered with an adapter.
    pub fn part_of(
        &mut self,
        terms: Option<&Arc<Terms>>,
        context: impl IntoIterator<Item = Span>,
        own: usize,
    ) {
        let first = self.parts.rows();
        self.part(context, own);
        if let Some(terms) = terms {
            self.adapted.push(Adapted { rows: first..self.parts.rows(), terms: Arc::clone(terms) });
        }
    }

    /// The rows that adapters add to.
    pub fn adapted(&self) -> &[Adapted] {
        &self.adapted
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Positions of all rows.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Which rows belong together, and which keys they see.
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Where the rows come from, in their order.
    pub(crate) fn sources(&self) -> impl Iterator<Item = Rows<'_>> {
        let mut at = 0;
        self.sources.iter().map(move |source| match source {
            Source::Tokens(n) => {
                at += n;
                Rows::Tokens(&self.ids[at - n..at])
            }
            Source::Picture(picture) => Rows::Picture(picture),
        })
    }
}

impl Rows<'_> {
    /// Number of rows.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Picture(p) => p.rows * p.cols,
        }
    }
}
