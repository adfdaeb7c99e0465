//! Ordinary features of parts that are not defects: screws, holes, edges, seams, shadows, dust.

use crate::simulator::geom::{Edge, P, Rand, Rect, angle, chance, pick, smooth, uni};
use crate::simulator::layers::{Layers, Mask, ribbon};
use crate::simulator::noise::Noise;
use crate::simulator::scene::Scene;
use crate::simulator::surface::metal_colour;
use rand::Rng;

/// Drive shape of a screw head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Drive {
    Slot,
    Phillips,
    Hex,
    Torx,
}

/// One screw type, shared by a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screw {
    pub drive: Drive,
    pub radius: f32,
    pub colour: [f32; 3],
    pub dome: f32,
    pub seat: f32,
    /// Height over width as seen.
    pub squash: f32,
}

impl Screw {
    /// Random screw of about `radius` pixels.
    pub(super) fn random(r: &mut Rand, radius: f32) -> Screw {
        Screw {
            drive: pick(r, &[Drive::Slot, Drive::Phillips, Drive::Hex, Drive::Torx]),
            radius,
            colour: if chance(r, 0.12) { [uni(r, 0.24, 0.32); 3] } else { metal_colour(r, 0.42, 0.78) },
            dome: uni(r, 0.1, 0.35),
            seat: uni(r, 1.12, 1.35),
            squash: uni(r, 0.94, 1.0),
        }
    }

    /// Box around the seat.
    pub(super) fn rect(&self, at: P) -> Rect {
        let (a, b) = (self.radius * self.seat, self.radius * self.seat * self.squash);
        Rect::around(&[[at[0] - a, at[1] - b], [at[0] + a, at[1] + b]], 0.0)
    }

    /// Counterbore around head or hole.
    fn draw_seat(&self, l: &mut Layers, at: P, light: P) {
        let (rad, sq) = (self.radius, self.squash);
        let out = rad * self.seat;
        l.each(self.rect(at).pad(3), |l, i, x, y| {
            let (dx, dy) = (x - at[0], (y - at[1]) / sq);
            let d = (dx * dx + dy * dy).sqrt();
            let a = (out - d + 0.5).clamp(0.0, 1.0);
            if a > 0.0 {
                let side = (dx * light[0] + dy * light[1]) / d.max(1.0);
                l.scale(i, 1.0 - a * (0.35 - 0.45 * side * smooth(rad * 0.8, out, d)));
                l.height[i] *= 1.0 - a;
            }
        });
    }

    /// Draws the screw in its seat.
    pub(super) fn draw(&self, l: &mut Layers, r: &mut Rand, at: P, light: P) {
        self.draw_seat(l, at, light);
        let (rad, sq) = (self.radius, self.squash);
        let turn = uni(r, 0.0, angle::FULL_3);
        let (c, s) = (turn.cos(), turn.sin());
        let grain = Noise::new(r.r#gen());
        let shift = [light[0] * rad * 0.12, light[1] * rad * 0.12];
        l.each(self.rect(at).pad((rad * 0.3) as i32 + 2), |l, i, x, y| {
            let (dx, dy) = (x - at[0], (y - at[1]) / sq);
            let ds = ((dx - shift[0]).powi(2) + (dy - shift[1]).powi(2)).sqrt();
            let d = (dx * dx + dy * dy).sqrt();
            l.scale(i, 1.0 - 0.55 * (1.0 - smooth(rad * 0.95, rad * 1.2, ds)) * smooth(rad - 1.0, rad, d));
            let a = (rad - d + 0.5).clamp(0.0, 1.0);
            if a <= 0.0 {
                return;
            }
            let q = d / rad;
            let rim = (1.0 - ((q - 0.88) / 0.08).abs()).max(0.0);
            let k =
                1.0 + 0.12 * grain.at(d * 0.7, 3.0 * dx / (d + 1.0)) + 0.3 * rim - 0.3 * smooth(0.92, 1.0, q);
            l.tint(i, [self.colour[0] * k, self.colour[1] * k, self.colour[2] * k], a);
            l.gloss[i] = 1.3;
            let (u, v) = ((c * dx + s * dy) / rad, (c * dy - s * dx) / rad);
            let recess = self.recess(u, v);
            let m = (0.5 - recess * rad).clamp(0.0, 1.0);
            let shade = 0.22
                + 0.35
                    * smooth(
                        -0.4,
                        0.4,
                        u * (c * light[0] + s * light[1]) + v * (c * light[1] - s * light[0]),
                    );
            l.scale(i, 1.0 - m * (1.0 - shade));
            let dome = rad * self.dome * (1.0 - q.powi(4));
            l.height[i] = l.height[i] * (1.0 - a) + a * (dome - m * rad * 0.1);
            l.gloss[i] *= 1.0 - 0.8 * m;
        });
    }

    /// Signed distance to the drive recess, in head radii.
    fn recess(&self, u: f32, v: f32) -> f32 {
        let bar = |a: f32, b: f32, len: f32, wid: f32| (a.abs() - len).max(b.abs() - wid);
        match self.drive {
            Drive::Slot => bar(u, v, 0.88, 0.12),
            Drive::Phillips => bar(u, v, 0.58, 0.13).min(bar(v, u, 0.58, 0.13)),
            Drive::Hex => {
                let (a, b) = (u.abs(), v.abs());
                (0.866 * a + 0.5 * b).max(b) - 0.46
            }
            Drive::Torx => {
                let t = v.atan2(u);
                (u * u + v * v).sqrt() - 0.44 * (1.0 + 0.17 * (6.0 * t).cos())
            }
        }
    }

    /// Draws the empty threaded hole and returns its box.
    pub(super) fn draw_missing(&self, l: &mut Layers, r: &mut Rand, at: P, light: P) -> Rect {
        self.draw_seat(l, at, light);
        let (rad, sq) = (self.radius * uni(r, 0.6, 0.8), self.squash);
        let dark = uni(r, 0.02, 0.07);
        l.each(self.rect(at).pad(1), |l, i, x, y| {
            let (dx, dy) = (x - at[0], (y - at[1]) / sq);
            let d = (dx * dx + dy * dy).sqrt();
            let a = (rad - d + 0.5).clamp(0.0, 1.0);
            let side = (dx * light[0] + dy * light[1]) / rad;
            let rim = (1.0 - ((d - rad) / (0.09 * rad)).abs()).max(0.0);
            l.scale(i, 1.0 + 0.6 * rim * (0.3 + side));
            let wall =
                smooth(0.35, 1.0, d / rad) * smooth(0.1, 1.1, side) * (0.7 + 0.3 * (d / rad * 22.0).sin());
            let v = dark + 0.28 * wall;
            l.tint(i, [v, v, v * 0.97], a);
            l.height[i] *= 1.0 - a;
            l.gloss[i] *= 1.0 - a;
        });
        self.rect(at)
    }
}

/// Look of a part's border, shared by all its edges. Lengths in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rim {
    /// Seed of the background's texture.
    grain: u64,
    chamfer: f32,
    tilt: f32,
    lift: f32,
    /// Reach of the part's shadow on the background.
    depth: f32,
}

impl Rim {
    /// Random border at `u` pixels per reference pixel.
    pub(super) fn random(r: &mut Rand, u: f32) -> Rim {
        Rim {
            grain: r.r#gen(),
            chamfer: uni(r, 1.0, 6.0) * u,
            tilt: uni(r, 0.2, 0.55),
            lift: uni(r, 0.0, 0.2),
            depth: uni(r, 4.0, 14.0) * u,
        }
    }

    /// The same border before another background.
    pub(super) fn regrain(self, r: &mut Rand) -> Rim {
        Rim { grain: r.r#gen(), ..self }
    }
}

/// Cuts the part along edges: background beyond them, a chamfer on them, a shadow beside them.
pub(super) fn cut_edges(sc: &mut Scene, edges: &[Edge], rim: &Rim) {
    let u = sc.unit;
    let void = sc.void;
    let grain = Noise::new(rim.grain);
    let Rim { chamfer, tilt, lift, depth, .. } = *rim;
    let look: Vec<(Edge, f32, f32)> = edges
        .iter()
        .map(|e| {
            let facing = -(e.n[0] * sc.light.dir[0] + e.n[1] * sc.light.dir[1]);
            (*e, 1.0 + facing * tilt + lift, smooth(-0.3, 1.0, -facing) * 0.6)
        })
        .collect();
    let all = sc.layers.rect();
    sc.layers.each(all, |l, i, x, y| {
        let (mut d, mut gain, mut drop) = (f32::MIN, 1.0, 0.0);
        for (e, g, s) in &look {
            let k = e.side([x, y]);
            if k > d {
                (d, gain, drop) = (k, *g, *s);
            }
        }
        if d < -chamfer - 1.0 {
            return;
        }
        let on = (d + chamfer + 0.5).clamp(0.0, 1.0);
        let off = (d + 0.5).clamp(0.0, 1.0);
        if off < 1.0 {
            l.scale(i, 1.0 + on * (gain - 1.0));
            l.height[i] *= 1.0 - on;
        }
        if off > 0.0 {
            let k = (1.0 + 0.12 * grain.two(x * 0.06 / u, y * 0.06 / u))
                * (1.0 - drop * (1.0 - smooth(0.0, depth, d)));
            l.tint(i, [void[0] * k, void[1] * k, void[2] * k], off);
            l.height[i] *= 1.0 - off;
            l.gloss[i] *= 1.0 - 0.85 * off;
        }
    });
    sc.edges.extend_from_slice(edges);
}

/// A joint between two pieces: a straight dark line with a light lip, right across the image.
pub(super) fn seam(sc: &mut Scene, r: &mut Rand) {
    let (w, h) = (sc.layers.w as f32, sc.layers.h as f32);
    let t = if chance(r, 0.7) {
        uni(r, -0.06, 0.06) + pick(r, &[0.0, angle::RIGHT_4])
    } else {
        uni(r, 0.0, angle::HALF_2)
    };
    let (n, p) = ([t.cos(), t.sin()], [uni(r, 0.1, 0.9) * w, uni(r, 0.1, 0.9) * h]);
    let (half, dark) = (uni(r, 0.8, 2.5) * sc.unit, uni(r, 0.25, 0.65));
    let step = if chance(r, 0.5) { uni(r, 0.8, 1.2) } else { 1.0 };
    let all = sc.layers.rect();
    sc.layers.each(all, |l, i, x, y| {
        let d = (x - p[0]) * n[0] + (y - p[1]) * n[1];
        let a = (half - d.abs() + 0.5).clamp(0.0, 1.0);
        if d > 0.0 {
            l.scale(i, step);
        }
        if d.abs() < half * 4.0 + 2.0 {
            l.scale(i, 1.0 - a * dark);
            l.height[i] -= 1.2 * (1.0 - smooth(half * 0.5, half * 2.0 + 1.0, d.abs()));
        }
    });
}

/// A large round bore or boss, bigger than any screw hole. Lengths in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bore {
    pub radius: f32,
    bevel: f32,
    boss: bool,
    floor: f32,
}

impl Bore {
    /// Random look at `u` pixels per reference pixel.
    pub(super) fn random(r: &mut Rand, radius: f32, u: f32) -> Bore {
        Bore { radius, bevel: uni(r, 3.0, 8.0) * u, boss: chance(r, 0.4), floor: uni(r, 0.2, 0.8) }
    }
}

/// Draws a bore or boss with its centre at `c`.
pub(super) fn bore(sc: &mut Scene, c: P, bore: &Bore) {
    let dir = sc.light.dir;
    let Bore { radius: rad, bevel, boss, floor } = *bore;
    sc.layers.each(Rect::around(&[c], rad + bevel + 2.0), |l, i, x, y| {
        let (dx, dy) = (x - c[0], y - c[1]);
        let d = (dx * dx + dy * dy).sqrt();
        let side = (dx * dir[0] + dy * dir[1]) / d.max(1.0);
        let ring = (1.0 - ((d - rad) / bevel).abs()).clamp(0.0, 1.0).min(0.5) * 2.0;
        if ring > 0.0 {
            l.scale(i, 1.0 + ring * 0.45 * if boss { -side } else { side });
        }
        let a = (rad - d + 0.5).clamp(0.0, 1.0);
        if !boss && a > 0.0 {
            let k = floor * (1.0 - 0.6 * smooth(0.6, 1.0, d / rad) * smooth(-0.2, 1.0, -side));
            l.scale(i, 1.0 - a * (1.0 - k));
        }
    });
    sc.busy.push(Rect::around(&[c], rad + bevel).clip(sc.layers.rect()));
}

/// A soft shadow band cast by something outside the view.
pub(super) fn shadow(sc: &mut Scene, r: &mut Rand) {
    let (w, h) = (sc.layers.w as f32, sc.layers.h as f32);
    let t = uni(r, 0.0, angle::FULL_3);
    let (n, p) = ([t.cos(), t.sin()], [uni(r, 0.2, 0.8) * w, uni(r, 0.2, 0.8) * h]);
    let (soft, dark) = (uni(r, 12.0, 60.0) * sc.unit, uni(r, 0.15, 0.45));
    let all = sc.layers.rect();
    sc.layers.each(all, |l, i, x, y| {
        let d = (x - p[0]) * n[0] + (y - p[1]) * n[1];
        if d > -soft {
            l.scale(i, 1.0 - dark * smooth(-soft, soft, d));
        }
    });
}

/// Faint specks of dust, weaker than any labelled pit.
pub(super) fn dust(sc: &mut Scene, r: &mut Rand) {
    let (w, h, u) = (sc.layers.w as f32, sc.layers.h as f32, sc.unit);
    let n = (uni(r, 3.0, 25.0) * (w * h / (65536.0 * u * u)).clamp(0.3, 20.0)) as usize;
    for _ in 0..n {
        let (p, rad) = ([uni(r, 0.0, w), uni(r, 0.0, h)], uni(r, 0.4, 0.9) * u);
        let k = if chance(r, 0.6) { uni(r, 0.05, 0.16) } else { -uni(r, 0.05, 0.14) };
        sc.layers.each(Rect::around(&[p], rad + 1.0), |l, i, x, y| {
            let d = ((x - p[0]).powi(2) + (y - p[1]).powi(2)).sqrt();
            l.scale(i, 1.0 + k * (rad - d + 0.6).clamp(0.0, 1.0));
        });
    }
}

/// Regular tool marks: parallel faint arcs or lines over a strip.
pub(super) fn tool_marks(sc: &mut Scene, r: &mut Rand) {
    let (w, h, u) = (sc.layers.w as f32, sc.layers.h as f32, sc.unit);
    let all = sc.layers.rect();
    let (at, t) = ([uni(r, 0.0, w), uni(r, 0.0, h)], uni(r, 0.0, angle::FULL_3));
    let (gap, bend, n) = (uni(r, 6.0, 14.0) * u, uni(r, -0.004, 0.004) / u, r.gen_range(8..20));
    let k = uni(r, 0.04, 0.1);
    for j in 0..n {
        let off = (j as f32 - n as f32 / 2.0) * gap;
        let pts: Vec<P> = (0..24)
            .map(|s| {
                let x = (s as f32 / 23.0 - 0.5) * (w + h) * 1.2;
                let y = off + bend * x * x;
                [at[0] + t.cos() * x - t.sin() * y, at[1] + t.sin() * x + t.cos() * y]
            })
            .collect();
        Mask::polygon(&ribbon(&pts, |_| gap * 0.45), 0, all)
            .paint(&mut sc.layers, |l, i, _, _, a| l.scale(i, 1.0 + k * a));
    }
}
