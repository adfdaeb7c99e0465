//! Damaged prints (smeared, doubled, interrupted) and the logos among them.

use super::brush::Brush;
use super::mark::{clear_board, ground};
use super::{Block, Glyph, Style};
use crate::simulator::geom::{P, Rand, angle, chance, uni};
use crate::simulator::layers::Mask;
use crate::simulator::noise::Noise;
use crate::simulator::scene::{Need, Scene};
use rand::Rng;

/// Prints a damaged line or logo and records it as a misprint.
pub(crate) fn misprint(sc: &mut Scene, r: &mut Rand, block: &Block) -> bool {
    let clip = sc.layers.rect();
    let roi = block.bounds().pad((block.cap * 0.6) as i32).clip(clip);
    if roi.is_empty() || !sc.free(roi) {
        return false;
    }
    clear_board(sc, roi);
    let mut whole = Mask::new(roi);
    if chance(r, 0.2) {
        logo(r, block, &mut whole);
    } else {
        for g in block.glyphs(clip) {
            whole.merge(&g.mask);
        }
    }
    let total: f32 = whole.a.iter().sum();
    let lost = |m: &Mask| m.a.iter().zip(&whole.a).map(|(a, b)| (a - b).abs()).sum::<f32>() / total.max(1.0);
    let Some(m) = (0..8)
        .map(|_| damage(r, &whole, block.cap))
        .find(|m| lost(m) > 0.28 && m.a.iter().sum::<f32>() > 0.4 * total)
    else {
        return false;
    };
    let brush = Brush::random(r, block.style, ground(&sc.layers, roi), block.cap).broken(0.1);
    let g = Glyph { c: ' ', line: 0, mask: m, dots: vec![] };
    for s in [1.2, 1.8, 2.6] {
        let need = Need { floor: 0.1, texture: 1.3, frac: 0.25 };
        if let Some(b) = sc.change(roi, need, |l| brush.draw(l, &g, 1.0, s)) {
            sc.record("misprint", b, 1);
            return true;
        }
    }
    false
}

/// An undamaged logo, as a distractor.
pub(crate) fn clean_logo(sc: &mut Scene, r: &mut Rand, block: &Block) {
    let roi = block.bounds().pad((block.cap * 0.6) as i32).clip(sc.layers.rect());
    if roi.is_empty() || !sc.free(roi) {
        return;
    }
    let mut m = Mask::new(roi);
    logo(r, block, &mut m);
    let brush = Brush::random(r, Style::Ink, ground(&sc.layers, roi), block.cap).broken(0.05);
    brush.draw(&mut sc.layers, &Glyph { c: ' ', line: 0, mask: m, dots: vec![] }, 1.0, 1.2);
    sc.busy.push(roi);
}

/// A simple company sign: ring, triangle, bars or arrow.
fn logo(r: &mut Rand, block: &Block, out: &mut Mask) {
    let c = block.place.at;
    let rad = block.cap * 0.8;
    let ring = |k0: f32, k1: f32| -> Vec<P> {
        let circle = |k: f32, dir: f32| (0..40).map(move |i| (i as f32 / 39.0 * angle::FULL_3 * dir, k));
        circle(k1, 1.0)
            .chain(circle(k0, -1.0))
            .map(|(t, k)| [c[0] + rad * k * t.cos(), c[1] + rad * k * t.sin()])
            .collect()
    };
    let star = |n: usize, k0: f32, k1: f32| -> Vec<P> {
        (0..2 * n)
            .map(|i| {
                let (t, k) =
                    (i as f32 / n as f32 * angle::HALF_4 - angle::RIGHT_2, if i % 2 == 0 { k1 } else { k0 });
                [c[0] + rad * k * t.cos(), c[1] + rad * k * t.sin()]
            })
            .collect()
    };
    let rect = |x: f32, y: f32, w: f32, h: f32| -> Vec<P> {
        [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
            .map(|p| [c[0] + rad * p[0], c[1] + rad * p[1]])
            .to_vec()
    };
    let shapes = match r.gen_range(0..4) {
        0 => vec![ring(0.8, 1.0), star(3, 0.3, 0.7)],
        1 => vec![ring(0.55, 0.8), star(10, 0.75, 1.0)],
        2 => vec![
            rect(-0.9, -0.8, 0.35, 1.6),
            rect(-0.3, -0.3, 0.35, 1.1),
            rect(0.3, -0.8, 0.6, 0.6),
            rect(0.3, 0.1, 0.6, 0.7),
        ],
        _ => vec![ring(0.85, 1.0), star(5, 0.28, 0.75)],
    };
    for s in shapes {
        out.merge(&Mask::polygon(&s, 0, out.rect));
    }
}

/// Smears, doubles or interrupts a print.
fn damage(r: &mut Rand, m: &Mask, cap: f32) -> Mask {
    let mut out = m.clone();
    let rc = m.rect;
    match r.gen_range(0..3) {
        0 => {
            let (n, t) = ((cap * uni(r, 0.25, 0.5)).max(4.0) as i32, uni(r, -0.6, 0.6));
            let dir = if chance(r, 0.5) { 1.0 } else { -1.0 };
            for k in 1..=n {
                let (dx, dy) = ((dir * k as f32 * t.cos()) as i32, (dir * k as f32 * t.sin()) as i32);
                let fade = 0.75 * (1.0 - k as f32 / (n + 1) as f32);
                shifted(&mut out, m, dx, dy, fade);
            }
        }
        1 => {
            let t = uni(r, 0.0, angle::FULL_3);
            let d = cap * uni(r, 0.16, 0.3);
            let (dx, dy) = ((t.cos() * d) as i32, (t.sin() * d) as i32);
            shifted(&mut out, m, dx, dy, uni(r, 0.6, 1.0));
        }
        _ => {
            let b = m.bounds(0.3);
            let ragged = Noise::new(r.r#gen());
            let bands: Vec<(f32, f32, bool)> = (0..r.gen_range(1..4))
                .map(|_| {
                    let across = chance(r, 0.5);
                    let (lo, hi) =
                        if across { (b.y0 as f32, b.y1 as f32) } else { (b.x0 as f32, b.x1 as f32) };
                    (
                        uni(r, lo + 0.15 * (hi - lo), hi - 0.15 * (hi - lo)),
                        cap * uni(r, 0.1, 0.22) * if across { 1.0 } else { 2.5 },
                        across,
                    )
                })
                .collect();
            for y in rc.y0..rc.y1 {
                for x in rc.x0..rc.x1 {
                    let i = ((y - rc.y0) * rc.w() + x - rc.x0) as usize;
                    for (at, half, across) in &bands {
                        let d = if *across { y as f32 - at } else { x as f32 - at };
                        let edge = half * (1.0 + 0.4 * ragged.at(x as f32 * 0.25, y as f32 * 0.25));
                        out.a[i] *= (d.abs() - edge + 0.5).clamp(0.0, 1.0);
                    }
                }
            }
        }
    }
    out
}

/// Adds a shifted, faded copy.
fn shifted(out: &mut Mask, m: &Mask, dx: i32, dy: i32, fade: f32) {
    let r = out.rect;
    for y in r.y0..r.y1 {
        for x in r.x0..r.x1 {
            let i = ((y - r.y0) * r.w() + x - r.x0) as usize;
            out.a[i] = out.a[i].max(fade * m.get(x - dx, y - dy));
        }
    }
}
