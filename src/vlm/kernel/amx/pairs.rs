//! The products of a pair of panels with a unit's digits, and beside them what becomes of the sums of another pair: one of
//! both would wait while the other runs.
//!
//! ```text
//! activations: two registers --.
//! digits: high, low -----------+--> four registers of sums, 256 deep
//! sums of another pair: joined -> floats, less the minima, times the scale -> totals
//! ```

use super::superblocks::{BLOCKS, Digits, PAIR, STEPS, UNIT};
use super::{Line, REGISTER};
use crate::kernel::Activations;
use crate::kernel::activations::{LINE, PANEL, Span};
use crate::kernel::avx512::read::Unit;
use std::arch::asm;
use std::arch::x86_64::__m512;
use std::ops::Range;

/// The sums of a pair of panels: `[panel][digit][row][column]`.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[[[i32; PANEL]; PANEL]; 2]; 2]);

/// A row of another pair: its digits joined, in floats, less its minima, times its scale, added to its total.
macro_rules! row {
    ("tdpbsud", $panel:literal, $row:literal) => {
        concat!(
            "vpslld zmm16, [{others} + ",
            $panel,
            " * 2048 + ",
            $row,
            " * 64], {bits}\n",
            "vpaddd zmm16, zmm16, [{others} + ",
            $panel,
            " * 2048 + 1024 + ",
            $row,
            " * 64]\n",
            "vcvtdq2ps zmm16, zmm16\n",
            "vpxord zmm17, zmm17, zmm17\n",
            "vpdpwssd zmm17, {m0}, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32]{{1to16}}\n",
            "vpdpwssd zmm17, {m1}, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32 + 4]{{1to16}}\n",
            "vpdpwssd zmm17, {m2}, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32 + 8]{{1to16}}\n",
            "vpdpwssd zmm17, {m3}, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32 + 12]{{1to16}}\n",
            "vcvtdq2ps zmm17, zmm17\n",
            "vmulps zmm17, zmm17, {d_min}\n",
            "vfmsub213ps zmm16, {d}, zmm17\n",
            "vmovaps zmm18, [{totals} + ",
            $panel,
            " * 1024 + ",
            $row,
            " * 64]\n",
            "vfmadd231ps zmm18, zmm16, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32 + 16]{{1to16}}\n",
            "vmovaps [{totals} + ",
            $panel,
            " * 1024 + ",
            $row,
            " * 64], zmm18",
        )
    };
    ("tdpbssd", $panel:literal, $row:literal) => {
        concat!(
            "vpslld zmm16, [{others} + ",
            $panel,
            " * 2048 + ",
            $row,
            " * 64], {bits}\n",
            "vpaddd zmm16, zmm16, [{others} + ",
            $panel,
            " * 2048 + 1024 + ",
            $row,
            " * 64]\n",
            "vcvtdq2ps zmm16, zmm16\n",
            "vmulps zmm16, zmm16, {d}\n",
            "vmovaps zmm18, [{totals} + ",
            $panel,
            " * 1024 + ",
            $row,
            " * 64]\n",
            "vfmadd231ps zmm18, zmm16, dword ptr [{spans",
            $panel,
            "} + ",
            $row,
            " * 32 + 16]{{1to16}}\n",
            "vmovaps [{totals} + ",
            $panel,
            " * 1024 + ",
            $row,
            " * 64], zmm18",
        )
    };
}
/// A step of a pair, and the rows of another between its products.
macro_rules! step {
    ($product:tt, $panel:literal, [$a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal, $h:literal]) => {
        concat!(
            "tileloadd tmm4, [{first} + {line}]\n",
            "tileloadd tmm6, [{digits} + {line}]\n",
            $product,
            " tmm0, tmm4, tmm6\n",
            row!($product, $panel, $a),
            "\n",
            row!($product, $panel, $b),
            "\n",
            "tileloadd tmm7, [{digits} + {line} + {register}]\n",
            $product,
            " tmm1, tmm4, tmm7\n",
            row!($product, $panel, $c),
            "\n",
            row!($product, $panel, $d),
            "\n",
            "tileloadd tmm5, [{second} + {line}]\n",
            $product,
            " tmm2, tmm5, tmm6\n",
            row!($product, $panel, $e),
            "\n",
            row!($product, $panel, $f),
            "\n",
            $product,
            " tmm3, tmm5, tmm7\n",
            row!($product, $panel, $g),
            "\n",
            row!($product, $panel, $h),
            "\n",
            "add {first}, {first_step}\n",
            "add {second}, {second_step}\n",
            "add {digits}, 2 * {register}",
        )
    };
}

/// The products of at most [`PAIR`] rows with a unit: where their operands are.
pub(super) struct Products {
    first: *const i8,
    second: *const i8,
    /// Bytes to the next line of the rows of each panel.
    steps: [usize; 2],
    digits: *const Line,
}

impl Products {
    pub(super) fn new(x: &Activations, rows: Range<usize>, u: usize, digits: &[Line]) -> Self {
        assert!(digits.len() == UNIT);
        let panel = |row: usize| {
            let in_panel = PANEL.min(x.rows - row);
            let at = x.integers_at(row, u * BLOCKS);
            (x.high[at..][..STEPS * in_panel * LINE].as_ptr(), in_panel * LINE)
        };
        let first = panel(rows.start);
        let second = if rows.len() > PANEL { panel(rows.start + PANEL) } else { first };
        Self { first: first.0, second: second.0, steps: [first.1, second.1], digits: digits.as_ptr() }
    }

    /// # Safety
    /// The registers are configured for so many rows, as `shapes` does.
    #[inline(always)]
    pub(super) unsafe fn run<R: Digits>(self, sums: &mut Sums) {
        macro_rules! run {
            ($product:literal) => {
                // SAFETY: the caller's. The loads read the lines of both panels and all digits, which are there, and
                // the stores write the sums, whose type has their size.
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "2:",
                        "tileloadd tmm4, [{first} + {line}]",
                        "tileloadd tmm6, [{digits} + {line}]",
                        concat!($product, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{digits} + {line} + {register}]",
                        concat!($product, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{second} + {line}]",
                        concat!($product, " tmm2, tmm5, tmm6"),
                        concat!($product, " tmm3, tmm5, tmm7"),
                        "add {first}, {first_step}",
                        "add {second}, {second_step}",
                        "add {digits}, 2 * {register}",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}], tmm0",
                        "tilestored [{sums} + {line} + {register}], tmm1",
                        "tilestored [{sums} + {line} + 2 * {register}], tmm2",
                        "tilestored [{sums} + {line} + 3 * {register}], tmm3",
                        first = inout(reg) self.first => _,
                        second = inout(reg) self.second => _,
                        digits = inout(reg) self.digits => _,
                        steps = inout(reg) STEPS => _,
                        sums = in(reg) &raw mut *sums,
                        first_step = in(reg) self.steps[0],
                        second_step = in(reg) self.steps[1],
                        line = in(reg) LINE,
                        register = const REGISTER,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack)
                    );
                }
            };
        }
        if R::SIGNED { run!("tdpbssd") } else { run!("tdpbsud") }
    }

    /// The same of a whole pair, and between the products what `add` makes of the sums of another: one of both would
    /// wait while the other runs.
    ///
    /// # Safety
    /// As `run`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn run_beside<R: Digits>(
        self,
        sums: &mut Sums,
        unit: &Unit,
        others: &Sums,
        spans: [&[Span]; 2],
        totals: &mut [__m512; PAIR],
    ) {
        assert!(spans.iter().all(|s| s.len() == PANEL));
        macro_rules! run {
            ($product:tt) => {
                // SAFETY: as of `run`. The rows read the other sums and the spans of both panels, and write the totals.
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        step!($product, 0, [0, 1, 2, 3, 4, 5, 6, 7]),
                        step!($product, 0, [8, 9, 10, 11, 12, 13, 14, 15]),
                        step!($product, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
                        step!($product, 1, [8, 9, 10, 11, 12, 13, 14, 15]),
                        "tilestored [{sums} + {line}], tmm0",
                        "tilestored [{sums} + {line} + {register}], tmm1",
                        "tilestored [{sums} + {line} + 2 * {register}], tmm2",
                        "tilestored [{sums} + {line} + 3 * {register}], tmm3",
                        "/* {m0} {m1} {m2} {m3} {d_min} */",
                        first = inout(reg) self.first => _,
                        second = inout(reg) self.second => _,
                        digits = inout(reg) self.digits => _,
                        sums = in(reg) &raw mut *sums,
                        others = in(reg) &raw const *others,
                        totals = in(reg) totals.as_mut_ptr(),
                        spans0 = in(reg) spans[0].as_ptr(),
                        spans1 = in(reg) spans[1].as_ptr(),
                        first_step = in(reg) self.steps[0],
                        second_step = in(reg) self.steps[1],
                        line = in(reg) LINE,
                        register = const REGISTER,
                        bits = const R::BITS,
                        d = in(zmm_reg) unit.d,
                        d_min = in(zmm_reg) unit.d_min,
                        m0 = in(zmm_reg) unit.minima[0],
                        m1 = in(zmm_reg) unit.minima[1],
                        m2 = in(zmm_reg) unit.minima[2],
                        m3 = in(zmm_reg) unit.minima[3],
                        out("zmm16") _, out("zmm17") _, out("zmm18") _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack)
                    );
                }
            };
        }
        if R::SIGNED { run!("tdpbssd") } else { run!("tdpbsud") }
    }
}
