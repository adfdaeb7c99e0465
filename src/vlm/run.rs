//! One call of `answer`: jobs come in, share passes, and leave one by one.
//!
//!     preprocess --> groups of equal size --encode--> waiting --admit--> live --pass--> done
//!                                                                 ^        |
//!                                              rows of the arena -'--------'

use super::attention::Span;
use super::batch::{Batch, Picture};
use super::clip::{pair_seconds, Shown};
use super::encoded::{group, Encoded, Piece, VISION_PATCHES_MAX};
use super::engine::Engine;
use super::error::VlmError;
use super::image::Patches;
use super::live::{force, Live};
use super::rope::image_advance;
use super::sample::Sampler;
use super::{Ask, Completion, Job, Timing};
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// New rows that a pass may take besides the steps of live answers; one job is always taken. Passes of four
/// times as many rows are a fifth slower with a model of 4B: what they keep between products is larger than the
/// caches, and the weights, which are read once a pass, are not what they wait for.
const PREFILL_ROWS_MAX: usize = 512;
/// Bytes of a token that an answer has room for from the start.
const BYTES_A_TOKEN: usize = 8;
/// Most answers decoded side by side.
const LIVE_MAX: usize = 64;

type Slot = Option<Result<Completion, VlmError>>;

/// Rows of pictures behind the prefix, shared by the questions of one job.
struct Shared {
    job: usize,
    span: Span,
    /// Questions that still use the span.
    users: usize,
}

/// One call of `answer`, on a thread of the engine's pool.
pub(super) struct Run<'a> {
    engine: &'a mut Engine,
    jobs: &'a [Job],
    results: Vec<Vec<Slot>>,
    shared: Vec<Shared>,
    live: Vec<Live>,
    /// The next pass: pictures and words of new jobs that their questions share, then what is pending of answers.
    batch: Batch,
    /// The rows of the pass whose logits are wanted: the last one of every answer.
    last: Vec<usize>,
    pub(super) timing: Timing,
}

impl<'a> Run<'a> {
    pub(super) fn new(engine: &'a mut Engine, jobs: &'a [Job]) -> Self {
        let results = jobs.iter().map(|j| j.asks.iter().map(|_| None).collect()).collect();
        let (batch, timing) = (Batch::default(), Timing::default());
        Self { engine, jobs, results, shared: vec![], live: vec![], batch, last: vec![], timing }
    }

    pub(super) fn all(&mut self, keep_going: &dyn Fn() -> bool) {
        let pictures = self.preprocess();
        let mut waiting: VecDeque<Encoded> = VecDeque::new();
        let mut groups = group(&pictures);
        while keep_going() {
            if waiting.is_empty() {
                let Some(jobs) = groups.pop_front() else {
                    if self.live.is_empty() {
                        return;
                    }
                    self.pass();
                    continue;
                };
                waiting.extend(self.encode(&jobs, &pictures));
            }
            self.admit(&mut waiting);
            self.pass();
        }
    }

    /// Resizes and cuts all pictures; a job whose picture is refused has its error at once.
    fn preprocess(&mut self) -> Vec<Option<Vec<Patches>>> {
        let started = Instant::now();
        let c = &self.engine.model.vision.config;
        let cut = |job: &Job| -> Result<Vec<Patches>, VlmError> {
            job.shown.preprocess(c.patch, c.merge, job.min_pixels, job.max_pixels)
        };
        let cut: Vec<_> = self.jobs.par_iter().map(cut).collect();
        self.timing.preprocess_ms += ms(started);
        cut.into_iter().enumerate().map(|(job, p)| p.map_err(|e| self.fail_job(job, &e)).ok()).collect()
    }

    /// Runs the pictures of some jobs, all of one size, through the vision tower.
    fn encode(&mut self, jobs: &[usize], pictures: &[Option<Vec<Patches>>]) -> Vec<Encoded> {
        let started = Instant::now();
        let of = |job: usize| pictures[job].as_deref().unwrap_or(&[]);
        let all: Vec<&Patches> = jobs.iter().flat_map(|j| of(*j)).collect();
        let encoded = self.see(&all).map(VecDeque::from);
        self.timing.vision_ms += ms(started);
        match encoded {
            Ok(mut seen) => {
                let encoded =
                    |job: &usize| Encoded { job: *job, pictures: seen.drain(..of(*job).len()).collect() };
                jobs.iter().map(encoded).collect()
            }
            Err(e) => {
                jobs.iter().for_each(|job| self.fail_job(*job, &e));
                vec![]
            }
        }
    }

    /// What the vision tower says about each of some pictures.
    fn see(&self, all: &[&Patches]) -> Result<Vec<Arc<Picture>>, VlmError> {
        let Some(first) = all.first() else { return Ok(vec![]) };
        let vision = &self.engine.model.vision;
        let merge = vision.config.merge;
        // Jobs with pictures of several sizes are encoded picture by picture.
        let same = all.iter().all(|p| p.is_like(first));
        // One job may show more than a pass of the tower takes.
        let at_once = (VISION_PATCHES_MAX / first.grid.patches()).max(1);
        let mut seen = vec![];
        for batch in all.chunks(if same { at_once } else { 1 }) {
            let out = vision.forward(batch)?;
            let (rows, cols) = (batch[0].grid.rows / merge, batch[0].grid.cols / merge);
            for i in 0..batch.len() {
                let cut = |t: &Tensor| t.narrow(0, i * rows * cols, rows * cols);
                let deepstack = out.deepstack.iter().map(cut).collect::<candle_core::Result<_>>()?;
                seen.push(Arc::new(Picture { rows, cols, embeds: cut(&out.embeds)?, deepstack }));
            }
        }
        Ok(seen)
    }

    /// Takes waiting jobs while there is room.
    fn admit(&mut self, waiting: &mut VecDeque<Encoded>) {
        let mut rows = 0;
        while let Some(next) = waiting.front() {
            if rows > PREFILL_ROWS_MAX || self.live.len() >= LIVE_MAX {
                break;
            }
            match self.enter(next) {
                Ok(Some(entered)) => rows += entered,
                // No room now: it waits for a live answer to end.
                Ok(None) if !self.live.is_empty() => break,
                Ok(None) => {
                    let needed = self.rows_needed(next).unwrap_or(0);
                    let error = self.engine.arena.too_long(needed);
                    self.fail_job(next.job, &error);
                }
                Err(e) => self.fail_job(next.job, &e),
            }
            waiting.pop_front();
        }
    }

    fn rows_needed(&self, e: &Encoded) -> Result<usize, VlmError> {
        let (shared, _) = self.shared_ids(e)?;
        let mut rows = shared.iter().map(Piece::rows).sum();
        for ask in &self.jobs[e.job].asks {
            rows += self.question(ask, e)?.len() + ask.max_tokens;
        }
        Ok(rows)
    }

    fn question(&self, ask: &Ask, e: &Encoded) -> Result<Vec<u32>, VlmError> {
        let m = &self.engine.model;
        m.template.question(&m.tokenizer, &ask.text, !e.pictures.is_empty())
    }

    /// The rows of the prefix that a job stands behind: a clip's first time comes before its first
    /// `<|vision_start|>`.
    fn before(&self, e: &Encoded) -> Span {
        let Span { start, rows } = self.engine.prefix;
        match &self.jobs[e.job].shown {
            Shown::Images(images) if images.is_empty() => Span { start, rows: 0 },
            Shown::Images(_) => Span { start, rows },
            Shown::Clip(_) => Span { start, rows: rows - 1 },
        }
    }

    /// What all questions of a job share behind the prefix, and the position behind it.
    fn shared_ids(&self, e: &Encoded) -> Result<(Vec<Piece>, u32), VlmError> {
        let m = &self.engine.model;
        let t = &m.template;
        let before_each: Vec<Vec<u32>> = match &self.jobs[e.job].shown {
            Shown::Images(_) => (0..e.pictures.len())
                .map(|i| if i == 0 { vec![] } else { vec![t.vision_end, t.vision_start] })
                .collect(),
            Shown::Clip(frames) => {
                let seconds = pair_seconds(&frames.iter().map(|f| f.at).collect::<Vec<_>>());
                let ids = |(i, s): (usize, &f64)| t.before_pair(&m.tokenizer, *s, i == 0);
                seconds.iter().enumerate().map(ids).collect::<Result<_, _>>()?
            }
        };
        let mut next = self.before(e).rows as u32;
        let mut pieces = vec![];
        for (picture, ids) in e.pictures.iter().zip(before_each) {
            if !ids.is_empty() {
                let rows = ids.len() as u32;
                pieces.push(Piece::Ids(ids, next));
                next += rows;
            }
            pieces.push(Piece::Picture(Arc::clone(picture), next));
            next += image_advance(picture.rows, picture.cols);
        }
        Ok((pieces, next))
    }

    /// The tokens that stand for the shared spans, for the record of what the model was given.
    fn shown_ids(&self, e: &Encoded, pieces: &[Piece]) -> Vec<u32> {
        let t = &self.engine.model.template;
        let pad = match self.jobs[e.job].shown {
            Shown::Images(_) => t.image_pad,
            Shown::Clip(_) => t.video_pad.unwrap_or(t.image_pad),
        };
        let mut ids = t.prefix();
        ids.truncate(self.before(e).rows);
        for piece in pieces {
            match piece {
                Piece::Ids(inner, _) => ids.extend(inner),
                Piece::Picture(..) => ids.extend(std::iter::repeat_n(pad, piece.rows())),
            }
        }
        ids
    }

    /// Lends the rows of a job, opens its answers and puts what they share into the next pass: how many rows came
    /// new, `None` when the arena has no room.
    fn enter(&mut self, e: &Encoded) -> Result<Option<usize>, VlmError> {
        let asks = &self.jobs[e.job].asks;
        if asks.is_empty() {
            return Ok(Some(0));
        }
        let mut opened = vec![];
        for ask in asks {
            let mut ids = self.question(ask, e)?;
            let mut matcher = ask.grammar.as_ref().map(|g| self.engine.grammars.start(g)).transpose()?;
            let forced = force(&mut matcher)?;
            ids.extend(&forced);
            opened.push((ids, matcher, forced));
        }
        let (pieces, next) = self.shared_ids(e)?;
        let shared_rows = pieces.iter().map(Piece::rows).sum();
        let mut spans = vec![];
        for rows in
            std::iter::once(shared_rows).chain(opened.iter().zip(asks).map(|(o, a)| o.0.len() + a.max_tokens))
        {
            match self.engine.arena.lend(rows) {
                Some(span) => spans.push(span),
                None => {
                    spans.into_iter().for_each(|s| self.engine.arena.give_back(s));
                    return Ok(None);
                }
            }
        }
        let mut spans = spans.into_iter();
        let span = spans.next().unwrap_or(Span { start: 0, rows: 0 });
        let before = self.before(e);
        let context = if e.pictures.is_empty() { vec![] } else { vec![before, span] };
        let shown = self.shown_ids(e, &pieces);
        let mut rows = shared_rows;
        for (i, ((ids, matcher, forced), own)) in opened.into_iter().zip(spans).enumerate() {
            rows += ids.len();
            let mut live = Live {
                job: e.job,
                ask: i,
                matcher,
                sampler: Sampler::new(&asks[i].sampling),
                context: context.clone(),
                own,
                filled: 0,
                next,
                prompt_ids: [&shown, &ids[..ids.len() - forced.len()]].concat(),
                pending: ids,
                max_tokens: asks[i].max_tokens,
                tokens: Vec::with_capacity(asks[i].max_tokens),
                bytes: Vec::with_capacity(BYTES_A_TOKEN * asks[i].max_tokens),
                allowed: None,
                tiles: vec![],
                outcome: None,
            };
            forced.iter().for_each(|id| live.push(*id, 1.0, self.engine.model.tokenizer.bytes(*id)));
            self.live.push(live);
        }
        if !e.pictures.is_empty() {
            for piece in &pieces {
                match piece {
                    Piece::Ids(ids, start) => self.batch.tokens(ids, *start),
                    Piece::Picture(picture, start) => self.batch.picture(picture, *start),
                }
            }
            self.batch.part([before], span.start);
            self.shared.push(Shared { job: e.job, span, users: asks.len() });
        }
        Ok(Some(rows))
    }

    /// One pass of the text model: what new jobs share, and the pending tokens of all answers.
    fn pass(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let started = Instant::now();
        let new_rows = self.add_pending();
        let prefill_share = new_rows as f64 / self.batch.rows() as f64;
        let outcome = self.forward();
        self.batch.clear();
        if let Err(e) = outcome {
            self.live.iter_mut().for_each(|live| live.outcome = Some(Err(copy(&e))));
        }
        self.leave();
        let spent = ms(started);
        self.timing.prefill_ms += spent * prefill_share;
        self.timing.decode_ms += spent * (1.0 - prefill_share);
    }

    /// Adds the pending tokens of all answers to the pass; returns how many of its rows are not steps of an answer.
    fn add_pending(&mut self) -> usize {
        let mut new_rows = self.batch.rows();
        self.last.clear();
        for live in &mut self.live {
            let n = live.pending.len();
            if live.filled == 0 {
                new_rows += n;
            }
            let filled = Span { start: live.own.start, rows: live.filled };
            self.batch.tokens(&live.pending, live.next);
            self.batch.part(live.context.iter().copied().chain([filled]), live.own.start + live.filled);
            live.pending.clear();
            live.filled += n;
            live.next += n as u32;
            self.last.push(self.batch.rows() - 1);
        }
        new_rows
    }

    /// Gives every live answer its next tokens.
    fn forward(&mut self) -> Result<(), VlmError> {
        let Engine { model, arena, work, .. } = &mut *self.engine;
        self.live.par_iter_mut().for_each(Live::look_ahead);
        model.text.forward(&self.batch, arena, work)?;
        let live = &self.live;
        let logits = model.text.next_logits(work, &self.last, |i| live[i].allowed_tiles())?;
        self.live.par_iter_mut().enumerate().for_each(|(i, live)| live.step(logits.row(i), model));
        Ok(())
    }

    /// Takes the answers that ended out.
    fn leave(&mut self) {
        let mut ended: Vec<Live> = self.live.extract_if(.., |live| live.outcome.is_some()).collect();
        for live in &mut ended {
            let outcome = live.outcome.take().unwrap_or(Err(VlmError::Stopped));
            self.results[live.job][live.ask] = Some(outcome.map(|finish| live.complete(finish)));
            self.release(live);
        }
    }

    /// Returns the rows of an answer, and those of its pictures after their last question.
    fn release(&mut self, live: &Live) {
        self.engine.arena.give_back(live.own);
        if let Some(s) = self.shared.iter_mut().find(|s| s.job == live.job) {
            s.users -= 1;
            if s.users == 0 {
                self.engine.arena.give_back(s.span);
            }
        }
    }

    fn fail_job(&mut self, job: usize, e: &VlmError) {
        for slot in &mut self.results[job] {
            slot.get_or_insert_with(|| Err(copy(e)));
        }
    }

    /// All results; what is not complete was stopped.
    pub(super) fn finish(&mut self) -> Vec<Vec<Result<Completion, VlmError>>> {
        for live in std::mem::take(&mut self.live) {
            self.release(&live);
        }
        let stopped = |slot: Slot| slot.unwrap_or(Err(VlmError::Stopped));
        std::mem::take(&mut self.results)
            .into_iter()
            .map(|job| job.into_iter().map(stopped).collect())
            .collect()
    }
}

/// The same error for another answer of the same pass or job.
fn copy(e: &VlmError) -> VlmError {
    match e {
        VlmError::Image { width, height, why } => {
            VlmError::Image { width: *width, height: *height, why: why.clone() }
        }
        VlmError::TooLong { needed, available } => {
            VlmError::TooLong { needed: *needed, available: *available }
        }
        VlmError::Grammar { why } => VlmError::Grammar { why: why.clone() },
        VlmError::Tokenizer { why } => VlmError::Tokenizer { why: why.clone() },
        VlmError::NotFinite => VlmError::NotFinite,
        VlmError::Stopped => VlmError::Stopped,
        other => VlmError::Candle(candle_core::Error::Msg(other.to_string())),
    }
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
