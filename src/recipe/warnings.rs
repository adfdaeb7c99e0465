//! What is valid and still lets defective parts pass: the warnings about a recipe.
//!
//! ```text
//! Pipeline --picture----> a picture that shows nothing of the part is let through
//!          --reach------> too little of the frame is inspected
//!          --sight------> what the model is shown is too small to see a defect
//!          --doubt------> limits of confidence that drop what is found, or that nothing reaches
//!          --score------> limits on a score that is always 0, or that nothing is over
//!          --questions--> a question that asks nothing, text of which nothing is expected
//!          --skipped----> tiles that are not asked, and no gate says how much that may lose
//!          --scale------> millimetres that no camera sees
//!          --grades-----> rules that never match, grades that never fail
//! ```
//!
//! A warning names its file, line, key and value as a problem does. Only what is known counts: without a roi and a
//! stated size the frame has no size yet, and nothing is said about shares of it.

use crate::document::Document;
use crate::domain::frame::SIDE_MAX_PX;
use crate::domain::grade::{Grade, Severity};
use crate::domain::pipeline::{FrameSize, GradeRule, Health, Pipeline, Prompt, PromptKind, Repeats};
use crate::domain::rect::Rect;
use crate::inspect::plan::LABELS_PLACE;
use std::ops::RangeInclusive;

/// Less than this share of a frame is hardly an inspection.
const SHARE_MIN: f64 = 0.1;
/// Masks whose overlaps are measured; further ones do not count.
const MASKS_MAX: usize = 1_000;
/// Fewer pixels show no part: a cell of the model alone takes 32 x 32.
const REGION_PIXELS_MIN: f64 = 64.0 * 64.0;
/// Side of a cell of the model, in pixels of the picture that it is shown.
const CELL_PX: f64 = 32.0;
/// Most frame pixels along a cell: four times the 64 of 512 x 512 that is shown as 256 x 256.
const CELL_FRAME_PX_MAX: f64 = 256.0;
/// What the model is surer of than this is more likely a defect than not.
const DROPPED_MAX: f32 = 0.5;
/// A shorter text without the labels asks nothing.
const QUESTION_CHARS_MIN: usize = 12;
/// The longer side of what a camera sees, in millimetres: a tenth of a millimetre to a hundred metres.
const FIELD_MM: RangeInclusive<f64> = 0.1..=100_000.0;

/// Adds the warnings about `pipeline`, which was read from `document`.
pub(super) fn add(pipeline: &Pipeline, document: &Document) {
    picture(pipeline, document);
    reach(pipeline, document);
    sight(pipeline, document);
    doubt(pipeline, document);
    score(pipeline, document);
    questions(pipeline, document);
    skipped(pipeline, document);
    scale(pipeline, document);
    grades(pipeline, document);
}

/// What is skipped without anybody knowing what that loses.
fn skipped(pipeline: &Pipeline, document: &Document) {
    let require = pipeline.gate.iter().flat_map(|gate| &gate.require);
    if require.into_iter().any(|text| text.trim_start().starts_with("skipped.lost")) {
        return;
    }
    for (index, _) in asking(pipeline).filter(|(_, prompt)| prompt.skip.is_some()) {
        let message = "tiles that the bank calls normal are not asked, and nothing bounds what that loses: \
                       give [gate] require = [\"skipped.lost <= 0\"]";
        document.warning(&format!("prompt[{index}].skip"), message);
    }
}

/// The frame, where its size is stated.
fn frame(pipeline: &Pipeline) -> Option<Rect> {
    match pipeline.frame.size {
        FrameSize::Stated { width, height } => Some(Rect::new(0, 0, width, height)),
        _ => None,
    }
}

/// What is cut into tiles, where its size is known.
fn field(pipeline: &Pipeline) -> Option<Rect> {
    pipeline.frame.roi.or_else(|| frame(pipeline))
}

/// The prompts that look for defects, with their places in the list.
fn looking(pipeline: &Pipeline) -> impl Iterator<Item = (usize, &Prompt)> {
    pipeline.prompts.iter().enumerate().filter(|(_, prompt)| prompt.kind.looks_for_defects())
}

/// Those of them that ask the model in words.
fn asking(pipeline: &Pipeline) -> impl Iterator<Item = (usize, &Prompt)> {
    looking(pipeline).filter(|(_, prompt)| matches!(prompt.kind, PromptKind::Defects { .. }))
}

/// What lets a picture through that shows nothing of the part, or another one than is meant.
fn picture(pipeline: &Pipeline, document: &Document) {
    let rule = &pipeline.frame;
    if rule.health == Health::Off {
        let message = "black, white and noise are inspected, and pass where no text is expected";
        document.warning("frame.health", message);
    }
    if rule.repeats == Repeats::Allow {
        document.warning("frame.repeats", "the pictures of a camera that is frozen are inspected");
    }
    match rule.size {
        FrameSize::Unknown if rule.roi.is_some() => {
            let message =
                "without size, a camera of another resolution is not noticed until a part is confirmed";
            document.warning("frame.roi", message);
        }
        FrameSize::Any if rule.roi.is_some() => {
            let message = "with size = \"any\", at another resolution the roi lies elsewhere on the part";
            document.warning("frame.roi", message);
        }
        _ => {}
    }
}

/// Too few pixels are inspected, or too small a share of the frame.
fn reach(pipeline: &Pipeline, document: &Document) {
    let few = |key: &str, roi: Rect| {
        if area(&roi) < REGION_PIXELS_MIN {
            let sides = sides(&roi);
            let message =
                format!("only {sides} pixels are inspected: fewer than 64x64 show nothing of a part");
            document.warning(key, message);
        }
    };
    for (index, prompt) in looking(pipeline) {
        match prompt.roi {
            Some(roi) => few(&format!("prompt[{index}].roi"), roi),
            None => pipeline.frame.roi.into_iter().for_each(|roi| few("frame.roi", roi)),
        }
    }
    let tiled = looking(pipeline).any(|(_, prompt)| prompt.roi.is_none());
    let Some(field) = field(pipeline).filter(|_| tiled) else { return };
    let whole = frame(pipeline).unwrap_or(field);
    let share = area(&field) / area(&whole);
    let left = (area(&field) - covered(&field, &pipeline.frame.mask)) / area(&whole);
    let (all, percent) = (sides(&whole), |share: f64| format!("{:.1} %", share * 100.0));
    if share < SHARE_MIN {
        let message = format!("only {} of the {all} pixels of the frame are inspected", percent(share));
        document.warning("frame.roi", message);
    } else if left < SHARE_MIN {
        document.warning("frame.mask", format!("leaves only {} of {all} pixels to inspect", percent(left)));
    }
}

/// Pixels of `field` under the masks, each counted once however many masks lie over it.
fn covered(field: &Rect, masks: &[Rect]) -> f64 {
    let within = |mask: &Rect| Some(mask.intersect(field)).filter(|part| !part.is_empty());
    let mut masks: Vec<Rect> = masks.iter().take(MASKS_MAX).filter_map(within).collect();
    masks.sort_by_key(|mask| mask.y0);
    let mut columns: Vec<u32> = masks.iter().flat_map(|mask| [mask.x0, mask.x1]).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut pixels = 0.0;
    for strip in columns.windows(2) {
        let (left, right) = (strip[0], strip[1]);
        let (mut height, mut below) = (0, 0);
        for mask in masks.iter().filter(|mask| mask.x0 <= left && mask.x1 >= right) {
            height += mask.y1.saturating_sub(mask.y0.max(below));
            below = below.max(mask.y1);
        }
        pixels += f64::from(right - left) * f64::from(height);
    }
    pixels
}

/// A cell of the model covers so much of the frame that a defect is lost in it.
fn sight(pipeline: &Pipeline, document: &Document) {
    for (index, prompt) in asking(pipeline) {
        let side = pipeline.tiling.tile_px;
        let tile = field(pipeline).map_or((side, side), |f| (side.min(f.width()), side.min(f.height())));
        let (width, height) = prompt.roi.map_or(tile, |roi| (roi.width(), roi.height()));
        let pixels = f64::from(width) * f64::from(height);
        let shrink = (pixels / f64::from(prompt.budget.max_pixels)).sqrt().max(1.0);
        let cell = shrink * CELL_PX;
        if cell <= CELL_FRAME_PX_MAX {
            continue;
        }
        let key = prompt.roi.map_or("tiling.tile_px".to_owned(), |_| format!("prompt[{index}].roi"));
        let (seen_width, seen_height) = (f64::from(width) / shrink, f64::from(height) / shrink);
        let message = format!(
            "{width}x{height} pixels are shown to the model as {seen_width:.0}x{seen_height:.0}: it cannot be relied \
             on to see a defect below {cell:.0} px ({}), which is less than one of its cells; \
             cut smaller or raise max_pixels",
            mm(cell * pipeline.mm_per_px)
        );
        document.warning(&key, message);
    }
}

/// What is found is dropped and its part passes, or nothing is ever sure enough to fail.
fn doubt(pipeline: &Pipeline, document: &Document) {
    let (review, ignore) =
        (pipeline.verdict.review_below_confidence, pipeline.verdict.ignore_below_confidence);
    // A dropped detection of confidence c leaves its tile clean with 1 - c, which must reach the limit of review.
    let dropped = ignore.min(1.0 - review);
    if dropped > DROPPED_MAX && looking(pipeline).next().is_some() {
        let percent = dropped * 100.0;
        let message = format!(
            "a defect that the model is up to {percent:.0} % sure of is dropped and, with review_below_confidence = \
             {review}, its part passes"
        );
        document.warning("verdict.ignore_below_confidence", message);
    }
    if review >= 1.0 {
        let message = "nothing is that sure: all that is found goes to review, and no part ever fails";
        document.warning("verdict.review_below_confidence", message);
    }
}

/// A limit on the score decides nothing, or a promise is about what nobody looks for.
fn score(pipeline: &Pipeline, document: &Document) {
    let rule = &pipeline.verdict;
    let limits = [
        ("verdict.review_above_score", rule.review_above_score),
        ("verdict.fail_above_score", rule.fail_above_score),
    ];
    let scores = looking(pipeline).next().is_some();
    for (key, limit) in limits.into_iter().filter_map(|(key, limit)| Some((key, limit?))) {
        if !scores {
            document.warning(key, "no prompt looks for defects: the score of every part is 0");
        } else if limit >= 1.0 {
            document.warning(key, "no score is higher: it decides nothing");
        }
    }
    if pipeline.promise.is_some() && !scores {
        document.warning("promise.escape", "no prompt looks for defects: nothing keeps it");
    }
}

/// No answer can fail a part, or a prompt asks nothing.
fn questions(pipeline: &Pipeline, document: &Document) {
    let expects_nothing =
        |prompt: &Prompt| matches!(&prompt.kind, PromptKind::Text { expect } if expect.is_empty());
    if pipeline.prompts.iter().all(expects_nothing) {
        let message = "none looks for defects, and nothing is expected of the text: no part can fail";
        document.warning("prompt", message);
    }
    for (index, prompt) in asking(pipeline) {
        let chars = prompt.text.trim().chars().count();
        if chars < QUESTION_CHARS_MIN && !prompt.text.contains(LABELS_PLACE) {
            let message = format!("asks for nothing: it has {chars} characters and no {LABELS_PLACE}");
            document.warning(&format!("prompt[{index}].text"), message);
        }
    }
}

/// The scale makes the frame smaller or larger than anything that a camera inspects.
fn scale(pipeline: &Pipeline, document: &Document) {
    let longest = field(pipeline).map(|field| field.width().max(field.height()));
    // A frame of unknown size has at most the pixels of the largest picture, and is taken to fill a tile.
    let most = longest.unwrap_or(SIDE_MAX_PX);
    let least = longest.unwrap_or(pipeline.tiling.tile_px);
    let length = |px: u32| f64::from(px) * pipeline.mm_per_px;
    let wrong = if length(most) < *FIELD_MM.start() {
        most
    } else if length(least) > *FIELD_MM.end() {
        least
    } else {
        return;
    };
    let message = format!(
        "{wrong} pixels are {} on the part, which no camera inspects: measure a gauge block in the picture",
        mm(length(wrong))
    );
    document.warning("mm_per_px", message);
}

/// Rules that never match, and grades by which no finding fails a part.
fn grades(pipeline: &Pipeline, document: &Document) {
    let fail_at = pipeline.verdict.fail_at;
    let largest = largest_mm(pipeline);
    for (index, rule) in pipeline.grades.iter().enumerate() {
        let Some((longest, area)) = largest else { break };
        if rule.longest_mm_over.is_some_and(|limit| limit >= longest) {
            let message = format!("never matches: the largest inspected region is {} long", mm(longest));
            document.warning(&format!("grade[{index}].longest_mm_over"), message);
        }
        if rule.area_mm2_over.is_some_and(|limit| limit >= area) {
            let message = format!("never matches: the largest inspected region has {}²", mm(area));
            document.warning(&format!("grade[{index}].area_mm2_over"), message);
        }
    }
    for (index, rule) in pipeline.grades.iter().enumerate() {
        let any = rule.label.is_none() && rule.severity.is_none() && is_any(rule, pipeline.mm_per_px);
        if any && rule.grade < fail_at {
            let fails = fail_at.as_str();
            let message = format!("every finding that no rule before it matches passes: fail_at is {fails}");
            document.warning(&format!("grade[{index}].grade"), message);
        }
    }
    let labels: Vec<&String> = looking(pipeline).flat_map(|(_, prompt)| prompt.kind.labels()).collect();
    let passes = |label: &str| Severity::ALL.into_iter().all(|s| worst(pipeline, label, s) < fail_at);
    if !labels.is_empty() && labels.iter().all(|label| passes(label)) {
        document
            .warning("verdict.fail_at", "the rules give no finding this grade or a worse one: none fails");
    }
}

/// The length and the area of the largest regions in which defects are looked for, in mm and mm²; `None` where
/// the size of one is not known.
fn largest_mm(pipeline: &Pipeline) -> Option<(f64, f64)> {
    let scale = pipeline.mm_per_px;
    let (mut longest, mut largest) = (0.0_f64, 0.0_f64);
    for (_, prompt) in looking(pipeline) {
        let region = prompt.roi.or_else(|| field(pipeline))?;
        longest = longest.max(f64::from(region.width().max(region.height())) * scale);
        largest = largest.max(area(&region) * scale * scale);
    }
    Some((longest, largest))
}

/// The worst grade that a finding of this label and severity can get, whatever its size.
fn worst(pipeline: &Pipeline, label: &str, severity: Severity) -> Grade {
    let largest = largest_mm(pipeline);
    let fits = |rule: &&GradeRule| {
        rule.label.as_deref().is_none_or(|own| own == label)
            && rule.severity.is_none_or(|own| own == severity)
            && largest.is_none_or(|(longest, area)| {
                rule.longest_mm_over.is_none_or(|limit| limit < longest)
                    && rule.area_mm2_over.is_none_or(|limit| limit < area)
            })
    };
    let mut worst = Grade::Ok;
    for rule in pipeline.grades.iter().filter(fits) {
        worst = worst.max(rule.grade);
        if is_any(rule, pipeline.mm_per_px) {
            return worst;
        }
    }
    Grade::Reject
}

/// True when the rule asks for no size, or for one of at most a pixel, and for no number.
fn is_any(rule: &GradeRule, mm_per_px: f64) -> bool {
    rule.count_over.is_none()
        && rule.longest_mm_over.is_none_or(|limit| limit <= mm_per_px)
        && rule.area_mm2_over.is_none_or(|limit| limit <= mm_per_px * mm_per_px)
}

fn area(rect: &Rect) -> f64 {
    f64::from(rect.width()) * f64::from(rect.height())
}

/// `2448x2048`.
fn sides(rect: &Rect) -> String {
    format!("{}x{}", rect.width(), rect.height())
}

/// Millimetres as a message shows them.
fn mm(length: f64) -> String {
    if length < 0.01 {
        format!("{length:.1e} mm")
    } else {
        format!("{} mm", (length * 100.0).round() / 100.0)
    }
}
