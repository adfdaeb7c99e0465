//! Row-wise operations of the model.
//!
//! On the CPU each is one pass over the rows, in parallel: what comes fresh from a matrix product is
//! changed where it lies, so that a block's largest tensors are neither cleared nor copied. On other
//! devices each is a composition of candle's operations; the tests hold both to each other.

pub mod rows;

use candle_core::{CpuStorage, Device, IndexOp, InplaceOp1, Layout, Result, Storage, Tensor, D};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Fewest values that are worth a task of their own.
const TASK_VALUES_MIN: usize = 16 * 1024;

/// Rows of `width` values that make a task.
fn task_rows(width: usize) -> usize {
    (TASK_VALUES_MIN / width.max(1)).max(1)
}

/// Gives the values of a contiguous f32 tensor on the CPU to `f`.
pub fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else { candle_core::bail!("tensor is not on the CPU") };
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("tensor is not contiguous")
    };
    f(&cpu.as_slice::<f32>()?[start..end])
}

/// As `with_slice`, or `None` where there is no tensor.
fn with_optional<T>(x: Option<&Tensor>, f: impl FnOnce(Option<&[f32]>) -> Result<T>) -> Result<T> {
    match x {
        Some(x) => with_slice(x, |x| f(Some(x))),
        None => f(None),
    }
}

/// Makes a `[rows, width]` tensor from one of that size on the CPU.
///
/// # Safety
/// `f` writes its whole output row.
unsafe fn map_rows(x: &Tensor, f: impl Fn(&[f32], &mut [MaybeUninit<f32>]) + Sync) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let mut out = Vec::with_capacity(rows * width);
    with_slice(x, |input| {
        let task = task_rows(width) * width;
        let out = &mut out.spare_capacity_mut()[..rows * width];
        out.par_chunks_mut(task).zip(input.par_chunks(task)).for_each(|(out, input)| {
            out.chunks_exact_mut(width).zip(input.chunks_exact(width)).for_each(|(out, x)| f(x, out));
        });
        Ok(())
    })?;
    // SAFETY: the chunks cover all rows, and the caller says that `f` writes the whole of each.
    unsafe { out.set_len(rows * width) };
    Tensor::from_vec(out, (rows, width), &Device::Cpu)
}

/// Changes every row of a `[rows, width]` tensor on the CPU where it lies; `f` is given its index. Whoever
/// shares the tensor's storage sees the change: callers give the only one.
fn change_rows(x: Tensor, f: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    x.inplace_op1(&ChangeRows { width: x.dims2()?.1, f })?;
    Ok(x)
}

struct ChangeRows<F> {
    width: usize,
    f: F,
}

impl<F: Fn(usize, &mut [f32]) + Sync> InplaceOp1 for ChangeRows<F> {
    fn name(&self) -> &'static str {
        "change rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("tensor is not contiguous f32")
        };
        let rows = task_rows(self.width);
        values[start..end].par_chunks_mut(rows * self.width).enumerate().for_each(|(task, chunk)| {
            for (i, row) in chunk.chunks_exact_mut(self.width).enumerate() {
                (self.f)(task * rows + i, row);
            }
        });
        Ok(())
    }
}

/// Root-mean-square norm over the last dimension of `[rows, width]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        return x.broadcast_mul(&scale)?.broadcast_mul(weight);
    }
    with_slice(weight, |w| {
        fits(x, w)?;
        // SAFETY: the row is as wide as the weights.
        unsafe { map_rows(x, |x, out| rows::rms_norm(x, w, eps as f32, out)) }
    })
}

/// Layer norm over the last dimension of `[rows, width]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        return centred.broadcast_mul(&scale)?.broadcast_mul(weight)?.broadcast_add(bias);
    }
    with_slice(weight, |w| {
        with_slice(bias, |b| {
            fits(x, w)?;
            fits(x, b)?;
            // SAFETY: the row is as wide as the weights and the bias.
            unsafe { map_rows(x, |x, out| rows::layer_norm(x, w, b, eps as f32, out)) }
        })
    })
}

/// Refuses a vector that is not as wide as the rows: a shorter one would leave values untouched.
fn fits(x: &Tensor, vector: &[f32]) -> Result<()> {
    let width = x.dims2()?.1;
    if vector.len() != width {
        candle_core::bail!("{} values for rows of {width}", vector.len())
    }
    Ok(())
}

/// Which GELU a model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// By tanh: the blocks of the vision tower.
    Tanh,
    /// By the error function: the mergers.
    Erf,
}

/// GELU of `x + bias`, `[rows, width]`, in the place of `x`.
pub fn bias_gelu(x: Tensor, bias: &Tensor, kind: Gelu) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let x = x.broadcast_add(bias)?;
        return if kind == Gelu::Tanh { x.gelu() } else { x.gelu_erf() };
    }
    with_slice(bias, |b| {
        fits(&x, b)?;
        match kind {
            Gelu::Tanh => change_rows(x, |_, x| rows::gelu_tanh(x, b)),
            Gelu::Erf => change_rows(x, |_, x| rows::gelu_erf(x, b)),
        }
    })
}

/// `silu(gate) * up`, each `[rows, width]`, in the place of `gate`.
pub fn swiglu(gate: Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return gate.silu()? * up;
    }
    same_shape(&gate, up)?;
    let width = gate.dims2()?.1;
    with_slice(up, |up| change_rows(gate, |row, gate| rows::swiglu(gate, &up[row * width..][..width])))
}

fn same_shape(x: &Tensor, y: &Tensor) -> Result<()> {
    if x.dims() != y.dims() {
        candle_core::bail!("{:?} meets {:?}", x.dims(), y.dims())
    }
    Ok(())
}

/// Cosines and sines of the rotary angles, each `[rows, head_dim / 2]`; tensors of more rows take them
/// again from the first.
#[derive(Clone, Debug)]
pub struct Rotary {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotary {
    /// From angles `[rows, half]`, row after row.
    pub fn new(angles: &[f32], half: usize, device: &Device) -> Result<Self> {
        let shape = (angles.len() / half, half);
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

/// Adds a bias to whole rows, then norms (optional) and rotates the first `heads` heads of each, in the
/// place of `x`. The rotation has its rotate-half form.
pub fn bias_norm_rotate(
    x: Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    norm: Option<(&Tensor, f64)>,
    rotary: &Rotary,
) -> Result<Tensor> {
    let (turns, half) = rotary.cos.dims2()?;
    let dim = 2 * half;
    let width = x.dims2()?.1;
    if heads * dim > width {
        candle_core::bail!("{heads} heads of {dim} in rows of {width}")
    }
    if !x.device().is_cpu() {
        return bias_norm_rotate_composed(&x, heads, bias, norm, rotary);
    }
    let eps = norm.map_or(0.0, |(_, eps)| eps as f32);
    with_optional(bias, |bias| {
        bias.map_or(Ok(()), |b| fits(&x, b))?;
        with_optional(norm.map(|(w, _)| w), |weight| {
            with_slice(&rotary.cos, |cos| {
                with_slice(&rotary.sin, |sin| {
                    change_rows(x, |row, x| {
                        if let Some(bias) = bias {
                            rows::add(x, bias);
                        }
                        let at = row % turns * half;
                        for head in x.chunks_exact_mut(dim).take(heads) {
                            if let Some(weight) = weight {
                                rows::rms_norm_in_place(head, weight, eps);
                            }
                            rows::rotate_half(head, &cos[at..][..half], &sin[at..][..half]);
                        }
                    })
                })
            })
        })
    })
}

fn bias_norm_rotate_composed(
    x: &Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    norm: Option<(&Tensor, f64)>,
    rotary: &Rotary,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (turns, half) = rotary.cos.dims2()?;
    let x = bias.map_or_else(|| Ok(x.clone()), |b| x.broadcast_add(b))?;
    let turned = heads * 2 * half;
    let mut y = x.narrow(1, 0, turned)?.reshape((rows, heads, 2 * half))?;
    if let Some((weight, eps)) = norm {
        let scale = (y.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        y = y.broadcast_mul(&scale)?.broadcast_mul(weight)?;
    }
    let again = |t: &Tensor| t.repeat((rows / turns, 1))?.unsqueeze(1);
    let (cos, sin) = (again(&rotary.cos)?, again(&rotary.sin)?);
    let (a, b) = (y.i((.., .., ..half))?, y.i((.., .., half..))?);
    let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let y = Tensor::cat(&[left, right], 2)?.reshape((rows, turned))?;
    Tensor::cat(&[y, x.narrow(1, turned, width - turned)?], 1)
}

/// `x + y + bias` for `[rows, width]`, in the place of `y`: the end of a residual branch. An `x` of fewer
/// rows is taken again from its first.
pub fn add_residual(x: &Tensor, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((n, width), (rows, y_width)) = (x.dims2()?, y.dims2()?);
    if width != y_width || n == 0 || !rows.is_multiple_of(n) {
        candle_core::bail!("{:?} meets {:?}", x.dims(), y.dims())
    }
    if !y.device().is_cpu() {
        let sum = (x.repeat((rows / n, 1))? + y)?;
        return bias.map_or(Ok(sum.clone()), |b| sum.broadcast_add(b));
    }
    with_optional(bias, |bias| {
        bias.map_or(Ok(()), |b| fits(&y, b))?;
        with_slice(x, |x| {
            change_rows(y, |row, y| {
                rows::add(y, &x[row % n * width..][..width]);
                if let Some(bias) = bias {
                    rows::add(y, bias);
                }
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, width: usize, scale: f64) -> Tensor {
        (Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap() * scale).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn norms_agree_with_their_composition() {
        let (x, w, b) = (
            noise(37, 200, 3.0),
            noise(1, 200, 1.0).squeeze(0).unwrap(),
            noise(1, 200, 1.0).squeeze(0).unwrap(),
        );
        let mean = x.mean_keepdim(1).unwrap();
        let centred = x.broadcast_sub(&mean).unwrap();
        let rms = |x: &Tensor| (x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-6).unwrap().sqrt().unwrap();
        let expected = x.broadcast_div(&rms(&x)).unwrap().broadcast_mul(&w).unwrap();
        assert!(gap(&rms_norm(&x, &w, 1e-6).unwrap(), &expected) < 1e-5);
        let expected = centred
            .broadcast_div(&rms(&centred))
            .unwrap()
            .broadcast_mul(&w)
            .unwrap()
            .broadcast_add(&b)
            .unwrap();
        assert!(gap(&layer_norm(&x, &w, &b, 1e-6).unwrap(), &expected) < 1e-5);
    }

    #[test]
    fn activations_agree_with_candle() {
        let (x, b) = (noise(5, 4096, 4.0), noise(1, 4096, 0.1).squeeze(0).unwrap());
        let sum = x.broadcast_add(&b).unwrap();
        let gelu = |kind| bias_gelu(x.copy().unwrap(), &b, kind).unwrap();
        assert!(gap(&gelu(Gelu::Tanh), &sum.gelu().unwrap()) < 3e-6);
        assert!(gap(&gelu(Gelu::Erf), &sum.gelu_erf().unwrap()) < 3e-6);
        let (gate, up) = (x.narrow(1, 0, 2048).unwrap(), x.narrow(1, 2048, 2048).unwrap());
        let (gate, up) = (gate.contiguous().unwrap(), up.contiguous().unwrap());
        let expected = (gate.silu().unwrap() * &up).unwrap();
        assert!(gap(&swiglu(gate, &up).unwrap(), &expected) < 1e-4);
    }

    #[test]
    fn rotation_agrees_with_its_composition() {
        let x = noise(9, 40 + 3 * 32, 1.0);
        let bias = noise(1, 40 + 3 * 32, 1.0).squeeze(0).unwrap();
        let angles: Vec<f32> = (0..3 * 16).map(|i| i as f32 * 0.37).collect();
        let rotary = Rotary::new(&angles, 16, &Device::Cpu).unwrap();
        let w = noise(1, 32, 1.0).squeeze(0).unwrap();
        for (bias, norm) in [(None, None), (Some(&bias), None), (None, Some((&w, 1e-6)))] {
            let slow = bias_norm_rotate_composed(&x, 3, bias, norm, &rotary).unwrap();
            let fast = bias_norm_rotate(x.copy().unwrap(), 3, bias, norm, &rotary).unwrap();
            assert!(gap(&fast, &slow) < 1e-5);
        }
        assert!(bias_norm_rotate(x, 5, None, None, &rotary).is_err(), "no row has five heads");
    }

    #[test]
    fn a_residual_of_fewer_rows_is_taken_again() {
        let (x, y, b) = (noise(3, 8, 1.0), noise(6, 8, 1.0), noise(1, 8, 1.0).squeeze(0).unwrap());
        let expected = (x.repeat((2, 1)).unwrap() + &y).unwrap().broadcast_add(&b).unwrap();
        assert!(gap(&add_residual(&x, y.copy().unwrap(), Some(&b)).unwrap(), &expected) < 1e-6);
        assert!(add_residual(&noise(4, 8, 1.0), y, None).is_err(), "six rows are no multiple of four");
    }
}
