//! The messages of a request, as turns of a conversation.
//!
//! ```text
//! system | developer …  the first messages, joined          text
//! user                  text, image_url, video, video_url   text, pictures
//! assistant             text                                text
//! ```
//!
//! A video is its frames: each is a picture after its time, written as Qwen3-VL's own processor writes it (`<1.5 seconds>`).
//! Two forms are taken: `video`, a list of `data:` URLs with `fps` or `timestamps` (Alibaba's API for Qwen), and `video_url`
//! with `data:video/jpeg;base64,FRAME,FRAME,…` (vLLM).

use super::asked::{Picture, Said, Speaker, Turn};
use super::at::At;
use super::error::Refused;
use super::picture::{Budget, data_url};
use serde_json::Value;

/// Messages of one request.
const MESSAGES_MAX: usize = 256;
/// Frames a second of a video that does not say it: as Alibaba's API has it.
const FPS: f64 = 2.0;
const FPS_MIN: f64 = 0.01;
const FPS_MAX: f64 = 1000.0;
/// The latest time of a frame, in seconds: a day.
const SECONDS_MAX: f64 = 86_400.0;

/// The turns of a request.
///
/// # Errors
/// What is wrong with which message.
pub(super) fn turns(request: &mut At<'_>) -> Result<Vec<Turn>, Refused> {
    let messages = match request.take("messages") {
        Some(Value::Array(messages)) => messages,
        None => return Err(request.wrong("messages", "is missing: a list of messages is expected")),
        Some(_) => return Err(request.wrong("messages", "a list of messages is expected")),
    };
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        return Err(request.wrong("messages", format!("1 to {MESSAGES_MAX} messages are expected")));
    }
    let (mut turns, mut budget) = (Vec::<Turn>::with_capacity(messages.len()), Budget::default());
    for (i, mut message) in messages.into_iter().enumerate() {
        let mut message = At::of(&mut message, format!("messages[{i}]"))?;
        let turn = turn(&mut message, &mut budget)?;
        match (turn.speaker, turns.last_mut()) {
            (Speaker::System, Some(first)) if first.speaker == Speaker::System => {
                first.said.push(Said::Text("\n\n".to_owned()));
                first.said.extend(turn.said);
            }
            (Speaker::System, Some(_)) => {
                let words = "messages of the roles system and developer stand before all others";
                return Err(message.wrong("role", words));
            }
            _ => turns.push(turn),
        }
    }
    if turns.last().is_none_or(|last| last.speaker != Speaker::User) {
        return Err(request.wrong("messages", "the last message must be the user's"));
    }
    Ok(turns)
}

fn turn(message: &mut At<'_>, budget: &mut Budget) -> Result<Turn, Refused> {
    let speaker = match message.required_text("role")?.as_str() {
        "system" | "developer" => Speaker::System,
        "user" => Speaker::User,
        "assistant" => Speaker::Assistant,
        "tool" | "function" => {
            return Err(message.wrong("role", "the model calls no tools, so there are no messages of theirs"));
        }
        other => {
            let words = format!("{other:?} is none of system, developer, user, assistant");
            return Err(message.wrong("role", words));
        }
    };
    if matches!(message.take("tool_calls"), Some(calls) if calls != Value::Array(vec![])) {
        return Err(message.wrong("tool_calls", "the model calls no tools"));
    }
    let said = match message.take("content") {
        Some(Value::String(text)) => vec![Said::Text(text)],
        Some(Value::Array(parts)) => {
            let mut said = vec![];
            for (i, mut part) in parts.into_iter().enumerate() {
                let path = format!("{}[{i}]", message.path("content"));
                // Texts may be listed as such, too.
                if let Value::String(text) = part {
                    said.push(Said::Text(text));
                    continue;
                }
                self::part(&mut At::of(&mut part, path)?, speaker, budget, &mut said)?;
            }
            said
        }
        None if speaker == Speaker::Assistant => vec![],
        None => return Err(message.wrong("content", "is missing: a text or a list of parts is expected")),
        Some(_) => return Err(message.wrong("content", "a text or a list of parts is expected")),
    };
    Ok(Turn { speaker, said })
}

fn part(
    part: &mut At<'_>,
    speaker: Speaker,
    budget: &mut Budget,
    said: &mut Vec<Said>,
) -> Result<(), Refused> {
    let kind = part.required_text("type")?;
    if matches!(kind.as_str(), "image_url" | "video" | "video_url") && speaker != Speaker::User {
        return Err(part.wrong("type", "pictures stand in the user's messages only"));
    }
    match kind.as_str() {
        "text" => said.push(Said::Text(part.required_text("text")?)),
        // What the model has refused before is a text to it.
        "refusal" => said.push(Said::Text(part.required_text("refusal")?)),
        "image_url" => said.push(Said::Picture(image(part, budget)?)),
        "video" => video(part, budget, said)?,
        "video_url" => video_url(part, budget, said)?,
        other => {
            let words = format!("{other:?} is none of text, image_url, video, video_url");
            return Err(part.wrong("type", words));
        }
    }
    Ok(())
}

/// `{"image_url": {"url", "detail"}}`, or the URL alone, as some clients write it.
fn image(part: &mut At<'_>, budget: &mut Budget) -> Result<Picture, Refused> {
    let Some((mut value, path)) = part.object("image_url") else {
        return Err(part.wrong("image_url", "is missing: an object with the key url is expected"));
    };
    if let Value::String(url) = value {
        return budget.take(data_url(&url, &path)?.1, false, &path);
    }
    let mut image = At::of(&mut value, path)?;
    let url = image.required_text("url")?;
    let is_low = match image.text("detail")?.as_deref() {
        Some("low") => true,
        None | Some("auto" | "high" | "original") => false,
        Some(other) => {
            let words = format!("{other:?} is none of low, high, auto");
            return Err(image.wrong("detail", words));
        }
    };
    let place = image.path("url");
    budget.take(data_url(&url, &place)?.1, is_low, &place)
}

/// `{"video": ["data:…", …], "fps": 2}`, or with a time for each frame in `timestamps`.
fn video(part: &mut At<'_>, budget: &mut Budget, said: &mut Vec<Said>) -> Result<(), Refused> {
    let frames = match part.take("video") {
        Some(Value::Array(frames)) if !frames.is_empty() => frames,
        Some(Value::String(_)) => {
            let words = "a video file is not decoded: send its frames, a list of data: URLs of pictures";
            return Err(part.wrong("video", words));
        }
        _ => return Err(part.wrong("video", "a list of data: URLs of pictures is expected")),
    };
    let times = times(part, frames.len())?;
    for (i, (frame, at)) in frames.iter().zip(times).enumerate() {
        let place = format!("{}[{i}]", part.path("video"));
        let Some(url) = frame.as_str() else {
            return Err(Refused::param(place, "a data: URL of a picture is expected"));
        };
        let picture = budget.take(data_url(url, &place)?.1, false, &place)?;
        said.extend([Said::Text(time(at)), Said::Picture(picture)]);
    }
    Ok(())
}

/// `{"video_url": {"url": "data:video/jpeg;base64,FRAME,FRAME"}}`.
fn video_url(part: &mut At<'_>, budget: &mut Budget, said: &mut Vec<Said>) -> Result<(), Refused> {
    let Some((mut value, path)) = part.object("video_url") else {
        return Err(part.wrong("video_url", "is missing: an object with the key url is expected"));
    };
    let mut video = At::of(&mut value, path)?;
    let url = video.required_text("url")?;
    let place = video.path("url");
    let (kind, frames) = data_url(&url, &place)?;
    if !kind.to_ascii_lowercase().starts_with("video/jpeg;") {
        let words = "a video file is not decoded: send its frames as data:video/jpeg;base64,FRAME,FRAME,…";
        return Err(Refused::param(place, words));
    }
    let frames: Vec<&str> = frames.split(',').collect();
    let times = times(&mut video, frames.len())?;
    for (i, (frame, at)) in frames.into_iter().zip(times).enumerate() {
        let picture = budget.take(frame, false, &format!("{place}, frame {i}"))?;
        said.extend([Said::Text(time(at)), Said::Picture(picture)]);
    }
    Ok(())
}

/// The time of each frame in seconds, by `timestamps` or `fps`.
fn times(part: &mut At<'_>, frames: usize) -> Result<Vec<f64>, Refused> {
    let fps = part.number("fps", FPS_MIN, FPS_MAX)?.unwrap_or(FPS);
    let Some(value) = part.take("timestamps") else {
        return Ok((0..frames).map(|i| i as f64 / fps).collect());
    };
    let seconds = |value: &Value| value.as_f64().filter(|s| (0.0..=SECONDS_MAX).contains(s));
    let times: Option<Vec<f64>> = value.as_array().and_then(|times| times.iter().map(seconds).collect());
    let times = times.filter(|times| times.len() == frames && times.is_sorted());
    times.ok_or_else(|| {
        let words = format!("a time for each of the {frames} frames is expected, in seconds, rising");
        part.wrong("timestamps", words)
    })
}

fn time(seconds: f64) -> String {
    format!("<{seconds:.1} seconds>")
}
