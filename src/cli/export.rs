//! `inspectd export`: inspections with what people decided, for other programs.

use super::progress::Phases;
use super::store_args::StoreArgs;
use crate::control::client::{Piece, Taken};
use crate::control::{Request, Which};
use crate::store::export::write::{Form, Summary};
use crate::store::images::{EXTENSIONS, hex, sha256};
use crate::store::query::unix_ms;
use crate::store::record::parse_rfc3339;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line an inspection.
    Csv,
    /// One line a finding.
    Findings,
    /// One COCO document and the pictures.
    Coco,
    /// `truth.jsonl` and the pictures, as `replay` reads them.
    Jsonl,
}

/// Arguments of `export`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// New directory to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also what nobody decided about, marked as the model's own.
    #[arg(long)]
    all: bool,
    /// Only of this pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only of this camera.
    #[arg(long, value_name = "ID")]
    camera: Option<String>,
    /// Only finished at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// Only finished at or before this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// Print one JSON object that says what was written.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<i64, String> {
    parse_rfc3339(text).map(unix_ms)
}

/// Runs the command, through the daemon where one runs. The exit code is 1 when inspections had to be left out
/// because they or their pictures are missing or damaged.
///
/// # Errors
/// A bad config; a store that cannot be opened; a directory that is there already or cannot be written.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let form = match args.format {
        Format::Csv => Form::Csv,
        Format::Findings => Form::Findings,
        Format::Coco => Form::Coco,
        Format::Jsonl => Form::Jsonl,
    };
    let which = Which {
        pipeline: args.pipeline,
        camera: args.camera,
        from_ms: args.from,
        to_ms: args.to,
        reviewed: (!args.all).then_some(true),
    };
    let summary = write(&args.store, form, which, &args.out)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    tell(&summary, &args.out);
    Ok(if summary.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes inspections of a store into a new directory, through the daemon where one runs.
///
/// # Errors
/// As `run`.
pub(super) fn write(store: &StoreArgs, form: Form, which: Which, out: &Path) -> anyhow::Result<Summary> {
    let (dir, mut client) = store.reach()?;
    std::fs::create_dir_all(out.parent().unwrap_or(Path::new(""))).ok();
    std::fs::create_dir(out).with_context(|| format!("--out {}", out.display()))?;
    let document = out.join(form.document());
    let mut file = BufWriter::new(File::create(&document).with_context(|| document.display().to_string())?);
    let labels = if form == Form::Coco { store.labels(which.pipeline.as_deref()) } else { vec![] };
    let mut phases = Phases::default();
    let summary = client.ask::<anyhow::Error>(Request::Export { form, which, labels }, |piece| {
        match piece {
            Piece::Progress { what, done, total, note } => phases.show(&what, done, total, &note),
            Piece::Item { item, payload } if item["picture"].is_null() => file.write_all(&payload)?,
            Piece::Item { item, .. } => copy(&dir, out, &item["picture"])?,
        }
        Ok(Taken::Silently)
    })?;
    file.flush()?;
    drop(phases);
    Ok(serde_json::from_value(summary)?)
}

fn tell(summary: &Summary, out: &Path) {
    eprintln!("export: {} of {} inspections in {}", summary.written, summary.total, out.display());
    if summary.without_picture > 0 {
        eprintln!("export: {} left out: no picture was kept of them", summary.without_picture);
    }
    if summary.damaged > 0 {
        eprintln!("export: {} left out: they or their pictures are missing or damaged", summary.damaged);
        for (seq, id, what) in &summary.named {
            eprintln!("export:   inspection {seq} ({id}): {what}");
        }
    }
}

/// Copies a picture out of the store, proving it. What the daemon names is believed only as far as it stays inside
/// the store and inside `--out`: the command may be root's.
fn copy(dir: &Path, out: &Path, picture: &Value) -> anyhow::Result<()> {
    let text = |key: &str| picture[key].as_str().unwrap_or_default();
    let (name, digest, extension) = (Path::new(text("name")), text("sha256"), text("extension"));
    let plain = name.components().all(|c| matches!(c, Component::Normal(_)));
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    ensure!(plain && is_digest && EXTENSIONS.contains(&extension), "{picture}: no picture's name");
    let (head, tail) = digest.split_at(2);
    let from = dir.join("images").join(head).join(format!("{tail}.{extension}"));
    let bytes = std::fs::read(&from).with_context(|| from.display().to_string())?;
    if hex(&sha256(&bytes)) != digest {
        bail!("{}: its bytes do not match its name", from.display());
    }
    let target = out.join(name);
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::write(&target, bytes).with_context(|| target.display().to_string())
}
