//! One answer in the making: its tokens, its place in the arena, its grammar.
//!
//!     pending tokens --pass--> logits of the last row --sampler, grammar--> next token
//!        ^                                                                   |
//!        '------- the token, and those that the grammar forces behind it ----'

use super::attention::Span;
use super::error::VlmError;
use super::grammar::bad;
use super::load::Loaded;
use super::logits::{Logits, put_tiles};
use super::sample::Sampler;
use super::{AnswerToken, Completion, Finish, Ground};
use llguidance::Matcher;
use toktrie::SimpleVob;

/// One answer in the making.
pub(super) struct Live {
    pub(super) job: u64,
    pub(super) ask: usize,
    pub(super) matcher: Option<Matcher>,
    pub(super) sampler: Sampler,
    /// Spans before its own rows.
    pub(super) context: Vec<Span>,
    pub(super) own: Span,
    /// Rows of `own` that are written.
    pub(super) filled: usize,
    pub(super) next: u32,
    /// Tokens to feed in the next pass.
    pub(super) pending: Vec<u32>,
    pub(super) prompt_ids: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) tokens: Vec<AnswerToken>,
    pub(super) bytes: Vec<u8>,
    /// Tokens that the grammar allows next; `None` before `look_ahead`, and without a grammar.
    pub(super) allowed: Option<Result<SimpleVob, VlmError>>,
    /// The tiles of the output head in which they are.
    pub(super) tiles: Vec<usize>,
    /// What it ended with; `None`: it goes on.
    pub(super) outcome: Option<Result<Finish, VlmError>>,
}

impl Live {
    pub(super) fn push(&mut self, id: u32, prob: f32, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.tokens.push(AnswerToken { id, start, end: self.bytes.len(), prob });
    }

    /// Asks the grammar what may follow. It need not wait for the pass, which then computes no more logits
    /// than are allowed.
    pub(super) fn look_ahead(&mut self) {
        if self.tokens.len() >= self.max_tokens {
            return;
        }
        let Some(matcher) = &mut self.matcher else { return };
        let mask = matcher.compute_mask().map_err(|e| bad(&e));
        if let Ok(mask) = &mask {
            put_tiles(mask, &mut self.tiles);
        }
        self.allowed = Some(mask);
    }

    /// The tiles of the output head in which tokens are allowed; `None`: anywhere.
    pub(super) fn allowed_tiles(&self) -> Option<&[usize]> {
        matches!(self.allowed, Some(Ok(_))).then_some(&self.tiles)
    }

    /// Chooses the next token from the logits of the last row, and those that the grammar forces.
    pub(super) fn step(&mut self, logits: Logits<'_>, model: &Loaded) {
        self.outcome = self.try_step(logits, model).transpose();
    }

    /// What it ends with, if it does.
    fn try_step(&mut self, logits: Logits<'_>, model: &Loaded) -> Result<Option<Finish>, VlmError> {
        if self.tokens.len() >= self.max_tokens {
            return Ok(Some(Finish::Length));
        }
        let allowed = self.allowed.take().transpose()?;
        let answer = self.tokens.iter().map(|t| t.id);
        let (id, prob) = self.sampler.next(logits, allowed.as_ref(), answer)?;
        if model.template.ends(id) {
            return Ok(Some(Finish::Stop));
        }
        if let Some(m) = &mut self.matcher {
            m.consume_token(id).map_err(|e| bad(&e))?;
        }
        self.push(id, prob, model.tokenizer.bytes(id));
        self.pending.push(id);
        for forced in force(&mut self.matcher)? {
            if self.tokens.len() >= self.max_tokens {
                return Ok(Some(Finish::Length));
            }
            self.push(forced, 1.0, model.tokenizer.bytes(forced));
            self.pending.push(forced);
        }
        let ended = self.matcher.as_ref().is_some_and(Matcher::is_stopped);
        Ok(ended.then_some(Finish::Stop))
    }

    pub(super) fn complete(&mut self, finish: Finish) -> Completion {
        Completion {
            text: String::from_utf8_lossy(&self.bytes).into_owned(),
            tokens: std::mem::take(&mut self.tokens),
            prompt_ids: std::mem::take(&mut self.prompt_ids),
            finish,
            ground: if self.matcher.is_some() { Ground::Constrained } else { Ground::Unconstrained },
        }
    }
}

/// Tokens that the grammar leaves no choice about; the matcher has consumed them.
pub(super) fn force(matcher: &mut Option<Matcher>) -> Result<Vec<u32>, VlmError> {
    let Some(m) = matcher else { return Ok(vec![]) };
    if m.is_stopped() {
        return Ok(vec![]);
    }
    let forced = m.consume_ff_tokens();
    m.get_error().map_or(Ok(forced), |why| Err(VlmError::Grammar { why }))
}
