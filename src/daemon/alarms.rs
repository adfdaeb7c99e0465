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
pub(super) struct Alarms {
    stand: Mutex<BTreeMap<String, Alarm>>,
    /// How often each was raised since the start.
    raised: Mutex<BTreeMap<String, u64>>,
}

impl Alarms {
    /// An alarm is raised or over.
    pub(super) fn note(&self, code: &str, raised: bool, message: &str, now: SystemTime) {
        let mut alarms = self.lock();
        if !raised {
            alarms.remove(code);
            return;
        }
        if !alarms.contains_key(code) {
            *self.counts().entry(code.to_owned()).or_insert(0) += 1;
        }
        let new = || Alarm { code: code.to_owned(), message: String::new(), since: now };
        message.clone_into(&mut alarms.entry(code.to_owned()).or_insert_with(new).message);
    }

    /// All that stand, by code.
    pub(super) fn all(&self) -> Vec<Alarm> {
        self.lock().values().cloned().collect()
    }

    /// How often those with these codes were raised since the start; an alarm that stands is raised once.
    pub(super) fn raised(&self, is_meant: impl Fn(&str) -> bool) -> u64 {
        self.counts().iter().filter(|(code, _)| is_meant(code)).map(|(_, count)| count).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Alarm>> {
        self.stand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
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
        alarms.note("engine", true, "lost again", at(6));
        assert_eq!((alarms.raised(|code| code == "engine"), alarms.raised(|_| true)), (2, 3));
    }
}
