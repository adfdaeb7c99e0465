//! Queries that share their keys, against one block of keys after another, with a running maximum and sum.
//!
//! ```text
//! for each block of keys and values, widened to f32 once for all queries of the task:
//!     for each few vectors of queries:
//!         scores  [keys, lanes] = keys [keys, dim] x queries [dim, lanes]
//!         weights [keys, lanes] = 2^(scores - maximum so far)
//!         out     [dim, lanes]  = out * 2^(old maximum - new) + values^T [dim, keys] x weights
//! out / sum of weights
//! ```
//!
//! A lane is one head of one row. Its result depends on its query and the keys that it sees, in their order, alone: not
//! on the other lanes, on how many there are, or on how the keys lie in spans. Source: Dao and others, `FlashAttention`
//! (2022), algorithm 1; the lanes stand where their matrices have columns, so that nothing is summed across a vector.

use super::Matrix;
use super::keys::Keys;
use super::lanes::Lanes;

/// Keys of a block: with the values they fill half of a small L2 cache at 128 values a head.
pub(super) const BLOCK_KEYS: usize = 64;
/// Most vectors of queries whose sums are in registers at once, on any path.
const VECTORS_MAX: usize = 3;
/// Most keys, or values of a head, whose sums are in registers at once, on any path; divides `BLOCK_KEYS`.
pub(super) const ROWS_MAX: usize = 8;
/// Lanes of the widest vector.
const LANES_MAX: usize = 16;

/// Some rows of queries, of all heads that share their keys.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    /// From the first row's first head on.
    pub(super) q: Matrix<'a>,
    pub(super) rows: usize,
    /// Heads of a row.
    pub(super) heads: usize,
    /// Values a head.
    pub(super) dim: usize,
    /// Keys that the first row sees.
    pub(super) seen: usize,
    /// Each row sees one key more than the one before it.
    pub(super) causal: bool,
}

impl Queries<'_> {
    pub(super) fn head(&self, row: usize, head: usize) -> &[f32] {
        &self.q.values[self.q.start + row * self.q.stride + head * self.q.heads..][..self.dim]
    }

    const fn lanes(&self) -> usize {
        self.rows * self.heads
    }

    /// Keys that a lane sees.
    fn seen_by(&self, lane: usize) -> usize {
        self.seen + if self.causal { lane / self.heads } else { 0 }
    }
}

/// The memory of a task, whose parts are cut from one buffer: its size depends on the shape of heads and the most lanes
/// of a task, not on the number of keys.
struct Room {
    /// Values a head, to whole `ROWS_MAX`.
    wide: usize,
    /// `[dim, lanes]` of each group of vectors, times what makes powers of two of them.
    queries: *mut f32,
    /// `[wide, lanes]` of each group.
    out: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    seen: *mut f32,
    /// `[BLOCK_KEYS, wide]`.
    keys: *mut f32,
    /// The same shape.
    values: *mut f32,
    /// `[BLOCK_KEYS, lanes]` of one group.
    scores: *mut f32,
}

impl Room {
    fn cut(scratch: &mut Vec<f32>, lanes: usize, lanes_max: usize, dim: usize) -> Self {
        let wide = dim.next_multiple_of(ROWS_MAX);
        let most = lanes_max.max(lanes).next_multiple_of(LANES_MAX);
        let sizes = [
            most * wide,
            most * wide,
            most,
            most,
            most,
            BLOCK_KEYS * wide,
            BLOCK_KEYS * wide,
            BLOCK_KEYS * VECTORS_MAX * LANES_MAX,
        ];
        let len = sizes.iter().sum();
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let mut rest = &mut scratch[..len];
        let [queries, out, max, sum, seen, keys, values, scores] = sizes.map(|size| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(size);
            rest = behind;
            part.as_mut_ptr()
        });
        Self { wide, queries, out, max, sum, seen, keys, values, scores }
    }
}

/// Attends with vectors `L`; the sums of `R` keys, or values of a head, and of `V` vectors are in registers at once.
///
/// # Safety
/// The processor has the vectors. The heads of row `i` of `out`, side by side at `i * out_stride`, belong to nobody else.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes, const R: usize, const V: usize>(
    q: Queries<'_>,
    keys: &Keys<'_>,
    scratch: &mut Vec<f32>,
    lanes_max: usize,
    (out, out_stride): (*mut f32, usize),
) {
    let room = Room::cut(scratch, q.lanes(), lanes_max, q.dim);
    let vectors = q.lanes().div_ceil(L::COUNT);
    // SAFETY: the caller's; the room holds all vectors of lanes, and `VECTORS_MAX` of them have room for scores.
    unsafe {
        begin::<L, V>(&q, &room, vectors);
        let count = q.seen_by(q.lanes() - 1);
        for first in (0..count).step_by(BLOCK_KEYS) {
            let here = BLOCK_KEYS.min(count - first);
            let [k, v] =
                [room.keys, room.values].map(|to| std::slice::from_raw_parts_mut(to, BLOCK_KEYS * room.wide));
            keys.read(first, here, room.wide, k, v);
            // Between the groups, so that what is asked for comes while they are computed.
            let (mut next, each) = (first + BLOCK_KEYS, BLOCK_KEYS.div_ceil(vectors.div_ceil(V)));
            let end = count.min(next + BLOCK_KEYS);
            let mut vector = 0;
            while vector < vectors {
                keys.prefetch(next, each.min(end.saturating_sub(next)));
                next += each;
                let together = V.min(vectors - vector);
                let last = (vector + together) * L::COUNT - 1;
                let seen = q.seen_by(last.min(q.lanes() - 1)).saturating_sub(first).min(here);
                let group = Group { room: &room, first, keys: seen, lane: vector * L::COUNT, dim: q.dim };
                if seen > 0 {
                    let all_see = q.seen_by(group.lane) >= first + seen;
                    match together {
                        1 => group.add::<L, R, 1>(all_see),
                        2 => group.add::<L, R, 2>(all_see),
                        _ => group.add::<L, R, 3>(all_see),
                    }
                }
                vector += together;
            }
        }
        end::<L, V>(&q, &room, vectors, (out, out_stride));
    }
}

/// The first lane and the lanes of each group of vectors.
fn groups<L: Lanes, const V: usize>(vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    let lanes = vectors * L::COUNT;
    let step = V * L::COUNT;
    (0..lanes).step_by(step).map(move |lane| (lane, step.min(lanes - lane)))
}

/// Lays the queries out and forgets what was summed.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn begin<L: Lanes, const V: usize>(q: &Queries<'_>, room: &Room, vectors: usize) {
    let scale = std::f32::consts::LOG2_E / (q.dim as f32).sqrt();
    for (first, lanes) in groups::<L, V>(vectors) {
        // SAFETY: the room holds the lanes.
        unsafe {
            let queries = room.queries.add(first * room.wide);
            for lane in 0..lanes {
                // Lanes without a query do as the last one, and are dropped.
                let from = (first + lane).min(q.lanes() - 1);
                let values = q.head(from / q.heads, from % q.heads);
                let mut to = queries.add(lane);
                for value in values {
                    *to = value * scale;
                    to = to.add(lanes);
                }
                *room.seen.add(first + lane) = q.seen_by(from) as f32;
            }
        }
    }
    let lanes = vectors * L::COUNT;
    // SAFETY: as above.
    unsafe {
        room.out.write_bytes(0, lanes * room.wide);
        room.sum.write_bytes(0, lanes);
        std::slice::from_raw_parts_mut(room.max, lanes).fill(f32::NEG_INFINITY);
    }
}

/// Writes the weighted sums of values over the sums of weights.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn end<L: Lanes, const V: usize>(
    q: &Queries<'_>,
    room: &Room,
    vectors: usize,
    (out, out_stride): (*mut f32, usize),
) {
    for (first, lanes) in groups::<L, V>(vectors) {
        for lane in first..(first + lanes).min(q.lanes()) {
            // SAFETY: the room holds the lanes, and `out` the head of the row that this one is.
            unsafe {
                let scale = 1.0 / *room.sum.add(lane);
                let mut sums = room.out.add(first * room.wide + lane - first);
                let out = out.add(lane / q.heads * out_stride + lane % q.heads * q.dim);
                for d in 0..q.dim {
                    *out.add(d) = *sums * scale;
                    sums = sums.add(lanes);
                }
            }
        }
    }
}

/// A few vectors of queries against a block of keys.
struct Group<'a> {
    room: &'a Room,
    /// Index of the block's first key.
    first: usize,
    /// Keys of the block that any lane sees.
    keys: usize,
    /// The first lane.
    lane: usize,
    dim: usize,
}

impl Group<'_> {
    /// Adds what `N` vectors see of the block.
    ///
    /// # Safety
    /// As [`run`]; there are so many vectors from the first lane on.
    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const N: usize>(&self, all_see: bool) {
        // SAFETY: the caller's.
        unsafe {
            self.score::<L, R, N>();
            let correction = self.weigh::<L, N>(all_see);
            self.sum::<L, R, N>(correction);
        }
    }

    /// Products of all keys, to whole `R`, with all queries.
    #[inline(always)]
    unsafe fn score<L: Lanes, const R: usize, const N: usize>(&self) {
        let (wide, lanes) = (self.room.wide, N * L::COUNT);
        // SAFETY: the caller's; `R` divides the keys that a block has room for.
        unsafe {
            let queries = self.room.queries.add(self.lane * wide);
            for key in (0..self.keys).step_by(R) {
                let mut keys = [self.room.keys.add(key * wide).cast_const(); R];
                for (r, keys) in keys.iter_mut().enumerate() {
                    *keys = keys.add(r * wide);
                }
                let mut sums = [[L::splat(0.0); N]; R];
                let mut at = queries.cast_const();
                for _ in 0..self.dim {
                    let mut q = [L::splat(0.0); N];
                    for (i, q) in q.iter_mut().enumerate() {
                        *q = L::load(at.add(i * L::COUNT));
                    }
                    for (sums, key) in sums.iter_mut().zip(&mut keys) {
                        let k = L::splat(**key);
                        for (sum, q) in sums.iter_mut().zip(q) {
                            *sum = q.mul_add(k, *sum);
                        }
                        *key = key.add(1);
                    }
                    at = at.add(lanes);
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    for (i, sum) in sums.into_iter().enumerate() {
                        sum.store(self.room.scores.add((key + r) * lanes + i * L::COUNT));
                    }
                }
            }
        }
    }

    /// Makes weights of scores, relative to the greatest score so far; gives what makes earlier sums relative to it.
    #[inline(always)]
    unsafe fn weigh<L: Lanes, const N: usize>(&self, all_see: bool) -> [L; N] {
        let lanes = N * L::COUNT;
        // SAFETY: the caller's.
        unsafe {
            let load = |from: *mut f32| -> [L; N] {
                let mut vectors = [L::splat(0.0); N];
                for (i, v) in vectors.iter_mut().enumerate() {
                    *v = L::load(from.add(self.lane + i * L::COUNT));
                }
                vectors
            };
            let (old, seen) = (load(self.room.max), load(self.room.seen));
            let mut max = old;
            let mut at = self.room.scores;
            for key in self.first..self.first + self.keys {
                for i in 0..N {
                    let mut score = L::load(at.add(i * L::COUNT));
                    if !all_see {
                        score = score.hide(seen[i], key as f32);
                        score.store(at.add(i * L::COUNT));
                    }
                    max[i] = score.max(max[i]);
                }
                at = at.add(lanes);
            }
            let mut sum = [L::splat(0.0); N];
            let mut at = self.room.scores;
            for _ in 0..self.keys {
                for i in 0..N {
                    let weight = L::load(at.add(i * L::COUNT)).sub(max[i]).power();
                    weight.store(at.add(i * L::COUNT));
                    sum[i] = sum[i].add(weight);
                }
                at = at.add(lanes);
            }
            let mut correction = old;
            for i in 0..N {
                correction[i] = old[i].sub(max[i]).power();
                let all = self.room.sum.add(self.lane + i * L::COUNT);
                L::load(all).mul_add(correction[i], sum[i]).store(all);
                max[i].store(self.room.max.add(self.lane + i * L::COUNT));
            }
            correction
        }
    }

    /// Adds the weighted values to the corrected sums.
    #[inline(always)]
    unsafe fn sum<L: Lanes, const R: usize, const N: usize>(&self, correction: [L; N]) {
        let (wide, lanes) = (self.room.wide, N * L::COUNT);
        // SAFETY: the caller's; `R` divides `wide`.
        unsafe {
            let out = self.room.out.add(self.lane * wide);
            for d in (0..self.dim).step_by(R) {
                let mut sums = [[L::splat(0.0); N]; R];
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = L::load(out.add((d + r) * lanes + i * L::COUNT)).mul(correction[i]);
                    }
                }
                let mut values = self.room.values.add(d).cast_const();
                let mut at = self.room.scores.cast_const();
                for _ in 0..self.keys {
                    let mut weights = [L::splat(0.0); N];
                    for (i, weight) in weights.iter_mut().enumerate() {
                        *weight = L::load(at.add(i * L::COUNT));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let v = L::splat(*values.add(r));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = weight.mul_add(v, *sum);
                        }
                    }
                    values = values.add(wide);
                    at = at.add(lanes);
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    for (i, sum) in sums.into_iter().enumerate() {
                        sum.store(out.add((d + r) * lanes + i * L::COUNT));
                    }
                }
            }
        }
    }
}
