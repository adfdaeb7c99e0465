//! The engine room: jobs with deadlines in, answers out one by one.
//!
//! ```text
//! line, review, guests, replay --submit--> scheduler (a thread) --Backend--> child: a process with the model, or
//!                              <--answers, in whatever order they come--'    cluster: servers with it
//!                                                                            mixed: both, each in part
//! ```
//!
//! The room knows nothing of inspection: a job is pictures and questions, and what an answer means is its asker's
//! business. A backend is what answers: a process of its own ([`child`]), which may hang, crash and be killed, or other
//! machines ([`cluster`]), which may do the same, or both ([`mixed`]).
//!
//! Invariants:
//! - Every job is answered exactly once: with what the model said, or with the reason why it said nothing. What it says
//!   is heard before, where somebody wants to hear it.
//! - A backend is asked nothing that it cannot answer.
//! - The line goes first, in it the job whose deadline comes first.
//! - A job is stopped at its deadline, wherever it is.

mod abilities;
pub mod child;
pub mod cluster;
mod mixed;
mod scheduler;

pub use abilities::{Abilities, Forms};
pub use mixed::{Mixed, MixedVlm, marks_of_both};
pub use scheduler::{Answer, Engine, Event, Order, OrderId, Reply};

use std::fmt::Debug;
use std::time::Duration;
use vlm::{Answered, Completion, Delta, Job, ModelInfo, Rank, VlmError};

/// Wait before the second new start in a row, doubled with every further one.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_mins(1);

/// What a job is for, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A part waits for its verdict.
    Line,
    /// A person waits.
    Review,
    /// Somebody else's question.
    Guest,
    /// What is done when nobody waits: replays, learning.
    Replay,
}

impl Class {
    /// The most urgent first.
    pub const ALL: [Self; 4] = [Self::Line, Self::Review, Self::Guest, Self::Replay];
}

/// Whether a backend can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It takes jobs.
    Ready,
    /// Not yet, for this reason, or not any more until somebody wants it.
    Coming {
        /// In words, for the page and for messages.
        why: String,
    },
    /// Not before this time has passed, for this reason.
    Resting {
        /// From now to the next start.
        left: Duration,
        /// How the last start or process ended, in words.
        why: String,
    },
}

/// What answers jobs.
pub trait Backend: Send {
    /// Name and hashes of the model; empty until it was first there.
    fn identity(&self) -> &ModelInfo;

    /// What it can answer, whichever model it has.
    fn abilities(&self) -> &Abilities;

    /// Whether it takes jobs now.
    fn readiness(&self) -> Readiness;

    /// What the station says about it.
    fn health(&self) -> &Health;

    /// Starts that failed and losses so far.
    fn failures(&self) -> u64;

    /// The process that holds the model, if there is one.
    fn pid(&self) -> Option<u32>;

    /// Takes a job in; only while it is ready, under an id that no other job under way has.
    fn submit(&mut self, id: u64, rank: Rank, job: Job);

    /// Stops a job, which is answered with what is complete.
    fn cancel(&mut self, id: u64);

    /// Waits at most `wait` and goes on with whatever is to be done; what was answered is added to `out`. `wanted` says
    /// that somebody would ask it. When it is lost, all of its jobs are answered [`VlmError::Lost`].
    fn next(&mut self, wait: Duration, wanted: bool, out: &mut Vec<Answered>);

    /// Adds what streamed answers have said since the last call to `out`: in their order, and all of an answer before
    /// it comes out of `next`.
    fn deltas(&mut self, _out: &mut Vec<Delta>) {}
}

/// What the station says about a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Processes that were lost since the start: hung, crashed, or spoke garbage.
    pub losses: u64,
    /// Why there is no engine now, or why the last one was lost, until a job is answered.
    pub fault: Option<String>,
    /// Why the files that are there now are not accepted, until a model is let in.
    pub refused: Option<String>,
    /// The last proof that held: known pictures, and milliseconds that they took.
    pub proof: Option<(usize, u64)>,
}

/// Why there is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum EngineError {
    /// The process cannot be started at all.
    #[error("the engine's process: {why}")]
    Start { why: String },
    /// The model cannot be loaded, or its process ended while loading.
    #[error("{why}")]
    Load { why: String },
    /// It took longer than anything that will still come.
    #[error("the model was not loaded after {waited_s} s")]
    TooSlow { waited_s: u64 },
    /// Nobody waits for it any more.
    #[error("the load was given up")]
    GivenUp,
    /// The model's files are not those that were accepted.
    #[error("{why}")]
    NotAccepted { why: String },
    /// The model does not answer known pictures as it must, or cannot be asked.
    #[error("{why}")]
    NotProven { why: String },
}

/// Who lets a loaded model in.
pub trait Admission: Send + Sync + Debug {
    /// What the model must answer before it is asked anything else.
    ///
    /// # Errors
    /// It must not answer at all.
    fn admit(&self, model: &ModelInfo) -> Result<Box<dyn Trial>, Refused>;
}

/// What a loaded model must answer before it is let in.
pub trait Trial: Send {
    /// The jobs; none: it is let in at once.
    fn jobs(&self) -> Vec<Job>;

    /// What the answers to all jobs, in their order, say about the model.
    ///
    /// # Errors
    /// What speaks against it, in words.
    fn judge(&mut self, answers: Vec<Vec<Result<Completion, VlmError>>>) -> Result<(), String>;
}

/// Why a loaded model must not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum Refused {
    /// Its files are not those that were accepted.
    #[error("{why}")]
    NotAccepted { why: String },
    /// It cannot be proven.
    #[error("{why}")]
    NoProof { why: String },
}

/// The wait of a process or a server that has failed so often in a row: nothing before the first new start, then doubling.
fn rest(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => REST_FIRST.saturating_mul(1 << (n - 1).min(16)).min(REST_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_new_start_comes_at_once_and_the_wait_has_its_limit() {
        assert_eq!(rest(0), Duration::ZERO);
        assert_eq!((rest(1), rest(2), rest(3)), (REST_FIRST, REST_FIRST * 2, REST_FIRST * 4));
        assert!((0..200).all(|n| rest(n) <= REST_MAX));
    }
}
