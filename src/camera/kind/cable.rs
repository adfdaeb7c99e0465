//! What cameras on a cable have in common.

use super::common::Usual;
use crate::camera::window::{Rule, Stamps};
use crate::document::Section;
use std::time::Duration;

const SIDE_PX_MAX: u32 = 16_384;

/// What is usual for a camera whose pictures are so old when they get their stamps.
pub(super) const fn usual(latency_ms: u32) -> Usual {
    let second = Duration::from_secs(1);
    let rule = Rule { within: Some(second), on_its_way: second, stamps: Stamps::Exposure };
    Usual { latency_ms, frozen_after_ms: 3_500, rule, open: Duration::ZERO }
}

/// Width and height in pixels, which only mean something together.
pub(super) fn size(section: &Section<'_>) -> (Option<u32>, Option<u32>) {
    let width = section.ranged("width_px", 16..=SIDE_PX_MAX);
    let height = section.ranged("height_px", 16..=SIDE_PX_MAX);
    if width.is_some() != height.is_some() && section.are_fine(&["width_px", "height_px"]) {
        section.problem("width_px", "width_px and height_px only mean something together");
    }
    (width, height)
}
