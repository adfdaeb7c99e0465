//! Proof: before a model answers the line, it answers pictures whose answers are known.
//!
//! ```text
//! the model is loaded --Acceptance::admit--> refused: these are not the files that were accepted
//!          '--> Proof: known pictures --ask--> Outcome of each --judge--> it answers the line | a fault
//!                                                                   '--> Acceptance::proven
//! ```
//!
//! A damaged file loads as well as a sound one: of a vision file with a thousand flipped bits every shape is right,
//! and every part looks clean. What it says about a known defect is wrong, and that shows here.
//!
//! Invariants:
//! - A picture that was not answered, was cut off or did not parse has not held.
//! - A proof that was begun and not finished is a failed one.

mod shipped;

use super::answer::{empty_probability, parse_defects, parse_lines};
use super::plan::{DEFECTS_TOKENS_MAX, LINES_TOKENS_MAX};
use crate::domain::detection::Detection;
use crate::domain::pipeline::PixelBudget;
use crate::engine::{self, Refused};
use image::RgbImage;
use std::fmt::Debug;
use std::sync::Arc;
use vlm::{Ask, Completion, Form, Job, ModelInfo, Shown, Vlm, VlmError};

/// How far a corner may lie from where it is known to be, in thousandths of the picture: kernels of different
/// processors differ in the last digits of a sum, and so by a step or two of a coordinate.
const CORNER_OFF_MAX: u16 = 30;

/// Which loaded models may answer, and what they must answer first.
pub trait Acceptance: Send + Sync + Debug {
    /// What the model must answer before it answers the line; without known pictures it answers at once.
    ///
    /// # Errors
    /// It must not answer at all.
    fn admit(&self, model: &ModelInfo) -> Result<Proof, Refused>;

    /// The model has given its proof and answers from now on.
    fn proven(&self, model: &ModelInfo, proof: &Proof, outcomes: &[Outcome]);
}

/// The engine's admission by an acceptance.
#[derive(Clone, Debug)]
pub struct ByProof<A>(pub Arc<A>);

impl<A: Acceptance + 'static> engine::Admission for ByProof<A> {
    fn admit(&self, model: &ModelInfo) -> Result<Box<dyn engine::Trial>, Refused> {
        let proof = self.0.admit(model)?;
        Ok(Box::new(Trial { acceptance: Arc::clone(&self.0), model: model.clone(), proof }))
    }
}

/// A proof that is being given.
struct Trial<A> {
    acceptance: Arc<A>,
    model: ModelInfo,
    proof: Proof,
}

impl<A: Acceptance> engine::Trial for Trial<A> {
    fn jobs(&self) -> Vec<Job> {
        self.proof.known.iter().map(job).collect()
    }

    fn judge(&mut self, answers: Vec<Vec<Result<Completion, VlmError>>>) -> Result<(), String> {
        let outcomes = outcomes(&self.proof, answers);
        judge(&self.proof, &outcomes)?;
        self.acceptance.proven(&self.model, &self.proof, &outcomes);
        Ok(())
    }
}

/// Lets every model in that gives the proof which it names, if it names one.
#[derive(Clone, Copy, Debug)]
pub struct ByNamedProof;

impl Acceptance for ByNamedProof {
    fn admit(&self, model: &ModelInfo) -> Result<Proof, Refused> {
        named(model).map(Option::unwrap_or_default)
    }

    fn proven(&self, _: &ModelInfo, _: &Proof, _: &[Outcome]) {}
}

/// The proof that a model names; `None`: it names none.
///
/// # Errors
/// `NoProof`: this build has no such proof, or the model does not state the labels that the proof asks.
pub fn named(model: &ModelInfo) -> Result<Option<Proof>, Refused> {
    let Some(name) = &model.proof else { return Ok(None) };
    let why = match shipped::proof(name) {
        Some(Ok(proof)) => return Ok(Some(proof)),
        Some(Err(why)) => why,
        None => format!("this build has no proof of the name {name:?}, which the model names as its own"),
    };
    Err(Refused::NoProof { why })
}

/// Known pictures that a model must answer.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// In the order in which they are asked.
    pub known: Vec<Known>,
}

/// A picture, a question and what is known of the answer.
#[derive(Clone, Debug)]
pub struct Known {
    /// Names it in messages.
    pub name: String,
    /// 8-bit RGB.
    pub picture: Arc<RgbImage>,
    /// Pixels of the picture after the resize.
    pub budget: PixelBudget,
    /// What the model is asked about the picture.
    pub question: Arc<str>,
    /// What its answer must say.
    pub expected: Expected,
    /// It has held before: it must hold. With those that are asked for the first time, half of its kind must.
    pub firm: bool,
}

/// What is known of an answer about a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Nothing of these labels is there.
    Clean {
        /// What the model is asked to look for.
        labels: Vec<String>,
    },
    /// Something of these labels is there.
    Found {
        /// What the model is asked to look for.
        labels: Vec<String>,
    },
    /// Exactly these labels are there, in this order, and near these places.
    Boxes {
        /// What the model is asked to look for.
        labels: Vec<String>,
        /// Label, and x1, y1, x2, y2 in thousandths of the picture's width and height.
        boxes: Vec<(String, [u16; 4])>,
    },
    /// Exactly these lines are read.
    Lines(Vec<String>),
}

impl Expected {
    /// True when a defect is known to be there.
    pub const fn is_found(&self) -> bool {
        matches!(self, Self::Found { .. } | Self::Boxes { .. })
    }
}

/// What a model made of one known picture: it held, or what was wrong.
pub type Outcome = Result<(), String>;

/// Asks all known pictures, one outcome each, in order.
pub fn ask(vlm: &mut dyn Vlm, proof: &Proof, keep_going: &(dyn Fn() -> bool + Sync)) -> Vec<Outcome> {
    let jobs: Vec<Job> = proof.known.iter().map(job).collect();
    outcomes(proof, vlm.answer(&jobs, keep_going).jobs)
}

/// What the answers to all known pictures, in their order, make of each.
fn outcomes(proof: &Proof, answers: Vec<Vec<Result<Completion, VlmError>>>) -> Vec<Outcome> {
    let mut answers = answers.into_iter();
    let missing = || vec![Err(VlmError::Stopped)];
    let outcome = |known: &Known| {
        let mut answer = answers.next().filter(|answers| !answers.is_empty()).unwrap_or_else(missing);
        known.outcome(answer.swap_remove(0))
    };
    proof.known.iter().map(outcome).collect()
}

/// Whether the outcomes prove the model.
///
/// # Errors
/// What they speak against, in words.
pub fn judge(proof: &Proof, outcomes: &[Outcome]) -> Result<(), String> {
    let all = || proof.known.iter().zip(outcomes);
    if outcomes.len() != proof.known.len() {
        return Err(format!("{} of {} known pictures were answered", outcomes.len(), proof.known.len()));
    }
    let failed: Vec<String> = all()
        .filter(|(known, _)| known.firm)
        .filter_map(|(known, outcome)| Some(format!("{}: {}", known.name, outcome.as_ref().err()?)))
        .collect();
    if let Some(first) = failed.first() {
        let (count, of) = (failed.len(), proof.known.len());
        return Err(format!("the model does not answer {count} of {of} known pictures as it must; {first}"));
    }
    for (kind, is_found) in [("defective", true), ("clean", false)] {
        let asked = || all().filter(move |(known, _)| known.expected.is_found() == is_found);
        let wrong: Vec<String> = asked()
            .filter_map(|(known, outcome)| Some(format!("{}: {}", known.name, outcome.as_ref().err()?)))
            .collect();
        let (wrongs, of) = (wrong.len(), asked().count());
        if let Some(first) = wrong.first().filter(|_| wrongs * 2 > of) {
            let held = of - wrongs;
            return Err(format!(
                "the model tells {held} of {of} {kind} pictures of confirmed parts; {first}"
            ));
        }
    }
    Ok(())
}

/// Has a loaded model give the proof that it names, if it names one.
///
/// # Errors
/// It cannot be proven, or what speaks against it.
pub fn give_named(vlm: &mut dyn Vlm) -> Result<(), Refused> {
    let Some(proof) = named(vlm.info())? else { return Ok(()) };
    let outcomes = ask(vlm, &proof, &|| true);
    judge(&proof, &outcomes).map_err(|why| Refused::NoProof { why })
}

fn job(known: &Known) -> Job {
    let (form, max_tokens) = match &known.expected {
        Expected::Clean { labels } | Expected::Found { labels } | Expected::Boxes { labels, .. } => {
            (Form::Defects { labels: labels.as_slice().into() }, DEFECTS_TOKENS_MAX)
        }
        Expected::Lines(_) => (Form::Lines, LINES_TOKENS_MAX),
    };
    let ask = Ask::new(&known.question, form, max_tokens);
    Job {
        shown: Shown::Images(vec![Arc::clone(&known.picture)]),
        min_pixels: known.budget.min_pixels,
        max_pixels: known.budget.max_pixels,
        asks: vec![ask],
        adapter: None,
    }
}

impl Known {
    fn outcome(&self, answer: Result<Completion, VlmError>) -> Outcome {
        let answer = answer.map_err(|e| e.to_string())?;
        let found = |labels: &[String]| {
            parse_defects(&answer, 0, labels).map(|read| read.detections).map_err(|e| e.to_string())
        };
        match &self.expected {
            Expected::Clean { labels } if found(labels)?.is_empty() => Ok(()),
            Expected::Clean { .. } => Err(format!("nothing is there, it says {}", answer.text)),
            Expected::Found { labels } if !found(labels)?.is_empty() => Ok(()),
            Expected::Found { .. } => {
                let empty = empty_probability(&answer);
                Err(format!("a defect is there, and it is {empty:.2} sure that nothing is"))
            }
            Expected::Boxes { labels, boxes } => {
                if is_near(&found(labels)?, boxes) {
                    Ok(())
                } else {
                    Err(format!("{boxes:?} is there, it says {}", answer.text))
                }
            }
            Expected::Lines(lines) => {
                let read = parse_lines(&answer).map_err(|e| e.to_string())?;
                if read.iter().map(|(line, _)| line).eq(lines) {
                    Ok(())
                } else {
                    Err(format!("{lines:?} is written there, it reads {}", answer.text))
                }
            }
        }
    }
}

fn is_near(found: &[Detection], boxes: &[(String, [u16; 4])]) -> bool {
    let near = |a: &[u16; 4], b: &[u16; 4]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= CORNER_OFF_MAX);
    found.len() == boxes.len()
        && found.iter().zip(boxes).all(|(d, (label, place))| d.label == *label && near(&d.bbox_2d, place))
}

#[cfg(test)]
mod tests;
