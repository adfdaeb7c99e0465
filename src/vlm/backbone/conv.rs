//! The convolutions of the backbone, on pictures `[height, width, channels]` in f32.
//!
//! A pointwise convolution is a matrix product of all places. A depthwise one looks at `k * k` places of each channel
//! alone. Both add their bias; what is `activated` is clamped to 0..=6 (`ReLU6`).
//!
//! Padding is TensorFlow's SAME: `total = max((ceil(n / stride) - 1) * stride + k - n, 0)`, the smaller half before.

use multiversion::multiversion;
use std::ops::Range;

/// Channels that are added up side by side; every depthwise layer has a multiple of them.
pub(super) const LANES: usize = 16;

/// A picture of activations, or some of its rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    /// The rows that are here, of `height`.
    pub(super) rows: Range<usize>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// `[rows, width, channels]`.
    pub(super) values: Vec<f32>,
}

impl Map {
    /// All rows of a picture.
    pub(super) fn whole(height: usize, width: usize, channels: usize, values: Vec<f32>) -> Self {
        Self { rows: 0..height, height, width, channels, values }
    }

    /// Makes room for some rows; what was here is forgotten, and the values are to be written.
    pub(super) fn reset(&mut self, rows: Range<usize>, height: usize, width: usize, channels: usize) {
        self.values.resize(rows.len() * width * channels, 0.0);
        *self = Self { rows, height, width, channels, values: std::mem::take(&mut self.values) };
    }

    /// Some of the rows that are here.
    fn part(&self, rows: &Range<usize>) -> &[f32] {
        let row = self.width * self.channels;
        &self.values[(rows.start - self.rows.start) * row..(rows.end - self.rows.start) * row]
    }
}

/// A convolution of one place, or one whose places are laid side by side before: `y = x W + b`.
#[derive(Debug)]
pub(super) struct Pointwise {
    /// `[inputs, outputs]`.
    pub(super) weight: Vec<f32>,
    /// `[outputs]`.
    pub(super) bias: Vec<f32>,
    pub(super) activated: bool,
}

impl Pointwise {
    /// The layer on some rows of `x`.
    pub(super) fn forward(&self, x: &Map, rows: Range<usize>, out: &mut Map) {
        out.reset(rows.clone(), x.height, x.width, self.bias.len());
        self.multiply(x.part(&rows), x.channels, &mut out.values);
    }

    /// The layer on `[places, inputs]` values; `out` is `[places, outputs]`.
    pub(super) fn multiply(&self, x: &[f32], inputs: usize, out: &mut [f32]) {
        let (places, outputs) = (x.len() / inputs, self.bias.len());
        assert!(self.weight.len() == inputs * outputs && out.len() == places * outputs, "sizes of a layer");
        // SAFETY: the strides name exactly the values of the three matrices, whose sizes were just compared.
        unsafe {
            gemm::gemm(
                places,
                outputs,
                inputs,
                out.as_mut_ptr(),
                1,
                outputs as isize,
                false,
                x.as_ptr(),
                1,
                inputs as isize,
                self.weight.as_ptr(),
                1,
                outputs as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        if self.activated {
            add_bias_relu6(out, &self.bias);
        } else {
            add_bias(out, &self.bias);
        }
    }
}

/// A convolution of each channel alone, always activated.
#[derive(Debug)]
pub(super) struct Depthwise {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// `[kernel * kernel, channels]`.
    pub(super) weight: Vec<f32>,
    /// `[channels]`.
    pub(super) bias: Vec<f32>,
}

impl Depthwise {
    /// Rows or columns of padding before the first one.
    fn pad(&self, n: usize) -> usize {
        ((n.div_ceil(self.stride) - 1) * self.stride + self.kernel).saturating_sub(n) / 2
    }

    /// The input rows that some output rows look at.
    pub(super) fn needs(&self, rows: &Range<usize>, height: usize) -> Range<usize> {
        let pad = self.pad(height);
        let end = ((rows.end - 1) * self.stride + self.kernel).saturating_sub(pad).min(height);
        (rows.start * self.stride).saturating_sub(pad)..end
    }

    /// Some output rows; `x` holds what they look at.
    pub(super) fn forward(&self, x: &Map, rows: Range<usize>, out: &mut Map) {
        let (height, width) = (x.height.div_ceil(self.stride), x.width.div_ceil(self.stride));
        out.reset(rows.clone(), height, width, x.channels);
        let (pad_y, pad_x) = (self.pad(x.height), self.pad(x.width));
        let row_of =
            |y: usize| &x.values[(y - x.rows.start) * x.width * x.channels..][..x.width * x.channels];
        let written = out.values.chunks_exact_mut(width * x.channels);
        for (y, out) in rows.zip(written) {
            // The kernel's rows that lie inside the picture, with the picture's rows under them.
            let under = |k: usize| (y * self.stride + k).checked_sub(pad_y).filter(|y| *y < x.height);
            let taps: Vec<(usize, &[f32])> =
                (0..self.kernel).filter_map(|k| Some((k, row_of(under(k)?)))).collect();
            let reach = Reach { kernel: self.kernel, stride: self.stride, pad: pad_x, width: x.width };
            depthwise_row(&taps, &self.weight, &self.bias, reach, out);
        }
    }
}

/// How a depthwise kernel moves along a row.
#[derive(Clone, Copy)]
struct Reach {
    kernel: usize,
    stride: usize,
    pad: usize,
    width: usize,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn depthwise_row(taps: &[(usize, &[f32])], weight: &[f32], bias: &[f32], reach: Reach, out: &mut [f32]) {
    let channels = bias.len();
    for (place, out) in out.chunks_exact_mut(channels).enumerate() {
        let left = place * reach.stride;
        // The kernel's columns that lie inside the picture.
        let first = reach.pad.saturating_sub(left);
        let last = reach.kernel.min(reach.width + reach.pad - left);
        for (lane, (out, bias)) in
            out.as_chunks_mut::<LANES>().0.iter_mut().zip(bias.as_chunks::<LANES>().0).enumerate()
        {
            let mut sum = *bias;
            for (k, row) in taps {
                for column in first..last {
                    let x = &row[(left + column - reach.pad) * channels + lane * LANES..][..LANES];
                    let w = &weight[(k * reach.kernel + column) * channels + lane * LANES..][..LANES];
                    for i in 0..LANES {
                        sum[i] += x[i] * w[i];
                    }
                }
            }
            *out = sum.map(|v| v.clamp(0.0, 6.0));
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_bias_relu6(values: &mut [f32], bias: &[f32]) {
    for row in values.chunks_exact_mut(bias.len()) {
        for (v, b) in row.iter_mut().zip(bias) {
            *v = (*v + b).clamp(0.0, 6.0);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_bias(values: &mut [f32], bias: &[f32]) {
    for row in values.chunks_exact_mut(bias.len()) {
        for (v, b) in row.iter_mut().zip(bias) {
            *v += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition.
    fn plain(layer: &Depthwise, x: &Map) -> Vec<f32> {
        let (height, width) = (x.height.div_ceil(layer.stride), x.width.div_ceil(layer.stride));
        let (pad_y, pad_x) = (layer.pad(x.height), layer.pad(x.width));
        let mut out = vec![];
        for (y, c_x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for c in 0..x.channels {
                let mut sum = layer.bias[c];
                for (ky, kx) in (0..layer.kernel).flat_map(|a| (0..layer.kernel).map(move |b| (a, b))) {
                    let at = |o: usize, k: usize, pad: usize, n: usize| {
                        (o * layer.stride + k).checked_sub(pad).filter(|v| *v < n)
                    };
                    if let (Some(r), Some(col)) = (at(y, ky, pad_y, x.height), at(c_x, kx, pad_x, x.width)) {
                        let value = x.values[(r * x.width + col) * x.channels + c];
                        sum += value * layer.weight[(ky * layer.kernel + kx) * x.channels + c];
                    }
                }
                out.push(sum.clamp(0.0, 6.0));
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn bands_of_a_depthwise_layer_are_the_layer(
            kernel in prop::sample::select(vec![3usize, 5]),
            stride in 1usize..=2,
            (height, width) in (2usize..14, 2usize..14),
            seed in any::<u64>(),
            cut in 0.0..1.0f64,
        ) {
            let mut state = seed | 1;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0
            };
            let mut some = |n: usize| (0..n).map(|_| random()).collect::<Vec<f32>>();
            let channels = 2 * LANES;
            let weight = some(kernel * kernel * channels);
            let layer = Depthwise { kernel, stride, weight, bias: some(channels) };
            let x = Map::whole(height, width, channels, some(height * width * channels));
            let rows = height.div_ceil(stride);
            let middle = (rows as f64 * cut) as usize;
            let (mut out, mut all) = (Map::default(), vec![]);
            for band in [0..middle, middle..rows].into_iter().filter(|band| !band.is_empty()) {
                let needed = layer.needs(&band, height);
                let seen = Map { rows: needed.clone(), values: x.part(&needed).to_vec(), ..x.clone() };
                layer.forward(&seen, band, &mut out);
                all.extend_from_slice(&out.values);
            }
            let plain = plain(&layer, &x);
            prop_assert_eq!(all.len(), plain.len());
            prop_assert!(all.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}
