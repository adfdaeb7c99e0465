//! What can go wrong in the store, one variant per reason that a caller can act on.

use super::kv;
use std::io;
use std::path::PathBuf;

/// Why the store refused or failed.
///
/// After `Io`, `Corruption`, `Engine` or `Stopped` from a commit nothing more may be acknowledged:
/// stop the line visibly, exit, and let the supervisor restart. The store never wipes anything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A restore or a salvage into it was cut off: it is half a store.
    #[error("{}: a store was begun here by a restore or a salvage and not finished; remove the directory and begin again", dir.display())]
    Unfinished { dir: PathBuf },
    /// Another process (or another `Store` of this one) has the directory open.
    #[error("{}: the store is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    /// The operating system refused a read, write or sync.
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// The engine found bytes that it did not write.
    #[error("{what}: the database file is damaged: {source}")]
    Corruption { what: &'static str, source: kv::Error },
    /// The engine failed in another way.
    #[error("{what}: {source}")]
    Engine { what: &'static str, source: kv::Error },
    /// A stored value does not carry what it must; `verify` finds all of them.
    #[error("record {seq}: {reason}")]
    BadRecord { seq: u64, reason: String },
    /// The store's own bookkeeping value is damaged.
    #[error("store bookkeeping: {reason}")]
    BadMeta { reason: String },
    /// Entries that were on the disk are gone from the end of a ledger.
    #[error("the ledger of {ledger} is broken at {}: it reached to {expected} and ends at {found} now", found + 1)]
    CutOff { ledger: &'static str, expected: u64, found: u64 },
    /// A newer version of this program wrote the store.
    #[error(
        "a newer version of inspectd wrote this store: it has format {found}, and this version reads up to {known}. \
         Install the newer version again, or restore a backup that this version made into another directory"
    )]
    NewerFormat { found: u8, known: u8 },
    /// An inspection id is not a ULID of 26 characters.
    #[error("inspection id {id:?} is not a ULID")]
    InvalidId { id: String },
    /// The inspection does not fit into a record, whatever is moved into files.
    #[error("inspection {id} cannot be stored: {reason}")]
    Unstorable { id: String, reason: String },
    /// The id is already stored: the same part must not be recorded twice.
    #[error("inspection {id} is already stored as record {seq}")]
    DuplicateId { id: String, seq: u64 },
    /// Only the file kinds of `images::EXTENSIONS` are kept.
    #[error("images of kind {extension:?} are not kept")]
    BadExtension { extension: String },
    /// The picture that the inspection refers to was never given to `put_image`.
    #[error("image {sha256} is not in the store")]
    NoImage { sha256: String },
    /// Unacknowledged inspections have reached the limit; take no more parts until some are delivered.
    /// Nothing was changed.
    #[error("the outbox holds {entries} unacknowledged inspections, its limit")]
    OutboxFull { entries: u64 },
    /// No sink has this name.
    #[error("there is no sink {name:?}")]
    NoSink { name: String },
    /// The file system has fewer free bytes than the store leaves alone. Nothing was changed; take no more
    /// parts, and try again: it passes when space comes back.
    #[error("the disk is full: {free_bytes} bytes free, {free_bytes_min} must stay free")]
    DiskFull { free_bytes: u64, free_bytes_min: u64 },
    /// The database came upon what it never expects in its own file.
    #[error("the database file is damaged: {reason}")]
    Panicked { reason: String },
    /// Whoever asked for long work does not want it any more.
    #[error("the work was ended before it was done")]
    Cancelled,
    /// An earlier write or sync failed; what was acknowledged before is safe, nothing more is accepted.
    #[error("the store has stopped after an earlier failure: {reason}")]
    Stopped { reason: String },
}

impl StoreError {
    /// True when the same call may succeed later, without a restart: space or the broker comes back.
    pub const fn passes(&self) -> bool {
        matches!(self, Self::OutboxFull { .. } | Self::DiskFull { .. })
    }

    /// True when what is stored is damaged: no restart mends it.
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corruption { .. }
                | Self::Panicked { .. }
                | Self::Engine { .. }
                | Self::BadRecord { .. }
                | Self::BadMeta { .. }
                | Self::CutOff { .. }
        )
    }

    /// Sorts the engine's errors by what a caller can do about them.
    pub(super) fn kv(what: &'static str, source: kv::Error) -> Self {
        match source {
            kv::Error::Io(source) => Self::Io { what, path: PathBuf::from("db"), source },
            source @ kv::Error::Corruption(_) => Self::Corruption { what, source },
            source @ kv::Error::Other(_) => Self::Engine { what, source },
        }
    }

    /// An error of the operating system about one path.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
