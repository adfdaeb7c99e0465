//! The vision tower: patches of equal-size pictures (or pairs of a clip's pictures) in, one row per 2x2
//! block out, for the text model's input and for its first blocks (DeepStack).
//!
//! ```text
//! patches -> embedding + position table -> blocks (norm, attention with 2-D rotary, norm, FFN)
//!                                            |  after some blocks: DeepStack merger
//!                                            v
//!                                         main merger
//! ```
//!
//! Everything follows the merge order of `image.rs`. Source: `Qwen3VLVisionModel` of Hugging Face
//! transformers 5.23; names of keys and tensors: llama.cpp's converter.

use super::attention::{Attended, Heads, Kept, Matrix, Parts, attend};
use super::error::VlmError;
use super::gguf::{Gguf, Value};
use super::image::{PatchGrid, Patches, merge_order};
use super::kinds;
use super::linear::{Linear, vector};
use super::lora::{Adapted, Terms};
use super::ops::{Gelu, Rotary, add_residual, bias_gelu, bias_norm_rotate, layer_norm, with_values};
use candle_core::{D, DType, Device, Result, Tensor};
use std::sync::Arc;

const ROPE_BASE: f32 = 10_000.0;
const CHANNELS: usize = 3;
/// Bounds of what a sound vision tower may say about itself.
const DIM_MAX: usize = 1 << 14;
const BLOCKS_MAX: usize = 256;

/// The shape of a vision tower, from its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width of a patch's row.
    pub hidden: usize,
    /// Width of the feed-forward layers.
    pub ffn: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Blocks of the tower.
    pub blocks: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of the square of patches that become one row of the text model.
    pub merge: usize,
    /// Width of the rows given to the text model.
    pub out: usize,
    /// Added to a variance.
    pub eps: f64,
    /// Blocks that are followed by a DeepStack merger.
    pub deepstack: Vec<usize>,
}

impl VisionConfig {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn from_gguf(g: &Gguf) -> std::result::Result<Self, VlmError> {
        kinds::check_vision(g)?;
        for key in ["clip.vision.image_mean", "clip.vision.image_std"] {
            let is_half = |v: &Value| matches!(*v, Value::Float(x) if (x - 0.5).abs() < 1e-6);
            if !g.list(key)?.iter().all(is_half) {
                return Err(g.error(format!("key {key}"), "[0.5, 0.5, 0.5] expected"));
            }
        }
        let blocks = g.size("clip.vision.block_count", BLOCKS_MAX)?;
        let marked = g.ints("clip.vision.is_deepstack_layers")?;
        let config = Self {
            hidden: g.size("clip.vision.embedding_length", DIM_MAX)?,
            ffn: g.size("clip.vision.feed_forward_length", 4 * DIM_MAX)?,
            heads: g.size("clip.vision.attention.head_count", 1024)?,
            blocks,
            patch: g.size("clip.vision.patch_size", 64)?,
            merge: g.size("clip.vision.spatial_merge_size", 4)?,
            out: g.size("clip.vision.projection_dim", DIM_MAX)?,
            eps: g.float("clip.vision.attention.layer_norm_epsilon")?,
            deepstack: (0..marked.len()).filter(|i| marked[*i] != 0).collect(),
        };
        if marked.len() != blocks {
            let why = format!("{blocks} entries expected, found {}", marked.len());
            return Err(g.error("key clip.vision.is_deepstack_layers", why));
        }
        if !config.hidden.is_multiple_of(4 * config.heads) {
            let why = format!("{} heads do not divide {} into multiples of 4", config.heads, config.hidden);
            return Err(g.error("key clip.vision.attention.head_count", why));
        }
        Ok(config)
    }
}

impl VisionConfig {
    /// The blocks whose activations serve as features: what comes later says what things are, and no longer how they
    /// look. Of eight blocks the fourth and the sixth.
    pub const fn taps(&self) -> [usize; 2] {
        [self.blocks * 3 / 8, self.blocks * 5 / 8]
    }
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn load(g: &Gguf, name: &str, width: usize, device: &Device) -> std::result::Result<Self, VlmError> {
        Ok(Self {
            weight: vector(g, &format!("{name}.weight"), width, device)?,
            bias: vector(g, &format!("{name}.bias"), width, device)?,
        })
    }

    fn forward(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, eps)
    }
}

#[derive(Debug)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    up: Linear,
    down: Linear,
}

/// Joins 2x2 neighbours into one row of the text model's width.
#[derive(Debug)]
struct Merger {
    norm: Norm,
    fc1: Linear,
    fc2: Linear,
    /// The DeepStack mergers shuffle 2x2 blocks first and norm over four times the width; the main
    /// merger norms each patch and shuffles then.
    shuffle_first: bool,
}

/// A loaded vision tower.
#[derive(Debug)]
pub struct Vision {
    /// Its shape.
    pub config: VisionConfig,
    /// `[hidden, 3 * patch * patch]`: both temporal halves added, since a still image is the same
    /// frame twice.
    patch_embd: Tensor,
    /// `[hidden, 2 * 3 * patch * patch]`: the halves side by side, for the two pictures of a clip's pair.
    pair_embd: Tensor,
    patch_bias: Tensor,
    /// `[side * side, hidden]`.
    positions: Tensor,
    side: usize,
    blocks: Vec<Block>,
    mergers: Vec<Merger>,
    merger: Merger,
    device: Device,
}

/// What the tower says about a batch of equal-size pictures; a pair counts as one picture.
#[derive(Clone, Debug)]
pub struct VisionOut {
    /// `[pictures * rows, out]`, rows = patches / merge^2.
    pub embeds: Tensor,
    /// The same shape, one for each DeepStack merger.
    pub deepstack: Vec<Tensor>,
    /// `[pictures * patches, hidden]`: before the main merger.
    pub last_hidden: Tensor,
    /// The same shape: after each of the blocks whose activations serve as features.
    pub taps: [Tensor; 2],
}

impl Vision {
    /// Loads the tower.
    ///
    /// # Errors
    /// `Model` naming the key or tensor; `Io`.
    pub fn load(g: &Gguf, device: &Device) -> std::result::Result<Self, VlmError> {
        let c = VisionConfig::from_gguf(g)?;
        let (patch_embd, pair_embd) = patch_embeddings(g, &c, device)?;
        let patch_bias = vector(g, "v.patch_embd.bias", c.hidden, device)?;
        let table = g.tensors.get("v.position_embd.weight");
        let side = table.map_or(0, |t| t.shape.first().copied().unwrap_or(0)).isqrt();
        let positions = g.tensor("v.position_embd.weight", &[side * side, c.hidden], device)?;
        let blocks = (0..c.blocks).map(|i| block(g, &c, i, device)).collect::<std::result::Result<_, _>>()?;
        let mergers = c.deepstack.iter().map(|i| deepstack_merger(g, &c, *i, device));
        let mergers = mergers.collect::<std::result::Result<_, _>>()?;
        let wide = c.hidden * c.merge * c.merge;
        let merger = Merger {
            norm: Norm::load(g, "v.post_ln", c.hidden, device)?,
            fc1: Linear::load_of_tower(g, "mm.0", wide, wide, device)?,
            fc2: Linear::load_of_tower(g, "mm.2", c.out, wide, device)?,
            shuffle_first: false,
        };
        Ok(Self {
            patch_embd,
            pair_embd,
            patch_bias,
            positions: positions.dequantize(device)?.to_dtype(DType::F32)?,
            side,
            blocks,
            mergers,
            merger,
            device: device.clone(),
            config: c,
        })
    }

    /// Runs pictures of one size, or pairs of one size, through the tower.
    ///
    /// # Errors
    /// When they differ in size or stills and pairs are mixed, or a tensor operation fails.
    pub fn forward(&self, pictures: &[&Patches]) -> std::result::Result<VisionOut, VlmError> {
        self.forward_with(pictures, None)
    }

    /// As `forward`, with what an adapter adds.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_with(
        &self,
        pictures: &[&Patches],
        terms: Option<&Arc<Terms>>,
    ) -> std::result::Result<VisionOut, VlmError> {
        let c = &self.config;
        let adapted: Vec<Adapted> = terms.map(|terms| Adapted::all(Arc::clone(terms))).into_iter().collect();
        let grid = pictures.first().map_or(PatchGrid { rows: 0, cols: 0 }, |p| p.grid);
        if grid.patches() == 0 || pictures.iter().any(|p| !p.is_like(pictures[0])) {
            return Err(candle_core::Error::Msg("one batch holds pictures of one size".into()).into());
        }
        let is_pair = pictures[0].frames == 2;
        let (weight, width) = if is_pair { (&self.pair_embd, 2) } else { (&self.patch_embd, 1) };
        let width = width * CHANNELS * c.patch * c.patch;
        let values = pictures.iter().map(|p| p.values.as_slice()).collect::<Vec<_>>().concat();
        let x = Tensor::from_vec(values, (pictures.len() * grid.patches(), width), &self.device)?;
        let x = x.matmul(&weight.t()?)?;
        let mut x = add_residual(&self.position_rows(grid)?, x, Some(&self.patch_bias))?;
        let rotary = self.rotary(grid)?;
        let mut deepstack = Vec::new();
        let mut taps = [x.clone(), x.clone()];
        for (i, block) in self.blocks.iter().enumerate() {
            x = self.block(block, &x, &rotary, pictures.len(), &adapted)?;
            if let Some(k) = c.deepstack.iter().position(|d| *d == i) {
                deepstack.push(self.merge(&self.mergers[k], &x, &adapted)?);
            }
            if let Some(k) = c.taps().iter().position(|tap| *tap == i) {
                taps[k] = x.clone();
            }
        }
        Ok(VisionOut { embeds: self.merge(&self.merger, &x, &adapted)?, deepstack, last_hidden: x, taps })
    }

    fn block(
        &self,
        b: &Block,
        x: &Tensor,
        rotary: &Rotary,
        pictures: usize,
        adapted: &[Adapted],
    ) -> Result<Tensor> {
        let c = &self.config;
        let h = b.norm1.forward(x, c.eps)?;
        // Queries and keys stand side by side, so their heads turn as one row of twice as many.
        let qkv = bias_norm_rotate(
            b.qkv.forward_with(&h, adapted)?,
            2 * c.heads,
            b.qkv.bias.as_ref(),
            None,
            rotary,
        )?;
        let heads = Heads { query: c.heads, kv: c.heads, dim: c.hidden / c.heads };
        let out = if qkv.device().is_cpu() {
            attend_on_host(&qkv, heads, pictures)?
        } else {
            attend_there(&qkv, heads, pictures)?
        };
        let x = add_residual(x, b.proj.forward_with(&out, adapted)?, b.proj.bias.as_ref())?;
        let h = b.norm2.forward(&x, c.eps)?;
        let h = gelu(&b.up, &h, Gelu::Tanh, adapted)?;
        add_residual(&x, b.down.forward_with(&h, adapted)?, b.down.bias.as_ref())
    }

    fn merge(&self, m: &Merger, x: &Tensor, adapted: &[Adapted]) -> Result<Tensor> {
        let wide = self.config.hidden * self.config.merge * self.config.merge;
        let rows = x.elem_count() / wide;
        let x = if m.shuffle_first {
            m.norm.forward(&x.reshape((rows, wide))?, self.config.eps)?
        } else {
            m.norm.forward(x, self.config.eps)?.reshape((rows, wide))?
        };
        let x = m.fc2.forward_with(&gelu(&m.fc1, &x, Gelu::Erf, adapted)?, adapted)?;
        m.fc2.bias.as_ref().map_or(Ok(x.clone()), |b| x.broadcast_add(b))
    }

    /// The position table, bilinear with aligned corners (`linspace(0, side - 1, n)`), in merge
    /// order: `[patches, hidden]`.
    fn position_rows(&self, grid: PatchGrid) -> Result<Tensor> {
        let (mut ids, mut weights) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
        for corners in corners(grid, self.config.merge, self.side) {
            for (k, (at, weight)) in corners.into_iter().enumerate() {
                ids[k].push(at);
                weights[k].push(weight);
            }
        }
        let n = grid.patches();
        let mut sum: Option<Tensor> = None;
        for (ids, weights) in ids.into_iter().zip(weights) {
            let rows = self.positions.index_select(&Tensor::from_vec(ids, n, &self.device)?, 0)?;
            let rows = rows.broadcast_mul(&Tensor::from_vec(weights, (n, 1), &self.device)?)?;
            sum = Some(match sum {
                Some(s) => (s + rows)?,
                None => rows,
            });
        }
        sum.map_or_else(|| candle_core::bail!("no position corners"), Ok)
    }

    /// The angles of one picture: half of the frequencies turn with the row, half with the column.
    fn rotary(&self, grid: PatchGrid) -> Result<Rotary> {
        let (angles, half) = angles(&self.config, grid);
        Rotary::new(angles.into_iter().map(|a| (a.cos(), a.sin())), half, &self.device)
    }
}

/// The four entries of a table of `side` x `side` places between which every patch lies, with their shares: bilinear with
/// aligned corners (`linspace(0, side - 1, n)`), in merge order.
pub fn corners(grid: PatchGrid, merge: usize, side: usize) -> impl Iterator<Item = [(u32, f32); 4]> {
    let axis = |n: usize| -> Vec<(usize, usize, f32)> {
        let step = (side - 1) as f32 / (n.max(2) - 1) as f32;
        (0..n)
            .map(|i| {
                let at = if n == 1 { 0.0 } else { i as f32 * step };
                let low = (at as usize).min(side - 1);
                (low, (low + 1).min(side - 1), at - low as f32)
            })
            .collect()
    };
    let (rows, cols) = (axis(grid.rows), axis(grid.cols));
    merge_order(grid, merge).map(move |(r, c)| {
        let ((r0, r1, dr), (c0, c1, dc)) = (rows[r], cols[c]);
        [
            (r0, c0, (1.0 - dr) * (1.0 - dc)),
            (r0, c1, (1.0 - dr) * dc),
            (r1, c0, dr * (1.0 - dc)),
            (r1, c1, dr * dc),
        ]
        .map(|(row, col, weight)| ((row * side + col) as u32, weight))
    })
}

/// The rotary angles of one picture, `[patches, half]`, and `half`: half of the frequencies turn with the row, half with
/// the column.
pub fn angles(c: &VisionConfig, grid: PatchGrid) -> (Vec<f32>, usize) {
    let half = c.hidden / c.heads / 2;
    let frequencies: Vec<f32> =
        (0..half / 2).map(|i| 1.0 / ROPE_BASE.powf(2.0 * i as f32 / half as f32)).collect();
    let mut angles = Vec::with_capacity(grid.patches() * half);
    for (row, col) in merge_order(grid, c.merge) {
        angles.extend(frequencies.iter().map(|f| row as f32 * f));
        angles.extend(frequencies.iter().map(|f| col as f32 * f));
    }
    (angles, half)
}

/// Full attention inside each picture, of `[pictures * patches, 3 * hidden]` queries, keys and values:
/// `[pictures * patches, hidden]`.
fn attend_on_host(qkv: &Tensor, heads: Heads, pictures: usize) -> Result<Tensor> {
    let (rows, width) = (qkv.dim(0)?, heads.query * heads.dim);
    let patches = rows / pictures;
    let (mut parts, mut out) = (Parts::default(), Attended::default());
    (0..pictures).for_each(|p| parts.push(patches, [], p * patches, false));
    with_values(qkv, |values| {
        let [q, k, v] =
            [0, 1, 2].map(|i| Matrix { values, stride: 3 * width, start: i * width, heads: heads.dim });
        attend(q, Kept::Single(k), Kept::Single(v), heads, &parts, &mut out);
    })?;
    Tensor::from_vec(out.values, (rows, width), &Device::Cpu)
}

/// The same on other devices: by flash attention, in half precision, or by candle's operations.
fn attend_there(qkv: &Tensor, heads: Heads, pictures: usize) -> Result<Tensor> {
    let (rows, width) = (qkv.dim(0)?, heads.query * heads.dim);
    let split = |i: usize| {
        let x = qkv.narrow(1, i * width, width)?;
        x.reshape((pictures, rows / pictures, heads.query, heads.dim))
    };
    #[cfg(feature = "flash-attn")]
    if qkv.device().is_cuda() {
        let [q, k, v] = [0, 1, 2].map(|i| split(i)?.to_dtype(DType::F16));
        let scale = 1.0 / (heads.dim as f32).sqrt();
        let out = candle_flash_attn::flash_attn(&q?, &k?, &v?, scale, false)?;
        return out.to_dtype(qkv.dtype())?.reshape((rows, width));
    }
    let [q, k, v] = [0, 1, 2].map(|i| split(i)?.transpose(1, 2)?.contiguous());
    let scores = (q?.matmul(&k?.transpose(2, 3)?)? / (heads.dim as f64).sqrt())?;
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&v?)?.transpose(1, 2)?.reshape((rows, width))
}

fn gelu(layer: &Linear, x: &Tensor, kind: Gelu, adapted: &[Adapted]) -> Result<Tensor> {
    let h = layer.forward_with(x, adapted)?;
    match &layer.bias {
        Some(bias) => bias_gelu(h, bias, kind),
        None => candle_core::bail!("a layer before GELU has a bias"),
    }
}

/// The weights of a still's patch, and those of a pair's.
fn patch_embeddings(
    g: &Gguf,
    c: &VisionConfig,
    device: &Device,
) -> std::result::Result<(Tensor, Tensor), VlmError> {
    let shape = [c.hidden, CHANNELS, c.patch, c.patch];
    let half = |name: &str| -> std::result::Result<Tensor, VlmError> {
        let half = g.tensor(name, &shape, device)?.dequantize(device)?.to_dtype(DType::F32)?;
        Ok(half.reshape((c.hidden, CHANNELS * c.patch * c.patch))?)
    };
    let (first, second) = (half("v.patch_embd.weight")?, half("v.patch_embd.weight.1")?);
    Ok(((&first + &second)?, Tensor::cat(&[first, second], 1)?))
}

fn block(g: &Gguf, c: &VisionConfig, i: usize, device: &Device) -> std::result::Result<Block, VlmError> {
    let name = |part: &str| format!("v.blk.{i}.{part}");
    let d = c.hidden;
    Ok(Block {
        norm1: Norm::load(g, &name("ln1"), d, device)?,
        qkv: Linear::load_of_tower(g, &name("attn_qkv"), 3 * d, d, device)?,
        proj: Linear::load_of_tower(g, &name("attn_out"), d, d, device)?,
        norm2: Norm::load(g, &name("ln2"), d, device)?,
        up: Linear::load_of_tower(g, &name("ffn_up"), c.ffn, d, device)?,
        down: Linear::load_of_tower(g, &name("ffn_down"), d, c.ffn, device)?,
    })
}

fn deepstack_merger(
    g: &Gguf,
    c: &VisionConfig,
    i: usize,
    device: &Device,
) -> std::result::Result<Merger, VlmError> {
    let wide = c.hidden * c.merge * c.merge;
    let name = |part: &str| format!("v.deepstack.{i}.{part}");
    Ok(Merger {
        norm: Norm::load(g, &name("norm"), wide, device)?,
        fc1: Linear::load_of_tower(g, &name("fc1"), wide, wide, device)?,
        fc2: Linear::load_of_tower(g, &name("fc2"), c.out, wide, device)?,
        shuffle_first: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_of_other_devices_agrees_with_the_hosts() {
        let heads = Heads { query: 3, kv: 3, dim: 8 };
        let qkv = Tensor::randn(0f32, 1.0, (2 * 12, 3 * 24), &Device::Cpu).unwrap();
        let [a, b] = [attend_on_host, attend_there].map(|attend| attend(&qkv, heads, 2).unwrap());
        let gap = (&a - &b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(a.dims(), [24, 24]);
        assert!(gap < 1e-5, "off by {gap}");
    }
}
