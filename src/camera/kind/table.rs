//! The kinds of devices, each with its word, its feature and its file: the one place that names them all.

use super::common::{DeviceKind, Found, Usual, not_built};
#[cfg(feature = "genicam")]
use super::genicam;
use super::stream;
#[cfg(feature = "v4l2")]
use super::v4l2;
use crate::camera::device::{Device, DeviceError};
use crate::document::{Section, Text, quoted};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The kinds of devices: word in the config, feature, name here, file, and what lists those that this machine sees.
macro_rules! devices {
    ($($word:literal $feature:tt $kind:ident $module:ident $found:expr;)*) => {
        /// A kind of device and how it is set.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Kind {
            $(
                #[doc = concat!("The word `", $word, "` in a config, with what its keys say.")]
                #[cfg $feature]
                $kind($module::Settings),
            )*
        }

        impl Kind {
            /// Reads the keys of the kind; `None` when this build has none of that word, which is reported.
            pub(super) fn read(word: &str, section: &Section<'_>) -> Option<Self> {
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
        pub(crate) fn list() -> Vec<(&'static str, Vec<Found>)> {
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

impl Kind {
    /// Writes the keys of the kind, defaults filled in.
    pub(super) fn write(&self, out: &mut Text) {
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

    /// Width and height of its pictures, where its keys say them.
    pub(crate) fn size(&self) -> Option<(u32, u32)> {
        self.parts().1.size()
    }

    /// Its address in the network of the cameras, where it has one and its keys say it.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.parts().1.address()
    }

    /// The word in the config.
    pub(crate) fn word(&self) -> &'static str {
        self.parts().0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_was_not_built_is_told_from_one_that_nobody_knows() {
        let missing =
            "this build has no cameras of the kind genicam: it was built without the feature genicam";
        assert_eq!(unknown("genicam"), missing);
        let none = unknown("gopro");
        assert!(none.starts_with("there is no such source; there are simulator, folder, "), "{none}");
        for (word, built) in DEVICES {
            assert_eq!(none.contains(word), *built, "{none}: {word}");
        }
    }
}
