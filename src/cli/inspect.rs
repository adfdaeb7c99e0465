//! `inspectd inspect IMAGE…`: pictures in, findings and verdicts out, once.
//!
//!     IMAGE -> Frame -> inspect -> table, or with --json one `result` object a line
//!                          '-> --annotate DIR: a copy with boxes, grades and the text read

use super::annotate::annotate;
use super::output;
use super::picture;
use super::progress::Progress;
use super::setup::{frame, without_trigger, SetupArgs};
use crate::camera::folder::decode;
use crate::cli::score::Asked;
use crate::domain::frame::Trigger;
use crate::inspect::inspect;
use crate::mqtt::message::ResultV1;
use crate::store::record::Stored;
use anyhow::Context;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Arguments of `inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pictures: PNG, JPEG, BMP or TIFF.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    setup: SetupArgs,
    /// Write a copy of every picture with boxes, grades and the text read into this directory.
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
    /// What the trigger would bring along, for example `serial=SN4821-B7`; may be repeated.
    #[arg(long = "expect", value_name = "KEY=VALUE", value_parser = pair)]
    expected: Vec<(String, String)>,
    /// Print one JSON object a picture on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command. A picture that cannot be read is told, the others are inspected, and the exit
/// code is 1.
///
/// # Errors
/// A bad pipeline or model; output that cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (pipeline, model) = args.setup.resolve()?;
    let mut engine = model.load()?;
    let trigger = Trigger { expected: args.expected.into_iter().collect(), ..Trigger::default() };
    let pipeline = without_trigger(&pipeline, &trigger.expected);
    let mut progress = Progress::new("inspect", args.images.len() as u64);
    let mut code = ExitCode::SUCCESS;
    let mut out = std::io::stdout().lock();
    for path in &args.images {
        let name = path.display().to_string();
        let pixels = match decode(path) {
            Ok(pixels) => Arc::new(pixels),
            Err(e) => {
                progress.say(&format!("inspectd: {e}"));
                progress.step(&name);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let frame = frame(Arc::clone(&pixels), &name, trigger.clone());
        let inspection = inspect(&mut engine, &frame, &pipeline);
        if let Some(dir) = &args.annotate {
            let file = path.file_name().context("a picture has a name")?.to_string_lossy().into_owned();
            let rois = Asked::of(&pipeline).texts.into_iter().filter_map(|t| Some((t.id, t.roi?)));
            let copy = annotate(&pixels, &inspection, &rois.collect::<Vec<_>>());
            picture::save(&picture::annotated_path(dir, &file), &copy)?;
        }
        if args.json {
            let stored = Stored { seq: 0, inspection, image: None };
            let mut result = serde_json::to_value(ResultV1::new(&stored))?;
            result["file"] = name.clone().into();
            writeln!(out, "{result}")?;
        } else {
            writeln!(out, "{name}\n{}", output::describe(&inspection))?;
        }
        progress.step(&name);
    }
    Ok(code)
}
