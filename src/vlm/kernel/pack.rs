//! Brings ggml's blocks into tiles, and single rows back.
//!
//! Types that have no kind of their own are brought into one that holds their very values: `Q5_0` and `IQ4_NL` into bytes,
//! `Q3_K`, `IQ3_S` and `IQ3_XXS` into six bits, the other IQ types into bytes with scales of the kind of `Q6_K`.
//!
//! The layouts of the blocks: ggml-quants.h and ggml-quants.c of ggml-org/ggml.

use super::layout::{BLOCK, GROUP, Kind, TILE_ROWS};
use crate::ggml::GgmlType;
use crate::ggml::values::{Block, Superblock, block, scale, superblock};
use half::f16;
use rayon::prelude::*;

/// 64 bytes that start at a multiple of 64: a cache line, a register, a row of a tile register.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
pub(super) struct Line(pub(super) [u8; 64]);

/// A matrix `[n, k]` of quantised weights in tiles.
pub struct Packed {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(super) kind: Kind,
    lines: Vec<Line>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({:?} [{}, {}])", self.kind, self.n, self.k)
    }
}

/// A unit of one row while it is brought into its tile, in the common form:
/// value = scale(block) * q - min(block).
struct Unit {
    q: [u8; 256],
    /// The row's own bytes of the head; see `layout`.
    d: [u8; 4],
    scales: [u8; 16],
    mins: [u8; 8],
}

impl Packed {
    /// Packs the blocks of a tensor; `None` when its kind or its sizes have no tiles.
    pub fn pack(dtype: impl Into<GgmlType>, bytes: &[u8], n: usize, k: usize) -> Option<Self> {
        let dtype = dtype.into();
        let kind = kind_of(dtype, bytes)?;
        let row_bytes = k / dtype.block() * dtype.block_bytes();
        if !n.is_multiple_of(TILE_ROWS) || !k.is_multiple_of(kind.unit()) || bytes.len() != n * row_bytes {
            return None;
        }
        let units = k / kind.unit();
        let tile_lines = units * kind.unit_bytes() / 64;
        let mut lines = vec![Line([0; 64]); n / TILE_ROWS * tile_lines];
        let unit_source = row_bytes / units;
        lines.par_chunks_mut(tile_lines).enumerate().for_each(|(tile, lines)| {
            let out: &mut [u8] = bytemuck::cast_slice_mut(lines);
            for row in 0..TILE_ROWS {
                let source = &bytes[(tile * TILE_ROWS + row) * row_bytes..][..row_bytes];
                let units = source.chunks_exact(unit_source).zip(out.chunks_exact_mut(kind.unit_bytes()));
                for (source, out) in units {
                    read_unit(dtype, kind, source).write(kind, row, out);
                }
            }
        });
        Some(Self { n, k, kind, lines })
    }

    /// Bytes that `pack` makes of a matrix `[n, k]`; `None` where it makes no tiles.
    pub(crate) fn bytes_for(dtype: GgmlType, n: usize, k: usize) -> Option<usize> {
        let kind =
            Kind::of(dtype).filter(|kind| n.is_multiple_of(TILE_ROWS) && k.is_multiple_of(kind.unit()))?;
        Some(n / TILE_ROWS * (k / kind.unit()) * kind.unit_bytes())
    }

    /// Number of tiles.
    pub const fn tiles(&self) -> usize {
        self.n / TILE_ROWS
    }

    /// Bytes in memory.
    pub const fn bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// The bytes of one tile, aligned to 64.
    pub(super) fn tile(&self, tile: usize) -> &[u8] {
        let bytes = self.k / self.kind.unit() * self.kind.unit_bytes();
        &bytemuck::cast_slice(&self.lines)[tile * bytes..][..bytes]
    }

    /// Dequantises one row into `out`, `[k]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let tile = self.tile(row / TILE_ROWS);
        let units = tile.chunks_exact(self.kind.unit_bytes()).zip(out.chunks_exact_mut(self.kind.unit()));
        for (unit, out) in units {
            for (i, value) in out.iter_mut().enumerate() {
                *value = value_at(self.kind, unit, row % TILE_ROWS, i);
            }
        }
    }
}

/// The kind that holds these blocks without loss: of six bits only where every scale is an f16, which half of a tiny one
/// need not be.
fn kind_of(dtype: GgmlType, bytes: &[u8]) -> Option<Kind> {
    let kind = Kind::of(dtype)?;
    let is_half = |s: &[u8]| f16::from_f32(scale(dtype, s)).to_f32() == scale(dtype, s);
    let widens = kind == Kind::Q6K
        && dtype.is_of_superblocks()
        && !bytes.chunks_exact(dtype.block_bytes()).all(is_half);
    Some(if widens { Kind::S8 } else { kind })
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// One value of one row of a unit.
fn value_at(kind: Kind, unit: &[u8], row: usize, i: usize) -> f32 {
    let (block, group, lane) = (i / BLOCK, i % BLOCK / 4, i % 4);
    let main = &unit[kind.main_at(block)..];
    let nibble = |at: usize| main[at] >> (4 * (group / 4)) & 15;
    let place = row * 4 + lane;
    let low = |g: usize| nibble(g % 4 * GROUP + place);
    let high_start = kind.high_at(block);
    match kind {
        Kind::Q8 => {
            half_at(unit, (block * TILE_ROWS + row) * 2) * (f32::from(main[group * GROUP + place]) - 128.0)
        }
        Kind::Q4 => half_at(unit, (block * TILE_ROWS + row) * 2) * (f32::from(low(group)) - 8.0),
        Kind::Q4K | Kind::Q5K => {
            let high = if kind == Kind::Q5K { unit[high_start + place] >> group & 1 } else { 0 };
            let scale = half_at(unit, row * 2) * f32::from(unit[64 + block * TILE_ROWS + row]);
            let min = half_at(unit, 32 + row * 2) * f32::from(unit[64 + (8 + block) * TILE_ROWS + row]);
            scale * f32::from(low(group) | high << 4) - min
        }
        Kind::Q6K => {
            let high = unit[high_start + group % 2 * GROUP + place] >> (2 * (group / 2)) & 3;
            let scale = f32::from(unit[64 + i / 16 * TILE_ROWS + row] as i8);
            half_at(unit, row * 2) * scale * (f32::from(low(group) | high << 4) - 32.0)
        }
        Kind::S8 => {
            let d = f32::from_le_bytes([0, 1, 2, 3].map(|i| unit[row * 4 + i]));
            let scale = f32::from(unit[64 + i / 16 * TILE_ROWS + row] as i8);
            d * scale * (f32::from(main[group * GROUP + place]) - 128.0)
        }
    }
}

impl Unit {
    /// Signed values from `at` on, as unsigned ones that are too large by `over`.
    fn put_signed(&mut self, at: usize, values: &[i8], over: u8) {
        for (q, value) in self.q[at..].iter_mut().zip(values) {
            *q = over.wrapping_add(*value as u8);
        }
    }

    /// Puts the row's values where its tile wants them.
    fn write(&self, kind: Kind, row: usize, out: &mut [u8]) {
        match kind {
            Kind::Q8 | Kind::Q4 => {
                for block in 0..2 {
                    out[(block * TILE_ROWS + row) * 2..][..2].copy_from_slice(&self.d[block * 2..][..2]);
                }
            }
            Kind::Q4K | Kind::Q5K => {
                out[row * 2..][..2].copy_from_slice(&self.d[..2]);
                out[32 + row * 2..][..2].copy_from_slice(&self.d[2..]);
                for block in 0..8 {
                    out[64 + block * TILE_ROWS + row] = self.scales[block];
                    out[64 + (8 + block) * TILE_ROWS + row] = self.mins[block];
                }
            }
            Kind::Q6K | Kind::S8 => {
                let width = if kind == Kind::S8 { 4 } else { 2 };
                out[row * width..][..width].copy_from_slice(&self.d[..width]);
                for half in 0..16 {
                    out[64 + half * TILE_ROWS + row] = self.scales[half];
                }
            }
        }
        let (mains, highs) = (kind.head_bytes(), kind.unit() / BLOCK * kind.block_bytes());
        let (main, high) = out[mains..].split_at_mut(highs);
        for (block, q) in self.q[..kind.unit()].as_chunks::<BLOCK>().0.iter().enumerate() {
            // Four values of a group at a time: one word.
            let word = |g: usize| u32::from_le_bytes([q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3]]);
            let main = &mut main[block * kind.block_bytes()..][..kind.block_bytes()];
            let mut put = |g: usize, word: u32| {
                main[g * GROUP + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
            };
            if matches!(kind, Kind::Q8 | Kind::S8) {
                (0..8).for_each(|g| put(g, word(g)));
                continue;
            }
            (0..4).for_each(|g| put(g, word(g) & 0x0f0f_0f0f | (word(g + 4) & 0x0f0f_0f0f) << 4));
            let high = &mut high[block * kind.high_bytes()..][..kind.high_bytes()];
            for (side, high) in high.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let bits = match kind {
                    Kind::Q5K => (0..8).fold(0, |bits, g| bits | (word(g) >> 4 & 0x0101_0101) << g),
                    _ => (0..4).fold(0, |bits, i| bits | (word(side + 2 * i) >> 4 & 0x0303_0303) << (2 * i)),
                };
                high[4 * row..][..4].copy_from_slice(&bits.to_le_bytes());
            }
        }
    }
}

/// Reads one unit of one row from ggml's blocks.
fn read_unit(dtype: GgmlType, kind: Kind, s: &[u8]) -> Unit {
    let mut u = Unit { q: [0; 256], d: [0; 4], scales: [0; 16], mins: [0; 8] };
    if dtype.is_of_blocks() {
        for (i, s) in s.chunks_exact(dtype.block_bytes()).enumerate() {
            let Block { d, q } = block(dtype, s);
            u.d[i * 2..][..2].copy_from_slice(&d);
            u.put_signed(i * BLOCK, &q, 128);
        }
        return u;
    }
    if dtype.is_of_superblocks() {
        let Superblock { d, scales, q } = superblock(dtype, s);
        u.scales = scales.map(|scale| scale as u8);
        if kind == Kind::S8 {
            u.d = d.to_le_bytes();
            u.put_signed(0, &q, 128);
        } else {
            // An f16 holds it: `kind_of` has looked.
            u.d[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            u.put_signed(0, &q, 32);
        }
        return u;
    }
    match kind {
        Kind::Q8 => {
            for (block, s) in s.chunks_exact(34).enumerate() {
                u.d[block * 2..][..2].copy_from_slice(&s[..2]);
                for (q, v) in u.q[block * BLOCK..].iter_mut().zip(&s[2..]) {
                    *q = v.wrapping_add(128);
                }
            }
        }
        Kind::Q4 => {
            for (block, s) in s.chunks_exact(18).enumerate() {
                u.d[block * 2..][..2].copy_from_slice(&s[..2]);
                for i in 0..16 {
                    u.q[block * BLOCK + i] = s[2 + i] & 15;
                    u.q[block * BLOCK + 16 + i] = s[2 + i] >> 4;
                }
            }
        }
        Kind::Q4K | Kind::Q5K => {
            u.d.copy_from_slice(&s[..4]);
            read_scales(&s[4..16], &mut u);
            let high_bytes = if kind == Kind::Q5K { 32 } else { 0 };
            let (high, low) = s[16..].split_at(high_bytes);
            for (pair, (q, low)) in u.q.chunks_exact_mut(64).zip(low.chunks_exact(32)).enumerate() {
                let (first, second) = q.split_at_mut(32);
                for ((first, second), low) in first.iter_mut().zip(second).zip(low) {
                    (*first, *second) = (low & 15, low >> 4);
                }
                for (l, high) in high.iter().enumerate() {
                    q[l] |= (high >> (2 * pair) & 1) << 4;
                    q[32 + l] |= (high >> (2 * pair + 1) & 1) << 4;
                }
            }
        }
        Kind::Q6K => {
            let (ql, qh, scales) = (&s[..128], &s[128..192], &s[192..208]);
            u.scales.copy_from_slice(scales);
            u.d[..2].copy_from_slice(&s[208..210]);
            for (i, q) in u.q.chunks_exact_mut(32).enumerate() {
                let (big, quarter) = (i / 4, i % 4);
                let low = &ql[big * 64 + quarter % 2 * 32..][..32];
                for ((q, low), high) in q.iter_mut().zip(low).zip(&qh[big * 32..][..32]) {
                    *q = low >> (4 * (quarter / 2)) & 15 | (high >> (2 * quarter) & 3) << 4;
                }
            }
        }
        Kind::S8 => unreachable!("no type of ggml has this form by itself"),
    }
    u
}

/// The eight 6-bit scales and minima of a K-quant's superblock (`get_scale_min_k4`).
fn read_scales(packed: &[u8], u: &mut Unit) {
    for j in 0..8 {
        (u.scales[j], u.mins[j]) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
        };
    }
}
