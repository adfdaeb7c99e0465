//! The text model: rows of many sequences in one pass, ragged, over a shared arena of keys.
//!
//!     embeddings -> blocks (norm, attention with M-RoPE, norm, SwiGLU) -> norm -> output head
//!                      |  after block k < n_deepstack: feature k is added at the picture's rows
//!
//! All rows of a pass go through one matrix product per weight; only attention looks at which
//! sequence a row belongs to. Keys and values of all rows are written before attention reads them,
//! so a picture and the questions about it may share a pass. Source: `Qwen3VLTextModel` of Hugging
//! Face transformers 5.23; names of keys and tensors: llama.cpp's converter.

use super::attention::{attend, Heads, Matrix, Part};
use super::error::VlmError;
use super::gguf::Gguf;
use super::kv::{with_kept, Arena};
use super::linear::{vector, Linear};
use super::logits::{logits, Logits};
use super::ops::{add_residual, bias_norm_rotate, rms_norm, swiglu, with_slice, Rotary};
use super::rope::{Position, Rope};
use candle_core::{Device, Result, Tensor, D};
use std::ops::Range;

const DIM_MAX: usize = 1 << 16;
const BLOCKS_MAX: usize = 1024;
const VOCABULARY_MAX: usize = 1 << 20;

/// The shape of a text model, from its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub blocks: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub eps: f64,
    pub rope_base: f64,
    pub rope_sections: [usize; 3],
    /// Number of DeepStack features that the first blocks take.
    pub deepstack: usize,
}

impl TextConfig {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn from_gguf(g: &Gguf) -> std::result::Result<Self, VlmError> {
        let architecture = g.text("general.architecture")?;
        if architecture != "qwen3vl" {
            let why = format!("\"qwen3vl\" expected, found {architecture:?}");
            return Err(g.error("key general.architecture", why));
        }
        let key = "qwen3vl.rope.dimension_sections";
        let sections = g.ints(key)?;
        let head_dim = g.size("qwen3vl.attention.key_length", 1024)?;
        let rope_sections = match *sections {
            [t, h, w] | [t, h, w, 0]
                if t >= 0 && h >= 0 && w >= 0 && (t + h + w) as usize * 2 == head_dim =>
            {
                [t as usize, h as usize, w as usize]
            }
            _ => {
                return Err(g.error(
                    format!("key {key}"),
                    format!("{sections:?} does not fill {} frequencies", head_dim / 2),
                ))
            }
        };
        let config = Self {
            hidden: g.size("qwen3vl.embedding_length", DIM_MAX)?,
            ffn: g.size("qwen3vl.feed_forward_length", DIM_MAX)?,
            heads: g.size("qwen3vl.attention.head_count", 1024)?,
            kv_heads: g.size("qwen3vl.attention.head_count_kv", 1024)?,
            head_dim,
            blocks: g.size("qwen3vl.block_count", BLOCKS_MAX)?,
            vocabulary: g.list("tokenizer.ggml.tokens")?.len().min(VOCABULARY_MAX),
            context: g.size("qwen3vl.context_length", 1 << 24)?,
            eps: g.float("qwen3vl.attention.layer_norm_rms_epsilon")?,
            rope_base: g.float("qwen3vl.rope.freq_base")?,
            rope_sections,
            deepstack: g.size("qwen3vl.n_deepstack_layers", 64)?,
        };
        if !config.heads.is_multiple_of(config.kv_heads) {
            let why = format!("{} heads cannot share {} key/value heads", config.heads, config.kv_heads);
            return Err(g.error("key qwen3vl.attention.head_count_kv", why));
        }
        Ok(config)
    }
}

#[derive(Debug)]
struct Block {
    attn_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Tensor,
    k_norm: Tensor,
    out: Linear,
    ffn_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A loaded text model.
#[derive(Debug)]
pub struct Text {
    pub config: TextConfig,
    embedding: Linear,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Linear,
    rope: Rope,
    device: Device,
}

/// The rows of one pass.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, hidden]`.
    pub embeddings: Tensor,
    pub positions: Vec<Position>,
    /// Which rows belong together, and which keys they see. `own` is where their keys are written.
    pub parts: Vec<Part>,
    /// One `[rows, hidden]` per DeepStack feature, added after the first blocks, zero at rows of
    /// text; empty when no picture is in the batch.
    pub deepstack: Vec<Tensor>,
}

impl Text {
    /// Loads the model.
    ///
    /// # Errors
    /// `Model` naming the key or tensor; `Io`.
    pub fn load(g: &Gguf, device: &Device) -> std::result::Result<Self, VlmError> {
        let c = TextConfig::from_gguf(g)?;
        let embedding = Linear::load(g, "token_embd", c.vocabulary, c.hidden, device)?;
        let head = if g.tensors.contains_key("output.weight") {
            Linear::load(g, "output", c.vocabulary, c.hidden, device)?
        } else {
            embedding.clone()
        };
        Ok(Self {
            embedding,
            blocks: (0..c.blocks).map(|i| block(g, &c, i, device)).collect::<std::result::Result<_, _>>()?,
            norm: vector(g, "output_norm.weight", c.hidden, device)?,
            head,
            rope: Rope::new(c.head_dim, c.rope_base, c.rope_sections),
            device: device.clone(),
            config: c,
        })
    }

    /// Embeddings of tokens, `[tokens, hidden]`.
    ///
    /// # Errors
    /// When an id lies outside the vocabulary.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.embedding.rows(ids, &self.device)
    }

    /// Runs a batch; writes its keys and values into the arena. Returns `[rows, hidden]` after the
    /// final norm.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn forward(&self, batch: &Batch, arena: &Arena) -> Result<Tensor> {
        self.forward_with(batch, arena, |_, _| {})
    }

    /// As `forward`; shows the hidden state after the embedding (0) and after each block (1.., before
    /// its DeepStack feature) to `see`, for the tests of intermediates.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn forward_with(
        &self,
        batch: &Batch,
        arena: &Arena,
        mut see: impl FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let rotary = Rotary::new(&self.rope.angles(&batch.positions), self.rope.half(), &self.device)?;
        let mut x = batch.embeddings.clone();
        see(0, &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = self.block(i, block, &x, &rotary, batch, arena)?;
            see(i + 1, &x);
            if let Some(feature) = batch.deepstack.get(i) {
                x = add_residual(&x, feature.copy()?, None)?;
            }
        }
        rms_norm(&x, &self.norm, self.config.eps)
    }

    /// Logits of chosen rows, `[rows, vocabulary]`, from what `forward` returned.
    ///
    /// # Errors
    /// When a row lies outside.
    pub fn logits(&self, hidden: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let ids: Vec<u32> = rows.iter().map(|r| *r as u32).collect();
        self.head.forward(&hidden.index_select(&Tensor::new(ids, &self.device)?, 0)?)
    }

    /// Logits of what may follow chosen rows; see `logits::logits`.
    ///
    /// # Errors
    /// When a row lies outside.
    pub fn next_logits(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        tiles: &[Option<Vec<usize>>],
    ) -> Result<Vec<Logits>> {
        logits(&self.head, hidden, rows, tiles)
    }

    fn block(
        &self,
        i: usize,
        b: &Block,
        x: &Tensor,
        rotary: &Rotary,
        batch: &Batch,
        arena: &Arena,
    ) -> Result<Tensor> {
        let c = &self.config;
        let h = rms_norm(x, &b.attn_norm, c.eps)?;
        let [q, k, v] = Linear::forward_all([&b.q, &b.k, &b.v], &h)?;
        let q = bias_norm_rotate(q, c.heads, None, Some((&b.q_norm, c.eps)), rotary)?;
        let k = bias_norm_rotate(k, c.kv_heads, None, Some((&b.k_norm, c.eps)), rotary)?;
        for p in &batch.parts {
            arena.write(
                i,
                p.own.start,
                &rows(&k, p.row..p.row + p.rows)?,
                &rows(&v, p.row..p.row + p.rows)?,
            )?;
        }
        let out = self.attention(&q, arena.block(i), &batch.parts)?;
        let x = add_residual(x, b.out.forward(&out)?, None)?;
        let h = rms_norm(&x, &b.ffn_norm, c.eps)?;
        let [gate, up] = Linear::forward_all([&b.gate, &b.up], &h)?;
        add_residual(&x, b.down.forward(&swiglu(gate, &up)?)?, None)
    }

    fn attention(&self, q: &Tensor, (keys, values): (&Tensor, &Tensor), parts: &[Part]) -> Result<Tensor> {
        let c = &self.config;
        let heads = Heads { query: c.heads, kv: c.kv_heads, dim: c.head_dim };
        if !q.device().is_cpu() {
            let outs = parts.iter().map(|p| attend_composed(q, keys, values, heads, p));
            return Tensor::cat(&outs.collect::<Result<Vec<_>>>()?, 0);
        }
        let width = c.heads * c.head_dim;
        let out = with_slice(q, |q| {
            with_kept(keys, |k| {
                with_kept(values, |v| {
                    Ok(attend(Matrix { values: q, stride: width, start: 0 }, k, v, heads, parts))
                })
            })
        })?;
        Tensor::from_vec(out, q.shape(), &self.device)
    }
}

/// A part's attention by candle's operations, for devices other than the CPU: `[rows, width]`.
pub(super) fn attend_composed(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    heads: Heads,
    p: &Part,
) -> Result<Tensor> {
    let groups = heads.query / heads.kv;
    let gather = |m: &Tensor| -> Result<Tensor> {
        let spans: Vec<Tensor> =
            p.context.iter().chain([&p.own]).map(|s| m.narrow(0, s.start, s.rows)).collect::<Result<_>>()?;
        let all = Tensor::cat(&spans, 0)?.to_dtype(q.dtype())?;
        let n = all.dim(0)?;
        // [kv, 1, keys, dim] seen by each group of query heads.
        let all = all.reshape((n, heads.kv, 1, heads.dim))?.permute((1, 2, 0, 3))?;
        all.broadcast_as((heads.kv, groups, n, heads.dim))?.contiguous()
    };
    let (k, v) = (gather(keys)?, gather(values)?);
    let q = q.narrow(0, p.row, p.rows)?.reshape((p.rows, heads.kv, groups, heads.dim))?;
    let q = q.permute((1, 2, 0, 3))?.contiguous()?;
    let mut scores = (q.matmul(&k.transpose(2, 3)?)? / (heads.dim as f64).sqrt())?;
    if p.causal && p.rows > 1 {
        let context: usize = p.context.iter().map(|s| s.rows).sum();
        let mask: Vec<f32> = (0..p.rows)
            .flat_map(|i| {
                (0..context + p.rows).map(move |j| if j <= context + i { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (p.rows, context + p.rows), q.device())?)?;
    }
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&v)?.permute((2, 0, 1, 3))?.reshape((p.rows, heads.query * heads.dim))
}

fn rows(x: &Tensor, range: Range<usize>) -> Result<Tensor> {
    // A copy, because writing into the arena refuses a view of a larger storage's middle.
    x.narrow(0, range.start, range.len())?.contiguous()
}

fn block(g: &Gguf, c: &TextConfig, i: usize, device: &Device) -> std::result::Result<Block, VlmError> {
    let name = |part: &str| format!("blk.{i}.{part}");
    let linear = |part: &str, out, inp| Linear::load(g, &name(part), out, inp, device);
    let norm = |part: &str, width| vector(g, &format!("blk.{i}.{part}.weight"), width, device);
    let (d, q, kv) = (c.hidden, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    Ok(Block {
        attn_norm: norm("attn_norm", d)?,
        q: linear("attn_q", q, d)?,
        k: linear("attn_k", kv, d)?,
        v: linear("attn_v", kv, d)?,
        q_norm: norm("attn_q_norm", c.head_dim)?,
        k_norm: norm("attn_k_norm", c.head_dim)?,
        out: linear("attn_output", d, q)?,
        ffn_norm: norm("ffn_norm", d)?,
        gate: linear("ffn_gate", c.ffn, d)?,
        up: linear("ffn_up", c.ffn, d)?,
        down: linear("ffn_down", d, c.ffn)?,
    })
}
