//! What a former process left undone when it ended without draining: killed, or with the power.
//!
//! ```text
//! accepted triggers without an inspection --> review("interrupted"), without a picture
//! parts without all of their views ---------> a verdict; a view that has no inspection was interrupted
//! ```
//!
//! A store that is full takes them as soon as it has room, on a thread of their own; until then nothing is decided
//! about their parts.

use super::recorder::Recorder;
use crate::camera::Stop;
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::Pipeline;
use crate::inspect::uninspected;
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::accepted::Accepted;
use crate::store::error::StoreError;
use crate::threads;
use crate::vlm::ModelInfo;
use image::RgbImage;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a store that is full is asked for room.
const LOOK: Duration = Duration::from_millis(200);

/// Records all of it, to be called before the cameras start. What a full store does not take now is recorded by the
/// thread that is returned, which ends with that or with `stop`; the next start has the rest.
///
/// # Errors
/// [`StoreError`], on reading what was accepted and on deciding about parts; failed commits stop the recorder.
pub(super) fn record(
    recipes: &Registry,
    store: &Arc<Store>,
    recorder: &Arc<Recorder>,
    model: &ModelInfo,
    stop: &Stop,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let mut left: Vec<_> =
        store.accepted()?.iter().filter_map(|accepted| unseen(recipes, accepted, model)).collect();
    let triggers = left.len();
    let full = record_while_room(&mut left, store, recorder);
    let parts = store.decide_interrupted_parts()?;
    if triggers > 0 || parts > 0 {
        tracing::warn!(triggers, parts, "not everything was inspected before the end: reviews");
    }
    let Some(error) = full else { return Ok(None) };
    tracing::error!(%error, left = left.len(), "accepted triggers of the former process are not recorded yet");
    let (store, recorder, stop) = (Arc::clone(store), Arc::clone(recorder), stop.clone());
    let later = move || record_later(left, &store, &recorder, &stop);
    Ok(Some(threads::spawn("interrupted", later)?))
}

/// Records until there is no room, and says why there is none; what is recorded is taken out.
fn record_while_room(left: &mut Vec<Inspection>, store: &Store, recorder: &Recorder) -> Option<StoreError> {
    let no_picture = Arc::new(RgbImage::new(0, 0));
    while let Some(next) = left.first() {
        if let Err(error) = store.accepts() {
            return Some(error);
        }
        recorder.record(next, &no_picture, false);
        left.remove(0);
    }
    None
}

fn record_later(mut left: Vec<Inspection>, store: &Store, recorder: &Recorder, stop: &Stop) {
    while let Some(error) = record_while_room(&mut left, store, recorder) {
        if !error.passes() || stop.wait_until(Instant::now() + LOOK) {
            return;
        }
    }
    match store.decide_interrupted_parts() {
        Ok(parts) => tracing::info!(parts, "what the former process left is recorded"),
        // The store says so to everybody who uses it.
        Err(error) => tracing::error!(%error, "nothing is decided about interrupted parts"),
    }
}

/// The review that stands for a trigger.
fn unseen(recipes: &Registry, accepted: &Accepted, model: &ModelInfo) -> Option<Inspection> {
    let pipeline = pipeline(recipes, accepted)?;
    let mut frame = Frame::without_picture(&accepted.camera, accepted.trigger.clone(), accepted.received);
    if let Some(origin) = &accepted.origin {
        frame.origin.clone_from(origin);
    }
    Some(uninspected(&frame, &pipeline, model, Reason::Interrupted))
}

/// The recipe in force when the trigger was accepted. `pipelines_dir` may have lost it since, and its camera; then its
/// name is kept, with the words of another.
fn pipeline(recipes: &Registry, accepted: &Accepted) -> Option<Pipeline> {
    let any = || recipes.all().first().map(|recipe| Arc::clone(&recipe.pipeline));
    let known = recipes.pipeline(&accepted.pipeline).or_else(any)?;
    Some(Pipeline { name: accepted.pipeline.clone(), ..(*known).clone() })
}
