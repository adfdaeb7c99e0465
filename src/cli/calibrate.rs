//! `inspectd calibrate`: the thresholds of a recipe that keep a promise about defective parts.
//!
//! ```text
//! --truth DIR --------------.
//!                           +--inspected again by the recipe--> cases --evaluate::calibrate--> thresholds, or not proven
//! the store's decisions ----'  (decided: as the line brings them)          '--> report: words, or JSON
//!                                                                          '--> --write: another version, in a new file
//! ```
//!
//! - stdout carries the report and nothing else; with `--json` one JSON object, whose keys are a contract with scripts.
//! - What a model has said is no truth about a model: only what people decided counts.
//! - The active recipe is never changed: a new version goes through the replay gate like any other.

mod decided;
mod report;

use super::learn::{CONFIRMED, confirmed, store_args};
use super::model_args::ModelArgs;
use super::output;
use super::progress::Progress;
use super::replay::{inspected, load, only_labelled};
use super::setup::{SetupArgs, named_file};
use crate::camera::decode::Depth;
use crate::config;
use crate::document::{ReadError, read_text};
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::VerdictRule;
use crate::domain::promise::{Calibration, Ground, PromiseRule, Wanted};
use crate::evaluate::calibrate::{Case, calibrate, even_out};
use crate::evaluate::own_word;
use crate::evaluate::truth::{self, Truth};
use crate::recipe::beside;
use crate::recipe::edited::Limits;
use crate::recipe::registry::Recipe;
use anyhow::{Context, ensure};
use decided::Decided;
use image::RgbImage;
use report::{Report, Source};
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The exit code where the parts do not prove what is wanted.
const NOT_PROVEN: u8 = 3;

/// What the help says at its end.
pub(super) const HELP: &str = "\
Exit code 0: the promise is proven. 3: these parts do not prove it, and the report says what they prove and how many \
it takes. 1: something else went wrong.";

/// Find the thresholds that keep a promise about defective parts.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The pipeline: a name or a file.
    #[arg(long, value_name = "PIPELINE")]
    pipeline: String,
    /// Calibrate on the images of DIR/truth.jsonl instead of the store's confirmed parts.
    #[arg(long, value_name = "DIR")]
    truth: Option<PathBuf>,
    /// Of the defective parts, at most this share passes.
    #[arg(long, value_name = "0..0.5", default_value = "0.01", value_parser = escape)]
    escape: f64,
    /// How sure the promise is.
    #[arg(long, value_name = "0.5..1", default_value = "0.95", value_parser = confidence)]
    confidence: f64,
    /// Of the good parts, at most this share fails, as surely; the others go to review.
    #[arg(long, value_name = "0..0.5", default_value = "0.01", value_parser = escape)]
    false_fail: f64,
    /// Write the recipe with the thresholds and the promise into this new file. The active one stays as it is.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Config file whose model, pipelines and store are used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

fn escape(text: &str) -> Result<f64, String> {
    within(text, PromiseRule::ESCAPE)
}

fn confidence(text: &str) -> Result<f64, String> {
    within(text, PromiseRule::CONFIDENCE)
}

fn within(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}

/// Runs the command. The exit code is [`NOT_PROVEN`] when the parts do not prove what is wanted.
///
/// # Errors
/// The truth does not fit its form, the pipeline (which must ask about no clips) or the model is bad, a picture cannot
/// be read, the store cannot be reached, or the new file cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let known = Known::open(&args)?;
    let setup = SetupArgs {
        pipeline: Some(args.pipeline.clone()),
        config: args.config.clone(),
        model: args.model.clone(),
        min_confidence: None,
    };
    let (pipeline, model) = setup.resolve()?;
    ensure!(
        pipeline.clip.is_none(),
        "the pipeline {} asks about clips, and of confirmed parts single pictures are kept",
        pipeline.name
    );
    let pipeline = only_labelled(pipeline, &known.truths);
    let mut engine = model.open()?;
    let depth = Depth(pipeline.frame.depth_bits);
    let look = |truth: &Truth, picture: Arc<RgbImage>| inspected(&mut *engine, &pipeline, truth, picture);
    let (cases, unjudged) = cases(&known.truths, &known.dir, depth, &pipeline.verdict, look)?;
    let calibration = calibrate(&cases, unjudged, wanted(&args));
    let written = known.write(args.write.as_deref(), &calibration)?;
    let report = Report::new(&known.recipe.pipeline, known.source(&args), &calibration, written);
    report.say(args.json, &mut std::io::stdout().lock())?;
    Ok(if calibration.thresholds.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NOT_PROVEN) })
}

fn wanted(args: &Args) -> Wanted {
    let promise = PromiseRule { escape: args.escape, confidence: args.confidence };
    Wanted { promise, false_fail: args.false_fail }
}

/// Inspects all pictures with `look`: their cases, and how many were not judged.
///
/// # Errors
/// A picture cannot be read, or does not fit its truth.
fn cases(
    truths: &[Truth],
    dir: &Path,
    depth: Depth,
    rule: &VerdictRule,
    mut look: impl FnMut(&Truth, Arc<RgbImage>) -> Inspection,
) -> anyhow::Result<(Vec<Case>, usize)> {
    let mut progress = Progress::new("calibrate", truths.len() as u64);
    let mut cases = Vec::with_capacity(truths.len());
    for truth in truths {
        let inspection = look(truth, Arc::new(load(truth, dir, depth)?));
        let is = if truth.is_defective() { "defective" } else { "good" };
        progress.step(&format!("{} {}, is {is}", truth.file, output::badge(&inspection.verdict)));
        cases.extend(Case::of(&inspection, rule, truth.is_defective()));
    }
    let unjudged = truths.len() - cases.len();
    Ok((cases, unjudged))
}

/// A recipe, and pictures of which people have said what they show.
struct Known {
    recipe: Recipe,
    /// The recipe's file.
    path: PathBuf,
    truths: Vec<Truth>,
    /// Where the pictures are.
    dir: PathBuf,
    /// Of the store's decisions, what they are of.
    ground: Option<Ground>,
    /// The store's confirmed parts are there as long as this is.
    _exported: Option<tempfile::TempDir>,
}

impl Known {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let config = args.config.as_deref().map(config::load).transpose()?;
        let named = || format!("--pipeline {}", args.pipeline);
        let path = named_file(config.as_ref(), &args.pipeline).with_context(named)?;
        let recipe = read(&path).with_context(named)?;
        if let Some(to) = &args.write {
            ensure!(!to.exists(), "--write {}: there is such a file already", to.display());
        }
        let store = store_args(args.config.as_deref(), args.store.as_deref());
        let exported = match &args.truth {
            Some(_) => None,
            None => Some(confirmed(&store, &recipe.pipeline)?),
        };
        let from_store = exported.as_ref().map(|dir| dir.path().join(CONFIRMED));
        let dir = args.truth.clone().or(from_store).unwrap_or_default();
        let (mut truths, own_word) = own_word::without(truth::read_dir(&dir)?);
        own_word.words().iter().for_each(|words| eprintln!("calibrate: {words}"));
        // Of a picture of which only texts are known, nobody has said whether the part is good.
        truths.retain(|t| t.good.is_some() || t.texts.is_empty() || !t.defects.is_empty());
        let mut ground = None;
        if exported.is_some() {
            let decided = Decided::of_store(&store, &recipe.pipeline.name)?;
            let before = truths.len();
            truths = even_out(truths, decided.passed, decided.others, |t| decided.of(&t.file));
            ground = Some(decided.ground(&recipe.pipeline.version, before - truths.len()));
        }
        Ok(Self { recipe, path, truths, dir, ground, _exported: exported })
    }

    fn source(&self, args: &Args) -> Source {
        match (&args.truth, &self.ground) {
            (None, Some(ground)) => Source::Store(ground.clone()),
            _ => Source::Truth(self.dir.clone()),
        }
    }

    /// Writes the recipe with what is proven into a new file, and reads it again first.
    fn write(&self, to: Option<&Path>, calibration: &Calibration) -> anyhow::Result<Option<PathBuf>> {
        let (Some(to), Some(thresholds)) = (to, calibration.thresholds) else { return Ok(None) };
        let limits = Limits { thresholds, promise: calibration.wanted.promise };
        let text = limits.apply(&self.recipe.text);
        let file = self.path.display().to_string();
        let read = Recipe::read(&file, &text, self.recipe.files.clone());
        let recipe = read.map_err(|problems| ReadError::Invalid { problems });
        let recipe = recipe.with_context(|| {
            format!(
                "{file}: the thresholds cannot be put into a file of this form, add them by hand:\n{}",
                limits.lines()
            )
        })?;
        let is_meant = recipe.pipeline.promise == Some(limits.promise)
            && recipe.pipeline.judges_like(&self.recipe.pipeline);
        ensure!(is_meant, "{file}: the thresholds cannot be put into a file of this form, add them by hand");
        let of_file = || format!("--write {}", to.display());
        let mut new = OpenOptions::new().write(true).create_new(true).open(to).with_context(of_file)?;
        new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).with_context(of_file)?;
        Ok(Some(to.to_owned()))
    }
}

fn read(path: &Path) -> Result<Recipe, ReadError> {
    let text = read_text(path)?;
    let files = beside::read(path, &text);
    let recipe = Recipe::read(&path.display().to_string(), &text, files);
    recipe.map_err(|problems| ReadError::Invalid { problems })
}

#[cfg(test)]
mod tests;
