//! The JSON Schema (draft 2020-12) of each topic's payload, for `inspectd schema` and the package.
//!
//! ```text
//! inspectd schema NAME --> the text      topic --of_topic--> the schema that its messages satisfy
//! ```
//!
//! Invariants:
//! - Every topic with a JSON payload has a schema; an image is a JPEG and has none.
//! - A schema allows no field that it does not name, so that a test of real messages finds a field that is missing here.

use super::message::{PART_JSON_SCHEMA, RESULT_JSON_SCHEMA, REVIEW_JSON_SCHEMA};

/// The schema of a message.
#[derive(Clone, Copy, Debug)]
pub struct MessageSchema {
    /// As `inspectd schema` takes it.
    pub name: &'static str,
    /// Topics below the station's prefix; a level in braces stands for any.
    pub topics: &'static [&'static str],
    /// What it is of, for the command line.
    pub about: &'static str,
    /// The schema.
    pub text: &'static str,
}

/// All of them.
pub static SCHEMAS: [MessageSchema; 14] = [
    of("result", &["result"], "A result", RESULT_JSON_SCHEMA),
    of("part", &["part"], "The verdict about a part that several cameras looked at", PART_JSON_SCHEMA),
    of("review", &["review"], "What a person decided", REVIEW_JSON_SCHEMA),
    of("last", &["last", "camera/{id}/last"], "The newest result, flat", include_str!("last.schema.json")),
    of("status", &["status"], "The station's own state", include_str!("status.schema.json")),
    of(
        "camera-status",
        &["camera/{id}/status"],
        "How a camera is",
        include_str!("camera-status.schema.json"),
    ),
    of("recipe", &["recipe/{name}"], "How a recipe stands", include_str!("recipe.schema.json")),
    of("alarm", &["alarm/{code}"], "An alarm, raised or cleared", include_str!("alarm.schema.json")),
    of("stats", &["stats"], "Counts over the last window", include_str!("stats.schema.json")),
    of("cmd-trigger", &["cmd/trigger"], "The command trigger", include_str!("cmd-trigger.schema.json")),
    of("cmd-pipeline", &["cmd/pipeline"], "The command pipeline", include_str!("cmd-pipeline.schema.json")),
    of(
        "cmd-pause",
        &["cmd/pause", "cmd/resume"],
        "The commands pause and resume",
        include_str!("cmd-pause.schema.json"),
    ),
    of(
        "cmd-plain",
        &["cmd/retry", "cmd/reload"],
        "The commands retry and reload",
        include_str!("cmd-plain.schema.json"),
    ),
    of("ack", &["cmd/ack"], "What became of a command", include_str!("ack.schema.json")),
];

const fn of(
    name: &'static str,
    topics: &'static [&'static str],
    about: &'static str,
    text: &'static str,
) -> MessageSchema {
    MessageSchema { name, topics, about, text }
}

/// The schema of the messages on a topic, which is given below the station's prefix.
pub fn of_topic(topic: &str) -> Option<&'static MessageSchema> {
    let levels: Vec<_> = topic.split('/').collect();
    let is_it = |pattern: &str| {
        let wanted: Vec<_> = pattern.split('/').collect();
        let fits = |(wanted, level): (&&str, &&str)| wanted.starts_with('{') || wanted == level;
        wanted.len() == levels.len() && wanted.iter().zip(&levels).all(fits)
    };
    SCHEMAS.iter().find(|schema| schema.topics.iter().any(|pattern| is_it(pattern)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Verb, parse};
    use serde_json::{Value, json};
    use std::time::Instant;

    #[test]
    fn each_is_a_schema_that_allows_nothing_else_and_says_what_its_fields_are() {
        for MessageSchema { name, text, topics, .. } in &SCHEMAS {
            let schema: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(jsonschema::draft202012::new(&schema).is_ok(), "{name}");
            assert_eq!(schema["additionalProperties"], false, "{name}");
            let description = schema["description"].as_str().unwrap();
            assert!(topics.iter().all(|topic| description.contains(topic)), "{name}: {description}");
        }
    }

    #[test]
    fn a_topic_finds_its_schema() {
        for (topic, name) in [
            ("result", "result"),
            ("camera/cam1/last", "last"),
            ("camera/cam1/status", "camera-status"),
            ("alarm/store_full", "alarm"),
            ("cmd/resume", "cmd-pause"),
        ] {
            assert_eq!(of_topic(topic).map(|schema| schema.name), Some(name));
        }
        for none in ["image/01HF7YAT010000000000000001", "camera/cam1", "cmd/plc/answers", "results"] {
            assert!(of_topic(none).is_none(), "{none}");
        }
        for verb in Verb::ALL {
            assert!(of_topic(&format!("cmd/{}", verb.as_str())).is_some(), "{verb:?}");
        }
    }

    /// What the schema allows the parser takes, and what it does not allow is refused.
    #[test]
    fn the_schemas_of_commands_say_what_the_parser_takes() {
        let long = "x".repeat(257);
        for (verb, words) in [
            (Verb::Trigger, json!({})),
            (
                Verb::Trigger,
                json!({"camera": "cam1", "part_id": "P1", "lot": "L", "expected": {"serial": "S"},
                "deadline_ms": 900, "correlation_id": "c7"}),
            ),
            (Verb::Trigger, json!({"part": "housing", "camera": null})),
            (Verb::Trigger, json!({"deadline_ms": 0})),
            (Verb::Trigger, json!({"bogus": 1})),
            (Verb::Trigger, json!({"pipeline": "plate"})),
            (Verb::Trigger, json!({"part_id": long})),
            (Verb::Trigger, json!({"part_id": 7})),
            (Verb::Pipeline, json!({"pipeline": "plate", "camera": "cam1"})),
            (Verb::Pipeline, json!({"camera": "cam1"})),
            (Verb::Pause, json!({"camera": "cam1", "correlation_id": "c7"})),
            (Verb::Pause, json!({"part_id": "P1"})),
            (Verb::Resume, json!({})),
            (Verb::Retry, json!({"correlation_id": "c7"})),
            (Verb::Retry, json!({"camera": "cam1"})),
            (Verb::Reload, json!({})),
        ] {
            let schema = of_topic(&format!("cmd/{}", verb.as_str())).unwrap();
            let schema: Value = serde_json::from_str(schema.text).unwrap();
            let allowed = jsonschema::draft202012::is_valid(&schema, &words);
            let taken = parse(verb, words.to_string().as_bytes(), Instant::now());
            assert_eq!(allowed, taken.is_ok(), "{verb:?} {words}: {taken:?}");
        }
    }
}
