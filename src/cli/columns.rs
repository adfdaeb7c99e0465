//! Aligned columns of plain text, and the cleaning of words that came out of a picture.

use std::fmt;

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table of plain text. Widths count characters; two blanks stand between columns.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    heads: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// An empty table under these heads.
    pub(super) fn new(heads: &[(&str, Align)]) -> Self {
        Self { heads: heads.iter().map(|(h, a)| ((*h).to_owned(), *a)).collect(), rows: Vec::new() }
    }

    /// Adds one row. Missing cells stay blank; cells beyond the heads are not shown.
    pub(super) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.heads.iter().map(|(h, _)| h.clone()).collect();
        let lines = || std::iter::once(&heads).chain(&self.rows);
        let blank = String::new();
        let widths: Vec<usize> = (0..heads.len())
            .map(|k| lines().map(|l| l.get(k).map_or(0, |c| c.chars().count())).max().unwrap_or(0))
            .collect();
        for cells in lines() {
            let mut line = String::new();
            for (k, (_, align)) in self.heads.iter().enumerate() {
                let cell = cells.get(k).unwrap_or(&blank);
                let pad = " ".repeat(widths[k].saturating_sub(cell.chars().count()));
                let gap = if k == 0 { "" } else { "  " };
                match align {
                    Align::Left => line.extend([gap, cell, &pad]),
                    Align::Right => line.extend([gap, &pad, cell]),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A word for a terminal: control characters, which could move the cursor or recolour the screen,
/// become the replacement character. Text read from a picture is never trusted.
pub(super) fn clean(word: &str) -> String {
    word.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A rate with two decimals, `-` where there was no case.
pub(super) fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_align_by_characters() {
        let mut t = Columns::new(&[("label", Align::Left), ("tp", Align::Right)]);
        t.row(["Kratzer ü".to_owned(), "3".to_owned()]);
        t.row(["pit".to_owned(), "12".to_owned()]);
        assert_eq!(t.to_string(), "label      tp\nKratzer ü   3\npit        12\n");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(clean("SN\u{1b}[31m1\n"), "SN\u{fffd}[31m1\u{fffd}");
    }

    #[test]
    fn a_rate_without_cases_is_a_dash() {
        assert_eq!((rate(None), rate(Some(0.5))), ("-".to_owned(), "0.50".to_owned()));
    }
}
