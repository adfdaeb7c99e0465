//! Attention on the CPU, block by block: never more than a cache of scores at once.
//!
//! A query row sees every key of the context spans, and of the last span, its own, the keys up to
//! its own place (causal) or all of them (inside one picture of the vision tower).
//!
//! ```text
//! for each (sequence, head, block of rows) or (sequence of one row, heads of the same keys):
//!     scores = Q K^T span by span -> softmax -> out = P V span by span
//! ```
//!
//! Blocks multiply by the crate [`gemm`], single rows by [`row`].

mod row;

use super::ops::rows::softmax;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Scores that one task holds, half of a small L2 cache. A task packs the keys and values that its rows
/// see, so the more rows it has the better.
const SCORES_MAX: usize = (512 << 10) / size_of::<f32>();
/// Rows of a task, whatever the number of keys.
const TASK_ROWS_MIN: usize = 32;
const TASK_ROWS_MAX: usize = 256;

/// Rows of keys and values: row `r` of head `h` starts at `(start + r) * stride + h * head_dim`.
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

/// A `[rows, heads * head_dim]` matrix inside a larger one.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    /// Row after row.
    pub values: &'a [T],
    /// Distance of rows.
    pub stride: usize,
    /// Column of the first head.
    pub start: usize,
}

/// Keys or values in the precision that they are kept in; products are in f32.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    /// As they were computed.
    Single(Matrix<'a>),
    /// Widened to f32 where they are read.
    Half(Matrix<'a, f16>),
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

/// What one task computes: some rows of one head or, of a single row, all heads that share their keys.
#[derive(Clone, Copy, Debug)]
struct Task {
    /// Index of the part.
    part: usize,
    /// First row, counted from the part's.
    block: usize,
    rows: usize,
    head: usize,
    heads: usize,
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
    let Attended { values, tasks } = out;
    let (rows, width) = (parts.rows(), heads.query * heads.dim);
    values.clear();
    values.reserve(rows * width);
    tasks.clear();
    for (i, part) in parts.iter().enumerate() {
        add_tasks(tasks, i, part, parts.context(part), heads);
    }
    let out = OutPtr(values.as_mut_ptr());
    tasks.par_iter().for_each(|task| {
        let at = (parts.list[task.part].row + task.block) * width + task.head * heads.dim;
        // SAFETY: the parts' rows are disjoint, and so are the blocks and heads inside a part, so no
        // two tasks touch the same values; all of them lie inside the capacity.
        unsafe { attend_task(Seen { q, k, v, heads, parts }, *task, out.get().add(at), width) };
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

fn add_tasks(tasks: &mut Vec<Task>, i: usize, part: &Part, context: &[Span], heads: Heads) {
    let at_once = if part.rows == 1 { heads.query / heads.kv } else { 1 };
    let keys: usize = context.iter().map(|s| s.rows).sum::<usize>() + part.rows;
    let step = (SCORES_MAX / keys.max(1)).clamp(TASK_ROWS_MIN, TASK_ROWS_MAX);
    for block in (0..part.rows).step_by(step) {
        let rows = step.min(part.rows - block);
        let first = (0..heads.query).step_by(at_once);
        tasks.extend(first.map(|head| Task { part: i, block, rows, head, heads: at_once }));
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

/// What a thread keeps from task to task, so that none allocates.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// One head's rows of a span in f32, where they are kept in less.
    span: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Makes scratch hold `len` values. It starts large: with every token a sequence has one more key.
fn grow(scratch: &mut Vec<f32>, len: usize) {
    if scratch.len() < len {
        scratch.resize(len.max(SCORES_MAX), 0.0);
    }
}

impl Kept<'_> {
    /// One head's rows of a span: the first value, and the distance of rows.
    fn rows<'b>(
        &'b self,
        span: Span,
        column: usize,
        dim: usize,
        scratch: &'b mut Vec<f32>,
    ) -> (&'b [f32], usize) {
        let (stride, start, len) = match self {
            Self::Single(m) => (m.stride, m.start, m.values.len()),
            Self::Half(m) => (m.stride, m.start, m.values.len()),
        };
        let at = span.start * stride + start + column;
        let end = at + (span.rows - 1) * stride + dim;
        assert!(end <= len, "a span leaves the keys");
        match self {
            Self::Single(m) => (&m.values[at..end], stride),
            Self::Half(m) => {
                grow(scratch, span.rows * dim);
                for (row, out) in m.values[at..end].chunks(stride).zip(scratch.chunks_exact_mut(dim)) {
                    row[..dim].convert_to_f32_slice(out);
                }
                (&scratch[..span.rows * dim], dim)
            }
        }
    }
}

/// # Safety
/// `out` points to the task's first value: its rows stand `out_stride` apart, its heads side by side,
/// and nobody else touches them.
unsafe fn attend_task(seen: Seen<'_>, task: Task, out: *mut f32, out_stride: usize) {
    let Seen { q, k, v, heads, parts } = seen;
    let (part, dim) = (&parts.list[task.part], heads.dim);
    let own_rows = if part.causal { task.block + task.rows } else { part.rows };
    let own = Span { start: part.own.start, rows: own_rows };
    let keys = Keys {
        k,
        v,
        context: parts.context(part),
        own,
        column: task.head / (heads.query / heads.kv) * dim,
        dim,
    };
    let at = (part.row + task.block) * q.stride + q.start + task.head * dim;
    if task.rows == 1 {
        let query = &q.values[at..][..task.heads * dim];
        // SAFETY: the heads are adjacent, and the caller's; zeros are values.
        let out = unsafe {
            out.write_bytes(0, query.len());
            std::slice::from_raw_parts_mut(out, query.len())
        };
        return attend_row(query, &keys, out);
    }
    let query = &q.values[at..][..(task.rows - 1) * q.stride + dim];
    // SAFETY: the caller's.
    unsafe { attend_block((query, q.stride), &keys, task.rows, part.causal, (out, out_stride)) };
}

/// What a task's rows see of one head.
struct Keys<'a> {
    k: Kept<'a>,
    v: Kept<'a>,
    context: &'a [Span],
    own: Span,
    column: usize,
    dim: usize,
}

impl Keys<'_> {
    fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.context.iter().copied().chain([self.own])
    }

    fn count(&self) -> usize {
        self.spans().map(|s| s.rows).sum()
    }
}

/// One row of queries, `[heads, dim]`, which sees all keys; adds to `out`, of the same shape.
fn attend_row(query: &[f32], keys: &Keys<'_>, out: &mut [f32]) {
    let (dim, count) = (keys.dim, keys.count());
    SCRATCH.with_borrow_mut(|Scratch { scores, span }| {
        grow(scores, query.len() / dim * count);
        let mut done = 0;
        for s in keys.spans() {
            let (values, stride) = keys.k.rows(s, keys.column, dim, span);
            let scale = 1.0 / (dim as f32).sqrt();
            row::scores(query, dim, values, stride, scale, &mut scores[done..], count);
            done += s.rows;
        }
        scores.chunks_exact_mut(count).take(query.len() / dim).for_each(softmax);
        let mut done = 0;
        for s in keys.spans() {
            let (values, stride) = keys.v.rows(s, keys.column, dim, span);
            row::add_weighted(&scores[done..], count, values, stride, out, dim);
            done += s.rows;
        }
    });
}

/// Several rows of one head's queries. If causal, each sees one key less than the row behind it, and the last
/// one all.
///
/// # Safety
/// The query's rows, `q_stride` apart, are inside their slice; those of `out` stand `out_stride` apart and belong to
/// nobody else.
unsafe fn attend_block(
    (query, q_stride): (&[f32], usize),
    keys: &Keys<'_>,
    rows: usize,
    causal: bool,
    (out, out_stride): (*mut f32, usize),
) {
    let (dim, count) = (keys.dim, keys.count());
    SCRATCH.with_borrow_mut(|Scratch { scores, span }| {
        grow(scores, rows * count);
        let mut done = 0;
        for s in keys.spans() {
            let (values, stride) = keys.k.rows(s, keys.column, dim, span);
            // SAFETY: the caller's; `rows` keeps the keys inside their slice, and the scores hold
            // `rows * count` values.
            unsafe {
                product(
                    [rows, s.rows, dim],
                    (scores.as_mut_ptr().add(done), count),
                    (query.as_ptr(), q_stride, 1),
                    (values.as_ptr(), 1, stride),
                    1.0 / (dim as f32).sqrt(),
                    false,
                );
            }
            done += s.rows;
        }
        for (i, row) in scores[..rows * count].chunks_exact_mut(count).enumerate() {
            let hidden = if causal { rows - 1 - i } else { 0 };
            let (seen, hidden) = row.split_at_mut(count - hidden);
            softmax(seen);
            hidden.fill(0.0);
        }
        let mut done = 0;
        for s in keys.spans() {
            let (values, stride) = keys.v.rows(s, keys.column, dim, span);
            // SAFETY: as above; `out` belongs to this task alone.
            unsafe {
                product(
                    [rows, dim, s.rows],
                    (out, out_stride),
                    (scores.as_ptr().add(done), count, 1),
                    (values.as_ptr(), stride, 1),
                    1.0,
                    done > 0,
                );
            }
            done += s.rows;
        }
    });
}

/// dst (+)= scale * lhs * rhs for sizes `[m, n, k]`; strides as (rows, columns).
///
/// # Safety
/// The pointers must be valid for the sizes and strides.
unsafe fn product(
    [m, n, k]: [usize; 3],
    (dst, dst_rows): (*mut f32, usize),
    (lhs, lhs_rows, lhs_cols): (*const f32, usize, usize),
    (rhs, rhs_rows, rhs_cols): (*const f32, usize, usize),
    scale: f32,
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_rows as isize,
            add,
            lhs,
            lhs_cols as isize,
            lhs_rows as isize,
            rhs,
            rhs_cols as isize,
            rhs_rows as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// The definition, value by value.
    fn reference(q: Matrix<'_>, k: Matrix<'_>, v: Matrix<'_>, heads: Heads, parts: &Parts, out: &mut [f32]) {
        for p in parts {
            for i in 0..p.rows {
                for head in 0..heads.query {
                    let kv = head / (heads.query / heads.kv) * heads.dim;
                    let own = if p.causal { i + 1 } else { p.own.rows };
                    let keys: Vec<usize> = parts
                        .context(p)
                        .iter()
                        .flat_map(|s| s.start..s.start + s.rows)
                        .chain(p.own.start..p.own.start + own)
                        .collect();
                    let query = &q.values[(p.row + i) * q.stride + q.start + head * heads.dim..][..heads.dim];
                    let mut weights: Vec<f64> = keys
                        .iter()
                        .map(|r| {
                            let key = &k.values[r * k.stride + k.start + kv..][..heads.dim];
                            let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum();
                            (dot / (heads.dim as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    weights.iter_mut().for_each(|w| *w /= sum);
                    for d in 0..heads.dim {
                        let at = |r: &usize| f64::from(v.values[r * v.stride + v.start + kv + d]);
                        let value: f64 = keys.iter().zip(&weights).map(|(r, w)| at(r) * w).sum();
                        out[(p.row + i) * heads.query * heads.dim + head * heads.dim + d] = value as f32;
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_agree_with_the_definition() {
        fn matrix<T>(values: &[T]) -> Matrix<'_, T> {
            Matrix { values, stride: 48, start: 0 }
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let heads = Heads { query: 4, kv: 2, dim: 24 };
        let mut noise = |n: usize| (0..n).map(|_| rng.gen_range(-1.0..1.0)).collect::<Vec<f32>>();
        let (q, k, v) = (noise(80 * 100), noise(200 * 48), noise(200 * 48));
        let q = Matrix { values: &q, stride: 100, start: 4 };
        let [half_k, half_v] = [&k, &v].map(|m| m.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>());
        let mut parts = Parts::default();
        parts.push(70, [Span { start: 100, rows: 7 }, Span { start: 0, rows: 3 }], 110, true);
        parts.push(1, [Span { start: 10, rows: 50 }, Span { start: 7, rows: 0 }], 60, true);
        parts.push(9, [], 61, false);
        let mut slow = vec![0.0; 80 * 96];
        reference(q, matrix(&k), matrix(&v), heads, &parts, &mut slow);
        let mut fast = Attended::default();
        let mut off = |k, v| {
            attend(q, k, v, heads, &parts, &mut fast);
            fast.values.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let single = off(Kept::Single(matrix(&k)), Kept::Single(matrix(&v)));
        let half = off(Kept::Half(matrix(&half_k)), Kept::Half(matrix(&half_v)));
        assert!(single < 1e-5, "off by {single}");
        assert!(half < 1e-3, "off by {half} with keys and values in half precision");
    }
}
