//! `inspectd ask`: a free question, with or without pictures.

use super::model_args::ModelArgs;
use crate::camera::decode::{Depth, decode};
use crate::vlm::free::Free;
use crate::vlm::{Ask, ClipFrame, Finish, Form, Job, Sampling, Shown, Vlm};
use anyhow::Context;
use image::RgbImage;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `ask`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The question.
    text: String,
    /// A picture to show; may stand several times.
    #[arg(long = "image")]
    images: Vec<PathBuf>,
    /// The pictures are one clip, so many milliseconds apart, and not pictures for themselves.
    #[arg(long, value_name = "MS", requires = "images")]
    interval_ms: Option<u64>,
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
    let images = args
        .images
        .iter()
        .map(|p| Ok(Arc::new(decode(p, Depth::default())?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let grammar = args
        .grammar
        .as_ref()
        .map(|p| std::fs::read_to_string(p).map(Arc::from).with_context(|| p.display().to_string()));
    let form = grammar.transpose()?.map_or(Form::Free, Form::Lark);
    let mut engine = args.model.load()?;
    let free = engine.model().free.clone();
    let ask = Ask { sampling: sampling(&args, &form, &free), ..Ask::new(&args.text, form, args.max_tokens) };
    let (min_pixels, max_pixels) =
        (args.min_pixels.unwrap_or(free.min_pixels), args.max_pixels.unwrap_or(free.max_pixels));
    anyhow::ensure!(
        min_pixels <= max_pixels,
        "--min-pixels {min_pixels}: at most --max-pixels expected, {max_pixels}"
    );
    let job = Job {
        shown: shown(images, args.interval_ms),
        min_pixels,
        max_pixels,
        asks: vec![ask],
        adapter: None,
    };
    let mut answers = engine.answer(&[job], &|| true);
    let answer = answers.jobs.pop().and_then(|mut a| a.pop()).context("the engine gave no answer")??;
    let answer_ids: Vec<u32> = answer.tokens.iter().map(|t| t.id).collect();
    let text = engine.model().tokenizer.decode(&answer_ids, args.special);
    if !args.json {
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
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
    println!("{out}");
    Ok(ExitCode::SUCCESS)
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

fn shown(images: Vec<Arc<RgbImage>>, interval_ms: Option<u64>) -> Shown {
    let Some(ms) = interval_ms else { return Shown::Images(images) };
    let at = |i: usize| Duration::from_millis(ms.saturating_mul(i as u64));
    Shown::Clip(images.into_iter().enumerate().map(|(i, image)| ClipFrame { image, at: at(i) }).collect())
}
