//! Examples as they might have been: turned over, cut closer, in another light.
//!
//! ```text
//! defects  cut to 0.7..1 of each side, kept where all boxes stay in sight -> turned over -> light
//! lines    turned by a few degrees, nearer or farther, moved -> light; never turned over
//! ```
//!
//! Invariant: good and defective tiles are changed alike. A cut of a good tile is held to the boxes of some defective
//! one: otherwise the way in which a tile is cut would tell which kind it is, and that would be learned.

use super::tile::{Mark, Task, Tile};
use crate::pixels;
use image::imageops::{flip_horizontal_in_place, flip_vertical_in_place};
use image::{Rgb, RgbImage};
use rand::Rng;
use std::sync::Arc;

/// Least share of a side that a cut keeps.
const CUT_MIN: f32 = 0.7;
/// Share of a box that must stay in sight.
const SEEN_MIN: f32 = 0.85;
/// Cuts that are tried; when none keeps the boxes, the tile stays whole.
const CUTS_MAX: usize = 8;
/// Least pixels a side of a cut.
const CUT_MIN_PX: u32 = 32;
/// Text is turned by so many radians, made larger or smaller, slanted, and moved by a share of the sides, at most.
const TURN_MAX: f32 = 0.07;
const SIZE: std::ops::Range<f32> = 0.85..1.1;
const SLANT_MAX: f32 = 0.08;
const MOVE_MAX: f32 = 0.05;

/// An example that was changed. `like` are the boxes that a good tile's cut is held to, as shares of their tile.
pub(super) fn changed(tile: &Tile, like: &[[f32; 4]], rng: &mut impl Rng) -> Tile {
    let (mut picture, task) = match &tile.task {
        Task::Defects { question, marks } => {
            let (picture, marks) = of_defects(&tile.picture, marks, like, rng);
            (picture, Task::Defects { question: Arc::clone(question), marks })
        }
        task @ Task::Lines { .. } => (warped(&tile.picture, rng), task.clone()),
    };
    light(&mut picture, rng);
    Tile { picture: Arc::new(picture), task, ..tile.clone() }
}

fn of_defects(
    picture: &RgbImage,
    marks: &[Mark],
    like: &[[f32; 4]],
    rng: &mut impl Rng,
) -> (RgbImage, Vec<Mark>) {
    let (width, height) = picture.dimensions();
    let borrowed = |b: &[f32; 4]| {
        let [x1, y1, x2, y2] = *b;
        [x1 * width as f32, y1 * height as f32, x2 * width as f32, y2 * height as f32]
    };
    let boxes: Vec<[f32; 4]> = if marks.is_empty() {
        like.iter().map(borrowed).collect()
    } else {
        marks.iter().map(|m| m.bbox).collect()
    };
    let [x, y, w, h] = cut(width, height, &boxes, rng);
    let mut out = pixels::cut(picture, (x, y), (w, h));
    let (over_x, over_y) = (rng.gen_bool(0.5), rng.gen_bool(0.5));
    if over_x {
        flip_horizontal_in_place(&mut out);
    }
    if over_y {
        flip_vertical_in_place(&mut out);
    }
    let (w, h) = (w as f32, h as f32);
    let moved = |mark: &Mark| {
        let [x1, y1, x2, y2] = mark.bbox;
        let span = |low: f32, high: f32, from: u32, side: f32, over: bool| {
            let (low, high) = ((low - from as f32).clamp(0.0, side), (high - from as f32).clamp(0.0, side));
            if over { (side - high, side - low) } else { (low, high) }
        };
        let ((x1, x2), (y1, y2)) = (span(x1, x2, x, w, over_x), span(y1, y2, y, h, over_y));
        Mark { bbox: [x1, y1, x2, y2], ..mark.clone() }
    };
    (out, marks.iter().map(moved).collect())
}

/// x, y, width and height of a cut in which all boxes stay in sight.
fn cut(width: u32, height: u32, boxes: &[[f32; 4]], rng: &mut impl Rng) -> [u32; 4] {
    for _ in 0..CUTS_MAX {
        let mut side = |whole: u32| {
            let part = (whole as f32 * rng.gen_range(CUT_MIN..=1.0)) as u32;
            let part = part.clamp(CUT_MIN_PX.min(whole), whole);
            (rng.gen_range(0..=whole - part), part)
        };
        let ((x, w), (y, h)) = (side(width), side(height));
        let seen = |b: &[f32; 4]| {
            let share = |low: f32, high: f32, from: u32, part: u32| {
                let inside = high.min((from + part) as f32) - low.max(from as f32);
                inside.max(0.0) / (high - low).max(f32::MIN_POSITIVE)
            };
            share(b[0], b[2], x, w) * share(b[1], b[3], y, h)
        };
        if boxes.iter().all(|b| seen(b) >= SEEN_MIN) {
            return [x, y, w, h];
        }
    }
    [0, 0, width, height]
}

/// The picture turned, slanted, of another size and moved, a little each; what is beyond its border repeats it.
fn warped(picture: &RgbImage, rng: &mut impl Rng) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (turn, slant) = (rng.gen_range(-TURN_MAX..=TURN_MAX), rng.gen_range(-SLANT_MAX..=SLANT_MAX));
    let size = 1.0 / rng.gen_range(SIZE);
    let (sin, cos) = turn.sin_cos();
    let (cx, cy) = (width as f32 / 2.0, height as f32 / 2.0);
    let dx = rng.gen_range(-MOVE_MAX..=MOVE_MAX) * width as f32;
    let dy = rng.gen_range(-MOVE_MAX..=MOVE_MAX) * height as f32;
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 - cx, y as f32 - cy);
        let u = u + slant * v;
        at(picture, cx + dx + size * (cos * u - sin * v), cy + dy + size * (sin * u + cos * v))
    })
}

/// Between four pixels.
fn at(picture: &RgbImage, x: f32, y: f32) -> Rgb<u8> {
    let (x, y) = (x.clamp(0.0, picture.width() as f32 - 1.0), y.clamp(0.0, picture.height() as f32 - 1.0));
    let (x0, y0) = (x as u32, y as u32);
    let (x1, y1) = ((x0 + 1).min(picture.width() - 1), (y0 + 1).min(picture.height() - 1));
    let (fx, fy) = (x - x0 as f32, y - y0 as f32);
    let [a, b, c, d] = [(x0, y0), (x1, y0), (x0, y1), (x1, y1)].map(|(x, y)| picture.get_pixel(x, y).0);
    Rgb([0, 1, 2].map(|i| {
        let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(f32::from);
        let (top, low) = (a + (b - a) * fx, c + (d - c) * fx);
        (top + (low - top) * fy).round() as u8
    }))
}

/// Another contrast, another brightness, and now and then grey: cameras of a line often are.
fn light(picture: &mut RgbImage, rng: &mut impl Rng) {
    let (contrast, bright) = (rng.gen_range(0.75..1.25), rng.gen_range(-22.0..22.0));
    let grey = rng.gen_bool(0.2);
    for pixel in picture.pixels_mut() {
        if grey {
            let [r, g, b] = pixel.0.map(u16::from);
            pixel.0 = [((r + g + b) / 3) as u8; 3];
        }
        pixel.0 =
            pixel.0.map(|v| ((f32::from(v) - 128.0) * contrast + 128.0 + bright).clamp(0.0, 255.0) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Dark, with one bright box.
    fn tile(bbox: [u32; 4]) -> Tile {
        let inside = |x: u32, y: u32| x >= bbox[0] && x < bbox[2] && y >= bbox[1] && y < bbox[3];
        let picture = RgbImage::from_fn(90, 60, |x, y| Rgb([if inside(x, y) { 200 } else { 40 }; 3]));
        let mark = Mark { label: "pit".into(), severity: None, bbox: bbox.map(|v| v as f32) };
        let task = Task::Defects { question: "?".into(), marks: vec![mark] };
        Tile { picture: Arc::new(picture), min_pixels: 1, max_pixels: 1 << 20, task }
    }

    #[test]
    fn a_box_stays_on_what_it_marks() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..60 {
            let out = changed(&tile([20, 10, 44, 30]), &[], &mut rng);
            let [x1, y1, x2, y2] = out.marks()[0].bbox;
            let (x, y) = (f32::midpoint(x1, x2) as u32, f32::midpoint(y1, y2) as u32);
            let (centre, corner) = (out.picture.get_pixel(x, y).0[0], out.picture.get_pixel(0, 0).0[0]);
            assert!(centre > corner + 60 || (x1 < 1.0 && y1 < 1.0), "{centre} beside {corner}");
            assert!(out.picture.width() >= 63 && out.picture.height() >= 42);
        }
    }

    /// The trap that this room was built around: sizes of cuts must not tell the kinds apart.
    #[test]
    fn good_tiles_are_cut_as_defective_ones_are() {
        let bad = tile([5, 5, 80, 20]);
        let like = [[5.0 / 90.0, 5.0 / 60.0, 80.0 / 90.0, 20.0 / 60.0]];
        let good = Tile { task: Task::Defects { question: "?".into(), marks: vec![] }, ..bad.clone() };
        let sizes = |tile: &Tile| {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            (0..40).map(|_| changed(tile, &like, &mut rng).picture.dimensions()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&good), sizes(&bad), "with the same chances, the same cuts");
        assert!(sizes(&bad).iter().any(|size| *size != (90, 60)));
    }

    #[test]
    fn lines_are_never_turned_over() {
        let picture = RgbImage::from_fn(120, 40, |x, _| Rgb([if x < 40 { 220 } else { 20 }; 3]));
        let task = Task::Lines { question: "?".into(), lines: vec!["A".into()] };
        let tile = Tile { picture: Arc::new(picture), min_pixels: 1, max_pixels: 1 << 20, task };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20 {
            let out = changed(&tile, &[], &mut rng);
            assert_eq!(out.picture.dimensions(), (120, 40));
            assert!(out.picture.get_pixel(15, 20).0[0] > out.picture.get_pixel(100, 20).0[0]);
        }
    }
}
