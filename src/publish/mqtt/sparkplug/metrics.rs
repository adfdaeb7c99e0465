//! The metrics of the edge node and of each device: one table of each, from which births and data are made.
//!
//! ```text
//! (name, value) --table: place, type, unit, range--> Metric of a birth    name, alias, type, properties, value or null
//!                                                '-> Metric of data       alias, value or null
//! ```
//!
//! Invariants:
//! - What is not in a table is never sent: a birth holds all of its table (tck-id-topics-nbirth-metric-reqs,
//!   tck-id-topics-nbirth-metrics, tck-id-topics-dbirth-metric-reqs, tck-id-topics-dbirth-metrics,
//!   tck-id-operational-behavior-data-publish-nbirth, tck-id-operational-behavior-data-publish-dbirth). There are no
//!   templates (tck-id-topics-nbirth-templates).
//! - The alias is the place in the table behind the number of the device, so it is unique over the node and its devices
//!   (tck-id-payloads-alias-uniqueness), and the same in every birth of a process.
//! - Names differ in more than their case (tck-id-case-sensitivity-metric-names).

use super::payload::{DataType, Metric, PropertySet, PropertyValue, Wire};
use std::time::SystemTime;

/// Most metrics of one table: how far the aliases of a device are from those of the next.
const METRICS_MAX: u64 = 256;

/// Characters of a text that are sent; where one is longer, its end is cut off and `…` says so.
const TEXT_CHARS_MAX: usize = 1000;

/// The number of the birth, which the will has, too.
pub const BD_SEQ: &str = "bdSeq";
/// Writing `true` to it asks for all births again. It has no alias
/// (tck-id-operational-behavior-data-commands-rebirth-name-aliases).
pub const REBIRTH: &str = "Node Control/Rebirth";

/// A line of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// Its name in births.
    pub name: &'static str,
    /// Its type.
    pub kind: DataType,
    /// Its unit; empty where it has none.
    pub unit: &'static str,
    /// Least and most, where both are known.
    pub range: Option<(f64, f64)>,
}

const fn of(name: &'static str, kind: DataType) -> Spec {
    Spec { name, kind, unit: "", range: None }
}

const fn text(name: &'static str) -> Spec {
    of(name, DataType::String)
}

const fn flag(name: &'static str) -> Spec {
    of(name, DataType::Boolean)
}

const fn count(name: &'static str) -> Spec {
    of(name, DataType::UInt64)
}

const fn time(name: &'static str) -> Spec {
    of(name, DataType::DateTime)
}

const fn number(name: &'static str, unit: &'static str) -> Spec {
    Spec { unit, ..of(name, DataType::Double) }
}

const fn share(name: &'static str) -> Spec {
    Spec { range: Some((0.0, 1.0)), ..of(name, DataType::Double) }
}

/// Metrics of the edge node, which is the box.
pub const NODE: &[Spec] = &[
    of(BD_SEQ, DataType::Int64),
    flag(REBIRTH),
    text("Properties/software"),
    text("Properties/version"),
    text("Properties/station"),
    count("Outbox/results"),
    count("Outbox/parts"),
    count("Outbox/reviews"),
    count("Alarms/count"),
    text("Alarms/standing"),
    text("Alarms/last_code"),
    flag("Alarms/last_raised"),
    text("Alarms/last_message"),
    text("Recipe/pipeline"),
    text("Recipe/active"),
    text("Recipe/version"),
    text("Recipe/step"),
    text("Recipe/by"),
    text("Recipe/reason"),
    number("Stats/window_s", "s"),
    count("Stats/pass"),
    count("Stats/fail"),
    count("Stats/review"),
    share("Stats/yield"),
    number("Stats/per_minute", "1/min"),
    number("Stats/latency_p50_ms", "ms"),
    number("Stats/latency_p95_ms", "ms"),
    number("Stats/latency_max_ms", "ms"),
    count("Stats/dropped"),
    text("Part/id"),
    text("Part/part"),
    text("Part/part_id"),
    text("Part/lot"),
    text("Part/verdict"),
    text("Part/grade"),
    text("Part/reason"),
    count("Part/views"),
    text("Part/inspection_ids"),
    time("Part/ts"),
    text("Part/correlation_id"),
    count("Review/seq"),
    text("Review/inspection_id"),
    count("Review/inspection_seq"),
    text("Review/actor"),
    time("Review/ts"),
    text("Review/kind"),
    text("Review/model_verdict"),
    text("Review/verdict"),
    text("Review/reason"),
    text("Review/note"),
    count("Review/supersedes"),
    count("Review/restores"),
    text("Review/picture"),
    text("Review/hash"),
    flag("Command/trigger"),
    text("Command/part"),
    text("Command/part_id"),
    text("Command/lot"),
    text("Command/expected"),
    count("Command/deadline_ms"),
    flag("Command/pause"),
    flag("Command/resume"),
    text("Command/pipeline"),
    flag("Command/retry"),
    flag("Command/reload"),
    text("Command/id"),
    text("Answer/command"),
    text("Answer/id"),
    flag("Answer/accepted"),
    text("Answer/code"),
    text("Answer/reason"),
];

/// Metrics of a device, which is a camera with its line of parts.
pub const DEVICE: &[Spec] = &[
    text("State/state"),
    text("State/reason"),
    text("State/pipeline"),
    text("State/pipeline_version"),
    text("State/pipeline_by"),
    flag("State/paused"),
    text("State/paused_by"),
    text("State/since"),
    text("Result/inspection_id"),
    count("Result/seq"),
    text("Result/part_id"),
    text("Result/lot"),
    text("Result/correlation_id"),
    text("Result/camera"),
    text("Result/pipeline"),
    text("Result/pipeline_version"),
    text("Result/model"),
    time("Result/ts_capture"),
    time("Result/ts_result"),
    text("Result/verdict"),
    text("Result/grade"),
    text("Result/reason_code"),
    text("Result/reason"),
    share("Result/score"),
    count("Result/findings"),
    text("Result/worst_label"),
    text("Result/worst_severity"),
    share("Result/worst_confidence"),
    number("Result/worst_longest_mm", "mm"),
    number("Result/worst_area_mm2", "mm2"),
    text("Result/text_read"),
    text("Result/text_check"),
    count("Result/tiles_planned"),
    count("Result/tiles_inspected"),
    count("Result/tiles_skipped"),
    number("Result/latency_ms", "ms"),
    flag("Result/replayed"),
    text("Result/part"),
    text("Result/part_view_of"),
    text("Result/image_sha256"),
    text("Result/image_url"),
    flag("Command/trigger"),
    text("Command/part_id"),
    text("Command/lot"),
    text("Command/expected"),
    count("Command/deadline_ms"),
    flag("Command/pause"),
    flag("Command/resume"),
    text("Command/pipeline"),
    text("Command/id"),
    text("Answer/command"),
    text("Answer/id"),
    flag("Answer/accepted"),
    text("Answer/code"),
    text("Answer/reason"),
];

const _: () = assert!(NODE.len() as u64 <= METRICS_MAX && DEVICE.len() as u64 <= METRICS_MAX);

/// A value, of the type of its line in the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// There is none.
    Null,
    Flag(bool),
    Count(u64),
    /// Not finite: there is none.
    Number(f64),
    Text(String),
    Time(SystemTime),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A text that may be missing.
    pub(super) fn maybe(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::text)
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Count(count as u64)
    }

    /// `None` for none: it is null then (tck-id-operational-behavior-data-publish-nbirth-values,
    /// tck-id-operational-behavior-data-publish-dbirth-values).
    fn wire(&self) -> Option<Wire> {
        match self {
            Self::Null => None,
            Self::Flag(flag) => Some(Wire::Boolean(*flag)),
            Self::Count(count) => Some(Wire::Long(*count)),
            Self::Number(number) => number.is_finite().then_some(Wire::Double(*number)),
            Self::Text(text) => Some(Wire::String(shortened(text))),
            Self::Time(time) => Some(Wire::Long(millis(*time))),
        }
    }
}

/// Milliseconds since 1970 in UTC; 0 before.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Who has a table: the node, or the device of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Node,
    /// From 0, given once in a process.
    Device(usize),
}

impl Owner {
    pub(super) const fn table(self) -> &'static [Spec] {
        match self {
            Self::Node => NODE,
            Self::Device(_) => DEVICE,
        }
    }

    /// Aliases begin at 1: some hosts take 0 for none.
    fn alias(self, place: usize) -> u64 {
        let before = match self {
            Self::Node => 0,
            Self::Device(number) => (number as u64 + 1) * METRICS_MAX,
        };
        before + place as u64 + 1
    }

    /// The name of an alias that a host writes to.
    pub(super) fn name_of(self, alias: u64) -> Option<&'static str> {
        let first = self.alias(0);
        let place = usize::try_from(alias.checked_sub(first)?).ok()?;
        self.table().get(place).map(|spec| spec.name)
    }

    /// A metric of a birth: name, alias and type, its value or that there is none (tck-id-payloads-name-requirement,
    /// tck-id-payloads-alias-birth-requirement, tck-id-payloads-metric-datatype-req,
    /// tck-id-payloads-metric-datatype-value, tck-id-payloads-metric-datatype-value-type).
    pub(super) fn born(self, place: usize, value: &Value, at: SystemTime) -> Metric {
        let spec = self.table()[place];
        Metric {
            name: Some(spec.name.to_owned()),
            alias: (spec.name != REBIRTH).then(|| self.alias(place)),
            datatype: Some(spec.kind as u32),
            properties: properties(&spec),
            ..said(value, at)
        }
    }

    /// A metric of data: the alias alone says which (tck-id-payloads-alias-data-cmd-requirement), without a type
    /// (tck-id-payloads-metric-datatype-not-req).
    pub(super) fn data(self, name: &str, value: &Value, at: SystemTime, historical: bool) -> Metric {
        let place = self.table().iter().position(|spec| spec.name == name);
        let place = place.expect("every name that is sent is in its table");
        Metric {
            alias: Some(self.alias(place)),
            is_historical: historical.then_some(true),
            ..said(value, at)
        }
    }
}

/// A value with its time, which every metric has (tck-id-payloads-name-birth-data-requirement,
/// tck-id-payloads-metric-timestamp-in-UTC).
fn said(value: &Value, at: SystemTime) -> Metric {
    let value = value.wire();
    let is_null = value.is_none().then_some(true);
    Metric { timestamp: Some(millis(at)), is_null, value, ..Metric::default() }
}

/// The number of the birth by its name, as births and deaths have it, of type Int64
/// (tck-id-message-flow-edge-node-birth-publish-will-message-payload-bdSeq).
pub(super) fn bd_seq(number: u8, at: SystemTime) -> Metric {
    Metric {
        name: Some(BD_SEQ.to_owned()),
        datatype: Some(DataType::Int64 as u32),
        ..said(&Value::Count(number.into()), at)
    }
}

/// Unit and range, where there are any.
fn properties(spec: &Spec) -> Option<PropertySet> {
    let mut set = PropertySet::default();
    if !spec.unit.is_empty() {
        set = set.with("engUnit", PropertyValue::text(spec.unit));
    }
    if let Some((low, high)) = spec.range {
        set = set.with("engLow", PropertyValue::number(low)).with("engHigh", PropertyValue::number(high));
    }
    (!set.keys.is_empty()).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const AT: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn names_differ_in_more_than_case_and_aliases_are_unique_over_node_and_devices() {
        let mut aliases = BTreeSet::new();
        for owner in [Owner::Node, Owner::Device(0), Owner::Device(1), Owner::Device(63)] {
            let mut names = BTreeSet::new();
            for (place, spec) in owner.table().iter().enumerate() {
                assert!(names.insert(spec.name.to_lowercase()), "{}", spec.name);
                let born = owner.born(place, &Value::Null, AT);
                assert_eq!(born.alias.is_none(), spec.name == REBIRTH);
                assert!(born.alias.is_none_or(|alias| aliases.insert(alias)), "{}", spec.name);
                assert!(born.alias.is_none_or(|alias| owner.name_of(alias) == Some(spec.name)));
                assert_eq!((born.is_null, born.value), (Some(true), None));
            }
        }
        assert_eq!((Owner::Node.name_of(0), Owner::Device(0).name_of(1)), (None, None));
    }

    #[test]
    fn values_are_sent_in_the_field_of_their_type() {
        let at = AT + Duration::from_millis(1500);
        let field = |name, value: Value| Owner::Device(0).data(name, &value, at, false).value;
        assert_eq!(field("Result/seq", Value::Count(7)), Some(Wire::Long(7)));
        assert_eq!(field("Result/ts_capture", Value::Time(at)), Some(Wire::Long(1500)));
        assert_eq!(field("Result/score", Value::Number(f64::NAN)), None);
        let long = field("Result/reason", Value::text("ä".repeat(TEXT_CHARS_MAX + 5)));
        let Some(Wire::String(cut)) = long else { panic!("{long:?}") };
        assert_eq!((cut.chars().count(), cut.ends_with('…')), (TEXT_CHARS_MAX + 1, true));
        let data = Owner::Device(0).data("Result/seq", &Value::Count(7), at, true);
        assert_eq!((data.name, data.datatype, data.is_historical), (None, None, Some(true)));
        assert_eq!(data.timestamp, Some(1500));
    }

    #[test]
    fn a_birth_says_unit_and_range() {
        let place = DEVICE.iter().position(|spec| spec.name == "Result/latency_ms").unwrap();
        let set = Owner::Device(0).born(place, &Value::Number(1.0), AT).properties.unwrap();
        assert_eq!(set.keys, ["engUnit"]);
        let place = DEVICE.iter().position(|spec| spec.name == "Result/score").unwrap();
        let set = Owner::Device(0).born(place, &Value::Number(1.0), AT).properties.unwrap();
        assert_eq!((set.keys.len(), set.values.len()), (2, 2));
    }
}
