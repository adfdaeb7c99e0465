//! The rows of one pass of the text model, put together sequence by sequence.
//!
//! ```text
//! tokens | picture --> rows, with their positions     part --> the rows since the last one are a sequence
//!                                                     want_next --> and the token after it is wanted
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
    all: Layout,
    /// The rows after which a token is wanted, rising.
    wanted: Vec<usize>,
    /// These rows alone, one after the other.
    last: Layout,
}

/// Which rows belong together, which keys they see, and what adapters add to them.
#[derive(Debug, Default)]
pub struct Layout {
    /// The sequences, in the order of their rows.
    pub parts: Parts,
    /// The rows of jobs that are answered with an adapter, in their order.
    pub adapted: Vec<Adapted>,
}

impl Layout {
    fn clear(&mut self) {
        self.parts.clear();
        self.adapted.clear();
    }

    /// Adds `rows` rows as a sequence of a job that may be answered with an adapter.
    fn push(
        &mut self,
        rows: usize,
        terms: Option<&Arc<Terms>>,
        context: impl IntoIterator<Item = Span>,
        own: usize,
    ) {
        let first = self.parts.rows();
        self.parts.push(rows, context, own, true);
        if let Some(terms) = terms {
            self.adapted.push(Adapted { rows: first..first + rows, terms: Arc::clone(terms) });
        }
    }
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
        self.all.clear();
        self.wanted.clear();
        self.last.clear();
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
        self.part_of(None, context, own);
    }

    /// As `part`, of a job that may be answered with an adapter.
    pub fn part_of(
        &mut self,
        terms: Option<&Arc<Terms>>,
        context: impl IntoIterator<Item = Span>,
        own: usize,
    ) {
        self.all.push(self.positions.len() - self.all.parts.rows(), terms, context, own);
    }

    /// Asks for the token after the last row, which is the last one of a part.
    ///
    /// # Panics
    /// When there is no part.
    pub fn want_next(&mut self) {
        let Layout { parts, adapted } = &self.all;
        let part = parts.iter().last().expect("a part comes first");
        let row = part.row + part.rows - 1;
        let terms =
            adapted.last().filter(|adapted| adapted.rows.contains(&row)).map(|adapted| &adapted.terms);
        let before = Span { rows: part.rows - 1, ..part.own };
        let context = parts.context(part).iter().copied().chain([before]);
        self.last.push(1, terms, context, part.own.start + before.rows);
        self.wanted.push(row);
    }

    /// All rows.
    pub const fn all(&self) -> &Layout {
        &self.all
    }

    /// The rows after which a token is wanted, rising: one for each `want_next`.
    pub fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    /// These rows alone, one after the other.
    pub const fn last(&self) -> &Layout {
        &self.last
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Positions of all rows.
    pub fn positions(&self) -> &[Position] {
        &self.positions
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
