//! `inspectd capture`: one camera's process, started by the daemon and by nobody else.

use crate::camera::child;
use crate::ipc::Channel;
use anyhow::Context;
use std::process::ExitCode;

/// Arguments of `capture`: what to open comes over the socket.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

/// Runs the command.
///
/// # Errors
/// Standard input is no socket of a daemon, or that connection failed.
pub(super) fn run(_args: Args) -> anyhow::Result<ExitCode> {
    let channel = Channel::of_this_process().context("this command is for the daemon's own use")?;
    child::serve(channel, |settings| settings.kind.open())?;
    Ok(ExitCode::SUCCESS)
}
