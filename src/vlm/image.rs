//! Pictures as Qwen3-VL sees them: resized within a pixel budget, cut into patches in merge order.
//!
//! ```text
//! RGB picture -> smart_resize -> bicubic with antialias -> x / 127.5 - 1 -> patches
//! ```
//!
//! Source of the sizes and the order: `Qwen2VLImageProcessor` of Hugging Face transformers.

use super::error::VlmError;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use std::borrow::Cow;

/// Pixels of a side that one row of the text model stands for in every Qwen3-VL: patches of 16, two by two.
pub const ROW_PX: u32 = 32;
/// Longest accepted ratio of the sides.
const RATIO_MAX: f64 = 200.0;

/// Size of a picture after its resize, and its patch grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PatchGrid {
    /// Rows and columns of patches; both are multiples of the merge size.
    pub rows: usize,
    /// A multiple of the merge size.
    pub cols: usize,
}

impl PatchGrid {
    /// Number of patches.
    pub const fn patches(self) -> usize {
        self.rows * self.cols
    }
}

/// One picture, or a pair of a clip's pictures, ready for the vision tower.
#[derive(Clone, Debug)]
pub struct Patches {
    /// Rows and columns of patches.
    pub grid: PatchGrid,
    /// Pictures in each patch: 1 for a still, 2 for a pair.
    pub frames: usize,
    /// `[patches, frames, 3 * patch * patch]`, patches in merge order, channels first, values -1..=1.
    pub values: Vec<f32>,
}

impl Patches {
    /// True when both can stand in one batch.
    pub fn is_like(&self, other: &Self) -> bool {
        self.grid == other.grid && self.frames == other.frames
    }

    /// This picture and the one behind it, of the same grid, as a pair.
    #[must_use]
    pub fn paired_with(&self, second: &Self) -> Self {
        let width = self.values.len() / self.grid.patches().max(1);
        let rows = self.values.chunks(width.max(1)).zip(second.values.chunks(width.max(1)));
        Self {
            grid: self.grid,
            frames: 2,
            values: rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect(),
        }
    }
}

impl Patches {
    /// The picture that was cut: `[height, width, 3]`, RGB, 0..=255. Of a pair the first one.
    pub fn pixels(&self, patch: usize, merge: usize) -> Vec<f32> {
        let (width, plane) = (self.grid.cols * patch, patch * patch);
        let mut out = vec![0.0; self.grid.patches() * plane * 3];
        let cut = self.values.chunks_exact(self.frames * 3 * plane);
        for ((row, col), values) in merge_order(self.grid, merge).zip(cut) {
            for y in 0..patch {
                let at = ((row * patch + y) * width + col * patch) * 3;
                for (x, pixel) in out[at..at + patch * 3].chunks_exact_mut(3).enumerate() {
                    for (c, out) in pixel.iter_mut().enumerate() {
                        *out = (values[c * plane + y * patch + x] + 1.0) * 127.5;
                    }
                }
            }
        }
        out
    }
}

/// Width and height after the resize: multiples of `factor` within the budget of pixels.
///
/// # Errors
/// [`VlmError::Image`] when a side is 0 or the ratio of the sides exceeds 200.
pub fn smart_resize(
    width: u32,
    height: u32,
    factor: u32,
    min_pixels: u32,
    max_pixels: u32,
) -> Result<(u32, u32), VlmError> {
    let bad = |why: String| VlmError::Image { width, height, why };
    if width == 0 || height == 0 {
        return Err(bad("has no pixels".into()));
    }
    let (w, h, f) = (f64::from(width), f64::from(height), f64::from(factor));
    if w.max(h) / w.min(h) > RATIO_MAX {
        return Err(bad(format!("its sides differ by more than {RATIO_MAX} times")));
    }
    let (min, max) = (f64::from(min_pixels), f64::from(max_pixels));
    let round = |x: f64| ((x / f).round_ties_even() * f).max(f);
    let (mut new_w, mut new_h) = (round(w), round(h));
    if new_w * new_h > max {
        let beta = (w * h / max).sqrt();
        new_w = ((w / beta / f).floor() * f).max(f);
        new_h = ((h / beta / f).floor() * f).max(f);
    } else if new_w * new_h < min {
        let beta = (min / (w * h)).sqrt();
        new_w = (w * beta / f).ceil() * f;
        new_h = (h * beta / f).ceil() * f;
    }
    Ok((new_w as u32, new_h as u32))
}

/// Resizes a picture and cuts it into patches.
///
/// # Errors
/// [`VlmError::Image`] when the picture cannot be resized.
pub fn preprocess(
    image: &RgbImage,
    patch: usize,
    merge: usize,
    min_pixels: u32,
    max_pixels: u32,
) -> Result<Patches, VlmError> {
    let (width, height) = image.dimensions();
    let (w, h) = smart_resize(width, height, (patch * merge) as u32, min_pixels, max_pixels)?;
    let grid = PatchGrid { rows: h as usize / patch, cols: w as usize / patch };
    let values = if (w, h) == (width, height) {
        patchify(image.as_raw(), grid, patch, merge)
    } else {
        patchify(&resize(image, w, h)?, grid, patch, merge)
    };
    Ok(Patches { grid, frames: 1, values })
}

/// The picture as the model sees it: within the budget of pixels, both sides multiples of `factor`. Shown again with a
/// budget that holds its size it stays what it is.
///
/// # Errors
/// [`VlmError::Image`] when the picture cannot be resized.
pub fn resized(
    image: &RgbImage,
    factor: u32,
    min_pixels: u32,
    max_pixels: u32,
) -> Result<Cow<'_, RgbImage>, VlmError> {
    let (width, height) = image.dimensions();
    let (w, h) = smart_resize(width, height, factor, min_pixels, max_pixels)?;
    if (w, h) == (width, height) {
        return Ok(Cow::Borrowed(image));
    }
    let bad = || VlmError::Image { width, height, why: format!("it cannot be resized to {w}x{h} px") };
    RgbImage::from_raw(w, h, resize(image, w, h)?).map(Cow::Owned).ok_or_else(bad)
}

/// Bicubic (a = -0.5) with antialias, in 8 bits, as PIL and torchvision do it. OpenCV's
/// `INTER_CUBIC` is another filter (a = -0.75, no antialias). Columns go first and their overshoot is
/// clipped to 8 bits before the rows, as in PIL; the crate alone would choose the faster order,
/// which differs by up to 16 levels beside sharp lines.
fn resize(image: &RgbImage, w: u32, h: u32) -> Result<Vec<u8>, VlmError> {
    let (width, height) = image.dimensions();
    let narrow = convolve(image.as_raw(), (width, height), (w, height));
    narrow.and_then(|narrow| convolve(&narrow, (w, height), (w, h))).map_err(|why| VlmError::Image {
        width,
        height,
        why,
    })
}

/// Resizes `[height, width, 3]` bytes. The pixels are of one type: by its general entry the crate compiles its loops for
/// thirteen, three megabytes of code.
fn convolve(source: &[u8], from: (u32, u32), to: (u32, u32)) -> Result<Vec<u8>, String> {
    let mut target = vec![0; to.0 as usize * to.1 as usize * 3];
    let source = TypedImageRef::<U8x3>::from_buffer(from.0, from.1, source).map_err(|e| e.to_string())?;
    let mut view = TypedImage::from_buffer(to.0, to.1, &mut target).map_err(|e| e.to_string())?;
    let cubic = ResizeAlg::Convolution(FilterType::CatmullRom);
    let options = ResizeOptions::new().resize_alg(cubic).use_alpha(false);
    Resizer::new().resize_typed(&source, &mut view, &options).map_err(|e| e.to_string())?;
    Ok(target)
}

/// Patches in merge order: blocks of `merge` x `merge` row by row, inside a block row by row.
fn patchify(rgb: &[u8], grid: PatchGrid, patch: usize, merge: usize) -> Vec<f32> {
    let stride = grid.cols * patch * 3;
    let mut out = Vec::with_capacity(grid.patches() * 3 * patch * patch);
    for (row, col) in merge_order(grid, merge) {
        let corner = row * patch * stride + col * patch * 3;
        for channel in 0..3 {
            for y in 0..patch {
                let line = &rgb[corner + y * stride..][..patch * 3];
                out.extend(line.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0));
            }
        }
    }
    out
}

/// (row, column) of every patch, in the order in which the model takes them.
pub fn merge_order(grid: PatchGrid, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = grid.cols / merge;
    (0..grid.patches()).map(move |i| {
        let (block, inside) = (i / (merge * merge), i % (merge * merge));
        (block / blocks * merge + inside / merge, block % blocks * merge + inside % merge)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_budget() {
        let size = |w, h| smart_resize(w, h, 32, 4096, 65536).unwrap();
        assert_eq!(size(512, 512), (256, 256));
        assert_eq!(size(256, 256), (256, 256));
        assert_eq!(size(10, 10), (64, 64));
        assert_eq!(size(48, 48), (64, 64), "1.5 blocks round to the even 2");
        assert_eq!(size(80, 112), (64, 128), "2.5 rounds to 2, 3.5 to 4");
        assert!(smart_resize(2000, 9, 32, 4096, 65536).is_err());
        assert!(smart_resize(0, 9, 32, 4096, 65536).is_err());
    }

    /// Who resizes before the engine does shows the same.
    #[test]
    fn a_picture_that_was_resized_is_left_as_it_is() {
        let picture = RgbImage::from_fn(150, 90, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        let (min, max) = (4096, 8192);
        let once = resized(&picture, 32, min, max).unwrap();
        assert_eq!(once.dimensions(), (96, 64));
        let cut = |image: &RgbImage, min, max| preprocess(image, 16, 2, min, max).unwrap().values;
        assert_eq!(cut(&once, 1024, u32::MAX), cut(&picture, min, max));
        assert_eq!(resized(&once, 32, min, max).unwrap(), once);
    }

    #[test]
    fn blocks_come_row_by_row() {
        let order: Vec<_> = merge_order(PatchGrid { rows: 4, cols: 4 }, 2).collect();
        assert_eq!(order[..6], [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3)]);
        assert_eq!(order[8], (2, 0));
    }
}
