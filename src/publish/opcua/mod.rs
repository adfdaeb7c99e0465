//! OPC UA: a server by OPC 40100-1 (Machine Vision), one `VisionSystem` a camera.
//!
//! ```text
//! line (doors of domain types, given by the daemon)
//!   cameras, alarms, recipes, a bell --> core: machine of each camera (`machine`) --> values, events --> subscribers
//!   records, the number of the newest ---'      ^
//!   handler <-- trigger, pause, pipeline -- calls (`calls`) <-- who may (`users`) <-- certificates (`pki`) <-- clients
//!
//! gate (`gate`): counts connections, before the server has them
//! address space: types from the standard's table (`nodeset`), instances a camera (`space`), structures (`values`)
//! ```
//!
//! It is a server that is asked and shows the newest state: it owns no cursor in the outbox, and a client that is away
//! finds what it has missed by `GetResultListFiltered`.
//!
//! Invariants:
//! - Beyond loopback every endpoint signs, with `Basic256Sha256` or `Aes256Sha256RsaPss`; without encryption a client comes
//!   only on loopback, only where the config says so, and only without a name.
//! - What a client can make this server keep has a limit: connections, sessions, subscriptions (also of sessions that are gone),
//!   items, queues, messages, nodes a call.
//! - It runs on threads of its own and waits for nothing of the line but the answer to a command.

mod calls;
mod census;
mod conditions;
mod events;
mod gate;
mod machine;
mod nodeset;
mod pki;
mod refresh;
mod shown;
mod space;
mod users;
mod values;
mod vision;

pub use pki::read as read_certificate;
pub use users::{Role, Users};

use crate::command::Handler;
use crate::domain::alarm::Alarm;
use crate::domain::camera::{CameraStatus, Exposed};
use crate::domain::inspection::Inspection;
use crate::threads;
use census::{Census, Hook};
use gate::Gate;
use opcua::crypto::SecurityPolicy;
use opcua::server::diagnostics::DiagnosticsNodeManagerBuilder;
use opcua::server::node_manager::memory::{
    CoreNodeManagerBuilder, InMemoryNodeManager, InMemoryNodeManagerBuilder,
};
use opcua::server::{
    ANONYMOUS_USER_TOKEN_ID, Limits as ServerLimits, Server as Inner, ServerBuilder, ServerEndpoint,
    ServerHandle, ServerUserToken, SubscriptionCache,
};
use opcua::types::{BuildInfo, MessageSecurityMode};
use refresh::Refresh;
use shown::Core;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;
use users::Doorman;
use vision::Vision;

/// How long clients have to hear that the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// How often a look is taken at what strangers have left in `rejected`.
const SWEEP: Duration = Duration::from_mins(1);
/// Least time between two publications, and how often subscriptions are looked at.
const TICK_MS: u64 = 100;
/// Keep-alives without a client after which a subscription ends.
const KEEP_ALIVES_MAX: u32 = 100;
const LIFETIME_MAX: u32 = 3 * KEEP_ALIVES_MAX;
/// Publish requests that may wait for a session.
const PUBLISH_REQUESTS_MAX: usize = 20;
/// Values of one notification message.
const NOTIFICATIONS_MAX: u64 = 1000;
/// Browses that a session may go on with.
const BROWSES_MAX: usize = 20;
/// Elements of an array, and bytes of a text, in what a client sends.
const ARRAY_MAX: usize = 10_000;
const TEXT_BYTES_MAX: usize = 65_535;
/// A chunk of a message, as most clients ask for.
const CHUNK_BYTES: usize = 65_535;
/// The smallest chunk that a client may send its messages in.
const CHUNK_BYTES_MIN: usize = 8192;
/// Messages of one connection without a HELLO, in seconds.
const HELLO_S: u32 = 5;
/// What a client is called that comes without a name, for the config of the library.
const KNOWN: &str = "known";

/// What a client can make the server keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, with a session or without.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_address: usize,
    /// Sessions at once.
    pub sessions: usize,
    /// Subscriptions of a session. All sessions, those that are gone among them, have `sessions` times as many.
    pub subscriptions: usize,
    /// Items of a subscription.
    pub monitored_items: usize,
    /// Nodes of one call.
    pub nodes_per_call: usize,
    /// A message.
    pub message_bytes: usize,
    /// Values or events of an item, and messages of a subscription, that wait for a client.
    pub queue: usize,
    /// A session, and a connection, without a word from its client ends.
    pub session_timeout: Duration,
}

/// How the server is to be.
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The name by which clients reach it.
    pub host: String,
    /// For people.
    pub name: String,
    /// Names this server among all; its certificate says it.
    pub application_uri: String,
    /// Folder of certificates and the key.
    pub pki: PathBuf,
    /// Who may come.
    pub users: Users,
    /// What somebody without a name, certificate and encryption may do; only on loopback.
    pub anonymous: Option<Role>,
    /// What a client can make the server keep.
    pub limits: Limits,
    /// Ids of the cameras, and whether commands make each take pictures.
    pub cameras: Vec<(String, bool)>,
}

/// Looks into the records; each look waits for the disk.
pub trait Records: Send + Sync {
    /// The inspection with this number, if it is (still) here.
    ///
    /// # Errors
    /// In words: it cannot be read.
    fn get(&self, seq: u64) -> Result<Option<Inspection>, String>;

    /// The inspection with this id, with its number, if it is (still) here.
    ///
    /// # Errors
    /// In words: it cannot be read.
    fn by_id(&self, id: &str) -> Result<Option<(u64, Inspection)>, String>;

    /// At most so many inspections before this number, newest first, each with its number.
    ///
    /// # Errors
    /// In words: one cannot be read.
    fn newest_before(&self, seq: u64, most: usize) -> Result<Vec<(u64, Inspection)>, String>;
}

/// The doors to the line.
pub struct Line {
    /// How the cameras are, by id.
    pub cameras: Box<dyn Fn() -> Vec<(String, CameraStatus)> + Send + Sync>,
    /// The alarms that stand.
    pub alarms: Box<dyn Fn() -> Vec<Alarm> + Send + Sync>,
    /// Recipes that a camera may be commanded to: name and version.
    pub recipes: Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>,
    /// Takes commands.
    pub handler: Handler,
    /// The records.
    pub records: Box<dyn Records>,
    /// Rings when a camera or an alarm has changed.
    pub changed: watch::Receiver<()>,
    /// The exposures from now on.
    pub exposed: broadcast::Receiver<Exposed>,
    /// The number of the newest record on the disk.
    pub recorded: watch::Receiver<u64>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum OpcuaError {
    /// The address cannot be had.
    #[error("OPC UA cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificates or their folder.
    #[error("OPC UA has no certificate: {0}")]
    Certificate(String),
    /// The library refuses the options.
    #[error("OPC UA cannot be built: {0}")]
    Build(String),
    /// A thread or the runtime.
    #[error("OPC UA has no thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running server; dropping it ends it.
pub struct Server {
    stop: watch::Sender<()>,
    thread: Option<JoinHandle<()>>,
    /// Where clients connect.
    pub url: String,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// [`OpcuaError`].
    pub fn start(options: Options, line: Line) -> Result<Self, OpcuaError> {
        let own = pki::prepare(&options.pki, &options.application_uri, &options.host);
        let own = own.map_err(OpcuaError::Certificate)?;
        let no_port = |source| OpcuaError::Listen { listen: options.listen, source };
        let listener = std::net::TcpListener::bind(options.listen).map_err(no_port)?;
        listener.set_nonblocking(true).map_err(no_port)?;
        let port = listener.local_addr().map_err(no_port)?.port();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("opcua")
            .build()?;
        // The caller may stand in a runtime of its own, where none may be waited for or dropped.
        let built = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(no_port).and_then(|listener| {
                Ok((Gate::new(listener, &options.limits)?, build(&options, port, line)?))
            })
        };
        let (gate, (inner, handle, core)) = match built {
            Ok(built) => built,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let url = format!("opc.tcp://{}:{port}/", options.host);
        tracing::info!(url, certificate = %pki::certificate_of(&options.pki).display(),
            sha1 = own.thumbprint().as_hex_string(), "OPC UA server; clients have to trust this certificate");
        let pki = options.pki;
        let (stop, told) = watch::channel(());
        let thread = threads::spawn("opcua", move || {
            runtime.block_on(serve(inner, handle, gate, core, pki, told));
            runtime.shutdown_timeout(GRACE);
        })?;
        Ok(Self { stop, thread: Some(thread), url })
    }

    /// True once it has ended, which it only does by itself when something is wrong.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of OPC UA had panicked");
        }
    }
}

/// Builds the server of the library, with the address space in it.
fn build(options: &Options, port: u16, line: Line) -> Result<(Inner, ServerHandle, Arc<Core>), OpcuaError> {
    let census = Arc::new(Census::default());
    let subscriptions: Arc<OnceLock<Arc<SubscriptionCache>>> = Arc::default();
    let most = options.limits.sessions * options.limits.subscriptions;
    let (counted, kept) = (Arc::clone(&census), Arc::clone(&subscriptions));
    let room = move || kept.get().is_none_or(|subscriptions| counted.alive(subscriptions) < most);
    let doorman = Doorman {
        users: options.users.clone(),
        anonymous: options.anonymous.filter(|_| options.listen.ip().is_loopback()),
        room: Arc::new(room),
        paying: tokio::sync::Mutex::default(),
    };
    let mut builder = ServerBuilder::new()
        .application_name(options.name.clone())
        .application_uri(options.application_uri.clone())
        .product_uri("urn:inspectd")
        .pki_dir(options.pki.clone())
        .host(options.host.clone())
        .port(port)
        .hello_timeout(HELLO_S)
        .discovery_urls(vec!["/".to_owned()])
        .limits(limits(&options.limits))
        .max_session_timeout_ms(options.limits.session_timeout.as_millis() as u64)
        .subscription_poll_interval_ms(TICK_MS)
        .build_info(build_info())
        // The library wants to know every name of an endpoint; who comes in, the doorman decides.
        .add_user_token(KNOWN, ServerUserToken::user_pass(KNOWN, ""))
        .with_type_tree_getter(Arc::new(Hook(census)))
        // The first that owns a node answers for it.
        .without_node_managers()
        .with_node_manager(Refresh::new)
        .with_node_manager(InMemoryNodeManagerBuilder::new(CoreNodeManagerBuilder))
        .with_node_manager(DiagnosticsNodeManagerBuilder)
        .with_node_manager(InMemoryNodeManagerBuilder::new(Vision::builder(options.cameras.clone(), line)));
    for (name, endpoint) in endpoints(doorman.anonymous) {
        builder = builder.add_endpoint(name, endpoint);
    }
    let (inner, handle) = builder.with_authenticator(Arc::new(doorman)).build().map_err(OpcuaError::Build)?;
    let vision = handle.node_managers().get_of_type::<InMemoryNodeManager<Vision>>();
    let vision = vision.ok_or_else(|| OpcuaError::Build("the address space is missing".into()))?;
    let core = Arc::clone(&vision.inner().core);
    // Both are set once, here.
    let _ = core.space.set(Arc::clone(vision.address_space()));
    let _ = subscriptions.set(Arc::clone(handle.subscriptions()));
    // The first client finds what the line says.
    core.hear();
    Ok((inner, handle, core))
}

/// The ways in: signed, signed and encrypted, and, where it is allowed, neither.
fn endpoints(anonymous: Option<Role>) -> Vec<(String, ServerEndpoint)> {
    let known = [KNOWN.to_owned()];
    let mut all = Vec::new();
    for policy in [SecurityPolicy::Basic256Sha256, SecurityPolicy::Aes256Sha256RsaPss] {
        for mode in [MessageSecurityMode::Sign, MessageSecurityMode::SignAndEncrypt] {
            all.push((format!("{policy} {mode}"), ServerEndpoint::new("/", policy, mode, &known)));
        }
    }
    if anonymous.is_some() {
        let nobody = [ANONYMOUS_USER_TOKEN_ID.to_owned()];
        all.push(("none".to_owned(), ServerEndpoint::new_none("/", &nobody)));
    }
    all
}

fn limits(own: &Limits) -> ServerLimits {
    let mut limits = ServerLimits {
        max_array_length: ARRAY_MAX,
        max_string_length: TEXT_BYTES_MAX,
        max_byte_string_length: TEXT_BYTES_MAX,
        max_message_size: own.message_bytes,
        max_chunk_count: own.message_bytes / CHUNK_BYTES_MIN + 1,
        send_buffer_size: CHUNK_BYTES,
        receive_buffer_size: CHUNK_BYTES,
        max_browse_continuation_points: BROWSES_MAX,
        max_history_continuation_points: 0,
        max_query_continuation_points: 0,
        max_sessions: own.sessions,
        ..ServerLimits::default()
    };
    let subscriptions = &mut limits.subscriptions;
    subscriptions.max_subscriptions_per_session = own.subscriptions;
    subscriptions.max_pending_publish_requests = PUBLISH_REQUESTS_MAX;
    subscriptions.max_monitored_items_per_sub = own.monitored_items;
    subscriptions.max_monitored_item_queue_size = own.queue;
    subscriptions.max_queued_notifications = own.queue;
    subscriptions.max_notifications_per_publish = NOTIFICATIONS_MAX;
    subscriptions.max_keep_alive_count = KEEP_ALIVES_MAX;
    subscriptions.max_lifetime_count = LIFETIME_MAX;
    subscriptions.min_publishing_interval_ms = TICK_MS as f64;
    subscriptions.min_sampling_interval_ms = TICK_MS as f64;
    let nodes = own.nodes_per_call;
    let operational = &mut limits.operational;
    operational.max_nodes_per_read = nodes;
    operational.max_nodes_per_write = nodes;
    operational.max_nodes_per_browse = nodes;
    operational.max_nodes_per_register_nodes = nodes;
    operational.max_nodes_per_translate_browse_paths_to_node_ids = nodes;
    operational.max_monitored_items_per_call = nodes;
    limits
}

fn build_info() -> BuildInfo {
    BuildInfo {
        product_uri: "urn:inspectd".into(),
        product_name: "inspectd".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
        ..BuildInfo::default()
    }
}

/// Serves, and follows the line, until it is told to stop or one of the two fails.
async fn serve(
    inner: Inner,
    handle: ServerHandle,
    gate: Gate,
    core: Arc<Core>,
    pki: PathBuf,
    mut told: watch::Receiver<()>,
) {
    let inside = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(inside) => inside,
        Err(error) => return tracing::error!(%error, "OPC UA has no port for its server"),
    };
    let watched = gate.watch(inside.local_addr().ok(), handle.info());
    let mut serving = std::pin::pin!(inner.run_with(inside));
    tokio::select! {
        ended = &mut serving => match ended {
            Ok(()) => tracing::error!("the OPC UA server has ended by itself"),
            Err(error) => tracing::error!(error, "the OPC UA server has ended"),
        },
        error = watched => tracing::error!(%error, "OPC UA clients cannot connect"),
        () = follow(core, pki) => tracing::error!("OPC UA follows the line no more"),
        _ = told.changed() => {
            handle.cancel();
            // A client that reads nothing would hold its connection for ever.
            let _ = tokio::time::timeout(GRACE, serving).await;
        }
    }
}

/// Shows what is new, for as long as the line is there.
async fn follow(core: Arc<Core>, pki: PathBuf) {
    let (mut changed, mut recorded) = (core.line.changed.clone(), core.line.recorded.clone());
    let mut exposed = core.line.exposed.resubscribe();
    let mut seen = *recorded.borrow_and_update();
    changed.mark_unchanged();
    let newest = on_disk(&core, move |core| newest_of_each(core, seen)).await;
    newest.unwrap_or_default().iter().for_each(|(seq, inspection)| core.recorded(*seq, inspection, false));
    core.hear();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            rang = changed.changed() => {
                if rang.is_err() {
                    return;
                }
                core.hear();
            }
            over = exposed.recv() => match over {
                Ok(over) => core.exposed(&over),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "OPC UA has not said of so many exposures that they are over");
                }
                Err(RecvError::Closed) => return,
            },
            news = recorded.changed() => {
                if news.is_err() {
                    return;
                }
                let to = *recorded.borrow_and_update();
                // A part's exposure was over before its result was recorded, and is told before.
                while let Ok(over) = exposed.try_recv() {
                    core.exposed(&over);
                }
                while seen < to {
                    seen += 1;
                    let seq = seen;
                    match on_disk(&core, move |core| core.line.records.get(seq)).await {
                        // Retention has removed what is not there any more.
                        Ok(found) => found.iter().for_each(|inspection| core.recorded(seq, inspection, true)),
                        Err(error) => tracing::error!(error, seq, "OPC UA shows no result of a record"),
                    }
                }
            }
            _ = sweep.tick() => {
                let dir = pki.clone();
                let swept = tokio::task::spawn_blocking(move || pki::forget_rejected(&dir)).await;
                if let Ok(Err(error)) = swept {
                    tracing::warn!(%error, "the refused certificates are not counted");
                }
            }
        }
    }
}

/// Records that a start looks through for the newest of each camera.
const LOOK_BACK: usize = 1000;

fn newest_of_each(core: &Core, seq: u64) -> Result<Vec<(u64, Inspection)>, String> {
    let mut newest: Vec<(u64, Inspection)> = Vec::new();
    for (seq, inspection) in core.line.records.newest_before(seq.saturating_add(1), LOOK_BACK)? {
        if newest.iter().all(|(_, known)| known.camera != inspection.camera) {
            newest.push((seq, inspection));
        }
    }
    Ok(newest)
}

/// Does what waits for the disk on a thread that may.
async fn on_disk<T: Send + 'static>(
    core: &Arc<Core>,
    look: impl FnOnce(&Core) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let core = Arc::clone(core);
    let looked = tokio::task::spawn_blocking(move || look(&core)).await;
    looked.unwrap_or_else(|error| Err(error.to_string()))
}
