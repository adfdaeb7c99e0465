//! `inspectd verify`: proves that the ledger has no gap and no edit.

use crate::config::{self, DEFAULT_FILE};
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
    let verified = Store::open(&dir, options)?.verify()?;
    if args.json {
        let object = json!({
            "inspections": verified.inspections,
            "first_seq": verified.first_seq,
            "last_seq": verified.last_seq,
            "gaps": verified.gaps,
            "broken_at": verified.broken_at,
        });
        println!("{object}");
    } else {
        let seq = |s: Option<u64>| s.map_or_else(|| "-".to_owned(), |s| s.to_string());
        let (first, last) = (seq(verified.first_seq), seq(verified.last_seq));
        println!("{} inspections, {first} to {last}, {} gaps", verified.inspections, verified.gaps);
        match verified.broken_at {
            None => println!("the chain is whole"),
            Some(at) => println!("the chain is broken at {at}: {}", verified.reason.unwrap_or_default()),
        }
    }
    Ok(if verified.broken_at.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
