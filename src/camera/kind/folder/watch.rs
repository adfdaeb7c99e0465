//! Finds out which files of a directory are complete.
//!
//! ```text
//! not there --seen--> New --unchanged at the next scan--> Queued --decodes--> Settled (delivered)
//!                      ^                                    |
//!                      |   somebody has it open for writing,|
//!                      '---- or its stamp has changed ------+--does not decode--> Doubtful
//!                      ^                                                              |
//!                      '---------- its stamp has changed -----------------------------+
//!                                                       unchanged BAD_AFTER_SCANS times
//!                                                                                     v
//!                                                                  Settled (reported, once)
//! ```
//!
//! Where the system does not say whether somebody writes to a file (it is another user's, or on a file system
//! without leases), it must stand still over [`STILL_SCANS`] scans instead.
//!
//! Invariants:
//! - A half-written file is never delivered: nobody has it open for writing, its stamp (size, times, inode)
//!   stands still over two scans and over the reading between them, and it decodes to its last pixel.
//! - The same name with the same content is delivered once, over restarts, too ([`Taken`]). A file that was only
//!   touched is not another picture; one that was overwritten with another picture is.
//! - A file is reported as bad at most once, and is still delivered if its writer finishes it later.
//! - At most [`FILES_MAX`] files are remembered; those that leave the directory are forgotten.

use super::{Taken, hidden};
use crate::camera::CameraError;
use crate::camera::decode::{self, Depth, DepthRule};
use image::RgbImage;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File as Open, Metadata};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most files of one directory that are watched.
pub(super) const FILES_MAX: usize = 100_000;
/// Scans for which a file that does not decode may stand still before it is called bad: 5 s.
pub(super) const BAD_AFTER_SCANS: u32 = 25;

/// Scans over which a file must stand still where nobody can say whether it is being written: 2 s.
const STILL_SCANS: u32 = 10;
/// Pictures whose content is remembered, so that one that comes a second time is not another part's.
const RECENT_MAX: usize = 64;

/// A picture file.
#[derive(Debug)]
pub(super) struct Picture {
    pub path: PathBuf,
    pub pixels: RgbImage,
    /// When the file was complete, by the kernel's clock, between the two looks that saw it come.
    pub arrived: Instant,
    /// The same on the wall clock.
    pub arrived_at: SystemTime,
    /// When its writer says that it was written.
    pub modified: Option<SystemTime>,
}

pub(super) struct Watcher {
    dir: PathBuf,
    files: HashMap<OsString, File>,
    /// Names of files that stood still, in the order in which they are taken.
    queue: VecDeque<OsString>,
    /// At most one for each file and one for the directory.
    errors: VecDeque<CameraError>,
    /// The directory's trouble was reported and is not over.
    unreachable: bool,
    crowded: bool,
    /// The last look, before which nothing that is new now was there.
    looked: Option<Instant>,
    /// sha256 of the newest pictures that were delivered for triggers.
    recent: VecDeque<[u8; 32]>,
    taken: Box<dyn Taken>,
    /// Of samples of 16 bits.
    pub depth: DepthRule,
}

struct File {
    stamp: Stamp,
    state: State,
    /// The scans that did not see this stamp yet and that saw it first.
    seen: (Option<Instant>, Instant),
    /// Scans in a row that saw the same stamp.
    still: u32,
    /// sha256 of what was delivered under this name.
    delivered: Option<[u8; 32]>,
    reported: bool,
}

/// What changes while a file is written, or when another takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Size in bytes.
    pub len: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i128,
    /// Of the last change of content or metadata (ctime), in nanoseconds since 1970.
    pub changed_ns: i128,
    /// Another file of the same name has another one.
    pub inode: u64,
}

enum State {
    New,
    Queued,
    Doubtful { scans: u32, error: CameraError },
    Settled,
}

impl Stamp {
    /// The stamp of a file's metadata.
    pub fn of(meta: &Metadata) -> Stamp {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Stamp {
            len: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    /// The stamp of a plain file; `None` when it is gone or something else.
    fn at(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|m| Stamp::of(&m))
    }

    /// When the file came, or was last changed, by the kernel's wall clock.
    fn changed(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.changed_ns).unwrap_or(0))
    }

    fn modified(&self) -> Option<SystemTime> {
        u64::try_from(self.modified_ns).ok().map(|ns| UNIX_EPOCH + Duration::from_nanos(ns))
    }
}

/// Whether somebody has the file open for writing; `None` when the system does not say.
fn is_being_written(path: &Path) -> Option<bool> {
    // Whoever opens the file for writing in the moment of the lease makes the kernel send this signal.
    static IGNORED: Once = Once::new();
    // SAFETY: nobody here waits for the signal, and ignoring it touches no memory.
    IGNORED.call_once(|| unsafe { _ = libc::signal(libc::SIGIO, libc::SIG_IGN) });
    let file = Open::open(path).ok()?;
    // SAFETY: the descriptor is open; a read lease is granted only while nobody has the file open for writing.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => {
            // SAFETY: as above.
            unsafe { _ = libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
            Some(false)
        }
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Some(true),
            _ => None,
        },
    }
}

impl Watcher {
    pub(super) fn new(dir: &Path, taken: Box<dyn Taken>) -> Watcher {
        Watcher {
            dir: dir.into(),
            files: HashMap::new(),
            queue: VecDeque::new(),
            errors: VecDeque::new(),
            unreachable: false,
            crowded: false,
            looked: None,
            recent: VecDeque::new(),
            taken,
            depth: Arc::new(Depth::default),
        }
    }

    /// Looks at every file once and queues those that stood still since the last look.
    ///
    /// # Errors
    /// The directory cannot be listed, once until it can be again.
    pub(super) fn scan(&mut self) -> Result<(), CameraError> {
        let now = Instant::now();
        let found = match self.list() {
            Ok(found) => found,
            Err(_) if self.unreachable => return Ok(()),
            Err(source) => {
                self.unreachable = true;
                return Err(CameraError::Directory { path: self.dir.clone(), source });
            }
        };
        self.unreachable = false;
        let taken = &mut self.taken;
        self.files.retain(|name, _| {
            let is_there = found.contains_key(name);
            if !is_there {
                taken.gone(name);
            }
            is_there
        });
        if self.looked.is_none() {
            taken.only(&mut found.keys().map(OsString::as_os_str));
        }
        // Everything that is seen for the first time now came after the look before this one.
        let seen = (self.looked.replace(now), now);
        let mut still = vec![];
        let mut crowded = false;
        for (name, stamp) in found {
            if let Some(file) = self.files.get_mut(&name) {
                if file.look(stamp, seen, &mut self.errors) {
                    still.push(name);
                }
            } else if self.files.len() >= FILES_MAX {
                crowded = true;
            } else {
                let state = if self.taken.was(&name, &stamp) { State::Settled } else { State::New };
                let file = File { stamp, state, seen, still: 0, delivered: None, reported: false };
                self.files.insert(name, file);
            }
        }
        if crowded && !self.crowded {
            self.errors.push_back(CameraError::Crowded { path: self.dir.clone(), max: FILES_MAX });
        }
        self.crowded = crowded;
        still.sort();
        self.queue.extend(still);
        Ok(())
    }

    fn list(&self) -> std::io::Result<HashMap<OsString, Stamp>> {
        let mut found = HashMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !hidden(&name)
                && let Some(stamp) = Stamp::at(&entry.path())
            {
                found.insert(name, stamp);
            }
        }
        Ok(found)
    }

    /// The next picture or error that the scans so far have found, in the order of names.
    pub(super) fn pending(&mut self) -> Option<Result<Picture, CameraError>> {
        if let Some(error) = self.errors.pop_front() {
            return Some(Err(error));
        }
        while let Some(name) = self.queue.pop_front() {
            if let Some(picture) = self.take(&name, false) {
                return Some(Ok(picture));
            }
        }
        None
    }

    /// The next picture that came at `after` or later, in the order of arrival; the others are discarded, and so is
    /// one that came before with the same content. Returns how many were discarded, too.
    pub(super) fn pending_after(&mut self, after: Instant) -> (u64, Option<Picture>) {
        let mut discarded = 0;
        // What is wrong with files is the triggered part's only as far as `broken_after` says so.
        self.errors.clear();
        let arrived = |w: &Self, name: &OsString| w.files.get(name).map(File::arrived);
        let mut names: Vec<_> = self.queue.drain(..).collect();
        names.sort_by_cached_key(|name| arrived(self, name));
        let mut names = names.into_iter();
        while let Some(name) = names.next() {
            if arrived(self, &name).is_some_and(|at| at < after) {
                if let Some(file) = self.files.get_mut(&name) {
                    file.state = State::Settled;
                }
                discarded += 1;
            } else if let Some(picture) = self.take(&name, true) {
                self.queue.extend(names);
                return (discarded, Some(picture));
            }
        }
        (discarded, None)
    }

    /// What is wrong with a file that came at `after` or later and does not decode; it is reported with it.
    pub(super) fn broken_after(&mut self, after: Instant) -> Option<CameraError> {
        let is_broken = |file: &File| matches!(file.state, State::Doubtful { .. }) && file.arrived() >= after;
        let file =
            self.files.values_mut().filter(|file| is_broken(file)).min_by_key(|file| file.arrived())?;
        file.reported = true;
        match std::mem::replace(&mut file.state, State::Settled) {
            State::Doubtful { error, .. } => Some(error),
            State::New | State::Queued | State::Settled => None,
        }
    }

    /// Reads a file that stood still; `None` when it is not (or not yet) a new picture.
    fn take(&mut self, name: &OsStr, triggered: bool) -> Option<Picture> {
        let path = self.dir.join(name);
        let file = self.files.get_mut(name)?;
        if matches!(file.state, State::New | State::Settled) {
            return None;
        }
        let is_written = is_being_written(&path).unwrap_or(file.still < STILL_SCANS);
        let bytes = decode::read(&path);
        let stamp = Stamp::at(&path)?;
        if stamp != file.stamp || is_written {
            // The next scan sees the change; standing still is counted in scans, not in readings.
            file.state = State::New;
            return None;
        }
        let decoded = bytes.and_then(|bytes| {
            let hash: [u8; 32] = Sha256::digest(&bytes).into();
            if file.delivered == Some(hash) || (triggered && self.recent.contains(&hash)) {
                return Ok(None);
            }
            decode::from_bytes(&path, bytes, (self.depth)()).map(|rgb| Some((hash, rgb)))
        });
        match decoded {
            Ok(None) => {
                file.state = State::Settled;
                None
            }
            Ok(Some((hash, pixels))) => {
                (file.state, file.delivered) = (State::Settled, Some(hash));
                if triggered {
                    self.recent.truncate(RECENT_MAX - 1);
                    self.recent.push_front(hash);
                }
                let (arrived, arrived_at) = (file.arrived(), stamp.changed());
                Some(Picture { path, pixels, arrived, arrived_at, modified: stamp.modified() })
            }
            Err(error) => {
                let scans = if let State::Doubtful { scans, .. } = file.state { scans } else { 0 };
                file.state = State::Doubtful { scans, error };
                None
            }
        }
    }

    /// The stamp of a file that was delivered or reported.
    pub(super) fn stamp_of(&self, path: &Path) -> Option<(OsString, Stamp)> {
        let name = path.file_name()?;
        self.files.get(name).map(|file| (name.to_owned(), file.stamp))
    }

    /// Where it is remembered which files were taken.
    pub(super) fn taken(&mut self) -> &mut dyn Taken {
        self.taken.as_mut()
    }
}

impl File {
    /// When the file was complete: by the kernel's clock, but not before the last scan that did not see it so
    /// and not after the first that did, so that a wall clock that jumps does not move it far.
    fn arrived(&self) -> Instant {
        let (before, first) = self.seen;
        let age = SystemTime::now().duration_since(self.stamp.changed()).unwrap_or_default();
        let by_clock = Instant::now().checked_sub(age).unwrap_or(first).min(first);
        before.map_or(by_clock, |before| by_clock.max(before))
    }

    /// Takes note of what a scan saw; true when the file is to be read now.
    fn look(
        &mut self,
        stamp: Stamp,
        seen: (Option<Instant>, Instant),
        errors: &mut VecDeque<CameraError>,
    ) -> bool {
        if stamp != self.stamp {
            (self.stamp, self.state, self.seen, self.still) = (stamp, State::New, seen, 0);
            return false;
        }
        self.still = self.still.saturating_add(1);
        match std::mem::replace(&mut self.state, State::Settled) {
            State::New => {
                self.state = State::Queued;
                true
            }
            State::Doubtful { scans, error } if scans + 1 < BAD_AFTER_SCANS => {
                // Its content stands still and would not decode any better; its permissions may change.
                let again = matches!(error, CameraError::Read { .. });
                self.state = State::Doubtful { scans: scans + 1, error };
                again
            }
            State::Doubtful { error, .. } => {
                if !std::mem::replace(&mut self.reported, true) {
                    errors.push_back(error);
                }
                false
            }
            state @ (State::Queued | State::Settled) => {
                self.state = state;
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
