//! Holds answers to their forms, by the crate [`llguidance`].
//!
//! A grammar is compiled once and cloned for every answer, those of others beside the passes (`foreign`). After each token the grammar says which
//! tokens may follow; where its characters leave no choice it names the tokens themselves, and
//! these are fed without asking the model.
//!
//! A step of decoding takes 18 µs here in the mean, and 64 blocks of memory (a list of two defects by Qwen3's 151,669
//! tokens, one core with AVX-512): the crate's `compute_mask` makes a new mask each time and keeps a copy, its search for
//! forced tokens tokenizes anew, and it has no call that fills a mask of ours. To keep masks by what an answer holds so
//! far would spare a frame of 31 empty answers less than a millisecond.

use super::Ask;
use super::error::VlmError;
use super::foreign::{Foreign, KEPT_MAX};
use super::form::Form;
use super::tokenizer::Tokenizer;
use llguidance::{Matcher, ParserFactory};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// Most compiled grammars of recipes that are kept; a box has a handful of prompts.
const CACHE_MAX: usize = 64;

/// The grammars in use, over one tokenizer.
pub(super) struct Grammars {
    factory: Arc<ParserFactory>,
    compiled: HashMap<Form, Matcher>,
    foreign: Foreign,
}

impl Grammars {
    /// `end` is the token that ends an answer.
    ///
    /// # Errors
    /// `Grammar` when the vocabulary cannot be indexed.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, end: u32) -> Result<Self, VlmError> {
        let env: TokEnv = Arc::new(Env { trie: trie(&tokenizer, end), tokenizer });
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| bad(&e))?;
        factory.quiet();
        let factory = Arc::new(factory);
        Ok(Self { foreign: Foreign::new(Arc::clone(&factory)), factory, compiled: HashMap::new() })
    }

    /// False while grammars that others have written for these questions are compiled, one after the other; the first call
    /// begins it.
    pub(super) fn are_ready(&mut self, asks: &[Ask]) -> bool {
        let foreign: Vec<&Form> = asks.iter().map(|ask| &ask.form).filter(|form| form.is_foreign()).collect();
        // Of more than are kept some would always be missing: they are compiled when they are needed.
        foreign.len() > KEPT_MAX || foreign.into_iter().all(|form| self.foreign.is_ready(form))
    }

    /// Waits for the next grammar of others to be compiled, and no longer than `most`.
    pub(super) fn wait(&mut self, most: Duration) {
        self.foreign.wait(most);
    }

    /// A matcher at the start of an answer of this form; `None`: nothing holds it.
    ///
    /// # Errors
    /// `Grammar` when the form's grammar does not compile.
    pub(super) fn start(&mut self, form: &Form) -> Result<Option<Matcher>, VlmError> {
        let bad = |why| VlmError::Grammar { why };
        if form.is_foreign() {
            return self.foreign.start(form).map_err(bad);
        }
        if let Some(matcher) = self.compiled.get(form) {
            return Ok(Some(matcher.clone()));
        }
        let Some(matcher) = form.matcher(&self.factory).map_err(bad)? else { return Ok(None) };
        if self.compiled.len() >= CACHE_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(form.clone(), matcher.clone());
        Ok(Some(matcher))
    }
}

/// An error of llguidance in our words.
pub(super) fn bad(error: &anyhow::Error) -> VlmError {
    VlmError::Grammar { why: format!("{error:#}") }
}

/// The tokenizer as llguidance wants it.
struct Env {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        // Forced bytes may end inside a character; the trie's greedy tokens serve there.
        match std::str::from_utf8(bytes) {
            Ok(text) => self.tokenizer.encode(text).unwrap_or_else(|_| self.trie.greedy_tokenize(bytes)),
            Err(_) => self.trie.greedy_tokenize(bytes),
        }
    }
}

fn trie(tokenizer: &Tokenizer, end: u32) -> TokTrie {
    let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32)
        .map(|id| {
            let bytes = tokenizer.bytes(id);
            if tokenizer.is_special(id) {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
            } else {
                bytes.to_vec()
            }
        })
        .collect();
    let info = TokRxInfo {
        vocab_size: words.len() as u32,
        tok_eos: end,
        tok_bos: None,
        tok_pad: None,
        tok_unk: None,
        tok_end_of_turn: None,
    };
    TokTrie::from(&info, &words)
}
