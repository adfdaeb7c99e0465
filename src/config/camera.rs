//! The `[[camera]]` keys of devices that a capture child opens, and how they are written back.

use super::effective::{Text, path, quoted};
use super::{TriggerConfig, TriggerOn};
use crate::address::shown;
use crate::camera::device::{Backend, Exposure, Kind};
use crate::camera::keyframe::Policy;
use crate::camera::picture::{Correction, Lens};
use crate::camera::window::{Rule, Stamps};
use crate::document::Section;
use std::collections::BTreeMap;

const TEXT_CHARS_MAX: usize = 4096;
const SIDE_PX_MAX: u32 = 16_384;

/// Whatever else would choose pictures, or ask for them, loses parts or finds none.
pub(super) const LINE_ALONE: &str =
    "a hardware trigger (expose = \"line\") makes each picture, and each is a part: nothing else may choose";

/// The sources that live in a capture child.
pub(super) const KINDS: [&str; 3] = ["v4l2", "opencv", "genicam"];

/// A camera whose device lives in a capture child.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    pub kind: Kind,
    pub key_frames: Policy,
    pub correction: Correction,
    /// From an exposure to the time stamp of its picture, in milliseconds.
    pub latency_ms: u32,
    /// A picture that is due and does not come for so long is a fault, in milliseconds.
    pub picture_timeout_ms: u32,
    /// The same picture again and again for so long is a fault; 0: it is not looked for.
    pub frozen_after_ms: u32,
    pub health: Health,
}

impl DeviceConfig {
    /// True when a line of the camera's connector makes every picture, each of a part.
    pub const fn is_line_triggered(&self) -> bool {
        matches!(&self.kind, Kind::Genicam { trigger: Exposure::Line(_), .. })
    }
}

/// When pictures are bad enough for an alarm; a limit that is absent is not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Variance of the Laplacian at 640 pixels of width.
    pub sharpness_min: Option<f64>,
    /// Mean grey value, 0..255.
    pub brightness_min: Option<f64>,
    /// Share of pixels at the upper end, 0..1.
    pub overexposed_max: Option<f64>,
}

/// Reads the keys of a device; `kind` is one of `KINDS`.
pub(super) fn read(kind: &str, section: &Section<'_>) -> DeviceConfig {
    let kind = match kind {
        "v4l2" => v4l2(section),
        "opencv" => opencv(section),
        _ => genicam(section),
    };
    let key_frames = key_frames(section.child("key_frames"));
    if key_frames != Policy::All && matches!(&kind, Kind::Genicam { trigger: Exposure::Line(_), .. }) {
        section.problem("key_frames", LINE_ALONE);
    }
    let still = matches!(kind, Kind::OpenCv { live: false, .. });
    DeviceConfig {
        latency_ms: section.ranged("latency_ms", 0..=10_000).unwrap_or_else(|| latency_ms(&kind)),
        kind,
        key_frames,
        correction: correction(section),
        picture_timeout_ms: section.ranged("picture_timeout_ms", 500..=600_000).unwrap_or(3_500),
        frozen_after_ms: section.ranged("frozen_after_ms", 0..=600_000).unwrap_or(if still {
            0
        } else {
            3_500
        }),
        health: health(section.child("health")),
    }
}

/// How old a picture is when it gets its stamp, where nobody has measured it: a camera that exposes on order, or by
/// itself with a known exposure, is stamped with its first packet, a webcam's picture with its end, and a network
/// stream's when it is decoded.
fn latency_ms(kind: &Kind) -> u32 {
    const UNKNOWN_EXPOSURE_MS: u32 = 20;
    const STREAM_MS: u32 = 250;
    const FPS: u32 = 30;
    match kind {
        Kind::Genicam { trigger: Exposure::Free, exposure_us, .. } => {
            exposure_us.map_or(UNKNOWN_EXPOSURE_MS, |us| (us / 1e3).ceil() as u32)
        }
        Kind::Genicam { .. } | Kind::OpenCv { live: false, .. } => 0,
        Kind::V4l2 { fps, .. } => 1_000_u32.div_ceil(fps.unwrap_or(FPS)),
        Kind::OpenCv { .. } => STREAM_MS,
    }
}

/// A trigger by command waits for one picture, so that a policy that gives none for a while, or one that is
/// shorter than its window, makes no sense with it.
pub(super) fn check_key_frames(section: &Section<'_>, policy: Policy, trigger: TriggerConfig, rule: Rule) {
    let within = rule.within.map_or(u128::MAX, |within| within.as_millis());
    // A recording waits for its orders, and none of its pictures is over.
    let on_command = trigger.on == TriggerOn::Command && rule.stamps == Stamps::Exposure;
    match policy {
        Policy::Motion(_) if on_command => {
            section.problem("key_frames", "motion may give no picture for a trigger: take all or sharpest");
        }
        Policy::EveryMs(_) if on_command => section.problem(
            "key_frames",
            "every gives no picture for a trigger that comes soon after another: take all",
        ),
        Policy::Sharpest(ms) if on_command && u128::from(ms) >= within => section
            .problem("key_frames", format!("sharpest looks for {ms} ms; exposed_within_ms allows {within}")),
        Policy::Sharpest(ms) if trigger.interval_ms.is_some_and(|interval| u64::from(ms) >= interval) => {
            let interval = trigger.interval_ms.unwrap_or_default();
            section
                .problem("key_frames", format!("sharpest looks for {ms} ms, and interval_ms is {interval}"));
        }
        _ => {}
    }
}

fn v4l2(section: &Section<'_>) -> Kind {
    let (width_px, height_px) = size(section);
    Kind::V4l2 {
        device: section.required_text("device", TEXT_CHARS_MAX).into(),
        width_px,
        height_px,
        fps: section.ranged("fps", 1..=1000),
        controls: section.integers("controls"),
    }
}

fn opencv(section: &Section<'_>) -> Kind {
    let words = Backend::ALL.map(Backend::as_str);
    let parse = |word: &str| Backend::ALL.into_iter().find(|b| b.as_str() == word);
    let url = section.required_text("url", TEXT_CHARS_MAX);
    let live = url.contains("://") || url.contains('!');
    Kind::OpenCv {
        backend: section.word("backend", parse, &words).unwrap_or(if url.contains('!') {
            Backend::Gstreamer
        } else {
            Backend::Ffmpeg
        }),
        live: section.get("live").unwrap_or(live),
        url,
        open_timeout_ms: section.ranged("open_timeout_ms", 100..=60_000).unwrap_or(4_000),
        read_timeout_ms: section.ranged("read_timeout_ms", 100..=60_000).unwrap_or(3_000),
    }
}

fn genicam(section: &Section<'_>) -> Kind {
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
    Kind::Genicam {
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

/// Width and height, which only mean something together.
fn size(section: &Section<'_>) -> (Option<u32>, Option<u32>) {
    let width = section.ranged("width_px", 16..=SIDE_PX_MAX);
    let height = section.ranged("height_px", 16..=SIDE_PX_MAX);
    if width.is_some() != height.is_some() && section.are_fine(&["width_px", "height_px"]) {
        section.problem("width_px", "width_px and height_px only mean something together");
    }
    (width, height)
}

fn key_frames(section: Section<'_>) -> Policy {
    let word = section.get::<String>("policy");
    let ms = section.ranged("ms", 10..=3_600_000);
    let threshold = section.ranged("threshold", 0.1..=255.0);
    let policy = match word.as_deref() {
        None | Some("all") => Policy::All,
        Some("every") => Policy::EveryMs(ms.unwrap_or(1_000)),
        Some("motion") => Policy::Motion(threshold.unwrap_or(8.0)),
        Some("sharpest") => Policy::Sharpest(ms.unwrap_or(1_000)),
        Some(_) => {
            section.problem("policy", "must be one of all, every, motion, sharpest");
            Policy::All
        }
    };
    if ms.is_some() && !matches!(policy, Policy::EveryMs(_) | Policy::Sharpest(_)) {
        section.problem("ms", "only means something with the policies every and sharpest");
    }
    if threshold.is_some() && !matches!(policy, Policy::Motion(_)) {
        section.problem("threshold", "only means something with the policy motion");
    }
    section.finish();
    policy
}

fn correction(section: &Section<'_>) -> Correction {
    let lens = section.child("lens");
    let calibration = lens.is_present().then(|| {
        let camera = lens.numbers("camera").and_then(|n| <[f64; 4]>::try_from(n).ok());
        let distortion = lens.numbers("distortion").unwrap_or_default();
        if camera.is_none_or(|c| c[0] <= 0.0 || c[1] <= 0.0) {
            lens.problem("camera", "must be four numbers [fx, fy, cx, cy] in pixels, fx and fy above 0");
        }
        if ![4, 5].contains(&distortion.len()) {
            lens.problem("distortion", "must be four or five numbers [k1, k2, p1, p2, k3]");
        }
        Lens { camera: camera.unwrap_or([1.0; 4]), distortion }
    });
    lens.finish();
    let white_balance = match section.get_text_or_numbers("white_balance") {
        None => None,
        Some(Ok(word)) if word == "auto" => Some(vec![]),
        Some(Err(gains)) if gains.len() == 3 && gains.iter().all(|g| (0.1..=10.0).contains(g)) => Some(gains),
        Some(_) => {
            section.problem(
                "white_balance",
                "must be \"auto\" or three gains [red, green, blue] from 0.1 to 10",
            );
            None
        }
    };
    Correction { lens: calibration, white_balance }
}

fn health(section: Section<'_>) -> Health {
    let health = Health {
        sharpness_min: section.ranged("sharpness_min", 0.0..=1e6),
        brightness_min: section.ranged("brightness_min", 0.0..=255.0),
        overexposed_max: section.ranged("overexposed_max", 0.0..=1.0),
    };
    section.finish();
    health
}

/// Writes the keys of a device, defaults filled in.
pub(super) fn write(device: &DeviceConfig, out: &mut Text) {
    fn some<T: std::fmt::Display>(out: &mut Text, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            out.pair(key, value);
        }
    }
    match &device.kind {
        Kind::V4l2 { device, width_px, height_px, fps, controls } => {
            out.pair("source", quoted("v4l2"));
            out.pair("device", path(device));
            some(out, "width_px", width_px.as_ref());
            some(out, "height_px", height_px.as_ref());
            some(out, "fps", fps.as_ref());
            if !controls.is_empty() {
                out.pair("controls", table(controls));
            }
        }
        Kind::OpenCv { url, backend, live, open_timeout_ms, read_timeout_ms } => {
            out.pair("source", quoted("opencv"));
            out.pair("url", quoted(&shown(url)));
            out.pair("backend", quoted(backend.as_str()));
            out.pair("live", live);
            out.pair("open_timeout_ms", open_timeout_ms);
            out.pair("read_timeout_ms", read_timeout_ms);
        }
        Kind::Genicam { name, exposure_us, gain, fps, width_px, height_px, pixel_format, trigger } => {
            out.pair("source", quoted("genicam"));
            out.pair("name", quoted(name));
            some(out, "exposure_us", exposure_us.as_ref());
            some(out, "gain", gain.as_ref());
            some(out, "fps", fps.as_ref());
            some(out, "width_px", width_px.as_ref());
            some(out, "height_px", height_px.as_ref());
            some(out, "pixel_format", pixel_format.as_deref().map(quoted).as_ref());
            match trigger {
                Exposure::Free => out.pair("expose", quoted("free")),
                Exposure::Software => out.pair("expose", quoted("software")),
                Exposure::Line(line) => {
                    out.pair("expose", quoted("line"));
                    out.pair("line", quoted(line));
                }
            }
        }
    }
    out.pair("latency_ms", device.latency_ms);
    out.pair("picture_timeout_ms", device.picture_timeout_ms);
    out.pair("frozen_after_ms", device.frozen_after_ms);
    let policy = match device.key_frames {
        Policy::All => "{ policy = \"all\" }".to_owned(),
        Policy::EveryMs(ms) => format!("{{ policy = \"every\", ms = {ms} }}"),
        Policy::Motion(threshold) => format!("{{ policy = \"motion\", threshold = {threshold} }}"),
        Policy::Sharpest(ms) => format!("{{ policy = \"sharpest\", ms = {ms} }}"),
    };
    out.pair("key_frames", policy);
    if let Some(Lens { camera, distortion }) = &device.correction.lens {
        out.pair("lens", format!("{{ camera = {camera:?}, distortion = {distortion:?} }}"));
    }
    match device.correction.white_balance.as_deref() {
        None => {}
        Some([]) => out.pair("white_balance", quoted("auto")),
        Some(gains) => out.pair("white_balance", format!("{gains:?}")),
    }
    let Health { sharpness_min, brightness_min, overexposed_max } = device.health;
    let limits = [
        ("sharpness_min", sharpness_min),
        ("brightness_min", brightness_min),
        ("overexposed_max", overexposed_max),
    ];
    let limits: Vec<_> =
        limits.iter().filter_map(|(key, value)| value.map(|v| format!("{key} = {v}"))).collect();
    if !limits.is_empty() {
        out.pair("health", format!("{{ {} }}", limits.join(", ")));
    }
}

fn table(controls: &BTreeMap<String, i64>) -> String {
    let pairs: Vec<_> = controls.iter().map(|(name, value)| format!("{} = {value}", quoted(name))).collect();
    format!("{{ {} }}", pairs.join(", "))
}
