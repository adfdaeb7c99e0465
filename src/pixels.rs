//! What is done with the pixels of whole pictures beside the model: tiles, small copies, JPEG.
//!
//! Rows are copied whole, and what computes comes compiled with its crate. Generic code of `image` would be compiled in
//! this package, which is not built as one unit, and costs a call a pixel there: of a picture of 2448x2048 a small copy
//! took 67 ms so and takes 6, and JPEG 155 ms and takes 63.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};

const BYTES_PER_PX: usize = 3;

/// The part of a picture that begins at (`x`, `y`).
///
/// # Panics
/// When it leaves the picture.
pub(crate) fn cut(picture: &RgbImage, (x, y): (u32, u32), (width, height): (u32, u32)) -> RgbImage {
    let is_inside = |from: u32, len: u32, side: u32| from.checked_add(len).is_some_and(|end| end <= side);
    assert!(
        is_inside(x, width, picture.width()) && is_inside(y, height, picture.height()),
        "{width}x{height} at ({x}, {y}) leave a picture of {}x{}",
        picture.width(),
        picture.height()
    );
    let bytes = |px: u32| px as usize * BYTES_PER_PX;
    let mut part = Vec::with_capacity(bytes(width) * height as usize);
    for row in y..y + height {
        let from = row as usize * bytes(picture.width()) + bytes(x);
        part.extend_from_slice(&picture.as_raw()[from..][..bytes(width)]);
    }
    RgbImage::from_raw(width, height, part).expect("so many pixels were copied")
}

/// A smaller copy, each of its pixels the mean of those that it stands for; `None` where one of both has no pixels.
pub(crate) fn shrink(picture: &RgbImage, width: u32, height: u32) -> Option<RgbImage> {
    let mut small = RgbImage::new(width, height);
    if picture.is_empty() || small.is_empty() {
        return None;
    }
    let from = TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture).ok()?;
    let mut to = TypedImage::<U8x3>::from_buffer(width, height, &mut small).ok()?;
    let mean = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Box)).use_alpha(false);
    Resizer::new().resize_typed(&from, &mut to, &mean).ok()?;
    Some(small)
}

/// A picture as JPEG of a quality from 1 to 100. Its colours keep their full resolution: a stain is often nothing else.
///
/// # Errors
/// The picture has no pixels, or a side of more than 65,535.
pub(crate) fn jpeg(picture: &RgbImage, quality: u8) -> Result<Vec<u8>, EncodingError> {
    let side = |px: u32| {
        let too_long = |_| EncodingError::Write(format!("a side of {px} pixels, more than {}", u16::MAX));
        u16::try_from(px).map_err(too_long)
    };
    let mut jpeg = vec![];
    let mut encoder = Encoder::new(&mut jpeg, quality);
    encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
    encoder.encode(picture, side(picture.width())?, side(picture.height())?, ColorType::Rgb)?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::imageops::{crop_imm, thumbnail};
    use image::{ImageFormat, Rgb};
    use proptest::prelude::*;

    fn decoded(jpeg: &[u8]) -> RgbImage {
        image::load_from_memory_with_format(jpeg, ImageFormat::Jpeg).unwrap().into_rgb8()
    }

    /// Smooth, and of colours that must not be exchanged.
    fn smooth(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([200, x as u8, (2 * y) as u8]))
    }

    fn apart(one: &RgbImage, other: &RgbImage) -> u8 {
        one.iter().zip(other.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    proptest! {
        #[test]
        fn a_part_has_its_own_pixels(x in 0u32..30, y in 0u32..20, w in 1u32..=30, h in 1u32..=20) {
            let (w, h) = (w.min(30 - x), h.min(20 - y));
            let picture = RgbImage::from_fn(30, 20, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
            prop_assert_eq!(cut(&picture, (x, y), (w, h)), crop_imm(&picture, x, y, w, h).to_image());
        }

        #[test]
        fn a_picture_of_any_size_is_read_again_as_it_was(width in 1u32..70, height in 1u32..70) {
            let picture = smooth(width, height);
            let again = decoded(&jpeg(&picture, 95).unwrap());
            prop_assert_eq!(again.dimensions(), picture.dimensions());
            prop_assert!(apart(&again, &picture) <= 8);
        }

        #[test]
        fn a_small_copy_has_means(width in 1u32..120, height in 1u32..90, by in 1u32..9) {
            let picture = smooth(width * by, height.div_ceil(by) * by);
            let small = shrink(&picture, width, picture.height() / by).unwrap();
            let expected = thumbnail(&picture, small.width(), small.height());
            prop_assert!(apart(&small, &expected) <= 1);
        }
    }

    #[test]
    fn what_leaves_the_picture_is_no_part_of_it() {
        for (at, size) in [((21, 0), (10, 1)), ((0, 11), (1, 10)), ((u32::MAX, 0), (1, 1))] {
            let cut = std::panic::catch_unwind(|| cut(&RgbImage::new(30, 20), at, size));
            assert!(cut.is_err(), "{size:?} at {at:?}");
        }
    }

    #[test]
    fn a_picture_without_pixels_has_no_copies() {
        let (none, some) = (RgbImage::new(0, 0), RgbImage::new(4, 4));
        assert!(
            shrink(&none, 2, 2).is_none() && shrink(&some, 0, 2).is_none() && shrink(&some, 2, 2).is_some()
        );
        assert!(jpeg(&none, 90).is_err());
    }

    #[test]
    fn colours_keep_their_resolution() {
        let stripes = |x, _| if x % 2 == 0 { Rgb([220, 20, 20]) } else { Rgb([20, 20, 220]) };
        let again = decoded(&jpeg(&RgbImage::from_fn(64, 64, stripes), 90).unwrap());
        let [left, right] = [again.get_pixel(30, 30), again.get_pixel(31, 30)];
        assert!(
            left[0] > 180 && left[2] < 60 && right[0] < 60 && right[2] > 180,
            "{left:?} beside {right:?}"
        );
    }

    #[test]
    fn a_side_that_the_format_does_not_know_is_refused() {
        assert!(
            jpeg(&RgbImage::new(1 << 16, 1), 90).is_err() && jpeg(&RgbImage::new(1, 1 << 16), 90).is_err()
        );
        assert!(jpeg(&RgbImage::new(65_535, 1), 90).is_ok());
    }
}
