//! One camera's place at the dispatcher: its orders, and the triggers that wait for it.

use super::commanded::{Commanded, Orders, Recipe};
use crate::config::{Camera, TriggerOn, unfit};
use crate::domain::camera::LineState;
use crate::domain::pipeline::Pipeline;
use crate::domain::trigger::{Refusal, Request};
use crate::queue::{Policy, Popped, Pushed, Queue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Triggers that wait for one camera.
pub(super) const WAITING_MAX: usize = 8;

/// Share it in an `Arc`.
pub(super) struct Counter {
    camera: Camera,
    orders: Mutex<Orders>,
    requests: Queue<Request>,
}

/// What a command changes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Pause,
    Resume,
    Pipeline(Arc<Pipeline>),
}

impl Counter {
    /// A place with the orders that hold now.
    pub(super) fn new(camera: &Camera, orders: Orders) -> Self {
        Self {
            camera: camera.clone(),
            orders: Mutex::new(orders),
            requests: Queue::new(Policy::DropNewest, WAITING_MAX),
        }
    }

    /// `id` of the camera.
    pub(super) fn id(&self) -> &str {
        &self.camera.id
    }

    /// False when the camera's own trigger decides.
    pub(super) fn is_triggered(&self) -> bool {
        self.camera.trigger.on == TriggerOn::Command
    }

    /// The recipe for the next picture.
    pub(super) fn pipeline(&self) -> Arc<Pipeline> {
        Arc::clone(&self.orders().pipeline)
    }

    /// No pictures are taken: it was commanded, or there is no recipe to judge them by.
    pub(super) fn is_paused(&self) -> bool {
        let orders = self.orders();
        orders.commanded.paused_by.is_some() || orders.no_recipe.is_some()
    }

    /// As the station says it, and why nothing may be judged.
    pub(super) fn line(&self) -> (LineState, Option<String>) {
        let orders = self.orders();
        (orders.line(), orders.no_recipe.clone())
    }

    /// The next request, waiting for one at most so long.
    pub(super) fn next(&self, wait: Duration) -> Popped<Request> {
        self.requests.pop(Some(wait))
    }

    /// When the trigger came that waits first, after the one that is served.
    pub(super) fn next_received(&self) -> Option<Instant> {
        self.requests.peek(|request| request.received)
    }

    /// Whether a trigger would be taken now; stays so while nobody else places one.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn has_room(&self) -> Result<(), Refusal> {
        let camera = || self.camera.id.clone();
        if !self.is_triggered() {
            return Err(Refusal::NotTriggered { camera: camera() });
        }
        if self.orders().commanded.paused_by.is_some() {
            return Err(Refusal::Paused { camera: camera() });
        }
        if let Some(reason) = self.orders().no_recipe.clone() {
            return Err(Refusal::Fault { camera: camera(), reason });
        }
        if self.requests.is_closed() {
            return Err(Refusal::Stopping);
        }
        if self.waiting() >= WAITING_MAX {
            return Err(Refusal::Full { camera: camera(), waiting: WAITING_MAX });
        }
        Ok(())
    }

    /// Triggers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.requests.counters().depth
    }

    /// Where `has_room` said so, it is queued: only a close can come in between.
    ///
    /// # Errors
    /// `Stopping`.
    pub(super) fn place(&self, request: Request) -> Result<(), Refusal> {
        match self.requests.push(request) {
            Pushed::Queued => Ok(()),
            Pushed::Dropped(_) => Err(Refusal::Full { camera: self.camera.id.clone(), waiting: WAITING_MAX }),
            Pushed::Closed(_) => Err(Refusal::Stopping),
        }
    }

    /// What is to be kept when `change` is commanded.
    ///
    /// # Errors
    /// `Unfit`: the pipeline is none for this camera, by the checks that the config's own has passed.
    pub(super) fn after(&self, change: &Change, by: &str, at: &str) -> Result<Commanded, Refusal> {
        let mut commanded = self.orders().commanded.clone();
        commanded.since = Some(at.to_owned());
        match change {
            Change::Pause => commanded.paused_by = Some(by.to_owned()),
            Change::Resume => commanded.paused_by = None,
            Change::Pipeline(pipeline) => {
                if let Some(reason) = unfit(&self.camera, pipeline) {
                    let (camera, pipeline) = (self.camera.id.clone(), pipeline.name.clone());
                    return Err(Refusal::Unfit { camera, pipeline, reason });
                }
                commanded.recipe = Some(Recipe {
                    pipeline: pipeline.name.clone(),
                    version: pipeline.version.clone(),
                    configured: self.camera.pipeline.clone(),
                    by: by.to_owned(),
                });
            }
        }
        Ok(commanded)
    }

    /// Whether a version of the pipeline that this camera runs goes with it; of another pipeline every one does.
    ///
    /// # Errors
    /// `Unfit`.
    pub(super) fn fits(&self, pipeline: &Pipeline) -> Result<(), Refusal> {
        let runs = self.pipeline().name == pipeline.name;
        match unfit(&self.camera, pipeline).filter(|_| runs) {
            None => Ok(()),
            Some(reason) => {
                let (camera, pipeline) = (self.camera.id.clone(), pipeline.name.clone());
                Err(Refusal::Unfit { camera, pipeline, reason })
            }
        }
    }

    /// True when this camera runs the pipeline: its next picture is judged by this version.
    pub(super) fn renew(&self, pipeline: &Arc<Pipeline>) -> bool {
        let mut orders = self.orders();
        let runs = orders.pipeline.name == pipeline.name;
        if runs {
            orders.pipeline = Arc::clone(pipeline);
        }
        runs
    }

    /// From now on it holds; it is durable already.
    pub(super) fn apply(&self, change: &Change, commanded: Commanded) {
        let mut orders = self.orders();
        orders.commanded = commanded;
        if let Change::Pipeline(pipeline) = change {
            (orders.pipeline, orders.no_recipe) = (Arc::clone(pipeline), None);
        }
    }

    /// Takes no more; those that wait can still be taken out.
    pub(super) fn close(&self) {
        self.requests.close();
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::camera::kind::{SourceConfig, simulator};
    use crate::config::{QueueConfig, TriggerConfig};
    use crate::simulator::Product;

    /// A camera that no test opens.
    pub(crate) fn camera(id: &str, on: TriggerOn) -> Camera {
        Camera {
            id: id.into(),
            source: SourceConfig::Simulator(simulator::Config {
                product: &Product::ALL[0],
                seed: 1,
                count: None,
                width_px: 64,
                height_px: 64,
            }),
            pipeline: "machined-plate".into(),
            trigger: TriggerConfig { on, ..TriggerConfig::default() },
            queue: QueueConfig { policy: Policy::Wait, frames: 1 },
        }
    }
}
