//! What was given up, and the command that sends it again.

use crate::broker::{until, Broker};
use crate::inspections::inspection;
use crate::station::{signal, wait, Station};
use crate::{camera, Plc, SIMULATOR};
use inspectd::store::outbox::{Cause, Kind, Owed};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_sent_again_when_the_line_is_told_so() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    tokio::task::block_in_place(|| {
        let store = station.store();
        store.commit(&inspection(1), None).unwrap();
        let first = Owed { kind: Kind::Result, seq: 1 };
        store.dead_letter(first, Cause::Dropped, "every connection is dropped on it").unwrap();
    });
    let mut daemon = station.start();
    plc.until_listening().await;
    assert!(plc.results().is_empty());
    let words = json!({ "camera": "cam1" });
    let refused = plc.command("retry", words).await;
    assert_eq!((&refused["accepted"], &refused["code"]), (&false.into(), &"malformed".into()), "{refused}");
    let taken = plc.command("retry", json!({})).await;
    assert_eq!(taken["accepted"], true, "{taken}");
    until("it arrives", || plc.results().iter().any(|r| r["seq"] == 1)).await;
    until("the alarm is cleared", || {
        plc.heard.newest("/alarm/result_undeliverable").is_some_and(|a| a["state"] == "cleared")
    })
    .await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert!(station.store().dead_letters().unwrap().is_empty());
}
