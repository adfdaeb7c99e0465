//! A draft: the active recipe, asking for what is to be learned.

use crate::domain::pipeline::{Pipeline, PromptKind};
use crate::domain::reference::{FeatureSource, Lesson, ReferenceRule};
use crate::learn::example::{Learning, asked};
use crate::recipe::beside::Files;
use crate::recipe::learned::{pipeline_to_learn, with_prompt};
use crate::recipe::registry::Recipe;
use std::sync::Arc;

/// The active recipe as it will be with what is learned, which is still missing.
pub(super) struct Draft {
    /// The version that it is made of; empty: it is the first.
    pub base: String,
    /// Without its banks.
    pub pipeline: Pipeline,
    /// Which prompt learns.
    pub prompt: usize,
    pub rule: ReferenceRule,
    text: String,
    files: Files,
}

impl Draft {
    /// Exchanges the bank of the prompt of kind reference, or appends a prompt where there is none.
    ///
    /// # Errors
    /// The recipe cannot ask for it, in words: it has several such prompts and none is named, or the one that it has asks
    /// for other features.
    pub(super) fn of(
        recipe: &Recipe,
        features: Option<FeatureSource>,
        id: Option<&str>,
    ) -> Result<Self, String> {
        let of_kind = |kind: &PromptKind| match kind {
            PromptKind::Reference(rule) => matches!(rule.lesson, Lesson::Bank { .. }),
            _ => false,
        };
        let has_one = recipe.pipeline.prompts.iter().any(|prompt| of_kind(&prompt.kind));
        let name = &recipe.pipeline.name;
        let text = if has_one {
            recipe.text.to_string()
        } else {
            with_prompt(&recipe.text, name, features.unwrap_or(FeatureSource::Backbone))
        };
        let file = format!("the recipe {name} with a prompt of kind reference");
        let pipeline = pipeline_to_learn(&file, &text).map_err(|error| error.to_string())?;
        let (prompt, rule) = asked(&pipeline, Learning::Bank, id).map_err(|error| error.to_string())?;
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
        let pipeline = pipeline_to_learn(&file, &text).map_err(|error| error.to_string())?;
        let (prompt, rule) = asked(&pipeline, Learning::Bank, None).map_err(|error| error.to_string())?;
        let rule = rule.clone();
        Ok(Self { base: String::new(), pipeline, prompt, rule, text, files: Files::new() })
    }

    /// Text and files of the recipe with the bank.
    pub(super) fn with_bank(self, bank: Vec<u8>) -> (String, Files) {
        let mut files = self.files;
        files.insert(self.rule.file, Arc::from(bank));
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

    #[test]
    fn a_recipe_without_a_check_gets_one_and_its_version_is_another() {
        let plain = recipe(TEXT);
        let draft = Draft::of(&plain, Some(FeatureSource::Tower), None).unwrap();
        assert_eq!((draft.prompt, draft.rule.features), (1, FeatureSource::Tower));
        assert_eq!(draft.base, plain.pipeline.version);
        let (text, files) = draft.with_bank(vec![1, 2, 3]);
        assert!(text.starts_with(TEXT) && text.contains("features = \"tower\""));
        assert_eq!(files.keys().collect::<Vec<_>>(), ["examples-defects.bank"]);
    }

    #[test]
    fn a_recipe_that_has_its_check_keeps_its_text_and_says_what_does_not_fit() {
        let has = |more: &str| {
            let prompt = "\n[[prompt]]\nid = \"refs\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"own.bank\"\n";
            let text = format!("{TEXT}{prompt}{more}");
            let pipeline = Arc::new(pipeline_to_learn("examples-defects.toml", &text).unwrap());
            Recipe { pipeline, text: text.into(), files: Files::new(), warnings: vec![] }
        };
        let one = has("");
        let (text, files) = Draft::of(&one, None, None).unwrap().with_bank(vec![1]);
        assert_eq!((text.as_str(), files.contains_key("own.bank")), (&*one.text, true));
        let refused = |recipe: &Recipe, features, id| Draft::of(recipe, features, id).err().unwrap();
        assert!(refused(&one, Some(FeatureSource::Tower), None).contains("those of the backbone"));
        assert!(refused(&one, None, Some("other")).contains("no prompt other"));
        let two = has(
            "\n[[prompt]]\nid = \"more\"\nkind = \"reference\"\nfeatures = \"tower\"\nbank = \"more.bank\"\n",
        );
        assert!(refused(&two, None, None).contains("several"));
        assert_eq!(Draft::of(&two, None, Some("more")).unwrap().rule.file, "more.bank");
    }
}
