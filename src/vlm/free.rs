//! What the files of a pair state about free answers: how they are sampled, and how large pictures are shown.
//!
//! They are the defaults of questions that say nothing themselves. Answers of the line take none of it: they are bound to
//! forms, chosen greedily, and their pictures have the sizes of the recipe.

use super::error::VlmError;
use super::gguf::{Gguf, Value};
use super::load::LABELS_KEY;
use super::sample::Sampling;

/// Qwen's own budgets of a picture (`preprocessor_config.json` of Qwen3-VL): 64 and 16,384 rows of 32x32 pixels. Smaller
/// ones are enlarged.
pub const QWEN_MIN_PIXELS: u32 = 65_536;
const QWEN_MAX_PIXELS: u32 = 16_777_216;
/// A model that states its labels was trained on tiles of recipes, the smallest of which have 64x64 pixels and are not
/// enlarged: what it has never seen it should not be shown.
pub const TILE_MIN_PIXELS: u32 = 4096;
/// `llama.cpp`'s keys for these budgets, which few converters write.
const PIXELS_KEYS: [&str; 2] = ["clip.vision.image_min_pixels", "clip.vision.image_max_pixels"];
/// Largest temperature, and largest repeat penalty, that a file may state.
const FACTOR_MAX: f64 = 10.0;
/// Ways to sample that are not built; a file that asks for one is answered without it.
const NOT_BUILT: [&str; 3] = ["min_p", "xtc_probability", "mirostat"];

/// Defaults of free answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Free {
    /// How each token is chosen; greedily where the text file states no temperature.
    pub sampling: Sampling,
    /// Fewest pixels of a picture after its resize.
    pub min_pixels: u32,
    /// Most pixels of a picture after its resize.
    pub max_pixels: u32,
}

impl Free {
    /// Reads what a pair states.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn stated(text: &Gguf, mmproj: &Gguf) -> Result<Self, VlmError> {
        let is_of_tiles = text.metadata.contains_key(LABELS_KEY);
        let defaults = [if is_of_tiles { TILE_MIN_PIXELS } else { QWEN_MIN_PIXELS }, QWEN_MAX_PIXELS];
        let pixels = |i: usize| {
            let is_stated = mmproj.metadata.contains_key(PIXELS_KEYS[i]);
            let stated = || mmproj.size(PIXELS_KEYS[i], u32::MAX as usize).map(|n| n as u32);
            if is_stated { stated() } else { Ok(defaults[i]) }
        };
        let (min_pixels, max_pixels) = (pixels(0)?, pixels(1)?);
        if min_pixels > max_pixels {
            let why = format!("{min_pixels} is more than {} says, {max_pixels}", PIXELS_KEYS[1]);
            return Err(mmproj.error(format!("key {}", PIXELS_KEYS[0]), why));
        }
        Ok(Self { sampling: sampling(text)?, min_pixels, max_pixels })
    }
}

fn key(name: &str) -> String {
    format!("general.sampling.{name}")
}

/// `general.sampling.*`, as llama.cpp reads them: what is 0 or less switches a way off.
fn sampling(g: &Gguf) -> Result<Sampling, VlmError> {
    let number = |name: &str, max: f64| -> Result<Option<f64>, VlmError> {
        let key = key(name);
        if !g.metadata.contains_key(&key) {
            return Ok(None);
        }
        let x = g.float(&key)?;
        if x > max {
            return Err(g.error(format!("key {key}"), format!("at most {max} expected, found {x}")));
        }
        Ok((x > 0.0).then_some(x))
    };
    let count_max = f64::from(u32::MAX);
    Ok(Sampling {
        temperature: number("temp", FACTOR_MAX)?.unwrap_or(0.0),
        top_p: number("top_p", 1.0)?.filter(|p| *p < 1.0),
        top_k: number("top_k", count_max)?.map(|k| k as usize),
        repeat_penalty: number("penalty_repeat", FACTOR_MAX)?.unwrap_or(1.0) as f32,
        ..Sampling::default()
    })
}

/// Ways of sampling that a text file asks for and that are not built, in words.
pub(super) fn not_built(g: &Gguf) -> Vec<String> {
    let asks = |name: &str| match g.metadata.get(&key(name)) {
        Some(Value::Float(x)) => *x > 0.0,
        Some(Value::Uint(n)) => *n > 0,
        Some(Value::Int(n)) => *n > 0,
        _ => false,
    };
    let note = |name: &str| format!("{}: {} is not built, and left out", g.path().display(), key(name));
    NOT_BUILT.into_iter().filter(|name| asks(name)).map(note).collect()
}
