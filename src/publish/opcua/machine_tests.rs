//! Tests of the state machine, named by transition.

use super::*;
use crate::domain::camera::LineState;

fn says(state: CameraState, paused: bool) -> CameraStatus {
    let line =
        LineState { pipeline: "plate".into(), pipeline_version: "v1".into(), paused, ..LineState::default() };
    CameraStatus { state, reason: String::new(), line }
}

/// A machine that has heard that its camera is ready.
fn ready(commanded: bool) -> Machine {
    let mut machine = Machine::new(commanded);
    machine.hear(says(CameraState::Ready, false));
    machine
}

fn names(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|step| step.transition).collect()
}

#[test]
fn preoperational_to_ready_by_the_line() {
    let mut machine = Machine::new(true);
    assert_eq!(machine.state(), State::Preoperational);
    let steps = machine.hear(says(CameraState::Ready, false));
    assert_eq!(names(&steps), ["PreoperationalToInitializedAuto", "InitializedToReadyAuto"]);
    assert_eq!((machine.state(), machine.recipe()), (State::Ready, Some(("plate", "v1"))));
    assert!(machine.hear(says(CameraState::Ready, false)).is_empty(), "nothing has changed");
}

#[test]
fn preoperational_to_error_and_back_to_operational_by_the_line() {
    let mut machine = Machine::new(true);
    assert_eq!(names(&machine.hear(says(CameraState::Fault, false))), ["PreoperationalToErrorAuto"]);
    let steps = machine.hear(says(CameraState::Ready, false));
    assert_eq!(names(&steps), ["ErrorToOperationalAuto", "InitializedToReadyAuto"]);
    assert_eq!(names(&machine.hear(says(CameraState::Fault, false))), ["OperationalToErrorAuto"]);
}

#[test]
fn a_camera_that_runs_by_itself_goes_to_continuous_execution() {
    let mut machine = Machine::new(false);
    let steps = machine.hear(says(CameraState::Ready, false));
    let path =
        ["PreoperationalToInitializedAuto", "InitializedToReadyAuto", "ReadyToContinuousExecutionAuto"];
    assert_eq!(names(&steps), path);
    assert_eq!(machine.may(Cause::StartSingleJob), Err(InvalidState(State::ContinuousExecution)));
}

#[test]
fn ready_to_single_execution_and_back_with_the_own_inspection_only() {
    let mut machine = ready(true);
    assert_eq!(names(&machine.begin("J1").unwrap()), ["ReadyToSingleExecution"]);
    assert_eq!(machine.begin("J2"), Err(InvalidState(State::SingleExecution)), "one job at a time");
    assert!(machine.end("J0").is_empty() && machine.state() == State::SingleExecution);
    assert_eq!(names(&machine.end("J1")), ["SingleExecutionToReadyAuto"]);
    assert!(machine.end("J1").is_empty(), "a job ends once");
}

#[test]
fn single_execution_to_ready_by_stop_when_the_part_is_recorded() {
    for (cause, name) in
        [(Cause::Stop, "SingleExecutionToReadyStop"), (Cause::Abort, "SingleExecutionToReadyAbort")]
    {
        let mut machine = ready(true);
        machine.begin("J1").unwrap();
        assert!(machine.done(cause, None).is_empty(), "an accepted part is inspected all the same");
        assert_eq!(names(&machine.end("J1")), [name]);
    }
}

#[test]
fn continuous_execution_to_ready_by_stop_and_on_by_start_continuous() {
    let mut machine = ready(false);
    let steps = machine.done(Cause::Stop, Some(says(CameraState::Ready, true)));
    assert_eq!(names(&steps), ["ContinuousExecutionToReadyStop"]);
    assert_eq!(machine.may(Cause::Stop), Err(InvalidState(State::Ready)));
    machine.may(Cause::StartContinuous).unwrap();
    let steps = machine.done(Cause::StartContinuous, Some(says(CameraState::Ready, false)));
    assert_eq!(names(&steps), ["ReadyToContinuousExecution"]);
}

#[test]
fn a_pause_that_stop_causes_is_no_halt_whenever_it_is_heard() {
    let mut machine = ready(false);
    machine.expect(Cause::Stop).unwrap();
    assert_eq!(machine.expect(Cause::Halt), Err(InvalidState(State::ContinuousExecution)), "one at a time");
    let heard = machine.hear(says(CameraState::Ready, true));
    assert_eq!(names(&heard), ["ContinuousExecutionToReadyStop"]);
    assert!(machine.done(Cause::Stop, Some(says(CameraState::Ready, true))).is_empty());
    assert_eq!(machine.state(), State::Ready);
}

#[test]
fn a_method_that_the_line_refuses_changes_nothing() {
    for cause in [Cause::Stop, Cause::Halt] {
        let mut machine = ready(false);
        machine.expect(cause).unwrap();
        assert!(machine.refused(cause).is_empty());
        assert_eq!(machine.state(), State::ContinuousExecution);
        machine.may(cause).unwrap();
    }
}

#[test]
fn operational_to_halted_by_halt_and_up_again_by_reset() {
    let mut machine = ready(true);
    machine.may(Cause::Halt).unwrap();
    let steps = machine.done(Cause::Halt, Some(says(CameraState::Ready, true)));
    assert_eq!(names(&steps), ["OperationalToHalted"]);
    assert_eq!(machine.may(Cause::Halt), Err(InvalidState(State::Halted)));
    assert_eq!(machine.may(Cause::StartSingleJob), Err(InvalidState(State::Halted)));
    let steps = machine.done(Cause::Reset, Some(says(CameraState::Ready, false)));
    let path = ["HaltedToPreoperational", "PreoperationalToInitializedAuto", "InitializedToReadyAuto"];
    assert_eq!(names(&steps), path);
}

#[test]
fn operational_to_halted_by_a_pause_of_somebody_else() {
    let mut machine = ready(true);
    assert_eq!(names(&machine.hear(says(CameraState::Ready, true))), ["OperationalToHaltedAuto"]);
    let steps = machine.hear(says(CameraState::Ready, false));
    let path = ["HaltedToPreoperationalAuto", "PreoperationalToInitializedAuto", "InitializedToReadyAuto"];
    assert_eq!(names(&steps), path);
}

#[test]
fn a_job_that_was_halted_goes_on_after_reset_until_its_part_is_recorded() {
    let mut machine = ready(true);
    machine.begin("J1").unwrap();
    machine.done(Cause::Halt, Some(says(CameraState::Ready, true)));
    machine.done(Cause::Reset, Some(says(CameraState::Ready, false)));
    assert_eq!((machine.state(), machine.job()), (State::SingleExecution, Some("J1")));
    machine.end("J1");
    assert_eq!(machine.state(), State::Ready);
}

#[test]
fn ready_to_initialized_by_unprepare_and_back_by_prepare() {
    let mut machine = ready(true);
    assert_eq!(names(&machine.done(Cause::UnprepareRecipe, None)), ["ReadyToInitializedRecipe"]);
    assert_eq!((machine.state(), machine.recipe()), (State::Initialized, None));
    assert_eq!(machine.may(Cause::StartSingleJob), Err(InvalidState(State::Initialized)));
    machine.may(Cause::PrepareRecipe).unwrap();
    assert_eq!(names(&machine.done(Cause::PrepareRecipe, None)), ["InitializedToReadyRecipe"]);
}

#[test]
fn every_pair_of_states_has_a_walk_of_known_transitions() {
    use State::{ContinuousExecution, Error, Halted, Initialized, Preoperational, Ready, SingleExecution};
    let states = [Preoperational, Halted, Error, Initialized, Ready, SingleExecution, ContinuousExecution];
    for from in states {
        for to in states {
            let steps = walk(from, to, Cause::Line);
            assert_eq!(steps.is_empty(), from == to, "{from:?} to {to:?}");
            let ends = steps.first().zip(steps.last()).map(|(first, last)| (first.from, last.to));
            assert!(ends.is_none_or(|ends| ends == (from, to)), "{from:?} to {to:?}: {steps:?}");
            assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
        }
    }
}
