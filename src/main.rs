//! Parses the arguments, starts the logging, runs the command and chooses the exit code.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = inspectd::cli::Cli::parse();
    match inspectd::cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inspectd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
