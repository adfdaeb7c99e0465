//! The whole station with servers: one of two is killed under it, and nothing is lost.

use crate::broker::{Broker, Subscriber, until};
use crate::http;
use crate::scripted::{Act, Script, Server};
use crate::station::{PREFIX, Station, results, signal, wait};
use crate::tokens::{self, bearer};
use inspectd::publish::mqtt::dialect::json::message::RESULT_JSON_SCHEMA;
use inspectd::web::auth::Role;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// A station with one camera whose model is on these servers.
fn station(port: u16, servers: &[&Server], count: &str) -> Station {
    let camera = format!(
        "[[camera]]\nid = \"cam1\"\npipeline = \"photo\"\nsource = \"simulator\"\nwidth_px = 612\n\
         height_px = 512\n{count}\n"
    );
    let station = Station::new(port, &camera);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
    let files = format!(
        "text = \"{0}/inspectd-small.gguf\"\nmmproj = \"{0}/mmproj-inspectd-small.gguf\"",
        model.display()
    );
    let urls: Vec<_> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
    station.edit(&files, &format!("remote = [{}]", urls.join(", ")));
    station
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_a_running_station_loses_no_part() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let (mut first, second) =
        (Server::start(Script::says("[]", 0.99)), Server::start(Script::says("[]", 0.99)));
    let station = station(broker.port, &[&first, &second], "");
    let mut daemon = station.start();
    until("both servers have been asked", || first.asked() > 0 && second.asked() > 0).await;
    // It holds a question of a part when it dies: the part cannot be finished before.
    first.tell(|script| script.act = Act::Stalls);
    let before = first.asked();
    until("it has a question that it does not answer", || first.asked() > before).await;
    let seen = results(&subscriber.heard()).len();
    first.kill();
    until("five more parts are published", || results(&subscriber.heard()).len() >= seen + 5).await;
    signal(daemon.id(), libc::SIGTERM);
    let status = wait(&mut daemon, "the daemon has ended").await;
    assert!(status.success(), "{}", station.log());
    let verified = station.store().verify().unwrap();
    assert_eq!(verified.broken_at, None);
    let all = verified.inspections as usize;
    until("all results have arrived", || results(&subscriber.heard()).len() >= all).await;
    let found = results(&subscriber.heard());
    assert_eq!(found.len(), all, "none is lost, and none judged twice");
    let schema = serde_json::from_str(RESULT_JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (seq, result) in (1..).zip(&found) {
        assert!(validator.is_valid(result), "{result}");
        assert_eq!((&result["seq"], &result["verdict"]), (&json!(seq), &"pass".into()), "{result}");
        let model = &result["model"];
        assert!(
            model["name"].as_str().unwrap().starts_with("qwen (remote, vllm 0.15.0 at 127.0.0.1:"),
            "{model}"
        );
    }
    let alarm = subscriber.heard().into_iter().find(|m| {
        m.topic == format!("{PREFIX}/alarm/engine")
            && m.json()["message"].as_str().is_some_and(|s| s.contains("1 of 2"))
    });
    let alarm = alarm.unwrap_or_else(|| panic!("no alarm names the server: {}", station.log())).json();
    assert!(alarm["message"].as_str().unwrap().contains(&first.port.to_string()), "{alarm}");
}

/// Another model at the same address is refused, as another pair of files is.
#[tokio::test(flavor = "multi_thread")]
async fn another_model_behind_the_address_judges_nothing() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let server = Server::start(Script::says("[]", 0.99));
    let station = station(broker.port, &[&server], "count = 1");
    assert!(wait(&mut station.start(), "the first run ends").await.success(), "{}", station.log());
    server.tell(|script| script.size = 2);
    station.edit("count = 1", "count = 1\nseed = 7");
    assert!(wait(&mut station.start(), "the second run ends").await.success(), "{}", station.log());
    until("both results have arrived", || results(&subscriber.heard()).len() >= 2).await;
    let found = results(&subscriber.heard());
    assert_eq!((&found[0]["verdict"], &found[1]["verdict"]), (&"pass".into(), &"review".into()));
    let log = station.log();
    assert!(log.contains("not those that were accepted"), "{log}");
}

#[test]
fn inspect_asks_the_servers_of_the_config() {
    let server = Server::start(Script::says("[]", 0.99));
    let station = station(9, &[&server], "");
    let picture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.args(arguments).arg("--config").arg(station.config()).output().unwrap()
    };
    let out = run(&["inspect", "--json", "--pipeline", "photo", picture.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let result: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(result["verdict"], "pass", "{result}");
    assert!(server.asked() > 0);
    let out = run(&["check"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.contains(&server.url()), "{said}");
}

/// A server's answer is checked as a whole, so that a program that wants a stream hears one piece.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_who_wants_a_stream_hears_the_whole_answer_in_one_piece() {
    let server = Server::start(Script::says("[]", 0.99));
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let station = station(9, &[&server], &format!("[web]\nlisten = \"{page}\"\nmodel_api = true"));
    tokens::put(&station.store(), Role::Model);
    let _daemon = station.start();
    until("the page answers", || TcpStream::connect(page).is_ok()).await;
    let model =
        || http::ask(page, "GET", "/v1/models", &[&bearer(Role::Model)], "").json()["data"][0]["id"].clone();
    until("the model is served", || model().is_string()).await;
    let turns = json!([{ "role": "user", "content": "How many pits are there?" }]);
    let question =
        json!({ "model": model(), "max_tokens": 16, "stream": true, "messages": turns }).to_string();
    let answer = http::ask(page, "POST", "/v1/chat/completions", &[&bearer(Role::Model)], &question);
    let said = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{said}");
    let data: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{said}");
    let chunks = data[..data.len() - 1].iter().map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
    let pieces: Vec<String> = chunks
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    // What the script says to every question without a recipe's form.
    assert_eq!(pieces, ["", "0"], "{said}");
}
