//! `inspectd learn`: what a recipe judges by, from parts that people have confirmed.
//!
//! ```text
//! --truth DIR, or the store's confirmed parts --> features --> bank or head beside the pipeline file
//!                                             '-> finetune --> a pair of files or an adapter in a folder of its own
//! ```
//!
//! It is written whole or not at all. A running daemon finds it beside its recipe and takes it through the recipe's
//! checks and its gate, as it does with an edited file.

mod finetune;
mod head;
mod pause;

use super::model_args::ModelArgs;
use super::picture;
use super::progress::Progress;
use super::setup::{frame, named_file};
use super::store_args::StoreArgs;
use crate::camera::decode::Depth;
use crate::config::{self, Config, DEFAULT_FILE};
use crate::control::Which;
use crate::domain::frame::Trigger;
use crate::domain::learn::LearnKind;
use crate::domain::pipeline::Pipeline;
use crate::domain::reference::ReferenceRule;
use crate::evaluate::truth::{self, Truth};
use crate::inspect::adapter::model_of;
use crate::inspect::reference::features_sha256;
use crate::inspect::reference::file;
use crate::learn::LearnError;
use crate::learn::example::{Example, Question, VALUES_MAX, asked, cell_px, look, of_truth};
use crate::learn::references::{self, Figures, Wanted};
use crate::recipe::{beside, load_pipeline_to_learn};
use crate::store::export::write::Form;
use crate::store::record::rfc3339;
use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use vlm::{Qwen3Vl, Steps};

/// Learn what a recipe judges by from parts that people have confirmed.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// A reference bank from good parts, for a prompt of kind reference.
    References(References),
    /// A head from good and defective parts, for a prompt of kind head.
    Head(head::Args),
    /// The model itself, for prompts of the kinds defects and text: a new pair of files, or an adapter.
    Finetune(finetune::Args),
}

/// What every kind of learning is told.
#[derive(clap::Args, Debug)]
struct Common {
    /// The pipeline: a name or a file; what is learned is written beside the file.
    #[arg(long, value_name = "PIPELINE")]
    pipeline: String,
    /// Which prompt of the kind, where there are several.
    #[arg(long, value_name = "ID")]
    prompt: Option<String>,
    /// Learn from the images of DIR/truth.jsonl instead of the store's confirmed parts.
    #[arg(long, value_name = "DIR")]
    truth: Option<PathBuf>,
    /// Config file whose model, pipelines and store are used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Say what there is to learn from, and learn nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct References {
    #[command(flatten)]
    common: Common,
    /// Most cells that a free bank keeps.
    #[arg(long, value_name = "N", default_value_t = references::BANK_CELLS, value_parser = bank_cells)]
    cells: usize,
}

/// Where the store's confirmed parts are put.
pub(super) const CONFIRMED: &str = "confirmed";

fn bank_cells(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|n| (100..=16_000).contains(n));
    number.ok_or_else(|| "expected a number from 100 to 16000".to_owned())
}

/// Runs the command.
///
/// # Errors
/// The recipe asks for nothing of the kind, there is too little to learn from, a picture or the model is bad, or what was
/// learned cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::References(args) => references(&args),
        What::Head(args) => head::run(&args),
        What::Finetune(args) => finetune::run(&args),
    }
}

/// Learns the bank of a recipe from the images of a directory.
///
/// # Errors
/// As [`run`].
pub(super) fn from_truth(
    recipe: &Path,
    truth: &Path,
    model: &ModelArgs,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let common = Common {
        pipeline: recipe.display().to_string(),
        prompt: None,
        truth: Some(truth.to_owned()),
        config: None,
        store: None,
        model: model.clone(),
        dry_run: false,
        json,
    };
    references(&References { common, cells: references::BANK_CELLS })
}

fn references(args: &References) -> anyhow::Result<ExitCode> {
    let ground = Ground::open(&args.common, LearnKind::Bank)?;
    if args.common.dry_run {
        return dry_run(&ground.truths, args.common.json);
    }
    let rule = ground.rule()?;
    let Looked { examples, features_sha256, looked_s } = ground.look(&args.common)?;
    let started = Instant::now();
    let wanted = Wanted {
        pipeline: &ground.pipeline.name,
        rule,
        features_sha256,
        mm_per_px: ground.pipeline.mm_per_px,
        cell_px: cell_px(&ground.pipeline, &examples),
        cells_max: args.cells,
        at: rfc3339(SystemTime::now()),
    };
    let (bank, figures) = references::learn(&examples, &wanted, &|| true)?;
    let bytes = file::write(&bank);
    let to = ground.beside(&rule.file);
    write(&to, &bytes)?;
    let done = Done { figures, bytes: bytes.len(), looked_s, learned_s: started.elapsed().as_secs_f64() };
    done.say(&to, rule, args.common.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to learn from: a recipe, and pictures of which it is known what they show.
struct Ground {
    config: Option<Config>,
    /// The recipe's file.
    path: PathBuf,
    pipeline: Pipeline,
    /// The prompt's place in it.
    prompt: usize,
    learning: LearnKind,
    truths: Vec<Truth>,
    /// Where the pictures are.
    dir: PathBuf,
    /// The store's confirmed parts are there as long as this is.
    _exported: Option<tempfile::TempDir>,
}

/// The features of all pictures.
struct Looked {
    examples: Vec<Example>,
    features_sha256: String,
    looked_s: f64,
}

impl Ground {
    fn open(args: &Common, learning: LearnKind) -> anyhow::Result<Self> {
        let config = args.config.as_deref().map(config::load).transpose()?;
        let named = || format!("--pipeline {}", args.pipeline);
        let path = named_file(config.as_ref(), &args.pipeline).with_context(named)?;
        let pipeline = load_pipeline_to_learn(&path).with_context(named)?;
        let (prompt, _) = asked(&pipeline, learning, args.prompt.as_deref())?;
        let exported = match &args.truth {
            Some(_) => None,
            None => Some(confirmed(&store_args(args.config.as_deref(), args.store.as_deref()), &pipeline)?),
        };
        let from_store = exported.as_ref().map(|dir| dir.path().join(CONFIRMED));
        let dir = args.truth.clone().or(from_store).unwrap_or_default();
        let truths = known(truth::read_dir(&dir)?);
        Ok(Self { config, path, pipeline, prompt, learning, truths, dir, _exported: exported })
    }

    fn rule(&self) -> anyhow::Result<&ReferenceRule> {
        Ok(asked(&self.pipeline, self.learning, Some(&self.pipeline.prompts[self.prompt].id))?.1)
    }

    /// Runs the model over all pictures.
    fn look(&self, args: &Common) -> anyhow::Result<Looked> {
        let started = Instant::now();
        let mut model = args.model.clone().or_config(self.config.as_ref()).load()?;
        let question = Question { pipeline: &self.pipeline, prompt: self.prompt, learning: self.learning };
        let examples = examples(&mut model, &self.truths, &self.dir, question)?;
        Ok(Looked {
            examples,
            features_sha256: features_sha256(
                self.rule()?.features,
                &model_of(&self.pipeline, Steps::info(&model)),
            ),
            looked_s: started.elapsed().as_secs_f64(),
        })
    }

    /// The path of a file beside the recipe.
    fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }
}

/// The store of the config that is named, or of the station's own.
pub(super) fn store_args(config: Option<&Path>, store: Option<&Path>) -> StoreArgs {
    let config = config.map_or_else(|| DEFAULT_FILE.into(), Path::to_owned);
    StoreArgs { config, store: store.map(Path::to_owned) }
}

/// The store's confirmed parts of this pipeline, as a directory with its truth in [`CONFIRMED`].
pub(super) fn confirmed(store: &StoreArgs, pipeline: &Pipeline) -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let which = Which { pipeline: Some(pipeline.name.clone()), reviewed: Some(true), ..Which::default() };
    super::export::write(store, Form::Jsonl, which, &dir.path().join(CONFIRMED))?;
    Ok(dir)
}

/// Of the images those of which it is known whether they are good.
fn known(truths: Vec<Truth>) -> Vec<Truth> {
    truths.into_iter().filter(|t| t.good.is_some() || t.texts.is_empty() || !t.defects.is_empty()).collect()
}

fn dry_run(truths: &[Truth], json: bool) -> anyhow::Result<ExitCode> {
    let bad = truths.iter().filter(|t| t.is_defective()).count();
    let (good, least) = (truths.len() - bad, references::GOOD_MIN);
    if json {
        println!(
            "{}",
            serde_json::json!({ "good": good, "bad": bad, "good_min": least, "enough": good >= least })
        );
    } else {
        println!("good parts       {good}, at least {least} are needed\ndefective parts  {bad}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The features of all images; one that is no proper picture of the recipe is left out and named.
fn examples(
    model: &mut Qwen3Vl,
    truths: &[Truth],
    dir: &Path,
    question: Question<'_>,
) -> anyhow::Result<Vec<Example>> {
    let mut progress = Progress::new("learn", truths.len() as u64);
    let (mut examples, mut values) = (vec![], 0);
    for truth in truths {
        let pixels = Arc::new(picture::load_as(&truth.path(dir), Depth(question.pipeline.frame.depth_bits))?);
        let frame = frame(pixels, &truth.file, Trigger::default());
        match look(model, &frame, question, of_truth(truth)) {
            Ok(example) => {
                values += example.values();
                if values > VALUES_MAX {
                    return Err(LearnError::TooMany { parts: truths.len() }.into());
                }
                examples.push(example);
                progress.step(&truth.file);
            }
            Err(error @ LearnError::Picture { .. }) => progress.step(&format!("left out: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(examples)
}

/// Writes what was learned.
fn write(to: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    beside::write(to, bytes).with_context(|| to.display().to_string())
}

/// Prints figures as one JSON object, with what the command knows besides.
fn print_json(figures: &impl Serialize, more: Value) -> anyhow::Result<()> {
    let mut object = serde_json::to_value(figures)?;
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    println!("{object}");
    Ok(())
}

/// What was learned.
struct Done {
    figures: Figures,
    bytes: usize,
    looked_s: f64,
    learned_s: f64,
}

impl Done {
    fn say(&self, bank: &Path, rule: &ReferenceRule, json: bool) -> anyhow::Result<()> {
        let Self { figures, bytes, looked_s, learned_s } = self;
        if json {
            return print_json(
                figures,
                serde_json::json!({ "bank": bank, "bytes": bytes, "looked_s": looked_s, "learned_s": learned_s }),
            );
        }
        let Figures { good, bad, cells, bank_cells, auroc, alarmed, found, notes, .. } = figures;
        println!(
            "{}: {bytes} bytes, {bank_cells} of {cells} cells of the {}",
            bank.display(),
            rule.features.as_str()
        );
        println!("good parts       {good}, of which {alarmed} would be findings beside the others");
        println!("defective parts  {bad}, of which {found} would be found");
        if let Some(auroc) = auroc {
            println!("AUROC            {auroc:.3} on these parts, each good one beside the others");
        }
        println!("time             {looked_s:.1} s to look, {learned_s:.1} s to learn");
        notes.iter().for_each(|note| println!("note             {note}"));
        Ok(())
    }
}
