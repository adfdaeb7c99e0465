//! The checked recipe of one product. Only `config` builds it, from a file that passed every check.

use super::grade::{Grade, Severity};
use super::rect::Rect;
use std::time::Duration;

/// The recipe of one product.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    pub name: String,
    /// The first twelve hex digits of the file's sha256: an edited recipe is another version.
    pub version: String,
    /// Size of a frame pixel on the part, in millimetres.
    pub mm_per_px: f64,
    pub frame: FrameRule,
    pub tiling: Tiling,
    /// `Some` exactly when a prompt asks about clips.
    pub clip: Option<ClipRule>,
    pub prompts: Vec<Prompt>,
    /// The first rule that matches a finding gives its grade; no rule: reject.
    pub grades: Vec<GradeRule>,
    pub verdict: VerdictRule,
}

/// Which part of a frame is inspected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameRule {
    /// `None`: the whole frame.
    pub roi: Option<Rect>,
    /// Regions that are never inspected.
    pub mask: Vec<Rect>,
}

/// How a frame is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile in frame pixels; the last row and column shift inward.
    pub tile_px: u32,
    /// Overlap of neighbours in frame pixels, less than `tile_px`.
    pub overlap_px: u32,
    pub max_tiles: usize,
    pub budget: PixelBudget,
}

/// How many pictures a frame is taken with, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipRule {
    /// Pictures of a clip, the inspected one (the last) included: at least 2.
    pub frames: usize,
    /// From one exposure to the next, at least.
    pub interval: Duration,
}

impl ClipRule {
    /// From the first exposure to the last, at least.
    pub const fn duration(&self) -> Duration {
        self.interval.saturating_mul(self.frames.saturating_sub(1) as u32)
    }
}

/// Qwen's limits on the pixels of an image after its resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBudget {
    pub min_pixels: u32,
    pub max_pixels: u32,
}

/// One question that is asked of every tile, or of one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub id: String,
    pub kind: PromptKind,
    /// What the model is asked; `{labels}` stands for the labels, which the model itself may state.
    pub text: String,
    /// `Some`: asked once, of this region. `None`: asked of every tile of the grid.
    pub roi: Option<Rect>,
    pub budget: PixelBudget,
    /// Asks about the whole clip, not about its last picture alone.
    pub clip: bool,
}

/// What kind of answer a prompt has.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptKind {
    /// What is found of these labels is a finding; a model that states its labels is asked all of its own.
    Defects {
        labels: Vec<String>,
    },
    Text {
        expect: Vec<Expect>,
    },
}

/// What one line of text must be. All rules given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// 1 for the first line.
    pub line: usize,
    pub literal: Option<String>,
    /// A regular expression (crate `regex`) that must match the whole line; compiled once by `config`
    /// to prove that it is valid.
    pub regex: Option<String>,
    /// Key of `Trigger::expected` whose value the line must equal.
    pub from_trigger: Option<String>,
    pub check: Option<CheckKind>,
}

/// Checks that need no expected value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// GS1 element string, `(01)09501101530003(17)261231(10)ABC`: lengths, character sets, check digits,
    /// real dates and codes of all identifiers; one that is not known goes to review.
    Gs1,
    /// GTIN-8, -12, -13 or -14 with its check digit; spaces and hyphens may group the digits.
    Gtin,
    /// Luhn (mod 10) over the digits of the line; spaces and hyphens may group them.
    Luhn,
    /// ISO 7064 mod 37,36 over capital letters and digits; spaces and hyphens may group them.
    Mod3736,
    /// Vehicle identification number, ISO 3779, with its check digit where the region has one.
    Vin,
}

/// One grading rule; conditions that are `None` hold for every finding.
#[derive(Clone, Debug, PartialEq)]
pub struct GradeRule {
    pub label: Option<String>,
    pub severity: Option<Severity>,
    pub longest_mm_over: Option<f64>,
    pub area_mm2_over: Option<f64>,
    pub grade: Grade,
}

/// How findings become a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerdictRule {
    /// This grade or worse fails the part.
    pub fail_at: Grade,
    /// A finding or a checked line that is less sure sends the part to review.
    pub review_below_confidence: f32,
    /// Detections less sure than this are noise and are dropped before merging. 0 keeps all.
    pub ignore_below_confidence: f32,
    /// Counted from the exposure; later the verdict is review, never pass.
    pub deadline: Duration,
}
