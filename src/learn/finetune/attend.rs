//! Attention inside sequences of rows, with its gradient.
//!
//! ```text
//! [rows, q heads | k heads | v heads] --each part, each head of keys--> softmax(scale q k^T) v --> [rows, q heads]
//! ```
//!
//! On the CPU the weights of a head are made anew on the way back, so that no `rows x rows` matrix is kept. A causal
//! part sees itself and what stands before it; parts never see each other.

use super::ops::{values, with};
use super::product::{Out, View, product};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use vlm::attention::Heads;
use vlm::ops::rows::softmax;

/// Which rows see which.
#[derive(Clone, Debug)]
pub(super) struct Attend {
    /// Of all rows, one part after the other.
    pub parts: Arc<[Range<usize>]>,
    pub heads: Heads,
    pub causal: bool,
}

impl Attend {
    fn width(&self) -> usize {
        (self.heads.query + 2 * self.heads.kv) * self.heads.dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// The rows' attention: `[rows, query * dim]`.
    pub(super) fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        if qkv.device().is_cpu() { qkv.contiguous()?.apply_op1(self.clone()) } else { self.composed(qkv) }
    }

    /// By candle's operations, part by part.
    fn composed(&self, qkv: &Tensor) -> Result<Tensor> {
        let Heads { query, kv, dim } = self.heads;
        let mut out = vec![];
        for part in self.parts.iter() {
            let rows = part.len();
            let all = qkv.narrow(0, part.start, rows)?;
            // [heads, rows, dim]
            let split = |from: usize, heads: usize| {
                let x = all.narrow(1, from * dim, heads * dim)?.reshape((rows, heads, dim))?;
                x.transpose(0, 1)?.contiguous()
            };
            let group = query / kv;
            let each = |x: Tensor| {
                let x = x.unsqueeze(1)?.expand((kv, group, rows, dim))?;
                x.reshape((query, rows, dim))?.contiguous()
            };
            let (q, k, v) = (split(0, query)?, each(split(query, kv)?)?, each(split(query + kv, kv)?)?);
            let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(self.scale()))?;
            if self.causal {
                let mask: Vec<f32> = (0..rows * rows)
                    .map(|i| if i % rows > i / rows { f32::NEG_INFINITY } else { 0.0 })
                    .collect();
                scores = scores.broadcast_add(&Tensor::from_vec(mask, (rows, rows), qkv.device())?)?;
            }
            let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
            let weights = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
            out.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((rows, query * dim))?);
        }
        Tensor::cat(&out, 0)
    }

    /// What is done on its own: a part and a head of keys.
    fn tasks(&self) -> Vec<(Range<usize>, usize)> {
        self.parts.iter().flat_map(|part| (0..self.heads.kv).map(move |kv| (part.clone(), kv))).collect()
    }

    /// Queries, keys or values of one head in one part: `[part, dim]`.
    fn head<'a>(&self, qkv: &'a [f32], part: &Range<usize>, head: usize) -> View<'a> {
        let width = self.width();
        View::new(&qkv[part.start * width + head * self.heads.dim..], part.len(), self.heads.dim, width)
    }

    /// `softmax(scale q k^T)`: `[part, part]`.
    fn weights(&self, q: View<'_>, k: View<'_>, n: usize) -> Vec<f32> {
        let mut weights = vec![0.0; n * n];
        product(q, k.turned(), &mut weights, alone(n, self.scale()));
        for (i, row) in weights.chunks_exact_mut(n).enumerate() {
            let seen = if self.causal { i + 1 } else { n };
            softmax(&mut row[..seen]);
            row[seen..].fill(0.0);
        }
        weights
    }

    /// Of one task: `[part, dim]` for each of its heads of queries.
    fn part_forward(&self, qkv: &[f32], part: &Range<usize>, kv: usize) -> Vec<Vec<f32>> {
        let Heads { query, kv: kvs, dim } = self.heads;
        let n = part.len();
        let (k, v) = (self.head(qkv, part, query + kv), self.head(qkv, part, query + kvs + kv));
        let group = query / kvs;
        (kv * group..(kv + 1) * group)
            .map(|head| {
                let weights = self.weights(self.head(qkv, part, head), k, n);
                let mut out = vec![0.0; n * dim];
                product(View::new(&weights, n, n, n), v, &mut out, alone(dim, 1.0));
                out
            })
            .collect()
    }

    /// The gradients of one task: those of its heads of queries, then of keys, then of values.
    fn part_back(&self, qkv: &[f32], g: &[f32], part: &Range<usize>, kv: usize) -> Vec<Vec<f32>> {
        let Heads { query, kv: kvs, dim } = self.heads;
        let (n, group, out_width) = (part.len(), query / kvs, query * dim);
        let (k, v) = (self.head(qkv, part, query + kv), self.head(qkv, part, query + kvs + kv));
        let (mut of_k, mut of_v, mut all) = (vec![0.0; n * dim], vec![0.0; n * dim], vec![]);
        let mut of_weights = vec![0.0; n * n];
        for head in kv * group..(kv + 1) * group {
            let q = self.head(qkv, part, head);
            let g = View::new(&g[part.start * out_width + head * dim..], n, dim, out_width);
            let weights = self.weights(q, k, n);
            let adds = |scale| Out { adds: true, ..alone(dim, scale) };
            product(View::new(&weights, n, n, n).turned(), g, &mut of_v, adds(1.0));
            product(g, v.turned(), &mut of_weights, alone(n, 1.0));
            // Back through the softmax: w * (g - sum(w * g)).
            for (w, g) in weights.chunks_exact(n).zip(of_weights.chunks_exact_mut(n)) {
                let along: f32 = w.iter().zip(&*g).map(|(w, g)| w * g).sum();
                g.iter_mut().zip(w).for_each(|(g, w)| *g = w * (*g - along));
            }
            let of_scores = View::new(&of_weights, n, n, n);
            let mut of_q = vec![0.0; n * dim];
            product(of_scores, k, &mut of_q, alone(dim, self.scale()));
            product(of_scores.turned(), q, &mut of_k, adds(self.scale()));
            all.push(of_q);
        }
        all.extend([of_k, of_v]);
        all
    }
}

const fn alone(stride: usize, scale: f32) -> Out {
    Out { stride, scale, adds: false, threads: 1 }
}

/// Puts `[part, dim]` values of one head where they belong in rows of `width`.
fn put(out: &mut [f32], width: usize, part: &Range<usize>, head: usize, dim: usize, values: &[f32]) {
    for (row, values) in part.clone().zip(values.chunks_exact(dim)) {
        out[row * width + head * dim..][..dim].copy_from_slice(values);
    }
}

impl CustomOp1 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = l.shape().dims2()?;
        let is_whole = self.parts.last().map_or(0, |p| p.end) == rows && width == self.width();
        if !is_whole {
            candle_core::bail!("{rows} rows of {width} for attention of {} values", self.width())
        }
        let (qkv, Heads { query, kv: kvs, dim }) = (values(qkv, l)?, self.heads);
        let done: Vec<_> = self
            .tasks()
            .into_par_iter()
            .map(|(part, kv)| (self.part_forward(qkv, &part, kv), part, kv))
            .collect();
        let mut out = vec![0.0; rows * query * dim];
        for (heads, part, kv) in done {
            for (i, values) in heads.iter().enumerate() {
                put(&mut out, query * dim, &part, kv * (query / kvs) + i, dim, values);
            }
        }
        Ok((CpuStorage::F32(out), (rows, query * dim).into()))
    }

    fn bwd(&self, qkv: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let Heads { query, kv: kvs, dim } = self.heads;
        let mut out = vec![0.0; qkv.elem_count()];
        with(qkv, |qkv| {
            with(g, |g| {
                let tasks = self.tasks().into_par_iter();
                let done: Vec<_> =
                    tasks.map(|(part, kv)| (self.part_back(qkv, g, &part, kv), part, kv)).collect();
                for (all, part, kv) in done {
                    let group = query / kvs;
                    let heads = (kv * group..(kv + 1) * group).chain([query + kv, query + kvs + kv]);
                    heads
                        .zip(&all)
                        .for_each(|(head, values)| put(&mut out, self.width(), &part, head, dim, values));
                }
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::finetune::ops::tests::{alike, random};

    #[test]
    fn attention_and_its_gradient_agree_with_the_composition() {
        for (causal, query, kv) in [(false, 3, 3), (true, 4, 2)] {
            let attend =
                Attend { parts: Arc::from([0..7, 7..19]), heads: Heads { query, kv, dim: 8 }, causal };
            let qkv = random((19, (query + 2 * kv) * 8), 5);
            alike(&[&qkv], |x| attend.forward(&x[0]), |x| attend.composed(&x[0]), 2e-5);
        }
    }
}
