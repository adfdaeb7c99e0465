//! `inspectd infer`: the engine's process. The daemon starts it and speaks to it over its standard
//! input; nobody else has a use for it, so it stands in no help.

use super::model_args::{kv, processor};
use crate::engine::child::serve::serve;
use crate::ipc::Channel;
use anyhow::Context as _;
use std::path::PathBuf;
use std::process::ExitCode;
use vlm::engine::EngineOptions;
use vlm::kv::KvPrecision;
use vlm::processor::Processor;
use vlm::{Qwen3Vl, Steps};

/// The kernel's preference among processes when memory ends: rather the engine, which is started
/// again, than the store.
const OOM_SCORE_ADJ: &str = "500";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    text: PathBuf,
    #[arg(long)]
    mmproj: PathBuf,
    #[arg(long)]
    adapter: Option<PathBuf>,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    memory_mb: u64,
    #[arg(long, default_value_t)]
    adapters_mb: u64,
    #[arg(long, value_parser = kv)]
    kv: KvPrecision,
    #[arg(long, default_value_t)]
    yarn: u32,
    #[arg(long, value_parser = processor)]
    device: Processor,
}

/// Serves until the daemon goes away.
///
/// # Errors
/// When nobody is at the other end.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let channel = Channel::of_this_process().context("this command is for the daemon's own use")?;
    // A sandbox may forbid it; the engine works without.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let Args { threads, memory_mb, adapters_mb, kv, yarn, .. } = args;
    let options = EngineOptions { threads, memory_mb, adapters_mb, kv, yarn };
    serve(channel, move || {
        let (adapter, device) = (args.adapter.as_deref(), args.device.open()?);
        let engine = Qwen3Vl::load_with(&args.text, &args.mmproj, adapter, options, &device)?;
        engine.model().notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(Box::new(engine) as Box<dyn Steps>)
    })?;
    Ok(ExitCode::SUCCESS)
}
