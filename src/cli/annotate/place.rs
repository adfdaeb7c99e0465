//! Where a plate of words goes: beside what it speaks of, inside the picture, on nothing that matters.
//!
//! ```text
//! candidates: above, below, right, left of the anchor, then rings further out
//! cost:       what it hides of other plates (dear) and of boxes (cheaper) + distance
//! ```
//!
//! The cheapest candidate wins, the earlier of equals; so the result depends on the input alone.

use crate::domain::rect::BoxPx;

/// Rings of candidates around an anchor, each a plate's height further out.
const RINGS: u8 = 10;
/// Laying a plate over another hides words; over a box it hides a defect; over its own anchor it hides
/// the very thing that it speaks of. Each is a price for hiding all of it; a small box that vanishes
/// under a plate is as bad as a plate that vanishes under another.
const COST_OF_PLATE: f32 = 8.0;
const COST_OF_BOX: f32 = 2.0;
const COST_OF_ANCHOR: f32 = 4.0;
/// Price of each ring further out: beyond a few the eye no longer finds what a plate speaks of.
const COST_OF_RING: f32 = 0.12;

/// What is already in the picture.
pub(super) struct Space {
    bounds: BoxPx,
    boxes: Vec<BoxPx>,
    plates: Vec<BoxPx>,
}

impl Space {
    /// An empty picture that reaches over `bounds`, and the boxes to keep free.
    pub(super) const fn new(bounds: BoxPx, boxes: Vec<BoxPx>) -> Self {
        Self { bounds, boxes, plates: Vec::new() }
    }

    /// Finds a place for a plate of `size` beside `anchor` and takes it.
    pub(super) fn place(&mut self, size: (f32, f32), anchor: &BoxPx, gap_px: f32) -> BoxPx {
        let mut best = (f32::INFINITY, self.inside(anchor.x0, anchor.y0, size));
        'rings: for ring in 0..RINGS {
            let away = gap_px + f32::from(ring) * size.1;
            for (k, (x, y)) in candidates(size, anchor, away).into_iter().enumerate() {
                let plate = self.inside(x, y, size);
                #[expect(clippy::cast_precision_loss, reason = "a dozen candidates")]
                let order = k as f32 * 0.001;
                let cost = self.hides(&plate, anchor) + f32::from(ring) * COST_OF_RING + order;
                if cost < best.0 {
                    best = (cost, plate);
                }
            }
            // Further rings only cost more.
            if best.0 <= f32::from(ring + 1) * COST_OF_RING {
                break 'rings;
            }
        }
        let rim = gap_px / 2.0;
        let BoxPx { x0, y0, x1, y1 } = best.1;
        self.plates.push(BoxPx::new(x0 - rim, y0 - rim, x1 + rim, y1 + rim));
        best.1
    }

    /// The plate with its corner at (x, y), shifted into the picture; larger ones begin at its corner.
    fn inside(&self, x: f32, y: f32, (w, h): (f32, f32)) -> BoxPx {
        let x = x.min(self.bounds.x1 - w).max(self.bounds.x0);
        let y = y.min(self.bounds.y1 - h).max(self.bounds.y0);
        BoxPx::new(x, y, x + w, y + h)
    }

    fn hides(&self, plate: &BoxPx, anchor: &BoxPx) -> f32 {
        // The share of the smaller of the two that is hidden.
        let share = |b: &BoxPx| b.overlap(plate) / b.area().min(plate.area()).max(1.0);
        let all = |set: &[BoxPx]| set.iter().map(share).sum::<f32>();
        COST_OF_PLATE * all(&self.plates) + COST_OF_BOX * all(&self.boxes) + COST_OF_ANCHOR * share(anchor)
    }
}

/// Corners of the plate around the anchor, the most natural first.
fn candidates((w, h): (f32, f32), a: &BoxPx, away: f32) -> [(f32, f32); 12] {
    let (above, below) = (a.y0 - away - h, a.y1 + away);
    let (left, right) = (a.x0 - away - w, a.x1 + away);
    let (mid_x, mid_y) = ((a.x0 + a.x1 - w) / 2.0, (a.y0 + a.y1 - h) / 2.0);
    [
        (a.x0, above),
        (a.x0, below),
        (a.x1 - w, above),
        (a.x1 - w, below),
        (right, a.y0),
        (left, a.y0),
        (right, mid_y),
        (left, mid_y),
        (mid_x, above),
        (mid_x, below),
        (right, a.y1 - h),
        (left, a.y1 - h),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PICTURE: BoxPx = BoxPx::new(0.0, 40.0, 1000.0, 840.0);

    #[test]
    fn the_natural_place_is_above_the_box() {
        let anchor = BoxPx::new(300.0, 300.0, 400.0, 340.0);
        let plate = Space::new(PICTURE, vec![anchor]).place((120.0, 20.0), &anchor, 4.0);
        assert_eq!(plate, BoxPx::new(300.0, 276.0, 420.0, 296.0));
    }

    #[test]
    fn at_the_top_edge_it_goes_below() {
        let anchor = BoxPx::new(300.0, 45.0, 400.0, 80.0);
        let plate = Space::new(PICTURE, vec![anchor]).place((120.0, 20.0), &anchor, 4.0);
        assert_eq!(plate, BoxPx::new(300.0, 84.0, 420.0, 104.0));
    }

    #[test]
    fn twenty_plates_of_one_place_do_not_cover_each_other() {
        let anchor = BoxPx::new(500.0, 400.0, 520.0, 420.0);
        let mut space = Space::new(PICTURE, vec![anchor]);
        let plates: Vec<BoxPx> = (0..20).map(|_| space.place((120.0, 20.0), &anchor, 4.0)).collect();
        for (k, a) in plates.iter().enumerate() {
            assert!(plates[..k].iter().all(|b| a.overlap(b) < 0.01), "{a:?}");
            assert!(a.overlap(&anchor) < 0.01);
        }
    }

    #[test]
    fn a_plate_keeps_clear_of_a_small_neighbour() {
        let anchor = BoxPx::new(300.0, 300.0, 340.0, 330.0);
        let neighbour = BoxPx::new(380.0, 278.0, 392.0, 290.0);
        let plate = Space::new(PICTURE, vec![anchor, neighbour]).place((120.0, 20.0), &anchor, 4.0);
        assert!(plate.overlap(&neighbour) <= 0.0, "{plate:?}");
    }

    proptest! {
        #[test]
        fn a_plate_never_leaves_the_picture(
            x in -50.0_f32..1050.0, y in -50.0_f32..900.0, w in 0.0_f32..1200.0, h in 0.0_f32..900.0,
            pw in 10.0_f32..400.0, ph in 8.0_f32..90.0,
        ) {
            let anchor = BoxPx::new(x, y, x + w, y + h);
            let mut space = Space::new(PICTURE, vec![anchor]);
            for _ in 0..5 {
                let p = space.place((pw, ph), &anchor, 4.0);
                prop_assert!(p.x0 >= -0.01 && p.y0 >= 39.99 && p.x1 <= 1000.01 && p.y1 <= 840.01, "{p:?}");
            }
        }
    }
}
