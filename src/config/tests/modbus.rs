//! The server for PLCs: `[modbus]`.

use super::*;

fn modbus_of(text: &str) -> Option<Modbus> {
    config_of(&format!("{SMALL}\n{text}")).unwrap_or_else(|problems| panic!("{problems:#?}")).modbus
}

#[test]
fn without_its_section_no_plc_is_served_and_with_it_only_this_machine() {
    assert_eq!(modbus_of(""), None);
    let modbus = modbus_of("[modbus]\n").expect("a server");
    assert!(modbus.listen.ip().is_loopback() && modbus.allow.is_empty() && modbus.keep_results);
    assert_eq!(modbus.units, BTreeMap::from([(1, "cam1".to_owned())]));
    let text = "[modbus]\nlisten = \"0.0.0.0:1502\"\nallow = [\"192.168.10.0/24\", \"10.0.0.7\"]\nkeep_results = false\n\
                recipes = { 1 = \"machined-plate\", 20 = \"photo\" }\nunits = { cam1 = 7 }\nexpected = \"gtin\"\n";
    let modbus = modbus_of(text).expect("a server");
    assert_eq!((modbus.recipes[&20].as_str(), modbus.units[&7].as_str()), ("photo", "cam1"));
    assert_eq!((modbus.allow.len(), modbus.keep_results, modbus.expected.as_str()), (2, false, "gtin"));
    // What is in force can be loaded again.
    let config = config_of(&format!("{SMALL}\n{text}")).expect("it loads");
    let again = config_of(&config.effective()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(again.modbus, config.modbus);
}

#[test]
fn cameras_without_a_unit_take_what_is_free() {
    let second =
        SMALL.split("[store]").next().expect("a camera").split("[[camera]]").nth(1).expect("a camera");
    let cameras = ["top", "side"].map(|id| format!("[[camera]]{}", second.replace("cam1", id))).concat();
    let text = format!("{SMALL}\n{cameras}[modbus]\nunits = {{ side = 1 }}\n");
    let config = config_of(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let units = config.modbus.expect("a server").units;
    let named = [(1, "side"), (2, "cam1"), (3, "top")].map(|(unit, id)| (unit, id.to_owned()));
    assert_eq!(units, BTreeMap::from(named));
}

#[test]
fn what_is_wrong_with_the_server_is_named_with_its_key() {
    for (keys, expected) in [
        ("listen = \"plc:502\"", "modbus.listen"),
        ("listen = \"0.0.0.0:1502\"", "modbus.allow"),
        ("allow = [\"plc1\"]", "\"plc1\" is no address and no network"),
        ("recipes = { 0 = \"photo\" }", "must be from 1 to 65535"),
        ("recipes = { one = \"photo\" }", "must be from 1 to 65535"),
        ("recipes = { 1 = \"nothing\" }", "there is no recipe \"nothing\" in pipelines_dir"),
        ("recipes = { 1 = \"photo\", 2 = \"photo\" }", "has another number already"),
        ("recipes = { 1 = \"photo\", 01 = \"machined-plate\" }", "stands for two recipes"),
        ("recipes = { 1 = 2 }", "must be a string"),
        ("units = { top = 1 }", "there is no camera of this id"),
        ("units = { cam1 = 248 }", "a unit must be from 1 to 247"),
        ("connections = 0", "modbus.connections"),
        ("idle_timeout_s = 0", "modbus.idle_timeout_s"),
        ("watchdog_ms = 60001", "modbus.watchdog_ms"),
        ("expected = \"\"", "modbus.expected"),
        ("port = 502", "modbus.port"),
    ] {
        let problem = only_problem(config_of(&format!("{SMALL}\n[modbus]\n{keys}\n")));
        assert!(problem.contains(expected), "{keys}: {problem}");
    }
    let page = "[web]\n[modbus]\nlisten = \"127.0.0.1:8080\"\n";
    assert!(only_problem(config_of(&format!("{SMALL}\n{page}"))).contains("the page listens there"));
    let second = "[[camera]]\nid = \"top\"\nsource = \"simulator\"\npipeline = \"photo\"\n";
    let twice = format!("{SMALL}\n{second}[modbus]\nunits = {{ cam1 = 4, top = 4 }}\n");
    assert!(only_problem(config_of(&twice)).contains("has this unit, too"));
}
