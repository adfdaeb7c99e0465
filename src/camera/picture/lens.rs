//! Undistortion by the calibration of a lens.
//!
//! ```text
//! Lens, size of the pictures --once--> where each pixel comes from (two maps) --each picture--> remap
//! ```
//!
//! The model is that of OpenCV's `undistort`, with the same camera matrix before and after. The maps are made here and
//! kept: `undistort` makes them anew for each picture, and its module brings two others into the build.

use super::measures::Lens;
use image::RgbImage;
use opencv::core::{BORDER_CONSTANT, CV_16SC2, Mat, Scalar};
use opencv::imgproc;
use opencv::prelude::*;

/// Straightens the pictures of one camera.
pub(super) struct Straightener {
    lens: Lens,
    maps: Option<Maps>,
}

/// Where each pixel of a straight picture comes from, as `remap` reads it fastest: whole pixels, and 32nds.
struct Maps {
    /// Width and height.
    size: (u32, u32),
    whole: Mat,
    fraction: Mat,
}

impl Straightener {
    /// Of a lens.
    pub(super) fn new(lens: Lens) -> Self {
        Self { lens, maps: None }
    }

    /// The picture as a lens without distortion would have shown it; black where the camera saw nothing of it.
    ///
    /// # Errors
    /// OpenCV cannot, which only memory can cause.
    pub(super) fn straighten(&mut self, pixels: &RgbImage) -> opencv::Result<RgbImage> {
        let size = pixels.dimensions();
        let maps = match self.maps.take() {
            Some(maps) if maps.size == size => maps,
            _ => Maps::new(&self.lens, size)?,
        };
        let mut straight = Mat::default();
        let maps = self.maps.insert(maps);
        imgproc::remap(
            &super::opencv::mat_of(pixels)?,
            &mut straight,
            &maps.whole,
            &maps.fraction,
            imgproc::INTER_LINEAR,
            BORDER_CONSTANT,
            Scalar::default(),
        )?;
        let bytes = straight.data_bytes()?.to_vec();
        Ok(RgbImage::from_raw(size.0, size.1, bytes).expect("a remapped picture is as large as its maps"))
    }
}

impl Maps {
    fn new(lens: &Lens, (width, height): (u32, u32)) -> opencv::Result<Self> {
        let rows = |coordinate: fn((f64, f64)) -> f64| -> Vec<Vec<f32>> {
            let row =
                |v| (0..width).map(|u| coordinate(source(lens, f64::from(u), f64::from(v))) as f32).collect();
            (0..height).map(row).collect()
        };
        let (x, y) = (Mat::from_slice_2d(&rows(|(x, _)| x))?, Mat::from_slice_2d(&rows(|(_, y)| y))?);
        let (mut whole, mut fraction) = (Mat::default(), Mat::default());
        imgproc::convert_maps(&x, &y, &mut whole, &mut fraction, CV_16SC2, false)?;
        Ok(Self { size: (width, height), whole, fraction })
    }
}

/// Where the camera shows what belongs at column `u` and row `v`, in pixels.
fn source(lens: &Lens, u: f64, v: f64) -> (f64, f64) {
    let [fx, fy, cx, cy] = lens.camera;
    let coefficient = |i: usize| lens.distortion.get(i).copied().unwrap_or(0.0);
    let [k1, k2, p1, p2, k3] = std::array::from_fn(coefficient);
    let (x, y) = ((u - cx) / fx, (v - cy) / fy);
    let r2 = x * x + y * y;
    let radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3));
    let distorted_x = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x);
    let distorted_y = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y;
    (distorted_x * fx + cx, distorted_y * fy + cy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// Each pixel is a formula of its place.
    fn pattern(x: u32, y: u32) -> Rgb<u8> {
        Rgb([(x * 4 % 256) as u8, (y * 5 % 256) as u8, (x * y % 251) as u8])
    }

    /// What `cv2.undistort` of OpenCV 5.0.0 makes of the pattern, at these places.
    #[test]
    fn pictures_are_straightened_as_opencv_does_it() {
        const AT: [(u32, u32); 10] =
            [(0, 0), (5, 40), (10, 10), (20, 30), (31, 25), (33, 7), (40, 20), (50, 44), (60, 3), (63, 47)];
        let cases: [(&[f64], [[u8; 3]; 10]); 3] = [
            (
                &[-0.3, 0.05, 0.002, -0.004],
                [
                    [14, 15, 11],
                    [27, 195, 95],
                    [44, 54, 119],
                    [80, 150, 100],
                    [124, 125, 22],
                    [132, 38, 108],
                    [160, 100, 47],
                    [195, 214, 79],
                    [226, 28, 62],
                    [235, 222, 98],
                ],
            ),
            (
                &[-0.3, 0.05, 0.002, -0.004, 0.01],
                [
                    [14, 15, 11],
                    [27, 195, 102],
                    [44, 54, 119],
                    [80, 150, 100],
                    [124, 125, 22],
                    [132, 38, 108],
                    [160, 100, 47],
                    [195, 214, 79],
                    [226, 28, 62],
                    [236, 222, 101],
                ],
            ),
            (
                &[0.2, 0.0, 0.0, 0.0],
                [
                    [0, 0, 0],
                    [15, 204, 153],
                    [37, 47, 87],
                    [80, 150, 96],
                    [124, 125, 22],
                    [132, 33, 220],
                    [160, 100, 47],
                    [203, 224, 98],
                    [249, 7, 82],
                    [0, 0, 0],
                ],
            ),
        ];
        let picture = RgbImage::from_fn(64, 48, pattern);
        for (distortion, expected) in cases {
            let lens = Lens { camera: [60.0, 58.0, 30.5, 25.0], distortion: distortion.to_vec() };
            let mut straightener = Straightener::new(lens);
            // The second time with the maps that were kept.
            for _ in 0..2 {
                let straight = straightener.straighten(&picture).unwrap();
                let got = AT.map(|(x, y)| straight.get_pixel(x, y).0);
                // The pattern jumps, where a coordinate's last bit decides: the sums of OpenCV's versions differ by it.
                let apart = got.as_flattened().iter().zip(expected.as_flattened());
                assert!(apart.clone().all(|(a, b)| a.abs_diff(*b) <= 1), "{distortion:?}: {got:?}");
            }
        }
    }

    #[test]
    fn a_camera_may_change_the_size_of_its_pictures() {
        let lens = Lens { camera: [60.0, 58.0, 30.5, 25.0], distortion: vec![0.0; 4] };
        let mut straightener = Straightener::new(lens);
        for (width, height) in [(64, 48), (48, 64), (7, 1), (64, 48)] {
            let picture = RgbImage::from_fn(width, height, pattern);
            assert_eq!(
                straightener.straighten(&picture).unwrap(),
                picture,
                "without distortion it stays as it is"
            );
        }
    }
}
