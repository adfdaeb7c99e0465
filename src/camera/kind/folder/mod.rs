//! A source that takes pictures from a directory, once or for as long as new ones come.
//!
//! ```text
//! once:     list, sorted by name --> file --> file --> … --> None
//! watch:    scan --> complete files, sorted by name --> … --> wait --> scan --> …     (see `watch`)
//! trigger:  scan --> the first complete file that came after it; earlier ones are discarded
//! ```
//!
//! Hidden files and everything that is not a plain file are left alone. A file that cannot be
//! decoded is an error that names it; the others go on.
//!
//! For a trigger the time of a picture is its file's: when it came ([`FileTime::Arrival`]), or what its writer set
//! ([`FileTime::Modified`]). Without triggers every file is a part, taken once, over restarts, too: [`Taken`] notes it
//! before the frame is handed out.

mod watch;

pub use watch::Stamp;

use crate::camera::decode::{Depth, DepthRule, decode};
use crate::camera::trigger::{TriggerConfig, TriggerOn};
use crate::camera::window::{Rule, Stamps};
use crate::camera::{CameraError, Source, Stop, Want};
use crate::document::{Origin, PATH_CHARS_MAX, Section, Text, path, quoted};
use crate::domain::frame::{Frame, Ticket, Trigger};
use image::RgbImage;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use watch::{Picture, Watcher};

/// Time between two looks at a watched directory, in milliseconds. A file waits for two looks.
pub(crate) const SCAN_INTERVAL_MS: u64 = 200;

/// What the time of a triggered part's file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileTime {
    /// When the file came, by this machine's clock.
    #[default]
    Arrival,
    /// The modification time that its writer set: the exposure, where the writer's clock is this machine's or
    /// agrees with it.
    Modified,
}

impl FileTime {
    const ALL: [Self; 2] = [Self::Arrival, Self::Modified];

    /// The word used in the config.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Modified => "modified",
        }
    }
}

/// The keys of a folder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub path: PathBuf,
    /// Wait for new files. Otherwise those that are there are taken once, and the source ends.
    pub watch: bool,
    /// What the time of a triggered part's file is.
    pub time: FileTime,
}

impl Config {
    /// Reads its keys.
    pub(super) fn read(section: &Section<'_>, origin: &Origin, trigger: TriggerConfig) -> Self {
        let text = section.required_text("path", PATH_CHARS_MAX);
        let path = origin.input(Path::new(&text));
        let watch = section.get("watch").unwrap_or(true);
        if !text.is_empty() && watch {
            origin.must_be_or_become_dir(section, "path", &path);
        } else if !text.is_empty() {
            // An empty folder would end the camera at once.
            origin.must_be_dir(section, "path", &path);
        }
        let parse = |word: &str| FileTime::ALL.into_iter().find(|time| time.as_str() == word);
        let time = section.word("file_time", parse, &FileTime::ALL.map(FileTime::as_str));
        if time == Some(FileTime::Modified) && (!watch || trigger.on != TriggerOn::Command) {
            section.problem("file_time", "only means something to a watched folder with triggers by command");
        }
        Self { path, watch, time: time.unwrap_or_default() }
    }

    /// Writes its keys, defaults filled in.
    pub(super) fn write(&self, out: &mut Text) {
        out.pair("path", path(&self.path));
        out.pair("watch", self.watch);
        out.pair("file_time", quoted(self.time.as_str()));
    }

    /// A file that another user writes must stand still for two seconds before it counts.
    pub(super) const fn rule(&self) -> Rule {
        let (second, two, three) = (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3));
        match (self.watch, self.time) {
            (false, _) => Rule { within: None, on_its_way: second, stamps: Stamps::Order },
            (true, FileTime::Arrival) => {
                Rule { within: Some(two), on_its_way: three, stamps: Stamps::Arrival }
            }
            (true, FileTime::Modified) => {
                Rule { within: Some(two), on_its_way: three, stamps: Stamps::Exposure }
            }
        }
    }

    /// The pictures of the folder, for the camera with this id; `taken` remembers those of a watched one.
    ///
    /// # Errors
    /// A folder that is not watched cannot be listed; or `taken` cannot be read.
    pub(crate) fn open<E: From<CameraError>>(
        &self,
        camera: &str,
        taken: impl FnOnce() -> Result<Box<dyn Taken>, E>,
        stop: Stop,
    ) -> Result<Folder, E> {
        if self.watch {
            Ok(Folder::watch(camera, &self.path, self.time, taken()?, stop))
        } else {
            Ok(Folder::once(camera, &self.path, stop)?)
        }
    }
}

/// Remembers over restarts which files were taken.
pub trait Taken: Send {
    /// Whether this very file was taken.
    fn was(&self, name: &OsStr, stamp: &Stamp) -> bool;

    /// Notes that a file is taken, durably, before anybody inspects it. Returns the ticket of its inspection, where
    /// one is owed from now on.
    ///
    /// # Errors
    /// It cannot be noted now, in words: the file stays for later.
    fn take(&mut self, name: &OsStr, stamp: &Stamp) -> Result<Option<u64>, String>;

    /// A file has left the directory.
    fn gone(&mut self, name: &OsStr);

    /// At the first look: these files are there, and all others have left while nobody looked.
    fn only(&mut self, there: &mut dyn Iterator<Item = &OsStr>);
}

/// Remembers nothing: after a restart every file is new.
#[derive(Clone, Copy, Debug)]
pub struct Untracked;

impl Taken for Untracked {
    fn was(&self, _: &OsStr, _: &Stamp) -> bool {
        false
    }

    fn take(&mut self, _: &OsStr, _: &Stamp) -> Result<Option<u64>, String> {
        Ok(None)
    }

    fn gone(&mut self, _: &OsStr) {}

    fn only(&mut self, _: &mut dyn Iterator<Item = &OsStr>) {}
}

/// Takes the pictures of one directory.
pub struct Folder {
    camera: String,
    stop: Stop,
    mode: Mode,
    depth: DepthRule,
}

enum Mode {
    Once(std::vec::IntoIter<PathBuf>),
    Watch {
        watcher: Box<Watcher>,
        next_scan: Instant,
        time: FileTime,
        /// A file that could not be noted yet.
        waiting: VecDeque<Result<Picture, CameraError>>,
    },
}

/// How long a file waits until it is tried again to note it.
const NOTE_AGAIN: Duration = Duration::from_millis(500);

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
        Ok(Folder::new(camera, stop, Mode::Once(files.into_iter())))
    }

    /// The pictures that lie in `dir` and those that come, until `stop` is set. A directory that is
    /// not there yet, or not there for a while, is reported once and waited for.
    pub fn watch(camera: &str, dir: &Path, time: FileTime, taken: Box<dyn Taken>, stop: Stop) -> Folder {
        let watcher = Box::new(Watcher::new(dir, taken));
        let mode = Mode::Watch { watcher, next_scan: Instant::now(), time, waiting: VecDeque::new() };
        Folder::new(camera, stop, mode)
    }

    fn new(camera: &str, stop: Stop, mode: Mode) -> Folder {
        Folder { camera: camera.into(), stop, mode, depth: Arc::new(Depth::default) }
    }

    /// The same folder, whose samples of 16 bits are read as `depth` states them.
    #[must_use]
    pub fn with_depth(mut self, depth: DepthRule) -> Folder {
        if let Mode::Watch { watcher, .. } = &mut self.mode {
            watcher.depth = Arc::clone(&depth);
        }
        Folder { depth, ..self }
    }

    fn frame(&self, path: &Path, pixels: RgbImage) -> Frame {
        Frame {
            camera: self.camera.clone(),
            pixels: Arc::new(pixels),
            captured_at: SystemTime::now(),
            captured: Instant::now(),
            exposed: None,
            clip: vec![],
            trigger: Trigger::default(),
            origin: path.display().to_string(),
            replayed: false,
        }
    }

    /// The next file of a list.
    fn next_of_list(&mut self) -> Result<Option<Frame>, CameraError> {
        let Mode::Once(files) = &mut self.mode else { return Ok(None) };
        let Some(path) = files.next().filter(|_| !self.stop.is_set()) else { return Ok(None) };
        let pixels = decode(&path, (self.depth)())?;
        Ok(Some(self.frame(&path, pixels)))
    }

    /// Every file is a part.
    fn next_of_all(&mut self, by: Option<Instant>) -> Result<Option<Frame>, CameraError> {
        loop {
            let Mode::Watch { watcher, waiting, .. } = &mut self.mode else { return Ok(None) };
            let Some(next) = waiting.pop_front().or_else(|| watcher.pending()) else {
                if !self.look_again(by)? {
                    return Ok(None);
                }
                continue;
            };
            let path = match &next {
                Ok(picture) => Some(picture.path.clone()),
                Err(error) => error.file().map(Path::to_path_buf),
            };
            // Trouble with the directory is nobody's part.
            let Some((name, stamp)) = path.and_then(|path| watcher.stamp_of(&path)) else {
                return next.map(|picture| Some(self.frame(&picture.path, picture.pixels)));
            };
            let ticket = match watcher.taken().take(&name, &stamp) {
                Ok(ticket) => ticket.map(Ticket),
                Err(reason) => {
                    tracing::warn!(camera = %self.camera, file = %name.display(), reason, "not taken yet");
                    waiting.push_front(next);
                    if self.stop.wait_until(Instant::now() + NOTE_AGAIN) {
                        return Ok(None);
                    }
                    continue;
                }
            };
            return match next {
                Ok(picture) => {
                    let mut frame = self.frame(&picture.path, picture.pixels);
                    frame.trigger.ticket = ticket;
                    Ok(Some(frame))
                }
                Err(error) => Err(CameraError::BrokenFile { ticket, error: Box::new(error) }),
            };
        }
    }

    /// The first file that came after a trigger.
    fn next_after(&mut self, after: Instant, by: Option<Instant>) -> Result<Option<Frame>, CameraError> {
        loop {
            let Mode::Watch { watcher, time, .. } = &mut self.mode else { return Ok(None) };
            let (discarded, picture) = watcher.pending_after(after);
            if discarded > 0 {
                tracing::warn!(camera = %self.camera, discarded, "files from before the trigger");
            }
            if let Some(Picture { path, pixels, arrived, arrived_at, modified }) = picture {
                let (captured, captured_at) = match (*time, modified) {
                    (FileTime::Modified, Some(modified)) => (moment(modified), modified),
                    _ => (arrived, arrived_at),
                };
                return Ok(Some(Frame { captured_at, captured, ..self.frame(&path, pixels) }));
            }
            match self.look_again(by) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(late) => {
                    let Mode::Watch { watcher, .. } = &mut self.mode else { return Err(late) };
                    return Err(watcher.broken_after(after).unwrap_or(late));
                }
            }
        }
    }

    /// Waits for the next look at the directory; false when it is over.
    fn look_again(&mut self, by: Option<Instant>) -> Result<bool, CameraError> {
        let Mode::Watch { watcher, next_scan, .. } = &mut self.mode else { return Ok(false) };
        if self.stop.wait_until(by.map_or(*next_scan, |by| by.min(*next_scan))) {
            return Ok(false);
        }
        if by.is_some_and(|by| Instant::now() >= by) {
            return Err(CameraError::Late);
        }
        *next_scan = Instant::now() + Duration::from_millis(SCAN_INTERVAL_MS);
        watcher.scan().map(|()| true)
    }
}

/// A moment of the wall clock on the monotonic one.
fn moment(at: SystemTime) -> Instant {
    let (now, wall) = (Instant::now(), SystemTime::now());
    match wall.duration_since(at) {
        Ok(age) => now.checked_sub(age).unwrap_or(now),
        Err(ahead) => now + ahead.duration(),
    }
}

impl Source for Folder {
    /// Without `want.after` the frame's time is the moment at which it was taken from the directory.
    fn take(&mut self, want: Want) -> Result<Option<Frame>, CameraError> {
        match (&self.mode, want.after) {
            (Mode::Once(_), _) => self.next_of_list(),
            (Mode::Watch { .. }, None) => self.next_of_all(want.by),
            (Mode::Watch { .. }, Some(after)) => self.next_after(after, want.by),
        }
    }
}

/// True for names that start with a dot: programs that write a file under another name first use them.
pub(crate) fn hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn watch(dir: &Path, stop: Stop) -> Folder {
        Folder::watch("cam1", dir, FileTime::Arrival, Box::new(Untracked), stop)
    }

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
    fn once_takes_files_by_name_and_goes_on_after_a_bad_one() {
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
        let mut source = watch(dir.path(), stop.clone());
        let frame = source.next().unwrap().unwrap();
        assert_eq!(frame.camera, "cam1");
        assert!(frame.origin.ends_with("a.png"));
        stop.set();
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn a_watched_folder_that_is_missing_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let mut source = watch(&late, Stop::default());
        assert!(matches!(source.next(), Err(CameraError::Directory { .. })));
        fs::create_dir(&late).unwrap();
        png(&late.join("a.png"), 1);
        assert!(source.next().unwrap().is_some());
    }

    #[test]
    fn a_trigger_waits_for_its_file_as_long_as_it_may_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        png(&dir.path().join("old.png"), 1);
        let mut source = watch(dir.path(), Stop::default());
        let trigger = Instant::now() + Duration::from_millis(20);
        let after = Some(trigger);
        let by = Some(Instant::now() + Duration::from_millis(700));
        let error = source.take(Want { after, by }).unwrap_err();
        assert!(matches!(error, CameraError::Late), "what lay there before is another part's: {error}");
        std::thread::sleep(Duration::from_millis(20));
        png(&dir.path().join("new.png"), 2);
        fs::write(dir.path().join("zzz.png"), b"garbage").unwrap();
        let by = Some(Instant::now() + Duration::from_secs(30));
        let frame = source.take(Want { after, by }).unwrap().unwrap();
        assert!(frame.origin.ends_with("new.png"));
        assert!(frame.captured >= trigger && frame.captured <= Instant::now());
        let by = Some(Instant::now() + Duration::from_millis(600));
        let broken = source.take(Want { after, by }).unwrap_err().to_string();
        assert!(broken.contains("zzz.png"), "{broken}");
    }
}
