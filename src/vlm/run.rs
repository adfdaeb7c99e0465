//! One call of `answer`: jobs come in, share passes, and leave one by one.
//!
//!     preprocess --> groups of equal size --encode--> waiting --admit--> live --pass--> done
//!                                                                 ^        |
//!                                              rows of the arena -'--------'

use super::attention::Span;
use super::batch::{group, share, Encoded, Entered, Picture, Piece, Rows, Shared, VISION_PATCHES_MAX};
use super::clip::{pair_seconds, Shown};
use super::engine::Qwen3Vl;
use super::error::VlmError;
use super::image::Patches;
use super::live::{force, Live, Step};
use super::logits::Logits;
use super::rope::{image_advance, text_positions};
use super::sample::Sampler;
use super::{Ask, Completion, Job, Timing};
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::time::Instant;

/// New rows that a pass may take besides the steps of live answers; one job is always taken. Passes of four
/// times as many rows are a fifth slower with a model of 4B: what they keep between products is larger than the
/// caches, and the weights, which are read once a pass, are not what they wait for.
const PREFILL_ROWS_MAX: usize = 512;
/// Most answers decoded side by side.
const LIVE_MAX: usize = 64;

type Slot = Option<Result<Completion, VlmError>>;

/// One call of `answer`.
pub(super) struct Run<'a> {
    pub(super) engine: &'a mut Qwen3Vl,
    pub(super) jobs: &'a [Job],
    pub(super) results: Vec<Vec<Slot>>,
    pub(super) shared: Vec<Shared>,
    pub(super) live: Vec<Live>,
    pub(super) timing: Timing,
}

impl<'a> Run<'a> {
    pub(super) fn new(engine: &'a mut Qwen3Vl, jobs: &'a [Job]) -> Self {
        let results = jobs.iter().map(|j| j.asks.iter().map(|_| None).collect()).collect();
        Self { engine, jobs, results, shared: vec![], live: vec![], timing: Timing::default() }
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
                    self.pass(vec![]);
                    continue;
                };
                waiting.extend(self.encode(&jobs, &pictures));
            }
            let fresh = self.admit(&mut waiting);
            self.pass(fresh);
        }
    }

    /// Resizes and cuts all pictures; a job whose picture is refused has its error at once.
    fn preprocess(&mut self) -> Vec<Option<Vec<Patches>>> {
        let started = Instant::now();
        let c = &self.engine.model.vision.config;
        let cut = |job: &Job| -> Result<Vec<Patches>, VlmError> {
            job.shown.preprocess(c.patch, c.merge, job.min_pixels, job.max_pixels)
        };
        let cut: Vec<_> = self.engine.pool.install(|| self.jobs.par_iter().map(cut).collect());
        self.timing.preprocess_ms += ms(started);
        cut.into_iter().enumerate().map(|(job, p)| p.map_err(|e| self.fail_job(job, &e)).ok()).collect()
    }

    /// Runs the pictures of some jobs, all of one size, through the vision tower.
    fn encode(&mut self, jobs: &[usize], pictures: &[Option<Vec<Patches>>]) -> Vec<Encoded> {
        let started = Instant::now();
        let of = |job: usize| pictures[job].as_deref().unwrap_or(&[]);
        let all: Vec<&Patches> = jobs.iter().flat_map(|j| of(*j)).collect();
        let merge = self.engine.model.vision.config.merge;
        let vision = &self.engine.model.vision;
        let encoded = if all.is_empty() {
            Ok(jobs.iter().map(|job| Encoded { job: *job, pictures: vec![] }).collect())
        } else {
            self.engine.pool.install(|| {
                // Jobs with pictures of several sizes are encoded picture by picture.
                let same = all.iter().all(|p| p.is_like(all[0]));
                // One job may show more than a pass of the tower takes.
                let at_once = (VISION_PATCHES_MAX / all[0].grid.patches()).max(1);
                let mut pieces = VecDeque::new();
                for batch in all.chunks(if same { at_once } else { 1 }) {
                    let out = vision.forward(batch)?;
                    let rows = batch[0].grid.patches() / (merge * merge);
                    for (i, patches) in batch.iter().enumerate() {
                        let cut = |t: &Tensor| t.narrow(0, i * rows, rows);
                        let deepstack = out.deepstack.iter().map(cut).collect::<candle_core::Result<_>>()?;
                        pieces.push_back(Picture {
                            grid: patches.grid,
                            embeds: cut(&out.embeds)?,
                            deepstack,
                        });
                    }
                }
                Ok(jobs
                    .iter()
                    .map(|job| Encoded { job: *job, pictures: pieces.drain(..of(*job).len()).collect() })
                    .collect())
            })
        };
        self.timing.vision_ms += ms(started);
        encoded.unwrap_or_else(|e: VlmError| {
            jobs.iter().for_each(|job| self.fail_job(*job, &e));
            vec![]
        })
    }

    /// Takes waiting jobs while there is room; returns the indexes into `shared` that are new.
    fn admit(&mut self, waiting: &mut VecDeque<Encoded>) -> Vec<usize> {
        let mut fresh = vec![];
        let mut rows = 0;
        while let Some(next) = waiting.front() {
            if rows > PREFILL_ROWS_MAX || self.live.len() >= LIVE_MAX {
                break;
            }
            match self.enter(next) {
                Ok(Some(entered)) => {
                    rows += entered.rows;
                    fresh.extend(entered.shared);
                }
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
        fresh
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
    fn shared_ids<'e>(&self, e: &'e Encoded) -> Result<(Vec<Piece<'e>>, u32), VlmError> {
        let m = &self.engine.model;
        let (t, merge) = (&m.template, m.vision.config.merge);
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
            pieces.push(Piece::Picture(picture, next));
            next += image_advance(picture.grid.rows / merge, picture.grid.cols / merge);
        }
        Ok((pieces, next))
    }

    /// The tokens that stand for the shared spans, for the record of what the model was given.
    fn shown_ids(&self, e: &Encoded, pieces: &[Piece<'_>]) -> Vec<u32> {
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

    /// Lends the rows of a job and opens its answers; `None` when the arena has no room.
    fn enter(&mut self, e: &Encoded) -> Result<Option<Entered>, VlmError> {
        let asks = &self.jobs[e.job].asks;
        if asks.is_empty() {
            return Ok(Some(Entered { shared: None, rows: 0 }));
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
                tokens: vec![],
                bytes: vec![],
                allowed: None,
            };
            forced.iter().for_each(|id| live.push(*id, 1.0, self.engine.model.tokenizer.bytes(*id)));
            self.live.push(live);
        }
        let shared = if e.pictures.is_empty() {
            None
        } else {
            self.shared.push(share(
                &self.engine.model.text,
                &self.engine.model.vision.config,
                e,
                &pieces,
                [before, span],
                asks.len(),
            )?);
            Some(self.shared.len() - 1)
        };
        Ok(Some(Entered { shared, rows }))
    }

    /// One pass of the text model: the pictures of new jobs, and the pending tokens of all answers.
    fn pass(&mut self, fresh: Vec<usize>) {
        if self.live.is_empty() {
            return;
        }
        let started = Instant::now();
        match self.forward(&fresh) {
            Ok((logits, prefill_share)) => {
                self.advance(&logits);
                let spent = ms(started);
                self.timing.prefill_ms += spent * prefill_share;
                self.timing.decode_ms += spent * (1.0 - prefill_share);
            }
            Err(e) => {
                for live in std::mem::take(&mut self.live) {
                    self.results[live.job][live.ask] = Some(Err(copy(&e)));
                    self.release(&live);
                }
            }
        }
    }

    /// Logits of the last row of every live answer, and the share of rows that were new.
    fn forward(&mut self, fresh: &[usize]) -> Result<(Vec<Logits>, f64), VlmError> {
        let (text, arena) = (&self.engine.model.text, &self.engine.arena);
        let mut rows = Rows::default();
        for i in fresh {
            let s = &self.shared[*i];
            rows.add(s.positions.iter().copied(), vec![s.before], s.span);
            rows.pictures.push((s.embeddings.clone(), s.deepstack.clone()));
        }
        let picture_rows = rows.positions.len();
        let mut new_rows = picture_rows;
        let mut ids = vec![];
        let mut last = vec![];
        for live in &mut self.live {
            let n = live.pending.len();
            if live.filled == 0 {
                new_rows += n;
            }
            let mut context = live.context.clone();
            context.push(Span { start: live.own.start, rows: live.filled });
            let own = Span { start: live.own.start + live.filled, rows: n };
            rows.add(text_positions(live.next, n), context, own);
            ids.append(&mut live.pending);
            live.filled += n;
            live.next += n as u32;
            last.push(rows.positions.len() - 1);
        }
        let total = rows.positions.len();
        let live = &mut self.live;
        let logits = self.engine.pool.install(|| -> Result<Vec<Logits>, VlmError> {
            let tiles: Vec<_> = live.par_iter_mut().map(Live::look_ahead).collect();
            let batch = rows.batch(text, &ids)?;
            let hidden = text.forward(&batch, arena)?;
            Ok(text.next_logits(&hidden, &last, &tiles)?)
        })?;
        Ok((logits, new_rows as f64 / total as f64))
    }

    /// Gives every live answer its next tokens; those that ended leave.
    fn advance(&mut self, logits: &[Logits]) {
        let mut live = std::mem::take(&mut self.live);
        let model = &self.engine.model;
        let steps: Vec<Step> = self
            .engine
            .pool
            .install(|| live.par_iter_mut().zip(logits).map(|(l, row)| l.step(row, model)).collect());
        for (mut live, step) in live.into_iter().zip(steps) {
            let result = match step {
                Step::Go => {
                    self.live.push(live);
                    continue;
                }
                Step::Done(finish) => Ok(live.complete(finish)),
                Step::Failed(e) => Err(e),
            };
            self.results[live.job][live.ask] = Some(result);
            self.release(&live);
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
