//! Ageing: what time it is for retention, and how much may go because of it.
//!
//! The time of day alone deletes nothing: a clock that jumps ahead would make everything old at once. The
//! *agreed time* advances with the time since boot, which cannot jump, and follows the time of day only when
//! it is believed. It is kept in the store, so that a restart or a reboot is no way around it.
//!
//! ```text
//! agreed --advances with the time since boot--> agreed        every round
//! time of day = agreed (± `TOLERANCE`) ------------> the time of day counts
//! time of day ≠ agreed --a step, or the box was off--> doubt: the earlier of both counts
//!     '--it ran on, synchronised, for a tenth of the difference, a week at most--> it counts
//! not synchronised ---------------------------------> nothing goes by age
//! ```
//!
//! Invariants:
//! - What counts is never later than the agreed time, nor than the time of day.
//! - In any hour of agreed time at most one of [`SHARE`] inspections goes by age, however often the process starts.
//! - A record counts as no older than any before it: a clock that was behind for a while ages nothing.

use super::Store;
use super::error::StoreError;
use super::record::rfc3339;
use crate::clock::{Clock, Reading};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// The name under which the agreed time is kept.
const NAME: &str = "clock/agreed";
/// By so much the time of day may differ from the agreed time.
const TOLERANCE_MS: i64 = 60_000;
/// A doubt ends when the time of day has run on for this part of the difference …
const DOUBT_PART: i64 = 10;
/// … and after so long in any case.
const DOUBT_MAX_MS: i64 = 7 * 24 * 3_600_000;
/// A box may be off for so long; what is longer is told as a step of its clock.
const OFF_MAX_MS: i64 = 31 * 24 * 3_600_000;
/// At most one of so many inspections goes by age in an hour: 5 %.
const SHARE: u64 = 20;
const HOUR_MS: i64 = 3_600_000;

/// Who vouches for the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// A time server, by the kernel's or systemd's word; until then nothing goes by age.
    #[default]
    Synchronised,
    /// The machine's own clock, for a box that no time server reaches. Its steps are doubted all the same.
    Trusted,
}

impl Trust {
    pub const ALL: [Self; 2] = [Self::Synchronised, Self::Trusted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synchronised => "synchronised",
            Self::Trusted => "trusted",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == word)
    }
}

/// What may go by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    /// The time that counts.
    pub now: SystemTime,
    /// Inspections that may go.
    pub at_most: u64,
    /// No record is older than this, whatever is written in it.
    pub floor: SystemTime,
}

impl Age {
    /// All that is older at `now`, without a share.
    #[cfg(test)]
    pub(crate) const fn all(now: SystemTime) -> Self {
        Self { now, at_most: u64::MAX, floor: SystemTime::UNIX_EPOCH }
    }
}

/// A step of the time of day that is not believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it should show.
    pub from: SystemTime,
    /// What it shows.
    pub to: SystemTime,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (rfc3339(self.from), rfc3339(self.to));
        write!(f, "the clock went from {from} to {to}")
    }
}

/// Why age does not count as the time of day would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Unsynchronised,
    /// The difference is not believed yet.
    Doubted,
}

/// What the clock means for a round of retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opinion {
    /// `None`: nothing goes by age.
    pub age: Option<Age>,
    /// Set while less goes by age than the time of day says.
    pub held: Option<Held>,
    /// To be alarmed.
    pub step: Option<Step>,
    pub wall: SystemTime,
}

/// The agreed time and what belongs to it, as the store keeps it; times in ms since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Agreed {
    at_ms: i64,
    boot_ms: i64,
    boot: String,
    /// The boot in which the time of day was last compared.
    compared: String,
    doubt: Option<Doubt>,
    /// Beginning of the hour, inspections then, and how many of them went by age.
    hour_ms: i64,
    hour_of: u64,
    hour_gone: u64,
    /// No record is older than this.
    floor_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Doubt {
    /// Time of day less agreed time.
    by_ms: i64,
    /// For so long the time of day has run on with this difference.
    ran_ms: i64,
    /// It is no box that was off for a while.
    step: bool,
}

fn ms(time: SystemTime) -> i64 {
    super::query::unix_ms(time)
}

fn time(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())
}

fn whole_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Agreed {
    /// Of a store that keeps none yet: its newest record is the last time that is known.
    fn first(reading: &Reading, newest: Option<SystemTime>) -> Self {
        Self { at_ms: ms(newest.unwrap_or(reading.wall)), hour_ms: i64::MIN, ..Self::default() }
    }

    /// Goes on to what the clock shows now; `inspections` are kept.
    fn advance(&mut self, reading: &Reading, trust: Trust, inspections: u64) -> Opinion {
        let boot_ms = whole_ms(reading.since_boot);
        let same_boot = self.boot == reading.boot && boot_ms >= self.boot_ms;
        let elapsed = if same_boot { boot_ms - self.boot_ms } else { 0 };
        self.at_ms = self.at_ms.saturating_add(elapsed);
        (self.boot_ms, self.boot) = (boot_ms, reading.boot.clone());
        let synchronised = reading.synchronised || trust == Trust::Trusted;
        let wall_ms = ms(reading.wall);
        if synchronised {
            let same_boot = self.compared == reading.boot;
            self.compare(wall_ms, elapsed, same_boot);
            self.compared.clone_from(&reading.boot);
        }
        if !(self.hour_ms..self.hour_ms.saturating_add(HOUR_MS)).contains(&self.at_ms) {
            (self.hour_ms, self.hour_of, self.hour_gone) = (self.at_ms, inspections, 0);
        }
        let now_ms = self.at_ms.min(wall_ms);
        let at_most = self.hour_of.div_ceil(SHARE).saturating_sub(self.hour_gone);
        let age = Age { now: time(now_ms), at_most, floor: time(self.floor_ms) };
        let doubted = (now_ms < wall_ms - TOLERANCE_MS).then_some(Held::Doubted);
        let step = self.doubt.as_ref().filter(|d| d.step);
        Opinion {
            age: synchronised.then_some(age),
            held: if synchronised { doubted } else { Some(Held::Unsynchronised) },
            step: step.map(|d| Step { from: time(self.at_ms), to: time(self.at_ms + d.by_ms) }),
            wall: reading.wall,
        }
    }

    /// Believes the time of day, or doubts it.
    fn compare(&mut self, wall_ms: i64, elapsed: i64, same_boot: bool) {
        let by_ms = wall_ms.saturating_sub(self.at_ms);
        if by_ms.abs() <= TOLERANCE_MS {
            (self.at_ms, self.doubt) = (wall_ms, None);
            return;
        }
        let known = self.doubt.take().filter(|d| d.goes_on(by_ms, same_boot));
        let ran_ms = known.as_ref().map_or(0, |d| d.ran_ms.saturating_add(elapsed));
        let step = known.as_ref().map_or(same_boot || !(0..=OFF_MAX_MS).contains(&by_ms), |d| d.step);
        if known.is_none() {
            let step = Step { from: time(self.at_ms), to: time(wall_ms) };
            tracing::warn!(%step, "not believed yet: the age of inspections is counted from the earlier time");
        }
        if ran_ms >= by_ms.saturating_abs().saturating_div(DOUBT_PART).min(DOUBT_MAX_MS) {
            tracing::info!(now = %rfc3339(time(wall_ms)), "the clock has run on and is believed");
            self.at_ms = wall_ms;
        } else {
            self.doubt = Some(Doubt { by_ms, ran_ms, step });
        }
    }
}

impl Doubt {
    /// Whether the difference is the one that was known. While the box was off, it has grown.
    fn goes_on(&self, by_ms: i64, same_boot: bool) -> bool {
        let grown = by_ms.saturating_sub(self.by_ms);
        let most = if same_boot { TOLERANCE_MS } else { OFF_MAX_MS };
        (-TOLERANCE_MS..=most).contains(&grown)
    }
}

/// What a round removed, and what the clock had to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub pruned: super::retention::Pruned,
    /// Why inspections that are too old by the time of day are kept; `None` where there are none.
    pub held: Option<Held>,
    pub step: Option<Step>,
}

impl Store {
    /// One round of retention: what is too old by the time that counts, as far as its share allows, then
    /// the oldest beyond `max_bytes`, whatever the clock says.
    ///
    /// # Errors
    /// [`StoreError`]; after one that does not pass stop.
    pub fn keep_within_limits(&self, clock: &Clock) -> Result<Round, StoreError> {
        let kept: Option<Agreed> = self.remembered(NAME)?;
        let reading = clock.read();
        let mut agreed = match kept {
            Some(kept) => kept,
            None => Agreed::first(&reading, self.newest_finished()?),
        };
        let opinion = agreed.advance(&reading, self.options.clock, self.inspections()?);
        let too_old = opinion.held.is_some() && self.is_oldest_before(opinion.wall)?;
        let age = match opinion.age {
            Some(age) if self.is_oldest_before(age.now)? => Some(age),
            _ => None,
        };
        // What is about to go counts before it goes, so that no crash gives a second share.
        let share = age.map_or(0, |a| a.at_most);
        agreed.hour_gone += share;
        self.keep_state(NAME, &agreed)?;
        let (pruned, gone) = self.prune(age)?;
        if pruned.inspections > 0 || share > 0 {
            agreed.hour_gone -= share - gone.by_age.min(share);
            agreed.floor_ms = agreed.floor_ms.max(ms(gone.newest).min(agreed.at_ms));
            self.keep_state(NAME, &agreed)?;
        }
        Ok(Round { pruned, held: opinion.held.filter(|_| too_old), step: opinion.step })
    }
}

#[cfg(test)]
#[path = "ageing_tests.rs"]
mod tests;
