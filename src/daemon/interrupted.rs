//! What a former process left undone when it ended without draining: killed, or with the power.
//!
//!     accepted triggers without an inspection --> review("interrupted"), without a picture
//!     parts without all of their views ---------> a verdict; a view that has no inspection was interrupted

use super::recorder::Recorder;
use crate::config::Config;
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::pipeline::Pipeline;
use crate::inspect::uninspected;
use crate::store::accepted::Accepted;
use crate::store::Store;
use crate::vlm::ModelInfo;

/// Records all of it; to be called before the cameras start. What a full store does not take now is left for the next
/// start.
///
/// # Errors
/// `StoreError`, on reading what was accepted and on deciding about parts; failed commits stop the recorder.
pub fn record(config: &Config, store: &Store, recorder: &Recorder, model: &ModelInfo) -> anyhow::Result<()> {
    let left = store.accepted()?;
    for (i, accepted) in left.iter().enumerate() {
        if let Err(error) = store.accepts() {
            let left = left.len() - i;
            tracing::error!(%error, left, "accepted triggers of the former process are not recorded yet");
            break;
        }
        let Some(pipeline) = pipeline(config, accepted) else { break };
        let mut frame = Frame::without_picture(&accepted.camera, accepted.trigger.clone(), accepted.received);
        if let Some(origin) = &accepted.origin {
            frame.origin.clone_from(origin);
        }
        recorder.record(&uninspected(&frame, &pipeline, model, Reason::Interrupted), &frame.pixels, false);
    }
    let parts = store.decide_interrupted_parts()?;
    if !left.is_empty() || parts > 0 {
        tracing::warn!(triggers = left.len(), parts, "not everything was inspected before the end: reviews");
    }
    Ok(())
}

/// The recipe in force when the trigger was accepted. The config may have lost it since, and its camera; then its
/// name is kept, with the words of another.
fn pipeline(config: &Config, accepted: &Accepted) -> Option<Pipeline> {
    let known = config.pipelines.get(&accepted.pipeline).or_else(|| config.pipelines.values().next())?;
    Some(Pipeline { name: accepted.pipeline.clone(), ..known.clone() })
}
