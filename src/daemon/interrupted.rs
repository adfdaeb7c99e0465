//! What a former process left undone when it ended without draining: killed, or with the power.
//!
//! ```text
//! accepted triggers without an inspection --> review("interrupted"), without a picture
//! parts without all of their views ---------> a verdict; a view that has no inspection was interrupted
//! ```
//!
//! A store that is full takes them as soon as it has room, on a thread of their own; until then nothing is decided
//! about their parts. A station that is told to stop leaves what is not recorded yet to the next start.

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
use image::RgbImage;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vlm::ModelInfo;

/// How often a store that is full is asked for room.
const LOOK: Duration = Duration::from_millis(200);

/// Records all of it, to be called before the cameras start. What a full store does not take now is recorded by the
/// thread that is returned, which ends with that or with `stop`. `told` says that the station is to stop: the next
/// start has the rest.
///
/// # Errors
/// [`StoreError`], on reading what was accepted and on deciding about parts; failed commits stop the recorder.
pub(super) fn record(
    recipes: &Registry,
    store: &Arc<Store>,
    recorder: &Arc<Recorder>,
    model: &ModelInfo,
    stop: &Stop,
    told: &dyn Fn() -> bool,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let mut left: Vec<_> =
        store.accepted()?.iter().filter_map(|accepted| unseen(recipes, accepted, model)).collect();
    let all = left.len();
    let full = record_while_room(&mut left, store, recorder, told);
    let parts = store.decide_interrupted_parts()?;
    let (triggers, left_over) = (all - left.len(), left.len());
    if all > 0 || parts > 0 {
        tracing::warn!(triggers, left_over, parts, "not everything was inspected before the end: reviews");
    }
    let Some(error) = full else { return Ok(None) };
    tracing::error!(%error, left = left.len(), "accepted triggers of the former process are not recorded yet");
    let (store, recorder, stop) = (Arc::clone(store), Arc::clone(recorder), stop.clone());
    let later = move || record_later(left, &store, &recorder, &stop);
    Ok(Some(threads::spawn("interrupted", later)?))
}

/// Records until there is no room, and says why there is none, or until it is told to stop; what is recorded is taken
/// out.
fn record_while_room(
    left: &mut Vec<Inspection>,
    store: &Store,
    recorder: &Recorder,
    told: &dyn Fn() -> bool,
) -> Option<StoreError> {
    let no_picture = Arc::new(RgbImage::new(0, 0));
    while let Some(next) = left.first().filter(|_| !told()) {
        if let Err(error) = store.accepts() {
            return Some(error);
        }
        recorder.record(next, &no_picture, false);
        left.remove(0);
    }
    None
}

fn record_later(mut left: Vec<Inspection>, store: &Store, recorder: &Recorder, stop: &Stop) {
    let told = || stop.is_set();
    while let Some(error) = record_while_room(&mut left, store, recorder, &told) {
        if !error.passes() || stop.wait_until(Instant::now() + LOOK) {
            return;
        }
    }
    if !left.is_empty() {
        return;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::station::Station;
    use crate::domain::frame::Trigger;
    use crate::recipe::pipeline_from_str;
    use crate::recipe::registry::Recipe;
    use crate::store::StoreOptions;
    use crate::store::answered::Names;
    use std::cell::Cell;
    use std::time::SystemTime;

    #[test]
    fn a_station_that_is_told_to_stop_leaves_the_rest_to_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let pipeline = pipeline_from_str("photo.toml", include_str!("../../pipelines/photo.toml")).unwrap();
        let recipes = Registry::new([Recipe::of(&pipeline)]);
        let accepted = |part_id: &str| Accepted {
            camera: "cam1".into(),
            pipeline: pipeline.name.clone(),
            trigger: Trigger { part_id: Some(part_id.into()), ..Trigger::default() },
            received: SystemTime::now(),
            origin: None,
        };
        let flush = store.accept(&mut ["P1", "P2", "P3"].map(accepted), &Names::default()).unwrap();
        store.confirm(flush).unwrap();
        let (station, stop) = (Station::new(tokio::sync::mpsc::channel(64).0), Stop::default());
        let recorder = Recorder::new(Arc::clone(&store), Arc::new(station), stop.clone(), false).unwrap();
        let recorder = Arc::new(recorder);
        let start = |told: &dyn Fn() -> bool| {
            let later = record(&recipes, &store, &recorder, &ModelInfo::default(), &stop, told).unwrap();
            assert!(later.is_none());
            (store.newest_first().count(), store.accepted().unwrap().len())
        };
        let asked = Cell::new(0);
        assert_eq!(start(&|| asked.replace(asked.get() + 1) > 0), (1, 2), "told while the first is recorded");
        assert_eq!(start(&|| true), (1, 2));
        assert_eq!(start(&|| false), (3, 0), "each once");
    }
}
