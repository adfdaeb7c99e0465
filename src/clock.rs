//! A clock that tests can turn: the time of day, the time since boot, and whether anybody vouches for
//! the time of day.
//!
//! ```text
//! Clock::system()  --read--> Reading        the machine's clocks
//! Clock::turned()  --read--> Reading        what its `Hands` were set to
//! ```
//!
//! The time of day jumps: a battery is empty, a server lies, a person sets it. The time since boot only
//! goes on. Whatever cannot be undone looks at both.

mod synchronised;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// What a clock shows at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time of day.
    pub wall: SystemTime,
    /// Since the boot, sleep included; never goes back.
    pub since_boot: Duration,
    /// Tells boots apart; where the kernel's word is hidden from us, it tells processes apart.
    pub boot: String,
    /// A time server stands behind the time of day, by systemd's, the kernel's or timedated's word.
    pub synchronised: bool,
}

/// The machine's clock, or one that a test turns.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Reading>>>);

impl Clock {
    /// The machine's.
    pub const fn system() -> Self {
        Self(None)
    }

    /// One that stands still until its hands are turned.
    pub fn turned(reading: Reading) -> (Self, Hands) {
        let shown = Arc::new(Mutex::new(reading));
        (Self(Some(Arc::clone(&shown))), Hands(shown))
    }

    /// What it shows now.
    pub fn read(&self) -> Reading {
        match &self.0 {
            Some(shown) => shown.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => Reading {
                wall: SystemTime::now(),
                since_boot: since_boot(),
                boot: boot().clone(),
                synchronised: synchronised::synchronised(),
            },
        }
    }
}

/// Turns a clock.
#[derive(Clone, Debug)]
pub struct Hands(Arc<Mutex<Reading>>);

impl Hands {
    /// Changes what the clock shows.
    pub fn turn(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Time passes, as it does on a clock that is right.
    pub fn pass(&self, time: Duration) {
        self.turn(|shown| {
            shown.wall += time;
            shown.since_boot += time;
        });
    }
}

fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec of our own. Linux has this clock since 2.6.39, so that the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn boot() -> &'static String {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => id.trim().to_owned(),
        Err(_) => format!("process {:016x}", rand::random::<u64>()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_clock_goes_on() {
        let clock = Clock::system();
        let first = clock.read();
        let second = clock.read();
        assert!(first.since_boot > Duration::ZERO && second.since_boot >= first.since_boot);
        assert_eq!(first.boot, second.boot);
        assert!(first.wall > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_turned_clock_shows_what_its_hands_say() {
        let reading = Reading {
            wall: SystemTime::UNIX_EPOCH,
            since_boot: Duration::ZERO,
            boot: "first".into(),
            synchronised: false,
        };
        let (clock, hands) = Clock::turned(reading);
        hands.pass(Duration::from_secs(7));
        hands.turn(|shown| shown.synchronised = true);
        let shown = clock.read();
        assert_eq!((shown.since_boot, shown.synchronised), (Duration::from_secs(7), true));
        assert_eq!(shown.wall, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
    }
}
