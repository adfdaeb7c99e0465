//! `inspectd try-schema`: the daemon starts it to learn whether a schema can be compiled.

use crate::daemon::schemas::try_one;
use crate::ipc::Channel;
use anyhow::Context as _;
use std::process::ExitCode;

/// Tries one schema.
///
/// # Errors
/// Standard input is no socket: a person started it.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    try_one(Channel::of_this_process().context("this command is for the daemon's own use")?)?;
    Ok(ExitCode::SUCCESS)
}
