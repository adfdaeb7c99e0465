//! Parses the arguments, starts the logging, runs the command and chooses the exit code.

use clap::Parser;
use inspectd::config;
use inspectd::daemon::damaged::{self, Damaged};
use inspectd::document::ReadError;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = inspectd::cli::Cli::parse();
    start_logging();
    match inspectd::cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inspectd: {error:#}");
            exit_code(&error)
        }
    }
}

/// A bad config, a store of a newer version and a damaged store have codes of their own: systemd must not restart what only
/// a person can mend.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<ReadError>()) || damaged::is_of_a_newer_version(error) {
        ExitCode::from(config::EXIT_CODE)
    } else if error.chain().any(|cause| cause.is::<Damaged>()) {
        ExitCode::from(damaged::EXIT_CODE)
    } else {
        ExitCode::FAILURE
    }
}

/// Words for people go to stderr: stdout belongs to results. `INSPECTD_LOG=debug` says more.
fn start_logging() {
    let filter = EnvFilter::try_from_env("INSPECTD_LOG").unwrap_or_else(|_| EnvFilter::new("info,sled=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_bad_config_has_an_exit_code_of_its_own() {
        let bad = config::load(std::path::Path::new("no/such/config.toml")).context("starting");
        let bad = bad.expect_err("there is no such file");
        let other = anyhow::anyhow!("something else");
        assert_eq!(format!("{:?}", exit_code(&bad)), format!("{:?}", ExitCode::from(78)));
        assert_eq!(format!("{:?}", exit_code(&other)), format!("{:?}", ExitCode::FAILURE));
    }
}
