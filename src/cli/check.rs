//! `inspectd check`: is this config fine, and are these pipelines?
//!
//! Prints one line for what is fine, one for what is risky and one for every problem, with its file, line, key and value.
//! Opens no camera and no connection; what a start would trip over on this machine it finds all the same ([`here`]), and
//! asks the store, where there is one ([`kept`]).

pub(super) mod here;
pub(super) mod kept;
pub(super) mod remote;

use crate::config::{self, Config};
use crate::document::{Problem, ReadError};
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind, SkipRule};
use crate::domain::reference::Lesson;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to check. Without anything, the installed config.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The config, with the pipelines that its cameras name [default, without pipeline files:
    /// /etc/inspectd/inspectd.toml].
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG")]
    config: Option<PathBuf>,
    /// Warnings count as problems: they end in the same exit code.
    #[arg(long)]
    strict: bool,
    /// Pipeline files to check on their own.
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<PathBuf>,
}

/// Runs the command. Problems, and with `--strict` warnings, make the exit code `config::EXIT_CODE`.
///
/// # Errors
/// Only when standard output cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let installed = args.pipelines.is_empty().then(|| PathBuf::from(config::DEFAULT_FILE));
    let out = &mut io::stdout().lock();
    let mut fine = true;
    if let Some(path) = args.config.or(installed) {
        match config::load_with_files(&path, &here::found) {
            Ok(config) => {
                report_config(out, &path, &config)?;
                fine &= report_warnings(out, &config.warnings)? || !args.strict;
            }
            Err(error) => {
                fine = false;
                report_problems(out, &error)?;
            }
        }
    }
    for path in &args.pipelines {
        match crate::recipe::load_pipeline_with_warnings(path) {
            Ok((pipeline, warnings)) => {
                report_pipeline(out, path, &pipeline)?;
                fine &= report_warnings(out, &warnings)? || !args.strict;
            }
            Err(error) => {
                fine = false;
                report_problems(out, &error)?;
            }
        }
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(config::EXIT_CODE) })
}

fn report_config(out: &mut impl Write, path: &Path, config: &Config) -> io::Result<()> {
    let ids: Vec<_> = config.cameras.iter().map(|camera| camera.id.as_str()).collect();
    let (url, node) = (config.mqtt.url(), config.mqtt.node());
    writeln!(out, "ok       {}: {}, broker {url}{node}", path.display(), counted(&ids, "camera"))?;
    for sink in &config.sinks {
        let (name, url, node) = (&sink.name, sink.broker.url(), sink.broker.node());
        let enabled = if sink.enabled { "" } else { ", not enabled" };
        let commands = if sink.commands { ", takes commands" } else { "" };
        writeln!(out, "ok       {}: sink {name}, broker {url}{node}{commands}{enabled}", path.display())?;
    }
    if let Some(remote) = &config.model.remote {
        let files =
            if config.model.has_files() { "; the features of pictures are those of the files" } else { "" };
        writeln!(out, "ok       {}: the model of {}{files}", path.display(), remote::named(remote))?;
    }
    for (name, recipe) in &config.recipes {
        report_pipeline(out, &config.file_of(name), &recipe.pipeline)?;
    }
    for look in [here::ground(&config.store.dir), here::port(config)] {
        if let here::Look::Untold(why) = look {
            writeln!(out, "note     {why}")?;
        }
    }
    for note in &config.notes {
        writeln!(out, "note     {note}; no camera names it, and no command can")?;
    }
    Ok(())
}

fn report_pipeline(out: &mut impl Write, path: &Path, pipeline: &Pipeline) -> io::Result<()> {
    let kind = |kind: &PromptKind| match kind {
        PromptKind::Defects { labels } => format!("{} labels", labels.len()),
        PromptKind::Text { expect } => format!("{} lines checked", expect.len()),
        PromptKind::Reference(rule) => match rule.lesson {
            Lesson::Bank { .. } => format!("like good parts, by {}", rule.file),
            Lesson::Head => format!("unlike defective parts, by {}", rule.file),
        },
    };
    let skip = |prompt: &Prompt| match &prompt.skip {
        Some(SkipRule { by, below }) => format!(", skipped where {by} is below {below}"),
        None => String::new(),
    };
    let prompts: Vec<_> =
        pipeline.prompts.iter().map(|p| format!("{}: {}{}", p.id, kind(&p.kind), skip(p))).collect();
    let prompts: Vec<_> = prompts.iter().map(String::as_str).collect();
    let (path, name, version) = (path.display(), &pipeline.name, &pipeline.version);
    let adapter = pipeline.adapter.as_ref();
    let adapter = adapter.map(|a| format!(", adapter {} sha256 {}", a.file, a.sha256)).unwrap_or_default();
    writeln!(out, "ok       {path}: {name} version {version}, {}{adapter}", counted(&prompts, "prompt"))
}

/// Prints what is risky. True when nothing is.
fn report_warnings(out: &mut impl Write, warnings: &[Problem]) -> io::Result<bool> {
    warnings.iter().try_for_each(|warning| writeln!(out, "warning  {warning}"))?;
    Ok(warnings.is_empty())
}

fn report_problems(out: &mut impl Write, error: &ReadError) -> io::Result<()> {
    match error {
        ReadError::Unreadable { source, .. } => writeln!(out, "problem  {error}: {source}"),
        ReadError::Invalid { problems } => {
            problems.iter().try_for_each(|problem| writeln!(out, "problem  {problem}"))
        }
    }
}

/// `2 cameras (a, b)`.
fn counted(items: &[&str], word: &str) -> String {
    let plural = if items.len() == 1 { "" } else { "s" };
    format!("{} {word}{plural} ({})", items.len(), items.join(", "))
}
