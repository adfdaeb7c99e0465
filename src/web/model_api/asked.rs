//! What the model is asked by somebody else's program, and what comes of it: this room's own words, which the daemon
//! turns into those of the engine.

use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// Tokens of one answer at most. Each may be heard for itself.
pub const ANSWER_TOKENS_MAX: usize = 8192;

/// Hears what is said of one question. It has room for every token of the longest answer, and its end.
pub type Hear = Sender<Heard>;

/// Who answers: the daemon, over the engine.
pub trait Answering: Send + Sync {
    /// The model that answers; `None`: none was loaded yet.
    fn served(&self) -> Option<Served>;

    /// Asks, after everything that the line asks. Pictures are decoded meanwhile, so that the call takes a while.
    ///
    /// # Errors
    /// Why nothing will be heard of the question.
    fn ask(&self, question: Question, hear: Hear) -> Result<Asked, Refusal>;
}

/// The model that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// As the text file states it.
    pub name: String,
    /// Names both files of the model: others have another one.
    pub fingerprint: String,
}

/// A question that is under way. Dropping it stops its answer.
pub struct Asked(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Asked {
    /// `stop` is called when nobody waits for the answer any more; after the answer it does nothing.
    pub fn new(stop: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(stop)))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(stop) = self.0.take() {
            stop();
        }
    }
}

/// A conversation that the model is to go on with.
#[derive(Debug)]
pub struct Question {
    /// At least one; the last is the user's, and the system's can only be the first.
    pub turns: Vec<Turn>,
    /// What the answer may be.
    pub form: Form,
    /// The answer is cut off after so many tokens.
    pub tokens_max: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// An answer ends before the first of these words.
    pub stop: Vec<String>,
    /// What it says is to be heard while it is made.
    pub streams: bool,
    /// Nobody waits for longer.
    pub until: Instant,
}

/// What one of them says.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub speaker: Speaker,
    /// Texts and pictures, in order.
    pub said: Vec<Said>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Says beforehand how to answer; OpenAI's `developer`, too.
    System,
    /// Asks.
    User,
    /// The model, in earlier answers.
    Assistant,
}

/// A piece of a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Words.
    Text(String),
    /// A picture, of the user's turns only.
    Picture(Picture),
}

/// An encoded picture, whose head says that it is small enough to be decoded.
#[derive(PartialEq, Eq)]
pub struct Picture {
    /// PNG, JPEG, BMP or TIFF.
    pub bytes: Vec<u8>,
    /// It is to be shown with few tokens (`detail` is `low`).
    pub is_low: bool,
    /// Where it stands in the request.
    pub place: String,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, is_low, place } = self;
        let mut out = f.debug_struct("Picture");
        out.field("bytes", &bytes.len()).field("is_low", is_low).field("place", place).finish()
    }
}

/// What an answer may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// JSON that this JSON schema allows.
    Json(String),
}

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the most likely one.
    pub temperature: f64,
    /// Only of the smallest set that holds this probability.
    pub top_p: Option<f64>,
    /// Only of so many best.
    pub top_k: Option<usize>,
    /// Divides the logits of what was said already; 1 leaves them.
    pub repetition_penalty: f32,
    /// The same seed gives the same answer.
    pub seed: u64,
}

/// What is heard of a question: texts where it streams, then its end.
#[derive(Debug)]
pub enum Heard {
    /// The answer says this further.
    Text(String),
    /// Nothing more is heard.
    End(Result<Answer, Refusal>),
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// All of it, also where it was heard in pieces.
    pub text: String,
    /// Tokens that the model was given, rows of pictures included.
    pub prompt_tokens: usize,
    /// Each token of the answer, in order.
    pub tokens: Vec<Token>,
    /// It was cut off.
    pub is_cut: bool,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it stands for; a part of a character may be a token.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability among those that the form allowed.
    pub logprob: f32,
}

/// Why there is no answer, by what whoever asked can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum Refusal {
    /// A picture cannot be shown to the model.
    #[error("{place}: {why}")]
    Picture { place: String, why: String },
    /// The model cannot be asked this; `param` is the key of the request that says it.
    #[error("{why}")]
    Invalid { param: Option<&'static str>, why: String },
    /// Question and answer do not fit into the memory set aside for them.
    #[error("{why}")]
    TooLong { why: String },
    /// There is no engine now.
    #[error("the model cannot be asked now: {why}")]
    NotReady { why: String, after: Duration },
    /// Enough others wait.
    #[error("too many questions wait already; ask again later")]
    Full,
    /// The answer took too long: the line goes first.
    #[error("the answer was not complete in time; the line goes first")]
    Late,
    /// The engine has failed.
    #[error("{why}")]
    Failed { why: String },
}
