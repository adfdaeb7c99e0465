//! The line: a frame in, an inspection out. It never fails; what goes wrong is in the verdict.
//!
//! ```text
//! Frame --fit--> a proper picture of the recipe's size that shows something
//!       --plan--> regions (tiles of the grid, regions of text) with their prompts
//!       --jobs--> answers (Tile x Prompt): a `vlm` in this process, or the engine room (`under_way`);
//!                 where the recipe says so, a tile that its bank calls normal is asked no more (`skip`)
//!       --answer--> detections and lines of text, each with its confidence
//!       --reference--> detections of what is unlike confirmed good parts
//!       --merge--> findings in frame coordinates, in millimetres
//!       --expect--> lines checked against what they should say
//!       --grade--> grade, verdict --> Inspection
//! ```
//!
//! Frames of several cameras may be inspected together: their tiles share the engine's batches.
//!
//! Invariant: an error never becomes a pass. A refused frame, an engine error or panic, an answer
//! that does not parse or comes without probabilities, and a tile without an answer are faults, and
//! every fault is a review.

pub mod adapter;
mod answer;
pub(crate) mod expect;
pub(crate) mod fit;
mod grade;
mod merge;
pub(crate) mod plan;
pub mod proof;
pub(crate) mod reference;
pub(crate) mod skip;
pub mod under_way;

use crate::domain::detection::Detection;
use crate::domain::frame::Frame;
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::{
    Inspection, Latency, LearnedRef, ModelRef, RawAnswer, SkippedTile, TileCount,
};
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind, VerdictRule};
use crate::domain::reference::ReferenceRule;
use crate::domain::text::TextLine;
use crate::threads;
use adapter::model_of;
use answer::{AnswerError, empty_probability, parse_defects, parse_lines};
use grade::Evidence;
use merge::{MergeRule, merge};
use plan::{Plan, Region};
use reference::{Heat, Looked};
use sha2::{Digest, Sha256};
use skip::{Asking, Outcome, Part};
use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};
use vlm::{Cells, Completion, Job, ModelInfo, Timing, Vlm, VlmError};

/// A frame and the recipe that it is inspected by.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The picture, or the clip that ends with it.
    pub frame: &'a Frame,
    /// The recipe by which it is judged.
    pub pipeline: &'a Pipeline,
}

impl Work<'_> {
    /// From the exposure to the moment when a verdict is late.
    fn deadline(&self) -> Duration {
        self.frame.trigger.deadline.unwrap_or(self.pipeline.verdict.deadline)
    }
}

/// Inspects one frame.
pub fn inspect(vlm: &mut dyn Vlm, frame: &Frame, pipeline: &Pipeline) -> Inspection {
    inspect_all(vlm, &[Work { frame, pipeline }]).swap_remove(0)
}

/// Inspects frames together, one inspection a frame, in order. The model stops when all of them are late.
pub fn inspect_all(vlm: &mut dyn Vlm, work: &[Work<'_>]) -> Vec<Inspection> {
    let model = vlm.info().clone();
    let plans: Vec<Result<Planned, Reason>> = work.iter().map(|w| Planned::new(*w, &model)).collect();
    let asking = |(w, planned): (&Work<'_>, &Result<Planned, Reason>)| {
        planned.as_ref().ok().map(|planned| Asking::new(&planned.plan, w.pipeline))
    };
    let mut asking: Vec<Option<Asking>> = work.iter().zip(&plans).map(asking).collect();
    let (timing, panic) = ask_all(vlm, work, &plans, &mut asking);
    let conclude =
        |((w, planned), asking): ((&Work<'_>, Result<Planned, Reason>), Option<Asking>)| match planned {
            Err(reason) => uninspected(w.frame, w.pipeline, &model, reason),
            Ok(planned) => {
                let outcomes = asking.map(Asking::into_outcomes).unwrap_or_default();
                conclude(*w, &model, &planned, outcomes, timing, panic.clone())
            }
        };
    work.iter().zip(plans).zip(asking).map(conclude).collect()
}

/// Asks what can be asked until nothing is left; the time that it took, and the panic that ended it.
fn ask_all(
    vlm: &mut dyn Vlm,
    work: &[Work<'_>],
    plans: &[Result<Planned, Reason>],
    asking: &mut [Option<Asking>],
) -> (Timing, Option<Reason>) {
    let in_time = || work.iter().any(|w| w.frame.captured.elapsed() < w.deadline());
    let mut timing = Timing::default();
    loop {
        let (mut parts, mut jobs): (Vec<(usize, Part)>, Vec<Job>) = (vec![], vec![]);
        for (i, (planned, asking)) in plans.iter().zip(asking.iter_mut()).enumerate() {
            let (Ok(planned), Some(asking)) = (planned, asking) else { continue };
            for (part, job) in asking.ready(&planned.plan) {
                parts.push((i, part));
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            return (timing, None);
        }
        let answers = match threads::caught(|| vlm.answer(&jobs, &in_time)) {
            Ok(answers) => answers,
            Err(message) => return (timing, Some(Reason::Engine { message })),
        };
        timing = timing + answers.timing;
        for ((i, part), answers) in parts.into_iter().zip(answers.jobs) {
            if let (Ok(planned), Some(asking)) = (&plans[i], &mut asking[i]) {
                asking.take(&planned.plan, work[i].pipeline, &part, answers);
            }
        }
    }
}

/// What is asked about a frame, and how long it took to find that out.
#[derive(Debug)]
pub(crate) struct Planned {
    pub plan: Plan,
    started: Instant,
    cut_ms: f64,
}

impl Planned {
    /// Looks whether a frame shows what its recipe expects, and cuts it.
    ///
    /// # Errors
    /// [`Reason::Frame`] when it does not, [`Reason::Engine`] when the model cannot be asked this.
    pub(crate) fn new(work: Work<'_>, model: &ModelInfo) -> Result<Self, Reason> {
        let started = Instant::now();
        fit::judge(work.frame, work.pipeline)?;
        let plan = Plan::new(work.frame, work.pipeline, model)?;
        Ok(Self { plan, started, cut_ms: started.elapsed().as_secs_f64() * 1e3 })
    }
}

/// The inspection that what came of the plan's questions makes, by region, by prompt of the region; a question without
/// an answer that was not skipped is a fault. `fault` is whatever else went wrong.
pub(crate) fn conclude(
    work: Work<'_>,
    model: &ModelInfo,
    planned: &Planned,
    outcomes: Vec<Vec<Outcome>>,
    timing: Timing,
    fault: Option<Reason>,
) -> Inspection {
    guarded(work, model, || {
        let mut record = Record::new(work, model, planned.started, timing, planned.cut_ms);
        record.faults.extend(fault);
        record.take(&planned.plan, outcomes);
        record.finish()
    })
}

/// The inspection that `put_together` makes; a review when it panics, and the line goes on.
fn guarded(work: Work<'_>, model: &ModelInfo, put_together: impl FnOnce() -> Inspection) -> Inspection {
    threads::caught(put_together)
        .unwrap_or_else(|message| uninspected(work.frame, work.pipeline, model, Reason::Engine { message }))
}

/// The inspection of a frame that was never looked at: a review with its reason.
pub(crate) fn uninspected(
    frame: &Frame,
    pipeline: &Pipeline,
    model: &ModelInfo,
    reason: Reason,
) -> Inspection {
    let work = Work { frame, pipeline };
    let mut record = Record::new(work, model, Instant::now(), Timing::default(), 0.0);
    record.faults.push(reason);
    record.finish()
}

/// sha256 (hex) over the ids of all prompts and the texts that this model is asked, in order.
pub fn prompt_hash(pipeline: &Pipeline, model: &ModelInfo) -> String {
    let (mut hasher, model) = (Sha256::new(), model_of(pipeline, model));
    for prompt in &pipeline.prompts {
        hasher.update(prompt.id.as_bytes());
        hasher.update([0]);
        hasher.update(plan::question(prompt, &model).as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// An inspection while it is put together.
struct Record<'a> {
    work: Work<'a>,
    model: Cow<'a, ModelInfo>,
    latency: Latency,
    tiles: TileCount,
    faults: Vec<Reason>,
    detections: Vec<Detection>,
    merged: Vec<merge::Merged>,
    texts: Vec<TextLine>,
    answers: Vec<RawAnswer>,
    skipped: Vec<SkippedTile>,
    score: f32,
    /// The lowest probability among the tiles that nothing is there beside what was found.
    clean: f32,
    heat: Heat,
}

impl<'a> Record<'a> {
    fn new(work: Work<'a>, model: &'a ModelInfo, started: Instant, timing: Timing, cut_ms: f64) -> Self {
        let queued = started.saturating_duration_since(work.frame.captured);
        let latency = Latency {
            queue_ms: queued.as_secs_f64() * 1e3,
            preprocess_ms: cut_ms + timing.preprocess_ms,
            vision_ms: timing.vision_ms,
            prefill_ms: timing.prefill_ms,
            decode_ms: timing.decode_ms,
            total_ms: 0.0,
        };
        Self {
            work,
            model: model_of(work.pipeline, model),
            latency,
            tiles: TileCount::default(),
            faults: vec![],
            detections: vec![],
            merged: vec![],
            texts: vec![],
            answers: vec![],
            skipped: vec![],
            score: 0.0,
            clean: 1.0,
            heat: Heat::new(work.frame.pixels.width(), work.frame.pixels.height()),
        }
    }

    /// Takes what came of the plan's questions; what is missing is a fault.
    fn take(&mut self, plan: &Plan, outcomes: Vec<Vec<Outcome>>) {
        self.tiles.planned = plan.regions.len();
        let mut places = vec![0; self.work.pipeline.prompts.len()];
        for (region, outcomes) in plan.regions.iter().zip(outcomes) {
            let own: Vec<usize> = region.prompts.iter().map(|prompt| places[*prompt]).collect();
            region.prompts.iter().for_each(|prompt| places[*prompt] += 1);
            let (faults_before, mut is_whole) = (self.faults.len(), outcomes.len() == region.prompts.len());
            for ((prompt, place), outcome) in region.prompts.iter().zip(own).zip(outcomes) {
                match outcome {
                    Outcome::Came(answer, looked) => {
                        let taken = self.take_answer(region, *prompt, place, answer, looked);
                        self.faults.extend(taken.err());
                    }
                    Outcome::Skipped(skipped) => self.skipped.push(skipped),
                    Outcome::Waiting(_) | Outcome::Ready | Outcome::Asked => is_whole = false,
                }
            }
            let answered = self.faults.len() == faults_before && is_whole;
            self.tiles.inspected += usize::from(answered);
        }
        if self.tiles.inspected < self.tiles.planned && self.faults.is_empty() {
            let TileCount { planned, inspected } = self.tiles;
            self.faults.push(Reason::MissingTile { inspected, planned });
        }
        let pipeline = self.work.pipeline;
        let rule = MergeRule {
            tiles: &plan.tiles(),
            masks: &pipeline.frame.mask,
            mm_per_px: pipeline.mm_per_px,
            ignore_below_confidence: pipeline.verdict.ignore_below_confidence,
        };
        match merge(&self.detections, &rule) {
            Ok(merged) => self.merged = merged,
            Err(e) => self.faults.push(Reason::Engine { message: e.to_string() }),
        }
    }

    fn take_answer(
        &mut self,
        region: &Region,
        prompt: usize,
        place: usize,
        answer: Result<Completion, VlmError>,
        looked: Option<Result<Looked, String>>,
    ) -> Result<(), Reason> {
        let prompt = &self.work.pipeline.prompts[prompt];
        let tile = region.tile.index;
        let answer = answer.map_err(|e| match e {
            // Late answers are stopped; the verdict sees the deadline itself.
            VlmError::Stopped => Reason::MissingTile { inspected: 0, planned: self.tiles.planned },
            e => Reason::Engine { message: e.to_string() },
        })?;
        if answer.cells.is_none() && answer.text != "[]" {
            let text = answer.text.clone();
            self.answers.push(RawAnswer { prompt: prompt.id.clone(), tile, text });
        }
        let unread = |error: AnswerError| match error {
            AnswerError::Ground | AnswerError::Tokens { .. } => {
                Reason::Engine { message: format!("{} tile {tile}: {error}", prompt.id) }
            }
            _ => Reason::Unparsable { prompt: prompt.id.clone(), tile },
        };
        match &prompt.kind {
            PromptKind::Defects { labels } => {
                self.score = self.score.max(1.0 - empty_probability(&answer));
                let asked = plan::asked_labels(labels, &self.model);
                let read = parse_defects(&answer, tile, asked).map_err(unread)?;
                self.doubt(&read, labels);
                self.detections.extend(read.detections.into_iter().filter(|d| labels.contains(&d.label)));
            }
            PromptKind::Text { expect } => {
                let lines = parse_lines(&answer).map_err(unread)?;
                let frame = self.work.frame;
                let lines =
                    expect::check_lines(&prompt.id, &lines, expect, &frame.trigger, year(frame.captured_at));
                self.texts.extend(lines);
            }
            PromptKind::Reference(rule) => self.look(region, rule, place, answer.cells.as_ref(), looked)?,
        }
        Ok(())
    }

    /// Judges the cells of a tile by what was learned, unless that was done before.
    fn look(
        &mut self,
        region: &Region,
        rule: &ReferenceRule,
        place: usize,
        cells: Option<&Cells>,
        looked: Option<Result<Looked, String>>,
    ) -> Result<(), Reason> {
        let tile = region.tile;
        let fault = |message: String| Reason::Engine { message: format!("tile {}: {message}", tile.index) };
        let cells = cells.ok_or_else(|| fault("no features came".into()))?;
        let noise_below = self.work.pipeline.verdict.ignore_below_confidence;
        let look = || reference::look(rule, tile.index, place, cells, noise_below);
        let looked = looked.unwrap_or_else(look).map_err(fault)?;
        self.score = self.score.max(looked.score);
        self.clean = self.clean.min(looked.clean);
        self.heat.put(tile.rect, cells.rows, cells.cols, &looked.cells);
        self.detections.extend(looked.detections);
        Ok(())
    }

    /// Notes how sure a tile's answer is that nothing is there beside its detections. A detection whose label the
    /// recipe does not list was looked at, and is no finding; what is not sure of its label may be a listed one. A
    /// detection that is dropped as noise leaves all of its doubt.
    fn doubt(&mut self, read: &answer::Defects, labels: &[String]) {
        let noise_below = self.work.pipeline.verdict.ignore_below_confidence;
        let clean = read.clean(|detection, opened| {
            if !labels.contains(&detection.label) {
                opened - detection.confidence
            } else if detection.confidence < noise_below {
                opened
            } else {
                0.0
            }
        });
        // A probability that is none must reach the verdict.
        if clean.is_nan() || clean < self.clean {
            self.clean = clean;
        }
    }

    fn finish(mut self) -> Inspection {
        let Work { frame, pipeline } = self.work;
        if let Some(Reason::MissingTile { inspected, .. }) = self.faults.first_mut() {
            *inspected = self.tiles.inspected;
        }
        // An engine's error explains more than the tiles that it left out.
        self.faults.sort_by_key(|f| !matches!(f, Reason::Engine { .. } | Reason::Frame { .. }));
        let findings = grade::grade_all(self.merged, &pipeline.grades);
        let rule = VerdictRule { deadline: self.work.deadline(), ..pipeline.verdict };
        let elapsed = frame.captured.elapsed();
        let late = elapsed > rule.deadline;
        if late {
            // Stopping is how a late inspection looks from inside; say why it was stopped.
            self.faults.retain(|f| !matches!(f, Reason::MissingTile { .. }));
        }
        let evidence = Evidence {
            findings: &findings,
            texts: &self.texts,
            clean: self.clean,
            score: self.score,
            faults: &self.faults,
            whole: self.tiles.inspected >= self.tiles.planned,
            elapsed,
        };
        let (grade, verdict) = grade::verdict(&evidence, &rule);
        assert!(
            self.faults.is_empty() || matches!(verdict, Verdict::Review(_)),
            "a fault became {verdict:?}"
        );
        self.latency.total_ms = elapsed.as_secs_f64() * 1e3;
        Inspection {
            id: ulid::Ulid::generate().to_string(),
            camera: frame.camera.clone(),
            trigger: frame.trigger.clone(),
            pipeline: pipeline.name.clone(),
            pipeline_version: pipeline.version.clone(),
            model: ModelRef {
                name: self.model.name.clone(),
                text_sha256: self.model.text_sha256.clone(),
                mmproj_sha256: self.model.mmproj_sha256.clone(),
            },
            prompt_hash: prompt_hash(pipeline, &self.model),
            captured_at: frame.captured_at,
            finished_at: SystemTime::now(),
            verdict,
            grade,
            findings,
            texts: self.texts,
            tiles: self.tiles,
            score: self.score,
            latency: self.latency,
            answers: self.answers,
            learned: learned(pipeline),
            skipped: self.skipped,
            heat: self.heat.finish(),
            replayed: frame.replayed,
            origin: frame.origin.clone(),
            clip: frame.clip.iter().map(|earlier| earlier.before).collect(),
        }
    }
}

/// The files by which a recipe judges that were learned: banks and heads from confirmed parts, and the adapter with which
/// the model is asked.
fn learned(pipeline: &Pipeline) -> Vec<LearnedRef> {
    let file = |prompt: &Prompt| {
        let (kind, sha256) = match &prompt.kind {
            PromptKind::Reference(rule) => (rule.lesson.as_str(), rule.learned.as_ref()?.sha256.clone()),
            _ => ("adapter", pipeline.adapter.as_ref()?.sha256.clone()),
        };
        Some(LearnedRef { prompt: prompt.id.clone(), kind: kind.into(), sha256 })
    };
    pipeline.prompts.iter().filter_map(file).collect()
}

/// The calendar year of a time, UTC.
fn year(time: SystemTime) -> i32 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    jiff::Timestamp::from_second(seconds).map_or(1970, |t| t.to_zoned(jiff::tz::TimeZone::UTC).year().into())
}

#[cfg(test)]
mod tests;
