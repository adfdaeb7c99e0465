//! The nearest of many cells, by the engine's integer kernels.
//!
//! ```text
//! |x - b|^2 = |x|^2 + |b|^2 - 2 x.b        x.b for all x and b: one product of matrices of eight-bit integers
//! ```
//!
//! Both sides are rounded to eight bits a value, so that a distance is off by about a hundredth of the cells' length.

use candle_core::quantized::GgmlDType;
use half::f16;
use vlm::kernel::{Activations, Bits, Packed, TILE_ROWS};

/// Values that share a scale in `Q8_0`.
const BLOCK: usize = 32;
/// The kernels take depths of whole multiples of this.
const DEPTH: usize = 64;
/// Cells that are compared at once: what comes out of the product is `PASS x cells of the bank`.
const PASS: usize = 256;

/// Cells to be near to.
#[derive(Clone, Debug)]
pub(crate) struct Nearest {
    /// Numbers a cell, and the same with zeros up to a whole depth.
    dim: usize,
    depth: usize,
    /// `[cells, dim]`, as they are stored.
    pub cells: Vec<f16>,
    packed: std::sync::Arc<Packed>,
    /// Half of the squared length of each packed row.
    halves: Vec<f32>,
}

impl Nearest {
    /// Cells of `dim` numbers each, at least one.
    ///
    /// # Errors
    /// There are none, or not whole ones.
    pub(crate) fn new(cells: Vec<f16>, dim: usize) -> Result<Self, String> {
        if dim == 0 || cells.is_empty() || !cells.len().is_multiple_of(dim) {
            return Err(format!("{} values are no cells of {dim} numbers", cells.len()));
        }
        let depth = dim.next_multiple_of(DEPTH);
        let count = cells.len() / dim;
        let rows = count.next_multiple_of(TILE_ROWS);
        let mut blocks = Vec::with_capacity(rows * depth / BLOCK * (BLOCK + 2));
        for row in 0..rows {
            // The last tile is filled up with a cell that is there.
            let cell = &cells[row.min(count - 1) * dim..][..dim];
            let mut values = vec![0.0; depth];
            values.iter_mut().zip(cell).for_each(|(v, c)| *v = c.to_f32());
            values.as_chunks::<BLOCK>().0.iter().for_each(|block| quantise(block, &mut blocks));
        }
        let packed =
            Packed::pack(GgmlDType::Q8_0, &blocks, rows, depth).ok_or("cells that no kernel takes")?;
        let mut row = vec![0.0; depth];
        let half = |i| {
            packed.row(i, &mut row);
            row.iter().map(|v| v * v).sum::<f32>() / 2.0
        };
        let halves = (0..rows).map(half).collect();
        Ok(Self { dim, depth, cells, packed: packed.into(), halves })
    }

    /// Cells of the bank.
    pub(crate) fn count(&self) -> usize {
        self.cells.len() / self.dim
    }

    /// The distance of each cell of `[n, dim]` from the nearest one.
    pub(crate) fn distances(&self, cells: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(cells.len() / self.dim);
        let (mut quantised, mut products) = (Activations::default(), vec![]);
        let mut padded = vec![];
        for pass in cells.chunks(PASS * self.dim) {
            padded.clear();
            for cell in pass.chunks_exact(self.dim) {
                padded.extend_from_slice(cell);
                padded.resize(padded.len() + self.depth - self.dim, 0.0);
            }
            quantised.quantise(&padded, self.depth, Bits::Eight, self.packed.shared(Bits::Eight));
            self.packed.multiply_all(&quantised, &mut products);
            for (cell, products) in pass.chunks_exact(self.dim).zip(products.chunks_exact(self.halves.len()))
            {
                let length = cell.iter().map(|v| v * v).sum::<f32>();
                let gap = least_gap(products, &self.halves);
                let squared = 2.0f32.mul_add(gap, length);
                // Rounding may leave less than nothing; `max` would take what is no number for no distance at all.
                out.push(if squared < 0.0 { 0.0 } else { squared.sqrt() });
            }
        }
        out
    }
}

/// The least of `halves - products`, side by side: one minimum after the other would wait for each.
fn least_gap(products: &[f32], halves: &[f32]) -> f32 {
    let (products, halves) = (products.as_chunks::<TILE_ROWS>().0, halves.as_chunks::<TILE_ROWS>().0);
    let mut least = [f32::INFINITY; TILE_ROWS];
    for (products, halves) in products.iter().zip(halves) {
        for lane in 0..TILE_ROWS {
            least[lane] = least[lane].min(halves[lane] - products[lane]);
        }
    }
    least.into_iter().fold(f32::INFINITY, f32::min)
}

/// A block of ggml's `Q8_0`: a scale of 16 bits and 32 integers.
fn quantise(values: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let step = scale.to_f32();
    out.extend_from_slice(&scale.to_le_bytes());
    let integer = |v: &f32| if step > 0.0 { (v / step).round().clamp(-127.0, 127.0) as i8 } else { 0 };
    out.extend(values.iter().map(|v| integer(v) as u8));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn distances_are_those_by_the_definition(
            dim in prop::sample::select(vec![8usize, 64, 152]),
            count in 1usize..40,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u32 << 24) as f32 * 4.0 - 2.0
            };
            let bank: Vec<f16> = (0..count * dim).map(|_| f16::from_f32(random())).collect();
            let cells: Vec<f32> = (0..300 * dim).map(|_| random()).collect();
            let found = Nearest::new(bank.clone(), dim).unwrap().distances(&cells);
            prop_assert_eq!(found.len(), 300);
            for (cell, found) in cells.chunks_exact(dim).zip(found) {
                let to = |b: &[f16]| cell.iter().zip(b).map(|(x, b)| (x - b.to_f32()).powi(2)).sum::<f32>().sqrt();
                let plain = bank.chunks_exact(dim).map(to).fold(f32::INFINITY, f32::min);
                let length = cell.iter().map(|v| v * v).sum::<f32>().sqrt();
                prop_assert!((found - plain).abs() < 0.03 * length, "{} beside {}", found, plain);
            }
        }
    }

    #[test]
    fn what_is_no_number_is_at_no_small_distance() {
        let nearest = Nearest::new(vec![f16::ZERO; 8], 8).unwrap();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            let mut cell = [0.0; 8];
            cell[3] = value;
            let found = nearest.distances(&cell);
            assert!(found[0].is_nan() || found[0] >= 1e6, "{value} is {} away", found[0]);
        }
    }

    #[test]
    fn no_cells_are_no_bank() {
        assert!(Nearest::new(vec![], 8).is_err());
        assert!(Nearest::new(vec![f16::ONE; 12], 8).is_err());
    }
}
