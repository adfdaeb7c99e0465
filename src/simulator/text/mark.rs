//! Marks readable lines: stronger and with less glare until every character can be read.

use super::brush::Brush;
use super::{Block, Glyph};
use crate::simulator::geom::{Rand, Rect, uni};
use crate::simulator::label::{CharBox, Text};
use crate::simulator::layers::Layers;
use crate::simulator::scene::{Scene, differ};
use crate::simulator::surface::Surface;

/// Mean albedo brightness under a rectangle.
pub(super) fn ground(l: &Layers, rect: Rect) -> f32 {
    let r = rect.clip(l.rect());
    let (mut sum, mut n) = (0.0, 0.0);
    for y in (r.y0..r.y1).step_by(4) {
        for x in (r.x0..r.x1).step_by(4) {
            let c = l.albedo[y as usize * l.w + x as usize];
            sum += 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2];
            n += 1.0;
        }
    }
    if n > 0.0 { sum / n } else { 0.5 }
}

/// Keeps traces and pads of a board away from a print, as its designer would.
pub(super) fn clear_board(sc: &mut Scene, roi: Rect) {
    if sc.surface != Surface::Pcb {
        return;
    }
    let mut seen = vec![];
    sc.layers.each(roi, |l, i, x, y| {
        if (x as i32) % 3 == 0 && (y as i32) % 3 == 0 {
            seen.push(l.albedo[i]);
        }
    });
    if seen.is_empty() {
        return;
    }
    seen.sort_by(|a, b| a[1].total_cmp(&b[1]));
    let base = seen[seen.len() * 2 / 5];
    sc.layers.each(roi, |l, i, _, _| {
        l.tint(i, base, 0.96);
        l.height[i] = 0.0;
        l.gloss[i] = 0.5;
    });
}

/// Region that a block's marking changes.
fn region(sc: &Scene, block: &Block) -> Rect {
    block.bounds().pad(6).clip(sc.layers.rect())
}

/// Marks a block with a random brush; see [`mark_with`].
pub(crate) fn mark(sc: &mut Scene, r: &mut Rand, block: &Block) -> bool {
    mark_with(sc, r, block, [0.7, 1.3], |r, ground| Brush::random(r, block.style, ground, block.cap))
}

/// Marks a block with the brush made for its ground, at a strength drawn between two: 1 is an average
/// mark. Makes it stronger until every character can be read, and records the lines. False if they
/// cannot be made readable: then nothing is drawn, but the light may have become softer.
pub(crate) fn mark_with(
    sc: &mut Scene,
    r: &mut Rand,
    block: &Block,
    strength: [f32; 2],
    brush: impl FnOnce(&mut Rand, f32) -> Brush,
) -> bool {
    let roi = region(sc, block);
    let glyphs = block.glyphs(sc.layers.rect());
    if glyphs.is_empty() || roi.is_empty() {
        return false;
    }
    clear_board(sc, roi);
    let brush = brush(r, ground(&sc.layers, roi));
    let saved = sc.layers.save(roi);
    let mut s = uni(r, strength[0], strength[1]);
    let mut before = sc.shade(roi);
    for step in 0..6 {
        for g in &glyphs {
            brush.draw(&mut sc.layers, g, block.dot(), s);
        }
        let after = sc.shade(roi);
        let weak = glyphs.iter().map(|g| contrast(sc, roi, &before, &after, g)).fold(f32::MAX, f32::min);
        if weak > 1.0 {
            record(sc, block, &glyphs);
            sc.busy.push(roi);
            return true;
        }
        sc.layers.restore(&saved);
        s = (s * (1.15 / weak.max(0.01)).clamp(1.2, 2.0)).min(4.0);
        if step >= 1 {
            sc.light.glare_gain *= 0.65;
            let over = before.iter().filter(|c| c[1] > 0.93).count();
            if over * 3 > before.len() {
                sc.light.gain *= 0.88;
            }
            before = sc.shade(roi);
        }
    }
    false
}

/// Contrast of one character against what its place needs; above 1 is readable.
fn contrast(sc: &Scene, roi: Rect, before: &[[f32; 3]], after: &[[f32; 3]], g: &Glyph) -> f32 {
    let b = g.mask.bounds(0.3).clip(roi);
    if b.is_empty() {
        return 0.0;
    }
    let (mut d, mut tex, mut n, mut mean) = (vec![], 0.0, 1.0, 0.0);
    for y in b.y0..b.y1 {
        for x in b.x0..b.x1 {
            let i = ((y - roi.y0) * roi.w() + x - roi.x0) as usize;
            d.push(differ(&before[i], &after[i]));
            mean += before[i][1];
            if x > b.x0 {
                tex += (before[i][1] - before[i - 1][1]).powi(2);
                n += 1.0;
            }
        }
    }
    let k = d.len() * 78 / 100;
    let peak = *d.select_nth_unstable_by(k, f32::total_cmp).1;
    let noise = sc.sensor.sigma(mean / d.len() as f32) + (0.5 * tex / n).sqrt();
    peak / (0.075 + 1.3 * noise)
}

/// Adds the lines of a block to the truth.
fn record(sc: &mut Scene, block: &Block, glyphs: &[Glyph]) {
    let all = sc.layers.rect();
    for (k, text) in block.lines.iter().enumerate() {
        let mut bbox = Rect::EMPTY;
        let mut chars = vec![];
        for g in glyphs.iter().filter(|g| g.line == k) {
            let b = g.mask.bounds(0.3).clip(all);
            if !b.is_empty() {
                bbox = bbox.union(b);
                chars.push(CharBox { c: g.c, bbox: b.array() });
            }
        }
        if !bbox.is_empty() {
            sc.texts.push(Text { text: text.clone(), bbox: bbox.array(), style: block.style.name(), chars });
        }
    }
}
