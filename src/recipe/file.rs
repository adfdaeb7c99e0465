//! A pipeline file into a checked [`Pipeline`]: keys and ranges first, then what must fit together.

use super::adapter::adapter;
use super::assertion::Assertion;
use super::beside::{self, Files};
use super::frame;
use super::learned::pipeline_to_learn;
use super::reference;
use super::skip;
use super::warnings;
use crate::document::Section;
use crate::document::{Document, Problem, ReadError, read_text};
use crate::domain::grade::{Grade, Severity};
use crate::domain::pipeline::{
    CheckKind, ClipRule, Expect, FrameRule, GateRule, GradeRule, Pipeline, PixelBudget, Prompt, PromptKind,
    Tiling, VerdictRule,
};
use crate::domain::promise::PromiseRule;
use crate::domain::rect::Rect;
use crate::engine::child::wire::PIXEL_BYTES_MAX;
use crate::inspect::expect::whole_line;
use crate::inspect::plan::LABELS_PLACE;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The version of the file format.
const SCHEMA: u32 = 1;
/// Qwen's patches are merged to cells of 32 x 32 pixels: less is no picture.
const PIXELS_MIN: u32 = 32 * 32;
/// Qwen's own upper bound on an image.
const PIXELS_MAX: u32 = 16_777_216;
const PROMPT_CHARS_MAX: usize = 4096;
const PROMPTS_MAX: usize = 16;
const LABELS_MAX: usize = 64;
const LABEL_CHARS_MAX: usize = 64;
const LINES_MAX: usize = 64;
/// Above an hour a line is not waiting for a verdict.
const DEADLINE_MS_MAX: u64 = 3_600_000;
/// The model sees two pictures of a clip as one; more than this is a film, which no tile has room for.
const CLIP_FRAMES: std::ops::RangeInclusive<usize> = 2..=16;
const CLIP_INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=10_000;

/// Parts that a gate replays, unless it says how many; each takes the model as long as a part of the line.
const GATE_PARTS: usize = 200;
const GATE_PARTS_MAX: usize = 2_000;
/// Findings of one part that a rule may count; more than one tile has room for are no defects any more.
const COUNT_MAX: usize = 1_000;
/// Figures that a gate may require.
const REQUIRED_MAX: usize = 32;

/// Reads one pipeline file.
///
/// # Errors
/// `Unreadable` when the file cannot be read, `Invalid` with everything that is wrong in it.
pub fn load_pipeline(path: &Path) -> Result<Pipeline, ReadError> {
    Ok(load_pipeline_with_warnings(path)?.0)
}

/// Reads one pipeline file to learn what it judges by: without the files beside it.
///
/// # Errors
/// As [`load_pipeline`].
pub fn load_pipeline_to_learn(path: &Path) -> Result<Pipeline, ReadError> {
    let text = read_text(path)?;
    pipeline_to_learn(&path.display().to_string(), &text, &beside::read(path, &text))
}

/// [`load_pipeline`], and also what is valid and risky in the file.
///
/// # Errors
/// As [`load_pipeline`].
pub fn load_pipeline_with_warnings(path: &Path) -> Result<(Pipeline, Vec<Problem>), ReadError> {
    let text = read_text(path)?;
    let files = beside::read(path, &text);
    let read = from_str(&path.display().to_string(), &text, Beside::Whole(&files));
    read.map_err(|problems| ReadError::Invalid { problems })
}

/// A pipeline from a file's text; `file` only names it in messages.
///
/// # Errors
/// `Invalid` with everything that is wrong in it.
pub fn pipeline_from_str(file: &str, text: &str) -> Result<Pipeline, ReadError> {
    let files = beside::read(Path::new(file), text);
    let read = from_str(file, text, Beside::Whole(&files));
    Ok(read.map_err(|problems| ReadError::Invalid { problems })?.0)
}

/// The files beside a recipe, and what it is read for.
#[derive(Clone, Copy)]
pub(crate) enum Beside<'a> {
    /// It judges by them.
    Whole(&'a Files),
    /// Its banks and heads are to be learned, with the adapter that is there.
    ToLearn(&'a Files),
}

/// Reads a pipeline from a file's text, with what is valid and risky in it, or everything that is wrong in it.
pub(crate) fn from_str(
    file: &str,
    text: &str,
    beside: Beside<'_>,
) -> Result<(Pipeline, Vec<Problem>), Vec<Problem>> {
    let (files, all, is_to_learn) = match beside {
        Beside::Whole(all) => (Some(all), all, false),
        Beside::ToLearn(all) => (None, all, true),
    };
    let document = Document::parse(file, text, &[]);
    if !document.is_fine() {
        return Err(document.into_problems());
    }
    let root = Section::root(&document);
    if root.required::<u32>("schema") != SCHEMA {
        root.problem("schema", format!("must be {SCHEMA}, the form that this build reads"));
    }
    let tiling = tiling(present(&root, "tiling"));
    let prompts = prompts(&root, tiling.budget, files);
    let frame = frame::frame(root.child("frame"));
    let clip = clip(root.child("clip"), &prompts, &frame, &tiling);
    // Which labels a head tells apart is in its file.
    let is_open = files.is_none() && prompts.iter().any(|p| matches!(p.kind, PromptKind::Reference(_)));
    let labels = prompts.iter().flat_map(|prompt| prompt.kind.labels()).map(String::as_str).collect();
    let pipeline = Pipeline {
        name: root.required_id("name"),
        version: beside::version_of(text, files.unwrap_or(&Files::new())),
        mm_per_px: root.required_ranged("mm_per_px", 1e-6..=1e3),
        frame,
        tiling,
        clip,
        adapter: adapter(&root, all, is_to_learn),
        grades: grades(&root, (!is_open).then_some(&labels)),
        verdict: verdict(present(&root, "verdict")),
        gate: gate(root.child("gate")),
        promise: promise(root.child("promise")),
        prompts,
    };
    root.finish();
    if document.is_fine() {
        skip::check(&pipeline.prompts, &document);
    }
    if document.is_fine() {
        warnings::add(&pipeline, &document);
        Ok((pipeline, document.into_problems_and_warnings().1))
    } else {
        Err(document.into_problems())
    }
}

/// A section that must be there. When it is not, its missing keys are reported too: they say what to
/// write.
fn present<'a>(root: &Section<'a>, key: &'static str) -> Section<'a> {
    let section = root.child(key);
    if !section.is_present() {
        section.problem_here("this section is missing");
    }
    section
}

/// The clip that some prompt asks about, whose pictures must fit into one message to the engine.
fn clip(section: Section<'_>, prompts: &[Prompt], frame: &FrameRule, tiling: &Tiling) -> Option<ClipRule> {
    if !section.is_present() {
        return None;
    }
    let rule = ClipRule {
        frames: section.required_ranged("frames", CLIP_FRAMES),
        interval: Duration::from_millis(section.required_ranged("interval_ms", CLIP_INTERVAL_MS)),
    };
    if !prompts.iter().any(|prompt| prompt.clip) {
        section.problem_here("no prompt asks about the clip: give one clip = true");
    }
    let shown = prompts.iter().filter(|prompt| prompt.clip);
    let pixels =
        shown.map(|p| p.roi.map_or_else(|| tile_pixels(frame.roi, tiling), |roi| pixels(&roi))).max();
    let bytes = pixels.unwrap_or(0) * 3 * rule.frames as u64;
    if bytes > PIXEL_BYTES_MAX as u64 && section.are_fine(&["frames"]) {
        let room = PIXEL_BYTES_MAX as u64 / 3 / pixels.unwrap_or(1);
        section.problem(
            "frames",
            format!("so many pictures of a tile or roi do not fit into one question: at most {room} do"),
        );
    }
    section.finish();
    Some(rule)
}

fn pixels(rect: &Rect) -> u64 {
    u64::from(rect.width()) * u64::from(rect.height())
}

/// Most pixels of a tile.
fn tile_pixels(roi: Option<Rect>, tiling: &Tiling) -> u64 {
    let side = u64::from(tiling.tile_px);
    let within = |length: u32| side.min(length.into());
    roi.map_or(side * side, |roi| within(roi.width()) * within(roi.height()))
}

fn tiling(section: Section<'_>) -> Tiling {
    let tile_px = section.required_ranged("tile_px", 32..=8192);
    let overlap_px = section.required_ranged("overlap_px", 0..=8191);
    if overlap_px >= tile_px && section.are_fine(&["tile_px", "overlap_px"]) {
        section.problem("overlap_px", format!("must be less than tile_px, which is {tile_px}"));
    }
    let tiling = Tiling {
        tile_px,
        overlap_px,
        max_tiles: section.required_ranged("max_tiles", 1..=4096),
        budget: PixelBudget {
            min_pixels: section.required_ranged("min_pixels", PIXELS_MIN..=PIXELS_MAX),
            max_pixels: section.required_ranged("max_pixels", PIXELS_MIN..=PIXELS_MAX),
        },
    };
    check_budget(&section, tiling.budget);
    section.finish();
    tiling
}

fn check_budget(section: &Section<'_>, budget: PixelBudget) {
    let PixelBudget { min_pixels, max_pixels } = budget;
    if min_pixels > max_pixels && section.are_fine(&["min_pixels", "max_pixels"]) {
        section.problem(
            "max_pixels",
            format!("must not be less than min_pixels: {max_pixels} is less than {min_pixels}"),
        );
    }
}

fn prompts(root: &Section<'_>, tile_budget: PixelBudget, files: Option<&Files>) -> Vec<Prompt> {
    let sections = root.children("prompt");
    if sections.is_empty() {
        root.problem("prompt", "there must be at least one [[prompt]]");
    } else if sections.len() > PROMPTS_MAX {
        root.problem("prompt", format!("there are {}; at most {PROMPTS_MAX} are allowed", sections.len()));
    }
    let has_clip = root.child("clip").is_present();
    let mut ids = BTreeSet::new();
    let mut prompts = Vec::new();
    for section in sections {
        let prompt = prompt(section, tile_budget, has_clip, files, &mut ids);
        prompts.extend(prompt);
    }
    prompts
}

fn prompt(
    section: Section<'_>,
    tile_budget: PixelBudget,
    has_clip: bool,
    files: Option<&Files>,
    ids: &mut BTreeSet<String>,
) -> Option<Prompt> {
    let id = section.required_id("id");
    if !id.is_empty() && !ids.insert(id.clone()) {
        section.problem("id", "two prompts have this id");
    }
    let roi = section.rect("roi");
    let budget = PixelBudget {
        min_pixels: section.ranged("min_pixels", PIXELS_MIN..=PIXELS_MAX).unwrap_or(tile_budget.min_pixels),
        max_pixels: section.ranged("max_pixels", PIXELS_MIN..=PIXELS_MAX).unwrap_or(tile_budget.max_pixels),
    };
    if budget != tile_budget {
        check_budget(&section, budget);
    }
    let kind: String = section.required("kind");
    if let "reference" | "head" = kind.as_str() {
        let rule = match kind.as_str() {
            "head" => reference::head(&section, files),
            _ => reference::bank(&section, files),
        };
        let kind = PromptKind::Reference(rule);
        let skip = skip::refuse(&section, &kind);
        section.finish();
        return Some(Prompt { id, kind, text: String::new(), roi, budget, clip: false, skip });
    }
    let text = section.required_text("text", PROMPT_CHARS_MAX);
    if text.contains("<|") {
        section.problem("text", "must not hold <|: that starts the model's own control tokens");
    }
    let clip = section.get("clip").unwrap_or(false);
    if clip && !has_clip {
        section.problem("clip", "there is no section [clip], which says how many pictures and how far apart");
    }
    let kind = match kind.as_str() {
        "defects" => PromptKind::Defects { labels: labels(&section) },
        "text" => {
            if text.contains(LABELS_PLACE) {
                section.problem("text", "only a prompt of kind defects has {labels}");
            }
            PromptKind::Text { expect: expects(&section) }
        }
        // Without its kind, which other keys belong here is not known.
        _ => {
            section.problem("kind", "must be one of defects, text, reference, head");
            return None;
        }
    };
    let skip = match kind {
        PromptKind::Defects { .. } => skip::rule(section.child("skip")),
        PromptKind::Text { .. } | PromptKind::Reference(_) => skip::refuse(&section, &kind),
    };
    section.finish();
    Some(Prompt { id, kind, text, roi, budget, clip, skip })
}

/// A label that findings may have.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_label(label: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || " _-".contains(c);
    if label.trim() != label || label.is_empty() || !label.chars().all(fits) {
        return Err(format!("{label:?} must be letters, digits, _ - and inner spaces"));
    }
    if label.chars().count() > LABEL_CHARS_MAX {
        return Err(format!("{label:?} has more than {LABEL_CHARS_MAX} characters"));
    }
    Ok(())
}

fn labels(section: &Section<'_>) -> Vec<String> {
    let labels = section.strings("labels").unwrap_or_default();
    if labels.is_empty() {
        section.problem("labels", "a prompt of kind defects needs at least one label");
    } else if labels.len() > LABELS_MAX {
        section.problem("labels", format!("has {} labels; at most {LABELS_MAX} are allowed", labels.len()));
    }
    let mut seen = BTreeSet::new();
    for label in &labels {
        if let Err(message) = check_label(label) {
            section.problem("labels", message);
        } else if !seen.insert(label) {
            section.problem("labels", format!("{label:?} stands there twice"));
        }
    }
    labels
}

fn expects(section: &Section<'_>) -> Vec<Expect> {
    let mut lines = BTreeSet::new();
    section.children("expect").into_iter().map(|rule| expect(rule, &mut lines)).collect()
}

fn expect(section: Section<'_>, lines: &mut BTreeSet<usize>) -> Expect {
    let regex = |text: String| {
        whole_line(&text).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            section.problem("regex", format!("is no regular expression: {reason}"));
        })
    };
    let expect = Expect {
        line: section.required_ranged("line", 1..=LINES_MAX),
        literal: section.text("literal", 1024),
        regex: section.text("regex", 1024).and_then(|text| regex(text).ok()),
        from_trigger: section.text("from_trigger", 64),
        check: section.word("check", check_kind, &["gs1", "gtin", "luhn", "mod37_36", "vin"]),
    };
    if !lines.insert(expect.line) {
        section.problem("line", "two rules are about this line: put their keys into one");
    }
    let empty = Expect { line: expect.line, ..Expect::default() };
    if expect == empty && section.are_fine(&["literal", "regex", "from_trigger", "check"]) {
        section.problem_here("expects nothing: give literal, regex, from_trigger or check");
    }
    section.finish();
    expect
}

fn check_kind(word: &str) -> Option<CheckKind> {
    match word {
        "gs1" => Some(CheckKind::Gs1),
        "gtin" => Some(CheckKind::Gtin),
        "luhn" => Some(CheckKind::Luhn),
        "mod37_36" => Some(CheckKind::Mod3736),
        "vin" => Some(CheckKind::Vin),
        _ => None,
    }
}

/// The rules of grading; `labels` are those that findings may have, `None` where not all are known yet.
fn grades(root: &Section<'_>, labels: Option<&BTreeSet<&str>>) -> Vec<GradeRule> {
    let mut rules: Vec<GradeRule> = Vec::new();
    for section in root.children("grade") {
        let rule = GradeRule {
            label: section.text("label", LABEL_CHARS_MAX),
            severity: section.word("severity", Severity::parse, &Severity::ALL.map(Severity::as_str)),
            longest_mm_over: section.ranged("longest_mm_over", 0.0..=1e6),
            area_mm2_over: section.ranged("area_mm2_over", 0.0..=1e12),
            count_over: section.ranged("count_over", 1..=COUNT_MAX),
            grade: section
                .required_word("grade", Grade::parse, &Grade::ALL.map(Grade::as_str))
                .unwrap_or(Grade::Reject),
        };
        let is_unknown = |label: &&str| labels.is_some_and(|labels| !labels.contains(label));
        if let Some(label) = rule.label.as_deref().filter(is_unknown) {
            section.problem("label", format!("no prompt has the label {label:?}"));
        }
        if let Some(earlier) = rules.iter().position(|earlier| covers(earlier, &rule)) {
            section.problem_here(format!("is never reached: rule {} matches all of it", earlier + 1));
        }
        section.finish();
        rules.push(rule);
    }
    rules
}

/// True when every finding that `rule` matches is matched by `earlier` too.
fn covers(earlier: &GradeRule, rule: &GradeRule) -> bool {
    fn wider<T: PartialEq>(earlier: Option<&T>, rule: Option<&T>) -> bool {
        earlier.is_none() || earlier == rule
    }
    fn lower<T: PartialOrd>(earlier: Option<T>, rule: Option<T>) -> bool {
        match (earlier, rule) {
            (None, _) => true,
            (Some(earlier), Some(rule)) => earlier <= rule,
            (Some(_), None) => false,
        }
    }
    // A number of other findings says nothing about those of this rule.
    let same = (&earlier.label, earlier.severity, earlier.longest_mm_over, earlier.area_mm2_over)
        == (&rule.label, rule.severity, rule.longest_mm_over, rule.area_mm2_over);
    if earlier.count_over.is_some() && !(same && lower(earlier.count_over, rule.count_over)) {
        return false;
    }
    wider(earlier.label.as_ref(), rule.label.as_ref())
        && wider(earlier.severity.as_ref(), rule.severity.as_ref())
        && lower(earlier.longest_mm_over, rule.longest_mm_over)
        && lower(earlier.area_mm2_over, rule.area_mm2_over)
}

fn verdict(section: Section<'_>) -> VerdictRule {
    let words = ["cosmetic", "rework", "reject"];
    // `ok or worse` would fail every part.
    let fails = |word: &str| Grade::parse(word).filter(|grade| *grade != Grade::Ok);
    let verdict = VerdictRule {
        fail_at: section.required_word("fail_at", fails, &words).unwrap_or(Grade::Reject),
        review_below_confidence: confidence(section.required_ranged("review_below_confidence", 0.0..=1.0)),
        ignore_below_confidence: confidence(
            section.ranged("ignore_below_confidence", 0.0..=1.0).unwrap_or_default(),
        ),
        review_above_score: section.ranged("review_above_score", 0.0..=1.0).map(confidence),
        fail_above_score: section.ranged("fail_above_score", 0.0..=1.0).map(confidence),
        deadline: Duration::from_millis(section.required_ranged("deadline_ms", 1..=DEADLINE_MS_MAX)),
    };
    if let (Some(review), Some(fail)) = (verdict.review_above_score, verdict.fail_above_score)
        && fail < review
    {
        section.problem(
            "fail_above_score",
            format!("must not be less than review_above_score, which is {review}"),
        );
    }
    section.finish();
    verdict
}

/// What is promised about defective parts.
fn promise(section: Section<'_>) -> Option<PromiseRule> {
    if !section.is_present() {
        return None;
    }
    let rule = PromiseRule {
        escape: section.required_ranged("escape", PromiseRule::ESCAPE),
        confidence: section.required_ranged("confidence", PromiseRule::CONFIDENCE),
    };
    section.finish();
    Some(rule)
}

/// What a new version must show; the figures themselves are known to `evaluate`.
fn gate(section: Section<'_>) -> Option<GateRule> {
    if !section.is_present() {
        return None;
    }
    let require = section.strings("require").unwrap_or_default();
    if require.len() > REQUIRED_MAX {
        section
            .problem("require", format!("has {} entries; at most {REQUIRED_MAX} are allowed", require.len()));
    }
    for text in &require {
        if let Err(error) = text.parse::<Assertion>() {
            section.problem("require", error.to_string());
        }
    }
    let rule = GateRule {
        parts_max: section.ranged("parts_max", 1..=GATE_PARTS_MAX).unwrap_or(GATE_PARTS),
        lost_max: section.ranged("lost_max", 0..=GATE_PARTS_MAX).unwrap_or(0),
        alarms_max: section.ranged("alarms_max", 0..=GATE_PARTS_MAX),
        require,
    };
    section.finish();
    Some(rule)
}

/// Confidences are compared as the f32 that the engine computes.
const fn confidence(value: f64) -> f32 {
    value as f32
}
