//! The file of a bank: safetensors, whose metadata say what it is.
//!
//! Nothing that a file says is believed: sizes, numbers and names are checked before anything is judged by it.

use super::bank::{Bank, Known, LearnedFrom, Limit, Places};
use super::nearest::Nearest;
use crate::domain::reference::{FeatureSource, Learned};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// The form that this build writes and reads.
const FORM: u32 = 1;
/// Longest file: a bank of a few thousand cells takes one megabyte, one of all places of a large frame ten.
pub(crate) const BANK_BYTES_MAX: usize = 32 << 20;
/// Cells of a bank, each of which every cell of a tile is compared with.
const CELLS_MAX: usize = 16_384;
pub(super) const DIM_MAX: usize = 1 << 14;
/// Cells that a place may be off: each is compared with all others within it.
pub(crate) const TOLERANCE_MAX: usize = 64;
/// The key of the metadata.
const KEY: &str = "inspectd.bank";

/// What the metadata say.
#[derive(Serialize, Deserialize)]
struct About {
    form: u32,
    features: String,
    features_sha256: String,
    /// Distance and steepness.
    cell: (f32, f32),
    tile: (f32, f32),
    /// Of a bank of places: the cells of each tile, and the tolerance in cells.
    places: Option<(Vec<(usize, usize)>, usize)>,
    from: LearnedFrom,
}

/// The bytes of a bank's file.
pub(crate) fn write(bank: &Bank) -> Vec<u8> {
    let about = About {
        form: FORM,
        features: bank.features.as_str().to_owned(),
        features_sha256: bank.features_sha256.clone(),
        cell: (bank.cell.at, bank.cell.steepness),
        tile: (bank.tile.at, bank.tile.steepness),
        places: match &bank.known {
            Known::Free(_) => None,
            Known::Fixed(places) => Some((places.grids.clone(), places.tolerance)),
        },
        from: bank.from.clone(),
    };
    let dim = bank.mean.len();
    let single = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let half =
        |values: &[f32]| values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        ("mean", Dtype::F32, vec![dim], single(&bank.mean)),
        ("deviation", Dtype::F32, vec![dim], single(&bank.deviation)),
    ];
    match &bank.known {
        Known::Free(nearest) => {
            let bytes = nearest.cells.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push(("cells", Dtype::F16, vec![nearest.count(), dim], bytes));
        }
        Known::Fixed(places) => {
            let shape = vec![places.mean.len() / dim, dim];
            tensors.push(("place_mean", Dtype::F16, shape.clone(), half(&places.mean)));
            tensors.push(("place_sharpness", Dtype::F16, shape, half(&places.sharpness)));
        }
    }
    serialised(KEY, &about, &tensors)
}

/// A tensor as it is written: name, type, shape, bytes.
pub(super) type Written = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// The bytes of a file with these tensors, whose metadata say what it is.
pub(super) fn serialised(key: &str, about: &impl Serialize, tensors: &[Written]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("the shape is that of the bytes"))
    });
    let about = serde_json::to_string(about).expect("numbers and strings always serialise");
    let metadata = HashMap::from([(key.to_owned(), about)]);
    safetensors::serialize(views, Some(metadata)).expect("tensors always serialise")
}

/// sha256 (hex) of a file.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a bank.
///
/// # Errors
/// What is wrong with the file, in words.
pub(crate) fn read(bytes: &[u8]) -> Result<Bank, String> {
    if bytes.len() > BANK_BYTES_MAX {
        return Err(format!("{} bytes, at most {BANK_BYTES_MAX} are read", bytes.len()));
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| format!("is no bank: {e}"))?;
    let about = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or("is no bank of inspectd's")?;
    let about: About = serde_json::from_str(about).map_err(|e| format!("is no bank: {e}"))?;
    if about.form != FORM {
        return Err(format!("is a bank of form {}, and this build reads form {FORM}", about.form));
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| format!("is no bank: {e}"))?;
    let mean = values(&tensors, "mean", Dtype::F32)?;
    let deviation = values(&tensors, "deviation", Dtype::F32)?;
    let dim = mean.len();
    if dim == 0 || dim > DIM_MAX || deviation.len() != dim || deviation.iter().any(|d| *d <= 0.0) {
        return Err(format!("{dim} means and {} deviations are no features", deviation.len()));
    }
    let known = match about.places {
        None => Known::Free(free(&tensors, dim)?),
        Some((grids, tolerance)) => Known::Fixed(fixed(&tensors, dim, grids, tolerance)?),
    };
    Ok(Bank {
        features: FeatureSource::parse(&about.features)
            .ok_or_else(|| format!("{:?} are no features", about.features))?,
        features_sha256: about.features_sha256,
        mean,
        deviation,
        known,
        cell: limit(about.cell)?,
        tile: limit(about.tile)?,
        from: about.from,
    })
}

/// Reads a bank that a recipe is to judge by.
///
/// # Errors
/// As `read`.
pub(crate) fn learned(bytes: &[u8]) -> Result<Learned, String> {
    let bank = read(bytes)?;
    Ok(Learned { sha256: sha256(bytes), judge: Arc::new(bank) })
}

fn limit((at, steepness): (f32, f32)) -> Result<Limit, String> {
    let is_sound = |v: f32| v.is_finite() && v > 0.0;
    if !is_sound(at) || !is_sound(steepness) {
        return Err(format!("a limit of {at}, with steepness {steepness}"));
    }
    Ok(Limit { at, steepness })
}

fn free(tensors: &SafeTensors<'_>, dim: usize) -> Result<Nearest, String> {
    let cells = values(tensors, "cells", Dtype::F16)?;
    if cells.len() > CELLS_MAX * dim {
        return Err(format!("{} cells, at most {CELLS_MAX} are compared", cells.len() / dim));
    }
    Nearest::new(cells.into_iter().map(f16::from_f32).collect(), dim)
}

fn fixed(
    tensors: &SafeTensors<'_>,
    dim: usize,
    grids: Vec<(usize, usize)>,
    tolerance: usize,
) -> Result<Places, String> {
    let mean = values(tensors, "place_mean", Dtype::F16)?;
    let sharpness = values(tensors, "place_sharpness", Dtype::F16)?;
    let places = grids.iter().try_fold(0usize, |sum, (rows, cols)| sum.checked_add(rows.checked_mul(*cols)?));
    let wanted = places.and_then(|places| places.checked_mul(dim));
    if tolerance > TOLERANCE_MAX {
        return Err(format!("places may be {tolerance} cells off, at most {TOLERANCE_MAX} are compared"));
    }
    if wanted != Some(mean.len()) || wanted != Some(sharpness.len()) || sharpness.iter().any(|s| *s <= 0.0) {
        return Err("its places do not fit its tiles".into());
    }
    Ok(Places { grids, mean, sharpness, tolerance })
}

/// All values of a tensor, which must be finite.
pub(super) fn values(tensors: &SafeTensors<'_>, name: &str, dtype: Dtype) -> Result<Vec<f32>, String> {
    let view = tensors.tensor(name).map_err(|e| format!("{name}: {e}"))?;
    if view.dtype() != dtype {
        return Err(format!("{name}: {dtype:?} expected, found {:?}", view.dtype()));
    }
    let bytes = view.data();
    let values: Vec<f32> = match dtype {
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    if values.iter().all(|v| v.is_finite()) {
        Ok(values)
    } else {
        Err(format!("{name}: a value is not finite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reference::TileFeatures;
    use proptest::prelude::*;

    fn bank(known: Known) -> Bank {
        Bank {
            features: FeatureSource::Backbone,
            features_sha256: "abc".into(),
            mean: vec![0.5, -0.5],
            deviation: vec![1.0, 2.0],
            known,
            cell: Limit { at: 2.0, steepness: 4.0 },
            tile: Limit { at: 1.5, steepness: 5.0 },
            from: LearnedFrom { pipeline: "p".into(), at: "now".into(), good: 7, bad: 1, cells: 9 },
        }
    }

    fn free() -> Bank {
        let cells = [0.0, 1.0, -1.0, 0.5].map(f16::from_f32).to_vec();
        bank(Known::Free(Nearest::new(cells, 2).unwrap()))
    }

    fn fixed() -> Bank {
        let places = Places {
            grids: vec![(1, 2), (2, 2)],
            mean: vec![0.25; 12],
            sharpness: vec![2.0; 12],
            tolerance: 1,
        };
        bank(Known::Fixed(places))
    }

    #[test]
    fn a_bank_comes_back_as_it_was() {
        for bank in [free(), fixed()] {
            let back = read(&write(&bank)).unwrap();
            assert_eq!((&back.from, back.cell, back.tile), (&bank.from, bank.cell, bank.tile));
            let values = [0.1, 0.2, 0.9, -3.0];
            let tile = TileFeatures { tile: 0, rows: 1, cols: 2, dim: 2, values: &values };
            assert_eq!(back.distances(tile).unwrap(), bank.distances(tile).unwrap());
        }
    }

    #[test]
    fn a_tile_of_another_form_is_an_error() {
        let values = [0.0; 8];
        let tile = |tile, rows, cols, dim| TileFeatures { tile, rows, cols, dim, values: &values };
        assert!(free().distances(tile(0, 2, 2, 2)).is_ok());
        assert!(free().distances(tile(0, 1, 2, 4)).is_err(), "other features");
        assert!(fixed().distances(tile(1, 2, 2, 2)).is_ok());
        assert!(fixed().distances(tile(0, 2, 2, 2)).is_err(), "another size");
        assert!(fixed().distances(tile(2, 2, 2, 2)).is_err(), "no such tile");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn damaged_bytes_are_an_error_or_a_bank_that_judges(
            at in 0.0..1.0f64,
            value in any::<u8>(),
            is_cut in any::<bool>(),
            is_fixed in any::<bool>(),
        ) {
            let mut bytes = write(&if is_fixed { fixed() } else { free() });
            let at = (bytes.len() as f64 * at) as usize;
            if is_cut { bytes.truncate(at) } else { bytes[at] = value }
            if let Ok(bank) = read(&bytes) {
                let values = [0.1, 0.2, 0.9, -3.0];
                let tile = TileFeatures { tile: 0, rows: 1, cols: 2, dim: 2, values: &values };
                if let Ok(distances) = bank.distances(tile) {
                    prop_assert_eq!(distances.len(), 2);
                }
            }
        }
    }
}
