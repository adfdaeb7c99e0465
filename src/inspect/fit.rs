//! Is this a proper picture for this recipe? Judged before the engine is asked, for every source alike.
//!
//! ```text
//! frame and the earlier pictures of its clip --> large enough --> the recipe's size --> shows something
//!                                                    '----------------'------------------'--> review(frame)
//! ```
//!
//! What shows nothing has no defects, and regions and millimetres of another size mean other places: both would
//! pass. Every refusal names what was measured, the limit and its key.

use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::pipeline::{FrameRule, FrameSize, Health, HealthLimits, Pipeline};
use crate::domain::rect::Rect;
use crate::health::{Measure, Region, measure};
use image::RgbImage;

/// Least pixels a side, with any recipe: one cell of the model's vision.
pub(crate) const SIDE_MIN_PX: u32 = 32;
/// A recipe whose region covers less of the frame than this, and that states no size, may be another size's.
const ROI_SHARE_MIN: f64 = 0.5;

/// Judges the pictures of a frame.
///
/// # Errors
/// [`Reason::Frame`], with the first thing that is wrong.
pub(crate) fn judge(frame: &Frame, pipeline: &Pipeline) -> Result<(), Reason> {
    let rule = &pipeline.frame;
    let earlier = frame.clip.iter().enumerate().map(|(i, p)| (Some(frame.clip.len() - i), &p.pixels));
    for (before, pixels) in earlier.chain([(None, &frame.pixels)]) {
        let of_clip = |message| match before {
            Some(before) => format!("picture {before} before the last of its clip: {message}"),
            None => message,
        };
        size(pixels, rule)
            .and_then(|()| health(pixels, rule))
            .map_err(|message| Reason::Frame { message: of_clip(message) })?;
    }
    Ok(())
}

fn size(pixels: &RgbImage, rule: &FrameRule) -> Result<(), String> {
    let (width, height) = pixels.dimensions();
    if width < SIDE_MIN_PX || height < SIDE_MIN_PX {
        return Err(format!("{width}x{height} px: a picture has at least {SIDE_MIN_PX} px a side"));
    }
    let share =
        |roi: Rect| f64::from(roi.width()) * f64::from(roi.height()) / (f64::from(width) * f64::from(height));
    match (rule.size, rule.roi) {
        (FrameSize::Stated { width: w, height: h }, _) if (w, h) != (width, height) => {
            Err(format!("{width}x{height} px, and [frame] size of the pipeline is {w}x{h}"))
        }
        (FrameSize::Learned { width: w, height: h }, _) if (w, h) != (width, height) => Err(format!(
            "{width}x{height} px, and the part that was confirmed first with this camera and pipeline had {w}x{h}: \
             where the new size is meant, state it as [frame] size = [{width}, {height}] in the pipeline"
        )),
        (FrameSize::Unknown, Some(roi)) if share(roi) < ROI_SHARE_MIN => Err(format!(
            "{width}x{height} px, of which the roi covers {:.0} %, and nobody states that this is the size that the roi \
             is for: set [frame] size = [{width}, {height}] in the pipeline where it is",
            100.0 * share(roi)
        )),
        _ => Ok(()),
    }
}

fn health(pixels: &RgbImage, rule: &FrameRule) -> Result<(), String> {
    let Health::On(limits) = rule.health else { return Ok(()) };
    let region = rule.roi.map_or([0, 0, pixels.width(), pixels.height()], corners);
    let masks: Vec<Region> = rule.mask.iter().copied().map(corners).collect();
    let measured = measure(pixels, region, &masks);
    let measured = measured.ok_or("the inspected region is too small to see whether it shows anything")?;
    first_missed(&measured, &limits).map_or(Ok(()), Err)
}

const fn corners(rect: Rect) -> Region {
    [rect.x0, rect.y0, rect.x1, rect.y1]
}

/// The first limit that is missed, in words.
pub(crate) fn first_missed(m: &Measure, limits: &HealthLimits) -> Option<String> {
    let HealthLimits { brightness_min, brightness_max, overexposed_max, .. } = *limits;
    let HealthLimits { contrast_min, sharpness_min, sharpness_max, structure_min, .. } = *limits;
    let Measure { brightness, overexposed, contrast, sharpness, structure } = *m;
    // A measure that is not a number fulfils nothing.
    let below = |value: f64, min: f64| value.is_nan() || value < min;
    let above = |value: f64, max: f64| value.is_nan() || value > max;
    Some(if below(brightness, brightness_min) {
        format!("dark: brightness {brightness:.1}, brightness_min is {brightness_min}")
    } else if above(overexposed, overexposed_max) {
        format!("overexposed: {overexposed:.2} of its pixels, overexposed_max is {overexposed_max}")
    } else if above(brightness, brightness_max) {
        format!("bright: brightness {brightness:.1}, brightness_max is {brightness_max}")
    } else if below(contrast, contrast_min) {
        format!("without contrast: {contrast:.0} grey values, contrast_min is {contrast_min}")
    } else if below(structure, structure_min) {
        format!("noise: structure {structure:.3}, structure_min is {structure_min}")
    } else if below(sharpness, sharpness_min) {
        format!("blurred: sharpness {sharpness:.1}, sharpness_min is {sharpness_min}")
    } else if above(sharpness, sharpness_max) {
        format!("noisy: sharpness {sharpness:.0}, sharpness_max is {sharpness_max}")
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::{Product, part};
    use image::Rgb;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn judged(pixels: &RgbImage, rule: &FrameRule) -> Result<(), String> {
        size(pixels, rule).and_then(|()| health(pixels, rule))
    }

    fn refused(pixels: &RgbImage, words: &str) {
        let error = judged(pixels, &FrameRule::default()).expect_err(words);
        assert!(error.starts_with(words), "{words}: {error}");
    }

    fn noise(width: u32, height: u32, mean: i32, spread: i32, seed: u64) -> RgbImage {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        RgbImage::from_fn(width, height, |_, _| {
            Rgb([random.gen_range(mean - spread..=mean + spread).clamp(0, 255) as u8; 3])
        })
    }

    #[test]
    fn what_shows_nothing_is_refused_by_its_name() {
        for (w, h) in [(64, 48), (700, 500)] {
            let even = |v| RgbImage::from_pixel(w, h, Rgb([v; 3]));
            refused(&even(0), "dark");
            refused(&even(4), "dark");
            refused(&even(255), "overexposed");
            refused(&even(128), "without contrast");
            refused(&noise(w, h, 3, 3, 1), "dark");
            refused(&noise(w, h, 253, 2, 2), "overexposed");
            // A slow ramp of light over nothing: contrast, and not one edge.
            let ramp = RgbImage::from_fn(700, 500, |x, _| Rgb([(40 + x / 12) as u8; 3]));
            refused(&ramp, "blurred");
        }
    }

    #[test]
    fn noise_of_any_strength_is_refused() {
        for seed in 0..12 {
            for spread in [14, 25, 60, 120, 400] {
                refused(&noise(320, 240, 128, spread, seed), "noise");
            }
            refused(&noise(40, 40, 100, 90, seed), "noise");
            // Each colour by itself.
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            refused(&RgbImage::from_fn(640, 480, |_, _| Rgb(random.r#gen())), "noise");
        }
    }

    #[test]
    fn a_part_under_heavy_noise_is_refused() {
        let (rgb, _) = part(&Product::ALL[0], 1, 0, 320, 240);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let noisy =
            rgb.iter().map(|v| (i32::from(*v) + random.gen_range(-100..=100)).clamp(0, 255) as u8).collect();
        refused(&RgbImage::from_raw(320, 240, noisy).unwrap(), "noisy");
    }

    /// With margin: no part of the simulator comes near a limit.
    #[test]
    fn every_simulated_part_is_a_picture() {
        let limits = HealthLimits::default();
        for product in &Product::ALL {
            for (seed, (w, h)) in [(1, (306, 256)), (2, (612, 512)), (3, (160, 120))] {
                for i in 0..6 {
                    let (rgb, _) = part(product, seed, i, w, h);
                    let pixels = RgbImage::from_raw(w as u32, h as u32, rgb).unwrap();
                    judged(&pixels, &FrameRule::default())
                        .unwrap_or_else(|e| panic!("{}: {e}", product.name()));
                    let m = measure(&pixels, [0, 0, w as u32, h as u32], &[]).unwrap();
                    assert!(
                        m.contrast > 1.5 * limits.contrast_min && m.structure > 2.0 * limits.structure_min
                    );
                    assert!(
                        m.brightness > 2.0 * limits.brightness_min
                            && m.sharpness > 2.0 * limits.sharpness_min
                    );
                }
            }
        }
    }

    #[test]
    fn a_picture_of_another_size_names_both() {
        let (rgb, _) = part(&Product::ALL[0], 1, 0, 320, 240);
        let pixels = RgbImage::from_raw(320, 240, rgb).unwrap();
        let with = |size, roi| judged(&pixels, &FrameRule { roi, size, ..FrameRule::default() });
        let stated = |width, height| FrameSize::Stated { width, height };
        assert_eq!(with(stated(320, 240), None), Ok(()));
        assert_eq!(with(FrameSize::Unknown, None), Ok(()));
        let error = with(stated(640, 480), None).unwrap_err();
        assert!(error.contains("320x240") && error.contains("640x480"), "{error}");
        let error = with(FrameSize::Learned { width: 640, height: 480 }, None).unwrap_err();
        assert!(error.contains("640x480") && error.contains("[frame] size = [320, 240]"), "{error}");
        // A quarter of the frame: the recipe may be for a camera of half the resolution.
        let quarter = Some(Rect::new(0, 0, 160, 120));
        assert!(with(FrameSize::Unknown, quarter).unwrap_err().contains("25 %"));
        assert_eq!(with(FrameSize::Any, quarter), Ok(()));
        assert_eq!(with(stated(320, 240), quarter), Ok(()));
        assert_eq!(with(FrameSize::Learned { width: 320, height: 240 }, quarter), Ok(()));
        assert_eq!(with(FrameSize::Unknown, Some(Rect::new(10, 10, 310, 230))), Ok(()));
    }

    #[test]
    fn no_recipe_takes_a_picture_of_one_pixel() {
        let any = FrameRule { size: FrameSize::Any, health: Health::Off, ..FrameRule::default() };
        for (w, h) in [(1, 1), (31, 400), (400, 31), (0, 0)] {
            assert!(judged(&RgbImage::new(w, h), &any).unwrap_err().contains("at least 32 px"));
        }
        assert_eq!(judged(&RgbImage::new(32, 32), &any), Ok(()), "health is off");
    }

    #[test]
    fn only_the_inspected_region_is_measured() {
        // A part on the left, nothing on the right.
        let (rgb, _) = part(&Product::ALL[0], 1, 0, 320, 240);
        let lit = RgbImage::from_raw(320, 240, rgb).unwrap();
        let half =
            RgbImage::from_fn(320, 240, |x, y| if x < 160 { *lit.get_pixel(x, y) } else { Rgb([0; 3]) });
        let with =
            |roi, mask| judged(&half, &FrameRule { roi, mask, size: FrameSize::Any, ..FrameRule::default() });
        assert_eq!(with(Some(Rect::new(0, 0, 160, 240)), vec![]), Ok(()));
        assert!(with(Some(Rect::new(160, 0, 320, 240)), vec![]).unwrap_err().starts_with("dark"));
        assert!(with(None, vec![Rect::new(0, 0, 160, 240)]).unwrap_err().starts_with("dark"));
        assert_eq!(with(None, vec![Rect::new(160, 0, 320, 240)]), Ok(()));
    }
}
