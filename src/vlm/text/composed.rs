//! The text model by candle's operations, for devices other than the CPU. It runs there too, so that the tests can
//! hold it to the other path.
//!
//! ```text
//! keys, values of the arena --Gathered--> one part's after the other --flash attention, or by operations--> rows
//! ```

use super::{Block, See, Text, Work};
use crate::attention::{Heads, Span};
use crate::batch::{Batch, Layout, Rows};
use crate::kv::Arena;
use crate::lora::Adapted;
use crate::ops::{Rotary, add_residual, bias_norm_rotate, rms_norm, swiglu};
use candle_core::{D, Device, Result, Tensor};

impl Text {
    /// As `forward_with`, by tensors on whatever device.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_composed(
        &self,
        batch: &Batch,
        arena: &Arena,
        work: &mut Work,
        mut see: Option<See<'_>>,
    ) -> Result<()> {
        let narrows = see.is_none();
        work.composed = None;
        let mut show = |i, x: &Tensor| -> Result<()> {
            if let Some(see) = &mut see {
                see(i, &x.flatten_all()?.to_vec1()?);
            }
            Ok(())
        };
        let mut x = rows_of(batch, |rows| match rows {
            Rows::Tokens(ids) => self.embedding.rows(ids, &self.device),
            Rows::Picture(p) => Ok(p.embeds.clone()),
        })?;
        let turns = self.rope.turns(batch.positions());
        let rotary = Rotary::new(turns, self.rope.half(), &self.device)?;
        let all = Gathered::of(batch.all(), &self.device)?;
        let shows = batch.sources().any(|s| matches!(s, Rows::Picture(_)));
        show(0, &x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let q = self.keys_composed(i, block, &x, &rotary, batch.all(), arena)?;
            if narrows && self.is_last(i) {
                if batch.wanted().is_empty() {
                    return Ok(());
                }
                let last = Gathered::of(batch.last(), &self.device)?;
                x = self.rest_composed(i, block, [&wanted(&x, batch)?, &wanted(&q, batch)?], &last, arena)?;
            } else {
                x = self.rest_composed(i, block, [&x, &q], &all, arena)?;
            }
            show(i + 1, &x)?;
            if shows && i < self.config.deepstack {
                let feature = rows_of(batch, |rows| match rows {
                    Rows::Tokens(ids) => {
                        Tensor::zeros((ids.len(), self.config.hidden), x.dtype(), &self.device)
                    }
                    Rows::Picture(p) => Ok(p.deepstack[i].clone()),
                })?;
                x = (x + feature)?;
            }
        }
        let hidden = rms_norm(&x, &self.norm, self.config.eps)?;
        show(self.blocks.len() + 1, &hidden)?;
        work.composed = Some(hidden);
        Ok(())
    }

    /// A block up to its keys and values, which are written: its queries.
    fn keys_composed(
        &self,
        i: usize,
        b: &Block,
        x: &Tensor,
        rotary: &Rotary,
        layout: &Layout,
        arena: &Arena,
    ) -> Result<Tensor> {
        let c = &self.config;
        let h = rms_norm(x, &b.attn_norm, c.eps)?;
        let [q, k, v] = [&b.q, &b.k, &b.v].map(|l| l.forward_with(&h, &layout.adapted));
        let q = bias_norm_rotate(q?, c.heads, None, Some((&b.q_norm, c.eps)), rotary)?;
        let k = bias_norm_rotate(k?, c.kv_heads, None, Some((&b.k_norm, c.eps)), rotary)?;
        arena.write_tensors(i, &layout.parts, &k, &v?)?;
        Ok(q)
    }

    /// What follows in a block, for the rows that `seen` is of: those of `x` and of the queries.
    fn rest_composed(
        &self,
        i: usize,
        b: &Block,
        [x, q]: [&Tensor; 2],
        seen: &Gathered<'_>,
        arena: &Arena,
    ) -> Result<Tensor> {
        let (c, adapted) = (&self.config, seen.adapted);
        let [keys, values] = arena.tensors(i)?;
        let out = seen.attend(q, keys, values, self.heads())?;
        let x = add_residual(x, b.out.forward_with(&out, adapted)?, None)?;
        let h = rms_norm(&x, &b.ffn_norm, c.eps)?;
        let gate = swiglu(&b.gate.forward_with(&h, adapted)?, &b.up.forward_with(&h, adapted)?)?;
        add_residual(&x, b.down.forward_with(&gate, adapted)?, None)
    }
}

/// The rows after which a token is wanted.
fn wanted(x: &Tensor, batch: &Batch) -> Result<Tensor> {
    let rows: Vec<u32> = batch.wanted().iter().map(|row| *row as u32).collect();
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

/// What is made of each source of rows of a batch, in their order.
fn rows_of(batch: &Batch, of: impl Fn(Rows<'_>) -> Result<Tensor>) -> Result<Tensor> {
    Tensor::cat(&batch.sources().map(of).collect::<Result<Vec<_>>>()?, 0)
}

/// Which rows of the arena a pass sees: for each part those of its context, then its own.
struct Gathered<'a> {
    adapted: &'a [Adapted],
    /// Rows of the arena, one part's after the other.
    rows: Tensor,
    /// First query row and first key of each part, and behind the last part.
    #[cfg(feature = "flash-attn")]
    firsts: [Tensor; 2],
    parts: Vec<Seen>,
}

/// What one part sees.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// First query row, and number of them.
    row: usize,
    rows: usize,
    /// First key among those gathered, and number of them; the last `rows` are the part's own.
    key: usize,
    keys: usize,
}

impl<'a> Gathered<'a> {
    fn of(Layout { parts, adapted }: &'a Layout, device: &Device) -> Result<Self> {
        let mut rows = vec![];
        let mut seen = vec![];
        for p in parts {
            let key = rows.len();
            let span = |s: &Span| s.start as u32..(s.start + s.rows) as u32;
            rows.extend(parts.context(p).iter().chain([&p.own]).flat_map(span));
            seen.push(Seen { row: p.row, rows: p.rows, key, keys: rows.len() - key });
        }
        Ok(Self {
            adapted,
            #[cfg(feature = "flash-attn")]
            firsts: {
                let firsts = |of: fn(&Seen) -> usize, end: usize| {
                    let all = seen.iter().map(of).chain([end]).map(|n| n as u32);
                    Tensor::new(all.collect::<Vec<_>>(), device)
                };
                [firsts(|s| s.row, parts.rows())?, firsts(|s| s.key, rows.len())?]
            },
            rows: Tensor::new(rows, device)?,
            parts: seen,
        })
    }

    /// Attention of all parts, causal inside their own rows: `[rows, heads.query * heads.dim]`.
    fn attend(&self, q: &Tensor, keys: &Tensor, values: &Tensor, heads: Heads) -> Result<Tensor> {
        let (k, v) = (keys.index_select(&self.rows, 0)?, values.index_select(&self.rows, 0)?);
        #[cfg(feature = "flash-attn")]
        if q.device().is_cuda() {
            return self.attend_flash(q, &k, &v, heads);
        }
        let outs = self.parts.iter().map(|p| {
            let seen = |m: &Tensor| m.narrow(0, p.key, p.keys)?.to_dtype(q.dtype());
            attend_part(&q.narrow(0, p.row, p.rows)?, &seen(&k)?, &seen(&v)?, heads)
        });
        Tensor::cat(&outs.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The same by flash attention, which computes in half precision and aligns the causal mask with the last key.
    #[cfg(feature = "flash-attn")]
    fn attend_flash(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
        let split = |m: &Tensor, heads_of: usize| {
            m.reshape((m.dim(0)?, heads_of, heads.dim))?.to_dtype(candle_core::DType::F16)
        };
        let most = |of: fn(&Seen) -> usize| self.parts.iter().map(of).max().unwrap_or(0);
        let out = candle_flash_attn::flash_attn_varlen(
            &split(q, heads.query)?,
            &split(k, heads.kv)?,
            &split(v, heads.kv)?,
            &self.firsts[0],
            &self.firsts[1],
            most(|s| s.rows),
            most(|s| s.keys),
            1.0 / (heads.dim as f32).sqrt(),
            true,
        )?;
        out.to_dtype(q.dtype())?.reshape(q.shape())
    }
}

/// A part's attention by candle's operations: `[rows, width]`. The last keys are its own.
fn attend_part(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    let groups = heads.query / heads.kv;
    let (rows, keys) = (q.dim(0)?, k.dim(0)?);
    // [kv, 1, keys, dim] seen by each group of query heads.
    let spread = |m: &Tensor| -> Result<Tensor> {
        let m = m.reshape((keys, heads.kv, 1, heads.dim))?.permute((1, 2, 0, 3))?;
        m.broadcast_as((heads.kv, groups, keys, heads.dim))?.contiguous()
    };
    let (k, v) = (spread(k)?, spread(v)?);
    let q = q.reshape((rows, heads.kv, groups, heads.dim))?.permute((1, 2, 0, 3))?.contiguous()?;
    let mut scores = (q.matmul(&k.transpose(2, 3)?)? / (heads.dim as f64).sqrt())?;
    if rows > 1 {
        let context = keys - rows;
        let sees = |i: usize| move |j: usize| if j <= context + i { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..rows).flat_map(|i| (0..keys).map(sees(i))).collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (rows, keys), q.device())?)?;
    }
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&v)?.permute((2, 0, 1, 3))?.reshape((rows, heads.query * heads.dim))
}
