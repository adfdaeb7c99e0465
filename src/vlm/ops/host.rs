//! Row-wise operations on values of the CPU: each is one pass over the rows, in parallel.

use super::rows;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Fewest values that are worth a task of their own.
const TASK_VALUES_MIN: usize = 16 * 1024;

/// Rows of `width` values that make a task.
fn task_rows(width: usize) -> usize {
    (TASK_VALUES_MIN / width.max(1)).max(1)
}

/// Changes every row of `[rows, width]` values where it lies; `f` is given its index.
pub(crate) fn each_row(values: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = task_rows(width);
    values.par_chunks_mut(rows * width).enumerate().for_each(|(task, chunk)| {
        for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
            f(task * rows + i, row);
        }
    });
}

/// Puts what `f` makes of every row of `[rows, width]` values in the place of what `out` holds.
///
/// # Safety
/// `f` writes its whole output row.
pub(crate) unsafe fn map_rows(
    x: &[f32],
    width: usize,
    out: &mut Vec<f32>,
    f: impl Fn(&[f32], &mut [MaybeUninit<f32>]) + Sync,
) {
    assert!(x.len().is_multiple_of(width), "whole rows");
    out.clear();
    out.reserve(x.len());
    let task = task_rows(width) * width;
    let room = &mut out.spare_capacity_mut()[..x.len()];
    room.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
        out.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(out, x)| f(x, out));
    });
    // SAFETY: the chunks cover all rows, and the caller says that `f` writes the whole of each.
    unsafe { out.set_len(x.len()) };
}

/// Root-mean-square norm of rows as wide as the weights, in the place of what `out` holds.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    // SAFETY: the row is as wide as the weights.
    unsafe { map_rows(x, weight.len(), out, |x, out| rows::rms_norm(x, weight, eps, out)) }
}

/// `silu(gate) * up` of rows of `width` values, in the place of `gate`.
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32], width: usize) {
    assert!(gate.len() == up.len(), "gates of as many values");
    each_row(gate, width, |row, gate| rows::swiglu(gate, &up[row * width..][..width]));
}

/// `x + y` of rows of `width` values, in the place of `x`.
pub(crate) fn add(x: &mut [f32], y: &[f32], width: usize) {
    assert!(x.len() == y.len(), "sums of as many values");
    each_row(x, width, |row, x| rows::add(x, &y[row * width..][..width]));
}

/// Rotary angles, row after row: `half` cosines and sines each. Values of more rows take them again from the
/// first.
#[derive(Clone, Copy)]
pub(crate) struct Turns<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub half: usize,
}

/// Adds a bias to whole rows of `width` values, then norms (optional; weights and epsilon) and rotates the first
/// `heads` heads of each.
pub(crate) fn bias_norm_rotate(
    x: &mut [f32],
    width: usize,
    heads: usize,
    bias: Option<&[f32]>,
    norm: Option<(&[f32], f32)>,
    turns: Turns<'_>,
) {
    let (half, rows) = (turns.half, turns.cos.len() / turns.half);
    each_row(x, width, |row, x| {
        if let Some(bias) = bias {
            rows::add(x, bias);
        }
        let at = row % rows * half;
        for head in x.chunks_exact_mut(2 * half).take(heads) {
            if let Some((weight, eps)) = norm {
                rows::rms_norm_in_place(head, weight, eps);
            }
            rows::rotate_half(head, &turns.cos[at..][..half], &turns.sin[at..][..half]);
        }
    });
}
