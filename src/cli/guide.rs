//! `inspectd guide`: the chapters of the guide on stdout, as they were written, for a box without a network.

use super::columns::{Align, Columns};
use super::output::print;
use crate::guide::{self, CHAPTERS, Chapter};
use anyhow::bail;
use clap::builder::PossibleValuesParser;
use std::process::ExitCode;

/// What to print.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Chapter [default: the list of chapters].
    #[arg(value_name = "TOPIC", value_parser = topics(), hide_possible_values = true)]
    topic: Option<String>,
    /// Language: en, or zh for the chapters that operators need.
    #[arg(long, value_name = "LANGUAGE", default_value = "en", value_parser = ["en", "zh"], hide_possible_values = true)]
    language: String,
}

fn topics() -> PossibleValuesParser {
    PossibleValuesParser::new(CHAPTERS.iter().map(|chapter| chapter.topic))
}

/// Runs the command.
///
/// # Errors
/// A chapter that is not there in this language; standard output cannot be written.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let is_chinese = args.language == "zh";
    let text = match args.topic.as_deref().and_then(guide::chapter) {
        None => list(is_chinese),
        Some(chapter) if is_chinese => chinese(chapter)?.to_owned(),
        Some(chapter) => chapter.text.to_owned(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The chapters that there are, one a line.
fn list(is_chinese: bool) -> String {
    let mut columns = Columns::new(&[("topic", Align::Left), ("about", Align::Left)]);
    for chapter in CHAPTERS {
        match (is_chinese, chapter.chinese) {
            (true, None) => {}
            (true, Some(text)) => columns.row([chapter.topic.to_owned(), guide::title(text).to_owned()]),
            (false, _) => columns.row([chapter.topic.to_owned(), chapter.about.to_owned()]),
        }
    }
    format!("{columns}\n`inspectd guide TOPIC` prints one; the page shows them under /guide/.\n")
}

fn chinese(chapter: &Chapter) -> anyhow::Result<&'static str> {
    let Some(text) = chapter.chinese else {
        let there = CHAPTERS.iter().filter(|c| c.chinese.is_some()).map(|c| c.topic).collect::<Vec<_>>();
        bail!("there is no Chinese text of {}; there is one of {}", chapter.topic, there.join(", "));
    };
    Ok(text)
}
