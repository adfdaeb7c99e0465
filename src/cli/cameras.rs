//! `inspectd cameras`: what this machine can see, in the words that the config wants.

use crate::camera::kind;
use serde_json::{Map, Value};
use std::process::ExitCode;

/// Arguments of `cameras`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// None; what cannot be opened is listed with the reason.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let found = kind::list();
    if args.json {
        let of_kind = |(word, found): (&str, Vec<kind::Found>)| {
            (word.to_owned(), found.into_iter().map(|found| found.json).collect::<Value>())
        };
        println!("{}", Value::Object(found.into_iter().map(of_kind).collect::<Map<_, _>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<_> = found.into_iter().flat_map(|(_, found)| found).map(|found| found.text).collect();
    texts.iter().for_each(|text| println!("{text}"));
    if texts.is_empty() {
        eprintln!(
            "no V4L2 device and no GenICam camera answers; RTSP and other streams are not searched for"
        );
    }
    Ok(ExitCode::SUCCESS)
}
