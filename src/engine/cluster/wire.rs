//! What is said to a server, and what it answers: OpenAI's chat completions.
//!
//! ```text
//! Job, one of its questions --body--> POST …/chat/completions --read--> text, tokens with rivals, counts
//! ```
//!
//! Pictures go as PNG, without loss, resized by our own preprocessor to sizes that the server's leaves as they are. Nothing
//! that a server says is believed: whatever does not read as an answer is a [`Fault`].

use super::form::constraint;
use super::held::{Grammars, unsure};
use super::{Fault, Kind, Target};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use vlm::image::{ROW_PX, resized};
use vlm::{
    Ask, Completion, Content, Finish, Form, Ground, Job, Role, Sampling, Shown, Timing, Turn, VlmError,
};

/// Rivals of each token that are asked for: vLLM's and OpenAI's most.
const RIVALS: usize = 20;
/// What a chat adds to pictures and text, in tokens, at least: begin and end of a turn, and of the answer's.
const CHAT_TOKENS_MIN: usize = 5;
/// Beside its rows a picture has a token before it and one after it.
const PICTURE_TOKENS: usize = 2;
/// Longest words of a server that are passed on.
const WORDS_CHARS_MAX: usize = 300;

/// A request, and how many tokens its pictures are.
pub(super) struct Body {
    pub bytes: Vec<u8>,
    /// Rows of all pictures with the two tokens around each.
    pub picture_tokens: usize,
}

/// The request of one question of a job.
///
/// # Errors
/// `Unable` or `Image`: it cannot be asked of a server.
pub(super) fn body(target: &Target, job: &Job, ask: &Ask) -> Result<Body, VlmError> {
    let unable = |why: String| VlmError::Unable { why };
    let mut picture_tokens = 0;
    let mut picture = |image: &RgbImage| {
        let min = job.min_pixels.max(target.min_pixels);
        if job.max_pixels < min {
            let why = format!(
                "max_pixels = {} is under the {min} pixels that the servers enlarge every picture to",
                job.max_pixels
            );
            return Err(unable(why));
        }
        let shown = resized(image, ROW_PX, min, job.max_pixels)?;
        picture_tokens += tokens_of(shown.width(), shown.height());
        Ok(json!({ "type": "image_url", "image_url": { "url": data_url(&shown).map_err(unable)? } }))
    };
    let text = |words: &str| {
        plain(words).map_err(unable)?;
        Ok::<_, VlmError>(json!({ "type": "text", "text": words }))
    };
    let messages = match &job.shown {
        Shown::Images(images) => {
            let mut content = images.iter().map(|image| picture(image)).collect::<Result<Vec<_>, _>>()?;
            content.push(text(&ask.text)?);
            vec![json!({ "role": "user", "content": content })]
        }
        Shown::Clip(_) => return Err(unable("a server is shown no clips".into())),
        Shown::Turns(turns) => {
            let mut messages = vec![];
            for (i, Turn { role, content }) in turns.iter().enumerate() {
                let mut parts = vec![];
                for part in content {
                    parts.push(match part {
                        Content::Text(words) => text(words)?,
                        Content::Image(image) => picture(image)?,
                    });
                }
                if i + 1 == turns.len() && !ask.text.is_empty() {
                    parts.push(text(&ask.text)?);
                }
                let role = match role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                messages.push(json!({ "role": role, "content": parts }));
            }
            messages
        }
    };
    let mut body = sampling(target.kind, &ask.sampling);
    body.insert("model".into(), json!(target.model));
    body.insert("messages".into(), messages.into());
    body.insert("max_tokens".into(), json!(ask.max_tokens));
    body.insert("stream".into(), json!(false));
    body.insert("logprobs".into(), json!(true));
    body.insert("top_logprobs".into(), json!(RIVALS));
    if !ask.stop.is_empty() {
        body.insert("stop".into(), ask.stop.iter().map(|word| Value::from(&**word)).collect());
    }
    if let Some((key, value)) = constraint(target.kind, &ask.form).map_err(unable)? {
        body.insert(key.into(), value);
    }
    let bytes = serde_json::to_vec(&body).map_err(|error| unable(error.to_string()))?;
    Ok(Body { bytes, picture_tokens })
}

/// Everything is said: a server takes what is left open from the model's own files.
fn sampling(kind: Kind, sampling: &Sampling) -> Map<String, Value> {
    let Sampling { temperature, top_p, top_k, repeat_penalty, seed } = *sampling;
    let mut body = Map::new();
    body.insert("temperature".into(), json!(temperature));
    body.insert("top_p".into(), json!(top_p.unwrap_or(1.0)));
    body.insert("seed".into(), json!(seed));
    body.insert("presence_penalty".into(), json!(0.0));
    body.insert("frequency_penalty".into(), json!(0.0));
    let penalty = match kind {
        Kind::Vllm => Some("repetition_penalty"),
        Kind::Llama => Some("repeat_penalty"),
        Kind::OpenAi => None,
    };
    if let Some(penalty) = penalty {
        body.insert(penalty.into(), json!(repeat_penalty));
        // To both 0 is all of them.
        body.insert("top_k".into(), json!(top_k.unwrap_or(0)));
        body.insert("min_p".into(), json!(0.0));
    }
    body
}

/// A text without the names of control tokens, which a server would take for these.
fn plain(text: &str) -> Result<(), String> {
    if text.contains("<|") {
        return Err("the text holds <|, which a server may take for a control token".into());
    }
    Ok(())
}

/// Tokens of a picture of this size, of which both sides are multiples of [`ROW_PX`].
pub(super) const fn tokens_of(width: u32, height: u32) -> usize {
    (width / ROW_PX) as usize * (height / ROW_PX) as usize + PICTURE_TOKENS
}

/// A picture as a `data:` URL of its PNG.
pub(super) fn data_url(image: &RgbImage) -> Result<String, String> {
    let mut png = Vec::new();
    // The wire is faster than the best compression.
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    let (width, height) = image.dimensions();
    let written = encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8);
    written.map_err(|error| error.to_string())?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)))
}

/// An answer as servers write it; what else stands there nobody needs.
#[derive(Deserialize)]
struct Reply {
    choices: Vec<Choice>,
    usage: Usage,
    /// llama-server's own.
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: usize,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    prompt_ms: f64,
    #[serde(default)]
    predicted_ms: f64,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Entry>>,
}

/// A token of an answer, or a rival of one.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Entry {
    pub token: String,
    /// What is so unlikely that it has no number is written as null.
    #[serde(default = "never", deserialize_with = "or_never")]
    pub logprob: f64,
    pub bytes: Option<Vec<u8>>,
    #[serde(default)]
    pub top_logprobs: Vec<Entry>,
}

impl Entry {
    /// What it stands for in the text.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.token.as_bytes())
    }
}

const fn never() -> f64 {
    f64::NEG_INFINITY
}

fn or_never<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or_else(never))
}

/// An answer, and where its time went as far as the server says so.
pub(super) struct Came {
    pub answer: Result<Completion, VlmError>,
    pub timing: Timing,
}

/// Reads what a server answered with status 200.
///
/// # Errors
/// [`Fault::Lost`]: it is no answer at all.
pub(super) fn read(
    grammars: &Grammars,
    ask: &Ask,
    picture_tokens: usize,
    bytes: &[u8],
) -> Result<Came, Fault> {
    let lost = |why: String| Fault::Lost(why);
    let reply: Reply = serde_json::from_slice(bytes)
        .map_err(|error| lost(format!("it answers what is no answer: {}", readable(&error.to_string()))))?;
    let [choice] = <[Choice; 1]>::try_from(reply.choices)
        .map_err(|choices| lost(format!("it gives {} answers to one question", choices.len())))?;
    let (counted, least) = (reply.usage.prompt_tokens, picture_tokens + CHAT_TOKENS_MIN);
    if counted < least {
        return Err(lost(format!(
            "it counts {counted} tokens of a prompt that has {least} at least: it does not see the picture"
        )));
    }
    let timing = reply.timings.map_or_else(Timing::default, |timings| Timing {
        prefill_ms: timings.prompt_ms,
        decode_ms: timings.predicted_ms,
        ..Timing::default()
    });
    let entries = choice.logprobs.and_then(|logprobs| logprobs.content);
    let answer = completion(grammars, &ask.form, choice.message, choice.finish_reason, entries.as_deref());
    Ok(Came { answer, timing })
}

fn completion(
    grammars: &Grammars,
    form: &Form,
    message: Message,
    finish: Option<String>,
    entries: Option<&[Entry]>,
) -> Result<Completion, VlmError> {
    if let Some(words) = message.refusal {
        return Err(VlmError::Lost { why: format!("the server refuses to answer: {}", readable(&words)) });
    }
    let text = message.content.unwrap_or_default();
    let finish = match finish.as_deref() {
        Some("stop") => Finish::Stop,
        Some("length") => Finish::Length,
        other => {
            let why = format!("the server ended the answer by {}", readable(other.unwrap_or("no reason")));
            return Err(VlmError::Lost { why });
        }
    };
    let is_bound = *form != Form::Free;
    let (tokens, ground) = if finish == Finish::Length && is_bound {
        // It has not come to the end of its form, and is read by nobody.
        (unsure(&text, entries), Ground::None)
    } else {
        grammars.read(form, &text, entries).map_err(|why| VlmError::Grammar { why })?
    };
    Ok(Completion { text, tokens, prompt_ids: vec![], finish, ground, cells: None })
}

/// The words of a server's error, on one line and cut to a length.
pub(super) fn words_of_error(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = value["error"]["message"].as_str().or(value["message"].as_str()).or(value["detail"].as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    readable(said.trim())
}

/// A server's words on one line, cut to a length: they end up in records and messages.
pub(super) fn readable(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
