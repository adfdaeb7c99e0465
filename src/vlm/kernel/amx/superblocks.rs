//! K-quants with 8-bit activations that share a scale over 256 values.
//!
//! ```text
//! unit -> q * scale, in two digits a byte each --.
//! 32 rows of activations ------------------------+--> four registers of sums, 256 deep -> joined -> totals
//!
//! a segment of the depth: a group of tiles is unpacked: 64 rows at a time: unit by unit, tile by tile
//! ```
//!
//! A weight times its scale takes up to fifteen bits. Its two digits are two products, which add up over a whole
//! superblock (`pairs`): sixteen instructions for 32 rows, where a product for each block and its scale would take as
//! many and turn eight times as many sums into floats.

use super::pairs::{Products, Sums};
use super::{Line, Shapes};
use crate::kernel::activations::{LINE, PANEL, Shared, Span};
use crate::kernel::avx512::read::{Integers, ReadK, Unit};
use crate::kernel::layout::{BLOCK, SUPERBLOCK};
use crate::kernel::stored::{Form, Q4K, Q5K, Q6K, S8, Stored};
use crate::kernel::x86::prefetch;
use crate::kernel::{Activations, Out, Packed};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// Rows that are multiplied at once: two registers of activations.
pub(super) const PAIR: usize = 2 * PANEL;
/// Pairs whose activations of a unit, with the unit and the totals of a group, lie in the L1 cache.
const PAIRS: usize = 2;
/// Tiles that read the same activations from there.
const GROUP: usize = 4;
/// Units of depth at most whose digits, of a group, and whose activations, of all rows, lie in the L2 cache.
const SEGMENT: usize = 12;
pub(super) const BLOCKS: usize = SUPERBLOCK / BLOCK;
/// Steps through a superblock, each as deep as a register.
pub(super) const STEPS: usize = SUPERBLOCK / LINE;
/// Lines of a unit's digits: for each step a register of the high ones and one of the low ones.
pub(super) const UNIT: usize = STEPS * 2 * PANEL;

/// Weights times their scales in two digits.
pub(super) trait Digits: ReadK {
    /// Bits of a low digit: weight times scale = high << `BITS` + low.
    const BITS: u32;
    /// True where digits have signs.
    const SIGNED: bool = false;

    /// The high and the low digits of 64 weights: four of each of sixteen rows.
    ///
    /// # Safety
    /// The processor has AVX-512.
    unsafe fn split(q: __m512i, scale: __m512i) -> [__m512i; 2];
}

/// A scale of six bits is split instead of its products: three bits times a weight of up to five fit a byte, so that
/// one product of 16 bits serves two weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_scale(q: __m512i, scale: __m512i) -> [__m512i; 2] {
    let digits = [_mm512_srli_epi32::<3>(scale), _mm512_and_si512(scale, _mm512_set1_epi32(7))];
    digits.map(|digit| _mm512_mullo_epi16(q, in_both_halves(digit)))
}

/// The low sixteen bits of each lane, twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn in_both_halves(lanes: __m512i) -> __m512i {
    let low = _mm512_and_si512(lanes, _mm512_set1_epi32(0xffff));
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(lanes))
}

impl Digits for Q4K {
    const BITS: u32 = 3;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split(q: __m512i, scale: __m512i) -> [__m512i; 2] {
        split_scale(q, scale)
    }
}

impl Digits for Q5K {
    const BITS: u32 = 3;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split(q: __m512i, scale: __m512i) -> [__m512i; 2] {
        split_scale(q, scale)
    }
}

/// With scales of eight bits and a sign the products are split, into `BITS` bits and what stands above them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_product<const BITS: u32>(q: __m512i, over: i32, scale: __m512i) -> [__m512i; 2] {
    let (scale, over) = (in_both_halves(scale), _mm512_set1_epi16(over as i16));
    let low_bytes = _mm512_set1_epi16(0xff);
    let product = |q| _mm512_mullo_epi16(_mm512_sub_epi16(q, over), scale);
    let (even, odd) = (product(_mm512_and_si512(q, low_bytes)), product(_mm512_srli_epi16::<8>(q)));
    // The bytes of `even` where the mask has bits, elsewhere those of `odd`.
    let join = |even, odd| _mm512_ternarylogic_epi32::<0xca>(low_bytes, even, odd);
    let odd_high = _mm512_slli_epi16::<8>(_mm512_srli_epi16::<BITS>(odd));
    let low = _mm512_set1_epi8((1i8 << BITS).wrapping_sub(1));
    [
        join(_mm512_srli_epi16::<BITS>(even), odd_high),
        _mm512_and_si512(join(even, _mm512_slli_epi16::<8>(odd)), low),
    ]
}

impl Digits for Q6K {
    const BITS: u32 = 6;
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split(q: __m512i, scale: __m512i) -> [__m512i; 2] {
        split_product::<6>(q, Self::OVER, scale)
    }
}

impl Digits for S8 {
    const BITS: u32 = 7;
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split(q: __m512i, scale: __m512i) -> [__m512i; 2] {
        split_product::<7>(q, Self::OVER, scale)
    }
}

/// Multiplies rows of activations that share scales by superblocks with tiles.
///
/// # Safety
/// The processor is `available`; `out` holds all rows and columns named, and nobody else writes them.
pub(super) unsafe fn run<R: Digits>(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    assert!(x.shared == Shared::Superblock, "activations whose superblocks share a scale");
    assert!(rows.start.is_multiple_of(PANEL), "rows from the start of a panel on");
    // What is left after whole pairs.
    let whole = rows.start..rows.end - rows.len() % PAIR;
    let rest = whole.end..rows.end;
    let units = w.k / SUPERBLOCK;
    let segment = units.div_ceil(units.div_ceil(SEGMENT));
    ROOM.with_borrow_mut(|room| {
        for first in (0..units).step_by(segment) {
            let units = first..units.min(first + segment);
            for tile in tiles.clone().step_by(GROUP) {
                let tiles = tile..tiles.end.min(tile + GROUP);
                // SAFETY: the caller's; each call takes rows that are left.
                unsafe {
                    let mut group = Group::unpack::<R>(w, units.clone(), tiles, room);
                    for row in whole.clone().step_by(PAIRS * PAIR) {
                        group.multiply::<R>(x, row..whole.end.min(row + PAIRS * PAIR), out);
                    }
                    group.multiply::<R>(x, rest.clone(), out);
                }
            }
        }
    });
}

/// What a thread computes in.
struct Room {
    /// `[unit][tile][step][digit][group of four values]`, of which each is a line.
    digits: [Line; SEGMENT * GROUP * UNIT],
    /// What the blocks of each unit share, `[unit][tile]`.
    shared: [Unit; SEGMENT * GROUP],
    /// Of the pair that is multiplied, and of the one before it.
    sums: [Sums; 2],
    totals: [[[__m512; PAIR]; PAIRS]; GROUP],
}

thread_local! {
    // SAFETY: bytes and numbers, of which zeros are values.
    static ROOM: RefCell<Box<Room>> = RefCell::new(unsafe { Box::new_zeroed().assume_init() });
}

/// Some units of some tiles, unpacked.
struct Group<'a> {
    units: Range<usize>,
    tiles: Range<usize>,
    room: &'a mut Room,
}

impl<'a> Group<'a> {
    /// # Safety
    /// The processor is `available`; the units and tiles are there, and no more of them than there is room for.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn unpack<R: Digits>(
        w: &Packed,
        units: Range<usize>,
        tiles: Range<usize>,
        room: &'a mut Room,
    ) -> Self {
        let of_units = room.digits.chunks_exact_mut(UNIT).zip(&mut room.shared);
        let places = units.clone().flat_map(|u| tiles.clone().map(move |tile| (u, tile)));
        for ((u, tile), (digits, shared)) in places.zip(of_units) {
            let unit = &w.tile(tile)[u * R::KIND.unit_bytes()..][..R::KIND.unit_bytes()];
            prefetch(unit, 0..unit.len());
            // SAFETY: the slice is a whole unit, and the caller's.
            unsafe {
                *shared = R::unit(unit.as_ptr());
                unpack::<R>(unit, digits);
            }
        }
        Self { units, tiles, room }
    }

    /// At most [`PAIRS`] pairs of rows, or less than one.
    ///
    /// # Safety
    /// As `run`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn multiply<R: Digits>(&mut self, x: &Activations, rows: Range<usize>, out: Out) {
        if rows.is_empty() {
            return;
        }
        // SAFETY: the caller's.
        let _configured = unsafe { shapes(rows.len()).set() };
        let Room { digits, shared, sums: [to, from], totals } = &mut *self.room;
        let (mut to, mut from) = (to, from);
        for (r, row) in rows.clone().enumerate() {
            for (tile, totals) in self.tiles.clone().zip(&mut *totals) {
                // SAFETY: the units before these left their totals there.
                let before = (self.units.start > 0).then(|| unsafe { _mm512_loadu_ps(out.at(row, tile)) });
                totals.as_flattened_mut()[r] = before.unwrap_or(_mm512_setzero_ps());
            }
        }
        // The products of a pair run while the sums of the one before it become floats.
        let mut before: Option<Place> = None;
        for (i, u) in self.units.clone().enumerate() {
            for tile in 0..self.tiles.len() {
                let unit = i * self.tiles.len() + tile;
                for (pair, row) in rows.clone().step_by(PAIR).enumerate() {
                    let rows = row..rows.end.min(row + PAIR);
                    let products = Products::new(x, rows.clone(), u, &digits[unit * UNIT..][..UNIT]);
                    // SAFETY: the caller's.
                    unsafe {
                        match before.take() {
                            Some(b) if b.rows.len() == PAIR => {
                                let spans = [0, PANEL].map(|r| x.spans_at(b.rows.start + r, b.u));
                                let totals = &mut totals[b.tile][b.pair];
                                products.run_beside::<R>(to, &shared[b.unit], from, spans, totals);
                            }
                            Some(b) => {
                                products.run::<R>(to);
                                b.add::<R>(x, &shared[b.unit], from, &mut totals[b.tile][b.pair]);
                            }
                            None => products.run::<R>(to),
                        }
                    }
                    before = Some(Place { u, unit, tile, pair, rows });
                    (to, from) = (from, to);
                }
            }
        }
        if let Some(b) = before {
            b.add::<R>(x, &shared[b.unit], from, &mut totals[b.tile][b.pair]);
        }
        for (r, row) in rows.enumerate() {
            for (tile, totals) in self.tiles.clone().zip(&*totals) {
                // SAFETY: the caller's.
                unsafe { _mm512_storeu_ps(out.at(row, tile), totals.as_flattened()[r]) };
            }
        }
    }
}

/// A pair of rows with a unit of a tile.
struct Place {
    u: usize,
    /// Counted in the room; the tile in its group, the pair among those of a call.
    unit: usize,
    tile: usize,
    pair: usize,
    rows: Range<usize>,
}

/// Sums in registers 0 to 3, activations in 4 and 5, weights in 6 and 7. A pair of one panel has a second one of a
/// single row, whose sums nobody reads.
fn shapes(rows: usize) -> Shapes {
    let first = (PANEL.min(rows), LINE);
    let second = (PANEL.min(rows - first.0).max(1), LINE);
    let weights = (PANEL, LINE);
    Shapes::new([first, first, second, second, first, second, weights, weights])
}

/// Unpacks the digits of a unit.
///
/// # Safety
/// `unit` is a whole one, aligned to 64, of a processor that is `available`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<R: Digits>(unit: &[u8], digits: &mut [Line]) {
    for (step, digits) in digits.chunks_exact_mut(2 * PANEL).enumerate() {
        let (high, low) = digits.split_at_mut(PANEL);
        for (b, (high, low)) in high.chunks_mut(BLOCK / 4).zip(low.chunks_mut(BLOCK / 4)).enumerate() {
            // SAFETY: the caller's; rows are whole lines.
            unsafe {
                let Integers { q, scale } = R::integers(unit.as_ptr(), 2 * step + b);
                for (g, (high, low)) in high.iter_mut().zip(low).enumerate() {
                    let digits = R::split(q[g], scale[g / 4]);
                    _mm512_store_si512((&raw mut *high).cast(), digits[0]);
                    _mm512_store_si512((&raw mut *low).cast(), digits[1]);
                }
            }
        }
    }
}

impl Place {
    /// Joins the digits of the sums and adds them to the totals of their rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add<R: Digits>(&self, x: &Activations, unit: &Unit, sums: &Sums, totals: &mut [__m512; PAIR]) {
        let panels = sums.0.iter().zip(totals.as_chunks_mut::<PANEL>().0);
        for (row, ([high, low], totals)) in self.rows.clone().step_by(PANEL).zip(panels) {
            let rows = x.spans_at(row, self.u).iter().zip(totals);
            for ((span, total), (high, low)) in rows.zip(high.iter().zip(low)) {
                // SAFETY: rows of sums are registers of sixteen lanes.
                let [high, low] = [high, low].map(|row| unsafe { _mm512_load_si512(row.as_ptr().cast()) });
                let high = _mm512_sllv_epi32(high, _mm512_set1_epi32(R::BITS as i32));
                let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(high, low));
                let minima = match R::FORM {
                    Form::Minimum => unit.minima_of(span),
                    _ => _mm512_setzero_ps(),
                };
                *total = unit.add(sum, minima, span, *total);
            }
        }
    }
}

impl Unit {
    /// What the minima of a superblock make with a row of activations, but for its scale.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn minima_of(&self, x: &Span) -> __m512 {
        let pairs: &[i32; BLOCKS / 2] = bytemuck::cast_ref(&x.sums);
        let mut minima = _mm512_setzero_si512();
        for (w, x) in self.minima.iter().zip(pairs) {
            minima = _mm512_dpwssd_epi32(minima, *w, _mm512_set1_epi32(*x));
        }
        _mm512_mul_ps(_mm512_cvtepi32_ps(minima), self.d_min)
    }

    /// A row's total with what a superblock adds: the sum of its products, times their scales, less its minima.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, sum: __m512, minima: __m512, x: &Span, total: __m512) -> __m512 {
        _mm512_fmadd_ps(_mm512_fmsub_ps(sum, self.d, minima), _mm512_set1_ps(x.scale), total)
    }
}
