//! How a marking changes the material: relief, dots, burnt or inked colour.

use super::{Glyph, Style};
use crate::simulator::geom::{Rand, Rect, chance, pick, uni};
use crate::simulator::layers::Layers;
use crate::simulator::noise::Noise;
use rand::Rng;

/// Ink or mark colour with contrast to the ground.
fn ink(r: &mut Rand, ground: f32) -> [f32; 3] {
    if ground > 0.42 {
        pick(
            r,
            &[[0.05, 0.05, 0.06], [0.05, 0.05, 0.06], [0.08, 0.1, 0.4], [0.4, 0.06, 0.06], [0.06, 0.25, 0.1]],
        )
    } else {
        pick(r, &[[0.92, 0.92, 0.9], [0.92, 0.92, 0.9], [0.9, 0.8, 0.25], [0.75, 0.85, 0.9]])
    }
}

/// Applies one glyph mask in a style.
#[derive(Clone)]
pub(crate) struct Brush {
    style: Style,
    colour: [f32; 3],
    bright: bool,
    depth: f32,
    wear: Noise,
    broken: f32,
    cell: f32,
    soft: usize,
}

impl Brush {
    /// Random brush for a style on a ground of that brightness, for capitals `cap` pixels high.
    pub(crate) fn random(r: &mut Rand, style: Style, ground: f32, cap: f32) -> Brush {
        Brush {
            style,
            colour: ink(r, ground),
            bright: if ground > 0.55 { false } else { ground < 0.34 || chance(r, 0.4) },
            depth: uni(r, 0.8, 1.6) * (cap / 24.0).clamp(0.6, 3.0),
            wear: Noise::new(r.r#gen()),
            broken: uni(r, 0.0, 0.45),
            cell: 5.0 * (cap / 24.0).max(0.5),
            soft: (cap / 16.0).clamp(1.0, 6.0) as usize,
        }
    }

    /// The same brush with lines broken up to that share.
    pub(super) fn broken(self, broken: f32) -> Brush {
        Brush { broken, ..self }
    }

    /// The same brush on another part, worn elsewhere.
    pub(crate) fn worn(self, r: &mut Rand) -> Brush {
        Brush { wear: Noise::new(r.r#gen()), ..self }
    }

    /// Draws one glyph at strength `s`; `dot` is the radius of its dots in pixels.
    pub(super) fn draw(&self, l: &mut Layers, g: &Glyph, dot: f32, s: f32) {
        match self.style {
            Style::Engraved | Style::Embossed => {
                let sign = if self.style == Style::Engraved { -1.0 } else { 1.0 };
                let relief = g.mask.soften(self.soft);
                relief.paint(l, |l, i, _, _, a| l.height[i] += sign * self.depth * s * a);
                if self.style == Style::Engraved {
                    g.mask.paint(l, |l, i, _, _, a| {
                        l.scale(i, 1.0 - (0.22 * s).min(0.6) * a);
                        l.gloss[i] *= 1.0 - 0.4 * a;
                    });
                }
            }
            Style::DotPeen => {
                for p in &g.dots {
                    l.each(Rect::around(&[*p], dot * 1.4 + 1.0), |l, i, x, y| {
                        let d = ((x - p[0]).powi(2) + (y - p[1]).powi(2)).sqrt() / dot;
                        if d < 1.4 {
                            let bowl = (1.0 - d * d).max(0.0);
                            let rim = (1.0 - ((d - 1.1) / 0.3).abs()).max(0.0);
                            l.height[i] += dot * 0.45 * s * (0.35 * rim - bowl);
                            let a = ((1.0 - d) * dot + 0.5).clamp(0.0, 1.0);
                            l.scale(i, 1.0 - a * (0.3 * s).min(0.75));
                            l.gloss[i] *= 1.0 - 0.3 * a;
                        }
                    });
                }
            }
            Style::Laser => g.mask.paint(l, |l, i, x, y, a| {
                let w = self.wear.two(x / self.cell, y / self.cell);
                let a = a * (1.0 - self.broken * (w + 0.2).clamp(0.0, 1.0));
                if self.bright {
                    l.tint(i, [0.9, 0.9, 0.88], (0.3 * s * a).min(0.9));
                } else {
                    l.scale(i, 1.0 - (0.3 * s * a).min(0.88));
                }
                l.gloss[i] *= 1.0 - (0.4 * s * a).min(1.0);
            }),
            Style::Ink => g.mask.paint(l, |l, i, x, y, a| {
                let w = self.wear.two(x / self.cell, y / self.cell);
                let a = a * (1.0 - 0.35 * self.broken * w.max(0.0)) * (0.6 + 0.3 * s).min(0.97);
                l.tint(i, self.colour, a);
                l.gloss[i] *= 1.0 - 0.7 * a;
            }),
        }
    }
}
