//! Inspections for tests of the store and of MQTT.

use inspectd::domain::finding::Finding;
use inspectd::domain::frame::Trigger;
use inspectd::domain::grade::{Grade, Reason, Severity, Verdict};
use inspectd::domain::inspection::{Inspection, Latency, ModelRef, RawAnswer, TileCount};
use inspectd::domain::rect::BoxPx;
use std::time::{Duration, SystemTime};

/// The ULID of inspection `n`.
pub(crate) fn id(n: u64) -> String {
    ulid::Ulid::from_parts(1_700_000_000_000 + n, u128::from(n)).to_string()
}

/// Inspection `n` of a line: a scratched part.
pub(crate) fn inspection(n: u64) -> Inspection {
    let captured_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + 1000 * n);
    Inspection {
        id: id(n),
        camera: "cam1".into(),
        trigger: Trigger { part_id: Some(format!("P{n}")), ..Trigger::default() },
        pipeline: "machined-plate".into(),
        pipeline_version: "0123456789ab".into(),
        model: ModelRef { name: "tiny".into(), text_sha256: "ab".repeat(32), mmproj_sha256: "cd".repeat(32) },
        prompt_hash: "ef".repeat(32),
        captured_at,
        finished_at: captured_at + Duration::from_millis(900),
        verdict: Verdict::Fail(Reason::Finding { label: "scratch".into() }),
        grade: Grade::Reject,
        findings: vec![Finding {
            label: "scratch".into(),
            severity: Severity::Major,
            bbox_px: BoxPx::new(10.0, 20.0, 300.0, 24.0),
            longest_mm: 14.5,
            area_mm2: 2.5,
            confidence: 0.875,
            grade: Grade::Reject,
        }],
        texts: Vec::new(),
        tiles: TileCount { planned: 31, inspected: 31 },
        score: 0.9375,
        latency: Latency { total_ms: 900.0, ..Latency::default() },
        answers: vec![RawAnswer {
            prompt: "surface".into(),
            tile: 3,
            text: "[{\"label\":\"scratch\"}]".into(),
        }],
        learned: vec![],
        skipped: vec![],
        heat: None,
        replayed: false,
        origin: format!("seed {n}"),
        clip: Vec::new(),
    }
}
