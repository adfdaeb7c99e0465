//! A first recipe of a new product, from pictures of good parts.
//!
//! ```text
//! picture --add: size, region, does it show anything?--> Parts --recipe--> text: region, tiles, limits of proper
//!                                                         pictures, and a check whose bank is still to be learned
//! ```
//!
//! The command and the page make their recipes here. Such a recipe compares with good parts alone, so that it works on
//! any product from the first hour. Questions to the model and rules for grades are added afterwards.

use super::LearnError;
use super::references::GOOD_MIN;
use crate::domain::grid::Grid;
use crate::domain::learn::LearnKind;
use crate::domain::pipeline::{FrameRule, HealthLimits, PixelBudget, Repeats, Tiling};
use crate::domain::rect::Rect;
use crate::domain::reference::FeatureSource;
use crate::health::{Measure, measure};
use crate::inspect::fit::{SIDE_MIN_PX, first_missed};
use crate::recipe::learned::prompt_id;
use image::RgbImage;

/// Pixels of a tile as the model and the backbone see it.
const SEEN_PIXELS: u32 = 65_536;
/// A region whose longer side is no more than this is one tile: it is seen at half of its size or better.
const ONE_TILE_PX: u32 = 640;
/// Sides of a tile, the finest first; the first with no more than `TILES_MAX` tiles is taken.
const TILE_PX: [u32; 4] = [512, 768, 1024, 1536];
const TILES_MAX: usize = 64;
/// Measures of a proper picture may be this much beyond those of the good parts.
const ROOM: f64 = 0.5;
const NAME_CHARS_MAX: usize = 64;
/// Sizes of a pixel on the part, in millimetres, as a recipe may state them.
pub(crate) const MM_PER_PX: std::ops::RangeInclusive<f64> = 1e-6..=1e3;

/// Limits that no recipe from here goes beyond: black, white, grey or noise is no picture of a part.
const WIDEST: HealthLimits = HealthLimits {
    brightness_min: 1.0,
    brightness_max: 254.0,
    overexposed_max: 1.0,
    contrast_min: 1.0,
    sharpness_min: 0.1,
    sharpness_max: 1e6,
    structure_min: 0.02,
};

/// What is known of a new product beside its pictures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    pub name: String,
    /// Size of a frame pixel on the part, in millimetres.
    pub mm_per_px: f64,
    pub features: FeatureSource,
    /// A fixture holds the part, and it may be this far off, in millimetres; `None`: it may lie anywhere.
    pub fixed_mm: Option<f64>,
    /// As the camera's recipe has it.
    pub depth_bits: Option<u32>,
    /// As the camera's recipe has it.
    pub repeats: Repeats,
}

/// Why a picture or a region is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is {}x{}, and those before it are {}x{}", .size.0, .size.1, .before.0, .before.1)]
    Size { size: (u32, u32), before: (u32, u32) },
    #[error("the region {why}")]
    Roi { why: String },
    #[error("it shows nothing: {why}")]
    Nothing { why: String },
}

/// Whether a recipe may have this name.
///
/// # Errors
/// What is expected, in words.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
        return Err(format!("letters, digits, _ and - expected, at most {NAME_CHARS_MAX}"));
    }
    Ok(())
}

/// What is inspected of pictures of this size: the region that is wanted or, without one, all of them.
///
/// # Errors
/// `Roi`: it cannot be.
pub(crate) fn region(wanted: Option<Rect>, (width, height): (u32, u32)) -> Result<Rect, Unfit> {
    let unfit = |why: String| Err(Unfit::Roi { why });
    let whole = Rect::new(0, 0, width, height);
    let region = wanted.unwrap_or(whole);
    if region.x0 >= region.x1 || region.y0 >= region.y1 || !whole.contains(&region) {
        return unfit(format!("lies outside of the pictures, which are {width}x{height}"));
    }
    if region.width() < SIDE_MIN_PX || region.height() < SIDE_MIN_PX {
        return unfit(format!(
            "is {}x{}, and it must be at least {SIDE_MIN_PX} px a side",
            region.width(),
            region.height()
        ));
    }
    tiling(region, (width, height)).map(|_| region)
}

/// The finest tiles of which there are not too many.
fn tiling(roi: Rect, size: (u32, u32)) -> Result<Tiling, Unfit> {
    let longer = roi.width().max(roi.height());
    let of = |tile_px: u32, overlap_px: u32| Tiling {
        tile_px,
        overlap_px,
        max_tiles: TILES_MAX,
        budget: PixelBudget { min_pixels: SEEN_PIXELS, max_pixels: SEEN_PIXELS },
    };
    if longer <= ONE_TILE_PX {
        return Ok(of(longer, 0));
    }
    let tilings = TILE_PX.map(|tile_px| of(tile_px, tile_px / 8));
    let found = tilings.into_iter().find(|tiling| tiles(roi, size, tiling).is_some());
    found.ok_or_else(|| Unfit::Roi { why: format!("needs more than {TILES_MAX} tiles: inspect less of it") })
}

fn tiles(roi: Rect, (width, height): (u32, u32), tiling: &Tiling) -> Option<usize> {
    let rule = FrameRule { roi: Some(roi), ..FrameRule::default() };
    Some(Grid::new(width, height, &rule, tiling).ok()?.tiles.len())
}

/// Pictures of good parts, all of one size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// The region that is wanted; `None`: the whole picture.
    wanted: Option<Rect>,
    size: Option<(u32, u32)>,
    measures: Vec<Measure>,
}

impl Parts {
    pub(crate) const fn new(wanted: Option<Rect>) -> Self {
        Self { wanted, size: None, measures: vec![] }
    }

    /// Takes the measures of one more picture.
    ///
    /// # Errors
    /// Why it is not used; nothing has changed then.
    pub(crate) fn add(&mut self, pixels: &RgbImage) -> Result<(), Unfit> {
        let size = pixels.dimensions();
        if let Some(before) = self.size.filter(|before| *before != size) {
            return Err(Unfit::Size { size, before });
        }
        let Rect { x0, y0, x1, y1 } = region(self.wanted, size)?;
        let nothing = |why: String| Unfit::Nothing { why };
        let measured = measure(pixels, [x0, y0, x1, y1], &[]);
        let measured = measured.ok_or_else(|| nothing("there is nothing to measure".to_owned()))?;
        if let Some(why) = first_missed(&measured, &WIDEST) {
            return Err(nothing(why));
        }
        self.size = Some(size);
        self.measures.push(measured);
        Ok(())
    }

    /// How many pictures there are.
    pub(crate) const fn count(&self) -> usize {
        self.measures.len()
    }

    /// Their size in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        self.size.unwrap_or_default()
    }

    /// Tiles of a picture.
    pub(crate) fn tiles(&self) -> usize {
        let of = |roi| tiles(roi, self.size(), &tiling(roi, self.size()).ok()?);
        region(self.wanted, self.size()).ok().and_then(of).unwrap_or(0)
    }

    /// The text of the recipe. Its bank, `NAME.bank`, is still to be learned.
    ///
    /// # Errors
    /// `TooLittle`; `Recipe`: the region cannot be.
    pub(crate) fn recipe(&self, product: &Product) -> Result<String, LearnError> {
        let count = self.count();
        if count < GOOD_MIN {
            let why = format!("{count} good parts, at least {GOOD_MIN} are needed");
            return Err(LearnError::TooLittle { why });
        }
        let unfit = |unfit: Unfit| LearnError::Recipe { why: unfit.to_string() };
        let roi = region(self.wanted, self.size()).map_err(unfit)?;
        let tiling = tiling(roi, self.size()).map_err(unfit)?;
        let Product { name, mm_per_px, features, fixed_mm, .. } = product;
        let (Rect { x0, y0, x1, y1 }, (width, height)) = (roi, self.size());
        let place = match fixed_mm {
            Some(mm) => {
                format!("place = \"fixed\"\ntolerance_mm = {mm:?}            # how far a part may be off\n")
            }
            None => "place = \"free\"                        # \"fixed\" where a fixture holds the part\n"
                .to_owned(),
        };
        Ok(format!(
            "# Made from {count} good parts. pipelines/machined-plate.toml explains every key.\n\
             schema = 1\nname = {name:?}\nmm_per_px = {mm_per_px:?}\n\n\
             [frame]\nsize = [{width}, {height}]\nroi = [{x0}, {y0}, {x1}, {y1}]\n{camera}{health}\n\
             [tiling]\ntile_px = {tile}\noverlap_px = {overlap}\nmax_tiles = {TILES_MAX}\n\
             min_pixels = {SEEN_PIXELS}\nmax_pixels = {SEEN_PIXELS}\n\n\
             # What is unlike the good parts is a finding.\n\
             [[prompt]]\nid = \"{prompt}\"\nkind = \"reference\"\nfeatures = \"{features}\"\n{place}bank = \"{name}.bank\"\n\n\
             [verdict]\nfail_at = \"rework\"\nreview_below_confidence = 0.6\ndeadline_ms = 20000\n",
            camera = of_camera(product),
            health = self.health(),
            tile = tiling.tile_px,
            overlap = tiling.overlap_px,
            prompt = prompt_id(LearnKind::Bank),
            features = features.as_str(),
        ))
    }

    /// The key `health`: the measures of the good parts with room on both sides, within `WIDEST`.
    fn health(&self) -> String {
        let of = |value: fn(&Measure) -> f64| self.measures.iter().map(value).collect::<Vec<f64>>();
        let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min) * (1.0 - ROOM);
        let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max) * (1.0 + ROOM);
        let (brightness, over) = (of(|m| m.brightness), of(|m| m.overexposed));
        let (contrast, sharpness, structure) = (of(|m| m.contrast), of(|m| m.sharpness), of(|m| m.structure));
        format!(
            "# A picture beyond these limits is no proper one: those of the good parts, and half of them more.\n\
             health = {{ brightness_min = {:.1}, brightness_max = {:.1}, overexposed_max = {:.3}, contrast_min = {:.1}, \
             sharpness_min = {:.2}, sharpness_max = {:.0}, structure_min = {:.3} }}\n",
            least(&brightness).max(WIDEST.brightness_min),
            most(&brightness).min(WIDEST.brightness_max),
            (most(&over) + 0.05).min(WIDEST.overexposed_max),
            least(&contrast).max(WIDEST.contrast_min),
            least(&sharpness).max(WIDEST.sharpness_min),
            most(&sharpness).clamp(1.0, WIDEST.sharpness_max),
            least(&structure).clamp(WIDEST.structure_min, 1.0),
        )
    }
}

/// The keys of `[frame]` that are about the camera and not about the product.
fn of_camera(product: &Product) -> String {
    let depth = product.depth_bits.map(|bits| format!("depth_bits = {bits}\n"));
    let repeats = (product.repeats == Repeats::Allow).then(|| "repeats = \"allow\"\n".to_owned());
    [depth, repeats].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pipeline::{FrameSize, PromptKind};
    use crate::recipe::learned::pipeline_to_learn;
    use crate::simulator;
    use image::Rgb;

    fn product() -> Product {
        Product {
            name: "nut".into(),
            mm_per_px: 0.15,
            features: FeatureSource::Tower,
            fixed_mm: None,
            depth_bits: None,
            repeats: Repeats::Review,
        }
    }

    fn picture(n: u64) -> RgbImage {
        let (rgb, _) = simulator::part(&simulator::Product::ALL[0], 1, n, 320, 240);
        RgbImage::from_raw(320, 240, rgb).unwrap()
    }

    fn parts(roi: Option<Rect>) -> Parts {
        let mut parts = Parts::new(roi);
        (0..GOOD_MIN as u64).for_each(|n| parts.add(&picture(n)).unwrap());
        parts
    }

    #[test]
    fn the_text_reads_as_a_recipe_that_takes_the_pictures_it_was_made_of() {
        let parts = parts(Some(Rect::new(10, 20, 300, 220)));
        let fixed =
            Product { fixed_mm: Some(1.5), depth_bits: Some(12), repeats: Repeats::Allow, ..product() };
        for product in [product(), fixed] {
            let text = parts.recipe(&product).unwrap();
            let pipeline =
                pipeline_to_learn("nut.toml", &text, &crate::recipe::beside::Files::new()).unwrap();
            assert_eq!((pipeline.name.as_str(), pipeline.mm_per_px), ("nut", 0.15));
            assert_eq!(pipeline.frame.roi, Some(Rect::new(10, 20, 300, 220)));
            assert_eq!(pipeline.frame.size, FrameSize::Stated { width: 320, height: 240 });
            assert_eq!(
                (pipeline.frame.depth_bits, pipeline.frame.repeats),
                (product.depth_bits, product.repeats)
            );
            let PromptKind::Reference(rule) = &pipeline.prompts[0].kind else { panic!("{text}") };
            assert_eq!((rule.features, rule.file.as_str()), (FeatureSource::Tower, "nut.bank"));
            let crate::domain::pipeline::Health::On(limits) = pipeline.frame.health else { panic!("{text}") };
            for n in 0..GOOD_MIN as u64 {
                let measured = measure(&picture(n), [10, 20, 300, 220], &[]).unwrap();
                assert_eq!(first_missed(&measured, &limits), None, "{text}");
            }
        }
    }

    #[test]
    fn a_picture_that_shows_nothing_or_has_another_size_is_not_used() {
        let mut parts = parts(None);
        for grey in [0, 255, 128] {
            let refused = parts.add(&RgbImage::from_pixel(320, 240, Rgb([grey; 3])));
            assert!(matches!(refused, Err(Unfit::Nothing { .. })), "{grey}: {refused:?}");
        }
        let (size, before) = ((64, 64), (320, 240));
        assert_eq!(parts.add(&RgbImage::new(64, 64)), Err(Unfit::Size { size, before }));
        assert_eq!(parts.count(), GOOD_MIN);
        let few = Parts::new(None).recipe(&product()).unwrap_err().to_string();
        assert!(few.contains("0 good parts, at least 5"), "{few}");
    }

    #[test]
    fn a_name_is_no_path_and_not_too_long() {
        for good in ["nut", "M8-nut_2", "x"] {
            assert_eq!(check_name(good), Ok(()));
        }
        let long = "x".repeat(65);
        for bad in ["", ".", "..", "../nut", "a/b", "nut.toml", "mutter ü", "a b", "\0", &long] {
            assert!(check_name(bad).unwrap_err().contains("at most 64"), "{bad:?}");
        }
    }

    #[test]
    fn a_region_is_refused_where_it_leaves_the_picture_or_needs_too_many_tiles() {
        let why = |roi: (u32, u32, u32, u32), size| {
            region(Some(Rect::new(roi.0, roi.1, roi.2, roi.3)), size).unwrap_err().to_string()
        };
        for outside in [(0, 0, 321, 10), (300, 0, 200, 100), (5, 5, 5, 100)] {
            assert!(why(outside, (320, 240)).contains("outside of the pictures, which are 320x240"));
        }
        assert!(why((0, 0, 31, 100), (320, 240)).contains("at least 32 px a side"));
        assert!(region(None, (16_384, 16_384)).unwrap_err().to_string().contains("more than 64 tiles"));
        assert_eq!(region(None, (320, 240)), Ok(Rect::new(0, 0, 320, 240)));
        assert_eq!(parts(None).tiles(), 1);
    }
}
