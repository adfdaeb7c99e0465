//! The key-value engine of the store, sled 0.34, behind one file: no other names it.
//!
//! ```text
//! Db --tree--> Tree --get, rows, range, under--> Bytes
//!                '--insert, remove; Batch: many rows of one tree, all or none
//! Transaction: rows of several trees, all or none --commit--> what every reader sees --flush--> in the file
//! ```
//!
//! Invariants:
//! - What a batch or a transaction wrote is recovered whole or not at all.
//! - Nothing is durable before a flush and an fdatasync of the file: sled's own flush waits for no disk (`sync`).
//! - A transaction only writes: there is no conflict, and nobody aborts it.
//! - After an error of a write nobody knows what is stored.

use sled::transaction::{
    ConflictableTransactionResult, TransactionError, Transactional as _, TransactionalTree,
};
use std::convert::Infallible;
use std::io;
use std::ops::{Deref, RangeBounds};
use std::path::Path;

/// sled's page cache; its own default is 1 GiB. A day without a broker and its delivery (86,400 results)
/// grew the process by 83 MiB with 64 MiB of it, by 21.6 with 8 and by 14 with 4.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// How often sled writes on its own what nobody waits for (removed outbox entries).
const FLUSH_EVERY_MS: u64 = 500;

/// Why a read or a write failed, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("IO error: {0}")]
    Io(#[source] io::Error),
    /// There are bytes in the file that sled did not write.
    #[error(transparent)]
    Corruption(sled::Error),
    /// sled failed in another way.
    #[error(transparent)]
    Other(sled::Error),
}

impl Error {
    /// Another handle has the database open.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Io(error) if error.to_string().contains("could not acquire lock"))
    }
}

impl From<sled::Error> for Error {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            error @ sled::Error::Corruption { .. } => Self::Corruption(error),
            error => Self::Other(error),
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

/// A key and its value.
pub(super) type Row = (Bytes, Bytes);

/// A key or a value. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(sled::IVec);

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> From<[u8; N]> for Bytes {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes.as_slice().into())
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.as_slice().into())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

/// An open database; clones are handles of the same one.
#[derive(Clone)]
pub(super) struct Db(sled::Db);

impl Db {
    /// Opens or creates the database in a folder. A damaged file may make sled panic.
    ///
    /// # Errors
    /// `is_locked`: another handle has it open, perhaps one that is just closing.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES);
        Ok(Self(config.flush_every_ms(Some(FLUSH_EVERY_MS)).open()?))
    }

    /// The tree of this name, which is made where it is missing.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn tree(&self, name: impl AsRef<[u8]>) -> Result<Tree> {
        Ok(Tree(self.0.open_tree(name)?))
    }

    /// The names of all trees, with those that sled keeps for itself.
    pub(super) fn tree_names(&self) -> Vec<Bytes> {
        self.0.tree_names().into_iter().map(Bytes).collect()
    }

    /// Removes a tree and all that is in it.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn drop_tree(&self, name: &Bytes) -> Result<()> {
        self.0.drop_tree(&name.0)?;
        Ok(())
    }

    /// Writes what is buffered into the file.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn flush(&self) -> Result<()> {
        self.0.flush()?;
        Ok(())
    }

    /// As `flush`, for a thread that has a runtime of its own.
    ///
    /// # Errors
    /// `Error`.
    pub(super) async fn flush_async(&self) -> Result<()> {
        self.0.flush_async().await?;
        Ok(())
    }
}

/// Rows in the order of their keys.
#[derive(Clone)]
pub(super) struct Tree(sled::Tree);

impl Tree {
    /// The value of a key.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.0.get(key)?.map(Bytes))
    }

    /// Whether the key has a value.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.0.contains_key(key)?)
    }

    /// The row with the highest key.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn last(&self) -> Result<Option<Row>> {
        Ok(self.0.last()?.map(|(key, value)| (Bytes(key), Bytes(value))))
    }

    /// All rows.
    pub(super) fn iter(&self) -> Rows {
        Rows(self.0.iter())
    }

    /// The rows whose keys lie in a range.
    pub(super) fn range<K: AsRef<[u8]>>(&self, keys: impl RangeBounds<K>) -> Rows {
        Rows(self.0.range(keys))
    }

    /// The rows whose keys begin with `prefix`.
    pub(super) fn under(&self, prefix: impl AsRef<[u8]>) -> Rows {
        Rows(self.0.scan_prefix(prefix))
    }

    /// Adds or replaces a row; the value that was there.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Option<Bytes>> {
        Ok(self.0.insert(key, value.into().0)?.map(Bytes))
    }

    /// Removes a row; the value that was there.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn remove(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.0.remove(key)?.map(Bytes))
    }

    /// Makes all writes of the batch, or none.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn apply(&self, batch: Batch) -> Result<()> {
        Ok(self.0.apply_batch(batch.0)?)
    }

    /// Removes all rows.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn clear(&self) -> Result<()> {
        Ok(self.0.clear()?)
    }
}

impl IntoIterator for &Tree {
    type Item = Result<Row>;
    type IntoIter = Rows;

    fn into_iter(self) -> Rows {
        self.iter()
    }
}

/// Rows of a tree, from both ends.
pub(super) struct Rows(sled::Iter);

impl Rows {
    /// Their keys.
    pub(super) fn keys(self) -> impl DoubleEndedIterator<Item = Result<Bytes>> {
        self.map(|row| row.map(|(key, _)| key))
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(row)
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(row)
    }
}

fn row(row: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Row> {
    let (key, value) = row?;
    Ok((Bytes(key), Bytes(value)))
}

/// Writes to one tree; of two about one key the later one counts.
#[derive(Default)]
pub(super) struct Batch(sled::Batch);

impl Batch {
    /// Adds or replaces a row.
    pub(super) fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.insert(key.into().0, value.into().0);
    }

    /// Removes a row.
    pub(super) fn remove(&mut self, key: impl Into<Bytes>) {
        self.0.remove(key.into().0);
    }
}

/// Writes to several trees.
#[derive(Default)]
pub(super) struct Transaction<'a>(Vec<(&'a Tree, Batch)>);

impl<'a> Transaction<'a> {
    /// The writes to one tree.
    pub(super) fn on(&mut self, tree: &'a Tree) -> &mut Batch {
        let name = tree.0.name();
        let at = self.0.iter().position(|(known, _)| known.0.name() == name).unwrap_or_else(|| {
            self.0.push((tree, Batch::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// Makes all writes, or none.
    ///
    /// # Errors
    /// `Error`.
    pub(super) fn commit(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let trees: Vec<&sled::Tree> = self.0.iter().map(|(tree, _)| &tree.0).collect();
        let write = |views: &Vec<TransactionalTree>| -> ConflictableTransactionResult<(), Infallible> {
            for ((_, batch), view) in self.0.iter().zip(views) {
                view.apply_batch(&batch.0)?;
            }
            Ok(())
        };
        match trees.as_slice().transaction(write) {
            Ok(()) => Ok(()),
            Err(TransactionError::Abort(never)) => match never {},
            Err(TransactionError::Storage(error)) => Err(error.into()),
        }
    }
}
