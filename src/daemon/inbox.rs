//! Triggers by file: a JSON file that appears in the trigger folder is a `cmd/trigger`, for who has no
//! MQTT and no HTTP.
//!
//!     NAME.json --whole--> taken/ --accepted by the desk--> done/
//!         |                  |  '--no room--> held, asked again; a stop puts it back
//!         |                  '--refused--> refused/, with NAME.json.reason
//!         '--still no command after STILL_SCANS looks--> refused/, malformed
//!
//!     found in taken/ at a start: refused/, interrupted (nobody knows what became of it)
//!
//! A file that is half-written is no whole JSON object: it waits until it is one, or has stood still for
//! so long that it will be none. The deadline counts from when the file came, so that what lay there while
//! the station was off is review("deadline") and not the picture of another part.
//!
//! Invariants:
//! - No file is taken twice: it has left the folder, durably, before the desk hears of it.
//! - None is lost: it lies in the folder, in `taken`, in `done` or, with its reason, in `refused`.
//! - At most `SCAN_MAX` files are looked at in one look and `KEPT_MAX` are kept in `done` and `refused`.

use super::station::Station;
use crate::camera::folder::{hidden, Stamp};
use crate::camera::Stop;
use crate::command::{self, Handler, Verb};
use crate::domain::trigger::{Command, Refusal};
use crate::mqtt::StationEvent;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a row that see the same file and no command in it until it is refused: 2 s.
const STILL_SCANS: u32 = 20;
/// Files that one look considers.
const SCAN_MAX: usize = 1_000;
/// Files that stay in `done` and in `refused`; beyond them the oldest go.
const KEPT_MAX: usize = 1_000;
/// Raised while the folder cannot be read or its files cannot be moved.
const ALARM: &str = "trigger_folder";

/// Starts to watch a folder; ends when the station stops.
///
/// # Errors
/// The folder's own folders cannot be made, or what lies in `taken` cannot be moved.
pub fn start(dir: &Path, handler: Handler, station: Arc<Station>, stop: Stop) -> io::Result<JoinHandle<()>> {
    let mut inbox = Inbox::open(dir, handler)?;
    let watch = move || {
        let mut fault = None;
        while !stop.wait_until(Instant::now() + LOOK) {
            let outcome = inbox.scan().err().map(|e| format!("{}: {e}", inbox.dir.display()));
            if outcome != fault {
                if let Some(error) = &outcome {
                    tracing::error!(%error, "triggers by file are not taken");
                }
                let (raised, message) = (outcome.is_some(), outcome.clone().unwrap_or_default());
                station.tell(StationEvent::Alarm { code: ALARM.to_owned(), raised, message });
                fault = outcome;
            }
        }
        inbox.put_back();
    };
    std::thread::Builder::new().name("triggers".into()).spawn(watch)
}

/// A trigger folder.
struct Inbox {
    dir: PathBuf,
    handler: Handler,
    /// Files that hold no command yet, and in how many looks they stood still.
    waiting: HashMap<OsString, (Stamp, u32)>,
    /// A file in `taken` whose command finds no room; no other is looked at before it.
    held: Option<(OsString, Command)>,
}

/// A file and what was read in it.
struct Found {
    name: OsString,
    /// When it came, by the file system's clock.
    came: SystemTime,
    stamp: Stamp,
}

impl Inbox {
    fn open(dir: &Path, handler: Handler) -> io::Result<Self> {
        for kept in ["taken", "done", "refused"] {
            fs::create_dir_all(dir.join(kept))?;
        }
        sync(dir)?;
        let inbox = Self { dir: dir.to_owned(), handler, waiting: HashMap::new(), held: None };
        for left in plain_files(&inbox.dir.join("taken"))? {
            let reason = "interrupted: the station ended while it took this file";
            inbox.refuse(&left.file_name(), reason)?;
        }
        Ok(inbox)
    }

    /// One look: everything that is whole is taken, in the order in which it came.
    fn scan(&mut self) -> io::Result<()> {
        if let Some((name, command)) = self.held.take() {
            self.hand_over(name, command)?;
        }
        let mut found = Vec::new();
        for entry in plain_files(&self.dir)?.into_iter().take(SCAN_MAX) {
            let name = entry.file_name();
            let is_json = Path::new(&name).extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
            // Gone already: its sender has taken it back.
            let Ok(meta) = entry.metadata() else { continue };
            if is_json && !hidden(&name) {
                let since = Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec().max(0) as u32);
                found.push(Found { name, came: UNIX_EPOCH + since, stamp: Stamp::of(&meta) });
            }
        }
        found.sort_by(|a, b| (a.came, &a.name).cmp(&(b.came, &b.name)));
        self.waiting.retain(|name, _| found.iter().any(|f| f.name == *name));
        for file in found {
            if self.held.is_some() {
                break;
            }
            self.look(file)?;
        }
        Ok(())
    }

    /// Takes a file that holds a command, and refuses one that has stood still without.
    fn look(&mut self, file: Found) -> io::Result<()> {
        match read(&self.dir.join(&file.name), &file) {
            Ok(command) => {
                self.waiting.remove(&file.name);
                self.claim(&file.name)?;
                self.hand_over(file.name, command)
            }
            Err(refusal) => {
                let known = self.waiting.get(&file.name).filter(|(stamp, _)| *stamp == file.stamp);
                let still = known.map_or(0, |(_, still)| still + 1);
                if still < STILL_SCANS {
                    self.waiting.insert(file.name, (file.stamp, still));
                    return Ok(());
                }
                self.waiting.remove(&file.name);
                self.claim(&file.name)?;
                self.refuse(&file.name, &said(&refusal))
            }
        }
    }

    /// Out of the folder, before anybody hears of it.
    fn claim(&self, name: &OsStr) -> io::Result<()> {
        let taken = self.dir.join("taken");
        fs::rename(self.dir.join(name), taken.join(name))?;
        sync(&taken)?;
        sync(&self.dir)
    }

    fn hand_over(&mut self, name: OsString, command: Command) -> io::Result<()> {
        match (self.handler)(command.clone()) {
            Ok(()) => {
                tracing::info!(file = %name.display(), "a trigger by file");
                self.keep(&name, "done", "refused")
            }
            Err(Refusal::Full { .. } | Refusal::NotStored { .. } | Refusal::Starting | Refusal::Stopping) => {
                self.held = Some((name, command));
                Ok(())
            }
            Err(refusal) => self.refuse(&name, &said(&refusal)),
        }
    }

    /// The reason is there before the file is.
    fn refuse(&self, name: &OsStr, reason: &str) -> io::Result<()> {
        tracing::warn!(file = %name.display(), reason, "a trigger by file is refused");
        fs::write(reason_of(&self.dir.join("refused").join(name)), format!("{reason}\n"))?;
        self.keep(name, "refused", "done")
    }

    /// From `taken` to where its outcome is read; a former file of this name has had its outcome.
    fn keep(&self, name: &OsStr, to: &str, not: &str) -> io::Result<()> {
        let (to, not) = (self.dir.join(to), self.dir.join(not).join(name));
        fs::rename(self.dir.join("taken").join(name), to.join(name))?;
        for former in [reason_of(&not), not] {
            match fs::remove_file(former) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync(&to)?;
        prune(&to, KEPT_MAX)
    }

    /// What found no room until the stop is for the next start.
    fn put_back(&mut self) {
        let Some((name, _)) = self.held.take() else { return };
        let taken = self.dir.join("taken").join(&name);
        // A link, because it does not take the place of a new file of this name.
        let back = fs::hard_link(&taken, self.dir.join(&name)).and_then(|()| fs::remove_file(&taken));
        if let Err(error) = back {
            tracing::error!(%error, file = %name.display(), "a trigger that waited is refused at the next start");
        }
    }
}

/// The command in a file, whose name stands in for a correlation id that it does not have.
fn read(path: &Path, file: &Found) -> Result<Command, Refusal> {
    let unreadable = |e: io::Error| Refusal::Malformed { reason: format!("it cannot be read: {e}") };
    let mut text = Vec::new();
    let limit = command::BYTES_MAX as u64 + 1;
    File::open(path).and_then(|f| f.take(limit).read_to_end(&mut text)).map_err(unreadable)?;
    if text.is_empty() {
        return Err(Refusal::Malformed { reason: "the file is empty".into() });
    }
    let age = file.came.elapsed().unwrap_or_default();
    let now = Instant::now();
    let received = now.checked_sub(age).unwrap_or(now);
    let stem = Path::new(&file.name).file_stem().and_then(OsStr::to_str);
    Ok(command::words(&text)?.correlated_by(stem).order(Verb::Trigger, received)?.command)
}

fn said(refusal: &Refusal) -> String {
    format!("{}: {refusal}", refusal.code())
}

fn reason_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".reason");
    name.into()
}

fn plain_files(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry);
        }
    }
    Ok(files)
}

/// Leaves the newest files and their reasons.
fn prune(dir: &Path, max: usize) -> io::Result<()> {
    let is_reason = |e: &DirEntry| Path::new(&e.file_name()).extension().is_some_and(|e| e == "reason");
    let mut files: Vec<_> = plain_files(dir)?.into_iter().filter(|e| !is_reason(e)).collect();
    if files.len() <= max {
        return Ok(());
    }
    files.sort_by_cached_key(|e| e.metadata().map(|m| (m.ctime(), m.ctime_nsec())).unwrap_or_default());
    for old in &files[..files.len() - max] {
        fs::remove_file(old.path())?;
        match fs::remove_file(reason_of(&old.path())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
