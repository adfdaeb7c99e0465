//! Tests of the section `[opcua]`.

use super::*;

fn opcua_of(keys: &str) -> Result<Opcua, Vec<String>> {
    let text = format!("{SMALL}\n[opcua]\n{keys}");
    let config = config_of(&text)?;
    let again = config_of(&config.effective()).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(again.opcua, config.opcua, "what is in force can be loaded again");
    Ok(config.opcua.expect("the section is there"))
}

#[test]
fn a_server_listens_on_loopback_with_limits_unless_it_says_so() {
    assert_eq!(config_of(SMALL).expect("it loads").opcua, None);
    let opcua = opcua_of("anonymous = \"viewer\"\n").unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(opcua.listen, ([127, 0, 0, 1], 4840).into());
    assert_eq!((opcua.anonymous, opcua.host().as_str()), (Some(Anonymous::Viewer), "127.0.0.1"));
    let limits = [opcua.sessions, opcua.subscriptions, opcua.monitored_items, opcua.nodes_per_call];
    assert_eq!(limits, [10, 10, 1000, 1000]);
    assert_eq!((opcua.connections, opcua.connections_per_address), (40, 20));
    let open =
        opcua_of("listen = \"0.0.0.0:4841\"\nhost = \"st10.example\"\nusers_file = \"users\"\nqueue = 7\n");
    let open = open.unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!((open.host().as_str(), open.queue), ("st10.example", 7));
    let unnamed = opcua_of("listen = \"0.0.0.0:4841\"\nusers_file = \"users\"\n");
    let unnamed = unnamed.unwrap_or_else(|p| panic!("{p:#?}")).host();
    assert!(!unnamed.is_empty() && unnamed != "0.0.0.0", "this machine's own name: {unnamed}");
}

#[test]
fn nobody_comes_in_without_a_name_beyond_loopback() {
    for (keys, words) in [
        ("", "nobody may come in"),
        (
            "listen = \"0.0.0.0:4840\"\nanonymous = \"viewer\"\n",
            "opcua.anonymous = \"viewer\": goes on loopback only",
        ),
        ("anonymous = \"admin\"\n", "opcua.anonymous = \"admin\": must be one of viewer, operator"),
        ("listen = \"here\"\nanonymous = \"viewer\"\n", "opcua.listen = \"here\": must be an IP address"),
        ("host = \"a b\"\nanonymous = \"viewer\"\n", "is no host name"),
        ("sessions = 0\nanonymous = \"viewer\"\n", "opcua.sessions = 0: must be from 1 to 100"),
        (
            "connections = 4\nsessions = 5\nanonymous = \"viewer\"\n",
            "opcua.connections = 4: are fewer than sessions (5)",
        ),
        ("session = 5\nanonymous = \"viewer\"\n", "unknown key; known here"),
    ] {
        let problems = opcua_of(keys).expect_err(keys);
        assert!(problems.len() == 1 && problems[0].contains(words), "{keys}: {problems:#?}");
    }
}
