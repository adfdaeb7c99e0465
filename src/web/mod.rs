//! Web: the review page, and the same for machines.
//!
//! ```text
//! browser --TLS?--> connections (128, who waits makes room) --> guard (Host, Origin, headers, limits)
//!    --> who is it (cookie or token) --> route: queue, inspection, decision, charts, export --> store
//! commit, review ----> events (server-sent) ----> every open page
//!
//! assets/      the page: plain HTML, CSS and JavaScript inside the binary
//! server       sockets, TLS, time limits          guard     what a request must look like
//! places       who may have a connection          body      bodies that must move
//! peer         who counts as one address          throttle  how often a password may be tried
//! auth         passwords, sessions, roles         accounts  who may come in
//! queue        lists and inspections              decide    decisions
//! charts       figures for people                 metrics   figures for machines, health
//! images       pictures and small copies          events    what is new, one stream a page
//! download     exports                            commands  what the line is told
//! outbox       what the broker has not taken      streams   how many streams, and whose
//! model_api    the model, for programs of others, as OpenAI's API
//! cameras      how the cameras and their recipes are
//! recipes      versions of recipes, and what became of them
//! products     first recipes of new products      verify    the proof of the ledgers
//! thresholds   what confirmed parts prove of a recipe
//! pieces       long answers
//! line         all that the line view shows, and whether the station is alive
//! agreement    people and the model about the same parts            report    a shift or a lot, to be printed
//! blind        the same, where nobody sees what another has said
//! guide        the chapters of the guide
//! shared       what routes take of all this       api       all routes, and the OpenAPI document
//! ```
//!
//! The routes and the OpenAPI document are made from the same functions. A route says in its
//! signature who may use it: `Viewer`, `Operator`, `Engineer` or `Guest`; the few without are the login, the
//! page's own files, the guide and health.

mod accounts;
mod agreement;
pub mod api;
pub mod auth;
mod blind;
mod blocking;
mod body;
pub mod cameras;
mod charts;
mod commands;
mod decide;
mod download;
mod error;
mod events;
mod guard;
mod guide;
pub(crate) mod images;
pub mod learn;
pub mod line;
pub mod metrics;
pub mod model_api;
pub mod options;
mod outbox;
mod pages;
mod peer;
mod pieces;
pub mod places;
pub mod products;
mod queue;
pub mod recipes;
mod report;
mod server;
mod shared;
pub mod streams;
pub mod thresholds;
mod throttle;
mod tls;
mod verify;
mod wire;

use crate::command::Handler;
use crate::store::Store;
use crate::threads;
use cameras::{Cameras, Warning, Warnings};
use error::WebError;
use learn::Learning;
use metrics::Probe;
use metrics::line::Figures;
use model_api::asked::Answering;
use options::WebOptions;
use products::Products;
use queue::Pipelines;
use recipes::Recipes;
use server::Service;
use shared::Shared;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thresholds::Promising;

/// Threads that answer; what waits for the disk runs on threads of its own.
const THREADS: usize = 2;

/// The running server. Dropping it ends it.
pub struct Web {
    /// Where it really listens.
    pub address: SocketAddr,
    /// Where browsers reach it.
    pub url: String,
    shared: Shared,
    closing: Arc<AtomicBool>,
    runtime: Option<tokio::runtime::Runtime>,
    /// What ends only with the server.
    tasks: [(&'static str, tokio::task::JoinHandle<()>); 2],
}

impl Web {
    /// Listens and serves on threads of its own, so that the page answers while the line computes. `pipelines` asks
    /// for the active recipes; `probe` asks how the rest of the station is.
    ///
    /// # Errors
    /// The address is taken, the certificate cannot be used, or the accounts cannot be read.
    pub fn start(
        options: WebOptions,
        store: Arc<Store>,
        pipelines: Pipelines,
        probe: Probe,
    ) -> Result<Self, WebError> {
        let shared = Shared::new(options, store, pipelines, probe)?;
        let options = &shared.options;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("web")
            .enable_all()
            .build()
            .map_err(|source| WebError::Start { source })?;
        let tls = options.uses_tls().then(|| tls::acceptor(options)).transpose()?;
        let listen = options.listen;
        let failed = |source| WebError::Listen { listen, source };
        let listener = runtime.block_on(tokio::net::TcpListener::bind(listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let events = runtime.spawn(Arc::clone(&shared.events).follow());
        let closing = Arc::new(AtomicBool::new(false));
        runtime.spawn_blocking({
            let (store, closing) = (Arc::clone(&shared.store), Arc::clone(&closing));
            move || {
                if let Err(words) = threads::caught(|| load_index(&store, &closing)) {
                    tracing::error!(words, "old inspections cannot be listed");
                }
            }
        });
        let has_proxy = options.public_url.is_some();
        let service = Service { tls, router: api::router(shared.clone()), has_proxy };
        let server = runtime.spawn(server::serve(listener, service));
        let tasks = [("the web server", server), ("the web server's task of events", events)];
        let url = options.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        Ok(Self { address, url: format!("{url}/"), shared, closing, runtime: Some(runtime), tasks })
    }

    /// The code that lets the first account in, while there is none.
    pub fn setup_code(&self) -> Option<String> {
        self.shared.accounts.setup_code()
    }

    /// From now on commands are taken; until then they are refused as `starting`. The first call counts.
    pub fn take_commands(&self, handler: Handler) {
        self.shared.line.take_commands(handler);
    }

    /// From now on the page shows these cameras, and what is risky about their recipes. The first call counts.
    pub fn show_cameras(&self, cameras: Cameras, warnings: Warnings) {
        self.shared.view.show_cameras(cameras, warnings);
    }

    /// From now on the page shows engineers what is risky about the config itself. The first call counts.
    pub fn show_config_warnings(&self, warnings: Vec<Warning>) {
        self.shared.view.show_config_warnings(warnings);
    }

    /// From now on `/metrics` has the figures of the line. The first call counts.
    pub(crate) fn measure_line(&self, figures: Figures) {
        self.shared.metrics.measure_line(figures);
    }

    /// From now on the page shows whether the station is alive, and its alarms. The first call counts.
    pub fn show_pulse(&self, pulse: line::Pulses) {
        self.shared.overview.show_pulse(pulse);
    }

    /// From now on the page shows what waits at the cameras, and the engine. The first call counts.
    pub fn show_line(&self, now: line::Now) {
        self.shared.overview.show_line(now);
    }

    /// From now on versions of recipes can be made active. The first call counts.
    pub fn keep_recipes(&self, recipes: Arc<dyn Recipes>) {
        self.shared.keeper.keep_recipes(recipes);
    }

    /// From now on something can be learned. The first call counts.
    pub fn learn_with(&self, learning: Arc<dyn Learning>) {
        self.shared.learner.learn_with(learning);
    }

    /// From now on thresholds are proven. The first call counts.
    pub fn prove_with(&self, promising: Arc<dyn Promising>) {
        self.shared.prover.prove_with(promising);
    }

    /// From now on recipes of new products can be made. The first call counts.
    pub fn make_products_with(&self, products: Arc<dyn Products>) {
        self.shared.maker.make_with(products);
    }

    /// From now on the model can be asked by `/v1`. The first call counts.
    pub fn answer_with(&self, answering: Arc<dyn Answering>) {
        self.shared.model_api.answer_with(answering);
    }

    /// What has ended by itself, so that the page does not answer or publishes nothing new.
    pub fn gone(&self) -> Option<&'static str> {
        self.tasks.iter().find(|(_, task)| task.is_finished()).map(|(name, _)| *name)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
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

/// Whether the page could be served with this certificate and key.
///
/// # Errors
/// What is wrong with which file.
pub(crate) fn check_certificate(certificate: &Path, key: &Path) -> Result<(), WebError> {
    tls::server_config(certificate, key).map(|_| ())
}

/// Looks through the old inspections, with a breath after every block so that the line goes first.
fn load_index(store: &Store, closing: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        match store.index_older() {
            Ok(true) => std::thread::sleep(Duration::from_millis(2)),
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "old inspections cannot be listed");
                return;
            }
        }
    }
}
