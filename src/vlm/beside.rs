//! Adapters that jobs are answered with, beside the pair that the engine holds once.
//!
//! ```text
//! job's adapter --known?--> in use --its jobs leave--> kept, unused --another one needs the room--> given up
//!     '--read, held to the pair, its own keys of the prefix computed--^
//! ```
//!
//! Invariants:
//! - Keys and values that were computed with an adapter are seen by its own jobs alone: the prefix, what is kept of
//!   conversations ([`Beside::start`]), and everything after them.
//! - An adapter that a job under way needs is not given up.
//! - Together they take no more memory than is set aside; one that has no room is refused, and its job with it.

use super::adapter::{Adapter, AdapterFile};
use super::attention::Span;
use super::batch::Batch;
use super::engine::Engine;
use super::error::VlmError;
use super::lora::Terms;
use super::prefix::{Key, key_of_adapter};
use std::sync::Arc;

/// Adapters that are held at once, in use or not.
const ADAPTERS_MAX: usize = 8;
const MIB: u64 = 1 << 20;

/// An adapter that jobs are answered with.
#[derive(Debug)]
pub(super) struct Beside {
    sha256: Arc<str>,
    bytes: u64,
    /// What it adds.
    pub(super) terms: Arc<Terms>,
    /// Keys and values of the prefix, computed with it.
    pub(super) prefix: Span,
    /// The name of what stands before the first chunk of a conversation.
    pub(super) start: Key,
}

/// Those that are held.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// The one that was asked for last comes last.
    held: Vec<Arc<Beside>>,
    /// Bytes that they may take together; `None`: any.
    bytes_max: Option<u64>,
}

impl Shelf {
    /// Nothing yet.
    pub(super) const fn new(bytes_max: Option<u64>) -> Self {
        Self { held: vec![], bytes_max }
    }

    /// Adapters that are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    fn find(&mut self, sha256: &str) -> Option<Arc<Beside>> {
        let at = self.held.iter().position(|held| &*held.sha256 == sha256)?;
        let found = self.held.remove(at);
        self.held.push(Arc::clone(&found));
        Some(found)
    }

    fn has_room(&self, bytes: u64) -> bool {
        let taken: u64 = self.held.iter().map(|held| held.bytes).sum();
        self.held.len() < ADAPTERS_MAX && self.bytes_max.is_none_or(|max| taken + bytes <= max)
    }

    /// Takes the oldest one out that no job needs.
    fn give_up(&mut self) -> Option<Arc<Beside>> {
        let at = self.held.iter().position(|held| Arc::strong_count(held) == 1)?;
        Some(self.held.remove(at))
    }
}

impl Engine {
    /// The adapter of a job, ready to be answered with.
    ///
    /// # Errors
    /// `Unable`: it does not fit the pair, or there is no room for it.
    pub(super) fn beside(&mut self, file: &AdapterFile) -> Result<Arc<Beside>, VlmError> {
        if let Some(found) = self.shelf.find(&file.sha256) {
            return Ok(found);
        }
        self.open_beside(file).map_err(|error| match error {
            VlmError::Unable { why } => VlmError::Unable { why },
            error => VlmError::Unable { why: error.to_string() },
        })
    }

    fn open_beside(&mut self, file: &AdapterFile) -> Result<Arc<Beside>, VlmError> {
        let adapter = Adapter::read(file)?.fit_beside(&self.model.base)?;
        let bytes = adapter.beside_bytes();
        while !self.shelf.has_room(bytes) {
            let Some(unused) = self.shelf.give_up() else {
                return Err(VlmError::Unable { why: self.no_room(file, bytes) });
            };
            self.arena.give_back(unused.prefix);
        }
        let terms = Arc::new(adapter.terms(&self.device)?);
        let prefix = self.prefill(Some(&terms))?;
        let (sha256, start) = (Arc::clone(&file.sha256), key_of_adapter(&file.sha256));
        let beside = Arc::new(Beside { sha256, bytes, terms, prefix, start });
        self.shelf.held.push(Arc::clone(&beside));
        Ok(beside)
    }

    fn no_room(&self, file: &AdapterFile, bytes: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        match self.shelf.bytes_max {
            Some(max) if self.shelf.held.len() < ADAPTERS_MAX => format!(
                "the adapter {} takes {} MiB, and of [model] memory_mb {} MiB are set aside for adapters, also for those \
                 in use; a restart sets aside what the recipes then need",
                file.name,
                mib(bytes),
                mib(max)
            ),
            _ => format!("the adapter {} is one too many: {ADAPTERS_MAX} others are in use", file.name),
        }
    }

    /// Computes keys and values of the prefix, with what an adapter adds.
    ///
    /// # Errors
    /// `TooLong` where the arena has no room; as candle.
    pub(super) fn prefill(&mut self, terms: Option<&Arc<Terms>>) -> Result<Span, VlmError> {
        let ids = self.model.template.prefix();
        let own = loop {
            match self.arena.lend(ids.len()) {
                Some(span) => break span,
                None if self.prefixes.evict(&mut self.arena) => {}
                None => return Err(self.arena.too_long(ids.len())),
            }
        };
        let mut batch = Batch::default();
        batch.tokens(&ids, 0);
        batch.part_of(terms, [], own.start);
        let done = self.model.text.forward(&batch, &mut self.arena, &mut self.work);
        if done.is_err() {
            self.arena.give_back(own);
        }
        done?;
        Ok(own)
    }
}
