//! Which model a command uses.

use crate::vlm::engine::EngineOptions;
use crate::vlm::Qwen3Vl;
use candle_core::Device;
use std::path::PathBuf;

/// The model pair; the shipped small model unless another one is named.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Text model (GGUF, architecture qwen3vl).
    #[arg(long, default_value = "fixtures/model/inspectd-small.gguf", env = "INSPECTD_MODEL__TEXT")]
    pub model: PathBuf,
    /// Vision model of the same pair (GGUF, projector qwen3vl_merger).
    #[arg(long, default_value = "fixtures/model/mmproj-inspectd-small.gguf", env = "INSPECTD_MODEL__MMPROJ")]
    pub mmproj: PathBuf,
    /// Threads of the engine; 0: all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl ModelArgs {
    /// Loads the pair.
    ///
    /// # Errors
    /// As `Qwen3Vl::load`.
    pub fn load(&self) -> anyhow::Result<Qwen3Vl> {
        let options = EngineOptions { threads: self.threads, kv_mb: 0 };
        Ok(Qwen3Vl::load(&self.model, &self.mmproj, options, &Device::Cpu)?)
    }
}
