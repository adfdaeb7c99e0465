//! No failure of the engine yields a pass, and none stops the line (P5).
//!
//! ```text
//! parent: the real engine room and line --pictures--> child: this test binary, `serve` with a scripted model
//! the first pixel of a frame says which fault the model has on it
//! ```
//!
//! Between two faults a good part must pass, so the line is seen to go on.
//! Full counts: `make soak-p5`.

#[path = "common/room.rs"]
mod room;
#[path = "common/soak.rs"]
mod soak;

use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::grade::Verdict;
use inspectd::domain::pipeline::Pipeline;
use inspectd::engine::child::Child;
use inspectd::engine::child::serve::serve;
use inspectd::engine::{Answer, Backend as _, Class, Engine, EngineError, Event, Order};
use inspectd::ipc::Channel;
use inspectd::recipe::pipeline_from_str;
use room::inspect;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};
use vlm::{
    AnswerToken, Answered, Ask, Completion, Delta, Finish, Form, Ground, Job, ModelInfo, Rank, Shown, Steps,
    Timing, VlmError,
};

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

/// Those that cost the engine its process.
const LOST: [&str; 8] =
    ["hang", "hang_in_a_loop", "panic", "segfault", "abort", "exit", "garbage_bytes", "too_few_answers"];

/// Does with each job what its picture says.
#[derive(Default)]
struct Scripted {
    info: ModelInfo,
    jobs: Vec<(u64, Job)>,
    /// It has answered one job of a frame that gets no more.
    has_answered: bool,
    /// Of questions that stream.
    deltas: Vec<Delta>,
}

/// A question that is answered out of turn, and one that is answered without end.
const OUT_OF_TURN: &str = "out of turn";
const WITHOUT_END: &str = "without end";

fn says(text: &str, prob: f32, finish: Finish) -> Result<Completion, VlmError> {
    let tokens = vec![AnswerToken { id: 0, start: 0, end: text.len(), prob }];
    Ok(Completion {
        text: text.into(),
        tokens,
        prompt_ids: vec![1],
        finish,
        ground: Ground::Constrained,
        cells: None,
    })
}

impl Steps for Scripted {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn submit(&mut self, id: u64, _: Rank, job: Job) {
        self.jobs.push((id, job));
    }

    fn cancel(&mut self, id: u64) -> Option<Answered> {
        let at = self.jobs.iter().position(|(job, _)| *job == id)?;
        let (id, job) = self.jobs.remove(at);
        let answers = job.asks.iter().map(|_| Err(VlmError::Stopped)).collect();
        Some(Answered { id, answers, timing: Timing::default() })
    }

    fn step(&mut self, out: &mut Vec<Answered>) -> bool {
        let Some((id, job)) = self.jobs.pop() else { return false };
        let fault = job.shown.images()[0].get_pixel(0, 0).0[0];
        let mut answer: fn() -> Result<Completion, VlmError> = || says("[]", 0.99, Finish::Stop);
        match fault.checked_sub(1).map(|at| KINDS[usize::from(at)]) {
            None => {}
            Some("hang") => std::thread::sleep(Duration::from_hours(1)),
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
                std::thread::sleep(Duration::from_hours(1));
            }
            Some("cut_off") => {
                answer = || says(r#"[{"bbox_2d":[1,1,2"#, 0.9, Finish::Length);
            }
            // The others are forgotten, and nothing is said of them when they are to be stopped.
            Some("too_few_answers") if std::mem::replace(&mut self.has_answered, true) => {
                return !self.jobs.is_empty();
            }
            Some("too_few_answers") => {}
            // Not before it is stopped.
            Some(_) => {
                std::thread::sleep(Duration::from_millis(1));
                self.jobs.push((id, job));
                return true;
            }
        }
        for (ask, question) in job.asks.iter().enumerate().filter(|(_, question)| question.streams) {
            let (ask, pieces, text) = match &*question.text {
                OUT_OF_TURN => (ask + 1, 1, "[]".to_owned()),
                WITHOUT_END => (ask, 40, " ".repeat(1 << 20)),
                _ => (ask, 2, "é".to_owned()),
            };
            self.deltas.extend((0..pieces).map(|_| Delta { id, ask, text: text.clone() }));
            answer = || says("éé", 0.9, Finish::Stop);
        }
        let answers = job.asks.iter().map(|_| answer()).collect();
        out.push(Answered { id, answers, timing: Timing::default() });
        !self.jobs.is_empty()
    }

    fn deltas(&mut self, out: &mut Vec<Delta>) {
        out.append(&mut self.deltas);
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
            Ok(Box::new(Scripted::default()) as Box<dyn Steps>)
        }
        "never" => loop {
            std::thread::sleep(Duration::from_hours(1));
        },
        "refused" => Err(VlmError::NotFinite),
        "panic" => panic!("scripted"),
        _ => {
            let info = ModelInfo { name: "scripted".into(), ..ModelInfo::default() };
            Ok(Box::new(Scripted { info, ..Scripted::default() }))
        }
    })
    .expect("the line is there");
}

fn backend(load: &str, idle: Option<Duration>) -> Child {
    let mut options = room::options("child", (CHILD.into(), load.into()));
    options.unload_after_idle = idle;
    options.grace = GRACE;
    options.load_max = Duration::from_secs(1);
    Child::new(options)
}

fn engine(load: &str) -> Engine {
    room::start(backend(load, None))
}

/// Waits until the condition holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
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
    Frame { trigger: Trigger { deadline: Some(Duration::from_mins(1)), ..Trigger::default() }, ..frame(kind) }
}

/// Every kind of fault in turn, each followed by a good part.
fn inject(faults: usize) -> String {
    let (recipe, engine) = (recipe(), engine("good"));
    let began = Instant::now();
    let (mut slowest, mut by_verdict) = (Duration::ZERO, [0; 3]);
    for n in 0..faults {
        let kind = n % KINDS.len();
        let good = inspect(&engine, &patient(GOOD), &recipe);
        assert_eq!(good.verdict, Verdict::Pass, "after {n} faults the line goes on");
        until("the fault is over", || engine.health().fault.is_none());
        let (pid, losses) = (engine.pid(), engine.health().losses);
        let frame = frame(kind as u8 + 1);
        let inspection = inspect(&engine, &frame, &recipe);
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
        if LOST.contains(&KINDS[kind]) {
            until(KINDS[kind], || engine.health().losses == losses + 1);
            until("another process is there", || engine.pid().is_some_and(|new| Some(new) != pid));
        } else {
            assert_eq!((engine.pid(), engine.health().losses), (pid, losses), "{}", KINDS[kind]);
        }
    }
    let [pass, fail, review] = by_verdict;
    format!(
        "P5: {faults} faults of {} kinds, {pass} passes, {fail} fails, {review} reviews, {} engines killed, slowest \
         verdict {} ms after a deadline of {} ms, {:.0} s",
        KINDS.len(),
        engine.health().losses,
        slowest.saturating_sub(DEADLINE).as_millis(),
        DEADLINE.as_millis(),
        began.elapsed().as_secs_f64()
    )
}

#[test]
fn p5_no_fault_of_the_engine_yields_a_pass() {
    soak::report(&inject(soak::count(FAULTS, 2000)));
}

#[test]
fn a_model_that_cannot_be_loaded_is_an_error_at_the_start_and_a_review_later() {
    let recipe = recipe();
    for (load, words) in [("refused", "not finite"), ("panic", "scripted"), ("never", "not loaded after")] {
        let error = backend(load, None).load(&|| {}, &|| true).expect_err(load);
        assert!(error.to_string().contains(words), "{load}: {error}");
        let later = engine(load);
        let frame = Frame {
            trigger: Trigger { deadline: Some(Duration::from_secs(3)), ..Trigger::default() },
            ..frame(GOOD)
        };
        let inspection = inspect(&later, &frame, &recipe);
        assert!(matches!(inspection.verdict, Verdict::Review(_)));
        assert!(later.health().fault.as_ref().is_some_and(|f| f.contains(words)), "{:?}", later.health());
    }
    assert!(matches!(
        backend("never", None).load(&|| {}, &|| true),
        Err(EngineError::TooSlow { waited_s: 1 })
    ));
}

#[test]
fn a_load_that_nobody_waits_for_is_given_up_and_its_process_is_gone() {
    // Its model is never there. It is asked before each step: the first one starts the process.
    let asked = std::cell::Cell::new(0);
    let go_on = || asked.replace(asked.get() + 1) < 1;
    let mut child = backend("never", None);
    assert_eq!(child.load(&|| {}, &go_on), Err(EngineError::GivenUp));
    assert_eq!((asked.get(), child.pid()), (2, None));
    assert_eq!((child.health().losses, child.failures()), (0, 0), "it was not lost");
}

#[test]
fn a_slow_load_holds_up_no_frame_and_goes_on() {
    let recipe = recipe();
    let engine = room::start(Child::new(room::options("child", (CHILD.into(), "slow".into()))));
    let late = frame(GOOD);
    let inspection = inspect(&engine, &late, &recipe);
    assert!(matches!(inspection.verdict, Verdict::Review(_)), "{:?}", inspection.verdict);
    assert!(late.captured.elapsed() < DEADLINE + Duration::from_secs(1));
    // The same load goes on: it was not begun anew.
    let loading = engine.pid();
    assert!(loading.is_some());
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    assert_eq!((engine.pid(), engine.health().losses), (loading, 0));
}

#[test]
fn an_idle_engine_ends_and_comes_back_with_work() {
    let recipe = recipe();
    let engine = room::start(backend("good", Some(Duration::from_millis(200))));
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    let pid = engine.pid();
    until("it ended", || engine.pid().is_none());
    if let Some(pid) = pid {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it ended");
    }
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
}

/// The states of a process's threads, as `ps` shows them; none once it is gone.
fn threads(pid: i32) -> Vec<char> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return vec![] };
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

#[test]
fn a_killed_and_a_stopped_engine_are_reviews_and_replaced() {
    let recipe = recipe();
    for signal in [libc::SIGKILL, libc::SIGSTOP] {
        let engine = engine("good");
        assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
        let pid = engine.pid().expect("a process") as i32;
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        // The thread that answers goes on until another one of its process has seen the signal.
        until("no thread of it runs", || threads(pid).iter().all(|state| "TZX".contains(*state)));
        let frame = frame(GOOD);
        let verdict = inspect(&engine, &frame, &recipe).verdict;
        // A killed one may be replaced in time, a stopped one is not noticed before.
        assert!(signal == libc::SIGKILL || matches!(verdict, Verdict::Review(_)), "{verdict:?}");
        assert!(frame.captured.elapsed() < DEADLINE + LATE_MAX);
        until("the loss is noticed", || engine.health().losses == 1);
        assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    }
}

#[test]
fn a_frame_that_comes_late_costs_no_engine() {
    let recipe = recipe();
    let engine = engine("good");
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
    let pid = engine.pid();
    // It would hang, were the engine asked.
    let late =
        Frame { trigger: Trigger { deadline: Some(Duration::ZERO), ..Trigger::default() }, ..frame(1) };
    assert!(matches!(inspect(&engine, &late, &recipe).verdict, Verdict::Review(_)));
    assert_eq!((engine.pid(), engine.health().losses), (pid, 0));
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe).verdict, Verdict::Pass);
}

/// Asks what streams, with a picture that shows nothing; what was said, and the answer.
fn hear(engine: &Engine, questions: &[&str]) -> (Vec<(usize, String)>, Answer) {
    until("it is there", || {
        engine.want();
        engine.readiness() == inspectd::engine::Readiness::Ready
    });
    let picture = Arc::new(image::RgbImage::new(32, 32));
    let ask = |text: &&str| Ask { streams: true, ..Ask::new(text, Form::Free, 9) };
    let asks = questions.iter().map(ask).collect();
    let job =
        Job { shown: Shown::Images(vec![picture]), min_pixels: 1024, max_pixels: 1024, asks, adapter: None };
    let (heard, events) = mpsc::channel();
    let reply = Arc::new(move |event| heard.send(event).expect("somebody listens"));
    let deadline = Instant::now() + Duration::from_mins(1);
    engine.submit(Order { class: Class::Guest, deadline, job, reply }).expect("there is room");
    let mut said = vec![];
    loop {
        match events.recv_timeout(Duration::from_mins(1)).expect("it is answered") {
            Event::Delta { ask, text, .. } => said.push((ask, text)),
            Event::Answer(answer) => return (said, answer),
        }
    }
}

#[test]
fn what_a_model_says_is_heard_before_its_answer() {
    let engine = engine("good");
    let (said, answer) = hear(&engine, &["one", "two"]);
    let of = |ask: usize| -> String {
        said.iter().filter(|(of, _)| *of == ask).map(|(_, text)| text.as_str()).collect()
    };
    assert_eq!(said.len(), 4, "piece by piece: {said:?}");
    for (ask, answer) in answer.answers.iter().enumerate() {
        assert_eq!(of(ask), answer.as_ref().expect("it is answered").text);
    }
}

#[test]
fn a_model_that_says_what_it_was_not_asked_is_lost() {
    let engine = engine("good");
    for (losses, question) in [OUT_OF_TURN, WITHOUT_END].into_iter().enumerate() {
        assert_eq!(engine.health().losses, losses as u64);
        let (_, answer) = hear(&engine, &[question]);
        assert!(matches!(answer.answers[..], [Err(VlmError::Lost { .. })]), "{question}: {answer:?}");
        until("the loss is shown", || engine.health().losses == losses as u64 + 1);
    }
    assert_eq!(inspect(&engine, &patient(GOOD), &recipe()).verdict, Verdict::Pass, "the line goes on");
}
