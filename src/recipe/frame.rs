//! The section `[frame]` of a pipeline: what is inspected, and what a proper frame looks like.

use crate::document::Section;
use crate::domain::frame::{DEPTH_BITS, SIDE_MAX_PX};
use crate::domain::pipeline::{FrameRule, FrameSize, Health, HealthLimits, Repeats};
use crate::inspect::fit::SIDE_MIN_PX;

/// Reads the section, which may be absent.
pub(super) fn frame(section: Section<'_>) -> FrameRule {
    let frame = FrameRule {
        roi: section.rect("roi"),
        mask: section.rects("mask"),
        size: size(&section),
        depth_bits: section.ranged("depth_bits", DEPTH_BITS),
        health: health(&section),
        repeats: section.word("repeats", repeats, &["review", "allow"]).unwrap_or_default(),
    };
    if let Some(roi) = frame.roi {
        if frame.mask.iter().any(|mask| mask.contains(&roi)) {
            section.problem("mask", "covers the whole roi: nothing would be inspected");
        }
        if let FrameSize::Stated { width, height } = frame.size
            && (roi.x1 > width || roi.y1 > height)
        {
            section.problem("roi", format!("leaves the frame, whose size is {width}x{height}"));
        }
    }
    section.finish();
    frame
}

/// `[width, height]` or "any".
fn size(section: &Section<'_>) -> FrameSize {
    let sides = match section.get_text_or_numbers("size") {
        None => return FrameSize::Unknown,
        Some(Ok(word)) if word == "any" => return FrameSize::Any,
        Some(Ok(_)) => vec![],
        Some(Err(sides)) => sides,
    };
    let range = f64::from(SIDE_MIN_PX)..=f64::from(SIDE_MAX_PX);
    match sides[..] {
        [width, height] if sides.iter().all(|s| range.contains(s) && s.fract() == 0.0) => {
            FrameSize::Stated { width: width as u32, height: height as u32 }
        }
        _ => {
            let sides = format!("whole numbers of pixels from {SIDE_MIN_PX} to {SIDE_MAX_PX}");
            section.problem("size", format!("must be [width, height], {sides}, or \"any\""));
            FrameSize::Unknown
        }
    }
}

fn repeats(word: &str) -> Option<Repeats> {
    match word {
        "review" => Some(Repeats::Review),
        "allow" => Some(Repeats::Allow),
        _ => None,
    }
}

/// A table of limits, or "off".
fn health(section: &Section<'_>) -> Health {
    if section.is_text("health") {
        if section.get::<String>("health").is_none_or(|word| word != "off") {
            section.problem("health", "must be one of off, or a table of limits");
        }
        return Health::Off;
    }
    let (table, usual) = (section.child("health"), HealthLimits::default());
    let limit = |key, range, usual| table.ranged(key, range).unwrap_or(usual);
    let limits = HealthLimits {
        brightness_min: limit("brightness_min", 0.0..=255.0, usual.brightness_min),
        brightness_max: limit("brightness_max", 0.0..=255.0, usual.brightness_max),
        overexposed_max: limit("overexposed_max", 0.0..=1.0, usual.overexposed_max),
        contrast_min: limit("contrast_min", 0.0..=255.0, usual.contrast_min),
        sharpness_min: limit("sharpness_min", 0.0..=1e6, usual.sharpness_min),
        sharpness_max: limit("sharpness_max", 0.0..=1e6, usual.sharpness_max),
        structure_min: limit("structure_min", 0.0..=1.0, usual.structure_min),
    };
    for (low, high, min, max) in [
        ("brightness_min", "brightness_max", limits.brightness_min, limits.brightness_max),
        ("sharpness_min", "sharpness_max", limits.sharpness_min, limits.sharpness_max),
    ] {
        if min >= max && table.are_fine(&[low, high]) {
            table.problem(low, format!("must be less than {high}, which is {max}"));
        }
    }
    table.finish();
    Health::On(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pipeline::Pipeline;
    use crate::recipe::pipeline_from_str;

    const RECIPE: &str = include_str!("../../pipelines/photo.toml");
    const PLATE: &str = include_str!("../../pipelines/machined-plate.toml");

    /// The recipe with these lines in its section `[frame]`.
    fn with(lines: &str) -> Result<Pipeline, String> {
        let text = RECIPE.replacen("size = \"any\"", lines, 1);
        pipeline_from_str("photo.toml", &text).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn without_keys_the_health_is_on_and_the_size_is_learned() {
        let frame = with("").unwrap().frame;
        assert_eq!(frame, FrameRule::default());
        assert_eq!((frame.size, frame.health), (FrameSize::Unknown, Health::On(HealthLimits::default())));
    }

    #[test]
    fn the_keys_are_read() {
        let frame =
            with("size = [640, 480]\ndepth_bits = 12\nrepeats = \"allow\"\nhealth = { contrast_min = 5 }");
        let frame = frame.unwrap().frame;
        assert_eq!(frame.size, FrameSize::Stated { width: 640, height: 480 });
        assert_eq!((frame.depth_bits, frame.repeats), (Some(12), Repeats::Allow));
        let limits = HealthLimits { contrast_min: 5.0, ..HealthLimits::default() };
        assert_eq!(frame.health, Health::On(limits));
        assert_eq!(with("health = \"off\"").unwrap().frame.health, Health::Off);
        assert_eq!(with("size = \"any\"").unwrap().frame.size, FrameSize::Any);
    }

    /// The optional keys in the comments of the plate's recipe exist, and their values are the defaults.
    #[test]
    fn the_comments_of_the_plate_are_true() {
        let text = PLATE.replace("#repeats", "repeats").replace("#health", "health");
        assert_ne!(text, PLATE);
        let frame = pipeline_from_str("machined-plate.toml", &text).unwrap().frame;
        assert_eq!(frame, pipeline_from_str("machined-plate.toml", PLATE).unwrap().frame);
        assert_eq!(frame.size, FrameSize::Stated { width: 2448, height: 2048 });
        assert!(
            pipeline_from_str("machined-plate.toml", &PLATE.replace("#depth_bits", "depth_bits")).is_ok()
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (lines, words) in [
            ("size = [640]", "must be [width, height]"),
            ("size = [0, 480]", "must be [width, height]"),
            ("size = [640.5, 480]", "must be [width, height]"),
            ("size = \"large\"", "must be [width, height]"),
            ("size = [640, 480]\nroi = [0, 0, 641, 480]", "leaves the frame, whose size is 640x480"),
            ("depth_bits = 8", "from 9 to 16"),
            ("depth_bits = 17", "from 9 to 16"),
            ("repeats = \"no\"", "must be one of review, allow"),
            ("health = \"on\"", "must be one of off"),
            ("health = { brightness = 3 }", "unknown key"),
            ("health = { overexposed_max = 1.5 }", "from 0 to 1"),
            ("health = { brightness_min = 200, brightness_max = 100 }", "must be less than brightness_max"),
        ] {
            let error = with(lines).expect_err(lines);
            assert!(error.contains(words), "{lines}: {error}");
        }
    }
}
