//! P3 in Sparkplug: a day's results (counted, not timed) with the primary host away, the broker without its memory and
//! the station killed; the host has each at least once, and what it has twice is historical.
//!
//! ```text
//!     child: store --mqtt, dialect sparkplug--> mosquitto --> Listener: checks every message, counts results
//!                                                  ^-- Host: STATE online, offline
//! ```

use crate::broker::{Broker, until};
use crate::soak;
use crate::sparkplug_rules::{Host, Listener};
use crate::station::{Order, Station};
use inspectd::store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Results of the short form; the full count is a day of one a second.
const RESULTS: usize = 1000;
const DAY_S: usize = 86_400;

const HOST: &str = "rig-host";

/// What has come.
#[derive(Default)]
struct Counted {
    /// How often each result came.
    by_seq: BTreeMap<u64, u32>,
    /// That came again without saying that it may have come before.
    twice_as_new: u64,
    deaths: u64,
}

impl Counted {
    /// Takes in what is new; the number of results so far.
    fn read(&mut self, listener: &Listener) -> u64 {
        for said in listener.look(std::mem::take) {
            self.deaths += u64::from(said.kind == "NDEATH");
            if let (Some(seq), "DDATA") = (said.count("Result/seq"), said.kind.as_str()) {
                let times = self.by_seq.entry(seq).or_default();
                *times += 1;
                self.twice_as_new += u64::from(*times > 1 && !said.historical);
            }
        }
        self.by_seq.len() as u64
    }

    async fn until(&mut self, what: &str, listener: &Listener, count: u64) {
        let mut known = self.read(listener);
        // A broker passes on what it has; only one that passes on nothing is a failure.
        while known < count {
            until(what, || self.read(listener) > known).await;
            known = self.read(listener);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_host_of_sparkplug_has_each_result_of_a_day_whoever_was_away() {
    let began = Instant::now();
    let results = soak::count(RESULTS, DAY_S) as u64;
    let dir = tempfile::tempdir().expect("a folder");
    let mut broker = Broker::start("", "").await;
    let listener = Listener::new(broker.port, "rig", "station").await;
    let host = Host::new(broker.port);
    let mut counted = Counted::default();
    let order = Order {
        dir: dir.path().display().to_string(),
        port: broker.port,
        prefix: "rig/sparkplug/station".into(),
        sparkplug_host: HOST.into(),
        committers: 4,
        say_every: 50,
        ..Order::default()
    };
    let start = |quarters: u64| Station::start(&Order { records: results * quarters / 4, ..order.clone() });
    host.state(HOST, true, 1);
    let station = start(1);
    counted.until("the first quarter comes", &listener, results / 4).await;
    station.kill();

    // The host goes in the midst of the second, and is back when all of it is stored.
    let station = start(2);
    counted.until("half of the second comes", &listener, results * 3 / 8).await;
    let deaths = counted.deaths;
    host.state(HOST, false, 2);
    until("the station says goodbye", || {
        counted.read(&listener);
        counted.deaths > deaths
    })
    .await;
    let heard = counted.read(&listener);
    tokio::task::block_in_place(|| station.until("done", Duration::from_mins(30)));
    assert_eq!(counted.read(&listener), heard, "nothing is said to nobody");
    host.state(HOST, true, 3);
    counted.until("the second quarter comes", &listener, results / 2).await;

    // The broker forgets who is online; the station is killed, and begins without it.
    broker.kill();
    station.kill();
    let station = start(3);
    tokio::task::block_in_place(|| station.until("done", Duration::from_mins(30)));
    broker.restart().await;
    listener.subscribed(2).await;
    listener.broker_was_lost();
    host.state(HOST, true, 4);
    counted.until("some of the third come", &listener, results * 5 / 8).await;
    // In the midst of it.
    station.kill();
    let station = start(4);
    tokio::task::block_in_place(|| station.until("drained", Duration::from_mins(30)));
    counted.until("all have come", &listener, results).await;
    station.kill();

    let store = Store::open(dir.path(), StoreOptions::default()).expect("it opens");
    let found = store.verify().expect("it reads");
    assert_eq!((found.inspections, found.gaps, found.broken_at), (results, 0, None), "{:?}", found.reason);
    assert!(store.dead_letters().expect("they read").is_empty());
    let twice: u64 = counted.by_seq.values().map(|times| u64::from(times - 1)).sum();
    soak::report(&format!(
        "P3 sparkplug: {results} results, {} heard, {twice} again (all of them historical), {} deaths, {:.0} s",
        counted.by_seq.len(),
        counted.deaths,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((counted.by_seq.len() as u64, counted.twice_as_new), (results, 0));
}
