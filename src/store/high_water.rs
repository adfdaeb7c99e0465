//! High-water mark: how far both ledgers reached when they were last synced, in the file `ends` beside the database.
//!
//! ```text
//!     ends = | slot | slot |        slot = | last result: 8 | last review: 8 | CRC32 of both: 4 |  big-endian
//! ```
//!
//! sled takes bytes that it cannot read at the end of its file for a write that was cut off, and forgets
//! them, the chain's own end among them; what is left looks whole. The file says what must be there.
//!
//! Invariants:
//! - It is written only after the fdatasync of what it names, so that the database never falls behind it,
//!   whatever is killed or loses power. It needs no sync of its own: an older end is true, too.
//! - The slots take turns, so that a torn write leaves the one before it.

use super::error::StoreError;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const SLOT_BYTES: usize = 20;

/// The last sequence numbers of both ledgers; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HighWaterMark {
    pub result: u64,
    pub review: u64,
    /// The last place of the outbox's log. Not in the file: an entry is written with its record or review.
    pub log: u64,
}

impl HighWaterMark {
    /// The further of the two, for each ledger.
    pub(super) fn furthest(self, other: Self) -> Self {
        Self {
            result: self.result.max(other.result),
            review: self.review.max(other.review),
            log: self.log.max(other.log),
        }
    }

    fn seal(self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&self.result.to_be_bytes());
        slot[8..16].copy_from_slice(&self.review.to_be_bytes());
        let crc = crc32fast::hash(&slot[..16]);
        slot[16..].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    fn open(slot: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(slot.get(at..at + 8)?.try_into().ok()?));
        let mark = Self { result: number(0)?, review: number(8)?, log: 0 };
        (slot.get(..SLOT_BYTES)? == mark.seal()).then_some(mark)
    }
}

/// How far the ledgers of a store reached; nothing is opened for writing or made.
pub(super) fn read(dir: &Path) -> HighWaterMark {
    let bytes = std::fs::read(dir.join("ends")).unwrap_or_default();
    let slots = [0, SLOT_BYTES].map(|at| bytes.get(at..).and_then(HighWaterMark::open));
    slots.into_iter().flatten().reduce(HighWaterMark::furthest).unwrap_or_default()
}

/// The file.
pub(super) struct HighWaterFile {
    file: File,
    path: PathBuf,
    /// What was written last, and into which slot the next goes.
    last: HighWaterMark,
    slot: u64,
}

impl HighWaterFile {
    /// Opens or creates `ends` in the store's directory.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("ends");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        let slots = [0, SLOT_BYTES].map(|at| bytes.get(at..).and_then(HighWaterMark::open));
        let slot = u64::from(slots[0] >= slots[1]);
        let last = slots.into_iter().flatten().reduce(HighWaterMark::furthest).unwrap_or_default();
        Ok(Self { file, path, last, slot })
    }

    /// How far both ledgers must reach.
    pub(super) const fn last(&self) -> HighWaterMark {
        self.last
    }

    /// Records how far they reach now; both are on the disk.
    pub(super) fn write(&mut self, mark: HighWaterMark) -> Result<(), StoreError> {
        let mark = self.last.furthest(HighWaterMark { log: 0, ..mark });
        if mark != self.last {
            let at = self.slot * SLOT_BYTES as u64;
            self.file.write_all_at(&mark.seal(), at).map_err(StoreError::io("write", &self.path))?;
            (self.last, self.slot) = (mark, 1 - self.slot);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn mark(result: u64, review: u64) -> HighWaterMark {
        HighWaterMark { result, review, log: 0 }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HighWaterFile::open(dir.path()).unwrap();
        assert_eq!(file.last(), HighWaterMark::default());
        for n in 1..=5 {
            file.write(mark(10 * n, n)).unwrap();
            assert_eq!(HighWaterFile::open(dir.path()).unwrap().last(), mark(10 * n, n));
        }
        file.write(mark(7, 9)).unwrap();
        let path = dir.path().join("ends");
        assert_eq!(HighWaterFile::open(dir.path()).unwrap().last(), mark(50, 9));
        // A torn write of the newest slot leaves the one before it, and the next write mends it.
        let mut bytes = std::fs::read(&path).unwrap();
        let newest =
            bytes.chunks(SLOT_BYTES).position(|s| HighWaterMark::open(s).unwrap().review == 9).unwrap();
        bytes[newest * SLOT_BYTES + 3] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let mut file = HighWaterFile::open(dir.path()).unwrap();
        assert_eq!(file.last(), mark(50, 5));
        file.write(mark(60, 9)).unwrap();
        assert_eq!(HighWaterFile::open(dir.path()).unwrap().last(), mark(60, 9));
    }
}
