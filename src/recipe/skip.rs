//! The cheap gate of a question about defects: tiles that a bank calls surely normal are not asked.
//!
//! ```toml
//! [[prompt]]
//! id = "surface"
//! kind = "defects"
//! skip = { by = "like-good-parts", below = 0.2 }   # a prompt of kind reference, and how sure it may be of a defect
//! ```

use crate::document::{Document, Section};
use crate::domain::pipeline::{Prompt, PromptKind, SkipRule};
use crate::domain::reference::{Lesson, ReferenceRule};

/// Below this no tile lies.
const BELOW_MIN: f64 = 0.001;
const BY_CHARS_MAX: usize = 64;

/// The rule of a prompt, which may be absent.
pub(super) fn rule(section: Section<'_>) -> Option<SkipRule> {
    if !section.is_present() {
        return None;
    }
    let by = section.required_text("by", BY_CHARS_MAX);
    let below: f64 = section.required_ranged("below", BELOW_MIN..=1.0);
    if below > SkipRule::BELOW_MAX {
        let most = SkipRule::BELOW_MAX;
        section.problem(
            "below",
            format!("must not be above {most}, the bank's own limit: from there on it finds something"),
        );
    }
    section.finish();
    Some(SkipRule { by, below: below as f32 })
}

/// Prompts of other kinds have no such rule, and say why.
pub(super) fn refuse(section: &Section<'_>, kind: &PromptKind) -> Option<SkipRule> {
    let why = match kind {
        PromptKind::Text { .. } => "text is always read: only a prompt of kind defects can be skipped",
        _ => "only a prompt of kind defects can be skipped",
    };
    section.refuse("skip", why);
    None
}

/// Checks that each rule names a bank that looks at what its prompt asks about.
pub(super) fn check(prompts: &[Prompt], document: &Document) {
    for (index, prompt) in prompts.iter().enumerate() {
        let Some(rule) = &prompt.skip else { continue };
        if prompt.clip {
            let why = "a question about clips cannot be skipped: the bank sees the last picture alone";
            document.problem(&format!("prompt[{index}].skip"), why);
        }
        if let Some(why) = unfit(prompts, prompt, rule) {
            document.problem(&format!("prompt[{index}].skip.by"), why);
        }
    }
}

/// Why what a rule names cannot decide about its prompt.
fn unfit(prompts: &[Prompt], prompt: &Prompt, rule: &SkipRule) -> Option<String> {
    let Some(by) = prompts.iter().find(|other| other.id == rule.by) else {
        return Some("no prompt has this id".into());
    };
    match &by.kind {
        PromptKind::Reference(ReferenceRule { lesson: Lesson::Bank { .. }, .. }) => {}
        PromptKind::Reference(_) => {
            return Some(
                "must be a prompt of kind reference: a head knows no defects but those it was shown".into(),
            );
        }
        _ => return Some("must be a prompt of kind reference: only a bank knows what is normal".into()),
    }
    (by.roi != prompt.roi).then(|| "looks at another region: both prompts need the same roi, or none".into())
}

#[cfg(test)]
mod tests {
    use crate::document::Problem;
    use crate::domain::pipeline::{Pipeline, SkipRule};
    use crate::recipe::beside::Files;
    use crate::recipe::file::{Beside, from_str};

    const BASE: &str = include_str!("../../tests/common/scripted.toml");
    const BANK: &str = "\n[[prompt]]\nid = \"like-good-parts\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"s.bank\"\n";
    const SKIP: &str = "skip = { by = \"like-good-parts\", below = 0.2 }\n";

    fn read(text: &str) -> Result<(Pipeline, Vec<Problem>), Vec<Problem>> {
        from_str("s.toml", text, Beside::ToLearn(&Files::new()))
    }

    /// What is wrong with the recipe, as users read it.
    fn problems(text: &str) -> String {
        let problems = read(text).expect_err(text);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_rule_is_read_and_without_one_nothing_is_skipped() {
        let (pipeline, warnings) = read(&format!("{BASE}{SKIP}{BANK}")).unwrap();
        let rule = SkipRule { by: "like-good-parts".into(), below: 0.2 };
        assert_eq!(pipeline.prompts[0].skip, Some(rule));
        assert!(warnings.iter().any(|w| w.key == "prompt[0].skip" && w.message.contains("skipped.lost")));
        let gated = format!("{BASE}{SKIP}{BANK}[gate]\nrequire = [\"skipped.lost <= 0\"]\n");
        let (_, warnings) = read(&gated).unwrap();
        assert!(!warnings.iter().any(|w| w.key == "prompt[0].skip"), "{warnings:?}");
        let (pipeline, _) = read(&format!("{BASE}{BANK}")).unwrap();
        assert!(pipeline.prompts.iter().all(|prompt| prompt.skip.is_none()));
    }

    #[test]
    fn what_cannot_decide_is_refused_with_its_reason() {
        let with = |skip: &str, more: &str| format!("{BASE}{skip}\n{BANK}{more}");
        let head = "[[prompt]]\nid = \"bad\"\nkind = \"head\"\nfeatures = \"backbone\"\nhead = \"s.head\"\n";
        let text = "[[prompt]]\nid = \"plate\"\nkind = \"text\"\ntext = \"Read.\"\n";
        for (text, words) in [
            (with("skip = { by = \"none\", below = 0.2 }", ""), "no prompt has this id"),
            (with("skip = { by = \"surface\", below = 0.2 }", ""), "must be a prompt of kind reference"),
            (with("skip = { by = \"bad\", below = 0.2 }", head), "a head knows no defects but"),
            (with("skip = { by = \"like-good-parts\", below = 0.6 }", ""), "the bank's own limit"),
            (with("skip = { by = \"like-good-parts\", below = 0 }", ""), "must be from 0.001 to 1"),
            (with("skip = { by = \"like-good-parts\" }", ""), "prompt[0].skip.below"),
            (with("skip = { below = 0.2 }", ""), "prompt[0].skip.by"),
            (with("skip = { by = \"like-good-parts\", below = 0.2, over = 1 }", ""), "unknown key"),
            (with("skip = true", ""), "must be a section of keys"),
            (with("roi = [0, 0, 64, 64]\nskip = { by = \"like-good-parts\", below = 0.2 }", ""), "same roi"),
            (with("", &format!("{text}{SKIP}")), "text is always read"),
            (with("", SKIP), "only a prompt of kind defects can be skipped"),
            (
                with(
                    "clip = true\nskip = { by = \"like-good-parts\", below = 0.2 }",
                    "[clip]\nframes = 2\ninterval_ms = 100\n",
                ),
                "the bank sees the last picture alone",
            ),
        ] {
            let said = problems(&text);
            assert!(said.contains(words) && said.contains("skip"), "{words}: {said}");
        }
    }

    #[test]
    fn a_bank_that_was_not_learned_is_named() {
        let text = format!("{BASE}{SKIP}{BANK}");
        let problems = from_str("s.toml", &text, Beside::Whole(&Files::new())).unwrap_err();
        let said = problems.iter().map(ToString::to_string).collect::<String>();
        assert!(said.contains("there is no file s.bank beside the recipe"), "{said}");
    }
}
