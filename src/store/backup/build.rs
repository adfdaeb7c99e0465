//! A store made of rows: what a restore and a salvage write.
//!
//! ```text
//! marker `unfinished` --> rows into a new database, and what follows from them (ids, files, review states)
//!     --> chains, fsync --> the caller proves it --> the marker goes
//! ```
//!
//! `Store::open` refuses a directory with the marker, so that half a store is never taken for one.

use super::keep::UNFINISHED;
use super::take::{RESULTS, REVIEWS};
use super::{BackupError, Copied, copy_proven, sync_all};
use crate::store::error::StoreError;
use crate::store::images::{Digest, sha256, sync_dir, unhex};
use crate::store::kv::{self, Batch, Db};
use crate::store::ledger::{self, Chain};
use crate::store::review::{self, ReviewState};
use crate::store::{id_key, open_database, record, review_record, seal_seq, value};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Rows of one batch.
const BATCH_ROWS: usize = 1024;

/// A store in the making.
pub(super) struct Builder {
    dir: PathBuf,
    db: Db,
    waiting: BTreeMap<String, (Batch, usize)>,
    /// Who owns the directory that was given: what is made in it becomes that user's.
    owner: (u32, u32),
}

/// One end of a ledger's chain, as far as it was inserted.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub first: Option<u64>,
    pub before_first: Digest,
    pub last: u64,
    pub last_hash: Digest,
}

impl Ledger {
    /// One more entry, in the order of sequence numbers.
    fn take(&mut self, seq: u64, prev: &str, value: &[u8]) {
        if self.first.is_none() {
            self.first = Some(seq);
            self.before_first = unhex(prev).unwrap_or_default();
        }
        (self.last, self.last_hash) = (seq, sha256(value));
    }

    /// The chain whose next entry comes after `end`, or after the last one that is here.
    pub(super) fn chain(&self, end: u64) -> Chain {
        let last_seq = self.last.max(end);
        let first_seq = self.first.unwrap_or(last_seq + 1);
        Chain { first_seq, before_first: self.before_first, last_seq, last_hash: self.last_hash }
    }
}

fn failed(error: kv::Error) -> BackupError {
    StoreError::kv("write a new database", error).into()
}

impl Builder {
    /// Begins a store in `dir`, which must be new or empty.
    ///
    /// # Errors
    /// [`BackupError`]: it holds something, or it cannot be written.
    pub(super) fn create(dir: &Path) -> Result<Self, BackupError> {
        fs::create_dir_all(dir).map_err(BackupError::io("create", dir))?;
        let meta = fs::metadata(dir).map_err(BackupError::io("look at", dir))?;
        let marker = dir.join(UNFINISHED);
        if marker.exists() {
            let reason = "here a store was begun and not finished; remove the directory and begin again";
            return Err(BackupError::bad(dir, reason));
        }
        if fs::read_dir(dir).map_err(BackupError::io("list", dir))?.next().is_some() {
            return Err(BackupError::bad(dir, "it is not empty: a store is only made in a new directory"));
        }
        fs::write(&marker, b"").map_err(BackupError::io("write", &marker))?;
        sync_dir(dir)?;
        let ledger = dir.join("ledger");
        fs::create_dir_all(&ledger).map_err(BackupError::io("create", &ledger))?;
        let db = open_database(&ledger)?;
        Ok(Self { dir: dir.to_owned(), db, waiting: BTreeMap::new(), owner: (meta.uid(), meta.gid()) })
    }

    /// A row of any tree.
    pub(super) fn row(&mut self, tree: &str, key: &[u8], value: &[u8]) -> Result<(), BackupError> {
        let (batch, rows) = self.waiting.entry(tree.to_owned()).or_default();
        batch.insert(key, value);
        *rows += 1;
        if *rows >= BATCH_ROWS {
            let batch = std::mem::take(batch);
            *rows = 0;
            self.db.tree(tree).and_then(|t| t.apply(batch)).map_err(failed)?;
        }
        Ok(())
    }

    /// A record, and what follows from it; to be called in the order of sequence numbers. One that cannot be read is
    /// kept as it is, and is an error.
    pub(super) fn record(&mut self, seq: u64, bytes: &[u8], ledger: &mut Ledger) -> Result<(), BackupError> {
        let bad = |reason| StoreError::BadRecord { seq, reason };
        self.row(RESULTS, &seq.to_be_bytes(), bytes)?;
        let head = match record::decode(seq, bytes) {
            Ok(head) => head,
            Err(reason) => {
                ledger.take(seq, "", bytes);
                return Err(bad(reason).into());
            }
        };
        self.row("ids", &id_key(&head.id)?, &seal_seq(seq))?;
        for digest in [head.image_digest(), head.overflow_digest()] {
            if let Some(digest) = digest.map_err(bad)? {
                self.row("files", &digest, &seal_seq(seq))?;
            }
        }
        ledger.take(seq, &head.prev, bytes);
        Ok(())
    }

    /// A decision, and what follows from it; in the order of sequence numbers.
    pub(super) fn review(&mut self, seq: u64, bytes: &[u8], ledger: &mut Ledger) -> Result<(), BackupError> {
        let bad = |reason| StoreError::BadRecord { seq, reason };
        self.row(REVIEWS, &seq.to_be_bytes(), bytes)?;
        let head = match review_record::decode(seq, bytes) {
            Ok(head) => head,
            Err(reason) => {
                ledger.take(seq, "", bytes);
                return Err(bad(reason).into());
            }
        };
        let about = head.inspection_seq;
        let review_state: ReviewState = head.review_state();
        self.row("reviewed", &about.to_be_bytes(), &review::seal_review_state(&review_state))?;
        self.row("reviews_by", &review::pair_key(about, seq), &value::seal(1, b""))?;
        if let Some(digest) = head.overflow_digest().map_err(bad)? {
            self.row("files", &digest, &seal_seq(review::REVIEW_FILE | seq))?;
        }
        ledger.take(seq, &head.prev, bytes);
        Ok(())
    }

    /// Copies a content-addressed file into its place.
    pub(super) fn file(
        &self,
        from: &Path,
        folder: &str,
        name: &Digest,
        extension: &str,
    ) -> Result<Copied, BackupError> {
        copy_proven(from, &super::file_below(&self.dir, folder, name, extension), name)
    }

    /// Writes the chains and puts everything on the disk; the store is still marked as unfinished.
    pub(super) fn finish(mut self, results: &Chain, reviews: &Chain) -> Result<Unproven, BackupError> {
        self.row("meta", ledger::CHAIN_KEY, &results.seal())?;
        self.row("meta", review::CHAIN_KEY, &reviews.seal())?;
        for (tree, (batch, _)) in std::mem::take(&mut self.waiting) {
            self.db.tree(tree).and_then(|t| t.apply(batch)).map_err(failed)?;
        }
        self.db.flush().map_err(failed)?;
        let Self { dir, db, owner, .. } = self;
        drop(db);
        sync_all(&dir)?;
        Ok(Unproven { dir, owner })
    }
}

/// A store that is written and still marked as unfinished.
pub(super) struct Unproven {
    pub dir: PathBuf,
    owner: (u32, u32),
}

impl Unproven {
    /// Takes the marker away: from now on it is a store. Files of root's become the directory's owner's.
    pub(super) fn accept(self) -> Result<(), BackupError> {
        if self.owner.0 != super::own_uid() {
            give_to(&self.dir, self.owner)?;
        }
        sync_all(&self.dir)?;
        let marker = self.dir.join(UNFINISHED);
        fs::remove_file(&marker).map_err(BackupError::io("remove", &marker))?;
        sync_dir(&self.dir)?;
        Ok(())
    }
}

fn give_to(path: &Path, (uid, gid): (u32, u32)) -> Result<(), BackupError> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(BackupError::io("give away", path))?;
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        for entry in fs::read_dir(path).map_err(BackupError::io("list", path))? {
            give_to(&entry.map_err(BackupError::io("list", path))?.path(), (uid, gid))?;
        }
    }
    Ok(())
}
