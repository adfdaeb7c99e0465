//! Text: the k-th line read against the k-th true line.
//!
//! ```text
//! truth lines --in which region?--> prompt --k-th with k-th--> equal? edit distance
//! ```
//!
//! A true line belongs to the first text prompt whose region (the image's own `rois`, else the
//! pipeline's) holds the centre of its box; a line without a box, or a prompt without a region, fits
//! anywhere. Lines in no region were not asked: they are counted as `outside` and not scored. A line
//! that was not read is read as "". Lines read beyond the true ones are counted as `extra`.

use super::{Asked, share};
use crate::domain::inspection::Inspection;
use crate::domain::rect::{BoxPx, Rect};
use crate::evaluate::truth::{TrueText, Truth};
use serde::Serialize;

/// Figures of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct TextMetrics {
    /// True lines that a prompt was to read.
    pub lines: usize,
    /// Of these, read without any difference.
    pub exact: usize,
    pub line_accuracy: Option<f64>,
    /// Sum of the edit distances over sum of the true characters.
    pub cer: Option<f64>,
    /// Lines read beyond the true ones, in images whose text is known.
    pub extra: usize,
    /// True lines that lie in no prompt's region.
    pub outside: usize,
}

/// Scores what was read.
pub(super) fn score(pairs: &[(&Truth, &Inspection)], asked: &Asked) -> TextMetrics {
    let mut m = TextMetrics::default();
    let (mut edits, mut characters) = (0, 0);
    if asked.texts.is_empty() {
        return m;
    }
    for (truth, inspection) in pairs.iter().filter(|(t, _)| !t.texts.is_empty()) {
        let (by_prompt, outside) = assign(truth, asked);
        m.outside += outside;
        for (prompt, lines) in asked.texts.iter().zip(by_prompt) {
            let mut read: Vec<_> = inspection.texts.iter().filter(|t| t.prompt == prompt.id).collect();
            read.sort_by_key(|t| t.line);
            let read: Vec<&str> = read.iter().map(|t| t.read.as_deref().unwrap_or("")).collect();
            for (k, line) in lines.iter().enumerate() {
                let distance = edit_distance(read.get(k).copied().unwrap_or(""), &line.text);
                m.exact += usize::from(distance == 0);
                edits += distance;
                characters += line.text.chars().count();
            }
            m.lines += lines.len();
            m.extra += read.iter().skip(lines.len()).filter(|r| !r.is_empty()).count();
        }
    }
    m.line_accuracy = share(m.exact, m.lines);
    m.cer = share(edits, characters);
    m
}

/// The true lines of each text prompt, and how many lie in none.
fn assign<'t>(truth: &'t Truth, asked: &Asked) -> (Vec<Vec<&'t TrueText>>, usize) {
    let mut by_prompt = vec![Vec::new(); asked.texts.len()];
    let mut outside = 0;
    for line in &truth.texts {
        let holds = |roi: Option<Rect>| match (roi, line.bbox_px) {
            (Some(roi), Some(bbox)) => centre_in(&bbox, &roi),
            _ => true,
        };
        let prompt = asked.texts.iter().position(|p| holds(truth.rois.get(&p.id).copied().or(p.roi)));
        match prompt {
            Some(k) => by_prompt[k].push(line),
            None => outside += 1,
        }
    }
    (by_prompt, outside)
}

#[expect(clippy::cast_precision_loss, reason = "pixels of an image are exact in f32")]
fn centre_in(bbox: &BoxPx, roi: &Rect) -> bool {
    let (x, y) = (f32::midpoint(bbox.x0, bbox.x1), f32::midpoint(bbox.y0, bbox.y1));
    x >= roi.x0 as f32 && x < roi.x1 as f32 && y >= roi.y0 as f32 && y < roi.y1 as f32
}

/// Levenshtein distance in characters: insertions, deletions and substitutions cost 1 each.
pub(super) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // above[j]: distance of the characters of `a` so far to the first j of `b`.
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = above[0];
        above[0] = left;
        for (j, y) in b.iter().enumerate() {
            let up = above[j + 1];
            left = (diagonal + usize::from(x != *y)).min(up + 1).min(left + 1);
            diagonal = up;
            above[j + 1] = left;
        }
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_by_hand() {
        for (a, b, d) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("SN1234", "SN1284", 1),
            ("Tür", "Tor", 1),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_bounded(a in "[A-C0-2]{0,9}", b in "[A-C0-2]{0,9}") {
            let d = edit_distance(&a, &b);
            prop_assert_eq!(d, edit_distance(&b, &a));
            prop_assert_eq!(d == 0, a == b);
            prop_assert!(d >= a.len().abs_diff(b.len()) && d <= a.len().max(b.len()));
        }
    }
}
