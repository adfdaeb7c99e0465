//! The words of a command: one JSON object, the same by MQTT, by HTTP and in a file, checked once.
//!
//! ```text
//! mqtt    cmd/{verb} -----------------.
//! web     POST /api/v1/commands/{verb} +--> CommandBody --check--> Command --> dispatcher (in `daemon`)
//! modbus  the words of a handshake ----+
//! daemon  a file in the trigger folder '      '--> Refusal, malformed: what is wrong, in words
//! ```
//!
//! The texts of a command end up in records, messages, pages and logs, so lengths and characters are
//! checked here, where they come in, and nowhere else. A PLC pads its strings with spaces or NUL up to
//! their declared length: that padding is taken off here, before anything is compared or kept.

pub(crate) mod log;

use crate::domain::frame::Trigger;
use crate::domain::trigger::{Command, Outcome, Refusal, Request, Sender};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// The longest object that is taken in.
pub(crate) const BYTES_MAX: usize = 16 * 1024;
/// Some editors and libraries begin every text with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Longest text of a field, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Expected values of one trigger.
const EXPECTED_MAX: usize = 32;
/// The longest deadline: an hour.
const DEADLINE_MS_MAX: u64 = 3_600_000;

/// Carries a command out, or says why not; it waits for the disk.
pub(crate) type Handler = Arc<dyn Fn(Command, &Sender) -> Outcome + Send + Sync>;

/// Carries a command out on a thread that may wait.
///
/// # Errors
/// As the handler.
pub(crate) async fn carry_out(handler: &Handler, command: Command, sender: Sender) -> Outcome {
    let handler = Arc::clone(handler);
    match tokio::task::spawn_blocking(move || handler(command, &sender)).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends.
        Err(_) => Err(Refusal::Stopping),
    }
}

/// What can be commanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Trigger,
    Pipeline,
    Pause,
    Resume,
    Retry,
    Reload,
}

impl Verb {
    pub(crate) const ALL: [Self; 6] =
        [Self::Trigger, Self::Pipeline, Self::Pause, Self::Resume, Self::Retry, Self::Reload];

    /// The word in topics and paths.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Pipeline => "pipeline",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Reload => "reload",
        }
    }

    /// The verb of a word.
    ///
    /// # Errors
    /// It is none; the words that are stand in the reason.
    pub(crate) fn parse(word: &str) -> Result<Self, Refusal> {
        Self::ALL.into_iter().find(|v| v.as_str() == word).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            malformed(format!("there is no command {word:?}; there are {known}"))
        })
    }
}

/// The object of every command; which fields a verb may have is checked.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CommandBody {
    /// `id` of the camera. Left out: all cameras; for a trigger the only part with several views or, where
    /// the config has not exactly one, all cameras that take triggers.
    #[schema(max_length = 256)]
    pub camera: Option<String>,
    /// Only of a trigger, instead of a camera: `name` of a part with several views.
    #[schema(max_length = 256)]
    pub part: Option<String>,
    /// Echoed in the result.
    #[schema(max_length = 256)]
    pub part_id: Option<String>,
    /// Echoed in the result.
    #[schema(max_length = 256)]
    pub lot: Option<String>,
    /// Values that the pipeline's `from_trigger` may name, for example `serial`; at most 32. An empty one
    /// is no value: the line that should equal it goes to review.
    pub expected: BTreeMap<String, String>,
    /// A verdict later than this after the command is review("deadline").
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub deadline_ms: Option<u64>,
    /// Only of the command `pipeline`: the pipeline of what is triggered or taken from now on.
    #[schema(max_length = 256)]
    pub pipeline: Option<String>,
    /// Echoed in the answer, a refusal's too, in the result, and in the verdict about a part with several views. Of a
    /// trigger it is also its name: a second one of the same sender (broker, account, token, folder) with the same id,
    /// for the same camera or part, within ten minutes, gets the first one's answer and takes no picture; another
    /// attempt needs another id. Of another sender it is the same trigger only where it says the same and has a
    /// `part_id`.
    #[schema(max_length = 256)]
    pub correlation_id: Option<String>,
}

/// A command that is well formed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    pub command: Command,
    pub correlation_id: Option<String>,
}

/// The command in a text; without any text it is that of an object without fields.
///
/// # Errors
/// `Refusal::Malformed`, which says what is wrong.
pub(crate) fn parse(verb: Verb, text: &[u8], received: Instant) -> Result<Order, Refusal> {
    body(text)?.order(verb, received)
}

/// The correlation id of a text that is no command: its sender knows the refusal by it.
pub(crate) fn id_in(text: &[u8]) -> Option<String> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.len() > BYTES_MAX {
        return None;
    }
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let id = bare(fields.get("correlation_id")?.as_str()?);
    Some(id).filter(|id| is_id(id)).map(str::to_owned)
}

/// The fields in a text.
///
/// # Errors
/// `Refusal::Malformed`: it is no object, or holds what is no field.
pub(crate) fn body(text: &[u8]) -> Result<CommandBody, Refusal> {
    if text.len() > BYTES_MAX {
        return Err(malformed(format!("{} bytes; at most {BYTES_MAX} are taken", text.len())));
    }
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(malformed("the payload is UTF-16: write it as UTF-8".into()));
    }
    // Pause and resume need no words.
    let text: &[u8] = if text.is_empty() { b"{}" } else { text };
    // A list would be taken for an object's values in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed("the payload: must be a JSON object".into()));
    }
    serde_json::from_slice(text).map_err(|e| malformed(format!("the payload: {e}")))
}

impl CommandBody {
    /// Takes `id` for a correlation id that the sender did not write, where it could have been one.
    pub(crate) fn correlated_by(mut self, id: Option<&str>) -> Self {
        self.correlation_id = self.correlation_id.or_else(|| id.filter(|id| is_id(id)).map(str::to_owned));
        self
    }

    /// The id by which the sender knows the answer, where it can be one: a command that is refused has it, too.
    pub(crate) fn id(&self) -> Option<String> {
        let id = self.correlation_id.as_deref().map(bare);
        id.filter(|id| is_id(id)).map(str::to_owned)
    }

    /// The command that the fields make with this verb.
    ///
    /// # Errors
    /// `Refusal::Malformed`: a field does not belong to the verb, is missing, or is not what it must be.
    pub(crate) fn order(self, verb: Verb, received: Instant) -> Result<Order, Refusal> {
        let this = self.unpadded();
        this.check().map_err(malformed)?;
        let word = verb.as_str();
        let about_part = this.part.is_some()
            || this.part_id.is_some()
            || this.lot.is_some()
            || !this.expected.is_empty()
            || this.deadline_ms.is_some();
        if verb != Verb::Trigger && about_part {
            let what = "part, part_id, lot, expected and deadline_ms mean nothing to the command";
            return Err(malformed(format!("{what} {word}")));
        }
        if matches!(verb, Verb::Retry | Verb::Reload) && this.camera.is_some() {
            return Err(malformed(format!("camera means nothing to the command {word}")));
        }
        if this.part.is_some() && this.camera.is_some() {
            return Err(malformed("camera and part: a trigger means one of them".into()));
        }
        let Self { camera, part, part_id, lot, expected, deadline_ms, pipeline, correlation_id } = this;
        let command = match (verb, pipeline) {
            (Verb::Pipeline, Some(pipeline)) => Command::Pipeline { camera, pipeline },
            (Verb::Pause, None) => Command::Pause { camera },
            (Verb::Resume, None) => Command::Resume { camera },
            (Verb::Retry, None) => Command::Retry,
            (Verb::Reload, None) => Command::Reload,
            (Verb::Trigger, None) => Command::Trigger(Box::new(Request {
                camera,
                part,
                name: correlation_id.clone(),
                trigger: Trigger {
                    id: None,
                    part_id,
                    lot,
                    expected,
                    correlation_id: correlation_id.clone(),
                    meas_id: None,
                    deadline: deadline_ms.map(Duration::from_millis),
                    part: None,
                    ticket: None,
                },
                received,
            })),
            _ => return Err(malformed("the command pipeline, and only it, needs \"pipeline\"".into())),
        };
        Ok(Order { command, correlation_id })
    }

    /// All texts without the padding of a PLC.
    fn unpadded(mut self) -> Self {
        let single = [
            &mut self.camera,
            &mut self.part,
            &mut self.part_id,
            &mut self.lot,
            &mut self.pipeline,
            &mut self.correlation_id,
        ];
        for text in single.into_iter().flatten().chain(self.expected.values_mut()) {
            if bare(text).len() < text.len() {
                *text = bare(text).to_owned();
            }
        }
        self
    }

    fn check(&self) -> Result<(), String> {
        if self.expected.len() > EXPECTED_MAX {
            return Err(format!("{} expected values; at most {EXPECTED_MAX} are taken", self.expected.len()));
        }
        if let Some(ms) = self.deadline_ms.filter(|ms| !(1..=DEADLINE_MS_MAX).contains(ms)) {
            return Err(format!("deadline_ms = {ms}: must be from 1 to {DEADLINE_MS_MAX}"));
        }
        let single = [
            ("camera", &self.camera),
            ("part", &self.part),
            ("part_id", &self.part_id),
            ("lot", &self.lot),
            ("pipeline", &self.pipeline),
            ("correlation_id", &self.correlation_id),
        ];
        let single = single.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
        let pairs = self.expected.iter().flat_map(|(key, value)| [("expected", key), ("expected", value)]);
        for (key, text) in single.chain(pairs) {
            if text.len() > TEXT_BYTES_MAX {
                let bytes = text.len();
                return Err(format!("{key}: a text of {bytes} bytes; at most {TEXT_BYTES_MAX} are taken"));
            }
            if text.chars().any(char::is_control) {
                return Err(format!("{key} = {text:?}: a text holds control characters"));
            }
        }
        Ok(())
    }
}

/// Without the padding of a PLC.
fn bare(text: &str) -> &str {
    text.trim_matches([' ', '\0'])
}

/// Whether a text can be the id of something: not empty, not longer than others, without control characters.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

const fn malformed(reason: String) -> Refusal {
    Refusal::Malformed { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: Verb, text: &str) -> Result<Order, Refusal> {
        parse(verb, text.as_bytes(), Instant::now())
    }

    #[test]
    fn a_trigger_brings_what_is_known_about_the_part() {
        let text = r#"{"camera":"cam1","part_id":"P1","lot":"L","expected":{"serial":"SN1"},
            "deadline_ms":900,"correlation_id":"c7"}"#;
        let order = order(Verb::Trigger, text).unwrap();
        let Command::Trigger(request) = order.command else { panic!("{:?}", order.command) };
        assert_eq!((order.correlation_id.as_deref(), request.camera.as_deref()), (Some("c7"), Some("cam1")));
        assert_eq!(request.trigger.part_id.as_deref(), Some("P1"));
        assert_eq!(request.trigger.lot.as_deref(), Some("L"));
        assert_eq!(request.trigger.expected["serial"], "SN1");
        assert_eq!(request.trigger.deadline, Some(Duration::from_millis(900)));
        assert_eq!(request.trigger.correlation_id.as_deref(), Some("c7"));
    }

    /// STRING[16] of a PLC, as its JSON library writes it.
    #[test]
    fn the_padding_of_a_plc_is_taken_off() {
        let text = r#"{"camera":"cam1  ","part_id":"P1\u0000\u0000","lot":"  L 7  ","correlation_id":"c \u0000",
            "expected":{"serial":"SN1     ","gtin":"\u0000\u0000","lot":"   "}}"#;
        let order = order(Verb::Trigger, text).unwrap();
        let Command::Trigger(request) = order.command else { panic!("{:?}", order.command) };
        let trigger = &request.trigger;
        assert_eq!((request.camera.as_deref(), order.correlation_id.as_deref()), (Some("cam1"), Some("c")));
        assert_eq!((trigger.part_id.as_deref(), trigger.lot.as_deref()), (Some("P1"), Some("L 7")));
        assert_eq!(trigger.expected["serial"], "SN1");
        assert_eq!((trigger.expected["gtin"].as_str(), trigger.expected["lot"].as_str()), ("", ""));
    }

    #[test]
    fn a_byte_order_mark_is_no_word_and_utf_16_is_named() {
        let marked = order(Verb::Trigger, "\u{feff}{\"part_id\":\"P1\"}").unwrap();
        let Command::Trigger(request) = marked.command else { panic!("{:?}", marked.command) };
        assert_eq!(request.trigger.part_id.as_deref(), Some("P1"));
        let wide: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(body(&wide).unwrap_err().to_string().contains("UTF-16"));
    }

    #[test]
    fn other_commands() {
        assert_eq!(order(Verb::Pause, "").unwrap().command, Command::Pause { camera: None });
        let resume = order(Verb::Resume, r#"{"camera":"c"}"#).unwrap().command;
        assert_eq!(resume, Command::Resume { camera: Some("c".into()) });
        assert_eq!(order(Verb::Retry, "").unwrap().command, Command::Retry);
        assert!(order(Verb::Retry, r#"{"camera":"c"}"#).is_err());
        let pipeline = order(Verb::Pipeline, r#"{"pipeline":"plate","correlation_id":"x"}"#).unwrap();
        assert_eq!(pipeline.correlation_id.as_deref(), Some("x"));
        assert_eq!(pipeline.command, Command::Pipeline { camera: None, pipeline: "plate".into() });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"part_id":"{}"}}"#, "x".repeat(300));
        let huge = format!("{{{}}}", " ".repeat(BYTES_MAX));
        let many: Vec<String> = (0..=EXPECTED_MAX).map(|i| format!("\"k{i}\":\"v\"")).collect();
        let many = format!(r#"{{"expected":{{{}}}}}"#, many.join(","));
        for (verb, payload, words) in [
            (Verb::Trigger, "[]", "payload"),
            (Verb::Trigger, "{\"part\":", "payload"),
            (Verb::Trigger, "{\"bogus\":\"x\"}", "unknown field"),
            (Verb::Trigger, long.as_str(), "part_id: a text of 300 bytes"),
            (Verb::Trigger, huge.as_str(), "16386 bytes"),
            (Verb::Trigger, many.as_str(), "33 expected values"),
            (Verb::Trigger, "{\"lot\":\"a\\u0000b\"}", "lot = \"a\\0b\""),
            (Verb::Trigger, "{\"lot\":\"a\\n\"}", "lot = \"a\\n\""),
            (Verb::Trigger, "{\"deadline_ms\":0}", "deadline_ms = 0"),
            (Verb::Trigger, "{\"pipeline\":\"x\"}", "only it"),
            (Verb::Trigger, "{\"camera\":\"c\",\"part\":\"p\"}", "one of them"),
            (Verb::Pause, "{\"part\":\"x\"}", "mean nothing"),
            (Verb::Pause, "{\"lot\":\"x\"}", "mean nothing"),
            (Verb::Pause, "{\"pipeline\":\"x\"}", "only it"),
            (Verb::Pipeline, "{}", "needs"),
        ] {
            let refusal = order(verb, payload).unwrap_err();
            assert_eq!(refusal.code(), "malformed");
            assert!(refusal.to_string().contains(words), "{verb:?} {payload}: {refusal}");
        }
    }

    #[test]
    fn every_verb_has_its_word_and_others_are_refused_with_the_known() {
        for verb in Verb::ALL {
            assert_eq!(Verb::parse(verb.as_str()), Ok(verb));
        }
        let refusal = Verb::parse("reboot").unwrap_err().to_string();
        assert!(refusal.contains("\"reboot\"") && refusal.contains("trigger, pipeline, pause, resume"));
    }
}
