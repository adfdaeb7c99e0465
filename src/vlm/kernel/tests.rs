//! Tests of the kernels: tiles hold what ggml's blocks say, and every path computes the same.

use super::layout::Kind;
use super::*;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

const KINDS: [GgmlDType; 5] =
    [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K];

/// A random matrix as candle quantises it, and in tiles.
fn pair(dtype: GgmlDType, n: usize, k: usize) -> (Tensor, Packed) {
    let weights = Tensor::randn(0f32, 0.3, (n, k), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&weights, dtype).unwrap();
    let packed = Packed::pack(dtype, &quantised.data().unwrap(), n, k).unwrap();
    (quantised.dequantize(&Device::Cpu).unwrap(), packed)
}

#[test]
fn tiles_hold_the_very_values() {
    for dtype in KINDS {
        let (expected, packed) = pair(dtype, 32, 512);
        let mut row = vec![0f32; 512];
        for (i, expected) in expected.to_vec2::<f32>().unwrap().into_iter().enumerate() {
            packed.row(i, &mut row);
            let gap = row.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap <= 1e-6, "{dtype:?} row {i} is off by {gap}");
        }
    }
}

#[test]
fn fast_and_scalar_products_agree_for_all_row_counts() {
    for dtype in KINDS {
        for bits in [Bits::Eight, Bits::Sixteen] {
            for rows in [1, 2, 3, 7, 8, 15, 70] {
                let (_, packed) = pair(dtype, 48, 256);
                let x = noise(rows * 256);
                let mut fast = vec![0f32; rows * 48];
                product(&packed, &x, bits, &mut fast);
                let mut slow = vec![0f32; rows * 48];
                let a = Activations::quantise(&x, 256, bits);
                let out = Out { values: slow.as_mut_ptr(), stride: 48 };
                // SAFETY: `slow` holds all rows and columns, and nobody else knows it.
                unsafe { packed.multiply_scalar(&a, 0..rows, 0..3, out) };
                let gap = fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(gap < 2e-4, "{dtype:?} {bits:?} {rows} rows: off by {gap}");
            }
        }
    }
}

#[test]
fn sixteen_bits_leave_no_rounding_to_speak_of() {
    let (weights, packed) = pair(GgmlDType::Q8_0, 64, 192);
    let x = noise(9 * 192);
    let exact =
        Tensor::from_slice(&x, (9, 192), &Device::Cpu).unwrap().matmul(&weights.t().unwrap()).unwrap();
    let exact = exact.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let error = |bits| {
        let mut out = vec![0f32; 9 * 64];
        product(&packed, &x, bits, &mut out);
        let gap: f32 = out.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum();
        (gap / exact.iter().map(|v| v * v).sum::<f32>()).sqrt()
    };
    assert!(error(Bits::Sixteen) < 1e-4, "{}", error(Bits::Sixteen));
    assert!((1e-4..2e-2).contains(&error(Bits::Eight)), "{}", error(Bits::Eight));
}

#[test]
fn what_is_not_finite_stays_visible() {
    for bits in [Bits::Eight, Bits::Sixteen] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (_, packed) = pair(GgmlDType::Q4K, 16, 256);
            let mut x = noise(256);
            x[77] = bad;
            let mut out = vec![0f32; 16];
            product(&packed, &x, bits, &mut out);
            assert!(out.iter().all(|v| !v.is_finite()), "{bits:?} {bad}: {out:?}");
        }
    }
}

#[test]
fn sizes_without_tiles_are_refused() {
    let bytes = vec![0; 32 * 6 * 34];
    assert!(Packed::pack(GgmlDType::Q8_0, &bytes, 32, 192).is_some());
    assert!(Packed::pack(GgmlDType::Q8_0, &bytes, 31, 192).is_none());
    assert!(Packed::pack(GgmlDType::Q8_0, &bytes, 64, 96).is_none());
    assert!(Packed::pack(GgmlDType::Q2K, &bytes, 32, 192).is_none());
    assert_eq!(Kind::of(GgmlDType::F32), None);
}

fn product(w: &Packed, x: &[f32], bits: Bits, out: &mut [f32]) {
    w.multiply_all(&Activations::quantise(x, w.k, bits), out);
}

fn noise(n: usize) -> Vec<f32> {
    Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap().to_vec1().unwrap()
}
