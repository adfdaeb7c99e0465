//! Vectors of queries: a lane is one query, and what is done to a vector is done to each of its queries alone. For products
//! of widened weights (`kernel/widened.rs`) a lane is one column.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
const MAGIC: f32 = 12_582_912.0;
/// Below it a power of two is 0 here; the smallest normal one is 2^-126.
const POWER_MIN: f32 = -127.0;
/// Of 2^x - 1 over x, for x from -1/2 to 1/2, the highest first. Source: Cephes, exp2f.c.
const POWERS: [f32; 6] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, std::f32::consts::LN_2];

/// What kernels need of a vector.
///
/// # Safety
/// Every function but those of `Plain` is sound only where the processor has the vector's instructions.
pub(crate) trait Lanes: Copy {
    /// Queries of a vector.
    const COUNT: usize;

    unsafe fn splat(value: f32) -> Self;
    /// `at` points to `COUNT` values.
    unsafe fn load(at: *const f32) -> Self;
    /// `at` points to room for `COUNT` values.
    unsafe fn store(self, at: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Gives `other` where one of both is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// Minus infinity where the query sees no more than `index` keys.
    unsafe fn hide(self, seen: Self, index: f32) -> Self;
    /// 2^n of `n + MAGIC`; 0 for n = -127.
    unsafe fn power_of_shifted(self) -> Self;
    /// The sum of all lanes.
    unsafe fn total(self) -> f32;

    /// 2^x for x up to 0 with a relative error below 2e-7; 0 below -127, NaN of NaN.
    #[inline(always)]
    unsafe fn power(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let x = Self::splat(POWER_MIN).max(self);
            let shifted = x.add(Self::splat(MAGIC));
            let rest = x.sub(shifted.sub(Self::splat(MAGIC)));
            let mut p = Self::splat(POWERS[0]);
            for c in &POWERS[1..] {
                p = p.mul_add(rest, Self::splat(*c));
            }
            p.mul_add(rest, Self::splat(1.0)).mul(shifted.power_of_shifted())
        }
    }
}

/// Sixteen queries.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const COUNT: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_loadu_ps(at)) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, term.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn hide(self, seen: Self, index: f32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let hidden = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(seen.0, _mm512_set1_ps(index));
            Self(_mm512_mask_blend_ps(hidden, self.0, _mm512_set1_ps(f32::NEG_INFINITY)))
        }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: the caller's.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn power_of_shifted(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
}

/// Eight queries.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const COUNT: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_loadu_ps(at)) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, term.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn hide(self, seen: Self, index: f32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let hidden = _mm256_cmp_ps::<_CMP_LE_OQ>(seen.0, _mm256_set1_ps(index));
            Self(_mm256_blendv_ps(self.0, _mm256_set1_ps(f32::NEG_INFINITY), hidden))
        }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn power_of_shifted(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
}

/// Four queries.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

#[cfg(target_arch = "aarch64")]
impl Lanes for Neon {
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vld1q_f32(at)) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { vst1q_f32(at, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Self(vfmaq_f32(term.0, self.0, factor.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's. `vmaxq` would give a NaN of either.
        unsafe { Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn hide(self, seen: Self, index: f32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let hidden = vcleq_f32(seen.0, vdupq_n_f32(index));
            Self(vbslq_f32(hidden, vdupq_n_f32(f32::NEG_INFINITY), self.0))
        }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: the caller's.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn power_of_shifted(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let exponent = vaddq_s32(vreinterpretq_s32_f32(self.0), vdupq_n_s32(127));
            Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
}

/// Four queries on any processor: what its compiler makes of them.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self([0, 1, 2, 3].map(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { at.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { at.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Self([0, 1, 2, 3].map(|i| self.0[i] * factor.0[i] + term.0[i]))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.each(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn hide(self, seen: Self, index: f32) -> Self {
        self.each(seen, |score, seen| if seen <= index { f32::NEG_INFINITY } else { score })
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        self.0.iter().sum()
    }

    #[inline(always)]
    unsafe fn power_of_shifted(self) -> Self {
        Self(self.0.map(|v| f32::from_bits(v.to_bits().wrapping_add(127) << 23)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn powers<L: Lanes>(x: f32) -> Vec<f32> {
        let mut out = vec![0.0; L::COUNT];
        // SAFETY: only vectors that the processor has are asked for; there is room.
        unsafe { L::splat(x).power().store(out.as_mut_ptr()) };
        out
    }

    fn check<L: Lanes>() {
        let mut worst = 0f64;
        for i in 0..126_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp2();
            worst = powers::<L>(x).iter().fold(worst, |w, p| w.max((f64::from(*p) - exact).abs() / exact));
        }
        assert!(worst < 2e-7, "off by {worst}");
        for (x, expected) in [(0.0, 1.0), (-1.0, 0.5), (-200.0, 0.0), (f32::NEG_INFINITY, 0.0)] {
            assert!(powers::<L>(x).iter().all(|p| *p == expected), "2^{x}");
        }
        assert!(powers::<L>(f32::NAN).iter().all(|p| p.is_nan()), "a NaN must not vanish");
    }

    #[test]
    fn powers_are_close() {
        check::<Plain>();
        #[cfg(target_arch = "aarch64")]
        check::<Neon>();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            check::<Avx2>();
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            check::<Avx512>();
        }
    }
}
