//! One picture of one part, perhaps with those before it (a clip), and with what is known about the part when
//! it was taken.

use super::part::PartRef;
use image::RgbImage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Most pixels a side of a picture.
pub const SIDE_MAX_PX: u32 = 16_384;
/// Bits of a 16-bit sample that can be stated to carry the picture.
pub const DEPTH_BITS: std::ops::RangeInclusive<u32> = 9..=16;

/// One picture from one camera. Pixels are 8-bit RGB and shared, never copied.
#[derive(Clone, Debug)]
pub struct Frame {
    /// `id` of the camera in the config.
    pub camera: String,
    /// Of the size that the source delivers; 0 x 0 for a picture that never came.
    pub pixels: Arc<RgbImage>,
    /// Wall-clock time of the exposure, for the record.
    pub captured_at: SystemTime,
    /// Monotonic stamp of the exposure; deadlines and latencies count from here.
    pub captured: Instant,
    /// The exposure on the source's own clock, which is the film's for a recording; only differences mean
    /// something. `None`: the source has no clock, as a folder of files.
    pub exposed: Option<Duration>,
    /// The earlier pictures of its clip, oldest first; empty for a still.
    pub clip: Vec<ClipPicture>,
    /// What asked for it; the default for a picture that nobody triggered.
    pub trigger: Trigger,
    /// Where the picture came from (a file name, a simulator seed); for logs and `replay`.
    pub origin: String,
    /// True for a picture that comes from a recording, not from the line.
    pub replayed: bool,
}

/// An earlier picture of a clip.
#[derive(Clone, Debug)]
pub struct ClipPicture {
    /// As `Frame::pixels`, of the same size.
    pub pixels: Arc<RgbImage>,
    /// How long before the frame's own `pixels` it was exposed.
    pub before: Duration,
}

impl Frame {
    /// Stands for a picture that never came.
    pub fn without_picture(camera: &str, trigger: Trigger, captured_at: SystemTime) -> Self {
        Self {
            camera: camera.to_owned(),
            pixels: Arc::new(RgbImage::new(0, 0)),
            captured_at,
            captured: Instant::now(),
            exposed: None,
            clip: vec![],
            trigger,
            origin: "no picture".into(),
            replayed: false,
        }
    }
}

/// Number under which the acceptance of a trigger is noted until its inspection is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What asked for the picture, and what the line knows about the part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trigger {
    /// Id (ULID) that the station gives to an accepted trigger: answer, result and verdict about a part name it.
    /// `None`: nobody has triggered the picture, or the trigger is not accepted yet.
    pub id: Option<String>,
    /// Id that the line gives to the part: it is recorded and published, and changes no verdict.
    pub part_id: Option<String>,
    /// Lot or batch of the part, recorded and published as `part_id` is.
    pub lot: Option<String>,
    /// Values that `expect.from_trigger` of a text prompt may name, for example `serial`.
    pub expected: BTreeMap<String, String>,
    /// Echoed to whoever sent the trigger.
    pub correlation_id: Option<String>,
    /// What a client of OPC UA calls the measurement (`MeasId`): it comes back in the result, and nobody else reads it.
    pub meas_id: Option<String>,
    /// Overrides the pipeline's deadline; counted from the exposure.
    pub deadline: Option<Duration>,
    /// The part of which this is one view among several; boxed, because most pictures are no such view.
    pub part: Option<Box<PartRef>>,
    /// Of a trigger that the dispatcher has accepted; it ends with the commit of the inspection and is not stored there.
    pub ticket: Option<Ticket>,
}
