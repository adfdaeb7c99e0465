//! The figures of `replay` for people.

use super::columns::{Align, Columns, clean, rate};
use crate::evaluate::score::boxes::{MISSED, NOTHING};
use crate::evaluate::score::{BoxMetrics, Metrics};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The whole report: boxes by label, confusion, verdicts against the truth, images, text, times.
pub(super) fn report(m: &Metrics) -> String {
    let mut out = String::new();
    if !m.labels.is_empty() {
        let _ = writeln!(out, "{}", labels(m));
    }
    if m.confusion.keys().any(|row| row != NOTHING) {
        let _ = writeln!(out, "{}", confusion(m));
    }
    if m.images > 0 {
        let _ = writeln!(out, "{}", by_truth(m));
    }
    for line in [images(m), verdicts(m), text(m), times(m), skipped(m)].into_iter().flatten() {
        let _ = writeln!(out, "{line}");
    }
    out
}

fn labels(m: &Metrics) -> Columns {
    use Align::{Left, Right};
    let heads = ["right", "wrong", "missed", "precision", "recall", "F1"].map(|h| (h, Right));
    let mut table = Columns::new(&[&[("defects", Left)][..], &heads[..]].concat());
    let row = |name: &str, b: &BoxMetrics| {
        let counts = [b.tp, b.fp, b.missed].map(|n| n.to_string());
        let rates = [b.precision, b.recall, b.f1].map(rate);
        std::iter::once(name.to_owned()).chain(counts).chain(rates).collect::<Vec<_>>()
    };
    for (label, b) in &m.labels {
        table.row(row(&clean(label), b));
    }
    table.row(row("all", &m.micro));
    table.row(row("all, IoU 0.3", &m.micro_iou30));
    table
}

fn confusion(m: &Metrics) -> Columns {
    let found: BTreeSet<&str> =
        m.confusion.values().flat_map(|r| r.keys()).map(String::as_str).filter(|l| *l != MISSED).collect();
    let columns: Vec<&str> = found.into_iter().chain([MISSED]).collect();
    let heads: Vec<String> = columns.iter().map(|c| clean(c)).collect();
    let heads: Vec<(&str, Align)> = std::iter::once(("is \\ found", Align::Left))
        .chain(heads.iter().map(|h| (h.as_str(), Align::Right)))
        .collect();
    let mut table = Columns::new(&heads);
    // What is nothing comes last, whatever its letters.
    let (last, first): (Vec<_>, Vec<_>) = m.confusion.iter().partition(|(row, _)| *row == NOTHING);
    for (name, row) in first.into_iter().chain(last) {
        let cells = columns.iter().map(|c| row.get(*c).map_or(String::new(), usize::to_string));
        table.row(std::iter::once(clean(name)).chain(cells));
    }
    table
}

/// Verdicts against the truth: what people ask first about a replay.
fn by_truth(m: &Metrics) -> Columns {
    use Align::{Left, Right};
    let heads = ["pass", "fail", "review"].map(|h| (h, Right));
    let mut table = Columns::new(&[&[("is \\ verdict", Left)][..], &heads[..]].concat());
    for (name, v) in [("defective", m.image.by_truth.defective), ("clean", m.image.by_truth.clean)] {
        let counts = [v.pass, v.fail, v.review].map(|n| n.to_string());
        table.row(std::iter::once(name.to_owned()).chain(counts));
    }
    table
}

fn images(m: &Metrics) -> Option<String> {
    let i = &m.image;
    Some(format!(
        "images   {}: {} defective, {} clean; recall {}, false alarms {}, AUROC {}",
        m.images,
        i.defective,
        i.clean,
        rate(i.recall),
        rate(i.false_alarm_rate),
        rate(i.auroc)
    ))
}

/// What was not asked, and each defect that this may have lost.
fn skipped(m: &Metrics) -> Option<String> {
    let s = m.skipped.as_ref()?;
    let mut out = format!(
        "skipped  {} of {} tiles in {} images; defects on them that nothing found: {}",
        s.tiles, s.planned, s.images, s.lost
    );
    for one in &s.lost_defects {
        let label = one.label.as_deref().map_or_else(|| "a defect".to_owned(), clean);
        let place = one.bbox.map_or_else(
            || "of no known place".to_owned(),
            |bbox| format!("at {}", bbox.map(|x| format!("{x:.0}")).join(", ")),
        );
        let _ = write!(out, "\n  {}: {label} {place}", clean(&one.file));
    }
    if s.lost > s.lost_defects.len() {
        let _ = write!(out, "\n  and {} more", s.lost - s.lost_defects.len());
    }
    Some(out)
}

fn verdicts(m: &Metrics) -> Option<String> {
    let v = &m.image.verdicts;
    Some(format!(
        "verdicts {} pass, {} fail, {} review; escapes {}",
        v.pass,
        v.fail,
        v.review,
        rate(m.image.escape_rate)
    ))
}

fn text(m: &Metrics) -> Option<String> {
    let t = &m.text;
    let cer = t.cer.map_or_else(|| "-".to_owned(), |c| format!("{c:.3}"));
    let mut line = format!(
        "text     {} lines, {} exact ({}), character error rate {cer}",
        t.lines,
        t.exact,
        rate(t.line_accuracy)
    );
    for (count, what) in [(t.extra, "read beyond the truth"), (t.outside, "outside of every region")] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    (t.lines + t.outside > 0).then_some(line)
}

fn times(m: &Metrics) -> Option<String> {
    let l = &m.latency_ms;
    let (p50, p95, max) = (l.p50?, l.p95?, l.max?);
    Some(format!("time     p50 {p50:.0} ms, p95 {p95:.0} ms, max {max:.0} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::inspection::{Inspection, SkippedTile};
    use crate::domain::rect::Rect;
    use crate::evaluate::score::tests::*;
    use crate::evaluate::score::{Asked, score};

    #[test]
    fn what_skipped_tiles_may_have_lost_is_listed() {
        let t = truth(&[("pit", Some([0.0, 0.0, 10.0, 10.0])), ("dent", Some([40.0, 0.0, 50.0, 10.0]))], &[]);
        let skipped = SkippedTile {
            prompt: "surface".into(),
            tile: 0,
            rect: Rect::new(0, 0, 32, 48),
            by: "good".into(),
            doubt: 0.1,
            below: 0.2,
        };
        let i = Inspection { skipped: vec![skipped], ..found(vec![]) };
        let asked = asked(&["dent", "pit"], &[]);
        let all = report(&score(&[(&t, &i)], &asked));
        assert!(!all.contains("skipped"), "nothing is skipped by the recipe: {all}");
        let shown = report(&score(&[(&t, &i)], &Asked { skips: true, ..asked }));
        let hand = format!(
            "skipped  1 of 4 tiles in 1 images; defects on them that nothing found: 1\n  {}: pit at 0, 0, 10, 10\n",
            t.file
        );
        assert!(shown.ends_with(&hand), "{shown}");
    }

    #[test]
    fn the_table_shows_the_figures() {
        let t =
            truth(&[("pit", Some([0.0, 0.0, 10.0, 10.0])), ("dent", Some([40.0, 0.0, 50.0, 10.0]))], &["AB"]);
        let i = Inspection {
            texts: vec![line("plate", 1, Some("AC"))],
            ..found(vec![finding("pit", [0.0, 0.0, 10.0, 10.0], 0.9)])
        };
        let shown = report(&score(&[(&t, &i)], &asked(&["dent", "pit"], &["plate"])));
        let hand = "\
defects       right  wrong  missed  precision  recall    F1
dent              0      0       1          -    0.00  0.00
pit               1      0       0       1.00    1.00  1.00
all               1      0       1       1.00    0.50  0.67
all, IoU 0.3      1      0       1       1.00    0.50  0.67

is \\ found  pit  missed
dent                  1
pit           1

is \\ verdict  pass  fail  review
defective        1     0       0
clean            0     0       0

images   1: 1 defective, 0 clean; recall 1.00, false alarms -, AUROC -
verdicts 1 pass, 0 fail, 0 review; escapes 1.00
text     1 lines, 0 exact (0.00), character error rate 0.500
time     p50 800 ms, p95 800 ms, max 800 ms
";
        assert_eq!(shown, hand);
    }
}
