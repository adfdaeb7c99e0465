//! The newest inspections, for who wants only those: `last` of the station, and one of each camera.
//!
//! ```text
//! results are published to their end --> the newest that can be read ----------------------> last
//!                                    '-> the newest of each camera since the former look --> camera/{id}/last
//! ```
//!
//! A camera of which nothing newer is found keeps what the broker retains.

use super::Driver;
use crate::publish::mqtt::MqttError;
use crate::publish::mqtt::dialect::Message;
use crate::publish::mqtt::owed::on_disk;
use crate::store::Store;
use crate::store::error::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Inspections that one look goes back.
const LOOK_BACK_MAX: usize = 256;

/// What a look has found.
struct Found {
    last: Option<Message>,
    /// By camera.
    cameras: BTreeMap<String, Message>,
    /// Number of the newest inspection that was looked at.
    seen: u64,
}

impl Driver {
    /// `last` of the newest inspection that can be read; retention may just have removed it. Those of the cameras are
    /// published behind it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn last(&mut self) -> Result<Message, MqttError> {
        let (dialect, seen) = (Arc::clone(&self.dialect), self.seen);
        let look = move |store: &Store| {
            let mut found = Found { last: None, cameras: BTreeMap::new(), seen };
            for stored in store.newest_first().take(LOOK_BACK_MAX) {
                match stored {
                    Ok(stored) if found.last.is_some() && stored.seq <= seen => break,
                    Ok(stored) => {
                        found.seen = found.seen.max(stored.seq);
                        found.last.get_or_insert_with(|| dialect.last(Some(&stored)));
                        let camera = &stored.inspection.camera;
                        if stored.seq > seen
                            && let Some(message) = dialect.camera_last(&stored)
                        {
                            // The first is the newest.
                            found.cameras.entry(camera.clone()).or_insert(message);
                        }
                    }
                    Err(error @ StoreError::BadRecord { .. }) => {
                        tracing::error!(%error, "skipped for `last`");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        };
        let Found { last, cameras, seen } = on_disk(&self.store, look).await?;
        self.seen = seen;
        cameras.into_values().for_each(|message| self.retain(message));
        Ok(last.unwrap_or_else(|| self.dialect.last(None)))
    }
}
