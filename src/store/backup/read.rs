//! Reading a damaged database: a copy of it, row by row, around what cannot be read.
//!
//! ```text
//! rows in their order --damage--> number by number, until one can be read --> on from there
//! ```

use super::BackupError;
use crate::store::kv::{self, Db};
use crate::store::{key_of, open_database, seq_of};
use crate::threads;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A ledger whose end nobody knows is asked for so many numbers after the last one that was found.
const BEYOND: u64 = 100_000;

/// Copies the files of a database and opens the copy, if need be without its snapshots, which sled can do without;
/// the inner error says why it cannot be opened.
pub(super) fn open_copy(ledger: &Path, copy: &Path) -> Result<Result<Db, String>, BackupError> {
    let mut reason = String::new();
    for snapshots in [true, false] {
        if copy.exists() {
            fs::remove_dir_all(copy).map_err(BackupError::io("remove", copy))?;
        }
        if let Err(error) = copy_files(ledger, copy, snapshots) {
            return Ok(Err(error));
        }
        match open_database(copy) {
            Ok(db) => return Ok(Ok(db)),
            Err(error) => reason = error.to_string(),
        }
    }
    Ok(Err(reason))
}

fn copy_files(from: &Path, to: &Path, snapshots: bool) -> Result<(), String> {
    let words = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(to).map_err(|e| words(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| words(from, e))? {
        let path = entry.map_err(|e| words(from, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_snapshot = name.starts_with("snap.");
        if is_snapshot && (!snapshots || name.ends_with(".generating")) {
            continue;
        }
        if path.is_dir() {
            copy_files(&path, &to.join(&name), snapshots)?;
        } else {
            fs::copy(&path, to.join(&name)).map_err(|e| words(&path, e))?;
        }
    }
    Ok(())
}

/// What sled says, or what it panicked with.
fn guarded<T>(read: impl FnOnce() -> kv::Result<T>) -> Result<T, String> {
    threads::caught(read)?.map_err(|e| e.to_string())
}

/// Takes a number and what stands under it.
type Each<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), BackupError>;

/// All rows of a tree with numbers for keys, in their order, around what cannot be read; `end` is the highest number
/// that was ever known. Returns what was wrong first.
pub(super) fn stream(db: &Db, name: &str, end: u64, each: Each<'_>) -> Result<Option<String>, BackupError> {
    let tree = match guarded(|| db.tree(name)) {
        Ok(tree) => tree,
        Err(reason) => return Ok(Some(reason)),
    };
    let (mut next, mut damage) = (0, None);
    loop {
        let mut rows = tree.range(key_of(next)..);
        let reason = loop {
            match guarded(|| rows.next().transpose()) {
                Ok(Some((key, bytes))) => {
                    let Ok(seq) = seq_of(&key) else { continue };
                    each(seq, &bytes)?;
                    next = seq + 1;
                }
                Ok(None) => return Ok(damage),
                Err(reason) => break reason,
            }
        };
        damage.get_or_insert(reason);
        let last = if end >= next { end } else { next + BEYOND };
        let found = (next..=last).find_map(|seq| {
            let bytes = guarded(|| tree.get(key_of(seq))).ok().flatten()?;
            Some((seq, bytes))
        });
        let Some((seq, bytes)) = found else { return Ok(damage) };
        each(seq, &bytes)?;
        next = seq + 1;
    }
}

/// The rows of a small tree, from both ends as far as they can be read, and what was wrong.
pub(super) fn read_small(db: &Db, name: &str) -> (BTreeMap<Vec<u8>, Vec<u8>>, Option<String>) {
    let mut found = BTreeMap::new();
    let tree = match guarded(|| db.tree(name)) {
        Ok(tree) => tree,
        Err(reason) => return (found, Some(reason)),
    };
    let mut damage = None;
    let mut rows = tree.iter();
    for from_the_end in [false, true] {
        loop {
            let row = guarded(|| if from_the_end { rows.next_back() } else { rows.next() }.transpose());
            match row {
                Ok(Some((key, bytes))) => {
                    found.insert(key.to_vec(), bytes.to_vec());
                }
                Ok(None) => return (found, damage),
                Err(reason) => {
                    damage.get_or_insert(reason);
                    break;
                }
            }
        }
        rows = tree.iter();
    }
    (found, damage)
}
