//! A store of format 1, which kept results, parts and reviews in trees of their own: all that it owed arrives, each kind
//! in its order, with the bytes that the version which wrote it published, also when newer records follow.

use super::{MqttOptions, Protocol, Subscriber, until};
use crate::broker::Broker;
use crate::inspections::inspection;
use crate::packed::unpack;
use inspectd::domain::inspection::{Inspection, LearnedRef};
use inspectd::publish::mqtt;
use inspectd::store::outbox::{Cause, Kind};
use inspectd::store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The store, and what the last version of format 1 published of it: topic and payload.
const STORE: &str = "fixtures/store/format-1-owed.gz";
const PUBLISHED: &str = include_str!("../../fixtures/store/format-1-owed.json");

/// Results that follow, of parts that were judged by what was learned.
const FOLLOWING: [u64; 2] = [13, 14];

/// What it had given up, by kind and number.
const GIVEN_UP: [(Kind, u64, Cause); 3] =
    [(Kind::Result, 4, Cause::Size), (Kind::Part, 5, Cause::Dropped), (Kind::Review, 2, Cause::Invalid)];

/// The number that says which message of its kind it is: of a part, the text by which it is known.
fn name(topic: &str, payload: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(payload).unwrap();
    let key = match topic {
        "result" => "seq",
        "part" => "id",
        _ => "review_seq",
    };
    json[key].to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_of_format_1_owes_arrives_in_order_with_its_old_bytes() {
    let dir = tempfile::tempdir().unwrap();
    unpack(STORE, dir.path());
    let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
    let store = open();
    assert_eq!((store.verify().unwrap().broken_at, store.verify_reviews().unwrap().broken_at), (None, None));
    let letters: Vec<_> =
        store.dead_letters().unwrap().iter().map(|l| (l.owed.kind, l.owed.seq, l.cause)).collect();
    assert_eq!(letters, GIVEN_UP);
    let sinks = store.sinks().unwrap();
    assert_eq!((sinks.len(), sinks[0].owed), (1, [8, 1, 2]), "{sinks:?}");
    drop(store);
    let store = Arc::new(open());
    assert_eq!(store.sinks().unwrap(), sinks, "once more, from the log");
    for n in FOLLOWING {
        let bank =
            LearnedRef { prompt: "like-good-parts".into(), kind: "bank".into(), sha256: "12".repeat(32) };
        let part = Inspection { learned: vec![bank], ..inspection(n) };
        assert_eq!(store.commit(&part, None).unwrap().seq, n);
    }
    assert_eq!(store.sinks().unwrap()[0].owed, [10, 1, 2]);

    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, "p/a").await;
    let (_events, receiver) = tokio::sync::mpsc::channel(16);
    let options = MqttOptions { prefix: "p/a".into(), ..super::options(broker.port, Protocol::V5) };
    let link = mqtt::spawn(options, Arc::clone(&store), receiver, None).unwrap();
    let nothing_owed = || store.sinks().unwrap()[0].owed == [0; 3];
    until("all is delivered", nothing_owed).await;
    // What was too long goes by itself; the others when somebody says so.
    until("the long one is delivered", || store.dead_letters().unwrap().len() == 2).await;
    tokio::task::block_in_place(|| store.retry_all()).unwrap();
    let heard = || {
        let all = subscriber.heard().into_iter();
        let of_topic = |m: crate::broker::Message| {
            let topic = m.topic.strip_prefix("p/a/").unwrap().to_owned();
            let owed = Kind::ALL.iter().any(|kind| kind.as_str() == topic);
            owed.then(|| (topic, String::from_utf8(m.payload).unwrap()))
        };
        all.filter_map(of_topic).collect::<Vec<_>>()
    };
    let expected: Vec<(String, String)> = serde_json::from_str(PUBLISHED).unwrap();
    let count = expected.len() + FOLLOWING.len();
    until("all arrives", || nothing_owed() && heard().len() >= count).await;
    let by_name = |all: &[(String, String)]| -> BTreeMap<(String, String), String> {
        all.iter().map(|(topic, payload)| ((topic.clone(), name(topic, payload)), payload.clone())).collect()
    };
    let arrived = heard();
    assert_eq!(arrived.len(), count);
    let (following, old): (Vec<_>, Vec<_>) = arrived.iter().cloned().partition(|(topic, payload)| {
        topic == "result" && FOLLOWING.iter().any(|n| name(topic, payload) == n.to_string())
    });
    assert_eq!((following.len(), by_name(&old)), (FOLLOWING.len(), by_name(&expected)));
    for topic in ["result", "review"] {
        let given_up = |n: u64| GIVEN_UP.iter().any(|(kind, seq, _)| kind.as_str() == topic && *seq == n);
        let numbers =
            arrived.iter().filter(|(t, _)| t == topic).map(|(t, p)| name(t, p).parse::<u64>().unwrap());
        let in_order: Vec<u64> = numbers.filter(|n| !given_up(*n)).collect();
        assert!(in_order.is_sorted(), "{topic}: {in_order:?}");
    }
    link.stop().await.unwrap();
}
