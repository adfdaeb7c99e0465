//! Whether a pipeline fits a camera: the checks of a pair, for the pair that the config names and for the one
//! that somebody commands later.

use super::{Camera, TriggerConfig, TriggerOn};
use crate::camera::kind::{LINE_ALONE, SourceConfig};
use crate::domain::pipeline::Pipeline;
use std::time::Duration;

/// Why this camera cannot be inspected by this pipeline; `None`: it can.
pub(crate) fn unfit(camera: &Camera, pipeline: &Pipeline) -> Option<String> {
    late_clip(camera.trigger, pipeline).or_else(|| line_clip(&camera.source, pipeline))
}

/// A triggered part whose clip takes longer than its deadline is always late.
pub(super) fn late_clip(trigger: TriggerConfig, pipeline: &Pipeline) -> Option<String> {
    let rule = pipeline.clip?;
    let deadline = trigger.deadline_ms.map_or(pipeline.verdict.deadline, Duration::from_millis);
    let late = trigger.on == TriggerOn::Command && rule.duration() >= deadline;
    let (clip_ms, ms) = (rule.duration().as_millis(), deadline.as_millis());
    late.then(|| format!("its clip takes {clip_ms} ms, and the deadline of a triggered part is {ms} ms"))
}

/// Each picture of a hardware trigger is a part, so that none is left for a clip.
pub(super) fn line_clip(source: &SourceConfig, pipeline: &Pipeline) -> Option<String> {
    let asks = source.is_line_triggered() && pipeline.clip.is_some();
    asks.then(|| format!("asks about clips, and {LINE_ALONE}"))
}
