//! Commands over HTTP: the words of MQTT, answered with 202 or with the refusal.

use super::http::ask;
use super::server::{Server, options};
use super::tokens::{self, bearer};
use inspectd::domain::camera::{CameraState, CameraStatus, LineState};
use inspectd::domain::trigger::Command;
use inspectd::store::{Store, StoreOptions};
use inspectd::web::Web;
use inspectd::web::api;
use inspectd::web::auth::Role;
use inspectd::web::metrics::Health;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_trigger_reaches_the_line_with_all_that_it_says() {
    let server = Server::start(0);
    let before = Instant::now();
    let body = json!({"camera": "cam1", "part_id": "P7", "lot": "L1", "expected": {"serial": "SN1"},
        "deadline_ms": 900, "correlation_id": "c7"});
    let answer = server.post("/api/v1/commands/trigger", Role::Operator, &body);
    assert_eq!(answer.status, 202, "{}", answer.head);
    assert_eq!(answer.json(), json!({"command": "trigger", "correlation_id": "c7", "trigger_id": "T1"}));
    let commanded = server.commanded.lock().unwrap();
    let [Command::Trigger(request)] = commanded.as_slice() else { panic!("{commanded:?}") };
    assert_eq!(request.camera.as_deref(), Some("cam1"));
    assert!(request.received >= before && request.received <= Instant::now());
    let trigger = &request.trigger;
    assert_eq!((trigger.part_id.as_deref(), trigger.lot.as_deref()), (Some("P7"), Some("L1")));
    assert_eq!(
        (trigger.expected["serial"].as_str(), trigger.deadline),
        ("SN1", Some(Duration::from_millis(900)))
    );
    assert_eq!(trigger.correlation_id.as_deref(), Some("c7"));
}

#[test]
fn the_other_commands_need_no_words_or_their_own() {
    let server = Server::start(0);
    assert_eq!(server.ask("POST", "/api/v1/commands/pause", Some(Role::Operator), "").status, 202);
    assert_eq!(
        server.post("/api/v1/commands/resume", Role::Operator, &json!({"camera": "cam1"})).status,
        202
    );
    let pipeline = json!({"pipeline": "any-part"});
    assert_eq!(server.post("/api/v1/commands/pipeline", Role::Engineer, &pipeline).status, 202);
    let refused = server.post("/api/v1/commands/retry", Role::Operator, &json!({}));
    assert_eq!((refused.status, refused.code().as_str()), (403, "role"));
    assert_eq!(server.post("/api/v1/commands/retry", Role::Engineer, &json!({})).status, 202);
    let expected = [
        Command::Pause { camera: None },
        Command::Resume { camera: Some("cam1".into()) },
        Command::Pipeline { camera: None, pipeline: "any-part".into() },
        Command::Retry,
    ];
    assert_eq!(*server.commanded.lock().unwrap(), expected);
}

#[test]
fn what_is_not_taken_is_answered_with_its_code_and_reason() {
    let server = Server::start(0);
    for (command, body, status, code, words) in [
        ("pause", r#"{"camera":"nowhere"}"#, 404, "no_camera", "cam1"),
        ("trigger", r#"{"bogus":1}"#, 400, "malformed", "bogus"),
        ("trigger", "[]", 400, "malformed", "JSON object"),
        ("trigger", r#"{"deadline_ms":0}"#, 400, "malformed", "deadline_ms = 0"),
        ("pipeline", "{}", 400, "malformed", "pipeline"),
        ("reboot", "{}", 400, "malformed", "trigger, pipeline, pause, resume"),
    ] {
        let answer = server.ask("POST", &format!("/api/v1/commands/{command}"), Some(Role::Operator), body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{command} {body}");
        assert!(
            answer.json()["error"].as_str().unwrap().contains(words),
            "{command} {body}: {}",
            answer.json()
        );
    }
    let bearer = bearer(Role::Operator);
    // The first of two such headers counts.
    let form = [bearer.as_str(), "Content-Type: text/plain"];
    let form = ask(server.web.address, "POST", "/api/v1/commands/pause", &form, "{}");
    assert_eq!((form.status, form.code().as_str()), (415, "content_type"));
    let foreign = [bearer.as_str(), "Origin: http://evil.example"];
    let foreign = ask(server.web.address, "POST", "/api/v1/commands/pause", &foreign, "{}");
    assert_eq!((foreign.status, foreign.code().as_str()), (403, "origin"));
    assert!(server.commanded.lock().unwrap().is_empty(), "nothing of it reached the line");
}

#[test]
fn before_the_cameras_are_open_it_says_starting() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap());
    tokens::put(&store, Role::Operator);
    let probe = Box::new(|| Health { alive: true, sinks: vec![], commands: true });
    let web = Web::start(options(dir.path()), store, Box::new(Vec::new), probe).unwrap();
    let bearer = bearer(Role::Operator);
    let answer = ask(web.address, "POST", "/api/v1/commands/trigger", &[&bearer], "{}");
    assert_eq!((answer.status, answer.code().as_str()), (503, "starting"));
}

#[test]
fn the_cameras_are_shown_with_what_they_were_commanded() {
    let server = Server::start(0);
    assert_eq!(server.get("/api/v1/cameras", Role::Viewer).json(), json!([]), "none is open yet");
    let line = LineState {
        pipeline: "photo".into(),
        pipeline_version: "0a1b2c3d4e5f".into(),
        pipeline_by: "http:anna".into(),
        paused: true,
        paused_by: "mqtt".into(),
        since: "2026-01-01T00:00:00.000Z".into(),
    };
    let status = CameraStatus { state: CameraState::Fault, reason: "no picture".into(), line };
    server.web.show_cameras(Box::new(move || vec![("cam1".into(), status.clone())]), Box::new(|_| vec![]));
    let answer = server.get("/api/v1/cameras", Role::Viewer);
    let expected = json!([{"id": "cam1", "state": "fault", "reason": "no picture", "pipeline": "photo",
        "pipeline_version": "0a1b2c3d4e5f", "pipeline_by": "http:anna", "paused": true, "paused_by": "mqtt",
        "since": "2026-01-01T00:00:00.000Z", "warnings": []}]);
    assert_eq!((answer.status, answer.json()), (200, expected));
}

#[test]
fn each_camera_has_the_warnings_about_the_recipe_that_it_runs() {
    let server = Server::start(0);
    let runs = server.run_recipes(&[("cam1", "blind"), ("cam2", "sound"), ("cam3", "")]);
    let warnings = || {
        let cameras = server.get("/api/v1/cameras", Role::Viewer).json();
        ["cam1", "cam2", "cam3"].map(|id| {
            let camera = cameras.as_array().unwrap().iter().find(|camera| camera["id"] == id);
            camera.unwrap()["warnings"].clone()
        })
    };
    let blind = json!([
        {"file": "pipelines/blind.toml", "line": 12, "key": "tiling.tile_px", "value": "8192",
            "message": "it cannot be relied on to see a defect below 1024 px"},
        {"file": "pipelines/blind.toml", "line": 1, "key": "prompt", "value": "",
            "message": "<img src=x onerror=alert(1)>"},
    ]);
    assert_eq!(warnings(), [blind.clone(), json!([]), json!([])]);
    // Another recipe is commanded, and then the first again.
    runs.change("cam1", "sound");
    assert_eq!(warnings(), [json!([]), json!([]), json!([])]);
    runs.change("cam2", "blind");
    assert_eq!(warnings(), [json!([]), blind, json!([])]);
}

/// Whoever reads the document may rely on every key being there.
#[test]
fn the_document_says_that_warnings_are_always_there() {
    let document = serde_json::to_value(api::document()).unwrap();
    let schemas = &document["components"]["schemas"];
    let required = |name: &str| schemas[name]["required"].as_array().unwrap().clone();
    assert!(required("Camera").contains(&json!("warnings")), "{}", schemas["Camera"]);
    assert_eq!(schemas["Camera"]["properties"]["warnings"]["type"], "array");
    assert_eq!(required("Warning"), ["file", "line", "key", "value", "message"]);
}
