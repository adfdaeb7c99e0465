//! The command line: one file a subcommand, and what subcommands share.
//!
//! ```text
//! run, inspect, check, doctor, replay, learn, calibrate, new-product, simulate, ask, bench, model    subcommands
//! verify, export, outbox, account, backup (and restore, salvage)    subcommands on a store
//! guide                                                         the chapters of the guide
//! modbus-map                                                    the registers for PLCs
//! infer                                                         the engine's process, for the daemon
//! generate                                                      man pages, completions and schemas, for the package
//! store_args, serve_store      which store a command works on; the process that opens it for root
//! model_args, setup                                             the model and the pipeline they use
//! annotate, picture            annotated copies of frames; reading and writing image files
//! output, figures, columns, progress    words for people
//! logging                               what every process says beside its results
//! ```

mod account;
mod annotate;
mod ask;
mod backup;
mod bench;
mod calibrate;
mod cameras;
mod capture;
mod check;
mod columns;
mod doctor;
mod export;
mod figures;
mod generate;
mod guide;
mod infer;
mod inspect;
mod learn;
pub mod logging;
mod modbus_map;
mod model;
mod model_args;
mod new_product;
mod outbox;
mod output;
pub mod picture;
mod progress;
mod replay;
mod run;
mod serve_store;
mod setup;
mod simulate;
mod store_args;
mod try_schema;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Where what is named without its folder is looked for, below the help and in the man page.
const FILES: &str = "\
Files that a config names by a relative path (its pipelines, its model) are looked for beside the config file, in the \
working directory and in /usr/share/inspectd, in this order. A command without a config looks for pipelines and the \
shipped model in the working directory, in /etc/inspectd and in /usr/share/inspectd.";

/// Visual inspection at the line: cameras in, graded inspections out.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = FILES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: cameras, inspections, store and MQTT.
    #[command(after_help = logging::HELP)]
    Run(run::Args),
    /// Inspect pictures once and print what was found.
    Inspect(inspect::Args),
    /// Check a config, its pipelines, and what they need of this machine.
    Check(check::Args),
    /// Look at the whole box, from processor to broker, and say what to do.
    Doctor(doctor::Args),
    /// Inspect labelled images and score the answers.
    Replay(replay::Args),
    /// Learn what a recipe judges by from parts that people have confirmed.
    Learn(learn::Args),
    /// Find the thresholds that keep a promise about defective parts.
    #[command(after_help = calibrate::HELP)]
    Calibrate(calibrate::Args),
    /// Make a recipe of a new product from pictures of good parts.
    NewProduct(new_product::Args),
    /// Render line images with known truth.
    Simulate(simulate::Args),
    /// Ask the model a free question, with or without pictures.
    Ask(ask::Args),
    /// Measure the speed of every stage.
    Bench(bench::Args),
    /// Look into model files.
    Model(model::Args),
    /// List the cameras that this machine can see.
    Cameras(cameras::Args),
    /// Print a chapter of the guide, or the list of chapters.
    Guide(guide::Args),
    /// Print the Modbus registers for PLCs, with the numbers of errors, verdicts and reasons.
    ModbusMap(modbus_map::Args),
    /// Serve one camera to the daemon over its standard input.
    #[command(hide = true)]
    Capture(capture::Args),
    /// Write inspections, with what people decided, for other programs.
    Export(export::Args),
    /// List what was given up on the way to the broker, and owe it to the broker again.
    Outbox(outbox::Args),
    /// Give an account of the review page another password, at the terminal of the box.
    Account(account::Args),
    /// Copy the store, also beside the running daemon; again into the same directory only what is new.
    Backup(backup::BackupArgs),
    /// Make a store from a backup.
    Restore(backup::RestoreArgs),
    /// Take what can be read out of a damaged store into a new one.
    Salvage(backup::SalvageArgs),
    /// Prove that the ledger has no gap and no edit.
    Verify(verify::Args),
    #[command(hide = true)]
    Infer(infer::Args),
    /// Open the store of the working directory for one command of root.
    #[command(hide = true)]
    ServeStore,
    /// Try whether a JSON schema can be compiled.
    #[command(hide = true)]
    TrySchema,
    /// Write the man pages.
    #[command(hide = true)]
    Man(generate::ManArgs),
    /// Print the completions of a shell.
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
    /// Print the JSON Schema of the config, of a pipeline or of a message.
    Schema(generate::SchemaArgs),
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever the command could not do; `main` prints it and chooses the exit code.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Replay(args) => replay::run(args),
        Command::Learn(args) => learn::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::NewProduct(args) => new_product::run(&args),
        Command::Simulate(args) => simulate::run(args),
        Command::Ask(args) => ask::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Model(args) => model::run(args),
        Command::Cameras(args) => cameras::run(&args),
        Command::Guide(args) => guide::run(&args),
        Command::ModbusMap(args) => modbus_map::run(&args),
        Command::Capture(args) => capture::run(args),
        Command::Export(args) => export::run(args),
        Command::Outbox(args) => outbox::run(args),
        Command::Account(args) => account::run(args),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Salvage(args) => backup::salvage(&args),
        Command::Verify(args) => verify::run(args),
        Command::Infer(args) => infer::run(args),
        Command::ServeStore => serve_store::run(),
        Command::TrySchema => try_schema::run(),
        Command::Man(args) => generate::man(args),
        Command::Completions(args) => generate::completions(args),
        Command::Schema(args) => generate::schema(args),
    }
}
