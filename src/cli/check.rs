//! Being written.

/// Being written.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Being written.
pub fn run(_args: Args) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not built yet")
}
