//! Compaction: sled's file does not shrink, so its live records move into a new one.
//!
//! ```text
//! ledger/ --every tree, by name--> ledger.new/ --compared row by row, fdatasync-->
//! ledger/ <==exchanged in one step==> ledger.new/ --> the old one is removed
//! ```
//!
//! Only `open` does it, when nobody else has the database open.
//!
//! Invariants:
//! - `ledger/` is a whole database at every moment: the exchange is one step of the file system.
//! - What is found as `ledger.new/` is a copy that was not finished, or the old database after its
//!   exchange; nothing is lost with it.

use super::disk::free_bytes;
use super::error::StoreError;
use super::images::sync_dir;
use super::kv::{self, Batch, Db};
use super::{open_database, refuse_newer};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Compact when the file is so many times larger than what lives in it.
const RATIO: u64 = 4;

/// The copy must fit beside the old file; sled's own overhead is below this multiple of the live bytes.
const COPY_SHARE: u64 = 2;

/// Rows that are written in one batch.
const BATCH_ROWS: usize = 1024;

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compacted {
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Removes what an interrupted compaction left behind.
pub(super) fn clean_up(dir: &Path) -> Result<(), StoreError> {
    let copy = dir.join("ledger.new");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(StoreError::io("remove", &copy))?;
        sync_dir(dir)?;
        tracing::info!("what an interrupted compaction left behind was removed");
    }
    Ok(())
}

/// Compacts when the file is larger than `above_bytes` and than [`RATIO`] times what lives in it.
pub(super) fn compact_if_due(dir: &Path, above_bytes: u64) -> Result<Option<Compacted>, StoreError> {
    let ledger = dir.join("ledger");
    let bytes_before = file_bytes(&ledger);
    if bytes_before <= above_bytes {
        return Ok(None);
    }
    let old = open_database(&ledger)?;
    refuse_newer(&old)?;
    let live = live_bytes(&old)?;
    let room = free_bytes(dir)?;
    if bytes_before <= live.saturating_mul(RATIO) {
        return Ok(None);
    }
    if room < live.saturating_mul(COPY_SHARE) {
        tracing::warn!(room, live, "the database is due for compaction, and the disk has no room for it");
        return Ok(None);
    }
    let copy = dir.join("ledger.new");
    let rows = copy_all(&old, &copy)?;
    drop(old);
    if let Err(error) = exchange(&ledger, &copy) {
        tracing::warn!(%error, "this file system cannot exchange two folders; the database stays as it is");
        return clean_up(dir).map(|()| None);
    }
    sync_dir(dir)?;
    let done = Compacted { rows, bytes_before, bytes_after: file_bytes(&ledger) };
    let Compacted { rows, bytes_before, bytes_after } = &done;
    tracing::info!(rows, bytes_before, bytes_after, "the database was compacted");
    clean_up(dir).map(|()| Some(done))
}

/// Whether [`compact_if_due`] would compact an open database.
pub(super) fn is_due(db: &Db, dir: &Path, above_bytes: u64) -> Result<bool, StoreError> {
    let bytes = file_bytes(&dir.join("ledger"));
    Ok(bytes > above_bytes && bytes > live_bytes(db)?.saturating_mul(RATIO))
}

/// Size of sled's file; 0 when there is none yet.
pub(super) fn file_bytes(ledger: &Path) -> u64 {
    fs::metadata(ledger.join("db")).map_or(0, |m| m.len())
}

fn failed(error: kv::Error) -> StoreError {
    StoreError::kv("compact the database", error)
}

fn live_bytes(db: &Db) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for name in db.tree_names() {
        for row in &db.tree(name).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            bytes += (key.len() + value.len()) as u64;
        }
    }
    Ok(bytes)
}

/// Copies every tree, whatever its name, and proves the copy; returns the number of rows.
fn copy_all(old: &Db, copy: &Path) -> Result<u64, StoreError> {
    fs::create_dir_all(copy).map_err(StoreError::io("create", copy))?;
    let new = open_database(copy)?;
    let mut rows = 0;
    for name in old.tree_names() {
        let (from, to) = (old.tree(&name).map_err(failed)?, new.tree(&name).map_err(failed)?);
        let mut batch = Batch::default();
        let mut waiting = 0;
        for row in &from {
            let (key, value) = row.map_err(failed)?;
            batch.insert(key, value);
            waiting += 1;
            rows += 1;
            if waiting == BATCH_ROWS {
                to.apply(std::mem::take(&mut batch)).map_err(failed)?;
                waiting = 0;
            }
        }
        to.apply(batch).map_err(failed)?;
        let mut copied = to.iter();
        for row in &from {
            let copied = copied.next().transpose().map_err(failed)?;
            if copied != Some(row.map_err(failed)?) {
                return Err(StoreError::BadMeta { reason: "a compacted copy differs".into() });
            }
        }
        if copied.next().is_some() {
            return Err(StoreError::BadMeta { reason: "a compacted copy has too many rows".into() });
        }
    }
    new.flush().map_err(failed)?;
    drop(new);
    for name in ["db", "conf"] {
        let path = copy.join(name);
        File::open(&path).and_then(|f| f.sync_all()).map_err(StoreError::io("fsync", &path))?;
    }
    sync_dir(copy)?;
    Ok(rows)
}

/// Exchanges two folders in one step.
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(std::io::Error::other);
    let (a, b) = (name(a)?, name(b)?);
    let at = libc::AT_FDCWD;
    // SAFETY: both paths end with a zero byte.
    match unsafe { libc::renameat2(at, a.as_ptr(), at, b.as_ptr(), libc::RENAME_EXCHANGE) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
