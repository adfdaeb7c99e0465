//! What the server shows: the machine of each camera and its newest result, as values and events.
//!
//! ```text
//! line (a bell) --> hear: states of cameras, alarms ----.
//! calls --> expect, done, begin, refused (Machine) -----+--> values of nodes --> who has subscribed
//! exposures --> exposed --------------------------------|
//! records (a number) --> recorded: the newest result ---'--> events
//! ```
//!
//! Invariants:
//! - A camera is changed under its own lock, in which its values and events are published: subscribers see them in the
//!   order in which they happened. Nothing waits under that lock.
//! - Of a job, `JobStarted` comes first, `AcquisitionDone` before `ResultReady`, and `Ready` last.
//! - A result is published when its record is on the disk, with the job of its own trigger.

use super::Line;
use super::events::{Happened, severity};
use super::machine::{Cause, InvalidState, Machine, State, Step};
use super::nodeset::{Nodeset, Structures};
use super::space::{ACTIVE_RECIPE, AUTOMATIC, MACHINE, NEWEST, Namespaces};
use super::values::{self, job_of, plain};
use crate::domain::alarm::Alarm;
use crate::domain::camera::{CameraStatus, Exposed};
use crate::domain::inspection::Inspection;
use opcua::nodes::{Event, NodeType};
use opcua::server::SubscriptionCache;
use opcua::server::address_space::AddressSpace;
use opcua::sync::RwLock;
use opcua::types::{AttributeId, DataValue, DateTime, NodeId, StatusCode, Variant};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Everything that calls and the follower share.
pub(super) struct Core {
    pub names: Namespaces,
    pub nodeset: Nodeset,
    pub structures: Structures,
    pub line: Line,
    pub eyes: Vec<Eye>,
    pub subscriptions: Arc<SubscriptionCache>,
    /// Set once the server is built, before anybody is let in.
    pub space: OnceLock<Arc<RwLock<AddressSpace>>>,
}

/// One camera.
pub(super) struct Eye {
    pub id: String,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    machine: Machine,
    /// The job of which nobody was told yet that it has started.
    untold: Option<String>,
    /// Those that stand, of this camera and of the whole station.
    pub(super) alarms: Vec<Alarm>,
}

impl Eye {
    pub(super) fn new(id: String, commanded: bool) -> Self {
        let inner = Inner { machine: Machine::new(commanded), untold: None, alarms: vec![] };
        Self { id, inner: Mutex::new(inner) }
    }

    /// Nothing of this camera changes while the guard lives; do not wait with it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The recipe that is in force, unless it was unprepared.
    pub(super) fn recipe(&self) -> Option<(String, String)> {
        self.lock().machine.recipe().map(|(name, version)| (name.to_owned(), version.to_owned()))
    }

    /// Whether a job is under way.
    pub(super) fn has_job(&self) -> bool {
        self.lock().machine.job().is_some()
    }

    /// Whether a method goes now.
    ///
    /// # Errors
    /// It does not go in this state.
    pub(super) fn may(&self, cause: Cause) -> Result<(), InvalidState> {
        self.lock().machine.may(cause)
    }

    /// The line is about to carry a method out.
    ///
    /// # Errors
    /// It does not go in this state.
    pub(super) fn expect(&self, cause: Cause) -> Result<(), InvalidState> {
        self.lock().machine.expect(cause)
    }
}

impl Core {
    /// What the line says now, of every camera.
    pub(super) fn hear(&self) {
        let cameras = (self.line.cameras)();
        let alarms = (self.line.alarms)();
        for eye in &self.eyes {
            let status = cameras.iter().find(|(id, _)| *id == eye.id).map(|(_, status)| status.clone());
            let mut inner = eye.lock();
            let steps = status.map_or_else(Vec::new, |status| inner.machine.hear(status));
            self.show(eye, &inner, &steps, Cause::Line);
            self.hear_alarms(eye, &mut inner, &alarms);
        }
    }

    /// How a camera is now.
    fn status(&self, eye: &Eye) -> Option<CameraStatus> {
        (self.line.cameras)().into_iter().find(|(id, _)| *id == eye.id).map(|(_, status)| status)
    }

    /// A method was carried out.
    pub(super) fn done(&self, eye: &Eye, cause: Cause) {
        let status = self.status(eye);
        let mut inner = eye.lock();
        let steps = inner.machine.done(cause, status);
        self.show(eye, &inner, &steps, cause);
    }

    /// A method was not carried out.
    pub(super) fn refused(&self, eye: &Eye, cause: Cause) {
        let mut inner = eye.lock();
        let steps = inner.machine.refused(cause);
        self.show(eye, &inner, &steps, Cause::Line);
    }

    /// A job begins: the camera takes no other until it ends.
    ///
    /// # Errors
    /// It does not go in this state.
    pub(super) fn begin(&self, eye: &Eye, job: &str) -> Result<(), InvalidState> {
        let mut inner = eye.lock();
        let steps = inner.machine.begin(job)?;
        inner.untold = Some(job.to_owned());
        self.show(eye, &inner, &steps, Cause::StartSingleJob);
        Ok(())
    }

    /// A job's part was accepted.
    pub(super) fn started(&self, eye: &Eye, job: &str) {
        self.tell_start(eye, &mut eye.lock(), job);
    }

    /// Publishes that a job has started, once: its answer, its picture and its result each prove it.
    fn tell_start(&self, eye: &Eye, inner: &mut Inner, job: &str) {
        if inner.untold.take_if(|untold| untold == job).is_some() {
            self.of_job(eye, "JobStartedEventType", "a job has started", job);
        }
    }

    /// Publishes an event about a job; an empty one is none of this server's.
    fn of_job(&self, eye: &Eye, type_name: &str, words: &str, job: &str) {
        let event = self.happened(eye, type_name, words, severity::INFORMATION);
        self.publish(eye, &event.with([("JobId", self.structures.id_value("JobIdDataType", job))]));
    }

    /// A picture was taken.
    pub(super) fn exposed(&self, over: &Exposed) {
        let Some(eye) = self.eyes.iter().find(|eye| eye.id == over.camera) else { return };
        let job = over.correlation_id.as_deref().unwrap_or_default();
        let mut inner = eye.lock();
        self.tell_start(eye, &mut inner, job);
        self.of_job(eye, "AcquisitionDoneEventType", "the picture is taken", job);
    }

    /// A job's part was not accepted.
    pub(super) fn not_started(&self, eye: &Eye, job: &str) {
        let mut inner = eye.lock();
        inner.untold = None;
        let steps = inner.machine.end(job);
        self.show(eye, &inner, &steps, Cause::Line);
    }

    /// A recipe was prepared.
    pub(super) fn prepared(&self, eye: &Eye, name: &str, version: &str) {
        let words = format!("the recipe {name} is prepared");
        let event = self.happened(eye, "RecipePreparedEventType", &words, severity::INFORMATION);
        self.publish(
            eye,
            &event.with([
                ("ExternalId", self.structures.id_value("RecipeIdExternalDataType", name)),
                ("InternalId", self.structures.recipe(name, version)),
            ]),
        );
    }

    /// An inspection is recorded: it is the newest result of its camera and, where it is that of a job, its end.
    /// `is_news`: it came while this server ran, and subscribers hear of it.
    pub(super) fn recorded(&self, seq: u64, inspection: &Inspection, is_news: bool) {
        let Some(eye) = self.eyes.iter().find(|eye| eye.id == inspection.camera) else { return };
        let mut inner = eye.lock();
        let job = job_of(inspection);
        let fields = self.structures.fields(seq, inspection);
        let mut shown = vec![(NEWEST.to_owned(), self.structures.make("ResultDataType", &fields))];
        shown.extend(fields.iter().map(|(name, value)| (format!("{NEWEST}.{name}"), value.clone())));
        let text = |text: String| Variant::String(text.into());
        shown.push((format!("{NEWEST}.Verdict"), text(values::verdict(inspection))));
        shown.push((format!("{NEWEST}.Grade"), text(inspection.grade.as_str().to_owned())));
        shown.push((format!("{NEWEST}.Reason"), text(values::reason(inspection))));
        shown.push((format!("{NEWEST}.Findings"), values::finding_texts(inspection)));
        shown.push((format!("{NEWEST}.FindingsCount"), Variant::UInt32(inspection.findings.len() as u32)));
        self.write(eye, shown.into_iter().map(|(path, value)| (path, DataValue::new_now(value))).collect());
        if !is_news {
            return;
        }
        self.tell_start(eye, &mut inner, job);
        let words = format!("{} {}", inspection.verdict.as_str(), values::reason(inspection));
        let event = self.happened(eye, "ResultReadyEventType", words.trim(), severity::INFORMATION);
        self.publish(eye, &event.with(fields));
        let was = inner.machine.job() == Some(job);
        let steps = inner.machine.end(job);
        self.show(eye, &inner, &steps, Cause::Line);
        if was {
            self.of_job(eye, "ReadyEventType", "ready for a job", job);
        }
    }

    /// Publishes the state of a machine, and the steps by which it came there.
    fn show(&self, eye: &Eye, inner: &Inner, steps: &[Step], cause: Cause) {
        let machine = &inner.machine;
        let mut shown = self.states(machine.state());
        let now = DateTime::now();
        for step in steps {
            let is_inner = step.from.is_operational() && step.to.is_operational();
            let path = if is_inner { AUTOMATIC } else { MACHINE };
            let last = format!("{path}.LastTransition");
            shown.extend(self.numbered(&last, step.transition, now));
        }
        let recipe = machine.recipe();
        let active = recipe.map_or(Variant::Empty, |(name, version)| self.structures.recipe(name, version));
        shown.push((ACTIVE_RECIPE.to_owned(), DataValue::new_at(active, now)));
        shown.push(("SystemState".to_owned(), DataValue::new_at(self.system_state(machine.state()), now)));
        self.write(eye, shown);
        for step in steps {
            let event = self.changed(eye, *step, cause);
            self.publish(eye, &event);
        }
    }

    fn changed(&self, eye: &Eye, step: Step, cause: Cause) -> Happened {
        let type_name = match (step.from, step.to) {
            (_, State::Error) => "ErrorEventType",
            (State::Error, _) => "ErrorResolvedEventType",
            _ => "StateChangedEventType",
        };
        let urgency = if step.to == State::Error { severity::ERROR } else { severity::INFORMATION };
        let by = if cause == Cause::Line { "by the line" } else { "by a client" };
        let words = format!("{} to {}, {by}", step.from.name(), step.to.name());
        let (id, number) = self.nodeset.numbered(step.transition);
        let (from, to) = (self.nodeset.numbered(step.from.name()), self.nodeset.numbered(step.to.name()));
        self.happened(eye, type_name, &words, urgency).with_core([
            ("Transition", plain(step.transition).into()),
            ("Transition/Id", id.into()),
            ("Transition/Number", number.into()),
            ("FromState", plain(step.from.name()).into()),
            ("FromState/Id", from.0.into()),
            ("FromState/Number", from.1.into()),
            ("ToState", plain(step.to.name()).into()),
            ("ToState/Id", to.0.into()),
            ("ToState/Number", to.1.into()),
        ])
    }

    /// The values of both current states.
    fn states(&self, state: State) -> Vec<(String, DataValue)> {
        let now = DateTime::now();
        let outer = format!("{MACHINE}.CurrentState");
        let mut shown = self.numbered(&outer, state.outer(), now);
        let inner = format!("{AUTOMATIC}.CurrentState");
        if state.is_operational() {
            shown.extend(self.numbered(&inner, state.name(), now));
        } else {
            let inactive = |path: String| {
                (path, DataValue::new_at_status(Variant::Empty, now, StatusCode::BadStateNotActive))
            };
            shown.extend([inner.clone(), format!("{inner}.Id"), format!("{inner}.Number")].map(inactive));
        }
        shown
    }

    /// A state or transition by its name: the text, its id and its number.
    fn numbered(&self, path: &str, name: &str, at: DateTime) -> Vec<(String, DataValue)> {
        let (id, number) = self.nodeset.numbered(name);
        vec![
            (path.to_owned(), DataValue::new_at(plain(name), at)),
            (format!("{path}.Id"), DataValue::new_at(id, at)),
            (format!("{path}.Number"), DataValue::new_at(number, at)),
        ]
    }

    /// The state of the equipment by SEMI E10, as the standard has it.
    fn system_state(&self, state: State) -> Variant {
        let (number, words) = match state {
            State::SingleExecution | State::ContinuousExecution => (1, "productive"),
            State::Preoperational | State::Initialized | State::Ready => (2, "standby"),
            State::Halted => (4, "halted"),
            State::Error => (5, "in fault"),
        };
        let fields = [("State", Variant::Int32(number)), ("StateDescription", Variant::String(words.into()))];
        self.structures.make("SystemStateDescriptionDataType", &fields)
    }

    pub(super) fn happened(&self, eye: &Eye, type_name: &str, words: &str, severity: u16) -> Happened {
        Happened::new(self.names, self.nodeset.type_id(type_name), &eye.id, words, severity)
    }

    pub(super) fn publish(&self, eye: &Eye, event: &Happened) {
        let node = self.names.node(&eye.id, "");
        let event: &dyn Event = event;
        self.subscriptions.notify_events(std::iter::once((event, &node)));
    }

    /// Writes values, and tells who has subscribed.
    pub(super) fn write(&self, eye: &Eye, shown: Vec<(String, DataValue)>) {
        let Some(space) = self.space.get() else { return };
        let shown = shown.into_iter().map(|(path, value)| (self.names.node(&eye.id, &path), value));
        let shown: Vec<(NodeId, DataValue)> = shown.collect();
        let changed: Vec<&(NodeId, DataValue)> = {
            let mut space = space.write();
            let set = |one: &&(NodeId, DataValue)| match space.find_mut(&one.0) {
                Some(NodeType::Variable(variable)) => {
                    let is_new = was(variable) != (one.1.value.clone(), one.1.status);
                    variable.set_data_value(one.1.clone());
                    is_new
                }
                _ => false,
            };
            shown.iter().filter(set).collect()
        };
        let news = changed.into_iter().map(|(id, value)| (value.clone(), id, AttributeId::Value));
        self.subscriptions.notify_data_change(news);
    }
}

/// What a variable has now, without its times.
fn was(variable: &opcua::nodes::Variable) -> (Option<Variant>, Option<StatusCode>) {
    use opcua::types::{DataEncoding, NumericRange, TimestampsToReturn};
    let value = variable.value(TimestampsToReturn::Neither, &NumericRange::None, &DataEncoding::Binary, 0.0);
    (value.value, value.status)
}
