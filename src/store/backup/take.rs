//! The store's side of a backup: rows in batches, each dealt with before the next is read.
//!
//! ```text
//! both ledgers and the outbox locked: their ends, and all that changes, into memory  --> unlocked, durable
//! decisions, records, verdicts since the run before --batch, taken?--> …    then what was held in memory
//! ```
//!
//! Retention waits with what is still to be copied, and only with that.

use super::{Since, Span, frame_row};
use crate::store::error::StoreError;
use crate::store::high_water::HighWaterMark;
use crate::store::images::{Digest, hex, sha256};
use crate::store::kv::Tree;
use crate::store::ledger::Chain;
use crate::store::record::rfc3339;
use crate::store::{Store, key_of, seq_of};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Rows and bytes of a batch, about.
const BATCH_ROWS: u64 = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// Trees that only grow, and are copied from where the run before ended.
pub(super) const REVIEWS: &str = "reviews";
pub(super) const RESULTS: &str = "results";
pub(super) const PARTS: &str = "parts";
/// Trees that follow from the others, or are worth nothing after a restore.
pub(super) const LEFT_OUT: [&str; 5] = ["ids", "files", "reviewed", "reviews_by", "sessions"];

/// No backup holds retention back.
pub(in crate::store) const NOT_HELD: u64 = u64::MAX;

/// What a run holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub at: String,
    pub version: String,
    pub inspections: Span,
    pub reviews: Span,
    pub open_parts: Vec<u64>,
}

/// Where a run goes. What it fails with ends the run.
pub trait BackupReceiver {
    /// A batch of rows; when it returns they are dealt with, their files copied.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`].
    fn rows(&mut self, rows: &[u8], done: u64, total: u64) -> Result<(), StoreError>;
}

/// Why a run cannot be appended to a backup.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("a backup of this store is being taken already")]
    Busy,
    /// Its last entry is not the one of this store.
    #[error(
        "the backup is of another store, or of a later time of this one: its {ledger} end at {end} with another entry"
    )]
    Other { ledger: &'static str, end: u64 },
    #[error(transparent)]
    Store {
        #[from]
        source: StoreError,
    },
}

/// Retention is held back from here on, until it is dropped.
struct Hold<'a>(&'a AtomicU64);

impl<'a> Hold<'a> {
    fn new(held: &'a AtomicU64) -> Option<Self> {
        let taken = held.compare_exchange(NOT_HELD, 0, Ordering::AcqRel, Ordering::Acquire);
        // Lazily: a hold that was never had would release the other's when it is dropped.
        taken.is_ok().then(|| Self(held))
    }

    fn from(&self, seq: u64) {
        self.0.store(seq.min(NOT_HELD - 1), Ordering::Release);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.store(NOT_HELD, Ordering::Release);
    }
}

impl Store {
    /// The first record that a running backup still needs.
    pub(in crate::store) fn held_from(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Gives all rows that a backup needs which holds `since`.
    ///
    /// # Errors
    /// [`TakeError`]; the backup is then unfinished.
    pub fn take_backup(&self, since: &Since, receiver: &mut dyn BackupReceiver) -> Result<Moment, TakeError> {
        let hold = Hold::new(&self.held).ok_or(TakeError::Busy)?;
        let (moment, changing) = self.moment(since)?;
        let (result, review) = (moment.inspections.through, moment.reviews.through);
        self.sync.wait(self.sync.request(HighWaterMark { result, review, log: 0 }))?;
        let spans = [&moment.reviews, &moment.inspections];
        let total: u64 = spans.iter().map(|s| (s.through + 1).saturating_sub(s.from)).sum();
        let mut done = 0;
        hold.from(moment.inspections.from);
        let reviews = &self.trees.review.reviews;
        Self::take_span(reviews, REVIEWS, &moment.reviews, &mut done, total, receiver, &|_| {})?;
        let results = &self.trees.results;
        Self::take_span(results, RESULTS, &moment.inspections, &mut done, total, receiver, &|seq| {
            hold.from(seq + 1);
        })?;
        let mut batch = Vec::new();
        self.take_parts(&moment, &since.open_parts, &mut batch)?;
        for piece in [batch, changing] {
            receiver.rows(&piece, done, total)?;
        }
        Ok(moment)
    }

    /// The ends of both ledgers at one moment, and the rows of all trees that change, of the same moment.
    fn moment(&self, since: &Since) -> Result<(Moment, Vec<u8>), TakeError> {
        let chain = self.lock_chain()?;
        let reviews = self.lock_reviews()?;
        let _log = self.lock_log()?;
        let failed = |e| StoreError::kv("copy what changes", e);
        let mut changing = Vec::new();
        let db = self.sync.db();
        for name in db.tree_names() {
            let Ok(text) = std::str::from_utf8(&name) else { continue };
            if [REVIEWS, RESULTS, PARTS].contains(&text) || LEFT_OUT.contains(&text) || text.starts_with("__")
            {
                continue;
            }
            for row in &db.tree(&name).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                frame_row(&mut changing, text, &key, &value);
            }
        }
        let results = &self.trees.results;
        let moment = Moment {
            at: rfc3339(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            inspections: span(&chain, results, "inspections", &since.inspections)?,
            reviews: span(&reviews, &self.trees.review.reviews, "reviews", &since.reviews)?,
            open_parts: self.open_parts()?,
        };
        Ok((moment, changing))
    }

    #[allow(clippy::too_many_arguments, reason = "two callers, each with its own words")]
    fn take_span(
        tree: &Tree,
        name: &str,
        span: &Span,
        done: &mut u64,
        total: u64,
        receiver: &mut dyn BackupReceiver,
        taken: &dyn Fn(u64),
    ) -> Result<(), StoreError> {
        let (mut batch, mut rows, mut last) = (Vec::new(), 0, span.from);
        if span.from > span.through {
            return Ok(());
        }
        for row in tree.range(key_of(span.from)..=key_of(span.through)) {
            let (key, value) = row.map_err(|e| StoreError::kv("copy a ledger", e))?;
            frame_row(&mut batch, name, &key, &value);
            last = seq_of(&key)?;
            rows += 1;
            if rows % BATCH_ROWS == 0 || batch.len() >= BATCH_BYTES {
                *done += std::mem::take(&mut rows);
                receiver.rows(&std::mem::take(&mut batch), *done, total)?;
                taken(last);
            }
        }
        *done += rows;
        receiver.rows(&batch, *done, total)?;
        taken(last);
        Ok(())
    }

    /// Verdicts about parts: those of the new records, and of parts that were open at the run before.
    fn take_parts(&self, moment: &Moment, again: &[u64], batch: &mut Vec<u8>) -> Result<(), StoreError> {
        let failed = |e| StoreError::kv("copy the verdicts about parts", e);
        let decided = &self.trees.parts.decided;
        let span = &moment.inspections;
        if span.from <= span.through {
            for row in decided.range(key_of(span.from)..=key_of(span.through)) {
                let (key, value) = row.map_err(failed)?;
                frame_row(batch, PARTS, &key, &value);
            }
        }
        for seq in again {
            if let Some(value) = decided.get(key_of(*seq)).map_err(failed)? {
                frame_row(batch, PARTS, &key_of(*seq), &value);
            }
        }
        Ok(())
    }
}

/// What is new in a ledger whose first entries a backup holds already.
fn span(chain: &Chain, tree: &Tree, ledger: &'static str, since: &Span) -> Result<Span, TakeError> {
    let end = since.through;
    if end > 0 {
        let found: Option<Digest> = if end >= chain.first_seq {
            let value = tree.get(key_of(end)).map_err(|e| StoreError::kv("read a ledger", e))?;
            value.map(|v| sha256(&v))
        } else if end + 1 == chain.first_seq {
            Some(chain.before_first)
        } else {
            // What came in between is gone, and with it the proof.
            None
        };
        let gone = end + 1 < chain.first_seq;
        if end > chain.last_seq || (!gone && found.map(|d| hex(&d)).as_ref() != Some(&since.hash)) {
            return Err(TakeError::Other { ledger, end });
        }
    }
    let from = chain.first_seq.max(end + 1);
    Ok(Span { from, through: chain.last_seq, hash: hex(&chain.last_hash) })
}
