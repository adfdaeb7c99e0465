//! The keys of prompts that are answered by what was learned, and the file that they judge by.
//!
//! ```toml
//! [[prompt]]
//! id = "like-good-parts"
//! kind = "reference"
//! features = "backbone"     # or "tower"
//! bank = "nuts.bank"        # beside this file, made by: inspectd learn references --pipeline nuts.toml --truth DIR
//! place = "free"            # or "fixed", where a fixture holds the part [free]
//! tolerance_mm = 0.5        # how far a fixed part may be off [0]
//! label = "anomaly"         # of its findings [anomaly]
//!
//! [[prompt]]
//! id = "unlike-bad-parts"
//! kind = "head"
//! features = "backbone"     # or "tower"
//! head = "nuts.head"        # beside this file, made by: inspectd learn head --pipeline nuts.toml --truth DIR
//! label = "anomaly"         # of findings whose label the head does not know [anomaly]
//! ```

use super::beside::{Files, is_plain};
use super::file::check_label;
use crate::document::Section;
use crate::domain::reference::{FeatureSource, Learned, Lesson, Place, ReferenceRule};
use crate::inspect::reference::{file, head_file};

/// The label of findings when none is given.
const LABEL: &str = "anomaly";
const LABEL_CHARS_MAX: usize = 64;

/// What a key names, how it is read, and what makes it.
struct Source {
    key: &'static str,
    read: fn(&[u8]) -> Result<Learned, String>,
    made_by: &'static str,
}

const BANK: Source = Source { key: "bank", read: file::learned, made_by: "inspectd learn references" };
const HEAD: Source = Source { key: "head", read: head_file::learned, made_by: "inspectd learn head" };

/// The rule of a prompt of kind reference; `files` are those beside the recipe, `None` when they are to be learned.
pub(super) fn bank(section: &Section<'_>, files: Option<&Files>) -> ReferenceRule {
    rule(section, files, Lesson::Bank { place: place(section) }, &BANK)
}

/// The rule of a prompt of kind head; `files` as for a bank.
pub(super) fn head(section: &Section<'_>, files: Option<&Files>) -> ReferenceRule {
    rule(section, files, Lesson::Head, &HEAD)
}

fn rule(section: &Section<'_>, files: Option<&Files>, lesson: Lesson, source: &Source) -> ReferenceRule {
    let words = FeatureSource::ALL.map(FeatureSource::as_str);
    let features = section.required_word("features", FeatureSource::parse, &words);
    let features = features.unwrap_or(FeatureSource::Backbone);
    let label = section.text("label", LABEL_CHARS_MAX).unwrap_or_else(|| LABEL.into());
    if let Err(message) = check_label(&label) {
        section.problem("label", message);
    }
    let key = source.key;
    let file = section.required_text(key, 128);
    if section.are_fine(&[key]) && !is_plain(&file) {
        section.problem(key, "must be the name of a file beside this one: letters, digits, . _ -");
    }
    let learned = match files {
        Some(files) if section.are_fine(&[key, "features"]) => read(section, source, &file, features, files),
        _ => None,
    };
    let own = learned.as_ref().map(|learned| learned.judge.labels()).unwrap_or_default();
    let others: Vec<String> = own.into_iter().filter(|own| *own != label).map(str::to_owned).collect();
    if let Some(message) = others.iter().find_map(|label| check_label(label).err()) {
        section.problem(key, format!("{file} names a label that none may have: {message}"));
    }
    let labels = [label].into_iter().chain(others).collect();
    ReferenceRule { features, lesson, labels, file, learned }
}

fn place(section: &Section<'_>) -> Place {
    let is_fixed = section.word(
        "place",
        |word| ["free", "fixed"].contains(&word).then(|| word == "fixed"),
        &["free", "fixed"],
    );
    let tolerance = section.ranged("tolerance_mm", 0.0..=1e3);
    match is_fixed {
        Some(true) => Place::Fixed { tolerance_mm: tolerance.unwrap_or(0.0) },
        _ => {
            if tolerance.is_some() {
                section.problem("tolerance_mm", "only a part whose place is fixed has a tolerance");
            }
            Place::Free
        }
    }
}

fn read(
    section: &Section<'_>,
    source: &Source,
    file: &str,
    features: FeatureSource,
    files: &Files,
) -> Option<Learned> {
    let Source { key, read, made_by } = source;
    let Some(bytes) = files.get(file) else {
        section.problem(key, format!("there is no file {file} beside the recipe: {made_by} makes it"));
        return None;
    };
    match read(bytes) {
        Ok(found) if found.judge.features() == features => Some(found),
        Ok(found) => {
            let has = found.judge.features().as_str();
            section.problem("features", format!("the {key} {file} was learned from those of the {has}"));
            None
        }
        Err(message) => {
            section.problem(key, format!("{file}: {message}"));
            None
        }
    }
}
