//! The daemon: builds all parts, joins them, waits, drains.
//!
//! ```text
//! cameras (a thread each) --Queue with its policy--> inspector <--answers-- engine (a thread)
//!     '-- a dropped frame ------------------------------. |   '---orders----> '--> the model's process,
//!                                                       v v                        killed when it hangs
//!                                     recorder: picture file, record + outbox, flushed
//!                                                        |
//!                                     web (threads of its own): the review page
//!                                     opcua (threads of its own): a server by OPC 40100-1
//!                                     publishers (a task a sink): PUBLISH, PUBACK, the sink's cursor goes on
//!
//! commands: MQTT, HTTP, OPC UA, PLCs (`modbus`), files (`inbox`) --> dispatcher --> cameras
//! recorder --what is stored (`plc`)--> PLCs
//! pipelines_dir --> recipes (a thread): checked, replayed by the engine --> dispatcher, for the next pictures
//! store --> watch (a thread): do promises hold, has anything drifted? --> alarms
//! programs of others by /v1 --> guests --> engine, after everything of the line
//! page --> learning (a thread): confirmed parts, the engine's features, a bank or head --a version--> recipes
//! `inspectd verify` and its like: control (threads of its own) --> store
//! ```
//!
//! Every thread and task is watched. What each one's end means:
//!
//! ```text
//! take:CAMERA         a panic is a fault of the camera; it starts anew after a pause   (`anew`)
//! watch:CAMERA        a panic is a fault of the camera; its capture process, too       (camera::supervisor)
//! inspector           the end of all sources, or a panic: the daemon ends
//! engine              a panic: the inspector panics with it
//! triggers, control   a panic: the daemon ends with an error, and systemd starts it again
//! commands by MQTT    so does a panic of their task
//! the Modbus server   so does a panic of it; one of a connection ends that connection
//! opcua               its end before the station's ends the daemon; a panic of one call is that call's answer
//! web                 so does a panic of what accepts or follows; one of a request is that request's answer
//! publishers          an error of the store, or a panic: so does the end of a task that delivers
//! store-sync          a panic stops the store, and with it the daemon
//! retention           a panic: the daemon ends with an error
//! recipes             so does a panic of it, and its end before the station's
//! learning            a panic of a job is its outcome; the thread's end before the station's ends the daemon
//! watch               a panic of a look is logged; the thread's end before the station's ends the daemon
//! interrupted         a panic leaves what it had not recorded to the next start
//! signals             a panic: the daemon ends as if it were told to, since nobody could tell it any more
//! thumbs              a panic costs one small copy
//! ```
//!
//! Nothing opens before the config is checked; for a recipe with errors the store may know the version that was active
//! before. While the disk or the outbox is full the line stands, visibly ([`housekeeping`] says so), and goes on by
//! itself. It ends when it is [`told`] to (SIGTERM, SIGINT), when every source has ended and everything is delivered, or
//! when the store fails: then it stops acknowledging at once and systemd starts it again, unless the store is
//! [`damaged`]. Draining goes in the order of the line, so that what was taken is inspected, what was inspected is
//! stored, and what was stored is published or kept for the next start. A start that is told to stop gives the model's
//! load up, and leaves what a former process owes, as far as it is not recorded yet, to the next one.

mod alarms;
mod anew;
mod backend;
mod board;
mod cameras;
mod capture_loop;
mod commanded;
pub mod damaged;
mod device;
mod dispatcher;
mod figures;
mod frame_history;
mod guests;
pub mod heap;
mod housekeeping;
mod inbox;
mod inspector;
mod intake;
mod interrupted;
mod learning;
mod modbus;
mod model;
#[cfg(feature = "opcua")]
pub(crate) mod opcua;
mod plc;
mod progress;
mod promise;
mod publishers;
mod recipes;
mod recorder;
mod repeats;
pub(crate) mod schemas;
mod station;
mod systemd;
mod taken;
pub mod told;
mod watch;
mod web;

use crate::camera::Stop;
use crate::clock::Clock;
use crate::command::Handler;
use crate::config::Config;
use crate::control::server::Door;
use crate::domain::trigger::Refusal;
use crate::engine::{Backend, Engine};
use crate::publish::modbus::Serving;
use crate::publish::mqtt;
use crate::publish::mqtt::command::Listening;
use crate::publish::mqtt::dialect::Spoken;
use crate::recipe::registry::Registry;
use crate::store::{Store, StoreOptions};
use crate::web::Web;
use anyhow::Context;
use cameras::Cameras;
use frame_history::FrameHistory;
use housekeeping::{Due, Housekeeping};
use learning::Learning;
use publishers::{Connections, Publishers};
use recipes::Recipes;
use recorder::Recorder;
use station::Station;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use systemd::Systemd;
use tokio::time::MissedTickBehavior;
use told::Told;

/// How long the daemon stays to deliver the last results after all sources have ended.
const DELIVER: Duration = Duration::from_secs(30);
/// And after somebody has said so, where a broker is connected: what was just recorded is a moment behind the record.
const DELIVER_TOLD: Duration = Duration::from_secs(2);

/// Why a line has ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Somebody said so, or every source has ended.
    Done,
    /// The database is to be compacted, which only an opening store does.
    ToCompact,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When a part cannot be opened, or the store fails while running; [`damaged::Damaged`] when no restart mends it.
pub fn run(config: Config, told: &Told) -> anyhow::Result<()> {
    heap::bound();
    let systemd = Arc::new(Systemd::new(told.clone()));
    loop {
        match run_once(&config, &systemd, told) {
            Ok(Ended::Done) => return Ok(()),
            Ok(Ended::ToCompact) => {
                tracing::info!("the line starts again after its database was closed for compaction");
            }
            Err(error) if damaged::is_damage(&error) => return Err(damaged::report(&config, &error).into()),
            Err(error) => return Err(error),
        }
    }
}

fn run_once(config: &Config, systemd: &Arc<Systemd>, told: &Told) -> anyhow::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("mqtt")
        .build()
        .context("the tokio runtime")?;
    let options = store_options(config);
    let store = progress::while_it_moves(systemd, || Store::open(&config.store.dir, options))??;
    let store = Arc::new(store);
    make_folders(config)?;
    for note in &config.notes {
        tracing::warn!(note, "a pipeline that no camera names cannot be used");
    }
    tracing::info!(dir = %config.store.dir.display(), outbox = store.outbox_len(), "store open");
    // A file system without sockets is no reason to stand still.
    let no_door =
        |error| tracing::warn!(%error, "verify, export and backup must wait until the daemon is stopped");
    let control = Door::open(&config.store.dir, Arc::clone(&store)).map_err(no_door).ok();
    let (station, queues) = publishers::station(publishers::enabled(config)?);
    publishers::report_absent(config, &store, &station)?;
    let publishers = runtime.block_on(async { Publishers::start(queues, &store, &station) })?;
    let registry = recipes::open(config, &store)?;
    let Some(engine) = backend::load(config, &registry, &store, &|| systemd.alive(), &|| !told.is_to_stop())?
    else {
        drop(control);
        runtime.block_on(publishers.stop())?;
        tracing::info!(outbox = store.outbox_len(), "stopped before the line began");
        return Ok(Ended::Done);
    };
    let page = web::start(config, &registry, &store, &station, publishers.connections())?;
    let stop = Stop::default();
    let parts = Parts {
        config,
        systemd,
        recipes: &registry,
        store: &store,
        station: &station,
        page: page.as_ref(),
        door: control.as_ref(),
        stop: &stop,
        told,
    };
    let outcome = runtime.block_on(parts.line(engine, publishers.connections()));
    // They hold the store, which a compaction opens anew.
    drop((page, control));
    runtime.block_on(publishers.stop())?;
    tracing::info!(outbox = store.outbox_len(), "stopped");
    outcome
}

/// Makes the folders of the station's own ground that are not there: nobody else may, where the service has a user of
/// its own.
fn make_folders(config: &Config) -> anyhow::Result<()> {
    for folder in config.own_folders().into_iter().filter(|folder| !folder.is_dir()) {
        let folder_of = || format!("{}: the folder cannot be made", folder.display());
        std::fs::create_dir_all(folder).with_context(folder_of)?;
        tracing::info!(folder = %folder.display(), "a folder was made that the config names below the store");
    }
    Ok(())
}

/// What the config says of the store.
fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        max_bytes: config.store.max_bytes,
        retain_days: config.store.retain_days,
        clock: config.store.clock,
        image_url_base: web::url_base(config),
        outbox_entries_max: config.mqtt.outbox_entries_max,
        sinks: publishers::names(config),
        free_bytes_min: config.store.free_bytes_min,
        ..StoreOptions::default()
    }
}

/// What a line is made of.
#[derive(Clone, Copy)]
struct Parts<'a> {
    config: &'a Config,
    systemd: &'a Arc<Systemd>,
    recipes: &'a Arc<Registry>,
    store: &'a Arc<Store>,
    station: &'a Arc<Station>,
    page: Option<&'a Web>,
    door: Option<&'a Door>,
    stop: &'a Stop,
    told: &'a Told,
}

/// The running threads and tasks of a line.
struct Line {
    cameras: Cameras,
    inbox: Option<JoinHandle<()>>,
    interrupted: Option<JoinHandle<()>>,
    commands: Vec<Listening>,
    modbus: Option<Serving>,
    keeper: Keeper,
    learner: Learner,
    watch: JoinHandle<()>,
    inspector: JoinHandle<()>,
    recorder: Arc<Recorder>,
    #[cfg(feature = "opcua")]
    opcua: Option<crate::publish::opcua::Server>,
}

/// The thread of recipes, and the way to it.
struct Keeper {
    book: Arc<Recipes>,
    thread: JoinHandle<()>,
}

/// The thread of learning, and the way to it.
struct Learner {
    learning: Arc<Learning>,
    thread: JoinHandle<()>,
}

impl Parts<'_> {
    /// Starts the threads of the line, watches them and drains them.
    async fn line(self, engine: Box<dyn Backend>, connections: Connections) -> anyhow::Result<Ended> {
        let line = self.start(engine, &connections)?;
        self.systemd.ready();
        tracing::info!(cameras = self.config.cameras.len(), broker = %self.config.mqtt.url(), "inspecting");

        let (store, station) = (Arc::clone(self.store), Arc::clone(self.station));
        let mut housekeeping = Housekeeping::new(store, station, Arc::clone(self.systemd), Clock::system());
        let mut tick = tokio::time::interval(housekeeping::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = Ended::Done;
        // A source that ends would begin anew.
        let endless = self.config.cameras.iter().all(|c| c.source.is_endless());
        let gone = loop {
            tokio::select! {
                () = self.told.to_stop() => {}
                () = self.told.to_reload() => line.reload(),
                // Its error comes with `stop`.
                () = connections.closed() => break Some("the task that delivers results"),
                _ = tick.tick() => if housekeeping.tick()? == Due::Compaction && endless {
                    ended = Ended::ToCompact;
                },
            }
            let gone = line.gone(self.page, self.door);
            let over = line.inspector.is_finished() || line.recorder.failed();
            if self.told.is_to_stop() || over || ended == Ended::ToCompact || gone.is_some() {
                break gone;
            }
        };
        let told = self.told.is_to_stop();
        if ended == Ended::Done {
            self.systemd.stopping();
        }
        let compacts = ended == Ended::ToCompact;
        tracing::info!(told, compacts, gone = gone.unwrap_or("nothing"), "draining");
        let recorder = Arc::clone(&line.recorder);
        self.drain(line).await?;
        if gone.is_none() && ended == Ended::Done {
            match told {
                false => self.deliver(&connections, DELIVER).await,
                true if connections.up().iter().any(|(_, up)| *up) => {
                    self.deliver(&connections, DELIVER_TOLD).await;
                }
                true => {}
            }
        }
        progress::while_it_moves(self.systemd, || housekeeping.finish())?;
        recorder.outcome()?;
        match gone {
            Some(name) => Err(anyhow::anyhow!("{name} has ended by itself; its panic stands before this")),
            None => Ok(if told { Ended::Done } else { ended }),
        }
    }

    fn start(self, engine: Box<dyn Backend>, connections: &Connections) -> anyhow::Result<Line> {
        let Self { config, recipes, store, station, stop, .. } = self;
        let page = config.web.is_some();
        let recorder = Recorder::new(Arc::clone(store), Arc::clone(station), stop.clone(), page)?;
        let recorder = Arc::new(recorder);
        let model = engine.identity().clone();
        let told = || self.told.is_to_stop();
        let left = || interrupted::record(recipes, store, &recorder, &model, stop, &told);
        let interrupted = progress::while_it_moves(self.systemd, left)??;
        let cameras = cameras::start(config, recipes, store, &recorder, station, &model, stop)?;
        let dispatcher = cameras.dispatcher();
        let fates: Arc<dyn inbox::Fates> = Arc::<dispatcher::Dispatcher>::clone(&dispatcher);
        let taking = Arc::clone(&dispatcher);
        let handler: Handler = Arc::new(move |command, sender| taking.carry_out(command, sender));
        let dir = config.trigger_dir.as_deref();
        let watch = |dir| {
            inbox::start(dir, Arc::clone(&handler), Arc::clone(&fates), Arc::clone(station), stop.clone())
        };
        // First, while the dispatcher still knows all files of the former process.
        let inbox = dir.map(watch).transpose().context("[trigger] dir")?;
        if let Some(page) = self.page {
            page.take_commands(Arc::clone(&handler));
            let station = Arc::clone(station);
            page.show_cameras(Box::new(move || station.cameras()), web::warnings(recipes));
        }
        // A sink of Sparkplug hears them on its own connection.
        let has_own = |sink: &publishers::Enabled| sink.commands && sink.mqtt.dialect == Spoken::Json;
        let heard = publishers::enabled(config)?.into_iter().filter(has_own);
        let listen = |sink: publishers::Enabled| {
            mqtt::command::listen(sink.mqtt, Arc::clone(&handler), station::hearing(station))
        };
        let commands = heard.map(listen).chain(connections.listen(&handler)).collect();
        let modbus = modbus::start(config, store, station, &handler, &cameras)?;
        let history = FrameHistory::new(Arc::clone(store));
        let feeds = cameras.feeds();
        let ring = feeds.ring.clone();
        // It wakes the inspector; a bell that rings already needs no second ring.
        let changed = Box::new(move || _ = ring.try_send(()));
        let engine = Arc::new(Engine::start(engine, changed).context("the engine's thread")?);
        if let Some(page) = self.page {
            page.measure_line(figures::probe(station, recipes, cameras.waits(), &engine));
            page.show_line(web::line(config, &cameras, &engine));
            page.answer_with(Arc::new(guests::Guests::new(config, &engine)));
        }
        station.beat();
        let keeper = self.keep_recipes(&dispatcher, &engine)?;
        let learner = self.learn(&keeper.book, &engine)?;
        let ids = config.cameras.iter().map(|camera| camera.id.clone()).collect();
        let watch = watch::start(ids, recipes, store, station, stop).context("the thread of the watch")?;
        let inspector = inspector::start(engine, feeds, Arc::clone(&recorder), Arc::clone(station), history)?;
        #[cfg(feature = "opcua")]
        let opcua = opcua::start(config, recipes, store, station, &handler)?;
        Ok(Line {
            cameras,
            inbox,
            interrupted,
            commands,
            modbus,
            keeper,
            learner,
            watch,
            inspector,
            recorder,
            #[cfg(feature = "opcua")]
            opcua,
        })
    }

    /// Starts the thread of recipes.
    fn keep_recipes(
        self,
        dispatcher: &Arc<dispatcher::Dispatcher>,
        engine: &Arc<Engine>,
    ) -> anyhow::Result<Keeper> {
        let (registry, store) = (Arc::clone(self.recipes), Arc::clone(self.store));
        let (dir, station) = (self.config.pipelines_dir.clone(), Arc::clone(self.station));
        let book = Arc::new(Recipes::new(registry, store, dir, Arc::clone(dispatcher), station));
        // They know each other: one of them must not hold the other, and with it the store, which has to close.
        let asked = Arc::downgrade(&book);
        dispatcher.reload_with(Box::new(move |sender| {
            let book = asked.upgrade().ok_or(Refusal::Stopping)?;
            book.reload(sender.to_string()).map_err(recipes::refused)
        }));
        if let Some(page) = self.page {
            page.keep_recipes(Arc::<Recipes>::clone(&book));
        }
        let room = backend::candidate(&self.config.model, self.recipes);
        let thread = recipes::start(&book, Arc::clone(engine), room, self.stop.clone())?;
        if let Some(door) = self.door {
            door.judge_with(Arc::<Recipes>::clone(&book));
        }
        Ok(Keeper { book, thread })
    }

    /// Starts the thread of learning.
    fn learn(self, book: &Arc<Recipes>, engine: &Arc<Engine>) -> anyhow::Result<Learner> {
        let (registry, store) = (Arc::clone(self.recipes), Arc::clone(self.store));
        let learning = Arc::new(Learning::new(registry, store, Arc::clone(book), self.stop.clone()));
        let thread = learning::start(&learning, Arc::clone(engine)).context("the thread of learning")?;
        if let Some(page) = self.page {
            page.learn_with(Arc::<Learning>::clone(&learning));
            page.make_products_with(Arc::<Learning>::clone(&learning));
            page.prove_with(Arc::<Learning>::clone(&learning));
        }
        Ok(Learner { learning, thread })
    }

    /// Ends the threads in the order of the line; systemd waits on while the inspector shows life.
    async fn drain(self, line: Line) -> anyhow::Result<()> {
        let Line { cameras, inbox, interrupted, commands, modbus, keeper, learner, watch, inspector, .. } =
            line;
        drop((commands, modbus));
        #[cfg(feature = "opcua")]
        tokio::task::spawn_blocking(move || drop(line.opcua)).await?;
        self.stop.set();
        keeper.book.close();
        learner.learning.close();
        let mut drained = tokio::task::spawn_blocking(move || {
            cameras.close();
            if inbox.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the thread of triggers by file had panicked");
            }
            if interrupted.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the thread of interrupted triggers had panicked");
            }
            if keeper.thread.join().is_err() {
                tracing::error!("the thread of recipes had panicked");
            }
            if learner.thread.join().is_err() {
                tracing::error!("the thread of learning had panicked");
            }
            if watch.join().is_err() {
                tracing::error!("the thread of the watch had panicked");
            }
            inspector.join()
        });
        let mut tick = tokio::time::interval(housekeeping::TICK);
        loop {
            tokio::select! {
                ended = &mut drained => {
                    return ended?.map_err(|_| anyhow::anyhow!("the inspector panicked"));
                }
                _ = tick.tick() => if self.station.alive_within(housekeeping::STALL) {
                    self.systemd.alive();
                },
            }
        }
    }

    /// Waits until everything is acknowledged, as long as there is a broker that might do it.
    async fn deliver(self, connections: &Connections, within: Duration) {
        let until = Instant::now() + within;
        let mut left = self.store.outbox_len();
        while left > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let before = std::mem::replace(&mut left, self.store.outbox_len());
            if left < before {
                self.systemd.alive();
            }
        }
        if left > 0 {
            let up = connections.up().into_iter().filter(|(_, up)| *up);
            let connected = up.map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            tracing::warn!(left, connected, "results stay in the outbox for the next start");
        }
    }
}

impl Line {
    /// systemd's `ExecReload`.
    fn reload(&self) {
        if let Err(error) = self.keeper.book.reload("SIGHUP".to_owned()) {
            tracing::warn!(%error, "the recipes are not looked at");
        }
    }

    /// Which of those that end only with the station has ended before it.
    fn gone(&self, page: Option<&Web>, door: Option<&Door>) -> Option<&'static str> {
        let inbox = self.inbox.as_ref().is_some_and(JoinHandle::is_finished);
        let inbox = inbox.then_some("the thread of triggers by file");
        let commands = self.commands.iter().any(Listening::is_over).then_some("the task of commands by MQTT");
        let modbus = self.modbus.as_ref().is_some_and(Serving::is_over).then_some("the Modbus server");
        let keeper = self.keeper.thread.is_finished().then_some("the thread of recipes");
        let learner = self.learner.thread.is_finished().then_some("the thread of learning");
        let watch = self.watch.is_finished().then_some("the thread of the watch");
        #[cfg(feature = "opcua")]
        let learner =
            learner.or(self.opcua.as_ref().filter(|server| server.is_over()).map(|_| "the OPC UA server"));
        let door = door.is_some_and(Door::is_over).then_some("the thread of the local door");
        let threads = inbox.or(commands).or(modbus).or(keeper).or(learner).or(watch).or(door);
        threads.or_else(|| page.and_then(Web::gone))
    }
}
