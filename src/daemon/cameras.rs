//! One thread a camera: source -> queue. What the queue drops is recorded as a review(queue_full).

use super::recorder::Recorder;
use crate::camera::folder::Folder;
use crate::camera::simulator::{Settings, Simulator};
use crate::camera::{CameraError, Source, Stop};
use crate::config::{Camera, Config, SourceConfig};
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::pipeline::Pipeline;
use crate::inspect::uninspected;
use crate::queue::{Pushed, Queue};
use crate::simulator::Product;
use crate::vlm::ModelInfo;
use anyhow::Context;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A source that fails is asked again after this long, so that it does not fill the log.
const RETRY: Duration = Duration::from_secs(1);

/// What the inspector takes from one camera.
#[derive(Clone)]
pub struct Feed {
    pub frames: Arc<Queue<Frame>>,
    pub pipeline: Arc<Pipeline>,
}

/// The feeds of all cameras, and a bell that rings when one of them has something new.
pub struct Feeds {
    pub feeds: Vec<Feed>,
    pub bell: Receiver<()>,
}

/// The running cameras.
pub struct Cameras {
    threads: Vec<JoinHandle<()>>,
    queues: Vec<Arc<Queue<Frame>>>,
    feeds: Mutex<Option<Feeds>>,
}

/// Opens every camera and starts its thread.
///
/// # Errors
/// When a source cannot be opened.
pub fn start(
    config: &Config,
    recorder: &Arc<Recorder>,
    model: &ModelInfo,
    stop: &Stop,
) -> anyhow::Result<Cameras> {
    let (ring, bell) = sync_channel(1);
    let (mut threads, mut feeds) = (vec![], vec![]);
    for camera in &config.cameras {
        let source = open(camera, stop).with_context(|| format!("camera {}", camera.id))?;
        let pipeline =
            config.pipelines.get(&camera.pipeline).context("the config names only known pipelines")?;
        let feed = Feed {
            frames: Arc::new(Queue::new(camera.queue.policy, camera.queue.frames)),
            pipeline: Arc::new(pipeline.clone()),
        };
        let taker = Taker {
            id: camera.id.clone(),
            source,
            feed: feed.clone(),
            recorder: Arc::clone(recorder),
            model: model.clone(),
            interval: camera.trigger.interval_ms.map(Duration::from_millis),
            stop: stop.clone(),
            bell: ring.clone(),
        };
        feeds.push(feed);
        threads.push(std::thread::Builder::new().name(camera.id.clone()).spawn(move || taker.run())?);
    }
    let queues = feeds.iter().map(|f| Arc::clone(&f.frames)).collect();
    Ok(Cameras { threads, queues, feeds: Mutex::new(Some(Feeds { feeds, bell })) })
}

impl Cameras {
    /// The inspector's end; there is one inspector, and the second call has no feeds.
    pub fn feeds(&self) -> Feeds {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner).take();
        feeds.unwrap_or_else(|| Feeds { feeds: vec![], bell: sync_channel(1).1 })
    }

    /// Closes the queues and waits for the threads; `Stop` must be set before.
    pub fn close(self) {
        self.queues.iter().for_each(|q| q.close());
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a camera's thread panicked");
            }
        }
    }
}

fn open(camera: &Camera, stop: &Stop) -> anyhow::Result<Box<dyn Source>> {
    Ok(match &camera.source {
        SourceConfig::Simulator { product, seed, count, width_px, height_px } => {
            let settings = Settings {
                camera: camera.id.clone(),
                product: Product::by_name(product).context("the config names only known products")?,
                seed: *seed,
                width: *width_px as usize,
                height: *height_px as usize,
                count: *count,
                interval: None,
            };
            Box::new(Simulator::new(settings, stop.clone())?)
        }
        SourceConfig::Folder { path, watch: false } => {
            Box::new(Folder::once(&camera.id, path, stop.clone())?)
        }
        SourceConfig::Folder { path, watch: true } => Box::new(Folder::watch(&camera.id, path, stop.clone())),
    })
}

/// Takes frames from a source as its trigger says.
struct Taker {
    id: String,
    source: Box<dyn Source>,
    feed: Feed,
    recorder: Arc<Recorder>,
    model: ModelInfo,
    interval: Option<Duration>,
    stop: Stop,
    bell: SyncSender<()>,
}

impl Taker {
    fn run(mut self) {
        let mut due = Instant::now();
        let mut fault = None;
        self.tell(None);
        while !self.stop.wait_until(due) {
            due = match self.interval {
                Some(interval) => (due + interval).max(Instant::now()),
                None => Instant::now(),
            };
            match self.source.next() {
                Ok(Some(mut frame)) => {
                    if fault.take().is_some() {
                        self.tell(None);
                    }
                    frame.camera.clone_from(&self.id);
                    if !self.push(frame) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(camera = %self.id, %error, "no picture");
                    self.tell(Some(&error));
                    fault = Some(error);
                    due = due.max(Instant::now() + RETRY);
                }
            }
        }
        self.feed.frames.close();
        self.ring();
    }

    /// False when the queue is closed.
    fn push(&self, frame: Frame) -> bool {
        let open = match self.feed.frames.push(frame) {
            Pushed::Queued => true,
            Pushed::Dropped(lost) => {
                let inspection = uninspected(&lost, &self.feed.pipeline, &self.model, Reason::QueueFull);
                self.recorder.record(&inspection, &lost.pixels, true);
                true
            }
            Pushed::Closed(lost) => {
                tracing::warn!(camera = %self.id, origin = %lost.origin, "taken while stopping, not inspected");
                false
            }
        };
        self.ring();
        open
    }

    /// A bell that rings already needs no second ring.
    fn ring(&self) {
        let _ = self.bell.try_send(());
    }

    fn tell(&self, fault: Option<&CameraError>) {
        use crate::mqtt::message::CameraState::{Fault, Ready};
        let (state, reason) = fault.map_or((Ready, String::new()), |e| (Fault, e.to_string()));
        self.recorder.camera(&self.id, state, reason);
    }
}
