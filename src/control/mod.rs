//! Control: the local door of a store, for the commands of this machine; no token, no network.
//!
//! ```text
//! inspectd verify, export, … --Request--> DIR/control (0600) --> daemon: a thread a client (`server`, `service`)
//!                  ^------- Progress, Item…, and at last Done or Refused --'
//! ```
//!
//! The CLI always speaks this protocol ([`client`]). Who answers depends on who has the store:
//!
//! ```text
//! a daemon runs               the daemon
//! none, and it is ours        a thread of the command, which opens the store
//! none, and we are root       a child that has become the owner of the store, so that no file of root's lies in it
//! none, and it is another's   nobody: the command says as whom to run it
//! ```
//!
//! Messages are those of `ipc`: a JSON header and a payload, both with limits, none without its limit of time.
//!
//! Invariants:
//! - The peer is the same user as the server, or root; the kernel says so (`SO_PEERCRED`).
//! - A connection carries one request. A client that goes away, or does not read, ends its work.
//! - A server that is dropped has ended all its threads: nobody holds the store any more.

pub(crate) mod client;
pub(crate) mod server;
mod service;

use crate::ipc::{Channel, IpcError};
use crate::store::backup::Since;
use crate::store::error::StoreError;
use crate::store::export::write::Form;
use crate::store::pins::{ModelPin, ServersPin};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Name of the socket in the store's directory.
pub(crate) const SOCKET: &str = "control";
/// How long a client has for its request, and for taking a message.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long a client may work on what it was given before it says that it took it.
const TAKE_WAIT: Duration = Duration::from_mins(2);
/// Signs of progress come at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What the active recipes know and the store alone does not: above all whether a model may be accepted.
pub(crate) trait ModelGate: Send + Sync {
    /// Labels of one recipe or of all, recipe by recipe, in the order in which they are written.
    fn labels(&self, pipeline: Option<&str>) -> Vec<String>;

    /// Replays confirmed parts by the model whose files are there now. `progress` hears of which pipeline how many parts
    /// of how many are done, and says whether anybody still waits.
    ///
    /// # Errors
    /// What speaks against the model, or why it could not be judged, in words.
    fn replay(
        &self,
        model: &ModelPin,
        progress: &mut dyn FnMut(&str, u64, u64) -> bool,
    ) -> Result<(), String>;

    /// Notes that a model is accepted without a replay, and why.
    ///
    /// # Errors
    /// It cannot be noted now.
    fn accepted_without(&self, model: &ModelPin, reason: &str) -> Result<(), String>;
}

/// Who judges models, once there is anybody.
pub(crate) type Judge = Arc<OnceLock<Arc<dyn ModelGate>>>;

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Prove the ledgers and, with `pictures`, every file. `resume`: go on where the last proof of files stopped.
    Verify { pictures: bool, resume: bool },
    /// Write inspections with what people decided.
    Export {
        form: Form,
        which: Which,
        /// Labels of the recipes as their files have them, for who has no active recipes.
        #[serde(default)]
        labels: Vec<String>,
    },
    /// From now on this pair of model files answers the line.
    AcceptModel {
        name: String,
        text_sha256: String,
        mmproj_sha256: String,
        /// Servers that answer the questions beside it.
        #[serde(default)]
        servers: Option<ServersPin>,
        by: String,
        /// Why it is accepted without a replay; `None`: the gates of the active recipes are asked.
        #[serde(default)]
        reason: Option<String>,
    },
    /// List what was given up on the way to a sink, an item each, and count what is owed.
    Outbox,
    /// Owe these again, or all that were given up; `sink`: only those of this one.
    Retry {
        letters: Option<Vec<Letter>>,
        #[serde(default)]
        sink: Option<String>,
    },
    /// Give an account another password, whose hash this is; its sessions end. `engineer`: it is one from now on, and
    /// where there is no such account, one is made.
    ResetPassword { name: String, password_hash: String, engineer: bool, by: String },
    /// Name the recipes that were made on this station.
    MadeHere,
    /// Give what a backup needs that holds `since` already; each batch waits until it was taken.
    Backup { since: Since },
}

/// An owed message, by its kind (result, part, review) and its number there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub kind: String,
    pub seq: u64,
}

/// Which inspections; what is `None` is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    pub pipeline: Option<String>,
    pub camera: Option<String>,
    /// Milliseconds since 1970, both included.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub reviewed: Option<bool>,
}

/// What a client says while it is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Heard {
    Ask(Request),
    /// The last item is dealt with.
    Took,
}

/// What a server says; the last is `Done` or `Refused`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// So much of `what` is done.
    Progress {
        what: String,
        done: u64,
        total: u64,
        note: String,
    },
    /// One piece of the answer, with a payload.
    Item {
        item: Value,
    },
    Done {
        summary: Value,
    },
    Refused(Refusal),
}

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    /// Stable word, for example `busy`.
    pub code: String,
    pub reason: String,
    /// More for machines; null: nothing.
    #[serde(default)]
    pub detail: Value,
}

impl Refusal {
    pub(crate) fn new(code: &str, reason: impl Into<String>) -> Self {
        Self { code: code.to_owned(), reason: reason.into(), detail: Value::Null }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Locked { .. } => "locked",
            StoreError::CutOff { .. } => "cut_off",
            StoreError::NewerFormat { .. } => "newer",
            StoreError::Stopped { .. } => "stopped",
            error if error.passes() => "full",
            error if error.is_damage() => "damaged",
            _ => "failed",
        };
        let detail = match &error {
            StoreError::CutOff { ledger, expected, found } => {
                json!({ "ledger": ledger, "expected": expected, "found": found })
            }
            _ => Value::Null,
        };
        Self { code: code.to_owned(), reason: error.to_string(), detail }
    }
}

/// Why a server ends its work before it is done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client has gone or does not read, or the server closes.
    #[error("nobody waits for it any more")]
    Ended,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled => Self::Ended,
            error => Self::Refused(error.into()),
        }
    }
}

impl From<IpcError> for Failure {
    fn from(error: IpcError) -> Self {
        tracing::debug!(%error, "a client of the local door");
        Self::Ended
    }
}

/// The server's side of one connection.
pub(crate) struct Talk {
    channel: Channel,
    closing: Arc<AtomicBool>,
    told_at: Option<Instant>,
}

impl Drop for Talk {
    /// The client sees the end, whoever else has a handle of the socket; what was sent still reaches it.
    fn drop(&mut self) {
        self.channel.close();
    }
}

impl Talk {
    fn new(channel: Channel, closing: Arc<AtomicBool>) -> Self {
        Self { channel, closing, told_at: None }
    }

    /// The request; `None` when there is none that this version understands, which was said.
    fn request(&mut self) -> Option<Request> {
        match self.channel.recv::<Heard>(REQUEST_WAIT, REQUEST_WAIT) {
            Ok(Some((Heard::Ask(request), payload))) if payload.is_empty() => Some(request),
            Err(IpcError::Json { source }) => {
                let reason = format!("this version does not know the request: {source}");
                self.end(Err(Failure::Refused(Refusal::new("unknown", reason))));
                None
            }
            _ => None,
        }
    }

    /// Tells how far the work is, now and then; to be called at every step.
    ///
    /// # Errors
    /// `Ended`: stop.
    pub(crate) fn progress(&mut self, what: &str, done: u64, total: u64, note: &str) -> Result<(), Failure> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Failure::Ended);
        }
        let now = Instant::now();
        let due = self.told_at.is_none_or(|at| now.duration_since(at) >= PROGRESS_EVERY);
        if !due && done != total {
            return Ok(());
        }
        self.told_at = Some(now);
        let (what, note) = (what.to_owned(), note.to_owned());
        self.say(&Answer::Progress { what, done, total, note }, &[])
    }

    /// Gives one piece of the answer.
    ///
    /// # Errors
    /// `Ended`: stop.
    pub(crate) fn item(&mut self, item: Value, payload: &[u8]) -> Result<(), Failure> {
        self.say(&Answer::Item { item }, &[payload])
    }

    /// Waits until the client has dealt with the last item.
    ///
    /// # Errors
    /// `Ended`: stop.
    pub(crate) fn taken(&mut self) -> Result<(), Failure> {
        match self.channel.recv::<Heard>(TAKE_WAIT, REQUEST_WAIT)? {
            Some((Heard::Took, _)) => Ok(()),
            _ => Err(Failure::Ended),
        }
    }

    fn say(&mut self, answer: &Answer, payload: &[&[u8]]) -> Result<(), Failure> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Failure::Ended);
        }
        Ok(self.channel.send(answer, payload, SEND_WAIT)?)
    }

    fn end(&mut self, outcome: Result<Value, Failure>) {
        let last = match outcome {
            Ok(summary) => Answer::Done { summary },
            Err(Failure::Refused(refusal)) => Answer::Refused(refusal),
            Err(Failure::Ended) => {
                Answer::Refused(Refusal::new("closing", "the daemon stops or restarts; ask again"))
            }
        };
        // Who has gone does not want to know.
        let _ = self.channel.send(&last, &[], REQUEST_WAIT);
    }
}
