//! The disk forms of the log, its sinks and their dead letters.
//!
//! ```text
//!     log      place -> kind: 1 | number: 8 | schema: 2           (big-endian)
//!     sinks    name  -> { number, missed }                         (JSON)
//!     acked    sink number: 2 | first place: 8 -> last place: 8
//!     letters  sink number: 2 | place: 8 -> { kind, seq, schema, cause, reason, at }     (JSON)
//! ```

use super::{Cause, Kind, OutboxEntry, Owed};
use crate::store::error::StoreError;
use crate::store::value;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes of a key under a sink: its number and a place.
pub(super) type SinkKey = [u8; 10];

const fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Result => 1,
        Kind::Part => 2,
        Kind::Review => 3,
    }
}

/// The value of an entry.
pub(in crate::store) fn seal_entry(owed: Owed, schema: u16) -> Vec<u8> {
    let mut body = vec![kind_byte(owed.kind)];
    body.extend_from_slice(&owed.seq.to_be_bytes());
    body.extend_from_slice(&schema.to_be_bytes());
    value::seal(1, &body)
}

/// The entry of a value.
pub(in crate::store) fn open_entry(place: u64, bytes: &[u8]) -> Result<OutboxEntry, StoreError> {
    let bad =
        |reason: &str| StoreError::BadRecord { seq: place, reason: format!("entry of the outbox: {reason}") };
    let (_, body) = value::open(bytes).map_err(bad)?;
    let (kind, rest) = body.split_first().ok_or_else(|| bad("it is empty"))?;
    let (seq, schema) = rest.split_first_chunk::<8>().ok_or_else(|| bad("it is too short"))?;
    let schema: [u8; 2] = schema.try_into().map_err(|_| bad("its length is wrong"))?;
    let kind =
        Kind::ALL.into_iter().find(|k| kind_byte(*k) == *kind).ok_or_else(|| bad("its kind is not known"))?;
    let owed = Owed { kind, seq: u64::from_be_bytes(*seq) };
    Ok(OutboxEntry { place, owed, schema: u16::from_be_bytes(schema) })
}

/// A sink as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct SinkV1 {
    /// What it is called in keys.
    pub number: u16,
    /// Messages that went without it while it was not enabled.
    #[serde(default)]
    pub missed: u64,
}

#[derive(Serialize, Deserialize)]
pub(in crate::store) struct LetterV1 {
    pub kind: String,
    pub seq: u64,
    pub schema: u16,
    pub cause: Cause,
    pub reason: String,
    /// RFC 3339, UTC.
    pub at: String,
}

impl LetterV1 {
    /// What it is about.
    pub(crate) fn owed(&self) -> Result<Owed, StoreError> {
        let kind = Kind::parse(&self.kind);
        let bad = || StoreError::BadMeta { reason: format!("a dead letter: {:?} is no kind", self.kind) };
        Ok(Owed { kind: kind.ok_or_else(bad)?, seq: self.seq })
    }
}

pub(in crate::store) fn seal<T: Serialize>(wire: &T) -> Vec<u8> {
    value::seal(1, &serde_json::to_vec(wire).expect("numbers and strings always serialise"))
}

pub(in crate::store) fn open<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let bad = |reason: String| StoreError::BadMeta { reason: format!("{what}: {reason}") };
    let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
    serde_json::from_slice(body).map_err(|e| bad(e.to_string()))
}

pub(in crate::store) fn sink_key(number: u16, place: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&number.to_be_bytes());
    key[2..].copy_from_slice(&place.to_be_bytes());
    key
}

/// Sink number and place.
pub(in crate::store) fn open_sink_key(key: &[u8]) -> Result<(u16, u64), StoreError> {
    let bad = || StoreError::BadMeta { reason: format!("key {key:?} names no sink and place") };
    let (number, place) = key.split_first_chunk::<2>().ok_or_else(bad)?;
    let place = place.try_into().map_err(|_| bad())?;
    Ok((u16::from_be_bytes(*number), u64::from_be_bytes(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_and_what_is_damaged_is_an_error() {
        for kind in Kind::ALL {
            let owed = Owed { kind, seq: u64::MAX - 7 };
            let value = seal_entry(owed, 258);
            assert_eq!(open_entry(9, &value).unwrap(), OutboxEntry { place: 9, owed, schema: 258 });
            assert!(open_entry(9, &value[..value.len() - 1]).is_err());
        }
        for odd in [&[][..], &[1], &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]]
        {
            assert!(open_entry(9, &value::seal(1, odd)).is_err(), "{odd:?}");
        }
        assert_eq!(open_sink_key(&sink_key(3, 1 << 40)).unwrap(), (3, 1 << 40));
        assert!(open_sink_key(&[0, 1, 2]).is_err());
    }
}
