//! `POST /v1/chat/completions`, read: what is understood, what is refused, what is ignored.
//!
//! ```text
//! body --JSON--> keys that would change the answer and that the engine does not have: refused, named in `param`
//!            '-> keys that are nothing to it (user, metadata, thinking, …): ignored
//!            '-> messages (`content`), response_format (`form`), the rest here --> Parsed
//! ```

use super::asked::{ANSWER_TOKENS_MAX, Question, Sampling};
use super::at::At;
use super::error::Refused;
use super::{content, form};
use axum::http::StatusCode;
use serde_json::Value;
use std::time::Instant;

/// Tokens of an answer whose request says nothing of it.
const ANSWER_TOKENS: usize = 1024;
/// Words of `stop`, as OpenAI has it, and the bytes of each.
const STOP_WORDS_MAX: usize = 4;
const STOP_WORD_BYTES_MAX: usize = 64;

/// A request that can be asked.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The name of the model that is asked.
    pub model: String,
    pub question: Question,
    /// A streamed answer ends with a chunk that counts its tokens.
    pub with_usage: bool,
    /// The answer says how likely its tokens were.
    pub with_logprobs: bool,
}

/// Reads a request; nobody waits for its answer after `until`.
///
/// # Errors
/// It is no JSON, or a key of it cannot be answered.
pub(super) fn parse(body: &[u8], until: Instant) -> Result<Parsed, Refused> {
    let mut value: Value = serde_json::from_slice(body).map_err(|error| {
        Refused::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {error}"))
    })?;
    let mut request = At::top(&mut value)?;
    let model = request.required_text("model")?;
    refuse_what_is_not_built(&mut request)?;
    let streams = request.flag("stream")?;
    let with_usage = match request.object("stream_options") {
        Some((mut options, path)) => At::of(&mut options, path)?.flag("include_usage")?,
        None => false,
    };
    let with_logprobs = request.flag("logprobs")?;
    if request.whole("top_logprobs", 0, 20)?.is_some_and(|count| count > 0) {
        let words =
            "the engine keeps the probability of the chosen token alone: leave top_logprobs out, or 0";
        return Err(request.wrong("top_logprobs", words).coded("unsupported_parameter"));
    }
    if with_logprobs && streams {
        let words = "probabilities come with whole answers only: leave logprobs out, or stream";
        return Err(request.wrong("logprobs", words).coded("unsupported_parameter"));
    }
    let tokens_max = tokens_max(&mut request)?;
    let form = form::form(&mut request)?;
    let sampling = sampling(&mut request)?;
    let stop = stop(&mut request)?;
    let turns = content::turns(&mut request)?;
    let question = Question { turns, form, tokens_max, sampling, stop, streams, until };
    Ok(Parsed { model, question, with_usage, with_logprobs })
}

/// Keys that would change the answer, and that nothing here can do.
fn refuse_what_is_not_built(request: &mut At<'_>) -> Result<(), Refused> {
    if request.whole("n", i64::MIN, i64::MAX)?.is_some_and(|n| n != 1) {
        return Err(request.wrong("n", "a request has one answer: n must be 1").coded("unsupported_value"));
    }
    for key in ["presence_penalty", "frequency_penalty"] {
        if request.number(key, -2.0, 2.0)?.is_some_and(|penalty| penalty != 0.0) {
            let words = format!("{key} is not built: leave it out, or 0; there is repetition_penalty");
            return Err(request.wrong(key, words).coded("unsupported_parameter"));
        }
    }
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    for key in ["tools", "functions"] {
        if request.take(key).is_some_and(|value| !is_empty(&value)) {
            let words = format!("the model calls no tools: leave {key} out");
            return Err(request.wrong(key, words).coded("unsupported_parameter"));
        }
    }
    for key in ["tool_choice", "function_call"] {
        let is_harmless = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
        if request.take(key).is_some_and(|value| !is_harmless(&value)) {
            let words = format!("the model calls no tools: leave {key} out");
            return Err(request.wrong(key, words).coded("unsupported_parameter"));
        }
    }
    if request.take("logit_bias").is_some_and(|value| !is_empty(&value)) {
        return Err(request.wrong("logit_bias", "logit_bias is not built").coded("unsupported_parameter"));
    }
    let is_text = |value: &Value| {
        value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind.as_str() == Some("text")))
    };
    if request.take("modalities").is_some_and(|value| !is_text(&value)) || request.has("audio") {
        return Err(request.wrong("modalities", "the model answers in text only").coded("unsupported_value"));
    }
    Ok(())
}

/// `max_completion_tokens`, or the older `max_tokens`.
fn tokens_max(request: &mut At<'_>) -> Result<usize, Refused> {
    let most = ANSWER_TOKENS_MAX as i64;
    let new = request.whole("max_completion_tokens", 1, most)?;
    let old = request.whole("max_tokens", 1, most)?;
    Ok(new.or(old).map_or(ANSWER_TOKENS, |count| count as usize))
}

/// Without a temperature the most likely token is taken, so that the same question has the same answer.
fn sampling(request: &mut At<'_>) -> Result<Sampling, Refused> {
    let temperature = request.number("temperature", 0.0, 2.0)?.unwrap_or(0.0);
    let top_p = request.number("top_p", 0.0, 1.0)?.filter(|p| *p < 1.0);
    // 0 or less is vLLM's word for all of them.
    let top_k = request.whole("top_k", -1, 1 << 20)?.filter(|k| *k > 0);
    let seed = request.whole("seed", i64::MIN, i64::MAX)?;
    Ok(Sampling {
        // Of a set that holds no probability the most likely token is left.
        temperature: if top_p == Some(0.0) { 0.0 } else { temperature },
        top_p: top_p.filter(|p| *p > 0.0),
        top_k: top_k.map(|k| k as usize),
        repetition_penalty: request.number("repetition_penalty", 0.01, 10.0)?.unwrap_or(1.0) as f32,
        seed: seed.map_or_else(rand::random, i64::cast_unsigned),
    })
}

fn stop(request: &mut At<'_>) -> Result<Vec<String>, Refused> {
    let words = match request.take("stop") {
        None => return Ok(vec![]),
        Some(Value::String(word)) => Some(vec![word]),
        Some(Value::Array(words)) => words.into_iter().map(|word| word.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    };
    let words = words.filter(|words| {
        words.len() <= STOP_WORDS_MAX && words.iter().all(|word| word.len() <= STOP_WORD_BYTES_MAX)
    });
    words.ok_or_else(|| {
        let expected = format!(
            "a text or a list of at most {STOP_WORDS_MAX}, of at most {STOP_WORD_BYTES_MAX} bytes each"
        );
        request.wrong("stop", format!("{expected}, is expected"))
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
