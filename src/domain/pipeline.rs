//! The checked recipe of one product. Only `crate::recipe` builds it, from a file that passed every check.

use super::grade::{Grade, Severity};
use super::pattern::Pattern;
use super::promise::PromiseRule;
use super::rect::Rect;
use super::reference::ReferenceRule;
use std::sync::Arc;
use std::time::Duration;

/// The recipe of one product.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The key `name` of the file, which bears the same name.
    pub name: String,
    /// The first twelve hex digits of the file's sha256: an edited recipe is another version.
    pub version: String,
    /// Size of a frame pixel on the part, in millimetres.
    pub mm_per_px: f64,
    /// What of a frame is inspected, and what a proper frame is.
    pub frame: FrameRule,
    /// How the region is cut into tiles.
    pub tiling: Tiling,
    /// `Some` exactly when a prompt asks about clips.
    pub clip: Option<ClipRule>,
    /// What is added to the model for this product alone; `None`: the model as it is answers.
    pub adapter: Option<AdapterRule>,
    /// At least one, each with an id of its own.
    pub prompts: Vec<Prompt>,
    /// The first rule that matches a finding gives its grade; no rule: reject.
    pub grades: Vec<GradeRule>,
    /// How findings and readings become a verdict.
    pub verdict: VerdictRule,
    /// What a new version must show on confirmed parts; `None`: nothing.
    pub gate: Option<GateRule>,
    /// What is promised about defective parts, and looked at again and again; `None`: nothing.
    pub promise: Option<PromiseRule>,
}

impl Pipeline {
    /// True when a part gets the same score and, but for its score, the same verdict by both: they differ in nothing but
    /// what is promised, what is asked of new versions, and the limits on the score.
    pub fn judges_like(&self, other: &Self) -> bool {
        let bare = |pipeline: &Self| {
            let verdict =
                VerdictRule { review_above_score: None, fail_above_score: None, ..pipeline.verdict };
            let mut bare =
                Self { version: String::new(), gate: None, promise: None, verdict, ..pipeline.clone() };
            if let FrameSize::Learned { .. } = bare.frame.size {
                bare.frame.size = FrameSize::Unknown;
            }
            bare
        };
        bare(self) == bare(other)
    }
}

/// An adapter beside the recipe: small matrices that are added to those of the model for its questions. This module knows
/// no such file; who reads a recipe says what is in it.
#[derive(Clone)]
pub struct AdapterRule {
    /// File name, beside the recipe's file.
    pub file: String,
    /// sha256 (hex) of the file.
    pub sha256: String,
    /// The labels that it was trained with, in their order; empty: those of the model.
    pub labels: Vec<String>,
    /// It changes the text model.
    pub changes_text: bool,
    /// It changes the vision tower.
    pub changes_tower: bool,
    /// Bytes that it takes beside the model, once it is loaded.
    pub memory_bytes: u64,
    /// The whole file.
    pub bytes: Arc<[u8]>,
}

impl PartialEq for AdapterRule {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.sha256) == (&other.file, &other.sha256)
    }
}

impl std::fmt::Debug for AdapterRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterRule")
            .field("file", &self.file)
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

/// What a new version of a recipe must show on parts that people have confirmed, before it judges others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRule {
    /// Most parts that are replayed.
    pub parts_max: usize,
    /// Confirmed defective parts that were found and may pass now.
    pub lost_max: usize,
    /// Confirmed good parts that passed and may not pass now; `None`: any number.
    pub alarms_max: Option<usize>,
    /// Figures of the replay, each as `image.recall >= 0.99`.
    pub require: Vec<String>,
}

/// Which part of a frame is inspected, and what a proper frame looks like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameRule {
    /// `None`: the whole frame.
    pub roi: Option<Rect>,
    /// Regions that are never inspected.
    pub mask: Vec<Rect>,
    /// Which size frames must have.
    pub size: FrameSize,
    /// How many bits of a 16-bit sample carry the picture; `None`: not stated.
    pub depth_bits: Option<u32>,
    /// What a picture must show to be inspected.
    pub health: Health,
    /// Whether the same pixels may come twice.
    pub repeats: Repeats,
}

/// Which size frames must have: regions, masks and millimetres hold for one size only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameSize {
    /// Not stated, and no part was confirmed yet.
    #[default]
    Unknown,
    /// Stated: every size is meant.
    Any,
    /// Stated, in pixels.
    Stated {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// Of the first part of this camera and pipeline that a person confirmed.
    Learned {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// Whether pixels that are those of an earlier frame, bit by bit, are another picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeats {
    /// They are not: a camera never takes the same picture twice.
    #[default]
    Review,
    /// They may be: somebody copies files.
    Allow,
}

/// What a picture must show, whatever it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    /// Nothing is judged.
    Off,
    /// A picture outside these limits goes to review.
    On(HealthLimits),
}

impl Default for Health {
    fn default() -> Self {
        Self::On(HealthLimits::default())
    }
}

/// Limits of what is measured on the inspected region of a picture (see [`crate::health`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthLimits {
    /// Mean grey value, 0..255.
    pub brightness_min: f64,
    /// Mean grey value, 0..255.
    pub brightness_max: f64,
    /// Share of pixels at the upper end, 0..1.
    pub overexposed_max: f64,
    /// Grey values between the darkest and the brightest hundredth of the pixels, 0..255.
    pub contrast_min: f64,
    /// Variance of the Laplacian: of a picture without edges, and of one that noise covers.
    pub sharpness_min: f64,
    /// Variance of the Laplacian, as `sharpness_min`.
    pub sharpness_max: f64,
    /// Share of the variance that blocks of 8 x 8 pixels keep, 0..1; 1/64 for noise.
    pub structure_min: f64,
}

impl Default for HealthLimits {
    /// Refuse the obvious: black, white, evenly grey, noise. Of 508 photographs of metal parts from five sources and
    /// of the simulator's parts none comes nearer than brightness 37 and 216, overexposed 0.25, contrast 33, sharpness
    /// 9 and 14,200 (20 for each squared grey value of noise) and structure 0.09; independent noise has a structure of
    /// 0.016.
    fn default() -> Self {
        Self {
            brightness_min: 16.0,
            brightness_max: 252.0,
            overexposed_max: 0.7,
            contrast_min: 20.0,
            sharpness_min: 2.0,
            sharpness_max: 24_000.0,
            structure_min: 0.05,
        }
    }
}

/// How a frame is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile in frame pixels; the last row and column shift inward.
    pub tile_px: u32,
    /// Overlap of neighbours in frame pixels, less than `tile_px`.
    pub overlap_px: u32,
    /// A region that needs more is refused.
    pub max_tiles: usize,
    /// Of each tile.
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
    /// A smaller image is enlarged.
    pub min_pixels: u32,
    /// A larger image is reduced.
    pub max_pixels: u32,
}

/// One question that is asked of every tile, or of one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Unique in its pipeline; names the prompt in records and reasons.
    pub id: String,
    /// What is asked for.
    pub kind: PromptKind,
    /// What the model is asked; `{labels}` stands for the labels, which the model itself may state.
    pub text: String,
    /// `Some`: asked once, of this region. `None`: asked of every tile of the grid.
    pub roi: Option<Rect>,
    /// Of the region, when the prompt has one.
    pub budget: PixelBudget,
    /// Asks about the whole clip, not about its last picture alone.
    pub clip: bool,
    /// Which tiles are not asked; `None`: all are. Only of a question about defects in single pictures.
    pub skip: Option<SkipRule>,
}

/// Tiles that a bank calls surely normal are not asked.
#[derive(Clone, Debug, PartialEq)]
pub struct SkipRule {
    /// Id of the prompt whose bank looks at the tile first: of the same pipeline, about the same tiles or region.
    pub by: String,
    /// A tile is skipped when the bank finds nothing in it and is less sure than this, 0..=1, that something is there, in
    /// the tile as a whole and in each of its cells. At most [`Self::BELOW_MAX`].
    pub below: f32,
}

impl SkipRule {
    /// The bank's own limit: from there on something is found.
    pub const BELOW_MAX: f64 = 0.5;
}

/// What kind of answer a prompt has.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptKind {
    /// What is found of these labels is a finding; a model that states its labels is asked all of its own.
    Defects {
        /// What the model may call a defect; at least one.
        labels: Vec<String>,
    },
    /// The lines of marked text, each held against its rules.
    Text {
        /// A line without rules is read and not judged.
        expect: Vec<Expect>,
    },
    /// What was learned from confirmed parts judges; no text is asked.
    Reference(ReferenceRule),
}

impl PromptKind {
    /// The labels that its findings may have.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Defects { labels } => labels,
            Self::Text { .. } => &[],
            Self::Reference(rule) => &rule.labels,
        }
    }

    /// It looks for defects, in one way or the other.
    pub const fn looks_for_defects(&self) -> bool {
        !matches!(self, Self::Text { .. })
    }
}

/// The labels of pipelines, each once: pipeline by pipeline, prompt by prompt, in the order in which they are written.
pub(crate) fn labels_of<'a>(pipelines: impl IntoIterator<Item = &'a Pipeline>) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for label in pipelines.into_iter().flat_map(|p| &p.prompts).flat_map(|p| p.kind.labels()) {
        if !labels.contains(label) {
            labels.push(label.clone());
        }
    }
    labels
}

/// What one line of text must be. All rules given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// 1 for the first line.
    pub line: usize,
    /// The line must be exactly this.
    pub literal: Option<String>,
    /// A regular expression that must match the whole line; compiled when the recipe is read.
    pub regex: Option<Pattern>,
    /// Key of `Trigger::expected` whose value the line must equal.
    pub from_trigger: Option<String>,
    /// Rules of a code that the line must obey.
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
    /// The finding has this label.
    pub label: Option<String>,
    /// The finding has this severity.
    pub severity: Option<Severity>,
    /// The longer side of its box is longer than so many millimetres.
    pub longest_mm_over: Option<f64>,
    /// Its box is larger than so many square millimetres.
    pub area_mm2_over: Option<f64>,
    /// About the whole part: the rule is in force when more than so many of its findings hold the other conditions.
    pub count_over: Option<usize>,
    /// What a finding gets when all conditions hold.
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
    /// A part with a higher score does not pass, whatever was found; `None`: the score sends none to review.
    pub review_above_score: Option<f32>,
    /// A part with a higher score and a finding at `fail_at` or worse fails, however unsure the finding; `None`: none does
    /// for its score.
    pub fail_above_score: Option<f32>,
    /// Counted from the exposure; later the verdict is review, never pass.
    pub deadline: Duration,
}
