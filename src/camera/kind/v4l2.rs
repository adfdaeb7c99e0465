//! V4L2 through nokhwa: USB cameras and capture cards.

use super::cable::{self, size};
use super::common::{DeviceKind, Found, TEXT_CHARS_MAX, Usual};
use crate::camera::decode::camera_jpeg;
use crate::camera::device::{BROKEN_MAX, Device, DeviceError, Picture, Reading, Stamp};
use crate::document::{Section, Text, path, quoted};
use image::RgbImage;
use nokhwa::pixel_format::RgbFormat;
use nokhwa::utils::{
    ApiBackend, CameraFormat, CameraIndex, ControlValueDescription, ControlValueSetter, FrameFormat,
    RequestedFormat, RequestedFormatType, Resolution,
};
use nokhwa::{Buffer, Camera, FormatDecoder as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Frames a second where the settings name no rate.
const FPS_DEFAULT: u32 = 30;

/// Which device, and how it is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `/dev/video0` or a link to one, as in `/dev/v4l/by-id`.
    pub device: PathBuf,
    /// Pixels; the device's highest resolution when either is absent.
    pub width_px: Option<u32>,
    /// Pixels, as `width_px`.
    pub height_px: Option<u32>,
    /// Pictures a second, or what the device has nearest; `None`: 30.
    pub fps: Option<u32>,
    /// Name of the control, as `inspectd cameras` prints it, and its value.
    pub controls: BTreeMap<String, i64>,
}

impl Settings {
    /// Reads its keys.
    pub(super) fn read(section: &Section<'_>) -> Self {
        let (width_px, height_px) = size(section);
        Self {
            device: section.required_text("device", TEXT_CHARS_MAX).into(),
            width_px,
            height_px,
            fps: section.ranged("fps", 1..=1000),
            controls: section.integers("controls"),
        }
    }
}

impl DeviceKind for Settings {
    fn write(&self, out: &mut Text) {
        let Self { device, width_px, height_px, fps, controls } = self;
        out.pair("device", path(device));
        out.some("width_px", *width_px);
        out.some("height_px", *height_px);
        out.some("fps", *fps);
        if !controls.is_empty() {
            let pairs = controls.iter().map(|(name, value)| format!("{} = {value}", quoted(name)));
            out.pair("controls", format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", ")));
        }
    }

    /// A webcam's picture is stamped with its end.
    fn usual(&self) -> Usual {
        cable::usual(1_000_u32.div_ceil(self.fps.unwrap_or(FPS_DEFAULT)))
    }

    fn size(&self) -> Option<(u32, u32)> {
        self.width_px.zip(self.height_px)
    }

    fn is_there(&self) -> Option<bool> {
        Some(self.device.exists())
    }

    fn open(&self) -> Result<Box<dyn Device>, DeviceError> {
        open(self)
    }
}

struct V4l2 {
    camera: Camera,
    what: String,
    number: u64,
    /// Broken pictures in a row.
    broken: u32,
}

/// Opens a device node, sets its format and controls, and starts the stream.
fn open(settings: &Settings) -> Result<Box<dyn Device>, DeviceError> {
    let Settings { device, width_px, height_px, fps, controls } = settings;
    let what = device.display().to_string();
    let refused = |reason: String| DeviceError::Open { what: what.clone(), reason };
    let setting =
        |setting: String, reason: String| DeviceError::Setting { what: what.clone(), setting, reason };
    let index = node_index(device).map_err(refused)?;
    // Only an open device tells its formats; this first one is any that can be read.
    let any = RequestedFormat::new::<RgbFormat>(RequestedFormatType::None);
    let mut camera = Camera::with_backend(CameraIndex::Index(index), any, ApiBackend::Video4Linux)
        .map_err(|e| refused(e.to_string()))?;
    let size = width_px.zip(*height_px).map(|(width, height)| Resolution::new(width, height));
    let formats = camera.compatible_camera_formats().map_err(|e| refused(e.to_string()))?;
    let format = choose(&formats, size, fps.unwrap_or(FPS_DEFAULT)).ok_or_else(|| {
        let wanted =
            size.map_or_else(|| "any size".into(), |s| format!("{}x{} pixels", s.width(), s.height()));
        setting(wanted, format!("it has {}", sizes(&formats)))
    })?;
    camera
        .set_camera_requset(RequestedFormat::new::<RgbFormat>(RequestedFormatType::Exact(format)))
        .map_err(|e| setting(format.to_string(), e.to_string()))?;
    for (name, value) in controls {
        set(&mut camera, name, *value).map_err(|reason| setting(format!("{name} = {value}"), reason))?;
    }
    camera.open_stream().map_err(|e| refused(e.to_string()))?;
    tracing::info!(device = %what, %format, "V4L2 stream open");
    Ok(Box::new(V4l2 { camera, what, number: 0, broken: 0 }))
}

/// What comes nearest to the size (the largest when none is asked for) and the rate: the rate before the kind
/// of format, because many cameras give large pictures fast only as JPEG, and raw pixels before JPEG.
fn choose(formats: &[CameraFormat], size: Option<Resolution>, fps: u32) -> Option<CameraFormat> {
    let readable = |f: &&CameraFormat| RgbFormat::FORMATS.contains(&f.format());
    let area = |r: Resolution| u64::from(r.width()) * u64::from(r.height());
    let size = size.or_else(|| {
        formats
            .iter()
            .filter(readable)
            .map(CameraFormat::resolution)
            .max_by_key(|resolution| area(*resolution))
    })?;
    let distance = |f: &&CameraFormat| (f.frame_rate().abs_diff(fps), f.format() == FrameFormat::MJPEG);
    formats.iter().filter(readable).filter(|f| f.resolution() == size).min_by_key(distance).copied()
}

/// The sizes of a device, for a person who asked for another.
fn sizes(formats: &[CameraFormat]) -> String {
    let sizes: BTreeSet<_> = formats.iter().map(|f| (f.width(), f.height())).collect();
    let words: Vec<_> = sizes.iter().map(|(width, height)| format!("{width}x{height}")).collect();
    words.join(", ")
}

/// The number of the node that a path means in the end: links in `/dev/v4l/by-id` do not move when
/// cameras are plugged in another order.
fn node_index(path: &Path) -> Result<u32, String> {
    let node = std::fs::canonicalize(path).map_err(|e| e.to_string())?;
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.strip_prefix("video").and_then(|digits| digits.parse().ok());
    digits.ok_or_else(|| format!("{} is no /dev/video node", node.display()))
}

/// Sets a control by its name, without regard to case.
fn set(camera: &mut Camera, name: &str, value: i64) -> Result<(), String> {
    let controls = camera.camera_controls().map_err(|e| e.to_string())?;
    let Some(control) = controls.iter().find(|c| c.name().eq_ignore_ascii_case(name)) else {
        let known: Vec<_> = controls.iter().map(|c| c.name().to_owned()).collect();
        return Err(format!("there is no such control; there are {}", known.join(", ")));
    };
    let setter = match control.description() {
        ControlValueDescription::Boolean { .. } => ControlValueSetter::Boolean(value != 0),
        _ => ControlValueSetter::Integer(value),
    };
    camera.set_camera_control(control.control(), setter).map_err(|e| e.to_string())
}

impl Device for V4l2 {
    /// nokhwa sets no timeout: a stuck driver hangs here, and the supervisor ends the process.
    fn next(&mut self, _wait: Duration) -> Result<Reading, DeviceError> {
        let read = |reason: String| DeviceError::Read { what: self.what.clone(), reason };
        let buffer = self.camera.frame().map_err(|e| read(e.to_string()))?;
        let now = Stamp::now();
        let wall = buffer.capture_timestamp().map(|at| UNIX_EPOCH + at);
        let age = wall.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        self.number += 1;
        let pixels = match decode(&buffer) {
            Ok(pixels) => pixels,
            Err(reason) => {
                self.broken += 1;
                tracing::warn!(device = %self.what, reason, "a broken picture");
                if self.broken > BROKEN_MAX {
                    return Err(read(format!("{} pictures in a row were broken: {reason}", self.broken)));
                }
                return Ok(Reading::Late);
            }
        };
        self.broken = 0;
        Ok(Reading::Picture(Picture { pixels, stamp: now.back(age), number: self.number }))
    }
}

/// The pixels of a buffer. JPEG is decoded here: nokhwa's own decoder fills what is missing, and would bring a C
/// library along.
fn decode(buffer: &Buffer) -> Result<RgbImage, String> {
    match buffer.source_frame_format() {
        FrameFormat::MJPEG => camera_jpeg(buffer.buffer()),
        _ => buffer.decode_image::<RgbFormat>().map_err(|e| e.to_string()),
    }
}

/// What `inspectd cameras` prints.
pub(super) fn found() -> Vec<Found> {
    let found = |(node, name, details): (PathBuf, String, Vec<String>)| {
        let mut text = format!("v4l2     device = {:?}   {name}", node.display().to_string());
        details.iter().for_each(|line| text.push_str(&format!("\n           {line}")));
        Found { json: serde_json::json!({"device": node, "name": name, "details": details}), text }
    };
    list().into_iter().map(found).collect()
}

/// Nodes with their names, links and, where they can be opened,
/// formats and controls.
pub fn list() -> Vec<(PathBuf, String, Vec<String>)> {
    let cameras = nokhwa::query(ApiBackend::Video4Linux).unwrap_or_default();
    let describe = |camera: &nokhwa::utils::CameraInfo| {
        let index = camera.index().as_index().ok()?;
        let node = PathBuf::from(format!("/dev/video{index}"));
        Some((node.clone(), camera.human_name(), details(index, &node)))
    };
    cameras.iter().filter_map(describe).collect()
}

fn details(index: u32, node: &Path) -> Vec<String> {
    let mut lines: Vec<String> = std::fs::read_dir("/dev/v4l/by-id")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|link| std::fs::canonicalize(link.path()).is_ok_and(|to| to == node))
        .map(|link| format!("link {}", link.path().display()))
        .collect();
    let format = RequestedFormat::new::<RgbFormat>(RequestedFormatType::AbsoluteHighestResolution);
    match Camera::with_backend(CameraIndex::Index(index), format, ApiBackend::Video4Linux) {
        Ok(mut camera) => {
            let mut formats = camera.compatible_camera_formats().unwrap_or_default();
            formats.sort_by_key(|f| (f.format().to_string(), f.width(), f.height(), f.frame_rate()));
            lines.extend(formats.iter().map(|format| format!("format {format}")));
            let controls = camera.camera_controls().unwrap_or_default();
            lines.extend(controls.iter().map(|c| format!("control {:?}: {}", c.name(), c.description())));
        }
        Err(error) => lines.push(format!("cannot be opened: {error}")),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{choose, decode, node_index, sizes};
    use image::{ImageFormat, Rgb, RgbImage};
    use nokhwa::Buffer;
    use nokhwa::utils::{CameraFormat, FrameFormat, Resolution};
    use std::path::Path;

    /// USB cameras leave the Huffman tables out of their JPEG pictures, because they are always the same.
    #[test]
    fn jpeg_is_read_without_its_huffman_tables() {
        let picture = RgbImage::from_fn(64, 32, |x, y| Rgb([x as u8 * 4, y as u8 * 8, 128]));
        let mut jpeg = std::io::Cursor::new(vec![]);
        picture.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let (jpeg, mut stripped, mut at) = (jpeg.into_inner(), vec![0xff, 0xd8], 2);
        // Segments up to the start of the scan: 0xff, kind, length in two bytes.
        while jpeg[at + 1] != 0xda {
            let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            if jpeg[at + 1] != 0xc4 {
                stripped.extend_from_slice(&jpeg[at..end]);
            }
            at = end;
        }
        stripped.extend_from_slice(&jpeg[at..]);
        assert!(stripped.len() + 400 < jpeg.len(), "there were tables");
        let read = |bytes: &[u8]| decode(&Buffer::new(Resolution::new(64, 32), bytes, FrameFormat::MJPEG));
        assert_eq!(read(&stripped).unwrap(), read(&jpeg).unwrap());
        assert!(read(&jpeg[..200]).is_err() && read(&jpeg[1..]).is_err() && read(&[]).is_err());
        let closed = |n: usize| [&stripped[..n], &[0xff, 0xd9]].concat();
        let scan = stripped.len() - 40;
        assert!(
            (scan..stripped.len() - 4).all(|n| read(&closed(n)).is_err()),
            "cut, and closed with an end marker"
        );
    }

    #[test]
    fn the_rate_comes_before_the_kind_of_format_and_the_size_is_never_another() {
        let format = |width, height, kind, fps| CameraFormat::new(Resolution::new(width, height), kind, fps);
        let formats = [
            format(640, 480, FrameFormat::MJPEG, 30),
            format(640, 480, FrameFormat::YUYV, 30),
            format(1920, 1080, FrameFormat::YUYV, 5),
            format(1920, 1080, FrameFormat::MJPEG, 30),
        ];
        let full = Some(Resolution::new(1920, 1080));
        assert_eq!(choose(&formats, Some(Resolution::new(640, 480)), 30), Some(formats[1]));
        assert_eq!(choose(&formats, full, 30), Some(formats[3]));
        assert_eq!(choose(&formats, full, 6), Some(formats[2]));
        assert_eq!(choose(&formats, None, 30), Some(formats[3]));
        assert_eq!(choose(&formats, Some(Resolution::new(641, 480)), 30), None);
        assert_eq!(choose(&[], None, 30), None);
        assert_eq!(sizes(&formats), "640x480, 1920x1080");
    }

    #[test]
    fn only_video_nodes_are_opened() {
        assert!(node_index(Path::new("/dev/null")).unwrap_err().contains("no /dev/video node"));
        assert!(node_index(Path::new("/dev/video-nowhere")).is_err());
    }
}
