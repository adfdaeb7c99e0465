//! The scheduler over a backend that a test leads by the hand.

use super::*;
use crate::engine::{Backend, Forms};
use std::time::Duration;
use vlm::{Ask, Form, Ground, Shown};

/// What the backend was given, and what it is to say.
#[derive(Default)]
struct Hand {
    absent: bool,
    /// Ranks and ids, in their order.
    given: Vec<(Rank, u64)>,
    cancelled: Vec<u64>,
    /// To be answered, or stopped.
    answer: Vec<(u64, bool)>,
    /// What it says before it answers.
    say: Vec<(u64, &'static str)>,
    /// Everything that is under way is lost.
    lose: bool,
    wanted: bool,
}

struct Scripted {
    hand: Arc<Mutex<Hand>>,
    health: Health,
    info: ModelInfo,
    under_way: BTreeSet<u64>,
}

/// It knows no schema.
const ABILITIES: Abilities = Abilities {
    forms: Forms { defects: true, lines: true, schema: false, lark: false, cells: false },
    ground: Ground::Constrained,
    images_max: 9,
    pixel_bytes_max: 99,
    clips: false,
    conversations: false,
    adapters: false,
    streams: true,
    prefix_cache: false,
};

fn answers(error: Option<VlmError>) -> Vec<Result<Completion, VlmError>> {
    let said = Completion {
        text: "[]".into(),
        tokens: vec![],
        prompt_ids: vec![],
        finish: vlm::Finish::Stop,
        ground: vlm::Ground::Constrained,
        cells: None,
    };
    vec![error.map_or(Ok(said), Err)]
}

impl Backend for Scripted {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &ABILITIES
    }

    fn readiness(&self) -> Readiness {
        if self.hand.lock().unwrap().absent {
            Readiness::Coming { why: "it is still coming".into() }
        } else {
            Readiness::Ready
        }
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        self.health.losses
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn submit(&mut self, id: u64, rank: Rank, _: Job) {
        self.under_way.insert(id);
        self.hand.lock().unwrap().given.push((rank, id));
    }

    fn cancel(&mut self, id: u64) {
        let mut hand = self.hand.lock().unwrap();
        hand.cancelled.push(id);
        hand.answer.push((id, false));
    }

    fn next(&mut self, wait: Duration, wanted: bool, out: &mut Vec<Answered>) {
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        let mut hand = self.hand.lock().unwrap();
        hand.wanted |= wanted;
        for (id, whole) in std::mem::take(&mut hand.answer) {
            if self.under_way.remove(&id) {
                let error = (!whole).then_some(VlmError::Stopped);
                out.push(Answered { id, answers: answers(error), timing: Timing::default() });
            }
        }
        if std::mem::take(&mut hand.lose) {
            (self.health.losses, self.health.fault) = (self.health.losses + 1, Some("gone".into()));
            for id in std::mem::take(&mut self.under_way) {
                let error = VlmError::Lost { why: "gone".into() };
                out.push(Answered { id, answers: answers(Some(error)), timing: Timing::default() });
            }
        }
    }

    fn deltas(&mut self, out: &mut Vec<Delta>) {
        let say = std::mem::take(&mut self.hand.lock().unwrap().say);
        out.extend(say.into_iter().map(|(id, text)| Delta { id, ask: 0, text: text.into() }));
    }
}

struct Rig {
    engine: Engine,
    hand: Arc<Mutex<Hand>>,
    came: Arc<Mutex<Vec<Answer>>>,
    /// What each order has said, and that it was answered.
    heard: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Rig {
    fn new(absent: bool) -> Self {
        let hand = Arc::new(Mutex::new(Hand { absent, ..Hand::default() }));
        let backend = Scripted {
            hand: Arc::clone(&hand),
            health: Health::default(),
            info: ModelInfo::default(),
            under_way: BTreeSet::new(),
        };
        let engine = Engine::start(Box::new(backend), Box::new(|| {})).unwrap();
        Self { engine, hand, came: Arc::default(), heard: Arc::default() }
    }

    fn order(&self, class: Class, within: Duration) -> Result<OrderId, Full> {
        self.order_of(class, within, Form::Free)
    }

    fn order_of(&self, class: Class, within: Duration, form: Form) -> Result<OrderId, Full> {
        let ask = Ask::new("?", form, 1);
        let job = Job {
            shown: Shown::Images(vec![]),
            min_pixels: 1,
            max_pixels: 1,
            asks: vec![ask],
            adapter: None,
        };
        let (came, heard) = (Arc::clone(&self.came), Arc::clone(&self.heard));
        let reply: Reply = Arc::new(move |event| match event {
            Event::Delta { id, ask: 0, text } => heard.lock().unwrap().push((id, text)),
            Event::Delta { .. } => panic!("there is one question"),
            Event::Answer(answer) => {
                heard.lock().unwrap().push((answer.id, "answered".into()));
                came.lock().unwrap().push(answer);
            }
        });
        self.engine.submit(Order { class, deadline: Instant::now() + within, job, reply })
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Hand, &[Answer]) -> bool) {
        let began = Instant::now();
        while !holds(&self.hand.lock().unwrap(), &self.came.lock().unwrap()) {
            assert!(began.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn answer(&self, id: u64) {
        self.hand.lock().unwrap().answer.push((id, true));
    }
}

const LONG: Duration = Duration::from_mins(10);

#[test]
fn the_line_goes_first_and_in_it_the_earliest_deadline() {
    let rig = Rig::new(true);
    let replay = rig.order(Class::Replay, LONG / 10).unwrap();
    let guest = rig.order(Class::Guest, LONG / 10).unwrap();
    let late = rig.order(Class::Line, LONG).unwrap();
    let soon = rig.order(Class::Line, LONG / 2).unwrap();
    let review = rig.order(Class::Review, LONG / 10).unwrap();
    rig.until("it is wanted", |hand, _| hand.wanted);
    rig.hand.lock().unwrap().absent = false;
    rig.until("all are with it", |hand, _| hand.given.len() == 5);
    let given: Vec<u64> = rig.hand.lock().unwrap().given.iter().map(|(_, id)| *id).collect();
    assert_eq!(given, [soon, late, review, guest, replay]);
    let ranks: Vec<Rank> = rig.hand.lock().unwrap().given.iter().map(|(rank, _)| *rank).collect();
    assert!(ranks.is_sorted(), "the backend sees the same order: {ranks:?}");
}

#[test]
fn what_is_late_is_stopped_wherever_it_is() {
    let rig = Rig::new(false);
    let under_way = rig.order(Class::Line, Duration::from_millis(50)).unwrap();
    rig.until("it was told to stop", |hand, _| hand.cancelled == [under_way]);
    rig.until("it is answered", |_, came| came.len() == 1);
    assert!(matches!(rig.came.lock().unwrap()[0].answers[0], Err(VlmError::Stopped)));
    let waiting = Rig::new(true);
    waiting.order(Class::Line, Duration::from_millis(50)).unwrap();
    waiting.until("it is answered", |_, came| came.len() == 1);
    let came = waiting.came.lock().unwrap();
    assert!(matches!(&came[0].answers[0], Err(VlmError::Lost { why }) if why == "it is still coming"));
    assert!(waiting.hand.lock().unwrap().given.is_empty(), "nobody asks for what is late");
}

#[test]
fn every_order_has_one_reply_whatever_happens_to_it() {
    let rig = Rig::new(false);
    let [answered, cancelled, lost] = [(); 3].map(|()| rig.order(Class::Line, LONG).unwrap());
    rig.until("all are with it", |hand, _| hand.given.len() == 3);
    rig.answer(answered);
    // Twice is as good as once, and so is a number that nobody has.
    for id in [cancelled, cancelled, 4711] {
        rig.engine.cancel(id);
    }
    rig.until("two are answered", |_, came| came.len() == 2);
    rig.hand.lock().unwrap().lose = true;
    rig.until("the third is", |_, came| came.len() == 3);
    rig.answer(lost);
    let after = rig.order(Class::Line, LONG).unwrap();
    rig.until("it goes on", |hand, _| hand.given.last().is_some_and(|(_, id)| *id == after));
    rig.answer(after);
    rig.until("it is answered", |_, came| came.len() == 4);
    let came = rig.came.lock().unwrap();
    let of = |id| came.iter().filter(|a| a.id == id).collect::<Vec<_>>();
    assert!(of(answered).len() == 1 && of(answered)[0].answers[0].is_ok());
    assert!(of(cancelled).len() == 1 && matches!(of(cancelled)[0].answers[0], Err(VlmError::Stopped)));
    assert!(of(lost).len() == 1 && matches!(of(lost)[0].answers[0], Err(VlmError::Lost { .. })));
    assert_eq!(rig.engine.health().losses, 1);
}

#[test]
fn a_loss_takes_the_waiting_of_the_line_and_leaves_other_questions() {
    let rig = Rig::new(false);
    let first: Vec<u64> = (0..UNDER_WAY_MAX).map(|_| rig.order(Class::Line, LONG).unwrap()).collect();
    let waiting = rig.order(Class::Line, LONG).unwrap();
    let guest = rig.order(Class::Guest, LONG).unwrap();
    rig.until("no more are with it", |hand, _| hand.given.len() == UNDER_WAY_MAX);
    rig.hand.lock().unwrap().lose = true;
    rig.until("all of the line are answered", |_, came| came.len() == UNDER_WAY_MAX + 1);
    assert!(rig.came.lock().unwrap().iter().all(|a| matches!(a.answers[0], Err(VlmError::Lost { .. }))));
    rig.until("the guest is with it", |hand, _| hand.given.last().is_some_and(|(_, id)| *id == guest));
    assert!(rig.hand.lock().unwrap().given.iter().all(|(_, id)| *id == guest || first.contains(id)));
    assert!(!first.contains(&waiting));
}

#[test]
fn guests_have_their_room_and_no_more() {
    let rig = Rig::new(true);
    let orders: Vec<_> = (0..=WAITING_MAX).map(|_| rig.order(Class::Guest, LONG)).collect();
    assert!(orders[..WAITING_MAX].iter().all(Result::is_ok));
    assert_eq!(orders[WAITING_MAX], Err(Full));
    assert!(rig.order(Class::Replay, LONG).is_ok(), "another class has a room of its own");
    assert!((0..2 * WAITING_MAX).all(|_| rig.order(Class::Line, LONG).is_ok()), "the line always has");
}

#[test]
fn an_engine_that_ends_answers_what_is_left() {
    let rig = Rig::new(false);
    rig.order(Class::Line, LONG).unwrap();
    rig.until("it is under way", |hand, _| hand.given.len() == 1);
    rig.order(Class::Guest, LONG).unwrap();
    let Rig { engine, came, .. } = rig;
    drop(engine);
    let came = came.lock().unwrap();
    assert_eq!(came.len(), 2);
    assert!(came.iter().all(|a| matches!(a.answers[0], Err(VlmError::Lost { .. }))));
}

#[test]
fn the_line_finds_room_beside_others() {
    let rig = Rig::new(false);
    (0..WAITING_MAX).for_each(|_| assert!(rig.order(Class::Guest, LONG).is_ok()));
    let part = rig.order(Class::Line, LONG).unwrap();
    let is_given = |hand: &Hand| hand.given.iter().any(|(_, id)| *id == part);
    rig.until("it is with the backend, beside its share of guests", |hand, _| {
        is_given(hand) && hand.given.len() >= UNDER_WAY_MAX / 2
    });
    let guests = rig.hand.lock().unwrap().given.iter().filter(|(_, id)| *id != part).count();
    assert!(guests <= UNDER_WAY_MAX / 2, "{guests} guests");
}

#[test]
fn what_a_backend_cannot_answer_has_its_error_at_once() {
    // It would be asked only when it is there.
    let rig = Rig::new(true);
    rig.order_of(Class::Guest, LONG, Form::Schema("{}".into())).unwrap();
    rig.until("it is answered", |_, came| came.len() == 1);
    let came = std::mem::take(&mut *rig.came.lock().unwrap());
    assert!(
        matches!(&came[0].answers[..], [Err(VlmError::Unable { why })] if why.contains("schema")),
        "{came:?}"
    );
    rig.hand.lock().unwrap().absent = false;
    let next = rig.order_of(Class::Guest, LONG, Form::Lines).unwrap();
    rig.until("another is with it", |hand, _| hand.given.len() == 1);
    assert_eq!(rig.hand.lock().unwrap().given[0].1, next, "it was asked nothing that it cannot answer");
    assert!(!rig.engine.abilities().forms.schema, "everybody can see that");
}

#[test]
fn what_is_said_is_heard_before_the_answer_and_nothing_after_it() {
    let rig = Rig::new(false);
    let [one, other] = [(); 2].map(|()| rig.order(Class::Guest, LONG).unwrap());
    rig.until("both are with it", |hand, _| hand.given.len() == 2);
    rig.hand.lock().unwrap().say = vec![(one, "a"), (other, "x"), (one, "b"), (4711, "nobody's")];
    rig.until("all is said", |hand, _| hand.say.is_empty());
    {
        let mut hand = rig.hand.lock().unwrap();
        hand.say.push((one, "c"));
        hand.answer.push((one, true));
    }
    rig.until("it is answered", |_, came| came.len() == 1);
    rig.hand.lock().unwrap().say.push((one, "too late"));
    rig.answer(other);
    rig.until("both are answered", |_, came| came.len() == 2);
    let heard = rig.heard.lock().unwrap();
    let of = |id| heard.iter().filter(|h| h.0 == id).map(|h| h.1.as_str()).collect::<Vec<_>>();
    assert_eq!(of(one), ["a", "b", "c", "answered"]);
    assert_eq!(of(other), ["x", "answered"]);
    assert!(of(4711).is_empty());
}
