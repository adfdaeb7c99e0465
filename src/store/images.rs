//! Content-addressed files beside the database: pictures, and parts of records that are too long.
//!
//! ```text
//! put(bytes) --> tmp/N --fsync, rename, fsync directory--> images/ab/cdef….jpg
//!                (the name is the sha256 of the bytes, so it proves them)
//! ```
//!
//! They stay outside of sled because sled never syncs large values.
//!
//! Invariants:
//! - A name in `images/` or `parts/` has all its bytes on the disk: the rename comes after the fsync.
//! - A file that was put and not yet committed is pinned; retention leaves pinned files alone.
//! - What is in `tmp/` belongs to nobody after a restart and is removed by `open`.

use super::error::StoreError;
use super::proof::Stamps;
use crate::domain::inspection::ImageRef;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds of picture that are kept, by extension.
pub(crate) const EXTENSIONS: [&str; 2] = ["jpg", "png"];

/// Extension of the overflow files.
const OVERFLOW_EXTENSION: &str = "json";

/// sha256 of a file.
pub type Digest = [u8; 32];

/// The two folders of content-addressed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    /// What did not fit in a record or a review.
    Overflow,
}

impl Kind {
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Overflow => "parts",
        }
    }

    pub(super) const fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Image => &EXTENSIONS,
            Self::Overflow => &[OVERFLOW_EXTENSION],
        }
    }
}

/// All content-addressed files of one store.
pub(crate) struct Files {
    dir: PathBuf,
    next_temp: AtomicU64,
    pub(super) stamps: Stamps,
    pins: Mutex<HashMap<Digest, usize>>,
}

impl Files {
    /// Makes the folders and empties `tmp/`.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let temp = dir.join("tmp");
        if temp.exists() {
            fs::remove_dir_all(&temp).map_err(StoreError::io("empty", &temp))?;
        }
        for name in ["tmp", Kind::Image.folder(), Kind::Overflow.folder()] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        }
        sync_dir(dir)?;
        let stamps = Stamps::default();
        Ok(Self { dir: dir.to_owned(), next_temp: AtomicU64::new(0), stamps, pins: Mutex::default() })
    }

    /// Stores a picture. It stays pinned until an inspection that refers to it is committed.
    pub(crate) fn put_image(&self, bytes: &[u8], extension: &str) -> Result<(ImageRef, u64), StoreError> {
        if !EXTENSIONS.contains(&extension) {
            return Err(StoreError::BadExtension { extension: extension.to_owned() });
        }
        let (digest, added) = self.put(Kind::Image, bytes, extension)?;
        Ok((ImageRef { sha256: hex(&digest), bytes: bytes.len() as u64 }, added))
    }

    /// Stores what did not fit in a record; pinned like a picture.
    pub(crate) fn put_overflow(&self, bytes: &[u8]) -> Result<(Digest, u64), StoreError> {
        self.put(Kind::Overflow, bytes, OVERFLOW_EXTENSION)
    }

    /// Returns the digest and how many bytes the disk holds more than before.
    fn put(&self, kind: Kind, bytes: &[u8], extension: &str) -> Result<(Digest, u64), StoreError> {
        let digest = sha256(bytes);
        // Pinned before the look at the disk: retention cannot remove the file in between.
        *self.lock_pins().entry(digest).or_insert(0) += 1;
        let outcome = self.write(&self.path(kind, &digest, extension), bytes);
        if outcome.is_err() {
            self.unpin(&digest);
        }
        Ok((digest, outcome?))
    }

    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<u64, StoreError> {
        let folder = path.parent().expect("a content address lies two folders deep");
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
            sync_dir(folder.parent().expect("a content address lies two folders deep"))?;
        }
        // A file under this name may have been damaged since; then it is replaced by what it should be.
        let there = fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64);
        if there && fs::read(path).is_ok_and(|kept| kept == bytes) {
            // The rename may have happened just before a crash: the name itself may not be on the disk yet.
            sync_dir(folder)?;
            return Ok(0);
        }
        let temp = self.dir.join("tmp").join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string());
        let written = write_and_sync(&temp, bytes)
            .and_then(|()| fs::rename(&temp, path).map_err(StoreError::io("rename to", path)));
        if written.is_err() {
            // On a full disk the half of a picture would take what room there is.
            let _ = fs::remove_file(&temp);
        }
        written?;
        sync_dir(folder)?;
        Ok(bytes.len() as u64)
    }

    /// Ends one `put` of this file, after its record is in the database or was given up.
    pub(crate) fn unpin(&self, digest: &Digest) {
        let mut pins = self.lock_pins();
        if let Some(count) = pins.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(digest);
            }
        }
    }

    /// The file of a picture, if it is here.
    pub(crate) fn image(&self, sha256: &str) -> Option<PathBuf> {
        self.find(Kind::Image, &unhex(sha256)?)
    }

    /// The file under this digest, if it is here.
    pub(super) fn find(&self, kind: Kind, digest: &Digest) -> Option<PathBuf> {
        kind.extensions().iter().map(|e| self.path(kind, digest, e)).find(|p| p.exists())
    }

    /// The bytes of an overflow file, proven by their hash.
    pub(crate) fn read_overflow(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let path = self.path(Kind::Overflow, digest, OVERFLOW_EXTENSION);
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if sha256(&bytes) != *digest {
            return Err(format!("{}: its bytes do not match its name", path.display()));
        }
        Ok(bytes)
    }

    /// Removes a file that no record refers to any more, unless it is pinned. Returns its size.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError> {
        let pins = self.lock_pins();
        if pins.contains_key(digest) {
            return Ok(0);
        }
        let mut removed = 0;
        for extension in kind.extensions() {
            let path = self.path(kind, digest, extension);
            if let Ok(meta) = fs::metadata(&path) {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                removed += meta.len();
            }
        }
        if kind == Kind::Image {
            // A small copy is worth nothing without its picture.
            let _ = fs::remove_file(self.thumb(digest));
        }
        Ok(removed)
    }

    /// Calls `visit(kind, digest, bytes)` for every file.
    pub(crate) fn walk(
        &self,
        mut visit: impl FnMut(Kind, Digest, u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for kind in [Kind::Image, Kind::Overflow] {
            let top = self.dir.join(kind.folder());
            for folder in fs::read_dir(&top).map_err(StoreError::io("list", &top))? {
                let folder = folder.map_err(StoreError::io("list", &top))?.path();
                for file in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
                    let path = file.map_err(StoreError::io("list", &folder))?.path();
                    let (Some(head), Some(tail)) = (folder.file_name(), path.file_stem()) else { continue };
                    let name = format!("{}{}", head.to_string_lossy(), tail.to_string_lossy());
                    // Files with other names are not ours; they are left alone.
                    let Some(digest) = unhex(&name) else { continue };
                    let bytes = fs::metadata(&path).map_err(StoreError::io("look at", &path))?.len();
                    visit(kind, digest, bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Where the small copy of a picture lies, or would.
    pub(super) fn thumb(&self, digest: &Digest) -> PathBuf {
        let name = hex(digest);
        let (head, tail) = name.split_at(2);
        self.dir.join("thumbs").join(head).join(format!("{tail}.jpg"))
    }

    fn path(&self, kind: Kind, digest: &Digest, extension: &str) -> PathBuf {
        let name = hex(digest);
        let (head, tail) = name.split_at(2);
        self.dir.join(kind.folder()).join(head).join(format!("{tail}.{extension}"))
    }

    fn lock_pins(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // A count is changed in one step, so a panic elsewhere cannot have torn it.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn write_and_sync(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create(path).map_err(StoreError::io("create", path))?;
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("fsync", path))
}

/// Makes names that were created in or moved into a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|d| d.sync_all()).map_err(StoreError::io("fsync the directory", path))
}

/// sha256 of bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Lower-case hex digits of a digest.
pub fn hex(digest: &Digest) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string never fails");
        text
    })
}

/// The digest of 64 hex digits, if it is one.
pub(crate) fn unhex(text: &str) -> Option<Digest> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_file_reads_back_and_pins_hold_off_removal() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let (image, added) = files.put_image(b"picture", "jpg").unwrap();
        assert_eq!((image.bytes, added), (7, 7));
        assert_eq!(files.put_image(b"picture", "jpg").unwrap().1, 0, "the same bytes are stored once");
        let path = files.image(&image.sha256).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"picture");
        assert!(path.ends_with(format!("images/{}/{}.jpg", &image.sha256[..2], &image.sha256[2..])));

        let digest = unhex(&image.sha256).unwrap();
        assert_eq!(files.remove(Kind::Image, &digest).unwrap(), 0);
        files.unpin(&digest);
        assert_eq!(files.remove(Kind::Image, &digest).unwrap(), 0, "put twice, unpinned once");
        files.unpin(&digest);
        assert_eq!(files.remove(Kind::Image, &digest).unwrap(), 7);
        assert!(files.image(&image.sha256).is_none());
        assert!(matches!(files.put_image(b"x", "exe"), Err(StoreError::BadExtension { .. })));
    }

    #[test]
    fn an_edited_part_is_refused_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let (digest, _) = files.put_overflow(b"{}").unwrap();
        assert_eq!(files.read_overflow(&digest).unwrap(), b"{}");
        fs::write(files.path(Kind::Overflow, &digest, "json"), b"[]").unwrap();
        assert!(files.read_overflow(&digest).unwrap_err().contains("do not match"));
        fs::write(dir.path().join("tmp/9"), b"half").unwrap();
        drop(files);
        Files::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
