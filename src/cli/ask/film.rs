//! Films as `ask` shows them.
//!
//! ```text
//! film --every 1/fps s--> pictures; more than are wanted: each second one goes, and the distance doubles
//! ```
//!
//! A film is read once, however long it is, and no more than the wanted pictures are in memory.

use super::Args;
use crate::camera::kind::film::Film;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vlm::{Ask, ClipFrame, Form, Job, Qwen3Vl, Shown, Vlm as _};

/// Most memory for the pictures of a film, in bytes.
const BYTES_MAX: usize = 1 << 30;

/// Pictures of a film, `fps` for each second where it is short enough, and at most `max` of them.
///
/// # Errors
/// It cannot be read, holds no picture, or its pictures need too much memory.
pub(super) fn pictures(path: &Path, fps: f64, max: usize) -> anyhow::Result<Vec<ClipFrame>> {
    let name = || path.display().to_string();
    anyhow::ensure!(fps > 0.0 && fps <= 1000.0, "--fps {fps}: over 0 to 1000 expected");
    let mut every = Duration::from_secs_f64(1.0 / fps);
    let mut frames: Vec<ClipFrame> = vec![];
    for picture in Film::open(path)? {
        let (image, at) = picture.with_context(name)?;
        if is_too_early(&frames, at, every) {
            continue;
        }
        let (width, height) = image.dimensions();
        let fit = BYTES_MAX / image.as_raw().len().max(1);
        anyhow::ensure!(
            max <= fit,
            "{}: {max} pictures of {width}x{height} need more than {} MiB of memory; --max-frames {fit} fits",
            name(),
            BYTES_MAX >> 20
        );
        if frames.len() == max {
            thin_out(&mut frames, &mut every);
            if is_too_early(&frames, at, every) {
                continue;
            }
        }
        frames.push(ClipFrame { image: Arc::new(image), at });
    }
    anyhow::ensure!(!frames.is_empty(), "{}: the film holds no picture", name());
    Ok(frames)
}

/// True when the picture before it is nearer than it may be.
fn is_too_early(frames: &[ClipFrame], at: Duration, every: Duration) -> bool {
    frames.last().is_some_and(|last| at < last.at + every)
}

/// Each second picture goes.
fn thin_out(frames: &mut Vec<ClipFrame>, every: &mut Duration) {
    let mut stays = false;
    frames.retain(|_| {
        stays = !stays;
        stays
    });
    *every *= 2;
}

/// Asks about each picture for itself, then about what was answered; printed, or as JSON.
///
/// # Errors
/// The engine fails.
pub(super) fn each(engine: &mut Qwen3Vl, job: Job, args: &Args) -> anyhow::Result<Value> {
    let Shown::Clip(frames) = &job.shown else { anyhow::bail!("--each is for a film") };
    let mut said = vec![];
    for ClipFrame { image, at } in frames {
        let alone = Job { shown: Shown::Images(vec![Arc::clone(image)]), ..job.clone() };
        let answers = engine.answer(&[alone], &|| true).jobs.pop().and_then(|mut answers| answers.pop());
        let text = answers.context("the engine gave no answer")??.text;
        if !args.json {
            super::print_line(&format!("{:.1} s: {text}", at.as_secs_f64()))?;
        }
        said.push((*at, text));
    }
    let about = Job { shown: Shown::Images(vec![]), asks: vec![merged(&job.asks[0], &said)], ..job.clone() };
    let mut out = super::whole(engine, about, args)?;
    out["frames"] = said.iter().map(|(at, text)| json!({ "at_s": at.as_secs_f64(), "text": text })).collect();
    Ok(out)
}

/// The question about all answers.
fn merged(ask: &Ask, said: &[(Duration, String)]) -> Ask {
    let lines: String =
        said.iter().map(|(at, text)| format!("<{:.1} seconds> {text}\n", at.as_secs_f64())).collect();
    let text = format!(
        "The pictures of a film were asked about one by one. Their answers, with their times:\n{lines}\nAnswer for the whole film: {}",
        ask.text
    );
    Ask { text: text.into(), form: Form::Free, ..ask.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_film_is_thinned_out_evenly() {
        let picture = Arc::new(image::RgbImage::new(1, 1));
        let at = |i: u64| ClipFrame { image: Arc::clone(&picture), at: Duration::from_millis(500 * i) };
        let (mut frames, mut every): (Vec<_>, _) = ((0..5).map(at).collect(), Duration::from_millis(500));
        thin_out(&mut frames, &mut every);
        let times: Vec<_> = frames.iter().map(|f| f.at.as_millis()).collect();
        assert_eq!((times, every.as_millis()), (vec![0, 1000, 2000], 1000));
    }
}
