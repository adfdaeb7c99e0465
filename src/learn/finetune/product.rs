//! Products of matrices that lie in larger ones, on the CPU in f32.
//!
//! ```text
//! View: values, rows x cols, strides --product--> out[row] of a stride of its own (added to what is there, or not)
//! ```
//!
//! Invariant: a view and an output reach no value outside their slices; both are checked before the kernel is called.

/// A matrix in a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Values from a row to the next, and from a column to the next.
    strides: (usize, usize),
}

impl<'a> View<'a> {
    /// `[rows, cols]` whose rows lie `stride` values apart.
    ///
    /// # Panics
    /// The slice is too short.
    pub(super) fn new(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(reach(rows, cols, (stride, 1)) <= values.len(), "{rows} x {cols} values of {}", values.len());
        Self { values, rows, cols, strides: (stride, 1) }
    }

    /// Rows for columns.
    pub(super) const fn turned(self) -> Self {
        Self {
            values: self.values,
            rows: self.cols,
            cols: self.rows,
            strides: (self.strides.1, self.strides.0),
        }
    }
}

/// Values up to the last one of a matrix.
const fn reach(rows: usize, cols: usize, (row, col): (usize, usize)) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row + (cols - 1) * col + 1 }
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    /// Values from a row of the output to the next.
    pub stride: usize,
    /// Each product is multiplied by it.
    pub scale: f32,
    /// Added to what is there.
    pub adds: bool,
    /// Threads of the pool that work on it.
    pub threads: usize,
}

/// `out = scale * a b`, or that added to `out`: `[a.rows, b.cols]`.
///
/// # Panics
/// The shapes do not fit, or the output is too short.
pub(super) fn product(a: View<'_>, b: View<'_>, out: &mut [f32], into: Out) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && n <= into.stride && reach(m, n, (into.stride, 1)) <= out.len(), "shapes fit");
    let parallelism = match into.threads {
        0 | 1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    // SAFETY: `View::new` and the assertion hold all three within their slices, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            into.stride as isize,
            into.adds,
            a.values.as_ptr(),
            a.strides.1 as isize,
            a.strides.0 as isize,
            b.values.as_ptr(),
            b.strides.1 as isize,
            b.strides.0 as isize,
            1.0,
            into.scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_parts_is_its_definition() {
        let a: Vec<f32> = (0..24).map(|i| (i * 7 % 11) as f32).collect();
        let b: Vec<f32> = (0..20).map(|i| (i * 5 % 13) as f32).collect();
        // [4, 3] in rows of 6, and [3, 5] as the turn of [5, 3] in rows of 4.
        let (left, right) = (View::new(&a, 4, 3, 6), View::new(&b, 5, 3, 4).turned());
        let mut out = vec![1.0; 4 * 8];
        product(left, right, &mut out, Out { stride: 8, scale: 0.5, adds: true, threads: 1 });
        for (i, row) in out.chunks_exact(8).enumerate() {
            for (j, found) in row.iter().enumerate() {
                let sum: f32 = if j < 5 { (0..3).map(|k| a[i * 6 + k] * b[j * 4 + k]).sum() } else { 0.0 };
                assert!((found - (1.0 + 0.5 * sum)).abs() < 1e-5, "{i}, {j}");
            }
        }
    }
}
