use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The largest window that is tried. Packet ids cycle through one number more than the window has.
const WINDOW_MAX: usize = 7;

/// A store, a client and a broker, as simple as can be, and the checks on what the machine does.
struct World {
    machine: Machine,
    /// Entries of the outbox, and the sequence number that the next commit gets.
    outbox: BTreeSet<u64>,
    next_seq: u64,
    window: usize,
    connected: bool,
    /// Published, not yet written by the client.
    queued: VecDeque<What>,
    /// Written and not acknowledged: (packet id, message).
    written: Vec<(u16, What)>,
    last_pkid: u16,
    /// What the store answered to a read, not yet taken in.
    fetched: Option<Event>,
    holding: bool,
    retry: bool,
    /// Success acknowledgements that the broker gave, and results that it saw, in order.
    accepted: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    seen: Vec<What>,
    /// Losses with this result alone on its way.
    blamed: BTreeMap<u64, u32>,
}

impl World {
    fn new(window: usize) -> Self {
        Self {
            machine: Machine::default(),
            outbox: BTreeSet::new(),
            next_seq: 1,
            window,
            connected: false,
            queued: VecDeque::new(),
            written: Vec::new(),
            last_pkid: 0,
            fetched: None,
            holding: false,
            retry: true,
            accepted: BTreeSet::new(),
            dead: BTreeSet::new(),
            removed: BTreeSet::new(),
            seen: Vec::new(),
            blamed: BTreeMap::new(),
        }
    }

    fn send(&mut self, event: Event) {
        let flying: Vec<&What> = self.queued.iter().chain(self.written.iter().map(|(_, w)| w)).collect();
        if let (Event::Lost, [What::Result(seq)]) = (&event, flying.as_slice()) {
            *self.blamed.entry(*seq).or_insert(0) += 1;
        }
        for action in self.machine.handle(event) {
            self.carry_out(action);
        }
        assert!(self.queued.len() + self.written.len() <= self.window, "the window is exceeded");
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect => self.connected = true,
            Action::Close | Action::Leave => {
                assert!(action == Action::Close || (self.queued.is_empty() && self.written.is_empty()));
                self.connected = false;
                self.queued.clear();
                self.written.clear();
                self.last_pkid = 0;
                self.fetched = None;
                self.holding = false;
            }
            Action::RetryAfter { failures } => {
                assert!(failures > 0);
                self.retry = true;
            }
            Action::HoldFor { refusals } => {
                assert!(refusals > 0 && !self.holding);
                self.holding = true;
            }
            Action::Fetch { from, count } => {
                assert!(count > 0 && self.fetched.is_none(), "one read at a time");
                let seqs: Vec<u64> = self.outbox.range(from..).take(count).copied().collect();
                let next = seqs.last().map_or(from, |s| s + 1);
                let end = seqs.len() < count;
                self.fetched = Some(Event::Fetched { seqs, next, end });
            }
            Action::Publish(what) => {
                assert!(self.connected, "published without a connection");
                if let What::Result(seq) = what {
                    let on_the_way = |s: &u64| {
                        let it = What::Result(*s);
                        self.queued.contains(&it) || self.written.iter().any(|(_, w)| *w == it)
                    };
                    assert!(!self.holding, "published in a pause");
                    assert!(self.outbox.contains(&seq), "{seq} is not owed");
                    assert!(!on_the_way(&seq), "{seq} is already on the way");
                    for earlier in self.outbox.range(..seq) {
                        let suspect = self.blamed.get(earlier).is_some_and(|n| *n >= STRIKES);
                        assert!(suspect || on_the_way(earlier), "{earlier} was skipped for {seq}");
                    }
                }
                self.queued.push_back(what);
            }
            Action::Remove(seq) => {
                assert!(self.accepted.contains(&seq), "{seq} was removed and never accepted");
                assert!(self.outbox.remove(&seq));
                self.removed.insert(seq);
            }
            Action::DeadLetter(seq) => {
                assert!(self.dead.contains(&seq));
                assert!(self.outbox.remove(&seq));
            }
            Action::Poison(seq) => {
                assert!(self.blamed[&seq] >= STRIKES + CONVICTIONS - 1, "{seq} is given up too soon");
                assert!(self.outbox.remove(&seq));
                self.dead.insert(seq);
            }
            Action::RemoveOwed(_) | Action::SideRefused(_) => {}
        }
    }

    fn commit(&mut self) {
        self.outbox.insert(self.next_seq);
        self.next_seq += 1;
        self.send(Event::Committed);
    }

    fn answer_fetch(&mut self) {
        if let Some(answer) = self.fetched.take() {
            self.send(answer);
        }
    }

    fn write_one(&mut self) {
        if let Some(what) = self.queued.pop_front() {
            self.last_pkid = self.last_pkid % (self.window as u16 + 1) + 1;
            let pkid = self.last_pkid;
            assert!(self.written.iter().all(|(p, _)| *p != pkid), "packet id {pkid} is still in use");
            self.written.push((pkid, what.clone()));
            self.seen.push(what);
            self.send(Event::Sent { pkid });
        }
    }

    fn acknowledge(&mut self, place: usize, outcome: Outcome) {
        if self.written.is_empty() {
            return;
        }
        let (pkid, what) = self.written.remove(place % self.written.len());
        if let What::Result(seq) = what {
            match outcome {
                Outcome::Success => self.accepted.insert(seq),
                Outcome::Never => self.dead.insert(seq),
                Outcome::Later => false,
            };
        }
        self.send(Event::Acked { pkid, outcome });
    }

    fn connect(&mut self) {
        if self.retry {
            self.retry = false;
            self.send(Event::Due);
            self.send(Event::Connected { window: self.window });
            // As the driver does: the former connection may have ended just before `last`.
            if self.next_seq > 1 {
                self.send(Event::Changed(Side::Last));
            }
        }
    }

    /// From here on everything works.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.connect();
            if std::mem::take(&mut self.holding) {
                self.send(Event::HoldOver);
            }
            self.answer_fetch();
            self.write_one();
            self.acknowledge(0, Outcome::Success);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit,
    Connect,
    Lost,
    Fetch,
    Write,
    Ack(usize, Outcome),
    HoldOver,
    Changed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Commit),
        2 => Just(Step::Connect),
        1 => Just(Step::Lost),
        8 => Just(Step::Fetch),
        8 => Just(Step::Write),
        3 => Just(Step::Ack(0, Outcome::Success)),
        4 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Success)),
        1 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Later)),
        1 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Never)),
        2 => Just(Step::HoldOver),
        1 => Just(Step::Changed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The checks on every action are in `World::carry_out`.
    #[test]
    fn nothing_is_skipped_doubled_or_forgotten(
        window in 1usize..=WINDOW_MAX,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(window);
        for step in steps {
            match step {
                Step::Commit => world.commit(),
                Step::Connect => world.connect(),
                Step::Lost => world.send(Event::Lost),
                Step::Fetch => world.answer_fetch(),
                Step::Write => world.write_one(),
                Step::Ack(place, outcome) => world.acknowledge(place, outcome),
                Step::HoldOver => if std::mem::take(&mut world.holding) { world.send(Event::HoldOver) },
                Step::Changed => world.send(Event::Changed(Side::Topic("alarm/x".into()))),
            }
        }
        world.settle();
        prop_assert_eq!(&world.outbox, &BTreeSet::new());
        prop_assert_eq!(world.removed.len() + world.dead.len(), usize::try_from(world.next_seq - 1).unwrap());
        prop_assert_eq!(world.machine.phase(), Phase::Live);
        prop_assert_eq!(world.machine.unacknowledged(), 0);
        // `last` follows the last result.
        let last = world.seen.iter().rposition(|w| *w == What::Side(Side::Last));
        let result = world.seen.iter().rposition(|w| matches!(w, What::Result(_)));
        prop_assert!(result.is_none() || last > result);
    }
}

fn live(window: usize) -> World {
    let mut world = World::new(window);
    world.settle();
    assert_eq!(world.machine.phase(), Phase::Live);
    world.seen.clear();
    world
}

#[test]
fn offline_to_connecting_to_catching_up_to_live() {
    let mut world = World::new(3);
    world.commit();
    assert_eq!(world.machine.phase(), Phase::Offline);
    assert_eq!(world.machine.handle(Event::Due), [Action::Connect]);
    assert_eq!(world.machine.phase(), Phase::Connecting);
    let actions = world.machine.handle(Event::Connected { window: 3 });
    let status = Action::Publish(What::Side(Side::Status));
    assert_eq!(actions, [status, Action::Fetch { from: 0, count: 2 }], "status goes first");
    assert_eq!(world.machine.phase(), Phase::CatchingUp);
    let actions = world.machine.handle(Event::Fetched { seqs: vec![1], next: 2, end: true });
    let [result, last] = [What::Result(1), What::Side(Side::Last)].map(Action::Publish);
    assert_eq!(actions, [result, last]);
    for pkid in 1..=3 {
        world.machine.handle(Event::Sent { pkid });
    }
    assert_eq!(
        world.machine.handle(Event::Acked { pkid: 2, outcome: Outcome::Success }),
        [Action::Remove(1)]
    );
    assert_eq!(world.machine.phase(), Phase::Live);
}

#[test]
fn failures_count_up_until_a_result_is_acknowledged() {
    let mut machine = Machine::default();
    for failures in 1..4 {
        machine.handle(Event::Due);
        assert_eq!(machine.handle(Event::Lost), [Action::Close, Action::RetryAfter { failures }]);
    }
    machine.handle(Event::Due);
    machine.handle(Event::Connected { window: 2 });
    machine.handle(Event::Sent { pkid: 1 });
    machine.handle(Event::Acked { pkid: 1, outcome: Outcome::Success });
    machine.handle(Event::Fetched { seqs: vec![1], next: 2, end: true });
    machine.handle(Event::Sent { pkid: 2 });
    machine.handle(Event::Acked { pkid: 2, outcome: Outcome::Success });
    assert_eq!(machine.handle(Event::Lost), [Action::Close, Action::RetryAfter { failures: 1 }]);
}

#[test]
fn after_a_disconnect_everything_unacknowledged_goes_again_in_order() {
    let mut world = live(7);
    for _ in 0..5 {
        world.commit();
        world.answer_fetch();
        world.write_one();
        world.answer_fetch();
    }
    world.acknowledge(0, Outcome::Success);
    world.send(Event::Lost);
    world.seen.clear();
    world.settle();
    let results: Vec<&What> = world.seen.iter().filter(|w| matches!(w, What::Result(_))).collect();
    assert_eq!(results, [2, 3, 4, 5].map(What::Result).iter().collect::<Vec<_>>());
}

#[test]
fn a_refused_result_is_sent_again_after_a_pause_and_before_the_next() {
    let mut world = live(3);
    for _ in 0..2 {
        world.commit();
        world.answer_fetch();
    }
    world.write_one();
    world.acknowledge(0, Outcome::Later);
    assert_eq!(world.machine.phase(), Phase::CatchingUp);
    assert!(world.holding && world.outbox.contains(&1));
    world.commit();
    world.settle();
    assert!(world.outbox.is_empty());
    let first_again = world.seen.iter().rposition(|w| *w == What::Result(1)).unwrap();
    let third = world.seen.iter().position(|w| *w == What::Result(3)).unwrap();
    assert!(first_again < third);
}

#[test]
fn a_stop_publishes_status_waits_for_acknowledgements_and_leaves() {
    let mut world = live(3);
    world.commit();
    world.answer_fetch();
    world.write_one();
    world.send(Event::Stop);
    assert_eq!(world.machine.phase(), Phase::Stopping);
    world.commit();
    while world.machine.phase() != Phase::Stopped {
        world.write_one();
        world.acknowledge(0, Outcome::Success);
    }
    assert_eq!(world.seen, [What::Result(1), What::Side(Side::Last), What::Side(Side::Status)]);
    assert_eq!(world.outbox.iter().collect::<Vec<_>>(), [&2], "kept for the next start");

    let mut machine = Machine::default();
    machine.handle(Event::Stop);
    assert_eq!(machine.phase(), Phase::Stopped);
    let mut machine = Machine::default();
    machine.handle(Event::Due);
    assert_eq!(machine.handle(Event::Stop), [Action::Close]);
}

#[test]
fn after_a_failure_one_message_at_a_time_until_a_result_is_acknowledged() {
    let mut world = World::new(5);
    for _ in 0..4 {
        world.commit();
    }
    world.connect();
    world.send(Event::Lost);
    world.connect();
    let flying = |world: &World| world.queued.len() + world.written.len();
    for what in [What::Side(Side::Status), What::Side(Side::Last), What::Result(1)] {
        world.answer_fetch();
        assert_eq!((flying(&world), world.queued.front()), (1, Some(&what)));
        world.write_one();
        world.acknowledge(0, Outcome::Success);
        world.answer_fetch();
    }
    assert!(flying(&world) > 1, "the window is open");
}

#[test]
fn a_packet_id_for_nothing_ends_the_connection() {
    let mut world = live(3);
    let actions = world.machine.handle(Event::Sent { pkid: 9 });
    assert_eq!(actions, [Action::Close, Action::RetryAfter { failures: 1 }]);
}

/// Works until nothing is left, with a broker that drops the connection on some results.
fn run_against(world: &mut World, drops: impl Fn(u64) -> bool, rounds: usize) {
    for _ in 0..rounds {
        world.connect();
        world.answer_fetch();
        world.write_one();
        match world.written.first() {
            Some((_, What::Result(seq))) if drops(*seq) => world.send(Event::Lost),
            _ => world.acknowledge(0, Outcome::Success),
        }
    }
}

#[test]
fn a_result_on_which_every_connection_drops_becomes_a_dead_letter_and_holds_up_nothing() {
    let mut world = World::new(5);
    (0..8).for_each(|_| world.commit());
    run_against(&mut world, |seq| seq == 3, 200);
    assert_eq!(world.dead.iter().collect::<Vec<_>>(), [&3]);
    assert!(world.outbox.is_empty(), "{:?}", world.outbox);
    assert_eq!(world.machine.phase(), Phase::Live);
}

#[test]
fn an_outage_and_a_result_that_is_alone_convict_nothing() {
    // No result passes, for however long; then all do.
    let mut world = World::new(5);
    (0..8).for_each(|_| world.commit());
    run_against(&mut world, |_| true, 500);
    world.settle();
    assert!(world.dead.is_empty() && world.outbox.is_empty());
    // Alone, it is tried again and again.
    let mut world = World::new(5);
    world.commit();
    run_against(&mut world, |_| true, 500);
    assert!(world.dead.is_empty() && world.outbox.contains(&1));
    assert!(world.blamed[&1] > 50);
    world.settle();
    assert!(world.outbox.is_empty());
}

/// A machine whose client hands out packet ids in the order of publishing.
#[derive(Default)]
struct Line {
    machine: Machine,
    published: Vec<What>,
}

impl Line {
    fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.machine.handle(event);
        let mut seen = 0;
        while let Some(action) = actions.get(seen).cloned() {
            seen += 1;
            if let Action::Publish(what) = action {
                self.published.push(what);
                let pkid = self.published.len() as u16;
                actions.extend(self.machine.handle(Event::Sent { pkid }));
            }
        }
        actions
    }

    /// The broker's word on the newest message of this kind.
    fn answer(&mut self, what: &What, outcome: Outcome) -> Vec<Action> {
        let at = self.published.iter().rposition(|p| p == what).expect("it was published");
        self.handle(Event::Acked { pkid: at as u16 + 1, outcome })
    }
}

#[test]
fn a_review_is_owed_until_it_is_acknowledged_and_a_refused_one_holds_no_result() {
    let mut line = Line::default();
    let review = What::Side(Side::Owed(Owed::Review(7)));
    let publish = Action::Publish(review.clone());
    line.handle(Event::Due);
    line.handle(Event::Connected { window: 8 });
    line.handle(Event::Fetched { seqs: vec![1], next: 2, end: true });
    assert!(line.handle(Event::Changed(Side::Owed(Owed::Review(7)))).contains(&publish));
    let refused = line.answer(&review, Outcome::Later);
    assert!(refused.contains(&Action::SideRefused(Side::Owed(Owed::Review(7)))), "{refused:?}");
    assert!(!refused.contains(&Action::RemoveOwed(Owed::Review(7))));
    assert!(line.answer(&What::Result(1), Outcome::Success).contains(&Action::Remove(1)), "results go on");
    assert!(line.handle(Event::Changed(Side::Owed(Owed::Review(7)))).contains(&publish));
    let done = line.answer(&review, Outcome::Success);
    assert!(done.contains(&Action::RemoveOwed(Owed::Review(7))), "{done:?}");
}
