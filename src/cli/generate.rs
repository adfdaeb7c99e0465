//! `inspectd man`, `completions` and `schema`: what the package installs beside the program, made by the program itself.

use super::Cli;
use crate::publish::mqtt::dialect::json::schemas::SCHEMAS;
use anyhow::Context as _;
use clap::CommandFactory;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// The name of the program in its man pages and completions.
const PROGRAM: &str = "inspectd";

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Folder for the pages, one a subcommand; it is made.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `schema`.
#[derive(clap::Args, Debug)]
pub(super) struct SchemaArgs {
    /// Of which file or which message.
    #[arg(value_name = "OF", value_parser = schemas())]
    of: String,
}

const CONFIG: &str = "config";
const PIPELINE: &str = "pipeline";

/// What there is a schema of: files, and the messages of MQTT.
fn schemas() -> PossibleValuesParser {
    let files = [
        PossibleValue::new(CONFIG).help("The config, /etc/inspectd/inspectd.toml"),
        PossibleValue::new(PIPELINE).help("A recipe, pipelines/NAME.toml"),
    ];
    let messages = SCHEMAS.iter().map(|schema| PossibleValue::new(schema.name).help(schema.about));
    files.into_iter().chain(messages).into()
}

/// Writes the man pages.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn man(args: ManArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn completions(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    // The generator panics where it cannot write, so that it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a JSON Schema.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn schema(args: SchemaArgs) -> anyhow::Result<ExitCode> {
    let text = match args.of.as_str() {
        CONFIG => serde_json::to_string_pretty(&crate::config::schema())?,
        PIPELINE => serde_json::to_string_pretty(&crate::recipe::schema())?,
        message => {
            let found = SCHEMAS.iter().find(|schema| schema.name == message);
            found.with_context(|| format!("there is no schema of {message}"))?.text.trim_end().to_owned()
        }
    };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
