//! Tests of the kernels: tiles hold what ggml's blocks say, and every path computes the same.

use super::layout::Kind;
use super::*;
use crate::ggml::GgmlType;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// One that candle quantises for each kind but S8, and all that nobody here quantises.
const KINDS: [GgmlType; 13] = [
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
    GgmlType::Q5_0,
    GgmlType::Q3K,
    GgmlType::Iq4Nl,
    GgmlType::Iq4Xs,
    GgmlType::Iq3S,
    GgmlType::Iq3Xxs,
    GgmlType::Iq2Xs,
    GgmlType::Iq2S,
];

/// A random matrix as candle quantises it, or as random blocks, and in tiles.
fn pair(kind: impl Into<GgmlType>, n: usize, k: usize) -> (Tensor, Packed) {
    let kind = kind.into();
    let Some(dtype) = kind.candle() else { return of_blocks(kind, n, k) };
    let weights = Tensor::randn(0f32, 0.3, (n, k), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&weights, dtype).unwrap();
    let packed = Packed::pack(kind, &quantised.data().unwrap(), n, k).unwrap();
    (quantised.dequantize(&Device::Cpu).unwrap(), packed)
}

/// Random blocks of a type whose scale comes first.
fn of_blocks(kind: GgmlType, n: usize, k: usize) -> (Tensor, Packed) {
    let mut bytes: Vec<u8> =
        Tensor::rand(0f32, 255.99, n * k / kind.block() * kind.block_bytes(), &Device::Cpu)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .map(|v| v as u8)
            .collect();
    let width = kind.values(&with_scale(&bytes, kind, 1.0)).unwrap().iter().map(|v| v * v).sum::<f32>();
    let d = 0.3 / (width / (n * k) as f32).sqrt();
    bytes = with_scale(&bytes, kind, d);
    let values = Tensor::from_vec(kind.values(&bytes).unwrap(), (n, k), &Device::Cpu).unwrap();
    (values, Packed::pack(kind, &bytes, n, k).unwrap())
}

fn with_scale(bytes: &[u8], kind: GgmlType, d: f32) -> Vec<u8> {
    let d = half::f16::from_f32(d).to_le_bytes();
    bytes.chunks_exact(kind.block_bytes()).flat_map(|block| [&d[..], &block[2..]].concat()).collect()
}

/// Scales that an f16 holds no half of are kept in f32.
#[test]
fn the_smallest_scales_are_exact() {
    for kind in [GgmlType::Iq3Xxs, GgmlType::Iq4Xs, GgmlType::Iq2Xxs, GgmlType::Iq4Nl] {
        for d in [2f32.powi(-24), 3.0 * 2f32.powi(-24), 0.25] {
            let bytes: Vec<u8> =
                (0..16 * 256 / kind.block() * kind.block_bytes()).map(|i| (i * 37 % 251) as u8).collect();
            let bytes = with_scale(&bytes, kind, d);
            let packed = Packed::pack(kind, &bytes, 16, 256).unwrap();
            let (mut row, expected) = (vec![0.0; 256], kind.values(&bytes).unwrap());
            for (i, expected) in expected.chunks_exact(256).enumerate() {
                packed.row(i, &mut row);
                assert_eq!(row, expected, "{kind:?} {d}");
            }
        }
    }
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

/// Every number of rows up to a panel's half, a whole panel, and more than one with a rest; one tile, and
/// several; the smallest depth, and more.
#[test]
fn every_path_agrees_with_the_scalar_one_for_all_row_counts() {
    for dtype in KINDS {
        for (n, k) in [(16, 256), (48, 768)] {
            let (_, packed) = pair(dtype, n, k);
            for bits in [Bits::Eight, Bits::Sixteen] {
                for rows in (1..=9).chain([15, 16, 70]) {
                    let x = noise(rows * k);
                    for path in paths_for(&packed, bits) {
                        let shared = packed.shared_on(path, bits);
                        let slow = product_of(Path::Scalar, &packed, &x, bits, shared);
                        let fast = product_of(path, &packed, &x, bits, shared);
                        let gap = fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(
                            gap < 3e-4,
                            "{path:?} {dtype:?} [{n}, {k}] {bits:?} {rows} rows: off by {gap}"
                        );
                    }
                }
            }
        }
    }
}

/// Layers of several kinds share activations: what K-quants need of them serves the others.
#[test]
fn activations_that_share_scales_by_superblocks_serve_every_kind() {
    for dtype in KINDS {
        let (_, packed) = pair(dtype, 32, 512);
        let x = noise(11 * 512);
        let slow = product_of(Path::Scalar, &packed, &x, Bits::Eight, Shared::Superblock);
        for path in Path::available().filter(|path| path.takes(Bits::Eight, Shared::Block)) {
            let fast = product_of(path, &packed, &x, Bits::Eight, Shared::Superblock);
            let gap = fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 3e-4, "{path:?} {dtype:?}: off by {gap}");
        }
    }
}

/// Which rows share a product changes no bit of it, so that batching changes no answer.
#[test]
fn a_row_alone_gives_the_very_bits_that_it_gives_among_others() {
    const K: usize = 256;
    for dtype in KINDS {
        let (_, packed) = pair(dtype, 32, K);
        for bits in [Bits::Eight, Bits::Sixteen] {
            let x = noise(37 * K);
            for path in paths_for(&packed, bits) {
                let alone: Vec<f32> =
                    x.chunks(K).flat_map(|row| product_by(path, &packed, row, bits)).collect();
                for rows in (1..=9).chain([15, 16, 37]) {
                    let together = product_by(path, &packed, &x[..rows * K], bits);
                    assert_eq!(together, alone[..rows * 32], "{path:?} {dtype:?} {bits:?} {rows} rows");
                }
            }
        }
    }
}

/// Chosen tiles alone have the very values that they have among all: a first one, neighbours, a last one.
#[test]
fn chosen_tiles_have_the_values_of_all() {
    const TILES: [usize; 4] = [0, 3, 4, 6];
    let (_, packed) = pair(GgmlDType::Q6K, 7 * TILE_ROWS, 256);
    let x = noise(5 * 256);
    for path in Path::available() {
        let shared = packed.shared_on(path, Bits::Eight);
        let x = quantised(path, &x, 256, Bits::Eight, shared);
        let (mut all, mut some) = (vec![], vec![]);
        packed.multiply_all(&x, &mut all);
        packed.multiply_tiles(&x, &TILES, &mut some);
        for (all, some) in all.chunks(7 * TILE_ROWS).zip(some.chunks(TILES.len() * TILE_ROWS)) {
            for (tile, some) in TILES.into_iter().zip(some.chunks(TILE_ROWS)) {
                assert_eq!(some, &all[tile * TILE_ROWS..][..TILE_ROWS], "{path:?} tile {tile}");
            }
        }
        packed.multiply_tiles(&x, &[], &mut some);
        assert!(some.is_empty());
    }
}

/// Buffers that held other activations, of more rows and another kind, give the very products of fresh ones.
#[test]
fn buffers_are_used_again() {
    const K: usize = 512;
    let (_, packed) = pair(GgmlDType::Q4K, 3 * TILE_ROWS, K);
    let x = noise(33 * K);
    for path in paths_for(&packed, Bits::Sixteen) {
        let mut used = Activations::default();
        let mut values = vec![f32::NAN; 7];
        for (rows, bits) in [(33, Bits::Sixteen), (17, Bits::Eight), (1, Bits::Eight), (18, Bits::Sixteen)] {
            let x = &x[..rows * K];
            used.quantise_for(path, x, K, bits, packed.shared_on(path, bits));
            packed.multiply_all(&used, &mut values);
            assert_eq!(values, product_by(path, &packed, x, bits), "{path:?} {bits:?} {rows} rows");
        }
    }
}

/// Every path quantises to the same integers and heads, of which all sums are made: blocks of noise, of zeros, of one value, of
/// large and of small ones, and a superblock of zeros.
#[test]
fn every_path_quantises_alike() {
    const K: usize = 512;
    let mut x = noise(19 * K);
    x[..32].fill(0.0);
    x[32..64].fill(-1.5);
    x[64..96].iter_mut().for_each(|v| *v *= 1e30);
    x[96..128].iter_mut().for_each(|v| *v *= 1e-30);
    x[256..512].fill(0.0);
    let ways =
        [(Bits::Eight, Shared::Block), (Bits::Eight, Shared::Superblock), (Bits::Sixteen, Shared::Block)];
    for (bits, shared) in ways {
        let slow = quantised(Path::Scalar, &x, K, bits, shared);
        for path in Path::available().filter(|path| path.takes(bits, shared)) {
            let fast = quantised(path, &x, K, bits, shared);
            assert_eq!(fast.heads, slow.heads, "{path:?} {bits:?} {shared:?}");
            for (row, i) in (0..19).flat_map(|row| (0..K).map(move |i| (row, i))) {
                assert_eq!(fast.value(row, i), slow.value(row, i), "{path:?} {bits:?} {row} {i}");
            }
        }
    }
}

/// The largest weights with the largest activations: sums that are kept in 16 bits must not wrap or
/// saturate.
#[test]
fn no_sum_of_the_largest_products_overflows() {
    for dtype in KINDS.into_iter().filter_map(GgmlType::candle) {
        for bits in [Bits::Eight, Bits::Sixteen] {
            for (weight, value) in [(1.0f32, 1.0f32), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
                // One value of the other sign gives a K-quant a minimum, and so the largest q.
                let row: Vec<f32> = (0..256).map(|i| if i % 32 == 0 { -weight } else { weight }).collect();
                let weights = Tensor::from_vec(row.repeat(16), (16, 256), &Device::Cpu).unwrap();
                let quantised = QTensor::quantize(&weights, dtype).unwrap();
                let packed = Packed::pack(dtype, &quantised.data().unwrap(), 16, 256).unwrap();
                let exact: f32 = quantised
                    .dequantize(&Device::Cpu)
                    .unwrap()
                    .get(0)
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
                    .iter()
                    .sum();
                for path in paths_for(&packed, bits) {
                    let out = product_by(path, &packed, &[value; 256], bits);
                    let gap = (out[0] - exact * value).abs();
                    assert!(gap < 0.02, "{path:?} {dtype:?} {bits:?}: {} is off by {gap}", out[0]);
                }
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
        let out = product_by(Path::best(), &packed, &x, bits);
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
            let out = product_by(Path::best(), &packed, &x, bits);
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
    assert_eq!(Kind::of(GgmlType::F32), None);
    for kind in KINDS {
        let (_, packed) = pair(kind, 32, 512);
        assert_eq!(Packed::bytes_for(kind, 32, 512), Some(packed.bytes()));
    }
    assert_eq!(Packed::bytes_for(GgmlType::Iq4Xs, 16, 256).map(|n| n * 8), Some(35328), "8.625 bits a value");
    assert_eq!(Packed::bytes_for(GgmlType::Q4K, 16, 128), None);
}

/// Units of several segments of depth, rows of several pairs and a rest, tiles of several groups and a rest.
#[test]
fn long_products_of_many_rows_agree_with_the_scalar_one() {
    for dtype in [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
        const K: usize = 13 * 256;
        let (_, packed) = pair(dtype, 7 * TILE_ROWS, K);
        let x = noise(101 * K);
        let slow = product_of(Path::Scalar, &packed, &x, Bits::Eight, Shared::Superblock);
        for path in paths_for(&packed, Bits::Eight) {
            let fast = product_of(path, &packed, &x, Bits::Eight, Shared::Superblock);
            let gap = fast.iter().zip(&slow).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 2e-3, "{path:?} {dtype:?}: off by {gap}");
        }
    }
}

/// The paths that take a product of these weights.
fn paths_for(w: &Packed, bits: Bits) -> impl Iterator<Item = Path> {
    Path::available().filter(move |path| path.takes(bits, w.shared_on(*path, bits)))
}

/// A product by a path, of activations that share their scales as that path wants.
fn product_by(path: Path, w: &Packed, x: &[f32], bits: Bits) -> Vec<f32> {
    product_of(path, w, x, bits, w.shared_on(path, bits))
}

fn product_of(path: Path, w: &Packed, x: &[f32], bits: Bits, shared: Shared) -> Vec<f32> {
    let mut values = vec![];
    w.multiply_all(&quantised(path, x, w.k, bits, shared), &mut values);
    values
}

fn quantised(path: Path, x: &[f32], k: usize, bits: Bits, shared: Shared) -> Activations {
    let mut activations = Activations::default();
    activations.quantise_for(path, x, k, bits, shared);
    activations
}

fn noise(n: usize) -> Vec<f32> {
    Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap().to_vec1().unwrap()
}

/// One thread, medians of nine runs of each path in turn, in giga-operations a second (two a product):
/// `cargo test --release -p vlm -- --ignored --nocapture bench_paths_`.
#[test]
#[ignore = "a measurement, for a quiet machine"]
fn bench_paths_in_turn() {
    const N: usize = 2432;
    const K: usize = 2560;
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let kinds = [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K, GgmlDType::Q8_0];
    for (dtype, bits) in
        kinds.map(|kind| (kind, Bits::Eight)).into_iter().chain([(GgmlDType::Q8_0, Bits::Sixteen)])
    {
        let (_, packed) = pair(dtype, N, K);
        for rows in [1, 8, 64, 512] {
            let x = noise(rows * K);
            let paths: Vec<Path> = paths_for(&packed, bits).filter(|path| *path != Path::Scalar).collect();
            let inputs: Vec<Activations> = paths
                .iter()
                .map(|path| quantised(*path, &x, K, bits, packed.shared_on(*path, bits)))
                .collect();
            let (mut times, mut values) = (vec![vec![]; paths.len()], vec![]);
            for _ in 0..9 {
                for (x, times) in inputs.iter().zip(&mut times) {
                    let start = std::time::Instant::now();
                    alone.install(|| packed.multiply_all(x, &mut values));
                    times.push(start.elapsed().as_secs_f64());
                }
            }
            for (path, times) in paths.iter().zip(&mut times) {
                times.sort_by(f64::total_cmp);
                let speed = 2e-9 * (rows * N * K) as f64 / times[4];
                println!("{dtype:?} {bits:?} {rows:3} rows {:12} {speed:6.0}", path.name());
            }
        }
    }
}
