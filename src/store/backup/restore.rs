//! A store from a backup.
//!
//! ```text
//! manifest --runs, oldest first, each proven--> rows --> a new store --> proven, every picture --> accepted
//! ```
//!
//! All of the ledgers is restored that hangs together up to the last run; of what changes, the last run's. A store
//! that was restored may publish again what was acknowledged after the backup: same ids, same bytes. What was
//! stored after it is not there, and its sequence numbers are given again.

use super::build::{Builder, Ledger};
use super::keep::{UNFINISHED, Wanted, prove_run, read_run, wanted};
use super::take::{RESULTS, REVIEWS};
use super::{BackupError, Copied, FLAWS_NAMED, Flawed, Manifest, Run, Since, file_below};
use crate::store::error::StoreError;
use crate::store::images::unhex;
use crate::store::outbox::log::LOG;
use crate::store::{Store, StoreOptions};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// State that says how far something is in the old store, and nothing about the new one.
pub(super) const STATE_LEFT_OUT: &[u8] = b"verify/";

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// When the last run of the backup was taken.
    pub at: String,
    pub inspections: u64,
    pub first_seq: Option<u64>,
    pub last_seq: u64,
    pub reviews: u64,
    pub files: u64,
    /// Messages that will be published when the station starts.
    pub owed: u64,
    /// A run after the last finished one was cut off; it is not in the store.
    pub unfinished_run: bool,
    /// Older inspections that the backup holds, and that do not hang together with the others: up to this one.
    pub left_out_through: Option<u64>,
    /// Files that the backup does not hold, or not as they were.
    pub flaws: u64,
    pub named: Vec<Flawed>,
    /// Where the chains of inspections and of reviews do not hold, as they did not in the store.
    pub broken: Vec<Flawed>,
}

/// From where on the last run's ledgers hang together.
fn connected(runs: &[Run]) -> (u64, u64) {
    let (mut results, mut reviews) = (0, 0);
    for pair in runs.windows(2) {
        let gap = |before: u64, from: u64| before > 0 && before + 1 < from;
        if gap(pair[0].inspections.through, pair[1].inspections.from) {
            results = pair[1].inspections.from;
        }
        if gap(pair[0].reviews.through, pair[1].reviews.from) {
            reviews = pair[1].reviews.from;
        }
    }
    (results, reviews)
}

/// Makes a store in `to` from the backup in `from`; `step` is told each record, and of how many.
///
/// # Errors
/// [`BackupError`]: there is no finished backup, it is damaged, the target is not empty, or it cannot be written. The
/// target is then marked as unfinished.
pub(crate) fn restore(
    from: &Path,
    to: &Path,
    step: &mut dyn FnMut(u64, u64),
) -> Result<Restored, BackupError> {
    let Some(Manifest { runs, .. }) = Manifest::load(from)? else {
        let begun = from.join(UNFINISHED).exists();
        let reason = if begun { "its first backup was never finished" } else { "there is no backup" };
        return Err(BackupError::bad(from, reason));
    };
    let Some(last) = runs.last() else { return Err(BackupError::bad(from, "it holds no run")) };
    let mut since = Since::default();
    for run in &runs {
        prove_run(from, run, &since)?;
        since = Since {
            inspections: run.inspections.clone(),
            reviews: run.reviews.clone(),
            open_parts: Vec::new(),
        };
    }
    let mut restored = Restored {
        at: last.at.clone(),
        unfinished_run: from.join(UNFINISHED).exists(),
        ..Restored::default()
    };
    let (results_from, reviews_from) = connected(&runs);
    restored.left_out_through = results_from.checked_sub(1);
    let mut builder = Builder::create(to)?;
    let (mut results, mut reviews) = (Ledger::default(), Ledger::default());
    let total = (last.inspections.through + 1).saturating_sub(runs[0].inspections.from.max(results_from));
    for (i, run) in runs.iter().enumerate() {
        let is_last = i + 1 == runs.len();
        read_run(from, run, |row| {
            let seq = row.key.as_slice().try_into().map_or(0, u64::from_be_bytes);
            match row.tree.as_str() {
                RESULTS if seq >= results_from => {
                    take(builder.record(seq, &row.value, &mut results), &mut restored)?;
                    restored.inspections += 1;
                    step(restored.inspections, total);
                }
                REVIEWS if seq >= reviews_from => {
                    take(builder.review(seq, &row.value, &mut reviews), &mut restored)?;
                    restored.reviews += 1;
                }
                RESULTS | REVIEWS => return Ok(()),
                "state" if row.key.starts_with(STATE_LEFT_OUT) => return Ok(()),
                "parts" => builder.row("parts", &row.key, &row.value)?,
                tree if is_last => {
                    restored.owed += u64::from([LOG, "outbox", "reviews_owed", "parts_owed"].contains(&tree));
                    builder.row(tree, &row.key, &row.value)?;
                }
                _ => return Ok(()),
            }
            let files = wanted(&row).map_err(|reason| BackupError::bad(from, reason))?;
            files.iter().try_for_each(|file| bring(from, &builder, file, &mut restored))
        })?;
    }
    let chains = (results.chain(last.inspections.through), reviews.chain(last.reviews.through));
    (restored.first_seq, restored.last_seq) = (results.first, chains.0.last_seq);
    let unproven = builder.finish(&chains.0, &chains.1)?;
    restored.broken = prove(&unproven.dir)?;
    unproven.accept()?;
    Ok(restored)
}

/// An entry that the store itself could not read is restored as it is, and named.
fn take(outcome: Result<(), BackupError>, restored: &mut Restored) -> Result<(), BackupError> {
    match outcome {
        Err(BackupError::Store(StoreError::BadRecord { seq, reason })) => {
            restored.flaws += 1;
            restored.named.push(Flawed { seq, what: reason });
            Ok(())
        }
        outcome => outcome,
    }
}

fn bring(from: &Path, builder: &Builder, file: &Wanted, restored: &mut Restored) -> Result<(), BackupError> {
    let Some(digest) = unhex(&file.sha256) else { return Ok(()) };
    let mut state = Copied::Missing;
    for extension in file.extensions {
        let source = file_below(from, file.folder, &digest, extension);
        state = builder.file(&source, file.folder, &digest, extension)?;
        if state != Copied::Missing {
            break;
        }
    }
    if let Copied::Whole(_) = state {
        restored.files += 1;
        return Ok(());
    }
    restored.flaws += 1;
    if restored.named.len() < FLAWS_NAMED {
        let how = if state == Copied::Missing { "missing" } else { "wrong" };
        restored
            .named
            .push(Flawed { seq: file.seq, what: format!("its {} is {how} ({})", file.what, file.sha256) });
    }
    Ok(())
}

/// Proves the ledgers of a new store as `verify` does; where they do not hold.
pub(super) fn prove(dir: &Path) -> Result<Vec<Flawed>, BackupError> {
    let options = StoreOptions { compact_above_bytes: u64::MAX, ..StoreOptions::default() };
    let store = Store::open_unfinished(dir, options)?;
    let mut broken = Vec::new();
    for (ledger, found) in [("inspections", store.verify()?), ("reviews", store.verify_reviews()?)] {
        if let Some(seq) = found.broken_at {
            let what = format!("the chain of {ledger}: {}", found.reason.unwrap_or_default());
            broken.push(Flawed { seq, what });
        }
    }
    Ok(broken)
}
