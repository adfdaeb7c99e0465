//! Store and MQTT against a real mosquitto: what was committed arrives, in order, whatever happens
//! to the connection or the broker.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/inspections.rs"]
mod inspections;
#[path = "mqtt/old_store.rs"]
mod old_store;
#[path = "common/packed.rs"]
mod packed;
#[path = "common/peers.rs"]
mod peers;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/schemas.rs"]
mod schemas;
#[path = "mqtt/sparkplug.rs"]
mod sparkplug;
#[path = "common/sparkplug.rs"]
#[allow(dead_code, reason = "commands are tested with the whole program")]
mod sparkplug_rules;
#[path = "mqtt/topics.rs"]
mod topics;

use broker::{Broker, Message, Subscriber, until};
use inspectd::domain::camera::CameraStatus;
use inspectd::domain::part::PartRef;
use inspectd::domain::review::{Decided, Decision};
use inspectd::publish::mqtt::dialect::Spoken;
use inspectd::publish::mqtt::state::Phase;
use inspectd::publish::mqtt::{self, Handle, MqttOptions, Protocol};
use inspectd::publish::{StationEvent, Stats};
use inspectd::store::outbox::{Cause, Kind, MQTT, Owed};
use inspectd::store::{Store, StoreOptions};
use inspections::{id, inspection};
use proxy::Proxy;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PREFIX: &str = "inspectd/plant1/body/line1/st10";

fn options(port: u16, protocol: Protocol) -> MqttOptions {
    MqttOptions {
        sink: "mqtt".into(),
        dialect: Spoken::Json,
        host: "127.0.0.1".into(),
        port,
        protocol,
        client_id: "st10".into(),
        username: None,
        password: None,
        tls: None,
        prefix: PREFIX.into(),
        keep_alive: Duration::from_secs(5),
        images_px: None,
    }
}

/// A store in a directory of its own, and MQTT on it.
struct Station {
    store: Arc<Store>,
    events: mpsc::Sender<StationEvent>,
    handle: Handle,
    next: u64,
    _dir: tempfile::TempDir,
}

impl Station {
    fn start(port: u16, protocol: Protocol, before: u64) -> Self {
        Self::start_with(port, protocol, before, |_| {})
    }

    /// `prepare` changes the store before it is delivered.
    fn start_with(port: u16, protocol: Protocol, before: u64, prepare: impl FnOnce(&Store)) -> Self {
        Self::over(options(port, protocol), before, prepare)
    }

    fn over(options: MqttOptions, before: u64, prepare: impl FnOnce(&Store)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        for n in 1..=before {
            store.commit(&inspection(n), None).unwrap();
        }
        prepare(&store);
        let (events, receiver) = mpsc::channel(16);
        let handle = mqtt::spawn(options, Arc::clone(&store), receiver, None).unwrap();
        Self { store, events, handle, next: before + 1, _dir: dir }
    }

    fn commit(&mut self, count: u64) {
        for n in self.next..self.next + count {
            tokio::task::block_in_place(|| self.store.commit(&inspection(n), None)).unwrap();
        }
        self.next += count;
    }

    async fn phase(&self, wanted: Phase) {
        let phase = self.handle.phase();
        until(&format!("the connection is {wanted:?}"), || *phase.borrow() == wanted).await;
    }
}

/// How much of a kind the sink `mqtt` waits for.
fn owed(store: &Store, kind: Kind) -> usize {
    store.outbox(MQTT).owed(kind, 0, 9).unwrap().entries.len()
}

/// The sink `mqtt` gives up a message.
fn give_up(store: &Store, owed: Owed, cause: Cause, reason: &str) {
    let outbox = store.outbox(MQTT);
    let place = outbox.place_of(owed).unwrap().expect("it is owed");
    outbox.give_up(place, cause, reason).unwrap();
}

/// Every id once or with the same bytes again; first arrivals in the order of the ledger.
fn check_results(results: &[Message], count: u64) {
    let mut bytes: HashMap<String, &[u8]> = HashMap::new();
    let mut order = Vec::new();
    for message in results {
        assert_eq!((message.qos, message.retained), (1, false));
        let json = message.json();
        let id = json["inspection_id"].as_str().unwrap().to_owned();
        match bytes.insert(id, &message.payload) {
            Some(before) => assert_eq!(before, message.payload, "a repeat has the same bytes"),
            None => order.push(json["seq"].as_u64().unwrap()),
        }
    }
    assert_eq!(order, (1..=count).collect::<Vec<_>>());
    for n in 1..=count {
        assert!(bytes.contains_key(&id(n)));
    }
}

async fn everything_arrives_and_state_is_retained(protocol: Protocol) {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(broker.port, protocol, 3);
    station.commit(3);
    let camera = StationEvent::Camera { id: "cam1".into(), status: CameraStatus::default() };
    station.events.send(camera).await.unwrap();
    let alarm = StationEvent::Alarm { code: "disk".into(), raised: true, message: "1 GB left".into() };
    station.events.send(alarm).await.unwrap();
    station.phase(Phase::Live).await;
    until("all results arrive", || subscriber.on("/result").len() >= 6).await;
    for topic in ["st10/last", "/camera/cam1/last"] {
        until("`last` follows", || subscriber.newest(topic).is_some_and(|l| l["seq"] == 6)).await;
    }
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    until("the camera is known", || {
        subscriber.newest("/camera/cam1/status").is_some_and(|c| c["state"] == "ready")
    })
    .await;
    until("the alarm is known", || subscriber.newest("/alarm/disk").is_some_and(|a| a["state"] == "raised"))
        .await;
    check_results(&subscriber.on("/result"), 6);
    let stats = Stats {
        window_s: 60.0,
        pass: 0,
        fail: 6,
        review: 0,
        latency_p50_ms: 900.0,
        latency_p95_ms: 900.0,
        latency_max_ms: 900.0,
        dropped: 0,
        outbox: 0,
    };
    station.events.send(StationEvent::Stats(stats)).await.unwrap();
    until("stats arrive", || subscriber.newest("/stats").is_some_and(|s| s["inspected"] == 6)).await;
    let kinds = schemas::check(&subscriber.heard(), PREFIX);
    let known = ["alarm", "camera-status", "last", "result", "stats", "status"];
    assert!(known.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");

    let late = Subscriber::new(broker.port, PREFIX).await;
    let kept = [
        "status",
        "last",
        "camera/cam1/last",
        "camera/cam1/status",
        "alarm/disk",
        "alarm/result_undeliverable",
    ];
    let is_there = |topic: &&str| !late.on(&format!("{PREFIX}/{topic}")).is_empty();
    until("what is retained arrives", || kept.iter().all(is_there)).await;
    assert!(late.heard().iter().all(|m| m.retained && m.qos == 1));
    assert_eq!(late.newest("st10/status").unwrap()["state"], "online");
    assert_eq!(late.newest("st10/last").unwrap()["inspection_id"], id(6).as_str());

    station.handle.stop().await.unwrap();
    until("the stop is said", || late.newest("st10/status").is_some_and(|s| s["state"] == "stopped")).await;
    // Had the broker sent the Last Will as well, a later subscriber would find it retained.
    let later = Subscriber::new(broker.port, PREFIX).await;
    until("the status is retained", || later.newest("st10/status").is_some()).await;
    assert_eq!(later.newest("st10/status").unwrap()["state"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_and_state_is_retained_v5() {
    everything_arrives_and_state_is_retained(Protocol::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_and_state_is_retained_v311() {
    everything_arrives_and_state_is_retained(Protocol::V311).await;
}

async fn a_cut_connection_is_said_by_the_last_will_and_comes_back(protocol: Protocol) {
    let broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(proxy.port, protocol, 1);
    let state = |wanted: &'static str| {
        let newest = subscriber.newest("st10/status");
        newest.is_some_and(|s| s["state"] == wanted)
    };
    until("it is online", || state("online")).await;
    proxy.shut();
    until("the Last Will is published", || state("offline")).await;
    station.commit(2);
    proxy.open();
    until("it is online again", || state("online")).await;
    until("all results arrive", || subscriber.on("/result").len() >= 3 && station.store.outbox_len() == 0)
        .await;
    check_results(&subscriber.on("/result"), 3);
    // Dropped without a goodbye, as in a crash.
    drop(station.handle);
    until("the Last Will is published", || state("offline")).await;
    let late = Subscriber::new(broker.port, PREFIX).await;
    until("it is retained", || late.newest("st10/status").is_some_and(|s| s["state"] == "offline")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_said_by_the_last_will_and_comes_back_v5() {
    a_cut_connection_is_said_by_the_last_will_and_comes_back(Protocol::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_said_by_the_last_will_and_comes_back_v311() {
    a_cut_connection_is_said_by_the_last_will_and_comes_back(Protocol::V311).await;
}

async fn a_broker_without_memory_is_killed_and_restarted(protocol: Protocol) {
    let mut broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(proxy.port, protocol, 0);
    station.commit(5);
    until("the first results arrive", || subscriber.on("/result").len() >= 5).await;

    for round in 1..=2 {
        // In the midst of the traffic; the proxy keeps the station out until the subscriber is back.
        station.commit(20);
        broker.kill();
        proxy.shut();
        station.commit(50);
        broker.restart().await;
        subscriber.subscribed(round + 1).await;
        proxy.open();
        station.commit(5);
        until("the outbox is empty", || station.store.outbox_len() == 0).await;
        station.phase(Phase::Live).await;
    }
    let last = station.next - 1;
    let seen = |n: u64| subscriber.on("/result").iter().any(|m| m.json()["seq"] == n);
    until("the last result arrives", || seen(last)).await;
    // A result that the dead broker had acknowledged and not yet passed on is lost by the broker,
    // not by the station; everything stored while it was away must be here.
    let results = subscriber.on("/result");
    let mut bytes: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut first_seen = Vec::new();
    for message in &results {
        let seq = message.json()["seq"].as_u64().unwrap();
        match bytes.insert(seq, message.payload.clone()) {
            Some(before) => assert_eq!(before, message.payload),
            None => first_seen.push(seq),
        }
    }
    assert!(first_seen.is_sorted());
    for away in [26..=80, 101..=155] {
        for seq in away {
            assert!(bytes.contains_key(&seq), "{seq} is missing");
        }
    }
    assert!(station.store.dead_letters().unwrap().is_empty());
    assert_eq!(station.store.verify().unwrap().broken_at, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_is_killed_and_restarted_v5() {
    a_broker_without_memory_is_killed_and_restarted(Protocol::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_is_killed_and_restarted_v311() {
    a_broker_without_memory_is_killed_and_restarted(Protocol::V311).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_survives_many_cuts() {
    let broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(proxy.port, Protocol::V5, 600);
    for cut in 1..=8 {
        let so_far = subscriber.on("/result").len();
        until("some more results arrive", || {
            subscriber.on("/result").len() > so_far + 15 || station.store.outbox_len() == 0
        })
        .await;
        proxy.shut();
        station.commit(if cut % 2 == 0 { 10 } else { 0 });
        until("the cut is noticed", || {
            subscriber.newest("st10/status").is_some_and(|s| s["state"] == "offline")
        })
        .await;
        proxy.open();
    }
    until("the outbox is empty", || station.store.outbox_len() == 0).await;
    let last = station.next - 1;
    until("the last result arrives", || subscriber.on("/result").iter().any(|m| m.json()["seq"] == last))
        .await;
    check_results(&subscriber.on("/result"), last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_results_stay_until_the_broker_takes_them() {
    const ALLOW: &str = "topic readwrite #\n";
    let refuse = format!("{ALLOW}topic deny {PREFIX}/result\n");
    let mut broker = Broker::start("acl_file ACL", &refuse).await;
    let proxy = Proxy::new(broker.port).await;
    let station = Station::start(proxy.port, Protocol::V5, 5);
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let alarm = |wanted: &'static str| {
        subscriber.newest("/alarm/result_refused").is_some_and(|a| a["state"] == wanted)
    };
    until("the alarm is raised", || alarm("raised")).await;
    assert_eq!(station.store.outbox_len(), 5);
    assert!(subscriber.on("/result").is_empty());

    proxy.shut();
    broker.write_acl(ALLOW);
    broker.restart().await;
    subscriber.subscribed(2).await;
    proxy.open();
    until("all results arrive", || subscriber.on("/result").len() >= 5 && station.store.outbox_len() == 0)
        .await;
    until("the alarm is cleared", || alarm("cleared")).await;
    check_results(&subscriber.on("/result"), 5);
    station.handle.stop().await.unwrap();
}

fn alarm(subscriber: &Subscriber, code: &str, state: &str) -> bool {
    subscriber.newest(&format!("/alarm/{code}")).is_some_and(|a| a["state"] == state)
}

fn seqs(subscriber: &Subscriber) -> Vec<u64> {
    subscriber.on("/result").iter().map(|m| m.json()["seq"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversize_result_is_held_and_holds_up_nothing_and_goes_when_the_limit_is_raised() {
    let mut broker = Broker::start("max_packet_size 4000", "").await;
    let proxy = Proxy::new(broker.port).await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(proxy.port, Protocol::V5, 1);
    let mut crowded = inspection(2);
    crowded.findings = vec![crowded.findings[0].clone(); 100];
    tokio::task::block_in_place(|| station.store.commit(&crowded, None)).unwrap();
    station.next = 3;
    station.commit(2);
    until("the others arrive", || subscriber.on("/result").len() >= 3 && station.store.outbox_len() == 1)
        .await;
    until("the alarm is raised", || alarm(&subscriber, "result_held", "raised")).await;
    assert_eq!(seqs(&subscriber), [1, 3, 4]);
    assert!(station.store.dead_letters().unwrap().is_empty(), "it is not given up");
    proxy.shut();
    broker.configure("max_packet_size 400000");
    broker.restart().await;
    subscriber.subscribed(2).await;
    proxy.open();
    until("it arrives", || seqs(&subscriber).contains(&2) && station.store.outbox_len() == 0).await;
    until("the alarm is cleared", || alarm(&subscriber, "result_held", "cleared")).await;
    station.handle.stop().await.unwrap();
}

/// A setting of the broker, for some seconds: once it emptied the outbox into the dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_result_at_all_for_a_while_loses_none() {
    let mut broker = Broker::start("max_packet_size 400", "").await;
    let proxy = Proxy::new(broker.port).await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start(proxy.port, Protocol::V5, 5);
    until("the alarm is raised", || alarm(&subscriber, "result_held", "raised")).await;
    station.commit(12);
    station.phase(Phase::Live).await;
    let raised = subscriber.newest("/alarm/result_held").unwrap();
    assert!(raised["message"].as_str().unwrap().contains("takes packets of 400"), "{raised}");
    assert_eq!((station.store.outbox_len(), station.store.dead_letters().unwrap().len()), (17, 0));
    assert!(subscriber.on("/result").is_empty());
    proxy.shut();
    broker.configure("");
    broker.restart().await;
    subscriber.subscribed(2).await;
    proxy.open();
    until("all arrive", || subscriber.on("/result").len() >= 17 && station.store.outbox_len() == 0).await;
    check_results(&subscriber.on("/result"), 17);
    until("the alarm is cleared", || alarm(&subscriber, "result_held", "cleared")).await;
    station.handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_tried_again_when_they_fit_and_when_somebody_says_so() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let result = |seq| Owed { kind: Kind::Result, seq };
    let station = Station::start_with(broker.port, Protocol::V5, 3, |store| {
        give_up(store, result(1), Cause::Size, "2113 bytes, the limit is 334");
        give_up(store, result(2), Cause::Dropped, "every connection is dropped on it");
    });
    until("two arrive", || subscriber.on("/result").len() >= 2 && station.store.outbox_len() == 0).await;
    until("the alarm is raised", || alarm(&subscriber, "result_undeliverable", "raised")).await;
    let left: Vec<u64> = station.store.dead_letters().unwrap().iter().map(|letter| letter.owed.seq).collect();
    assert_eq!(left, [2], "what ended connections is not tried by itself");
    assert_eq!(tokio::task::block_in_place(|| station.store.retry_all()).unwrap(), 1);
    until("it arrives", || seqs(&subscriber).contains(&2) && station.store.outbox_len() == 0).await;
    until("the alarm is cleared", || alarm(&subscriber, "result_undeliverable", "cleared")).await;
    let mut arrived = seqs(&subscriber);
    arrived.sort_unstable();
    assert_eq!(arrived, [1, 2, 3]);
    station.handle.stop().await.unwrap();
}

/// What stands between drops each connection on one kind of message: no other waits for it.
async fn a_kind_on_which_connections_drop_blocks_no_result(kind: Kind) {
    let broker = Broker::start("", "").await;
    let proxy = Proxy::new(broker.port).await;
    let topic = format!("{PREFIX}/{}", kind.as_str());
    proxy.forbid(Some(&topic));
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let mut station = Station::start_with(proxy.port, Protocol::V5, 3, |store| match kind {
        Kind::Part => {
            let mut view = inspection(4);
            let cameras = vec!["cam1".to_owned()];
            view.trigger.part = Some(Box::new(PartRef { id: id(99), name: "housing".into(), cameras }));
            store.commit(&view, None).unwrap();
        }
        _ => {
            let decision = Decision {
                verdict: Decided::Fail,
                reason: "scratch".into(),
                note: String::new(),
                findings: None,
                texts: None,
            };
            store.review(&id(1), "anna", decision, None).unwrap();
            store.commit(&inspection(4), None).unwrap();
        }
    });
    station.next = 5;
    let left = |store: &Store| owed(store, kind);
    for more in 1..=3 {
        station.commit(4);
        let so_far = 4 + 4 * more;
        until("the results arrive", || seqs(&subscriber).contains(&so_far)).await;
    }
    until("the alarm is raised", || alarm(&subscriber, "result_refused", "raised")).await;
    let raised = subscriber.newest("/alarm/result_refused").unwrap();
    assert!(raised["message"].as_str().unwrap().contains(kind.as_str()), "{raised}");
    until("no result is owed", || owed(&station.store, Kind::Result) == 0).await;
    assert_eq!((left(&station.store), station.store.dead_letters().unwrap().len()), (1, 0), "it is kept");
    check_results(&subscriber.on("/result"), 16);
    proxy.forbid(None);
    // Nobody waits for the pause to end.
    tokio::task::block_in_place(|| station.store.retry_all()).unwrap();
    until("it arrives", || subscriber.on(&format!("/{}", kind.as_str())).len() == 1).await;
    until("nothing is owed", || left(&station.store) == 0).await;
    until("the alarm is cleared", || alarm(&subscriber, "result_refused", "cleared")).await;
    station.handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_review_on_which_connections_drop_blocks_no_result() {
    a_kind_on_which_connections_drop_blocks_no_result(Kind::Review).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_on_which_connections_drop_blocks_no_result() {
    a_kind_on_which_connections_drop_blocks_no_result(Kind::Part).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn speed_of_catching_up() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    for protocol in [Protocol::V5, Protocol::V311] {
        let station = Station::start(broker.port, protocol, 4000);
        let stored = Instant::now();
        until("the outbox is empty", || station.store.outbox_len() == 0).await;
        let delivered = stored.elapsed();
        println!("{protocol:?}: {:.0} results/s from a backlog", 4000.0 / delivered.as_secs_f64());
        station.handle.stop().await.unwrap();
    }
    println!("{} results heard", subscriber.on("/result").len());
}
