//! Where a run stands, so that what ends it costs a minute at most.
//!
//! ```text
//! variables, both moments of each, steps, seconds, place of the random numbers, what it learns from
//!     -> checkpoint.safetensors.part -> flushed to the disk -> renamed -> the folder flushed
//! ```
//!
//! Invariant: under its name lies a whole checkpoint or none. One of another source, set or way of training is refused
//! by name, never continued.

use super::optim::Moments;
use super::weights::Weights;
use crate::learn::LearnError;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Its name in the folder that is written to.
pub(crate) const FILE: &str = "checkpoint.safetensors";
const KEY: &str = "inspectd.finetune";
/// Of the moments of NAME.
const MOMENTS: [&str; 2] = ["first.", "second."];
/// Of a variable.
const VALUE: &str = "value.";

/// Where a run stands, beside its variables.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stand {
    /// Which source, set and way of training: the sha256 of all of them.
    pub run: String,
    pub steps: u64,
    /// Seconds that were spent on steps.
    pub spent_s: f64,
    /// Place in the stream of random numbers, as decimal digits: JSON has no numbers of 128 bits.
    pub place: String,
    /// The mean loss of the answers over the last steps.
    pub loss: f32,
}

/// Writes a checkpoint in the place of the one that is there.
///
/// # Errors
/// The folder or the disk does not take it; the former one stays.
pub(super) fn write(
    path: &Path,
    weights: &Weights,
    moments: &Moments,
    stand: &Stand,
) -> Result<(), LearnError> {
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = vec![];
    for (name, trained) in &weights.trained {
        let tensor = trained.var.as_tensor();
        all.push((format!("{VALUE}{name}"), tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?));
        if let Some(of) = moments.of.get(name) {
            for (word, values) in MOMENTS.iter().zip(of) {
                all.push((format!("{word}{name}"), vec![values.len()], values.clone()));
            }
        }
    }
    let views = all.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values));
        (name.as_str(), view.expect("as many values as the shape says"))
    });
    let text = serde_json::to_string(stand).expect("numbers and texts are JSON");
    let bytes = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), text)])));
    let bytes = bytes.map_err(|e| bad(path, &e.to_string()))?;
    replace(path, |file| file.write_all(&bytes))
        .map_err(|source| LearnError::Io { path: path.into(), source })
}

/// Writes a file under its name whole or not at all. A kill leaves at most one part beside it, which the next call
/// writes over.
///
/// # Errors
/// The folder or the disk does not take it.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let part = path.with_added_extension("part");
    let mut file = File::create(&part)?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Puts a checkpoint's values into the variables. `None`: there is none.
///
/// # Errors
/// It cannot be read, or is of another run.
pub(super) fn read(
    path: &Path,
    weights: &Weights,
    run: &str,
) -> Result<Option<(Stand, Moments)>, LearnError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LearnError::Io { path: path.into(), source }),
    };
    let damaged =
        |e: safetensors::SafeTensorError| bad(path, &format!("is damaged ({e}); --anew starts over"));
    let (_, head) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let text = head.metadata().as_ref().and_then(|m| m.get(KEY)).cloned().unwrap_or_default();
    let stand: Stand =
        serde_json::from_str(&text).map_err(|e| bad(path, &format!("is none of fine-tuning: {e}")))?;
    if stand.run != run {
        return Err(bad(
            path,
            "is of another model, other pictures or another way of training: --anew starts over, or name another --out",
        ));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let values = |name: &str| -> Result<Vec<f32>, LearnError> {
        let view = tensors.tensor(name).map_err(damaged)?;
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let mut moments = Moments { steps: stand.steps, ..Moments::default() };
    for (name, trained) in &weights.trained {
        let tensor = trained.var.as_tensor();
        let value = values(&format!("{VALUE}{name}"))?;
        if value.len() != tensor.elem_count() {
            return Err(bad(path, &format!("{name} has another size; --anew starts over")));
        }
        trained.var.set(&Tensor::from_vec(value, tensor.shape(), tensor.device())?)?;
        if tensors.tensor(&format!("{}{name}", MOMENTS[0])).is_ok() {
            let of = [values(&format!("{}{name}", MOMENTS[0]))?, values(&format!("{}{name}", MOMENTS[1]))?];
            if of.iter().any(|of| of.len() != tensor.elem_count()) {
                return Err(bad(
                    path,
                    &format!("the moments of {name} have another size; --anew starts over"),
                ));
            }
            moments.of.insert(name.clone(), of);
        }
    }
    Ok(Some((stand, moments)))
}

fn bad(path: &Path, why: &str) -> LearnError {
    LearnError::Checkpoint { path: path.into(), why: why.to_owned() }
}

/// Goes on where the random numbers of a checkpoint stood.
pub(super) fn place(rng: &mut ChaCha8Rng, stand: &Stand) {
    rng.set_word_pos(stand.place.parse().unwrap_or_default());
}
