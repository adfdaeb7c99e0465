//! The desk: where commands from outside (MQTT, HTTP) reach the cameras.
//!
//!     Command --> Desk --Request--> queue of its camera (bounded) --> taker
//!                  '--> Refusal, back to the sender
//!
//! A full queue refuses: the sender is told, and no accepted trigger is ever dropped.

use crate::domain::pipeline::Pipeline;
use crate::domain::trigger::{Command, Refusal, Request};
use crate::queue::{Policy, Popped, Pushed, Queue};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Triggers that wait for one camera.
pub const WAITING_MAX: usize = 8;

/// The desk of a station; share it in an `Arc`.
pub struct Desk {
    counters: Vec<Arc<Counter>>,
    pipelines: BTreeMap<String, Arc<Pipeline>>,
}

/// One camera's place at the desk.
pub struct Counter {
    id: String,
    /// False when the camera's own trigger decides.
    triggered: bool,
    paused: AtomicBool,
    pipeline: Mutex<Arc<Pipeline>>,
    requests: Queue<Request>,
    refused: AtomicU64,
}

impl Counter {
    /// A place that is not paused.
    pub fn new(id: &str, triggered: bool, pipeline: Arc<Pipeline>) -> Self {
        Self {
            id: id.to_owned(),
            triggered,
            paused: AtomicBool::new(false),
            pipeline: Mutex::new(pipeline),
            requests: Queue::new(Policy::DropNewest, WAITING_MAX),
            refused: AtomicU64::new(0),
        }
    }

    /// The recipe for the next picture.
    pub fn pipeline(&self) -> Arc<Pipeline> {
        Arc::clone(&self.pipeline.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The next request, waiting for one at most so long.
    pub fn next(&self, wait: Duration) -> Popped<Request> {
        self.requests.pop(Some(wait))
    }

    fn trigger(&self, request: Request) -> Result<(), Refusal> {
        let camera = || self.id.clone();
        if !self.triggered {
            return Err(Refusal::NotTriggered { camera: camera() });
        }
        if self.is_paused() {
            return Err(Refusal::Paused { camera: camera() });
        }
        match self.requests.push(request) {
            Pushed::Queued => Ok(()),
            Pushed::Dropped(_) => {
                let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(camera = %self.id, refused, "a trigger was refused: too many wait");
                Err(Refusal::Full { camera: camera(), waiting: WAITING_MAX })
            }
            Pushed::Closed(_) => Err(Refusal::Stopping),
        }
    }
}

impl Desk {
    /// A desk for these cameras; `pipelines` are those that they may be changed to.
    pub const fn new(counters: Vec<Arc<Counter>>, pipelines: BTreeMap<String, Arc<Pipeline>>) -> Self {
        Self { counters, pipelines }
    }

    /// Carries a command out or says why not; never waits.
    ///
    /// # Errors
    /// The reason, for the sender.
    pub fn take(&self, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Trigger(request) => self.trigger(&request),
            Command::Pause { camera } => {
                self.at(camera.as_deref())?.iter().for_each(|c| c.paused.store(true, Ordering::Relaxed));
                Ok(())
            }
            Command::Resume { camera } => {
                self.at(camera.as_deref())?.iter().for_each(|c| c.paused.store(false, Ordering::Relaxed));
                Ok(())
            }
            Command::Pipeline { camera, pipeline } => {
                let Some(found) = self.pipelines.get(&pipeline) else {
                    let known: Vec<_> = self.pipelines.keys().map(String::as_str).collect();
                    return Err(Refusal::NoPipeline { pipeline, known: known.join(", ") });
                };
                for counter in self.at(camera.as_deref())? {
                    *counter.pipeline.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(found);
                }
                Ok(())
            }
        }
    }

    /// Without a camera's name a trigger means every camera that takes triggers.
    fn trigger(&self, request: &Request) -> Result<(), Refusal> {
        let named = request.camera.is_some();
        let counters = self.at(request.camera.as_deref())?;
        let takers: Vec<_> = counters.iter().filter(|c| named || c.triggered).collect();
        if takers.is_empty() {
            return Err(Refusal::NotTriggered { camera: self.known() });
        }
        takers.iter().try_for_each(|counter| counter.trigger(request.clone()))
    }

    fn at(&self, camera: Option<&str>) -> Result<Vec<&Arc<Counter>>, Refusal> {
        let found: Vec<_> = self.counters.iter().filter(|c| camera.is_none_or(|id| id == c.id)).collect();
        match camera {
            Some(camera) if found.is_empty() => {
                Err(Refusal::NoCamera { camera: camera.to_owned(), known: self.known() })
            }
            _ => Ok(found),
        }
    }

    fn known(&self) -> String {
        let ids: Vec<_> = self.counters.iter().map(|c| c.id.as_str()).collect();
        ids.join(", ")
    }

    /// No more triggers; those that wait are still served.
    pub fn close(&self) {
        self.counters.iter().for_each(|c| c.requests.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::domain::frame::Trigger;
    use std::time::Instant;

    fn desk() -> Desk {
        let pipeline = |name: &str| {
            let text = std::fs::read_to_string(format!("pipelines/{name}.toml")).unwrap();
            Arc::new(config::pipeline_from_str(name, &text).unwrap())
        };
        let (plate, any) = (pipeline("machined-plate"), pipeline("any-part"));
        let counters = vec![
            Arc::new(Counter::new("cam1", true, Arc::clone(&plate))),
            Arc::new(Counter::new("cam2", false, Arc::clone(&plate))),
        ];
        let known = [plate, any].map(|p| (p.name.clone(), p));
        Desk::new(counters, known.into_iter().collect())
    }

    fn trigger(camera: Option<&str>) -> Command {
        let trigger = Trigger { part_id: Some("P1".into()), ..Trigger::default() };
        Command::Trigger(Request { camera: camera.map(Into::into), trigger, received: Instant::now() })
    }

    #[test]
    fn a_trigger_reaches_its_camera_or_is_refused_with_its_reason() {
        let desk = desk();
        assert_eq!(desk.take(trigger(None)), Ok(()));
        assert_eq!(desk.take(trigger(Some("cam1"))), Ok(()));
        assert_eq!(desk.take(trigger(Some("cam2"))).unwrap_err().code(), "not_triggered");
        assert_eq!(desk.take(trigger(Some("cam3"))).unwrap_err().code(), "no_camera");
        for _ in 0..2 {
            assert!(
                matches!(desk.counters[0].next(Duration::ZERO), Popped::Item(r) if r.trigger.part_id.is_some())
            );
        }
        assert_eq!(desk.counters[0].next(Duration::ZERO), Popped::TimedOut);
    }

    #[test]
    fn a_full_a_paused_and_a_closed_desk_refuse() {
        let desk = desk();
        for _ in 0..WAITING_MAX {
            assert_eq!(desk.take(trigger(None)), Ok(()));
        }
        assert_eq!(desk.take(trigger(None)).unwrap_err().code(), "full");
        assert_eq!(desk.counters[0].refused.load(Ordering::Relaxed), 1);
        assert_eq!(desk.take(Command::Pause { camera: None }), Ok(()));
        assert_eq!(desk.take(trigger(None)).unwrap_err().code(), "paused");
        assert_eq!(desk.take(Command::Resume { camera: Some("cam1".into()) }), Ok(()));
        desk.close();
        assert_eq!(desk.take(trigger(None)).unwrap_err().code(), "stopping");
    }

    #[test]
    fn a_pipeline_is_changed_to_a_known_one_only() {
        let desk = desk();
        let change = |pipeline: &str| Command::Pipeline { camera: None, pipeline: pipeline.into() };
        assert_eq!(desk.take(change("nowhere")).unwrap_err().code(), "no_pipeline");
        assert_eq!(desk.take(change("any-part")), Ok(()));
        assert_eq!(desk.counters[0].pipeline().name, "any-part");
    }
}
