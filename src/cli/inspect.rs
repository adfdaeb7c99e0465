//! `inspectd inspect IMAGE…`: pictures in, findings and verdicts out, once.
//!
//! ```text
//! IMAGE -> Frame -> inspect -> table, or with --json one `result` object a line
//!                      '-> --annotate DIR: a copy with boxes, grades and the text read
//! ```
//!
//! With --clip all pictures together make one frame, of which the last one is inspected.

use super::annotate::annotate;
use super::output;
use super::picture;
use super::progress::Progress;
use super::setup::{SetupArgs, frame, without_trigger};
use crate::camera::CameraError;
use crate::camera::decode::{Depth, decode};
use crate::domain::frame::{ClipPicture, Frame, Trigger};
use crate::domain::pipeline::Pipeline;
use crate::evaluate::score::Asked;
use crate::inspect::inspect;
use crate::publish::mqtt::dialect::json::message::ResultV1;
use crate::store::record::Stored;
use anyhow::Context;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `inspect`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Pictures: PNG, JPEG, BMP or TIFF.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    setup: SetupArgs,
    /// The pictures are one clip, the last one inspected; they are as far apart as the pipeline says.
    #[arg(long)]
    clip: bool,
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

/// The pictures that make a frame each.
fn frames(args: &Args, pipeline: &Pipeline) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let Some(rule) = pipeline.clip else {
        anyhow::ensure!(!args.clip, "--clip: no prompt of the pipeline {} asks about a clip", pipeline.name);
        return Ok(args.images.iter().map(|path| vec![path.clone()]).collect());
    };
    let (want, have, name) = (rule.frames, args.images.len(), &pipeline.name);
    if args.clip {
        anyhow::ensure!(want == have, "--clip: the pipeline {name} takes {want} pictures, not {have}");
        return Ok(vec![args.images.clone()]);
    }
    eprintln!("inspectd: the pipeline {name} asks about clips of {want} pictures: give them with --clip");
    Ok(args.images.iter().map(|path| vec![path.clone()]).collect())
}

/// The frame of pictures that are so far apart, the last one inspected.
fn load(
    paths: &[PathBuf],
    interval: Duration,
    depth: Depth,
    trigger: &Trigger,
) -> Result<Frame, CameraError> {
    let pictures = paths.iter().map(|path| decode(path, depth).map(Arc::new));
    let mut pictures = pictures.collect::<Result<Vec<_>, _>>()?;
    let last = pictures.pop().unwrap_or_default();
    let name = paths.last().map(|path| path.display().to_string()).unwrap_or_default();
    let mut frame = frame(last, &name, trigger.clone());
    let earlier = pictures.into_iter().zip((1..paths.len() as u32).rev());
    frame.clip = earlier.map(|(pixels, i)| ClipPicture { pixels, before: interval * i }).collect();
    Ok(frame)
}

/// Runs the command. A picture that cannot be read is told, the others are inspected, and the exit
/// code is 1.
///
/// # Errors
/// A bad pipeline or model; output that cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (pipeline, model) = args.setup.resolve()?;
    let mut engine = model.open()?;
    let trigger = Trigger { expected: args.expected.iter().cloned().collect(), ..Trigger::default() };
    let pipeline = without_trigger(&pipeline, &trigger.expected);
    let frames = frames(&args, &pipeline)?;
    let interval = pipeline.clip.map_or(Duration::ZERO, |rule| rule.interval);
    let depth = Depth(pipeline.frame.depth_bits);
    let mut progress = Progress::new("inspect", frames.len() as u64);
    let mut code = ExitCode::SUCCESS;
    let mut out = std::io::stdout().lock();
    for paths in &frames {
        let path = paths.last().context("a frame has a picture")?;
        let name = path.display().to_string();
        let frame = match load(paths, interval, depth, &trigger) {
            Ok(frame) => frame,
            Err(e) => {
                progress.say(&format!("inspectd: {e}"));
                progress.step(&name);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let inspection = inspect(&mut *engine, &frame, &pipeline);
        if let Some(dir) = &args.annotate {
            let file = path.file_name().context("a picture has a name")?.to_string_lossy().into_owned();
            let rois = Asked::of(&pipeline).texts.into_iter().filter_map(|t| Some((t.id, t.roi?)));
            let copy = annotate(&frame.pixels, &inspection, &rois.collect::<Vec<_>>());
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
