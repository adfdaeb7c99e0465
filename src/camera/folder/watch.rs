//! Finds out which files of a directory are complete.
//!
//!     not there --seen--> New --unchanged at the next scan--> Queued --decodes--> Settled (delivered)
//!                          ^                                    |
//!                          |   somebody has it open for writing,|
//!                          '---- or its stamp has changed ------+--does not decode--> Doubtful
//!                          ^                                                              |
//!                          '---------- its stamp has changed -----------------------------+
//!                                                           unchanged BAD_AFTER_SCANS times
//!                                                                                         v
//!                                                                      Settled (reported, once)
//!
//! Where the system does not say whether somebody writes to a file (it is another user's, or on a file system
//! without leases), it must stand still over `STILL_SCANS` scans instead.
//!
//! Invariants:
//! - A half-written file is never delivered: nobody has it open for writing, its stamp (size, times, inode)
//!   stands still over two scans and over the reading between them, and it decodes to its last pixel.
//! - The same name with the same content is delivered once, over restarts, too (`Taken`). A file that was only
//!   touched is not another picture; one that was overwritten with another picture is.
//! - A file is reported as bad at most once, and is still delivered if its writer finishes it later.
//! - At most `FILES_MAX` files are remembered; those that leave the directory are forgotten.

use super::{decode, hidden, Taken};
use crate::camera::CameraError;
use image::RgbImage;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File as Open, Metadata};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most files of one directory that are watched.
pub const FILES_MAX: usize = 100_000;
/// Scans for which a file that does not decode may stand still before it is called bad: 5 s.
pub const BAD_AFTER_SCANS: u32 = 25;

/// Scans over which a file must stand still where nobody can say whether it is being written: 2 s.
const STILL_SCANS: u32 = 10;
/// Pictures whose content is remembered, so that one that comes a second time is not another part's.
const RECENT_MAX: usize = 64;

/// A picture file.
#[derive(Debug)]
pub struct Picture {
    pub path: PathBuf,
    pub pixels: RgbImage,
    /// When the file was complete, by the kernel's clock, between the two looks that saw it come.
    pub arrived: Instant,
    /// The same on the wall clock.
    pub arrived_at: SystemTime,
    /// When its writer says that it was written.
    pub modified: Option<SystemTime>,
}

pub struct Watcher {
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
    pub len: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i128,
    pub changed_ns: i128,
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
    pub fn new(dir: &Path, taken: Box<dyn Taken>) -> Watcher {
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
        }
    }

    /// Looks at every file once and queues those that stood still since the last look.
    ///
    /// # Errors
    /// The directory cannot be listed, once until it can be again.
    pub fn scan(&mut self) -> Result<(), CameraError> {
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
            if !hidden(&name) {
                if let Some(stamp) = Stamp::at(&entry.path()) {
                    found.insert(name, stamp);
                }
            }
        }
        Ok(found)
    }

    /// The next picture or error that the scans so far have found, in the order of names.
    pub fn pending(&mut self) -> Option<Result<Picture, CameraError>> {
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
    pub fn pending_after(&mut self, after: Instant) -> (u64, Option<Picture>) {
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
    pub fn broken_after(&mut self, after: Instant) -> Option<CameraError> {
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
            decode::from_bytes(&path, bytes).map(|rgb| Some((hash, rgb)))
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
    pub fn stamp_of(&self, path: &Path) -> Option<(OsString, Stamp)> {
        let name = path.file_name()?;
        self.files.get(name).map(|file| (name.to_owned(), file.stamp))
    }

    /// Where it is remembered which files were taken.
    pub fn taken(&mut self) -> &mut dyn Taken {
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
mod tests {
    use super::*;
    use crate::camera::folder::Untracked;
    use std::fs;
    use std::sync::{Arc, Mutex};

    fn watcher(dir: &Path) -> Watcher {
        Watcher::new(dir, Box::new(Untracked))
    }

    fn encoded(red: u8, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(vec![]);
        let picture = RgbImage::from_fn(24, 16, |x, y| image::Rgb([red, x as u8, y as u8]));
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(red: u8) -> Vec<u8> {
        encoded(red, image::ImageFormat::Png)
    }

    /// One scan and all that it brought: the red of a picture or the message of an error.
    fn scan(w: &mut Watcher) -> Vec<Result<u8, String>> {
        w.scan().unwrap();
        std::iter::from_fn(|| w.pending())
            .map(|p| p.map(|p| p.pixels.get_pixel(0, 0)[0]).map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn new_to_queued_to_settled_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        for red in [30, 10, 20] {
            fs::write(dir.path().join(format!("{red}.png")), png(red)).unwrap();
        }
        assert_eq!(scan(&mut w), []);
        assert_eq!(scan(&mut w), [Ok(10), Ok(20), Ok(30)]);
        assert_eq!(scan(&mut w), []);
        assert_eq!(scan(&mut w), []);
    }

    #[test]
    fn a_half_written_file_is_never_delivered() {
        use image::ImageFormat::{Bmp, Jpeg, Png, Tiff};
        for format in [Png, Jpeg, Bmp, Tiff] {
            let dir = tempfile::tempdir().unwrap();
            let mut w = watcher(dir.path());
            let (path, whole) = (dir.path().join("slow"), encoded(200, format));
            for part in 1..8 {
                fs::write(&path, &whole[..whole.len() * part / 8]).unwrap();
                // The writer pauses for longer than a file has to stand still.
                for _ in 0..4 {
                    assert_eq!(scan(&mut w), [], "{format:?} at {part} eighths");
                }
            }
            fs::write(&path, &whole).unwrap();
            assert_eq!(scan(&mut w), [], "{format:?}: changed since the last scan");
            assert_eq!(scan(&mut w).len(), 1, "{format:?}");
        }
    }

    #[test]
    fn a_file_that_is_written_between_scan_and_reading_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let mut w = watcher(dir.path());
        fs::write(&path, png(1)).unwrap();
        w.scan().unwrap();
        w.scan().unwrap();
        let mut longer = png(2);
        longer.push(0);
        fs::write(&path, longer).unwrap();
        assert!(w.pending().is_none());
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)]));
    }

    #[test]
    fn doubtful_to_reported_once_and_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        fs::write(dir.path().join("bad.png"), b"not a picture").unwrap();
        fs::write(dir.path().join("good.png"), png(5)).unwrap();
        let all: Vec<_> = (0..3 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all[0], Ok(5));
        assert!(all[1].as_ref().unwrap_err().contains("bad.png"), "{all:?}");
    }

    #[test]
    fn a_reported_file_that_is_finished_after_all_is_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let (path, whole) = (dir.path().join("late.png"), png(7));
        let mut w = watcher(dir.path());
        fs::write(&path, &whole[..20]).unwrap();
        let first: Vec<_> = (0..2 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
        assert_eq!(first.len(), 1);
        fs::write(&path, &whole).unwrap();
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(7)]));
    }

    #[test]
    fn touching_is_no_new_picture_and_overwriting_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let mut w = watcher(dir.path());
        let write = |bytes: Vec<u8>, second: u64| {
            fs::write(&path, bytes).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        write(png(1), 0);
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
        write(png(1), 1);
        assert_eq!((scan(&mut w), scan(&mut w), scan(&mut w)), (vec![], vec![], vec![]));
        write(png(2), 2);
        assert_eq!((scan(&mut w), scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)], vec![]));
    }

    #[test]
    fn files_that_leave_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let mut w = watcher(dir.path());
        fs::write(&path, png(1)).unwrap();
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
        fs::remove_file(&path).unwrap();
        assert_eq!(scan(&mut w), []);
        assert!(w.files.is_empty());
    }

    #[test]
    fn hidden_files_and_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        fs::write(dir.path().join(".part.png"), png(1)).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let all: Vec<_> = (0..2 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
        assert_eq!(all, []);
    }

    #[test]
    fn a_missing_directory_is_told_once_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let mut w = watcher(&late);
        assert!(w.scan().is_err());
        assert!(w.scan().is_ok());
        fs::create_dir(&late).unwrap();
        assert!(w.scan().is_ok());
        fs::remove_dir(&late).unwrap();
        assert!(w.scan().is_err());
    }

    #[test]
    fn a_replacement_of_the_same_size_and_time_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.bmp"), dir.path().join(".b"));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let write = |path: &Path, red| {
            fs::write(path, encoded(red, image::ImageFormat::Bmp)).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        let mut w = watcher(dir.path());
        write(&path, 1);
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
        write(&other, 2);
        fs::rename(&other, &path).unwrap();
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)]));
    }

    /// As a writer that reserves the file's size first and then pauses: it decodes, with a black rest.
    #[test]
    fn a_file_that_somebody_has_open_for_writing_waits_however_still_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bmp");
        let whole = encoded(9, image::ImageFormat::Bmp);
        let mut writer = fs::File::create(&path).unwrap();
        writer.set_len(whole.len() as u64).unwrap();
        std::io::Write::write_all(&mut writer, &whole[..whole.len() / 2]).unwrap();
        let mut w = watcher(dir.path());
        for _ in 0..3 * STILL_SCANS {
            assert_eq!(scan(&mut w), []);
        }
        std::io::Write::write_all(&mut writer, &whole[whole.len() / 2..]).unwrap();
        drop(writer);
        let came: Vec<_> = (0..3).flat_map(|_| scan(&mut w)).collect();
        assert_eq!(came, [Ok(9)]);
    }

    /// Remembers as the store does.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<HashMap<OsString, Stamp>>>);

    impl Taken for Memory {
        fn was(&self, name: &OsStr, stamp: &Stamp) -> bool {
            self.0.lock().unwrap().get(name) == Some(stamp)
        }

        fn take(&mut self, name: &OsStr, stamp: &Stamp) -> Result<Option<u64>, String> {
            self.0.lock().unwrap().insert(name.to_owned(), *stamp);
            Ok(None)
        }

        fn gone(&mut self, name: &OsStr) {
            self.0.lock().unwrap().remove(name);
        }

        fn only(&mut self, there: &mut dyn Iterator<Item = &OsStr>) {
            let there: Vec<_> = there.collect();
            self.0.lock().unwrap().retain(|name, _| there.contains(&name.as_os_str()));
        }
    }

    #[test]
    fn what_was_taken_before_a_restart_is_not_taken_again_unless_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::default();
        let start = || Watcher::new(dir.path(), Box::new(memory.clone()));
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), png(name.as_bytes()[0])).unwrap();
        }
        let mut w = start();
        w.scan().unwrap();
        w.scan().unwrap();
        for _ in 0..2 {
            let picture = w.pending().unwrap().unwrap();
            let (name, stamp) = w.stamp_of(&picture.path).unwrap();
            w.taken().take(&name, &stamp).unwrap();
        }
        drop(w);
        fs::write(dir.path().join("b"), png(77)).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        let mut w = start();
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(77), Ok(b'c')]));
        assert!(!memory.0.lock().unwrap().contains_key(OsStr::new("a")), "what left is forgotten");
    }

    #[test]
    fn a_trigger_gets_what_came_after_it_and_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        w.scan().unwrap();
        let write = |name: &str, red| fs::write(dir.path().join(name), png(red)).unwrap();
        write("z", 1);
        std::thread::sleep(Duration::from_millis(30));
        w.scan().unwrap();
        let trigger = Instant::now();
        std::thread::sleep(Duration::from_millis(30));
        write("y", 2);
        std::thread::sleep(Duration::from_millis(30));
        write("x", 3);
        w.scan().unwrap();
        w.scan().unwrap();
        let red = |p: Option<Picture>| p.map(|p| p.pixels.get_pixel(0, 0)[0]);
        let (discarded, first) = w.pending_after(trigger);
        assert_eq!((discarded, red(first)), (1, Some(2)), "in the order of arrival");
        assert_eq!(red(w.pending_after(trigger).1), Some(3));
        write("w", 3);
        w.scan().unwrap();
        w.scan().unwrap();
        assert_eq!(red(w.pending_after(trigger).1), None, "the same picture came before");
    }

    #[test]
    fn a_broken_file_is_reported_for_the_trigger_that_it_came_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        w.scan().unwrap();
        let trigger = Instant::now();
        std::thread::sleep(Duration::from_millis(30));
        fs::write(dir.path().join("bad.png"), &png(1)[..40]).unwrap();
        w.scan().unwrap();
        w.scan().unwrap();
        assert!(w.pending_after(trigger).1.is_none());
        assert!(w.broken_after(Instant::now()).is_none());
        assert!(w.broken_after(trigger).unwrap().to_string().contains("bad.png"));
        assert!(w.broken_after(trigger).is_none());
    }
}
