//! A source that renders parts of one product, with known truth.
//!
//! ```text
//! part 0 --> Frame + truth --> part 1 --> … --> part count - 1 --> None
//! ```
//!
//! A clip of it (see `clip`) shows successive parts, as a belt that moves between two exposures does.
//!
//! The frame's trigger says what a line would know about the part: its serial and its lot. The
//! frame's origin, `simulator:PRODUCT:SEED:I`, names the part so that it can be rendered again.

use crate::camera::device::monotonic_ns;
use crate::camera::window::{Rule, Stamps};
use crate::camera::{CameraError, Source, Stop, Want};
use crate::document::{Section, Text, quoted};
use crate::domain::frame::{Frame, Trigger};
use crate::simulator::{self, FrameTruth, Product};
use image::RgbImage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The keys of a simulated camera.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// All its parts share one design.
    pub product: &'static Product,
    /// Number of the first part; the same seed gives the same parts.
    pub seed: u64,
    /// Parts until the source ends; `None`: no end.
    pub count: Option<u64>,
    pub width_px: u32,
    pub height_px: u32,
}

impl Config {
    /// Reads its keys.
    pub(super) fn read(section: &Section<'_>) -> Self {
        Self {
            product: product(section),
            seed: section.get("seed").unwrap_or(1),
            count: section.ranged("count", 1..=1_000_000_000),
            width_px: section.ranged("width_px", 64..=8192).unwrap_or(2448),
            height_px: section.ranged("height_px", 64..=8192).unwrap_or(2048),
        }
    }

    /// Writes its keys, defaults filled in.
    pub(super) fn write(&self, out: &mut Text) {
        out.pair("product", quoted(self.product.name()));
        out.pair("seed", self.seed);
        out.some("count", self.count);
        out.pair("width_px", self.width_px);
        out.pair("height_px", self.height_px);
    }

    /// The order itself makes the picture.
    pub(super) const fn rule() -> Rule {
        Rule { within: None, on_its_way: Duration::from_secs(1), stamps: Stamps::Order }
    }

    /// The camera with this id, before its first part.
    ///
    /// # Errors
    /// A size that the simulator cannot render.
    pub(crate) fn open(&self, camera: &str, stop: Stop) -> Result<Simulator, CameraError> {
        let settings = Settings {
            camera: camera.to_owned(),
            product: self.product,
            seed: self.seed,
            width: self.width_px as usize,
            height: self.height_px as usize,
            count: self.count,
            interval: None,
        };
        Simulator::new(settings, stop)
    }
}

/// A product of the simulator by its name.
fn product(section: &Section<'_>) -> &'static Product {
    let default = &Product::ALL[0];
    let Some(name) = section.get::<String>("product") else { return default };
    Product::by_name(&name).unwrap_or_else(|| {
        let known: Vec<_> = Product::ALL.iter().map(Product::name).collect();
        section.problem("product", format!("there is no such product; there are {}", known.join(", ")));
        default
    })
}

/// What a simulated camera takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `id` of the camera in the config.
    pub camera: String,
    /// The design that all parts share.
    pub product: &'static Product,
    /// Same seed, same parts.
    pub seed: u64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// How many parts; `None` for no end.
    pub count: Option<u64>,
    /// Time from one exposure to the next; `None` when the caller paces.
    pub interval: Option<Duration>,
}

/// Renders the parts of one product, one after the other.
pub struct Simulator {
    settings: Settings,
    stop: Stop,
    next_i: u64,
    /// When the next part stands before the camera.
    due: Option<Instant>,
}

impl Simulator {
    /// A camera before its first part.
    ///
    /// # Errors
    /// A size that the simulator cannot render.
    pub fn new(settings: Settings, stop: Stop) -> Result<Simulator, CameraError> {
        let (width, height) = (settings.width, settings.height);
        let (min, max) = (simulator::SIDE_MIN_PX, simulator::SIDE_MAX_PX);
        if !(min..=max).contains(&width) || !(min..=max).contains(&height) {
            return Err(CameraError::Size { width, height, min, max });
        }
        Ok(Simulator { settings, stop, next_i: 0, due: None })
    }

    /// The next part with what is really on it; `None` at the end or when stopped.
    ///
    /// # Errors
    /// None today; the signature is that of [`Source::take`].
    pub fn next_with_truth(&mut self) -> Result<Option<(Frame, FrameTruth)>, CameraError> {
        let s = &self.settings;
        let i = self.next_i;
        if s.count.is_some_and(|count| i >= count) || self.stop.is_set() {
            return Ok(None);
        }
        let (rgb, truth) = simulator::part(s.product, s.seed, i, s.width, s.height);
        // The part is rendered while it is on its way, so that the interval holds from exposure to exposure.
        if let Some(interval) = s.interval {
            let due = self.due.unwrap_or_else(Instant::now);
            if self.stop.wait_until(due) {
                return Ok(None);
            }
            // A caller that was away for long does not get the missed parts in a burst.
            self.due = Some(due.max(Instant::now().checked_sub(interval).unwrap_or(due)) + interval);
        }
        self.next_i += 1;
        let frame = frame(s, i, rgb, &truth);
        Ok(Some((frame, truth)))
    }
}

/// The frame of part `i` as a line would hand it over.
fn frame(s: &Settings, i: u64, rgb: Vec<u8>, truth: &FrameTruth) -> Frame {
    let (width, height) = (s.width as u32, s.height as u32);
    let pixels =
        RgbImage::from_raw(width, height, rgb).expect("the simulator returns three bytes for every pixel");
    Frame {
        camera: s.camera.clone(),
        pixels: Arc::new(pixels),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: Some(Duration::from_nanos(monotonic_ns())),
        clip: vec![],
        trigger: Trigger {
            part_id: Some(truth.part_id.clone()),
            lot: truth.lot.clone(),
            expected: BTreeMap::from([("serial".to_string(), truth.part_id.clone())]),
            ..Trigger::default()
        },
        origin: format!("simulator:{}:{}:{i}", s.product.name(), s.seed),
        replayed: false,
    }
}

impl Source for Simulator {
    /// The part is rendered when it is asked for, so that it is never older than its order.
    fn take(&mut self, want: Want) -> Result<Option<Frame>, CameraError> {
        if want.is_over() {
            return Err(CameraError::Late);
        }
        Ok(self.next_with_truth()?.map(|(frame, _)| frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(count: Option<u64>) -> Settings {
        Settings {
            camera: "cam1".into(),
            product: Product::by_name("machined-plate").unwrap(),
            seed: 7,
            width: 160,
            height: 128,
            count,
            interval: None,
        }
    }

    #[test]
    fn parts_come_in_order_and_end() {
        let mut source = Simulator::new(settings(Some(2)), Stop::default()).unwrap();
        for i in 0..2 {
            let (frame, truth) = source.next_with_truth().unwrap().unwrap();
            assert_eq!(frame.origin, format!("simulator:machined-plate:7:{i}"));
            assert_eq!(frame.trigger.part_id.as_ref(), Some(&truth.part_id));
            assert_eq!(frame.trigger.expected["serial"], truth.part_id);
            assert_eq!(frame.trigger.lot, truth.lot);
            assert_eq!(frame.pixels.dimensions(), (160, 128));
        }
        assert!(source.next().unwrap().is_none());
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn a_stop_ends_an_endless_source_and_its_wait() {
        let stop = Stop::default();
        let hour = Some(Duration::from_hours(1));
        let mut source = Simulator::new(Settings { interval: hour, ..settings(None) }, stop.clone()).unwrap();
        assert!(source.next().unwrap().is_some(), "the first part does not wait");
        stop.set();
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn an_interval_does_not_lose_parts() {
        let fast = Some(Duration::from_millis(1));
        let mut source =
            Simulator::new(Settings { interval: fast, ..settings(Some(3)) }, Stop::default()).unwrap();
        let mut n = 0;
        while source.next().unwrap().is_some() {
            n += 1;
        }
        assert_eq!(n, 3);
    }

    #[test]
    fn a_size_out_of_range_is_refused() {
        let error = Simulator::new(Settings { width: 4, ..settings(None) }, Stop::default()).err().unwrap();
        assert!(error.to_string().contains("4x128"), "{error}");
    }
}
