//! The assertions of the Sparkplug specification: the list has them all, and each that concerns an edge node is cited
//! where it is kept or tested.

use super::sources;
use std::collections::BTreeMap;

const IDS: &str = include_str!("../mqtt/sparkplug_ids.txt");

/// Assertions of version 3.0.
const ALL: usize = 299;

/// Whose an assertion is: `edge`, `host`, `broker`, or `unused` with the reason.
fn list() -> BTreeMap<&'static str, &'static str> {
    let line = |line: &'static str| {
        let (whose, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (id, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        assert!(["edge", "host", "broker", "unused"].contains(&whose), "{line}");
        assert_eq!(whose == "unused", !reason.is_empty(), "{line}: a reason, where it is not used");
        (id, whose)
    };
    IDS.lines().map(line).collect()
}

/// The ids that a text cites.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split("tck-id-").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
        rest[..end].trim_end_matches('-')
    })
}

#[test]
fn each_assertion_about_an_edge_node_is_cited() {
    let list = list();
    assert_eq!(list.len(), ALL);
    let mut open = list.clone();
    let mut unknown = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        // This file has examples.
        if path.ends_with("tidy/sparkplug.rs") {
            continue;
        }
        for id in cited(&text) {
            open.remove(id);
            if !list.contains_key(id) {
                unknown.push(format!("{}: {id}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "no such assertion: {unknown:?}");
    let open: Vec<_> = open.iter().filter(|(_, whose)| **whose == "edge").map(|(id, _)| id).collect();
    assert!(open.is_empty(), "nobody cites {open:?}");
}

#[test]
fn the_check_sees_citations() {
    let text = "/// tck-id-payloads-timestamp-in-UTC, (tck-id-topic-structure): a\n/// tck-id-a-b-\n";
    assert_eq!(cited(text).collect::<Vec<_>>(), ["payloads-timestamp-in-UTC", "topic-structure", "a-b"]);
}
