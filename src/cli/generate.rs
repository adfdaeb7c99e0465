//! `inspectd man`, `completions` and `schema`: what the package installs beside the program, made by the program itself.

use super::Cli;
use clap::CommandFactory;
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
    /// Of which file.
    #[arg(value_name = "FILE")]
    of: Document,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Document {
    /// The config, /etc/inspectd/inspectd.toml.
    Config,
    /// A recipe, pipelines/NAME.toml.
    Pipeline,
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
    let schema = match args.of {
        Document::Config => crate::config::schema(),
        Document::Pipeline => crate::recipe::schema(),
    };
    let text = serde_json::to_string_pretty(&schema)?;
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
