//! P1: no acknowledged result is lost and none appears under two ids, however often the process is
//! killed.
//!
//! ```text
//! child: store and MQTT --> mosquitto --> subscriber
//!   '-- acked lines --> parent: kill -9, a fifth of them in the first 200 ms
//! at the end of a round: what was acknowledged = what is stored = what was heard
//! ```

use crate::broker::{Broker, Subscriber, until};
use crate::inspections::id;
use crate::soak;
use crate::station::{Order, Station, acked};
use inspectd::store::{Store, StoreOptions};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const KILLS: usize = 40;

/// Kills of one store; then its round is judged, and a new one begins.
const ROUND: usize = 250;

#[derive(Default)]
struct Figures {
    kills: usize,
    early: usize,
    acknowledged: usize,
    stored: u64,
    heard: usize,
    twice: usize,
    refused: usize,
    lost: usize,
    doubled: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_kill_minus_nine_loses_nothing() {
    let kills = soak::count(KILLS, 5000);
    let began = Instant::now();
    let broker = Broker::start("", "").await;
    let mut figures = Figures::default();
    let mut round = 0;
    while figures.kills < kills {
        round += 1;
        let count = ROUND.min(kills - figures.kills);
        one_round(&broker, round, count, &mut figures).await;
    }
    let f = &figures;
    soak::report(&format!(
        "P1: {} kills, {} in the first 200 ms, {} acknowledged, {} stored, {} heard ({} twice, same bytes), {} lost, \
         {} doubled ids, {} refused opens, {:.0} s",
        f.kills,
        f.early,
        f.acknowledged,
        f.stored,
        f.heard,
        f.twice,
        f.lost,
        f.doubled,
        f.refused,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((f.lost, f.doubled, f.refused), (0, 0, 0));
    assert!(f.acknowledged > f.kills, "there was something to lose: {}", f.acknowledged);
}

async fn one_round(broker: &Broker, round: usize, kills: usize, figures: &mut Figures) {
    let dir = tempfile::tempdir().expect("a folder");
    let prefix = format!("rig/p1/{}/{round}", std::process::id());
    let subscriber = Subscriber::new(broker.port, &prefix).await;
    let order = Order {
        dir: dir.path().display().to_string(),
        port: broker.port,
        prefix,
        picture_every: 3,
        picture_bytes: 2000,
        // Small enough that many of the opens compact, and many of the kills fall into it.
        compact_above_bytes: 1 << 19,
        ..Order::default()
    };
    let mut promised: BTreeMap<u64, String> = BTreeMap::new();
    for kill in 0..kills {
        let early = kill % 5 == 0;
        let station = Station::start(&order);
        let wait = rand::thread_rng().gen_range(0..if early { 200_000 } else { 60_000 });
        let mut said = vec![];
        if !early {
            said.extend(station.line(Duration::from_mins(1)));
            said.extend(station.line(Duration::from_mins(1)));
        }
        tokio::time::sleep(Duration::from_micros(wait)).await;
        said.extend(station.kill());
        figures.refused +=
            said.iter().filter(|l| l.starts_with("refused") || l.starts_with("failed")).count();
        figures.early += usize::from(early);
        for (seq, id) in said.iter().filter_map(|l| acked(l)) {
            figures.acknowledged += 1;
            // Acknowledged twice under one number, or one id under two numbers, would be a double.
            figures.doubled += usize::from(promised.insert(seq, id).is_some());
        }
        figures.kills += 1;
    }
    // What is owed is delivered by a last run, which adds one record.
    let store = Store::open(dir.path(), StoreOptions::default()).expect("it opens after every kill");
    let found = store.verify().expect("it reads");
    assert_eq!((found.gaps, found.broken_at), (0, None), "{:?}", found.reason);
    let records = found.inspections;
    for (seq, id) in &promised {
        let stored = store.get(*seq).expect("it reads");
        let fine = stored.is_some_and(|s| {
            s.inspection.id == *id && s.image.is_none_or(|i| store.image_path(&i.image.sha256).is_some())
        });
        figures.lost += usize::from(!fine);
    }
    drop(store);
    let station = Station::start(&Order { records, ..order });
    tokio::task::block_in_place(|| station.until("drained", Duration::from_mins(2)));
    station.kill();
    let heard = |n: u64| subscriber.on("/result").iter().any(|m| m.json()["seq"] == n);
    until("the last result is heard", || records == 0 || heard(records)).await;
    let mut by_seq: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for message in subscriber.on("/result") {
        let json = message.json();
        let seq = json["seq"].as_u64().expect("a number");
        figures.doubled += usize::from(json["inspection_id"] != id(seq).as_str());
        match by_seq.insert(seq, message.payload.clone()) {
            Some(before) if before == message.payload => figures.twice += 1,
            Some(_) => figures.doubled += 1,
            None => {}
        }
    }
    figures.lost += (1..=records).filter(|seq| !by_seq.contains_key(seq)).count();
    figures.stored += records;
    figures.heard += by_seq.len();
}
