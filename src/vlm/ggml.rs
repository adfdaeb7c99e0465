//! How ggml stores the values of a tensor: the types of its files, by number, name and size.
//!
//! Every type that ggml has is known here, so that a file can be read and talked about; which of them are multiplied
//! is `Gguf::tensor`'s and `Gguf::packed`'s business.
//!
//! Source: `enum ggml_type` of ggml.h, `GGML_QUANT_SIZES` of llama.cpp's gguf-py.

mod grids;
pub(crate) mod values;

use candle_core::quantized::GgmlDType;

/// A type of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are ggml's, see `name`")]
pub enum GgmlType {
    F32,
    F16,
    Bf16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
    Q1_0,
}

/// Number, type, name, values of a block, bytes of a block.
type Row = (u32, GgmlType, &'static str, usize, usize);

const TABLE: [Row; 34] = {
    use GgmlType as T;
    [
        (0, T::F32, "F32", 1, 4),
        (1, T::F16, "F16", 1, 2),
        (2, T::Q4_0, "Q4_0", 32, 18),
        (3, T::Q4_1, "Q4_1", 32, 20),
        (6, T::Q5_0, "Q5_0", 32, 22),
        (7, T::Q5_1, "Q5_1", 32, 24),
        (8, T::Q8_0, "Q8_0", 32, 34),
        (9, T::Q8_1, "Q8_1", 32, 36),
        (10, T::Q2K, "Q2_K", 256, 84),
        (11, T::Q3K, "Q3_K", 256, 110),
        (12, T::Q4K, "Q4_K", 256, 144),
        (13, T::Q5K, "Q5_K", 256, 176),
        (14, T::Q6K, "Q6_K", 256, 210),
        (15, T::Q8K, "Q8_K", 256, 292),
        (16, T::Iq2Xxs, "IQ2_XXS", 256, 66),
        (17, T::Iq2Xs, "IQ2_XS", 256, 74),
        (18, T::Iq3Xxs, "IQ3_XXS", 256, 98),
        (19, T::Iq1S, "IQ1_S", 256, 50),
        (20, T::Iq4Nl, "IQ4_NL", 32, 18),
        (21, T::Iq3S, "IQ3_S", 256, 110),
        (22, T::Iq2S, "IQ2_S", 256, 82),
        (23, T::Iq4Xs, "IQ4_XS", 256, 136),
        (24, T::I8, "I8", 1, 1),
        (25, T::I16, "I16", 1, 2),
        (26, T::I32, "I32", 1, 4),
        (27, T::I64, "I64", 1, 8),
        (28, T::F64, "F64", 1, 8),
        (29, T::Iq1M, "IQ1_M", 256, 56),
        (30, T::Bf16, "BF16", 1, 2),
        (34, T::Tq1_0, "TQ1_0", 256, 54),
        (35, T::Tq2_0, "TQ2_0", 256, 66),
        (39, T::Mxfp4, "MXFP4", 32, 17),
        (40, T::Nvfp4, "NVFP4", 64, 36),
        (41, T::Q1_0, "Q1_0", 128, 18),
    ]
};

/// Numbers that ggml has given up: what they were, for messages.
const GIVEN_UP: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl GgmlType {
    /// The type of a number.
    ///
    /// # Errors
    /// In words, what ggml had under this number, or that nobody here knows it.
    pub fn of(number: u32) -> Result<Self, String> {
        let known = TABLE.iter().find(|row| row.0 == number).map(|row| row.1);
        known.ok_or_else(|| match GIVEN_UP.iter().find(|(given_up, _)| *given_up == number) {
            Some((_, name)) => format!(
                "its type {name} ({number}) was given up by ggml, and no program of today reads it: quantise the model anew"
            ),
            None => format!(
                "its type number {number} is unknown here: the file is damaged, or made by a newer program"
            ),
        })
    }

    fn row(self) -> &'static Row {
        // Each type has one row; a test looks at all of them.
        TABLE.iter().find(|row| row.1 == self).unwrap_or(&TABLE[0])
    }

    /// The number in files.
    pub fn number(self) -> u32 {
        self.row().0
    }

    /// ggml's name, for example `IQ4_XS`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values of a block; rows hold whole blocks.
    pub fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// What candle calls it, where candle can multiply with it.
    pub const fn candle(self) -> Option<GgmlDType> {
        Some(match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q2K => GgmlDType::Q2K,
            Self::Q3K => GgmlDType::Q3K,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
            _ => return None,
        })
    }
}

impl From<GgmlDType> for GgmlType {
    fn from(dtype: GgmlDType) -> Self {
        match dtype {
            GgmlDType::F32 => Self::F32,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q8_1 => Self::Q8_1,
            GgmlDType::Q2K => Self::Q2K,
            GgmlDType::Q3K => Self::Q3K,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            GgmlDType::Q8K => Self::Q8K,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_its_row_and_as_large_as_candle_s() {
        for (number, kind, name, block, bytes) in TABLE {
            assert_eq!(GgmlType::of(number), Ok(kind));
            assert_eq!((kind.number(), kind.name()), (number, name));
            assert!(!GIVEN_UP.iter().any(|(given_up, _)| *given_up == number), "{name}");
            if let Some(dtype) = kind.candle() {
                assert_eq!((block, bytes), (dtype.block_size(), dtype.type_size()), "{name}");
                assert_eq!(GgmlType::from(dtype), kind);
            }
        }
    }

    #[test]
    fn what_is_no_type_is_said_in_words() {
        assert!(GgmlType::of(33).unwrap_err().contains("Q4_0_8_8 (33)"));
        assert!(GgmlType::of(77).unwrap_err().contains("77 is unknown"));
    }
}
