//! Fine-tuning waits while the line is busy.
//!
//! ```text
//! between two steps, where a station runs:
//!
//!            work of others at least BUSY
//!   going ----------------------------------> waiting, a look a second
//!      ^---- QUIET_LOOKS below QUIET in a row ----'
//! ```
//!
//! The line is busy when the box is: what counts is the processors' time that the kernel has given to processes of the
//! usual priority and to itself (`user`, `system` and interrupts of /proc/stat). Fine-tuning has the last priority and
//! stands in `nice`, so that it does not wait for itself; the station and its engine do not.

use crate::control::client;
use std::path::PathBuf;
use std::time::Duration;

/// Share of all processors' time that others take, from which on it waits; and below which they are quiet.
const BUSY: f64 = 0.25;
const QUIET: f64 = 0.10;
/// Looks in a row at which others are quiet, until it goes on: a line of a part a second is not quiet.
const QUIET_LOOKS: u32 = 5;
/// Time between two looks while it waits.
const LOOK: Duration = Duration::from_secs(1);
/// A shorter time between two looks says nothing: the kernel counts in hundredths of a second.
const TICKS_MIN: u64 = 20;

/// Ticks of all processors since the start of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    /// Of processes of the usual priority, of the kernel and of interrupts.
    others: u64,
    all: u64,
}

impl Ticks {
    /// From the text of /proc/stat; `None`: it has another form.
    fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests take stands in user already.
        let [user, nice, system, idle, iowait, irq, softirq, steal] = fields.first_chunk().copied()?;
        let others = user + system + irq + softirq;
        Some(Self { others, all: others + nice + idle + iowait + steal })
    }

    fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }
}

/// What is known of the others.
#[derive(Debug, Default)]
struct Load {
    before: Option<Ticks>,
    share: f64,
    is_waiting: bool,
    quiet: u32,
}

impl Load {
    /// Takes a look in; whether to wait now.
    fn look(&mut self, now: Ticks) -> bool {
        let before = *self.before.get_or_insert(now);
        let all = now.all.saturating_sub(before.all);
        if all < TICKS_MIN {
            return self.is_waiting;
        }
        self.before = Some(now);
        self.share = now.others.saturating_sub(before.others) as f64 / all as f64;
        self.quiet = if self.share < QUIET { self.quiet + 1 } else { 0 };
        self.is_waiting = if self.is_waiting { self.quiet < QUIET_LOOKS } else { self.share >= BUSY };
        self.is_waiting
    }
}

/// Waits between steps; it says so on stderr, unless it is to be silent.
#[derive(Debug)]
pub(super) struct Pause {
    /// The store of the station that must not be disturbed; `None`: it never waits.
    store: Option<PathBuf>,
    load: Load,
    is_silent: bool,
}

impl Pause {
    pub(super) fn new(store: Option<PathBuf>, is_silent: bool) -> Self {
        Self { store, load: Load { before: Ticks::now(), ..Load::default() }, is_silent }
    }

    /// Waits as long as a station runs and the box is busy, and `go_on` says yes.
    pub(super) fn wait(&mut self, go_on: &dyn Fn() -> bool) {
        let mut has_waited = false;
        while go_on() && self.is_to_wait() {
            if !has_waited {
                self.say(&format!(
                    "waits: the line runs, and {:.0} % of the processors' time are taken",
                    100.0 * self.load.share
                ));
            }
            has_waited = true;
            std::thread::sleep(LOOK);
        }
        if has_waited {
            self.say("goes on");
        }
    }

    fn is_to_wait(&mut self) -> bool {
        let Some(store) = &self.store else { return false };
        let is_busy = Ticks::now().is_some_and(|now| self.load.look(now));
        // A station that cannot be asked is another user's, and may run all the same.
        is_busy && client::is_running(store).unwrap_or(true)
    }

    fn say(&self, words: &str) {
        if !self.is_silent {
            eprintln!("finetune: {words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_the_usual_priority_is_that_of_others() {
        let text = "cpu  100 4000 30 900 50 2 3 7 60 5\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1\n";
        assert_eq!(Ticks::read(text), Some(Ticks { others: 135, all: 5092 }));
        assert_eq!(Ticks::read("cpu  100 4000 30\n"), None);
        assert_eq!(Ticks::read(""), None);
        assert!(Ticks::now().is_some_and(|ticks| ticks.all > ticks.others), "this machine says it");
    }

    /// Of looks a second apart on two processors, at which others take these shares: whether it waits after each.
    fn waits(shares: &[f64]) -> Vec<bool> {
        let mut now = Ticks { others: 1000, all: 9000 };
        let mut load = Load { before: Some(now), ..Load::default() };
        let mut look = |share: &f64| {
            now = Ticks { others: now.others + (200.0 * share) as u64, all: now.all + 200 };
            load.look(now)
        };
        shares.iter().map(&mut look).collect()
    }

    #[test]
    fn it_waits_while_others_work_and_goes_on_after_they_were_quiet_for_a_while() {
        assert_eq!(waits(&[0.0, 0.05, 0.2, 0.24]), [false; 4], "a box that does a little is not busy");
        assert_eq!(
            waits(&[0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1]),
            [false, true, true, true, true, true, false, false]
        );
        // A part every four looks: the line runs.
        let line: Vec<f64> = (0..12).map(|i| if i % 4 == 0 { 0.6 } else { 0.0 }).collect();
        assert_eq!(waits(&line), [true; 12]);
        assert_eq!(waits(&[0.3, 0.15, 0.15, 0.15, 0.15, 0.15, 0.15]), [true; 7], "neither busy nor quiet");
    }

    #[test]
    fn two_looks_at_once_are_one() {
        let mut load = Load::default();
        let ticks = |others, all| Ticks { others, all };
        assert!(!load.look(ticks(10, 100)), "the first look knows nothing");
        assert!(!load.look(ticks(20, 110)), "ten ticks say nothing");
        assert!(load.look(ticks(60, 200)), "half of a hundred");
    }

    #[test]
    fn without_a_station_it_never_waits() {
        let mut pause = Pause::new(None, true);
        pause.wait(&|| true);
        let dir = tempfile::tempdir().unwrap();
        let mut pause = Pause::new(Some(dir.path().to_owned()), true);
        pause.load = Load { is_waiting: true, ..Load::default() };
        pause.wait(&|| true);
        // Nor when it is told to stop.
        pause.wait(&|| false);
    }
}
