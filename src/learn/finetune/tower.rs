//! The vision tower in f32, with gradients: the same function as the engine's `vision`.
//!
//! ```text
//! patches of all pictures, one after the other -> embedding + positions -> blocks -> main merger, DeepStack mergers
//! ```
//!
//! Pictures of different sizes share every product; attention looks inside each picture alone.

use super::attend::Attend;
use super::ops::{Turns, gelu_erf, gelu_tanh, layer_norm, linear};
use super::weights::{POSITIONS, Step};
use candle_core::{Device, Result, Tensor};
use std::collections::HashMap;
use vlm::attention::Heads;
use vlm::image::{PatchGrid, Patches};
use vlm::vision::{VisionConfig, angles, corners};

/// What the tower says about a batch.
#[derive(Debug)]
pub(super) struct Seen {
    /// `[cells of all pictures, width of the text model]`.
    pub embeds: Tensor,
    /// The same shape, one for each DeepStack merger.
    pub deepstack: Vec<Tensor>,
}

/// The tower's shape, and the rows of positions and angles that it has seen the sizes of.
#[derive(Debug)]
pub(super) struct Tower {
    config: VisionConfig,
    device: Device,
    /// `[patches, hidden]` of the position table, and `[patches, half]` angles.
    sizes: HashMap<PatchGrid, (Vec<f32>, Vec<f32>)>,
}

impl Tower {
    pub(super) fn new(config: &VisionConfig, device: &Device) -> Self {
        Self { config: config.clone(), device: device.clone(), sizes: HashMap::new() }
    }

    /// Runs stills of any sizes.
    ///
    /// # Errors
    /// As candle; the pair lacks a tensor.
    pub(super) fn forward(&mut self, w: &Step, pictures: &[&Patches]) -> Result<Seen> {
        let (positions, turns, parts) = self.places(w, pictures)?;
        let c = &self.config;
        let rows = positions.dim(0)?;
        let values: Vec<f32> = pictures.iter().flat_map(|p| p.values.iter().copied()).collect();
        let pixels = Tensor::from_vec(values, (rows, 3 * c.patch * c.patch), &self.device)?;
        // A still is the same frame twice.
        let weight = (w.get("v.patch_embd.weight")? + w.get("v.patch_embd.weight.1")?)?;
        let x = linear(&pixels, &weight, Some(w.get("v.patch_embd.bias")?))?;
        let mut x = (x + positions)?;
        let heads = Heads { query: c.heads, kv: c.heads, dim: c.hidden / c.heads };
        let attend = Attend { parts: parts.into(), heads, causal: false };
        let mut deepstack = vec![];
        for i in 0..c.blocks {
            x = block(w, c, &format!("v.blk.{i}"), &x, &turns, &attend)?;
            if c.deepstack.contains(&i) {
                let name = |part: &str| format!("v.deepstack.{i}.{part}");
                deepstack.push(merge(w, c, &x, (&name("norm"), &name("fc1"), &name("fc2")), true)?);
            }
        }
        Ok(Seen { embeds: merge(w, c, &x, ("v.post_ln", "mm.0", "mm.2"), false)?, deepstack })
    }

    /// Positions `[rows, hidden]` and angles of all pictures, and where each begins and ends.
    fn places(
        &mut self,
        w: &Step,
        pictures: &[&Patches],
    ) -> Result<(Tensor, Turns, Vec<std::ops::Range<usize>>)> {
        let (hidden, half) = (self.config.hidden, self.config.hidden / self.config.heads / 2);
        let (mut positions, mut all, mut parts) = (vec![], vec![], vec![]);
        for picture in pictures {
            if !self.sizes.contains_key(&picture.grid) {
                let place = self.place(w, picture.grid)?;
                self.sizes.insert(picture.grid, place);
            }
            let (rows, turns) = &self.sizes[&picture.grid];
            let start = positions.len() / hidden;
            positions.extend_from_slice(rows);
            all.extend_from_slice(turns);
            parts.push(start..positions.len() / hidden);
        }
        let rows = positions.len() / hidden;
        Ok((
            Tensor::from_vec(positions, (rows, hidden), &self.device)?,
            Turns::new(all.iter().map(|a| (a.cos(), a.sin())), half),
            parts,
        ))
    }

    /// Of one size; the table is fixed, so that it is worth keeping.
    fn place(&self, w: &Step, grid: PatchGrid) -> Result<(Vec<f32>, Vec<f32>)> {
        let (c, table) = (&self.config, w.get(POSITIONS)?);
        let side = table.dim(0)?.isqrt();
        let table: Vec<f32> = table.flatten_all()?.to_vec1()?;
        let mut rows = vec![0.0; grid.patches() * c.hidden];
        for (row, corners) in rows.chunks_exact_mut(c.hidden).zip(corners(grid, c.merge, side)) {
            for (at, share) in corners {
                let entry = &table[at as usize * c.hidden..][..c.hidden];
                row.iter_mut().zip(entry).for_each(|(out, x)| *out += x * share);
            }
        }
        Ok((rows, angles(c, grid).0))
    }
}

fn block(w: &Step, c: &VisionConfig, at: &str, x: &Tensor, turns: &Turns, attend: &Attend) -> Result<Tensor> {
    let with = |part: &str, x: &Tensor| biased(w, &format!("{at}.{part}"), x);
    let h = norm(w, &format!("{at}.ln1"), x, c.eps)?;
    let qkv = turns.turn(&with("attn_qkv", &h)?, 2 * c.heads)?;
    let x = (x + with("attn_out", &attend.forward(&qkv)?)?)?;
    let h = norm(w, &format!("{at}.ln2"), &x, c.eps)?;
    &x + with("ffn_down", &gelu_tanh(&with("ffn_up", &h)?)?)?
}

/// Joins 2x2 patches; a DeepStack merger shuffles them before its norm.
fn merge(
    w: &Step,
    c: &VisionConfig,
    x: &Tensor,
    (of_norm, fc1, fc2): (&str, &str, &str),
    shuffle_first: bool,
) -> Result<Tensor> {
    let wide = c.hidden * c.merge * c.merge;
    let rows = x.elem_count() / wide;
    let x = if shuffle_first {
        norm(w, of_norm, &x.reshape((rows, wide))?, c.eps)?
    } else {
        norm(w, of_norm, x, c.eps)?.reshape((rows, wide))?
    };
    biased(w, fc2, &gelu_erf(&biased(w, fc1, &x)?)?)
}

fn biased(w: &Step, name: &str, x: &Tensor) -> Result<Tensor> {
    linear(x, w.get(&format!("{name}.weight"))?, Some(w.get(&format!("{name}.bias"))?))
}

fn norm(w: &Step, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
    layer_norm(x, w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?, eps)
}
