//! One function a stage: set up, run [`Effort::runs`] times or as long as the stage may take, median.

use crate::document::ReadError;
use crate::domain::frame::{Frame as Picture, Trigger};
use crate::domain::pipeline::Pipeline;
use crate::inspect::plan::Plan;
use crate::inspect::skip::Asking;
use crate::pixels;
use crate::simulator::{self, Product};
use anyhow::{Context, bail};
use image::RgbImage;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use vlm::attention::Span;
use vlm::batch::Batch;
use vlm::image::{preprocess, smart_resize};
use vlm::template::Opening;
use vlm::{Job, ModelInfo, Qwen3Vl, Timing, Vlm, VlmError};

/// Longest answer about the frame when the weights are random: about the length of one defect. Such
/// weights end an answer by chance only.
pub(super) const RANDOM_ANSWER_TOKENS: usize = 16;
/// Length of an answer about the frame of real weights that the estimate assumes; most tiles are
/// clean, and `[]` is one token.
const ANSWER_TOKENS: usize = 8;
/// A stage is not run again once it took this long.
const STAGE_BUDGET: Duration = Duration::from_secs(20);
/// Tokens that each decoded sequence has before it: a tile of 256x256 and a question.
const CONTEXT_TOKENS: usize = 128;
const WARM_UP_TOKENS: usize = 64;
/// Qwen's own upper bound: the bench chooses sizes itself.
const PIXELS_MAX: u32 = 16_777_216;
/// The frame of a 5 MP camera.
const FRAME_PX: (usize, usize) = (2448, 2048);
const PRODUCT: &str = "machined-plate";
const PIPELINE: &str = include_str!("../../../pipelines/machined-plate.toml");
const SEED: u64 = 1;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Sides of square pictures.
    pub vision_px: &'static [u32],
    pub prefill_tokens: &'static [usize],
    pub decode_sequences: &'static [usize],
    /// Steps of each run.
    pub decode_steps: usize,
    /// Most runs of a stage.
    runs: usize,
}

impl Effort {
    pub(super) const FULL: Self = Self {
        vision_px: &[256, 512],
        prefill_tokens: &[64, 512, 2048],
        decode_sequences: &[1, 4, 8, 16],
        decode_steps: 16,
        runs: 5,
    };
    pub(super) const QUICK: Self = Self {
        vision_px: &[256],
        prefill_tokens: &[64],
        decode_sequences: &[1, 4],
        decode_steps: 4,
        runs: 1,
    };

    /// The median of several runs.
    fn median(&self, mut once: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut times = vec![once()?];
        while times.len() < self.runs && started.elapsed() < STAGE_BUDGET {
            times.push(once()?);
        }
        times.sort();
        Ok(times[times.len() / 2])
    }
}

/// What the estimate of the frame's time starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub vision_s_per_token: f64,
    pub prefill_tok_per_s: f64,
    pub decode_tok_per_s: f64,
}

/// The time of a whole frame.
#[derive(Debug, Serialize)]
pub(super) struct Frame {
    pub width: u32,
    pub height: u32,
    /// Cuts of the frame, those of text regions included.
    pub tiles: usize,
    /// Answers, of all tiles together.
    pub prompts: usize,
    /// Questions that were not asked of a tile, because the pipeline's bank was sure that nothing is there.
    pub skipped: usize,
    pub ms: f64,
    /// Of the run that took so long.
    pub stages: Timing,
}

/// How the whole frame is measured.
#[derive(Debug)]
pub(super) struct Whole {
    pub pipeline: Pipeline,
    /// The weights are random, so that answers are cut.
    pub random: bool,
    /// The frame is left out when it takes longer.
    pub max: Duration,
}

/// The pipeline of a file, or the shipped one.
pub(super) fn pipeline(file: Option<&Path>) -> Result<Pipeline, ReadError> {
    match file {
        Some(file) => crate::recipe::load_pipeline(file),
        None => crate::recipe::pipeline_from_str("machined-plate.toml", PIPELINE),
    }
}

/// A simulated part, as the demo's camera takes it.
pub(super) fn part() -> Arc<RgbImage> {
    let product = Product::by_name(PRODUCT).expect("the product ships with the simulator");
    let (width, height) = FRAME_PX;
    let (rgb, _) = simulator::part(product, SEED, 0, width, height);
    let image = RgbImage::from_raw(width as u32, height as u32, rgb);
    Arc::new(image.expect("the simulator returns three bytes for every pixel"))
}

/// Touches all weights once.
pub(super) fn warm_up(engine: &mut Qwen3Vl) -> anyhow::Result<()> {
    prefill(engine, WARM_UP_TOKENS, &Effort::QUICK)?;
    vision(engine, &RgbImage::new(64, 64), 64, &Effort::QUICK)?;
    decode(engine, 1, Allowed::Anything, &Effort { decode_steps: 1, ..Effort::QUICK })?;
    Ok(())
}

/// One picture through the vision tower: its rows, and the time without resize.
pub(super) fn vision(
    engine: &mut Qwen3Vl,
    part: &RgbImage,
    side: u32,
    effort: &Effort,
) -> anyhow::Result<(usize, Duration)> {
    let config = &engine.model().vision.config;
    let tile = pixels::cut(part, (0, 0), (side, side));
    let patches = preprocess(&tile, config.patch, config.merge, 1, PIXELS_MAX)?;
    let tokens = patches.grid.patches() / (config.merge * config.merge);
    let time = effort.median(|| {
        let started = Instant::now();
        engine.stage(|model, _, _| model.vision.forward(&[&patches]).map(|_| ()))?;
        Ok(started.elapsed())
    })?;
    Ok((tokens, time))
}

/// One sequence of text, and the logits of its last row.
pub(super) fn prefill(engine: &mut Qwen3Vl, tokens: usize, effort: &Effort) -> anyhow::Result<Duration> {
    let own = engine.stage(|_, arena, _| arena.lend(tokens)).context("no room for the keys of a prefill")?;
    let time = effort.median(|| {
        let started = Instant::now();
        feed(engine, &[own], 0, tokens, Allowed::Anything)?;
        Ok(started.elapsed())
    });
    engine.stage(|_, arena, _| arena.give_back(own));
    time
}

/// What may follow in a step of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Anything,
    /// As inside a number of an answer that a grammar binds: the digits, which are adjacent tokens.
    Digits,
}

impl Allowed {
    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Anything => "anything",
            Self::Digits => "digits",
        }
    }

    /// The parts of the output head that are computed for a row.
    fn tiles(self) -> Option<&'static [usize]> {
        (self == Self::Digits).then_some(&[0, 1])
    }
}

/// `effort.decode_steps` passes of one row a sequence, each with the logits of all rows.
pub(super) fn decode(
    engine: &mut Qwen3Vl,
    sequences: usize,
    allowed: Allowed,
    effort: &Effort,
) -> anyhow::Result<Duration> {
    let rows = CONTEXT_TOKENS + effort.decode_steps;
    let own: Option<Vec<Span>> =
        engine.stage(|_, arena, _| (0..sequences).map(|_| arena.lend(rows)).collect());
    let own = own.context("no room for the keys of all sequences")?;
    feed(engine, &own, 0, CONTEXT_TOKENS, allowed)?;
    let time = effort.median(|| {
        let started = Instant::now();
        for step in 0..effort.decode_steps {
            feed(engine, &own, CONTEXT_TOKENS + step, 1, allowed)?;
        }
        Ok(started.elapsed())
    });
    engine.stage(|_, arena, _| own.into_iter().for_each(|span| arena.give_back(span)));
    time
}

/// One pass: each sequence has `filled` rows in its span and takes `rows` more.
fn feed(
    engine: &mut Qwen3Vl,
    sequences: &[Span],
    filled: usize,
    rows: usize,
    allowed: Allowed,
) -> Result<(), VlmError> {
    // Any tokens do; different ones, so that rows are not all alike.
    let vocabulary = engine.model().text.config.vocabulary as u32;
    let ids: Vec<u32> = (0..(sequences.len() * rows) as u32).map(|i| i * 7919 % vocabulary).collect();
    let mut batch = Batch::default();
    for (own, ids) in sequences.iter().zip(ids.chunks(rows)) {
        batch.tokens(ids, filled as u32);
        batch.part([Span { start: own.start, rows: filled }], own.start + filled);
        batch.want_next();
    }
    engine.stage(|model, arena, work| {
        model.text.forward(&batch, arena, work)?;
        let logits = model.text.next_logits(work, |_| allowed.tiles())?;
        // The choice of the token belongs to a step.
        for row in 0..sequences.len() {
            let logits = logits.row(row);
            let best = (0..vocabulary as usize).filter_map(|id| logits.get(id)).reduce(f32::max);
            std::hint::black_box(best);
        }
        Ok(())
    })
}

/// A whole frame, every prompt of every tile; `None` when it would take longer than `max`.
pub(super) fn frame(
    engine: &mut Qwen3Vl,
    part: &Arc<RgbImage>,
    whole: &Whole,
    rates: &Rates,
    effort: &Effort,
) -> anyhow::Result<Option<Frame>> {
    let &Whole { ref pipeline, random, max } = whole;
    let info = engine.info().clone();
    let jobs = jobs(&plan(part, pipeline, &info)?, random);
    let estimate = estimate(&jobs, engine, random, rates)?;
    if estimate > max {
        eprintln!("bench: the frame is left out: it would take some {:.0} s", estimate.as_secs_f64());
        return Ok(None);
    }
    if random {
        eprintln!("bench: answers about the frame are cut at {RANDOM_ANSWER_TOKENS} tokens");
    }
    asked(engine, part, whole, effort)
}

/// A whole frame as whoever answers does it, however long that would take; `None` when it took longer than `max`.
pub(super) fn asked(
    vlm: &mut dyn Vlm,
    part: &Arc<RgbImage>,
    whole: &Whole,
    effort: &Effort,
) -> anyhow::Result<Option<Frame>> {
    let &Whole { ref pipeline, random, max } = whole;
    let info = vlm.info().clone();
    let jobs = jobs(&plan(part, pipeline, &info)?, random);
    let end = Instant::now() + max;
    let mut runs = vec![];
    let time = effort.median(|| {
        let started = Instant::now();
        let plan = plan(part, pipeline, &info)?;
        let run = ask(vlm, &plan, whole, &|| Instant::now() < end)?;
        let took = started.elapsed();
        runs.push((took, run));
        Ok(took)
    })?;
    let late = runs.iter().any(|(_, run)| run.late);
    if late {
        eprintln!("bench: the frame is left out: it was stopped after {} s", max.as_secs());
        return Ok(None);
    }
    let (width, height) = part.dimensions();
    let prompts = jobs.iter().map(|j| j.asks.len()).sum();
    let run = runs.into_iter().find(|(took, _)| *took == time).map(|(_, run)| run).unwrap_or_default();
    let Run { asked, stages, .. } = run;
    let (tiles, ms, skipped) = (jobs.len(), time.as_secs_f64() * 1e3, prompts - asked);
    Ok(Some(Frame { width, height, tiles, prompts, skipped, ms, stages }))
}

/// What came of one run.
#[derive(Default)]
struct Run {
    /// Questions.
    asked: usize,
    stages: Timing,
    /// It was stopped.
    late: bool,
}

/// Asks about the part as the line does: tiles that the pipeline's bank calls normal are skipped.
fn ask(
    vlm: &mut dyn Vlm,
    plan: &Plan,
    whole: &Whole,
    go_on: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<Run> {
    let (mut run, mut asking) = (Run::default(), Asking::new(plan, &whole.pipeline));
    loop {
        let (parts, mut jobs): (Vec<_>, Vec<_>) = asking.ready(plan).into_iter().unzip();
        if jobs.is_empty() {
            return Ok(run);
        }
        cut(&mut jobs, whole.random);
        run.asked += jobs.iter().map(|job| job.asks.len()).sum::<usize>();
        let answers = vlm.answer(&jobs, go_on);
        run.stages = run.stages + answers.timing;
        for (part, answers) in parts.into_iter().zip(answers.jobs) {
            for answer in &answers {
                match answer {
                    Err(VlmError::Stopped) => run.late = true,
                    Err(error) => bail!("the frame was not answered: {error}"),
                    Ok(_) => {}
                }
            }
            asking.take(plan, &whole.pipeline, &part, answers);
        }
    }
}

/// What a model is asked about the part.
///
/// # Errors
/// When the pipeline cannot be asked about one simulated picture: it takes clips, or has a region outside of it.
pub(super) fn plan(part: &Arc<RgbImage>, pipeline: &Pipeline, model: &ModelInfo) -> anyhow::Result<Plan> {
    let frame = Picture {
        camera: "bench".into(),
        pixels: Arc::clone(part),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: "bench".into(),
        replayed: true,
    };
    match Plan::new(&frame, pipeline, model) {
        Ok(plan) => Ok(plan),
        Err(reason) => bail!("the frame was refused: {reason:?}"),
    }
}

fn jobs(plan: &Plan, random: bool) -> Vec<Job> {
    let mut jobs: Vec<Job> = plan.jobs().collect();
    cut(&mut jobs, random);
    jobs
}

/// Bounds the answers of random weights.
fn cut(jobs: &mut [Job], random: bool) {
    for ask in jobs.iter_mut().flat_map(|job| &mut job.asks).filter(|_| random) {
        ask.max_tokens = ask.max_tokens.min(RANDOM_ANSWER_TOKENS);
    }
}

/// Pictures through the tower, rows of pictures and questions through the text model, answers.
fn estimate(jobs: &[Job], engine: &Qwen3Vl, random: bool, rates: &Rates) -> Result<Duration, VlmError> {
    let model = engine.model();
    let factor = (model.vision.config.patch * model.vision.config.merge) as u32;
    let (mut pictures, mut words, mut answers) = (0, 0, 0);
    for job in jobs {
        for image in job.shown.images() {
            let (w, h) = smart_resize(image.width(), image.height(), factor, job.min_pixels, job.max_pixels)?;
            pictures += (w / factor * (h / factor)) as usize;
        }
        for ask in &job.asks {
            words +=
                model.template.question(&model.tokenizer, &ask.text, true, Opening::of(&ask.form))?.len();
            answers += if random { ask.max_tokens } else { ANSWER_TOKENS.min(ask.max_tokens) };
        }
    }
    let seconds = pictures as f64 * rates.vision_s_per_token
        + (pictures + words) as f64 / rates.prefill_tok_per_s
        + answers as f64 / rates.decode_tok_per_s;
    Ok(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}
