//! What the daemon and the engine's process say to each other.
//!
//! ```text
//! parent:  Job + words and pixels, …                Stop: it is late
//! child:   Ready | Failed    Delta + text, …        Answer + completions, once for each job, in whatever order they come
//! ```
//!
//! Both sides are the same binary, so the form needs no version; the parent still believes nothing:
//! an engine whose memory is corrupt may say anything. Offsets that leave a text and probabilities
//! that are none are errors of that answer.

use crate::ipc::PAYLOAD_BYTES_MAX;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use vlm::{AnswerToken, Answered, Ask, Cells, ClipFrame, Completion, Content, Features, Finish, Form};
use vlm::{Ground, Job};
use vlm::{ModelInfo, Rank, Role, Sampling, Shown, Timing, Turn, VlmError};

/// Room that the words of a job have in its message, which `abilities::TEXT_BYTES_MAX` is a part of.
const WORDS_BYTES_MAX: usize = 1 << 20;

/// Most bytes that the pictures of one job may have, three a pixel.
pub(crate) const PIXEL_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - WORDS_BYTES_MAX;

/// From the daemon to the engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToEngine {
    /// Payload: `words_bytes` of JSON (questions and turns), then the pixels of the pictures, one after the other.
    Job {
        id: u64,
        /// Class and due time: the lower goes first.
        rank: (u8, u64),
        /// Width and height of each picture.
        images: Vec<(u32, u32)>,
        /// The pictures are a clip, exposed so many nanoseconds after its first one.
        clip_ns: Option<Vec<u64>>,
        min_pixels: u32,
        max_pixels: u32,
        words_bytes: usize,
        /// sha256 of the adapter that it is answered with, which was sent before.
        adapter: Option<String>,
    },
    /// An adapter that jobs will name. Payload: its file.
    Adapter { name: String, sha256: String },
    /// No job names this adapter any more.
    Forget { sha256: String },
    /// The job is to be answered with what is complete.
    Stop { id: u64 },
}

/// From the engine to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromEngine {
    /// The model is loaded.
    Ready {
        name: String,
        text_sha256: String,
        mmproj_sha256: String,
        labels: Vec<String>,
        proof: Option<String>,
    },
    /// The engine gives up and ends: the model cannot be loaded, or it panicked.
    Failed { why: String },
    /// A streamed answer of the job, to its question `ask`, says this further. Payload: the text.
    Delta { id: u64, ask: usize },
    /// Payload: `words_bytes` of JSON, one entry a question, then the features of those that were asked for them, as
    /// f32, little-endian. Times of the job in milliseconds: preprocess, vision, prefill, decode.
    Answer { id: u64, timing_ms: [f64; 4], words_bytes: usize },
}

/// All that a job says besides its pictures.
#[derive(Serialize, Deserialize)]
struct WordsWire {
    asks: Vec<AskWire>,
    /// The pictures stand in these turns.
    turns: Option<Vec<TurnWire>>,
}

#[derive(Serialize, Deserialize)]
struct TurnWire {
    role: RoleWire,
    /// Texts; `None` is the next picture.
    content: Vec<Option<String>>,
}

#[derive(Serialize, Deserialize)]
enum RoleWire {
    System,
    User,
    Assistant,
}

#[derive(Serialize, Deserialize)]
struct AskWire {
    text: String,
    form: FormWire,
    max_tokens: usize,
    temperature: f64,
    top_p: Option<f64>,
    top_k: Option<usize>,
    repeat_penalty: f32,
    seed: u64,
    stop: Vec<String>,
    streams: bool,
}

#[derive(Serialize, Deserialize)]
enum FormWire {
    Defects(Vec<String>),
    Lines,
    Schema(String),
    Lark(String),
    Free,
    CellsOfBackbone,
    CellsOfTower,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum GroundWire {
    Constrained,
    Bounded,
    Unconstrained,
    None,
}

#[derive(Serialize, Deserialize)]
enum AnswerWire {
    Complete {
        text: String,
        /// id, start, end, probability; JSON has no NaN, it arrives as none.
        tokens: Vec<(u32, usize, usize, Option<f32>)>,
        prompt_ids: Vec<u32>,
        cut_off: bool,
        ground: GroundWire,
    },
    Cells {
        rows: usize,
        cols: usize,
        dim: usize,
    },
    Stopped,
    NotFinite,
    // What is wrong with the question, which its asker has to hear as that, and not as a loss.
    Image {
        width: u32,
        height: u32,
        why: String,
    },
    TooLong {
        needed: usize,
        available: usize,
    },
    Grammar(String),
    Turns(String),
    Unable(String),
    Failed(String),
}

/// An answer that is none, with the reason in words.
fn lost(why: impl Into<String>) -> VlmError {
    VlmError::Lost { why: why.into() }
}

/// The header and the words of a job; its pixels follow them in the payload.
pub(crate) fn job_message(id: u64, rank: Rank, job: &Job) -> (ToEngine, Vec<u8>) {
    let wire = WordsWire { asks: job.asks.iter().map(ask_to_wire).collect(), turns: turns(&job.shown) };
    let words = serde_json::to_vec(&wire).expect("numbers and strings always serialise");
    let header = ToEngine::Job {
        id,
        rank: (rank.class, rank.due),
        images: job.shown.images().iter().map(|i| i.dimensions()).collect(),
        clip_ns: clip_ns(&job.shown),
        min_pixels: job.min_pixels,
        max_pixels: job.max_pixels,
        words_bytes: words.len(),
        adapter: job.adapter.as_ref().map(|adapter| adapter.sha256.to_string()),
    };
    (header, words)
}

/// The job of a message, without its adapter; what does not fit together is said in words.
pub(crate) fn job_of(
    images: &[(u32, u32)],
    clip_ns: Option<&[u64]>,
    min_pixels: u32,
    max_pixels: u32,
    words_bytes: usize,
    payload: &[u8],
) -> Result<Job, String> {
    let (words, mut pixels) = payload.split_at_checked(words_bytes).ok_or("the words are cut off")?;
    let WordsWire { asks, turns } = serde_json::from_slice(words).map_err(|e| e.to_string())?;
    let mut pictures = vec![];
    for &(width, height) in images {
        let bytes = width as usize * height as usize * 3;
        let (own, rest) = pixels.split_at_checked(bytes).ok_or("a picture is cut off")?;
        pictures.push(Arc::new(RgbImage::from_raw(width, height, own.to_vec()).ok_or("a picture's size")?));
        pixels = rest;
    }
    if !pixels.is_empty() {
        return Err(format!("{} bytes after the last picture", pixels.len()));
    }
    let asks = asks.into_iter().map(ask_of_wire).collect();
    let shown = match turns {
        Some(_) if clip_ns.is_some() => return Err("a conversation is no clip".into()),
        Some(turns) => Shown::Turns(turns_of(turns, pictures)?),
        None => shown_of(pictures, clip_ns)?,
    };
    Ok(Job { shown, min_pixels, max_pixels, asks, adapter: None })
}

fn clip_ns(shown: &Shown) -> Option<Vec<u64>> {
    match shown {
        Shown::Images(_) | Shown::Turns(_) => None,
        Shown::Clip(frames) => Some(frames.iter().map(|f| f.at.as_nanos() as u64).collect()),
    }
}

fn turns(shown: &Shown) -> Option<Vec<TurnWire>> {
    let Shown::Turns(turns) = shown else { return None };
    let content = |content: &Content| match content {
        Content::Text(text) => Some(text.to_string()),
        Content::Image(_) => None,
    };
    let turn = |turn: &Turn| TurnWire {
        role: match turn.role {
            Role::System => RoleWire::System,
            Role::User => RoleWire::User,
            Role::Assistant => RoleWire::Assistant,
        },
        content: turn.content.iter().map(content).collect(),
    };
    Some(turns.iter().map(turn).collect())
}

fn turns_of(wire: Vec<TurnWire>, pictures: Vec<Arc<RgbImage>>) -> Result<Vec<Turn>, String> {
    let mut pictures = pictures.into_iter();
    let mut content = |text: Option<String>| match text {
        Some(text) => Ok(Content::Text(text.into())),
        None => pictures.next().map(Content::Image).ok_or("a turn lacks its picture"),
    };
    let mut turns = vec![];
    for TurnWire { role, content: pieces } in wire {
        let role = match role {
            RoleWire::System => Role::System,
            RoleWire::User => Role::User,
            RoleWire::Assistant => Role::Assistant,
        };
        turns.push(Turn { role, content: pieces.into_iter().map(&mut content).collect::<Result<_, _>>()? });
    }
    match pictures.len() {
        0 => Ok(turns),
        left => Err(format!("{left} pictures stand in no turn")),
    }
}

fn shown_of(pictures: Vec<Arc<RgbImage>>, clip_ns: Option<&[u64]>) -> Result<Shown, String> {
    let Some(times) = clip_ns else { return Ok(Shown::Images(pictures)) };
    if times.len() != pictures.len() {
        return Err(format!("{} times for {} pictures of a clip", times.len(), pictures.len()));
    }
    let frame = |(image, ns): (_, &u64)| ClipFrame { image, at: Duration::from_nanos(*ns) };
    Ok(Shown::Clip(pictures.into_iter().zip(times).map(frame).collect()))
}

fn ask_to_wire(ask: &Ask) -> AskWire {
    let Sampling { temperature, top_p, top_k, repeat_penalty, seed } = ask.sampling;
    AskWire {
        text: ask.text.to_string(),
        form: form_to_wire(&ask.form),
        max_tokens: ask.max_tokens,
        temperature,
        top_p,
        top_k,
        repeat_penalty,
        seed,
        stop: ask.stop.iter().map(|word| word.to_string()).collect(),
        streams: ask.streams,
    }
}

fn ask_of_wire(wire: AskWire) -> Ask {
    let AskWire { text, form, max_tokens, temperature, top_p, top_k, repeat_penalty, seed, stop, streams } =
        wire;
    let sampling = Sampling { temperature, top_p, top_k, repeat_penalty, seed };
    let stop = stop.into_iter().map(Into::into).collect();
    Ask { sampling, stop, streams, ..Ask::new(&text, form_of_wire(form), max_tokens) }
}

fn form_to_wire(form: &Form) -> FormWire {
    match form {
        Form::Defects { labels } => FormWire::Defects(labels.to_vec()),
        Form::Lines => FormWire::Lines,
        Form::Schema(schema) => FormWire::Schema(schema.to_string()),
        Form::Lark(grammar) => FormWire::Lark(grammar.to_string()),
        Form::Free => FormWire::Free,
        Form::Cells(Features::Backbone) => FormWire::CellsOfBackbone,
        Form::Cells(Features::Tower) => FormWire::CellsOfTower,
    }
}

fn form_of_wire(wire: FormWire) -> Form {
    match wire {
        FormWire::Defects(labels) => Form::Defects { labels: labels.into() },
        FormWire::Lines => Form::Lines,
        FormWire::Schema(schema) => Form::Schema(schema.into()),
        FormWire::Lark(grammar) => Form::Lark(grammar.into()),
        FormWire::Free => Form::Free,
        FormWire::CellsOfBackbone => Form::Cells(Features::Backbone),
        FormWire::CellsOfTower => Form::Cells(Features::Tower),
    }
}

/// The payload of `Answer`, and how many of its bytes are words.
fn answer_message(answers: Vec<Result<Completion, VlmError>>) -> (Vec<u8>, usize) {
    let mut features: Vec<Cells> = vec![];
    let wire: Vec<AnswerWire> =
        answers.into_iter().map(|answer| answer_to_wire(answer, &mut features)).collect();
    let mut payload = serde_json::to_vec(&wire).expect("numbers and strings always serialise");
    let words = payload.len();
    features.iter().flat_map(|cells| &cells.values).for_each(|v| payload.extend_from_slice(&v.to_le_bytes()));
    (payload, words)
}

fn answer_to_wire(answer: Result<Completion, VlmError>, features: &mut Vec<Cells>) -> AnswerWire {
    match answer {
        Ok(Completion { cells: Some(cells), .. }) => {
            let Cells { rows, cols, dim, .. } = cells;
            features.push(cells);
            AnswerWire::Cells { rows, cols, dim }
        }
        Ok(Completion { text, tokens, prompt_ids, finish, ground, cells: None }) => AnswerWire::Complete {
            text,
            tokens: tokens.iter().map(|t| (t.id, t.start, t.end, Some(t.prob))).collect(),
            prompt_ids,
            cut_off: finish == Finish::Length,
            ground: match ground {
                Ground::Constrained => GroundWire::Constrained,
                Ground::Bounded => GroundWire::Bounded,
                Ground::Unconstrained => GroundWire::Unconstrained,
                Ground::None => GroundWire::None,
            },
        },
        Err(VlmError::Stopped) => AnswerWire::Stopped,
        Err(VlmError::NotFinite) => AnswerWire::NotFinite,
        Err(VlmError::Image { width, height, why }) => AnswerWire::Image { width, height, why },
        Err(VlmError::TooLong { needed, available }) => AnswerWire::TooLong { needed, available },
        Err(VlmError::Grammar { why }) => AnswerWire::Grammar(why),
        Err(VlmError::Turns { why }) => AnswerWire::Turns(why),
        Err(VlmError::Unable { why }) => AnswerWire::Unable(why),
        Err(error) => AnswerWire::Failed(error.to_string()),
    }
}

/// The answers of a payload, which must be as many as there were questions.
pub(crate) fn answers_of(
    payload: &[u8],
    words_bytes: usize,
    asked: usize,
) -> Result<Vec<Result<Completion, VlmError>>, String> {
    let (words, mut features) = payload.split_at_checked(words_bytes).ok_or("the words are cut off")?;
    let wire: Vec<AnswerWire> = serde_json::from_slice(words).map_err(|e| e.to_string())?;
    if wire.len() != asked {
        return Err(format!("{} answers to {asked} questions", wire.len()));
    }
    let mut answers = vec![];
    for answer in wire {
        answers.push(match answer {
            AnswerWire::Cells { rows, cols, dim } => cells_of(rows, cols, dim, &mut features)?,
            answer => answer_of_wire(answer),
        });
    }
    if !features.is_empty() {
        return Err(format!("{} bytes after the last features", features.len()));
    }
    Ok(answers)
}

/// The next features of a payload.
fn cells_of(
    rows: usize,
    cols: usize,
    dim: usize,
    features: &mut &[u8],
) -> Result<Result<Completion, VlmError>, String> {
    let bytes = [cols, dim, size_of::<f32>()].into_iter().try_fold(rows, usize::checked_mul);
    let (own, rest) =
        bytes.and_then(|bytes| features.split_at_checked(bytes)).ok_or("the features are cut off")?;
    *features = rest;
    let values: Vec<f32> = own.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if !values.iter().all(|v| v.is_finite()) {
        return Ok(Err(VlmError::NotFinite));
    }
    Ok(Ok(Completion::of_cells(Cells { rows, cols, dim, values })))
}

fn answer_of_wire(wire: AnswerWire) -> Result<Completion, VlmError> {
    let (text, tokens, prompt_ids, cut_off, ground) = match wire {
        AnswerWire::Complete { text, tokens, prompt_ids, cut_off, ground } => {
            (text, tokens, prompt_ids, cut_off, ground)
        }
        AnswerWire::Cells { .. } => return Err(lost("features without their values")),
        AnswerWire::Stopped => return Err(VlmError::Stopped),
        AnswerWire::NotFinite => return Err(VlmError::NotFinite),
        AnswerWire::Image { width, height, why } => return Err(VlmError::Image { width, height, why }),
        AnswerWire::TooLong { needed, available } => return Err(VlmError::TooLong { needed, available }),
        AnswerWire::Grammar(why) => return Err(VlmError::Grammar { why }),
        AnswerWire::Turns(why) => return Err(VlmError::Turns { why }),
        AnswerWire::Unable(why) => return Err(VlmError::Unable { why }),
        AnswerWire::Failed(why) => return Err(lost(why)),
    };
    let mut checked = Vec::with_capacity(tokens.len());
    for (id, start, end, prob) in tokens {
        let prob = prob.filter(|p| (0.0..=1.0).contains(p)).ok_or(VlmError::NotFinite)?;
        if start > end || end > text.len() {
            return Err(lost("an answer's tokens leave its text"));
        }
        checked.push(AnswerToken { id, start, end, prob });
    }
    let finish = if cut_off { Finish::Length } else { Finish::Stop };
    let ground = match ground {
        GroundWire::Constrained => Ground::Constrained,
        GroundWire::Bounded => Ground::Bounded,
        GroundWire::Unconstrained => Ground::Unconstrained,
        GroundWire::None => Ground::None,
    };
    Ok(Completion { text, tokens: checked, prompt_ids, finish, ground, cells: None })
}

/// The header of `Ready`.
pub(crate) fn ready(info: &ModelInfo) -> FromEngine {
    let ModelInfo { name, text_sha256, mmproj_sha256, labels, proof, .. } = info.clone();
    FromEngine::Ready { name, text_sha256, mmproj_sha256, labels, proof }
}

/// The header and the payload of `Answer`.
pub(crate) fn answered(answered: Answered) -> (FromEngine, Vec<u8>) {
    let Answered { id, answers, timing } = answered;
    let Timing { preprocess_ms, vision_ms, prefill_ms, decode_ms } = timing;
    let (payload, words_bytes) = answer_message(answers);
    let timing_ms = [preprocess_ms, vision_ms, prefill_ms, decode_ms];
    (FromEngine::Answer { id, timing_ms, words_bytes }, payload)
}

/// The times of `Answer`.
pub(crate) fn timing_of([preprocess_ms, vision_ms, prefill_ms, decode_ms]: [f64; 4]) -> Timing {
    Timing { preprocess_ms, vision_ms, prefill_ms, decode_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(prob: f32, end: usize) -> Completion {
        let token = AnswerToken { id: 7, start: 0, end, prob };
        Completion {
            text: "[]".into(),
            tokens: vec![token],
            prompt_ids: vec![1, 2],
            finish: Finish::Stop,
            ground: Ground::Constrained,
            cells: None,
        }
    }

    /// Answers to so many questions, there and back.
    fn through(
        answers: Vec<Result<Completion, VlmError>>,
        asked: usize,
    ) -> Result<Vec<Result<Completion, VlmError>>, String> {
        let (payload, words) = answer_message(answers);
        answers_of(&payload, words, asked)
    }

    #[test]
    fn features_come_through_unchanged_and_are_not_believed() {
        let cells = |values: Vec<f32>| Completion::of_cells(Cells { rows: 1, cols: 2, dim: 2, values });
        let answers =
            || vec![Ok(cells(vec![0.5, -1e-9, 3e9, 0.0])), Ok(completion(0.1, 2)), Ok(cells(vec![1.0; 4]))];
        let back = through(answers(), 3).unwrap();
        for (back, sent) in back.iter().zip(answers()) {
            assert_eq!(back.as_ref().unwrap(), sent.as_ref().unwrap());
        }
        let back = through(vec![Ok(cells(vec![0.0, f32::NAN, 0.0, 0.0]))], 1).unwrap();
        assert!(matches!(back[0], Err(VlmError::NotFinite)));
        let (payload, words) = answer_message(answers());
        assert!(answers_of(&payload[..payload.len() - 1], words, 3).is_err());
        assert!(answers_of(&[&payload[..], &[0]].concat(), words, 3).is_err());
        assert!(answers_of(&payload, payload.len() + 1, 3).is_err());
        let huge = br#"[{"Cells":{"rows":4611686018427387904,"cols":4,"dim":4}}]"#;
        assert!(answers_of(huge, huge.len(), 1).is_err());
    }

    #[test]
    fn a_job_and_its_answers_come_through_unchanged() {
        let picture = |w, h, shade| Arc::new(RgbImage::from_pixel(w, h, image::Rgb([shade, 2, 3])));
        let sampling = Sampling { temperature: 0.7, top_k: Some(3), ..Sampling::default() };
        let labels = Arc::from(["pit".to_owned(), "stain".to_owned()]);
        let forms = [
            Form::Defects { labels },
            Form::Lines,
            Form::Schema("{}".into()),
            Form::Lark("start: \"[]\"".into()),
            Form::Free,
            Form::Cells(Features::Backbone),
            Form::Cells(Features::Tower),
        ];
        let stop: Vec<Arc<str>> = vec!["\n".into(), "User:".into()];
        let ask = |form| Ask {
            sampling: sampling.clone(),
            stop: stop.clone(),
            streams: true,
            ..Ask::new("Read.", form, 5)
        };
        let asks = forms.map(ask);
        let frame = |image, ms| ClipFrame { image, at: Duration::from_millis(ms) };
        let clip = vec![frame(picture(3, 2, 9), 0), frame(picture(3, 2, 8), 250)];
        let images = vec![picture(3, 2, 9), picture(1, 1, 8)];
        let said = [
            vec![Content::Text("Look.".into())],
            vec![Content::Image(images[0].clone()), Content::Text("Well?".into())],
            vec![],
            vec![Content::Image(images[1].clone())],
        ];
        let roles = [Role::System, Role::User, Role::Assistant, Role::User];
        let turns = roles.into_iter().zip(said).map(|(role, content)| Turn { role, content }).collect();
        for shown in [Shown::Images(images), Shown::Clip(clip), Shown::Turns(turns)] {
            let job = Job { shown, min_pixels: 1, max_pixels: 2, asks: asks.to_vec(), adapter: None };
            let (header, mut payload) = job_message(4, Rank { class: 1, due: 9 }, &job);
            job.shown.images().iter().for_each(|i| payload.extend_from_slice(i.as_raw()));
            let header = serde_json::from_slice(&serde_json::to_vec(&header).unwrap()).unwrap();
            let ToEngine::Job {
                id: 4,
                rank: (1, 9),
                images,
                clip_ns,
                min_pixels,
                max_pixels,
                words_bytes,
                adapter: None,
            } = header
            else {
                panic!()
            };
            let of =
                |clip_ns, bytes: &[u8]| job_of(&images, clip_ns, min_pixels, max_pixels, words_bytes, bytes);
            let back = of(clip_ns.as_deref(), &payload).unwrap();
            assert_eq!(format!("{back:?}"), format!("{job:?}"));
            for bad in [&payload[..payload.len() - 1], &[&payload[..], &[0]].concat()] {
                assert!(of(clip_ns.as_deref(), bad).is_err());
            }
            assert!(of(Some(&[0]), &payload).is_err(), "a clip has a time for each picture");
        }
        for ground in [Ground::Constrained, Ground::Bounded, Ground::Unconstrained, Ground::None] {
            let said = Completion { ground, ..completion(0.1, 2) };
            let back = through(vec![Ok(said.clone())], 1).unwrap();
            assert_eq!(back[0].as_ref().unwrap(), &said);
        }
        let answers = vec![Ok(completion(0.1, 2)), Err(VlmError::Stopped), Err(lost("x"))];
        let back = through(answers, 3).unwrap();
        assert!(matches!(back[1], Err(VlmError::Stopped)));
        assert!(back[2].as_ref().unwrap_err().to_string().contains('x'));
        assert!(answers_of(b"[]", 2, 1).is_err() && answers_of(b"\xff", 1, 0).is_err());
    }

    /// Who asked what cannot be answered hears that, and not that the engine was lost.
    #[test]
    fn what_is_wrong_with_a_question_is_heard_as_that() {
        let why = || "why".to_owned();
        let errors = || {
            [
                VlmError::Image { width: 3, height: 4, why: why() },
                VlmError::TooLong { needed: 5, available: 6 },
                VlmError::Grammar { why: why() },
                VlmError::Turns { why: why() },
                VlmError::Unable { why: why() },
            ]
        };
        let back = through(errors().into_iter().map(Err).collect(), 5).unwrap();
        for (back, sent) in back.into_iter().zip(errors()) {
            assert_eq!(format!("{:?}", back.unwrap_err()), format!("{sent:?}"));
        }
    }

    #[test]
    fn no_number_and_no_offset_is_believed() {
        for prob in [f32::NAN, f32::INFINITY, -0.1, 1.5] {
            let back = through(vec![Ok(completion(prob, 2))], 1).unwrap();
            assert!(matches!(back[0], Err(VlmError::NotFinite)), "{prob}");
        }
        let back = through(vec![Ok(completion(0.5, 3))], 1).unwrap();
        assert!(back[0].is_err());
    }
}
