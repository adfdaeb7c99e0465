//! Cameras: where frames come from.
//!
//! ```text
//! daemon: trigger --> Source::next --> Frame --> queue
//!                         |
//!        +----------------+----------------+---------------------------+
//!        |                |                                            |
//! folder: files     simulator: parts with known truth     supervisor: a capture child
//!                                                                      | Unix socket
//!                                                         child: v4l2, stream, genicam
//! ```
//!
//! Each kind of camera is a file in [`kind`]. Between a source and its trigger stands [`clip`], which collects the
//! pictures of a clip where the pipeline asks for one.
//!
//! What can hang or crash, drivers and network streams, lives in a child process (`inspectd capture`).
//! `folder` and `simulator` are our own code on files and numbers and stay in the process.
//!
//! A source runs on a thread of its own and may block in `take`; a [`Stop`] wakes it. The caller paces
//! it and decides what happens to frames that nobody has room for. Which picture is of which triggered
//! part is decided in one place for all sources: [`window`].
//!
//! An error of `take` is about one picture, or about the source being unreachable for now: the caller
//! reports it and calls `take` again. `Ok(None)` is the end: nothing comes after it.

pub mod child;
pub(crate) mod clip;
pub mod decode;
pub mod device;
pub mod keyframe;
pub mod kind;
pub mod picture;
pub mod supervisor;
pub(crate) mod trigger;
pub mod window;
pub mod wire;

use crate::domain::frame::{Frame, Ticket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the line wants of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Only a picture that was exposed from this moment on: an earlier one shows another part. `None`: any.
    pub after: Option<Instant>,
    /// When to give up. `None`: wait as long as it takes.
    pub by: Option<Instant>,
}

impl Want {
    /// Any picture, in time.
    pub const fn by(by: Instant) -> Self {
        Self { after: None, by: Some(by) }
    }

    /// True once it is time to give up.
    pub fn is_over(&self) -> bool {
        self.by.is_some_and(|by| Instant::now() >= by)
    }
}

/// Where frames come from.
pub trait Source: Send {
    /// The next frame that is wanted, waiting for it if need be; `Ok(None)` when there will never be another.
    /// A frame's `captured` is its exposure. Sources discard what is older than `want.after` where they can
    /// tell, but the caller decides ([`window`]).
    ///
    /// # Errors
    /// One picture could not be had, or `Late`: none came by `want.by`; the next call goes on after it.
    fn take(&mut self, want: Want) -> Result<Option<Frame>, CameraError>;

    /// The next frame, whatever it is and however long it takes.
    ///
    /// # Errors
    /// One picture could not be had.
    fn next(&mut self) -> Result<Option<Frame>, CameraError> {
        self.take(Want::default())
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
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum CameraError {
    /// The directory of a folder source cannot be listed; reported once until it can be again.
    #[error("cannot list the directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    /// More files lie in the directory than are watched; reported once until there is room again.
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
    /// It can be decoded, and what comes out is not what the camera saw, or nobody knows whether it is.
    #[error("cannot use {}: {what}", path.display())]
    Unfit { path: PathBuf, what: String },
    /// The simulator was asked for a picture that it cannot render.
    #[error("the simulator cannot render {width}x{height} pixels, only {min} to {max} a side")]
    Size { width: usize, height: usize, min: usize, max: usize },
    /// Pictures of parts that hardware triggered, for which there was no room or which came broken; each
    /// is one part that nobody has seen. Reported once.
    #[error("{count} pictures that hardware triggered were lost")]
    Lost { count: u64 },
    /// The picture that was ordered of a device came broken.
    #[error("{origin}: {reason}")]
    Broken { origin: String, reason: String },
    /// A file of a watched directory, of which an inspection is owed from now on, is of no use.
    #[error("{error}")]
    BrokenFile { ticket: Option<Ticket>, error: Box<CameraError> },
    /// No picture came by the moment at which the caller gave up.
    #[error("no picture came in time")]
    Late,
    /// The device of a capture child gives no pictures.
    #[error("{reason}")]
    Device { reason: String },
}

impl CameraError {
    /// True when one picture, which somebody took of a part, is of no use, and the source goes on.
    pub const fn is_one_picture(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::NotAFile { .. }
                | Self::Format { .. }
                | Self::Truncated { .. }
                | Self::TooLarge { .. }
                | Self::Decode { .. }
                | Self::Broken { .. }
                | Self::BrokenFile { .. }
        )
    }

    /// The file that it is about.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::NotAFile { path }
            | Self::Format { path }
            | Self::Truncated { path }
            | Self::TooLarge { path, .. }
            | Self::Decode { path, .. }
            | Self::Unfit { path, .. } => Some(path),
            Self::BrokenFile { error, .. } => error.file(),
            _ => None,
        }
    }
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
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let far = Instant::now() + Duration::from_hours(1);
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
