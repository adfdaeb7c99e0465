//! The dispatcher: where commands from outside (MQTT, HTTP, PLCs, files) reach the cameras.
//!
//! ```text
//! Command --> Dispatcher --trigger, once (`repeats`)--> accepted, in the store --> queue of its camera (bounded) --> capture loop
//!              |--reload--> thread of recipes (`recipes`) --renew--> its pipeline's cameras
//!              |--pause, resume, pipeline--> durable (`commanded`) --> its camera's orders (`intake`)
//!              '--> Refusal, back to the sender
//! ```
//!
//! A full queue refuses: the sender is told, and no accepted trigger is ever dropped. A trigger for several
//! cameras is taken by all of them or by none. Its acceptance is written before they hear of it, and durable before
//! the sender does, while they take their pictures already.

use super::inbox::Fates;
use super::intake::{Awaited, Change, Intake};
use super::recipes::Renewed;
use super::repeats::{self, Identity, Look, Repeats};
use super::station::Station;
use crate::domain::part::PartRef;
use crate::domain::pipeline::Pipeline;
use crate::domain::trigger::{Command, Outcome, Refusal, Request, Sender};
use crate::recipe::registry::{Recipe, Registry};
use crate::store::accepted::Accepted;
use crate::store::error::StoreError;
use crate::store::record::rfc3339;
use crate::store::{Flush, Store};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

/// Carries `cmd/reload` out.
pub(super) type Reload = Box<dyn Fn(&Sender) -> Result<(), Refusal> + Send + Sync>;

/// The dispatcher of a station; share it in an `Arc`.
pub(super) struct Dispatcher {
    intakes: Vec<Arc<Intake>>,
    /// Names of the parts with several views, and the cameras that look at each.
    parts: Vec<(String, Vec<String>)>,
    recipes: Arc<Registry>,
    store: Arc<Store>,
    station: Arc<Station>,
    /// Who looks at the folder of recipes.
    reload: OnceLock<Reload>,
    /// Held while a command is carried out: who else would fill the room that was found?
    repeats: Mutex<Repeats>,
}

impl Dispatcher {
    /// A dispatcher for these cameras and parts (name, cameras); `recipes` are those that they may be changed to.
    ///
    /// # Errors
    /// [`StoreError`]: what former processes have accepted cannot be read.
    pub(super) fn new(
        intakes: Vec<Arc<Intake>>,
        parts: Vec<(String, Vec<String>)>,
        recipes: Arc<Registry>,
        store: Arc<Store>,
        station: Arc<Station>,
    ) -> Result<Self, StoreError> {
        let repeats = Mutex::new(Repeats::restore(store.answered()?));
        Ok(Self { intakes, parts, recipes, store, station, reload: OnceLock::new(), repeats })
    }

    /// Carries a command out or says why not; a trigger gets its id. It waits for the disk, once a camera.
    ///
    /// # Errors
    /// The reason, for the sender.
    pub(super) fn carry_out(&self, command: Command, sender: &Sender) -> Outcome {
        match command {
            Command::Trigger(request) => return self.trigger(*request, sender),
            Command::Pause { camera } => self.change(camera.as_deref(), || Ok(Change::Pause), sender)?,
            Command::Resume { camera } => self.change(camera.as_deref(), || Ok(Change::Resume), sender)?,
            Command::Pipeline { camera, pipeline } => {
                let found = || match self.recipes.pipeline(&pipeline) {
                    Some(found) => Ok(Change::Pipeline(found)),
                    None => {
                        let known = self.recipes.names().join(", ");
                        Err(Refusal::NoPipeline { pipeline: pipeline.clone(), known })
                    }
                };
                self.change(camera.as_deref(), found, sender)?;
            }
            Command::Reload => {
                let reload = self.reload.get().ok_or(Refusal::Starting)?;
                reload(sender)?;
            }
            Command::Retry => {
                let letters = self.store.retry_all().map_err(|e| not_stored(&e))?;
                tracing::info!(letters, "what was given up is owed to the broker again");
            }
        }
        Ok(None)
    }

    /// Changes what cameras are to do: all of those that are meant or, when one does not go, none.
    /// `change` is made while nothing else changes: a version that becomes active meanwhile is in it or comes after it.
    fn change(
        &self,
        camera: Option<&str>,
        change: impl FnOnce() -> Result<Change, Refusal>,
        sender: &Sender,
    ) -> Result<(), Refusal> {
        let intakes = self.at(camera)?;
        let _one_at_a_time = self.lock();
        let change = &change()?;
        let (by, at) = (sender.to_string(), rfc3339(SystemTime::now()));
        let after = intakes.iter().map(|intake| intake.after(change, &by, &at));
        let after = after.collect::<Result<Vec<_>, _>>()?;
        for (done, (intake, commanded)) in intakes.iter().zip(after).enumerate() {
            if let Err(error) = commanded.remember(intake.id(), &self.store) {
                let changed: Vec<_> = intakes[..done].iter().map(|c| c.id()).collect();
                let partly = if changed.is_empty() {
                    String::new()
                } else {
                    format!("; changed is {}", changed.join(", "))
                };
                return Err(Refusal::NotStored { reason: format!("{error}{partly}") });
            }
            intake.apply(change, commanded);
            let (line, no_recipe) = intake.line();
            self.station.line(intake.id(), line, no_recipe);
        }
        Ok(())
    }

    /// Whether a version of a recipe goes with every camera that runs its pipeline.
    ///
    /// # Errors
    /// `Unfit`, for the first that it does not.
    pub(super) fn fits(&self, pipeline: &Pipeline) -> Result<(), Refusal> {
        self.intakes.iter().try_for_each(|intake| intake.fits(pipeline))
    }

    /// Makes a version of a recipe active, once `keep` has made it durable: on every camera that runs its pipeline it
    /// judges what is accepted from now on, and the next picture that nobody has triggered.
    ///
    /// # Errors
    /// It does not go with a camera; `keep` failed. Nothing has changed then.
    pub(super) fn renew(
        &self,
        recipe: Arc<Recipe>,
        keep: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), Renewed> {
        let _one_at_a_time = self.lock();
        self.fits(&recipe.pipeline).map_err(|refusal| Renewed::Unfit(refusal.to_string()))?;
        keep().map_err(Renewed::Store)?;
        let pipeline = Arc::clone(&recipe.pipeline);
        self.recipes.put(recipe);
        for intake in self.intakes.iter().filter(|intake| intake.renew(&pipeline)) {
            let (line, no_recipe) = intake.line();
            self.station.line(intake.id(), line, no_recipe);
        }
        Ok(())
    }

    /// From now on `cmd/reload` is carried out by this. The first call counts.
    pub(super) fn reload_with(&self, reload: Reload) {
        let _ = self.reload.set(reload);
    }

    /// Carries a trigger out, unless it has come before: then it is answered as before.
    fn trigger(&self, mut request: Request, sender: &Sender) -> Outcome {
        let identities = repeats::identities(&request, sender);
        let by_id = identities.first().copied().zip(request.name.clone());
        let mut repeats = self.lock();
        if let Some((identity, id)) = &by_id
            && let Look::Again(outcome) = repeats.look(identity, id)?
        {
            tracing::info!(correlation_id = id, %sender, "a trigger came again, and is answered as before");
            return self.again(&mut repeats, outcome, &identities);
        }
        let at = repeats.moment();
        // Without an identity it cannot come again.
        let fresh = || ulid::Ulid::generate().to_string();
        let id = identities.first().map_or_else(fresh, |identity| identity.trigger_id(at));
        request.trigger.id = Some(id.clone());
        let placed = self.place(request, &identities, at, &mut repeats);
        match &placed {
            Ok(_) => {
                identities.iter().for_each(|i| repeats.insert(*i, Instant::now(), Ok(Some(id.clone()))));
            }
            Err(refusal) => {
                if let Some((identity, _)) = by_id.filter(|_| !asks_again(sender, refusal)) {
                    repeats.insert(identity, Instant::now(), Err(refusal.clone()));
                }
            }
        }
        drop(repeats);
        self.store.confirm(placed?).map_err(|e| not_stored(&e))?;
        Ok(Some(id))
    }

    /// The first answer, as durable as it was. The file or the other sender that brought the trigger again is known by
    /// it, too.
    fn again(&self, repeats: &mut Repeats, outcome: Outcome, identities: &[Identity]) -> Outcome {
        let id = outcome?;
        let new: Vec<_> = identities.iter().filter(|i| !repeats.knows(i)).copied().collect();
        if new.is_empty() {
            self.store.settle().map_err(|e| not_stored(&e))?;
            return Ok(id);
        }
        // The first one's time, so that a restart finds the first one's id.
        let at = id.as_deref().and_then(repeats::time_of).unwrap_or_else(SystemTime::now);
        let flush = self.store.accept(&mut [], &repeats.names(&new, at)).map_err(|e| not_stored(&e))?;
        new.iter().for_each(|identity| repeats.insert(*identity, Instant::now(), Ok(id.clone())));
        self.store.confirm(flush).map_err(|e| not_stored(&e))?;
        Ok(id)
    }

    /// Notes a trigger and hands it to its cameras.
    fn place(
        &self,
        mut request: Request,
        identities: &[Identity],
        at: SystemTime,
        repeats: &mut Repeats,
    ) -> Result<Flush, Refusal> {
        let cameras = self.cameras(&mut request)?;
        cameras.iter().try_for_each(|intake| intake.has_room())?;
        // One look: no recipe changes while the repeats are held.
        let pipelines: Vec<_> = cameras.iter().map(|intake| intake.pipeline()).collect();
        let accepted = |(intake, pipeline): (&&Arc<Intake>, &Arc<Pipeline>)| Accepted {
            camera: intake.id().to_owned(),
            pipeline: pipeline.name.clone(),
            trigger: request.trigger.clone(),
            received: SystemTime::now()
                .checked_sub(request.received.elapsed())
                .unwrap_or(SystemTime::UNIX_EPOCH),
            origin: None,
        };
        let mut noted: Vec<Accepted> = cameras.iter().zip(&pipelines).map(accepted).collect();
        let names = repeats.names(identities, at);
        let flush = self.store.accept(&mut noted, &names).map_err(|e| not_stored(&e))?;
        for (i, ((intake, accepted), pipeline)) in cameras.iter().zip(&noted).zip(pipelines).enumerate() {
            let (trigger, received) = (accepted.trigger.clone(), request.received);
            match intake.place(Awaited { trigger, received, pipeline }) {
                Ok(()) => {}
                Err(refusal) if i == 0 => {
                    self.store.withdraw(&noted, &names).map_err(|e| not_stored(&e))?;
                    return Err(refusal);
                }
                // Its source has just ended, and another camera has the trigger already: it is accepted, and the
                // next start records this view as interrupted.
                Err(refusal) => {
                    tracing::error!(camera = intake.id(), %refusal, "a view of a part is not taken");
                }
            }
        }
        Ok(flush)
    }

    /// The cameras that a trigger means; one for a part with several views becomes a view.
    fn cameras(&self, request: &mut Request) -> Result<Vec<&Arc<Intake>>, Refusal> {
        let cameras = match self.part(request)? {
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
                let mut intakes = self.at(request.camera.as_deref())?;
                intakes.retain(|c| named || c.is_triggered());
                intakes
            }
        };
        if cameras.is_empty() {
            return Err(Refusal::NotTriggered { camera: self.known() });
        }
        Ok(cameras)
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

    fn at(&self, camera: Option<&str>) -> Result<Vec<&Arc<Intake>>, Refusal> {
        let found: Vec<_> = self.intakes.iter().filter(|c| camera.is_none_or(|id| id == c.id())).collect();
        match camera {
            Some(camera) if found.is_empty() => {
                Err(Refusal::NoCamera { camera: camera.to_owned(), known: self.known() })
            }
            _ => Ok(found),
        }
    }

    fn known(&self) -> String {
        let ids: Vec<_> = self.intakes.iter().map(|c| c.id()).collect();
        ids.join(", ")
    }

    /// No more triggers; those that wait are still served.
    pub(super) fn close(&self) {
        // Not between the cameras of one trigger.
        let _one_at_a_time = self.lock();
        self.intakes.iter().for_each(|c| c.close());
    }

    fn lock(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fates for Dispatcher {
    fn was_accepted(&self, stamp: &str) -> bool {
        self.lock().was_accepted(&Identity::of_file(stamp).name)
    }

    fn settle(&self, stamp: &str) {
        let name = Identity::of_file(stamp).name;
        self.lock().forget(&name);
        if let Err(error) = self.store.forget_answered(&name) {
            tracing::error!(%error, "a file that is done stays known");
        }
    }
}

/// The folder of triggers keeps what finds no room, and asks again: that is no second trigger.
const fn asks_again(sender: &Sender, refusal: &Refusal) -> bool {
    matches!(sender, Sender::File { .. }) && refusal.passes()
}

fn not_stored(error: &StoreError) -> Refusal {
    Refusal::NotStored { reason: error.to_string() }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
