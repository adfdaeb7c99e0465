//! What a station must still know after a kill: what it was commanded, which triggers it has accepted, and the fate
//! of files.

use super::{Plc, SIMULATOR, camera, housing};
use crate::broker::{Broker, until};
use crate::station::{PREFIX, Station, signal, wait};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The newest status of a camera.
fn status(plc: &Plc) -> Value {
    plc.heard.newest("camera/cam1/status").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_pipeline_hold_over_a_kill_and_are_said() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;
    until("the config's pipeline is said", || status(&plc)["pipeline"] == "examples-defects").await;
    // No camera names it.
    assert_eq!(plc.command("pipeline", json!({"pipeline": "photo"})).await["accepted"], true);
    assert_eq!(plc.command("pause", json!({"camera": "cam1"})).await["accepted"], true);
    let is_held = |s: &Value| s["pipeline"] == "photo" && s["paused"] == true && s["state"] == "ready";
    until("it is said", || is_held(&status(&plc))).await;
    let said = status(&plc);
    assert_eq!((&said["paused_by"], &said["pipeline_by"]), (&"mqtt".into(), &"mqtt".into()));
    let version = said["pipeline_version"].as_str().unwrap().to_owned();
    assert!(version.len() == 12 && said["since"].as_str().unwrap().ends_with('Z'), "{said}");

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let late = Plc::new(broker.port).await;
    let mut daemon = station.start();
    until("a start says the same", || is_held(&status(&late)) && status(&late)["ts"] != said["ts"]).await;
    assert_eq!(status(&late)["since"], said["since"]);
    // Until the station listens nobody hears it, and it may be said again.
    let mut asked = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    until("a trigger is refused", || {
        if asked.elapsed() > Duration::from_millis(200) {
            asked = Instant::now();
            late.send("trigger", json!({"part_id": "P1"}).to_string());
        }
        late.heard.on("/cmd/ack").iter().any(|m| m.json()["code"] == "paused")
    })
    .await;
    assert_eq!(late.command("resume", json!({})).await["accepted"], true);
    assert_eq!(late.command("trigger", json!({"part_id": "P2"})).await["accepted"], true);
    assert_eq!(late.result("P2").await["pipeline"], format!("photo@{version}"));
    until("that is said, too", || status(&late)["paused"] == false && status(&late)["paused_by"] == "").await;
    let unknown = late.command("pipeline", json!({"pipeline": "nowhere"})).await;
    assert!(unknown["reason"].as_str().unwrap().contains("any-part"), "all of the folder: {unknown}");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_comes_again_is_inspected_once_even_after_a_kill() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;
    let words = json!({"part_id": "P1", "correlation_id": "c1"});
    let send = || plc.send("trigger", words.to_string());
    let answers = || plc.heard.on("/cmd/ack").iter().filter(|m| m.json()["correlation_id"] == "c1").count();
    (0..3).for_each(|_| send());
    until("each has its answer", || answers() == 3).await;
    plc.result("P1").await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut daemon = station.start();
    plc.until_listening().await;
    send();
    until("it is answered as before", || answers() == 4).await;
    let all = plc.heard.on("/cmd/ack");
    assert!(all.iter().map(|m| m.json()).all(|a| a["correlation_id"] != "c1" || a["accepted"] == true));
    plc.send("trigger", json!({"part_id": "P2", "correlation_id": "c1"}).to_string());
    until("another part under its name is refused", || {
        plc.heard.on("/cmd/ack").iter().any(|m| m.json()["code"] == "repeated")
    })
    .await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert_eq!(station.store().newest_first().count(), 1);
}

/// The first start after the kill has no room on its disk, so that the lost view is recorded by the second only.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_decided_once_when_the_disk_is_full_at_the_start() {
    const FREE: &str = "free_bytes_min = 8388608";
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let inbox = tempfile::tempdir().unwrap();
    let side = format!("source = \"folder\"\npath = \"{}\"\n", inbox.path().display());
    let station = Station::new(broker.port, &housing(&side));
    let mut daemon = station.start();
    plc.until_listening().await;
    plc.command("trigger", json!({"part": "housing", "part_id": "P1", "deadline_ms": 600_000})).await;
    plc.result("P1").await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    station.edit(FREE, "free_bytes_min = 9000000000000000");
    let mut daemon = station.start();
    until("the disk is full", || {
        plc.heard.newest("alarm/store_full").is_some_and(|a| a["state"] == "raised")
    })
    .await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    station.edit("free_bytes_min = 9000000000000000", FREE);
    let mut daemon = station.start();
    let part = plc.part("P1").await;
    assert!(part["views"].as_array().unwrap().iter().all(|v| v["inspection_id"].is_string()), "{part}");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let mut verdicts: Vec<_> = plc.heard.on("st10/part").iter().map(|m| m.json()).collect();
    verdicts.dedup();
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
}

/// What the log says while a daemon starts, in this order.
const MOMENTS: [&str; 4] = ["effective config", "store open", "model loaded", "inspecting"];

/// Each start has a part to decide about that a killed process has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_of_a_start_is_obeyed_and_a_part_is_decided_once() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let inbox = tempfile::tempdir().unwrap();
    let side = format!("source = \"folder\"\npath = \"{}\"\n", inbox.path().display());
    let station = Station::new(broker.port, &housing(&side));
    let mut parts = vec![];
    for moment in MOMENTS {
        let mut daemon = station.start();
        plc.until_listening().await;
        plc.command("trigger", json!({"part": "housing", "part_id": moment, "deadline_ms": 600_000})).await;
        plc.result(moment).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        parts.push(moment);
        let mut daemon = station.start();
        until(moment, || station.log().contains(moment)).await;
        signal(daemon.id(), libc::SIGTERM);
        assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{moment}: {}", station.log());
    }
    let mut daemon = station.start();
    for part in &parts {
        let views = plc.part(part).await["views"].clone();
        assert!(views.as_array().unwrap().iter().all(|v| v["inspection_id"].is_string()), "{views}");
    }
    // The starts before may have decided about all of them.
    until("it hears signals", || station.log().contains(MOMENTS[0])).await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let mut verdicts: Vec<_> = plc.heard.on("st10/part").iter().map(|m| m.json().to_string()).collect();
    verdicts.sort();
    verdicts.dedup();
    assert_eq!(verdicts.len(), parts.len(), "{verdicts:?}");
    assert_eq!(station.store().newest_first().count(), 2 * parts.len(), "each view once");
}

/// Files that come while the daemon is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_done_exactly_when_its_trigger_was_accepted() {
    const ROUNDS: u64 = 8;
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let folder = tempfile::tempdir().unwrap();
    let section = format!("[trigger]\ndir = \"{}\"\n", folder.path().display());
    let station = Station::new(broker.port, &(camera("cam1", SIMULATOR) + &section));
    let put = |name: String| {
        std::fs::write(folder.path().join(".new"), json!({"part_id": name}).to_string()).unwrap();
        std::fs::rename(folder.path().join(".new"), folder.path().join(format!("{name}.json"))).unwrap();
    };
    for round in 0..ROUNDS {
        let mut daemon = station.start();
        (0..3).for_each(|n| put(format!("a{round}-{n}")));
        plc.until_listening().await;
        (0..6).for_each(|n| put(format!("b{round}-{n}")));
        tokio::time::sleep(Duration::from_millis(60 + 25 * round)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    let mut daemon = station.start();
    let waiting = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".json")).count()
    };
    until("no file waits", || waiting() == 0).await;
    let in_taken = || std::fs::read_dir(folder.path().join("taken")).unwrap().count();
    until("each has its fate", || in_taken() == 0).await;
    // Before that the start may leave what was interrupted to the next one.
    plc.until_listening().await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let mut inspected: BTreeMap<String, usize> = BTreeMap::new();
    for stored in station.store().newest_first() {
        *inspected.entry(stored.unwrap().inspection.trigger.part_id.unwrap()).or_default() += 1;
    }
    assert!(inspected.values().all(|n| *n == 1), "{inspected:?}");
    let mut files = 0;
    for (fate, times) in [("done", 1), ("refused", 0)] {
        for entry in std::fs::read_dir(folder.path().join(fate)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                files += 1;
                let part = path.file_stem().unwrap().to_str().unwrap();
                assert_eq!(inspected.get(part).copied().unwrap_or(0), times, "{fate}/{part}");
            }
        }
    }
    assert_eq!(files, ROUNDS * 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_trigger_is_carried_out_by_nobody_and_clearing_it_is_none() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let topic = format!("{PREFIX}/cmd/trigger");
    plc.client.publish(&topic, QoS::AtLeastOnce, true, json!({"part_id": "OLD"}).to_string()).await.unwrap();
    until("the broker has it", || !plc.heard.on("/cmd/trigger").is_empty()).await;
    let mut daemon = station.start();
    plc.ack(|ack| ack["reason"].as_str().is_some_and(|r| r.contains("retained command is old")), "it").await;
    plc.client.publish(&topic, QoS::AtLeastOnce, true, "").await.unwrap();
    plc.ack(|ack| ack["reason"].as_str().is_some_and(|r| r.contains("empty payload")), "clearing it").await;
    assert_eq!(plc.command("trigger", json!({"part_id": "P1"})).await["accepted"], true);
    plc.result("P1").await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert_eq!(station.store().newest_first().count(), 1);
}
