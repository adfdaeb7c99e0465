//! The newest values of the node and of its devices, and which of them no message has told yet.
//!
//! ```text
//! set --changed--> untold --birth, or what has changed--> told
//! ```
//!
//! A value that is as it was is not told again (tck-id-principles-rbe-recommended,
//! tck-id-operational-behavior-data-publish-nbirth-change, tck-id-operational-behavior-data-publish-dbirth-change,
//! tck-id-topics-ndata-payload, tck-id-topics-ddata-payload). Each metric is in a message once, so its values come in
//! the order of time (tck-id-operational-behavior-data-publish-nbirth-order,
//! tck-id-operational-behavior-data-publish-dbirth-order).

use super::metrics::{self, BD_SEQ, Owner, REBIRTH, Value};
use super::payload::Metric;
use super::report::Values;
use super::session::Who;
use std::collections::BTreeMap;
use std::time::SystemTime;

#[derive(Clone, Debug)]
struct Known {
    value: Value,
    at: SystemTime,
    told: bool,
}

type Table = BTreeMap<&'static str, Known>;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Board {
    node: Table,
    /// Each with the number that its aliases are made of, given once.
    devices: BTreeMap<String, (usize, Table)>,
}

impl Board {
    pub(super) fn new(devices: &[String]) -> Self {
        let mut board = Self::default();
        for device in devices {
            board.of(&Who::Device(device.clone()));
        }
        board
    }

    fn of(&mut self, who: &Who) -> (Owner, &mut Table) {
        match who {
            Who::Node => (Owner::Node, &mut self.node),
            Who::Device(device) => {
                let next = self.devices.len();
                let (number, values) = self.devices.entry(device.clone()).or_insert((next, Table::new()));
                (Owner::Device(*number), values)
            }
        }
    }

    pub(super) fn owner(&mut self, who: &Who) -> Owner {
        self.of(who).0
    }

    /// Takes in values of a time; true where one is new.
    pub(super) fn set(&mut self, who: &Who, values: Values, at: SystemTime) -> bool {
        let known = self.of(who).1;
        let mut changed = false;
        for (name, value) in values {
            if known.get(name).is_none_or(|known| known.value != value) {
                changed = true;
                known.insert(name, Known { value, at, told: false });
            }
        }
        changed
    }

    /// Takes in values that a message of their own tells.
    pub(super) fn note(&mut self, who: &Who, values: &Values, at: SystemTime) {
        let known = self.of(who).1;
        for (name, value) in values {
            known.insert(name, Known { value: value.clone(), at, told: true });
        }
    }

    pub(super) fn has_untold(&self, who: &Who) -> bool {
        let values = match who {
            Who::Node => Some(&self.node),
            Who::Device(device) => self.devices.get(device).map(|(_, values)| values),
        };
        values.is_some_and(|values| values.values().any(|known| !known.told))
    }

    /// Every metric of somebody; `bd_seq` is the node's.
    pub(super) fn birth(&mut self, who: &Who, bd_seq: u8, now: SystemTime) -> Vec<Metric> {
        let (owner, values) = self.of(who);
        values.values_mut().for_each(|known| known.told = true);
        let metric = |(place, spec): (usize, &metrics::Spec)| match spec.name {
            // tck-id-topics-nbirth-bdseq-included, tck-id-payloads-nbirth-bdseq
            BD_SEQ => owner.born(place, &Value::Count(bd_seq.into()), now),
            // tck-id-topics-nbirth-rebirth-metric, tck-id-payloads-nbirth-rebirth-req,
            // tck-id-operational-behavior-data-commands-rebirth-name,
            // tck-id-operational-behavior-data-commands-rebirth-datatype,
            // tck-id-operational-behavior-data-commands-rebirth-value
            REBIRTH => owner.born(place, &Value::Flag(false), now),
            name => match values.get(name) {
                Some(known) => owner.born(place, &known.value, known.at),
                None => owner.born(place, &at_rest(name), now),
            },
        };
        owner.table().iter().enumerate().map(metric).collect()
    }

    /// What has changed since somebody's last message.
    pub(super) fn untold(&mut self, who: &Who) -> Vec<Metric> {
        let (owner, values) = self.of(who);
        let mut metrics = Vec::new();
        for (name, known) in values.iter_mut().filter(|(_, known)| !known.told) {
            known.told = true;
            metrics.push(owner.data(name, &known.value, known.at, false));
        }
        metrics
    }
}

/// What a metric is before anybody has said it: a command's switch is off.
fn at_rest(name: &str) -> Value {
    match name {
        "Command/trigger" | "Command/pause" | "Command/resume" | "Command/retry" | "Command/reload" => {
            Value::Flag(false)
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::Wire;
    use super::*;

    const AT: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn what_is_as_it_was_is_not_told_again() {
        let top = Who::Device("top".into());
        let mut board = Board::new(&["side".into(), "top".into()]);
        assert!(board.set(&top, vec![("State/state", Value::text("busy"))], AT));
        assert!(!board.set(&top, vec![("State/state", Value::text("busy"))], AT));
        assert!(board.has_untold(&top) && !board.has_untold(&Who::Node));
        let told = board.untold(&top);
        assert_eq!((told.len(), told[0].value.clone()), (1, Some(Wire::String("busy".into()))));
        assert!(board.untold(&top).is_empty() && !board.has_untold(&top));
        board.note(&top, &vec![("Answer/id", Value::text("c7"))], AT);
        assert!(!board.has_untold(&top), "its own message tells it");
    }

    #[test]
    fn a_birth_has_every_metric_and_tells_all() {
        let mut board = Board::new(&[]);
        board.set(&Who::Node, vec![("Stats/pass", Value::Count(3))], AT);
        let born = board.birth(&Who::Node, 7, AT);
        let names: Vec<_> = born.iter().map(|metric| metric.name.clone().unwrap()).collect();
        assert_eq!(names, metrics::NODE.iter().map(|spec| spec.name).collect::<Vec<_>>());
        let value = |name: &str| born.iter().find(|m| m.name.as_deref() == Some(name)).unwrap().value.clone();
        assert_eq!(value(BD_SEQ), Some(Wire::Long(7)));
        assert_eq!(value(REBIRTH), Some(Wire::Boolean(false)));
        assert_eq!(value("Stats/pass"), Some(Wire::Long(3)));
        assert_eq!((value("Command/trigger"), value("Part/id")), (Some(Wire::Boolean(false)), None));
        assert!(!board.has_untold(&Who::Node));
        let first = |owner: Owner| owner.born(0, &Value::Null, AT).alias;
        let (a, b) = (Who::Device("a".into()), Who::Device("b".into()));
        assert_ne!(first(board.owner(&a)), first(board.owner(&b)));
        assert_eq!(board.owner(&a), board.owner(&a));
    }
}
