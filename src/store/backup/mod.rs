//! A way back: a backup of a store taken while it is in use, a store made from a backup, and what can be saved of a
//! damaged one.
//!
//! ```text
//! store --rows in batches (`take`)--> `keep` --> DIR     (through the local door, or in one process)
//! DIR --`restore`--> a new store          a damaged store --`salvage`--> a new store and a list of what is missing
//! ```
//!
//! A backup is a directory:
//!
//! ```text
//! unfinished        there while a run writes, and after one that was cut off
//! backup.json       what the finished runs hold; replaced in one step at the end of a run
//! rows/000001.rows  one file a run: new records, decisions and verdicts, then all that changes (owed messages,
//!                   accepted triggers, accounts, state) as it was at one moment
//! images/ parts/    as in the store
//! ```
//!
//! Invariants:
//! - A run holds the ledgers up to one moment at which both were locked, and everything else of that moment.
//! - A run copies what came after the run before it, whose end it proves by its hash: two stores never mix.
//! - A run that was cut off has changed nothing of what the runs before it hold.

mod build;
pub(crate) mod keep;
mod read;
pub(crate) mod restore;
pub(crate) mod salvage;
pub(crate) mod take;

use super::error::StoreError;
use super::images::{Digest, hex, unhex};
use super::proof;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Format of the directory.
const FORMAT: u8 = 1;
/// Flaws that are named one by one; all are counted.
pub(crate) const FLAWS_NAMED: usize = 10_000;
const CHUNK_BYTES: usize = 256 * 1024;
/// Longest key or value that is believed of a rows file; values are at most 4 KiB.
const FIELD_BYTES_MAX: usize = 1 << 20;

/// Why there is no backup, or no store from one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// The directory holds something else, or what it says cannot be read.
    #[error("{}: {reason}", path.display())]
    Bad { path: PathBuf, reason: String },
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl BackupError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    fn bad(path: &Path, reason: impl Into<String>) -> Self {
        Self::Bad { path: path.to_owned(), reason: reason.into() }
    }
}

/// What `backup.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: u8,
    pub runs: Vec<Run>,
}

/// One finished run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Name below `rows/`, its sha256 and length.
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
    /// RFC 3339, of the moment that it holds.
    pub at: String,
    /// Of inspectd.
    pub version: String,
    pub inspections: Span,
    pub reviews: Span,
    /// Sequence numbers of the newest views of parts that were open.
    pub open_parts: Vec<u64>,
    /// Pictures and parts of records that were missing or wrong in the store.
    pub flaws: Vec<Flawed>,
}

/// A file that is not what its record names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flawed {
    pub seq: u64,
    pub what: String,
}

/// A run of one ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first that this run holds; above `through` when it holds none.
    pub from: u64,
    /// The end of the ledger at its moment; 0: nothing was ever stored.
    pub through: u64,
    /// sha256 (hex) of the last entry.
    pub hash: String,
}

/// What a backup holds already, for the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub inspections: Span,
    pub reviews: Span,
    pub open_parts: Vec<u64>,
}

/// Adds a row of a tree: name, key and value, each with its length.
fn frame_row(out: &mut Vec<u8>, tree: &str, key: &[u8], value: &[u8]) {
    for field in [tree.as_bytes(), key, value] {
        let length = u32::try_from(field.len()).expect("rows are far below 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(field);
    }
}

/// One row of a tree.
struct Row {
    tree: String,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Rows from a stream, in their order.
struct Rows<R> {
    from: R,
}

impl<R: io::Read> Rows<R> {
    const fn new(from: R) -> Self {
        Self { from }
    }

    /// The next row; `None` at the end of the stream.
    fn next(&mut self) -> io::Result<Option<Row>> {
        let Some(tree) = self.field()? else { return Ok(None) };
        let torn = || io::Error::new(io::ErrorKind::UnexpectedEof, "a row is cut off");
        let key = self.field()?.ok_or_else(torn)?;
        let value = self.field()?.ok_or_else(torn)?;
        let tree = String::from_utf8(tree).map_err(io::Error::other)?;
        Ok(Some(Row { tree, key, value }))
    }

    fn field(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        // Only between two fields may it end.
        if self.from.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut length[1..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > FIELD_BYTES_MAX {
            return Err(io::Error::other(format!("a field of {length} bytes")));
        }
        let mut field = vec![0; length];
        self.from.read_exact(&mut field)?;
        Ok(Some(field))
    }
}

/// How a copy went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// So many bytes are new there.
    Whole(u64),
    Missing,
    /// The source holds other bytes than its name says.
    Wrong,
}

/// Copies a content-addressed file, proving it on the way; under its name there are only whole ones. It is not yet
/// on the disk: [`sync_all`] sees to that.
fn copy_proven(from: &Path, to: &Path, digest: &Digest) -> Result<Copied, BackupError> {
    if File::open(to).is_ok_and(|file| proof::hash(file).is_ok_and(|found| found == *digest)) {
        return Ok(Copied::Whole(0));
    }
    let mut source = match File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copied::Missing),
        Err(_) => return Ok(Copied::Wrong),
    };
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(BackupError::io("create", folder))?;
    let fresh = to.with_extension("new");
    let mut target = File::create(&fresh).map_err(BackupError::io("create", &fresh))?;
    let (mut hasher, mut chunk, mut bytes) = (sha2::Sha256::default(), vec![0; CHUNK_BYTES], 0);
    loop {
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                sha2::Digest::update(&mut hasher, &chunk[..n]);
                target.write_all(&chunk[..n]).map_err(BackupError::io("write", &fresh))?;
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Bytes that the disk does not give back are as good as others.
            Err(_) => {
                fs::remove_file(&fresh).map_err(BackupError::io("remove", &fresh))?;
                return Ok(Copied::Wrong);
            }
        }
    }
    if Digest::from(sha2::Digest::finalize(hasher)) != *digest {
        fs::remove_file(&fresh).map_err(BackupError::io("remove", &fresh))?;
        return Ok(Copied::Wrong);
    }
    fs::rename(&fresh, to).map_err(BackupError::io("rename to", to))?;
    Ok(Copied::Whole(bytes))
}

/// Where a content-addressed file lies below a store or a backup.
fn file_below(top: &Path, folder: &str, digest: &Digest, extension: &str) -> PathBuf {
    let name = hex(digest);
    let (head, tail) = name.split_at(2);
    top.join(folder).join(head).join(format!("{tail}.{extension}"))
}

/// Calls `visit(digest, extension, path)` for every content-addressed file in a folder below `top`.
fn files_in(
    top: &Path,
    folder: &str,
    visit: &mut dyn FnMut(Digest, &str, &Path) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let top = top.join(folder);
    let Ok(folders) = fs::read_dir(&top) else { return Ok(()) };
    for inner in folders.map_while(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()) {
        for file in fs::read_dir(&inner).map_err(BackupError::io("list", &inner))? {
            let path = file.map_err(BackupError::io("list", &inner))?.path();
            let text =
                |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
            let name = text(inner.file_name()) + &text(path.file_stem());
            if let Some(digest) = unhex(&name) {
                visit(digest, &text(path.extension()), &path)?;
            }
        }
    }
    Ok(())
}

/// The user of this process.
fn own_uid() -> u32 {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() }
}

/// Puts everything on the disk that was written to the file system of `dir`.
fn sync_all(dir: &Path) -> Result<(), BackupError> {
    use std::os::fd::AsRawFd as _;
    let failed = BackupError::io("sync the file system of", dir);
    let folder = match File::open(dir) {
        Ok(folder) => folder,
        Err(error) => return Err(failed(error)),
    };
    // SAFETY: the descriptor is open.
    match unsafe { libc::syncfs(folder.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests;
