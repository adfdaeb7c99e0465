//! Runs: which places of the log a sink no longer waits for.
//!
//! ```text
//!     places  1 2 3 4 5 6 7 8 9
//!     runs    [0 ----- 4]   [6 7]        cursor: 5, the lowest that is not acknowledged
//! ```
//!
//! Acknowledgements come almost in order, so there is one run from 0 to the cursor and, after it, one run for
//! each gap: however long a message is held back, those after it take one row.

use std::collections::BTreeMap;

/// Sets of places without overlap and without neighbours: first -> last, both included. The first begins at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u64, u64>);

/// A changed run: its first place, and its last, or `None` where it is gone.
pub(super) type Change = (u64, Option<u64>);

impl Runs {
    /// Everything up to and including `last`.
    pub(super) fn through(last: u64) -> Self {
        Self(BTreeMap::from([(0, last)]))
    }

    /// From stored rows; a damaged or missing beginning is place 0 alone, so that nothing is taken for acknowledged.
    pub(super) fn from_rows(rows: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut runs = Self::through(0);
        for (first, last) in rows {
            runs.join(first, last.max(first));
        }
        runs
    }

    fn join(&mut self, mut first: u64, mut last: u64) {
        while let Some((&a, &b)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if b.saturating_add(1) < first {
                break;
            }
            self.0.remove(&a);
            (first, last) = (first.min(a), last.max(b));
        }
        self.0.insert(first, last);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// The lowest place that is not in it.
    pub(super) fn cursor(&self) -> u64 {
        self.free_from(0)
    }

    pub(super) fn contains(&self, place: u64) -> bool {
        self.free_from(place) != place
    }

    /// The lowest place from this one on that is not in it.
    pub(super) fn free_from(&self, place: u64) -> u64 {
        match self.0.range(..=place).next_back() {
            Some((_, last)) if *last >= place => last.saturating_add(1),
            _ => place,
        }
    }

    /// Takes a place in; what changes. Nothing when it was in already.
    pub(super) fn insert(&mut self, place: u64) -> Vec<Change> {
        if self.contains(place) {
            return Vec::new();
        }
        let before = self.0.range(..place).next_back().filter(|(_, last)| **last + 1 == place);
        let first = before.map_or(place, |(first, _)| *first);
        let after = place.checked_add(1).and_then(|next| self.0.remove(&next).map(|last| (next, last)));
        let last = after.map_or(place, |(_, last)| last);
        self.0.insert(first, last);
        let gone = after.map(|(next, _)| (next, None));
        gone.into_iter().chain([(first, Some(last))]).collect()
    }

    /// Takes a place out; what changes. Place 0 stays.
    pub(super) fn remove(&mut self, place: u64) -> Vec<Change> {
        if place == 0 || !self.contains(place) {
            return Vec::new();
        }
        let Some((&first, &last)) = self.0.range(..=place).next_back() else { return Vec::new() };
        let mut changes = Vec::new();
        if first == place {
            self.0.remove(&first);
            changes.push((first, None));
        } else {
            self.0.insert(first, place - 1);
            changes.push((first, Some(place - 1)));
        }
        if last > place {
            self.0.insert(place + 1, last);
            changes.push((place + 1, Some(last)));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn in_order_there_is_one_run_and_a_gap_costs_one_more() {
        let mut runs = Runs::through(0);
        for place in 1..=1000 {
            assert_eq!(runs.insert(place), [(0, Some(place))]);
        }
        assert_eq!(runs.cursor(), 1001);
        for place in 1002..=2000 {
            runs.insert(place);
        }
        assert_eq!((runs.rows().count(), runs.cursor()), (2, 1001));
        assert_eq!(runs.insert(1001), [(1002, None), (0, Some(2000))]);
        assert_eq!(runs.insert(7), []);
        assert_eq!(runs.remove(7), [(0, Some(6)), (8, Some(2000))]);
        assert_eq!(Runs::from_rows([(5, 9), (1, 3), (10, 12)]), Runs::from_rows([(0, 3), (5, 12)]));
    }

    proptest! {
        #[test]
        fn runs_are_a_set_and_the_rows_say_the_same(steps in prop::collection::vec((1u64..30, any::<bool>()), 0..200)) {
            let (mut runs, mut set) = (Runs::through(0), BTreeSet::from([0u64]));
            let mut rows = BTreeMap::from([(0, 0)]);
            for (place, put) in steps {
                let changes = if put { runs.insert(place) } else { runs.remove(place) };
                if put { set.insert(place); } else { set.remove(&place); }
                for (first, last) in changes {
                    match last {
                        Some(last) => rows.insert(first, last),
                        None => rows.remove(&first),
                    };
                }
                prop_assert_eq!(&rows.clone().into_iter().collect::<Vec<_>>(), &runs.rows().collect::<Vec<_>>());
                prop_assert_eq!(&Runs::from_rows(rows.clone()), &runs);
                for place in 0..32 {
                    prop_assert_eq!(runs.contains(place), set.contains(&place));
                }
                prop_assert_eq!(runs.cursor(), (0..).find(|p| !set.contains(p)).unwrap());
            }
        }
    }
}
