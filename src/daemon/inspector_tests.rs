//! The inspector with two cameras and an engine that takes its time for every tile.
//!
//! ```text
//! feeds of a fast and of a slow camera --> inspector --> engine: this test binary, `child`
//!                                              '--> store, where each verdict is looked up
//! ```

use super::super::cameras::Feed;
use super::*;
use crate::camera::Stop;
use crate::domain::frame::{Frame, Trigger};
use crate::domain::grade::{Reason, Verdict};
use crate::engine::child::serve::serve;
use crate::engine::child::{Child, ChildOptions};
use crate::inspect::proof::{ByNamedProof, ByProof};
use crate::ipc::{Channel, Program};
use crate::queue::{Policy, Pushed, Queue};
use crate::recipe::pipeline_from_str;
use crate::store::{Store, StoreOptions};
use std::sync::mpsc::sync_channel;
use std::time::{Instant, SystemTime};
use vlm::{AnswerToken, Answered, Completion, Finish, Ground, Job, ModelInfo, Rank, Steps, Timing, VlmError};

/// Set in the child.
const CHILD: &str = "INSPECTD_TEST_INSPECTOR_CHILD";
/// What the engine takes for a tile.
const TILE: Duration = Duration::from_millis(100);
/// Tiles of a part: the fast camera's is done in a tenth of its deadline, the slow one's takes longer than that
/// deadline.
const FAST_TILES: u32 = 1;
const SLOW_TILES: u32 = 15;
const FAST: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(30);
/// Parts of the fast camera; the slow one has so many for each of them that one is always waiting.
const PARTS: usize = 3;
/// Ends a test that waits in vain.
const PATIENCE: Duration = Duration::from_mins(2);

/// Finds nothing, and works on a tile for as long as a real model would; the best rank first.
struct Steady(ModelInfo, Vec<(Rank, u64, Job)>);

impl Steps for Steady {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        self.1.push((rank, id, job));
        self.1.sort_by_key(|(rank, id, _)| (*rank, *id));
    }

    fn cancel(&mut self, id: u64) -> Option<Answered> {
        let at = self.1.iter().position(|(_, job, _)| *job == id)?;
        self.1.remove(at);
        Some(Answered { id, answers: vec![Err(VlmError::Stopped)], timing: Timing::default() })
    }

    fn step(&mut self, out: &mut Vec<Answered>) -> bool {
        if self.1.is_empty() {
            return false;
        }
        std::thread::sleep(TILE);
        let (_, id, _) = self.1.remove(0);
        let tokens = vec![AnswerToken { id: 0, start: 0, end: 2, prob: 0.99 }];
        let (finish, ground) = (Finish::Stop, Ground::Constrained);
        let nothing =
            Completion { text: "[]".into(), tokens, prompt_ids: vec![1], finish, ground, cells: None };
        out.push(Answered { id, answers: vec![Ok(nothing)], timing: Timing::default() });
        !self.1.is_empty()
    }
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let info = ModelInfo { name: "steady".into(), ..ModelInfo::default() };
    let channel = Channel::of_this_process().expect("standard input is the socket");
    serve(channel, || Ok(Box::new(Steady(info, vec![])) as Box<dyn Steps>)).expect("the line is there");
}

/// An engine that is there: no part waits for its start.
fn engine() -> Engine {
    let mut program = Program::new(["--exact", "daemon::inspector::tests::child", "--nocapture"]);
    program.env.push((CHILD.into(), "1".into()));
    let admission = Arc::new(ByProof(Arc::new(ByNamedProof)));
    let mut child = Child::new(ChildOptions::new(program, None, admission));
    child.load(&|| {}, &|| true).expect("it loads");
    Engine::start(Box::new(child), Box::new(|| {})).expect("it starts")
}

fn shot(camera: &str, tiles: u32, deadline: Duration) -> Shot {
    let text = include_str!("../../tests/common/scripted.toml");
    let pipeline = Arc::new(pipeline_from_str("scripted.toml", text).expect("the recipe is sound"));
    let frame = Frame {
        camera: camera.into(),
        pixels: Arc::new(image::RgbImage::new(100 * tiles, 100)),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger { deadline: Some(deadline), ..Trigger::default() },
        origin: "test".into(),
        replayed: false,
    };
    Shot { frame, pipeline }
}

/// Camera and verdict of every part so far, the newest first.
fn verdicts(store: &Store) -> Vec<(String, Verdict)> {
    let read = store.newest_first().map(|stored| stored.expect("the record reads").inspection);
    read.map(|part| (part.camera, part.verdict)).collect()
}

/// Who needs a second does not wait for who has thirty.
#[test]
fn a_camera_with_a_short_deadline_does_not_wait_for_the_parts_of_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).expect("it opens"));
    let station = Arc::new(Station::new(tokio::sync::mpsc::channel(256).0));
    let recorder = Recorder::new(Arc::clone(&store), Arc::clone(&station), Stop::default(), false);
    let recorder = Arc::new(recorder.expect("it starts"));
    let [fast, slow] = [(); 2].map(|()| Arc::new(Queue::new(Policy::Wait, 2 * PARTS)));
    let (ring, bell) = sync_channel(1);
    let feeds = [&fast, &slow].map(|queue| Feed { frames: Arc::clone(queue) });
    let feeds = Feeds { feeds: feeds.into(), bell, ring: ring.clone() };
    let history = FrameHistory::new(Arc::clone(&store));
    let inspector = start(Arc::new(engine()), feeds, recorder, station, history).expect("it starts");
    let take = |queue: &Queue<Shot>, shot| {
        assert!(matches!(queue.push(shot), Pushed::Queued), "there is room");
        // Full: it has been rung already.
        let _ = ring.try_send(());
    };
    (0..2 * PARTS).for_each(|_| take(&slow, shot("slow", SLOW_TILES, SLOW)));
    for part in 1..=PARTS {
        take(&fast, shot("fast", FAST_TILES, FAST));
        let began = Instant::now();
        while verdicts(&store).iter().filter(|(camera, _)| camera == "fast").count() < part {
            assert!(began.elapsed() < PATIENCE, "part {part} was never judged");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    fast.close();
    slow.close();
    inspector.join().expect("it ends when nothing more comes");
    let judged = verdicts(&store);
    let others = judged
        .iter()
        .filter(|(_, verdict)| !matches!(verdict, Verdict::Pass | Verdict::Review(Reason::Deadline { .. })));
    assert_eq!(
        others.collect::<Vec<_>>(),
        Vec::<&(String, Verdict)>::new(),
        "nothing else is wrong with a part"
    );
    let late: Vec<_> = judged.iter().filter(|(_, verdict)| *verdict != Verdict::Pass).collect();
    assert!(late.is_empty(), "{} of {} parts are late: {late:?}", late.len(), judged.len());
}
