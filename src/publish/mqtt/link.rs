//! One connection to the broker: a fresh rumqttc client, polled by a task of its own.
//!
//! ```text
//! driver --try_publish--> client ==channel==> poller --> broker
//! driver <--------LinkEvent (bounded)-------- poller <--
//! ```
//!
//! What rumqttc 0.25.1 asks for: on a CONNACK without session it drops what it holds, so a client
//! lives for one connection; `publish` can wait for ever, so only `try_publish`, and never from the
//! task that polls. The driver never waits for the poller, so the poller may wait for the driver.

use super::dialect::Message;
use super::state::Outcome;
use super::{MqttOptions, Protocol};
use rumqttc::{Outgoing, v5};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Packet ids that a client cycles through; more than ever are in flight.
pub(super) const CLIENT_INFLIGHT_MAX: u16 = 64;

/// Requests that the client's channel takes: a full window, and messages that need no acknowledgement.
const REQUESTS_MAX: usize = 2 * CLIENT_INFLIGHT_MAX as usize;

/// Events that wait for the driver.
const EVENTS_MAX: usize = 64;

/// Largest payload; a `result` has a few kilobytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a PUBLISH beside topic and payload: fixed header 5, topic length 2, packet id 2,
/// properties 1, and room.
pub(super) const PUBLISH_OVERHEAD_BYTES: usize = 16;

/// Longest topic.
pub(super) const TOPIC_BYTES_MAX: usize = 512;

/// Only commands are subscribed to, if anything, which are no longer; the broker has nothing long to say.
const INCOMING_BYTES_MAX: u32 = 16 * 1024;

/// The longest wait for TCP and CONNACK.
const CONNECT_WAIT_S: u64 = 5;

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkEvent {
    /// The broker accepted us, with these limits (`None`: its protocol has no way to say).
    Up {
        receive_max: Option<u16>,
        packet_bytes_max: Option<usize>,
        retain: bool,
    },
    /// A message that needs an acknowledgement went out with this packet id.
    Sent(u16),
    Acked(u16, Outcome),
    /// The broker's answer to the subscriptions: the topics, by their number, that it refused.
    Subscribed {
        refused: Vec<usize>,
    },
    /// Its answer to an `unsubscribe`: it has read what was sent before that.
    Unsubscribed,
    /// A message of a topic that is subscribed to.
    Heard(Heard),
    /// The connection is gone. The last event.
    Down(String),
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
}

enum Client {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// A connection; dropping it without `leave` lets the broker publish the Last Will.
pub(super) struct Link {
    client: Client,
    poller: JoinHandle<()>,
    pub events: mpsc::Receiver<LinkEvent>,
}

/// The client's channel is full or closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotTaken;

impl Link {
    /// Starts to connect; `Up` or `Down` says how it went. The broker retains the will where it is published.
    pub(super) fn connect(options: &MqttOptions, will: Message, retain_will: bool) -> Self {
        let (tx, events) = mpsc::channel(EVENTS_MAX);
        match options.protocol {
            Protocol::V5 => {
                let (client, eventloop) = client_v5(options, will, retain_will);
                let keep_alive = options.keep_alive;
                let poller = tokio::spawn(poll_v5(eventloop, tx, keep_alive));
                Self { client: Client::V5(client), poller, events }
            }
            Protocol::V311 => {
                let (client, eventloop) = client_v4(options, will, retain_will);
                let poller = tokio::spawn(poll_v4(eventloop, tx));
                Self { client: Client::V4(client), poller, events }
            }
        }
    }

    /// Hands a message to the client; never waits.
    pub(super) fn try_publish(
        &self,
        topic: &str,
        at_least_once: bool,
        retain: bool,
        payload: Vec<u8>,
    ) -> Result<(), NotTaken> {
        match &self.client {
            Client::V5(client) => {
                use v5::mqttbytes::QoS;
                let qos = if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(topic, qos, retain, payload).map_err(|_| NotTaken)
            }
            Client::V4(client) => {
                use rumqttc::QoS;
                let qos = if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(topic, qos, retain, payload).map_err(|_| NotTaken)
            }
        }
    }

    /// Asks for topics with QoS 1; never waits.
    pub(super) fn try_subscribe(&self, topics: Vec<String>) -> Result<(), NotTaken> {
        match &self.client {
            Client::V5(client) => {
                use v5::mqttbytes::{QoS, v5::Filter};
                let filters = topics.into_iter().map(|topic| Filter::new(topic, QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(|_| NotTaken)
            }
            Client::V4(client) => {
                use rumqttc::{QoS, SubscribeFilter};
                let filters = topics.into_iter().map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(|_| NotTaken)
            }
        }
    }

    /// Leaves a topic; `Unsubscribed` says that the broker has read this, also of a topic that was never asked for.
    pub(super) fn try_unsubscribe(&self, topic: String) -> Result<(), NotTaken> {
        match &self.client {
            Client::V5(client) => client.try_unsubscribe(topic).map_err(|_| NotTaken),
            Client::V4(client) => client.try_unsubscribe(topic).map_err(|_| NotTaken),
        }
    }

    /// Sends DISCONNECT, so that the broker forgets the Last Will, and waits until the poller ends.
    pub(super) async fn leave(mut self) {
        let asked = match &self.client {
            Client::V5(client) => client.try_disconnect().is_ok(),
            Client::V4(client) => client.try_disconnect().is_ok(),
        };
        if asked {
            while self.events.recv().await.is_some() {}
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

fn client_v5(options: &MqttOptions, will: Message, retain_will: bool) -> (v5::AsyncClient, v5::EventLoop) {
    use v5::mqttbytes::{QoS, v5::LastWill};
    let mut o = v5::MqttOptions::new(&options.client_id, &options.host, options.port);
    o.set_transport(options.transport());
    o.set_keep_alive(options.keep_alive);
    o.set_clean_start(true);
    o.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, retain_will, None));
    o.set_outgoing_inflight_upper_limit(CLIENT_INFLIGHT_MAX);
    o.set_max_packet_size(Some(INCOMING_BYTES_MAX));
    o.set_connection_timeout(CONNECT_WAIT_S);
    let mut network = o.network_options();
    network.set_tcp_nodelay(true);
    o.set_network_options(network);
    if let Some(user) = &options.username {
        o.set_credentials(user, options.password.as_deref().unwrap_or_default());
    }
    v5::AsyncClient::new(o, REQUESTS_MAX)
}

async fn poll_v5(mut eventloop: v5::EventLoop, events: mpsc::Sender<LinkEvent>, keep_alive: Duration) {
    loop {
        let polled = eventloop.poll().await;
        // What came in together with the end of the connection still waits inside the client.
        let rest =
            if polled.is_err() { std::mem::take(&mut eventloop.state.events) } else { VecDeque::new() };
        let (first, end) = match polled {
            Ok(event) => (Some(event), None),
            Err(error) => (None, Some(LinkEvent::Down(error.to_string()))),
        };
        if first.as_ref().is_some_and(no_keep_alive) {
            // The client would take the broker's 0 ("none") for "ping without pause".
            eventloop.options.set_keep_alive(keep_alive);
        }
        for event in first.into_iter().chain(rest).filter_map(link_event_v5).chain(end) {
            if !pass_on(&events, event).await {
                return;
            }
        }
    }
}

fn no_keep_alive(event: &v5::Event) -> bool {
    use v5::mqttbytes::v5::Packet;
    match event {
        v5::Event::Incoming(Packet::ConnAck(ack)) => {
            ack.properties.as_ref().is_some_and(|l| l.server_keep_alive == Some(0))
        }
        _ => false,
    }
}

fn link_event_v5(event: v5::Event) -> Option<LinkEvent> {
    use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(ack)) => {
            let limits = ack.properties;
            let limit = limits.as_ref();
            Some(if limit.is_some_and(|l| l.max_qos == Some(0)) {
                LinkEvent::Down("the broker offers no QoS 1".into())
            } else {
                LinkEvent::Up {
                    receive_max: limit.and_then(|l| l.receive_max),
                    packet_bytes_max: limit.and_then(|l| l.max_packet_size).map(|b| b as usize),
                    retain: limit.is_none_or(|l| l.retain_available != Some(0)),
                }
            })
        }
        v5::Event::Incoming(Packet::PubAck(ack)) => {
            let outcome = match ack.reason {
                // "No matching subscribers" is a success code: the broker took the message.
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Outcome::Success,
                PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => Outcome::Never,
                PubAckReason::UnspecifiedError
                | PubAckReason::ImplementationSpecificError
                | PubAckReason::NotAuthorized
                | PubAckReason::PacketIdentifierInUse
                | PubAckReason::QuotaExceeded => Outcome::Later,
            };
            Some(LinkEvent::Acked(ack.pkid, outcome))
        }
        v5::Event::Incoming(Packet::SubAck(ack)) => {
            let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(LinkEvent::Subscribed { refused: refused(ack.return_codes.iter().map(granted)) })
        }
        v5::Event::Incoming(Packet::UnsubAck(_)) => Some(LinkEvent::Unsubscribed),
        v5::Event::Incoming(Packet::Publish(publish)) => Some(LinkEvent::Heard(Heard {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
        })),
        v5::Event::Outgoing(outgoing) => link_event_out(&outgoing),
        v5::Event::Incoming(_) => None,
    }
}

fn link_event_out(outgoing: &Outgoing) -> Option<LinkEvent> {
    match outgoing {
        // Messages that need no acknowledgement have packet id 0.
        Outgoing::Publish(pkid) if *pkid != 0 => Some(LinkEvent::Sent(*pkid)),
        Outgoing::Disconnect => Some(LinkEvent::Down("left".into())),
        _ => None,
    }
}

fn client_v4(
    options: &MqttOptions,
    will: Message,
    retain_will: bool,
) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    use rumqttc::{LastWill, QoS};
    let mut o = rumqttc::MqttOptions::new(&options.client_id, &options.host, options.port);
    o.set_transport(options.transport());
    o.set_keep_alive(options.keep_alive);
    o.set_clean_session(true);
    o.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, retain_will));
    o.set_inflight(CLIENT_INFLIGHT_MAX);
    o.set_max_packet_size(
        INCOMING_BYTES_MAX as usize,
        PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + PUBLISH_OVERHEAD_BYTES,
    );
    if let Some(user) = &options.username {
        o.set_credentials(user, options.password.as_deref().unwrap_or_default());
    }
    let (client, mut eventloop) = rumqttc::AsyncClient::new(o, REQUESTS_MAX);
    eventloop.network_options.set_connection_timeout(CONNECT_WAIT_S);
    eventloop.network_options.set_tcp_nodelay(true);
    (client, eventloop)
}

async fn poll_v4(mut eventloop: rumqttc::EventLoop, events: mpsc::Sender<LinkEvent>) {
    loop {
        let polled = eventloop.poll().await;
        let rest =
            if polled.is_err() { std::mem::take(&mut eventloop.state.events) } else { VecDeque::new() };
        let (first, end) = match polled {
            Ok(event) => (Some(event), None),
            Err(error) => (None, Some(LinkEvent::Down(error.to_string()))),
        };
        for event in first.into_iter().chain(rest).filter_map(|e| link_event_v4(&e)).chain(end) {
            if !pass_on(&events, event).await {
                return;
            }
        }
    }
}

fn link_event_v4(event: &rumqttc::Event) -> Option<LinkEvent> {
    use rumqttc::{Event, Packet, SubscribeReasonCode};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => {
            Some(LinkEvent::Up { receive_max: None, packet_bytes_max: None, retain: true })
        }
        // Version 3.1.1 cannot refuse a message: its PUBACK always means success.
        Event::Incoming(Packet::PubAck(ack)) => Some(LinkEvent::Acked(ack.pkid, Outcome::Success)),
        Event::Incoming(Packet::SubAck(ack)) => {
            let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(LinkEvent::Subscribed { refused: refused(ack.return_codes.iter().map(granted)) })
        }
        Event::Incoming(Packet::UnsubAck(_)) => Some(LinkEvent::Unsubscribed),
        Event::Incoming(Packet::Publish(publish)) => Some(LinkEvent::Heard(Heard {
            topic: publish.topic.clone(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
        })),
        Event::Outgoing(outgoing) => link_event_out(outgoing),
        Event::Incoming(_) => None,
    }
}

/// The numbers of those that were not granted.
fn refused(granted: impl Iterator<Item = bool>) -> Vec<usize> {
    granted.enumerate().filter(|(_, granted)| !granted).map(|(i, _)| i).collect()
}

/// False when the connection is over or nobody listens any more.
async fn pass_on(events: &mpsc::Sender<LinkEvent>, event: LinkEvent) -> bool {
    let over = matches!(event, LinkEvent::Down(_));
    events.send(event).await.is_ok() && !over
}
