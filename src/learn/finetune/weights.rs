//! The weights of a pair while it is trained: every tensor in f32, some of them variables.
//!
//! ```text
//! Whole       each tensor is a variable; the position table is fixed
//! Low { r }   each matrix is fixed, plus B A * alpha / r, whose A [r, in] and B [out, r] are the variables
//!             '--> `step`: one tensor a name, which the graph uses in either case
//! ```
//!
//! Invariant: channels of the tower's residual stream that no block of the source writes to are written to by none
//! afterwards. In the shipped model the place of a patch goes through them; a step that wrote there would take its
//! boxes away.

use crate::learn::LearnError;
use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use vlm::VlmError;
use vlm::gguf::Gguf;
use vlm::text::TextConfig;
use vlm::vision::VisionConfig;

/// The table of positions is fixed: what it says goes through channels of its own.
pub(super) const POSITIONS: &str = "v.position_embd.weight";
/// Names that begin so are helpers of training and stand in no model.
pub(super) const HELPERS: &str = "helper.";
/// The two temporal halves of the patch embedding.
const PATCHES: [&str; 2] = ["v.patch_embd.weight", "v.patch_embd.weight.1"];
/// The spread of a helper's first weights.
const HELPER_SPREAD: f32 = 0.02;

/// The files of a pair that is to be trained.
#[derive(Debug)]
pub(crate) struct Pair {
    pub text: Gguf,
    pub mmproj: Gguf,
    pub(super) text_config: TextConfig,
    pub(super) vision_config: VisionConfig,
}

impl Pair {
    /// Opens both files.
    ///
    /// # Errors
    /// A file is not sound, or they do not belong together.
    pub(crate) fn open(text: &Path, mmproj: &Path) -> std::result::Result<Self, VlmError> {
        let (text_file, mmproj_file) = (Gguf::open(text)?, Gguf::open(mmproj)?);
        let (text_config, vision_config) =
            (TextConfig::from_gguf(&text_file)?, VisionConfig::from_gguf(&mmproj_file)?);
        if vision_config.out != text_config.hidden || vision_config.deepstack.len() != text_config.deepstack {
            let why = "their widths or their DeepStack layers differ".to_owned();
            return Err(VlmError::Pair { text: text.into(), mmproj: mmproj.into(), why });
        }
        Ok(Self { text: text_file, mmproj: mmproj_file, text_config, vision_config })
    }

    /// Numbers of all weights.
    pub(crate) fn count(&self) -> usize {
        let tensors = self.text.tensors.values().chain(self.mmproj.tensors.values());
        tensors.map(|t| t.shape.iter().product::<usize>()).sum()
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum How {
    /// All weights: a new pair.
    Whole,
    /// Matrices of this rank beside the weights: an adapter, whose alpha is the rank.
    Low {
        /// 1 to 256.
        rank: usize,
    },
}

/// A variable and how it is to be changed.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    pub var: Var,
    /// Rows that stay as they are.
    pub fixed_rows: Arc<[usize]>,
}

/// All weights.
#[derive(Debug)]
pub(super) struct Weights {
    fixed: HashMap<String, Tensor>,
    /// By name; of an adapter `NAME.lora_a` and `NAME.lora_b`.
    pub trained: BTreeMap<String, Trained>,
}

/// The tensors of one step, by the names of the files.
#[derive(Debug)]
pub(super) struct Step(HashMap<String, Tensor>);

impl Step {
    /// A tensor that must be there.
    ///
    /// # Errors
    /// The pair lacks it.
    pub(super) fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).ok_or_else(|| candle_core::Error::Msg(format!("tensor {name} is missing")))
    }

    /// One that may be missing.
    pub(super) fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }
}

impl Weights {
    /// Reads a pair. `cells` labels are told apart by the helper of the cells.
    ///
    /// # Errors
    /// A file cannot be read, or a tensor has a form that cannot be expanded.
    pub(super) fn load(
        pair: &Pair,
        how: How,
        cells: usize,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> std::result::Result<Self, LearnError> {
        let mut fixed = HashMap::new();
        for file in [&pair.text, &pair.mmproj] {
            for (name, info) in &file.tensors {
                let tensor =
                    file.tensor(name, &info.shape, device)?.dequantize(device)?.to_dtype(DType::F32)?;
                let rows = info.shape[0];
                let flat = if info.shape.len() > 2 { tensor.reshape((rows, ()))? } else { tensor };
                fixed.insert(name.clone(), flat);
            }
        }
        let quiet = quiet_channels(&fixed, &pair.vision_config)?;
        let mut weights = Self { fixed, trained: BTreeMap::new() };
        let mut names: Vec<String> = weights.fixed.keys().cloned().collect();
        names.sort();
        for name in names {
            let rows = if writes(&name) { Arc::clone(&quiet) } else { Arc::from([]) };
            match how {
                How::Whole if name != POSITIONS => weights.whole(&name, rows)?,
                How::Low { rank } if is_adapted(&name) => weights.low(&name, rank, rows, rng, device)?,
                _ => {}
            }
        }
        weights.add_helpers(pair.vision_config.out, cells, rng, device)?;
        Ok(weights)
    }

    fn whole(&mut self, name: &str, fixed_rows: Arc<[usize]>) -> Result<()> {
        if let Some(tensor) = self.fixed.remove(name) {
            self.trained.insert(name.to_owned(), Trained { var: Var::from_tensor(&tensor)?, fixed_rows });
        }
        Ok(())
    }

    /// A begins at random and B at zero, so that the first step is the source's.
    fn low(
        &mut self,
        name: &str,
        rank: usize,
        fixed_rows: Arc<[usize]>,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<()> {
        let (out, inp) = self.fixed[name].dims2()?;
        let spread = (3.0 / inp as f32).sqrt();
        let a: Vec<f32> = (0..rank * inp).map(|_| rng.gen_range(-spread..spread)).collect();
        let a = Var::from_vec(a, (rank, inp), device)?;
        let b = Var::zeros((out, rank), DType::F32, device)?;
        self.trained.insert(format!("{name}.lora_a"), Trained { var: a, fixed_rows: Arc::from([]) });
        self.trained.insert(format!("{name}.lora_b"), Trained { var: b, fixed_rows });
        Ok(())
    }

    /// What tells from a cell of a picture which labels are there, and where the box is.
    fn add_helpers(
        &mut self,
        width: usize,
        labels: usize,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<()> {
        for (name, out) in [("labels", labels), ("box", 4)] {
            let values: Vec<f32> =
                (0..out * width).map(|_| rng.gen_range(-HELPER_SPREAD..HELPER_SPREAD)).collect();
            let weight = Var::from_vec(values, (out, width), device)?;
            let bias = Var::zeros(out, DType::F32, device)?;
            for (part, var) in [("weight", weight), ("bias", bias)] {
                let trained = Trained { var, fixed_rows: Arc::from([]) };
                self.trained.insert(format!("{HELPERS}{name}.{part}"), trained);
            }
        }
        Ok(())
    }

    /// The tensors of a step.
    ///
    /// # Errors
    /// As candle.
    pub(super) fn step(&self) -> Result<Step> {
        let mut all = self.fixed.clone();
        for (name, trained) in &self.trained {
            match name.strip_suffix(".lora_b") {
                Some(base) => {
                    let sum = (self.fixed[base].clone() + self.delta(base)?)?;
                    all.insert(base.to_owned(), sum);
                }
                None if name.ends_with(".lora_a") => {}
                None => {
                    all.insert(name.clone(), trained.var.as_tensor().clone());
                }
            }
        }
        Ok(Step(all))
    }

    /// What an adapter adds to a matrix: alpha is the rank, so that the scale is 1.
    fn delta(&self, base: &str) -> Result<Tensor> {
        let var = |part: &str| self.trained[&format!("{base}.{part}")].var.as_tensor();
        var("lora_b").matmul(var("lora_a"))
    }

    /// Numbers that are trained.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.trained.values().map(|t| t.var.elem_count()).sum()
    }
}

/// What writes to the residual stream of the tower: its row is the channel.
fn writes(name: &str) -> bool {
    let base = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
    PATCHES.contains(&name)
        || base == "v.patch_embd"
        || base.starts_with("v.blk.") && (base.ends_with(".attn_out") || base.ends_with(".ffn_down"))
}

/// Matrices that an adapter changes: all of the blocks, and those that join patches.
fn is_adapted(name: &str) -> bool {
    let Some(base) = name.strip_suffix(".weight") else { return false };
    let ends = |words: &[&str]| words.iter().any(|word| base.ends_with(word));
    if base.starts_with("blk.") {
        ends(&[".attn_q", ".attn_k", ".attn_v", ".attn_output", ".ffn_gate", ".ffn_up", ".ffn_down"])
    } else if base.starts_with("v.blk.") {
        ends(&[".attn_qkv", ".attn_out", ".ffn_up", ".ffn_down"])
    } else if base.starts_with("v.deepstack.") {
        ends(&[".fc1", ".fc2"])
    } else {
        ["mm.0", "mm.2"].contains(&base)
    }
}

/// Channels of the tower's residual stream to which no matrix of the source writes.
fn quiet_channels(fixed: &HashMap<String, Tensor>, c: &VisionConfig) -> Result<Arc<[usize]>> {
    let mut is_quiet = vec![true; c.hidden];
    for (_, matrix) in fixed.iter().filter(|(name, t)| writes(name) && t.dims().len() == 2) {
        let largest = matrix.abs()?.max(1)?.to_vec1::<f32>()?;
        is_quiet.iter_mut().zip(largest).for_each(|(quiet, largest)| *quiet &= largest == 0.0);
    }
    Ok((0..c.hidden).filter(|i| is_quiet[*i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::finetune::tests::{shipped, tiny};
    use rand::SeedableRng;

    #[test]
    fn the_shipped_model_keeps_its_place_channels_and_a_random_one_has_none() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let weights = Weights::load(&shipped(), How::Whole, 8, &mut rng, &Device::Cpu).expect("loads");
        let rows = |name: &str| weights.trained[name].fixed_rows.to_vec();
        // 18 channels of the place and two constants.
        assert_eq!(rows("v.blk.3.ffn_down.weight"), (0..20).collect::<Vec<_>>());
        assert_eq!((rows("v.patch_embd.bias").len(), rows("v.blk.3.attn_qkv.weight").len()), (20, 0));
        assert!(!weights.trained.contains_key(POSITIONS));
        let weights = Weights::load(&tiny(), How::Low { rank: 4 }, 8, &mut rng, &Device::Cpu).expect("loads");
        assert_eq!(weights.trained["v.blk.0.ffn_down.weight.lora_b"].fixed_rows.len(), 0);
    }

    #[test]
    fn an_adapter_begins_as_the_source() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let [low, whole] = [How::Low { rank: 4 }, How::Whole]
            .map(|how| Weights::load(&tiny(), how, 8, &mut rng, &Device::Cpu).expect("loads"));
        let (a, b) = (low.step().expect("a step"), whole.step().expect("a step"));
        for name in ["blk.0.attn_q.weight", "v.deepstack.1.fc1.weight", "mm.2.weight", "token_embd.weight"] {
            let gap = (a.get(name).unwrap() - b.get(name).unwrap()).unwrap().abs().unwrap();
            assert_eq!(gap.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "{name}");
        }
        // Seven matrices of 5 blocks; four of 6; two of each of four mergers; a pair each, and the helpers.
        assert_eq!(low.trained.len(), 2 * (7 * 5 + 4 * 6 + 2 * 4) + 4);
        assert!(low.count() < whole.count());
    }
}
