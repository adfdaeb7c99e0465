//! Base materials: what the surface of a part looks like before anything is on it.
//!
//! ```text
//! Surface (kind) --random--> Look (values) --paint--> Layers
//!                                 \--light--> Lighting
//! ```
//!
//! A look is drawn first, then painted, then lit, always in this order: pictures of a seed depend on
//! it. All parts of one product share a look and differ in its grain.

mod coat;
mod metal;
mod pcb;

use crate::simulator::geom::{Rand, chance, uni};
use crate::simulator::layers::Layers;
use crate::simulator::light::Lighting;
use rand::Rng;

/// The material of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    Brushed,
    Cast,
    Turned,
    Painted,
    Plastic,
    Pcb,
}

impl Surface {
    pub(super) const ALL: [Surface; 6] =
        [Surface::Brushed, Surface::Cast, Surface::Turned, Surface::Painted, Surface::Plastic, Surface::Pcb];

    /// Name in the labels.
    pub(super) fn name(self) -> &'static str {
        ["brushed", "cast", "turned", "painted", "plastic", "pcb"][self as usize]
    }

    /// True for bare metal.
    pub(super) fn metal(self) -> bool {
        matches!(self, Surface::Brushed | Surface::Cast | Surface::Turned)
    }
}

/// One material with all its values. Lengths are in pixels of one image size.
#[derive(Clone, Debug)]
pub(super) enum Look {
    Brushed(metal::Brushed),
    Cast(metal::Cast),
    Turned(metal::Turned),
    Painted(coat::Painted),
    Plastic(coat::Plastic),
    Pcb(pcb::Pcb),
}

impl Look {
    /// Random look of a material on an image of `w` by `h` pixels, `u` pixels per reference pixel.
    pub(super) fn random(surface: Surface, r: &mut Rand, w: f32, h: f32, u: f32) -> Look {
        match surface {
            Surface::Brushed => Look::Brushed(metal::Brushed::random(r)),
            Surface::Cast => Look::Cast(metal::Cast::random(r, u)),
            Surface::Turned => Look::Turned(metal::Turned::random(r, w, h, u)),
            Surface::Painted => Look::Painted(coat::Painted::random(r, u)),
            Surface::Plastic => Look::Plastic(coat::Plastic::random(r, u)),
            Surface::Pcb => Look::Pcb(pcb::Pcb::random(r)),
        }
    }

    /// Which material it is.
    pub(super) fn surface(&self) -> Surface {
        match self {
            Look::Brushed(_) => Surface::Brushed,
            Look::Cast(_) => Surface::Cast,
            Look::Turned(_) => Surface::Turned,
            Look::Painted(_) => Surface::Painted,
            Look::Plastic(_) => Surface::Plastic,
            Look::Pcb(_) => Surface::Pcb,
        }
    }

    /// Gives the same material another grain, as two parts of one product have it.
    pub(super) fn regrain(&mut self, r: &mut Rand) {
        match self {
            Look::Brushed(m) => m.grain = r.r#gen(),
            Look::Cast(m) => m.grain = r.r#gen(),
            Look::Turned(m) => m.grain = r.r#gen(),
            Look::Painted(m) => m.grain = r.r#gen(),
            Look::Plastic(m) => m.grain = r.r#gen(),
            Look::Pcb(m) => m.grain = r.r#gen(),
        }
    }

    /// Paints the material over all layers; only a circuit board draws from `r`, for its traces.
    pub(super) fn paint(&self, l: &mut Layers, r: &mut Rand, u: f32) {
        match self {
            Look::Brushed(m) => m.paint(l, u),
            Look::Cast(m) => m.paint(l, u),
            Look::Turned(m) => m.paint(l),
            Look::Painted(m) => m.paint(l, u),
            Look::Plastic(m) => m.paint(l, u),
            Look::Pcb(m) => m.paint(l, r, u),
        }
    }

    /// Random light with the highlights that the material throws back.
    pub(super) fn light(&self, r: &mut Rand, w: f32, h: f32) -> Lighting {
        let mut light = Lighting::random(r, 1.0);
        match self {
            Look::Brushed(m) => m.highlights(&mut light, r, w, h),
            Look::Turned(m) => m.highlights(&mut light, r, w, h),
            Look::Cast(_) => light.sometimes_glare(r, w, h, 0.4, [0.1, 0.35]),
            Look::Painted(_) => light.sometimes_glare(r, w, h, 0.6, [0.1, 0.6]),
            Look::Plastic(_) => light.sometimes_glare(r, w, h, 0.5, [0.1, 0.5]),
            Look::Pcb(_) => light.sometimes_glare(r, w, h, 0.5, [0.1, 0.4]),
        }
        light
    }
}

/// Grey of bare metal with a slight hue (steel, aluminium, brass, copper).
pub(super) fn metal_colour(r: &mut Rand, lo: f32, hi: f32) -> [f32; 3] {
    let v = uni(r, lo, hi);
    let hue = match r.gen_range(0..10) {
        0 => [1.15, 0.98, 0.68],
        1 => [1.18, 0.9, 0.74],
        2..=4 => [0.96, 1.0, 1.05],
        _ => [1.0, 1.0, 0.98],
    };
    [v * hue[0], v * hue[1], v * hue[2]]
}

/// Any paint colour, often muted.
pub(super) fn paint_colour(r: &mut Rand) -> [f32; 3] {
    let v = uni(r, 0.18, 0.8);
    let sat = if chance(r, 0.4) { uni(r, 0.0, 0.1) } else { uni(r, 0.2, 0.75) };
    let h = uni(r, 0.0, 6.0);
    let f = |k: f32| {
        let t = (k + h) % 6.0;
        v * (1.0 - sat * t.min(4.0 - t).clamp(0.0, 1.0))
    };
    [f(5.0), f(3.0), f(1.0)]
}

fn times(c: [f32; 3], s: f32) -> [f32; 3] {
    [c[0] * s, c[1] * s, c[2] * s]
}
