//! The sinks of the station: the broker of `[mqtt]` and those of `[sink.NAME]`, each with a task of its own.
//!
//! ```text
//!     config --> MqttOptions of each enabled sink --spawn--> its task (publish::mqtt), which reads its own outbox
//!     station --one queue a sink--> the same          sinks that are not enabled: what they have missed is reported
//! ```

use super::station::Station;
use crate::command::Handler;
use crate::config::{self, BrokerTls, Config, Mqtt, Secret};
use crate::publish::mqtt::command::Listening;
use crate::publish::mqtt::dialect::Spoken;
use crate::publish::mqtt::sparkplug::commands::Door;
use crate::publish::mqtt::sparkplug::edge::Edge;
use crate::publish::mqtt::state::Phase;
use crate::publish::mqtt::{self, Handle, MqttError, MqttOptions, Protocol, Tls};
use crate::publish::{StationEvent, alarm_of};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::MQTT;
use anyhow::Context as _;
use futures_util::future::{join_all, select_all};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::watch;

/// Events of cameras and alarms that wait for a sink; they are rare, and the newest state wins.
const EVENTS_MAX: usize = 256;
/// Raised while a sink is enabled again that has missed messages; cleared by the next start.
const ALARM_MISSED: &str = "sink_missed";

/// One enabled sink.
pub(super) struct Enabled {
    pub mqtt: MqttOptions,
    /// Commands are taken from it.
    pub commands: bool,
}

/// The enabled sinks of a config; the first is that of `[mqtt]`.
///
/// # Errors
/// A file of a sink cannot be read.
pub(super) fn enabled(config: &Config) -> anyhow::Result<Vec<Enabled>> {
    let prefix = config.station.topic("").trim_end_matches('/').to_owned();
    let first = MqttOptions {
        dialect: dialect(config, &config.mqtt, true),
        ..options(MQTT, "[mqtt]", &config.mqtt, &prefix)?
    };
    let mut sinks = vec![Enabled { mqtt: first, commands: true }];
    for sink in config.sinks.iter().filter(|sink| sink.enabled) {
        let section = format!("[sink.{}]", sink.name);
        let mqtt = MqttOptions {
            dialect: dialect(config, &sink.broker, sink.commands),
            ..options(&sink.name, &section, &sink.broker, &prefix)?
        };
        sinks.push(Enabled { mqtt, commands: sink.commands });
    }
    Ok(sinks)
}

/// What a broker is spoken to in.
fn dialect(config: &Config, broker: &Mqtt, commands: bool) -> Spoken {
    broker.sparkplug.as_ref().map_or(Spoken::Json, |node| {
        Spoken::Sparkplug(Arc::new(Edge {
            group: node.group_id.clone(),
            node: node.edge_node_id.clone(),
            primary_host: node.primary_host.clone(),
            host_lost: Duration::from_secs(node.host_lost_s.into()),
            devices: config.cameras.iter().map(|camera| camera.id.clone()).collect(),
            commands,
        }))
    })
}

fn options(name: &str, section: &str, broker: &Mqtt, prefix: &str) -> anyhow::Result<MqttOptions> {
    let secret = |s: Secret| s.expose().to_owned();
    let password = broker.read_password().with_context(|| format!("{section} password_file"))?;
    Ok(MqttOptions {
        sink: name.to_owned(),
        dialect: Spoken::Json,
        host: broker.host.clone(),
        port: broker.port,
        protocol: match broker.protocol {
            config::Protocol::V5 => Protocol::V5,
            config::Protocol::V311 => Protocol::V311,
        },
        client_id: broker.client_id.clone(),
        username: broker.username.clone().map(secret),
        password: password.map(secret),
        tls: broker.tls.as_ref().map(tls).transpose().with_context(|| section.to_owned())?,
        prefix: prefix.to_owned(),
        keep_alive: Duration::from_secs(broker.keep_alive_s.into()),
        images_px: broker.images_px,
    })
}

fn tls(files: &BrokerTls) -> Result<Tls, MqttError> {
    let identity =
        files.certificate.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    Tls::new(&files.ca, identity)
}

/// Names of the enabled sinks, for the store.
pub(super) fn names(config: &Config) -> Vec<String> {
    let further = config.sinks.iter().filter(|sink| sink.enabled).map(|sink| sink.name.clone());
    std::iter::once(MQTT.to_owned()).chain(further).collect()
}

/// The running sinks.
pub(super) struct Publishers(Vec<(String, Handle)>);

/// The queue of one sink, and what takes from it.
type Queue = (Enabled, Receiver<StationEvent>);

/// A station, and the queues by which its sinks hear of it.
pub(super) fn station(sinks: Vec<Enabled>) -> (Arc<Station>, Vec<Queue>) {
    let mut queues = Vec::new();
    let mut senders = Vec::new();
    for sink in sinks {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        senders.push((sink.mqtt.sink.clone(), sender));
        queues.push((sink, receiver));
    }
    (Arc::new(Station::with_sinks(senders)), queues)
}

impl Publishers {
    /// Starts a task for each. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// An option that cannot work.
    pub(super) fn start(
        queues: Vec<Queue>,
        store: &Arc<Store>,
        station: &Arc<Station>,
    ) -> Result<Self, MqttError> {
        let one = |(sink, events): Queue| {
            let name = sink.mqtt.sink.clone();
            let handle = mqtt::spawn(sink.mqtt, Arc::clone(store), events, Some(station.others(&name)))?;
            Ok((name, handle))
        };
        queues.into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Their connections, to be followed.
    pub(super) fn connections(&self) -> Connections {
        Connections {
            phases: self.0.iter().map(|(name, handle)| (name.clone(), handle.phase())).collect(),
            doors: self.0.iter().filter_map(|(_, handle)| handle.door()).collect(),
        }
    }

    /// Says goodbye on all connections at once; the first error of any.
    ///
    /// # Errors
    /// As [`Handle::stop`].
    pub(super) async fn stop(self) -> Result<(), MqttError> {
        let ended = join_all(self.0.into_iter().map(|(_, handle)| handle.stop())).await;
        ended.into_iter().collect()
    }
}

/// How the connections of the sinks stand.
#[derive(Clone)]
pub(super) struct Connections {
    phases: Vec<(String, watch::Receiver<Phase>)>,
    /// Of those by which commands come in, too.
    doors: Vec<Arc<Door>>,
}

impl Connections {
    /// Each sink, and whether it is connected.
    pub(super) fn up(&self) -> Vec<(String, bool)> {
        let up = |phase: &watch::Receiver<Phase>| matches!(*phase.borrow(), Phase::CatchingUp | Phase::Live);
        self.phases.iter().map(|(name, phase)| (name.clone(), up(phase))).collect()
    }

    /// Carries out the commands that come in by them.
    pub(super) fn listen(&self, handler: &Handler) -> Vec<Listening> {
        self.doors.iter().map(|door| door.listen(Arc::clone(handler))).collect()
    }

    /// Waits until the task of one has ended, which it only does on an error of the store.
    pub(super) async fn closed(&self) {
        let ends = self.phases.iter().map(|(_, phase)| {
            let mut phase = phase.clone();
            Box::pin(async move { while phase.changed().await.is_ok() {} })
        });
        select_all(ends).await;
    }
}

/// Says in the log which sinks are known and not enabled, and in an alarm what an enabled one has missed.
///
/// # Errors
/// [`StoreError`].
pub(super) fn report_absent(config: &Config, store: &Store, station: &Station) -> Result<(), StoreError> {
    for sink in store.sinks()? {
        let name = sink.name.as_str();
        let waiting: u64 = sink.owed.iter().sum();
        if !sink.enabled {
            let known = config.sinks.iter().any(|s| s.name == name);
            let why = if known { "is not enabled" } else { "is not in the config any more" };
            tracing::warn!(
                sink = name,
                waiting,
                "a sink {why}: it holds nothing back, and may miss messages"
            );
            continue;
        }
        let message = match sink.missed {
            0 => String::new(),
            missed => format!(
                "the sink {name} was not enabled and has missed {missed} messages; {waiting} wait for it now"
            ),
        };
        if !message.is_empty() {
            tracing::error!(sink = name, missed = sink.missed, "{message}");
        }
        let raised = !message.is_empty();
        station.publish(StationEvent::Alarm { code: alarm_of(name, ALARM_MISSED), raised, message });
        if raised {
            store.forget_missed(name)?;
        }
    }
    Ok(())
}
