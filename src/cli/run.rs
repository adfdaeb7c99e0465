//! `inspectd run`: the daemon.

use crate::config::{self, DEFAULT_FILE};
use crate::daemon::{self, told::Told};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A bad config (exit code 78), a part that cannot be opened, a store that fails.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before anything that takes time: a signal must find somebody who hears it.
    let told = Told::listen()?;
    let config = config::load_to_run(&args.config)?;
    tracing::info!(file = %args.config.display(), "effective config:\n{}", config.effective());
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    daemon::run(config, &told)?;
    Ok(ExitCode::SUCCESS)
}
