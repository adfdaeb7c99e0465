//! Adapters with values of their own, for whatever pair: what tests give to jobs.

use super::write::{NewFile, NewTensor};
use crate::adapter::{ALPHA_KEY, AdapterFile, HALVES, KIND_KEY};
use crate::ggml::GgmlType;
use crate::gguf::{Value, hex};
use sha2::{Digest, Sha256};

const RANK: usize = 4;
const ALPHA: f64 = 2.0;

/// A `LoRA` of rank 4 for these matrices, as (name, outputs, inputs): for the tower, the text model, or both. The same
/// seed gives the same bytes, another one other values.
pub fn adapter(seed: usize, matrices: &[(&str, usize, usize)]) -> AdapterFile {
    let text = |s: &str| Value::Text(s.to_owned());
    let metadata = vec![
        ("general.type".to_owned(), text("adapter")),
        ("general.architecture".to_owned(), text("qwen3vl")),
        (KIND_KEY.to_owned(), text("lora")),
        (ALPHA_KEY.to_owned(), Value::Float(ALPHA)),
    ];
    let halves = |(name, out, inp): &(&str, usize, usize)| {
        [vec![RANK, *inp], vec![*out, RANK]]
            .into_iter()
            .zip(HALVES)
            .map(|(shape, half)| NewTensor { name: format!("{name}{half}"), shape, dtype: GgmlType::F32 })
            .collect::<Vec<_>>()
    };
    let file = NewFile { metadata, tensors: matrices.iter().flat_map(halves).collect() };
    let mut bytes = Vec::new();
    file.write_to(&mut bytes, |i, out| {
        let small: Vec<f32> = values(file.tensors[i].elements(), seed + i).iter().map(|v| 0.2 * v).collect();
        out.write_all(bytemuck::cast_slice(&small))
    })
    .expect("memory takes it, and each tensor is filled");
    let sha256 = hex(Sha256::digest(&bytes));
    let name = format!("adapter-{seed}.gguf");
    AdapterFile { name: name.into(), sha256: sha256.into(), bytes: bytes.into() }
}

/// The values of a tensor: from -1 to 1, and different.
pub(crate) fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 50.0 - 1.0).collect()
}
