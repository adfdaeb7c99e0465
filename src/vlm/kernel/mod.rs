//! Quantised matrix products on the CPU: one compact copy of the weights, in tiles of 16 rows.
//!
//! ```text
//! ggml blocks --pack--> tiles (the only copy in memory) --row--> embeddings
//! activations --quantise--> panels of 16 rows, 8 or 16 bits a value, one scale per 32 (or 256)
//! tiles x activations --AMX | AVX-512 VNNI | AVX-VNNI | AVX2 | Arm i8mm | Arm dot product | scalar reference--> f32
//!
//! F16, bfloat16, Q4_1, Q5_1: weights --f32--> products with activations that stay f32 (widened)
//! on AMX, a large model's tower: weights, activations --bf16--> products in f32, and no tiles
//! ```
//!
//! candle keeps the original blocks and a second, larger copy, takes its fast path only for depths
//! that are multiples of 256, and rounds activations to 8 bits always. Here the weights of a tile
//! stand so that one instruction multiplies four values of sixteen rows, whatever the quantisation,
//! and a model that feels the rounding of activations is given 16 bits for half of the speed.
//!
//! Every quantisation is brought to the same form: value = scale * q - min, with q unsigned. So
//!
//! ```text
//! sum(value * x) = scale * dx * sum(q * xi) - min * dx * sum(xi)
//! ```
//!
//! where xi are the integers of the activations and dx their scale.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
mod bf16;
mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod stored;
mod widened;
#[cfg(target_arch = "x86_64")]
mod x86;

use activations::PANEL;
pub use activations::{Activations, Bits, Shared};
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::bf16::{Bf16, Panels};
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use bf16::{Bf16, Panels};
pub use layout::TILE_ROWS;
pub use pack::Packed;
pub use widened::Widened;

use rayon::prelude::*;

/// What a task reads again and again must stay in an L2 cache beside all else: its run of tiles, which
/// every block of rows passes by, and a block of rows, which passes by all tiles of the run.
const RUN_BYTES_MAX: usize = 256 << 10;
const ROWS_BYTES_MAX: usize = 256 << 10;
/// Fewest tasks for each thread, so that none waits long for the last one.
const TASKS_PER_THREAD: usize = 4;

/// How products are computed. All paths multiply the same integers; they differ in the order of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// One instruction multiplies sixteen rows of weights with sixteen rows of activations, 64 values deep. For K-quants
    /// and many rows.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// One instruction multiplies unsigned weights of sixteen rows with four activations and adds up.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same for eight rows.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// The same in two or three instructions.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// One instruction multiplies eight values of two rows of weights with those of two rows of activations.
    #[cfg(target_arch = "aarch64")]
    I8mm,
    /// One instruction multiplies weights of four rows with four activations and adds up.
    #[cfg(target_arch = "aarch64")]
    DotProduct,
    Scalar,
}

impl Path {
    /// The paths that this processor can take, the fastest first.
    fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (Self::Amx, amx::available()),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, avx512::available()),
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, avx2::vnni::available()),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, avx2::available()),
            #[cfg(target_arch = "aarch64")]
            (Self::I8mm, neon::has_i8mm()),
            #[cfg(target_arch = "aarch64")]
            (Self::DotProduct, neon::has_dot_product()),
            (Self::Scalar, true),
        ]
        .into_iter()
        .filter_map(|(path, available)| available.then_some(path))
    }

    /// The fastest one that takes every product.
    fn best() -> Self {
        Self::available().find(|path| path.takes(Bits::Eight, Shared::Block)).unwrap_or(Self::Scalar)
    }

    /// The fastest one for products of so many rows of activations.
    fn for_rows(rows: usize, bits: Bits, shared: Shared) -> Self {
        #[cfg(target_arch = "x86_64")]
        if amx::available() && rows >= amx::ROWS_MIN && Self::Amx.takes(bits, shared) {
            return Self::Amx;
        }
        let _ = (rows, bits, shared);
        Self::best()
    }

    /// True where there is a kernel for such activations. Those of AMX are for K-quants alone.
    fn takes(self, bits: Bits, shared: Shared) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            return bits == Bits::Eight && shared == Shared::Superblock;
        }
        let _ = (bits, shared);
        true
    }

    /// True where products of K-quants stay integers for a superblock; elsewhere one scale for so many
    /// activations would only cost exactness.
    const fn keeps_integers(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 | Self::Avx2 => true,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => false,
            #[cfg(target_arch = "aarch64")]
            Self::I8mm | Self::DotProduct => false,
            Self::Scalar => false,
        }
    }

    /// True where the integers of activations stand in lines of two blocks, and spans beside them.
    const fn has_lines(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => true,
            _ => false,
        }
    }

    /// Its instructions, for people.
    const fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Self::I8mm => "i8mm",
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct => "dot product",
            Self::Scalar => "scalar",
        }
    }
}

/// The paths that this processor can take, the fastest first; the last is the scalar one, which none lacks.
pub fn paths() -> Vec<&'static str> {
    Path::available().map(Path::name).collect()
}

impl Packed {
    /// `x W^T` for `[rows, k]` activations: `[rows, n]`, in the place of what `values` holds.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub fn multiply_all(&self, x: &Activations, values: &mut Vec<f32>) {
        assert!(x.k == self.k, "sizes of a matrix product");
        let rows = x.rows();
        values.clear();
        values.reserve(rows * self.n);
        let tile_bytes = self.bytes() / self.tiles();
        let even = self.tiles().div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD);
        let (run, block) = match x.path {
            #[cfg(target_arch = "x86_64")]
            Path::Amx => (even.next_multiple_of(amx::TILES), amx::ROWS_AT_ONCE),
            _ => (
                even.min(RUN_BYTES_MAX / tile_bytes).max(1),
                (ROWS_BYTES_MAX / x.row_bytes()).next_multiple_of(PANEL).max(PANEL),
            ),
        };
        let out = Out { values: values.as_mut_ptr(), stride: self.n, tiles_before: 0 };
        (0..self.tiles().div_ceil(run)).into_par_iter().for_each(|task| {
            let tiles = task * run..self.tiles().min((task + 1) * run);
            for start in (0..rows).step_by(block) {
                // SAFETY: tasks differ in their tiles, so no two write the same values, and all of them lie
                // inside the capacity.
                unsafe { self.multiply(x, start..rows.min(start + block), tiles.clone(), out) };
            }
        });
        // SAFETY: the tasks' tiles are all columns and their blocks all rows: every value is written.
        unsafe { values.set_len(rows * self.n) };
    }

    /// The columns of some tiles alone, the very values that `multiply_all` has there:
    /// `[rows, 16 * tiles.len()]`, in the place of what `values` holds. For few rows.
    ///
    /// # Panics
    /// When the sizes do not fit, or the tiles do not rise.
    pub fn multiply_tiles(&self, x: &Activations, tiles: &[usize], values: &mut Vec<f32>) {
        assert!(x.k == self.k && tiles.is_sorted_by(|a, b| a < b), "sizes of a matrix product");
        assert!(tiles.last().is_none_or(|last| *last < self.tiles()), "a tile outside the matrix");
        let (rows, stride) = (x.rows(), tiles.len() * layout::TILE_ROWS);
        values.clear();
        values.reserve(rows * stride);
        let out = Out { values: values.as_mut_ptr(), stride, tiles_before: 0 };
        tiles.par_iter().enumerate().for_each(|(slot, tile)| {
            // Tiles rise, so that at least `slot` of them stand before this one.
            let out = out.without(tile - slot);
            // SAFETY: tiles differ, so no two tasks write the same values, and each writes the columns of
            // its slot, inside the capacity.
            unsafe { self.multiply(x, 0..rows, *tile..tile + 1, out) };
        });
        // SAFETY: the slots are all columns, and every task writes all rows.
        unsafe { values.set_len(rows * stride) };
    }

    /// # Safety
    /// `out` holds all rows and columns named, and nobody else writes them.
    unsafe fn multiply(
        &self,
        x: &Activations,
        rows: std::ops::Range<usize>,
        tiles: std::ops::Range<usize>,
        out: Out,
    ) {
        // SAFETY: activations have a path only where the processor has its instructions; the rest is
        // the caller's.
        unsafe {
            match x.path {
                #[cfg(target_arch = "x86_64")]
                Path::Amx => amx::multiply(self, x, rows, tiles, out),
                #[cfg(target_arch = "x86_64")]
                Path::Avx512 => avx512::multiply(self, x, rows, tiles, out),
                #[cfg(target_arch = "x86_64")]
                Path::AvxVnni => avx2::vnni::multiply(self, x, rows, tiles, out),
                #[cfg(target_arch = "x86_64")]
                Path::Avx2 => avx2::multiply(self, x, rows, tiles, out),
                #[cfg(target_arch = "aarch64")]
                Path::I8mm => neon::multiply_i8mm(self, x, rows, tiles, out),
                #[cfg(target_arch = "aarch64")]
                Path::DotProduct => neon::multiply_dot_product(self, x, rows, tiles, out),
                Path::Scalar => self.multiply_scalar(x, rows, tiles, out),
            }
        }
    }

    /// The same by the definition, for other processors and as the reference of the tests.
    ///
    /// # Safety
    /// As `multiply`.
    unsafe fn multiply_scalar(
        &self,
        x: &Activations,
        rows: std::ops::Range<usize>,
        tiles: std::ops::Range<usize>,
        out: Out,
    ) {
        let mut weights = vec![0f32; self.k];
        for (tile, column) in tiles.flat_map(|tile| (0..layout::TILE_ROWS).map(move |column| (tile, column)))
        {
            self.row(tile * layout::TILE_ROWS + column, &mut weights);
            for row in rows.clone() {
                let sum: f32 = (0..self.k).map(|i| weights[i] * x.value(row, i)).sum();
                // SAFETY: the caller's.
                unsafe { *out.at(row, tile).add(column) = sum };
            }
        }
    }

    /// How activations of so many bits must share their scales for a product on this processor. Those that
    /// share them by superblocks serve every matrix of that depth.
    pub fn shared(&self, bits: Bits) -> Shared {
        self.shared_on(Path::best(), bits)
    }

    fn shared_on(&self, path: Path, bits: Bits) -> Shared {
        let integer_scales = self.kind.unit() == layout::SUPERBLOCK;
        if integer_scales && bits == Bits::Eight && path.keeps_integers() {
            Shared::Superblock
        } else {
            Shared::Block
        }
    }

    /// True when this processor has fast kernels for tiles.
    pub fn is_fast_here() -> bool {
        Path::best() != Path::Scalar
    }
}

/// Where tasks write: rows `stride` apart, in which some tiles may be left out.
#[derive(Clone, Copy)]
struct Out {
    values: *mut f32,
    stride: usize,
    /// Tiles before the written ones that have no columns.
    tiles_before: usize,
}

impl Out {
    /// The same place without columns for some tiles before the written ones.
    const fn without(self, tiles_before: usize) -> Self {
        Self { tiles_before, ..self }
    }

    /// The first value of a tile in a row.
    ///
    /// # Safety
    /// Both are there.
    #[inline(always)]
    unsafe fn at(self, row: usize, tile: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.values.add(row * self.stride + (tile - self.tiles_before) * layout::TILE_ROWS) }
    }
}
// SAFETY: the products give every task its own values.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

#[cfg(test)]
mod tests;
