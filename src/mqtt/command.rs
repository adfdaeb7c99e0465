//! Commands in, acknowledgements out: a second client, so that nothing that comes in can hold up results.
//!
//!     broker --cmd/{trigger,pipeline,pause,resume}--> parse --> desk (a function of the daemon)
//!     broker <--cmd/ack, or the sender's response topic-- accepted, or refused with its reason
//!
//! Invariants:
//! - Packets of more than `COMMAND_BYTES_MAX` end the connection, which is made anew; results flow on.
//! - Retained commands are refused: they are old, whoever sees them.
//! - The session is clean: a command that came while the station was away is not carried out late.
//! - Every command gets one acknowledgement, on the response topic that it names (MQTT 5) or `cmd/ack`.

use super::message::SCHEMA;
use super::{MqttOptions, Protocol};
use crate::command::{self, Handler, Order, Verb};
use crate::domain::trigger::Refusal;
use crate::store::record::rfc3339;
use rumqttc::v5;
use serde::Serialize;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinHandle;

/// Longest packet that is taken in.
pub const COMMAND_BYTES_MAX: u32 = command::BYTES_MAX as u32;
/// Requests that wait inside the client: four subscriptions and the acknowledgements of a burst.
const REQUESTS_MAX: usize = 64;
/// Waits between connections double from the first to the last of these.
const RECONNECT_MIN: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// The longest wait for TCP and CONNACK.
const CONNECT_WAIT_S: u64 = 5;

/// The running listener; it ends when this is dropped, however the line ends.
#[must_use]
pub struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens for commands. Call it inside a tokio runtime.
pub fn listen(options: MqttOptions, handler: Handler) -> Listening {
    let listener = Listener { options, handler };
    Listening(tokio::spawn(async move {
        let mut wait = RECONNECT_MIN;
        loop {
            let began = Instant::now();
            let reason = match listener.options.protocol {
                Protocol::V5 => listener.connection_v5().await,
                Protocol::V311 => listener.connection_v4().await,
            };
            if began.elapsed() > RECONNECT_MAX {
                wait = RECONNECT_MIN;
            }
            tracing::warn!(%reason, "the connection for commands is gone");
            tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            wait = (2 * wait).min(RECONNECT_MAX);
        }
    }))
}

/// What an arrived message says, whatever the protocol.
struct Arrived<'a> {
    topic: &'a str,
    payload: &'a [u8],
    retained: bool,
    /// Of MQTT 5.
    response_topic: Option<String>,
    correlation: Option<Vec<u8>>,
}

struct Listener {
    options: MqttOptions,
    handler: Handler,
}

impl Listener {
    fn client_id(&self) -> String {
        format!("{}-cmd", self.options.client_id)
    }

    fn topics(&self) -> impl Iterator<Item = String> + '_ {
        Verb::ALL.into_iter().map(|verb| format!("{}/cmd/{}", self.options.prefix, verb.as_str()))
    }

    async fn connection_v5(&self) -> String {
        use v5::mqttbytes::{v5::Packet, QoS};
        let mut o = v5::MqttOptions::new(self.client_id(), &self.options.host, self.options.port);
        o.set_transport(self.options.transport());
        o.set_keep_alive(self.options.keep_alive);
        o.set_clean_start(true);
        o.set_max_packet_size(Some(COMMAND_BYTES_MAX));
        o.set_connection_timeout(CONNECT_WAIT_S);
        if let Some(user) = &self.options.username {
            o.set_credentials(user, self.options.password.as_deref().unwrap_or_default());
        }
        let (client, mut eventloop) = v5::AsyncClient::new(o, REQUESTS_MAX);
        loop {
            match eventloop.poll().await {
                Ok(v5::Event::Incoming(Packet::ConnAck(_))) => {
                    for topic in self.topics() {
                        if client.try_subscribe(topic, QoS::AtLeastOnce).is_err() {
                            return "the client took no subscription".into();
                        }
                    }
                }
                Ok(v5::Event::Incoming(Packet::Publish(publish))) => {
                    let Ok(topic) = std::str::from_utf8(&publish.topic) else { continue };
                    let properties = publish.properties.as_ref();
                    let arrived = Arrived {
                        topic,
                        payload: &publish.payload,
                        retained: publish.retain,
                        response_topic: properties.and_then(|p| p.response_topic.clone()),
                        correlation: properties.and_then(|p| p.correlation_data.as_ref()).map(|c| c.to_vec()),
                    };
                    let properties = v5::mqttbytes::v5::PublishProperties {
                        correlation_data: arrived.correlation.clone().map(Into::into),
                        ..Default::default()
                    };
                    let Some((to, ack)) = self.take(&arrived).await else { continue };
                    let sent =
                        client.try_publish_with_properties(to, QoS::AtLeastOnce, false, ack, properties);
                    if let Err(error) = sent {
                        tracing::warn!(%error, "an acknowledgement was not sent");
                    }
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    async fn connection_v4(&self) -> String {
        use rumqttc::{Event, Packet, QoS};
        let mut o = rumqttc::MqttOptions::new(self.client_id(), &self.options.host, self.options.port);
        o.set_transport(self.options.transport());
        o.set_keep_alive(self.options.keep_alive);
        o.set_clean_session(true);
        o.set_max_packet_size(COMMAND_BYTES_MAX as usize, COMMAND_BYTES_MAX as usize);
        if let Some(user) = &self.options.username {
            o.set_credentials(user, self.options.password.as_deref().unwrap_or_default());
        }
        let (client, mut eventloop) = rumqttc::AsyncClient::new(o, REQUESTS_MAX);
        eventloop.network_options.set_connection_timeout(CONNECT_WAIT_S);
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    for topic in self.topics() {
                        if client.try_subscribe(topic, QoS::AtLeastOnce).is_err() {
                            return "the client took no subscription".into();
                        }
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let arrived = Arrived {
                        topic: &publish.topic,
                        payload: &publish.payload,
                        retained: publish.retain,
                        response_topic: None,
                        correlation: None,
                    };
                    let Some((to, ack)) = self.take(&arrived).await else { continue };
                    if let Err(error) = client.try_publish(to, QoS::AtLeastOnce, false, ack) {
                        tracing::warn!(%error, "an acknowledgement was not sent");
                    }
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Carries one command out; the topic and the bytes of its acknowledgement.
    async fn take(&self, arrived: &Arrived<'_>) -> Option<(String, Vec<u8>)> {
        let verb = arrived.topic.strip_prefix(&self.options.prefix)?.strip_prefix("/cmd/")?;
        let (correlation_id, outcome) = if arrived.retained {
            let reason = "a retained command is old: publish it without retain".to_owned();
            (None, Err(Refusal::Malformed { reason }))
        } else {
            match parse(verb, arrived) {
                Ok(Order { command, correlation_id }) => {
                    (correlation_id, command::carry_out(&self.handler, command).await)
                }
                Err(refusal) => (None, Err(refusal)),
            }
        };
        tracing::info!(verb, ?correlation_id, refused = ?outcome.as_ref().err(), "command");
        let to = arrived.response_topic.clone().filter(|topic| is_response_topic(topic));
        let to = to.unwrap_or_else(|| format!("{}/cmd/ack", self.options.prefix));
        Some((to, ack(verb, correlation_id.as_deref(), &outcome, SystemTime::now())))
    }
}

/// A response goes where the sender says, but never to wildcards or the broker's own topics.
fn is_response_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= super::PREFIX_BYTES_MAX
        && !topic.starts_with('$')
        && !topic.contains(['+', '#'])
        && !topic.chars().any(char::is_control)
}

/// The command in a message; the correlation data of MQTT 5 stands in for a `correlation_id` that the
/// payload does not have.
fn parse(word: &str, arrived: &Arrived<'_>) -> Result<Order, Refusal> {
    let verb = Verb::parse(word)?;
    let data = arrived.correlation.as_deref().and_then(|data| std::str::from_utf8(data).ok());
    command::words(arrived.payload)?.correlated_by(data).order(verb, Instant::now())
}

/// The bytes of an acknowledgement.
fn ack(verb: &str, correlation_id: Option<&str>, outcome: &Result<(), Refusal>, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct AckV1<'a> {
        schema: u16,
        command: &'a str,
        correlation_id: &'a str,
        accepted: bool,
        /// Empty when it is accepted.
        code: &'a str,
        reason: String,
        ts: String,
    }
    let refused = outcome.as_ref().err();
    let ack = AckV1 {
        schema: SCHEMA,
        command: verb,
        correlation_id: correlation_id.unwrap_or_default(),
        accepted: refused.is_none(),
        code: refused.map_or("", Refusal::code),
        reason: refused.map(ToString::to_string).unwrap_or_default(),
        ts: rfc3339(at),
    };
    serde_json::to_vec(&ack).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(payload: &str) -> Arrived<'_> {
        Arrived {
            topic: "",
            payload: payload.as_bytes(),
            retained: false,
            response_topic: None,
            correlation: Some(b"c7".to_vec()),
        }
    }

    #[test]
    fn correlation_data_stands_in_for_a_missing_id() {
        let id = |payload: &str| parse("trigger", &arrived(payload)).unwrap().correlation_id;
        assert_eq!(id("").as_deref(), Some("c7"));
        assert_eq!(id(r#"{"correlation_id":"own"}"#).as_deref(), Some("own"));
        for odd in [vec![0xff], b"a\nb".to_vec(), vec![b'x'; 300]] {
            let arrived = Arrived { correlation: Some(odd), ..arrived("") };
            assert_eq!(parse("trigger", &arrived).unwrap().correlation_id, None);
        }
        assert!(parse("reboot", &arrived("")).unwrap_err().to_string().contains("no command"));
    }

    #[test]
    fn responses_go_to_plain_topics_only() {
        assert!(is_response_topic("plc/7/answers"));
        for bad in ["", "$SYS/x", "a/+/b", "a/#", "a\nb"] {
            assert!(!is_response_topic(bad), "{bad:?}");
        }
    }

    #[test]
    fn acknowledgements_are_flat_and_type_stable() {
        let full = Refusal::Full { camera: "cam1".into(), waiting: 8 };
        let at = SystemTime::UNIX_EPOCH;
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        let (good, bad) =
            (parse(ack("trigger", Some("c7"), &Ok(()), at)), parse(ack("trigger", None, &Err(full), at)));
        assert_eq!((&good["accepted"], &good["correlation_id"]), (&true.into(), &"c7".into()));
        assert_eq!((&bad["accepted"], &bad["code"]), (&false.into(), &"full".into()));
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&good), keys(&bad));
    }
}
