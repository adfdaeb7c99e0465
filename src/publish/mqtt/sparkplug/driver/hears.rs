//! What the driver hears: the network, the primary host, commands and their outcomes, the station itself.

use super::Driver;
use crate::domain::camera::CameraState;
use crate::domain::trigger::Refusal;
use crate::publish::mqtt::link::{
    Heard, LinkEvent, PAYLOAD_BYTES_MAX, PUBLISH_OVERHEAD_BYTES, TOPIC_BYTES_MAX,
};
use crate::publish::mqtt::sparkplug::commands::{self, Ask, Done};
use crate::publish::mqtt::sparkplug::report;
use crate::publish::mqtt::sparkplug::session::{Event, Who};
use crate::publish::mqtt::{MqttError, command};
use crate::publish::{StationEvent, alarm_of};
use std::time::SystemTime;
use tokio::time::Instant;

/// Network events that are taken in before the acknowledgements are written.
const BATCH_MAX: usize = 64;

/// Answers that are kept for their turn.
const ANSWERS_MAX: usize = 128;

impl Driver {
    pub(super) fn link_events(&mut self, first: LinkEvent) {
        self.link_event(first);
        for _ in 1..BATCH_MAX {
            match self.link.as_mut().and_then(|link| link.events.try_recv().ok()) {
                Some(event) => self.link_event(event),
                None => break,
            }
        }
    }

    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { packet_bytes_max, .. } => {
                let ours = PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + PUBLISH_OVERHEAD_BYTES;
                self.packet_bytes_max = packet_bytes_max.map_or(ours, |theirs| theirs.min(ours));
                let away_s = self.away_since.take().map(|since| since.elapsed().as_secs());
                tracing::info!(sink = self.options.sink, broker = %self.broker(), away_s, "connected to the broker");
                self.inbox.push_back(Event::Up);
            }
            LinkEvent::Subscribed { refused } => self.subscribed(&refused),
            LinkEvent::Unsubscribed => {
                self.progress_at = Instant::now();
                self.inbox.push_back(Event::Fenced);
            }
            LinkEvent::Sent(_) => {}
            // Only NDEATH is sent with QoS 1.
            LinkEvent::Acked(..) => self.inbox.push_back(Event::DeathTaken),
            LinkEvent::Heard(heard) => self.heard(heard),
            LinkEvent::Down(reason) => {
                if self.away_since.is_none() && !self.stopping {
                    self.away_since = Some(Instant::now());
                    tracing::warn!(sink = self.options.sink, broker = %self.broker(), reason, "broker away");
                }
                self.inbox.push_back(Event::Lost);
            }
        }
    }

    pub(super) fn subscribed(&mut self, refused: &[usize]) {
        let all = self.edge.subscriptions();
        let topics: Vec<&str> =
            refused.iter().filter_map(|place| all.get(*place)).map(String::as_str).collect();
        let text = match topics.as_slice() {
            [] => String::new(),
            topics => format!("the broker refuses the subscription to {}", topics.join(", ")),
        };
        if !text.is_empty() {
            tracing::error!(sink = self.options.sink, "{text}");
        }
        self.alarm(command::ALARM_REFUSED, text);
        self.progress_at = Instant::now();
        self.inbox.push_back(Event::Subscribed);
    }

    /// The state of the primary host, whose id is the end of the topic
    /// (tck-id-message-flow-edge-node-birth-publish-phid-wait-id), or a command.
    pub(super) fn heard(&mut self, heard: Heard) {
        if self.edge.state_topic().as_ref() == Some(&heard.topic) {
            match host_state(&heard.payload) {
                Ok((online, at)) => {
                    tracing::info!(
                        sink = self.options.sink,
                        host = self.edge.primary_host,
                        online,
                        "primary host"
                    );
                    self.inbox.push_back(Event::Host { online, at });
                }
                Err(reason) => tracing::warn!(topic = heard.topic, reason, "no state of a host"),
            }
            return;
        }
        let Some(who) = self.edge.commanded(&heard.topic) else { return };
        let owner = self.board.owner(&who);
        match commands::read(&who, owner, &heard.topic, &heard.payload, heard.retained) {
            Ok(commands::Asked { rebirth, command }) => {
                if rebirth {
                    tracing::info!(sink = self.options.sink, "a host asks for births");
                    self.inbox.push_back(Event::Rebirth);
                }
                if let Some(written) = command {
                    self.command(who, written);
                }
            }
            Err(reason) => tracing::warn!(topic = heard.topic, reason, "no command"),
        }
    }

    pub(super) fn command(&mut self, who: Who, mut written: commands::Written) {
        if !self.edge.commands {
            let reason = "commands of this broker are not taken: its section does not say commands = true";
            written.body = Err(Refusal::Malformed { reason: reason.into() });
        }
        let ask = Ask { who, written, at: std::time::Instant::now(), done: self.done.0.clone() };
        if let Some(done) = self.door.put(ask) {
            self.answered(done);
        }
    }

    pub(super) fn answered(&mut self, done: Done) {
        let Done { who, verb, id, outcome } = done;
        let values = report::answer(&verb, id.as_deref(), &outcome);
        self.board.note(&who, &values, SystemTime::now());
        self.answers_ever += 1;
        let id = self.answers_ever;
        self.answers.insert(id, (who.clone(), values));
        if self.answers.len() > ANSWERS_MAX {
            self.answers.pop_first();
        }
        self.inbox.push_back(Event::Answered { who, id });
    }

    pub(super) async fn station_event(&mut self, event: StationEvent) -> Result<(), MqttError> {
        let now = SystemTime::now();
        match event {
            StationEvent::Camera { id, status } => {
                let who = Who::Device(id.clone());
                self.board.set(&who, report::camera(&status), now);
                if status.state == CameraState::Fault {
                    self.inbox.extend([Event::Changed(who), Event::Dead(id)]);
                } else {
                    self.inbox.extend([Event::Alive(id), Event::Changed(who)]);
                }
                return Ok(());
            }
            StationEvent::Alarm { code, raised, message } => self.note_alarm(&code, raised, &message),
            StationEvent::Recipe(status) => _ = self.board.set(&Who::Node, report::recipe(&status), now),
            StationEvent::Stats(stats) => {
                self.board.set(&Who::Node, report::stats(&stats), now);
                self.count_outbox().await?;
            }
        }
        self.inbox.push_back(Event::Changed(Who::Node));
        Ok(())
    }

    pub(super) fn note_alarm(&mut self, code: &str, raised: bool, message: &str) {
        let changed = if raised { self.standing.insert(code.to_owned()) } else { self.standing.remove(code) };
        if raised || changed {
            let values = report::alarms(self.standing.iter().map(String::as_str), code, raised, message);
            self.board.set(&Who::Node, values, SystemTime::now());
        }
    }

    /// Raises an alarm about this sink or, without a text, clears it.
    pub(super) fn alarm(&mut self, code: &str, message: String) {
        let (code, raised) = (alarm_of(&self.options.sink, code), !message.is_empty());
        self.note_alarm(&code, raised, &message);
        self.inbox.push_back(Event::Changed(Who::Node));
        if let Some(others) = &self.others {
            others(StationEvent::Alarm { code, raised, message });
        }
    }
}

/// What a host says of itself: whether it is online, and of when that is.
fn host_state(payload: &[u8]) -> Result<(bool, i64), String> {
    #[derive(serde::Deserialize)]
    struct State {
        online: bool,
        timestamp: i64,
    }
    let State { online, timestamp } = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    Ok((online, timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_whether_it_is_online_and_of_when_that_is() {
        assert_eq!(
            host_state(br#"{"online":true,"timestamp":1700000000000}"#),
            Ok((true, 1_700_000_000_000))
        );
        for bad in [&b"OFFLINE"[..], b"{}", br#"{"online":"true","timestamp":1}"#, b""] {
            assert!(host_state(bad).is_err());
        }
    }
}
