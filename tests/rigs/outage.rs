//! P3: the broker away, then everything that a network and a broker can do wrong, and every result
//! arrives, in order, under the same id and with the same bytes.
//!
//! ```text
//! child: store and MQTT --> Proxy (open, shut, stalled, 1 B/s, PUBACKs dropped) --> mosquitto --> Watcher
//! ```
//!
//! A day of one result a second is committed while the proxy is shut; the faults come while the
//! backlog is delivered.

use crate::broker::{Broker, until};
use crate::soak;
use crate::station::{Order, Station};
use inspectd::store::{Store, StoreOptions};
use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

/// Results of the short form; the full count is a day.
const RESULTS: usize = 3000;
const DAY_S: usize = 86_400;

/// How far the station may grow with the commits, and again from where its store rests to the end of it all.
///
/// What lies between is the database's own, and as much without any broker: for some 40 s after the commits of a
/// day it cleans its file and keeps the pages that it reads for that, since its cache evicts only when one of 256
/// shards was asked 64 times. A station without MQTT went from 33 MiB to 46 then, and stayed there; with 200,000
/// records it was 42 and 56. What of it happens to fall into the delivery says nothing of the delivery.
const MEMORY_GROWTH_MAX_BYTES: u64 = 15 << 20;
/// How far it may grow while the store comes to rest.
const REST_GROWTH_MAX_BYTES: u64 = 20 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// Cuts what is open, refuses what is new.
    Shut,
    /// Half-open: connections stand, and nothing passes.
    Stalled,
    /// One byte a second, either way.
    Slow,
    /// Everything passes but acknowledgements.
    NoAcks,
}

pub(crate) struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn new(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (mode, modes) = watch::channel(Mode::Shut);
        let task = tokio::spawn(async move {
            loop {
                let Ok((inner, _)) = listener.accept().await else { continue };
                if *modes.borrow() == Mode::Shut {
                    continue;
                }
                let mut shut = modes.clone();
                let modes = modes.clone();
                tokio::spawn(async move {
                    let Ok(outer) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let (from_inner, to_inner) = inner.into_split();
                    let (from_outer, to_outer) = outer.into_split();
                    tokio::select! {
                        () = pass(from_inner, to_outer, modes.clone(), false) => {}
                        () = pass(from_outer, to_inner, modes, true) => {}
                        _ = shut.wait_for(|mode| *mode == Mode::Shut) => {}
                    }
                });
            }
        });
        Self { port, mode, task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    async fn cut(&self) {
        self.set(Mode::Shut);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.set(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes on as the mode says; from the broker packet by packet, so that one kind can be left out.
async fn pass(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    from_broker: bool,
) {
    let mut waiting: Vec<u8> = vec![];
    loop {
        let mut chunk = [0; 4096];
        let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
        waiting.extend_from_slice(&chunk[..read]);
        if modes.wait_for(|mode| *mode != Mode::Stalled).await.is_err() {
            return;
        }
        let whole = if from_broker { whole_packets(&waiting) } else { waiting.len() };
        let mut out: Vec<u8> = waiting.drain(..whole).collect();
        if from_broker && *modes.borrow() == Mode::NoAcks {
            out = without_acks(&out);
        }
        let mut sent = 0;
        while sent < out.len() {
            let slow = *modes.borrow() == Mode::Slow;
            let end = if slow { sent + 1 } else { out.len() };
            if to.write_all(&out[sent..end]).await.is_err() {
                return;
            }
            sent = end;
            if slow {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Bytes of the first packet of MQTT, when all of it is here.
fn packet_bytes(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(2 + at + length).filter(|whole| *whole <= bytes.len());
        }
    }
    None
}

fn whole_packets(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(packet) = packet_bytes(&bytes[whole..]) {
        whole += packet;
    }
    whole
}

fn without_acks(mut bytes: &[u8]) -> Vec<u8> {
    const PUBACK: u8 = 4;
    let mut kept = vec![];
    while let Some(packet) = packet_bytes(bytes) {
        if bytes[0] >> 4 != PUBACK {
            kept.extend_from_slice(&bytes[..packet]);
        }
        bytes = &bytes[packet..];
    }
    kept
}

#[derive(Default)]
pub(crate) struct Seen {
    /// seq -> hash of the bytes.
    pub by_seq: HashMap<u64, [u8; 32]>,
    pub ids: HashMap<u64, String>,
    heard: u64,
    pub twice: u64,
    pub changed: u64,
    pub out_of_order: u64,
    highest: u64,
    /// What came since the last `next_connection`, and how much of it twice.
    here: HashSet<u64>,
    pub twice_here: u64,
}

impl Seen {
    fn take(&mut self, payload: &[u8]) {
        let json: serde_json::Value = serde_json::from_slice(payload).expect("a result is JSON");
        let seq = json["seq"].as_u64().expect("a number");
        let hash: [u8; 32] = Sha256::digest(payload).into();
        self.heard += 1;
        self.twice_here += u64::from(!self.here.insert(seq));
        match self.by_seq.insert(seq, hash) {
            Some(before) if before == hash => self.twice += 1,
            Some(_) => self.changed += 1,
            None => {
                self.out_of_order += u64::from(seq < self.highest);
                self.ids.insert(seq, json["inspection_id"].as_str().expect("a text").to_owned());
                self.highest = self.highest.max(seq);
            }
        }
    }
}

/// A subscriber that keeps hashes only.
pub(crate) struct Watcher {
    pub seen: Arc<Mutex<Seen>>,
    subscribed: watch::Receiver<u32>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    pub(crate) async fn new(port: u16, topic: String) -> Self {
        let mut options = MqttOptions::new("watcher", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut eventloop) = AsyncClient::new(options, 10);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tx, subscribed) = watch::channel(0);
        let inner = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        client.try_subscribe(&topic, QoS::AtLeastOnce).expect("there is room");
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => tx.send_modify(|n| *n += 1),
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        inner.lock().expect("no panic").take(&p.payload);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let watcher = Self { seen, subscribed, task };
        watcher.subscribed(1).await;
        watcher
    }

    async fn subscribed(&self, times: u32) {
        let subscribed = self.subscribed.clone();
        until("the watcher is subscribed", || *subscribed.borrow() >= times).await;
    }

    /// What comes from here on comes on another connection of the station.
    pub(crate) fn next_connection(&self) {
        self.seen.lock().expect("no panic").here.clear();
    }

    pub(crate) fn distinct(&self) -> u64 {
        self.seen.lock().expect("no panic").by_seq.len() as u64
    }

    /// Waits until nothing more comes: what the broker has acknowledged, it has passed on.
    pub(crate) async fn quiet(&self) {
        let heard = || self.seen.lock().expect("no panic").heard;
        let mut before = heard();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match heard() {
                now if now == before => return,
                now => before = now,
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the child is there");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") * 1024
}

/// Waits until the process has stopped growing; returns its most.
fn rss_bytes_at_rest(pid: u32) -> u64 {
    const RESTS_FOR: Duration = Duration::from_secs(5);
    const STEP_BYTES: u64 = 256 << 10;
    let began = Instant::now();
    let (mut most, mut noted, mut noted_at) = (0, 0, began);
    while noted_at.elapsed() < RESTS_FOR {
        most = most.max(rss_bytes(pid));
        if most > noted + STEP_BYTES {
            (noted, noted_at) = (most, Instant::now());
        }
        assert!(began.elapsed() < Duration::from_mins(5), "a station that only waits for its broker grows");
        std::thread::sleep(Duration::from_millis(100));
    }
    most
}

const PREFIX: &str = "rig/p3/station";
const ALLOW: &str = "topic readwrite #\n";

struct Rig {
    broker: Broker,
    proxy: Proxy,
    watcher: Watcher,
    restarts: u32,
    refusals: u32,
    rss_max: u64,
    pid: u32,
}

impl Rig {
    /// Waits until so many more have arrived, or all.
    async fn more(&mut self, count: u64, all: u64) {
        let target = (self.watcher.distinct() + count).min(all);
        until("results go on to arrive", || self.watcher.distinct() >= target).await;
        self.rss_max = self.rss_max.max(rss_bytes(self.pid));
    }

    /// Kills the broker and starts it without its memory; what it acknowledged was passed on before.
    async fn restart_broker(&mut self, refuse: bool) {
        self.proxy.set(Mode::Shut);
        self.watcher.quiet().await;
        if refuse {
            self.broker.write_acl(&format!("{ALLOW}topic deny {PREFIX}/result\n"));
            self.restart_and_open().await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
            self.refusals += 1;
            self.proxy.set(Mode::Shut);
            self.broker.write_acl(ALLOW);
        }
        self.restart_and_open().await;
    }

    async fn restart_and_open(&mut self) {
        self.broker.restart().await;
        self.restarts += 1;
        self.watcher.subscribed(self.restarts + 1).await;
        self.proxy.set(Mode::Open);
    }

    async fn fault(&mut self, n: usize, all: u64) {
        match n % 50 {
            7 => self.restart_broker(false).await,
            17 => self.restart_broker(true).await,
            27 => self.for_a_while(Mode::Slow, Duration::from_millis(2500)).await,
            37 => self.for_a_while(Mode::NoAcks, Duration::from_secs(1)).await,
            47 => self.for_a_while(Mode::Stalled, Duration::from_secs(1)).await,
            _ => self.proxy.cut().await,
        }
        self.rss_max = self.rss_max.max(rss_bytes(self.pid));
        let _ = all;
    }

    async fn for_a_while(&self, mode: Mode, time: Duration) {
        self.proxy.set(mode);
        tokio::time::sleep(time).await;
        self.proxy.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_day_without_a_broker_and_every_fault_lose_nothing() {
    let began = Instant::now();
    let results = soak::count(RESULTS, DAY_S) as u64;
    // As many faults as the promise names, in proportion.
    let faults = (results as usize / 172).clamp(50, 500);
    let dir = tempfile::tempdir().expect("a folder");
    let broker = Broker::start("acl_file ACL", ALLOW).await;
    let proxy = Proxy::new(broker.port).await;
    let watcher = Watcher::new(broker.port, format!("{PREFIX}/result")).await;
    let order = Order {
        dir: dir.path().display().to_string(),
        port: proxy.port,
        prefix: PREFIX.into(),
        records: results,
        committers: 8,
        say_every: results / 20,
        ..Order::default()
    };
    let station = Station::start(&order);
    tokio::task::block_in_place(|| station.until("acked", Duration::from_mins(2)));
    let rss_first = rss_bytes(station.process.id());
    tokio::task::block_in_place(|| station.until("done", Duration::from_mins(10)));
    let rss_away = rss_bytes(station.process.id());
    let stored = began.elapsed();
    let pid = station.process.id();
    let rss_rest = tokio::task::block_in_place(|| rss_bytes_at_rest(pid));
    let mut rig = Rig { broker, proxy, watcher, restarts: 0, refusals: 0, rss_max: rss_rest, pid };

    // Half-open from the first moment: only the keep-alive or the wait for acknowledgements ends it.
    rig.proxy.set(Mode::Open);
    rig.more(50, results).await;
    rig.proxy.set(Mode::Stalled);
    tokio::time::sleep(Duration::from_secs(12)).await;
    rig.proxy.set(Mode::Open);
    for n in 0..faults {
        rig.more((results / faults as u64).saturating_sub(40), results).await;
        rig.fault(n, results).await;
    }
    tokio::task::block_in_place(|| station.until("drained", Duration::from_mins(5)));
    until("all are heard", || rig.watcher.distinct() >= results).await;
    let growth_away = rss_away.saturating_sub(rss_first);
    let growth_after = rig.rss_max.saturating_sub(rss_rest);
    station.kill();

    let store = Store::open(dir.path(), StoreOptions::default()).expect("it opens");
    let seen = rig.watcher.seen.lock().expect("no panic");
    let mut wrong_ids = 0;
    for stored in store.newest_first() {
        let stored = stored.expect("it reads");
        wrong_ids += u64::from(seen.ids.get(&stored.seq) != Some(&stored.inspection.id));
    }
    let dead = store.dead_letters().expect("they read").len();
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    soak::report(&format!(
        "P3: {results} results, broker away for {:.0} s of commits, {faults} cuts and faults, {} restarts without memory, \
         {} refusals, {} heard ({} twice, same bytes), {} lost, {} out of order, {} changed, {} other ids, {dead} dead \
         letters, memory +{:.1} MiB with the commits, +{:.1} while the store came to rest, +{:.1} after, {:.0} s",
        stored.as_secs_f64(),
        rig.restarts,
        rig.refusals,
        seen.heard,
        seen.twice,
        results - seen.by_seq.len() as u64,
        seen.out_of_order,
        seen.changed,
        wrong_ids,
        mb(growth_away),
        mb(rss_rest.saturating_sub(rss_away)),
        mb(growth_after),
        began.elapsed().as_secs_f64()
    ));
    assert_eq!(
        (seen.by_seq.len() as u64, seen.out_of_order, seen.changed, wrong_ids, dead),
        (results, 0, 0, 0, 0)
    );
    assert!(growth_away + growth_after < MEMORY_GROWTH_MAX_BYTES);
    assert!(rss_rest.saturating_sub(rss_away) < REST_GROWTH_MAX_BYTES);
}

#[test]
fn packets_are_told_apart() {
    let puback = [0x40, 2, 0, 7];
    let long = [&[0x30, 0x80, 1][..], &[0; 128]].concat();
    let both = [&puback[..], &long, &puback, &long[..40]].concat();
    assert_eq!(whole_packets(&both), both.len() - 40);
    assert_eq!(without_acks(&both[..both.len() - 40]), long);
}
