//! One connection for commands, in the same words for both versions of MQTT.
//!
//! ```text
//! Ears --next--> Up, Subscribed, Command, Lost
//! Voice --subscribe, answer, acknowledge--> broker
//! ```
//!
//! Acknowledgements are ours to give: the broker has its PUBACK when the command's answer is on its way.

use super::{COMMAND_BYTES_MAX, OPEN_MAX};
use crate::publish::mqtt::dialect::Incoming;
use crate::publish::mqtt::{MqttOptions, Protocol};
use rumqttc::v5;
use std::time::Instant;

/// Requests that wait inside the client; who makes more waits for room.
const REQUESTS_MAX: usize = 64;
/// The longest wait for TCP and CONNACK.
const CONNECT_WAIT_S: u64 = 5;

/// What happened on the connection.
pub(super) enum Heard {
    /// The broker accepted us.
    Up,
    /// Its answer to a subscription to so many topics: those, by their number, that it refused.
    Subscribed {
        asked: usize,
        refused: Vec<usize>,
    },
    Command(Arrived),
    /// Nothing that matters here.
    Other,
}

/// Why there is no connection any more.
#[derive(Debug)]
pub(super) struct Lost {
    pub reason: String,
    /// The broker says that another client has come with this id.
    pub taken_over: bool,
}

/// An arrived message, whatever the protocol.
pub(super) struct Arrived {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
    pub at: Instant,
    /// Of MQTT 5.
    pub response_topic: Option<String>,
    pub correlation: Option<Vec<u8>>,
    pub receipt: Receipt,
}

impl Arrived {
    /// As a dialect reads it.
    pub(super) fn incoming(&self) -> Incoming<'_> {
        Incoming {
            topic: &self.topic,
            payload: &self.payload,
            retained: self.retained,
            response_topic: self.response_topic.as_deref(),
            correlation: self.correlation.as_deref(),
        }
    }
}

/// What the broker waits for.
pub(super) enum Receipt {
    /// Sent with QoS 0.
    None,
    V5(Box<v5::mqttbytes::v5::Publish>),
    V4(rumqttc::Publish),
}

/// The sending half.
pub(super) enum Voice {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// The hearing half, which carries out what the other asks for while it is polled.
pub(super) enum Ears {
    V5(Box<v5::EventLoop>),
    V4(Box<rumqttc::EventLoop>),
}

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// A connection that is made when the ears are polled.
pub(super) fn connection(options: &MqttOptions, client_id: &str) -> (Voice, Ears) {
    match options.protocol {
        Protocol::V5 => {
            let mut o = v5::MqttOptions::new(client_id, &options.host, options.port);
            o.set_transport(options.transport());
            o.set_keep_alive(options.keep_alive);
            o.set_clean_start(true);
            o.set_manual_acks(true);
            o.set_receive_maximum(Some(OPEN_MAX));
            o.set_max_packet_size(Some(COMMAND_BYTES_MAX));
            o.set_connection_timeout(CONNECT_WAIT_S);
            if let Some(user) = &options.username {
                o.set_credentials(user, options.password.as_deref().unwrap_or_default());
            }
            let (client, ears) = v5::AsyncClient::new(o, REQUESTS_MAX);
            (Voice::V5(client), Ears::V5(Box::new(ears)))
        }
        Protocol::V311 => {
            let mut o = rumqttc::MqttOptions::new(client_id, &options.host, options.port);
            o.set_transport(options.transport());
            o.set_keep_alive(options.keep_alive);
            o.set_clean_session(true);
            o.set_manual_acks(true);
            o.set_max_packet_size(COMMAND_BYTES_MAX as usize, COMMAND_BYTES_MAX as usize);
            if let Some(user) = &options.username {
                o.set_credentials(user, options.password.as_deref().unwrap_or_default());
            }
            let (client, mut ears) = rumqttc::AsyncClient::new(o, REQUESTS_MAX);
            ears.network_options.set_connection_timeout(CONNECT_WAIT_S);
            (Voice::V4(client), Ears::V4(Box::new(ears)))
        }
    }
}

impl Voice {
    /// Asks for all topics at once; never waits, so that it may be called by who polls the ears.
    ///
    /// # Errors
    /// No room for it, which a fresh connection has.
    pub(super) fn subscribe(&self, topics: impl Iterator<Item = String>) -> Result<(), Gone> {
        match self {
            Self::V5(client) => {
                use v5::mqttbytes::{QoS, v5::Filter};
                client.try_subscribe_many(topics.map(|t| Filter::new(t, QoS::AtLeastOnce))).map_err(|_| Gone)
            }
            Self::V4(client) => {
                use rumqttc::{QoS, SubscribeFilter};
                let filters = topics.map(|t| SubscribeFilter::new(t, QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(|_| Gone)
            }
        }
    }

    /// Asks for one topic, of which a message may be missed; never waits.
    ///
    /// # Errors
    /// No room for it.
    pub(super) fn watch(&self, topic: String) -> Result<(), Gone> {
        match self {
            Self::V5(client) => client.try_subscribe(topic, v5::mqttbytes::QoS::AtMostOnce).map_err(|_| Gone),
            Self::V4(client) => client.try_subscribe(topic, rumqttc::QoS::AtMostOnce).map_err(|_| Gone),
        }
    }

    /// Sends an answer, waiting until the client takes it.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn answer(
        &self,
        to: String,
        answer: Vec<u8>,
        correlation: Option<Vec<u8>>,
    ) -> Result<(), Gone> {
        match self {
            Self::V5(client) => {
                use v5::mqttbytes::{QoS, v5::PublishProperties};
                let correlation_data = correlation.map(Into::into);
                let properties = PublishProperties { correlation_data, ..PublishProperties::default() };
                let sent = client.publish_with_properties(to, QoS::AtLeastOnce, false, answer, properties);
                sent.await.map_err(|_| Gone)
            }
            Self::V4(client) => {
                client.publish(to, rumqttc::QoS::AtLeastOnce, false, answer).await.map_err(|_| Gone)
            }
        }
    }

    /// The broker may forget the command.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn acknowledge(&self, receipt: &Receipt) -> Result<(), Gone> {
        match (self, receipt) {
            (Self::V5(client), Receipt::V5(publish)) => client.ack(publish).await.map_err(|_| Gone),
            (Self::V4(client), Receipt::V4(publish)) => client.ack(publish).await.map_err(|_| Gone),
            _ => Ok(()),
        }
    }
}

impl Ears {
    /// The next event.
    ///
    /// # Errors
    /// The connection is gone, or could not be made.
    pub(super) async fn next(&mut self) -> Result<Heard, Lost> {
        match self {
            Self::V5(ears) => ears.poll().await.map(heard_v5).map_err(|e| lost_v5(&e)),
            Self::V4(ears) => {
                let lost = |e: rumqttc::ConnectionError| Lost { reason: e.to_string(), taken_over: false };
                ears.poll().await.map(heard_v4).map_err(lost)
            }
        }
    }
}

fn heard_v5(event: v5::Event) -> Heard {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(_)) => Heard::Up,
        v5::Event::Incoming(Packet::SubAck(ack)) => {
            let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            let asked = ack.return_codes.len();
            Heard::Subscribed { asked, refused: refused(ack.return_codes.iter().map(granted)) }
        }
        v5::Event::Incoming(Packet::Publish(publish)) => {
            let properties = publish.properties.as_ref();
            Heard::Command(Arrived {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.to_vec(),
                retained: publish.retain,
                at: Instant::now(),
                response_topic: properties.and_then(|p| p.response_topic.clone()),
                correlation: properties.and_then(|p| p.correlation_data.as_ref()).map(|c| c.to_vec()),
                receipt: match publish.qos {
                    QoS::AtMostOnce => Receipt::None,
                    QoS::AtLeastOnce | QoS::ExactlyOnce => Receipt::V5(Box::new(publish)),
                },
            })
        }
        _ => Heard::Other,
    }
}

fn lost_v5(error: &v5::ConnectionError) -> Lost {
    use v5::mqttbytes::v5::DisconnectReasonCode;
    let taken_over = matches!(
        error,
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        })
    );
    Lost { reason: error.to_string(), taken_over }
}

fn heard_v4(event: rumqttc::Event) -> Heard {
    use rumqttc::{Event, Packet, QoS, SubscribeReasonCode};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Heard::Up,
        Event::Incoming(Packet::SubAck(ack)) => {
            let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            let asked = ack.return_codes.len();
            Heard::Subscribed { asked, refused: refused(ack.return_codes.iter().map(granted)) }
        }
        Event::Incoming(Packet::Publish(publish)) => Heard::Command(Arrived {
            topic: publish.topic.clone(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
            at: Instant::now(),
            response_topic: None,
            correlation: None,
            receipt: match publish.qos {
                QoS::AtMostOnce => Receipt::None,
                QoS::AtLeastOnce | QoS::ExactlyOnce => Receipt::V4(publish),
            },
        }),
        _ => Heard::Other,
    }
}

/// The numbers of those that were not granted.
fn refused(granted: impl Iterator<Item = bool>) -> Vec<usize> {
    granted.enumerate().filter(|(_, granted)| !granted).map(|(i, _)| i).collect()
}
