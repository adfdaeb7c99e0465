//! The hot loops of the engine, alone: `cargo bench`. Figures of whole stages come from
//! `inspectd bench`; these tell where a change comes from.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;
use image::RgbImage;
use inspectd::domain::grid::Grid;
use inspectd::recipe::pipeline_from_str;
use std::sync::Arc;
use vlm::attention::{Attended, Heads, Matrix, Parts, Span, attend};
use vlm::image::preprocess;
use vlm::kernel::{Activations, Bits, Packed, Shared};
use vlm::kv::{Arena, KvPrecision};

fn main() {
    divan::main();
}

/// A quarter of a feed-forward matrix of a 4B model.
const N: usize = 9728 / 4;
const K: usize = 2560;

fn noise(n: usize) -> Vec<f32> {
    Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap().to_vec1().unwrap()
}

fn product(bencher: Bencher<'_, '_>, dtype: GgmlDType, bits: Bits, rows: usize) {
    let weights = Tensor::randn(0f32, 0.1, (N, K), &Device::Cpu).unwrap();
    let weights = QTensor::quantize(&weights, dtype).unwrap();
    let weights = Packed::pack(dtype, &weights.data().unwrap(), N, K).unwrap();
    let (mut x, mut out) = (Activations::default(), vec![]);
    x.quantise(&noise(rows * K), K, bits, weights.shared(bits));
    // Items are multiply-adds: divan's items a second are then the kernel's arithmetic.
    let bencher = bencher.counter(ItemsCount::new(rows * N * K));
    bencher.bench_local(|| weights.multiply_all(&x, &mut out));
}

#[divan::bench(args = [1, 8, 16, 64, 512])]
fn q4k(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, GgmlDType::Q4K, Bits::Eight, rows);
}

#[divan::bench(args = [1, 8, 64, 512])]
fn q6k(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, GgmlDType::Q6K, Bits::Eight, rows);
}

#[divan::bench(args = [1, 8, 64, 512])]
fn q8(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, GgmlDType::Q8_0, Bits::Eight, rows);
}

#[divan::bench(args = [1, 64, 512])]
fn q8_sixteen_bits(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, GgmlDType::Q8_0, Bits::Sixteen, rows);
}

#[divan::bench(args = [1, 64, 512])]
fn quantise(bencher: Bencher<'_, '_>, rows: usize) {
    let x = noise(rows * K);
    let bencher = bencher.counter(ItemsCount::new(x.len()));
    let mut quantised = Activations::default();
    bencher.bench_local(|| quantised.quantise(&x, K, Bits::Eight, Shared::Block));
}

/// Attention, whose items are products of a query with a key: each is twice as many multiply-adds as a head has values.
struct Attention {
    heads: Heads,
    rows: usize,
    keys: usize,
    causal: bool,
}

/// A 4B model's.
const TEXT: Heads = Heads { query: 32, kv: 8, dim: 128 };

impl Attention {
    fn pairs(&self) -> usize {
        let hidden = if self.causal { self.rows * (self.rows - 1) / 2 } else { 0 };
        (self.rows * self.keys - hidden) * self.heads.query
    }

    /// The last rows of the keys ask, over what an arena of this precision keeps.
    fn run(&self, bencher: Bencher<'_, '_>, precision: KvPrecision) {
        let Self { heads, rows, keys, causal } = *self;
        let (width, kept) = (heads.query * heads.dim, heads.kv * heads.dim);
        let (q, k, v) = (noise(rows * width), noise(keys * kept), noise(keys * kept));
        let mut arena = Arena::new(1, keys, (heads.kv, heads.dim), precision, &Device::Cpu).unwrap();
        let (mut all, mut parts, mut out) = (Parts::default(), Parts::default(), Attended::default());
        all.push(keys, [], 0, causal);
        arena.write(0, &all, &k, &v).unwrap();
        parts.push(rows, [Span { start: 0, rows: keys - rows }], keys - rows, causal);
        let q = Matrix { values: &q, stride: width, start: 0, heads: heads.dim };
        let [k, v] = arena.kept(0).unwrap();
        let bencher = bencher.counter(ItemsCount::new(self.pairs()));
        bencher.bench_local(|| attend(q, k, v, heads, &parts, &mut out));
    }
}

/// Prefill: as many rows as there are keys.
#[divan::bench(args = [512, 2048])]
fn attention_prefill(bencher: Bencher<'_, '_>, keys: usize) {
    Attention { heads: TEXT, rows: keys, keys, causal: true }.run(bencher, KvPrecision::Half);
}

/// Decode: one row.
#[divan::bench(args = ["f32", "f16", "q8"])]
fn attention_decode(bencher: Bencher<'_, '_>, kept: &str) {
    let precision = KvPrecision::named(kept).unwrap();
    Attention { heads: TEXT, rows: 1, keys: 512, causal: true }.run(bencher, precision);
}

/// A tile of 512x512 pixels in the tower of a 4B model.
#[divan::bench]
fn attention_tower(bencher: Bencher<'_, '_>) {
    let heads = Heads { query: 16, kv: 16, dim: 64 };
    Attention { heads, rows: 1024, keys: 1024, causal: false }.run(bencher, KvPrecision::Single);
}

/// A tile of 512x512 pixels: resize and cut into patches.
#[divan::bench(args = [512, 700])]
fn patches_of_a_tile(bencher: Bencher<'_, '_>, side: u32) {
    let tile = Arc::new(RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8])));
    bencher.bench_local(|| preprocess(&tile, 16, 2, 4096, 512 * 512).unwrap());
}

/// The grid of a 5 MP frame.
#[divan::bench]
fn grid_of_a_frame(bencher: Bencher<'_, '_>) {
    let plate = include_str!("../../pipelines/machined-plate.toml");
    let plate = pipeline_from_str("machined-plate.toml", plate).expect("the pipeline ships");
    bencher.bench_local(|| Grid::new(2448, 2048, &plate.frame, &plate.tiling).unwrap());
}
