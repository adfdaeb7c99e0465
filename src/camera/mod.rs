//! Cameras: where frames come from.
//!
//!     daemon: trigger --> Source::next --> Frame --> queue
//!                             |
//!            +----------------+----------------+---------------------------+
//!            |                |                                            |
//!     folder: files     simulator: parts with known truth     supervisor: a capture child
//!                                                                          | Unix socket
//!                                                             child: v4l2, opencv, genicam
//!
//! Between a source and its trigger stands `clip`, which collects the pictures of a clip where the
//! pipeline asks for one.
//!
//! What can hang or crash, drivers and network streams, lives in a child process (`inspectd capture`).
//! `folder` and `simulator` are our own code on files and numbers and stay in the process.
//!
//! A source runs on a thread of its own and may block in `next`; a `Stop` wakes it. The caller paces
//! it and decides what happens to frames that nobody has room for.
//!
//! An error of `next` is about one picture, or about the source being unreachable for now: the caller
//! reports it and calls `next` again. `Ok(None)` is the end: nothing comes after it.

pub mod child;
pub mod clip;
pub mod device;
pub mod folder;
pub mod genicam;
pub mod keyframe;
pub mod opencv;
pub mod picture;
pub mod simulator;
pub mod supervisor;
pub mod v4l2;
pub mod wire;

use crate::domain::frame::Frame;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where frames come from.
pub trait Source: Send {
    /// The next frame, waiting for it if need be; `Ok(None)` when there will never be another.
    ///
    /// # Errors
    /// One picture could not be had; the next call goes on behind it.
    fn next(&mut self) -> Result<Option<Frame>, CameraError>;

    /// Like `next`, but a source that waits for a device gives up at this moment.
    ///
    /// # Errors
    /// Also when no picture came in time.
    fn next_by(&mut self, _by: Option<Instant>) -> Result<Option<Frame>, CameraError> {
        self.next()
    }

    /// Forgets pictures that came without having been asked for, and the count of those that were lost:
    /// the line is paused, and nobody wants them.
    fn forget(&mut self) {}

    /// True for a source that tells its state by itself.
    fn reports_itself(&self) -> bool {
        false
    }
}

/// Why a picture could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// The directory of a folder source cannot be listed; told once until it can be again.
    #[error("cannot list the directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    /// More files lie in the directory than are watched; told once until there is room again.
    #[error("more than {max} files in the directory {}: new ones wait until old ones are removed", path.display())]
    Crowded { path: PathBuf, max: usize },
    /// A file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Not a plain file: a directory, a pipe, a device.
    #[error("{} is not a plain file", path.display())]
    NotAFile { path: PathBuf },
    /// The content is none of the picture formats that are accepted.
    #[error("{} is not a picture in PNG, JPEG, BMP or TIFF format", path.display())]
    Format { path: PathBuf },
    /// The picture ends before its last pixel.
    #[error("{} is cut off before its end", path.display())]
    Truncated { path: PathBuf },
    /// The file or the picture in it is larger than what is accepted.
    #[error("{} is too large: {what}", path.display())]
    TooLarge { path: PathBuf, what: String },
    /// The content is damaged.
    #[error("cannot decode {}: {source}", path.display())]
    Decode { path: PathBuf, source: image::ImageError },
    /// The simulator was asked for a picture that it cannot render.
    #[error("the simulator cannot render {width}x{height} pixels, only {min} to {max} a side")]
    Size { width: usize, height: usize, min: usize, max: usize },
    /// Pictures of parts that hardware triggered, for which there was no room or which came broken; each
    /// is one part that nobody has seen. Told once.
    #[error("{count} pictures that hardware triggered were lost")]
    Lost { count: u64 },
    /// The device of a capture child gives no pictures.
    #[error("{reason}")]
    Device { reason: String },
}

/// Wakes and ends sources that wait. Clones share one state; once set it stays set.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Ends every source that holds a clone: their `next` returns `Ok(None)` soon.
    pub fn set(&self) {
        let (set, wake) = &*self.0;
        *set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// True once `set` was called.
    pub fn is_set(&self) -> bool {
        *self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `deadline` or until it is set, whichever comes first; returns whether it is set.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let (set, wake) = &*self.0;
        let mut guard = set.lock().unwrap_or_else(PoisonError::into_inner);
        while !*guard {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            guard = wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_wakes_a_waiting_thread() {
        let stop = Stop::default();
        let other = stop.clone();
        let far = Instant::now() + Duration::from_secs(3600);
        let waits = std::thread::spawn(move || other.wait_until(far));
        stop.set();
        assert!(waits.join().unwrap());
        assert!(stop.is_set());
    }

    #[test]
    fn a_deadline_that_has_passed_does_not_wait() {
        assert!(!Stop::default().wait_until(Instant::now()));
    }
}
