//! P14: nothing that is no proper picture of the recipe's size passes.
//!
//! ```text
//! simulated defective part, which the shipped model does not pass --made blank, cut, damaged, rescaled, …--> file
//!      --the real decoder, the real line, the real model--> refused, or review, or fail: never pass
//! ```

use crate::soak;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage};
use inspectd::camera::decode::{Depth, decode};
use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::grade::{Reason, Verdict};
use inspectd::domain::pipeline::Pipeline;
use inspectd::inspect::inspect;
use inspectd::recipe::pipeline_from_str;
use inspectd::simulator::{Mix, tile};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use vlm::engine::EngineOptions;
use vlm::{Qwen3Vl, Vlm};

/// Pictures of the short form: four of each kind.
const PICTURES: usize = 4 * KINDS.len();
/// Defective parts that the others are made of.
const PARTS: usize = 6;
const SIDE: u32 = 512;

const RECIPE: &str = r#"
schema = 1
name = "dead-eye"
mm_per_px = 0.05
[frame]
size = [512, 512]
[tiling]
tile_px = 512
overlap_px = 0
max_tiles = 4
min_pixels = 4096
max_pixels = 65536
[[prompt]]
id = "surface"
kind = "defects"
labels = ["scratch", "dent", "crack", "pit", "stain", "chip", "misprint", "missing_screw"]
text = 'Find surface defects: {labels}. Reply with a JSON list of {"bbox_2d", "label", "severity"}, or [] if there are none.'
[verdict]
fail_at = "reject"
review_below_confidence = 0.6
ignore_below_confidence = 0.5
deadline_ms = 600000
"#;

const KINDS: [&str; 20] = [
    "black",
    "dark",
    "white",
    "overexposed",
    "even grey",
    "noise alone",
    "under noise",
    "JPEG cut",
    "JPEG cut and closed",
    "JPEG zeroed to its end marker",
    "JPEG with bytes missing",
    "PNG cut",
    "BMP written in part",
    "TIFF written in part",
    "12 bits in 16",
    "floating point",
    "linear light",
    "another size",
    "stretched",
    "one pixel",
];

/// The file of a picture that is spoilt in one way; how much is drawn.
fn spoilt(kind: &str, part: &RgbImage, random: &mut ChaCha8Rng) -> Vec<u8> {
    let png = |picture: RgbImage| written(&picture.into(), ImageFormat::Png);
    let mut change = |of: &mut dyn FnMut(&mut ChaCha8Rng, i32) -> i32| {
        let mut picture = part.clone();
        picture.iter_mut().for_each(|v| *v = of(random, i32::from(*v)).clamp(0, 255) as u8);
        picture
    };
    match kind {
        "black" => png(change(&mut |r, _| r.gen_range(0..3))),
        "dark" => png(change(&mut |_, v| v / 12)),
        "white" => png(change(&mut |r, _| r.gen_range(252..=255))),
        "overexposed" => png(change(&mut |_, v| v * 20)),
        "even grey" => {
            let shade = random.gen_range(30..220);
            png(RgbImage::from_pixel(SIDE, SIDE, Rgb([shade; 3])))
        }
        "noise alone" => {
            let spread = random.gen_range(4..200);
            png(RgbImage::from_fn(SIDE, SIDE, |_, _| {
                Rgb([(128 + random.gen_range(-spread..=spread)).clamp(0, 255) as u8; 3])
            }))
        }
        "under noise" => png(change(&mut |r, v| v + r.gen_range(-110..=110))),
        "JPEG cut" => {
            let jpeg = jpeg(part, random);
            jpeg[..random.gen_range(jpeg.len() / 20..jpeg.len() - 2)].to_vec()
        }
        "JPEG cut and closed" => {
            let jpeg = jpeg(part, random);
            [&jpeg[..random.gen_range(jpeg.len() / 20..jpeg.len() - 2)], &[0xff, 0xd9]].concat()
        }
        "JPEG zeroed to its end marker" => {
            let mut jpeg = jpeg(part, random);
            let (from, end) = (random.gen_range(700..jpeg.len() - 40), jpeg.len() - 2);
            jpeg[from..end].fill(0);
            jpeg
        }
        "JPEG with bytes missing" => {
            let mut jpeg = jpeg(part, random);
            let count = random.gen_range(64..2000);
            let from = random.gen_range(700..jpeg.len() - 2 - count);
            jpeg.drain(from..from + count);
            jpeg
        }
        "PNG cut" => {
            let bytes = png(part.clone());
            let end: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";
            [&bytes[..random.gen_range(60..bytes.len() - 12)], end].concat()
        }
        "BMP written in part" | "TIFF written in part" => {
            let format = if kind.starts_with("BMP") { ImageFormat::Bmp } else { ImageFormat::Tiff };
            let mut bytes = written(&part.clone().into(), format);
            let row = 3 * SIDE as usize;
            let start = match format {
                ImageFormat::Bmp => bytes.len() - row * SIDE as usize,
                _ => {
                    bytes.windows(row).position(|b| b == &part.as_raw()[..row]).expect("it is not compressed")
                }
            };
            let end = start + row * SIDE as usize;
            // A row at least.
            let from = random.gen_range(start..end - 2 * row);
            bytes[from..end].fill(0);
            bytes
        }
        "12 bits in 16" => {
            let grey = DynamicImage::from(part.clone()).into_luma8();
            let bits = [10u32, 12, 14][random.gen_range(0..3)];
            let of = |x, y| Luma([u16::from(grey.get_pixel(x, y)[0]) << (bits - 8)]);
            let format = [ImageFormat::Png, ImageFormat::Tiff][random.gen_range(0..2)];
            written(&ImageBuffer::<Luma<u16>, Vec<u16>>::from_fn(SIDE, SIDE, of).into(), format)
        }
        "floating point" => {
            let mut float = DynamicImage::from(part.clone()).into_rgb32f();
            let scale = [1.0, 255.0][random.gen_range(0..2)];
            float.iter_mut().for_each(|v| *v *= scale);
            written(&float.into(), ImageFormat::Tiff)
        }
        "linear light" => {
            let bytes = png(change(&mut |_, v| (255.0 * (f64::from(v) / 255.0).powf(2.2)) as i32));
            let body = [b"gAMA".as_slice(), &100_000u32.to_be_bytes()].concat();
            let chunk = [&4u32.to_be_bytes(), &body[..], &crc32fast::hash(&body).to_be_bytes()].concat();
            [&bytes[..33], &chunk, &bytes[33..]].concat()
        }
        "another size" => {
            let side = [64, 256, 1024][random.gen_range(0..3)];
            png(resize(part, side, side, FilterType::Triangle))
        }
        "stretched" => png(resize(part, SIDE * 2, SIDE / random.gen_range(2..8), FilterType::Triangle)),
        "one pixel" => png(RgbImage::from_pixel(1, 1, *part.get_pixel(100, 100))),
        other => panic!("{other}"),
    }
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    picture.write_to(&mut bytes, format).expect("it encodes");
    bytes.into_inner()
}

fn jpeg(picture: &RgbImage, random: &mut ChaCha8Rng) -> Vec<u8> {
    let (mut bytes, quality) = (vec![], random.gen_range(60..=95));
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(picture).expect("it encodes");
    bytes
}

/// The verdict about a file, or why it is no picture.
fn judge(vlm: &mut dyn Vlm, path: &Path, recipe: &Pipeline) -> Result<Verdict, String> {
    let pixels = decode(path, Depth::default()).map_err(|error| error.to_string())?;
    let frame = Frame {
        camera: "cam1".into(),
        pixels: Arc::new(pixels),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: path.display().to_string(),
        replayed: false,
    };
    Ok(inspect(vlm, &frame, recipe).verdict)
}

/// Defective parts that the model fails when their pictures are whole.
fn defective(vlm: &mut dyn Vlm, path: &Path, recipe: &Pipeline) -> Vec<RgbImage> {
    let mut parts = vec![];
    for i in 0.. {
        let (rgb, truth) = tile(414_000, i, SIDE as usize, SIDE as usize, Mix::Defect);
        let picture = RgbImage::from_raw(SIDE, SIDE, rgb).expect("its size fits");
        if truth.defects.is_empty() {
            continue;
        }
        std::fs::write(path, written(&picture.clone().into(), ImageFormat::Png)).expect("it is written");
        if matches!(judge(vlm, path, recipe), Ok(Verdict::Fail(_))) {
            parts.push(picture);
        }
        if parts.len() == PARTS {
            break;
        }
    }
    parts
}

#[test]
fn p14_a_dead_eye_passes_nothing() {
    let (began, dir) = (Instant::now(), tempfile::tempdir().expect("a folder"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
    let files = (model.join("inspectd-small.gguf"), model.join("mmproj-inspectd-small.gguf"));
    let options = EngineOptions { threads: 2, ..EngineOptions::default() };
    let mut vlm = Qwen3Vl::load(&files.0, &files.1, options, &candle_core::Device::Cpu).expect("it loads");
    let recipe = pipeline_from_str("dead-eye.toml", RECIPE).expect("it is sound");
    let path = dir.path().join("picture");
    let parts = defective(&mut vlm, &path, &recipe);
    let pictures = soak::count(PICTURES, 2000);
    let mut random = ChaCha8Rng::seed_from_u64(14);
    let (mut refused, mut no_picture, mut looked_at) = (0, 0, 0);
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..pictures {
        let kind = KINDS[n % KINDS.len()];
        let file = spoilt(kind, &parts[n / KINDS.len() % PARTS], &mut random);
        std::fs::write(&path, file).expect("it is written");
        match judge(&mut vlm, &path, &recipe) {
            Err(_) => refused += 1,
            Ok(Verdict::Review(Reason::Frame { .. })) => no_picture += 1,
            Ok(Verdict::Pass) => *passed.entry(kind).or_default() += 1,
            Ok(_) => looked_at += 1,
        }
    }
    soak::report(&format!(
        "P14: {pictures} pictures of {} kinds, {refused} refused by the decoder, {no_picture} review(frame), {looked_at} \
         with their defect still found, {} passes, {:.0} s",
        KINDS.len(),
        passed.values().sum::<usize>(),
        began.elapsed().as_secs_f64()
    ));
    assert!(passed.is_empty(), "{passed:?}");
    assert!(
        refused > pictures / 3 && no_picture > pictures / 3,
        "{refused} refused, {no_picture} review(frame)"
    );
}
