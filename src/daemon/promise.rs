//! The station's own decisions as ground for a promise: what the active recipe made of parts that people decided about.
//!
//! ```text
//! ledger of recipes --> since when versions judge that judge alike
//! decided parts since, of the newest part's model --Case--> known --even_out--> as the line brings them --calibrate--> page
//!                                                              '--evidence against the stated promise--> watch
//! ```
//!
//! Invariants:
//! - Only parts count that were judged as the active recipe judges, but for the limits on the score: another question,
//!   grade, bank or model makes other scores.
//! - What is proven is proven on both kinds of parts as they come. Evidence against a promise needs no such care: people
//!   know fewer of the escapes than there are.

use crate::domain::inspection::ModelRef;
use crate::domain::pipeline::Pipeline;
use crate::domain::promise::{Calibration, Decisions, Ground, PromiseRule, Proven, Thresholds, Wanted};
use crate::domain::review::Decided;
use crate::evaluate::binomial::evidence;
use crate::evaluate::calibrate::{Case, calibrate, even_out, outcomes};
use crate::recipe::edited::Limits;
use crate::recipe::registry::Recipe;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::query::{Filter, unix_ms};
use crate::store::recipes::Step;
use crate::store::record::parse_rfc3339;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Decided parts that are looked through, the newest: reading one takes some tens of microseconds.
const STATES_MAX: usize = 20_000;
/// Entries of the ledger of recipes that are looked through.
const ENTRIES_MAX: usize = 1_000;

/// A decided part.
struct Known {
    /// Of its inspection.
    id: String,
    had_passed: bool,
    /// `None`: it was not judged.
    case: Option<Case>,
}

/// The decided parts of an active recipe.
pub(super) struct Confirmed {
    known: Vec<Known>,
    ground: Ground,
}

/// What is stated, and what speaks against it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Checked {
    pub promise: PromiseRule,
    /// Decided defective parts.
    pub defective: usize,
    /// Those of them that pass.
    pub escaped: usize,
    /// It does not hold, with the confidence of the promise, however often it is looked at.
    pub is_broken: bool,
}

impl Confirmed {
    /// The decided parts of an active recipe.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read; a record that does not read is left out.
    pub(super) fn of(store: &Store, pipeline: &Pipeline) -> Result<Self, StoreError> {
        let since = judges_since(store, pipeline)?;
        let model = newest_model(store, pipeline)?;
        let (mut known, mut oldest) = (vec![], None);
        let mut alike = BTreeMap::<String, bool>::new();
        let (mut passed, mut others) = (Decisions::default(), Decisions::default());
        for (seq, state) in store.newest_review_states(STATES_MAX)? {
            let Some(verdict) = state.verdict.filter(|_| state.effective.is_some()) else { continue };
            let inspection = match store.get(seq) {
                Ok(Some(stored)) => stored.inspection,
                Ok(None) | Err(StoreError::BadRecord { .. }) => continue,
                Err(error) => return Err(error),
            };
            let is_of_it = inspection.pipeline == pipeline.name
                && since.is_none_or(|since| inspection.finished_at >= since)
                && model.as_ref().is_none_or(|model| inspection.model == *model);
            if !is_of_it {
                continue;
            }
            let version = &inspection.pipeline_version;
            let judges_alike = match alike.get(version) {
                Some(known) => *known,
                None => is_alike(store, pipeline, version)?,
            };
            alike.insert(version.clone(), judges_alike);
            if !judges_alike {
                continue;
            }
            let had_passed = inspection.verdict.as_str() == "pass";
            let kind = if had_passed { &mut passed } else { &mut others };
            kind.decided += 1;
            oldest = Some(oldest.map_or(inspection.finished_at, |at| inspection.finished_at.min(at)));
            let case = Case::of(&inspection, &pipeline.verdict, verdict == Decided::Fail);
            known.push(Known { id: inspection.id, had_passed, case });
        }
        if let Some(from) = since.or(oldest) {
            let from_ms = Some(unix_ms(from));
            let filter = Filter { pipeline: Some(pipeline.name.clone()), from_ms, ..Filter::default() };
            store.scan(&filter, |_, row, _| match row.verdict {
                0 => passed.inspected += 1,
                1 | 2 => others.inspected += 1,
                _ => {}
            })?;
        }
        let version = pipeline.version.clone();
        Ok(Self { known, ground: Ground { version, passed, others, thinned: 0, since: oldest } })
    }

    /// What they prove of the active recipe.
    pub(super) fn prove(self, pipeline: &Pipeline, wanted: Wanted) -> Proven {
        let Self { known, mut ground } = self;
        let before = known.len();
        let even = even_out(known, ground.passed, ground.others, |one| (one.id.as_str(), one.had_passed));
        ground.thinned = before - even.len();
        let cases: Vec<Case> = even.iter().filter_map(|one| one.case).collect();
        let calibration = calibrate(&cases, even.len() - cases.len(), wanted);
        let toml = lines(&calibration);
        Proven { calibration, ground, toml, stated: pipeline.promise }
    }

    /// What they say of the promise that the recipe states; `None`: it states none.
    pub(super) fn check(&self, pipeline: &Pipeline) -> Option<Checked> {
        let promise = pipeline.promise?;
        let rule = &pipeline.verdict;
        let limits = Thresholds {
            review_above: rule.review_above_score.unwrap_or(1.0),
            fail_above: rule.fail_above_score,
        };
        let defective = self.known.iter().filter_map(|one| one.case.as_ref()).filter(|case| case.defective);
        let found = outcomes(defective, &limits);
        let (escaped, all) = (found.pass, found.parts());
        let least = -(1.0 - promise.confidence).ln();
        let is_broken = evidence(escaped, all, promise.escape) >= least;
        Some(Checked { promise, defective: all, escaped, is_broken })
    }
}

fn lines(calibration: &Calibration) -> String {
    let promise = calibration.wanted.promise;
    calibration.thresholds.map_or_else(String::new, |thresholds| Limits { thresholds, promise }.lines())
}

/// Since when versions judge that judge as the active one does; `None`: the ledger does not say.
pub(super) fn judges_since(store: &Store, pipeline: &Pipeline) -> Result<Option<SystemTime>, StoreError> {
    let mut since = None;
    for entry in store.recipe_entries(Some(&pipeline.name), ENTRIES_MAX)? {
        if entry.step != Step::Active {
            continue;
        }
        if !is_alike(store, pipeline, &entry.version)? {
            break;
        }
        since = parse_rfc3339(&entry.at).ok();
    }
    Ok(since)
}

/// Whether a version judges as the active one does.
fn is_alike(store: &Store, pipeline: &Pipeline, version: &str) -> Result<bool, StoreError> {
    if version == pipeline.version {
        return Ok(true);
    }
    let Some(text) = store.recipe_text(&pipeline.name, version)? else { return Ok(false) };
    let files = store.recipe_files(&pipeline.name, version)?;
    Ok(Recipe::read(&pipeline.name, &text, files).is_ok_and(|recipe| recipe.pipeline.judges_like(pipeline)))
}

/// The model that judged the newest part.
fn newest_model(store: &Store, pipeline: &Pipeline) -> Result<Option<ModelRef>, StoreError> {
    let filter = Filter { pipeline: Some(pipeline.name.clone()), ..Filter::default() };
    let newest = store.find(&filter, None, 0, 1)?.seqs.first().copied();
    match newest.map(|seq| store.get(seq)) {
        Some(Err(error)) if !matches!(error, StoreError::BadRecord { .. }) => Err(error),
        Some(Ok(stored)) => Ok(stored.map(|stored| stored.inspection.model)),
        _ => Ok(None),
    }
}

#[cfg(test)]
#[path = "promise_tests.rs"]
pub(super) mod tests;
