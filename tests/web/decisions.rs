//! Decisions over HTTP, to the broker, and out again.

use super::broker::{Broker, Subscriber, until};
use super::inspections::id;
use super::server::{Server, commit, part};
use inspectd::publish::mqtt::dialect::Spoken;
use inspectd::publish::mqtt::dialect::json::message::REVIEW_JSON_SCHEMA;
use inspectd::publish::mqtt::{MqttOptions, Protocol};
use inspectd::store::outbox::{Kind, MQTT};
use inspectd::web::auth::Role;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn reviews(n: u64) -> String {
    format!("/api/v1/inspections/{}/reviews", id(n))
}

#[test]
fn the_queue_and_the_decisions_agree() {
    let server = Server::start(9);
    let list = |query: &str| server.get(&format!("/api/v1/inspections?{query}"), Role::Viewer).json();
    assert_eq!(list("")["total"], 9);
    assert_eq!(list("verdict=fail,review&label=pit")["total"], 3);
    assert_eq!(list("verdict=review&reviewed=false")["total"], 3);
    let first = server.post(
        &reviews(4),
        Role::Operator,
        &json!({"verdict": "pass", "reason": "false alarm", "findings": []}),
    );
    assert_eq!(first.status, 201, "{}", first.head);
    let first = first.json();
    assert_eq!((first["kind"].as_str(), first["actor"].as_str()), (Some("override"), Some("token:operator")));
    // A second person with an outdated page.
    let late = server.post(&reviews(4), Role::Engineer, &json!({"verdict": "fail"}));
    assert_eq!((late.status, late.code().as_str()), (409, "changed"));
    let silent = server.post(&reviews(1), Role::Operator, &json!({"verdict": "pass"}));
    assert_eq!(silent.status, 400);
    let outside = json!({"verdict": "fail", "findings": [{"label": "pit", "severity": "minor", "bbox_px": [1, 1, 300, 9]}]});
    assert_eq!(server.post(&reviews(1), Role::Operator, &outside).status, 400, "the picture is 256 wide");
    let detail = server.get(&format!("/api/v1/inspections/{}", id(4)), Role::Viewer).json();
    assert_eq!((detail["width"].as_u64(), detail["last_review"].as_u64()), (Some(256), Some(1)));
    assert_eq!(detail["decision"]["verdict"], "pass");
    assert_eq!(detail["boxes"].as_array().unwrap().len(), 1, "what the model found stays");
    assert_eq!(list("decided=pass")["items"][0]["id"], id(4));
    let undo =
        server.post(&format!("/api/v1/inspections/{}/undo", id(4)), Role::Operator, &json!({"based_on": 1}));
    assert_eq!((undo.status, undo.json()["supersedes"].as_u64()), (201, Some(1)));
    assert_eq!(list("reviewed=true")["total"], 0);
    // In bulk only what the count names.
    let bulk = |count: u64| json!({"search": {"verdict": "pass,fail"}, "action": "confirm", "count": count});
    let wrong = server.post("/api/v1/reviews/bulk", Role::Operator, &bulk(5));
    assert_eq!((wrong.status, wrong.code().as_str()), (409, "count"));
    assert_eq!(*server.store.subscribe_reviews().borrow(), 2);
    // Part 4 has entries: it is left to people, and the rest is confirmed.
    assert_eq!(server.post("/api/v1/reviews/bulk", Role::Operator, &bulk(6)).json()["decided"], 5);
    let charts = server.get("/api/v1/charts", Role::Viewer).json();
    assert_eq!(
        (charts["agreement"]["pass_pass"].as_u64(), charts["agreement"]["fail_fail"].as_u64()),
        (Some(3), Some(2))
    );
    let thumb = server.get(&format!("/api/v1/thumbs/{}", detail["image"].as_str().unwrap()), Role::Viewer);
    assert!(thumb.status == 200 && thumb.body.starts_with(b"\xff\xd8"), "{}", thumb.head);
    let verified = server.store.verify_reviews().unwrap();
    assert_eq!((verified.inspections, verified.broken_at), (7, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_reaches_the_broker_even_if_it_was_away() {
    let mut broker = Broker::start("", "").await;
    let server = Server::start(2);
    broker.kill();
    let made = server.post(
        &reviews(2),
        Role::Operator,
        &json!({"verdict": "fail", "note": "seen",
        "findings": [{"label": "crack", "severity": "critical", "bbox_px": [1.5, 2, 30, 40]}]}),
    );
    assert_eq!(made.status, 201);
    let options = MqttOptions {
        sink: "mqtt".into(),
        dialect: Spoken::Json,
        host: "127.0.0.1".into(),
        port: broker.port,
        protocol: Protocol::V5,
        client_id: "st10".into(),
        username: None,
        password: None,
        tls: None,
        prefix: "t/a".into(),
        keep_alive: Duration::from_secs(30),
        images_px: None,
    };
    let (_events, queue) = tokio::sync::mpsc::channel(1);
    let link = inspectd::publish::mqtt::spawn(options, Arc::clone(&server.store), queue, None).unwrap();
    broker.restart().await;
    let subscriber = Subscriber::new(broker.port, "t/a").await;
    // Decided after the connection stands, too. What came before the subscription went to nobody.
    until("connected", || server.store.outbox(MQTT).owed(Kind::Review, 0, 9).unwrap().entries.is_empty())
        .await;
    for (based_on, verdict) in [(1, "pass"), (2, "fail")] {
        let body = json!({"verdict": verdict, "reason": "again", "based_on": based_on});
        assert_eq!(server.post(&reviews(2), Role::Operator, &body).status, 201);
    }
    until("both have arrived", || subscriber.on("t/a/review").len() >= 2).await;
    until("nothing is owed", || {
        server.store.outbox(MQTT).owed(Kind::Review, 0, 9).unwrap().entries.is_empty()
    })
    .await;
    let schema: serde_json::Value = serde_json::from_str(REVIEW_JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for message in subscriber.on("t/a/review") {
        let json = message.json();
        let errors: Vec<String> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
        assert!(errors.is_empty() && !message.retained && message.qos == 1, "{errors:?}");
        assert_eq!(
            (json["inspection_id"].as_str(), json["actor"].as_str()),
            (Some(id(2).as_str()), Some("token:operator"))
        );
    }
    assert_eq!(subscriber.newest("t/a/review").unwrap()["verdict"], "fail", "in the order of decisions");
    link.stop().await.unwrap();
}

#[test]
fn no_wrong_picture_is_shown_and_none_is_decided_about_silently() {
    let server = Server::start(3);
    let detail = || server.get(&format!("/api/v1/inspections/{}", id(3)), Role::Viewer).json();
    let whole = detail();
    assert_eq!((&whole["picture"], &whole["width"]), (&json!("whole"), &json!(256)));
    let sha256 = whole["image"].as_str().unwrap().to_owned();
    let path = server.store.image_path(&sha256).unwrap();
    let shown = |of: &str| server.get(&format!("/api/v1/{of}/{sha256}"), Role::Viewer);
    assert_eq!((shown("images").status, shown("thumbs").status), (200, 200));
    // Another picture of the same size, under the name of this one.
    let mut other = std::fs::read(&path).unwrap();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&path, other).unwrap();
    for of in ["images", "thumbs"] {
        let answer = shown(of);
        assert_eq!((answer.status, answer.code().as_str()), (404, "picture_wrong"), "{of}");
    }
    assert_eq!((&detail()["picture"], &detail()["width"]), (&json!("wrong"), &json!(null)));
    let refused = server.post(&reviews(3), Role::Operator, &json!({"verdict": "pass"}));
    assert_eq!((refused.status, refused.code().as_str()), (409, "picture"));
    let bulk = json!({"search": {"verdict": "pass,fail"}, "action": "confirm", "count": 2});
    let left = server.post("/api/v1/reviews/bulk", Role::Operator, &bulk).json();
    assert_eq!((&left["decided"], &left["left"]), (&json!(0), &json!(2)));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(detail()["picture"], "missing");
    let explicit = json!({"verdict": "pass", "without_picture": true});
    let made = server.post(&reviews(3), Role::Operator, &explicit);
    assert_eq!((made.status, &made.json()["picture"]), (201, &json!("missing")));
    assert_eq!(detail()["reviews"][0]["picture"], "missing", "the ledger keeps it");
    let csv = server.get("/api/v1/export?format=jsonl&all=true", Role::Operator);
    let mut tar = tar::Archive::new(csv.body.as_slice());
    let names: Vec<String> =
        tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["left_out.json", "truth.jsonl"], "an export says what it leaves out");
}

pub(crate) fn inspectd(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_inspectd"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

#[test]
fn what_was_decided_is_the_truth_of_an_export_that_replay_takes() {
    let server = Server::start(5);
    let good = json!({"verdict": "pass", "reason": "nothing there", "findings": []});
    server.post(&reviews(1), Role::Operator, &good);
    let bad = json!({"verdict": "fail", "note": "=1+1", "findings":
        [{"label": "dent", "severity": "major", "bbox_px": [10, 20, 60, 80]}],
        "texts": [{"prompt": "nameplate", "line": 1, "text": "SN4821-B7"}]});
    assert_eq!(server.post(&reviews(2), Role::Operator, &bad).status, 201);
    let csv = String::from_utf8(server.get("/api/v1/export?format=csv", Role::Operator).body).unwrap();
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.contains(",'=1+1\r\n"), "no cell is a formula: {csv}");
    let coco = server.get("/api/v1/export?format=coco", Role::Operator).json();
    assert_eq!(coco["images"].as_array().unwrap().len(), 5);
    assert!(coco["categories"].as_array().unwrap().iter().any(|c| c["name"] == "dent"));
    let tar = server.get("/api/v1/export?format=jsonl", Role::Operator);
    let unpacked = tempfile::tempdir().unwrap();
    tar::Archive::new(tar.body.as_slice()).unpack(unpacked.path()).unwrap();
    let store_dir = server.dir.path().join("store").display().to_string();
    let Server { web, store, dir, .. } = server;
    drop(web);
    drop(store);
    let out = dir.path().join("export");
    let written = inspectd(&["export", "--store", &store_dir, "--out", &out.display().to_string()]);
    assert!(written.status.success(), "{written:?}");
    let read = |dir: &Path| std::fs::read_to_string(dir.join("truth.jsonl")).unwrap();
    assert_eq!(read(&out), read(unpacked.path()), "button and command agree");
    let truth = read(&out);
    let lines: Vec<serde_json::Value> = truth.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["good"], &lines[0]["texts"]), (&json!(false), &json!(["SN4821-B7"])));
    assert_eq!(lines[0]["defects"][0]["bbox"], json!([10.0, 20.0, 60.0, 80.0]));
    assert_eq!((&lines[1]["good"], &lines[1]["defects"]), (&json!(true), &json!([])));
    let replayed =
        inspectd(&["replay", &out.display().to_string(), "--pipeline", "examples-defects", "--json"]);
    assert!(replayed.status.success(), "{replayed:?}");
    let figures: serde_json::Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!((&figures["images"], &figures["image"]["defective"]), (&json!(2), &json!(1)));
    let verified = inspectd(&["verify", "--store", &store_dir, "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&found["reviews"]["entries"], &found["reviews"]["broken_at"]), (&json!(2), &json!(null)));
}

#[test]
fn what_is_new_comes_over_the_stream() {
    use std::io::{Read, Write};
    let server = Server::start(1);
    let mut stream = std::net::TcpStream::connect(server.web.address).unwrap();
    let bearer = super::tokens::bearer(Role::Viewer);
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut heard = String::new();
    let mut wait_for = |what: &str| {
        let mut piece = [0; 4096];
        while !heard.contains(what) {
            let n = stream.read(&mut piece).unwrap_or_else(|e| panic!("{what}: {e}: {heard}"));
            heard.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    };
    wait_for("event: hello");
    commit(&server.store, &part(2));
    wait_for("event: inspection");
    wait_for(&id(2));
    server.post(&reviews(2), Role::Operator, &json!({"verdict": "fail"}));
    wait_for("event: review");
    wait_for("\"verdict\":\"fail\"");
}
