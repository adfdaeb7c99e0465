//! What a salvaged store says of itself: when it was made of a damaged one, and which numbers were lost.
//!
//! ```text
//! state: salvaged/note, salvaged/inspections/000, salvaged/reviews/000 …     (runs of numbers, some to a value)
//! ```
//!
//! `verify` counts these numbers as gaps for as long as they are kept, and does not take them for new damage.

use super::error::StoreError;
use super::{Store, value};
use serde::{Deserialize, Serialize};

/// Names of the rows in `state`.
pub(super) const STATE_PREFIX: &str = "salvaged/";
/// Runs in one value: far below its limit of length.
const RUNS_PER_ROW: usize = 64;

/// What is noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// RFC 3339.
    pub at: String,
    /// The directory of the damaged store.
    pub from: String,
    /// Runs of lost numbers: first and last.
    pub inspections: Vec<(u64, u64)>,
    pub reviews: Vec<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct NoteV1 {
    at: String,
    from: String,
}

fn seal<T: Serialize>(wire: &T) -> Vec<u8> {
    value::seal(1, &serde_json::to_vec(wire).expect("numbers and strings always serialise"))
}

impl Salvaged {
    /// Names and values of the rows in `state`.
    pub(super) fn rows(&self) -> Vec<(String, Vec<u8>)> {
        // A path may be long; what is noted of it is for people.
        let from = self.from.chars().take(500).collect();
        let mut rows = vec![(format!("{STATE_PREFIX}note"), seal(&NoteV1 { at: self.at.clone(), from }))];
        for (name, runs) in [("inspections", &self.inspections), ("reviews", &self.reviews)] {
            for (i, runs) in runs.chunks(RUNS_PER_ROW).enumerate() {
                rows.push((format!("{STATE_PREFIX}{name}/{i:06}"), seal(&runs)));
            }
        }
        rows
    }

    /// True when all of these numbers were lost.
    pub(super) fn covers(runs: &[(u64, u64)], from: u64, to: u64) -> bool {
        runs.iter().any(|(a, b)| *a <= from && to <= *b)
    }
}

impl Store {
    /// What is noted, where the store was made of a damaged one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn salvaged(&self) -> Result<Option<Salvaged>, StoreError> {
        let note: Option<NoteV1> = self.remembered(&format!("{STATE_PREFIX}note"))?;
        let Some(NoteV1 { at, from }) = note else { return Ok(None) };
        let runs = |name: &str| -> Result<Vec<(u64, u64)>, StoreError> {
            let rows = self.remembered_under::<Vec<(u64, u64)>>(&format!("{STATE_PREFIX}{name}/"))?;
            Ok(rows.into_iter().flat_map(|(_, runs)| runs).collect())
        };
        Ok(Some(Salvaged { at, from, inspections: runs("inspections")?, reviews: runs("reviews")? }))
    }
}
