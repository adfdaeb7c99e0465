//! Finding inspections: a compact row a record in memory, made from the records and never stored.
//!
//! ```text
//! records --newest block first, in the background--> rows (40 bytes and the part id)
//! commit  --at the next query------------------------^
//! review  --at once, the row's decision--------------^
//!
//! blocks: [ 0..1024 ) [ 1024..2048 ) …      a row's place in its block is its sequence number
//! ```
//!
//! A query walks the rows from the newest: 100,000 take about a millisecond, so that counts are exact.
//! Until the background is done, the oldest inspections are not found, and the answer says so.
//!
//! Rows are read from the disk aside, a block at a time, and taken in under the lock, which is held for the
//! moment of that only: decisions and other queries go on, however much was committed since the last query.

use super::error::StoreError;
use super::ledger::Chain;
use super::record::Stored;
use super::review::open_review_state;
use super::{Store, id_key, key_of, seq_of};
use crate::domain::grade::{Grade, Verdict};
use crate::domain::review::Decided;
use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::time::SystemTime;

/// Rows of one block.
const BLOCK: u64 = 1024;
/// Distinct labels that are told apart; what comes after them counts as the last one.
const LABELS_MAX: usize = 64;
/// Distinct cameras and pipelines that are told apart.
const NAMES_MAX: usize = 4096;
/// Most results of one page.
pub(crate) const PAGE_MAX: usize = 500;

/// One inspection, as far as it is filtered and counted by.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub finished_ms: i64,
    /// A bit a label of [`Names::labels`].
    pub labels: u64,
    pub latency_ms: f32,
    /// Places in [`Names`].
    pub camera: u16,
    pub pipeline: u16,
    /// 0 pass, 1 fail, 2 review; 255: the record cannot be read.
    pub verdict: u8,
    /// 0 ok … 3 reject.
    pub grade: u8,
    /// 0 nobody decided, 1 pass, 2 fail, 3 taken back.
    pub decided: u8,
    /// The last bytes of the ULID of the part with several views that it is one of; 0: of none.
    part: u64,
    /// Where the row's part id ends in the text of its block.
    part_end: u32,
}

const UNREADABLE: u8 = 255;

/// Names by their places in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub cameras: Vec<String>,
    pub pipelines: Vec<String>,
    pub labels: Vec<String>,
}

impl Names {
    fn place(names: &mut Vec<String>, name: &str, max: usize) -> usize {
        if let Some(at) = names.iter().position(|n| n == name) {
            return at;
        }
        if names.len() < max {
            names.push(name.to_owned());
        }
        names.len() - 1
    }
}

#[derive(Debug, Default)]
struct Block {
    rows: Vec<Row>,
    parts: String,
}

impl Block {
    /// Takes in the rows that follow its own.
    fn append(&mut self, newer: Self) {
        let before = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        self.parts.push_str(&newer.parts);
        let moved = |row: Row| Row { part_end: row.part_end.saturating_add(before), ..row };
        self.rows.extend(newer.rows.into_iter().map(moved));
    }

    fn part(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.rows[at - 1].part_end as usize };
        &self.parts[start..self.rows[at].part_end as usize]
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: BTreeMap<u64, Block>,
    names: Names,
    /// Sequence numbers of the rows: from `from` to before `next`; both 0 before the first load.
    from: u64,
    next: u64,
}

/// Rows that were read aside, from before `from` to before `next`, with the names that were known then.
struct Aside {
    from: u64,
    next: u64,
    known: Names,
    read: Index,
}

/// What is looked for; what is `None` or empty is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these verdicts of the model: 0 pass, 1 fail, 2 review.
    pub verdicts: Vec<u8>,
    /// Any of these grades: 0 ok … 3 reject.
    pub grades: Vec<u8>,
    pub label: Option<String>,
    pub camera: Option<String>,
    pub pipeline: Option<String>,
    /// Text that the part id contains, in any case of letters.
    pub part: Option<String>,
    /// Milliseconds since 1970, both included.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// Whether a decision of a person is in force.
    pub reviewed: Option<bool>,
    pub decided: Option<Decided>,
    /// Of a part with several views only the newest view that fits.
    pub one_a_part: bool,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub seqs: Vec<u64>,
    /// How many match in all.
    pub total: u64,
    /// How many of them are not before `before`.
    pub newer: u64,
    /// Give it as `before` for the next page.
    pub next: Option<u64>,
    /// False while old inspections are still being looked through.
    pub complete: bool,
}

/// What there is to filter by, with the number of inspections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facets {
    pub cameras: Vec<(String, u64)>,
    pub pipelines: Vec<(String, u64)>,
    pub labels: Vec<(String, u64)>,
    /// pass, fail, review of the model.
    pub verdicts: [u64; 3],
    /// ok, cosmetic, rework, reject.
    pub grades: [u64; 4],
    /// Inspections that the model sent to review and nobody has decided.
    pub undecided: u64,
}

/// A filter whose names are places.
struct Test<'a> {
    filter: &'a Filter,
    label: u64,
    camera: Option<u16>,
    pipeline: Option<u16>,
    part: Option<String>,
    nothing: bool,
}

impl<'a> Test<'a> {
    fn new(filter: &'a Filter, names: &Names) -> Self {
        let mut nothing = false;
        let mut place = |names: &[String], name: &Option<String>| {
            let at = name.as_ref().map(|name| names.iter().position(|n| n == name));
            nothing |= at == Some(None);
            at.flatten()
        };
        let label = place(&names.labels, &filter.label).map_or(0, |at| 1 << at);
        let camera = place(&names.cameras, &filter.camera).map(|at| at as u16);
        let pipeline = place(&names.pipelines, &filter.pipeline).map(|at| at as u16);
        let part = filter.part.as_ref().map(|p| p.to_lowercase());
        Self { filter, label, camera, pipeline, part, nothing }
    }

    fn fits(&self, row: &Row, part: &str) -> bool {
        let f = self.filter;
        let decided = match row.decided {
            1 => Some(Decided::Pass),
            2 => Some(Decided::Fail),
            _ => None,
        };
        row.verdict != UNREADABLE
            && (f.verdicts.is_empty() || f.verdicts.contains(&row.verdict))
            && (f.grades.is_empty() || f.grades.contains(&row.grade))
            && (f.label.is_none() || row.labels & self.label != 0)
            && self.camera.is_none_or(|c| c == row.camera)
            && self.pipeline.is_none_or(|p| p == row.pipeline)
            && f.from_ms.is_none_or(|t| row.finished_ms >= t)
            && f.to_ms.is_none_or(|t| row.finished_ms <= t)
            && f.reviewed.is_none_or(|r| r == decided.is_some())
            && f.decided.is_none_or(|d| decided == Some(d))
            && self.part.as_ref().is_none_or(|p| part.to_lowercase().contains(p))
    }
}

impl Index {
    /// Calls `visit(seq, row)` for every row that fits, newest first.
    fn scan(&self, filter: &Filter, first_kept: u64, mut visit: impl FnMut(u64, &Row)) {
        let test = Test::new(filter, &self.names);
        if test.nothing {
            return;
        }
        let mut parts = HashSet::new();
        for (number, block) in self.blocks.iter().rev() {
            for (at, row) in block.rows.iter().enumerate().rev() {
                let seq = number * BLOCK + at as u64;
                if seq < first_kept {
                    return;
                }
                let is_one =
                    |parts: &mut HashSet<u64>| !filter.one_a_part || row.part == 0 || parts.insert(row.part);
                if test.fits(row, block.part(at)) && is_one(&mut parts) {
                    visit(seq, row);
                }
            }
        }
    }

    fn decide(&mut self, seq: u64, verdict: Option<Decided>) {
        let row = self.blocks.get_mut(&(seq / BLOCK)).and_then(|b| b.rows.get_mut((seq % BLOCK) as usize));
        if let Some(row) = row {
            row.decided = decided_byte(verdict);
        }
    }

    fn push(&mut self, number: u64, stored: Option<&Stored>) {
        let row = stored.map(|s| {
            let i = &s.inspection;
            let names = &mut self.names;
            let labels =
                i.findings.iter().map(|f| 1 << Names::place(&mut names.labels, &f.label, LABELS_MAX));
            Row {
                finished_ms: unix_ms(i.finished_at),
                labels: labels.fold(0, |all: u64, bit: u64| all | bit),
                latency_ms: i.latency.total_ms as f32,
                camera: Names::place(&mut names.cameras, &i.camera, NAMES_MAX) as u16,
                pipeline: Names::place(&mut names.pipelines, &i.pipeline, NAMES_MAX) as u16,
                verdict: match i.verdict {
                    Verdict::Pass => 0,
                    Verdict::Fail(_) => 1,
                    Verdict::Review(_) => 2,
                },
                grade: Grade::ALL.iter().position(|g| *g == i.grade).unwrap_or(0) as u8,
                decided: 0,
                part: i.trigger.part.as_deref().map_or(0, |part| part_number(&part.id)),
                part_end: 0,
            }
        });
        let unreadable = Row {
            finished_ms: 0,
            labels: 0,
            latency_ms: f32::NAN,
            camera: 0,
            pipeline: 0,
            verdict: UNREADABLE,
            grade: 0,
            decided: 0,
            part: 0,
            part_end: 0,
        };
        let block = self.blocks.entry(number).or_default();
        let part = stored.and_then(|s| s.inspection.trigger.part_id.as_deref()).unwrap_or("");
        block.parts.push_str(part);
        let mut row = row.unwrap_or(unreadable);
        row.part_end = u32::try_from(block.parts.len()).unwrap_or(u32::MAX);
        block.rows.push(row);
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// By it the views of a part are told from others: 64 of the 80 random bits of its ULID.
fn part_number(id: &str) -> u64 {
    id_key(id).map_or(0, |[.., a, b, c, d, e, f, g, h]| u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

const fn decided_byte(verdict: Option<Decided>) -> u8 {
    match verdict {
        Some(Decided::Pass) => 1,
        Some(Decided::Fail) => 2,
        None => 3,
    }
}

impl Store {
    /// Loads one block of older rows; true when there are more. A background thread calls it until it
    /// says false; a query needs only what is loaded.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn index_older(&self) -> Result<bool, StoreError> {
        self.index_newer()?;
        let first_kept = self.first_kept()?;
        let from = self.read_index().from;
        if from <= first_kept {
            return Ok(false);
        }
        let aside = self.read_aside((from - 1) / BLOCK * BLOCK, from)?;
        let mut index = self.write_index();
        // With names that commits added meanwhile the places would differ: then once more.
        if index.from == from && index.names == aside.known {
            index.from = aside.from;
            self.take_in(&mut index, aside)?;
        }
        Ok(index.from > first_kept)
    }

    /// Takes in what was committed since the last call.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn index_newer(&self) -> Result<(), StoreError> {
        // One reads, and the others would read the same.
        let _reader = self.indexing.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(aside) = self.read_newer()? {
            self.take_newer(aside)?;
        }
        let first_kept = self.first_kept()?;
        let oldest = self.read_index().blocks.first_key_value().map(|(number, _)| *number);
        if oldest.is_some_and(|number| number < first_kept / BLOCK) {
            let mut index = self.write_index();
            index.blocks = index.blocks.split_off(&(first_kept / BLOCK));
        }
        Ok(())
    }

    /// The rows of up to a block of what was committed since the last call; `None` when nothing was.
    fn read_newer(&self) -> Result<Option<Aside>, StoreError> {
        let durable = self.sync.durable();
        let next = match self.read_index().next {
            // The newest block first, so that the newest inspections are found at once.
            0 => durable / BLOCK * BLOCK,
            next => next,
        };
        if next > durable {
            return Ok(None);
        }
        self.read_aside(next, (durable + 1).min((next / BLOCK + 1) * BLOCK)).map(Some)
    }

    fn take_newer(&self, aside: Aside) -> Result<(), StoreError> {
        let mut index = self.write_index();
        if index.next == 0 {
            (index.from, index.next) = (aside.from, aside.from);
        }
        // As in `index_older`.
        if index.next == aside.from && index.names == aside.known {
            index.next = aside.next;
            self.take_in(&mut index, aside)?;
        }
        Ok(())
    }

    /// Reads the rows from `from` to before `next` without the lock of the index.
    fn read_aside(&self, from: u64, next: u64) -> Result<Aside, StoreError> {
        let known = self.read_index().names.clone();
        let mut read = Index { names: known.clone(), ..Index::default() };
        self.load_rows(&mut read, from, next - 1)?;
        Ok(Aside { from, next, known, read })
    }

    fn take_in(&self, index: &mut Index, aside: Aside) -> Result<(), StoreError> {
        index.names = aside.read.names;
        for (number, rows) in aside.read.blocks {
            index.blocks.entry(number).or_default().append(rows);
        }
        self.load_decided(index, aside.from, aside.next - 1)
    }

    /// Rows of the records from `from` to `to`, both included, in their order.
    fn load_rows(&self, index: &mut Index, from: u64, to: u64) -> Result<(), StoreError> {
        for seq in from..=to {
            let stored = match self.get(seq) {
                Ok(stored) => stored,
                Err(StoreError::BadRecord { seq, reason }) => {
                    tracing::error!(seq, reason, "a record cannot be read, and is not listed");
                    None
                }
                Err(error) => return Err(error),
            };
            index.push(seq / BLOCK, stored.as_ref());
        }
        Ok(())
    }

    /// The decisions about these records; under the lock of the index, so that none is missed.
    fn load_decided(&self, index: &mut Index, from: u64, to: u64) -> Result<(), StoreError> {
        for row in self.trees.review.reviewed.range(key_of(from)..=key_of(to)) {
            let (key, value) = row.map_err(|e| StoreError::kv("read a review state", e))?;
            let seq = seq_of(&key)?;
            match open_review_state(seq, &value) {
                Ok(state) => index.decide(seq, state.verdict),
                // It is listed as one that nobody has decided.
                Err(error) => tracing::error!(%error, "what was decided about an inspection cannot be read"),
            }
        }
        Ok(())
    }

    pub(super) fn index_review(&self, seq: u64, verdict: Option<Decided>) {
        self.write_index().decide(seq, verdict);
    }

    /// `limit` of the inspections before `before` that fit, newest first, after the first `skip`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn find(
        &self,
        filter: &Filter,
        before: Option<u64>,
        skip: u64,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut page = Page { complete: true, ..Page::default() };
        let limit = limit.min(PAGE_MAX);
        self.scan(filter, |seq, _, _| {
            page.total += 1;
            if before.is_some_and(|b| seq >= b) {
                page.newer += 1;
            } else if page.total - page.newer > skip {
                if page.seqs.len() < limit {
                    page.seqs.push(seq);
                } else {
                    page.next = page.seqs.last().copied();
                }
            }
        })?;
        page.complete = self.index_complete()?;
        Ok(page)
    }

    /// Calls `visit(seq, row, names)` for every inspection that fits, newest first. The index is held
    /// meanwhile: `visit` must be quick.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn scan(&self, filter: &Filter, mut visit: impl FnMut(u64, &Row, &Names)) -> Result<(), StoreError> {
        self.index_newer()?;
        let first_kept = self.first_kept()?;
        let index = self.read_index();
        index.scan(filter, first_kept, |seq, row| visit(seq, row, &index.names));
        Ok(())
    }

    /// False while old inspections are still being looked through.
    ///
    /// # Errors
    /// The store has stopped.
    pub fn index_complete(&self) -> Result<bool, StoreError> {
        let first_kept = self.first_kept()?;
        Ok(self.read_index().from <= first_kept)
    }

    /// What there is to filter by.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn facets(&self) -> Result<Facets, StoreError> {
        let mut facets = Facets::default();
        let mut counts = (BTreeMap::new(), BTreeMap::new(), [0u64; LABELS_MAX]);
        self.scan(&Filter::default(), |_, row, _| {
            *counts.0.entry(row.camera).or_insert(0) += 1;
            *counts.1.entry(row.pipeline).or_insert(0) += 1;
            let mut bits = row.labels;
            while bits != 0 {
                counts.2[bits.trailing_zeros() as usize] += 1;
                bits &= bits - 1;
            }
            facets.verdicts[usize::from(row.verdict)] += 1;
            facets.grades[usize::from(row.grade)] += 1;
            facets.undecided += u64::from(row.verdict == 2 && !matches!(row.decided, 1 | 2));
        })?;
        let index = self.read_index();
        let named = |names: &[String], counts: BTreeMap<u16, u64>| {
            let mut all: Vec<_> = counts
                .into_iter()
                .filter_map(|(at, n)| Some((names.get(usize::from(at))?.clone(), n)))
                .collect();
            all.sort();
            all
        };
        facets.cameras = named(&index.names.cameras, counts.0);
        facets.pipelines = named(&index.names.pipelines, counts.1);
        let labels = index.names.labels.iter().cloned().zip(counts.2).filter(|(_, n)| *n > 0);
        facets.labels = labels.collect();
        facets.labels.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok(facets)
    }

    fn first_kept(&self) -> Result<u64, StoreError> {
        let Chain { first_seq, .. } = *self.lock_chain()?;
        Ok(first_seq)
    }

    fn read_index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_index(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
