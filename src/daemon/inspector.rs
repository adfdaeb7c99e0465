//! The inspector: one frame of each camera a round, inspected together, recorded in order. The gate keeps frames
//! away from the engine that are no new pictures.
//!
//! Taking at most one frame a camera and round shares the model fairly: a fast camera waits for no
//! one, and starves no one.

use super::cameras::{Feeds, Shot};
use super::gate::Gate;
use super::recorder::Recorder;
use super::station::Station;
use crate::inspect::worker::{Health, Worker};
use crate::inspect::{uninspected, Work};
use crate::mqtt::StationEvent;
use crate::queue::Popped;
use crate::threads;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The inspector shows life at least this often, and sees then whether the model is idle.
const WAIT: Duration = Duration::from_secs(1);

/// Raised while the engine's process is lost, or cannot be started.
const ALARM_ENGINE: &str = "engine";

/// Raised while the model's files are not those that were accepted.
const ALARM_MODEL: &str = "model_changed";

/// Starts the inspector; it ends when every feed is closed and empty.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    mut worker: Worker,
    feeds: Feeds,
    recorder: Arc<Recorder>,
    station: Arc<Station>,
    mut gate: Gate,
) -> std::io::Result<JoinHandle<()>> {
    threads::spawn("inspector", move || {
        let beat = || station.beat();
        let mut told = Health::default();
        // Alarms that stand from a former run are cleared or raised anew.
        tell(worker.health(), &mut Health { losses: u64::MAX, ..Health::default() }, &station);
        told.clone_from(worker.health());
        loop {
            beat();
            let Some(frames) = round(&feeds) else { return };
            if frames.is_empty() {
                if worker.tend() {
                    tracing::info!("the model had no work: its process has ended");
                }
                tell(worker.health(), &mut told, &station);
                // Whether it rang or not, the feeds are looked at again.
                let _ = feeds.bell.recv_timeout(WAIT);
                continue;
            }
            let (frames, refused) = gate.sort(frames);
            for (Shot { frame, pipeline }, reason) in refused {
                let inspection = uninspected(&frame, &pipeline, worker.info(), reason);
                recorder.record(&inspection, &frame.pixels, false);
                beat();
            }
            let work: Vec<Work<'_>> =
                frames.iter().map(|Shot { frame, pipeline }| Work { frame, pipeline }).collect();
            // Nothing to ask wakes no engine.
            let inspections = if work.is_empty() { vec![] } else { worker.inspect(&work, &beat) };
            tell(worker.health(), &mut told, &station);
            for (inspection, shot) in inspections.iter().zip(&frames) {
                recorder.record(inspection, &shot.frame.pixels, false);
                beat();
            }
            if recorder.failed() {
                return;
            }
        }
    })
}

/// Tells the alarms of the engine when something about it has changed. Files that are not accepted are no failure
/// of the engine: they have an alarm of their own.
fn tell(health: &Health, told: &mut Health, station: &Station) {
    if health == told {
        return;
    }
    told.clone_from(health);
    let Health { losses, fault, refused, .. } = health;
    let message = match fault {
        Some(fault) if refused.is_none() => format!("{fault} ({losses} lost since the start)"),
        _ => String::new(),
    };
    for (code, message) in [(ALARM_ENGINE, message), (ALARM_MODEL, refused.clone().unwrap_or_default())] {
        let raised = !message.is_empty();
        station.tell(StationEvent::Alarm { code: code.to_owned(), raised, message });
    }
}

/// At most one frame of each camera; `None` when no frame will ever come.
fn round(feeds: &Feeds) -> Option<Vec<Shot>> {
    let mut frames = vec![];
    let mut open = false;
    for feed in &feeds.feeds {
        match feed.frames.pop(Some(Duration::ZERO)) {
            Popped::Item(shot) => frames.push(shot),
            Popped::TimedOut => open = true,
            Popped::Closed => {}
        }
    }
    (open || !frames.is_empty()).then_some(frames)
}

#[cfg(test)]
#[path = "inspector_tests.rs"]
mod tests;
