//! Small copies of pictures for lists: made once, kept beside the pictures, gone with them.
//!
//! They are derived: one that is missing or broken is made again, so nothing waits for the disk.

use super::Store;
use super::error::StoreError;
use super::images::unhex;
use std::fs;
use std::path::PathBuf;

impl Store {
    /// The small copy of a picture, if it was made.
    pub fn thumbnail_path(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.files.thumb(&unhex(sha256)?);
        // A power cut may leave an empty file.
        fs::metadata(&path).is_ok_and(|m| m.len() > 0).then_some(path)
    }

    /// Keeps the small copy (JPEG) of the picture with this hash.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be written.
    pub fn put_thumbnail(&self, sha256: &str, jpeg: &[u8]) -> Result<(), StoreError> {
        self.disk.check()?;
        let digest = unhex(sha256).ok_or_else(|| StoreError::NoImage { sha256: sha256.to_owned() })?;
        let path = self.files.thumb(&digest);
        let folder = path.parent().expect("a small copy lies two folders deep");
        fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        self.files.write(&path, jpeg).map(|_| ())
    }
}
