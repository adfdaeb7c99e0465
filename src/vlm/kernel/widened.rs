//! Products of activations in f32 with weights that are widened to f32 on their way: of half precision, F16 or bfloat16,
//! and the quantisations `Q4_1` and `Q5_1`, which have no tiles of integers.
//!
//! ```text
//! half precision --> tiles of 16 rows, value by value of the depth
//! Q4_1, Q5_1     --> rows of blocks, as in the file            (either is the only copy in memory)
//! a block of rows of activations, a chunk of their depth, which stays in the L2 cache; a run of tiles:
//!     a tile's chunk --f32--> in the L1 cache: some rows of activations at a time pass by --> out
//! ```
//!
//! Nothing is rounded but sums. candle rounds the activations to the type of the weights, and F16 has no number beyond
//! 65,504; and compiled for every processor, its products take these types value by value.
//!
//! A value of the product depends on its row and its column alone: all are summed from the first value of the depth to
//! the last, whatever stands beside them.

use super::layout::{BLOCK, TILE_ROWS};
use super::{Out, TASKS_PER_THREAD};
use crate::attention::lanes::{Lanes, Plain};
use crate::attention::path::Path;
use crate::ggml::GgmlType;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::slice::ChunksExact;

#[cfg(target_arch = "aarch64")]
use crate::attention::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use crate::attention::lanes::{Avx2, Avx512};

/// Values of depth of a tile that lie in the L1 cache: 16 KiB.
const DEPTH_MAX: usize = 256;

/// Rows of activations of which so many values stay in the L2 cache while tiles pass by, each widened anew for them.
const ROWS_AT_ONCE: usize = 384;

/// Weights of a tile, by depth and row.
type Chunk = [[f32; TILE_ROWS]];

/// A matrix `[n, k]` of weights.
pub struct Widened {
    /// Rows of the matrix: columns of a product.
    pub n: usize,
    k: usize,
    weights: Weights,
}

enum Weights {
    /// `[tile][value of depth][row]`, the bits of each weight.
    F16(Vec<u16>),
    /// The same of bfloat16.
    Bf16(Vec<u16>),
    /// Blocks, row by row.
    Q4_1(Vec<[u8; 20]>),
    /// The same.
    Q5_1(Vec<[u8; 24]>),
}

impl std::fmt::Debug for Widened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.weights {
            Weights::F16(_) => "F16",
            Weights::Bf16(_) => "BF16",
            Weights::Q4_1(_) => "Q4_1",
            Weights::Q5_1(_) => "Q5_1",
        };
        write!(f, "{name}([{}, {}])", self.n, self.k)
    }
}

impl Widened {
    /// True for the types whose products are these.
    pub const fn takes(dtype: GgmlType) -> bool {
        matches!(dtype, GgmlType::F16 | GgmlType::Bf16 | GgmlType::Q4_1 | GgmlType::Q5_1)
    }

    /// Packs the rows of a tensor; `None` when it is of another type, or its rows fill no whole tiles.
    pub fn pack(dtype: GgmlType, bytes: &[u8], n: usize, k: usize) -> Option<Self> {
        let is_whole = n.is_multiple_of(TILE_ROWS) && k.is_multiple_of(dtype.block());
        if !is_whole || bytes.len() != n * (k / dtype.block()) * dtype.block_bytes() {
            return None;
        }
        let weights = match dtype {
            GgmlType::F16 => Weights::F16(in_tiles(bytes, k)),
            GgmlType::Bf16 => Weights::Bf16(in_tiles(bytes, k)),
            GgmlType::Q4_1 => Weights::Q4_1(bytes.as_chunks().0.to_vec()),
            GgmlType::Q5_1 => Weights::Q5_1(bytes.as_chunks().0.to_vec()),
            _ => return None,
        };
        Some(Self { n, k, weights })
    }

    /// Number of tiles.
    pub const fn tiles(&self) -> usize {
        self.n / TILE_ROWS
    }

    /// A row of the matrix.
    ///
    /// # Panics
    /// When there is no such row, or `out` has not its length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "row {row} of {self:?}");
        let tile = row / TILE_ROWS * TILE_ROWS * self.k;
        let of_half = |bits: &[u16], out: &mut [f32], value: fn(u16) -> f32| {
            let bits = bits[tile + row % TILE_ROWS..].iter().step_by(TILE_ROWS);
            out.iter_mut().zip(bits).for_each(|(out, bits)| *out = value(*bits));
        };
        let blocks = row * self.k / BLOCK..(row + 1) * self.k / BLOCK;
        match &self.weights {
            Weights::F16(bits) => of_half(bits, out, |bits| f16::from_bits(bits).to_f32()),
            Weights::Bf16(bits) => of_half(bits, out, of_bf16),
            Weights::Q4_1(all) => each_block(&all[blocks], out, of_q4_1),
            Weights::Q5_1(all) => each_block(&all[blocks], out, of_q5_1),
        }
    }

    /// `x W^T` for `[rows, k]` activations: `[rows, n]`, in the place of what `values` holds.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub fn multiply(&self, x: &[f32], values: &mut Vec<f32>) {
        self.multiply_on(Path::best(), x, self.tiles(), |slot| slot, values);
    }

    /// The columns of some tiles alone, the very values that `multiply` has there: `[rows, 16 * tiles.len()]`.
    ///
    /// # Panics
    /// When the sizes do not fit, or a tile lies outside.
    pub fn multiply_tiles(&self, x: &[f32], tiles: &[usize], values: &mut Vec<f32>) {
        self.multiply_on(Path::best(), x, tiles.len(), |slot| tiles[slot], values);
    }

    /// The products with `slots` tiles, of which `tile_of` says which they are.
    fn multiply_on(
        &self,
        path: Path,
        x: &[f32],
        slots: usize,
        tile_of: impl Fn(usize) -> usize + Sync,
        values: &mut Vec<f32>,
    ) {
        assert!(x.len().is_multiple_of(self.k), "{} activations for {self:?}", x.len());
        let (rows, stride) = (x.len() / self.k, slots * TILE_ROWS);
        values.clear();
        values.resize(rows * stride, 0.0);
        let out = Out { values: values.as_mut_ptr(), stride, tiles_before: 0 };
        let run = slots.div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD).max(1);
        (0..slots.div_ceil(run)).into_par_iter().for_each(|task| {
            let mut room = [[0.0; TILE_ROWS]; DEPTH_MAX];
            let run = task * run..slots.min((task + 1) * run);
            for block in (0..rows).step_by(ROWS_AT_ONCE).map(|start| start..rows.min(start + ROWS_AT_ONCE)) {
                for from in (0..self.k).step_by(DEPTH_MAX) {
                    let depths = from..self.k.min(from + DEPTH_MAX);
                    let multiply = |x: &[f32]| {
                        for slot in run.clone() {
                            let weights = self.chunk(tile_of(slot), from, &mut room);
                            // SAFETY: the path is available; tasks differ in their slots, and the rows and columns
                            // lie inside `values`.
                            unsafe { path.add(weights, x, (out.at(block.start, slot), stride)) };
                        }
                    };
                    with_columns(&x[block.start * self.k..block.end * self.k], self.k, depths, multiply);
                }
            }
        });
    }

    /// Weights of a tile from a depth on, as many as there is room for.
    fn chunk<'a>(&self, tile: usize, from: usize, room: &'a mut [[f32; TILE_ROWS]; DEPTH_MAX]) -> &'a Chunk {
        let room = &mut room[..DEPTH_MAX.min(self.k - from)];
        let tiled = (tile * self.k + from) * TILE_ROWS..(tile * self.k + from + room.len()) * TILE_ROWS;
        match &self.weights {
            Weights::F16(bits) => {
                bits[tiled].reinterpret_cast::<f16>().convert_to_f32_slice(room.as_flattened_mut());
            }
            Weights::Bf16(bits) => {
                let out = room.as_flattened_mut().iter_mut();
                out.zip(&bits[tiled]).for_each(|(out, bits)| *out = of_bf16(*bits));
            }
            Weights::Q4_1(blocks) => self.turn(blocks, of_q4_1, tile, from, room),
            Weights::Q5_1(blocks) => self.turn(blocks, of_q5_1, tile, from, room),
        }
        room
    }

    /// Widens blocks of a tile's rows, which become columns.
    fn turn<B>(
        &self,
        blocks: &[B],
        of: impl Fn(&B) -> [f32; BLOCK],
        tile: usize,
        from: usize,
        room: &mut Chunk,
    ) {
        for row in 0..TILE_ROWS {
            let first = ((tile * TILE_ROWS + row) * self.k + from) / BLOCK;
            for (block, out) in blocks[first..].iter().zip(room.as_chunks_mut::<BLOCK>().0) {
                out.iter_mut().zip(of(block)).for_each(|(out, value)| out[row] = value);
            }
        }
    }
}

fn each_block<B>(blocks: &[B], out: &mut [f32], of: impl Fn(&B) -> [f32; BLOCK]) {
    out.as_chunks_mut().0.iter_mut().zip(blocks).for_each(|(out, block)| *out = of(block));
}

/// Values of half precision of `[n, k]` rows, in the order of tiles.
fn in_tiles(bytes: &[u8], k: usize) -> Vec<u16> {
    let mut bits = vec![0; bytes.len() / 2];
    let tiles = bits.par_chunks_exact_mut(TILE_ROWS * k).zip(bytes.par_chunks_exact(2 * TILE_ROWS * k));
    tiles.for_each(|(tile, bytes)| {
        for (row, bytes) in bytes.chunks_exact(2 * k).enumerate() {
            let values = bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
            values.zip(tile[row..].iter_mut().step_by(TILE_ROWS)).for_each(|(value, to)| *to = value);
        }
    });
    bits
}

/// The upper half of an f32.
fn of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A scale, a minimum, and the low nibbles as the first half, the high ones as the second.
fn of_q4_1(block: &[u8; 20]) -> [f32; BLOCK] {
    of_nibbles([block[0], block[1], block[2], block[3]], &block[4..], 0)
}

/// As `Q4_1`, with a fifth bit of each value after the minimum.
fn of_q5_1(block: &[u8; 24]) -> [f32; BLOCK] {
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    of_nibbles([block[0], block[1], block[2], block[3]], &block[8..], fifth)
}

#[inline(always)]
fn of_nibbles([d0, d1, m0, m1]: [u8; 4], nibbles: &[u8], fifth: u32) -> [f32; BLOCK] {
    let [d, m] = [[d0, d1], [m0, m1]].map(|bytes| f16::from_le_bytes(bytes).to_f32());
    let mut values = [0.0; BLOCK];
    for (i, byte) in nibbles.iter().enumerate() {
        for (at, nibble) in [(i, byte & 15), (i + BLOCK / 2, byte >> 4)] {
            values[at] = f32::from(nibble | (((fifth >> at) & 1) as u8 * 16)) * d + m;
        }
    }
    values
}

thread_local! {
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
}

/// Gives `multiply` some columns of rows of `k` values, side by side: rows that lie a power of two apart share the places of
/// a cache.
fn with_columns(rows: &[f32], k: usize, columns: Range<usize>, multiply: impl FnOnce(&[f32])) {
    COLUMNS.with_borrow_mut(|room| {
        room.clear();
        rows.chunks_exact(k).for_each(|row| room.extend_from_slice(&row[columns.clone()]));
        multiply(room);
    });
}

impl Path {
    /// Adds the products of weights with rows of as many activations to what stands in `out`, whose rows are so far apart.
    ///
    /// # Safety
    /// The path is available; `out` has so many rows of sixteen columns, which nobody else touches.
    unsafe fn add(self, weights: &Chunk, x: &[f32], out: (*mut f32, usize)) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Plain => add::<Plain, 4, 2>(weights, x, out),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => add::<Neon, 4, 6>(weights, x, out),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => add_avx2(weights, x, out),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => add_avx512(weights, x, out),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_avx2(weights: &Chunk, x: &[f32], out: (*mut f32, usize)) {
    // SAFETY: the caller's.
    unsafe { add::<Avx2, 2, 6>(weights, x, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn add_avx512(weights: &Chunk, x: &[f32], out: (*mut f32, usize)) {
    // SAFETY: the caller's.
    unsafe { add::<Avx512, 1, 12>(weights, x, out) }
}

/// `R` rows at a time, whose sums fill the registers, then four, then what is left one by one; a tile in `V` vectors.
///
/// # Safety
/// As [`Path::add`].
#[inline(always)]
unsafe fn add<L: Lanes, const V: usize, const R: usize>(
    weights: &Chunk,
    x: &[f32],
    (out, stride): (*mut f32, usize),
) {
    let mut x = x.chunks_exact(weights.len());
    let mut out = out;
    while x.len() > 0 {
        // SAFETY: the caller's; the rows are there.
        unsafe {
            let count = match x.len() {
                left if left >= R => add_rows::<L, V, R>(weights, &mut x, (out, stride)),
                4.. => add_rows::<L, V, 4>(weights, &mut x, (out, stride)),
                _ => add_rows::<L, V, 1>(weights, &mut x, (out, stride)),
            };
            out = out.add(count * stride);
        }
    }
}

/// Takes the next `R` rows: how many they are.
///
/// # Safety
/// As [`Path::add`], of `R` rows.
#[inline(always)]
unsafe fn add_rows<L: Lanes, const V: usize, const R: usize>(
    weights: &Chunk,
    x: &mut ChunksExact<'_, f32>,
    (out, stride): (*mut f32, usize),
) -> usize {
    const { assert!(V * L::COUNT == TILE_ROWS) };
    let x: [&[f32]; R] = std::array::from_fn(|_| x.next().unwrap_or_default());
    assert!(x.iter().all(|x| x.len() == weights.len()), "rows as deep as the weights");
    // SAFETY: the caller's; a row of weights is `V` vectors.
    unsafe {
        let mut sums: [[L; V]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| L::load(out.add(r * stride + v * L::COUNT))));
        for (i, weights) in weights.iter().enumerate() {
            let weights: [L; V] = std::array::from_fn(|v| L::load(weights.as_ptr().add(v * L::COUNT)));
            for r in 0..R {
                let x = L::splat(*x[r].get_unchecked(i));
                for v in 0..V {
                    sums[r][v] = weights[v].mul_add(x, sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(out.add(r * stride + v * L::COUNT));
            }
        }
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use half::bf16;

    /// Numbers from -1 to 1.
    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// A matrix of either half precision, and its weights as they are there.
    fn halves(n: usize, k: usize) -> [(Widened, Vec<f32>); 2] {
        let weights = noise(n * k, 7);
        let f16s: Vec<f16> = weights.iter().map(|w| f16::from_f32(*w)).collect();
        let bf16s: Vec<bf16> = weights.iter().map(|w| bf16::from_f32(*w)).collect();
        let bytes = |bits: &[u16]| bits.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<u8>>();
        [
            (GgmlType::F16, bytes(f16s.reinterpret_cast()), f16s.iter().map(|w| w.to_f32()).collect()),
            (GgmlType::Bf16, bytes(bf16s.reinterpret_cast()), bf16s.iter().map(|w| w.to_f32()).collect()),
        ]
        .map(|(dtype, bytes, weights)| (Widened::pack(dtype, &bytes, n, k).unwrap(), weights))
    }

    /// The same and, where rows are whole blocks, quantised ones.
    fn matrices(n: usize, k: usize) -> Vec<(Widened, Vec<f32>)> {
        let mut all = Vec::from(halves(n, k));
        if k.is_multiple_of(BLOCK) {
            let weights = Tensor::from_vec(noise(n * k, 7), (n, k), &Device::Cpu).unwrap();
            for (dtype, kind) in [(GgmlType::Q4_1, GgmlDType::Q4_1), (GgmlType::Q5_1, GgmlDType::Q5_1)] {
                let quantised = QTensor::quantize(&weights, kind).unwrap();
                let values =
                    quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                all.push((Widened::pack(dtype, &quantised.data().unwrap(), n, k).unwrap(), values));
            }
        }
        all
    }

    #[test]
    fn products_are_those_of_the_definition_on_all_paths() {
        for (n, k) in [(16, 1), (48, 255), (32, 256), (16, 257), (64, 992)] {
            for (matrix, weights) in matrices(n, k) {
                for rows in [0, 1, 2, 11, 12, 13, 40] {
                    let x = noise(rows * k, 3);
                    for path in Path::available() {
                        let mut found = vec![f32::NAN; 5];
                        matrix.multiply_on(path, &x, matrix.tiles(), |slot| slot, &mut found);
                        assert_eq!(found.len(), rows * n);
                        for (at, found) in found.iter().enumerate() {
                            let (x, w) = (&x[at / n * k..][..k], &weights[at % n * k..][..k]);
                            let exact: f64 =
                                x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                            let gap = (f64::from(*found) - exact).abs();
                            assert!(
                                gap < 1e-6 * k as f64,
                                "{matrix:?}, {path:?}, {rows} rows: {found} for {exact}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_and_a_tile_have_the_same_bits_beside_others_and_alone() {
        for (matrix, _) in matrices(80, 704) {
            let (x, mut all, mut some) = (noise(704 * 29, 5), vec![], vec![]);
            matrix.multiply(&x, &mut all);
            for (row, x) in x.chunks_exact(704).enumerate() {
                matrix.multiply(x, &mut some);
                assert_eq!(some, all[row * 80..][..80]);
                matrix.multiply_tiles(x, &[1, 4], &mut some);
                assert_eq!(some, [&all[row * 80 + 16..][..16], &all[row * 80 + 64..][..16]].concat());
            }
        }
    }

    #[test]
    fn activations_beyond_the_numbers_of_f16_are_multiplied() {
        for (matrix, weights) in halves(16, 3) {
            let mut found = vec![];
            matrix.multiply(&[1e6, 0.0, 1.0], &mut found);
            assert!((found[0] - (1e6 * weights[0] + weights[2])).abs() < 1.0, "{}", found[0]);
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for k in [77, 96] {
            for (matrix, weights) in matrices(32, k) {
                let mut row = vec![0.0; k];
                for (i, weights) in weights.chunks_exact(k).enumerate() {
                    matrix.row(i, &mut row);
                    assert_eq!(row, weights);
                }
            }
        }
    }

    #[test]
    fn what_fills_no_tiles_or_is_of_another_type_is_left() {
        assert!(Widened::pack(GgmlType::F16, &[0; 2 * 15 * 4], 15, 4).is_none());
        assert!(Widened::pack(GgmlType::Q4_1, &[0; 16 * 20], 16, 33).is_none());
        assert!(Widened::pack(GgmlType::F32, &[0; 4 * 16 * 4], 16, 4).is_none());
    }
}
