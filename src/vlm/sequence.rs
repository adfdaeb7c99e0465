//! One answer in the making: its tokens, its place in the arena, its grammar.
//!
//! ```text
//! pending tokens --pass--> logits of the last row --sampler, grammar--> next token --a stop word?--> ended before it
//!    ^                                                                      |
//!    '-------- the token, and those that the grammar forces after it -------'
//! ```
//!
//! The prompt of a conversation is read first, chunk by chunk.

use super::attention::Span;
use super::encoded::Piece;
use super::error::VlmError;
use super::grammar::bad;
use super::load::Loaded;
use super::logits::{Logits, put_tiles};
use super::prefix::Key;
use super::sample::Sampler;
use super::{AnswerToken, Completion, Finish, Ground};
use llguidance::Matcher;
use llguidance::api::StopReason;
use std::collections::VecDeque;
use std::sync::Arc;
use toktrie::SimpleVob;

/// A part of a conversation's prompt that a pass reads at once.
pub(super) struct Chunk {
    pub(super) piece: Piece,
    pub(super) key: Key,
    /// Where its keys and values go.
    pub(super) span: Span,
}

/// A chunk that was read.
pub(super) enum Read {
    /// Kept for others, too.
    Kept(Key),
    Own(Span),
}

/// One answer in the making.
pub(super) struct Sequence {
    pub(super) job: u64,
    pub(super) ask: usize,
    pub(super) matcher: Option<Matcher>,
    pub(super) sampler: Sampler,
    pub(super) is_conversation: bool,
    /// Chunks of a conversation that are still to be read, before anything is pending.
    pub(super) unread: VecDeque<Chunk>,
    pub(super) read: Vec<Read>,
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
    pub(super) stop: StopWords,
    /// Bytes that were said already; `None`: it is said as a whole.
    pub(super) said: Option<usize>,
    /// Tokens that the grammar allows next; `None` before `look_ahead`, and without a grammar.
    pub(super) allowed: Option<Result<SimpleVob, VlmError>>,
    /// The tiles of the output head in which they are.
    pub(super) tiles: Vec<usize>,
    /// What it ended with; `None`: it goes on.
    pub(super) outcome: Option<Result<Finish, VlmError>>,
}

impl Sequence {
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
        let Some(matcher) = self.matcher.as_mut().filter(|matcher| !is_whole(matcher)) else { return };
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
        // A grammar may leave no choice from the start.
        if self.ends_with_a_word() || self.matcher.as_ref().is_some_and(is_whole) {
            return Ok(Some(Finish::Stop));
        }
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
        let ended = self.matcher.as_ref().is_some_and(is_whole);
        Ok((self.ends_with_a_word() || ended).then_some(Finish::Stop))
    }

    /// Cuts the answer before the first stop word in it, if there is one.
    fn ends_with_a_word(&mut self) -> bool {
        let Some(at) = self.stop.find(&self.bytes) else { return false };
        self.bytes.truncate(at);
        self.tokens.retain(|token| token.start < at);
        if let Some(last) = self.tokens.last_mut() {
            last.end = last.end.min(at);
        }
        true
    }

    /// What can be said now and was not yet: whole characters, and nothing that a stop word may begin with. `None`:
    /// nothing, or it is said as a whole.
    pub(super) fn say(&mut self) -> Option<String> {
        let said = self.said?;
        let end = match &self.outcome {
            None => {
                said + whole_characters(&self.bytes[said..self.bytes.len() - self.stop.begun(&self.bytes)])
            }
            Some(Ok(_)) => self.bytes.len(),
            Some(Err(_)) => return None,
        };
        self.said = Some(end);
        (end > said).then(|| String::from_utf8_lossy(&self.bytes[said..end]).into_owned())
    }

    pub(super) fn complete(&mut self, finish: Finish) -> Completion {
        Completion {
            text: String::from_utf8_lossy(&self.bytes).into_owned(),
            tokens: std::mem::take(&mut self.tokens),
            prompt_ids: std::mem::take(&mut self.prompt_ids),
            finish,
            ground: if self.matcher.is_some() { Ground::Constrained } else { Ground::Unconstrained },
            cells: None,
        }
    }
}

/// True when the grammar is through: what has stopped it otherwise is an error, which the next mask says.
fn is_whole(matcher: &Matcher) -> bool {
    matches!(matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
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

/// The words that end an answer, and how far it was searched for them.
pub(super) struct StopWords {
    words: Vec<Arc<str>>,
    searched: usize,
}

impl StopWords {
    /// Empty words end nothing.
    pub(super) fn new(words: &[Arc<str>]) -> Self {
        Self { words: words.iter().filter(|word| !word.is_empty()).cloned().collect(), searched: 0 }
    }

    /// Where the first word in the answer begins; what was searched before is not searched again.
    fn find(&mut self, answer: &[u8]) -> Option<usize> {
        let longest = self.words.iter().map(|word| word.len()).max()?;
        let from = self.searched.saturating_sub(longest - 1);
        self.searched = answer.len();
        let begins = |word: &Arc<str>| {
            answer[from..].windows(word.len()).position(|bytes| bytes == word.as_bytes()).map(|at| from + at)
        };
        self.words.iter().filter_map(begins).min()
    }

    /// How many bytes at the answer's end may be the beginning of a word.
    fn begun(&self, answer: &[u8]) -> usize {
        let begun = |word: &Arc<str>| {
            let most = (word.len() - 1).min(answer.len());
            (1..=most).rev().find(|n| answer.ends_with(&word.as_bytes()[..*n])).unwrap_or(0)
        };
        self.words.iter().map(begun).max().unwrap_or(0)
    }
}

/// How many of the bytes are before a character that is not whole yet. What can never be a character counts as one.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let is_begun = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    if is_begun { bytes.len() - last.len() } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;

    fn sequence(words: &[&str]) -> Sequence {
        let words: Vec<Arc<str>> = words.iter().map(|word| Arc::from(*word)).collect();
        Sequence {
            job: 0,
            ask: 0,
            matcher: None,
            sampler: Sampler::new(&Sampling::default()),
            is_conversation: false,
            unread: VecDeque::new(),
            read: vec![],
            context: vec![],
            own: Span { start: 0, rows: 0 },
            filled: 0,
            next: 0,
            pending: vec![],
            prompt_ids: vec![],
            max_tokens: 99,
            tokens: vec![],
            bytes: vec![],
            stop: StopWords::new(&words),
            said: Some(0),
            allowed: None,
            tiles: vec![],
            outcome: None,
        }
    }

    /// What is said after each token, and the answer in the end.
    fn told(words: &[&str], tokens: &[&[u8]]) -> (Vec<Option<String>>, Completion) {
        let mut sequence = sequence(words);
        let mut told = vec![];
        for bytes in tokens {
            sequence.push(7, 0.5, bytes);
            if sequence.ends_with_a_word() {
                sequence.outcome = Some(Ok(Finish::Stop));
            }
            told.push(sequence.say());
        }
        if sequence.outcome.is_none() {
            sequence.outcome = Some(Ok(Finish::Length));
            told.push(sequence.say());
        }
        (told, sequence.complete(Finish::Stop))
    }

    fn text(told: &[Option<String>]) -> String {
        told.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn a_stop_word_ends_the_answer_across_the_borders_of_tokens() {
        let (said, answer) = told(&["\nUser:", "###"], &[b"Fine.", b"\nUs", b"er", b": no"]);
        assert_eq!((answer.text.as_str(), text(&said).as_str()), ("Fine.", "Fine."));
        assert_eq!(said, [Some("Fine.".into()), None, None, None], "what may be a stop word is held back");
        assert_eq!(answer.tokens.iter().map(|t| (t.start, t.end)).collect::<Vec<_>>(), [(0, 5)]);
        let (said, answer) = told(&["\nUser:"], &[b"a\nUs", b"ed"]);
        assert_eq!(answer.text, "a\nUsed");
        assert_eq!(said, [Some("a".into()), Some("\nUsed".into()), None]);
        let (_, answer) = told(&["b", "ab"], &[b"xa", b"b"]);
        assert_eq!(answer.text, "x", "of two words the one that begins first");
        assert_eq!(answer.tokens.last().map(|t| t.end), Some(1), "a token that reaches into the word is cut");
        let (_, answer) = told(&[""], &[b"x"]);
        assert_eq!(answer.text, "x", "an empty word ends nothing");
    }

    #[test]
    fn only_whole_characters_are_said_and_all_together_they_are_the_answer() {
        let (said, answer) = told(&[], &[b"\xe7", b"\xbc", b"\xba!", b"\xff", b"\xe7\xbc"]);
        assert_eq!(said[..3], [None, None, Some("缺!".into())]);
        assert_eq!(text(&said), answer.text);
        assert_eq!(answer.text, "缺!\u{fffd}\u{fffd}");
        let bytes = "aé缺陷🙂 \u{fffd}z".as_bytes();
        for cut in 0..bytes.len() {
            let broken = [&bytes[..cut], b"\x80", &bytes[cut..]].concat();
            for size in 1..5 {
                let pieces: Vec<&[u8]> = broken.chunks(size).collect();
                let (said, answer) = told(&["陷!", "z."], &pieces);
                assert_eq!(text(&said), answer.text, "{broken:?} by {size}");
                assert_eq!(answer.text, String::from_utf8_lossy(&broken));
            }
        }
    }
}
