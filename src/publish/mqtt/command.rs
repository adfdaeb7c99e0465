//! Commands in, acknowledgements out: a second client, so that nothing that comes in can hold up results.
//!
//!     broker --cmd/{trigger,pipeline,pause,resume}--> ears --queue (bounded)--> one at a time: parse --> desk
//!     broker <--PUBACK-- after the answer <--cmd/ack, or the sender's response topic: accepted, or the reason--'
//!
//! Who hears never waits for who carries out, and who carries out may wait for room in the client: so a burst is
//! answered command by command, however long it is.
//!
//! Invariants:
//! - Packets of more than `COMMAND_BYTES_MAX` end the connection, which is made anew; results flow on.
//! - Retained commands are refused: they are old, whoever sees them. So is a trigger without any text, which is what
//!   clearing a retained one looks like.
//! - The session is clean: a command that came while the station was away is not carried out late, nor is one that
//!   waited when the connection ended. A sender without an answer may send it again under its correlation id.
//! - Every command gets one acknowledgement, on `cmd/ack` or on the response topic that it names (MQTT 5), which must
//!   lie below the station's own `cmd/`: who may command may not thereby publish elsewhere.
//! - A broker that lets nobody hear commands, or two stations under one client id, raise an alarm.

mod wire;

use super::message::SCHEMA;
use super::{MqttOptions, StationEvent};
use crate::command::{self, Handler, Verb, Words};
use crate::domain::trigger::{Refusal, Sender};
use crate::store::record::rfc3339;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wire::{Arrived, Ears, Heard, Lost, Receipt, Voice};

/// Longest packet that is taken in.
pub const COMMAND_BYTES_MAX: u32 = command::BYTES_MAX as u32;
/// A broker of MQTT 5 is told not to have more commands open.
pub const OPEN_MAX: u16 = 512;
/// Commands that wait for their turn: as many as packets have numbers. Brokers of MQTT 3.1.1 have a limit of their own,
/// or none; mosquitto 2.0.11 goes far beyond the one that it has.
const QUEUE_MAX: usize = u16::MAX as usize;
/// Bytes of commands that wait.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Waits between connections double from the first to the last of these.
const RECONNECT_MIN: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// A connection that has lasted so long is nobody else's; a refused subscription is asked for again after it.
const SETTLED: Duration = Duration::from_secs(60);
/// Connections in a row that end sooner, until somebody else is suspected to use the client id.
const SHORT_MAX: u32 = 4;

/// Raised while the broker refuses the subscription to commands.
pub const ALARM_REFUSED: &str = "commands_refused";
/// Raised while another client seems to use the station's client id.
pub const ALARM_TAKEN: &str = "client_id_taken";

/// Says an alarm of the connection.
pub type Tell = Box<dyn Fn(StationEvent) + Send + Sync>;

/// The running listener; it ends when this is dropped, however the line ends.
#[must_use]
pub struct Listening(JoinHandle<()>);

impl Listening {
    /// True when it has ended by itself, which only a panic does.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens for commands. Call it inside a tokio runtime.
pub fn listen(options: MqttOptions, handler: Handler, tell: Tell) -> Listening {
    let listener =
        Listener { options, handler, tell, refused: AtomicBool::new(false), taken: AtomicBool::new(false) };
    Listening(tokio::spawn(async move { listener.run().await }))
}

/// Commands of a connection that wait for their turn.
struct Commands {
    queue: mpsc::Sender<Arrived>,
    bytes: AtomicUsize,
}

impl Commands {
    /// Puts one in; it comes back when there is no room.
    fn put(&self, arrived: Arrived) -> Result<(), Box<Arrived>> {
        let length = arrived.payload.len();
        if self.bytes.load(Ordering::Relaxed) + length > QUEUE_BYTES_MAX {
            return Err(Box::new(arrived));
        }
        // Before it can be taken out.
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.queue.try_send(arrived).map_err(|full| {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            Box::new(full.into_inner())
        })
    }
}

struct Listener {
    options: MqttOptions,
    handler: Handler,
    tell: Tell,
    /// The alarms that stand.
    refused: AtomicBool,
    taken: AtomicBool,
}

impl Listener {
    async fn run(&self) {
        // Those of a former run do not stand any more.
        for code in [ALARM_REFUSED, ALARM_TAKEN] {
            self.alarm(code, String::new());
        }
        let (mut wait, mut short) = (RECONNECT_MIN, 0);
        loop {
            let began = Instant::now();
            let (was_up, lost) = self.connection().await;
            let lasted = began.elapsed();
            if lasted > RECONNECT_MAX {
                wait = RECONNECT_MIN;
            }
            tracing::warn!(reason = %lost.reason, "the connection for commands is gone");
            short = if was_up && lasted < SETTLED { short + 1 } else { 0 };
            self.suspect(&lost, short);
            tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            wait = (2 * wait).min(RECONNECT_MAX);
        }
    }

    /// One connection, from CONNECT to its end; whether it was up.
    async fn connection(&self) -> (bool, Lost) {
        let (voice, ears) = wire::connection(&self.options, &self.client_id());
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let queue = Commands { queue, bytes: AtomicUsize::new(0) };
        let mut up = false;
        let lost = tokio::select! {
            lost = self.hear(&voice, ears, &queue, &mut up) => lost,
            never = self.carry_out(&voice, waiting, &queue.bytes) => never,
            never = self.settle(&voice) => never,
        };
        (up, lost)
    }

    /// Queues what comes in. Never waits but for the network.
    async fn hear(&self, voice: &Voice, mut ears: Ears, queue: &Commands, up: &mut bool) -> Lost {
        let gone = |reason: String| Lost { reason, taken_over: false };
        loop {
            match ears.next().await {
                Ok(Heard::Up) => {
                    *up = true;
                    if voice.subscribe(self.topics()).is_err() {
                        return gone("the client took no subscription".into());
                    }
                }
                Ok(Heard::Subscribed { refused }) => self.subscribed(&refused),
                Ok(Heard::Command(arrived)) => match queue.put(arrived) {
                    Ok(()) => {}
                    // QoS 0 promises nothing, and its sender waits for an answer that says so.
                    Err(arrived) if matches!(arrived.receipt, Receipt::None) => {
                        let topic = &arrived.topic;
                        tracing::warn!(topic, "a command with QoS 0 is lost: too many wait already");
                    }
                    Err(_) => return gone("the broker has more commands open than can wait here".into()),
                },
                Ok(Heard::Other) => {}
                Err(lost) => return lost,
            }
        }
    }

    /// Carries out what waits, in its order; the broker has its PUBACK when the answer is on its way.
    async fn carry_out(
        &self,
        voice: &Voice,
        mut waiting: mpsc::Receiver<Arrived>,
        bytes: &AtomicUsize,
    ) -> Lost {
        while let Some(arrived) = waiting.recv().await {
            bytes.fetch_sub(arrived.payload.len(), Ordering::Relaxed);
            let answer = self.take(&arrived).await;
            let answered = match answer {
                Some((to, answer)) => voice.answer(to, answer, arrived.correlation).await,
                None => Ok(()),
            };
            if answered.is_err() || voice.acknowledge(&arrived.receipt).await.is_err() {
                break;
            }
        }
        // The ears know why.
        std::future::pending().await
    }

    /// What time brings: a connection that lasts is nobody else's, and a broker may have changed its mind.
    async fn settle(&self, voice: &Voice) -> Lost {
        loop {
            tokio::time::sleep(SETTLED).await;
            if self.taken.swap(false, Ordering::Relaxed) {
                self.alarm(ALARM_TAKEN, String::new());
            }
            if self.refused.load(Ordering::Relaxed) && voice.subscribe(self.topics()).is_err() {
                tracing::warn!("a refused subscription could not be asked for again");
            }
        }
    }

    fn client_id(&self) -> String {
        format!("{}-cmd", self.options.client_id)
    }

    fn topics(&self) -> impl Iterator<Item = String> + '_ {
        Verb::ALL.into_iter().map(|verb| format!("{}/cmd/{}", self.options.prefix, verb.as_str()))
    }

    fn subscribed(&self, refused: &[usize]) {
        let topics: Vec<_> =
            self.topics().enumerate().filter(|(i, _)| refused.contains(i)).map(|(_, topic)| topic).collect();
        if topics.is_empty() {
            tracing::info!("commands are heard");
        } else {
            let topics = topics.join(", ");
            tracing::error!(topics, "the broker refuses the subscription to commands");
        }
        let was = self.refused.swap(!topics.is_empty(), Ordering::Relaxed);
        if was == topics.is_empty() {
            let text = format!("the broker refuses the subscription to {}", topics.join(", "));
            self.alarm(ALARM_REFUSED, if topics.is_empty() { String::new() } else { text });
        }
    }

    /// Two clients of one id throw each other out for ever, and nobody hears all commands.
    fn suspect(&self, lost: &Lost, short: u32) {
        let id = self.client_id();
        let text = if lost.taken_over {
            format!(
                "another client has taken over the session of {id}: does a second station have this client_id?"
            )
        } else if short >= SHORT_MAX {
            format!(
                "{short} connections of {id} in a row have ended within {} s: perhaps a second station has this \
                     client_id",
                SETTLED.as_secs()
            )
        } else {
            return;
        };
        if !self.taken.swap(true, Ordering::Relaxed) {
            tracing::error!("{text}");
            self.alarm(ALARM_TAKEN, text);
        }
    }

    /// Raises an alarm or, without a text, clears it.
    fn alarm(&self, code: &str, message: String) {
        (self.tell)(StationEvent::Alarm { code: code.to_owned(), raised: !message.is_empty(), message });
    }

    /// Carries one command out; the topic and the bytes of its acknowledgement.
    async fn take(&self, arrived: &Arrived) -> Option<(String, Vec<u8>)> {
        let own = format!("{}/cmd/", self.options.prefix);
        let verb = arrived.topic.strip_prefix(&own)?;
        let words = self.words(verb, &own, arrived);
        let correlation_id = words.as_ref().ok().and_then(Words::id);
        let order = words.and_then(|words| words.order(Verb::parse(verb)?, arrived.at));
        let outcome = match order {
            Ok(order) => command::carry_out(&self.handler, order.command, Sender::Mqtt).await,
            Err(refusal) => Err(refusal),
        };
        command::log::outcome(verb, &Sender::Mqtt, correlation_id.as_deref(), &outcome);
        let to = arrived.response_topic.clone().filter(|topic| is_response_topic(topic, &own));
        let to = to.unwrap_or_else(|| format!("{own}ack"));
        Some((to, ack(verb, correlation_id.as_deref(), &outcome, SystemTime::now())))
    }

    /// The fields of a message that may command.
    fn words(&self, verb: &str, own: &str, arrived: &Arrived) -> Result<Words, Refusal> {
        if arrived.retained {
            let reason = "a retained command is old: publish it without retain".to_owned();
            return Err(Refusal::Malformed { reason });
        }
        if let Some(topic) = arrived.response_topic.as_ref().filter(|topic| !is_response_topic(topic, own)) {
            let topic = topic.chars().take(SHOWN_CHARS_MAX).collect();
            return Err(Refusal::ResponseTopic { topic, below: own.to_owned() });
        }
        words(verb, arrived)
    }
}

/// Characters of a foreign topic that a reason repeats.
const SHOWN_CHARS_MAX: usize = 100;

/// An answer goes where the sender says, below the station's own `cmd/`, but never to wildcards or to where it would
/// be a command.
fn is_response_topic(topic: &str, own: &str) -> bool {
    topic.len() <= super::PREFIX_BYTES_MAX
        && topic.strip_prefix(own).is_some_and(|rest| !rest.is_empty() && Verb::parse(rest).is_err())
        && !topic.contains(['+', '#'])
        && !topic.chars().any(char::is_control)
}

/// The fields of a command; the correlation data of MQTT 5 stands in for a `correlation_id` that the payload does not
/// have.
fn words(verb: &str, arrived: &Arrived) -> Result<Words, Refusal> {
    if verb == Verb::Trigger.as_str() && arrived.payload.is_empty() {
        let reason =
            "an empty payload is no trigger: it clears a retained one; send {} for one without words";
        return Err(Refusal::Malformed { reason: reason.into() });
    }
    let data = arrived.correlation.as_deref().and_then(|data| std::str::from_utf8(data).ok());
    Ok(command::words(&arrived.payload)?.correlated_by(data))
}

/// The bytes of an acknowledgement.
fn ack(verb: &str, correlation_id: Option<&str>, outcome: &Result<(), Refusal>, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct AckV1<'a> {
        schema: u16,
        command: &'a str,
        correlation_id: &'a str,
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

    fn arrived(payload: &str) -> Arrived {
        Arrived {
            topic: String::new(),
            payload: payload.into(),
            retained: false,
            at: Instant::now(),
            response_topic: None,
            correlation: Some(b"c7".to_vec()),
            receipt: Receipt::None,
        }
    }

    #[test]
    fn correlation_data_stands_in_for_a_missing_id() {
        let id = |payload: &str| words("trigger", &arrived(payload)).unwrap().id();
        assert_eq!(id("{}").as_deref(), Some("c7"));
        assert_eq!(id(r#"{"correlation_id":"own"}"#).as_deref(), Some("own"));
        for odd in [vec![0xff], b"a\nb".to_vec(), vec![b'x'; 300]] {
            let arrived = Arrived { correlation: Some(odd), ..arrived("{}") };
            assert_eq!(words("trigger", &arrived).unwrap().id(), None);
        }
        let refused = words("pause", &arrived(r#"{"correlation_id":"own ","deadline_ms":0}"#)).unwrap();
        assert_eq!(refused.id().as_deref(), Some("own"), "a refusal finds its sender");
        assert!(refused.order(Verb::Pause, Instant::now()).is_err());
    }

    #[test]
    fn an_empty_message_pauses_and_resumes_but_is_no_trigger() {
        let refused = words("trigger", &arrived("")).unwrap_err();
        assert!(refused.code() == "malformed" && refused.to_string().contains("empty payload"), "{refused}");
        assert!(words("pause", &arrived("")).is_ok() && words("resume", &arrived("")).is_ok());
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
        let (good, bad) =
            (parse(ack("trigger", Some("c7"), &Ok(()), at)), parse(ack("trigger", None, &Err(full), at)));
        assert_eq!((&good["accepted"], &good["correlation_id"]), (&true.into(), &"c7".into()));
        assert_eq!((&bad["accepted"], &bad["code"]), (&false.into(), &"full".into()));
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&good), keys(&bad));
    }
}
