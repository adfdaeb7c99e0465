//! `inspectd new-product`: a first recipe of one's own from pictures of good parts.
//!
//! ```text
//! --from DIR: good parts --size, measures--> NAME.toml: region, tiles, limits of proper pictures, a check
//!                        --learn---------> NAME.bank, and the numbers that it reached
//! ```
//!
//! The recipe compares with good parts alone, so that it works on any product from the first hour. Questions to the
//! model, rules for grades and the millimetres are added in the file afterwards.

use super::learn;
use super::model_args::ModelArgs;
use super::picture;
use crate::camera::decode::Depth;
use crate::domain::grid::Grid;
use crate::domain::pipeline::{FrameRule, PixelBudget, Tiling};
use crate::domain::rect::Rect;
use crate::evaluate::truth::TRUTH_FILE;
use crate::health::{Measure, measure};
use crate::learn::references::{GOOD_FEW, GOOD_MIN};
use crate::recipe::beside;
use anyhow::{Context, ensure};
use image::RgbImage;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Pixels of a tile as the model and the backbone see it.
const SEEN_PIXELS: u32 = 65_536;
/// A region whose longer side is no more than this is one tile: it is seen at half of its size or better.
const ONE_TILE_PX: u32 = 640;
/// Sides of a tile, the finest first; the first with no more than `TILES_MAX` tiles is taken.
const TILE_PX: [u32; 4] = [512, 768, 1024, 1536];
const TILES_MAX: usize = 64;
/// Measures of a proper picture may be this much beyond those of the good parts.
const ROOM: f64 = 0.5;
/// Extensions of pictures.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff"];

/// Make a recipe of a new product from pictures of good parts.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Name of the recipe: letters, digits, _ and -.
    name: String,
    /// Folder with pictures of good parts, and of nothing else: 5 at least, better 20.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The region that is inspected, in pixels: left,top,right,bottom [default: the whole picture].
    #[arg(long, value_name = "X0,Y0,X1,Y1", value_parser = region)]
    roi: Option<Rect>,
    /// Size of a pixel on the part, in millimetres.
    #[arg(long, value_name = "MM", value_parser = mm)]
    mm_per_px: f64,
    /// A fixture holds the part: a place is compared with the same place, this far off at most, in millimetres.
    #[arg(long, value_name = "MM", value_parser = tolerance)]
    fixed: Option<f64>,
    /// Folder of recipes that it is written to.
    #[arg(long, value_name = "DIR", default_value = "pipelines")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

fn region(text: &str) -> Result<Rect, String> {
    let numbers: Vec<u32> = text.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    match numbers[..] {
        [x0, y0, x1, y1] if x0 < x1 && y0 < y1 => Ok(Rect::new(x0, y0, x1, y1)),
        _ => Err("expected four numbers: left,top,right,bottom".to_owned()),
    }
}

fn mm(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|mm| (1e-6..=1e3).contains(mm));
    number.ok_or_else(|| "expected a number from 0.000001 to 1000".to_owned())
}

fn tolerance(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|mm| (0.0..=1e3).contains(mm));
    number.ok_or_else(|| "expected a number from 0 to 1000".to_owned())
}

/// Runs the command.
///
/// # Errors
/// A name or region that cannot be; a recipe of this name; too few pictures, or of several sizes; as `learn references`.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    ensure!(
        !args.name.is_empty() && args.name.len() <= 64 && args.name.chars().all(fits),
        "NAME is {:?}: letters, digits, _ and - expected, at most 64",
        args.name
    );
    let recipe = args.out.join(format!("{}.toml", args.name));
    ensure!(!recipe.exists(), "{}: there is a recipe of this name", recipe.display());
    let parts = Parts::read(&args.from, args.roi)?;
    let tiling = parts.tiling()?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let truth = parts.truth()?;
    let text = parts.recipe(args, tiling);
    beside::write(&recipe, text.as_bytes()).with_context(|| recipe.display().to_string())?;
    let learned = learn::from_truth(&recipe, truth.path(), &args.model, args.json);
    if learned.is_err() {
        // Without its bank the recipe would be refused wherever it is read.
        std::fs::remove_file(&recipe).ok();
        return learned;
    }
    if !args.json {
        let few = if parts.files.len() < GOOD_FEW { "; more good parts make it better" } else { "" };
        println!("{}: {} tiles a picture{few}", recipe.display(), parts.tiles(tiling)?);
        println!(
            "next             inspectd check {0}; then name {1} in a [[camera]]",
            recipe.display(),
            args.name
        );
    }
    learned
}

/// Pictures of good parts, all of one size.
struct Parts {
    dir: PathBuf,
    files: Vec<String>,
    width: u32,
    height: u32,
    /// What is inspected.
    roi: Rect,
    measures: Vec<Measure>,
}

impl Parts {
    fn read(dir: &Path, roi: Option<Rect>) -> anyhow::Result<Self> {
        let files = files(dir)?;
        ensure!(
            files.len() >= GOOD_MIN,
            "--from {}: {} pictures, at least {GOOD_MIN} of good parts are needed",
            dir.display(),
            files.len()
        );
        let mut parts = Self {
            dir: dir.to_owned(),
            files,
            width: 0,
            height: 0,
            roi: Rect::new(0, 0, 0, 0),
            measures: vec![],
        };
        for file in &parts.files {
            let path = dir.join(file);
            let pixels = picture::load_as(&path, Depth(None))?;
            let (width, height) = pixels.dimensions();
            if parts.width == 0 {
                (parts.width, parts.height) = (width, height);
                parts.roi = roi.unwrap_or(Rect::new(0, 0, width, height));
            }
            ensure!(
                (width, height) == (parts.width, parts.height),
                "{}: is {width}x{height}, and {} is {}x{}",
                path.display(),
                parts.files[0],
                parts.width,
                parts.height
            );
            parts.measures.extend(measured(&pixels, parts.roi));
        }
        let whole = Rect::new(0, 0, parts.width, parts.height);
        ensure!(
            whole.contains(&parts.roi),
            "--roi: lies outside of the pictures, which are {}x{}",
            parts.width,
            parts.height
        );
        Ok(parts)
    }

    /// The finest tiles of which there are not too many.
    fn tiling(&self) -> anyhow::Result<Tiling> {
        let longer = self.roi.width().max(self.roi.height());
        let of = |tile_px: u32, overlap_px: u32| Tiling {
            tile_px,
            overlap_px,
            max_tiles: TILES_MAX,
            budget: PixelBudget { min_pixels: SEEN_PIXELS, max_pixels: SEEN_PIXELS },
        };
        if longer <= ONE_TILE_PX {
            return Ok(of(longer.max(32), 0));
        }
        let tilings = TILE_PX.map(|tile_px| of(tile_px, tile_px / 8));
        let fits = |tiling: &Tiling| self.tiles(*tiling).is_ok();
        tilings
            .into_iter()
            .find(fits)
            .with_context(|| format!("the region needs more than {TILES_MAX} tiles: inspect less of it"))
    }

    fn tiles(&self, tiling: Tiling) -> anyhow::Result<usize> {
        let rule = FrameRule { roi: Some(self.roi), ..FrameRule::default() };
        Ok(Grid::new(self.width, self.height, &rule, &tiling)?.tiles.len())
    }

    /// A directory of these pictures with a truth that calls all of them good.
    fn truth(&self) -> anyhow::Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        std::os::unix::fs::symlink(self.dir.canonicalize()?, dir.path().join("images"))?;
        let mut lines = String::new();
        for file in &self.files {
            let line = serde_json::json!({ "file": format!("images/{file}"), "width": self.width,
                "height": self.height, "good": true, "defects": [] });
            writeln!(lines, "{line}")?;
        }
        std::fs::write(dir.path().join(TRUTH_FILE), lines)?;
        Ok(dir)
    }

    /// The text of the recipe.
    fn recipe(&self, args: &Args, tiling: Tiling) -> String {
        let Args { name, mm_per_px, fixed, .. } = args;
        let Rect { x0, y0, x1, y1 } = self.roi;
        let place = match fixed {
            Some(mm) => {
                format!("place = \"fixed\"\ntolerance_mm = {mm:?}            # how far a part may be off\n")
            }
            None => "place = \"free\"                        # \"fixed\" where a fixture holds the part\n"
                .to_owned(),
        };
        format!(
            "# Made by inspectd new-product from {count} good parts. pipelines/machined-plate.toml explains every key.\n\
             schema = 1\nname = {name:?}\nmm_per_px = {mm_per_px:?}\n\n\
             [frame]\nsize = [{width}, {height}]\nroi = [{x0}, {y0}, {x1}, {y1}]\n{health}\n\
             [tiling]\ntile_px = {tile}\noverlap_px = {overlap}\nmax_tiles = {TILES_MAX}\n\
             min_pixels = {SEEN_PIXELS}\nmax_pixels = {SEEN_PIXELS}\n\n\
             # What is unlike the good parts is a finding.\n\
             [[prompt]]\nid = \"like-good-parts\"\nkind = \"reference\"\nfeatures = \"backbone\"\n{place}bank = \"{name}.bank\"\n\n\
             [verdict]\nfail_at = \"rework\"\nreview_below_confidence = 0.6\ndeadline_ms = 20000\n",
            count = self.files.len(),
            width = self.width,
            height = self.height,
            health = self.health(),
            tile = tiling.tile_px,
            overlap = tiling.overlap_px,
        )
    }

    /// The key `health`: the measures of the good parts with room on both sides, and never so wide that black, white or
    /// noise would be a proper picture.
    fn health(&self) -> String {
        let of = |value: fn(&Measure) -> f64| self.measures.iter().map(value).collect::<Vec<f64>>();
        let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min) * (1.0 - ROOM);
        let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max) * (1.0 + ROOM);
        let (brightness, over) = (of(|m| m.brightness), of(|m| m.overexposed));
        let (contrast, sharpness, structure) = (of(|m| m.contrast), of(|m| m.sharpness), of(|m| m.structure));
        format!(
            "# A picture beyond these limits is no proper one: those of the good parts, and half of them more.\n\
             health = {{ brightness_min = {:.1}, brightness_max = {:.1}, overexposed_max = {:.3}, contrast_min = {:.1}, \
             sharpness_min = {:.2}, sharpness_max = {:.0}, structure_min = {:.3} }}\n",
            least(&brightness).max(1.0),
            most(&brightness).min(254.0),
            (most(&over) + 0.05).min(1.0),
            least(&contrast).max(1.0),
            least(&sharpness).max(0.1),
            most(&sharpness).max(1.0),
            least(&structure).clamp(0.02, 1.0),
        )
    }
}

fn measured(pixels: &RgbImage, roi: Rect) -> Option<Measure> {
    let inside = |v: u32, limit: u32| v.min(limit);
    let (width, height) = pixels.dimensions();
    let region =
        [inside(roi.x0, width), inside(roi.y0, height), inside(roi.x1, width), inside(roi.y1, height)];
    measure(pixels, region, &[])
}

/// The names of the pictures of a folder, in order.
fn files(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).with_context(|| format!("--from {}", dir.display()))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if EXTENSIONS.contains(&extension.as_str())
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
