//! What became of commands, in the log: a line each, and of the refused at most so many a minute.
//!
//! ```text
//! refused --room in this minute?--> one line
//!            '--no--> counted by its code --the minute is over--> one line for all of them
//! ```
//!
//! A sender that is refused and tries again for ever fills no disk, and its refusals stay visible.

use crate::domain::trigger::{Outcome, Sender};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines about refused commands that one minute has at most, beside the one that sums up the rest.
pub(crate) const LINES_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);

static LINES: Mutex<Lines> = Mutex::new(Lines { began: None, said: 0, unsaid: BTreeMap::new() });

/// Says what became of a command; every door calls this once a command, and nobody else logs it.
pub(crate) fn outcome(verb: &str, sender: &Sender, correlation_id: Option<&str>, outcome: &Outcome) {
    let correlation_id = correlation_id.unwrap_or("-");
    match outcome {
        Ok(None) => tracing::info!(verb, %sender, correlation_id, "command"),
        Ok(Some(trigger_id)) => tracing::info!(verb, %sender, correlation_id, trigger_id, "command"),
        Err(refusal) => {
            let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
            sum_up(lines.over(Instant::now()));
            if lines.takes(Instant::now(), refusal.code()) {
                let code = refusal.code();
                tracing::warn!(verb, %sender, correlation_id, code, reason = %refusal, "a command is refused");
            }
        }
    }
}

/// Sums up a minute that is over; to be called now and then, because no command may come to do it.
pub(crate) fn tick() {
    sum_up(LINES.lock().unwrap_or_else(PoisonError::into_inner).over(Instant::now()));
}

fn sum_up(unsaid: BTreeMap<&'static str, u64>) {
    if !unsaid.is_empty() {
        let count: u64 = unsaid.values().sum();
        let codes: Vec<_> = unsaid.iter().map(|(code, n)| format!("{code} {n}")).collect();
        tracing::warn!(count, codes = codes.join(", "), "more commands were refused in the last minute");
    }
}

/// The lines of the minute that runs.
struct Lines {
    began: Option<Instant>,
    said: u32,
    /// Refusals that had no line, by their codes.
    unsaid: BTreeMap<&'static str, u64>,
}

impl Lines {
    /// Those without a line when the minute is over; then the next begins.
    fn over(&mut self, now: Instant) -> BTreeMap<&'static str, u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) < MINUTE) {
            return BTreeMap::new();
        }
        (self.began, self.said) = (None, 0);
        std::mem::take(&mut self.unsaid)
    }

    /// Whether this refusal has a line.
    fn takes(&mut self, now: Instant, code: &'static str) -> bool {
        self.began.get_or_insert(now);
        let has_line = self.said < LINES_PER_MINUTE;
        if has_line {
            self.said += 1;
        } else {
            *self.unsaid.entry(code).or_default() += 1;
        }
        has_line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_lines_and_then_one_for_the_rest() {
        let mut lines = Lines { began: None, said: 0, unsaid: BTreeMap::new() };
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let said = (0..1000).filter(|_| lines.takes(at(1), "full")).count();
        assert_eq!(said, LINES_PER_MINUTE as usize);
        assert!(!lines.takes(at(2), "paused"));
        assert!(lines.over(at(60)).is_empty(), "the minute counts from its first line");
        assert_eq!(lines.over(at(61)), BTreeMap::from([("full", 980), ("paused", 1)]));
        assert!(lines.takes(at(61), "full") && lines.over(at(130)).is_empty());
    }
}
