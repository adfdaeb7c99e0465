//! Markings: layout, styles and damaged prints.

mod brush;
mod dots;
pub(super) mod fonts;
mod mark;
mod misprint;
pub(super) mod strings;

pub(super) use brush::Brush;
pub(super) use mark::{mark, mark_with};
pub(super) use misprint::{clean_logo, misprint};

use crate::simulator::geom::{P, Place, Rand, Rect, chance, pick, uni};
use crate::simulator::layers::Mask;
use crate::simulator::surface::Surface;
use rand::Rng;
use tiny_skia::PathBuilder;

/// How a marking is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Style {
    Engraved,
    Embossed,
    DotPeen,
    Laser,
    Ink,
}

impl Style {
    /// Name in the labels.
    pub(super) fn name(self) -> &'static str {
        ["engraved", "embossed", "dot_peen", "laser", "ink"][self as usize]
    }

    /// A style that suits the surface.
    pub(super) fn random(r: &mut Rand, surface: Surface) -> Style {
        if surface == Surface::Pcb {
            pick(r, &[Style::Ink, Style::Ink, Style::Laser])
        } else if surface.metal() {
            pick(
                r,
                &[
                    Style::Engraved,
                    Style::Engraved,
                    Style::Embossed,
                    Style::DotPeen,
                    Style::DotPeen,
                    Style::Laser,
                    Style::Laser,
                    Style::Ink,
                ],
            )
        } else {
            pick(r, &[Style::Engraved, Style::Embossed, Style::Laser, Style::Ink, Style::Ink, Style::DotPeen])
        }
    }
}

/// One to three lines with one look.
pub(super) struct Block {
    pub lines: Vec<String>,
    pub style: Style,
    /// Index of the outline font, or `None` for dots.
    pub face: Option<usize>,
    pub cap: f32,
    /// Extra space between characters, in capital heights.
    pub track: f32,
    /// Line pitch in capital heights.
    pub pitch: f32,
    pub place: Place,
}

/// One drawn character.
struct Glyph {
    c: char,
    line: usize,
    mask: Mask,
    dots: Vec<P>,
}

impl Block {
    /// Random look for the lines; place and height are set later.
    pub(super) fn random(r: &mut Rand, lines: Vec<String>, style: Style) -> Block {
        let dotted =
            style == Style::DotPeen || (matches!(style, Style::Ink | Style::Laser) && chance(r, 0.2));
        Block {
            lines,
            style,
            face: (!dotted).then(|| r.gen_range(0..fonts::faces().len())),
            cap: 24.0,
            track: uni(r, 0.02, 0.16),
            pitch: uni(r, 1.4, 1.75),
            place: Place::new([0.0, 0.0], 0.0, [0.0, 0.0]),
        }
    }

    fn advance(&self, c: char) -> f32 {
        let base = match self.face {
            Some(f) => fonts::faces()[f].advance(c, self.cap),
            None => 5.6 / 6.0 * self.cap * 0.9,
        };
        base + self.track * self.cap
    }

    /// Width and height of the text before placement.
    pub(super) fn size(&self) -> P {
        let w =
            self.lines.iter().map(|s| s.chars().map(|c| self.advance(c)).sum::<f32>()).fold(0.0, f32::max);
        [w, self.cap * (1.0 + self.pitch * (self.lines.len() as f32 - 1.0))]
    }

    /// Sets the height so that the text fits a box, at most `max`.
    pub(super) fn fit(&mut self, w: f32, h: f32, max: f32) {
        self.cap = 10.0;
        let s = self.size();
        self.cap = (10.0 * (w / s[0]).min(h / s[1])).min(max);
    }

    /// Radius of one dot.
    fn dot(&self) -> f32 {
        self.cap / 6.0 * 0.44
    }

    fn glyphs(&self, clip: Rect) -> Vec<Glyph> {
        let [w, h] = self.size();
        let mut out = vec![];
        for (line, text) in self.lines.iter().enumerate() {
            let base = -h / 2.0 + self.cap * (1.0 + self.pitch * line as f32);
            let mut x = -w / 2.0 + self.track * self.cap / 2.0;
            for c in text.chars() {
                if let Some(g) = self.glyph(c, line, [x, base], clip) {
                    out.push(g);
                }
                x += self.advance(c);
            }
        }
        out
    }

    fn glyph(&self, c: char, line: usize, at: P, clip: Rect) -> Option<Glyph> {
        if c == ' ' {
            return None;
        }
        let mut dots = vec![];
        let path = match self.face {
            Some(f) => fonts::faces()[f].path(c, self.cap, at, |p| self.place.map(p))?,
            None => {
                let step = self.cap / 6.0;
                let mut b = PathBuilder::new();
                for (i, col) in dots::columns(c)?.iter().enumerate() {
                    for j in 0..7 {
                        if col >> j & 1 == 1 {
                            let p = self.place.map([
                                at[0] + (i as f32 + 0.4) * step * 0.9,
                                at[1] - self.cap + j as f32 * step,
                            ]);
                            b.push_circle(p[0], p[1], self.dot());
                            dots.push(p);
                        }
                    }
                }
                b.finish()?
            }
        };
        Some(Glyph { c, line, mask: Mask::fill(&path, 4, clip), dots })
    }

    /// Box of the placed text without drawing.
    pub(super) fn bounds(&self) -> Rect {
        let [w, h] = self.size();
        let (a, b) = (w / 2.0, h / 2.0);
        let pts = [[-a, -b], [a, -b], [a, b], [-a, b]].map(|p| self.place.map(p));
        Rect::around(&pts, self.cap * 0.08)
    }
}
