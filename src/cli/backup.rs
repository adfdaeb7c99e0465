//! `inspectd backup`, `restore` and `salvage`: the ways back.
//!
//! ```text
//! backup     store --through the daemon, or opened here--> DIR; again into DIR: only what is new
//! restore    DIR --> a new store
//! salvage    a damaged store --> a new store and a list of what is lost
//! ```

use super::progress::Phases;
use super::store_args::StoreArgs;
use crate::control::Request;
use crate::control::client::{Piece, Taken};
use crate::store::backup::Flawed;
use crate::store::backup::keep::{Keeper, Report as Kept};
use crate::store::backup::restore::{self, Restored};
use crate::store::backup::salvage::{self, REPORT, Report as Saved};
use anyhow::Context as _;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flaws that are printed; the JSON has them all.
const PRINTED_MAX: usize = 50;

/// Arguments of `backup`.
#[derive(clap::Args, Debug)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Directory of the backup: new, empty, or that of an earlier backup of this store.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `restore`.
#[derive(clap::Args, Debug)]
pub(super) struct RestoreArgs {
    /// Directory of the backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory of the new store: new or empty.
    #[arg(long, value_name = "STORE_DIR")]
    to: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `salvage`.
#[derive(clap::Args, Debug)]
pub(super) struct SalvageArgs {
    /// Directory of the damaged store; nothing in it is changed. No daemon may run on it.
    #[arg(long, value_name = "STORE_DIR")]
    from: PathBuf,
    /// Directory of the new store: new or empty, with room for a copy.
    #[arg(long, value_name = "STORE_DIR")]
    to: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Takes a backup. The exit code is 1 when pictures or parts of records are missing or wrong in the store, or records
/// went before any backup held them.
///
/// # Errors
/// A store that cannot be read; a directory that holds something else, or cannot be written. The backup is then
/// unfinished, and what former runs hold is as it was.
pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let (dir, mut client) = args.store.reach()?;
    let mut keeper = Keeper::open(&args.to, &dir)?;
    let mut phases = Phases::default();
    let since = keeper.since().clone();
    let moment = client.ask::<anyhow::Error>(Request::Backup { since }, |piece| {
        match piece {
            Piece::Progress { what, done, total, note } => phases.show(&what, done, total, &note),
            Piece::Item { payload, .. } => {
                keeper.rows(&payload)?;
                return Ok(Taken::Say);
            }
        }
        Ok(Taken::Silently)
    });
    let moment = serde_json::from_value(moment?).context("the end of the backup")?;
    let report = keeper.finish(moment)?;
    drop(phases);
    if args.json {
        print(&report)?;
    } else {
        tell_backup(&report, &args.to);
    }
    let whole = report.flaws == 0 && report.missed.is_none();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell_backup(report: &Kept, to: &std::path::Path) {
    let Kept { inspections, reviews, files, bytes, through, reviews_through, .. } = report;
    println!(
        "backup: {inspections} inspections, {reviews} reviews, {files} files ({} MB) are new in {}",
        bytes / 1_000_000,
        to.display()
    );
    println!("backup: whole up to inspection {through} and review {reviews_through}; its chain is proven");
    if let Some((first, last)) = report.missed {
        println!(
            "backup: inspections {first} to {last} were removed by retention before any backup held them"
        );
    }
    name("backup", report.flaws, &report.named);
}

/// Makes a store from a backup. The exit code is 1 when something is missing that the records name.
///
/// # Errors
/// No finished backup; a target that is not empty; what cannot be read or written.
pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let mut phases = Phases::default();
    let restored =
        restore::restore(&args.from, &args.to, &mut |done, total| phases.show("restore", done, total, ""))?;
    drop(phases);
    if args.json {
        print(&restored)?;
    } else {
        tell_restore(&restored, args);
    }
    let whole = restored.flaws == 0 && restored.broken.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell_restore(restored: &Restored, args: &RestoreArgs) {
    let Restored { at, inspections, reviews, last_seq, owed, .. } = restored;
    println!("restore: {inspections} inspections and {reviews} reviews in {}, as at {at}", args.to.display());
    if let Some(seq) = restored.left_out_through {
        println!(
            "restore: older inspections, up to {seq}, stay in the backup: there is a gap between them and these"
        );
    }
    if restored.unfinished_run {
        println!("restore: the last run of the backup was cut off, and is not in it");
    }
    println!(
        "restore: {owed} messages are owed and will be published. What was acknowledged after the backup is published"
    );
    println!(
        "restore: again, with the same ids and bytes. What was stored after it is not here: its sequence numbers,"
    );
    println!("restore: from {} on, are given to new inspections, with new ids.", last_seq + 1);
    name("restore", restored.flaws, &restored.named);
    for Flawed { seq, what } in &restored.broken {
        println!("restore: {what} (at {seq}), as it was in the store");
    }
}

/// Saves what can be read. The exit code is 1 when something is lost.
///
/// # Errors
/// No store; a target that is not empty; what cannot be written.
pub(super) fn salvage(args: &SalvageArgs) -> anyhow::Result<ExitCode> {
    let mut phases = Phases::default();
    let saved =
        salvage::salvage(&args.from, &args.to, &mut |what, done, total| phases.show(what, done, total, ""))?;
    drop(phases);
    if args.json {
        print(&saved)?;
    } else {
        tell_salvage(&saved, args);
    }
    Ok(if saved.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell_salvage(saved: &Saved, args: &SalvageArgs) {
    let to = args.to.display();
    println!(
        "salvage: {} inspections, {} reviews, {} files in {to}",
        saved.inspections, saved.reviews, saved.files
    );
    if let Some(reason) = &saved.unopened {
        println!("salvage: the database could not be opened: {reason}");
    }
    for (tree, reason) in &saved.damaged {
        println!("salvage: {tree} could not be read to its end: {reason}");
    }
    for (what, lost) in [("inspections", &saved.lost), ("reviews", &saved.lost_reviews)] {
        for (first, last) in lost {
            println!("salvage: lost: {what} {first} to {last}");
        }
    }
    if saved.orphans > 0 {
        println!("salvage: {} files of lost records are in {to}/quarantine", saved.orphans);
    }
    if saved.owed_again > 0 {
        println!(
            "salvage: {} messages are owed again: nobody knows which were acknowledged",
            saved.owed_again
        );
    }
    name("salvage", saved.flaws, &saved.named);
    println!(
        "salvage: the new store goes on after inspection {}; all of this is in {to}/{REPORT}",
        saved.last_seq
    );
}

fn name(what: &str, flaws: u64, named: &[Flawed]) {
    if flaws > 0 {
        println!("{what}: {flaws} files or entries are not what they should be:");
    }
    for Flawed { seq, what: words } in named.iter().take(PRINTED_MAX) {
        println!("{what}:   {seq}: {words}");
    }
}

fn print(report: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
