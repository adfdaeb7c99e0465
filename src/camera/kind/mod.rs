//! The kinds of cameras: each owns its keys, their check, what is usual for it, whether it is there, the list of what
//! this machine sees, and how it is opened.
//!
//! ```text
//! source = "simulator"   `simulator`   parts with known truth            in this process
//! source = "folder"      `folder`      files of a directory              in this process
//! source = "v4l2"        `v4l2`        USB cameras, capture cards        in a capture child, feature v4l2
//! source = "opencv"      `stream`      RTSP, films, GStreamer            in a capture child, features ffmpeg, opencv
//! source = "genicam"     `genicam`     GigE Vision, USB3 Vision          in a capture child, feature genicam
//! `inspectd ask --video` `film`        whole films                       in this process, feature ffmpeg
//!
//! [[camera]] --SourceConfig::read--> SourceConfig --> Source
//!                                        '-- Device(DeviceConfig) --Settings (JSON)--> child: Kind::open --> Device
//! ```
//!
//! A new kind of device is a file here, a line in [`table`], and a feature in Cargo.toml. A kind without its feature is
//! known by its word, so that a config that asks for it gets an error that names the feature. Simulator and folder need
//! no library and are always there.

#[cfg(any(feature = "v4l2", feature = "genicam"))]
mod cable;
mod common;
pub(crate) mod film;
pub mod folder;
#[cfg(feature = "genicam")]
pub mod genicam;
mod settings;
pub mod simulator;
pub mod stream;
mod table;
#[cfg(feature = "v4l2")]
pub mod v4l2;

pub(crate) use common::Found;
pub use settings::Settings;
pub(crate) use settings::{DeviceConfig, Health, LINE_ALONE};
pub use table::Kind;
pub(crate) use table::list;

use super::trigger::TriggerConfig;
use super::window::Rule;
use crate::document::{Origin, Section, Text, quoted};

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SourceConfig {
    /// Rendered parts with known truth.
    Simulator(simulator::Config),
    /// Pictures in a directory.
    Folder(folder::Config),
    /// A device in a capture process.
    Device(Box<DeviceConfig>),
}

impl SourceConfig {
    /// Reads the source and its own keys, with `trigger` that asks it for pictures; keys of another source are unknown
    /// here. `None` when there is no such source, which is reported.
    pub(crate) fn read(section: &Section<'_>, origin: &Origin, trigger: TriggerConfig) -> Option<Self> {
        let word: String = section.required("source");
        match word.as_str() {
            "" => None,
            "simulator" => Some(Self::Simulator(simulator::Config::read(section))),
            "folder" => Some(Self::Folder(folder::Config::read(section, origin, trigger))),
            word => {
                let kind = Kind::read(word, section)?;
                Some(Self::Device(Box::new(DeviceConfig::read(kind, section, trigger))))
            }
        }
    }

    /// Writes its keys, defaults filled in.
    pub(crate) fn write(&self, out: &mut Text) {
        match self {
            Self::Simulator(simulator) => {
                out.pair("source", quoted("simulator"));
                simulator.write(out);
            }
            Self::Folder(folder) => {
                out.pair("source", quoted("folder"));
                folder.write(out);
            }
            Self::Device(device) => device.write(out),
        }
    }

    /// How its pictures are matched with triggers.
    pub(crate) fn window(&self, trigger: TriggerConfig) -> Rule {
        trigger.rule(match self {
            Self::Simulator(_) => simulator::Config::rule(),
            Self::Folder(folder) => folder.rule(),
            Self::Device(device) => device.rule(),
        })
    }

    /// Width and height of its pictures, where its keys say them.
    pub(crate) fn size(&self) -> Option<(u32, u32)> {
        match self {
            Self::Simulator(simulator) => Some((simulator.width_px, simulator.height_px)),
            Self::Folder(_) => None,
            Self::Device(device) => device.kind.size(),
        }
    }

    /// True when the source ends only with the daemon.
    pub(crate) const fn is_endless(&self) -> bool {
        match self {
            Self::Simulator(simulator) => simulator.count.is_none(),
            Self::Folder(folder) => folder.watch,
            Self::Device(_) => true,
        }
    }

    /// True when a line of the camera's connector makes every picture, each of a part.
    pub(crate) fn is_line_triggered(&self) -> bool {
        matches!(self, Self::Device(device) if device.kind.is_line_triggered())
    }
}
