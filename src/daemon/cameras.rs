//! One thread a camera: trigger -> source -> queue. What the queue drops is recorded as a
//! `review(queue_full)`, and a trigger without a picture as a review, too.
//!
//! ```text
//! clock, or the source itself --.
//!                                +--> capture loop --Source::next--> Frame, with its recipe --> queue
//! dispatcher --Request (deadline)-----'         '-- no picture in time --> review(deadline)
//! ```
//!
//! What kind of device a frame came from is known here and to nobody behind the queue.

use super::anew;
use super::capture_loop::CaptureLoop;
use super::commanded::Orders;
use super::device;
use super::dispatcher::Dispatcher;
use super::intake::Intake;
use super::recorder::Recorder;
use super::station::Station;
use super::taken::Files;
use crate::camera::clip::Clips;
use crate::camera::decode::{Depth, DepthRule};
use crate::camera::kind::SourceConfig;
use crate::camera::kind::folder::Taken;
use crate::camera::window::Window;
use crate::camera::{Source, Stop};
use crate::config::{Camera, Config, TriggerOn};
use crate::domain::camera::CameraLoad;
use crate::domain::frame::Frame;
use crate::domain::pipeline::Pipeline;
use crate::queue::Queue;
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::threads;
use crate::web::metrics::line::Waiting;
use anyhow::Context;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vlm::ModelInfo;

/// A frame and the recipe that judges it: the active one of when its trigger was accepted or, without a trigger, of
/// when it was taken.
pub(super) struct Shot {
    pub frame: Frame,
    pub pipeline: Arc<Pipeline>,
}

/// What the inspector takes from one camera.
#[derive(Clone)]
pub(super) struct Feed {
    pub frames: Arc<Queue<Shot>>,
}

/// The feeds of all cameras, and a bell that rings when one of them has something new.
pub(super) struct Feeds {
    pub feeds: Vec<Feed>,
    pub bell: Receiver<()>,
    /// Rings it.
    pub ring: SyncSender<()>,
}

/// What waits for one camera, and behind it.
#[derive(Clone)]
pub(super) struct Waits {
    frames: Arc<Queue<Shot>>,
    intake: Arc<Intake>,
}

impl Waits {
    /// How much it is now.
    pub(super) fn read(&self) -> Waiting {
        let (frames, triggers) = (self.frames.counters().depth, self.intake.waiting());
        Waiting { camera: self.intake.id().to_owned(), frames, triggers }
    }
}

/// The running cameras.
pub(super) struct Cameras {
    loops: Vec<JoinHandle<()>>,
    waits: Vec<Waits>,
    dispatcher: Arc<Dispatcher>,
    feeds: Mutex<Option<Feeds>>,
}

/// Opens every camera and starts its thread.
///
/// # Errors
/// When a source cannot be opened.
pub(super) fn start(
    config: &Config,
    recipes: &Arc<Registry>,
    store: &Arc<Store>,
    recorder: &Arc<Recorder>,
    station: &Arc<Station>,
    model: &ModelInfo,
    stop: &Stop,
) -> anyhow::Result<Cameras> {
    let (ring, bell) = sync_channel(1);
    let (mut loops, mut feeds, mut intakes) = (vec![], vec![], vec![]);
    for camera in &config.cameras {
        let feed = Feed { frames: Arc::new(Queue::new(camera.queue.policy, camera.queue.frames)) };
        let on_command = camera.trigger.on == TriggerOn::Command;
        let intake = Arc::new(Intake::new(camera, Orders::restore(camera, recipes, store)?));
        let (line, no_recipe) = intake.line();
        station.line(&camera.id, line, no_recipe);
        let source =
            open(camera, store, &intake, station, stop).with_context(|| format!("camera {}", camera.id))?;
        let source = with_clips(source, camera, &intake, stop);
        intakes.push(Arc::clone(&intake));
        let taker = CaptureLoop {
            id: camera.id.clone(),
            source,
            feed: feed.clone(),
            intake,
            on_command,
            recorder: Arc::clone(recorder),
            model: model.clone(),
            interval: camera.trigger.interval_ms.map(Duration::from_millis),
            deadline: camera.trigger.deadline_ms.map(Duration::from_millis),
            stop: stop.clone(),
            bell: ring.clone(),
            window: Window::new(camera.window()),
            station: Arc::clone(station),
            without_own: false,
            under_way: None,
            lost: 0,
        };
        taker.clear_alarm();
        feeds.push(feed);
        loops.push(threads::spawn(&format!("take:{}", camera.id), move || anew::run(taker))?);
    }
    let of = |(feed, intake): (&Feed, &Arc<Intake>)| Waits {
        frames: Arc::clone(&feed.frames),
        intake: Arc::clone(intake),
    };
    let waits = feeds.iter().zip(&intakes).map(of).collect();
    let parts = config.parts.iter().map(|p| (p.name.clone(), p.cameras.clone())).collect();
    let dispatcher = Arc::new(Dispatcher::new(
        intakes,
        parts,
        Arc::clone(recipes),
        Arc::clone(store),
        Arc::clone(station),
    )?);
    Ok(Cameras { loops, waits, dispatcher, feeds: Mutex::new(Some(Feeds { feeds, bell, ring })) })
}

impl Cameras {
    /// Where commands from outside are taken.
    pub(super) fn dispatcher(&self) -> Arc<Dispatcher> {
        Arc::clone(&self.dispatcher)
    }

    /// What waits for each, to be looked at.
    pub(super) fn waits(&self) -> Vec<Waits> {
        self.waits.clone()
    }

    /// Asks what waits at each camera, by id.
    pub(super) fn loads(&self) -> impl Fn() -> Vec<(String, CameraLoad)> + Send + Sync + use<> {
        let waits = self.waits.clone();
        move || {
            let load = |Waits { frames, intake }: &Waits| {
                (intake.id().to_owned(), intake.load(frames.counters().depth))
            };
            waits.iter().map(load).collect()
        }
    }

    /// The inspector's end; there is one inspector, and the second call has no feeds.
    pub(super) fn feeds(&self) -> Feeds {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner).take();
        feeds.unwrap_or_else(|| {
            let (ring, bell) = sync_channel(1);
            Feeds { feeds: vec![], bell, ring }
        })
    }

    /// Closes the queues and waits for the threads; [`Stop`] must be set before.
    pub(super) fn close(self) {
        self.dispatcher.close();
        self.waits.iter().for_each(|w| w.frames.close());
        for thread in self.loops {
            if thread.join().is_err() {
                tracing::error!("a camera's thread panicked");
            }
        }
    }
}

/// A source that takes clips while the pipeline in force asks about them. Each picture of a
/// hardware-triggered camera is a part, so that it has none.
fn with_clips(
    source: Box<dyn Source>,
    camera: &Camera,
    intake: &Arc<Intake>,
    stop: &Stop,
) -> Box<dyn Source> {
    if camera.source.is_line_triggered() {
        return source;
    }
    let intake = Arc::clone(intake);
    Box::new(Clips::new(source, Box::new(move || intake.in_force().clip), stop.clone()))
}

fn open(
    camera: &Camera,
    store: &Arc<Store>,
    intake: &Arc<Intake>,
    station: &Arc<Station>,
    stop: &Stop,
) -> anyhow::Result<Box<dyn Source>> {
    let states = Arc::clone(intake);
    let depth: DepthRule = Arc::new(move || Depth(states.in_force().frame.depth_bits));
    Ok(match &camera.source {
        SourceConfig::Simulator(config) => Box::new(config.open(&camera.id, stop.clone())?),
        SourceConfig::Folder(config) => {
            let (store, intake) = (Arc::clone(store), Arc::clone(intake));
            let taken = || -> anyhow::Result<Box<dyn Taken>> {
                Ok(Box::new(Files::load(store, intake, &camera.id, config.path.clone())?))
            };
            Box::new(config.open(&camera.id, taken, stop.clone())?.with_depth(depth))
        }
        SourceConfig::Device(config) => Box::new(device::open(&camera.id, config, station, stop)?),
    })
}
