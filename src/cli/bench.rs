//! `inspectd bench`: being measured.

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub fn run(_: Args) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("bench is being written")
}
