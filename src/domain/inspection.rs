//! The permanent record of one inspected part.

use super::finding::Finding;
use super::frame::Trigger;
use super::grade::{Grade, Verdict};
use super::rect::Rect;
use super::text::TextLine;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// One inspected part. The store adds its sequence number and chain hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// ULID, 26 characters: the idempotency key of every message about this part.
    pub id: String,
    /// `id` of the camera in the config.
    pub camera: String,
    /// What asked for the picture, and what the line knew about the part.
    pub trigger: Trigger,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Version of the pipeline, as `Pipeline::version`.
    pub pipeline_version: String,
    /// The model that was asked.
    pub model: ModelRef,
    /// sha256 (hex) over the ids of all prompts and the texts that the model was asked, in order.
    pub prompt_hash: String,
    /// Wall-clock time of the exposure.
    pub captured_at: SystemTime,
    /// Wall-clock time of the verdict.
    pub finished_at: SystemTime,
    /// What happens to the part.
    pub verdict: Verdict,
    /// The worst grade of all findings; `Ok` without findings; `Reject` where not all of it was inspected. Records
    /// of earlier versions say `Ok` there.
    pub grade: Grade,
    /// The merged defects.
    pub findings: Vec<Finding>,
    /// The lines of all text prompts, with the outcome of their checks.
    pub texts: Vec<TextLine>,
    /// How much of the plan was carried out.
    pub tiles: TileCount,
    /// How likely the part is defective, 0..=1: the highest over all tiles of one minus the
    /// probability of the empty answer. Ranks parts (AUROC) even where nothing was reported.
    pub score: f32,
    /// Where the time went.
    pub latency: Latency,
    /// What the model said, where it said anything but `[]`.
    pub answers: Vec<RawAnswer>,
    /// What was learned and judged this part, by the prompt that it belongs to; also the adapter of the model.
    pub learned: Vec<LearnedRef>,
    /// The questions that were not asked of a tile, in the order of the plan; empty where the recipe asks all of every
    /// tile. Such a tile counts as inspected: its bank has looked at it.
    pub skipped: Vec<SkippedTile>,
    /// How unusual each place of the frame is; `None`: no prompt has asked.
    pub heat: Option<HeatMap>,
    /// True for a frame that came from a recording, not from the line.
    pub replayed: bool,
    /// Where the picture came from.
    pub origin: String,
    /// How long before the stored picture the earlier pictures of its clip were exposed, oldest first; they
    /// themselves are not kept. Empty for a still.
    pub clip: Vec<Duration>,
}

impl Inspection {
    /// How many tiles were not asked everything.
    pub fn tiles_skipped(&self) -> usize {
        self.skipped.iter().map(|skipped| skipped.tile).collect::<BTreeSet<_>>().len()
    }
}

/// A question that was not asked of a tile, and why: a bank was less sure than `below` that something is there.
#[derive(Clone, Debug, PartialEq)]
pub struct SkippedTile {
    /// Id of the prompt that was not asked.
    pub prompt: String,
    /// Index of the tile.
    pub tile: usize,
    /// Where the tile lies in the frame, in pixels.
    pub rect: Rect,
    /// Id of the prompt whose bank has looked at the tile.
    pub by: String,
    /// How sure the bank was that something is there, in the tile as a whole or in a cell of it, 0..=1.
    pub doubt: f32,
    /// The limit of the recipe, 0..=1.
    pub below: f32,
}

/// A file that was learned, and by which a prompt is judged or answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedRef {
    /// Id of the prompt.
    pub prompt: String,
    /// What it is: bank, head, adapter.
    pub kind: String,
    /// sha256 (hex) of the file.
    pub sha256: String,
}

/// How unusual each place of a frame is, beside confirmed good parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatMap {
    /// Pixels of the frame that a place's side has.
    pub place_px: u32,
    /// Places in a row.
    pub cols: u32,
    /// Rows of places.
    pub rows: u32,
    /// `[rows, cols]`, 0..=255 for a confidence of 0..=1; over 127 is a finding.
    pub values: Vec<u8>,
}

/// Which model answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRef {
    /// `general.name` of the text GGUF, or the name of its file.
    pub name: String,
    /// sha256 (hex) of the text GGUF.
    pub text_sha256: String,
    /// sha256 (hex) of the vision GGUF.
    pub mmproj_sha256: String,
}

/// Tiles (regions of text prompts included) planned and really inspected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileCount {
    /// Tiles that the pipeline asks for.
    pub planned: usize,
    /// Tiles with an answer; fewer than planned never pass.
    pub inspected: usize,
}

/// Where the time of one inspection went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// From the exposure to the start of the work.
    pub queue_ms: f64,
    /// Cutting, resizing and normalising pictures.
    pub preprocess_ms: f64,
    /// The vision tower.
    pub vision_ms: f64,
    /// The text model over prompts and pictures.
    pub prefill_ms: f64,
    /// The text model over the answers, token by token.
    pub decode_ms: f64,
    /// From the exposure to the verdict.
    pub total_ms: f64,
}

/// One answer of the model, word for word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAnswer {
    /// `id` of the prompt.
    pub prompt: String,
    /// Index of the tile; the tiles of the grid come first, then one per text prompt.
    pub tile: usize,
    /// The answer as the model gave it, not parsed.
    pub text: String,
}

/// The stored picture of an inspection: content-addressed, so that its name proves its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// sha256 (hex) of the file.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
}
