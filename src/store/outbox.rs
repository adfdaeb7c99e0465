//! Outbox: one log of what is owed to others (results, verdicts of parts, reviews), and for each sink how far it is.
//!
//! [`Store::commit`] writes the record and its entry in one transaction, then flushes; a decision brings its entry in
//! the same way. A message may be sent twice but never lost; receivers drop repeats by inspection id (part id,
//! review number).
//!
//! ```text
//!     commit --> log --owed to each sink--> published --acknowledged--> the sink's cursor goes on
//!                 ^        ^---- lost -----------'  '---given up-----> a dead letter of that sink, with its reason
//!                 |        '------------ retry: it fits now, or somebody says so ---------'
//!                 '-- an entry goes when every known sink has acknowledged it or given it up     (`log`, `runs`)
//! ```
//!
//! An entry holds no message: the record is immutable, and the entry names the schema by which the message is made
//! from it, so that every send has the same bytes, also after an update.
//!
//! Invariants:
//! - No inspection is deleted while an enabled sink waits for its entry.
//! - Places in the log are big-endian numbers, given once, in the order of commits; of each kind that is the order
//!   of publishing. What was given up and is tried again is published late, after messages with higher numbers.
//! - An entry is handed out only when its record is durable: what a power cut may take back is never published, so
//!   no sequence number is ever seen with two inspections.
//! - Beyond `outbox_entries_max` entries that one enabled sink waits for `commit` refuses. Committers that were let
//!   in at the same moment may go beyond it by their number.
//! - A sink that is not enabled (or no longer in the config) keeps its place and holds nothing back: what retention
//!   removes, and what goes beyond half of `outbox_entries_max`, it misses. That is counted, and told when it is
//!   enabled again. Half, so that the line does not stand when that sink comes back.

mod absent;
pub(crate) mod age;
pub(super) mod log;
pub(super) mod migrate;
mod runs;
pub(super) mod wire;

use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::kv::Transaction;
use super::{Store, key_of, record, seq_of};
use log::{Changes, Log};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use wire::LetterV1;

/// The sink of the section `[mqtt]`, which every station has.
pub const MQTT: &str = "mqtt";

/// Schema of the `result` message that a record committed by this version owes.
pub const RESULT_SCHEMA: u16 = 2;

/// The same of `part`.
pub const PART_SCHEMA: u16 = 2;

/// Characters of a dead letter's reason that are kept.
const REASON_CHARS_MAX: usize = 500;

/// Entries of the log that one read looks at, so that a long log of other kinds holds nobody up.
const SCAN_MAX: usize = 8192;

/// What is owed. Each kind is published in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An inspection.
    Result,
    /// The verdict about a part with several views.
    Part,
    /// An operator's decision.
    Review,
}

impl Kind {
    /// In the order of `SinkState::owed`.
    pub const ALL: [Self; 3] = [Self::Result, Self::Part, Self::Review];

    /// Stable word, as `inspectd outbox` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Part => "part",
            Self::Review => "review",
        }
    }

    /// The kind of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The schema of the message that this version owes.
    pub const fn schema(self) -> u16 {
        match self {
            Self::Result => RESULT_SCHEMA,
            Self::Part => PART_SCHEMA,
            Self::Review => 1,
        }
    }
}

/// What a message is about: its kind and its number there (inspection, newest view, review).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// What the message is about.
    pub kind: Kind,
    /// Sequence number of the inspection or the review; of a part, that of its last view.
    pub seq: u64,
}

impl std::fmt::Display for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.seq)
    }
}

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its place in the log, from 1.
    pub place: u64,
    /// What its message is about.
    pub owed: Owed,
    /// The schema of its message.
    pub schema: u16,
}

/// Some of what a sink waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of the log.
    pub entries: Vec<OutboxEntry>,
    /// The place to read on from.
    pub next: u64,
    /// The log has nothing after these.
    pub end: bool,
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is longer than what is taken; tried again by itself when it fits.
    Size,
    /// No message can be made of what is stored; tried again by itself when one can.
    Unreadable,
    /// The broker said that it is invalid, and took others; tried again when somebody says so.
    Invalid,
    /// Every connection was dropped on it, and others passed; tried again when somebody says so.
    Dropped,
}

impl Cause {
    /// Stable word, as `inspectd outbox` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Dropped => "dropped",
        }
    }
}

/// One message that a sink has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The sink's name.
    pub sink: String,
    /// Its place in the log.
    pub place: u64,
    /// What its message is about.
    pub owed: Owed,
    /// The schema of its message.
    pub schema: u16,
    /// Why it was given up, and whether it is tried again by itself.
    pub cause: Cause,
    /// The same in words.
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// How a sink stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkState {
    /// Its name in the config.
    pub name: String,
    /// False: it keeps its place in the log, holds nothing back, and may miss messages.
    pub enabled: bool,
    /// The lowest place of the log that it has not acknowledged.
    pub cursor: u64,
    /// What it waits for, in the order of [`Kind::ALL`].
    pub owed: [u64; Kind::ALL.len()],
    /// Messages that went without it while it was not enabled, and that nobody was told of yet.
    pub missed: u64,
}

/// The outbox as one sink sees it.
#[derive(Clone, Copy)]
pub struct Outbox<'a> {
    store: &'a Store,
    sink: &'a str,
}

impl Outbox<'_> {
    /// Up to `limit` entries of a kind from a place on, lowest first, durable ones only. A page may be short, or
    /// empty, before the end: [`SCAN_MAX`] entries of other kinds lay in between.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn owed(&self, kind: Kind, from: u64, limit: usize) -> Result<Page, StoreError> {
        self.page(Some(kind), from, self.store.sync.durable_log(), limit, SCAN_MAX)
    }

    /// Entries of a kind, or of all, up to and including `through`; `scan` are looked at, at most.
    fn page(
        &self,
        kind: Option<Kind>,
        from: u64,
        through: u64,
        limit: usize,
        scan: usize,
    ) -> Result<Page, StoreError> {
        let failed = |e| StoreError::kv("read the outbox", e);
        let mut page = Page { next: from, ..Page::default() };
        let mut seen = 0;
        loop {
            page.next = self.free_from(page.next)?;
            if page.next > through {
                page.end = true;
                return Ok(page);
            }
            let mut acknowledged = None;
            for row in self.store.trees.outbox.log.range(key_of(page.next)..=key_of(through)) {
                let (key, value) = row.map_err(failed)?;
                let place = seq_of(&key)?;
                if page.entries.len() == limit || seen == scan {
                    return Ok(page);
                }
                let free = self.free_from(place)?;
                if free > place {
                    acknowledged = Some(free);
                    break;
                }
                (seen, page.next) = (seen + 1, place + 1);
                let entry = wire::open_entry(place, &value)?;
                page.entries.extend(kind.is_none_or(|kind| entry.owed.kind == kind).then_some(entry));
            }
            page.next = acknowledged.unwrap_or(through + 1);
        }
    }

    fn free_from(&self, place: u64) -> Result<u64, StoreError> {
        Ok(self.store.lock_log()?.sink(self.sink)?.acked.free_from(place))
    }

    /// The sink has these. Unknown places are no error: an acknowledgement may repeat. The change is not waited
    /// for; lost to a crash it is repeated.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn ack(&self, places: &[u64]) -> Result<(), StoreError> {
        let mut log = self.store.lock_log()?;
        let mut changes = Changes::default();
        let trees = &self.store.trees.outbox;
        log.settle(trees, self.sink, places, &mut changes)?;
        if changes.is_empty() {
            return Ok(());
        }
        let mut writes = Transaction::default();
        changes.write(trees, &mut writes);
        self.store.transaction("acknowledge entries of the outbox", writes)?;
        self.store.note_owed(&log);
        Ok(())
    }

    /// As `ack`, for who knows only what the messages are about.
    ///
    /// # Errors
    /// As `ack`.
    pub fn ack_owed(&self, owed: &[Owed]) -> Result<(), StoreError> {
        let mut places = Vec::new();
        for owed in owed {
            places.extend(self.place_of(*owed)?);
        }
        self.ack(&places)
    }

    /// Where the entry about this stands, while the sink waits for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn place_of(&self, owed: Owed) -> Result<Option<u64>, StoreError> {
        let mut page = Page::default();
        while !page.end {
            page = self.owed(owed.kind, page.next, 256)?;
            if let Some(entry) = page.entries.iter().find(|entry| entry.owed == owed) {
                return Ok(Some(entry.place));
            }
        }
        Ok(None)
    }

    /// Moves an entry that cannot be sent out of the way of the others. What it is about stays, and the letter is
    /// kept with its reason until retention removes that.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn give_up(&self, place: u64, cause: Cause, reason: &str) -> Result<(), StoreError> {
        let mut log = self.store.lock_log()?;
        let mut changes = Changes::default();
        let trees = &self.store.trees.outbox;
        let settled = log.settle(trees, self.sink, &[place], &mut changes)?;
        let Some(OutboxEntry { owed, schema, .. }) = settled.first().copied() else { return Ok(()) };
        let letter = LetterV1 {
            kind: owed.kind.as_str().to_owned(),
            seq: owed.seq,
            schema,
            cause,
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            at: record::rfc3339(SystemTime::now()),
        };
        let (key, value) = (wire::sink_key(log.sink(self.sink)?.number, place), wire::seal(&letter));
        let mut writes = Transaction::default();
        changes.write(trees, &mut writes);
        writes.on(&trees.letters).insert(key, value);
        self.store.transaction("move an entry to the dead letters", writes)?;
        self.store.note_owed(&log);
        Ok(())
    }

    /// What this sink has given up, in the order of the log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let number = self.store.lock_log()?.sink(self.sink)?.number;
        let rows = self.store.trees.outbox.letters.under(number.to_be_bytes());
        rows.map(|row| {
            let (key, value) = row.map_err(|e| StoreError::kv("read the dead letters", e))?;
            let letter: LetterV1 = wire::open("a dead letter", &value)?;
            Ok(DeadLetter {
                sink: self.sink.to_owned(),
                place: wire::open_sink_key(&key)?.1,
                owed: letter.owed()?,
                schema: letter.schema,
                cause: letter.cause,
                reason: letter.reason,
                at: letter.at,
            })
        })
        .collect()
    }

    /// Dead letters are owed again, in their own places and with their own bytes; `None`: all. One that is none is
    /// no error. What waits after a refusal is tried at once, too. Returns how many letters there were, when it is
    /// on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn retry(&self, wanted: Option<&[Owed]>) -> Result<usize, StoreError> {
        self.store.sync.check()?;
        let mut count = 0;
        for letter in self.dead_letters()? {
            if wanted.is_none_or(|wanted| wanted.contains(&letter.owed)) {
                count += usize::from(self.owe_again(&letter)?);
            }
        }
        self.store.sync.wait(self.store.sync.request(HighWaterMark::default()))?;
        self.store.lock_log()?.sink(self.sink)?.retried.send_modify(|times| *times += 1);
        Ok(count)
    }

    fn owe_again(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let mut log = self.store.lock_log()?;
        let trees = &self.store.trees.outbox;
        let key = wire::sink_key(log.sink(self.sink)?.number, letter.place);
        // Somebody else was faster, or retention.
        if !trees.letters.contains_key(key).map_err(|e| StoreError::kv("read a dead letter", e))? {
            return Ok(false);
        }
        let mut changes = Changes::default();
        let entry = OutboxEntry { place: letter.place, owed: letter.owed, schema: letter.schema };
        log.wait_again(self.sink, &entry, &mut changes)?;
        let value = wire::seal_entry(letter.owed, letter.schema);
        let mut writes = Transaction::default();
        writes.on(&trees.letters).remove(key);
        writes.on(&trees.log).insert(key_of(letter.place), value);
        changes.write(trees, &mut writes);
        self.store.transaction("owe a dead letter again", writes)?;
        self.store.note_owed(&log);
        Ok(true)
    }

    /// Changes whenever there is something to be tried again.
    ///
    /// # Errors
    /// There is no such sink.
    pub fn subscribe_retries(&self) -> Result<tokio::sync::watch::Receiver<u64>, StoreError> {
        Ok(self.store.lock_log()?.sink(self.sink)?.retried.subscribe())
    }
}

impl Store {
    /// The outbox as a sink sees it; a name that is none is an error of each method.
    pub const fn outbox<'a>(&'a self, sink: &'a str) -> Outbox<'a> {
        Outbox { store: self, sink }
    }

    /// All sinks that are known, by name.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn sinks(&self) -> Result<Vec<SinkState>, StoreError> {
        let log = self.lock_log()?;
        let state = |(name, sink): (&String, &log::Sink)| SinkState {
            name: name.clone(),
            enabled: sink.enabled,
            cursor: sink.acked.cursor(),
            owed: sink.owed,
            missed: sink.missed,
        };
        Ok(log.sinks.iter().map(state).collect())
    }

    /// How many messages are owed by the line (results and verdicts of parts) to the enabled sink that is furthest
    /// behind.
    pub fn outbox_len(&self) -> u64 {
        self.outbox_entries.load(Ordering::Acquire)
    }

    /// The sink `mqtt` has these results.
    ///
    /// # Errors
    /// As [`Outbox::ack`].
    pub fn ack(&self, seqs: &[u64]) -> Result<(), StoreError> {
        let owed: Vec<Owed> = seqs.iter().map(|seq| Owed { kind: Kind::Result, seq: *seq }).collect();
        self.outbox(MQTT).ack_owed(&owed)
    }

    /// What any sink has given up: by sink, in the order of the log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters = Vec::new();
        for sink in self.sinks()? {
            letters.extend(self.outbox(&sink.name).dead_letters()?);
        }
        Ok(letters)
    }

    /// All dead letters of all sinks are owed again, and what waits after a refusal is tried at once; returns how
    /// many letters there were.
    ///
    /// # Errors
    /// As [`Outbox::retry`].
    pub fn retry_all(&self) -> Result<usize, StoreError> {
        let sinks = self.sinks()?;
        sinks.iter().try_fold(0, |count, sink| Ok(count + self.outbox(&sink.name).retry(None)?))
    }

    /// Somebody was told what a sink has missed.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn forget_missed(&self, sink: &str) -> Result<(), StoreError> {
        let stored = self.lock_log()?.forget_missed(sink)?;
        let written = self.trees.outbox.sinks.insert(sink, wire::seal(&stored));
        written.map(|_| ()).map_err(|e| self.stop_after("write a sink", e))
    }

    pub(super) fn lock_log(&self) -> Result<MutexGuard<'_, Log>, StoreError> {
        self.log.lock().map_err(|_| StoreError::Stopped { reason: "a writer of the outbox panicked".into() })
    }

    /// What the limit counts, for those who ask without the lock.
    pub(super) fn note_owed(&self, log: &Log) {
        self.outbox_entries.store(log.of_the_line(), Ordering::Release);
    }

    /// The lowest number of a kind that an enabled sink waits for; of kinds whose numbers are in the log's order.
    pub(super) fn lowest_owed(&self, kind: Kind) -> Result<Option<u64>, StoreError> {
        let mut lowest = None;
        self.each_owed(kind, 1, |seq| lowest = Some(lowest.map_or(seq, |l: u64| l.min(seq))))?;
        Ok(lowest)
    }

    /// All numbers of a kind that an enabled sink waits for.
    pub(super) fn all_owed(&self, kind: Kind) -> Result<BTreeSet<u64>, StoreError> {
        let mut all = BTreeSet::new();
        self.each_owed(kind, usize::MAX, |seq| _ = all.insert(seq))?;
        Ok(all)
    }

    fn each_owed(&self, kind: Kind, limit: usize, mut each: impl FnMut(u64)) -> Result<(), StoreError> {
        for sink in self.sinks()?.iter().filter(|s| s.enabled && s.owed[kind as usize] > 0) {
            let through = self.lock_log()?.last();
            let page = self.outbox(&sink.name).page(Some(kind), 0, through, limit, usize::MAX)?;
            page.entries.iter().for_each(|entry| each(entry.owed.seq));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
