//! JSON schemas of others, tried in a process of their own before the engine compiles them.
//!
//! ```text
//! schema --new--> inspectd try-schema --compiles it as the engine will--> fine, or why not
//!            '--known: the same as before      '--CPU_MAX or MEMORY_MAX: killed, and the schema refused
//! ```
//!
//! Two kB of schema can take hours and all memory of the box to compile (thirty steps of `allOf` with two references each),
//! and the library's own limits do not see it. Nothing but a process can be ended at any point, and the engine's is the
//! line's.

use crate::ipc::{Channel, Child, IpcError, Program, Usage};
use crate::store::images::{Digest, sha256};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vlm::form::{Form, factory_of_bytes};

/// What a schema may take to compile. The process itself takes 0.2 s of an EPYC's core to start, which is not counted.
const CPU_MAX: Duration = Duration::from_secs(1);
const MEMORY_MAX: u64 = 256 << 20;
/// On a box without an idle moment the processor's time does not come.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// How often it is looked at what the process has taken.
const LOOK: Duration = Duration::from_millis(5);
/// Schemas of which it is known what came of them, the latest.
const KNOWN_MAX: usize = 64;
/// Longest message either way.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel ends this process before every other when memory ends.
const OOM_SCORE_ADJ: &str = "1000";

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// It begins to compile.
    Started,
    /// What came of the schema.
    Tried {
        /// Why it is refused.
        refused: Option<String>,
    },
}

/// Tries schemas, one after the other.
pub(super) struct Schemas {
    program: Program,
    known: Mutex<VecDeque<(Digest, Option<String>)>>,
    trying: Mutex<()>,
}

impl Schemas {
    /// Tries them in processes of this program.
    pub(super) fn new(program: Program) -> Self {
        Self { program, known: Mutex::default(), trying: Mutex::default() }
    }

    /// Why the engine cannot compile a schema; `None`: it can.
    ///
    /// # Errors
    /// It could not be tried, which says nothing of it: the box has no process or no time for it.
    pub(super) fn refusal(&self, schema: &str) -> Result<Option<String>, String> {
        let hash = sha256(schema.as_bytes());
        let _turn = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().iter().find(|(other, _)| *other == hash).map(|(_, refused)| refused.clone());
        if let Some(refused) = found {
            return Ok(refused);
        }
        let refused = self.tried(schema)?;
        let mut known = known();
        known.truncate(KNOWN_MAX - 1);
        known.push_front((hash, refused.clone()));
        Ok(refused)
    }

    fn tried(&self, schema: &str) -> Result<Option<String>, String> {
        let failed = |error: IpcError| format!("the schema cannot be tried: {error}");
        let mut child = Child::spawn(&self.program).map_err(failed)?;
        child.channel.send(&(), &[schema.as_bytes()], PATIENCE).map_err(failed)?;
        let (began, mut start) = (Instant::now(), None);
        loop {
            match child.channel.recv(LOOK, PATIENCE).map_err(failed)? {
                Some((Said::Started, _)) => start = Some(child.usage().cpu),
                Some((Said::Tried { refused }, _)) => return Ok(refused),
                None => {}
            }
            let Usage { cpu, memory } = child.usage();
            if start.is_some_and(|start| cpu > start + CPU_MAX) || memory > MEMORY_MAX {
                let (seconds, mb) = (CPU_MAX.as_secs(), MEMORY_MAX >> 20);
                return Ok(Some(format!("compiling the schema takes more than {seconds} s or {mb} MiB")));
            }
            if began.elapsed() > WAIT_MAX {
                return Err(format!("the schema was not compiled within {} s", WAIT_MAX.as_secs()));
            }
        }
    }
}

/// What the process does: compiles one schema, and says what came of it.
///
/// # Errors
/// The daemon is gone.
pub(crate) fn try_one(mut channel: Channel) -> Result<(), IpcError> {
    // A sandbox may forbid it.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let Some(((), schema)) = channel.recv(PATIENCE, PATIENCE)? else { return Ok(()) };
    channel.send(&Said::Started, &[], PATIENCE)?;
    let form = Form::Schema(String::from_utf8_lossy(&schema).into());
    let refused = factory_of_bytes().and_then(|factory| form.matcher(&factory)).err();
    channel.send(&Said::Tried { refused }, &[], PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CHILD: &str = "INSPECTD_TEST_SCHEMAS_CHILD";

    /// The process that tries one: this test in a process of its own.
    #[test]
    fn child() {
        if std::env::var(CHILD).is_ok() {
            try_one(Channel::of_this_process().unwrap()).unwrap();
        }
    }

    fn schemas() -> Schemas {
        let mut program = Program::new(["--exact", "daemon::schemas::tests::child", "--nocapture"]);
        program.env.push((CHILD.into(), "1".into()));
        Schemas::new(program)
    }

    /// `steps` definitions, each of two references to the next one.
    fn doubled(kind: &str, steps: usize) -> Value {
        let next = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        let mut of: serde_json::Map<_, _> =
            (0..steps).map(|i| (format!("d{i}"), json!({ kind: [next(i), next(i)] }))).collect();
        of.insert(format!("d{steps}"), json!({ "type": "string", "pattern": "a.*b" }));
        json!({ "$ref": "#/$defs/d0", "$defs": of })
    }

    #[test]
    fn schemas_of_every_day_are_fine_and_what_cannot_be_compiled_has_its_reason() {
        let schemas = schemas();
        for good in [json!({ "type": "object" }), json!({ "enum": ["pit", "stain"] }), doubled("anyOf", 30)] {
            assert_eq!(schemas.refusal(&good.to_string()), Ok(None));
        }
        for (bad, word) in [
            (json!({ "type": "string", "pattern": "(" }), "regex"),
            (json!({ "not": { "type": "string" } }), "not"),
            (json!({ "$ref": "#/$defs/nowhere" }), "nowhere"),
        ] {
            let why = schemas.refusal(&bad.to_string()).unwrap().unwrap();
            assert!(why.contains(word), "{why}");
            assert_eq!(schemas.refusal(&bad.to_string()), Ok(Some(why)), "it is known");
        }
        assert_eq!(schemas.known.lock().unwrap().len(), 6);
    }

    #[test]
    fn a_schema_that_could_not_be_tried_is_not_refused_for_it() {
        // The process ends without a word.
        let schemas = Schemas::new(Program::new(["--exact", "daemon::schemas::tests::child"]));
        assert!(schemas.refusal("{}").unwrap_err().contains("cannot be tried"));
        assert!(schemas.known.lock().unwrap().is_empty());
    }

    /// Hours and hundreds of GB, and a minute: neither is waited for.
    #[test]
    fn a_schema_that_would_take_the_box_is_refused() {
        let schemas = schemas();
        let numbers = json!({ "type": "integer", "multipleOf": 9_999_991 });
        for costly in [doubled("allOf", 30), numbers] {
            let why = schemas.refusal(&costly.to_string()).unwrap().unwrap();
            assert!(why.contains("takes more than"), "{why}");
        }
    }
}
