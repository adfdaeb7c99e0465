//! Figures of a blind study (AIAG, Measurement Systems Analysis, ch. III C).
//!
//! ```text
//! sheets of round 1 --two people, or a person and the model--.
//! sheets of one person --a round and the next one------------+--> parts that both rated: how many agree, kappa
//! ```
//!
//! A share has the interval of Wilson (1927), which holds for few parts and for all of them, too. Cohen's kappa has that
//! of its large-sample standard error (Fleiss, Cohen and Everitt, 1969); where all agree that error is zero, and kappa
//! has no interval rather than one without a width.

use crate::domain::review::Decided;
use crate::store::blind::{Sheet, StudyPart};
use crate::web::agreement::beyond_chance;
use serde::Serialize;
use utoipa::ToSchema;

/// Standard deviations of an interval that holds in 95 of 100 cases.
const Z: f64 = 1.96;

/// What two raters say of the same parts.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(in crate::web) struct BlindPair {
    pub a: String,
    /// Empty: the model. As `a`: the same person in another round.
    pub b: String,
    /// Rounds of the two; that of the model is 1.
    pub rounds: [u8; 2],
    /// Parts that both have rated.
    pub parts: usize,
    pub agreed: usize,
    /// Good by both; good by `a` alone; good by `b` alone; good by neither.
    pub counts: [usize; 4],
    /// Effectiveness: the share of the parts about which they agree.
    pub share: Interval,
    /// Cohen's; null where both always said the same one thing, of which chance explains all.
    pub kappa: Option<f64>,
    /// Its interval of 95 %; null where kappa is, or where all agree.
    pub kappa_interval: Option<[f64; 2]>,
}

/// A share with its interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub(in crate::web) struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// All pairs that have rated a part in common: people first, then each person and the model, then a person and himself.
pub(super) fn pairs(parts: &[StudyPart], sheets: &[Sheet]) -> Vec<BlindPair> {
    let model: Vec<Option<Decided>> = parts.iter().map(|part| part.model).collect();
    let first: Vec<&Sheet> = sheets.iter().filter(|sheet| sheet.round == 1).collect();
    let mut pairs = Vec::new();
    for (at, a) in first.iter().enumerate() {
        pairs.extend(first[at + 1..].iter().filter_map(|b| of_sheets(a, b)));
    }
    pairs.extend(first.iter().filter_map(|a| pair((&a.rater, ""), [1, 1], &a.said, &model)));
    for a in sheets {
        let next = sheets.iter().filter(|b| b.rater == a.rater && b.round == a.round + 1);
        pairs.extend(next.filter_map(|b| of_sheets(a, b)));
    }
    pairs
}

fn of_sheets(a: &Sheet, b: &Sheet) -> Option<BlindPair> {
    pair((&a.rater, &b.rater), [a.round, b.round], &a.said, &b.said)
}

/// `None` without a part in common.
fn pair(
    (a, b): (&str, &str),
    rounds: [u8; 2],
    of_a: &[Option<Decided>],
    of_b: &[Option<Decided>],
) -> Option<BlindPair> {
    let mut counts = [0; 4];
    for (a, b) in of_a.iter().zip(of_b) {
        match (a, b) {
            (Some(Decided::Pass), Some(Decided::Pass)) => counts[0] += 1,
            (Some(Decided::Pass), Some(Decided::Fail)) => counts[1] += 1,
            (Some(Decided::Fail), Some(Decided::Pass)) => counts[2] += 1,
            (Some(Decided::Fail), Some(Decided::Fail)) => counts[3] += 1,
            (None, _) | (_, None) => {}
        }
    }
    let parts = counts.iter().sum();
    if parts == 0 {
        return None;
    }
    let agreed = counts[0] + counts[3];
    let kappa = kappa(counts);
    let kappa_interval = kappa.filter(|_| agreed < parts).map(|kappa| {
        let half = Z * standard_error(counts, kappa);
        [(kappa - half).max(-1.0), (kappa + half).min(1.0)]
    });
    let (a, b, share) = (a.to_owned(), b.to_owned(), wilson(agreed, parts));
    Some(BlindPair { a, b, rounds, parts, agreed, counts, share, kappa, kappa_interval })
}

/// The share `k` of `n`, which is not 0.
fn wilson(k: usize, n: usize) -> Interval {
    let (n, value) = (n as f64, k as f64 / n as f64);
    let all = 1.0 + Z * Z / n;
    let centre = (value + Z * Z / (2.0 * n)) / all;
    let half = Z * (value * (1.0 - value) / n + Z * Z / (4.0 * n * n)).sqrt() / all;
    Interval { value, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

/// Shares of the table: its cells, and how often `a` and how often `b` says good and bad.
struct Table {
    cells: [[f64; 2]; 2],
    of_a: [f64; 2],
    of_b: [f64; 2],
}

impl Table {
    fn new(counts: [usize; 4]) -> Self {
        let n = counts.iter().sum::<usize>() as f64;
        let [pp, pf, fp, ff] = counts.map(|count| count as f64 / n);
        Self { cells: [[pp, pf], [fp, ff]], of_a: [pp + pf, fp + ff], of_b: [pp + fp, pf + ff] }
    }

    fn by_chance(&self) -> f64 {
        self.of_a[0] * self.of_b[0] + self.of_a[1] * self.of_b[1]
    }
}

fn kappa(counts: [usize; 4]) -> Option<f64> {
    let table = Table::new(counts);
    beyond_chance(table.cells[0][0] + table.cells[1][1], table.by_chance())
}

/// Of kappa, by Fleiss, Cohen and Everitt (1969), formula 13.
fn standard_error(counts: [usize; 4], kappa: f64) -> f64 {
    let table = Table::new(counts);
    let (n, chance, rest) = (counts.iter().sum::<usize>() as f64, table.by_chance(), 1.0 - kappa);
    let mut variance = -(kappa - chance * rest).powi(2);
    for (i, row) in table.cells.iter().enumerate() {
        for (j, cell) in row.iter().enumerate() {
            variance += if i == j {
                cell * (1.0 - (table.of_a[i] + table.of_b[i]) * rest).powi(2)
            } else {
                cell * rest.powi(2) * (table.of_b[i] + table.of_a[j]).powi(2)
            };
        }
    }
    (variance.max(0.0) / n).sqrt() / (1.0 - chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(letters: &str) -> Vec<Option<Decided>> {
        let one = |letter| match letter {
            'p' => Some(Decided::Pass),
            'f' => Some(Decided::Fail),
            _ => None,
        };
        letters.chars().map(one).collect()
    }

    fn sheet(rater: &str, round: u8, letters: &str) -> Sheet {
        Sheet { rater: rater.into(), round, said: said(letters) }
    }

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-4
    }

    #[test]
    fn figures_are_those_of_the_textbook() {
        // 20 both good, 5 and 10 apart, 15 both bad, of 50: kappa 0.4, its standard error 0.1270.
        let counts = [20, 5, 10, 15];
        let kappa = kappa(counts).expect("there is one");
        assert!(is_near(kappa, 0.4) && is_near(standard_error(counts, kappa), 0.1270), "{kappa}");
        // Wilson: 35 of 50, and all of 10.
        let some = wilson(35, 50);
        assert!(is_near(some.low, 0.5625) && is_near(some.high, 0.8090), "{some:?}");
        let all = wilson(10, 10);
        assert!(is_near(all.low, 0.7225) && is_near(all.high, 1.0), "{all:?}");
    }

    #[test]
    fn people_the_model_and_a_person_again_are_compared_by_parts_that_both_rated() {
        let parts: Vec<StudyPart> = said("ppff-")
            .into_iter()
            .map(|model| StudyPart { inspection_id: String::new(), model })
            .collect();
        let sheets = [sheet("anna", 1, "pfffp"), sheet("ben", 1, "pffp-"), sheet("anna", 2, "pf-pp")];
        let pairs = pairs(&parts, &sheets);
        let shown: Vec<_> = pairs.iter().map(|p| (p.a.as_str(), p.b.as_str(), p.rounds, p.counts)).collect();
        let expected = [
            ("anna", "ben", [1, 1], [1, 0, 1, 2]),
            ("anna", "", [1, 1], [1, 0, 1, 2]),
            ("ben", "", [1, 1], [1, 1, 1, 1]),
            ("anna", "anna", [1, 2], [2, 0, 1, 1]),
        ];
        assert_eq!(shown, expected);
        assert_eq!((pairs[0].parts, pairs[0].agreed, pairs[0].share.value), (4, 3, 0.75));
        let [low, high] = pairs[0].kappa_interval.expect("they differ");
        assert!(low < 0.5 && 0.5 < high && high <= 1.0, "{low} {high}");
    }

    #[test]
    fn who_agrees_about_all_parts_has_no_interval_of_kappa() {
        let both = pair(("anna", "ben"), [1, 1], &said("ppff"), &said("ppff")).expect("parts in common");
        assert_eq!((both.kappa, both.kappa_interval), (Some(1.0), None));
        assert!(both.share.low < 0.6, "four parts say little");
        let same = pair(("anna", "ben"), [1, 1], &said("pppp"), &said("pppp")).expect("parts in common");
        assert_eq!((same.kappa, same.kappa_interval), (None, None));
        assert_eq!(pair(("anna", "ben"), [1, 1], &said("p-"), &said("-p")), None);
    }
}
