//! Parses the arguments, starts the logging, runs the command and chooses the exit code.

use clap::Parser;
use inspectd::config::{self, ConfigError};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = inspectd::cli::Cli::parse();
    match inspectd::cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inspectd: {error:#}");
            exit_code(&error)
        }
    }
}

/// A bad config has a code of its own: systemd must not restart what only an edit can mend.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        ExitCode::from(config::EXIT_CODE)
    } else {
        ExitCode::FAILURE
    }
}
