//! One inspection in words: for the terminal of `inspect` and for the header of annotated pictures.

use crate::cli::columns::{Align, Columns, clean};
use crate::domain::finding::Finding;
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::domain::text::{Mismatch, TextLine};
use jiff::Timestamp;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::SystemTime;

/// Writes a text to standard output. Whoever reads may have seen enough before its end, as `head` has.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Everything that an inspection found, as lines of plain text that end with a newline.
pub(super) fn describe(inspection: &Inspection) -> String {
    let mut out = String::new();
    let verdict = inspection.verdict.as_str().to_uppercase();
    let _ = writeln!(out, "{}: {verdict}, {}", clean(&inspection.origin), summary(inspection));
    let _ = writeln!(out, "  {}", facts(inspection).join(", "));
    let _ = writeln!(out, "  {}", effort(inspection));
    for table in [findings(&inspection.findings), texts(&inspection.texts)].into_iter().flatten() {
        out.push('\n');
        for line in table.to_string().lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    // The table already tells which lines were not read.
    for line in inspection.texts.iter().filter(|l| l.read.is_some()) {
        for mismatch in &line.mismatches {
            let _ =
                writeln!(out, "  {} line {}: {}", clean(&line.prompt), line.line, difference(line, mismatch));
        }
    }
    out
}

/// Why the verdict is what it is, in a few words.
pub(super) fn summary(inspection: &Inspection) -> String {
    match inspection.verdict.reason() {
        Some(reason) => words(reason),
        None => match inspection.findings.len() {
            0 if inspection.texts.iter().any(|t| t.matches == Some(true)) => {
                "no defect found, text as expected".to_owned()
            }
            0 => "no defect found".to_owned(),
            _ => format!("nothing worse than {}", inspection.grade.as_str()),
        },
    }
}

/// A reason as a person would say it.
pub(super) fn words(reason: &Reason) -> String {
    match reason {
        Reason::Finding { label } => format!("{} found", spaced(label)),
        Reason::TextMismatch { prompt, line } => {
            format!("{} line {line} is not what it should be", clean(prompt))
        }
        Reason::TextUncertain { prompt, line } => format!("{} line {line} not read for sure", clean(prompt)),
        Reason::LowConfidence { what, confidence } => format!("unsure of {} ({confidence:.2})", spaced(what)),
        Reason::Deadline { late_ms } => format!("answer {late_ms} ms after the deadline"),
        Reason::Unparsable { prompt, tile } => {
            format!("answer to {} on tile {tile} is cut off or garbled", clean(prompt))
        }
        Reason::MissingTile { inspected, planned } => {
            format!("only {inspected} of {planned} tiles inspected")
        }
        Reason::Engine { message } => format!("engine: {}", clean(message)),
        Reason::Frame { message } => format!("frame: {}", clean(message)),
        Reason::QueueFull => "dropped: the queue was full".to_owned(),
        Reason::Interrupted => "the station stopped before it was inspected".to_owned(),
    }
}

/// A label as words: `missing_screw` is a missing screw.
pub(super) fn spaced(label: &str) -> String {
    clean(label).replace('_', " ")
}

/// Grade, part, lot, pipeline and time, as far as known.
pub(super) fn facts(inspection: &Inspection) -> Vec<String> {
    let mut facts = vec![format!("grade {}", inspection.grade.as_str())];
    if let Some(part) = &inspection.trigger.part_id {
        facts.push(format!("part {}", clean(part)));
    }
    if let Some(lot) = &inspection.trigger.lot {
        facts.push(format!("lot {}", clean(lot)));
    }
    facts.push(clean(&inspection.pipeline));
    facts.push(time(inspection.captured_at));
    facts
}

/// Seconds are enough for a person; the record has the rest.
fn time(at: SystemTime) -> String {
    let stamp = Timestamp::try_from(at);
    stamp.map_or_else(|_| "time unknown".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn effort(inspection: &Inspection) -> String {
    let (t, l) = (&inspection.tiles, &inspection.latency);
    let skipped = match inspection.tiles_skipped() {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    format!(
        "{} of {} tiles{skipped}, score {:.2}, {:.0} ms (queue {:.0}, preprocess {:.0}, vision {:.0}, prefill {:.0}, decode {:.0})",
        t.inspected,
        t.planned,
        inspection.score,
        l.total_ms,
        l.queue_ms,
        l.preprocess_ms,
        l.vision_ms,
        l.prefill_ms,
        l.decode_ms
    )
}

fn findings(findings: &[Finding]) -> Option<Columns> {
    use Align::{Left, Right};
    let mut table = Columns::new(&[
        ("defect", Left),
        ("severity", Left),
        ("grade", Left),
        ("longest mm", Right),
        ("area mm2", Right),
        ("confidence", Right),
        ("x1", Right),
        ("y1", Right),
        ("x2", Right),
        ("y2", Right),
    ]);
    for f in findings {
        let b = &f.bbox_px;
        let words = [spaced(&f.label), f.severity.as_str().into(), f.grade.as_str().into()];
        let sizes = [f.longest_mm, f.area_mm2].map(|v| format!("{v:.1}"));
        let corners = [b.x0, b.y0, b.x1, b.y1].map(|v| format!("{v:.0}"));
        table.row(words.into_iter().chain(sizes).chain([format!("{:.2}", f.confidence)]).chain(corners));
    }
    (!findings.is_empty()).then_some(table)
}

fn texts(texts: &[TextLine]) -> Option<Columns> {
    use Align::{Left, Right};
    let heads = [("text", Left), ("line", Right), ("read", Left), ("expected", Left), ("match", Left)];
    let mut table = Columns::new(&[&heads[..], &[("confidence", Right)]].concat());
    for t in texts {
        let matches = match t.matches {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        table.row([
            clean(&t.prompt),
            t.line.to_string(),
            t.read.as_deref().map_or_else(|| "(not read)".to_owned(), clean),
            t.expected.as_deref().map_or_else(String::new, clean),
            matches.to_owned(),
            format!("{:.2}", t.confidence),
        ]);
    }
    (!texts.is_empty()).then_some(table)
}

/// One difference between what was read and what should be there. People count characters from 1.
fn difference(line: &TextLine, m: &Mismatch) -> String {
    let (read, expected) = (clean(&m.read), clean(&m.expected));
    if is_rule(line, m) {
        return format!("at character {}: {expected}", m.at + 1);
    }
    match (m.read.is_empty(), m.expected.is_empty()) {
        (true, _) => format!("at character {}: `{expected}` is missing", m.at + 1),
        (false, true) => format!("at character {}: `{read}` is too much", m.at + 1),
        (false, false) => format!("at character {}: `{read}` instead of `{expected}`", m.at + 1),
    }
}

/// Whether a mismatch is a broken rule in words, not a character that differs: the characters that
/// should be there are part of what was expected.
pub(super) fn is_rule(line: &TextLine, m: &Mismatch) -> bool {
    line.expected.as_ref().is_none_or(|expected| !expected.contains(&m.expected))
}

/// The word on the header's badge.
pub(super) const fn badge(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail(_) => "FAIL",
        Verdict::Review(_) => "REVIEW",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::grade::Grade;
    use crate::evaluate::score::tests::{finding, inspection, line};

    #[test]
    fn an_inspection_in_words() {
        let mut i = inspection();
        i.verdict = Verdict::Fail(Reason::Finding { label: "missing_screw".into() });
        i.grade = Grade::Reject;
        i.trigger.part_id = Some("P-7".into());
        i.findings = vec![finding("missing_screw", [10.0, 20.0, 62.0, 40.4], 0.834)];
        let wrong = TextLine {
            expected: Some("SN1284".into()),
            matches: Some(false),
            mismatches: vec![Mismatch { at: 4, read: "3".into(), expected: "8".into() }],
            ..line("plate", 1, Some("SN1234"))
        };
        i.texts = vec![
            wrong,
            TextLine {
                matches: Some(false),
                mismatches: vec![Mismatch { at: 0, read: String::new(), expected: "a line".into() }],
                ..line("plate", 2, None)
            },
        ];
        let hand = "\
a.png: FAIL, missing screw found
  grade reject, part P-7, machined-plate, 2025-10-09 08:53:20 UTC
  4 of 4 tiles, score 0.10, 800 ms (queue 0, preprocess 0, vision 0, prefill 0, decode 0)

  defect         severity  grade   longest mm  area mm2  confidence  x1  y1  x2  y2
  missing screw  major     reject         5.2      10.6        0.83  10  20  62  40

  text   line  read        expected  match  confidence
  plate     1  SN1234      SN1284    NO           0.90
  plate     2  (not read)            NO           0.90
  plate line 1: at character 5: `3` instead of `8`
";
        assert_eq!(describe(&i), hand);
    }

    #[test]
    fn text_from_a_picture_cannot_steer_the_terminal() {
        let mut i = inspection();
        i.texts = vec![line("plate", 1, Some("A\u{1b}]0;title\u{7}\r\n"))];
        i.verdict = Verdict::Review(Reason::Engine { message: "bad\u{1b}[2J".into() });
        let shown = describe(&i);
        assert!(shown.chars().all(|c| !c.is_control() || c == '\n'), "{shown:?}");
        assert_eq!(shown.lines().count(), 6, "{shown}");
    }

    #[test]
    fn a_pass_says_what_was_tolerated() {
        let mut i = inspection();
        assert_eq!(summary(&i), "no defect found");
        i.texts = vec![TextLine { matches: Some(true), ..line("plate", 1, Some("A")) }];
        assert_eq!(summary(&i), "no defect found, text as expected");
        i.findings = vec![finding("stain", [0.0, 0.0, 9.0, 9.0], 0.9)];
        i.grade = Grade::Cosmetic;
        assert_eq!(summary(&i), "nothing worse than cosmetic");
    }

    #[test]
    fn missing_and_surplus_characters_read_naturally() {
        let known = TextLine { expected: Some("876".into()), ..line("plate", 1, Some("x")) };
        let m = |read: &str, expected: &str| {
            difference(&known, &Mismatch { at: 0, read: read.into(), expected: expected.into() })
        };
        assert_eq!(m("", "8"), "at character 1: `8` is missing");
        assert_eq!(m("8", ""), "at character 1: `8` is too much");
        assert_eq!(m("8", "luhn: check digit 7"), "at character 1: luhn: check digit 7");
    }
}
