//! P3 with two sinks: one broker is away for a day (a day's results, counted, not timed), the other is not.
//!
//! ```text
//!     child: store --mqtt-------------------> mosquitto A --> Watcher: hears all while B is away
//!                  '-erp --> Proxy (shut) --> mosquitto B --> Watcher: hears all when B is back, in order
//! ```
//!
//! The station is killed (kill -9) twice meanwhile, and once while the second broker is served.

use crate::broker::{Broker, until};
use crate::outage::{Mode, Proxy, Watcher};
use crate::soak;
use crate::station::{Order, Station};
use inspectd::store::outbox::{Kind, MQTT};
use inspectd::store::{Store, StoreOptions};
use std::time::{Duration, Instant};

/// Results of the short form; the full count is a day of one a second.
const RESULTS: usize = 1500;
const DAY_S: usize = 86_400;

const PREFIX: &str = "rig/sinks/station";
/// As `station` calls it.
const SECOND: &str = "erp";

/// Most that a kill makes come again: what was in flight or acknowledged and not yet noted.
const TWICE_PER_KILL: u64 = 100;

async fn until_heard(what: &str, watcher: &Watcher, count: u64) {
    let mut known = 0;
    // A broker passes on what it has; only one that passes on nothing is a failure.
    while known < count {
        until(what, || watcher.distinct() > known).await;
        known = watcher.distinct();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_of_two_brokers_the_one_that_is_away_for_a_day_delays_nobody_and_misses_nothing() {
    let began = Instant::now();
    let results = soak::count(RESULTS, DAY_S) as u64;
    let dir = tempfile::tempdir().expect("a folder");
    let (near, far) = (Broker::start("", "").await, Broker::start("", "").await);
    let proxy = Proxy::new(far.port).await;
    let topic = format!("{PREFIX}/result");
    let at_near = Watcher::new(near.port, topic.clone()).await;
    let at_far = Watcher::new(far.port, topic).await;
    let order = Order {
        dir: dir.path().display().to_string(),
        port: near.port,
        second_port: proxy.port,
        prefix: PREFIX.into(),
        committers: 4,
        say_every: 50,
        ..Order::default()
    };
    // The day, with a kill at a third of it and one at two thirds.
    for third in 1..=3 {
        let records = results * third / 3;
        let station = Station::start(&Order { records, ..order.clone() });
        tokio::task::block_in_place(|| station.until("done", Duration::from_mins(30)));
        until_heard("the near broker has all", &at_near, records).await;
        assert_eq!(at_far.distinct(), 0, "the far one is away");
        station.kill();
        at_near.quiet().await;
        at_near.next_connection();
    }
    // The far broker is back; in the middle of it the station is killed once more.
    proxy.set(Mode::Open);
    let station = Station::start(&Order { records: results, ..order.clone() });
    until_heard("the far broker catches up", &at_far, results / 2).await;
    station.kill();
    at_far.quiet().await;
    at_far.next_connection();
    let station = Station::start(&Order { records: results + 1, ..order });
    tokio::task::block_in_place(|| station.until("drained", Duration::from_mins(30)));
    let results = results + 1;
    until_heard("the far broker has all", &at_far, results).await;
    until_heard("the near broker has all", &at_near, results).await;
    station.kill();

    let sinks = vec![MQTT.to_owned(), SECOND.to_owned()];
    let store = Store::open(dir.path(), StoreOptions { sinks, ..StoreOptions::default() }).expect("it opens");
    let found = store.verify().expect("it reads");
    assert_eq!((found.inspections, found.gaps, found.broken_at), (results, 0, None), "{:?}", found.reason);
    for sink in store.sinks().expect("they read") {
        // The last acknowledgements may have been lost with the kill.
        assert!(sink.owed[Kind::Result as usize] <= TWICE_PER_KILL && sink.missed == 0, "{sink:?}");
    }
    assert!(store.dead_letters().expect("they read").is_empty());
    for (name, watcher) in [("near", &at_near), ("far", &at_far)] {
        let seen = watcher.seen.lock().expect("no panic");
        soak::report(&format!(
            "P3 {name}: {results} results, {} heard, {} twice (same bytes, after a kill), {} twice on one connection, \
             {} out of order, {} changed, {:.0} s",
            seen.by_seq.len(),
            seen.twice,
            seen.twice_here,
            seen.out_of_order,
            seen.changed,
            began.elapsed().as_secs_f64()
        ));
        let bad = (seen.out_of_order, seen.changed, seen.twice_here);
        assert_eq!((seen.by_seq.len() as u64, bad), (results, (0, 0, 0)), "{name}");
        assert!(seen.twice <= 4 * TWICE_PER_KILL, "{name}: {} came twice", seen.twice);
        for stored in store.newest_first() {
            let stored = stored.expect("it reads");
            assert_eq!(seen.ids.get(&stored.seq), Some(&stored.inspection.id));
        }
    }
}
