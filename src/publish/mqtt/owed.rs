//! What the store owes, as messages: where each kind is published, and what can be sent on a connection.
//!
//!     store: owed --lowest first--> read --> ready     fits the connection
//!                                       '--> held      too long for the broker: it stays owed, others go on
//!                                       '--> dead      no message can be made of it, or none that is ever taken

use super::link::PAYLOAD_BYTES_MAX;
use super::message::{self, Topics};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Cause, DeadLetter, Kind, OutboxEntry, Owed, RESULT_SCHEMA};

/// Messages that were read for the machine, of one kind.
pub struct Read {
    pub ready: Vec<(u64, Vec<u8>)>,
    /// Numbers and lengths of those that are too long for this connection.
    pub held: Vec<(u64, usize)>,
    pub dead: Vec<(u64, Cause, String)>,
    /// Where to read on, and whether the outbox ended there.
    pub next: u64,
    pub end: bool,
}

/// Where a kind is published.
pub fn topic(topics: &Topics, kind: Kind) -> String {
    match kind {
        Kind::Result => topics.result(),
        Kind::Part => topics.part(),
        Kind::Review => topics.review(),
    }
}

/// Reads up to `count` entries and makes their messages; `payload_max` is what the connection takes.
///
/// # Errors
/// `StoreError`.
pub fn read(
    store: &Store,
    kind: Kind,
    from: u64,
    count: usize,
    payload_max: usize,
) -> Result<Read, StoreError> {
    let entries = store.owed(kind, from, count)?;
    let next = entries.last().map_or(from, |e| e.seq + 1);
    let end = entries.len() < count;
    let mut read = Read { ready: Vec::new(), held: Vec::new(), dead: Vec::new(), next, end };
    for OutboxEntry { seq, schema } in entries {
        match message_of(store, Owed { kind, seq }, schema, payload_max)? {
            Ok(payload) if payload.len() <= payload_max => read.ready.push((seq, payload)),
            Ok(payload) if payload.len() <= PAYLOAD_BYTES_MAX => read.held.push((seq, payload.len())),
            Ok(payload) => {
                let reason = format!("{} bytes, the limit is {PAYLOAD_BYTES_MAX}", payload.len());
                read.dead.push((seq, Cause::Size, reason));
            }
            Err(reason) => read.dead.push((seq, Cause::Unreadable, reason)),
        }
    }
    Ok(read)
}

/// The dead letters that can be sent now: those that were too long and fit, and those of which no message
/// could be made and one can. `payload_max` is what the connection takes of each kind.
///
/// # Errors
/// `StoreError`.
pub fn sendable(store: &Store, payload_max: [usize; Kind::ALL.len()]) -> Result<Vec<Owed>, StoreError> {
    let mut found = Vec::new();
    for DeadLetter { owed, schema, cause, .. } in store.dead_letters()? {
        let payload_max = payload_max[owed.kind as usize];
        let by_itself = matches!(cause, Cause::Size | Cause::Unreadable);
        let fits = |m: Result<Vec<u8>, String>| m.is_ok_and(|payload| payload.len() <= payload_max);
        if by_itself && fits(message_of(store, owed, schema, payload_max)?) {
            found.push(owed);
        }
    }
    Ok(found)
}

/// The message, or why there is none. A review is told without its boxes and lines where it is too long with them.
fn message_of(
    store: &Store,
    owed: Owed,
    schema: u16,
    payload_max: usize,
) -> Result<Result<Vec<u8>, String>, StoreError> {
    let missing = || "its record is missing".to_owned();
    let known = match owed.kind {
        Kind::Result => schema == RESULT_SCHEMA,
        Kind::Part | Kind::Review => schema == message::SCHEMA,
    };
    if !known {
        return Ok(Err(format!("message schema {schema} is not known to this version")));
    }
    let made = match owed.kind {
        Kind::Result => store.get(owed.seq).map(|found| found.and_then(|s| message::result(&s, schema))),
        Kind::Part => store.part(owed.seq).map(|found| found.map(|part| message::part::part(&part))),
        Kind::Review => store.review_entry(owed.seq).map(|found| {
            found.map(|review| {
                let whole = message::review(&review, true);
                if whole.len() <= payload_max { whole } else { message::review(&review, false) }
            })
        }),
    };
    match made {
        Ok(message) => Ok(message.ok_or_else(missing)),
        Err(error @ (StoreError::BadRecord { .. } | StoreError::BadMeta { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}
