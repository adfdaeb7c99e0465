//! `inspectd learn finetune`: the model itself, from confirmed parts.
//!
//! ```text
//! pictures with their truth --> tiles --> steps for N minutes, niced, a checkpoint a minute --> OUT/P.gguf, mmproj-P.gguf
//!                                           |-- the line is busy: it waits (pause)          --> or an adapter
//!                                           '-- SIGTERM, ctrl-C: a checkpoint; the same command goes on
//! ```
//!
//! The running line keeps its model. What is written is another model: config, `inspectd model accept`.

use super::pause::Pause;
use super::{Common, confirmed, print_json, store_args};
use crate::camera::decode::Depth;
use crate::cli::bench::{field, peak_rss_bytes};
use crate::cli::model_args::ModelArgs;
use crate::cli::picture;
use crate::cli::progress::Progress;
use crate::cli::setup::{frame, named_file, with_rois};
use crate::config;
use crate::daemon::told::Told;
use crate::domain::frame::Trigger;
use crate::domain::pipeline::Pipeline;
use crate::evaluate::own_word;
use crate::evaluate::truth::{self, Truth};
use crate::learn::LearnError;
use crate::learn::finetune::draw::Set;
use crate::learn::finetune::examples::{Collected, LeftOut, asked, enough, labels};
use crate::learn::finetune::train::{Outcome, Told as Step, Wanted, train};
use crate::learn::finetune::{CHECKPOINT_FILE, How, Pair};
use crate::recipe::load_pipeline_to_learn;
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vlm::ModelInfo;
use vlm::load::stated_labels;

/// Minutes unless others are said, and the most.
const MINUTES: f64 = 10.0;
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;
/// Rank of an adapter unless another one is said, and the largest.
const RANK: usize = 16;
const RANK_MAX: usize = 256;
/// Nobody is kept waiting by it: the last of the priorities.
const NICE: i32 = 19;
/// What the pictures, the activations of a step and the program take beside the weights: an estimate on the safe side, for
/// the refusal before the start.
const WORKING_BYTES: u64 = 1 << 30;
/// Numbers of four bytes that each weight takes: itself, its gradient and two moments, and a copy for a checkpoint of three.
const NUMBERS_A_WEIGHT: u64 = 7;
/// The end came before the time was spent (`EX_TEMPFAIL` of sysexits.h): the same command goes on.
const STOPPED: u8 = 75;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Folder for the files and the checkpoint; it is made.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Time on steps, over all runs of this folder.
    #[arg(long, value_name = "N", default_value_t = MINUTES, value_parser = minutes)]
    minutes: f64,
    /// End after so many steps, when they come before the minutes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Write an adapter, small matrices beside the weights, instead of a pair.
    #[arg(long)]
    lora: bool,
    /// Rank of the adapter.
    #[arg(long, value_name = "N", default_value_t = RANK, value_parser = rank, requires = "lora")]
    rank: usize,
    /// Start over, also where there is a checkpoint.
    #[arg(long)]
    anew: bool,
    /// Do not wait while a station on this box is busy.
    #[arg(long)]
    no_pause: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= MINUTES_MAX);
    number.ok_or_else(|| format!("expected a number of minutes above 0, at most {MINUTES_MAX}"))
}

fn rank(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|n| (1..=RANK_MAX).contains(n));
    number.ok_or_else(|| format!("expected a number from 1 to {RANK_MAX}"))
}

/// Runs the command.
///
/// # Errors
/// There is too little to learn from, a file is bad or cannot be written, or there is no memory for it.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let ground = Ground::open(args)?;
    let how = if args.lora { How::Low { rank: args.rank } } else { How::Whole };
    if args.common.dry_run {
        ground.say(&args.common, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    let needed = memory(&ground, how)?;
    if !args.common.json {
        eprintln!("finetune: {} MiB of memory at most, checkpoint in {}", needed >> 20, args.out.display());
    }
    let device = ground.model.device.open()?;
    let wanted = Wanted {
        pair: &ground.pair,
        how,
        pipeline: &ground.pipeline.name,
        labels: &ground.labels,
        asked: &ground.asked,
        dir: &args.out,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        steps_max: args.steps,
        anew: args.anew,
        device: &device,
    };
    let told = Told::listen()?;
    yield_to_others();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(ground.model.threads).build()?;
    let outcome = {
        let mut shown = Shown::new(&wanted);
        let pause = Mutex::new(Pause::new(station(args), args.common.json));
        let goes_on = || !told.is_to_stop();
        let keep_going = || {
            pause.lock().unwrap_or_else(PoisonError::into_inner).wait(&goes_on);
            goes_on()
        };
        pool.install(|| train(&ground.set, &wanted, &keep_going, &mut |step| shown.show(step)))?
    };
    ground.say(&args.common, Some(&outcome))?;
    if outcome.is_complete() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "finetune: stopped after {} steps; the same command goes on from {}",
        outcome.steps,
        args.out.join(CHECKPOINT_FILE).display()
    );
    Ok(ExitCode::from(STOPPED))
}

/// The store of the station on this box; `None`: nobody is to be waited for, or none is known.
fn station(args: &Args) -> Option<PathBuf> {
    let Common { config, store, .. } = &args.common;
    if args.no_pause { None } else { store_args(config.as_deref(), store.as_deref()).dir().ok() }
}

/// A step gives way to whatever else runs on the box.
fn yield_to_others() {
    // SAFETY: the call takes three numbers. Threads that are started later have the priority of this one.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0;
    if refused {
        tracing::warn!("the priority cannot be lowered: {}", std::io::Error::last_os_error());
    }
}

/// Progress by the time that is spent.
struct Shown {
    progress: Progress,
    by_steps: bool,
}

impl Shown {
    fn new(wanted: &Wanted<'_>) -> Self {
        let total = wanted.steps_max.unwrap_or(wanted.time.as_secs().max(1));
        Self { progress: Progress::new("finetune", total), by_steps: wanted.steps_max.is_some() }
    }

    fn show(&mut self, step: Step) {
        let Step { steps, loss, spent, left } = step;
        let note = format!("step {steps}, loss {loss:.3}, {:.1} min left", left.as_secs_f64() / 60.0);
        self.progress.reach(if self.by_steps { steps } else { spent.as_secs() }, &note);
    }
}

/// Bytes that a run takes at most.
///
/// # Errors
/// There are not as many free.
fn memory(ground: &Ground, how: How) -> anyhow::Result<u64> {
    let weights = ground.pair.count() as u64;
    let numbers = match how {
        How::Whole => NUMBERS_A_WEIGHT,
        // The source, the sums of a step and their gradients.
        How::Low { .. } => 3,
    };
    let needed = weights * 4 * numbers + WORKING_BYTES + ground.set.bytes() as u64;
    let free = field("/proc/meminfo", "MemAvailable");
    let free = free.and_then(|kb| kb.trim_end_matches(" kB").parse::<u64>().ok()).map(|kb| kb << 10);
    if let Some(free) = free {
        ensure!(
            needed <= free,
            "fine-tuning {} million weights takes {} MiB, and {} MiB are free: take a smaller model, --lora, or a larger box",
            weights / 1_000_000,
            needed >> 20,
            free >> 20
        );
    }
    Ok(needed)
}

/// What there is to learn from, and the model that learns.
struct Ground {
    pipeline: Pipeline,
    model: ModelArgs,
    pair: Pair,
    /// That the new model will state, and all that are asked.
    labels: Vec<String>,
    asked: Vec<String>,
    set: Set,
    left_out: LeftOut,
    notes: Vec<String>,
}

impl Ground {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let common = &args.common;
        let config = common.config.as_deref().map(config::load).transpose()?;
        let named = || format!("--pipeline {}", common.pipeline);
        let path = named_file(config.as_ref(), &common.pipeline).with_context(named)?;
        let mut pipeline =
            only(load_pipeline_to_learn(&path).with_context(named)?, common.prompt.as_deref())?;
        // It starts from the pair, and what is asked is the pair's.
        pipeline.adapter = None;
        let model = common.model.or_config(config.as_ref());
        if let Some(adapter) = &model.adapter {
            bail!("fine-tuning starts from a pair alone, and there is an adapter: {}", adapter.display());
        }
        let (text, mmproj) = model.files()?;
        let pair = Pair::open(&text, &mmproj)?;
        let labels = labels(&pipeline, &stated_labels(&pair.text)?);
        let asked = if labels.is_empty() { distinct(asked(&pipeline)) } else { labels.clone() };
        let store = || store_args(common.config.as_deref(), common.store.as_deref());
        let exported = if common.truth.is_none() { Some(confirmed(&store(), &pipeline)?) } else { None };
        let dir = match (&common.truth, &exported) {
            (Some(dir), _) => dir.clone(),
            (None, Some(exported)) => exported.path().join(super::CONFIRMED),
            (None, None) => PathBuf::new(),
        };
        let (truths, own) = own_word::without(truth::read_dir(&dir)?);
        own.words().iter().for_each(|words| eprintln!("finetune: {words}"));
        let info = ModelInfo { labels: labels.clone(), ..ModelInfo::default() };
        let Collected { tiles, left_out, .. } = collect(&truths, &dir, &pipeline, &info)?;
        let (set, notes) = enough(Set::new(tiles, &asked), left_out)?;
        Ok(Self { pipeline, model, pair, labels, asked, set, left_out, notes })
    }

    /// What there is to learn from, and what came of it.
    fn say(&self, common: &Common, outcome: Option<&Outcome>) -> anyhow::Result<()> {
        let [defective, good, lines] = self.set.counts();
        if common.json {
            let counts = serde_json::json!({
                "defective_tiles": defective, "good_tiles": good, "lines_tiles": lines, "labels": self.labels,
                "without_boxes": self.left_out.without_boxes, "cut_off": self.left_out.cut_off,
                "not_asked": self.left_out.not_asked, "notes": self.notes });
            return print_json(&counts, outcome.map_or_else(|| serde_json::json!({}), of_outcome));
        }
        println!("tiles            {defective} defective, {good} good, {lines} with lines of text");
        let LeftOut { without_boxes, cut_off, not_asked } = self.left_out;
        println!(
            "left out         {without_boxes} parts without boxes, {cut_off} tiles with something cut off, {not_asked} with what is not asked"
        );
        self.notes.iter().for_each(|note| println!("note             {note}"));
        if let Some(outcome) = outcome {
            let Outcome { steps, spent, first_loss, last_loss, .. } = outcome;
            println!("steps            {steps} in {:.1} min", spent.as_secs_f64() / 60.0);
            println!("loss             {first_loss:.3} at first, {last_loss:.3} at last");
            outcome.files.iter().for_each(|file| println!("written          {}", file.display()));
        }
        Ok(())
    }
}

fn of_outcome(outcome: &Outcome) -> serde_json::Value {
    let Outcome { steps, spent, first_loss, last_loss, resumed_at, files } = outcome;
    serde_json::json!({
        "steps": steps, "seconds": spent.as_secs_f64(), "first_loss": first_loss, "loss": last_loss,
        "resumed_at": resumed_at, "complete": outcome.is_complete(), "files": files,
        "peak_rss_bytes": peak_rss_bytes() })
}

/// The recipe with one of its prompts alone, where one is named.
fn only(mut pipeline: Pipeline, id: Option<&str>) -> anyhow::Result<Pipeline> {
    if let Some(id) = id {
        pipeline.prompts.retain(|prompt| prompt.id == id);
        ensure!(!pipeline.prompts.is_empty(), "the pipeline {} has no prompt {id}", pipeline.name);
    }
    Ok(pipeline)
}

fn distinct<'a>(words: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    for word in words {
        if !all.contains(word) {
            all.push(word.clone());
        }
    }
    all
}

/// Tiles of all pictures; one that is no proper picture of the recipe is left out and named.
fn collect(
    truths: &[Truth],
    dir: &Path,
    pipeline: &Pipeline,
    model: &ModelInfo,
) -> anyhow::Result<Collected> {
    let mut progress = Progress::new("read", truths.len() as u64);
    let mut collected = Collected::default();
    for truth in truths {
        let pixels = Arc::new(picture::load_as(&truth.path(dir), Depth(pipeline.frame.depth_bits))?);
        let frame = frame(pixels, &truth.file, Trigger::default());
        let own = with_rois(pipeline, &truth.rois);
        match collected.add(&frame, &own, model, truth) {
            Ok(()) => progress.step(&truth.file),
            Err(error @ LearnError::Picture { .. }) => progress.step(&format!("left out: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(collected)
}
