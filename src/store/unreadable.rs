//! What cannot be read and has to go: retention must not stand still before one damaged value.
//!
//! ```text
//! oldest record, read ------------------> removed by its own words: id, files
//! oldest record, damaged, due all the same --> bytes to quarantine/, a line in the log, an alarm
//!                                         '--> removed; its id and its files are looked for by its number
//! ```
//!
//! Invariants:
//! - Nothing that is damaged goes in silence, and nothing goes because it is damaged: only when it is due.
//! - What cannot be kept aside, on a full disk say, goes with its line in the log: the room is what retention is for.

use super::error::StoreError;
use super::images::{Digest, sync_dir, unhex, write_and_sync};
use super::kv::{Bytes, Tree};
use super::ledger::Chain;
use super::{Store, key_of, open_seq, seq_of};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Files in `quarantine/`; beyond it damaged values are told of and not kept. With a value's longest that is 4 MB.
const ASIDE_MAX: usize = 1000;

/// What refers to a record from outside of it.
pub(super) struct Left {
    /// Keys in `ids`.
    pub ids: Vec<Bytes>,
    /// Files whose last user it is, of whatever kind.
    pub files: Vec<Digest>,
}

impl Store {
    /// Keeps the bytes of a damaged value that is about to be removed, and says so. `what` names it, as `record-17`.
    pub(super) fn keep_aside(&self, what: &str, reason: &str, value: &[u8]) {
        match self.put_aside(what, value) {
            Ok(to) => {
                let to = to.display();
                tracing::error!(what, reason, %to, "it cannot be read and is due: removed, its bytes kept aside");
            }
            Err(why) => tracing::error!(
                what,
                reason,
                why,
                "it cannot be read and is due: removed, its bytes not kept"
            ),
        }
    }

    fn put_aside(&self, what: &str, value: &[u8]) -> Result<PathBuf, String> {
        let dir = self.dir.join("quarantine");
        let io = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(io)?;
        if fs::read_dir(&dir).map_err(io)?.count() >= ASIDE_MAX {
            return Err(format!("{} holds {ASIDE_MAX} files already", dir.display()));
        }
        // After a crash before the removal the same bytes are written once more.
        let path = dir.join(what);
        write_and_sync(&path, value).and_then(|()| sync_dir(&dir)).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// What refers to these records, which do not say it themselves. Reads all ids and files, so only for damaged ones.
    pub(super) fn left_by(&self, seqs: &BTreeSet<u64>) -> Result<Left, StoreError> {
        let failed = |e| StoreError::kv("look for what a damaged record has left", e);
        let is_of = |value: &[u8]| open_seq(value).is_ok_and(|seq| seqs.contains(&seq));
        let mut left = Left { ids: Vec::new(), files: Vec::new() };
        for row in &self.trees.ids {
            let (key, value) = row.map_err(failed)?;
            if is_of(&value) {
                left.ids.push(key);
            }
        }
        for row in &self.trees.files {
            let (key, value) = row.map_err(failed)?;
            if is_of(&value) {
                left.files.extend(Digest::try_from(&*key).ok());
            }
        }
        Ok(left)
    }

    /// The inspection before `first_kept` that a damaged review is about, by the index.
    pub(super) fn inspection_of_review(&self, seq: u64, first_kept: u64) -> Result<Option<u64>, StoreError> {
        for row in self.trees.review.by_inspection.range(..key_of(first_kept)) {
            let (key, _) = row.map_err(|e| StoreError::kv("look for a damaged review", e))?;
            let Some((inspection, review)) = key.split_at_checked(8) else { continue };
            if seq_of(review)? == seq {
                return seq_of(inspection).map(Some);
            }
        }
        Ok(None)
    }
}

/// Hash of the entry `last` by the word of the one after it: the hash of damaged bytes is none that anybody names.
/// `None` where nobody says it.
pub(super) fn hash_by_next(
    chain: &Chain,
    rows: &Tree,
    last: u64,
    prev: impl Fn(u64, &[u8]) -> Result<String, String>,
) -> Result<Option<Digest>, StoreError> {
    if last == chain.last_seq {
        return Ok(Some(chain.last_hash));
    }
    let next = rows.get(key_of(last + 1)).map_err(|e| StoreError::kv("read the next record", e))?;
    Ok(next.and_then(|value| unhex(&prev(last + 1, &value).ok()?)))
}

#[cfg(test)]
#[path = "unreadable_tests.rs"]
mod tests;
