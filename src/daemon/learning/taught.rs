//! What is learned, a bank or a head, as one job asks for it.
//!
//! ```text
//! confirmed parts --enough?--> examples --learn::references | learn::head--> the bytes of its file, figures
//! ```

use super::sample::Counts;
use crate::domain::learn::{LearnFigures, LearnKind, LearnLabel, LearnMeasured};
use crate::domain::pipeline::Pipeline;
use crate::domain::reference::ReferenceRule;
use crate::inspect::reference::{file, head_file};
use crate::learn::LearnError;
use crate::learn::example::{Example, cell_px};
use crate::learn::head::{self, LabelFigures};
use crate::learn::references::{self, BANK_CELLS};

/// Of which recipe it is learned.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub pipeline: &'a Pipeline,
    /// Of the prompt that asks for it.
    pub rule: &'a ReferenceRule,
    /// sha256 (hex) of the weights that the features are of.
    pub features_sha256: &'a str,
    /// RFC 3339, UTC.
    pub at: &'a str,
}

/// What was learned.
#[derive(Debug)]
pub(super) struct Taught {
    /// Of its file.
    pub bytes: Vec<u8>,
    pub figures: LearnFigures,
}

/// Whether there are confirmed parts enough.
///
/// # Errors
/// `TooLittle`, with how many there are and how many are needed.
pub(super) fn enough(what: LearnKind, counts: Counts) -> Result<(), LearnError> {
    match what {
        LearnKind::Bank => references::enough(counts.good),
        LearnKind::Head => head::enough(counts.good, counts.bad),
    }
}

/// Learns what the rule asks for, for as long as `go_on` says so; once it has said no, it always does.
///
/// # Errors
/// As [`references::learn`] and [`head::learn`].
pub(super) fn learn(
    examples: &[Example],
    ground: Ground<'_>,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Taught, LearnError> {
    match LearnKind::of(ground.rule.lesson) {
        LearnKind::Bank => bank(examples, ground, go_on),
        LearnKind::Head => head(examples, ground, go_on),
    }
}

fn bank(
    examples: &[Example],
    ground: Ground<'_>,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Taught, LearnError> {
    let Ground { pipeline, rule, features_sha256, at } = ground;
    let wanted = references::Wanted {
        pipeline: &pipeline.name,
        rule,
        features_sha256: features_sha256.to_owned(),
        mm_per_px: pipeline.mm_per_px,
        cell_px: cell_px(pipeline, examples),
        cells_max: BANK_CELLS,
        at: at.to_owned(),
    };
    let (bank, figures) = references::learn(examples, &wanted, &go_on)?;
    let references::Figures { good, bad, cells, bank_cells, auroc, alarmed, found, notes, .. } = figures;
    let measured = LearnMeasured::Compared { cells, bank_cells };
    let figures = LearnFigures { features: rule.features, good, bad, measured, auroc, alarmed, found, notes };
    Ok(Taught { bytes: file::write(&bank), figures })
}

fn head(
    examples: &[Example],
    ground: Ground<'_>,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Taught, LearnError> {
    let Ground { pipeline, rule, features_sha256, at } = ground;
    let (features_sha256, at) = (features_sha256.to_owned(), at.to_owned());
    let wanted = head::Wanted { pipeline: &pipeline.name, rule, features_sha256, at };
    let (head, figures) = head::learn(examples, &wanted, go_on)?;
    let head::Figures { good, bad, with_boxes, labels, folds, lots, auroc, alarmed, found, notes, .. } =
        figures;
    let labels = labels.into_iter().map(of_label).collect();
    let measured = LearnMeasured::KeptBack { folds, lots, with_boxes, labels };
    let (features, auroc) = (rule.features, Some(auroc));
    let figures = LearnFigures { features, good, bad, measured, auroc, alarmed, found, notes };
    Ok(Taught { bytes: head_file::write(&head), figures })
}

fn of_label(figures: LabelFigures) -> LearnLabel {
    let LabelFigures { label, parts, auroc, is_known } = figures;
    LearnLabel { label, parts, auroc, is_known }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reference::{FeatureSource, Judge as _};
    use crate::learn::head::tests::pitted;
    use crate::recipe::learned::{pipeline_to_learn, with_prompt};

    const TEXT: &str = include_str!("../../../pipelines/examples-defects.toml");

    /// What the shipped recipe learns from these examples, once it asks for it.
    fn taught(what: LearnKind, examples: &[Example]) -> Result<Taught, LearnError> {
        let text = with_prompt(TEXT, "examples-defects", what, FeatureSource::Backbone);
        let pipeline =
            pipeline_to_learn("examples-defects.toml", &text, &crate::recipe::beside::Files::new()).unwrap();
        let (_, rule) = crate::learn::example::asked(&pipeline, what, None).unwrap();
        let ground =
            Ground { pipeline: &pipeline, rule, features_sha256: "ab", at: "2026-01-01T00:00:00.000Z" };
        learn(examples, ground, &|| true)
    }

    #[test]
    fn both_kinds_give_the_file_that_their_prompt_reads_and_say_what_they_are_measured_on() {
        let examples = pitted(12, 1);
        let head = taught(LearnKind::Head, &examples).unwrap();
        let read = head_file::read(&head.bytes).unwrap();
        assert_eq!((read.origin().good, read.origin().bad, read.labels()), (12, 12, vec!["pit"]));
        let LearnMeasured::KeptBack { folds, lots, with_boxes, labels } = &head.figures.measured else {
            panic!("{:?}", head.figures)
        };
        assert_eq!((*folds, *lots, *with_boxes), (5, Some(24), 12));
        assert_eq!((labels[0].label.as_str(), labels[0].parts, labels[0].is_known), ("pit", 12, true));
        assert!(head.figures.auroc > Some(0.8), "{:?}", head.figures);

        let bank = taught(LearnKind::Bank, &examples).unwrap();
        let read = file::read(&bank.bytes).unwrap();
        assert_eq!((read.origin().good, read.origin().bad), (12, 12));
        let LearnMeasured::Compared { cells, bank_cells } = bank.figures.measured else {
            panic!("{:?}", bank.figures)
        };
        assert!(cells >= bank_cells && bank_cells > 0, "{:?}", bank.figures);
        assert!(head_file::read(&bank.bytes).is_err(), "a bank is no head");
    }

    #[test]
    fn below_ten_of_a_kind_a_head_is_refused_with_the_numbers_and_a_bank_below_five_good_parts() {
        let why = |what, good, bad| enough(what, Counts { good, bad }).unwrap_err().to_string();
        let head = why(LearnKind::Head, 30, 9);
        assert!(head.contains("30 good and 9 defective parts: at least 10 of each are needed"), "{head}");
        assert!(why(LearnKind::Head, 9, 30).contains("9 good and 30 defective parts"));
        assert!(why(LearnKind::Bank, 4, 30).contains("4 good parts, at least 5 are needed"));
        assert!(enough(LearnKind::Head, Counts { good: 10, bad: 10 }).is_ok());
        assert!(enough(LearnKind::Bank, Counts { good: 5, bad: 0 }).is_ok());
        // What the pictures leave of the parts is counted once more.
        let few: Vec<Example> = pitted(12, 1).into_iter().skip(5).collect();
        let error = taught(LearnKind::Head, &few).unwrap_err();
        assert!(error.to_string().contains("9 good and 10 defective parts"), "{error}");
    }
}
