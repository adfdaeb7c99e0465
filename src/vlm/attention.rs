//! Attention on the CPU, block by block: never more than `BLOCK_ROWS` rows of scores at once.
//!
//! A query row sees every key of the context spans, and of the last span, its own, the keys up to
//! its own place (causal) or all of them (inside one picture of the vision tower).
//!
//!     for each (sequence, head, block of rows), in parallel:
//!         scores = Q K^T span by span -> softmax -> out = P V span by span

use super::ops::softmax_row;
use rayon::prelude::*;
use std::cell::RefCell;

/// Rows of scores that one task holds; 32 rows of 4096 f32 scores take half of an L2 cache.
const BLOCK_ROWS: usize = 32;

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
pub struct Matrix<'a> {
    pub values: &'a [f32],
    /// Distance of rows.
    pub stride: usize,
    /// Column of the first head.
    pub start: usize,
}

/// Numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    /// Divides `query`; each serves `query / kv` query heads.
    pub kv: usize,
    pub dim: usize,
}

/// Attention of all parts. `out` is `[rows, heads.query * heads.dim]`.
pub fn attend(q: Matrix<'_>, k: Matrix<'_>, v: Matrix<'_>, heads: Heads, parts: &[Part], out: &mut [f32]) {
    let tasks: Vec<(&Part, usize, usize)> = parts
        .iter()
        .flat_map(|p| (0..p.rows).step_by(BLOCK_ROWS).map(move |block| (p, block)))
        .flat_map(|(p, block)| (0..heads.query).map(move |head| (p, block, head)))
        .collect();
    let width = heads.query * heads.dim;
    assert!(parts.iter().all(|p| (p.row + p.rows) * width <= out.len()), "a part leaves the output");
    let out = OutPtr(out.as_mut_ptr());
    tasks.into_par_iter().for_each(|(part, block, head)| {
        let rows = BLOCK_ROWS.min(part.rows - block);
        let at = (part.row + block) * width + head * heads.dim;
        // SAFETY: the parts' rows are disjoint, and so are the blocks and heads inside a part, so no
        // two tasks touch the same values; the assertion above keeps them inside the output.
        unsafe { attend_block(q, k, v, heads, part, block, rows, head, out.get().add(at), width) };
    });
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
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// # Safety
/// `out` points to `rows` rows of `heads.dim` values, `out_stride` apart, that nobody else touches.
#[allow(clippy::too_many_arguments)] // One block of one head is described by just these numbers.
unsafe fn attend_block(
    q: Matrix<'_>,
    k: Matrix<'_>,
    v: Matrix<'_>,
    heads: Heads,
    part: &Part,
    block: usize,
    rows: usize,
    head: usize,
    out: *mut f32,
    out_stride: usize,
) {
    let kv_head = head / (heads.query / heads.kv);
    let own_rows = if part.causal { block + rows } else { part.own.rows };
    let own = Span { start: part.own.start, rows: own_rows };
    let spans = || part.context.iter().copied().chain([own]).filter(|s| s.rows > 0);
    let keys: usize = spans().map(|s| s.rows).sum();
    let scale = 1.0 / (heads.dim as f32).sqrt();
    let query = &q.values[(part.row + block) * q.stride + q.start + head * heads.dim..];
    let span_of = |m: Matrix<'_>, s: Span| {
        let at = s.start * m.stride + m.start + kv_head * heads.dim;
        assert!(at + (s.rows - 1) * m.stride + heads.dim <= m.values.len(), "a span leaves the keys");
        at
    };
    assert!((rows - 1) * q.stride + heads.dim <= query.len(), "a block leaves the queries");
    SCORES.with_borrow_mut(|scores| {
        scores.resize(scores.len().max(rows * keys), 0.0);
        let mut column = 0;
        for s in spans() {
            let at = span_of(k, s);
            // SAFETY: the assertions above keep both operands inside their slices, and the scores
            // hold `rows * keys` values.
            unsafe {
                product(
                    [rows, s.rows, heads.dim],
                    (scores.as_mut_ptr().add(column), keys),
                    (query.as_ptr(), q.stride, 1),
                    (k.values.as_ptr().add(at), 1, k.stride),
                    scale,
                    false,
                );
            }
            column += s.rows;
        }
        for (i, row) in scores[..rows * keys].chunks_exact_mut(keys).enumerate() {
            // The last `rows` keys are the block's own; row `i` sees them up to its own place.
            let seen = if part.causal { keys - rows + i + 1 } else { keys };
            softmax_row(&mut row[..seen]);
            row[seen..].fill(0.0);
        }
        let mut column = 0;
        for s in spans() {
            let at = span_of(v, s);
            // SAFETY: as above; `out` belongs to this task alone.
            unsafe {
                product(
                    [rows, heads.dim, s.rows],
                    (out, out_stride),
                    (scores.as_ptr().add(column), keys, 1),
                    (v.values.as_ptr().add(at), v.stride, 1),
                    1.0,
                    column > 0,
                );
            }
            column += s.rows;
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
        let (k, v) =
            (Matrix { values: &k, stride: 48, start: 0 }, Matrix { values: &v, stride: 48, start: 0 });
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
        let (mut fast, mut slow) = (vec![7.0; 80 * 96], vec![0.0; 80 * 96]);
        attend(q, k, v, heads, &parts, &mut fast);
        reference(q, k, v, heads, &parts, &mut slow);
        let gap = fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap < 1e-5, "off by {gap}");
    }
}
