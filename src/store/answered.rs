//! Which triggers were accepted of late, so that one that comes again is known, over restarts, too.
//!
//! ```text
//! accept --same transaction as the acceptance--> answered: name -> contents, when
//! the next start <-- all of them, by age; whoever keeps the window says which may go
//! ```
//!
//! An entry outlives its trigger's inspection: what was inspected already must not be inspected again.

use super::error::StoreError;
use super::kv::Batch;
use super::{Store, value};
use std::time::{Duration, SystemTime};

/// What a trigger is known by: a digest of its sender's name for it.
pub(crate) type Name = [u8; 16];
/// Digest of what the trigger says.
pub(crate) type Contents = [u8; 16];

/// A trigger that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub name: Name,
    pub contents: Contents,
    pub at: SystemTime,
}

/// What `accept` writes beside the triggers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub add: Vec<Answered>,
    /// Those that nobody needs any more.
    pub remove: Vec<Name>,
}

impl Names {
    pub(super) fn write(&self, batch: &mut Batch) {
        self.remove.iter().for_each(|name| batch.remove(name));
        for Answered { name, contents, at } in &self.add {
            let ms = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let body = [ms.to_be_bytes().as_slice(), contents].concat();
            batch.insert(name, value::seal(1, &body));
        }
    }
}

fn open(name: &[u8], value: &[u8]) -> Result<Answered, StoreError> {
    let bad = |reason: &str| StoreError::BadMeta { reason: format!("an answered trigger: {reason}") };
    let (_, body) = value::open(value).map_err(bad)?;
    let name = name.try_into().map_err(|_| bad("its name"))?;
    let (ms, contents) = body.split_first_chunk::<8>().ok_or_else(|| bad("its time"))?;
    let contents = contents.try_into().map_err(|_| bad("its contents"))?;
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_be_bytes(*ms)));
    Ok(Answered { name, contents, at: at.ok_or_else(|| bad("its time"))? })
}

impl Store {
    /// The triggers that were accepted of late, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn answered(&self) -> Result<Vec<Answered>, StoreError> {
        let failed = |e| StoreError::kv("read the answered triggers", e);
        let rows = self.trees.answered.iter().map(|row| {
            let (name, value) = row.map_err(failed)?;
            open(&name, &value)
        });
        let mut all = rows.collect::<Result<Vec<_>, _>>()?;
        all.sort_by_key(|a| a.at);
        Ok(all)
    }

    /// Removes one that nobody needs any more; after a crash it may be there again.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn forget_answered(&self, name: &Name) -> Result<(), StoreError> {
        let removed = self.trees.answered.remove(name);
        removed.map(|_| ()).map_err(|e| self.stop_after("forget an answered trigger", e))
    }

    /// Waits until everything that was accepted so far is on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.sync.wait(self.sync.request(super::high_water::HighWaterMark::default()))
    }
}
