//! Products: every part has the same design and differs in pose, light, noise, defects and text.
//!
//! ```text
//! Product (table below) --design seed--> Design: look, lamps, camera, plate, screws, nameplate, bores
//!                                           |
//! seed, i --> pose within the fixture's play, lamps a little moved, grain, serial, defects --> part
//! ```
//!
//! Invariants:
//! - The nameplate of every part lies inside [`Product::nameplate_roi`] of the picture's size, and no
//!   defect or bore touches that region.
//! - Serial numbers repeat only after [`SERIALS`] parts of one seed.

use crate::simulator::compose::{self, Base, FrameTruth, Identity, Plate, Screws};
use crate::simulator::geom::{self, P, Place, Rand, Rect, uni};
use crate::simulator::layers::Layers;
use crate::simulator::light::Lighting;
use crate::simulator::parts::{self, Bore, Rim, Screw};
use crate::simulator::scene::Scene;
use crate::simulator::sensor::Sensor;
use crate::simulator::surface::{Look, Surface};
use crate::simulator::text::{self, Block, Brush, Style};
use rand::Rng;

/// How far a part moves in its fixture, as a part of the picture's width and height.
const PLAY: f32 = 0.004;
/// How far a part turns in its fixture, in radians either way.
const TURN: f32 = 0.005;
/// Room around the extreme places of a nameplate for rounding and soft edges, in pixels.
const ROI_PAD_PX: f32 = 3.0;
/// Parts with the same lot.
const PARTS_PER_LOT: u64 = 50;
/// Four digits of a serial number.
const SERIALS: u64 = 10_000;
/// Step from one serial to the next: it shares no divisor with [`SERIALS`], so every number comes once
/// before one comes twice, and neighbours differ in all their digits.
const SERIAL_STEP: u64 = 7919;
/// How strongly a product is marked, in the units of [`text::mark`]: a station marks better than the
/// average of all designs, 0.7 to 1.3.
const MARK_STRENGTH: [f32; 2] = [1.1, 1.6];
/// Tries to make the nameplate's text readable; each leaves less glare on it.
const MARK_TRIES: usize = 6;

/// A kind of part that the simulated line makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    name: &'static str,
    /// Everything of the design that is not in this table is drawn from it.
    design: u64,
    surface: Surface,
    /// Half the plate's size, as a part of the picture's width and height.
    half: P,
    nameplate: Nameplate,
}

/// Where and how a product is marked. Lengths in reference pixels: 1024 to the picture's shorter side.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Nameplate {
    /// Centre, from -1 to 1 over the room that the plate leaves it.
    at: P,
    half: P,
    tone: [f32; 3],
    style: Style,
    /// Index of the outline font, or `None` for dots.
    face: Option<usize>,
    /// Height of the capitals.
    cap: f32,
    track: f32,
    pitch: f32,
}

/// Room between the nameplate and the plate's border, in reference pixels: the screws sit there.
const BORDER: f32 = 130.0;

/// The design of a product at one picture size; lengths in pixels.
struct Design {
    unit: f32,
    look: Look,
    light: Lighting,
    sensor: Sensor,
    void: [f32; 3],
    plate: Plate,
    screws: Screws,
    base: Base,
    /// Centre (in plate coordinates) and look of each bore.
    bores: Vec<(P, Bore)>,
    /// Where the marking's brush is drawn from, so that all parts have the same ink.
    brush: Rand,
}

impl Product {
    /// All products, by the names that pipelines and commands use.
    pub const ALL: [Product; 3] = [
        Product {
            name: "machined-plate",
            design: 22,
            surface: Surface::Brushed,
            half: [0.42, 0.42],
            nameplate: Nameplate {
                at: [-0.8, 1.0],
                half: [166.0, 44.0],
                tone: [0.66, 0.67, 0.68],
                style: Style::Laser,
                face: Some(1),
                cap: 25.0,
                track: 0.08,
                pitch: 1.5,
            },
        },
        Product {
            name: "cast-housing",
            design: 17,
            surface: Surface::Cast,
            half: [0.43, 0.41],
            nameplate: Nameplate {
                at: [0.7, -1.0],
                half: [172.0, 46.0],
                tone: [0.7, 0.69, 0.66],
                style: Style::Engraved,
                face: Some(0),
                cap: 27.0,
                track: 0.1,
                pitch: 1.5,
            },
        },
        Product {
            name: "painted-cover",
            design: 2,
            surface: Surface::Painted,
            half: [0.41, 0.42],
            nameplate: Nameplate {
                at: [0.6, 1.0],
                half: [164.0, 45.0],
                tone: [0.72, 0.72, 0.7],
                style: Style::Ink,
                face: Some(2),
                cap: 26.0,
                track: 0.06,
                pitch: 1.5,
            },
        },
    ];

    /// The product of that name.
    pub fn by_name(name: &str) -> Option<&'static Product> {
        const ALL: &[Product] = &Product::ALL;
        ALL.iter().find(|p| p.name == name)
    }

    /// Its name, as pipelines and commands write it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The fixed region `[x1, y1, x2, y2]` in which every part's nameplate lies, on pictures of that
    /// size in pixels: the nameplate's box grown by the fixture's play.
    pub fn nameplate_roi(&self, w: usize, h: usize) -> [i32; 4] {
        roi(w, h, &self.base(w, h)).array()
    }

    fn half_px(&self, w: usize, h: usize) -> P {
        [self.half[0] * w as f32, self.half[1] * h as f32]
    }

    /// The nameplate's place on the plate; its grain is the part's own.
    fn base(&self, w: usize, h: usize) -> Base {
        let (u, half, n) = (unit(w, h), self.half_px(w, h), &self.nameplate);
        let size = [n.half[0] * u, n.half[1] * u];
        let room = [0, 1].map(|k| (half[k] - size[k] - BORDER * u).max(0.0));
        Base { centre: [n.at[0] * room[0], n.at[1] * room[1]], half: size, tone: n.tone, grain: 0 }
    }

    /// The design: the same for every part, because it is drawn from the product's own seed.
    fn design(&self, w: usize, h: usize) -> Design {
        let mut rng = geom::rand_for(self.design, 0);
        let r = &mut rng;
        let (u, half, (fw, fh)) = (unit(w, h), self.half_px(w, h), (w as f32, h as f32));
        let look = Look::random(self.surface, r, fw, fh, u);
        let light = look.light(r, fw, fh);
        let sensor = Sensor::random(r);
        let void = [uni(r, 0.03, 0.12); 3];
        let rim = Rim::random(r, u);
        let radius = uni(r, 17.0, 27.0) * u;
        let screw = Screw::random(r, radius);
        let screws = Screws { spots: compose::screw_spots(r, half, radius), screw };
        let base = self.base(w, h);
        let bores = bores(r, half, &base, u);
        let brush = geom::rand_for(self.design, 1);
        let plate = Plate { half, rim };
        Design { unit: u, look, light, sensor, void, plate, screws, base, bores, brush }
    }
}

/// Where the plate of any pose of the product may be.
fn roi(w: usize, h: usize, base: &Base) -> Rect {
    let mut corners = vec![];
    for x in [-1.0, 1.0] {
        for y in [-1.0, 1.0] {
            for turn in [-1.0, 1.0] {
                corners.extend(base.corners(&pose(w, h, [x, y, turn])));
            }
        }
    }
    Rect::around(&corners, ROI_PAD_PX).clip(Rect::image(w, h))
}

/// One or two bores that keep clear of each other, of the border with its screws and of the nameplate.
fn bores(r: &mut Rand, half: P, base: &Base, u: f32) -> Vec<(P, Bore)> {
    let [x, y] = base.centre;
    let [a, b] = base.half;
    let mut taken = vec![Rect::around(&[[x - a, y - b], [x + a, y + b]], 30.0 * u)];
    let mut bores = vec![];
    for _ in 0..r.gen_range(1..3) {
        let radius = uni(r, 55.0, 110.0) * u;
        let at = [uni(r, -0.5, 0.5) * half[0], uni(r, -0.5, 0.5) * half[1]];
        let bore = Bore::random(r, radius, u);
        let place = Rect::around(&[at], radius + 12.0 * u);
        if taken.iter().all(|t| t.clip(place).is_empty()) {
            taken.push(place);
            bores.push((at, bore));
        }
    }
    bores
}

/// Pixels per reference pixel.
fn unit(w: usize, h: usize) -> f32 {
    w.min(h) as f32 / 1024.0
}

/// A pose in the fixture: shift right, shift down and turn, each from -1 to 1 of its play.
fn pose(w: usize, h: usize, play: [f32; 3]) -> Place {
    let (fw, fh) = (w as f32, h as f32);
    let at = [fw * (0.5 + play[0] * PLAY), fh * (0.5 + play[1] * PLAY)];
    Place::new(at, play[2] * TURN, [0.0, 0.0])
}

/// Serial number and lot of part `i` of a seed. They do not depend on anything else about the part.
fn identity(product: &Product, seed: u64, i: u64) -> (String, String) {
    let key = seed ^ product.design.rotate_left(32);
    let start = geom::rand_for(key ^ 0x5E71, 0).gen_range(0..SERIALS);
    let number = (start + (i % SERIALS) * SERIAL_STEP) % SERIALS;
    let mut r = geom::rand_for(key ^ 0x5E71, i + 1);
    let serial = format!("SN{number:04}-{}{}", r.gen_range(b'A'..=b'Z') as char, r.gen_range(0..10));
    let mut r = geom::rand_for(key ^ 0x1075, i / PARTS_PER_LOT);
    let lot = format!("LOT {:02}-{:02}{:02}", r.gen_range(24..30), r.gen_range(1..13), r.gen_range(1..29));
    (serial, lot)
}

/// Renders part `i` of a product: raw RGB bytes, row by row, and truth.
///
/// The truth's `part_id` is the serial number, the first line of the nameplate; its `lot` the second.
pub fn part(product: &Product, seed: u64, i: u64, w: usize, h: usize) -> (Vec<u8>, FrameTruth) {
    let mut rng = geom::rand_for(seed ^ product.design.rotate_left(32) ^ 0x9A27, i);
    let r = &mut rng;
    let design = product.design(w, h);
    let (part_id, lot) = identity(product, seed, i);
    let mut sc = bare(&design, r, w, h);
    let view = pose(w, h, [uni(r, -1.0, 1.0), uni(r, -1.0, 1.0), uni(r, -1.0, 1.0)]);
    sc.void = design.void;
    let plate = Plate { half: design.plate.half, rim: design.plate.rim.regrain(r) };
    compose::cut_plate(&mut sc, &view, &plate);
    sc.auto_expose(r);
    let base = Base { grain: r.r#gen(), ..design.base };
    let nameplate = base.draw(&mut sc, &view);
    mark(&mut sc, r, product, &design, &view, vec![part_id.clone(), lot.clone()]);
    sc.busy.push(roi(w, h, &design.base));
    for (at, bore) in &design.bores {
        parts::bore(&mut sc, view.map(*at), bore);
    }
    compose::screws_and_defects(&mut sc, r, &view, design.plate.half, &design.screws);
    compose::finish(sc, r, Identity { i, part_id, lot: Some(lot), nameplate })
}

/// The product's material with this part's grain, under its lamps as they stand for this picture.
fn bare(design: &Design, r: &mut Rand, w: usize, h: usize) -> Scene {
    let mut look = design.look.clone();
    look.regrain(r);
    let mut layers = Layers::new(w, h);
    look.paint(&mut layers, r, design.unit);
    let mut light = design.light.clone();
    light.jitter(r, w as f32, h as f32);
    let mut sensor = design.sensor.clone();
    sensor.reseed(r);
    Scene::of(layers, look.surface(), light, sensor, design.unit)
}

/// Marks the nameplate's lines with the product's own ink, worn as on this part.
fn mark(sc: &mut Scene, r: &mut Rand, product: &Product, design: &Design, view: &Place, lines: Vec<String>) {
    let n = &product.nameplate;
    let block = Block {
        lines,
        style: n.style,
        face: n.face,
        cap: n.cap * design.unit,
        track: n.track,
        pitch: n.pitch,
        place: Place { at: view.map(design.base.centre), ..*view },
    };
    for _ in 0..MARK_TRIES {
        let done = text::mark_with(sc, r, &block, MARK_STRENGTH, |r, ground| {
            let brush = Brush::random(&mut design.brush.clone(), block.style, ground, block.cap);
            brush.worn(r)
        });
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small pictures of a size ratio that cameras have.
    const W: usize = 306;
    const H: usize = 256;

    fn inside(inner: [i32; 4], outer: [i32; 4]) -> bool {
        inner[0] >= outer[0] && inner[1] >= outer[1] && inner[2] <= outer[2] && inner[3] <= outer[3]
    }

    fn apart(a: [i32; 4], b: [i32; 4]) -> bool {
        a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1]
    }

    #[test]
    fn same_seed_same_part() {
        for product in &Product::ALL {
            let (a, ta) = part(product, 3, 7, W, H);
            let (b, tb) = part(product, 3, 7, W, H);
            assert_eq!(a, b);
            assert_eq!(ta, tb);
            assert_ne!(a, part(product, 3, 8, W, H).0);
            assert_ne!(a, part(product, 4, 7, W, H).0);
        }
    }

    #[test]
    fn every_nameplate_lies_in_the_region_and_reads_serial_and_lot() {
        let serial = regex::Regex::new("^SN[0-9]{4}-[A-Z][0-9]$").unwrap();
        for product in &Product::ALL {
            let roi = product.nameplate_roi(W, H);
            for i in 0..20 {
                let (rgb, t) = part(product, 11, i, W, H);
                assert_eq!(rgb.len(), W * H * 3);
                let which = format!("{} {i}", product.name);
                assert!(inside(t.nameplate, roi), "{which}: {:?} outside {roi:?}", t.nameplate);
                assert!(serial.is_match(&t.part_id), "{which}: {}", t.part_id);
                let lines: Vec<&str> = t.texts.iter().map(|t| t.text.as_str()).collect();
                assert_eq!(lines, [t.part_id.as_str(), t.lot.as_deref().unwrap()], "{which}");
                assert!(
                    t.texts.iter().all(|x| inside(x.bbox, t.nameplate)),
                    "{which}: text off the nameplate"
                );
                let all = [0, 0, W as i32, H as i32];
                for d in &t.defects {
                    assert!(
                        inside(d.bbox, all) && d.bbox[0] < d.bbox[2] && d.bbox[1] < d.bbox[3],
                        "{which}: {d:?}"
                    );
                    assert!(apart(d.bbox, roi), "{which}: {d:?} on the nameplate's region");
                }
            }
        }
    }

    /// The extreme poses are at the corners of the fixture's play; these are the ones in between.
    #[test]
    fn the_region_holds_the_nameplate_in_every_pose() {
        for product in &Product::ALL {
            for (w, h) in [(2448, 2048), (640, 480), (1024, 1024), (300, 900)] {
                let (base, roi) = (product.base(w, h), product.nameplate_roi(w, h));
                let mut r = geom::rand_for(1, 1);
                for _ in 0..200 {
                    let view =
                        pose(w, h, [uni(&mut r, -1.0, 1.0), uni(&mut r, -1.0, 1.0), uni(&mut r, -1.0, 1.0)]);
                    assert!(
                        inside(Rect::around(&base.corners(&view), 2.0).array(), roi),
                        "{} {w}x{h}",
                        product.name
                    );
                }
            }
        }
    }

    /// What a model that halves the region can read: see the shipped model's card.
    #[test]
    fn nameplates_have_the_size_that_the_model_reads() {
        for product in &Product::ALL {
            let [x1, y1, x2, y2] = product.nameplate_roi(2448, 2048);
            assert!(x2 - x1 <= 900 && y2 - y1 <= 260, "{}: {}x{}", product.name, x2 - x1, y2 - y1);
            let cap = product.nameplate.cap * unit(2448, 2048);
            assert!((36.0..=80.0).contains(&cap), "{}: {cap}", product.name);
        }
    }

    #[test]
    fn no_screw_and_no_bore_reaches_the_region() {
        for product in &Product::ALL {
            let (w, h) = (2448, 2048);
            let (design, roi) = (product.design(w, h), product.nameplate_roi(w, h));
            for turn in [-1.0, 0.0, 1.0] {
                let view = pose(w, h, [turn, -turn, turn]);
                for spot in &design.screws.spots {
                    let rect = design.screws.screw.rect(view.map(*spot)).array();
                    assert!(apart(rect, roi), "{}: screw {rect:?} in {roi:?}", product.name);
                }
                for (at, bore) in &design.bores {
                    let rect = Rect::around(&[view.map(*at)], bore.radius).array();
                    assert!(apart(rect, roi), "{}: bore {rect:?} in {roi:?}", product.name);
                }
            }
        }
    }

    #[test]
    fn serials_do_not_repeat() {
        let product = &Product::ALL[0];
        let numbers: std::collections::HashSet<String> =
            (0..SERIALS).map(|i| identity(product, 1, i).0[2..6].to_string()).collect();
        assert_eq!(numbers.len() as u64, SERIALS);
        assert_eq!(identity(product, 1, 0).1, identity(product, 1, PARTS_PER_LOT - 1).1);
    }
}
