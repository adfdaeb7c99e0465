//! Qwen3-VL pairs with random weights: real shapes for benches, small ones for tests.
//!
//! ```text
//! Shape + Quant --> metadata, tensor table --> blocks of random quants, 1 MiB at a time --> file
//! ```
//!
//! Blocks are drawn as they lie in the file instead of quantising floats, which for 4B takes minutes.
//! Weights have mean 0 and variance 1/in, norms are about 1, so that a random model's activations
//! stay finite however deep it is. The same shape, quantisation and seed give the same bytes.
//!
//! Which tensor gets which quantisation follows llama.cpp's `llama_tensor_get_type`.

mod adapter;
mod blocks;
pub mod write;

pub use adapter::adapter;
#[cfg(test)]
pub(crate) use adapter::values;

use super::error::VlmError;
use super::ggml::GgmlType;
use super::gguf::{Gguf, Value};
use super::tokenizer::byte_alphabet;
use blocks::Blocks;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use write::{NewFile, NewTensor};

/// Name of the architecture in the keys of a text file.
const TEXT: &str = "qwen3vl";
const PATCH_PX: usize = 16;
const CHANNELS: usize = 3;
const MERGE: usize = 2;
/// Tokens of a vocabulary are padded to a multiple of this, as in every Qwen.
const VOCABULARY_MULTIPLE: usize = 64;
const TYPE_NORMAL: i64 = 1;
const TYPE_CONTROL: i64 = 3;
const TYPE_UNUSED: i64 = 5;
/// Standard deviation of biases and of the position table.
const BIAS_STD: f32 = 0.02;
/// Norm weights are drawn from 1 - this to 1 + this.
const NORM_SPREAD: f32 = 0.1;

/// Sizes of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The name by which `named` knows it.
    pub name: &'static str,
    /// Width of the text model.
    pub hidden: usize,
    /// Blocks of the text model.
    pub blocks: usize,
    /// Width of the feed-forward layers.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Tokens, unused ones included; more when the vocabulary has more.
    pub vocabulary: usize,
    /// The output head has no weights of its own.
    pub tied: bool,
    /// The vision tower of the pair.
    pub vision: VisionShape,
}

/// Sizes of a vision tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionShape {
    pub(crate) hidden: usize,
    pub(crate) blocks: usize,
    pub(crate) ffn: usize,
    pub(crate) heads: usize,
    /// Side of the position table.
    pub(crate) side: usize,
    pub(crate) deepstack: [usize; 3],
}

impl Shape {
    /// The names that `named` knows.
    pub const NAMES: [&'static str; 4] = ["2b", "4b", "8b", "tiny-k"];

    /// Qwen3-VL's dense models by size, or `tiny-k`: the least that K-quants (blocks of 256) can hold.
    pub fn named(name: &str) -> Option<Self> {
        let vision =
            VisionShape { hidden: 1024, blocks: 24, ffn: 4096, heads: 16, side: 48, deepstack: [5, 11, 17] };
        let b2 = Self {
            name: "2b",
            hidden: 2048,
            blocks: 28,
            ffn: 6144,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            vocabulary: 151_936,
            tied: true,
            vision,
        };
        Some(match name {
            "2b" => b2,
            "4b" => Self { name: "4b", hidden: 2560, blocks: 36, ffn: 9728, heads: 32, ..b2 },
            "8b" => Self {
                name: "8b",
                hidden: 4096,
                blocks: 36,
                ffn: 12_288,
                heads: 32,
                tied: false,
                vision: VisionShape {
                    hidden: 1152,
                    blocks: 27,
                    ffn: 4304,
                    deepstack: [8, 16, 24],
                    ..b2.vision
                },
                ..b2
            },
            "tiny-k" => Self {
                name: "tiny-k",
                hidden: 256,
                blocks: 4,
                ffn: 512,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                vocabulary: 320,
                tied: true,
                vision: VisionShape {
                    hidden: 64,
                    blocks: 4,
                    ffn: 128,
                    heads: 4,
                    side: 8,
                    deepstack: [0, 1, 2],
                },
            },
            _ => return None,
        })
    }
}

/// Quantisation of a text file, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// `Q4_K_M`: K-quants of four bits, some matrices in six.
    Q4KM,
    /// `Q5_K_M`: K-quants of five bits, some matrices in six.
    Q5KM,
    /// `Q6_K`: K-quants of six bits.
    Q6K,
    /// Blocks of 32 integers of eight bits with one scale.
    Q8_0,
    /// Blocks of 32 integers of four bits with one scale.
    Q4_0,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Not quantised.
    F32,
}

impl Quant {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Q4KM, Self::Q5KM, Self::Q6K, Self::Q8_0, Self::Q4_0, Self::F16, Self::BF16, Self::F32];

    /// The name that llama.cpp gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4KM => "Q4_K_M",
            Self::Q5KM => "Q5_K_M",
            Self::Q6K => "Q6_K",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F32 => "F32",
        }
    }

    /// `general.file_type`, llama.h's `llama_ftype`.
    pub const fn file_type(self) -> u64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q5KM => 17,
            Self::Q6K => 18,
            Self::BF16 => 32,
        }
    }

    /// The quantisation of most matrices, and that of the ones that decide the quality.
    const fn kinds(self) -> (GgmlType, GgmlType) {
        match self {
            Self::Q4KM => (GgmlType::Q4K, GgmlType::Q6K),
            Self::Q5KM => (GgmlType::Q5K, GgmlType::Q6K),
            Self::Q6K => (GgmlType::Q6K, GgmlType::Q6K),
            Self::Q8_0 => (GgmlType::Q8_0, GgmlType::Q8_0),
            Self::Q4_0 => (GgmlType::Q4_0, GgmlType::Q6K),
            Self::F16 => (GgmlType::F16, GgmlType::F16),
            Self::BF16 => (GgmlType::Bf16, GgmlType::Bf16),
            Self::F32 => (GgmlType::F32, GgmlType::F32),
        }
    }

    /// Quantisation of `attn_v` and `ffn_down` of block `i`: the `_M` mixes spend more bits on the
    /// first and last eighth and on every third block between.
    const fn more_bits(self, i: usize, blocks: usize) -> GgmlType {
        let (most, best) = self.kinds();
        let chosen = i < blocks / 8 || i >= 7 * blocks / 8 || (i - blocks / 8) % 3 == 2;
        if matches!(self, Self::Q4KM | Self::Q5KM) && chosen { best } else { most }
    }

    /// Quantisation of the vision file's matrices.
    const fn vision(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 | Self::BF16 => GgmlType::F16,
            _ => GgmlType::Q8_0,
        }
    }
}

impl std::str::FromStr for Quant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|q| q.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("one of {} expected", names()))
    }
}

/// What a random model reads and writes.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    tokens: Vec<(String, i64)>,
    merges: Vec<String>,
}

impl Vocabulary {
    /// One token a byte and the control tokens of Qwen3-VL; no merges.
    pub fn bytes() -> Self {
        let mut letters: Vec<(char, u8)> = byte_alphabet().into_iter().collect();
        letters.sort_by_key(|(_, byte)| *byte);
        let mut tokens: Vec<_> = letters.iter().map(|(c, _)| (c.to_string(), TYPE_NORMAL)).collect();
        let control =
            ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"];
        tokens.extend(control.map(|name| (format!("<|{name}|>"), TYPE_CONTROL)));
        Self { tokens, merges: vec![] }
    }

    /// The vocabulary of another text file.
    ///
    /// # Errors
    /// `Model` naming the key.
    pub fn of(file: &Gguf) -> Result<Self, VlmError> {
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let types = file.ints("tokenizer.ggml.token_type")?;
        let mut tokens: Vec<_> = tokens.into_iter().map(str::to_owned).zip(types).collect();
        while tokens.last().is_some_and(|(_, kind)| *kind == TYPE_UNUSED) {
            tokens.pop();
        }
        let merges = file.texts("tokenizer.ggml.merges")?.into_iter().map(str::to_owned).collect();
        Ok(Self { tokens, merges })
    }

    /// Tokens that stand for something.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True for a vocabulary without tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The keys of a text file, padded to `size` tokens with unused ones.
    fn metadata(&self, size: usize) -> Vec<(String, Value)> {
        let unused = (self.tokens.len()..size).map(|i| (format!("[PAD{i}]"), TYPE_UNUSED));
        let (tokens, types): (Vec<_>, Vec<_>) = self
            .tokens
            .iter()
            .cloned()
            .chain(unused)
            .map(|(token, kind)| (Value::Text(token), Value::Int(kind)))
            .unzip();
        let merges = self.merges.iter().cloned().map(Value::Text).collect();
        let id = |name: &str| self.tokens.iter().position(|(t, _)| t == name).unwrap_or(0) as u64;
        let key = |name: &str, value| (format!("tokenizer.ggml.{name}"), value);
        vec![
            key("model", text("gpt2")),
            key("pre", text("qwen2")),
            key("tokens", Value::List(tokens)),
            key("token_type", Value::List(types)),
            key("merges", Value::List(merges)),
            key("eos_token_id", Value::Uint(id("<|im_end|>"))),
            key("padding_token_id", Value::Uint(id("<|endoftext|>"))),
            key("add_bos_token", Value::Bool(false)),
        ]
    }
}

/// Writes a pair; what stands at the paths is replaced.
///
/// # Errors
/// `Io` naming the file.
pub fn write_pair(
    shape: &Shape,
    quant: Quant,
    vocabulary: &Vocabulary,
    seed: u64,
    text: &Path,
    mmproj: &Path,
) -> Result<(), VlmError> {
    let fill = |path: &Path, file: &NewFile, first_stream: u64| {
        file.write(path, |i, out| {
            // A stream of its own for each tensor: what one tensor takes does not move the others.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(first_stream + i as u64);
            Blocks::of(&file.tensors[i], &mut rng).write(out)
        })
        .map_err(|source| VlmError::Io { path: path.to_owned(), source })
    };
    fill(text, &text_file(shape, quant, vocabulary), 0)?;
    fill(mmproj, &vision_file(shape, quant), 1 << 32)
}

fn text(s: &str) -> Value {
    Value::Text(s.to_owned())
}

fn size(n: usize) -> Value {
    Value::Uint(n as u64)
}

/// Header of the text file.
pub fn text_file(s: &Shape, quant: Quant, vocabulary: &Vocabulary) -> NewFile {
    let tokens = s.vocabulary.max(vocabulary.len()).next_multiple_of(VOCABULARY_MULTIPLE);
    let key = |name: &str, value| (format!("{TEXT}.{name}"), value);
    // The real model's [24, 20, 20] of 64 frequencies, scaled.
    let half = s.head_dim / 2;
    let side = half * 20 / 64;
    let sections = [half - 2 * side, side, side, 0].map(|n| Value::Int(n as i64));
    let mut metadata = general(TEXT, "model", s, quant.file_type());
    metadata.extend([
        key("block_count", size(s.blocks)),
        key("context_length", size(262_144)),
        key("embedding_length", size(s.hidden)),
        key("feed_forward_length", size(s.ffn)),
        key("attention.head_count", size(s.heads)),
        key("attention.head_count_kv", size(s.kv_heads)),
        key("attention.key_length", size(s.head_dim)),
        key("attention.value_length", size(s.head_dim)),
        key("attention.layer_norm_rms_epsilon", Value::Float(1e-6)),
        key("rope.freq_base", Value::Float(5e6)),
        key("rope.dimension_sections", Value::List(sections.to_vec())),
        key("n_deepstack_layers", size(s.vision.deepstack.len())),
    ]);
    metadata.extend(vocabulary.metadata(tokens));
    NewFile { metadata, tensors: text_tensors(s, quant, tokens) }
}

fn text_tensors(s: &Shape, quant: Quant, tokens: usize) -> Vec<NewTensor> {
    let (most, best) = quant.kinds();
    let mut t = vec![];
    if s.tied {
        t.push(matrix("token_embd.weight", tokens, s.hidden, best));
    } else {
        t.push(matrix("token_embd.weight", tokens, s.hidden, most));
        t.push(matrix("output.weight", tokens, s.hidden, best));
    }
    t.push(vector("output_norm.weight", s.hidden));
    let (d, q, kv) = (s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim);
    for i in 0..s.blocks {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let better = quant.more_bits(i, s.blocks);
        t.extend([
            vector(name("attn_norm"), d),
            vector(name("attn_q_norm"), s.head_dim),
            vector(name("attn_k_norm"), s.head_dim),
            vector(name("ffn_norm"), d),
            matrix(name("attn_q"), q, d, most),
            matrix(name("attn_k"), kv, d, most),
            matrix(name("attn_v"), kv, d, better),
            matrix(name("attn_output"), d, q, most),
            matrix(name("ffn_gate"), s.ffn, d, most),
            matrix(name("ffn_up"), s.ffn, d, most),
            matrix(name("ffn_down"), d, s.ffn, better),
        ]);
    }
    t
}

/// Header of the vision file.
pub fn vision_file(s: &Shape, quant: Quant) -> NewFile {
    let v = &s.vision;
    let key = |name: &str, value| (format!("clip.vision.{name}"), value);
    let marks = (0..v.blocks).map(|i| Value::Bool(v.deepstack.contains(&i))).collect();
    let halves = || Value::List(vec![Value::Float(0.5); CHANNELS]);
    let kind = quant.vision();
    let file_type = match kind {
        GgmlType::F32 => Quant::F32,
        GgmlType::F16 => Quant::F16,
        _ => Quant::Q8_0,
    };
    let mut metadata = general("clip", "mmproj", s, file_type.file_type());
    metadata.extend([
        ("clip.has_vision_encoder".into(), Value::Bool(true)),
        ("clip.projector_type".into(), text("qwen3vl_merger")),
        ("clip.use_gelu".into(), Value::Bool(true)),
        key("image_size", size(v.side * PATCH_PX)),
        key("patch_size", size(PATCH_PX)),
        key("embedding_length", size(v.hidden)),
        key("feed_forward_length", size(v.ffn)),
        key("block_count", size(v.blocks)),
        key("projection_dim", size(s.hidden)),
        key("attention.head_count", size(v.heads)),
        key("attention.layer_norm_epsilon", Value::Float(1e-6)),
        key("spatial_merge_size", size(MERGE)),
        key("image_mean", halves()),
        key("image_std", halves()),
        key("is_deepstack_layers", Value::List(marks)),
    ]);
    NewFile { metadata, tensors: vision_tensors(s, kind) }
}

fn vision_tensors(s: &Shape, kind: GgmlType) -> Vec<NewTensor> {
    let v = &s.vision;
    let d = v.hidden;
    let patch_kind = if kind == GgmlType::F32 { kind } else { GgmlType::F16 };
    let patch = |name: &str| NewTensor {
        name: name.into(),
        shape: vec![d, CHANNELS, PATCH_PX, PATCH_PX],
        dtype: patch_kind,
    };
    let mut t = vec![
        patch("v.patch_embd.weight"),
        patch("v.patch_embd.weight.1"),
        vector("v.patch_embd.bias", d),
        NewTensor {
            name: "v.position_embd.weight".into(),
            shape: vec![v.side * v.side, d],
            dtype: GgmlType::F32,
        },
    ];
    let norm = |t: &mut Vec<NewTensor>, name: &str, width: usize| {
        t.extend([vector(format!("{name}.weight"), width), vector(format!("{name}.bias"), width)]);
    };
    let linear = |t: &mut Vec<NewTensor>, name: &str, out: usize, inp: usize| {
        t.extend([matrix(format!("{name}.weight"), out, inp, kind), vector(format!("{name}.bias"), out)]);
    };
    for i in 0..v.blocks {
        let name = |part: &str| format!("v.blk.{i}.{part}");
        norm(&mut t, &name("ln1"), d);
        norm(&mut t, &name("ln2"), d);
        linear(&mut t, &name("attn_qkv"), 3 * d, d);
        linear(&mut t, &name("attn_out"), d, d);
        linear(&mut t, &name("ffn_up"), v.ffn, d);
        linear(&mut t, &name("ffn_down"), d, v.ffn);
    }
    let wide = d * MERGE * MERGE;
    norm(&mut t, "v.post_ln", d);
    linear(&mut t, "mm.0", wide, wide);
    linear(&mut t, "mm.2", s.hidden, wide);
    for i in v.deepstack {
        norm(&mut t, &format!("v.deepstack.{i}.norm"), wide);
        linear(&mut t, &format!("v.deepstack.{i}.fc1"), wide, wide);
        linear(&mut t, &format!("v.deepstack.{i}.fc2"), s.hidden, wide);
    }
    t
}

fn general(architecture: &str, kind: &str, s: &Shape, file_type: u64) -> Vec<(String, Value)> {
    vec![
        ("general.architecture".into(), text(architecture)),
        ("general.type".into(), text(kind)),
        ("general.name".into(), Value::Text(format!("random-{}", s.name))),
        ("general.file_type".into(), Value::Uint(file_type)),
        ("general.quantization_version".into(), Value::Uint(2)),
    ]
}

/// A matrix; where its rows are no multiple of the quantisation's block it is F16 (the 4304 wide rows
/// of the 8B vision tower are such), as llama.cpp's converter does.
fn matrix(name: impl Into<String>, out: usize, inp: usize, dtype: GgmlType) -> NewTensor {
    let dtype = if inp.is_multiple_of(dtype.block()) { dtype } else { GgmlType::F16 };
    NewTensor { name: name.into(), shape: vec![out, inp], dtype }
}

fn vector(name: impl Into<String>, len: usize) -> NewTensor {
    NewTensor { name: name.into(), shape: vec![len], dtype: GgmlType::F32 }
}

#[cfg(test)]
mod tests;
