//! MQTT: what a sink is owed, delivered; how the station is, published.
//!
//! ```text
//! Store --committed--> driver --try_publish--> link (rumqttc, its own task) --> broker
//!   ^                   |  ^                     |
//!   '---ack, dead letter'  '--- Sent, PUBACK ----'
//! daemon --StationEvent (bounded)--> driver     cameras, alarms, stats
//! broker --cmd/…--> command (a client of its own) --> daemon's dispatcher --> cmd/ack
//! ```
//!
//! A sink that speaks Sparkplug B has a session instead, and so a driver of its own on the same link: [`sparkplug`].
//!
//! [`state`] decides, without clock, network or disk; [`driver`] carries out; [`link`] is one connection, by [`tls`] or
//! in clear; [`dialect`] makes topics and payloads; [`last_words`] are published without a store. The outbox in the
//! store is the only truth about what must be sent: a connection starts with nothing and reads it from its cursor.

pub mod command;
pub mod dialect;
mod driver;
pub(crate) mod last_words;
mod link;
mod owed;
pub mod sparkplug;
pub mod state;
mod tls;

pub use tls::Tls;

use super::{Report, StationEvent};
use crate::store::Store;
use crate::store::error::StoreError;
use dialect::Spoken;
use sparkplug::commands::Door;
use state::Phase;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Shorter keep-alives are refused by the client library.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// Longest prefix of topics, so that whole topics stay below the link's limit.
const PREFIX_BYTES_MAX: usize = 256;

/// Which MQTT is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5, whose reason codes tell a refusal from a success.
    V5,
    /// Has no reason codes: a broker that refuses a message by its access list says nothing, and
    /// the message counts as delivered.
    V311,
}

/// Where and how to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct MqttOptions {
    /// The name of the sink, whose cursor it is.
    pub sink: String,
    /// The form of messages and topics.
    pub dialect: Spoken,
    /// Name or address of the broker.
    pub host: String,
    /// 1883 in clear and 8883 with TLS, by custom.
    pub port: u16,
    /// The version that the broker is asked for.
    pub protocol: Protocol,
    /// Unique among all clients of the broker: a second one with the same id throws the first out.
    pub client_id: String,
    /// `None`: the broker is given neither name nor password.
    pub username: Option<String>,
    /// Only with a `username`; never written to a log.
    pub password: Option<String>,
    /// `None`: in clear.
    pub tls: Option<Tls>,
    /// `root/site/area/line/station`.
    pub prefix: String,
    /// At least 5 s; a dead connection is noticed within two of these.
    pub keep_alive: Duration,
    /// Longer side in pixels of the small pictures that are published behind the results; `None`: none are.
    pub images_px: Option<u32>,
}

impl std::fmt::Debug for MqttOptions {
    /// Without the password: options end up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttOptions")
            .field("sink", &self.sink)
            .field("dialect", &self.dialect)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("tls", &self.tls.is_some())
            .field("prefix", &self.prefix)
            .field("keep_alive", &self.keep_alive)
            .finish_non_exhaustive()
    }
}

impl MqttOptions {
    fn transport(&self) -> rumqttc::Transport {
        self.tls.as_ref().map_or_else(rumqttc::Transport::tcp, Tls::transport)
    }

    /// What would make every connection fail, found before the first.
    pub fn check(&self) -> Result<(), MqttError> {
        let bad = |key, reason| Err(MqttError::Option { key, reason });
        if self.host.is_empty() {
            return bad("host", "must not be empty");
        }
        if self.port == 0 {
            return bad("port", "must not be 0");
        }
        if self.client_id.is_empty() || self.client_id.starts_with(' ') {
            return bad("client_id", "must not be empty or begin with a space");
        }
        if self.keep_alive < KEEP_ALIVE_MIN || self.keep_alive.as_secs() > u64::from(u16::MAX) {
            return bad("keep_alive", "must be from 5 to 65535 seconds");
        }
        let prefix = &self.prefix;
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX {
            return bad("prefix", "must have 1 to 256 bytes");
        }
        if prefix.starts_with('$') || prefix.contains(['+', '#']) || prefix.chars().any(char::is_control) {
            return bad("prefix", "must not begin with $ nor contain +, # or control characters");
        }
        if prefix.split('/').any(str::is_empty) {
            return bad("prefix", "must not have empty levels");
        }
        if let Spoken::Sparkplug(edge) = &self.dialect {
            let host = edge.primary_host.as_deref();
            let ids = [
                ("group_id", Some(&*edge.group)),
                ("edge_node_id", Some(&*edge.node)),
                ("primary_host", host),
            ];
            let bad_id = |id: Option<&str>| id.is_some_and(|id| !sparkplug::edge::is_id(id));
            if let Some((key, _)) = ids.into_iter().find(|(_, id)| bad_id(*id)) {
                return bad(key, "must be a name without / + # and control characters");
            }
        }
        Ok(())
    }
}

/// Why MQTT cannot go on; a broker that is away is no error.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum MqttError {
    #[error("{key} {reason}")]
    Option { key: &'static str, reason: &'static str },
    /// A file of [`tls`] cannot be used.
    #[error("{}: {reason}", path.display())]
    Tls { path: PathBuf, reason: String },
    /// The outbox cannot be read or written.
    #[error("the outbox: {source}")]
    Store {
        #[from]
        source: StoreError,
    },
    /// The task panicked or was aborted.
    #[error("the MQTT task ended: {reason}")]
    Task { reason: String },
}

/// The running connection. Dropping it without `stop` looks like a crash to the broker: it
/// publishes the Last Will.
pub struct Handle {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), MqttError>>,
    phase: watch::Receiver<Phase>,
    door: Option<Arc<Door>>,
}

impl Handle {
    /// The state of the connection, to be followed.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// By which commands come in on the same connection; `None`: they have one of their own.
    pub(crate) fn door(&self) -> Option<Arc<Door>> {
        self.door.clone()
    }

    /// Publishes `stopped`, waits for what is in flight (5 s at most) and leaves. What is not
    /// acknowledged stays in the outbox for the next start.
    pub async fn stop(mut self) -> Result<(), MqttError> {
        if let Some(stop) = self.stop.take() {
            // An error says that the task has already ended; `ended` tells why.
            let _ = stop.send(());
        }
        self.ended().await
    }

    /// Waits until the task ends; without `stop` it only does on an error of the store.
    pub async fn ended(&mut self) -> Result<(), MqttError> {
        match (&mut self.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(MqttError::Task { reason: error.to_string() }),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, and keeps delivering what the store owes the sink until `stop`. `others` passes the alarms about it on to
/// the other sinks. Call it inside a tokio runtime.
///
/// # Errors
/// An option that cannot work; the store knows no such sink.
pub fn spawn(
    options: MqttOptions,
    store: Arc<Store>,
    events: mpsc::Receiver<StationEvent>,
    others: Option<Report>,
) -> Result<Handle, MqttError> {
    options.check()?;
    let retries = store.outbox(&options.sink).subscribe_retries()?;
    let (stop, stopped) = oneshot::channel();
    let (phase_tx, phase) = watch::channel(Phase::Offline);
    let (task, door) = match options.dialect.clone() {
        Spoken::Json => {
            let driver = driver::Driver::new(options, store, phase_tx, others);
            (tokio::spawn(driver.run(events, retries, stopped)), None)
        }
        Spoken::Sparkplug(edge) => {
            let door = Door::new(&options.sink);
            let ours = Arc::clone(&door);
            let driver = sparkplug::driver::Driver::new(options, edge, ours, store, phase_tx, others)?;
            (tokio::spawn(driver.run(events, retries, stopped)), Some(door))
        }
    };
    Ok(Handle { stop: Some(stop), task, phase, door })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_named() {
        let good = MqttOptions {
            sink: "mqtt".into(),
            dialect: Spoken::Json,
            host: "localhost".into(),
            port: 1883,
            protocol: Protocol::V5,
            client_id: "st10".into(),
            username: None,
            password: Some("secret".into()),
            tls: None,
            prefix: "inspectd/plant1/body/line1/st10".into(),
            keep_alive: Duration::from_secs(30),
            images_px: None,
        };
        good.check().unwrap();
        assert!(!format!("{good:?}").contains("secret"));
        let bad = [
            ("host", MqttOptions { host: String::new(), ..good.clone() }),
            ("port", MqttOptions { port: 0, ..good.clone() }),
            ("client_id", MqttOptions { client_id: " x".into(), ..good.clone() }),
            ("keep_alive", MqttOptions { keep_alive: Duration::from_secs(4), ..good.clone() }),
            ("prefix", MqttOptions { prefix: "a/+/c".into(), ..good.clone() }),
            ("prefix", MqttOptions { prefix: "a//c".into(), ..good.clone() }),
            ("prefix", MqttOptions { prefix: "$SYS/a".into(), ..good }),
        ];
        for (name, options) in bad {
            assert!(matches!(options.check(), Err(MqttError::Option { key, .. }) if key == name), "{name}");
        }
    }
}
