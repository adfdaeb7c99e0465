//! Attribute agreement: how far people and the model agree about the same parts (AIAG, Measurement Systems Analysis,
//! ch. III C).
//!
//! ```text
//! inspections that people decided, newest first --> each rater's last word about each --> pairs: share, Cohen's kappa
//!                                                                                    '--> all of them: Fleiss' kappa
//! ```
//!
//! The model is a rater where it says pass or fail. A person's word is his last entry that he did not take back, also
//! where somebody decided after him: two people who decide about the same parts are compared so. The second one sees
//! what the first one said and all see what the model said; figures without that are those of a blind study (`blind`).
//!
//! Kappa is the agreement beyond chance: 1 is all of it, 0 none. Cohen's is of two raters, Fleiss' of several.

use super::auth::Viewer;
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::queue::Search;
use crate::domain::review::{Decided, Review, ReviewKind};
use crate::store::Store;
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Inspections that are looked through, the newest.
const INSPECTIONS_MAX: usize = 20_000;
/// Raters that are compared, those with the most parts; the model is one of them.
const RATERS_MAX: usize = 12;
/// Parts that both must have rated before their figures mean something: the fewest of the book's studies.
const PARTS_ENOUGH: usize = 50;
/// What the model is called among the raters; no account has such a name.
const MODEL: &str = "";

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// RFC 3339.
    pub from: Option<String>,
    /// RFC 3339.
    pub to: Option<String>,
    pub camera: Option<String>,
    pub pipeline: Option<String>,
}

/// How far the raters agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Study {
    /// Those with the most parts first.
    pub raters: Vec<Rater>,
    /// Each pair that has rated a part in common.
    pub pairs: Vec<Pair>,
    /// The two people who have rated the most parts in common, and the model; null without such parts.
    pub together: Option<Together>,
    /// Parts in common from which on the figures mean something.
    pub parts_enough: usize,
    /// False when only the newest inspections were looked through.
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Rater {
    /// Empty for the model.
    pub name: String,
    pub parts: usize,
    /// Of these said to be good.
    pub passed: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Pair {
    /// Empty for the model.
    pub a: String,
    pub b: String,
    /// Parts that both have rated.
    pub parts: usize,
    pub agreed: usize,
    pub share: f64,
    /// Cohen's; null where both always said the same one thing, of which chance explains all.
    pub kappa: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Together {
    pub raters: Vec<String>,
    /// Parts that all of them have rated.
    pub parts: usize,
    /// About which all of them say the same.
    pub agreed: usize,
    /// Fleiss'; null as in a pair.
    pub kappa: Option<f64>,
}

/// What each rater says of one part: true is good.
type Ratings = BTreeMap<String, bool>;

/// Attribute agreement of people and the model, from the ledger of reviews.
#[utoipa::path(get, path = "/api/v1/agreement", tag = "charts", params(Range), responses(
    (status = 200, body = Study), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn agreement(
    State(store): State<Arc<Store>>,
    _: Viewer,
    Query(range): Query<Range>,
) -> Result<Json<Study>, ApiError> {
    let Range { from, to, camera, pipeline } = range;
    let filter = Search { camera, pipeline, from, to, reviewed: Some(true), ..Search::default() }.filter()?;
    blocking(&store, move |store| {
        let mut found = Vec::new();
        let mut total = 0;
        store.scan(&filter, |seq, row, _| {
            total += 1;
            if found.len() < INSPECTIONS_MAX {
                found.push((seq, row.verdict));
            }
        })?;
        let mut parts = Vec::with_capacity(found.len());
        for (seq, verdict) in &found {
            parts.push(ratings(*verdict, &store.reviews_of(*seq)?));
        }
        let complete = total == found.len() && store.index_complete()?;
        Ok(Json(Study { complete, ..study(&parts) }))
    })
    .await
}

/// What the model (0 pass, 1 fail) and each person say of one part; `reviews`: oldest first.
fn ratings(model: u8, reviews: &[Review]) -> Ratings {
    let undone: BTreeSet<u64> =
        reviews.iter().filter(|r| r.kind == ReviewKind::Undo).filter_map(|r| r.supersedes).collect();
    let mut said: Ratings = reviews
        .iter()
        .filter(|r| r.kind != ReviewKind::Undo && !undone.contains(&r.seq))
        .filter_map(|r| Some((r.actor.clone(), r.verdict? == Decided::Pass)))
        .collect();
    if model < 2 {
        said.insert(MODEL.to_owned(), model == 0);
    }
    said
}

fn study(parts: &[Ratings]) -> Study {
    let mut raters: BTreeMap<&str, Rater> = BTreeMap::new();
    for (name, passed) in parts.iter().flatten() {
        let rater = raters.entry(name).or_insert_with(|| Rater { name: name.clone(), parts: 0, passed: 0 });
        rater.parts += 1;
        rater.passed += usize::from(*passed);
    }
    let mut raters: Vec<Rater> = raters.into_values().collect();
    raters.sort_by(|a, b| b.parts.cmp(&a.parts).then(a.name.cmp(&b.name)));
    raters.truncate(RATERS_MAX);
    let mut pairs = Vec::new();
    for (at, a) in raters.iter().enumerate() {
        pairs.extend(raters[at + 1..].iter().filter_map(|b| pair(parts, &a.name, &b.name)));
    }
    let people = pairs.iter().filter(|p| p.a != MODEL && p.b != MODEL).max_by_key(|p| p.parts);
    let together = people.and_then(|p| together(parts, &[&p.a, &p.b, MODEL]));
    Study { raters, pairs, together, parts_enough: PARTS_ENOUGH, complete: true }
}

fn pair(parts: &[Ratings], a: &str, b: &str) -> Option<Pair> {
    let both: Vec<(bool, bool)> =
        parts.iter().filter_map(|said| Some((*said.get(a)?, *said.get(b)?))).collect();
    let n = both.len();
    if n == 0 {
        return None;
    }
    let agreed = both.iter().filter(|(a, b)| a == b).count();
    let passes = |of: fn(&(bool, bool)) -> bool| both.iter().filter(|x| of(x)).count() as f64 / n as f64;
    let (of_a, of_b) = (passes(|x| x.0), passes(|x| x.1));
    let share = agreed as f64 / n as f64;
    let kappa = beyond_chance(share, of_a * of_b + (1.0 - of_a) * (1.0 - of_b));
    Some(Pair { a: a.to_owned(), b: b.to_owned(), parts: n, agreed, share, kappa })
}

fn together(parts: &[Ratings], raters: &[&str]) -> Option<Together> {
    let passes = |said: &Ratings| -> Option<usize> {
        raters.iter().map(|name| said.get(*name).map(|passed| usize::from(*passed))).sum()
    };
    let counts: Vec<usize> = parts.iter().filter_map(passes).collect();
    if counts.is_empty() {
        return None;
    }
    let (n, m) = (counts.len() as f64, raters.len() as f64);
    // Of all pairs of raters of a part, those who agree; on the average over the parts.
    let in_pairs = |k: f64| (k * (k - 1.0) + (m - k) * (m - k - 1.0)) / (m * (m - 1.0));
    let observed = counts.iter().map(|k| in_pairs(*k as f64)).sum::<f64>() / n;
    let passed = counts.iter().sum::<usize>() as f64 / (n * m);
    let kappa = beyond_chance(observed, passed * passed + (1.0 - passed) * (1.0 - passed));
    let agreed = counts.iter().filter(|k| **k == 0 || **k == raters.len()).count();
    let raters = raters.iter().map(|name| (*name).to_owned()).collect();
    Some(Together { raters, parts: counts.len(), agreed, kappa })
}

/// `None` where chance alone agrees always.
pub(super) fn beyond_chance(observed: f64, by_chance: f64) -> Option<f64> {
    (by_chance < 1.0 - 1e-12).then(|| (observed - by_chance) / (1.0 - by_chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ratings of parts, one word a part: what each of these raters says of it, p or f, or - for nothing.
    fn parts(raters: &[&str], words: &[(&str, usize)]) -> Vec<Ratings> {
        let one = |word: &str| -> Ratings {
            let said = raters.iter().zip(word.chars()).filter(|(_, c)| *c != '-');
            said.map(|(name, c)| ((*name).to_owned(), c == 'p')).collect()
        };
        words.iter().flat_map(|(word, n)| std::iter::repeat_n(one(word), *n)).collect()
    }

    #[test]
    fn cohens_kappa_is_that_of_the_textbook() {
        // 20 both yes, 15 both no, 5 and 10 apart, of 50: kappa 0.4.
        let all = parts(&["anna", "ben"], &[("pp", 20), ("pf", 5), ("fp", 10), ("ff", 15), ("p-", 7)]);
        let pair = pair(&all, "anna", "ben").expect("parts in common");
        assert_eq!((pair.parts, pair.agreed), (50, 35));
        assert!((pair.share - 0.7).abs() < 1e-12 && (pair.kappa.unwrap() - 0.4).abs() < 1e-12, "{pair:?}");
    }

    #[test]
    fn fleiss_kappa_of_two_raters_is_scotts_pi() {
        // Observed 0.7; passed 55 of 100: by chance 0.55² + 0.45² = 0.505.
        let all = parts(&["anna", "ben"], &[("pp", 20), ("pf", 5), ("fp", 10), ("ff", 15)]);
        let both = together(&all, &["anna", "ben"]).expect("parts in common");
        assert!((both.kappa.unwrap() - (0.7 - 0.505) / 0.495).abs() < 1e-12, "{both:?}");
    }

    #[test]
    fn two_people_and_the_model_are_compared_where_all_have_rated() {
        let all = parts(
            &["anna", "ben", MODEL],
            &[("ppp", 30), ("fff", 20), ("ffp", 5), ("pf-", 4), ("p-p", 9), ("--p", 3)],
        );
        let study = study(&all);
        let together = study.together.expect("two people");
        assert_eq!(together.raters, ["anna", "ben", MODEL]);
        assert_eq!((together.parts, together.agreed), (55, 50));
        // All pairs agree in 50 parts, one of three in 5; passed 95 of 165.
        let (observed, p) = ((50.0 + 5.0 / 3.0) / 55.0, 95.0 / 165.0);
        let chance = p * p + (1.0 - p) * (1.0 - p);
        assert!((together.kappa.unwrap() - (observed - chance) / (1.0 - chance)).abs() < 1e-12);
        let of =
            |a: &str, b: &str| study.pairs.iter().find(|p| p.a == a && p.b == b).expect("the pair").parts;
        assert_eq!(study.raters.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["anna", MODEL, "ben"]);
        assert_eq!((of("anna", "ben"), of("anna", MODEL), of(MODEL, "ben")), (59, 64, 55));
    }

    #[test]
    fn who_always_says_the_same_has_no_kappa() {
        let all = parts(&["anna", MODEL], &[("pp", 40)]);
        let pair = pair(&all, "anna", MODEL).expect("parts in common");
        assert_eq!((pair.share, pair.kappa), (1.0, None));
        assert_eq!(study(&all).together, None, "one person is not two");
        assert_eq!(study(&[]).raters, []);
    }
}
