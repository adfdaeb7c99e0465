//! What the line counts and how its parts are: the daemon knows it, and is asked at every scrape.

use super::contract::{
    ALARM, ALARMS, CAMERA_PAUSED, CAMERA_STATE, DEADLINE, DROPPED, DURATION, ENGINE_READY, ENGINE_RESTARTS,
    LAST, LATE, QUEUE, SKIPPED, TRIGGERS, VERDICTS,
};
use super::exposition::{Exposition, flag};
use super::histogram::Histogram;
use crate::domain::camera::{CameraState, CameraStatus};

/// Upper bounds of the buckets of inspection times, in seconds: from a small model on one tile to the slowest line, by
/// steps of about two, with the round deadlines among them.
pub(super) const BUCKETS_S: [f64; 13] =
    [0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0];

/// The words of verdicts, in the order of [`Inspected::verdicts`].
pub(super) const VERDICT_WORDS: [&str; 3] = ["pass", "fail", "review"];

/// Asks the daemon for them.
pub(crate) type Figures = Box<dyn Fn() -> LineFigures + Send + Sync>;

/// All of them at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineFigures {
    pub inspected: Vec<Inspected>,
    /// By camera.
    pub waiting: Vec<Waiting>,
    /// How the cameras are, by id.
    pub cameras: Vec<(String, CameraStatus)>,
    /// Deadline of every active recipe, in seconds.
    pub deadlines: Vec<(String, f64)>,
    /// Every alarm that was heard of since the line's start.
    pub alarms: Vec<Alarm>,
    pub engine: EngineFigures,
}

/// What was inspected by one recipe on one camera since the line's start.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    pub camera: String,
    pub recipe: String,
    /// Pass, fail, review.
    pub verdicts: [u64; 3],
    pub late: u64,
    pub dropped: u64,
    /// Tiles of which a question was not asked.
    pub tiles_skipped: u64,
    pub seconds: Histogram,
    /// When the newest was finished, in seconds since 1970; 0: none yet.
    pub last_s: f64,
}

impl Inspected {
    /// Nothing counted yet.
    pub(crate) fn new(camera: &str, recipe: &str) -> Self {
        Self {
            camera: camera.to_owned(),
            recipe: recipe.to_owned(),
            verdicts: [0; 3],
            late: 0,
            dropped: 0,
            tiles_skipped: 0,
            seconds: Histogram::new(&BUCKETS_S),
            last_s: 0.0,
        }
    }

    /// As the contract names them: camera, recipe.
    fn labels(&self) -> [&str; 2] {
        [&self.camera, &self.recipe]
    }
}

/// What waits for one camera, and behind it.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub camera: String,
    pub frames: usize,
    pub triggers: usize,
}

/// An alarm, by its code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub code: String,
    pub raised: bool,
    /// How often it was raised.
    pub times: u64,
}

/// How the model's process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineFigures {
    pub ready: bool,
    /// Processes that were lost or did not start.
    pub failures: u64,
}

impl LineFigures {
    pub(super) fn write(&self, out: &mut Exposition) {
        self.write_inspected(out);
        out.family(&DEADLINE, self.deadlines.iter().map(|(recipe, s)| ([recipe.as_str()], *s)));
        self.write_cameras(out);
        out.one(&ENGINE_READY, flag(self.engine.ready));
        out.one(&ENGINE_RESTARTS, self.engine.failures as f64);
        let alarms = || self.alarms.iter();
        out.family(&ALARM, alarms().map(|a| ([a.code.as_str()], flag(a.raised))));
        out.family(&ALARMS, alarms().map(|a| ([a.code.as_str()], a.times as f64)));
    }

    fn write_inspected(&self, out: &mut Exposition) {
        let verdicts = self.inspected.iter().flat_map(|i| {
            let [camera, recipe] = i.labels();
            let of = move |(word, n)| ([camera, recipe, word], n as f64);
            VERDICT_WORDS.into_iter().zip(i.verdicts).map(of)
        });
        out.family(&VERDICTS, verdicts);
        let all = || self.inspected.iter();
        out.histograms(&DURATION, all().map(|i| (i.labels(), &i.seconds)));
        out.family(&LATE, all().map(|i| (i.labels(), i.late as f64)));
        out.family(&DROPPED, all().map(|i| (i.labels(), i.dropped as f64)));
        out.family(&SKIPPED, all().map(|i| (i.labels(), i.tiles_skipped as f64)));
        out.family(&LAST, all().map(|i| (i.labels(), i.last_s)));
    }

    fn write_cameras(&self, out: &mut Exposition) {
        let states = [CameraState::Ready, CameraState::Busy, CameraState::Fault];
        let cameras = || self.cameras.iter();
        let by_state = cameras().flat_map(|(id, status)| {
            states.map(|state| ([id.as_str(), state.as_str()], flag(state == status.state)))
        });
        out.family(&CAMERA_STATE, by_state);
        let paused = cameras().map(|(id, status)| ([id.as_str()], flag(status.line.paused)));
        out.family(&CAMERA_PAUSED, paused);
        let waiting = || self.waiting.iter();
        out.family(&QUEUE, waiting().map(|w| ([w.camera.as_str()], w.frames as f64)));
        out.family(&TRIGGERS, waiting().map(|w| ([w.camera.as_str()], w.triggers as f64)));
    }
}
