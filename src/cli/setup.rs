//! The pipeline and the model that a one-shot command works with.
//!
//! ```text
//! --config FILE     model and pipelines of an installed box
//! --pipeline P      a file, or a name in the config's directory of pipelines; without a config in that of the
//!                   working directory, /etc/inspectd or /usr/share/inspectd
//! --model, --mmproj override the config's; without either, the shipped small model
//! ```

use super::model_args::ModelArgs;
use crate::config::{self, Config};
use crate::document::ReadError;
use crate::document::search::Search;
use crate::domain::frame::{Frame, Trigger};
use crate::domain::pipeline::{Pipeline, PromptKind};
use crate::recipe::registry::Recipe;
use anyhow::Context;
use image::RgbImage;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The pipeline when none is named.
const DEFAULT_PIPELINE: &str = "photo";
/// Directory of pipelines when no config names one.
const PIPELINES_DIR: &str = "pipelines";
/// Nobody waits at a line for a one-shot inspection: its deadline is as good as none.
const DEADLINE: Duration = Duration::from_hours(24);

/// Where a one-shot command finds its pipeline and model.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct SetupArgs {
    /// Pipeline to inspect with: a file (.toml), or a name in the config's directory of pipelines or, without a config, in
    /// pipelines/ of the working directory, /etc/inspectd or /usr/share/inspectd [default: photo, or the config's only
    /// one].
    #[arg(long, value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// Config file whose model and pipelines are used.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Drop detections less sure than this, instead of the pipeline's limit; 0 keeps all.
    #[arg(long, value_name = "0..1", value_parser = confidence)]
    pub min_confidence: Option<f32>,
}

fn confidence(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|c| (0.0..=1.0).contains(c));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

impl SetupArgs {
    /// The pipeline and the model's files.
    ///
    /// # Errors
    /// `ReadError` with file, line and key.
    pub(super) fn resolve(&self) -> anyhow::Result<(Pipeline, ModelArgs)> {
        let config = self.config.as_deref().map(config::load).transpose()?;
        let mut pipeline = self.pipeline(config.as_ref())?;
        if let Some(limit) = self.min_confidence {
            pipeline.verdict.ignore_below_confidence = limit;
        }
        pipeline.verdict.deadline = DEADLINE;
        Ok((pipeline, self.model.or_config(config.as_ref())))
    }

    fn pipeline(&self, config: Option<&Config>) -> anyhow::Result<Pipeline> {
        let loaded = config.map(|c| &c.recipes);
        let of = |recipe: &Recipe| (*recipe.pipeline).clone();
        let only = || loaded.filter(|p| p.len() == 1).and_then(|p| p.values().next().map(of));
        let Some(name) = &self.pipeline else {
            return only().map_or_else(|| named(config, DEFAULT_PIPELINE), Ok);
        };
        let known = loaded.and_then(|p| p.get(name).map(of));
        known.map_or_else(|| named(config, name), Ok)
    }
}

fn named(config: Option<&Config>, name: &str) -> anyhow::Result<Pipeline> {
    let read = || anyhow::Ok(crate::recipe::load_pipeline(&named_file(config, name)?)?);
    read().with_context(|| format!("--pipeline {name}"))
}

/// The file of a pipeline that is named by its name or its path.
///
/// # Errors
/// `ReadError::Unreadable`, with the places that were looked at.
#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "so are the names of pipelines")]
pub(super) fn named_file(config: Option<&Config>, name: &str) -> Result<PathBuf, ReadError> {
    if name.ends_with(".toml") {
        return Ok(PathBuf::from(name));
    }
    let file = format!("{name}.toml");
    let search = Search::without_config();
    let (found, places) = match config {
        Some(config) => {
            let dir = &config.pipelines_dir;
            (Some(dir.join(&file)).filter(|path| path.exists()), dir.display().to_string())
        }
        None => (search.find(&Path::new(PIPELINES_DIR).join(&file)), search.places()),
    };
    let as_written = || Some(PathBuf::from(name)).filter(|path| path.is_file());
    found.or_else(as_written).ok_or_else(|| {
        let file = if config.is_some() { file } else { format!("{PIPELINES_DIR}/{file}") };
        let source = io::Error::new(io::ErrorKind::NotFound, format!("looked in {places}"));
        ReadError::Unreadable { file, source }
    })
}

/// The pipeline with the regions of text prompts where they lie in one very picture.
pub(super) fn with_rois(pipeline: &Pipeline, rois: &BTreeMap<String, crate::domain::rect::Rect>) -> Pipeline {
    let mut pipeline = pipeline.clone();
    for prompt in &mut pipeline.prompts {
        if let (PromptKind::Text { .. }, Some(roi)) = (&prompt.kind, rois.get(&prompt.id)) {
            prompt.roi = Some(*roi);
        }
    }
    pipeline
}

/// The pipeline without comparisons with values that nothing brought along: a file has no trigger.
pub(super) fn without_trigger(pipeline: &Pipeline, expected: &BTreeMap<String, String>) -> Pipeline {
    let mut pipeline = pipeline.clone();
    for prompt in &mut pipeline.prompts {
        if let PromptKind::Text { expect } = &mut prompt.kind {
            for rule in expect {
                rule.from_trigger = rule.from_trigger.take().filter(|key| expected.contains_key(key));
            }
        }
    }
    pipeline
}

/// A frame from a file, exposed now.
pub(super) fn frame(pixels: Arc<RgbImage>, origin: &str, trigger: Trigger) -> Frame {
    Frame {
        camera: "file".into(),
        pixels,
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger,
        origin: origin.into(),
        replayed: true,
    }
}
