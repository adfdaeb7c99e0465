//! The keys of a broker that is spoken to in Sparkplug B: `dialect = "sparkplug"`, and who the station is there.

use super::Config;
use super::mqtt::Mqtt;
use crate::document::{Section, Text, quoted};
use std::collections::BTreeMap;

/// Characters of an id.
const ID_CHARS_MAX: usize = 64;

/// The host's death is told within this time, where the config says nothing: one and a half of a keep-alive of 60 s.
const HOST_LOST_S: u32 = 90;

/// Who the station is to hosts of Sparkplug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub group_id: String,
    /// One in its group, over all sinks.
    pub edge_node_id: String,
    /// Nothing is published until this host is online.
    pub primary_host: Option<String>,
    /// The broker says within this time that the host is gone.
    pub host_lost_s: u32,
}

/// What ids and names are where the config does not give them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub client_id: String,
    pub group_id: String,
    pub edge_node_id: String,
}

/// Reads the keys; `None` for a broker of JSON.
pub(super) fn read(section: &Section<'_>, names: &Names) -> Option<Node> {
    let is_sparkplug = section.word("dialect", spoken, &["json", "sparkplug"]).unwrap_or(false);
    let id = |key: &'static str| {
        let id = section.text(key, ID_CHARS_MAX);
        if id.as_ref().is_some_and(|id| id.contains(['/', '+', '#', '\n'])) {
            section.problem(key, "is one level of a topic: it must not hold / + # or line ends");
        }
        id
    };
    let (group_id, edge_node_id, primary_host) = (id("group_id"), id("edge_node_id"), id("primary_host"));
    let host_lost_s = section.ranged("host_lost_s", 1..=3600);
    if !is_sparkplug {
        let given = [
            ("group_id", group_id.is_some()),
            ("edge_node_id", edge_node_id.is_some()),
            ("primary_host", primary_host.is_some()),
            ("host_lost_s", host_lost_s.is_some()),
        ];
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            section.problem(key, "is only for dialect = \"sparkplug\"");
        }
        return None;
    }
    if host_lost_s.is_some() && primary_host.is_none() {
        section.problem("host_lost_s", "is the time of a primary_host, and there is none");
    }
    Some(Node {
        group_id: group_id.unwrap_or_else(|| names.group_id.clone()),
        edge_node_id: edge_node_id.unwrap_or_else(|| names.edge_node_id.clone()),
        primary_host,
        host_lost_s: host_lost_s.unwrap_or(HOST_LOST_S),
    })
}

fn spoken(word: &str) -> Option<bool> {
    match word {
        "json" => Some(false),
        "sparkplug" => Some(true),
        _ => None,
    }
}

/// An edge node is one, also where only the case of its ids differs (tck-id-case-sensitivity-sparkplug-ids); so are its
/// devices, the cameras (tck-id-topic-structure-namespace-unique-device-id).
pub(super) fn check(root: &Section<'_>, config: &Config) {
    let further = config.sinks.iter().map(|sink| (format!("sink.{}", sink.name), &sink.broker));
    let brokers: Vec<(String, &Mqtt)> =
        std::iter::once(("mqtt".to_owned(), &config.mqtt)).chain(further).collect();
    let mut nodes: BTreeMap<(String, String), String> = BTreeMap::new();
    for (section, broker) in brokers {
        let Some(Node { group_id, edge_node_id, .. }) = &broker.sparkplug else { continue };
        let name = (group_id.to_lowercase(), edge_node_id.to_lowercase());
        if let Some(other) = nodes.insert(name, section.clone()) {
            let key = format!("{section}.edge_node_id");
            let why = format!(
                "{group_id}/{edge_node_id} is the edge node of [{other}], too: give one of them another id"
            );
            root.problem(&key, why);
        }
    }
    if nodes.is_empty() {
        return;
    }
    let mut devices: BTreeMap<String, &str> = BTreeMap::new();
    for (place, camera) in config.cameras.iter().enumerate() {
        let other = devices.insert(camera.id.to_lowercase(), &camera.id).filter(|other| *other != camera.id);
        if let Some(other) = other {
            let why = format!("differs from {other:?} only by case, which devices of Sparkplug must not");
            root.problem(&format!("camera[{place}].id"), why);
        }
    }
}

impl Node {
    /// As keys of its section.
    pub(super) fn write(&self, out: &mut Text) {
        out.pair("dialect", quoted("sparkplug"));
        out.pair("group_id", quoted(&self.group_id));
        out.pair("edge_node_id", quoted(&self.edge_node_id));
        if let Some(host) = &self.primary_host {
            out.pair("primary_host", quoted(host));
            out.pair("host_lost_s", self.host_lost_s);
        }
    }
}
