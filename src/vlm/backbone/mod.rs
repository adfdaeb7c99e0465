//! A small convolutional network whose features say what a cell of 16 x 16 pixels looks like.
//!
//! ```text
//! RGB [H, W, 3] -> stem (stride 2) -> blocks: expand -> depthwise -> project (+ input)
//!                                       |  after the last of stride 8: 2x2 mean --+
//!                                       '- after the last of stride 16 -----------+--> [H/16, W/16, 152]
//! ```
//!
//! EfficientNet-Lite0, trained on `ImageNet`, up to stride 16, batch norms folded: `fixtures/model/backbone.safetensors`,
//! whose metadata holds the plan. The weights are part of the program, so that what was learned with them can name
//! them, and no file of theirs can be missing or exchanged.
//!
//! A block goes through in bands of rows that stay in the caches: its widest activations are six times as wide as its
//! input. Rows that two bands look at are computed twice.

mod conv;
mod level;

pub use level::level;

use super::cells::Cells;
use conv::{Depthwise, LANES, Map, Pointwise};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The weights, and the plan in their metadata.
const FILE: &[u8] = include_bytes!("../../../fixtures/model/backbone.safetensors");
/// Pixels of a cell's side.
pub const CELL_PX: usize = 16;
/// Features of a cell.
pub const FEATURES: usize = 152;
/// What a band's widest activations may take: they are written and read again while they lie in an L2 cache.
const BAND_BYTES: usize = 512 << 10;
/// The mean and the deviation of the training pictures, in shares of 255.
const MEAN: f32 = 0.498;
const DEVIATION: f32 = 0.502;

/// The network, ready to run.
static BACKBONE: LazyLock<Backbone> =
    LazyLock::new(|| Backbone::read(FILE).expect("the weights in the program were tested"));

/// The features of a picture: `values` is `[height, width, 3]`, RGB, 0..=255; both sides are multiples of 32.
///
/// # Panics
/// When the sizes do not fit.
pub fn features(values: &[f32], height: usize, width: usize) -> Cells {
    BACKBONE.features(values, height, width)
}

/// sha256 (hex) of the weights' file.
pub fn sha256() -> &'static str {
    &BACKBONE.sha256
}

#[derive(Deserialize)]
struct Plan {
    stem: Layer,
    blocks: Vec<PlannedBlock>,
    taps: Taps,
}

#[derive(Deserialize)]
struct Taps {
    stride8: usize,
    stride16: usize,
}

#[derive(Deserialize)]
struct PlannedBlock {
    residual: bool,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    name: String,
    kernel: usize,
    stride: usize,
    cin: usize,
    cout: usize,
    act: bool,
}

/// An inverted residual: wide inside, narrow between.
#[derive(Debug)]
struct Block {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    project: Pointwise,
    residual: bool,
}

#[derive(Debug)]
struct Backbone {
    /// 3 x 3 places of 3 channels, laid side by side.
    stem: Pointwise,
    blocks: Vec<Block>,
    /// The blocks whose outputs are features.
    taps: [usize; 2],
    sha256: String,
}

/// Activations inside a block, used again from band to band.
#[derive(Default)]
struct Scratch {
    wide: Map,
    seen: Map,
    narrow: Map,
}

impl Backbone {
    fn read(file: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(|e| e.to_string())?;
        let plan = metadata.metadata().as_ref().and_then(|m| m.get("plan")).ok_or("there is no plan")?;
        let plan: Plan = serde_json::from_str(plan).map_err(|e| e.to_string())?;
        let tensors = SafeTensors::deserialize(file).map_err(|e| e.to_string())?;
        let blocks = plan.blocks.iter().map(|b| block(&tensors, b)).collect::<Result<_, _>>()?;
        let sha256 = Sha256::digest(file).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self {
            stem: stem(&tensors, &plan.stem)?,
            blocks,
            taps: [plan.taps.stride8, plan.taps.stride16],
            sha256,
        })
    }

    fn features(&self, values: &[f32], height: usize, width: usize) -> Cells {
        assert!(values.len() == height * width * 3, "a picture of {height} x {width} px");
        assert!(height.is_multiple_of(2 * CELL_PX) && width.is_multiple_of(2 * CELL_PX), "whole cells");
        let mut x = self.first(values, height, width);
        let mut scratch = Scratch::default();
        let mut taps = [const { None }; 2];
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &mut scratch);
            for (tap, _) in self.taps.iter().enumerate().filter(|(_, at)| **at == i) {
                taps[tap] = Some(x.clone());
            }
        }
        let [fine, coarse] = taps.map(Option::unwrap_or_default);
        join(&fine, &coarse)
    }

    /// The stem, row by row: `[height / 2, width / 2, channels]`.
    fn first(&self, values: &[f32], height: usize, width: usize) -> Map {
        let (rows, columns) = (height / 2, width / 2);
        let channels = self.stem.bias.len();
        // Stride 2 of even sides: all of the padding is one row and one column after the last pixel.
        let padded = (width + 1) * 3;
        let mut picture = vec![0.0; (height + 1) * padded];
        for (to, from) in picture.chunks_exact_mut(padded).zip(values.chunks_exact(width * 3)) {
            to.iter_mut().zip(from).for_each(|(to, v)| *to = (v / 255.0 - MEAN) / DEVIATION);
        }
        let mut out = vec![0.0; rows * columns * channels];
        let mut places = Vec::with_capacity(columns * 27);
        for (y, out) in out.chunks_exact_mut(columns * channels).enumerate() {
            places.clear();
            for x in 0..columns {
                for ky in 0..3 {
                    let at = (2 * y + ky) * padded + 6 * x;
                    places.extend_from_slice(&picture[at..at + 9]);
                }
            }
            self.stem.multiply(&places, 27, out);
        }
        Map::whole(rows, columns, channels, out)
    }
}

impl Block {
    fn forward(&self, x: Map, scratch: &mut Scratch) -> Map {
        let Scratch { wide, seen, narrow } = scratch;
        let stride = self.depthwise.stride;
        let (height, width) = (x.height / stride, x.width / stride);
        let channels = self.project.bias.len();
        let mut out = vec![0.0; height * width * channels];
        let row_bytes = stride * x.width * self.depthwise.bias.len() * size_of::<f32>();
        let band = (BAND_BYTES / row_bytes).clamp(1, height);
        for (start, out) in (0..height).step_by(band).zip(out.chunks_mut(band * width * channels)) {
            let rows = start..(start + band).min(height);
            let needed = self.depthwise.needs(&rows, x.height);
            let wide = match &self.expand {
                Some(expand) => {
                    expand.forward(&x, needed, wide);
                    &*wide
                }
                None => &x,
            };
            self.depthwise.forward(wide, rows.clone(), seen);
            self.project.forward(seen, rows, narrow);
            out.copy_from_slice(&narrow.values);
        }
        if self.residual {
            out.iter_mut().zip(&x.values).for_each(|(o, x)| *o += x);
        }
        Map::whole(height, width, channels, out)
    }
}

/// The means of 2 x 2 places of the finer map beside the places of the coarser one.
fn join(fine: &Map, coarse: &Map) -> Cells {
    let (rows, cols) = (coarse.height, coarse.width);
    let mut values = Vec::with_capacity(rows * cols * FEATURES);
    let at = |y: usize, x: usize| &fine.values[(y * fine.width + x) * fine.channels..][..fine.channels];
    for (y, x) in (0..rows).flat_map(|y| (0..cols).map(move |x| (y, x))) {
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| at(2 * y + dy, 2 * x + dx));
        values.extend((0..fine.channels).map(|c| four.iter().map(|place| place[c]).sum::<f32>() / 4.0));
        values.extend_from_slice(&coarse.values[(y * cols + x) * coarse.channels..][..coarse.channels]);
    }
    Cells { rows, cols, dim: fine.channels + coarse.channels, values }
}

fn stem(tensors: &SafeTensors<'_>, layer: &Layer) -> Result<Pointwise, String> {
    if (layer.kernel, layer.stride, layer.cin) != (3, 2, 3) {
        return Err(format!("{}: 3 x 3 of 3 channels with stride 2 expected", layer.name));
    }
    // [outputs, 3, ky, kx] -> [(ky, kx, channel), outputs]
    let stored = tensor(tensors, &layer.name, "weight", &[layer.cout, 3, 3, 3])?;
    let from = |row: usize, out: usize| stored[(out * 3 + row % 3) * 9 + row / 3];
    let weight = (0..27).flat_map(|row| (0..layer.cout).map(move |out| from(row, out))).collect();
    Ok(Pointwise { weight, bias: tensor(tensors, &layer.name, "bias", &[layer.cout])?, activated: layer.act })
}

fn block(tensors: &SafeTensors<'_>, planned: &PlannedBlock) -> Result<Block, String> {
    let (expand, depth, project) = match planned.layers.as_slice() {
        [depth, project] => (None, depth, project),
        [expand, depth, project] => (Some(expand), depth, project),
        _ => return Err(format!("{} layers in a block", planned.layers.len())),
    };
    Ok(Block {
        expand: expand.map(|layer| pointwise(tensors, layer)).transpose()?,
        depthwise: depthwise(tensors, depth)?,
        project: pointwise(tensors, project)?,
        residual: planned.residual,
    })
}

fn pointwise(tensors: &SafeTensors<'_>, layer: &Layer) -> Result<Pointwise, String> {
    let stored = tensor(tensors, &layer.name, "weight", &[layer.cout, layer.cin, 1, 1])?;
    let from = |row: usize, out: usize| stored[out * layer.cin + row];
    let weight = (0..layer.cin).flat_map(|row| (0..layer.cout).map(move |out| from(row, out))).collect();
    Ok(Pointwise { weight, bias: tensor(tensors, &layer.name, "bias", &[layer.cout])?, activated: layer.act })
}

fn depthwise(tensors: &SafeTensors<'_>, layer: &Layer) -> Result<Depthwise, String> {
    let Layer { name, kernel, stride, cout: channels, act, .. } = layer;
    if !act || !channels.is_multiple_of(LANES) {
        return Err(format!("{name}: an activated layer of a multiple of {LANES} channels expected"));
    }
    let places = kernel * kernel;
    let stored = tensor(tensors, name, "weight", &[*channels, 1, *kernel, *kernel])?;
    let weight = (0..places).flat_map(|at| (0..*channels).map(move |c| (c, at)));
    Ok(Depthwise {
        kernel: *kernel,
        stride: *stride,
        weight: weight.map(|(c, at)| stored[c * places + at]).collect(),
        bias: tensor(tensors, name, "bias", &[*channels])?,
    })
}

fn tensor(tensors: &SafeTensors<'_>, layer: &str, part: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let name = format!("{layer}.{part}");
    let view = tensors.tensor(&name).map_err(|e| format!("{name}: {e}"))?;
    if view.shape() != shape || view.dtype() != Dtype::F16 {
        return Err(format!(
            "{name}: F16 of {shape:?} expected, found {:?} of {:?}",
            view.dtype(),
            view.shape()
        ));
    }
    Ok(view.data().as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference's features of two pictures, made with the same weights in f32.
    #[test]
    fn features_are_the_references() {
        let golden = std::fs::read("../../fixtures/reference/backbone/golden.safetensors").expect("is there");
        let golden = SafeTensors::deserialize(&golden).expect("reads");
        for name in ["good", "bad"] {
            let path = format!("../../fixtures/reference/backbone/golden-{name}.png");
            let picture = image::ImageReader::open(path).expect("is there").decode().expect("reads");
            let picture = picture.into_rgb8();
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            let values: Vec<f32> = picture.as_raw().iter().map(|v| f32::from(*v)).collect();
            let cells = features(&values, height, width);
            let expected = golden.tensor(&format!("{name}.features")).expect("is there");
            assert_eq!(expected.shape(), [cells.rows, cells.cols, cells.dim]);
            let expected: Vec<f32> =
                expected.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
            let gap = cells.values.iter().zip(&expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
            assert!(gap < 1e-3 * largest, "{name}: off by {gap} of {largest}");
        }
    }
}
