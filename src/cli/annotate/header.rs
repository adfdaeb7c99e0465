//! The strip above the picture: verdict, reason, and what was inspected when.
//!
//! ```text
//! +--------+
//! |  FAIL  |  scratch found                                    (reason, at most two rows)
//! +--------+  grade reject · part P-7 · machined-plate · ...   (facts, as many rows as needed)
//! ====================== line in the verdict's colour =========
//! ```

use super::canvas::{Canvas, Letters};
use super::look::{self, Scale};
use crate::cli::output;
use crate::domain::inspection::Inspection;
use crate::domain::rect::BoxPx;

/// Rows of the reason and of the facts: an engine's message may be long, a picture is not.
const REASON_ROWS_MAX: usize = 2;
const FACT_ROWS_MAX: usize = 5;
/// Beside the badge there must be room for this many letters' heights, else the words go below it.
const BESIDE_MIN_EM: f32 = 16.0;
const BETWEEN: &str = "  ·  ";

/// A laid-out strip, not yet drawn.
pub(super) struct Header {
    reason: Vec<String>,
    facts: Vec<String>,
    badge: BoxPx,
    badge_size_px: f32,
    /// Left and top of the words.
    words_at: (f32, f32),
    size_px: f32,
    small_px: f32,
    /// Height of the whole strip.
    pub height_px: u32,
}

impl Header {
    /// Lays the strip out for a picture of this width.
    pub(super) fn new(inspection: &Inspection, width_px: f32, scale: &Scale, letters: &Letters) -> Self {
        let font = scale.font_px;
        let (size_px, small_px, badge_size_px) = (font * 1.12, font * 0.86, font * 1.7);
        let pad = font * 0.6;
        let badge_width = letters.width(output::badge(&inspection.verdict), badge_size_px) + font * 1.4;
        let badge_height = badge_size_px * 1.25;
        let badge = BoxPx::new(pad, pad, pad + badge_width, pad + badge_height);

        let beside = width_px - badge.x1 - 2.0 * pad;
        let is_beside = beside >= BESIDE_MIN_EM * font;
        let room = if is_beside { beside } else { width_px - 2.0 * pad };
        let reason = wrap(&words(&output::summary(inspection)), " ", REASON_ROWS_MAX, room, size_px, letters);
        let mut facts = output::facts(inspection);
        facts.push(count(inspection));
        facts.push(format!("{:.0} ms", inspection.latency.total_ms));
        let facts = wrap(&facts, BETWEEN, FACT_ROWS_MAX, room, small_px, letters);

        let block = rows_px(reason.len(), size_px) + rows_px(facts.len(), small_px);
        let words_at = if is_beside {
            (badge.x1 + pad, pad + ((badge_height - block) / 2.0).max(0.0))
        } else {
            (pad, badge.y1 + pad * 0.6)
        };
        let bottom = badge.y1.max(words_at.1 + block) + pad + scale.line_px;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few rows of words")]
        let height_px = bottom.ceil() as u32;
        Self { reason, facts, badge, badge_size_px, words_at, size_px, small_px, height_px }
    }

    /// Draws the strip at the top of the canvas.
    pub(super) fn draw(&self, canvas: &mut Canvas, inspection: &Inspection, width_px: f32, scale: &Scale) {
        let (fill, ink) = look::verdict(&inspection.verdict);
        canvas.fill(&self.badge, scale.font_px * 0.3, fill);
        let word = output::badge(&inspection.verdict);
        let word_width = canvas.letters.width(word, self.badge_size_px);
        let x = (self.badge.x0 + self.badge.x1 - word_width) / 2.0;
        let top = (self.badge.y0 + self.badge.y1 - self.badge_size_px) / 2.0;
        canvas.text(word, self.badge_size_px, x, top, ink);

        let (x, mut top) = self.words_at;
        for row in &self.reason {
            canvas.text(row, self.size_px, x, top, look::WHITE);
            top += rows_px(1, self.size_px);
        }
        for row in &self.facts {
            canvas.text(row, self.small_px, x, top, look::GREY);
            top += rows_px(1, self.small_px);
        }
        #[expect(clippy::cast_precision_loss, reason = "a strip of some hundred pixels")]
        let bottom = self.height_px as f32;
        canvas.fill(&BoxPx::new(0.0, bottom - scale.line_px, width_px, bottom), 0.0, fill);
    }
}

fn rows_px(rows: usize, size_px: f32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let rows = rows as f32;
    rows * size_px * 1.2
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn count(inspection: &Inspection) -> String {
    match inspection.findings.len() {
        1 => "1 finding".to_owned(),
        n => format!("{n} findings"),
    }
}

/// Joins items into rows no wider than `room_px`; what does not fit into `rows_max` rows is cut.
fn wrap(
    items: &[String],
    between: &str,
    rows_max: usize,
    room_px: f32,
    size_px: f32,
    letters: &Letters,
) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for item in items {
        let is_last = rows.len() == rows_max;
        let Some(row) = rows.last_mut() else {
            rows.push(item.clone());
            continue;
        };
        let longer = format!("{row}{between}{item}");
        if letters.width(&longer, size_px) <= room_px {
            *row = longer;
        } else if is_last {
            // One item too many shows that something is cut; `fit` puts the ellipsis.
            *row = longer;
            break;
        } else {
            rows.push(item.clone());
        }
    }
    rows.iter().map(|row| letters.fit(row, size_px, room_px)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, rows_max: usize, room_px: f32) -> Vec<String> {
        wrap(&words(text), " ", rows_max, room_px, 20.0, &Letters::new())
    }

    #[test]
    fn words_wrap_and_what_is_too_much_is_cut() {
        let letters = Letters::new();
        let room = letters.width("only three of", 20.0) + 1.0;
        assert_eq!(rows("only three of nine tiles", 2, room), ["only three of", "nine tiles"]);
        let cut = rows("only three of nine tiles were inspected today", 2, room);
        assert_eq!(cut.len(), 2);
        assert!(cut[1].starts_with("nine") && cut[1].ends_with('…'), "{cut:?}");
        assert!(cut.iter().all(|r| letters.width(r, 20.0) <= room));
        assert_eq!(rows("", 2, room), Vec::<String>::new());
    }
}
