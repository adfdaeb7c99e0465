//! `inspectd doctor`: looks at the whole box, and says what to do.
//!
//! ```text
//! ok    disk       12.4 GB free, a record is on the disk in 2.1 ms
//! warn  clock      no time server has set it
//!                  -> timedatectl set-ntp true, …
//! fail  broker     10.0.0.5:8883 does not answer: …
//!                  -> …
//! ```
//!
//! Each part of the box is a file here: `machine` (processor, memory, disk, clock), `plant` (config, model, store,
//! cameras and their network, page), `broker` (connection, TLS, login), `certificate` (ends). It changes nothing, and
//! runs beside the daemon; brokers see one short connection under an id of its own.

mod broker;
mod certificate;
mod machine;
mod plant;

use crate::config::{self, DEFAULT_FILE};
use crate::document::ReadError;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    state: State,
    /// What it is about, for example `disk`.
    what: &'static str,
    /// What was found.
    found: String,
    /// What to do; empty where nothing is to be done.
    todo: String,
}

impl Line {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Ok, what, found: found.into(), todo: String::new() }
    }

    fn warn(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { state: State::Warn, what, found: found.into(), todo: todo.into() }
    }

    fn fail(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { state: State::Fail, what, found: found.into(), todo: todo.into() }
    }
}

/// Runs the command; the exit code is 1 when something has failed.
///
/// # Errors
/// None: what cannot be looked at is a line, too.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut lines = vec![machine::processor()];
    match config::load(&args.config) {
        Ok(config) => {
            let file = args.config.display();
            lines.push(Line::ok("config", format!("{file}: {} cameras", config.cameras.len())));
            lines.extend(machine::of_station(&config));
            lines.extend(plant::lines(&config, &args.config));
            lines.extend(broker::lines(&config));
            lines.extend(certificate::lines(&config));
        }
        Err(error) => {
            lines.push(bad_config(&error, &args.config.display().to_string()));
            lines.push(machine::clock(None));
        }
    }
    let worst = lines.iter().map(|line| line.state).max().unwrap_or(State::Ok);
    if args.json {
        println!("{}", serde_json::json!({ "ok": worst != State::Fail, "lines": lines }));
    } else {
        lines.iter().for_each(print);
        println!("{}", sum(&lines));
    }
    Ok(if worst == State::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn bad_config(error: &ReadError, file: &str) -> Line {
    let found = match error {
        ReadError::Unreadable { source, .. } => format!("{error}: {source}"),
        ReadError::Invalid { problems } => match problems.as_slice() {
            [only] => only.to_string(),
            [first, ..] => format!("{first} (and {} more)", problems.len() - 1),
            [] => error.to_string(),
        },
    };
    Line::fail(
        "config",
        found,
        format!(
            "inspectd check --config {file} names every problem; cameras, model, store and broker were not looked at"
        ),
    )
}

fn print(line: &Line) {
    println!("{:<5} {:<11} {}", line.state.as_str(), line.what, line.found);
    if !line.todo.is_empty() {
        println!("{:<17} -> {}", "", line.todo);
    }
}

fn sum(lines: &[Line]) -> String {
    let count = |state| lines.iter().filter(|line| line.state == state).count();
    match (count(State::Fail), count(State::Warn)) {
        (0, 0) => "all is well".to_owned(),
        (fails, warns) => format!("{fails} to mend, {warns} to look at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_counts_what_is_to_be_done() {
        let lines =
            [Line::ok("a", "fine"), Line::warn("b", "so so", "look"), Line::fail("c", "gone", "mend")];
        assert_eq!(sum(&lines), "1 to mend, 1 to look at");
        assert_eq!(sum(&lines[..1]), "all is well");
        assert_eq!(lines.iter().map(|line| line.state).max(), Some(State::Fail));
    }
}
