//! `inspectd model info FILE`: what a GGUF file holds.

use crate::vlm::gguf::{brief, Gguf, Value};
use crate::vlm::load::sha256;
use serde_json::{json, Map};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `model`.
#[derive(clap::Args, Debug)]
pub struct Args {
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
}

/// Runs the command.
///
/// # Errors
/// When the file is no sound GGUF file; the message names the key or tensor.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Info { file, json } = args.command;
    let gguf = Gguf::open(&file)?;
    let hash = sha256(&file)?;
    if json {
        println!("{}", as_json(&gguf, &hash));
    } else {
        print(&gguf, &hash);
    }
    Ok(ExitCode::SUCCESS)
}

/// Tensors and bytes of each quantisation.
fn by_quantisation(gguf: &Gguf) -> BTreeMap<String, (usize, u64)> {
    let mut sums: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for t in gguf.tensors.values() {
        let sum = sums.entry(format!("{:?}", t.dtype)).or_default();
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
        .map(|(name, t)| {
            (name, json!({"shape": t.shape, "type": format!("{:?}", t.dtype), "bytes": t.bytes}))
        })
        .collect();
    let sums: BTreeMap<_, _> = by_quantisation(gguf)
        .into_iter()
        .map(|(k, (tensors, bytes))| (k, json!({"tensors": tensors, "bytes": bytes})))
        .collect();
    json!({
        "file": gguf.path().display().to_string(),
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

fn print(gguf: &Gguf, hash: &str) {
    println!(
        "{}\nsha256 {hash}\n{} bytes, {} tensors\n",
        gguf.path().display(),
        gguf.file_bytes,
        gguf.tensors.len()
    );
    for (key, value) in &gguf.metadata {
        println!("{key} = {}", brief(value));
    }
    println!();
    for (kind, (tensors, bytes)) in by_quantisation(gguf) {
        println!("{kind:<6} {tensors:>5} tensors {bytes:>14} bytes");
    }
    println!();
    let mut names: Vec<_> = gguf.tensors.iter().collect();
    names.sort_by_key(|(_, t)| t.offset);
    for (name, t) in names {
        println!("{name:<40} {:<6} {:?}", format!("{:?}", t.dtype), t.shape);
    }
}
