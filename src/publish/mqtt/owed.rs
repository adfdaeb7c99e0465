//! What a sink is owed, as messages: what can be sent on a connection. And how its driver reads and writes the disk.
//!
//! ```text
//!     store: owed --lowest first--> read --> ready     fits the connection
//!                                       '--> held      too long for the broker: it stays owed, others go on
//!                                       '--> dead      no message can be made of it, or none that is ever taken
//! ```

use super::MqttError;
use super::dialect::Dialect;
use super::link::PAYLOAD_BYTES_MAX;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Cause, DeadLetter, Kind, OutboxEntry, Owed};
use std::sync::Arc;

/// Messages that were read for the machine, of one kind, by their places in the log.
pub(super) struct Read {
    pub ready: Vec<(u64, Vec<u8>)>,
    /// Places and numbers of the ready.
    pub numbers: Vec<(u64, u64)>,
    /// Places and lengths of those that are too long for this connection.
    pub held: Vec<(u64, usize)>,
    pub dead: Vec<(u64, Cause, String)>,
    /// Where to read on, and whether the log ended there.
    pub next: u64,
    pub end: bool,
}

/// Does what waits for the disk on the blocking pool, so that a slow disk does not stop the keep-alive.
///
/// # Errors
/// [`MqttError`]: the store's, or the work has panicked.
pub(super) async fn on_disk<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, MqttError> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(outcome) => outcome.map_err(MqttError::from),
        Err(error) => Err(MqttError::Task { reason: error.to_string() }),
    }
}

/// Reads up to `count` entries and makes their messages; `payload_max` is what the connection takes.
///
/// # Errors
/// [`StoreError`].
pub(super) fn read(
    store: &Store,
    sink: &str,
    dialect: &dyn Dialect,
    kind: Kind,
    from: u64,
    count: usize,
    payload_max: usize,
) -> Result<Read, StoreError> {
    let page = store.outbox(sink).owed(kind, from, count)?;
    let mut read = Read {
        ready: Vec::new(),
        numbers: Vec::new(),
        held: Vec::new(),
        dead: Vec::new(),
        next: page.next,
        end: page.end,
    };
    for entry in page.entries {
        let place = entry.place;
        match dialect.owed(store, &entry, payload_max)? {
            Ok(payload) if payload.len() <= payload_max => {
                read.numbers.push((place, entry.owed.seq));
                read.ready.push((place, payload));
            }
            Ok(payload) if payload.len() <= PAYLOAD_BYTES_MAX => read.held.push((place, payload.len())),
            Ok(payload) => {
                let reason = format!("{} bytes, the limit is {PAYLOAD_BYTES_MAX}", payload.len());
                read.dead.push((place, Cause::Size, reason));
            }
            Err(reason) => read.dead.push((place, Cause::Unreadable, reason)),
        }
    }
    Ok(read)
}

/// The dead letters that can be sent now: those that were too long and fit, and those of which no message
/// could be made and one can. `payload_max` is what the connection takes of each kind.
///
/// # Errors
/// [`StoreError`].
pub(super) fn sendable(
    store: &Store,
    sink: &str,
    dialect: &dyn Dialect,
    payload_max: [usize; Kind::ALL.len()],
) -> Result<Vec<Owed>, StoreError> {
    let mut found = Vec::new();
    for DeadLetter { place, owed, schema, cause, .. } in store.outbox(sink).dead_letters()? {
        let payload_max = payload_max[owed.kind as usize];
        let by_itself = matches!(cause, Cause::Size | Cause::Unreadable);
        let fits = |m: Result<Vec<u8>, String>| m.is_ok_and(|payload| payload.len() <= payload_max);
        let entry = OutboxEntry { place, owed, schema };
        if by_itself && fits(dialect.owed(store, &entry, payload_max)?) {
            found.push(owed);
        }
    }
    Ok(found)
}
