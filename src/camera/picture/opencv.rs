//! What is measured and corrected, by OpenCV.

use super::lens::Straightener;
use super::measures::{Condition, Correction};
use crate::camera::device::DeviceError;
use image::RgbImage;
use opencv::core::{self, CV_64F, Mat, Scalar, Size, Vec3b};
use opencv::imgproc;
use opencv::prelude::*;

/// Side of the pictures that motion is judged on, in pixels: noise averages out.
const THUMBNAIL_PX: i32 = 64;
/// Width that sharpness is measured at, in pixels; large pictures are shrunk to it.
const MEASURE_PX: i32 = 640;
/// A white balance that would need more than this is a coloured part, not a coloured light.
const GAIN_MAX: f64 = 4.0;

fn failed(error: &opencv::Error) -> DeviceError {
    DeviceError::Read { what: "OpenCV".into(), reason: error.to_string() }
}

/// A view of the pixels, without a copy.
pub(super) fn mat_of(pixels: &RgbImage) -> opencv::Result<opencv::boxed_ref::BoxedRef<'_, Mat>> {
    let (width, height) = pixels.dimensions();
    Mat::new_rows_cols_with_bytes::<Vec3b>(height as i32, width as i32, pixels.as_raw())
}

fn grey(pixels: &RgbImage, width_max: i32) -> opencv::Result<Mat> {
    let view = mat_of(pixels)?;
    let mut small = Mat::default();
    let width = view.cols().min(width_max);
    let height = (i64::from(view.rows()) * i64::from(width) / i64::from(view.cols().max(1))).max(1) as i32;
    imgproc::resize(&view, &mut small, Size::new(width, height), 0.0, 0.0, imgproc::INTER_AREA)?;
    let mut grey = Mat::default();
    imgproc::cvt_color_def(&small, &mut grey, imgproc::COLOR_RGB2GRAY)?;
    Ok(grey)
}

fn laplacian_variance(grey: &Mat) -> opencv::Result<f64> {
    let (mut edges, mut mean, mut deviation) = (Mat::default(), Mat::default(), Mat::default());
    imgproc::laplacian_def(grey, &mut edges, CV_64F)?;
    core::mean_std_dev_def(&edges, &mut mean, &mut deviation)?;
    Ok(deviation.at::<f64>(0)?.powi(2))
}

/// Measures a picture.
///
/// # Errors
/// OpenCV cannot, which only memory can cause.
pub fn condition(pixels: &RgbImage) -> Result<Option<Condition>, DeviceError> {
    let measure = || {
        let grey = grey(pixels, MEASURE_PX)?;
        let mut high = Mat::default();
        core::in_range(&grey, &Scalar::all(250.0), &Scalar::all(255.0), &mut high)?;
        Ok(Some(Condition {
            sharpness: laplacian_variance(&grey)?,
            brightness: core::mean_def(&grey)?[0],
            overexposed: f64::from(core::count_non_zero(&high)?) / grey.total().max(1) as f64,
        }))
    };
    measure().map_err(|e| failed(&e))
}

/// Variance of the Laplacian.
///
/// # Errors
/// See [`condition`].
pub fn sharpness(pixels: &RgbImage) -> Result<f64, DeviceError> {
    grey(pixels, MEASURE_PX).and_then(|grey| laplacian_variance(&grey)).map_err(|e| failed(&e))
}

/// A small grey picture, which motion is judged on.
pub struct Thumbnail(Mat);

/// The small grey picture of a picture.
///
/// # Errors
/// See [`condition`].
pub fn thumbnail(pixels: &RgbImage) -> Result<Thumbnail, DeviceError> {
    let shrink = || {
        let (grey, mut small) = (grey(pixels, MEASURE_PX)?, Mat::default());
        let size = Size::new(THUMBNAIL_PX, THUMBNAIL_PX);
        imgproc::resize(&grey, &mut small, size, 0.0, 0.0, imgproc::INTER_AREA)?;
        Ok(Thumbnail(small))
    };
    shrink().map_err(|e| failed(&e))
}

/// Mean difference of two thumbnails, 0..255.
///
/// # Errors
/// See [`condition`].
pub fn difference(a: &Thumbnail, b: &Thumbnail) -> Result<f64, DeviceError> {
    let mut apart = Mat::default();
    core::absdiff(&a.0, &b.0, &mut apart)
        .and_then(|()| Ok(core::mean_def(&apart)?[0]))
        .map_err(|e| failed(&e))
}

/// Corrects the pictures of one camera.
pub struct Corrector {
    lens: Option<Straightener>,
    white_balance: Option<Vec<f64>>,
}

impl Corrector {
    /// A corrector that does what the settings say.
    ///
    /// # Errors
    /// Never; a build without OpenCV refuses what it cannot do.
    pub fn new(correction: &Correction) -> Result<Self, DeviceError> {
        let Correction { lens, white_balance } = correction.clone();
        Ok(Self { lens: lens.map(Straightener::new), white_balance })
    }

    /// Corrects a picture in place.
    ///
    /// # Errors
    /// See [`condition`].
    pub fn correct(&mut self, pixels: &mut RgbImage) -> Result<(), DeviceError> {
        if let Some(lens) = &mut self.lens {
            *pixels = lens.straighten(pixels).map_err(|e| failed(&e))?;
        }
        if let Some(gains) = &self.white_balance {
            balance(pixels, gains)?;
        }
        Ok(())
    }
}

/// Multiplies the channels by their gains; without gains by those that make the mean grey.
fn balance(pixels: &mut RgbImage, gains: &[f64]) -> Result<(), DeviceError> {
    let gains: [f64; 3] = match gains {
        [r, g, b] => [*r, *g, *b],
        _ => {
            let mean = mat_of(pixels).and_then(|view| core::mean_def(&view)).map_err(|e| failed(&e))?;
            let grey = (mean[0] + mean[1] + mean[2]) / 3.0;
            [0, 1, 2].map(|c| (grey / mean[c].max(1.0)).clamp(1.0 / GAIN_MAX, GAIN_MAX))
        }
    };
    let tables = gains.map(|gain| {
        let mut table = [0u8; 256];
        table.iter_mut().enumerate().for_each(|(v, out)| *out = (v as f64 * gain).round().min(255.0) as u8);
        table
    });
    for pixel in pixels.pixels_mut() {
        for (value, table) in pixel.0.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::picture::Lens;
    use image::Rgb;

    fn checks(side: u32, high: u8) -> RgbImage {
        RgbImage::from_fn(320, 240, |x, y| {
            Rgb([if (x / side + y / side).is_multiple_of(2) { high } else { 0 }; 3])
        })
    }

    #[test]
    fn a_dark_a_bright_and_a_soft_picture_are_told_apart() {
        let sharp = condition(&checks(8, 200)).unwrap().unwrap();
        let soft = condition(&image::imageops::blur(&checks(8, 200), 4.0)).unwrap().unwrap();
        let dark = condition(&RgbImage::from_pixel(320, 240, Rgb([3; 3]))).unwrap().unwrap();
        let bright = condition(&RgbImage::from_pixel(320, 240, Rgb([255; 3]))).unwrap().unwrap();
        assert!(sharp.sharpness > 20.0 * soft.sharpness, "{sharp:?} {soft:?}");
        assert!(dark.brightness < 4.0 && dark.sharpness < 1.0, "{dark:?}");
        assert!(bright.overexposed > 0.99 && sharp.overexposed < 0.01, "{bright:?}");
    }

    #[test]
    fn white_balance_makes_a_reddish_grey_grey() {
        let mut pixels = RgbImage::from_pixel(32, 32, Rgb([120, 100, 80]));
        let balance = Correction { lens: None, white_balance: Some(vec![]) };
        Corrector::new(&balance).unwrap().correct(&mut pixels).unwrap();
        assert_eq!(pixels.get_pixel(5, 5), &Rgb([100, 100, 100]));
        let fixed = Correction { lens: None, white_balance: Some(vec![2.0, 1.0, 0.5]) };
        Corrector::new(&fixed).unwrap().correct(&mut pixels).unwrap();
        assert_eq!(pixels.get_pixel(5, 5), &Rgb([200, 100, 50]));
    }

    /// A barrel distortion of a known point is undone: the point returns to where a lens without
    /// distortion would have shown it.
    #[test]
    fn undistortion_moves_a_point_back() {
        let (f, c, k1) = (400.0, 160.0, -0.3);
        // Where a point at x = 0.25 (in focal lengths, on the horizontal axis) appears.
        let (ideal, r2) = (0.25_f64, 0.0625);
        let distorted = (ideal * (1.0 + k1 * r2)) * f + c;
        let mut pixels = RgbImage::new(320, 320);
        for x in 0..3 {
            for y in 159..=161 {
                pixels.put_pixel(distorted.round() as u32 - 1 + x, y, Rgb([255; 3]));
            }
        }
        let lens = Lens { camera: [f, f, c, c], distortion: vec![k1, 0.0, 0.0, 0.0] };
        let mut corrector = Corrector::new(&Correction { lens: Some(lens), white_balance: None }).unwrap();
        corrector.correct(&mut pixels).unwrap();
        let lit: Vec<u32> = (0..320).filter(|x| pixels.get_pixel(*x, 160).0[0] > 128).collect();
        let centre = f64::from(lit.iter().sum::<u32>()) / lit.len() as f64;
        assert!((centre - (ideal * f + c)).abs() < 1.0, "{centre}, was {distorted}");
    }
}
