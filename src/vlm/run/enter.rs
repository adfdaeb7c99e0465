//! How a job comes in whose pictures are encoded: its prompt, its rows of the arena, its answers.
//!
//! ```text
//! pictures and questions   prefix | what all questions share | question, answer        of each question
//! a conversation           chunk | chunk | … | what is left of the prompt, answer      of each question
//! ```

use super::{LIVE_MAX, PREFILL_ROWS_MAX, Queue, Run, Share, Shared};
use crate::attention::Span;
use crate::clip::{Shown, pair_seconds};
use crate::encoded::{Encoded, Piece};
use crate::engine::Engine;
use crate::error::VlmError;
use crate::prefix::{Key, START};
use crate::prompt::Prompt;
use crate::rope::image_advance;
use crate::sample::Sampler;
use crate::sequence::{Chunk, Read, Sequence, StopWords, force};
use crate::template::Opening;
use crate::turn::{Turn, segments};
use crate::{Ask, Job};
use llguidance::Matcher;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of a token that an answer has room for from the start.
const BYTES_A_TOKEN: usize = 8;

/// An answer's grammar at its start, and the tokens that it forces.
struct Opened {
    matcher: Option<Matcher>,
    forced: Vec<u32>,
}

/// What an answer is made from.
struct Start {
    job: u64,
    ask: usize,
    opened: Opened,
    /// What the model is given before the answer, as it is recorded.
    prompt_ids: Vec<u32>,
    /// The end of it, with what the grammar forces.
    pending: Vec<u32>,
    next: u32,
    context: Vec<Span>,
    own: Span,
}

impl Start {
    fn sequence(self, ask: &Ask, engine: &Engine) -> Sequence {
        let Self { job, ask: number, opened: Opened { matcher, forced }, prompt_ids, pending, .. } = self;
        let mut sequence = Sequence {
            job,
            ask: number,
            matcher,
            sampler: Sampler::new(&ask.sampling),
            is_conversation: false,
            unread: VecDeque::new(),
            read: vec![],
            context: self.context,
            own: self.own,
            filled: 0,
            next: self.next,
            prompt_ids,
            pending,
            max_tokens: ask.max_tokens,
            tokens: Vec::with_capacity(ask.max_tokens),
            bytes: Vec::with_capacity(BYTES_A_TOKEN * ask.max_tokens),
            stop: StopWords::new(&ask.stop),
            said: ask.streams.then_some(0),
            allowed: None,
            tiles: vec![],
            outcome: None,
        };
        forced.iter().for_each(|id| sequence.push(*id, 1.0, engine.model.tokenizer.bytes(*id)));
        sequence
    }
}

impl Run<'_> {
    /// Takes waiting jobs while there is room, none of a worse class than `class` or than one that it has taken.
    pub(super) fn admit(&mut self, mut class: u8) {
        let mut rows = 0;
        while let Some(mut next) = self.queue.encoded.pop_front() {
            let under_way = self.queue.live.len() + self.queue.reading.len();
            let own = self.class(next.job);
            if rows > PREFILL_ROWS_MAX || under_way >= LIVE_MAX || own > class {
                self.queue.encoded.push_front(next);
                break;
            }
            let entered = match &self.job(&next).shown {
                Shown::Images(_) | Shown::Clip(_) => self.enter(&next),
                Shown::Turns(turns) => {
                    let turns = turns.clone();
                    self.enter_conversation(&mut next, &turns)
                }
            };
            match entered {
                Ok(Some(entered)) => (rows, class) = (rows + entered, own),
                // No room now: it waits for an answer to end.
                Ok(None) if under_way > 0 => {
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
        for ask in self.job(e).asks.iter().filter(|ask| ask.features().is_none()) {
            rows += self.question(ask, e)?.len() + ask.max_tokens;
        }
        Ok(rows)
    }

    fn question(&self, ask: &Ask, e: &Encoded) -> Result<Vec<u32>, VlmError> {
        let m = &self.engine.model;
        let opening = Opening::of(&ask.form);
        m.template.question(&m.tokenizer, &ask.text, !e.pictures.is_empty(), opening)
    }

    /// The rows of the prefix that a job stands after: a clip's first time comes before its first
    /// `<|vision_start|>`.
    fn before(&self, e: &Encoded) -> Span {
        let beside = self.queue.open[&e.job].beside.as_ref();
        let Span { start, rows } = beside.map_or(self.engine.prefix, |beside| beside.prefix);
        match &self.job(e).shown {
            Shown::Images(images) if images.is_empty() => Span { start, rows: 0 },
            Shown::Images(_) => Span { start, rows },
            Shown::Clip(_) => Span { start, rows: rows - 1 },
            Shown::Turns(_) => Span { start, rows: 0 },
        }
    }

    /// What all questions of a job share after the prefix, and the position after it.
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
            Shown::Turns(_) => vec![],
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
            Shown::Images(_) | Shown::Turns(_) => t.image_pad,
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

    /// An answer's grammar; its prompt's end, `ids`, has what it forces added.
    fn open(&mut self, ask: &Ask, ids: &mut Vec<u32>) -> Result<Opened, VlmError> {
        let mut matcher = self.engine.grammars.start(&ask.form)?;
        let forced = force(&mut matcher)?;
        ids.extend(&forced);
        Ok(Opened { matcher, forced })
    }

    /// Lends rows; what is kept of conversations makes room for them.
    fn lend(&mut self, rows: usize) -> Option<Span> {
        let Engine { arena, prefixes, .. } = &mut *self.engine;
        loop {
            let span = arena.lend(rows);
            if span.is_some() || !prefixes.evict(arena) {
                return span;
            }
        }
    }

    /// Lends spans of so many rows each, all of them or none.
    fn lend_all(&mut self, rows: impl IntoIterator<Item = usize>) -> Option<Vec<Span>> {
        let mut spans = vec![];
        for rows in rows {
            match self.lend(rows) {
                Some(span) => spans.push(span),
                None => {
                    spans.into_iter().for_each(|span| self.engine.arena.give_back(span));
                    return None;
                }
            }
        }
        Some(spans)
    }

    /// Lends the rows of a job, opens its answers and puts what they share into the next pass: how many rows came
    /// new, `None` when the arena has no room.
    fn enter(&mut self, e: &Encoded) -> Result<Option<usize>, VlmError> {
        // What asks for features is answered already.
        let asks = self.job(e).asks.clone().into_iter().enumerate();
        let asks: Vec<(usize, Ask)> = asks.filter(|(_, ask)| ask.features().is_none()).collect();
        let mut opened = vec![];
        for (_, ask) in &asks {
            let mut ids = self.question(ask, e)?;
            let open = self.open(ask, &mut ids)?;
            opened.push((ids, open));
        }
        let (pieces, next) = self.shared_ids(e)?;
        let shared_rows = pieces.iter().map(Piece::rows).sum();
        let own = opened.iter().zip(&asks).map(|(o, (_, a))| o.0.len() + a.max_tokens);
        let Some(spans) = self.lend_all(std::iter::once(shared_rows).chain(own)) else { return Ok(None) };
        let mut spans = spans.into_iter();
        let span = spans.next().unwrap_or(Span { start: 0, rows: 0 });
        let before = self.before(e);
        let context = if e.pictures.is_empty() { vec![] } else { vec![before, span] };
        let shown = self.shown_ids(e, &pieces);
        let mut rows = shared_rows;
        for (((i, ask), (ids, opened)), own) in asks.iter().zip(opened).zip(spans) {
            rows += ids.len();
            let prompt_ids = [&shown, &ids[..ids.len() - opened.forced.len()]].concat();
            let context = context.clone();
            let start = Start { job: e.job, ask: *i, opened, prompt_ids, pending: ids, next, context, own };
            let sequence = start.sequence(ask, self.engine);
            self.queue.live.push(sequence);
        }
        if !e.pictures.is_empty() {
            pieces.iter().for_each(|piece| piece.put(&mut self.queue.batch));
            let Queue { batch, open, .. } = &mut *self.queue;
            batch.part_of(open[&e.job].terms(), [before], span.start);
            self.queue.shares.push(Share { job: e.job, rows: shared_rows, is_prefill: true });
            self.queue.shared.push(Shared { job: e.job, span, users: asks.len() });
        }
        Ok(Some(rows))
    }

    /// The rows that conversations may take: whatever they do, the line finds room.
    pub(super) fn conversations_max(&self) -> usize {
        self.engine.arena.capacity() / 2
    }

    /// Lends the rows of a conversation, whose prompt is then read chunk by chunk; `None` when there is no room. No row
    /// comes into the next pass by this.
    fn enter_conversation(&mut self, e: &mut Encoded, turns: &[Turn]) -> Result<Option<usize>, VlmError> {
        let taken: usize = self.queue.live.iter().chain(&self.queue.reading).map(conversation_rows).sum();
        if taken + std::mem::take(&mut e.needed) > self.conversations_max() {
            return Ok(None);
        }
        let asks = self.job(e).asks.clone();
        let mut opened: Vec<Sequence> = vec![];
        for (i, ask) in asks.iter().enumerate() {
            match self.open_conversation(e, turns, i, ask, taken) {
                Ok(Some(sequence)) => opened.push(sequence),
                other => {
                    opened.iter_mut().for_each(|sequence| self.release(sequence));
                    return other.map(|_| None);
                }
            }
        }
        for sequence in opened {
            let is_read = sequence.unread.is_empty();
            let queue = &mut *self.queue;
            (if is_read { &mut queue.live } else { &mut queue.reading }).push(sequence);
        }
        Ok(Some(0))
    }

    /// The answer to one question of a conversation, beside others that take so many rows. Chunks at the beginning that
    /// are kept need not be read.
    fn open_conversation(
        &mut self,
        e: &mut Encoded,
        turns: &[Turn],
        number: usize,
        ask: &Ask,
        taken: usize,
    ) -> Result<Option<Sequence>, VlmError> {
        let model = &self.engine.model;
        let segments = segments(&model.template, &model.tokenizer, turns, &ask.text, Opening::of(&ask.form))?;
        let start = self.queue.open[&e.job].beside.as_ref().map_or(START, |beside| beside.start);
        let mut prompt = Prompt::new(start, segments, &e.pictures, &e.hashes, model.template.image_pad);
        let opened = self.open(ask, &mut prompt.rest)?;
        let own = prompt.rest.len() + ask.max_tokens;
        e.needed += prompt.chunks.iter().map(|(piece, _)| piece.rows()).sum::<usize>() + own;
        let (needed, available) = (e.needed, self.conversations_max());
        if needed > available {
            return Err(VlmError::TooLong { needed, available });
        }
        if taken + needed > available {
            return Ok(None);
        }
        let found: Vec<(Key, Span)> = prompt
            .chunks
            .iter()
            .map_while(|(_, key)| Some((*key, self.engine.prefixes.find(key)?)))
            .collect();
        let unread: Vec<(Piece, Key)> = prompt.chunks.drain(found.len()..).collect();
        let spans = self.lend_all(std::iter::once(own).chain(unread.iter().map(|(piece, _)| piece.rows())));
        let Some(mut spans) = spans else {
            let Engine { arena, prefixes, .. } = &mut *self.engine;
            found.iter().rev().for_each(|(key, _)| prefixes.let_go(key, arena));
            return Ok(None);
        };
        let own = spans.remove(0);
        let start = Start {
            job: e.job,
            ask: number,
            opened,
            prompt_ids: prompt.ids,
            pending: prompt.rest,
            next: prompt.next,
            context: found.iter().map(|(_, span)| *span).collect(),
            own,
        };
        let mut sequence = start.sequence(ask, self.engine);
        sequence.is_conversation = true;
        sequence.read = found.into_iter().map(|(key, _)| Read::Kept(key)).collect();
        let chunks = unread.into_iter().zip(spans).map(|((piece, key), span)| Chunk { piece, key, span });
        sequence.unread = chunks.collect();
        Ok(Some(sequence))
    }
}

/// Rows that an answer to a conversation holds.
fn conversation_rows(sequence: &Sequence) -> usize {
    if !sequence.is_conversation {
        return 0;
    }
    let unread: usize = sequence.unread.iter().map(|chunk| chunk.span.rows).sum();
    let read: usize = sequence.context.iter().map(|span| span.rows).sum();
    sequence.own.rows + unread + read
}
