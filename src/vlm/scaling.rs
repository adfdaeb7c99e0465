//! How positions are scaled, so that a model reads further than it was trained for.
//!
//! ```text
//! qwen3vl.rope.scaling.* of the text file, or the user's own factor --> Scaling --> frequencies (rope)
//! ```
//!
//! Sources: YaRN, arXiv 2309.00071; `_compute_yarn_parameters` of Hugging Face transformers and `ggml_rope_yarn` of
//! llama.cpp, which agree, and whose names the keys have.

use super::error::VlmError;
use super::gguf::{Gguf, Value, brief};
use std::f64::consts::TAU;

/// The largest factor that is taken: 4,096 tokens become a million.
const FACTOR_MAX: f64 = 256.0;
/// Turns within the trained context above which a frequency is kept, and below which it is divided.
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;
const TYPE: &str = "qwen3vl.rope.scaling.type";
const FACTOR: &str = "qwen3vl.rope.scaling.factor";
/// Of old files, which have no type: linear.
const OLD_FACTOR: &str = "qwen3vl.rope.scale_linear";
const ORIGINAL: &str = "qwen3vl.rope.scaling.original_context_length";
const ATTENTION: &str = "qwen3vl.rope.scaling.attn_factor";
/// Longest context that a file may name, in tokens.
const CONTEXT_MAX: usize = 1 << 24;

/// How the frequencies of positions are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scaling {
    /// As trained.
    #[default]
    None,
    /// Each is divided by the factor.
    Linear {
        /// 1 and more.
        factor: f64,
    },
    /// Those that turn often within the trained context are kept, those that turn less than once are divided by the
    /// factor, and between them it goes over by degrees.
    Yarn {
        /// 1 and more.
        factor: f64,
        /// The context that the model was trained for, in tokens.
        original: usize,
        /// Multiplies what YaRN itself makes of cosines and sines.
        attention: f64,
    },
}

impl Scaling {
    /// What a text file asks for; `context` is the one that it names, in tokens.
    ///
    /// # Errors
    /// `Model` naming the key: another kind of scaling, or a factor that is none.
    pub fn from_gguf(g: &Gguf, context: usize) -> Result<Self, VlmError> {
        let kind = match g.metadata.get(TYPE) {
            Some(Value::Text(kind)) => Some(kind.as_str()),
            Some(other) => {
                return Err(g.error(format!("key {TYPE}"), format!("is {}; a text expected", brief(other))));
            }
            None => None,
        };
        match kind {
            Some("none") => Ok(Self::None),
            Some("yarn") => {
                let is_stated = g.metadata.contains_key(ORIGINAL);
                let original = if is_stated { g.size(ORIGINAL, CONTEXT_MAX)? } else { context };
                let attention = if g.metadata.contains_key(ATTENTION) { g.float(ATTENTION)? } else { 1.0 };
                Ok(Self::yarn(factor(g, FACTOR)?.unwrap_or(1.0), original, attention))
            }
            // Without a type llama.cpp takes a factor as that of linear scaling.
            Some("linear") | None => {
                let old = factor(g, OLD_FACTOR)?;
                let factor = factor(g, FACTOR)?.or(old).unwrap_or(1.0);
                Ok(if factor > 1.0 { Self::Linear { factor } } else { Self::None })
            }
            Some(other) => {
                // Whatever its type, a factor of 1 scales nothing.
                if factor(g, FACTOR)? == Some(1.0) {
                    return Ok(Self::None);
                }
                let why = format!(
                    "is {other:?}: none, linear or yarn expected, other scalings of positions are not supported"
                );
                Err(g.error(format!("key {TYPE}"), why))
            }
        }
    }

    /// YaRN by a factor, of a model that was trained for `original` tokens.
    pub fn yarn(factor: f64, original: usize, attention: f64) -> Self {
        if factor > 1.0 { Self::Yarn { factor, original, attention } } else { Self::None }
    }

    /// A factor that a user may ask for.
    ///
    /// # Errors
    /// It is none, in words.
    pub fn check_factor(factor: f64) -> Result<f64, String> {
        if (1.0..=FACTOR_MAX).contains(&factor) {
            return Ok(factor);
        }
        Err(format!("a factor of 1 to {FACTOR_MAX} expected, found {factor}"))
    }

    /// The context that the model was trained for, in tokens, where its file names `context`.
    pub fn original(self, context: usize) -> usize {
        match self {
            Self::Yarn { original, .. } => original,
            Self::None | Self::Linear { .. } => context,
        }
    }

    /// The context that the model reads, in tokens, where its file names `context`: files name either.
    pub fn reach(self, context: usize) -> usize {
        ((self.original(context) as f64 * self.factor()) as usize).max(context)
    }

    /// Times the trained context.
    pub(super) const fn factor(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Linear { factor } | Self::Yarn { factor, .. } => factor,
        }
    }

    /// What share of each frequency stays as it was trained, 0..=1; the rest is divided by the factor.
    pub(super) fn kept(self, head_dim: usize, base: f64) -> impl Fn(usize) -> f64 {
        let range = match self {
            Self::Yarn { original, .. } => Some(between(head_dim, base, original)),
            Self::None | Self::Linear { .. } => None,
        };
        move |i| {
            range
                .map_or(0.0, |(low, high)| 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0))
        }
    }

    /// What cosines and sines are multiplied by.
    pub(super) fn amplitude(self) -> f32 {
        match self {
            Self::Yarn { factor, attention, .. } => (attention * (1.0 + 0.1 * factor.ln())) as f32,
            Self::None | Self::Linear { .. } => 1.0,
        }
    }
}

/// The first frequency that is not kept whole, and the last that is not divided whole.
fn between(head_dim: usize, base: f64, original: usize) -> (f64, f64) {
    let turning = |turns: f64| head_dim as f64 * (original as f64 / (turns * TAU)).ln() / (2.0 * base.ln());
    (turning(BETA_FAST).floor().max(0.0), turning(BETA_SLOW).ceil().min(head_dim as f64 - 1.0))
}

/// A factor of the metadata; llama.cpp takes 0 as 1.
fn factor(g: &Gguf, key: &str) -> Result<Option<f64>, VlmError> {
    if !g.metadata.contains_key(key) {
        return Ok(None);
    }
    let found = g.float(key)?;
    let factor = if found == 0.0 { 1.0 } else { found };
    Scaling::check_factor(factor).map(Some).map_err(|why| g.error(format!("key {key}"), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::Rope;

    /// Each of `_compute_yarn_parameters`, in double precision.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let small = [
            1.0,
            0.562_341_325_190_349_1,
            0.316_227_766_016_837_94,
            0.177_827_941_003_892_26,
            0.1,
            0.049_204_865_954_155_85,
            0.023_717_082_451_262_844,
            0.011_114_246_312_743_268,
            0.005,
            0.002_108_779_969_463_809,
            0.000_790_569_415_042_095,
            0.000_222_284_926_254_866_37,
            0.000_125,
            7.029_266_564_879_364e-5,
            3.952_847_075_210_474e-5,
            2.222_849_262_548_653_4e-5,
        ];
        let small: Vec<_> = small.into_iter().enumerate().collect();
        let large = [
            (0, 1.0),
            (20, 0.008_064_396_521_899_431),
            (29, 0.000_921_571_884_600_179_7),
            (36, 0.000_114_582_384_058_624_74),
            (40, 3.150_108_170_523_644_4e-5),
            (44, 7.362_609_196_951_444_5e-6),
            (45, 4.872_218_139_854_97e-6),
            (63, 6.362_699_470_094_015e-8),
        ];
        for (dim, base, factor, original, amplitude, expected) in [
            (32, 1e4, 8.0, 2_048, 1.207_944_154_167_983_6, &small[..]),
            (128, 5e6, 4.0, 262_144, 1.138_629_436_111_989, &large[..]),
        ] {
            let scaling = Scaling::yarn(factor, original, 1.0);
            assert_eq!(scaling.reach(original), original * factor as usize);
            let rope = Rope::new(dim, base, [dim / 2, 0, 0], scaling);
            // At position 1 the sine of a small angle is the angle; of the others the cosine says it too.
            let turns: Vec<_> = rope.turns(&[[1; 3]]).collect();
            for (i, frequency) in expected {
                let (cos, sin) = turns[*i];
                let angle = f64::from(sin).atan2(f64::from(cos));
                assert!((angle / frequency - 1.0).abs() < 1e-6, "{i}: {angle}, {frequency} expected");
                assert!((f64::from(cos).hypot(f64::from(sin)) - amplitude).abs() < 1e-6, "{i}");
            }
        }
    }

    #[test]
    fn a_factor_of_1_changes_no_bit() {
        let plain = Rope::new(128, 5e6, [24, 20, 20], Scaling::None);
        let one = Rope::new(128, 5e6, [24, 20, 20], Scaling::yarn(1.0, 262_144, 1.0));
        let at = [[7, 8, 9], [70_000, 3, 5]];
        assert!(plain.turns(&at).eq(one.turns(&at)));
    }

    #[test]
    fn linear_scaling_divides_each_position() {
        let plain = Rope::new(64, 1e4, [32, 0, 0], Scaling::None);
        let linear = Rope::new(64, 1e4, [32, 0, 0], Scaling::Linear { factor: 4.0 });
        // A power of two is exact.
        assert!(plain.turns(&[[25; 3]]).eq(linear.turns(&[[100; 3]])));
    }
}
