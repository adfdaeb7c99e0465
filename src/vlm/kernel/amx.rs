//! Products in AMX's tile registers: one instruction multiplies sixteen rows of activations with sixteen rows of
//! weights, 64 bytes deep, into a register of 16 x 16 sums.
//!
//! ```text
//! superblocks    K-quants with activations of 8 bits, many rows: exact integers for 256 values of depth
//! bf16           weights of any type with activations in bfloat16, for matrices that never meet few rows
//! ```
//!
//! Among [`ROWS_MIN`] rows or more a row has the same bits whatever the others are. They are not those that it has among
//! fewer, which go by AVX-512: that rounds the sum of each block, and AMX that of a whole superblock. Q8 and Q4 stay with
//! AVX-512: a product of theirs is 32 deep, as each block has a scale of its own, and storing its sums takes longer
//! than making them.
//!
//! The standard library has no stable functions for these instructions: they are written in assembly. Their registers
//! belong to nobody else: every block of assembly sets what it adds to, and says what it overwrites.

pub(super) mod bf16;
mod pairs;
mod superblocks;

use super::activations::{LINE, PANEL};
use super::layout::Kind;
use super::pack::Line;
use super::stored::{Q4K, Q5K, Q6K, S8};
use super::{Activations, Out, Packed, avx512};
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::ops::Range;
use std::sync::OnceLock;

/// Bytes of a tile register: sixteen rows of a line.
const REGISTER: usize = PANEL * LINE;
/// Fewer rows than these are left to AVX-512, which unpacks nothing.
pub(super) const ROWS_MIN: usize = 64;
/// Rows whose activations lie in an L2 cache, beside unpacked weights.
pub(super) const ROWS_AT_ONCE: usize = 512;
/// Tiles that one task takes at least, and a multiple of them.
pub(super) const TILES: usize = 4;

/// True when this processor has AMX for bytes and the system lets this process use it.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| avx512::available() && has_amx_int8() && is_permitted())
}

/// Bits 24 and 25 of leaf 7: tiles, and products of bytes (Intel's manual, volume 2, CPUID).
fn has_amx_int8() -> bool {
    const BOTH: u32 = 0b11 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BOTH == BOTH
}

/// Bit 22 of leaf 7.
fn has_amx_bf16() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & 1 << 22 != 0
}

/// Linux gives the 8 kB of tile registers to threads of processes that asked for them
/// (Documentation/arch/x86/xstate.rst).
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and changes what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Multiplies rows of activations with tiles of a K-quant.
///
/// # Panics
/// When the weights are of another kind.
///
/// # Safety
/// The processor is [`available`]; `out` holds all rows and columns named, and nobody else writes them.
pub(super) unsafe fn multiply(
    w: &Packed,
    x: &Activations,
    rows: Range<usize>,
    tiles: Range<usize>,
    out: Out,
) {
    // SAFETY: the caller's.
    unsafe {
        match w.kind {
            Kind::Q4K => superblocks::run::<Q4K>(w, x, rows, tiles, out),
            Kind::Q5K => superblocks::run::<Q5K>(w, x, rows, tiles, out),
            Kind::Q6K => superblocks::run::<Q6K>(w, x, rows, tiles, out),
            Kind::S8 => superblocks::run::<S8>(w, x, rows, tiles, out),
            Kind::Q8 | Kind::Q4 => panic!("activations for K-quants with another kind of weights"),
        }
    }
}

/// The shapes of the eight tile registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Each register's rows and bytes of a row.
    fn new(shapes: [(usize, usize); 8]) -> Self {
        let mut all = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
            (all.rows[i], all.row_bytes[i]) = (rows as u8, bytes as u16);
        }
        all
    }

    /// Gives the registers of this thread these shapes until the guard is dropped.
    ///
    /// # Safety
    /// The processor is [`available`].
    unsafe fn set(&self) -> Configured {
        // SAFETY: the caller's; the instruction reads the 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) };
        Configured
    }
}

/// Tile registers in use, which a thread saves at every switch until they are released.
struct Configured;

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: registers are configured only where there are some.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}
