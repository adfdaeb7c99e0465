//! What a station must know again after a restart, beside its ledgers: small values by name.
//!
//! ```text
//! remember("commanded/cam1", …) --> state: name -> value, sealed --> durable before it returns
//! remembered("commanded/cam1")  <-- at the next start
//! ```
//!
//! Names are paths: the part before the first `/` says whose value it is, and only its owner reads and
//! writes under it. A value is JSON in the envelope of every value, at most [`value::VALUE_BYTES_MAX`] long.

use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::kv::Batch;
use super::{Store, value};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn bad(name: &str, reason: impl std::fmt::Display) -> StoreError {
    StoreError::BadMeta { reason: format!("state {name:?}: {reason}") }
}

/// A value in its envelope.
pub(super) fn seal<T: Serialize>(name: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    let body = serde_json::to_vec(value).map_err(|e| bad(name, e))?;
    if body.len() + value::HEADER_BYTES > value::VALUE_BYTES_MAX {
        return Err(bad(name, format!("{} bytes are too long", body.len())));
    }
    Ok(value::seal(1, &body))
}

fn open<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let (_, body) = value::open(bytes).map_err(|reason| bad(name, reason))?;
    serde_json::from_slice(body).map_err(|e| bad(name, e))
}

impl Store {
    /// Keeps a value under a name, instead of the former one; it is on the disk when this returns.
    ///
    /// # Errors
    /// `BadMeta` for a value that is too long, `DiskFull`: nothing was changed. After any other error stop.
    pub fn remember<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        self.disk.check()?;
        self.keep_state(name, value)
    }

    /// As `remember`, also below the disk's floor: for those that make room.
    pub(super) fn keep_state<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        self.sync.check()?;
        let sealed = seal(name, value)?;
        self.trees.state.insert(name, sealed).map_err(|e| self.stop_after("remember a value", e))?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Removes a value; a name without one is no error. It is gone from the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn forget(&self, name: &str) -> Result<(), StoreError> {
        self.trees.state.remove(name).map_err(|e| self.stop_after("forget a value", e))?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Removes values without waiting for the disk: lost to a crash, they are there again.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn forget_later<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        names.into_iter().for_each(|name| batch.remove(name));
        self.trees.state.apply(batch).map_err(|e| self.stop_after("forget values", e))
    }

    /// The value under a name.
    ///
    /// # Errors
    /// `BadMeta` when it is damaged or of another form.
    pub fn remembered<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let found = self.trees.state.get(name).map_err(|e| StoreError::kv("read a value", e))?;
        found.map(|bytes| open(name, &bytes)).transpose()
    }

    /// All names that begin with `prefix`, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn remembered_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let rows = self.trees.state.under(prefix).map(|row| {
            let (name, _) = row.map_err(|e| StoreError::kv("read the names of values", e))?;
            Ok(String::from_utf8_lossy(&name).into_owned())
        });
        rows.collect()
    }

    /// All values whose names begin with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn remembered_under<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = self.trees.state.under(prefix);
        rows.map(|row| {
            let (name, bytes) = row.map_err(|e| StoreError::kv("read the values", e))?;
            let name = String::from_utf8_lossy(&name).into_owned();
            let value = open(&name, &bytes)?;
            Ok((name, value))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Store, StoreOptions};

    #[test]
    fn a_value_is_there_again_after_a_restart_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        store.remember("pins/model", &("a", 1)).unwrap();
        store.remember("pins/model", &("b", 2)).unwrap();
        store.remember("pins/size", &("c", 3)).unwrap();
        store.remember("other", &("d", 4)).unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.remembered::<(String, u32)>("pins/model").unwrap(), Some(("b".into(), 2)));
        let under = store.remembered_under::<(String, u32)>("pins/").unwrap();
        assert_eq!(
            under.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["pins/model", "pins/size"]
        );
        store.forget("pins/model").unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.remembered::<(String, u32)>("pins/model").unwrap(), None);
        assert!(store.remembered::<u32>("other").is_err(), "another form is no silent absence");
        assert!(store.remember("pins/long", &"x".repeat(5000)).is_err());
    }
}
