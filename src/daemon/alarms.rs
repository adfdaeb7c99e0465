//! The alarms that stand, as the page shows them: whatever is published about an alarm goes by here.
//!
//! ```text
//! StationEvent::Alarm --raised--> stands, since then --over--> forgotten
//!                                   '--raised again: its newest message--'
//! ```

use crate::domain::alarm::Alarm;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// By their codes, of which a config has so many and no more.
#[derive(Default)]
pub(super) struct Alarms(Mutex<BTreeMap<String, Alarm>>);

impl Alarms {
    /// An alarm is raised or over.
    pub(super) fn note(&self, code: &str, raised: bool, message: &str, now: SystemTime) {
        let mut alarms = self.lock();
        if !raised {
            alarms.remove(code);
            return;
        }
        let new = || Alarm { code: code.to_owned(), message: String::new(), since: now };
        message.clone_into(&mut alarms.entry(code.to_owned()).or_insert_with(new).message);
    }

    /// All that stand, by code.
    pub(super) fn all(&self) -> Vec<Alarm> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_alarm_stands_from_when_it_was_raised_until_it_is_over() {
        let alarms = Alarms::default();
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        alarms.note("store_full", false, "", at(1));
        assert_eq!(alarms.all(), []);
        alarms.note("store_full", true, "20 MB left", at(2));
        alarms.note("engine", true, "lost", at(3));
        alarms.note("store_full", true, "10 MB left", at(4));
        let stands = |code: &str, message: &str, since| Alarm {
            code: code.into(),
            message: message.into(),
            since: at(since),
        };
        assert_eq!(alarms.all(), [stands("engine", "lost", 3), stands("store_full", "10 MB left", 2)]);
        alarms.note("engine", false, "", at(5));
        assert_eq!(alarms.all(), [stands("store_full", "10 MB left", 2)]);
    }
}
