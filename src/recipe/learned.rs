//! A recipe that asks for what is still to be learned: its text, and the pipeline that it makes without its banks and
//! heads.

use super::beside::Files;
use super::file::{Beside, from_str};
use crate::document::{Problem, ReadError};
use crate::domain::learn::LearnKind;
use crate::domain::pipeline::Pipeline;
use crate::domain::reference::FeatureSource;

/// The id of an appended prompt.
pub(crate) const fn prompt_id(what: LearnKind) -> &'static str {
    match what {
        LearnKind::Bank => "like-good-parts",
        LearnKind::Head => "unlike-bad-parts",
    }
}

/// The text with a prompt for what is learned after everything else; its bank or head is named by the pipeline. A product
/// that runs gets its check so without anybody editing its file.
pub(crate) fn with_prompt(text: &str, pipeline: &str, what: LearnKind, features: FeatureSource) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let (id, kind, features) = (prompt_id(what), what.prompts(), features.as_str());
    let key = match what {
        LearnKind::Bank => "bank",
        LearnKind::Head => "head",
    };
    format!(
        "{text}{end}\n# Appended when its {key} was learned from confirmed parts.\n[[prompt]]\nid = \"{id}\"\nkind = \
         \"{kind}\"\nfeatures = \"{features}\"\n{key} = \"{pipeline}.{key}\"\n"
    )
}

/// A pipeline that is read to learn what it judges by: without its banks and heads, with its adapter, which is among
/// `files`. `file` only names it in messages.
///
/// # Errors
/// `Invalid` with everything that is wrong in it.
pub(crate) fn pipeline_to_learn(file: &str, text: &str, files: &Files) -> Result<Pipeline, ReadError> {
    let invalid = |problems: Vec<Problem>| ReadError::Invalid { problems };
    Ok(from_str(file, text, Beside::ToLearn(files)).map_err(invalid)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pipeline::PromptKind;

    const TEXT: &str = include_str!("../../pipelines/examples-defects.toml");

    #[test]
    fn the_appended_prompt_reads_after_whatever_stands_before_it() {
        for text in [TEXT.to_owned(), TEXT.trim_end().to_owned(), format!("{TEXT}\n[gate]\n")] {
            for (what, file) in
                [(LearnKind::Bank, "examples-defects.bank"), (LearnKind::Head, "examples-defects.head")]
            {
                let with = with_prompt(&text, "examples-defects", what, FeatureSource::Tower);
                assert!(with.starts_with(&text));
                let pipeline = pipeline_to_learn("examples-defects.toml", &with, &Files::new()).unwrap();
                let last = pipeline.prompts.last().unwrap();
                let PromptKind::Reference(rule) = &last.kind else { panic!("{last:?}") };
                assert_eq!((last.id.as_str(), rule.file.as_str()), (prompt_id(what), file));
                assert_eq!((LearnKind::of(rule.lesson), rule.features), (what, FeatureSource::Tower));
                assert_eq!(pipeline.prompts.len(), 2);
            }
        }
    }

    #[test]
    fn a_prompt_of_the_same_name_is_an_error() {
        for what in LearnKind::ALL {
            let taken = TEXT.replace("id = \"surface\"", &format!("id = \"{}\"", prompt_id(what)));
            let with = with_prompt(&taken, "examples-defects", what, FeatureSource::Backbone);
            let error =
                pipeline_to_learn("examples-defects.toml", &with, &Files::new()).unwrap_err().to_string();
            assert!(error.contains(prompt_id(what)), "{error}");
        }
    }
}
