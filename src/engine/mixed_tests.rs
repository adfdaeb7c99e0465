//! Tests of two backends as one, by scripted ones.

use super::*;
use crate::engine::{child, cluster};
use std::sync::{Arc, Mutex};
use vlm::{Ask, Features, Finish, Form, Ground, Shown};

/// What a scripted side is told, and what it was asked.
struct Side {
    readiness: Readiness,
    info: ModelInfo,
    /// By id, the texts of its questions; `None`: it has answered.
    jobs: BTreeMap<u64, Vec<String>>,
    cancelled: Vec<u64>,
    answers: bool,
}

struct Scripted {
    side: Arc<Mutex<Side>>,
    abilities: Abilities,
    info: ModelInfo,
    health: Health,
}

/// A side, and the hand that leads it.
fn side(name: &str, abilities: &Abilities) -> (Box<dyn Backend>, Arc<Mutex<Side>>) {
    let info = ModelInfo { name: name.into(), text_sha256: format!("t-{name}"), ..ModelInfo::default() };
    let (readiness, jobs, cancelled) = (Readiness::Ready, BTreeMap::new(), vec![]);
    let hand = Arc::new(Mutex::new(Side { readiness, info: info.clone(), jobs, cancelled, answers: true }));
    let (abilities, health) = (abilities.clone(), Health::default());
    (Box::new(Scripted { side: Arc::clone(&hand), abilities, info, health }), hand)
}

/// The answer to a question: its own text.
fn echo(text: &str) -> Completion {
    let (finish, ground) = (Finish::Stop, Ground::Constrained);
    Completion { text: text.into(), tokens: vec![], prompt_ids: vec![], finish, ground, cells: None }
}

impl Backend for Scripted {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn readiness(&self) -> Readiness {
        self.side.lock().unwrap().readiness.clone()
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        0
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn submit(&mut self, id: u64, _: Rank, job: Job) {
        let mut side = self.side.lock().unwrap();
        assert_eq!(side.readiness, Readiness::Ready, "it is asked only when it is there");
        let texts = job.asks.iter().map(|ask| ask.text.to_string()).collect();
        assert!(side.jobs.insert(id, texts).is_none(), "a job is asked once");
    }

    fn cancel(&mut self, id: u64) {
        self.side.lock().unwrap().cancelled.push(id);
    }

    fn next(&mut self, _: Duration, _: bool, out: &mut Vec<Answered>) {
        let mut side = self.side.lock().unwrap();
        self.info.clone_from(&side.info);
        if side.answers {
            out.extend(std::mem::take(&mut side.jobs).into_iter().map(|(id, texts)| {
                let answers = texts.iter().map(|text| Ok(echo(text))).collect();
                Answered { id, answers, timing: Timing::default() }
            }));
        }
    }
}

struct Rig {
    both: Mixed,
    here: Arc<Mutex<Side>>,
    servers: Arc<Mutex<Side>>,
}

impl Rig {
    fn new() -> Self {
        let ((a, here), (b, servers)) = (side("small", &child::ABILITIES), side("big", &cluster::ABILITIES));
        Self { both: Mixed::new(a, b), here, servers }
    }

    fn ask(&mut self, id: u64, asks: &[(&str, bool)]) {
        let ask = |(text, features): &(&str, bool)| match features {
            true => Ask { text: (*text).into(), ..Ask::cells(Features::Backbone) },
            false => Ask::new(text, Form::Free, 9),
        };
        let asks = asks.iter().map(ask).collect();
        let shown = Shown::Images(vec![Arc::new(image::RgbImage::new(8, 8))]);
        let job = Job { shown, min_pixels: 1, max_pixels: 1, asks, adapter: None };
        self.both.abilities().check(&job).expect("both together can");
        self.both.submit(id, Rank::default(), job);
    }

    /// Answers that have come, as `id: answer, answer`.
    fn came(&mut self) -> Vec<String> {
        let mut out = vec![];
        self.both.next(Duration::ZERO, true, &mut out);
        let word = |answer: &Result<Completion, VlmError>| match answer {
            Ok(answer) => answer.text.clone(),
            Err(error) => error.to_string(),
        };
        out.iter()
            .map(|a| format!("{}: {}", a.id, a.answers.iter().map(word).collect::<Vec<_>>().join(", ")))
            .collect()
    }
}

#[test]
fn each_question_is_answered_by_its_side_and_in_its_place() {
    let mut rig = Rig::new();
    rig.here.lock().unwrap().answers = false;
    rig.ask(1, &[("a", false), ("b", true), ("c", false), ("d", true)]);
    rig.ask(2, &[("e", true)]);
    rig.ask(3, &[("f", false)]);
    assert_eq!(
        rig.here.lock().unwrap().jobs,
        [(1, vec!["b".into(), "d".into()]), (2, vec!["e".into()])].into()
    );
    assert_eq!(rig.came(), ["3: f"], "the servers have answered, the process has not");
    rig.here.lock().unwrap().answers = true;
    assert_eq!(rig.came(), ["1: a, b, c, d", "2: e"]);
    assert!(rig.came().is_empty(), "every job is answered once");
    rig.ask(4, &[]);
    assert_eq!(rig.came(), ["4: "]);
}

#[test]
fn servers_that_are_lost_take_their_own_questions_alone() {
    let mut rig = Rig::new();
    let resting = Readiness::Resting { left: Duration::from_secs(9), why: "gpu1 is away".into() };
    rig.servers.lock().unwrap().readiness = resting;
    rig.ask(1, &[("a", true)]);
    rig.ask(2, &[("a", true), ("b", false)]);
    assert_eq!(rig.both.readiness(), Readiness::Ready, "the line goes on");
    assert_eq!(rig.came(), ["1: a", "2: a, no answer: gpu1 is away"]);
}

#[test]
fn a_question_waits_for_servers_that_are_coming_until_it_is_stopped() {
    let mut rig = Rig::new();
    rig.servers.lock().unwrap().readiness = Readiness::Coming { why: "it is asked".into() };
    rig.ask(1, &[("a", false), ("b", true)]);
    rig.ask(2, &[("c", false)]);
    assert!(rig.came().is_empty());
    rig.both.cancel(2);
    assert_eq!(rig.came(), ["2: no answer: it is asked"]);
    rig.servers.lock().unwrap().readiness = Readiness::Ready;
    let mut came = rig.came();
    came.extend(rig.came());
    assert_eq!(came, ["1: a, b"]);
    rig.ask(3, &[("d", false), ("e", true)]);
    rig.both.cancel(3);
    let cancelled = |side: &Arc<Mutex<Side>>| side.lock().unwrap().cancelled.clone();
    assert_eq!((cancelled(&rig.here), cancelled(&rig.servers)), (vec![3], vec![3]));
}

#[test]
fn a_record_names_both_models_and_other_marks_are_another_model() {
    let mut rig = Rig::new();
    assert!(rig.came().is_empty());
    let info = rig.both.identity().clone();
    assert_eq!(info.name, "big, with features of small");
    // printf 't-small\nt-big' | sha256sum
    assert_eq!(info.text_sha256, "f473e145fac51b83b268868fe582947c7ef22558b03db24e38759a7964d8c005");
    for change in [&rig.here, &rig.servers] {
        change.lock().unwrap().info.mmproj_sha256.push('x');
        let before = rig.both.identity().clone();
        let mut out = vec![];
        rig.both.next(Duration::ZERO, true, &mut out);
        assert_ne!(rig.both.identity().mmproj_sha256, before.mmproj_sha256);
    }
    rig.servers.lock().unwrap().info = ModelInfo::default();
    assert!(rig.came().is_empty());
    assert_eq!(rig.both.identity().name, "small", "nobody knows yet which model the servers have");
}
