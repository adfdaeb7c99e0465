//! The one owner of the model: loads it when work comes, gives it back when none does.
//!
//!     absent --work--> loaded --idle for long enough, or the engine panicked--> absent
//!                  '--loading failed--> absent, and the work is a review(engine)
//!
//! A panic leaves the engine in a state that nobody can vouch for, so it is dropped and loaded anew.

use super::{inspect_all, uninspected, Work};
use crate::domain::grade::Reason;
use crate::domain::inspection::Inspection;
use crate::vlm::{ModelInfo, Vlm, VlmError};
use std::time::{Duration, Instant};

/// Makes the model.
pub type Loader = Box<dyn FnMut() -> Result<Box<dyn Vlm + Send>, VlmError> + Send>;

/// The model, there or not.
pub struct Worker {
    load: Loader,
    vlm: Option<Box<dyn Vlm + Send>>,
    unload_after_idle: Option<Duration>,
    last_work: Instant,
    info: ModelInfo,
}

impl Worker {
    /// A worker without its model; `None` keeps a loaded model for ever.
    pub fn new(load: Loader, unload_after_idle: Option<Duration>) -> Self {
        Self { load, vlm: None, unload_after_idle, last_work: Instant::now(), info: ModelInfo::default() }
    }

    /// Loads the model now.
    ///
    /// # Errors
    /// The loader's.
    pub fn load(&mut self) -> Result<&ModelInfo, VlmError> {
        let vlm = (self.load)()?;
        self.info = vlm.info().clone();
        self.vlm = Some(vlm);
        self.last_work = Instant::now();
        Ok(&self.info)
    }

    /// Name and hashes of the model; empty until it was first loaded.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// True while the model is in memory.
    pub const fn is_loaded(&self) -> bool {
        self.vlm.is_some()
    }

    /// Inspects frames together; loads the model when it is not there. `alive` is called between the
    /// passes of the engine.
    pub fn inspect(&mut self, work: &[Work<'_>], alive: &dyn Fn()) -> Vec<Inspection> {
        if self.vlm.is_none() {
            if let Err(e) = self.load() {
                let fault = || Reason::Engine { message: e.to_string() };
                return work.iter().map(|w| uninspected(w.frame, w.pipeline, &self.info, fault())).collect();
            }
        }
        let Some(vlm) = &mut self.vlm else { return vec![] };
        let done = inspect_all(vlm.as_mut(), work, alive);
        self.last_work = Instant::now();
        if done.engine_broken {
            self.vlm = None;
        }
        done.inspections
    }

    /// Gives the model back when it had no work for long enough; true when it did.
    pub fn unload_if_idle(&mut self) -> bool {
        let idle = self.unload_after_idle.is_some_and(|limit| self.last_work.elapsed() >= limit);
        idle && self.vlm.take().is_some()
    }
}
