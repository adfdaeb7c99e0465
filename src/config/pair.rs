//! Whether a pipeline fits a camera: the checks of a pair, for the pair that the config names and for the one
//! that somebody commands later.

use super::{Camera, TriggerConfig, TriggerOn};
use crate::camera::kind::{LINE_ALONE, SourceConfig};
use crate::domain::grid::Grid;
use crate::domain::pipeline::{FrameSize, Pipeline};
use crate::domain::rect::Rect;
use std::time::Duration;

/// Why this camera cannot be inspected by this pipeline; `None`: it can.
pub(crate) fn unfit(camera: &Camera, pipeline: &Pipeline) -> Option<String> {
    late_clip(camera.trigger, pipeline).or_else(|| line_clip(&camera.source, pipeline))
}

/// What of a pipeline does not lie in the pictures of a camera whose keys say how large they are; `None`: it fits, or
/// nobody knows.
pub(crate) fn off_frame(source: &SourceConfig, pipeline: &Pipeline) -> Option<String> {
    let (width, height) = source.size()?;
    let pictures = format!("the camera's pictures are {width}x{height}: every part would be a review");
    if let FrameSize::Stated { width: w, height: h } = pipeline.frame.size
        && (w, h) != (width, height)
    {
        return Some(format!("its frame.size is {w}x{h}, and {pictures}"));
    }
    let whole = Rect::new(0, 0, width, height);
    let of_frame = pipeline.frame.roi.map(|roi| ("frame".to_owned(), roi));
    let of_prompts =
        pipeline.prompts.iter().filter_map(|prompt| Some((format!("prompt {}", prompt.id), prompt.roi?)));
    if let Some((of, roi)) = of_frame.into_iter().chain(of_prompts).find(|(_, roi)| !whole.contains(roi)) {
        return Some(format!("the roi {roi} of its {of} leaves the frame, and {pictures}"));
    }
    let is_tiled = pipeline.prompts.iter().any(|prompt| prompt.roi.is_none());
    let grid = is_tiled.then(|| Grid::new(width, height, &pipeline.frame, &pipeline.tiling));
    grid?.err().map(|error| format!("{error}, and {pictures}"))
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
