//! Commands by NCMD and DCMD to the real binary, whose first broker is spoken to in JSON and whose second in Sparkplug:
//! what is accepted becomes a result on both, what is not is refused with its reason, and a kill is over when the node is
//! born under the next number.

use crate::broker::{Broker, until};
use crate::sparkplug_rules::{Host, Listener, Said};
use crate::station::{Station, signal, wait};
use crate::{Plc, SIMULATOR, camera, node};
use inspectd::publish::mqtt::sparkplug::metrics::BD_SEQ;
use inspectd::publish::mqtt::sparkplug::payload::Wire;
use std::time::{Duration, Instant};

const GROUP: &str = "test-body";
const NODE_ID: &str = "line1-st10";
const NCMD: &str = "test-body/NCMD/line1-st10";
const DCMD: &str = "test-body/DCMD/line1-st10/cam1";

fn sink(port: u16) -> String {
    format!(
        "[sink.scada]\nkind = \"mqtt\"\ndialect = \"sparkplug\"\nurl = \"mqtt://127.0.0.1:{port}\"\ncommands = true\n"
    )
}

fn word(text: &str) -> Wire {
    Wire::String(text.into())
}

const YES: Wire = Wire::Boolean(true);

/// The answer to a command, by its id.
async fn answer(listener: &Listener, id: &str) -> Said {
    let mut found = None;
    until(&format!("{id} is answered"), || {
        found = listener
            .said()
            .into_iter()
            .find(|said| said.kind.ends_with("DATA") && said.text("Answer/id") == Some(id));
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Until the line runs, commands are refused.
async fn until_listening(listener: &Listener, host: &Host) {
    let (mut times, before) = (0, Instant::now());
    let mut asked = before.checked_sub(Duration::from_secs(1)).unwrap();
    let accepted = |said: &Said| said.flag("Answer/accepted") == Some(true);
    let heard = |listener: &Listener| listener.said().iter().filter(|said| accepted(said)).count();
    let known = heard(listener);
    until("the station listens to commands", || {
        if asked.elapsed() > Duration::from_millis(200) {
            (asked, times) = (Instant::now(), times + 1);
            host.write(NCMD, &[("Command/resume", YES), ("Command/id", word(&format!("r{times}")))]);
        }
        heard(listener) > known
    })
    .await;
}

/// How often a part has a result.
fn results_of(listener: &Listener, part: &str) -> usize {
    listener.of("DDATA").iter().filter(|said| said.text("Result/part_id") == Some(part)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_host_are_answered_and_triggers_have_results_once() {
    let (first, second) = (Broker::start("", "").await, Broker::start("", "").await);
    let plc = Plc::new(first.port).await;
    let (listener, host) = (Listener::new(second.port, GROUP, NODE_ID).await, Host::new(second.port));
    let station = Station::new(first.port, &(camera("cam1", SIMULATOR) + &sink(second.port)));
    let mut daemon = station.start();
    until_listening(&listener, &host).await;

    let words = [("Command/part_id", word("P1")), ("Command/lot", word("L1"))];
    let trigger = [&[("Command/trigger", YES), ("Command/id", word("c1"))][..], &words].concat();
    host.write(DCMD, &trigger);
    let said = answer(&listener, "c1").await;
    assert_eq!((said.device.as_deref(), said.flag("Answer/accepted")), (Some("cam1"), Some(true)));
    until("the result comes", || results_of(&listener, "P1") == 1).await;
    let data = listener.of("DDATA");
    let result = data.iter().find(|said| said.text("Result/part_id") == Some("P1")).unwrap();
    assert_eq!((result.text("Result/lot"), result.text("Result/correlation_id")), (Some("L1"), Some("c1")));
    let json = plc.result("P1").await;
    assert_eq!(result.text("Result/inspection_id"), json["inspection_id"].as_str(), "the same inspection");
    assert_eq!(result.text("Result/verdict"), json["verdict"].as_str());

    // The same message twice is one trigger, with an id and without.
    host.write(DCMD, &trigger);
    let bytes = host.write(DCMD, &[("Command/trigger", YES), ("Command/part_id", word("P2"))]);
    host.repeat(DCMD, &bytes);
    let pause = [("Command/pause", YES), ("Command/id", word("c2"))];
    until("the second comes", || results_of(&listener, "P2") == 1).await;
    host.write(DCMD, &pause);
    assert_eq!(answer(&listener, "c2").await.flag("Answer/accepted"), Some(true));
    host.write(
        NCMD,
        &[("Command/trigger", YES), ("Command/id", word("c3")), ("Command/part_id", word("P3"))],
    );
    let refused = answer(&listener, "c3").await;
    assert_eq!((refused.device, refused.values["Answer/code"].clone()), (None, Some(word("paused"))));
    host.write(NCMD, &[("Command/resume", YES), ("Command/pause", YES), ("Command/id", word("c4"))]);
    let refused = answer(&listener, "c4").await;
    assert_eq!(refused.text("Answer/code"), Some("malformed"));
    assert!(refused.text("Answer/reason").unwrap().contains("2 commands"), "{refused:?}");
    host.write(DCMD, &[("Command/pipeline", word("photo")), ("Command/id", word("c5"))]);
    assert_eq!(answer(&listener, "c5").await.flag("Answer/accepted"), Some(true));
    until("it is said", || {
        listener.of("DDATA").iter().any(|said| said.text("State/pipeline") == Some("photo"))
    })
    .await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    until("its death is said", || listener.of("NDEATH").len() == 1).await;
    assert_eq!((results_of(&listener, "P1"), results_of(&listener, "P2")), (1, 1));
    assert_eq!(station.store().newest_first().count(), 2, "each was inspected once");
}

/// The payload of Eclipse Tahu reads what the station writes.
#[ignore = "needs Node.js: make test-node"]
#[tokio::test(flavor = "multi_thread")]
async fn node_tahu_reads_the_births_and_each_result() {
    const PARTS: usize = 3;
    let (first, second) = (Broker::start("", "").await, Broker::start("", "").await);
    let plc = Plc::new(first.port).await;
    let listener = Listener::new(second.port, GROUP, NODE_ID).await;
    let station = Station::new(first.port, &(camera("cam1", SIMULATOR) + &sink(second.port)));
    let _daemon = station.start();
    plc.until_listening().await;
    until("it is born", || !listener.of("DBIRTH").is_empty()).await;
    let (port, count) = (second.port.to_string(), PARTS.to_string());
    let arguments = [port.as_str(), GROUP, NODE_ID, &count];
    let asked = node::ask("sparkplug", &arguments);
    let triggered = async {
        // It has been asked for its births by whoever now hears its results.
        until("it is born again", || listener.of("NBIRTH").len() == 2).await;
        for n in 0..PARTS {
            plc.command("trigger", serde_json::json!({ "part_id": format!("P{n}") })).await;
            plc.result(&format!("P{n}")).await;
        }
    };
    let (said, ()) = tokio::join!(asked, triggered);
    assert_eq!(said["births"], serde_json::json!(["NBIRTH", "DBIRTH cam1"]), "{said}");
    let heard = said["results"].as_object().unwrap();
    assert_eq!(heard.len(), PARTS);
    for (id, verdict) in heard {
        let of_json = plc.results().into_iter().find(|result| result["inspection_id"] == id.as_str());
        assert_eq!(&of_json.expect("MQTT has it")["verdict"], verdict, "{said}");
    }
}

/// tck-id-topics-nbirth-bdseq-increment
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_born_under_the_next_number_and_owes_what_it_owed() {
    let (first, second) = (Broker::start("", "").await, Broker::start("", "").await);
    let (listener, host) = (Listener::new(second.port, GROUP, NODE_ID).await, Host::new(second.port));
    let station = Station::new(first.port, &(camera("cam1", SIMULATOR) + &sink(second.port)));
    for life in 0..3_u64 {
        let mut daemon = station.start();
        until_listening(&listener, &host).await;
        let part = format!("P{life}");
        let id = word(&format!("c{life}"));
        host.write(DCMD, &[("Command/trigger", YES), ("Command/id", id), ("Command/part_id", word(&part))]);
        until("the result comes", || results_of(&listener, &part) >= 1).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        until("the will is published", || listener.of("NDEATH").len() as u64 == life + 1).await;
        let births: Vec<_> = listener.of("NBIRTH").iter().map(|said| said.count(BD_SEQ)).collect();
        assert_eq!(births, (0..=life).map(Some).collect::<Vec<_>>());
    }
}
