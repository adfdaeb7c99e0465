//! A station without its engine, as a child process: the real store, the real MQTT, one committer.
//!
//! ```text
//! parent --environment: what to do--> child: open, commit …, deliver
//! parent <--standard output, a line each-- opened | acked SEQ ID | kept N | full | room | done | drained
//! ```
//!
//! A line is printed only after the store has acknowledged, so what the parent has read is what the
//! daemon would have promised.

use crate::inspections::inspection;
use crate::learned;
use inspectd::clock::Clock;
use inspectd::daemon::heap;
use inspectd::publish::StationEvent;
use inspectd::publish::mqtt::dialect::Spoken;
use inspectd::publish::mqtt::sparkplug::edge::Edge;
use inspectd::publish::mqtt::{self, MqttOptions, Protocol};
use inspectd::store::outbox::MQTT;
use inspectd::store::{Store, StoreOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, SystemTime};

/// Set in the child.
const CHILD: &str = "INSPECTD_TEST_RIG_CHILD";

/// What the child learns, instead of committing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Learns {
    #[default]
    Nothing,
    /// Versions of a recipe, into the store.
    Versions,
    /// Banks, into `dir`.
    Banks,
}

/// What the child does.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Order {
    pub dir: String,
    /// Broker; 0: none.
    pub port: u16,
    /// A second one, of a sink `erp`; 0: none.
    pub second_port: u16,
    pub prefix: String,
    /// The broker is spoken to in Sparkplug, and this host is waited for; empty: JSON.
    pub sparkplug_host: String,
    pub free_bytes_min: u64,
    /// 0: no retention.
    pub max_bytes: u64,
    /// The database is compacted at an open beyond so many bytes; 0: the usual.
    pub compact_above_bytes: u64,
    /// Records in all until it only delivers; 0: no end.
    pub records: u64,
    /// Every so many records have a picture of so many bytes; 0: none has.
    pub picture_every: u64,
    pub picture_bytes: usize,
    /// Threads that commit.
    pub committers: u64,
    pub pause_us: u64,
    /// Say `acked` of every so many records; 0: of all.
    pub say_every: u64,
    pub learns: Learns,
}

pub(crate) fn say(line: &str) {
    // The parent may be gone; then there is nothing left to do. This ends the process at once.
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        end();
    }
}

/// Ends the process as a failing daemon would end, whatever its other threads do.
pub(crate) fn end() -> ! {
    // SAFETY: ends the process at once; nothing is left to be written.
    unsafe { libc::_exit(1) }
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    // As the daemon does, so that a rig that weighs this process weighs what the daemon keeps. Without it each
    // thread that the database frees on (committers, its own, those that read for MQTT) keeps what it freed, in
    // up to 16 heaps: of 43,200 delivered results 10 MiB were in use, and 17 MiB more free and not given back.
    heap::bound();
    let order: Order = serde_json::from_str(&order).expect("the order parses");
    if order.learns == Learns::Banks {
        return learned::write_banks(&order);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = StoreOptions {
        free_bytes_min: order.free_bytes_min,
        max_bytes: if order.max_bytes == 0 { u64::MAX } else { order.max_bytes },
        outbox_entries_max: u64::MAX,
        compact_above_bytes: match order.compact_above_bytes {
            0 => StoreOptions::default().compact_above_bytes,
            bytes => bytes,
        },
        sinks: match order.second_port {
            0 => vec![MQTT.into()],
            _ => vec![MQTT.into(), "erp".into()],
        },
        ..StoreOptions::default()
    };
    let store = match Store::open(Path::new(&order.dir), options) {
        Ok(store) => Arc::new(store),
        Err(error) => return say(&format!("refused {error}")),
    };
    say("opened");
    if order.learns == Learns::Versions {
        return learned::learn(&order, &store);
    }
    let ports = [(MQTT, order.port), ("erp", order.second_port)].into_iter().filter(|(_, port)| *port != 0);
    let _links: Vec<_> = ports.map(|(sink, port)| connect(&runtime, &order, &store, sink, port)).collect();
    commit_all(&order, &store);
    say("done");
    while store.outbox_len() > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    say("drained");
    // The parent looks at the process, then ends it.
    std::thread::park();
}

/// A sink, and the end of its queue of events, which nobody fills.
fn connect(
    runtime: &tokio::runtime::Runtime,
    order: &Order,
    store: &Arc<Store>,
    sink: &str,
    port: u16,
) -> (mqtt::Handle, tokio::sync::mpsc::Sender<StationEvent>) {
    let options = MqttOptions {
        sink: sink.into(),
        dialect: match order.sparkplug_host.as_str() {
            "" => Spoken::Json,
            host => Spoken::Sparkplug(Arc::new(Edge {
                group: "rig".into(),
                node: "station".into(),
                primary_host: Some(host.to_owned()),
                host_lost: Duration::from_secs(1),
                devices: vec!["cam1".into()],
                commands: false,
            })),
        },
        host: "127.0.0.1".into(),
        port,
        protocol: Protocol::V5,
        client_id: order.prefix.replace('/', "-"),
        username: None,
        password: None,
        tls: None,
        prefix: order.prefix.clone(),
        keep_alive: Duration::from_secs(5),
        images_px: None,
    };
    let (events, receiver) = tokio::sync::mpsc::channel(16);
    let handle = runtime.block_on(async { mqtt::spawn(options, Arc::clone(store), receiver, None) });
    (handle.expect("it starts"), events)
}

fn commit_all(order: &Order, store: &Store) {
    let last = store.newest_first().next().map_or(0, |s| s.expect("the newest record reads").seq);
    let next = std::sync::atomic::AtomicU64::new(last + 1);
    std::thread::scope(|scope| {
        for _ in 0..order.committers.max(1) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if order.records != 0 && n > order.records {
                        return;
                    }
                    commit_one(order, store, n);
                    if order.max_bytes != 0 && n.is_multiple_of(200) {
                        prune(store);
                    }
                    if order.pause_us != 0 {
                        std::thread::sleep(Duration::from_micros(order.pause_us));
                    }
                }
            });
        }
    });
}

fn prune(store: &Store) {
    match store.keep_within_limits(&Clock::system()) {
        Ok(_) => {}
        Err(error) => {
            say(&format!("failed retention: {error}"));
            end();
        }
    }
}

/// The recorder's way: a full store is waited for, any other failure ends the process.
fn commit_one(order: &Order, store: &Store, n: u64) {
    let mut part = inspection(n);
    part.captured_at = SystemTime::now();
    part.finished_at = part.captured_at;
    // Every seventh record is too long for a value and has a file beside it.
    if n.is_multiple_of(7) && order.max_bytes == 0 {
        part.findings = vec![part.findings[0].clone(); 40];
    }
    let picture = (order.picture_every != 0 && n.is_multiple_of(order.picture_every))
        .then(|| n.to_le_bytes().into_iter().cycle().take(order.picture_bytes.max(8)).collect::<Vec<u8>>());
    let mut waits = false;
    loop {
        let image = picture.as_deref().map(|p| store.put_image(p, "jpg")).transpose();
        match image.and_then(|image| store.commit(&part, image)) {
            Ok(committed) => {
                if waits {
                    say("room");
                }
                // Nobody else does; what is not delivered is never removed.
                if order.port == 0
                    && order.max_bytes != 0
                    && let Err(error) = store.ack(&[committed.seq])
                {
                    say(&format!("failed {error}"));
                    end();
                }
                if order.say_every == 0 || n.is_multiple_of(order.say_every) {
                    say(&format!("acked {} {} .", committed.seq, part.id));
                }
                return;
            }
            Err(error) if error.passes() => {
                if !std::mem::replace(&mut waits, true) {
                    say(&format!("full {error}"));
                }
                // What can go makes room by itself.
                if order.max_bytes != 0 {
                    prune(store);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                say(&format!("failed {error}"));
                end();
            }
        }
    }
}

/// A running child and what it has said so far.
pub(crate) struct Station {
    pub process: Child,
    lines: Receiver<String>,
}

impl Station {
    pub(crate) fn start(order: &Order) -> Self {
        Self::start_with(order, |_| {})
    }

    /// `change` adds to the command, for example a library that is loaded first.
    pub(crate) fn start_with(order: &Order, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test binary has a path"));
        command
            .args(["--exact", "station::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, serde_json::to_string(order).expect("an order serialises"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        change(&mut command);
        let mut process = command.spawn().expect("the test binary runs again");
        let lines = read_lines(process.stdout.take().expect("its output is a pipe"));
        Self { process, lines }
    }

    /// The next line, when one comes in time.
    pub(crate) fn line(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    /// Everything that has been read so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits for a line that begins so; the lines before it come along.
    pub(crate) fn until(&self, start: &str, within: Duration) -> Vec<String> {
        let began = std::time::Instant::now();
        let mut said = vec![];
        while let Some(line) = self.line(within.saturating_sub(began.elapsed())) {
            let found = line.starts_with(start);
            said.push(line);
            if found {
                return said;
            }
        }
        panic!("no {start:?} within {within:?}; it said {:?}", &said[said.len().saturating_sub(5)..]);
    }

    /// kill -9; the rest of what it said. A process that had ended by itself is said as a failure.
    pub(crate) fn kill(mut self) -> Vec<String> {
        let ended = self.process.try_wait().expect("it can be asked");
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it is reaped");
        let ended = ended.map(|status| format!("failed by itself: {status}"));
        self.lines.iter().chain(ended).collect()
    }
}

/// What a line of the child begins with; the harness says other things.
const WORDS: [&str; 9] = ["opened", "acked", "kept", "full", "room", "done", "drained", "refused", "failed"];

fn read_lines(out: ChildStdout) -> Receiver<String> {
    // Bounded: a parent that does not read holds up the child, as a pipe would.
    let (tx, lines) = sync_channel(1 << 16);
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // The harness prints its own name of the test before the first line.
            let line = line.rsplit("... ").next().unwrap_or_default().to_owned();
            let ours = WORDS.iter().any(|word| line.starts_with(word));
            if ours && tx.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// (seq, id) of a line `acked SEQ ID .`, when the whole line arrived.
pub(crate) fn acked(line: &str) -> Option<(u64, String)> {
    let mut words = line.strip_prefix("acked ")?.split(' ');
    let (seq, id, end) = (words.next()?, words.next()?, words.next()?);
    (end == ".").then_some((seq.parse().ok()?, id.to_owned()))
}
