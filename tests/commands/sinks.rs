//! Two brokers of one station: each has all results, and commands come from the second only where the config says so.

use crate::broker::{Broker, until};
use crate::outbox::outbox;
use crate::station::{Station, signal, wait};
use crate::{Plc, SIMULATOR, camera};
use serde_json::{Value, json};

fn sink(name: &str, port: u16, keys: &str) -> String {
    format!("[sink.{name}]\nkind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\n{keys}\n")
}

async fn stop(station: &Station, daemon: &mut std::process::Child) {
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_have_all_results_and_commands_come_from_those_that_may_command() {
    let (first, second) = (Broker::start("", "").await, Broker::start("", "").await);
    let (plc, erp) = (Plc::new(first.port).await, Plc::new(second.port).await);
    let sections = camera("cam1", SIMULATOR) + &sink("erp", second.port, "commands = true");
    let station = Station::new(first.port, &sections);
    let mut daemon = station.start();
    plc.until_listening().await;
    erp.until_listening().await;
    assert_eq!(plc.command("trigger", json!({ "part_id": "P1" })).await["accepted"], true);
    assert_eq!(erp.command("trigger", json!({ "part_id": "P2" })).await["accepted"], true);
    for part in ["P1", "P2"] {
        assert_eq!(plc.result(part).await, erp.result(part).await, "the same message");
    }
    for broker in [&plc, &erp] {
        until("both say that the station is there", || {
            broker.heard.newest("st10/status").is_some_and(|s| s["state"] == "online")
        })
        .await;
        until("both say how the second sink is", || {
            broker.heard.newest("/alarm/result_refused_erp").is_some_and(|a| a["state"] == "cleared")
        })
        .await;
    }
    let beside = |words: &[&str]| tokio::task::block_in_place(|| outbox(&station, words));
    until("nothing is owed", || {
        let listed: Value = serde_json::from_str(&beside(&["list", "--json"])).unwrap();
        let sinks = listed["sinks"].as_object().unwrap();
        sinks.len() == 2 && sinks.values().all(|s| s["owed"]["result"] == 0)
    })
    .await;
    assert!(beside(&["list", "--sink", "erp"]).starts_with("0 given up"));
    assert_eq!(beside(&["retry", "--sink", "erp"]), "0 are owed to the broker again\n");
    stop(&station, &mut daemon).await;

    // Without the word it hears no command; without the section it misses nothing yet, and is told of nothing.
    station.edit("commands = true", "");
    let mut daemon = station.start();
    plc.until_listening().await;
    erp.send("trigger", json!({ "part_id": "P3" }).to_string());
    assert_eq!(plc.command("trigger", json!({ "part_id": "P4" })).await["accepted"], true);
    erp.result("P4").await;
    assert!(plc.results().iter().all(|r| r["part_id"] != "P3"), "nobody heard it");
    stop(&station, &mut daemon).await;
    station.edit(&sink("erp", second.port, ""), "");
    let mut daemon = station.start();
    plc.until_listening().await;
    assert_eq!(plc.command("trigger", json!({ "part_id": "P5" })).await["accepted"], true);
    plc.result("P5").await;
    stop(&station, &mut daemon).await;
    assert!(station.log().contains("is not in the config any more"), "{}", station.log());
    let sinks = station.store().sinks().unwrap();
    let erp = sinks.iter().find(|sink| sink.name == "erp").unwrap();
    assert_eq!((erp.enabled, erp.owed, erp.missed), (false, [1, 0, 0], 0), "it keeps its place");
}
