//! Figures computed by hand.

use super::image::VerdictCounts;
use super::*;
use crate::domain::finding::Finding;
use crate::domain::frame::Trigger;
use crate::domain::grade::{Grade, Reason, Severity, Verdict};
use crate::domain::inspection::{Latency, ModelRef, TileCount};
use crate::domain::rect::BoxPx;
use crate::domain::text::TextLine;
use crate::evaluate::truth::{TrueDefect, TrueText};
use std::time::{Duration, SystemTime};

/// An inspection with nothing in it.
pub(crate) fn inspection() -> Inspection {
    let captured_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000);
    Inspection {
        id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        camera: "replay".into(),
        trigger: Trigger::default(),
        pipeline: "machined-plate".into(),
        pipeline_version: "0123456789ab".into(),
        model: ModelRef::default(),
        prompt_hash: String::new(),
        captured_at,
        finished_at: captured_at + Duration::from_millis(800),
        verdict: Verdict::Pass,
        grade: Grade::Ok,
        findings: Vec::new(),
        texts: Vec::new(),
        tiles: TileCount { planned: 4, inspected: 4 },
        score: 0.1,
        latency: Latency { total_ms: 800.0, ..Latency::default() },
        answers: Vec::new(),
        learned: vec![],
        skipped: vec![],
        heat: None,
        replayed: true,
        origin: "a.png".into(),
        clip: Vec::new(),
    }
}

/// A finding of 0.1 mm pixels.
pub(crate) fn finding(label: &str, bbox: [f32; 4], confidence: f32) -> Finding {
    let bbox_px = BoxPx::new(bbox[0], bbox[1], bbox[2], bbox[3]);
    Finding {
        label: label.into(),
        severity: Severity::Major,
        bbox_px,
        longest_mm: f64::from(bbox_px.width().max(bbox_px.height())) * 0.1,
        area_mm2: f64::from(bbox_px.area()) * 0.01,
        confidence,
        grade: Grade::Reject,
    }
}

/// A line that nothing was expected of.
pub(crate) fn line(prompt: &str, line: usize, read: Option<&str>) -> TextLine {
    TextLine {
        prompt: prompt.into(),
        line,
        read: read.map(str::to_owned),
        expected: None,
        matches: None,
        mismatches: Vec::new(),
        confidence: 0.9,
    }
}

/// A truth of 1000x1000 pixels.
pub(crate) fn truth(defects: &[(&str, Option<[f32; 4]>)], texts: &[&str]) -> Truth {
    let boxed = |b: [f32; 4]| BoxPx::new(b[0], b[1], b[2], b[3]);
    Truth {
        file: "a.png".into(),
        width: 1000,
        height: 1000,
        defects: defects
            .iter()
            .map(|(l, b)| TrueDefect {
                label: (*l).into(),
                bbox_px: b.map(boxed),
                severity: None,
                box_is_models: false,
            })
            .collect(),
        texts: texts.iter().map(|t| TrueText { text: (*t).into(), bbox_px: None }).collect(),
        good: None,
        rois: BTreeMap::new(),
        part_id: None,
        lot: None,
        is_models: false,
        texts_are_models: false,
    }
}

pub(crate) fn found(findings: Vec<Finding>) -> Inspection {
    Inspection { findings, ..inspection() }
}

pub(crate) fn asked(labels: &[&str], texts: &[&str]) -> Asked {
    Asked {
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        texts: texts.iter().map(|t| AskedText { id: (*t).into(), roi: None }).collect(),
        skips: false,
    }
}

fn counts(m: &BoxMetrics) -> (usize, usize, usize) {
    (m.tp, m.fp, m.missed)
}

#[test]
fn boxes_by_hand() {
    // scratch: exact hit, a wrong one elsewhere; pit: missed; dent: IoU exactly 0.5 counts.
    let t = truth(
        &[
            ("scratch", Some([0.0, 0.0, 10.0, 10.0])),
            ("pit", Some([50.0, 50.0, 60.0, 60.0])),
            ("dent", Some([100.0, 0.0, 110.0, 10.0])),
        ],
        &[],
    );
    let i = found(vec![
        finding("scratch", [0.0, 0.0, 10.0, 10.0], 0.9),
        finding("scratch", [500.0, 0.0, 510.0, 10.0], 0.8),
        finding("dent", [100.0, 0.0, 110.0, 20.0], 0.7),
    ]);
    let m = score(&[(&t, &i)], &asked(&["scratch", "pit", "dent", "crack"], &[]));
    assert_eq!(counts(&m.labels["scratch"]), (1, 1, 0));
    assert_eq!(counts(&m.labels["pit"]), (0, 0, 1));
    assert_eq!(counts(&m.labels["dent"]), (1, 0, 0));
    assert_eq!(m.labels["crack"], BoxMetrics::default());
    assert_eq!(m.labels["scratch"].precision, Some(0.5));
    assert_eq!(m.labels["pit"].precision, None);
    assert_eq!(m.labels["pit"].f1, Some(0.0));
    assert_eq!(counts(&m.micro), (2, 1, 1));
    assert_eq!(m.micro.f1, Some(4.0 / 6.0));
}

#[test]
fn the_surest_finding_takes_the_box() {
    let t = truth(&[("pit", Some([0.0, 0.0, 10.0, 10.0]))], &[]);
    // Both would fit; the second in the list is surer, so the first is the wrong one.
    let i =
        found(vec![finding("pit", [0.0, 0.0, 10.0, 10.0], 0.3), finding("pit", [0.0, 0.0, 10.0, 9.0], 0.9)]);
    let m = score(&[(&t, &i)], &asked(&["pit"], &[]));
    assert_eq!(counts(&m.labels["pit"]), (1, 1, 0));
}

#[test]
fn each_finding_takes_the_best_box_that_is_left() {
    let near = [0.0, 0.0, 10.0, 10.0];
    let far = [0.0, 3.0, 10.0, 13.0];
    let t = truth(&[("pit", Some(far)), ("pit", Some(near))], &[]);
    let i = found(vec![finding("pit", near, 0.9), finding("pit", near, 0.5)]);
    let m = score(&[(&t, &i)], &asked(&["pit"], &[]));
    // The second overlaps the far box by 70 of 130: right as well.
    assert_eq!(counts(&m.labels["pit"]), (2, 0, 0));
}

#[test]
fn iou_30_is_looser_than_the_contract() {
    let t = truth(&[("pit", Some([0.0, 0.0, 10.0, 10.0]))], &[]);
    let i = found(vec![finding("pit", [0.0, 0.0, 10.0, 25.0], 0.9)]);
    let m = score(&[(&t, &i)], &asked(&["pit"], &[]));
    assert_eq!((counts(&m.micro), counts(&m.micro_iou30)), ((0, 1, 1), (1, 0, 0)));
}

#[test]
fn an_unknown_place_counts_for_the_image_only() {
    let t = truth(&[("scratch", None), ("scratch", Some([0.0, 0.0, 10.0, 10.0]))], &[]);
    let i = found(vec![
        finding("scratch", [0.0, 0.0, 10.0, 10.0], 0.9),
        finding("scratch", [300.0, 0.0, 310.0, 10.0], 0.8),
        finding("pit", [300.0, 0.0, 310.0, 10.0], 0.8),
    ]);
    let m = score(&[(&t, &i)], &asked(&["scratch", "pit"], &[]));
    assert_eq!(counts(&m.labels["scratch"]), (1, 0, 0));
    assert_eq!(counts(&m.labels["pit"]), (0, 1, 0));
    assert_eq!((m.image.defective, m.image.recall), (1, Some(1.0)));
}

#[test]
fn labels_that_were_not_asked_count_for_the_image_only() {
    let t = truth(&[("wrinkle", Some([0.0, 0.0, 10.0, 10.0]))], &[]);
    let m = score(&[(&t, &found(vec![]))], &asked(&["pit"], &[]));
    assert_eq!(m.labels.keys().collect::<Vec<_>>(), ["pit"]);
    assert_eq!((m.micro.f1, m.image.defective, m.image.recall), (None, 1, Some(0.0)));
}

#[test]
fn a_defective_image_without_labels_accuses_no_finding() {
    let t = Truth { good: Some(false), ..truth(&[], &[]) };
    let i = found(vec![finding("pit", [0.0, 0.0, 9.0, 9.0], 0.9)]);
    let m = score(&[(&t, &i)], &asked(&["pit"], &[]));
    assert_eq!((counts(&m.micro), m.image.defective), ((0, 0, 0), 1));
}

#[test]
fn confusion_pairs_places_whatever_the_label() {
    let t = truth(&[("scratch", Some([0.0, 0.0, 10.0, 10.0])), ("pit", Some([50.0, 50.0, 60.0, 60.0]))], &[]);
    let i = found(vec![
        finding("crack", [0.0, 0.0, 10.0, 9.0], 0.9),
        finding("dent", [400.0, 0.0, 410.0, 9.0], 0.9),
    ]);
    let m = score(&[(&t, &i)], &asked(&["scratch", "pit", "crack", "dent"], &[]));
    let json = serde_json::to_value(&m.confusion).expect("plain maps");
    let hand = serde_json::json!({"scratch": {"crack": 1}, "pit": {"missed": 1}, "nothing": {"dent": 1}});
    assert_eq!(json, hand);
}

#[test]
fn images_by_hand() {
    let bad = truth(&[("pit", Some([0.0, 0.0, 10.0, 10.0]))], &[]);
    let good = truth(&[], &[]);
    let accepted = Truth { good: Some(true), ..bad.clone() };
    let hit = Inspection {
        score: 0.9,
        verdict: Verdict::Fail(Reason::Finding { label: "pit".into() }),
        ..found(vec![finding("dent", [600.0, 0.0, 610.0, 10.0], 0.9)])
    };
    let quiet = Inspection { score: 0.2, ..inspection() };
    let alarm = Inspection { score: 0.8, verdict: Verdict::Review(Reason::QueueFull), ..hit.clone() };
    let m = score(
        &[(&bad, &hit), (&bad, &quiet), (&good, &quiet), (&good, &alarm), (&accepted, &quiet)],
        &asked(&["pit"], &[]),
    );
    assert_eq!((m.images, m.image.defective, m.image.clean), (5, 2, 3));
    assert_eq!(m.image.recall, Some(0.5));
    assert_eq!(m.image.false_alarm_rate, Some(1.0 / 3.0));
    assert_eq!(m.image.escape_rate, Some(0.5));
    // .9 wins 3; .2 ties twice, loses to .8: (3 + 1) / 6.
    assert_eq!(m.image.auroc, Some(4.0 / 6.0));
    let counts = |v: &VerdictCounts| (v.pass, v.fail, v.review);
    assert_eq!(counts(&m.image.verdicts), (3, 1, 1));
    let by_truth = [m.image.by_truth.defective, m.image.by_truth.clean];
    assert_eq!(by_truth.each_ref().map(counts), [(1, 1, 0), (2, 0, 1)], "one escape, no false reject");
}

#[test]
fn text_by_hand() {
    let t = truth(&[], &["SN1234", "24V 3A", "IP65"]);
    let i = Inspection {
        // Out of order, one wrong character, the third line missing.
        texts: vec![
            line("plate", 2, Some("24V 8A")),
            line("plate", 1, Some("SN1234")),
            line("plate", 3, None),
        ],
        ..inspection()
    };
    let m = score(&[(&t, &i)], &asked(&[], &["plate"])).text;
    assert_eq!((m.lines, m.exact, m.extra, m.outside), (3, 1, 0, 0));
    assert_eq!(m.line_accuracy, Some(1.0 / 3.0));
    // 0 + 1 + 4 edits over 6 + 6 + 4 characters.
    assert_eq!(m.cer, Some(5.0 / 16.0));
}

#[test]
fn text_that_was_not_asked_is_not_scored() {
    let t = truth(&[], &["SN1234"]);
    let m = score(&[(&t, &inspection())], &asked(&["pit"], &[])).text;
    assert_eq!(m, text::TextMetrics::default());
}

#[test]
fn lines_belong_to_the_prompt_whose_region_holds_them() {
    let mut t = truth(&[], &["SERIAL", "LOT", "LOGO"]);
    t.texts[0].bbox_px = Some(BoxPx::new(500.0, 500.0, 600.0, 520.0));
    t.texts[1].bbox_px = Some(BoxPx::new(10.0, 10.0, 60.0, 30.0));
    t.texts[2].bbox_px = Some(BoxPx::new(900.0, 900.0, 960.0, 930.0));
    t.rois.insert("lot".into(), Rect::new(0, 0, 100, 100));
    let asked = Asked {
        labels: BTreeSet::new(),
        texts: vec![
            // The image's own region overrides the pipeline's, which would hold everything.
            AskedText { id: "lot".into(), roi: Some(Rect::new(0, 0, 1000, 1000)) },
            AskedText { id: "serial".into(), roi: Some(Rect::new(450, 450, 650, 650)) },
        ],
        skips: false,
    };
    let i = Inspection {
        texts: vec![
            line("lot", 1, Some("LOT")),
            line("lot", 2, Some("XX")),
            line("serial", 1, Some("SERIAL")),
        ],
        ..inspection()
    };
    let m = score(&[(&t, &i)], &asked).text;
    assert_eq!((m.lines, m.exact, m.extra, m.outside, m.cer), (2, 2, 1, 1, Some(0.0)));
}

#[test]
fn percentiles_are_nearest_rank() {
    let times: Vec<f64> = (1..=20).map(f64::from).collect();
    let m = latency(times.into_iter());
    assert_eq!((m.p50, m.p95, m.max), (Some(10.0), Some(19.0), Some(20.0)));
    let one = latency([7.0, f64::NAN].into_iter());
    assert_eq!((one.p50, one.p95, one.max), (Some(7.0), Some(7.0), Some(7.0)));
    assert_eq!(latency(std::iter::empty()), LatencyMetrics::default());
}

#[test]
fn the_json_has_the_contract_s_keys() {
    let m = score(&[], &asked(&["scratch"], &["plate"]));
    let json = serde_json::to_value(&m).expect("plain numbers");
    for path in [
        "/images",
        "/labels/scratch/tp",
        "/labels/scratch/fp",
        "/labels/scratch/fn",
        "/labels/scratch/precision",
        "/labels/scratch/recall",
        "/labels/scratch/f1",
        "/micro/precision",
        "/micro/recall",
        "/micro/f1",
        "/micro_iou30/f1",
        "/image/defective",
        "/image/clean",
        "/image/recall",
        "/image/false_alarm_rate",
        "/image/auroc",
        "/text/lines",
        "/text/exact",
        "/text/line_accuracy",
        "/text/cer",
        "/latency_ms/p50",
        "/latency_ms/p95",
        "/latency_ms/max",
    ] {
        let value = json.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        let is_count = ["images", "tp", "fp", "fn", "defective", "clean", "lines", "exact"]
            .contains(&path.rsplit('/').next().unwrap_or_default());
        assert_eq!(value.is_null(), !is_count, "{path} without cases");
    }
}
