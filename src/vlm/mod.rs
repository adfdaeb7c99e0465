//! A local Qwen3-VL: pictures and questions in, grammar-bound answers with probabilities out.
//!
//! This room knows nothing of inspection. Work arrives as jobs (one picture, several questions);
//! how they are batched is the engine's business alone.

use image::RgbImage;
use std::sync::Arc;

/// One picture and the questions asked about it. The picture's keys and values are computed once
/// and shared by all its questions.
#[derive(Clone, Debug)]
pub struct Job {
    pub image: Arc<RgbImage>,
    /// Budget of pixels after the resize (Qwen's `min_pixels`, `max_pixels`).
    pub min_pixels: u32,
    pub max_pixels: u32,
    pub asks: Vec<Ask>,
}

/// One question about a picture.
#[derive(Clone, Debug)]
pub struct Ask {
    pub text: Arc<str>,
    /// Grammar of the answer in llguidance's Lark dialect; `None`: free text.
    pub grammar: Option<Arc<str>>,
    pub max_tokens: usize,
}

/// One answer. `tokens` concatenated are `text`.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub text: String,
    pub tokens: Vec<AnswerToken>,
    pub prompt_tokens: usize,
    pub finish: Finish,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerToken {
    pub id: u32,
    /// Bytes of `Completion::text` that it stands for: `start..end`.
    pub start: usize,
    pub end: usize,
    /// Its probability among the tokens that the grammar allowed, 0..=1; 1 where it was forced.
    pub prob: f32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model (or the grammar) ended it.
    Stop,
    /// `max_tokens` was reached: the answer is cut off.
    Length,
}
