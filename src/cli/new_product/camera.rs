//! Pictures of good parts from a configured camera, taken as its own trigger has it.
//!
//! ```text
//! camera --interval, or a word for each part--> picture --shows anything?--> DIR/0001.png, and what is measured on it
//! ```

use super::Good;
use crate::camera::decode::{Depth, DepthRule};
use crate::camera::kind::SourceConfig;
use crate::camera::kind::folder::Folder;
use crate::camera::supervisor::{Report, Supervised};
use crate::camera::{CameraError, Source, Stop, Want};
use crate::cli::picture;
use crate::config::{self, Camera, Config, TriggerOn};
use crate::control::client;
use crate::ipc::Program;
use crate::learn::product::{Parts, Unfit};
use anyhow::{Context, bail, ensure};
use image::RgbImage;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A camera that gives no picture for so long is no use; the first one waits for the device to open, too.
const PICTURE_WAIT: Duration = Duration::from_mins(1);
/// Pictures that are of no use, beside as many as are wanted.
const REFUSED_MAX: usize = 10;

/// Which camera, and where its pictures go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub id: &'a str,
    pub config: &'a Path,
    pub count: usize,
    pub dir: &'a Path,
}

/// Takes the pictures into the folder, each written before the next is taken.
///
/// # Errors
/// A bad config; no such camera; a daemon has it; there are pictures in the folder; too many that show nothing.
pub(super) fn take(wanted: Wanted<'_>, parts: &mut Parts) -> anyhow::Result<(Good, Config)> {
    let config = config::load(wanted.config)?;
    let camera = camera(&config, &wanted)?;
    refuse_held(&config, wanted.id)?;
    std::fs::create_dir_all(wanted.dir).with_context(|| wanted.dir.display().to_string())?;
    ensure!(
        super::files(wanted.dir)?.is_empty(),
        "{0}: there are pictures already: make the product of them with --from {0}, or name another folder by --keep",
        wanted.dir.display()
    );
    let frame = config.recipes.get(&camera.pipeline).map(|recipe| recipe.pipeline.frame.clone());
    let frame = frame.unwrap_or_default();
    let stop = Stop::default();
    let mut source = open(camera, frame.depth_bits, &stop)?;
    let taken = pictures(&mut *source, camera, &wanted, &stop, parts);
    stop.set();
    drop(source);
    let good = Good {
        dir: wanted.dir.to_owned(),
        files: taken?,
        depth_bits: frame.depth_bits,
        repeats: frame.repeats,
    };
    Ok((good, config))
}

fn camera<'c>(config: &'c Config, wanted: &Wanted<'_>) -> anyhow::Result<&'c Camera> {
    let Wanted { id, config: file, .. } = wanted;
    let known = || config.cameras.iter().map(|camera| camera.id.as_str()).collect::<Vec<_>>().join(", ");
    let found = config.cameras.iter().find(|camera| camera.id == *id);
    found.with_context(|| format!("--camera {id}: {} has no such camera; it has {}", file.display(), known()))
}

/// A camera has one owner.
fn refuse_held(config: &Config, id: &str) -> anyhow::Result<()> {
    let dir = &config.store.dir;
    let asked = client::is_running(dir).with_context(|| dir.display().to_string());
    if !asked? {
        return Ok(());
    }
    let page = config.web.as_ref();
    let page = page.map(|web| web.public_url.clone().unwrap_or_else(|| web.listen.to_string()));
    let instead = page.map_or_else(
        || "stop it first, or give it a [web] page and make the product there".to_owned(),
        |page| format!("make the product on its page, {page}: Learn, New product"),
    );
    bail!("--camera {id}: the daemon of the store {} runs and has the camera: {instead}", dir.display());
}

fn open(camera: &Camera, depth_bits: Option<u32>, stop: &Stop) -> anyhow::Result<Box<dyn Source>> {
    let id = camera.id.clone();
    let opened: anyhow::Result<Box<dyn Source>> = match &camera.source {
        SourceConfig::Simulator(simulator) => simulator
            .open(&id, stop.clone())
            .map(|source| Box::new(source) as Box<dyn Source>)
            .map_err(Into::into),
        // Those that lie there; nothing is noted, so that a daemon takes them as it would have.
        SourceConfig::Folder(folder) => {
            let depth: DepthRule = Arc::new(move || Depth(depth_bits));
            let once = Folder::once(&id, &folder.path, stop.clone());
            once.map(|source| Box::new(source.with_depth(depth)) as Box<dyn Source>).map_err(Into::into)
        }
        SourceConfig::Device(device) => {
            let (settings, pushed) = (device.settings(&id), device.kind.is_line_triggered());
            let report = |report: Report| {
                if let Report::Fault { reason } = report {
                    eprintln!("the camera: {reason}");
                }
            };
            let (program, limits) = (Program::new(["capture"]), device.limits());
            Supervised::new(settings, program, limits, pushed, stop.clone(), Box::new(report))
                .map(|source| Box::new(source) as Box<dyn Source>)
                .map_err(Into::into)
        }
    };
    opened.with_context(|| format!("--camera {}", camera.id))
}

/// The names of the pictures.
fn pictures(
    source: &mut dyn Source,
    camera: &Camera,
    wanted: &Wanted<'_>,
    stop: &Stop,
    parts: &mut Parts,
) -> anyhow::Result<Vec<String>> {
    let Wanted { id, count, dir, .. } = *wanted;
    let (mut files, mut refused) = (vec![], 0);
    let mut due = Instant::now();
    while files.len() < count {
        wait_for_part(camera, files.len(), count, due, stop)?;
        let asked = Instant::now();
        due = asked + camera.trigger.interval_ms.map_or(Duration::ZERO, Duration::from_millis);
        let after = is_asked(camera).then_some(asked);
        let pixels = match source.take(Want { after, by: Some(asked + PICTURE_WAIT) }) {
            Ok(Some(frame)) => Ok(frame.pixels),
            Ok(None) => bail!(
                "--camera {id}: it has ended after {} of {count} pictures, which are in {}",
                files.len(),
                dir.display()
            ),
            Err(error @ (CameraError::Late | CameraError::Device { .. })) => {
                bail!("--camera {id}: {} s have passed without a picture: {error}", PICTURE_WAIT.as_secs())
            }
            Err(error) => Err(error.to_string()),
        };
        let used = pixels.and_then(|pixels| add(parts, &pixels).map(|()| pixels));
        match used {
            Ok(pixels) => {
                let name = format!("{:04}.png", files.len() + 1);
                picture::save(&dir.join(&name), &pixels)?;
                files.push(name);
                eprintln!("picture {} of {count}", files.len());
            }
            Err(why) => {
                refused += 1;
                eprintln!("a picture is not used: {why}");
                ensure!(
                    refused < count + REFUSED_MAX,
                    "--camera {id}: {refused} pictures are of no use, the last one: {why}"
                );
            }
        }
    }
    Ok(files)
}

fn add(parts: &mut Parts, pixels: &RgbImage) -> Result<(), String> {
    parts.add(pixels).map_err(|unfit: Unfit| unfit.to_string())
}

/// Whether each picture is asked for, when its part has been placed: neither a line nor a clock makes it.
fn is_asked(camera: &Camera) -> bool {
    let is_device = matches!(camera.source, SourceConfig::Device(_));
    let is_free = is_device && camera.trigger.interval_ms.is_none();
    !camera.source.is_line_triggered() && (camera.trigger.on == TriggerOn::Command || is_free)
}

/// Waits for the camera's own time or, where each picture is asked for, for a person who has placed the part.
fn wait_for_part(
    camera: &Camera,
    taken: usize,
    count: usize,
    due: Instant,
    stop: &Stop,
) -> anyhow::Result<()> {
    if !is_asked(camera) {
        stop.wait_until(due);
    } else if std::io::stdin().is_terminal() {
        eprint!("place good part {} of {count}, then press Enter ", taken + 1);
        ensure!(std::io::stdin().read_line(&mut String::new())? > 0, "nobody places parts any more");
    }
    Ok(())
}
