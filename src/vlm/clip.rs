//! What a job shows: pictures for themselves, or a clip, several pictures of one scene with their times.
//!
//! ```text
//! clip:  p0 p1 p2 p3 p4 --pairs, the last one repeated--> (p0 p1) (p2 p3) (p4 p4)
//!        pair --> `<%.1f seconds>` <|vision_start|> one picture's rows <|vision_end|>
//! ```
//!
//! A pair is to the model what a picture is: one grid, one set of rows; its seconds are the mean of its
//! two times. Source: `Qwen3VLProcessor` and `Qwen3VLVideoProcessor` of Hugging Face transformers.

use super::error::VlmError;
use super::image::{Patches, preprocess};
use super::turn::Turn;
use image::RgbImage;
use std::sync::Arc;
use std::time::Duration;

/// Pictures in one row of patches of a clip: Qwen's `temporal_patch_size`.
const PAIR: usize = 2;

/// What the questions of a job are about.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Pictures for themselves, in order; none is a question of text alone.
    Images(Vec<Arc<RgbImage>>),
    /// One scene over time, oldest picture first; all pictures have one size, and there is at least one.
    Clip(Vec<ClipFrame>),
    /// A conversation, which the user's turn ends.
    Turns(Vec<Turn>),
}

/// One picture of a clip.
#[derive(Clone, Debug)]
pub struct ClipFrame {
    /// 8-bit RGB.
    pub image: Arc<RgbImage>,
    /// When it was exposed, from the exposure of the clip's first picture.
    pub at: Duration,
}

impl Shown {
    /// All pictures, in order.
    pub fn images(&self) -> Vec<&Arc<RgbImage>> {
        match self {
            Self::Images(images) => images.iter().collect(),
            Self::Clip(frames) => frames.iter().map(|f| &f.image).collect(),
            Self::Turns(turns) => turns.iter().flat_map(Turn::images).collect(),
        }
    }

    /// Resizes and cuts everything: one entry a picture, or one a pair of a clip's pictures.
    ///
    /// # Errors
    /// `Image` when a picture cannot be resized, and when a clip has no picture or its pictures differ
    /// in size.
    pub(super) fn preprocess(
        &self,
        patch: usize,
        merge: usize,
        min_pixels: u32,
        max_pixels: u32,
    ) -> Result<Vec<Patches>, VlmError> {
        if let Self::Clip(frames) = self {
            of_one_size(frames)?;
        }
        let images = self.images();
        let patches: Result<Vec<_>, _> =
            images.iter().map(|i| preprocess(i, patch, merge, min_pixels, max_pixels)).collect();
        Ok(match self {
            Self::Images(_) | Self::Turns(_) => patches?,
            Self::Clip(_) => pairs(&patches?),
        })
    }
}

/// The patches of a clip's pairs, from those of its pictures, which have one grid.
pub fn pairs(pictures: &[Patches]) -> Vec<Patches> {
    pictures.chunks(PAIR).map(|pair| pair[0].paired_with(pair.last().unwrap_or(&pair[0]))).collect()
}

/// The seconds of a clip's pairs: the mean of the times of its two pictures.
pub fn pair_seconds(times: &[Duration]) -> Vec<f64> {
    let mean = |pair: &[Duration]| {
        let seconds = |at: Option<&Duration>| at.map_or(0.0, Duration::as_secs_f64);
        f64::midpoint(seconds(pair.first()), seconds(pair.last()))
    };
    times.chunks(PAIR).map(mean).collect()
}

fn of_one_size(frames: &[ClipFrame]) -> Result<(), VlmError> {
    let Some(first) = frames.first() else {
        return Err(VlmError::Image { width: 0, height: 0, why: "a clip needs at least one picture".into() });
    };
    let (w, h) = first.image.dimensions();
    match frames.iter().map(|f| f.image.dimensions()).find(|size| *size != (w, h)) {
        Some((width, height)) => {
            let why = format!("the pictures of a clip have one size, and its first one has {w}x{h} px");
            Err(VlmError::Image { width, height, why })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(sizes: &[(u32, u32)]) -> Shown {
        let frame = |(i, (w, h)): (usize, &(u32, u32))| ClipFrame {
            image: Arc::new(RgbImage::from_pixel(*w, *h, image::Rgb([10 * i as u8; 3]))),
            at: Duration::from_millis(100 * i as u64),
        };
        Shown::Clip(sizes.iter().enumerate().map(frame).collect())
    }

    #[test]
    fn an_odd_clip_repeats_its_last_picture() {
        let patches = clip(&[(64, 64); 3]).preprocess(16, 2, 4096, 65536).unwrap();
        assert_eq!(patches.len(), 2);
        let row = |p: &Patches| p.values[..1536].to_vec();
        assert!(patches.iter().all(|p| p.frames == 2 && p.values.len() == 16 * 1536));
        let level = |v: u8| f32::from(v) / 127.5 - 1.0;
        assert_eq!(row(&patches[0]), [[level(0); 768], [level(10); 768]].concat());
        assert_eq!(row(&patches[1]), [level(20); 1536]);
    }

    #[test]
    fn a_pair_has_the_mean_of_its_times() {
        let times = [0, 250, 500, 750, 1000].map(Duration::from_millis);
        assert_eq!(pair_seconds(&times), [0.125, 0.625, 1.0]);
        assert!(pair_seconds(&[]).is_empty());
    }

    #[test]
    fn pictures_of_several_sizes_are_no_clip() {
        let error = clip(&[(64, 64), (64, 32)]).preprocess(16, 2, 4096, 65536).unwrap_err();
        assert!(error.to_string().starts_with("image of 64x32 px: the pictures of a clip"), "{error}");
        assert!(matches!(clip(&[]).preprocess(16, 2, 1, 65536), Err(VlmError::Image { .. })));
    }
}
