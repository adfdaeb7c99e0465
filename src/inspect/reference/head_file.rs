//! The file of a head: safetensors, whose metadata say what it is.
//!
//! Nothing that a file says is believed: sizes, numbers and names are checked before anything is judged by it.

use super::file::{BANK_BYTES_MAX, DIM_MAX, serialised, sha256, values};
use super::head::{Head, LabelHead, POOLED, TaughtBy};
use crate::domain::reference::{FeatureSource, Learned};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The form that this build writes and reads.
const FORM: u32 = 1;
/// Labels of a head, each of which every cell of a tile is asked for.
pub(crate) const LABELS_MAX: usize = 64;
/// The key of the metadata.
const KEY: &str = "inspectd.head";

/// What the metadata say.
#[derive(Serialize, Deserialize)]
struct About {
    form: u32,
    features: String,
    features_sha256: String,
    bias: f32,
    of_cells: f32,
    /// Each label with its bias, in the order of their weights.
    labels: Vec<(String, f32)>,
    from: TaughtBy,
}

/// The bytes of a head's file.
pub(crate) fn write(head: &Head) -> Vec<u8> {
    let about = About {
        form: FORM,
        features: head.features.as_str().to_owned(),
        features_sha256: head.features_sha256.clone(),
        bias: head.bias,
        of_cells: head.of_cells,
        labels: head.labels.iter().map(|l| (l.label.clone(), l.bias)).collect(),
        from: head.from.clone(),
    };
    let dim = head.dim();
    let single = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        ("usual", Dtype::F32, vec![POOLED, dim], single(&head.usual)),
        ("tile", Dtype::F32, vec![POOLED, dim], single(&head.tile)),
        ("mean", Dtype::F32, vec![dim], single(&head.mean)),
    ];
    if !head.labels.is_empty() {
        let weights: Vec<f32> = head.labels.iter().flat_map(|l| l.weights.iter().copied()).collect();
        tensors.push(("labels", Dtype::F32, vec![head.labels.len(), dim], single(&weights)));
    }
    serialised(KEY, &about, &tensors)
}

/// Reads a head.
///
/// # Errors
/// What is wrong with the file, in words.
pub(crate) fn read(bytes: &[u8]) -> Result<Head, String> {
    if bytes.len() > BANK_BYTES_MAX {
        return Err(format!("{} bytes, at most {BANK_BYTES_MAX} are read", bytes.len()));
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| format!("is no head: {e}"))?;
    let about = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or("is no head of inspectd's")?;
    let about: About = serde_json::from_str(about).map_err(|e| format!("is no head: {e}"))?;
    if about.form != FORM {
        return Err(format!("is a head of form {}, and this build reads form {FORM}", about.form));
    }
    if !about.bias.is_finite() || !about.of_cells.is_finite() || about.of_cells < 0.0 {
        return Err(format!("a bias of {}, and a share of the cells of {}", about.bias, about.of_cells));
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| format!("is no head: {e}"))?;
    let mean = values(&tensors, "mean", Dtype::F32)?;
    let dim = mean.len();
    let (usual, tile) = (values(&tensors, "usual", Dtype::F32)?, values(&tensors, "tile", Dtype::F32)?);
    if dim == 0 || dim > DIM_MAX || usual.len() != POOLED * dim || tile.len() != POOLED * dim {
        return Err(format!("{dim} means, {} and {} numbers of tiles do not fit", usual.len(), tile.len()));
    }
    Ok(Head {
        features: FeatureSource::parse(&about.features)
            .ok_or_else(|| format!("{:?} are no features", about.features))?,
        features_sha256: about.features_sha256,
        usual,
        tile,
        bias: about.bias,
        of_cells: about.of_cells,
        labels: labels(&tensors, about.labels, dim)?,
        mean,
        from: about.from,
    })
}

/// The planes of the labels, each of which is there once.
fn labels(
    tensors: &SafeTensors<'_>,
    named: Vec<(String, f32)>,
    dim: usize,
) -> Result<Vec<LabelHead>, String> {
    if named.is_empty() {
        return Ok(vec![]);
    }
    if named.len() > LABELS_MAX {
        return Err(format!("{} labels, at most {LABELS_MAX} are asked for", named.len()));
    }
    let weights = values(tensors, "labels", Dtype::F32)?;
    if weights.len() != named.len() * dim {
        return Err(format!("{} labels and {} weights do not fit", named.len(), weights.len()));
    }
    let mut seen = BTreeSet::new();
    let label = |((label, bias), weights): ((String, f32), &[f32])| {
        if !bias.is_finite() || !seen.insert(label.clone()) {
            return Err(format!("the label {label:?} is there twice, or has the bias {bias}"));
        }
        Ok(LabelHead { label, weights: weights.to_vec(), bias })
    };
    named.into_iter().zip(weights.chunks_exact(dim)).map(label).collect()
}

/// Reads a head that a recipe is to judge by.
///
/// # Errors
/// As `read`.
pub(crate) fn learned(bytes: &[u8]) -> Result<Learned, String> {
    let head = read(bytes)?;
    Ok(Learned { sha256: sha256(bytes), judge: Arc::new(head) })
}

#[cfg(test)]
mod tests {
    use super::super::head::tests::head;
    use super::*;
    use crate::domain::reference::TileFeatures;
    use proptest::prelude::*;

    #[test]
    fn what_was_written_is_read() {
        let head = head();
        assert_eq!(read(&write(&head)).unwrap(), head);
        let without = Head { labels: vec![], of_cells: 0.0, ..head };
        assert_eq!(read(&write(&without)).unwrap(), without);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let why = |change: &dyn Fn(&mut Head)| {
            let mut head = head();
            change(&mut head);
            read(&write(&head)).unwrap_err()
        };
        assert!(why(&|h| h.tile[3] = f32::NAN).contains("tile: a value is not finite"));
        assert!(why(&|h| h.of_cells = -1.0).contains("-1"));
        assert!(why(&|h| h.labels.push(h.labels[0].clone())).contains("\"pit\" is there twice"));
        let many = |h: &mut Head| {
            let label = |i| LabelHead { label: format!("l{i}"), ..h.labels[0].clone() };
            h.labels = (0..=LABELS_MAX).map(label).collect();
        };
        assert!(why(&many).contains("65 labels, at most 64"));
        assert!(read(b"").unwrap_err().contains("is no head"));
        let mut bytes = write(&head());
        let at = bytes.windows(KEY.len()).position(|w| w == KEY.as_bytes()).unwrap();
        bytes[at..at + KEY.len()].copy_from_slice(b"inspectd.bank");
        assert!(read(&bytes).unwrap_err().contains("is no head of inspectd's"));
    }

    proptest! {
        /// Whatever a disk or a person does to the file: it is refused, or is a head that judges or says why not.
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..4096, to in any::<u8>(), cut in 0usize..4096) {
            let mut bytes = write(&head());
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            prop_assert!(read(&bytes[..cut]).is_err());
            bytes[at] = to;
            if let Ok(learned) = learned(&bytes) {
                let values = [0.5; 8];
                let _ = learned.judge.judge(TileFeatures { tile: 0, rows: 2, cols: 2, dim: 2, values: &values });
            }
        }
    }
}
