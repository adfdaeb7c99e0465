//! The jobs under way: each comes in, shares passes with others, and leaves when its last answer is there.
//!
//!     submit --> fresh --preprocess--> unseen --encode, in groups of equal size--> encoded --admit--> live --pass--> left
//!                                                                                  ^                 |
//!                                                         rows of the arena -------'-----------------'
//!
//! One `step` does at most one group of the tower and one pass of the text model, so that a job which comes meanwhile
//! waits for no more than these, whatever else is under way.
//!
//! Invariant: of what waits, the best rank goes first; of equal ranks what came first.

use super::attention::Span;
use super::batch::{Batch, Picture};
use super::clip::{Shown, pair_seconds};
use super::encoded::{Encoded, Piece, Unseen, VISION_PATCHES_MAX, next_group};
use super::engine::Engine;
use super::error::VlmError;
use super::image::Patches;
use super::live::{Live, force};
use super::rope::image_advance;
use super::sample::Sampler;
use super::{Answered, Ask, Completion, Job, Rank, Timing};
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};
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

/// Rows of pictures after the prefix, shared by the questions of one job.
struct Shared {
    job: u64,
    span: Span,
    /// Questions that still use the span.
    users: usize,
}

/// A job that is not answered yet.
struct Open {
    job: Job,
    rank: Rank,
    results: Vec<Option<Result<Completion, VlmError>>>,
    /// Its share of the time.
    timing: Timing,
}

/// Rows of a pass that belong to a job.
struct Share {
    job: u64,
    rows: usize,
    is_prefill: bool,
}

/// All jobs under way.
#[derive(Default)]
pub(super) struct Queue {
    open: BTreeMap<u64, Open>,
    /// Jobs whose pictures are not cut yet.
    fresh: Vec<u64>,
    /// Jobs whose pictures the tower has not seen, best first.
    unseen: Vec<Unseen>,
    /// Jobs that the text model has not begun, best first.
    encoded: VecDeque<Encoded>,
    shared: Vec<Shared>,
    live: Vec<Live>,
    /// The next pass: pictures and words of new jobs that their questions share, then what is pending of answers.
    batch: Batch,
    /// The rows of the pass whose logits are wanted: the last one of every answer.
    last: Vec<usize>,
    shares: Vec<Share>,
    /// Jobs whose last answer is there.
    left: Vec<u64>,
}

impl Queue {
    /// Takes a job in.
    pub(super) fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        let results = job.asks.iter().map(|_| None).collect::<Vec<_>>();
        if results.is_empty() {
            self.left.push(id);
        } else {
            self.fresh.push(id);
        }
        self.open.insert(id, Open { job, rank, results, timing: Timing::default() });
    }

    /// True when nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn fail(&mut self, id: u64, e: &VlmError) {
        let Some(open) = self.open.get_mut(&id) else { return };
        for slot in &mut open.results {
            slot.get_or_insert_with(|| Err(copy(e)));
        }
        self.left.push(id);
    }
}

/// One step, on a thread of the engine's pool.
pub(super) struct Run<'a> {
    engine: &'a mut Engine,
    queue: &'a mut Queue,
}

impl<'a> Run<'a> {
    pub(super) const fn new(engine: &'a mut Engine, queue: &'a mut Queue) -> Self {
        Self { engine, queue }
    }

    /// At most one group of the tower and one pass of the text model; jobs that are answered come out.
    pub(super) fn step(&mut self, out: &mut Vec<Answered>) {
        self.preprocess();
        let first = |q: &Queue| q.encoded.front().and_then(|e| q.open.get(&e.job)).map(|open| open.rank);
        if let Some(next) = self.queue.unseen.first() {
            // What is encoded holds memory: no more of it than is used at once, unless something better comes.
            if first(self.queue).is_none_or(|rank| next.rank < rank) {
                self.encode();
            }
        }
        self.admit();
        self.pass();
        while let Some(id) = self.queue.left.pop() {
            let Some(Open { results, timing, .. }) = self.queue.open.remove(&id) else { continue };
            let answers = results.into_iter().map(|r| r.unwrap_or(Err(VlmError::Stopped))).collect();
            out.push(Answered { id, answers, timing });
        }
    }

    /// Takes a job out; its answers that are complete come out, the others were stopped.
    pub(super) fn cancel(&mut self, id: u64) -> Option<Answered> {
        let q = &mut *self.queue;
        q.fresh.retain(|job| *job != id);
        q.unseen.retain(|job| job.id != id);
        q.encoded.retain(|job| job.job != id);
        q.left.retain(|job| *job != id);
        let stopped: Vec<Live> = q.live.extract_if(.., |live| live.job == id).collect();
        stopped.iter().for_each(|live| self.release(live));
        let Open { results, timing, .. } = self.queue.open.remove(&id)?;
        let answers = results.into_iter().map(|r| r.unwrap_or(Err(VlmError::Stopped))).collect();
        Some(Answered { id, answers, timing })
    }

    /// Resizes and cuts the pictures of what is new; a job whose picture is refused has its error at once.
    fn preprocess(&mut self) {
        if self.queue.fresh.is_empty() {
            return;
        }
        let started = Instant::now();
        let fresh = std::mem::take(&mut self.queue.fresh);
        let c = &self.engine.model.vision.config;
        let open = &self.queue.open;
        let cut = |id: &u64| -> Result<Vec<Patches>, VlmError> {
            let job = &open[id].job;
            job.shown.preprocess(c.patch, c.merge, job.min_pixels, job.max_pixels)
        };
        let cut: Vec<_> = fresh.par_iter().map(cut).collect();
        let each = ms(started) / fresh.len() as f64;
        for (id, patches) in fresh.into_iter().zip(cut) {
            let Some(open) = self.queue.open.get_mut(&id) else { continue };
            open.timing.preprocess_ms += each;
            let rank = open.rank;
            match patches {
                Ok(patches) => {
                    let at = self.queue.unseen.partition_point(|other| other.rank <= rank);
                    self.queue.unseen.insert(at, Unseen { id, rank, patches });
                }
                Err(e) => self.queue.fail(id, &e),
            }
        }
    }

    /// Runs the pictures of the next jobs, all of one size, through the vision tower.
    fn encode(&mut self) {
        let started = Instant::now();
        let jobs = next_group(&mut self.queue.unseen);
        let all: Vec<&Patches> = jobs.iter().flat_map(|job| &job.patches).collect();
        let seen = self.see(&all).map(VecDeque::from);
        let (spent, patches) = (ms(started), jobs.iter().map(Unseen::count).sum::<usize>().max(1));
        let mut seen = match seen {
            Ok(seen) => seen,
            Err(e) => {
                jobs.iter().for_each(|job| self.queue.fail(job.id, &e));
                return;
            }
        };
        for job in jobs {
            let pictures = seen.drain(..job.patches.len()).collect();
            let q = &mut *self.queue;
            let Some(open) = q.open.get_mut(&job.id) else { continue };
            open.timing.vision_ms += spent * job.count() as f64 / patches as f64;
            let rank_of = |e: &Encoded| q.open.get(&e.job).map(|open| open.rank);
            let at = q.encoded.partition_point(|other| rank_of(other) <= Some(job.rank));
            q.encoded.insert(at, Encoded { job: job.id, pictures });
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
    fn admit(&mut self) {
        let mut rows = 0;
        while let Some(next) = self.queue.encoded.pop_front() {
            if rows > PREFILL_ROWS_MAX || self.queue.live.len() >= LIVE_MAX {
                self.queue.encoded.push_front(next);
                break;
            }
            match self.enter(&next) {
                Ok(Some(entered)) => rows += entered,
                // No room now: it waits for a live answer to end.
                Ok(None) if !self.queue.live.is_empty() => {
                    self.queue.encoded.push_front(next);
                    break;
                }
                Ok(None) => {
                    let needed = self.rows_needed(&next).unwrap_or(0);
                    let error = self.engine.arena.too_long(needed);
                    self.queue.fail(next.job, &error);
                }
                Err(e) => self.queue.fail(next.job, &e),
            }
        }
    }

    fn job(&self, e: &Encoded) -> &Job {
        &self.queue.open[&e.job].job
    }

    fn rows_needed(&self, e: &Encoded) -> Result<usize, VlmError> {
        let (shared, _) = self.shared_ids(e)?;
        let mut rows = shared.iter().map(Piece::rows).sum();
        for ask in &self.job(e).asks {
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
        match &self.job(e).shown {
            Shown::Images(images) if images.is_empty() => Span { start, rows: 0 },
            Shown::Images(_) => Span { start, rows },
            Shown::Clip(_) => Span { start, rows: rows - 1 },
        }
    }

    /// What all questions of a job share behind the prefix, and the position behind it.
    fn shared_ids(&self, e: &Encoded) -> Result<(Vec<Piece>, u32), VlmError> {
        let m = &self.engine.model;
        let t = &m.template;
        let before_each: Vec<Vec<u32>> = match &self.job(e).shown {
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
        let pad = match self.job(e).shown {
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
        let asks = self.job(e).asks.clone();
        let mut opened = vec![];
        for ask in &asks {
            let mut ids = self.question(ask, e)?;
            let mut matcher = self.engine.grammars.start(&ask.form)?;
            let forced = force(&mut matcher)?;
            ids.extend(&forced);
            opened.push((ids, matcher, forced));
        }
        let (pieces, next) = self.shared_ids(e)?;
        let shared_rows = pieces.iter().map(Piece::rows).sum();
        let mut spans = vec![];
        for rows in std::iter::once(shared_rows)
            .chain(opened.iter().zip(&asks).map(|(o, a)| o.0.len() + a.max_tokens))
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
            self.queue.live.push(live);
        }
        if !e.pictures.is_empty() {
            for piece in &pieces {
                match piece {
                    Piece::Ids(ids, start) => self.queue.batch.tokens(ids, *start),
                    Piece::Picture(picture, start) => self.queue.batch.picture(picture, *start),
                }
            }
            self.queue.batch.part([before], span.start);
            self.queue.shares.push(Share { job: e.job, rows: shared_rows, is_prefill: true });
            self.queue.shared.push(Shared { job: e.job, span, users: asks.len() });
        }
        Ok(Some(rows))
    }

    /// One pass of the text model: what new jobs share, and the pending tokens of all answers.
    fn pass(&mut self) {
        if self.queue.live.is_empty() {
            return;
        }
        let started = Instant::now();
        self.add_pending();
        let rows = self.queue.batch.rows();
        let outcome = self.forward();
        self.queue.batch.clear();
        if let Err(e) = outcome {
            self.queue.live.iter_mut().for_each(|live| live.outcome = Some(Err(copy(&e))));
        }
        let each = ms(started) / rows as f64;
        let Queue { shares, open, .. } = &mut *self.queue;
        for Share { job, rows, is_prefill } in shares.drain(..) {
            let Some(Open { timing, .. }) = open.get_mut(&job) else { continue };
            *(if is_prefill { &mut timing.prefill_ms } else { &mut timing.decode_ms }) += each * rows as f64;
        }
        self.leave();
    }

    /// Adds the pending tokens of all answers to the pass.
    fn add_pending(&mut self) {
        let Queue { live, batch, last, shares, .. } = &mut *self.queue;
        last.clear();
        for live in live {
            let rows = live.pending.len();
            shares.push(Share { job: live.job, rows, is_prefill: live.filled == 0 });
            let filled = Span { start: live.own.start, rows: live.filled };
            batch.tokens(&live.pending, live.next);
            batch.part(live.context.iter().copied().chain([filled]), live.own.start + live.filled);
            live.pending.clear();
            live.filled += rows;
            live.next += rows as u32;
            last.push(batch.rows() - 1);
        }
    }

    /// Gives every live answer its next tokens.
    fn forward(&mut self) -> Result<(), VlmError> {
        let Engine { model, arena, work, .. } = &mut *self.engine;
        let Queue { live, batch, last, .. } = &mut *self.queue;
        live.par_iter_mut().for_each(Live::look_ahead);
        model.text.forward(batch, arena, work)?;
        let logits = model.text.next_logits(work, last, |i| live[i].allowed_tiles())?;
        live.par_iter_mut().enumerate().for_each(|(i, live)| live.step(logits.row(i), model));
        Ok(())
    }

    /// Takes the answers that ended out.
    fn leave(&mut self) {
        let mut ended: Vec<Live> = self.queue.live.extract_if(.., |live| live.outcome.is_some()).collect();
        for live in &mut ended {
            let outcome = live.outcome.take().unwrap_or(Err(VlmError::Stopped));
            self.release(live);
            let Some(open) = self.queue.open.get_mut(&live.job) else { continue };
            open.results[live.ask] = Some(outcome.map(|finish| live.complete(finish)));
            if open.results.iter().all(Option::is_some) {
                self.queue.left.push(live.job);
            }
        }
    }

    /// Returns the rows of an answer, and those of its pictures after their last question.
    fn release(&mut self, live: &Live) {
        self.engine.arena.give_back(live.own);
        let shared = &mut self.queue.shared;
        let Some(at) = shared.iter().position(|s| s.job == live.job) else { return };
        shared[at].users -= 1;
        if shared[at].users == 0 {
            self.engine.arena.give_back(shared.swap_remove(at).span);
        }
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
        VlmError::Lost { why } => VlmError::Lost { why: why.clone() },
        other => VlmError::Candle(candle_core::Error::Msg(other.to_string())),
    }
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
