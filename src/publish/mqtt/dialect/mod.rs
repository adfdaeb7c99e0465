//! Dialect: topics and payloads of a connection, in the form that the other side understands.
//!
//! ```text
//!     owed entry, state of the station --Dialect--> topic and payload --driver, link--> broker
//!     broker --link--> Arrived --Dialect--> Asked --command's dispatcher--> outcome --Dialect--> answer
//! ```
//!
//! A dialect decides topics and payloads, birth (`status` online) and will (`status` offline), which commands come
//! in and how they are read. The link, the state machine and the driver know none of it: they see topics, bytes and
//! acknowledgements. A message about an owed entry is a pure function of what is stored and of the entry's schema,
//! so that every send has the same bytes.

pub mod json;

use crate::command::CommandBody;
use crate::domain::camera::CameraStatus;
use crate::domain::recipe::RecipeStatus;
use crate::domain::trigger::{Outcome, Refusal};
use crate::publish::mqtt::command::Presence;
use crate::publish::mqtt::sparkplug::edge::Edge;
use crate::publish::{StationState, Stats};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Kind, OutboxEntry};
use crate::store::record::Stored;
use std::sync::Arc;
use std::time::SystemTime;

/// Which dialect a sink speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// JSON below `root/site/area/line/station/`.
    #[default]
    Json,
    /// Sparkplug B, which has a session and so a driver of its own ([`super::sparkplug`]).
    Sparkplug(Arc<Edge>),
}

/// The dialect below a prefix of topics.
pub(crate) fn json(prefix: &str) -> Arc<dyn Dialect> {
    Arc::new(json::Json::new(prefix))
}

/// A topic and a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
}

/// A message that came in, in the same words for every version of MQTT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub retained: bool,
    /// Of MQTT 5.
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a [u8]>,
}

/// A command as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Its word; perhaps of no command that there is.
    pub verb: String,
    /// Its fields, or why it may not command.
    pub body: Result<CommandBody, Refusal>,
    /// The id by which its sender knows the answer, also that of a refusal.
    pub correlation_id: Option<String>,
    /// Where its answer goes.
    pub answer_to: String,
}

/// See the module's header.
pub(crate) trait Dialect: Send + Sync {
    /// Where owed messages of a kind go.
    fn owed_topic(&self, kind: Kind) -> String;

    /// The message about an entry; the inner error says why none can be made of it. One that may be shortened is,
    /// where it is longer than `payload_max` bytes.
    ///
    /// # Errors
    /// [`StoreError`]: the store failed.
    fn owed(
        &self,
        store: &Store,
        entry: &OutboxEntry,
        payload_max: usize,
    ) -> Result<Result<Vec<u8>, String>, StoreError>;

    /// The station's own state; `Offline` is the will, the others are published at a connect and at a clean stop.
    fn status(&self, state: StationState, since: SystemTime) -> Message;

    /// Where a second station of the same path would say its `status`; `None`: it cannot be told from this one.
    fn presence_topic(&self) -> Option<String> {
        None
    }

    /// What a message on that topic says of who sent it; `None`: it is no status.
    fn read_presence(&self, _payload: &[u8]) -> Option<Presence> {
        None
    }

    fn camera(&self, id: &str, status: &CameraStatus, at: SystemTime) -> Message;

    fn alarm(&self, code: &str, raised: bool, text: &str, at: SystemTime) -> Message;

    fn recipe(&self, status: &RecipeStatus, at: SystemTime) -> Message;

    fn stats(&self, stats: &Stats, at: SystemTime) -> Message;

    /// The newest inspection, for who wants only that; without one the message says so.
    fn last(&self, newest: Option<&Stored>) -> Message;

    /// The newest inspection of a camera; `None`: the dialect has no such message.
    fn camera_last(&self, _newest: &Stored) -> Option<Message> {
        None
    }

    /// Where the small picture of an inspection goes; `None`: the dialect has none.
    fn image_topic(&self, _inspection_id: &str) -> Option<String> {
        None
    }

    /// The topics on which commands come in.
    fn command_topics(&self) -> Vec<String>;

    /// What a message asks for; `None` when it is on no topic of a command.
    fn read_command(&self, incoming: &Incoming<'_>) -> Option<Asked>;

    /// The payload of a command's answer.
    fn answer(&self, verb: &str, correlation_id: Option<&str>, outcome: &Outcome, at: SystemTime) -> Vec<u8>;
}
