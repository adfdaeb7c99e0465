//! Commands as JSON: what comes in on `cmd/{verb}`, and the answer on `cmd/ack` or the sender's response topic.
//!
//! Retained commands are refused: they are old, whoever sees them. So is a trigger without any text, which is what
//! clearing a retained one looks like. A response topic must lie below the station's own `cmd/`: who may command may
//! not thereby publish elsewhere.

use super::message::SCHEMA;
use crate::command::{self, CommandBody, Verb};
use crate::domain::trigger::{Outcome, Refusal};
use crate::publish::mqtt::PREFIX_BYTES_MAX;
use crate::publish::mqtt::dialect::{Asked, Incoming};
use crate::store::record::rfc3339;
use serde::Serialize;
use std::time::SystemTime;

/// Reads a message; `own` is the station's `…/cmd/`.
pub(super) fn read(own: &str, incoming: &Incoming<'_>) -> Option<Asked> {
    let verb = incoming.topic.strip_prefix(own)?;
    let to = incoming.response_topic.filter(|topic| is_response_topic(topic, own));
    let answer_to = to.map_or_else(|| format!("{own}ack"), str::to_owned);
    let body = allowed(verb, own, incoming);
    let correlation_id = match &body {
        Ok(body) => body.id(),
        Err(_) => command::id_in(incoming.payload)
            .or_else(|| CommandBody::default().correlated_by(data(incoming)).id()),
    };
    Some(Asked { verb: verb.to_owned(), body, correlation_id, answer_to })
}

/// The fields of a message that may command.
fn allowed(verb: &str, own: &str, incoming: &Incoming<'_>) -> Result<CommandBody, Refusal> {
    if incoming.retained {
        let reason = "a retained command is old: publish it without retain".to_owned();
        return Err(Refusal::Malformed { reason });
    }
    if let Some(topic) = incoming.response_topic.filter(|topic| !is_response_topic(topic, own)) {
        let topic = topic.chars().take(SHOWN_CHARS_MAX).collect();
        return Err(Refusal::ResponseTopic { topic, below: own.to_owned() });
    }
    body(verb, incoming)
}

/// Characters of a foreign topic that a reason repeats.
const SHOWN_CHARS_MAX: usize = 100;

/// An answer goes where the sender says, below the station's own `cmd/`, but never to wildcards or to where it would
/// be a command.
fn is_response_topic(topic: &str, own: &str) -> bool {
    topic.len() <= PREFIX_BYTES_MAX
        && topic.strip_prefix(own).is_some_and(|rest| !rest.is_empty() && Verb::parse(rest).is_err())
        && !topic.contains(['+', '#'])
        && !topic.chars().any(char::is_control)
}

/// The fields of a command; the correlation data of MQTT 5 stands in for a `correlation_id` that the payload does not
/// have.
fn body(verb: &str, incoming: &Incoming<'_>) -> Result<CommandBody, Refusal> {
    if verb == Verb::Trigger.as_str() && incoming.payload.is_empty() {
        let reason =
            "an empty payload is no trigger: it clears a retained one; send {} for one without words";
        return Err(Refusal::Malformed { reason: reason.into() });
    }
    Ok(command::body(incoming.payload)?.correlated_by(data(incoming)))
}

/// The correlation data, where it is text.
fn data<'a>(incoming: &Incoming<'a>) -> Option<&'a str> {
    incoming.correlation.and_then(|data| std::str::from_utf8(data).ok())
}

/// The bytes of an acknowledgement.
pub(super) fn ack(verb: &str, correlation_id: Option<&str>, outcome: &Outcome, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct AckV1<'a> {
        schema: u16,
        command: &'a str,
        correlation_id: &'a str,
        /// Empty of what is no trigger, and of one that is refused.
        trigger_id: &'a str,
        accepted: bool,
        /// Empty when it is accepted.
        code: &'a str,
        reason: String,
        ts: String,
    }
    let refused = outcome.as_ref().err();
    let ack = AckV1 {
        schema: SCHEMA,
        command: verb,
        correlation_id: correlation_id.unwrap_or_default(),
        trigger_id: outcome.as_ref().ok().and_then(Option::as_deref).unwrap_or_default(),
        accepted: refused.is_none(),
        code: refused.map_or("", Refusal::code),
        reason: refused.map(ToString::to_string).unwrap_or_default(),
        ts: rfc3339(at),
    };
    serde_json::to_vec(&ack).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn incoming(payload: &str) -> Incoming<'_> {
        Incoming {
            topic: "",
            payload: payload.as_bytes(),
            retained: false,
            response_topic: None,
            correlation: Some(b"c7"),
        }
    }

    #[test]
    fn correlation_data_stands_in_for_a_missing_id() {
        let id = |payload: &str| body("trigger", &incoming(payload)).unwrap().id();
        assert_eq!(id("{}").as_deref(), Some("c7"));
        assert_eq!(id(r#"{"correlation_id":"own"}"#).as_deref(), Some("own"));
        for odd in [vec![0xff], b"a\nb".to_vec(), vec![b'x'; 300]] {
            let odd = Incoming { correlation: Some(&odd), ..incoming("{}") };
            assert_eq!(body("trigger", &odd).unwrap().id(), None);
        }
        let refused = body("pause", &incoming(r#"{"correlation_id":"own ","deadline_ms":0}"#)).unwrap();
        assert_eq!(refused.id().as_deref(), Some("own"), "a refusal finds its sender");
        assert!(refused.order(Verb::Pause, Instant::now()).is_err());
    }

    #[test]
    fn whatever_is_refused_its_sender_knows_the_answer() {
        let own = "inspectd/p/a/l/st10/cmd/";
        let asked = |incoming: Incoming<'_>| {
            let asked =
                read(own, &Incoming { topic: "inspectd/p/a/l/st10/cmd/trigger", ..incoming }).unwrap();
            assert!(asked.body.is_err(), "{:?}", asked.body);
            asked.correlation_id
        };
        let named = r#"{"correlation_id":" own \u0000","bogus":1}"#;
        assert_eq!(asked(incoming(named)).as_deref(), Some("own"), "a field that there is not");
        assert_eq!(asked(incoming(r#"{"bogus":1}"#)).as_deref(), Some("c7"), "MQTT 5's own data");
        let retained = Incoming { retained: true, ..incoming(r#"{"correlation_id":"own"}"#) };
        assert_eq!(asked(retained).as_deref(), Some("own"));
        let elsewhere =
            Incoming { response_topic: Some("elsewhere"), ..incoming(r#"{"correlation_id":"own"}"#) };
        assert_eq!(asked(elsewhere).as_deref(), Some("own"));
        for nameless in ["", "[\"own\"]", "{\"correlation_id\":7}", "no JSON"] {
            let without = Incoming { correlation: None, ..incoming(nameless) };
            assert_eq!(asked(without), None, "{nameless}");
        }
    }

    #[test]
    fn an_empty_message_pauses_and_resumes_but_is_no_trigger() {
        let refused = body("trigger", &incoming("")).unwrap_err();
        assert!(refused.code() == "malformed" && refused.to_string().contains("empty payload"), "{refused}");
        assert!(body("pause", &incoming("")).is_ok() && body("resume", &incoming("")).is_ok());
    }

    #[test]
    fn answers_stay_below_the_own_commands_and_are_none() {
        let own = "inspectd/p/a/l/st10/cmd/";
        for good in ["ack", "ack/plc7", "plc/7/answers", "trigger/answers"] {
            assert!(is_response_topic(&format!("{own}{good}"), own), "{good}");
        }
        for bad in [
            "",
            "$SYS/x",
            "plc/7/answers",
            "inspectd/p/a/l/st10/result",
            "inspectd/p/a/l/st11/cmd/ack",
            own,
            "inspectd/p/a/l/st10/cmd/trigger",
            "inspectd/p/a/l/st10/cmd/pause",
            "inspectd/p/a/l/st10/cmd/a/+/b",
            "inspectd/p/a/l/st10/cmd/#",
            "inspectd/p/a/l/st10/cmd/a\nb",
        ] {
            assert!(!is_response_topic(bad, own), "{bad:?}");
        }
    }

    #[test]
    fn acknowledgements_are_flat_and_type_stable() {
        let full = Refusal::Full { camera: "cam1".into(), waiting: 8 };
        let at = SystemTime::UNIX_EPOCH;
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        let (good, bad) = (
            parse(ack("trigger", Some("c7"), &Ok(Some("T1".into())), at)),
            parse(ack("trigger", None, &Err(full), at)),
        );
        assert_eq!((&good["accepted"], &good["correlation_id"]), (&true.into(), &"c7".into()));
        assert_eq!((&good["trigger_id"], &bad["trigger_id"]), (&"T1".into(), &"".into()));
        assert_eq!(parse(ack("pause", None, &Ok(None), at))["trigger_id"], "");
        assert_eq!((&bad["accepted"], &bad["code"]), (&false.into(), &"full".into()));
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&good), keys(&bad));
    }
}
