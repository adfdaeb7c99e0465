//! Adapters beside the weights: what they add to a product, for the rows of the jobs that are answered with them.
//!
//! ```text
//! rows of a pass   | none | adapter 1 | none | adapter 2 |       all of them: y = W x     weights as stored, read once
//!                         '-----------'      '-----------'       these besides: y += B (A x), B times alpha / rank
//! ```
//!
//! Jobs with several adapters share a pass, and the weights are held once. A row's term is summed in one order, whatever
//! stands beside it in the pass.

use super::ops::with_slice;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What is added to the product with one matrix.
#[derive(Debug)]
pub struct Term {
    rank: usize,
    inp: usize,
    out: usize,
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
    /// Both of them, transposed, on a device that is not the CPU.
    there: Option<[Tensor; 2]>,
}

impl Term {
    /// Of halves `[rank, in]` and `[out, rank]` on the CPU; the scale is in the second one already.
    ///
    /// # Errors
    /// As candle.
    pub fn new(a: &Tensor, b: &Tensor, device: &Device) -> Result<Self> {
        let ((rank, inp), (out, _)) = (a.dims2()?, b.dims2()?);
        let there = |half: &Tensor| half.to_device(device)?.t()?.contiguous();
        let on_device = !device.is_cpu();
        Ok(Self {
            rank,
            inp,
            out,
            a: a.flatten_all()?.to_vec1()?,
            b: b.flatten_all()?.to_vec1()?,
            there: if on_device { Some([there(a)?, there(b)?]) } else { None },
        })
    }

    /// Adds its products of `x`, `[rows, in]`, to `y`, `[rows, out]`.
    fn add(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.par_chunks_exact(self.inp).zip(y.par_chunks_exact_mut(self.out));
        rows.for_each_init(
            || vec![0.0; self.rank],
            |low, (x, y)| {
                for (low, a) in low.iter_mut().zip(self.a.chunks_exact(self.inp)) {
                    *low = dot(a, x);
                }
                for (y, b) in y.iter_mut().zip(self.b.chunks_exact(self.rank)) {
                    *y += dot(b, low);
                }
            },
        );
    }
}

/// In eight sums, which the compiler keeps side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// All that an adapter adds, by the name of the matrix.
#[derive(Debug, Default)]
pub struct Terms(BTreeMap<String, Term>);

impl Terms {
    /// By the names of the tensors of the pair.
    pub const fn new(terms: BTreeMap<String, Term>) -> Self {
        Self(terms)
    }
}

/// Rows of a product, and the adapter that their jobs are answered with.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// Of the product; what lies behind its end is not meant.
    pub rows: Range<usize>,
    /// What is added to them.
    pub terms: Arc<Terms>,
}

impl Adapted {
    /// All rows of whatever product.
    pub const fn all(terms: Arc<Terms>) -> Self {
        Self { rows: 0..usize::MAX, terms }
    }

    fn within(&self, rows: usize) -> Range<usize> {
        self.rows.start.min(rows)..self.rows.end.min(rows)
    }
}

/// Adds what adapters add to the product `y` of some rows `x` with the matrix of this name.
pub(super) fn add(name: &str, adapted: &[Adapted], x: &[f32], y: &mut [f32]) {
    for one in adapted {
        let Some(term) = one.terms.0.get(name) else { continue };
        let rows = one.within(x.len() / term.inp);
        let of = |width: usize| rows.start * width..rows.end * width;
        term.add(&x[of(term.inp)], &mut y[of(term.out)]);
    }
}

/// The same of tensors, on whatever device.
///
/// # Errors
/// As candle.
pub(super) fn add_tensors(name: &str, adapted: &[Adapted], x: &Tensor, y: Tensor) -> Result<Tensor> {
    if !adapted.iter().any(|one| one.terms.0.contains_key(name)) {
        return Ok(y);
    }
    if x.device().is_cpu() {
        let (x, y) = (x.contiguous()?, y.contiguous()?);
        let mut values: Vec<f32> = y.flatten_all()?.to_vec1()?;
        with_slice(&x, |x| {
            add(name, adapted, x, &mut values);
            Ok(())
        })?;
        return Tensor::from_vec(values, y.shape(), y.device());
    }
    let mut y = y;
    for one in adapted {
        let Some(Term { there: Some([a, b]), .. }) = one.terms.0.get(name) else { continue };
        let (rows, all) = (one.within(x.dim(0)?), x.dim(0)?);
        if rows.is_empty() {
            continue;
        }
        let term = x.narrow(0, rows.start, rows.len())?.matmul(a)?.matmul(b)?;
        let own = (y.narrow(0, rows.start, rows.len())? + term)?;
        let parts =
            [(0, rows.start, None), (rows.start, rows.len(), Some(own)), (rows.end, all - rows.end, None)];
        let parts = parts.into_iter().filter(|(_, len, _)| *len > 0);
        let parts = parts.map(|(start, len, own)| own.map_or_else(|| y.narrow(0, start, len), Ok));
        y = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(rank: usize, inp: usize, out: usize) -> Arc<Terms> {
        let values = |n: usize| (0..n).map(|i| ((i * 37) % 19) as f32 / 9.0 - 1.0).collect::<Vec<_>>();
        let half =
            |rows: usize, cols: usize| Tensor::from_vec(values(rows * cols), (rows, cols), &Device::Cpu);
        let (a, b) = (half(rank, inp).unwrap(), half(out, rank).unwrap());
        let term = Term::new(&a, &b, &Device::Cpu).unwrap();
        Arc::new(Terms::new(BTreeMap::from([("w".to_owned(), term)])))
    }

    #[test]
    fn a_term_is_added_to_its_rows_alone_and_is_the_product_of_both_halves() {
        let (rank, inp, out, rows) = (3, 21, 10, 5);
        let terms = terms(rank, inp, out);
        let x: Vec<f32> = (0..rows * inp).map(|i| ((i * 13) % 7) as f32 - 3.0).collect();
        let adapted = [Adapted { rows: 1..3, terms: Arc::clone(&terms) }];
        let mut y = vec![0.5; rows * out];
        add("w", &adapted, &x, &mut y);
        let mut other = vec![0.5; rows * out];
        add("another", &adapted, &x, &mut other);
        assert_eq!(other, vec![0.5; rows * out]);
        let term = &terms.0["w"];
        for (row, y) in y.chunks(out).enumerate() {
            for (o, y) in y.iter().enumerate() {
                let low = |r: usize| (0..inp).map(|i| term.a[r * inp + i] * x[row * inp + i]).sum::<f32>();
                let sum: f32 = (0..rank).map(|r| term.b[o * rank + r] * low(r)).sum();
                let expected = if (1..3).contains(&row) { 0.5 + sum } else { 0.5 };
                assert!((y - expected).abs() < 1e-4, "{y} and {expected} at {row}, {o}");
            }
        }
        let tensor = |values: &[f32], width: usize| {
            Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
        };
        let there =
            add_tensors("w", &adapted, &tensor(&x, inp), tensor(&vec![0.5; rows * out], out)).unwrap();
        assert_eq!(there.flatten_all().unwrap().to_vec1::<f32>().unwrap(), y);
        // All rows, whatever the product has.
        let mut all = vec![0.5; rows * out];
        add("w", &[Adapted::all(terms)], &x, &mut all);
        assert_eq!(all[out..3 * out], y[out..3 * out]);
        assert!(all[..out] != y[..out]);
    }
}
