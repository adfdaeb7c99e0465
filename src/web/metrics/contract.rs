//! The contract of `/metrics`: every series with its type, its labels, its unit and its meaning, in one table.
//!
//! ```text
//! SERIES --HELP, TYPE--> exposition --> /metrics --> Prometheus --> config/grafana-dashboard.json
//!    '-- a row without a constant cannot be written, and a test scrapes a station for each
//! ```
//!
//! Rules:
//! - Names and labels are kept from version to version; what is new gets a name of its own.
//! - Values of labels come from the config, from the recipes and from words of this program alone: no part, person or
//!   visitor makes the list grow.
//! - Units are seconds and counts, and stand last in the name.
//! - Counters begin at 0 with the line, those of the store with the store. A value that is not known is `NaN`.

/// What kind of series it is, as Prometheus calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and begins anew with the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by upper bounds (`_bucket`, label `le`), with `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// The word of a TYPE line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A row of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Name of the family.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels, in their order; without the `le` of a histogram.
    pub labels: &'static [&'static str],
    /// What one of it is: `s`, `1 or 0`, or what is counted.
    pub unit: &'static str,
    /// The HELP line: one sentence.
    pub meaning: &'static str,
}

/// Makes a constant of every row, and the table of them all.
macro_rules! contract {
    ($($row:ident: $kind:ident $name:literal [$($label:literal)*] $unit:literal $meaning:literal;)*) => {
        $(pub(super) const $row: Series = Series {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            unit: $unit,
            meaning: $meaning,
        };)*

        /// Every series of `/metrics`.
        pub const SERIES: &[Series] = &[$($row),*];
    };
}

contract! {
    BUILD: Gauge "inspectd_build_info" ["version"] "1"
        "Always 1; its label is the version of the program.";
    INSPECTIONS: Counter "inspectd_inspections_total" [] "inspections"
        "Inspections ever stored.";
    REVIEWS: Counter "inspectd_reviews_total" [] "decisions"
        "Decisions ever stored.";
    STORED: Gauge "inspectd_stored_inspections" ["verdict"] "inspections"
        "Inspections that are kept, by the model's verdict.";
    UNDECIDED: Gauge "inspectd_undecided_inspections" [] "inspections"
        "Sent to review and not decided.";
    STORE_OK: Gauge "inspectd_store_ok" [] "1 or 0"
        "0 when the store accepts nothing: it has stopped, or is full.";
    VERDICTS: Counter "inspectd_verdicts_total" ["camera" "recipe" "verdict"] "inspections"
        "Inspections stored since the line's start, by camera, recipe and the model's verdict.";
    DURATION: Histogram "inspectd_inspection_duration_seconds" ["camera" "recipe"] "s"
        "Time from the exposure to the verdict of parts that were inspected or should have been.";
    LATE: Counter "inspectd_late_inspections_total" ["camera" "recipe"] "inspections"
        "Parts whose verdict came after their deadline.";
    DROPPED: Counter "inspectd_dropped_frames_total" ["camera" "recipe"] "frames"
        "Frames that no room was left for: each is stored as a review with the reason queue_full.";
    SKIPPED: Counter "inspectd_skipped_tiles_total" ["camera" "recipe"] "tiles"
        "Tiles of which a question was not asked, because a bank was sure that nothing is there.";
    LAST: Gauge "inspectd_last_inspection_timestamp_seconds" ["camera" "recipe"] "s since 1970"
        "When the newest inspection was finished; 0 before the first.";
    DEADLINE: Gauge "inspectd_deadline_seconds" ["recipe"] "s"
        "Deadline of the recipe's active version, from the exposure; a trigger may have its own.";
    CAMERA_STATE: Gauge "inspectd_camera_state" ["camera" "state"] "1 or 0"
        "1 for the state that the camera is in: ready, busy or fault.";
    CAMERA_PAUSED: Gauge "inspectd_camera_paused" ["camera"] "1 or 0"
        "1 while the camera is paused.";
    QUEUE: Gauge "inspectd_queue_frames" ["camera"] "frames"
        "Frames that wait for the inspector.";
    TRIGGERS: Gauge "inspectd_waiting_triggers" ["camera"] "triggers"
        "Accepted triggers that wait for their pictures.";
    ALIVE: Gauge "inspectd_inspector_alive" [] "1 or 0"
        "1 when the inspector shows life.";
    ENGINE_READY: Gauge "inspectd_engine_ready" [] "1 or 0"
        "1 when the model can be asked.";
    ENGINE_RESTARTS: Counter "inspectd_engine_restarts_total" [] "processes"
        "Processes of the model that were lost or did not start; each is followed by another start.";
    ALARM: Gauge "inspectd_alarm" ["code"] "1 or 0"
        "1 while the alarm is raised; the codes are those of the topic alarm/{code}.";
    ALARMS: Counter "inspectd_alarms_total" ["code"] "alarms"
        "How often the alarm was raised.";
    OUTBOX: Gauge "inspectd_outbox_entries" [] "messages"
        "Results and verdicts of parts that the enabled sink that is furthest behind has not acknowledged.";
    OUTBOX_AGE: Gauge "inspectd_outbox_age_seconds" [] "s"
        "Age of the oldest message that an enabled sink has not acknowledged; 0 without one.";
    SINK_ENTRIES: Gauge "inspectd_sink_entries" ["sink"] "messages"
        "Messages the sink has not acknowledged.";
    SINK_AGE: Gauge "inspectd_sink_age_seconds" ["sink"] "s"
        "Age of the oldest message the sink has not acknowledged; 0 without one.";
    SINK_CONNECTED: Gauge "inspectd_sink_connected" ["sink"] "1 or 0"
        "1 when the sink is connected.";
    SINK_ENABLED: Gauge "inspectd_sink_enabled" ["sink"] "1 or 0"
        "1 when the sink is enabled.";
    BROKER: Gauge "inspectd_broker_connected" [] "1 or 0"
        "1 when the broker of [mqtt] is connected.";
    MODEL_REQUESTS: Counter "inspectd_model_api_requests_total" ["outcome"] "requests"
        "Questions to the model API by their outcome: answered, refused, full, failed or left.";
    MODEL_TOKENS: Counter "inspectd_model_api_tokens_total" ["kind"] "tokens"
        "Tokens of questions that the model API has answered, and of its answers: prompt, completion.";
    MODEL_OPEN: Gauge "inspectd_model_api_open_requests" [] "requests"
        "Questions to the model API that wait or are being answered.";
    REQUESTS: Counter "inspectd_http_requests_total" ["route" "status"] "requests"
        "Requests by route and status.";
    REQUEST_DURATION: Histogram "inspectd_http_request_duration_seconds" ["route"] "s"
        "Time until an answer begins.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What Prometheus and its dashboards take for granted.
    #[test]
    fn rows_keep_the_conventions_of_prometheus() {
        let names: BTreeSet<&str> = SERIES.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), SERIES.len(), "each name once");
        for Series { name, kind, labels, unit, meaning } in SERIES {
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(name.starts_with("inspectd_") && plain(name), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            let is_time = matches!(*unit, "s" | "s since 1970");
            assert_eq!(name.ends_with("_seconds"), is_time, "{name}: {unit}");
            assert!(labels.iter().all(|label| plain(label) && *label != "le"), "{name}: {labels:?}");
            assert!(meaning.ends_with('.') && !meaning.contains('\n'), "{name}: {meaning}");
        }
    }
}
