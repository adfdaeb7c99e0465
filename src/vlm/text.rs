//! The text model: rows of many sequences in one pass, ragged, over a shared arena of keys.
//!
//! ```text
//! embeddings -> blocks (norm, attention with M-RoPE, norm, SwiGLU) -> norm -> output head
//!                  |  after block k < n_deepstack: feature k is added at the picture's rows
//!
//! host      on the CPU: plain values in buffers that every pass uses again
//! composed  on other devices: candle's tensors and operations
//! ```
//!
//! All rows of a pass go through one matrix product per weight; only attention looks at which
//! sequence a row belongs to. Of the last block the rows after which no token is wanted have keys and values alone. Keys and values of all rows are written before attention reads them,
//! so a picture and the questions about it may share a pass. Source: `Qwen3VLTextModel` of Hugging
//! Face transformers 5.23; names of keys and tensors: llama.cpp's converter.

mod composed;
mod host;

use super::attention::{Attended, Heads};
use super::batch::Batch;
use super::error::VlmError;
use super::gguf::Gguf;
use super::kernel::Activations;
use super::kinds;
use super::kv::Arena;
use super::linear::{Linear, vector};
use super::logits::NextLogits;
use super::rope::Rope;
use super::scaling::Scaling;
use candle_core::{Device, Result, Tensor};

const DIM_MAX: usize = 1 << 16;
const BLOCKS_MAX: usize = 1024;
const VOCABULARY_MAX: usize = 1 << 20;

/// The shape of a text model, from its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width of the feed-forward layers.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Tokens, padding included.
    pub vocabulary: usize,
    /// Longest sequence that the model reads, in tokens: that of its training, times the factor of its scaling.
    pub context: usize,
    /// Added to the mean square in RMS norms.
    pub eps: f64,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Frequencies of time, height and width, as `Rope::new` takes them.
    pub rope_sections: [usize; 3],
    /// How positions are scaled.
    pub scaling: Scaling,
    /// Number of DeepStack features that the first blocks take, fewer than there are blocks.
    pub deepstack: usize,
}

impl TextConfig {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn from_gguf(g: &Gguf) -> std::result::Result<Self, VlmError> {
        kinds::check_text(g)?;
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
                ));
            }
        };
        let context = g.size("qwen3vl.context_length", 1 << 24)?;
        let scaling = Scaling::from_gguf(g, context)?;
        let blocks = g.size("qwen3vl.block_count", BLOCKS_MAX)?;
        let config = Self {
            hidden: g.size("qwen3vl.embedding_length", DIM_MAX)?,
            ffn: g.size("qwen3vl.feed_forward_length", DIM_MAX)?,
            heads: g.size("qwen3vl.attention.head_count", 1024)?,
            kv_heads: g.size("qwen3vl.attention.head_count_kv", 1024)?,
            head_dim,
            blocks,
            vocabulary: g.list("tokenizer.ggml.tokens")?.len().min(VOCABULARY_MAX),
            context: scaling.reach(context),
            eps: g.float("qwen3vl.attention.layer_norm_rms_epsilon")?,
            rope_base: g.float("qwen3vl.rope.freq_base")?,
            rope_sections,
            scaling,
            deepstack: g.size("qwen3vl.n_deepstack_layers", blocks - 1)?,
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
    /// From the metadata of its file.
    pub config: TextConfig,
    embedding: Linear,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Linear,
    rope: Rope,
    device: Device,
}

/// What a pass keeps between its steps, and what comes of it. On the CPU its buffers grow to the largest pass and
/// are used again, so that no step of decoding allocates.
#[derive(Debug, Default)]
pub struct Work {
    /// `[rows, hidden]`: what blocks add to.
    x: Vec<f32>,
    /// `[rows, hidden]`: what a norm gives, or a product; after the pass the hidden states of the wanted rows.
    h: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    attended: Attended,
    quantised: Activations,
    logits: NextLogits,
    /// The hidden states of the wanted rows of a pass that was composed of tensors.
    composed: Option<Tensor>,
}

/// Sees intermediates: the hidden state after the embedding (0), after each block (1.., before its DeepStack
/// feature), and after the final norm, `[rows, hidden]`. All rows are computed to the end then, and all are wanted.
pub type See<'a> = &'a mut dyn FnMut(usize, &[f32]);

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
            rope: Rope::new(c.head_dim, c.rope_base, c.rope_sections, c.scaling),
            device: device.clone(),
            config: c,
        })
    }

    /// Has the model read `factor` times the context that it was trained for, by YaRN, whatever its file says.
    pub fn stretch(&mut self, factor: f64) {
        let c = &mut self.config;
        let original = c.scaling.original(c.context);
        c.scaling = Scaling::yarn(factor, original, 1.0);
        c.context = c.scaling.reach(original);
        self.rope = Rope::new(c.head_dim, c.rope_base, c.rope_sections, c.scaling);
    }

    /// Runs a batch; writes its keys and values into the arena and leaves the hidden states of the wanted rows in `work`.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary, or rows outside the arena.
    pub fn forward(&self, batch: &Batch, arena: &mut Arena, work: &mut Work) -> Result<()> {
        self.forward_with(batch, arena, work, None)
    }

    /// As `forward`, for tests of intermediates.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_with(
        &self,
        batch: &Batch,
        arena: &mut Arena,
        work: &mut Work,
        see: Option<See<'_>>,
    ) -> Result<()> {
        if self.device.is_cpu() {
            self.forward_on_host(batch, arena, work, see)
        } else {
            self.forward_composed(batch, arena, work, see)
        }
    }

    /// Logits of what may follow the wanted rows of the last pass. `tiles` says, for each of them, in which tiles of the
    /// output head tokens are allowed; `None`: anywhere.
    ///
    /// # Errors
    /// When the output head fails.
    pub fn next_logits<'w, 't>(
        &self,
        work: &'w mut Work,
        tiles: impl Fn(usize) -> Option<&'t [usize]>,
    ) -> Result<&'w NextLogits> {
        let Work { h, quantised, logits, composed, .. } = work;
        match composed {
            Some(hidden) => logits.compute_there(&self.head, hidden)?,
            None => logits.compute(&self.head, (h, self.config.hidden), tiles, quantised)?,
        }
        Ok(logits)
    }

    /// True for the last block, of which no more than keys and values is wanted of most rows.
    const fn is_last(&self, block: usize) -> bool {
        block + 1 == self.blocks.len()
    }

    /// Embeddings of tokens, `[ids, hidden]`, for tests of the weights.
    ///
    /// # Errors
    /// When an id lies outside.
    pub fn embeddings(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; ids.len() * self.config.hidden];
        self.embedding.put_rows(ids, &mut out)?;
        Ok(out)
    }

    const fn heads(&self) -> Heads {
        Heads { query: self.config.heads, kv: self.config.kv_heads, dim: self.config.head_dim }
    }
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
