//! A source that takes pictures from a directory, once or for as long as new ones come.
//!
//!     once:   list, sorted by name --> file --> file --> … --> None
//!     watch:  scan --> complete files, sorted by name --> … --> wait --> scan --> …     (see `watch`)
//!
//! Hidden files and everything that is not a plain file are left alone. A file that cannot be
//! decoded is an error that names it; the others go on.

mod decode;
mod watch;

pub use watch::Stamp;

pub use decode::{decode, DECODE_MEMORY_MAX_BYTES, FILE_MAX_BYTES, SIDE_MAX_PX};

use super::{CameraError, Source, Stop};
use crate::domain::frame::{Frame, Trigger};
use image::RgbImage;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use watch::Watcher;

/// Time between two looks at a watched directory, in milliseconds. A file waits for two looks.
pub const SCAN_INTERVAL_MS: u64 = 200;

/// Takes the pictures of one directory.
pub struct Folder {
    camera: String,
    stop: Stop,
    mode: Mode,
}

enum Mode {
    Once(std::vec::IntoIter<PathBuf>),
    Watch { watcher: Watcher, next_scan: Instant },
}

impl Folder {
    /// The pictures that lie in `dir` now, sorted by name; then the end. `camera` is the id of the
    /// camera in the config.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn once(camera: &str, dir: &Path, stop: Stop) -> Result<Folder, CameraError> {
        let failed = |source| CameraError::Directory { path: dir.into(), source };
        let mut files = vec![];
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A file that vanishes between the listing and this look has nothing to say.
            if !hidden(&entry.file_name()) && std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(Folder { camera: camera.into(), stop, mode: Mode::Once(files.into_iter()) })
    }

    /// The pictures that lie in `dir` and those that come, until `stop` is set. A directory that is
    /// not there yet, or not there for a while, is told once and waited for.
    pub fn watch(camera: &str, dir: &Path, stop: Stop) -> Folder {
        let mode = Mode::Watch { watcher: Watcher::new(dir), next_scan: Instant::now() };
        Folder { camera: camera.into(), stop, mode }
    }

    /// The next picture and its file.
    fn picture(&mut self) -> Result<Option<(PathBuf, RgbImage)>, CameraError> {
        loop {
            if self.stop.is_set() {
                return Ok(None);
            }
            match &mut self.mode {
                Mode::Once(files) => {
                    return files.next().map(|path| decode(&path).map(|rgb| (path, rgb))).transpose();
                }
                Mode::Watch { watcher, next_scan } => {
                    if let Some(picture) = watcher.pending() {
                        return picture.map(Some);
                    }
                    if !self.stop.wait_until(*next_scan) {
                        *next_scan = Instant::now() + Duration::from_millis(SCAN_INTERVAL_MS);
                        watcher.scan()?;
                    }
                }
            }
        }
    }
}

impl Source for Folder {
    /// The frame's time is the moment at which it was taken from the directory.
    fn next(&mut self) -> Result<Option<Frame>, CameraError> {
        let Some((path, rgb)) = self.picture()? else { return Ok(None) };
        Ok(Some(Frame {
            camera: self.camera.clone(),
            pixels: Arc::new(rgb),
            captured_at: SystemTime::now(),
            captured: Instant::now(),
            exposed: None,
            clip: vec![],
            trigger: Trigger::default(),
            origin: path.display().to_string(),
            replayed: false,
        }))
    }
}

/// True for names that start with a dot: programs that write a file under another name first use them.
pub fn hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn png(path: &Path, red: u8) {
        RgbImage::from_pixel(8, 6, image::Rgb([red, 0, 0])).save(path).unwrap();
    }

    fn reds(source: &mut Folder) -> Vec<Result<u8, String>> {
        let mut out = vec![];
        loop {
            match source.next() {
                Ok(None) => return out,
                Ok(Some(frame)) => out.push(Ok(frame.pixels.get_pixel(0, 0)[0])),
                Err(e) => out.push(Err(e.to_string())),
            }
        }
    }

    #[test]
    fn once_takes_files_by_name_and_goes_on_behind_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        png(&dir.path().join("c.png"), 3);
        png(&dir.path().join("a.png"), 1);
        fs::write(dir.path().join("b.png"), b"garbage").unwrap();
        png(&dir.path().join(".hidden.png"), 9);
        fs::create_dir(dir.path().join("d.png")).unwrap();
        let mut source = Folder::once("cam1", dir.path(), Stop::default()).unwrap();
        let got = reds(&mut source);
        assert_eq!((&got[0], &got[2]), (&Ok(1), &Ok(3)));
        assert!(got[1].as_ref().unwrap_err().contains("b.png"), "{got:?}");
        assert_eq!(got.len(), 3);
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn once_names_a_directory_that_is_not_there() {
        let error = Folder::once("cam1", Path::new("no/such/place"), Stop::default()).err().unwrap();
        assert!(error.to_string().contains("no/such/place"), "{error}");
    }

    #[test]
    fn a_watched_folder_delivers_and_ends_when_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        png(&dir.path().join("a.png"), 1);
        let mut source = Folder::watch("cam1", dir.path(), stop.clone());
        let frame = source.next().unwrap().unwrap();
        assert_eq!(frame.camera, "cam1");
        assert!(frame.origin.ends_with("a.png"));
        stop.set();
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn a_watched_folder_that_is_missing_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let mut source = Folder::watch("cam1", &late, Stop::default());
        assert!(matches!(source.next(), Err(CameraError::Directory { .. })));
        fs::create_dir(&late).unwrap();
        png(&late.join("a.png"), 1);
        assert!(source.next().unwrap().is_some());
    }
}
