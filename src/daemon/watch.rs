//! What is looked at again and again while the line runs: do promises hold, and has anything drifted?
//!
//! ```text
//! every `EVERY` --> each recipe that promises: its decided parts   --> promise_{recipe}
//!              '--> each camera: parts, pictures, alarms           --> drift_{camera}
//!                                            raised | over, when it has changed -----> station
//! ```
//!
//! The watch only reads the store, on a thread of its own; nothing that it finds stops the line or changes a verdict.
//! Alarms of a former run are cleared with the start: what is still wrong is found again.

mod drift;

use super::promise::{Checked, Confirmed};
use super::station::Station;
use crate::camera::Stop;
use crate::publish::StationEvent;
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::threads;
use drift::Drift;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks.
const EVERY: Duration = Duration::from_hours(1);
/// The first one: the line has found its pace, and old inspections are listed.
const FIRST: Duration = Duration::from_mins(10);

/// Between two blocks of old inspections, so that the line goes first.
const BREATH: Duration = Duration::from_millis(2);

/// Starts the watch over these cameras.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start(
    cameras: Vec<String>,
    registry: &Arc<Registry>,
    store: &Arc<Store>,
    station: &Arc<Station>,
    stop: &Stop,
) -> std::io::Result<JoinHandle<()>> {
    let (registry, store, station) = (Arc::clone(registry), Arc::clone(store), Arc::clone(station));
    let stop = stop.clone();
    let mut watch =
        Watch { cameras, registry, store, station, drift: Drift::default(), stand: BTreeMap::new() };
    threads::spawn("watch", move || watch.run(&stop))
}

struct Watch {
    cameras: Vec<String>,
    registry: Arc<Registry>,
    store: Arc<Store>,
    station: Arc<Station>,
    drift: Drift,
    /// Messages of the alarms that this watch has raised, and empty ones of those that are over, by code.
    stand: BTreeMap<String, String>,
}

impl Watch {
    fn run(&mut self, stop: &Stop) {
        self.clear();
        let mut due = Instant::now() + FIRST;
        while !stop.wait_until(due) {
            due += EVERY;
            // What goes wrong in a look ends neither the watch nor the line: the next one begins anew.
            match threads::caught(|| self.look(stop)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "promises and drift were not looked at"),
                Err(words) => tracing::error!(words, "promises and drift were not looked at"),
            }
        }
    }

    fn clear(&mut self) {
        for name in self.registry.names() {
            self.promised(&name, String::new());
        }
        for camera in self.cameras.clone() {
            self.drifted(&camera, String::new());
        }
    }

    /// One look at everything; it ends early when the station stops.
    fn look(&mut self, stop: &Stop) -> Result<(), StoreError> {
        // Without a page nobody else lists the old inspections.
        while !stop.is_set() && self.store.index_older()? {
            std::thread::sleep(BREATH);
        }
        for recipe in self.registry.all() {
            if stop.is_set() {
                return Ok(());
            }
            let pipeline = &recipe.pipeline;
            let checked = match pipeline.promise {
                Some(_) => Confirmed::of(&self.store, pipeline)?.check(pipeline),
                None => None,
            };
            self.promised(&pipeline.name, checked.map(broken).unwrap_or_default());
        }
        for camera in self.cameras.clone() {
            if stop.is_set() {
                return Ok(());
            }
            let raised = self.station.alarms_raised(&camera);
            let message = self.drift.look(&self.store, &self.registry, &camera, raised)?;
            self.drifted(&camera, message);
        }
        Ok(())
    }

    /// The alarm of a recipe's promise stands as long as there is a message.
    fn promised(&mut self, recipe: &str, message: String) {
        let code = format!("promise_{recipe}");
        self.tell(code, message);
    }

    /// The alarm of a camera's drift stands as long as there is a message.
    fn drifted(&mut self, camera: &str, message: String) {
        let code = format!("drift_{camera}");
        self.tell(code, message);
    }

    fn tell(&mut self, code: String, message: String) {
        if self.stand.get(&code) == Some(&message) {
            return;
        }
        self.stand.insert(code.clone(), message.clone());
        let raised = !message.is_empty();
        self.station.publish(StationEvent::Alarm { code, raised, message });
    }
}

/// What is wrong with a promise; empty while nothing is.
fn broken(checked: Checked) -> String {
    let Checked { promise, defective, escaped, is_broken } = checked;
    if !is_broken {
        return String::new();
    }
    let (escape, confidence) = (100.0 * promise.escape, 100.0 * promise.confidence);
    format!(
        "{escaped} of {defective} defective parts that people have confirmed pass, and at most {escape} % of them may, \
         with {confidence} % confidence: calibrate the recipe anew"
    )
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
