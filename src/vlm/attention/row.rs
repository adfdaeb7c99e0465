//! Products of a single query row: all of its heads that share their keys, against every key once.
//!
//! A general matrix product brings its operands into another order first, which takes memory and pays for many rows
//! only.

use multiversion::multiversion;

const LANES: usize = 16;
/// Rows of values that are added up at once, so that a sum is stored a quarter as often.
const AT_ONCE: usize = 4;

/// `scale * q k^T` of `[heads, dim]` queries and rows of keys `stride` apart: head `h`, key `j` at
/// `out[h * width + j]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn scores(q: &[f32], dim: usize, keys: &[f32], stride: usize, scale: f32, out: &mut [f32], width: usize) {
    for (j, key) in keys.chunks(stride).enumerate() {
        for (h, q) in q.chunks_exact(dim).enumerate() {
            out[h * width + j] = dot(q, &key[..dim]) * scale;
        }
    }
}

/// Sum in sixteen lanes, so that the compiler may use vector registers.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Adds the rows of values, `stride` apart and weighted, to `[heads, dim]` outputs: head `h`, row `j` by
/// `weights[h * width + j]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_weighted(
    weights: &[f32],
    width: usize,
    values: &[f32],
    stride: usize,
    out: &mut [f32],
    dim: usize,
) {
    for (block, values) in values.chunks(AT_ONCE * stride).enumerate() {
        let first = block * AT_ONCE;
        for (h, out) in out.chunks_exact_mut(dim).enumerate() {
            let weights = &weights[h * width + first..];
            if values.len() > (AT_ONCE - 1) * stride {
                let [w, x, y, z] = [0, 1, 2, 3].map(|i| &values[i * stride..][..dim]);
                for i in 0..dim {
                    out[i] +=
                        (weights[0] * w[i] + weights[1] * x[i]) + (weights[2] * y[i] + weights[3] * z[i]);
                }
                continue;
            }
            for (weight, values) in weights.iter().zip(values.chunks(stride)) {
                out.iter_mut().zip(values).for_each(|(out, v)| *out += weight * v);
            }
        }
    }
}
