//! The desk: where commands from outside (MQTT, HTTP, files) reach the cameras.
//!
//!     Command --> Desk --Request--> queue of its camera (bounded) --> taker
//!                  '--> Refusal, back to the sender
//!
//! A full queue refuses: the sender is told, and no accepted trigger is ever dropped. A trigger for several
//! cameras is taken by all of them or by none. Its acceptance is written before they hear of it, and durable before
//! the sender does, while they take their pictures already.

use crate::domain::part::PartRef;
use crate::domain::pipeline::Pipeline;
use crate::domain::trigger::{Command, Refusal, Request};
use crate::queue::{Policy, Popped, Pushed, Queue};
use crate::store::accepted::Accepted;
use crate::store::error::StoreError;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Triggers that wait for one camera.
pub const WAITING_MAX: usize = 8;

/// The desk of a station; share it in an `Arc`.
pub struct Desk {
    counters: Vec<Arc<Counter>>,
    /// Names of the parts with several views, and the cameras that look at each.
    parts: Vec<(String, Vec<String>)>,
    pipelines: BTreeMap<String, Arc<Pipeline>>,
    store: Arc<Store>,
    /// Held while a trigger is placed: who else would fill the room that was found?
    placing: Mutex<()>,
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

    /// When the trigger came that waits first, after the one that is served.
    pub fn next_received(&self) -> Option<Instant> {
        self.requests.peek(|request| request.received)
    }

    /// Whether a trigger would be taken now; stays so while nobody else places one.
    fn has_room(&self) -> Result<(), Refusal> {
        let camera = || self.id.clone();
        if !self.triggered {
            return Err(Refusal::NotTriggered { camera: camera() });
        }
        if self.is_paused() {
            return Err(Refusal::Paused { camera: camera() });
        }
        if self.requests.is_closed() {
            return Err(Refusal::Stopping);
        }
        if self.requests.counters().depth >= WAITING_MAX {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(camera = %self.id, refused, "a trigger was refused: too many wait");
            return Err(Refusal::Full { camera: camera(), waiting: WAITING_MAX });
        }
        Ok(())
    }

    /// Where `has_room` said so, it is queued: only a close can come in between.
    fn place(&self, request: Request) -> Result<(), Refusal> {
        match self.requests.push(request) {
            Pushed::Queued => Ok(()),
            Pushed::Dropped(_) => Err(Refusal::Full { camera: self.id.clone(), waiting: WAITING_MAX }),
            Pushed::Closed(_) => Err(Refusal::Stopping),
        }
    }

    /// Takes no more; those that wait can still be taken out.
    pub fn close(&self) {
        self.requests.close();
    }
}

impl Desk {
    /// A desk for these cameras and parts (name, cameras); `pipelines` are those that they may be changed to.
    pub const fn new(
        counters: Vec<Arc<Counter>>,
        parts: Vec<(String, Vec<String>)>,
        pipelines: BTreeMap<String, Arc<Pipeline>>,
        store: Arc<Store>,
    ) -> Self {
        Self { counters, parts, pipelines, store, placing: Mutex::new(()) }
    }

    /// Carries a command out or says why not. For a trigger it waits for the disk, once.
    ///
    /// # Errors
    /// The reason, for the sender.
    pub fn take(&self, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Trigger(request) => self.trigger(request),
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
            Command::Retry => match self.store.retry_all() {
                Ok(letters) => {
                    tracing::info!(letters, "what was given up is owed to the broker again");
                    Ok(())
                }
                Err(error) => Err(Refusal::NotStored { reason: error.to_string() }),
            },
        }
    }

    fn trigger(&self, mut request: Request) -> Result<(), Refusal> {
        let takers = match self.part(&request)? {
            Some((name, cameras)) => {
                let id = ulid::Ulid::generate().to_string();
                request.trigger.part_id.get_or_insert_with(|| id.clone());
                let part = PartRef { id, name: name.clone(), cameras: cameras.clone() };
                request.trigger.part = Some(Box::new(part));
                let views = cameras.iter().map(|camera| self.at(Some(camera)));
                views.collect::<Result<Vec<_>, _>>()?.concat()
            }
            None => {
                // Without a camera's name a trigger means every camera that takes triggers.
                let named = request.camera.is_some();
                let mut counters = self.at(request.camera.as_deref())?;
                counters.retain(|c| named || c.triggered);
                counters
            }
        };
        if takers.is_empty() {
            return Err(Refusal::NotTriggered { camera: self.known() });
        }
        let one_at_a_time = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        takers.iter().try_for_each(|counter| counter.has_room())?;
        let accepted = |counter: &&Arc<Counter>| Accepted {
            camera: counter.id.clone(),
            pipeline: counter.pipeline().name.clone(),
            trigger: request.trigger.clone(),
            received: SystemTime::now()
                .checked_sub(request.received.elapsed())
                .unwrap_or(SystemTime::UNIX_EPOCH),
            origin: None,
        };
        let mut noted: Vec<Accepted> = takers.iter().map(accepted).collect();
        let receipt = self.store.accept(&mut noted).map_err(|e| not_stored(&e))?;
        for (i, (counter, accepted)) in takers.iter().zip(&noted).enumerate() {
            let request = Request { trigger: accepted.trigger.clone(), ..request.clone() };
            if let Err(refusal) = counter.place(request) {
                self.store.withdraw(&noted[i..]).map_err(|e| not_stored(&e))?;
                return Err(refusal);
            }
        }
        drop(one_at_a_time);
        self.store.confirm(receipt).map_err(|e| not_stored(&e))
    }

    /// The part that a trigger means: the named one or, without any name, the only one.
    fn part(&self, request: &Request) -> Result<Option<&(String, Vec<String>)>, Refusal> {
        match (&request.part, self.parts.as_slice()) {
            (Some(name), parts) => {
                let known = || parts.iter().map(|p| p.0.as_str()).collect::<Vec<_>>().join(", ");
                let found = parts.iter().find(|p| p.0 == *name);
                found.map(Some).ok_or_else(|| Refusal::NoPart { part: name.clone(), known: known() })
            }
            (None, [only]) if request.camera.is_none() => Ok(Some(only)),
            (None, _) => Ok(None),
        }
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
        // Not between the cameras of one trigger.
        let _one_at_a_time = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        self.counters.iter().for_each(|c| c.close());
    }
}

fn not_stored(error: &StoreError) -> Refusal {
    Refusal::NotStored { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::domain::frame::Trigger;
    use crate::store::StoreOptions;

    /// A store that lasts as long as the process.
    fn store() -> Arc<Store> {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap())
    }

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
        Desk::new(counters, vec![], known.into_iter().collect(), store())
    }

    /// Three cameras; two parts share the second.
    fn desk_of_parts() -> Desk {
        let mut desk = desk();
        let plate = desk.counters[0].pipeline();
        desk.counters =
            ["top", "side", "back"].map(|id| Arc::new(Counter::new(id, true, Arc::clone(&plate)))).into();
        let part = |name: &str, cameras: [&str; 2]| (name.to_owned(), cameras.map(str::to_owned).to_vec());
        desk.parts = vec![part("housing", ["top", "side"]), part("cover", ["side", "back"])];
        desk
    }

    fn waiting(desk: &Desk) -> Vec<usize> {
        desk.counters.iter().map(|c| c.requests.counters().depth).collect()
    }

    fn trigger(camera: Option<&str>) -> Command {
        let trigger = Trigger { part_id: Some("P1".into()), ..Trigger::default() };
        Command::Trigger(Request {
            camera: camera.map(Into::into),
            part: None,
            trigger,
            received: Instant::now(),
        })
    }

    fn of_part(part: &str, part_id: Option<&str>) -> Command {
        let trigger = Trigger { part_id: part_id.map(Into::into), ..Trigger::default() };
        Command::Trigger(Request { camera: None, part: Some(part.into()), trigger, received: Instant::now() })
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

    #[test]
    fn a_part_goes_to_all_its_cameras_under_one_id() {
        let desk = desk_of_parts();
        assert_eq!(desk.take(of_part("housing", Some("P7"))), Ok(()));
        assert_eq!(waiting(&desk), [1, 1, 0]);
        let views = [0, 1].map(|i| match desk.counters[i].next(Duration::ZERO) {
            Popped::Item(request) => request.trigger,
            other => panic!("{other:?}"),
        });
        let tickets = [0, 1].map(|i| views[i].ticket.unwrap());
        assert_ne!(tickets[0], tickets[1]);
        let part = views[0].part.as_ref().unwrap();
        assert_eq!((part.name.as_str(), views[0].part_id.as_deref()), ("housing", Some("P7")));
        assert_eq!(part.cameras, ["top", "side"]);
        assert_eq!(desk.take(of_part("cover", None)), Ok(()));
        let Popped::Item(request) = desk.counters[2].next(Duration::ZERO) else { panic!("nothing came") };
        assert_eq!(
            request.trigger.part_id,
            request.trigger.part.map(|p| p.id),
            "a part without an id gets one"
        );
        assert_eq!(desk.take(of_part("lid", None)).unwrap_err().code(), "no_part");
    }

    #[test]
    fn a_part_is_taken_by_all_its_cameras_or_by_none() {
        let desk = desk_of_parts();
        assert_eq!(desk.take(Command::Pause { camera: Some("back".into()) }), Ok(()));
        assert_eq!(desk.take(of_part("cover", None)).unwrap_err().code(), "paused");
        assert_eq!(waiting(&desk), [0, 0, 0]);
        for _ in 0..WAITING_MAX {
            assert_eq!(desk.take(trigger(Some("side"))), Ok(()));
        }
        assert_eq!(desk.take(of_part("housing", None)).unwrap_err().code(), "full");
        assert_eq!(desk.take(trigger(None)).unwrap_err().code(), "full", "all that take triggers, or none");
        assert_eq!(waiting(&desk), [0, WAITING_MAX, 0]);
    }

    #[test]
    fn the_only_part_needs_no_name_and_a_named_camera_is_no_part() {
        let mut desk = desk_of_parts();
        assert_eq!(desk.take(Command::Resume { camera: None }), Ok(()));
        desk.parts.truncate(1);
        assert_eq!(desk.take(trigger(None)), Ok(()));
        assert_eq!(waiting(&desk), [1, 1, 0]);
        assert_eq!(desk.take(trigger(Some("back"))), Ok(()));
        let Popped::Item(request) = desk.counters[2].next(Duration::ZERO) else { panic!("nothing came") };
        assert_eq!(request.trigger.part, None);
    }
}
