//! The inspector: one frame of each camera a round, inspected together, recorded in order.
//!
//! Taking at most one frame a camera and round shares the model fairly: a fast camera waits for no
//! one, and starves no one.

use super::cameras::Feeds;
use super::recorder::Recorder;
use super::station::Station;
use crate::domain::frame::Frame;
use crate::domain::pipeline::Pipeline;
use crate::inspect::worker::Worker;
use crate::inspect::Work;
use crate::queue::Popped;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The inspector shows life at least this often, and sees then whether the model is idle.
const WAIT: Duration = Duration::from_secs(1);

/// Starts the inspector; it ends when every feed is closed and empty.
pub fn start(
    mut worker: Worker,
    feeds: Feeds,
    recorder: Arc<Recorder>,
    station: Arc<Station>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let beat = || station.beat();
        loop {
            beat();
            let Some(frames) = round(&feeds) else { return };
            if frames.is_empty() {
                if worker.unload_if_idle() {
                    tracing::info!("the model had no work and was given back");
                }
                // Whether it rang or not, the feeds are looked at again.
                let _ = feeds.bell.recv_timeout(WAIT);
                continue;
            }
            let work: Vec<Work<'_>> =
                frames.iter().map(|(frame, pipeline)| Work { frame, pipeline }).collect();
            let inspections = worker.inspect(&work, &beat);
            for (inspection, (frame, _)) in inspections.iter().zip(&frames) {
                recorder.record(inspection, &frame.pixels, false);
                beat();
            }
            if recorder.failed() {
                return;
            }
        }
    })
}

/// At most one frame of each camera; `None` when no frame will ever come.
fn round(feeds: &Feeds) -> Option<Vec<(Frame, Arc<Pipeline>)>> {
    let mut frames = vec![];
    let mut open = false;
    for feed in &feeds.feeds {
        match feed.frames.pop(Some(Duration::ZERO)) {
            Popped::Item(frame) => frames.push((frame, Arc::clone(&feed.pipeline))),
            Popped::TimedOut => open = true,
            Popped::Closed => {}
        }
    }
    (open || !frames.is_empty()).then_some(frames)
}
