//! The model that was proven is the model that runs, from outside: files that change under the daemon, and files that
//! were damaged before somebody accepted them.

use super::{PIPELINE, Plc, SIMULATOR, camera};
use crate::broker::{Broker, until};
use crate::shipped::{Pair, TEXT, VISION, blinded};
use crate::station::{Station, engine, signal, wait};
use inspectd::domain::review::{Decided, Decision};
use inspectd::simulator::{Mix, tile};
use inspectd::store::Store;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A station whose model is a copy of the shipped pair.
fn station(port: u16, sections: &str, pair: &Pair) -> Station {
    let station = Station::new(port, sections);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
    let copy = pair.path("");
    station.edit(&format!("{}/", shipped.display()), &format!("{}", copy.display()));
    station
}

/// Triggers a part and waits for its result.
async fn inspect(plc: &Plc, part: &str) -> Value {
    let ack = plc.command("trigger", json!({ "part_id": part })).await;
    assert_eq!(ack["accepted"], true, "{ack}");
    plc.result(part).await
}

/// Whether the model has seen the part.
fn is_inspected(result: &Value) -> bool {
    result["tiles"] == json!({"planned": 1, "inspected": 1})
}

fn reason(result: &Value) -> &str {
    result["reason"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_exchanged_under_the_daemon_does_not_answer_until_it_is_back() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let pair = Pair::new();
    let station = station(broker.port, &camera("cam1", SIMULATOR), &pair);
    let mut daemon = station.start();
    plc.until_listening().await;
    let sound = pair.bytes(VISION);
    assert!(is_inspected(&inspect(&plc, "A").await), "{}", station.log());

    pair.exchange(VISION, &blinded(&sound));
    signal(engine(daemon.id()).expect("the engine runs"), libc::SIGKILL);
    let alarm = || plc.heard.newest("alarm/model_changed").map(|a| a["state"].clone());
    // The first may still be the loss of the engine that was killed.
    for n in 0..3 {
        let result = inspect(&plc, &format!("B{n}")).await;
        assert_eq!(result["verdict"], "review", "{result}");
        assert!(n == 0 || reason(&result).contains("are not those that were accepted"), "{result}");
        assert!(!is_inspected(&result), "{result}");
    }
    until("the alarm is raised", || alarm() == Some("raised".into())).await;

    pair.exchange(VISION, &sound);
    let mut parts = (0..20).map(|n| format!("C{n}"));
    loop {
        let result = inspect(&plc, &parts.next().expect("the files are back, and it does not answer")).await;
        if is_inspected(&result) {
            break;
        }
        assert_eq!(result["verdict"], "review", "{result}");
    }
    until("the alarm is cleared", || alarm() == Some("cleared".into())).await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}

/// Pictures of each kind that the line inspects before somebody decides about them: more than are asked, because the
/// model is not sure of all.
const PICTURES: usize = 16;

/// Writes rendered tiles: `bad-….png` have defects, `good-….png` have none.
pub(crate) fn render(dir: &Path) {
    let mut counts = [0; 2];
    for seed in 1.. {
        let (rgb, truth) = tile(970_000, seed, 256, 256, Mix::Defect);
        let is_bad = !truth.defects.is_empty();
        let count = &mut counts[usize::from(is_bad)];
        if *count < PICTURES {
            *count += 1;
            let name = if is_bad { "bad" } else { "good" };
            let picture = image::RgbImage::from_raw(256, 256, rgb).unwrap();
            picture.save(dir.join(format!("{name}-{seed}.png"))).unwrap();
        }
        if counts == [PICTURES; 2] {
            return;
        }
    }
}

/// Decides about every part as it is known to be.
pub(crate) fn decide(store: &Store) {
    for stored in store.newest_first() {
        let inspection = stored.unwrap().inspection;
        let verdict = if inspection.origin.contains("bad-") { Decided::Fail } else { Decided::Pass };
        let decision = Decision {
            verdict,
            reason: "as rendered".into(),
            note: String::new(),
            findings: None,
            texts: None,
        };
        store.review(&inspection.id, "anna", decision, None).unwrap();
    }
}

fn accept(station: &Station) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    let out = command.args(["model", "accept", "--config"]).arg(station.config()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_that_somebody_accepted_are_not_let_in_because_confirmed_parts_do_not_hold() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (pair, pictures) = (Pair::new(), tempfile::tempdir().unwrap());
    // The key by which the text file names its proof becomes one that nobody knows.
    let (mut text, key) = (pair.bytes(TEXT), b"inspectd.proof");
    let at = text.windows(key.len()).position(|bytes| bytes == key).expect("it names its proof");
    text[at..at + key.len()].copy_from_slice(b"inspectd.prxxf");
    pair.exchange(TEXT, &text);
    let sound = pair.bytes(VISION);
    render(pictures.path());
    let folder = format!(
        "[[camera]]\nid = \"cam1\"\n{PIPELINE}source = \"folder\"\nwatch = false\npath = \"{}\"\n",
        pictures.path().display()
    );
    let station = station(broker.port, &folder, &pair);
    let status = wait(&mut station.start(), "the folder is done").await;
    assert!(status.success() && station.log().contains("only its hashes say"), "{}", station.log());
    let store = station.store();
    assert_eq!(store.newest_first().count(), 2 * PICTURES);
    decide(&store);
    drop(store);

    station.edit(&folder, &camera("cam1", SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;
    assert!(is_inspected(&inspect(&plc, "A").await), "{}", station.log());
    let told = |log: &str| {
        let (before, _) = log.split_once(" pictures of confirmed parts held").expect("it is said");
        before.rsplit("INFO ").next().unwrap().trim().to_owned()
    };
    let log = station.log();
    let (held, of) = told(&log).split_once(" of ").map(|(n, of)| (n.to_owned(), of.to_owned())).unwrap();
    let held: usize = held.parse().unwrap();
    assert!(of == "12" && held > 6, "{log}");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());

    pair.exchange(VISION, &blinded(&sound));
    accept(&station);
    let mut daemon = station.start();
    plc.until_listening().await;
    for n in 0..3 {
        let result = inspect(&plc, &format!("B{n}")).await;
        assert_eq!(result["verdict"], "review", "{result}");
        assert!(reason(&result).contains("of 6 defective pictures of confirmed parts"), "{result}");
        assert!(!is_inspected(&result), "{result}");
    }
    let alarm = |code: &str| plc.heard.newest(&format!("alarm/{code}")).map(|a| a["state"].clone());
    until("the alarm of the engine is raised", || alarm("engine") == Some("raised".into())).await;
    assert_ne!(alarm("model_changed"), Some("raised".into()), "its hashes are accepted");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());

    pair.exchange(VISION, &sound);
    accept(&station);
    let mut daemon = station.start();
    plc.until_listening().await;
    assert!(is_inspected(&inspect(&plc, "C").await), "{}", station.log());
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}
