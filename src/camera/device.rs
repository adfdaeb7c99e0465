//! An open device, and what is read from it.
//!
//! ```text
//! Kind (`kind`) --open--> Device --next--> Picture | Idle | Late | Broken | Lost | Ended
//! ```
//!
//! A [`Device`] lives in a child process and may hang in any call: the supervisor kills the child then.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Broken pictures in a row, as after lost packets, before a camera counts as failed.
pub const BROKEN_MAX: u32 = 10;

/// One look at a device.
#[derive(Debug)]
pub enum Reading {
    /// A whole picture.
    Picture(Picture),
    /// Nothing came, and nothing had to: the device waits for its trigger.
    Idle,
    /// Nothing came, although it should have.
    Late,
    /// A picture came and is of no use, for this reason.
    Broken(String),
    /// Pictures that hardware triggered found no room in the driver.
    Lost(u64),
    /// A recording is over.
    Ended,
}

/// A picture as the device gave it.
#[derive(Debug)]
pub struct Picture {
    /// 8-bit RGB, in the device's size.
    pub pixels: RgbImage,
    /// When it was exposed or, where the device does not say, when it arrived.
    pub stamp: Stamp,
    /// Position in a recording, or the number that the device gave it.
    pub number: u64,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC`, which all processes share, in nanoseconds.
    pub monotonic_ns: u64,
    /// Since 1970, in nanoseconds.
    pub unix_ns: u64,
}

impl Stamp {
    /// This moment.
    pub fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { monotonic_ns: monotonic_ns(), unix_ns: unix.as_nanos() as u64 }
    }

    /// The moment that lies `age` back.
    #[must_use]
    pub fn back(self, age: Duration) -> Self {
        let age = age.as_nanos() as u64;
        Self {
            monotonic_ns: self.monotonic_ns.saturating_sub(age),
            unix_ns: self.unix_ns.saturating_sub(age),
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into a value that lives here; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Why a device gives no pictures.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum DeviceError {
    #[error("cannot open {what}: {reason}")]
    Open { what: String, reason: String },
    /// A setting that the device does not take.
    #[error("{what} refuses {setting}: {reason}")]
    Setting { what: String, setting: String, reason: String },
    #[error("cannot read from {what}: {reason}")]
    Read { what: String, reason: String },
    /// The program was built without what it takes.
    #[error("{what}: this build was made without the feature {feature}")]
    NotBuilt { what: String, feature: &'static str },
    /// The picture has a format that cannot be converted.
    #[error("{what} sends {format}, which is not supported")]
    Format { what: String, format: String },
}

/// An open device.
pub trait Device {
    /// The next picture, waiting for one about `wait` at most; a call may hang all the same.
    ///
    /// # Errors
    /// The device is of no use any more.
    fn next(&mut self, wait: Duration) -> Result<Reading, DeviceError>;

    /// Asks for one exposure; does nothing where pictures come by themselves.
    ///
    /// # Errors
    /// The device does not take the command.
    fn expose(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// True when each call of `expose` makes one exposure, so that a broken picture is that of an order.
    fn exposes_on_order(&self) -> bool {
        false
    }

    /// True for a recording: it is read only when a picture is wanted, so that none is lost.
    fn is_recording(&self) -> bool {
        false
    }

    /// True when a picture nobody ordered is a part, as with a hardware trigger.
    fn pushes(&self) -> bool {
        false
    }
}
