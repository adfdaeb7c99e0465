//! What was given up, and the command that sends it again.

use crate::broker::{Broker, until};
use crate::inspections::inspection;
use crate::station::{Station, signal, wait};
use crate::{Plc, SIMULATOR, camera};
use inspectd::store::Store;
use inspectd::store::outbox::{Cause, Kind, MQTT, Owed};
use serde_json::{Value, json};
use std::process::Command;

/// The sink `mqtt` gives up a message.
fn give_up(store: &Store, owed: Owed, cause: Cause, reason: &str) {
    let outbox = store.outbox(MQTT);
    let place = outbox.place_of(owed).unwrap().expect("it is owed");
    outbox.give_up(place, cause, reason).unwrap();
}

pub(crate) fn outbox(station: &Station, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.arg("outbox").args(words).arg("--config").arg(station.config());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_sent_again_when_the_line_is_told_so() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    tokio::task::block_in_place(|| {
        let store = station.store();
        for seq in 1..=2 {
            store.commit(&inspection(seq), None).unwrap();
            let letter = Owed { kind: Kind::Result, seq };
            give_up(&store, letter, Cause::Dropped, "every connection is dropped on it");
        }
    });
    let mut daemon = station.start();
    plc.until_listening().await;
    assert!(plc.results().is_empty());
    // From the command line, beside the running daemon.
    let beside = |words: &[&str]| tokio::task::block_in_place(|| outbox(&station, words));
    let listed: Value = serde_json::from_str(&beside(&["list", "--json"])).unwrap();
    assert_eq!(listed["dead"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(beside(&["retry", "result:2"]), "1 are owed to the broker again\n");
    until("it arrives", || plc.results().iter().any(|r| r["seq"] == 2)).await;
    // By a command.
    let refused = plc.command("retry", json!({ "camera": "cam1" })).await;
    assert_eq!((&refused["accepted"], &refused["code"]), (&false.into(), &"malformed".into()), "{refused}");
    let taken = plc.command("retry", json!({})).await;
    assert_eq!(taken["accepted"], true, "{taken}");
    until("the other arrives, too", || plc.results().iter().any(|r| r["seq"] == 1)).await;
    until("the alarm is cleared", || {
        plc.heard.newest("/alarm/result_undeliverable").is_some_and(|a| a["state"] == "cleared")
    })
    .await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert!(station.store().dead_letters().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_what_was_given_up_and_owes_it_again() {
    let station = Station::new(1883, &camera("cam1", SIMULATOR));
    {
        let store = station.store();
        for seq in 1..=3 {
            store.commit(&inspection(seq), None).unwrap();
        }
        for (seq, reason) in [(1, "2113 bytes, the limit is 334"), (2, "every connection is dropped on it")] {
            give_up(&store, Owed { kind: Kind::Result, seq }, Cause::Size, reason);
        }
    }
    let listed: Value = serde_json::from_str(&outbox(&station, &["list", "--json"])).unwrap();
    assert_eq!(listed["owed"], json!({ "result": 1, "part": 0, "review": 0 }));
    assert_eq!((&listed["dead"][1]["seq"], &listed["dead"][0]["cause"]), (&2.into(), &"size".into()));
    assert!(outbox(&station, &["list"]).contains("result:1  "), "for people, too");
    assert!(outbox(&station, &["retry", "result:2", "result:99"]).starts_with("1 "));
    assert!(outbox(&station, &["retry"]).starts_with("1 "));
    let store = station.store();
    assert_eq!((store.outbox_len(), store.dead_letters().unwrap().len()), (3, 0));
}
