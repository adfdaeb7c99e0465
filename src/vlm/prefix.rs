//! Keys and values of conversations that were read, kept for the next one that begins the same.
//!
//! ```text
//! chunk --read by a pass--> kept, in use --its users leave--> kept, unused --begins the same--> in use again
//!                                                                  '--the oldest, when room is wanted--> evicted
//! ```
//!
//! A chunk is named by all that stands before it and by itself, so that whoever finds it may see its keys. It is read
//! by the same pass, after the same spans, whether those before it were kept or not: the answer is the same bit by bit.
//!
//! Invariants:
//! - A chunk that is in use is not evicted.
//! - Of all kept rows no more than `rows_max` stay when they are unused, and whoever needs rows takes them first.

use super::attention::Span;
use super::kv::Arena;
use image::RgbImage;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Names a chunk with all that stands before it.
pub(super) type Key = [u8; 32];

/// The name of what stands before the first chunk.
pub(super) const START: Key = [0; 32];

/// The name of what stands before the first chunk of a job with an adapter of this sha256.
pub(super) fn key_of_adapter(sha256: &str) -> Key {
    Sha256::new().chain_update(START).chain_update(b"adapter").chain_update(sha256).finalize().into()
}

/// The name of tokens after what `before` names.
pub(super) fn key_of_ids(before: &Key, ids: &[u32]) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(before);
    hasher.update(b"ids");
    ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
    hasher.finalize().into()
}

/// The name of a picture after what `before` names.
pub(super) fn key_of_picture(before: &Key, picture: &Key) -> Key {
    Sha256::new().chain_update(before).chain_update(b"picture").chain_update(picture).finalize().into()
}

/// The name of a picture by itself: its pixels, and the budget that they are resized to.
pub(super) fn hash_picture(image: &RgbImage, min_pixels: u32, max_pixels: u32) -> Key {
    let mut hasher = Sha256::new();
    for number in [image.width(), image.height(), min_pixels, max_pixels] {
        hasher.update(number.to_le_bytes());
    }
    hasher.update(image.as_raw());
    hasher.finalize().into()
}

struct Kept {
    span: Span,
    users: usize,
    /// When it was last let go, by [`Prefixes::now`].
    used: u64,
}

/// The chunks that are kept.
pub(super) struct Prefixes {
    kept: HashMap<Key, Kept>,
    rows: usize,
    rows_max: usize,
    now: u64,
}

impl Prefixes {
    /// Nothing yet.
    pub(super) fn new(rows_max: usize) -> Self {
        Self { kept: HashMap::new(), rows: 0, rows_max, now: 0 }
    }

    /// Chunks that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The rows of a chunk that is kept, which then has a user more.
    pub(super) fn find(&mut self, key: &Key) -> Option<Span> {
        let kept = self.kept.get_mut(key)?;
        kept.users += 1;
        Some(kept.span)
    }

    /// Keeps a chunk that was just read, with its one user; false when another one has brought it meanwhile.
    pub(super) fn keep(&mut self, key: Key, span: Span) -> bool {
        if self.kept.contains_key(&key) {
            return false;
        }
        self.rows += span.rows;
        self.kept.insert(key, Kept { span, users: 1, used: 0 });
        true
    }

    /// A user less. Of one conversation the last chunk is let go first, so that it is evicted first, too.
    pub(super) fn let_go(&mut self, key: &Key, arena: &mut Arena) {
        self.now += 1;
        if let Some(kept) = self.kept.get_mut(key) {
            (kept.users, kept.used) = (kept.users - 1, self.now);
        }
        while self.rows > self.rows_max && self.evict(arena) {}
    }

    /// Gives the rows of the oldest unused chunk back; false when there is none.
    pub(super) fn evict(&mut self, arena: &mut Arena) -> bool {
        let unused = self.kept.iter().filter(|(_, kept)| kept.users == 0);
        let Some(key) = unused.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { return false };
        if let Some(Kept { span, .. }) = self.kept.remove(&key) {
            self.rows -= span.rows;
            arena.give_back(span);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvPrecision;
    use candle_core::Device;

    fn arena() -> Arena {
        Arena::new(1, 100, (1, 2), KvPrecision::Single, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_oldest_unused_chunk_goes_first_and_no_chunk_in_use() {
        let (mut arena, mut prefixes) = (arena(), Prefixes::new(60));
        let keys: Vec<Key> = (0u32..4).map(|i| key_of_ids(&START, &[i])).collect();
        for key in &keys {
            let span = arena.lend(25).unwrap();
            assert!(prefixes.keep(*key, span));
        }
        assert_eq!(arena.free_rows(), 0);
        assert!(!prefixes.evict(&mut arena), "all are in use");
        prefixes.let_go(&keys[2], &mut arena);
        assert_eq!(arena.free_rows(), 25, "more than 60 rows are kept, and this one is unused");
        assert!(prefixes.find(&keys[2]).is_none() && prefixes.find(&keys[1]).is_some());
        [3, 0].into_iter().for_each(|i| prefixes.let_go(&keys[i], &mut arena));
        assert_eq!(arena.free_rows(), 50, "50 rows may stay");
        assert!(prefixes.find(&keys[3]).is_none(), "it was let go first");
        prefixes.let_go(&keys[1], &mut arena);
        assert!(prefixes.evict(&mut arena) && !prefixes.evict(&mut arena), "one of two still has a user");
        assert_eq!(arena.free_rows(), 75);
    }

    #[test]
    fn a_chunk_is_named_by_all_that_stands_before_it() {
        let image = |shade| RgbImage::from_pixel(4, 2, image::Rgb([shade; 3]));
        let picture = hash_picture(&image(1), 1, 9);
        let others = [hash_picture(&image(2), 1, 9), hash_picture(&image(1), 1, 8)];
        assert!(!others.contains(&picture));
        let first = key_of_ids(&START, &[1, 2]);
        let names = [
            key_of_ids(&first, &[3]),
            key_of_ids(&START, &[1, 2, 3]),
            key_of_ids(&START, &[3]),
            key_of_picture(&first, &picture),
            key_of_picture(&START, &picture),
            key_of_picture(&first, &others[0]),
            key_of_ids(&key_of_adapter("a"), &[3]),
            key_of_ids(&key_of_adapter("b"), &[3]),
        ];
        assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)));
        let span = Span { start: 0, rows: 1 };
        let mut prefixes = Prefixes::new(9);
        assert!(prefixes.keep(first, span) && !prefixes.keep(first, span), "one is enough");
    }
}
