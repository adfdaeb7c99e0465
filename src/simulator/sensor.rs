//! The camera's sensor and lens: defocus, sensor noise, eight-bit values, sometimes JPEG.

use crate::simulator::geom::{Rand, chance, uni};
use crate::simulator::noise::{Fast, gauss_table};
use rand::Rng;

/// Camera settings of one picture.
#[derive(Clone, Debug)]
pub(super) struct Sensor {
    /// Weight of each neighbour in the three-tap blur, 0..0.25.
    pub blur: f32,
    /// Read noise, display units.
    pub read: f32,
    /// Shot noise factor.
    pub shot: f32,
    /// JPEG quality when the picture goes through a coder.
    pub jpeg: Option<u8>,
    pub balance: [f32; 3],
    seed: u64,
}

impl Sensor {
    /// Random settings.
    pub(super) fn random(r: &mut Rand) -> Sensor {
        Sensor {
            blur: if chance(r, 0.55) { uni(r, 0.05, 0.25) } else { 0.0 },
            read: uni(r, 0.002, 0.010),
            shot: uni(r, 0.004, 0.018),
            jpeg: if chance(r, 0.2) { Some(uni(r, 45.0, 92.0) as u8) } else { None },
            balance: [uni(r, 0.95, 1.05), 1.0, uni(r, 0.94, 1.06)],
            seed: r.r#gen(),
        }
    }

    /// The same camera taking another picture: other noise, and values as they are, never through a coder.
    pub(super) fn reseed(&mut self, r: &mut Rand) {
        self.jpeg = None;
        self.seed = r.r#gen();
    }

    /// Noise sigma at a brightness, display units.
    pub(super) fn sigma(&self, v: f32) -> f32 {
        (self.read * self.read + self.shot * self.shot * v).sqrt()
    }

    /// Exposes shaded values to raw RGB bytes.
    pub(super) fn expose(&self, img: &mut [[f32; 3]], w: usize, h: usize) -> Vec<u8> {
        if self.blur > 0.0 {
            blur3(img, w, h, self.blur);
        }
        let g = gauss_table();
        let mut f = Fast::new(self.seed);
        let (r2, s2) = (self.read * self.read, self.shot * self.shot);
        let mut out = Vec::with_capacity(w * h * 3);
        for p in img.iter() {
            let bits = f.bits();
            let sigma = (r2 + s2 * p[1]).sqrt();
            let common = g[(bits >> 36) as usize & 4095] * 0.7;
            for k in 0..3 {
                let n = common + 0.7 * g[(bits >> (12 * k)) as usize & 4095];
                out.push(((p[k] * self.balance[k] + n * sigma) * 255.0 + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        match self.jpeg {
            Some(q) => recode(&out, w, h, q).unwrap_or(out),
            None => out,
        }
    }
}

/// Separable three-tap blur in place.
fn blur3(img: &mut [[f32; 3]], w: usize, h: usize, k: f32) {
    let c = 1.0 - 2.0 * k;
    let mix = |a: [f32; 3], b: [f32; 3], d: [f32; 3]| -> [f32; 3] {
        [k * (a[0] + d[0]) + c * b[0], k * (a[1] + d[1]) + c * b[1], k * (a[2] + d[2]) + c * b[2]]
    };
    for row in img.chunks_exact_mut(w) {
        let mut prev = row[0];
        for x in 0..w {
            let cur = row[x];
            row[x] = mix(prev, cur, row[(x + 1).min(w - 1)]);
            prev = cur;
        }
    }
    let mut prev: Vec<[f32; 3]> = img[..w].to_vec();
    for y in 0..h {
        for x in 0..w {
            let cur = img[y * w + x];
            img[y * w + x] = mix(prev[x], cur, img[(y + 1).min(h - 1) * w + x]);
            prev[x] = cur;
        }
    }
}

/// Encodes and decodes once.
fn recode(rgb: &[u8], w: usize, h: usize, quality: u8) -> Option<Vec<u8>> {
    let mut buf = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut buf, quality)
        .encode(rgb, w as u32, h as u32, image::ExtendedColorType::Rgb8)
        .ok()?;
    let back = image::load_from_memory_with_format(&buf, image::ImageFormat::Jpeg).ok()?;
    Some(back.into_rgb8().into_raw())
}
