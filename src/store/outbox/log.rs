//! The log: entries in one order, and which sink still waits for which of them.
//!
//! ```text
//!     place    1   2   3   4   5   6   7 | 8 …          the next entry goes to the end
//!     mqtt     x   x   x   .   x   .   . |              cursor 4; 5 was acknowledged out of order
//!     erp      x   .   .   .   .   .   . |              cursor 2
//!     kept         2   3   4   5   6   7 |              what every known sink has acknowledged is gone
//! ```
//!
//! All of it but the entries is in memory, too, under one lock; rows and memory change together.

use super::runs::{Change, Runs};
use super::wire::{self, SinkKey, SinkV1};
use super::{Kind, MQTT, OutboxEntry, Owed};
use crate::store::error::StoreError;
use crate::store::kv::{Batch, Db, Transaction, Tree};
use crate::store::{key_of, seq_of, value};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// The trees of the outbox.
pub(in crate::store) struct OutboxTrees {
    /// place -> entry
    pub log: Tree,
    /// name -> sink
    pub sinks: Tree,
    /// sink number, first place -> last place of a run that it no longer waits for
    pub acked: Tree,
    /// sink number, place -> which message was given up, and why
    pub letters: Tree,
}

/// Their names.
pub(in crate::store) const LOG: &str = "log";
pub(in crate::store) const SINKS: &str = "sinks";
pub(in crate::store) const ACKED: &str = "acked";
pub(in crate::store) const LETTERS: &str = "letters";

impl OutboxTrees {
    pub(crate) fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = |name: &str| db.tree(name).map_err(|e| StoreError::kv("open a tree", e));
        Ok(Self { log: tree(LOG)?, sinks: tree(SINKS)?, acked: tree(ACKED)?, letters: tree(LETTERS)? })
    }
}

/// What is known of a sink.
pub(super) struct Sink {
    pub number: u16,
    /// Only these hold retention back and count for the limit.
    pub enabled: bool,
    pub acked: Runs,
    /// How much it waits for, by kind.
    pub owed: [u64; Kind::ALL.len()],
    pub missed: u64,
    /// How often dead letters of it were owed again.
    pub retried: watch::Sender<u64>,
}

impl Sink {
    fn new(stored: &SinkV1, acked: Runs, enabled: bool) -> Self {
        let retried = watch::channel(0).0;
        Self {
            number: stored.number,
            enabled,
            acked,
            owed: Default::default(),
            missed: stored.missed,
            retried,
        }
    }

    /// What the line has made for it and it has not acknowledged: results and verdicts of parts.
    pub(super) const fn of_the_line(&self) -> u64 {
        self.owed[Kind::Result as usize] + self.owed[Kind::Part as usize]
    }

    pub(super) fn stored(&self) -> SinkV1 {
        SinkV1 { number: self.number, missed: self.missed }
    }
}

/// The state of the log.
pub(in crate::store) struct Log {
    /// The highest place that was ever given.
    last: u64,
    pub(super) sinks: BTreeMap<String, Sink>,
}

/// Entries that are about to be appended.
pub(in crate::store) struct Entries {
    rows: Vec<(u64, Kind, Vec<u8>)>,
}

impl Entries {
    /// Their writes.
    pub(crate) fn write<'a>(&self, trees: &'a OutboxTrees, writes: &mut Transaction<'a>) {
        for (place, _, value) in &self.rows {
            writes.on(&trees.log).insert(key_of(*place), value.as_slice());
        }
    }
}

/// Rows that change when a sink acknowledges, gives up or waits again.
#[derive(Default)]
pub(super) struct Changes {
    acked: BTreeMap<SinkKey, Option<u64>>,
    /// Entries that nobody waits for any more.
    removed: Vec<u64>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.acked.is_empty() && self.removed.is_empty()
    }

    fn runs(&mut self, number: u16, changes: Vec<Change>) {
        self.acked.extend(changes.into_iter().map(|(first, last)| (wire::sink_key(number, first), last)));
    }

    /// Their writes.
    pub(super) fn write<'a>(&self, trees: &'a OutboxTrees, writes: &mut Transaction<'a>) {
        for place in &self.removed {
            writes.on(&trees.log).remove(key_of(*place));
        }
        for (key, last) in &self.acked {
            match last {
                Some(last) => writes.on(&trees.acked).insert(key, value::seal(1, &key_of(*last))),
                None => writes.on(&trees.acked).remove(key),
            }
        }
    }
}

impl Log {
    /// Reads it, and takes in the sinks of this run: those that are new begin at its end.
    pub(crate) fn load(trees: &OutboxTrees, enabled: &[String]) -> Result<Self, StoreError> {
        let failed = |e| StoreError::kv("read the outbox", e);
        let mut last = match trees.log.last().map_err(failed)? {
            Some((key, _)) => seq_of(&key)?,
            None => 0,
        };
        let mut runs: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
        for row in &trees.acked {
            let (key, value) = row.map_err(failed)?;
            let (number, first) = wire::open_sink_key(&key)?;
            let through = crate::store::open_seq(&value)?;
            last = last.max(through);
            runs.entry(number).or_default().push((first, through));
        }
        for key in trees.letters.iter().keys() {
            last = last.max(wire::open_sink_key(&key.map_err(failed)?)?.1);
        }
        let mut log = Self { last, sinks: BTreeMap::new() };
        for row in &trees.sinks {
            let (name, value) = row.map_err(failed)?;
            let name = String::from_utf8_lossy(&name).into_owned();
            let stored: SinkV1 = wire::open("a sink", &value)?;
            let acked = Runs::from_rows(runs.remove(&stored.number).unwrap_or_default());
            let enabled = enabled.contains(&name);
            log.sinks.insert(name, Sink::new(&stored, acked, enabled));
        }
        log.register(trees, MQTT, enabled.iter().any(|name| name == MQTT))?;
        enabled.iter().try_for_each(|name| log.register(trees, name, true))?;
        log.count(trees)?;
        Ok(log)
    }

    /// A sink that is not known yet begins at the end of the log.
    fn register(&mut self, trees: &OutboxTrees, name: &str, enabled: bool) -> Result<(), StoreError> {
        if self.sinks.contains_key(name) {
            return Ok(());
        }
        let failed = |e| StoreError::kv("write a sink", e);
        let number = self.sinks.values().map(|s| s.number).max().map_or(0, |n| n.saturating_add(1));
        let stored = SinkV1 { number, missed: 0 };
        // First its place, then its name: a name without a place would begin at 0.
        let key = wire::sink_key(number, 0);
        trees.acked.insert(key, value::seal(1, &key_of(self.last))).map_err(failed)?;
        trees.sinks.insert(name, wire::seal(&stored)).map_err(failed)?;
        self.sinks.insert(name.to_owned(), Sink::new(&stored, Runs::through(self.last), enabled));
        Ok(())
    }

    /// Counts what each sink waits for, and removes what none does.
    fn count(&mut self, trees: &OutboxTrees) -> Result<(), StoreError> {
        let failed = |e| StoreError::kv("read the outbox", e);
        let mut nobodys = Batch::default();
        for row in &trees.log {
            let (key, value) = row.map_err(failed)?;
            let place = seq_of(&key)?;
            // Whoever reads it hears what is wrong with it.
            let kind = wire::open_entry(place, &value).map_or(Kind::Result, |entry| entry.owed.kind);
            let mut waiting = self.sinks.values_mut().filter(|s| !s.acked.contains(place)).peekable();
            if waiting.peek().is_none() {
                nobodys.remove(key);
            }
            waiting.for_each(|sink| sink.owed[kind as usize] += 1);
        }
        trees.log.apply(nobodys).map_err(failed)
    }

    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn sink(&self, name: &str) -> Result<&Sink, StoreError> {
        self.sinks.get(name).ok_or_else(|| StoreError::NoSink { name: name.to_owned() })
    }

    fn sink_mut(&mut self, name: &str) -> Result<&mut Sink, StoreError> {
        self.sinks.get_mut(name).ok_or_else(|| StoreError::NoSink { name: name.to_owned() })
    }

    /// What the limit counts: what the line made and the enabled sink that is furthest behind waits for.
    pub(crate) fn of_the_line(&self) -> u64 {
        self.sinks.values().filter(|s| s.enabled).map(Sink::of_the_line).max().unwrap_or(0)
    }

    /// The next entries of the log, about these.
    pub(crate) fn entries(&self, owed: impl IntoIterator<Item = Owed>) -> Entries {
        let places = (self.last + 1)..;
        let row = |(place, owed): (u64, Owed)| (place, owed.kind, wire::seal_entry(owed, owed.kind.schema()));
        Entries { rows: places.zip(owed).map(row).collect() }
    }

    /// They are written: every sink waits for them.
    pub(crate) fn appended(&mut self, entries: &Entries) {
        for (place, kind, _) in &entries.rows {
            self.last = self.last.max(*place);
            self.sinks.values_mut().for_each(|sink| sink.owed[*kind as usize] += 1);
        }
    }

    /// A sink no longer waits for these; what it waited for of them.
    pub(super) fn settle(
        &mut self,
        trees: &OutboxTrees,
        name: &str,
        places: &[u64],
        changes: &mut Changes,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        let mut settled = Vec::new();
        let last = self.last;
        for &place in places.iter().filter(|place| **place <= last) {
            let sink = self.sink_mut(name)?;
            let run = sink.acked.insert(place);
            if run.is_empty() {
                continue;
            }
            changes.runs(sink.number, run);
            let found = trees.log.get(key_of(place)).map_err(|e| StoreError::kv("read the outbox", e))?;
            if let Some(value) = found {
                let entry = wire::open_entry(place, &value)?;
                let owed = &mut sink.owed[entry.owed.kind as usize];
                *owed = owed.saturating_sub(1);
                settled.push(entry);
                if self.sinks.values().all(|s| s.acked.contains(place)) {
                    changes.removed.push(place);
                }
            }
        }
        Ok(settled)
    }

    /// A sink waits for this place again.
    pub(super) fn wait_again(
        &mut self,
        name: &str,
        entry: &OutboxEntry,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let sink = self.sink_mut(name)?;
        let run = sink.acked.remove(entry.place);
        if !run.is_empty() {
            sink.owed[entry.owed.kind as usize] += 1;
            changes.runs(sink.number, run);
        }
        Ok(())
    }

    pub(super) fn add_missed(&mut self, name: &str, more: u64) -> Result<SinkV1, StoreError> {
        let sink = self.sink_mut(name)?;
        sink.missed += more;
        Ok(sink.stored())
    }

    pub(super) fn forget_missed(&mut self, name: &str) -> Result<SinkV1, StoreError> {
        let sink = self.sink_mut(name)?;
        sink.missed = 0;
        Ok(sink.stored())
    }
}
