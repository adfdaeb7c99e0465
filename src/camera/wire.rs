//! The messages between a capture child and its supervisor; frames travel as payloads of [`FromCapture::Frame`].
//!
//! ```text
//! supervisor --Open, Take--> child                                            ToCapture
//! supervisor <--Opened, Alive, Frame, Missed, Lost, Ended, Fault-- child      FromCapture
//! ```

use super::device::Stamp;
use super::kind::Settings;
use super::picture::Condition;
use serde::{Deserialize, Serialize};

/// To the child.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToCapture {
    /// The first message, and only the first.
    Open(Box<Settings>),
    /// The next picture that was exposed at `after_ns` or later, or any; numbers rise. A new order takes the
    /// place of the one before it. At `by_ns` it is over, and dropped where it waits. Both are moments of
    /// `CLOCK_MONOTONIC` in nanoseconds.
    Take {
        /// Number of the order; the picture bears it.
        order: u64,
        /// `None`: any picture.
        after_ns: Option<u64>,
        /// `None`: never over.
        by_ns: Option<u64>,
    },
}

/// From the child.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum FromCapture {
    /// The device is open, and pictures can be ordered.
    Opened,
    /// Sent every `ALIVE_EVERY` while the device answers.
    Alive(Alive),
    /// One picture, 8-bit RGB in rows without gaps; the payload has `3 * width_px * height_px` bytes.
    Frame {
        /// The order that it answers; `None` when the device was triggered by hardware.
        order: Option<u64>,
        /// Pictures that came for the order and were exposed before it; they were forgotten.
        older: u64,
        /// Pixels a row.
        width_px: u32,
        /// Rows.
        height_px: u32,
        /// When it was exposed, as far as the device says.
        stamp: Stamp,
        /// As `Picture::number`.
        number: u64,
    },
    /// The exposure that this order made came broken: its part has no picture.
    Missed {
        /// Number of the order.
        order: u64,
        /// What is wrong with the picture, in words.
        reason: String,
    },
    /// Pictures that hardware triggered came broken, or not at all out of the driver.
    Lost {
        /// So many since the last message of this kind.
        count: u64,
    },
    /// A recording is over.
    Ended,
    /// The device failed; the child ends after it.
    Fault {
        /// The device's error in words.
        reason: String,
    },
}

/// What the child saw since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alive {
    /// Pictures read so far.
    pub pictures: u64,
    /// Of the newest picture's bytes: a stuck camera sends the same one again and again.
    pub checksum: u32,
    /// No picture is due: the device waits for its trigger or for an order.
    pub idle: bool,
    /// Of the newest picture, when one came since the last message.
    pub condition: Option<Condition>,
}
