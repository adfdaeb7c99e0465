//! Tests of the machine: its world, as simple as can be.

use crate::publish::mqtt::state::lane::{CONVICTIONS, STRIKES};
use crate::publish::mqtt::state::*;
use std::collections::BTreeMap;

pub(super) const fn owed(kind: Kind, place: u64) -> Entry {
    Entry { kind, place }
}

pub(super) const fn result(place: u64) -> Entry {
    owed(Kind::Result, place)
}

/// A store, a client and a broker, as simple as can be, and the checks on what the machine does.
pub(super) struct World {
    pub machine: Machine,
    /// Entries of the outbox, and the number that the next commit of each kind gets.
    pub outbox: BTreeSet<Entry>,
    pub next_seq: [u64; Kind::ALL.len()],
    pub window: usize,
    pub connected: bool,
    /// Published, not yet written by the client.
    pub queued: VecDeque<What>,
    /// Written and not acknowledged: (packet id, message).
    pub written: Vec<(u16, What)>,
    pub last_pkid: u16,
    /// What the store answered to reads, not yet taken in.
    pub fetched: VecDeque<Event>,
    pub holding: BTreeSet<Kind>,
    pub retry: bool,
    /// Success acknowledgements that the broker gave, what it called invalid, and what it saw, in order.
    pub accepted: BTreeSet<Entry>,
    pub called_invalid: BTreeSet<Entry>,
    pub dead: BTreeSet<Entry>,
    pub removed: BTreeSet<Entry>,
    pub seen: Vec<What>,
    /// Losses with this one alone on its way.
    pub blamed: BTreeMap<Entry, u32>,
    /// Entry again after they were given up.
    pub retried: BTreeSet<Entry>,
}

impl World {
    pub(super) fn new(window: usize) -> Self {
        Self {
            machine: Machine::default(),
            outbox: BTreeSet::new(),
            next_seq: [1; Kind::ALL.len()],
            window,
            connected: false,
            queued: VecDeque::new(),
            written: Vec::new(),
            last_pkid: 0,
            fetched: VecDeque::new(),
            holding: BTreeSet::new(),
            retry: true,
            accepted: BTreeSet::new(),
            called_invalid: BTreeSet::new(),
            dead: BTreeSet::new(),
            removed: BTreeSet::new(),
            seen: Vec::new(),
            blamed: BTreeMap::new(),
            retried: BTreeSet::new(),
        }
    }

    pub(super) fn send(&mut self, event: Event) {
        let flying: Vec<&What> = self.queued.iter().chain(self.written.iter().map(|(_, w)| w)).collect();
        if let (Event::Lost, [What::Owed(owed)]) = (&event, flying.as_slice()) {
            *self.blamed.entry(*owed).or_insert(0) += 1;
        }
        for action in self.machine.handle(event) {
            self.carry_out(action);
        }
        assert!(self.queued.len() + self.written.len() <= self.window, "the window is exceeded");
    }

    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect => self.connected = true,
            Action::Close | Action::Leave => {
                assert!(action == Action::Close || (self.queued.is_empty() && self.written.is_empty()));
                self.connected = false;
                self.queued.clear();
                self.written.clear();
                self.last_pkid = 0;
                self.fetched.clear();
                self.holding.clear();
            }
            Action::RetryAfter { failures } => {
                assert!(failures > 0);
                self.retry = true;
            }
            Action::HoldFor { kind, times, .. } => {
                assert!(times > 0);
                assert!(self.holding.insert(kind), "{kind:?} pauses already");
            }
            Action::Fetch { kind, from, count } => {
                let waits = |e: &Event| matches!(e, Event::Fetched { kind: k, .. } if *k == kind);
                assert!(count > 0 && !self.fetched.iter().any(waits), "one read of a kind at a time");
                let entries = self.outbox.range(owed(kind, from)..=owed(kind, u64::MAX));
                let places: Vec<u64> = entries.take(count).map(|o| o.place).collect();
                let next = places.last().map_or(from, |s| s + 1);
                let end = places.len() < count;
                self.fetched.push_back(Event::Fetched { kind, places, next, end });
            }
            Action::Publish(what) => {
                assert!(self.connected, "published without a connection");
                if let What::Owed(owed) = what {
                    self.check_order(owed);
                }
                self.queued.push_back(what);
            }
            Action::Remove(owed) => {
                assert!(self.accepted.contains(&owed), "{owed} was removed and never accepted");
                assert!(self.outbox.remove(&owed));
                self.removed.insert(owed);
            }
            Action::DeadLetter(owed) => {
                assert!(self.called_invalid.contains(&owed));
                self.bury(owed);
            }
            Action::Poison(owed) => {
                let blamed = self.blamed[&owed];
                assert!(blamed >= STRIKES + CONVICTIONS - 1, "{owed} is given up too soon");
                self.bury(owed);
            }
            Action::SideRefused(_) => {}
        }
    }

    /// Nothing is given up while no other of its kind has passed.
    pub(super) fn bury(&mut self, owed: Entry) {
        assert!(self.accepted.iter().any(|o| o.kind == owed.kind), "{owed} is given up without evidence");
        assert!(self.outbox.remove(&owed));
        self.dead.insert(owed);
    }

    pub(super) fn check_order(&self, owed: Entry) {
        let on_the_way = |o: &Entry| {
            let it = What::Owed(*o);
            self.queued.contains(&it) || self.written.iter().any(|(_, w)| *w == it)
        };
        assert!(!self.holding.contains(&owed.kind), "{owed} was published in a pause");
        assert!(self.outbox.contains(&owed), "{owed} is not owed");
        assert!(!on_the_way(&owed), "{owed} is already on the way");
        for earlier in self.outbox.range(Entry { place: 0, ..owed }..owed) {
            let suspect = self.blamed.get(earlier).is_some_and(|n| *n >= STRIKES)
                || self.called_invalid.contains(earlier)
                || self.retried.contains(earlier);
            assert!(suspect || on_the_way(earlier), "{earlier} was skipped for {owed}");
        }
    }

    pub(super) fn commit(&mut self) {
        self.commit_one(Kind::Result);
    }

    pub(super) fn commit_one(&mut self, kind: Kind) {
        self.outbox.insert(owed(kind, self.next_seq[kind as usize]));
        self.next_seq[kind as usize] += 1;
        self.send(Event::Committed(kind));
    }

    pub(super) fn answer_fetch(&mut self) {
        if let Some(answer) = self.fetched.pop_front() {
            self.send(answer);
        }
    }

    pub(super) fn write_one(&mut self) {
        if let Some(what) = self.queued.pop_front() {
            self.last_pkid = self.last_pkid % (self.window as u16 + 1) + 1;
            let pkid = self.last_pkid;
            assert!(self.written.iter().all(|(p, _)| *p != pkid), "packet id {pkid} is still in use");
            self.written.push((pkid, what.clone()));
            self.seen.push(what);
            self.send(Event::Sent { pkid });
        }
    }

    pub(super) fn acknowledge(&mut self, place: usize, outcome: Outcome) {
        if self.written.is_empty() {
            return;
        }
        let (pkid, what) = self.written.remove(place % self.written.len());
        if let What::Owed(owed) = what {
            match outcome {
                Outcome::Success => self.accepted.insert(owed),
                Outcome::Never => self.called_invalid.insert(owed),
                Outcome::Later => false,
            };
        }
        self.send(Event::Acked { pkid, outcome });
    }

    /// The newest one that waits in the client is too long for the broker.
    pub(super) fn skip(&mut self) {
        if let Some(What::Side(side @ Side::Topic(_))) = self.queued.back().cloned() {
            self.queued.pop_back();
            self.send(Event::Skipped(side));
        }
    }

    /// What was given up is owed again.
    pub(super) fn retry_dead(&mut self) {
        let dead = std::mem::take(&mut self.dead);
        self.retried.extend(&dead);
        self.outbox.extend(dead);
        self.holding.clear();
        self.send(Event::Retried);
    }

    pub(super) fn connect(&mut self) {
        if self.retry {
            self.retry = false;
            self.send(Event::Due);
            self.send(Event::Connected { window: self.window });
            // As the driver does: the former connection may have ended just before `last`.
            if self.next_seq[0] > 1 {
                self.send(Event::Changed(Side::Last));
            }
        }
    }

    pub(super) fn hold_over(&mut self) {
        while let Some(kind) = self.holding.pop_first() {
            self.send(Event::HoldOver(kind));
        }
    }

    /// From here on everything works.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.connect();
            self.hold_over();
            self.answer_fetch();
            self.write_one();
            self.acknowledge(0, Outcome::Success);
        }
    }
}
