//! Parses the arguments, starts the logging, runs the command and chooses the exit code.

use clap::Parser;
use inspectd::config;
use inspectd::daemon::damaged::{self, Damaged};
use inspectd::document::ReadError;
use inspectd::{causes, cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let Err(words) = cli::logging::start() {
        eprintln!("inspectd: {words}");
        return ExitCode::from(config::EXIT_CODE);
    }
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inspectd: {}", causes::told(&error));
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
