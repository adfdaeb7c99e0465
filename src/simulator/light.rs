//! Lighting: turns layers into display values (before the camera).

use crate::simulator::geom::{P, Rand, Rect, chance, uni};
use crate::simulator::layers::Layers;
use rand::Rng;

/// One mirror-like highlight.
#[derive(Clone, Debug)]
pub(super) enum Glare {
    /// Straight band: point, unit normal, width.
    Band { p: P, n: P, width: f32, amp: f32 },
    /// Round or oval hot spot: centre, radii, cos and sin of its turn.
    Spot { c: P, r: P, cs: P, amp: f32 },
    /// Bow-tie highlight of turned metal: centre, direction of the lobe, sharpness.
    Lobe { c: P, dir: P, sharp: i32, amp: f32 },
}

impl Glare {
    /// Brightness added at a pixel.
    #[inline]
    fn at(&self, x: f32, y: f32) -> f32 {
        let fall = |q: f32| {
            let k = 1.0 + q;
            1.0 / (k * k)
        };
        match self {
            Glare::Band { p, n, width, amp } => {
                let d = ((x - p[0]) * n[0] + (y - p[1]) * n[1]) / width;
                amp * fall(d * d)
            }
            Glare::Spot { c, r, cs, amp } => {
                let (dx, dy) = (x - c[0], y - c[1]);
                let (u, v) = ((cs[0] * dx + cs[1] * dy) / r[0], (cs[0] * dy - cs[1] * dx) / r[1]);
                amp * fall(u * u + v * v)
            }
            Glare::Lobe { c, dir, sharp, amp } => {
                let (dx, dy) = (x - c[0], y - c[1]);
                let cos2 = (dx * dir[0] + dy * dir[1]).powi(2) / (dx * dx + dy * dy + 1.0);
                amp * cos2.powi(*sharp)
            }
        }
    }

    /// Random band or spot over an image.
    pub(super) fn random(r: &mut Rand, w: f32, h: f32, amp: f32) -> Glare {
        let at = [uni(r, 0.0, w), uni(r, 0.0, h)];
        let t = uni(r, 0.0, std::f32::consts::PI);
        let s = w.min(h);
        if chance(r, 0.55) {
            Glare::Band { p: at, n: [t.cos(), t.sin()], width: s * uni(r, 0.08, 0.3), amp }
        } else {
            Glare::Spot {
                c: at,
                r: [s * uni(r, 0.1, 0.5), s * uni(r, 0.08, 0.25)],
                cs: [t.cos(), t.sin()],
                amp,
            }
        }
    }
}

/// All light on a scene.
#[derive(Clone, Debug)]
pub(super) struct Lighting {
    /// Direction the relief is lit from (unit vector times strength).
    pub dir: P,
    /// Relief strength of the material.
    pub bump: f32,
    /// Linear brightness change across the image.
    pub grad: P,
    pub vignette: f32,
    /// Exposure.
    pub gain: f32,
    pub glare: Vec<Glare>,
    /// Scales all glare; lowered until texts can be read.
    pub glare_gain: f32,
}

impl Lighting {
    /// Random light without highlights.
    pub(super) fn random(r: &mut Rand, bump: f32) -> Lighting {
        let t = r.r#gen::<f32>() * std::f32::consts::TAU;
        let g = r.r#gen::<f32>() * std::f32::consts::TAU;
        let k = uni(r, 0.0, 0.35);
        Lighting {
            dir: [t.cos(), t.sin()],
            bump,
            grad: [g.cos() * k, g.sin() * k],
            vignette: uni(r, 0.0, 0.3),
            gain: uni(r, 0.75, 1.2),
            glare: vec![],
            glare_gain: 1.0,
        }
    }

    /// Adds a random highlight with probability `p` and a brightness in `amp`.
    pub(super) fn sometimes_glare(&mut self, r: &mut Rand, w: f32, h: f32, p: f32, amp: [f32; 2]) {
        if chance(r, p) {
            let amp = uni(r, amp[0], amp[1]);
            self.glare.push(Glare::random(r, w, h, amp));
        }
    }

    /// The same lamps after a shift of the fixture: a little turned, moved, brighter or darker.
    /// `w` and `h` are the image's size in pixels.
    pub(super) fn jitter(&mut self, r: &mut Rand, w: f32, h: f32) {
        let (s, c) = uni(r, -0.25, 0.25).sin_cos();
        self.dir = [c * self.dir[0] - s * self.dir[1], s * self.dir[0] + c * self.dir[1]];
        self.gain *= uni(r, 0.92, 1.08);
        for g in &mut self.glare {
            let (dx, dy, k) = (uni(r, -0.04, 0.04) * w, uni(r, -0.04, 0.04) * h, uni(r, 0.75, 1.25));
            match g {
                Glare::Band { p: at, amp, .. } | Glare::Spot { c: at, amp, .. } => {
                    *at = [at[0] + dx, at[1] + dy];
                    *amp *= k;
                }
                // A lobe sits where the rings have their centre, which is the part's own.
                Glare::Lobe { amp, .. } => *amp *= k,
            }
        }
    }

    /// Shades a rectangle into `out` (row by row, values clipped to 0..1).
    pub(super) fn shade(&self, l: &Layers, rect: Rect, out: &mut Vec<[f32; 3]>) {
        out.clear();
        let r = rect.clip(l.rect());
        let (w, h) = (l.w, l.h);
        let (iw, ih) = (2.0 / w as f32, 2.0 / h as f32);
        let (lx, ly) = (self.dir[0] * self.bump * 0.5, self.dir[1] * self.bump * 0.5);
        for y in r.y0 as usize..r.y1.max(r.y0) as usize {
            let row = &l.height[y * w..(y + 1) * w];
            let up = &l.height[y.saturating_sub(1) * w..];
            let down = &l.height[(y + 1).min(h - 1) * w..];
            let v = (y as f32 + 0.5) * ih - 1.0;
            for x in r.x0 as usize..r.x1 as usize {
                let i = y * w + x;
                let u = (x as f32 + 0.5) * iw - 1.0;
                let slope =
                    (row[(x + 1).min(w - 1)] - row[x.saturating_sub(1)]) * lx + (down[x] - up[x]) * ly;
                let slope = slope.clamp(-0.85, 1.2);
                let lit = (1.0 + self.grad[0] * u + self.grad[1] * v - self.vignette * 0.5 * (u * u + v * v))
                    .max(0.1)
                    * (1.0 + slope)
                    * self.gain;
                let mut spec = 0.0;
                for g in &self.glare {
                    spec += g.at(x as f32, y as f32);
                }
                let c = l.albedo[i];
                let luma = 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2];
                spec *= self.glare_gain
                    * l.gloss[i]
                    * (0.25 + 1.3 * luma)
                    * (1.0 + 1.5 * slope).max(0.0)
                    * self.gain;
                out.push([
                    (c[0] * lit + spec).clamp(0.0, 1.0),
                    (c[1] * lit + spec).clamp(0.0, 1.0),
                    (c[2] * lit + spec * 0.97).clamp(0.0, 1.0),
                ]);
            }
        }
    }
}
