//! The disk's floor: below it nothing more is accepted, before a write can fail.
//!
//! ```text
//! free bytes:  0 ....... floor ......... floor + margin ............ all
//!              | refuses: DiskFull | still refuses | accepts, ballast in place |
//!                ballast released ---^
//! ```
//!
//! The line stops visibly instead of losing results silently, and goes on by itself when space comes
//! back. The ballast is a file that holds blocks back from everybody else; it is released when the
//! floor is reached, so that what is still in sled's buffers, and a restart, have room to be written.
//!
//! Invariant: a commit that was refused has changed nothing and may be tried again.

use super::Store;
use super::error::StoreError;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Share of the floor that the ballast holds.
const BALLAST_SHARE: u64 = 4;

/// Share of the floor that must be free above it before a stopped store accepts again: otherwise the
/// alarm would be raised and cleared with every file that somebody else writes.
const MARGIN_SHARE: u64 = 8;

/// The watch over the free bytes of the store's file system.
pub(super) struct Disk {
    dir: PathBuf,
    /// 0: no floor.
    floor_bytes: u64,
    state: Mutex<State>,
}

struct State {
    stopped: bool,
    /// The ballast's file, while it holds its blocks.
    ballast: bool,
}

impl Disk {
    /// Looks before anything else is written; releases the ballast when `open` may need its room.
    pub(super) fn open(dir: &Path, floor_bytes: u64) -> Result<Self, StoreError> {
        let disk = Self {
            dir: dir.to_owned(),
            floor_bytes,
            state: Mutex::new(State { stopped: false, ballast: dir.join("ballast").exists() }),
        };
        match disk.check() {
            Ok(()) | Err(StoreError::DiskFull { .. }) => Ok(disk),
            Err(error) => Err(error),
        }
    }

    /// Refuses while the disk is too full.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.floor_bytes == 0 {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let free_bytes = free_bytes(&self.dir)?;
        // What the ballast gives away is not there to be used.
        let absent = if state.ballast { 0 } else { self.ballast_bytes() };
        let margin = if state.stopped { self.floor_bytes / MARGIN_SHARE } else { 0 };
        if free_bytes < self.floor_bytes + absent + margin {
            if state.ballast {
                remove(&self.dir.join("ballast"))?;
                state.ballast = false;
            }
            if !std::mem::replace(&mut state.stopped, true) {
                tracing::error!(free_bytes, floor = self.floor_bytes, "the disk is full: the line stops");
            }
            return Err(StoreError::DiskFull { free_bytes, free_bytes_min: self.floor_bytes });
        }
        if !state.ballast {
            state.ballast = self.lay_ballast();
        }
        if std::mem::take(&mut state.stopped) {
            tracing::info!(free_bytes, "the disk has room again: the line goes on");
        }
        Ok(())
    }

    /// An error of a write that only says that the disk is full, as that.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        match &error {
            StoreError::Io { source, .. } if is_full(source) => {
                let free_bytes = free_bytes(&self.dir).unwrap_or(0);
                StoreError::DiskFull { free_bytes, free_bytes_min: self.floor_bytes }
            }
            _ => error,
        }
    }

    fn ballast_bytes(&self) -> u64 {
        self.floor_bytes / BALLAST_SHARE
    }

    /// False when there is no room after all; it is tried again at the next check.
    fn lay_ballast(&self) -> bool {
        let path = self.dir.join("ballast");
        let laid = File::create(&path).and_then(|file| {
            // SAFETY: a descriptor that lives, and a length that fits.
            match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, self.ballast_bytes() as i64) } {
                0 => file.sync_all(),
                code => Err(std::io::Error::from_raw_os_error(code)),
            }
        });
        if let Err(error) = &laid {
            tracing::warn!(%error, "no ballast");
            // Whatever blocks it got would be missing from the count.
            let _ = std::fs::remove_file(&path);
        }
        laid.is_ok()
    }
}

/// The room on the file system of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub free_bytes: u64,
    /// With less than this free nothing is accepted.
    pub free_bytes_min: u64,
}

impl Store {
    /// The room on its file system.
    ///
    /// # Errors
    /// [`StoreError`] when the file system does not say.
    pub(crate) fn room(&self) -> Result<Room, StoreError> {
        let Disk { dir, floor_bytes, .. } = &self.disk;
        Ok(Room { free_bytes: free_bytes(dir)?, free_bytes_min: *floor_bytes })
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes every write to sled's file reach the disk before it returns (`chattr +S`).
///
/// sled takes for stable what it wrote and gave to `sync_file_range`, says so in the next segment's header,
/// and reuses old segments by it. For blocks that the file has only just been given that is not true
/// before the metadata is on the disk, too. In 2 of 1,000 power losses of the rig the next open was
/// refused. A file system that does not know the flag keeps that risk; what was acknowledged is synced
/// by `sync` in any case.
pub(super) fn write_through(path: &Path) {
    // FS_SYNC_FL of linux/fs.h.
    const SYNC: libc::c_long = 0x8;
    let Ok(file) = File::open(path) else { return };
    let mut flags: libc::c_long = 0;
    // SAFETY: both calls take a pointer to a long that lives; the descriptor is open.
    let set = unsafe {
        libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) == 0
            && (flags & SYNC != 0 || {
                flags |= SYNC;
                libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) == 0
            })
    };
    if !set {
        tracing::debug!(path = %path.display(), "the file system has no flag for synchronous writes");
    }
}

/// Bytes that an ordinary user may still write to the file system of `dir`.
pub(crate) fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    let failed = StoreError::io("look at the free space of", dir);
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    };
    // SAFETY: all zeros is a value of this plain struct, and the path ends with a zero byte.
    let (outcome, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut stat), stat)
    };
    if outcome != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(stat.f_bavail * stat.f_frsize)
}
