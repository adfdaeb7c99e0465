//! Does a picture show anything? What can be measured on it whatever it shows.
//!
//! ```text
//! region --> at most BLOCKS_MAX blocks of 8 x 8 pixels, spread evenly, those under a mask left out
//!        --> brightness, overexposure, contrast, sharpness, structure --> `Limits` --> the first that is missed
//! ```
//!
//! `structure` tells a picture from noise of any strength: in a picture a block differs from its neighbours as
//! much as its pixels do from each other, while the means of blocks of independent noise hardly differ at all.
//!
//! A leaf: it knows pixels and no recipe, so that every room may use it.

use image::RgbImage;

/// Side of a block, in pixels.
const BLOCK: u32 = 8;
/// Most blocks that are looked at: a quarter of a million pixels, whatever the picture's size.
const BLOCKS_MAX: u64 = 4096;
/// A grey value from here on is overexposed.
const WHITE: u8 = 250;

/// A part of a picture in pixels: left, top, right, bottom; the last two are outside.
pub(crate) type Region = [u32; 4];

/// What is measured on a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measure {
    /// Mean grey value, 0..255.
    pub brightness: f64,
    /// Share of pixels of 250 and more, 0..1.
    pub overexposed: f64,
    /// Grey values between the darkest and the brightest hundredth of the pixels, 0..255.
    pub contrast: f64,
    /// Variance of the Laplacian; 0 for a picture without any edge.
    pub sharpness: f64,
    /// Share of the grey values' variance that is left between the means of blocks of 8 x 8 pixels, 0..1: 1/64 for
    /// independent noise.
    pub structure: f64,
}

/// Measures a region of a picture; what lies outside the picture, or wholly under one of the masks, is left out.
/// `None`: nothing is left.
pub(crate) fn measure(pixels: &RgbImage, region: Region, masks: &[Region]) -> Option<Measure> {
    let [x0, y0, x1, y1] = region;
    let (x1, y1) = (x1.min(pixels.width()), y1.min(pixels.height()));
    let (across, down) = (x1.saturating_sub(x0) / BLOCK, y1.saturating_sub(y0) / BLOCK);
    let total = u64::from(across) * u64::from(down);
    // The same step both ways keeps the grid even; at least one block is looked at.
    let step = ((total as f64 / BLOCKS_MAX as f64).sqrt().ceil() as u32).max(1);
    let mut sums = Sums::default();
    for by in (0..down).step_by(step as usize) {
        for bx in (0..across).step_by(step as usize) {
            let (x, y) = (x0 + bx * BLOCK, y0 + by * BLOCK);
            let masked = |m: &Region| m[0] <= x && m[1] <= y && x + BLOCK <= m[2] && y + BLOCK <= m[3];
            if !masks.iter().any(masked) {
                sums.add(&block(pixels, x, y));
            }
        }
    }
    sums.finish()
}

type Block = [[u8; BLOCK as usize]; BLOCK as usize];

/// The grey values of a block.
fn block(pixels: &RgbImage, x: u32, y: u32) -> Block {
    let (raw, width) = (pixels.as_raw(), pixels.width() as usize);
    let mut grey = [[0; BLOCK as usize]; BLOCK as usize];
    for (dy, row) in grey.iter_mut().enumerate() {
        let start = ((y as usize + dy) * width + x as usize) * 3;
        for (value, rgb) in row.iter_mut().zip(raw[start..start + 3 * BLOCK as usize].chunks_exact(3)) {
            // ITU-R BT.601 in 256ths.
            *value = ((77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2])) >> 8) as u8;
        }
    }
    grey
}

struct Sums {
    histogram: [u64; 256],
    blocks: u64,
    /// Of the blocks' means.
    means: f64,
    means_squared: f64,
    /// Of the Laplacian inside the blocks.
    laplacian: f64,
    laplacian_squared: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            histogram: [0; 256],
            blocks: 0,
            means: 0.0,
            means_squared: 0.0,
            laplacian: 0.0,
            laplacian_squared: 0.0,
        }
    }
}

impl Sums {
    fn add(&mut self, grey: &Block) {
        let mut sum = 0u32;
        for value in grey.iter().flatten() {
            self.histogram[usize::from(*value)] += 1;
            sum += u32::from(*value);
        }
        let mean = f64::from(sum) / f64::from(BLOCK * BLOCK);
        self.blocks += 1;
        self.means += mean;
        self.means_squared += mean * mean;
        let (mut sum, mut squared) = (0i32, 0i32);
        for y in 1..BLOCK as usize - 1 {
            for x in 1..BLOCK as usize - 1 {
                let at = |y: usize, x: usize| i32::from(grey[y][x]);
                let l = at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4 * at(y, x);
                sum += l;
                squared += l * l;
            }
        }
        self.laplacian += f64::from(sum);
        self.laplacian_squared += f64::from(squared);
    }

    fn finish(&self) -> Option<Measure> {
        if self.blocks == 0 {
            return None;
        }
        let (blocks, inner) = (self.blocks as f64, (self.blocks * u64::from((BLOCK - 2).pow(2))) as f64);
        let count = self.blocks * u64::from(BLOCK * BLOCK);
        let pixels = count as f64;
        let moment = |power: i32| {
            let terms = self.histogram.iter().enumerate().map(|(v, n)| (v as f64).powi(power) * *n as f64);
            terms.sum::<f64>() / pixels
        };
        let brightness = moment(1);
        let variance = (moment(2) - brightness * brightness).max(0.0);
        let between = (self.means_squared / blocks - (self.means / blocks).powi(2)).max(0.0);
        let laplacian = self.laplacian / inner;
        let white: u64 = self.histogram[usize::from(WHITE)..].iter().sum();
        Some(Measure {
            brightness,
            overexposed: white as f64 / pixels,
            contrast: self.quantile(count - count / 100) - self.quantile(count / 100 + 1),
            sharpness: (self.laplacian_squared / inner - laplacian * laplacian).max(0.0),
            structure: if variance > 0.0 { between / variance } else { 0.0 },
        })
    }

    /// The grey value of the pixel with this rank, from 1.
    fn quantile(&self, rank: u64) -> f64 {
        let mut seen = 0;
        let value = self.histogram.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        value.unwrap_or(255) as f64
    }
}
