//! Further brokers: `[sink.NAME]`.

use super::*;

fn sinks_of(text: &str) -> Vec<Sink> {
    config_of(&format!("{SMALL}\n{text}")).unwrap_or_else(|problems| panic!("{problems:#?}")).sinks
}

#[test]
fn a_sink_has_the_keys_of_the_broker_and_takes_no_commands_unless_it_says_so() {
    assert!(sinks_of("").is_empty());
    let text = "[sink.plc]\nkind = \"mqtt\"\nurl = \"mqtt://plc:1884\"\ncommands = true\nenabled = false\n\
                [sink.erp]\nkind = \"mqtt\"\nurl = \"mqtt://me:x@localhost\"\nprotocol = 4\nclient_id = \"own\"\n";
    let sinks = sinks_of(text);
    let shown =
        |s: &Sink| (s.name.clone(), s.enabled, s.commands, s.broker.url(), s.broker.client_id.clone());
    let erp = ("erp".into(), true, false, "mqtt://localhost:1883".into(), "own".into());
    assert_eq!(shown(&sinks[0]), erp, "in the order of names");
    let (name, enabled, commands, url, id) = shown(&sinks[1]);
    assert_eq!((name.as_str(), enabled, commands, url.as_str()), ("plc", false, true, "mqtt://plc:1884"));
    assert!(id.ends_with("-plc") && id.len() > 4, "{id}");
    // What is in force can be loaded again.
    let config = config_of(&format!("{SMALL}\n{text}")).expect("it loads");
    let again = config_of(
        &config.effective().replace("username = \"***\"\n", "").replace("password = \"***\"\n", ""),
    );
    let mut expected = config.sinks.clone();
    (expected[0].broker.username, expected[0].broker.password) = (None, None);
    assert_eq!(again.unwrap_or_else(|problems| panic!("{problems:#?}")).sinks, expected);
    let overridden = config_with(&format!("{SMALL}\n{text}"), &[("INSPECTD_SINK__PLC__ENABLED", "true")]);
    assert!(overridden.expect("it loads").sinks[1].enabled);
}

#[test]
fn what_is_wrong_with_a_sink_is_named_with_its_key() {
    let good = "[sink.erp]\nkind = \"mqtt\"\nurl = \"mqtt://erp\"\n";
    let cases = [
        ("sink.erp", "sink.mqtt", "sink.mqtt: this name is that of the section [mqtt]"),
        ("sink.erp", "sink.ERP", "sink.ERP: its name must be 1 to 32"),
        ("kind = \"mqtt\"\n", "", "sink.erp.kind: is missing; it must be one of mqtt"),
        ("\"mqtt\"\nurl", "\"opcua\"\nurl", "sink.erp.kind"),
        ("url = \"mqtt://erp\"\n", "", "sink.erp.url: is missing"),
        ("mqtt://erp", "http://erp", "sink.erp.url"),
        ("kind = ", "outbox_entries_max = 5000\nkind = ", "sink.erp.outbox_entries_max"),
        ("kind = ", "commands = \"yes\"\nkind = ", "sink.erp.commands"),
        ("kind = ", "enabled = 1\nkind = ", "sink.erp.enabled"),
        ("mqtt://erp", "mqtts://erp", "sink.erp.ca: is missing"),
        ("mqtt://erp\"", "mqtt://broker\"\nclient_id = \"inspectd-p-a-l-s\"", "sink.erp.client_id"),
    ];
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from}");
        let problem = only_problem(config_of(&format!("{SMALL}\n{}", good.replacen(from, to, 1))));
        let plain = problem.replace(" = ", ": ");
        assert!(problem.contains(expected) || plain.contains(expected), "{to}: {problem}");
        assert!(problem.starts_with("test.toml:"), "{problem}");
    }
    let many: String = (0..9).map(|n| good.replace("erp", &format!("s{n}"))).collect();
    assert!(only_problem(config_of(&format!("{SMALL}\n{many}"))).contains("at most 8"));
}

#[test]
fn pictures_are_for_who_asks_for_them() {
    let sides = |mqtt: &str, erp: &str| {
        let text = format!("{SMALL}{mqtt}\n[sink.erp]\nkind = \"mqtt\"\nurl = \"mqtt://erp\"\n{erp}\n");
        let config = config_of(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        // What is in force can be loaded again.
        let again = config_of(&config.effective()).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!((&again.mqtt, &again.sinks), (&config.mqtt, &config.sinks));
        (config.mqtt.images_px, config.sinks[0].broker.images_px)
    };
    assert_eq!(sides("", ""), (None, None));
    assert_eq!(sides("", "images = true"), (None, Some(320)));
    assert_eq!(sides("images = true\nimages_px = 640", "images = false\nimages_px = 64"), (Some(640), None));
    for (keys, expected) in [
        ("images_px = 320", "mqtt.images_px"),
        ("images = true\nimages_px = 63", "mqtt.images_px"),
        ("images = 1", "mqtt.images"),
    ] {
        let problem = only_problem(config_of(&format!("{SMALL}{keys}\n")));
        assert!(problem.contains(expected), "{keys}: {problem}");
    }
}
