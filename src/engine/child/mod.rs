//! The backend that is a process of its own: started, proven, asked, killed when it hangs, started again.
//!
//! ```text
//!          somebody wants it                Ready, admitted     it held
//! Absent ------------------------> Loading ------> Proving ------> Here --idle for long enough--> Absent
//!    ^                                |               |              |
//!    '--the wait is over-- Resting <--'---------------'--------------'
//!           failed, ended, too slow, other files   it did not hold    lost: hung, crashed, spoke garbage
//! ```
//!
//! A process, because nothing else survives a hang, a crash in native code and a heap that is
//! corrupt, and because its end gives all memory back. The pictures of a frame of five megapixels
//! take about ten milliseconds through the socket.
//!
//! Invariants:
//! - No call waits much longer than it was told to, whatever the process does; only what is sent to it may take the
//!   grace.
//! - Every load is proven anew: the files may have changed since, on purpose or by a failing disk.
//! - A loss is counted and shown, and all jobs are answered with it; the first new start comes at once, further ones
//!   after a wait that doubles, until a job is answered.

mod remote;
pub mod serve;
pub(crate) mod wire;

use super::{Abilities, Admission, Backend, EngineError, Forms, Health, Readiness, Refused, Trial, rest};
use crate::ipc::{self, IpcError, Program};
use remote::{Loading, Remote};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vlm::{Answered, Completion, Delta, Ground, Job, ModelInfo, Rank, Timing, VlmError};

/// What the engine in its process can answer.
pub const ABILITIES: Abilities = Abilities {
    forms: Forms { defects: true, lines: true, schema: true, lark: true, cells: true },
    ground: Ground::Constrained,
    images_max: 64,
    pixel_bytes_max: wire::PIXEL_BYTES_MAX,
    clips: true,
    conversations: true,
    adapters: true,
    streams: true,
    prefix_cache: true,
};

/// From the deadline of a job to the moment when a silent engine counts as hung.
pub const GRACE: Duration = Duration::from_secs(1);

/// A model that is not loaded after so long never will be.
pub const LOAD_MAX: Duration = Duration::from_mins(30);

/// A model that has not answered its known pictures after so long will not keep up with any line.
const PROOF_MAX: Duration = Duration::from_mins(10);

/// How often a call that waits for the model shows life.
const POLL: Duration = Duration::from_millis(50);

/// How the engine is run.
#[derive(Clone, Debug)]
pub struct ChildOptions {
    /// This same binary, told to serve.
    pub program: Program,
    /// The process ends after so long without work; `None`: never.
    pub unload_after_idle: Option<Duration>,
    /// Past a job's deadline by so much a silent process counts as hung: `GRACE`.
    pub grace: Duration,
    /// A load that takes longer has failed: `LOAD_MAX`.
    pub load_max: Duration,
    /// Who lets a loaded model in.
    pub admission: Arc<dyn Admission>,
}

impl ChildOptions {
    /// The usual limits.
    pub fn new(program: Program, unload_after_idle: Option<Duration>, admission: Arc<dyn Admission>) -> Self {
        Self { program, unload_after_idle, grace: GRACE, load_max: LOAD_MAX, admission }
    }
}

enum State {
    Absent,
    Loading { remote: Remote, since: Instant },
    Proving(Proving),
    Here(Remote),
    Resting { until: Instant },
}

/// An engine that answers what it must before it is let in.
struct Proving {
    remote: Remote,
    trial: Box<dyn Trial>,
    since: Instant,
    /// By the number of the job.
    answers: BTreeMap<u64, Vec<Result<Completion, VlmError>>>,
    asked: usize,
}

/// The engine's process, there or not.
pub struct Child {
    options: ChildOptions,
    state: State,
    last_work: Instant,
    info: ModelInfo,
    /// Failed starts and losses in a row, and of all time.
    failures: u32,
    failed: u64,
    /// It was lost, and is to come back although nobody asks.
    lost: bool,
    health: Health,
    /// Answers of jobs that will not be answered any more.
    orphans: Vec<Answered>,
}

impl Child {
    /// A backend without its process.
    pub fn new(options: ChildOptions) -> Self {
        Self {
            options,
            state: State::Absent,
            last_work: Instant::now(),
            info: ModelInfo::default(),
            failures: 0,
            failed: 0,
            lost: false,
            health: Health::default(),
            orphans: vec![],
        }
    }

    /// Starts the process and waits until its model is let in, as long as that takes; `alive` is called
    /// meanwhile whenever the process has computed or read, so that a load that hangs shows no life. `go_on` is
    /// asked again and again; once it says no, the process is killed.
    ///
    /// # Errors
    /// The first failure: at the start of the daemon a bad model must stop it. `GivenUp` when `go_on` says no.
    pub fn load(&mut self, alive: &dyn Fn(), go_on: &dyn Fn() -> bool) -> Result<&ModelInfo, EngineError> {
        let mut seen = None;
        loop {
            let activity = self.pid().and_then(ipc::activity);
            if activity.is_some() && activity != seen {
                alive();
            }
            seen = activity;
            if !go_on() {
                self.state = State::Absent;
                return Err(EngineError::GivenUp);
            }
            if let Err(error) = self.step(POLL, true) {
                // What ends this process may have ended the engine's before.
                return Err(if go_on() { error } else { EngineError::GivenUp });
            }
            if matches!(self.state, State::Here(_)) {
                return Ok(&self.info);
            }
        }
    }

    /// One step towards a process that is here; waits at most `wait`.
    fn step(&mut self, wait: Duration, wanted: bool) -> Result<(), EngineError> {
        self.state = match std::mem::replace(&mut self.state, State::Absent) {
            State::Absent if wanted => match Remote::start(&self.options.program, self.options.grace) {
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
            State::Proving(proving) => self.prove(proving, wait)?,
            State::Resting { until } if Instant::now() >= until => State::Absent,
            State::Resting { until } => {
                std::thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
                State::Resting { until }
            }
            state @ (State::Absent | State::Here(_)) => state,
        };
        Ok(())
    }

    /// A model that is loaded: may it answer, and what must it answer first?
    fn admit(&mut self, mut remote: Remote) -> Result<State, EngineError> {
        if self.info == ModelInfo::default() {
            // Reviews name the model that was there, as long as none was let in.
            self.info = remote.info().clone();
        }
        let trial = match self.options.admission.admit(remote.info()) {
            Ok(trial) => trial,
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
        let jobs = trial.jobs();
        for (id, job) in jobs.iter().enumerate() {
            if let Err(why) = remote.submit(id as u64, Rank::default(), job) {
                return Err(self.not_proven(why, true));
            }
        }
        let answers = BTreeMap::new();
        let proving = Proving { remote, trial, since: Instant::now(), answers, asked: jobs.len() };
        self.prove(proving, Duration::ZERO)
    }

    /// Takes answers to the known pictures in; with the last one it is let in, or not.
    fn prove(&mut self, mut proving: Proving, wait: Duration) -> Result<State, EngineError> {
        if proving.answers.len() < proving.asked {
            let mut came = vec![];
            if let Err(why) = proving.remote.next(wait, &mut came) {
                return Err(self.not_proven(why, true));
            }
            proving.answers.extend(came.into_iter().map(|a| (a.id, a.answers)));
            if proving.since.elapsed() > PROOF_MAX {
                let why = format!("its known pictures were not answered after {} s", PROOF_MAX.as_secs());
                return Err(self.not_proven(why, true));
            }
            if proving.answers.len() < proving.asked {
                return Ok(State::Proving(proving));
            }
        }
        let Proving { remote, mut trial, since, answers, asked } = proving;
        if let Err(why) = trial.judge(answers.into_values().collect()) {
            return Err(self.not_proven(why, false));
        }
        self.info = remote.info().clone();
        let ms = since.elapsed().as_millis() as u64;
        tracing::info!(model = %self.info.name, pictures = asked, ms, "the model is let in");
        if self.health.refused.take().is_some() {
            self.health.fault = None;
        }
        self.health.proof = Some((asked, ms));
        self.lost = false;
        self.last_work = Instant::now();
        Ok(State::Here(remote))
    }

    fn not_proven(&mut self, why: String, lost: bool) -> EngineError {
        self.health.losses += u64::from(lost);
        self.fail(&why);
        EngineError::NotProven { why }
    }

    fn start_failed(&mut self, error: &IpcError) -> EngineError {
        let error = EngineError::Start { why: error.to_string() };
        self.fail(&error.to_string());
        error
    }

    /// The process is lost, and with it the answers to all jobs.
    fn lose(&mut self, why: &str) {
        if let State::Here(remote) = &self.state {
            let lost = || VlmError::Lost { why: why.to_owned() };
            let orphan = |(id, questions)| Answered {
                id,
                answers: (0..questions).map(|_| Err(lost())).collect(),
                timing: Timing::default(),
            };
            self.orphans.extend(remote.owed().map(orphan));
        }
        self.health.losses += 1;
        self.fail(why);
    }

    /// Drops the process, which kills it, and rests.
    fn fail(&mut self, why: &str) {
        tracing::error!(why, losses = self.health.losses, "the engine is lost");
        self.health.fault = Some(why.to_owned());
        self.health.refused = None;
        (self.lost, self.failed) = (true, self.failed + 1);
        self.state = State::Resting { until: Instant::now() + rest(self.failures) };
        self.failures = self.failures.saturating_add(1);
    }

    /// Why it is not here.
    fn why(&self) -> String {
        if let Some(why) = &self.health.refused {
            return why.clone();
        }
        match &self.state {
            State::Proving(_) => "the model is still answering known pictures".to_owned(),
            State::Resting { .. } => {
                let fault = self.health.fault.as_deref().unwrap_or("it was lost");
                format!("the engine waits before it is started again: {fault}")
            }
            _ => "the model is still being loaded".to_owned(),
        }
    }
}

impl Backend for Child {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &ABILITIES
    }

    fn readiness(&self) -> Readiness {
        match &self.state {
            State::Here(_) => Readiness::Ready,
            State::Resting { until } => {
                let left = until.saturating_duration_since(Instant::now());
                Readiness::Resting { left, why: self.why() }
            }
            State::Absent | State::Loading { .. } | State::Proving(_) => {
                Readiness::Coming { why: self.why() }
            }
        }
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        self.failed
    }

    fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Here(remote) | State::Loading { remote, .. } => Some(remote.pid()),
            State::Proving(proving) => Some(proving.remote.pid()),
            State::Absent | State::Resting { .. } => None,
        }
    }

    fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        let State::Here(remote) = &mut self.state else {
            let lost = || Err(VlmError::Lost { why: self.why() });
            let answers = job.asks.iter().map(|_| lost()).collect();
            return self.orphans.push(Answered { id, answers, timing: Timing::default() });
        };
        self.last_work = Instant::now();
        if let Err(why) = remote.submit(id, rank, &job) {
            self.lose(&why);
        }
    }

    fn cancel(&mut self, id: u64) {
        let State::Here(remote) = &mut self.state else { return };
        if let Err(why) = remote.stop(id) {
            self.lose(&why);
        }
    }

    fn next(&mut self, wait: Duration, wanted: bool, out: &mut Vec<Answered>) {
        if let State::Here(remote) = &mut self.state {
            let before = out.len();
            match remote.next(wait, out) {
                Err(why) => self.lose(&why),
                Ok(()) if out.len() > before => {
                    self.last_work = Instant::now();
                    self.failures = 0;
                    self.health.fault = None;
                }
                Ok(()) if wanted => {}
                Ok(()) => {
                    let limit = self.options.unload_after_idle;
                    if limit.is_some_and(|limit| self.last_work.elapsed() >= limit) {
                        tracing::info!("the model had no work: its process ends");
                        self.state = State::Absent;
                    }
                }
            }
        } else {
            // Its failure is shown by `health`.
            let _ = self.step(wait, wanted || self.lost);
        }
        out.append(&mut self.orphans);
    }

    fn deltas(&mut self, out: &mut Vec<Delta>) {
        if let State::Here(remote) = &mut self.state {
            remote.deltas(out);
        }
    }
}

#[cfg(test)]
mod beside_tests;
