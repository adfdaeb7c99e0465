//! Samples of 16 bits, of which a camera's sensor fills 10, 12 or 14.
//!
//! A file does not say how many: 12-bit values in 16 bits look nearly black, and what is nearly black has no
//! defects. So the number is stated (`[frame] depth_bits` of the pipeline), or the values have to reach the upper
//! half of their range by themselves.

use crate::domain::frame::DEPTH_BITS;
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use std::sync::Arc;

/// A picture of 16 bits without a statement has a value at least so large.
const UPPER_HALF: u16 = 0x8000;

/// How many bits of a 16-bit sample carry the picture; `None`: nobody said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth(pub Option<u32>);

/// Asked before every file, because a command may change the pipeline, which states it, at any moment.
pub type DepthRule = Arc<dyn Fn() -> Depth + Send + Sync>;

impl Depth {
    /// The picture as 8-bit RGB.
    ///
    /// # Errors
    /// Its samples do not fit the statement, or cannot be understood without one, in words that follow the
    /// file's name.
    pub fn rgb8(self, picture: DynamicImage) -> Result<RgbImage, String> {
        match picture {
            DynamicImage::ImageLuma16(p) => self.scale(p.as_raw()).map(|samples| grey(&p, samples)),
            DynamicImage::ImageLumaA16(p) => {
                let p: ImageBuffer<Luma<u16>, _> = opaque(&p, |LumaA([v, _])| Luma([*v]));
                self.scale(p.as_raw()).map(|samples| grey(&p, samples))
            }
            DynamicImage::ImageRgb16(p) => self.scale(p.as_raw()).map(|samples| colour(&p, samples)),
            DynamicImage::ImageRgba16(p) => {
                let p: ImageBuffer<Rgb<u16>, _> = opaque(&p, |Rgba([r, g, b, _])| Rgb([*r, *g, *b]));
                self.scale(p.as_raw()).map(|samples| colour(&p, samples))
            }
            DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => {
                Err("its samples are floating-point numbers, whose range nobody states: save it with whole \
                     numbers of 8 or 16 bits"
                    .into())
            }
            picture => Ok(picture.into_rgb8()),
        }
    }

    /// Each sample as a byte.
    fn scale(self, samples: &[u16]) -> Result<Vec<u8>, String> {
        let largest = samples.iter().copied().max().unwrap_or(0);
        let bits = match self.0 {
            Some(bits) => bits,
            None if largest >= UPPER_HALF => 16,
            None => {
                let bits = (16 - largest.leading_zeros()).max(*DEPTH_BITS.start());
                return Err(format!(
                    "its 16-bit values reach {largest} only, and nobody states how many bits the camera fills: set \
                     [frame] depth_bits in the pipeline ({bits} or more would fit; 16 takes the values as they are)"
                ));
            }
        };
        let range = (1u32 << bits.min(16)) - 1;
        if u32::from(largest) > range {
            return Err(format!(
                "it has the value {largest}, and [frame] depth_bits = {bits} allows {range} at most"
            ));
        }
        Ok(samples.iter().map(|v| ((u32::from(*v) * 255 + range / 2) / range) as u8).collect())
    }
}

fn opaque<A, B>(picture: &ImageBuffer<A, Vec<u16>>, of: impl Fn(&A) -> B) -> ImageBuffer<B, Vec<u16>>
where
    A: image::Pixel<Subpixel = u16>,
    B: image::Pixel<Subpixel = u16>,
{
    ImageBuffer::from_fn(picture.width(), picture.height(), |x, y| of(picture.get_pixel(x, y)))
}

fn grey(picture: &ImageBuffer<Luma<u16>, Vec<u16>>, samples: Vec<u8>) -> RgbImage {
    let rgb = samples.into_iter().flat_map(|v| [v; 3]).collect();
    RgbImage::from_raw(picture.width(), picture.height(), rgb).unwrap_or_default()
}

fn colour(picture: &ImageBuffer<Rgb<u16>, Vec<u16>>, samples: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(picture.width(), picture.height(), samples).unwrap_or_default()
}
