//! Attention on the CPU, block by block: never more than a cache of scores at once.
//!
//! A query row sees every key of the context spans, and of the last span, its own, the keys up to
//! its own place (causal) or all of them (inside one picture of the vision tower).
//!
//!     for each (sequence, head, block of rows) or (sequence of one row, heads of the same keys):
//!         scores = Q K^T span by span -> softmax -> out = P V span by span

use super::ops::rows::softmax;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::cell::RefCell;

/// Scores that one task holds, half of a small L2 cache. A task packs the keys and values that its rows
/// see, so the more rows it has the better.
const SCORES_MAX: usize = (512 << 10) / size_of::<f32>();
/// Rows of a task, whatever the number of keys.
const TASK_ROWS_MIN: usize = 32;
const TASK_ROWS_MAX: usize = 256;

/// Rows of keys and values: row `r` of head `h` starts at `(start + r) * stride + h * head_dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub rows: usize,
}

/// One sequence's share of a batch.
#[derive(Clone, Debug)]
pub struct Part {
    /// First query row in the batch.
    pub row: usize,
    /// Number of query rows.
    pub rows: usize,
    /// Keys that every query row sees.
    pub context: Vec<Span>,
    /// Keys of the query rows themselves, as many as there are rows.
    pub own: Span,
    /// Query row `i` sees only the first `i + 1` rows of `own`.
    pub causal: bool,
}

/// A `[rows, heads * head_dim]` matrix inside a larger one.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    pub values: &'a [T],
    /// Distance of rows.
    pub stride: usize,
    /// Column of the first head.
    pub start: usize,
}

/// Keys or values in the precision that they are kept in; products are in f32.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    Single(Matrix<'a>),
    Half(Matrix<'a, f16>),
}

/// Numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    /// Divides `query`; each serves `query / kv` query heads.
    pub kv: usize,
    pub dim: usize,
}

/// What one task computes: some rows of one head or, of a single row, all heads that share their keys.
struct Task<'a> {
    part: &'a Part,
    /// First row, counted from the part's.
    block: usize,
    rows: usize,
    head: usize,
    heads: usize,
}

/// Attention of all parts, which follow one another without a gap: `[rows, heads.query * heads.dim]`.
///
/// # Panics
/// When they do not, or a span or a query leaves its matrix.
pub fn attend(q: Matrix<'_>, k: Kept<'_>, v: Kept<'_>, heads: Heads, parts: &[Part]) -> Vec<f32> {
    let mut rows = 0;
    for part in parts {
        assert!(part.row == rows && part.own.rows == part.rows, "parts follow one another");
        rows += part.rows;
    }
    let width = heads.query * heads.dim;
    let mut values = Vec::with_capacity(rows * width);
    let tasks: Vec<Task<'_>> = parts.iter().flat_map(|part| tasks(part, heads)).collect();
    let out = OutPtr(values.as_mut_ptr());
    tasks.into_par_iter().for_each(|task| {
        let at = (task.part.row + task.block) * width + task.head * heads.dim;
        // SAFETY: the parts' rows are disjoint, and so are the blocks and heads inside a part, so no
        // two tasks touch the same values; all of them lie inside the capacity.
        unsafe { attend_task(q, k, v, heads, &task, out.get().add(at), width) };
    });
    // SAFETY: the parts are all rows, the blocks of a part all of its rows, and each block's tasks all
    // heads; a task writes all of its values.
    unsafe { values.set_len(rows * width) };
    values
}

fn tasks(part: &Part, heads: Heads) -> impl Iterator<Item = Task<'_>> {
    let at_once = if part.rows == 1 { heads.query / heads.kv } else { 1 };
    let keys: usize = part.context.iter().chain([&part.own]).map(|s| s.rows).sum();
    let step = (SCORES_MAX / keys.max(1)).clamp(TASK_ROWS_MIN, TASK_ROWS_MAX);
    (0..part.rows).step_by(step).flat_map(move |block| {
        let rows = step.min(part.rows - block);
        let first = (0..heads.query).step_by(at_once);
        first.map(move |head| Task { part, block, rows, head, heads: at_once })
    })
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
                scratch.resize(scratch.len().max(span.rows * dim), 0.0);
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
unsafe fn attend_task(
    q: Matrix<'_>,
    k: Kept<'_>,
    v: Kept<'_>,
    heads: Heads,
    task: &Task<'_>,
    out: *mut f32,
    out_stride: usize,
) {
    let (part, dim) = (task.part, heads.dim);
    let column = task.head / (heads.query / heads.kv) * dim;
    let own_rows = if part.causal { task.block + task.rows } else { part.own.rows };
    let own = Span { start: part.own.start, rows: own_rows };
    let spans = || part.context.iter().copied().chain([own]).filter(|s| s.rows > 0);
    let keys: usize = spans().map(|s| s.rows).sum();
    // Rows of the products: the task's rows, or the heads of its only row, which are adjacent.
    let (m, q_stride, out_stride) =
        if task.heads == 1 { (task.rows, q.stride, out_stride) } else { (task.heads, dim, dim) };
    let query = &q.values[(part.row + task.block) * q.stride + q.start + task.head * dim..];
    assert!((m - 1) * q_stride + dim <= query.len(), "a task leaves the queries");
    SCRATCH.with_borrow_mut(|Scratch { scores, span }| {
        scores.resize(scores.len().max(m * keys), 0.0);
        let mut done = 0;
        for s in spans() {
            let (values, stride) = k.rows(s, column, dim, span);
            // SAFETY: `rows` and the assertion above keep both operands inside their slices, and the
            // scores hold `m * keys` values.
            unsafe {
                product(
                    [m, s.rows, dim],
                    (scores.as_mut_ptr().add(done), keys),
                    (query.as_ptr(), q_stride, 1),
                    (values.as_ptr(), 1, stride),
                    1.0 / (dim as f32).sqrt(),
                    false,
                );
            }
            done += s.rows;
        }
        for (i, row) in scores[..m * keys].chunks_exact_mut(keys).enumerate() {
            // The last keys are the block's own; its row `i` sees them up to its own place.
            let hidden = if part.causal && task.heads == 1 { task.rows - 1 - i } else { 0 };
            let (seen, hidden) = row.split_at_mut(keys - hidden);
            softmax(seen);
            hidden.fill(0.0);
        }
        let mut done = 0;
        for s in spans() {
            let (values, stride) = v.rows(s, column, dim, span);
            // SAFETY: as above; `out` belongs to this task alone.
            unsafe {
                product(
                    [m, dim, s.rows],
                    (out, out_stride),
                    (scores.as_ptr().add(done), keys, 1),
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
    fn reference(q: Matrix<'_>, k: Matrix<'_>, v: Matrix<'_>, heads: Heads, parts: &[Part], out: &mut [f32]) {
        for p in parts {
            for i in 0..p.rows {
                for head in 0..heads.query {
                    let kv = head / (heads.query / heads.kv) * heads.dim;
                    let own = if p.causal { i + 1 } else { p.own.rows };
                    let keys: Vec<usize> = p
                        .context
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
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let heads = Heads { query: 4, kv: 2, dim: 24 };
        let mut noise = |n: usize| (0..n).map(|_| rng.gen_range(-1.0..1.0)).collect::<Vec<f32>>();
        let (q, k, v) = (noise(80 * 100), noise(200 * 48), noise(200 * 48));
        let q = Matrix { values: &q, stride: 100, start: 4 };
        let [half_k, half_v] = [&k, &v].map(|m| m.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>());
        fn matrix<T>(values: &[T]) -> Matrix<'_, T> {
            Matrix { values, stride: 48, start: 0 }
        }
        let parts = [
            Part {
                row: 0,
                rows: 70,
                context: vec![Span { start: 100, rows: 7 }, Span { start: 0, rows: 3 }],
                own: Span { start: 110, rows: 70 },
                causal: true,
            },
            Part {
                row: 70,
                rows: 1,
                context: vec![Span { start: 10, rows: 50 }],
                own: Span { start: 60, rows: 1 },
                causal: true,
            },
            Part { row: 71, rows: 9, context: vec![], own: Span { start: 61, rows: 9 }, causal: false },
        ];
        let mut slow = vec![0.0; 80 * 96];
        reference(q, matrix(&k), matrix(&v), heads, &parts, &mut slow);
        let off = |k, v| {
            let fast = attend(q, k, v, heads, &parts);
            fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let single = off(Kept::Single(matrix(&k)), Kept::Single(matrix(&v)));
        let half = off(Kept::Half(matrix(&half_k)), Kept::Half(matrix(&half_v)));
        assert!(single < 1e-5, "off by {single}");
        assert!(half < 1e-3, "off by {half} with keys and values in half precision");
    }
}
