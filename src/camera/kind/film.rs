//! Whole films, for whom no line waits.

use super::common::DeviceKind as _;
use super::stream;
use crate::camera::device::{Device, DeviceError, Reading};
use image::RgbImage;
use std::path::Path;
use std::time::Duration;

/// How long a device may wait for a picture; a file has its pictures at once.
const LOOK: Duration = Duration::from_secs(1);

/// The pictures of a film, each with its time from that of the first one. Broken ones are left out.
pub(crate) struct Film {
    device: Box<dyn Device>,
    first_ns: Option<u64>,
}

impl Film {
    /// Opens a file.
    ///
    /// # Errors
    /// It is no video, or this build reads none.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
        Ok(Self { device: stream::Settings::film(path).open()?, first_ns: None })
    }
}

impl Iterator for Film {
    type Item = Result<(RgbImage, Duration), DeviceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.device.next(LOOK) {
                Ok(Reading::Picture(picture)) => {
                    let now_ns = picture.stamp.monotonic_ns;
                    let first_ns = *self.first_ns.get_or_insert(now_ns);
                    return Some(Ok((picture.pixels, Duration::from_nanos(now_ns.saturating_sub(first_ns)))));
                }
                Ok(Reading::Ended) => return None,
                Ok(Reading::Idle | Reading::Late | Reading::Broken(_) | Reading::Lost(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
