//! Row-wise operations of the model on candle's tensors.
//!
//! ```text
//! on the CPU        host: one pass over the rows, in parallel; rows: what is done to each
//! on other devices  compositions of candle's operations
//! ```
//!
//! On the CPU what comes fresh from a matrix product is changed where it lies, so that a block's largest tensors
//! are neither cleared nor copied. The text model works there on plain values, without tensors; [`rms_norm`] and
//! [`swiglu`] are its compositions for other devices. The tests hold both ways to each other.

pub(crate) mod host;
pub mod rows;

use candle_core::{CpuStorage, D, Device, IndexOp, InplaceOp1, Layout, Result, Storage, Tensor};

/// Gives the values of a contiguous f32 tensor on the CPU to `f`.
pub fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else { candle_core::bail!("tensor is not on the CPU") };
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("tensor is not contiguous")
    };
    f(&cpu.as_slice::<f32>()?[start..end])
}

/// As [`with_slice`], for what cannot fail.
pub(super) fn with_values<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    with_slice(x, |x| Ok(f(x)))
}

/// As [`with_slice`], or `None` where there is no tensor.
fn with_optional<T>(x: Option<&Tensor>, f: impl FnOnce(Option<&[f32]>) -> Result<T>) -> Result<T> {
    match x {
        Some(x) => with_slice(x, |x| f(Some(x))),
        None => f(None),
    }
}

/// Changes the values of a contiguous f32 tensor on the CPU where they lie. Whoever shares the tensor's storage
/// sees the change: callers give the only one.
fn change(x: Tensor, f: impl Fn(&mut [f32])) -> Result<Tensor> {
    x.inplace_op1(&Change(f))?;
    Ok(x)
}

/// As [`change`], row by row of a `[rows, width]` tensor; `f` is given its index.
fn change_rows(x: Tensor, f: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    let width = x.dims2()?.1;
    change(x, |values| host::each_row(values, width, &f))
}

struct Change<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("tensor is not contiguous f32")
        };
        (self.0)(&mut values[start..end]);
        Ok(())
    }
}

/// Root-mean-square norm over the last dimension of `[rows, width]`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(weight)
}

/// Layer norm over the last dimension of `[rows, width]`.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        return centred.broadcast_mul(&scale)?.broadcast_mul(weight)?.broadcast_add(bias);
    }
    with_slice(weight, |w| {
        with_slice(bias, |b| {
            fits(x, w)?;
            fits(x, b)?;
            let mut out = vec![];
            let norm = |x: &[f32], out: &mut [_]| rows::layer_norm(x, w, b, eps as f32, out);
            // SAFETY: the row is as wide as the weights and the bias.
            with_values(x, |x| unsafe { host::map_rows(x, w.len(), &mut out, norm) })?;
            Tensor::from_vec(out, x.shape(), &Device::Cpu)
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
pub(super) enum Gelu {
    /// By tanh: the blocks of the vision tower.
    Tanh,
    /// By the error function: the mergers.
    Erf,
}

/// GELU of `x + bias`, `[rows, width]`, in the place of `x`.
pub(super) fn bias_gelu(x: Tensor, bias: &Tensor, kind: Gelu) -> Result<Tensor> {
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

/// `silu(gate) * up`, each `[rows, width]`.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Cosines and sines of the rotary angles, each `[rows, head_dim / 2]`; tensors of more rows take them
/// again from the first.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotary {
    /// From cosines and sines `[rows, half]`, row after row.
    pub(super) fn new(turns: impl Iterator<Item = (f32, f32)>, half: usize, device: &Device) -> Result<Self> {
        let (cos, sin): (Vec<f32>, Vec<f32>) = turns.unzip();
        let shape = (cos.len() / half, half);
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

/// Adds a bias to whole rows, then norms (optional) and rotates the first `heads` heads of each, in the
/// place of `x`. The rotation has its rotate-half form.
pub(super) fn bias_norm_rotate(
    x: Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    norm: Option<(&Tensor, f64)>,
    rotary: &Rotary,
) -> Result<Tensor> {
    let (_, half) = rotary.cos.dims2()?;
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
                    let turns = host::Turns { cos, sin, half };
                    let norm = weight.map(|w| (w, eps));
                    change(x, |x| host::bias_norm_rotate(x, width, heads, bias, norm, turns))
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
pub(super) fn add_residual(x: &Tensor, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
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

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
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
        let mut normed = vec![f32::NAN];
        host::rms_norm(&values(&x), &values(&w), 1e-6, &mut normed);
        assert!(gap(&Tensor::from_vec(normed, x.shape(), &Device::Cpu).unwrap(), &expected) < 1e-5);
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
        let mut fast = values(&gate);
        host::swiglu(&mut fast, &values(&up), 2048);
        let fast = Tensor::from_vec(fast, gate.shape(), &Device::Cpu).unwrap();
        assert!(gap(&fast, &swiglu(&gate, &up).unwrap()) < 1e-4);
    }

    #[test]
    fn rotation_agrees_with_its_composition() {
        let x = noise(9, 40 + 3 * 32, 1.0);
        let bias = noise(1, 40 + 3 * 32, 1.0).squeeze(0).unwrap();
        let turns = (0..3 * 16).map(|i| i as f32 * 0.37).map(|angle| (angle.cos(), angle.sin()));
        let rotary = Rotary::new(turns, 16, &Device::Cpu).unwrap();
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
