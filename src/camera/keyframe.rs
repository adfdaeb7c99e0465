//! Key frames: which pictures of a stream are worth the model's time.
//!
//! ```text
//! all        every picture
//! every_ms   the first picture, then none before so many milliseconds have passed
//! motion     a picture that differs from the last chosen one
//! sharpest   the sharpest picture of each window of so many milliseconds
//! ```
//!
//! Times are those of the exposures, so that a recording is cut as the live stream would have been.
//!
//! Invariant: what is chosen for an order was offered after it. The best picture of a window that an order
//! has not seen the end of is never kept for the next order, which is about another part.

use super::device::{DeviceError, Picture};
use super::picture::{Thumbnail, difference, sharpness, thumbnail};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A named policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Policy {
    /// Every picture.
    #[default]
    All,
    /// The first picture, then each that comes at least so many milliseconds after the last chosen one.
    EveryMs(u32),
    /// Mean difference of grey values from the last chosen picture, 0..255, at which one is chosen.
    Motion(f64),
    /// Length of the window in milliseconds.
    Sharpest(u32),
}

/// Chooses pictures of one stream.
pub struct KeyFrames {
    policy: Policy,
    /// Stamp of the picture that was chosen last, or with which the window began; nanoseconds.
    since_ns: Option<u64>,
    /// Of the picture that was chosen last.
    seen: Option<Thumbnail>,
    best: Option<(f64, Picture)>,
}

impl KeyFrames {
    /// Nothing chosen yet.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, since_ns: None, seen: None, best: None }
    }

    /// A new order begins: what was offered before belongs to nobody.
    pub fn begin(&mut self) {
        if matches!(self.policy, Policy::Sharpest(_)) {
            (self.since_ns, self.best) = (None, None);
        }
    }

    /// Offers the next picture; returns the one that is chosen now, if one is.
    ///
    /// # Errors
    /// The picture cannot be measured.
    pub fn offer(&mut self, picture: Picture) -> Result<Option<Picture>, DeviceError> {
        match self.policy {
            Policy::All => Ok(Some(picture)),
            Policy::EveryMs(ms) => Ok(self.every(picture, Duration::from_millis(ms.into()))),
            Policy::Motion(threshold) => self.motion(picture, threshold),
            Policy::Sharpest(ms) => self.sharpest(picture, Duration::from_millis(ms.into())),
        }
    }

    /// The best picture of a window that the stream's end has cut short.
    pub fn rest(&mut self) -> Option<Picture> {
        self.best.take().map(|(_, picture)| picture)
    }

    fn every(&mut self, picture: Picture, gap: Duration) -> Option<Picture> {
        let now = picture.stamp.monotonic_ns;
        let due = self.since_ns.is_none_or(|since| now.saturating_sub(since) >= gap.as_nanos() as u64);
        due.then(|| {
            self.since_ns = Some(now);
            picture
        })
    }

    fn motion(&mut self, picture: Picture, threshold: f64) -> Result<Option<Picture>, DeviceError> {
        let small = thumbnail(&picture.pixels)?;
        let moved = match &self.seen {
            Some(seen) => difference(seen, &small)? >= threshold,
            None => true,
        };
        if !moved {
            return Ok(None);
        }
        self.seen = Some(small);
        Ok(Some(picture))
    }

    fn sharpest(&mut self, picture: Picture, window: Duration) -> Result<Option<Picture>, DeviceError> {
        let now = picture.stamp.monotonic_ns;
        let score = sharpness(&picture.pixels)?;
        let since = *self.since_ns.get_or_insert(now);
        let over = now.saturating_sub(since) >= window.as_nanos() as u64;
        let chosen = if over { self.rest() } else { None };
        if over {
            self.since_ns = Some(now);
        }
        if self.best.as_ref().is_none_or(|(best, _)| score > *best) {
            self.best = Some((score, picture));
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Stamp;
    use super::*;
    use image::{Rgb, RgbImage};

    /// A picture at a time with stripes of this contrast.
    fn at(ms: u64, contrast: u8) -> Picture {
        let pixels =
            RgbImage::from_fn(64, 48, |x, _| Rgb([if (x / 4).is_multiple_of(2) { contrast } else { 0 }; 3]));
        let stamp = Stamp { monotonic_ns: ms * 1_000_000, unix_ns: 0 };
        Picture { pixels, stamp, number: ms }
    }

    #[test]
    fn an_order_never_gets_a_picture_from_before_it() {
        let mut key_frames = KeyFrames::new(Policy::Sharpest(100));
        let mut offer = |ms, contrast, begins: bool| {
            if begins {
                key_frames.begin();
            }
            key_frames.offer(at(ms, contrast)).unwrap().map(|p| p.number)
        };
        assert_eq!(offer(0, 90, true), None);
        assert_eq!(offer(50, 20, false), None);
        assert_eq!(offer(100, 200, false), Some(0), "the picture that ends the window is kept for the next");
        assert_eq!(offer(2_000, 10, true), None);
        assert_eq!(offer(2_050, 30, false), None);
        assert_eq!(offer(2_100, 10, false), Some(2_050), "and not for the next order");
    }

    fn chosen(policy: Policy, stream: &[(u64, u8)]) -> Vec<u64> {
        let mut key_frames = KeyFrames::new(policy);
        let mut numbers: Vec<u64> = stream
            .iter()
            .filter_map(|(ms, contrast)| key_frames.offer(at(*ms, *contrast)).unwrap())
            .map(|p| p.number)
            .collect();
        numbers.extend(key_frames.rest().map(|p| p.number));
        numbers
    }

    #[test]
    fn all_chooses_all() {
        assert_eq!(chosen(Policy::All, &[(0, 1), (10, 1), (20, 1)]), [0, 10, 20]);
    }

    #[test]
    fn every_leaves_the_gap() {
        let stream: Vec<_> = (0..10).map(|i| (i * 40, 0)).collect();
        assert_eq!(chosen(Policy::EveryMs(100), &stream), [0, 120, 240, 360]);
    }

    #[test]
    fn motion_chooses_what_differs_from_the_last_choice() {
        let stream = [(0, 100), (40, 100), (80, 102), (120, 160), (160, 161), (200, 100)];
        assert_eq!(chosen(Policy::Motion(10.0), &stream), [0, 120, 200]);
    }

    #[test]
    fn sharpest_chooses_the_best_of_each_window() {
        let stream = [(0, 20), (40, 90), (80, 30), (120, 10), (160, 40), (200, 200)];
        assert_eq!(chosen(Policy::Sharpest(100), &stream), [40, 200]);
    }
}
