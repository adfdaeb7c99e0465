//! The steps by which a part becomes a picture, in the order in which they are taken:
//!
//! ```text
//! cut_plate -> auto exposure -> base, text -> bores -> screws_and_defects -> finish
//! ```
//!
//! Random designs (`frame`) and products (`product`) take the same steps; they differ in where the
//! values come from. Every step draws from its generator in a fixed order, because pictures of a
//! seed depend on it.

use crate::simulator::defects;
use crate::simulator::geom::{Edge, P, Place, Rand, Rect, chance, pick, uni};
use crate::simulator::label::{Defect, LABELS, Text, worst};
use crate::simulator::layers::Mask;
use crate::simulator::noise::Noise;
use crate::simulator::parts::{self, Rim, Screw};
use crate::simulator::scene::Scene;
use crate::simulator::text::{self, Block, Style, strings};
use rand::Rng;

/// Ground truth of one frame. Boxes are `[x1, y1, x2, y2]` in pixels, x2 and y2 exclusive.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameTruth {
    /// Index of the frame in its seed.
    pub(crate) i: u64,
    pub(crate) w: usize,
    pub(crate) h: usize,
    /// Material of the part.
    pub(crate) surface: &'static str,
    /// The part or serial number on the nameplate.
    pub(crate) part_id: String,
    /// The batch that the part belongs to; random designs have none.
    pub(crate) lot: Option<String>,
    pub(crate) nameplate: [i32; 4],
    /// Worst severity, or "none".
    pub(crate) worst: &'static str,
    /// Pixels per reference pixel of the severity rule.
    pub(crate) unit: f32,
    pub(crate) defects: Vec<Defect>,
    /// Readable lines, from top to bottom.
    pub(crate) texts: Vec<Text>,
}

/// A part's plate: half its size in pixels, and its border.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plate {
    pub half: P,
    pub rim: Rim,
}

/// Where the screws of a plate sit, in plate coordinates (pixels from its centre).
#[derive(Clone, Debug)]
pub(super) struct Screws {
    pub screw: Screw,
    pub spots: Vec<P>,
}

/// A nameplate without its text, in plate coordinates (pixels from the plate's centre).
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub centre: P,
    pub half: P,
    pub tone: [f32; 3],
    /// Seed of its texture.
    pub grain: u64,
}

/// Cuts the plate out of the material.
pub(super) fn cut_plate(sc: &mut Scene, view: &Place, plate: &Plate) {
    let half = plate.half;
    let q = [[-half[0], -half[1]], [half[0], -half[1]], [half[0], half[1]], [-half[0], half[1]]]
        .map(|p| view.map(p));
    let edges = [0, 1, 2, 3].map(|k| {
        let (a, b) = (q[k], q[(k + 1) % 4]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let len = dx.hypot(dy).max(1.0);
        Edge { p: a, n: [dy / len, -dx / len] }
    });
    parts::cut_edges(sc, &edges, &plate.rim);
}

/// Random screw places along the border for screws of `radius` pixels, in plate coordinates.
pub(super) fn screw_spots(r: &mut Rand, half: P, radius: f32) -> Vec<P> {
    let m = radius * uni(r, 2.2, 3.2);
    let (x, y) = (half[0] - m, half[1] - m);
    let mut v = vec![[-x, -y], [x, -y], [x, y], [-x, y]];
    for k in 0..r.gen_range(0..3) {
        let t = [[0.0, -y], [0.0, y]];
        let s = [[-x, 0.0], [x, 0.0]];
        v.extend(if k == 0 { t } else { s });
    }
    v
}

impl Base {
    /// Its corners in the image.
    pub(super) fn corners(&self, view: &Place) -> [P; 4] {
        let (c, half) = (self.centre, self.half);
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
            .map(|[k, l]: P| view.map([c[0] + k * half[0], c[1] + l * half[1]]))
    }

    /// Puts it on the plate, slightly raised; returns its box.
    pub(super) fn draw(&self, sc: &mut Scene, view: &Place) -> Rect {
        let (u, tone) = (sc.unit, self.tone);
        let m = Mask::polygon(&self.corners(view), 3, sc.layers.rect());
        let grain = Noise::new(self.grain);
        m.soften(2)
            .paint(&mut sc.layers, |l, i, _, _, a| l.height[i] = l.height[i] * (1.0 - a) + 1.6 * u * a);
        m.paint(&mut sc.layers, |l, i, x, y, a| {
            let k = 1.0 + 0.08 * grain.at(x * 0.01, y * 0.6 / u);
            l.tint(i, [tone[0] * k, tone[1] * k, tone[2] * k], a);
            l.gloss[i] += (1.0 - l.gloss[i]) * a;
        });
        m.bounds(0.3)
    }
}

/// Draws how many defects a part has and which, then its screws with those that are missing, then
/// the other defects where nothing else is.
pub(super) fn screws_and_defects(sc: &mut Scene, r: &mut Rand, view: &Place, half: P, screws: &Screws) {
    let Screws { screw, spots } = screws;
    let n = pick(r, &[0, 0, 0, 1, 1, 2, 3, 4]);
    let labels: Vec<&'static str> = (0..n).map(|_| pick(r, &LABELS)).collect();
    let mut holes = labels.iter().filter(|l| **l == "missing_screw").count().min(2);
    let first = r.gen_range(0..spots.len());
    for k in 0..spots.len() {
        let p = view.map(spots[(first + k) % spots.len()]);
        let light = sc.light.dir;
        if holes > 0 {
            holes -= 1;
            let b = screw.draw_missing(&mut sc.layers, r, p, light);
            sc.record("missing_screw", b, 1);
        } else {
            screw.draw(&mut sc.layers, r, p, light);
            sc.busy.push(screw.rect(p).pad(2));
        }
    }
    for label in labels {
        match label {
            "missing_screw" => {}
            "misprint" => print_bad(sc, r, view, half),
            other => {
                defects::add(sc, r, other);
            }
        }
    }
}

/// Tries to place one damaged print on the plate.
fn print_bad(sc: &mut Scene, r: &mut Rand, view: &Place, half: P) {
    for _ in 0..12 {
        let style = if chance(r, 0.75) { Style::Ink } else { Style::Laser };
        let line = strings::any(r);
        let mut b = Block::random(r, vec![line], style);
        b.fit(300.0 * sc.unit, 60.0 * sc.unit, uni(r, 16.0, 30.0) * sc.unit);
        let at = view.map([uni(r, -0.75, 0.75) * half[0], uni(r, -0.75, 0.75) * half[1]]);
        b.place = Place { at, persp: [0.0, 0.0], ..*view };
        let q = b.bounds();
        let ok = [[q.x0, q.y0], [q.x1, q.y1], [q.x0, q.y1], [q.x1, q.y0]]
            .iter()
            .all(|p| sc.inside([p[0] as f32, p[1] as f32], 4.0));
        if ok && text::misprint(sc, r, &b) {
            return;
        }
    }
}

/// Who a part is and where its nameplate is seen.
pub(super) struct Identity {
    pub i: u64,
    pub part_id: String,
    pub lot: Option<String>,
    pub nameplate: Rect,
}

/// Adds the dust and takes the picture: raw RGB bytes, row by row, and the truth.
pub(super) fn finish(mut sc: Scene, r: &mut Rand, who: Identity) -> (Vec<u8>, FrameTruth) {
    parts::dust(&mut sc, r);
    let rgb = sc.render();
    let truth = FrameTruth {
        i: who.i,
        w: sc.layers.w,
        h: sc.layers.h,
        surface: sc.surface.name(),
        part_id: who.part_id,
        lot: who.lot,
        nameplate: who.nameplate.array(),
        worst: worst(&sc.defects),
        unit: sc.unit,
        defects: sc.defects,
        texts: sc.texts,
    };
    (rgb, truth)
}
