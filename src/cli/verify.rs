//! `inspectd verify`: proves that the ledgers of inspections and of reviews have no gap and no edit.

use crate::config::{self, DEFAULT_FILE};
use crate::store::error::StoreError;
use crate::store::ledger::Verified;
use crate::store::{Store, StoreOptions};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file that names the store.
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the exit code is 1 when the chain is broken. The daemon must not run: the store
/// has one owner.
///
/// # Errors
/// A bad config; a store that cannot be opened.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = match args.store {
        Some(dir) => dir,
        None => config::load(&args.config)?.store.dir,
    };
    anyhow::ensure!(dir.is_dir(), "{}: there is no store", dir.display());
    // It looks; it does not tidy up.
    let options = StoreOptions { compact_above_bytes: u64::MAX, ..StoreOptions::default() };
    let store = match Store::open(&dir, options) {
        Err(StoreError::CutOff { ledger, expected, found }) if args.json => {
            println!("{}", json!({ "cut_off": { "ledger": ledger, "expected": expected, "found": found } }));
            return Ok(ExitCode::FAILURE);
        }
        opened => opened?,
    };
    let (verified, reviews) = (store.verify()?, store.verify_reviews()?);
    if args.json {
        let object = json!({
            "inspections": verified.inspections,
            "first_seq": verified.first_seq,
            "last_seq": verified.last_seq,
            "gaps": verified.gaps,
            "broken_at": verified.broken_at,
            "reviews": {
                "entries": reviews.inspections,
                "first_seq": reviews.first_seq,
                "last_seq": reviews.last_seq,
                "gaps": reviews.gaps,
                "broken_at": reviews.broken_at,
            },
        });
        println!("{object}");
    } else {
        tell("inspections", &verified);
        tell("reviews", &reviews);
    }
    let whole = verified.broken_at.is_none() && reviews.broken_at.is_none();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(what: &str, found: &Verified) {
    let seq = |s: Option<u64>| s.map_or_else(|| "-".to_owned(), |s| s.to_string());
    let (first, last) = (seq(found.first_seq), seq(found.last_seq));
    println!("{} {what}, {first} to {last}, {} gaps", found.inspections, found.gaps);
    match found.broken_at {
        None => println!("the chain of {what} is whole"),
        Some(at) => {
            println!("the chain of {what} is broken at {at}: {}", found.reason.as_deref().unwrap_or(""))
        }
    }
}
