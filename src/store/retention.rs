//! Retention: the oldest inspections go when they are too old or too many. What time it is, and how many
//! may go because of it, says `ageing`; the limit by bytes asks no clock.
//!
//! ```text
//! first kept --> … --> lowest that an enabled sink waits for --> … --> last
//! |<- may be removed ->|<----------- never ------------------->|
//! ```
//!
//! One batch: records and ids are removed and the chain's new beginning is written in one transaction, that transaction is made durable, and only then do the files go. A crash in
//! between leaves files that no record refers to; the next count of the bytes removes them.
//!
//! Invariants:
//! - Only a run from the first kept record on is removed, so the chain never has a hole.
//! - A file goes only with the last record that refers to it.
//! - By age goes nothing whose time is not known: a record without a plausible one goes with the next that has, and
//!   so does one that cannot be read, as far as both are in one batch ([`super::unreadable`]).

use super::ageing::Age;
use super::backup::take::NOT_HELD;
use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::images::{Digest, Kind, hex, sha256};
use super::kv::{self, Bytes, Transaction};
use super::ledger::{CHAIN_KEY, Chain};
use super::outbox::Kind as OutboxKind;
use super::unreadable::hash_by_next;
use super::{Store, id_key, key_of, open_seq, record, seq_of};
use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Inspections that are removed in one transaction, while commits wait.
const BATCH: usize = 256;

const DAY: Duration = Duration::from_hours(24);

/// 2020: no station is older, and a clock that shows less was never set.
#[expect(clippy::duration_suboptimal_units, reason = "seconds of Unix time")]
const PLAUSIBLE_FROM: Duration = Duration::from_secs(1_577_836_800);

/// What one round of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub inspections: u64,
    pub bytes: u64,
    /// Bytes of records and files that are left. sled's own slack is not counted: it does not
    /// shrink when records go.
    pub usage_bytes: u64,
    /// Something should have gone and could not, because it is not yet acknowledged.
    pub held_back: bool,
    /// How many of them could not be read, and the number of the first: what retention knew of them was their age or
    /// their size.
    pub unreadable: u64,
    pub first_unreadable: Option<u64>,
}

struct Victim {
    seq: u64,
    /// Or why it cannot be read.
    known: Result<Known, String>,
    value: Bytes,
}

/// What retention needs of a record.
struct Known {
    id: [u8; 16],
    files: Vec<(Kind, Digest)>,
    files_bytes: u64,
    finished: SystemTime,
}

impl Known {
    fn of(seq: u64, value: &[u8]) -> Result<Self, String> {
        let head = record::decode(seq, value)?;
        let image = head.image_digest()?.map(|digest| (Kind::Image, digest));
        let overflow = head.overflow_digest()?.map(|digest| (Kind::Overflow, digest));
        let bytes = [head.image.as_ref().map(|i| i.bytes), head.overflow.as_ref().map(|o| o.bytes)];
        Ok(Self {
            id: id_key(&head.id).map_err(|e| e.to_string())?,
            files: image.into_iter().chain(overflow).collect(),
            files_bytes: bytes.into_iter().flatten().fold(0, u64::saturating_add),
            finished: record::parse_rfc3339(&head.finished_at)?,
        })
    }
}

/// How a round goes on, beside what it reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    /// Inspections that went because of their age only.
    pub by_age: u64,
    /// The latest time of those that went: those that are kept are no older.
    pub newest: SystemTime,
}

/// What one batch found.
struct Found {
    victims: Vec<Victim>,
    gone: Gone,
    /// One that must go may not.
    held_back: bool,
}

impl Store {
    /// Removes what is too old, then the oldest beyond `max_bytes`.
    pub(super) fn prune(&self, age: Option<Age>) -> Result<(Pruned, Gone), StoreError> {
        self.sync.check()?;
        let mut pruned = Pruned { usage_bytes: self.usage()?, ..Pruned::default() };
        let mut gone = Gone { by_age: 0, newest: age.map_or(SystemTime::UNIX_EPOCH, |a| a.floor) };
        while self.prune_batch(age, &mut gone, &mut pruned)? {}
        // A backup that is being taken has the records from here on, and decisions and parts at its end.
        if self.held_from() == NOT_HELD {
            self.prune_reviews()?;
            self.prune_parts()?;
            let (kept, review) = (self.lock_chain()?.first_seq, self.lock_reviews()?.first_seq);
            self.prune_letters(kept, review)?;
            self.leave_absent_sinks_behind(kept, review)?;
        }
        Ok((pruned, gone))
    }

    /// Removes one batch; false when nothing more may or must go.
    fn prune_batch(
        &self,
        age: Option<Age>,
        gone: &mut Gone,
        pruned: &mut Pruned,
    ) -> Result<bool, StoreError> {
        let mut chain = self.lock_chain()?;
        let found = self.victims(&chain, age, *gone, pruned.usage_bytes)?;
        pruned.held_back = found.held_back;
        let victims = found.victims;
        let Some(last) = victims.last() else { return Ok(false) };
        let before_first = self.hash_of(&chain, last)?;
        let next = Chain { first_seq: last.seq + 1, before_first, ..chain.clone() };
        for (victim, reason) in victims.iter().filter_map(|v| Some((v, v.known.as_ref().err()?))) {
            self.keep_aside(&format!("record-{}", victim.seq), reason, &victim.value);
            pruned.unreadable += 1;
            pruned.first_unreadable.get_or_insert(victim.seq);
        }
        let orphans = self.remove_records(&victims, &next)?;
        *chain = next;
        *gone = found.gone;
        // The lock is held until the files are gone: a commit that refers to one of them again waits
        // with its pin, or finds the file missing and writes it anew.
        self.sync.wait(self.sync.request(HighWaterMark::default()))?;
        let mut bytes: u64 = victims.iter().map(|v| v.value.len() as u64).sum();
        for (kind, digest) in orphans {
            bytes += self.files.remove(kind, &digest)?;
        }
        pruned.inspections += victims.len() as u64;
        pruned.bytes += bytes;
        pruned.usage_bytes = pruned.usage_bytes.saturating_sub(bytes);
        self.take_usage(bytes);
        Ok(victims.len() == BATCH)
    }

    /// The hash of a record that goes.
    fn hash_of(&self, chain: &Chain, victim: &Victim) -> Result<Digest, StoreError> {
        if victim.known.is_err() {
            let prev = |seq, value: &[u8]| record::decode(seq, value).map(|head| head.prev);
            if let Some(hash) = hash_by_next(chain, &self.trees.results, victim.seq, prev)? {
                return Ok(hash);
            }
        }
        Ok(sha256(&victim.value))
    }

    /// The records that must go, lowest first.
    fn victims(
        &self,
        chain: &Chain,
        age: Option<Age>,
        mut gone: Gone,
        usage_bytes: u64,
    ) -> Result<Found, StoreError> {
        let failed = |e| StoreError::kv("read the oldest records", e);
        let lowest_owed = self.lowest_owed(OutboxKind::Result)?.unwrap_or(u64::MAX);
        let mut found = Found { victims: Vec::new(), gone, held_back: false };
        let (mut seen, mut left) = (Vec::new(), usage_bytes);
        for row in self.trees.results.range(key_of(chain.first_seq)..).take(BATCH) {
            let (key, value) = row.map_err(failed)?;
            let seq = seq_of(&key)?;
            let known = Known::of(seq, &value);
            if let Ok(known) = &known {
                gone.newest = gone.newest.max(known.finished);
            }
            let too_many = left > self.options.max_bytes;
            let may_age = age.filter(|a| gone.by_age < a.at_most);
            let too_old = may_age.is_some_and(|a| gone.newest < self.keep_from(a.now));
            if !too_old && !too_many {
                break;
            }
            // A backup still needs it: it goes in the next round.
            if seq >= self.held_from() {
                break;
            }
            let plausible = gone.newest >= SystemTime::UNIX_EPOCH + PLAUSIBLE_FROM;
            let certain = too_many || (known.is_ok() && plausible);
            if seq >= lowest_owed {
                found.held_back = certain;
                break;
            }
            let files = known.as_ref().map_or(0, |known| known.files_bytes);
            left = left.saturating_sub(files.saturating_add(value.len() as u64));
            seen.push(Victim { seq, known, value });
            if certain {
                gone.by_age += if too_many { 0 } else { seen.len() as u64 };
                found.victims.append(&mut seen);
                found.gone = gone;
            }
        }
        Ok(found)
    }

    /// What was finished before this is too old at `now`.
    fn keep_from(&self, now: SystemTime) -> SystemTime {
        now.checked_sub(DAY * self.options.retain_days).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether the oldest inspection would be too old at this time.
    pub(super) fn is_oldest_before(&self, now: SystemTime) -> Result<bool, StoreError> {
        let first = self.lock_chain()?.first_seq;
        let oldest = first_finished(self.trees.results.range(key_of(first)..))?;
        Ok(oldest.is_some_and(|at| at < self.keep_from(now)))
    }

    /// When the newest inspection was finished.
    pub(super) fn newest_finished(&self) -> Result<Option<SystemTime>, StoreError> {
        let last = self.lock_chain()?.last_seq;
        first_finished(self.trees.results.range(..=key_of(last)).rev())
    }

    /// How many inspections are kept.
    pub(super) fn inspections(&self) -> Result<u64, StoreError> {
        let chain = self.lock_chain()?;
        Ok((chain.last_seq + 1).saturating_sub(chain.first_seq))
    }

    /// Removes the records; returns the files that nothing refers to any more.
    fn remove_records(&self, victims: &[Victim], next: &Chain) -> Result<Vec<(Kind, Digest)>, StoreError> {
        let (mut ids, mut orphans, mut unreadable) = (Vec::<Bytes>::new(), Vec::new(), BTreeSet::new());
        for Victim { seq, known, .. } in victims {
            let Ok(known) = known else {
                unreadable.insert(*seq);
                continue;
            };
            ids.push(known.id.as_slice().into());
            for &(kind, digest) in &known.files {
                let last_user =
                    self.trees.files.get(digest).map_err(|e| StoreError::kv("look up a file", e))?;
                match last_user.map(|v| open_seq(&v)).transpose() {
                    Ok(last_user) if last_user == Some(*seq) => orphans.push((kind, digest)),
                    Ok(_) => {}
                    // Another record may still show it.
                    Err(error) => {
                        tracing::error!(file = hex(&digest), %error, "who uses it cannot be read: it stays");
                    }
                }
            }
        }
        if !unreadable.is_empty() {
            let left = self.left_by(&unreadable)?;
            ids.extend(left.ids);
            orphans.extend(left.files.into_iter().flat_map(|d| [(Kind::Image, d), (Kind::Overflow, d)]));
        }
        let t = &self.trees;
        let mut writes = Transaction::default();
        for victim in victims {
            writes.on(&t.results).remove(key_of(victim.seq));
        }
        for id in ids {
            writes.on(&t.ids).remove(id);
        }
        for (_, digest) in &orphans {
            writes.on(&t.files).remove(digest);
        }
        writes.on(&t.meta).insert(CHAIN_KEY, next.seal());
        self.transaction("remove old inspections", writes)?;
        Ok(orphans)
    }

    /// Bytes of records and files; counted once, then kept up to date. The count removes files that
    /// no record refers to. What is committed during the count may be missed by it: an error of a few
    /// records, until the next restart.
    fn usage(&self) -> Result<u64, StoreError> {
        if let Some(bytes) = *self.lock_usage() {
            return Ok(bytes);
        }
        let mut bytes = 0;
        for row in &self.trees.results {
            bytes += row.map_err(|e| StoreError::kv("count the records", e))?.1.len() as u64;
        }
        let used = |digest: &Digest| {
            self.trees.files.contains_key(digest).map_err(|e| StoreError::kv("look up a file", e))
        };
        self.files.walk(|kind, digest, size| {
            bytes += size;
            if !used(&digest)? {
                // Looked up again under the lock: its commit may just have happened.
                let _chain = self.lock_chain()?;
                if !used(&digest)? {
                    bytes = bytes.saturating_sub(self.files.remove(kind, &digest)?);
                }
            }
            Ok(())
        })?;
        *self.lock_usage() = Some(bytes);
        Ok(bytes)
    }

    pub(super) fn add_usage(&self, bytes: u64) {
        let mut usage = self.lock_usage();
        *usage = usage.map(|u| u.saturating_add(bytes));
    }

    fn take_usage(&self, bytes: u64) {
        let mut usage = self.lock_usage();
        *usage = usage.map(|u| u.saturating_sub(bytes));
    }

    fn lock_usage(&self) -> MutexGuard<'_, Option<u64>> {
        // One assignment at a time, so a panic elsewhere cannot have torn it.
        self.usage_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the first of a batch of rows was finished that says it.
fn first_finished(rows: impl Iterator<Item = kv::Result<kv::Row>>) -> Result<Option<SystemTime>, StoreError> {
    for row in rows.take(BATCH) {
        let (key, value) = row.map_err(|e| StoreError::kv("read a record's time", e))?;
        if let Ok(known) = Known::of(seq_of(&key)?, &value) {
            return Ok(Some(known.finished));
        }
    }
    Ok(None)
}
