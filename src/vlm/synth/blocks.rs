//! Random blocks of each quantisation, as they lie in a file (layouts: ggml-common.h).
//!
//! Quants are uniform; scales make the mean 0 and the standard deviation the one that is asked for.

use super::write::NewTensor;
use super::{BIAS_STD, NORM_SPREAD};
use crate::ggml::GgmlType;
use half::{bf16, f16};
use rand::RngCore;
use std::io::{self, Write};

/// Bytes drawn at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Scales of K-quants are drawn from this to [`SCALE_MAX`], of 6 bits.
const SCALE_MIN: u8 = 32;
const SCALE_MAX: u8 = 63;
/// Root of the mean square of a uniform scale from [`SCALE_MIN`] to [`SCALE_MAX`].
const SCALE_RMS: f32 = 48.38;

/// The values of one tensor.
pub(super) struct Blocks<'a, R> {
    dtype: GgmlType,
    blocks: usize,
    mean: f32,
    std: f32,
    rng: &'a mut R,
}

impl<'a, R: RngCore> Blocks<'a, R> {
    /// Matrices have variance 1/in, norm weights are about 1, biases and positions small.
    pub(super) fn of(t: &NewTensor, rng: &'a mut R) -> Self {
        let inp: usize = t.shape[1..].iter().product();
        let is_norm = ["norm.weight", "ln1.weight", "ln2.weight", "post_ln.weight"];
        let (mean, std) = if t.shape.len() > 1 && t.name != "v.position_embd.weight" {
            (0.0, 1.0 / (inp as f32).sqrt())
        } else if is_norm.iter().any(|end| t.name.ends_with(end)) {
            (1.0, NORM_SPREAD / 3f32.sqrt())
        } else {
            (0.0, BIAS_STD)
        };
        Self { dtype: t.dtype, blocks: t.elements() / t.dtype.block(), mean, std, rng }
    }

    /// Writes all blocks.
    ///
    /// # Errors
    /// The writer's; `Unsupported` for a quantisation that nothing here asks for.
    pub(super) fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let bytes = self.dtype.block_bytes();
        let mut left = self.blocks;
        let mut chunk = vec![0; CHUNK_BYTES / bytes * bytes];
        let finish = finisher(self.dtype, self.mean, self.std)?;
        while left > 0 {
            let n = left.min(chunk.len() / bytes);
            let part = &mut chunk[..n * bytes];
            self.rng.fill_bytes(part);
            part.chunks_exact_mut(bytes).for_each(&finish);
            out.write_all(part)?;
            left -= n;
        }
        Ok(())
    }
}

/// Turns a block of random bytes into a valid one: scales go over some of the bytes, which also serve
/// as their chance.
type Finish = Box<dyn Fn(&mut [u8])>;

fn finisher(dtype: GgmlType, mean: f32, std: f32) -> io::Result<Finish> {
    // Standard deviation of `n` equally likely neighbouring whole numbers.
    let spread = |n: f32| ((n * n - 1.0) / 12.0).sqrt();
    Ok(match dtype {
        GgmlType::F32 => Box::new(move |b| {
            let x = uniform(u16::from_le_bytes([b[0], b[1]]), mean, std);
            b.copy_from_slice(&x.to_le_bytes());
        }),
        GgmlType::F16 => Box::new(move |b| {
            let x = uniform(u16::from_le_bytes([b[0], b[1]]), mean, std);
            b.copy_from_slice(&f16::from_f32(x).to_le_bytes());
        }),
        GgmlType::Bf16 => Box::new(move |b| {
            let x = uniform(u16::from_le_bytes([b[0], b[1]]), mean, std);
            b.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
        }),
        // d f16, quants: the sign of d takes the mean of -0.5 out.
        GgmlType::Q4_0 => Box::new(move |b| put_signed(b, 0, std / spread(16.0))),
        GgmlType::Q8_0 => Box::new(move |b| put_signed(b, 0, std / spread(256.0))),
        // d f16, dmin f16, 12 bytes of scales and minima, quants 0..=15 (Q5_K: 0..=31).
        GgmlType::Q4K => Box::new(move |b| put_k(b, std / spread(16.0), 7.5)),
        GgmlType::Q5K => Box::new(move |b| put_k(b, std / spread(32.0), 15.5)),
        // 192 bytes of quants -32..=31, 16 scales i8, d f16.
        GgmlType::Q6K => Box::new(move |b| {
            b[192..208].iter_mut().for_each(|s| *s = scale(*s));
            put_signed(b, 208, std / spread(64.0) / SCALE_RMS);
        }),
        other => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("no random {}", other.name())));
        }
    })
}

/// A uniform value of this mean and standard deviation.
fn uniform(chance: u16, mean: f32, std: f32) -> f32 {
    mean + std * 3f32.sqrt() * ((f32::from(chance) + 0.5) / 32768.0 - 1.0)
}

const fn scale(chance: u8) -> u8 {
    SCALE_MIN + chance % (SCALE_MAX - SCALE_MIN + 1)
}

/// A scale of random sign at byte `at`.
fn put_signed(block: &mut [u8], at: usize, d: f32) {
    let d = if block[at] & 1 == 0 { d } else { -d };
    block[at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
}

/// d, dmin and eight pairs of equal scale and minimum: w = d s (q - middle).
fn put_k(block: &mut [u8], d: f32, middle: f32) {
    let d = d / SCALE_RMS;
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(d * middle).to_le_bytes());
    let mut scales = [0; 8];
    scales.iter_mut().zip(&block[4..]).for_each(|(s, chance)| *s = scale(*chance));
    for j in 0..4 {
        let (low, high) = (scales[j], scales[j + 4]);
        block[4 + j] = low | (high >> 4) << 6;
        block[8 + j] = low | (high >> 4) << 6;
        block[12 + j] = (high & 15) | (high & 15) << 4;
    }
}
