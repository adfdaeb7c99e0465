//! The edge node against a real mosquitto: births, data, deaths, commands for births, the primary host, and each result
//! at least once whatever happens to the connection, the broker or the host. Every message is held to the rules by
//! [`Listener`]; tests that play a host cite what they prove.

use super::{Protocol, Station, until};
use crate::broker::{Broker, Subscriber};
use crate::inspections::{id, inspection};
use crate::peers::python;
use crate::proxy::Proxy;
use crate::sparkplug_rules::{Host, Listener, NAMESPACE};
use inspectd::domain::camera::{CameraState, CameraStatus};
use inspectd::domain::inspection::Inspection;
use inspectd::publish::StationEvent;
use inspectd::publish::mqtt::dialect::Spoken;
use inspectd::publish::mqtt::sparkplug::edge::Edge;
use inspectd::publish::mqtt::sparkplug::metrics::{BD_SEQ, DEVICE, NODE};
use inspectd::publish::mqtt::sparkplug::payload::Wire;
use inspectd::publish::mqtt::state::Phase;
use inspectd::publish::mqtt::{self, MqttOptions};
use inspectd::store::{Store, StoreOptions};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

const GROUP: &str = "plant1";
const NODE_ID: &str = "st10";
const HOST: &str = "scada";

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_hours(1);

fn edge(primary_host: Option<&str>, host_lost: Duration) -> Edge {
    Edge {
        group: GROUP.into(),
        node: NODE_ID.into(),
        primary_host: primary_host.map(str::to_owned),
        host_lost,
        devices: vec!["cam1".into(), "cam2".into()],
        commands: true,
    }
}

fn spoken(port: u16, protocol: Protocol, edge: Edge) -> MqttOptions {
    MqttOptions { dialect: Spoken::Sparkplug(Arc::new(edge)), ..super::options(port, protocol) }
}

/// A station whose sink `mqtt` speaks Sparkplug, with results of long ago.
fn start(options: MqttOptions, before: u64) -> Station {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
    for n in 1..=before {
        store.commit(&inspection(n), None).unwrap();
    }
    let (events, receiver) = mpsc::channel(16);
    let handle = mqtt::spawn(options, Arc::clone(&store), receiver, None).unwrap();
    Station { store, events, handle, next: before + 1, _dir: dir }
}

/// An inspection that is finished after whatever happens in a test: it is never late.
fn fresh(n: u64) -> Inspection {
    let finished_at = SystemTime::now() + FOR_EVER;
    Inspection { captured_at: SystemTime::now(), finished_at, ..inspection(n) }
}

fn commit_fresh(station: &mut Station) {
    let n = station.next;
    tokio::task::block_in_place(|| station.store.commit(&fresh(n), None)).unwrap();
    station.next += 1;
}

/// The numbers of the results that came, each once.
fn distinct(listener: &Listener) -> BTreeSet<u64> {
    listener.results().into_iter().map(|(seq, _)| seq).collect()
}

fn all(count: u64) -> BTreeSet<u64> {
    (1..=count).collect()
}

async fn births_data_and_a_death(protocol: Protocol) {
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let mut station = start(spoken(broker.port, protocol, edge(None, FOR_EVER)), 3);
    station.phase(Phase::Live).await;
    for _ in 0..3 {
        commit_fresh(&mut station);
    }
    until("all results arrive", || distinct(&listener) == all(6)).await;
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    let results: Vec<_> = (1..=6).map(|seq| (seq, seq <= 3)).collect();
    assert_eq!(
        listener.results(),
        results,
        "what was stored before the birth is historical, and each comes once"
    );

    let said = listener.said();
    let kinds: Vec<_> = said.iter().take(3).map(|s| (s.kind.as_str(), s.device.as_deref())).collect();
    assert_eq!(kinds, [("NBIRTH", None), ("DBIRTH", Some("cam1")), ("DBIRTH", Some("cam2"))]);
    assert_eq!((said[0].values.len(), said[1].values.len()), (NODE.len(), DEVICE.len()));
    assert_eq!(said[1].text("Result/inspection_id"), Some(id(3).as_str()), "a birth has the newest values");
    assert_eq!(said[2].text("Result/inspection_id"), None);
    let last = said.iter().rfind(|s| s.kind == "DDATA").unwrap();
    assert_eq!((last.text("Result/verdict"), last.text("Result/part_id")), (Some("fail"), Some("P6")));
    assert_eq!(last.text("Result/worst_label"), Some("scratch"));

    let alarm = StationEvent::Alarm { code: "disk".into(), raised: true, message: "1 GB left".into() };
    station.events.send(alarm).await.unwrap();
    until("the alarm is said", || {
        listener.of("NDATA").iter().any(|s| s.text("Alarms/standing") == Some("disk"))
    })
    .await;

    station.handle.stop().await.unwrap();
    until("its death is said", || listener.of("NDEATH").len() == 1).await;
    assert_eq!(listener.of("NDEATH")[0].count(BD_SEQ), said[0].count(BD_SEQ));
    let late = Subscriber::new(broker.port, NAMESPACE).await;
    late.subscribed(1).await;
    assert!(late.heard().is_empty(), "nothing is retained: {:?}", late.heard());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn births_data_and_a_death_v5() {
    births_data_and_a_death(Protocol::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn births_data_and_a_death_v311() {
    births_data_and_a_death(Protocol::V311).await;
}

/// tck-id-operational-behavior-data-commands-rebirth-action-1,
/// tck-id-operational-behavior-data-commands-rebirth-action-2,
/// tck-id-operational-behavior-data-commands-rebirth-action-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_asks_gets_all_births_with_the_number_of_the_connection() {
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let host = Host::new(broker.port);
    let mut station = start(spoken(broker.port, Protocol::V5, edge(None, FOR_EVER)), 2);
    until("the results arrive", || distinct(&listener) == all(2)).await;
    host.ask_for_births(GROUP, NODE_ID);
    until("the births come again", || listener.of("DBIRTH").len() >= 4).await;
    let births = listener.of("NBIRTH");
    assert_eq!(births.len(), 2);
    assert_eq!((births[1].count(BD_SEQ), births[1].seq), (births[0].count(BD_SEQ), Some(0)));
    assert!(listener.of("NDEATH").is_empty());
    commit_fresh(&mut station);
    until("data goes on", || distinct(&listener) == all(3)).await;
    // What is written to nobody, and what is no payload, changes nothing.
    host.write(&format!("{GROUP}/NCMD/{NODE_ID}"), &[("Nobody/knows", Wire::Boolean(true))]);
    host.repeat(&format!("{GROUP}/NCMD/{NODE_ID}"), b"{\"rebirth\":true}");
    commit_fresh(&mut station);
    until("data goes on", || distinct(&listener) == all(4)).await;
    assert_eq!(listener.of("NBIRTH").len(), 2);
}

/// tck-id-operational-behavior-device-ddeath
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_in_fault_is_a_dead_device_until_it_has_something_to_say() {
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let mut station = start(spoken(broker.port, Protocol::V5, edge(None, FOR_EVER)), 0);
    station.phase(Phase::Live).await;
    let say = async |state, reason: &str| {
        let status = CameraStatus { state, reason: reason.into(), ..CameraStatus::default() };
        station.events.send(StationEvent::Camera { id: "cam1".into(), status }).await.unwrap();
    };
    say(CameraState::Fault, "no picture for 5 s").await;
    until("it is dead", || listener.of("DDEATH").len() == 1).await;
    let data = listener.of("DDATA");
    assert_eq!(
        data.last().unwrap().text("State/reason"),
        Some("no picture for 5 s"),
        "its last words say why"
    );
    // A result of it all the same: its births come first, which the listener checks.
    commit_fresh(&mut station);
    until("the result comes", || distinct(&listener) == all(1)).await;
    let born = listener.of("DBIRTH").into_iter().filter(|s| s.device.as_deref() == Some("cam1"));
    assert_eq!(
        born.map(|s| s.text("State/state").map(str::to_owned)).next_back(),
        Some(Some("fault".into()))
    );
    let say = async |state| {
        let status = CameraStatus { state, ..CameraStatus::default() };
        station.events.send(StationEvent::Camera { id: "cam1".into(), status }).await.unwrap();
    };
    say(CameraState::Ready).await;
    until("it is ready", || {
        listener.of("DDATA").last().is_some_and(|s| s.text("State/state") == Some("ready"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_gets_what_it_missed_as_historical_under_a_new_number() {
    let mut broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let mut station = start(spoken(proxy.port, Protocol::V5, edge(None, FOR_EVER)), 40);
    until("the first results arrive", || distinct(&listener) == all(40)).await;
    let first = listener.of("NBIRTH")[0].count(BD_SEQ).unwrap();
    proxy.shut();
    until("its death is said", || listener.of("NDEATH").len() == 1).await;
    station.commit(50);
    broker.restart().await;
    listener.subscribed(2).await;
    proxy.open();
    until("all results arrive", || distinct(&listener) == all(90)).await;
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    assert!(listener.results().iter().all(|(_, historical)| *historical));
    let births = listener.of("NBIRTH");
    let last = births.last().unwrap().count(BD_SEQ).unwrap();
    assert!((last + 256 - first) % 256 >= 1, "{first}, then {last}");
    assert!(station.store.dead_letters().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_survives_many_cuts_and_many_windows() {
    let broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let station = start(spoken(proxy.port, Protocol::V311, edge(None, FOR_EVER)), 400);
    for cut in 1..=4_u64 {
        let some = (cut * 60) as usize;
        until("some more results arrive", || {
            distinct(&listener).len() >= some || station.store.outbox_len() == 0
        })
        .await;
        let deaths = listener.of("NDEATH").len();
        proxy.shut();
        until("the cut is noticed", || listener.of("NDEATH").len() > deaths).await;
        proxy.open();
        let births = listener.of("NBIRTH").len();
        until("it is born again", || listener.of("NBIRTH").len() > births).await;
    }
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    until("all results arrive", || distinct(&listener) == all(400)).await;
}

/// tck-id-message-flow-edge-node-birth-publish-phid-wait,
/// tck-id-message-flow-edge-node-birth-publish-phid-wait-online,
/// tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp,
/// tck-id-message-flow-edge-node-birth-publish-phid-offline,
/// tck-id-operational-behavior-edge-node-termination-host-offline-timestamp
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_without_the_primary_host_and_all_of_it_when_it_is_back() {
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let host = Host::new(broker.port);
    // Another host's word is not its word.
    host.state("other", true, 9);
    let mut station =
        start(spoken(broker.port, Protocol::V5, edge(Some(HOST), Duration::from_millis(50))), 2);
    let phase = station.handle.phase();
    until("it is connected", || *phase.borrow() == Phase::Connecting).await;
    host.state(HOST, false, 10);
    host.state(HOST, true, 11);
    until("the results arrive", || distinct(&listener) == all(2)).await;
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    assert_eq!(listener.said()[0].kind, "NBIRTH");
    // The will of an older session of the host, which comes late.
    host.state(HOST, false, 10);
    commit_fresh(&mut station);
    until("data goes on", || distinct(&listener) == all(3)).await;
    assert!(listener.of("NDEATH").is_empty());

    host.state(HOST, false, 11);
    until("it says goodbye", || listener.of("NDEATH").len() == 1).await;
    let before = listener.said().len();
    station.commit(4);
    host.state(HOST, true, 12);
    until("the results come later", || distinct(&listener) == all(7)).await;
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    assert_eq!(listener.said()[before].kind, "NBIRTH", "nothing was said meanwhile");
    let late = listener.results().into_iter().filter(|(seq, _)| *seq > 3);
    assert!(late.clone().all(|(_, historical)| historical) && late.count() >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_that_died_may_have_missed_comes_again() {
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let host = Host::new(broker.port);
    host.state(HOST, true, 1);
    let mut station = start(spoken(broker.port, Protocol::V5, edge(Some(HOST), FOR_EVER)), 0);
    station.phase(Phase::Live).await;
    for _ in 0..3 {
        commit_fresh(&mut station);
    }
    until("the results arrive", || distinct(&listener) == all(3)).await;
    assert!(listener.results().iter().all(|(_, historical)| !historical));
    assert_eq!(station.store.outbox_len(), 3, "the host may be dead already");
    // It says itself that it was away.
    host.state(HOST, true, 2);
    until("they come again", || listener.results().len() == 6).await;
    assert!(listener.results()[3..].iter().all(|(_, historical)| *historical));
    // Its will says that it is.
    host.state(HOST, false, 2);
    until("it says goodbye", || listener.of("NDEATH").len() == 1).await;
    host.state(HOST, true, 3);
    until("they come once more", || listener.results().len() == 9).await;
    assert_eq!((distinct(&listener), station.store.outbox_len()), (all(3), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_another_maker_gets_births_and_each_result() {
    const COUNT: u64 = 60;
    let broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, GROUP, NODE_ID).await;
    let edge = edge(Some(HOST), Duration::from_millis(50));
    let station = start(spoken(broker.port, Protocol::V311, edge), COUNT);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mqtt/sparkplug_host.py");
    let mut command = Command::new(python());
    command
        .arg(script)
        .args([&broker.port.to_string(), GROUP, HOST, &COUNT.to_string()])
        .stdin(Stdio::null());
    // It ends by itself.
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let found: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
    let heard: BTreeSet<&str> =
        found["results"].as_array().unwrap().iter().filter_map(|id| id.as_str()).collect();
    let stored: Vec<String> = (1..=COUNT).map(id).collect();
    assert_eq!(heard, stored.iter().map(String::as_str).collect());
    let births = serde_json::json!(["NBIRTH", "DBIRTH cam1", "DBIRTH cam2"]);
    assert_eq!(found["births"], births);
    // It has left: the node waits for it again.
    until("it says goodbye", || listener.of("NDEATH").len() == 1).await;
    station.handle.stop().await.unwrap();
}
