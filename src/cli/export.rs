//! `inspectd export`: inspections with what people decided, for other programs.

use super::progress::Progress;
use crate::config::{self, DEFAULT_FILE};
use crate::store::export::{csv_head, Coco, Exported};
use crate::store::query::{unix_ms, Filter};
use crate::store::record::parse_rfc3339;
use crate::store::{Store, StoreOptions};
use anyhow::{ensure, Context};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line an inspection.
    Csv,
    /// One COCO document and the pictures.
    Coco,
    /// `truth.jsonl` and the pictures, as `replay` reads them.
    Jsonl,
}

/// Arguments of `export`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file that names the store.
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
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
}

fn time(text: &str) -> Result<i64, String> {
    parse_rfc3339(text).map(unix_ms)
}

/// Runs the command. The daemon must not run: the store has one owner; the page has a button for it.
///
/// # Errors
/// A bad config; a store that cannot be opened; a directory that is there already or cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = match args.store {
        Some(dir) => dir,
        None => config::load(&args.config)?.store.dir,
    };
    ensure!(dir.is_dir(), "{}: there is no store", dir.display());
    let store = Store::open(&dir, StoreOptions::default())?;
    while store.index_older()? {}
    let filter = Filter {
        pipeline: args.pipeline,
        camera: args.camera,
        from_ms: args.from,
        to_ms: args.to,
        reviewed: (!args.all).then_some(true),
        ..Filter::default()
    };
    let out = &args.out;
    std::fs::create_dir_all(out.parent().unwrap_or(Path::new(""))).ok();
    std::fs::create_dir(out).with_context(|| format!("--out {}", out.display()))?;
    let total = store.find(&filter, None, 0, 0)?.total;
    let exported = write(&store, &filter, args.format, out, total)?;
    eprintln!("export: {exported} of {total} inspections in {}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn write(store: &Store, filter: &Filter, format: Format, out: &Path, total: u64) -> anyhow::Result<u64> {
    let name = match format {
        Format::Csv => "inspections.csv",
        Format::Coco => "coco.json",
        Format::Jsonl => "truth.jsonl",
    };
    let mut file = BufWriter::new(File::create(out.join(name)).with_context(|| format!("{name} in --out"))?);
    let mut coco = Coco::default();
    let mut progress = Progress::new("export", total);
    let mut exported = 0;
    if format == Format::Csv {
        file.write_all(csv_head().as_bytes())?;
    }
    for one in store.export(filter)? {
        let one = one?;
        progress.step(&one.stored.inspection.id);
        if format == Format::Csv {
            file.write_all(one.csv().as_bytes())?;
        } else {
            let Some((name, (width, height))) = copy(store, &one, out)? else { continue };
            match format {
                Format::Coco => coco.add(&one, &name, width, height),
                _ => writeln!(file, "{}", one.truth(&name, width, height))?,
            }
        }
        exported += 1;
    }
    if format == Format::Coco {
        serde_json::to_writer(&mut file, &coco.finish())?;
    }
    file.flush()?;
    Ok(exported)
}

/// Copies the picture; its name in the export and its size. `None`: it is not there any more.
fn copy(store: &Store, one: &Exported, out: &Path) -> anyhow::Result<Option<(String, (u32, u32))>> {
    let kept = one.stored.image.as_ref().and_then(|s| store.image_path(&s.image.sha256));
    let Some(path) = kept else { return Ok(None) };
    let name = one.file(&path.extension().unwrap_or_default().to_string_lossy());
    let target = out.join(&name);
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::copy(&path, &target).with_context(|| target.display().to_string())?;
    let size = image::ImageReader::open(&path)?.with_guessed_format()?.into_dimensions()?;
    Ok(Some((name, size)))
}
