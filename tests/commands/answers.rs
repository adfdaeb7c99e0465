//! Who asks finds the answer: acknowledgements, results and verdicts of parts are joined by id, also where a command is
//! refused or comes again, and every message satisfies its schema.

use super::{Plc, SIMULATOR, housing, schemas};
use crate::broker::{Broker, until};
use crate::station::{PREFIX, Station, signal, wait};
use serde_json::{Value, json};

/// The acknowledgements of a correlation id, in their order.
fn acks(plc: &Plc, id: &str) -> Vec<Value> {
    let all = plc.heard.on("/cmd/ack");
    all.iter().map(|m| m.json()).filter(|ack| ack["correlation_id"] == id).collect()
}

/// Sends a message as often as it takes to have so many acknowledgements in all, and gives them without their times.
async fn answers(plc: &Plc, verb: &str, words: &Value, count: usize) -> Vec<Value> {
    let id = words["correlation_id"].as_str().unwrap();
    (acks(plc, id).len()..count).for_each(|_| plc.send(verb, words.to_string()));
    until(&format!("{id} is answered"), || acks(plc, id).len() >= count).await;
    let mut all = acks(plc, id);
    all.iter_mut().for_each(|ack| _ = ack.as_object_mut().unwrap().remove("ts"));
    all
}

/// The results of a trigger, by its id.
async fn results(plc: &Plc, trigger_id: &Value, count: usize) -> Vec<Value> {
    let found = || plc.results().into_iter().filter(|r| r["trigger_id"] == *trigger_id).collect::<Vec<_>>();
    until("its results come", || found().len() >= count).await;
    found()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_results_and_parts_are_joined_by_id() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &housing(SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;

    // A part with two views, under the sender's own id.
    let words = json!({"part": "housing", "part_id": "P1", "correlation_id": "c1"});
    let first = answers(&plc, "trigger", &words, 1).await.remove(0);
    let trigger_id = first["trigger_id"].clone();
    assert!(first["accepted"] == true && trigger_id.as_str().unwrap().len() == 26, "{first}");
    let views = results(&plc, &trigger_id, 2).await;
    assert!(views.iter().all(|r| r["correlation_id"] == "c1" && r["part_id"] == "P1"), "{views:?}");
    let part = plc.part("P1").await;
    assert_eq!((&part["correlation_id"], &part["trigger_id"]), (&"c1".into(), &trigger_id));
    until("the cameras' newest say it, too", || {
        let says = |camera: &str| {
            let last = plc.heard.newest(&format!("camera/{camera}/last"));
            last.is_some_and(|last| last["trigger_id"] == trigger_id && last["camera"] == camera)
        };
        says("top") && says("side")
    })
    .await;

    // Delivered again by a broker or a gateway: the same answer, and no picture more.
    let again = answers(&plc, "trigger", &words, 3).await;
    assert!(again.iter().all(|ack| *ack == first), "{again:?}");
    // So is a refusal, and what is no trigger.
    let unknown = json!({"camera": "cam7", "correlation_id": "c2"});
    let refused = answers(&plc, "trigger", &unknown, 2).await;
    assert_eq!((&refused[0], &refused[0]["code"]), (&refused[1], &"no_camera".into()));
    assert_eq!(refused[0]["trigger_id"], "");
    let pauses = answers(&plc, "pause", &json!({"camera": "top", "correlation_id": "c3"}), 2).await;
    assert!(pauses[0] == pauses[1] && pauses[0]["accepted"] == true, "{pauses:?}");
    let paused = json!({"part": "housing", "part_id": "P2", "correlation_id": "c4"});
    assert_eq!(answers(&plc, "trigger", &paused, 1).await[0]["code"], "paused");
    answers(&plc, "resume", &json!({"correlation_id": "c5"}), 1).await;
    assert_eq!(answers(&plc, "trigger", &paused, 2).await[1]["code"], "paused", "its part has gone by");
    // What is no command is still somebody's.
    let bogus = json!({"bogus": 1, "correlation_id": "c6"});
    assert_eq!(answers(&plc, "trigger", &bogus, 1).await[0]["code"], "malformed");

    // Without an id of its own the station's joins.
    plc.send("trigger", json!({"camera": "top", "part_id": "P3"}).to_string());
    let is_it =
        |ack: &Value| ack["correlation_id"] == "" && ack["command"] == "trigger" && ack["trigger_id"] != "";
    let nameless = plc.ack(is_it, "the trigger without an id").await;
    let own = results(&plc, &nameless["trigger_id"], 1).await.remove(0);
    assert_eq!((&own["part_id"], &own["correlation_id"]), (&"P3".into(), &Value::Null));

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut daemon = station.start();
    plc.until_listening().await;
    let after = answers(&plc, "trigger", &words, 4).await;
    assert_eq!(after[3], first, "also after a kill");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert_eq!(station.store().newest_first().count(), 3, "two views and one picture");

    let kinds = schemas::check(&plc.heard.heard(), PREFIX);
    for kind in ["ack", "alarm", "camera-status", "last", "part", "result", "status"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
}
