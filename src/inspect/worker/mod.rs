//! The one owner of the engine, which lives in a process of its own: starts it, gives it work, kills
//! it when it hangs, starts it again.
//!
//!              work, or `tend` after a loss       Ready, admitted     it held
//!     Absent ------------------------------> Loading ------> Proving ------> Here --idle for long enough--> Absent
//!        ^                                      |               |              |
//!        '--the wait is over-- Resting <--------'---------------'--------------'
//!               failed, ended, too slow, other files   it did not hold    lost: hung, crashed, spoke garbage
//!
//! A process, because nothing else survives a hang, a crash in native code and a heap that is
//! corrupt, and because its end gives all memory back. The pictures of a frame of five megapixels
//! take about ten milliseconds through the socket.
//!
//! Invariants:
//! - No call waits beyond the deadline of its work and the grace, whatever the engine does; a model
//!   that takes minutes to load or to prove does not hold up the line, whose frames become reviews meanwhile.
//! - Every load is proven anew (`proof`): the files may have changed since, on purpose or by a failing disk.
//! - While frames are inspected `alive` is called all the while, so that a slow engine never looks like a
//!   stalled line; at the first load only while the engine's process works, so that a hung one does.
//! - A loss is counted and told; the first new start comes at once, further ones after a wait that
//!   doubles, until an inspection succeeds.

mod proving;
mod remote;
pub mod serve;
pub mod wire;

use super::proof::{ByNamedProof, Gate, Refused};
use super::{inspect_all, uninspected, Work};
use crate::domain::grade::Reason;
use crate::domain::inspection::Inspection;
use crate::ipc::{self, IpcError, Program};
use crate::vlm::{ModelInfo, Vlm as _};
use proving::{Proven, Proving};
use remote::{Loading, Remote};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the moment when all frames are late to the moment when a silent engine counts as hung.
pub const GRACE: Duration = Duration::from_secs(1);

/// A model that is not loaded after so long never will be.
pub const LOAD_MAX: Duration = Duration::from_secs(30 * 60);

/// Wait before the second new start in a row, doubled with every further one.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// How often a call that waits for the model shows life.
const POLL: Duration = Duration::from_millis(50);

/// How the engine is run.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// This same binary, told to serve.
    pub program: Program,
    /// The process ends after so long without work; `None`: never.
    pub unload_after_idle: Option<Duration>,
    pub grace: Duration,
    pub load_max: Duration,
    /// Who lets a loaded model in.
    pub gate: Arc<dyn Gate>,
}

impl WorkerOptions {
    /// The usual limits; any model is let in that gives the proof which it names.
    pub fn new(program: Program, unload_after_idle: Option<Duration>) -> Self {
        Self { program, unload_after_idle, grace: GRACE, load_max: LOAD_MAX, gate: Arc::new(ByNamedProof) }
    }
}

/// Why there is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The model's files are not those that were accepted.
    #[error("{why}")]
    NotAccepted { why: String },
    /// The model does not answer known pictures as it must, or cannot be asked.
    #[error("{why}")]
    NotProven { why: String },
}

/// What the station tells about the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Processes that were lost since the start: hung, crashed, or spoke garbage.
    pub losses: u64,
    /// Why there is no engine now, or why the last one was lost, until an inspection succeeds.
    pub fault: Option<String>,
    /// Why the files that are there now are not accepted, until a model is let in.
    pub refused: Option<String>,
    /// The last proof that held: known pictures, and milliseconds that they took.
    pub proof: Option<(usize, u64)>,
}

enum State {
    Absent,
    Loading { remote: Remote, since: Instant },
    Proving(Proving),
    Here(Remote),
    Resting { until: Instant },
}

/// The engine, there or not.
pub struct Worker {
    options: WorkerOptions,
    state: State,
    last_work: Instant,
    info: ModelInfo,
    /// Failed starts and losses in a row.
    failures: u32,
    health: Health,
}

impl Worker {
    /// A worker without its engine.
    pub fn new(options: WorkerOptions) -> Self {
        Self {
            options,
            state: State::Absent,
            last_work: Instant::now(),
            info: ModelInfo::default(),
            failures: 0,
            health: Health::default(),
        }
    }

    /// Starts the engine and waits until its model is loaded, as long as that takes; `alive` is called
    /// meanwhile whenever the engine's process has computed or read, so that a load that hangs shows no life.
    ///
    /// # Errors
    /// The first failure: at the start of the daemon a bad model must stop it.
    pub fn load(&mut self, alive: &dyn Fn()) -> Result<&ModelInfo, EngineError> {
        let mut seen = None;
        loop {
            let activity = self.pid().and_then(ipc::activity);
            if activity.is_some() && activity != seen {
                alive();
            }
            seen = activity;
            match self.step(POLL) {
                Err(error) => return Err(error),
                Ok(()) if matches!(self.state, State::Here(_)) => return Ok(&self.info),
                Ok(()) => {}
            }
        }
    }

    /// Name and hashes of the model; empty until it was first loaded.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The process that holds the model, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Here(remote) | State::Loading { remote, .. } => Some(remote.pid()),
            State::Proving(proving) => Some(proving.pid()),
            State::Absent | State::Resting { .. } => None,
        }
    }

    /// What the station tells about the engine.
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Inspects frames together; starts the engine when it is not there. `alive` is called all the
    /// while.
    pub fn inspect(&mut self, work: &[Work<'_>], alive: &(dyn Fn() + Sync)) -> Vec<Inspection> {
        let in_time = || work.iter().any(|w| w.frame.captured.elapsed() < w.deadline());
        while !matches!(self.state, State::Here(_)) {
            alive();
            let error = match &self.state {
                // Waiting is only of use when the wait ends before everybody is late.
                State::Resting { until } if !ends_in_time(*until, work) => self.resting(),
                _ if !in_time() => Some(self.not_here_yet()),
                _ => self.step(POLL).err().map(|e| e.to_string()),
            };
            if let Some(message) = error {
                let fault = || Reason::Engine { message: message.clone() };
                return work.iter().map(|w| uninspected(w.frame, w.pipeline, &self.info, fault())).collect();
            }
        }
        let State::Here(remote) = &mut self.state else { return vec![] };
        let done = inspect_all(remote, work, alive);
        let lost = remote.lost().map(str::to_owned);
        self.last_work = Instant::now();
        match lost {
            Some(why) => {
                self.health.losses += 1;
                self.fail(&why);
            }
            None if done.engine_broken => self.fail("the line itself panicked at the engine's answers"),
            None => {
                self.failures = 0;
                self.health.fault = None;
            }
        }
        done.inspections
    }

    /// What is to be done without work: a lost engine is started again, so that the next frame finds
    /// its model loaded, and an idle one ends; true when it just did.
    pub fn tend(&mut self) -> bool {
        match &self.state {
            State::Absent => false,
            State::Here(_) => {
                let limit = self.options.unload_after_idle;
                let idle = limit.is_some_and(|limit| self.last_work.elapsed() >= limit);
                if idle {
                    self.state = State::Absent;
                }
                idle
            }
            State::Loading { .. } | State::Proving(_) | State::Resting { .. } => {
                // Its failure is told by `health`.
                let _ = self.step(Duration::ZERO);
                false
            }
        }
    }

    /// One step towards an engine that is here; waits at most `wait`.
    fn step(&mut self, wait: Duration) -> Result<(), EngineError> {
        self.state = match std::mem::replace(&mut self.state, State::Absent) {
            State::Absent => match Remote::start(&self.options.program, self.options.grace) {
                Ok(remote) => State::Loading { remote, since: Instant::now() },
                Err(error) => return Err(self.start_failed(&error)),
            },
            State::Loading { mut remote, since } => match remote.poll_ready(wait) {
                Loading::Ready => self.admit(remote)?,
                Loading::NotYet if since.elapsed() <= self.options.load_max => {
                    State::Loading { remote, since }
                }
                Loading::NotYet => {
                    let error = EngineError::TooSlow { waited_s: since.elapsed().as_secs() };
                    self.fail(&error.to_string());
                    return Err(error);
                }
                Loading::Failed(why) => {
                    self.fail(&why);
                    return Err(EngineError::Load { why });
                }
            },
            State::Proving(mut proving) => match proving.poll(wait) {
                None => State::Proving(proving),
                Some(proven) => self.judge(proven)?,
            },
            State::Resting { until } if Instant::now() >= until => State::Absent,
            State::Resting { until } => {
                std::thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
                State::Resting { until }
            }
            State::Here(remote) => State::Here(remote),
        };
        Ok(())
    }

    /// A model that is loaded: may it answer, and what must it answer first?
    fn admit(&mut self, remote: Remote) -> Result<State, EngineError> {
        if self.info == ModelInfo::default() {
            // Reviews name the model that was there, as long as none was let in.
            self.info = remote.info().clone();
        }
        let proof = match self.options.gate.admit(remote.info()) {
            Ok(proof) => proof,
            Err(refused) => {
                let why = refused.to_string();
                self.fail(&why);
                return Err(match refused {
                    Refused::NotAccepted { .. } => {
                        self.health.refused = Some(why.clone());
                        EngineError::NotAccepted { why }
                    }
                    Refused::NoProof { .. } => EngineError::NotProven { why },
                });
            }
        };
        if proof.known.is_empty() {
            return Ok(self.let_in(Proven { remote, proof, outcomes: vec![], took: Duration::ZERO }));
        }
        match Proving::start(remote, proof) {
            Ok(proving) => Ok(State::Proving(proving)),
            Err(error) => Err(self.start_failed(&IpcError::Spawn { source: error })),
        }
    }

    /// What came of the proof.
    fn judge(&mut self, proven: Result<Proven, String>) -> Result<State, EngineError> {
        let lost = |proven: Proven| match proven.remote.lost() {
            Some(why) => Err(why.to_owned()),
            None => Ok(proven),
        };
        let judged = match proven.and_then(lost) {
            Ok(proven) => super::proof::judge(&proven.proof, &proven.outcomes).map(|()| proven),
            Err(why) => {
                self.health.losses += 1;
                Err(why)
            }
        };
        match judged {
            Ok(proven) => Ok(self.let_in(proven)),
            Err(why) => {
                self.fail(&why);
                Err(EngineError::NotProven { why })
            }
        }
    }

    /// From now on it answers the line.
    fn let_in(&mut self, proven: Proven) -> State {
        let Proven { remote, proof, outcomes, took } = proven;
        self.info = remote.info().clone();
        self.options.gate.proven(&self.info, &proof, &outcomes);
        let ms = took.as_millis() as u64;
        tracing::info!(model = %self.info.name, pictures = proof.known.len(), ms, "the model is let in");
        if self.health.refused.take().is_some() {
            self.health.fault = None;
        }
        self.health.proof = Some((proof.known.len(), ms));
        self.last_work = Instant::now();
        State::Here(remote)
    }

    fn not_here_yet(&self) -> String {
        match (&self.health.refused, &self.state) {
            (Some(why), _) => why.clone(),
            (None, State::Proving(_)) => "the model is still answering known pictures".to_owned(),
            (None, _) => "the model is still being loaded".to_owned(),
        }
    }

    fn start_failed(&mut self, error: &IpcError) -> EngineError {
        let error = EngineError::Start { why: error.to_string() };
        self.fail(&error.to_string());
        error
    }

    fn resting(&self) -> Option<String> {
        if let Some(why) = &self.health.refused {
            return Some(why.clone());
        }
        let fault = self.health.fault.as_deref().unwrap_or("it was lost");
        Some(format!("the engine waits before it is started again: {fault}"))
    }

    /// Drops the engine, which kills its process, and rests.
    fn fail(&mut self, why: &str) {
        tracing::error!(why, losses = self.health.losses, "the engine is lost");
        self.health.fault = Some(why.to_owned());
        self.health.refused = None;
        self.state = State::Resting { until: Instant::now() + rest(self.failures) };
        self.failures = self.failures.saturating_add(1);
    }
}

/// Nothing before the first new start, then doubling.
fn rest(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => REST_FIRST.saturating_mul(1 << (n - 1).min(16)).min(REST_MAX),
    }
}

fn ends_in_time(at: Instant, work: &[Work<'_>]) -> bool {
    work.iter().any(|w| w.frame.captured.checked_add(w.deadline()).is_none_or(|late| at < late))
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
