//! What the probabilities of a server's answer are worth: read by the grammar of the form, byte by byte.
//!
//! ```text
//! token of the answer + its 20 likeliest rivals --which of them the form allows here--> p / (p of the allowed + the rest)
//! ```
//!
//! A server tells the likeliest tokens of each place as they were before its own constraint, and their probabilities sum
//! to less than one: the rest belongs to tokens that it does not show. The form's grammar over single bytes says which of
//! the shown ones may stand at this place, without the model's vocabulary. The rest counts as if the form allowed all of
//! it, so that an allowed token beyond the shown ones is doubt: a probability here is at most what the engine would have
//! said, [`Ground::Bounded`].
//!
//! Where the form leaves no choice a token is certain. White space outside of strings decides nothing: the compact form
//! that the engine is held to has none, so it is passed over, in the answer as among the rivals.
//!
//! Invariants:
//! - An answer that leaves its form is an error.
//! - Tokens that are not, byte for byte, the answer give no probabilities: [`Ground::None`], which nobody passes a part by.

use super::wire::Entry;
use llguidance::{Matcher, ParserFactory};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use vlm::form::factory_of_bytes;
use vlm::{AnswerToken, Form, Ground};

/// Compiled grammars that are kept; a box has a handful of prompts.
const CACHE_MAX: usize = 64;
/// Names of the tokens that end an answer, as servers print them.
const ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];
/// How far a logarithm may be over zero: servers round.
const LOG_OVER_MAX: f64 = 1e-3;

/// The grammars of forms over single bytes.
pub(super) struct Grammars {
    factory: ParserFactory,
    compiled: Mutex<HashMap<Form, Matcher>>,
}

impl Grammars {
    /// # Errors
    /// The grammars' library refuses its own bytes.
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self { factory: factory_of_bytes()?, compiled: Mutex::default() })
    }

    /// Whoever needs a grammar compiles it: nobody waits for that of another one.
    fn start(&self, form: &Form) -> Result<Option<Matcher>, String> {
        let compiled = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matcher) = compiled().get(form) {
            return Ok(Some(matcher.deep_clone()));
        }
        let Some(matcher) = form.matcher(&self.factory)? else { return Ok(None) };
        let mut compiled = compiled();
        if compiled.len() >= CACHE_MAX {
            compiled.clear();
        }
        compiled.insert(form.clone(), matcher.deep_clone());
        Ok(Some(matcher))
    }

    /// The tokens of a whole answer with their probabilities, and what these stand on.
    ///
    /// # Errors
    /// In words: the answer is not of its form.
    pub(super) fn read(
        &self,
        form: &Form,
        text: &str,
        entries: Option<&[Entry]>,
    ) -> Result<(Vec<AnswerToken>, Ground), String> {
        let spans = entries.and_then(|entries| spans(text, entries));
        let Some(matcher) = self.start(form)? else {
            return Ok(match spans {
                Some(spans) => free(&spans),
                None => (vec![], Ground::None),
            });
        };
        let compact = matches!(form, Form::Defects { .. } | Form::Lines);
        let mut whole = Held { matcher: matcher.deep_clone(), place: Place { compact, ..Place::default() } };
        whole.take(text.as_bytes()).map_err(|at| format!("the answer leaves its form at byte {at}"))?;
        if !whole.may_end() {
            return Err("the answer ends before its form does".into());
        }
        let Some(spans) = spans else { return Ok((vec![], Ground::None)) };
        let mut held = Held { matcher, place: Place { compact, ..Place::default() } };
        let mut tokens = Vec::with_capacity(spans.len());
        for (start, end, entry) in spans {
            let Some(prob) = held.probability(entry) else { return Ok((vec![], Ground::None)) };
            tokens.push(AnswerToken { id: 0, start, end, prob });
            held.take(&text.as_bytes()[start..end])
                .map_err(|at| format!("the answer leaves its form at byte {}", start + at))?;
        }
        Ok((tokens, Ground::Bounded))
    }
}

/// The tokens of an answer that was cut off, which say nothing of how sure it is.
pub(super) fn unsure(text: &str, entries: Option<&[Entry]>) -> Vec<AnswerToken> {
    let spans = entries.and_then(|entries| spans(text, entries)).unwrap_or_default();
    spans.into_iter().map(|(start, end, _)| AnswerToken { id: 0, start, end, prob: 0.0 }).collect()
}

fn free(spans: &[(usize, usize, &Entry)]) -> (Vec<AnswerToken>, Ground) {
    let token = |&(start, end, entry): &(usize, usize, &Entry)| {
        Some(AnswerToken { id: 0, start, end, prob: probability(entry.logprob)? as f32 })
    };
    match spans.iter().map(token).collect() {
        Some(tokens) => (tokens, Ground::Unconstrained),
        None => (vec![], Ground::None),
    }
}

/// Where each token stands in the text; `None`: they are not this text. What follows the text are tokens that end it.
fn spans<'a>(text: &str, entries: &'a [Entry]) -> Option<Vec<(usize, usize, &'a Entry)>> {
    let (mut at, mut spans) = (0, vec![]);
    for entry in entries {
        if at == text.len() {
            break;
        }
        let end = at + entry.bytes().len();
        if text.as_bytes().get(at..end)? != entry.bytes() {
            return None;
        }
        spans.push((at, end, entry));
        at = end;
    }
    (at == text.len()).then_some(spans)
}

/// `None`: it is none.
fn probability(logprob: f64) -> Option<f64> {
    (logprob <= LOG_OVER_MAX).then(|| logprob.exp().min(1.0))
}

/// An answer as far as it was read.
struct Held {
    matcher: Matcher,
    place: Place,
}

impl Held {
    /// Goes on by these bytes.
    ///
    /// # Errors
    /// The byte that the form does not allow.
    fn take(&mut self, bytes: &[u8]) -> Result<(), usize> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.place.passes_over(*byte) {
                continue;
            }
            let taken = self.matcher.try_consume_tokens(&[u32::from(*byte)]);
            if !taken.is_ok_and(|taken| taken == 1) {
                return Err(at);
            }
            self.place.step(*byte);
        }
        Ok(())
    }

    fn may_end(&mut self) -> bool {
        self.matcher.is_stopped() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// The bytes of a token that count at this place.
    fn counting(&self, bytes: &[u8]) -> Vec<u32> {
        let mut place = self.place;
        let mut counting = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if !place.passes_over(*byte) {
                place.step(*byte);
                counting.push(u32::from(*byte));
            }
        }
        counting
    }

    fn allows(&mut self, counting: &[u32]) -> bool {
        self.matcher.validate_tokens(counting).is_ok_and(|taken| taken == counting.len())
    }

    /// At most the probability of a token among those that the form allows here; `None`: its numbers are none.
    fn probability(&mut self, entry: &Entry) -> Option<f32> {
        let chosen = probability(entry.logprob)?;
        let counting = self.counting(entry.bytes());
        let forced = self.matcher.compute_ff_bytes();
        let is_forced = counting.len() <= forced.len()
            && counting.iter().zip(&forced).all(|(byte, forced)| *byte == u32::from(*forced));
        if is_forced {
            return Some(1.0);
        }
        let (mut allowed, mut shown, mut is_shown) = (0.0, 0.0, false);
        for rival in &entry.top_logprobs {
            let p = probability(rival.logprob)?;
            shown += p;
            let bytes = rival.bytes();
            is_shown |= bytes == entry.bytes();
            let counts = match self.counting(bytes) {
                _ if bytes.is_empty() || ENDS.iter().any(|end| end.as_bytes() == bytes) => self.may_end(),
                counting => !counting.is_empty() && self.allows(&counting),
            };
            allowed += if counts { p } else { 0.0 };
        }
        if !is_shown {
            (allowed, shown) = (allowed + chosen, shown + chosen);
        }
        let rest = (1.0 - shown).max(0.0);
        let of = allowed + rest;
        Some(if of > 0.0 { (chosen / of).min(1.0) as f32 } else { 0.0 })
    }
}

/// Where in JSON an answer stands.
#[derive(Clone, Copy, Default)]
struct Place {
    /// White space outside of strings is passed over.
    compact: bool,
    in_string: bool,
    escaped: bool,
}

impl Place {
    const fn passes_over(self, byte: u8) -> bool {
        self.compact && !self.in_string && matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
    }

    const fn step(&mut self, byte: u8) {
        if self.escaped {
            self.escaped = false;
        } else if self.in_string && byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = !self.in_string;
        }
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
