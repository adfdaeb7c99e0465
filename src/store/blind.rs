//! Blind studies: parts of the archive that people decide about without seeing what the model or anybody else has said.
//!
//! ```text
//! an engineer --the parts--> state: blind/{study}/study             which parts, and what the model had said of each
//! a person, a round --------> state: blind/{study}/{round}/{name}   a sheet: a letter for each part
//! ```
//!
//! What is said in a study is no review: it stands in no ledger, nothing of it is published, and what is decided about
//! the part stays as it is. A part that retention has removed stays in its study, with what was said of it.
//!
//! Invariants:
//! - What somebody has said stays as it was first said.
//! - The parts of a study never change, so that a letter of a sheet means one part for ever.

use super::Store;
use super::error::StoreError;
use crate::domain::review::Decided;
use serde::{Deserialize, Serialize};

/// Parts of one study: as many fit into one value of the store.
pub(crate) const PARTS_MAX: usize = 100;
/// Rounds of one person; from the second one on his own word is compared with his own.
pub(crate) const ROUNDS_MAX: u8 = 3;
const PREFIX: &str = "blind/";

/// A study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Study {
    /// ULID.
    pub id: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who started it.
    pub by: String,
    pub parts: Vec<StudyPart>,
}

/// A part of a study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StudyPart {
    /// ULID.
    pub inspection_id: String,
    /// What the model said; `None`: it sent the part to review.
    pub model: Option<Decided>,
}

/// What one person has said in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    pub rater: String,
    /// From 1.
    pub round: u8,
    /// In the order of the study's parts; `None`: not yet.
    pub said: Vec<Option<Decided>>,
}

#[derive(Serialize, Deserialize)]
struct StudyV1 {
    at: String,
    by: String,
    parts: Vec<String>,
    /// As of a sheet.
    model: String,
}

#[derive(Serialize, Deserialize)]
struct SheetV1 {
    /// A letter for each part: p, f, or - for nothing.
    said: String,
}

fn letters(said: impl Iterator<Item = Option<Decided>>) -> String {
    let letter = |one| match one {
        Some(Decided::Pass) => 'p',
        Some(Decided::Fail) => 'f',
        None => '-',
    };
    said.map(letter).collect()
}

fn words(letters: &str) -> Vec<Option<Decided>> {
    let word = |letter| match letter {
        'p' => Some(Decided::Pass),
        'f' => Some(Decided::Fail),
        _ => None,
    };
    letters.chars().map(word).collect()
}

impl StudyV1 {
    fn into_study(self, id: String) -> Study {
        let Self { at, by, parts, model } = self;
        let parts = parts.into_iter().zip(words(&model));
        let parts = parts.map(|(inspection_id, model)| StudyPart { inspection_id, model }).collect();
        Study { id, at, by, parts }
    }
}

fn study_name(id: &str) -> String {
    format!("{PREFIX}{id}/study")
}

fn sheet_name(study: &str, round: u8, rater: &str) -> String {
    format!("{PREFIX}{study}/{round}/{rater}")
}

impl Store {
    /// Keeps a new study.
    ///
    /// # Errors
    /// [`StoreError`], `BadMeta` with more than `PARTS_MAX` parts; so for all of these.
    pub(crate) fn keep_study(&self, study: &Study) -> Result<(), StoreError> {
        let value = StudyV1 {
            at: study.at.clone(),
            by: study.by.clone(),
            parts: study.parts.iter().map(|part| part.inspection_id.clone()).collect(),
            model: letters(study.parts.iter().map(|part| part.model)),
        };
        self.remember(&study_name(&study.id), &value)
    }

    /// The study with this id.
    pub(crate) fn study(&self, id: &str) -> Result<Option<Study>, StoreError> {
        let found: Option<StudyV1> = self.remembered(&study_name(id))?;
        Ok(found.map(|study| study.into_study(id.to_owned())))
    }

    /// Ids of all studies, the newest first.
    pub(crate) fn study_ids(&self) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::new();
        for name in self.remembered_names(PREFIX)? {
            let id = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix("/study"));
            ids.extend(id.map(str::to_owned));
        }
        ids.reverse();
        Ok(ids)
    }

    /// All sheets of a study, round by round.
    pub(crate) fn sheets(&self, study: &str) -> Result<Vec<Sheet>, StoreError> {
        let mut sheets = Vec::new();
        for round in 1..=ROUNDS_MAX {
            let prefix = sheet_name(study, round, "");
            for (name, SheetV1 { said }) in self.remembered_under(&prefix)? {
                let rater = name.strip_prefix(&prefix).unwrap_or_default().to_owned();
                sheets.push(Sheet { rater, round, said: words(&said) });
            }
        }
        Ok(sheets)
    }

    /// Keeps a sheet instead of the former one of the same person and round.
    pub(crate) fn keep_sheet(&self, study: &str, sheet: &Sheet) -> Result<(), StoreError> {
        let value = SheetV1 { said: letters(sheet.said.iter().copied()) };
        self.remember(&sheet_name(study, sheet.round, &sheet.rater), &value)
    }

    /// Removes a study and its sheets; false when there is none.
    pub(crate) fn remove_study(&self, id: &str) -> Result<bool, StoreError> {
        if self.study(id)?.is_none() {
            return Ok(false);
        }
        let sheets = self.sheets(id)?;
        let names: Vec<String> =
            sheets.iter().map(|sheet| sheet_name(id, sheet.round, &sheet.rater)).collect();
        self.forget_later(names.iter().map(String::as_str))?;
        self.forget(&study_name(id))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn study(n: u64, parts: usize) -> Study {
        let id = |n: u64| ulid::Ulid::from_parts(1_700_000_000_000 + n, u128::from(n)).to_string();
        let words = [Some(Decided::Pass), Some(Decided::Fail), None];
        let part = |at: usize| StudyPart { inspection_id: id(at as u64), model: words[at % 3] };
        Study {
            id: id(n),
            at: "2026-01-01T00:00:00.000Z".into(),
            by: "e".repeat(40),
            parts: (0..parts).map(part).collect(),
        }
    }

    #[test]
    fn a_study_and_what_was_said_in_it_are_there_again_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        let (old, large) = (study(1, 3), study(2, PARTS_MAX));
        store.keep_study(&old).unwrap();
        store.keep_study(&large).unwrap();
        assert!(store.keep_study(&study(3, 2 * PARTS_MAX)).is_err(), "it is no silent loss");
        let sheet = |rater: &str, round, said: &[Option<Decided>]| Sheet {
            rater: rater.into(),
            round,
            said: said.to_vec(),
        };
        let first = sheet("anna", 1, &[Some(Decided::Fail), None, None]);
        let more = sheet("anna", 1, &[Some(Decided::Fail), None, Some(Decided::Pass)]);
        let again = sheet("anna", 2, &[None, None, None]);
        let other = sheet("ben", 1, &[None, Some(Decided::Pass), None]);
        for one in [&first, &other, &again, &more] {
            store.keep_sheet(&old.id, one).unwrap();
        }
        drop(store);
        let store = open();
        assert_eq!(store.study_ids().unwrap(), [large.id.as_str(), old.id.as_str()], "the newest first");
        assert_eq!(store.study(&large.id).unwrap(), Some(large.clone()));
        assert_eq!(store.sheets(&old.id).unwrap(), [more, other, again]);
        assert_eq!(store.sheets(&large.id).unwrap(), []);
        assert!(store.remove_study(&old.id).unwrap());
        assert!(!store.remove_study(&old.id).unwrap());
        assert_eq!((store.study(&old.id).unwrap(), store.sheets(&old.id).unwrap()), (None, vec![]));
        assert_eq!(store.study_ids().unwrap(), [large.id]);
    }
}
