//! The keys that all devices in capture processes share, beside those of their kinds.

use super::common::not_built;
use super::table::Kind;
use crate::camera::keyframe::Policy;
use crate::camera::picture::{Correction, Lens};
use crate::camera::supervisor::machine::Limits;
use crate::camera::trigger::{TriggerConfig, TriggerOn};
use crate::camera::window::{Rule, Stamps};
use crate::document::{Section, Text, quoted};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Whatever else would choose pictures, or ask for them, loses parts or finds none.
pub(crate) const LINE_ALONE: &str =
    "a hardware trigger (expose = \"line\") makes each picture, and each is a part: nothing else may choose";

/// What a capture child opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `id` of the camera in the config.
    pub camera: String,
    /// The device and its own settings.
    pub kind: Kind,
    /// Which of the stream's pictures are passed on.
    pub key_frames: Policy,
    /// Lens and colours, corrected in the capture process.
    pub correction: Correction,
    /// From an exposure to the stamp that the device, or the arrival of its picture, gives it; milliseconds.
    pub latency_ms: u32,
}

/// A camera whose device lives in a capture child.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceConfig {
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

/// When pictures are bad enough for an alarm; a limit that is absent is not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Health {
    /// Variance of the Laplacian at 640 pixels of width.
    pub sharpness_min: Option<f64>,
    /// Mean grey value, 0..255.
    pub brightness_min: Option<f64>,
    /// Share of pixels at the upper end, 0..1.
    pub overexposed_max: Option<f64>,
}

impl DeviceConfig {
    /// Reads the keys beside those of the kind, and checks them against what asks for pictures.
    pub(super) fn read(kind: Kind, section: &Section<'_>, trigger: TriggerConfig) -> Self {
        let key_frames = key_frames(section.child("key_frames"));
        if key_frames != Policy::All && kind.is_line_triggered() {
            section.problem("key_frames", LINE_ALONE);
        }
        let usual = kind.usual();
        let device = Self {
            latency_ms: section.ranged("latency_ms", 0..=10_000).unwrap_or(usual.latency_ms),
            kind,
            key_frames,
            correction: correction(section),
            picture_timeout_ms: section.ranged("picture_timeout_ms", 500..=600_000).unwrap_or(3_500),
            frozen_after_ms: section.ranged("frozen_after_ms", 0..=600_000).unwrap_or(usual.frozen_after_ms),
            health: health(section.child("health")),
        };
        let by_itself = trigger.on == TriggerOn::Interval && trigger.interval_ms.is_none();
        if device.kind.is_line_triggered() && !by_itself {
            section.problem("trigger", LINE_ALONE);
        }
        check_key_frames(section, key_frames, trigger, trigger.rule(device.rule()));
        device
    }

    /// How pictures are matched with triggers, where the config says nothing.
    pub(super) fn rule(&self) -> Rule {
        let Rule { within, on_its_way, stamps } = self.kind.usual().rule;
        Rule { within, on_its_way: on_its_way + Duration::from_millis(self.latency_ms.into()), stamps }
    }

    /// When its capture child is no good any more.
    pub(crate) fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            picture: Duration::from_millis(self.picture_timeout_ms.into()),
            frozen: Duration::from_millis(self.frozen_after_ms.into()),
            open: usual.open.max(self.kind.usual().open),
            ..usual
        }
    }

    /// What the capture child of this camera opens.
    pub(crate) fn settings(&self, camera: &str) -> Settings {
        Settings {
            camera: camera.to_owned(),
            kind: self.kind.clone(),
            key_frames: self.key_frames,
            correction: self.correction.clone(),
            latency_ms: self.latency_ms,
        }
    }

    /// Writes the keys, defaults filled in.
    pub(super) fn write(&self, out: &mut Text) {
        self.kind.write(out);
        out.pair("latency_ms", self.latency_ms);
        out.pair("picture_timeout_ms", self.picture_timeout_ms);
        out.pair("frozen_after_ms", self.frozen_after_ms);
        let policy = match self.key_frames {
            Policy::All => "{ policy = \"all\" }".to_owned(),
            Policy::EveryMs(ms) => format!("{{ policy = \"every\", ms = {ms} }}"),
            Policy::Motion(threshold) => format!("{{ policy = \"motion\", threshold = {threshold} }}"),
            Policy::Sharpest(ms) => format!("{{ policy = \"sharpest\", ms = {ms} }}"),
        };
        out.pair("key_frames", policy);
        if let Some(Lens { camera, distortion }) = &self.correction.lens {
            out.pair("lens", format!("{{ camera = {camera:?}, distortion = {distortion:?} }}"));
        }
        match self.correction.white_balance.as_deref() {
            None => {}
            Some([]) => out.pair("white_balance", quoted("auto")),
            Some(gains) => out.pair("white_balance", format!("{gains:?}")),
        }
        let Health { sharpness_min, brightness_min, overexposed_max } = self.health;
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
}

/// A trigger by command waits for one picture, so that a policy that gives none for a while, or one that is
/// shorter than its window, makes no sense with it.
fn check_key_frames(section: &Section<'_>, policy: Policy, trigger: TriggerConfig, rule: Rule) {
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
    if matches!(policy, Policy::Motion(_) | Policy::Sharpest(_)) {
        needs_opencv(&section, "policy");
    }
    section.finish();
    policy
}

fn correction(section: &Section<'_>) -> Correction {
    let lens = section.child("lens");
    if lens.is_present() {
        needs_opencv(section, "lens");
    }
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
    if white_balance.is_some() {
        needs_opencv(section, "white_balance");
    }
    Correction { lens: calibration, white_balance }
}

fn health(section: Section<'_>) -> Health {
    let health = Health {
        sharpness_min: section.ranged("sharpness_min", 0.0..=1e6),
        brightness_min: section.ranged("brightness_min", 0.0..=255.0),
        overexposed_max: section.ranged("overexposed_max", 0.0..=1.0),
    };
    if health != Health::default() {
        needs_opencv(&section, "sharpness_min");
    }
    section.finish();
    health
}

/// The key asks for what OpenCV measures or corrects.
fn needs_opencv(section: &Section<'_>, key: &'static str) {
    if !cfg!(feature = "opencv") {
        section.problem(key, not_built("OpenCV, which this key needs", "opencv"));
    }
}
