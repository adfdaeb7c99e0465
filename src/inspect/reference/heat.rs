//! The heat map of a frame: how unusual each place is, from all tiles.

use crate::domain::inspection::HeatMap;
use crate::domain::rect::Rect;

/// Longest side of a map, in places: finer ones would only be larger.
const SIDE_MAX: u32 = 128;
/// Pixels of the frame that a place has at least.
const PLACE_PX_MIN: u32 = 8;

/// A heat map that tiles are put into.
#[derive(Clone, Debug)]
pub(crate) struct Heat {
    width: u32,
    height: u32,
    map: Option<HeatMap>,
}

impl Heat {
    /// The empty map of a frame of so many pixels.
    pub(crate) const fn new(width: u32, height: u32) -> Self {
        Self { width, height, map: None }
    }

    /// Puts the cells of a tile in; where tiles overlap, the larger value stays.
    pub(crate) fn put(&mut self, tile: Rect, rows: usize, cols: usize, cells: &[f32]) {
        if rows * cols == 0 || cells.len() != rows * cols {
            return;
        }
        let cell_px = (tile.width() / cols as u32).min(tile.height() / rows as u32);
        let Self { width, height, map } = self;
        let map = map.get_or_insert_with(|| {
            let fewest = width.max(height).div_ceil(SIDE_MAX);
            let place_px = cell_px.max(fewest).max(PLACE_PX_MIN);
            let (cols, rows) = (width.div_ceil(place_px), height.div_ceil(place_px));
            HeatMap { place_px, cols, rows, values: vec![0; (cols * rows) as usize] }
        });
        // Each place takes the cell under its middle; so none is left out, however the sizes relate.
        let place = map.place_px;
        for y in tile.y0 / place..tile.y1.div_ceil(place).min(map.rows) {
            for x in tile.x0 / place..tile.x1.div_ceil(place).min(map.cols) {
                let middle =
                    |at: u32, from: u32, to: u32| (at * place + place / 2).clamp(from, to - 1) - from;
                let row = middle(y, tile.y0, tile.y1) as usize * rows / tile.height() as usize;
                let col = middle(x, tile.x0, tile.x1) as usize * cols / tile.width() as usize;
                let value = (cells[row * cols + col].clamp(0.0, 1.0) * 255.0).round() as u8;
                let slot = &mut map.values[(y * map.cols + x) as usize];
                *slot = (*slot).max(value);
            }
        }
    }

    /// The map; `None`: no tile was put in.
    pub(crate) fn finish(self) -> Option<HeatMap> {
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_where_they_were_cut() {
        let mut heat = Heat::new(96, 64);
        heat.put(Rect::new(0, 0, 64, 64), 4, 4, &[0.0; 16]);
        let mut hot = [0.1; 16];
        hot[4 * 2 + 1] = 1.0;
        heat.put(Rect::new(32, 0, 96, 64), 4, 4, &hot);
        let map = heat.finish().unwrap();
        assert_eq!((map.place_px, map.cols, map.rows), (16, 6, 4));
        let hottest = map.values.iter().position(|v| *v == 255).unwrap();
        assert_eq!((hottest / 6, hottest % 6), (2, 3));
        assert_eq!((map.values[0], map.values[5]), (0, 26));
        assert!(Heat::new(9, 9).finish().is_none());
    }
}
