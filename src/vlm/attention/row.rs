//! A single row of queries: all heads that share their keys against each key, the lanes along the values of a head.
//!
//! Four heads would leave three quarters of the lanes of [`super::blocks`] empty. Blocks of keys, the running maximum and
//! sum are as there; the sums are in another order.

use super::blocks::{BLOCK_KEYS, Queries};
use super::keys::Keys;
use super::lanes::Lanes;

/// Most lanes of a vector: rows are so many values wide, or a multiple.
const LANES_MAX: usize = 16;

/// What is kept of each head, and the block that is read: cut from one buffer.
struct Room<'a> {
    wide: usize,
    /// `[heads, wide]`, times what makes powers of two of scores.
    queries: &'a mut [f32],
    /// `[heads, wide]`.
    out: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// `[BLOCK_KEYS, wide]`, what is beyond the values of a head 0.
    keys: &'a mut [f32],
    /// The same.
    values: &'a mut [f32],
    /// `[heads, BLOCK_KEYS]`; of a block that is not full the others are minus infinity, then 0.
    scores: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn cut(scratch: &'a mut Vec<f32>, heads: usize, dim: usize) -> Self {
        let wide = dim.next_multiple_of(LANES_MAX);
        let block = BLOCK_KEYS * wide;
        let sizes = [heads * wide, heads * wide, heads, heads, block, block, heads * BLOCK_KEYS];
        let len = sizes.iter().sum();
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let mut rest = &mut scratch[..len];
        let [queries, out, max, sum, keys, values, scores] = sizes.map(|size| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(size);
            rest = behind;
            part
        });
        queries.fill(0.0);
        out.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        if wide > dim {
            keys.fill(0.0);
            values.fill(0.0);
        }
        Self { wide, queries, out, max, sum, keys, values, scores }
    }
}

/// Attends with vectors `L`.
///
/// # Safety
/// The processor has the vectors.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(q: Queries<'_>, keys: &Keys<'_>, scratch: &mut Vec<f32>, out: &mut [f32]) {
    let mut p = Room::cut(scratch, q.heads, q.dim);
    let scale = std::f32::consts::LOG2_E / (q.dim as f32).sqrt();
    for (h, query) in p.queries.chunks_exact_mut(p.wide).enumerate() {
        query.iter_mut().zip(q.head(0, h)).for_each(|(to, value)| *to = value * scale);
    }
    for first in (0..q.seen).step_by(BLOCK_KEYS) {
        let count = BLOCK_KEYS.min(q.seen - first);
        keys.read(first, count, p.wide, p.keys, p.values);
        let mut head = 0;
        while head < q.heads {
            // SAFETY: the caller's; there are so many heads.
            head += unsafe {
                match q.heads - head {
                    1 => add::<L, 1>(&mut p, head, count),
                    2 | 3 => add::<L, 2>(&mut p, head, count),
                    _ => add::<L, 4>(&mut p, head, count),
                }
            };
        }
    }
    for ((sums, out), sum) in p.out.chunks_exact(p.wide).zip(out.chunks_exact_mut(q.dim)).zip(&*p.sum) {
        let scale = 1.0 / sum;
        out.iter_mut().zip(sums).for_each(|(out, v)| *out = v * scale);
    }
}

/// Adds what `H` heads see of a block; gives `H`.
#[inline(always)]
unsafe fn add<L: Lanes, const H: usize>(p: &mut Room<'_>, head: usize, count: usize) -> usize {
    // SAFETY: the caller's; rows are whole vectors wide, and an odd key is followed by one of the block.
    unsafe {
        for key in (0..count).step_by(2) {
            score::<L, H>(p, head, key);
        }
        let correction = weigh::<L, H>(p, head, count);
        let (mut at, vectors) = (0, p.wide / L::COUNT);
        while at + 2 <= vectors {
            sum::<L, H, 2>(p, (head, at * L::COUNT), count, correction);
            at += 2;
        }
        if at < vectors {
            sum::<L, H, 1>(p, (head, at * L::COUNT), count, correction);
        }
    }
    H
}

/// Products of two keys with `H` queries.
#[inline(always)]
unsafe fn score<L: Lanes, const H: usize>(p: &mut Room<'_>, head: usize, key: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut queries = p.queries.as_ptr().add(head * p.wide);
        let mut keys = p.keys.as_ptr().add(key * p.wide);
        let mut sums = [[L::splat(0.0); 2]; H];
        for _ in 0..p.wide / L::COUNT {
            let k = [L::load(keys), L::load(keys.add(p.wide))];
            let mut query = queries;
            for sums in &mut sums {
                let q = L::load(query);
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = q.mul_add(k, *sum);
                }
                query = query.add(p.wide);
            }
            queries = queries.add(L::COUNT);
            keys = keys.add(L::COUNT);
        }
        let mut to = p.scores.as_mut_ptr().add(head * BLOCK_KEYS + key);
        for [a, b] in sums {
            *to = a.total();
            *to.add(1) = b.total();
            to = to.add(BLOCK_KEYS);
        }
    }
}

/// Makes weights of the scores of `H` heads; gives what makes earlier sums relative to the same maximum.
#[inline(always)]
unsafe fn weigh<L: Lanes, const H: usize>(p: &mut Room<'_>, head: usize, count: usize) -> [f32; H] {
    let mut correction = [0.0; H];
    for (h, correction) in correction.iter_mut().enumerate() {
        let scores = &mut p.scores[(head + h) * BLOCK_KEYS..][..BLOCK_KEYS];
        scores[count..].fill(f32::NEG_INFINITY);
        let (old, sum) = (p.max[head + h], &mut p.sum[head + h]);
        // SAFETY: the caller's; a block is whole vectors.
        unsafe {
            let mut max = L::splat(old);
            for scores in scores.chunks_exact(L::COUNT) {
                max = L::load(scores.as_ptr()).max(max);
            }
            let mut lanes = [f32::NEG_INFINITY; LANES_MAX];
            max.store(lanes.as_mut_ptr());
            // A NaN is in the weights whatever the maximum.
            let max = lanes.iter().copied().fold(old, f32::max);
            let mut total = L::splat(0.0);
            for scores in scores.chunks_exact_mut(L::COUNT) {
                let weight = L::load(scores.as_ptr()).sub(L::splat(max)).power();
                weight.store(scores.as_mut_ptr());
                total = total.add(weight);
            }
            L::splat(old - max).power().store(lanes.as_mut_ptr());
            *correction = lanes[0];
            *sum = *sum * *correction + total.total();
            p.max[head + h] = max;
        }
    }
    correction
}

/// Adds weighted values to `N` vectors of `H` corrected sums.
#[inline(always)]
unsafe fn sum<L: Lanes, const H: usize, const N: usize>(
    p: &mut Room<'_>,
    (head, column): (usize, usize),
    count: usize,
    correction: [f32; H],
) {
    // SAFETY: the caller's; there are so many heads and columns.
    unsafe {
        let out = p.out.as_mut_ptr().add(head * p.wide + column);
        let mut sums = [[L::splat(0.0); N]; H];
        for (h, sums) in sums.iter_mut().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(out.add(h * p.wide + i * L::COUNT)).mul(L::splat(correction[h]));
            }
        }
        let mut weights = p.scores.as_ptr().add(head * BLOCK_KEYS);
        let mut values = p.values.as_ptr().add(column);
        for _ in 0..count {
            let mut v = [L::splat(0.0); N];
            for (i, v) in v.iter_mut().enumerate() {
                *v = L::load(values.add(i * L::COUNT));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(h * BLOCK_KEYS));
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum = v.mul_add(weight, *sum);
                }
            }
            weights = weights.add(1);
            values = values.add(p.wide);
        }
        for (h, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(h * p.wide + i * L::COUNT));
            }
        }
    }
}
