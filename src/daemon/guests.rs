//! Questions of others (`/v1`) to the engine, after everything that the line asks.
//!
//! ```text
//! web --Question--> pictures: one after the other decoded as a camera's, and resized --Order, class guest--> engine
//!     <--Heard-- reply: deltas, then the answer           `Asked` dropped: the order is stopped
//! ```
//!
//! A question is a conversation to the engine: its prompt is read in chunks and its pictures one a step, so that a part
//! which comes meanwhile waits for no more than one of these, and its keys and values take at most half of the rows.
//!
//! A schema is tried first, in a process of its own (`schemas`). A picture is resized here to what the model sees of it, so
//! that a question that waits holds no more than that.

use super::schemas::Schemas;
use crate::camera::decode::{Depth, from_bytes};
use crate::config::Config;
use crate::engine::{Class, Engine, Event, Order, Readiness, Reply};
use crate::ipc::Program;
use crate::web::model_api::asked::{
    self, Answer, Answering, Asked, Hear, Heard, Picture, Question, Refusal, Said, Served, Speaker, Token,
};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use vlm::free::{QWEN_MIN_PIXELS, TILE_MIN_PIXELS};
use vlm::image::{ROW_PX, resized};
use vlm::{Ask, Completion, Content, Finish, Form, Job, ModelInfo, Role, Sampling, Shown, Turn, VlmError};

/// When to ask again for a model that is being loaded or was lost.
const COMES_AFTER: Duration = Duration::from_secs(10);
/// The key of a request that holds an answer to a schema.
const FORMAT: &str = "response_format";
/// Digits of the hashes of both files in a fingerprint.
const DIGITS: usize = 8;

/// Asks the engine for others. It keeps no engine, whose process ends with the line.
pub(super) struct Guests {
    engine: Weak<Engine>,
    /// Most pixels of a picture after its resize.
    max_pixels: u32,
    /// One picture is decoded at a time: it takes memory and a core, which the line needs.
    decoding: Mutex<()>,
    schemas: Schemas,
}

impl Guests {
    /// Over this engine.
    pub(super) fn new(config: &Config, engine: &Arc<Engine>) -> Self {
        let max_pixels = config.web.as_ref().map_or(QWEN_MIN_PIXELS, |web| web.model_api_max_pixels);
        let schemas = Schemas::new(Program::new(["try-schema"]));
        Self { engine: Arc::downgrade(engine), max_pixels, decoding: Mutex::default(), schemas }
    }

    fn job(&self, question: Question, info: &ModelInfo) -> Result<Job, Refusal> {
        let min_pixels = if info.labels.is_empty() { QWEN_MIN_PIXELS } else { TILE_MIN_PIXELS };
        let turn = |turn: asked::Turn| -> Result<Turn, Refusal> {
            let role = match turn.speaker {
                Speaker::System => Role::System,
                Speaker::User => Role::User,
                Speaker::Assistant => Role::Assistant,
            };
            let content = turn.said.into_iter().map(|said| match said {
                Said::Text(text) => Ok(Content::Text(text.into())),
                Said::Picture(picture) => self.shown(picture, min_pixels).map(Content::Image),
            });
            Ok(Turn { role, content: content.collect::<Result<_, Refusal>>()? })
        };
        let turns = question.turns.into_iter().map(turn).collect::<Result<_, Refusal>>()?;
        let form = match question.form {
            asked::Form::Text => Form::Free,
            asked::Form::Json(schema) => Form::Schema(schema.into()),
        };
        let of = question.sampling;
        let ask = Ask {
            sampling: Sampling {
                temperature: of.temperature,
                top_p: of.top_p,
                top_k: of.top_k,
                repeat_penalty: of.repetition_penalty,
                seed: of.seed,
            },
            stop: question.stop.into_iter().map(Arc::from).collect(),
            streams: question.streams,
            ..Ask::new("", form, question.tokens_max)
        };
        // They have their sizes already.
        let (min_pixels, max_pixels) = (ROW_PX * ROW_PX, u32::MAX);
        Ok(Job { shown: Shown::Turns(turns), min_pixels, max_pixels, asks: vec![ask], adapter: None })
    }

    /// A picture as the model sees it.
    fn shown(&self, picture: Picture, min_pixels: u32) -> Result<Arc<image::RgbImage>, Refusal> {
        let Picture { bytes, is_low, place } = picture;
        // What has low detail is shown as small as Qwen shows anything.
        let max_pixels = if is_low { QWEN_MIN_PIXELS } else { self.max_pixels };
        let _turn = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        let decoded = from_bytes(Path::new("the picture"), bytes, Depth::default());
        let decoded = decoded.map_err(|error| error.to_string());
        let shown = decoded.and_then(|pixels| {
            let shown =
                resized(&pixels, ROW_PX, min_pixels, max_pixels).map_err(|error| error.to_string())?;
            Ok(shown.into_owned())
        });
        shown.map(Arc::new).map_err(|why| Refusal::Picture { place, why })
    }
}

impl Answering for Guests {
    fn served(&self) -> Option<Served> {
        let info = self.engine.upgrade()?.info();
        let digits = |hash: &str| hash.get(..DIGITS).unwrap_or_default().to_owned();
        let fingerprint = format!("fp_{}{}", digits(&info.text_sha256), digits(&info.mmproj_sha256));
        Some(info.name).filter(|name| !name.is_empty()).map(|name| Served { name, fingerprint })
    }

    fn ask(&self, mut question: Question, hear: Hear) -> Result<Asked, Refusal> {
        let ends = || Refusal::NotReady { why: "the station stops".into(), after: COMES_AFTER };
        let engine = self.engine.upgrade().ok_or_else(ends)?;
        let not_ready = |why: String, after| {
            engine.want();
            let health = engine.health();
            Err(Refusal::NotReady { why: health.refused.or(health.fault).unwrap_or(why), after })
        };
        match engine.readiness() {
            Readiness::Ready => {}
            Readiness::Coming { why } => return not_ready(why, COMES_AFTER),
            Readiness::Resting { left, why } => return not_ready(why, left.max(COMES_AFTER)),
        }
        let (deadline, is_held) = (question.until, question.form != asked::Form::Text);
        if let asked::Form::Json(schema) = &question.form {
            let untried = |why| Refusal::NotReady { why, after: COMES_AFTER };
            let refused = self.schemas.refusal(schema).map_err(untried)?;
            refused.map_or(Ok(()), |why| Err(Refusal::Invalid { param: Some(FORMAT), why }))?;
        }
        // Servers say an answer as a whole: a stream of it is one piece.
        let is_one_piece = question.streams && !engine.abilities().streams;
        question.streams &= !is_one_piece;
        let job = self.job(question, &engine.info())?;
        engine.abilities().check(&job).map_err(|why| Refusal::Invalid { param: None, why })?;
        let reply: Reply = Arc::new(move |event| {
            // There is room for every token, and whoever has left hears nothing.
            let say = |heard| _ = hear.try_send(heard);
            match event {
                Event::Delta { text, .. } => say(Heard::Text(text)),
                Event::Answer(mut answer) => {
                    let end = end(answer.answers.pop(), is_held);
                    if is_one_piece && let Ok(answer) = &end {
                        say(Heard::Text(answer.text.clone()));
                    }
                    say(Heard::End(end));
                }
            }
        });
        let order = Order { class: Class::Guest, deadline, job, reply };
        let id = engine.submit(order).map_err(|_| Refusal::Full)?;
        let asked = Weak::clone(&self.engine);
        Ok(Asked::new(move || {
            if let Some(engine) = asked.upgrade() {
                engine.cancel(id);
            }
        }))
    }
}

/// What came of a question; `is_held`: its answer has a form.
fn end(answer: Option<Result<Completion, VlmError>>, is_held: bool) -> Result<Answer, Refusal> {
    let invalid = |param, why| Refusal::Invalid { param: Some(param), why };
    let completion = answer.unwrap_or(Err(VlmError::Stopped)).map_err(|error| match error {
        VlmError::Grammar { why } if is_held => invalid(FORMAT, why),
        VlmError::Image { .. } | VlmError::Turns { .. } => invalid("messages", error.to_string()),
        VlmError::TooLong { .. } => Refusal::TooLong { why: error.to_string() },
        VlmError::Unable { why } => Refusal::Invalid { param: None, why },
        VlmError::Lost { why } => Refusal::NotReady { why, after: COMES_AFTER },
        VlmError::Stopped => Refusal::Late,
        error => Refusal::Failed { why: error.to_string() },
    })?;
    let bytes = completion.text.as_bytes();
    let token = |token: &vlm::AnswerToken| Token {
        // What was no text is one by now, and may stand elsewhere.
        bytes: bytes.get(token.start..token.end).unwrap_or_default().to_vec(),
        // A token that was as good as impossible has no logarithm that JSON could write.
        logprob: token.prob.max(f32::MIN_POSITIVE).ln(),
    };
    Ok(Answer {
        tokens: completion.tokens.iter().map(token).collect(),
        prompt_tokens: completion.prompt_ids.len(),
        is_cut: completion.finish == Finish::Length,
        text: completion.text,
    })
}
