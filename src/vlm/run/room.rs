//! Whether a job finds room at all, before the tower has computed anything for it.
//!
//! What is counted here is the least that `enter` will ask for: what a grammar forces at the start of an answer is not in
//! it. A job that passes here may still be refused there.

use super::Run;
use crate::clip::{Shown, pair_seconds};
use crate::error::VlmError;
use crate::image::Patches;
use crate::template::Opening;
use crate::turn::{Segment, Turn, segments};
use crate::{Ask, Job};

/// More tokens than the template puts around a question, or before a picture.
const AROUND_MAX: usize = 32;
/// Most tokens that a byte of text becomes: tokens have at least one, and the normal form of a character at most thrice
/// its bytes.
const TOKENS_A_BYTE: usize = 3;

impl Run<'_> {
    /// That the rows of a job, whose pictures are cut, fit into the arena when nothing else is in it.
    ///
    /// # Errors
    /// `TooLong` when they do not; as `Template::question`.
    pub(super) fn check_room(&self, job: &Job, patches: &[Patches]) -> Result<(), VlmError> {
        let asks = || job.asks.iter().filter(|ask| ask.features().is_none());
        let merge = self.engine.model.vision.config.merge;
        let pictures: usize = patches.iter().map(|p| p.grid.patches() / (merge * merge)).sum();
        let (available, shared) = match &job.shown {
            Shown::Turns(_) => (self.conversations_max(), asks().count()),
            _ => (self.engine.arena.capacity() - self.engine.prefix.rows, 1),
        };
        let words = |ask: &Ask| ask.text.len() + said(&job.shown) + AROUND_MAX * (1 + turns(&job.shown));
        let most: usize = asks().map(|ask| TOKENS_A_BYTE * words(ask) + ask.max_tokens).sum();
        // Tokens are only counted where it is close.
        if asks().next().is_none() || shared * (pictures + AROUND_MAX * patches.len()) + most <= available {
            return Ok(());
        }
        let mut needed = shared * pictures;
        for ask in asks() {
            needed += self.tokens(job, ask)? + ask.max_tokens;
        }
        if !matches!(job.shown, Shown::Turns(_)) {
            needed += self.between(job, patches.len())?;
        }
        if needed > available { Err(VlmError::TooLong { needed, available }) } else { Ok(()) }
    }

    /// Tokens of a question, or of a whole conversation, without the rows of its pictures.
    fn tokens(&self, job: &Job, ask: &Ask) -> Result<usize, VlmError> {
        let m = &self.engine.model;
        let opening = Opening::of(&ask.form);
        let Shown::Turns(turns) = &job.shown else {
            let is_shown = !job.shown.images().is_empty();
            return Ok(m.template.question(&m.tokenizer, &ask.text, is_shown, opening)?.len());
        };
        let segments = segments(&m.template, &m.tokenizer, turns, &ask.text, opening)?;
        let tokens = |segment: &Segment| match segment {
            Segment::Ids(ids) => ids.len(),
            Segment::Picture => 0,
        };
        Ok(segments.iter().map(tokens).sum())
    }

    /// Tokens between the pictures of a job that is no conversation.
    fn between(&self, job: &Job, pictures: usize) -> Result<usize, VlmError> {
        let m = &self.engine.model;
        let Shown::Clip(frames) = &job.shown else { return Ok(2 * pictures.saturating_sub(1)) };
        let seconds = pair_seconds(&frames.iter().map(|frame| frame.at).collect::<Vec<_>>());
        let mut tokens = 0;
        for (i, seconds) in seconds.iter().enumerate() {
            tokens += m.template.before_pair(&m.tokenizer, *seconds, i == 0)?.len();
        }
        Ok(tokens)
    }
}

/// Bytes of all texts of a conversation.
fn said(shown: &Shown) -> usize {
    let Shown::Turns(turns) = shown else { return 0 };
    turns.iter().flat_map(Turn::texts).map(str::len).sum()
}

fn turns(shown: &Shown) -> usize {
    if let Shown::Turns(turns) = shown { turns.len() } else { 0 }
}
