//! Commands by NCMD and DCMD: what a host writes to the metrics `Command/…`, all of one command in one message.
//!
//! ```text
//! NCMD, DCMD --read--> rebirth --> session
//!                 '--> command --Door (bounded)--> listener: one at a time --> dispatcher --outcome--> Answer/…
//! ```
//!
//! The fields become those of the JSON dialect's commands and are checked by the same code, carried out by the same
//! dispatcher and logged in the same words. A DCMD is about its device's camera.
//!
//! Invariants:
//! - A retained message commands nothing: it is old.
//! - Each command has one answer. One that comes before the line runs, or when too many wait, is refused.
//! - A message that comes twice triggers once: a trigger without `Command/id` gets one from its bytes, which hold the
//!   time at which the host sent it (tck-id-payloads-ncmd-timestamp, tck-id-payloads-dcmd-timestamp), and the dispatcher
//!   knows an id again. A trigger with neither is refused.

use super::metrics::{Owner, REBIRTH};
use super::payload::{self, Metric, Payload, Wire};
use super::session::Who;
use crate::command::{self, CommandBody, Handler, Verb};
use crate::domain::trigger::{Outcome, Refusal, Sender};
use crate::publish::mqtt::command::Listening;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;

/// Commands that wait for the dispatcher.
const WAITING_MAX: usize = 64;

/// What a message asks for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub rebirth: bool,
    pub command: Option<Written>,
}

/// A command as it was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Its word; empty where it is not clear.
    pub verb: String,
    /// By which its sender knows the answer.
    pub id: Option<String>,
    pub body: Result<CommandBody, Refusal>,
}

/// Reads a message to somebody.
///
/// # Errors
/// It is no payload.
pub(super) fn read(
    who: &Who,
    owner: Owner,
    topic: &str,
    bytes: &[u8],
    retained: bool,
) -> Result<Asked, String> {
    let payload = payload::decode(bytes)?;
    let named = payload.metrics.iter().filter_map(|metric| Some((name_of(metric, owner)?, metric)));
    let fields: BTreeMap<&str, &Metric> = named.filter(|(_, metric)| metric.is_null != Some(true)).collect();
    let wanted = |metric: &&Metric| metric.value == Some(Wire::Boolean(true));
    let rebirth = !retained && *who == Who::Node && fields.get(REBIRTH).is_some_and(wanted);
    let commands: BTreeMap<&str, &Metric> =
        fields.iter().filter_map(|(name, metric)| Some((name.strip_prefix("Command/")?, *metric))).collect();
    if commands.is_empty() {
        return Ok(Asked { rebirth, command: None });
    }
    let unknown =
        payload.metrics.iter().filter_map(|metric| metric.name.as_deref()).find(|name| {
            name.starts_with("Command/") && !owner.table().iter().any(|spec| spec.name == *name)
        });
    // What a host means by it is not known, and so nothing is carried out.
    let verb = unknown
        .map_or_else(|| verb(&commands), |name| Err(format!("there is no metric {name:?} to write to")));
    let body = match (&verb, retained) {
        (_, true) => Err(malformed("a retained command is old: publish it without retain".into())),
        (Ok(verb), false) => {
            body(who, *verb, &commands).and_then(|body| named_by(body, *verb, &payload, topic, bytes))
        }
        (Err(reason), false) => Err(malformed(reason.clone())),
    };
    let id = text(&commands, "id").ok().flatten();
    let id = body.as_ref().map_or(id, CommandBody::id);
    let verb = verb.map(Verb::as_str).unwrap_or_default().to_owned();
    Ok(Asked { rebirth, command: Some(Written { verb, id, body }) })
}

/// By name or alias; what is in no table is passed over
/// (tck-id-operational-behavior-data-commands-ncmd-metric-name,
/// tck-id-operational-behavior-data-commands-dcmd-metric-name).
fn name_of(metric: &Metric, owner: Owner) -> Option<&'static str> {
    let by_name = metric.name.as_deref().filter(|name| !name.is_empty());
    match by_name {
        Some(name) => owner.table().iter().map(|spec| spec.name).find(|known| *known == name),
        None => owner.name_of(metric.alias?),
    }
}

/// The one command that is asked for.
fn verb(fields: &BTreeMap<&str, &Metric>) -> Result<Verb, String> {
    let mut asked = Vec::new();
    for verb in Verb::ALL {
        let is_asked = match verb {
            Verb::Pipeline => text(fields, verb.as_str())?.is_some(),
            _ => flag(fields, verb.as_str())?,
        };
        asked.extend(is_asked.then_some(verb));
    }
    match asked.as_slice() {
        [verb] => Ok(*verb),
        [] => Err("no command: one of Command/trigger, pause, resume, retry and reload must be true, or \
                   Command/pipeline a name"
            .into()),
        several => {
            let words: Vec<&str> = several.iter().map(|verb| verb.as_str()).collect();
            Err(format!("{} commands in one message ({}): send each alone", words.len(), words.join(", ")))
        }
    }
}

fn body(who: &Who, verb: Verb, fields: &BTreeMap<&str, &Metric>) -> Result<CommandBody, Refusal> {
    let word = |key| text(fields, key).map_err(malformed);
    let expected = match word("expected")? {
        Some(json) => serde_json::from_str(&json).map_err(|error| {
            malformed(format!("Command/expected: must be a JSON object of texts: {error}"))
        })?,
        None => BTreeMap::new(),
    };
    Ok(CommandBody {
        camera: match who {
            Who::Node => None,
            Who::Device(camera) => Some(camera.clone()),
        },
        part: word("part")?,
        part_id: word("part_id")?,
        lot: word("lot")?,
        expected,
        deadline_ms: number(fields, "deadline_ms").map_err(malformed)?,
        pipeline: if verb == Verb::Pipeline { word("pipeline")? } else { None },
        correlation_id: word("id")?,
    })
}

/// A trigger without an id gets one by which the same message is known again.
fn named_by(
    body: CommandBody,
    verb: Verb,
    payload: &Payload,
    topic: &str,
    bytes: &[u8],
) -> Result<CommandBody, Refusal> {
    if verb != Verb::Trigger || body.correlation_id.is_some() {
        return Ok(body);
    }
    if payload.timestamp.is_none() {
        let reason =
            "a trigger needs a timestamp or Command/id: without them one that comes twice is not known again";
        return Err(malformed(reason.into()));
    }
    let digest = Sha256::new().chain_update(topic).chain_update([0_u8]).chain_update(bytes).finalize();
    let id: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    Ok(body.correlated_by(Some(&format!("sparkplug-{id}"))))
}

/// The values must be of the types of the table (tck-id-operational-behavior-data-commands-ncmd-metric-value,
/// tck-id-operational-behavior-data-commands-dcmd-metric-value).
fn text(fields: &BTreeMap<&str, &Metric>, key: &str) -> Result<Option<String>, String> {
    match fields.get(key).and_then(|metric| metric.value.as_ref()) {
        None => Ok(None),
        Some(Wire::String(text)) if text.is_empty() => Ok(None),
        Some(Wire::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("Command/{key}: must be a String")),
    }
}

fn flag(fields: &BTreeMap<&str, &Metric>, key: &str) -> Result<bool, String> {
    match fields.get(key).and_then(|metric| metric.value.as_ref()) {
        None => Ok(false),
        Some(Wire::Boolean(flag)) => Ok(*flag),
        Some(_) => Err(format!("Command/{key}: must be a Boolean")),
    }
}

fn number(fields: &BTreeMap<&str, &Metric>, key: &str) -> Result<Option<u64>, String> {
    match fields.get(key).and_then(|metric| metric.value.as_ref()) {
        None => Ok(None),
        Some(Wire::Int(number)) => Ok(Some((*number).into())),
        Some(Wire::Long(number)) => Ok(Some(*number)),
        Some(_) => Err(format!("Command/{key}: must be an integer")),
    }
}

const fn malformed(reason: String) -> Refusal {
    Refusal::Malformed { reason }
}

/// A command on its way, and what is told of it.
#[derive(Debug)]
pub(super) struct Ask {
    pub who: Who,
    pub written: Written,
    pub at: Instant,
    pub done: mpsc::Sender<Done>,
}

/// What became of a command.
#[derive(Debug)]
pub(super) struct Done {
    pub who: Who,
    pub verb: String,
    pub id: Option<String>,
    pub outcome: Outcome,
}

/// The way from a session to the line, which begins later and ends earlier.
#[derive(Debug)]
pub(crate) struct Door {
    sink: String,
    queue: Mutex<Option<mpsc::Sender<Ask>>>,
}

impl Door {
    pub(crate) fn new(sink: &str) -> Arc<Self> {
        Arc::new(Self { sink: sink.to_owned(), queue: Mutex::default() })
    }

    /// Carries out what comes in, in its order, by this handler. Call it inside a tokio runtime.
    pub(crate) fn listen(self: &Arc<Self>, handler: Handler) -> Listening {
        let (queue, mut asked) = mpsc::channel::<Ask>(WAITING_MAX);
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        let sender = Sender::Mqtt { sink: self.sink.clone() };
        Listening::to(tokio::spawn(async move {
            while let Some(Ask { who, written, at, done }) = asked.recv().await {
                let Written { verb, id, body } = written;
                let order = body.and_then(|body| body.order(Verb::parse(&verb)?, at));
                let outcome = match order {
                    Ok(order) => command::carry_out(&handler, order.command, sender.clone()).await,
                    Err(refusal) => Err(refusal),
                };
                command::log::outcome(&verb, &sender, id.as_deref(), &outcome);
                // Who asked may have ended meanwhile.
                let _ = done.send(Done { who, verb, id, outcome }).await;
            }
            // Who has sent them is gone, and the line goes on.
            std::future::pending::<()>().await;
        }))
    }

    /// Puts a command in; a refusal comes back where that cannot be.
    pub(super) fn put(&self, ask: Ask) -> Option<Done> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = |ask: Ask, refusal: Refusal| {
            let Ask { who, written: Written { verb, id, .. }, .. } = ask;
            let sender = Sender::Mqtt { sink: self.sink.clone() };
            let outcome = Err(refusal);
            command::log::outcome(&verb, &sender, id.as_deref(), &outcome);
            Some(Done { who, verb, id, outcome })
        };
        let Some(queue) = queue else { return refused(ask, Refusal::Starting) };
        match queue.try_send(ask) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(ask)) => {
                refused(ask, Refusal::NotStored { reason: format!("{WAITING_MAX} commands wait already") })
            }
            Err(mpsc::error::TrySendError::Closed(ask)) => refused(ask, Refusal::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::trigger::Command;

    fn metric(name: &str, value: Wire) -> Metric {
        Metric { name: Some(name.into()), value: Some(value), ..Metric::default() }
    }

    fn word(name: &str, text: &str) -> Metric {
        metric(name, Wire::String(text.into()))
    }

    fn asked(who: &Who, timestamp: Option<u64>, metrics: Vec<Metric>, retained: bool) -> Asked {
        let owner = if *who == Who::Node { Owner::Node } else { Owner::Device(3) };
        let bytes = payload::encode(&Payload { timestamp, metrics, ..Payload::default() });
        read(who, owner, "spBv1.0/g/NCMD/n", &bytes, retained).unwrap()
    }

    fn camera() -> Who {
        Who::Device("top".into())
    }

    #[test]
    fn a_trigger_brings_its_words_and_is_about_its_camera() {
        let metrics = vec![
            metric("Command/trigger", Wire::Boolean(true)),
            word("Command/part_id", "P7"),
            word("Command/lot", "L1"),
            word("Command/expected", r#"{"serial":"SN1"}"#),
            metric("Command/deadline_ms", Wire::Long(900)),
            word("Command/id", "c7"),
            word("Result/verdict", "pass"),
            word("Nobody knows", "it"),
        ];
        let written = asked(&camera(), Some(1), metrics, false).command.unwrap();
        assert_eq!((written.verb.as_str(), written.id.as_deref()), ("trigger", Some("c7")));
        let order = written.body.unwrap().order(Verb::Trigger, Instant::now()).unwrap();
        let Command::Trigger(request) = order.command else { panic!("{:?}", order.command) };
        assert_eq!(request.camera.as_deref(), Some("top"));
        assert_eq!(request.trigger.expected["serial"], "SN1");
        assert_eq!((request.trigger.part_id.as_deref(), request.name.as_deref()), (Some("P7"), Some("c7")));
    }

    #[test]
    fn a_message_that_comes_twice_is_known_by_its_bytes_and_another_is_not() {
        let trigger = || vec![metric("Command/trigger", Wire::Boolean(true))];
        let id = |at| asked(&camera(), Some(at), trigger(), false).command.unwrap().id.unwrap();
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        let untold = asked(&camera(), None, trigger(), false).command.unwrap();
        assert!(untold.body.unwrap_err().to_string().contains("timestamp"));
    }

    #[test]
    fn an_alias_stands_for_its_name() {
        let owner = Owner::Device(3);
        let place = owner.table().iter().position(|spec| spec.name == "Command/pause").unwrap();
        let born = owner.born(place, &super::super::metrics::Value::Null, std::time::SystemTime::now());
        let pause = Metric { alias: born.alias, value: Some(Wire::Boolean(true)), ..Metric::default() };
        let written = asked(&camera(), Some(1), vec![pause], false).command.unwrap();
        let order = written.body.unwrap().order(Verb::Pause, Instant::now()).unwrap();
        assert_eq!(order.command, Command::Pause { camera: Some("top".into()) });
    }

    #[test]
    fn a_rebirth_is_of_the_node_and_needs_true() {
        let ask = |who: &Who, value, retained| asked(who, Some(1), vec![metric(REBIRTH, value)], retained);
        assert!(ask(&Who::Node, Wire::Boolean(true), false).rebirth);
        assert!(!ask(&Who::Node, Wire::Boolean(false), false).rebirth);
        assert!(!ask(&Who::Node, Wire::Boolean(true), true).rebirth, "it is old");
        assert!(!ask(&camera(), Wire::Boolean(true), false).rebirth);
        assert!(ask(&Who::Node, Wire::Int(1), false).command.is_none());
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_reason() {
        let yes = || Wire::Boolean(true);
        let cases = [
            (vec![metric("Command/pause", yes()), metric("Command/resume", yes())], "2 commands"),
            (vec![word("Command/part_id", "P1")], "no command"),
            (vec![metric("Command/trigger", yes()), word("Command/serial", "SN1")], "Command/serial"),
            (vec![metric("Command/trigger", Wire::Int(1))], "must be a Boolean"),
            (vec![metric("Command/pipeline", yes())], "must be a String"),
            (vec![metric("Command/trigger", yes()), word("Command/expected", "SN1")], "JSON object"),
        ];
        for (metrics, words) in cases {
            let refusal = asked(&Who::Node, Some(1), metrics, false).command.unwrap().body.unwrap_err();
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
        let old = asked(&Who::Node, Some(1), vec![metric("Command/pause", yes())], true).command.unwrap();
        assert!(old.body.unwrap_err().to_string().contains("retained"));
        assert!(read(&Who::Node, Owner::Node, "t", b"{}", false).is_err());
    }
}
