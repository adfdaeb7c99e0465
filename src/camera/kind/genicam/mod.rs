//! GenICam through Aravis: GigE Vision and USB3 Vision.
//!
//! The acquisition is continuous. With a trigger, software or a line, the camera exposes when it is
//! triggered, and a pause is no fault; a lost control channel is one, at once.
//!
//! A picture's stamp is its exposure by the camera's own clock ([`clock`]), so that one that was long on its
//! way is not taken for a newer one.

mod clock;
mod pixels;

use super::cable::{self, size};
use super::common::{ANSWER, DeviceKind, Found, Usual};
use crate::camera::device::{BROKEN_MAX, Device, DeviceError, Picture, Reading, Stamp};
use crate::document::{Section, Text, quoted};
use aravis::prelude::*;
use aravis::{AcquisitionMode, Aravis, Buffer, BufferStatus, Camera, Stream};
use clock::CameraClock;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Buffers between the camera and us; more would only make pictures older.
const BUFFERS: usize = 4;
/// No picture waits longer than this in the library before it is taken: the supervisor ends a child that does not
/// take any.
const WAITED_MAX: Duration = Duration::from_mins(1);

/// How old a picture is when it gets its stamp, where the exposure is not known.
const UNKNOWN_EXPOSURE_MS: u32 = 20;
/// Where GigE Vision cameras listen.
const GVCP_PORT: u16 = 3956;
/// The discovery command of GigE Vision: key, acknowledge, `DISCOVERY_CMD`, no payload, id 1.
const GVCP_DISCOVERY: [u8; 8] = [0x42, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01];
/// Its answer's second word begins with `DISCOVERY_ACK`.
const GVCP_DISCOVERY_ACK: [u8; 2] = [0x00, 0x03];

/// Which camera, and how it is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// As Aravis names it (`inspectd cameras` prints it), or its address.
    pub name: String,
    /// Exposure time in microseconds; `None`: as the camera is set.
    pub exposure_us: Option<f64>,
    /// In the camera's own unit, mostly dB; `None`: as the camera is set.
    pub gain: Option<f64>,
    /// Pictures a second of a free-running camera; `None`: as the camera is set.
    pub fps: Option<f64>,
    /// Width of the region that is read out; `None`: as the camera is set.
    pub width_px: Option<u32>,
    /// Height of the region that is read out; `None`: as the camera is set.
    pub height_px: Option<u32>,
    /// Of the GenICam standard, for example `BayerRG8` or `Mono12p`; absent: as the camera is set.
    pub pixel_format: Option<String>,
    /// What makes the camera expose.
    pub trigger: Exposure,
}

/// What makes a GenICam camera expose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exposure {
    /// It exposes all the time.
    #[default]
    Free,
    /// A command of ours, one a picture.
    Software,
    /// A line of its connector, for example `Line1`; a picture without an order is a part.
    Line(String),
}

impl Settings {
    /// Reads its keys.
    pub(super) fn read(section: &Section<'_>) -> Self {
        let (width_px, height_px) = size(section);
        let line = section.text("line", 64);
        let trigger = match section.get::<String>("expose").as_deref() {
            None | Some("free") => Exposure::Free,
            Some("software") => Exposure::Software,
            Some("line") => Exposure::Line(line.clone().unwrap_or_else(|| "Line1".into())),
            Some(_) => {
                section.problem("expose", "must be one of free, software, line");
                Exposure::Free
            }
        };
        if line.is_some() && !matches!(trigger, Exposure::Line(_)) {
            section.problem("line", "only means something with expose = \"line\"");
        }
        Self {
            name: section.required_text("name", 256),
            exposure_us: section.ranged("exposure_us", 1.0..=60_000_000.0),
            gain: section.ranged("gain", 0.0..=1_000.0),
            fps: section.ranged("fps", 0.01..=10_000.0),
            width_px,
            height_px,
            pixel_format: section.text("pixel_format", 64),
            trigger,
        }
    }
}

impl DeviceKind for Settings {
    fn write(&self, out: &mut Text) {
        let Self { name, exposure_us, gain, fps, width_px, height_px, pixel_format, trigger } = self;
        out.pair("name", quoted(name));
        out.some("exposure_us", *exposure_us);
        out.some("gain", *gain);
        out.some("fps", *fps);
        out.some("width_px", *width_px);
        out.some("height_px", *height_px);
        out.some("pixel_format", pixel_format.as_deref().map(quoted));
        match trigger {
            Exposure::Free => out.pair("expose", quoted("free")),
            Exposure::Software => out.pair("expose", quoted("software")),
            Exposure::Line(line) => {
                out.pair("expose", quoted("line"));
                out.pair("line", quoted(line));
            }
        }
    }

    /// A camera that exposes on order, or by itself with a known exposure, is stamped with its first packet.
    fn usual(&self) -> Usual {
        cable::usual(match (&self.trigger, self.exposure_us) {
            (Exposure::Free, Some(us)) => (us / 1e3).ceil() as u32,
            (Exposure::Free, None) => UNKNOWN_EXPOSURE_MS,
            (Exposure::Software | Exposure::Line(_), _) => 0,
        })
    }

    fn size(&self) -> Option<(u32, u32)> {
        self.width_px.zip(self.height_px)
    }

    fn address(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }

    /// By a discovery, where the name is an address.
    fn is_there(&self) -> Option<bool> {
        let address = self.name.parse().ok()?;
        Some(answers_discovery(address).unwrap_or(false))
    }

    fn open(&self) -> Result<Box<dyn Device>, DeviceError> {
        open(self)
    }

    fn is_line_triggered(&self) -> bool {
        matches!(self.trigger, Exposure::Line(_))
    }
}

struct Genicam {
    camera: Camera,
    stream: Stream,
    what: String,
    trigger: Exposure,
    lost: Arc<AtomicBool>,
    broken: u32,
    /// Pictures for which the library had no buffer, as far as they were reported.
    underruns: u64,
    clock: CameraClock,
}

/// Connects to a camera, sets it and starts the acquisition.
fn open(settings: &Settings) -> Result<Box<dyn Device>, DeviceError> {
    let Settings { name, trigger, .. } = settings;
    let refused = |reason: String| DeviceError::Open { what: name.clone(), reason };
    // A second token in this process would say "already"; the library works all the same.
    let _ = Aravis::initialize();
    let camera = Camera::new(Some(name.as_str())).map_err(|e| refused(e.to_string()))?;
    set_all(&camera, settings)?;
    let stream = camera.create_stream().map_err(|e| refused(e.to_string()))?;
    let payload = camera.payload().map_err(|e| refused(e.to_string()))?;
    for _ in 0..BUFFERS {
        stream.push_buffer(Buffer::new_allocate(payload as usize));
    }
    let lost = Arc::new(AtomicBool::new(false));
    if let Some(device) = camera.device() {
        let lost = Arc::clone(&lost);
        device.connect_control_lost(move |_| lost.store(true, Ordering::Relaxed));
    }
    camera.start_acquisition().map_err(|e| refused(e.to_string()))?;
    let model = camera.model_name().map(|model| model.to_string()).unwrap_or_default();
    tracing::info!(camera = %name, model, "GenICam stream open");
    let (what, trigger) = (name.clone(), trigger.clone());
    Ok(Box::new(Genicam {
        camera,
        stream,
        what,
        trigger,
        lost,
        broken: 0,
        underruns: 0,
        clock: CameraClock::default(),
    }))
}

fn set_all(camera: &Camera, settings: &Settings) -> Result<(), DeviceError> {
    fn refusal<E: Display>(what: &str, setting: String, outcome: Result<(), E>) -> Result<(), DeviceError> {
        outcome.map_err(|e| DeviceError::Setting { what: what.to_owned(), setting, reason: e.to_string() })
    }
    let Settings { name, exposure_us, gain, fps, width_px, height_px, pixel_format, trigger } = settings;
    let set = |setting: String, outcome| refusal(name, setting, outcome);
    if let Some(format) = pixel_format {
        set(format!("pixel_format {format}"), camera.set_pixel_format_from_string(format))?;
    }
    if width_px.is_some() || height_px.is_some() {
        let side = |side: &Option<u32>| side.map_or(-1, |px| px as i32);
        set("width_px, height_px".into(), camera.set_region(-1, -1, side(width_px), side(height_px)))?;
    }
    set("continuous acquisition".into(), camera.set_acquisition_mode(AcquisitionMode::Continuous))?;
    if let Some(fps) = fps {
        set(format!("fps {fps}"), camera.set_frame_rate(*fps))?;
    }
    if let Some(exposure_us) = exposure_us {
        set(format!("exposure_us {exposure_us}"), camera.set_exposure_time(*exposure_us))?;
    }
    if let Some(gain) = gain {
        set(format!("gain {gain}"), camera.set_gain(*gain))?;
    }
    match trigger {
        Exposure::Free => set("free running".into(), camera.clear_triggers()),
        Exposure::Software => set("software trigger".into(), camera.set_trigger("Software")),
        Exposure::Line(line) => set(format!("trigger on {line}"), camera.set_trigger(line)),
    }
}

impl Genicam {
    fn take(&mut self, buffer: &Buffer) -> Result<Reading, DeviceError> {
        if buffer.status() != BufferStatus::Success {
            self.broken += 1;
            let reason = format!("a broken picture: {:?}", buffer.status());
            tracing::warn!(camera = %self.what, reason);
            if self.broken > BROKEN_MAX {
                let reason = format!("{} in a row, {reason}", self.broken);
                return Err(DeviceError::Read { what: self.what.clone(), reason });
            }
            return Ok(Reading::Broken(reason));
        }
        self.broken = 0;
        let (width, height) = (buffer.image_width().max(0) as u32, buffer.image_height().max(0) as u32);
        let format = buffer.image_pixel_format();
        let (start, bytes) = buffer.data();
        let data = if start.is_null() {
            &[][..]
        } else {
            // SAFETY: the buffer was popped from the stream, so that nobody writes to it until it is
            // pushed again, which is after this function.
            unsafe { std::slice::from_raw_parts(start, bytes) }
        };
        let pixels = pixels::rgb(data, width, height, format.raw());
        let pixels = pixels.map_err(|format| DeviceError::Format { what: self.what.clone(), format })?;
        let Some(arrival) = arrival(buffer.system_timestamp()) else {
            return Ok(Reading::Broken("this machine's clock jumped while the picture came".into()));
        };
        let exposed_ns = self.clock.stamp(buffer.timestamp(), arrival.monotonic_ns);
        let stamp = arrival.back(Duration::from_nanos(arrival.monotonic_ns - exposed_ns));
        Ok(Reading::Picture(Picture { pixels, stamp, number: buffer.frame_id() }))
    }
}

impl Genicam {
    /// Parts that found no buffer since the last call.
    fn overrun(&mut self) -> Option<u64> {
        if !self.pushes() {
            return None;
        }
        let (_, _, underruns) = self.stream.statistics();
        let count = underruns.saturating_sub(self.underruns);
        self.underruns = underruns;
        (count > 0).then_some(count)
    }
}

/// The moment at which the first packet of a picture came, from Aravis's wall-clock stamp; `None` when the wall
/// clock was set meanwhile.
fn arrival(unix_ns: u64) -> Option<Stamp> {
    let now = Stamp::now();
    let age = Duration::from_nanos(now.unix_ns.checked_sub(unix_ns)?);
    (age <= WAITED_MAX).then(|| now.back(age))
}

impl Device for Genicam {
    fn next(&mut self, wait: Duration) -> Result<Reading, DeviceError> {
        if self.lost.load(Ordering::Relaxed) {
            let reason = "the control channel is lost".into();
            return Err(DeviceError::Read { what: self.what.clone(), reason });
        }
        if let Some(count) = self.overrun() {
            return Ok(Reading::Lost(count));
        }
        let Some(buffer) = self.stream.timeout_pop_buffer(wait.as_micros() as u64) else {
            return Ok(if self.trigger == Exposure::Free { Reading::Late } else { Reading::Idle });
        };
        let picture = self.take(&buffer);
        self.stream.push_buffer(buffer);
        picture
    }

    fn expose(&mut self) -> Result<(), DeviceError> {
        if self.trigger != Exposure::Software {
            return Ok(());
        }
        let outcome = self.camera.software_trigger();
        outcome.map_err(|e| DeviceError::Read { what: self.what.clone(), reason: e.to_string() })
    }

    fn exposes_on_order(&self) -> bool {
        self.trigger == Exposure::Software
    }

    fn pushes(&self) -> bool {
        matches!(self.trigger, Exposure::Line(_))
    }
}

/// What `inspectd cameras` prints: id, address, and vendor with model of every camera that answers.
pub(super) fn found() -> Vec<Found> {
    let Ok(aravis) = Aravis::initialize() else { return vec![] };
    let text = |c: &std::ffi::CString| c.to_string_lossy().into_owned();
    let describe = |d: &aravis::DeviceInfo| {
        let (id, address) = (text(&d.id), text(&d.address));
        let what = format!("{} {} ({})", text(&d.vendor), text(&d.model), text(&d.protocol));
        Found {
            json: serde_json::json!({"name": id, "address": address, "what": what}),
            text: format!("genicam  name = {id:?}   {what}, address {address}"),
        }
    };
    aravis.get_device_list().iter().map(describe).collect()
}

/// Whether a GigE Vision camera at this address answers a discovery.
fn answers_discovery(address: IpAddr) -> std::io::Result<bool> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.connect((address, GVCP_PORT))?;
    socket.send(&GVCP_DISCOVERY)?;
    let mut answer = [0; 1024];
    let bytes = socket.recv(&mut answer)?;
    Ok(bytes >= 8 && answer[2..4] == GVCP_DISCOVERY_ACK)
}
