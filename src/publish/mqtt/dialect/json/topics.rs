//! Where messages go: the topics under a station's prefix.

/// The topics of one station.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// `prefix` is `root/site/area/line/station`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// `result`: one message for each inspection.
    pub fn result(&self) -> String {
        self.under("result")
    }

    /// `last`: the newest inspection, retained.
    pub fn last(&self) -> String {
        self.under("last")
    }

    pub(crate) fn review(&self) -> String {
        self.under("review")
    }

    pub(crate) fn part(&self) -> String {
        self.under("part")
    }

    /// `status`: the station's own state, retained.
    pub fn status(&self) -> String {
        self.under("status")
    }

    pub(crate) fn stats(&self) -> String {
        self.under("stats")
    }

    /// `camera/{id}/status`: how a camera is, retained.
    pub fn camera_status(&self, id: &str) -> String {
        self.under(&format!("camera/{}/status", level(id)))
    }

    /// `camera/{id}/last`: the newest inspection of a camera, retained.
    pub fn camera_last(&self, id: &str) -> String {
        self.under(&format!("camera/{}/last", level(id)))
    }

    /// `image/{id}`: the small picture of the inspection `id`.
    pub fn image(&self, id: &str) -> String {
        self.under(&format!("image/{}", level(id)))
    }

    pub(crate) fn recipe(&self, name: &str) -> String {
        self.under(&format!("recipe/{}", level(name)))
    }

    /// `alarm/{code}`: an alarm, raised or cleared, retained.
    pub fn alarm(&self, code: &str) -> String {
        self.under(&format!("alarm/{}", level(code)))
    }

    /// Where a command comes in; an empty verb gives what all of them begin with.
    pub(crate) fn command(&self, verb: &str) -> String {
        self.under(&format!("cmd/{verb}"))
    }

    fn under(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }
}

/// One level of a topic: separators, wildcards and control characters become `_`.
fn level(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '/' | '+' | '#' | '$') || c.is_control() { '_' } else { c }).collect()
}
