//! What can be saved of a damaged store, in a new one; the damaged one is not touched.
//!
//! ```text
//! ledger/ --copied--> opened (if need be without its snapshots) --tree by tree, row by row--> what can be read
//! records, decisions --whole?--> the new store, under their own numbers, with the gaps noted in it
//! pictures, parts    --proven--> the new store; those of lost records --> quarantine/
//! ```
//!
//! The new store says what it is: `state` names when it was salvaged and which numbers are lost, and `verify` reports
//! these gaps for as long as they are kept. No number is given twice: it goes on after the highest that was ever known.

use super::build::{Builder, Ledger};
use super::keep::{Wanted, wanted};
use super::read::{open_copy, read_small, stream};
use super::restore::{STATE_LEFT_OUT, prove};
use super::take::{LEFT_OUT, PARTS, RESULTS, REVIEWS};
use super::{BackupError, Copied, FLAWS_NAMED, Flawed, Row, copy_proven, file_below, files_in};
use crate::store::high_water;
use crate::store::images::{Digest, hex, unhex};
use crate::store::kv::Db;
use crate::store::ledger::{self, Chain};
use crate::store::outbox::log::{ACKED, LETTERS, LOG, SINKS};
use crate::store::outbox::wire::{self, LetterV1, SinkV1};
use crate::store::outbox::{Kind, MQTT, Owed, migrate};
use crate::store::record::rfc3339;
use crate::store::salvaged::{STATE_PREFIX, Salvaged};
use crate::store::{key_of, record, review, review_record, value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::SystemTime;

/// Where the copy of the damaged ledger lies while it is read.
const COPY: &str = "damaged";
/// What was found and what was not, as JSON beside the new store.
pub(crate) const REPORT: &str = "salvage.json";

/// What was saved, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub inspections: u64,
    pub reviews: u64,
    pub last_seq: u64,
    /// Numbers of inspections and of decisions that are lost: first and last of each run.
    pub lost: Vec<(u64, u64)>,
    pub lost_reviews: Vec<(u64, u64)>,
    pub files: u64,
    /// Pictures and parts of saved records that are missing or wrong.
    pub flaws: u64,
    pub named: Vec<Flawed>,
    /// Files that no saved record names; they are in `quarantine/`.
    pub orphans: u64,
    /// Trees of the database that could not be read to their end, and why.
    pub damaged: BTreeMap<String, String>,
    /// Why the database could not be opened at all, if so.
    pub unopened: Option<String>,
    /// Messages that are owed again because nobody knows any more which were acknowledged.
    pub owed_again: u64,
}

impl Report {
    /// True when nothing is lost.
    pub(crate) fn is_whole(&self) -> bool {
        let lost = self.lost.is_empty() && self.lost_reviews.is_empty();
        lost && self.flaws == 0 && self.damaged.is_empty() && self.unopened.is_none()
    }
}

/// Which numbers of a ledger were saved.
#[derive(Default)]
struct Kept {
    next: u64,
    lost: Vec<(u64, u64)>,
}

impl Kept {
    fn new(first: u64) -> Self {
        Self { next: first.max(1), lost: Vec::new() }
    }

    fn take(&mut self, seq: u64) {
        if seq > self.next {
            self.lost.push((self.next, seq - 1));
        }
        self.next = self.next.max(seq + 1);
    }

    fn end(&mut self, last: u64) {
        self.take(last + 1);
        self.next = last + 1;
    }

    fn has(&self, seq: u64) -> bool {
        seq < self.next && !self.lost.iter().any(|(a, b)| (*a..=*b).contains(&seq))
    }
}

/// The work, between the old store and the new one.
struct Salvage<'a> {
    from: &'a Path,
    to: &'a Path,
    builder: Builder,
    report: Report,
    /// Files of saved entries that are missing or wrong.
    flawed: BTreeSet<Digest>,
    step: &'a mut dyn FnMut(&str, u64, u64),
}

/// Saves what can be read of the store in `from` into a new one in `to`; `step` is told what is being done.
///
/// # Errors
/// [`BackupError`]: the target is not empty, or cannot be written. It is then marked as unfinished.
pub(crate) fn salvage(
    from: &Path,
    to: &Path,
    step: &mut dyn FnMut(&str, u64, u64),
) -> Result<Report, BackupError> {
    if !from.join("ledger").is_dir() && !from.join("images").is_dir() {
        return Err(BackupError::bad(from, "there is no store"));
    }
    let _lock = hold(from)?;
    let builder = Builder::create(to)?;
    let mut work = Salvage { from, to, builder, report: Report::default(), flawed: BTreeSet::new(), step };
    let copy = to.join(COPY);
    let db = open_copy(&from.join("ledger"), &copy)?;
    let has_log = |db: &Db| db.tree_names().iter().any(|name| **name == *LOG.as_bytes());
    // What is owed in the trees of format 1 is copied as it is, and moved by the first open.
    let is_old = db.as_ref().is_ok_and(|db| !has_log(db));
    let format = if is_old { crate::store::FORMAT_BEFORE_LOG } else { crate::store::FORMAT };
    let (results, reviews) = match &db {
        Ok(db) => work.ledgers(db)?,
        Err(reason) => {
            work.report.unopened = Some(reason.clone());
            work.nothing()
        }
    };
    drop(db);
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(BackupError::io("remove", &copy))?;
    }
    work.orphans()?;
    work.report.last_seq = results.last_seq;
    let Salvage { mut builder, report, .. } = work;
    let note = Salvaged {
        at: rfc3339(SystemTime::now()),
        from: from.display().to_string(),
        inspections: report.lost.clone(),
        reviews: report.lost_reviews.clone(),
    };
    for (name, row) in note.rows() {
        builder.row("state", name.as_bytes(), &row)?;
    }
    builder.row("meta", crate::store::FORMAT_KEY, &value::seal(format, b""))?;
    let unproven = builder.finish(&results, &reviews)?;
    for Flawed { seq, what } in prove(&unproven.dir)? {
        tracing::warn!(seq, what, "beside the gaps");
    }
    let path = unproven.dir.join(REPORT);
    let json = serde_json::to_vec_pretty(&report).expect("numbers and strings always serialise");
    fs::write(&path, json).map_err(BackupError::io("write", &path))?;
    unproven.accept()?;
    Ok(report)
}

/// Nobody may write while it is copied. The lock is taken on what is there; nothing is made.
fn hold(from: &Path) -> Result<Option<File>, BackupError> {
    let Ok(lock) = File::open(from.join("lock")) else { return Ok(None) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(BackupError::bad(from, "it is in use: stop the daemon first")),
        Err(TryLockError::Error(source)) => Err(BackupError::io("lock", from)(source)),
    }
}

impl Salvage<'_> {
    /// Everything that can be read, and the chains of the new store.
    fn ledgers(&mut self, db: &Db) -> Result<(Chain, Chain), BackupError> {
        let ends = high_water::read(self.from);
        let meta = self.small(db, "meta");
        let known = |key: &[u8], end: u64| {
            let chain = meta.get(key).and_then(|bytes| Chain::unseal(bytes).ok());
            chain.map_or((1, end), |c| (c.first_seq, end.max(c.last_seq)))
        };
        let (first, end) = known(ledger::CHAIN_KEY, ends.result);
        let (first_review, end_review) = known(review::CHAIN_KEY, ends.review);
        let (mut kept, mut kept_reviews) = (Kept::new(first), Kept::new(first_review));
        let (mut records, mut decisions) = (Ledger::default(), Ledger::default());
        let damage = stream(db, RESULTS, end, &mut |seq, bytes| {
            if record::decode(seq, bytes).is_ok() {
                self.builder.record(seq, bytes, &mut records)?;
                kept.take(seq);
                self.report.inspections += 1;
                (self.step)("inspections", seq, end.max(seq));
                self.bring(RESULTS, seq, bytes)?;
            }
            Ok(())
        })?;
        self.note_damage(RESULTS, damage);
        let damage = stream(db, REVIEWS, end_review, &mut |seq, bytes| {
            if review_record::decode(seq, bytes).is_ok() {
                self.builder.review(seq, bytes, &mut decisions)?;
                kept_reviews.take(seq);
                self.report.reviews += 1;
                self.bring(REVIEWS, seq, bytes)?;
            }
            Ok(())
        })?;
        self.note_damage(REVIEWS, damage);
        let mut parts = Vec::new();
        let damage = stream(db, PARTS, end, &mut |seq, bytes| {
            if value::open(bytes).is_ok() {
                self.builder.row(PARTS, &key_of(seq), bytes)?;
                parts.push(seq);
            }
            Ok(())
        })?;
        self.note_damage(PARTS, damage);
        let mut chains = (records.chain(end), decisions.chain(end_review));
        kept.end(chains.0.last_seq);
        kept_reviews.end(chains.1.last_seq);
        // A gap at the beginning counts, too: the new chain begins where the old one did.
        chains.0.first_seq = chains.0.first_seq.min(first.max(1));
        chains.1.first_seq = chains.1.first_seq.min(first_review.max(1));
        self.rest(db, &kept, &kept_reviews, &parts)?;
        (self.report.lost, self.report.lost_reviews) = (kept.lost, kept_reviews.lost);
        Ok(chains)
    }

    /// A ledger that cannot be opened: all that is known is how far it reached.
    fn nothing(&mut self) -> (Chain, Chain) {
        let ends = high_water::read(self.from);
        let mut chain = |end: u64, lost: fn(&mut Report) -> &mut Vec<(u64, u64)>| {
            let chain = Chain { first_seq: 1, ..Ledger::default().chain(end) };
            lost(&mut self.report).extend((end > 0).then_some((1, end)));
            chain
        };
        (chain(ends.result, |r| &mut r.lost), chain(ends.review, |r| &mut r.lost_reviews))
    }

    fn note_damage(&mut self, tree: &str, damage: Option<String>) {
        if let Some(reason) = damage {
            self.report.damaged.insert(tree.to_owned(), reason);
        }
    }

    fn small(&mut self, db: &Db, name: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let (rows, damage) = read_small(db, name);
        self.note_damage(name, damage);
        rows
    }

    /// All other trees. Of what is owed only what is about something that was saved; where the outbox cannot be read
    /// to its end, everything is owed again to every sink: receivers drop repeats.
    fn rest(&mut self, db: &Db, kept: &Kept, reviews: &Kept, parts: &[u64]) -> Result<(), BackupError> {
        let saved = |owed: Owed| match owed.kind {
            Kind::Result => kept.has(owed.seq),
            Kind::Part => parts.binary_search(&owed.seq).is_ok(),
            Kind::Review => reviews.has(owed.seq),
        };
        let mut others = Vec::new();
        let mut outbox = Vec::new();
        for name in db.tree_names() {
            let Ok(name) = String::from_utf8(name.to_vec()) else { continue };
            let done = [RESULTS, REVIEWS, PARTS, "meta"].contains(&name.as_str());
            if done || LEFT_OUT.contains(&name.as_str()) || name.starts_with("__") {
                continue;
            }
            let rows = self.small(db, &name);
            let of_outbox = [LOG, SINKS, ACKED, LETTERS].contains(&name.as_str()) || migrate::is_old(&name);
            if of_outbox { &mut outbox } else { &mut others }.push((name, rows));
        }
        for (name, rows) in &others {
            for (key, bytes) in rows.iter().filter(|(_, bytes)| value::open(bytes).is_ok()) {
                let left_out = match name.as_str() {
                    "state" => key.starts_with(STATE_LEFT_OUT) || key.starts_with(STATE_PREFIX.as_bytes()),
                    "accepted" => !is_whole_trigger(rows, key),
                    _ => false,
                };
                if !left_out {
                    self.builder.row(name, key, bytes)?;
                }
            }
        }
        if outbox.iter().any(|(name, _)| self.report.damaged.contains_key(name)) {
            let sinks = outbox.iter().filter(|(name, _)| name == SINKS).flat_map(|(_, rows)| rows.keys());
            return self.owe_all_again(kept, reviews, parts, sinks.cloned().collect());
        }
        for (name, rows) in &outbox {
            for (key, bytes) in rows.iter().filter(|(key, bytes)| is_about_saved(name, key, bytes, &saved)) {
                self.builder.row(name, key, bytes)?;
            }
        }
        Ok(())
    }

    /// A new log of all that was saved, for every sink that is known; each begins at its beginning. Messages are of the
    /// newest schema: which one each had is lost with the log.
    fn owe_all_again(
        &mut self,
        kept: &Kept,
        reviews: &Kept,
        parts: &[u64],
        mut sinks: BTreeSet<Vec<u8>>,
    ) -> Result<(), BackupError> {
        let mut place = 0;
        let mut owe = |builder: &mut Builder, kind: Kind, seq: u64| {
            place += 1;
            let entry = wire::seal_entry(Owed { kind, seq }, kind.schema());
            builder.row(LOG, &key_of(place), &entry)
        };
        for seq in (1..kept.next).filter(|seq| kept.has(*seq)) {
            owe(&mut self.builder, Kind::Result, seq)?;
            if parts.binary_search(&seq).is_ok() {
                owe(&mut self.builder, Kind::Part, seq)?;
            }
        }
        for seq in (1..reviews.next).filter(|seq| reviews.has(*seq)) {
            owe(&mut self.builder, Kind::Review, seq)?;
        }
        self.report.owed_again = place;
        sinks.insert(MQTT.as_bytes().to_vec());
        // The trees of format 1 were left out: nothing will be moved from them.
        for (number, name) in (0..).zip(sinks) {
            self.builder.row(ACKED, &wire::sink_key(number, 0), &value::seal(1, &key_of(0)))?;
            self.builder.row(SINKS, &name, &wire::seal(&SinkV1 { number, missed: 0 }))?;
        }
        Ok(())
    }

    /// The files that a saved entry names.
    fn bring(&mut self, tree: &str, seq: u64, bytes: &[u8]) -> Result<(), BackupError> {
        let row = Row { tree: tree.to_owned(), key: key_of(seq).to_vec(), value: bytes.to_vec() };
        for Wanted { seq, what, folder, extensions, sha256 } in wanted(&row).unwrap_or_default() {
            let Some(digest) = unhex(&sha256) else { continue };
            let mut state = Copied::Missing;
            for extension in extensions {
                let source = file_below(self.from, folder, &digest, extension);
                state = self.builder.file(&source, folder, &digest, extension)?;
                if state != Copied::Missing {
                    break;
                }
            }
            if let Copied::Whole(_) = state {
                self.report.files += 1;
                continue;
            }
            self.flawed.insert(digest);
            self.report.flaws += 1;
            if self.report.named.len() < FLAWS_NAMED {
                let how = if state == Copied::Missing { "missing" } else { "wrong" };
                self.report.named.push(Flawed { seq, what: format!("its {what} is {how} ({sha256})") });
            }
        }
        Ok(())
    }

    /// Files that no saved entry names are all that is left of lost ones: kept apart, where retention does not look.
    fn orphans(&mut self) -> Result<(), BackupError> {
        for folder in ["images", "parts"] {
            files_in(self.from, folder, &mut |digest, extension, path| {
                if file_below(self.to, folder, &digest, extension).exists() {
                    return Ok(());
                }
                let aside = file_below(&self.to.join("quarantine"), folder, &digest, extension);
                match copy_proven(path, &aside, &digest)? {
                    Copied::Whole(_) => {
                        self.report.orphans += 1;
                        (self.step)("orphans", self.report.orphans, self.report.orphans);
                    }
                    // Those of saved entries are named already.
                    Copied::Missing | Copied::Wrong if self.flawed.contains(&digest) => {}
                    Copied::Missing | Copied::Wrong => {
                        self.report.flaws += 1;
                        if self.report.named.len() < FLAWS_NAMED {
                            let what =
                                format!("a file of a lost record is wrong ({folder}, {})", hex(&digest));
                            self.report.named.push(Flawed { seq: 0, what });
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Whether a row of the outbox is whole and about something that was saved.
fn is_about_saved(tree: &str, key: &[u8], bytes: &[u8], saved: &dyn Fn(Owed) -> bool) -> bool {
    let number = || key.try_into().map(u64::from_be_bytes).ok();
    match tree {
        SINKS | ACKED => value::open(bytes).is_ok(),
        LOG => wire::open_entry(0, bytes).is_ok_and(|entry| saved(entry.owed)),
        LETTERS => wire::open::<LetterV1>("a dead letter", bytes).and_then(|l| l.owed()).is_ok_and(saved),
        old => {
            let owed = number().zip(migrate::kind_of(old)).map(|(seq, kind)| Owed { kind, seq });
            value::open(bytes).is_ok() && owed.is_some_and(saved)
        }
    }
}

/// Whether all pieces of an accepted trigger were read: half of one would stop every start.
fn is_whole_trigger(rows: &BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> bool {
    let Some(ticket) = key.get(..8).filter(|_| key.len() == 9) else { return false };
    let pieces = rows.range(ticket.to_vec()..).take_while(|(key, _)| key.starts_with(ticket));
    let body: Option<Vec<&[u8]>> =
        pieces.map(|(_, bytes)| value::open(bytes).ok().map(|(_, piece)| piece)).collect();
    body.is_some_and(|body| serde_json::from_slice::<serde_json::Value>(&body.concat()).is_ok())
}
