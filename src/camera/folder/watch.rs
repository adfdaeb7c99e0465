//! Finds out which files of a directory are complete.
//!
//!     not there --seen--> New --unchanged at the next scan--> Queued --decodes--> Settled (delivered)
//!                          ^                                    |
//!                          |                                    '--does not decode--> Doubtful
//!                          '---------- size or time changed ------------'                |
//!                                                          unchanged BAD_AFTER_SCANS times
//!                                                                                        v
//!                                                                      Settled (reported, once)
//!
//! Invariants:
//! - A half-written file is never delivered: its size and time stand still over two scans, over the
//!   reading between them, and it decodes to its last pixel.
//! - The same name with the same content is delivered once. A file that was only touched is not
//!   another picture; one that was overwritten with another picture is.
//! - A file is reported as bad at most once, and is still delivered if its writer finishes it later.
//! - At most `FILES_MAX` files are remembered; those that leave the directory are forgotten.

use super::{decode, hidden};
use crate::camera::CameraError;
use image::RgbImage;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most files of one directory that are watched.
pub const FILES_MAX: usize = 100_000;
/// Scans for which a file that does not decode may stand still before it is called bad: 5 s.
pub const BAD_AFTER_SCANS: u32 = 25;

/// A picture and its file, or what is wrong with one.
type Picture = Result<(PathBuf, RgbImage), CameraError>;

pub struct Watcher {
    dir: PathBuf,
    files: HashMap<OsString, File>,
    /// Names of files that stood still, in the order in which they are taken.
    queue: VecDeque<OsString>,
    /// At most one for each file and one for the directory.
    errors: VecDeque<CameraError>,
    /// The directory's trouble was told and is not over.
    unreachable: bool,
    crowded: bool,
}

struct File {
    stamp: Stamp,
    state: State,
    /// sha256 of what was delivered under this name.
    delivered: Option<[u8; 32]>,
    reported: bool,
}

/// What changes while a file is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
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
        Stamp { len: meta.len(), modified: meta.modified().ok() }
    }

    /// The stamp of a plain file; `None` when it is gone or something else.
    fn at(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|m| Stamp::of(&m))
    }
}

impl Watcher {
    pub fn new(dir: &Path) -> Watcher {
        Watcher {
            dir: dir.into(),
            files: HashMap::new(),
            queue: VecDeque::new(),
            errors: VecDeque::new(),
            unreachable: false,
            crowded: false,
        }
    }

    /// Looks at every file once and queues those that stood still since the last look.
    ///
    /// # Errors
    /// The directory cannot be listed, once until it can be again.
    pub fn scan(&mut self) -> Result<(), CameraError> {
        let found = match self.list() {
            Ok(found) => found,
            Err(_) if self.unreachable => return Ok(()),
            Err(source) => {
                self.unreachable = true;
                return Err(CameraError::Directory { path: self.dir.clone(), source });
            }
        };
        self.unreachable = false;
        self.files.retain(|name, _| found.contains_key(name));
        let mut still = vec![];
        let mut crowded = false;
        for (name, stamp) in found {
            if let Some(file) = self.files.get_mut(&name) {
                if file.look(stamp, &mut self.errors) {
                    still.push(name);
                }
            } else if self.files.len() >= FILES_MAX {
                crowded = true;
            } else {
                self.files.insert(name, File { stamp, state: State::New, delivered: None, reported: false });
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

    /// The next picture or error that the scans so far have found.
    pub fn pending(&mut self) -> Option<Picture> {
        if let Some(error) = self.errors.pop_front() {
            return Some(Err(error));
        }
        while let Some(name) = self.queue.pop_front() {
            if let Some(picture) = self.take(&name) {
                return Some(Ok(picture));
            }
        }
        None
    }

    /// Reads a file that stood still; `None` when it is not (or not yet) a new picture.
    fn take(&mut self, name: &OsStr) -> Option<(PathBuf, RgbImage)> {
        let path = self.dir.join(name);
        let file = self.files.get_mut(name)?;
        if matches!(file.state, State::New | State::Settled) {
            return None;
        }
        let bytes = decode::read(&path);
        let stamp = Stamp::at(&path)?;
        if stamp != file.stamp {
            // The next scan sees the change; standing still is counted in scans, not in readings.
            file.state = State::New;
            return None;
        }
        let decoded = bytes.and_then(|bytes| {
            let hash: [u8; 32] = Sha256::digest(&bytes).into();
            if file.delivered == Some(hash) {
                return Ok(None);
            }
            decode::from_bytes(&path, bytes).map(|rgb| Some((hash, rgb)))
        });
        match decoded {
            Ok(None) => {
                file.state = State::Settled;
                None
            }
            Ok(Some((hash, rgb))) => {
                (file.state, file.delivered) = (State::Settled, Some(hash));
                Some((path, rgb))
            }
            Err(error) => {
                let scans = if let State::Doubtful { scans, .. } = file.state { scans } else { 0 };
                file.state = State::Doubtful { scans, error };
                None
            }
        }
    }
}

impl File {
    /// Takes note of what a scan saw; true when the file is to be read now.
    fn look(&mut self, stamp: Stamp, errors: &mut VecDeque<CameraError>) -> bool {
        if stamp != self.stamp {
            (self.stamp, self.state) = (stamp, State::New);
            return false;
        }
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
    use std::fs;
    use std::time::Duration;

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
            .map(|p| p.map(|(_, rgb)| rgb.get_pixel(0, 0)[0]).map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn new_to_queued_to_settled_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Watcher::new(dir.path());
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
            let mut w = Watcher::new(dir.path());
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
        let mut w = Watcher::new(dir.path());
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
        let mut w = Watcher::new(dir.path());
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
        let mut w = Watcher::new(dir.path());
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
        let mut w = Watcher::new(dir.path());
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
        let mut w = Watcher::new(dir.path());
        fs::write(&path, png(1)).unwrap();
        assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
        fs::remove_file(&path).unwrap();
        assert_eq!(scan(&mut w), []);
        assert!(w.files.is_empty());
    }

    #[test]
    fn hidden_files_and_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Watcher::new(dir.path());
        fs::write(dir.path().join(".part.png"), png(1)).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let all: Vec<_> = (0..2 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
        assert_eq!(all, []);
    }

    #[test]
    fn a_missing_directory_is_told_once_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let mut w = Watcher::new(&late);
        assert!(w.scan().is_err());
        assert!(w.scan().is_ok());
        fs::create_dir(&late).unwrap();
        assert!(w.scan().is_ok());
        fs::remove_dir(&late).unwrap();
        assert!(w.scan().is_err());
    }
}
