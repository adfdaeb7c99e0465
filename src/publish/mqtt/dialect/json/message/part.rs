//! `part`, schemas 1 and 2: the one verdict about a part that several cameras looked at.

use super::{WITHOUT_TRIGGER, to_json};
use crate::domain::part::{PartVerdict, View};
use crate::store::record::rfc3339;
use serde::Serialize;

#[derive(Serialize)]
struct PartV1<'a> {
    schema: u16,
    /// The idempotency key.
    id: &'a str,
    part: &'a str,
    part_id: Option<&'a str>,
    lot: Option<&'a str>,
    verdict: &'static str,
    grade: &'static str,
    reason: Option<&'a str>,
    views: Vec<ViewV1<'a>>,
    ts: String,
    correlation_id: Option<&'a str>,
    /// From schema 2 on.
    #[serde(flatten)]
    trigger: Option<TriggerV2<'a>>,
}

#[derive(Serialize)]
struct TriggerV2<'a> {
    /// Null: an earlier version was told to.
    trigger_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ViewV1<'a> {
    camera: &'a str,
    inspection_id: Option<&'a str>,
    verdict: &'static str,
    grade: &'static str,
    reason: Option<&'a str>,
}

/// The bytes of `part`: a pure function of the stored verdict.
pub(crate) fn part(verdict: &PartVerdict, schema: u16) -> Vec<u8> {
    fn view(v: &View) -> ViewV1<'_> {
        ViewV1 {
            camera: &v.camera,
            inspection_id: v.inspection_id.as_deref(),
            verdict: v.outcome.as_str(),
            grade: v.grade.as_str(),
            reason: v.reason.as_deref(),
        }
    }
    to_json(&PartV1 {
        schema,
        id: &verdict.part.id,
        part: &verdict.part.name,
        part_id: verdict.part_id.as_deref(),
        lot: verdict.lot.as_deref(),
        verdict: verdict.outcome.as_str(),
        grade: verdict.grade.as_str(),
        reason: verdict.reason.as_deref(),
        views: verdict.views.iter().map(view).collect(),
        ts: rfc3339(verdict.decided_at),
        correlation_id: verdict.correlation_id.as_deref(),
        trigger: (schema > WITHOUT_TRIGGER)
            .then_some(TriggerV2 { trigger_id: verdict.trigger_id.as_deref() }),
    })
}
