//! `inspectd new-product`: a first recipe of one's own from pictures of good parts.
//!
//! ```text
//! --camera ID: takes them --.
//! --from DIR ---------------+--> good parts --product--> NAME.toml: region, tiles, limits of proper pictures, a check
//!                                           --learn----> NAME.bank, and the numbers that it reached
//! ```

mod camera;

use super::learn;
use super::model_args::ModelArgs;
use super::picture;
use crate::camera::decode::Depth;
use crate::config::DEFAULT_FILE;
use crate::domain::pipeline::Repeats;
use crate::domain::rect::Rect;
use crate::domain::reference::FeatureSource;
use crate::evaluate::truth::TRUTH_FILE;
use crate::learn::product::{MM_PER_PX, Parts, Product, Unfit, check_name};
use crate::learn::references::{GOOD_FEW, GOOD_MIN};
use crate::recipe::beside;
use anyhow::{Context, anyhow, bail, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Extensions of pictures.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff"];
const COUNT_MAX: usize = 500;

/// Make a recipe of a new product from pictures of good parts.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Name of the recipe: letters, digits, _ and -.
    name: String,
    /// Folder with pictures of good parts, and of nothing else: 5 at least, better 20.
    #[arg(long, value_name = "DIR", required_unless_present = "camera", conflicts_with = "camera")]
    from: Option<PathBuf>,
    /// Camera of the config that takes the pictures, as its own trigger has it.
    #[arg(long, value_name = "ID")]
    camera: Option<String>,
    /// Config file of the camera.
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Pictures that the camera takes.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count)]
    count: usize,
    /// Folder that the camera's pictures are written to [default: NAME-good beside the recipe].
    #[arg(long, value_name = "DIR", requires = "camera")]
    keep: Option<PathBuf>,
    /// The region that is inspected, in pixels: left,top,right,bottom [default: the whole picture].
    #[arg(long, value_name = "X0,Y0,X1,Y1", value_parser = region)]
    roi: Option<Rect>,
    /// Size of a pixel on the part, in millimetres.
    #[arg(long, value_name = "MM", value_parser = mm)]
    mm_per_px: f64,
    /// Whose features are compared: backbone, tower.
    #[arg(long, value_name = "WORD", default_value = "backbone", value_parser = features)]
    features: FeatureSource,
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
    let number = text.parse::<f64>().ok().filter(|mm| MM_PER_PX.contains(mm));
    number.ok_or_else(|| "expected a number from 0.000001 to 1000".to_owned())
}

fn tolerance(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|mm| (0.0..=1e3).contains(mm));
    number.ok_or_else(|| "expected a number from 0 to 1000".to_owned())
}

fn count(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|n| (GOOD_MIN..=COUNT_MAX).contains(n));
    number.ok_or_else(|| format!("expected a number from {GOOD_MIN} to {COUNT_MAX}"))
}

fn features(text: &str) -> Result<FeatureSource, String> {
    let words = FeatureSource::ALL.map(FeatureSource::as_str).join(" or ");
    FeatureSource::parse(text).ok_or_else(|| format!("expected {words}"))
}

/// Pictures of good parts in a folder, and what the camera that took them delivers.
struct Good {
    dir: PathBuf,
    files: Vec<String>,
    depth_bits: Option<u32>,
    repeats: Repeats,
}

/// Runs the command.
///
/// # Errors
/// A name or region that cannot be; a recipe of this name; too few pictures, or of several sizes; a camera that cannot be
/// had; as `learn references`.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = &args.name;
    check_name(name).map_err(|why| anyhow!("NAME is {name:?}: {why}"))?;
    let recipe = args.out.join(format!("{name}.toml"));
    ensure!(!recipe.exists(), "{}: there is a recipe of this name", recipe.display());
    let mut parts = Parts::new(args.roi);
    let (good, model) = good(args, &mut parts)?;
    let product = Product {
        name: name.clone(),
        mm_per_px: args.mm_per_px,
        features: args.features,
        fixed_mm: args.fixed,
        depth_bits: good.depth_bits,
        repeats: good.repeats,
    };
    let text = parts.recipe(&product)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let truth = truth(&good, parts.size())?;
    beside::write(&recipe, text.as_bytes()).with_context(|| recipe.display().to_string())?;
    let learned = learn::from_truth(&recipe, truth.path(), &model, args.json);
    if learned.is_err() {
        // Without its bank the recipe would be refused wherever it is read.
        std::fs::remove_file(&recipe).ok();
        return learned;
    }
    if !args.json {
        let few = if parts.count() < GOOD_FEW { "; more good parts make it better" } else { "" };
        println!("{}: {} tiles a picture{few}", recipe.display(), parts.tiles());
        println!("next             inspectd check {0}; then name {name} in a [[camera]]", recipe.display());
    }
    learned
}

/// The pictures, and the model that learns from them.
fn good(args: &Args, parts: &mut Parts) -> anyhow::Result<(Good, ModelArgs)> {
    if let Some(id) = &args.camera {
        let dir = args.keep.clone().unwrap_or_else(|| args.out.join(format!("{}-good", args.name)));
        let wanted = camera::Wanted { id, config: &args.config, count: args.count, dir: &dir };
        let (good, config) = camera::take(wanted, parts)?;
        return Ok((good, args.model.or_config(Some(&config))));
    }
    let dir = args.from.as_deref().context("--from DIR or --camera ID is needed")?;
    Ok((from(dir, parts)?, args.model.clone()))
}

/// The pictures of a folder; one that shows nothing is left out and named.
fn from(dir: &Path, parts: &mut Parts) -> anyhow::Result<Good> {
    let mut good = Good { dir: dir.to_owned(), files: vec![], depth_bits: None, repeats: Repeats::default() };
    for file in files(dir)? {
        let path = dir.join(&file);
        let pixels = picture::load_as(&path, Depth(None))?;
        match parts.add(&pixels) {
            Ok(()) => good.files.push(file),
            Err(unfit @ Unfit::Nothing { .. }) => eprintln!("left out: {}: {unfit}", path.display()),
            Err(unfit @ Unfit::Roi { .. }) => bail!("--roi: {unfit}"),
            Err(unfit @ Unfit::Size { .. }) => bail!("{}: {unfit}", path.display()),
        }
    }
    ensure!(
        good.files.len() >= GOOD_MIN,
        "--from {}: {} pictures, at least {GOOD_MIN} of good parts are needed",
        dir.display(),
        good.files.len()
    );
    Ok(good)
}

/// A directory of these pictures with a truth that calls all of them good.
fn truth(good: &Good, (width, height): (u32, u32)) -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    std::os::unix::fs::symlink(good.dir.canonicalize()?, dir.path().join("images"))?;
    let mut lines = String::new();
    for file in &good.files {
        let line = serde_json::json!({ "file": format!("images/{file}"), "width": width, "height": height,
            "good": true, "defects": [] });
        writeln!(lines, "{line}")?;
    }
    std::fs::write(dir.path().join(TRUTH_FILE), lines)?;
    Ok(dir)
}

/// The names of the pictures of a folder, in order.
fn files(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
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
