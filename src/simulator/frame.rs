//! Whole parts of random designs: no two frames show the same product.

use crate::simulator::compose::{self, Base, FrameTruth, Identity, Plate, Screws};
use crate::simulator::geom::{self, P, Place, Rand, Rect, chance, pick, uni};
use crate::simulator::parts::{self, Bore, Rim, Screw};
use crate::simulator::scene::Scene;
use crate::simulator::surface::{Surface, metal_colour};
use crate::simulator::text::{self, Block, Style, strings};
use rand::Rng;

const SURFACES: [Surface; 7] = [
    Surface::Brushed,
    Surface::Brushed,
    Surface::Cast,
    Surface::Turned,
    Surface::Painted,
    Surface::Painted,
    Surface::Plastic,
];

/// Renders frame `i` of a seed: raw RGB bytes, row by row, and truth.
pub fn frame(seed: u64, i: u64, w: usize, h: usize) -> (Vec<u8>, FrameTruth) {
    let mut rng = geom::rand_for(seed ^ 0xF0A3, i);
    let r = &mut rng;
    let unit = w.min(h) as f32 / 1024.0;
    let surface = pick(r, &SURFACES);
    let mut sc = Scene::new(w, h, unit, surface, r);
    let (fw, fh) = (w as f32, h as f32);
    let persp = [uni(r, -0.03, 0.03) / fw, uni(r, -0.03, 0.03) / fh];
    let at = [fw / 2.0 + uni(r, -0.02, 0.02) * fw, fh / 2.0 + uni(r, -0.02, 0.02) * fh];
    let view = Place::new(at, uni(r, -0.035, 0.035), persp);
    let half = [fw * uni(r, 0.4, 0.44), fh * uni(r, 0.39, 0.44)];
    sc.void = if chance(r, 0.75) { [uni(r, 0.03, 0.12); 3] } else { [0.1, 0.13, 0.16] };
    let plate = Plate { half, rim: Rim::random(r, unit) };
    compose::cut_plate(&mut sc, &view, &plate);
    sc.auto_expose(r);
    let radius = uni(r, 17.0, 27.0) * unit;
    let screw = Screw::random(r, radius);
    let screws = Screws { spots: compose::screw_spots(r, half, screw.radius), screw };
    let (nameplate, part_id) = nameplate(&mut sc, r, &view, half);
    for _ in 0..r.gen_range(0..3) {
        let radius = uni(r, 55.0, 120.0) * unit;
        let c = view.map([uni(r, -0.7, 0.7) * half[0], uni(r, -0.7, 0.7) * half[1]]);
        if sc.free(Rect::around(&[c], radius + 12.0 * unit)) && sc.inside(c, radius + 40.0 * unit) {
            let bore = Bore::random(r, radius, unit);
            parts::bore(&mut sc, c, &bore);
        }
    }
    compose::screws_and_defects(&mut sc, r, &view, half, &screws);
    compose::finish(sc, r, Identity { i, part_id, lot: None, nameplate })
}

/// The nameplate with two or three lines; returns its box and the part number on it.
fn nameplate(sc: &mut Scene, r: &mut Rand, view: &Place, half: P) -> (Rect, String) {
    let u = sc.unit;
    let size = [uni(r, 150.0, 210.0) * u, uni(r, 62.0, 92.0) * u];
    let room = [(half[0] - size[0] - 75.0 * u).max(0.0), (half[1] - size[1] - 75.0 * u).max(0.0)];
    let centre = [uni(r, -1.0, 1.0) * room[0], pick(r, &[-1.0, 1.0]) * uni(r, 0.6, 1.0) * room[1]];
    let tone = if chance(r, 0.3) { [0.1, 0.1, 0.11] } else { metal_colour(r, 0.45, 0.8) };
    let rect = Base { centre, half: size, tone, grain: r.r#gen() }.draw(sc, view);
    let id = strings::part_number(r);
    let mut lines = vec![id.clone(), strings::any(r)];
    if chance(r, 0.5) {
        lines.insert(0, strings::any(r));
    }
    let dark = tone[1] < 0.3;
    let style = if dark { pick(r, &[Style::Laser, Style::Ink]) } else { Style::random(r, Surface::Brushed) };
    let place = Place { at: view.map(centre), ..*view };
    for _ in 0..6 {
        let mut b = Block::random(r, lines.clone(), style);
        b.fit(size[0] * 1.8, size[1] * 1.6, 38.0 * u);
        b.place = place;
        if text::mark(sc, r, &b) {
            break;
        }
    }
    sc.busy.push(rect);
    (rect, id)
}
