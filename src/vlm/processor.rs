//! Which processor the engine computes on.

use super::error::VlmError;
use candle_core::Device;

/// The central processor, or one CUDA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    /// The central processor.
    #[default]
    Cpu,
    /// By its number, as `nvidia-smi` lists it.
    Cuda(usize),
}

impl Processor {
    /// The forms that `named` takes.
    pub const NAMES: [&str; 3] = ["cpu", "cuda", "cuda:N"];

    /// By its name in the config: `cuda` is the first device.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }

    /// The name that `named` takes.
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Cuda(number) => format!("cuda:{number}"),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`VlmError::Processor`] when this build has no CUDA, or the device cannot be had.
    pub fn open(self) -> Result<Device, VlmError> {
        let failed = |why: String| VlmError::Processor { name: self.name(), why };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !candle_core::utils::cuda_is_available() => {
                Err(failed("this build computes on the CPU only: build it with --features cuda".into()))
            }
            Self::Cuda(number) => Device::new_cuda(number).map_err(|e| failed(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (name, processor) in
            [("cpu", Processor::Cpu), ("cuda", Processor::Cuda(0)), ("cuda:3", Processor::Cuda(3))]
        {
            assert_eq!(Processor::named(name), Some(processor));
            assert_eq!(Processor::named(&processor.name()), Some(processor));
        }
        for wrong in ["gpu", "cuda:", "cuda:-1", "CUDA"] {
            assert_eq!(Processor::named(wrong), None, "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_how_to_get_it() {
        let error = Processor::Cuda(1).open().unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("--features cuda"), "{error}");
    }
}
