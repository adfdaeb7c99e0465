//! Colours and sizes of annotated pictures. Metal is grey, so every colour is saturated and every line
//! has a dark halo: readable on bright glare and on black oxide alike.

use super::canvas::Ink;
use crate::domain::grade::{Grade, Verdict};
use crate::domain::text::TextLine;

pub(super) const WHITE: Ink = Ink(255, 255, 255, 255);
pub(super) const DARK: Ink = Ink(17, 21, 28, 255);
pub(super) const GREY: Ink = Ink(158, 168, 182, 255);
pub(super) const NOTE: Ink = Ink(255, 190, 120, 255);
pub(super) const RED: Ink = Ink(232, 36, 60, 255);
pub(super) const AMBER: Ink = Ink(255, 176, 0, 255);
pub(super) const GREEN: Ink = Ink(46, 204, 113, 255);
const ORANGE: Ink = Ink(255, 122, 24, 255);
const YELLOW: Ink = Ink(255, 214, 51, 255);
const BLUE: Ink = Ink(86, 190, 255, 255);
/// Around coloured lines.
pub(super) const HALO: Ink = Ink(8, 10, 14, 190);
/// Opacity of the less important words of a caption.
pub(super) const QUIET_ALPHA: u8 = 215;
/// Size of small print, as a share of the size of captions.
pub(crate) const SMALL: f32 = 0.78;
/// Places of a heat map are covered from this value on.
pub(crate) const HEAT_MIN: u8 = 64;

/// A picture whose longer side is below this is enlarged, so that words fit beside its defects.
const SIDE_MIN_PX: u32 = 720;
/// It is enlarged at most this many times.
const FACTOR_MAX: u32 = 4;
/// Captions are this share of the picture's middle side, but never smaller than letters can be read.
const FONT_SHARE: f32 = 1.0 / 68.0;
const FONT_MIN_PX: f32 = 15.0;

/// Sizes that suit one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// How many times the frame is enlarged.
    pub factor: u32,
    /// Size of captions.
    pub font_px: f32,
    /// Width of a box's line.
    pub line_px: f32,
}

impl Scale {
    /// Sizes for a frame of these sides in pixels.
    #[expect(clippy::cast_precision_loss, reason = "sides of pictures are exact in f32")]
    pub(super) fn of(width: u32, height: u32) -> Self {
        let longer = width.max(height).max(1);
        let factor = SIDE_MIN_PX.div_ceil(longer).clamp(1, FACTOR_MAX);
        let middle = (width as f32 * height as f32).sqrt() * factor as f32;
        let font_px = (middle * FONT_SHARE).max(FONT_MIN_PX).round();
        Self { factor, font_px, line_px: (font_px / 8.5).max(1.5) }
    }
}

/// Colour of a grade, and of letters on it.
pub(super) const fn grade(grade: Grade) -> (Ink, Ink) {
    match grade {
        Grade::Ok => (GREEN, DARK),
        Grade::Cosmetic => (YELLOW, DARK),
        Grade::Rework => (ORANGE, DARK),
        Grade::Reject => (RED, WHITE),
    }
}

/// Colour of a verdict, and of letters on it.
pub(super) const fn verdict(verdict: &Verdict) -> (Ink, Ink) {
    match verdict {
        Verdict::Pass => (GREEN, DARK),
        Verdict::Fail(_) => (RED, WHITE),
        Verdict::Review(_) => (AMBER, DARK),
    }
}

/// Colour of a region that was read: wrong, right, or nothing expected.
pub(super) fn reading(lines: &[&TextLine]) -> Ink {
    if lines.iter().any(|l| l.matches == Some(false)) {
        RED
    } else if lines.iter().any(|l| l.matches == Some(true)) {
        GREEN
    } else {
        BLUE
    }
}

/// The colour over a place of a heat map: from yellow to red, the denser the surer.
pub(super) const fn heat(value: u8) -> Ink {
    let over = value.saturating_sub(HEAT_MIN);
    Ink(255, 220u8.saturating_sub(over.saturating_mul(2)), 0, 30 + value / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_frame() {
        let large = Scale::of(2448, 2048);
        let small = Scale::of(256, 256);
        assert_eq!((large.factor, small.factor), (1, 3));
        assert!(large.font_px > 1.8 * small.font_px && large.line_px > 1.8 * small.line_px);
        assert_eq!(Scale::of(1, 1).factor, FACTOR_MAX);
        assert_eq!(Scale::of(0, 0).font_px, FONT_MIN_PX);
    }
}
