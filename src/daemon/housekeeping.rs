//! What must be done now and then: the watchdog, the store's room, counts, old inspections.
//!
//! ```text
//! every second   did the inspector show life within `STALL`? then the watchdog is fed
//!                does the store accept? alarm and cameras show it; a store that failed ends the daemon
//! now and then   stats      retention and, once a day, the look at the database's size, on a thread of
//!                their own
//! ```
//!
//! Only the inspector's life feeds the watchdog, and a recorder that waits for room counts as life. A camera that
//! is dead, a broker that is away and a page that hangs have other words: a restart would not mend them. A
//! compaction, which happens while no line runs, shows its own life (`progress`).

use super::damaged;
use super::station::Station;
use super::systemd::Systemd;
use crate::clock::Clock;
use crate::command;
use crate::publish::StationEvent;
use crate::store::Store;
use crate::store::ageing::{Held, Round};
use crate::store::error::StoreError;
use crate::threads;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the daemon looks after itself.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How often counts are published.
const STATS_EVERY: Duration = Duration::from_secs(30);
/// How often old inspections are removed.
const RETENTION_EVERY: Duration = Duration::from_mins(1);
/// How often the size of the database is compared with what lives in it, which reads all of it.
const COMPACTION_EVERY: Duration = Duration::from_hours(24);
/// A stage that shows no life for so long is stalled, and the watchdog is not fed.
pub(super) const STALL: Duration = Duration::from_secs(20);

/// Raised while the line stands because the disk or the outbox is full.
const ALARM_FULL: &str = "store_full";
/// Raised while old inspections cannot be removed: they are not yet delivered, or the time is not known.
const ALARM_HELD: &str = "retention_held";
/// Raised once retention has removed what could not be read; cleared by the next start.
const ALARM_UNREADABLE: &str = "records_damaged";
/// Raised while the time of day has stepped and is not believed yet.
const ALARM_STEP: &str = "clock_step";

const HELD_UNDELIVERED: &str = "the store is over its limits, and the oldest results are not delivered";
const HELD_UNSYNCHRONISED: &str = "inspections older than retain_days are kept: no time server has set the \
                                   clock; on a box without one, [store] clock = \"trusted\" counts all the same";
const HELD_DOUBTED: &str = "inspections older than retain_days are kept: the clock has stepped";
const STEP_WORDS: &str = "until it has run on for a tenth of that, a week at most, the age of inspections is \
                          counted from the earlier time";

/// What a tick asks of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Compaction,
}

struct Cleaned {
    round: Round,
    compaction_due: bool,
}

/// Looks after the station; one call a second.
pub(super) struct Housekeeping {
    store: Arc<Store>,
    station: Arc<Station>,
    systemd: Arc<Systemd>,
    clock: Clock,
    /// Since the boot, as the next two: no step of the time of day brings them nearer.
    stats_due: Duration,
    retention_due: Duration,
    compaction_due: Duration,
    cleaning: Option<JoinHandle<Result<Cleaned, StoreError>>>,
    full: bool,
    /// Messages of the alarms about retention and clock, while they are raised.
    held: Option<&'static str>,
    stepped: bool,
    /// Inspections that were removed and could not be read, and the first of them.
    unreadable: Option<(u64, u64)>,
}

impl Housekeeping {
    /// Alarms that stand from a former run are cleared or raised anew with the first tick.
    pub(super) fn new(store: Arc<Store>, station: Arc<Station>, systemd: Arc<Systemd>, clock: Clock) -> Self {
        let now = clock.read().since_boot;
        for code in [ALARM_FULL, ALARM_HELD, ALARM_STEP, ALARM_UNREADABLE, damaged::ALARM] {
            station.publish(alarm(code, false, String::new()));
        }
        Self {
            store,
            station,
            systemd,
            clock,
            stats_due: now + STATS_EVERY,
            retention_due: now,
            compaction_due: now + COMPACTION_EVERY,
            cleaning: None,
            full: false,
            held: None,
            stepped: false,
            unreadable: None,
        }
    }

    /// # Errors
    /// When the store has failed: nothing more may be acknowledged.
    pub(super) fn tick(&mut self) -> anyhow::Result<Due> {
        let now = self.clock.read().since_boot;
        if self.station.alive_within(STALL) {
            self.systemd.alive();
        } else {
            tracing::error!("the inspector shows no life: the watchdog is not fed");
        }
        self.room()?;
        command::log::tick();
        if now >= self.stats_due {
            self.stats_due = now + STATS_EVERY;
            let stats = self.station.take_stats(STATS_EVERY, self.store.outbox_len());
            self.station.publish(StationEvent::Stats(stats));
        }
        self.clean(now)
    }

    /// Waits for what runs on its own thread, which holds the store open.
    pub(super) fn finish(self) {
        if self.cleaning.is_some_and(|cleaning| cleaning.join().is_err()) {
            tracing::error!("retention panicked");
        }
    }

    /// A store that is full stops the line in the recorder; here it is published.
    fn room(&mut self) -> anyhow::Result<()> {
        let reason = match self.store.accepts() {
            Ok(()) => None,
            Err(error) if error.passes() => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        self.station.store_full(reason.as_deref());
        if reason.is_some() == self.full {
            return Ok(());
        }
        self.full = reason.is_some();
        self.station.publish(alarm(ALARM_FULL, self.full, reason.unwrap_or_default()));
        Ok(())
    }

    fn clean(&mut self, now: Duration) -> anyhow::Result<Due> {
        if self.cleaning.as_ref().is_some_and(JoinHandle::is_finished) {
            let outcome = self.cleaning.take().map(JoinHandle::join);
            match outcome {
                Some(Ok(Ok(cleaned))) => return Ok(self.take_cleaned(&cleaned)),
                // A full disk passes; it is reported as such.
                Some(Ok(Err(error))) if !error.passes() => return Err(error.into()),
                Some(Err(_)) => anyhow::bail!("retention panicked"),
                Some(Ok(Err(_))) | None => {}
            }
        }
        if self.cleaning.is_none() && now >= self.retention_due {
            self.retention_due = now + RETENTION_EVERY;
            let look = now >= self.compaction_due;
            if look {
                self.compaction_due = now + COMPACTION_EVERY;
            }
            let (store, clock) = (Arc::clone(&self.store), self.clock.clone());
            let clean = move || clean(&store, &clock, look);
            self.cleaning = Some(threads::spawn("retention", clean)?);
        }
        Ok(Due::Nothing)
    }

    fn take_cleaned(&mut self, cleaned: &Cleaned) -> Due {
        let Round { pruned, held, step } = &cleaned.round;
        let held = match (pruned.held_back, held) {
            (true, _) => Some(HELD_UNDELIVERED),
            (false, Some(Held::Unsynchronised)) => Some(HELD_UNSYNCHRONISED),
            (false, Some(Held::Doubted)) => Some(HELD_DOUBTED),
            (false, None) => None,
        };
        if held != self.held {
            self.held = held;
            self.station.publish(alarm(ALARM_HELD, held.is_some(), held.unwrap_or_default().to_owned()));
        }
        if step.is_some() != self.stepped {
            self.stepped = step.is_some();
            let text = step.as_ref().map(|step| format!("{step}: {STEP_WORDS}"));
            self.station.publish(alarm(ALARM_STEP, self.stepped, text.unwrap_or_default()));
        }
        if let Some(first) = pruned.first_unreadable {
            let (first, before) = self.unreadable.unwrap_or((first, 0));
            let all = before + pruned.unreadable;
            self.unreadable = Some((first, all));
            let message = format!(
                "{all} inspections that were due for removal could not be read, the first is record {first}: they are \
                 removed, and the log says where their bytes are kept"
            );
            self.station.publish(alarm(ALARM_UNREADABLE, true, message));
        }
        if cleaned.compaction_due { Due::Compaction } else { Due::Nothing }
    }
}

fn clean(store: &Store, clock: &Clock, look_at_size: bool) -> Result<Cleaned, StoreError> {
    let round = store.keep_within_limits(clock)?;
    if round.pruned.inspections > 0 {
        let pruned = &round.pruned;
        let (inspections, bytes, usage_bytes) = (pruned.inspections, pruned.bytes, pruned.usage_bytes);
        tracing::info!(
            inspections,
            bytes,
            usage_bytes,
            held_back = pruned.held_back,
            "old inspections removed"
        );
    }
    let compaction_due = look_at_size && store.compaction_due()?;
    Ok(Cleaned { round, compaction_due })
}

fn alarm(code: &str, raised: bool, message: String) -> StationEvent {
    StationEvent::Alarm { code: code.to_owned(), raised, message }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod clock_tests;
