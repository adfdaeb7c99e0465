//! `inspectd serve-store`: root's command starts it as the owner of a store, so that none of its files become root's.

use crate::control::client::serve_dir;
use crate::ipc::Channel;
use std::path::Path;
use std::process::ExitCode;

/// Serves one request over standard input on the store in the working directory.
///
/// # Errors
/// Standard input is no socket: a person started it.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    serve_dir(Path::new("."), Channel::of_this_process()?);
    Ok(ExitCode::SUCCESS)
}
