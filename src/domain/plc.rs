//! What a PLC is told about a part: the small end of an inspection, flat, without pictures and boxes.
//!
//! ```text
//! recorder --commit--> Inspection, seq --of--> PartResult --queue of each server--> Modbus, OPC UA
//! ```

use super::grade::Grade;
use super::inspection::Inspection;
use super::part::Outcome;
use std::time::SystemTime;

/// An inspection that is on the disk, as servers of PLC protocols show it.
#[derive(Clone, Debug, PartialEq)]
pub struct PartResult {
    /// `id` of the camera in the config.
    pub camera: String,
    /// ULID, 26 characters.
    pub inspection_id: String,
    /// Place in the ledger, from 1 without gaps.
    pub seq: u64,
    /// As `Trigger::part_id`.
    pub part_id: Option<String>,
    /// As `Trigger::lot`.
    pub lot: Option<String>,
    /// As `Trigger::correlation_id`: whose result it is, whatever came in between.
    pub correlation_id: Option<String>,
    /// Pass, fail or review.
    pub outcome: Outcome,
    /// The worst grade of all findings.
    pub grade: Grade,
    /// `Reason::code`; `None` for a pass.
    pub reason: Option<&'static str>,
    /// How many findings there are.
    pub findings: usize,
    /// As `Inspection::score`, 0..=1.
    pub score: f32,
    /// From the exposure to the verdict, in milliseconds.
    pub latency_ms: f64,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Its version.
    pub pipeline_version: String,
    /// Wall-clock time of the exposure.
    pub captured_at: SystemTime,
    /// Wall-clock time of the verdict.
    pub finished_at: SystemTime,
}

impl PartResult {
    /// Of an inspection that was stored under this number.
    pub fn of(inspection: &Inspection, seq: u64) -> Self {
        let trigger = &inspection.trigger;
        Self {
            camera: inspection.camera.clone(),
            inspection_id: inspection.id.clone(),
            seq,
            part_id: trigger.part_id.clone(),
            lot: trigger.lot.clone(),
            correlation_id: trigger.correlation_id.clone(),
            outcome: Outcome::from(&inspection.verdict),
            grade: inspection.grade,
            reason: inspection.verdict.reason().map(|reason| reason.code()),
            findings: inspection.findings.len(),
            score: inspection.score,
            latency_ms: inspection.latency.total_ms,
            pipeline: inspection.pipeline.clone(),
            pipeline_version: inspection.pipeline_version.clone(),
            captured_at: inspection.captured_at,
            finished_at: inspection.finished_at,
        }
    }
}
