//! Weights and activations in bfloat16: sixteen rows with sixteen rows, 32 values deep, into f32.
//!
//! ```text
//! weights of any type -> bf16, in the order of tile registers, once at load
//! activations --bf16--> panels of 16 rows
//! a block of rows: two tiles of weights: a chunk of the depth, in the L1 cache: 32 rows at a time pass by -> out
//! ```
//!
//! Integers need a float for each block of 32 weights and its scale; here sums stay in their register for as long as the
//! depth goes on. Of each value 8 bits are kept, which rounds activations less than bytes with a scale for 32 of them do,
//! and weights less than their own file did. (Values of two bfloat16, 16 bits together, take three products: for the small
//! model, which needs them, slower than AVX-512.)
//!
//! A value of the product depends on its row and its column alone: all rows take this path, however few they are.

use super::{Line, REGISTER, Shapes};
use crate::kernel::activations::{LINE, PANEL};
use crate::kernel::layout::TILE_ROWS;
use crate::kernel::{Out, TASKS_PER_THREAD};
use half::bf16;
use rayon::prelude::*;
use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_store_si512};
use std::ops::Range;

/// Values of depth of a register.
const DEPTH: usize = LINE / 2;
/// Registers of depth that two tiles of weights have in the L1 cache: 32 kB.
const CHUNK: usize = 16;
/// Bytes of activations that lie in an L2 cache while all weights pass by.
const ACTIVATIONS_MAX: usize = 1 << 20;
/// Rows, and columns, of a product.
const PAIR: usize = 2 * PANEL;

/// A matrix `[n, k]` of weights.
pub(crate) struct Bf16 {
    n: usize,
    k: usize,
    /// `[tile][step of 32 values][pair of values][row]`; what no row or depth fills is zero. There are tiles for
    /// whole pairs of them.
    lines: Vec<Line>,
}

impl std::fmt::Debug for Bf16 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bf16([{}, {}])", self.n, self.k)
    }
}

impl Bf16 {
    /// True when this processor multiplies bfloat16 in tile registers.
    pub(crate) fn is_fast_here() -> bool {
        super::available() && super::has_amx_bf16() && is_x86_feature_detected!("avx512bf16")
    }

    /// Packs the rows of `[n, k]` weights.
    ///
    /// # Panics
    /// When there are not so many weights.
    pub(crate) fn pack(weights: &[f32], n: usize, k: usize) -> Self {
        assert!(weights.len() == n * k, "sizes of a matrix");
        let (tiles, steps) = (n.div_ceil(PAIR) * 2, k.div_ceil(DEPTH));
        let tile_lines = steps * PANEL;
        let mut lines = vec![Line([0; LINE]); tiles * tile_lines];
        lines.par_chunks_mut(tile_lines).enumerate().for_each(|(tile, lines)| {
            let rows = weights.chunks_exact(k).skip(tile * TILE_ROWS).take(TILE_ROWS);
            for (row, weights) in rows.enumerate() {
                for (i, weight) in weights.iter().enumerate() {
                    let value = bf16::from_f32(*weight).to_le_bytes();
                    lines[i / 2].0[4 * row + 2 * (i % 2)..][..2].copy_from_slice(&value);
                }
            }
        });
        Self { n, k, lines }
    }

    /// Columns of a product.
    pub(crate) const fn columns(&self) -> usize {
        self.n
    }

    const fn steps(&self) -> usize {
        self.k.div_ceil(DEPTH)
    }

    /// Some steps of a tile.
    fn tile(&self, tile: usize, steps: Range<usize>) -> &[Line] {
        &self.lines[(tile * self.steps() + steps.start) * PANEL..][..steps.len() * PANEL]
    }

    /// `x W^T` for `[rows, k]` activations: `[rows, n]`, in the place of what `values` holds. `room` is used again.
    ///
    /// # Panics
    /// When the sizes do not fit, or the processor does not multiply so.
    pub(crate) fn multiply(&self, x: &[f32], room: &mut Panels, values: &mut Vec<f32>) {
        assert!(Self::is_fast_here(), "a processor with AMX for bf16");
        assert!(x.len().is_multiple_of(self.k), "sizes of a matrix product");
        // SAFETY: the processor has the instructions.
        unsafe { room.fill(x, self.k) };
        let rows = room.rows;
        values.clear();
        values.reserve(rows * self.n);
        let out = Out { values: values.as_mut_ptr(), stride: self.n, tiles_before: 0 };
        let pairs = self.n.div_ceil(PAIR);
        let each = pairs.div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD).max(1);
        let at_once = (ACTIVATIONS_MAX / (self.steps() * LINE) / PAIR).max(2) * PAIR;
        (0..pairs.div_ceil(each)).into_par_iter().for_each(|task| {
            let mut sums = Sums::of_rows(at_once.min(rows));
            for start in (0..rows).step_by(at_once) {
                for pair in task * each..pairs.min((task + 1) * each) {
                    let rows = start..rows.min(start + at_once);
                    // SAFETY: the processor has the instructions; tasks differ in their columns, and all of them lie
                    // inside the capacity.
                    unsafe {
                        self.multiply_pair(room, rows.clone(), pair, &mut sums);
                        sums.copy_to(rows, pair * PAIR..self.n.min((pair + 1) * PAIR), out);
                    }
                }
            }
        });
        // SAFETY: the tasks' columns are all, and each task writes all rows.
        unsafe { values.set_len(rows * self.n) };
    }

    /// The sums of some rows with a pair of tiles.
    ///
    /// # Safety
    /// The processor multiplies bfloat16.
    unsafe fn multiply_pair(&self, x: &Panels, rows: Range<usize>, pair: usize, sums: &mut Sums) {
        for from in (0..self.steps()).step_by(CHUNK) {
            let steps = from..self.steps().min(from + CHUNK);
            let weights = [0, 1].map(|t| self.tile(2 * pair + t, steps.clone()));
            for (row, sums) in rows.clone().step_by(PAIR).zip(&mut sums.0) {
                let rows = row..rows.end.min(row + PAIR);
                // SAFETY: the caller's.
                unsafe { Product::new(x, rows, steps.clone(), weights).run(sums, from == 0) };
            }
        }
    }
}

/// The sums of pairs of panels with a pair of tiles: `[pair of panels][panel][tile][row][column]`, which are four
/// registers. They stand together, as rows of the result stand at distances of which a cache holds few.
struct Sums(Vec<[[[Line; PANEL]; 2]; 2]>);

impl Sums {
    fn of_rows(rows: usize) -> Self {
        Self(vec![[[[Line([0; LINE]); PANEL]; 2]; 2]; rows.div_ceil(PAIR)])
    }

    /// Writes the sums of so many rows and columns.
    ///
    /// # Safety
    /// `out` holds them, and nobody else writes them.
    unsafe fn copy_to(&self, rows: Range<usize>, columns: Range<usize>, out: Out) {
        for (i, row) in rows.enumerate() {
            let tiles = &self.0[i / PAIR][i / PANEL % 2];
            for (tile, column) in tiles.iter().zip(columns.clone().step_by(TILE_ROWS)) {
                let width = TILE_ROWS.min(columns.end - column);
                // SAFETY: the caller's; a row of a register has sixteen values.
                unsafe {
                    let to = out.at(row, column / TILE_ROWS);
                    (&raw const tile[i % PANEL]).cast::<f32>().copy_to_nonoverlapping(to, width);
                }
            }
        }
    }
}

/// Rows of activations, used again by each product: `[panel][step][row][32]`. The last panel has the rows that are
/// left.
#[derive(Debug, Default)]
pub(crate) struct Panels {
    lines: Vec<Line>,
    rows: usize,
    steps: usize,
}

impl Panels {
    /// # Safety
    /// The processor has AVX-512 for bfloat16.
    unsafe fn fill(&mut self, x: &[f32], k: usize) {
        (self.rows, self.steps) = (x.len() / k, k.div_ceil(DEPTH));
        self.lines.resize(self.rows * self.steps, Line([0; LINE]));
        let panels = self.lines.par_chunks_mut(PANEL * self.steps);
        x.par_chunks(PANEL * k).zip(panels).for_each(|(x, panel)| {
            // SAFETY: the caller's.
            unsafe { fill_panel(x, k, panel) }
        });
    }

    /// Some steps of the rows of a panel, and the bytes from one step to the next.
    fn panel(&self, row: usize, steps: Range<usize>) -> (&[Line], usize) {
        let in_panel = PANEL.min(self.rows - row);
        let at = row * self.steps + steps.start * in_panel;
        (&self.lines[at..][..steps.len() * in_panel], in_panel * LINE)
    }
}

/// The rows of a panel, `k` values each.
///
/// # Safety
/// The processor has AVX-512 for bfloat16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn fill_panel(x: &[f32], k: usize, panel: &mut [Line]) {
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (step, x) in x.chunks(DEPTH).enumerate() {
            let mut values = [0f32; DEPTH];
            values[..x.len()].copy_from_slice(x);
            // SAFETY: the loads read the two halves of the values, the store writes a whole line.
            unsafe {
                let [a, b] = [0, PANEL].map(|i| _mm512_loadu_ps(values[i..].as_ptr()));
                let line: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
                _mm512_store_si512((&raw mut panel[step * rows + row]).cast(), line);
            }
        }
    }
}

/// At most 32 rows with two tiles: where their operands are.
struct Product {
    first: *const Line,
    second: *const Line,
    first_step: usize,
    second_step: usize,
    weights: [*const Line; 2],
    steps: usize,
    rows: usize,
}

impl Product {
    fn new(x: &Panels, rows: Range<usize>, steps: Range<usize>, weights: [&[Line]; 2]) -> Self {
        let first = x.panel(rows.start, steps.clone());
        // A product of one panel has a second one of a single row, whose sums nobody reads.
        let second = if rows.len() > PANEL { x.panel(rows.start + PANEL, steps.clone()) } else { first };
        assert!(weights.iter().all(|w| w.len() == steps.len() * PANEL));
        Self {
            first: first.0.as_ptr(),
            second: second.0.as_ptr(),
            first_step: first.1,
            second_step: second.1,
            weights: weights.map(<[Line]>::as_ptr),
            steps: steps.len(),
            rows: rows.len(),
        }
    }

    /// Adds to the sums, or writes them if it is the first to do so.
    ///
    /// # Safety
    /// The processor multiplies bfloat16.
    unsafe fn run(self, sums: &mut [[[Line; PANEL]; 2]; 2], is_first: bool) {
        let rows = [PANEL.min(self.rows), self.rows.saturating_sub(PANEL).max(1)];
        let [a, b] = rows.map(|rows| (rows, LINE));
        let weights = (PANEL, LINE);
        // SAFETY: the caller's.
        let _configured = unsafe { Shapes::new([a, a, b, b, a, b, weights, weights]).set() };
        // SAFETY: the loads read the lines of both panels and all weights, which are there; the sums have the size of
        // four registers.
        unsafe {
            asm!(
                "test {is_first:e}, {is_first:e}",
                "jnz 2f",
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + {register}]",
                "tileloadd tmm2, [{sums} + {line} + 2 * {register}]",
                "tileloadd tmm3, [{sums} + {line} + 3 * {register}]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{first} + {line}]",
                "tileloadd tmm6, [{weights0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{weights1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{second} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {first}, {first_step}",
                "add {second}, {second_step}",
                "add {weights0}, {register}",
                "add {weights1}, {register}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + {register}], tmm1",
                "tilestored [{sums} + {line} + 2 * {register}], tmm2",
                "tilestored [{sums} + {line} + 3 * {register}], tmm3",
                first = inout(reg) self.first => _,
                second = inout(reg) self.second => _,
                weights0 = inout(reg) self.weights[0] => _,
                weights1 = inout(reg) self.weights[1] => _,
                steps = inout(reg) self.steps => _,
                first_step = in(reg) self.first_step,
                second_step = in(reg) self.second_step,
                sums = in(reg) &raw mut *sums,
                is_first = in(reg) u32::from(is_first),
                line = in(reg) LINE,
                register = const REGISTER,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn noise(n: usize) -> Vec<f32> {
        Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap().to_vec1().unwrap()
    }

    fn product(weights: &Bf16, x: &[f32]) -> Vec<f32> {
        let mut values = vec![];
        weights.multiply(x, &mut Panels::default(), &mut values);
        values
    }

    /// Sizes that fill registers, pairs and chunks, and such that leave a rest of each.
    #[test]
    fn products_agree_with_the_definition_and_rows_stand_alone() {
        if !Bf16::is_fast_here() {
            return;
        }
        for (n, k) in [(16, 32), (48, 100), (33, 1040)] {
            let (w, x) = (noise(n * k), noise(70 * k));
            let weights = Bf16::pack(&w, n, k);
            let all = product(&weights, &x);
            for rows in [1, 15, 16, 17, 32, 33, 70] {
                assert_eq!(product(&weights, &x[..rows * k]), all[..rows * n], "{rows} rows");
            }
            for (i, value) in all.iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let off = (f64::from(*value) - exact).abs() / (k as f64).sqrt();
                assert!(off < 2e-2, "[{n}, {k}] value {i}: {value}, not {exact}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        if !Bf16::is_fast_here() {
            return;
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let weights = Bf16::pack(&noise(32 * 64), 32, 64);
            let mut x = noise(3 * 64);
            x[64 + 7] = bad;
            let y = product(&weights, &x);
            assert!(y[32..64].iter().all(|v| !v.is_finite()), "{bad}");
            assert!(y[..32].iter().chain(&y[64..]).all(|v| v.is_finite()), "{bad}");
        }
    }

    /// Buffers that held other rows give the products of fresh ones.
    #[test]
    fn buffers_are_used_again() {
        if !Bf16::is_fast_here() {
            return;
        }
        let (weights, x) = (Bf16::pack(&noise(64 * 96), 64, 96), noise(40 * 96));
        let (mut room, mut values) = (Panels::default(), vec![f32::NAN; 3]);
        for rows in [40, 7, 33] {
            weights.multiply(&x[..rows * 96], &mut room, &mut values);
            assert_eq!(values, product(&weights, &x[..rows * 96]));
        }
    }
}
