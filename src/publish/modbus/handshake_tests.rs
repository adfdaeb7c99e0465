//! Tests of the handshake: by transition, and with a PLC that does anything.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::SystemTime;

const PLC: Client = 7;
const DEADLINE: Duration = Duration::from_secs(8);
const WATCHDOG: Duration = Duration::from_secs(1);
const LOW: u16 = control::ENABLE;
const TRIGGER: u16 = control::ENABLE | control::TRIGGER;
const ACK: u16 = control::ENABLE | control::RESULT_ACK;
const CHANGE: u16 = control::ENABLE | control::RECIPE_CHANGE;
const RESET: u16 = control::ENABLE | control::RESET;

fn setup(keep_results: bool) -> Setup {
    let recipes = BTreeMap::from([(1, "plate".to_owned()), (2, "photo".to_owned())]);
    Setup { unit: 1, epoch: 42, config_checksum: 0xdead_beef, recipes, watchdog: WATCHDOG, keep_results }
}

fn online() -> Line {
    let pipeline = "plate".to_owned();
    Line { online: true, is_triggered: true, pipeline, deadline: DEADLINE, ..Line::default() }
}

fn part_result(correlation_id: &str, part_id: &str, outcome: Outcome) -> PartResult {
    PartResult {
        camera: "cam1".into(),
        inspection_id: format!("{correlation_id:>26}"),
        seq: 1,
        part_id: Some(part_id.into()),
        lot: None,
        correlation_id: Some(correlation_id.into()),
        outcome,
        grade: Grade::Ok,
        reason: (outcome != Outcome::Pass).then_some("finding"),
        findings: 3,
        score: 0.25,
        latency_ms: 70_000.4,
        pipeline: "photo".into(),
        pipeline_version: "1".into(),
        captured_at: SystemTime::UNIX_EPOCH,
        finished_at: SystemTime::UNIX_EPOCH,
    }
}

/// A handshake, and a clock that only a test turns.
struct Bench {
    handshake: Handshake,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(setup(true))
    }

    fn with(setup: Setup) -> Self {
        let now = Instant::now();
        let mut handshake = Handshake::new(setup, now);
        handshake.line(online(), now);
        Self { handshake, now }
    }

    fn control(&mut self, word: u16) {
        self.handshake.write(PLC, CONTROL, &[word], self.now).unwrap();
    }

    fn name(&mut self, part_id: &str) {
        self.handshake.write(PLC, PART_ID, &words_of(part_id, PART_WORDS), self.now).unwrap();
    }

    fn pass_time(&mut self, time: Duration) {
        self.now += time;
        self.handshake.tick(self.now);
    }

    fn get(&self, word: Out) -> u32 {
        self.handshake.image(self.now).get(word)
    }

    fn has(&self, bit: u16) -> bool {
        self.get(Out::Status) as u16 & bit != 0
    }

    fn error(&self) -> &'static str {
        codes::ERRORS[self.get(Out::ErrorCode) as usize].word
    }

    fn echo(&self) -> String {
        let at = Out::PartIdEcho.register().address as usize;
        text_of(&self.handshake.image(self.now).0[at..at + PART_WORDS]).unwrap()
    }

    /// The trigger that was asked for.
    fn asked(&mut self) -> (u32, String) {
        let actions = self.handshake.actions();
        let [Action::Trigger { number, correlation_id, .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        (*number, correlation_id.clone())
    }

    /// Triggers a part, and the station takes it.
    fn trigger(&mut self, part_id: &str) -> String {
        self.name(part_id);
        self.control(TRIGGER);
        let (number, correlation_id) = self.asked();
        self.handshake.taken(number, Ok(()), self.now);
        assert!(self.has(status::TRIGGER_ACK));
        self.control(LOW);
        correlation_id
    }

    /// Triggers a part that passes.
    fn inspect(&mut self, part_id: &str) {
        let id = self.trigger(part_id);
        self.handshake.result(part_result(&id, part_id, Outcome::Pass));
    }
}

#[test]
fn a_part_goes_from_ready_to_its_result() {
    let mut bench = Bench::new();
    assert!(!bench.has(status::READY), "nobody has enabled it");
    bench.control(LOW);
    assert!(bench.has(status::READY) && bench.has(status::ONLINE) && bench.has(status::ENABLED));
    bench.name("P1");
    bench.control(TRIGGER);
    assert!(bench.has(status::BUSY) && bench.has(status::ACQUIRING) && !bench.has(status::READY));
    assert_eq!(bench.get(Out::TriggerCount), 1, "the count stands before the acknowledgement");
    assert!(!bench.has(status::TRIGGER_ACK));
    let (number, id) = bench.asked();
    bench.handshake.taken(number, Ok(()), bench.now);
    assert!(bench.has(status::TRIGGER_ACK) && !bench.has(status::READY));
    bench.control(LOW);
    assert!(!bench.has(status::TRIGGER_ACK) && bench.has(status::READY) && bench.has(status::BUSY));
    bench.now += Duration::from_millis(100);
    bench.handshake.line(online(), bench.now);
    assert!(!bench.has(status::ACQUIRING), "its picture is taken");

    bench.handshake.result(part_result(&id, "P1", Outcome::Fail));
    assert!(bench.has(status::RESULT_VALID) && bench.has(status::FAIL) && !bench.has(status::BUSY));
    let words = [Out::Verdict, Out::Reason, Out::Findings, Out::Score, Out::Latency, Out::ResultRecipe];
    assert_eq!(words.map(|word| bench.get(word)), [2, 1, 3, 250, 70_000, 2]);
    let counts = [Out::ResultCount, Out::ResultTrigger, Out::BuffersFree, Out::Recipe, Out::Epoch];
    assert_eq!(counts.map(|word| bench.get(word)), [1, 1, 9, 1, 42]);
    assert_eq!((bench.echo().as_str(), bench.get(Out::ConfigChecksum)), ("P1", 0xdead_beef));
    bench.control(ACK);
    assert!(!bench.has(status::RESULT_VALID) && !bench.has(status::FAIL));
    assert_eq!((bench.get(Out::Verdict), bench.echo().as_str(), bench.get(Out::ResultCount)), (0, "", 1));
    assert_eq!(bench.get(Out::BuffersFree), 10);
}

#[test]
fn the_next_result_comes_after_the_acknowledgement_has_fallen() {
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.inspect("P1");
    bench.inspect("P2");
    assert_eq!(bench.echo(), "P1");
    bench.control(ACK);
    assert!(!bench.has(status::RESULT_VALID));
    bench.inspect_while(ACK, "P3");
    assert!(!bench.has(status::RESULT_VALID), "the bit is stuck");
    bench.control(LOW);
    assert_eq!((bench.echo().as_str(), bench.get(Out::ResultCount)), ("P2", 2));
}

impl Bench {
    /// As `inspect`, with other bits of control standing.
    fn inspect_while(&mut self, bits: u16, part_id: &str) {
        self.name(part_id);
        self.control(bits | control::TRIGGER);
        let (number, id) = self.asked();
        self.handshake.taken(number, Ok(()), self.now);
        self.control(bits);
        self.handshake.result(part_result(&id, part_id, Outcome::Pass));
    }
}

#[test]
fn a_trigger_is_refused_with_its_reason() {
    let mut bench = Bench::new();
    bench.control(control::TRIGGER);
    assert!(bench.has(status::ERROR) && bench.handshake.actions().is_empty());
    assert_eq!((bench.error(), bench.get(Out::TriggerCount)), ("not_enabled", 0));
    bench.control(LOW);
    for (line, reason) in [
        (Line { paused: true, ..online() }, "paused"),
        (Line { online: false, ..online() }, "fault"),
        (Line { is_triggered: false, ..online() }, "not_triggered"),
    ] {
        bench.handshake.line(line, bench.now);
        assert!(!bench.has(status::READY));
        bench.control(TRIGGER);
        assert_eq!(bench.error(), reason);
        bench.control(LOW);
    }
    bench.handshake.line(online(), bench.now);
    bench.handshake.write(PLC, PART_ID, &[0x4107], bench.now).unwrap();
    bench.control(TRIGGER);
    assert_eq!(bench.error(), "bad_text");
    bench.control(LOW);
    bench.name("P1");
    // What the station refuses has no result.
    bench.control(TRIGGER);
    let (number, _) = bench.asked();
    bench.handshake.taken(number, Err(Error::Full), bench.now);
    assert_eq!(
        (bench.error(), bench.has(status::TRIGGER_ACK), bench.has(status::BUSY)),
        ("full", false, false)
    );
    bench.control(LOW);
    bench.inspect("P2");
    assert!(!bench.has(status::ERROR), "a trigger that is taken clears it");
}

#[test]
fn an_acknowledgement_never_stands_for_another_trigger() {
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.name("P1");
    bench.control(TRIGGER);
    let (number, id) = bench.asked();
    bench.control(LOW);
    bench.name("P2");
    bench.control(TRIGGER);
    assert_eq!((bench.error(), bench.get(Out::TriggerCount)), ("not_ready", 1));
    bench.handshake.taken(number, Ok(()), bench.now);
    assert!(!bench.has(status::TRIGGER_ACK), "the bit that stands is of the refused one");
    assert_eq!(bench.error(), "not_ready");
    bench.handshake.result(part_result(&id, "P1", Outcome::Pass));
    assert_eq!(bench.echo(), "P1");
    bench.control(ACK);
    bench.control(LOW);
    bench.inspect("P3");
    assert_eq!(bench.echo(), "P3");
}

#[test]
fn a_result_that_is_quicker_than_its_acceptance_waits_for_it() {
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.name("P1");
    bench.control(TRIGGER);
    let (number, id) = bench.asked();
    bench.handshake.result(part_result(&id, "P1", Outcome::Pass));
    assert!(!bench.has(status::RESULT_VALID));
    bench.handshake.taken(number, Ok(()), bench.now);
    assert!(bench.has(status::RESULT_VALID) && bench.has(status::TRIGGER_ACK));
}

#[test]
fn a_plc_that_never_acknowledges_sees_the_overrun_and_its_first_result() {
    let mut bench = Bench::new();
    bench.control(LOW);
    for n in 1..=13 {
        bench.inspect(&format!("P{n}"));
    }
    assert!(bench.has(status::OVERRUN));
    assert_eq!((bench.echo().as_str(), bench.get(Out::Dropped), bench.get(Out::BuffersFree)), ("P1", 3, 0));
    for n in 1..=10 {
        assert_eq!((bench.echo(), bench.get(Out::ResultCount)), (format!("P{n}"), n));
        bench.control(ACK);
        bench.control(LOW);
    }
    assert!(!bench.has(status::RESULT_VALID));
    bench.inspect("P14");
    assert_eq!((bench.echo().as_str(), bench.get(Out::ResultCount)), ("P14", 14), "the gap is seen");
    bench.inspect("P15");
    let late = bench.trigger("P16");
    bench.control(RESET);
    assert!(bench.has(status::RESET_ACK) && !bench.has(status::OVERRUN) && !bench.has(status::RESULT_VALID));
    assert_eq!((bench.get(Out::Discarded), bench.get(Out::Dropped)), (3, 0));
    bench.handshake.result(part_result(&late, "P16", Outcome::Pass));
    assert!(!bench.has(status::RESULT_VALID), "a part of before the reset");
    bench.control(LOW);
    assert!(!bench.has(status::RESET_ACK));
}

#[test]
fn a_part_without_a_result_is_a_review_after_its_deadline() {
    let mut bench = Bench::new();
    bench.control(LOW);
    let id = bench.trigger("P1");
    bench.pass_time(DEADLINE);
    assert!(bench.has(status::BUSY) && !bench.has(status::RESULT_VALID));
    bench.pass_time(GRACE);
    assert!(bench.has(status::REVIEW) && bench.echo() == "P1");
    assert_eq!(bench.get(Out::Reason), u32::from(codes::reason(Some("deadline"))));
    let at = Out::InspectionId.register().address as usize;
    assert_eq!(bench.handshake.image(bench.now).0[at..at + 13], [0; 13]);
    bench.handshake.result(part_result(&id, "P1", Outcome::Pass));
    bench.control(ACK);
    bench.control(LOW);
    assert!(!bench.has(status::RESULT_VALID), "it has had its result");
}

#[test]
fn a_recipe_is_changed_by_its_number() {
    let mut bench = Bench::new();
    bench.control(control::RECIPE_CHANGE);
    assert!(bench.has(status::COMMAND_FAILED) && bench.error() == "not_enabled");
    bench.control(LOW);
    bench.handshake.write(PLC, RECIPE_WANTED, &[9], bench.now).unwrap();
    bench.control(CHANGE);
    assert!(bench.has(status::COMMAND_FAILED) && bench.error() == "unknown_recipe");
    bench.control(LOW);
    assert!(!bench.has(status::COMMAND_FAILED));
    bench.handshake.write(PLC, RECIPE_WANTED, &[2], bench.now).unwrap();
    bench.control(CHANGE);
    assert!(!bench.has(status::READY), "no part between two recipes");
    let recipe = Action::Recipe { number: 1, pipeline: "photo".into() };
    assert_eq!(bench.handshake.actions(), [recipe]);
    bench.handshake.line(Line { pipeline: "photo".into(), ..online() }, bench.now);
    bench.handshake.changed(1, Ok(()));
    assert!(bench.has(status::COMMAND_ACK) && !bench.has(status::ERROR));
    assert_eq!(bench.get(Out::Recipe), 2);
    bench.control(LOW);
    assert!(!bench.has(status::COMMAND_ACK) && bench.has(status::READY));
    // A second one before the first is decided gets none of its outcome.
    bench.control(CHANGE);
    bench.control(LOW);
    bench.control(CHANGE);
    bench.handshake.changed(2, Ok(()));
    assert!(bench.has(status::COMMAND_FAILED) && !bench.has(status::COMMAND_ACK));
    bench.control(LOW);
    bench.handshake.actions();
    bench.control(CHANGE);
    bench.handshake.changed(3, Err(Error::RecipeRefused));
    assert!(bench.has(status::COMMAND_FAILED) && bench.error() == "recipe_refused");
}

#[test]
fn one_client_commands_until_it_lets_go_or_leaves() {
    const OTHER: Client = 8;
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.inspect("P1");
    assert_eq!(bench.handshake.write(OTHER, CONTROL, &[LOW], bench.now), Err(Busy));
    assert_eq!(bench.handshake.write(OTHER, PART_ID, &[1], bench.now), Err(Busy));
    bench.control(0);
    bench.handshake.write(OTHER, CONTROL, &[LOW], bench.now).unwrap();
    assert_eq!(bench.handshake.write(PLC, CONTROL, &[LOW], bench.now), Err(Busy));
    bench.handshake.client_left(PLC, bench.now);
    assert!(bench.has(status::ENABLED), "it did not command");
    bench.handshake.client_left(OTHER, bench.now);
    assert!(!bench.has(status::ENABLED) && !bench.has(status::READY));
    // User data alone take no command.
    bench.name("P9");
    assert!(!bench.has(status::ENABLED));
    bench.pass_time(WATCHDOG);
    assert_eq!(bench.handshake.inputs()[CONTROL], 0);
    assert!(bench.has(status::RESULT_VALID), "its results are kept");
    bench.control(TRIGGER);
    assert_eq!(bench.asked().0, 2, "the bit had fallen");
}

#[test]
fn a_client_that_comes_back_at_once_triggers_nothing_twice() {
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.name("P1");
    bench.control(TRIGGER);
    let (number, _) = bench.asked();
    bench.handshake.client_left(PLC, bench.now);
    bench.handshake.taken(number, Ok(()), bench.now);
    bench.pass_time(WATCHDOG / 2);
    bench.handshake.write(8, CONTROL, &[TRIGGER], bench.now).unwrap();
    assert!(bench.handshake.actions().is_empty() && bench.has(status::TRIGGER_ACK));
    bench.pass_time(WATCHDOG);
    assert!(bench.has(status::ENABLED), "the watchdog has nobody to wait for");
}

#[test]
fn results_go_with_their_client_where_the_config_says_so() {
    let mut bench = Bench::with(setup(false));
    bench.control(LOW);
    bench.inspect("P1");
    bench.trigger("P2");
    bench.handshake.client_left(PLC, bench.now);
    bench.pass_time(WATCHDOG);
    assert!(!bench.has(status::RESULT_VALID) && !bench.has(status::BUSY));
    assert_eq!(bench.get(Out::Discarded), 2);
}

#[test]
fn a_camera_that_nobody_triggers_shows_what_it_inspects_while_somebody_listens() {
    let mut bench = Bench::new();
    bench.handshake.line(Line { is_triggered: false, ..online() }, bench.now);
    bench.handshake.result(part_result("x", "F1", Outcome::Pass));
    bench.control(LOW);
    assert!(!bench.has(status::RESULT_VALID), "nobody had listened");
    bench.handshake.result(part_result("x", "F2", Outcome::Pass));
    assert!(bench.has(status::PASS) && bench.echo() == "F2" && bench.get(Out::ResultTrigger) == 0);
    // A triggered camera shows the results of its own PLC only.
    let mut bench = Bench::new();
    bench.control(LOW);
    bench.handshake.result(part_result("mqtt-1", "M1", Outcome::Pass));
    assert!(!bench.has(status::RESULT_VALID));
}

/// What a PLC, the station and the network do.
#[derive(Clone, Debug)]
enum Event {
    Control(u16),
    PartId(u8),
    /// The outcome of the oldest command.
    Outcome(bool),
    /// A result of one of the triggers, in any order.
    Result(usize, u8),
    Foreign,
    Line(bool, bool),
    Time(u64),
    Leaves,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        // Bits that change one by one are what a program does; any word is what a fault does.
        6 => (0u16..5).prop_map(|bit| Event::Control(1 << bit)),
        2 => (0u16..32).prop_map(|word| Event::Control(word | 0x100)),
        3 => any::<u8>().prop_map(Event::PartId),
        6 => prop::bool::weighted(0.8).prop_map(Event::Outcome),
        6 => (any::<usize>(), 0u8..3).prop_map(|(at, outcome)| Event::Result(at, outcome)),
        1 => Just(Event::Foreign),
        1 => (prop::bool::weighted(0.8), prop::bool::weighted(0.1)).prop_map(|(on, off)| Event::Line(on, off)),
        2 => (0u64..4000).prop_map(Event::Time),
        1 => Just(Event::Leaves),
    ]
}

/// What a trigger was asked for.
struct Asked {
    correlation_id: String,
    part_id: Vec<u16>,
}

/// A PLC that does anything, and what it must see all the same.
struct Chaos {
    bench: Bench,
    client: Client,
    asked: HashMap<u32, Asked>,
    open: VecDeque<Action>,
    accepted: Vec<u32>,
    before: Image,
}

impl Chaos {
    fn new() -> Self {
        let mut bench = Bench::new();
        bench.control(LOW);
        let before = bench.handshake.image(bench.now);
        let (asked, open, accepted) = (HashMap::new(), VecDeque::new(), vec![]);
        Self { bench, client: PLC, asked, open, accepted, before }
    }

    /// True when the event may take the shown result away.
    fn happens(&mut self, event: Event) -> bool {
        let Bench { handshake, now } = &mut self.bench;
        let control = handshake.inputs()[CONTROL];
        match event {
            Event::Control(word) => {
                let word = if word & 0x100 != 0 { word & 0xff } else { control ^ word };
                handshake.write(self.client, CONTROL, &[word], *now).unwrap();
                for action in handshake.actions() {
                    if let Action::Trigger { number, correlation_id, .. } = &action {
                        let part_id = handshake.inputs()[PART_ID..LOT].to_vec();
                        let asked = Asked { correlation_id: correlation_id.clone(), part_id };
                        assert!(self.asked.insert(*number, asked).is_none(), "each number once");
                    }
                    self.open.push_back(action);
                }
                return word & (control::RESULT_ACK | control::RESET) & !control != 0;
            }
            Event::PartId(n) => {
                let words = words_of(&format!("P{n}"), PART_WORDS);
                handshake.write(self.client, PART_ID, &words, *now).unwrap();
            }
            Event::Outcome(is_ok) => match self.open.pop_front() {
                Some(Action::Trigger { number, .. }) => {
                    self.accepted.extend(is_ok.then_some(number));
                    handshake.taken(number, if is_ok { Ok(()) } else { Err(Error::NotStored) }, *now);
                }
                Some(Action::Recipe { number, .. }) => handshake.changed(number, Ok(())),
                None => {}
            },
            Event::Result(at, outcome) => {
                if let Some(number) =
                    (!self.accepted.is_empty()).then(|| self.accepted[at % self.accepted.len()])
                {
                    let asked = &self.asked[&number];
                    let part_id = text_of(&asked.part_id).unwrap();
                    let outcome = Outcome::ALL[outcome as usize];
                    handshake.result(part_result(&asked.correlation_id, &part_id, outcome));
                }
            }
            Event::Foreign => handshake.result(part_result("another door", "P0", Outcome::Pass)),
            Event::Line(online, paused) => {
                handshake.line(Line { online, paused, ..super::tests::online() }, *now);
            }
            Event::Time(ms) => {
                *now += Duration::from_millis(ms);
                handshake.tick(*now);
            }
            Event::Leaves => {
                handshake.client_left(self.client, *now);
                self.client += 1;
            }
        }
        false
    }

    fn check(&mut self, may_take_away: bool) {
        let image = self.bench.handshake.image(self.bench.now);
        let result_at = Out::ResultTrigger.register().address as usize;
        let result = &image.0[result_at..];
        let is_valid = |image: &Image| image.get(Out::Status) as u16 & status::RESULT_VALID != 0;
        let verdicts = image.get(Out::Status) as u16 & (status::PASS | status::FAIL | status::REVIEW);
        for word in [Out::TriggerCount, Out::ResultCountLong, Out::Heartbeat] {
            assert!(image.get(word) >= self.before.get(word), "{word:?} went back");
        }
        if is_valid(&image) {
            let number = image.get(Out::ResultTrigger);
            let asked = self.asked.get(&number).expect("a trigger of this PLC");
            let echo = Out::PartIdEcho.register().address as usize;
            assert_eq!(image.0[echo..echo + PART_WORDS], asked.part_id, "another part's result");
            let id = Out::InspectionId.register().address as usize;
            let id = text_of(&image.0[id..id + 13]).unwrap();
            assert!(id.is_empty() || id == asked.correlation_id.trim(), "{id}");
            assert_eq!(verdicts.count_ones(), 1);
            assert_eq!(verdicts >> 5, 1 << (image.get(Out::Verdict) - 1));
            assert!(verdicts != status::PASS || !id.is_empty(), "a pass that nobody has inspected");
        } else {
            assert!(result.iter().all(|word| *word == 0) && verdicts == 0, "an old result is shown");
        }
        if is_valid(&self.before) && !may_take_away {
            assert_eq!(result, &self.before.0[result_at..], "a result has changed while it was valid");
        }
        self.before = image;
    }
}

proptest! {
    #[test]
    fn no_plc_ever_sees_another_parts_result(events in prop::collection::vec(event(), 1..300)) {
        let mut chaos = Chaos::new();
        for event in events {
            let may_take_away = chaos.happens(event);
            chaos.check(may_take_away);
        }
    }
}
