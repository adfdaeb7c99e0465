//! The cheap gate: which questions of a plan are asked when, and which are not asked at all.
//!
//! ```text
//! plan --ready--> jobs with everything but the questions that have a rule `skip`
//!        answer of a tile's bank --look--> surely normal: the question is skipped, with its reason
//!                                    '---> anything else: --ready--> a job with the questions that waited
//! ```
//!
//! Invariant: a question is skipped only after its bank has looked at its tile, without an error, and is less sure than
//! the rule says of everything in it. A bank that is not there, fails, panics or says no number skips nothing.

use crate::domain::inspection::SkippedTile;
use crate::domain::pipeline::{Pipeline, PromptKind, SkipRule};
use crate::inspect::plan::Plan;
use crate::inspect::reference::{self, Looked};
use crate::threads;
use vlm::{Completion, Job, VlmError};

/// Questions of a region that are asked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    region: usize,
    /// Places among the region's prompts.
    asks: Vec<usize>,
}

/// What came of a question about a region.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It waits for what the bank says, which is at this region and place of the plan.
    Waiting(Place),
    /// It can be asked.
    Ready,
    /// It was asked; no answer came yet, or ever.
    Asked,
    /// Its answer; of a bank that a question waits for also what it says about the tile.
    Came(Result<Completion, VlmError>, Option<Result<Looked, String>>),
    /// It was not asked.
    Skipped(SkippedTile),
}

/// Region and prompt of the region.
type Place = (usize, usize);

/// How far the questions of one frame are.
#[derive(Debug)]
pub(crate) struct Asking {
    /// By region, by prompt of the region.
    outcomes: Vec<Vec<Outcome>>,
}

impl Asking {
    /// Nothing is asked yet.
    pub(crate) fn new(plan: &Plan, pipeline: &Pipeline) -> Self {
        let of = |region: usize, prompt: usize| {
            let rule = pipeline.prompts[prompt].skip.as_ref();
            rule.and_then(|rule| bank_of(plan, pipeline, region, rule))
                .map_or(Outcome::Ready, Outcome::Waiting)
        };
        let all = plan.regions.iter().enumerate();
        let outcomes =
            all.map(|(i, region)| region.prompts.iter().map(|prompt| of(i, *prompt)).collect()).collect();
        Self { outcomes }
    }

    /// What can be asked now, a job a region, in the order of the plan; they count as asked from now on.
    pub(crate) fn ready(&mut self, plan: &Plan) -> Vec<(Part, Job)> {
        let mut ready = vec![];
        for (region, outcomes) in self.outcomes.iter_mut().enumerate() {
            let is_ready = |(k, outcome): (usize, &Outcome)| matches!(outcome, Outcome::Ready).then_some(k);
            let asks: Vec<usize> = outcomes.iter().enumerate().filter_map(is_ready).collect();
            if !asks.is_empty() {
                asks.iter().for_each(|k| outcomes[*k] = Outcome::Asked);
                ready.push((Part { region, asks: asks.clone() }, plan.job(region, &asks)));
            }
        }
        ready
    }

    /// Takes the answers to a part, in its order; questions without one stay without. What waited for them is ready, or
    /// skipped.
    pub(crate) fn take(
        &mut self,
        plan: &Plan,
        pipeline: &Pipeline,
        part: &Part,
        answers: Vec<Result<Completion, VlmError>>,
    ) {
        let mut answers = answers.into_iter();
        for k in &part.asks {
            let at = (part.region, *k);
            if let Some(answer) = answers.next() {
                let looked = self.is_awaited(at).then(|| looked(plan, pipeline, at, &answer));
                self.outcomes[at.0][at.1] = Outcome::Came(answer, looked);
            }
            self.decide(plan, pipeline, at);
        }
    }

    /// True while a question has neither an answer nor was skipped.
    pub(crate) fn is_open(&self) -> bool {
        let done = |outcome: &Outcome| matches!(outcome, Outcome::Came(..) | Outcome::Skipped(_));
        !self.outcomes.iter().flatten().all(done)
    }

    /// What came of all questions, by region, by prompt of the region.
    pub(crate) fn into_outcomes(self) -> Vec<Vec<Outcome>> {
        self.outcomes
    }

    fn is_awaited(&self, bank: Place) -> bool {
        self.outcomes.iter().flatten().any(|outcome| matches!(outcome, Outcome::Waiting(at) if *at == bank))
    }

    /// Decides what waited for this bank, whatever came of it.
    fn decide(&mut self, plan: &Plan, pipeline: &Pipeline, bank: Place) {
        for region in 0..self.outcomes.len() {
            for k in 0..self.outcomes[region].len() {
                if !matches!(self.outcomes[region][k], Outcome::Waiting(at) if at == bank) {
                    continue;
                }
                let prompt = &pipeline.prompts[plan.regions[region].prompts[k]];
                let looked = match &self.outcomes[bank.0][bank.1] {
                    Outcome::Came(_, Some(Ok(looked))) => Some(looked),
                    _ => None,
                };
                let normal =
                    prompt.skip.as_ref().zip(looked).filter(|(rule, looked)| is_normal(rule, looked));
                self.outcomes[region][k] = match normal {
                    None => Outcome::Ready,
                    Some((rule, looked)) => Outcome::Skipped(SkippedTile {
                        prompt: prompt.id.clone(),
                        tile: plan.regions[region].tile.index,
                        rect: plan.regions[region].tile.rect,
                        by: rule.by.clone(),
                        doubt: looked.doubt(),
                        below: rule.below,
                    }),
                };
            }
        }
    }
}

/// Whether what a bank says of a tile lets a question be skipped. A number that is none is below nothing.
fn is_normal(rule: &SkipRule, looked: &Looked) -> bool {
    let is_below = |doubt: &f32| *doubt < rule.below;
    let Looked { detections, score, cells, .. } = looked;
    detections.is_empty() && is_below(score) && !cells.is_empty() && cells.iter().all(is_below)
}

/// Where the plan asks the bank of a rule about what this region shows; `None`: nowhere, and nothing is skipped.
fn bank_of(plan: &Plan, pipeline: &Pipeline, region: usize, rule: &SkipRule) -> Option<Place> {
    let bank = pipeline.prompts.iter().position(|prompt| prompt.id == rule.by)?;
    let shown = plan.regions[region].tile.rect;
    let mut all = plan.regions.iter().enumerate().filter(|(_, other)| other.tile.rect == shown);
    all.find_map(|(i, other)| Some((i, other.prompts.iter().position(|prompt| *prompt == bank)?)))
}

/// What a bank says about the tile of its region.
fn looked(
    plan: &Plan,
    pipeline: &Pipeline,
    (region, k): Place,
    answer: &Result<Completion, VlmError>,
) -> Result<Looked, String> {
    let prompt = plan.regions[region].prompts[k];
    let PromptKind::Reference(rule) = &pipeline.prompts[prompt].kind else {
        return Err("it is no bank".into());
    };
    let completion = answer.as_ref().map_err(ToString::to_string)?;
    let cells = completion.cells.as_ref().ok_or("no features came")?;
    let place = plan.regions[..region].iter().filter(|other| other.prompts.contains(&prompt)).count();
    let (tile, noise_below) = (plan.regions[region].tile.index, pipeline.verdict.ignore_below_confidence);
    threads::caught(|| reference::look(rule, tile, place, cells, noise_below)).flatten()
}

#[cfg(test)]
#[path = "skip_tests.rs"]
mod tests;
