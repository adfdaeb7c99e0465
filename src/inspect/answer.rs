//! Answers: the reading of what the model said.
//!
//! ```text
//! Form::Defects --> a backend --> Completion --parse_defects--> Detections
//! Form::Lines                                --parse_lines----> (line, confidence)
//!
//! [{"bbox_2d":[0,700,275,1000],"label":"stain","severity":"major"}]
//!                                        ^^^^^  the tokens that touch these characters carry
//!                                               the confidence: the product of their probabilities
//! ```
//!
//! A form is compact JSON, as the model was trained on it; the readers accept any JSON of that shape, because an answer
//! may also come from a backend that holds it to nothing.
//!
//! An answer says three things, each with its probability: that an item was opened (something is there), what its
//! label is, and that the list ends (nothing else is there). The last is the tile's doubt, whatever the list holds.
//!
//! Whatever does not read is an [`AnswerError`]: an answer is never guessed at, and no detection is
//! dropped for an odd box.

use crate::domain::detection::Detection;
use crate::domain::grade::Severity;
use serde::Deserialize;
use std::ops::Range;
use vlm::form::{COORDINATE_MAX, DEFECTS_MAX, LINES_MAX};
use vlm::{Completion, Finish, Ground};

/// Side given to an empty box, in thousandths: the step in which the model counts.
const EMPTY_SIDE: u16 = 5;
/// The answer that nothing was found.
const NOTHING: &[u8] = b"[]";

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the answer was cut off after {tokens} tokens")]
    CutOff { tokens: usize },
    #[error("the answer is not the JSON that was asked for")]
    Json {
        #[source]
        source: serde_json::Error,
    },
    #[error("the answer holds {count} items, at most {max} are allowed")]
    TooMany { count: usize, max: usize },
    #[error("the answer names `{label}`, which was not asked for")]
    Label { label: String },
    #[error("`{word}` is no severity")]
    Severity { word: String },
    #[error("coordinate {value} is over {COORDINATE_MAX}")]
    Coordinate { value: u16 },
    #[error("the answer comes without probabilities, and nobody knows how sure it is")]
    Ground,
    #[error("token {index} has the probability {prob}")]
    Probability { index: usize, prob: f32 },
    #[error("no token's probability stands for the characters {start}..{end} of the answer")]
    Tokens { start: usize, end: usize },
}

/// What one answer says about its tile.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Defects {
    pub detections: Vec<Detection>,
    /// Of each detection, how likely it is that something is there: the probability that its item was opened and
    /// the list not ended.
    pub opened: Vec<f32>,
    /// How likely it is that nothing is there beside the detections: the probability that the list ended where it
    /// did. Without detections that of the empty answer; 0 for a list that had no room for one more.
    pub complete: f32,
}

impl Defects {
    /// How likely it is that the tile shows nothing that this answer leaves unexplained, 0..=1. A detection explains
    /// its own item and nothing else; `doubt` says how much of it remains unexplained, 0..=1, because it is dropped.
    pub(super) fn clean(&self, mut doubt: impl FnMut(&Detection, f32) -> f32) -> f32 {
        let explained = self.detections.iter().zip(&self.opened).map(|(d, opened)| 1.0 - doubt(d, *opened));
        explained.fold(self.complete, |all, one| all * one)
    }
}

/// Reads the defects of one tile.
///
/// An answer whose form nothing has held it to, [`Ground::Unconstrained`], is read like any other: each of its
/// probabilities is at most what it would have been among the tokens of the form, so that it seems less sure, never
/// surer. So is one whose probabilities are [`Ground::Bounded`]. What a detection leaves open when it is dropped must not
/// seem less for that: without the exact probability its item counts as surely opened.
///
/// The confidence of a defect is that of its being there times that of its label: the probability of
/// the tokens that opened it instead of ending the list, and of the tokens of the label. The label's
/// alone says which defect it is, if it is one: on clean parts it was 0.5 to 1.0 for things that were
/// none, while the opening told defective tiles from clean ones nearly without error.
///
/// Corners in the wrong order are swapped, and an empty side is widened to [`EMPTY_SIDE`] thousandths:
/// the model saw something there, and a box a few pixels off is better than a lost defect.
///
/// # Errors
/// [`AnswerError`] when the answer was cut off, is not of the asked form, names an unknown label, has a probability
/// that is not a finite number, or lacks one.
pub(super) fn parse_defects(
    answer: &Completion,
    tile: usize,
    labels: &[String],
) -> Result<Defects, AnswerError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        bbox_2d: [u16; 4],
        label: String,
        severity: String,
    }
    check_whole(answer)?;
    let items: Vec<Item> =
        serde_json::from_str(&answer.text).map_err(|source| AnswerError::Json { source })?;
    check_count(items.len(), DEFECTS_MAX)?;
    let spans = label_spans(&answer.text);
    // serde_json refuses an item without exactly one `label`, so only a key in an odd spelling
    // (`\u006cabel`) can break the pairing of spans with items.
    let openings = openings(&answer.text);
    if spans.len() != items.len() || openings.len() != items.len() {
        return Err(AnswerError::Tokens { start: 0, end: answer.text.len() });
    }
    let complete = ended(answer, items.len())?;
    let mut defects = Defects { detections: vec![], opened: vec![], complete };
    for (item, (opening, span)) in items.into_iter().zip(openings.into_iter().zip(spans)) {
        if !labels.contains(&item.label) {
            return Err(AnswerError::Label { label: item.label });
        }
        let Some(severity) = Severity::parse(&item.severity) else {
            return Err(AnswerError::Severity { word: item.severity });
        };
        let bbox_2d = proper_box(item.bbox_2d)?;
        let opened = confidence(answer, std::slice::from_ref(&opening))?;
        defects.opened.push(if answer.ground == Ground::Constrained { opened } else { 1.0 });
        defects.detections.push(Detection {
            tile,
            label: item.label,
            severity,
            bbox_2d,
            confidence: confidence(answer, &[opening, span])?,
        });
    }
    Ok(defects)
}

/// How likely the list was to end after its `items`.
fn ended(answer: &Completion, items: usize) -> Result<f32, AnswerError> {
    match answer.text.rfind('}') {
        None => Ok(empty_probability(answer)),
        // The grammar let it end only.
        Some(_) if items == DEFECTS_MAX => Ok(0.0),
        Some(brace) => confidence(answer, std::slice::from_ref(&(brace + 1..answer.text.len()))),
    }
}

/// Reads the lines of one text, each with its confidence.
///
/// # Errors
/// [`AnswerError`] when the answer was cut off, is no list of strings, has a probability that is not a finite number,
/// or lacks one.
pub(super) fn parse_lines(answer: &Completion) -> Result<Vec<(String, f32)>, AnswerError> {
    check_whole(answer)?;
    let lines: Vec<String> =
        serde_json::from_str(&answer.text).map_err(|source| AnswerError::Json { source })?;
    check_count(lines.len(), LINES_MAX)?;
    let spans = strings(&answer.text);
    lines.into_iter().zip(spans).map(|(line, span)| Ok((line, confidence(answer, &[span])?))).collect()
}

/// How likely the answer was to be `[]`, 0..=1; `1 - empty_probability` ranks tiles.
///
/// For `[]` it is the product of the tokens' probabilities. For anything else it is one minus the
/// probability of the way that led away from it: the tokens up to the first that departs from `[]`.
/// What cannot be told (no tokens, a probability that is not finite) counts as surely not empty.
pub(super) fn empty_probability(answer: &Completion) -> f32 {
    let text = answer.text.as_bytes();
    let mut way = 1.0f32;
    for token in &answer.tokens {
        if !token.prob.is_finite() {
            return 0.0;
        }
        way *= token.prob.clamp(0.0, 1.0);
        let agrees = text
            .get(token.start..token.end)
            .is_some_and(|said| NOTHING.get(token.start..).is_some_and(|rest| rest.starts_with(said)));
        if !agrees {
            return 1.0 - way;
        }
    }
    if text == NOTHING && !answer.tokens.is_empty() { way } else { 0.0 }
}

/// An answer that may be read: ended by itself, with probabilities throughout.
fn check_whole(answer: &Completion) -> Result<(), AnswerError> {
    if answer.finish == Finish::Length {
        return Err(AnswerError::CutOff { tokens: answer.tokens.len() });
    }
    if answer.ground == Ground::None {
        return Err(AnswerError::Ground);
    }
    let mut start = 0;
    for token in &answer.tokens {
        if token.start > start {
            return Err(AnswerError::Tokens { start, end: token.start });
        }
        start = start.max(token.end);
    }
    if start < answer.text.len() {
        return Err(AnswerError::Tokens { start, end: answer.text.len() });
    }
    match answer.tokens.iter().position(|token| !token.prob.is_finite() || token.prob < 0.0) {
        Some(index) => Err(AnswerError::Probability { index, prob: answer.tokens[index].prob }),
        None => Ok(()),
    }
}

fn check_count(count: usize, max: usize) -> Result<(), AnswerError> {
    if count > max {
        return Err(AnswerError::TooMany { count, max });
    }
    Ok(())
}

/// The box with its corners in order and neither side empty.
fn proper_box([x1, y1, x2, y2]: [u16; 4]) -> Result<[u16; 4], AnswerError> {
    if let Some(value) = [x1, y1, x2, y2].into_iter().find(|&v| v > COORDINATE_MAX) {
        return Err(AnswerError::Coordinate { value });
    }
    let (x1, x2) = proper_side(x1, x2);
    let (y1, y2) = proper_side(y1, y2);
    Ok([x1, y1, x2, y2])
}

fn proper_side(a: u16, b: u16) -> (u16, u16) {
    if a != b {
        return (a.min(b), a.max(b));
    }
    let start = a.saturating_sub(EMPTY_SIDE / 2).min(COORDINATE_MAX - EMPTY_SIDE);
    (start, start + EMPTY_SIDE)
}

/// Product of the probabilities of the tokens that touch any of `spans`, which they must cover.
fn confidence(answer: &Completion, spans: &[Range<usize>]) -> Result<f32, AnswerError> {
    let mut covered = 0;
    let mut product = 1.0f32;
    for token in &answer.tokens {
        let shared =
            |span: &Range<usize>| token.end.min(span.end).saturating_sub(token.start.max(span.start));
        let touches: usize = spans.iter().map(shared).sum();
        if touches > 0 {
            covered += touches;
            // A softmax may round to a hair over one.
            product *= token.prob.min(1.0);
        }
    }
    if covered < spans.iter().map(ExactSizeIterator::len).sum() {
        let (start, end) = (spans[0].start, spans[spans.len() - 1].end);
        return Err(AnswerError::Tokens { start, end });
    }
    Ok(product)
}

/// Byte ranges of the contents of all strings of a valid JSON text, in order. An empty string
/// gives its quotes, so that it has tokens too.
fn strings(json: &str) -> Vec<Range<usize>> {
    let bytes = json.as_bytes();
    let mut out = Vec::new();
    let mut open = None;
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], open) {
            (b'\\', Some(_)) => at += 1,
            (b'"', None) => open = Some(at + 1),
            (b'"', Some(start)) => {
                out.push(if start < at { start..at } else { start - 1..at + 1 });
                open = None;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Byte ranges that open the items of a valid list: from the end of the item before (or of nothing)
/// through the brace, where the model chose one more item over the end of the list.
fn openings(json: &str) -> Vec<Range<usize>> {
    let inside = strings(json);
    let outside = |at: &usize| !inside.iter().any(|s| s.contains(at));
    let mut from = 0;
    let mut out = Vec::new();
    for at in (0..json.len()).filter(outside) {
        match json.as_bytes()[at] {
            b'{' => out.push(from..at + 1),
            b'}' => from = at + 1,
            _ => {}
        }
    }
    out
}

/// Byte ranges of the values of all `label` keys of a valid list of defects, in order.
fn label_spans(json: &str) -> Vec<Range<usize>> {
    let all = strings(json);
    // Keys are told from values by what follows them, so that a label may be called `label`.
    let is_key = |span: &Range<usize>| {
        json[span.start..span.end] == *"label" && json[span.end + 1..].trim_start().starts_with(':')
    };
    all.windows(2).filter(|pair| is_key(&pair[0])).map(|pair| pair[1].clone()).collect()
}

#[cfg(test)]
mod tests;
