//! P2: a power loss loses no acknowledged result.
//!
//! ```text
//! child commits on an ext4 in a file --stopped, all threads at rest--> the file is copied
//! the copy is what the disk would hold: mounted, opened, verified, compared with what was acknowledged
//! ```
//!
//! The rig proves itself: with a library in front that makes fdatasync do nothing, it must find losses.

use crate::loopdisk::{self, LoopDisk};
use crate::soak;
use crate::station::{Order, Station, acked};
use inspectd::store::{Store, StoreOptions};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const CUTS: usize = 40;

/// Cuts of one file system; then a fresh one.
const ROUND: usize = 50;

const DISK_MB: u64 = 64;

#[derive(Default, Debug)]
struct Figures {
    cuts: usize,
    acknowledged: usize,
    lost: usize,
    refused: usize,
    broken: usize,
}

#[test]
fn p2_a_power_loss_loses_nothing_that_was_acknowledged() {
    let began = Instant::now();
    let Some(f) = cut_power(soak::count(CUTS, 1000), None) else { return };
    soak::report(&format!(
        "P2: {} power losses, {} acknowledged, {} lost, {} refused opens, {} broken chains, {:.0} s",
        f.cuts,
        f.acknowledged,
        f.lost,
        f.refused,
        f.broken,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((f.lost, f.refused, f.broken), (0, 0, 0));
    assert!(f.acknowledged > f.cuts);
}

#[test]
fn p2_the_rig_sees_a_store_that_does_not_sync() {
    let dir = tempfile::tempdir().expect("a folder");
    let library = without(dir.path(), NO_SYNC);
    let Some(f) = cut_power(20, Some(&library)) else { return };
    soak::report(&format!(
        "P2 without fdatasync: {} power losses, {} acknowledged, {} lost, {} refused opens",
        f.cuts, f.acknowledged, f.lost, f.refused
    ));
    assert!(f.lost > 0, "the rig cannot see what it is for: {f:?}");
}

/// fdatasync does nothing, and neither does the request for synchronous writes.
pub(crate) const NO_SYNC: &str = r"
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) { (void)fd; return 0; }
int ioctl(int fd, unsigned long request, void *argument) {
    if (request == 0x40086602) return 0;
    return syscall(SYS_ioctl, fd, request, argument);
}
";

/// A library of this source that takes the syncing out, for the child to load first.
pub(crate) fn without(dir: &Path, text: &str) -> PathBuf {
    let (source, library) = (dir.join("nosync.c"), dir.join("nosync.so"));
    std::fs::write(&source, text).expect("it is written");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("a C compiler is here").success());
    library
}

/// `None` where nothing can be mounted.
fn cut_power(cuts: usize, library: Option<&Path>) -> Option<Figures> {
    let mut figures = Figures::default();
    while figures.cuts < cuts {
        let disk = LoopDisk::new("P2", DISK_MB)?;
        one_round(&disk, ROUND.min(cuts - figures.cuts), library, &mut figures);
    }
    Some(figures)
}

fn one_round(disk: &LoopDisk, cuts: usize, library: Option<&Path>, figures: &mut Figures) {
    let order = Order {
        dir: disk.mount.join("store").display().to_string(),
        // Pictures are synced by other means, which would carry the records along.
        picture_every: 20,
        picture_bytes: 3000,
        pause_us: 500,
        ..Order::default()
    };
    let mut station = Station::start_with(&order, |command| {
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
    });
    station.until("opened", Duration::from_mins(1));
    let mut promised: BTreeMap<u64, String> = BTreeMap::new();
    for _ in 0..cuts {
        std::thread::sleep(Duration::from_micros(rand::thread_rng().gen_range(2_000..60_000)));
        let (copy, said) = cut(disk, &station);
        promised.extend(said.iter().filter_map(|l| acked(l)));
        mounted(&copy, |at| judge(&at.join("store"), &promised, figures));
        figures.cuts += 1;
    }
    figures.acknowledged += promised.len();
    station.process.kill().expect("it can be killed");
    station.process.wait().expect("it is reaped");
}

/// What the disk holds at this moment, as a file, and what the child has said by then.
pub(crate) fn cut(disk: &LoopDisk, station: &Station) -> (PathBuf, Vec<String>) {
    signal(station, libc::SIGSTOP);
    wait_until_at_rest(station);
    // What it had said before it stopped is on its way through the pipe.
    std::thread::sleep(Duration::from_millis(10));
    let copy = disk.image.with_file_name("copy");
    std::fs::copy(&disk.image, &copy).expect("the image is copied");
    let said = station.said();
    assert!(!said.iter().any(|l| l.starts_with("failed")), "{said:?}");
    signal(station, libc::SIGCONT);
    (copy, said)
}

/// Looks at what such a file holds, as after the next start of the machine.
pub(crate) fn mounted(copy: &Path, look: impl FnOnce(&Path)) {
    let at = copy.with_file_name("copied");
    std::fs::create_dir_all(&at).expect("a place to mount");
    loopdisk::mount(copy, &at).expect("the file system itself survives");
    look(&at);
    loopdisk::unmount(&at);
}

fn signal(station: &Station, signal: i32) {
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(station.process.id() as i32, signal) }, 0);
}

/// A thread inside a sync stops only when the sync is through, which may change the image.
fn wait_until_at_rest(station: &Station) {
    let tasks = format!("/proc/{}/task", station.process.id());
    let stopped = |path: PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    let began = Instant::now();
    let all = || {
        let entries = std::fs::read_dir(&tasks).expect("the child is there");
        entries.map_while(Result::ok).all(|entry| stopped(entry.path()))
    };
    while !all() {
        assert!(began.elapsed() < Duration::from_mins(1), "the child does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The store as the next start would find it.
fn judge(dir: &Path, promised: &BTreeMap<u64, String>, figures: &mut Figures) {
    match Store::open(dir, StoreOptions::default()) {
        Ok(store) => {
            let found = store.verify().expect("it reads");
            figures.broken += usize::from(found.gaps != 0 || found.broken_at.is_some());
            for (seq, id) in promised {
                let stored = store.get(*seq).expect("it reads");
                let fine = stored.is_some_and(|s| {
                    s.inspection.id == *id
                        && s.image.is_none_or(|i| {
                            let picture =
                                store.image_path(&i.image.sha256).and_then(|p| std::fs::read(p).ok());
                            picture.is_some_and(|bytes| bytes.len() as u64 == i.image.bytes)
                        })
                });
                figures.lost += usize::from(!fine);
            }
        }
        Err(error) => {
            println!("\nP2 refused open: {error}");
            figures.refused += 1;
        }
    }
}
