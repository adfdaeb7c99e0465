//! Web: the review page, and the same for machines.
//!
//!     browser --TLS?--> connections (128, who waits makes room) --> guard (Host, Origin, headers, limits)
//!        --> who is it (cookie or token) --> route: queue, inspection, decision, charts, export --> store
//!     commit, review ----> events (server-sent) ----> every open page
//!
//!     assets/      the page: plain HTML, CSS and JavaScript inside the binary
//!     server       sockets, TLS, time limits          guard     what a request must look like
//!     places       who may have a connection          body      bodies that must move
//!     peer         who counts as one address          gate      how often a password may be tried
//!     auth         passwords, sessions, roles         accounts  who may come in
//!     queue        lists and inspections              decide    decisions
//!     charts       figures for people                 metrics   figures for machines, health
//!     images       pictures and small copies          events    what is new, one stream a page
//!     download     exports                            commands  what the line is told
//!     outbox       what the broker has not taken      streams   how many streams, and whose
//!     cameras      how the cameras and their recipes are
//!
//! The routes and the OpenAPI document are made from the same functions. A route says in its
//! signature who may use it: `Viewer`, `Operator` or `Engineer`; the few without are the login, the
//! page's own files and health.

pub mod accounts;
pub mod api;
pub mod auth;
pub mod body;
pub mod cameras;
pub mod charts;
pub mod commands;
pub mod decide;
pub mod download;
pub mod error;
pub mod events;
pub mod gate;
pub mod guard;
pub mod images;
pub mod metrics;
pub mod outbox;
pub mod pages;
pub mod peer;
pub mod places;
pub mod queue;
pub mod server;
pub mod streams;
pub mod tls;
pub mod wire;

use crate::command::Handler;
use crate::domain::pipeline::Pipeline;
use crate::store::Store;
use crate::threads;
use events::Event;
use gate::Gate;
use metrics::Counters;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use streams::Streams;
use tokio::sync::{Semaphore, broadcast, watch};

/// Events that a slow page may lag behind; beyond it the page is told to load anew.
const EVENTS_MAX: usize = 256;
/// Threads that answer; what waits for the disk runs on threads of its own.
const THREADS: usize = 2;

/// What the config decides.
#[derive(Clone, Debug)]
pub struct WebOptions {
    pub listen: SocketAddr,
    /// Names under which the page may be asked for, beside the address itself and this machine's.
    pub hosts: Vec<String>,
    /// Where browsers reach the page through a proxy that ends TLS: scheme, host and perhaps a port.
    pub public_url: Option<String>,
    /// Own certificate and key (PEM); without them a listener beyond loopback generates a pair.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where a generated certificate is kept.
    pub state_dir: PathBuf,
    pub session: Duration,
    /// `/metrics` asks for no login.
    pub open_metrics: bool,
}

impl WebOptions {
    /// Beyond this machine only with TLS.
    pub fn uses_tls(&self) -> bool {
        !self.listen.ip().is_loopback() || self.certificate.is_some()
    }

    /// Whether browsers come by TLS, be it ours or that of a proxy before us.
    pub fn seen_by_tls(&self) -> bool {
        self.public_url.as_ref().map_or_else(|| self.uses_tls(), |url| url.starts_with("https://"))
    }

    /// The host in the outer URL, with its port if it has one of its own.
    pub fn public_host(&self) -> Option<&str> {
        self.public_url.as_deref().and_then(|url| url.split_once("://")).map(|(_, host)| host)
    }
}

/// How the rest of the station is.
#[derive(Clone, Debug)]
pub struct Health {
    /// The inspector shows life.
    pub alive: bool,
    /// The enabled sinks, and whether each is connected.
    pub sinks: Vec<(String, bool)>,
    /// No broker refuses to let the station hear commands.
    pub commands: bool,
}

/// Asks the daemon how it is.
pub type Probe = Box<dyn Fn() -> Health + Send + Sync>;

/// What all requests share.
pub struct App {
    pub store: Arc<Store>,
    pub options: WebOptions,
    /// By name; for tile grids and labels.
    pub pipelines: Vec<Pipeline>,
    /// Lets the first account in; `None` once there is one.
    setup_code: Mutex<Option<String>>,
    gate: Gate,
    /// One password is hashed at a time: a hash takes memory and a core, which the line needs.
    hashing: Semaphore,
    /// One small copy is made at a time.
    drawing: Semaphore,
    exporting: Arc<Semaphore>,
    /// How long the reader of an export has for a piece of it.
    pub export_wait: Duration,
    events: broadcast::Sender<Event>,
    streams: Streams,
    /// Somebody's access has changed: open streams look whether it was theirs.
    access: watch::Sender<()>,
    counters: Counters,
    probe: Probe,
    /// Where commands go, once the cameras are open: the page is there before them.
    commands: OnceLock<Handler>,
    /// How the cameras are, once they are open, and what is risky about their recipes.
    cameras: OnceLock<(cameras::Cameras, cameras::Warnings)>,
    closing: AtomicBool,
}

impl App {
    /// The state of a server; makes the setup code when nobody has an account yet.
    ///
    /// # Errors
    /// The accounts cannot be read.
    pub fn new(
        store: Arc<Store>,
        options: WebOptions,
        pipelines: Vec<Pipeline>,
        probe: Probe,
    ) -> Result<Self, crate::store::error::StoreError> {
        let code = store.accounts()?.is_empty().then(auth::setup_code);
        Ok(Self {
            store,
            options,
            pipelines,
            setup_code: Mutex::new(code),
            gate: Gate::default(),
            hashing: Semaphore::new(1),
            drawing: Semaphore::new(1),
            exporting: Arc::new(Semaphore::new(download::EXPORTS_MAX)),
            export_wait: download::READ_WAIT,
            events: broadcast::channel(EVENTS_MAX).0,
            streams: Streams::default(),
            access: watch::Sender::new(()),
            counters: Counters::default(),
            probe,
            commands: OnceLock::new(),
            cameras: OnceLock::new(),
            closing: AtomicBool::new(false),
        })
    }

    /// The code that lets the first account in, while there is none.
    pub fn setup_code(&self) -> Option<String> {
        self.setup_code.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("[web] listen {listen}: {source}")]
    Listen { listen: SocketAddr, source: std::io::Error },
    #[error("[web] certificate: {reason}")]
    Certificate { reason: String },
    #[error("the web server: {source}")]
    Start { source: std::io::Error },
    #[error("the web server: {source}")]
    Store {
        #[from]
        source: crate::store::error::StoreError,
    },
}

/// The running server. Dropping it ends it.
pub struct Web {
    /// Where it really listens.
    pub address: SocketAddr,
    /// Where browsers reach it.
    pub url: String,
    pub app: Arc<App>,
    runtime: Option<tokio::runtime::Runtime>,
    /// What ends only with the server.
    tasks: [(&'static str, tokio::task::JoinHandle<()>); 2],
}

impl Web {
    /// Listens and serves on threads of its own, so that the page answers while the line computes.
    ///
    /// # Errors
    /// The address is taken, or the certificate cannot be used.
    pub fn start(app: App) -> Result<Self, WebError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("web")
            .enable_all()
            .build()
            .map_err(|source| WebError::Start { source })?;
        let acceptor = app.options.uses_tls().then(|| tls::acceptor(&app.options)).transpose()?;
        let listen = app.options.listen;
        let failed = |source| WebError::Listen { listen, source };
        let listener = runtime.block_on(tokio::net::TcpListener::bind(listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let app = Arc::new(app);
        let events = runtime.spawn(events::follow(Arc::clone(&app)));
        runtime.spawn_blocking({
            let app = Arc::clone(&app);
            move || {
                if let Err(words) = threads::caught(|| load_index(&app)) {
                    tracing::error!(words, "old inspections cannot be listed");
                }
            }
        });
        let server = runtime.spawn(server::serve(listener, acceptor, Arc::clone(&app)));
        let tasks = [("the web server", server), ("the web server's task of events", events)];
        let url = app.options.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        Ok(Self { address, url: format!("{url}/"), app, runtime: Some(runtime), tasks })
    }

    /// What has ended by itself, so that the page does not answer or tells nothing new.
    pub fn gone(&self) -> Option<&'static str> {
        self.tasks.iter().find(|(_, task)| task.is_finished()).map(|(name, _)| *name)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.app.closing.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            // What still reads the store for a page that nobody waits for is not waited for. On a thread
            // of its own, since tokio refuses to end a runtime inside a task of another.
            match threads::spawn("web-end", move || runtime.shutdown_timeout(Duration::from_secs(2))) {
                Ok(ends) => _ = ends.join(),
                // The runtime went with the thread that was not to be.
                Err(error) => tracing::error!(%error, "the web server was not waited for"),
            }
        }
    }
}

/// Looks through the old inspections, with a breath after every block so that the line goes first.
fn load_index(app: &App) {
    while !app.closing.load(Ordering::Relaxed) {
        match app.store.index_older() {
            Ok(true) => std::thread::sleep(Duration::from_millis(2)),
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "old inspections cannot be listed");
                return;
            }
        }
    }
}
