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
//! A model that thinks before it answers (Qwen3-VL-Thinking; its `tokenizer.chat_template` says so) has its answer opened
//! behind the assistant's name:
//!
//! ```text
//! <think>\n               of a free answer: thoughts, `</think>`, an empty line and the answer follow
//! <think>\n\n</think>\n\n of an answer that is bound to a form: it has been thought, and the form begins
//! ```
//!
//! Thoughts take thousands of tokens, and a form leaves no room for them: behind `<think>\n` it would force an answer where
//! the model expects its thoughts. The empty block is what Qwen's own templates write for `enable_thinking=false`.
//!
//! What comes before the first picture's rows is the same for every job (`prefix`), what comes up
//! to the last picture's rows is the same for every question of a job (`shared`).

use super::error::VlmError;
use super::form::Form;
use super::gguf::Gguf;
use super::tokenizer::Tokenizer;

/// Key of the text file: the chat template, in Jinja.
const CHAT_TEMPLATE_KEY: &str = "tokenizer.chat_template";
/// Ends the thoughts of an answer.
const THOUGHT: &str = "</think>";

/// What an answer is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Any text, thoughts before it where the model has some.
    Free,
    /// The form that it is held to, and nothing before it.
    Bound,
}

impl Opening {
    /// That of an answer of this form.
    pub const fn of(form: &Form) -> Self {
        match form {
            Form::Free => Self::Free,
            _ => Self::Bound,
        }
    }
}

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
    /// Behind the assistant's name, of free answers and of bound ones; both are empty where the model does not think.
    thoughts: [Vec<u32>; 2],
}

impl Template {
    /// That of a text file: its control tokens, and whether it thinks.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn from_gguf(g: &Gguf, t: &Tokenizer) -> Result<Self, VlmError> {
        let template = Self::new(t).map_err(|e| g.error("tokenizer.ggml.tokens", e.to_string()))?;
        if !g.metadata.contains_key(CHAT_TEMPLATE_KEY) {
            return Ok(template);
        }
        template.with_chat_template(t, g.text(CHAT_TEMPLATE_KEY)?)
    }

    /// This one, with what a template in Jinja says about the opening of answers.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the opening cannot be encoded.
    pub fn with_chat_template(mut self, t: &Tokenizer, jinja: &str) -> Result<Self, VlmError> {
        if opens_with_thoughts(jinja) {
            self.thoughts = [t.encode_trusted("<think>\n")?, t.encode_trusted("<think>\n\n</think>\n\n")?];
        }
        Ok(self)
    }

    /// True for a model that thinks before it answers freely.
    pub fn thinks(&self) -> bool {
        self.thoughts.iter().any(|ids| !ids.is_empty())
    }

    /// What an earlier answer is to the model in a later turn: thoughts are left out, as its template does.
    pub fn said<'a>(&self, answer: &'a str) -> &'a str {
        match answer.rsplit_once(THOUGHT).filter(|_| self.thinks()) {
            Some((_, said)) => said.trim_start_matches('\n'),
            None => answer,
        }
    }

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
            thoughts: [vec![], vec![]],
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
    pub fn question(
        &self,
        t: &Tokenizer,
        text: &str,
        behind_picture: bool,
        opening: Opening,
    ) -> Result<Vec<u32>, VlmError> {
        let mut ids = if behind_picture { vec![self.vision_end] } else { self.opening() };
        ids.extend(t.encode(text)?);
        ids.extend(self.turn_end());
        ids.extend(self.answer_start(opening));
        Ok(ids)
    }

    /// Tokens that end a turn.
    pub fn turn_end(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.im_end).chain(self.newline.iter().copied())
    }

    /// Tokens that open the assistant's turn.
    pub fn answer_start(&self, opening: Opening) -> impl Iterator<Item = u32> + '_ {
        let thoughts = &self.thoughts[usize::from(opening == Opening::Bound)];
        std::iter::once(self.im_start).chain(self.assistant.iter().chain(thoughts).copied())
    }

    /// True for tokens that end an answer.
    pub fn ends(&self, id: u32) -> bool {
        id == self.im_end || Some(id) == self.end_of_text
    }
}

/// True when the generation prompt of a template in Jinja ends within thoughts: behind the last `add_generation_prompt`
/// a text ends in `<think>` and a line break. Templates that write the empty block for `enable_thinking=false` alone open
/// plainly otherwise, and so they do here.
fn opens_with_thoughts(jinja: &str) -> bool {
    let Some((_, end)) = jinja.rsplit_once("add_generation_prompt") else { return false };
    // In the source of a template a line break of a text may be one, or be written as one.
    let end = end.replace("\\n", "\n");
    ["'", "\""].iter().any(|quote| end.contains(&format!("<think>\n{quote}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_says_how_answers_are_opened() {
        let thinking =
            "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}";
        let instruct = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let hybrid = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined \
             and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}";
        let newer = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined \
             and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- else %}{{- \"<think>\\n\" }}{%- endif %}\
             {%- endif %}";
        let earlier = "{{- '<think>\\n' + message.reasoning_content }}{% if add_generation_prompt %}{{ 'assistant\\n' }}";
        assert_eq!(
            [thinking, instruct, hybrid, newer, earlier, ""].map(opens_with_thoughts),
            [true, false, false, true, false, false]
        );
        assert!(opens_with_thoughts(&thinking.replace("\\n", "\n")), "with line breaks as they are");
    }
}
