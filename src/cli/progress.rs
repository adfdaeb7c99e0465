//! Progress of long work, always on stderr: a bar on a terminal, now and then a plain line otherwise.
//!
//! ```text
//! terminal:  replay [=====>      ] 40/120  1.3/s  eta 1m  images/a.png
//! otherwise: replay 40/120 images/a.png        (first, last, and at most every PLAIN_EVERY)
//! ```

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Plain lines come at most this often: a log of a night's replay stays readable.
pub(super) const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// A bar redraws at most this many times a second.
const BAR_HZ: u8 = 8;

/// Progress of one piece of work with a known number of steps.
pub(super) struct Progress {
    what: String,
    total: u64,
    done: u64,
    shape: Shape,
}

enum Shape {
    Bar(ProgressBar),
    Plain(Pace),
}

impl Progress {
    /// Starts to show `what`, of `total` steps, in the way that stderr allows.
    pub(super) fn new(what: &str, total: u64) -> Self {
        let shape = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(BAR_HZ));
            let style = ProgressStyle::with_template(
                "{prefix} [{bar:30}] {pos}/{len}  {per_sec}  eta {eta}  {wide_msg}",
            )
            .expect("the template is a constant and valid")
            .progress_chars("=> ");
            bar.set_style(style);
            bar.set_prefix(what.to_owned());
            Shape::Bar(bar)
        } else {
            Shape::Plain(Pace::new(PLAIN_EVERY))
        };
        Self { what: what.to_owned(), total, done: 0, shape }
    }

    /// One more step is done; `note` says which.
    pub(super) fn step(&mut self, note: &str) {
        self.reach(self.done + 1, note);
    }

    /// So many steps are done; `note` says which was the last.
    pub(super) fn reach(&mut self, done: u64, note: &str) {
        self.done = done;
        match &mut self.shape {
            Shape::Bar(bar) => {
                bar.set_message(note.to_owned());
                bar.set_position(self.done);
            }
            Shape::Plain(pace) => {
                if pace.due(Instant::now()) || self.done == self.total {
                    eprintln!("{} {}/{} {note}", self.what, self.done, self.total);
                }
            }
        }
    }

    /// A line for people, above the bar where there is one.
    pub(super) fn say(&self, line: &str) {
        match &self.shape {
            Shape::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Shape::Plain(_) => eprintln!("{line}"),
        }
    }
}

impl Drop for Progress {
    /// The bar leaves the screen, so that an error or the result stands alone.
    fn drop(&mut self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

/// Progress of work that comes in phases, each with its own name and number of steps.
#[derive(Default)]
pub(super) struct Phases(Option<Progress>);

impl Phases {
    /// So many of `total` steps of `what` are done.
    pub(super) fn show(&mut self, what: &str, done: u64, total: u64, note: &str) {
        if self.0.as_ref().is_none_or(|p| p.what != what || p.total != total) {
            self.0 = Some(Progress::new(what, total));
        }
        if let Some(progress) = &mut self.0 {
            progress.reach(done, note);
        }
    }

    /// A line of the result on stdout, clear of the bar.
    pub(super) fn print(&self, line: &str) {
        match self.0.as_ref().map(|p| &p.shape) {
            Some(Shape::Bar(bar)) => bar.suspend(|| println!("{line}")),
            _ => println!("{line}"),
        }
    }
}

/// Lets something happen at once and then at most every so often.
#[derive(Debug)]
struct Pace {
    every: Duration,
    last: Option<Instant>,
}

impl Pace {
    const fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_counts_from_the_last_time_it_was_due() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(5));
        let due: Vec<bool> =
            [0, 1, 4, 5, 6, 9, 20, 24].map(|s| pace.due(start + Duration::from_secs(s))).to_vec();
        assert_eq!(due, [true, false, false, true, false, false, true, false]);
    }
}
