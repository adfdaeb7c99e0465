//! What each kind of device brings along.

use crate::camera::device::{Device, DeviceError};
use crate::camera::window::Rule;
use crate::document::Text;
use std::net::IpAddr;
use std::time::Duration;

/// Longest address of a device, in characters.
pub(super) const TEXT_CHARS_MAX: usize = 4096;
/// How long a device may take to answer a look.
pub(super) const ANSWER: Duration = Duration::from_millis(200);

/// The settings of one kind of device, and all that the station has to know of it.
pub(crate) trait DeviceKind {
    /// Writes its keys, defaults filled in.
    fn write(&self, out: &mut Text);

    /// What is usual for it.
    fn usual(&self) -> Usual;

    /// Whether a device that failed is there again, found out without opening it; `None` when there is no cheap way
    /// to tell, and waits run their course.
    fn is_there(&self) -> Option<bool>;

    /// Opens the device.
    ///
    /// # Errors
    /// It is not there, is somebody else's, or refuses a setting.
    fn open(&self) -> Result<Box<dyn Device>, DeviceError>;

    /// Width and height of its pictures, where its keys say them.
    fn size(&self) -> Option<(u32, u32)> {
        None
    }

    /// Its address in the network of the cameras, where it has one and its keys say it.
    fn address(&self) -> Option<IpAddr> {
        None
    }

    /// True when a line of the camera's connector makes every picture, each of a part.
    fn is_line_triggered(&self) -> bool {
        false
    }

    /// True for a recording: its pictures carry the times of the film, none is skipped, and it ends.
    fn is_recording(&self) -> bool {
        false
    }
}

/// What is usual for a kind of device, where the config says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    /// How old a picture is when it gets its stamp, in milliseconds.
    pub latency_ms: u32,
    /// The same picture again and again for so long is a fault, in milliseconds; 0: it is not looked for.
    pub frozen_after_ms: u32,
    /// How pictures are matched with triggers, without the latency.
    pub rule: Rule,
    /// How long the device may take to open by its own settings; zero: it has none.
    pub open: Duration,
}

/// A device that this machine sees, for `inspectd cameras`.
pub(crate) struct Found {
    pub json: serde_json::Value,
    /// Lines for people.
    pub text: String,
}

/// The build lacks what a key asks for.
pub(super) fn not_built(what: &str, feature: &str) -> String {
    format!("this build has no {what}: it was built without the feature {feature}")
}
