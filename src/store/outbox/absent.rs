//! Sinks that are not enabled, or no longer in the config: what they go without, so that they hold nobody back.
//!
//! ```text
//!     cursor --> [ record removed | beyond half of outbox_entries_max ] --> missed: counted, told when it is enabled
//!                [ the rest ] --> kept, and delivered when it is enabled again
//! ```

use super::Kind;
use super::log::Changes;
use super::wire;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::images::{hex, sha256};
use crate::store::kv::{Batch, Transaction};

/// Entries that are given up in one transaction.
const BATCH: usize = 256;

impl Store {
    /// One round, after retention: `first_kept` and `first_review` are the lowest records and reviews that are left.
    pub(in crate::store) fn leave_absent_sinks_behind(
        &self,
        first_kept: u64,
        first_review: u64,
    ) -> Result<(), StoreError> {
        for sink in self.sinks()?.into_iter().filter(|sink| !sink.enabled) {
            let gone = self.skip_oldest(&sink.name, first_kept, first_review)?;
            if gone > 0 {
                tracing::warn!(
                    sink = sink.name,
                    messages = gone,
                    "a sink that is not enabled goes without messages"
                );
            }
        }
        Ok(())
    }

    fn skip_oldest(&self, name: &str, first_kept: u64, first_review: u64) -> Result<u64, StoreError> {
        let trees = &self.trees.outbox;
        let keep_max = self.options.outbox_entries_max / 2;
        let mut gone = 0;
        loop {
            let through = self.lock_log()?.last();
            let page = self.outbox(name).page(None, 0, through, BATCH, usize::MAX)?;
            let mut log = self.lock_log()?;
            let mut excess = log.sink(name)?.of_the_line().saturating_sub(keep_max);
            let mut places = Vec::new();
            for entry in &page.entries {
                let line = entry.owed.kind != Kind::Review;
                let removed = entry.owed.seq < if line { first_kept } else { first_review };
                if !removed && excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(u64::from(line));
                places.push(entry.place);
            }
            if places.is_empty() {
                return Ok(gone);
            }
            let mut changes = Changes::default();
            log.settle(trees, name, &places, &mut changes)?;
            let missed = places.len() as u64;
            let stored = wire::seal(&log.add_missed(name, missed)?);
            let mut writes = Transaction::default();
            writes.on(&trees.sinks).insert(name, stored);
            changes.write(trees, &mut writes);
            self.transaction("leave a sink behind", writes)?;
            self.note_owed(&log);
            gone += missed;
        }
    }

    /// Removes the dead letters about what retention has removed.
    pub(in crate::store) fn prune_letters(
        &self,
        first_kept: u64,
        first_review: u64,
    ) -> Result<(), StoreError> {
        let trees = &self.trees.outbox;
        // Held, so that none of them is owed again meanwhile.
        let _log = self.lock_log()?;
        let mut gone = Batch::default();
        for row in &trees.letters {
            let (key, value) = row.map_err(|e| StoreError::kv("read the dead letters", e))?;
            let letter = wire::open::<wire::LetterV1>("a dead letter", &value);
            let owed = match letter.and_then(|letter| letter.owed()) {
                Ok(owed) => owed,
                // Nobody can owe it again, nor list the others beside it.
                Err(error) => {
                    let what = format!("letter-{}", &hex(&sha256(&key))[..16]);
                    self.keep_aside(&what, &error.to_string(), &value);
                    gone.remove(key);
                    continue;
                }
            };
            if owed.seq < if owed.kind == Kind::Review { first_review } else { first_kept } {
                gone.remove(key);
            }
        }
        trees.letters.apply(gone).map_err(|e| self.stop_after("remove old dead letters", e))
    }
}
