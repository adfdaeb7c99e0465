//! Features of a picture's cells: what each place of 16 x 16 seen pixels looks like, as numbers.

use super::image::{PatchGrid, merge_order};

/// Features by row and column of cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cells {
    /// Rows of cells.
    pub rows: usize,
    /// Cells in a row.
    pub cols: usize,
    /// Numbers a cell.
    pub dim: usize,
    /// `[rows, cols, dim]`.
    pub values: Vec<f32>,
}

impl Cells {
    /// The rows of some matrices `[patches, dim]`, which stand in merge order, side by side.
    pub(super) fn of_patches(parts: &[&[f32]], grid: PatchGrid, merge: usize) -> Self {
        let dims = parts.iter().map(|part| part.len() / grid.patches().max(1)).collect::<Vec<_>>();
        let dim = dims.iter().sum::<usize>();
        let mut values = vec![0.0; grid.patches() * dim];
        for (i, (row, col)) in merge_order(grid, merge).enumerate() {
            let mut out = &mut values[(row * grid.cols + col) * dim..][..dim];
            for (part, width) in parts.iter().zip(&dims) {
                let (own, rest) = out.split_at_mut(*width);
                own.copy_from_slice(&part[i * width..][..*width]);
                out = rest;
            }
        }
        Self { rows: grid.rows, cols: grid.cols, dim, values }
    }
}

/// Whose features of a picture's cells are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Features {
    /// Of the small network that is part of the program (`backbone`).
    Backbone,
    /// Of two blocks of the loaded model's own vision tower.
    Tower,
}
