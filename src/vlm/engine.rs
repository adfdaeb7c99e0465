//! Answers sets of jobs: one owner of the model, one thread pool, ragged batches.
//!
//!     jobs --vision, equal sizes together--> waiting --room in the arena--> live
//!     each pass: new pictures and questions, and one step of every live answer, in one batch
//!     live --grammar or model ends it, or max_tokens--> done, its rows go back to the arena
//!
//! Keys and values of the prefix are computed once a model, of a job's pictures once a job; its
//! questions name those spans and copy nothing. Which jobs share a pass changes no answer beyond
//! the rounding of sums.

use super::attention::{Part, Span};
use super::error::VlmError;
use super::grammar::{bad, Grammars};
use super::image::{preprocess, PatchGrid, Patches};
use super::kv::Arena;
use super::load::{load, Loaded};
use super::rope::{image_advance, image_positions, text_positions, Position};
use super::sample::Sampler;
use super::text::{Batch, Text};
use super::{AnswerToken, Answers, Ask, Completion, Finish, Job, ModelInfo, Timing, Vlm};
use candle_core::{Device, Tensor};
use llguidance::Matcher;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Most patches in one pass of the vision tower; bounds its memory, and larger gains nothing.
const VISION_PATCHES_MAX: usize = 8192;
/// New rows that a pass may take besides the steps of live answers; one job is always taken.
const PREFILL_ROWS_MAX: usize = 2048;
/// Most answers decoded side by side.
const LIVE_MAX: usize = 64;
/// Rows of keys and values when no budget is given, as far as `ARENA_BYTES_DEFAULT` allows.
const ARENA_ROWS_DEFAULT: usize = 32 * 1024;
/// Memory for keys and values when no budget is given.
const ARENA_BYTES_DEFAULT: usize = 1 << 30;
/// Fewest rows that are of any use.
const ARENA_ROWS_MIN: usize = 256;

/// What the engine may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// 0: all cores.
    pub threads: usize,
    /// Memory for keys and values in MiB; 0: up to 1 GiB.
    pub kv_mb: usize,
}

/// A loaded Qwen3-VL.
pub struct Qwen3Vl {
    model: Loaded,
    grammars: Grammars,
    arena: Arena,
    /// Keys and values of `<|im_start|>user\n<|vision_start|>`.
    prefix: Span,
    pool: rayon::ThreadPool,
}

/// Rows of pictures behind the prefix, shared by the questions of one job.
struct Shared {
    job: usize,
    span: Span,
    embeddings: Tensor,
    deepstack: Vec<Tensor>,
    positions: Vec<Position>,
    /// Questions that still use the span.
    users: usize,
}

/// One answer in the making.
struct Live {
    job: usize,
    ask: usize,
    matcher: Option<Matcher>,
    sampler: Sampler,
    /// Spans before its own rows.
    context: Vec<Span>,
    own: Span,
    /// Rows of `own` that are written.
    filled: usize,
    next: u32,
    /// Tokens to feed in the next pass.
    pending: Vec<u32>,
    prompt_ids: Vec<u32>,
    max_tokens: usize,
    tokens: Vec<AnswerToken>,
    bytes: Vec<u8>,
}

impl Vlm for Qwen3Vl {
    fn info(&self) -> &ModelInfo {
        &self.model.info
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &dyn Fn() -> bool) -> Answers {
        let mut run = Run::new(self, jobs);
        run.all(keep_going);
        Answers { jobs: run.finish(), timing: run.timing }
    }
}

impl Qwen3Vl {
    /// Loads a pair and sets the memory for keys and values aside.
    ///
    /// # Errors
    /// As `load`; `TooLong` when the budget holds too few rows to be of use.
    pub fn load(
        text: &Path,
        mmproj: &Path,
        options: EngineOptions,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let model = load(text, mmproj, None, device)?;
        let c = &model.text.config;
        let width = c.kv_heads * c.head_dim;
        let row_bytes = c.blocks * width * 2 * size_of::<f32>();
        let rows = match options.kv_mb {
            0 => (ARENA_BYTES_DEFAULT / row_bytes).min(ARENA_ROWS_DEFAULT),
            mb => (mb << 20) / row_bytes,
        };
        if rows < ARENA_ROWS_MIN {
            return Err(VlmError::TooLong { needed: ARENA_ROWS_MIN, available: rows });
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let pool = pool.map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let grammars = Grammars::new(Arc::clone(&model.tokenizer), model.template.im_end)?;
        let arena = Arena::new(c.blocks, rows, width, device)?;
        let mut engine = Self { model, grammars, arena, prefix: Span { start: 0, rows: 0 }, pool };
        engine.prefill_prefix()?;
        Ok(engine)
    }

    /// The model's parts, for tests and benches.
    pub const fn model(&self) -> &Loaded {
        &self.model
    }

    fn prefill_prefix(&mut self) -> Result<(), VlmError> {
        let ids = self.model.template.prefix();
        let own = self.arena.lend(ids.len()).ok_or_else(|| self.arena.too_long(ids.len()))?;
        let batch = Batch {
            embeddings: self.model.text.embed(&ids)?,
            positions: text_positions(0, ids.len()).collect(),
            parts: vec![Part { row: 0, rows: ids.len(), context: vec![], own, causal: true }],
            deepstack: vec![],
        };
        let (text, arena) = (&self.model.text, &self.arena);
        self.pool.install(|| text.forward(&batch, arena))?;
        self.prefix = own;
        Ok(())
    }
}

type Slot = Option<Result<Completion, VlmError>>;

/// One call of `answer`.
struct Run<'a> {
    engine: &'a mut Qwen3Vl,
    jobs: &'a [Job],
    results: Vec<Vec<Slot>>,
    shared: Vec<Shared>,
    live: Vec<Live>,
    timing: Timing,
}

impl<'a> Run<'a> {
    fn new(engine: &'a mut Qwen3Vl, jobs: &'a [Job]) -> Self {
        let results = jobs.iter().map(|j| j.asks.iter().map(|_| None).collect()).collect();
        Self { engine, jobs, results, shared: vec![], live: vec![], timing: Timing::default() }
    }

    fn all(&mut self, keep_going: &dyn Fn() -> bool) {
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
            let one = |i: &Arc<_>| preprocess(i, c.patch, c.merge, job.min_pixels, job.max_pixels);
            job.images.iter().map(one).collect()
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
                let same = all.iter().all(|p| p.grid == all[0].grid);
                let batches: Vec<&[&Patches]> = if same { vec![&all] } else { all.chunks(1).collect() };
                let mut pieces = VecDeque::new();
                for batch in batches {
                    let out = vision.forward(batch)?;
                    let rows = batch[0].grid.patches() / (merge * merge);
                    for i in 0..batch.len() {
                        let cut = |t: &Tensor| t.narrow(0, i * rows, rows);
                        let deepstack = out.deepstack.iter().map(cut).collect::<candle_core::Result<_>>()?;
                        pieces.push_back(Picture {
                            grid: batch[i].grid,
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
        let (shared, _) = self.shared_ids(e);
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

    /// What all questions of a job share behind the prefix, and the position behind it.
    fn shared_ids<'e>(&self, e: &'e Encoded) -> (Vec<Piece<'e>>, u32) {
        let t = &self.engine.model.template;
        let merge = self.engine.model.vision.config.merge;
        let mut next = if e.pictures.is_empty() { 0 } else { self.engine.prefix.rows as u32 };
        let mut pieces = vec![];
        for (i, picture) in e.pictures.iter().enumerate() {
            if i > 0 {
                pieces.push(Piece::Ids([t.vision_end, t.vision_start], next));
                next += 2;
            }
            pieces.push(Piece::Picture(picture, next));
            next += image_advance(picture.grid.rows / merge, picture.grid.cols / merge);
        }
        (pieces, next)
    }

    /// The tokens that stand for the shared spans, for the record of what the model was given.
    fn shown_ids(&self, e: &Encoded, pieces: &[Piece<'_>]) -> Vec<u32> {
        let t = &self.engine.model.template;
        let mut ids = if e.pictures.is_empty() { vec![] } else { t.prefix() };
        for piece in pieces {
            match piece {
                Piece::Ids(inner, _) => ids.extend(inner),
                Piece::Picture(..) => ids.extend(std::iter::repeat_n(t.image_pad, piece.rows())),
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
        let (pieces, next) = self.shared_ids(e);
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
        let context = if e.pictures.is_empty() { vec![] } else { vec![self.engine.prefix, span] };
        let before = self.shown_ids(e, &pieces);
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
                prompt_ids: [&before, &ids[..ids.len() - forced.len()]].concat(),
                pending: ids,
                max_tokens: asks[i].max_tokens,
                tokens: vec![],
                bytes: vec![],
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
                span,
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
    fn forward(&mut self, fresh: &[usize]) -> Result<(Vec<Vec<f32>>, f64), VlmError> {
        let (text, arena) = (&self.engine.model.text, &self.engine.arena);
        let mut rows = Rows::default();
        for i in fresh {
            let s = &self.shared[*i];
            rows.add(s.positions.iter().copied(), vec![self.engine.prefix], s.span);
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
        let logits = self.engine.pool.install(|| -> Result<Vec<Vec<f32>>, VlmError> {
            let batch = rows.batch(text, &ids)?;
            let hidden = text.forward(&batch, arena)?;
            Ok(text.logits(&hidden, &last)?.to_vec2::<f32>()?)
        })?;
        Ok((logits, new_rows as f64 / total as f64))
    }

    /// Gives every live answer its next tokens; those that ended leave.
    fn advance(&mut self, logits: &[Vec<f32>]) {
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
    fn finish(&mut self) -> Vec<Vec<Result<Completion, VlmError>>> {
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

enum Step {
    Go,
    Done(Finish),
    Failed(VlmError),
}

impl Live {
    fn push(&mut self, id: u32, prob: f32, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.tokens.push(AnswerToken { id, start, end: self.bytes.len(), prob });
    }

    /// Chooses the next token from the logits of the last row, and those that the grammar forces.
    fn step(&mut self, logits: &[f32], model: &Loaded) -> Step {
        self.try_step(logits, model).unwrap_or_else(Step::Failed)
    }

    fn try_step(&mut self, logits: &[f32], model: &Loaded) -> Result<Step, VlmError> {
        if self.tokens.len() >= self.max_tokens {
            return Ok(Step::Done(Finish::Length));
        }
        let allowed = self.matcher.as_mut().map(|m| m.compute_mask().map_err(|e| bad(&e))).transpose()?;
        let answer: Vec<u32> = self.tokens.iter().map(|t| t.id).collect();
        let (id, prob) = self.sampler.next(logits, allowed.as_ref(), &answer)?;
        if model.template.ends(id) {
            return Ok(Step::Done(Finish::Stop));
        }
        if let Some(m) = &mut self.matcher {
            m.consume_token(id).map_err(|e| bad(&e))?;
        }
        self.push(id, prob, model.tokenizer.bytes(id));
        self.pending.push(id);
        for forced in force(&mut self.matcher)? {
            if self.tokens.len() >= self.max_tokens {
                return Ok(Step::Done(Finish::Length));
            }
            self.push(forced, 1.0, model.tokenizer.bytes(forced));
            self.pending.push(forced);
        }
        let ended = self.matcher.as_ref().is_some_and(Matcher::is_stopped);
        Ok(if ended { Step::Done(Finish::Stop) } else { Step::Go })
    }

    fn complete(&mut self, finish: Finish) -> Completion {
        Completion {
            text: String::from_utf8_lossy(&self.bytes).into_owned(),
            tokens: std::mem::take(&mut self.tokens),
            prompt_ids: std::mem::take(&mut self.prompt_ids),
            finish,
        }
    }
}

/// Tokens that the grammar leaves no choice about; the matcher has consumed them.
fn force(matcher: &mut Option<Matcher>) -> Result<Vec<u32>, VlmError> {
    let Some(m) = matcher else { return Ok(vec![]) };
    if m.is_stopped() {
        return Ok(vec![]);
    }
    let forced = m.consume_ff_tokens();
    m.get_error().map_or(Ok(forced), |why| Err(VlmError::Grammar { why }))
}

/// The vision tower's rows of one picture.
struct Picture {
    grid: PatchGrid,
    embeds: Tensor,
    deepstack: Vec<Tensor>,
}

/// A job whose pictures are encoded.
struct Encoded {
    job: usize,
    pictures: Vec<Picture>,
}

/// A part of what the questions of a job share, with its first position.
enum Piece<'a> {
    Ids([u32; 2], u32),
    Picture(&'a Picture, u32),
}

impl Piece<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Ids(ids, _) => ids.len(),
            Self::Picture(p, _) => p.embeds.dims()[0],
        }
    }
}

/// What a job brought into the next pass.
struct Entered {
    /// Index into `Run::shared`.
    shared: Option<usize>,
    rows: usize,
}

fn share(
    text: &Text,
    vision: &super::vision::VisionConfig,
    e: &Encoded,
    pieces: &[Piece<'_>],
    span: Span,
    users: usize,
) -> Result<Shared, VlmError> {
    let mut embeddings = vec![];
    let mut deepstack = vec![vec![]; vision.deepstack.len()];
    let mut positions = vec![];
    for piece in pieces {
        match piece {
            Piece::Ids(ids, at) => {
                let rows = text.embed(ids)?;
                deepstack.iter_mut().try_for_each(|d| rows.zeros_like().map(|z| d.push(z)))?;
                embeddings.push(rows);
                positions.extend(text_positions(*at, ids.len()));
            }
            Piece::Picture(p, at) => {
                embeddings.push(p.embeds.clone());
                deepstack.iter_mut().zip(&p.deepstack).for_each(|(d, f)| d.push(f.clone()));
                positions.extend(image_positions(
                    *at,
                    p.grid.rows / vision.merge,
                    p.grid.cols / vision.merge,
                ));
            }
        }
    }
    let deepstack = deepstack.iter().map(|d| Tensor::cat(d, 0)).collect::<candle_core::Result<_>>()?;
    Ok(Shared { job: e.job, span, embeddings: Tensor::cat(&embeddings, 0)?, deepstack, positions, users })
}

/// The rows of a pass while it is put together: pictures first, then tokens.
#[derive(Default)]
struct Rows {
    positions: Vec<Position>,
    parts: Vec<Part>,
    pictures: Vec<(Tensor, Vec<Tensor>)>,
}

impl Rows {
    fn add(&mut self, positions: impl Iterator<Item = Position>, context: Vec<Span>, own: Span) {
        let row = self.positions.len();
        self.positions.extend(positions);
        self.parts.push(Part { row, rows: self.positions.len() - row, context, own, causal: true });
    }

    fn batch(self, text: &Text, ids: &[u32]) -> Result<Batch, VlmError> {
        let words = text.embed(ids)?;
        let mut embeddings: Vec<Tensor> = self.pictures.iter().map(|(e, _)| e.clone()).collect();
        let features = self.pictures.first().map_or(0, |(_, d)| d.len());
        let mut deepstack = vec![];
        for k in 0..features {
            let mut rows: Vec<Tensor> = self.pictures.iter().map(|(_, d)| d[k].clone()).collect();
            rows.push(words.zeros_like()?);
            deepstack.push(Tensor::cat(&rows, 0)?);
        }
        embeddings.push(words);
        Ok(Batch {
            embeddings: Tensor::cat(&embeddings, 0)?,
            positions: self.positions,
            parts: self.parts,
            deepstack,
        })
    }
}

/// Jobs whose pictures have one size, in batches that the vision tower takes at once.
fn group(pictures: &[Option<Vec<Patches>>]) -> VecDeque<Vec<usize>> {
    let mut groups: Vec<(Option<PatchGrid>, usize, Vec<usize>)> = vec![];
    for (job, pictures) in pictures.iter().enumerate() {
        let Some(pictures) = pictures else { continue };
        let grid = pictures.first().map(|p| p.grid).filter(|g| pictures.iter().all(|p| p.grid == *g));
        let patches: usize = pictures.iter().map(|p| p.grid.patches()).sum();
        let fits = |g: &&mut (Option<PatchGrid>, usize, Vec<usize>)| {
            g.0 == grid && grid.is_some() && g.1 + patches <= VISION_PATCHES_MAX
        };
        match groups.iter_mut().find(fits) {
            Some(g) => {
                g.1 += patches;
                g.2.push(job);
            }
            None => groups.push((grid, patches, vec![job])),
        }
    }
    groups.into_iter().map(|(_, _, jobs)| jobs).collect()
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
