//! How long a sink has waited for the oldest of what it is owed.

use super::{Kind, Outbox, SCAN_MAX};
use crate::store::error::StoreError;
use std::time::SystemTime;

/// What the oldest message of a sink is about, by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// The sink waits for nothing.
    Nothing,
    /// The inspection was finished, or the decision made, then.
    Since(SystemTime),
    /// There is one, and what it is about cannot be read.
    Unknown,
}

impl Outbox<'_> {
    /// The oldest message that the sink has not acknowledged.
    ///
    /// # Errors
    /// [`StoreError`]; a record that is damaged is an `Unknown`.
    pub(crate) fn oldest(&self) -> Result<Oldest, StoreError> {
        let page = self.page(None, 0, self.store.sync.durable_log(), 1, SCAN_MAX)?;
        let Some(entry) = page.entries.first() else { return Ok(Oldest::Nothing) };
        let at = match entry.owed.kind {
            Kind::Result | Kind::Part => {
                self.store.get(entry.owed.seq).map(|stored| stored.map(|s| s.inspection.finished_at))
            }
            Kind::Review => self.store.review_entry(entry.owed.seq).map(|review| review.map(|r| r.at)),
        };
        match at {
            Ok(at) => Ok(at.map_or(Oldest::Unknown, Oldest::Since)),
            Err(StoreError::BadRecord { .. }) => Ok(Oldest::Unknown),
            Err(error) => Err(error),
        }
    }
}
