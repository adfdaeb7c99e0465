//! A camera in a capture process, with its reports on the station: state on `camera/{id}/status`, and
//! an alarm `image_{id}` while its pictures are dark, blinded or without edges.

use super::station::Station;
use crate::camera::Stop;
use crate::camera::kind::{DeviceConfig, Health};
use crate::camera::picture::Condition;
use crate::camera::supervisor::{Report, Supervised};
use crate::ipc::Program;
use crate::publish::StationEvent;
use std::sync::{Arc, Mutex, PoisonError};

/// Looks in a row, half a second apart, that must agree before the alarm is raised or cleared.
const AGREEING: u32 = 3;

/// Starts the supervisor of a camera.
///
/// # Errors
/// Its thread cannot be started.
pub(super) fn open(
    id: &str,
    config: &DeviceConfig,
    station: &Arc<Station>,
    stop: &Stop,
) -> std::io::Result<Supervised> {
    let settings = config.settings(id);
    let pushed = config.kind.is_line_triggered();
    let (station, id) = (Arc::clone(station), id.to_owned());
    let watch = Mutex::new(Watch::new(config.health));
    let report = move |report: Report| match report {
        Report::Ready => station.source(&id, None),
        Report::Fault { reason } => station.source(&id, Some(reason)),
        Report::Condition(condition) => {
            let change = watch.lock().unwrap_or_else(PoisonError::into_inner).look(condition);
            if let Some(message) = change {
                let raised = message.is_some();
                let message = message.unwrap_or_default();
                let code = format!("image_{id}");
                station.publish(StationEvent::Alarm { code, raised, message });
            }
        }
    };
    let program = Program::new(["capture"]);
    Supervised::new(settings, program, config.limits(), pushed, stop.clone(), Box::new(report))
}

/// Watches the pictures of one camera.
struct Watch {
    limits: Health,
    raised: bool,
    /// Looks in a row that differ from `raised`.
    differing: u32,
}

impl Watch {
    const fn new(limits: Health) -> Self {
        Self { limits, raised: false, differing: 0 }
    }

    /// `Some(Some(message))` raises the alarm, `Some(None)` clears it.
    #[expect(clippy::option_option, reason = "an alarm is left, cleared or raised")]
    fn look(&mut self, condition: Condition) -> Option<Option<String>> {
        let wrong = self.wrong(condition);
        if wrong.is_some() == self.raised {
            self.differing = 0;
            return None;
        }
        self.differing += 1;
        if self.differing < AGREEING {
            return None;
        }
        self.differing = 0;
        self.raised = wrong.is_some();
        Some(wrong)
    }

    fn wrong(&self, condition: Condition) -> Option<String> {
        let Condition { sharpness, brightness, overexposed } = condition;
        let below = |value: f64, limit: Option<f64>| limit.is_some_and(|limit| value < limit);
        if below(brightness, self.limits.brightness_min) {
            Some(format!("dark: mean grey value {brightness:.0}; is the light on?"))
        } else if self.limits.overexposed_max.is_some_and(|limit| overexposed > limit) {
            Some(format!("overexposed: {:.0} % of the picture", 100.0 * overexposed))
        } else if below(sharpness, self.limits.sharpness_min) {
            Some(format!("not sharp: {sharpness:.1}; is the lens clean and in focus?"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Health =
        Health { sharpness_min: Some(50.0), brightness_min: Some(20.0), overexposed_max: Some(0.5) };
    const GOOD: Condition = Condition { sharpness: 400.0, brightness: 90.0, overexposed: 0.0 };

    #[test]
    fn the_alarm_is_raised_and_cleared_by_three_looks_that_agree() {
        let mut watch = Watch::new(LIMITS);
        let dark = Condition { brightness: 3.0, sharpness: 0.0, ..GOOD };
        assert_eq!(watch.look(dark), None);
        assert_eq!(watch.look(dark), None);
        assert_eq!(watch.look(GOOD), None);
        assert_eq!(watch.look(dark), None);
        assert_eq!(watch.look(dark), None);
        assert!(watch.look(dark).flatten().is_some_and(|m| m.contains("dark")));
        assert_eq!(watch.look(dark), None);
        assert_eq!(watch.look(GOOD), None);
        assert_eq!(watch.look(GOOD), None);
        assert_eq!(watch.look(GOOD), Some(None));
    }

    #[test]
    fn each_limit_has_its_words_and_none_means_none() {
        let watch = Watch::new(LIMITS);
        assert!(watch.wrong(Condition { sharpness: 1.0, ..GOOD }).is_some_and(|m| m.contains("lens")));
        assert!(watch.wrong(Condition { overexposed: 0.9, ..GOOD }).is_some_and(|m| m.contains("90 %")));
        assert_eq!(watch.wrong(GOOD), None);
        assert_eq!(Watch::new(Health::default()).wrong(Condition::default()), None);
    }
}
