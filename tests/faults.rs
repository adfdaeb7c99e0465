//! No failure of the engine yields a pass, and none stops the line (P5).
//!
//!     parent: the real worker and line --pictures--> child: this test binary, `serve` with a scripted model
//!     the first pixel of a frame says which fault the model has on it
//!
//! Between two faults a good part must pass, so the line is seen to go on.
//! Full counts: `make soak-p5`.

#[path = "common/soak.rs"]
mod soak;

use inspectd::config::pipeline_from_str;
use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::grade::Verdict;
use inspectd::domain::inspection::Inspection;
use inspectd::domain::pipeline::Pipeline;
use inspectd::inspect::worker::serve::serve;
use inspectd::inspect::worker::{EngineError, Worker, WorkerOptions};
use inspectd::inspect::Work;
use inspectd::ipc::{Channel, Program};
use inspectd::vlm::{AnswerToken, Answers, Completion, Finish, Job, ModelInfo, Timing, Vlm, VlmError};
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Set in the child: how its model loads.
const CHILD: &str = "INSPECTD_TEST_ENGINE_CHILD";

/// Faults of the short form; the soak has 2,000.
const FAULTS: usize = 60;

const DEADLINE: Duration = Duration::from_millis(250);
/// The promise is the deadline and 2 s; the engine's own grace is shortened with the deadline.
const GRACE: Duration = Duration::from_millis(150);
const LATE_MAX: Duration = Duration::from_secs(2);

/// What a frame does to the engine; its place is the value of the first pixel.
const GOOD: u8 = 0;
const KINDS: [&str; 12] = [
    "hang",
    "hang_in_a_loop",
    "panic",
    "segfault",
    "abort",
    "exit",
    "nan",
    "garbage_text",
    "garbage_bytes",
    "cut_off",
    "too_few_answers",
    "late",
];

struct Scripted(ModelInfo);

fn says(text: &str, prob: f32, finish: Finish) -> Result<Completion, VlmError> {
    let tokens = vec![AnswerToken { id: 0, start: 0, end: text.len(), prob }];
    Ok(Completion { text: text.into(), tokens, prompt_ids: vec![1], finish })
}

impl Vlm for Scripted {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers {
        let fault = jobs[0].shown.images()[0].get_pixel(0, 0).0[0];
        let mut answer: fn() -> Result<Completion, VlmError> = || says("[]", 0.99, Finish::Stop);
        let mut jobs_answered = jobs.len();
        match fault.checked_sub(1).map(|at| KINDS[usize::from(at)]) {
            None => {}
            Some("hang") => std::thread::sleep(Duration::from_secs(3600)),
            Some("hang_in_a_loop") => loop {
                std::hint::spin_loop();
            },
            Some("panic") => panic!("scripted"),
            // SAFETY: none is wanted: the process must die of it.
            Some("segfault") => unsafe {
                std::hint::black_box(8 as *mut u8).write_volatile(1);
            },
            // SAFETY: as above.
            Some("abort") => unsafe {
                libc::raise(libc::SIGABRT);
            },
            // SAFETY: ends the process at once.
            Some("exit") => unsafe { libc::_exit(3) },
            Some("nan") => answer = || says("[]", f32::NAN, Finish::Stop),
            Some("garbage_text") => answer = || says("{\"bbox\": [[[", 0.9, Finish::Stop),
            Some("garbage_bytes") => {
                // SAFETY: standard input is the socket; nobody else owns this number.
                let mut raw = unsafe { std::fs::File::from_raw_fd(0) };
                raw.write_all(&[0xff; 64]).expect("the socket takes bytes");
                std::thread::sleep(Duration::from_secs(3600));
            }
            Some("cut_off") => {
                answer = || says(r#"[{"bbox_2d":[1,1,2"#, 0.9, Finish::Length);
            }
            Some("too_few_answers") => jobs_answered = 1,
            Some(_) => {
                while keep_going() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                answer = || Err(VlmError::Stopped);
            }
        }
        let jobs = jobs[..jobs_answered].iter().map(|j| j.asks.iter().map(|_| answer()).collect()).collect();
        Answers { jobs, timing: Timing::default() }
    }
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let Ok(load) = std::env::var(CHILD) else { return };
    let channel = Channel::of_this_process().expect("standard input is the socket");
    serve(channel, || match load.as_str() {
        "slow" => {
            std::thread::sleep(Duration::from_secs(2));
            Ok(Box::new(Scripted(ModelInfo::default())) as Box<dyn Vlm>)
        }
        "never" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "refused" => Err(VlmError::NotFinite),
        "panic" => panic!("scripted"),
        _ => Ok(Box::new(Scripted(ModelInfo { name: "scripted".into(), ..ModelInfo::default() }))),
    })
    .expect("the line is there");
}

fn worker(load: &str, idle: Option<Duration>) -> Worker {
    let mut program = Program::new(["--exact", "child", "--nocapture", "--test-threads=1", "--quiet"]);
    program.env.push((CHILD.into(), load.into()));
    let mut options = WorkerOptions::new(program, idle);
    options.grace = GRACE;
    options.load_max = Duration::from_secs(1);
    Worker::new(options)
}

fn recipe() -> Pipeline {
    let text = include_str!("common/scripted.toml");
    pipeline_from_str("scripted.toml", text).expect("the recipe is sound")
}

/// 180 x 100 pixels, so two tiles.
fn frame(kind: u8) -> Frame {
    Frame {
        camera: "cam1".into(),
        pixels: Arc::new(image::RgbImage::from_pixel(180, 100, image::Rgb([kind, 0, 0]))),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger { deadline: Some(DEADLINE), ..Trigger::default() },
        origin: "test".into(),
        replayed: false,
    }
}

/// With a deadline that a start of the process on a busy machine cannot miss.
fn patient(kind: u8) -> Frame {
    Frame {
        trigger: Trigger { deadline: Some(Duration::from_secs(60)), ..Trigger::default() },
        ..frame(kind)
    }
}

fn inspect(worker: &mut Worker, frame: &Frame, recipe: &Pipeline) -> Inspection {
    worker.inspect(&[Work { frame, pipeline: recipe }], &|| {}).remove(0)
}

/// Every kind of fault in turn, each followed by a good part.
fn inject(faults: usize) -> String {
    let (recipe, mut worker) = (recipe(), worker("good", None));
    let began = Instant::now();
    let (mut slowest, mut restarts, mut by_verdict) = (Duration::ZERO, 0, [0; 3]);
    for n in 0..faults {
        let kind = n % KINDS.len();
        let good = inspect(&mut worker, &patient(GOOD), &recipe);
        assert_eq!(good.verdict, Verdict::Pass, "after {n} faults the line goes on");
        assert_eq!(worker.health().fault, None);
        let pid = worker.pid();
        let frame = frame(kind as u8 + 1);
        let inspection = inspect(&mut worker, &frame, &recipe);
        let took = frame.captured.elapsed();
        let at = ["pass", "fail", "review"].iter().position(|v| *v == inspection.verdict.as_str());
        by_verdict[at.expect("a verdict has a word")] += 1;
        assert!(
            matches!(inspection.verdict, Verdict::Review(_)),
            "{}: {:?}",
            KINDS[kind],
            inspection.verdict
        );
        assert!(took < DEADLINE + LATE_MAX, "{}: {took:?}", KINDS[kind]);
        slowest = slowest.max(took);
        restarts += usize::from(worker.pid() != pid);
    }
    assert_eq!(worker.health().losses, restarts as u64, "every loss is counted");
    let [pass, fail, review] = by_verdict;
    format!(
        "P5: {faults} faults of {} kinds, {pass} passes, {fail} fails, {review} reviews, {restarts} engines killed, \
         slowest verdict {} ms after a deadline of {} ms, {:.0} s",
        KINDS.len(),
        slowest.saturating_sub(DEADLINE).as_millis(),
        DEADLINE.as_millis(),
        began.elapsed().as_secs_f64()
    )
}

#[test]
fn p5_no_fault_of_the_engine_yields_a_pass() {
    println!("\n{}", inject(soak::count(FAULTS, 2000)));
}

#[test]
fn a_model_that_cannot_be_loaded_is_an_error_at_the_start_and_a_review_later() {
    let recipe = recipe();
    for (load, words) in [("refused", "not finite"), ("panic", "scripted"), ("never", "not loaded after")] {
        let error = worker(load, None).load(&|| {}).expect_err(load);
        assert!(error.to_string().contains(words), "{load}: {error}");
        let mut later = worker(load, None);
        let inspection = inspect(&mut later, &patient(GOOD), &recipe);
        assert!(matches!(inspection.verdict, Verdict::Review(_)));
        assert!(later.health().fault.as_ref().is_some_and(|f| f.contains(words)), "{:?}", later.health());
    }
    assert!(matches!(worker("never", None).load(&|| {}), Err(EngineError::TooSlow { waited_s: 1 })));
}

#[test]
fn a_slow_load_holds_up_no_frame_and_shows_life_all_the_while() {
    let recipe = recipe();
    let mut program = Program::new(["--exact", "child", "--nocapture", "--test-threads=1", "--quiet"]);
    program.env.push((CHILD.into(), "slow".into()));
    let mut worker = Worker::new(WorkerOptions::new(program, None));
    let late = frame(GOOD);
    let inspection = inspect(&mut worker, &late, &recipe);
    assert!(matches!(inspection.verdict, Verdict::Review(_)), "{:?}", inspection.verdict);
    assert!(late.captured.elapsed() < DEADLINE + Duration::from_secs(1));
    // The same load goes on: it was neither a stall nor begun anew.
    let loading = worker.pid();
    let signs = Mutex::new(vec![Instant::now()]);
    let alive = || signs.lock().unwrap().push(Instant::now());
    let good = worker.inspect(&[Work { frame: &patient(GOOD), pipeline: &recipe }], &alive).remove(0);
    assert_eq!(good.verdict, Verdict::Pass);
    assert_eq!(worker.pid(), loading);
    let signs = signs.into_inner().unwrap();
    assert!(signs.len() > 10, "{} signs of life", signs.len());
    let longest = signs.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    assert!(longest < Duration::from_secs(5), "{longest:?} without a sign of life");
    assert_eq!(worker.health().losses, 0);
}

#[test]
fn an_idle_engine_ends_and_comes_back_with_work() {
    let recipe = recipe();
    let mut worker = worker("good", Some(Duration::ZERO));
    assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    let pid = worker.pid().expect("a process");
    assert!(worker.tend() && worker.pid().is_none());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it ended");
    assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
}

#[test]
fn a_killed_and_a_stopped_engine_are_reviews_and_replaced() {
    let recipe = recipe();
    for signal in [libc::SIGKILL, libc::SIGSTOP] {
        let mut worker = worker("good", None);
        assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
        let pid = worker.pid().expect("a process") as i32;
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        let frame = frame(GOOD);
        assert!(matches!(inspect(&mut worker, &frame, &recipe).verdict, Verdict::Review(_)));
        assert!(frame.captured.elapsed() < DEADLINE + LATE_MAX);
        assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
        assert_eq!(worker.health().losses, 1);
    }
}

#[test]
fn a_frame_that_comes_late_costs_no_engine() {
    let recipe = recipe();
    let mut worker = worker("good", None);
    assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    let pid = worker.pid();
    // It would hang, were the engine asked.
    let late =
        Frame { trigger: Trigger { deadline: Some(Duration::ZERO), ..Trigger::default() }, ..frame(1) };
    assert!(matches!(inspect(&mut worker, &late, &recipe).verdict, Verdict::Review(_)));
    assert_eq!((worker.pid(), worker.health().losses), (pid, 0));
    assert_eq!(inspect(&mut worker, &patient(GOOD), &recipe).verdict, Verdict::Pass);
}
