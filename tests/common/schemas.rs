//! Real messages, held to the schemas that the program ships.

use crate::broker::Message;
use inspectd::publish::mqtt::dialect::json::schemas::of_topic;
use std::collections::BTreeSet;

/// Checks every message that a station has published, and gives the names of the schemas that they have: commands are
/// other people's, an image is no JSON, and an empty payload clears what is retained.
pub(crate) fn check(heard: &[Message], prefix: &str) -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for message in heard {
        let topic = message.topic.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).unwrap();
        let is_other = topic.starts_with("image/") || (topic.starts_with("cmd/") && topic != "cmd/ack");
        if is_other || message.payload.is_empty() {
            continue;
        }
        let schema = of_topic(topic).unwrap_or_else(|| panic!("no schema for {topic}"));
        let text = serde_json::from_str(schema.text).unwrap();
        let validator = jsonschema::draft202012::new(&text).unwrap();
        let errors: Vec<_> = validator.iter_errors(&message.json()).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{topic}: {errors:?} in {}", message.json());
        seen.insert(schema.name);
    }
    seen
}
