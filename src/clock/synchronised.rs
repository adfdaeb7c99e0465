//! Whether a time server stands behind the time of day: who is asked, and how often.
//!
//! ```text
//! systemd-timesyncd's file is there ------------------------------> yes
//! the kernel, by adjtimex ----------------------------------------> yes | no
//!   '--forbidden, as in the unit's sandbox--> timedated, by busctl: yes | no | no word
//! ```
//!
//! timedated asks the kernel, to which every time daemon tells its state, so that chrony and ntpd are seen through it, too.
//! The bus serves only users of the user database, to which the package adds the daemon's. It is asked once in
//! [`ASKED_EVERY`], on a thread of its own.
//!
//! Invariants:
//! - Without a word nobody vouches for the clock: unknown is never synchronised.
//! - Only the first readers wait for the bus, for [`ANSWER_MAX`] at most.

use crate::threads;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Exists while systemd's time daemon has synchronised the clock since the boot.
const TIMESYNC_FILE: &str = "/run/systemd/timesync/synchronized";
/// What talks to the system's bus; it comes with systemd.
const BUSCTL: &str = "/usr/bin/busctl";
/// The property of timedated.
const PROPERTY: [&str; 6] = [
    "--system",
    "get-property",
    "org.freedesktop.timedate1",
    "/org/freedesktop/timedate1",
    "org.freedesktop.timedate1",
    "NTPSynchronized",
];
/// For so long an answer from the bus is used.
const ASKED_EVERY: Duration = Duration::from_mins(1);
/// An answer that takes longer is none, and who was to give it is killed.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether the answer is there.
const LOOKED_EVERY: Duration = Duration::from_millis(10);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64;

/// What the bus said last.
static BUS: Mutex<Last> = Mutex::new(Last { asked: None, synchronised: false });

/// An answer, and when it was asked for.
#[derive(Clone, Copy, Debug)]
struct Last {
    asked: Option<Instant>,
    synchronised: bool,
}

/// True when somebody vouches for the time of day.
pub(super) fn synchronised() -> bool {
    vouched(Path::new(TIMESYNC_FILE).exists(), kernel, bus)
}

/// The order of the witnesses: the file's yes, the kernel's word, and where it has none the bus's.
fn vouched(file: bool, kernel: impl FnOnce() -> Option<bool>, bus: impl FnOnce() -> bool) -> bool {
    file || kernel().unwrap_or_else(bus)
}

/// What time daemons tell the kernel; nothing where the system call is forbidden.
fn kernel() -> Option<bool> {
    // SAFETY: zeroes are a timex that asks and changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a timex of our own.
    let word = unsafe { libc::adjtimex(&raw mut state) };
    (word >= 0).then_some(word != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// The bus's last word. The first reader asks; a word that is old is asked for anew behind the reader's back.
fn bus() -> bool {
    let mut last = BUS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = last.asked.is_none();
    if last.asked.is_some_and(|at| at.elapsed() < ASKED_EVERY) {
        return last.synchronised;
    }
    last.asked = Some(Instant::now());
    if is_first {
        last.synchronised = ask();
        return last.synchronised;
    }
    let anew = || {
        let synchronised = ask();
        BUS.lock().unwrap_or_else(PoisonError::into_inner).synchronised = synchronised;
    };
    // Where there is no room for a thread, the old word does not stand.
    if threads::spawn("clock-bus", anew).is_err() {
        last.synchronised = false;
    }
    last.synchronised
}

fn ask() -> bool {
    let mut busctl = Command::new(BUSCTL);
    busctl.args(PROPERTY);
    said(busctl, ANSWER_MAX).ok().as_deref().and_then(word).unwrap_or(false)
}

/// What busctl prints of a truth value: `b true` or `b false`.
fn word(answer: &str) -> Option<bool> {
    match answer.trim_end() {
        "b true" => Some(true),
        "b false" => Some(false),
        _ => None,
    }
}

/// What a program prints when it ends well within some time.
///
/// # Errors
/// It does not start, fails, prints no text or takes longer, after which it is killed.
fn said(mut program: Command, within: Duration) -> io::Result<String> {
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if started.elapsed() >= within => {
                child.kill()?;
                child.wait()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => thread::sleep(LOOKED_EVERY),
        }
    };
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    let mut answer = String::new();
    if let Some(out) = child.stdout {
        out.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_asked_only_where_nobody_else_has_a_word() {
        let never = || -> bool { panic!("the bus was asked") };
        assert!(vouched(true, || panic!("the kernel was asked"), never), "the file's yes is enough");
        assert!(vouched(false, || Some(true), never));
        assert!(!vouched(false, || Some(false), never), "the kernel's no stands");
        assert!(vouched(false, || None, || true));
        assert!(!vouched(false, || None, || false));
    }

    #[test]
    fn only_a_plain_yes_is_one() {
        assert_eq!(word("b true\n"), Some(true));
        assert_eq!(word("b false\n"), Some(false));
        for answer in ["", "true", "b", "b true x", "s \"b true\"", "Failed to get property"] {
            assert_eq!(word(answer), None, "{answer:?}");
        }
    }

    fn shell(line: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]);
        shell
    }

    #[test]
    fn a_program_that_fails_hangs_or_is_missing_has_no_word() {
        let long = Duration::from_mins(1);
        assert_eq!(said(shell("echo b true"), long).unwrap(), "b true\n");
        assert!(said(shell("echo b true; exit 1"), long).is_err(), "it failed after it spoke");
        let hangs = said(shell("echo b true; exec sleep 600"), Duration::from_millis(50));
        assert_eq!(hangs.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(said(Command::new("/nonexistent/busctl"), long).is_err());
    }
}
