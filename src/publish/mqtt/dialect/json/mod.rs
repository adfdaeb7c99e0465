//! The dialect of this station's own topics: JSON below `root/site/area/line/station/`.
//!
//! | topic | QoS | retained | when |
//! | --- | --- | --- | --- |
//! | `status` | 1 | yes | at every connect, at a clean stop; Last Will |
//! | `result` | 1 | no | each result, in order |
//! | `part`, `review` | 1 | no | as they are owed |
//! | `last`, `camera/{id}/last` | 1 | yes | when the results were published to their end |
//! | `image/{id}` | 1 | no | where the sink wants pictures: behind its result, when nothing else is in flight |
//! | `camera/{id}/status`, `recipe/{name}`, `alarm/{code}` | 1 | yes | on change, and at every connect |
//! | `stats` | 0 | no | as it comes, only while connected |
//! | `cmd/{verb}` in, `cmd/ack` out | 1 | no | a command, and its answer |

mod commands;
pub mod message;
pub mod schemas;
mod topics;

pub use topics::Topics;

use super::{Asked, Dialect, Incoming, Message};
use crate::command::Verb;
use crate::domain::camera::CameraStatus;
use crate::domain::recipe::RecipeStatus;
use crate::domain::trigger::Outcome;
use crate::publish::mqtt::command::Presence;
use crate::publish::{StationState, Stats};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Kind, OutboxEntry};
use crate::store::record::Stored;
use std::time::SystemTime;

/// The dialect of one station.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    topics: Topics,
}

impl Json {
    /// `prefix` is `root/site/area/line/station`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { topics: Topics::new(prefix) }
    }
}

impl Dialect for Json {
    fn owed_topic(&self, kind: Kind) -> String {
        match kind {
            Kind::Result => self.topics.result(),
            Kind::Part => self.topics.part(),
            Kind::Review => self.topics.review(),
        }
    }

    /// A review is published without its boxes and lines where it is too long with them.
    fn owed(
        &self,
        store: &Store,
        entry: &OutboxEntry,
        payload_max: usize,
    ) -> Result<Result<Vec<u8>, String>, StoreError> {
        let OutboxEntry { owed, schema, .. } = *entry;
        if schema == 0 || schema > owed.kind.schema() {
            return Ok(Err(format!("message schema {schema} is not known to this version")));
        }
        let made = match owed.kind {
            Kind::Result => store.get(owed.seq).map(|found| found.and_then(|s| message::result(&s, schema))),
            Kind::Part => {
                store.part(owed.seq).map(|found| found.map(|part| message::part::part(&part, schema)))
            }
            Kind::Review => store.review_entry(owed.seq).map(|found| {
                found.map(|review| {
                    let whole = message::review(&review, true);
                    if whole.len() <= payload_max { whole } else { message::review(&review, false) }
                })
            }),
        };
        match made {
            Ok(message) => Ok(message.ok_or_else(|| "its record is missing".to_owned())),
            Err(error @ (StoreError::BadRecord { .. } | StoreError::BadMeta { .. })) => {
                Ok(Err(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    fn status(&self, state: StationState, since: SystemTime) -> Message {
        Message { topic: self.topics.status(), payload: message::status(state, since) }
    }

    fn presence_topic(&self) -> Option<String> {
        Some(self.topics.status())
    }

    fn read_presence(&self, payload: &[u8]) -> Option<Presence> {
        message::presence(payload)
    }

    fn camera(&self, id: &str, status: &CameraStatus, at: SystemTime) -> Message {
        Message { topic: self.topics.camera_status(id), payload: message::camera_status(status, at) }
    }

    fn alarm(&self, code: &str, raised: bool, text: &str, at: SystemTime) -> Message {
        Message { topic: self.topics.alarm(code), payload: message::alarm(code, raised, text, at) }
    }

    fn recipe(&self, status: &RecipeStatus, at: SystemTime) -> Message {
        Message { topic: self.topics.recipe(&status.pipeline), payload: message::recipe(status, at) }
    }

    fn stats(&self, stats: &Stats, at: SystemTime) -> Message {
        Message { topic: self.topics.stats(), payload: message::stats(stats, at) }
    }

    /// An empty payload clears what the broker retains.
    fn last(&self, newest: Option<&Stored>) -> Message {
        Message { topic: self.topics.last(), payload: newest.map(message::last).unwrap_or_default() }
    }

    fn camera_last(&self, newest: &Stored) -> Option<Message> {
        let topic = self.topics.camera_last(&newest.inspection.camera);
        Some(Message { topic, payload: message::last(newest) })
    }

    fn image_topic(&self, inspection_id: &str) -> Option<String> {
        Some(self.topics.image(inspection_id))
    }

    fn command_topics(&self) -> Vec<String> {
        Verb::ALL.into_iter().map(|verb| self.topics.command(verb.as_str())).collect()
    }

    fn read_command(&self, incoming: &Incoming<'_>) -> Option<Asked> {
        commands::read(&self.topics.command(""), incoming)
    }

    fn answer(&self, verb: &str, correlation_id: Option<&str>, outcome: &Outcome, at: SystemTime) -> Vec<u8> {
        commands::ack(verb, correlation_id, outcome, at)
    }
}
