//! Attention against its definition, value by value.

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
