//! AVX2: tiles with activations, half a tile (eight rows of weights) at a time.
//!
//!     weights of 4 to 6 bits    maddubs: unsigned bytes with signed bytes, pairs added to 16 bits; sums stay
//!                               there as long as they fit, then madd with ones adds pairs to 32 bits
//!     weights of 8 bits, and    madd: 16-bit weights with 16-bit activations, pairs added to 32 bits
//!     activations of 16 bits
//!
//! maddubs saturates: 8-bit weights with 8-bit activations do not fit it. Their bytes become 16-bit
//! values by a mask (values 0 and 2 of a group) and a shift (1 and 3), which is the order of `pairs`.

use super::activations::{Bits, Head, PANEL};
use super::layout::{Kind, BLOCK, GROUP, TILE_ROWS};
use super::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::ops::Range;

/// Two pages: what a core computes with in the time that memory takes to answer.
const PREFETCH_BYTES: usize = 8 << 10;
/// Rows of weights in a register of 32-bit lanes.
const HALF_ROWS: usize = TILE_ROWS / 2;

/// True when this processor has the instructions.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Multiplies rows of activations with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
pub unsafe fn multiply(w: &Packed, x: &Activations, rows: Range<usize>, tiles: Range<usize>, out: Out) {
    // SAFETY: the caller's.
    unsafe {
        match (w.kind, x.bits) {
            (Kind::Q8, _) => run::<Q8, true>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Eight) => run::<Q4, false>(w, x, rows, tiles, out),
            (Kind::Q4, Bits::Sixteen) => run::<Q4, true>(w, x, rows, tiles, out),
            (Kind::Q4K, Bits::Eight) => run::<Q4K, false>(w, x, rows, tiles, out),
            (Kind::Q4K, Bits::Sixteen) => run::<Q4K, true>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Eight) => run::<Q5K, false>(w, x, rows, tiles, out),
            (Kind::Q5K, Bits::Sixteen) => run::<Q5K, true>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Eight) => run::<Q6K, false>(w, x, rows, tiles, out),
            (Kind::Q6K, Bits::Sixteen) => run::<Q6K, true>(w, x, rows, tiles, out),
        }
    }
}

/// A block of 32 values of eight rows: unsigned bytes, group by group.
type Groups = [__m256i; 8];

/// What makes values of the unsigned q of a block.
#[derive(Clone, Copy)]
struct Scales {
    /// The second one only where halves of a block have scales of their own.
    scale: [__m256; 2],
    /// Zero where a fixed number is taken from q instead.
    min: __m256,
}

/// How values come of the unsigned q.
#[derive(PartialEq)]
enum Form {
    /// value = scale * q - min.
    Minimum,
    /// value = scale * (q - 128).
    Minus128,
    /// value = scale * (q - 32), with a scale for each half of a block.
    HalvesMinus32,
}

/// Reads the blocks of one kind.
trait Read {
    const KIND: Kind;
    const FORM: Form;
    /// Products of a group that fit 16 bits together: groups * 2 * 127 * the largest q < 2^15.
    const GROUPS_IN_16_BITS: usize;

    /// # Safety
    /// `unit` points to a unit of this kind, aligned to 64; `half` is 0 or 1.
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups;

    /// # Safety
    /// As `groups`.
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales;
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<R: Read, const PAIRS: bool>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    for tile in tiles {
        let mut row = rows.start;
        // SAFETY: the caller's; each call takes rows that are left.
        unsafe {
            while row + 16 <= rows.end {
                tile_rows::<R, 16, PAIRS>(w, x, row, tile, out);
                row += 16;
            }
            if row + 8 <= rows.end {
                tile_rows::<R, 8, PAIRS>(w, x, row, tile, out);
                row += 8;
            }
            if row + 4 <= rows.end {
                tile_rows::<R, 4, PAIRS>(w, x, row, tile, out);
                row += 4;
            }
            if row + 2 <= rows.end {
                tile_rows::<R, 2, PAIRS>(w, x, row, tile, out);
                row += 2;
            }
            if row < rows.end {
                tile_rows::<R, 1, PAIRS>(w, x, row, tile, out);
            }
        }
    }
}

/// `ROWS` rows of activations with one tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_rows<R: Read, const ROWS: usize, const PAIRS: bool>(
    w: &Packed,
    x: &Activations,
    row: usize,
    tile: usize,
    out: Out,
) {
    let blocks_per_unit = R::KIND.unit() / BLOCK;
    let (start, step) = x.place(row);
    let end = start + (x.k / BLOCK - 1) * step + ROWS;
    let integers = if PAIRS { x.pairs.len() } else { x.high.len() };
    assert!(row % PANEL + ROWS <= step && end <= x.heads.len() && end * BLOCK <= integers);
    let mut heads = x.heads[start..].as_ptr();
    let integer_bytes = if PAIRS { 2 } else { 1 };
    let first = if PAIRS { x.pairs.as_ptr().cast::<u8>() } else { x.high.as_ptr().cast() };
    let mut integers = first.wrapping_add(start * BLOCK * integer_bytes);
    let mut sums = [[_mm256_setzero_ps(); ROWS]; 2];
    for unit in w.tile(tile).chunks_exact(R::KIND.unit_bytes()) {
        for b in 0..blocks_per_unit {
            prefetch(unit, b * unit.len() / blocks_per_unit..(b + 1) * unit.len() / blocks_per_unit);
            for (half, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk is a whole unit. The pointers stand at a block of the first row, the
                // same blocks of the other rows follow, and the assertion says that all are there.
                unsafe {
                    let q = R::groups(unit.as_ptr(), b, half);
                    let scales = R::scales(unit.as_ptr(), b, half);
                    if PAIRS {
                        add_pairs::<R, ROWS>(&q, scales, heads, integers.cast(), sums);
                    } else {
                        add_bytes::<R, ROWS>(&q, scales, heads, integers.cast(), sums);
                    }
                }
            }
            integers = integers.wrapping_add(step * BLOCK * integer_bytes);
            heads = heads.wrapping_add(step);
        }
    }
    for (half, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            let at = (row + r) * out.stride + tile * TILE_ROWS + half * HALF_ROWS;
            // SAFETY: the caller's.
            unsafe { _mm256_storeu_ps(out.values.add(at), *sum) };
        }
    }
}

/// Asks for the weights that follow some bytes of a unit `PREFETCH_BYTES` later: the processor's own
/// prefetcher stops at every page.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(unit: &[u8], bytes: Range<usize>) {
    for at in bytes.step_by(64) {
        // Past the end of the weights this asks for nothing of use, and does no harm.
        _mm_prefetch::<_MM_HINT_T0>(unit.as_ptr().wrapping_add(at + PREFETCH_BYTES).cast());
    }
}

/// Adds the products of a block of weights with the same block of rows of 8-bit activations.
///
/// # Safety
/// `heads` points to `ROWS` heads, `x` to as many blocks of 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_bytes<R: Read, const ROWS: usize>(
    q: &Groups,
    w: Scales,
    heads: *const Head,
    x: *const i32,
    sums: &mut [__m256; ROWS],
) {
    for (r, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let head = &*heads.wrapping_add(r);
            let x = x.wrapping_add(r.wrapping_mul(BLOCK / 4));
            let scale = _mm256_set1_ps(head.scale);
            *sum = if R::FORM == Form::HalvesMinus32 {
                let first = dot_bytes::<R, 0, 4>(q, x, _mm256_set1_epi32(head.minus_32[0]));
                let second = dot_bytes::<R, 4, 4>(q, x, _mm256_set1_epi32(head.minus_32[1]));
                let sum = fused(first, _mm256_mul_ps(w.scale[0], scale), *sum);
                fused(second, _mm256_mul_ps(w.scale[1], scale), sum)
            } else {
                let dot = dot_bytes::<R, 0, 8>(q, x, _mm256_setzero_si256());
                let sum = fused(dot, _mm256_mul_ps(w.scale[0], scale), *sum);
                _mm256_fnmadd_ps(w.min, _mm256_set1_ps(head.sum), sum)
            };
        }
    }
}

/// `sum + scale * dot`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fused(dot: __m256i, scale: __m256, sum: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum)
}

/// `start` and the products of the groups `FIRST..FIRST + N` of weights with as many groups of bytes.
///
/// # Safety
/// `x` points to the whole block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_bytes<R: Read, const FIRST: usize, const N: usize>(
    q: &Groups,
    x: *const i32,
    start: __m256i,
) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let mut sum = start;
    // Ranges of constants, which the compiler unrolls.
    for run in 0..N / R::GROUPS_IN_16_BITS {
        let mut short = _mm256_setzero_si256();
        for i in 0..R::GROUPS_IN_16_BITS {
            let g = FIRST + run * R::GROUPS_IN_16_BITS + i;
            // SAFETY: the caller's.
            let x = unsafe { _mm256_set1_epi32(x.wrapping_add(g).read_unaligned()) };
            short = _mm256_add_epi16(short, _mm256_maddubs_epi16(q[g], x));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, ones));
    }
    sum
}

/// Adds the products of a block of weights with the same block of rows of 16-bit activations.
///
/// # Safety
/// `heads` points to `ROWS` heads, `x` to as many blocks of 64 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_pairs<R: Read, const ROWS: usize>(
    q: &Groups,
    w: Scales,
    heads: *const Head,
    x: *const i32,
    sums: &mut [__m256; ROWS],
) {
    let mut dots = [_mm256_setzero_si256(); ROWS];
    // Half a block becomes eight registers of 16-bit weights; more would not fit beside the rest.
    for half in 0..2 {
        let mut weights = [_mm256_setzero_si256(); 8];
        for g in 0..4 {
            let q = q[4 * half + g];
            weights[2 * g] = _mm256_and_si256(q, _mm256_set1_epi16(0xff));
            weights[2 * g + 1] = _mm256_srli_epi16::<8>(q);
        }
        for (r, (dot, sum)) in dots.iter_mut().zip(sums.iter_mut()).enumerate() {
            // SAFETY: the caller's.
            unsafe {
                let head = &*heads.wrapping_add(r);
                let x = x.wrapping_add(r.wrapping_mul(BLOCK / 2).wrapping_add(8 * half));
                let mut d = match R::FORM {
                    Form::Minus128 if half == 0 => _mm256_set1_epi32(head.minus_128),
                    Form::HalvesMinus32 => _mm256_set1_epi32(head.minus_32[half]),
                    _ => *dot,
                };
                for (i, weights) in weights.iter().enumerate() {
                    let x = _mm256_set1_epi32(x.wrapping_add(i).read_unaligned());
                    d = _mm256_add_epi32(d, _mm256_madd_epi16(*weights, x));
                }
                *dot = d;
                if R::FORM == Form::HalvesMinus32 || half == 1 {
                    let own = if R::FORM == Form::HalvesMinus32 { half } else { 0 };
                    let scale = _mm256_mul_ps(w.scale[own], _mm256_set1_ps(head.scale));
                    *sum = fused(d, scale, *sum);
                }
                if R::FORM == Form::Minimum && half == 1 {
                    *sum = _mm256_fnmadd_ps(w.min, _mm256_set1_ps(head.sum), *sum);
                }
            }
        }
    }
}

/// Eight f16 as f32.
///
/// # Safety
/// 16 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

/// Eight unsigned bytes as f32.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unsigned(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

/// Eight signed bytes as f32.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn signed(at: *const u8) -> __m256 {
    // SAFETY: the caller's.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

/// The half of a group: 32 bytes.
///
/// # Safety
/// `at` points to a group, aligned to 64.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_group(at: *const u8, half: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_load_si256(at.wrapping_add(half * GROUP / 2).cast()) }
}

/// The eight groups of 32 nibbles: low nibbles are groups 0..4, high ones 4..8.
///
/// # Safety
/// 256 bytes, aligned to 64, can be read at `at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(at: *const u8, half: usize) -> Groups {
    let mask = _mm256_set1_epi8(15);
    let mut q = [_mm256_setzero_si256(); 8];
    for g in 0..4 {
        // SAFETY: the caller's.
        let bytes = unsafe { half_group(at.wrapping_add(g * GROUP), half) };
        q[g] = _mm256_and_si256(bytes, mask);
        q[g + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
    }
    q
}

struct Q8;
struct Q4;
struct Q4K;
struct Q5K;
struct Q6K;

/// Where a block's main integers are, in bytes from the start of its unit.
const fn main_at(kind: Kind, block: usize) -> usize {
    kind.head_bytes() + block * kind.block_bytes()
}

/// Where a block's high bits are, in bytes from the start of its unit.
const fn high_at(kind: Kind, block: usize) -> usize {
    main_at(kind, kind.unit() / BLOCK) + block * kind.high_bytes()
}

impl Read for Q8 {
    const KIND: Kind = Kind::Q8;
    const FORM: Form = Form::Minus128;
    // Two products alone do not fit; bytes are never multiplied with bytes.
    const GROUPS_IN_16_BITS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        let at = unit.wrapping_add(main_at(Self::KIND, block));
        let mut q = [_mm256_setzero_si256(); 8];
        for (g, q) in q.iter_mut().enumerate() {
            // SAFETY: the caller's; the offsets are those of `layout`.
            *q = unsafe { half_group(at.wrapping_add(g * GROUP), half) };
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe { halves(unit.wrapping_add(2 * (block * TILE_ROWS + half * HALF_ROWS))) };
        Scales { scale: [scale; 2], min: _mm256_setzero_ps() }
    }
}

impl Read for Q4 {
    const KIND: Kind = Kind::Q4;
    const FORM: Form = Form::Minimum;
    const GROUPS_IN_16_BITS: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe { nibbles(unit.wrapping_add(main_at(Self::KIND, block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe { halves(unit.wrapping_add(2 * (block * TILE_ROWS + half * HALF_ROWS))) };
        Scales { scale: [scale; 2], min: _mm256_mul_ps(scale, _mm256_set1_ps(8.0)) }
    }
}

/// Scales and minima of a block of Q4K and Q5K.
///
/// # Safety
/// `unit` points to the head of such a unit.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn k_scales(unit: *const u8, block: usize, half: usize) -> Scales {
    let row = half * HALF_ROWS;
    // SAFETY: the caller's; the offsets are those of `layout`.
    unsafe {
        let scale = unsigned(unit.wrapping_add(64 + block * TILE_ROWS + row));
        let min = unsigned(unit.wrapping_add(64 + (8 + block) * TILE_ROWS + row));
        let scale = _mm256_mul_ps(halves(unit.wrapping_add(2 * row)), scale);
        let min = _mm256_mul_ps(halves(unit.wrapping_add(32 + 2 * row)), min);
        Scales { scale: [scale; 2], min }
    }
}

impl Read for Q4K {
    const KIND: Kind = Kind::Q4K;
    const FORM: Form = Form::Minimum;
    const GROUPS_IN_16_BITS: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        unsafe { nibbles(unit.wrapping_add(main_at(Self::KIND, block)), half) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { k_scales(unit, block, half) }
    }
}

impl Read for Q5K {
    const KIND: Kind = Kind::Q5K;
    const FORM: Form = Form::Minimum;
    const GROUPS_IN_16_BITS: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, fifth) = unsafe {
            let q = nibbles(unit.wrapping_add(main_at(Self::KIND, block)), half);
            (q, half_group(unit.wrapping_add(high_at(Self::KIND, block)), half))
        };
        for (g, q) in q.iter_mut().enumerate() {
            let bit = _mm256_set1_epi8((1u8 << g) as i8);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);
            *q = _mm256_or_si256(*q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: the caller's.
        unsafe { k_scales(unit, block, half) }
    }
}

impl Read for Q6K {
    const KIND: Kind = Kind::Q6K;
    const FORM: Form = Form::HalvesMinus32;
    const GROUPS_IN_16_BITS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn groups(unit: *const u8, block: usize, half: usize) -> Groups {
        let mask = _mm256_set1_epi8(0x30);
        let high = unit.wrapping_add(high_at(Self::KIND, block));
        // SAFETY: the caller's; the offsets are those of `layout`.
        let (mut q, high) = unsafe {
            let q = nibbles(unit.wrapping_add(main_at(Self::KIND, block)), half);
            (q, [half_group(high, half), half_group(high.wrapping_add(GROUP), half)])
        };
        for (side, h) in high.into_iter().enumerate() {
            // Groups side, side + 2, side + 4, side + 6 hold bits 0, 2, 4, 6 of their byte.
            let bits = [_mm256_slli_epi16::<4>(h), _mm256_slli_epi16::<2>(h), h, _mm256_srli_epi16::<2>(h)];
            for (i, bits) in bits.into_iter().enumerate() {
                let q = &mut q[side + 2 * i];
                *q = _mm256_or_si256(*q, _mm256_and_si256(bits, mask));
            }
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scales(unit: *const u8, block: usize, half: usize) -> Scales {
        // SAFETY: as above.
        let scale = unsafe {
            let d = halves(unit.wrapping_add(2 * half * HALF_ROWS));
            let at = unit.wrapping_add(64 + 2 * block * TILE_ROWS + half * HALF_ROWS);
            [_mm256_mul_ps(d, signed(at)), _mm256_mul_ps(d, signed(at.wrapping_add(TILE_ROWS)))]
        };
        Scales { scale, min: _mm256_setzero_ps() }
    }
}
