//! Plates: small rounded signs with words, for captions of defects and for text that was read.

use super::canvas::{Canvas, Ink, Letters};
use super::look::{self, Scale};
use crate::cli::columns::clean;
use crate::cli::output::{is_rule, spaced};
use crate::domain::finding::Finding;
use crate::domain::rect::BoxPx;
use crate::domain::text::TextLine;

/// Characters of one line that a plate shows.
const LINE_CHARS_MAX: usize = 48;

/// A sign, not yet placed.
pub(super) struct Plate {
    rows: Vec<Row>,
    fill: Ink,
    edge: Ink,
    pad_px: f32,
}

struct Row {
    size_px: f32,
    pieces: Vec<Piece>,
}

enum Piece {
    Word(String, Ink),
    /// Characters that differ from what they should be.
    Wrong(String),
    /// The place where a character is missing: an empty slot.
    Missing,
    Tick,
    Cross,
    /// Blank, as a share of the row's size.
    Gap(f32),
}

impl Plate {
    /// `scratch major 5.2 mm 0.83` in the colour of the grade.
    pub(super) fn caption(finding: &Finding, scale: &Scale) -> Self {
        let (fill, ink) = look::grade(finding.grade);
        let rest = format!(
            "{}  {}  {:.2}",
            finding.severity.as_str(),
            millimetres(finding.longest_mm),
            finding.confidence
        );
        let pieces = vec![
            Piece::Word(spaced(&finding.label), ink),
            Piece::Gap(0.4),
            Piece::Word(rest, ink.alpha(look::QUIET_ALPHA)),
        ];
        Self {
            rows: vec![Row { size_px: scale.font_px, pieces }],
            fill,
            edge: look::HALO,
            pad_px: scale.font_px * 0.25,
        }
    }

    /// What one text prompt read, line by line, with what it should have been below a wrong line.
    pub(super) fn reading(prompt: &str, lines: &[&TextLine], scale: &Scale) -> Self {
        let small = scale.font_px * look::SMALL;
        let mut rows = vec![Row { size_px: small, pieces: vec![Piece::Word(spaced(prompt), look::GREY)] }];
        for line in lines {
            rows.push(Row { size_px: scale.font_px, pieces: line_pieces(line) });
            rows.extend(
                notes(line)
                    .into_iter()
                    .map(|note| Row { size_px: small, pieces: vec![Piece::Word(note, look::NOTE)] }),
            );
        }
        Self { rows, fill: look::DARK.alpha(232), edge: look::reading(lines), pad_px: scale.font_px * 0.4 }
    }

    /// Width and height in pixels.
    pub(super) fn size(&self, letters: &Letters) -> (f32, f32) {
        let width = self.rows.iter().map(|r| r.width(letters)).fold(0.0, f32::max);
        let height: f32 = self.rows.iter().map(Row::height).sum();
        (width + 2.2 * self.pad_px, height + 2.0 * self.pad_px * 0.6)
    }

    /// Shrinks the letters until the plate is no wider than `width_px`.
    pub(super) fn shrink_to(mut self, width_px: f32, letters: &Letters) -> Self {
        let (width, _) = self.size(letters);
        if width > width_px && width > 0.0 {
            let by = width_px / width;
            self.pad_px *= by;
            for row in &mut self.rows {
                row.size_px *= by;
            }
        }
        self
    }

    /// Draws the sign over `area`, which has its size.
    pub(super) fn draw(&self, canvas: &mut Canvas, area: &BoxPx, scale: &Scale) {
        let radius = self.pad_px * 0.9;
        canvas.edge(area, radius, scale.line_px * 0.8, self.edge);
        canvas.fill(area, radius, self.fill);
        let mut top = area.y0 + self.pad_px * 0.6;
        for row in &self.rows {
            row.draw(canvas, area.x0 + self.pad_px * 1.1, top);
            top += row.height();
        }
    }
}

impl Row {
    fn height(&self) -> f32 {
        self.size_px * 1.06
    }

    fn width(&self, letters: &Letters) -> f32 {
        self.pieces.iter().map(|p| p.width(letters, self.size_px)).sum()
    }

    fn draw(&self, canvas: &mut Canvas, x: f32, top: f32) {
        let size = self.size_px;
        let mut x = x;
        for piece in &self.pieces {
            let width = piece.width(&canvas.letters, size);
            match piece {
                Piece::Word(word, ink) => {
                    canvas.text(word, size, x, top, *ink);
                }
                Piece::Wrong(word) => {
                    let chip =
                        BoxPx::new(x + size * 0.02, top + size * 0.05, x + width - size * 0.02, top + size);
                    canvas.fill(&chip, size * 0.14, look::RED);
                    canvas.text(word, size, x + size * WRONG_PAD, top, look::WHITE);
                }
                Piece::Missing => {
                    let slot = BoxPx::new(
                        x + size * 0.1,
                        top + size * 0.14,
                        x + width - size * 0.1,
                        top + size * 0.9,
                    );
                    canvas.edge(&slot, size * 0.1, size * 0.08, look::RED);
                }
                Piece::Tick => {
                    let at = |dx: f32, dy: f32| (x + size * dx, top + size * dy);
                    canvas.lines(&[at(0.06, 0.55), at(0.24, 0.74), at(0.58, 0.26)], size * 0.11, look::GREEN);
                }
                Piece::Cross => {
                    let at = |dx: f32, dy: f32| (x + size * dx, top + size * dy);
                    canvas.lines(&[at(0.12, 0.3), at(0.52, 0.7)], size * 0.11, look::RED);
                    canvas.lines(&[at(0.52, 0.3), at(0.12, 0.7)], size * 0.11, look::RED);
                }
                Piece::Gap(_) => {}
            }
            x += width;
        }
    }
}

/// Blank on both sides of a wrong character inside its red chip, as a share of its size.
const WRONG_PAD: f32 = 0.07;

impl Piece {
    fn width(&self, letters: &Letters, size_px: f32) -> f32 {
        match self {
            Self::Word(word, _) => letters.width(word, size_px),
            Self::Wrong(word) => letters.width(word, size_px) + 2.0 * WRONG_PAD * size_px,
            Self::Missing => size_px * 0.56,
            Self::Tick | Self::Cross => size_px * 0.64,
            Self::Gap(share) => share * size_px,
        }
    }
}

/// A length with as many decimals as a person uses.
fn millimetres(length_mm: f64) -> String {
    if length_mm < 10.0 { format!("{length_mm:.1} mm") } else { format!("{length_mm:.0} mm") }
}

/// One line as read: runs of right characters, wrong ones marked, then whether it fits and how sure it is.
fn line_pieces(line: &TextLine) -> Vec<Piece> {
    let mut pieces = Vec::new();
    match &line.read {
        None => pieces.push(Piece::Word("not read".to_owned(), look::AMBER)),
        Some(read) => {
            let read: Vec<char> = clean(read).chars().take(LINE_CHARS_MAX).collect();
            // marks[k]: character k is wrong; the place after the last can only miss one.
            let mut wrong = vec![false; read.len()];
            let mut missing = vec![false; read.len() + 1];
            for m in &line.mismatches {
                let at = m.at.min(read.len());
                if m.read.is_empty() {
                    missing[at] = true;
                }
                let end = (at + m.read.chars().count()).min(read.len());
                wrong[at..end].fill(true);
            }
            for (k, c) in read.iter().enumerate() {
                if missing[k] {
                    pieces.push(Piece::Missing);
                }
                match (pieces.last_mut(), wrong[k]) {
                    (Some(Piece::Word(run, _)), false) | (Some(Piece::Wrong(run)), true) => run.push(*c),
                    (_, false) => pieces.push(Piece::Word(c.to_string(), look::WHITE)),
                    (_, true) => pieces.push(Piece::Wrong(c.to_string())),
                }
            }
            if missing[read.len()] {
                pieces.push(Piece::Missing);
            }
        }
    }
    match line.matches {
        Some(true) => pieces.extend([Piece::Gap(0.3), Piece::Tick]),
        Some(false) => pieces.extend([Piece::Gap(0.3), Piece::Cross]),
        None => {}
    }
    if line.read.is_some() {
        pieces.push(Piece::Gap(0.4));
        pieces.push(Piece::Word(format!("{:.2}", line.confidence), look::GREY));
    }
    pieces
}

/// What a line should have been: the string itself, or the rules that it breaks.
fn notes(line: &TextLine) -> Vec<String> {
    if line.matches != Some(false) {
        return Vec::new();
    }
    let cut = |s: &str| clean(s).chars().take(LINE_CHARS_MAX).collect::<String>();
    let rules = line.mismatches.iter().filter(|m| is_rule(line, m)).map(|m| cut(&m.expected));
    line.expected.iter().map(|e| format!("should be {}", cut(e))).chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::Mismatch;
    use crate::evaluate::score::tests::line;

    fn shape(line: &TextLine) -> String {
        let show = |p: &Piece| match p {
            Piece::Word(w, _) => w.clone(),
            Piece::Wrong(w) => format!("[{w}]"),
            Piece::Missing => "^".to_owned(),
            Piece::Tick => "+".to_owned(),
            Piece::Cross => "x".to_owned(),
            Piece::Gap(_) => " ".to_owned(),
        };
        line_pieces(line).iter().map(show).collect()
    }

    fn wrong(read: &str, mismatches: &[(usize, &str, &str)]) -> TextLine {
        let mismatches = mismatches
            .iter()
            .map(|(at, r, e)| Mismatch { at: *at, read: (*r).into(), expected: (*e).into() })
            .collect();
        TextLine { matches: Some(false), mismatches, ..line("plate", 1, Some(read)) }
    }

    #[test]
    fn wrong_and_missing_characters_are_marked_where_they_are() {
        assert_eq!(shape(&wrong("SN1234", &[(2, "1", "7"), (3, "2", "8")])), "SN[12]34 x 0.90");
        assert_eq!(shape(&wrong("SN14", &[(3, "", "3"), (4, "", "5")])), "SN1^4^ x 0.90");
        assert_eq!(shape(&TextLine { matches: Some(true), ..line("p", 1, Some("AB")) }), "AB + 0.90");
        assert_eq!(shape(&line("p", 1, Some("AB"))), "AB 0.90");
        assert_eq!(shape(&TextLine { matches: Some(false), ..line("p", 1, None) }), "not read x");
    }

    #[test]
    fn places_outside_of_the_line_are_no_panic() {
        assert_eq!(shape(&wrong("AB", &[(9, "", "3"), (1, "long one", "x"), (7, "q", "")])), "A[B]^ x 0.90");
        assert_eq!(shape(&wrong("", &[(0, "", "A")])), "^ x 0.90");
    }

    #[test]
    fn a_broken_rule_is_told_in_words() {
        assert_eq!(notes(&wrong("AB", &[(0, "A", "luhn: check digit 7")])), ["luhn: check digit 7"]);
        let known = TextLine { expected: Some("AC".into()), ..wrong("AB", &[(1, "B", "C")]) };
        assert_eq!(notes(&known), ["should be AC"]);
        let both = TextLine {
            expected: Some("AC".into()),
            ..wrong("AB", &[(1, "B", "C"), (0, "", "regex ^[0-9]+$")])
        };
        assert_eq!(notes(&both), ["should be AC", "regex ^[0-9]+$"]);
    }
}
