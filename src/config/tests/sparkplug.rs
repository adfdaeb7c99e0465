//! A broker that is spoken to in Sparkplug B.

use super::*;
use crate::config::sparkplug::Node;

fn node_of(keys: &str) -> Node {
    let text = format!(
        "{SMALL}\n[sink.scada]\nkind = \"mqtt\"\nurl = \"mqtt://scada\"\ndialect = \"sparkplug\"\n{keys}"
    );
    let config = config_of(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let again = config_of(&config.effective()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(again.sinks, config.sinks, "what is in force can be loaded again");
    config.sinks[0].broker.sparkplug.clone().expect("it speaks it")
}

#[test]
fn a_node_is_named_after_its_station_unless_it_says_otherwise() {
    let node = node_of("");
    assert_eq!((node.group_id.as_str(), node.edge_node_id.as_str()), ("p-a", "l-s"));
    assert_eq!((node.primary_host, node.host_lost_s), (None, 90));
    let node = node_of(
        "group_id = \"Plant 1\"\nedge_node_id = \"st10\"\nprimary_host = \"scada\"\nhost_lost_s = 45\n",
    );
    assert_eq!((node.group_id.as_str(), node.edge_node_id.as_str()), ("Plant 1", "st10"));
    assert_eq!((node.primary_host.as_deref(), node.host_lost_s), (Some("scada"), 45));
}

#[test]
fn what_is_wrong_with_a_node_is_named_with_its_key() {
    let good = "[sink.scada]\nkind = \"mqtt\"\nurl = \"mqtt://scada\"\ndialect = \"sparkplug\"\n";
    let cases = [
        ("dialect = \"sparkplug\"", "dialect = \"spark\"", "sink.scada.dialect"),
        ("dialect = \"sparkplug\"", "dialect = \"sparkplug\"\ngroup_id = \"a/b\"", "sink.scada.group_id"),
        (
            "dialect = \"sparkplug\"",
            "dialect = \"sparkplug\"\nedge_node_id = \"a+\"",
            "sink.scada.edge_node_id",
        ),
        (
            "dialect = \"sparkplug\"",
            "dialect = \"sparkplug\"\nprimary_host = \"#\"",
            "sink.scada.primary_host",
        ),
        ("dialect = \"sparkplug\"", "dialect = \"sparkplug\"\nhost_lost_s = 60", "there is none"),
        ("dialect = \"sparkplug\"", "group_id = \"a\"", "is only for dialect"),
    ];
    for (from, to, expected) in cases {
        let problem = only_problem(config_of(&format!("{SMALL}\n{}", good.replacen(from, to, 1))));
        assert!(problem.contains(expected), "{to}: {problem}");
        assert!(problem.starts_with("test.toml:"), "{problem}");
    }
    let twice = format!("{SMALL}\n{good}{}", good.replace("scada", "other"));
    let problem = only_problem(config_of(&twice));
    assert!(problem.contains("sink.scada.edge_node_id") && problem.contains("[sink.other]"), "{problem}");
    let by_case = twice.replacen("dialect = \"sparkplug\"", "dialect = \"sparkplug\"\ngroup_id = \"P-A\"", 1);
    assert!(only_problem(config_of(&by_case)).contains("edge_node_id"));
}
