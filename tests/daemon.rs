//! The real binary with a real mosquitto: parts come in, results arrive, and ends of every kind lose
//! nothing.

#[path = "common/broker.rs"]
mod broker;

use broker::{until, Broker, Message, Subscriber};
use inspectd::mqtt::message::RESULT_JSON_SCHEMA;
use inspectd::store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PREFIX: &str = "inspectd/test/body/line1/st10";

/// A directory with a config, and what the daemon keeps there.
struct Station {
    dir: tempfile::TempDir,
    port: u16,
}

impl Station {
    /// `camera` are the lines of the only `[[camera]]` behind its id and pipeline.
    fn new(port: u16, camera: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let config = format!(
            r#"
pipelines_dir = "{pipelines}"
[station]
root = "inspectd"
site = "test"
area = "body"
line = "line1"
station = "st10"
[model]
text = "{model}/inspectd-small.gguf"
mmproj = "{model}/mmproj-inspectd-small.gguf"
[[camera]]
id = "cam1"
pipeline = "any-part"
{camera}
[store]
dir = "{store}"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
"#,
            pipelines = root.join("pipelines").display(),
            model = root.join("fixtures/model").display(),
            store = dir.path().join("store").display(),
        );
        std::fs::write(dir.path().join("inspectd.toml"), config).unwrap();
        Self { dir, port }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("inspectd.toml")
    }

    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.arg("run").arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }

    fn start(&self) -> Child {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        self.command().stderr(log).spawn().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("store"), StoreOptions::default()).unwrap()
    }
}

fn results(messages: &[Message]) -> Vec<serde_json::Value> {
    let is_result = |m: &&Message| m.topic == format!("{PREFIX}/result");
    messages.iter().filter(is_result).map(Message::json).collect()
}

async fn wait(child: &mut Child, what: &str) -> std::process::ExitStatus {
    let mut status = None;
    until(what, || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

const SIMULATOR: &str = "source = \"simulator\"\nwidth_px = 1224\nheight_px = 1024\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_a_run_is_published_and_stored() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = Station::new(broker.port, &format!("{SIMULATOR}count = 4"));
    let status = wait(&mut station.start(), "the daemon has inspected its four parts").await;
    assert!(status.success(), "{}", station.log());
    until("all results and the stopped status have arrived", || {
        let stopped = subscriber.newest("st10/status").is_some_and(|s| s["state"] == "stopped");
        stopped && results(&subscriber.heard()).len() >= 4
    })
    .await;
    let messages = subscriber.heard();
    let found = results(&messages);
    let schema: serde_json::Value = serde_json::from_str(RESULT_JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (i, result) in found.iter().enumerate() {
        let errors: Vec<String> = validator.iter_errors(result).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(result["seq"], i as u64 + 1);
        assert_eq!(result["tiles"]["planned"], result["tiles"]["inspected"]);
        assert!(result["part_id"].as_str().unwrap().starts_with("SN"));
    }
    let states: Vec<_> = messages
        .iter()
        .filter(|m| m.topic == format!("{PREFIX}/status"))
        .map(|m| m.json()["state"].clone())
        .collect();
    assert_eq!(states, ["online", "stopped"]);
    assert!(messages.iter().any(|m| m.topic == format!("{PREFIX}/camera/cam1/status")));
    let store = station.store();
    let verified = store.verify().unwrap();
    assert_eq!((verified.inspections, verified.broken_at, store.outbox_len()), (4, None, 0));
    for result in &found {
        let sha256 = result["image"]["sha256"].as_str().unwrap();
        let image = std::fs::read(store.image_path(sha256).unwrap()).unwrap();
        assert_eq!(image.len() as u64, result["image"]["bytes"].as_u64().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_kill_loses_nothing() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = Station::new(broker.port, SIMULATOR);
    let mut killed = 0;
    for round in 1..=3 {
        let mut child = station.start();
        let seen = results(&subscriber.heard()).len();
        until("two more parts are published", || results(&subscriber.heard()).len() >= seen + 2).await;
        if round < 3 {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        } else {
            signal(&child, libc::SIGTERM);
            assert!(wait(&mut child, "SIGTERM is obeyed").await.success(), "{}", station.log());
        }
    }
    assert_eq!(killed, 2);
    let store = station.store();
    let verified = store.verify().unwrap();
    assert_eq!((verified.broken_at, store.outbox_len()), (None, 0));
    // At least once: a message may come twice, then with the same bytes; none is missing.
    let mut by_seq: BTreeMap<u64, serde_json::Value> = BTreeMap::new();
    until("every stored inspection has arrived", || {
        results(&subscriber.heard()).iter().filter_map(|r| r["seq"].as_u64()).max() >= verified.last_seq
    })
    .await;
    for result in results(&subscriber.heard()) {
        let seq = result["seq"].as_u64().unwrap();
        let first = by_seq.entry(seq).or_insert_with(|| result.clone());
        assert_eq!(*first, result, "seq {seq} came with other bytes");
    }
    assert_eq!(by_seq.len() as u64, verified.inspections);
    for (seq, result) in by_seq {
        assert_eq!(store.get(seq).unwrap().unwrap().inspection.id, result["inspection_id"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_pictures_with_a_bad_one_among_them() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let pictures = tempfile::tempdir().unwrap();
    let made = run(&[
        "simulate",
        "--count",
        "3",
        "--width",
        "700",
        "--height",
        "600",
        "--out",
        &pictures.path().display().to_string(),
    ]);
    assert!(made.status.success(), "{made:?}");
    let dir = pictures.path().join("images");
    std::fs::write(dir.join("000001a.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
    let station = Station::new(
        broker.port,
        &format!("source = \"folder\"\nwatch = false\npath = \"{}\"", dir.display()),
    );
    let status = wait(&mut station.start(), "the folder is done").await;
    assert!(status.success(), "{}", station.log());
    assert!(station.log().contains("000001a.png"), "the bad picture is named: {}", station.log());
    until("three results", || results(&subscriber.heard()).len() == 3).await;
    assert_eq!(station.store().verify().unwrap().inspections, 3);
    let faults = |m: &Message| m.json()["state"] == "fault";
    assert!(subscriber.on("camera/cam1/status").iter().any(faults));
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inspectd")).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_cannot_start_says_why() {
    let station = Station::new(1, SIMULATOR);
    station.edit("[store]", "[store]\nmax_byte = 7");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{words}");
    assert!(words.contains("inspectd.toml:") && words.contains("max_byte"), "{words}");
    station.edit("max_byte = 7", "");
    station.edit("mmproj-inspectd-small.gguf", "nowhere.gguf");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{words}");
    assert!(words.contains("nowhere.gguf"), "{words}");
    station.edit("nowhere.gguf", "inspectd-small.gguf");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && words.contains("general.architecture"), "{words}");
    assert_eq!(station.port, 1);
}
