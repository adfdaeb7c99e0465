//! The proof of both ledgers as one answer for machines: what `inspectd verify --json` prints and HTTP answers.
//!
//! The head hash is that of the newest entry. Whoever notes it elsewhere has noted all that lies before it: an edit of
//! any entry changes every hash after it.

use super::Store;
use super::error::StoreError;
use super::ledger::Verified;
use serde_json::{Value, json};

impl Store {
    /// Proves the ledgers of inspections and of reviews, as [`Store::verify`] does. `go_on` is told of which ledger how
    /// many entries are proven, and of how many.
    ///
    /// # Errors
    /// As [`Store::verify_while`].
    pub(crate) fn audit(
        &self,
        go_on: &mut dyn FnMut(&'static str, u64, u64) -> bool,
    ) -> Result<Value, StoreError> {
        let records = self.verify_while(&mut |done, total| go_on("ledger", done, total))?;
        let reviews = self.verify_reviews_while(&mut |done, total| go_on("decisions", done, total))?;
        let mut summary = chain("inspections", &records);
        summary["reviews"] = chain("entries", &reviews);
        if let Some(salvaged) = self.salvaged()? {
            summary["salvaged"] = json!(salvaged);
        }
        Ok(summary)
    }
}

/// What was found of one ledger; `count` names its entries.
fn chain(count: &str, found: &Verified) -> Value {
    let mut chain = json!({
        "first_seq": found.first_seq,
        "last_seq": found.last_seq,
        "head_hash": found.head_hash,
        "gaps": found.gaps,
        "broken_at": found.broken_at,
        "reason": found.reason,
        "broken_after": found.broken_after,
    });
    chain[count] = json!(found.inspections);
    chain
}

/// Whether an answer says that nothing is wrong: of the ledgers and, where they were proven, of the pictures.
pub(crate) fn is_whole(found: &Value) -> bool {
    let chain = |c: &Value| c["broken_at"].is_null() && c["gaps"] == 0;
    let pictures = found["pictures"]["bad"].as_u64().unwrap_or(0);
    chain(found) && chain(&found["reviews"]) && pictures == 0
}
