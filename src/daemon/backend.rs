//! What answers, by the config: the process of the engine, servers, or both.
//!
//! ```text
//! [model]                            child --load--> Child
//! [model] remote                     cluster --load--> Cluster
//! [model] remote_for = "questions"   both --> Mixed
//! ```
//!
//! It is loaded before the first camera opens: a file that does not read stops the start, not the line. A model that is not
//! accepted or not proven leaves the station up, with reviews and an alarm, so that people can act. A server that cannot be
//! reached stops no start: it is asked again and again.

use super::model::{Accepted, Side};
use super::recipes;
use crate::config::{Config, Model, Remote};
use crate::engine::child::{Child, ChildOptions};
use crate::engine::cluster::Cluster;
use crate::engine::{Admission, Backend, Engine, EngineError, Mixed};
use crate::inspect::proof::{ByNamedProof, ByProof};
use crate::ipc::Program;
use crate::recipe::registry::Registry;
use crate::store::Store;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vlm::ModelInfo;

/// The model, loaded and let in; or the engine without it, with the reason in its health. `alive` is called while a large
/// model loads. `None`: it was given up, because `go_on` no longer holds.
///
/// # Errors
/// A model in files cannot be loaded; the key of the servers or their authorities cannot be read.
pub(super) fn load(
    config: &Config,
    recipes: &Arc<Registry>,
    store: &Arc<Store>,
    alive: &dyn Fn(),
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<Option<Box<dyn Backend>>> {
    let model = &config.model;
    let admission = |side| -> Arc<dyn Admission> {
        let accepted = Accepted::new(side, Arc::clone(store), config, Arc::clone(recipes));
        Arc::new(ByProof(Arc::new(accepted)))
    };
    let begun = |started: Instant, loaded| is_begun(loaded, started.elapsed());
    let here = |side| -> anyhow::Result<Option<Box<dyn Backend>>> {
        let program = engine_program(model, recipes);
        let mut child = Child::new(ChildOptions::new(program, model.unload_after_idle, admission(side)));
        let (started, loaded) = (Instant::now(), child.load(alive, go_on).cloned());
        Ok(begun(started, loaded)?.then(|| Box::new(child) as _))
    };
    let servers = |remote: &Remote, side| -> anyhow::Result<Option<Box<dyn Backend>>> {
        let mut cluster = Cluster::new(remote.options(admission(side)).map_err(anyhow::Error::msg)?)?;
        let (started, loaded) = (Instant::now(), cluster.load(alive, go_on).cloned());
        Ok(begun(started, loaded)?.then(|| Box::new(cluster) as _))
    };
    match &model.remote {
        None => here(Side::Whole),
        Some(remote) if model.has_files() => {
            let Some(here) = here(Side::Files)? else { return Ok(None) };
            let servers = servers(remote, Side::Servers)?;
            Ok(servers.map(|servers| Box::new(Mixed::new(here, servers)) as _))
        }
        Some(remote) => servers(remote, Side::Whole),
    }
}

/// Whether the line begins, with or without what was to be loaded, which took so long.
fn is_begun(loaded: Result<ModelInfo, EngineError>, took: Duration) -> anyhow::Result<bool> {
    match loaded {
        Ok(info) => {
            let ms = took.as_millis() as u64;
            tracing::info!(model = %info.name, sha256 = %info.text_sha256, ms, "model loaded");
        }
        Err(error @ (EngineError::NotAccepted { .. } | EngineError::NotProven { .. })) => {
            tracing::error!(%error, "the line begins without a model: what needs it is a review");
        }
        Err(EngineError::GivenUp) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Another room with the model whose files are there when it is asked for, accepted or not: for the gates of
/// the recipes.
pub(super) fn candidate(model: &Model, recipes: &Registry) -> recipes::Room {
    let (program, has_files) = (engine_program(model, recipes), model.has_files());
    let (remote, named) = (model.remote.clone(), Arc::new(ByProof(Arc::new(ByNamedProof))));
    Box::new(move || {
        let admission = || Arc::clone(&named) as Arc<dyn Admission>;
        let here = || -> anyhow::Result<Box<dyn Backend>> {
            let mut child = Child::new(ChildOptions::new(program.clone(), None, admission()));
            child.load(&|| {}, &|| true)?;
            Ok(Box::new(child))
        };
        let servers = |remote: &Remote| -> anyhow::Result<Box<dyn Backend>> {
            let mut cluster = Cluster::new(remote.options(admission()).map_err(anyhow::Error::msg)?)?;
            cluster.load(&|| {}, &|| true)?;
            Ok(Box::new(cluster))
        };
        let backend = match &remote {
            None => here()?,
            Some(remote) if has_files => Box::new(Mixed::new(here()?, servers(remote)?)),
            Some(remote) => servers(remote)?,
        };
        Ok(Engine::start(backend, Box::new(|| {}))?)
    })
}

/// `inspectd infer` with what the config says of the model, and room for the adapters of the recipes.
fn engine_program(model: &Model, recipes: &Registry) -> Program {
    let (threads, memory_mb) = (model.threads.to_string(), model.memory_mb.to_string());
    let yarn = model.yarn.to_string();
    let mut text: Vec<std::ffi::OsString> = vec![
        "infer".into(),
        "--text".into(),
        model.text.clone().into(),
        "--mmproj".into(),
        model.mmproj.clone().into(),
        "--threads".into(),
        threads.into(),
        "--memory-mb".into(),
        memory_mb.into(),
        "--kv".into(),
        model.kv.name().into(),
        "--yarn".into(),
        yarn.into(),
        "--device".into(),
        model.device.name().into(),
    ];
    let adapters = recipes.adapters_mib();
    if adapters > 0 {
        text.extend(["--adapters-mb".into(), adapters.to_string().into()]);
    }
    if let Some(adapter) = &model.adapter {
        text.extend(["--adapter".into(), adapter.clone().into()]);
    }
    Program::new(text)
}
