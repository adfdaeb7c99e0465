//! One camera's intake: its orders, and the accepted triggers that wait for it.
//!
//! ```text
//! trigger --pipeline()--> Awaited, with the active version --queue--> next() --in_force()--> clip, depth, record
//! ```
//!
//! Invariant: a trigger is judged by the version of its recipe that was active when it was accepted, whatever becomes
//! active before its picture is taken. The dispatcher changes no orders while it accepts a trigger, so that all views
//! of a part that share a pipeline are judged by one version.

use super::commanded::{Commanded, Orders, Recipe};
use crate::config::{Camera, TriggerOn, unfit};
use crate::domain::camera::{CameraLoad, LineState};
use crate::domain::frame::Trigger;
use crate::domain::pipeline::Pipeline;
use crate::domain::trigger::Refusal;
use crate::queue::{Policy, Popped, Pushed, Queue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Triggers that wait for one camera.
pub(super) const WAITING_MAX: usize = 8;

/// An inspection that is awaited.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Awaited {
    pub trigger: Trigger,
    /// When the trigger came; its deadline counts from here.
    pub received: Instant,
    /// The recipe that judges it.
    pub pipeline: Arc<Pipeline>,
}

/// Share it in an `Arc`.
pub(super) struct Intake {
    camera: Camera,
    orders: Mutex<Orders>,
    waiting: Queue<Awaited>,
    /// The recipe of the trigger that is served.
    served: Mutex<Option<Arc<Pipeline>>>,
}

/// What a command changes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Pause,
    Resume,
    Pipeline(Arc<Pipeline>),
}

impl Intake {
    /// An intake with the orders that hold now.
    pub(super) fn new(camera: &Camera, orders: Orders) -> Self {
        Self {
            camera: camera.clone(),
            orders: Mutex::new(orders),
            waiting: Queue::new(Policy::DropNewest, WAITING_MAX),
            served: Mutex::default(),
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

    /// The active recipe: that of the next trigger and, for a camera that takes none, of the next picture.
    pub(super) fn pipeline(&self) -> Arc<Pipeline> {
        Arc::clone(&self.orders().pipeline)
    }

    /// The recipe of the picture that is being taken: that of the trigger that is served or, without one, the active.
    pub(super) fn in_force(&self) -> Arc<Pipeline> {
        let served = self.served().clone();
        served.unwrap_or_else(|| self.pipeline())
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

    /// The next trigger, waiting for one at most so long. It is served until the next call.
    pub(super) fn next(&self, wait: Duration) -> Popped<Awaited> {
        *self.served() = None;
        let next = self.waiting.pop(Some(wait));
        if let Popped::Item(awaited) = &next {
            *self.served() = Some(Arc::clone(&awaited.pipeline));
        }
        next
    }

    /// When the trigger came that waits first, after the one that is served.
    pub(super) fn next_received(&self) -> Option<Instant> {
        self.waiting.peek(|awaited| awaited.received)
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
        if self.waiting.is_closed() {
            return Err(Refusal::Stopping);
        }
        if self.waiting() >= WAITING_MAX {
            return Err(Refusal::Full { camera: camera(), waiting: WAITING_MAX });
        }
        Ok(())
    }

    /// What waits here; `frames` wait for the inspector.
    pub(super) fn load(&self, frames: usize) -> CameraLoad {
        let own = self.camera.trigger.deadline_ms.map(Duration::from_millis);
        CameraLoad {
            is_triggered: self.is_triggered(),
            is_taking: self.served().is_some(),
            triggers: self.waiting(),
            frames,
            frames_max: self.camera.queue.frames,
            deadline: own.unwrap_or_else(|| self.pipeline().verdict.deadline),
        }
    }

    /// Triggers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.counters().depth
    }

    /// Where `has_room` said so, it is queued: only a close can come in between.
    ///
    /// # Errors
    /// `Stopping`.
    pub(super) fn place(&self, awaited: Awaited) -> Result<(), Refusal> {
        match self.waiting.push(awaited) {
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

    /// True when this camera runs the pipeline: what it accepts from now on is judged by this version.
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
        self.waiting.close();
    }

    fn served(&self) -> MutexGuard<'_, Option<Arc<Pipeline>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
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
