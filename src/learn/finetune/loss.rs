//! What a step makes smaller.
//!
//! ```text
//! answers   weighted mean of -ln p(token)
//! cells     a helper tells labels and the box from each cell of the tower: the tower learns places before answers do
//! loss      answers + 0.3 * (2 * labels + 4 * box)
//! ```

use super::batch::Batch;
use super::ops::{cross_entropy, linear};
use super::text::forward;
use super::tower::Tower;
use super::weights::{HELPERS, Pair, Step};
use candle_core::{Device, Result, Tensor};

/// Share of what the cells tell, and in it of labels and boxes: those of the recipe that trained the shipped model.
const CELLS_SHARE: f64 = 0.3;
const LABELS_SHARE: f64 = 2.0;
const BOX_SHARE: f64 = 4.0;
/// A cell with a defect weighs as many without.
const TOUCHED_WEIGHT: f64 = 4.0;

/// The loss of a batch, and the part of it that the answers are.
///
/// # Errors
/// As candle; the pair lacks a tensor.
pub(super) fn loss(
    w: &Step,
    pair: &Pair,
    tower: &mut Tower,
    batch: &Batch,
    device: &Device,
) -> Result<(Tensor, f32)> {
    let pictures: Vec<_> = batch.pictures.iter().collect();
    let seen = tower.forward(w, &pictures)?;
    let logits = forward(w, &pair.text_config, &batch.rows, &seen, device)?;
    let all = batch.weight().max(f32::MIN_POSITIVE);
    let targets: Vec<u32> = batch.rows.learned.iter().map(|(_, id, _)| *id).collect();
    let weights: Vec<f32> = batch.rows.learned.iter().map(|(_, _, weight)| weight / all).collect();
    let answers = cross_entropy(&logits, &targets, &weights)?;
    let told = answers.to_scalar::<f32>()?;
    if batch.known.is_empty() {
        return Ok((answers, told));
    }
    let cells = (of_cells(w, batch, &seen.embeds, device)? * CELLS_SHARE)?;
    Ok(((answers + cells)?, told))
}

fn of_cells(w: &Step, batch: &Batch, embeds: &Tensor, device: &Device) -> Result<Tensor> {
    let helper = |name: &str, cells: &[u32]| {
        let x = embeds.index_select(&Tensor::from_slice(cells, cells.len(), device)?, 0)?;
        linear(&x, w.get(&format!("{HELPERS}{name}.weight"))?, Some(w.get(&format!("{HELPERS}{name}.bias"))?))
    };
    let x = helper("labels", &batch.known)?;
    let touched = Tensor::from_slice(&batch.touched, x.shape(), device)?;
    // ln(1 + e^-x) and ln(1 + e^x), neither of which overflows.
    let soft = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    let (there, not) = ((&soft + x.neg()?.relu()?)?, (&soft + x.relu()?)?);
    let missed = ((&touched * there)? * TOUCHED_WEIGHT)?;
    let labels = ((missed + (touched.neg()? + 1.0)? * not)?.mean_all()? * LABELS_SHARE)?;
    if batch.boxed.is_empty() {
        return Ok(labels);
    }
    let cells: Vec<u32> = batch.boxed.iter().map(|(cell, _)| *cell).collect();
    let shares: Vec<f32> = batch.boxed.iter().flat_map(|(_, shares)| *shares).collect();
    let found = (helper("box", &cells)?.neg()?.exp()? + 1.0)?.recip()?;
    let gap = (found - Tensor::from_vec(shares, (cells.len(), 4), device)?)?.abs()?.mean_all()?;
    labels + (gap * BOX_SHARE)?
}
