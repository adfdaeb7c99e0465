//! The permanent record of one inspected part.

use super::finding::Finding;
use super::frame::Trigger;
use super::grade::{Grade, Verdict};
use super::text::TextLine;
use std::time::{Duration, SystemTime};

/// One inspected part. The store adds its sequence number and chain hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// ULID, 26 characters: the idempotency key of every message about this part.
    pub id: String,
    pub camera: String,
    pub trigger: Trigger,
    /// Name of the pipeline.
    pub pipeline: String,
    pub pipeline_version: String,
    pub model: ModelRef,
    /// sha256 (hex) over the ids of all prompts and the texts that the model was asked, in order.
    pub prompt_hash: String,
    pub captured_at: SystemTime,
    pub finished_at: SystemTime,
    pub verdict: Verdict,
    /// The worst grade of all findings; `Ok` without findings.
    pub grade: Grade,
    pub findings: Vec<Finding>,
    pub texts: Vec<TextLine>,
    pub tiles: TileCount,
    /// How likely the part is defective, 0..=1: the highest over all tiles of one minus the
    /// probability of the empty answer. Ranks parts (AUROC) even where nothing was reported.
    pub score: f32,
    pub latency: Latency,
    /// What the model said, where it said anything but `[]`.
    pub answers: Vec<RawAnswer>,
    /// True for a frame that came from a recording, not from the line.
    pub replayed: bool,
    /// Where the picture came from.
    pub origin: String,
    /// How long before the stored picture the earlier pictures of its clip were exposed, oldest first; they
    /// themselves are not kept. Empty for a still.
    pub clip: Vec<Duration>,
}

/// Which model answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRef {
    pub name: String,
    /// sha256 (hex) of the text GGUF.
    pub text_sha256: String,
    /// sha256 (hex) of the vision GGUF.
    pub mmproj_sha256: String,
}

/// Tiles (regions of text prompts included) planned and really inspected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileCount {
    pub planned: usize,
    pub inspected: usize,
}

/// Where the time of one inspection went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// From the exposure to the start of the work.
    pub queue_ms: f64,
    pub preprocess_ms: f64,
    pub vision_ms: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
    /// From the exposure to the verdict.
    pub total_ms: f64,
}

/// One answer of the model, word for word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAnswer {
    pub prompt: String,
    /// Index of the tile; the tiles of the grid come first, then one per text prompt.
    pub tile: usize,
    pub text: String,
}

/// The stored picture of an inspection: content-addressed, so that its name proves its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// sha256 (hex) of the file.
    pub sha256: String,
    pub bytes: u64,
}
