//! The reviews that are kept: read, published, proved, and at last removed.

use super::{CHAIN_KEY, REVIEW_FILE, ReviewState, open_review_state, pair_key};
use crate::domain::review::Review;
use crate::store::error::StoreError;
use crate::store::high_water::HighWaterMark;
use crate::store::images::{Digest, Kind, hex, sha256};
use crate::store::kv::Transaction;
use crate::store::ledger::{self, Chain, Verified};
use crate::store::outbox::Kind as OutboxKind;
use crate::store::unreadable::hash_by_next;
use crate::store::{Store, key_of, open_seq, review_record, seq_of};
use std::collections::BTreeSet;

/// Entries that are removed in one transaction.
const PRUNE_BATCH: usize = 256;

impl Store {
    /// Where the reviews of an inspection stand; `None` when nobody ever decided.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn review_state(&self, inspection_seq: u64) -> Result<Option<ReviewState>, StoreError> {
        let failed = |e| StoreError::kv("read a review state", e);
        let value = self.trees.review.reviewed.get(key_of(inspection_seq)).map_err(failed)?;
        value.map(|v| open_review_state(inspection_seq, &v)).transpose()
    }

    /// One entry of the ledger of reviews.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn review_entry(&self, seq: u64) -> Result<Option<Review>, StoreError> {
        let failed = |e| StoreError::kv("read a review", e);
        let value = self.trees.review.reviews.get(key_of(seq)).map_err(failed)?;
        value.map(|v| self.read_review(seq, &v)).transpose()
    }

    /// All entries about an inspection, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reviews_of(&self, inspection_seq: u64) -> Result<Vec<Review>, StoreError> {
        let mut found = Vec::new();
        for row in self.trees.review.by_inspection.under(key_of(inspection_seq)) {
            let (key, _) = row.map_err(|e| StoreError::kv("read the reviews", e))?;
            let seq = seq_of(key.get(8..).unwrap_or_default())?;
            found.extend(self.review_entry(seq)?);
        }
        Ok(found)
    }

    /// The decision in force about an inspection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn effective_review(&self, inspection_seq: u64) -> Result<Option<Review>, StoreError> {
        match self.review_state(inspection_seq)?.and_then(|s| s.effective) {
            Some(seq) => self.review_entry(seq),
            None => Ok(None),
        }
    }

    /// The newest `limit` inspections that people have looked at, with how they stand, newest inspection first.
    /// One whose state cannot be read is passed over: nobody knows what was decided.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest_review_states(&self, limit: usize) -> Result<Vec<(u64, ReviewState)>, StoreError> {
        let mut found = Vec::new();
        for row in self.trees.review.reviewed.iter().rev().take(limit) {
            let (key, value) = row.map_err(|e| StoreError::kv("read a review state", e))?;
            let seq = seq_of(&key)?;
            match open_review_state(seq, &value) {
                Ok(state) => found.push((seq, state)),
                Err(error) => tracing::error!(%error, "how an inspection stands cannot be read: passed over"),
            }
        }
        Ok(found)
    }

    /// The highest review that is on the disk; a task that follows it learns of every decision.
    pub fn subscribe_reviews(&self) -> tokio::sync::watch::Receiver<u64> {
        self.reviews.durable.subscribe()
    }

    /// Proves that the ledger of reviews has no gap and no edit, and that every decision is about the
    /// record that it names, where that record is still kept.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read; what is broken is in the answer.
    pub fn verify_reviews(&self) -> Result<Verified, StoreError> {
        self.verify_reviews_while(&mut |_, _| true)
    }

    /// As `verify_reviews`; `go_on` is told how many entries are proven, and of how many.
    ///
    /// # Errors
    /// As `verify_reviews`; `Cancelled` once `go_on` says no.
    pub fn verify_reviews_while(
        &self,
        go_on: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Verified, StoreError> {
        let (chain, rows) = {
            let chain = self.lock_reviews()?.clone();
            let rows = self.trees.review.reviews.range(key_of(0)..=key_of(chain.last_seq));
            (chain, rows)
        };
        let lost = self.salvaged()?.unwrap_or_default().reviews;
        ledger::walk(&chain, rows, &lost, |seq, value, before| self.check_review(seq, value, before), go_on)
    }

    fn check_review(&self, seq: u64, value: &[u8], before: Option<&Digest>) -> Result<(), String> {
        let head = review_record::decode(seq, value)?;
        ledger::other_predecessor("review", &head.prev, before)?;
        let overflow = head.overflow_digest()?.map(|d| self.files.read_overflow(&d)).transpose()?;
        let review = head.into_review(overflow.as_deref(), value)?;
        let record = self.trees.results.get(key_of(review.inspection_seq)).map_err(|e| e.to_string())?;
        if record.is_some_and(|r| hex(&sha256(&r)) != review.record_sha256) {
            return Err(format!("is about another record than inspection {}", review.inspection_seq));
        }
        Ok(())
    }

    fn read_review(&self, seq: u64, value: &[u8]) -> Result<Review, StoreError> {
        let bad = |reason| StoreError::BadRecord { seq, reason: format!("review: {reason}") };
        let head = review_record::decode(seq, value).map_err(bad)?;
        let overflow = match head.overflow_digest().map_err(bad)? {
            Some(digest) => Some(self.files.read_overflow(&digest).map_err(bad)?),
            None => None,
        };
        head.into_review(overflow.as_deref(), value).map_err(bad)
    }

    /// Removes the oldest reviews whose inspections retention has removed, as far as their messages
    /// are delivered.
    pub(in crate::store) fn prune_reviews(&self) -> Result<(), StoreError> {
        let first_kept = self.lock_chain()?.first_seq;
        while self.prune_review_batch(first_kept)? {}
        Ok(())
    }

    fn prune_review_batch(&self, first_kept: u64) -> Result<bool, StoreError> {
        let failed = |e| StoreError::kv("read the oldest reviews", e);
        let mut chain = self.lock_reviews()?;
        let r = &self.trees.review;
        let (mut victims, mut overflows, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = chain.before_first;
        let mut lowest_owed = None;
        for row in r.reviews.range(key_of(chain.first_seq)..).take(PRUNE_BATCH) {
            let (key, value) = row.map_err(failed)?;
            let seq = seq_of(&key)?;
            let read = review_record::decode(seq, &value)
                .and_then(|head| Ok((head.inspection_seq, head.overflow_digest()?)));
            let inspection = match &read {
                Ok((inspection, _)) => *inspection,
                // Then the index must know that it is due.
                Err(_) => self.inspection_of_review(seq, first_kept)?.unwrap_or(u64::MAX),
            };
            if inspection >= first_kept {
                break;
            }
            let lowest = match lowest_owed {
                Some(lowest) => lowest,
                None => *lowest_owed.insert(self.lowest_owed(OutboxKind::Review)?.unwrap_or(u64::MAX)),
            };
            if seq >= lowest {
                break;
            }
            match read {
                Ok((_, Some(digest))) => {
                    let user =
                        self.trees.files.get(digest).map_err(failed)?.map(|v| open_seq(&v)).transpose()?;
                    overflows.extend((user == Some(REVIEW_FILE | seq)).then_some(digest));
                    before = sha256(&value);
                }
                Ok((_, None)) => before = sha256(&value),
                Err(reason) => {
                    let prev = |seq, value: &[u8]| review_record::decode(seq, value).map(|head| head.prev);
                    before = hash_by_next(&chain, &r.reviews, seq, prev)?.unwrap_or_else(|| sha256(&value));
                    overflows.extend(self.left_by(&BTreeSet::from([REVIEW_FILE | seq]))?.files);
                    damaged.push((seq, reason, value));
                }
            }
            victims.push((seq, inspection));
        }
        let Some(&(last, _)) = victims.last() else { return Ok(false) };
        for (seq, reason, value) in damaged {
            self.keep_aside(&format!("review-{seq}"), &reason, &value);
        }
        let next = Chain { first_seq: last + 1, before_first: before, ..chain.clone() };
        let chain_value = next.seal();
        let mut writes = Transaction::default();
        for &(seq, inspection) in &victims {
            writes.on(&r.reviews).remove(key_of(seq));
            writes.on(&r.reviewed).remove(key_of(inspection));
            writes.on(&r.by_inspection).remove(pair_key(inspection, seq));
        }
        for digest in &overflows {
            writes.on(&self.trees.files).remove(digest);
        }
        writes.on(&self.trees.meta).insert(CHAIN_KEY, chain_value);
        self.transaction("remove old reviews", writes)?;
        *chain = next;
        self.sync.wait(self.sync.request(HighWaterMark::default()))?;
        for digest in overflows {
            self.files.remove(Kind::Overflow, &digest)?;
        }
        Ok(victims.len() == PRUNE_BATCH)
    }
}
