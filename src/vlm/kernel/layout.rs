//! How tiles lie in memory: 16 rows of weights, in units of 64 or 256 values of depth.
//!
//! In a unit the scales come first, then the integers, block by block of 32 values. The bytes of a
//! block stand as `[group of 4 values][row][value]`, so that 64 adjacent bytes are four values of each
//! of the sixteen rows.
//!
//! | kind | unit | bytes of a unit |
//! | --- | --- | --- |
//! | Q8 | 64 | scale f16 x 16, for 2 blocks; q + 128 in 8 bits |
//! | Q4 | 64 | scale f16 x 16, for 2 blocks; q in nibbles (low: groups 0..4, high: groups 4..8) |
//! | Q4K | 256 | d, dmin f16 x 16; scales and mins u8 x 16, for 8 blocks; nibbles as Q4 |
//! | Q5K | 256 | as Q4K, and behind the nibbles of all blocks the fifth bits: 64 bytes a block, bit g of group g |
//! | S8 | 256 | d f32 x 16; scales i8 x 16, for 16 half blocks; q + 128 in 8 bits |
//! | Q6K | 256 | d f16 x 16 and 32 bytes of nothing; scales i8 x 16, for 16 half blocks; nibbles as Q4; 128 bytes a block of 2-bit highs: byte pair g % 2, bits 2 (g / 2) of group g |

use crate::ggml::GgmlType;

/// Rows of a tile: the 32-bit lanes of a 512-bit register.
pub const TILE_ROWS: usize = 16;
/// Values of depth that share a scale of activations.
pub(super) const BLOCK: usize = 32;
/// Values of depth that a K-quant's d and dmin are for.
pub(super) const SUPERBLOCK: usize = 256;
/// Bytes that are four values of sixteen rows.
pub(super) const GROUP: usize = 4 * TILE_ROWS;

/// How a tile's weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Q8,
    Q4,
    Q4K,
    Q5K,
    Q6K,
    S8,
}

impl Kind {
    /// The kind that holds a quantisation of ggml without loss, if there is one.
    pub(super) const fn of(dtype: GgmlType) -> Option<Self> {
        Some(match dtype {
            GgmlType::Q8_0 | GgmlType::Q5_0 | GgmlType::Iq4Nl => Self::Q8,
            GgmlType::Q4_0 => Self::Q4,
            GgmlType::Q4K => Self::Q4K,
            GgmlType::Q5K => Self::Q5K,
            GgmlType::Q6K | GgmlType::Q3K | GgmlType::Iq3S | GgmlType::Iq3Xxs => Self::Q6K,
            GgmlType::Iq4Xs | GgmlType::Iq2S | GgmlType::Iq2Xs | GgmlType::Iq2Xxs => Self::S8,
            _ => return None,
        })
    }

    /// Values of depth in a unit.
    pub(super) const fn unit(self) -> usize {
        match self {
            Self::Q8 | Self::Q4 => 64,
            Self::Q4K | Self::Q5K | Self::Q6K | Self::S8 => SUPERBLOCK,
        }
    }

    /// Bytes of a unit before the integers.
    pub(super) const fn head_bytes(self) -> usize {
        match self {
            Self::Q8 | Self::Q4 => 64,
            Self::Q4K | Self::Q5K => 64 + 2 * 8 * TILE_ROWS,
            Self::Q6K | Self::S8 => 64 + 16 * TILE_ROWS,
        }
    }

    /// Bytes of a block's main integers: bytes or nibbles.
    pub(super) const fn block_bytes(self) -> usize {
        match self {
            Self::Q8 | Self::S8 => 8 * GROUP,
            _ => 4 * GROUP,
        }
    }

    /// Bytes of a block's high bits, which stand behind the integers of all blocks.
    pub(super) const fn high_bytes(self) -> usize {
        match self {
            Self::Q5K => GROUP,
            Self::Q6K => 2 * GROUP,
            _ => 0,
        }
    }

    /// Where a block's main integers are, in bytes from the start of its unit.
    pub(super) const fn main_at(self, block: usize) -> usize {
        self.head_bytes() + block * self.block_bytes()
    }

    /// Where a block's high bits are, in bytes from the start of its unit.
    pub(super) const fn high_at(self, block: usize) -> usize {
        self.main_at(self.unit() / BLOCK) + block * self.high_bytes()
    }

    /// Bytes of a unit, a multiple of 64.
    pub(super) const fn unit_bytes(self) -> usize {
        self.high_at(self.unit() / BLOCK)
    }
}
