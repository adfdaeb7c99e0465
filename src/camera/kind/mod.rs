//! The kinds of cameras: each owns its keys, their check, what is usual for it, whether it is there, the list of what
//! this machine sees, and how it is opened.
//!
//! ```text
//!     source = "simulator"   `simulator`   parts with known truth            in this process
//!     source = "folder"      `folder`      files of a directory              in this process
//!     source = "v4l2"        `v4l2`        USB cameras, capture cards        in a capture child, feature v4l2
//!     source = "opencv"      `stream`      RTSP, films, GStreamer            in a capture child, features ffmpeg, opencv
//!     source = "genicam"     `genicam`     GigE Vision, USB3 Vision          in a capture child, feature genicam
//!
//!     [[camera]] --SourceConfig::read--> SourceConfig --> Source
//!                                            '-- Device(DeviceConfig) --Settings (JSON)--> child: Kind::open --> Device
//! ```
//!
//! A new kind of device is a file here, a line in `devices!`, and a feature in Cargo.toml. A kind without its feature
//! is known by its word, so that a config that names it is told what is missing. Simulator and folder need no library
//! and are always there.

#[cfg(any(feature = "v4l2", feature = "genicam"))]
mod cable;
mod common;
pub mod folder;
#[cfg(feature = "genicam")]
pub mod genicam;
mod settings;
pub mod simulator;
pub mod stream;
#[cfg(feature = "v4l2")]
pub mod v4l2;

use common::DeviceKind;
pub use common::Found;
pub(crate) use common::Usual;
pub use settings::{DeviceConfig, Health, LINE_ALONE, Settings};

use super::device::{Device, DeviceError};
use super::trigger::TriggerConfig;
use super::window::Rule;
use crate::document::{Origin, Section, Text, quoted};
use serde::{Deserialize, Serialize};

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceConfig {
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
    pub fn window(&self, trigger: TriggerConfig) -> Rule {
        trigger.rule(match self {
            Self::Simulator(_) => simulator::Config::rule(),
            Self::Folder(folder) => folder.rule(),
            Self::Device(device) => device.rule(),
        })
    }

    /// True when the source ends only with the daemon.
    pub const fn is_endless(&self) -> bool {
        match self {
            Self::Simulator(simulator) => simulator.count.is_none(),
            Self::Folder(folder) => folder.watch,
            Self::Device(_) => true,
        }
    }

    /// True when a line of the camera's connector makes every picture, each of a part.
    pub fn is_line_triggered(&self) -> bool {
        matches!(self, Self::Device(device) if device.kind.is_line_triggered())
    }
}

/// The kinds of devices: word in the config, feature, name here, file, and what lists those that this machine sees.
macro_rules! devices {
    ($($word:literal $feature:tt $kind:ident $module:ident $found:expr;)*) => {
        /// A kind of device and how it is set.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Kind {
            $(#[cfg $feature] $kind($module::Settings),)*
        }

        impl Kind {
            /// Reads the keys of the kind; `None` when this build has none of that word, which is reported.
            fn read(word: &str, section: &Section<'_>) -> Option<Self> {
                match word {
                    $(#[cfg $feature] $word => Some(Self::$kind($module::Settings::read(section))),)*
                    word => {
                        section.problem("source", unknown(word));
                        None
                    }
                }
            }

            /// The word in the config, and what the kind brings along.
            fn parts(&self) -> (&'static str, &dyn DeviceKind) {
                match self {
                    $(#[cfg $feature] Self::$kind(settings) => ($word, settings),)*
                }
            }
        }

        /// The words of all kinds of devices, and whether this build has them.
        const DEVICES: &[(&str, bool)] = &[$(($word, cfg! $feature),)*];

        /// The devices that this machine sees, by the word of each kind that can be searched for.
        pub fn list() -> Vec<(&'static str, Vec<Found>)> {
            let mut all = Vec::new();
            $(
                #[cfg $feature]
                {
                    let found: Option<fn() -> Vec<Found>> = $found;
                    all.extend(found.map(|found| ($word, found())));
                }
            )*
            all
        }
    };
}

devices! {
    "v4l2" (feature = "v4l2") V4l2 v4l2 Some(v4l2::found);
    "opencv" (all()) Stream stream None;
    "genicam" (feature = "genicam") Genicam genicam Some(genicam::found);
}

/// What is wrong with a source of this word.
fn unknown(word: &str) -> String {
    if DEVICES.iter().any(|(device, _)| *device == word) {
        return not_built(&format!("cameras of the kind {word}"), word);
    }
    let built = DEVICES.iter().filter(|(_, built)| *built).map(|(word, _)| *word);
    let all: Vec<_> = ["simulator", "folder"].into_iter().chain(built).collect();
    format!("there is no such source; there are {}", all.join(", "))
}

/// The build lacks what a key asks for.
fn not_built(what: &str, feature: &str) -> String {
    format!("this build has no {what}: it was built without the feature {feature}")
}

impl Kind {
    fn write(&self, out: &mut Text) {
        let (word, kind) = self.parts();
        out.pair("source", quoted(word));
        kind.write(out);
    }

    /// What is usual for it.
    pub(crate) fn usual(&self) -> Usual {
        self.parts().1.usual()
    }

    /// Whether a device that failed is there again, found out without opening it; `None` when there is no way to tell.
    pub fn is_there(&self) -> Option<bool> {
        self.parts().1.is_there()
    }

    /// True when a line of the camera's connector makes every picture, each of a part.
    pub fn is_line_triggered(&self) -> bool {
        self.parts().1.is_line_triggered()
    }

    /// True for a recording: its pictures carry the times of the film, none is skipped, and it ends.
    pub fn is_recording(&self) -> bool {
        self.parts().1.is_recording()
    }

    /// Opens the device.
    ///
    /// # Errors
    /// It is not there, is somebody else's, or refuses a setting.
    pub fn open(&self) -> Result<Box<dyn Device>, DeviceError> {
        self.parts().1.open()
    }
}
