//! Exports: what is stored, in forms that other programs read.
//!
//! ```text
//! csv    one line an inspection, for spreadsheets; findings: one line a finding
//! coco   one document: images, annotations, categories
//! jsonl  truth.jsonl beside the pictures, as `inspectd replay` reads and training wants it
//! ```
//!
//! What a person decided is the truth: boxes and texts as the person has them, or the model's where
//! the person agreed. Each says whose it is, because a model that is scored by its own boxes is always right:
//!
//! ```text
//! source       of the line    operator: a person has decided about the part    model: nobody has
//! box_source   of each box    operator: drawn, moved or named by a person      model: as the model found it
//! text_source  of the line    operator: a person has corrected the texts       model: as the model read them
//! ```

mod coco;
pub(crate) mod write;

use super::Store;
use super::error::StoreError;
use super::query::Filter;
use super::record::{Stored, rfc3339};
use crate::domain::finding::Finding;
use crate::domain::review::{Decided, OperatorBox, Review};
use serde_json::{Value, json};

/// Columns of a CSV, in their order.
pub(crate) const COLUMNS: &[&str] = &[
    "seq",
    "inspection_id",
    "finished_at",
    "camera",
    "pipeline",
    "pipeline_version",
    "part_id",
    "lot",
    "model_verdict",
    "reason",
    "grade",
    "labels",
    "findings",
    "text_read",
    "latency_ms",
    "model",
    "model_sha256",
    "image_sha256",
    "reviewed_verdict",
    "review_kind",
    "reviewed_by",
    "reviewed_at",
    "review_reason",
    "review_note",
];

/// Columns of a CSV of findings, in their order. `source`: who drew the box, model or operator; grade, sizes and
/// confidence are the model's, and empty where the box is not.
pub(crate) const FINDING_COLUMNS: &[&str] = &[
    "seq",
    "inspection_id",
    "finished_at",
    "camera",
    "pipeline",
    "part_id",
    "lot",
    "model_verdict",
    "reviewed_verdict",
    "finding",
    "source",
    "label",
    "severity",
    "grade",
    "x0_px",
    "y0_px",
    "x1_px",
    "y1_px",
    "longest_mm",
    "area_mm2",
    "confidence",
];

/// One inspection and the decision in force about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exported {
    pub stored: Stored,
    pub review: Option<Review>,
}

/// Whose word something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Operator,
    Model,
}

impl Source {
    const fn of(is_operators: bool) -> Self {
        if is_operators { Self::Operator } else { Self::Model }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Model => "model",
        }
    }
}

/// A box with its label, whoever says so.
struct Truth {
    label: String,
    severity: &'static str,
    bbox: [f32; 4],
    source: Source,
}

impl Truth {
    fn found(of: &Finding) -> Self {
        let b = of.bbox_px;
        let (bbox, severity) = ([b.x0, b.y0, b.x1, b.y1], of.severity.as_str());
        Self { label: of.label.clone(), severity, bbox, source: Source::Model }
    }

    /// A box of a person, who may have left it as the model had `found` it.
    fn confirmed(of: &OperatorBox, found: &[Finding]) -> Self {
        let b = of.bbox_px;
        Self {
            label: of.label.clone(),
            severity: of.severity.as_str(),
            bbox: [b.x0, b.y0, b.x1, b.y1],
            source: Source::of(!of.is_left(found)),
        }
    }
}

impl Exported {
    /// Name of the picture inside an export; `extension` without a dot.
    pub(crate) fn file(&self, extension: &str) -> String {
        format!("images/{:08}-{}.{extension}", self.stored.seq, self.stored.inspection.id)
    }

    fn decided(&self) -> Option<Decided> {
        self.review.as_ref().and_then(|r| r.verdict)
    }

    fn source(&self) -> Source {
        Source::of(self.decided().is_some())
    }

    fn boxes(&self) -> Vec<Truth> {
        let found = &self.stored.inspection.findings;
        if let Some(confirmed) = self.review.as_ref().and_then(|r| r.findings.as_ref()) {
            return confirmed.iter().map(|b| Truth::confirmed(b, found)).collect();
        }
        found.iter().map(Truth::found).filter(|t| t.bbox.iter().all(|x| x.is_finite())).collect()
    }

    fn text_source(&self) -> Source {
        Source::of(self.review.as_ref().is_some_and(|r| r.texts.is_some()))
    }

    /// Lines as they are on the part: a person's, else what was read.
    fn texts(&self) -> Vec<String> {
        let corrected = self.review.as_ref().and_then(|r| r.texts.as_deref()).unwrap_or_default();
        let line = |t: &crate::domain::text::TextLine| {
            let better = corrected.iter().find(|c| c.prompt == t.prompt && c.line == t.line);
            better.map(|c| c.text.clone()).or_else(|| t.read.clone())
        };
        let known = &self.stored.inspection.texts;
        let mut lines: Vec<String> = known.iter().filter_map(line).collect();
        let is_new = |c: &&crate::domain::review::OperatorText| {
            !known.iter().any(|t| t.prompt == c.prompt && t.line == c.line)
        };
        lines.extend(corrected.iter().filter(is_new).map(|c| c.text.clone()));
        lines.retain(|l| !l.is_empty());
        lines
    }

    /// A line of `truth.jsonl` about the picture `file` of this size.
    pub(crate) fn truth(&self, file: &str, width: u32, height: u32) -> Value {
        let i = &self.stored.inspection;
        let clip = |x: f32, max: u32| f64::from(x.clamp(0.0, max as f32));
        let defects: Vec<Value> = self
            .boxes()
            .iter()
            .map(|t| {
                let [x0, y0, x1, y1] = t.bbox;
                let bbox = [clip(x0, width), clip(y0, height), clip(x1, width), clip(y1, height)];
                json!({
                    "label": t.label, "bbox": bbox, "severity": t.severity, "box_source": t.source.as_str(),
                })
            })
            .collect();
        let mut line = json!({
            "file": file, "width": width, "height": height, "defects": defects, "texts": self.texts(),
            "inspection_id": i.id, "seq": self.stored.seq, "camera": i.camera, "pipeline": i.pipeline,
            "model_verdict": i.verdict.as_str(),
            "source": self.source().as_str(), "text_source": self.text_source().as_str(),
        });
        if let Some(decided) = self.decided() {
            line["good"] = json!(decided == Decided::Pass);
        }
        for (key, value) in [("part_id", &i.trigger.part_id), ("lot", &i.trigger.lot)] {
            if let Some(value) = value {
                line[key] = json!(value);
            }
        }
        if let Some(review) = &self.review {
            line["review"] = json!({
                "seq": review.seq, "by": review.actor, "at": rfc3339(review.at), "kind": review.kind.as_str(),
                "reason": review.reason, "note": review.note,
            });
        }
        line
    }

    /// The lines of the CSV of findings, each with its end: those that hold, whoever says so.
    pub(crate) fn csv_findings(&self) -> String {
        let i = &self.stored.inspection;
        let size = |x: f64| if x.is_finite() { format!("{x:.3}") } else { String::new() };
        let line = |(place, truth): (usize, Truth)| {
            // What the model measured, where the person left its box as it was.
            let own = i.findings.iter().find(|f| {
                let b = f.bbox_px;
                f.label == truth.label && [b.x0, b.y0, b.x1, b.y1] == truth.bbox
            });
            let measured = |get: fn(&Finding) -> f64| own.map(|f| size(get(f))).unwrap_or_default();
            let [x0, y0, x1, y1] = truth.bbox.map(|x| size(f64::from(x)));
            let cells = [
                self.stored.seq.to_string(),
                i.id.clone(),
                rfc3339(i.finished_at),
                i.camera.clone(),
                i.pipeline.clone(),
                i.trigger.part_id.clone().unwrap_or_default(),
                i.trigger.lot.clone().unwrap_or_default(),
                i.verdict.as_str().to_owned(),
                self.decided().map(|d| d.as_str().to_owned()).unwrap_or_default(),
                (place + 1).to_string(),
                if own.is_some() { "model" } else { "operator" }.to_owned(),
                truth.label,
                truth.severity.to_owned(),
                own.map(|f| f.grade.as_str().to_owned()).unwrap_or_default(),
                x0,
                y0,
                x1,
                y1,
                measured(|f| f.longest_mm),
                measured(|f| f.area_mm2),
                measured(|f| f64::from(f.confidence)),
            ];
            assert_eq!(cells.len(), FINDING_COLUMNS.len());
            format!("{}\r\n", cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(","))
        };
        self.boxes().into_iter().enumerate().map(line).collect()
    }

    /// A line of the CSV, with its end.
    pub(crate) fn csv(&self) -> String {
        let i = &self.stored.inspection;
        let r = self.review.as_ref();
        let of = |get: fn(&Review) -> String| r.map(get).unwrap_or_default();
        let mut labels: Vec<String> = self.boxes().into_iter().map(|t| t.label).collect();
        let findings = labels.len();
        labels.sort();
        labels.dedup();
        let cells = [
            self.stored.seq.to_string(),
            i.id.clone(),
            rfc3339(i.finished_at),
            i.camera.clone(),
            i.pipeline.clone(),
            i.pipeline_version.clone(),
            i.trigger.part_id.clone().unwrap_or_default(),
            i.trigger.lot.clone().unwrap_or_default(),
            i.verdict.as_str().to_owned(),
            i.verdict.reason().map(ToString::to_string).unwrap_or_default(),
            i.grade.as_str().to_owned(),
            labels.join(" "),
            findings.to_string(),
            self.texts().join(" | "),
            if i.latency.total_ms.is_finite() { format!("{:.1}", i.latency.total_ms) } else { String::new() },
            i.model.name.clone(),
            i.model.text_sha256.clone(),
            self.stored.image.as_ref().map(|s| s.image.sha256.clone()).unwrap_or_default(),
            self.decided().map(|d| d.as_str().to_owned()).unwrap_or_default(),
            of(|r| r.kind.as_str().to_owned()),
            of(|r| r.actor.clone()),
            of(|r| rfc3339(r.at)),
            of(|r| r.reason.clone()),
            of(|r| r.note.clone()),
        ];
        assert_eq!(cells.len(), COLUMNS.len());
        format!("{}\r\n", cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(","))
    }
}

/// RFC 4180; a text that a spreadsheet would take for a formula gets a quote in front, because what
/// stands on a part must never run anywhere.
///
/// Spreadsheets of many countries split at `;`, others at tabs, and a cell's quotes do not hold them
/// together there: what comes after such a sign, or begins a line, is guarded like a beginning.
fn cell(text: &str) -> String {
    const SPLIT: [char; 4] = [';', '\t', '\n', '\r'];
    // The wide ones are the same to a spreadsheet of East Asia.
    const FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];
    let mut guarded = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins && FORMULA.contains(&c) {
            guarded.push('\'');
        }
        guarded.push(c);
        // Readers pass over the spaces and quotes before a formula.
        begins = SPLIT.contains(&c) || (begins && matches!(c, ' ' | '"' | '\u{a0}'));
    }
    if guarded.contains([',', ';', '\t', '"', '\n', '\r']) {
        format!("\"{}\"", guarded.replace('"', "\"\""))
    } else {
        guarded
    }
}

/// What makes a spreadsheet read UTF-8: it stands before a head.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The head of the CSV, with its end.
pub(crate) fn csv_head() -> String {
    format!("{BYTE_ORDER_MARK}{}\r\n", COLUMNS.join(","))
}

/// The head of the CSV of findings, with its end.
pub(crate) fn csv_findings_head() -> String {
    format!("{BYTE_ORDER_MARK}{}\r\n", FINDING_COLUMNS.join(","))
}

/// A line of the CSV about an inspection that cannot be read, with its end: its number, and why as the reason.
fn csv_unreadable(seq: u64, what: &str) -> String {
    let cells = COLUMNS.iter().map(|column| match *column {
        "seq" => seq.to_string(),
        "reason" => cell(what),
        _ => String::new(),
    });
    format!("{}\r\n", cells.collect::<Vec<_>>().join(","))
}

impl Store {
    /// The inspections that fit, newest first; the index is made whole first.
    fn export_seqs(&self, filter: &Filter) -> Result<Vec<u64>, StoreError> {
        while self.index_older()? {}
        let mut seqs = Vec::new();
        self.scan(filter, |seq, _, _| seqs.push(seq))?;
        Ok(seqs)
    }

    fn exported(&self, seq: u64) -> Result<Option<Exported>, StoreError> {
        let Some(stored) = self.get(seq)? else { return Ok(None) };
        Ok(Some(Exported { stored, review: self.effective_review(seq)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::{OperatorBox, Source, Truth, cell};
    use crate::domain::grade::Severity;
    use crate::domain::rect::BoxPx;
    use crate::store::tests::sample;

    #[test]
    fn a_box_is_a_persons_when_it_was_drawn_moved_or_named_anew() {
        let found = sample(1).findings;
        let model = found[0].bbox_px;
        let source = |label: &str, by: f32, found: &[_]| {
            let bbox_px = BoxPx::new(model.x0 + by, model.y0, model.x1, model.y1);
            let (label, severity) = (label.to_owned(), Severity::Minor);
            Truth::confirmed(&OperatorBox { label, severity, bbox_px }, found).source
        };
        assert_eq!(source("scratch", 0.0, &found), Source::Model);
        assert_eq!(source("scratch", 0.5, &found), Source::Model, "a page rounds");
        assert_eq!(source("scratch", 1.0, &found), Source::Operator);
        assert_eq!(source("dent", 0.0, &found), Source::Operator);
        assert_eq!(source("scratch", 0.0, &[]), Source::Operator);
        let mut nowhere = found.clone();
        nowhere[0].bbox_px.x0 = f32::NAN;
        assert_eq!(source("scratch", 0.0, &nowhere), Source::Operator);
    }

    #[test]
    fn no_cell_is_a_formula_wherever_a_reader_splits_it() {
        for (text, written) in [
            ("SN-1", "SN-1"),
            ("a, b", "\"a, b\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("@sum", "'@sum"),
            (" =1", " '=1"),
            ("＝1", "'＝1"),
            ("x;=1", "\"x;'=1\""),
            ("x; -1", "\"x; '-1\""),
            ("x\t@a", "\"x\t'@a\""),
            ("x\r\n+1", "\"x\r\n'+1\""),
            ("x;\"=1", "\"x;\"\"'=1\""),
            ("\tx", "\"'\tx\""),
            ("A | -B", "A | -B"),
        ] {
            assert_eq!(cell(text), written, "{text:?}");
        }
    }
}
