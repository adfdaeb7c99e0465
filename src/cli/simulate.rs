//! `inspectd simulate`: renders pictures with known truth to a directory.
//!
//! ```text
//! seed --> part 0, 1, 2 … (in parallel) --> DIR/images/000000.png …
//!                                       \-> DIR/truth.jsonl, one line a picture, in order
//! ```
//!
//! `truth.jsonl` is what `inspectd replay` reads.

use crate::simulator::{self, Defect, FrameTruth, Mix, Product, Text};
use anyhow::{Context, ensure};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Memory for pictures that are being rendered, all threads together.
const RENDER_MEMORY_MAX_BYTES: usize = 2 << 30;
/// What a picture takes while it is rendered: layers 20, shaded values 12, the rest for bytes and PNG.
const RENDER_BYTES_PER_PIXEL: usize = 40;
/// Pictures a thread renders between two flushes of the truth.
const BATCH_PER_THREAD: usize = 4;
/// Without a terminal a line tells the progress every so many percent.
const PROGRESS_STEP_PERCENT: u64 = 10;
/// Size of a whole part's picture: a common 5-megapixel sensor.
const FRAME_PX: (usize, usize) = (2448, 2048);
/// Size of a tile as the shipped model sees it.
const TILE_PX: (usize, usize) = (256, 256);

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How many pictures.
    #[arg(long)]
    count: u64,
    /// Same seed, same pictures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pixels; 2448 for parts, 256 for tiles unless given.
    #[arg(long)]
    width: Option<usize>,
    /// Pixels; 2048 for parts, 256 for tiles unless given.
    #[arg(long)]
    height: Option<usize>,
    /// Parts of one product instead of random designs.
    #[arg(long, value_name = "NAME", conflicts_with = "tiles", value_parser = Product::ALL.map(|p| p.name()))]
    product: Option<String>,
    /// Close-ups instead of whole parts.
    #[arg(long, value_enum)]
    tiles: Option<Tiles>,
    /// Directory to write; made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What close-ups show.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Tiles {
    Defect,
    Text,
    Both,
}

/// What is rendered.
#[derive(Clone, Copy)]
enum Kind {
    Frames,
    Parts(&'static Product),
    Tiles(Mix),
}

/// One line of `truth.jsonl`. Boxes are `[x1, y1, x2, y2]` in pixels, x2 and y2 exclusive.
#[derive(Serialize)]
struct Line {
    file: String,
    width: usize,
    height: usize,
    defects: Vec<DefectLine>,
    texts: Vec<TextLine>,
    good: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rois: Option<Rois>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lot: Option<String>,
}

#[derive(Serialize)]
struct DefectLine {
    label: &'static str,
    bbox: [i32; 4],
    severity: &'static str,
}

#[derive(Serialize)]
struct TextLine {
    text: String,
    bbox: [i32; 4],
}

#[derive(Serialize)]
struct Rois {
    nameplate: [i32; 4],
}

/// Renders the pictures.
///
/// # Errors
/// A size out of range; a file that cannot be written, by name.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (kind, default) = match (&args.product, args.tiles) {
        (Some(name), _) => {
            let product = Product::by_name(name).with_context(|| format!("no product is called {name:?}"))?;
            (Kind::Parts(product), FRAME_PX)
        }
        (None, Some(Tiles::Defect)) => (Kind::Tiles(Mix::Defect), TILE_PX),
        (None, Some(Tiles::Text)) => (Kind::Tiles(Mix::Text), TILE_PX),
        (None, Some(Tiles::Both)) => (Kind::Tiles(Mix::Both), TILE_PX),
        (None, None) => (Kind::Frames, FRAME_PX),
    };
    let (w, h) = (args.width.unwrap_or(default.0), args.height.unwrap_or(default.1));
    let sides = simulator::SIDE_MIN_PX..=simulator::SIDE_MAX_PX;
    ensure!(
        sides.contains(&w) && sides.contains(&h),
        "--width and --height must be {} to {} pixels, not {w} and {h}",
        sides.start(),
        sides.end()
    );
    let images = args.out.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot make the directory {}", images.display()))?;
    let started = Instant::now();
    let good = render_all(&args, kind, w, h)?;
    eprintln!(
        "{} pictures of {w}x{h} in {}, {good} without defects, {:.1} s",
        args.count,
        args.out.display(),
        started.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Renders and writes everything; returns how many pictures have no defect.
fn render_all(args: &Args, kind: Kind, w: usize, h: usize) -> anyhow::Result<u64> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(RENDER_MEMORY_MAX_BYTES / (w * h * RENDER_BYTES_PER_PIXEL)).max(1);
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start the threads")?;
    let path = args.out.join("truth.jsonl");
    let failed = || format!("cannot write {}", path.display());
    let mut truth = BufWriter::new(File::create(&path).with_context(failed)?);
    let mut progress = Progress::new(args.count);
    let mut good = 0;
    for start in (0..args.count).step_by(threads * BATCH_PER_THREAD) {
        let end = args.count.min(start + (threads * BATCH_PER_THREAD) as u64);
        let one = |i| {
            let line = render(&args.out, kind, args.seed, i, w, h)?;
            progress.step();
            anyhow::Ok(line)
        };
        let lines: Vec<Line> =
            pool.install(|| (start..end).into_par_iter().map(one).collect::<anyhow::Result<_>>())?;
        for line in &lines {
            good += u64::from(line.good);
            serde_json::to_writer(&mut truth, line).with_context(failed)?;
            truth.write_all(b"\n").with_context(failed)?;
        }
        truth.flush().with_context(failed)?;
        progress.tell(end);
    }
    progress.finish();
    Ok(good)
}

/// Renders picture `i`, writes its file and returns its truth.
fn render(dir: &Path, kind: Kind, seed: u64, i: u64, w: usize, h: usize) -> anyhow::Result<Line> {
    let file = format!("images/{i:06}.png");
    let (rgb, line) = match kind {
        Kind::Tiles(mix) => {
            let (rgb, t) = simulator::tile(seed, i, w, h, mix);
            (rgb, Line::new(file, w, h, t.defects, t.texts))
        }
        Kind::Frames => {
            let (rgb, t) = simulator::frame(seed, i, w, h);
            let nameplate = t.nameplate;
            (rgb, Line::of_part(file, t, nameplate))
        }
        Kind::Parts(product) => {
            let (rgb, t) = simulator::part(product, seed, i, w, h);
            (rgb, Line::of_part(file, t, product.nameplate_roi(w, h)))
        }
    };
    let path = dir.join(&line.file);
    write_png(&path, &rgb, w, h).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(line)
}

/// Writes a PNG, fast rather than small.
fn write_png(path: &Path, rgb: &[u8], w: usize, h: usize) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub).write_image(
        rgb,
        u32::try_from(w)?,
        u32::try_from(h)?,
        ExtendedColorType::Rgb8,
    )?;
    file.flush()?;
    Ok(())
}

impl Line {
    fn new(file: String, width: usize, height: usize, defects: Vec<Defect>, texts: Vec<Text>) -> Line {
        let good = defects.is_empty();
        let defects = defects
            .into_iter()
            .map(|d| DefectLine { label: d.label, bbox: d.bbox, severity: d.severity })
            .collect();
        let texts = texts.into_iter().map(|t| TextLine { text: t.text, bbox: t.bbox }).collect();
        Line { file, width, height, defects, texts, good, rois: None, part_id: None, lot: None }
    }

    fn of_part(file: String, t: FrameTruth, nameplate: [i32; 4]) -> Line {
        Line {
            rois: Some(Rois { nameplate }),
            part_id: Some(t.part_id),
            lot: t.lot,
            ..Line::new(file, t.w, t.h, t.defects, t.texts)
        }
    }
}

/// A bar on a terminal, plain lines otherwise; both on stderr.
struct Progress {
    bar: Option<ProgressBar>,
    count: u64,
    /// The last share told by a plain line.
    told_percent: u64,
}

impl Progress {
    fn new(count: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(count);
            // The template is a constant of this program; the plain bar is as good if it were wrong.
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {eta} left") {
                bar.set_style(style);
            }
            bar
        });
        Progress { bar, count, told_percent: 0 }
    }

    /// One more picture is written; may be called from any thread.
    fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// `done` pictures are in the truth.
    fn tell(&mut self, done: u64) {
        let percent = (u128::from(done) * 100 / u128::from(self.count.max(1))) as u64;
        if self.bar.is_none() && percent >= self.told_percent + PROGRESS_STEP_PERCENT {
            self.told_percent = percent;
            eprintln!("{done} of {} pictures", self.count);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn simulate(dir: &Path, more: &[&str]) -> Vec<serde_json::Value> {
        let out = dir.to_str().unwrap();
        let words = ["simulate", "--count", "3", "--seed", "5", "--out", out];
        run(Cli::try_parse_from(words.iter().chain(more)).unwrap().args).unwrap();
        let text = fs::read_to_string(dir.join("truth.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn parts_are_written_in_order_with_their_region() {
        let dir = tempfile::tempdir().unwrap();
        let more = ["--product", "machined-plate", "--width", "306", "--height", "256"];
        let lines = simulate(dir.path(), &more);
        let roi = Product::by_name("machined-plate").unwrap().nameplate_roi(306, 256);
        assert_eq!(lines.len(), 3);
        for (i, line) in lines.iter().enumerate() {
            assert_eq!(line["file"], format!("images/{i:06}.png"));
            assert_eq!(line["rois"]["nameplate"], serde_json::json!(roi));
            assert_eq!(line["part_id"], line["texts"][0]["text"]);
            assert_eq!(line["lot"], line["texts"][1]["text"]);
            assert_eq!(line["good"], line["defects"].as_array().unwrap().is_empty());
            let picture =
                crate::cli::picture::load(&dir.path().join(line["file"].as_str().unwrap())).unwrap();
            assert_eq!((picture.width(), picture.height()), (306, 256));
        }
    }

    #[test]
    fn tiles_have_no_nameplate() {
        let dir = tempfile::tempdir().unwrap();
        for line in simulate(dir.path(), &["--tiles", "both", "--width", "64", "--height", "48"]) {
            assert!(line.get("rois").is_none() && line.get("part_id").is_none());
            assert_eq!((&line["width"], &line["height"]), (&64.into(), &48.into()));
        }
    }

    #[test]
    fn a_size_out_of_range_and_a_bad_directory_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (more, word) in [(["--width", "20"], "20"), (["--out", file.to_str().unwrap()], "file")] {
            let out = dir.path().to_str().unwrap();
            let mut words = vec!["simulate", "--count", "1", "--tiles", "text"];
            if more[0] != "--out" {
                words.extend(["--out", out]);
            }
            words.extend(more);
            let error = run(Cli::try_parse_from(words).unwrap().args).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
