//! A draft: the active recipe, asking for what is to be learned.

use crate::domain::learn::{LearnKind, LearnWanted};
use crate::domain::pipeline::{Pipeline, PromptKind};
use crate::domain::reference::{FeatureSource, ReferenceRule};
use crate::learn::example::asked;
use crate::recipe::beside::Files;
use crate::recipe::learned::{pipeline_to_learn, with_prompt};
use crate::recipe::registry::Recipe;
use std::sync::Arc;

/// The active recipe as it will be with what is learned, which is still missing.
pub(super) struct Draft {
    /// The version that it is made of; empty: it is the first.
    pub base: String,
    /// Without its banks and heads.
    pub pipeline: Pipeline,
    /// Which prompt learns.
    pub prompt: usize,
    pub rule: ReferenceRule,
    text: String,
    files: Files,
}

impl Draft {
    /// Exchanges what a prompt of the kind judges by, or appends a prompt where there is none.
    ///
    /// # Errors
    /// The recipe cannot ask for it, in words: it has several such prompts and none is named, or the one that it has asks
    /// for other features.
    pub(super) fn of(recipe: &Recipe, wanted: &LearnWanted) -> Result<Self, String> {
        let LearnWanted { what, features, prompt: id } = wanted;
        let of_kind = |kind: &PromptKind| match kind {
            PromptKind::Reference(rule) => LearnKind::of(rule.lesson) == *what,
            _ => false,
        };
        let has_one = recipe.pipeline.prompts.iter().any(|prompt| of_kind(&prompt.kind));
        let name = &recipe.pipeline.name;
        let text = if has_one {
            recipe.text.to_string()
        } else {
            with_prompt(&recipe.text, name, *what, features.unwrap_or(FeatureSource::Backbone))
        };
        let file = format!("the recipe {name} with a prompt of kind {}", what.prompts());
        let pipeline = pipeline_to_learn(&file, &text, &recipe.files).map_err(|error| error.to_string())?;
        let (prompt, rule) = asked(&pipeline, *what, id.as_deref()).map_err(|error| error.to_string())?;
        if let Some(features) = features.filter(|features| *features != rule.features) {
            return Err(format!(
                "features = {:?}: the prompt {} of the recipe asks for those of the {}",
                features.as_str(),
                pipeline.prompts[prompt].id,
                rule.features.as_str()
            ));
        }
        if pipeline.clip.is_some() {
            return Err("the recipe asks about clips, and of confirmed parts single pictures are kept".into());
        }
        let rule = rule.clone();
        let base = recipe.pipeline.version.clone();
        Ok(Self { base, pipeline, prompt, rule, text, files: recipe.files.clone() })
    }

    /// The first version of a recipe, whose only prompt asks for its bank.
    ///
    /// # Errors
    /// The text is no recipe, in words.
    pub(super) fn first(name: &str, text: String) -> Result<Self, String> {
        let file = format!("the first recipe of {name}");
        let pipeline = pipeline_to_learn(&file, &text, &Files::new()).map_err(|error| error.to_string())?;
        let (prompt, rule) = asked(&pipeline, LearnKind::Bank, None).map_err(|error| error.to_string())?;
        let rule = rule.clone();
        Ok(Self { base: String::new(), pipeline, prompt, rule, text, files: Files::new() })
    }

    /// Text and files of the recipe with what was learned, by the bytes of its file.
    pub(super) fn with_file(self, bytes: Vec<u8>) -> (String, Files) {
        let mut files = self.files;
        files.insert(self.rule.file, Arc::from(bytes));
        (self.text, files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../pipelines/examples-defects.toml");

    fn recipe(text: &str) -> Recipe {
        Recipe::read("examples-defects.toml", text, Files::new()).unwrap()
    }

    fn wanted(what: LearnKind, features: Option<FeatureSource>, id: Option<&str>) -> LearnWanted {
        LearnWanted { what, features, prompt: id.map(str::to_owned) }
    }

    /// The shipped recipe with these prompts more, whose files are still to be learned.
    fn with(prompts: &str, files: Files) -> Recipe {
        let text = format!("{TEXT}{prompts}");
        let pipeline = Arc::new(pipeline_to_learn("examples-defects.toml", &text, &Files::new()).unwrap());
        Recipe { pipeline, text: text.into(), files, warnings: vec![] }
    }

    /// A prompt that is answered by what was learned.
    fn prompt(id: &str, what: LearnKind, features: &str, file: &str) -> String {
        let (kind, key) = (what.prompts(), if what == LearnKind::Bank { "bank" } else { "head" });
        format!(
            "\n[[prompt]]\nid = \"{id}\"\nkind = \"{kind}\"\nfeatures = \"{features}\"\n{key} = \"{file}\"\n"
        )
    }

    #[test]
    fn a_recipe_without_a_check_gets_one_and_its_version_is_another() {
        let plain = recipe(TEXT);
        for (what, file) in
            [(LearnKind::Bank, "examples-defects.bank"), (LearnKind::Head, "examples-defects.head")]
        {
            let draft = Draft::of(&plain, &wanted(what, Some(FeatureSource::Tower), None)).unwrap();
            assert_eq!((draft.prompt, draft.rule.features), (1, FeatureSource::Tower));
            assert_eq!((LearnKind::of(draft.rule.lesson), &draft.base), (what, &plain.pipeline.version));
            let (text, files) = draft.with_file(vec![1, 2, 3]);
            assert!(text.starts_with(TEXT) && text.contains("features = \"tower\""));
            assert_eq!(files.keys().collect::<Vec<_>>(), [file]);
        }
    }

    #[test]
    fn a_recipe_that_has_its_check_keeps_its_text_and_says_what_does_not_fit() {
        for what in LearnKind::ALL {
            let own = prompt("own", what, "backbone", "own.file");
            let one = with(&own, Files::new());
            let (text, files) = Draft::of(&one, &wanted(what, None, None)).unwrap().with_file(vec![1]);
            assert_eq!((text.as_str(), files.contains_key("own.file")), (&*one.text, true));
            let refused =
                |recipe: &Recipe, features, id| Draft::of(recipe, &wanted(what, features, id)).err().unwrap();
            assert!(refused(&one, Some(FeatureSource::Tower), None).contains("those of the backbone"));
            let none = refused(&one, None, Some("other"));
            assert!(none.contains("no prompt other of kind") && none.contains(what.prompts()), "{none}");
            let two = with(&(own + &prompt("more", what, "tower", "more.file")), Files::new());
            assert!(refused(&two, None, None).contains("several"));
            let named = Draft::of(&two, &wanted(what, None, Some("more"))).unwrap();
            assert_eq!(named.rule.file, "more.file");
        }
    }

    #[test]
    fn a_head_is_added_beside_a_bank_and_renewed_without_touching_it() {
        let bank: Arc<[u8]> = Arc::from([7, 7]);
        let old: Files = [("own.bank".to_owned(), Arc::clone(&bank))].into();
        let banked = with(&prompt("good", LearnKind::Bank, "backbone", "own.bank"), old);
        let head = wanted(LearnKind::Head, None, None);
        let (text, files) = Draft::of(&banked, &head).unwrap().with_file(vec![1]);
        assert!(
            text.starts_with(&*banked.text) && text.ends_with("head = \"examples-defects.head\"\n"),
            "{text}"
        );
        assert_eq!(files.keys().collect::<Vec<_>>(), ["examples-defects.head", "own.bank"]);
        assert_eq!(files["own.bank"], bank);

        let pipeline = Arc::new(pipeline_to_learn("examples-defects.toml", &text, &Files::new()).unwrap());
        let both = Recipe { pipeline, text: text.into(), files, warnings: vec![] };
        let (renewed, files) = Draft::of(&both, &head).unwrap().with_file(vec![2]);
        assert_eq!(renewed, *both.text);
        assert_eq!((&files["own.bank"], &*files["examples-defects.head"]), (&bank, [2].as_slice()));
        // The id of the bank's prompt is that of no head.
        let other = wanted(LearnKind::Head, None, Some("good"));
        assert!(Draft::of(&both, &other).err().unwrap().contains("no prompt good of kind head"));
    }
}
