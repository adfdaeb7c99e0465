//! Recipes: every version's text, the version that is active, and the ledger of what was done to them.
//!
//! ```text
//! a step in the life of a version --one batch, then synced--> recipes/ledger/SEQ            who, when, what, figures
//!                                                             recipes/version/NAME/VERSION  its newest step
//!                                                             recipes/book/NAME             which one is active
//!                                                             recipes/text/NAME/VERSION/N   its file, in pieces
//!                                                             recipes/files/NAME/VERSION    files beside it, by hash
//!                                                             recipes/learned/SHA256/N      such a file, in pieces
//! ```
//!
//! Invariants:
//! - A step and what it changes are one batch: after a crash both are there, or neither.
//! - The text of an active version is kept, with the files beside it that it judges by.
//! - At most [`ENTRIES_MAX`] entries, and [`VERSIONS_MAX`] versions of a pipeline, are kept; the oldest go first.

use super::Store;
use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::images::{hex, sha256};
use super::kv::Batch;
use super::state::seal;
use super::value;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries of the ledger.
pub const ENTRIES_MAX: usize = 4_096;
/// Versions of one pipeline.
pub const VERSIONS_MAX: usize = 64;
/// Characters of a reason.
pub const REASON_CHARS_MAX: usize = 2_000;
/// Parts that an entry names one by one.
pub const PARTS_NAMED_MAX: usize = 50;
/// Bytes of a long value in one row: however JSON escapes them, they stay below the longest value.
const PIECE_BYTES: usize = 600;

/// Bytes of a file beside a recipe in one row.
const FILE_PIECE_BYTES: usize = value::VALUE_BYTES_MAX - value::HEADER_BYTES;

/// Files by their names.
pub type Files = BTreeMap<String, Arc<[u8]>>;

/// A step in the life of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The file has this text.
    Found,
    /// Every key is right, and it fits its cameras.
    Checked,
    /// It was replayed on confirmed parts, and its gate holds.
    Replayed,
    /// Pictures from now on are judged by it.
    Active,
    /// It does not become active, for the reason that is given.
    Refused,
    /// Another model was replayed by the active version, and its gate holds.
    ModelHeld,
    /// It does not, and the model is not accepted.
    ModelRefused,
}

impl Step {
    /// The word in the ledger and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Checked => "checked",
            Self::Replayed => "replayed",
            Self::Active => "active",
            Self::Refused => "refused",
            Self::ModelHeld => "model_held",
            Self::ModelRefused => "model_refused",
        }
    }

    /// It is about a model, and leaves the version as it is.
    const fn is_of_model(self) -> bool {
        matches!(self, Self::ModelHeld | Self::ModelRefused)
    }
}

/// A confirmed part about which two versions differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangedPart {
    /// Id of its inspection.
    pub id: String,
    /// What people decided: pass, fail.
    pub decided: String,
    /// The verdict in its record, and the one by the new version.
    pub was: String,
    /// The verdict by the new version.
    pub now: String,
    /// What the new version found: label and box (x1, y1, x2, y2) in pixels of the picture.
    pub findings: Vec<(String, [f32; 4])>,
}

/// What a replay of confirmed parts gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplayEntry {
    /// Names the sample: the first digits of the sha256 over the ids of its parts, in their order.
    pub sample: String,
    /// Parts that were replayed, and confirmed parts that could not be.
    pub parts: usize,
    /// Confirmed parts that could not be replayed.
    pub left_out: usize,
    /// Those of them whose pictures have another size than the recipe's frames.
    #[serde(default)]
    pub other_size: usize,
    /// sha256 (hex) of the model's text file and vision file.
    pub text_sha256: String,
    /// sha256 (hex) of the model's vision file.
    pub mmproj_sha256: String,
    /// As `replay --json` has them.
    pub figures: serde_json::Value,
    /// Confirmed defective, found by their records, and passed now.
    pub lost: Vec<ChangedPart>,
    /// Confirmed good, passed by their records, and not passed now.
    pub alarms: Vec<ChangedPart>,
    /// How many there are; `lost` names only the first.
    pub lost_count: usize,
    /// How many there are; `alarms` names only the first.
    pub alarms_count: usize,
    /// What of the gate does not hold.
    pub failed: Vec<String>,
    /// How long it took.
    pub ms: u64,
}

/// A part that a person calls good, and the picture of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoodPart {
    /// Id of its inspection.
    pub id: String,
    /// sha256 (hex) of the picture's file.
    pub sha256: String,
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the ledger, from 1.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The version that the entry is about.
    pub version: String,
    /// What was done with it.
    pub step: Step,
    /// Who: a sender of a command, an account, the start, the folder.
    pub by: String,
    /// Why: of a refusal, of an override, of a roll-back; of the first step of what was learned, what its figures are
    /// measured on. Empty where none is needed.
    pub reason: String,
    /// Its gate did not hold, or was not asked: an engineer made it active all the same.
    pub is_override: bool,
    /// What the replay gave; `None` of a step without one.
    pub replay: Option<ReplayEntry>,
    /// The parts of which the first version of a product was made, on the word of `by`; empty of all else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_of: Vec<GoodPart>,
}

/// Where a version stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionState {
    pub(crate) version: String,
    /// Its first and its newest entry in the ledger.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) step: Step,
    pub(crate) at: String,
    pub(crate) by: String,
    /// It was active at some time, so that it may be again without a replay.
    pub(crate) was_active: bool,
}

/// Which version of a pipeline is active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Empty: none yet.
    pub active: String,
    /// The version that the file had when it was last decided about: it is not looked at again.
    pub decided: String,
    /// Its first version was made on this station, so that it needs no file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_made_here: bool,
}

fn version_key(pipeline: &str, version: &str) -> String {
    format!("recipes/version/{pipeline}/{version}")
}

fn text_key(pipeline: &str, version: &str) -> String {
    format!("recipes/text/{pipeline}/{version}")
}

fn book_key(pipeline: &str) -> String {
    format!("recipes/book/{pipeline}")
}

fn entry_key(seq: u64) -> String {
    format!("recipes/ledger/{seq:016x}")
}

fn files_key(pipeline: &str, version: &str) -> String {
    format!("recipes/files/{pipeline}/{version}")
}

fn learned_key(sha256: &str) -> String {
    format!("recipes/learned/{sha256}")
}

/// Adds the files beside a version, each under the hash of its bytes.
fn insert_files(batch: &mut Batch, name: &str, files: &Files) -> Result<(), StoreError> {
    let mut named = vec![];
    for (file, bytes) in files {
        let digest = hex(&sha256(bytes));
        for (n, piece) in bytes.chunks(FILE_PIECE_BYTES).enumerate() {
            let key = format!("{}/{n:06}", learned_key(&digest));
            batch.insert(key.as_bytes(), value::seal(1, piece));
        }
        named.push((file.as_str(), digest));
    }
    if named.is_empty() {
        return Ok(());
    }
    batch.insert(name.as_bytes(), seal(name, &named)?);
    Ok(())
}

/// Adds a long text in pieces.
fn insert_pieces(batch: &mut Batch, name: &str, text: &str) -> Result<(), StoreError> {
    let mut rest = text;
    for n in 0.. {
        let end = (0..=PIECE_BYTES.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
        let (piece, after) = rest.split_at(end);
        let key = format!("{name}/{n:04}");
        batch.insert(key.as_bytes(), seal(&key, &piece)?);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    Ok(())
}

impl Store {
    /// Appends an entry with what it changes, in one step; its `seq` is given here. Durable when it returns.
    ///
    /// # Errors
    /// `DiskFull`: nothing was changed. After any other error stop.
    pub fn append_recipe_step(
        &self,
        mut entry: Entry,
        kept: Option<(&str, &Files)>,
        book: Option<&Book>,
    ) -> Result<Entry, StoreError> {
        self.disk.check()?;
        self.sync.check()?;
        let _one_at_a_time = self.recipes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        entry.seq = self.last_recipe_seq()? + 1;
        let mut batch = Batch::default();
        let json = serde_json::to_string(&entry)
            .map_err(|e| StoreError::BadMeta { reason: format!("an entry about a recipe: {e}") })?;
        insert_pieces(&mut batch, &entry_key(entry.seq), &json)?;
        self.remove_oldest_entry(&mut batch, entry.seq)?;
        if !entry.step.is_of_model() {
            self.insert_version(&mut batch, &entry)?;
        }
        if let Some(book) = book {
            let key = book_key(&entry.pipeline);
            batch.insert(key.as_bytes(), seal(&key, book)?);
        }
        if let Some((text, files)) = kept {
            insert_pieces(&mut batch, &text_key(&entry.pipeline, &entry.version), text)?;
            insert_files(&mut batch, &files_key(&entry.pipeline, &entry.version), files)?;
            self.remove_oldest_version(&mut batch, &entry.pipeline, &entry.version)?;
        }
        self.trees.state.apply(batch).map_err(|e| self.stop_after("keep a step of a recipe", e))?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))?;
        Ok(entry)
    }

    /// Where the version stands after this entry.
    fn insert_version(&self, batch: &mut Batch, entry: &Entry) -> Result<(), StoreError> {
        let key = version_key(&entry.pipeline, &entry.version);
        let former: Option<VersionState> = self.remembered(&key)?;
        let state = VersionState {
            version: entry.version.clone(),
            first: former.as_ref().map_or(entry.seq, |former| former.first),
            last: entry.seq,
            step: entry.step,
            at: entry.at.clone(),
            by: entry.by.clone(),
            was_active: entry.step == Step::Active || former.is_some_and(|former| former.was_active),
        };
        batch.insert(key.as_bytes(), seal(&key, &state)?);
        Ok(())
    }

    /// Keeps which version is active and which was decided about, without an entry. Durable when it returns.
    ///
    /// # Errors
    /// As `remember`.
    pub fn keep_recipe_book(&self, pipeline: &str, book: &Book) -> Result<(), StoreError> {
        self.remember(&book_key(pipeline), book)
    }

    /// Which version of a pipeline is active; `None`: nothing was decided about it yet.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_book(&self, pipeline: &str) -> Result<Option<Book>, StoreError> {
        self.remembered(&book_key(pipeline))
    }

    /// The text of a version.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_text(&self, pipeline: &str, version: &str) -> Result<Option<String>, StoreError> {
        let pieces = self.remembered_under::<String>(&format!("{}/", text_key(pipeline, version)))?;
        Ok((!pieces.is_empty()).then(|| pieces.into_iter().map(|(_, piece)| piece).collect()))
    }

    /// The versions of a pipeline that are kept, the newest first.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_versions(&self, pipeline: &str) -> Result<Vec<VersionState>, StoreError> {
        let found = self.remembered_under::<VersionState>(&format!("recipes/version/{pipeline}/"))?;
        let mut versions: Vec<VersionState> = found.into_iter().map(|(_, state)| state).collect();
        versions.sort_by_key(|state| std::cmp::Reverse(state.last));
        Ok(versions)
    }

    /// The newest entries of the ledger, about one pipeline or about all, the newest first.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_entries(&self, pipeline: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let last = self.last_recipe_seq()?;
        let mut entries = vec![];
        for seq in (last.saturating_sub(ENTRIES_MAX as u64 - 1)..=last).rev() {
            if entries.len() == limit {
                break;
            }
            let Some(entry) = self.recipe_entry(seq)? else { continue };
            if pipeline.is_none_or(|name| entry.pipeline == name) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// One entry of the ledger; `None`: there is none, or it is too old to be kept.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_entry(&self, seq: u64) -> Result<Option<Entry>, StoreError> {
        self.whole(&entry_key(seq))
    }

    fn whole<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let pieces = self.remembered_under::<String>(&format!("{name}/"))?;
        if pieces.is_empty() {
            return Ok(None);
        }
        let text: String = pieces.into_iter().map(|(_, piece)| piece).collect();
        let bad = |e| StoreError::BadMeta { reason: format!("state {name:?}: {e}") };
        serde_json::from_str(&text).map(Some).map_err(bad)
    }

    fn last_recipe_seq(&self) -> Result<u64, StoreError> {
        let last = self.trees.state.under("recipes/ledger/").next_back();
        let Some(row) = last else { return Ok(0) };
        let (key, _) = row.map_err(|e| StoreError::kv("read the ledger of recipes", e))?;
        let digits = key.get("recipes/ledger/".len()..).and_then(|rest| rest.get(..16));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let seq = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        seq.ok_or_else(|| StoreError::BadMeta { reason: format!("state {key:?} is no entry about a recipe") })
    }

    fn remove_oldest_entry(&self, batch: &mut Batch, seq: u64) -> Result<(), StoreError> {
        let Some(oldest) = seq.checked_sub(ENTRIES_MAX as u64) else { return Ok(()) };
        self.remove_under(batch, &format!("{}/", entry_key(oldest)))
    }

    /// Makes room for one more version of the pipeline.
    fn remove_oldest_version(&self, batch: &mut Batch, pipeline: &str, new: &str) -> Result<(), StoreError> {
        let active = self.recipe_book(pipeline)?.unwrap_or_default().active;
        let mut others = self.recipe_versions(pipeline)?;
        others.retain(|state| state.version != new && state.version != active);
        let mut dropped = BTreeSet::new();
        for state in others.iter().skip(VERSIONS_MAX - 2) {
            batch.remove(version_key(pipeline, &state.version).as_bytes());
            batch.remove(files_key(pipeline, &state.version).as_bytes());
            self.remove_under(batch, &format!("{}/", text_key(pipeline, &state.version)))?;
            dropped.insert(files_key(pipeline, &state.version));
        }
        self.remove_unused_files(batch, &dropped)
    }

    /// Removes the files that only dropped versions judged by.
    fn remove_unused_files(&self, batch: &mut Batch, dropped: &BTreeSet<String>) -> Result<(), StoreError> {
        let all = self.remembered_under::<Vec<(String, String)>>("recipes/files/")?;
        let (gone, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| dropped.contains(key));
        let hashes = |rows: Vec<(String, Vec<(String, String)>)>| -> BTreeSet<String> {
            rows.into_iter().flat_map(|(_, files)| files).map(|(_, sha256)| sha256).collect()
        };
        let stay = hashes(stay);
        for sha256 in hashes(gone).difference(&stay) {
            self.remove_under(batch, &format!("{}/", learned_key(sha256)))?;
        }
        Ok(())
    }

    /// The files beside a version that it judges by; one that is damaged is not there.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_files(&self, pipeline: &str, version: &str) -> Result<Files, StoreError> {
        let named: Option<Vec<(String, String)>> = self.remembered(&files_key(pipeline, version))?;
        let mut files = Files::new();
        for (name, digest) in named.unwrap_or_default() {
            let mut bytes = vec![];
            for row in self.trees.state.under(format!("{}/", learned_key(&digest))) {
                let (_, piece) = row.map_err(|e| StoreError::kv("read a file beside a recipe", e))?;
                let bad = |reason| StoreError::BadMeta { reason: format!("file {digest}: {reason}") };
                bytes.extend_from_slice(value::open(&piece).map_err(bad)?.1);
            }
            if hex(&sha256(&bytes)) == digest {
                files.insert(name, bytes.into());
            }
        }
        Ok(files)
    }

    fn remove_under(&self, batch: &mut Batch, prefix: &str) -> Result<(), StoreError> {
        for row in self.trees.state.under(prefix) {
            batch.remove(row.map_err(|e| StoreError::kv("read the values", e))?.0);
        }
        Ok(())
    }

    /// All pipelines about which something was decided, with their books.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn recipe_books(&self) -> Result<BTreeMap<String, Book>, StoreError> {
        let found = self.remembered_under::<Book>("recipes/book/")?;
        Ok(found.into_iter().map(|(key, book)| (key["recipes/book/".len()..].to_owned(), book)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn entry(version: &str, step: Step) -> Entry {
        Entry {
            seq: 0,
            at: "2026-11-29T00:00:00Z".into(),
            pipeline: "plate".into(),
            version: version.into(),
            step,
            by: "test".into(),
            reason: String::new(),
            is_override: false,
            replay: None,
            made_of: vec![],
        }
    }

    #[test]
    fn a_step_keeps_its_text_its_version_and_the_book_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        let text: String = "prüfen \"\\\n".repeat(2_000);
        let book = Book { active: "a".into(), decided: "a".into(), ..Book::default() };
        store.append_recipe_step(entry("a", Step::Found), Some((&text, &Files::new())), None).unwrap();
        store.append_recipe_step(entry("a", Step::Active), None, Some(&book)).unwrap();
        store.append_recipe_step(entry("b", Step::Refused), Some(("b", &Files::new())), None).unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.recipe_text("plate", "a").unwrap().as_deref(), Some(text.as_str()));
        assert_eq!(store.recipe_text("plate", "c").unwrap(), None);
        assert_eq!(store.recipe_book("plate").unwrap(), Some(book.clone()));
        assert_eq!(store.recipe_books().unwrap(), [("plate".to_owned(), book)].into());
        let steps: Vec<_> = store.recipe_entries(Some("plate"), 9).unwrap();
        let steps: Vec<_> = steps.iter().map(|e| (e.seq, e.version.as_str(), e.step)).collect();
        assert_eq!(steps, [(3, "b", Step::Refused), (2, "a", Step::Active), (1, "a", Step::Found)]);
        assert!(store.recipe_entries(Some("other"), 9).unwrap().is_empty());
        let versions = store.recipe_versions("plate").unwrap();
        assert_eq!((versions[0].version.as_str(), versions[0].was_active), ("b", false));
        assert_eq!((versions[1].version.as_str(), versions[1].first, versions[1].last), ("a", 1, 2));
        assert!(versions[1].was_active);
    }

    #[test]
    fn the_oldest_versions_go_and_the_active_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let book = Book { active: "first".into(), decided: "first".into(), ..Book::default() };
        store
            .append_recipe_step(entry("first", Step::Active), Some(("first", &Files::new())), Some(&book))
            .unwrap();
        for n in 0..VERSIONS_MAX + 3 {
            store
                .append_recipe_step(entry(&n.to_string(), Step::Refused), Some(("text", &Files::new())), None)
                .unwrap();
        }
        assert_eq!(store.recipe_versions("plate").unwrap().len(), VERSIONS_MAX);
        assert!(store.recipe_text("plate", "first").unwrap().is_some(), "the active one");
        assert!(store.recipe_text("plate", "0").unwrap().is_none(), "the oldest");
        let newest = (VERSIONS_MAX + 2).to_string();
        assert!(store.recipe_text("plate", &newest).unwrap().is_some(), "the newest");
    }

    #[test]
    fn long_entries_come_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let part = ChangedPart {
            id: "01J".into(),
            decided: "fail".into(),
            was: "fail".into(),
            now: "pass".into(),
            findings: vec![("scratch".into(), [1.0, 2.0, 3.5, 4.0]); 20],
        };
        let replay = ReplayEntry { lost: vec![part; PARTS_NAMED_MAX], ..ReplayEntry::default() };
        let sent = Entry { replay: Some(replay), ..entry("a", Step::Refused) };
        let kept = store.append_recipe_step(sent, None, None).unwrap();
        assert_eq!(store.recipe_entry(kept.seq).unwrap(), Some(kept));
    }
}
