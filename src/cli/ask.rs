//! `inspectd ask`: a free question, with or without pictures.
//!
//! ```text
//! question, pictures, film (`film`) --> job --answered--> text, which a terminal sees while it is made, or JSON
//! --each: a job for each picture of the film --> answers with their times --> one about all of them
//! ```

mod film;

use super::model_args::ModelArgs;
use super::output;
use crate::camera::decode::{Depth, FILE_MAX_BYTES, decode, from_bytes};
use anyhow::Context;
use image::RgbImage;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use vlm::free::Free;
use vlm::{Ask, ClipFrame, Completion, Delta, Finish, Form, Job, Qwen3Vl, Rank, Sampling, Shown, Steps};

/// In the place of the question or of a picture: what comes on the standard input.
const STDIN: &str = "-";
/// A question on the standard input, in bytes.
const QUESTION_MAX: u64 = 1 << 20;
/// Pixels of all pictures of a film after their resize, unless --max-pixels says another for each: as
/// `Qwen3VLVideoProcessor` of Hugging Face transformers spreads them.
const FILM_PIXELS: u32 = 25_165_824;

/// Arguments of `ask`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The question; `-` reads it from the standard input.
    text: String,
    /// A picture to show; may stand several times. `-` reads it from the standard input.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// The pictures are one clip, so many milliseconds apart, and not pictures for themselves.
    #[arg(long, value_name = "MS", requires = "images")]
    interval_ms: Option<u64>,
    /// A film to show, as a clip of pictures with their times.
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    video: Option<PathBuf>,
    /// Pictures of the film for each second.
    #[arg(long, value_name = "N", default_value_t = 2.0, requires = "video")]
    fps: f64,
    /// Most pictures of the film; of a longer one they stand further apart.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=768), default_value_t = 64, requires = "video")]
    max_frames: u32,
    /// Ask about each picture of the film for itself, and then about these answers.
    #[arg(long, requires = "video", conflicts_with = "ids")]
    each: bool,
    #[command(flatten)]
    model: ModelArgs,
    /// 0: greedy [default: what the model states (general.sampling.*), else 0; with --grammar 0].
    #[arg(long)]
    temperature: Option<f64>,
    /// Sample only from the smallest set of tokens with this probability [default: as --temperature].
    #[arg(long)]
    top_p: Option<f64>,
    /// Sample only from this many best tokens [default: as --temperature].
    #[arg(long)]
    top_k: Option<usize>,
    /// Divide the logits of tokens already said [default: as --temperature, else 1].
    #[arg(long)]
    repeat_penalty: Option<f32>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest answer in tokens. A model that thinks before it answers (Qwen3-VL-Thinking) needs thousands.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Fewest pixels of a picture after its resize [default: what the vision file states, else 65536, which is Qwen's
    /// own].
    ///
    /// Smaller pictures are enlarged, so that the model sees details in the size that it was trained on. A model that
    /// states its labels was trained on tiles of recipes, whose minimum is lower: there it is 4096.
    #[arg(long)]
    min_pixels: Option<u32>,
    /// Most pixels of a picture after its resize [default: what the vision file states, else 16777216].
    #[arg(long)]
    max_pixels: Option<u32>,
    /// A file with a grammar (llguidance's Lark) that the answer must follow.
    #[arg(long)]
    grammar: Option<PathBuf>,
    /// Keep control tokens visible in the answer.
    #[arg(long)]
    special: bool,
    /// Add token ids and log probabilities to the JSON.
    #[arg(long)]
    ids: bool,
    /// Print the answer while it is made, as a terminal always sees it.
    #[arg(long, conflicts_with_all = ["json", "special"])]
    stream: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or the engine fails; clear words name the file.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(temperature) = args.temperature.filter(|t| *t < 0.0 || t.is_nan()) {
        anyhow::bail!("--temperature {temperature}: 0 or more expected");
    }
    let question = question(&args)?;
    let shown = shown(&args)?;
    let grammar = args
        .grammar
        .as_ref()
        .map(|p| std::fs::read_to_string(p).map(Arc::from).with_context(|| p.display().to_string()));
    let form = grammar.transpose()?.map_or(Form::Free, Form::Lark);
    let mut engine = args.model.load()?;
    let free = engine.model().free.clone();
    let ask = Ask { sampling: sampling(&args, &form, &free), ..Ask::new(&question, form, args.max_tokens) };
    let (min_pixels, max_pixels) = pixels(&args, &free, &shown)?;
    let job = Job { shown, min_pixels, max_pixels, asks: vec![ask], adapter: None };
    let said = if args.each { film::each(&mut engine, job, &args)? } else { whole(&mut engine, job, &args)? };
    if args.json {
        print_line(&said.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer to one job: printed, or as JSON.
fn whole(engine: &mut Qwen3Vl, mut job: Job, args: &Args) -> anyhow::Result<Value> {
    let streams = args.stream || (!args.json && !args.special && std::io::stdout().is_terminal());
    job.asks.iter_mut().for_each(|ask| ask.streams = streams);
    let answer = answer(engine, job)?;
    let answer_ids: Vec<u32> = answer.tokens.iter().map(|t| t.id).collect();
    let text = engine.model().tokenizer.decode(&answer_ids, args.special);
    if !args.json {
        // What was streamed stands there already, up to its line break.
        print_line(if streams { "" } else { &text })?;
    }
    let finish = match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let mut out = json!({
        "text": text,
        "prompt_tokens": answer.prompt_ids.len(),
        "completion_tokens": answer.tokens.len(),
        "finish_reason": finish,
    });
    if args.ids {
        out["prompt_ids"] = json!(answer.prompt_ids);
        out["ids"] = json!(answer_ids);
        out["logprobs"] = json!(answer.tokens.iter().map(|t| t.prob.ln()).collect::<Vec<_>>());
    }
    Ok(out)
}

/// Answers the one question of a job; what it streams is printed at once.
fn answer(engine: &mut Qwen3Vl, job: Job) -> anyhow::Result<Completion> {
    let (mut answered, mut deltas) = (vec![], vec![]);
    engine.submit(0, Rank::default(), job);
    while engine.step(&mut answered) {
        print_further(engine, &mut deltas)?;
    }
    print_further(engine, &mut deltas)?;
    let answers = answered.pop().context("the engine gave no answer")?.answers;
    Ok(answers.into_iter().next().context("the engine gave no answer")??)
}

/// Prints what a streamed answer says further.
fn print_further(engine: &mut Qwen3Vl, deltas: &mut Vec<Delta>) -> std::io::Result<()> {
    engine.deltas(deltas);
    deltas.drain(..).try_for_each(|delta| output::print(&delta.text))
}

fn print_line(text: &str) -> std::io::Result<()> {
    output::print(&format!("{text}\n"))
}

fn question(args: &Args) -> anyhow::Result<String> {
    if args.text != STDIN {
        return Ok(args.text.clone());
    }
    anyhow::ensure!(
        !args.images.iter().any(|path| is_stdin(path)),
        "the standard input is either the question or a picture"
    );
    let mut text = String::new();
    std::io::stdin()
        .take(QUESTION_MAX + 1)
        .read_to_string(&mut text)
        .context("the question on the standard input")?;
    anyhow::ensure!(
        text.len() as u64 <= QUESTION_MAX,
        "the question on the standard input: at most {QUESTION_MAX} bytes expected"
    );
    Ok(text.trim_end().to_owned())
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// The pictures, a clip of them, or a film.
fn shown(args: &Args) -> anyhow::Result<Shown> {
    if let Some(path) = &args.video {
        return Ok(Shown::Clip(film::pictures(path, args.fps, args.max_frames as usize)?));
    }
    let stdin = args.images.iter().filter(|path| is_stdin(path)).count();
    anyhow::ensure!(stdin <= 1, "--image - stands {stdin} times, and there is one standard input");
    let images = args.images.iter().map(|p| Ok(Arc::new(picture(p)?))).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(ms) = args.interval_ms else { return Ok(Shown::Images(images)) };
    let at = |i: usize| Duration::from_millis(ms.saturating_mul(i as u64));
    Ok(Shown::Clip(images.into_iter().enumerate().map(|(i, image)| ClipFrame { image, at: at(i) }).collect()))
}

fn picture(path: &Path) -> anyhow::Result<RgbImage> {
    if !is_stdin(path) {
        return Ok(decode(path, Depth::default())?);
    }
    let (mut bytes, name) = (vec![], Path::new("the standard input"));
    // One byte more than is taken, so that a file of this size is told from a longer one.
    std::io::stdin()
        .take(FILE_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .context("the picture on the standard input")?;
    anyhow::ensure!(
        bytes.len() as u64 <= FILE_MAX_BYTES,
        "the picture on the standard input: at most {FILE_MAX_BYTES} bytes expected"
    );
    Ok(from_bytes(name, bytes, Depth::default())?)
}

/// Fewest and most pixels of each picture. A film's pictures share theirs.
fn pixels(args: &Args, free: &Free, shown: &Shown) -> anyhow::Result<(u32, u32)> {
    let share = match shown {
        Shown::Clip(frames) if args.video.is_some() && !args.each => FILM_PIXELS / frames.len().max(1) as u32,
        _ => free.max_pixels,
    };
    let max_pixels = args.max_pixels.unwrap_or_else(|| share.min(free.max_pixels));
    let min_pixels = args.min_pixels.unwrap_or_else(|| free.min_pixels.min(max_pixels));
    anyhow::ensure!(
        min_pixels <= max_pixels,
        "--min-pixels {min_pixels}: at most --max-pixels expected, {max_pixels}"
    );
    Ok((min_pixels, max_pixels))
}

/// What the arguments leave open the model's files state; an answer that is held to a grammar is greedy.
fn sampling(args: &Args, form: &Form, free: &Free) -> Sampling {
    let stated = if *form == Form::Free { free.sampling.clone() } else { Sampling::default() };
    Sampling {
        temperature: args.temperature.unwrap_or(stated.temperature),
        top_p: args.top_p.or(stated.top_p),
        top_k: args.top_k.or(stated.top_k),
        repeat_penalty: args.repeat_penalty.unwrap_or(stated.repeat_penalty),
        seed: args.seed,
    }
}
