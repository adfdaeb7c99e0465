//! What a coder leaves of a picture.
//!
//! ```text
//! good part --camera--> kept as JPEG --tile--> level --> features --> bank
//! part -------camera--> as it is ------tile--> level --> features --> distances from it
//! ```
//!
//! Banks and heads are learned from kept pictures, out of which the store's coder took the finest noise, and judge the
//! camera's own. With that noise good parts are up to 1.35 times as far from their bank as kept ones are, which is beyond
//! its limit. A coarser coder takes what is left of it out of both; a step that a person sees stays.

use image::ImageFormat;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// Coarser than any picture that the store keeps, and fine enough for what the features tell apart: at 40 they tell less.
const QUALITY: u8 = 60;

/// A picture of `[height, width, 3]`, RGB, 0..=255, as the coder leaves it.
///
/// # Panics
/// When the sizes do not fit; a side has at most 65,535 pixels.
pub(crate) fn level(values: &[f32], height: usize, width: usize) -> Vec<f32> {
    assert_eq!(values.len(), height * width * 3, "{height} x {width} pixels of three values");
    let pixels: Vec<u8> = values.iter().map(|value| value.round() as u8).collect();
    let mut coded = Vec::with_capacity(pixels.len() / 8);
    let mut encoder = Encoder::new(&mut coded, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
    let (w, h) = (width.try_into().expect("a side"), height.try_into().expect("a side"));
    encoder.encode(&pixels, w, h, ColorType::Rgb).expect("memory takes all of it");
    let left = image::load_from_memory_with_format(&coded, ImageFormat::Jpeg);
    let left = left.expect("what was just coded").into_rgb8();
    left.into_raw().into_iter().map(f32::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grey plate of 64 x 64 with noise of a few steps, and a scratch on it.
    fn plate(noise: u32, scratch: f32) -> Vec<f32> {
        let mut seed = 1u32;
        let mut values = vec![];
        for at in 0..64 * 64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = ((seed >> 16) % (noise + 1)) as f32 - noise as f32 / 2.0;
            let mark = if at % 64 == 30 { scratch } else { 0.0 };
            values.extend([120.0 + noise - mark; 3]);
        }
        values
    }

    fn deviation(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn noise_goes_and_a_scratch_stays() {
        let noisy = plate(6, 0.0);
        let left = deviation(&level(&noisy, 64, 64));
        assert!(left < deviation(&noisy) / 2.0, "{left} of {}", deviation(&noisy));
        let scratched = level(&plate(6, 40.0), 64, 64);
        let row = &scratched[..64 * 3];
        let (mark, beside) = (row[30 * 3], row[10 * 3]);
        assert!(beside - mark > 25.0, "{mark} on it, {beside} beside it");
    }

    #[test]
    fn what_was_levelled_stays_nearly_as_it_is() {
        let once = level(&plate(6, 40.0), 64, 64);
        let twice = level(&once, 64, 64);
        let moved = once.iter().zip(&twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved <= 3.0, "{moved}");
    }
}
