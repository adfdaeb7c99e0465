//! Confirmed parts that are learned from, and how many there are.

use crate::daemon::recipes::Confirmed;
use crate::domain::learn::LearnKind;
use crate::domain::review::Decided;
use crate::store::Store;
use crate::store::error::StoreError;
use std::collections::BTreeMap;

/// Parts that one job learns from.
pub(super) const PARTS_MAX: usize = 500;
/// Defective ones among those of a bank: they only help to set the limits.
const BAD_MAX: usize = 100;
/// Decided parts that are counted: reading a record and its decision takes some tens of microseconds.
const STATES_MAX: usize = 5_000;

/// Confirmed parts whose pictures are kept, of one pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub good: usize,
    pub bad: usize,
}

/// The confirmed parts by pipeline.
///
/// # Errors
/// `StoreError` when the database cannot be read; a record that does not read is left out.
pub(super) fn counts(store: &Store) -> Result<BTreeMap<String, Counts>, StoreError> {
    let mut counts = BTreeMap::<String, Counts>::new();
    for (seq, state) in store.newest_review_states(STATES_MAX)? {
        let Some(verdict) = state.verdict.filter(|_| state.effective.is_some()) else { continue };
        let stored = match store.get(seq) {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(StoreError::BadRecord { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_kept =
            stored.image.as_ref().is_some_and(|image| store.image_path(&image.image.sha256).is_some());
        if !is_kept || !stored.inspection.clip.is_empty() {
            continue;
        }
        let of = counts.entry(stored.inspection.pipeline).or_default();
        match verdict {
            Decided::Pass => of.good += 1,
            Decided::Fail => of.bad += 1,
        }
    }
    Ok(counts)
}

/// At most `PARTS_MAX` parts, the newest first.
pub(super) fn choose(all: Vec<Confirmed>, what: LearnKind) -> Vec<Confirmed> {
    let is_bad = |one: &Confirmed| one.part.truth.is_defective();
    match what {
        LearnKind::Bank => bounded(all, is_bad, PARTS_MAX, BAD_MAX),
        LearnKind::Head => in_turn(all, is_bad, PARTS_MAX),
    }
}

/// Of each kind in turn: where memory ends before the parts do, it ends for both.
fn in_turn<T>(all: Vec<T>, is_bad: impl Fn(&T) -> bool, max: usize) -> Vec<T> {
    let (bad, good): (Vec<T>, Vec<T>) = all.into_iter().partition(is_bad);
    let (mut bad, mut good) = (bad.into_iter(), good.into_iter());
    let mut chosen = vec![];
    while chosen.len() < max {
        let before = chosen.len();
        chosen.extend(good.next());
        chosen.extend(bad.next());
        if chosen.len() == before {
            break;
        }
    }
    chosen.truncate(max);
    chosen
}

/// All defective ones up to their bound, and good ones for the rest.
fn bounded<T>(all: Vec<T>, is_bad: impl Fn(&T) -> bool, max: usize, bad_max: usize) -> Vec<T> {
    let bad = all.iter().filter(|one| is_bad(one)).count().min(bad_max).min(max);
    let (mut bad_left, mut good_left) = (bad, max - bad);
    let mut chosen = all;
    chosen.retain(|one| {
        let left = if is_bad(one) { &mut bad_left } else { &mut good_left };
        let has_room = *left > 0;
        *left -= usize::from(has_room);
        has_room
    });
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_taken_and_good_ones_above_all() {
        // Even numbers are defective; the newest come first.
        let chosen = bounded((0..100).collect(), |n| n % 2 == 0, 20, 5);
        assert_eq!(chosen.iter().filter(|n| *n % 2 == 0).copied().collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
        let good: Vec<_> = chosen.into_iter().filter(|n| n % 2 == 1).collect();
        assert_eq!(good, (0..15).map(|n| 2 * n + 1).collect::<Vec<_>>());
        assert_eq!(bounded(vec![1, 3, 5], |n| n % 2 == 0, 20, 5), [1, 3, 5]);
    }

    #[test]
    fn a_head_takes_the_newest_of_each_kind_in_turn() {
        // Three defective ones among many good ones, the newest first.
        let is_bad = |n: &i32| [4, 90, 95].contains(n);
        assert_eq!(in_turn((0..100).collect(), is_bad, 8), [0, 4, 1, 90, 2, 95, 3, 5]);
        assert_eq!(in_turn((0..100).collect(), is_bad, 3), [0, 4, 1]);
        assert_eq!(in_turn((0..100).collect(), is_bad, 200).len(), 100);
        assert!(in_turn(vec![], is_bad, 3).is_empty());
    }
}
