//! Ledger: every record names the sha256 of the one before it.
//!
//! ```text
//! zeros <-- 1 <-- 2 <-- 3 <-- … <-- last        meta `chain`: last_seq, last_hash
//!
//! after retention:  [before_first] <-- 3 <-- 4 <-- … <-- last
//!                   (meta keeps the hash of the last record that was removed)
//! ```
//!
//! `verify` walks it: no gap, no edit, nothing cut off at the end. The hash covers the whole value,
//! and the value holds the hashes of the picture and of the overflow file, so these are covered too.

use super::error::StoreError;
use super::images::{Digest, hex, sha256, unhex};
use super::kv::{self, Tree};
use super::record::{self, Stored};
use super::salvaged::Salvaged;
use super::{Store, Trees, id_key, key_of, open_seq, seq_of, value};
use serde::{Deserialize, Serialize};

pub(super) const CHAIN_KEY: &[u8] = b"chain";

/// Both ends of the chain, as `meta` keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The lowest record that is kept, or the next one to come when none is.
    pub first_seq: u64,
    /// Hash of the record before it.
    pub before_first: Digest,
    /// 0 when nothing was ever stored.
    pub last_seq: u64,
    pub last_hash: Digest,
}

#[derive(Serialize, Deserialize)]
struct ChainV1 {
    first_seq: u64,
    before_first: String,
    last_seq: u64,
    last_hash: String,
}

impl Chain {
    const EMPTY: Self = Self { first_seq: 1, before_first: [0; 32], last_seq: 0, last_hash: [0; 32] };

    pub(super) fn load(trees: &Trees) -> Result<Self, StoreError> {
        Self::load_from(&trees.meta, &trees.results, CHAIN_KEY)
    }

    /// The chain of the entries in `rows`, whose ends stand in `meta` under `key`.
    pub(super) fn load_from(meta: &Tree, rows: &Tree, key: &[u8]) -> Result<Self, StoreError> {
        let bad = |reason: &str| StoreError::BadMeta { reason: format!("chain: {reason}") };
        let chain = match meta.get(key).map_err(|e| StoreError::kv("read the chain", e))? {
            Some(value) => Self::unseal(&value).map_err(|reason| bad(&reason))?,
            None => Self::EMPTY,
        };
        if let Some((key, _)) = rows.last().map_err(|e| StoreError::kv("read the last record", e))? {
            // Going on would overwrite what is there.
            if seq_of(&key)? > chain.last_seq {
                return Err(bad("records lie beyond its end"));
            }
        }
        Ok(chain)
    }

    /// The chain in a value, or what is wrong with it.
    pub(super) fn unseal(value: &[u8]) -> Result<Self, String> {
        let (_, body) = value::open(value)?;
        let wire: ChainV1 = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let hash = |text: &str| unhex(text).ok_or("not a hash");
        Ok(Self {
            first_seq: wire.first_seq,
            before_first: hash(&wire.before_first)?,
            last_seq: wire.last_seq,
            last_hash: hash(&wire.last_hash)?,
        })
    }

    /// The chain with one more record.
    pub(super) fn with_appended(&self, hash: Digest) -> Self {
        Self { last_seq: self.last_seq + 1, last_hash: hash, ..self.clone() }
    }

    pub(super) fn seal(&self) -> Vec<u8> {
        let wire = ChainV1 {
            first_seq: self.first_seq,
            before_first: hex(&self.before_first),
            last_seq: self.last_seq,
            last_hash: hex(&self.last_hash),
        };
        value::seal(1, &serde_json::to_vec(&wire).expect("numbers and strings always serialise"))
    }
}

/// What `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records (or entries) that are there.
    pub inspections: u64,
    /// `None` when there is none.
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    /// sha256 (hex) of the newest of them, or of the last that retention has removed: it stands for all before it.
    pub head_hash: Option<String>,
    /// Sequence numbers that should be there and are not.
    pub gaps: u64,
    /// The first sequence number at which the chain does not hold: missing, unreadable, edited, or
    /// naming another predecessor.
    pub broken_at: Option<u64>,
    /// What is wrong there.
    pub reason: Option<String>,
    /// The entry before it: the first link that does not hold is the one between them. `None`: nothing is broken, or it
    /// is broken at the first entry.
    pub broken_after: Option<u64>,
}

impl Verified {
    const NOTHING: Self = Self {
        inspections: 0,
        first_seq: None,
        last_seq: None,
        head_hash: None,
        gaps: 0,
        broken_at: None,
        reason: None,
        broken_after: None,
    };

    /// Notes what is broken first; `after` is the entry before.
    fn broken(&mut self, after: Option<u64>, seq: u64, reason: impl Into<String>) {
        if self.broken_at.is_none() {
            self.broken_at = Some(seq);
            self.reason = Some(reason.into());
            self.broken_after = after;
        }
    }
}

impl Store {
    /// Reads every record and proves that there is no gap and no edit, and that what is stored of parts says of
    /// their views what the records say. Takes as long as reading everything does; commits go on meanwhile, and
    /// records newer than the start are not looked at.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read; what is broken is in the answer.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        self.verify_while(&mut |_, _| true)
    }

    /// As `verify`; `go_on` is told how many records are proven, and of how many.
    ///
    /// # Errors
    /// As `verify`; `Cancelled` once `go_on` says no.
    pub fn verify_while(&self, go_on: &mut dyn FnMut(u64, u64) -> bool) -> Result<Verified, StoreError> {
        let (chain, rows) = {
            // Under the lock, so that retention does not move the first record while we begin.
            let chain = self.lock_chain()?.clone();
            let rows = self.trees.results.range(key_of(0)..=key_of(chain.last_seq));
            (chain, rows)
        };
        let lost = self.salvaged()?.unwrap_or_default().inspections;
        walk(&chain, rows, &lost, |seq, value, before| self.check_record(seq, value, before), go_on)
    }

    fn check_record(&self, seq: u64, value: &[u8], before: Option<&Digest>) -> Result<(), String> {
        let head = record::decode(seq, value)?;
        other_predecessor("record", &head.prev, before)?;
        let overflow = head.overflow_digest()?.map(|d| self.files.read_overflow(&d)).transpose()?;
        let stored = head.into_stored(overflow.as_deref())?;
        self.check_view(seq, &stored.inspection)
    }

    /// The inspection with this sequence number, if it is (still) here.
    pub fn get(&self, seq: u64) -> Result<Option<Stored>, StoreError> {
        let value = self.trees.results.get(key_of(seq)).map_err(|e| StoreError::kv("read a record", e))?;
        value.map(|v| self.read(seq, &v)).transpose()
    }

    /// The inspection with this id, if it is (still) here.
    pub fn get_by_id(&self, id: &str) -> Result<Option<Stored>, StoreError> {
        let key = id_key(id)?;
        match self.trees.ids.get(key).map_err(|e| StoreError::kv("look up an id", e))? {
            Some(value) => self.get(open_seq(&value)?),
            None => Ok(None),
        }
    }

    /// All inspections that are on the disk, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = Result<Stored, StoreError>> + '_ {
        self.newest_before(u64::MAX)
    }

    /// The inspections before this sequence number, newest first: the next page of a list.
    pub fn newest_before(&self, seq: u64) -> impl Iterator<Item = Result<Stored, StoreError>> + '_ {
        // Nothing is shown that a power cut could still take back.
        let end = seq.min(self.sync.durable().saturating_add(1));
        self.trees.results.range(..key_of(end)).rev().map(|row| {
            let (key, value) = row.map_err(|e| StoreError::kv("read a record", e))?;
            self.read(seq_of(&key)?, &value)
        })
    }

    fn read(&self, seq: u64, value: &[u8]) -> Result<Stored, StoreError> {
        let bad = |reason| StoreError::BadRecord { seq, reason };
        let head = record::decode(seq, value).map_err(bad)?;
        let overflow = match head.overflow_digest().map_err(bad)? {
            Some(digest) => Some(self.files.read_overflow(&digest).map_err(bad)?),
            None => None,
        };
        head.into_stored(overflow.as_deref()).map_err(bad)
    }
}

/// Proves that an entry names the one before it, where that is known; `what` is what entries are called.
pub(super) fn other_predecessor(what: &str, named: &str, before: Option<&Digest>) -> Result<(), String> {
    let Some(is) = before.map(hex).filter(|is| is != named) else { return Ok(()) };
    Err(format!(
        "names another predecessor than the {what} before it: it names {named}, and that {what} is {is}, so one of the \
         two was edited"
    ))
}

/// Walks a chain from its first entry to its last; `check` proves one entry against the hash of the
/// one before it, where that is known. `go_on` is told how many entries are done and of how many.
///
/// Numbers that were `lost` when the store was salvaged are gaps, and no new damage.
pub(super) fn walk(
    chain: &Chain,
    rows: impl Iterator<Item = kv::Result<kv::Row>>,
    lost: &[(u64, u64)],
    check: impl Fn(u64, &[u8], Option<&Digest>) -> Result<(), String>,
    go_on: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Verified, StoreError> {
    let total = (chain.last_seq + 1).saturating_sub(chain.first_seq);
    let mut found = Verified::NOTHING;
    let mut expected = chain.first_seq;
    let mut before = Some(chain.before_first);
    let mut head = (chain.last_seq > 0 && total == 0).then_some(chain.last_hash);
    for row in rows {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error @ kv::Error::Corruption(_)) => {
                found.broken(found.last_seq, expected, error.to_string());
                found.head_hash = head.map(|hash| hex(&hash));
                return Ok(found);
            }
            Err(error) => return Err(StoreError::kv("read the ledger", error)),
        };
        let seq = seq_of(&key)?;
        let after = found.last_seq;
        if seq < expected {
            found.broken(after, seq, "lies before the first record");
            continue;
        }
        if seq > expected {
            found.gaps += seq - expected;
            if Salvaged::covers(lost, expected, seq - 1) {
                before = None;
            } else {
                found.broken(after, expected, "is missing");
            }
        }
        found.inspections += 1;
        found.first_seq.get_or_insert(seq);
        found.last_seq = Some(seq);
        if let Err(reason) = check(seq, &value, before.as_ref()) {
            found.broken(after, seq, reason);
        }
        head = Some(sha256(&value));
        before = head;
        expected = seq + 1;
        if !go_on(found.inspections, total) {
            return Err(StoreError::Cancelled);
        }
    }
    found.head_hash = head.map(|hash| hex(&hash));
    if expected <= chain.last_seq {
        found.gaps += chain.last_seq + 1 - expected;
        if !Salvaged::covers(lost, expected, chain.last_seq) {
            found.broken(found.last_seq, expected, "is missing");
        }
    } else if before != Some(chain.last_hash) {
        let (is, written) = (before.map(|hash| hex(&hash)).unwrap_or_default(), hex(&chain.last_hash));
        let reason = format!("is not what was last written: it is {is}, and {written} was written");
        let after = chain.last_seq.checked_sub(1).filter(|after| *after >= chain.first_seq);
        found.broken(after, chain.last_seq, reason);
    }
    Ok(found)
}
