//! The connection and its window on the outbox, as a machine without clock, network or disk:
//! events go in, actions come out, `mod.rs` carries them out.
//!
//! ```text
//!          Due                Connected              outbox read to its end, all acknowledged
//! Offline -----> Connecting ------------> CatchingUp ----------------------------> Live
//!    ^               |                     |  ^  ^ '------- publish refused -------'|
//!    |---- Lost -----'<------- Lost -------'  |  '--.                               |
//!    '<--------------------------- Lost ------|-----|-------------------------------'
//!                                             |  HoldOver: again from the lowest
//!                                             '-- refused: hold, send none of that kind
//! any --Stop--> Stopping --all acknowledged--> Stopped
//! ```
//!
//! What is owed comes in kinds (results, verdicts of parts, reviews), each a lane of its own ([`lane`]): its own
//! order, its own pauses, its own suspect, so that no kind holds up another. In flight is one queue in the
//! order of publishing; its front is the oldest message that is not acknowledged. Packet ids come back from
//! the client in that same order.
//!
//! ```text
//! results: fetched 8 9 --.
//! parts:   fetched 4   --+--in turn--> in flight: r5(pkid 3) p3(pkid 4, acked) r6 r7(not yet sent)
//! reviews: fetched     --'
//! ```
//!
//! After a failure a connection begins with one message in flight at a time, until an owed one is
//! acknowledged: some brokers (mosquitto 2.0.11 is one) refuse a message and then close, and what
//! else is on its way to a closed socket destroys the answer that says why.
//!
//! Invariants:
//! - Of each kind messages are published in the order of the outbox, none left out but a suspect, on every
//!   connection anew from the lowest entry.
//! - The queue in flight, acknowledged ones behind its front included, is never longer than the
//!   window: so packet ids, which cycle through more numbers than that, never collide.
//! - An entry leaves the outbox only on a PUBACK that says success (or as a dead letter).

mod lane;

use crate::store::outbox::Kind;
use lane::{Lane, Suspect};
use std::collections::{BTreeSet, VecDeque};

/// Messages that are not owed: the newest state of something, retained by the broker, or a picture. Only the
/// newest payload matters, so many changes of one thing take one place. Ordered by importance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Status,
    /// `camera/…`, `alarm/…`: the whole topic.
    Topic(String),
    Last,
    /// A small picture, not retained: the whole topic.
    Image(String),
}

/// An owed message: its kind, and its place in the outbox's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub place: u64,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.kind.as_str(), self.place)
    }
}

/// One message that needs an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Side(Side),
    Owed(Entry),
}

/// What a PUBACK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// Refused for now: not authorised, quota, unspecified. Sent again after a pause.
    Later,
    /// The broker calls it invalid: topic or payload.
    Never,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is time to connect.
    Due,
    /// The broker accepted us; at most `window` messages may be in flight.
    Connected {
        window: usize,
    },
    /// The connection failed, broke, or made no progress for too long.
    Lost,
    /// Something new of this kind is in the store.
    Committed(Kind),
    /// Dead letters are owed again, below what was read.
    Retried,
    /// Answer to [`Action::Fetch`]: entries that can be published, where to go on, and whether the
    /// outbox ended there.
    Fetched {
        kind: Kind,
        places: Vec<u64>,
        next: u64,
        end: bool,
    },
    /// A message that is not owed has a new payload.
    Changed(Side),
    /// This one is too long for the connection and was not published.
    Skipped(Side),
    /// The client gave the next message its packet id and wrote it to the network.
    Sent {
        pkid: u16,
    },
    Acked {
        pkid: u16,
        outcome: Outcome,
    },
    /// The pause of this kind is over.
    HoldOver(Kind),
    /// Say goodbye.
    Stop,
}

/// Why a kind pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The broker answers that it does not take it.
    Refused,
    /// The connection was lost again and again while one was alone in flight.
    Dropped,
}

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a fresh client and connect.
    Connect,
    /// Drop the client.
    Close,
    /// Send DISCONNECT, then drop the client.
    Leave,
    /// `Due` after the backoff of this many failures in a row.
    RetryAfter {
        failures: u32,
    },
    /// `HoldOver` after the backoff of this many refusals or losses in a row.
    HoldFor {
        kind: Kind,
        times: u32,
        why: Hold,
    },
    /// Read up to `count` entries of a kind from `from` on.
    Fetch {
        kind: Kind,
        from: u64,
        count: usize,
    },
    Publish(What),
    /// Acknowledged: remove the entry.
    Remove(Entry),
    /// The broker calls it invalid and takes others: move the entry to the dead letters.
    DeadLetter(Entry),
    /// Every connection is dropped on it while others pass: the same.
    Poison(Entry),
    /// The broker refused a message that is not owed; it is sent again when it changes.
    SideRefused(Side),
}

#[derive(Clone, Debug)]
struct Flight {
    what: What,
    pkid: Option<u16>,
    acked: bool,
}

/// What one connection leaves to the next.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// Connection failures in a row; 0 as soon as something owed was acknowledged.
    failures: u32,
    /// By kind.
    suspects: [Option<Suspect>; Kind::ALL.len()],
}

/// One connection.
#[derive(Clone, Debug)]
struct Session {
    window: usize,
    /// While it is not 0, one message at a time.
    failures: u32,
    in_flight: VecDeque<Flight>,
    dirty: BTreeSet<Side>,
    /// By kind.
    lanes: [Lane; Kind::ALL.len()],
    /// The lane whose turn it is.
    turn: usize,
    /// A result was published on this connection since `last` was; at its beginning the driver asks
    /// for `last` in any case, because the former connection may have ended between the two.
    last_is_stale: bool,
}

#[derive(Clone, Debug)]
enum State {
    Offline(Past),
    Connecting(Past),
    CatchingUp(Session),
    Live(Session),
    Stopping(Session),
    Stopped,
}

/// The state in a word, for health and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not connected; the next attempt waits for its time.
    Offline,
    /// An attempt is under way.
    Connecting,
    /// Connected, and older entries of the outbox are still owed.
    CatchingUp,
    /// Connected, and all that was owed is acknowledged.
    Live,
    /// Waits for the last acknowledgements.
    Stopping,
    /// Nothing is sent any more.
    Stopped,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: State::Offline(Past::default()) }
    }
}

impl Machine {
    /// The state in a word.
    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::Offline(_) => Phase::Offline,
            State::Connecting(_) => Phase::Connecting,
            State::CatchingUp(_) => Phase::CatchingUp,
            State::Live(_) => Phase::Live,
            State::Stopping(_) => Phase::Stopping,
            State::Stopped => Phase::Stopped,
        }
    }

    /// Messages that are published and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        match &self.state {
            State::CatchingUp(s) | State::Live(s) | State::Stopping(s) => {
                s.in_flight.iter().filter(|f| !f.acked).count()
            }
            State::Offline(_) | State::Connecting(_) | State::Stopped => 0,
        }
    }

    /// Takes in one event. Events that have no meaning in the present state change nothing.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Offline(past) => offline(past, &event, &mut actions),
            State::Connecting(past) => connecting(past, &event, &mut actions),
            State::CatchingUp(session) => connected(session, false, event, &mut actions),
            State::Live(session) => connected(session, true, event, &mut actions),
            State::Stopping(session) => stopping(session, event, &mut actions),
            State::Stopped => State::Stopped,
        };
        actions
    }
}

fn offline(past: Past, event: &Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Due => {
            actions.push(Action::Connect);
            State::Connecting(past)
        }
        Event::Stop => State::Stopped,
        // Somebody says that what was given up is to be tried: what is suspected, too, and at once.
        Event::Retried => State::Offline(Past::default()),
        _ => State::Offline(past),
    }
}

fn connecting(past: Past, event: &Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Connected { window } => {
            let mut session = Session::new(*window, past, actions);
            session.pump(actions);
            session.rest(false)
        }
        Event::Lost => lose(past, actions),
        Event::Stop => {
            actions.push(Action::Close);
            State::Stopped
        }
        Event::Retried => State::Connecting(Past::default()),
        _ => State::Connecting(past),
    }
}

fn connected(mut session: Session, live: bool, event: Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Lost => return session.lost(actions),
        Event::Stop => {
            session.lanes.iter_mut().for_each(Lane::stop);
            session.dirty.insert(Side::Status);
            session.publish_sides(actions);
            return session.leave_when_done(actions);
        }
        Event::Committed(kind) => session.lane(kind).committed(),
        Event::Retried => session.lanes.iter_mut().for_each(Lane::retry),
        Event::Fetched { kind, places, next, end } => session.lane(kind).take_fetched(places, next, end),
        Event::Changed(side) => {
            session.dirty.insert(side);
        }
        Event::Skipped(side) => session.skipped(&side),
        Event::Sent { pkid } => {
            if !session.sent(pkid) {
                return lose(session.past(None), actions);
            }
        }
        Event::Acked { pkid, outcome } => session.acked(pkid, outcome, actions),
        Event::HoldOver(kind) => session.lane(kind).held = false,
        Event::Due | Event::Connected { .. } => {}
    }
    session.pump(actions);
    session.rest(live)
}

fn stopping(mut session: Session, event: Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Lost => {
            actions.push(Action::Close);
            return State::Stopped;
        }
        Event::Sent { pkid } => {
            session.sent(pkid);
        }
        Event::Acked { pkid, outcome } => session.acked(pkid, outcome, actions),
        Event::Changed(side) => {
            session.dirty.insert(side);
        }
        Event::Skipped(side) => session.skipped(&side),
        Event::Due
        | Event::Connected { .. }
        | Event::Committed(_)
        | Event::Retried
        | Event::Fetched { .. }
        | Event::HoldOver(_)
        | Event::Stop => {}
    }
    session.publish_sides(actions);
    session.leave_when_done(actions)
}

fn lose(past: Past, actions: &mut Vec<Action>) -> State {
    let failures = past.failures.saturating_add(1);
    actions.extend([Action::Close, Action::RetryAfter { failures }]);
    State::Offline(Past { failures, ..past })
}

impl Session {
    fn new(window: usize, past: Past, actions: &mut Vec<Action>) -> Self {
        let lanes = Kind::ALL.map(|kind| Lane::new(kind, past.suspects[kind as usize], actions));
        Self {
            window,
            failures: past.failures,
            in_flight: VecDeque::new(),
            dirty: [Side::Status].into(),
            lanes,
            turn: 0,
            last_is_stale: false,
        }
    }

    const fn lane(&mut self, kind: Kind) -> &mut Lane {
        &mut self.lanes[kind as usize]
    }

    /// What the next connection must know; `alone`: this one was alone in flight when this one was lost.
    fn past(&self, alone: Option<Entry>) -> Past {
        let suspect = |kind: Kind| {
            let lost = alone.filter(|owed| owed.kind == kind).map(|owed| owed.place);
            self.lanes[kind as usize].after_loss(lost)
        };
        Past { failures: self.failures, suspects: Kind::ALL.map(suspect) }
    }

    /// The end of the connection; what was alone in flight may be its cause.
    fn lost(self, actions: &mut Vec<Action>) -> State {
        let mut waiting = self.in_flight.iter().filter(|f| !f.acked).map(|f| &f.what);
        let alone = match (waiting.next(), waiting.next()) {
            (Some(What::Owed(owed)), None) => Some(*owed),
            _ => None,
        };
        lose(self.past(alone), actions)
    }

    /// The client hands out packet ids in the order in which we published. False: we published
    /// nothing that lacks an id, so client and machine no longer agree.
    fn sent(&mut self, pkid: u16) -> bool {
        match self.in_flight.iter_mut().find(|f| f.pkid.is_none()) {
            Some(flight) => {
                flight.pkid = Some(pkid);
                true
            }
            None => false,
        }
    }

    /// The client never saw it, so that no packet id will come for it.
    fn skipped(&mut self, side: &Side) {
        let is_it = |f: &Flight| f.pkid.is_none() && matches!(&f.what, What::Side(s) if s == side);
        if let Some(at) = self.in_flight.iter().rposition(is_it) {
            self.in_flight.remove(at);
        }
        self.forget_answered();
    }

    fn acked(&mut self, pkid: u16, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(flight) = self.in_flight.iter_mut().find(|f| f.pkid == Some(pkid) && !f.acked) else {
            return;
        };
        flight.acked = true;
        match (flight.what.clone(), outcome) {
            (What::Owed(owed), Outcome::Success) => {
                self.failures = 0;
                self.lane(owed.kind).acknowledged(owed.place, actions);
            }
            (What::Owed(owed), Outcome::Never) => self.lane(owed.kind).invalid(owed.place, actions),
            (What::Owed(owed), Outcome::Later) => self.lane(owed.kind).refused(actions),
            (What::Side(_), Outcome::Success) => {}
            (What::Side(side), Outcome::Later | Outcome::Never) => actions.push(Action::SideRefused(side)),
        }
        self.forget_answered();
    }

    fn forget_answered(&mut self) {
        while self.in_flight.front().is_some_and(|f| f.acked) {
            self.in_flight.pop_front();
        }
    }

    fn is_in_flight(&self, kind: Kind) -> bool {
        self.in_flight.iter().any(|f| !f.acked && matches!(f.what, What::Owed(owed) if owed.kind == kind))
    }

    fn has_room(&self) -> bool {
        let one_at_a_time = self.failures > 0 || self.lanes.iter().any(Lane::is_on_trial);
        self.in_flight.len() < if one_at_a_time { 1 } else { self.window }
    }

    fn publish(&mut self, what: What, actions: &mut Vec<Action>) {
        actions.push(Action::Publish(what.clone()));
        self.in_flight.push_back(Flight { what, pkid: None, acked: false });
    }

    fn publish_sides(&mut self, actions: &mut Vec<Action>) {
        while self.has_room() {
            let Some(side) = self.dirty.pop_first() else { break };
            self.publish(What::Side(side), actions);
        }
    }

    /// The next owed message: of a lane on trial first, else of each lane in turn.
    fn next_owed(&mut self) -> Option<Entry> {
        let ready = |lane: &Lane| lane.is_free() && !lane.fetched.is_empty();
        let in_turn = (0..self.lanes.len()).map(|i| (self.turn + i) % self.lanes.len());
        let (trial, others): (Vec<_>, Vec<_>) = in_turn.partition(|at| self.lanes[*at].is_on_trial());
        let at = trial.into_iter().chain(others).find(|at| ready(&self.lanes[*at]))?;
        self.turn = at + 1;
        let lane = &mut self.lanes[at];
        lane.fetched.pop_front().map(|place| Entry { kind: lane.kind, place })
    }

    /// Fills the window: first what is not owed (it is little and always the newest), then what is.
    fn pump(&mut self, actions: &mut Vec<Action>) {
        for kind in Kind::ALL {
            let in_flight = self.is_in_flight(kind);
            self.lane(kind).turn(in_flight);
        }
        self.publish_sides(actions);
        while self.has_room() {
            let Some(owed) = self.next_owed() else { break };
            self.last_is_stale |= owed.kind == Kind::Result;
            self.publish(What::Owed(owed), actions);
        }
        if self.has_room() {
            let count = self.window - self.in_flight.len();
            for lane in &mut self.lanes {
                if lane.is_free() && lane.more && !lane.fetching && lane.fetched.is_empty() {
                    lane.fetching = true;
                    actions.push(Action::Fetch { kind: lane.kind, from: lane.next, count });
                }
            }
        }
        let results = &self.lanes[Kind::Result as usize];
        if self.last_is_stale && results.is_free() && !results.has_more() {
            self.last_is_stale = false;
            self.dirty.insert(Side::Last);
            self.publish_sides(actions);
        }
    }

    /// Live once the outbox was read to its end and all of it acknowledged; from then on until a
    /// refusal or the end of the connection.
    fn rest(self, live: bool) -> State {
        let refused = self.lanes.iter().any(|lane| !lane.is_free() || lane.skip);
        let behind = self.lanes.iter().any(|lane| lane.has_more() || self.is_in_flight(lane.kind));
        if refused || (behind && !live) { State::CatchingUp(self) } else { State::Live(self) }
    }

    fn leave_when_done(self, actions: &mut Vec<Action>) -> State {
        if self.dirty.is_empty() && self.in_flight.is_empty() {
            actions.push(Action::Leave);
            State::Stopped
        } else {
            State::Stopping(self)
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
