//! A bare circuit board: traces, vias, pads and printed outlines on a coloured mask.

use super::times;
use crate::simulator::geom::{P, Rand, chance, pick, uni};
use crate::simulator::layers::{Layers, Mask};
use crate::simulator::noise::Noise;
use rand::Rng;
use tiny_skia::{PathBuilder, Stroke};

/// Colour and weave of the board; its traces are drawn while it is painted.
#[derive(Clone, Debug)]
pub(crate) struct Pcb {
    pub grain: u64,
    base: [f32; 3],
}

impl Pcb {
    pub(crate) fn random(r: &mut Rand) -> Pcb {
        const COLOURS: [[f32; 3]; 6] = [
            [0.07, 0.32, 0.16],
            [0.05, 0.26, 0.13],
            [0.07, 0.16, 0.4],
            [0.1, 0.38, 0.22],
            [0.36, 0.09, 0.09],
            [0.1, 0.1, 0.11],
        ];
        Pcb { base: pick(r, &COLOURS), grain: r.r#gen() }
    }

    pub(crate) fn paint(&self, l: &mut Layers, r: &mut Rand, u: f32) {
        let base = self.base;
        let weave = Noise::new(self.grain);
        l.each(l.rect(), |l, i, x, y| {
            l.albedo[i] = times(base, 1.0 + 0.05 * weave.at(x * 0.3 / u, y * 0.3 / u));
            l.gloss[i] = 0.5;
        });
        let all = l.rect();
        let (w, h) = (l.w as f32, l.h as f32);
        let grid = 12.0 * u;
        let snap = |v: f32| (v / grid).round() * grid;
        let density = ((w * h) / (256.0 * 256.0 * u * u)).clamp(0.3, 40.0);
        let trace = [base[0] * 1.25 + 0.03, base[1] * 1.3 + 0.05, base[2] * 1.25 + 0.03];
        for _ in 0..(uni(r, 5.0, 14.0) * density) as usize {
            let mut p: P = [snap(uni(r, 0.0, w)), snap(uni(r, 0.0, h))];
            let mut dir = r.gen_range(0..8i32);
            let mut b = PathBuilder::new();
            b.move_to(p[0], p[1]);
            for _ in 0..r.gen_range(2..5) {
                let t = dir as f32 * std::f32::consts::FRAC_PI_4;
                let n = grid
                    * r.gen_range(1..6) as f32
                    * if dir % 2 == 1 { std::f32::consts::SQRT_2 } else { 1.0 };
                p = [p[0] + t.cos() * n, p[1] + t.sin() * n];
                b.line_to(p[0], p[1]);
                dir += pick(r, &[-1, 1]);
            }
            let stroke = Stroke {
                width: uni(r, 1.5, 4.0) * u,
                line_join: tiny_skia::LineJoin::Round,
                ..Stroke::default()
            };
            if let Some(path) = b.finish().and_then(|p| p.stroke(&stroke, 1.0)) {
                Mask::fill(&path, 0, all).paint(l, |l, i, _, _, a| {
                    l.tint(i, trace, a);
                    l.height[i] = l.height[i].max(0.3 * a);
                });
            }
            if chance(r, 0.7) {
                via(l, p, uni(r, 3.0, 5.0) * u);
            }
        }
        let gold = pick(r, &[[0.8, 0.66, 0.33], [0.72, 0.72, 0.7], [0.65, 0.66, 0.68]]);
        for _ in 0..(uni(r, 1.0, 4.0) * density) as usize {
            let at = [snap(uni(r, 0.0, w)), snap(uni(r, 0.0, h))];
            pad_row(l, r, gold, at, u);
        }
        for _ in 0..(uni(r, 0.0, 3.0) * density) as usize {
            silk_box(
                l,
                [snap(uni(r, 0.0, w)), snap(uni(r, 0.0, h))],
                [grid * r.gen_range(2..6) as f32, grid * r.gen_range(2..5) as f32],
                u,
            );
        }
    }
}

/// A plated through-hole.
fn via(l: &mut Layers, p: P, rad: f32) {
    if let Some(path) = PathBuilder::from_circle(p[0], p[1], rad) {
        Mask::fill(&path, 1, l.rect()).paint(l, |l, i, x, y, a| {
            let d = ((x - p[0]).powi(2) + (y - p[1]).powi(2)).sqrt() / rad;
            let c = if d < 0.4 { [0.12, 0.12, 0.11] } else { [0.7, 0.62, 0.4] };
            l.tint(i, c, a);
            l.gloss[i] = 0.8;
        });
    }
}

/// Two parallel rows or one row of solder pads.
fn pad_row(l: &mut Layers, r: &mut Rand, c: [f32; 3], at: P, u: f32) {
    let (n, gap) = (r.gen_range(2..8), uni(r, 8.0, 13.0) * u);
    let size = [gap * 0.55, uni(r, 8.0, 18.0) * u];
    let rows = if chance(r, 0.5) { 2 } else { 1 };
    let turn = chance(r, 0.5);
    for row in 0..rows {
        for k in 0..n {
            let (a, b) = (k as f32 * gap, row as f32 * (size[1] + 16.0 * u));
            let (p, s) = if turn {
                ([at[0] + b, at[1] + a], [size[1], size[0]])
            } else {
                ([at[0] + a, at[1] + b], size)
            };
            let pts = [p, [p[0] + s[0], p[1]], [p[0] + s[0], p[1] + s[1]], [p[0], p[1] + s[1]]];
            Mask::polygon(&pts, 1, l.rect()).paint(l, |l, i, _, _, a| {
                l.tint(i, c, a);
                l.gloss[i] = 1.0;
                l.height[i] += 0.5 * a;
            });
        }
    }
}

/// White outline printed around a component place.
fn silk_box(l: &mut Layers, p: P, s: P, u: f32) {
    let Some(rect) = tiny_skia::Rect::from_xywh(p[0], p[1], s[0], s[1]) else { return };
    let stroke = Stroke { width: 1.6 * u, ..Stroke::default() };
    if let Some(path) = PathBuilder::from_rect(rect).stroke(&stroke, 1.0) {
        Mask::fill(&path, 0, l.rect()).paint(l, |l, i, _, _, a| l.tint(i, [0.85, 0.86, 0.84], a * 0.9));
    }
}
