//! The jobs under way: each comes in, shares passes with others, and leaves when its last answer is there.
//!
//! ```text
//! submit --> fresh --preprocess--> unseen --encode, in groups of equal size--> encoded --admit--> live --pass--> left
//!                                             | features alone are asked for   ^   '--> reading --^  |
//!                                             '--> left      rows of the arena '---------------------'
//! ```
//!
//! One `step` does at most one group of the tower and one pass of the text model, for jobs of one class alone, so that a
//! job which comes meanwhile waits for no more than these, whatever else is under way. A conversation may be long: its
//! pictures are encoded one a step, and its prompt is read in chunks, one a pass.
//!
//! Jobs with different adapters share passes of the text model; a group of the tower has one.
//!
//! Invariants:
//! - Of what waits, the best rank goes first; of equal ranks what came first.
//! - While a class has answers in the making, nothing is done for a worse one. It waits for rows of the arena alone that
//!   worse ones have: then these go on.

mod enter;
mod room;
mod seeing;

use super::attention::Span;
use super::batch::Batch;
use super::beside::Beside;
use super::clip::Shown;
use super::encoded::{Encoded, Unseen};
use super::engine::Engine;
use super::error::VlmError;
use super::image::Patches;
use super::lora::Terms;
use super::prefix::{Key, hash_picture};
use super::sequence::{Chunk, Read, Sequence};
use super::{Answered, Cells, Completion, Delta, Features, Job, Rank, Timing};
use ::image::RgbImage;
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// New rows that a pass may take besides the steps of live answers; one job is always taken. Passes of four
/// times as many rows are a fifth slower with a model of 4B: what they keep between products is larger than the
/// caches, and the weights, which are read once a pass, are not what they wait for.
const PREFILL_ROWS_MAX: usize = 512;
/// Most answers decoded side by side.
const LIVE_MAX: usize = 64;
/// How long a step without work waits for a grammar to be compiled; whatever comes meanwhile waits as long.
const COMPILE_POLL: Duration = Duration::from_millis(1);
/// No class is worse.
const ANY_CLASS: u8 = u8::MAX;

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
    /// The adapter that it is answered with.
    beside: Option<Arc<Beside>>,
    results: Vec<Option<Result<Completion, VlmError>>>,
    /// Its share of the time.
    timing: Timing,
}

impl Open {
    /// Answers every question for these features.
    fn answer_features(&mut self, features: Features, answer: &Result<Cells, VlmError>) {
        for (ask, slot) in self.job.asks.iter().zip(&mut self.results) {
            if ask.features() == Some(features) {
                let answer = answer.as_ref().map(|cells| Completion::of_cells(cells.clone()));
                slot.get_or_insert_with(|| answer.map_err(copy));
            }
        }
    }

    fn terms(&self) -> Option<&Arc<Terms>> {
        self.beside.as_ref().map(|beside| &beside.terms)
    }

    fn asks_for(&self, features: Features) -> bool {
        self.job.asks.iter().any(|ask| ask.features() == Some(features))
    }

    fn is_answered(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }
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
    /// Conversations whose prompts are being read.
    reading: Vec<Sequence>,
    live: Vec<Sequence>,
    /// The next pass: pictures and words of new jobs that their questions share, then what is pending of answers.
    batch: Batch,
    shares: Vec<Share>,
    /// Jobs whose last answer is there.
    left: Vec<u64>,
    /// What streamed answers have said and nobody has fetched yet.
    deltas: Vec<Delta>,
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
        self.open.insert(id, Open { job, rank, beside: None, results, timing: Timing::default() });
    }

    /// True when nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// True when there is nothing else to do.
    fn waits_for_grammars(&self) -> bool {
        let Self { fresh, unseen, encoded, reading, live, left, .. } = self;
        let is_idle = unseen.is_empty() && encoded.is_empty() && reading.is_empty() && live.is_empty();
        is_idle && left.is_empty() && !fresh.is_empty()
    }

    /// Gives what streamed answers have said since the last call.
    pub(super) fn take_deltas(&mut self, out: &mut Vec<Delta>) {
        out.append(&mut self.deltas);
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
        let class = self.preprocess(self.best_class());
        let class = self.encode_next(class);
        self.admit(class);
        self.pass(class.min(self.best_class()));
        if self.queue.waits_for_grammars() {
            self.engine.grammars.wait(COMPILE_POLL);
        }
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
        let is_its = |sequence: &mut Sequence| sequence.job == id;
        let mut stopped: Vec<Sequence> = q.live.extract_if(.., is_its).collect();
        stopped.extend(q.reading.extract_if(.., is_its));
        stopped.iter_mut().for_each(|sequence| self.release(sequence));
        let Open { results, timing, .. } = self.queue.open.remove(&id)?;
        let answers = results.into_iter().map(|r| r.unwrap_or(Err(VlmError::Stopped))).collect();
        Some(Answered { id, answers, timing })
    }

    /// The best class that has answers in the making.
    fn best_class(&self) -> u8 {
        let Queue { live, reading, .. } = &*self.queue;
        live.iter().chain(reading).map(|sequence| self.class(sequence.job)).min().unwrap_or(ANY_CLASS)
    }

    fn class(&self, job: u64) -> u8 {
        self.queue.open.get(&job).map_or(ANY_CLASS, |open| open.rank.class)
    }

    /// Resizes and cuts the pictures of what is new in the best class, unless `class` is better; a job whose picture is
    /// refused has its error at once. The class for which the step goes on.
    fn preprocess(&mut self, class: u8) -> u8 {
        let Some((best, mut fresh)) = self.take_fresh(class) else { return class };
        let started = Instant::now();
        fresh.retain(|id| self.open_adapter(*id));
        let c = &self.engine.model.vision.config;
        let open = &self.queue.open;
        let cut = |id: &u64| -> Result<(Vec<Patches>, Vec<Key>), VlmError> {
            let job = &open[id].job;
            let patches = job.shown.preprocess(c.patch, c.merge, job.min_pixels, job.max_pixels)?;
            Ok((patches, hashes(job)))
        };
        let cut: Vec<_> = fresh.par_iter().map(cut).collect();
        let each = ms(started) / fresh.len().max(1) as f64;
        for (id, cut) in fresh.into_iter().zip(cut) {
            let patches = cut.and_then(|(patches, hashes)| {
                let job = self.queue.open.get(&id).map(|open| &open.job);
                job.map_or(Ok(()), |job| self.check_room(job, &patches)).map(|()| (patches, hashes))
            });
            let Some(open) = self.queue.open.get_mut(&id) else { continue };
            open.timing.preprocess_ms += each;
            let rank = open.rank;
            match patches {
                Ok((patches, hashes)) => {
                    let at = self.queue.unseen.partition_point(|other| other.rank <= rank);
                    let beside = open.beside.clone();
                    let unseen = Unseen { id, rank, patches, hashes, beside, seen: vec![] };
                    self.queue.unseen.insert(at, unseen);
                }
                Err(e) => self.queue.fail(id, &e),
            }
        }
        best
    }

    /// Takes what is new in the best class out, unless `class` is better. A job whose grammars are being compiled stays.
    fn take_fresh(&mut self, class: u8) -> Option<(u8, Vec<u64>)> {
        let (open, grammars) = (&self.queue.open, &mut self.engine.grammars);
        let mut ready: Vec<(u8, u64)> = vec![];
        for id in &self.queue.fresh {
            let Some(Open { job, rank, .. }) = open.get(id) else { continue };
            if grammars.are_ready(&job.asks) {
                ready.push((rank.class, *id));
            }
        }
        let best = ready.iter().map(|(class, _)| *class).min().filter(|best| *best <= class)?;
        ready.retain(|(class, _)| *class == best);
        let taken: Vec<u64> = ready.into_iter().map(|(_, id)| id).collect();
        self.queue.fresh.retain(|id| !taken.contains(id));
        Some((best, taken))
    }

    /// Runs the next group through the tower, unless `class` is better. The class for which the step goes on.
    fn encode_next(&mut self, class: u8) -> u8 {
        let Some(next) = self.queue.unseen.first().map(|next| next.rank) else { return class };
        let first = self.queue.encoded.front().and_then(|e| self.queue.open.get(&e.job));
        // What is encoded holds memory: no more of it than is used at once, unless something better comes.
        if next.class > class || first.is_some_and(|open| open.rank <= next) {
            return class;
        }
        self.encode();
        next.class
    }

    /// Has the adapter ready that a job is answered with; false when the job fails without it.
    fn open_adapter(&mut self, id: u64) -> bool {
        let Some(open) = self.queue.open.get_mut(&id) else { return false };
        let opened = open.job.adapter.as_ref().map(|file| self.engine.beside(file)).transpose();
        match opened {
            Ok(beside) => open.beside = beside,
            Err(e) => {
                self.queue.fail(id, &e);
                return false;
            }
        }
        true
    }

    fn enqueue_encoded(&mut self, rank: Rank, encoded: Encoded) {
        let q = &mut *self.queue;
        let rank_of = |e: &Encoded| q.open.get(&e.job).map(|open| open.rank);
        let at = q.encoded.partition_point(|other| rank_of(other) <= Some(rank));
        q.encoded.insert(at, encoded);
    }

    /// One pass of the text model, for one class: what new jobs share, the pending tokens of all answers, and a chunk of a
    /// prompt.
    fn pass(&mut self, class: u8) {
        let Queue { live, open, .. } = &mut *self.queue;
        let is_worse = |live: &mut Sequence| open.get(&live.job).is_some_and(|open| open.rank.class > class);
        let aside: Vec<Sequence> = live.extract_if(.., is_worse).collect();
        let chunk = self.chunk_to_read(class);
        if !self.queue.live.is_empty() || chunk.is_some() {
            self.pass_with(chunk);
        }
        self.queue.live.extend(aside);
    }

    fn pass_with(&mut self, chunk: Option<usize>) {
        let started = Instant::now();
        self.add_pending();
        if let Some(chunk) = chunk {
            self.add_chunk(chunk);
        }
        let rows = self.queue.batch.rows();
        let outcome = self.forward();
        self.queue.batch.clear();
        if let Err(e) = &outcome {
            self.queue.live.iter_mut().for_each(|live| live.outcome = Some(Err(copy(e))));
        }
        let each = ms(started) / rows as f64;
        let Queue { shares, open, .. } = &mut *self.queue;
        for Share { job, rows, is_prefill } in shares.drain(..) {
            let Some(Open { timing, .. }) = open.get_mut(&job) else { continue };
            *(if is_prefill { &mut timing.prefill_ms } else { &mut timing.decode_ms }) += each * rows as f64;
        }
        self.say();
        self.leave();
        if let Some(chunk) = chunk {
            self.end_chunk(chunk, outcome);
        }
    }

    /// Which conversation reads a chunk in the next pass: the best of the class.
    fn chunk_to_read(&self, class: u8) -> Option<usize> {
        let Queue { reading, open, .. } = &*self.queue;
        let rank = |i: &usize| open.get(&reading[*i].job).map(|open| open.rank);
        let of_class = |i: &usize| rank(i).is_some_and(|rank| rank.class <= class);
        (0..reading.len()).filter(of_class).min_by_key(rank)
    }

    /// Adds the next chunk of a conversation to the pass.
    fn add_chunk(&mut self, at: usize) {
        let Queue { reading, batch, shares, open, .. } = &mut *self.queue;
        let sequence = &reading[at];
        let Some(Chunk { piece, span, .. }) = sequence.unread.front() else { return };
        piece.put(batch);
        let terms = open.get(&sequence.job).and_then(Open::terms);
        batch.part_of(terms, sequence.context.iter().copied(), span.start);
        shares.push(Share { job: sequence.job, rows: span.rows, is_prefill: true });
    }

    /// Notes that a chunk was read; after the last one its answer begins. When the pass has failed, the job has.
    fn end_chunk(&mut self, at: usize, outcome: Result<(), VlmError>) {
        if let Err(e) = outcome {
            let job = self.queue.reading[at].job;
            let failed = self.queue.reading.extract_if(.., |sequence| sequence.job == job);
            failed.collect::<Vec<_>>().iter_mut().for_each(|sequence| self.release(sequence));
            return self.queue.fail(job, &e);
        }
        let sequence = &mut self.queue.reading[at];
        if let Some(Chunk { key, span, .. }) = sequence.unread.pop_front() {
            sequence.context.push(span);
            let is_kept = self.engine.prefixes.keep(key, span);
            sequence.read.push(if is_kept { Read::Kept(key) } else { Read::Own(span) });
        }
        if sequence.unread.is_empty() {
            let sequence = self.queue.reading.remove(at);
            self.queue.live.push(sequence);
        }
    }

    /// Adds the pending tokens of all answers to the pass.
    fn add_pending(&mut self) {
        let Queue { live, batch, shares, open, .. } = &mut *self.queue;
        for live in live {
            let rows = live.pending.len();
            shares.push(Share { job: live.job, rows, is_prefill: live.filled == 0 });
            let filled = Span { start: live.own.start, rows: live.filled };
            batch.tokens(&live.pending, live.next);
            let terms = open.get(&live.job).and_then(Open::terms);
            batch.part_of(terms, live.context.iter().copied().chain([filled]), live.own.start + live.filled);
            live.pending.clear();
            live.filled += rows;
            live.next += rows as u32;
            batch.want_next();
        }
    }

    /// Gives every live answer its next tokens.
    fn forward(&mut self) -> Result<(), VlmError> {
        let Engine { model, arena, work, .. } = &mut *self.engine;
        let Queue { live, batch, .. } = &mut *self.queue;
        live.par_iter_mut().for_each(Sequence::look_ahead);
        model.text.forward(batch, arena, work)?;
        if live.is_empty() {
            return Ok(());
        }
        let logits = model.text.next_logits(work, |i| live[i].allowed_tiles())?;
        live.par_iter_mut().enumerate().for_each(|(i, live)| live.step(logits.row(i), model));
        Ok(())
    }

    /// Notes what streamed answers can say now.
    fn say(&mut self) {
        let Queue { live, deltas, .. } = &mut *self.queue;
        for sequence in live {
            if let Some(text) = sequence.say() {
                deltas.push(Delta { id: sequence.job, ask: sequence.ask, text });
            }
        }
    }

    /// Takes the answers that ended out.
    fn leave(&mut self) {
        let mut ended: Vec<Sequence> =
            self.queue.live.extract_if(.., |live| live.outcome.is_some()).collect();
        for live in &mut ended {
            let outcome = live.outcome.take().unwrap_or(Err(VlmError::Stopped));
            self.release(live);
            let Some(open) = self.queue.open.get_mut(&live.job) else { continue };
            open.results[live.ask] = Some(outcome.map(|finish| live.complete(finish)));
            if open.is_answered() {
                self.queue.left.push(live.job);
            }
        }
    }

    /// Returns the rows of an answer, and those of its pictures after their last question.
    fn release(&mut self, live: &mut Sequence) {
        let Engine { arena, prefixes, .. } = &mut *self.engine;
        arena.give_back(live.own);
        live.unread.drain(..).for_each(|chunk| arena.give_back(chunk.span));
        for read in live.read.drain(..).rev() {
            match read {
                Read::Kept(key) => prefixes.let_go(&key, arena),
                Read::Own(span) => arena.give_back(span),
            }
        }
        let shared = &mut self.queue.shared;
        let Some(at) = shared.iter().position(|s| s.job == live.job) else { return };
        shared[at].users -= 1;
        if shared[at].users == 0 {
            self.engine.arena.give_back(shared.swap_remove(at).span);
        }
    }
}

/// The hashes of a conversation's pictures; nothing else needs them.
fn hashes(job: &Job) -> Vec<Key> {
    match &job.shown {
        Shown::Images(_) | Shown::Clip(_) => vec![],
        Shown::Turns(_) => {
            let hash = |image: &Arc<RgbImage>| hash_picture(image, job.min_pixels, job.max_pixels);
            job.shown.images().into_iter().map(hash).collect()
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
        VlmError::Turns { why } => VlmError::Turns { why: why.clone() },
        VlmError::Tokenizer { why } => VlmError::Tokenizer { why: why.clone() },
        VlmError::NotFinite => VlmError::NotFinite,
        VlmError::Stopped => VlmError::Stopped,
        VlmError::Lost { why } => VlmError::Lost { why: why.clone() },
        VlmError::Unable { why } => VlmError::Unable { why: why.clone() },
        other => VlmError::Candle(candle_core::Error::Msg(other.to_string())),
    }
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod tests;
