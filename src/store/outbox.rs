//! Outbox: what the broker has not yet acknowledged: results, verdicts of parts, reviews.
//!
//! `Store::commit` writes the record and its entry in one transaction, then flushes; the verdict of a part
//! and a decision bring theirs in the same way. A message may be sent twice but never lost; receivers drop
//! repeats by inspection id (part id, review number).
//!
//!     commit --> pending --publish--> in flight --PUBACK--> removed
//!                 ^   ^---disconnect------'  '--given up--> dead (kept, with its reason)
//!                 '----------- retry: it fits now, or somebody says so ----'
//!
//! An entry holds no message: the record is immutable, and the entry names the schema by which the
//! message is made from it, so that every send has the same bytes, also after an update.
//!
//! Invariants:
//! - No inspection is deleted while its entry exists.
//! - Keys are big-endian sequence numbers, of each kind its own: store order is publish order. What was dead
//!   and is tried again is published late, after messages with higher numbers.
//! - An entry is handed out only when its record is durable: what a power cut may take back is
//!   never published, so no sequence number is ever seen with two inspections.
//! - At most `outbox_entries_max` entries; beyond it `commit` refuses. Committers that were let in at
//!   the same moment may go beyond it by their number.

use super::error::StoreError;
use super::{Store, key_of, record, seq_of, value};
use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, Transactional as _};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Schema of the `result` message that a record committed by this version owes.
pub const RESULT_SCHEMA: u16 = 1;

/// Characters of a dead letter's reason that are kept.
const REASON_CHARS_MAX: usize = 500;

/// What former versions wrote of a result that was longer than the broker took.
const SIZE_WORDS: &str = " bytes, the limit is ";

/// What is owed to the broker. Each kind has an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Result,
    /// The verdict about a part with several views.
    Part,
    /// An operator's decision.
    Review,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Result, Self::Part, Self::Review];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Part => "part",
            Self::Review => "review",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One owed message: its kind and its number there (inspection, newest view, review).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    pub kind: Kind,
    pub seq: u64,
}

impl std::fmt::Display for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.seq)
    }
}

/// One message that is still owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    pub seq: u64,
    /// The schema of its message.
    pub schema: u16,
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is longer than what is taken; tried again by itself when it fits.
    Size,
    /// No message can be made of what is stored; tried again by itself when one can.
    Unreadable,
    /// The broker said that it is invalid, and took others; tried again when somebody says so.
    Invalid,
    /// Every connection was dropped on it, and others passed; tried again when somebody says so.
    Dropped,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Dropped => "dropped",
        }
    }
}

/// One message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub owed: Owed,
    pub schema: u16,
    pub cause: Cause,
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "owes", rename_all = "snake_case")]
enum OwedV1 {
    Result { schema: u16 },
    Part { schema: u16 },
    Review { schema: u16 },
}

impl OwedV1 {
    /// Of an entry of a part or a review, which is empty: they have had one schema so far.
    const fn first(kind: Kind) -> Self {
        match kind {
            Kind::Result => Self::Result { schema: RESULT_SCHEMA },
            Kind::Part => Self::Part { schema: 1 },
            Kind::Review => Self::Review { schema: 1 },
        }
    }

    const fn schema(&self) -> u16 {
        match self {
            Self::Result { schema } | Self::Part { schema } | Self::Review { schema } => *schema,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DeadV1 {
    #[serde(flatten)]
    owed: OwedV1,
    /// Former versions wrote none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cause: Option<Cause>,
    reason: String,
    at: String,
}

impl DeadV1 {
    fn cause(&self) -> Cause {
        self.cause.unwrap_or_else(|| match self.reason.as_str() {
            reason if reason.contains(SIZE_WORDS) => Cause::Size,
            reason if reason.starts_with("every connection") => Cause::Dropped,
            reason if reason.starts_with("the broker") => Cause::Invalid,
            _ => Cause::Unreadable,
        })
    }
}

pub(super) fn seal_owed_result() -> Vec<u8> {
    seal(&OwedV1::first(Kind::Result))
}

fn seal<T: Serialize>(wire: &T) -> Vec<u8> {
    value::seal(1, &serde_json::to_vec(wire).expect("numbers and strings always serialise"))
}

fn open<'a, T: Deserialize<'a>>(seq: u64, bytes: &'a [u8]) -> Result<T, StoreError> {
    let bad = |reason: String| StoreError::BadRecord { seq, reason: format!("outbox entry: {reason}") };
    let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
    serde_json::from_slice(body).map_err(|e| bad(e.to_string()))
}

/// What the entry of a message says.
fn open_owed(kind: Kind, seq: u64, bytes: &[u8]) -> Result<OwedV1, StoreError> {
    match kind {
        Kind::Result => open(seq, bytes),
        Kind::Part | Kind::Review => Ok(OwedV1::first(kind)),
    }
}

impl Store {
    /// Up to `limit` results that are owed, from sequence number `from` on, lowest first, durable ones only.
    pub fn outbox(&self, from: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        self.owed(Kind::Result, from, limit)
    }

    /// Up to `limit` entries of a kind from number `from` on, lowest first, durable ones only.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn owed(&self, kind: Kind, from: u64, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let durable = match kind {
            Kind::Result | Kind::Part => self.sync.durable(),
            Kind::Review => self.reviews.last_seq(),
        };
        if from > durable {
            return Ok(Vec::new());
        }
        let rows = self.owed_tree(kind).range(key_of(from)..=key_of(durable)).take(limit);
        rows.map(|row| {
            let (key, value) = row.map_err(|e| StoreError::sled("read the outbox", e))?;
            let seq = seq_of(&key)?;
            Ok(OutboxEntry { seq, schema: open_owed(kind, seq, &value)?.schema() })
        })
        .collect()
    }

    /// How many messages of a kind are owed; counts them.
    pub fn count_of(&self, kind: Kind) -> usize {
        self.owed_tree(kind).len()
    }

    /// How many messages are owed: results and verdicts of parts, which the line makes.
    pub fn outbox_len(&self) -> u64 {
        self.outbox_entries.load(Ordering::Acquire)
    }

    /// Removes results that the broker has acknowledged. Unknown numbers are no error: an
    /// acknowledgement may repeat. The removal is not waited for; lost to a crash it is repeated.
    pub fn ack(&self, seqs: &[u64]) -> Result<(), StoreError> {
        seqs.iter().try_for_each(|seq| self.ack_owed(Owed { kind: Kind::Result, seq: *seq }))
    }

    /// Removes an entry that the broker has acknowledged, as `ack` does.
    ///
    /// # Errors
    /// `StoreError`; after it stop.
    pub fn ack_owed(&self, owed: Owed) -> Result<(), StoreError> {
        let removed = self.owed_tree(owed.kind).remove(key_of(owed.seq));
        if removed.map_err(|e| self.stop_after("remove an outbox entry", e))?.is_some() {
            self.count_owed(owed.kind, false);
        }
        Ok(())
    }

    /// Moves an entry that cannot be sent out of the way of the others. What it is about stays, and the
    /// letter is kept with its reason until retention removes that.
    ///
    /// # Errors
    /// `StoreError`; after it stop.
    pub fn dead_letter(&self, owed: Owed, cause: Cause, reason: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.lock_chain()?;
        let tree = self.owed_tree(owed.kind);
        let entry = tree.get(key_of(owed.seq)).map_err(|e| StoreError::sled("read the outbox", e))?;
        let Some(entry) = entry else { return Ok(()) };
        let letter = DeadV1 {
            owed: open_owed(owed.kind, owed.seq, &entry)?,
            cause: Some(cause),
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            at: record::rfc3339(SystemTime::now()),
        };
        let (value, dead) = (seal(&letter), self.dead_tree(owed.kind));
        self.transaction("move an entry to the dead letters", || {
            (tree, dead).transaction(|(tree, dead)| -> ConflictableTransactionResult<(), Infallible> {
                tree.remove(&key_of(owed.seq))?;
                dead.insert(&key_of(owed.seq), value.as_slice())?;
                Ok(())
            })
        })?;
        self.count_owed(owed.kind, false);
        Ok(())
    }

    /// All messages that were given up: by kind, lowest first.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters = Vec::new();
        for kind in Kind::ALL {
            for row in self.dead_tree(kind) {
                let (key, value) = row.map_err(|e| StoreError::sled("read the dead letters", e))?;
                let seq = seq_of(&key)?;
                let wire: DeadV1 = open(seq, &value)?;
                let (schema, cause) = (wire.owed.schema(), wire.cause());
                let owed = Owed { kind, seq };
                letters.push(DeadLetter { owed, schema, cause, reason: wire.reason, at: wire.at });
            }
        }
        Ok(letters)
    }

    /// Dead letters are owed again, with their own numbers and bytes; one that is none is no error. Returns
    /// how many there were, when it is on the disk.
    ///
    /// # Errors
    /// `StoreError`; after it stop.
    pub fn retry(&self, letters: &[Owed]) -> Result<usize, StoreError> {
        self.sync.check()?;
        let one_at_a_time = self.lock_chain()?;
        let mut count = 0;
        for owed in letters {
            let (tree, dead) = (self.owed_tree(owed.kind), self.dead_tree(owed.kind));
            let letter = dead.get(key_of(owed.seq)).map_err(|e| StoreError::sled("read a dead letter", e))?;
            let Some(letter) = letter else { continue };
            let entry = match owed.kind {
                Kind::Result => seal(&open::<DeadV1>(owed.seq, &letter)?.owed),
                Kind::Part | Kind::Review => value::seal(1, b""),
            };
            self.transaction("owe a dead letter again", || {
                (tree, dead).transaction(|(tree, dead)| -> ConflictableTransactionResult<(), Infallible> {
                    dead.remove(&key_of(owed.seq))?;
                    tree.insert(&key_of(owed.seq), entry.as_slice())?;
                    Ok(())
                })
            })?;
            self.count_owed(owed.kind, true);
            count += 1;
        }
        drop(one_at_a_time);
        self.sync.wait(self.sync.request(super::Ends::default()))?;
        self.retried.send_modify(|times| *times += 1);
        Ok(count)
    }

    /// All dead letters are owed again, and what waits after a refusal is tried at once; returns how many
    /// letters there were.
    ///
    /// # Errors
    /// As `retry`.
    pub fn retry_all(&self) -> Result<usize, StoreError> {
        let letters: Vec<Owed> = self.dead_letters()?.iter().map(|letter| letter.owed).collect();
        self.retry(&letters)
    }

    /// Changes whenever there is something to be tried again.
    pub fn subscribe_retries(&self) -> tokio::sync::watch::Receiver<u64> {
        self.retried.subscribe()
    }

    fn owed_tree(&self, kind: Kind) -> &sled::Tree {
        match kind {
            Kind::Result => &self.trees.outbox,
            Kind::Part => &self.trees.parts.owed,
            Kind::Review => &self.trees.review.owed,
        }
    }

    fn dead_tree(&self, kind: Kind) -> &sled::Tree {
        match kind {
            Kind::Result => &self.trees.dead,
            Kind::Part => &self.trees.parts.dead,
            Kind::Review => &self.trees.review.dead,
        }
    }

    /// What people decide does not stop the line.
    fn count_owed(&self, kind: Kind, more: bool) {
        match (kind, more) {
            (Kind::Review, _) => 0,
            (Kind::Result | Kind::Part, true) => self.outbox_entries.fetch_add(1, Ordering::AcqRel),
            (Kind::Result | Kind::Part, false) => self.outbox_entries.fetch_sub(1, Ordering::AcqRel),
        };
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
