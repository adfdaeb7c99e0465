//! What asks a camera for a picture, as its config says.

use super::window::Rule;
use std::time::Duration;

/// What asks for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriggerConfig {
    pub on: TriggerOn,
    /// Milliseconds from one picture to the next; `None`: as fast as source and queue allow.
    pub interval_ms: Option<u64>,
    /// Overrides the pipeline's deadline; counted from the trigger where there is one.
    pub deadline_ms: Option<u64>,
    /// From a command to the exposure of its part, at most; `None`: as is usual for the source.
    pub exposed_within_ms: Option<u64>,
}

impl TriggerConfig {
    /// How pictures are matched with triggers; `usual` is the rule where no key changes it.
    pub(super) fn rule(&self, usual: Rule) -> Rule {
        Rule { within: self.exposed_within_ms.map(Duration::from_millis).or(usual.within), ..usual }
    }
}

/// Who decides when a picture is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TriggerOn {
    /// The clock, or the source itself.
    #[default]
    Interval,
    /// A command, by MQTT, HTTP or a file.
    Command,
}
