//! Composition of one training tile.

use crate::simulator::defects;
use crate::simulator::geom::{Edge, P, Place, Rand, angle, chance, pick, uni};
use crate::simulator::label::{LABELS, Truth};
use crate::simulator::light::Glare;
use crate::simulator::parts::{self, Bore, Rim, Screw};
use crate::simulator::scene::Scene;
use crate::simulator::surface::{Surface, paint_colour};
use crate::simulator::text::{self, Block, Style, strings};
use rand::Rng;

/// What the tiles of a file show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Surfaces with and without defects.
    Defect,
    /// Markings to be read.
    Text,
    /// Half of the tiles are of each kind.
    Both,
    /// As `Defect`, four of five without any.
    CleanHeavy,
}

/// Renders tile `i`: raw RGB bytes and truth.
pub fn tile(seed: u64, i: u64, w: usize, h: usize, mix: Mix) -> (Vec<u8>, Truth) {
    let mut rng = crate::simulator::geom::rand_for(seed, i);
    let r = &mut rng;
    let unit = ((w * h) as f32).sqrt() / 256.0;
    let as_text = mix == Mix::Text || (mix == Mix::Both && chance(r, 0.5));
    let surface = if as_text {
        pick(
            r,
            &[
                Surface::Brushed,
                Surface::Brushed,
                Surface::Turned,
                Surface::Turned,
                Surface::Cast,
                Surface::Painted,
                Surface::Plastic,
                Surface::Pcb,
            ],
        )
    } else {
        pick(r, &Surface::ALL)
    };
    let mut sc = Scene::new(w, h, unit, surface, r);
    if as_text {
        text_tile(&mut sc, r, mix);
    } else {
        defect_tile(&mut sc, r, mix);
    }
    let rgb = sc.render();
    (rgb, Truth { i, w, h, surface: surface.name(), defects: sc.defects, texts: sc.texts })
}

/// A random straight border that leaves most of the image to the part.
fn random_edge(sc: &Scene, r: &mut Rand) -> Edge {
    let (w, h) = (sc.layers.w as f32, sc.layers.h as f32);
    let t = if chance(r, 0.75) {
        r.gen_range(0..4) as f32 * angle::RIGHT_4 + uni(r, -0.07, 0.07)
    } else {
        uni(r, 0.0, angle::FULL_3)
    };
    let n = [t.cos(), t.sin()];
    let d = uni(r, 0.15, 0.42) * (n[0].abs() * w + n[1].abs() * h);
    Edge { p: [w / 2.0 + n[0] * d, h / 2.0 + n[1] * d], n }
}

fn add_edge(sc: &mut Scene, r: &mut Rand) {
    sc.void = if chance(r, 0.65) { [uni(r, 0.02, 0.15); 3] } else { paint_colour(r) };
    let e = random_edge(sc, r);
    let rim = Rim::random(r, sc.unit);
    parts::cut_edges(sc, &[e], &rim);
}

/// Ordinary features below texts and defects.
fn distract(sc: &mut Scene, r: &mut Rand, k: f32) {
    if sc.surface != Surface::Pcb {
        if chance(r, 0.15 * k) {
            parts::seam(sc, r);
        }
        if chance(r, 0.1 * k) {
            let t = uni(r, 0.0, angle::FULL_3);
            let (w, h) = (sc.layers.w as f32, sc.layers.h as f32);
            let rad = uni(r, 60.0, 120.0) * sc.unit;
            let c = [w / 2.0 + t.cos() * w * 0.55, h / 2.0 + t.sin() * h * 0.55];
            let bore = Bore::random(r, rad, sc.unit);
            parts::bore(sc, c, &bore);
        }
        if chance(r, 0.12 * k) && sc.surface.metal() {
            parts::tool_marks(sc, r);
        }
    }
    if chance(r, 0.15 * k) {
        parts::shadow(sc, r);
    }
    if chance(r, 0.3 * k) {
        parts::dust(sc, r);
    }
}

/// A row or grid of screws; with `missing`, one place is an empty hole.
fn screw_pattern(sc: &mut Scene, r: &mut Rand, missing: bool) -> bool {
    let u = sc.unit;
    let radius = uni_exp(r, 9.0, 30.0) * u;
    let screw = Screw::random(r, radius);
    let n = if missing && chance(r, 0.2) { 1 } else { r.gen_range(1..5) + usize::from(missing) };
    let gap = screw.radius * uni(r, 3.0, 5.5);
    let t =
        if chance(r, 0.7) { r.gen_range(0..4) as f32 * angle::RIGHT_4 } else { uni(r, 0.0, angle::FULL_3) };
    let start = [uni(r, 0.1, 0.9) * sc.layers.w as f32, uni(r, 0.1, 0.9) * sc.layers.h as f32];
    let spots: Vec<P> = (0..n)
        .map(|k| {
            if n == 4 {
                [start[0] + (k % 2) as f32 * gap, start[1] + (k / 2) as f32 * gap]
            } else {
                [start[0] + t.cos() * gap * k as f32, start[1] + t.sin() * gap * k as f32]
            }
        })
        .filter(|p| sc.inside(*p, screw.radius * 0.7) && sc.free(screw.rect(*p)))
        .collect();
    if spots.is_empty() {
        return false;
    }
    let hole = missing.then(|| r.gen_range(0..spots.len()));
    let light = sc.light.dir;
    for (k, p) in spots.iter().enumerate() {
        if hole == Some(k) {
            let b = screw.draw_missing(&mut sc.layers, r, *p, light);
            sc.record("missing_screw", b, 1);
        } else {
            screw.draw(&mut sc.layers, r, *p, light);
            sc.busy.push(screw.rect(*p).pad(1).clip(sc.layers.rect()));
        }
    }
    true
}

fn uni_exp(r: &mut Rand, lo: f32, hi: f32) -> f32 {
    uni(r, lo.ln(), hi.ln()).exp()
}

/// A small one-line or two-line block somewhere on the part.
fn small_block(sc: &Scene, r: &mut Rand, style: Style) -> Option<Block> {
    let u = sc.unit;
    let n = if chance(r, 0.75) { 1 } else { 2 };
    let lines: Vec<String> = (0..n).map(|_| strings::any(r)).collect();
    let mut b = Block::random(r, lines, style);
    let (w, h) = (sc.layers.w as f32, sc.layers.h as f32);
    let cap = uni(r, 14.0, 28.0) * u;
    b.fit(w * 0.85, h * 0.5, cap);
    for _ in 0..12 {
        let angle = if chance(r, 0.7) { 0.0 } else { uni(r, -0.1, 0.1) };
        b.place = Place::new([uni(r, 0.1, 0.9) * w, uni(r, 0.1, 0.9) * h], angle, [0.0, 0.0]);
        let q = b.bounds();
        let corners = [
            [q.x0 as f32, q.y0 as f32],
            [q.x1 as f32, q.y0 as f32],
            [q.x1 as f32, q.y1 as f32],
            [q.x0 as f32, q.y1 as f32],
        ];
        if corners.iter().all(|c| sc.inside(*c, 3.0)) && sc.free(q) {
            return Some(b);
        }
    }
    None
}

fn defect_tile(sc: &mut Scene, r: &mut Rand, mix: Mix) {
    let clean = match mix {
        Mix::CleanHeavy => 0.8,
        _ => 0.45,
    };
    let n = match r.r#gen::<f32>() {
        x if x < clean => 0,
        x if x < clean + (1.0 - clean) * 0.727 => 1,
        _ => r.gen_range(2..4),
    };
    let labels: Vec<&'static str> = (0..n).map(|_| pick(r, &LABELS)).collect();
    let metal_chip = labels.contains(&"chip") && (sc.surface.metal() || chance(r, 0.4));
    distract(sc, r, 1.0);
    if metal_chip || chance(r, 0.22) {
        add_edge(sc, r);
    }
    sc.auto_expose(r);
    let mut holes = labels.iter().filter(|l| **l == "missing_screw").count();
    if holes == 0 && chance(r, 0.28) {
        screw_pattern(sc, r, false);
    }
    while holes > 0 {
        for _ in 0..8 {
            if screw_pattern(sc, r, true) {
                break;
            }
        }
        holes -= 1;
    }
    if chance(r, if mix == Mix::Both { 0.4 } else { 0.15 }) {
        let style = Style::random(r, sc.surface);
        if let Some(b) = small_block(sc, r, style) {
            if chance(r, 0.15) {
                text::clean_logo(sc, r, &b);
            } else {
                text::mark(sc, r, &b);
            }
        }
    }
    for label in labels {
        match label {
            "missing_screw" => {}
            "misprint" => {
                for _ in 0..6 {
                    let style = if chance(r, 0.75) { Style::Ink } else { Style::Laser };
                    if let Some(mut b) = small_block(sc, r, style) {
                        b.lines.truncate(1);
                        if text::misprint(sc, r, &b) {
                            break;
                        }
                    }
                }
            }
            other => {
                defects::add(sc, r, other);
            }
        }
    }
}

fn text_tile(sc: &mut Scene, r: &mut Rand, mix: Mix) {
    let (w, h, u) = (sc.layers.w as f32, sc.layers.h as f32, sc.unit);
    distract(sc, r, 0.4);
    if chance(r, 0.45) {
        let amp = uni(r, 0.3, 1.0);
        sc.light.glare.push(Glare::random(r, w, h, amp));
    }
    sc.auto_expose(r);
    sc.busy.clear();
    let wide = w / h;
    let n = if wide > 2.2 { if chance(r, 0.15) { 2 } else { 1 } } else { r.gen_range(1..4) };
    for _ in 0..4 {
        let lines: Vec<String> = (0..n).map(|_| strings::any(r)).collect();
        let style = Style::random(r, sc.surface);
        let mut b = Block::random(r, lines, style);
        let angle = if chance(r, 0.6) { uni(r, -0.02, 0.02) } else { uni(r, -0.105, 0.105) };
        let angle = if wide > 2.2 { angle * 0.5 } else { angle };
        let max = if wide > 2.2 { h * uni(r, 0.35, 0.72) } else { uni(r, 20.0, 46.0) * u };
        let room = 0.92 - 1.2 * angle.abs();
        let tall = (0.82 * h - w * angle.abs() * 0.8).max(0.4 * h);
        b.fit(room * w, tall, max);
        let persp =
            if chance(r, 0.3) { [uni(r, -0.12, 0.12) / w, uni(r, -0.25, 0.25) / h] } else { [0.0, 0.0] };
        b.place = Place::new([w / 2.0, h / 2.0], angle, persp);
        let q = b.bounds().pad(2);
        let (sx, sy) = ((w - q.w() as f32) / 2.0, (h - q.h() as f32) / 2.0);
        if sx < 0.0 || sy < 0.0 {
            continue;
        }
        let (mx, my) = ((q.x0 + q.x1) as f32 / 2.0 - w / 2.0, (q.y0 + q.y1) as f32 / 2.0 - h / 2.0);
        b.place.at = [w / 2.0 - mx + uni(r, -0.9, 0.9) * sx, h / 2.0 - my + uni(r, -0.9, 0.9) * sy];
        if text::mark(sc, r, &b) {
            break;
        }
    }
    if mix == Mix::Both && chance(r, 0.3) {
        let label = pick(r, &["scratch", "scratch", "pit", "stain", "dent"]);
        defects::add(sc, r, label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_image(b: [i32; 4], w: usize, h: usize) -> bool {
        b[0] >= 0 && b[1] >= 0 && b[2] <= w as i32 && b[3] <= h as i32 && b[0] < b[2] && b[1] < b[3]
    }

    #[test]
    fn same_seed_same_bytes() {
        for mix in [Mix::Defect, Mix::Text, Mix::Both, Mix::CleanHeavy] {
            let (a, ta) = tile(9, 4, 128, 96, mix);
            let (b, tb) = tile(9, 4, 128, 96, mix);
            assert_eq!(a, b);
            assert_eq!(ta, tb);
        }
        assert_ne!(tile(9, 4, 64, 64, Mix::Defect).0, tile(9, 5, 64, 64, Mix::Defect).0);
    }

    #[test]
    fn boxes_lie_inside_at_any_size() {
        for (w, h) in [(256, 256), (384, 96), (512, 128), (64, 64), (33, 200)] {
            for i in 0..40 {
                for mix in [Mix::Defect, Mix::Text, Mix::Both] {
                    let (rgb, t) = tile(5, i, w, h, mix);
                    assert_eq!(rgb.len(), w * h * 3);
                    assert!(t.defects.iter().all(|d| in_image(d.bbox, w, h)));
                    for x in &t.texts {
                        assert!(in_image(x.bbox, w, h) && x.chars.iter().all(|c| in_image(c.bbox, w, h)));
                        let seen: String = x.chars.iter().map(|c| c.c).collect();
                        assert_eq!(seen, x.text.replace(' ', ""));
                    }
                }
            }
        }
    }
}
