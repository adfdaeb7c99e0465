//! Addresses: what of them is shown, and which are risky.

use super::*;

#[test]
fn a_password_in_clear_text_to_another_machine_is_a_warning() {
    let warning = |keys: &str| {
        let config =
            config_of(&SMALL.replace("\"mqtt://broker\"", keys)).unwrap_or_else(|p| panic!("{p:#?}"));
        let shown: Vec<_> = config.own_warnings().map(Problem::to_string).collect();
        assert!(!shown.concat().contains("hunter2"), "{shown:?}");
        assert_eq!(shown.len(), usize::from(config.mqtt.warning().is_some()), "{shown:?}");
        assert!(shown.iter().all(|line| line.starts_with("test.toml:") && line.contains("mqtt.url = ")));
        config.mqtt.warning()
    };
    let clear = warning("\"mqtt://me:hunter2@broker\"").expect("a warning");
    assert!(clear.contains("mqtt://broker:1883") && !clear.contains("hunter2"), "{clear}");
    assert!(warning("\"mqtt://broker\"\nusername = \"me\"\npassword_file = \"pw\"").is_some());
    for fine in [
        "\"mqtt://broker\"",
        "\"mqtt://me:hunter2@localhost\"",
        "\"mqtt://me:hunter2@127.0.0.1\"",
        "\"mqtt://me:hunter2@[::1]\"",
        "\"mqtts://me:hunter2@broker\"\nca = \"ca.pem\"",
    ] {
        assert_eq!(warning(fine), None, "{fine}");
    }
}

#[test]
fn the_outer_url_is_an_origin_as_browsers_write_it() {
    for (written, origin) in [
        ("https://Box.Example/", "https://box.example"),
        ("https://box.example:443", "https://box.example"),
        ("http://10.0.0.1:80", "http://10.0.0.1"),
        ("https://box.example:8443", "https://box.example:8443"),
        ("http://box.example:443", "http://box.example:443"),
    ] {
        let text = SMALL.replace("[store]", &format!("[web]\npublic_url = \"{written}\"\n[store]"));
        let config = config_of(&text).unwrap_or_else(|p| panic!("{p:#?}"));
        assert_eq!(config.web.as_ref().and_then(|w| w.public_url.as_deref()), Some(origin));
        assert_eq!(config_of(&config.effective()).expect("it loads again"), config);
    }
}

/// Cameras take passwords in every part of a URL; none of them stands in the log.
#[test]
fn no_secret_of_a_cameras_address_is_written_back() {
    for address in [
        "rtsp://me:hunter2@h:554/live",
        "rtsp://h/user=admin&password=hunter2",
        "http://h/video?token=hunter2",
        "rtspsrc location=rtsp://h/hunter2 user-pw=hunter2 ! appsink",
    ] {
        let device = format!("source = \"opencv\"\nurl = \"{address}\"");
        let config =
            config_of(&SMALL.replace("source = \"simulator\"", &device)).unwrap_or_else(|p| panic!("{p:#?}"));
        let effective = config.effective();
        assert!(!effective.contains("hunter2") && effective.contains("//"), "{effective}");
        let wrong = format!("{device}\nbackend = \"vlc\"\nurls = \"{address}\"");
        let problems = config_of(&SMALL.replace("source = \"simulator\"", &wrong)).expect_err("two problems");
        assert!(!problems.join("\n").contains("hunter2"), "{problems:#?}");
    }
}
