//! P7: no hostile file kills the daemon: mutated models and pictures are read or refused within 2 s.

use crate::soak;
use inspectd::camera::kind::folder::Folder;
use inspectd::camera::{Source, Stop};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::time::{Duration, Instant};
use vlm::load::load;
use vlm::synth::{Quant, Shape, Vocabulary, write_pair};

const MODELS: usize = 300;
const PICTURES: usize = 300;
const TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Figures {
    read: usize,
    refused: usize,
    slowest: Duration,
}

impl Figures {
    fn take(&mut self, what: &str, fine: bool, began: Instant) {
        let took = began.elapsed();
        assert!(took < TIME_MAX, "{what} took {took:?}");
        self.slowest = self.slowest.max(took);
        self.read += usize::from(fine);
        self.refused += usize::from(!fine);
    }
}

/// One to eight changes of the first `within` bytes, of the kinds that break parsers.
fn mutate(bytes: &mut Vec<u8>, within: usize, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.gen_range(1..=8) {
        let within = within.min(bytes.len());
        if within < 16 {
            return;
        }
        let at = rng.gen_range(0..within - 8);
        match rng.gen_range(0..6) {
            0 => bytes[at] ^= 1 << rng.gen_range(0..8),
            1 => bytes[at] = rng.r#gen(),
            2 => bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes()),
            3 => bytes[at..at + 8].copy_from_slice(&rng.gen_range(0..1u64 << 34).to_le_bytes()),
            4 => bytes[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_be_bytes()),
            _ => {
                let length = rng.gen_range(1..64).min(within - at);
                let from = rng.gen_range(0..within - length + 1);
                bytes.copy_within(from..from + length, at);
            }
        }
    }
    if rng.gen_range(0..20) == 0 {
        let length = rng.gen_range(0..bytes.len());
        bytes.truncate(length);
    }
}

#[test]
fn p7_mutated_models_are_read_or_refused() {
    let began = Instant::now();
    let dir = tempfile::tempdir().expect("a folder");
    let (text, mmproj) = (dir.path().join("text.gguf"), dir.path().join("mmproj.gguf"));
    let shape = Shape::named("tiny-k").expect("the shape is known");
    write_pair(&shape, Quant::Q4KM, &Vocabulary::bytes(), 1, &text, &mmproj).expect("it is written");
    let sound = [std::fs::read(&text).expect("it reads"), std::fs::read(&mmproj).expect("it reads")];
    let mut f = Figures::default();
    for n in 0..soak::count(MODELS, 10_000) {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        let which = n % 2;
        let mut bytes = sound[which].clone();
        let within = if n % 3 == 0 { 4096 } else { bytes.len() / 2 };
        mutate(&mut bytes, within, &mut rng);
        let path = if which == 0 { &text } else { &mmproj };
        std::fs::write(path, &bytes).expect("it is written");
        let one = Instant::now();
        let loaded = load(&text, &mmproj, None, &candle_core::Device::Cpu);
        f.take(&format!("model {n}"), loaded.is_ok(), one);
        std::fs::write(path, &sound[which]).expect("it is written");
    }
    soak::report(&format!(
        "P7 models: {} mutated, {} read, {} refused, 0 panics, slowest {} ms, {:.0} s",
        f.read + f.refused,
        f.read,
        f.refused,
        f.slowest.as_millis(),
        began.elapsed().as_secs_f64()
    ));
    assert!(f.refused > 0 && f.read + f.refused > 0);
}

/// What the folder camera makes of one file.
fn taken(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::write(dir.join("a.png"), bytes).expect("it is written");
    let mut camera = Folder::once("cam1", dir, Stop::default()).expect("the folder is there");
    matches!(camera.next(), Ok(Some(_)))
}

#[test]
fn p7_mutated_pictures_and_bombs_are_read_or_refused() {
    let began = Instant::now();
    let dir = tempfile::tempdir().expect("a folder");
    let picture =
        image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([(x * 3) as u8, (y * 4) as u8, (x ^ y) as u8]));
    let formats = [
        image::ImageFormat::Png,
        image::ImageFormat::Jpeg,
        image::ImageFormat::Bmp,
        image::ImageFormat::Tiff,
    ];
    let sound = formats.map(|format| {
        let mut bytes = std::io::Cursor::new(vec![]);
        picture.write_to(&mut bytes, format).expect("it encodes");
        bytes.into_inner()
    });
    for bytes in &sound {
        assert!(taken(dir.path(), bytes), "the sound pictures are taken");
    }
    let mut f = Figures::default();
    for n in 0..soak::count(PICTURES, 10_000) {
        let mut rng = ChaCha8Rng::seed_from_u64(1_000_000 + n as u64);
        let mut bytes = sound[n % sound.len()].clone();
        let within = if n % 3 == 0 { 64 } else { bytes.len() };
        mutate(&mut bytes, within, &mut rng);
        let one = Instant::now();
        let fine = taken(dir.path(), &bytes);
        f.take(&format!("picture {n}"), fine, one);
    }
    let bombs = bombs();
    for (name, bytes) in &bombs {
        let one = Instant::now();
        assert!(!taken(dir.path(), bytes), "{name} is taken");
        f.take(name, false, one);
    }
    soak::report(&format!(
        "P7 pictures: {} mutated, {} bombs, {} read, {} refused, 0 panics, slowest {} ms, {:.0} s",
        f.read + f.refused - bombs.len(),
        bombs.len(),
        f.read,
        f.refused,
        f.slowest.as_millis(),
        began.elapsed().as_secs_f64()
    ));
}

/// Small files that say that they are enormous pictures.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let png = |width: u32, height: u32| {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8; 4], body: &[u8]| {
            bytes.extend((body.len() as u32).to_be_bytes());
            let inner = [&kind[..], body].concat();
            bytes.extend(&inner);
            bytes.extend(crc32fast::hash(&inner).to_be_bytes());
        };
        chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat());
        chunk(b"IDAT", &[0x78, 0x9c, 0x63, 0, 0]);
        chunk(b"IEND", &[]);
        bytes
    };
    let mut bmp = b"BM".to_vec();
    bmp.extend([0; 8]);
    bmp.extend(54u32.to_le_bytes());
    bmp.extend(40u32.to_le_bytes());
    bmp.extend([60_000u32.to_le_bytes(), 60_000u32.to_le_bytes()].concat());
    bmp.extend([1, 0, 24, 0]);
    bmp.extend([0; 24]);
    vec![
        ("a PNG of 4 thousand million pixels a side", png(u32::MAX, u32::MAX)),
        ("a PNG of 60,000 pixels a side", png(60_000, 60_000)),
        ("a PNG at the limit and without its pixels", png(16_384, 16_384)),
        ("a BMP of 60,000 pixels a side", bmp),
    ]
}
