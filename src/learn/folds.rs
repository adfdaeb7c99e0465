//! Folds: which parts are kept back together when it is measured how well something was learned.
//!
//! Parts of one lot look alike. If some were learned from and others measured on, the figure would tell how well the lot
//! is known, and not how the next one will fare: so a lot is in one fold, whole.

/// Folds; fewer where there are fewer lots.
const FOLDS: usize = 5;

/// The fold of each part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Folds {
    pub of: Vec<usize>,
    pub count: usize,
    /// Lots that were kept together; `None`: parts were dealt one by one, all of a kind being of one lot.
    pub lots: Option<usize>,
}

/// Deals parts into folds by their lot and kind; a part without a lot is a lot of its own.
///
/// At least two parts of each kind are needed. Whatever the lots, what is left without a fold has both kinds.
pub(crate) fn deal(parts: &[(Option<&str>, bool)]) -> Folds {
    let mut lots: Vec<Vec<usize>> = vec![];
    let mut names: Vec<&str> = vec![];
    let mut places: Vec<usize> = vec![];
    for (i, (lot, _)) in parts.iter().enumerate() {
        let known = lot.and_then(|lot| names.iter().position(|name| *name == lot));
        if let Some(at) = known {
            lots[places[at]].push(i);
            continue;
        }
        if let Some(lot) = lot {
            names.push(lot);
            places.push(lots.len());
        }
        lots.push(vec![i]);
    }
    let count = lots.len();
    if let Some((of, folds)) = spread(parts, lots) {
        return Folds { of, count: folds, lots: Some(count) };
    }
    let singly = (0..parts.len()).map(|i| vec![i]).collect();
    let (of, count) = spread(parts, singly).unwrap_or_else(|| (vec![0; parts.len()], 1));
    Folds { of, count, lots: None }
}

/// Puts each lot, the largest first, where its kinds are rarest; `None`: a fold would hold all parts of a kind.
fn spread(parts: &[(Option<&str>, bool)], mut lots: Vec<Vec<usize>>) -> Option<(Vec<usize>, usize)> {
    let folds = FOLDS.min(lots.len());
    let kind = |i: usize| usize::from(parts[i].1);
    let mut all = [0usize; 2];
    (0..parts.len()).for_each(|i| all[kind(i)] += 1);
    lots.sort_by_key(|lot| std::cmp::Reverse(lot.len()));
    let mut held = vec![[0usize; 2]; folds];
    let mut of = vec![0; parts.len()];
    for lot in lots {
        let mut adds = [0usize; 2];
        lot.iter().for_each(|i| adds[kind(*i)] += 1);
        // By how much the sum of squared shares would grow: least where these kinds are rarest.
        let cost = |held: &[usize; 2]| {
            let of_kind = |k: usize| {
                let (has, adds, all) = (held[k] as f64, adds[k] as f64, all[k].max(1) as f64);
                ((has + adds).powi(2) - has.powi(2)) / (all * all)
            };
            of_kind(0) + of_kind(1)
        };
        let best = (0..folds).min_by(|a, b| {
            let size = |fold: usize| held[fold][0] + held[fold][1];
            cost(&held[*a]).total_cmp(&cost(&held[*b])).then(size(*a).cmp(&size(*b))).then(a.cmp(b))
        })?;
        for i in lot {
            of[i] = best;
            held[best][kind(i)] += 1;
        }
    }
    let is_sound = held.iter().all(|held| (0..2).all(|k| held[k] < all[k]));
    is_sound.then_some((of, folds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lot_is_in_one_fold_and_both_kinds_are_left(
            parts in prop::collection::vec((prop::option::of(0u8..12), any::<bool>()), 4..80),
        ) {
            let (bad, good) = (parts.iter().filter(|p| p.1).count(), parts.iter().filter(|p| !p.1).count());
            prop_assume!(bad >= 2 && good >= 2);
            let names: Vec<Option<String>> = parts.iter().map(|p| p.0.map(|lot| format!("L{lot}"))).collect();
            let parts: Vec<_> = parts.iter().zip(&names).map(|(p, name)| (name.as_deref(), p.1)).collect();
            let folds = deal(&parts);
            for fold in 0..folds.count {
                for kind in [false, true] {
                    prop_assert!((0..parts.len()).any(|i| folds.of[i] != fold && parts[i].1 == kind));
                }
            }
            if folds.lots.is_some() {
                for (i, a) in parts.iter().enumerate() {
                    let together = parts.iter().zip(&folds.of).filter(|(b, _)| a.0.is_some() && a.0 == b.0);
                    prop_assert!(together.into_iter().all(|(_, fold)| *fold == folds.of[i]));
                }
            }
        }
    }

    #[test]
    fn parts_of_one_lot_are_dealt_singly_and_that_is_said() {
        let parts: Vec<_> = (0..20).map(|i| (Some("L1"), i % 2 == 0)).collect();
        let folds = deal(&parts);
        assert_eq!((folds.lots, folds.count), (None, 5));
        let singles: Vec<_> = (0..20).map(|i| (None, i % 2 == 0)).collect();
        let folds = deal(&singles);
        assert_eq!(folds.lots, Some(20));
        for fold in 0..5 {
            let bad = (0..20).filter(|i| folds.of[*i] == fold && singles[*i].1).count();
            let good = (0..20).filter(|i| folds.of[*i] == fold && !singles[*i].1).count();
            assert_eq!((bad, good), (2, 2));
        }
    }
}
