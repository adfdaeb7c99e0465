//! `inspectd verify`: proves that the ledgers of inspections and of reviews have no gap and no edit, and that every
//! picture is the one that its record names. It prints the head hash of each ledger, which stands for all of it, and
//! names the first link that does not hold.

use super::progress::Phases;
use super::store_args::StoreArgs;
use crate::control::Request;
use crate::control::client::{ControlError, Piece, Taken};
use crate::store::audit::is_whole;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Pictures that `--json` lists; `bad` has the number of all.
const LISTED_MAX: usize = 10_000;

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Prove the ledgers only.
    #[arg(long, overrides_with = "pictures")]
    no_pictures: bool,
    /// Prove every picture and every part of a record, too: this is the default.
    #[arg(long)]
    pictures: bool,
    /// Go on with the pictures where the last proof of them was ended.
    #[arg(long, conflicts_with = "no_pictures")]
    resume: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command, through the daemon where one runs; the exit code is 1 when a chain is broken or a picture is
/// not what its record names.
///
/// # Errors
/// A bad config; a store that cannot be opened.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (_, mut client) = args.store.reach()?;
    let mut phases = Phases::default();
    let mut bad = Vec::new();
    let request = Request::Verify { pictures: !args.no_pictures, resume: args.resume };
    let answer = client.ask::<anyhow::Error>(request, |piece| {
        match piece {
            Piece::Progress { what, done, total, note } => phases.show(&what, done, total, &note),
            Piece::Item { item, .. } if args.json && bad.len() < LISTED_MAX => bad.push(item),
            Piece::Item { item, .. } if args.json => drop(item),
            Piece::Item { item, .. } => phases.print(&flaw(&item)),
        }
        Ok(Taken::Silently)
    });
    drop(phases);
    let mut found = match answer {
        Err(error) if args.json => match error.downcast_ref::<ControlError>() {
            Some(ControlError::Refused(refusal)) if refusal.code == "cut_off" => {
                println!("{}", json!({ "cut_off": refusal.detail }));
                return Ok(ExitCode::FAILURE);
            }
            _ => return Err(error),
        },
        answer => answer?,
    };
    let whole = is_whole(&found);
    if args.json {
        // What is broken has these keys, and nothing else.
        for chain in ["", "/reviews"] {
            if let Some(of) = found.pointer_mut(chain).and_then(Value::as_object_mut) {
                of.retain(|key, value| {
                    !matches!(key.as_str(), "reason" | "broken_after") || !value.is_null()
                });
            }
        }
        if found["pictures"].is_object() {
            found["pictures"]["listed"] = json!(bad);
        }
        println!("{found}");
    } else {
        tell(&found);
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn flaw(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().unwrap_or_default();
    format!("inspection {} ({}): {} ({})", item["seq"], text("id"), text("reason"), text("sha256"))
}

fn tell(found: &Value) {
    chain("inspections", &found["inspections"], found);
    chain("reviews", &found["reviews"]["entries"], &found["reviews"]);
    let salvaged = &found["salvaged"];
    if let (Some(at), Some(from)) = (salvaged["at"].as_str(), salvaged["from"].as_str()) {
        println!("this store was salvaged from {from} at {at}; lost for good:");
        println!("  inspections {}, reviews {}", runs(&salvaged["inspections"]), runs(&salvaged["reviews"]));
    }
    let pictures = &found["pictures"];
    if pictures.is_null() {
        println!("the pictures were not looked at");
        return;
    }
    let bytes = pictures["bytes"].as_u64().unwrap_or(0);
    let after = pictures["resumed_after"].as_u64();
    let resumed =
        after.map_or_else(String::new, |s| format!(", up to inspection {s} in the proof that was ended"));
    println!("{} files, {} MB proven{resumed}", pictures["files"], bytes / 1_000_000);
    match pictures["bad"].as_u64() {
        Some(0) => println!("every picture is what its record names"),
        _ => println!("{} pictures or parts of records are not what their records name", pictures["bad"]),
    }
    if let Some(seq) = pictures["resumable_after"].as_u64() {
        println!("an earlier proof was ended after inspection {seq}; --resume would have gone on there");
    }
}

/// Runs of numbers, in words.
fn runs(of: &Value) -> String {
    let run = |r: &Value| if r[0] == r[1] { r[0].to_string() } else { format!("{} to {}", r[0], r[1]) };
    let all: Vec<String> = of.as_array().into_iter().flatten().map(run).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn chain(what: &str, count: &Value, found: &Value) {
    let seq = |key: &str| found[key].as_u64().map_or_else(|| "-".to_owned(), |s| s.to_string());
    println!("{count} {what}, {} to {}, {} gaps", seq("first_seq"), seq("last_seq"), found["gaps"]);
    if let Some(hash) = found["head_hash"].as_str() {
        println!("the head hash of {what} is {hash}");
    }
    match found["broken_at"].as_u64() {
        None if found["gaps"] == 0 => println!("the chain of {what} is whole"),
        None => println!("the chain of {what} is whole but for what the salvage noted as lost"),
        Some(at) => {
            let reason = found["reason"].as_str().unwrap_or_default();
            let after = found["broken_after"].as_u64().map_or_else(String::new, |after| {
                format!(", the link from {after} to {at} is the first that does not hold")
            });
            println!("the chain of {what} is broken at {at}{after}: {at} {reason}");
        }
    }
}
