//! Small pictures of what was inspected, for a sink that wants them: each behind its result, and never in its way.
//!
//! ```text
//! result acknowledged --> wanted (the newest few) --nothing in flight--> small copy, made on the blocking pool
//!                            '-- too many: the oldest is left out           '--nothing in flight--> image/{id}
//! ```
//!
//! A picture is not owed: one that finds no room, no connection or no file is left out. It is the picture without
//! boxes: a box would hide what it is around, and whoever draws it has it in the result.
//!
//! Invariants:
//! - A picture begins only when no message waits for its acknowledgement, one at a time and of at most
//!   [`IMAGE_BYTES_MAX`]: a result waits at most for the bytes of one.
//! - A broker that ends connections on pictures gets no more of them, so that they cost no results their connection.

use super::Driver;
use crate::pixels;
use crate::publish::mqtt::dialect::Message;
use crate::publish::mqtt::state::{Entry, Event, Phase, Side};
use crate::store::Store;
use crate::store::outbox::Kind;
use crate::store::proof::FileState;
use image::{ImageReader, Limits, RgbImage};
use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Longest picture that is published.
const IMAGE_BYTES_MAX: usize = 256 << 10;
/// A picture that is too long is tried with the next of these: by what its side is divided, and its quality.
const TRIES: [(u32, u8); 4] = [(1, 75), (1, 50), (2, 50), (4, 50)];
/// Results whose pictures wait.
const WANTED_MAX: usize = 4;
/// Connections in a row that end with a picture in flight, until no more are published.
const LOSSES_MAX: u32 = 3;
/// Limits of what is decoded; a camera's frame is far below.
const SIDE_PX_MAX: u32 = 16_384;
const DECODE_BYTES_MAX: u64 = 512 << 20;

/// An inspection's id, and its small picture as JPEG. `None`: no picture is kept of it.
pub(super) type Made = Result<Option<(String, Vec<u8>)>, String>;

/// The pictures of one sink.
pub(super) struct Images {
    /// Longer side of a small picture.
    side_px: u32,
    /// Numbers of the results that are read and not acknowledged, by their places in the outbox.
    numbers: BTreeMap<u64, u64>,
    /// Numbers of results whose pictures wait.
    wanted: VecDeque<u64>,
    making: Option<JoinHandle<Made>>,
    made: Option<Message>,
    /// What the machine was told of, until it is published.
    next: Option<Vec<u8>>,
    in_flight: bool,
    losses: u32,
    /// That a picture is longer than the broker takes was said on this connection.
    said: bool,
}

impl Images {
    pub(super) const fn new(side_px: u32) -> Self {
        Self {
            side_px,
            numbers: BTreeMap::new(),
            wanted: VecDeque::new(),
            making: None,
            made: None,
            next: None,
            in_flight: false,
            losses: 0,
            said: false,
        }
    }

    /// These results were read: their places and numbers.
    pub(super) fn read(&mut self, results: impl Iterator<Item = (u64, u64)>) {
        self.numbers.extend(results);
    }

    /// The result at this place is acknowledged.
    pub(super) fn acknowledged(&mut self, entry: Entry) {
        if entry.kind != Kind::Result {
            return;
        }
        let Some(seq) = self.numbers.remove(&entry.place) else { return };
        self.wanted.push_back(seq);
        if self.wanted.len() > WANTED_MAX {
            let left_out = self.wanted.pop_front();
            tracing::debug!(seq = left_out, "its picture is not published: newer ones wait");
        }
    }

    /// The payload of the picture that the machine publishes now.
    pub(super) fn publish(&mut self) -> Option<Vec<u8>> {
        self.in_flight = self.next.is_some();
        self.next.take()
    }

    /// The connection is gone. True: too many went with a picture in flight.
    fn lost(&mut self) -> bool {
        self.losses = if self.in_flight { self.losses + 1 } else { self.losses };
        self.numbers.clear();
        (self.made, self.next, self.in_flight, self.said) = (None, None, false, false);
        self.losses >= LOSSES_MAX
    }
}

/// Waits until a small picture is made.
pub(super) async fn made(images: &mut Option<Images>) -> Made {
    match images.as_mut().and_then(|images| images.making.as_mut()) {
        Some(task) => task.await.unwrap_or_else(|error| Err(error.to_string())),
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Takes a small picture that was made.
    pub(super) fn image_made(&mut self, made: Made) {
        let Some(images) = &mut self.images else { return };
        images.making = None;
        match made {
            Ok(Some((id, payload))) => {
                images.made = self.dialect.image_topic(&id).map(|topic| Message { topic, payload });
            }
            Ok(None) => {}
            Err(reason) => tracing::warn!(reason, "a picture is not published"),
        }
    }

    /// Goes on with what waits, when nothing else is in flight: see the module's header.
    pub(super) fn go_on_with_images(&mut self) {
        let idle = self.machine.phase() == Phase::Live && self.machine.unacknowledged() == 0;
        let Some(images) = self.images.as_mut().filter(|_| idle && !self.stopping) else { return };
        if std::mem::take(&mut images.in_flight) {
            images.losses = 0;
        }
        if images.next.is_some() {
            return;
        }
        if let Some(Message { topic, payload }) = images.made.take() {
            let (bytes, limit) = (payload.len(), self.packet_bytes_max);
            if super::fits(&topic, &payload, limit) {
                images.next = Some(payload);
                self.inbox.push_back(Event::Changed(Side::Image(topic)));
            } else if !std::mem::replace(&mut images.said, true) {
                tracing::warn!(topic, bytes, limit, "pictures are longer than the broker takes");
            }
        } else if images.making.is_none()
            && let Some(seq) = images.wanted.pop_front()
        {
            let (store, side_px) = (Arc::clone(&self.store), images.side_px);
            images.making = Some(tokio::task::spawn_blocking(move || make(&store, seq, side_px)));
        }
    }

    /// The connection is gone.
    pub(super) fn images_lost(&mut self) {
        if self.images.as_mut().is_some_and(Images::lost) {
            let sink = &self.options.sink;
            tracing::error!(
                sink,
                "no more pictures are published: {LOSSES_MAX} connections in a row ended on one"
            );
            self.images = None;
        }
    }
}

/// The small picture of a stored inspection.
fn make(store: &Store, seq: u64, side_px: u32) -> Made {
    let failed = |error: &dyn std::fmt::Display| format!("of inspection {seq}: {error}");
    // Retention may have removed either meanwhile.
    let Some(stored) = store.get(seq).map_err(|e| failed(&e))? else { return Ok(None) };
    let Some(picture) = stored.image else { return Ok(None) };
    let path = match store.picture_file(&picture.image.sha256) {
        FileState::Whole(path) => path,
        FileState::Missing => return Ok(None),
        FileState::Wrong { reason } => return Err(failed(&reason)),
    };
    let whole = decode(&path).map_err(|e| failed(&e))?;
    let jpeg = small(&whole, side_px).map_err(|e| failed(&e))?;
    Ok(Some((stored.inspection.id, jpeg)))
}

fn decode(path: &Path) -> Result<RgbImage, image::ImageError> {
    let mut reader = ImageReader::new(BufReader::new(std::fs::File::open(path)?)).with_guessed_format()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_PX_MAX), Some(SIDE_PX_MAX));
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    Ok(reader.decode()?.into_rgb8())
}

/// A picture whose longer side has at most so many pixels, as JPEG of at most [`IMAGE_BYTES_MAX`].
fn small(picture: &RgbImage, side_px: u32) -> Result<Vec<u8>, String> {
    let (width, height) = picture.dimensions();
    for (divisor, quality) in TRIES {
        let scale = (f64::from(side_px / divisor) / f64::from(width.max(height).max(1))).min(1.0);
        let side = |px: u32| ((f64::from(px) * scale).round() as u32).max(1);
        let small = pixels::shrink(picture, side(width), side(height)).ok_or("it has no pixels")?;
        let jpeg = pixels::jpeg(&small, quality).map_err(|e| e.to_string())?;
        if jpeg.len() <= IMAGE_BYTES_MAX {
            return Ok(jpeg);
        }
    }
    Err(format!("it is longer than {IMAGE_BYTES_MAX} bytes however it is written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst that a JPEG can hold.
    fn noise(side: u32) -> RgbImage {
        let mut state = 1u32;
        RgbImage::from_fn(side, side, |_, _| {
            image::Rgb([0; 3].map(|_: u8| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        })
    }

    #[test]
    fn a_small_picture_has_its_size_and_its_bytes() {
        let wide = RgbImage::from_pixel(800, 200, image::Rgb([9, 9, 9]));
        let size = |jpeg: &[u8]| {
            let reader = image::ImageReader::new(std::io::Cursor::new(jpeg)).with_guessed_format().unwrap();
            reader.into_dimensions().unwrap()
        };
        assert_eq!(size(&small(&wide, 320).unwrap()), (320, 80));
        assert_eq!(size(&small(&wide, 1024).unwrap()), (800, 200), "none is made larger");
        let loud = small(&noise(1024), 1024).unwrap();
        assert!(loud.len() <= IMAGE_BYTES_MAX && size(&loud).0 >= 256, "{} bytes", loud.len());
    }

    #[test]
    fn the_newest_few_wait_and_only_those_of_results() {
        let mut images = Images::new(320);
        images.read((1..=9).map(|place| (place, 100 + place)));
        images.acknowledged(Entry { kind: Kind::Review, place: 1 });
        assert!(images.wanted.is_empty());
        (1..=9).for_each(|place| images.acknowledged(Entry { kind: Kind::Result, place }));
        assert_eq!(images.wanted, [106, 107, 108, 109]);
        images.acknowledged(Entry { kind: Kind::Result, place: 9 });
        assert_eq!(images.wanted.len(), WANTED_MAX, "once each");
    }

    #[test]
    fn connections_that_end_on_pictures_end_the_pictures() {
        let mut images = Images::new(320);
        let mut ends_on_one = |in_flight: bool| {
            images.next = in_flight.then(Vec::new);
            let _ = images.publish();
            images.lost()
        };
        assert!(!ends_on_one(true) && !ends_on_one(true));
        assert!(!ends_on_one(false), "this one ended without");
        assert!(ends_on_one(true));
    }
}
