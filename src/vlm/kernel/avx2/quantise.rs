//! Activations for the AVX2 kernels: the integers that `activations::quantise_panel` defines.

use crate::kernel::activations::{Head, MAGIC};
use crate::kernel::layout::BLOCK;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Quantises the rows of a panel, `k` values each, to integers up to `max`, `span` values by one scale: as
/// pairs, as bytes, or as both. All of the outputs are written.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn panel(
    x: &[f32],
    k: usize,
    span: usize,
    max: f32,
    heads: &mut [MaybeUninit<Head>],
    mut pairs: Option<&mut [MaybeUninit<i16>]>,
    mut bytes: Option<&mut [MaybeUninit<i8>]>,
) {
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        let (mut scale, mut inverse) = (0.0, 0.0);
        let blocks = x.as_chunks::<BLOCK>().0;
        for (b, x) in blocks.iter().enumerate() {
            if b.is_multiple_of(span / BLOCK) {
                let of_span = blocks[b..][..span / BLOCK].iter();
                let largest = of_span.fold(0, |most, x| largest(&load(x)).max(most));
                scale = f32::from_bits(largest as u32) / max;
                inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            }
            let at = b.wrapping_mul(rows).wrapping_add(row);
            let q = integers(load(x), inverse);
            heads[at].write(Head::new(scale, sums(&q)));
            let halves = [in_16_bits(q[0], q[1]), in_16_bits(q[2], q[3])];
            if let Some(pairs) = &mut pairs {
                put_pairs(halves, &mut pairs.as_chunks_mut::<BLOCK>().0[at]);
            }
            if let Some(bytes) = &mut bytes {
                put_bytes(halves, &mut bytes.as_chunks_mut::<BLOCK>().0[at]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; BLOCK]) -> [__m256; 4] {
    // SAFETY: the four loads read the 32 values.
    [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().wrapping_add(at)) })
}

/// The integers of a block in 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn integers(x: [__m256; 4], inverse: f32) -> [__m256i; 4] {
    let (inverse, magic) = (_mm256_set1_ps(inverse), _mm256_set1_ps(MAGIC));
    x.map(|x| {
        let shifted = _mm256_add_ps(_mm256_mul_ps(x, inverse), magic);
        _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(magic))
    })
}

/// The bits of the largest magnitude of a block, of a NaN when a value is NaN. Without their signs the bits
/// of floats are ordered as the floats are.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: &[__m256; 4]) -> i32 {
    let unsigned = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX)));
    let [a, b, c, d] = unsigned;
    let max = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
    let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
    let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
    let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
    _mm_cvtsi128_si32(max)
}

/// The sums of the integers of each half of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(q: &[__m256i; 4]) -> [i32; 2] {
    let sums = _mm256_hadd_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sums = _mm_hadd_epi32(sums, sums);
    [_mm_extract_epi32::<0>(sums), _mm_extract_epi32::<1>(sums)]
}

/// Sixteen integers in 16 bits, in their order: packing works on the halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn in_16_bits(first: __m256i, second: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(first, second))
}

/// Writes the values of each group in the order 0, 2, 1, 3.
#[inline]
#[target_feature(enable = "avx2")]
fn put_pairs(halves: [__m256i; 2], out: &mut [MaybeUninit<i16>; BLOCK]) {
    for (half, out) in halves.into_iter().zip(out.as_chunks_mut::<16>().0) {
        let half = _mm256_shufflehi_epi16::<0b11_01_10_00>(_mm256_shufflelo_epi16::<0b11_01_10_00>(half));
        // SAFETY: the chunk has the register's sixteen values.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), half) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn put_bytes([first, second]: [__m256i; 2], out: &mut [MaybeUninit<i8>; BLOCK]) {
    let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(first, second));
    // SAFETY: the block has the register's 32 values.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) };
}
