//! Triggers that were accepted, until their inspection is stored.
//!
//! ```text
//! accept ------> accepted: ticket -> trigger          written before a camera hears of it
//! confirm <----- durable: only now is the sender told
//! commit of the inspection with this ticket ---------> removed, in the same transaction
//! the next start: what is left ----------------------> one review("interrupted") each
//! ```
//!
//! Invariants:
//! - Whoever was told that a trigger is accepted finds one inspection of it for each of its cameras, whatever ends
//!   the process.
//! - An entry is written before its camera hears of it, so that no inspection is stored before its entry.

use super::answered::Names;
use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::kv::{Batch, Bytes, Transaction, Tree};
use super::record::{ViewOfV1, parse_rfc3339, rfc3339, whole_ms};
use super::{Flush, Store, value};
use crate::domain::frame::{Ticket, Trigger};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// Bytes of a value: an entry may take several, because sled never syncs values that are larger.
const CHUNK_BYTES: usize = value::VALUE_BYTES_MAX - value::HEADER_BYTES;

/// A trigger of one camera.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    pub camera: String,
    /// Name of the pipeline in force.
    pub pipeline: String,
    /// Its ticket is set by `accept`.
    pub trigger: Trigger,
    pub received: SystemTime,
    /// The picture, where it was there before its inspection was owed: the path of a file.
    pub origin: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct AcceptedV1 {
    camera: String,
    pipeline: String,
    /// RFC 3339.
    received: String,
    part_id: Option<String>,
    lot: Option<String>,
    expected: BTreeMap<String, String>,
    correlation_id: Option<String>,
    deadline_ms: Option<u64>,
    part: Option<ViewOfV1>,
    /// Absent in what earlier versions have accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trigger_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meas_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

impl AcceptedV1 {
    fn from_domain(accepted: &Accepted) -> Self {
        let t = &accepted.trigger;
        Self {
            camera: accepted.camera.clone(),
            pipeline: accepted.pipeline.clone(),
            received: rfc3339(accepted.received),
            part_id: t.part_id.clone(),
            lot: t.lot.clone(),
            expected: t.expected.clone(),
            correlation_id: t.correlation_id.clone(),
            trigger_id: t.id.clone(),
            meas_id: t.meas_id.clone(),
            deadline_ms: t.deadline.map(whole_ms),
            part: t.part.as_deref().map(ViewOfV1::from_domain),
            origin: accepted.origin.clone(),
        }
    }

    fn into_domain(self, ticket: Ticket) -> Result<Accepted, String> {
        Ok(Accepted {
            camera: self.camera,
            pipeline: self.pipeline,
            trigger: Trigger {
                id: self.trigger_id,
                part_id: self.part_id,
                lot: self.lot,
                expected: self.expected,
                correlation_id: self.correlation_id,
                meas_id: self.meas_id,
                deadline: self.deadline_ms.map(Duration::from_millis),
                part: self.part.map(|part| Box::new(part.into_domain())),
                ticket: Some(ticket),
            },
            received: parse_rfc3339(&self.received)?,
            origin: self.origin,
        })
    }
}

/// Key of a chunk: tickets in their order, chunks in theirs.
fn key(ticket: Ticket, chunk: usize) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&ticket.0.to_be_bytes());
    key[8] = chunk as u8;
    key
}

fn bad(reason: &str) -> StoreError {
    StoreError::BadMeta { reason: format!("an accepted trigger: {reason}") }
}

/// The ticket after the last one of a former process, all of whose triggers are to be recorded before new ones come.
pub(super) fn next_ticket(tree: &Tree) -> Result<u64, StoreError> {
    let last = tree.last().map_err(|e| StoreError::kv("read the accepted triggers", e))?;
    Ok(last.map(|(key, _)| ticket_of(&key)).transpose()?.map_or(1, |t| t.0 + 1))
}

fn ticket_of(key: &[u8]) -> Result<Ticket, StoreError> {
    let ticket = key.first_chunk::<8>().filter(|_| key.len() == 9).ok_or_else(|| bad("its key"))?;
    Ok(Ticket(u64::from_be_bytes(*ticket)))
}

impl Store {
    /// Notes the triggers of one command, all or none, and gives each its ticket; `confirm` makes them durable.
    /// What the command is known by is written in the same transaction.
    ///
    /// # Errors
    /// `DiskFull` and `OutboxFull` leave the store as it was. After any other error stop.
    pub fn accept(&self, triggers: &mut [Accepted], names: &Names) -> Result<Flush, StoreError> {
        self.accepts()?;
        let mut writes = Transaction::default();
        self.write_accepted(triggers, writes.on(&self.trees.accepted));
        names.write(writes.on(&self.trees.answered));
        self.transaction("accept a trigger", writes)?;
        Ok(self.sync.request(HighWaterMark::default()))
    }

    /// Notes the part of one picture and, in the same step, a value under a name (see `state`), which says that the
    /// picture is taken. Both are on the disk when it returns.
    ///
    /// # Errors
    /// As `accept`.
    pub fn accept_picture<T: Serialize>(
        &self,
        accepted: &mut Accepted,
        name: &str,
        value: &T,
    ) -> Result<(), StoreError> {
        self.accepts()?;
        let value = super::state::seal(name, value)?;
        let mut writes = Transaction::default();
        self.write_accepted(std::slice::from_mut(accepted), writes.on(&self.trees.accepted));
        writes.on(&self.trees.state).insert(name, value);
        self.transaction("accept a picture", writes)?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Gives each trigger its ticket, and writes it.
    fn write_accepted(&self, triggers: &mut [Accepted], batch: &mut Batch) {
        for accepted in triggers {
            let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
            accepted.trigger.ticket = Some(ticket);
            let wire = AcceptedV1::from_domain(accepted);
            let body = serde_json::to_vec(&wire).expect("numbers and strings always serialise");
            for (i, chunk) in body.chunks(CHUNK_BYTES).enumerate() {
                batch.insert(key(ticket, i), value::seal(1, chunk));
            }
        }
    }

    /// Waits until what was accepted is on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn confirm(&self, flush: Flush) -> Result<(), StoreError> {
        self.sync.wait(flush)
    }

    /// Withdraws the triggers of a command of which no camera has heard, and what it is known by.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn withdraw(&self, triggers: &[Accepted], names: &Names) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for ticket in triggers.iter().filter_map(|a| a.trigger.ticket) {
            self.keys_of(ticket)?.into_iter().for_each(|key| batch.remove(key));
        }
        for added in &names.add {
            self.forget_answered(&added.name)?;
        }
        self.trees.accepted.apply(batch).map_err(|e| self.stop_after("withdraw a trigger", e))
    }

    /// Whether the trigger of this ticket still waits for its inspection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn owes(&self, ticket: Ticket) -> Result<bool, StoreError> {
        Ok(!self.keys_of(ticket)?.is_empty())
    }

    /// The keys of an entry.
    pub(super) fn keys_of(&self, ticket: Ticket) -> Result<Vec<Bytes>, StoreError> {
        let keys = self.trees.accepted.under(ticket.0.to_be_bytes()).keys();
        keys.collect::<Result<_, _>>().map_err(|e| StoreError::kv("read an accepted trigger", e))
    }

    /// The triggers whose inspections are not stored, in the order in which they were accepted: at a start those
    /// that a former process left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        let mut bodies: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for row in &self.trees.accepted {
            let (key, value) = row.map_err(|e| StoreError::kv("read the accepted triggers", e))?;
            let (_, chunk) = value::open(&value).map_err(bad)?;
            bodies.entry(ticket_of(&key)?.0).or_default().extend_from_slice(chunk);
        }
        let open = |(ticket, body): (u64, Vec<u8>)| {
            let wire: AcceptedV1 = serde_json::from_slice(&body).map_err(|e| bad(&e.to_string()))?;
            wire.into_domain(Ticket(ticket)).map_err(|e| bad(&e))
        };
        bodies.into_iter().map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use crate::domain::part::PartRef;
    use crate::store::StoreOptions;
    use crate::store::answered::Answered;

    fn accepted(camera: &str, expected: usize) -> Accepted {
        let value = |i: usize| (format!("value {i}"), "x".repeat(250));
        Accepted {
            camera: camera.into(),
            pipeline: "plate".into(),
            trigger: Trigger {
                id: Some("01HF7YAT010000000000000T01".into()),
                part_id: Some("P1".into()),
                lot: Some("L".into()),
                expected: (0..expected).map(value).collect(),
                correlation_id: Some("c".into()),
                meas_id: Some("m".into()),
                deadline: Some(Duration::from_millis(700)),
                part: Some(Box::new(PartRef {
                    id: ulid::Ulid::generate().to_string(),
                    name: "housing".into(),
                    cameras: vec!["top".into(), "side".into()],
                })),
                ticket: None,
            },
            received: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            origin: None,
        }
    }

    #[test]
    fn what_was_accepted_is_left_until_its_inspection_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        // The second takes several values.
        let mut triggers = [accepted("top", 1), accepted("side", 32)];
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let known =
            |n: u8| Answered { name: [n; 16], contents: [n + 1; 16], at: at + Duration::from_secs(n.into()) };
        let names = Names { add: vec![known(7), known(3)], remove: vec![] };
        let flush = store.accept(&mut triggers, &names).unwrap();
        store.confirm(flush).unwrap();
        assert_ne!(triggers[0].trigger.ticket, triggers[1].trigger.ticket);
        drop(store);

        let store = open();
        assert_eq!(store.accepted().unwrap(), triggers);
        assert_eq!(store.answered().unwrap(), [known(3), known(7)], "oldest first, and as durable");
        let mut inspected = sample(1);
        inspected.trigger.ticket = triggers[1].trigger.ticket;
        store.commit(&inspected, None).unwrap();
        assert_eq!(store.accepted().unwrap(), triggers[..1]);
        assert_eq!(store.answered().unwrap().len(), 2, "known beyond the inspection");
        store.forget_answered(&[7; 16]).unwrap();
        let owes = [0, 1].map(|i| store.owes(triggers[i].trigger.ticket.unwrap()).unwrap());
        assert_eq!(owes, [true, false]);
        let mut newer = [accepted("top", 0)];
        let flush = store.accept(&mut newer, &Names::default()).unwrap();
        assert!(newer[0].trigger.ticket > triggers[1].trigger.ticket, "no ticket is given twice");
        store.withdraw(&newer, &Names::default()).unwrap();
        store.confirm(flush).unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.accepted().unwrap(), triggers[..1]);
        assert_eq!(store.answered().unwrap(), [known(3)]);
    }

    #[test]
    fn a_full_store_accepts_no_trigger() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { outbox_entries_max: 0, ..StoreOptions::default() };
        let store = Store::open(dir.path(), options).unwrap();
        let refused = store.accept(&mut [accepted("top", 0)], &Names::default());
        assert!(matches!(refused, Err(StoreError::OutboxFull { .. })), "{refused:?}");
        assert!(store.accepted().unwrap().is_empty());
    }

    #[test]
    fn a_picture_is_taken_and_its_inspection_owed_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        let mut picture = Accepted { origin: Some("in/a.png".into()), ..accepted("top", 1) };
        store.accept_picture(&mut picture, "taken/top/a.png", &7).unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.accepted().unwrap(), [picture]);
        assert_eq!(store.remembered::<u32>("taken/top/a.png").unwrap(), Some(7));
    }
}
