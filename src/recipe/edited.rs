//! A recipe's text with other limits on the score and another promise; everything else stays, to the last comment.
//!
//! ```text
//! [verdict]                         [verdict]
//! fail_at = "rework"     --apply--> review_above_score = 0.12
//! …                                 fail_at = "rework"
//! ```
//!
//! A section that is not there is appended. What came out is for the caller to read: a file that writes its sections in
//! another form (`verdict = { … }`) gets a second one, which does not read.

use crate::domain::promise::{PromiseRule, Thresholds};

/// Keys of a section, with their new values; `None` takes a key out.
type Keys = Vec<(&'static str, Option<String>)>;

/// What is to stand in a recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub thresholds: Thresholds,
    pub promise: PromiseRule,
}

impl Limits {
    fn sections(&self) -> [(&'static str, Keys); 2] {
        let Self { thresholds, promise } = self;
        // A limit of 1 sends no part to review.
        let review = Some(thresholds.review_above).filter(|limit| *limit < 1.0);
        let text = |value: Option<f32>| value.map(|value| float(value.to_string()));
        let verdict =
            vec![("review_above_score", text(review)), ("fail_above_score", text(thresholds.fail_above))];
        let promised = vec![
            ("escape", Some(float(promise.escape.to_string()))),
            ("confidence", Some(float(promise.confidence.to_string()))),
        ];
        [("verdict", verdict), ("promise", promised)]
    }

    /// The lines to put into a recipe, for people.
    pub(crate) fn lines(&self) -> String {
        let section = |(name, keys): (&str, Keys)| {
            let written = lines_of(&keys);
            if written.is_empty() { String::new() } else { format!("[{name}]\n{written}") }
        };
        self.sections()
            .map(section)
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The text with them.
    pub(crate) fn apply(&self, text: &str) -> String {
        self.sections().into_iter().fold(text.to_owned(), |text, (name, keys)| with_keys(&text, name, &keys))
    }
}

/// The text of a number as TOML knows it for no integer.
fn float(number: String) -> String {
    if number.contains('.') { number } else { format!("{number}.0") }
}

fn lines_of(keys: &Keys) -> String {
    keys.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_ref()?))).collect()
}

fn with_keys(text: &str, section: &str, keys: &Keys) -> String {
    let header = format!("[{section}]");
    let is_header = |line: &str| {
        let line = line.trim();
        line.strip_prefix(&header).is_some_and(|rest| rest.trim().is_empty() || rest.trim().starts_with('#'))
    };
    let is_one_of = |line: &str| {
        let rest = |key: &str| line.trim_start().strip_prefix(key).map(str::trim_start);
        keys.iter().any(|(key, _)| rest(key).is_some_and(|rest| rest.starts_with('=')))
    };
    let (mut edited, mut inside, mut found) = (String::with_capacity(text.len() + 128), false, false);
    for line in text.split_inclusive('\n') {
        if is_header(line) {
            (inside, found) = (true, true);
            edited.push_str(line);
            if !line.ends_with('\n') {
                edited.push('\n');
            }
            edited.push_str(&lines_of(keys));
            continue;
        }
        inside &= !line.trim_start().starts_with('[');
        if !(inside && is_one_of(line)) {
            edited.push_str(line);
        }
    }
    let written = lines_of(keys);
    if !found && !written.is_empty() {
        if !edited.ends_with('\n') {
            edited.push('\n');
        }
        edited.push_str(&format!("\n{header}\n{written}"));
    }
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::pipeline_from_str;

    const TEXT: &str = include_str!("../../pipelines/examples-defects.toml");

    fn limits(review_above: f32, fail_above: Option<f32>) -> Limits {
        Limits {
            thresholds: Thresholds { review_above, fail_above },
            promise: PromiseRule { escape: 0.01, confidence: 0.95 },
        }
    }

    #[test]
    fn a_recipe_holds_what_was_put_into_it_and_nothing_else_changes() {
        let before = pipeline_from_str("examples-defects.toml", TEXT).unwrap();
        let once = limits(0.12, Some(0.9)).apply(TEXT);
        let pipeline = pipeline_from_str("examples-defects.toml", &once).unwrap();
        let verdict = pipeline.verdict;
        assert_eq!((verdict.review_above_score, verdict.fail_above_score), (Some(0.12), Some(0.9)));
        assert_eq!(pipeline.promise, Some(PromiseRule { escape: 0.01, confidence: 0.95 }));
        assert!(pipeline.judges_like(&before) && pipeline.version != before.version);
        for line in TEXT.lines() {
            assert!(once.contains(line), "{line}");
        }
        // Another time, the old values go; a limit of 1 is none.
        let again = limits(1.0, None).apply(&once);
        let pipeline = pipeline_from_str("examples-defects.toml", &again).unwrap();
        assert_eq!((pipeline.verdict.review_above_score, pipeline.verdict.fail_above_score), (None, None));
        assert_eq!(again.matches("[promise]").count(), 1);
        assert_eq!(limits(0.12, Some(0.9)).apply(&again), once);
    }

    #[test]
    fn the_last_line_needs_no_end_and_a_comment_stays() {
        let text = "[verdict] # how\nfail_above_score=0.5 # old\nfail_at = \"ok\"";
        let edited = limits(0.00001, None).apply(text);
        let expected = "[verdict] # how\nreview_above_score = 0.00001\nfail_at = \"ok\"\n\n[promise]\nescape = 0.01\n\
                        confidence = 0.95\n";
        assert_eq!(edited, expected);
    }

    #[test]
    fn the_lines_are_those_that_a_person_adds() {
        let lines = limits(0.12, Some(0.9)).lines();
        let expected = "[verdict]\nreview_above_score = 0.12\nfail_above_score = 0.9\n\n[promise]\nescape = 0.01\n\
                        confidence = 0.95\n";
        assert_eq!(lines, expected);
        assert!(limits(1.0, None).lines().starts_with("[promise]\n"));
        assert!(limits(0.0, None).lines().contains("review_above_score = 0.0\n"));
    }
}
