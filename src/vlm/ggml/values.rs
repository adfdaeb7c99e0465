//! The values of types that candle has not, and of those that its blocks leave no fast product for, as whole numbers and
//! their scales: nothing is rounded.
//!
//! ```text
//! IQ4_NL, Q5_0                 32 values   d * q
//! Q3_K, IQ4_XS, IQ3_*, IQ2_*  256 values   d * scale of 16 values * q
//! ```
//!
//! q and scales fit signed bytes, d is exact in f32. Layouts: ggml-common.h and `dequantize_row_*` of ggml-quants.c in
//! ggml-org/ggml.

use super::GgmlType;
use super::grids::{
    IQ2_S_GRID, IQ2_S_LEVELS, IQ2_XS_GRID, IQ2_XS_LEVELS, IQ2_XXS_GRID, IQ2_XXS_LEVELS, IQ3_S_GRID,
    IQ3_S_LEVELS, IQ3_XXS_GRID, IQ3_XXS_LEVELS, even_signs,
};
use half::f16;

/// Values that share a scale of a [`Superblock`].
const SIXTEEN: usize = 16;

/// What the codes of IQ4 types stand for.
const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 256 values of a row: each is d * scale * q.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Superblock {
    pub d: f32,
    /// One for sixteen values.
    pub scales: [i8; 16],
    pub q: [i8; 256],
}

/// 32 values of a row: each is d * q.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// f16, as it stands in the file.
    pub d: [u8; 2],
    pub q: [i8; 32],
}

impl GgmlType {
    /// True for types whose values [`superblock`] reads.
    pub(crate) const fn is_of_superblocks(self) -> bool {
        matches!(
            self,
            Self::Q3K | Self::Iq4Xs | Self::Iq3Xxs | Self::Iq3S | Self::Iq2Xxs | Self::Iq2Xs | Self::Iq2S
        )
    }

    /// True for types whose values [`block`] reads.
    pub(crate) const fn is_of_blocks(self) -> bool {
        matches!(self, Self::Iq4Nl | Self::Q5_0)
    }

    /// The values of whole blocks of a type that is read here; `None` for others.
    pub(crate) fn values(self, bytes: &[u8]) -> Option<Vec<f32>> {
        let mut out = Vec::with_capacity(bytes.len() / self.block_bytes() * self.block());
        if self.is_of_superblocks() {
            for s in bytes.chunks_exact(self.block_bytes()) {
                let Superblock { d, scales, q } = superblock(self, s);
                let sixteens = q.chunks_exact(SIXTEEN).zip(scales);
                out.extend(
                    sixteens
                        .flat_map(|(q, scale)| q.iter().map(move |q| d * (f32::from(scale) * f32::from(*q)))),
                );
            }
        } else if self.is_of_blocks() {
            for s in bytes.chunks_exact(self.block_bytes()) {
                let Block { d, q } = block(self, s);
                out.extend(q.iter().map(|q| f16::from_le_bytes(d).to_f32() * f32::from(*q)));
            }
        } else {
            return None;
        }
        Some(out)
    }
}

/// The values of a block of 32.
pub(crate) fn block(kind: GgmlType, s: &[u8]) -> Block {
    let mut q = [0; 32];
    // The low nibbles are the first half, the high ones the second.
    let nibbles = if kind == GgmlType::Q5_0 { &s[6..] } else { &s[2..] };
    for (i, byte) in nibbles.iter().enumerate() {
        (q[i], q[16 + i]) = ((byte & 15) as i8, (byte >> 4) as i8);
    }
    if kind == GgmlType::Q5_0 {
        let high = u32::from_le_bytes([s[2], s[3], s[4], s[5]]);
        q.iter_mut().enumerate().for_each(|(i, q)| *q += ((high >> i & 1) as i8) * 16 - 16);
    } else {
        q.iter_mut().for_each(|q| *q = IQ4_LEVELS[*q as usize]);
    }
    Block { d: [s[0], s[1]], q }
}

/// The values of a superblock of 256.
pub(crate) fn superblock(kind: GgmlType, s: &[u8]) -> Superblock {
    match kind {
        GgmlType::Q3K => q3_k(s),
        GgmlType::Iq4Xs => iq4_xs(s),
        GgmlType::Iq3Xxs => iq3_xxs(s),
        GgmlType::Iq3S => iq3_s(s),
        GgmlType::Iq2Xxs => iq2_xxs(s),
        GgmlType::Iq2Xs => iq2_xs(s),
        _ => iq2_s(s),
    }
}

/// The d of a superblock: the scale in the file, over what the whole numbers have of it.
pub(crate) fn scale(kind: GgmlType, s: &[u8]) -> f32 {
    let (at, over) = match kind {
        GgmlType::Q3K => (108, 1.0),
        GgmlType::Iq3Xxs => (0, 2.0),
        GgmlType::Iq2Xxs | GgmlType::Iq2Xs | GgmlType::Iq2S => (0, 8.0),
        _ => (0, 1.0),
    };
    f16::from_le_bytes([s[at], s[at + 1]]).to_f32() / over
}

impl Superblock {
    /// One of which the scale alone is known.
    fn of(kind: GgmlType, s: &[u8]) -> Self {
        Self { d: scale(kind, s), scales: [0; 16], q: [0; 256] }
    }

    /// A scale of 32 values from the four bits of a code, which stand for 1, 3, 5, ….
    fn put_scale(&mut self, thirty_two: usize, code: u8) {
        self.scales[2 * thirty_two..][..2].fill(2 * code as i8 + 1);
    }

    /// The same for 16 values.
    fn put_half_scales(&mut self, codes: &[u8]) {
        for (scales, code) in self.scales.chunks_exact_mut(2).zip(codes) {
            (scales[0], scales[1]) = (2 * (code & 15) as i8 + 1, 2 * (code >> 4) as i8 + 1);
        }
    }

    /// The group of `N` values of a code word, in `BITS` each, negative where `signs` has a bit.
    fn put<const N: usize, const BITS: usize>(&mut self, group: usize, word: u16, levels: &[u8], signs: u8) {
        for (i, q) in self.q[N * group..][..N].iter_mut().enumerate() {
            let level = levels[usize::from(word >> (BITS * i)) & ((1 << BITS) - 1)] as i8;
            *q = if signs >> i & 1 == 1 { -level } else { level };
        }
    }
}

/// High bits, two bits, twelve bytes of scales in six bits, d.
fn q3_k(s: &[u8]) -> Superblock {
    let (high, low, packed) = (&s[..32], &s[32..96], &s[96..108]);
    let mut out = Superblock::of(GgmlType::Q3K, s);
    for (i, scale) in out.scales.iter_mut().enumerate() {
        let four = packed[i % 8] >> (4 * (i / 8)) & 15;
        let two = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        *scale = (four | two << 4) as i8 - 32;
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let two = low[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        let is_high = high[i % 32] >> (i / 32) & 1;
        *q = (two | is_high << 2) as i8 - 4;
    }
    out
}

/// d, high bits of the scales, their low nibbles, nibbles.
fn iq4_xs(s: &[u8]) -> Superblock {
    let mut out = Superblock::of(GgmlType::Iq4Xs, s);
    let high = u16::from_le_bytes([s[2], s[3]]);
    for (i, codes) in s[8..].chunks_exact(16).enumerate() {
        let scale = s[4 + i / 2] >> (4 * (i % 2)) & 15 | ((high >> (2 * i) & 3) as u8) << 4;
        out.scales[2 * i..][..2].fill(scale as i8 - 32);
        for (j, code) in codes.iter().enumerate() {
            out.q[32 * i + j] = IQ4_LEVELS[usize::from(code & 15)];
            out.q[32 * i + 16 + j] = IQ4_LEVELS[usize::from(code >> 4)];
        }
    }
    out
}

/// d, code words in eight bits, and for 32 values four signs in seven bits and a scale in four.
///
/// Its levels are even: halved they fit six bits with a sign.
fn iq3_xxs(s: &[u8]) -> Superblock {
    let mut out = Superblock::of(GgmlType::Iq3Xxs, s);
    let levels = IQ3_XXS_LEVELS.map(|level| level / 2);
    for (i, more) in s[66..].as_chunks::<4>().0.iter().enumerate() {
        let more = u32::from_le_bytes(*more);
        out.put_scale(i, (more >> 28) as u8);
        for group in 0..8 {
            let signs = even_signs((more >> (7 * (group / 2)) & 127) as u8) >> (4 * (group % 2));
            let word = IQ3_XXS_GRID[usize::from(s[2 + 8 * i + group])];
            out.put::<4, 3>(8 * i + group, word, &levels, signs);
        }
    }
    out
}

/// d, code words in nine bits (the ninth apart), signs, scales in nibbles.
fn iq3_s(s: &[u8]) -> Superblock {
    let (qs, high, signs, scales) = (&s[2..66], &s[66..74], &s[74..106], &s[106..110]);
    let mut out = Superblock::of(GgmlType::Iq3S, s);
    (0..8).for_each(|i| out.put_scale(i, scales[i / 2] >> (4 * (i % 2)) & 15));
    for (group, code) in qs.iter().enumerate() {
        let ninth = usize::from(high[group / 8] >> (group % 8) & 1);
        let signs = signs[group / 2] >> (4 * (group % 2));
        out.put::<4, 3>(group, IQ3_S_GRID[usize::from(*code) | ninth << 8], &IQ3_S_LEVELS, signs);
    }
    out
}

/// d, and for 32 values four code words in eight bits, their signs in seven bits, and a scale in four.
fn iq2_xxs(s: &[u8]) -> Superblock {
    let mut out = Superblock::of(GgmlType::Iq2Xxs, s);
    for (i, codes) in s[2..].as_chunks::<8>().0.iter().enumerate() {
        let more = u32::from_le_bytes([codes[4], codes[5], codes[6], codes[7]]);
        out.put_scale(i, (more >> 28) as u8);
        for group in 0..4 {
            let signs = even_signs((more >> (7 * group) & 127) as u8);
            out.put::<8, 2>(4 * i + group, IQ2_XXS_GRID[usize::from(codes[group])], &IQ2_XXS_LEVELS, signs);
        }
    }
    out
}

/// d, code words in nine bits with their signs in seven, scales in nibbles.
fn iq2_xs(s: &[u8]) -> Superblock {
    let mut out = Superblock::of(GgmlType::Iq2Xs, s);
    out.put_half_scales(&s[66..]);
    for (group, code) in s[2..66].as_chunks::<2>().0.iter().enumerate() {
        let code = u16::from_le_bytes(*code);
        let word = IQ2_XS_GRID[usize::from(code & 511)];
        out.put::<8, 2>(group, word, &IQ2_XS_LEVELS, even_signs((code >> 9) as u8));
    }
    out
}

/// d, code words in ten bits (the upper two apart), signs, scales in nibbles.
fn iq2_s(s: &[u8]) -> Superblock {
    let (qs, signs, high, scales) = (&s[2..34], &s[34..66], &s[66..74], &s[74..]);
    let mut out = Superblock::of(GgmlType::Iq2S, s);
    out.put_half_scales(scales);
    for (group, (code, signs)) in qs.iter().zip(signs).enumerate() {
        let upper = usize::from(high[group / 4] >> (2 * (group % 4)) & 3);
        out.put::<8, 2>(group, IQ2_S_GRID[usize::from(*code) | upper << 8], &IQ2_S_LEVELS, *signs);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::GgmlType::{
        Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K,
        Q8_0,
    };
    use candle_core::Device;
    use candle_core::quantized::{QStorage, QTensor};
    use safetensors::SafeTensors;
    use std::borrow::Cow;

    /// What gguf-py makes of random blocks, bit for bit; see `fixtures/reference/make_ggml.py`.
    #[test]
    fn values_are_those_of_ggml() {
        let bytes = std::fs::read("../../fixtures/reference/ggml/types.safetensors").unwrap();
        let vectors = SafeTensors::deserialize(&bytes).unwrap();
        for kind in [Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Iq4Nl, Iq4Xs, Q3K, Q5_0] {
            let of = |what: &str| vectors.tensor(&format!("{}.{what}", kind.name())).unwrap().data();
            let expected: Vec<f32> = bytemuck::pod_collect_to_vec(of("values"));
            assert_eq!(expected.len(), 512);
            assert_eq!(kind.values(of("bytes")), Some(expected), "{}", kind.name());
        }
    }

    /// candle's own blocks, which serve the types that are not read here.
    #[test]
    fn values_of_candle_are_those_of_ggml() {
        let bytes = std::fs::read("../../fixtures/reference/ggml/types.safetensors").unwrap();
        let vectors = SafeTensors::deserialize(&bytes).unwrap();
        for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            let of = |what: &str| vectors.tensor(&format!("{}.{what}", kind.name())).unwrap().data();
            let expected: Vec<f32> = bytemuck::pod_collect_to_vec(of("values"));
            let words: Vec<u64> = of("bytes")
                .chunks(8)
                .map(|c| {
                    let mut word = [0; 8];
                    word[..c.len()].copy_from_slice(c);
                    u64::from_le_bytes(word)
                })
                .collect();
            let aligned = &bytemuck::cast_slice::<u64, u8>(&words)[..of("bytes").len()];
            let storage =
                QStorage::from_data(Cow::Borrowed(aligned), &Device::Cpu, kind.candle().unwrap()).unwrap();
            let tensor = QTensor::new(storage, expected.len()).unwrap();
            let found: Vec<f32> = tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                // A minimum is taken off after a rounding here, and with it there.
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs().max(1e-2),
                    "{}: {found} {expected}",
                    kind.name()
                );
            }
        }
    }
}
