//! The text model on the CPU: every step goes from one buffer of [`Work`] to another.

use super::{Block, See, Text, Work};
use crate::attention::{Matrix, attend};
use crate::batch::{Batch, Layout, Rows};
use crate::kv::Arena;
use crate::linear::Linear;
use crate::ops::host::{Turns, add, bias_norm_rotate, rms_norm, swiglu};
use crate::ops::with_values;
use candle_core::Result;

impl Text {
    pub(super) fn forward_on_host(
        &self,
        batch: &Batch,
        arena: &mut Arena,
        w: &mut Work,
        mut see: Option<See<'_>>,
    ) -> Result<()> {
        let c = &self.config;
        let narrows = see.is_none();
        let mut show = |i, x: &[f32]| see.iter_mut().for_each(|see| see(i, x));
        w.composed = None;
        self.embed(batch, &mut w.x)?;
        w.cos.clear();
        w.sin.clear();
        for (cos, sin) in self.rope.turns(batch.positions()) {
            w.cos.push(cos);
            w.sin.push(sin);
        }
        show(0, &w.x);
        for (i, block) in self.blocks.iter().enumerate() {
            self.keys_on_host(i, block, batch.all(), arena, w)?;
            let mut layout = batch.all();
            if narrows && self.is_last(i) {
                keep_rows(batch.wanted(), c.hidden, &mut w.x);
                keep_rows(batch.wanted(), c.heads * c.head_dim, &mut w.q);
                layout = batch.last();
            }
            if layout.parts.rows() > 0 {
                self.rest_on_host(i, block, layout, arena, w)?;
            }
            show(i + 1, &w.x);
            if i < c.deepstack {
                self.add_feature(i, batch, &mut w.x)?;
            }
        }
        with_values(&self.norm, |n| rms_norm(&w.x, n, c.eps as f32, &mut w.h))?;
        show(self.blocks.len() + 1, &w.h);
        Ok(())
    }

    /// A block up to its keys and values, which are written, and its queries.
    fn keys_on_host(
        &self,
        i: usize,
        b: &Block,
        layout: &Layout,
        arena: &mut Arena,
        w: &mut Work,
    ) -> Result<()> {
        let (c, eps) = (&self.config, self.config.eps as f32);
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let Work { x, h, q, k, v, cos, sin, quantised, .. } = w;
        with_values(&b.attn_norm, |n| rms_norm(x, n, eps, h))?;
        Linear::multiply_with([&b.q, &b.k, &b.v], &layout.adapted, h, quantised, [q, k, v])?;
        let turns = Turns { cos, sin, half: self.rope.half() };
        with_values(&b.q_norm, |n| bias_norm_rotate(q, q_width, c.heads, None, Some((n, eps)), turns))?;
        with_values(&b.k_norm, |n| bias_norm_rotate(k, kv_width, c.kv_heads, None, Some((n, eps)), turns))?;
        arena.write(i, &layout.parts, k, v)
    }

    /// What follows in a block, for the rows of `layout`: those of the queries and of `x`.
    fn rest_on_host(&self, i: usize, b: &Block, layout: &Layout, arena: &Arena, w: &mut Work) -> Result<()> {
        let (c, eps) = (&self.config, self.config.eps as f32);
        let Work { x, h, q, gate, up, attended, quantised, .. } = w;
        let [keys, values] = arena.kept(i)?;
        let queries = Matrix { values: q, stride: c.heads * c.head_dim, start: 0, heads: c.head_dim };
        attend(queries, keys, values, self.heads(), &layout.parts, attended);
        Linear::multiply_with([&b.out], &layout.adapted, &attended.values, quantised, [h])?;
        add(x, h, c.hidden);
        with_values(&b.ffn_norm, |n| rms_norm(x, n, eps, h))?;
        Linear::multiply_with([&b.gate, &b.up], &layout.adapted, h, quantised, [gate, up])?;
        swiglu(gate, up, c.ffn);
        Linear::multiply_with([&b.down], &layout.adapted, gate, quantised, [h])?;
        add(x, h, c.hidden);
        Ok(())
    }

    /// Puts the embeddings of all rows in the place of what `x` holds.
    fn embed(&self, batch: &Batch, x: &mut Vec<f32>) -> Result<()> {
        x.clear();
        x.resize(batch.rows() * self.config.hidden, 0.0);
        self.each_source(batch, x, |rows, x| match rows {
            Rows::Tokens(ids) => self.embedding.put_rows(ids, x),
            Rows::Picture(p) => with_values(&p.embeds, |embeds| x.copy_from_slice(embeds)),
        })
    }

    /// Adds a DeepStack feature to the rows of pictures.
    fn add_feature(&self, i: usize, batch: &Batch, x: &mut [f32]) -> Result<()> {
        self.each_source(batch, x, |rows, x| match rows {
            Rows::Tokens(_) => Ok(()),
            Rows::Picture(p) => with_values(&p.deepstack[i], |feature| add(x, feature, self.config.hidden)),
        })
    }

    /// Gives each source and its rows of `x` to `f`.
    fn each_source(
        &self,
        batch: &Batch,
        mut x: &mut [f32],
        f: impl Fn(Rows<'_>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        for rows in batch.sources() {
            let (own, rest) = x.split_at_mut(rows.len() * self.config.hidden);
            f(rows, own)?;
            x = rest;
        }
        Ok(())
    }
}

/// Moves some rows, which rise, to the front and forgets the others.
fn keep_rows(rows: &[usize], width: usize, values: &mut Vec<f32>) {
    for (to, from) in rows.iter().enumerate() {
        values.copy_within(from * width..(from + 1) * width, to * width);
    }
    values.truncate(rows.len() * width);
}
