use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A broker, a host and an outbox around a session, which hold it to the invariants.
struct World {
    session: Session,
    waits: bool,
    /// Entries of each kind, by place; odd places are of the device `a`, others of `b` or the node.
    owed: BTreeMap<u64, (Kind, Who)>,
    next_place: u64,
    acked: BTreeSet<u64>,
    connected: Option<u8>,
    last_bd_seq: Option<u8>,
    host_online: bool,
    host_at: i64,
    seq: Option<u8>,
    born: BTreeSet<String>,
    /// Sent since the last fence, before it, and read.
    fresh: BTreeSet<u64>,
    covered: BTreeSet<u64>,
    read: BTreeSet<u64>,
    settle: Vec<u64>,
    ever_sent: BTreeSet<u64>,
    answers: u64,
    births: u32,
    entries: u32,
}

impl World {
    fn new(waits: bool) -> Self {
        let devices = ["a".to_owned()];
        Self {
            session: Session::new(None, waits, devices),
            waits,
            owed: BTreeMap::new(),
            next_place: 1,
            acked: BTreeSet::new(),
            connected: None,
            last_bd_seq: None,
            host_online: false,
            host_at: 0,
            seq: None,
            born: BTreeSet::new(),
            fresh: BTreeSet::new(),
            covered: BTreeSet::new(),
            read: BTreeSet::new(),
            settle: Vec::new(),
            ever_sent: BTreeSet::new(),
            answers: 0,
            births: 0,
            entries: 0,
        }
    }

    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.session.handle(event) {
                if let Action::Fetch { kind, from, count } = action {
                    events.push_back(self.read(kind, from, count));
                } else {
                    self.check(action);
                }
            }
        }
    }

    fn read(&self, kind: Kind, from: u64, count: usize) -> Event {
        let waiting =
            self.owed.range(from..).filter(|(place, (k, _))| *k == kind && !self.acked.contains(place));
        let found: Vec<_> = waiting.map(|(place, (_, who))| (*place, who.clone())).collect();
        let entries: Vec<_> = found.iter().take(count).cloned().collect();
        let end = entries.len() == found.len();
        let next = entries.last().map_or(from, |(place, _)| place + 1);
        Event::Fetched { kind, entries, next, end }
    }

    fn check(&mut self, action: Action) {
        match action {
            Action::Connect { bd_seq } => {
                assert_eq!(bd_seq, self.last_bd_seq.map_or(0, |last| last.wrapping_add(1)));
                self.last_bd_seq = Some(bd_seq);
                self.connected = Some(bd_seq);
            }
            Action::Publish { seq, what } => self.published(seq, what),
            Action::Fence => {
                assert!(self.covered.is_empty() && self.seq.is_some());
                self.covered = std::mem::take(&mut self.fresh);
            }
            Action::SettleAfter(fence) => self.settle.push(fence),
            Action::Ack(places) => {
                for place in places {
                    assert!(self.read.contains(&place), "{place} was not read by the broker");
                    assert!(self.acked.insert(place), "{place} twice");
                }
            }
            Action::Die { bd_seq } => assert_eq!(Some(bd_seq), self.connected, "the will's number"),
            Action::Leave | Action::Close => self.closed(),
            Action::Subscribe | Action::RetryAfter { .. } => {}
            Action::Fetch { .. } => unreachable!("answered above"),
        }
    }

    fn closed(&mut self) {
        (self.connected, self.seq, self.host_online) = (None, None, false);
        self.born.clear();
        (self.fresh, self.covered, self.read) = Default::default();
    }

    fn published(&mut self, seq: u8, what: Out) {
        assert!(!self.waits || self.host_online, "{what:?} while the host is away");
        if let Out::NodeBirth { bd_seq } = what {
            assert_eq!((seq, Some(bd_seq)), (0, self.connected));
            self.born.clear();
            self.births += 1;
        } else {
            let last = self.seq.expect("NBIRTH is the first");
            assert_eq!(seq, last.wrapping_add(1), "{what:?}");
        }
        self.seq = Some(seq);
        match what {
            Out::DeviceBirth(device) => assert!(self.born.insert(device), "born twice"),
            Out::DeviceDeath(device) => assert!(self.born.remove(&device), "dead and not born"),
            Out::State(Who::Device(device)) => assert!(self.born.contains(&device)),
            Out::Entry { place, who, again } => {
                if let Who::Device(device) = &who {
                    assert!(self.born.contains(device), "data of {device} before its birth");
                }
                assert_eq!(self.owed[&place].1, who);
                assert!(again || !self.ever_sent.contains(&place), "{place} again as if it were new");
                self.ever_sent.insert(place);
                self.fresh.insert(place);
                self.entries += 1;
            }
            Out::NodeBirth { .. } | Out::State(Who::Node) | Out::Answer(_) => {}
        }
    }

    fn commit(&mut self, kind: Kind) {
        let place = self.next_place;
        self.next_place += 1;
        let who = match (kind, place % 3) {
            (Kind::Result, 0) => Who::Device("b".into()),
            (Kind::Result, _) => Who::Device("a".into()),
            _ => Who::Node,
        };
        self.owed.insert(place, (kind, who));
        self.tell(Event::Committed(kind));
    }

    fn fence_is_answered(&mut self) {
        if self.session.fence_out {
            let covered = std::mem::take(&mut self.covered);
            self.read.extend(covered);
            self.tell(Event::Fenced);
        }
    }

    fn host(&mut self, online: bool) {
        if self.connected.is_none() || matches!(self.session.phase(), Phase::Connecting) {
            return;
        }
        if online {
            self.host_online = true;
        }
        self.tell(Event::Host { online, at: self.host_at });
        if !online {
            self.host_online = false;
        }
    }

    fn death_is_taken(&mut self) {
        if matches!(self.session.phase(), Phase::Dying { .. }) {
            let all: Vec<u64> = self.covered.iter().chain(&self.fresh).copied().collect();
            self.read.extend(all);
            self.tell(Event::DeathTaken);
        }
    }

    fn step(&mut self, op: u8) {
        match op % 18 {
            0 => self.tell(Event::Due),
            1 => self.tell(Event::Up),
            2 => self.tell(Event::Subscribed),
            3 => {
                self.host_at += 1;
                self.host(true);
            }
            4 => self.host(false),
            5 => self.host(true),
            6 if op > 200 => self.tell(Event::Lost),
            6..=8 => self.commit(Kind::Result),
            9 => self.commit(Kind::Part),
            10 => self.commit(Kind::Review),
            11 | 12 => self.fence_is_answered(),
            13 => {
                let due = std::mem::take(&mut self.settle);
                due.into_iter().for_each(|fence| self.tell(Event::Settled(fence)));
            }
            14 => self.tell(Event::Rebirth),
            15 => {
                self.tell(Event::Changed(Who::Node));
                self.tell(Event::Changed(Who::Device("a".into())));
            }
            16 => {
                let device = if op.is_multiple_of(4) { "a" } else { "b" }.to_owned();
                self.tell(if op.is_multiple_of(8) { Event::Dead(device) } else { Event::Alive(device) });
            }
            _ => {
                self.death_is_taken();
                self.answers += 1;
                self.tell(Event::Answered { who: Who::Device("b".into()), id: self.answers });
            }
        }
    }

    /// The world stands still, and all is delivered.
    fn come_to_rest(&mut self) {
        self.tell(Event::Lost);
        self.tell(Event::Due);
        self.tell(Event::Up);
        self.tell(Event::Subscribed);
        self.host_at += 1;
        self.host(true);
        while !self.session.is_through() {
            assert!(self.session.fence_out, "nothing waits and nothing goes on");
            self.fence_is_answered();
        }
        let due = std::mem::take(&mut self.settle);
        due.into_iter().for_each(|fence| self.tell(Event::Settled(fence)));
        let owed: BTreeSet<u64> = self.owed.keys().copied().collect();
        assert_eq!(self.acked, owed, "each entry is delivered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_rules_hold_and_each_entry_is_delivered(
        waits: bool,
        ops in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut world = World::new(waits);
        ops.into_iter().for_each(|op| world.step(op));
        world.come_to_rest();
        prop_assert!(world.births > 0);
    }
}

fn born(waits: bool) -> World {
    let mut world = World::new(waits);
    for event in [Event::Due, Event::Up, Event::Subscribed] {
        world.tell(event);
    }
    world.host_at = 7;
    world.host(true);
    assert_eq!(world.session.phase(), Phase::Born);
    world
}

#[test]
fn the_sequence_goes_over_255_to_0_and_the_number_of_the_birth_does_too() {
    let mut world = born(false);
    for _ in 0..600 {
        world.commit(Kind::Result);
        world.fence_is_answered();
    }
    world.come_to_rest();
    let mut world = World::new(false);
    world.session = Session::new(Some(255), false, []);
    world.last_bd_seq = Some(255);
    world.tell(Event::Due);
    assert_eq!(world.connected, Some(0));
}

#[test]
fn nothing_is_said_until_the_host_is_online_and_an_older_word_of_it_counts_for_nothing() {
    let mut world = World::new(true);
    for event in [Event::Due, Event::Up, Event::Subscribed] {
        world.tell(event);
    }
    world.commit(Kind::Result);
    world.host_at = 5;
    world.host(false);
    assert_eq!((world.session.phase(), world.births), (Phase::Waiting, 0));
    world.host(true);
    assert_eq!((world.session.phase(), world.births), (Phase::Born, 1));
    world.tell(Event::Host { online: false, at: 4 });
    assert_eq!(world.session.phase(), Phase::Born, "an older death is of an older session");
    world.tell(Event::Host { online: false, at: 5 });
    assert_eq!(world.session.phase(), Phase::Dying { stop: false });
    world.death_is_taken();
    assert_eq!(world.session.phase(), Phase::Offline);
    assert!(world.acked.is_empty(), "who died may not have it");
    world.come_to_rest();
    assert_eq!(world.entries, 2, "it was sent again");
}

#[test]
fn an_entry_is_held_until_the_host_was_online_for_its_time() {
    let mut world = born(true);
    world.commit(Kind::Result);
    world.fence_is_answered();
    world.fence_is_answered();
    assert!(world.acked.is_empty() && !world.settle.is_empty());
    // It had died and is back before anybody said so.
    world.host_at += 1;
    world.host(true);
    assert_eq!(world.entries, 2);
    let early = std::mem::take(&mut world.settle);
    early.into_iter().for_each(|fence| world.tell(Event::Settled(fence)));
    assert!(world.acked.is_empty(), "the time counts from the newer answer");
    world.come_to_rest();
}

#[test]
fn births_that_are_asked_for_without_end_come_once_for_each_answer_of_the_broker() {
    let mut world = born(false);
    (0..100).for_each(|_| world.tell(Event::Rebirth));
    assert_eq!(world.births, 1, "the first are on their way");
    world.commit(Kind::Result);
    assert_eq!(world.entries, 0, "no data until the births");
    world.fence_is_answered();
    assert_eq!((world.births, world.entries), (2, 1));
}

#[test]
fn a_dead_device_is_born_again_when_it_has_something_to_say() {
    let mut world = born(false);
    world.tell(Event::Changed(Who::Device("a".into())));
    world.tell(Event::Dead("a".into()));
    assert!(world.born.is_empty());
    world.commit(Kind::Result);
    world.fence_is_answered();
    assert_eq!(world.born.iter().map(String::as_str).collect::<Vec<_>>(), ["a"]);
    world.come_to_rest();
}

#[test]
fn a_stop_says_goodbye_where_there_is_a_connection() {
    let mut world = born(false);
    world.commit(Kind::Result);
    world.tell(Event::Stop);
    assert_eq!(world.session.phase(), Phase::Dying { stop: true });
    world.death_is_taken();
    assert_eq!((world.session.phase(), world.acked.len()), (Phase::Stopped, 1));
    let mut world = World::new(true);
    world.tell(Event::Stop);
    assert_eq!(world.session.phase(), Phase::Stopped);
}
