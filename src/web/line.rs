//! How the line stands, in one answer: what the line view of the page shows.
//!
//! ```text
//! daemon's board, queues, engine --asked--.
//! alarms --asked--------------------------+--> LineView, looked at twice a second at most --> GET /api/v1/line
//! records, newest only, each read once ---'      '-- alive, alarms --> a beat a second in the stream of events
//! ```
//!
//! However many pages are open, the work is the same: they share one answer, a record is read once, and its picture is
//! the small copy that the recorder has made.

use super::auth::Viewer;
use super::blocking::blocking;
use super::cameras::{Camera, StationView};
use super::error::{ApiError, Problem};
use super::events::Event;
use super::metrics::Metrics;
use super::queue::ActiveRecipes;
use super::wire::finite;
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, kind_of};
use crate::domain::camera::CameraLoad;
use crate::domain::grade::Reason;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::query::Filter;
use crate::store::record::{Stored, rfc3339};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// An answer is given again until it is so old.
const FRESH: Duration = Duration::from_millis(500);
/// Newest records that one look reads at most; what is older is of no interest here.
const READ_MAX: u64 = 512;
/// Inspections of a camera that its times are of.
const TIMES_MAX: usize = 50;

/// Whether the inspector shows life, and what alarms stand.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    /// The inspector shows life.
    pub alive: bool,
    /// Those that stand, by code.
    pub alarms: Vec<Alarm>,
}

/// Asks the daemon for its pulse.
pub type Pulses = Box<dyn Fn() -> Pulse + Send + Sync>;

/// What only the daemon knows of the line.
#[derive(Clone, Debug, Default)]
pub struct LineNow {
    /// What waits, by the id of the camera.
    pub loads: Vec<(String, CameraLoad)>,
    /// `None`: the line ends.
    pub engine: Option<EngineNow>,
    /// Parts that several cameras look at, by name, each with the ids of its cameras.
    pub parts: Vec<(String, Vec<String>)>,
}

/// How the engine is.
#[derive(Clone, Debug)]
pub struct EngineNow {
    /// Whether it can be asked.
    pub state: EngineState,
    /// Why it cannot, or how it was lost last; empty: nothing is wrong.
    pub why: String,
    /// Processes that were lost since the start.
    pub losses: u64,
    /// Name of the model; empty until it was first there.
    pub model: String,
}

/// Whether the engine can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It takes jobs.
    Ready,
    /// It loads its model, or waits until somebody wants it.
    Coming,
    /// It has failed, and is started again after a pause.
    Resting,
}

impl EngineState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Coming => "coming",
            Self::Resting => "resting",
        }
    }
}

/// Asks the daemon how the line stands.
pub type Now = Box<dyn Fn() -> LineNow + Send + Sync>;

/// Who knows how the line stands.
pub(crate) struct Overview {
    store: Arc<Store>,
    view: Arc<StationView>,
    recipes: Arc<ActiveRecipes>,
    metrics: Arc<Metrics>,
    clock: Clock,
    pulses: OnceLock<Pulses>,
    now: OnceLock<Now>,
    looked: Mutex<Looked>,
}

/// The last look.
#[derive(Default)]
struct Looked {
    at: Option<Instant>,
    answer: Bytes,
    newest: Newest,
}

impl Overview {
    pub(super) fn new(
        store: Arc<Store>,
        view: Arc<StationView>,
        recipes: Arc<ActiveRecipes>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (pulses, now) = (OnceLock::new(), OnceLock::new());
        Self { store, view, recipes, metrics, clock: Clock::system(), pulses, now, looked: Mutex::default() }
    }

    /// From now on the page shows this pulse. The first call counts: a page lives as long as its station.
    pub(super) fn show_pulse(&self, pulses: Pulses) {
        let _ = self.pulses.set(pulses);
    }

    /// From now on the page shows this line. The first call counts.
    pub(super) fn show_line(&self, now: Now) {
        let _ = self.now.set(now);
    }

    /// Before the daemon has said anything the station starts, and is alive.
    fn pulse(&self) -> Pulse {
        self.pulses.get().map_or_else(|| Pulse { alive: true, alarms: vec![] }, |pulse| pulse())
    }

    /// A sign of life for an open page.
    pub(super) fn beat(&self) -> Event {
        let Pulse { alive, alarms } = self.pulse();
        Event::Beat { alive, alarms: alarms.len() }
    }

    /// The answer of now, or the last one while it is fresh.
    fn look(&self) -> Result<Bytes, ApiError> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.at.is_none_or(|at| at.elapsed() >= FRESH) {
            looked.newest.read(&self.store, READ_MAX)?;
            let view = self.view(&mut looked.newest)?;
            looked.answer = serde_json::to_vec(&view).map_err(ApiError::internal)?.into();
            looked.at = Some(Instant::now());
        }
        Ok(looked.answer.clone())
    }

    fn view(&self, newest: &mut Newest) -> Result<LineView, ApiError> {
        let LineNow { loads, engine, parts } = self.now.get().map(|now| now()).unwrap_or_default();
        let mut cameras = Vec::new();
        for camera in self.view.all() {
            newest.look_for(&camera.id, &self.store)?;
            let load = loads.iter().find(|(id, _)| *id == camera.id).map(|(_, load)| *load);
            cameras.push(LineCamera::new(camera, load, newest));
        }
        let Pulse { alive, alarms } = self.pulse();
        let connected = self.metrics.sinks();
        let sinks = self.store.sinks()?.into_iter().filter(|sink| sink.enabled).map(|sink| LineSink {
            connected: connected.iter().any(|(name, up)| *name == sink.name && *up),
            owed: sink.owed.iter().sum(),
            name: sink.name,
        });
        let room = self.store.room()?;
        let time = self.clock.read();
        Ok(LineView {
            at: rfc3339(time.wall),
            synchronised: time.synchronised,
            alive,
            cameras,
            alarms: alarms.into_iter().map(LineAlarm::new).collect(),
            parts: parts.into_iter().map(|(name, cameras)| LinePart { name, cameras }).collect(),
            recipes: self.recipes.names(),
            engine: engine.map(LineEngine::new),
            sinks: sinks.collect(),
            disk: LineDisk {
                free_bytes: room.free_bytes,
                free_bytes_min: room.free_bytes_min,
                refuses: self.store.accepts().err().map(|error| error.to_string()).unwrap_or_default(),
            },
        })
    }
}

/// The newest inspections of each camera.
#[derive(Default)]
struct Newest {
    /// All up to here have been read.
    seen: u64,
    by_camera: BTreeMap<String, Recent>,
}

/// What is known of a camera's newest inspections.
#[derive(Default)]
struct Recent {
    /// An inspection older than those that were read was looked for.
    asked: bool,
    last: Option<LastPart>,
    picture: Option<String>,
    /// Milliseconds from the exposure to the verdict, where it was inspected, and whether that was too late; the newest
    /// last.
    times: VecDeque<(Option<f64>, bool)>,
}

impl Newest {
    /// Reads what is new, `at_most` so many records of it: the newest.
    fn read(&mut self, store: &Store, at_most: u64) -> Result<(), StoreError> {
        let last = *store.subscribe().borrow();
        for seq in self.seen.max(last.saturating_sub(at_most)) + 1..=last {
            self.take(store, seq)?;
        }
        self.seen = last;
        Ok(())
    }

    /// A record that cannot be read, or that retention has removed, is left out.
    fn take(&mut self, store: &Store, seq: u64) -> Result<(), StoreError> {
        match store.get(seq) {
            Ok(Some(stored)) => {
                self.by_camera.entry(stored.inspection.camera.clone()).or_default().add(&stored);
                Ok(())
            }
            Ok(None) | Err(StoreError::BadRecord { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// After a start a camera may have been quiet for longer than what was read: then its last inspection is looked
    /// for, until all old ones are listed.
    fn look_for(&mut self, camera: &str, store: &Store) -> Result<(), StoreError> {
        let recent = self.by_camera.entry(camera.to_owned()).or_default();
        if recent.asked || recent.last.is_some() {
            return Ok(());
        }
        recent.asked = store.index_complete()?;
        let filter = Filter { camera: Some(camera.to_owned()), ..Filter::default() };
        let found = store.find(&filter, None, 0, 1)?;
        found.seqs.first().map_or(Ok(()), |seq| self.take(store, *seq))
    }
}

impl Recent {
    fn add(&mut self, stored: &Stored) {
        let part = &stored.inspection;
        let late = matches!(part.verdict.reason(), Some(Reason::Deadline { .. }));
        self.last = Some(LastPart {
            seq: stored.seq,
            id: part.id.clone(),
            at: rfc3339(part.finished_at),
            verdict: part.verdict.as_str(),
            reason: part.verdict.reason().map(ToString::to_string).unwrap_or_default(),
        });
        if let Some(kept) = &stored.image {
            self.picture = Some(kept.image.sha256.clone());
        }
        // What was never inspected took no time.
        let took = finite(part.latency.total_ms).filter(|ms| *ms > 0.0);
        if took.is_some() || late {
            if self.times.len() == TIMES_MAX {
                self.times.pop_front();
            }
            self.times.push_back((took, late));
        }
    }

    fn times(&self) -> LineTimes {
        let mut sorted: Vec<f64> = self.times.iter().filter_map(|(took, _)| *took).collect();
        sorted.sort_by(f64::total_cmp);
        LineTimes {
            parts: self.times.len(),
            last_ms: self.times.iter().rev().find_map(|(took, _)| *took),
            median_ms: sorted.get(sorted.len() / 2).copied(),
            worst_ms: sorted.last().copied(),
            late: self.times.iter().filter(|(_, late)| *late).count(),
        }
    }
}

/// How the line stands.
#[derive(Serialize, ToSchema)]
pub(super) struct LineView {
    /// The station's time of day: RFC 3339, UTC.
    pub at: String,
    /// A time server stands behind it.
    pub synchronised: bool,
    /// The inspector shows life.
    pub alive: bool,
    /// Empty until they are open.
    pub cameras: Vec<LineCamera>,
    /// Those that stand, by code.
    pub alarms: Vec<LineAlarm>,
    /// Parts that several cameras look at, each triggered by its name; empty until the cameras are open.
    pub parts: Vec<LinePart>,
    /// Names of the recipes that a camera may be given.
    pub recipes: Vec<String>,
    /// Null until the cameras are open.
    pub engine: Option<LineEngine>,
    /// The enabled sinks, by name.
    pub sinks: Vec<LineSink>,
    pub disk: LineDisk,
}

/// One camera.
#[derive(Serialize, ToSchema)]
pub(super) struct LineCamera {
    #[serde(flatten)]
    pub camera: Camera,
    /// It takes a picture when it is told to.
    pub triggered: bool,
    /// Triggers that wait for their pictures.
    pub triggers_waiting: usize,
    /// Pictures that wait for the inspector, and how many may.
    pub frames_waiting: usize,
    pub frames_max: usize,
    /// From the exposure to the verdict, by the active recipe; null until the cameras are open.
    pub deadline_ms: Option<u64>,
    pub times: LineTimes,
    /// The newest inspection.
    pub last: Option<LastPart>,
    /// sha256 of the newest picture that is kept; `/api/v1/thumbs/{sha256}` has it small.
    pub picture: Option<String>,
}

impl LineCamera {
    fn new(camera: Camera, load: Option<CameraLoad>, newest: &Newest) -> Self {
        let recent = newest.by_camera.get(&camera.id);
        let waits = load.unwrap_or_default();
        Self {
            triggered: waits.is_triggered,
            triggers_waiting: waits.triggers,
            frames_waiting: waits.frames,
            frames_max: waits.frames_max,
            deadline_ms: load.map(|load| load.deadline.as_millis() as u64),
            times: recent.map(Recent::times).unwrap_or_default(),
            last: recent.and_then(|recent| recent.last.clone()),
            picture: recent.and_then(|recent| recent.picture.clone()),
            camera,
        }
    }
}

/// From the exposure to the verdict, over at most the newest 50 inspections of a camera since the start.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct LineTimes {
    pub parts: usize,
    pub last_ms: Option<f64>,
    pub median_ms: Option<f64>,
    pub worst_ms: Option<f64>,
    /// Those whose verdict came after the deadline.
    pub late: usize,
}

/// The newest inspection of a camera.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct LastPart {
    pub seq: u64,
    /// ULID.
    pub id: String,
    /// RFC 3339, UTC, of the verdict.
    pub at: String,
    /// pass, fail or review.
    pub verdict: &'static str,
    /// Empty after a pass.
    pub reason: String,
}

/// An alarm that stands.
#[derive(Serialize, ToSchema)]
pub(super) struct LineAlarm {
    /// As in the topic `alarm/{code}`.
    pub code: String,
    /// The code without the name: by it the page and the guide say what to do.
    pub kind: String,
    /// The camera, recipe or sink that it is about; empty: the station or the sink `mqtt`.
    pub about: String,
    pub message: String,
    /// RFC 3339, UTC.
    pub since: String,
}

impl LineAlarm {
    fn new(alarm: Alarm) -> Self {
        let (kind, about) = kind_of(&alarm.code).map_or(("", ""), |(kind, about)| (kind.word, about));
        Self {
            kind: kind.to_owned(),
            about: about.to_owned(),
            message: alarm.message,
            since: rfc3339(alarm.since),
            code: alarm.code,
        }
    }
}

/// A part that several cameras look at.
#[derive(Serialize, ToSchema)]
pub(super) struct LinePart {
    /// As the command `trigger` has it in `part`.
    pub name: String,
    /// Ids, in the order of the config.
    pub cameras: Vec<String>,
}

/// The engine.
#[derive(Serialize, ToSchema)]
pub(super) struct LineEngine {
    /// ready, coming or resting.
    pub state: &'static str,
    /// Why it is not ready, or how it was lost last; empty: nothing is wrong.
    pub why: String,
    /// Processes that were lost since the start.
    pub losses: u64,
    /// Name of the model; empty until it was first there.
    pub model: String,
}

impl LineEngine {
    fn new(engine: EngineNow) -> Self {
        let EngineNow { state, why, losses, model } = engine;
        Self { state: state.as_str(), why, losses, model }
    }
}

/// A sink.
#[derive(Serialize, ToSchema)]
pub(super) struct LineSink {
    pub name: String,
    pub connected: bool,
    /// Messages that it has not acknowledged.
    pub owed: u64,
}

/// The file system of the store.
#[derive(Serialize, ToSchema)]
pub(super) struct LineDisk {
    pub free_bytes: u64,
    /// With less than this free the line stands; 0: no floor.
    pub free_bytes_min: u64,
    /// Why the store accepts nothing; empty: it does.
    pub refuses: String,
}

/// How the line stands: cameras, alarms, queues, times against deadlines, engine, sinks, disk and clock; at most half a
/// second old.
#[utoipa::path(get, path = "/api/v1/line", tag = "commands", responses(
    (status = 200, body = LineView), (status = 401, body = Problem)))]
pub(crate) async fn line(State(overview): State<Arc<Overview>>, _: Viewer) -> Result<Response, ApiError> {
    let answer = blocking(&overview, Overview::look).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::grade::Verdict;
    use crate::store::StoreOptions;
    use crate::store::tests::sample;

    fn inspected(n: u64, camera: &str, total_ms: f64) -> crate::domain::inspection::Inspection {
        let mut part = sample(n);
        (part.camera, part.latency.total_ms) = (camera.into(), total_ms);
        part
    }

    #[test]
    fn the_newest_inspection_and_picture_of_each_camera_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let picture = store.put_image(b"picture", "jpg").unwrap();
        store.commit(&inspected(1, "quiet", 700.0), Some(picture.clone())).unwrap();
        // More of another camera than one look reads.
        for n in 2..=9 {
            store.commit(&inspected(n, "busy", n as f64), None).unwrap();
        }
        while store.index_older().unwrap() {}
        let mut newest = Newest::default();
        newest.read(&store, 3).unwrap();
        for camera in ["quiet", "busy", "new"] {
            newest.look_for(camera, &store).unwrap();
        }
        let of = |newest: &Newest, camera: &str| {
            let recent = &newest.by_camera[camera];
            (recent.last.as_ref().map(|last| last.seq), recent.picture.clone(), recent.times().worst_ms)
        };
        assert_eq!(of(&newest, "quiet"), (Some(1), Some(picture.sha256), Some(700.0)));
        assert_eq!(of(&newest, "busy"), (Some(9), None, Some(9.0)));
        assert_eq!(of(&newest, "new"), (None, None, None));
        // Only what is new is read.
        store.commit(&inspected(10, "new", 5.0), None).unwrap();
        newest.read(&store, 3).unwrap();
        assert_eq!(of(&newest, "new"), (Some(10), None, Some(5.0)));
        assert_eq!(newest.by_camera["busy"].times.len(), 3);
    }

    #[test]
    fn times_are_those_of_inspected_parts_and_count_the_late_ones() {
        let mut recent = Recent::default();
        let mut add = |seq, total_ms, verdict| {
            let inspection =
                crate::domain::inspection::Inspection { verdict, ..inspected(seq, "cam1", total_ms) };
            recent.add(&Stored { seq, inspection, image: None });
        };
        add(1, 900.0, Verdict::Pass);
        add(2, f64::NAN, Verdict::Review(Reason::QueueFull));
        add(3, 100.0, Verdict::Pass);
        add(4, 8200.0, Verdict::Review(Reason::Deadline { late_ms: 200 }));
        add(5, 0.0, Verdict::Review(Reason::Interrupted));
        let times = recent.times();
        assert_eq!((times.parts, times.late), (3, 1));
        assert_eq!(
            (times.last_ms, times.median_ms, times.worst_ms),
            (Some(8200.0), Some(900.0), Some(8200.0))
        );
        assert_eq!(recent.last.map(|last| (last.seq, last.reason)), Some((5, "interrupted".into())));
    }
}
