//! The JSON Schema of the config, for editors: what the parser asks for, recorded from itself.

use super::read;
use crate::document::Origin;
use crate::document::asked::{Asked, Kind, record, schema as schema_of, top_keys};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Recipes have a schema of their own: none must be found, and none be read.
const NO_RECIPES: &str = "pipelines_dir = \"/dev/null/none\"\n";

/// Every section that has keys only when it is there, and every kind of camera.
const ALL: &str = r#"
[[camera]]
source = "simulator"
[[camera]]
source = "folder"
[[camera]]
source = "v4l2"
lens = {}
[[camera]]
source = "opencv"
lens = {}
[[camera]]
source = "genicam"
lens = {}
[[part]]
[trigger]
[sink.any]
[web]
[modbus]
[opcua]
"#;

/// The schema. What depends on more than one key, or on files, only `inspectd check` knows.
pub(crate) fn schema() -> Value {
    let (required, nothing) = keys_of(NO_RECIPES);
    let (_, all) = keys_of(&format!("{NO_RECIPES}{ALL}"));
    let kind = Kind {
        title: "inspectd config",
        description: "The config of an inspection station. inspectd check says what a schema cannot.",
        required,
        variants: &[("camera[]", "source")],
    };
    schema_of(&kind, &[nothing, all])
}

/// What the parser asks for, and the keys at the top with which it was not content.
fn keys_of(text: &str) -> (BTreeSet<String>, Vec<Asked>) {
    let origin = Origin {
        file: String::new(),
        dir: PathBuf::new(),
        environment: vec![],
        files_must_exist: false,
        may_break: false,
        own_dir: None,
    };
    let (read, asked) = record(|| read::config(&origin, text, &super::nothing));
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

    /// `#key = value` of the plant's config are its optional keys; sections stand there behind `#   `.
    fn uncommented(text: &str) -> String {
        let key = regex::Regex::new(r"(?m)^#([a-z_]+ = .*)$").expect("a regular expression");
        key.replace_all(text, "$1").into_owned()
    }

    #[test]
    fn the_shipped_configs_are_valid_with_all_their_optional_keys() {
        let validator = validator();
        for entry in std::fs::read_dir("config").expect("the configs are there") {
            let path = entry.expect("an entry").path();
            let is_whole =
                cfg!(all(feature = "v4l2", feature = "genicam", feature = "ffmpeg", feature = "opencv"));
            if !is_whole || path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a config");
            for text in [uncommented(&text), text] {
                let errors: Vec<_> =
                    validator.iter_errors(&json_of(&text)).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            }
        }
    }

    #[test]
    fn what_a_key_must_be_comes_from_the_parser() {
        let schema = schema();
        assert_eq!(schema["required"], json!(["camera", "mqtt", "station", "store"]));
        let of =
            |path: &str| schema.pointer(path).cloned().unwrap_or_else(|| panic!("no {path}: {schema:#}"));
        let keep_alive = of("/properties/mqtt/properties/keep_alive_s");
        assert_eq!(keep_alive, json!({"type": "integer", "minimum": 5, "maximum": 3600}));
        assert_eq!(of("/properties/mqtt/required"), json!(["url"]));
        assert_eq!(of("/properties/store/properties/clock/enum"), json!(["synchronised", "trusted"]));
        assert_eq!(of("/properties/sink/additionalProperties/required"), json!(["kind", "url"]));
        let folder = of("/properties/camera/items/allOf/0");
        assert_eq!(folder["if"]["properties"]["source"]["const"], "folder");
        assert_eq!(folder["then"]["required"], json!(["id", "path", "pipeline", "source"]));
    }

    #[test]
    fn a_config_with_a_wrong_key_is_not_valid() {
        let text = std::fs::read_to_string("config/demo.toml").expect("it ships");
        let validator = validator();
        for (from, to) in [
            ("site = \"demo\"", "site = 1"),
            ("site = \"demo\"", ""),
            ("[web]", "[wep]"),
            ("retain_days = 7", "retain_days = 0"),
            ("retain_days = 7", "retain_day = 7"),
            ("seed = 1", "seed = 1\npath = \"inbox\""),
            ("policy = \"wait\"", "policy = \"waits\""),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text);
            assert!(!validator.is_valid(&json_of(&wrong)), "{from} -> {to}");
        }
    }

    /// A section whose keys are not known would refuse all of them.
    #[test]
    fn every_section_has_keys() {
        fn look(schema: &Value, path: &str) {
            let is_open = schema.get("additionalProperties").is_some_and(Value::is_object);
            if schema["type"] == "object" && !is_open {
                let keys = schema["properties"].as_object().map_or(0, serde_json::Map::len);
                assert!(keys > 0, "{path} has no keys");
            }
            let members = schema.as_object().into_iter().flatten();
            members.for_each(|(key, value)| look(value, &format!("{path}/{key}")));
            schema.as_array().into_iter().flatten().for_each(|item| look(item, path));
        }
        look(&schema(), "");
    }
}
