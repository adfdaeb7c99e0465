//! Tests of banks that are learned from kept pictures: those went through a coder, and the line judges raw ones.
//!
//! ```text
//! good parts --as the recorder keeps them--> bank --distances--> other parts, kept | raw
//! ```
//!
//! Many parts of all products, a line of figures each:
//! `cargo test --release --lib kept_tests -- --ignored --nocapture`.

use crate::daemon::recorder::JPEG_QUALITY;
use crate::domain::rect::Rect;
use crate::domain::reference::{FeatureSource, Lesson, Place, ReferenceRule, TileFeatures};
use crate::inspect::reference::bank::{Bank, smoothed, top_mean};
use crate::learn::example::{Confirmed, Example, TileCells};
use crate::learn::references::{self, BANK_CELLS, Figures, Wanted, auroc};
use crate::pixels;
use crate::simulator::{Product, part};
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};
use vlm::{Cells, backbone};

/// Whole cells of the network, which sees each part as one tile.
const WIDTH: usize = 416;
const HEIGHT: usize = 352;

/// Parts of a product.
#[derive(Clone, Copy)]
struct Counts {
    learned: usize,
    good: usize,
    bad: usize,
}

/// Good parts and defective ones.
struct Parts {
    good: Vec<RgbImage>,
    bad: Vec<RgbImage>,
}

impl Parts {
    /// `zoom` pixels of a picture are one that the network sees, across and down: at 1 nothing of the coder is averaged
    /// away.
    fn new(product: &Product, seed: u64, good: usize, bad: usize, zoom: usize) -> Self {
        let (width, height) = (WIDTH * zoom, HEIGHT * zoom);
        let mut parts = Self { good: vec![], bad: vec![] };
        for i in 0.. {
            if parts.good.len() >= good && parts.bad.len() >= bad {
                break;
            }
            let (rgb, truth) = part(product, seed, i, width, height);
            let kind = if truth.defects.is_empty() { &mut parts.good } else { &mut parts.bad };
            kind.push(RgbImage::from_raw(width as u32, height as u32, rgb).unwrap());
        }
        parts.good.truncate(good);
        parts.bad.truncate(bad);
        parts
    }
}

/// What the store gives back of a picture.
fn kept(picture: &RgbImage, quality: u8) -> RgbImage {
    let jpeg = pixels::jpeg(picture, quality).unwrap();
    image::load_from_memory_with_format(&jpeg, ImageFormat::Jpeg).unwrap().into_rgb8()
}

fn cells(picture: &RgbImage) -> Cells {
    let picture = imageops::resize(picture, WIDTH as u32, HEIGHT as u32, FilterType::CatmullRom);
    let values: Vec<f32> = picture.as_raw().iter().map(|v| f32::from(*v)).collect();
    backbone::features(&backbone::level(&values, HEIGHT, WIDTH), HEIGHT, WIDTH)
}

const fn features(cells: &Cells) -> TileFeatures<'_> {
    TileFeatures {
        tile: 0,
        rows: cells.rows,
        cols: cells.cols,
        dim: cells.dim,
        values: cells.values.as_slice(),
    }
}

fn good_example(cells: &Cells) -> Example {
    let rect = Rect::new(0, 0, WIDTH as u32, HEIGHT as u32);
    let tile = TileCells::new(rect, (cells.rows, cells.cols), cells.dim, &smoothed(features(cells)));
    Example {
        name: String::new(),
        confirmed: Confirmed { is_good: true, ..Confirmed::default() },
        tiles: vec![tile],
    }
}

fn learn(good: &[Cells]) -> (Bank, Figures) {
    let rule = ReferenceRule {
        features: FeatureSource::Backbone,
        lesson: Lesson::Bank { place: Place::Free },
        labels: vec!["anomaly".into()],
        file: "plate.bank".into(),
        learned: None,
    };
    let wanted = Wanted {
        pipeline: "plate",
        rule: &rule,
        features_sha256: backbone::sha256().into(),
        mm_per_px: 0.15,
        cell_px: backbone::CELL_PX as f64,
        cells_max: BANK_CELLS,
        at: String::new(),
    };
    let examples: Vec<Example> = good.iter().map(good_example).collect();
    references::learn(&examples, &wanted, &|| true).unwrap()
}

/// How far parts are from a bank: by their most unusual cells.
fn distances(bank: &Bank, parts: &[Cells]) -> Vec<f32> {
    let largest = |cells: &Cells| bank.distances(features(cells)).unwrap().into_iter().fold(0.0, f32::max);
    parts.iter().map(largest).collect()
}

fn mean_log(distances: &[f32]) -> f64 {
    distances.iter().map(|d| f64::from(*d).ln()).sum::<f64>() / distances.len() as f64
}

/// Of what the line's pictures look like beside a bank that was learned from kept ones.
struct Shift {
    /// How many times as far from the bank as kept ones good raw parts are, as a logarithm.
    by: f64,
    /// From good kept parts to the limit, likewise.
    room: f64,
    /// Good raw parts over the limit.
    alarms: usize,
    /// Over raw parts of both kinds.
    auroc: f64,
    /// What the bank does on the parts that it was learned from, each beside the others.
    own: Figures,
}

/// The parts of a product, learned from and judged.
struct Bench {
    learned: Vec<RgbImage>,
    others: Vec<RgbImage>,
    good: Vec<Cells>,
    bad: Vec<Cells>,
}

impl Bench {
    fn new(product: &Product, counts: Counts, zoom: usize) -> Self {
        let Parts { good: learned, .. } = Parts::new(product, 61, counts.learned, 0, zoom);
        let Parts { good: others, bad } = Parts::new(product, 62, counts.good, counts.bad, zoom);
        let good = others.iter().map(cells).collect();
        Self { learned, others, good, bad: bad.iter().map(cells).collect() }
    }

    /// By a bank of pictures that are kept so.
    fn shift(&self, keep: impl Fn(&RgbImage) -> RgbImage) -> Shift {
        let kept = |pictures: &[RgbImage]| pictures.iter().map(|p| cells(&keep(p))).collect::<Vec<_>>();
        let (bank, own) = learn(&kept(&self.learned));
        let (as_kept, raw) = (distances(&bank, &kept(&self.others)), distances(&bank, &self.good));
        let tile = |parts: &[Cells]| -> Vec<f32> {
            parts.iter().map(|cells| top_mean(&bank.distances(features(cells)).unwrap())).collect()
        };
        Shift {
            by: mean_log(&raw) - mean_log(&as_kept),
            room: f64::from(bank.cell.at).ln() - mean_log(&as_kept),
            alarms: raw.iter().filter(|d| **d >= bank.cell.at).count(),
            auroc: auroc(&tile(&self.bad), &tile(&self.good)).unwrap_or(f64::NAN),
            own,
        }
    }
}

/// Most alarms among `count` parts that look like those of a bank: by what it says of its own, of which `alarmed` of
/// `good` alarm beside the others. Three deviations over the mean of what such a sample predicts (beta-binomial).
fn alarms_max(alarmed: usize, good: usize, count: usize) -> f64 {
    let (a, b, n) = (alarmed as f64 + 1.0, (good - alarmed) as f64 + 1.0, count as f64);
    let all = a + b;
    let variance = n * a * b * (all + n) / (all * all * (all + 1.0));
    n * a / all + 3.0 * variance.sqrt()
}

#[test]
fn a_bank_of_kept_pictures_judges_raw_ones_as_it_judges_its_own() {
    let counts = Counts { learned: 16, good: 24, bad: 6 };
    let bench = Bench::new(Product::by_name("machined-plate").unwrap(), counts, 1);
    let kept_so = bench.shift(|picture| kept(picture, JPEG_QUALITY));
    let Shift { by, room, alarms, own, .. } = &kept_so;
    assert!(by.abs() < room / 2.0, "{by} of the {room} to its limit are taken by the coder");
    let most = alarms_max(own.alarmed, own.good, counts.good);
    assert!(
        *alarms as f64 <= most,
        "{alarms} of {} raw good parts alarm, at most {most:.1} may",
        counts.good
    );
    // What is measured is the coder.
    let coarse = bench.shift(|picture| kept(picture, 5));
    assert!(coarse.by > by.abs(), "{} at quality 5, {by} at {JPEG_QUALITY}", coarse.by);
}

#[test]
#[ignore = "a measurement, not a check"]
fn figures() {
    let counts = Counts { learned: 40, good: 120, bad: 60 };
    for (product, zoom) in Product::ALL.iter().flat_map(|product| [(product, 1), (product, 2)]) {
        let bench = Bench::new(product, counts, zoom);
        let (raw, kept_so) = (bench.shift(Clone::clone), bench.shift(|picture| kept(picture, JPEG_QUALITY)));
        println!(
            "\n{} at 1:{zoom}: banks of {} parts, {} good and {} defective raw ones: kept at quality {JPEG_QUALITY} raw parts are {:.3} \
             times as far as kept ones, {:.0} % of the way to the limit; learned raw and kept: alarms {} and {}, AUROC \
             {:.3} and {:.3}",
            product.name(),
            counts.learned,
            counts.good,
            counts.bad,
            kept_so.by.exp(),
            100.0 * kept_so.by / kept_so.room,
            raw.alarms,
            kept_so.alarms,
            raw.auroc,
            kept_so.auroc
        );
    }
}
