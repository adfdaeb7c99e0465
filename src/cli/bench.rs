//! `inspectd bench`: the speed of every stage, on this box, with this model.
//!
//! ```text
//! --random SHAPE --quant Q --> a pair of random weights in --dir --.
//! --model, --mmproj, or the shipped pair --------------------------+--> load
//! --config with servers -----------------------------> the frame alone, as they answer it
//! load -> vision -> prefill -> decode -> a whole simulated frame ------> table, or --json
//! ```
//!
//! Random weights never end an answer, so stages run for a fixed number of steps, and the answers
//! of the frame are cut at [`measure::RANDOM_ANSWER_TOKENS`].

mod measure;

use super::columns::{Align, Columns};
use super::model_args::{ModelArgs, or_shipped};
use crate::config::{self, SHIPPED_TEXT};
use anyhow::Context;
use measure::{Allowed, Effort, Frame, Whole};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vlm::gguf::{Gguf, Value};
use vlm::synth::{Quant, Shape, Vocabulary, write_pair};
use vlm::{ModelInfo, Qwen3Vl};

/// Seed of random weights: the same on every box, so that figures compare.
const SEED: u64 = 1;

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Config file whose model is measured. Of servers that have it only the frame is: what they answer, and how long that
    /// takes from here.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "mmproj", "random"])]
    config: Option<PathBuf>,
    /// Measure random weights of a real shape instead: 2b, 4b, 8b or tiny-k. Needs no download.
    #[arg(long, value_name = "SHAPE", value_parser = shape, conflicts_with_all = ["model", "mmproj"])]
    random: Option<Shape>,
    /// Quantisation of the random text model, by llama.cpp's name; the vision model is `Q8_0`.
    #[arg(long, value_name = "NAME", default_value = "Q4_K_M", requires = "random")]
    quant: Quant,
    /// Where the random pair is written (4b: 3 GB) and kept; one that lies there is used again.
    /// Without it the pair is written into the system's folder for temporary files and removed.
    #[arg(long, value_name = "DIR", requires = "random")]
    dir: Option<PathBuf>,
    /// The pipeline of the frame, a simulated part of 2448x2048 [default: the shipped machined-plate]
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// The frame is left out when it would take longer than this.
    #[arg(long, value_name = "S", default_value_t = 600)]
    max_seconds: u64,
    /// Small sizes and single runs: proves that everything works, its figures are rough.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

fn shape(name: &str) -> Result<Shape, String> {
    Shape::named(name).ok_or_else(|| format!("one of {} expected", Shape::NAMES.join(", ")))
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    quant: String,
    threads: usize,
    cpu: String,
    load: Load,
    vision: Vec<Vision>,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    /// The same while the grammar of all answers allows digits only.
    decode_digits: Vec<Decode>,
    /// `None` when it would have taken too long.
    frame: Option<Frame>,
    peak_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Load {
    ms: f64,
    /// The process's highest resident memory until the model was loaded.
    peak_rss_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Vision {
    width: u32,
    height: u32,
    /// Rows that the picture takes in the text model.
    tokens: usize,
    ms: f64,
}

#[derive(Debug, Serialize)]
struct Prefill {
    tokens: usize,
    tok_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Decode {
    sequences: usize,
    /// Of all sequences together.
    tok_per_s: f64,
}

/// Runs the command.
///
/// # Errors
/// A bad model; a stage that fails; output that cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let pipeline = measure::pipeline(args.pipeline.as_deref())?;
    let config = args.config.as_deref().map(config::load).transpose()?;
    let named = args.model.or_config(config.as_ref());
    if named.remote.is_some() {
        let whole = Whole { pipeline, random: false, max: Duration::from_secs(args.max_seconds) };
        return of_servers(&named, &whole, &effort, args.json);
    }
    // Removed when it goes out of scope, after the last measurement.
    let temporary = match (&args.random, &args.dir) {
        (Some(_), None) => Some(tempfile::tempdir().context("a folder for the random pair")?),
        _ => None,
    };
    let dir = args.dir.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path));
    let model = match (&args.random, dir) {
        (Some(shape), Some(dir)) => random(shape, args.quant, dir, &named)?,
        _ => named,
    };
    let whole = Whole { pipeline, random: args.random.is_some(), max: Duration::from_secs(args.max_seconds) };
    let report = measure_all(&model, &whole, &effort)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(ExitCode::SUCCESS)
}

/// The frame, as the config's servers answer it.
fn of_servers(model: &ModelArgs, whole: &Whole, effort: &Effort, json: bool) -> anyhow::Result<ExitCode> {
    let part = measure::part();
    let mut servers = model.open()?;
    let name = servers.info().name.clone();
    let frame = measure::asked(&mut *servers, &part, whole, effort)?;
    if json {
        println!("{}", serde_json::json!({ "model": name, "frame": frame }));
    } else {
        let mut rows = Columns::new(&[
            ("stage", Align::Left),
            ("size", Align::Left),
            ("", Align::Right),
            ("", Align::Left),
        ]);
        frame_rows(frame.as_ref(), &mut |cells| rows.row(cells));
        print!("{name}\n\n{rows}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The random pair, written unless it is there.
fn random(shape: &Shape, quant: Quant, dir: &Path, model: &ModelArgs) -> anyhow::Result<ModelArgs> {
    std::fs::create_dir_all(dir).with_context(|| format!("--dir {}", dir.display()))?;
    let name = format!("random-{}-{}.gguf", shape.name, quant.name());
    let (text, mmproj) = (dir.join(&name), dir.join(format!("mmproj-{name}")));
    if !(text.exists() && mmproj.exists()) {
        let started = Instant::now();
        let half = |path: &Path| path.with_extension("part");
        write_pair(shape, quant, &vocabulary(), SEED, &half(&text), &half(&mmproj))?;
        // A name is only given to a whole file.
        std::fs::rename(half(&text), &text)?;
        std::fs::rename(half(&mmproj), &mmproj)?;
        eprintln!("bench: wrote {} in {:.1} s", text.display(), started.elapsed().as_secs_f64());
    }
    Ok(ModelArgs { model: Some(text), mmproj: Some(mmproj), ..model.clone() })
}

/// The shipped model's vocabulary, so that prompts have the length that it gives them.
fn vocabulary() -> Vocabulary {
    let shipped = || anyhow::Ok(Vocabulary::of(&Gguf::open(&or_shipped(None, SHIPPED_TEXT)?)?)?);
    shipped().unwrap_or_else(|e| {
        eprintln!("bench: {e:#}; prompts are longer, one token a byte");
        Vocabulary::bytes()
    })
}

fn measure_all(model: &ModelArgs, whole: &Whole, effort: &Effort) -> anyhow::Result<Report> {
    let (text, _) = model.files()?;
    let quant = quantisation(&Gguf::open(&text)?);
    // The renderer's memory is gone before the model's is measured; its peak is forgotten.
    let part = measure::part();
    forget_peak();
    // What the frame's stage would refuse is refused before anything was measured.
    measure::plan(&part, &whole.pipeline, &ModelInfo::default())?;
    let started = Instant::now();
    let mut engine = model.load_unproven()?;
    let load = Load { ms: ms(started.elapsed()), peak_rss_bytes: peak_rss_bytes() };
    let name = &engine.model().info.name;
    say(&format!("loaded {name} in {:.0} ms", load.ms));
    model.prove(&mut engine)?;
    measure::warm_up(&mut engine)?;
    let mut vision = vec![];
    for &side in effort.vision_px {
        let (tokens, time) = measure::vision(&mut engine, &part, side, effort)?;
        vision.push(Vision { width: side, height: side, tokens, ms: ms(time) });
        say(&format!("vision {side}x{side}: {:.0} ms", ms(time)));
    }
    let mut prefill = vec![];
    for &tokens in effort.prefill_tokens {
        let time = measure::prefill(&mut engine, tokens, effort)?;
        let tok_per_s = tokens as f64 / time.as_secs_f64();
        prefill.push(Prefill { tokens, tok_per_s });
        say(&format!("prefill {tokens} tokens: {tok_per_s:.1} tok/s"));
    }
    let (mut decode, mut decode_digits) = (vec![], vec![]);
    for &sequences in effort.decode_sequences {
        decode.push(measure_decode(&mut engine, sequences, Allowed::Anything, effort)?);
        decode_digits.push(measure_decode(&mut engine, sequences, Allowed::Digits, effort)?);
    }
    let rates = measure::Rates {
        vision_s_per_token: vision.last().map_or(0.0, |v| v.ms / 1e3 / v.tokens as f64),
        prefill_tok_per_s: prefill.last().map_or(f64::INFINITY, |p| p.tok_per_s),
        decode_tok_per_s: decode.last().map_or(f64::INFINITY, |d| d.tok_per_s),
    };
    let frame = measure::frame(&mut engine, &part, whole, &rates, effort)?;
    let threads = engine.stage(|_, _, _| rayon::current_num_threads());
    Ok(Report {
        model: engine.model().info.name.clone(),
        quant,
        threads,
        cpu: cpu(),
        load,
        vision,
        prefill,
        decode,
        decode_digits,
        frame,
        peak_rss_bytes: peak_rss_bytes(),
    })
}

fn measure_decode(
    engine: &mut Qwen3Vl,
    sequences: usize,
    allowed: Allowed,
    effort: &Effort,
) -> anyhow::Result<Decode> {
    let time = measure::decode(engine, sequences, allowed, effort)?;
    let tok_per_s = (sequences * effort.decode_steps) as f64 / time.as_secs_f64();
    say(&format!("decode {sequences} sequences, {} allowed: {tok_per_s:.1} tok/s", allowed.words()));
    Ok(Decode { sequences, tok_per_s })
}

fn say(line: &str) {
    eprintln!("bench: {line}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The name of a text file's quantisation: as it says itself, else that of most of its bytes.
fn quantisation(g: &Gguf) -> String {
    let named = match g.metadata.get("general.file_type") {
        Some(&Value::Uint(n)) => Quant::ALL.into_iter().find(|q| q.file_type() == n),
        _ => None,
    };
    named.map_or_else(
        || {
            let bytes = |kind| g.tensors.values().filter(|t| t.dtype == kind).map(|t| t.bytes).sum::<u64>();
            let most = g.tensors.values().map(|t| t.dtype).max_by_key(|kind| bytes(*kind));
            most.map_or_else(String::new, |kind| kind.name().to_owned())
        },
        |q| q.name().to_owned(),
    )
}

/// The processor's name; empty where the system does not tell.
fn cpu() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_default()
}

/// Highest resident memory of this process; 0 where the system does not tell.
pub(super) fn peak_rss_bytes() -> u64 {
    let kb = field("/proc/self/status", "VmHWM");
    kb.and_then(|s| s.trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Lets the peak start again at what is resident now. Where the kernel has no such file the figures
/// include the renderer's memory.
fn forget_peak() {
    // "5" is the kernel's number for this: Documentation/filesystems/proc.rst.
    if let Err(e) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!("the peak of memory cannot be reset: {e}");
    }
}

/// The value of `name : value` in a file of the kernel.
pub(super) fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn table(r: &Report) -> String {
    let mut t =
        Columns::new(&[("stage", Align::Left), ("size", Align::Left), ("", Align::Right), ("", Align::Left)]);
    let mut row = |stage: &str, size: String, value: String, unit: &str| {
        t.row([stage.to_owned(), size, value, unit.to_owned()]);
    };
    let gib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1 << 30));
    row("load", String::new(), format!("{:.0}", r.load.ms), "ms");
    row("", "peak memory".into(), gib(r.load.peak_rss_bytes), "GiB");
    for v in &r.vision {
        row(
            "vision",
            format!("{}x{} px, {} tokens", v.width, v.height, v.tokens),
            format!("{:.0}", v.ms),
            "ms",
        );
    }
    for p in &r.prefill {
        row("prefill", format!("{} tokens", p.tokens), format!("{:.1}", p.tok_per_s), "tokens/s");
    }
    for d in &r.decode {
        row("decode", format!("{} sequences", d.sequences), format!("{:.1}", d.tok_per_s), "tokens/s");
    }
    for d in &r.decode_digits {
        row("digits", format!("{} sequences", d.sequences), format!("{:.1}", d.tok_per_s), "tokens/s");
    }
    frame_rows(r.frame.as_ref(), &mut |cells| t.row(cells));
    t.row([String::new(), "peak memory".into(), gib(r.peak_rss_bytes), "GiB".into()]);
    format!("{} {}, {} threads, {}\n\n{t}", r.model, r.quant, r.threads, r.cpu)
}

/// The rows of the frame.
fn frame_rows(frame: Option<&Frame>, put: &mut dyn FnMut([String; 4])) {
    let mut row = |stage: &str, size: String, value: String, unit: &str| {
        put([stage.to_owned(), size, value, unit.to_owned()]);
    };
    let Some(f) = frame else { return row("frame", "left out".into(), "-".into(), "") };
    let skipped = if f.skipped > 0 { format!(", {} skipped", f.skipped) } else { String::new() };
    let size = format!("{}x{} px, {} tiles, {} prompts{skipped}", f.width, f.height, f.tiles, f.prompts);
    row("frame", size, format!("{:.0}", f.ms), "ms");
    let s = f.stages;
    for (stage, ms) in [
        ("resize", s.preprocess_ms),
        ("vision", s.vision_ms),
        ("prefill", s.prefill_ms),
        ("decode", s.decode_ms),
    ] {
        row("", stage.into(), format!("{ms:.0}"), "ms");
    }
}
