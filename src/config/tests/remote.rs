//! Tests of `[model] remote…`.

use super::*;

fn remote_of(keys: &str) -> Result<Remote, Vec<String>> {
    let config = config_of(&format!("{SMALL}\n[model]\n{keys}"))?;
    let again = config_of(&config.effective()).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(again, config, "what is in force can be loaded again");
    Ok(config.model.remote.expect("servers are named"))
}

#[test]
fn servers_take_the_place_of_files() {
    assert_eq!(config_of(SMALL).expect("it loads").model.remote, None);
    let remote = remote_of("remote = [\"http://gpu1:8000/v1/\"]\n").unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(remote.servers[0].to_string(), "http://gpu1:8000/v1");
    assert_eq!((remote.timeout, remote.requests, remote.min_pixels), (Duration::from_secs(30), 8, 65_536));
    let all = "remote = [\"https://gpu1/v1\", \"http://gpu2/v1\"]\nremote_server = \"llama-server\"\n\
               remote_model = \"qwen\"\nremote_labels = [\"pit\", \"dent\"]\nremote_key_file = \"key\"\n\
               remote_ca = \"ca.pem\"\nremote_timeout_s = 5\nremote_requests = 2\nremote_min_pixels = 8192\n";
    let remote = remote_of(all).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!((remote.servers.len(), remote.labels.len(), remote.requests), (2, 2, 2));
    assert_eq!(remote.kind.map(|kind| kind.name()), Some("llama-server"));
}

#[test]
fn files_stay_beside_servers_that_are_asked_questions_alone() {
    let load = |keys: &str| {
        let config = config_of(&format!("{SMALL}\n[model]\nremote = [\"http://gpu1/v1\"]\n{keys}"));
        let config = config.unwrap_or_else(|p| panic!("{p:#?}"));
        assert_eq!(config_of(&config.effective()).expect("it loads again"), config);
        config.model
    };
    assert!(!load("").has_files() && !load("remote_for = \"all\"\n").has_files());
    let both = load("remote_for = \"questions\"\ntext = \"t.gguf\"\nmmproj = \"v.gguf\"\nthreads = 3\n");
    assert!(both.has_files() && both.text.ends_with("t.gguf") && both.threads == 3, "{both:?}");
}

#[test]
fn what_is_wrong_with_servers_is_named_with_its_key() {
    let one = "remote = [\"http://gpu1/v1\"]\n";
    for (keys, words) in [
        ("remote = []\n".to_owned(), "model.remote = []: names no server"),
        ("remote = [\"gpu1:8000\"]\n".to_owned(), "server 1 must start with http:// or https://"),
        ("remote = [\"http://me:hunter2@gpu1/v1\"]\n".to_owned(), "must not hold a user or a password"),
        ("remote = [\"http://gpu1/v1\", \"http://gpu1:80/v1\"]\n".to_owned(), "gpu1:80 stands twice"),
        ("remote = [\"https://gpu1/v1\"]\n".to_owned(), "model.remote_ca: is missing"),
        (format!("{one}remote_ca = \"ca.pem\"\n"), "is only for https://"),
        (format!("{one}remote_server = \"ollama\"\n"), "must be one of vllm, llama-server, openai"),
        (format!("{one}text = \"a.gguf\"\n"), "model.text = \"a.gguf\": means nothing with remote"),
        (format!("{one}threads = 4\n"), "means nothing with remote"),
        (format!("{one}remote_for = \"some\"\n"), "must be one of all, questions"),
        (format!("{one}remote_for = \"questions\"\nadapter = \"a.gguf\"\n"), "means nothing with remote"),
        ("remote_for = \"questions\"\n".to_owned(), "means nothing without remote"),
        (format!("{one}remote_labels = [\"pit\", \"pit\"]\n"), "each once"),
        (format!("{one}remote_timeout_s = 0\n"), "must be from 1 to 600"),
        (format!("{one}remote_retries = 3\n"), "unknown key"),
        ("remote_model = \"qwen\"\n".to_owned(), "means nothing without remote"),
    ] {
        let problems = remote_of(&keys).expect_err(&keys);
        assert!(problems.iter().any(|problem| problem.contains(words)), "{keys}: {problems:#?}");
        assert!(!problems.concat().contains("server 1 must not hold a user or a password; hunter2"));
    }
}

#[test]
fn a_key_that_everybody_may_read_is_none() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    let mut remote = remote_of("remote = [\"http://gpu1/v1\"]\n").unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(remote.read_key(), Ok(None));
    remote.key_file = Some(file.clone());
    assert!(remote.read_key().is_err(), "it is not there");
    let write = |text: &str, mode: u32| {
        std::fs::write(&file, text).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
    };
    write("hunter2\n", 0o640);
    assert_eq!(remote.read_key(), Ok(Some("hunter2".to_owned())));
    write("hunter2\n", 0o644);
    let why = remote.read_key().expect_err("everybody may read it");
    assert!(why.contains("chmod 640") && !why.contains("hunter2"), "{why}");
    for bad in ["", " \n", "two words"] {
        write(bad, 0o600);
        assert!(remote.read_key().is_err(), "{bad}");
    }
}
