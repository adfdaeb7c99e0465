//! `inspectd cameras`: what this machine can see, in the words that the config wants.

use crate::camera::{genicam, v4l2};
use std::process::ExitCode;

/// Arguments of `cameras`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// None; what cannot be opened is listed with the reason.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (nodes, found) = (v4l2::list(), genicam::list());
    if args.json {
        let nodes: Vec<_> = nodes
            .iter()
            .map(
                |(node, name, details)| serde_json::json!({"device": node, "name": name, "details": details}),
            )
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|(id, address, what)| serde_json::json!({"name": id, "address": address, "what": what}))
            .collect();
        println!("{}", serde_json::json!({"v4l2": nodes, "genicam": found}));
        return Ok(ExitCode::SUCCESS);
    }
    for (node, name, details) in &nodes {
        println!("v4l2     device = {:?}   {name}", node.display().to_string());
        details.iter().for_each(|line| println!("           {line}"));
    }
    for (id, address, what) in &found {
        println!("genicam  name = {id:?}   {what}, address {address}");
    }
    if nodes.is_empty() && found.is_empty() {
        eprintln!(
            "no V4L2 device and no GenICam camera answers; RTSP and other streams are not searched for"
        );
    }
    Ok(ExitCode::SUCCESS)
}
