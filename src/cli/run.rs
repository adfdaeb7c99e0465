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
    for camera in &config.cameras {
        let recipe = config.recipes.get(&camera.pipeline);
        if let Some(why) = recipe.and_then(|recipe| config::off_frame(&camera.source, &recipe.pipeline)) {
            tracing::warn!(
                camera = camera.id,
                pipeline = camera.pipeline,
                why,
                "a recipe does not fit its camera"
            );
        }
    }
    daemon::run(config, &told)?;
    Ok(ExitCode::SUCCESS)
}
