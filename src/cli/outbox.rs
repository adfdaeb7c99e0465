//! `inspectd outbox`: what the broker has not taken, and another try for what was given up.

use crate::config::{self, DEFAULT_FILE};
use crate::store::error::StoreError;
use crate::store::outbox::{Kind, Owed};
use crate::store::{Store, StoreOptions};
use anyhow::Context as _;
use serde_json::{json, Map};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `outbox`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// List what was given up, with its reason, and count what is owed.
    List {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Owe what was given up to the broker again. It arrives late, after messages with higher numbers, under its own
    /// id and number and with its own bytes.
    Retry {
        #[command(flatten)]
        place: Place,
        /// For example result:17, part:9 or review:3; none: all.
        #[arg(value_name = "KIND:NUMBER", value_parser = parse)]
        letters: Vec<Owed>,
    },
}

/// Which store.
#[derive(clap::Args, Debug)]
struct Place {
    /// Config file that names the store.
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Place {
    fn open(self) -> anyhow::Result<Store> {
        let dir = match self.store {
            Some(dir) => dir,
            None => config::load(&self.config)?.store.dir,
        };
        anyhow::ensure!(dir.is_dir(), "{}: there is no store", dir.display());
        // It does not tidy up.
        let options = StoreOptions { compact_above_bytes: u64::MAX, ..StoreOptions::default() };
        match Store::open(&dir, options) {
            Err(error @ StoreError::Locked { .. }) => Err(error)
                .context("the daemon runs: command it (cmd/retry, POST /api/v1/commands/retry, the page)"),
            opened => Ok(opened?),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A bad config; a store that cannot be opened.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::List { place, json } => list(&place.open()?, json),
        What::Retry { place, letters } => retry(&place.open()?, &letters),
    }
}

fn list(store: &Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let letters = store.dead_letters()?;
    if as_json {
        let owed = Kind::ALL.map(|kind| (kind.as_str().to_owned(), json!(store.count_of(kind))));
        let dead: Vec<_> = letters
            .iter()
            .map(|letter| {
                json!({
                    "kind": letter.owed.kind.as_str(), "seq": letter.owed.seq, "cause": letter.cause.as_str(),
                    "reason": letter.reason, "at": letter.at,
                })
            })
            .collect();
        println!("{}", json!({ "owed": Map::from_iter(owed), "dead": dead }));
        return Ok(ExitCode::SUCCESS);
    }
    for letter in &letters {
        let Owed { kind, seq } = letter.owed;
        println!("{}:{seq}  {}  {}", kind.as_str(), letter.at, letter.reason);
    }
    let owed = Kind::ALL.map(|kind| format!("{} {}s", store.count_of(kind), kind.as_str()));
    println!("{} given up; owed: {}", letters.len(), owed.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn retry(store: &Store, letters: &[Owed]) -> anyhow::Result<ExitCode> {
    let count = if letters.is_empty() { store.retry_all()? } else { store.retry(letters)? };
    println!("{count} are owed to the broker again, from the next start on");
    Ok(ExitCode::SUCCESS)
}

fn parse(text: &str) -> Result<Owed, String> {
    let (kind, seq) = text.split_once(':').ok_or("must be KIND:NUMBER, for example result:17")?;
    let known = Kind::ALL.map(Kind::as_str).join(", ");
    let kind = Kind::parse(kind).ok_or_else(|| format!("{kind:?} is no kind; there are {known}"))?;
    let seq = seq.parse().map_err(|_| format!("{seq:?} is no number"))?;
    Ok(Owed { kind, seq })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_named_by_kind_and_number() {
        assert_eq!(parse("review:3"), Ok(Owed { kind: Kind::Review, seq: 3 }));
        for (bad, words) in
            [("3", "KIND:NUMBER"), ("image:3", "result, part, review"), ("part:x", "no number")]
        {
            assert!(parse(bad).unwrap_err().contains(words), "{bad}");
        }
    }
}
