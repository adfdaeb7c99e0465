//! The `VisionStateMachine` of one camera: what the line says of it, in the words of OPC 40100-1.
//!
//! ```text
//! Preoperational --> Operational: Initialized <--> Ready <--> SingleExecution
//!   ^    ^    |          |  |                        ^-----> ContinuousExecution
//!   |    |    v          |  v
//!   |    '- Error <------+--'          Halt: from every state but Halted        (the camera is paused)
//!   '------ Halted <-----'             Reset: from every state but Preoperational (resumed, recipe prepared)
//! ```
//!
//! | state | what the line says |
//! | --- | --- |
//! | Preoperational | the camera has not said anything yet |
//! | Error | the camera is in fault: no pictures, no recipe, or the store is full |
//! | Halted | it is paused, by Halt or by anybody else |
//! | Initialized | the recipe was unprepared: this server takes no jobs until one is prepared |
//! | Ready | it waits for a job; a camera that runs by itself was stopped |
//! | `SingleExecution` | a job of this server is under way: its part is accepted and not recorded yet |
//! | `ContinuousExecution` | it takes pictures by itself: interval, free running, line-triggered |
//!
//! Invariants:
//! - The state follows from what the line says and from what this server was told; nobody sets it.
//! - A walk between two states goes by transitions of the standard, each of which is published.
//! - One job at a time; it ends with the inspection that carries its id, and with no other.

use crate::domain::camera::{CameraState, CameraStatus};
use std::collections::{BTreeMap, VecDeque};

/// A state of the standard; those from `Initialized` on are of the automatic mode, within Operational.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    #[default]
    Preoperational,
    Halted,
    Error,
    Initialized,
    Ready,
    SingleExecution,
    ContinuousExecution,
}

impl State {
    /// Its browse name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Preoperational => "Preoperational",
            Self::Halted => "Halted",
            Self::Error => "Error",
            Self::Initialized => "Initialized",
            Self::Ready => "Ready",
            Self::SingleExecution => "SingleExecution",
            Self::ContinuousExecution => "ContinuousExecution",
        }
    }

    /// Whether the automatic mode is active.
    pub(super) const fn is_operational(self) -> bool {
        !matches!(self, Self::Preoperational | Self::Halted | Self::Error)
    }

    /// The browse name in the machine above the automatic mode.
    pub(super) const fn outer(self) -> &'static str {
        if self.is_operational() { "Operational" } else { self.name() }
    }
}

/// What makes a machine walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The line itself.
    Line,
    Halt,
    Reset,
    SelectModeAutomatic,
    PrepareRecipe,
    UnprepareRecipe,
    StartSingleJob,
    StartContinuous,
    Stop,
    Abort,
}

/// A step of a walk: the transition's browse name, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub transition: &'static str,
    pub from: State,
    pub to: State,
}

/// A refusal by the standard: the method does not go in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidState(pub State);

/// The transitions that this server walks: from, to, what causes it, its browse name. `Line`: nothing but the line.
const TRANSITIONS: &[(State, State, Cause, &str)] = {
    use Cause as C;
    use State::{ContinuousExecution, Error, Halted, Initialized, Preoperational, Ready, SingleExecution};
    &[
        (Preoperational, Halted, C::Halt, "PreoperationalToHalted"),
        (Preoperational, Halted, C::Line, "PreoperationalToHaltedAuto"),
        (Preoperational, Error, C::Line, "PreoperationalToErrorAuto"),
        (Preoperational, Initialized, C::SelectModeAutomatic, "PreoperationalToInitialized"),
        (Preoperational, Initialized, C::Line, "PreoperationalToInitializedAuto"),
        (Halted, Preoperational, C::Reset, "HaltedToPreoperational"),
        (Halted, Preoperational, C::Line, "HaltedToPreoperationalAuto"),
        (Error, Preoperational, C::Reset, "ErrorToPreoperational"),
        (Error, Preoperational, C::Line, "ErrorToPreoperationalAuto"),
        (Error, Halted, C::Halt, "ErrorToHalted"),
        (Error, Halted, C::Line, "ErrorToHaltedAuto"),
        (Error, Initialized, C::Line, "ErrorToOperationalAuto"),
        (Initialized, Ready, C::PrepareRecipe, "InitializedToReadyRecipe"),
        (Initialized, Ready, C::Line, "InitializedToReadyAuto"),
        (Ready, Initialized, C::UnprepareRecipe, "ReadyToInitializedRecipe"),
        (Ready, Initialized, C::Line, "ReadyToInitializedAuto"),
        (Ready, SingleExecution, C::StartSingleJob, "ReadyToSingleExecution"),
        (Ready, SingleExecution, C::Line, "ReadyToSingleExecutionAuto"),
        (Ready, ContinuousExecution, C::StartContinuous, "ReadyToContinuousExecution"),
        (Ready, ContinuousExecution, C::Line, "ReadyToContinuousExecutionAuto"),
        (SingleExecution, Ready, C::Stop, "SingleExecutionToReadyStop"),
        (SingleExecution, Ready, C::Abort, "SingleExecutionToReadyAbort"),
        (SingleExecution, Ready, C::Line, "SingleExecutionToReadyAuto"),
        (ContinuousExecution, Ready, C::Stop, "ContinuousExecutionToReadyStop"),
        (ContinuousExecution, Ready, C::Abort, "ContinuousExecutionToReadyAbort"),
        (ContinuousExecution, Ready, C::Line, "ContinuousExecutionToReadyAuto"),
    ]
};

/// What leaves Operational goes from each of its states.
const OUTWARD: &[(State, Cause, &str)] = &[
    (State::Halted, Cause::Halt, "OperationalToHalted"),
    (State::Halted, Cause::Line, "OperationalToHaltedAuto"),
    (State::Error, Cause::Line, "OperationalToErrorAuto"),
    (State::Preoperational, Cause::Reset, "OperationalToPreoperational"),
    (State::Preoperational, Cause::Line, "OperationalToPreoperationalAuto"),
];

/// The transitions out of a state, with what causes each.
fn outgoing(from: State) -> impl Iterator<Item = (State, Cause, &'static str)> {
    let own = TRANSITIONS.iter().filter(move |t| t.0 == from).map(|t| (t.1, t.2, t.3));
    own.chain(OUTWARD.iter().copied().filter(move |_| from.is_operational()))
}

/// The shortest walk between two states. A step is named after `cause` where the standard has that name, else after
/// the line.
fn walk(from: State, to: State, cause: Cause) -> Vec<Step> {
    let mut came: BTreeMap<State, State> = BTreeMap::new();
    let mut next = VecDeque::from([from]);
    while let Some(at) = next.pop_front().filter(|at| *at != to) {
        for (there, _, _) in outgoing(at) {
            if there != from && !came.contains_key(&there) {
                came.insert(there, at);
                next.push_back(there);
            }
        }
    }
    let mut steps = Vec::new();
    let mut at = to;
    while at != from {
        let Some(before) = came.get(&at).copied() else { return vec![] };
        let named = |by: Cause| outgoing(before).find(|t| t.0 == at && t.1 == by);
        if let Some((_, _, transition)) = named(cause).or_else(|| named(Cause::Line)) {
            steps.push(Step { transition, from: before, to: at });
        }
        at = before;
    }
    steps.reverse();
    steps
}

/// The machine of one camera.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// A command makes the camera take a picture.
    commanded: bool,
    state: State,
    line: CameraStatus,
    /// Stop has paused a camera that runs by itself.
    stopped: bool,
    /// `UnprepareRecipe` was called, and `PrepareRecipe` not since.
    unprepared: bool,
    /// The id of the job that is under way.
    job: Option<String>,
    /// How the job's end is named, where Stop or Abort was called meanwhile.
    ending: Option<Cause>,
    /// The method that the line is carrying out: what it says meanwhile is named after it.
    under_way: Option<Cause>,
}

impl Machine {
    /// Of a camera; `commanded` says that commands make it take pictures.
    pub(super) fn new(commanded: bool) -> Self {
        let line = CameraStatus { state: CameraState::Busy, ..CameraStatus::default() };
        Self { commanded, line, ..Self::default() }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// The job that is under way.
    pub(super) fn job(&self) -> Option<&str> {
        self.job.as_deref()
    }

    /// The recipe that is in force, unless it was unprepared: name and version.
    pub(super) fn recipe(&self) -> Option<(&str, &str)> {
        let line = &self.line.line;
        (!self.unprepared && !line.pipeline.is_empty())
            .then_some((line.pipeline.as_str(), line.pipeline_version.as_str()))
    }

    /// What the line says now.
    pub(super) fn hear(&mut self, line: CameraStatus) -> Vec<Step> {
        self.line = line;
        if !self.line.line.paused && self.under_way.is_none() {
            self.stopped = false;
        }
        self.settle(self.under_way.unwrap_or(Cause::Line))
    }

    /// The line is about to carry a method out; `done` or `refused` follows.
    ///
    /// # Errors
    /// It does not go in this state, or another one is being carried out.
    pub(super) fn expect(&mut self, cause: Cause) -> Result<(), InvalidState> {
        self.may(cause)?;
        self.under_way = Some(cause);
        // Said before the pause is, so that it is not taken for a halt.
        self.stopped |= matches!(cause, Cause::Stop | Cause::Abort) && self.job.is_none();
        Ok(())
    }

    /// The line has not carried a method out.
    pub(super) fn refused(&mut self, cause: Cause) -> Vec<Step> {
        self.under_way = None;
        if matches!(cause, Cause::Stop | Cause::Abort) {
            self.stopped = false;
        }
        self.settle(Cause::Line)
    }

    /// Whether a method goes in this state.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn may(&self, cause: Cause) -> Result<(), InvalidState> {
        use State::{ContinuousExecution, Halted, Initialized, Preoperational, Ready, SingleExecution};
        let state = self.state;
        let goes = match cause {
            _ if self.under_way.is_some() => false,
            Cause::Line => true,
            Cause::Halt => state != Halted,
            Cause::Reset => state != Preoperational,
            Cause::SelectModeAutomatic => state == Preoperational,
            Cause::PrepareRecipe => matches!(state, Initialized | Ready),
            Cause::UnprepareRecipe => state == Ready,
            Cause::StartSingleJob => state == Ready && self.commanded && self.job.is_none(),
            Cause::StartContinuous => state == Ready && !self.commanded,
            Cause::Stop | Cause::Abort => matches!(state, SingleExecution | ContinuousExecution),
        };
        if goes { Ok(()) } else { Err(InvalidState(state)) }
    }

    /// A job begins; its part is not accepted yet.
    ///
    /// # Errors
    /// The state does not allow it.
    pub(super) fn begin(&mut self, job: &str) -> Result<Vec<Step>, InvalidState> {
        self.may(Cause::StartSingleJob)?;
        self.job = Some(job.to_owned());
        Ok(self.settle(Cause::StartSingleJob))
    }

    /// An inspection of the job with this id is recorded, or its part was not accepted. Another job's changes nothing.
    pub(super) fn end(&mut self, job: &str) -> Vec<Step> {
        if self.job.as_deref() != Some(job) {
            return vec![];
        }
        self.job = None;
        let cause = self.ending.take().unwrap_or(Cause::Line);
        self.settle(cause)
    }

    /// A method was carried out, and what the line says since; `None`: what it said before.
    pub(super) fn done(&mut self, cause: Cause, line: Option<CameraStatus>) -> Vec<Step> {
        self.under_way = None;
        match cause {
            Cause::Stop | Cause::Abort if self.job.is_some() => self.ending = Some(cause),
            Cause::Stop | Cause::Abort => self.stopped = true,
            Cause::StartContinuous | Cause::Halt => self.stopped = false,
            Cause::Reset => (self.stopped, self.unprepared) = (false, false),
            Cause::PrepareRecipe => self.unprepared = false,
            Cause::UnprepareRecipe => self.unprepared = true,
            Cause::Line | Cause::SelectModeAutomatic | Cause::StartSingleJob => {}
        }
        self.line = line.unwrap_or_else(|| self.line.clone());
        let mut steps = vec![];
        if cause == Cause::Reset {
            // Also where nothing is wrong: whoever resets sees the machine come up again.
            steps = walk(self.state, State::Preoperational, cause);
            self.state = State::Preoperational;
        }
        steps.extend(self.settle(cause));
        steps
    }

    /// Walks to the state that follows from everything that is known.
    fn settle(&mut self, cause: Cause) -> Vec<Step> {
        let to = self.follows();
        let steps = walk(self.state, to, cause);
        self.state = to;
        steps
    }

    fn follows(&self) -> State {
        let paused = self.line.line.paused;
        match self.line.state {
            CameraState::Fault if paused && !self.stopped => State::Halted,
            CameraState::Fault => State::Error,
            CameraState::Busy => State::Preoperational,
            CameraState::Ready if paused && !self.stopped => State::Halted,
            CameraState::Ready if self.unprepared => State::Initialized,
            CameraState::Ready if self.job.is_some() => State::SingleExecution,
            CameraState::Ready if self.commanded || self.stopped => State::Ready,
            CameraState::Ready => State::ContinuousExecution,
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
