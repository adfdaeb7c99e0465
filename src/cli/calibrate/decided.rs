//! Which parts people decided about, of those that passed and of the others.
//!
//! ```text
//! store --all inspections of the pipeline, as CSV--> counts of both kinds, and how each decided part had been judged
//! ```

use crate::cli::store_args::StoreArgs;
use crate::control::Which;
use crate::domain::promise::{Decisions, Ground};
use crate::store::export::COLUMNS;
use crate::store::export::write::Form;
use anyhow::Context;
use std::collections::BTreeSet;
use std::path::Path;

/// Decisions of a store about parts of one pipeline.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub passed: Decisions,
    pub others: Decisions,
    /// Ids of the decided parts that had passed.
    had_passed: BTreeSet<String>,
}

impl Decided {
    /// Of all that the store holds of the pipeline.
    ///
    /// # Errors
    /// The store cannot be reached or read.
    pub(super) fn of_store(store: &StoreArgs, pipeline: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let which = Which { pipeline: Some(pipeline.to_owned()), ..Which::default() };
        let out = dir.path().join("all");
        crate::cli::export::write(store, Form::Csv, which, &out)?;
        let document = out.join(Form::Csv.document());
        let text = std::fs::read_to_string(&document).with_context(|| document.display().to_string())?;
        Ok(Self::read(&text))
    }

    /// From the text of an export as CSV; a line that could not be read counts as nothing.
    fn read(text: &str) -> Self {
        let place = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap_or(usize::MAX);
        let (id, model, reviewed) =
            (place("inspection_id"), place("model_verdict"), place("reviewed_verdict"));
        let mut decided = Self::default();
        for cells in records(text).skip(1) {
            let cell = |at: usize| cells.get(at).map_or("", String::as_str);
            let is_decided = !cell(reviewed).is_empty();
            let has_passed = cell(model) == "pass";
            let kind = match cell(model) {
                "pass" => &mut decided.passed,
                "fail" | "review" => &mut decided.others,
                _ => continue,
            };
            kind.inspected += 1;
            kind.decided += u64::from(is_decided);
            if is_decided && has_passed {
                decided.had_passed.insert(cell(id).to_owned());
            }
        }
        decided
    }

    /// The id of the part that a file of an export shows (`images/SEQ-ID.jpg`), and whether it had passed.
    pub(super) fn of<'a>(&self, file: &'a str) -> (&'a str, bool) {
        let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or(file);
        let id = stem.split_once('-').map_or(stem, |(_, id)| id);
        (id, self.had_passed.contains(id))
    }

    /// What a calibration on them is of.
    pub(super) fn ground(&self, version: &str, thinned: usize) -> Ground {
        let (passed, others) = (self.passed, self.others);
        Ground { version: version.to_owned(), passed, others, thinned, since: None }
    }
}

/// The records of a CSV as RFC 4180 has them: cells in quotes may hold commas, lines and doubled quotes.
fn records(text: &str) -> impl Iterator<Item = Vec<String>> {
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let (mut cells, mut cell, mut quoted) = (vec![], String::new(), false);
        while let Some(c) = rest.next() {
            match c {
                '"' if quoted && rest.peek() == Some(&'"') => {
                    rest.next();
                    cell.push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                '\n' if !quoted => break,
                '\r' if !quoted => {}
                c => cell.push(c),
            }
        }
        cells.push(cell);
        Some(cells)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_counted_whatever_stands_in_other_cells() {
        let line = |id: &str, model: &str, reviewed: &str| {
            let cell = |name: &&str| match *name {
                "inspection_id" => id.to_owned(),
                "model_verdict" => model.to_owned(),
                "reviewed_verdict" => reviewed.to_owned(),
                "lot" => "\"a, \"\"b\"\"\r\nc\"".to_owned(),
                _ => String::new(),
            };
            COLUMNS.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n"
        };
        let text = format!("{}\r\n", COLUMNS.join(","))
            + &line("A", "pass", "fail")
            + &line("B", "pass", "")
            + &line("C", "review", "pass")
            + &line("D", "fail", "fail")
            + &line("E", "fail", "")
            + &line("F", "", "");
        let decided = Decided::read(&text);
        assert_eq!(decided.passed, Decisions { inspected: 2, decided: 1 });
        assert_eq!(decided.others, Decisions { inspected: 3, decided: 2 });
        assert_eq!(decided.of("images/00000001-A.jpg"), ("A", true));
        assert_eq!(decided.of("images/00000003-C.jpg"), ("C", false));
        assert_eq!(Decided::read(""), Decided::default());
    }
}
