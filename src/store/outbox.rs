//! Outbox: inspections the broker has not yet acknowledged.
//!
//! `Store::commit` writes the record and its entry in one transaction, then flushes.
//! A message may be sent twice but never lost; receivers drop repeats by inspection id.
//!
//!     commit --> pending --publish--> in flight --PUBACK--> removed
//!                   ^---disconnect--------'  '--can never be sent--> dead (kept, with its reason)
//!
//! An entry holds no message: the record is immutable, and the entry names the schema by which the
//! message is made from it, so that every send has the same bytes, also after an update.
//!
//! Invariants:
//! - No inspection is deleted while its entry exists.
//! - Keys are big-endian sequence numbers: store order is publish order.
//! - An entry is handed out only when its record is durable: what a power cut may take back is
//!   never published, so no sequence number is ever seen with two inspections.
//! - At most `outbox_entries_max` entries; beyond it `commit` refuses. Committers that were let in at
//!   the same moment may go beyond it by their number.

use super::error::StoreError;
use super::{key_of, record, seq_of, value, Store};
use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, Transactional as _};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Schema of the `result` message that a record committed by this version owes.
pub const RESULT_SCHEMA: u16 = 1;

/// One message that is still owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    pub seq: u64,
    /// The schema of its `result` message.
    pub schema: u16,
}

/// One message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub seq: u64,
    pub schema: u16,
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// Characters of a dead letter's reason that are kept.
const REASON_CHARS_MAX: usize = 500;

#[derive(Serialize, Deserialize)]
#[serde(tag = "owes", rename_all = "snake_case")]
enum OwedV1 {
    Result { schema: u16 },
}

#[derive(Serialize, Deserialize)]
struct DeadV1 {
    #[serde(flatten)]
    owed: OwedV1,
    reason: String,
    at: String,
}

pub(super) fn seal_owed_result() -> Vec<u8> {
    seal(&OwedV1::Result { schema: RESULT_SCHEMA })
}

fn seal<T: Serialize>(wire: &T) -> Vec<u8> {
    value::seal(1, &serde_json::to_vec(wire).expect("numbers and strings always serialise"))
}

fn open<'a, T: Deserialize<'a>>(seq: u64, bytes: &'a [u8]) -> Result<T, StoreError> {
    let bad = |reason: String| StoreError::BadRecord { seq, reason: format!("outbox entry: {reason}") };
    let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
    serde_json::from_slice(body).map_err(|e| bad(e.to_string()))
}

impl Store {
    /// Up to `limit` entries from sequence number `from` on, lowest first, durable ones only.
    pub fn outbox(&self, from: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let durable = self.sync.durable();
        if from > durable {
            return Ok(Vec::new());
        }
        let rows = self.trees.outbox.range(key_of(from)..=key_of(durable)).take(limit);
        rows.map(|row| {
            let (key, value) = row.map_err(|e| StoreError::sled("read the outbox", e))?;
            let seq = seq_of(&key)?;
            let OwedV1::Result { schema } = open(seq, &value)?;
            Ok(OutboxEntry { seq, schema })
        })
        .collect()
    }

    /// How many messages are owed.
    pub fn outbox_len(&self) -> u64 {
        self.outbox_entries.load(Ordering::Acquire)
    }

    /// Removes entries that the broker has acknowledged. Unknown numbers are no error: an
    /// acknowledgement may repeat. The removal is not waited for; lost to a crash it is repeated.
    pub fn ack(&self, seqs: &[u64]) -> Result<(), StoreError> {
        for &seq in seqs {
            let removed = self
                .trees
                .outbox
                .remove(key_of(seq))
                .map_err(|e| self.stop_after("remove an outbox entry", e))?;
            if removed.is_some() {
                self.outbox_entries.fetch_sub(1, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    /// Moves an entry that can never be sent out of the way of the others. The inspection stays,
    /// and the letter is kept with its reason until retention removes the inspection.
    pub fn dead_letter(&self, seq: u64, reason: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.lock_chain()?;
        let entry = self.trees.outbox.get(key_of(seq)).map_err(|e| StoreError::sled("read the outbox", e))?;
        let Some(entry) = entry else { return Ok(()) };
        let letter = DeadV1 {
            owed: open(seq, &entry)?,
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            at: record::rfc3339(SystemTime::now()),
        };
        let value = seal(&letter);
        let trees = &self.trees;
        self.transaction("move an entry to the dead letters", || {
            (&trees.outbox, &trees.dead).transaction(
                |(outbox, dead)| -> ConflictableTransactionResult<(), Infallible> {
                    outbox.remove(&key_of(seq))?;
                    dead.insert(&key_of(seq), value.as_slice())?;
                    Ok(())
                },
            )
        })?;
        self.outbox_entries.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// All messages that were given up, lowest first.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = self.trees.dead.iter();
        rows.map(|row| {
            let (key, value) = row.map_err(|e| StoreError::sled("read the dead letters", e))?;
            let seq = seq_of(&key)?;
            let DeadV1 { owed: OwedV1::Result { schema }, reason, at } = open(seq, &value)?;
            Ok(DeadLetter { seq, schema, reason, at })
        })
        .collect()
    }
}
