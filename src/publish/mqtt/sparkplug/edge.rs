//! Who the station is in Sparkplug: its group, its edge node, its devices, and their topics.
//!
//! ```text
//! spBv1.0/{group}/NBIRTH|NDATA|NDEATH|NCMD/{node}
//! spBv1.0/{group}/DBIRTH|DDATA|DDEATH|DCMD/{node}/{device}     a device is a camera
//! spBv1.0/STATE/{primary host}
//! ```
//!
//! (tck-id-topic-structure, tck-id-topic-structure-namespace-a,
//! tck-id-topic-structure-namespace-device-id-associated-message-types,
//! tck-id-topic-structure-namespace-device-id-non-associated-message-types,
//! tck-id-topics-nbirth-topic, tck-id-topics-ndata-topic, tck-id-topics-ndeath-topic, tck-id-topics-dbirth-topic,
//! tck-id-topics-ddata-topic, tck-id-topics-ddeath-topic, tck-id-message-flow-edge-node-birth-publish-nbirth-topic,
//! tck-id-message-flow-edge-node-birth-publish-will-message-topic,
//! tck-id-message-flow-device-birth-publish-dbirth-topic,
//! tck-id-message-flow-device-birth-publish-dbirth-match-edge-node-topic). The cameras of another box may have the same
//! ids (tck-id-topic-structure-namespace-duplicate-device-id-across-edge-node).

use super::session::Who;
use std::time::Duration;

/// The namespace of version B.
const NAMESPACE: &str = "spBv1.0";

/// The edge node of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Group ID.
    pub group: String,
    /// Edge Node ID; with its group it names one node at its broker.
    pub node: String,
    /// Id of the host without which nothing is published.
    pub primary_host: Option<String>,
    /// A host that died is reported by the broker within this time: what was sent to it meanwhile is sent again.
    pub host_lost: Duration,
    /// Ids of the cameras, each a device.
    pub devices: Vec<String>,
    /// Commands are taken, beside that for births.
    pub commands: bool,
}

/// A word that may be a Group, Edge Node or Host ID: characters that a level of a topic may have
/// (tck-id-intro-group-id-chars, tck-id-intro-edge-node-id-chars, tck-id-topic-structure-namespace-valid-group-id,
/// tck-id-topic-structure-namespace-valid-edge-node-id).
pub(crate) fn is_id(word: &str) -> bool {
    !word.is_empty() && !word.contains(['/', '+', '#']) && !word.chars().any(char::is_control)
}

impl Edge {
    /// The topic of a message about somebody; `kind` is its word without N or D.
    pub(super) fn topic(&self, kind: &str, who: &Who) -> String {
        let Self { group, node, .. } = self;
        match who {
            Who::Node => format!("{NAMESPACE}/{group}/N{kind}/{node}"),
            Who::Device(device) => format!("{NAMESPACE}/{group}/D{kind}/{node}/{}", level(device)),
        }
    }

    /// The topic on which the primary host says how it is.
    pub(super) fn state_topic(&self) -> Option<String> {
        self.primary_host.as_ref().map(|host| format!("{NAMESPACE}/STATE/{host}"))
    }

    /// What is subscribed to, with QoS 1: commands for the node and for each device, and the state of the primary host
    /// (tck-id-message-flow-edge-node-ncmd-subscribe, tck-id-message-flow-device-dcmd-subscribe).
    pub(super) fn subscriptions(&self) -> Vec<String> {
        let devices = self.devices.iter().filter(|_| self.commands).cloned().map(Who::Device);
        let commands = std::iter::once(Who::Node).chain(devices).map(|who| self.topic("CMD", &who));
        self.state_topic().into_iter().chain(commands).collect()
    }

    /// A filter that nobody subscribes to: leaving it changes nothing, and is answered.
    pub(super) fn fence_topic(&self) -> String {
        format!("{}/fence", self.topic("CMD", &Who::Node))
    }

    /// Who a command is for, by its topic.
    pub(super) fn commanded(&self, topic: &str) -> Option<Who> {
        if topic == self.topic("CMD", &Who::Node) {
            return Some(Who::Node);
        }
        let mut devices = self.devices.iter().cloned().map(Who::Device);
        devices.find(|who| topic == self.topic("CMD", who))
    }
}

/// One level of a topic (tck-id-intro-device-id-chars, tck-id-topic-structure-namespace-valid-device-id).
fn level(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '/' | '+' | '#') || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> Edge {
        Edge {
            group: "plant1".into(),
            node: "st10".into(),
            primary_host: Some("scada".into()),
            host_lost: Duration::from_mins(1),
            devices: vec!["top".into(), "side".into()],
            commands: true,
        }
    }

    #[test]
    fn topics_are_those_of_the_namespace() {
        let edge = edge();
        assert_eq!(edge.topic("BIRTH", &Who::Node), "spBv1.0/plant1/NBIRTH/st10");
        assert_eq!(edge.topic("DATA", &Who::Device("top".into())), "spBv1.0/plant1/DDATA/st10/top");
        assert_eq!(edge.topic("DATA", &Who::Device("a/b+#".into())), "spBv1.0/plant1/DDATA/st10/a_b__");
        let expected = [
            "spBv1.0/STATE/scada",
            "spBv1.0/plant1/NCMD/st10",
            "spBv1.0/plant1/DCMD/st10/top",
            "spBv1.0/plant1/DCMD/st10/side",
        ];
        assert_eq!(edge.subscriptions(), expected);
        assert_eq!(
            Edge { commands: false, primary_host: None, ..edge.clone() }.subscriptions(),
            expected[1..2]
        );
        assert_eq!(edge.commanded(expected[1]), Some(Who::Node));
        assert_eq!(edge.commanded(expected[3]), Some(Who::Device("side".into())));
        assert_eq!((edge.commanded(expected[0]), edge.commanded("spBv1.0/plant1/NCMD/st11")), (None, None));
    }

    #[test]
    fn ids_are_words_of_one_level() {
        for good in ["plant1", "inspectd:plant1:body", "Werk 3", "工厂"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", "a/b", "a+", "#", "a\nb"] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }
}
