//! What systemd is told.
//!
//! ```text
//!            starting --ready--> running --stopping--> stopping
//! alive =    EXTEND_TIMEOUT_USEC   WATCHDOG=1          EXTEND_TIMEOUT_USEC
//!    '--told to stop, also before it is ready--> stopping, for good
//! ```
//!
//! `alive` is for whoever has just seen progress: never for a timer. Where nobody sees any, nothing is sent, and
//! systemd ends the process and starts it again. A line that starts again for a compaction stays `running`
//! from systemd's point of view: only WATCHDOG=1 counts then, however long the store takes to open.

use super::told::Told;
use sd_notify::NotifyState;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// By how much a start or a stop may go on after the last sign of life.
const EXTEND: Duration = Duration::from_secs(30);
/// Signs of life that come sooner after the last one are not sent.
const EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
}

/// The connection to systemd; without systemd nobody listens.
pub(super) struct Systemd {
    said: Mutex<Said>,
    told: Told,
}

struct Said {
    phase: Phase,
    alive: Option<Instant>,
}

impl Systemd {
    /// Of a process that starts.
    pub(super) const fn new(told: Told) -> Self {
        Self { said: Mutex::new(Said { phase: Phase::Starting, alive: None }), told }
    }

    /// The line inspects.
    pub(super) fn ready(&self) {
        self.enter(Phase::Running, NotifyState::Ready);
    }

    /// The process ends by itself.
    pub(super) fn stopping(&self) {
        self.enter(Phase::Stopping, NotifyState::Stopping);
    }

    fn enter(&self, phase: Phase, state: NotifyState<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.phase != Phase::Stopping {
            *said = Said { phase, alive: None };
            notify(state);
        }
    }

    /// Progress was seen.
    pub(super) fn alive(&self) {
        if self.told.is_to_stop() {
            // A stop has less time than a start, and only more time for a stop is heard then.
            self.stopping();
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.alive.is_none_or(|at| at.elapsed() >= EVERY) {
            said.alive = Some(Instant::now());
            notify(match said.phase {
                Phase::Running => NotifyState::Watchdog,
                Phase::Starting | Phase::Stopping => {
                    NotifyState::ExtendTimeoutUsec(EXTEND.as_micros() as u32)
                }
            });
        }
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
