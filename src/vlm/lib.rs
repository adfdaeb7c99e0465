//! A local Qwen3-VL: pictures and questions in, grammar-bound answers with probabilities out.
//!
//! ```text
//! GGUF pair -> gguf -> linear (weights as stored) -> vision, text, tokenizer
//!
//! Job -> turn, clip, image: resize, patches -> vision: one row per 2x2 block
//!     -> engine: rows of all jobs and questions in ragged batches -> text over kv's arena
//!     -> sample, held to its form -> Completion
//!     -> backbone, or blocks of vision: features of its cells, where a question asks for those -> Completion
//! ```
//!
//! This crate knows nothing of inspection. Work arrives as jobs (pictures, several questions); how
//! they are batched is the engine's business alone. Source of every step: Hugging Face
//! transformers 5.23 (`qwen3_vl`) and llama.cpp's converter for the names in the files.

// The library alone: in tests an unwrap is an assertion. What holds everywhere is in Cargo.toml.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![allow(
    clippy::inline_always,
    reason = "a kernel's steps are compiled for the instructions of their caller"
)]

pub mod adapter;
pub mod attention;
pub mod backbone;
pub mod batch;
mod beside;
pub mod cells;
pub mod clip;
mod encoded;
pub mod engine;
mod error;
mod foreign;
pub mod form;
pub mod free;
pub mod ggml;
pub mod gguf;
mod grammar;
pub mod image;
pub mod kernel;
pub mod kinds;
pub mod kv;
mod linear;
pub mod load;
pub mod logits;
pub mod lora;
pub mod ops;
pub mod precision;
mod prefix;
pub mod processor;
mod prompt;
pub mod rope;
mod run;
pub mod sample;
pub mod scaling;
mod sequence;
pub mod state;
pub mod synth;
pub mod template;
pub mod text;
pub mod tokenizer;
pub mod turn;
pub mod vision;

pub use adapter::AdapterFile;
pub use cells::{Cells, Features};
pub use clip::{ClipFrame, Shown};
pub use engine::Qwen3Vl;
pub use error::VlmError;
pub use form::Form;
pub use sample::Sampling;
pub use turn::{Content, Role, Turn};

use std::sync::Arc;

/// What answers questions about pictures, a set of jobs at a time: how commands and tests ask a model in this process.
pub trait Vlm {
    /// Name and hashes of the model.
    fn info(&self) -> &ModelInfo;

    /// Answers all questions of all jobs. `keep_going` is asked between passes, on whatever thread; once it says
    /// no, the answers that are not complete are [`VlmError::Stopped`].
    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers;
}

/// A model that takes jobs while it answers others, and gives each out as soon as it is answered.
pub trait Steps {
    /// Name and hashes of the model.
    fn info(&self) -> &ModelInfo;

    /// Takes a job in under an id that no other job under way has.
    fn submit(&mut self, id: u64, rank: Rank, job: Job);

    /// Takes a job out. Its answers that were complete come out with it, the others are [`VlmError::Stopped`]; `None`:
    /// no such job is under way.
    fn cancel(&mut self, id: u64) -> Option<Answered>;

    /// Goes one step on, which takes a bounded time, and adds what is answered to `out`; false when nothing is under
    /// way any more.
    fn step(&mut self, out: &mut Vec<Answered>) -> bool;

    /// Adds what streamed answers have said since the last call to `out`: in their order, and all of an answer before
    /// it comes out of `step`.
    fn deltas(&mut self, _out: &mut Vec<Delta>) {}
}

/// Asked all at once, it is asked job by job.
impl<T: Steps> Vlm for T {
    fn info(&self) -> &ModelInfo {
        Steps::info(self)
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers {
        for (id, job) in jobs.iter().enumerate() {
            self.submit(id as u64, Rank::default(), job.clone());
        }
        let mut answered = Vec::with_capacity(jobs.len());
        while keep_going() && self.step(&mut answered) {
            // Here an answer is heard as a whole.
            self.deltas(&mut vec![]);
        }
        answered.extend((0..jobs.len() as u64).filter_map(|id| self.cancel(id)));
        answered.sort_by_key(|a| a.id);
        let timing = answered.iter().fold(Timing::default(), |sum, a| sum + a.timing);
        Answers { jobs: answered.into_iter().map(|a| a.answers).collect(), timing }
    }
}

/// Which job goes first: the lower class, in it the earlier due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// 0 is the most urgent.
    pub class: u8,
    /// On a clock of the sender's.
    pub due: u64,
}

/// A job that is answered.
#[derive(Debug)]
pub struct Answered {
    /// The job, as it was submitted.
    pub id: u64,
    /// One entry a question, in order.
    pub answers: Vec<Result<Completion, VlmError>>,
    /// The job's share of the time.
    pub timing: Timing,
}

/// What a streamed answer says further. The deltas of an answer, one after the other, are its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The job's.
    pub id: u64,
    /// Which of the job's questions it answers.
    pub ask: usize,
    /// What comes after the deltas before it.
    pub text: String,
}

/// Which model answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// `general.name` of the text file, or its file name.
    pub name: String,
    /// sha256 (hex) of the text file; of a server's model that of what the server says of it.
    pub text_sha256: String,
    /// sha256 (hex) of the vision file; of a server's model that of the server's kind and version.
    pub mmproj_sha256: String,
    /// The labels that it was trained with, in the order of its training prompts; empty: it states none.
    pub labels: Vec<String>,
    /// The set of pictures and answers by which it proves that it is whole; `None`: it names none.
    pub proof: Option<String>,
    /// sha256 (hex) of the adapter that is added beside it for some jobs, which the hashes above hold too; empty: none.
    pub beside: String,
}

/// Pictures and the questions asked about them. The pictures' keys and values are computed once and
/// shared by all questions.
#[derive(Clone, Debug)]
pub struct Job {
    /// Most jobs show one picture.
    pub shown: Shown,
    /// Budget of pixels after the resize (Qwen's `min_pixels`, `max_pixels`), for each picture, those of a
    /// clip too. Qwen's own video processor spreads one budget over all frames; here a tile of a clip is
    /// seen as large as a tile of a still.
    pub min_pixels: u32,
    /// As `min_pixels`: larger pictures are reduced.
    pub max_pixels: u32,
    /// Questions about what is shown, each answered for itself.
    pub asks: Vec<Ask>,
    /// What is added to the model's matrices for this job alone; `None`: the pair answers.
    pub adapter: Option<AdapterFile>,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Ask {
    /// It follows what is shown; of a conversation it ends the last turn, and may be empty.
    pub text: Arc<str>,
    /// What the answer may be.
    pub form: Form,
    /// The answer is cut off after so many tokens.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// An answer ends before the first of these words, wherever tokens begin and end.
    pub stop: Vec<Arc<str>>,
    /// What it says is to be heard while it is made, as [`Delta`].
    pub streams: bool,
}

impl Ask {
    /// A question that is answered with the most likely tokens.
    pub fn new(text: &str, form: Form, max_tokens: usize) -> Self {
        let sampling = Sampling::default();
        Self { text: text.into(), form, max_tokens, sampling, stop: vec![], streams: false }
    }

    /// A question for the features of the one picture that its job shows.
    pub fn cells(features: Features) -> Self {
        Self::new("", Form::Cells(features), 0)
    }

    /// The features that are asked for, where it is no question to the text model.
    pub const fn features(&self) -> Option<Features> {
        match self.form {
            Form::Cells(features) => Some(features),
            _ => None,
        }
    }
}

/// The answers of a set of jobs and where the time went.
#[derive(Debug)]
pub struct Answers {
    /// One list a job, in order; in it one entry a question, in order.
    pub jobs: Vec<Vec<Result<Completion, VlmError>>>,
    /// Where the time of all jobs went.
    pub timing: Timing,
}

/// Time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Timing {
    /// Resizing and cutting pictures into patches.
    pub preprocess_ms: f64,
    /// The vision tower.
    pub vision_ms: f64,
    /// The text model over prompts and pictures.
    pub prefill_ms: f64,
    /// The text model over the answers, token by token.
    pub decode_ms: f64,
}

impl std::ops::Add for Timing {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            preprocess_ms: self.preprocess_ms + other.preprocess_ms,
            vision_ms: self.vision_ms + other.vision_ms,
            prefill_ms: self.prefill_ms + other.prefill_ms,
            decode_ms: self.decode_ms + other.decode_ms,
        }
    }
}

/// One answer. The bytes of `tokens`, one after the other, are `text`.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What its tokens stand for, one after the other.
    pub text: String,
    /// What the text is made of, in order.
    pub tokens: Vec<AnswerToken>,
    /// All tokens that the model was given, one `<|image_pad|>` for each row of a picture and one
    /// `<|video_pad|>` for each row of a clip's pair; none of a server, which names no ids.
    pub prompt_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// What the probabilities of the tokens are.
    pub ground: Ground,
    /// What a question of the form `Cells` is answered with, in the place of a text.
    pub cells: Option<Cells>,
}

impl Completion {
    /// The answer to a question for features.
    pub const fn of_cells(cells: Cells) -> Self {
        Self {
            text: String::new(),
            tokens: vec![],
            prompt_ids: vec![],
            finish: Finish::Stop,
            ground: Ground::None,
            cells: Some(cells),
        }
    }
}

/// What the probabilities of an answer's tokens stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Each is the token's among those that the form allowed.
    Constrained,
    /// Each is at most the token's among those that the form allowed: a server shows its likeliest tokens alone, and what
    /// it did not show counts against the answer.
    Bounded,
    /// Each is the token's among all: of an answer that has the form by itself it is no more than the constrained one.
    Unconstrained,
    /// There are none, or not of all tokens: nobody knows how sure the answer is.
    None,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerToken {
    /// In the model's vocabulary; 0 in an answer of a server, which names no ids.
    pub id: u32,
    /// Bytes of [`Completion::text`] that it stands for: `start..end`.
    pub start: usize,
    /// Byte after its last one.
    pub end: usize,
    /// Its probability, 0..=1, on the ground of the answer; 1 where it was forced.
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
