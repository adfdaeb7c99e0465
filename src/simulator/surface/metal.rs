//! Bare metal: brushed, cast, turned.

use super::{metal_colour, times};
use crate::simulator::geom::{P, Rand, angle, chance, pick, uni};
use crate::simulator::layers::Layers;
use crate::simulator::light::{Glare, Lighting};
use crate::simulator::noise::Noise;
use rand::Rng;

/// Straight fine streaks in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Brushed {
    pub grain: [u64; 3],
    base: [f32; 3],
    angle: f32,
    amp: f32,
    /// Streaks per reference pixel across and along.
    across: f32,
    along: f32,
}

impl Brushed {
    pub(crate) fn random(r: &mut Rand) -> Brushed {
        let base = metal_colour(r, 0.3, 0.68);
        let angle = if chance(r, 0.6) {
            uni(r, -0.08, 0.08) + if chance(r, 0.3) { angle::RIGHT_3 } else { 0.0 }
        } else {
            uni(r, 0.0, angle::HALF_2)
        };
        Brushed {
            grain: r.r#gen(),
            base,
            angle,
            amp: uni(r, 0.05, 0.2),
            across: uni(r, 0.55, 1.0),
            along: uni(r, 0.012, 0.04),
        }
    }

    pub(crate) fn paint(&self, l: &mut Layers, u: f32) {
        let Brushed { base, amp, across: f1, along: f2, .. } = *self;
        let (c, s) = (self.angle.cos() / u, self.angle.sin() / u);
        let [a, b, d] = self.grain.map(Noise::new);
        l.each(l.rect(), |l, i, x, y| {
            let (p, q) = (c * x + s * y, c * y - s * x);
            let t = 0.6 * a.at(p * f2, q * f1)
                + 0.45 * b.at(p * f2 * 0.5, q * f1 * 0.37)
                + 0.3 * d.at(p * 0.004, q * 0.09);
            l.albedo[i] = times(base, 1.0 + amp * t);
            l.gloss[i] = 1.0 + 2.0 * amp * t;
        });
    }

    /// A bright band across the streaks, sometimes another highlight.
    pub(crate) fn highlights(&self, light: &mut Lighting, r: &mut Rand, w: f32, h: f32) {
        let n = [self.angle.cos(), self.angle.sin()];
        let p = [uni(r, 0.0, w), uni(r, 0.0, h)];
        light.glare.push(Glare::Band { p, n, width: w.max(h) * uni(r, 0.15, 0.45), amp: uni(r, 0.1, 0.5) });
        light.sometimes_glare(r, w, h, 0.35, [0.2, 0.7]);
    }
}

/// Rough grey skin of a casting.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    pub grain: [u64; 3],
    base: [f32; 3],
    /// Size of a grain in pixels.
    cell: f32,
    rough: f32,
    mottled: f32,
}

impl Cast {
    pub(crate) fn random(r: &mut Rand, u: f32) -> Cast {
        Cast {
            base: metal_colour(r, 0.25, 0.6),
            grain: r.r#gen(),
            cell: uni(r, 2.0, 5.0) * u,
            rough: uni(r, 0.1, 0.4) * u.max(0.5),
            mottled: uni(r, 0.03, 0.12),
        }
    }

    pub(crate) fn paint(&self, l: &mut Layers, u: f32) {
        let Cast { base, cell, rough, mottled, .. } = *self;
        let [a, b, d] = self.grain.map(Noise::new);
        let (f0, f1, f2) = (1.0 / cell, 2.3 / cell, 1.0 / (28.0 * u));
        l.each(l.rect(), |l, i, x, y| {
            let n = a.at((0.8 * x - 0.6 * y) * f0, (0.6 * x + 0.8 * y) * f0) + 0.5 * b.at(x * f1, y * f1);
            l.height[i] = rough * n;
            l.albedo[i] = times(base, 1.0 + mottled * d.two(x * f2, y * f2) + 0.06 * n);
            l.gloss[i] = 0.5;
        });
    }
}

/// Rings of a lathe around a centre.
#[derive(Clone, Debug)]
pub(crate) struct Turned {
    pub grain: [u64; 2],
    base: [f32; 3],
    centre: P,
    amp: f32,
    /// Rings per pixel, fine and coarse.
    fine: f32,
    coarse: f32,
    /// Regular grooves in radians per pixel, 0 for none.
    pitch: f32,
}

impl Turned {
    pub(crate) fn random(r: &mut Rand, w: f32, h: f32, u: f32) -> Turned {
        let base = metal_colour(r, 0.3, 0.62);
        let centre = if chance(r, 0.35) {
            [uni(r, 0.25, 0.75) * w, uni(r, 0.25, 0.75) * h]
        } else {
            let t = uni(r, 0.0, angle::FULL_3);
            let far = uni(r, 0.7, 2.5) * w.max(h);
            [w / 2.0 + t.cos() * far, h / 2.0 + t.sin() * far]
        };
        Turned {
            base,
            centre,
            grain: r.r#gen(),
            amp: uni(r, 0.05, 0.18),
            fine: uni(r, 0.3, 0.9) / u,
            coarse: uni(r, 0.05, 0.2) / u,
            pitch: if chance(r, 0.4) { uni(r, 0.5, 1.4) / u } else { 0.0 },
        }
    }

    pub(crate) fn paint(&self, l: &mut Layers) {
        let Turned { base, centre: c, amp, fine: f1, coarse: f2, pitch, .. } = *self;
        let [a, b] = self.grain.map(Noise::new);
        l.each(l.rect(), |l, i, x, y| {
            let (dx, dy) = (x - c[0], y - c[1]);
            let d = (dx * dx + dy * dy).sqrt();
            // A cheap stand-in for the angle: streaks only need to change slowly around the centre.
            let t = 3.0 * dx / (d + 1.0);
            let mut n = 0.6 * a.at(d * f1, t) + 0.5 * b.at(d * f2, t * 0.7);
            if pitch > 0.0 {
                n += 0.4 * (d * pitch).sin();
            }
            l.albedo[i] = times(base, 1.0 + amp * n);
            l.gloss[i] = 1.0 + 1.5 * amp * n;
        });
    }

    /// The bow tie of light that rings throw back, sometimes another highlight.
    pub(crate) fn highlights(&self, light: &mut Lighting, r: &mut Rand, w: f32, h: f32) {
        let c = self.centre;
        let t = if chance(r, 0.7) {
            (h / 2.0 - c[1]).atan2(w / 2.0 - c[0]) + uni(r, -0.5, 0.5)
        } else {
            uni(r, 0.0, angle::HALF_2)
        };
        let dir = [t.cos(), t.sin()];
        light.glare.push(Glare::Lobe { c, dir, sharp: pick(r, &[3, 6, 12, 24]), amp: uni(r, 0.2, 0.8) });
        light.sometimes_glare(r, w, h, 0.5, [0.4, 1.2]);
    }
}
