//! The chat form of a question: pictures first, then the text.
//!
//! ```text
//! <|im_start|>user\n <|vision_start|> image rows <|vision_end|> … text <|im_end|>\n
//! <|im_start|>assistant\n
//! ```
//!
//! A clip shows pairs of pictures, each behind its time:
//!
//! ```text
//! <|im_start|>user\n `<0.1 seconds>` <|vision_start|> video rows <|vision_end|> … text <|im_end|>\n …
//! ```
//!
//! What comes before the first picture's rows is the same for every job (`prefix`), what comes up
//! to the last picture's rows is the same for every question of a job (`shared`).

use super::error::VlmError;
use super::tokenizer::Tokenizer;

/// The control tokens of Qwen3-VL.
#[derive(Clone, Debug)]
pub struct Template {
    /// `<|im_start|>` begins a turn.
    pub im_start: u32,
    /// `<|im_end|>` ends a turn, and an answer.
    pub im_end: u32,
    /// `<|vision_start|>` comes before a picture.
    pub vision_start: u32,
    /// `<|vision_end|>` comes after a picture.
    pub vision_end: u32,
    /// `<|image_pad|>` stands for one row of a picture.
    pub image_pad: u32,
    /// Stands for the rows of a clip; only a question about a clip needs it.
    pub video_pad: Option<u32>,
    /// Ends a text that is no chat turn.
    pub end_of_text: Option<u32>,
    user: Vec<u32>,
    assistant: Vec<u32>,
    newline: Vec<u32>,
}

impl Template {
    /// Looks the control tokens up.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] naming the token that the vocabulary lacks.
    pub fn new(t: &Tokenizer) -> Result<Self, VlmError> {
        let id = |name: &str| {
            t.special(name).ok_or_else(|| VlmError::Tokenizer { why: format!("token {name} is missing") })
        };
        Ok(Self {
            im_start: id("<|im_start|>")?,
            im_end: id("<|im_end|>")?,
            vision_start: id("<|vision_start|>")?,
            vision_end: id("<|vision_end|>")?,
            image_pad: id("<|image_pad|>")?,
            video_pad: t.special("<|video_pad|>"),
            end_of_text: t.special("<|endoftext|>"),
            user: t.encode("user\n")?,
            assistant: t.encode("assistant\n")?,
            newline: t.encode("\n")?,
        })
    }

    /// Tokens before the rows of the first picture; a clip begins behind `opening`.
    pub fn prefix(&self) -> Vec<u32> {
        let mut ids = self.opening();
        ids.push(self.vision_start);
        ids
    }

    /// Tokens that open the user's turn.
    pub fn opening(&self) -> Vec<u32> {
        [&[self.im_start], self.user.as_slice()].concat()
    }

    /// Tokens before the rows of a clip's pair: its time, and behind another pair that one's end.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the vocabulary knows no clips.
    pub fn before_pair(&self, t: &Tokenizer, seconds: f64, is_first: bool) -> Result<Vec<u32>, VlmError> {
        if self.video_pad.is_none() {
            let why = "token <|video_pad|> is missing: this model takes no clips".into();
            return Err(VlmError::Tokenizer { why });
        }
        let mut ids = if is_first { vec![] } else { vec![self.vision_end] };
        ids.extend(t.encode(&format!("<{seconds:.1} seconds>"))?);
        ids.push(self.vision_start);
        Ok(ids)
    }

    /// Tokens behind the rows of the last picture (when there is one): the question, and the opening
    /// of the answer.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the text cannot be encoded.
    pub fn question(&self, t: &Tokenizer, text: &str, behind_picture: bool) -> Result<Vec<u32>, VlmError> {
        let mut ids = if behind_picture { vec![self.vision_end] } else { self.opening() };
        ids.extend(t.encode(text)?);
        ids.extend(self.turn_end());
        ids.extend(self.answer_start());
        Ok(ids)
    }

    /// Tokens that end a turn.
    pub fn turn_end(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.im_end).chain(self.newline.iter().copied())
    }

    /// Tokens that open the assistant's turn.
    pub fn answer_start(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.im_start).chain(self.assistant.iter().copied())
    }

    /// True for tokens that end an answer.
    pub fn ends(&self, id: u32) -> bool {
        id == self.im_end || Some(id) == self.end_of_text
    }
}
