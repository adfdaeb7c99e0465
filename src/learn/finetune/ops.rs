//! The operations of the training graph, with their gradients.
//!
//! ```text
//! on the CPU        one pass over the rows each, in parallel: candle's own would take a pass and a copy for each step
//! on other devices  compositions of candle's operations, whose gradients candle knows
//! ```
//!
//! Every sum over rows is made in parts of a fixed size that are added in order: the same batch gives the same
//! gradients on any number of threads. The tests hold both ways to each other.

use super::product::{Out, View, product};
use super::rows;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;
use vlm::ops::with_slice;

/// Rows of a part that one task sums.
const TASK_ROWS: usize = 128;

/// The values of a contiguous argument.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a part of a tensor") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Gives the values of any f32 tensor on the CPU to `f`.
pub(super) fn with<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    with_slice(&x.contiguous()?, f)
}

fn fresh(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// A tensor of the shape of `like`.
fn like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// `x W^T + b` of `[rows, in]` with `[out, in]` and, where there is one, `[out]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = if x.device().is_cpu() {
        x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)?
    } else {
        x.matmul(&weight.t()?)?
    };
    match bias {
        Some(bias) if x.device().is_cpu() => y.apply_op2(bias, Bias),
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inp), (out, _)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let mut y = vec![0.0; rows * out];
        let (x, w) = (View::new(values(x, lx)?, rows, inp, inp), View::new(values(w, lw)?, out, inp, inp));
        product(x, w.turned(), &mut y, whole(out));
        Ok(fresh(y, (rows, out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, inp), out) = (x.dims2()?, w.dim(0)?);
        let (mut of_x, mut of_w) = (vec![0.0; rows * inp], vec![0.0; out * inp]);
        with(g, |g| {
            let g = View::new(g, rows, out, out);
            with(w, |w| {
                product(g, View::new(w, out, inp, inp), &mut of_x, whole(inp));
                Ok(())
            })?;
            with(x, |x| {
                product(g.turned(), View::new(x, rows, inp, inp), &mut of_w, whole(inp));
                Ok(())
            })
        })?;
        Ok((Some(like(of_x, x)?), Some(like(of_w, w)?)))
    }
}

/// In place of what the output holds, on all threads of the pool.
fn whole(stride: usize) -> Out {
    Out { stride, scale: 1.0, adds: false, threads: rayon::current_num_threads() }
}

struct Bias;

impl CustomOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, b) = (values(x, lx)?, values(b, lb)?);
        let mut y = x.to_vec();
        y.par_chunks_mut(TASK_ROWS * b.len()).for_each(|part| {
            part.chunks_exact_mut(b.len()).for_each(|row| row.iter_mut().zip(b).for_each(|(y, b)| *y += b));
        });
        Ok(fresh(y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = b.dim(0)?;
        let of_b = with(g, |g| {
            Ok(sum_of_parts(g.len() / n, n, |part, sum| {
                rows::add_columns(&g[part.start * n..part.end * n], sum);
            }))
        })?;
        Ok((Some(g.clone()), Some(like(of_b, b)?)))
    }
}

/// The sum of what `add` makes of every part of the rows, in order.
fn sum_of_parts(
    rows: usize,
    width: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let part = |at: usize| {
        let mut sum = vec![0.0; width];
        add(at * TASK_ROWS..((at + 1) * TASK_ROWS).min(rows), &mut sum);
        sum
    };
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(TASK_ROWS)).into_par_iter().map(part).collect();
    let mut all = vec![0.0; width];
    parts.iter().for_each(|part| all.iter_mut().zip(part).for_each(|(all, part)| *all += part));
    all
}

/// GELU by its tanh form, as in the blocks of the tower.
pub(super) fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu { by_tanh: true }) } else { x.gelu() }
}

/// GELU by the error function, as in its mergers.
pub(super) fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu { by_tanh: false }) } else { x.gelu_erf() }
}

struct Gelu {
    by_tanh: bool,
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, l)?;
        let mut y = vec![0.0; x.len()];
        let f = if self.by_tanh { rows::gelu_tanh } else { rows::gelu_erf };
        each(&mut y, |at, y| f(&x[at..at + y.len()], y));
        Ok(fresh(y, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let f = if self.by_tanh { rows::gelu_tanh_back } else { rows::gelu_erf_back };
        let mut out = vec![0.0; x.elem_count()];
        with(x, |x| {
            with(g, |g| {
                each(&mut out, |at, out| f(&x[at..at + out.len()], &g[at..at + out.len()], out));
                Ok(())
            })
        })?;
        Ok(Some(like(out, x)?))
    }
}

/// Fills pieces of the output in parallel; `f` is told where a piece begins.
fn each(out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    const PIECE: usize = 16 * 1024;
    out.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| f(i * PIECE, piece));
}

/// `silu(gate) * up`.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() {
        gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
    } else {
        gate.silu()? * up
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        lg: &Layout,
        up: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (values(gate, lg)?, values(up, lu)?);
        let mut y = vec![0.0; gate.len()];
        each(&mut y, |at, y| rows::swiglu(&gate[at..at + y.len()], &up[at..at + y.len()], y));
        Ok(fresh(y, lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = gate.elem_count();
        let (mut of_gate, mut of_up) = (vec![0.0; n], vec![0.0; n]);
        with(gate, |gate| {
            with(up, |up| {
                with(g, |g| {
                    let piece = (n / rayon::current_num_threads().max(1)).max(1);
                    of_gate.par_chunks_mut(piece).zip(of_up.par_chunks_mut(piece)).enumerate().for_each(
                        |(i, (a, b))| {
                            let at = i * piece..i * piece + a.len();
                            rows::swiglu_back(&gate[at.clone()], &up[at.clone()], &g[at], a, b);
                        },
                    );
                    Ok(())
                })
            })
        })?;
        Ok((Some(like(of_gate, gate)?), Some(like(of_up, up)?)))
    }
}

/// Layer norm over the last dimension of `[rows, width]`.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op3(weight, bias, LayerNorm { eps: eps as f32 });
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (values(x, lx)?, values(w, lw)?, values(b, lb)?);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(w.len()).with_min_len(TASK_ROWS).zip(x.par_chunks(w.len())).for_each(|(y, x)| {
            rows::layer_norm(x, w, b, self.eps, y);
        });
        Ok(fresh(y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let back = |x: &[f32], w: &[f32], g: &[f32], out: &mut [f32], sums: &mut [f32]| {
            let (of_weight, of_bias) = sums.split_at_mut(w.len());
            rows::layer_norm_back(x, w, g, self.eps, out, of_weight, of_bias);
        };
        let (of_x, mut of_w) = norm_back(x, w, g, 2, back)?;
        let of_b = of_w.split_off(w.elem_count());
        Ok((Some(of_x), Some(like(of_w, w)?), Some(like(of_b, b)?)))
    }
}

/// The gradient of a norm's rows, and the sums over them, `sums` times as wide as the weight.
fn norm_back(
    x: &Tensor,
    w: &Tensor,
    g: &Tensor,
    sums: usize,
    back: impl Fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]) + Sync,
) -> Result<(Tensor, Vec<f32>)> {
    let n = w.elem_count();
    let mut out = vec![0.0; x.elem_count()];
    let all = with(x, |x| {
        with(w, |w| {
            with(g, |g| {
                let task = |(at, out): (usize, &mut [f32])| {
                    let mut sum = vec![0.0; sums * n];
                    for (i, out) in out.chunks_exact_mut(n).enumerate() {
                        let row = (at * TASK_ROWS + i) * n;
                        back(&x[row..row + n], w, &g[row..row + n], out, &mut sum);
                    }
                    sum
                };
                let parts: Vec<Vec<f32>> = out.par_chunks_mut(TASK_ROWS * n).enumerate().map(task).collect();
                let mut all = vec![0.0; sums * n];
                parts.iter().for_each(|part| all.iter_mut().zip(part).for_each(|(all, part)| *all += part));
                Ok(all)
            })
        })
    })?;
    Ok((like(out, x)?, all))
}

/// Root-mean-square norm over rows as wide as the weight.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op2(weight, RmsNorm { eps: eps as f32 });
    }
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(x, lx)?, values(w, lw)?);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(w.len()).with_min_len(TASK_ROWS).zip(x.par_chunks(w.len())).for_each(|(y, x)| {
            rows::rms_norm(x, w, self.eps, y);
        });
        Ok(fresh(y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let back = |x: &[f32], w: &[f32], g: &[f32], out: &mut [f32], sum: &mut [f32]| {
            rows::rms_norm_back(x, w, g, self.eps, out, sum);
        };
        let (of_x, of_w) = norm_back(x, w, g, 1, back)?;
        Ok((Some(of_x), Some(like(of_w, w)?)))
    }
}

/// Rotary angles of rows: `[rows, half]` each.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    pub cos: Arc<Vec<f32>>,
    pub sin: Arc<Vec<f32>>,
    pub half: usize,
}

impl Turns {
    /// Of cosines and sines, row after row.
    pub(super) fn new(turns: impl Iterator<Item = (f32, f32)>, half: usize) -> Self {
        let (cos, sin): (Vec<f32>, Vec<f32>) = turns.unzip();
        Self { cos: Arc::new(cos), sin: Arc::new(sin), half }
    }

    /// Turns the first `heads` heads of every row of `[rows, width]`.
    pub(super) fn turn(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        if x.device().is_cpu() {
            return x.contiguous()?.apply_op1(Turn { turns: self.clone(), heads });
        }
        let ((rows, width), turned) = (x.dims2()?, 2 * self.half * heads);
        let angle = |values: &[f32]| Tensor::from_slice(values, (rows, 1, self.half), x.device());
        let (cos, sin) = (angle(&self.cos)?, angle(&self.sin)?);
        let head = x.narrow(1, 0, turned)?.reshape((rows, heads, 2 * self.half))?;
        let (a, b) = (head.narrow(2, 0, self.half)?, head.narrow(2, self.half, self.half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let out = Tensor::cat(&[first, second], 2)?.reshape((rows, turned))?;
        if turned == width { Ok(out) } else { Tensor::cat(&[out, x.narrow(1, turned, width - turned)?], 1) }
    }

    fn apply(&self, x: &mut [f32], heads: usize, back: bool) {
        let (rows, half) = (self.cos.len() / self.half, self.half);
        let width = x.len() / rows.max(1);
        x.par_chunks_mut(width.max(1)).with_min_len(TASK_ROWS).enumerate().for_each(|(row, x)| {
            let at = row * half..(row + 1) * half;
            rows::turn(x, heads, &self.cos[at.clone()], &self.sin[at], back);
        });
    }
}

struct Turn {
    turns: Turns,
    heads: usize,
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = values(x, l)?.to_vec();
        self.turns.apply(&mut y, self.heads, false);
        Ok(fresh(y, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let mut out = with(g, |g| Ok(g.to_vec()))?;
        self.turns.apply(&mut out, self.heads, true);
        Ok(Some(like(out, x)?))
    }
}

/// The sum over rows of `weight * -ln p(target)`, of logits `[rows, tokens]`: a scalar.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    let op = CrossEntropy { targets: targets.to_vec(), weights: weights.to_vec() };
    if logits.device().is_cpu() {
        return logits.contiguous()?.apply_op1(op);
    }
    let device = logits.device();
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let all = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let at = Tensor::from_slice(targets, (targets.len(), 1), device)?;
    let missed = (all - shifted.gather(&at, 1)?)?.flatten_all()?;
    (missed * Tensor::from_slice(weights, weights.len(), device)?)?.sum_all()
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl CrossEntropy {
    /// What a row misses, and its probabilities in place of the logits.
    fn row(&self, row: usize, logits: &mut [f32]) -> f32 {
        let target = self.targets[row] as usize;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at = logits[target];
        let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
        logits.iter_mut().for_each(|x| *x = (*x - max).exp() / sum);
        sum.ln() + max - at
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, tokens) = l.shape().dims2()?;
        if rows != self.targets.len() || self.targets.iter().any(|t| *t as usize >= tokens) {
            candle_core::bail!("{} targets for {rows} rows of {tokens} tokens", self.targets.len())
        }
        let mut x = values(x, l)?.to_vec();
        let missed: Vec<f32> = x
            .par_chunks_mut(tokens)
            .enumerate()
            .map(|(row, x)| self.weights[row] * self.row(row, x))
            .collect();
        Ok(fresh(vec![missed.iter().sum()], ()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, g) = (x.dim(1)?, g.to_scalar::<f32>()?);
        let mut out = with(x, |x| Ok(x.to_vec()))?;
        out.par_chunks_mut(tokens).enumerate().for_each(|(row, x)| {
            self.row(row, x);
            x[self.targets[row] as usize] -= 1.0;
            x.iter_mut().for_each(|x| *x *= self.weights[row] * g);
        });
        Ok(Some(like(out, x)?))
    }
}

#[cfg(test)]
#[path = "ops/tests.rs"]
pub(super) mod tests;
