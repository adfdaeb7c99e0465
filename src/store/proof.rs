//! Pictures, proven: that the file which a record names is there, has its size and its bytes.
//!
//! ```text
//! record --sha256, bytes--> file: there? --size?--> seen before (device, inode, size, times)? --no--> hashed
//!    missing <----------------------no       no            '--yes--> whole           whole <--yes, no--> wrong
//! ```
//!
//! A file is hashed once and its stamp remembered: who changes bytes without a change of inode, size, mtime or ctime
//! has to go around the file system. `verify_files` believes no stamp and hashes everything.

use super::error::StoreError;
use super::images::{Digest, Files, Kind, unhex};
use super::kv;
use super::{Store, key_of, record, seq_of};
use crate::domain::inspection::ImageRef;
use crate::domain::review::PictureFault;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Files whose stamps are remembered; beyond it all are forgotten, and hashed again when somebody looks.
const STAMPS_MAX: usize = 65_536;
/// A file that was changed so lately may be changed again under the same time, so that its stamp proves nothing.
const SETTLED: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 64 * 1024;

/// What the file that a record names is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// It is there, word for word.
    Whole(PathBuf),
    /// There is none.
    Missing,
    /// There is one, and it is another: cut off, replaced, or it cannot be read.
    Wrong { reason: String },
}

impl FileState {
    /// What is wrong, if anything.
    pub const fn fault(&self) -> Option<PictureFault> {
        match self {
            Self::Whole(_) => None,
            Self::Missing => Some(PictureFault::Missing),
            Self::Wrong { .. } => Some(PictureFault::Wrong),
        }
    }

    /// The word used in messages and on the page.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Whole(_) => "whole",
            Self::Missing => "missing",
            Self::Wrong { .. } => "wrong",
        }
    }
}

/// Who has this is who was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(self.ctime.0.max(self.mtime.0).max(0).unsigned_abs());
        now.checked_sub(changed).is_some_and(|age| age > SETTLED)
    }
}

/// The stamps of files that were hashed.
#[derive(Default)]
pub(crate) struct Stamps(Mutex<HashMap<Digest, Stamp>>);

impl Stamps {
    fn knows(&self, digest: &Digest, stamp: Stamp) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest) == Some(&stamp)
    }

    fn remember(&self, digest: Digest, stamp: Stamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= STAMPS_MAX {
            known.clear();
        }
        known.insert(digest, stamp);
    }
}

/// sha256 of what is left of a stream.
///
/// # Errors
/// It cannot be read.
pub(crate) fn hash(mut from: impl io::Read) -> io::Result<Digest> {
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Files {
    /// Proves the file of a record, which says how long it is; `believe` takes a stamp for a hash.
    pub(super) fn prove(&self, kind: Kind, digest: &Digest, bytes: Option<u64>, believe: bool) -> FileState {
        let Some(path) = self.find(kind, digest) else { return FileState::Missing };
        match self.prove_at(&path, digest, bytes, believe) {
            Ok(None) => FileState::Whole(path),
            Ok(Some(reason)) => FileState::Wrong { reason },
            Err(error) if error.kind() == io::ErrorKind::NotFound => FileState::Missing,
            Err(error) => FileState::Wrong { reason: format!("it cannot be read: {error}") },
        }
    }

    /// What is wrong with the file, if anything.
    fn prove_at(
        &self,
        path: &Path,
        digest: &Digest,
        bytes: Option<u64>,
        believe: bool,
    ) -> io::Result<Option<String>> {
        if !std::fs::symlink_metadata(path)?.is_file() {
            return Ok(Some("it is no file".into()));
        }
        let file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if let Some(bytes) = bytes.filter(|bytes| *bytes != stamp.size) {
            return Ok(Some(format!("it has {} bytes, its record says {bytes}", stamp.size)));
        }
        if believe && self.stamps.knows(digest, stamp) {
            return Ok(None);
        }
        if hash((&file).take(stamp.size + 1))? != *digest {
            return Ok(Some("its bytes are others: its sha256 is not the record's".into()));
        }
        if stamp.is_settled() && Stamp::of(&file.metadata()?) == stamp {
            self.stamps.remember(*digest, stamp);
        }
        Ok(None)
    }
}

/// Which file of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Picture,
    /// What did not fit in the record.
    Overflow,
}

impl FileKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Picture => "picture",
            Self::Overflow => "part",
        }
    }
}

/// A file that is not what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub seq: u64,
    /// ULID of the inspection.
    pub id: String,
    pub kind: FileKind,
    pub sha256: String,
    pub state: FileState,
}

impl Flaw {
    /// What is wrong, in words.
    pub fn words(&self) -> String {
        let kind = self.kind.as_str();
        match &self.state {
            FileState::Missing => format!("its {kind} is missing"),
            FileState::Wrong { reason } => format!("its {kind} is wrong: {reason}"),
            FileState::Whole(_) => format!("its {kind} is whole"),
        }
    }
}

/// How far `verify_files` is.
#[derive(Debug)]
pub enum FileStep<'a> {
    /// This record is done, one of `total`.
    Record {
        seq: u64,
        done: u64,
        total: u64,
    },
    Flaw(&'a Flaw),
}

/// What `verify_files` has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesVerified {
    pub files: u64,
    pub bytes: u64,
    pub flaws: u64,
}

impl Store {
    /// How the picture of an inspection stands; hashed at the first look, then known by its stamp.
    pub fn picture(&self, image: &ImageRef) -> FileState {
        match unhex(&image.sha256) {
            Some(digest) => self.files.prove(Kind::Image, &digest, Some(image.bytes), true),
            None => FileState::Wrong { reason: "its record has no sha256".into() },
        }
    }

    /// How the file of a picture stands whose record nobody has looked up.
    pub fn picture_file(&self, sha256: &str) -> FileState {
        match unhex(sha256) {
            Some(digest) => self.files.prove(Kind::Image, &digest, None, true),
            None => FileState::Missing,
        }
    }

    /// Width and height of a picture, from its header.
    pub fn picture_size(&self, sha256: &str) -> Option<(u32, u32)> {
        let reader = image::ImageReader::open(self.image_path(sha256)?).ok()?;
        reader.with_guessed_format().ok()?.into_dimensions().ok()
    }

    /// Hashes every file that the records from `from` on name (or that one alone, `only`), oldest first; `on` is told
    /// each record and each flaw, with what was looked at so far, and ends it by saying no. What retention removes meanwhile is no flaw; unreadable records are left to `verify`.
    ///
    /// # Errors
    /// `Cancelled` once `on` says no; [`StoreError`] when the database cannot be read.
    pub fn verify_files(
        &self,
        from: u64,
        only: Option<u64>,
        on: &mut dyn FnMut(FileStep<'_>, &FilesVerified) -> bool,
    ) -> Result<FilesVerified, StoreError> {
        let (first, last) = {
            let chain = self.lock_chain()?;
            (from.max(chain.first_seq), only.unwrap_or(u64::MAX).min(chain.last_seq))
        };
        let total = (last + 1).saturating_sub(first);
        let mut found = FilesVerified::default();
        if first > last {
            return Ok(found);
        }
        for (row, done) in self.trees.results.range(key_of(first)..=key_of(last)).zip(1..) {
            let (key, value) = match row {
                Ok(row) => row,
                Err(kv::Error::Corruption(_)) => break,
                Err(error) => return Err(StoreError::kv("read the ledger", error)),
            };
            let seq = seq_of(&key)?;
            let flaws = record::decode(seq, &value).map(|head| self.flaws(seq, &head, &mut found));
            let flaws = flaws.unwrap_or_default();
            // Removed together with their record, they are no flaws.
            let kept = flaws.is_empty() || self.trees.results.contains_key(&key).unwrap_or(true);
            for flaw in flaws.iter().filter(|_| kept) {
                found.flaws += 1;
                if !on(FileStep::Flaw(flaw), &found) {
                    return Err(StoreError::Cancelled);
                }
            }
            if !on(FileStep::Record { seq, done, total }, &found) {
                return Err(StoreError::Cancelled);
            }
        }
        Ok(found)
    }

    fn flaws(&self, seq: u64, head: &record::Head, found: &mut FilesVerified) -> Vec<Flaw> {
        let image = head.image.as_ref().map(|i| (FileKind::Picture, Kind::Image, &i.sha256, i.bytes));
        let overflow =
            head.overflow.as_ref().map(|p| (FileKind::Overflow, Kind::Overflow, &p.sha256, p.bytes));
        let mut flaws = Vec::new();
        for (file_kind, kind, sha256, bytes) in [image, overflow].into_iter().flatten() {
            let state = match unhex(sha256) {
                Some(digest) => self.files.prove(kind, &digest, Some(bytes), false),
                None => FileState::Wrong { reason: "its record has no sha256".into() },
            };
            found.files += 1;
            match state {
                FileState::Whole(_) => found.bytes += bytes,
                state => flaws.push(Flaw {
                    seq,
                    id: head.id.clone(),
                    kind: file_kind,
                    sha256: sha256.clone(),
                    state,
                }),
            }
        }
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use crate::domain::review::{Decided, Decision};
    use crate::store::StoreOptions;
    use crate::store::review::ReviewError;
    use std::fs;

    fn picture(n: u64) -> Vec<u8> {
        format!("picture {n}").into_bytes()
    }

    /// A store with `parts` inspections, each with a picture; the fourth has a part beside it.
    fn filled(dir: &Path, parts: u64) -> Store {
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        for n in 1..=parts {
            let image = store.put_image(&picture(n), "jpg").unwrap();
            let mut inspection = sample(n);
            if n == 4 {
                inspection.findings = vec![inspection.findings[0].clone(); 60];
            }
            store.commit(&inspection, Some(image)).unwrap();
        }
        store
    }

    fn file_of(store: &Store, seq: u64) -> PathBuf {
        let image = store.get(seq).unwrap().unwrap().image.unwrap().image;
        store.image_path(&image.sha256).unwrap()
    }

    fn flaws(store: &Store, from: u64, only: Option<u64>) -> Vec<(u64, FileKind, &'static str)> {
        let mut found = Vec::new();
        let verified = store.verify_files(from, only, &mut |step, _| {
            if let FileStep::Flaw(flaw) = step {
                assert_eq!(flaw.id, sample(flaw.seq).id);
                found.push((flaw.seq, flaw.kind, flaw.state.as_str()));
            }
            true
        });
        assert_eq!(verified.unwrap().flaws, found.len() as u64);
        found
    }

    #[test]
    fn a_replaced_a_deleted_a_cut_and_an_emptied_picture_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 8);
        assert_eq!(flaws(&store, 0, None), []);
        fs::write(file_of(&store, 1), picture(2)).unwrap();
        fs::remove_file(file_of(&store, 2)).unwrap();
        fs::write(file_of(&store, 3), &picture(3)[..4]).unwrap();
        fs::write(file_of(&store, 5), b"").unwrap();
        let (link, target) = (file_of(&store, 6), dir.path().join("elsewhere"));
        fs::rename(&link, &target).unwrap();
        std::os::unix::fs::symlink(&target, link).unwrap();
        let overflow = fs::read_dir(dir.path().join("parts")).unwrap().next().unwrap().unwrap().path();
        let overflow = fs::read_dir(overflow).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(overflow).unwrap();
        let (p, found) = (FileKind::Picture, flaws(&store, 0, None));
        let expected = [
            (1, p, "wrong"),
            (2, p, "missing"),
            (3, p, "wrong"),
            (4, FileKind::Overflow, "missing"),
            (5, p, "wrong"),
            (6, p, "wrong"),
        ];
        assert_eq!(found, expected);
        assert_eq!(flaws(&store, 4, None), expected[3..]);
        assert_eq!(flaws(&store, 0, Some(3)), expected[..3]);
        assert_eq!(flaws(&store, 3, Some(3)), expected[2..3]);
    }

    #[test]
    fn a_stamp_proves_a_file_until_it_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 1);
        let image = store.get(1).unwrap().unwrap().image.unwrap().image;
        let path = file_of(&store, 1);
        assert!(matches!(store.picture(&image), FileState::Whole(_)));
        let digest = unhex(&image.sha256).unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        assert!(!store.files.stamps.knows(&digest, stamp), "it was only just written");
        store.files.stamps.remember(digest, stamp);
        assert!(matches!(store.picture(&image), FileState::Whole(_)));
        // The same length and the same mtime; the ctime is the kernel's.
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        while Stamp::of(&fs::metadata(&path).unwrap()) == stamp {
            fs::write(&path, picture(2)).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        }
        assert_eq!(store.picture(&image).as_str(), "wrong");
        // The same bytes, stored again, mend it.
        store.put_image(&picture(1), "jpg").unwrap();
        assert!(matches!(store.picture(&image), FileState::Whole(_)));
    }

    #[test]
    fn nobody_decides_about_a_picture_that_is_not_there_without_saying_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 4);
        fs::write(file_of(&store, 1), picture(2)).unwrap();
        fs::remove_file(file_of(&store, 2)).unwrap();
        let pass = Decision {
            verdict: Decided::Pass,
            reason: "seen on the part".into(),
            note: String::new(),
            findings: None,
            texts: None,
        };
        for (seq, fault) in [(1, PictureFault::Wrong), (2, PictureFault::Missing)] {
            let id = sample(seq).id;
            let refused = store.review(&id, "anna", pass.clone(), None);
            assert!(
                matches!(refused, Err(ReviewError::Picture { fault: f, .. }) if f == fault),
                "{refused:?}"
            );
            let made = store.review_without_picture(&id, "anna", pass.clone(), None).unwrap();
            assert_eq!(made.picture, Some(fault));
            assert_eq!(store.review_entry(made.seq).unwrap().unwrap(), made);
        }
        fs::remove_file(file_of(&store, 3)).unwrap();
        let made = store.review_many(&[sample(3).id, sample(4).id], "anna", &pass).unwrap();
        let about: Vec<_> = made.iter().map(|r| (r.inspection_seq, r.picture)).collect();
        assert_eq!(about, [(4, None)], "in bulk they are left to a person");
        assert_eq!(store.verify_reviews().unwrap().broken_at, None);
    }
}
