//! The examples for other programs name topics and fields that there are, of the types that they are said to have.

use super::{blocks, first_cells, read};
use inspectd::publish::mqtt::dialect::json::schemas::of_topic;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;

const CHAPTER: &str = "src/guide/mqtt.md";

/// Levels of a topic in front of the station's own: root, site, area, line, station.
const PREFIX_LEVELS: usize = 5;

/// The schema of a topic or a filter of topics, which begin with the station's prefix or wildcards for it.
fn schema(topic: &str) -> Value {
    let own: Vec<_> = topic.split('/').skip(PREFIX_LEVELS).collect();
    assert!(topic.starts_with("inspectd/") && !own.is_empty(), "{topic}");
    let schema = of_topic(&own.join("/")).unwrap_or_else(|| panic!("{topic}: there is no such topic"));
    serde_json::from_str(schema.text).expect("a schema is JSON")
}

/// What a schema says of a field, whose name may be a path with points.
fn field<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    let mut found = schema;
    for name in path.split('.') {
        found = found["properties"].get(name)?;
    }
    let target = found["$ref"].as_str().and_then(|to| schema.pointer(to.trim_start_matches('#')));
    Some(target.unwrap_or(found))
}

/// The types of a field, as words of JSON Schema.
fn types(field: &Value) -> BTreeSet<&str> {
    match (&field["type"], &field["enum"]) {
        (Value::String(one), _) => [one.as_str()].into(),
        (Value::Array(several), _) => several.iter().filter_map(Value::as_str).collect(),
        (_, Value::Array(words)) if words.iter().all(Value::is_string) => ["string"].into(),
        _ => panic!("a field without a type: {field}"),
    }
}

fn block(kind: &str) -> String {
    let mut found = blocks(&read(CHAPTER)).0.into_iter().filter(|block| block.kind == kind);
    let block = found.next().unwrap_or_else(|| panic!("no block {kind}"));
    assert!(found.next().is_none(), "one block {kind}");
    block.text
}

#[test]
fn each_field_of_the_stats_is_explained() {
    let schema = schema("inspectd/a/b/c/d/stats");
    let fields: BTreeSet<_> = schema["properties"].as_object().expect("fields").keys().cloned().collect();
    assert_eq!(first_cells(&read(CHAPTER), "## Stats"), fields);
}

#[test]
fn the_ids_stand_where_the_guide_says() {
    for (topic, ids) in [
        ("cmd/ack", &["correlation_id", "trigger_id"][..]),
        ("result", &["correlation_id", "trigger_id", "inspection_id"]),
        ("part", &["correlation_id", "trigger_id", "id"]),
        ("last", &["correlation_id", "trigger_id", "inspection_id"]),
        ("review", &["inspection_id"]),
    ] {
        let schema = schema(&format!("inspectd/a/b/c/d/{topic}"));
        assert!(ids.iter().all(|id| field(&schema, id).is_some()), "{topic}");
    }
    let named = first_cells(&read(CHAPTER), "## Joined by id");
    assert_eq!(named, ["correlation_id", "id", "inspection_id", "trigger_id"].map(str::to_owned).into());
}

/// Flat messages only: a tag has one type.
#[test]
fn the_tags_for_ignition_are_fields_of_one_type() {
    let chapter = read(CHAPTER);
    let table = chapter.split_once("\n### Ignition\n").expect("the example").1;
    let rows =
        table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows.skip(2) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let schema = schema(cells[0].trim_matches('`'));
        for tag in cells[1].split('`').skip(1).step_by(2) {
            let found = field(&schema, tag).unwrap_or_else(|| panic!("{}: no field {tag}", cells[0]));
            assert_eq!(types(found).len(), 1, "{}: {tag}", cells[0]);
            count += 1;
        }
    }
    assert!(count > 20, "{count} tags");
}

#[test]
fn the_flow_for_node_red_reads_and_writes_what_there_is() {
    let flow: Value = serde_json::from_str(&block("json node-red")).expect("a flow is JSON");
    let nodes = flow.as_array().expect("a list of nodes");
    let node =
        |id: &str| nodes.iter().find(|node| node["id"] == id).unwrap_or_else(|| panic!("no node {id}"));
    let of_type = |kind: &'static str| nodes.iter().filter(move |node| node["type"] == kind);
    for wired in
        nodes.iter().filter_map(|node| node["wires"].as_array()).flatten().filter_map(|to| to.as_array())
    {
        wired.iter().for_each(|to| _ = node(to.as_str().expect("an id")));
    }
    // What is heard, and the fields that the function behind it reads.
    let read = Regex::new(r"\ba\.([a-z_]+)").expect("a pattern");
    for input in of_type("mqtt in") {
        assert_eq!((&input["qos"], &input["datatype"]), (&"1".into(), &"json".into()));
        assert_eq!(node(input["broker"].as_str().expect("a broker"))["type"], "mqtt-broker");
        let schema = schema(input["topic"].as_str().expect("a topic"));
        let function =
            node(input["wires"][0][0].as_str().expect("a function"))["func"].as_str().expect("code");
        let fields: BTreeSet<_> = read.captures_iter(function).map(|found| found[1].to_owned()).collect();
        assert!(fields.len() > 2, "{function}");
        for name in fields {
            assert!(field(&schema, &name).is_some(), "{}: no field {name}", input["topic"]);
        }
    }
    assert_eq!(of_type("mqtt in").count(), 2);
    // The broker keeps results while Node-RED is stopped: MQTT 5 ends a session at once that has no expiry.
    let broker = of_type("mqtt-broker").next().expect("a broker");
    let expiry = broker["sessionExpiry"].as_str().and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(broker["protocolVersion"] == "5" && expiry > Some(0), "{broker}");
    assert_eq!((&broker["cleansession"], &broker["autoUnsubscribe"]), (&false.into(), &false.into()));
    assert_ne!(broker["clientid"].as_str().expect("an id"), "");
    // What is commanded, with the field that the function adds.
    let out = of_type("mqtt out").next().expect("a command");
    assert_eq!((&out["qos"], &out["retain"]), (&"1".into(), &"false".into()));
    let schema = schema(out["topic"].as_str().expect("a topic"));
    let inject = of_type("inject").next().expect("a part");
    let mut words: Value = serde_json::from_str(inject["payload"].as_str().expect("words")).expect("JSON");
    let function = node(inject["wires"][0][0].as_str().expect("a function"));
    let added = Regex::new(r"msg\.payload\.([a-z_]+) =").expect("a pattern");
    for found in added.captures_iter(function["func"].as_str().expect("code")) {
        words[&found[1]] = "red-1".into();
    }
    assert_eq!(
        (function["wires"][0][0].clone(), &words["correlation_id"]),
        (out["id"].clone(), &"red-1".into())
    );
    jsonschema::draft202012::new(&schema).expect("a schema").validate(&words).expect("a command");
}

#[test]
fn telegraf_reads_fields_that_there_are_as_what_they_are() {
    let conf: toml::Table = block("conf telegraf").parse().expect("telegraf.conf is TOML");
    let conf = serde_json::to_value(conf).expect("a table");
    let consumers = conf["inputs"]["mqtt_consumer"].as_array().expect("inputs");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut names = BTreeSet::new();
    for consumer in consumers {
        assert_eq!(consumer["data_format"], "json_v2");
        let (topics, parsing) = (list(&consumer["topics"]), &consumer["topic_parsing"][0]);
        assert_eq!(topics, [parsing["topic"].clone()]);
        let topic = topics[0].as_str().expect("a topic");
        let tags = parsing["tags"].as_str().expect("tags");
        assert_eq!(tags.split('/').count(), topic.split('/').count(), "{tags}");
        names.extend(tags.split('/').map(str::to_owned));
        let (schema, json) = (schema(topic), &consumer["json_v2"][0]);
        names.insert(json["measurement_name"].as_str().expect("a name").to_owned());
        let known = |path: &Value| {
            let path = path.as_str().expect("a path");
            field(&schema, path).unwrap_or_else(|| panic!("{topic}: no field {path}"))
        };
        assert_eq!(types(known(&json["timestamp_path"])), ["string"].into());
        for tag in list(&json["tag"]) {
            assert_eq!(types(known(&tag["path"])), ["string"].into(), "{tag}");
            names.insert(tag["path"].as_str().expect("a path").to_owned());
        }
        let fields = list(&json["field"]);
        assert!(fields.len() > 3, "{fields:?}");
        for wanted in fields {
            let mut types = types(known(&wanted["path"]));
            assert_eq!(types.remove("null"), wanted["optional"] == true, "{wanted}");
            let of = match wanted["type"].as_str() {
                Some("int") => "integer",
                Some("float") => "number",
                _ => "string",
            };
            assert_eq!(types, [of].into(), "{wanted}");
            names.insert(wanted["path"].as_str().expect("a path").to_owned());
        }
    }
    let query = block("sql influx");
    let quoted: Vec<_> = query.split('"').skip(1).step_by(2).collect();
    assert!(quoted.len() > 3 && quoted.iter().all(|name| names.contains(*name)), "{query}");
}
