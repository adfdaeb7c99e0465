//! `inspectd model info FILE`: what a GGUF file holds. `inspectd model state`: a copy that states what its text
//! model was trained with. `inspectd model accept`: this pair answers the line.

use super::output::print;
use super::progress::Phases;
use super::store_args::StoreArgs;
use crate::config;
use crate::control::Request;
use crate::control::client::{ControlError, Piece, Taken};
use crate::engine::cluster::Cluster;
use crate::inspect::proof::{ByNamedProof, ByProof};
use crate::recipe::registry::Recipe;
use crate::store::pins::ServersPin;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use vlm::ModelInfo;
use vlm::adapter::Adapter;
use vlm::gguf::{Gguf, Value, brief};
use vlm::load::{LABELS_KEY, PROOF_KEY, stated_labels};
use vlm::state::with_keys;

/// Arguments of `model`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Metadata, tensor shapes and bytes by quantisation of a GGUF file.
    Info {
        file: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a copy of a text GGUF that states its labels; tensors stay as they are.
    ///
    /// A model that states its labels is always asked all of them, in this order, and what a pipeline does not
    /// list is dropped from its answers. State exactly the labels of its training prompts, in their order.
    State {
        from: PathBuf,
        /// The copy; must not exist.
        to: PathBuf,
        /// The labels of the training prompts, in their order: `scratch,dent,crack`.
        #[arg(long, value_name = "LABELS", value_delimiter = ',', required = true)]
        labels: Vec<String>,
        /// The set of known tiles, one of those inside this program, by which the model proves that it is whole.
        #[arg(long, value_name = "NAME")]
        proof: Option<String>,
    },
    /// Accept the config's model files as they are now: from now on this pair answers the line, and no other.
    ///
    /// Where active recipes have a gate, the running daemon first replays the parts that people have confirmed by the
    /// new pair, beside the line; one that does not hold is refused, with the parts that it loses.
    Accept {
        #[command(flatten)]
        store: StoreArgs,
        /// Accept it without a replay, for this reason, which stays in the ledger of recipes.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// When the file is no sound GGUF file; the message names the key or tensor. When a copy cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Info { file, json } => {
            let gguf = Gguf::open(&file)?;
            let hash = gguf.sha256()?;
            let text = if json { format!("{}\n", as_json(&gguf, &hash)) } else { describe(&gguf, &hash) };
            print(&text)?;
        }
        Command::State { from, to, labels, proof } => {
            let labels = labels.into_iter().map(Value::Text).collect();
            let proof = proof.map(|name| (PROOF_KEY.to_owned(), Value::Text(name)));
            let keys: Vec<_> =
                [(LABELS_KEY.to_owned(), Value::List(labels))].into_iter().chain(proof).collect();
            with_keys(&from, &to, &keys)?;
            let copy = Gguf::open(&to)?;
            stated_labels(&copy)?;
            println!("{} sha256 {}", to.display(), copy.sha256()?);
        }
        Command::Accept { store, reason } => accept(&store, reason)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Accepts the pair through whoever has the store: the daemon where one runs.
fn accept(store: &StoreArgs, reason: Option<String>) -> anyhow::Result<()> {
    let config::Config { model, recipes, .. } = config::load(&store.config)?;
    anyhow::ensure!(
        reason.as_ref().is_none_or(|reason| !reason.trim().is_empty()),
        "--reason: must not be empty"
    );
    let found = match &model.remote {
        None => vec![of_files(store, &model)?],
        Some(remote) if model.has_files() => vec![of_files(store, &model)?, of_servers(remote)?],
        Some(remote) => vec![of_servers(remote)?],
    };
    ask_to_accept(store, &recipes, &found, reason)
}

/// A model that is there now: its name, its marks, and where it was found.
struct Found {
    name: String,
    text_sha256: String,
    mmproj_sha256: String,
    places: [String; 2],
}

/// What the servers say of their model.
fn of_servers(remote: &config::Remote) -> anyhow::Result<Found> {
    let options = remote.options(Arc::new(ByProof(Arc::new(ByNamedProof)))).map_err(anyhow::Error::msg)?;
    let ModelInfo { name, text_sha256, mmproj_sha256, .. } =
        Cluster::new(options)?.load(&|| {}, &|| true)?.clone();
    let places = [name.clone(), "served by".to_owned()];
    Ok(Found { name, text_sha256, mmproj_sha256, places })
}

/// The pair of the config, whose hashes must be those that it names.
fn of_files(store: &StoreArgs, model: &config::Model) -> anyhow::Result<Found> {
    let (text, mmproj) = (Gguf::open(&model.text)?, Gguf::open(&model.mmproj)?);
    let mut name = text.text("general.name").unwrap_or_default().to_owned();
    let (mut text_sha256, mut mmproj_sha256) = (text.sha256()?, mmproj.sha256()?);
    if let Some(path) = &model.adapter {
        let adapter = Adapter::open(path, &text, &mmproj, [&text_sha256, &mmproj_sha256])?;
        text_sha256 = adapter.identity(&text, &text_sha256);
        mmproj_sha256 = adapter.identity(&mmproj, &mmproj_sha256);
        name = format!("{name}+{}", adapter.name());
    }
    let pinned = [
        (&model.text_sha256, &text_sha256, "text_sha256"),
        (&model.mmproj_sha256, &mmproj_sha256, "mmproj_sha256"),
    ];
    for (pinned, found, key) in pinned {
        if let Some(pinned) = pinned.as_ref().filter(|pinned| *pinned != found) {
            anyhow::bail!(
                "{}: [model] {key} = {pinned}, and the file has {found}: change the config",
                store.config.display()
            );
        }
    }
    let places = [&model.text, &model.mmproj].map(|path| path.display().to_string());
    Ok(Found { name, text_sha256, mmproj_sha256, places })
}

/// Has what was found accepted by whoever has the store: a model, and perhaps the servers beside it.
fn ask_to_accept(
    store: &StoreArgs,
    recipes: &BTreeMap<String, Recipe>,
    found: &[Found],
    reason: Option<String>,
) -> anyhow::Result<()> {
    let [model, beside @ ..] = found else { return Ok(()) };
    let by = ["SUDO_USER", "USER"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let by = format!("command line ({by})");
    let (_, mut client) = store.reach()?;
    let gated = recipes.values().find(|recipe| recipe.pipeline.gate.is_some()).filter(|_| reason.is_none());
    if let Some(recipe) = gated.filter(|_| !client.is_daemon()) {
        let name = &recipe.pipeline.name;
        anyhow::bail!(
            "the recipe {name} has a [gate]: accept the model while the daemon runs, which replays confirmed parts by it, or give --reason"
        );
    }
    let request = Request::AcceptModel {
        name: model.name.clone(),
        text_sha256: model.text_sha256.clone(),
        mmproj_sha256: model.mmproj_sha256.clone(),
        servers: beside.first().map(|servers| ServersPin {
            name: servers.name.clone(),
            text_sha256: servers.text_sha256.clone(),
            mmproj_sha256: servers.mmproj_sha256.clone(),
        }),
        by,
        reason,
    };
    let mut phases = Phases::default();
    let summary = client.ask(request, |piece| {
        if let Piece::Progress { what, done, total, note } = piece {
            phases.show(&what, done, total, &note);
        }
        Ok::<_, ControlError>(Taken::Silently)
    })?;
    drop(phases);
    for Found { text_sha256, mmproj_sha256, places: [text, mmproj], .. } in found {
        println!("accepted: {text} {text_sha256}, {mmproj} {mmproj_sha256}");
    }
    let former = &summary["former"];
    let of = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if former.is_object() {
        let (text, mmproj) = (of(former, "text_sha256"), of(former, "mmproj_sha256"));
        println!("instead of: {text} {mmproj}, of {} by {}", of(former, "at"), of(former, "by"));
    }
    let servers = &former["servers"];
    if servers.is_object() {
        let (text, mmproj) = (of(servers, "text_sha256"), of(servers, "mmproj_sha256"));
        println!("and of the servers {}: {text} {mmproj}", of(servers, "name"));
    }
    Ok(())
}

/// Tensors and bytes of each quantisation.
fn by_quantisation(gguf: &Gguf) -> BTreeMap<String, (usize, u64)> {
    let mut sums: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for t in gguf.tensors.values() {
        let sum = sums.entry(t.dtype.name().to_owned()).or_default();
        sum.0 += 1;
        sum.1 += t.bytes;
    }
    sums
}

fn as_json(gguf: &Gguf, hash: &str) -> serde_json::Value {
    let metadata: Map<_, _> = gguf.metadata.iter().map(|(k, v)| (k.clone(), value_json(v))).collect();
    let tensors: BTreeMap<_, _> = gguf
        .tensors
        .iter()
        .map(|(name, t)| (name, json!({"shape": t.shape, "type": t.dtype.name(), "bytes": t.bytes})))
        .collect();
    let sums: BTreeMap<_, _> = by_quantisation(gguf)
        .into_iter()
        .map(|(k, (tensors, bytes))| (k, json!({"tensors": tensors, "bytes": bytes})))
        .collect();
    json!({
        "file": gguf.path().display().to_string(),
        "files": gguf.paths().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "sha256": hash,
        "bytes": gguf.file_bytes,
        "metadata": metadata,
        "tensors": tensors,
        "bytes_by_type": sums,
    })
}

/// Long lists (the vocabulary) are given by their length, as for people.
fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Uint(n) => json!(n),
        Value::Int(n) => json!(n),
        Value::Float(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::Text(s) => json!(s),
        Value::List(v) if v.len() <= 256 => v.iter().map(value_json).collect(),
        Value::List(_) => json!(brief(value)),
    }
}

fn describe(gguf: &Gguf, hash: &str) -> String {
    let mut out = String::new();
    for path in gguf.paths() {
        let _ = writeln!(out, "{}", path.display());
    }
    let _ = writeln!(out, "sha256 {hash}\n{} bytes, {} tensors\n", gguf.file_bytes, gguf.tensors.len());
    for (key, value) in &gguf.metadata {
        let _ = writeln!(out, "{key} = {}", brief(value));
    }
    out.push('\n');
    for (kind, (tensors, bytes)) in by_quantisation(gguf) {
        let _ = writeln!(out, "{kind:<7} {tensors:>5} tensors {bytes:>14} bytes");
    }
    out.push('\n');
    for (name, t) in gguf.in_order() {
        let _ = writeln!(out, "{name:<40} {:<7} {:?}", t.dtype.name(), t.shape);
    }
    out
}
