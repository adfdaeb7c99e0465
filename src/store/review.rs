//! Reviews: what people decided about inspections, as a ledger of its own beside that of the inspections.
//!
//! ```text
//! review, undo --> one entry: who, when, what, why, which entry it supersedes, which record it is about
//!                  reviews + reviewed + reviews_by + the outbox's log + meta, one transaction
//!                  flushed and synced like a commit, and only then published
//!
//! zeros <-- 1 <-- 2 <-- 3 <-- … <-- last           meta `reviews`: last_seq, last_hash
//!           |     |     '- undo: supersedes 2, restores 1
//!           |     '- override: supersedes 1
//!           '- confirm of inspection 7 (names the sha256 of its record)
//! ```
//!
//! Invariants:
//! - An entry is never changed nor deleted while its inspection is kept; taking back is a new entry.
//! - A decision that was made on an outdated view is refused: `based_on` is the last entry seen.
//! - An entry is owed to each sink until that has acknowledged its message.

mod kept;

use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::images::{Digest, hex, sha256, unhex};
use super::kv::{Db, Transaction, Tree};
use super::ledger::Chain;
use super::outbox::{Kind, Owed};
use super::review_record::Draft;
use super::{Flush, Store, id_key, key_of, open_seq, seal_seq, value};
use crate::domain::review::{Decided, Decision, PictureFault, Review, ReviewKind};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

pub(super) const CHAIN_KEY: &[u8] = b"reviews";

/// Longest reason and note, in characters, and most boxes and lines of one entry.
pub(crate) const REASON_CHARS_MAX: usize = 500;
pub(crate) const NOTE_CHARS_MAX: usize = 1000;
pub(crate) const FINDINGS_MAX: usize = 500;
pub(crate) const TEXTS_MAX: usize = 100;

/// Marks, in the tree of files, a file that a review refers to: sequence numbers of inspections are
/// far below it.
pub(super) const REVIEW_FILE: u64 = 1 << 63;

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("there is no inspection {id}")]
    NoInspection { id: String },
    /// Somebody decided meanwhile; `last` is the newest entry about this inspection.
    #[error("inspection {id} was decided meanwhile: its newest entry is {last}")]
    Changed { id: String, last: u64 },
    /// Nobody can have looked at it.
    #[error("the picture of inspection {id} is {}: a decision about it must say that it is made without it", fault.as_str())]
    Picture { id: String, fault: PictureFault },
    #[error("nothing is decided about inspection {id}, so nothing can be taken back")]
    NothingToUndo { id: String },
    #[error("{what}")]
    Invalid { what: String },
    #[error(transparent)]
    Store {
        #[from]
        source: StoreError,
    },
}

/// Where the reviews of one inspection stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReviewState {
    /// The newest entry.
    pub last: u64,
    /// The entry in force; `None` when everything was taken back.
    pub effective: Option<u64>,
    pub verdict: Option<Decided>,
}

#[derive(Serialize, Deserialize)]
struct ReviewStateV1 {
    last: u64,
    effective: Option<u64>,
    verdict: Option<String>,
}

/// The trees of reviews.
pub(super) struct ReviewTrees {
    /// review seq -> entry
    pub reviews: Tree,
    /// inspection seq -> review state
    pub reviewed: Tree,
    /// inspection seq, review seq -> nothing
    pub by_inspection: Tree,
}

impl ReviewTrees {
    pub(super) fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = |name: &str| db.tree(name).map_err(|e| StoreError::kv("open a tree", e));
        Ok(Self {
            reviews: tree("reviews")?,
            reviewed: tree("reviewed")?,
            by_inspection: tree("reviews_by")?,
        })
    }
}

/// The end of the chain, and who is told when it grows.
pub(super) struct Reviews {
    pub chain: Mutex<Chain>,
    /// The highest entry that is on the disk.
    pub durable: tokio::sync::watch::Sender<u64>,
}

impl Reviews {
    /// What was recovered is durable: `open` syncs before anybody reads.
    pub(super) fn load(trees: &super::Trees) -> Result<Self, StoreError> {
        let chain = Chain::load_from(&trees.meta, &trees.review.reviews, CHAIN_KEY)?;
        let durable = tokio::sync::watch::channel(chain.last_seq).0;
        Ok(Self { chain: Mutex::new(chain), durable })
    }

    /// The newest entry that is on the disk; 0: none.
    pub(super) fn last_seq(&self) -> u64 {
        *self.durable.borrow()
    }
}

/// The subject of a new entry.
struct Subject {
    id: String,
    seq: u64,
    record: Digest,
    model_verdict: &'static str,
    review_state: Option<ReviewState>,
}

impl Store {
    /// Appends a decision about an inspection and waits until it is on the disk. `based_on` is the
    /// newest entry about it that the actor has seen.
    ///
    /// # Errors
    /// [`ReviewError`]; after any `Store` error other than `Unstorable` stop.
    pub fn review(
        &self,
        id: &str,
        actor: &str,
        decision: Decision,
        based_on: Option<u64>,
    ) -> Result<Review, ReviewError> {
        let (review, flush) = self.append_decision(id, actor, &decision, based_on, false)?;
        self.finish_reviews(std::slice::from_ref(&review), flush)?;
        Ok(review)
    }

    /// As `review`, also where the picture is missing or wrong: the entry keeps that.
    ///
    /// # Errors
    /// As `review`, but `Picture`.
    pub fn review_without_picture(
        &self,
        id: &str,
        actor: &str,
        decision: Decision,
        based_on: Option<u64>,
    ) -> Result<Review, ReviewError> {
        let (review, flush) = self.append_decision(id, actor, &decision, based_on, true)?;
        self.finish_reviews(std::slice::from_ref(&review), flush)?;
        Ok(review)
    }

    /// The same decision about many inspections that nobody has decided about, with one wait for the
    /// disk. Those that somebody decided meanwhile, or whose pictures are missing or wrong, are left as they are;
    /// returns the new entries.
    ///
    /// # Errors
    /// As `review`; what was appended before the error stays.
    pub fn review_many(
        &self,
        ids: &[String],
        actor: &str,
        decision: &Decision,
    ) -> Result<Vec<Review>, ReviewError> {
        let (mut reviews, mut last_flush) = (Vec::new(), None);
        for id in ids {
            match self.append_decision(id, actor, decision, None, false) {
                Ok((review, flush)) => {
                    reviews.push(review);
                    last_flush = Some(flush);
                }
                Err(
                    ReviewError::Changed { .. }
                    | ReviewError::NoInspection { .. }
                    | ReviewError::Picture { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(flush) = last_flush {
            self.finish_reviews(&reviews, flush)?;
        }
        Ok(reviews)
    }

    fn append_decision(
        &self,
        id: &str,
        actor: &str,
        decision: &Decision,
        based_on: Option<u64>,
        unseen: bool,
    ) -> Result<(Review, Flush), ReviewError> {
        check(decision)?;
        // Before the lock: it may have to be hashed.
        let fault = self.picture_fault(id)?;
        if let Some(fault) = fault.filter(|_| !unseen) {
            return Err(ReviewError::Picture { id: id.to_owned(), fault });
        }
        self.append_review(id, based_on, |subject| {
            let kind = match (subject.model_verdict, decision.verdict) {
                ("pass", Decided::Pass) | ("fail", Decided::Fail) => ReviewKind::Confirm,
                ("pass" | "fail", _) => ReviewKind::Override,
                _ => ReviewKind::Decide,
            };
            if kind == ReviewKind::Override && decision.reason.trim().is_empty() {
                return Err(invalid("an override needs a reason"));
            }
            let mut review = blank(subject, actor, kind);
            review.verdict = Some(decision.verdict);
            review.picture = fault;
            review.supersedes = subject.review_state.and_then(|s| s.effective);
            (review.reason, review.note) = (decision.reason.trim().to_owned(), decision.note.clone());
            (review.findings, review.texts) = (decision.findings.clone(), decision.texts.clone());
            Ok(review)
        })
    }

    /// Takes the decision in force back, as a new entry; what it superseded is in force again.
    ///
    /// # Errors
    /// [`ReviewError`], `NothingToUndo` among them.
    pub fn undo_review(
        &self,
        id: &str,
        actor: &str,
        reason: &str,
        based_on: Option<u64>,
    ) -> Result<Review, ReviewError> {
        if reason.chars().count() > REASON_CHARS_MAX {
            return Err(invalid(&format!("a reason has at most {REASON_CHARS_MAX} characters")));
        }
        let (review, flush) = self.append_review(id, based_on, |subject| {
            let effective = subject.review_state.and_then(|s| s.effective);
            let Some(undone) = effective else {
                return Err(ReviewError::NothingToUndo { id: id.to_owned() });
            };
            let mut review = blank(subject, actor, ReviewKind::Undo);
            review.supersedes = Some(undone);
            review.restores = self.review_entry(undone)?.and_then(|r| r.supersedes);
            review.verdict = match review.restores {
                Some(seq) => self.review_entry(seq)?.and_then(|r| r.verdict),
                None => None,
            };
            reason.trim().clone_into(&mut review.reason);
            Ok(review)
        })?;
        self.finish_reviews(std::slice::from_ref(&review), flush)?;
        Ok(review)
    }

    /// What is wrong with the picture of an inspection; `None` also where none was ever kept.
    fn picture_fault(&self, id: &str) -> Result<Option<PictureFault>, StoreError> {
        let stored = match self.get_by_id(id) {
            Err(StoreError::InvalidId { .. }) => None,
            other => other?,
        };
        let state = stored.and_then(|s| s.image).map(|s| self.picture(&s.image));
        Ok(state.and_then(|s| s.fault()))
    }

    /// Waits for the disk, then tells.
    fn finish_reviews(&self, reviews: &[Review], flush: Flush) -> Result<(), StoreError> {
        self.sync.wait(flush)?;
        for review in reviews {
            self.index_review(review.inspection_seq, review.verdict);
            self.learn_frame_size(review);
        }
        let newest = reviews.iter().map(|r| r.seq).max().unwrap_or(0);
        self.reviews.durable.send_if_modified(|seq| {
            let newer = newest > *seq;
            *seq = newest.max(*seq);
            newer
        });
        Ok(())
    }

    fn append_review(
        &self,
        id: &str,
        based_on: Option<u64>,
        make: impl FnOnce(&Subject) -> Result<Review, ReviewError>,
    ) -> Result<(Review, Flush), ReviewError> {
        self.sync.check()?;
        self.disk.check()?;
        let mut chain = self.lock_reviews()?;
        let subject = self.subject(id)?;
        let last = subject.review_state.map(|s| s.last);
        if last != based_on {
            return Err(ReviewError::Changed { id: id.to_owned(), last: last.unwrap_or(0) });
        }
        let mut review = make(&subject)?;
        review.seq = chain.last_seq + 1;
        let unstorable = |reason| StoreError::Unstorable { id: id.to_owned(), reason };
        let draft = Draft::new(&review, &chain.last_hash).map_err(unstorable)?;
        let overflow = match &draft.overflow {
            Some(bytes) => {
                let (digest, added) = self.files.put_overflow(bytes).map_err(|e| self.disk.explain(e))?;
                self.add_usage(added);
                Some(digest)
            }
            None => None,
        };
        let written = self.write_review(&review, &draft, overflow, &mut chain);
        if let Some(digest) = overflow {
            self.files.unpin(&digest);
        }
        let flush = written?;
        review.hash = hex(&sha256(&draft.value));
        Ok((review, flush))
    }

    fn subject(&self, id: &str) -> Result<Subject, ReviewError> {
        let none = || ReviewError::NoInspection { id: id.to_owned() };
        let key = id_key(id).map_err(|_| none())?;
        let failed = |e| StoreError::kv("look up an id", e);
        let seq = self.trees.ids.get(key).map_err(failed)?.ok_or_else(none)?;
        let seq = open_seq(&seq)?;
        let record = self.trees.results.get(key_of(seq)).map_err(failed)?.ok_or_else(none)?;
        // What a power cut may still take back must not be decided about.
        if seq > self.sync.durable() {
            return Err(none());
        }
        let stored = self.get(seq)?.ok_or_else(none)?;
        Ok(Subject {
            id: stored.inspection.id,
            seq,
            record: sha256(&record),
            model_verdict: stored.inspection.verdict.as_str(),
            review_state: self.review_state(seq)?,
        })
    }

    /// One transaction; returns the flush to wait for.
    fn write_review(
        &self,
        review: &Review,
        draft: &Draft,
        overflow: Option<Digest>,
        chain: &mut Chain,
    ) -> Result<Flush, StoreError> {
        let effective = if review.kind == ReviewKind::Undo { review.restores } else { Some(review.seq) };
        let review_state = ReviewState { last: review.seq, effective, verdict: review.verdict };
        let next = chain.with_appended(sha256(&draft.value));
        let (chain_value, state_value) = (next.seal(), seal_review_state(&review_state));
        let (t, r) = (&self.trees, &self.trees.review);
        let mut log = self.lock_log()?;
        let entries = log.entries([Owed { kind: Kind::Review, seq: review.seq }]);
        let mut writes = Transaction::default();
        writes.on(&r.reviews).insert(key_of(review.seq), draft.value.as_slice());
        writes.on(&r.reviewed).insert(key_of(review.inspection_seq), state_value);
        writes.on(&r.by_inspection).insert(pair_key(review.inspection_seq, review.seq), value::seal(1, b""));
        entries.write(&t.outbox, &mut writes);
        writes.on(&t.meta).insert(CHAIN_KEY, chain_value);
        if let Some(digest) = overflow {
            writes.on(&t.files).insert(digest, seal_seq(REVIEW_FILE | review.seq));
        }
        self.transaction("append a review", writes)?;
        *chain = next;
        log.appended(&entries);
        self.add_usage(draft.value.len() as u64);
        let log = log.last();
        Ok(self.sync.request(HighWaterMark { review: review.seq, log, ..HighWaterMark::default() }))
    }

    pub(super) fn lock_reviews(&self) -> Result<MutexGuard<'_, Chain>, StoreError> {
        self.reviews.chain.lock().map_err(|_| StoreError::Stopped { reason: "a review panicked".into() })
    }
}

fn invalid(what: &str) -> ReviewError {
    ReviewError::Invalid { what: what.to_owned() }
}

/// What a decision must keep to whoever makes it.
fn check(decision: &Decision) -> Result<(), ReviewError> {
    let long = |text: &str, max: usize| text.chars().count() > max;
    if long(&decision.reason, REASON_CHARS_MAX) {
        return Err(invalid(&format!("a reason has at most {REASON_CHARS_MAX} characters")));
    }
    if long(&decision.note, NOTE_CHARS_MAX) {
        return Err(invalid(&format!("a note has at most {NOTE_CHARS_MAX} characters")));
    }
    let findings = decision.findings.as_deref().unwrap_or_default();
    if findings.len() > FINDINGS_MAX {
        return Err(invalid(&format!("a decision has at most {FINDINGS_MAX} boxes")));
    }
    for (i, f) in findings.iter().enumerate() {
        let b = f.bbox_px;
        let numbers = [b.x0, b.y0, b.x1, b.y1].iter().all(|x| x.is_finite() && (0.0..=1e6).contains(x));
        if !numbers || b.x0 >= b.x1 || b.y0 >= b.y1 {
            return Err(invalid(&format!(
                "findings[{i}].bbox_px must be [x0, y0, x1, y1], x0 < x1, y0 < y1"
            )));
        }
        if f.label.is_empty() || long(&f.label, 64) {
            return Err(invalid(&format!("findings[{i}].label must have 1 to 64 characters")));
        }
    }
    let texts = decision.texts.as_deref().unwrap_or_default();
    if texts.len() > TEXTS_MAX || texts.iter().any(|t| long(&t.text, 500) || long(&t.prompt, 64)) {
        return Err(invalid("texts are too many or too long"));
    }
    Ok(())
}

fn blank(subject: &Subject, actor: &str, kind: ReviewKind) -> Review {
    // What the record keeps: whole milliseconds, so that what was told is what is read back.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Review {
        seq: 0,
        at: SystemTime::UNIX_EPOCH + at,
        actor: actor.to_owned(),
        inspection_id: subject.id.clone(),
        inspection_seq: subject.seq,
        record_sha256: hex(&subject.record),
        kind,
        model_verdict: subject.model_verdict.to_owned(),
        verdict: None,
        reason: String::new(),
        note: String::new(),
        findings: None,
        texts: None,
        supersedes: None,
        restores: None,
        picture: None,
        hash: String::new(),
    }
}

pub(super) fn pair_key(inspection: u64, review: u64) -> Vec<u8> {
    [key_of(inspection), key_of(review)].concat()
}

pub(super) fn seal_review_state(s: &ReviewState) -> Vec<u8> {
    let verdict = s.verdict.map(|v| v.as_str().to_owned());
    let wire = ReviewStateV1 { last: s.last, effective: s.effective, verdict };
    value::seal(1, &serde_json::to_vec(&wire).expect("numbers and strings always serialise"))
}

pub(super) fn open_review_state(seq: u64, bytes: &[u8]) -> Result<ReviewState, StoreError> {
    let bad = |reason: String| StoreError::BadRecord { seq, reason: format!("review state: {reason}") };
    let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
    let wire: ReviewStateV1 = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
    let verdict = wire.verdict.as_deref().and_then(Decided::parse);
    Ok(ReviewState { last: wire.last, effective: wire.effective, verdict })
}

/// The digest in hex digits, or what is wrong with it.
pub(super) fn digest(text: &str) -> Result<Digest, String> {
    unhex(text).ok_or_else(|| format!("{text:?} is no sha256"))
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
