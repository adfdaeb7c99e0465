//! The methods: what a client calls, as commands to the line and looks into the records.
//!
//! ```text
//! Call: object, method, arguments --> may it, in this state? --no--> BadInvalidState
//!         StartSingleJob --> begin --> trigger with the job's id --> accepted: JobStarted, the id is the answer
//!         Halt, Reset, Stop, StartContinuous --> pause, resume        '--> refused: the state is as before
//!         PrepareRecipe --> pipeline
//!         GetRecipeListFiltered, GetResult… --> recipes, records
//! ```
//!
//! Invariants:
//! - A call that has begun is carried out to its end, whether or not its client is still there: it runs on a task of its
//!   own, and the machine is never left half-way.
//! - A refusal is a status code of the standard; why the line refused stands in the log.

use super::machine::{Cause, InvalidState};
use super::shown::{Core, Eye};
use super::values::{Fields, id_of, job_of, list_of, meas_of};
use crate::command::{self, CommandBody, Verb, is_id};
use crate::domain::inspection::Inspection;
use crate::domain::trigger::{Command, Refusal, Sender};
use opcua::types::{StatusCode, Variant, VariantScalarTypeId};
use std::sync::Arc;
use std::time::Instant;

/// Results of one answer.
const RESULTS_MAX: usize = 100;
/// Records that one call looks through, newest first.
const SCAN_MAX: usize = 10_000;
/// Records that are read at once.
const PAGE: usize = 100;
/// Recipes of one answer.
const RECIPES_MAX: usize = 1000;

/// A method of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Halt,
    Reset,
    SelectModeAutomatic,
    StartSingleJob,
    StartContinuous,
    Stop,
    Abort,
    PrepareRecipe,
    UnprepareRecipe,
    GetRecipeListFiltered,
    GetResultById,
    GetResultComponentsById,
    GetResultListFiltered,
}

impl Method {
    /// Each with its path below a camera.
    pub(super) const ALL: [(Self, &'static str); 13] = [
        (Self::Halt, "VisionStateMachine.Halt"),
        (Self::Reset, "VisionStateMachine.Reset"),
        (Self::SelectModeAutomatic, "VisionStateMachine.SelectModeAutomatic"),
        (Self::StartSingleJob, "VisionStateMachine.AutomaticModeStateMachine.StartSingleJob"),
        (Self::StartContinuous, "VisionStateMachine.AutomaticModeStateMachine.StartContinuous"),
        (Self::Stop, "VisionStateMachine.AutomaticModeStateMachine.Stop"),
        (Self::Abort, "VisionStateMachine.AutomaticModeStateMachine.Abort"),
        (Self::PrepareRecipe, "RecipeManagement.PrepareRecipe"),
        (Self::UnprepareRecipe, "RecipeManagement.UnprepareRecipe"),
        (Self::GetRecipeListFiltered, "RecipeManagement.GetRecipeListFiltered"),
        (Self::GetResultById, "ResultManagement.GetResultById"),
        (Self::GetResultComponentsById, "ResultManagement.GetResultComponentsById"),
        (Self::GetResultListFiltered, "ResultManagement.GetResultListFiltered"),
    ];
}

/// One call.
pub(super) struct Called {
    pub core: Arc<Core>,
    /// Index of the camera.
    pub eye: usize,
    pub method: Method,
    pub arguments: Vec<Variant>,
    /// Who calls.
    pub user: String,
}

type Answer = Result<Vec<Variant>, StatusCode>;

/// The last output of each method: no error.
fn no_error() -> Variant {
    Variant::Int32(0)
}

impl Called {
    /// Carries it out, to its end.
    pub(super) async fn answer(self) -> Answer {
        let (core, eye) = (Arc::clone(&self.core), self.eye);
        let task = tokio::spawn(async move { self.carry_out().await });
        task.await.unwrap_or_else(|_| {
            // It has panicked, which stands in the log: the next call finds a machine that waits for nobody.
            if let Some(eye) = core.eyes.get(eye) {
                core.refused(eye, Cause::Line);
            }
            Err(StatusCode::BadInternalError)
        })
    }

    fn eye(&self) -> Result<&Eye, StatusCode> {
        self.core.eyes.get(self.eye).ok_or(StatusCode::BadNodeIdUnknown)
    }

    async fn carry_out(self) -> Answer {
        let camera = Some(self.eye()?.id.clone());
        match self.method {
            Method::Halt => self.command(Cause::Halt, Command::Pause { camera }).await,
            Method::Reset => self.command(Cause::Reset, Command::Resume { camera }).await,
            Method::Stop => self.stop(Cause::Stop).await,
            Method::Abort => self.stop(Cause::Abort).await,
            Method::StartContinuous => self.start_continuous(Command::Resume { camera }).await,
            Method::StartSingleJob => self.start_single_job().await,
            Method::SelectModeAutomatic => self.by_itself(Cause::SelectModeAutomatic),
            Method::PrepareRecipe => self.prepare().await,
            Method::UnprepareRecipe => self.unprepare(),
            Method::GetRecipeListFiltered => self.recipes(),
            Method::GetResultById | Method::GetResultComponentsById | Method::GetResultListFiltered => {
                let asked = tokio::task::spawn_blocking(move || self.results());
                asked.await.unwrap_or(Err(StatusCode::BadInternalError))
            }
        }
    }

    /// Has the line carry out a command that the machine allows.
    async fn line(&self, cause: Cause, command: Command) -> Result<(), StatusCode> {
        let eye = self.eye()?;
        eye.expect(cause).map_err(invalid)?;
        match self.send(command, None).await {
            Ok(()) => {
                self.core.done(eye, cause);
                Ok(())
            }
            Err(status) => {
                self.core.refused(eye, cause);
                Err(status)
            }
        }
    }

    async fn send(&self, command: Command, job: Option<&str>) -> Result<(), StatusCode> {
        let verb = match &command {
            Command::Trigger(_) => Verb::Trigger,
            Command::Pipeline { .. } => Verb::Pipeline,
            Command::Pause { .. } => Verb::Pause,
            _ => Verb::Resume,
        };
        let sender = Sender::Opcua { user: self.user.clone() };
        let outcome = command::carry_out(&self.core.line.handler, command, sender.clone()).await;
        command::log::outcome(verb.as_str(), &sender, job, &outcome);
        outcome.map(|_| ()).map_err(|refusal| status_of(&refusal))
    }

    async fn command(&self, cause: Cause, command: Command) -> Answer {
        self.line(cause, command).await?;
        Ok(vec![no_error()])
    }

    /// What the machine does without the line.
    fn by_itself(&self, cause: Cause) -> Answer {
        let eye = self.eye()?;
        eye.may(cause).map_err(invalid)?;
        self.core.done(eye, cause);
        Ok(vec![no_error()])
    }

    /// A job that is under way ends with its part, which is inspected all the same; a camera that runs by itself pauses.
    async fn stop(&self, cause: Cause) -> Answer {
        let eye = self.eye()?;
        if eye.has_job() {
            return self.by_itself(cause);
        }
        self.command(cause, Command::Pause { camera: Some(eye.id.clone()) }).await
    }

    async fn start_continuous(&self, resume: Command) -> Answer {
        self.is_active(2)?;
        self.line(Cause::StartContinuous, resume).await?;
        let job = ulid::Ulid::generate().to_string();
        Ok(vec![self.core.structures.id_value("JobIdDataType", &job), no_error()])
    }

    /// The recipe that a job names, where it names one, must be the one that is prepared.
    fn is_active(&self, argument: usize) -> Result<(), StatusCode> {
        let Some(wanted) = id_of(self.arguments.get(argument)) else { return Ok(()) };
        let active = self.eye()?.recipe();
        if active.is_some_and(|(name, _)| name == wanted) {
            Ok(())
        } else {
            Err(StatusCode::BadInvalidArgument)
        }
    }

    async fn start_single_job(&self) -> Answer {
        let eye = self.eye()?;
        eye.may(Cause::StartSingleJob).map_err(invalid)?;
        self.is_active(2)?;
        let given = |at: usize| id_of(self.arguments.get(at));
        let job = ulid::Ulid::generate().to_string();
        let body = CommandBody {
            camera: Some(eye.id.clone()),
            part_id: given(1),
            lot: given(3),
            correlation_id: Some(job.clone()),
            ..CommandBody::default()
        };
        let mut order = body.order(Verb::Trigger, Instant::now()).map_err(|refusal| status_of(&refusal))?;
        let meas = given(0);
        if meas.as_ref().is_some_and(|meas| !is_id(meas)) {
            return Err(StatusCode::BadInvalidArgument);
        }
        if let Command::Trigger(request) = &mut order.command {
            request.trigger.meas_id = meas;
        }
        self.core.begin(eye, &job).map_err(invalid)?;
        if let Err(status) = self.send(order.command, Some(&job)).await {
            self.core.not_started(eye, &job);
            return Err(status);
        }
        self.core.started(eye, &job);
        Ok(vec![self.core.structures.id_value("JobIdDataType", &job), no_error()])
    }

    async fn prepare(&self) -> Answer {
        let eye = self.eye()?;
        let named = id_of(self.arguments.first()).or_else(|| id_of(self.arguments.get(1)));
        let name = named.ok_or(StatusCode::BadInvalidArgument)?;
        let command = Command::Pipeline { camera: Some(eye.id.clone()), pipeline: name.clone() };
        self.line(Cause::PrepareRecipe, command).await?;
        let version = eye.recipe().map(|(_, version)| version).unwrap_or_default();
        self.core.prepared(eye, &name, &version);
        Ok(vec![self.core.structures.recipe(&name, &version), true.into(), no_error()])
    }

    fn unprepare(&self) -> Answer {
        let (name, version) = self.eye()?.recipe().ok_or(StatusCode::BadInvalidState)?;
        let wanted = id_of(self.arguments.first()).or_else(|| id_of(self.arguments.get(1)));
        if wanted.is_some_and(|wanted| wanted != name) {
            return Err(StatusCode::BadInvalidArgument);
        }
        self.by_itself(Cause::UnprepareRecipe)?;
        Ok(vec![self.core.structures.recipe(&name, &version), no_error()])
    }

    /// Recipes by a filter: name, whether prepared (0 no, 1 yes, 2 either), how many, from which on.
    fn recipes(&self) -> Answer {
        let active = self.eye()?.recipe().map(|(name, _)| name);
        let named = id_of(self.arguments.first());
        let prepared = number(self.arguments.get(2)).unwrap_or(2);
        let (most, skip) = self.page(3, RECIPES_MAX);
        let fits = |(name, _): &(String, String)| {
            let is_active = u64::from(active.as_ref() == Some(name));
            named.as_ref().is_none_or(|named| named == name) && (prepared > 1 || prepared == is_active)
        };
        let all: Vec<_> = (self.core.line.recipes)().into_iter().filter(fits).collect();
        let shown: Vec<_> = all.iter().skip(skip).take(most).collect();
        let is_complete = skip + shown.len() >= all.len();
        let list = shown.iter().map(|(name, version)| self.core.structures.recipe(name, version)).collect();
        Ok(vec![
            is_complete.into(),
            Variant::UInt32(shown.len() as u32),
            Variant::UInt32(0),
            list_of(VariantScalarTypeId::ExtensionObject, list),
            no_error(),
        ])
    }

    /// How many a client wants, and from which on: arguments `MaxResults` and `StartIndex`.
    fn page(&self, at: usize, most: usize) -> (usize, usize) {
        let read = |at: usize| number(self.arguments.get(at)).unwrap_or_default() as usize;
        let wanted = read(at);
        (if wanted == 0 { most } else { wanted.min(most) }, read(at + 1))
    }

    /// Looks into the records; it waits for the disk.
    fn results(&self) -> Answer {
        match self.method {
            Method::GetResultListFiltered => self.result_list(),
            _ => self.one_result(),
        }
    }

    fn one_result(&self) -> Answer {
        let eye = self.eye()?;
        let id = id_of(self.arguments.first()).ok_or(StatusCode::BadInvalidArgument)?;
        let found = self.core.line.records.by_id(&id).map_err(failed)?;
        let found = found.filter(|(_, inspection)| inspection.camera == eye.id);
        let (seq, inspection) = found.ok_or(StatusCode::BadNotFound)?;
        let fields = self.core.structures.fields(seq, &inspection);
        if self.method == Method::GetResultById {
            let result = self.core.structures.make("ResultDataType", &fields);
            return Ok(vec![Variant::UInt32(0), result, no_error()]);
        }
        // HasTransferableDataOnFile, ResultHandle, then the fields behind the id, and the error.
        let mut answer = vec![false.into(), Variant::UInt32(0)];
        answer.extend(self.components(fields));
        answer.push(no_error());
        Ok(answer)
    }

    /// The fields of a result one by one; what it does not have is an empty structure of its type.
    fn components(&self, fields: Fields) -> Vec<Variant> {
        let behind =
            fields.into_iter().filter(|(name, _)| !matches!(*name, "ResultId" | "HasTransferableDataOnFile"));
        let filled = behind.map(|(name, value)| match value {
            Variant::Empty => {
                let kind = match name {
                    "ExternalConfigurationId" => "ConfigurationIdDataType".to_owned(),
                    _ => format!("{name}DataType"),
                };
                self.core.structures.id_value(&kind, "")
            }
            value => value,
        });
        filled.collect()
    }

    fn result_list(&self) -> Answer {
        let camera = self.eye()?.id.clone();
        let wanted = Wanted::of(&self.arguments);
        let (most, mut skip) = self.page(9, RESULTS_MAX);
        let (mut before, mut scanned, mut list, mut is_complete) = (u64::MAX, 0, vec![], false);
        'pages: while scanned < SCAN_MAX {
            let page = self.core.line.records.newest_before(before, PAGE).map_err(failed)?;
            let Some((oldest, _)) = page.last() else {
                is_complete = true;
                break;
            };
            (before, scanned) = (*oldest, scanned + page.len());
            for (seq, inspection) in page.iter().filter(|(n, i)| i.camera == camera && wanted.fits(*n, i)) {
                if skip > 0 {
                    skip -= 1;
                } else if list.len() < most {
                    let fields = self.core.structures.fields(*seq, inspection);
                    list.push(self.core.structures.make("ResultDataType", &fields));
                } else {
                    break 'pages;
                }
            }
        }
        Ok(vec![
            is_complete.into(),
            Variant::UInt32(list.len() as u32),
            Variant::UInt32(0),
            list_of(VariantScalarTypeId::ExtensionObject, list),
            no_error(),
        ])
    }
}

/// Which results a client wants; an empty filter takes all.
struct Wanted {
    meas: Option<String>,
    part: Option<String>,
    recipe: Option<String>,
    product: Option<String>,
    job: Option<String>,
}

impl Wanted {
    fn of(arguments: &[Variant]) -> Self {
        let given = |at: usize| id_of(arguments.get(at));
        Self {
            meas: given(1),
            part: given(2),
            recipe: given(3).or_else(|| given(4)),
            product: given(7),
            job: given(8),
        }
    }

    fn fits(&self, seq: u64, inspection: &Inspection) -> bool {
        let trigger = &inspection.trigger;
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        same(&self.meas, Some(&meas_of(seq, inspection)))
            && same(&self.part, trigger.part_id.as_deref())
            && same(&self.recipe, Some(&inspection.pipeline))
            && same(&self.product, trigger.lot.as_deref())
            && same(&self.job, Some(job_of(inspection)))
    }
}

/// A number of whatever width a client sends.
fn number(value: Option<&Variant>) -> Option<u64> {
    match value? {
        Variant::Int32(n) => u64::try_from(*n).ok(),
        Variant::UInt32(n) => Some(u64::from(*n)),
        Variant::Int64(n) => u64::try_from(*n).ok(),
        Variant::UInt64(n) => Some(*n),
        Variant::UInt16(n) => Some(u64::from(*n)),
        Variant::Byte(n) => Some(u64::from(*n)),
        _ => None,
    }
}

/// The status code of a method that does not go in a state.
fn invalid(refused: InvalidState) -> StatusCode {
    tracing::debug!(state = refused.0.name(), "a method does not go in this state");
    StatusCode::BadInvalidState
}

fn failed(why: String) -> StatusCode {
    tracing::error!(why, "an OPC UA client gets no results");
    StatusCode::BadResourceUnavailable
}

/// The status code of a refusal.
const fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NoCamera { .. } | Refusal::NoPart { .. } | Refusal::NoPipeline { .. } => {
            StatusCode::BadNotFound
        }
        Refusal::NotTriggered { .. } | Refusal::ResponseTopic { .. } => StatusCode::BadNotSupported,
        Refusal::Paused { .. } | Refusal::Fault { .. } => StatusCode::BadInvalidState,
        Refusal::Unfit { .. } => StatusCode::BadConfigurationError,
        Refusal::Full { .. } | Refusal::NotStored { .. } => StatusCode::BadResourceUnavailable,
        Refusal::Repeated { .. } | Refusal::Malformed { .. } => StatusCode::BadInvalidArgument,
        Refusal::Starting | Refusal::Stopping => StatusCode::BadServerHalted,
    }
}
