//! Answers jobs as they come: one owner of the model, one thread pool, ragged batches.
//!
//! ```text
//! submit --> queue --step: a group of pictures, a ragged pass of the text model--> answered
//! ```
//!
//! Keys and values of the prefix are computed once a model, of a job's pictures once a job; its
//! questions name those spans and copy nothing. Those of conversations are kept for a while (`prefix`). Which jobs share a pass changes no answer beyond
//! the rounding of sums.

use super::attention::Span;
use super::beside::Shelf;
use super::error::VlmError;
use super::grammar::Grammars;
use super::kv::{Arena, KvPrecision};
use super::load::{Loaded, load_with};
use super::prefix::Prefixes;
use super::run::{Queue, Run};
use super::text::Work;
use super::{Answered, Delta, Job, ModelInfo, Rank, Steps};
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

/// Most rows of keys and values, unless the model reads further: 512 for each of the answers that `run` keeps live.
const ARENA_ROWS_MAX: usize = 32 * 1024;
/// Memory for keys and values when no budget is given.
const ARENA_BYTES_DEFAULT: usize = 1 << 30;
/// What a pass needs beside weights, keys and values: a random 4B pair (2.74 GiB) with an arena of 1 GiB
/// peaked at 4.14 GiB over vision batches, prefills of 2048 tokens and 16 sequences.
const WORKING_BYTES: u64 = 512 << 20;
/// Keys and values of conversations that are kept while nobody uses them, and no more than half of the rows.
const PREFIXES_BYTES_MAX: usize = 256 << 20;
/// Fewest rows that are of any use.
const ARENA_ROWS_MIN: usize = 256;

/// What the engine may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// 0: all cores.
    pub threads: usize,
    /// Memory for the whole engine in MiB: keys and values get what the weights and [`WORKING_BYTES`]
    /// leave. 0: up to 1 GiB for keys and values, whatever the weights take.
    pub memory_mb: u64,
    /// Of that memory, MiB for adapters that jobs name; those also take what keys and values leave.
    pub adapters_mb: u64,
    /// What keys and values are kept in.
    pub kv: KvPrecision,
    /// The context is so many times that of the training, by YaRN; 0: what the model's file says.
    pub yarn: u32,
}

/// A loaded Qwen3-VL, and the threads that it computes on.
pub struct Qwen3Vl {
    engine: Engine,
    queue: Queue,
    pool: rayon::ThreadPool,
}

/// What its threads work with.
pub(super) struct Engine {
    pub(super) model: Loaded,
    pub(super) grammars: Grammars,
    pub(super) arena: Arena,
    /// Keys and values of `<|im_start|>user\n<|vision_start|>`.
    pub(super) prefix: Span,
    pub(super) prefixes: Prefixes,
    pub(super) work: Work,
    pub(super) shelf: Shelf,
    pub(super) device: Device,
}

impl Steps for Qwen3Vl {
    fn info(&self) -> &ModelInfo {
        &self.engine.model.info
    }

    fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        self.queue.submit(id, rank, job);
    }

    fn cancel(&mut self, id: u64) -> Option<Answered> {
        Run::new(&mut self.engine, &mut self.queue).cancel(id)
    }

    fn step(&mut self, out: &mut Vec<Answered>) -> bool {
        let Self { engine, queue, pool } = self;
        if !queue.is_empty() {
            pool.install(|| Run::new(engine, queue).step(out));
        }
        !queue.is_empty()
    }

    fn deltas(&mut self, out: &mut Vec<Delta>) {
        self.queue.take_deltas(out);
    }
}

impl Qwen3Vl {
    /// Loads a pair and sets the memory for keys and values aside.
    ///
    /// # Errors
    /// As [`super::load::load`]; `TooLong` when the budget holds too few rows to be of use.
    pub fn load(
        text: &Path,
        mmproj: &Path,
        options: EngineOptions,
        device: &Device,
    ) -> Result<Self, VlmError> {
        Self::load_with(text, mmproj, None, options, device)
    }

    /// As `load`, with an adapter.
    ///
    /// # Errors
    /// As `load`; the adapter does not fit the pair.
    pub fn load_with(
        text: &Path,
        mmproj: &Path,
        adapter: Option<&Path>,
        options: EngineOptions,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let mut model = load_with(text, mmproj, adapter, None, device)?;
        if options.yarn > 0 {
            model.text.stretch(f64::from(options.yarn));
            // Its answers are others, also to short questions: who reads the name knows.
            model.info.name += &format!(", YaRN {}", options.yarn);
        }
        let c = &model.text.config;
        let heads = (c.kv_heads, c.head_dim);
        let row_bytes = c.blocks * 2 * options.kv.row_bytes(heads.0, heads.1);
        let arena_bytes = match options.memory_mb {
            0 => ARENA_BYTES_DEFAULT as u64,
            mb => (mb << 20).saturating_sub(model.bytes + WORKING_BYTES + (options.adapters_mb << 20)),
        };
        let rows = (arena_bytes as usize / row_bytes).min(ARENA_ROWS_MAX.max(c.context));
        let others = model.bytes + WORKING_BYTES + (rows * row_bytes) as u64;
        let adapters_max = (options.memory_mb > 0).then(|| (options.memory_mb << 20).saturating_sub(others));
        if rows < ARENA_ROWS_MIN {
            return Err(VlmError::TooLong { needed: ARENA_ROWS_MIN, available: rows });
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let pool = pool.map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let grammars = Grammars::new(Arc::clone(&model.tokenizer), model.template.im_end)?;
        let arena = Arena::new(c.blocks, rows, heads, options.kv, device)?;
        let (prefix, work) = (Span { start: 0, rows: 0 }, Work::default());
        let prefixes = Prefixes::new((PREFIXES_BYTES_MAX / row_bytes).min(rows / 2));
        let (shelf, device) = (Shelf::new(adapters_max), device.clone());
        let mut engine = Engine { model, grammars, arena, prefix, prefixes, work, shelf, device };
        engine.prefix = pool.install(|| engine.prefill(None))?;
        Ok(Self { engine, queue: Queue::default(), pool })
    }

    /// The model's parts, for tests and benches.
    pub const fn model(&self) -> &Loaded {
        &self.engine.model
    }

    /// Runs `stage` on the engine's threads, with the model, the memory for keys and values, and that of a pass: for
    /// benches of single stages. What `stage` lends from the arena it gives back.
    pub fn stage<T: Send>(&mut self, stage: impl FnOnce(&Loaded, &mut Arena, &mut Work) -> T + Send) -> T {
        let Self { engine, pool, .. } = self;
        pool.install(|| stage(&engine.model, &mut engine.arena, &mut engine.work))
    }
}

#[cfg(test)]
impl Qwen3Vl {
    pub(super) fn parts(&mut self) -> (&mut Engine, &mut Queue) {
        (&mut self.engine, &mut self.queue)
    }

    /// Begins anew with so many rows for keys and values.
    pub(super) fn keep_rows(&mut self, rows: usize) {
        let c = &self.engine.model.text.config;
        let (blocks, heads) = (c.blocks, (c.kv_heads, c.head_dim));
        let arena = Arena::new(blocks, rows, heads, KvPrecision::Single, &Device::Cpu);
        self.engine.arena = arena.expect("there is memory");
        self.engine.prefixes = Prefixes::new(rows / 2);
        self.engine.shelf = Shelf::default();
        self.engine.prefix = self.engine.prefill(None).expect("there is room");
    }
}
