//! The JSON Schema of a pipeline file, for editors: what the parser asks for, recorded from itself.

use super::beside::Files;
use super::file::{Beside, from_str};
use crate::document::asked::{Asked, Kind, record, schema as schema_of, top_keys};
use serde_json::Value;
use std::collections::BTreeSet;

/// Every section that has keys only when it is there, and every kind of prompt.
const ALL: &str = r#"
[frame]
health = {}
[clip]
[gate]
[promise]
[[prompt]]
kind = "defects"
skip = {}
[[prompt]]
kind = "text"
[[prompt.expect]]
[[prompt]]
kind = "reference"
[[prompt]]
kind = "head"
[[grade]]
"#;

/// What is a table in `ALL` and may be a word.
const WORDS: &str = "[frame]\nhealth = \"off\"\n";

/// The schema. What depends on more than one key, or on files, only `inspectd check` knows.
pub(crate) fn schema() -> Value {
    let (required, nothing) = keys_of("");
    let recordings = [nothing, keys_of(ALL).1, keys_of(WORDS).1];
    let kind = Kind {
        title: "inspectd pipeline",
        description: "The recipe of one product. inspectd check says what a schema cannot.",
        required,
        variants: &[("prompt[]", "kind")],
    };
    schema_of(&kind, &recordings)
}

/// What the parser asks for, and the keys at the top with which it was not content.
fn keys_of(text: &str) -> (BTreeSet<String>, Vec<Asked>) {
    let (read, asked) = record(|| from_str("", text, Beside::ToLearn(&Files::new())));
    (top_keys(&read.err().unwrap_or_default()), asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn validator() -> jsonschema::Validator {
        jsonschema::validator_for(&schema()).expect("it is a schema")
    }

    fn json_of(text: &str) -> Value {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn the_shipped_pipelines_are_valid() {
        let validator = validator();
        for entry in std::fs::read_dir("pipelines").expect("the pipelines are there") {
            let path = entry.expect("an entry").path();
            let value = json_of(&std::fs::read_to_string(&path).expect("a pipeline"));
            let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        }
    }

    #[test]
    fn what_a_key_must_be_comes_from_the_parser() {
        let schema = schema();
        let required = json!(["mm_per_px", "name", "prompt", "schema", "tiling", "verdict"]);
        assert_eq!(schema["required"], required);
        let of =
            |path: &str| schema.pointer(path).cloned().unwrap_or_else(|| panic!("no {path}: {schema:#}"));
        assert_eq!(
            of("/properties/tiling/properties/tile_px"),
            json!({"type": "integer", "minimum": 32, "maximum": 8192})
        );
        assert_eq!(of("/properties/grade/items/required"), json!(["grade"]));
        let health = of("/properties/frame/properties/health/anyOf");
        assert_eq!(health.as_array().map(Vec::len), Some(2), "a table or a word: {health}");
        let kinds: Vec<_> = ["defects", "head", "reference", "text"].map(Value::from).to_vec();
        assert_eq!(of("/properties/prompt/items/properties/kind/enum"), Value::from(kinds));
    }

    #[test]
    fn a_pipeline_with_a_wrong_key_is_not_valid() {
        let text = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
        let validator = validator();
        for (from, to) in [
            ("tile_px = 512", "tile_px = 16"),
            ("tile_px = 512", "tile_pixels = 512"),
            ("kind = \"text\"", "kind = \"words\""),
            ("kind = \"text\"", "kind = \"text\"\nlabels = [\"pit\"]"),
            ("fail_at = \"rework\"", "fail_at = \"ok\""),
            ("name = \"photo\"", "name = \"two words\""),
            ("size = \"any\"", "health = 3"),
            ("[verdict]", "[verdicts]"),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text);
            assert!(!validator.is_valid(&json_of(&wrong)), "{from} -> {to}");
        }
    }
}
