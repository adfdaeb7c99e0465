//! Which model a command uses. As on the line, it answers only after it has given the proof that it names.
//!
//! A config may name servers that have it: who asks whole questions asks them there, by `open`. Who looks into the model
//! itself needs its files.

use crate::config::{Config, Remote, SHIPPED_MMPROJ, SHIPPED_TEXT, Share};
use crate::document::search::Search;
use crate::engine::cluster::Cluster;
use crate::engine::{Backend as _, MixedVlm};
use crate::inspect::proof::{ByNamedProof, ByProof, give_named};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vlm::engine::EngineOptions;
use vlm::kv::KvPrecision;
use vlm::processor::Processor;
use vlm::{Qwen3Vl, Vlm};

/// The model pair; the shipped small model unless another one is named.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ModelArgs {
    /// Text model (GGUF, architecture qwen3vl) [default: the shipped small model, in the working directory,
    /// fixtures/model, /etc/inspectd or /usr/share/inspectd].
    #[arg(long, value_name = "FILE", env = "INSPECTD_MODEL__TEXT", requires = "mmproj")]
    pub model: Option<PathBuf>,
    /// Vision model of the same pair (GGUF, projector `qwen3vl_merger`).
    #[arg(long, value_name = "FILE", env = "INSPECTD_MODEL__MMPROJ", requires = "model")]
    pub mmproj: Option<PathBuf>,
    /// Adapter of the pair (GGUF): what it adds makes another model of it.
    #[arg(long, value_name = "FILE", env = "INSPECTD_MODEL__ADAPTER")]
    pub adapter: Option<PathBuf>,
    /// Threads of the engine; 0: all cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Memory for the whole engine in MiB, as `[model] memory_mb`: keys and values get what weights and work leave; 0: up to
    /// 1 GiB for keys and values, whatever the weights take.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub memory_mb: u64,
    /// What keys and values are kept in: f16, f32 in twice the memory, or q8 in half.
    #[arg(long, value_name = "TYPE", value_parser = kv, default_value = "f16")]
    pub kv: KvPrecision,
    /// Context beyond that of the training, so many times, by YaRN; 0: what the text model's file says. It changes the
    /// answers to short questions too.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(0..=256), default_value_t = 0)]
    pub yarn: u32,
    /// What computes: cpu, or cuda and cuda:N in a build with that feature.
    #[arg(long, value_name = "DEVICE", value_parser = processor, default_value = "cpu")]
    pub device: Processor,
    /// The config's servers, where no pair is named: they answer all questions, or those beside features.
    #[arg(skip)]
    pub remote: Option<Remote>,
}

pub(super) fn kv(name: &str) -> Result<KvPrecision, String> {
    KvPrecision::named(name).ok_or_else(|| format!("one of {} expected", KvPrecision::NAMES.join(", ")))
}

pub(super) fn processor(name: &str) -> Result<Processor, String> {
    Processor::named(name).ok_or_else(|| format!("one of {} expected", Processor::NAMES.join(", ")))
}

impl ModelArgs {
    /// These arguments, with what they leave open taken from a config.
    pub(super) fn or_config(&self, config: Option<&Config>) -> Self {
        let remote = config.and_then(|c| c.model.remote.clone()).filter(|_| self.model.is_none());
        // A pair in the place of the config's servers has no keys there.
        let model = config.map(|c| &c.model).filter(|model| model.has_files());
        Self {
            remote,
            model: self.model.clone().or_else(|| model.map(|m| m.text.clone())),
            mmproj: self.mmproj.clone().or_else(|| model.map(|m| m.mmproj.clone())),
            // The config's adapter is of the config's pair.
            adapter: self
                .adapter
                .clone()
                .or_else(|| model.filter(|_| self.model.is_none()).and_then(|m| m.adapter.clone())),
            threads: if self.threads == 0 { model.map_or(0, |m| m.threads) } else { self.threads },
            memory_mb: if self.memory_mb == 0 { model.map_or(0, |m| m.memory_mb) } else { self.memory_mb },
            device: if self.device == Processor::default() {
                model.map_or(self.device, |m| m.device)
            } else {
                self.device
            },
            yarn: if self.yarn == 0 { model.map_or(0, |m| m.yarn) } else { self.yarn },
            kv: if self.kv == KvPrecision::default() { model.map_or(self.kv, |m| m.kv) } else { self.kv },
        }
    }

    /// Both files.
    ///
    /// # Errors
    /// None is named, and the shipped pair is nowhere; the config names servers.
    pub(super) fn files(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        if self.remote.as_ref().is_some_and(|remote| remote.share == Share::All) {
            bail!(
                "[model] remote: servers have the model, and this command needs its files: name a pair with --model and \
                 --mmproj"
            );
        }
        Ok((
            or_shipped(self.model.as_ref(), SHIPPED_TEXT)?,
            or_shipped(self.mmproj.as_ref(), SHIPPED_MMPROJ)?,
        ))
    }

    /// What answers: the config's servers, the pair as `load` has it, or both.
    ///
    /// # Errors
    /// As `load`; no server was let in.
    pub(super) fn open(&self) -> anyhow::Result<Box<dyn Vlm>> {
        let Some(remote) = &self.remote else { return Ok(Box::new(self.load()?)) };
        let options =
            remote.options(Arc::new(ByProof(Arc::new(ByNamedProof)))).map_err(anyhow::Error::msg)?;
        let mut cluster = Cluster::new(options)?;
        cluster.load(&|| {}, &|| true)?;
        if let Some(fault) = &cluster.health().fault {
            tracing::warn!("{fault}");
        }
        Ok(match remote.share {
            Share::All => Box::new(cluster),
            Share::Questions => Box::new(MixedVlm::new(self.load()?, cluster)),
        })
    }

    /// Loads the pair and has it give its proof.
    ///
    /// # Errors
    /// As `Qwen3Vl::load`; the pair does not answer known pictures as it must.
    pub(super) fn load(&self) -> anyhow::Result<Qwen3Vl> {
        let mut engine = self.load_unproven()?;
        self.prove(&mut engine)?;
        Ok(engine)
    }

    /// Loads the pair alone.
    ///
    /// # Errors
    /// As `files` and `Qwen3Vl::load`.
    pub(super) fn load_unproven(&self) -> anyhow::Result<Qwen3Vl> {
        let (text, mmproj) = self.files()?;
        let options = EngineOptions {
            threads: self.threads,
            memory_mb: self.memory_mb,
            kv: self.kv,
            yarn: self.yarn,
            ..EngineOptions::default()
        };
        let engine =
            Qwen3Vl::load_with(&text, &mmproj, self.adapter.as_deref(), options, &self.device.open()?)?;
        engine.model().notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(engine)
    }

    /// Has the loaded pair give its proof.
    ///
    /// # Errors
    /// It does not answer known pictures as it must.
    pub(super) fn prove(&self, engine: &mut Qwen3Vl) -> anyhow::Result<()> {
        let (text, mmproj) = self.files()?;
        give_named(engine).with_context(|| {
            format!("the pair {} and {} is not proven to be whole", text.display(), mmproj.display())
        })
    }
}

/// The file that was named, or the shipped one.
pub(super) fn or_shipped(named: Option<&PathBuf>, shipped: &str) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.clone());
    }
    let search = Search::without_config();
    let path = search.model(Path::new(shipped));
    if !path.is_file() {
        bail!("{}; name a pair with --model and --mmproj", search.missing_model(&path));
    }
    Ok(path)
}
