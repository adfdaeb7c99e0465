//! What the driver keeps and reads: what is owed, what was given up, the number of the connection. It runs on the
//! blocking pool, so that a slow disk does not stop the keep-alive.

use super::{ALARM_DEAD, Driver, bd_seq_name};
use crate::publish::mqtt::MqttError;
use crate::publish::mqtt::link::PUBLISH_OVERHEAD_BYTES;
use crate::publish::mqtt::owed::on_disk;
use crate::publish::mqtt::sparkplug::payload::{self, Payload};
use crate::publish::mqtt::sparkplug::report::{self, Page, Report};
use crate::publish::mqtt::sparkplug::session::{Event, Who};
use crate::store::outbox::{Cause, Kind};
use std::time::SystemTime;

impl Driver {
    /// On the disk before it is used.
    pub(super) async fn keep(&mut self, bd_seq: u8) -> Result<(), MqttError> {
        let name = bd_seq_name(&self.options.sink);
        let kept = on_disk(&self.store, move |store| match store.remember(&name, &bd_seq) {
            Err(error) if error.passes() => {
                tracing::warn!(%error, "the number of a birth is not on the disk");
                Ok(())
            }
            kept => kept,
        });
        kept.await
    }

    pub(super) async fn report_dead_letters(&mut self) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        let dead = on_disk(&self.store, move |store| store.outbox(&sink).dead_letters()).await?;
        let text = dead.last().map_or(String::new(), |last| {
            let (count, owed, reason) = (dead.len(), last.owed, &last.reason);
            format!(
                "{count} messages were given up, the last is {owed}: {reason}; `inspectd outbox retry` sends them again"
            )
        });
        self.alarm(ALARM_DEAD, text);
        Ok(())
    }

    pub(super) async fn count_outbox(&mut self) -> Result<(), MqttError> {
        let sinks = on_disk(&self.store, |store| store.sinks()).await?;
        if let Some(sink) = sinks.into_iter().find(|sink| sink.name == self.options.sink) {
            self.board.set(&Who::Node, report::outbox(sink.owed), SystemTime::now());
        }
        Ok(())
    }

    pub(super) async fn fetch(&mut self, kind: Kind, from: u64, count: usize) -> Result<(), MqttError> {
        // What was just acknowledged must not be read again.
        self.write_acks().await?;
        let sink = self.options.sink.clone();
        let Page { made, next, end } =
            on_disk(&self.store, move |store| report::page(store, &sink, kind, from, count)).await?;
        let mut entries = Vec::new();
        for (place, made) in made {
            if self.session.has_sent(place) {
                continue;
            }
            match made.map(|report| (self.length(&report), report)) {
                Ok((length, report)) if length <= self.packet_bytes_max => {
                    entries.push((place, report.who.clone()));
                    self.ready.insert(place, report);
                }
                Ok((length, _)) => {
                    let reason = format!("{length} bytes, and the broker takes {}", self.packet_bytes_max);
                    self.bury(place, Cause::Size, reason).await?;
                }
                Err(reason) => self.bury(place, Cause::Unreadable, reason).await?,
            }
        }
        self.inbox.push_back(Event::Fetched { kind, entries, next, end });
        Ok(())
    }

    /// Bytes of the packet about it, at most.
    pub(super) fn length(&mut self, report: &Report) -> usize {
        let metrics = self.data(&report.who, &report.values, report.at, true);
        let payload = Payload { timestamp: Some(u64::MAX), metrics, seq: Some(255), ..Payload::default() };
        let topic = self.edge.topic("DATA", &report.who);
        topic.len() + payload::encode(&payload).len() + PUBLISH_OVERHEAD_BYTES
    }

    /// Moves an entry to the dead letters and raises the alarm.
    pub(super) async fn bury(&mut self, place: u64, cause: Cause, reason: String) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        tracing::error!(sink, place, reason, "a message cannot be delivered and is kept as a dead letter");
        on_disk(&self.store, move |store| store.outbox(&sink).give_up(place, cause, &reason)).await?;
        self.report_dead_letters().await
    }

    pub(super) async fn write_acks(&mut self) -> Result<(), MqttError> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let acknowledged = std::mem::take(&mut self.acknowledged);
        let sink = self.options.sink.clone();
        on_disk(&self.store, move |store| store.outbox(&sink).ack(&acknowledged)).await
    }
}
