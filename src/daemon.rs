//! The daemon: builds all parts, joins them, waits, drains.
//!
//!     cameras (a thread each) --Queue with its policy--> inspector (owner of the model)
//!         '-- a dropped frame ------------------------------. |
//!                                                           v v
//!                                         recorder: picture file, record + outbox, flushed
//!                                                            |
//!                                         mqtt (its own runtime thread): PUBLISH, PUBACK, removed
//!
//! Nothing opens before the config is checked. It ends when it is told to (SIGTERM, SIGINT), when
//! every source has ended and everything is delivered, or when the store fails: then it stops
//! acknowledging at once and systemd starts it again. Draining goes in the order of the line, so
//! that what was taken is inspected, what was inspected is stored, and what was stored is published
//! or kept for the next start.

mod cameras;
mod inspector;
mod recorder;
mod station;

use crate::camera::Stop;
use crate::config::{Config, Model};
use crate::inspect::worker::{Worker, WorkerOptions};
use crate::ipc::Program;
use crate::mqtt::state::Phase;
use crate::mqtt::{self, MqttOptions, Protocol, StationEvent};
use crate::store::{Store, StoreOptions};
use anyhow::Context;
use recorder::Recorder;
use sd_notify::NotifyState;
use station::Station;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::mpsc;

/// Events of cameras and alarms that wait for MQTT; they are rare, and the newest state wins.
const EVENTS_MAX: usize = 256;
/// How long the daemon stays to deliver the last results after all sources have ended.
const DELIVER: Duration = Duration::from_secs(30);
/// How often the daemon looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// How often counts are published.
const STATS_EVERY: Duration = Duration::from_secs(30);
/// How often old inspections are removed.
const RETENTION_EVERY: Duration = Duration::from_secs(300);
/// A stage that shows no life for so long is stalled, and the watchdog is not fed.
const STALL: Duration = Duration::from_secs(20);

/// By how much a start may go on after the last sign of life while the model is loaded.
const EXTEND: Duration = Duration::from_secs(30);

/// Runs until told to stop.
///
/// # Errors
/// When a part cannot be opened, or the store fails while running.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("mqtt")
        .build()
        .context("the tokio runtime")?;
    let options = StoreOptions {
        max_bytes: config.store.max_bytes,
        retain_days: config.store.retain_days,
        image_url_base: format!("http://{}", config.web.listen),
    };
    let store = Arc::new(Store::open(&config.store.dir, options)?);
    tracing::info!(dir = %config.store.dir.display(), outbox = store.outbox_len(), "store open");
    let (events, event_queue) = mpsc::channel(EVENTS_MAX);
    let mqtt_options = mqtt_options(&config)?;
    let link = runtime.block_on(async { mqtt::spawn(mqtt_options, Arc::clone(&store), event_queue) })?;
    let station = Arc::new(Station::new(events));
    let worker = load(&config.model)?;
    let stop = Stop::default();
    let outcome = runtime.block_on(line(&config, &store, &station, worker, &stop, link.phase()));
    runtime.block_on(async { link.stop().await })?;
    tracing::info!(outbox = store.outbox_len(), "stopped");
    outcome
}

/// Starts the threads of the line and watches them.
async fn line(
    config: &Config,
    store: &Arc<Store>,
    station: &Arc<Station>,
    worker: Worker,
    stop: &Stop,
    phase: tokio::sync::watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::new(Arc::clone(store), Arc::clone(station)));
    let cameras = cameras::start(config, &recorder, worker.info(), stop)?;
    let inspector = inspector::start(worker, cameras.feeds(), Arc::clone(&recorder), Arc::clone(station));
    notify(&[NotifyState::Ready]);
    tracing::info!(cameras = config.cameras.len(), broker = %config.mqtt.url(), "inspecting");
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut care = Care::new(Arc::clone(store), Arc::clone(station));
    let mut tick = tokio::time::interval(TICK);
    let mut told = false;
    loop {
        tokio::select! {
            _ = term.recv() => told = true,
            _ = int.recv() => told = true,
            _ = tick.tick() => care.tick()?,
        }
        if told || inspector.is_finished() || recorder.failed() {
            break;
        }
    }
    notify(&[NotifyState::Stopping]);
    tracing::info!(told, "draining");
    stop.set();
    cameras.close();
    let drained = tokio::task::spawn_blocking(move || inspector.join());
    drained.await?.map_err(|_| anyhow::anyhow!("the inspector panicked"))?;
    if !told {
        deliver(store, phase).await;
    }
    recorder.outcome()
}

/// Waits until everything is acknowledged, as long as there is a broker that might do it.
async fn deliver(store: &Store, phase: tokio::sync::watch::Receiver<Phase>) {
    let until = Instant::now() + DELIVER;
    while store.outbox_len() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = store.outbox_len();
    if left > 0 {
        tracing::warn!(left, phase = ?*phase.borrow(), "results stay in the outbox for the next start");
    }
}

/// What must be done now and then.
struct Care {
    store: Arc<Store>,
    station: Arc<Station>,
    stats_due: Instant,
    retention_due: Instant,
}

impl Care {
    fn new(store: Arc<Store>, station: Arc<Station>) -> Self {
        let now = Instant::now();
        Self { store, station, stats_due: now + STATS_EVERY, retention_due: now + RETENTION_EVERY }
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.station.alive_within(STALL) {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the inspector shows no life: the watchdog is not fed");
        }
        if now >= self.stats_due {
            self.stats_due = now + STATS_EVERY;
            let stats = self.station.take_stats(STATS_EVERY, self.store.outbox_len());
            self.station.tell(StationEvent::Stats(stats));
        }
        if now >= self.retention_due {
            self.retention_due = now + RETENTION_EVERY;
            let pruned = self.store.enforce_retention(std::time::SystemTime::now())?;
            if pruned.inspections > 0 {
                tracing::info!(?pruned, "old inspections removed");
            }
        }
        Ok(())
    }
}

/// Loads the model before the first camera opens: a bad file stops the start, not the line.
fn load(model: &Model) -> anyhow::Result<Worker> {
    let program = engine_program(model);
    let mut worker = Worker::new(WorkerOptions::new(program, model.unload_after_idle));
    let started = Instant::now();
    // A large model may take minutes: systemd is told to wait on, while the engine's process lives.
    let alive = || notify(&[NotifyState::ExtendTimeoutUsec(EXTEND.as_micros() as u32)]);
    let info = worker.load(&alive)?.clone();
    tracing::info!(model = %info.name, sha256 = %info.text_sha256, ms = started.elapsed().as_millis() as u64, "model loaded");
    Ok(worker)
}

/// `inspectd infer` with what the config says of the model.
fn engine_program(model: &Model) -> Program {
    let (threads, memory_mb) = (model.threads.to_string(), model.memory_mb.to_string());
    let text: [std::ffi::OsString; 11] = [
        "infer".into(),
        "--text".into(),
        model.text.clone().into(),
        "--mmproj".into(),
        model.mmproj.clone().into(),
        "--threads".into(),
        threads.into(),
        "--memory-mb".into(),
        memory_mb.into(),
        "--kv".into(),
        model.kv.name().into(),
    ];
    Program::new(text)
}

fn mqtt_options(config: &Config) -> anyhow::Result<MqttOptions> {
    let m = &config.mqtt;
    let secret = |s: crate::config::Secret| s.expose().to_owned();
    Ok(MqttOptions {
        host: m.host.clone(),
        port: m.port,
        protocol: match m.protocol {
            crate::config::Protocol::V5 => Protocol::V5,
            crate::config::Protocol::V311 => Protocol::V311,
        },
        client_id: m.client_id.clone(),
        username: m.username.clone().map(secret),
        password: m.read_password().context("[mqtt] password_file")?.map(secret),
        prefix: config.station.topic("").trim_end_matches('/').to_owned(),
        keep_alive: Duration::from_secs(m.keep_alive_s.into()),
    })
}

/// Tells systemd; without systemd nobody listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
