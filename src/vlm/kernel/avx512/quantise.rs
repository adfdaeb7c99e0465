//! Activations for the AVX-512 kernel: the integers that `activations::quantise_panel` defines.

use crate::kernel::activations::{Head, MAGIC};
use crate::kernel::layout::BLOCK;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Quantises the rows of a panel, `k` values each, to integers up to `max`, `span` values by one scale: as
/// bytes or, with `low`, as high * 128 + low; in the order of `LINES` or of blocks. All of the outputs are written.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn panel<const LINES: bool>(
    x: &[f32],
    k: usize,
    span: usize,
    max: f32,
    heads: &mut [MaybeUninit<Head>],
    high: &mut [MaybeUninit<i8>],
    low: Option<&mut [MaybeUninit<i8>]>,
) {
    let rows = x.len() / k;
    let high = high.as_chunks_mut::<BLOCK>().0;
    let mut low = low.map(|low| low.as_chunks_mut::<BLOCK>().0);
    for (row, x) in x.chunks_exact(k).enumerate() {
        let (mut scale, mut inverse) = (0.0, 0.0);
        let blocks = x.as_chunks::<BLOCK>().0;
        for (b, x) in blocks.iter().enumerate() {
            if b.is_multiple_of(span / BLOCK) {
                let of_span = blocks[b..][..span / BLOCK].iter();
                let most = of_span.fold(_mm512_setzero_si512(), |most, x| larger(most, load(x)));
                scale = f32::from_bits(_mm512_reduce_max_epu32(most)) / max;
                inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            }
            let at = b.wrapping_mul(rows).wrapping_add(row);
            let bytes_at = if LINES {
                (b / 2).wrapping_mul(rows).wrapping_add(row).wrapping_mul(2).wrapping_add(b % 2)
            } else {
                at
            };
            let q = load(x).map(|x| integers(x, inverse));
            heads[at].write(Head::new(scale, q.map(|q| _mm512_reduce_add_epi32(q))));
            match &mut low {
                None => put_bytes(q, &mut high[bytes_at]),
                Some(low) => {
                    // Half of a step more, so that what is left has either sign and fits.
                    let h = q.map(|q| _mm512_srai_epi32::<7>(_mm512_add_epi32(q, _mm512_set1_epi32(64))));
                    let l = [0, 1].map(|i| _mm512_sub_epi32(q[i], _mm512_slli_epi32::<7>(h[i])));
                    put_bytes(h, &mut high[bytes_at]);
                    put_bytes(l, &mut low[bytes_at]);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; BLOCK]) -> [__m512; 2] {
    // SAFETY: the two loads read the 32 values.
    [0, 16].map(|at| unsafe { _mm512_loadu_ps(x.as_ptr().wrapping_add(at)) })
}

/// The larger of the bits of magnitudes, lane by lane; those of a NaN stand above all others.
#[inline]
#[target_feature(enable = "avx512f")]
fn larger(most: __m512i, x: [__m512; 2]) -> __m512i {
    let [a, b] = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX)));
    _mm512_max_epu32(most, _mm512_max_epu32(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn integers(x: __m512, inverse: f32) -> __m512i {
    let magic = _mm512_set1_ps(MAGIC);
    let shifted = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(inverse)), magic);
    _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(magic))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put_bytes(q: [__m512i; 2], out: &mut [MaybeUninit<i8>; BLOCK]) {
    for (q, out) in q.into_iter().zip(out.as_chunks_mut::<16>().0) {
        // SAFETY: the chunk has the register's sixteen values.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(q)) };
    }
}
