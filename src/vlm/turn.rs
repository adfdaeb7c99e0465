//! A conversation: turns of the system, the user and the assistant, with texts and pictures in them.
//!
//! ```text
//! <|im_start|>system\n text <|im_end|>\n
//! <|im_start|>user\n text <|vision_start|> rows of a picture <|vision_end|> text <|im_end|>\n
//! <|im_start|>assistant\n text <|im_end|>\n
//! <|im_start|>user\n … <|im_end|>\n
//! <|im_start|>assistant\n            and thoughts, where the model has some: see `template`
//! ```
//!
//! Source: the chat template of Qwen/Qwen3-VL-8B-Instruct. What that template leaves out without a word (the system's
//! turn anywhere but at the beginning, pictures in other turns than the user's) is refused here.

use super::error::VlmError;
use super::template::{Opening, Template};
use super::tokenizer::Tokenizer;
use image::RgbImage;
use std::sync::Arc;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Says beforehand how to answer.
    System,
    /// Asks.
    User,
    /// The model, in earlier answers.
    Assistant,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A piece of what is said in a turn.
#[derive(Clone, Debug)]
pub enum Content {
    /// Words, in which names of control tokens are plain characters.
    Text(Arc<str>),
    /// 8-bit RGB.
    Image(Arc<RgbImage>),
}

/// What one of them says, in order.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// Texts and pictures, in order.
    pub content: Vec<Content>,
}

impl Turn {
    /// A turn of one text.
    pub fn text(role: Role, text: &str) -> Self {
        Self { role, content: vec![Content::Text(text.into())] }
    }

    /// Its texts, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.iter().filter_map(|content| match content {
            Content::Text(text) => Some(&**text),
            Content::Image(_) => None,
        })
    }

    /// Its pictures, in order.
    pub fn images(&self) -> impl Iterator<Item = &Arc<RgbImage>> {
        self.content.iter().filter_map(|content| match content {
            Content::Image(image) => Some(image),
            Content::Text(_) => None,
        })
    }
}

/// Whether the model can be asked these turns.
///
/// # Errors
/// Why not, in words.
pub fn check(turns: &[Turn]) -> Result<(), String> {
    if turns.last().is_none_or(|last| last.role != Role::User) {
        return Err("the last turn of a conversation is the user's".into());
    }
    if turns.iter().skip(1).any(|turn| turn.role == Role::System) {
        return Err("the system's turn is the first of a conversation".into());
    }
    if turns.iter().any(|turn| turn.role != Role::User && turn.images().next().is_some()) {
        return Err("pictures stand in the user's turns only".into());
    }
    Ok(())
}

/// A piece of a conversation as the model is given it.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment {
    /// Ids of texts and control tokens.
    Ids(Vec<u32>),
    /// The rows of the next picture.
    Picture,
}

/// The segments of a conversation, cut at its pictures and after the system's turn; `question` ends the last turn. The
/// last segment is tokens: what follows the last picture, and the opening of the answer.
///
/// # Errors
/// `Turns` as [`check`]; [`VlmError::Tokenizer`] when a text cannot be encoded.
pub fn segments(
    template: &Template,
    tokenizer: &Tokenizer,
    turns: &[Turn],
    question: &str,
    opening: Opening,
) -> Result<Vec<Segment>, VlmError> {
    check(turns).map_err(|why| VlmError::Turns { why })?;
    let (mut segments, mut ids) = (vec![], vec![]);
    for (i, turn) in turns.iter().enumerate() {
        ids.push(template.im_start);
        // Texts are encoded as long as they go: a word may begin in one and end in the next.
        let mut text = format!("{}\n", turn.role.word());
        for content in &turn.content {
            match content {
                Content::Text(_) if turn.role == Role::Assistant => {}
                Content::Text(more) => text.push_str(more),
                Content::Image(_) => {
                    ids.extend(tokenizer.encode(&std::mem::take(&mut text))?);
                    ids.push(template.vision_start);
                    segments.extend([Segment::Ids(std::mem::take(&mut ids)), Segment::Picture]);
                    ids.push(template.vision_end);
                }
            }
        }
        if turn.role == Role::Assistant {
            text.push_str(template.said(&turn.texts().collect::<String>()));
        }
        if i + 1 == turns.len() {
            text.push_str(question);
        }
        ids.extend(tokenizer.encode(&text)?);
        ids.extend(template.turn_end());
        if turn.role == Role::System {
            segments.push(Segment::Ids(std::mem::take(&mut ids)));
        }
    }
    ids.extend(template.answer_start(opening));
    segments.push(Segment::Ids(ids));
    Ok(segments)
}
