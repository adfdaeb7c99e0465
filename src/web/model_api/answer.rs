//! Answers in OpenAI's form, whole or in chunks.

use super::asked::{Answer, Token};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use ulid::Ulid;
use utoipa::ToSchema;

/// A whole answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    /// Others have answers of another model.
    pub system_fingerprint: String,
    /// One.
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

/// The answer to a request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Choice {
    pub index: u32,
    pub message: Message,
    pub logprobs: Option<Logprobs>,
    /// `stop`, or `length` where it was cut off.
    pub finish_reason: &'static str,
}

/// What the model says.
#[derive(Serialize, ToSchema)]
pub(crate) struct Message {
    /// `assistant`.
    pub role: &'static str,
    pub content: String,
    /// Null: the engine refuses nothing.
    pub refusal: Option<String>,
}

/// How likely the tokens of an answer were.
#[derive(Serialize, ToSchema)]
pub(crate) struct Logprobs {
    pub content: Vec<TokenLogprob>,
}

/// How likely a token was.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    pub token: String,
    /// Natural logarithm of its probability among those that the form allowed.
    pub logprob: f32,
    pub bytes: Vec<u8>,
    /// Empty: the others are not kept.
    #[schema(value_type = Vec<Object>)]
    pub top_logprobs: [(); 0],
}

/// Tokens of a request and its answer, as the engine has counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Rows of pictures are tokens, too.
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
}

/// A piece of a streamed answer. `choices` is always there.
#[derive(Serialize, ToSchema)]
pub(crate) struct Chunk {
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    /// Empty in the chunk that counts tokens.
    pub choices: Vec<ChunkChoice>,
    /// In the last chunk; where it was asked for, null in those before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Counted>,
}

/// The tokens of a streamed answer, once they are counted.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Counted {
    /// Null: it goes on.
    NotYet,
    Whole(Usage),
}

/// What an answer says further.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub index: u32,
    pub delta: Delta,
    pub logprobs: Option<Logprobs>,
    /// Null but in the last.
    pub finish_reason: Option<&'static str>,
}

/// What comes after the deltas before it.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    /// In the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What all chunks of an answer have in common.
#[derive(Clone, Debug)]
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

impl Head {
    /// That of an answer that begins now.
    pub(super) fn new(model: String, fingerprint: String) -> Self {
        Self { id: format!("chatcmpl-{}", Ulid::generate()), created: now_s(), model, fingerprint }
    }

    pub(super) fn whole(self, answer: Answer, with_logprobs: bool) -> ChatCompletion {
        let usage = usage(&answer);
        let logprobs =
            with_logprobs.then(|| Logprobs { content: answer.tokens.iter().map(logprob).collect() });
        let finish_reason = finish(&answer);
        let message = Message { role: "assistant", content: answer.text, refusal: None };
        ChatCompletion {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            system_fingerprint: self.fingerprint,
            choices: vec![Choice { index: 0, message, logprobs, finish_reason }],
            usage,
        }
    }

    /// A chunk; without a choice it only counts tokens.
    pub(super) fn chunk(
        &self,
        choice: Option<(Delta, Option<&'static str>)>,
        usage: Option<Counted>,
    ) -> Chunk {
        let choice = choice.map(|(delta, finish_reason)| ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
        });
        Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices: choice.into_iter().collect(),
            usage,
        }
    }
}

pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) const fn finish(answer: &Answer) -> &'static str {
    if answer.is_cut { "length" } else { "stop" }
}

pub(super) fn usage(answer: &Answer) -> Usage {
    let (prompt_tokens, completion_tokens) = (answer.prompt_tokens, answer.tokens.len());
    Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}

fn logprob(token: &Token) -> TokenLogprob {
    TokenLogprob {
        token: String::from_utf8_lossy(&token.bytes).into_owned(),
        logprob: token.logprob,
        bytes: token.bytes.clone(),
        top_logprobs: [],
    }
}

/// The models that there are: the one that is loaded, or none yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub object: &'static str,
    pub data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    /// What requests name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the box began to serve it, in seconds since 1970.
    pub created: u64,
    pub owned_by: &'static str,
}
