//! Attention on the CPU, without the square of scores: memory that does not grow with the number of keys.
//!
//! A query row sees every key of the context spans, and of the last span, its own, the keys up to
//! its own place (causal) or all of them (inside one picture of the vision tower).
//!
//! ```text
//! for each (sequence, block of rows, head of keys), a task:
//!     several rows    blocks  queries of all heads that share the keys, in the lanes of vectors
//!     one row         row     the same heads, each against every key
//! ```
//!
//! Both go over the keys block by block ([`keys`] widens a block to f32) with a running maximum and sum.

mod blocks;
mod keys;
pub(crate) mod lanes;
pub(crate) mod path;
mod row;

use keys::Keys;
pub use keys::{GROUP, Kept};
use path::Path;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Queries of a task: a row counts as often as it has heads that share their keys. A block of keys is read once a task.
const TASK_LANES_MAX: usize = 192;
/// Fewer do not pay for the reading of keys.
const TASK_LANES_MIN: usize = 48;
/// Tasks that each thread should find, so that the last ones are small beside the whole.
const TASKS_EACH: usize = 4;

/// Rows of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
}

/// One sequence's share of a batch.
#[derive(Clone, Debug)]
pub struct Part {
    /// First query row in the batch.
    pub row: usize,
    /// Number of query rows.
    pub rows: usize,
    /// The spans of keys that every query row sees, among those of [`Parts`].
    context: Range<usize>,
    /// Where the keys of the query rows themselves are.
    pub own: Span,
    /// Query row `i` sees only the first `i + 1` rows of `own`.
    causal: bool,
}

/// The sequences of a batch: each takes the rows behind those of the one before it.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    list: Vec<Part>,
    spans: Vec<Span>,
}

impl Parts {
    /// Forgets all parts and keeps their memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.spans.clear();
    }

    /// Adds `rows` rows, which see the keys of `context` and those from `own` on: their own, row `i` only the
    /// first `i + 1` of them when they are causal.
    pub fn push(&mut self, rows: usize, context: impl IntoIterator<Item = Span>, own: usize, causal: bool) {
        let first = self.spans.len();
        self.spans.extend(context.into_iter().filter(|s| s.rows > 0));
        let context = first..self.spans.len();
        self.list.push(Part { row: self.rows(), rows, context, own: Span { start: own, rows }, causal });
    }

    /// Rows of all parts.
    pub fn rows(&self) -> usize {
        self.list.last().map_or(0, |p| p.row + p.rows)
    }

    /// The parts, in the order of their rows.
    pub fn iter(&self) -> std::slice::Iter<'_, Part> {
        self.list.iter()
    }

    /// The keys that all rows of a part see, besides those of its own.
    pub fn context(&self, part: &Part) -> &[Span] {
        &self.spans[part.context.clone()]
    }
}

impl<'a> IntoIterator for &'a Parts {
    type Item = &'a Part;
    type IntoIter = std::slice::Iter<'a, Part>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Rows of heads inside a larger matrix: row `r` of head `h` starts at `start + r * stride + h * heads`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    /// All that the matrix is inside of.
    pub values: &'a [T],
    /// Distance of rows.
    pub stride: usize,
    /// First value of the first head's first row.
    pub start: usize,
    /// Distance of heads.
    pub heads: usize,
}

/// Numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of query heads.
    pub query: usize,
    /// Divides `query`; each serves `query / kv` query heads.
    pub kv: usize,
    /// Values a head.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share their keys.
    const fn shared(self) -> usize {
        self.query / self.kv
    }
}

/// What one task computes: some rows of the heads that share their keys.
#[derive(Clone, Copy, Debug)]
struct Task {
    /// Index of the part.
    part: usize,
    /// First row, counted from the part's.
    block: usize,
    rows: usize,
    /// Which head of keys.
    kv: usize,
}

/// What attention gives, with the memory that it takes: used again by every call.
#[derive(Debug, Default)]
pub struct Attended {
    /// `[rows, heads.query * heads.dim]`.
    pub values: Vec<f32>,
    tasks: Vec<Task>,
}

/// Attention of all parts.
///
/// # Panics
/// When a span or a query leaves its matrix.
pub fn attend(q: Matrix<'_>, k: Kept<'_>, v: Kept<'_>, heads: Heads, parts: &Parts, out: &mut Attended) {
    attend_by(Path::best(), Seen { q, k, v, heads, parts }, out);
}

/// As [`attend`], by one of the paths that this processor has.
fn attend_by(path: Path, seen: Seen<'_>, out: &mut Attended) {
    let Attended { values, tasks } = out;
    let Seen { heads, parts, .. } = seen;
    let (rows, width) = (parts.rows(), heads.query * heads.dim);
    values.clear();
    values.reserve(rows * width);
    add_tasks(tasks, parts, heads);
    let out = OutPtr(values.as_mut_ptr());
    tasks.par_iter().for_each(|task| {
        let row = parts.list[task.part].row + task.block;
        let at = row * width + task.kv * heads.shared() * heads.dim;
        // SAFETY: the parts' rows are disjoint, and so are the blocks and heads inside a part, so no
        // two tasks touch the same values; all of them lie inside the capacity.
        unsafe { attend_task(path, seen, *task, (out.get().add(at), width)) };
    });
    // SAFETY: the parts are all rows, the blocks of a part all of its rows, and each block's tasks all
    // heads; a task writes all of its values.
    unsafe { values.set_len(rows * width) };
}

/// What all tasks see.
#[derive(Clone, Copy)]
struct Seen<'a> {
    q: Matrix<'a>,
    k: Kept<'a>,
    v: Kept<'a>,
    heads: Heads,
    parts: &'a Parts,
}

fn add_tasks(tasks: &mut Vec<Task>, parts: &Parts, heads: Heads) {
    let all = parts.rows() * heads.query;
    let lanes = (all / (TASKS_EACH * rayon::current_num_threads())).clamp(TASK_LANES_MIN, TASK_LANES_MAX);
    let step = (lanes / heads.shared()).max(1);
    tasks.clear();
    for (i, part) in parts.iter().enumerate() {
        for block in (0..part.rows).step_by(step) {
            let rows = step.min(part.rows - block);
            tasks.extend((0..heads.kv).map(|kv| Task { part: i, block, rows, kv }));
        }
    }
}

/// Lets tasks write disjoint parts of one slice.
#[derive(Clone, Copy)]
struct OutPtr(*mut f32);
// SAFETY: `attend` gives every task its own values.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl OutPtr {
    const fn get(self) -> *mut f32 {
        self.0
    }
}

thread_local! {
    /// What a thread keeps from task to task, so that none allocates.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
}

/// # Safety
/// The processor has the path; `out` points to the task's first value: its rows stand so far apart, its heads side by
/// side, and nobody else touches them.
unsafe fn attend_task(path: Path, seen: Seen<'_>, task: Task, out: (*mut f32, usize)) {
    let Seen { q, k, v, heads, parts } = seen;
    let (part, dim, shared) = (&parts.list[task.part], heads.dim, heads.shared());
    let own_rows = if part.causal { task.block + task.rows } else { part.rows };
    let own = Span { start: part.own.start, rows: own_rows };
    let keys = Keys { k, v, context: parts.context(part), own, head: task.kv, dim };
    let at = (part.row + task.block) * q.stride + q.start + task.kv * shared * q.heads;
    let queries = blocks::Queries {
        q: Matrix { start: at, ..q },
        rows: task.rows,
        heads: shared,
        dim,
        seen: keys.count() - if part.causal { task.rows - 1 } else { 0 },
        causal: part.causal,
    };
    // SAFETY: the caller's.
    SCRATCH.with_borrow_mut(|scratch| unsafe { path.attend(queries, &keys, scratch, out) });
}

#[cfg(test)]
mod tests;
