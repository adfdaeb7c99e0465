//! Paint and plastic.

use super::{paint_colour, times};
use crate::simulator::geom::{Rand, chance, uni};
use crate::simulator::layers::Layers;
use crate::simulator::noise::Noise;
use rand::Rng;

/// Smooth paint with orange peel.
#[derive(Clone, Debug)]
pub(crate) struct Painted {
    pub grain: [u64; 2],
    base: [f32; 3],
    /// Waves of the peel per pixel.
    waves: f32,
    peel: f32,
    shade: f32,
}

impl Painted {
    pub(crate) fn random(r: &mut Rand, u: f32) -> Painted {
        Painted {
            base: paint_colour(r),
            grain: r.r#gen(),
            waves: 1.0 / (uni(r, 4.0, 9.0) * u),
            peel: uni(r, 0.02, 0.25) * u,
            shade: uni(r, 0.005, 0.03),
        }
    }

    pub(crate) fn paint(&self, l: &mut Layers, u: f32) {
        let Painted { base, waves: f, peel, shade, .. } = *self;
        let [a, d] = self.grain.map(Noise::new);
        let f2 = 1.0 / (60.0 * u);
        l.each(l.rect(), |l, i, x, y| {
            l.height[i] = peel * a.two((0.8 * x - 0.6 * y) * f, (0.6 * x + 0.8 * y) * f);
            l.albedo[i] = times(base, 1.0 + shade * d.at(x * f2, y * f2));
            l.gloss[i] = 0.8;
        });
    }
}

/// Moulded plastic, often with a fine grain.
#[derive(Clone, Debug)]
pub(crate) struct Plastic {
    pub grain: [u64; 2],
    base: [f32; 3],
    /// Grains per pixel.
    fine: f32,
    rough: f32,
}

impl Plastic {
    pub(crate) fn random(r: &mut Rand, u: f32) -> Plastic {
        let v = uni(r, 0.12, 0.75);
        Plastic {
            base: if chance(r, 0.6) { [v, v, v * uni(r, 0.9, 1.05)] } else { paint_colour(r) },
            grain: r.r#gen(),
            fine: 1.0 / (uni(r, 1.2, 2.6) * u),
            rough: if chance(r, 0.5) { uni(r, 0.05, 0.25) * u.max(0.5) } else { uni(r, 0.0, 0.03) },
        }
    }

    pub(crate) fn paint(&self, l: &mut Layers, u: f32) {
        let Plastic { base, fine: f, rough, .. } = *self;
        let [a, d] = self.grain.map(Noise::new);
        l.each(l.rect(), |l, i, x, y| {
            l.height[i] = rough * a.at(x * f, y * f);
            l.albedo[i] = times(base, 1.0 + 0.02 * d.at(x * 0.013 / u, y * 0.013 / u));
            l.gloss[i] = 0.45;
        });
    }
}
