//! Attention against its definition, value by value, on every path that this processor has.

use super::*;
use half::f16;
use rand::{Rng, SeedableRng};

/// The definition.
fn reference(seen: Seen<'_>, [k, v]: [Matrix<'_>; 2]) -> Vec<f32> {
    let Seen { q, heads, parts, .. } = seen;
    let mut out = vec![];
    for p in parts {
        for i in 0..p.rows {
            for head in 0..heads.query {
                let own = if p.causal { i + 1 } else { p.own.rows };
                let keys: Vec<usize> = parts
                    .context(p)
                    .iter()
                    .flat_map(|s| s.start..s.start + s.rows)
                    .chain(p.own.start..p.own.start + own)
                    .collect();
                let at = |m: &Matrix<'_>, row: usize, head: usize| m.start + row * m.stride + head * m.heads;
                let (of, dim) = (head / heads.shared(), heads.dim);
                let query = &q.values[at(&q, p.row + i, head)..][..dim];
                let score = |row: &usize| {
                    let key = &k.values[at(&k, *row, of)..][..dim];
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    dot / (dim as f64).sqrt()
                };
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..dim).map(|d| {
                    let value = |row: &usize| f64::from(v.values[at(&v, *row, of) + d]);
                    let sums = keys.iter().zip(&weights).map(|(row, w)| value(row) * w);
                    (sums.sum::<f64>() / sum) as f32
                }));
            }
        }
    }
    out
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.gen_range(-1.0..1.0)).collect()
}

/// Queries, keys and values, one row of heads after the other.
struct Values {
    heads: Heads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Values {
    fn new(heads: Heads, queries: usize, keys: usize) -> Self {
        let kept = keys * heads.kv * heads.dim;
        Self { heads, q: noise(queries * heads.query * heads.dim, 1), k: noise(kept, 2), v: noise(kept, 3) }
    }

    fn queries(&self) -> Matrix<'_> {
        let dim = self.heads.dim;
        Matrix { values: &self.q, stride: self.heads.query * dim, start: 0, heads: dim }
    }

    fn kept<'a, T>(&self, values: &'a [T]) -> Matrix<'a, T> {
        let dim = self.heads.dim;
        Matrix { values, stride: self.heads.kv * dim, start: 0, heads: dim }
    }

    fn seen<'a>(&'a self, parts: &'a Parts) -> Seen<'a> {
        let [k, v] = [&self.k, &self.v].map(|values| Kept::Single(self.kept(values)));
        Seen { q: self.queries(), k, v, heads: self.heads, parts }
    }
}

fn by(path: Path, seen: Seen<'_>) -> Vec<f32> {
    let mut out = Attended::default();
    attend_by(path, seen, &mut out);
    out.values
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max, gap| if gap > max || gap.is_nan() { gap } else { max })
}

/// Several rows and single ones, in several spans, over more than one block of keys and of queries.
fn parts() -> Parts {
    let mut parts = Parts::default();
    parts.push(70, [Span { start: 200, rows: 7 }, Span { start: 0, rows: 3 }], 110, true);
    parts.push(1, [Span { start: 10, rows: 150 }, Span { start: 7, rows: 0 }], 60, true);
    parts.push(9, [], 61, false);
    parts.push(1, [], 3, true);
    parts.push(100, [Span { start: 1, rows: 129 }], 130, false);
    parts
}

#[test]
fn every_path_agrees_with_the_definition() {
    let of = |query, kv, dim| Heads { query, kv, dim };
    for heads in [of(4, 2, 24), of(8, 2, 128), of(3, 3, 64), of(5, 1, 72), of(2, 2, 18), of(14, 2, 16)] {
        let values = Values::new(heads, 181, 230);
        let parts = parts();
        let seen = values.seen(&parts);
        let slow = reference(seen, [&values.k, &values.v].map(|m| values.kept(m)));
        for path in Path::available() {
            let off = gap(&by(path, seen), &slow);
            assert!(off < 1e-5, "{path:?}, {heads:?}: off by {off}");
        }
    }
}

#[test]
fn keys_and_values_are_read_as_they_are_kept() {
    let values = Values::new(Heads { query: 4, kv: 2, dim: 72 }, 181, 230);
    let (parts, dim) = (parts(), 72);
    let half = [&values.k, &values.v].map(|m| m.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>());
    let [k, v] = half.each_ref().map(|m| Kept::Half(values.kept(m)));
    let widened = half.each_ref().map(|m| m.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    let slow = reference(values.seen(&parts), widened.each_ref().map(|m| values.kept(m)));
    let fast = by(Path::best(), Seen { k, v, ..values.seen(&parts) });
    assert!(gap(&fast, &slow) < 1e-5, "16 bits: off by {}", gap(&fast, &slow));

    // Integers, and scales of 32, 32 and 8 values.
    let integers =
        [1, 2].map(|seed| noise(values.k.len(), seed).iter().map(|x| (x * 127.0) as i8).collect::<Vec<_>>());
    let scales = [3, 4].map(|seed| noise(values.k.len() / dim * 3, seed));
    let widened = [0, 1].map(|i| {
        let rows = integers[i].chunks(dim).zip(scales[i].chunks(3));
        rows.flat_map(|(row, scales)| {
            row.iter().enumerate().map(|(d, x)| f32::from(*x) / 127.0 * scales[d / GROUP])
        })
        .collect::<Vec<_>>()
    });
    let scales = scales.map(|scales| scales.iter().map(|s| s / 127.0).collect::<Vec<_>>());
    let kept = |i: usize| Kept::Eight {
        values: values.kept(&integers[i]),
        scales: Matrix { values: &scales[i], stride: 2 * 3, start: 0, heads: 3 },
    };
    let slow = reference(values.seen(&parts), widened.each_ref().map(|m| values.kept(m)));
    let fast = by(Path::best(), Seen { k: kept(0), v: kept(1), ..values.seen(&parts) });
    assert!(gap(&fast, &slow) < 1e-5, "8 bits: off by {}", gap(&fast, &slow));
}

/// Among others of its sequence, or of a batch, a row has the same bits as in the company of one other row, and whatever
/// spans its keys lie in.
#[test]
fn a_row_does_not_feel_its_company() {
    let values = Values::new(Heads { query: 8, kv: 2, dim: 64 }, 200, 400);
    let width = 8 * 64;
    for path in Path::available() {
        let of = |rows: usize, context: &[Span], own: usize, at: usize| {
            let mut parts = Parts::default();
            parts.push(rows, context.iter().copied(), own, true);
            let mut seen = values.seen(&parts);
            seen.q.start = at * width;
            by(path, seen)
        };
        let whole = of(150, &[Span { start: 0, rows: 90 }], 90, 0);
        for first in [0, 1, 63, 64, 148] {
            let context = [Span { start: 0, rows: 33 }, Span { start: 33, rows: 57 + first }];
            let two = of(2, &context, 90 + first, first);
            assert_eq!(two, whole[first * width..][..2 * width], "{path:?}, row {first}");
            let one = of(1, &context, 90 + first, first);
            let off = gap(&one, &whole[first * width..][..width]);
            assert!(off < 1e-6, "{path:?}: alone, row {first} is off by {off}");
        }
    }
}

#[test]
fn great_scores_neither_overflow_nor_hide_a_nan() {
    let mut values = Values::new(Heads { query: 2, kv: 1, dim: 16 }, 100, 200);
    values.q.iter_mut().for_each(|q| *q *= 1e4);
    for rows in [1, 100] {
        let mut parts = Parts::default();
        parts.push(rows, [], 0, false);
        parts.push(100 - rows, [], 100, true);
        let slow = reference(values.seen(&parts), [&values.k, &values.v].map(|m| values.kept(m)));
        for path in Path::available() {
            let off = gap(&by(path, values.seen(&parts)), &slow);
            assert!(off < 1e-2, "{path:?}: off by {off}");
        }
    }
    let k = values.k.clone();
    for at in [5 * 16, 99 * 16 + 3] {
        values.k.clone_from(&k);
        values.k[at] = f32::NAN;
        let mut parts = Parts::default();
        parts.push(100, [], 0, false);
        for path in Path::available() {
            assert!(by(path, values.seen(&parts)).iter().all(|v| v.is_nan()), "{path:?}: a NaN vanished");
        }
    }
}
