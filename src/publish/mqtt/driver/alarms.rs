//! What the driver alarms: dead letters, what the broker refuses, what is too long for it.

use super::Driver;
use crate::publish::mqtt::MqttError;
use crate::publish::mqtt::owed::on_disk;
use crate::publish::mqtt::state::Phase;
use crate::publish::{StationEvent, alarm_of};
use crate::store::outbox::Kind;
use std::time::SystemTime;

const ALARM_DEAD: &str = "result_undeliverable";
const ALARM_REFUSED: &str = "result_refused";
const ALARM_HELD: &str = "result_held";

/// What of a kind is too long for this connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    count: usize,
    bytes_max: usize,
    /// Those up to here are counted.
    up_to: u64,
}

impl Held {
    /// Counts those (places and lengths) that were not counted before: after a refusal all is read again.
    pub(super) fn add(&mut self, found: Vec<(u64, usize)>) {
        for (place, bytes) in found {
            if place <= self.up_to {
                continue;
            }
            (self.count, self.up_to) = (self.count + 1, place);
            self.bytes_max = self.bytes_max.max(bytes);
        }
    }
}

impl Driver {
    /// A former run may have left them raised.
    pub(super) fn clear_alarms(&mut self) {
        self.alarm(ALARM_REFUSED, false, "");
        self.alarm(ALARM_HELD, false, "");
    }

    /// On this connection, and on those of the other sinks: they may be the only ones that stand.
    pub(super) fn alarm(&mut self, code: &str, raised: bool, text: &str) {
        let code = alarm_of(&self.options.sink, code);
        let message = self.dialect.alarm(&code, raised, text, SystemTime::now());
        self.retain(message);
        if let Some(others) = &self.others {
            others(StationEvent::Alarm { code, raised, message: text.to_owned() });
        }
    }

    /// The alarm about dead letters.
    pub(super) async fn report_dead_letters(&mut self) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        let dead = on_disk(&self.store, move |store| store.outbox(&sink).dead_letters()).await?;
        let text = match dead.last() {
            Some(last) => format!(
                "{} messages were given up, the last is {}: {}; `inspectd outbox retry` sends them again",
                dead.len(),
                last.owed,
                last.reason
            ),
            None => String::new(),
        };
        self.alarm(ALARM_DEAD, !dead.is_empty(), &text);
        Ok(())
    }

    /// The alarm about what is too long: raised anew when it has doubled, cleared when all is delivered.
    pub(super) fn report_held(&mut self) {
        let count: usize = self.held.iter().map(|h| h.count).sum();
        let longest = self.held.iter().map(|h| h.bytes_max).max().unwrap_or_default();
        let limit = self.packet_bytes_max;
        if count > 0 && count >= self.held_reported * 2 {
            let text = format!(
                "{count} or more messages wait: the longest has {longest} bytes, and the broker takes packets of {limit}; \
                 raise its maximum packet size"
            );
            tracing::error!(broker = %self.broker(), count, longest, limit, "messages are too long for the broker and stay owed");
            self.alarm(ALARM_HELD, true, &text);
            self.held_reported = count;
        } else if count == 0 && self.held_reported > 0 && self.machine.phase() == Phase::Live {
            self.alarm(ALARM_HELD, false, "");
            self.held_reported = 0;
        }
    }

    /// The alarm about kinds that the broker does not take; `None`: this one is taken.
    pub(super) fn report_refused(&mut self, kind: Kind, why: Option<String>) {
        let changed = match why {
            Some(why) => self.refused.insert(kind, why.clone()).as_ref() != Some(&why),
            None => self.refused.remove(&kind).is_some(),
        };
        if changed {
            let all: Vec<&str> = self.refused.values().map(String::as_str).collect();
            let text = all.join("; ");
            if !text.is_empty() {
                tracing::error!(broker = %self.broker(), text, "messages stay in the outbox");
            }
            self.alarm(ALARM_REFUSED, !text.is_empty(), &text);
        }
    }
}
