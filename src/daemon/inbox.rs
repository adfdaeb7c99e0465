//! Triggers by file: a JSON file that appears in the trigger folder is a `cmd/trigger`, for who has no
//! MQTT and no HTTP.
//!
//! ```text
//! NAME.json --whole--> taken/ --accepted by the dispatcher--> done/
//!     |                  |  '--no room--> held, asked again; a stop puts it back
//!     |                  '--refused--> refused/, with NAME.json.reason
//!     '--still no command after STILL_SCANS looks--> refused/, malformed
//!
//! found in taken/ at a start: done/ when the dispatcher has accepted it, which it knows for certain; if not
//!                             refused/, interrupted
//! ```
//!
//! A file that is half-written is no whole JSON object: it waits until it is one, or has stood still for
//! so long that it will be none. The deadline counts from when the file came, so that what lay there while
//! the station was off is review("deadline") and not the picture of another part.
//!
//! The dispatcher notes a file's stamp with the acceptance, in one step, so that acceptance and fate agree whenever the
//! process ends.
//!
//! Invariants:
//! - No file is taken twice: it has left the folder, durably, before the dispatcher hears of it.
//! - None is lost: it lies in the folder, in `taken`, in `done` or, with its reason, in `refused`.
//! - At most [`SCAN_MAX`] triggers are looked at in one look, and [`KEPT_MAX`] are kept in `done` and in `refused`.
//!   Foreign files count for neither, and none is ever moved or removed: `taken`, `done` and `refused` are opened
//!   without following links, and whatever is done in them is done in the folder that was opened.

use super::station::Station;
use crate::camera::Stop;
use crate::camera::kind::folder::hidden;
use crate::command::{self, Handler, Verb};
use crate::domain::trigger::{Command, Refusal, Sender};
use crate::publish::StationEvent;
use crate::threads;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
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
/// The folder's own folders.
const KEPT: [&str; 3] = ["taken", "done", "refused"];
/// Raised while the folder cannot be read or its files cannot be moved.
const ALARM: &str = "trigger_folder";

/// What the dispatcher knows of files, by their stamps.
pub(super) trait Fates: Send + Sync {
    /// The trigger in it was accepted, perhaps from a former process.
    fn was_accepted(&self, stamp: &str) -> bool;
    /// It lies where its outcome is read, durably, and need not be known any more.
    fn settle(&self, stamp: &str);
}

/// Starts to watch a folder; ends when the station stops.
///
/// # Errors
/// The folder's own folders cannot be made or are links, or what lies in `taken` cannot be moved.
pub(super) fn start(
    dir: &Path,
    handler: Handler,
    fates: Arc<dyn Fates>,
    station: Arc<Station>,
    stop: Stop,
) -> io::Result<JoinHandle<()>> {
    let mut inbox = Inbox::open(dir, handler, fates)?;
    let watch = move || {
        let mut fault = None;
        while !stop.wait_until(Instant::now() + LOOK) {
            let outcome = inbox.scan().err().map(|e| format!("{}: {e}", inbox.dir.display()));
            if outcome != fault {
                if let Some(error) = &outcome {
                    tracing::error!(%error, "triggers by file are not taken");
                }
                let (raised, message) = (outcome.is_some(), outcome.clone().unwrap_or_default());
                station.publish(StationEvent::Alarm { code: ALARM.to_owned(), raised, message });
                fault = outcome;
            }
        }
        inbox.put_back();
    };
    threads::spawn("triggers", watch)
}

/// A trigger folder.
struct Inbox {
    dir: PathBuf,
    handler: Handler,
    fates: Arc<dyn Fates>,
    /// Files that hold no command yet, and in how many looks they stood still.
    waiting: HashMap<OsString, (String, u32)>,
    /// A file in `taken` whose command finds no room; no other is looked at before it.
    held: Option<Taken>,
}

/// The folder's own folders, as they are now.
struct Own {
    taken: Folder,
    done: Folder,
    refused: Folder,
}

impl Own {
    fn open(dir: &Path) -> io::Result<Self> {
        let folder = |name: &str| Folder::open(&dir.join(name));
        Ok(Self { taken: folder("taken")?, done: folder("done")?, refused: folder("refused")? })
    }
}

/// A file in `taken` and the command in it.
struct Taken {
    name: OsString,
    stamp: String,
    command: Command,
}

/// A file and what was read in it.
struct Found {
    name: OsString,
    /// When it came, by the file system's clock.
    came: SystemTime,
    stamp: String,
}

impl Inbox {
    fn open(dir: &Path, handler: Handler, fates: Arc<dyn Fates>) -> io::Result<Self> {
        for kept in KEPT {
            fs::create_dir_all(dir.join(kept))?;
        }
        sync(dir)?;
        let inbox = Self { dir: dir.to_owned(), handler, fates, waiting: HashMap::new(), held: None };
        let own = Own::open(dir)?;
        for left in plain_files(&own.taken.path())? {
            let (name, stamp) = (left.file_name(), stamp(&left.metadata()?));
            if inbox.fates.was_accepted(&stamp) {
                tracing::info!(file = %name.display(), "accepted before the former process ended");
                inbox.done(&own, &name, &stamp)?;
            } else {
                refuse(&own, &name, "interrupted: the station ended while it took this file")?;
            }
        }
        Ok(inbox)
    }

    /// One look: everything that is whole is taken, in the order in which it came.
    fn scan(&mut self) -> io::Result<()> {
        let own = Own::open(&self.dir)?;
        if let Some(taken) = self.held.take() {
            self.hand_over(&own, taken)?;
        }
        let mut found = Vec::new();
        for entry in plain_files(&self.dir)?.into_iter().filter(is_trigger).take(SCAN_MAX) {
            // Gone already: its sender has taken it back.
            let Ok(meta) = entry.metadata() else { continue };
            let since = Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec().max(0) as u32);
            found.push(Found { name: entry.file_name(), came: UNIX_EPOCH + since, stamp: stamp(&meta) });
        }
        found.sort_by(|a, b| (a.came, &a.name).cmp(&(b.came, &b.name)));
        self.waiting.retain(|name, _| found.iter().any(|f| f.name == *name));
        for file in found {
            if self.held.is_some() {
                break;
            }
            self.look(&own, file)?;
        }
        Ok(())
    }

    /// Takes a file that holds a command, and refuses one that has stood still without.
    fn look(&mut self, own: &Own, file: Found) -> io::Result<()> {
        if let Err(refusal) = read(&self.dir.join(&file.name), &file.name, file.came) {
            let known = self.waiting.get(&file.name).filter(|(stamp, _)| *stamp == file.stamp);
            let still = known.map_or(0, |(_, still)| still + 1);
            if still < STILL_SCANS {
                self.waiting.insert(file.name, (file.stamp, still));
                return Ok(());
            }
            self.waiting.remove(&file.name);
            self.claim(own, &file.name)?;
            return refuse(own, &file.name, &said(&refusal));
        }
        self.waiting.remove(&file.name);
        self.claim(own, &file.name)?;
        // What was claimed is what counts: another may have taken its place since it was read.
        let taken = own.taken.path().join(&file.name);
        let stamp = stamp(&fs::symlink_metadata(&taken)?);
        let came = if stamp == file.stamp { file.came } else { SystemTime::now() };
        match read(&taken, &file.name, came) {
            Ok(command) => self.hand_over(own, Taken { name: file.name, stamp, command }),
            Err(refusal) => refuse(own, &file.name, &said(&refusal)),
        }
    }

    /// Out of the folder, before anybody hears of it.
    fn claim(&self, own: &Own, name: &OsStr) -> io::Result<()> {
        fs::rename(self.dir.join(name), own.taken.path().join(name))?;
        own.taken.sync()?;
        sync(&self.dir)
    }

    fn hand_over(&mut self, own: &Own, taken: Taken) -> io::Result<()> {
        let Taken { name, stamp, command } = &taken;
        let sender = Sender::File { name: name.to_string_lossy().into_owned(), stamp: stamp.clone() };
        let correlation_id = match command {
            Command::Trigger(request) => request.trigger.correlation_id.clone(),
            Command::Pipeline { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Retry
            | Command::Reload => None,
        };
        let outcome = (self.handler)(command.clone(), &sender);
        if outcome.as_ref().is_err_and(Refusal::passes) {
            self.held = Some(taken);
            return Ok(());
        }
        command::log::outcome(Verb::Trigger.as_str(), &sender, correlation_id.as_deref(), &outcome);
        match outcome {
            Ok(_) => self.done(own, name, stamp),
            Err(refusal) => refuse(own, name, &said(&refusal)),
        }
    }

    /// An accepted file goes where its sender sees it.
    fn done(&self, own: &Own, name: &OsStr, stamp: &str) -> io::Result<()> {
        keep(own, name, &own.done, &own.refused)?;
        self.fates.settle(stamp);
        Ok(())
    }

    /// What found no room until the stop is for the next start.
    fn put_back(&mut self) {
        let Some(Taken { name, .. }) = self.held.take() else { return };
        let taken = self.dir.join("taken").join(&name);
        // A link, because it does not take the place of a new file of this name.
        let back = fs::hard_link(&taken, self.dir.join(&name)).and_then(|()| fs::remove_file(&taken));
        if let Err(error) = back {
            tracing::error!(%error, file = %name.display(), "a trigger that waited is refused at the next start");
        }
    }
}

/// The reason is there before the file is.
fn refuse(own: &Own, name: &OsStr, reason: &str) -> io::Result<()> {
    fs::write(reason_of(&own.refused.path().join(name)), format!("{reason}\n"))?;
    keep(own, name, &own.refused, &own.done)
}

/// From `taken` to where its outcome is read; a former file of this name has had its outcome.
fn keep(own: &Own, name: &OsStr, to: &Folder, not: &Folder) -> io::Result<()> {
    fs::rename(own.taken.path().join(name), to.path().join(name))?;
    let not = not.path().join(name);
    for former in [reason_of(&not), not] {
        match fs::remove_file(former) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    to.sync()?;
    prune(&to.path(), KEPT_MAX)
}

/// What a file is known by, wherever it is moved. Its number may be given to another file, but not with the same
/// time of writing.
fn stamp(meta: &Metadata) -> String {
    let (dev, ino, size) = (meta.dev(), meta.ino(), meta.len());
    format!("{dev}:{ino}:{}.{:09}:{size}", meta.mtime(), meta.mtime_nsec())
}

/// The command in a file, whose name stands in for a correlation id that it does not have.
fn read(path: &Path, name: &OsStr, came: SystemTime) -> Result<Command, Refusal> {
    let unreadable = |e: io::Error| Refusal::Malformed { reason: format!("it cannot be read: {e}") };
    let mut text = Vec::new();
    let limit = command::BYTES_MAX as u64 + 1;
    File::open(path).and_then(|f| f.take(limit).read_to_end(&mut text)).map_err(unreadable)?;
    if text.is_empty() {
        return Err(Refusal::Malformed { reason: "the file is empty".into() });
    }
    let age = came.elapsed().unwrap_or_default();
    let now = Instant::now();
    let received = now.checked_sub(age).unwrap_or(now);
    let body = command::body(&text)?;
    let own_id = body.correlation_id.clone();
    let stem = Path::new(name).file_stem().and_then(OsStr::to_str);
    let mut command = body.correlated_by(stem).order(Verb::Trigger, received)?.command;
    if let Command::Trigger(request) = &mut command {
        // Files of one name may follow each other, and each is a trigger.
        request.name = own_id;
    }
    Ok(command)
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

fn is_trigger(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    Path::new(&name).extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) && !hidden(&name)
}

/// Leaves the newest triggers and their reasons.
fn prune(dir: &Path, max: usize) -> io::Result<()> {
    let mut files: Vec<_> = plain_files(dir)?.into_iter().filter(is_trigger).collect();
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

/// A folder that was opened without following a link; its path leads there even when another takes its name.
struct Folder(File);

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let named = |e: io::Error| {
            let is_link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
            let why =
                if is_link { "is a link, and must be a folder of its own".into() } else { e.to_string() };
            io::Error::new(e.kind(), format!("{}: {why}", path.display()))
        };
        opened.map(Self).map_err(named)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Makes the names in a folder durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
