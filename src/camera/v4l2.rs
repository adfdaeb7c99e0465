//! V4L2 through nokhwa: USB cameras and capture cards.

use super::device::{Device, DeviceError, Kind, Picture, Reading, Stamp};
use nokhwa::pixel_format::RgbFormat;
use nokhwa::utils::{
    ApiBackend, CameraFormat, CameraIndex, ControlValueDescription, ControlValueSetter, FrameFormat,
    RequestedFormat, RequestedFormatType, Resolution,
};
use nokhwa::Camera;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Frames a second where the settings name a size and no rate.
const FPS_DEFAULT: u32 = 30;

struct V4l2 {
    camera: Camera,
    what: String,
    number: u64,
}

/// Opens a device node, sets its format and controls, and starts the stream.
///
/// # Errors
/// There is no such node, it is busy, or it refuses a setting.
pub fn open(kind: &Kind) -> Result<Box<dyn Device>, DeviceError> {
    let Kind::V4l2 { device, width_px, height_px, fps, controls } = kind else {
        return Err(DeviceError::Open { what: "V4L2".into(), reason: "these are no settings of it".into() });
    };
    let what = device.display().to_string();
    let refused = |reason: String| DeviceError::Open { what: what.clone(), reason };
    let index = node_index(device).map_err(refused)?;
    let wanted = match (width_px, height_px) {
        (Some(width), Some(height)) => RequestedFormatType::Closest(CameraFormat::new(
            Resolution::new(*width, *height),
            FrameFormat::YUYV,
            fps.unwrap_or(FPS_DEFAULT),
        )),
        _ => RequestedFormatType::AbsoluteHighestResolution,
    };
    let mut camera = Camera::with_backend(
        CameraIndex::Index(index),
        RequestedFormat::new::<RgbFormat>(wanted),
        ApiBackend::Video4Linux,
    )
    .map_err(|e| refused(e.to_string()))?;
    let got = camera.resolution();
    if let (Some(width), Some(height)) = (width_px, height_px) {
        if (got.width(), got.height()) != (*width, *height) {
            return Err(DeviceError::Setting {
                what,
                setting: format!("{width}x{height} pixels"),
                reason: format!("the nearest that it has is {got}"),
            });
        }
    }
    for (name, value) in controls {
        set(&mut camera, name, *value).map_err(|reason| DeviceError::Setting {
            what: what.clone(),
            setting: format!("{name} = {value}"),
            reason,
        })?;
    }
    camera.open_stream().map_err(|e| refused(e.to_string()))?;
    tracing::info!(device = %what, format = %camera.camera_format(), "V4L2 stream open");
    Ok(Box::new(V4l2 { camera, what, number: 0 }))
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
        let pixels = buffer.decode_image::<RgbFormat>().map_err(|e| read(e.to_string()))?;
        self.number += 1;
        Ok(Reading::Picture(Picture { pixels, stamp: now.back(age), number: self.number }))
    }
}

/// What `inspectd cameras` prints: nodes with their names, links and, where they can be opened,
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
    use super::node_index;
    use std::path::Path;

    #[test]
    fn only_video_nodes_are_opened() {
        assert!(node_index(Path::new("/dev/null")).unwrap_err().contains("no /dev/video node"));
        assert!(node_index(Path::new("/dev/video-nowhere")).is_err());
    }
}
