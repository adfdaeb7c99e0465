//! Which vectors this processor has.

use super::TASK_LANES_MAX;
use super::blocks::{self, Queries};
use super::keys::Keys;
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain};
use super::row;

/// A way to attend, or to multiply widened weights; all give the same but for the rounding of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Vectors of four lanes, as the compiler makes them.
    Plain,
    /// Vectors of four lanes that every arm64 has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Vectors of eight lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Vectors of sixteen lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    /// Those that this processor has, the best one last.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f");
        let all = [(Self::Plain, true), (Self::Avx2, avx2), (Self::Avx512, avx512)];
        all.into_iter().filter_map(|(path, available)| available.then_some(path))
    }

    /// Those that this processor has, the best one last.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [Self::Plain, Self::Neon].into_iter()
    }

    /// Those that this processor has, the best one last.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Plain)
    }

    /// The fastest here.
    pub(crate) fn best() -> Self {
        Self::available().last().unwrap_or(Self::Plain)
    }

    /// Attends.
    ///
    /// # Safety
    /// The path is available; as [`blocks::run`].
    pub(super) unsafe fn attend(
        self,
        q: Queries<'_>,
        keys: &Keys<'_>,
        scratch: &mut Vec<f32>,
        out: (*mut f32, usize),
    ) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Plain => run::<Plain, 4, 2>(q, keys, scratch, out),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => run::<Neon, 8, 3>(q, keys, scratch, out),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(q, keys, scratch, out),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(q, keys, scratch, out),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(q: Queries<'_>, keys: &Keys<'_>, scratch: &mut Vec<f32>, out: (*mut f32, usize)) {
    // SAFETY: the caller's. A third vector would have sums leave the 16 registers.
    unsafe { run::<Avx2, 4, 2>(q, keys, scratch, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn avx512(q: Queries<'_>, keys: &Keys<'_>, scratch: &mut Vec<f32>, out: (*mut f32, usize)) {
    // SAFETY: the caller's.
    unsafe { run::<Avx512, 8, 3>(q, keys, scratch, out) }
}

/// A single row by itself, several in blocks.
///
/// # Safety
/// As [`blocks::run`].
#[inline(always)]
unsafe fn run<L: Lanes, const R: usize, const V: usize>(
    q: Queries<'_>,
    keys: &Keys<'_>,
    scratch: &mut Vec<f32>,
    out: (*mut f32, usize),
) {
    // SAFETY: the caller's; the heads of a row are side by side.
    unsafe {
        if q.rows > 1 {
            return blocks::run::<L, R, V>(q, keys, scratch, TASK_LANES_MAX, out);
        }
        let len = q.heads * q.dim;
        out.0.write_bytes(0, len);
        row::run::<L>(q, keys, scratch, std::slice::from_raw_parts_mut(out.0, len));
    }
}
