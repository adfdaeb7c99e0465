//! The daemon: builds all parts, joins them, waits, drains.
//!
//!     cameras (a thread each) --Queue with its policy--> inspector (owner of the model)
//!         '-- a dropped frame ------------------------------. |   '--> engine: a process of its own,
//!                                                           v v        killed when it hangs
//!                                         recorder: picture file, record + outbox, flushed
//!                                                            |
//!                                         web (threads of its own): the review page
//!                                         mqtt (its own runtime thread): PUBLISH, PUBACK, removed
//!
//!     commands: MQTT, HTTP, files (`inbox`) --> desk --> cameras
//!     `inspectd verify` and its like: control (threads of its own) --> store
//!
//! Nothing opens before the config is checked. While the disk or the outbox is full the line stands,
//! visibly (`care` says so), and goes on by itself. It ends when it is told to (SIGTERM, SIGINT), when
//! every source has ended and everything is delivered, or when the store fails: then it stops
//! acknowledging at once and systemd starts it again, unless the store is `damaged`. Draining goes in the order of the line, so
//! that what was taken is inspected, what was inspected is stored, and what was stored is published
//! or kept for the next start.

mod anew;
mod board;
mod cameras;
mod care;
mod commanded;
mod counter;
pub mod damaged;
pub mod desk;
mod device;
mod gate;
mod heap;
mod inbox;
mod inspector;
mod interrupted;
mod model;
mod recorder;
mod repeats;
mod station;
mod taken;
mod taker;
mod web;

use crate::camera::Stop;
use crate::command::Handler;
use crate::config::{BrokerTls, Config, Model};
use crate::control::server::Door;
use crate::inspect::worker::{Worker, WorkerOptions};
use crate::ipc::Program;
use crate::mqtt::state::Phase;
use crate::mqtt::{self, MqttOptions, Protocol};
use crate::store::{Store, StoreOptions};
use crate::web::Web;
use anyhow::Context;
use care::{Care, Due};
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

/// By how much a start may go on after the last sign of life while the model is loaded.
const EXTEND: Duration = Duration::from_secs(30);

/// Why a line has ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Somebody said so, or every source has ended.
    Done,
    /// The database is to be compacted, which only an opening store does.
    ToCompact,
}

/// Runs until told to stop.
///
/// # Errors
/// When a part cannot be opened, or the store fails while running; `damaged::Damaged` when no restart mends it.
pub fn run(config: Config) -> anyhow::Result<()> {
    heap::bound();
    loop {
        match run_once(&config) {
            Ok(Ended::Done) => return Ok(()),
            Ok(Ended::ToCompact) => {
                tracing::info!("the line starts again after its database was closed for compaction");
            }
            Err(error) if damaged::is_damage(&error) => return Err(damaged::report(&config, &error).into()),
            Err(error) => return Err(error),
        }
    }
}

fn run_once(config: &Config) -> anyhow::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("mqtt")
        .build()
        .context("the tokio runtime")?;
    let options = StoreOptions {
        max_bytes: config.store.max_bytes,
        retain_days: config.store.retain_days,
        clock: config.store.clock,
        image_url_base: web::url_base(config),
        outbox_entries_max: config.mqtt.outbox_entries_max,
        free_bytes_min: config.store.free_bytes_min,
        ..StoreOptions::default()
    };
    let store = Arc::new(Store::open(&config.store.dir, options)?);
    for note in &config.notes {
        tracing::warn!(note, "a pipeline that no camera names cannot be used");
    }
    tracing::info!(dir = %config.store.dir.display(), outbox = store.outbox_len(), "store open");
    let control = Door::open(&config.store.dir, Arc::clone(&store)).context("the local door of the store")?;
    let (events, event_queue) = mpsc::channel(EVENTS_MAX);
    let mqtt_options = mqtt_options(config)?;
    let link = runtime.block_on(async { mqtt::spawn(mqtt_options, Arc::clone(&store), event_queue) })?;
    let station = Arc::new(Station::new(events));
    let worker = load(&config.model, &store)?;
    let page = web::start(config, &store, &station, link.phase())?;
    let stop = Stop::default();
    let outcome =
        runtime.block_on(line(config, &store, &station, worker, page.as_ref(), &stop, link.phase()));
    // They hold the store, which a compaction opens anew.
    drop((page, control));
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
    page: Option<&Web>,
    stop: &Stop,
    mut phase: tokio::sync::watch::Receiver<Phase>,
) -> anyhow::Result<Ended> {
    let recorder =
        Arc::new(Recorder::new(Arc::clone(store), Arc::clone(station), stop.clone(), config.web.is_some())?);
    let interrupted = interrupted::record(config, store, &recorder, worker.info(), stop)?;
    let cameras = cameras::start(config, store, &recorder, station, worker.info(), stop)?;
    let desk = cameras.desk();
    let fates: Arc<dyn inbox::Fates> = Arc::<desk::Desk>::clone(&desk);
    let handler: Handler = Arc::new(move |command, sender| desk.take(command, sender));
    let dir = config.trigger_dir.as_deref();
    let start =
        |dir| inbox::start(dir, Arc::clone(&handler), Arc::clone(&fates), Arc::clone(station), stop.clone());
    // First, while the desk still knows all files of the former process.
    let inbox = dir.map(start).transpose().context("[trigger] dir")?;
    if let Some(page) = page {
        page.app.take_commands(Arc::clone(&handler));
        let station = Arc::clone(station);
        page.app.show_cameras(Box::new(move || station.cameras()));
    }
    let commands = mqtt::command::listen(mqtt_options(config)?, handler, station::hearing(station));
    let gate = gate::Gate::new(Arc::clone(store));
    let inspector =
        inspector::start(worker, cameras.feeds(), Arc::clone(&recorder), Arc::clone(station), gate)?;
    notify(&[NotifyState::Ready]);
    tracing::info!(cameras = config.cameras.len(), broker = %config.mqtt.url(), "inspecting");
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut care = Care::new(Arc::clone(store), Arc::clone(station));
    let mut tick = tokio::time::interval(care::TICK);
    let (mut told, mut ended) = (false, Ended::Done);
    // A source that ends would begin anew.
    let endless = config.cameras.iter().all(|c| c.source.is_endless());
    loop {
        tokio::select! {
            _ = term.recv() => told = true,
            _ = int.recv() => told = true,
            // Its error comes with `stop`.
            () = gone(&mut phase) => break,
            _ = tick.tick() => if care.tick()? == Due::Compaction && endless {
                ended = Ended::ToCompact;
            },
        }
        if told || ended == Ended::ToCompact || inspector.is_finished() || recorder.failed() {
            break;
        }
    }
    if ended == Ended::Done {
        notify(&[NotifyState::Stopping]);
    }
    tracing::info!(told, ?ended, "draining");
    drop(commands);
    stop.set();
    cameras.close();
    if inbox.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the thread of triggers by file had panicked");
    }
    if interrupted.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the thread of interrupted triggers had panicked");
    }
    let drained = tokio::task::spawn_blocking(move || inspector.join());
    drained.await?.map_err(|_| anyhow::anyhow!("the inspector panicked"))?;
    if !told && ended == Ended::Done {
        deliver(store, phase).await;
    }
    care.finish();
    recorder.outcome().map(|()| if told { Ended::Done } else { ended })
}

/// Waits until the MQTT task has ended, which it only does on an error of the store.
async fn gone(phase: &mut tokio::sync::watch::Receiver<Phase>) {
    while phase.changed().await.is_ok() {}
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

/// The model, loaded and let in; or the worker without it, with the reason in its health.
fn load(model: &Model, store: &Arc<Store>) -> anyhow::Result<Worker> {
    let mut options = WorkerOptions::new(engine_program(model), model.unload_after_idle);
    options.gate = Arc::new(model::Accepted::new(Arc::clone(store), model));
    // A large model may take minutes: systemd is told to wait on, while the engine's process lives.
    let alive = || notify(&[NotifyState::ExtendTimeoutUsec(EXTEND.as_micros() as u32)]);
    model::load(Worker::new(options), &alive)
}

/// `inspectd infer` with what the config says of the model.
fn engine_program(model: &Model) -> Program {
    let (threads, memory_mb) = (model.threads.to_string(), model.memory_mb.to_string());
    let text: [std::ffi::OsString; 13] = [
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
        "--device".into(),
        model.device.name().into(),
    ];
    Program::new(text)
}

fn tls(files: &BrokerTls) -> Result<mqtt::Tls, mqtt::MqttError> {
    let identity =
        files.certificate.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    mqtt::Tls::new(&files.ca, identity)
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
        tls: m.tls.as_ref().map(tls).transpose().context("[mqtt]")?,
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
