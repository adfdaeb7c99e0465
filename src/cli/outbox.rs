//! `inspectd outbox`: what the sinks have not taken, and another try for what was given up.

use super::store_args::StoreArgs;
use crate::control::client::{ControlError, Piece, Taken};
use crate::control::{Letter, Request};
use crate::store::outbox::{Kind, Owed};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Arguments of `outbox`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// List what was given up, with its reason, and count what is owed.
    List {
        #[command(flatten)]
        store: StoreArgs,
        /// Only of this sink: mqtt, or the NAME of a [sink.NAME].
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Owe messages again. What was given up arrives late, after messages with higher numbers, under
    /// its own id and number and with its own bytes. What waits after a refusal is tried at once, too.
    Retry {
        #[command(flatten)]
        store: StoreArgs,
        /// Only to this sink: mqtt, or the NAME of a [sink.NAME].
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// For example result:17, part:9 or review:3; none: all that were given up.
        #[arg(value_name = "KIND:NUMBER", value_parser = parse)]
        letters: Vec<Owed>,
    },
}

/// Runs the command, through the daemon where one runs.
///
/// # Errors
/// A bad config; no store; another user's.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::List { store, sink, json } => list(&store, sink.as_deref(), json),
        What::Retry { store, sink, letters } => retry(&store, sink, &letters),
    }
}

fn list(store: &StoreArgs, sink: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let (_, mut client) = store.reach()?;
    let mut letters = Vec::new();
    let summary = client.ask::<ControlError>(Request::Outbox, |piece| {
        if let Piece::Item { item, .. } = piece {
            letters.extend(sink.is_none_or(|sink| item["sink"] == sink).then_some(item));
        }
        Ok(Taken::Silently)
    })?;
    let sinks = summary["sinks"].as_object().cloned().unwrap_or_default();
    if let Some(sink) = sink.filter(|sink| !sinks.contains_key(*sink)) {
        let known: Vec<&str> = sinks.keys().map(String::as_str).collect();
        anyhow::bail!("{sink:?} is no sink; there are {}", known.join(", "));
    }
    let of_sink = |sink: &str| sinks.get(sink).map_or(&Value::Null, |state| &state["owed"]);
    if as_json {
        let owed = sink.map_or(&summary["owed"], of_sink);
        println!("{}", json!({ "owed": owed, "dead": letters, "sinks": sinks }));
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for letter in &letters {
        let [sink, kind, seq, at, reason] =
            ["sink", "kind", "seq", "at", "reason"].map(|key| text(&letter[key]));
        let to = if sinks.len() > 1 { format!("{sink}  ") } else { String::new() };
        println!("{kind}:{seq}  {to}{at}  {reason}");
    }
    println!("{} given up; owed: {}", letters.len(), counts(sink.map_or(&summary["owed"], of_sink)));
    for (name, state) in sinks.iter().filter(|_| sinks.len() > 1 && sink.is_none()) {
        let enabled = if state["enabled"] == true { "" } else { " (not enabled)" };
        println!("  {name}{enabled}: {}", counts(&state["owed"]));
    }
    Ok(ExitCode::SUCCESS)
}

fn counts(owed: &Value) -> String {
    Kind::ALL.map(|kind| format!("{} {}s", owed[kind.as_str()], kind.as_str())).join(", ")
}

fn retry(store: &StoreArgs, sink: Option<String>, letters: &[Owed]) -> anyhow::Result<ExitCode> {
    let (_, mut client) = store.reach()?;
    let beside = client.is_daemon();
    let letter = |owed: &Owed| Letter { kind: owed.kind.as_str().to_owned(), seq: owed.seq };
    let letters = (!letters.is_empty()).then(|| letters.iter().map(letter).collect());
    let summary = client.ask::<ControlError>(Request::Retry { letters, sink }, |_| Ok(Taken::Silently))?;
    let when = if beside { "" } else { ", from the next start on" };
    println!("{} are owed to the broker again{when}", summary["retried"]);
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
