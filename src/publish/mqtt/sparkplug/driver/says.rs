//! What the driver says: births, data, deaths, each with its number.

use super::{ALARM_REFUSED, Driver};
use crate::publish::mqtt::MqttError;
use crate::publish::mqtt::dialect::Message;
use crate::publish::mqtt::link::PUBLISH_OVERHEAD_BYTES;
use crate::publish::mqtt::owed::on_disk;
use crate::publish::mqtt::sparkplug::metrics;
use crate::publish::mqtt::sparkplug::payload::{self, Metric, Payload};
use crate::publish::mqtt::sparkplug::report::{self, Report, Values};
use crate::publish::mqtt::sparkplug::session::{Out, Who};
use std::time::{Duration, SystemTime};

/// What is older than this when it is sent is historical.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

impl Driver {
    /// NDEATH: the number alone, without `seq` (tck-id-topics-ndeath-payload, tck-id-topics-ndeath-seq,
    /// tck-id-payloads-ndeath-seq, tck-id-message-flow-edge-node-birth-publish-will-message-payload).
    pub(super) fn death(&self, bd_seq: u8) -> Message {
        let now = SystemTime::now();
        let metrics = vec![metrics::bd_seq(bd_seq, now)];
        let payload = Payload { timestamp: Some(metrics::millis(now)), metrics, ..Payload::default() };
        Message { topic: self.edge.topic("DEATH", &Who::Node), payload: payload::encode(&payload) }
    }

    pub(super) async fn publish(&mut self, seq: u8, what: Out) -> Result<(), MqttError> {
        let now = SystemTime::now();
        let (kind, who, metrics) = match what {
            Out::NodeBirth { bd_seq } => {
                self.born_at = now;
                self.look_up_newest().await?;
                ("BIRTH", Who::Node, self.board.birth(&Who::Node, bd_seq, now))
            }
            Out::DeviceBirth(device) => {
                self.look_up_newest().await?;
                let who = Who::Device(device);
                let metrics = self.board.birth(&who, 0, now);
                ("BIRTH", who, metrics)
            }
            Out::DeviceDeath(device) => ("DEATH", Who::Device(device), vec![]),
            Out::State(who) => {
                let metrics = self.board.untold(&who);
                ("DATA", who, metrics)
            }
            Out::Answer(id) => {
                let Some((who, values)) = self.answers.remove(&id) else {
                    self.break_off();
                    return Ok(());
                };
                let metrics = self.data(&who, &values, now, false);
                ("DATA", who, metrics)
            }
            Out::Entry { place, who, again } => {
                let Some(Report { values, at, since, .. }) = self.ready.remove(&place) else {
                    self.break_off();
                    return Ok(());
                };
                let late = now.duration_since(since).is_ok_and(|age| age > LIVE_WITHIN);
                let historical = again || late || since < self.born_at;
                let metrics = self.data(&who, &values, at, historical);
                ("DATA", who, metrics)
            }
        };
        self.send(kind, &who, seq, metrics, now);
        Ok(())
    }

    pub(super) fn data(
        &mut self,
        who: &Who,
        values: &Values,
        at: SystemTime,
        historical: bool,
    ) -> Vec<Metric> {
        let owner = self.board.owner(who);
        values.iter().map(|(name, value)| owner.data(name, value, at, historical)).collect()
    }

    /// With QoS 0 and without retain (tck-id-topics-nbirth-mqtt, tck-id-topics-ndata-mqtt, tck-id-topics-dbirth-mqtt,
    /// tck-id-topics-ddata-mqtt, tck-id-topics-ddeath-mqtt, tck-id-payloads-nbirth-qos, tck-id-payloads-nbirth-retain,
    /// tck-id-payloads-dbirth-qos, tck-id-payloads-dbirth-retain, tck-id-payloads-ndata-qos,
    /// tck-id-payloads-ndata-retain, tck-id-payloads-ddata-qos, tck-id-payloads-ddata-retain,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-qos,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-retained,
    /// tck-id-message-flow-device-birth-publish-dbirth-qos,
    /// tck-id-message-flow-device-birth-publish-dbirth-retained), with the time of sending
    /// (tck-id-topics-nbirth-timestamp, tck-id-topics-ndata-timestamp, tck-id-topics-dbirth-timestamp,
    /// tck-id-topics-ddata-timestamp, tck-id-payloads-nbirth-timestamp, tck-id-payloads-ndata-timestamp,
    /// tck-id-payloads-dbirth-timestamp, tck-id-payloads-ddata-timestamp, tck-id-payloads-ddeath-timestamp,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-payload,
    /// tck-id-message-flow-device-birth-publish-dbirth-payload).
    pub(super) fn send(&mut self, kind: &str, who: &Who, seq: u8, metrics: Vec<Metric>, now: SystemTime) {
        let topic = self.edge.topic(kind, who);
        let timestamp = Some(metrics::millis(now));
        let payload =
            payload::encode(&Payload { timestamp, metrics, seq: Some(seq.into()), ..Payload::default() });
        if topic.len() + payload.len() + PUBLISH_OVERHEAD_BYTES > self.packet_bytes_max {
            let (bytes, limit) = (payload.len(), self.packet_bytes_max);
            let text = format!("{topic} has {bytes} bytes, and the broker takes packets of {limit}");
            tracing::error!(sink = self.options.sink, "{text}");
            self.alarm(ALARM_REFUSED, text);
            self.break_off();
            return;
        }
        self.unless_taken(|link| link.try_publish(&topic, false, false, payload).is_ok());
    }

    /// Births carry the newest values, also of what is still owed.
    pub(super) async fn look_up_newest(&mut self) -> Result<(), MqttError> {
        if std::mem::replace(&mut self.is_newest, true) {
            return Ok(());
        }
        for Report { who, values, at, .. } in on_disk(&self.store, report::newest).await? {
            self.board.note(&who, &values, at);
        }
        self.count_outbox().await
    }
}
