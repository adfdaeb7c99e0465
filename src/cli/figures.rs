//! The figures of `replay` for people.

use super::boxes::{MISSED, NOTHING};
use super::{BoxMetrics, Metrics};
use crate::cli::columns::{clean, rate, Align, Columns};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The whole report: boxes by label, confusion, images, text, times.
pub fn report(m: &Metrics) -> String {
    let mut out = String::new();
    if !m.labels.is_empty() {
        let _ = writeln!(out, "{}", labels(m));
    }
    if m.confusion.keys().any(|row| row != NOTHING) {
        let _ = writeln!(out, "{}", confusion(m));
    }
    for line in [images(m), verdicts(m), text(m), times(m)].into_iter().flatten() {
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
