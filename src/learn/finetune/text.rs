//! The text model in f32, with gradients, over the rows of several sequences.
//!
//! ```text
//! embeddings of tokens | cells of pictures --order--> rows -> blocks (DeepStack at the cells) -> norm
//!                                                             -> rows before a token that is learned -> head
//! ```
//!
//! The same function as the engine's `text`: sequences share every product, and attention is causal inside each.

use super::attend::Attend;
use super::ops::{Turns, linear, rms_norm, swiglu};
use super::tower::Seen;
use super::weights::Step;
use candle_core::{Device, Result, Tensor};
use std::ops::Range;
use vlm::attention::Heads;
use vlm::rope::{Position, Rope};
use vlm::text::TextConfig;

/// The rows of a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// Tokens of all sequences, without the cells of pictures.
    pub ids: Vec<u32>,
    /// For each row its place in tokens and then cells.
    pub order: Vec<u32>,
    /// The row of each cell.
    pub cells: Vec<u32>,
    /// Of each row.
    pub positions: Vec<Position>,
    /// The rows of each sequence.
    pub parts: Vec<Range<usize>>,
    /// Rows whose next token is learned, that token, and its weight.
    pub learned: Vec<(u32, u32, f32)>,
}

/// Logits of the rows whose next token is learned: `[learned, vocabulary]`.
///
/// # Errors
/// As candle; the pair lacks a tensor.
pub(super) fn forward(w: &Step, c: &TextConfig, rows: &Rows, seen: &Seen, device: &Device) -> Result<Tensor> {
    let index = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), device);
    let table = w.get("token_embd.weight")?;
    let tokens = table.index_select(&index(&rows.ids)?, 0)?;
    let mut x = Tensor::cat(&[&tokens, &seen.embeds], 0)?.index_select(&index(&rows.order)?, 0)?;
    let rope = Rope::new(c.head_dim, c.rope_base, c.rope_sections, c.scaling);
    let turns = Turns::new(rope.turns(&rows.positions), rope.half());
    let heads = Heads { query: c.heads, kv: c.kv_heads, dim: c.head_dim };
    let attend = Attend { parts: rows.parts.clone().into(), heads, causal: true };
    let cells = index(&rows.cells)?;
    for i in 0..c.blocks {
        x = block(w, c, i, &x, &turns, &attend)?;
        if let Some(feature) = seen.deepstack.get(i).filter(|_| i < c.deepstack) {
            x = x.index_add(&cells, feature, 0)?;
        }
    }
    let learned: Vec<u32> = rows.learned.iter().map(|(row, ..)| *row).collect();
    let x = rms_norm(&x.index_select(&index(&learned)?, 0)?, w.get("output_norm.weight")?, c.eps)?;
    linear(&x, w.find("output.weight").unwrap_or(table), None)
}

fn block(w: &Step, c: &TextConfig, i: usize, x: &Tensor, turns: &Turns, attend: &Attend) -> Result<Tensor> {
    let get = |part: &str| w.get(&format!("blk.{i}.{part}.weight"));
    let h = rms_norm(x, get("attn_norm")?, c.eps)?;
    let rows = x.dim(0)?;
    // The norm is of each head.
    let turned = |part: &str, of_norm: &str, heads: usize| -> Result<Tensor> {
        let x = linear(&h, get(part)?, None)?.reshape((rows * heads, c.head_dim))?;
        let x = rms_norm(&x, get(of_norm)?, c.eps)?.reshape((rows, heads * c.head_dim))?;
        turns.turn(&x, heads)
    };
    let q = turned("attn_q", "attn_q_norm", c.heads)?;
    let k = turned("attn_k", "attn_k_norm", c.kv_heads)?;
    let v = linear(&h, get("attn_v")?, None)?;
    let out = attend.forward(&Tensor::cat(&[q, k, v], 1)?)?;
    let x = (x + linear(&out, get("attn_output")?, None)?)?;
    let h = rms_norm(&x, get("ffn_norm")?, c.eps)?;
    let h = swiglu(&linear(&h, get("ffn_gate")?, None)?, &linear(&h, get("ffn_up")?, None)?)?;
    &x + linear(&h, get("ffn_down")?, None)?
}
