//! Surface defects: each planner gives a region and a drawing at a given strength.

use crate::simulator::geom::{P, Rand, Rect, angle, chance, smooth, uni};
use crate::simulator::layers::{Layers, Mask, ribbon};
use crate::simulator::noise::Noise;
use crate::simulator::scene::{Need, Scene};
use rand::Rng;

/// Draws a planned defect at a strength: 1 is what such a defect usually looks like.
type Draw = Box<dyn Fn(&mut Layers, f32)>;

/// A planned defect.
struct Plan {
    roi: Rect,
    need: Need,
    count: usize,
    draw: Draw,
}

/// Adds one defect of the label where it fits and can be seen; false if no place was found.
pub(super) fn add(sc: &mut Scene, r: &mut Rand, label: &'static str) -> bool {
    for _ in 0..12 {
        let plan = match label {
            "scratch" => scratch(sc, r),
            "dent" => dent(sc, r),
            "crack" => crack(sc, r),
            "pit" => pit(sc, r),
            "stain" => stain(sc, r),
            "chip" => chip(sc, r),
            _ => None,
        };
        let Some(plan) = plan else { continue };
        if !sc.free(plan.roi) {
            continue;
        }
        let start = uni(r, 0.5, 1.3);
        for strength in [start, start * 1.5, start * 2.2, start * 3.2] {
            if let Some(b) = sc.change(plan.roi, plan.need, |l| (plan.draw)(l, strength)) {
                let min = (4.0 * sc.unit).max(3.0) as i32;
                if b.w().max(b.h()) < min {
                    break;
                }
                sc.record(label, b, plan.count);
                return true;
            }
        }
    }
    false
}

/// Random point on the part.
fn spot(sc: &Scene, r: &mut Rand, margin: f32) -> Option<P> {
    (0..20)
        .map(|_| [uni(r, 0.0, sc.layers.w as f32), uni(r, 0.0, sc.layers.h as f32)])
        .find(|p| sc.inside(*p, margin))
}

/// Log-uniform size in pixels.
fn size(sc: &Scene, r: &mut Rand, lo: f32, hi: f32) -> f32 {
    (uni(r, lo.ln(), hi.ln())).exp() * sc.unit
}

/// A wandering line of the given length.
fn walk(r: &mut Rand, from: P, heading: f32, len: f32, step: f32, bend: f32, jag: f32) -> Vec<P> {
    let n = ((len / step) as usize).max(4);
    let (mut p, mut t) = (from, heading);
    let mut out = vec![p];
    for _ in 0..n {
        t += bend / n as f32;
        let a = t + uni(r, -jag, jag);
        p = [p[0] + a.cos() * len / n as f32, p[1] + a.sin() * len / n as f32];
        out.push(p);
    }
    out
}

/// True when most points lie on the part and in the image.
fn mostly_inside(sc: &Scene, pts: &[P], part: f32) -> bool {
    pts.iter().filter(|p| sc.inside(**p, 2.0)).count() as f32 >= part * pts.len() as f32
}

fn scratch(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let u = sc.unit;
    let len = size(sc, r, 18.0, 190.0);
    let at = spot(sc, r, 6.0 * u)?;
    let bend = if chance(r, 0.5) { uni(r, -0.2, 0.2) } else { uni(r, -1.6, 1.6) };
    let heading = uni(r, 0.0, angle::FULL_3);
    let main = walk(r, at, heading, len, 5.0 * u, bend, 0.05);
    if !mostly_inside(sc, &main, 0.85) {
        return None;
    }
    let width = uni(r, 0.9, 2.6) * u.max(0.6);
    let mut strands = vec![ribbon(&main, |t| width * (0.35 + (t * angle::HALF_2).sin().max(0.0).sqrt()))];
    if chance(r, 0.2) {
        let (dx, dy) = (uni(r, 2.5, 6.0) * u, uni(r, -5.0, 5.0) * u);
        let cut = main.len() / 4;
        let side: Vec<P> = main[cut..].iter().map(|p| [p[0] + dx, p[1] + dy]).collect();
        strands.push(ribbon(&side, |t| 0.7 * width * (0.3 + (t * angle::HALF_2).sin().max(0.0))));
    }
    let clip = sc.layers.rect();
    let masks: Vec<Mask> = strands.iter().map(|s| Mask::polygon(s, 2, clip)).collect();
    let roi = masks.iter().fold(Rect::EMPTY, |a, m| a.union(m.rect));
    let (tone, groove) =
        (if chance(r, 0.55) { 1.0 } else { -1.0 }, if chance(r, 0.4) { uni(r, 0.4, 1.2) } else { 0.0 });
    let gaps = Noise::new(r.r#gen());
    let broken = uni(r, 0.0, 0.6);
    let bare = if sc.surface.metal() { 0.85 } else { uni(r, 0.6, 0.9) };
    Some(Plan {
        roi: roi.pad(1),
        need: Need { floor: 0.065, texture: 1.6, frac: 0.35 },
        count: 1,
        draw: Box::new(move |l, s| {
            for m in &masks {
                m.paint(l, |l, i, x, y, a| {
                    let a = a * (1.0 - broken * smooth(0.0, 0.7, gaps.at(x * 0.11 / u, y * 0.11 / u)));
                    if tone > 0.0 {
                        l.tint(i, [bare; 3], (a * 0.4 * s).min(0.95));
                    } else {
                        l.scale(i, 1.0 - (a * 0.35 * s).min(0.85));
                        l.gloss[i] *= 1.0 - (0.5 * a * s).min(1.0);
                    }
                    l.height[i] -= groove * s * a;
                });
            }
        }),
    })
}

fn dent(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let rad = size(sc, r, 9.0, 60.0);
    let c = spot(sc, r, rad * 0.8 + 3.0)?;
    let (squash, t) = (uni(r, 0.55, 1.0), uni(r, 0.0, angle::HALF_2));
    let (cs, sn) = (t.cos(), t.sin());
    let lump = Noise::new(r.r#gen());
    let sign = if chance(r, 0.85) { -1.0 } else { 1.0 };
    let sharp = uni(r, 1.2, 3.0);
    let bump = sc.light.bump;
    Some(Plan {
        roi: Rect::around(&[c], rad * 1.35),
        need: Need { floor: 0.06, texture: 1.0, frac: 0.3 },
        count: 1,
        draw: Box::new(move |l, s| {
            l.each(Rect::around(&[c], rad * 1.3), |l, i, x, y| {
                let (dx, dy) = (x - c[0], y - c[1]);
                let (u, v) = ((cs * dx + sn * dy) / rad, (cs * dy - sn * dx) / (rad * squash));
                let q = (u * u + v * v).sqrt() * (1.0 + 0.12 * lump.at(dx * 1.6 / rad, dy * 1.6 / rad));
                if q < 1.15 {
                    let bowl = (1.0 - (q / 1.15).powf(2.0)).max(0.0).powf(sharp * 0.6 + 0.6);
                    l.height[i] += sign * s * 0.42 * rad / bump * bowl;
                    l.scale(i, 1.0 - 0.06 * s.min(2.0) * bowl);
                }
            });
        }),
    })
}

fn crack(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let u = sc.unit;
    let len = size(sc, r, 24.0, 190.0);
    let at = spot(sc, r, 5.0 * u)?;
    let t = uni(r, 0.0, angle::FULL_3);
    let bend = uni(r, -0.6, 0.6);
    let main = walk(r, at, t, len, 5.5 * u, bend, 0.85);
    if !mostly_inside(sc, &main, 0.85) {
        return None;
    }
    let width = uni(r, 1.2, 2.8) * u.max(0.6) * (0.7 + 0.3 * (len / (100.0 * u)).min(1.3));
    let mut shapes = vec![ribbon(&main, |t| width * (1.15 - t))];
    for _ in 0..r.gen_range(0..4) {
        let k = r.gen_range(1..main.len() - 1);
        let side = if chance(r, 0.5) { 1.0 } else { -1.0 };
        let turn = t + side * uni(r, 0.5, 1.1);
        let blen = len * uni(r, 0.15, 0.4);
        let b = walk(r, main[k], turn, blen, 4.5 * u, 0.0, 0.8);
        if mostly_inside(sc, &b, 0.8) {
            shapes.push(ribbon(&b, |t| 0.7 * width * (1.1 - t)));
        }
    }
    let clip = sc.layers.rect();
    let masks: Vec<Mask> = shapes.iter().map(|s| Mask::polygon(s, 2, clip)).collect();
    let roi = masks.iter().fold(Rect::EMPTY, |a, m| a.union(m.rect));
    let dark = uni(r, 0.04, 0.2);
    let lip = uni(r, 0.0, 0.8);
    Some(Plan {
        roi: roi.pad(1),
        need: Need { floor: 0.08, texture: 1.6, frac: 0.33 },
        count: 1,
        draw: Box::new(move |l, s| {
            for m in &masks {
                m.paint(l, |l, i, _, _, a| {
                    l.scale(i, 1.0 - (a * (0.45 + 0.4 * s).min(1.0)) * (1.0 - dark));
                    l.height[i] -= lip * a * s.min(2.0);
                    l.gloss[i] *= 1.0 - a;
                });
            }
        }),
    })
}

fn pit(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let u = sc.unit;
    let n = if chance(r, 0.35) { 1 } else { r.gen_range(2..7) };
    let c = spot(sc, r, 12.0 * u)?;
    let spread = uni(r, 9.0, 26.0) * u;
    let mut holes: Vec<(P, f32)> = vec![];
    for _ in 0..60 {
        if holes.len() == n {
            break;
        }
        let t = uni(r, 0.0, angle::FULL_3);
        let d = spread * uni(r, 0.0, 1.0).sqrt() * if n == 1 { 0.0 } else { 1.0 };
        let (p, rad) = ([c[0] + t.cos() * d, c[1] + t.sin() * d], uni(r, 2.2, 5.5) * u);
        let clear = holes.iter().all(|(q, k)| (p[0] - q[0]).hypot(p[1] - q[1]) > k + rad + 2.0 * u);
        if clear && sc.inside(p, rad + 1.0) {
            holes.push((p, rad));
        }
    }
    if holes.len() != n {
        return None;
    }
    let pts: Vec<P> = holes.iter().map(|h| h.0).collect();
    let roi = Rect::around(&pts, 8.0 * u);
    let rough = Noise::new(r.r#gen());
    let light = sc.light.dir;
    let dark = uni(r, 0.1, 0.4);
    Some(Plan {
        roi,
        need: Need { floor: 0.09, texture: 1.6, frac: 0.3 },
        count: n,
        draw: Box::new(move |l, s| {
            for (p, rad) in &holes {
                l.each(Rect::around(&[*p], rad * 1.5 + 1.0), |l, i, x, y| {
                    let (dx, dy) = (x - p[0], y - p[1]);
                    let d = (dx * dx + dy * dy).sqrt();
                    let edge = rad
                        * (1.0 + 0.3 * rough.at(p[0] + 1.1 * dx / d.max(0.5), p[1] + 1.1 * dy / d.max(0.5)));
                    let a = ((edge - d) / (0.25 * rad).max(0.8) + 0.5).clamp(0.0, 1.0);
                    let side = (dx * light[0] + dy * light[1]) / edge;
                    let k = dark + 0.35 * smooth(0.1, 1.0, side);
                    l.scale(i, 1.0 - a * (1.0 - k) * (0.5 + 0.4 * s).min(1.0));
                    let rim = (1.0 - ((d - edge) / (0.3 * rad)).abs()).max(0.0);
                    l.scale(i, 1.0 + 0.3 * rim * side.max(0.0));
                    l.height[i] *= 1.0 - a;
                    l.gloss[i] *= 1.0 - a;
                });
            }
        }),
    })
}

fn stain(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let rad = size(sc, r, 9.0, 70.0);
    let c = spot(sc, r, (rad * 0.6).min(20.0 * sc.unit))?;
    let (stretch, t) = (uni(r, 0.5, 1.0), uni(r, 0.0, angle::HALF_2));
    let (cs, sn) = (t.cos(), t.sin());
    let (shape, mottle) = (Noise::new(r.r#gen()), Noise::new(r.r#gen()));
    let kinds: [([f32; 3], f32); 6] = [
        ([0.32, 0.17, 0.07], 0.4),
        ([0.10, 0.08, 0.05], 1.6),
        ([0.85, 0.85, 0.82], 0.3),
        ([0.24, 0.27, 0.45], 1.0),
        ([0.45, 0.33, 0.12], 0.8),
        ([0.05, 0.06, 0.07], 0.6),
    ];
    let (colour, gloss) = kinds[r.gen_range(0..kinds.len())];
    let soft = uni(r, 0.15, 0.5);
    let ring = if chance(r, 0.4) { uni(r, 0.4, 1.0) } else { 0.0 };
    let edges = sc.edges.clone();
    Some(Plan {
        roi: Rect::around(&[c], rad * 1.5),
        need: Need { floor: 0.065, texture: 1.0, frac: 0.4 },
        count: 1,
        draw: Box::new(move |l, s| {
            l.each(Rect::around(&[c], rad * 1.5), |l, i, x, y| {
                let (dx, dy) = (x - c[0], y - c[1]);
                let (u, v) = ((cs * dx + sn * dy) / rad, (cs * dy - sn * dx) / (rad * stretch));
                let q = (u * u + v * v).sqrt() + 0.3 * shape.two(dx * 1.5 / rad, dy * 1.5 / rad);
                if q > 1.0 || edges.iter().any(|e| e.side([x, y]) > 0.0) {
                    return;
                }
                let mut a = 1.0 - smooth(1.0 - soft, 1.0, q);
                a *= 1.0 - ring * 0.6 * (1.0 - smooth(0.5, 0.9, q));
                a *= 0.8 + 0.2 * mottle.two(dx * 4.0 / rad, dy * 4.0 / rad);
                let a = (a * 0.35 * s).clamp(0.0, 0.9);
                l.tint(i, colour, a);
                l.gloss[i] *= 1.0 + (gloss - 1.0) * a;
            });
        }),
    })
}

fn chip(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    if !sc.edges.is_empty() && (sc.surface.metal() || chance(r, 0.6)) {
        edge_chip(sc, r)
    } else if sc.surface.metal() {
        None
    } else {
        flake(sc, r)
    }
}

/// Paint or coating missing: sharp irregular patch that shows the material below.
fn flake(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let rad = size(sc, r, 8.0, 60.0);
    let c = spot(sc, r, rad * 0.7 + 3.0)?;
    let n = r.gen_range(9..18);
    let (stretch, t0) = (uni(r, 0.5, 1.0), uni(r, 0.0, angle::FULL_3));
    let pts: Vec<P> = (0..n)
        .map(|k| {
            let t = (k as f32 + uni(r, -0.3, 0.3)) / n as f32 * angle::FULL_3;
            let d = rad * uni(r, 0.55, 1.0);
            let (x, y) = (t.cos() * d, t.sin() * d * stretch);
            [c[0] + x * t0.cos() - y * t0.sin(), c[1] + x * t0.sin() + y * t0.cos()]
        })
        .collect();
    let m = Mask::polygon(&pts, 2, sc.layers.rect());
    let v = uni(r, 0.15, 0.8);
    let under = if chance(r, 0.3) { [v, v * 0.6, v * 0.4] } else { [v, v, v * 0.97] };
    let grain = Noise::new(r.r#gen());
    let u = sc.unit;
    Some(Plan {
        roi: m.rect,
        need: Need { floor: 0.08, texture: 1.0, frac: 0.35 },
        count: 1,
        draw: Box::new(move |l, s| {
            let step = m.soften(1);
            step.paint(l, |l, i, _, _, a| l.height[i] -= 0.9 * a * s.min(2.0));
            m.paint(l, |l, i, x, y, a| {
                let k = 1.0 + 0.15 * grain.two(x * 0.2 / u, y * 0.2 / u);
                l.tint(i, [under[0] * k, under[1] * k, under[2] * k], (a * (0.5 + 0.5 * s)).min(1.0) * a);
                l.gloss[i] += (0.4 - l.gloss[i]) * a;
            });
        }),
    })
}

/// A piece broken off an edge of the part.
fn edge_chip(sc: &Scene, r: &mut Rand) -> Option<Plan> {
    let e = sc.edges[r.gen_range(0..sc.edges.len())];
    let along = [-e.n[1], e.n[0]];
    let half = size(sc, r, 8.0, 60.0);
    let deep = half * uni(r, 0.5, 1.2);
    let reach = (sc.layers.w + sc.layers.h) as f32;
    let c = (0..30)
        .map(|_| {
            let s = uni(r, -reach, reach);
            [e.p[0] + along[0] * s, e.p[1] + along[1] * s]
        })
        .find(|p| {
            let q = [p[0] - e.n[0] * deep * 0.6, p[1] - e.n[1] * deep * 0.6];
            sc.inside(q, 2.0)
        })?;
    let n = r.gen_range(6..12);
    let over = 3.0 * sc.unit;
    let at = |s: f32, d: f32| [c[0] + along[0] * s + e.n[0] * d, c[1] + along[1] * s + e.n[1] * d];
    let mut pts = vec![at(-half, over)];
    let mut face = vec![at(-half * 0.8, over)];
    for k in 0..=n {
        let t = k as f32 / n as f32 * 2.0 - 1.0;
        let d = deep * (1.0 - t * t).powf(0.6) * uni(r, 0.6, 1.1);
        pts.push(at(half * t, -d));
        face.push(at(half * t * 0.85, -d * uni(r, 0.35, 0.75)));
    }
    pts.push(at(half, over));
    face.push(at(half * 0.8, over));
    let clip = sc.layers.rect();
    let (m, f) = (Mask::polygon(&pts, 2, clip), Mask::polygon(&face, 0, clip));
    let void = sc.void;
    let bright = uni(r, 0.3, 1.5);
    let grain = Noise::new(r.r#gen());
    let u = sc.unit;
    Some(Plan {
        roi: m.rect,
        need: Need { floor: 0.09, texture: 1.0, frac: 0.35 },
        count: 1,
        draw: Box::new(move |l, _| {
            let on_part = |x: f32, y: f32| (0.5 - e.side([x, y])).clamp(0.0, 1.0);
            m.soften(1).paint(l, |l, i, x, y, a| l.height[i] -= 1.2 * a * on_part(x, y));
            m.paint(l, |l, i, x, y, a| {
                let k = bright * (1.0 + 0.35 * grain.two(x * 0.25 / u, y * 0.25 / u));
                l.scale(i, 1.0 + (k - 1.0) * a * on_part(x, y));
                l.gloss[i] *= 1.0 - 0.6 * a;
            });
            f.paint(l, |l, i, x, y, a| l.tint(i, void, a * on_part(x, y)));
        }),
    })
}
