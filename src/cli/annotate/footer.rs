//! The strip below the picture: what was read without a region of its own, from the whole frame.

use super::canvas::{Canvas, Letters};
use super::look::Scale;
use super::plate::Plate;
use crate::domain::rect::BoxPx;

/// A laid-out strip, not yet drawn; without signs it has no height.
pub(super) struct Footer {
    /// Each sign with its place, counted from the strip's top left.
    signs: Vec<(Plate, BoxPx)>,
    /// Height of the whole strip.
    pub height_px: u32,
}

impl Footer {
    /// Lays the signs out in rows from left to right, for a picture of this width.
    pub(super) fn new(signs: Vec<Plate>, width_px: f32, scale: &Scale, letters: &Letters) -> Self {
        let pad = scale.font_px * 0.6;
        let (mut x, mut top, mut bottom) = (pad, pad, 0.0_f32);
        let mut placed = Vec::with_capacity(signs.len());
        for sign in signs {
            let sign = sign.shrink_to((width_px - 2.0 * pad).max(1.0), letters);
            let (w, h) = sign.size(letters);
            if x > pad && x + w > width_px - pad {
                (x, top) = (pad, bottom + pad);
            }
            placed.push((sign, BoxPx::new(x, top, x + w, top + h)));
            x += w + pad;
            bottom = bottom.max(top + h);
        }
        let height = if placed.is_empty() { 0.0 } else { bottom + pad };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few rows of words")]
        let height_px = height.ceil() as u32;
        Self { signs: placed, height_px }
    }

    /// Draws the signs below `top_px`, where the picture ends.
    pub(super) fn draw(&self, canvas: &mut Canvas, top_px: f32, scale: &Scale) {
        for (sign, at) in &self.signs {
            let area = BoxPx::new(at.x0, at.y0 + top_px, at.x1, at.y1 + top_px);
            sign.draw(canvas, &area, scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::score::tests::line;

    #[test]
    fn signs_stand_in_rows_without_touching() {
        let (scale, letters) = (Scale::of(800, 600), Letters::new());
        let read = line("plate", 1, Some("SN1234-A7"));
        let signs = |n: usize| (0..n).map(|_| Plate::reading("plate", &[&read], &scale)).collect();
        assert_eq!(Footer::new(signs(0), 800.0, &scale, &letters).height_px, 0);
        let footer = Footer::new(signs(9), 400.0, &scale, &letters);
        let areas: Vec<BoxPx> = footer.signs.iter().map(|(_, a)| *a).collect();
        assert!(areas[0].y0 < areas[8].y0, "more than one row");
        for (k, a) in areas.iter().enumerate() {
            assert!(a.x1 <= 400.0 && a.y1 <= footer.height_px as f32);
            assert!(areas[..k].iter().all(|b| a.overlap(b) <= 0.0));
        }
    }
}
