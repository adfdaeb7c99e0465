//! Parts with several views: their verdicts, decided in the same commit as their last view.
//!
//! ```text
//! commit of a view --not the last--> parts_open: the views so far
//!                  '--the last-----> parts + an entry of the outbox
//! the next start: what is left in parts_open --> parts + an entry, its missing views interrupted
//! ```
//!
//! A verdict's number is that of the inspection of its newest view, which no other part has.
//!
//! Invariants:
//! - A view and what it means for its part are in one transaction: no crash counts a view twice or not.
//! - A part whose views are not all stored never passes.
//! - A verdict is handed out only when it is durable, and is owed until each sink has acknowledged it.

use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::kv::{Batch, Db, Transaction, Tree};
use super::outbox::{Kind, Owed};
use super::record::{parse_rfc3339, rfc3339};
use super::{Store, id_key, key_of, seq_of, value};
use crate::domain::grade::Grade;
use crate::domain::inspection::Inspection;
use crate::domain::part::{Outcome, PartRef, PartVerdict, View, complete, judge};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Bytes of a view's reason that are kept; the inspection has all of it.
const REASON_BYTES_MAX: usize = 100;
/// Verdicts that are removed in one transaction.
const PRUNE_BATCH: usize = 256;

/// The trees of parts.
pub(super) struct PartTrees {
    /// 16 bytes of the part's ULID -> the views so far
    pub open: Tree,
    /// inspection seq of the newest view -> verdict
    pub decided: Tree,
}

impl PartTrees {
    pub(super) fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = |name: &str| db.tree(name).map_err(|e| StoreError::kv("open a tree", e));
        Ok(Self { open: tree("parts_open")?, decided: tree("parts")? })
    }
}

/// A part, open or decided; what is decided follows from the views.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PartV1 {
    id: String,
    name: String,
    cameras: Vec<String>,
    part_id: Option<String>,
    lot: Option<String>,
    correlation_id: Option<String>,
    /// Absent of parts that earlier versions have triggered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trigger_id: Option<String>,
    /// RFC 3339; of an open part the time of its newest view.
    at: String,
    /// Inspection seq of the newest view.
    seq: u64,
    views: Vec<ViewV1>,
    /// Grade of the views that were missing when it was decided. Left out: an earlier version decided, which graded
    /// them ok, and what is owed of it keeps its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_grade: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ViewV1 {
    camera: String,
    inspection_id: String,
    outcome: String,
    grade: String,
    reason: Option<String>,
}

/// What is known of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// The views so far, in the order in which they came; the others are awaited.
    Open(Vec<View>),
    Decided(Box<PartVerdict>),
}

/// What the commit of a view does to its part.
pub(super) struct Step {
    key: [u8; 16],
    seq: u64,
    value: Vec<u8>,
    /// It was the last view.
    pub decides: bool,
}

impl Step {
    /// The part of the commit's transaction.
    pub(super) fn write<'a>(self, parts: &'a PartTrees, writes: &mut Transaction<'a>) {
        if self.decides {
            writes.on(&parts.open).remove(self.key);
            writes.on(&parts.decided).insert(key_of(self.seq), self.value);
        } else {
            writes.on(&parts.open).insert(self.key, self.value);
        }
    }
}

impl PartV1 {
    fn new(part: &PartRef, inspection: &Inspection) -> Self {
        Self {
            id: part.id.clone(),
            name: part.name.clone(),
            cameras: part.cameras.clone(),
            part_id: inspection.trigger.part_id.clone(),
            lot: inspection.trigger.lot.clone(),
            correlation_id: inspection.trigger.correlation_id.clone(),
            trigger_id: inspection.trigger.id.clone(),
            at: String::new(),
            seq: 0,
            views: Vec::new(),
            missing_grade: None,
        }
    }

    fn seal(&self) -> Vec<u8> {
        value::seal(1, &serde_json::to_vec(self).expect("numbers and strings always serialise"))
    }

    fn unseal(bytes: &[u8]) -> Result<Self, StoreError> {
        let bad = |reason: String| StoreError::BadMeta { reason: format!("a part's verdict: {reason}") };
        let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
        serde_json::from_slice(body).map_err(|e| bad(e.to_string()))
    }

    /// The views that are stored.
    fn found(&self) -> Result<Vec<View>, String> {
        self.views.iter().cloned().map(ViewV1::into_domain).collect()
    }

    fn into_domain(self) -> Result<PartVerdict, String> {
        let found = self.found()?;
        let Self { id, name, cameras, part_id, lot, correlation_id, trigger_id, at, missing_grade, .. } =
            self;
        let part = PartRef { id, name, cameras };
        let missing_grade = match missing_grade {
            Some(word) => Grade::parse(&word).ok_or_else(|| format!("{word:?} is not a grade"))?,
            None => Grade::Ok,
        };
        let mut views = complete(&part, &found);
        for view in views.iter_mut().filter(|view| view.inspection_id.is_none()) {
            view.grade = missing_grade;
        }
        let (outcome, grade, reason) = judge(&views);
        let decided_at = parse_rfc3339(&at)?;
        Ok(PartVerdict {
            trigger_id,
            part,
            part_id,
            lot,
            correlation_id,
            decided_at,
            views,
            outcome,
            grade,
            reason,
        })
    }
}

impl ViewV1 {
    fn from_domain(i: &Inspection) -> Self {
        let reason = i.verdict.reason().map(|r| {
            let mut text = r.to_string();
            text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
            text
        });
        Self {
            camera: i.camera.clone(),
            inspection_id: i.id.clone(),
            outcome: Outcome::from(&i.verdict).as_str().to_owned(),
            grade: i.grade.as_str().to_owned(),
            reason,
        }
    }

    fn into_domain(self) -> Result<View, String> {
        let Self { camera, inspection_id, outcome, grade, reason } = self;
        Ok(View {
            camera,
            inspection_id: Some(inspection_id),
            outcome: Outcome::parse(&outcome).ok_or_else(|| format!("{outcome:?} is no outcome"))?,
            grade: Grade::parse(&grade).ok_or_else(|| format!("{grade:?} is not a grade"))?,
            reason,
        })
    }
}

impl Store {
    /// What the commit of this inspection as `seq` does to its part; `None` for one that is no view.
    /// Called under the chain's lock, so that two views of a part come one after the other.
    pub(super) fn part_step(&self, inspection: &Inspection, seq: u64) -> Result<Option<Step>, StoreError> {
        let Some(part) = &inspection.trigger.part else { return Ok(None) };
        let key = id_key(&part.id)?;
        let found = self.trees.parts.open.get(key).map_err(|e| StoreError::kv("read an open part", e))?;
        let mut state = match found {
            Some(value) => PartV1::unseal(&value)?,
            None => PartV1::new(part, inspection),
        };
        state.views.push(ViewV1::from_domain(inspection));
        (state.seq, state.at) = (seq, rfc3339(inspection.finished_at));
        let decides = state.views.len() >= state.cameras.len();
        Ok(Some(Step { key, seq, value: state.seal(), decides }))
    }

    /// A verdict is on the disk.
    pub(super) fn report_part(&self, seq: u64) {
        self.parts_durable.send_modify(|known| *known = seq.max(*known));
    }

    /// Decides about the parts of which a former process has not stored all views: what is missing was
    /// interrupted. A part of which a view is still owed, by this process or because the store was full, is left:
    /// its last view decides, so that no part is decided twice. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn decide_interrupted_parts(&self) -> Result<usize, StoreError> {
        let chain = self.lock_chain()?;
        let t = &self.trees.parts;
        // Under the chain's lock: no view of a trigger that is accepted after this is stored before we are done.
        let owed: BTreeSet<String> =
            self.accepted()?.into_iter().filter_map(|a| Some(a.trigger.part?.id)).collect();
        let mut steps = Vec::new();
        for row in &t.open {
            let (_, value) = row.map_err(|e| StoreError::kv("read the open parts", e))?;
            let mut state = PartV1::unseal(&value)?;
            if owed.contains(&state.id) {
                continue;
            }
            state.at = rfc3339(SystemTime::now());
            state.missing_grade = Some(Grade::Reject.as_str().to_owned());
            let (key, seq) = (id_key(&state.id)?, state.seq);
            steps.push(Step { key, seq, value: state.seal(), decides: true });
        }
        let (count, newest) = (steps.len(), steps.iter().map(|step| step.seq).max());
        let mut last = 0;
        for step in steps {
            let mut log = self.lock_log()?;
            let entries = log.entries([Owed { kind: Kind::Part, seq: step.seq }]);
            let mut writes = Transaction::default();
            step.write(t, &mut writes);
            entries.write(&self.trees.outbox, &mut writes);
            self.transaction("decide about an interrupted part", writes)?;
            log.appended(&entries);
            self.note_owed(&log);
            last = log.last();
        }
        drop(chain);
        self.sync.wait(self.sync.request(HighWaterMark { log: last, ..HighWaterMark::default() }))?;
        if let Some(newest) = newest {
            self.report_part(newest);
        }
        Ok(count)
    }

    /// Newest views of the parts that are open: where their verdicts will stand.
    pub(super) fn open_parts(&self) -> Result<Vec<u64>, StoreError> {
        let failed = |e| StoreError::kv("read the open parts", e);
        let rows = self.trees.parts.open.iter();
        rows.map(|row| Ok(PartV1::unseal(&row.map_err(failed)?.1)?.seq)).collect()
    }

    /// The verdict whose newest view is this inspection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn part(&self, seq: u64) -> Result<Option<PartVerdict>, StoreError> {
        let failed = |e| StoreError::kv("read a part's verdict", e);
        let Some(value) = self.trees.parts.decided.get(key_of(seq)).map_err(failed)? else { return Ok(None) };
        let bad = |reason| StoreError::BadRecord { seq, reason: format!("a part's verdict: {reason}") };
        PartV1::unseal(&value)?.into_domain().map(Some).map_err(bad)
    }

    /// The part that the inspection `seq` is a view of; `None` when nothing is known of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn part_of_view(&self, part: &PartRef, seq: u64) -> Result<Option<PartState>, StoreError> {
        let bad = |reason| StoreError::BadRecord { seq, reason: format!("its part: {reason}") };
        let t = &self.trees.parts;
        // In this order: a part is decided and no longer open in one transaction.
        let open = t.open.get(id_key(&part.id)?).map_err(|e| StoreError::kv("read an open part", e))?;
        if let Some(value) = open {
            return PartV1::unseal(&value)?.found().map(PartState::Open).map(Some).map_err(bad);
        }
        // The newest view is this one or one of the next: only parts that were inspected beside this one
        // lie in between.
        for row in t.decided.range(key_of(seq)..) {
            let state = PartV1::unseal(&row.map_err(|e| StoreError::kv("read a part's verdict", e))?.1)?;
            if state.id == part.id {
                return state.into_domain().map(|v| Some(PartState::Decided(Box::new(v)))).map_err(bad);
            }
        }
        Ok(None)
    }

    /// Proves that what is stored of a view's part says of it what the inspection says.
    pub(super) fn check_view(&self, seq: u64, inspection: &Inspection) -> Result<(), String> {
        let Some(part) = &inspection.trigger.part else { return Ok(()) };
        let views = match self.part_of_view(part, seq).map_err(|e| e.to_string())? {
            None => return Err(format!("nothing is stored of its part {}", part.id)),
            Some(PartState::Open(views)) => views,
            Some(PartState::Decided(verdict)) if verdict.part == **part => verdict.views,
            Some(PartState::Decided(_)) => {
                return Err(format!("the verdict about {} has other cameras", part.id));
            }
        };
        let own = ViewV1::from_domain(inspection).into_domain()?;
        if views.contains(&own) {
            Ok(())
        } else {
            Err(format!("what is stored of its part {} says otherwise of it", part.id))
        }
    }

    /// The newest verdict that is on the disk; a task that follows it learns of every one, also of one about a part
    /// that was interrupted long ago.
    pub fn subscribe_parts(&self) -> tokio::sync::watch::Receiver<u64> {
        self.parts_durable.subscribe()
    }

    /// Removes the verdicts whose inspections retention has removed, as far as they are delivered.
    pub(super) fn prune_parts(&self) -> Result<(), StoreError> {
        let failed = |e| StoreError::kv("read the oldest parts", e);
        let t = &self.trees.parts;
        loop {
            let first_seq = self.lock_chain()?.first_seq;
            let mut old = t.decided.range(..key_of(first_seq)).take(PRUNE_BATCH).peekable();
            if old.peek().is_none() {
                return Ok(());
            }
            let owed = self.all_owed(Kind::Part)?;
            let mut verdicts = Batch::default();
            let mut count = 0;
            for row in old {
                let (key, _) = row.map_err(failed)?;
                if owed.contains(&seq_of(&key)?) {
                    break;
                }
                verdicts.remove(key);
                count += 1;
            }
            t.decided.apply(verdicts).map_err(|e| self.stop_after("remove old parts", e))?;
            if count < PRUNE_BATCH {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
#[path = "multiview_tests.rs"]
mod tests;
